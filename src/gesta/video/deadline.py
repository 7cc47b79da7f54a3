"""How long reading one file may take: a damaged one can keep a decoder busy for hours."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from gesta.errors import VideoError
from gesta.video.archive import locate
from gesta.video.boundary import decoding

T = TypeVar("T")

TIMEOUT_S = 60.0
"""Seconds that reading any file may take, and one more for each :data:`BYTES_PER_S` bytes or each image of a folder."""

BYTES_PER_S = 128 * 1024
"""Slowest reading speed that is accepted: that of a 1 Mbit/s video decoded in real time."""

KILL_AFTER_S = 20.0
"""Seconds after the deadline at which a process that still reads is killed: code that hangs inside a decoder never
checks the time."""


class Deadline:
    """The time until which the reading of a file has to be done, counted from construction.

    Args:
        path: video file, member of a tar file, or folder of frames.
        timeout_s: base seconds, to which the size of the file adds more (see :data:`TIMEOUT_S`).

    Attributes:
        seconds: seconds allowed in total.
    """

    def __init__(self, path: str, timeout_s: float = TIMEOUT_S) -> None:
        self.path = path
        with decoding(path, "cannot be read"):
            self.seconds = timeout_s + _seconds_for_size(path)
        self.restart()

    def restart(self) -> None:
        """Count from now on."""
        self._end = time.monotonic() + self.seconds

    def check(self) -> None:
        """Do nothing before the deadline.

        Raises:
            VideoError: time is up.
        """
        if time.monotonic() > self._end:
            raise self.error()

    def error(self) -> VideoError:
        """The error that is raised when time is up."""
        if "://" in self.path:
            remedy = "download it first, or give --live to gesta predict if it is a camera or live stream"
        else:
            remedy = "copy it to a faster disk, make the file again, or remove it from the list"
        return VideoError(f"{self.path}: was not read within {self.seconds:.0f} seconds; {remedy}")

    def guard(self, items: Iterable[T]) -> Iterator[T]:
        """Yields the items; raises VideoError when time is up."""
        for item in items:
            self.check()
            yield item


def _seconds_for_size(path: str) -> float:
    """Seconds that the size adds, for bytes on the disk (holes of sparse files have none) or for images."""
    if os.path.isdir(path):
        return len(os.listdir(path))
    byte_range = locate(path)
    if byte_range is None:
        return 0.0
    on_disk = getattr(os.stat(byte_range.file), "st_blocks", byte_range.size // 512 + 1) * 512
    return min(byte_range.size, on_disk) / BYTES_PER_S
