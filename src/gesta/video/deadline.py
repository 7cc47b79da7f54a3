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
"""Seconds that every file is given, besides one for each :data:`RATE` bytes of it, or each image of a folder."""

RATE = 128 * 1024
"""As if a video were decoded at the speed of one that plays at 1 Mbit/s."""

KILL_AFTER_S = 20.0
"""Seconds after the end at which a process that is still busy is ended: what hangs inside a decoder never looks up."""


class Deadline:
    """The time until which the reading of a file has to be done; it begins when this is made.

    Args:
        path: video file, member of a tar file, or folder of frames.
        patience: seconds, whatever the size.

    Attributes:
        seconds: from the beginning to the end.
    """

    def __init__(self, path: str, patience: float = TIMEOUT_S) -> None:
        self.path = path
        self.seconds = patience + _seconds_for_size(path)
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
    where = locate(path)
    if where is None:
        return 0.0
    on_disk = getattr(os.stat(where.file), "st_blocks", where.size // 512 + 1) * 512
    return min(where.size, on_disk) / RATE
