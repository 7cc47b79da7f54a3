"""Late fusion: what it must not change, what it computes, videos that one stream lacks."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gesta.cli import main
from gesta.errors import GestaError
from gesta.evaluation.evaluate import evaluate
from gesta.evaluation.fuse import By, fuse
from gesta.evaluation.metrics import measure
from gesta.evaluation.result import Result
from gesta.model import ClipSpec
from gesta.models import model_config
from gesta.recipe import EvaluateConfig
from gesta.records import Record
from gesta.video.depth import Depth
from results import changed, result

ALL: list[Any] = ["prob_mean", "logit_mean", "prob_product"]


def stream(scores: list[list[float] | None], labels: list[int | None], **fields: Any) -> Result:
    """A result with these scores."""
    answers = [None if s is None else int(np.argmax(s)) for s in scores]
    found = result(labels, answers, classes=["a", "b", "c"], **fields)
    return changed(found, values={"label": scores})


def random(seed: int, n: int = 40, skill: float = 1.0, split: str = "video") -> Result:
    rng = np.random.default_rng(seed)
    labels = np.random.default_rng(len(split)).integers(3, size=n)
    logits = rng.normal(size=(n, 3)) + skill * np.eye(3)[labels]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    rows: list[list[float] | None] = [[float(f"{v:.7g}") for v in row] for row in p]
    return stream(rows, labels.tolist(), names=[f"{split} {i}" for i in range(n)])


@pytest.mark.parametrize("by", ALL)
def test_identical_streams_are_the_stream(by: By) -> None:
    one = random(0)
    found = fuse([one, one], by)
    assert found.metrics == one.metrics and found.scores == dataclasses.replace(one.scores, values=found.scores.values)
    if by != "prob_product":  # which is surer of itself
        np.testing.assert_allclose(found.scores.values["label"], one.scores.values["label"], rtol=2e-6)  # type: ignore[arg-type]
    assert fuse([one, one, one], by).metrics == one.metrics
    assert found.partial == [] and found.counts.listed == found.counts.scored == 40


def test_all_that_the_results_say_against_themselves_is_kept() -> None:
    streams = [random(seed) for seed in range(4)]
    for of_stream, text in zip(streams, ("seen in training", "", "chosen by these videos", "seen in training")):
        of_stream.optimistic = text
    assert fuse(streams).optimistic == "seen in training; chosen by these videos"
    streams[1].input_differs = "trained on depth"
    assert fuse(streams).input_differs.endswith(": trained on depth")


def test_learned_fusion_of_identical_streams_is_the_stream() -> None:
    one, known = random(0), random(1, split="other")
    assert fuse([one, one], "learned", [known, known]).metrics == one.metrics


def test_what_each_kind_computes() -> None:
    a, b = stream([[0.7, 0.2, 0.1]], [0]), stream([[0.2, 0.5, 0.3]], [0])
    p, q = np.array([0.7, 0.2, 0.1]), np.array([0.2, 0.5, 0.3])
    expected = {"prob_mean": (p + q) / 2, "logit_mean": np.sqrt(p * q), "prob_product": p * q}
    for by in ALL:
        np.testing.assert_allclose(
            fuse([a, b], by).scores.values["label"][0], expected[by] / expected[by].sum(), rtol=1e-6
        )  # type: ignore[arg-type]
    shifted = changed(a, average="logits", values={"label": [(np.log(p) + 5).tolist()]})
    for by in ALL:  # logits are as good as probabilities
        np.testing.assert_allclose(
            fuse([shifted, b], by).scores.values["label"][0],  # type: ignore[arg-type]
            fuse([a, b], by).scores.values["label"][0],  # type: ignore[arg-type]
            rtol=1e-6,
        )


def test_streams_that_differ_help_each_other() -> None:
    streams = [random(seed, 400) for seed in (1, 2)]
    for by in ALL:
        assert fuse(streams, by).metrics["top1"] > max(s.metrics["top1"] for s in streams) + 3


def test_learned_weights_prefer_the_better_stream() -> None:
    good, noise = random(1, 400, skill=2.0), random(2, 400, skill=0.0)
    known = [random(3, 4000, skill=2.0, split="other"), random(4, 4000, skill=0.0, split="other")]
    found = fuse([good, noise], "learned", known)
    weights = found.model.config["weights"]["label"]
    # log-likelihoods of unit normals whose means lie `skill` apart are `skill` times the logits
    assert weights == pytest.approx([2, 0], abs=0.15)
    assert found.metrics["top1"] > fuse([good, noise]).metrics["top1"]


def test_a_video_that_one_stream_lacks_is_scored_by_the_other() -> None:
    a = stream([[0.9, 0.1, 0.0], None, None], [0, 1, 2])
    b = stream([[0.1, 0.9, 0.0], [0.1, 0.8, 0.1], None], [0, 1, 2], data={"class": "x", "modality": "depth"})
    a = changed(a, data={"class": "x", "modality": "rgb"})
    for by in ALL:
        found = fuse([a, b], by)
        np.testing.assert_allclose(found.scores.values["label"][1], [0.1, 0.8, 0.1], rtol=1e-6)  # type: ignore[arg-type]
        assert [f["name"] for f in found.failures] == ["video 2"] and found.scores.values["label"][2] is None
        assert [(f["index"], f["reason"]) for f in found.partial] == [(1, "rgb: cannot be decoded")]
        assert (found.counts.listed, found.counts.scored, found.counts.failed) == (3, 2, 1)
        assert found.metrics == measure(found.scores.values["label"], found.scores.labels["label"], 3)[0]
        assert [
            (each["name"], each["counts"]["scored"], each["counts"]["failed"]) for each in found.model.config["of"]
        ] == [
            ("rgb", 1, 2),
            ("depth", 2, 1),
        ]
        assert "rgb alone: 1 scored, 2 failed" in str(found) and "depth alone: 2 scored, 1 failed" in str(found)
        assert "1 video was scored without a part that was missing" in str(found)
        assert "video 1: rgb: cannot be decoded" in str(found)


def test_a_missing_depth_file_is_named_beside_the_colour_that_is_there(
    make_video: Callable[..., Path], tmp_path: Path
) -> None:
    root = str(make_video("0.mp4").parent)
    make_video("1.mp4", shade=60)
    (tmp_path / "depth").mkdir()
    shutil.copy(tmp_path / "1.mp4", tmp_path / "depth" / "1.mp4")
    model = model_config("r3d_tiny", clip=ClipSpec(frames=2, stride=2, size=32), classes=2).build()
    found = []
    for modality, home in (("rgb", root), ("depth", f"{root}/depth")):
        depth = Depth() if modality == "depth" else None
        records = [Record(path=f"{home}/{i}.mp4", name=f"{i}", label=i, shows=depth) for i in range(2)]
        result = evaluate(model, records, classes=["a", "b"], views=EvaluateConfig(clips=1, workers=0))
        found.append(changed(result, data={"modality": modality}))
    fused = fuse(found)
    assert [(f["name"], f["reason"]) for f in fused.partial] == [("0", "depth: does not exist; check the path")]
    assert (fused.counts.scored, fused.counts.failed) == (2, 0)
    assert [
        (each["name"], each["counts"]["scored"], each["counts"]["failed"]) for each in fused.model.config["of"]
    ] == [
        ("rgb", 2, 0),
        ("depth", 1, 1),
    ]
    assert fused.scores.values["label"][0] == pytest.approx(found[0].scores.values["label"][0])


def test_attributes_and_parts_are_fused(tmp_path: Path) -> None:
    attributes = {"first": ["x", "x", "y"]}
    a = stream([[0.6, 0.4, 0.0], [0.1, 0.2, 0.7]], [1, 1], attributes=attributes, groups={"tail": {"label": [0]}})
    b = stream([[0.0, 1.0, 0.0], [0.1, 0.2, 0.7]], [1, 1])
    found = Result.read(fuse([a, b]).write(tmp_path / "fused.json"))
    assert found.metrics["attribute/first"] == found.metrics["attribute/all"] == 50
    assert found.metrics["tail/label"] == 100
    assert "tail, top-1: label 100.00 % of 1 videos" in str(found)


def test_videos_are_matched_by_name() -> None:
    a = random(0)
    order = list(reversed(range(40)))
    b = changed(
        a,
        names=[a.scores.names[i] for i in order],
        labels={"label": [a.scores.labels["label"][i] for i in order]},
        values={"label": [a.scores.values["label"][i] for i in order]},
    )
    assert fuse([a, b]).scores.values == fuse([a, a]).scores.values


def test_segments_of_one_video_are_fused_with_themselves() -> None:
    """The lists of two streams name them in another order; both say the same of each segment."""
    scores: list[list[float] | None] = [[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]]
    a = stream(scores, [0, 0], names=["v", "v"], segments=["0-8", "8-16"], list_hash="a")
    b = stream(scores[::-1], [0, 0], names=["v", "v"], segments=["8-16", "0-8"], list_hash="b")
    assert fuse([a, b]).metrics["top1"] == 50
    assert fuse([a, b]).scores.values["label"][0] == pytest.approx(scores[0])
    with pytest.raises(GestaError, match="older version, which did not note the segments; evaluate again"):
        fuse([a, changed(b, segments=None)])
    with pytest.raises(GestaError, match="not about the same videos"):
        fuse([a, changed(b, segments=["8-16", "0-9"])])


def test_weights_are_learned_on_the_same_models_in_the_same_order() -> None:
    def of(split: str, **models: str | None) -> list[Result]:
        made = (random(i, split=split) for i in range(2))
        return [changed(one, checkpoint=name, checkpoint_sha256=sha) for one, (name, sha) in zip(made, models.items())]

    fused, fit = of("video", rgb="1" * 64, depth="2" * 64), of("other", rgb="1" * 64, depth="2" * 64)
    fuse(fused, "learned", fit)
    for wrong in (fit[::-1], [fit[0], fit[0]], of("other", rgb="1" * 64, depth=None)):
        with pytest.raises(GestaError, match=r"number \d is of MViT.*; give fit the same models in the same order"):
            fuse(fused, "learned", wrong)
    # without files it is by the configurations, and by what the videos showed
    plain = [random(0), changed(random(1), config_sha256="1" * 64)]
    known = [random(0, split="other"), changed(random(1, split="other"), config_sha256="1" * 64)]
    fuse(plain, "learned", known)
    for pair in (known[::-1], [changed(known[0], data={"class": "x", "modality": "depth"}), known[1]]):
        with pytest.raises(GestaError, match="number 1 is of MViT"):
            fuse(plain, "learned", pair)
    twice = fuse(fused), fuse(fit)  # whose metrics differ
    fuse([twice[0], fused[0]], "learned", [twice[1], fit[0]])


def test_weights_are_learned_on_the_same_classes() -> None:
    fused, fit = [random(0), random(1)], [random(0, split="other"), random(1, split="other")]
    fields = {name: getattr(fit[0].scores, name)["label"] for name in ("classes", "labels", "values")}
    verbs = [changed(one, **{name: {"verb": value} for name, value in fields.items()}) for one in fit]
    several = [changed(one, multi_label=True, labels={"label": [[0]] * 40}) for one in fit]
    for other in (verbs, several, [changed(one, classes={"label": ["a", "c", "b"]}) for one in fit]):
        with pytest.raises(GestaError, match=r"have other classes than those that are fused"):
            fuse(fused, "learned", other)


def test_verbs_and_nouns_are_fused_apart() -> None:
    def spaces(one: Result, other: Result) -> Result:
        fields = ("classes", "labels", "values", "per_class", "confusion")
        parts = {f: (getattr(one.scores, f)["label"], getattr(other.scores, f)["label"]) for f in fields}
        return changed(one, **{f: {"verb": verb, "noun": noun} for f, (verb, noun) in parts.items()})

    a, b = spaces(random(0), random(1)), spaces(random(2), random(3))
    found = fuse([a, b])
    for space, pair in (("verb", (0, 2)), ("noun", (1, 3))):
        alone = fuse([random(seed) for seed in pair])
        assert found.scores.values[space] == alone.scores.values["label"]
        assert found.metrics[f"{space}/top1"] == alone.metrics["top1"]
    assert 0 < found.metrics["action/top1"] < 100


def test_refusals() -> None:
    a = random(0)
    for others, by, fit, message in (
        ([], "prob_mean", [], "one result cannot be fused"),
        ([random(0, split="other")], "prob_mean", [], "not about the same videos"),
        ([changed(a, classes={"label": ["a", "c", "b"]})], "prob_mean", [], "other classes"),
        ([changed(a, labels={"label": [0] * 40})], "prob_mean", [], "differs between the results"),
        ([a], "prob_means", [], "did you mean 'prob_mean'"),
        ([a], "learned", [], "fit RESULT RESULT"),
        ([a], "prob_mean", [a, a], "and nothing else does"),
        ([a], "learned", [a, a], "prove nothing"),
    ):
        with pytest.raises(GestaError, match=message):
            fuse([a, *others], by, fit)  # type: ignore[arg-type]


def test_no_result_takes_the_place_of_one_that_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nor by its default name, nor that of a run's folder, nor one to learn from."""
    paths = [str(tmp_path / name / "result.json") for name in ("a", "b")]
    for seed, path in enumerate(paths):
        random(seed).write(path)
    read = Path(paths[0]).read_bytes()
    fused = tmp_path / "a" / "fused-prob_mean.json"
    shutil.copy(paths[0], fused)
    for words, out in (
        ([*paths, "--out", paths[0]], paths[0]),
        ([str(tmp_path / "a"), paths[1], "--out", paths[0]], paths[0]),
        ([paths[1], str(fused), "--fit", *paths, "--by", "learned", "--out", paths[0]], paths[0]),
        ([str(fused), paths[1]], str(fused)),
    ):
        with pytest.raises(SystemExit, match="1"):
            main(["fuse", *words])
        assert f"{out}: is itself read, and would be replaced" in capsys.readouterr().err
        assert Path(paths[0]).read_bytes() == fused.read_bytes() == read


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(random(seed).write(tmp_path / f"{seed}.json")) for seed in (0, 1)]
    with pytest.raises(SystemExit) as stop:
        main(["fuse", *paths, "--by", "logit_mean"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["fuse", *paths, "--by", "logit_mean", "--out", f"{paths[0]}/x.json"])
    failed = capsys.readouterr()
    assert failed.out == printed and "0.json: cannot be written (" in failed.err
    assert "MViT + STAN[3] & MViT + STAN[3]" in printed and printed.count("alone: top1") == 2
    written = Result.read(tmp_path / "fused-logit_mean.json")
    assert written == fuse([Result.read(path) for path in paths], "logit_mean")
    assert [source["metrics"]["top1"] for source in written.model.config["of"]] == [
        random(seed).metrics["top1"] for seed in (0, 1)
    ]
