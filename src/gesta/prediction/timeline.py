"""Videos of any length, cameras and streams -> timed actions, holding only the frames that some window still needs.

frames -> :class:`Cutter` (overlapping windows) -> model -> :func:`smooth` -> :class:`Segmenter` (hysteresis) ->
:class:`gesta.prediction.answer.Prediction` with start and end.
"""

from __future__ import annotations

import math
import os
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gesta.checkpoint import TrainedModel
from gesta.config import config, replace
from gesta.data.clips import crop_boxes
from gesta.data.samples import TestViews
from gesta.errors import GestaError, VideoError
from gesta.evaluation.scoring import joint_names, joint_probabilities, named_classes, rank, score_views, views_per_pass
from gesta.model import ClipSpec, VideoModel
from gesta.prediction.answer import Prediction
from gesta.prediction.background import in_background
from gesta.prediction.segments import Segment, Segmenter, Window, smooth
from gesta.processes import choose_device
from gesta.recipe import EvaluateConfig
from gesta.records import ClassNames, Record
from gesta.video.depth import Depth
from gesta.video.read import stream

UNIFORM_WINDOW_S = 4.0
"""Window of models that sample a whole video uniformly, unless another is asked for."""

LIVE = frozenset({"rtsp", "rtsps", "rtmp", "rtmps", "rtp", "udp", "srt", "tcp", "mms"})
"""Schemes of addresses whose pictures come at their own pace."""


@config
class TimelineConfig:
    """How windows slide over a long video, and how their probabilities become segments.

    Attributes:
        window: seconds that a window lasts, None for the model's own clip (4 s for models that sample uniformly).
        hop: distance of neighbouring windows, as a fraction of a window.
        smoothing: windows averaged (odd; 1 for none).
        threshold: probability at which a segment begins; 0 names an action at all times.
        release: probability below which it ends, None for half the threshold.
        min_duration: segments shorter than this many seconds are dropped, equal ones nearer than this are joined.
    """

    window: float | None = None
    hop: float = 0.5
    smoothing: int = 3
    threshold: float = 0.5
    release: float | None = None
    min_duration: float = 0.0

    def check(self) -> None:
        """Refuse settings that make no sense.

        Raises:
            GestaError: one of them, by name.
        """
        if self.window is not None and self.window <= 0:
            raise GestaError(f"the window must last longer than {self.window} s: give its length in seconds, above 0")
        if not 0 < self.hop <= 1:
            raise GestaError(f"the hop is a fraction of a window, above 0 and at most 1, not {self.hop}")
        if self.smoothing < 1 or self.smoothing % 2 == 0:
            raise GestaError(f"smoothing averages an odd number of windows (1 for none), not {self.smoothing}")


def is_live(source: str | os.PathLike[str]) -> bool:
    """Whether a source is a camera or a live stream, whose pictures come and go whether they are read or not."""
    name = os.fspath(source)
    scheme = name.partition("://")[0].lower()
    return (name.isdecimal() and not os.path.exists(name)) or name.startswith("/dev/video") or scheme in LIVE


class Clip(NamedTuple):
    """The frames of one window."""

    start: float  # seconds
    end: float
    frames: Tensor  # (T, C, H, W) uint8


# --- frames -> windows -----------------------------------------------------------------------------------------------


