"""Accuracies, precision, recall and F1 of classes, the confusion matrix, and accuracies of parts of a list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from scipy.special import expit

from gesta.records import LABEL

ScoreRows: TypeAlias = Sequence[Sequence[float] | None]
"""Scores of each video; None where it failed, which counts as wrong."""

Labels: TypeAlias = Sequence[Any]
"""Of each video its class, or in multi-label data all of its classes; None where unknown, which leaves it out."""

Average = Literal["probabilities", "logits", "tokens"]
"""What is averaged over the views of a video: scores after or before the softmax (if multi-label the sigmoid), or those
of joined clips after it."""

THRESHOLD = 0.5
"""Probability from which on a class counts as predicted in multi-label data."""

ACTION = "action"
"""Name of the metrics of verb and noun together."""

METRICS = {
    "top1": "top-1",
    "top5": "top-5",
    "mean_class": "mean class",
    "mAP": "mAP",
    "macro_precision": "macro precision",
    "macro_recall": "macro recall",
    "macro_f1": "macro F1",
    "exact": "all classes right",
}
"""Metrics of a label space, each also with the ending ``_scored``, and what tables call them."""


@dataclass(slots=True)
class Measured:
    """What the scores of all videos come to.

    Attributes:
        metrics: percent, by name.
        per_class: by label space, the accuracy (multi-label: average precision) of each class in percent; None for a
            class without videos.
        figures: by label space, ``precision``, ``recall`` and ``f1`` of each class, see :func:`class_figures`.
        confusion: by label space, numbers of scored videos, rows true, columns predicted; none if multi-label.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    per_class: dict[str, list[float | None]] = field(default_factory=dict)
    figures: dict[str, dict[str, list[float | None]]] = field(default_factory=dict)
    confusion: dict[str, list[list[int]]] = field(default_factory=dict)


def headline(metrics: dict[str, float] | None) -> float | None:
    """The figure by which models are ranked, in percent: top-1, of multi-label data mAP.

    With several label spaces it is the top-1 of actions (verb and noun), or the mean over the spaces.
    """
    if metrics and "mAP" in metrics:
        return metrics["mAP"]
    if metrics and f"{ACTION}/top1" in metrics:
        return metrics[f"{ACTION}/top1"]
    of_spaces = [value for name, value in (metrics or {}).items() if name.split("/")[-1] == "top1"]
    return sum(of_spaces) / len(of_spaces) if of_spaces else None


def headline_name(metrics: dict[str, float] | None) -> str:
    """What :func:`headline` is called."""
    return METRICS["mAP" if "mAP" in (metrics or {}) else "top1"]


def metrics_in(metrics: dict[str, float]) -> dict[str, str]:
    """Those of :data:`METRICS` that are there, of any label space."""
    given = {name.split("/")[-1].removesuffix("_scored") for name in metrics}
    return {key: name for key, name in METRICS.items() if key in given}


def class_figures(right: np.ndarray, listed: np.ndarray, predicted: np.ndarray) -> dict[str, list[float | None]]:
    """Precision, recall and F1 of each class in percent, with F1 = 2 · right / (listed + predicted).

    Args:
        right: of each class, the videos of it that are predicted as it, ``(K,)``.
        listed: the videos of it.
        predicted: the videos that are predicted as it.

    Returns:
        ``precision``, ``recall`` and ``f1`` of each class. All are None for a class without videos, which says nothing
        about it; the precision also for a class that is never predicted.
    """
    counts = list(zip(right.tolist(), listed.tolist(), predicted.tolist()))
    return {
        "precision": [100 * r / p if n and p else None for r, n, p in counts],
        "recall": [100 * r / n if n else None for r, n, _ in counts],
        "f1": [200 * r / (n + p) if n else None for r, n, p in counts],
    }


def macro(values: Sequence[float | None], listed: np.ndarray) -> float:
    """The mean over the classes that have videos; the precision of a class that is never predicted counts as 0."""
    return float(np.mean([value or 0.0 for value, n in zip(values, listed) if n]))


