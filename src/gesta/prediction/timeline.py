"""Videos of any length, cameras and streams -> timed actions, holding only the frames that some window still needs.

frames -> :class:`Cutter` (overlapping windows) -> model -> :func:`smooth` -> :class:`Segmenter` (hysteresis) ->
:class:`gesta.prediction.predict.Prediction` with start and end.
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

from gesta.config import replace
from gesta.data.clips import crop_boxes
from gesta.data.samples import TestViews
from gesta.errors import GestaError, VideoError
from gesta.model import ClipSpec, VideoModel
from gesta.prediction.answer import Prediction
from gesta.prediction.predict import (
    Classes,
    average_views,
    choose_device,
    class_names,
    in_background,
    joint_names,
    rank,
    score_views,
)
from gesta.prediction.segments import Segment, Segmenter, Window, smooth
from gesta.recipe import EvaluateConfig
from gesta.records import Record
from gesta.video.depth import Depth
from gesta.video.read import stream

UNIFORM_WINDOW_S = 4.0
"""Window of models that sample a whole video uniformly, unless another is asked for."""

LIVE = frozenset({"rtsp", "rtsps", "rtmp", "rtmps", "rtp", "udp", "srt", "tcp", "mms"})
"""Schemes of addresses whose pictures come at their own pace."""


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
        if window is not None and window <= 0:
            raise GestaError(f"a window of {window} s is no window: give its length in seconds, above 0")
        if not 0 < hop <= 1:
            raise GestaError(f"hop is a share of a window, above 0 and at most 1, not {hop}")
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
    classes: Classes,
    source: str,
    *,
    views: EvaluateConfig | None = None,
    device: str | torch.device = "auto",
    window: float | None = None,
    hop: float = 0.5,
    depth: Depth | None = None,
) -> Iterator[Window]:
    """Joint class probabilities of every window of a video, in order; see :func:`timeline` for the arguments.

    Frames are decoded in the background. A file waits for the model; of a camera or stream whose model is too slow the
    windows in between are left out, so that answers never lag behind. Ctrl-C ends a camera's or stream's windows.
    """
    views = views or EvaluateConfig()
    spaces = class_names(model, classes)
    place = choose_device(device)
    model.to(place).eval()
    spec, live = model.config.clip, is_live(source)
    cutter = Cutter(spec, window, hop)
    one = replace(views, clips=1, crops=1, coverage="even")
    whole = TestViews([Record(path=source, name=source, depth=depth)], spec, one)
    clips = in_background(
        _clips(source, cutter, spec.size, whole.short_side, depth), size=1 if live else 2 * views.batch_size, drop=live
    )
    batch: list[Clip] = []
    try:
        for clip in clips:
            batch.append(clip)
            if live or len(batch) == views.batch_size:
                yield from _score(model, batch, spaces, views, place)
                batch = []
    except VideoError:
        yield from _score(model, batch, spaces, views, place)  # what was seen before it broke
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
    yield from _score(model, batch, spaces, views, place)


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
    if not clips:
        return
    scores = score_views(model, torch.stack([c.frames for c in clips]), views.batch_size, device)
    for i, clip in enumerate(clips):
        one = {space: values[i : i + 1] for space, values in scores.items()}
        yield Window(clip.start, clip.end, average_views(one, spaces, views.average))


# --- everything together ---------------------------------------------------------------------------------------------


def timeline(
    model: VideoModel,
    classes: Classes,
    source: str | os.PathLike[str],
    *,
    views: EvaluateConfig | None = None,
    top: int = 5,
    device: str | torch.device = "auto",
    window: float | None = None,
    hop: float = 0.5,
    smoothing: int = 3,
    threshold: float = 0.5,
    release: float | None = None,
    min_duration: float = 0.0,
    depth: Depth | None = None,
) -> Iterator[Prediction]:
    """Timed actions in a video of any length, a camera or a stream, at bounded memory, each as soon as it is decided.

    Args:
        model: a trained model; it is moved to ``device`` and put into evaluation mode.
        classes: class names in label order.
        source: file, frame folder, URL, or camera ("0", "/dev/video0", "rtsp://...").
        views: short side, averaging and windows per forward pass (``batch_size``); each window is one centre crop.
        top: number of classes to name per segment; its own first, then the others by their mean probability in it.
        device: ``auto`` takes the first accelerator there is.
        window: seconds, None for the model's own span (4 s for models that sample uniformly).
        hop: distance of neighbouring windows, as a share of a window.
        smoothing: windows averaged (odd; 1 for none).
        threshold: probability at which a segment begins; 0 names an action at all times.
        release: probability below which it ends, None for half the threshold.
        min_duration: segments shorter than this many seconds are dropped, equal ones nearer than this are joined.
        depth: the source shows depth, and how it was shown to the model in training.

    Yields:
        Segments that do not overlap, in order; with ``error`` if the video could not be read (to its end).

    Raises:
        GestaError: class names that do not fit the model, settings that make no sense.
    """
    path = os.fspath(source)
    names = joint_names(class_names(model, classes))
    segmenter = Segmenter(threshold, threshold / 2 if release is None else release, min_duration)

    def answer(s: Segment) -> Prediction:
        mean = s.total / s.count
        others = [label for label in rank(mean, names, top) if label[0] != names[s.label]]
        labels = ((names[s.label], float(mean[s.label])), *others)[:top]
        return Prediction(path=path, start=s.start, end=s.end, labels=labels)

    error = ""

    def readable() -> Iterator[Window]:
        nonlocal error
        try:
            yield from windows(model, classes, path, views=views, device=device, window=window, hop=hop, depth=depth)
        except VideoError as problem:
            error = str(problem)

    for item in smooth(readable(), smoothing):
        yield from map(answer, segmenter.push(item))
    yield from map(answer, segmenter.finish())
    if error:
        yield Prediction(path=path, error=error)
