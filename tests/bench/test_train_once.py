"""Trainings that benchmarks/experiments keep: done once, and never counted as those of another recipe."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from conftest import write_video
from gesta.data.lists import Folder
from gesta.errors import GestaError
from gesta.model import ClipSpec
from gesta.models.r3d import R3DConfig
from gesta.recipe import EvaluateConfig, Recipe, TrainConfig


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks" / "experiments")
    import train_once

    return train_once


def recipe(root: Path) -> Recipe:
    return Recipe(
        name="toy",
        model=R3DConfig(depths=(1, 1, 1, 1), width=4, clip=ClipSpec(frames=2, stride=2, size=16)),
        data=Folder(root=str(root)),
        train=TrainConfig(epochs=1, batch_size=2, workers=0),
        evaluate=EvaluateConfig(clips=1, workers=0),
    )


@pytest.mark.usefixtures("one_thread")
def test_a_finished_run_is_kept_for_its_own_recipe_alone(script: ModuleType, tmp_path: Path) -> None:
    for label, name in enumerate(("dark", "light")):
        for split in ("train", "test"):
            write_video(tmp_path / split / name / "0.mp4", frames=4, size=(24, 24), shade=90 * label)
    run = tmp_path / "run"
    assert script.train_once(recipe(tmp_path), run, device="cpu")
    before = (run / "log.jsonl").read_bytes()
    assert not script.train_once(recipe(tmp_path), run, device="cpu")
    assert (run / "log.jsonl").read_bytes() == before
    longer = recipe(tmp_path)
    longer.train.epochs = 2  # a stopped run may be resumed with more epochs, a finished one has another result
    with pytest.raises(GestaError, match=r"run: is finished, but of another recipe \(train\.epochs: 1 → 2\); choose"):
        script.train_once(longer, run, device="cpu")
