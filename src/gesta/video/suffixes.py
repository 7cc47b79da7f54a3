"""Suffixes by which a file among others is known as a video."""

from __future__ import annotations

import os

_SUFFIXES = "3gp asf avi divx f4v flv gif m2ts m4v mkv mov mp4 mpeg mpg mts mxf ogv qt rm rmvb ts vob webm wmv"
VIDEOS = frozenset("." + suffix for suffix in _SUFFIXES.split(" "))
"""Suffixes by which :func:`gesta.video.find.find_videos` knows a video; reading looks at the content alone."""


def is_video_name(name: str) -> bool:
    """Whether a file's name ends like that of a video."""
    return os.path.splitext(name)[1].lower() in VIDEOS