class Cutter:
    """Cuts a stream of frames into overlapping windows; holds only frames that a coming window needs.

    A window is a list of target positions, and the frame on screen at a position is taken: positions are frame numbers
    for densely sampling models (they were trained on frames ``stride`` apart) unless ``window`` is given, else seconds,
    so that variable frame rates and dropped frames do not warp time.

    Args:
        spec: what the model eats.
        window: seconds, None for the model's own span (``frames * stride`` frames; 4 s for uniform sampling).
        hop: distance of neighbouring windows, as a share of a window.
    """

    def __init__(self, spec: ClipSpec, window: float | None = None, hop: float = 0.5) -> None:
        self.by_frame = window is None and spec.sampling == "dense"
        if self.by_frame:
            step = float(spec.stride)
            self.hop = max(1, round(spec.frames * hop)) * step  # a multiple of the stride: windows share frames
        else:
            step = (window or UNIFORM_WINDOW_S) / spec.frames
            self.hop = hop * step * spec.frames
        self.span = step * spec.frames
        # A microsecond more, so that a frame due at the very moment is taken however its time is rounded.
        self.offsets = step * (np.arange(spec.frames) + (0.5 if spec.sampling == "uniform" else 0.0))
        self.offsets += 0.0 if self.by_frame else 1e-6
        self.most = spec.frames * (math.ceil(self.span / self.hop) + 2) + 1
        """No more frames than this are ever held."""
        self.cut = 0
        """Complete windows so far."""
        self._held: deque[tuple[float, float, Tensor]] = deque()  # position, seconds, image
        self._newest: tuple[float, float, Tensor] | None = None
        self._first = (0.0, 0.0)  # number and seconds of the first frame
        self._gap = (
            1.0 if self.by_frame else 1 / 25,
            1 / 25,
        )  # between the last two frames, in positions and in seconds

    @property
    def held(self) -> int:
        """Frames in memory."""
        return len(self._held) + (self._newest is not None)

    def push(self, number: int, seconds: float, image: Tensor) -> Iterator[Clip]:
        """Take the next frame; give the windows that it completes (it lies behind their end)."""
        if self._newest is None:
            self._first = (number, seconds)
        position = number - self._first[0] if self.by_frame else seconds - self._first[1]
        if self._newest is not None:
            before, before_s, _ = self._newest
            position, seconds = max(position, before), max(seconds, before_s)  # a stream that jumps back stands still
            if seconds > before_s:
                self._gap = (1.0 if self.by_frame else position - before, seconds - before_s)
            if self._needed(before, position):
                self._held.append(self._newest)
        self._newest = (position, seconds, image)
        while position >= self.cut * self.hop + self.span:
            yield self._next(seconds)

    def finish(self) -> Iterator[Clip]:
        """The windows left when the stream has ended: the last ends with the video; a short video is played again."""
        if self._newest is None:
            return
        position, seconds, _ = self._newest
        self._held.append(self._newest)
        end, end_s = position + self._gap[0], seconds + self._gap[1]
        while end >= self.cut * self.hop + self.span - 1e-6:
            yield self._next(end_s)
        covered = (self.cut - 1) * self.hop + self.span if self.cut else 0.0
        if self.cut == 0:
            yield Clip(self._first[1], end_s, self._frames(self.offsets % end))
        elif end - covered > 1e-6:
            targets = end - self.span + self.offsets
            start_s = self._at(targets[0])[1] if self.by_frame else end_s - self.span
            yield Clip(start_s, end_s, self._frames(targets))

    def _next(self, now: float) -> Clip:
        begin = self.cut * self.hop
        start_s = self._at(begin)[1] if self.by_frame else self._first[1] + begin
        end_s = now if self.by_frame else start_s + self.span
        clip = Clip(start_s, end_s, self._frames(begin + self.offsets))
        # a last window that ends with the video begins no earlier than this one: what lies before can go
        while len(self._held) > 1 and self._held[1][0] <= begin + self.offsets[0]:
            self._held.popleft()
        self.cut += 1
        return clip

    def _needed(self, begin: float, end: float) -> bool:
        """Whether some window's target lies in [begin, end)."""
        window = np.floor((end - self.offsets) / self.hop)
        for k in (window - 1, window, window + 1):  # the neighbours too: the division is rounded
            target = k * self.hop + self.offsets
            if ((k >= self.cut) & (begin <= target) & (target < end)).any():
                return True
        return False

    def _at(self, target: float) -> tuple[float, float, Tensor]:
        """The frame on screen at a position."""
        return self._held[max(bisect_right(self._held, target, key=lambda frame: frame[0]) - 1, 0)]

    def _frames(self, targets: Iterable[float]) -> Tensor:
        return torch.stack([self._at(target)[2] for target in targets])


# --- windows -> probabilities ----------------------------------------------------------------------------------------


def windows(
    model: VideoModel,
    spaces: Iterable[str],
    source: str,
    config: TimelineConfig,
    *,
    views: EvaluateConfig,
    device: torch.device,
    depth: Depth | None = None,
) -> Iterator[Window]:
    """Joint class probabilities of every window of a video, in order; see :func:`timeline` for the arguments.

    Frames are decoded in the background. A file waits for the model; of a camera or stream whose model is too slow the
    windows in between are left out, so that predictions never lag behind. Ctrl-C ends a camera's or stream's windows.
    """
    model.to(device).eval()
    spec, live = model.config.clip, is_live(source)
    cutter = Cutter(spec, config.window, config.hop)
    one_view = replace(views, clips=1, crops=1, coverage="even")
    whole = TestViews([Record(path=source, name=source, depth=depth)], spec, one_view)
    clips = in_background(
        _clips(source, cutter, spec.size, whole.short_side, depth), size=1 if live else 2 * views.batch_size, drop=live
    )
    batch: list[Clip] = []
    try:
        for clip in clips:
            batch.append(clip)
            if live or len(batch) == views.batch_size:
                yield from _score(model, batch, spaces, views, device)
                batch = []
    except VideoError:
        yield from _score(model, batch, spaces, views, device)  # what was seen before it broke
        raise
    except KeyboardInterrupt:
        if not live:
            raise
        return
    finally:
        clips.close()
    if cutter.cut == 0 and batch and not live:  # shorter than a window: what `predict` says of the whole video
        sample = whole[0]
        batch = [batch[0]._replace(frames=sample["video"][0])] if isinstance(sample, dict) else batch
    yield from _score(model, batch, spaces, views, device)


