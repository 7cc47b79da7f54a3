"""Where the bytes of a video lie: a file of its own, or a member of a tar file, written ``shard-000000.tar#clip.mp4``.

A member is read in place, by its offset: nothing is unpacked, and any member can be had without those before it. The
offsets of a tar file are listed once and kept in the user's cache folder (``$XDG_CACHE_HOME/gesta`` or
``~/.cache/gesta``), so that every process of every later training finds them there; nothing is written beside the data.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import os
import posixpath
import stat
import tarfile
from collections.abc import Iterator
from typing import Any, NamedTuple

from gesta.errors import GestaError, VideoError
from gesta.files import make_folder, write_text
from gesta.video.boundary import machine_remedy

MEMBER = ".tar#"
"""What stands between the stem of a tar file and the name of its member."""

ABSENT = frozenset([errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP])
"""Errors of the system that say that there is no such file or folder; others say that it cannot be read."""

SAMPLES, BLOCK = 64, 4096
"""Blocks of a tar file, spread evenly over it, and bytes of each, by which its content is recognised."""


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
        members: (offset, size) of each member's bytes by its name; of a link those of what it links to.
        texts: the text of its small members (``.json``, ``.cls``) by their names.
        hidden: names of hidden members (``._clip.mp4``, as macOS writes them beside ``clip.mp4``), which are left out.
    """

    members: dict[str, tuple[int, int]]
    texts: dict[str, str]
    hidden: list[str]


def locate(path: str) -> ByteRange | None:
    """Where a video file or a member of a tar file lies; None if there is neither.

    Raises:
        VideoError: the system does not say whether there is one (permissions, a failing disk).
    """
    try:
        status = os.stat(path)
    except OSError as error:
        if error.errno not in ABSENT:
            raise VideoError(f"{path}: cannot be read ({error.strerror}); {machine_remedy(error)}") from None
    except ValueError:  # a NUL in it
        return None
    else:
        return ByteRange(path, 0, status.st_size) if stat.S_ISREG(status.st_mode) else None
    if MEMBER not in path:
        return None
    split = path.index(MEMBER) + len(MEMBER)
    archive, name = path[: split - 1], path[split:]
    if not os.path.isfile(archive):
        return None
    member = read_index(archive).members.get(name)
    return None if member is None else ByteRange(archive, *member)


def size_and_time(path: str) -> list[Any] | None:
    """Size and time of change of a file, of all images of a folder, or of the tar file that holds it; None without."""
    try:
        if os.path.isdir(path):
            with os.scandir(path) as entries:
                return sorted([e.name, e.stat().st_size, e.stat().st_mtime_ns] for e in entries)
        member = locate(path)
        return member and [member.offset, member.size, os.stat(member.file).st_mtime_ns]
    except (OSError, GestaError):  # reported when it is read
        return None


def state_hash(path: str) -> str:
    """A hash of :func:`size_and_time`, which says whether there is another video under a name; empty without."""
    state = size_and_time(path)
    return hashlib.sha256(json.dumps(state).encode()).hexdigest() if state else ""


def read_bytes(byte_range: ByteRange, block: int = 2**20) -> Iterator[bytes]:
    """The bytes, block by block."""
    with open(byte_range.file, "rb") as file:
        file.seek(byte_range.offset)
        left = byte_range.size
        while left and (data := file.read(min(block, left))):
            left -= len(data)
            yield data


