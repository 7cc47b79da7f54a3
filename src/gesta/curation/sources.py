"""What the copies in a prepared folder were made from, so that that of a video which has changed since is made again.

``sources.jsonl`` has a line for each copy, which is written after it. Copies without a line (of earlier versions, or of
a process that was killed in between) are taken to be of the videos as they are, unless these are newer.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TypedDict

from gesta.config import from_json, parse_json, read_text
from gesta.files import reporting, write_text
from gesta.video.archive import size_and_time, state_hash

SOURCES = "sources.jsonl"


class Source(TypedDict):
    """A line of the file.

    Attributes:
        copy: name below the new folder; in shards that which it would have without them.
        video: name below the old folder.
        state: hash of the video's size and time of change, or of those of its images.
    """

    copy: str
    video: str
    state: str


class Sources:
    """The lines of a folder; only for who holds its lock.

    Attributes:
        lines: by the name of the copy.
        changed: videos whose copies show what they were before.

    Args:
        root: folder of the videos.
        folder: of the copies.
        copies: the copy of each video by its path, both as paths.
    """

    def __init__(self, root: str, folder: str, copies: dict[str, str]) -> None:
        self.file = Path(folder) / SOURCES
        self.lines, is_whole = _read(self.file)
        self.changed: list[str] = []
        self._root = root
        self._now: dict[str, Source] = {}
        for video, copy in copies.items():
            names = os.path.relpath(copy, folder), os.path.relpath(video, root)
            self._now[video] = {"copy": names[0], "video": names[1], "state": state_hash(video)}
        if not is_whole:
            self.tidy()

    def has_changed(self, video: str, made: str) -> bool:
        """Whether a video is another one than when its copy was made, which is in the file or folder ``made``."""
        now = self._now[video]
        line = self.lines.get(now["copy"])
        if not now["state"]:  # the system does not let it be read: no reason to give up the copy
            return False
        if line == now:
            return False
        if line is None and not _is_newer(video, made):
            self.lines[now["copy"]] = now
            return False
        self.changed.append(video)
        return True

    def left_over(self) -> list[str]:
        """Sentences about copies whose videos are no longer there, such as those that were moved to another class.

        Copies of videos that are there and not asked for now are none.
        """
        planned = {line["copy"] for line in self._now.values()}
        sentences = []
        for copy, line in sorted(self.lines.items()):
            video, path = os.path.join(self._root, line["video"]), self.file.parent / copy
            if copy not in planned and path.exists() and not os.path.lexists(video):
                sentences.append(f"{path}: is the copy of {video}, which is no longer there; remove the copy")
        return sentences

    def note(self, video: str) -> None:
        """Write that the copy of a video has been made."""
        line = self._now[video]
        self.lines[line["copy"]] = line
        with reporting(self.file), open(self.file, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def forget(self, video: str) -> None:
        """Leave a copy out that is no longer there; takes effect with :meth:`tidy`."""
        self.lines.pop(self._now[video]["copy"], None)

    def tidy(self) -> None:
        """Leave one line for each copy, sorted by their names."""
        write_sources(self.file, self.lines.values())


def write_sources(file: str | os.PathLike[str], lines: Iterable[Source]) -> None:
    """Write lines sorted by the names of copies, and no file without lines."""
    texts = [json.dumps(line) + "\n" for line in sorted(lines, key=lambda line: line["copy"])]
    if texts or os.path.exists(file):
        write_text(file, "".join(texts))


def read_sources(folder: str | os.PathLike[str]) -> dict[str, Source]:
    """The lines in a folder by the names of copies; none where an earlier version has made it."""
    return _read(Path(folder) / SOURCES)[0]


def _read(file: Path) -> tuple[dict[str, Source], bool]:
    """The lines, and whether the last one is whole, which that of a killed process may not be."""
    if not file.is_file():
        return {}, True
    *lines, rest = read_text(file, remedy="remove it").split("\n")
    found: dict[str, Source] = {}
    for line in lines:
        source: Source = from_json(parse_json(line, str(file)), Source, source=str(file), remedy="remove the file")
        found[source["copy"]] = source
    return found, not rest


def _is_newer(video: str, made: str) -> bool:
    """Whether a video, or one of its images, has changed since a file was written."""
    state = size_and_time(video) or []
    times = [time for _, _, time in (state if os.path.isdir(video) else [state])]
    return os.path.exists(made) and max(times, default=0) > os.stat(made).st_mtime_ns
