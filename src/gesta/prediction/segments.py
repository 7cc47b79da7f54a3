"""Probabilities of overlapping windows -> timed segments that do not overlap: smoothing and hysteresis."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Window:
    """What the model says about one window."""

    start: float  # seconds
    end: float
    probabilities: Tensor  # (K,)


def smooth(items: Iterable[Window], width: int) -> Iterator[Window]:
    """Average each window's probabilities with its neighbours: ``width`` windows in all, fewer at the ends."""
    near: deque[Window] = deque()
    middle = 0  # of the windows in `near`, the one whose turn it is
    for item in items:
        near.append(item)
        if len(near) - middle > width // 2:
            yield _mean(near, middle)
            middle += 1
        if middle > width // 2:
            near.popleft()
            middle -= 1
    while middle < len(near):
        yield _mean(near, middle)
        middle += 1
        if middle > width // 2:
            near.popleft()
            middle -= 1


def _mean(near: Sequence[Window], middle: int) -> Window:
    return replace(near[middle], probabilities=torch.stack([w.probabilities for w in near]).mean(0))


@dataclass(slots=True)
class Segment:
    """A stretch of one class.

    Attributes:
        label: index of the class.
        start: seconds.
        end: seconds.
        total: sum of the probabilities of its windows, ``(K,)``.
        count: number of its windows.
    """

    label: int
    start: float
    end: float
    total: Tensor
    count: int

    def add(self, other: Segment) -> None:
        """Let it go on to the end of another."""
        self.end, self.total, self.count = other.end, self.total + other.total, self.count + other.count


class Segmenter:
    """Joins windows into segments with hysteresis, and decides each segment as early as it can.

    A window speaks for the time nearer to its middle than to its neighbours' middles. A segment begins where a class
    is the most probable and reaches ``threshold``; it goes on while that class keeps ``release`` and no other begins.
    Segments shorter than ``min_duration`` are dropped, and equal ones less than that apart are joined.
    """

    def __init__(self, threshold: float, release: float, min_duration: float) -> None:
        self.threshold, self.release, self.min_duration = threshold, release, min_duration
        self._last: Window | None = None  # its end waits for the next window's middle
        self._from = 0.0
        self._open: Segment | None = None
        self._waiting: Segment | None = None  # closed, but may yet be joined to an equal one

    def push(self, window: Window) -> Iterator[Segment]:
        """Take the next window; give the segments that are decided by it."""
        if self._last is None:
            self._from = window.start
        else:
            until = max(self._from, (self._last.start + self._last.end + window.start + window.end) / 4)
            yield from self._cell(self._last, until)
            self._from = until
        self._last = window

    def finish(self) -> Iterator[Segment]:
        """The segments left at the end of the video."""
        if self._last is not None:
            yield from self._cell(self._last, self._last.end)
        if self._open is not None:
            yield from self._close(self._open)
        if self._waiting is not None:
            yield self._waiting
        self._last = self._open = self._waiting = None

    def _cell(self, window: Window, until: float) -> Iterator[Segment]:
        p = window.probabilities
        best = int(p.argmax())
        begins = float(p[best]) >= self.threshold
        new = Segment(best, self._from, until, p, 1)
        if (
            self._open is not None
            and (self._open.label == best or not begins)
            and float(p[self._open.label]) >= self.release
        ):
            self._open.add(new)
        else:
            if self._open is not None:
                yield from self._close(self._open)
            self._open = new if begins else None
        waiting, now = self._waiting, self._open
        if waiting is not None and (
            until - waiting.end >= self.min_duration
            if now is None or now.label != waiting.label
            else now.start - waiting.end >= self.min_duration
        ):
            self._waiting = None
            yield waiting

    def _close(self, segment: Segment) -> Iterator[Segment]:
        waiting = self._waiting
        if waiting and waiting.label == segment.label and segment.start - waiting.end < self.min_duration:
            waiting.add(segment)
        elif segment.end - segment.start >= self.min_duration:
            if waiting:
                yield waiting
            self._waiting = segment
