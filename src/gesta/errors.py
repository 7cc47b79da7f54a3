"""The one exception that users see: a sentence that names the file and the remedy.

Sentences are written with the flags of the command line (``--train.lr``, ``--trust-code``). Whoever calls gesta from
Python reads the fields and arguments instead (``train.lr``, ``trust_code=True``), see :func:`in_callers_terms`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

_PASSWORD = re.compile(r"(://[^\s/?#@:]*):[^\s/?#]*@")


def without_passwords(text: str) -> str:
    """The text with ``***`` for the passwords of all addresses in it (``rtsp://name:password@host/…``)."""
    return _PASSWORD.sub(r"\1:***@", text)


_ARGUMENTS = (
    *("at", "batch", "block", "by", "by-folder", "c", "classes", "clips", "codec", "columns", "data", "device"),
    *("draw", "fit", "folders", "format", "fps", "frame-rate", "frames", "head", "kind", "label-base", "lists"),
    *("max-videos", "model", "out", "precision", "resume", "run", "seed", "seeds", "shards", "short-side", "skip"),
    *("split", "stride", "tau", "test", "threshold", "timeline", "top", "trust-code", "unfinished", "val", "weights"),
    *("window", "workers"),
)
"""Flags of commands that are arguments of functions; others in a sentence, and in names of files, stay as they are."""

_REPLACED = {
    "--model NAME --weights FILE": "gesta.load(FILE, model=NAME)",
    "--init.min-matched": "min_matched",
    "--data lists": "gesta.Lists",
}
_SWITCHES = ("by-folder", "resume", "timeline", "trust-code")
_FLAG_IN_TEXT = re.compile(
    r"gesta [a-z-]+ [^;,()]*"  # a command, to be typed as it is
    rf"|{'|'.join(_REPLACED)}"
    r"|(?<![\w/.-])--(?P<name>(?:train|model|data|evaluate|init|probe)(?:\.[a-z0-9]+(?:-[a-z0-9]+)*)+"
    rf"|(?:{'|'.join(_ARGUMENTS)}))(?![\w.-]*\w)"
)
_flags = False
_of_data = False


@contextlib.contextmanager
def naming_flags(of_data: bool = False) -> Iterator[None]:
    """Within this context, messages name flags of the command line instead of arguments of Python.

    Args:
        of_data: of a command about a data set alone, which calls ``--data.root`` of the others ``--root``.
    """
    global _flags, _of_data
    before, _flags, _of_data = (_flags, _of_data), True, of_data
    try:
        yield
    finally:
        _flags, _of_data = before


def in_callers_terms(sentence: str) -> str:
    """A sentence in the words of the caller: flags for the command line, fields and arguments for Python."""
    if _flags:
        return _FLAG_IN_TEXT.sub(_as_flag_of_data, sentence) if _of_data else sentence
    return _FLAG_IN_TEXT.sub(_as_argument, sentence)


def _as_flag_of_data(match: re.Match[str]) -> str:
    return f"--{match['name'].removeprefix('data.')}" if match["name"] else match[0]


def _as_argument(match: re.Match[str]) -> str:
    if match[0] in _REPLACED:
        return _REPLACED[match[0]]
    if match["name"] is None:
        return match[0]
    return match["name"].replace("-", "_") + ("=True" if match["name"] in _SWITCHES else "")


class GestaError(Exception):
    """Something outside the program is wrong (a file, a flag, a list); the message says what and how to fix it.

    The command line prints the message alone, without a traceback, unless ``--debug`` is given. Passwords in addresses
    are never part of it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(without_passwords(message))

    def __str__(self) -> str:
        return in_callers_terms(super().__str__())


class FolderInUse(GestaError):
    """A folder that another process is writing to."""


class VideoError(GestaError):
    """A video that cannot be read: ``<path>: <what is wrong>; <remedy>``."""


class DecodeError(VideoError):
    """A file (or one picture of a folder) whose content cannot be decoded, rather than the disk or the path."""


class BrokenOffError(VideoError):
    """A video whose end is missing; all frames before that have been given."""


class CheckpointError(GestaError):
    """A file of weights that is absent, broken, foreign or does not fit the model."""
