"""Whether a file is as long as its container says: a download or copy that broke off decodes without an error."""

from __future__ import annotations

from typing import BinaryIO

from gesta.video.archive import ByteRange

MP4_BOXES = frozenset(
    {b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"mfra", b"sidx", b"free", b"skip", b"wide", b"uuid"}
)
"""Types of boxes of which an MP4 file is made."""

ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
"""Of the object that holds the file's size, 24 bytes after this identifier's end."""

HEAD_BYTES = 4096
"""In which everything but the boxes of MP4 is found."""


def missing_bytes(byte_range: ByteRange | None) -> str:
    """How many bytes are missing at the end of an MP4 (and its kin), Matroska, WebM, AVI or ASF file, in words.

    Empty for a whole file and for None. A transport or program stream and FLV do not say how long they are, and a
    recording that was not finished does not either.
    """
    if byte_range is None:
        return ""
    with open(byte_range.file, "rb") as file:
        file.seek(byte_range.offset)
        head = file.read(min(HEAD_BYTES, byte_range.size))
        if head[4:8] in MP4_BOXES:
            end = _end_of_boxes(file, byte_range)
        elif head[:4] == b"\x1a\x45\xdf\xa3":  # EBML
            end = _end_of_matroska(head)
        elif head[:4] == b"RIFF" and head[8:12] == b"AVI ":
            size = int.from_bytes(head[4:8], "little")
            end = 8 + size if size < 2**32 - 1 else 0
        elif (at := head.find(ASF_PROPERTIES)) >= 0:
            end = int.from_bytes(head[at + 40 : at + 48], "little")
        else:
            end = 0
    return f"{end - byte_range.size} bytes are missing" if end > byte_range.size else ""


def _end_of_boxes(file: BinaryIO, byte_range: ByteRange) -> int:
    """Where the last box ends. A box begins with its size (4 bytes; 1: 8 bytes follow; 0: all the rest) and type."""
    begin = 0
    while begin + 8 <= byte_range.size:
        file.seek(byte_range.offset + begin)
        header = file.read(16)
        size = int.from_bytes(header[:4], "big")
        if size == 1:
            size = int.from_bytes(header[8:16], "big")
        if size < 8 or header[4:8] not in MP4_BOXES:  # what follows is no part of it
            return 0
        begin += size
    return begin


def _end_of_matroska(head: bytes) -> int:
    """Where the segment ends; 0 if it does not say so, as in a live recording."""
    size, at = _variable_length(head, 4)
    at += size
    if head[at : at + 4] != b"\x18\x53\x80\x67":
        return 0
    size, at = _variable_length(head, at + 4)
    return at + size if size else 0


def _variable_length(data: bytes, at: int) -> tuple[int, int]:
    """A number whose first byte's leading zeros say its length, 0 if unknown (all bits set); and where it ends."""
    length = 9 - data[at].bit_length() if at < len(data) and data[at] else 8
    value = int.from_bytes(data[at : at + length], "big") & ((1 << 7 * length) - 1)
    return (0 if value == (1 << 7 * length) - 1 else value), at + length
