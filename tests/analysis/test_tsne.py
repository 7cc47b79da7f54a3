"""Which videos, which features, the error without scikit-learn; the projection itself where that is installed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from gesta.analysis.sources import extract_features, run_data
from gesta.analysis.tsne import (
    ModelProjection,
    Projection,
    choose_videos,
    draw_tsne,
    measure_tsne,
    same_class_neighbours,
)
from gesta.checkpoint import save_model
from gesta.cli import main
from gesta.config import to_json
from gesta.data.batch import Failure
from gesta.data.lists import Folder
from gesta.errors import GestaError
from gesta.model import ClipSpec, to_clips
from gesta.models import create_model, model_config
from gesta.recipe import Recipe


@pytest.fixture
def data(make_video: Callable[..., Path], tmp_path: Path) -> Folder:
    """Three videos of each of three classes, one of them broken."""
    for k, name in enumerate(("a", "b", "c")):
        for i in range(3):
            make_video(f"videos/test/{name}/{i}.mp4", frames=12, shade=60 * k + 5 * i)
            make_video(f"videos/train/{name}/{i}.mp4", frames=2)
    (tmp_path / "videos/test/c/1.mp4").write_bytes(b"broken")
    return Folder(root=str(tmp_path / "videos"))


def small(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    clip = ClipSpec(frames=4, stride=2, size=32)
    return create_model("timesformer_tiny", classes=3, depth=2, clip=clip)


def test_the_videos_of_some_classes_out_of_a_random_draw(data: Folder) -> None:
    records, labels, names = choose_videos(data, "test", ["c", "a"])
    assert names == ["c", "a"] and labels == [1, 1, 1, 0, 0, 0]  # in the data set's order
    assert [Path(record.path).parent.name for record in records] == ["a"] * 3 + ["c"] * 3
    few = choose_videos(data, "test", max_videos=5)[0]
    assert len(few) == 5 and [r.name for r in few] == [r.name for r in choose_videos(data, "test", max_videos=5)[0]]
    assert {r.name for r in choose_videos(data, "test", max_videos=5, seed=1)[0]} != {r.name for r in few}
    for options, message in (
        ({"classes": ["d"]}, "no class 'd'"),
        ({"classes": ["a"]}, "3 of 9 labelled videos"),
        ({"space": "verb"}, "no label space 'verb'"),
    ):
        with pytest.raises(GestaError, match=message):
            choose_videos(data, "test", **options)  # type: ignore[arg-type]


def test_features_are_what_the_classifier_gets(data: Folder) -> None:
    model = small()
    records, *_ = choose_videos(data, "test")
    found, failures = extract_features(
        model, records, lambda clips: {"x": model.embed(clips)}, device="cpu", batch_size=4
    )  # type: ignore[arg-type]
    assert sorted(found) == [0, 1, 2, 3, 4, 5, 6, 8] and [failure.index for failure in failures] == [7]
    from gesta.data.samples import TestViews
    from gesta.recipe import EvaluateConfig

    spec = model.config.clip  # type: ignore[union-attr]
    sample = TestViews(records, spec, EvaluateConfig(clips=1, crops=1))[8]
    with torch.no_grad():
        clips = to_clips(sample["video"][None], spec)  # type: ignore[call-overload,index]
        torch.testing.assert_close(torch.from_numpy(found[8]["x"]), model.embed(clips)[0])  # type: ignore[operator]


def test_neighbours_of_the_same_class() -> None:
    matrix = np.array([[0.0, 0], [0, 1], [5, 5], [5, 6], [0, 3]], dtype=np.float32)
    assert same_class_neighbours(matrix + 1e3, np.array([0, 0, 1, 1, 1])) == 80  # the last is nearest to class 0


def test_a_panel_per_model_and_a_star_per_video() -> None:
    models = [
        ModelProjection(name=name, points=np.arange(10.0).reshape(5, 2) + i, neighbours=50.0)
        for i, name in enumerate(("x", "y"))
    ]
    found = Projection(
        videos=list("vwxyz"),
        labels=[0, 1, 1, 0, 0],
        classes=["wave", "hit"],
        failures=[Failure(5, "bad.mp4", "cannot be decoded")],
        models=models,
    )
    panels = draw_tsne(found).axes
    assert len(panels) == 2
    stars = {line.get_label(): line.get_xydata().tolist() for line in panels[1].lines}
    assert stars == {"wave": [[1, 2], [7, 8], [9, 10]], "hit": [[3, 4], [5, 6]]}
    assert "failed: bad.mp4: cannot be decoded" in str(found) and "y: 50.0 %" in str(found)


def run_folder(folder: Path, data: Folder, seed: int) -> Path:
    folder.mkdir()
    model = small(seed)
    save_model(folder / "best.safetensors", model, ["a", "b", "c"])  # type: ignore[arg-type]
    recipe = Recipe(name=folder.name, model=model_config("timesformer_tiny"), data=data)
    (folder / "recipe.json").write_text(json.dumps(to_json(recipe)))
    return folder


def test_two_runs_side_by_side(data: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn.manifold")
    runs = [str(run_folder(tmp_path / name, data, seed)) for seed, name in enumerate(("one", "two"))]
    assert run_data(runs[0]) == data
    out = tmp_path / "tsne.png"
    with pytest.raises(SystemExit) as end:
        main(["analyse", "tsne", *runs, "--classes", "a,c", "b", "--json", "--device", "cpu", "--out", str(out)])
    found = json.loads(capsys.readouterr().out)
    assert end.value.code == 0 and out.stat().st_size > 5_000
    assert [m["model"] for m in found["models"]] == runs and found["classes"] == ["a", "c", "b"]
    assert len(found["videos"]) == len(found["labels"]) == len(found["models"][0]["points"]) == 8
    assert len(found["failures"]) == 1 and np.isfinite(found["models"][1]["points"]).all()


def test_one_sentence_without_scikit_learn(
    data: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sklearn.manifold", None)
    run = run_folder(tmp_path / "run", data, 0)
    with pytest.raises(SystemExit) as end:
        main(["analyse", "tsne", str(run), "--out", str(tmp_path / "x.png")])
    assert end.value.code == 1
    assert capsys.readouterr().err.strip().endswith("not installed: pip install 'gesta[analysis]'")
    (run / "recipe.json").unlink()
    with pytest.raises(SystemExit):
        main(["analyse", "tsne", str(run)])
    assert "say which videos: --data" in capsys.readouterr().err
    with pytest.raises(GestaError, match="pip install"):
        measure_tsne([], [], [], [])
