"""Where the bytes of a video lie: a file of its own, or a member of a tar file, written ``shard-000000.tar#clip.mp4``.

A member is read in place, by its offset: nothing is unpacked, and any member can be had without those before it. The
offsets of a tar file are listed once and kept beside it (``shard-000000.index.json``), so that every process of every
later training finds them there.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import tarfile
from collections.abc import Iterator
from typing import Any, NamedTuple

from gesta.errors import GestaError

MEMBER = ".tar#"
"""What stands between the stem of a tar file and the name of its member."""


class ByteRange(NamedTuple):
    """A stretch of bytes in a file."""

    file: str
    offset: int
    size: int

    @property
    def url(self) -> str:
        """How libav calls it; the prefix ``file:`` keeps names with a colon from being taken for a protocol."""
        if not self.offset:
            return "file:" + self.file
        return f"subfile,,start,{self.offset},end,{self.offset + self.size},,:file:{self.file}"


class ArchiveIndex(NamedTuple):
    """What a tar file holds.

    Attributes:
        places: (offset, size) of each member's bytes by its name.
        notes: the text of its small members (``.json``, ``.cls``) by their names.
    """

    places: dict[str, tuple[int, int]]
    notes: dict[str, str]


def locate(path: str) -> ByteRange | None:
    """Where a video file or a member of a tar file lies; None if there is neither."""
    if os.path.isfile(path):
        return ByteRange(path, 0, os.path.getsize(path))
    if MEMBER not in path:
        return None
    at = path.index(MEMBER) + len(MEMBER)
    archive, name = path[: at - 1], path[at:]
    if not os.path.isfile(archive):
        return None
    found = read_index(archive).places.get(name)
    return None if found is None else ByteRange(archive, *found)


def read_bytes(where: ByteRange, block: int = 2**20) -> Iterator[bytes]:
    """The bytes of a place, block by block."""
    with open(where.file, "rb") as file:
        file.seek(where.offset)
        left = where.size
        while left and (data := file.read(min(block, left))):
            left -= len(data)
            yield data


def index_file(archive: str) -> str:
    """Where the list of a tar file's members is kept."""
    return os.path.splitext(archive)[0] + ".index.json"


def read_index(archive: str) -> ArchiveIndex:
    """What a tar file holds: from the list beside it if that belongs to it, else by going through its headers.

    A list that had to be made is kept beside the tar file where that can be written to.

    Raises:
        GestaError: not a tar file, a compressed one (which has no places to jump to), or one that is cut off.
    """
    status = os.stat(archive)
    return _read_index(archive, status.st_size, status.st_mtime_ns)


@functools.cache
def _read_index(archive: str, size: int, changed: int) -> ArchiveIndex:
    try:
        with open(index_file(archive), encoding="utf-8") as file:
            kept = json.load(file)
        if kept["bytes"] == size and os.stat(index_file(archive)).st_mtime_ns >= changed:
            return ArchiveIndex(
                {name: (offset, length) for name, (offset, length) in kept["places"].items()}, kept["notes"]
            )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # not there yet, or not ours
    places, notes = {}, {}
    try:
        if not os.path.isfile(archive):  # opening a pipe would wait for ever
            raise tarfile.ReadError("it is not a file")
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                if member.offset_data + member.size > size:
                    raise tarfile.ReadError("it is cut off")
                places[member.name] = member.offset_data, member.size
                if member.name.endswith((".json", ".cls")) and member.size < 2**16:
                    notes[member.name] = tar.extractfile(member).read().decode()  # type: ignore[union-attr]
    except (tarfile.TarError, UnicodeDecodeError) as error:
        raise GestaError(
            f"{archive}: cannot be read as an uncompressed tar file ({error}); copy it again, or unpack it"
        ) from None
    index = ArchiveIndex(places, notes)
    with contextlib.suppress(OSError):  # read-only storage: every process lists the members for itself
        write_json(index_file(archive), {"bytes": size, "places": places, "notes": notes})
    return index


def write_json(path: str, value: Any) -> None:
    """Write a file that appears complete or not at all."""
    part = f"{path}.{os.getpid()}.part"
    with open(part, "w", encoding="utf-8") as file:
        json.dump(value, file)
    os.replace(part, path)