def measure(
    scores: ScoreRows, labels: Labels, classes: int
) -> tuple[dict[str, float], dict[str, list[float | None]], list[list[int]]]:
    """Metrics in percent, figures of each class, and the confusion matrix (rows true, columns predicted).

    Returns:
        As in :class:`Measured`; no metrics if nothing is labelled, none ending in ``_scored`` if nothing was scored.
    """
    listed, in_top5 = np.zeros(classes, dtype=np.int64), 0
    confusion = np.zeros((classes, classes), dtype=np.int64)
    for values, label in zip(scores, labels):
        if label is None:
            continue
        listed[label] += 1
        if values is not None:
            order = np.argsort(-np.asarray(values), kind="stable")  # of equal scores the first counts, as in argmax
            in_top5 += label in order[:5]
            confusion[label, order[0]] += 1
    right, predicted = confusion.diagonal(), confusion.sum(0)
    metrics: dict[str, float] = {}
    for end, counted in (("", listed), ("_scored", confusion.sum(1))):
        if counted.any():
            figures = class_figures(right, counted, predicted)
            metrics[f"top1{end}"] = float(100 * right.sum() / counted.sum())
            metrics[f"top5{end}"] = float(100 * in_top5 / counted.sum())
            metrics[f"mean_class{end}"] = macro(figures["recall"], counted)
            metrics[f"macro_precision{end}"] = macro(figures["precision"], counted)
            metrics[f"macro_f1{end}"] = macro(figures["f1"], counted)
    figures = class_figures(right, listed, predicted)
    return metrics, figures, confusion.tolist()


def predicted_classes(values: Sequence[float], average: Average) -> list[int]:
    """The classes of a video whose probability reaches :data:`THRESHOLD`, in multi-label data."""
    rows = np.asarray(values)
    probabilities = expit(rows) if average == "logits" else rows
    return np.flatnonzero(probabilities >= THRESHOLD).tolist()


def average_precision(scores: np.ndarray, positive: np.ndarray, missed: int = 0) -> float | None:
    """The average precision of one class in percent: Σ (Rₙ - Rₙ₋₁) · Pₙ over the thresholds in falling order.

    Nothing is interpolated, and videos with equal scores share one threshold, as in scikit-learn's
    ``average_precision_score``.

    Args:
        scores: of the videos that have some, ``(N,)``.
        positive: whether they show the class, ``(N,)``.
        missed: further videos that show it and have no scores, which no threshold retrieves.

    Returns:
        None if no video shows the class.
    """
    total = int(positive.sum()) + missed
    if not total or not len(scores):
        return 0.0 if total else None
    order = np.argsort(-scores, kind="stable")
    last_of_equal = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    retrieved = positive[order].cumsum()[last_of_equal]
    precision = retrieved / (last_of_equal + 1)
    return float(100 * (np.diff(retrieved, prepend=0) * precision).sum() / total)


def measure_multi_label(
    scores: ScoreRows, labels: Labels, classes: int, average: Average
) -> tuple[dict[str, float], list[float | None], dict[str, list[float | None]]]:
    """Metrics in percent of videos with any number of classes, average precision and figures of each class.

    ``mAP`` and the ``macro_`` metrics are means over the classes that have videos; a class counts as predicted from a
    probability of :data:`THRESHOLD` on. ``exact`` asks whether all predicted classes of a video are its classes.

    Returns:
        As in :class:`Measured`; no metrics if no labelled video shows any class.
    """
    known = [i for i, label in enumerate(labels) if label is not None]
    truth = np.zeros((len(known), classes), dtype=bool)
    for row, i in enumerate(known):
        truth[row, list(labels[i])] = True
    scored = np.array([scores[i] is not None for i in known], dtype=bool)
    values = np.array([scores[i] for i in known if scores[i] is not None], dtype=np.float64).reshape(-1, classes)
    truth_scored = truth[scored]
    predicted = (expit(values) if average == "logits" else values) >= THRESHOLD
    right, exact = (predicted & truth_scored).sum(0), int((predicted == truth_scored).all(1).sum())
    metrics: dict[str, float] = {}
    measures = []
    for end, shown, videos in (("", truth.sum(0), len(known)), ("_scored", truth_scored.sum(0), len(values))):
        missed = (shown - truth_scored.sum(0)).tolist()
        precisions = [average_precision(values[:, k], truth_scored[:, k], missed[k]) for k in range(classes)]
        figures = class_figures(right, shown, predicted.sum(0))
        measures.append((precisions, figures))
        if shown.any():
            metrics[f"mAP{end}"] = macro(precisions, shown)
            for name in ("precision", "recall", "f1"):
                metrics[f"macro_{name}{end}"] = macro(figures[name], shown)
            metrics[f"exact{end}"] = 100 * exact / videos
    return metrics, *measures[0]


