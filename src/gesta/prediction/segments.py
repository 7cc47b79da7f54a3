"""Probabilities of overlapping windows -> timed segments that do not overlap: smoothing and hysteresis."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Window:
    """Class probabilities of one window."""

    start: float  # seconds
    end: float
    probabilities: Tensor  # (K,)


def smooth(items: Iterable[Window], width: int) -> Iterator[Window]:
    """Average each window's probabilities with its neighbours: ``width`` windows in all, fewer at the ends."""
    near: deque[Window] = deque()
    middle = 0  # position in `near` of the window that is averaged next
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
    """A part of the video in which one class lasts.

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
        """Extend it by a later one of the same class."""
        self.end, self.total, self.count = other.end, self.total + other.total, self.count + other.count


class Segmenter:
    """Joins windows into segments with hysteresis, and decides each segment as early as it can.

    Windows overlap, so each stands for the time that is nearer to its middle than to its neighbours' middles. A segment
    begins where a class is the most probable and reaches ``threshold``; it lasts while that class keeps ``release`` and
    no other begins. Segments shorter than ``min_duration`` are dropped, and those of one class less than that apart are
    joined.
    """

    def __init__(self, threshold: float, release: float, min_duration: float) -> None:
        self.threshold, self.release, self.min_duration = threshold, release, min_duration
        self._window: Window | None = None  # the last one; where its time ends depends on the next
        self._time = 0.0  # where the time of the last window begins
        self._current: Segment | None = None
        self._ended: Segment | None = None  # may still be joined to a later one of its class

    def push(self, window: Window) -> Iterator[Segment]:
        """Take the next window; yield the segments that are decided by it."""
        if self._window is None:
            self._time = window.start
        else:
            until = max(self._time, (self._window.start + self._window.end + window.start + window.end) / 4)
            yield from self._take(self._window, until)
            self._time = until
        self._window = window

    def finish(self) -> Iterator[Segment]:
        """The segments left at the end of the video."""
        if self._window is not None:
            yield from self._take(self._window, self._window.end)
        if self._current is not None:
            yield from self._close(self._current)
        if self._ended is not None:
            yield self._ended
        self._window = self._current = self._ended = None

    def _take(self, window: Window, until: float) -> Iterator[Segment]:
        """Add the time from the last window's to ``until``, for which a window stands."""
        p = window.probabilities
        best = int(p.argmax())
        begins = float(p[best]) >= self.threshold
        new = Segment(best, self._time, until, p, 1)
        if (
            self._current is not None
            and (self._current.label == best or not begins)
            and float(p[self._current.label]) >= self.release
        ):
            self._current.add(new)
        else:
            if self._current is not None:
                yield from self._close(self._current)
            self._current = new if begins else None
        ended, current = self._ended, self._current
        # what comes next is too late to be joined to it
        if ended is not None and (
            until - ended.end >= self.min_duration
            if current is None or current.label != ended.label
            else current.start - ended.end >= self.min_duration
        ):
            self._ended = None
            yield ended

    def _close(self, segment: Segment) -> Iterator[Segment]:
        ended = self._ended
        if ended and ended.label == segment.label and segment.start - ended.end < self.min_duration:
            ended.add(segment)
        elif segment.end - segment.start >= self.min_duration:
            if ended:
                yield ended
            self._ended = segment


class ClassSegmenters:
    """A :class:`Segmenter` for each class by itself: segments of different classes may overlap.

    A segment's ``total`` is of its own class alone, ``(1,)``.
    """

    def __init__(self, classes: int, threshold: float, release: float, min_duration: float) -> None:
        self._segmenters = [Segmenter(threshold, release, min_duration) for _ in range(classes)]

    def push(self, window: Window) -> Iterator[Segment]:
        """Take the next window; yield the segments that are decided by it."""
        for k, segmenter in enumerate(self._segmenters):
            alone = replace(window, probabilities=window.probabilities[k : k + 1])
            yield from (replace(segment, label=k) for segment in segmenter.push(alone))

    def finish(self) -> Iterator[Segment]:
        """The segments left at the end of the video."""
        for k, segmenter in enumerate(self._segmenters):
            yield from (replace(segment, label=k) for segment in segmenter.finish())
