"""Videos on the disk: which files are videos, and all videos below a folder."""

from __future__ import annotations

import os

from gesta.errors import VideoError
from gesta.video.images import holds_frames

_SUFFIXES = "3gp asf avi divx f4v flv gif m2ts m4v mkv mov mp4 mpeg mpg mts mxf ogv qt rm rmvb ts vob webm wmv"
VIDEOS = frozenset("." + suffix for suffix in _SUFFIXES.split(" "))
"""Suffixes by which :func:`find_videos` knows a video; reading looks at the content alone."""


def find_videos(root: str | os.PathLike[str]) -> list[str]:
    """All videos below a folder, sorted by path: files with a video's suffix, and folders of frames.

    A folder that holds at least two numbered images and no video file is one video. Hidden files and folders (names
    with a leading dot) are skipped; links to folders are followed, a link back to a parent is not. A single video given
    as ``root`` is returned itself.

    Raises:
        VideoError: ``root`` does not exist.
    """
    root = os.fspath(root)
    if os.path.isfile(root):
        return [root]
    if not os.path.isdir(root):
        raise VideoError(f"{root}: does not exist; check the path")
    videos: list[str] = []
    _walk(root, videos, {os.path.realpath(root)})
    return sorted(videos)


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry of a folder is a folder, or a link to one; of a link to itself ``entry.is_dir()`` fails."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _walk(folder: str, videos: list[str], parents: set[str]) -> None:
    """Add the videos below a folder to the list; ``parents`` are the folders above it, which links may lead back to."""
    other_files, folders = [], []
    holds_video_files = False
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if is_folder(entry):
                folders.append(entry.path)
            elif os.path.splitext(entry.name)[1].lower() in VIDEOS:
                videos.append(entry.path)
                holds_video_files = True
            else:
                other_files.append(entry.name)
    if not holds_video_files and holds_frames(other_files):
        videos.append(folder)
    for child in folders:
        real = os.path.realpath(child)
        if real not in parents:
            _walk(child, videos, parents | {real})
