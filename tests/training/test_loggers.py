"""Loggers: what they get, and that none of them can end a training."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from conftest import write_video
from gesta.config import replace, to_json
from gesta.data.lists import Folder
from gesta.errors import GestaError
from gesta.model import ClipSpec
from gesta.models.timesformer import TimeSformerConfig
from gesta.recipe import EvaluateConfig, Recipe, TrainConfig
from gesta.recipes.address import read_recipe
from gesta.training.loggers import TensorBoard
from gesta.training.loop import train
from gesta.training.setup import Training

pytestmark = pytest.mark.usefixtures("one_thread")

STAND_IN = """
import sys

run, runs, failure = None, [], None

class Run:
    def __init__(self, settings):
        self.settings, self.logged, self.config, self.ended = settings, [], {}, None
        self.id, self.metrics = settings["id"], {}
        self.config = type("Config", (dict,), {"update": lambda c, values, **_: dict.update(c, values)})()
    def define_metric(self, name, **settings):
        self.metrics[name] = settings
    def log(self, values):
        self.logged.append(values)
    def finish(self, exit_code=None):
        global run
        run, self.ended = None, exit_code

def init(**settings):
    global run
    if failure:
        raise RuntimeError(failure)
    run = Run(settings)
    runs.append(run)
    return run
"""


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    root = tmp_path_factory.mktemp("videos")
    for name in ("dark", "light"):
        for i in range(2):
            write_video(root / ("train" if i else "val") / name / f"{i}.mp4", frames=4, size=(48, 32))
    return Recipe(
        name="toy",
        model=TimeSformerConfig(
            width=8, depth=1, heads=2, mlp_ratio=1, patch=8, clip=ClipSpec(frames=2, stride=2, size=16)
        ),
        data=Folder(root=str(root)),
        train=TrainConfig(epochs=3, batch_size=2, workers=0),
        evaluate=EvaluateConfig(split="val", clips=1, workers=0),
    )


@pytest.fixture
def wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A package that looks like W&B's and keeps what it is given."""
    folder = tmp_path / "packages"
    files = {
        "wandb/__init__.py": STAND_IN,
        "wandb/wandb_run.py": "from wandb import Run\n",
        "wandb/sdk/__init__.py": "",
    }
    files |= {"wandb/sdk/lib/__init__.py": "class RunDisabled: pass\n"}
    files |= {"wandb-0.99.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: wandb\nVersion: 0.99.0\n"}
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    for name in [name for name in sys.modules if name.partition(".")[0] == "wandb"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    monkeypatch.delenv("WANDB_DIR", raising=False)
    import wandb

    yield wandb
    for name in [name for name in sys.modules if name.partition(".")[0] == "wandb"]:
        del sys.modules[name]


def with_loggers(toy: Recipe, *names: str) -> Recipe:
    return replace(toy, train=replace(toy.train, logger=names))


def lines(run: Path, kind: str) -> list[dict[str, Any]]:
    return [entry for entry in map(json.loads, (run / "log.jsonl").read_text().splitlines()) if entry["kind"] == kind]


def test_a_resumed_training_goes_on_in_its_wandb_run(
    toy: Recipe, wandb: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, run = with_loggers(toy, "tensorboard", "wandb"), tmp_path / "run"

    def stop(training: Training) -> dict[str, float]:
        if training.progress.epoch == 1:
            raise KeyboardInterrupt
        return {"top1": 50.0}

    with monkeypatch.context() as patch:
        patch.setattr("gesta.training.loop._validate", stop)
        with pytest.raises(SystemExit):
            train(recipe, run, quiet=True)
    train(recipe, run, resume=True, quiet=True)
    first, second = wandb.runs
    assert first.settings["id"] == second.settings["id"] and len(first.id) == 8
    how = {"project": "gesta", "name": "run", "dir": str(run), "resume": "allow"}
    assert all(second.settings[name] == value for name, value in how.items())
    assert (first.ended, second.ended) == (1, 0) and wandb.run is None
    assert first.metrics["*"]["step_metric"] == "trainer/global_step"
    assert second.config == to_json(read_recipe(run / "recipe.json"))
    losses = [
        (values["trainer/global_step"], values["train/loss"]) for values in second.logged if "train/loss" in values
    ]
    assert losses == [(entry["step"], entry["loss"]) for entry in lines(run, "step")][2:]
    epochs = [values["trainer/global_step"] for values in first.logged + second.logged if "acc/top1" in values]
    assert epochs == [1, 2, 3]
    assert read_recipe(run / "recipe.json").train.logger == ("tensorboard", "wandb")
    train(with_loggers(toy, "wandb"), tmp_path / "other", quiet=True)
    assert wandb.runs[2].id != first.id and not (tmp_path / "other" / "events").exists()


def test_tensorboard_shows_every_step_once_after_a_resumption(toy: Recipe, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(replace(toy, train=replace(toy.train, epochs=1)), run, quiet=True)
    train(replace(toy, train=replace(toy.train, epochs=2)), run, resume=True, quiet=True)
    files = sorted((run / "events").iterdir())
    events = [list(EventFileLoader(str(file)).Load()) for file in files]
    starts = [event.step for part in events for event in part if event.HasField("session_log")]
    steps = [e.step for part in events for e in part for v in e.summary.value if v.tag == "train/loss"]
    assert starts == [1, 2] and sorted(steps) == [1, 2]


@pytest.mark.parametrize("moment", ["opening", "logging"])
def test_a_logger_that_fails_does_not_end_the_training(
    moment: str,
    toy: Recipe,
    wandb: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: Any) -> None:
        raise OSError("No space left on device")

    if moment == "opening":
        wandb.failure = "Network error: no route to host\nand forty lines more"
        title, reason, names = "W&B", "Network error: no route to host", ("wandb",)
    else:
        monkeypatch.setattr(TensorBoard, "log_metrics", fail)
        title, reason, names = "TensorBoard", "No space left on device", ("tensorboard", "wandb")
    run = train(with_loggers(toy, *names), tmp_path / "run")
    sentence = f"{title} failed ({reason}) and gets nothing more of this training; log.jsonl has it all"
    assert capsys.readouterr().err.count(f"warning: {sentence}") == 1
    assert [entry["failed"] for entry in lines(run, "logger")] == [sentence]
    assert len(lines(run, "step")) == 3 and (run / "result.json").exists()
    if moment == "logging":
        assert len(wandb.runs[0].logged) == 6 and wandb.runs[0].ended == 0


def test_a_logger_whose_package_is_absent_is_refused_before_anything_is_written(
    toy: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("gesta.training.loggers.importlib.metadata.version", absent)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wandb").mkdir()  # where W&B kept earlier runs: Python could import it
    with pytest.raises(GestaError, match=r"logger wandb needs the package wandb, which is not installed; pip install"):
        train(with_loggers(toy, "wandb"), tmp_path / "run", quiet=True)
    assert [path.name for path in tmp_path.iterdir()] == ["wandb"]
