"""A stream of frames -> overlapping windows, holding only the frames that some window still needs."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gesta.model import ClipSpec
from gesta.recipe import ShortVideos

UNIFORM_WINDOW_S = 4.0
"""Window of models that sample a whole video uniformly, unless another is asked for."""


class WindowFrames(NamedTuple):
    """The frames of one window."""

    start: float  # seconds
    end: float
    frames: Tensor  # (T, C, H, W) uint8


class WindowCutter:
    """Cuts a stream of frames into overlapping windows; holds only frames that a coming window needs.

    A window is a list of target positions, and the frame that is shown at a position is taken. Positions are frame
    numbers for densely sampling models (they were trained on frames ``stride`` apart) unless ``window`` is given, else
    seconds, so that variable frame rates and dropped frames do not distort time. The last window ends with the video,
    and begins a whole number of sampling steps after the one before it, so that the frames at its positions are held.

    Args:
        spec: what the model expects.
        window: seconds, None for the model's own span (``frames * stride`` frames; 4 s for uniform sampling).
        hop: distance of neighbouring windows, as a fraction of a window.
        short_videos: whether a video shorter than a window is played again, or its last frame is held.
    """

    def __init__(
        self, spec: ClipSpec, window: float | None = None, hop: float = 0.5, short_videos: ShortVideos = "loop"
    ) -> None:
        self.by_frame = window is None and spec.sampling == "dense"
        if self.by_frame:
            step = float(spec.stride)
            self.hop = max(1, round(spec.frames * hop)) * step  # a multiple of the stride: windows share frames
        else:
            step = (window or UNIFORM_WINDOW_S) / spec.frames
            self.hop = hop * step * spec.frames
        self.step, self.span, self.short_videos = step, step * spec.frames, short_videos
        self.shift = 0.5 if spec.sampling == "uniform" else 0.0  # of positions, in steps
        # the positions of a window, and those that follow at its step, which the last window of a video may take
        further = spec.frames + math.ceil(self.hop / step)
        # A microsecond later, so that a frame due exactly then is taken however its time is rounded.
        self._grid = step * (np.arange(further) + self.shift) + (0.0 if self.by_frame else 1e-6)
        self.offsets = self._grid[: spec.frames]
        self.max_held = spec.frames * (math.ceil(self.span / self.hop) + 2) + 1
        """Frames in memory at most."""
        self.complete = 0
        """Windows cut so far."""
        self._held: deque[tuple[float, float, Tensor]] = deque()  # position, seconds, image
        self._newest: tuple[float, float, Tensor] | None = None
        self._first = (0.0, 0.0)  # number and seconds of the first frame
        # between the last two frames, in positions and in seconds
        self._gap = (1.0 if self.by_frame else 1 / 25, 1 / 25)

    @property
    def held(self) -> int:
        """Frames in memory."""
        return len(self._held) + (self._newest is not None)

    def push(self, number: int, seconds: float, image: Tensor) -> Iterator[WindowFrames]:
        """Take the next frame; yield the windows that it completes (it lies after their end)."""
        if self._newest is None:
            self._first = (number, seconds)
        position = number - self._first[0] if self.by_frame else seconds - self._first[1]
        if self._newest is not None:
            last, last_s, _ = self._newest
            position, seconds = max(position, last), max(seconds, last_s)  # time never runs backwards
            if seconds > last_s:
                self._gap = (1.0 if self.by_frame else position - last, seconds - last_s)
            if self._needed(last, position):
                self._held.append(self._newest)
        self._newest = (position, seconds, image)
        while position >= self.complete * self.hop + self.span:
            yield self._next(seconds)

    def finish(self, duration: float = 0.0) -> Iterator[WindowFrames]:
        """The windows left when the stream has ended: the last ends with the video; a short video has a single one.

        Args:
            duration: seconds that the last frame is shown; 0, if that is not known, for as long as the one before it.
        """
        if self._newest is None:
            return
        position, seconds, _ = self._newest
        self._held.append(self._newest)
        if duration:
            self._gap = (1.0 if self.by_frame else duration, duration)
        end, end_s = position + self._gap[0], seconds + self._gap[1]
        while end >= self.complete * self.hop + self.span - 1e-6:
            yield self._next(end_s)
        if self.complete == 0:
            targets = self.offsets % end if self.short_videos == "loop" else self.offsets
            yield WindowFrames(self._first[1], end_s, self._frames(targets))
            return
        begin = (self.complete - 1) * self.hop
        rest = end - (begin + self.span)
        if rest > 1e-6:  # as many steps later as leave the last position in the video
            begin += self.step * math.ceil((rest - 1e-6) / self.step - self.shift)
            yield WindowFrames(self._start_s(begin), end_s, self._frames(begin + self.offsets))

    def _next(self, time_s: float) -> WindowFrames:
        begin = self.complete * self.hop
        start_s = self._start_s(begin)
        end_s = time_s if self.by_frame else start_s + self.span
        frames = WindowFrames(start_s, end_s, self._frames(begin + self.offsets))
        # no later window begins earlier, not even the last one, which ends with the video
        while len(self._held) > 1 and self._held[1][0] <= begin + self.offsets[0]:
            self._held.popleft()
        self.complete += 1
        return frames

    def _start_s(self, begin: float) -> float:
        return self._frame_at(begin)[1] if self.by_frame else self._first[1] + begin

    def _needed(self, begin: float, end: float) -> bool:
        """Whether some window's target lies in [begin, end), or one that follows those of the last complete window."""
        window = np.floor((end - self._grid) / self.hop)
        first = self.complete - (np.arange(len(self._grid)) >= len(self.offsets))
        for k in (window - 1, window, window + 1):  # the neighbours too: the division is rounded
            target = k * self.hop + self._grid
            if ((k >= first) & (begin <= target) & (target < end)).any():
                return True
        return False

    def _frame_at(self, target: float) -> tuple[float, float, Tensor]:
        """The frame that is shown at a position."""
        return self._held[max(bisect_right(self._held, target, key=lambda frame: frame[0]) - 1, 0)]

    def _frames(self, targets: Iterable[float]) -> Tensor:
        return torch.stack([self._frame_at(target)[2] for target in targets])
