"""Linear probes: their optimum, the features they see, what they find where the answer is known."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from gesta.analysis.stages import BEFORE_CLASSIFIER, draw_stages, fit_probe, measure_stages, stage_features_of
from gesta.checkpoint import save_model
from gesta.cli import main
from gesta.config import to_json
from gesta.data.lists import Folder
from gesta.errors import GestaError
from gesta.model import ClipSpec, VideoModel
from gesta.models import create_model, model_config
from gesta.recipe import Recipe
from gesta.records import Record


@pytest.fixture
def videos(make_video: Callable[..., Path], tmp_path: Path) -> Path:
    """Dark and light videos; one held-out video cannot be read."""
    for k, name in enumerate(("dark", "light")):
        for i in range(4):
            make_video(f"videos/{'train' if i < 2 else 'test'}/{name}/{i}.mp4", frames=6, shade=110 * k + 3 * i)
    (tmp_path / "videos/test/light/3.mp4").write_bytes(b"broken")
    return tmp_path / "videos"


def small() -> VideoModel:
    torch.manual_seed(0)
    return create_model("r3d_tiny", classes=2, clip=ClipSpec(frames=4, stride=1, size=32)).eval()


def test_the_fit_is_the_optimum_of_logistic_regression() -> None:
    """The gradient is zero for the standardised features, the bias is free, and a stronger penalty gives less."""
    draw_from = np.random.default_rng(0)
    values = draw_from.normal(size=(60, 5)) * [1, 10, 0.1, 1, 0] + [0, 100, 0, -3, 7]
    labels = (values[:, 0] + draw_from.normal(size=60) > 0.3).astype(int) + (values[:, 3] > -2.5)
    for l2 in (10.0, 0.1):
        weights, bias, converged = fit_probe(values.astype(np.float32), labels, l2)
        assert converged and weights.shape == (5, 3)
        scores = values @ weights + bias
        chance = np.exp(scores - scores.max(1, keepdims=True))
        error = chance / chance.sum(1, keepdims=True) - np.eye(3)[labels]
        std = np.where(values.std(0) > 1e-9, values.std(0), 1)
        standard = (values - values.mean(0)) / std
        np.testing.assert_allclose(standard.T @ error + weights * std[:, None] * l2, 0, atol=2e-3)
        np.testing.assert_allclose(error.sum(0), 0, atol=2e-3)
    assert np.abs(fit_probe(values, labels, 100)[0] * std[:, None]).max() < 0.5 * np.abs(weights * std[:, None]).max()
    assert np.abs(weights[4]).max() < 1e-9  # of a feature that is always the same


def test_the_features_of_each_stage() -> None:
    model, clips = small(), torch.randn(2, 3, 4, 32, 32)
    with torch.no_grad():
        features = stage_features_of(model)(clips)
        assert list(features) == [*(f"block {i}" for i in range(len(model.blocks))), BEFORE_CLASSIFIER]
        torch.testing.assert_close(features["block 1"], model.taps(clips, ["block.1"])["block.1"].mean((2, 3, 4)))
        torch.testing.assert_close(features[BEFORE_CLASSIFIER], model.embed(clips))

        def stage_features(video: Tensor) -> dict[int, Tensor]:
            return {2: video.mean((2, 3, 4)), 5: video[:, :, 0, 0, 0]}

        model.stage_features = stage_features  # type: ignore[assignment]  # a model with stages
        features = stage_features_of(model)(clips)
        assert list(features) == ["stage 2", "stage 5", BEFORE_CLASSIFIER]
        torch.testing.assert_close(features["stage 5"], clips[:, :, 0, 0, 0])


def test_a_stage_with_information_about_the_class_and_one_without(videos: Path) -> None:
    model = small()
    model.stage_features = lambda clips: {2: clips.mean((2, 3, 4)), 3: clips.new_ones(len(clips), 3)}  # type: ignore[assignment]
    paths = sorted(videos.glob("*/*/*.mp4"))
    sides = [
        ([Record(path=str(p), name=p.name) for p in of], [int(p.parent.name == "light") for p in of])
        for of in ([p for p in paths if p.parts[-3] == split] for split in ("train", "test"))
    ]
    found = measure_stages("toy", model, *sides, device="cpu")
    colour, nothing, _ = found.probes
    assert (colour.top1, colour.training, colour.width) == (100, 100, 3)
    assert nothing.training == 50 and nothing.top1 in (pytest.approx(200 / 3), pytest.approx(100 / 3))
    assert (found.fitted, found.scored) == (4, 3)
    assert found.majority == pytest.approx(200 / 3)  # one of the two light ones is broken
    assert [failure.name for failure in found.failures] == ["3.mp4"] and "failed: 3.mp4" in str(found)
    bars = draw_stages(found).axes[0].patches
    assert [bar.get_height() for bar in bars] == [p.top1 for p in found.probes]
    with pytest.raises(GestaError, match="two classes"):
        measure_stages("toy", model, (sides[0][0][:2], [0, 0]), sides[1], device="cpu")
    with pytest.raises(GestaError, match="greater than 0"):
        measure_stages("toy", model, *sides, l2=0)


def test_from_the_command_line(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "stages.png"
    with pytest.raises(SystemExit) as end:
        main(["analyse", "stages", "r3d_tiny", "--data", str(videos), "--json", "--device", "cpu", "--out", str(out)])
    found = json.loads(capsys.readouterr().out)
    assert not end.value.code and out.stat().st_size > 5_000
    blocks = len(create_model("r3d_tiny").blocks)
    assert [s["stage"] for s in found["stages"]] == [*(f"block {i}" for i in range(blocks)), BEFORE_CLASSIFIER]
    assert found["stages"][0]["top1"] == 100  # light and dark are distinguished by the first block
    # without --data the videos are those of the run, with fields changed
    run = tmp_path / "run"
    run.mkdir()
    save_model(run / "best.safetensors", small(), ["dark", "light"])
    recipe = Recipe(name="run", model=model_config("r3d_tiny"), data=Folder(root="gone"))
    (run / "recipe.json").write_text(json.dumps(to_json(recipe)))
    with pytest.raises(SystemExit) as end:
        main(["analyse", "stages", str(run), "--data.root", str(videos), "--max-videos", "2", "--out", str(out)])
    printed = capsys.readouterr().out
    assert not end.value.code and re.search("fitted on 2 videos of 2 classes, scored on [12],", printed)
    with pytest.raises(SystemExit):
        main(["analyse", "stages", "r3d_tiny", "--device", "cpu"])
    assert "say which videos: --data" in capsys.readouterr().err
