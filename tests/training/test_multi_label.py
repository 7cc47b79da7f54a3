"""From a list with several labels per video to a model that names them, and everything on the way."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import gesta
from conftest import write_video
from gesta.cli import main
from gesta.config import replace
from gesta.curation.check import check
from gesta.curation.describe import describe
from gesta.data.lists import Lists
from gesta.data.locate import split_by_class
from gesta.data.mix import mix, multi_hot
from gesta.data.samples import TrainingClips, collate
from gesta.errors import GestaError
from gesta.evaluation.result import Result
from gesta.model import ClipSpec
from gesta.models import model_config
from gesta.models.timesformer import TimeSformerConfig
from gesta.prediction.annotate import _draw
from gesta.prediction.prediction import Prediction
from gesta.prediction.segments import ClassSegmenters, Segmenter, Window
from gesta.recipe import EvaluateConfig, ProbeConfig, Recipe, TrainConfig
from gesta.records import Record
from gesta.training.loop import train
from gesta.training.loss import class_loss
from gesta.training.setup import read_data

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = ["light", "very light"]
SHADES = {20: [], 110: ["light"], 200: ["light", "very light"]}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    root = tmp_path_factory.mktemp("videos")
    for offset, split in enumerate(("train", "val")):
        labels = {}
        for shade, names in SHADES.items():
            for i in range(2):
                name = f"{split}/{shade + 5 * i}.mp4"
                write_video(root / name, frames=4, size=(48, 32), shade=shade + 5 * i + 2 * offset)
                labels[name] = names
        (root / f"{split}.json").write_text(json.dumps(labels))
    return Recipe(
        name="toy",
        model=TimeSformerConfig(
            width=8, depth=1, heads=2, mlp_ratio=1, patch=8, clip=ClipSpec(frames=2, stride=2, size=16)
        ),
        data=Lists(train=str(root / "train.json"), val=str(root / "val.json"), multi_label=True),
        train=TrainConfig(
            epochs=3, batch_size=6, lr=0.02, workers=0, mixup=0.5, mix_probability=0.5, label_smoothing=0.1, keep_best=2
        ),
        evaluate=EvaluateConfig(split="val", clips=2, workers=0),
    )


@pytest.fixture(scope="module")
def run(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(recipe, tmp_path_factory.mktemp("runs") / "run", quiet=True)


def test_a_run_is_measured_by_its_mean_average_precision(run: Path, tmp_path: Path) -> None:
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert all(set(line["losses"]) == {"binary_cross_entropy"} for line in log if line["kind"] == "step")
    best = [line["val"]["mAP"] for line in log if line["kind"] == "epoch"]
    kept = sorted(run.glob("epoch-*.safetensors"))
    assert len(kept) == 2 and all("-mAP-" in path.name for path in kept)
    result = Result.read(run / "result.json")
    assert result.scores.multi_label and result.scores.labels["label"] == [[], [], [0], [0], [0, 1], [0, 1]]
    assert result.metrics["mAP"] == result.headline and log[-1]["best"] == max(best)
    for row in result.scores.values["label"]:
        assert row is not None and sum(row) != pytest.approx(1.0, abs=1e-3)
    trained = gesta.load(run)
    assert trained.model.config.multi_label and "any number of them in a video" in str(trained)
    (tmp_path / "list.txt").write_text("a.mp4 0\n")
    with pytest.raises(GestaError, match=r"the model gives a video any number of classes.*data\.multi_label True"):
        gesta.evaluate(trained, Lists(val=str(tmp_path / "list.txt")), split="val")
    with pytest.raises(
        GestaError, match=r"a: its label is 0, but the model gives a video any number of classes: give a"
    ):
        gesta.evaluate(trained, [Record(path="a", name="a", label=0)])


def test_views_are_averaged_after_or_before_the_sigmoid(run: Path, recipe: Recipe) -> None:
    trained = gesta.load(run)
    logits, probabilities = (
        gesta.evaluate(trained, recipe.data, views=replace(recipe.evaluate, clips=1, average=average)).scores.values
        for average in ("logits", "probabilities")
    )
    np.testing.assert_allclose(1 / (1 + np.exp(-np.array(logits["label"]))), probabilities["label"], rtol=1e-5)


def command(arguments: list[str]) -> object:
    """The exit status of a command."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return end.value.code


