"""Which epochs are the best: whose weights are kept, and when a training ends for lack of a better one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import write_video
from gesta.analysis.report.page import write_report
from gesta.checkpoint import load, load_state
from gesta.checkpoint.weights import read_source
from gesta.cli import main
from gesta.config import replace
from gesta.data.lists import Folder
from gesta.errors import GestaError
from gesta.evaluation.result import Result
from gesta.model import ClipSpec
from gesta.models.timesformer import TimeSformerConfig
from gesta.recipe import EvaluateConfig, Recipe, TrainConfig
from gesta.training.folder import check_space
from gesta.training.loop import train
from gesta.training.setup import Training

pytestmark = pytest.mark.usefixtures("one_thread")

TOP1 = (50.0, 40.0, 60.0, 60.0, 55.0, 70.0)
"""What validation finds after each epoch: 60 is the best of the first five, and the fourth is not above the third."""

KEPT = ("epoch-0003-top1-60.00.safetensors", "epoch-0004-top1-60.00.safetensors")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    root = tmp_path_factory.mktemp("videos")
    for label, name in enumerate(("dark", "light")):
        for i in range(3):
            split = "train" if i < 2 else "val"
            write_video(root / split / name / f"{i}.mp4", frames=4, size=(48, 32), shade=90 * label + i)
    return Recipe(
        name="toy",
        model=TimeSformerConfig(
            width=8, depth=1, heads=2, mlp_ratio=1, patch=8, clip=ClipSpec(frames=2, stride=2, size=16)
        ),
        data=Folder(root=str(root)),
        train=TrainConfig(epochs=6, batch_size=4, workers=0, schedule="constant", min_lr=None, patience=2, keep_best=2),
        evaluate=EvaluateConfig(split="val", clips=1, workers=0),
    )


@pytest.fixture(autouse=True)
def _validations(monkeypatch: pytest.MonkeyPatch) -> None:
    def validate(training: Training) -> dict[str, float]:
        return {"top1": TOP1[training.progress.epoch]}

    monkeypatch.setattr("gesta.training.loop._validate", validate)


@pytest.fixture(scope="module")
def straight(toy: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never interrupted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gesta.training.loop._validate", lambda training: {"top1": TOP1[training.progress.epoch]})
        return train(toy, tmp_path_factory.mktemp("runs") / "straight", quiet=True)


def lines(run: Path, kind: str) -> list[dict[str, Any]]:
    return [entry for entry in map(json.loads, (run / "log.jsonl").read_text().splitlines()) if entry["kind"] == kind]


def outcome(run: Path) -> Any:
    """All that a training leaves behind, but for times."""
    state = load_state(run / "last.ckpt")
    progress = {k: v for k, v in state["progress"].items() if k not in ("log_bytes", "seconds", "data_s")}
    weights = {path.name: read_source(path).weights for path in sorted(run.glob("*.safetensors"))}
    return progress, weights, [(e["epoch"], e["loss"], e["val"], e["best"]) for e in lines(run, "epoch")]


def test_a_training_ends_when_validations_are_no_better_and_keeps_the_best_weights(
    toy: Recipe, straight: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [entry["epoch"] for entry in lines(straight, "epoch")] == [1, 2, 3, 4, 5]
    reason = "training ended early after epoch 5 of 6: no validation top-1 above 60.0 % in 2 validations"
    reason += " (--train.patience 2)"
    assert lines(straight, "ended_early") == [{"kind": "ended_early", "epoch": 5, "step": 5, "reason": reason}]
    result = Result.read(straight / "result.json")
    assert result.ended_early == reason and reason.split(":")[0] in str(result)
    assert "Its training ended early after epoch 5 of 6: no validation" in write_report(straight).read_text()
    assert sorted(path.name for path in straight.glob("*.safetensors")) == ["best.safetensors", *KEPT]
    third, fourth, best = (load(straight / name) for name in (*KEPT, "best.safetensors"))
    assert [m.metadata["notes"]["epoch"] for m in (third, fourth, best)] == [3, 4, 4]  # of equals the later is the best
    assert third.classes == ["dark", "light"]
    weights = [model.model.state_dict() for model in (third, fourth, best)]
    assert all(torch.equal(value, weights[2][name]) for name, value in weights[1].items())
    assert not all(torch.equal(value, weights[2][name]) for name, value in weights[0].items())
    train(toy, straight, resume=True)
    assert "ended early after epoch 5 of 6" in (said := capsys.readouterr().err) and "nothing is left to resume" in said


@pytest.mark.parametrize("moment", ["validation", "removal"])
def test_an_interrupted_run_keeps_the_same_weights_and_ends_at_the_same_epoch(
    moment: str, toy: Recipe, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, remove = tmp_path / "run", Training.remove_dropped
    with monkeypatch.context() as patch:
        if moment == "validation":  # of the fifth epoch, which is the second in a row that is no better

            def validate(training: Training) -> dict[str, float]:
                if training.progress.epoch == 4:
                    raise KeyboardInterrupt
                return {"top1": TOP1[training.progress.epoch]}

            patch.setattr("gesta.training.loop._validate", validate)
        else:  # of the second epoch's weights, after the state without them was saved

            def stop(training: Training) -> None:
                if training.progress.dropped:
                    raise KeyboardInterrupt
                remove(training)

            patch.setattr(Training, "remove_dropped", stop)
        with pytest.raises(SystemExit):
            train(toy, run, quiet=True)
    assert len(list(run.glob("epoch-*"))) == (3 if moment == "removal" else 2)
    train(toy, run, resume=True, quiet=True)
    (progress, weights, epochs), (same_progress, same_weights, same_epochs) = outcome(run), outcome(straight)
    assert progress == same_progress and epochs == same_epochs and weights.keys() == same_weights.keys()
    for name, tensors in weights.items():
        assert all(torch.equal(value, same_weights[name][key]) for key, value in tensors.items())
    assert len(lines(run, "ended_early")) == 1


def test_a_run_that_ended_early_goes_on_with_more_patience_alone(toy: Recipe, straight: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(straight, tmp_path / "run"))
    for changes in ({"epochs": 9}, {"lr": 1e-3}):
        with pytest.raises(GestaError, match=r"ended early after epoch 5 .* for longer with a greater train\.patience"):
            train(replace(toy, train=replace(toy.train, **changes)), run, resume=True, quiet=True)
    train(replace(toy, train=replace(toy.train, patience=3, keep_best=1)), run, resume=True, quiet=True)
    assert [entry["epoch"] for entry in lines(run, "epoch")] == [1, 2, 3, 4, 5, 6]
    assert load(run).metadata["notes"]["epoch"] == 6 and not list(run.glob("epoch-*"))
    assert Result.read(run / "result.json").ended_early == ""


def test_epochs_measured_on_other_videos_are_not_compared(toy: Recipe, tmp_path: Path) -> None:
    """The fifth epoch, of 55 %, is the best on the new validation videos."""
    root, run = Path(shutil.copytree(toy.data.root, tmp_path / "videos")), tmp_path / "run"  # type: ignore[attr-defined]
    short, longer = (replace(toy.train, epochs=epochs, patience=None) for epochs in (4, 5))
    train(replace(toy, data=Folder(root=str(root)), train=short), run, quiet=True)
    write_video(root / "val" / "dark" / "new.mp4", frames=4, size=(48, 32), shade=9)
    train(replace(toy, data=Folder(root=str(root)), train=longer), run, resume=True, quiet=True)
    assert [entry["best"] for entry in lines(run, "epoch")] == [50.0, 50.0, 60.0, 60.0, 55.0]
    assert load(run).metadata["notes"]["epoch"] == 5
    (remark,) = (text for text in lines(run, "start")[-1]["remarks"] if "validation videos are others" in text)
    assert (
        f"best top-1 of 60.0 % is forgotten, and the next validation chooses best.safetensors anew ({KEPT[1]}" in remark
    )
    assert {path.name for path in run.glob("epoch-*")} == {*KEPT, "epoch-0005-top1-55.00.safetensors"}


def test_settings_that_go_by_validation_need_validation_videos(toy: Recipe, tmp_path: Path) -> None:
    for name in ("patience", "keep_best"):
        config = replace(toy.train, **{"patience": None, "keep_best": 1, name: 3})
        data = Folder(root=str(Path(toy.data.root) / "train"), val=0.0)  # type: ignore[attr-defined]
        text = f"train.{name} goes by the accuracy on validation videos, and .* of lists data.val_fraction 0.2"
        with pytest.raises(GestaError, match=text):
            train(replace(toy, data=data, train=config), tmp_path / "run", quiet=True)
    assert not list(tmp_path.iterdir())


def test_the_disk_must_hold_all_weights_that_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: (10**9, 0, 70))
    check_space(tmp_path, weights=10, state=10)
    with pytest.raises(GestaError, match="0 MB three times and 0 MB 6 times"):
        check_space(tmp_path, weights=10, state=10, keep=3)
    (tmp_path / KEPT[0]).write_bytes(bytes(20))
    check_space(tmp_path, weights=10, state=10, kept=[KEPT[0]], keep=3)


def test_the_result_of_other_weights_in_a_run_does_not_count_for_the_run(
    straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(straight, tmp_path / "run"))
    with pytest.raises(SystemExit, match="0"):
        main(["evaluate", str(run / KEPT[0]), "--evaluate.workers", "0"])
    assert capsys.readouterr().err.endswith(f"{KEPT[0].removesuffix('.safetensors')}-result-val.json\n")
    assert [path.name for path in run.glob("result*.json")] == ["result.json"]
