"""Videos on the disk: which files are videos, and all videos below a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from gesta.errors import GestaError, VideoError
from gesta.video.boundary import machine_remedy
from gesta.video.images import holds_frames
from gesta.video.suffixes import VIDEOS as VIDEOS
from gesta.video.suffixes import is_video_name as is_video_name

SYSTEM_FOLDERS = frozenset(["lost+found", "__macosx", "@eadir", "$recycle.bin", "system volume information"])
"""Folders that file systems, archives and disk stations put among those of the user; never looked into."""


def find_videos(root: str | os.PathLike[str]) -> list[str]:
    """All videos below a folder, sorted by path: files with a video's suffix, and folders of frames.

    A folder that holds at least two numbered images and no video file is one video. What :func:`walk` leaves out is
    skipped. A single video given as ``root`` is returned itself.

    Raises:
        VideoError: ``root`` does not exist.
        GestaError: a folder in it cannot be listed.
    """
    root = os.fspath(root)
    if os.path.isfile(root):
        return [root]
    if not os.path.isdir(root):
        raise VideoError(f"{root}: does not exist; check the path")
    return sorted(videos_below(root))


def videos_below(root: str) -> Iterator[str]:
    """The same one by one and in any order, so that whether there is one can be asked without listing all."""
    for folder, _, files in walk(root):
        videos = [file.path for file in files if is_video_name(file.name)]
        yield from videos or ([folder] if holds_frames([file.name for file in files]) else [])


def unknown_files(root: str) -> Iterator[str]:
    """The files below a folder that :func:`find_videos` leaves out, as they are neither known as videos nor frames of
    one; none of a folder without any video.

    Raises:
        GestaError: a folder in it cannot be listed.
    """
    if next(videos_below(root), None) is None:
        return
    for _, _, files in walk(root):
        names = [file.name for file in files]
        if any(map(is_video_name, names)) or not holds_frames(names):
            yield from (file.path for file in files if not is_video_name(file.name))


def without_suffix(name: str) -> str:
    """The name of a video file without its suffix; that of a folder of frames as it is, although it may hold a dot."""
    return os.path.splitext(name)[0] if is_video_name(name) else name


class FolderEntries(NamedTuple):
    """What a folder holds, sorted by name."""

    folder: str
    folders: list[os.DirEntry[str]]
    files: list[os.DirEntry[str]]


def walk(root: str) -> Iterator[FolderEntries]:
    """A folder and all below it. Whoever takes elements out of ``folders`` keeps it from looking into them.

    Hidden files and folders (names with a leading dot, such as the ``._clip.mp4`` of macOS) are left out, and so are
    :data:`SYSTEM_FOLDERS`. Links to folders are followed, but no folder is visited twice, by whatever names.

    Raises:
        GestaError: a folder cannot be listed.
    """
    waiting, links, visited = [root], list[str](), set[str]()
    while waiting or links:
        folder = waiting.pop() if waiting else links.pop(0)  # links last, so that folders have their own names
        if (real := os.path.realpath(folder)) not in visited:
            visited.add(real)
            entries = list_folder(folder)
            yield entries
            waiting += [child.path for child in reversed(entries.folders) if not child.is_symlink()]
            links += [child.path for child in entries.folders if child.is_symlink()]


def list_folder(folder: str) -> FolderEntries:
    """What :func:`walk` gives of one folder.

    Raises:
        GestaError: it cannot be listed.
    """
    folders, files = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if not is_folder(entry):
                    files.append(entry)
                elif entry.name.casefold() not in SYSTEM_FOLDERS:
                    folders.append(entry)
    except OSError as error:
        raise cannot_list(folder, error) from None
    for entries_of_kind in (folders, files):
        entries_of_kind.sort(key=lambda entry: entry.name)
    return FolderEntries(folder, folders, files)


def cannot_list(folder: str, error: OSError) -> GestaError:
    """The error of a folder that the system does not list."""
    return GestaError(f"{folder}: its files cannot be listed ({error.strerror}); {machine_remedy(error)}")


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry of a folder is a folder, or a link to one; of a link to itself ``entry.is_dir()`` fails."""
    try:
        return entry.is_dir()
    except OSError:
        return False
