"""The one exception that users see: a sentence that names the file and the remedy."""

from __future__ import annotations

import re

_PASSWORD = re.compile(r"(://[^\s/?#@:]*):[^\s/?#]*@")


def without_passwords(text: str) -> str:
    """The text with ``***`` for the passwords of all addresses in it (``rtsp://name:password@host/…``)."""
    return _PASSWORD.sub(r"\1:***@", text)


class GestaError(Exception):
    """Something outside the program is wrong (a file, a flag, a list); the message says what and how to mend it.

    The command line prints the message alone, without a traceback, unless ``--debug`` is given. Passwords in addresses
    are never part of it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(without_passwords(message))


class VideoError(GestaError):
    """A video that cannot be read: ``<path>: <what is wrong>; <remedy>``."""


class DecodeError(VideoError):
    """A file (or one picture of a folder) whose content cannot be decoded, rather than the disk or the path."""


class BrokenOffError(VideoError):
    """A video whose end is missing; all frames before that have been given."""


class CheckpointError(GestaError):
    """A file of weights that is absent, broken, foreign or does not fit the model."""
