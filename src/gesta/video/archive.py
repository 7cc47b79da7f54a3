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
    """Bytes of a file from ``offset`` on, ``size`` of them: all of it, or a member of a tar file."""

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
    """The members of a tar file.

    Attributes:
        members: (offset, size) of each member's bytes by its name.
        texts: the text of its small members (``.json``, ``.cls``) by their names.
    """

    members: dict[str, tuple[int, int]]
    texts: dict[str, str]


def locate(path: str) -> ByteRange | None:
    """Where a video file or a member of a tar file lies; None if there is neither."""
    if os.path.isfile(path):
        return ByteRange(path, 0, os.path.getsize(path))
    if MEMBER not in path:
        return None
    split = path.index(MEMBER) + len(MEMBER)
    archive, name = path[: split - 1], path[split:]
    if not os.path.isfile(archive):
        return None
    member = read_index(archive).members.get(name)
    return None if member is None else ByteRange(archive, *member)


def read_bytes(byte_range: ByteRange, block: int = 2**20) -> Iterator[bytes]:
    """The bytes, block by block."""
    with open(byte_range.file, "rb") as file:
        file.seek(byte_range.offset)
        left = byte_range.size
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
        GestaError: not a tar file, a compressed one (whose members cannot be read in place), or one that is cut off.
    """
    status = os.stat(archive)
    return _read_index(archive, status.st_size, status.st_mtime_ns)


@functools.cache
def _read_index(archive: str, size: int, changed: int) -> ArchiveIndex:
    try:
        with open(index_file(archive), encoding="utf-8") as file:
            saved = json.load(file)
        # it belongs to this tar file: same size, and not older
        if saved["bytes"] == size and os.stat(index_file(archive)).st_mtime_ns >= changed:
            members = {name: (offset, length) for name, (offset, length) in saved["members"].items()}
            return ArchiveIndex(members, saved["texts"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # not there yet, or not ours
    members, texts = {}, {}
    try:
        if not os.path.isfile(archive):  # opening a pipe would wait for ever
            raise tarfile.ReadError("it is not a file")
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                if member.offset_data + member.size > size:
                    raise tarfile.ReadError("it is cut off")
                members[member.name] = member.offset_data, member.size
                if member.name.endswith((".json", ".cls")) and member.size < 2**16:
                    texts[member.name] = tar.extractfile(member).read().decode()  # type: ignore[union-attr]
    except (tarfile.TarError, UnicodeDecodeError) as error:
        raise GestaError(
            f"{archive}: cannot be read as an uncompressed tar file ({error}); copy it again, or unpack it"
        ) from None
    index = ArchiveIndex(members, texts)
    with contextlib.suppress(OSError):  # read-only storage: every process lists the members for itself
        write_json(index_file(archive), {"bytes": size, "members": members, "texts": texts})
    return index


def write_json(path: str, value: Any) -> None:
    """Write a file that appears complete or not at all."""
    part = f"{path}.{os.getpid()}.part"
    with open(part, "w", encoding="utf-8") as file:
        json.dump(value, file)
    os.replace(part, path)
