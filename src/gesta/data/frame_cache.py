"""Decoded frames of a small data set, kept in files, so that later epochs and trainings decode nothing.

Kept are all frames of a video (or segment) as :func:`gesta.video.read.read_frames` gives them, scaled and not cropped::

    <cache folder>/frames/3f/3fa1….npy        (N, H, W, 3) uint8, mapped into memory by every process that reads it

The name is a hash of all that pixels depend on, see :meth:`FrameCache.file`, so a video that has changed is decoded
again. A video of which reading some frames might give other pixels than reading all of them
(:func:`gesta.video.read.read_whole`), or whose reading fails, is not kept, and is read as without a cache. Files are
written whole or not at all.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar, Unpack

import av
import numpy as np

from gesta.errors import GestaError, VideoError
from gesta.files import PART, make_folder, remedy, remove, write_atomically
from gesta.processes import memory
from gesta.progress import show
from gesta.records import CacheMode
from gesta.video.archive import cache_folder, size_and_time
from gesta.video.picture import scaled_size
from gesta.video.probe import probe
from gesta.video.read import Frames, ReadOptions, Selection, read_frames, read_whole, select_frames

Reading = tuple[str, ReadOptions]
"""A file and how its frames are read."""

FORMAT = 2
"""To be raised when the reader gives other pixels."""

MEMORY_SHARE, DISK_SHARE = 1 / 4, 1 / 2
"""A data set is kept if its frames take no more of the free memory, and those to be written no more of the disk."""

SAMPLES = 32
"""Videos by which the size of those that are not there yet is estimated."""

MOST_BYTES = 2**30
"""Of a single video; longer ones are decoded every time."""

KEPT_S = 30 * 24 * 3600.0
"""Seconds after its last training at which a file is removed."""

S = TypeVar("S", bound=Selection)


class FrameCache:
    """Reads frames from the files that are there.

    Attributes:
        folder: where they are.
        fills: decode and keep the videos that are not there yet; else they are decoded as without a cache.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None, fills: bool = False) -> None:
        self.folder = Path(folder or os.path.join(cache_folder(), "frames"))
        self.fills = fills
        self._not_kept: set[Path] = set()  # what this process has tried to keep, in vain

    def file(self, path: str, options: ReadOptions) -> Path | None:
        """The file of a video's frames, whether or not it is there; None if there is no such video.

        Its name is a hash of the video's path, size and time of change (of all images of a folder), the segment, the
        short side and whether smaller pictures are enlarged, what it shows, the decoder, and the versions of
        gesta and of the libraries that decode and scale.
        """
        state = size_and_time(path)
        if state is None:
            return None
        how = {name: value for name, value in options.items() if name != "deadline"}
        key = json.dumps([FORMAT, os.path.abspath(path), state, how, pixel_versions()], sort_keys=True, default=asdict)
        name = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:40]
        return self.folder / name[:2] / f"{name}.npy"

    def read_frames(self, path: str, select: Callable[[int], S], **options: Unpack[ReadOptions]) -> Frames[S]:
        """As :func:`gesta.video.read.read_frames`, to the bit, from the file of the frames where it is there."""
        file = self.file(path, options)
        if file is not None and file not in self._not_kept:
            pixels = _read(file)
            if pixels is None and self.fills:
                pixels = self._keep(file, path, options)
            if pixels is not None:
                return select_frames(pixels, select)
            self._not_kept.add(file)
            if deadline := options.get("deadline"):
                deadline.restart()
        return read_frames(path, select, **options)

    def _keep(self, file: Path, path: str, options: ReadOptions) -> np.ndarray | None:
        """Decode a video and write its frames; None if they cannot be kept (shown if the disk is full)."""
        try:
            pixels = read_whole(path, MOST_BYTES, **options)
        except (VideoError, RuntimeError, MemoryError):  # said when it is read without the cache
            return None
        if pixels is None:
            return None
        try:
            make_folder(file.parent)
            with write_atomically(file) as target:
                np.save(target, pixels, allow_pickle=False)
        except GestaError as error:
            self.fills = False
            show(f"{error}; until then videos that are not kept yet are decoded anew in every epoch", sys.stderr)
        return pixels


