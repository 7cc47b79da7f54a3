"""Every listed video ends in the result once, whoever scored it and whether or not it could be read."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gesta.checkpoint import TrainedModel, load, save_model
from gesta.config import config, replace
from gesta.data.lists import Folder
from gesta.errors import GestaError
from gesta.evaluation.evaluate import evaluate
from gesta.evaluation.metrics import measure, measure_actions
from gesta.evaluation.result import Result
from gesta.model import Classifier, ClipSpec, ModelConfig, VideoModel
from gesta.recipe import EvaluateConfig
from gesta.records import Record
from gesta.video.depth import Depth
from gesta.video.flow import Flow
from results import result

CLASSES = ["dark", "middle", "bright"]


@config
class Brightness(ModelConfig):
    """Tells dark from bright videos without training: the class whose grey level is nearest."""

    def build(self) -> VideoModel:
        return BrightnessModel(self)


class BrightnessModel(VideoModel):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.blocks = nn.ModuleList([nn.Identity()])
        self.norm = nn.BatchNorm3d(3)
        self.classifier = Classifier(3, config.classes)
        for layer in [m for m in self.classifier.modules() if isinstance(m, nn.Linear)]:
            levels = torch.linspace(0.1, 0.8, layer.out_features)
            layer.weight.data = (2 * levels[:, None]).expand(-1, 3) * 8
            layer.bias.data = -3 * levels**2 * 8
        self.finish()
        self.passes: list[int] = []

    def stem(self, video: Tensor) -> Tensor:
        self.passes.append(len(video))
        return self.norm(video) if not self.training else video

    def pool(self, state: Tensor) -> Tensor:
        return state.mean((2, 3, 4))

    def to_grid(self, state: Tensor) -> Tensor:
        return state

    def from_grid(self, grid: Tensor, state: Tensor) -> Tensor:
        return grid

    def grid_at(self, block: int) -> tuple[int, int, int, int]:
        return (3, self.config.clip.frames, self.config.clip.size, self.config.clip.size)


CLIP = ClipSpec(frames=4, stride=2, size=32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
PROTOCOL = EvaluateConfig(clips=2, crops=3, short_side=256, batch_size=4, workers=0)


def build(classes: int | dict[str, int] = 3) -> BrightnessModel:
    return Brightness(classes=classes, clip=CLIP).build()  # type: ignore[return-value]


@pytest.fixture
def records(make_video: Callable[..., Path]) -> list[Record]:
    """Seven videos: two of each class (one wrongly labelled), an unlabelled one; and a broken one among them."""
    listed = []
    for i, (shade, frames, label) in enumerate(
        [(0, 9, 0), (60, 12, 1), (150, 10, 2), (0, 3, 0), (60, 24, 0), (150, 11, 2), (150, 10, None)]
    ):
        path = make_video(f"{i}.mp4", shade=shade, frames=frames)
        listed.append(Record(path=str(path), name=f"{i}.mp4", label=label))
    broken = path.with_name("broken.mp4")
    broken.write_bytes(b"no video at all")
    return listed[:3] + [Record(path=str(broken), name="broken.mp4", label=1)] + listed[3:]


def test_denominators_are_honest(records: list[Record]) -> None:
    result = evaluate(build(), records, classes=CLASSES, views=PROTOCOL)
    counted = result.counts
    counts = (counted.listed, counted.labelled, counted.decoded, counted.scored, counted.failed)
    assert counts == (8, 7, 7, 7, 1)
    assert [failure["name"] for failure in result.failures] == ["broken.mp4"]
    assert result.failures[0]["index"] == 3 and result.failures[0]["reason"]
    assert records[3].path not in result.failures[0]["reason"]  # its name says which
    assert result.scores.values["label"][3] is None
    # 7 labelled: five right, one wrongly labelled, one broken. Per class: 2 of 3, 1 of 2, 2 of 2.
    assert result.metrics["top1"] == pytest.approx(100 * 5 / 7)
    assert result.metrics["top1_scored"] == pytest.approx(100 * 5 / 6)
    assert result.metrics["mean_class"] == pytest.approx(100 * (2 / 3 + 1 / 2 + 1) / 3)
    assert result.metrics["mean_class_scored"] == pytest.approx(100 * (2 / 3 + 1 + 1) / 3)
    assert result.scores.per_class["label"] == pytest.approx([200 / 3, 50, 100])
    assert result.scores.confusion["label"] == [[2, 1, 0], [0, 1, 0], [0, 0, 2]]
    text = str(result)
    assert "7 of 8 videos scored, 1 failed (counted as wrong)" in text
    assert "broken.mp4" in text and "71.43" in text and "83.33" in text and "2 clips × 3 crops" in text


def test_the_protocol_is_written_down(records: list[Record]) -> None:
    result = evaluate(build(), records[:3], classes=CLASSES, views=PROTOCOL)
    how = result.protocol
    assert (how.clips, how.crops, how.views, result.counts.views) == (2, 3, "2 clips × 3 crops", 18)
    assert how.sampling == "dense 4×2"
    shrinks = build()
    shrinks.config.clip = replace(shrinks.config.clip, shrink=True)
    other = evaluate(shrinks, records[:1], classes=CLASSES, views=PROTOCOL)
    assert other.protocol.sampling == "dense 4×2 or less"
    assert (how.short_side, how.size) == (37, 32)  # 256 of 224, scaled to 32
    assert result.environment.decoder.startswith("pyav ") and result.environment.precision == "32-true"
    assert result.environment.torch == torch.__version__ and result.model.summary == "Brightness"
    again = evaluate(build(), records[:3], classes=CLASSES, views=PROTOCOL)
    again.seconds = result.seconds
    assert again == result
    other = evaluate(build(), records[2::-1], classes=CLASSES, views=PROTOCOL)
    assert other.list_hash != result.list_hash


@pytest.mark.parametrize("average", ["probabilities", "logits"])
@pytest.mark.parametrize("batch_size", [1, 4, 7, 64])
def test_packing_views_into_passes_changes_no_score(records: list[Record], average: str, batch_size: int) -> None:
    model = build()
    one = evaluate(model, records, classes=CLASSES, views=_with(average=average, batch_size=6))
    model.passes.clear()
    other = evaluate(model, records, classes=CLASSES, views=_with(average=average, batch_size=batch_size))
    if batch_size > 1:
        assert model.passes.pop() == min(batch_size, 7)  # a clip of each video, to see whether the model's parts work
    assert max(model.passes) <= batch_size and sum(model.passes) == 7 * 6
    assert model.passes[:-1] == [batch_size] * (len(model.passes) - 1)  # only the last pass is not full
    for a, b in zip(one.scores.values["label"], other.scores.values["label"]):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            assert a == pytest.approx(b, abs=1e-5)
            assert average == "logits" or sum(a) == pytest.approx(1, abs=1e-5)


def test_the_whole_video_in_neighbouring_clips(records: list[Record]) -> None:
    result = evaluate(build(), records, classes=CLASSES, views=_with(coverage="contiguous", clips=5, crops=1))
    assert result.counts.scored == 7 and result.protocol.clips is None
    assert result.protocol.views == "whole video × 1 crop"
    assert result.counts.views > result.counts.scored  # a long video gives more clips than a short one


def test_several_label_spaces(records: list[Record]) -> None:
    spaces = {"verb": ["dark", "middle", "bright"], "noun": ["night", "day"]}
    both = [
        Record(path=r.path, name=r.name, label=None if r.label is None else {"verb": r.label, "noun": int(r.label > 1)})
        for r in records
    ]
    result = evaluate(build({"verb": 3, "noun": 2}), both, classes=spaces, views=PROTOCOL)
    assert result.metrics["verb/top1"] == pytest.approx(100 * 5 / 7)
    assert set(result.scores.values) == {"verb", "noun"} and len(result.scores.values["noun"][0] or []) == 2
    assert np.shape(result.scores.confusion["noun"]) == (2, 2)
    right = [
        v is not None and v and n for v, n in zip(*(result.scores.right(space, "probabilities") for space in spaces))
    ]
    assert result.metrics["action/top1"] == pytest.approx(100 * sum(right) / 7)
    assert "verb: all labelled videos" in str(result) and "action: all labelled videos" in str(result)


def test_training_continues_as_it_was(records: list[Record]) -> None:
    model = build().train()
    model.norm.eval()  # frozen by the training loop
    evaluate(model, records[:1], classes=CLASSES, views=PROTOCOL)
    assert model.training and model.classifier.training and not model.norm.training
    assert model.norm.num_batches_tracked == 0


def test_a_broken_model_is_reported_and_not_ranked(records: list[Record]) -> None:
    model = build()
    model.classifier.linear.bias.data[1] = float("nan")
    result = evaluate(model, records[:2], classes=CLASSES, views=PROTOCOL)
    assert (result.counts.decoded, result.counts.scored, result.counts.failed) == (2, 0, 2)
    assert result.metrics["top1"] == 0 and "top1_scored" not in result.metrics
    assert "not finite" in str(result)
    json.loads(json.dumps(result.to_json(), allow_nan=False))


def test_what_does_not_fit_is_refused(records: list[Record]) -> None:
    with pytest.raises(GestaError, match="no videos"):
        evaluate(build(), [], classes=CLASSES, views=PROTOCOL)
    with pytest.raises(GestaError, match="clips is 0, not 1 or more"):
        evaluate(build(), records, classes=CLASSES, views=_with(clips=0))
    with pytest.raises(GestaError, match="class names that it was trained with"):
        evaluate(build(), records, classes=CLASSES[:2], views=PROTOCOL)
    beyond = Record(path=records[0].path, name="from_one.mp4", label=3)
    with pytest.raises(GestaError, match=r"from_one\.mp4: label 3"):
        evaluate(build(), [*records, beyond], classes=CLASSES, views=PROTOCOL)


def test_a_trained_model_on_a_data_set(make_video: Callable[..., Path], tmp_path: Path) -> None:
    for name in ("test/run/a.mp4", "test/sit/b.mp4", "val/run/c.mp4"):
        make_video(f"videos/{name}", frames=12)
    for name in ("run", "sit", "wave"):
        make_video(f"videos/train/{name}/d.mp4", frames=12)
    data = Folder(root=str(tmp_path / "videos"))
    path = save_model(tmp_path / "best.safetensors", build(), ["run", "sit", "wave"])
    model = load(path, trust_code=True)
    result = evaluate(model, data, views=PROTOCOL, clips=1)
    assert result.scores.names == ["test/run/a.mp4", "test/sit/b.mp4"] and result.scores.classes == {
        "label": ["run", "sit", "wave"]
    }
    assert (result.model.checkpoint, result.protocol.clips, result.protocol.split) == (str(path), 1, "test")
    assert result.data is not None and result.data["root"] == data.root and PROTOCOL.clips != 1
    assert evaluate(model, data, views=PROTOCOL, split="val").scores.names == ["val/run/c.mp4"]
    unnamed = evaluate(build(), data.records("test"), views=PROTOCOL)
    assert unnamed.scores.classes == {"label": ["0", "1", "2"]} and unnamed.model.checkpoint is None
    model = load(save_model(path, build(), ["run", "sit", "jump"]), trust_code=True)
    with pytest.raises(GestaError, match=r"knows 3 classes \(run, sit, jump …\), the data set has 3"):
        evaluate(model, data, views=PROTOCOL)
    (tmp_path / "videos/val/run/c.mp4").unlink()
    with pytest.raises(GestaError, match="no split 'val'"):
        evaluate(build(), data, split="val")


def test_a_result_says_what_else_the_model_was_trained_on(records: list[Record], tmp_path: Path) -> None:
    def said(videos: list[Record], **trained: Any) -> str:
        model = TrainedModel(model=build(), classes=CLASSES, metadata={}, **trained)
        result = evaluate(model, videos, views=PROTOCOL)
        assert (f"warning: {result.input_differs}" in " ".join(str(result).split())) == bool(result.input_differs)
        assert Result.read(result.write(tmp_path / "result.json")).input_differs == result.input_differs
        return result.input_differs

    def depth(**how: Any) -> list[Record]:
        return [dataclasses.replace(record, shows=Depth(**how)) for record in records]

    assert said(records) == said(depth(), shows=Depth()) == ""
    assert evaluate(build(), depth(), views=PROTOCOL).input_differs == ""  # it is not known of a network
    near = said(depth(near=100), shows=Depth())
    assert "trained on depth as jet from 500 to 4500 mm, and these videos show depth as jet from 100" in near
    assert "show depth as repeat3 from" in said(depth(encoding="repeat3"), shows=Depth())
    wrapped = Depth("jet_wrapped", near=1)
    assert said(depth(encoding="jet_wrapped"), shows=wrapped) == ""  # which reads no range
    assert "as jet_wrapped, and these videos show RGB; " in said(records, shows=wrapped)
    assert "on optical flow, and 7 of these 8 videos show depth as jet" in said(
        [dataclasses.replace(records[0], shows=Flow()), *depth()[1:]], shows=Flow()
    )
    cropped = said(records, person_crop=True)
    assert "trained on RGB cropped to the person, and these videos show RGB in whole frames; " in cropped
    masked = [*depth()[:-1], dataclasses.replace(depth()[-1], masks=str(tmp_path))]
    assert said(masked, shows=Depth(), person_crop=True) == ""  # as in training, where some have no masks
    assert "depth as jet from 500 to 4500 mm in whole frames, and these videos" in said(masked, shows=Depth())


def test_results_are_written_whole_and_read_back(records: list[Record], tmp_path: Path) -> None:
    result = evaluate(build(), records, classes=CLASSES, views=PROTOCOL)
    path = result.write(tmp_path / "new" / "result.json")
    assert Result.read(path) == result
    assert [p.name for p in path.parent.iterdir()] == ["result.json"]
    path.write_text(path.read_text()[:-100])
    with pytest.raises(GestaError, match=r"result\.json: is not valid JSON"):
        Result.read(path)
    path.write_text('{"metrics": {}}')
    with pytest.raises(GestaError, match=r"result\.json: this is not a result"):
        Result.read(path)
    path.write_text('{"format": 1, "metrics": {}}')
    with pytest.raises(GestaError, match=r"result\.json: Result lacks model, data, .*; evaluate again"):
        Result.read(path)
    path.write_text(json.dumps(result.to_json() | {"format": 2}))
    with pytest.raises(GestaError, match=r"result\.json: .*upgrade gesta"):
        Result.read(path)
    with pytest.raises(GestaError, match=r"absent\.json"):
        Result.read(tmp_path / "absent.json")


def test_metrics_are_those_of_torchmetrics() -> None:
    from torchmetrics.functional.classification import multiclass_accuracy, multiclass_confusion_matrix

    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(200, 9, generator=generator)
    labels = torch.randint(0, 8, (200,), generator=generator)  # class 8 has no video
    metrics, figures, confusion = measure(scores.tolist(), labels.tolist(), 9)
    per_class = figures["recall"]
    for key, k in (("top1", 1), ("top5", 5)):
        theirs = multiclass_accuracy(scores, labels, 9, average="micro", top_k=k)
        assert metrics[key] == pytest.approx(100 * theirs.item(), abs=1e-4)
    each = multiclass_accuracy(scores, labels, 9, average="none")[:8]
    assert per_class[:8] == pytest.approx((100 * each).tolist(), abs=1e-4) and per_class[8] is None
    assert metrics["mean_class"] == pytest.approx(100 * each.mean().item(), abs=1e-4)
    assert confusion == multiclass_confusion_matrix(scores, labels, 9).tolist()


def test_figures_of_classes_are_those_of_scikit_learn_and_of_counting() -> None:
    """Class 7 has no video and is predicted; class 8 has videos and is never predicted; 9 has neither."""
    generator = np.random.default_rng(0)
    labels = generator.choice([0, 1, 2, 3, 4, 5, 6, 8], 300)
    answers = generator.choice([0, 1, 2, 3, 4, 5, 6, 7], 300)
    scores: list[list[float] | None] = np.eye(10)[answers].tolist()
    metrics, figures, _ = measure(scores, labels.tolist(), 10)
    for k in range(10):
        right = sum(a == k == b for a, b in zip(answers, labels))
        of_class, predicted = int((labels == k).sum()), int((answers == k).sum())
        precision, recall = right / predicted if predicted else None, right / of_class if of_class else None
        mean = 2 * (precision or 0) * (recall or 0) / ((precision or 0) + (recall or 0)) if right else 0.0
        expected = [precision, recall, mean]
        if not of_class:
            expected = [None] * 3  # nothing is known of it
        assert [figures[name][k] for name in ("precision", "recall", "f1")] == [
            None if value is None else pytest.approx(100 * value) for value in expected
        ]
    theirs = pytest.importorskip("sklearn.metrics").precision_recall_fscore_support
    means = theirs(labels, answers, labels=[0, 1, 2, 3, 4, 5, 6, 8], average="macro", zero_division=0)
    for name, mean in zip(("macro_precision", "mean_class", "macro_f1"), means):
        assert metrics[name] == pytest.approx(100 * mean) == pytest.approx(metrics[f"{name}_scored"])
    # a video that failed is one that its class lacks, and is not predicted as anything
    scores[:50] = [None] * 50
    with_failed, failed_figures, _ = measure(scores, labels.tolist(), 10)
    assert failed_figures["f1"][0] == pytest.approx(
        200 * sum((answers[50:] == 0) & (labels[50:] == 0)) / (sum(labels == 0) + sum(answers[50:] == 0))
    )
    assert with_failed["macro_f1"] < with_failed["macro_f1_scored"]


def test_classes_without_videos_or_predictions_are_named() -> None:
    text = str(result([0, 0, 1, 1], [0, 0, 0, 0], classes=("push", "pull", "wave")))
    assert "never predicted, so with a precision of 0 in its mean: pull" in text
    assert "without videos, so left out of the means: wave" in text


def test_results_say_which_segments_were_scored(records: list[Record], tmp_path: Path) -> None:
    path = records[0].path
    parts: tuple[dict[str, Any], ...] = ({"end": 6}, {"start": 2, "end": 8}, {"start": 4}, {"seconds": (0.0, 0.5)}, {})
    listed = [Record(path=path, name="one.mp4", label=0, **part) for part in parts]
    found = evaluate(build(), listed, classes=CLASSES, views=PROTOCOL)
    assert found.scores.segments == ["0-6", "2-8", "4-", "0.0-0.5 s", ""]
    assert Result.read(found.write(tmp_path / "result.json")) == found
    content = found.to_json()
    content["scores"] = {name: value for name, value in content["scores"].items() if name != "segments"}
    (tmp_path / "older.json").write_text(json.dumps(content, default=vars))
    older = Result.read(tmp_path / "older.json")
    assert older.scores.segments is None and older.scores.values == found.scores.values
    assert evaluate(build(), records[:1], classes=CLASSES, views=PROTOCOL).scores.segments == []


def test_figures_of_an_older_result_are_computed(tmp_path: Path) -> None:
    made = result([0, 0, 1, 1], [0, 1, 1, None])
    content = made.to_json()
    content["scores"] = {name: value for name, value in content["scores"].items() if name != "figures"}
    content["metrics"] = {name: value for name, value in made.metrics.items() if not name.startswith("macro_")}
    (tmp_path / "result.json").write_text(json.dumps(content, default=vars))
    assert Result.read(tmp_path / "result.json") == made


def test_actions_are_ranked_in_the_joint_table() -> None:
    """Top-1 is verb and noun both right; top-5 is not both among their own five best."""
    rng = np.random.default_rng(0)
    verbs, nouns = rng.dirichlet(np.full(12, 0.5), 300), rng.dirichlet(np.full(20, 0.5), 300)
    v, n = rng.integers(12, size=300), rng.integers(20, size=300)
    v[:150], n[:200] = verbs[:150].argmax(1), nouns[:200].argmax(1)
    scores = {"verb": verbs.tolist(), "noun": nouns.tolist()}
    labels = {"verb": v.tolist(), "noun": n.tolist()}
    found = measure_actions(scores, labels, "probabilities")
    both = (verbs.argmax(1) == v) & (nouns.argmax(1) == n)
    assert found["action/top1"] == found["action/top1_scored"] == pytest.approx(100 * both.mean())
    tables = (verbs[:, :, None] * nouns[:, None]).reshape(300, -1)
    among = (np.argsort(-tables, 1)[:, :5] == (20 * v + n)[:, None]).any(1)
    each = (np.argsort(-verbs, 1)[:, :5] == v[:, None]).any(1) & (np.argsort(-nouns, 1)[:, :5] == n[:, None]).any(1)
    assert found["action/top5"] == pytest.approx(100 * among.mean())
    assert both.mean() < among.mean() < each.mean()
    logits = {"verb": (np.log(verbs) + 3).tolist(), "noun": (np.log(nouns) - 2).tolist()}
    assert measure_actions(logits, labels, "logits") == found
    assert measure_actions(
        {"verb": [[0.5, 0.5]], "noun": [[0.5, 0.5]]}, {"verb": [0], "noun": [1]}, "probabilities"
    ) == {
        "action/top1": 0,
        "action/top5": 100,
        "action/top1_scored": 0,
        "action/top5_scored": 100,
    }


def test_failed_and_half_labelled_videos_among_actions() -> None:
    scores = {"verb": [[0.9, 0.1], None, [0.9, 0.1]], "noun": [[0.2, 0.8], None, [0.2, 0.8]]}
    found = measure_actions(scores, {"verb": [0, 1, 0], "noun": [1, 1, None]}, "probabilities")
    assert found["action/top1"] == 50 and found["action/top1_scored"] == 100
    assert measure_actions(scores, {"verb": [None] * 3, "noun": [0] * 3}, "probabilities") == {}


@pytest.mark.full  # test_two_processes_train_as_one evaluates in two processes, too
def test_two_processes_give_the_result_of_one(records: list[Record], tmp_path: Path) -> None:
    """Eight videos and a broken one by two processes of torchrun: the same result, no video twice or missing."""
    odd = [*records, Record(path=records[0].path, name="once_more.mp4", label=0)]
    listed = [[r.path, r.name, r.label] for r in odd]
    (tmp_path / "list.json").write_text(json.dumps(listed))
    here = Path(__file__).parents[1]  # of conftest.py
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    paths = os.pathsep.join([str(here), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": paths}
    done = subprocess.run(
        [*command, str(Path(__file__)), str(tmp_path)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    two = Result.read(tmp_path / "two.json")
    one = evaluate(build(), odd, classes=CLASSES, views=PROTOCOL)
    for a, b in zip(one.scores.values["label"], two.scores.values["label"]):
        assert (a is None) == (b is None)
        assert a is None or a == pytest.approx(b, abs=1e-5)
    two.scores.values, two.seconds = one.scores.values, one.seconds
    if one.environment.device == "cpu":
        assert two == one


def _with(**changes: object) -> EvaluateConfig:

    return replace(PROTOCOL, **changes)


if __name__ == "__main__":  # one of the processes of test_two_processes_give_the_result_of_one
    from test_evaluate import build  # the configuration's class must have the same import path in both

    folder = Path(sys.argv[1])
    entries = [Record(path=p, name=n, label=la) for p, n, la in json.loads((folder / "list.json").read_text())]
    found = evaluate(build(), entries, classes=CLASSES, views=PROTOCOL)
    if os.environ["RANK"] == "0":
        found.write(folder / "two.json")
