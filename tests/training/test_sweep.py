"""Trainings over the values of a field: what runs, what is left alone, what is refused, what is drawn."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import gesta.training.sweep
from conftest import write_video
from gesta.analysis.sweep_chart import draw_sweep
from gesta.cli import main
from gesta.config import leaves, to_json
from gesta.data.lists import Folder
from gesta.errors import GestaError
from gesta.model import ClipSpec, Insert
from gesta.models.r3d import R3DConfig
from gesta.plugins.stan import STAN
from gesta.recipe import EvaluateConfig, Recipe, TrainConfig
from gesta.training.sweep import Sweep, Trial, field_name, sweep

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of two short videos to train and one to test."""
    root = tmp_path_factory.mktemp("videos")
    for label, name in enumerate(("dark", "light")):
        for split, count in (("train", 2), ("test", 1)):
            for i in range(count):
                write_video(root / split / name / f"{i}.mp4", frames=4, size=(48, 32), shade=90 * label + i)
    return root


def recipe(root: Path) -> Recipe:
    return Recipe(
        name="toy",
        model=R3DConfig(depths=(1, 1, 1, 1), width=4, clip=ClipSpec(frames=2, stride=2, size=16)),
        data=Folder(root=str(root)),
        train=TrainConfig(epochs=1, batch_size=4, lr=1e-2, workers=0),
        evaluate=EvaluateConfig(clips=1, workers=0),
    )