def read_index(archive: str) -> ArchiveIndex:
    """What a tar file holds: from the list that was kept if that belongs to it, else by going through its headers.

    A list that had to be made is kept where the user's cache folder can be written to. It is found by the content of
    the tar file (see :func:`_fingerprint`), so that another tar file under the same name has another list.

    Raises:
        GestaError: not a tar file, a compressed one (whose members cannot be read in place), one that is cut off, one
            with two members of one name or with a link that leads nowhere; or the system does not let it be read.
    """
    try:
        if not os.path.isfile(archive):  # opening a pipe would wait for ever
            raise GestaError(f"{archive}: is not a file; give an uncompressed tar file")
        status = os.stat(archive)
        return _read_index(
            archive, (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        )
    except OSError as error:
        raise GestaError(f"{archive}: cannot be read ({error.strerror}); {machine_remedy(error)}") from None


@functools.cache
def _read_index(archive: str, identity: tuple[int, ...]) -> ArchiveIndex:
    kept = os.path.join(cache_folder(), "shards", f"{_fingerprint(archive, identity)}.json")
    try:
        with open(kept, encoding="utf-8") as file:
            saved = json.load(file)
        members = {name: (offset, length) for name, (offset, length) in saved["members"].items()}
        return ArchiveIndex(members, saved["texts"], saved["hidden"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # not there yet, or damaged
    index = _list_members(archive, identity[2])
    with contextlib.suppress(GestaError):  # a read-only or full disk: every process lists the members for itself
        make_folder(os.path.dirname(kept))
        write_text(kept, json.dumps(index._asdict()))
    return index


def cache_folder() -> str:
    """Where gesta keeps what it can make again."""
    return os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "gesta")


def _fingerprint(archive: str, identity: tuple[int, ...]) -> str:
    """A digest of a tar file's path, times, size and samples of its content.

    A file that takes another one's place with its old size and time (``cp -p``, ``rsync -a``) has another time of
    change or another inode, which cannot be set; where a disk has neither, the samples tell them apart. Reading all
    would take minutes for a large data set, and all headers as long as making the list again.
    """
    digest = hashlib.blake2b(repr((os.path.realpath(archive), identity)).encode(), digest_size=20)
    with open(archive, "rb") as file:
        for number in range(SAMPLES):
            file.seek(max(0, identity[2] - BLOCK) * number // (SAMPLES - 1))
            digest.update(file.read(BLOCK))
    return digest.hexdigest()


def _list_members(archive: str, size: int) -> ArchiveIndex:
    """The members by the headers of a tar file of this size."""
    index = ArchiveIndex({}, {}, [])
    links: dict[str, str] = {}
    try:
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                name = member.name
                if name in index.members or name in links:
                    raise tarfile.ReadError(f"it holds {name} twice")
                if posixpath.basename(name).startswith("."):
                    index.hidden.append(name)
                elif member.islnk():
                    links[name] = posixpath.normpath(member.linkname)
                elif member.issym():
                    links[name] = posixpath.normpath(posixpath.join(posixpath.dirname(name), member.linkname))
                elif member.issparse():
                    raise tarfile.ReadError(f"{name} is stored with holes")
                elif member.isfile():
                    if member.offset_data + member.size > size:
                        raise tarfile.ReadError("it is cut off")
                    index.members[name] = member.offset_data, member.size
            _resolve(index, links)
            for name, (offset, length) in index.members.items():
                if name.endswith((".json", ".cls")) and length < 2**16:
                    tar.fileobj.seek(offset)  # type: ignore[union-attr]
                    text = tar.fileobj.read(length)  # type: ignore[union-attr]
                    index.texts[name] = text.decode("utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError, ArithmeticError, LookupError, EOFError) as error:
        raise GestaError(
            f"{archive}: cannot be read as an uncompressed tar file ({error}); copy or make it again, or unpack it"
        ) from None
    return index


def _resolve(index: ArchiveIndex, links: dict[str, str]) -> None:
    """Give links (hard or symbolic) the byte range of what they link to."""
    ranges = {posixpath.normpath(name): where for name, where in index.members.items()}
    targets = {posixpath.normpath(name): target for name, target in links.items()}
    for name, target in links.items():
        for _ in links:  # a link may lead to a link
            target = targets.get(target, target)
        if target not in ranges:
            raise tarfile.ReadError(f"{name} is a link to {target}, which it does not hold")
        index.members[name] = ranges[target]
