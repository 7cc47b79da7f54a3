"""The few boxes of an MP4 file that libav keeps to itself: whether it is made of fragments, and when samples are shown.

A file is a list of boxes: size (4 bytes, with the header), type (4 bytes), content, which may be boxes again
(ISO/IEC 14496-12).
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from gesta.video.archive import ByteRange

MAX_HEADER_BYTES = 256 * 2**20
"""Of the box ``moov``, which lists all samples: some 10 MB for ten hours of video."""


def is_fragmented(byte_range: ByteRange) -> bool:
    """Whether the file is made of fragments, whose index is not complete before the whole file is read."""
    with open(byte_range.file, "rb") as file:
        file.seek(byte_range.offset)
        return any(box == b"moof" for box, _ in _boxes(file, byte_range.offset + byte_range.size))


def composition_offsets(byte_range: ByteRange, track: int) -> np.ndarray | None:
    """How long after its decoding time each sample of a track is shown, in the track's units; None if it cannot be had.

    Args:
        byte_range: where the file lies.
        track: number of the track, which libav calls the stream's id.

    Returns:
        int64, one for each sample; without samples if the track shows all of them when they are decoded.
    """
    with open(byte_range.file, "rb") as file:
        file.seek(byte_range.offset)
        sizes = (size for box, size in _boxes(file, byte_range.offset + byte_range.size) if box == b"moov")
        size = next(sizes, 0)
        if not 0 < size <= MAX_HEADER_BYTES:
            return None
        movie = file.read(size)
    for track_box in _contents(movie, b"trak"):
        header = next(_contents(track_box, b"tkhd"), b"")
        long = header[:1] == b"\1"  # version 1 has two times of 8 bytes before the number, version 0 of 4
        if int.from_bytes(header[20:24] if long else header[12:16], "big") != track:
            continue
        box = track_box
        for name in (b"mdia", b"minf", b"stbl"):
            box = next(_contents(box, name), b"")
        table = next(_contents(box, b"ctts"), b"")
        rows = np.frombuffer(table[8 : 8 + (len(table) - 8) // 8 * 8], ">i4").reshape(-1, 2)
        counts = rows[: int.from_bytes(table[4:8], "big"), 0].astype(np.int64)
        if (counts < 0).any() or counts.sum() > MAX_HEADER_BYTES:
            return None
        return np.repeat(rows[: len(counts), 1].astype(np.int64), counts)
    return None


def _contents(box: bytes, name: bytes) -> Iterator[bytes]:
    """The contents of the boxes of this type inside one."""
    file = io.BytesIO(box)
    for found, size in _boxes(file, len(box)):
        if found == name:
            yield file.read(size)


def _boxes(file: BinaryIO, end: int) -> Iterator[tuple[bytes, int]]:
    """Type of each box and the size of its content, at whose beginning the file then stands."""
    while file.tell() < end and len(header := file.read(8)) == 8:
        size, length = int.from_bytes(header[:4], "big"), 8
        if size == 1:  # the size follows, in 8 bytes
            size, length = int.from_bytes(file.read(8), "big"), 16
        begin = file.tell()
        yield header[4:], size - length
        if size < length:  # 0: reaches to the end of the file
            return
        file.seek(begin + size - length, os.SEEK_SET)