def _clips(source: str, cutter: Cutter, size: int, short_side: int, depth: Depth | None) -> Iterator[Clip]:
    for frame in stream(source, short_side=short_side, depth=depth):
        top, left, height, width = crop_boxes(frame.image.shape[1], frame.image.shape[2], size, 1)[0]
        # a copy, so that the rest of the frame is not held with it
        image = frame.image[:, top : top + height, left : left + width].clone()
        yield from cutter.push(frame.index, frame.time, image)
    yield from cutter.finish()


def _score(
    model: VideoModel, clips: list[Clip], spaces: Iterable[str], views: EvaluateConfig, device: torch.device
) -> Iterator[Window]:
    size = views_per_pass(views.batch_size, device)
    for at in range(0, len(clips), size):
        part = clips[at : at + size]
        scores = score_views(model, torch.stack([clip.frames for clip in part]), views.average, device)
        for row, clip in enumerate(part):
            of_clip = {space: values[row] for space, values in scores.items()}
            yield Window(clip.start, clip.end, joint_probabilities(of_clip, spaces, views.average))


# --- everything together ---------------------------------------------------------------------------------------------


def timeline(
    model: TrainedModel | VideoModel,
    source: str | os.PathLike[str],
    *,
    classes: ClassNames | None = None,
    config: TimelineConfig | None = None,
    views: EvaluateConfig | None = None,
    top: int = 5,
    device: str | torch.device = "auto",
    depth: Depth | None = None,
) -> Iterator[Prediction]:
    """Timed actions in a video of any length, a camera or a stream, at bounded memory, each as soon as it is decided.

    Args:
        model: what :func:`gesta.load` gives, or a network; it is moved to ``device`` and put into evaluation mode.
        source: file, frame folder, URL, or camera ("0", "/dev/video0", "rtsp://...").
        classes: class names in label order. None takes those of the trained model; a network's classes are then called
            ``"0"``, ``"1"`` ….
        config: windows, smoothing and what makes a segment; None for the default.
        views: short side, averaging and windows per forward pass (``batch_size``); each window is one centre crop.
        top: number of classes to name per segment; its own first, then the others by their mean probability in it.
        device: ``auto`` takes the first accelerator there is.
        depth: the source shows depth, and how it was shown to the model in training; None takes it from the trained
            model.

    Yields:
        Segments that do not overlap, in order; with ``error`` if the video could not be read (to its end).

    Raises:
        GestaError: class names that do not fit the model, settings that make no sense.
    """
    path, config, views = os.fspath(source), config or TimelineConfig(), views or EvaluateConfig()
    config.check()
    network, spaces = named_classes(model, classes)
    names = joint_names(spaces)
    if depth is None and isinstance(model, TrainedModel):
        depth = model.depth
    release = config.threshold / 2 if config.release is None else config.release
    segmenter = Segmenter(config.threshold, release, config.min_duration)

    def prediction(segment: Segment) -> Prediction:
        mean = segment.total / segment.count
        others = [label for label in rank(mean, names, top) if label[0] != names[segment.label]]
        labels = ((names[segment.label], float(mean[segment.label])), *others)[:top]
        return Prediction(path=path, start=segment.start, end=segment.end, labels=labels)

    error = ""

    def readable() -> Iterator[Window]:
        nonlocal error
        try:
            yield from windows(network, spaces, path, config, views=views, device=choose_device(device), depth=depth)
        except VideoError as problem:
            error = str(problem)

    for window in smooth(readable(), config.smoothing):
        yield from map(prediction, segmenter.push(window))
    yield from map(prediction, segmenter.finish())
    if error:
        yield Prediction(path=path, error=error)