def count_trainings(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Folders of the runs that are really trained."""
    folders: list[Path] = []
    whole = gesta.training.sweep.train

    def note(recipe: Recipe, run: Path, **options: Any) -> Path:
        folders.append(run)
        return whole(recipe, run, **options)

    monkeypatch.setattr(gesta.training.sweep, "train", note)
    return folders


def test_trains_each_and_leaves_what_is_done(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = count_trainings(monkeypatch)
    seen: list[int] = []
    found = sweep(
        recipe(videos),
        "train.lr",
        [0.01],
        seeds=[0, 1],
        out=tmp_path,
        quiet=True,
        after_trial=lambda so_far: seen.append(len(so_far.trials)),
    )
    assert seen == [1, 2]
    assert [folder.name for folder in folders] == ["0.01-seed0", "0.01-seed1"]
    for seed, folder in enumerate(folders):
        ran = json.loads((folder / "recipe.json").read_text())
        assert (ran["train"]["lr"], ran["train"]["seed"], ran["model"]["classes"]) == (0.01, seed, 2)
    written = json.loads((tmp_path / "sweep.json").read_text())
    assert written == found.to_json()
    (point,) = written["points"]
    measured = [json.loads((folder / "result.json").read_text())["metrics"]["top1"] for folder in folders]
    assert point["top1"] == measured and point["mean"] == sum(measured) / 2 and point["std"] is not None
    # one was stopped before its evaluation: beside the new value's, only this one is trained, that is, resumed
    (tmp_path / "0.01-seed1" / "result.json").unlink()
    folders.clear()
    divided = recipe(videos)
    divided.evaluate.batch_size = 3  # how it is evaluated, not what
    again = sweep(divided, "train.lr", [0.01, 0.2], seeds=[0, 1], out=tmp_path, quiet=True)
    assert [folder.name for folder in folders] == ["0.01-seed1", "0.2-seed0", "0.2-seed1"]
    assert again.to_json()["points"][0] == point


def test_a_training_that_fails_is_noted(videos: Path, tmp_path: Path) -> None:
    toy = recipe(videos)
    toy.train.epochs = 2
    found = sweep(toy, "train.lr", [1e30], out=tmp_path, quiet=True)
    (bad,) = found.trials
    assert bad.top1 is None and "the loss became nan" in bad.failure
    assert f"1e+30, seed 0: {bad.failure}" in str(found)
    assert json.loads((tmp_path / "sweep.json").read_text())["points"][0]["runs"][0]["failure"] == bad.failure


def test_refused_before_anything_is_trained(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = count_trainings(monkeypatch)
    (tmp_path / "2-seed0").mkdir()
    (tmp_path / "2-seed0" / "recipe.json").write_text(json.dumps(to_json(recipe(videos))))
    for field, values, words in (
        ("train.lrr", [1.0], "did you mean 'train.lr'"),
        ("model.classes.0", [1], "no field"),
        ("train.lr", [0.1, 0.1], "give each of them once"),
        ("model.width", [4, -1], "model.width -1: model.width is -1, not 1 or more"),
        ("train.epochs", [2], "train.epochs: 1 → 2"),
    ):
        with pytest.raises(GestaError, match=words):
            sweep(recipe(videos), field, values, out=tmp_path, quiet=True)
    with pytest.raises(GestaError, match="without seeds"):
        sweep(recipe(videos), "train.seed", [1, 2], seeds=[0, 1], out=tmp_path)
    assert not folders


def test_results_of_other_data_are_not_taken(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where files lie may change: the data set may have been moved, and another one may lie there."""
    folders, out = count_trainings(monkeypatch), tmp_path / "out"
    done = sweep(recipe(videos), "train.lr", [0.01], out=out, quiet=True)
    assert len(folders) == 1
    moved = Path(shutil.copytree(videos, tmp_path / "moved"))
    assert sweep(recipe(moved), "train.lr", [0.01], out=out, quiet=True).to_json() == done.to_json()
    for split in ("test", "train"):
        other = Path(shutil.copytree(videos, tmp_path / split))
        write_video(other / split / "dark" / "9.mp4", frames=4, size=(48, 32), shade=9)
        with pytest.raises(GestaError, match=rf"0\.01-seed0: .* with other {split}.* choose another folder with out"):
            sweep(recipe(other), "train.lr", [0.01], out=out, quiet=True)
    grown = Path(shutil.copytree(videos, tmp_path / "grown"))
    sweep(recipe(grown), "train.lr", [0.01], out=tmp_path / "grown-out", quiet=True)
    write_video(grown / "train" / "dark" / "9.mp4", frames=4, size=(48, 32), shade=9)  # where the data set lies
    with pytest.raises(GestaError, match="with other training videos, or of other sizes; choose another folder"):
        sweep(recipe(grown), "train.lr", [0.01, 0.02], out=tmp_path / "grown-out", quiet=True)
    for split in ("test", "train"):
        (moved / split / "light").rename(moved / split / "lit")
    with pytest.raises(GestaError, match="with other classes; choose another folder with out"):
        sweep(recipe(moved), "train.lr", [0.01], out=out, quiet=True)
    assert len(folders) == 2


def test_fields_by_their_flags(videos: Path) -> None:
    toy = recipe(videos)
    toy.model.inserts = [Insert(layer=STAN(), at=1)]
    assert field_name(toy, "--train.weight-decay") == "train.weight_decay"
    names = leaves(toy)
    assert names["model.inserts.0.at"] == 1 and names["train.betas"] == (0.9, 0.999)
    assert "model.inserts.0.layer.mode" in names and "train" not in names


def test_from_the_command_line(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Flags are typed as those of a training; values with spaces are tuples; the exit status tells of failures."""
    seen: list[list[Any]] = []

    def note(recipe: Recipe, field: str, values: list[Any], **options: Any) -> Sweep:
        seen.append([field, values, recipe.train.epochs, options["seeds"]])
        trials = [Trial(value=v, seed=0, run="r", failure="" if v == values[0] else "broke") for v in values]
        result = Sweep(recipe=recipe.name, field=field, default=None, values=values, seeds=[0], trials=trials)
        options["after_trial"](result)
        return result

    monkeypatch.setattr(gesta.training.sweep, "sweep", note)
    saved = tmp_path / "recipe.json"
    saved.write_text(json.dumps(to_json(recipe(videos))))
    for field, values, status in (("train.betas", "0.8 0.9,0.9 0.99", 1), ("train.clip-grad", "None", 0)):
        with pytest.raises(SystemExit) as end:
            main(
                ["sweep", str(saved), "--train.epochs", "7", "--field", field, "--values", values, "--seeds", "0,2"]
                + ["--out", str(tmp_path / field)]
            )
        assert (tmp_path / field / "sweep.png").stat().st_size > 5_000
        assert (end.value.code or 0) == status
    assert seen == [["train.betas", [(0.8, 0.9), (0.9, 0.99)], 7, (0, 2)], ["train.clip_grad", [None], 7, (0, 2)]]
    assert "0.9 0.99, seed 0: broke" in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        main(["sweep", str(saved), "--field", "train.lrr", "--values", "1"])
    assert end.value.code == 1 and "did you mean 'train.lr'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["sweep", str(saved), "--field", "train.lr", "--values", "1", "--train.lr", "2"])
    assert "--train.lr is the field that is swept" in capsys.readouterr().err
    with pytest.raises(SystemExit):  # of a part that the recipe does not have yet
        main(["sweep", str(saved), "--field", "train.lora.rank", "--values", "4,8", "--out", str(tmp_path / "lora")])
    assert seen[-1][:2] == ["train.lora.rank", [4, 8]]


def made(values: list[Any], default: Any = None) -> Sweep:
    trials = [
        Trial(value=value, seed=seed, run="r", top1=None if value == values[-1] and seed else 50.0 + 2 * seed + i)
        for i, value in enumerate(values)
        for seed in (0, 1)
    ]
    return Sweep(recipe="toy", field="f", default=default, values=values, seeds=[0, 1], trials=trials)


def test_the_chart() -> None:
    axes = draw_sweep(made([0.1, 0.0, 1e-3], default=0.1)).axes[0]
    assert axes.get_xscale() == "log"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "0.001", "0.1"]
    assert axes.get_xticks()[0] == pytest.approx(1e-5)  # 0 is as far from 0.001 as 0.1 is
    assert axes.lines[0].get_xydata().tolist() == [[0.001, 52.0], [0.1, 51.0]]  # joined except 0; means of the seeds
    linear = draw_sweep(made([1, 2, 5])).axes[0]
    assert linear.get_xscale() == "linear" and list(linear.get_xticks()) == [1, 2, 5]
    words = draw_sweep(made([True, False])).axes[0]
    assert [label.get_text() for label in words.get_xticklabels()] == ["True", "False"]
    with_negative = draw_sweep(made([-1.0, 0.0, 100.0])).axes[0]
    assert with_negative.get_xscale() == "linear"
