"""Probes on kept features: an ordinary run, nothing computed twice, the best probe kept, nothing lost on the way."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import gesta
from gesta.config import replace
from gesta.errors import GestaError, naming_flags
from gesta.features.folder import FeatureFolder
from gesta.model import VideoModel
from gesta.models import create_model
from gesta.recipe import ProbeConfig, Recipe, TrainConfig
from gesta.recipes.own_videos import probe
from gesta.records import Record
from gesta.training.loop import train
from gesta.training.probe import LinearProbe, VideoRows, _file_of, train_probes
from gesta.training.sweep import sweep
from gesta.video.depth import Depth

CLASSES = ["bright", "dark"]


@pytest.fixture
def recipe(make_video: Callable[..., Path], tmp_path: Path) -> Recipe:
    """Six videos of two classes for training and four for validation, and a backbone with weights in a file."""
    for label, name in enumerate(CLASSES):
        for i in range(5):
            make_video(f"videos/{'train' if i < 3 else 'val'}/{name}/{i}.mp4", shade=90 * label + 5 * i, frames=9)
    torch.manual_seed(3)
    gesta.save_model(tmp_path / "backbone.safetensors", create_model("r3d_tiny", classes=4), list("abcd"))
    made = probe("r3d_tiny", root=str(tmp_path / "videos"), weights=str(tmp_path / "backbone.safetensors"))
    made.model.clip.frames, made.model.clip.size = 4, 32
    made.evaluate.clips, made.evaluate.workers = 2, 0
    made.train.epochs = 20
    made.probe = ProbeConfig(lrs=(0.01, 0.001), weight_decays=(0.0, 0.1), cache=str(tmp_path / "kept"))
    return made


def log_of(run: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def test_a_run_is_ordinary_and_the_second_one_computes_no_features(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(recipe, tmp_path / "run")
    printed = capsys.readouterr().err
    assert "features of 6 videos, 6 of them computed" in printed and "4 probes in" in printed
    assert [len(log_of(run, kind)) for kind in ("features", "probe", "epoch")] == [2, 4, 20]
    trained = gesta.load(run)
    assert trained.classes == CLASSES
    result = gesta.Result.read(run / "result.json")
    assert result.metrics["top1"] == 100.0
    assert "these videos chose the best probe" in result.optimistic and result.optimistic[:40] in printed
    assert gesta.evaluate(trained, recipe.data, views=replace(recipe.evaluate, split="val")).scores == result.scores
    kept = next(line for line in log_of(run, "probe") if line["kept"])
    assert kept["val"]["top1"] == result.metrics["top1"]  # the views of the evaluation are those that were kept

    monkeypatch.setattr("gesta.training.probe.extract", None)
    again = gesta.load(train(recipe, tmp_path / "again", quiet=True))
    for one, other in zip(trained.model.parameters(), again.model.parameters()):
        assert torch.equal(one, other)
    train(recipe, run, resume=True)
    assert "nothing is left to resume" in capsys.readouterr().err
    changed = replace(recipe, evaluate=replace(recipe.evaluate, clips=1))
    assert gesta.Result.read(train(changed, run, resume=True, quiet=True) / "result.json").protocol.clips == 1
    assert len(log_of(run, "probe")) == 4
    (run / "log.jsonl").unlink()  # as in a copy of what is needed to use the model
    assert gesta.Result.read(train(recipe, run, resume=True, quiet=True) / "result.json").protocol.clips == 2
    with pytest.raises(GestaError, match=r"its probes are trained, so nothing is left to be trained with train.epochs"):
        train(replace(recipe, train=replace(recipe.train, epochs=30)), run, resume=True)
    with pytest.raises(GestaError, match="already holds files"):
        train(recipe, run)


def test_stopped_broken_and_changed_videos(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "videos" / "train" / "dark" / "1.mp4").write_bytes(b"broken")
    add, written = FeatureFolder.add, []

    def stop_at_the_third(*arguments: Any) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        add(*arguments)
        written.append(arguments)

    with monkeypatch.context() as patch:
        patch.setattr(FeatureFolder, "add", stop_at_the_third)
        with pytest.raises(SystemExit) as end:
            train(recipe, tmp_path / "run")
    assert end.value.code == 130 and "resume with: gesta train --resume" in capsys.readouterr().err
    assert not (tmp_path / "run" / "best.safetensors").exists()
    run = train(recipe, tmp_path / "run", resume=True)
    assert [line["computed"] for line in log_of(run, "features")] == [3, 4]
    assert f"  left out: {tmp_path}/videos/train/dark/1.mp4: " in capsys.readouterr().err

    other = (tmp_path / "videos" / "val" / "dark" / "4.mp4").read_bytes()
    (tmp_path / "videos" / "val" / "dark" / "3.mp4").write_bytes(other)
    run = train(recipe, tmp_path / "other", quiet=True)
    assert [line["computed"] for line in log_of(run, "features")] == [0, 1]


def test_without_validation_videos_some_of_training_choose(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe.init.weights = None
    recipe.data = gesta.Folder(root=str(tmp_path / "videos" / "train"), val=0.0)
    assert recipe.probe is not None
    recipe.probe.val = 0.3
    with naming_flags():
        run = train(recipe, tmp_path / "run")
    printed = capsys.readouterr().err
    assert "random weights, so that probes see features of noise" in printed
    assert "no validation videos, so 2 of training choose the best probe" in printed
    assert [line["videos"] for line in log_of(run, "features")] == [4, 2]
    assert not (run / "result.json").exists()
    for path in (tmp_path / "videos" / "train").glob("*/[12].mp4"):
        path.unlink()
    with pytest.raises(GestaError, match=r"none can be held out .* with probe\.val"):
        train(recipe, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_attentive_probes_read_the_tokens_that_the_model_reads(recipe: Recipe, tmp_path: Path) -> None:
    """The kept probe scores the validation videos as the saved model does, from pixels to classes."""
    given = probe("r3d_tiny", data=recipe.data, weights=recipe.init.weights, attentive=1)
    given.evaluate, given.probe, given.train.epochs = recipe.evaluate, recipe.probe, 2
    given.model.clip = recipe.model.clip
    assert given.probe is not None
    given.probe.lrs, given.probe.weight_decays = (3e-3,), (0.1,)
    run = train(given, tmp_path / "run", quiet=True)
    trained = gesta.load(run)
    assert trained.model.config.attentive is not None and trained.model.config.attentive.depth == 1  # type: ignore[attr-defined]
    (kept,) = log_of(run, "probe")
    scores = gesta.Result.read(run / "result.json").scores
    losses = [-float(torch.tensor(row[i // 2]).log()) for i, row in enumerate(scores.values["label"]) if row]
    assert sum(losses) / 4 == pytest.approx(kept["val_loss"], abs=1e-3)  # of the mean of two nearly equal views
    folder = next((tmp_path / "kept").iterdir())
    features = FeatureFolder(folder, None)
    assert len(features.entries) == 10
    assert {features.read(file).shape[::2] for file in features.entries} == {(2, trained.model.grid_at(4)[0])}
    given.evaluate.average = "tokens"  # the same features, of which each probe sees those of both clips at once
    joined = train(given, tmp_path / "joined", quiet=True)
    assert [line["computed"] for line in log_of(joined, "features")] == [0, 0]
    (kept,) = log_of(joined, "probe")
    scores = gesta.Result.read(joined / "result.json").scores
    losses = [-float(torch.tensor(row[i // 2]).log()) for i, row in enumerate(scores.values["label"]) if row]
    assert sum(losses) / 4 == pytest.approx(kept["val_loss"], abs=1e-4)


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("train.lr", 0.1, "train.lr is 0.1, which changes nothing without a training of the whole model"),
        ("train.freeze", ("stem.",), "train.freeze is stem., which changes nothing"),
        ("model.drop_path", 0.1, "model.drop_path is 0.1, which changes nothing"),
        ("data.cache", "off", "data.cache is off, which changes nothing"),
        ("probe.lrs", (), "probe.lrs is (), and a probe needs one value at least"),
        ("probe.lrs", (0.1, 0.1), "has a value twice"),
        ("probe.val", 1.0, "probe.val is 1.0"),
    ],
)
def test_what_probes_do_not_use_is_refused(field: str, value: Any, sentence: str, tmp_path: Path) -> None:
    recipe = probe("r3d_tiny", root=str(tmp_path))
    owner, _, name = field.partition(".")
    setattr(getattr(recipe, owner), name, value)
    with pytest.raises(GestaError) as refused:
        train(recipe, tmp_path / "run")
    assert sentence in str(refused.value).replace("the recipe: ", ""), refused.value
    assert not (tmp_path / "run").exists()


def test_a_probe_scores_the_same_as_the_models_classifier() -> None:
    torch.manual_seed(0)
    model: VideoModel = create_model("r3d_tiny", classes=3).double()
    features = torch.randn(5, model.classifier.linear.in_features, dtype=torch.double)  # type: ignore[union-attr,arg-type]
    width = features.shape[1]
    one = LinearProbe(3, 0.0, torch.randn(width), torch.rand(width) + 0.1)
    for parameter in one.parameters():
        nn.init.normal_(parameter)
    with torch.no_grad():
        scores = one.double()(features)
        one.copy_into(model)
        torch.testing.assert_close(model.classifier(features), scores, rtol=1e-12, atol=1e-12)


def test_probes_do_not_see_each_other_and_the_best_is_found() -> None:
    """Features of two classes far apart: a probe of a grid is the one that it would be alone."""
    generator = torch.Generator().manual_seed(0)
    labels: list[int | None] = [i % 2 for i in range(12)]
    rows: list[torch.Tensor | None] = [torch.randn(2, 6, generator=generator) + 2 * (i % 2) for i in range(12)]
    data = VideoRows(rows, {"label": labels})
    val = VideoRows([*rows[:3], None], {"label": [*labels[:3], 0]})
    config = TrainConfig(epochs=30, batch_size=8)
    grid = ProbeConfig(lrs=(0.1, 1e-6), weight_decays=(0.0, 10.0))
    model = create_model("r3d_tiny", classes=2)
    trained = train_probes(data, val, CLASSES, grid, config, model)
    alone = train_probes(data, val, CLASSES, ProbeConfig(lrs=(0.1,), weight_decays=(10.0,)), config, model)[0]
    for parameter, other in zip(trained[1].probe.parameters(), alone.probe.parameters()):
        torch.testing.assert_close(parameter, other, rtol=0, atol=0)
    best = max(trained, key=lambda one: one.rank)
    assert (best.lr, best.val["top1"], best.val["top1_scored"]) == (0.1, 75.0, 100.0)
    assert trained[0].losses[-1] < trained[1].losses[-1] < trained[2].losses[-1]
    assert best.losses[-1] < best.losses[0] == pytest.approx(torch.tensor(2.0).log().item(), abs=0.3)


def test_trained_probes_are_not_taken_for_those_of_other_videos(recipe: Recipe, tmp_path: Path) -> None:
    run = train(recipe, tmp_path / "run", quiet=True)
    root, before = shutil.copytree(tmp_path / "videos", tmp_path / "moved"), (run / "recipe.json").read_bytes()
    recipe.data = gesta.Folder(root=str(root))
    shutil.copy(root / "val" / "dark" / "3.mp4", root / "train" / "dark" / "9.mp4")
    with pytest.raises(GestaError, match="training videos is not the one that its probes were trained on"):
        train(recipe, run, resume=True, quiet=True)
    assert (run / "recipe.json").read_bytes() == before
    (root / "train" / "dark" / "9.mp4").unlink()
    train(recipe, run, resume=True, quiet=True)
    assert gesta.Result.read(run / "result.json").data["root"] == str(root)  # type: ignore[index]


def test_a_sweep_does_not_take_probes_of_other_videos(recipe: Recipe, tmp_path: Path) -> None:
    found = sweep(recipe, "train.epochs", [3], out=tmp_path / "sweep", quiet=True)
    assert sweep(recipe, "train.epochs", [3], out=tmp_path / "sweep", quiet=True).to_json() == found.to_json()
    shutil.copy(tmp_path / "videos" / "val" / "dark" / "3.mp4", tmp_path / "videos" / "train" / "dark" / "9.mp4")
    with pytest.raises(GestaError, match="with other training videos, or of other sizes; choose another folder"):
        sweep(recipe, "train.epochs", [3], out=tmp_path / "sweep", quiet=True)


def test_a_probe_that_diverged_is_never_the_best(recipe: Recipe, tmp_path: Path) -> None:
    """Scores that are NaN would all be of the first class, which here is right for all of the validation videos."""
    generator = torch.Generator().manual_seed(0)
    rows: list[torch.Tensor | None] = [torch.randn(2, 6, generator=generator) + 2 * (i % 2) for i in range(12)]
    data, val = VideoRows(rows, {"label": [i % 2 for i in range(12)]}), VideoRows(rows, {"label": [0] * 12})
    config, model = TrainConfig(epochs=20, batch_size=8), create_model("r3d_tiny", classes=2)
    grid = ProbeConfig(lrs=(1000.0, 1e-4), weight_decays=(10.0,))
    diverged, trained = train_probes(data, val, CLASSES, grid, config, model)
    assert (diverged.val["top1"], diverged.val_loss) == (0.0, math.inf) and trained.val["top1"] < 100
    assert max((diverged, trained), key=lambda one: one.rank) is trained
    recipe.probe = replace(grid, lrs=(1000.0,), cache=str(tmp_path / "kept"))
    with pytest.raises(GestaError, match=r"every probe diverged \(learning rates 1000\): .*; give smaller rates with"):
        train(recipe, tmp_path / "run", quiet=True)
    recipe.probe.lrs = (0.01,)
    assert gesta.load(train(recipe, tmp_path / "run", resume=True, quiet=True)).classes == CLASSES


def test_features_of_other_versions_are_computed_again(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(recipe, tmp_path / "run", quiet=True)
    monkeypatch.setattr("gesta.features.folder.pixel_versions", lambda: {"libavcodec": (99, 0, 1)})
    again = train(recipe, tmp_path / "again", quiet=True)
    assert [line["computed"] for line in log_of(again, "features")] == [6, 4]


def test_features_of_one_video_shown_otherwise_have_another_file() -> None:
    """Two probes may be trained at once, on depth in two encodings; each would replace the other's features."""
    record = Record(path="a", name="a")
    others = [
        dataclasses.replace(record, shows=Depth()),
        dataclasses.replace(record, shows=Depth(encoding="repeat3")),
        dataclasses.replace(record, masks="m"),
        dataclasses.replace(record, start=1, end=5),
        dataclasses.replace(record, path="b"),
    ]
    assert len({_file_of(r) for r in (record, *others)}) == 6
    assert _file_of(record) == _file_of(dataclasses.replace(record, label=3, name="the same video"))