def choose_cache(mode: CacheMode, readings: Sequence[Reading]) -> tuple[FrameCache | None, str]:
    """A cache for videos that are read again and again, if their frames fit, and a sentence about that for the user.

    ``auto`` takes one if all frames together take no more than :data:`MEMORY_SHARE` of the free memory, where the
    system keeps the files that are read often, and those to be decoded no more than :data:`DISK_SHARE` of the disk.
    Files that no training has used for :data:`KEPT_S`, and the least recently used beyond that share of the disk, are
    removed.
    """
    if mode == "off" or not readings:
        return None, ""
    cache = FrameCache(fills=True)
    wanted = {file: reading for reading in readings if (file := cache.file(*reading)) is not None}
    kept = {file: file.stat().st_size for file in wanted if file.is_file()}
    missing = [reading for file, reading in wanted.items() if file not in kept]
    needed = _estimate(missing)
    size = f"{(sum(kept.values()) + needed) / 1e6:.0f} MB"
    if sum(kept.values()) + needed > (most := MEMORY_SHARE * _free_memory()):
        return None, (
            f"the decoded frames of {len(wanted)} videos would take {size}, more than a quarter of the free memory "
            f"({most / 1e6:.0f} MB), so videos are decoded anew in every epoch"
        )
    try:
        for file in kept:
            os.utime(file)
        if missing:
            cache.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=cache.folder):
                pass
            free = _make_room(cache.folder, needed, set(wanted))
            if needed > DISK_SHARE * free:
                return None, (
                    f"the decoded frames of {len(missing)} videos would take {needed / 1e6:.0f} MB, more than half of "
                    f"what is free in {cache.folder}, so videos are decoded anew in every epoch"
                )
    except OSError as error:
        if missing:
            return None, (
                f"{cache.folder}: cannot be written ({error.strerror}), so videos are decoded anew in every epoch; "
                f"{remedy(error)} (XDG_CACHE_HOME names another folder)"
            )
    already = f", {len(kept)} of them already" if kept else ""
    return cache, f"decoded frames of {len(wanted)} videos are kept in {cache.folder}{already}: {size}"


def _read(file: Path) -> np.ndarray | None:
    """The frames of a file, mapped into memory and not read yet; None if it is not there or holds none."""
    try:
        pixels: np.ndarray = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    is_whole = pixels.dtype == np.uint8 and pixels.ndim == 4 and pixels.shape[-1] == 3 and len(pixels)
    return pixels if is_whole else None


@functools.cache
def pixel_versions() -> dict[str, Any]:
    """Versions of all that decoded and scaled pixels depend on: gesta, torch and the libraries that decode."""
    names = ("gesta", "torch", "pillow", "torchcodec")
    versions: dict[str, Any] = {"av": av.__version__, **av.library_versions}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # torchcodec is an extra
            versions[name] = importlib.metadata.version(name)
    return versions


def _estimate(readings: Sequence[Reading]) -> int:
    """Bytes of all frames, estimated from some of the videos; one that cannot be read counts as empty."""
    samples = readings[:: max(1, len(readings) // SAMPLES)]
    total = 0
    for path, options in samples:
        with contextlib.suppress(VideoError, RuntimeError, MemoryError):
            info = probe(path, shows=options.get("shows"))
            width, height = scaled_size(
                info.width, info.height, options.get("short_side"), options.get("enlarge", True)
            )
            begin, end = options.get("start") or 0, options.get("end")
            frames = min(info.frames, info.frames if end is None else end) - begin
            if seconds := options.get("seconds"):
                frames = int((seconds[1] - seconds[0]) * info.fps) + 1
            total += 3 * width * height * max(0, frames)
    return total * len(readings) // max(1, len(samples))


def _free_memory() -> float:
    known = memory()
    return known[1] if known else 2**32


def _make_room(folder: Path, needed: int, wanted: set[Path]) -> int:
    """Remove what is old, and the least recently used files beyond their share of the disk; returns its free bytes."""
    now, (_, _, free) = time.time(), shutil.disk_usage(folder)
    files = sorted(_files(folder))
    total = sum(size for _, size, _ in files)
    most = DISK_SHARE * (free + total)
    for used, size, file in files:
        is_part = file.name.endswith(PART) and now - used > 3600  # of a process that was killed
        if file not in wanted and (is_part or now - used > KEPT_S or total + needed > most):
            remove(file)
            total -= size
    return shutil.disk_usage(folder)[2]


def _files(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """When each file was used last, its size and its path."""
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # removed just now
                status = os.stat(os.path.join(parent, name))
                yield status.st_mtime, status.st_size, Path(parent, name)
