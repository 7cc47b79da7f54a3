"""Videos with any number of classes: average precision, and what is made of such results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gesta.analysis.confusion import measure_confusion
from gesta.analysis.report.page import write_report
from gesta.errors import GestaError
from gesta.evaluation.compare import compare
from gesta.evaluation.fuse import By, fuse
from gesta.evaluation.mean import mean
from gesta.evaluation.metrics import average_precision, headline, headline_name, measure_multi_label
from gesta.evaluation.publish import _hub_config
from gesta.evaluation.result import Result
from results import changed, multi_label_result, result

RANDOM = np.random.default_rng(0)
TRUTH = RANDOM.random((60, 5)) < [0.5, 0.2, 0.05, 0.9, 0.0]  # no video shows the last class
SCORES = np.round(np.where(RANDOM.random((60, 5)) < 0.6, TRUTH, RANDOM.random((60, 5))), 1)  # many are equal
LABELS = [np.flatnonzero(row).tolist() for row in TRUTH]

ONE = multi_label_result(
    [[0, 1], [1], [], [2], None, [0]],
    [[0.9, 0.8, 0.1], [0.2, 0.6, 0.7], [0.1, 0.2, 0.3], [0.4, 0.1, 0.3], [0.5, 0.5, 0.5], None],
)


def by_counting(scores: np.ndarray, truth: np.ndarray, positives: int) -> float:
    """Precision at each threshold times the recall that it adds."""
    total, recall = 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        retrieved = scores >= threshold
        right = int((retrieved & truth).sum())
        total += (right / positives - recall) * right / int(retrieved.sum())
        recall = right / positives
    return 100 * total


def test_average_precision_is_that_of_counting_and_of_scikit_learn() -> None:
    metrics, precisions, figures = measure_multi_label(SCORES.tolist(), LABELS, 5, "probabilities")
    for k in range(4):
        assert precisions[k] == pytest.approx(by_counting(SCORES[:, k], TRUTH[:, k], int(TRUTH[:, k].sum())))
    assert precisions[4] is None and figures["f1"][4] is None
    assert metrics["mAP"] == pytest.approx(np.mean(precisions[:4])) == pytest.approx(metrics["mAP_scored"])
    exact = 100 * np.mean([set(np.flatnonzero(s >= 0.5)) == set(label) for s, label in zip(SCORES, LABELS)])
    assert metrics["exact"] == pytest.approx(exact)
    sklearn = pytest.importorskip("sklearn.metrics")
    for k in range(4):
        assert precisions[k] == pytest.approx(100 * sklearn.average_precision_score(TRUTH[:, k], SCORES[:, k]))
    theirs = sklearn.precision_recall_fscore_support(TRUTH[:, :4], SCORES[:, :4] >= 0.5, zero_division=0)
    for name, values in zip(("precision", "recall", "f1"), theirs):
        assert [figure or 0 for figure in figures[name][:4]] == pytest.approx(100 * values)
        assert metrics[f"macro_{name}"] == pytest.approx(100 * values.mean())


def test_logits_give_what_their_probabilities_give() -> None:
    logits = np.log(np.clip(SCORES, 0.01, 0.99) / (1 - np.clip(SCORES, 0.01, 0.99)))
    assert measure_multi_label(logits.tolist(), LABELS, 5, "logits")[0] == pytest.approx(
        measure_multi_label(SCORES.tolist(), LABELS, 5, "probabilities")[0]
    )


def test_a_failed_video_is_never_retrieved() -> None:
    scores, truth = np.array([0.9, 0.8, 0.3]), np.array([True, False, True])
    assert average_precision(scores, truth) == pytest.approx(100 * (1 / 2 * 1 + 1 / 2 * 2 / 3))
    assert average_precision(scores, truth, missed=2) == pytest.approx(100 * (1 / 4 * 1 + 1 / 4 * 2 / 3))
    assert average_precision(np.zeros(0), np.zeros(0, bool)) is None
    assert average_precision(np.zeros(0), np.zeros(0, bool), missed=1) == 0.0
    metrics, *_ = measure_multi_label([[0.9], None], [[0], [0]], 1, "probabilities")
    assert (metrics["mAP"], metrics["mAP_scored"], metrics["exact"]) == (50.0, 100.0, 50.0)
    assert measure_multi_label([None, [0.5]], [None, []], 1, "probabilities")[0] == {}


def test_a_result_says_everything_and_is_read_back(tmp_path: Path) -> None:
    assert headline(ONE.metrics) == ONE.metrics["mAP"] and headline_name(ONE.metrics) == "mAP"
    assert ONE.counts.labelled == 5 and ONE.scores.right("label", "probabilities") == [
        True,
        False,
        True,
        False,
        None,
        False,
    ]
    text = str(ONE)
    for words in (
        "mAP %",
        "all classes right %",
        "from a probability of 0.5 on",
        "weakest classes by average precision: c",
    ):
        assert words in text, words
    path = ONE.write(tmp_path / "result.json")
    assert Result.read(path) == ONE and "confusion" in path.read_text()
    for label, fault in (([0, 3], "none of 3 classes"), (1, "multi_label is true")):
        labels = {"label": [label, *ONE.scores.labels["label"][1:]]}
        changed(ONE, labels=labels).write(path)
        with pytest.raises(GestaError, match=fault):
            Result.read(path)
    changed(result([0], [0]), multi_label=True).write(path)
    with pytest.raises(GestaError, match="holds 0, and multi_label is true"):
        Result.read(path)


def test_the_order_of_a_videos_classes_is_no_matter(tmp_path: Path) -> None:
    """As records from Python or a result from elsewhere may have them."""
    rising, other = (multi_label_result([label, [1]], [[0.9, 0.1, 0.8], [0.1, 0.9, 0.1]]) for label in ([0, 2], [2, 0]))
    assert other.scores.right("label", "probabilities") == [True, True] and other.metrics["exact"] == 100
    assert other.scores == rising.scores and fuse([rising, other]).metrics == rising.metrics
    path = other.write(tmp_path / "result.json")
    path.write_text(path.read_text().replace("[0, 2]", "[2, 0]"))
    assert "[2, 0]" in path.read_text() and Result.read(path).scores == rising.scores
    assert compare(rising, other).paired["label"].both == 2


def test_the_report_has_classes_and_no_confusion_matrix(tmp_path: Path) -> None:
    changed(ONE, data=None).write(tmp_path / "result.json")
    page = write_report(tmp_path).read_text()
    for text in (
        "average precision, %",
        "mAP",
        "A video may have any number of classes",
        "a, b",
        "without them mAP is",
    ):
        assert text in page, text
    assert "Confusion matrix" not in page and "confused most" not in page
    with pytest.raises(GestaError, match="any number of classes, of which none is taken for another"):
        measure_confusion([("one", ONE)])


def test_two_results_side_by_side() -> None:
    other = multi_label_result(
        [[0, 1], [1], [], [0, 2], None, [0]],
        [[0.9, 0.8, 0.1], [0.2, 0.6, 0.1], [0.1, 0.2, 0.3], [0.4, 0.1, 0.3], [0.5, 0.5, 0.5], [0.9, 0.1, 0.1]],
    )
    found = compare(ONE, other)
    assert found.relabelled == ["video 3"]
    paired = found.paired["label"]
    assert (paired.videos, paired.both, paired.only_a, paired.only_b) == (4, 2, 0, 2)
    assert [(c.name, c.a, c.b, c.videos) for c in found.classes["label"]] == [("a", 50.0, 100.0, 2)]
    assert "mAP" in str(found)
    assert "multi_label" in [d.field for d in compare(ONE, result([0] * 6, [0] * 6, classes=("a", "b", "c"))).protocol]
    folds = [("one", changed(ONE, list_hash="1" * 64)), ("two", changed(other, list_hash="2" * 64))]
    assert mean(folds).mean["mAP"] == pytest.approx((ONE.metrics["mAP"] + other.metrics["mAP"]) / 2)


@pytest.mark.parametrize("by", ["prob_mean", "logit_mean", "prob_product"])
def test_each_class_is_fused_by_itself(by: By) -> None:
    p, q = np.array([0.9, 0.8, 0.1]), np.array([0.3, 0.6, 0.2])
    odds_p, odds_q = p / (1 - p), q / (1 - q)
    odds = {"logit_mean": np.sqrt(odds_p * odds_q), "prob_product": odds_p * odds_q}
    expected = (p + q) / 2 if by == "prob_mean" else odds[by] / (1 + odds[by])
    fused = fuse([multi_label_result([[0, 1]], [v.tolist()]) for v in (p, q)], by)
    assert fused.scores.values["label"][0] == pytest.approx(expected.tolist(), rel=1e-6)
    assert fused.scores.multi_label and "mAP" in fused.metrics


def test_learned_fusion_prefers_the_better_stream() -> None:
    truth = RANDOM.random((40, 3)) < 0.4
    good, noise = np.where(truth, 0.8, 0.3) - 0.1 * RANDOM.random((40, 3)), RANDOM.random((40, 3))
    labels = [np.flatnonzero(row).tolist() for row in truth]
    streams = [multi_label_result(labels, values.tolist()) for values in (good, noise)]
    fit = [changed(stream, names=[f"other {i}" for i in range(40)]) for stream in streams]
    weights = fuse(streams, "learned", fit).model.config["weights"]["label"]
    assert weights[0] > 1 and weights[1] < 0.2
    with pytest.raises(GestaError, match="other classes"):
        fuse([ONE, result([0] * 6, [0] * 6, classes=("a", "b", "c"))])


def test_other_libraries_read_that_it_is_multi_label() -> None:
    metadata = {"format": 1, "gesta": "0", "model": {"multi_label": True}, "classes": ["a", "b"]}
    assert _hub_config(metadata)["problem_type"] == "multi_label_classification"
