"""Timed actions of long videos, scored against the segments of a list: ``gesta evaluate --timeline``."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch

from gesta.checkpoint import TrainedModel
from gesta.checkpoint.exported import device_for
from gesta.config import check, to_json
from gesta.data.transforms import test_short_side
from gesta.errors import GestaError, VideoError
from gesta.evaluation.evaluate import (
    check_labels,
    differing_input,
    environment,
    model_source,
    records_of_split,
    sampling_words,
)
from gesta.evaluation.localisation import Span, Times, VideoSegments, measure_localisation
from gesta.evaluation.result import Remark
from gesta.evaluation.scoring import joint_names, named_classes, protocol, protocol_of
from gesta.evaluation.timeline_result import ScoredVideo, TimelineProtocol, TimelineResult
from gesta.model import VideoModel
from gesta.prediction.timeline import TimelineConfig, timeline
from gesta.processes import Precision, choose_device
from gesta.progress import track
from gesta.recipe import EvaluateConfig
from gesta.records import ClassNames, DataConfig, Record, classes_in, list_hash
from gesta.video.clock import FALLBACK_FPS
from gesta.video.modality import Shows
from gesta.video.read import ROUNDING_S, frame_times

IGNORED = ("clips", "crops", "coverage", "workers", "decoder")
"""Fields of :class:`gesta.recipe.EvaluateConfig` that change nothing here: a window is one clip and one crop, and one
process decodes the frames of a video one after the other."""


@dataclass(slots=True)
class _Video:
    """The records of one video, and what was found in it."""

    path: str
    shows: Shows | None
    records: list[Record]
    segments: VideoSegments = field(default_factory=lambda: VideoSegments(np.empty(0), []))
    error: str = ""


def evaluate_timeline(
    model: TrainedModel | VideoModel,
    data: DataConfig | Sequence[Record],
    *,
    config: TimelineConfig | None = None,
    views: EvaluateConfig | None = None,
    split: Literal["val", "test"] | None = None,
    classes: ClassNames | None = None,
    device: str | torch.device = "auto",
    precision: Precision = "32-true",
) -> TimelineResult:
    """Find the timed actions of every video of a list, and compare them with its segments.

    Args:
        model: what :func:`gesta.load` gives, or a network.
        data: a data set, whose split is then scored, or a list of records; all labelled, with segments. Videos without
            segments are not in such a list, and hence not scored. With several label spaces the classes are joint
            ("open door").
        config: windows, smoothing and what makes a segment; None for the default.
        views: split, short side, averaging and windows per forward pass; other fields change nothing. None is the
            protocol of the model's run.
        split: changes the field of ``views``.
        classes: as of :func:`gesta.evaluate`.
        device: ``auto`` takes the first accelerator there is.
        precision: of the forward passes.

    Returns:
        The result; metrics are those of :mod:`gesta.evaluation.localisation`. Frame accuracy, edit score and F1 need
        one class at any time, so they are left out for multi-label models and where true segments overlap.

    Raises:
        GestaError: no records, records without label or without any segment, several streams, classes that do not fit
            the model, settings that make no sense, or a device or precision that it cannot be computed with.
    """
    begin = time.monotonic()
    config, views = config or TimelineConfig(), protocol(views or protocol_of(model), split=split)
    check(config, "the timeline")
    source = data if isinstance(data, DataConfig) else None
    records: Sequence[Record]
    if isinstance(data, DataConfig):
        records, classes = records_of_split(model, data, views.split, classes)
    else:
        records = data
    network, spaces = named_classes(model, classes)
    device = device_for(network, device, precision)
    check_labels(records, spaces, network.config.multi_label)
    _check_segments(records, network)
    names = joint_names(spaces)
    videos = _by_video(records)
    how: dict[str, Any] = {"classes": spaces, "config": config, "views": views, "top": None}
    how |= {"device": device, "precision": precision}
    for video in videos:  # all of them first, since a wrong list must not be found out after hours
        video.segments = _true_segments(video, spaces)
    for video in track(videos, "evaluating"):
        _find(network, video, names, how)
    overlapping = [video.path for video in videos if _overlap(video.segments.true)]
    one_class = not network.config.multi_label and not overlapping
    metrics, per_class = measure_localisation([video.segments for video in videos], len(names), one_class)
    errors = [
        (v.segments.failed, Remark(index=i, name=v.path, reason=v.error)) for i, v in enumerate(videos) if v.error
    ]
    clip = network.config.clip
    return TimelineResult(
        metrics=metrics,
        per_class=dict(zip(names, per_class)),
        model=model_source(network, model if isinstance(model, TrainedModel) else None),
        data=to_json(source) if source is not None else None,
        list_hash=list_hash(records),
        protocol=TimelineProtocol(
            split=views.split,
            window=config.window,
            hop=config.hop,
            smoothing=config.smoothing,
            threshold=config.threshold,
            release=config.ends_below,
            min_duration=config.min_duration,
            join=config.join,
            sampling=sampling_words(clip, records),
            short_side=test_short_side(views.short_side, clip.size),
            size=clip.size,
            average=views.average,
        ),
        environment=environment("pyav", precision, choose_device(device)),
        failures=[remark for failed, remark in errors if failed],
        partial=[remark for failed, remark in errors if not failed],
        videos=[_scored(video, names) for video in videos],
        seconds=round(time.monotonic() - begin, 2),
        remarks=[*filter(None, [differing_input(model, records)]), *_remarks(network.config.multi_label, overlapping)],
    )


def _check_segments(records: Sequence[Record], network: VideoModel) -> None:
    """Refuse records that a timeline cannot be compared with."""
    if not records:
        raise GestaError("there are no videos to evaluate: the list or split is empty; give another one")
    if network.config.clip.streams:
        raise GestaError("a timeline shows a model one stream, and this one takes several; score it on whole segments")
    for record in records:
        if record.label is None:
            raise GestaError(f"{record.name}: has no label; a timeline is compared with labelled segments only")
        if record.masks:
            raise GestaError(f"{record.name}: is cropped to the person, which a timeline is not; choose whole frames")
    if all(record.seconds is None and record.start is None and record.end is None for record in records):
        raise GestaError(
            "no video of the list has segments, which a timeline is compared with; give a list with columns of their "
            "starts and ends, or score whole videos"
        )


def _by_video(records: Sequence[Record]) -> list[_Video]:
    videos: dict[str, _Video] = {}
    for record in records:
        videos.setdefault(record.path, _Video(record.path, record.shows, [])).records.append(record)
    return list(videos.values())


def _true_segments(video: _Video, spaces: dict[str, list[str]]) -> VideoSegments:
    """The segments of the list in seconds, and the times of the frames.

    Raises:
        GestaError: a segment that begins after the end of its video.
    """
    try:
        times = frame_times(video.path, video.shows)
    except VideoError as error:
        video.error = str(error).removeprefix(f"{video.path}: ")
        times = np.empty(0)
    step = float(np.median(np.diff(times))) if len(times) > 1 else 1 / FALLBACK_FPS
    end_of_video = float(times[-1]) + step if len(times) else math.inf
    true = []
    for record in video.records:
        start, end = record.seconds or (_time_of(record.start or 0, times, step), end_of_video)
        if record.end is not None or end == math.inf:  # of a video that cannot be read some end has to be written
            end = _time_of(record.end or (record.start or 0) + 1, times, step)
        if start >= end_of_video:
            raise GestaError(
                f"{record.name}: its segment begins when {video.path} has ended ({len(times)} frames, "
                f"{end_of_video:.2f} s); correct the list"
            )
        true += [Span(label, float(start), float(end)) for label in _joint_labels(record, spaces)]
    return VideoSegments(times, true, failed=bool(video.error))


def _time_of(frame: int, times: Times, step: float) -> float:
    """When a frame begins to be shown; of one that is not there, as if frames went on at this step."""
    return float(times[frame]) if frame < len(times) else (float(times[-1]) + step if len(times) else frame * step)


def _joint_labels(record: Record, spaces: dict[str, list[str]]) -> list[int]:
    """The classes of a record among the joint ones of all label spaces, in the order of ``joint_names``."""
    if isinstance(record.label, tuple):
        return list(record.label)
    joint = 0
    for space, names in spaces.items():
        joint = joint * len(names) + classes_in(record, space)[0]
    return [joint]


def _find(network: VideoModel, video: _Video, names: list[str], how: dict[str, Any]) -> None:
    """Put the predicted segments of a video, or why there are none, beside the true ones."""
    if video.error:
        return
    index = {name: label for label, name in enumerate(names)}
    for prediction in timeline(network, video.path, shows=video.shows, **how):
        if prediction.error:
            video.error = prediction.error.removeprefix(f"{video.path}: ")
        elif prediction.start is not None and prediction.end is not None:
            name, score = prediction.labels[0]
            video.segments.predicted.append(Span(index[name], prediction.start, prediction.end, score))
    video.segments.failed = bool(video.error) and not video.segments.predicted


def _overlap(spans: Sequence[Span]) -> bool:
    ordered = sorted(spans, key=lambda span: span.start)
    return any(one.end > other.start + ROUNDING_S for one, other in pairwise(ordered))


def _remarks(multi_label: bool, overlapping: Sequence[str]) -> Iterator[str]:
    why = "a frame may have several classes" if multi_label else ""
    if overlapping and not multi_label:
        more = f" and of {len(overlapping) - 1} more videos" if len(overlapping) > 1 else ""
        why = f"true segments of {overlapping[0]}{more} overlap"
    if why:
        yield f"{why}, so there are no frame accuracy, edit score and F1"
    yield "videos of the split without any segment are not in its list, so that what is found in them is not counted"


def _scored(video: _Video, names: list[str]) -> ScoredVideo:
    return ScoredVideo(
        name=video.path,
        frames=len(video.segments.times),
        true=[(round(s.start, 6), round(s.end, 6), names[s.label]) for s in video.segments.true],
        predicted=[
            (round(s.start, 6), round(s.end, 6), names[s.label], round(s.score, 6)) for s in video.segments.predicted
        ],
    )
