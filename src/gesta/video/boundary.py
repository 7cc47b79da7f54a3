"""The boundary around decoders: whatever they raise about a file belongs to that file alone, and stops no other.

A damaged or hostile file makes PyAV, Pillow and torchcodec raise anything (IndexError, AttributeError, struct.error,
MemoryError …), so no list of exceptions is complete. All code that decodes runs inside :func:`decoding`.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from av.error import ExitError, FFmpegError

from gesta.errors import DecodeError, GestaError, VideoError

DAMAGED = "the file is damaged, incomplete or not a video: copy or download it again, or take it off the list"

_EXHAUSTED = {
    errno.EMFILE: "raise the limit of open files (ulimit -n), or use fewer workers",
    errno.ENFILE: "close other programs: this machine can open no more files",
}
"""Errors that every further file would have, and their remedies."""

_MACHINE = {**_EXHAUSTED, errno.EACCES: "check its permissions", errno.EPERM: "check its permissions"}
"""Errors of the machine, also when libav reports them, and their remedies; libav uses the others for damage, too."""


@contextmanager
def decoding(source: object, what: str = "cannot be decoded", remedy: str = DAMAGED) -> Iterator[None]:
    """Run code that decodes a file; interruptions (which are no ``Exception``) and our own errors pass unchanged.

    Args:
        source: the file, folder or address that the error names.
        what: what failed, in words.
        remedy: what to do about it, if neither the disk nor the memory is at fault.

    Raises:
        DecodeError: the decoder raised something, whatever it was.
        VideoError: the machine failed at this file: permissions, the disk, no memory.
        GestaError: it can open no more files. That is no file's failure, and would be counted as that of all others.
    """
    try:
        yield
    except GestaError:
        raise
    except Exception as error:
        machine = machine_remedy(error)
        kind = DecodeError if not machine else GestaError if _number(error) in _EXHAUSTED else VideoError
        raise kind(f"{source}: {what} ({explain(error)}); {machine or remedy}") from error


def explain(error: BaseException) -> str:
    """An exception in words, with its type where the words alone would not say what it is."""
    if isinstance(error, DecodeError) and error.__cause__ is not None:
        return explain(error.__cause__)
    if isinstance(error, ExitError):  # by the timeout of an address; libav's words are "Immediate exit requested"
        return "it did not answer in time"
    text = " ".join(str(getattr(error, "strerror", None) or error).split())
    if isinstance(error, FFmpegError | GestaError | OSError):
        return text or type(error).__name__
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def machine_remedy(error: Exception) -> str:
    """What to do if the machine is at fault; empty if the file is."""
    number = _number(error)
    if number in _MACHINE:
        return _MACHINE[number]
    if isinstance(error, FFmpegError) or number is None:  # Pillow raises OSErrors without a number on damage
        if isinstance(error, MemoryError) and not isinstance(error, FFmpegError):
            return "free some memory, use fewer workers, or take it off the list"
        return ""
    return "check the disk and the path" if isinstance(error, OSError) else ""


def _number(error: Exception) -> int | None:
    """The number that the operating system gives an error."""
    return getattr(error, "errno", None)
