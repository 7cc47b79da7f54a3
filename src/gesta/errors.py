"""The one exception that users see: a sentence that names the file and the remedy."""

from __future__ import annotations


class GestaError(Exception):
    """Something outside the program is wrong (a file, a flag, a list); the message says what and how to mend it.

    The command line prints the message alone, without a traceback, unless ``--debug`` is given.
    """


class VideoError(GestaError):
    """A video that cannot be read: ``<path>: <what is wrong>; <remedy>``."""


class DecodeError(VideoError):
    """A file (or one picture of a folder) whose content cannot be decoded, rather than the disk or the path."""


class CheckpointError(GestaError):
    """A file of weights that is absent, broken, foreign or does not fit the model."""
