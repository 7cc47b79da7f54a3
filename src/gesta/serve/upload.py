"""The body of a request becomes a file, with its bytes counted as they come."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import secrets
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.requests import Request

from gesta.errors import GestaError
from gesta.files import LOCK, lock_folder, remove
from gesta.serve.limits import Limits, Refusal

PREFIX = "gesta-serve-"
"""Of the name of a server's folder of uploads."""

UNNAMED = "the upload"
"""What predictions and sentences call a video that came without a name."""

ENVELOPE_BYTES = 2**16
"""Bytes that a form may have besides its file."""

TYPES = "video/…, image/gif, application/octet-stream or multipart/form-data"


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """A folder for uploads that only this user can read, removed at the end.

    A server that is killed leaves its folder behind; the next one removes all that no living server has locked.
    """
    parent = Path(tempfile.gettempdir())
    for left in parent.glob(f"{PREFIX}*"):
        if _is_ours(left):
            with contextlib.suppress(GestaError), lock_folder(left) as remark:
                for file in left.iterdir() if not remark else ():
                    if file.name != LOCK:
                        remove(file)
            with contextlib.suppress(OSError):  # of one that is locked
                left.rmdir()
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    try:
        with lock_folder(folder):
            yield folder
    finally:
        remove(folder)


def _is_ours(folder: Path) -> bool:
    """Whether this user's server has made a folder: in a folder of all users, others may put a link under its name."""
    try:
        status = folder.lstat()
    except OSError:
        return False
    user = os.getuid() if hasattr(os, "getuid") else status.st_uid  # Windows has a temporary folder for each user
    return stat.S_ISDIR(status.st_mode) and status.st_uid == user and (folder / LOCK).exists()


@contextlib.asynccontextmanager
async def received(request: Request, folder: Path, limits: Limits) -> AsyncIterator[tuple[str, str]]:
    """The video of a request: the path of a file, which is removed at the end, and the name that it came with.

    Raises:
        Refusal: the body is no video by its type, empty, too large, a form that holds no file or several, or it does
            not come in time.
        ClientDisconnect: the client went away.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limits.bytes + ENVELOPE_BYTES:
        raise _too_large(limits)
    path = folder / secrets.token_hex(16)
    try:
        with open(path, "xb") as file:
            if kind == b"multipart/form-data":
                form = _Form(file, limits)
                take, end = form.parser(options.get(b"boundary", b"")).write, form.end
            elif kind.startswith(b"video/") or kind in (b"application/octet-stream", b"image/gif"):
                form = _Form(file, limits, names=[UNNAMED], is_complete=True)
                take, end = form.write, form.end
            else:
                raise Refusal(415, f"the body's Content-Type is not one of {TYPES}; name the type of the video")
            try:
                async with asyncio.timeout(limits.receive_seconds):
                    async for chunk in request.stream():
                        take(chunk)
                        form.count(len(chunk))
                file.flush()
            except TimeoutError:
                raise Refusal(
                    408, f"the request did not come within {limits.receive_seconds:g} seconds; send it faster"
                ) from None
            except FormParserError as error:
                raise _unreadable(error) from None
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                raise Refusal(503, "the server's disk has no room for the video; try again later", retry_s=10) from None
            name = end()
        yield str(path), name
    finally:
        remove(path)


def _unreadable(error: FormParserError) -> Refusal:
    return Refusal(400, f"the form cannot be read ({error}); send it as multipart/form-data")


def _too_large(limits: Limits) -> Refusal:
    return Refusal(413, f"the video has more than the {limits.max_megabytes:g} MB that are allowed; send a smaller one")


@dataclass(slots=True)
class _Form:
    """What a body holds, as its parts come.

    Attributes:
        file: into which the video is written.
        limits: of the server.
        names: of the files of a form.
        size: bytes of the video.
        received: bytes of the body.
        header, value: of a part, as far as they have come.
        is_file: whether the current part is the video.
        is_complete: whether the end of a form has come.
    """

    file: BinaryIO
    limits: Limits
    names: list[str] = field(default_factory=list)
    size: int = 0
    received: int = 0
    header: bytes = b""
    value: bytes = b""
    is_file: bool = False
    is_complete: bool = False

    def parser(self, boundary: bytes) -> MultipartParser:
        """What reads a form and calls the methods below.

        Raises:
            Refusal: a form without a boundary, or with too long a one.
        """
        if not boundary:
            raise Refusal(400, "the form's Content-Type names no boundary; let the program that sends it set the type")
        try:
            return MultipartParser(
                boundary,
                {
                    "on_part_begin": self.begin_part,
                    "on_header_field": self.read_header,
                    "on_header_value": self.read_value,
                    "on_header_end": self.end_header,
                    "on_part_data": self.read_data,
                    "on_end": self.end_form,
                },
            )
        except FormParserError as error:
            raise _unreadable(error) from None

    def begin_part(self) -> None:
        self.is_file = False

    def read_header(self, data: bytes, start: int, end: int) -> None:
        self.header += data[start:end]

    def read_value(self, data: bytes, start: int, end: int) -> None:
        self.value += data[start:end]

    def end_header(self) -> None:
        if self.header.lower() == b"content-disposition":
            _, options = parse_options_header(
                self.value
            )  # bytes: names are UTF-8, and a text would be taken as Latin-1
            if (name := options.get(b"filename")) is not None:
                self.names.append(_plain(name.decode("utf-8", "replace")))
                self.is_file = True
                if len(self.names) > 1:
                    raise Refusal(422, "the form holds several files; send one video in each request")
            else:
                field_name = _plain(options.get(b"name", b"").decode("utf-8", "replace"))
                raise Refusal(422, f"{field_name}: is a field of the form, which holds one file alone; leave it out")
        self.header = self.value = b""

    def read_data(self, data: bytes, start: int, end: int) -> None:
        if self.is_file:
            self.write(data[start:end])

    def end_form(self) -> None:
        self.is_complete = True

    def write(self, data: bytes) -> int:
        """Take bytes of the video."""
        self.size += len(data)
        if self.size > self.limits.bytes:
            raise _too_large(self.limits)
        return self.file.write(data)

    def end(self) -> str:
        """The video's name, when all has come.

        Raises:
            Refusal: there is no video.
        """
        if not self.is_complete:
            raise Refusal(400, "the form ends before its last boundary; send it again")
        if not self.names:
            raise Refusal(422, "the form holds no file; add the video to it, for example by curl -F video=@clip.mp4")
        if not self.size:
            raise Refusal(422, "the video is empty; send the bytes of a video")
        return self.names[0]

    def count(self, size: int) -> None:
        """Count bytes that were read of the body: also those that no method sees, as of what follows the last boundary.

        Raises:
            Refusal: too many of them are not the video's.
        """
        self.received += size
        if self.received - self.size > ENVELOPE_BYTES:
            raise Refusal(413, "the form holds too much besides the video; send the video alone")


def _plain(name: str) -> str:
    """The last part of a file's name, of a length that names may have."""
    return os.path.basename(re.split(r"[/\\]", name)[-1])[:255] or UNNAMED
