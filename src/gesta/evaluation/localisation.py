"""How well the timed actions of long videos are found: metrics of frames and of segments, in percent and float64.

Frame accuracy, edit score and F1 are those of temporal segmentation (Lea et al., "Temporal Convolutional Networks for
Action Segmentation and Detection", CVPR 2017, and its evaluation code), which give every frame one class. Frames
outside of all segments are background: a class of its own in frame accuracy, and no segment in the other two.

mAP is that of temporal detection in ActivityNet's evaluation code (Caba Heilbron et al., CVPR 2015), with precision
interpolated at all recalls; thresholds of the temporal IoU from 0.3 to 0.7 are THUMOS'. Its segments may overlap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gesta.video.clock import FALLBACK_FPS
from gesta.video.read import ROUNDING_S

BACKGROUND = -1
"""The class of frames outside of all segments."""

OVERLAPS = (0.1, 0.25, 0.5)
"""Thresholds of the temporal IoU for the F1 of segments."""

TIOUS = (0.3, 0.4, 0.5, 0.6, 0.7)
"""Thresholds of the temporal IoU for mAP."""

Times = NDArray[np.float64]
Labels = NDArray[np.int64]


class Span(NamedTuple):
    """A segment: its class, its start and end in seconds (the end excluded), and, if predicted, its score."""

    label: int
    start: float
    end: float
    score: float = 1.0


@dataclass(slots=True)
class VideoSegments:
    """The true and the predicted segments of one video.

    Attributes:
        times: when each frame is shown, ``(F,)``, in seconds; empty if that is not known.
        true: of the list.
        predicted: of the model.
        failed: the video could not be read: all of its frames and segments count as wrong. Where ``times`` is not
            known its frames are those of the true segments, :data:`gesta.video.clock.FALLBACK_FPS` a second and one of
            each segment at least.
    """

    times: Times
    true: list[Span]
    predicted: list[Span] = field(default_factory=list)
    failed: bool = False


class Run(NamedTuple):
    """Neighbouring frames of one class: the first, and one past the last."""

    label: int
    start: int
    end: int


def frame_labels(spans: Sequence[Span], times: Times) -> Labels:
    """The class of every frame, ``(F,)``: a segment has the frames that begin to be shown in it.

    Where segments overlap, the one that begins later counts.
    """
    labels = np.full(len(times), BACKGROUND, dtype=np.int64)
    for span in sorted(spans, key=lambda span: span.start):
        first, end = np.searchsorted(times, np.array([span.start, span.end]) - ROUNDING_S)
        labels[first:end] = span.label
    return labels


def runs(labels: Labels) -> list[Run]:
    """Neighbouring frames of one class as segments, without the background."""
    borders = np.flatnonzero(np.diff(labels)) + 1
    starts, ends = [0, *borders.tolist()], [*borders.tolist(), len(labels)]
    found = (Run(int(labels[start]), start, end) for start, end in zip(starts, ends) if end > start)
    return [run for run in found if run.label != BACKGROUND]


def edit_score(true: Sequence[int], predicted: Sequence[int]) -> float:
    """``100 · (1 - d / max(m, n))`` of two sequences of m and n classes, where d is their Levenshtein distance.

    Two empty sequences agree.
    """
    if not true and not predicted:
        return 100.0
    row = np.arange(len(predicted) + 1)  # distances of the beginning of `true` to all beginnings of `predicted`
    for i, label in enumerate(true, 1):
        previous, row = row, np.empty_like(row)
        row[0] = i
        for j, other in enumerate(predicted, 1):
            row[j] = min(previous[j] + 1, row[j - 1] + 1, previous[j - 1] + (label != other))
    return float(100 * (1 - row[-1] / max(len(true), len(predicted))))


def match_runs(true: Sequence[Run], predicted: Sequence[Run], overlap: float) -> tuple[int, int, int]:
    """Segments that are right, wrong and missed at a threshold of the temporal IoU.

    A predicted segment is compared with the true one of its class with which its IoU is greatest. It is right if the
    IoU reaches the threshold and no earlier segment was right about the same one.
    """
    matched: set[int] = set()
    for run in predicted:
        ious = [_iou(run.start, run.end, one.start, one.end) if one.label == run.label else 0.0 for one in true]
        best = int(np.argmax(ious)) if ious else -1
        if best >= 0 and ious[best] >= overlap and best not in matched:
            matched.add(best)
    return len(matched), len(predicted) - len(matched), len(true) - len(matched)


def _iou(start: float, end: float, other_start: float, other_end: float) -> float:
    """Intersection over union of two intervals."""
    common = max(0.0, min(end, other_end) - max(start, other_start))
    union = (end - start) + (other_end - other_start) - common
    return common / union if union > 0 else 0.0


def detection_ap(true: Mapping[int, Sequence[Span]], predicted: Sequence[tuple[int, Span]], tiou: float) -> float:
    """Average precision of one class in percent, precision interpolated at all recalls.

    Predicted segments are taken in falling order of their scores. One is right if a true segment of its video is left
    whose IoU with it reaches the threshold; it takes the one with the greatest IoU.

    Args:
        true: segments of the class by number of the video; one at least.
        predicted: segments of the class, each with the number of its video.
        tiou: the threshold.
    """
    right = np.zeros(len(predicted), dtype=np.float64)
    taken: set[tuple[int, int]] = set()
    for rank, (video, span) in enumerate(sorted(predicted, key=lambda item: -item[1].score)):
        ious = [_iou(span.start, span.end, one.start, one.end) for one in true.get(video, ())]
        for position in sorted(range(len(ious)), key=lambda position: -ious[position]):
            if ious[position] < tiou:
                break
            if (video, position) not in taken:
                taken.add((video, position))
                right[rank] = 1
                break
    hits = right.cumsum()
    precision = hits / np.arange(1, len(right) + 1)
    interpolated = np.maximum.accumulate(precision[::-1])[::-1]
    return float(100 * (right * interpolated).sum() / sum(map(len, true.values())))


def measure_localisation(
    videos: Sequence[VideoSegments], classes: int, one_class: bool = True
) -> tuple[dict[str, float], list[float | None]]:
    """Metrics in percent, and the average precision of each class, the mean over :data:`TIOUS`.

    Args:
        videos: with one true segment at least, all together.
        classes: number of classes.
        one_class: every frame has one class at most. Frame accuracy, edit score and F1 are left out if not.

    Returns:
        ``frame_accuracy``, over the frames of all videos together; ``edit``, the mean over videos; ``f1@10``, ``f1@25``
        and ``f1@50``, of the segments of all videos together; ``mAP@0.3`` to ``mAP@0.7``, means over the classes that
        have true segments, and ``mAP``, the mean of these. A class without true segments has None.
    """
    metrics = _measure_frames(videos) if one_class else {}
    by_class: list[float | None] = []
    at: dict[float, list[float]] = {tiou: [] for tiou in TIOUS}
    true: list[dict[int, list[Span]]] = [{} for _ in range(classes)]
    predicted: list[list[tuple[int, Span]]] = [[] for _ in range(classes)]
    for i, video in enumerate(videos):
        for span in video.true:
            true[span.label].setdefault(i, []).append(span)
        for span in video.predicted:
            predicted[span.label].append((i, span))
    for label in range(classes):
        if not true[label]:
            by_class.append(None)
            continue
        values = [detection_ap(true[label], predicted[label], tiou) for tiou in TIOUS]
        by_class.append(float(np.mean(values)))
        for tiou, value in zip(TIOUS, values):
            at[tiou].append(value)
    metrics |= {f"mAP@{tiou:g}": float(np.mean(values)) for tiou, values in at.items()}
    metrics["mAP"] = float(np.mean([metrics[f"mAP@{tiou:g}"] for tiou in TIOUS]))
    return metrics, by_class


def _measure_frames(videos: Sequence[VideoSegments]) -> dict[str, float]:
    """The metrics of videos whose frames have one class each."""
    right = frames = 0
    edits: list[float] = []
    counts = {overlap: np.zeros(3, dtype=np.int64) for overlap in OVERLAPS}
    for video in videos:
        if video.failed:
            seconds = [span.end - span.start for span in video.true]
            frames += len(video.times) or sum(max(1, round(FALLBACK_FPS * length)) for length in seconds)
            edits.append(0.0)
            for count in counts.values():
                count += (0, 0, len(video.true))
            continue
        frames += len(video.times)
        true, predicted = (frame_labels(spans, video.times) for spans in (video.true, video.predicted))
        right += int((true == predicted).sum())
        of_true, of_predicted = runs(true), runs(predicted)
        edits.append(edit_score([run.label for run in of_true], [run.label for run in of_predicted]))
        for overlap, count in counts.items():
            count += match_runs(of_true, of_predicted, overlap)
    metrics = {"frame_accuracy": 100 * right / max(frames, 1), "edit": float(np.mean(edits))}
    for overlap, count in counts.items():
        hits, wrong, missed = count.tolist()
        metrics[f"f1@{round(100 * overlap)}"] = 200 * hits / max(2 * hits + wrong + missed, 1)
    return metrics
