"""How long reading one file may take: a damaged one can keep a decoder busy for hours."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from gesta.errors import VideoError
from gesta.video.archive import locate

T = TypeVar("T")

TIMEOUT_S = 60.0
"""Seconds that reading any file may take, and one more for each :data:`BYTES_PER_S` bytes or each image of a folder."""

BYTES_PER_S = 128 * 1024
"""Slowest reading that is waited for: as if a video of 1 Mbit/s were decoded no faster than it plays."""

KILL_AFTER_S = 20.0
"""Seconds after the deadline at which a process that still reads is killed: what hangs inside a decoder never checks
the time."""


class Deadline:
    """The time until which the reading of a file has to be done; it begins when this is made.

    Args:
        path: video file, member of a tar file, or folder of frames.
        timeout_s: seconds, whatever the size.

    Attributes:
        seconds: from the beginning to the end.
    """

    def __init__(self, path: str, timeout_s: float = TIMEOUT_S) -> None:
        self.path = path
        self.seconds = timeout_s + _seconds_for_size(path)
        self._end = time.monotonic() + self.seconds

    def check(self) -> None:
        """Do nothing as long as there is time.

        Raises:
            VideoError: there is none left.
        """
        if time.monotonic() > self._end:
            raise self.error()

    def error(self) -> VideoError:
        """What is raised when the time is over."""
        return VideoError(
            f"{self.path}: is not read within {self.seconds:.0f} seconds; copy it again, to a faster disk, or take it "
            "off the list"
        )

    def during(self, items: Iterable[T]) -> Iterator[T]:
        """The items, as long as there is time."""
        for item in items:
            self.check()
            yield item


def _seconds_for_size(path: str) -> float:
    """Seconds for what there is to read: bytes on the disk (holes of sparse files have none), or images."""
    if os.path.isdir(path):
        return len(os.listdir(path))
    byte_range = locate(path)
    if byte_range is None:
        return 0.0
    on_disk = getattr(os.stat(byte_range.file), "st_blocks", byte_range.size // 512 + 1) * 512
    return min(byte_range.size, on_disk) / BYTES_PER_S
