"""Videos of any length, cameras and streams -> timed actions, at bounded memory.

frames -> :class:`WindowCutter` (overlapping windows) -> model -> :func:`smooth` -> :class:`Segmenter` (hysteresis) ->
:class:`gesta.prediction.prediction.Prediction` with start and end.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Annotated, Any

import torch
from torch import Tensor

from gesta.checkpoint import TrainedModel
from gesta.checkpoint.exported import device_for
from gesta.config import Between, Count, Fraction, NotNegative, Positive, check, config, replace
from gesta.data.samples import TestViews
from gesta.data.transforms import crop_views
from gesta.errors import BrokenOffError, GestaError, VideoError
from gesta.evaluation.scoring import (
    check_average,
    joint_names,
    joint_probabilities,
    named_classes,
    prediction_protocol,
    rank,
    score_views,
    views_per_pass,
    why_not_finite,
)
from gesta.model import ClipSpec, VideoModel
from gesta.prediction.background import in_background
from gesta.prediction.predict import check_input
from gesta.prediction.prediction import TOP, Prediction, check_top
from gesta.prediction.segments import ClassSegmenters, Segment, Segmenter, Window, smooth
from gesta.prediction.windows import UNIFORM_WINDOW_S, WindowCutter, WindowFrames
from gesta.processes import Autocast, Precision, choose_autocast, choose_device
from gesta.recipe import EvaluateConfig
from gesta.records import ClassNames, Record
from gesta.video.modality import Shows, modality_of
from gesta.video.read import stream

LIVE = frozenset({"rtsp", "rtsps", "rtmp", "rtmps", "rtp", "udp", "srt", "tcp", "mms"})
"""Schemes of addresses whose frames come at their own pace."""

SHORTEST_S = 0.001
"""Seconds that a window, and the distance of two, have at least: a frame's time at 1000 frames/s."""


@config
class TimelineConfig:
    """How windows slide over a long video, and how their probabilities become segments.

    Attributes:
        window: seconds that a window lasts, :data:`SHORTEST_S` at least, None for the model's own clip (4 s for models
            that sample uniformly). One that has fewer frames than the clip shows them several times.
        hop: distance of neighbouring windows, as a fraction of a window; :data:`SHORTEST_S` at least.
        smoothing: windows averaged (odd; 1 for none).
        threshold: probability at which a segment of the most probable class begins; 0 names an action (multi-label:
            every class) at all times.
        release: probability below which it ends, None for half the threshold; it also ends where another class is more
            probable, except that a multi-label model has each class by itself.
        min_duration: segments shorter than this many seconds are dropped, after those that ``join`` joins are joined.
        join: segments of one class less than this many seconds apart, with no other between them, become one; 0 for
            none.
    """

    window: Positive | None = None
    hop: Annotated[float, Between(0, 1, open="low")] = 0.5
    smoothing: Count = 3
    threshold: Fraction = 0.5
    release: Fraction | None = None
    min_duration: NotNegative = 0.0
    join: NotNegative = 0.0

    def contradictions(self) -> Iterator[tuple[str, str]]:
        if self.smoothing % 2 == 0:
            yield "smoothing", "which is even, and a window has as many on either side"
        if self.release is not None and self.release > self.threshold:
            yield "release", f"above the threshold {self.threshold:g}, so that a segment would end where it begins"
        window = UNIFORM_WINDOW_S if self.window is None else self.window
        if window < SHORTEST_S:
            yield "window", f"shorter than a frame of any video; it lasts {SHORTEST_S:g} s at least"
        elif window * self.hop < SHORTEST_S:
            yield "hop", f"less than {SHORTEST_S:g} s of a window of {window:g} s, shorter than a frame of any video"

    @property
    def ends_below(self) -> float:
        """The probability below which a segment ends."""
        return self.threshold / 2 if self.release is None else self.release


def is_live(source: str | os.PathLike[str]) -> bool:
    """Whether a source is a camera or a live stream, whose frames come whether they are read or not, by its name alone.

    ``http://…`` may be either: what MJPEG cameras and HLS streams send, or a file.
    """
    name = os.fspath(source)
    scheme = name.partition("://")[0].lower()
    return (name.isdecimal() and not os.path.exists(name)) or name.startswith("/dev/video") or scheme in LIVE


# --- windows -> probabilities ----------------------------------------------------------------------------------------