def test_prediction_names_every_class_that_reaches_the_threshold(
    run: Path, recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    video = str(Path(recipe.data.val).parent / "val" / "200.mp4")  # type: ignore[attr-defined]
    (all_of_them,) = gesta.predict(gesta.load(run), [video], threshold=0.0)
    assert sorted(name for name, _ in all_of_them.labels) == CLASSES
    assert command(["predict", str(run), video, "--threshold", "1.0", "--format", "text"]) == 0
    assert "(no class reaches the threshold)" in capsys.readouterr().out
    assert command(["predict", str(run), video, "--threshold", "0", "--top", "1", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)[0]["labels"]) == 1
    assert command(["predict", str(run), video, "--threshold", "2"]) == 1
    assert "--threshold is 2.0, not from 0 to 1" in capsys.readouterr().err
    assert command(["predict", str(run), video, "--hop", "0.5"]) == 1
    assert "--hop is about the windows of a timeline" in capsys.readouterr().err
    assert command(["predict", str(run), video, "--timeline", "--clips", "2"]) == 1
    assert "--clips is about a video as a whole" in capsys.readouterr().err
    assert command(["predict", str(run), video, "--timeline", "--top", "2"]) == 1
    assert "of a multi-label model have one class each; leave --top out" in capsys.readouterr().err
    segments = list(gesta.timeline(gesta.load(run), video, config=gesta.TimelineConfig(threshold=0.0)))
    assert sorted(segment.labels[0][0] for segment in segments) == CLASSES  # both at all times


def test_segments_of_each_class_are_those_that_it_has_alone() -> None:
    probabilities = torch.rand(30, 3, generator=torch.Generator().manual_seed(0))
    windows = [Window(0.5 * i, 0.5 * i + 2, p) for i, p in enumerate(probabilities)]
    together = ClassSegmenters(3, 0.7, 0.4, 1.0, 0.6)
    found = [s for window in windows for s in together.push(window)] + list(together.finish())
    for k in range(3):
        alone = Segmenter(0.7, 0.4, 1.0, 0.6)
        ones = [Window(w.start, w.end, w.probabilities[k : k + 1]) for w in windows]
        expected = [s for window in ones for s in alone.push(window)] + list(alone.finish())
        assert expected
        assert [(s.start, s.end, s.count) for s in found if s.label == k] == [
            (s.start, s.end, s.count) for s in expected
        ]
    assert any(a.label != b.label and a.start < b.end and b.start < a.end for a in found for b in found)


def test_segments_at_the_same_time_are_drawn_one_above_the_other() -> None:
    segments = [Prediction(path="a.mp4", start=0, end=1, labels=((name, 1.0),)) for name in CLASSES]
    drawn = [_draw(torch.full((3, 100, 400), 200, dtype=torch.uint8), segments[:n])[:, -1, 0] for n in range(3)]
    assert [int((column != 200).sum()) for column in drawn] == [0, 12, 24]
    assert (drawn[2][-12:] == drawn[1][-12:]).all()


def test_probes_of_several_labels(recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    probe = ProbeConfig(lrs=(0.05,), weight_decays=(0.0,), cache=str(tmp_path / "kept"))
    model = model_config("r3d_tiny", clip=ClipSpec(frames=4, stride=1, size=32))
    trained = replace(recipe, model=model, train=TrainConfig(epochs=100, batch_size=6), probe=probe)
    run = train(trained, tmp_path / "run")
    assert "1 probes in" in capsys.readouterr().err
    result = Result.read(run / "result.json")
    assert result.metrics["mAP"] == 100.0 and result.metrics["exact"] == 100.0
    labels = result.scores.labels["label"]
    for row, label in zip(result.scores.values["label"], labels):
        assert row is not None and [k for k, value in enumerate(row) if value >= 0.5] == label


def test_what_cannot_be_is_refused_before_anything_is_written(recipe: Recipe, tmp_path: Path) -> None:
    for changes, message in (
        ({"train": replace(recipe.train, balanced=True)}, "train.balanced draws every class equally often"),
        ({"train": replace(recipe.train, class_weights="balanced")}, "train.class_weights counts each video for one"),
        (
            {"data": replace(recipe.data, train=_list(tmp_path, {"a.mp4": ["light"], "b.mp4": None}))},
            "its label is None, training needs any of 0 to 1, or an empty list",
        ),
    ):
        with pytest.raises(GestaError, match=message):
            train(replace(recipe, **changes), tmp_path / "run", quiet=True)
        assert not (tmp_path / "run").exists()
    with pytest.raises(GestaError, match="multi_label is True, and a video has one class in each of several"):
        gesta.create_model("r3d_tiny", classes={"verb": 2, "noun": 3}, multi_label=True)


def _list(folder: Path, labels: dict[str, list[str] | None]) -> str:
    (folder / "list.json").write_text(json.dumps(labels))
    return str(folder / "list.json")


def test_check_and_list_count_the_classes(recipe: Recipe, tmp_path: Path) -> None:
    described = describe(recipe.data)
    assert described.counts["train"] == [4, 2] and described.sizes["train"] == 6 and "\n  -  /" in str(described)
    assert check(recipe.data, flip=False, workers=0, progress=False).ok
    labels = {f"{i}.mp4": ["always", *["rare"] * (i == 0)] for i in range(12)}
    found = check(Lists(train=_list(tmp_path, labels), multi_label=True), workers=0, progress=False).findings
    texts = {finding.kind: finding.text for finding in found}
    assert texts["class in all videos"].startswith("class 0 (always) is in all training videos")
    (tmp_path / "list.csv").write_text("path,label\na.mp4,wave;clap\nb.mp4,wave\nc.mp4,Wave\n")
    joined = check(Lists(train=str(tmp_path / "list.csv")), workers=0, progress=False).findings
    assert "class 'wave;clap' seems to be several classes; if videos have several labels, set" in str(joined)
    recipe.data, recipe.train.keep_best = Lists(train=str(tmp_path / "list.csv")), 1
    assert any("classes 'Wave' and 'wave' differ only in capitals" in remark for remark in read_data(recipe).remarks)
    assert any("'wave;clap' seems to be several classes" in remark for remark in read_data(recipe).remarks)
    assert texts["rare class"] == "class 1 (rare) has 1 training videos, another 12; add some"


# --- batches and losses ----------------------------------------------------------------------------------------------


def test_labels_of_a_batch_become_targets() -> None:
    samples = [
        {"video": torch.zeros(1, 1, 3, 2, 2), "label": label, "index": i, "failures": [], "partial": []}
        for i, label in enumerate([(0, 2), (), (1,)])
    ]
    labels = collate(samples)["label"]["label"]  # type: ignore[arg-type]
    assert labels.tolist() == [[0, 2], [-1, -1], [1, -1]]
    targets = multi_hot(labels, 3)
    assert targets.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert multi_hot(torch.tensor([2, -1]), 3).tolist() == [[0, 0, 1], [0, 0, 0]]
    clips = torch.rand(3, 3, 1, 4, 4)
    config = TrainConfig(mixup=1.0)
    generator = torch.Generator().manual_seed(1)
    mixed, soft = mix(clips, {"label": labels}, config, 3, generator)
    for i in range(3):  # clips and targets are mixed of the same two samples in the same parts
        weights = torch.linalg.lstsq(clips.flatten(1).T, mixed[i].flatten()).solution
        torch.testing.assert_close(soft["label"][i], weights @ targets, atol=1e-5, rtol=0)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_the_mean_of_the_binary_cross_entropies(smoothing: float) -> None:
    logits = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3
    targets = torch.rand(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    p = 1 / (1 + (-logits).exp())

    def entropy(target: Tensor) -> Tensor:
        return -(target * p.log() + (1 - target) * (1 - p).log()).mean()

    uniform = torch.full_like(targets, 0.5)
    expected = (1 - smoothing) * entropy(targets) + smoothing * entropy(uniform)
    found = class_loss(logits, targets, multi_label=True, smoothing=smoothing)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    of_one = class_loss(logits, torch.tensor([0, 1, 2, 3, 0]), multi_label=False, smoothing=smoothing)
    logs = logits.log_softmax(1)
    right = logs[range(5), [0, 1, 2, 3, 0]].mean()
    torch.testing.assert_close(of_one, -(1 - smoothing) * right - smoothing * logs.mean(), atol=1e-12, rtol=0)


def test_mirroring_looks_at_all_classes_of_a_video(recipe: Recipe) -> None:
    names = ["wave", "swipe_left", "swipe_right", "turn_left"]
    records = [Record(path="a.mp4", name="a.mp4", label=(0,))]
    config = TrainConfig()
    config.augment.flip, config.augment.flip_labels = 1.0, {"swipe_left": "swipe_right"}
    clips = TrainingClips(records, recipe.model.clip, config, names)
    generators = (torch.Generator(),)
    assert clips._flips((0,), generators) == ((0,), (True,))
    assert clips._flips((0, 2), generators) == ((0, 1), (True,))
    assert clips._flips((1, 2), generators) == ((1, 2), (True,))
    assert clips._flips((0, 3), generators) == ((0, 3), (False,))  # nothing says what is seen in a mirror
    assert clips._flips((), generators) == ((), (True,))


def test_a_fraction_is_held_out_whatever_the_labels_are() -> None:
    labels = [tuple(np.flatnonzero([i & 1, i & 2, i & 4, i & 8]).tolist()) for i in range(40)]
    records = [Record(path=f"{i}.mp4", name=f"{i}.mp4", label=label) for i, label in enumerate(labels)]
    assert split_by_class(records, 0.2, 0.0, 0).count("val") == 8
