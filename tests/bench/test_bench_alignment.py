"""The measurements measure what they say; no test asserts a time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gesta.alignment.chain import find_routes
from gesta.bench import alignment
from gesta.bench.alignment import measure_alignment, moving, paper_loop, scipy_threads
from gesta.cli import main
from gesta.errors import GestaError
from gesta.models import create_model


def test_all_ways_find_the_same_routes() -> None:
    clip = moving(6, 5, 16)
    routes = find_routes(clip, (6, 6))[0]
    assert torch.equal(paper_loop(clip[0]), routes) and torch.equal(scipy_threads(clip[0]), routes)


def test_made_features_are_as_hard_as_genuine_ones() -> None:
    """About a third of the tokens are no other token's best match (measured on Kinetics clips: 30 to 40 %)."""
    x = torch.nn.functional.normalize(moving(14, 3, alignment.WIDTH), dim=-1)
    best = (x[0, :-1] @ x[0, 1:].mT).argmax(-1)
    missed = [1 - len(set(f.tolist())) / 196 for f in best]
    assert all(0.25 < fraction < 0.5 for fraction in missed)


def test_maps_and_models(make_video: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alignment, "MAX_ENTRIES", 1)
    monkeypatch.setattr(alignment, "cpu_cores", lambda: 2)
    video = make_video("clip.mp4", frames=40)
    model = create_model("ata_timesformer_tiny", classes=3)
    found = measure_alignment([("tiny", model)], video=video, edges=(3,), frames=(2, 8), device="cpu", seconds=0.0)
    assert [(c.tokens, c.frames, c.pairs) for c in found.routes] == [(9, 2, 1), (9, 8, 3)]
    assert all(min(c.loop, c.threads, c.ours) > 0 and c.gpu is None and c.tiles is None for c in found.routes)
    assert [(p.source, p.problems) for p in found.clips] == [
        ("random features", 7),
        ("tiny, made clip", 4 * 7),
        ("tiny, clip.mp4", 4 * 7),
    ]
    for part in found.clips:
        assert 0 <= part.certified <= 1 and (part.fraction is None) == (part.source == "random features")
        assert part.fraction is None or 0 < part.fraction < 1
    assert json.loads(json.dumps(found.to_json()))["routes"][1]["pairs"] == 3
    lines = str(found).splitlines()
    assert "no GPU" in lines[0] and "extrapolated from 3 pairs" in lines[3] and "extrapolated" not in lines[2]
    assert "28 assignments a clip" in lines[5]


def test_one_model_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["bench", "align", "--model", "ata_timesformer_tiny", "--checkpoint", "runs/mine"])
    assert "--checkpoint runs/mine is measured instead of --model" in capsys.readouterr().err


def test_large_maps_are_measured_in_tiles_too() -> None:
    cell = measure_alignment(edges=(30,), frames=(2,), device="cpu", seconds=0.0).routes[0]
    assert cell.tiles is not None and cell.tiles < cell.ours


def test_what_cannot_be_measured_is_refused(tmp_path: Path) -> None:
    plain = create_model("timesformer_tiny", classes=3)
    with pytest.raises(GestaError, match="plain, made clip: this model aligns nothing"):
        measure_alignment([("plain", plain)], edges=(), device="cpu")
    (tmp_path / "broken.mp4").write_bytes(b"nothing" * 99)
    with pytest.raises(GestaError, match=r"broken\.mp4"):
        measure_alignment([("plain", plain)], video=tmp_path / "broken.mp4", edges=(), device="cpu")


def test_verb(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    measured = measure_alignment
    monkeypatch.setattr(
        alignment, "measure_alignment", lambda *a, **k: measured(*a, edges=(2,), frames=(2,), seconds=0.0, **k)
    )
    with pytest.raises(SystemExit) as stop:
        main(["bench", "align", "--model", "ata_timesformer_tiny", "--json"])
    assert stop.value.code == 0
    assert [p["source"] for p in json.loads(capsys.readouterr().out)["clips"]][
        1
    ] == "ata_timesformer_tiny, random weights, made clip"