def score_windows(
    model: VideoModel,
    spaces: Iterable[str],
    source: str,
    config: TimelineConfig,
    *,
    views: EvaluateConfig,
    device: torch.device,
    autocast: Autocast = nullcontext,
    shows: Shows | None = None,
    live: bool | None = None,
) -> Iterator[Window]:
    """Joint class probabilities of every window of a video, in order; see :func:`timeline` for the arguments.

    Frames are decoded in the background. A file waits for the model; of a camera or stream whose model is too slow the
    windows in between are left out, so that predictions never lag behind. Ctrl-C ends a camera's or stream's windows.
    """
    model.to(device).eval()
    spec, live = model.config.clip, is_live(source) if live is None else live
    windows = cut_windows(source, spec, config, views, shows, live)
    frames = in_background(windows, size=1 if live else 2 * views.batch_size, drop=live)
    score = partial(_score, model, spaces=spaces, views=views, device=device, autocast=autocast)
    batch: list[WindowFrames] = []
    try:
        for window in frames:
            batch.append(window)
            if live or len(batch) == views.batch_size:
                yield from score(batch)
                batch = []
    except VideoError:
        yield from score(batch)  # what was seen before it broke
        raise
    except KeyboardInterrupt:
        if not live:
            raise
        return
    finally:
        frames.close()
    yield from score(batch)


def cut_windows(
    source: str,
    spec: ClipSpec,
    config: TimelineConfig,
    views: EvaluateConfig,
    shows: Shows | None = None,
    live: bool = False,
) -> Iterator[WindowFrames]:
    """The windows of a video, in order, as the model expects their frames.

    Args:
        source, config, views, shows: as of :func:`timeline`.
        spec: the clip that the model expects.
        live: whether the source is a camera or a stream, which cannot be read a second time.

    Raises:
        VideoError: it cannot be opened, or its end is missing; the windows before that have been given.
    """
    cutter = WindowCutter(spec, config.window, config.hop, views.short_videos)
    one_view = replace(views, clips=1, crops=1, coverage="even")
    whole = TestViews([Record(path=source, name=source, shows=shows)], spec, one_view)
    broken: BrokenOffError | None = None
    duration = 0.0
    try:
        for frame in stream(source, short_side=whole.short_side, shows=shows):
            # a copy, so that the whole frame does not stay in memory with it
            image = crop_views(frame.image[None, None], spec.size, 1, spec.squash, modality_of(shows))[0, 0].clone()
            yield from cutter.push(frame.index, frame.time, image)
            duration = frame.duration
    except BrokenOffError as error:
        broken = error
    for window in cutter.finish(duration):
        is_spread = config.window is None or spec.sampling == "uniform"  # else frames are as far apart as in a window
        if cutter.complete == 0 and is_spread and not broken and not live:
            # shorter than a window: shown as `predict` shows the whole video
            sample = whole[0]
            window = window._replace(frames=sample["video"][0]) if isinstance(sample, dict) else window
        yield window
    if broken:
        raise broken


def _score(
    model: VideoModel,
    frames: list[WindowFrames],
    *,
    spaces: Iterable[str],
    views: EvaluateConfig,
    device: torch.device,
    autocast: Autocast,
) -> Iterator[Window]:
    size = views_per_pass(views.batch_size, device)
    for first in range(0, len(frames), size):
        together = frames[first : first + size]
        stacked = torch.stack([window.frames for window in together])
        scores = score_views(model, stacked, views.average, device, autocast)
        yield from scored_windows(model, together, scores, spaces, views)


def scored_windows(
    model: VideoModel,
    frames: Sequence[WindowFrames],
    scores: Mapping[str, Tensor],
    spaces: Iterable[str],
    views: EvaluateConfig,
) -> Iterator[Window]:
    """Windows with their joint probabilities.

    Args:
        model: that gave the scores.
        frames: the windows.
        scores: of them, by label space ``(windows, K)``, see :func:`gesta.evaluation.scoring.score_views`.
        spaces: names of the label spaces.
        views: what the scores are.

    Raises:
        VideoError: they are not finite.
    """
    for row, window in enumerate(frames):
        in_window = {space: values[row] for space, values in scores.items()}
        probabilities = joint_probabilities(in_window, spaces, views.average, model.config.multi_label)
        if not probabilities.isfinite().all():
            raise VideoError(why_not_finite(model))
        yield Window(window.start, window.end, probabilities)


# --- from the video to its segments ----------------------------------------------------------------------------------


