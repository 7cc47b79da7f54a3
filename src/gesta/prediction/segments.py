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
    no other is more probable. Segments of one class less than ``join`` seconds apart are joined, and then those shorter
    than ``min_duration`` are dropped; no kept segment lies between those that are joined.
    """

    def __init__(self, threshold: float, release: float, min_duration: float, join: float = 0.0) -> None:
        self.threshold, self.release, self.min_duration, self.join = threshold, release, min_duration, join
        self._window: Window | None = None  # the last one; where its time ends depends on the next
        self._time = 0.0  # where the time of the last window begins
        self._current: Segment | None = None
        self._ended: Segment | None = None  # may still be joined to a later one of its class
        self._short: Segment | None = None  # after it: dropped unless it is joined to a later one

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
        self._window = self._current = self._ended = self._short = None

    def _take(self, window: Window, until: float) -> Iterator[Segment]:
        """Add the time from the last window's to ``until``, for which a window stands."""
        p = window.probabilities
        best = int(p.argmax())
        new = Segment(best, self._time, until, p, 1)
        if self._current is not None and float(p[self._current.label]) >= max(float(p[best]), self.release):
            self._current.add(new)
        else:
            if self._current is not None:
                yield from self._close(self._current)
            self._current = new if float(p[best]) >= self.threshold else None
        ended, current = self._ended, self._current
        # what comes next is too late to be joined to it
        if ended is not None and (
            until - ended.end >= self.join
            if current is None or current.label != ended.label
            else current.start - ended.end >= self.join
        ):
            self._ended = None
            yield ended

    def _close(self, segment: Segment) -> Iterator[Segment]:
        if self._short and self._continues(self._short, segment):
            self._short.add(segment)
            segment = self._short
        self._short = None
        if self._ended and self._continues(self._ended, segment):
            self._ended.add(segment)
        elif segment.end - segment.start < self.min_duration:
            self._short = segment
        else:
            if self._ended:
                yield self._ended
            self._ended = segment

    def _continues(self, ended: Segment, segment: Segment) -> bool:
        return ended.label == segment.label and segment.start - ended.end < self.join


class ClassSegmenters:
    """A :class:`Segmenter` for each class by itself: segments of different classes may overlap.

    A segment's ``total`` is of its own class alone, ``(1,)``.
    """

    def __init__(self, classes: int, threshold: float, release: float, min_duration: float, join: float = 0.0) -> None:
        self._segmenters = [Segmenter(threshold, release, min_duration, join) for _ in range(classes)]

    def push(self, window: Window) -> Iterator[Segment]:
        """Take the next window; yield the segments that are decided by it."""
        for k, segmenter in enumerate(self._segmenters):
            alone = replace(window, probabilities=window.probabilities[k : k + 1])
            yield from (replace(segment, label=k) for segment in segmenter.push(alone))

    def finish(self) -> Iterator[Segment]:
        """The segments left at the end of the video."""
        for k, segmenter in enumerate(self._segmenters):
            yield from (replace(segment, label=k) for segment in segmenter.finish())