def measure_spaces(
    scores: Mapping[str, ScoreRows],
    labels: Mapping[str, Labels],
    classes: Mapping[str, Sequence[str]],
    average: Average,
    multi_label: bool = False,
) -> Measured:
    """What :func:`measure` gives, by label space; names of metrics get the space in front unless it is ``label``.

    Args:
        scores, labels, classes: by label space; multi-label data have one.
        average: what the scores are.
        multi_label: a video has any number of classes, see :func:`measure_multi_label`.
    """
    measured = Measured()
    for space, names in classes.items() if multi_label else ():
        measured.metrics, measured.per_class[space], measured.figures[space] = measure_multi_label(
            scores[space], labels[space], len(names), average
        )
    if multi_label:
        return measured
    for space, names in classes.items():
        values, figures, measured.confusion[space] = measure(scores[space], labels[space], len(names))
        measured.figures[space], measured.per_class[space] = figures, figures["recall"]
        measured.metrics |= {key if space == LABEL else f"{space}/{key}": value for key, value in values.items()}
    if {"verb", "noun"} <= set(classes):
        measured.metrics |= measure_actions(scores, labels, average)
    return measured


def measure_parts(
    scores: Mapping[str, ScoreRows],
    labels: Mapping[str, Labels],
    average: Average,
    attributes: Mapping[str, Sequence[str]],
    groups: Mapping[str, Mapping[str, Sequence[int]]],
) -> dict[str, float]:
    """Top-1 in percent of attributes of classes and of parts of the list.

    Args:
        scores, labels: by label space.
        average: what the scores are.
        attributes: attribute → its value for every class of the first label space. A video is right if
            the predicted class has the value of the true one; ``attribute/all`` requires all values at once.
        groups: part → label space or ``action`` → positions in the list, of labelled videos, one at least.

    Returns:
        ``attribute/<name>``, ``attribute/all`` and ``<part>/<space>``.
    """
    metrics: dict[str, float] = {}
    space = next(iter(labels))
    pairs = [(values, label) for values, label in zip(scores[space], labels[space]) if label is not None]
    predicted = [(None if values is None else int(np.argmax(values)), label) for values, label in pairs]
    if attributes and predicted:
        correct = {
            name: np.array([guess is not None and of_class[guess] == of_class[label] for guess, label in predicted])
            for name, of_class in attributes.items()
        }
        correct["all"] = np.all(list(correct.values()), axis=0)
        metrics = {f"attribute/{name}": float(100 * values.mean()) for name, values in correct.items()}
    for part, spaces in groups.items():
        for name, positions in spaces.items():
            if name == ACTION:
                of_scores = {s: [column[i] for i in positions] for s, column in scores.items()}
                of_labels = {s: [column[i] for i in positions] for s, column in labels.items()}
                metrics[f"{part}/{name}"] = measure_actions(of_scores, of_labels, average)[f"{ACTION}/top1"]
            else:
                in_part = [(scores[name][i], labels[name][i]) for i in positions]
                right = sum(values is not None and int(np.argmax(values)) == label for values, label in in_part)
                metrics[f"{part}/{name}"] = 100 * right / len(positions)
    return metrics


def measure_actions(
    scores: Mapping[str, ScoreRows], labels: Mapping[str, Labels], average: Average
) -> dict[str, float]:
    """Accuracy in percent of verb and noun together, as EPIC-KITCHENS-100 ranks models (Damen et al., IJCV 2022).

    The score of an action (v, n) is the product of the probabilities of v and n. Top-5 asks whether the true action is
    among the five best of this whole table, which is not whether verb and noun are both among their own five best.

    Args:
        scores, labels: by label space ``verb`` and ``noun``; a video without either label is left out.
        average: what the scores are.

    Returns:
        ``action/top1`` and ``action/top5`` of all labelled videos, and ``_scored`` ones of those that did not fail;
        nothing if there are none.
    """
    ranks: list[int | None] = []
    for verb, noun, v, n in zip(scores["verb"], scores["noun"], labels["verb"], labels["noun"]):
        if v is None or n is None:
            continue
        if verb is None or noun is None:
            ranks.append(None)
            continue
        combine = np.add.outer if average == "logits" else np.multiply.outer  # softmax keeps the order of sums
        table = combine(np.asarray(verb), np.asarray(noun))
        ties_before = table.ravel()[: v * table.shape[1] + n] == table[v, n]  # of equal scores the first counts
        ranks.append(int((table > table[v, n]).sum() + ties_before.sum()))
    metrics: dict[str, float] = {}
    for end, counted in (("", ranks), ("_scored", [rank for rank in ranks if rank is not None])):
        for key, k in (("top1", 1), ("top5", 5)):
            if counted:
                right = sum(rank is not None and rank < k for rank in counted)
                metrics[f"{ACTION}/{key}{end}"] = 100 * right / len(counted)
    return metrics