def timeline(
    model: TrainedModel | VideoModel,
    source: str | os.PathLike[str],
    *,
    classes: ClassNames | None = None,
    config: TimelineConfig | None = None,
    views: EvaluateConfig | None = None,
    top: int | None = None,
    device: str | torch.device = "auto",
    precision: Precision = "32-true",
    shows: Shows | None = None,
    live: bool | None = None,
) -> Iterator[Prediction]:
    """Timed actions in a video of any length, a camera or a stream, at bounded memory, each as soon as it is decided.

    Args:
        model: what :func:`gesta.load` gives, or a network; it is moved to ``device`` and put into evaluation mode.
        source: file, frame folder, URL, or camera ("0", "/dev/video0", "rtsp://...").
        classes: class names in label order. None takes those of the trained model; a network's classes are then called
            ``"0"``, ``"1"`` ….
        config: windows, smoothing and what makes a segment; None for the default.
        views: short side, averaging and windows per forward pass (``batch_size``); each window is one centre crop.
        top: number of classes to name per segment, None for 5; its own first, then the others by their mean probability
            in it. A segment of a multi-label model names its own class alone.
        device: ``auto`` takes the first accelerator there is.
        precision: of the forward passes.
        shows: what the source shows, and how it was shown to the model in training; None takes it from the trained
            model, or is RGB.
        live: whether the source is a camera or a live stream, of which windows are left out if the model is too slow;
            None tells by its name, see :func:`is_live`.

    Returns:
        Segments that do not overlap, in order, computed as they are asked for; with ``error`` if the video could not be
        read (to its end). Those of a multi-label model are found for each class by itself, so that they overlap, and
        come as they end.

    Raises:
        GestaError: at once, class names that do not fit the model, settings that make no sense, a device or precision
            that the model cannot be computed with, a model of several streams.
    """
    path, config, views = os.fspath(source), config or TimelineConfig(), views or prediction_protocol(model)
    naming = SegmentNaming(model, classes=classes, config=config, views=views, top=top)
    if shows is None and isinstance(model, TrainedModel):
        shows = model.shows
    device = choose_device(device_for(naming.network, device, precision))
    how: dict[str, Any] = {"views": views, "device": device}
    how["autocast"] = choose_autocast(how["device"], precision)
    check_input(naming.network, shows, isinstance(model, TrainedModel) and model.person_crop, timeline=True)
    windows = score_windows(naming.network, naming.spaces, path, config, shows=shows, live=live, **how)
    return naming(path, windows)


class SegmentNaming:
    """How the windows of a video become its timed actions.

    Args:
        model, classes, config, views, top: as of :func:`timeline`.

    Raises:
        GestaError: as that function.
    """

    def __init__(
        self,
        model: TrainedModel | VideoModel,
        *,
        config: TimelineConfig,
        views: EvaluateConfig,
        classes: ClassNames | None = None,
        top: int | None = None,
    ) -> None:
        check(config, "the timeline")
        check(views, "the protocol")
        check_top(top)
        self.network, self.spaces = named_classes(model, classes)
        check_average(self.network, views)
        if self.network.config.clip.streams:
            raise GestaError("a timeline shows a model one stream, and this one takes several; name whole videos")
        if top is not None and self.network.config.multi_label:
            raise GestaError("the segments of a multi-label model have one class each; leave --top out")
        self.config, self.names, self.top = config, joint_names(self.spaces), top or TOP

    def __call__(self, path: str, windows: Iterable[Window]) -> Iterator[Prediction]:
        """The segments of a video, and at the end why it could not be read, if ``windows`` raises a VideoError."""
        config, multi_label = self.config, self.network.config.multi_label
        settings = config.threshold, config.ends_below, config.min_duration, config.join
        segmenter = ClassSegmenters(len(self.names), *settings) if multi_label else Segmenter(*settings)
        error = ""

        def readable() -> Iterator[Window]:
            nonlocal error
            try:
                yield from windows
            except VideoError as problem:
                error = str(problem)

        for window in smooth(readable(), config.smoothing):
            yield from (_prediction(path, segment, self.names, self.top) for segment in segmenter.push(window))
        yield from (_prediction(path, segment, self.names, self.top) for segment in segmenter.finish())
        if error:
            yield Prediction(path=path, error=error)


def _prediction(path: str, segment: Segment, names: list[str], top: int) -> Prediction:
    """The class of a segment first, then the others by their mean probability in it."""
    mean, name = segment.total / segment.count, names[segment.label]
    if len(mean) < len(names):  # of its class alone
        return Prediction(path=path, start=segment.start, end=segment.end, labels=((name, float(mean[0])),))
    others = [label for label in rank(mean, names, top) if label[0] != name]
    labels = ((name, float(mean[segment.label])), *others)[:top]
    return Prediction(path=path, start=segment.start, end=segment.end, labels=labels)
