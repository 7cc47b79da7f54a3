"""Shares of a list of videos for jobs that know nothing of each other, and whether the parts they leave make a whole.

Each job leaves a folder::

    <folder>/part.json    which share of which list, computed with what; at the end also how it ended
    …                     what the command writes
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from gesta.config import Between, from_json, read_json, read_text
from gesta.errors import GestaError, without_passwords
from gesta.files import make_folder, refusal, temporary_for, write_text
from gesta.progress import join_lines

T = TypeVar("T")

PART = "part.json"
"""File that makes a folder the part of one share."""

_Number = Annotated[int, Between(1)]
_Sentences = dict[str, str]


@dataclass(frozen=True, slots=True)
class Share:
    """Every ``of``-th item of a list, from the ``number``-th on, so that long videos that stand together are spread.

    Attributes:
        number: of the share, from 1 to ``of``.
        of: how many shares there are.
    """

    number: int
    of: int

    def take(self, items: Sequence[T]) -> list[T]:
        """The items of this share, in their order."""
        return list(items[self.number - 1 :: self.of])


@dataclass(frozen=True, kw_only=True)
class Part:
    """What ``part.json`` says.

    Attributes:
        command: that made it.
        number, of: of the share, see :class:`Share`.
        videos: in the whole list.
        listed: hash of the whole list, see :func:`paths_hash`.
        settings: all else that the results depend on, such as the model and its weights.
        finished: whether the share is done.
        failed: of this share, video → why there is no result.
        incomplete: of this share, video → what is missing in its result.
        copies: of a finished share of ``prepare``, the files or folders of the copies, as named below the folder.
    """

    command: Literal["predict", "features", "prepare"]
    number: _Number
    of: _Number
    videos: _Number
    listed: str
    settings: dict[str, Any]
    finished: bool = False
    failed: _Sentences = field(default_factory=dict)
    incomplete: _Sentences = field(default_factory=dict)
    copies: list[str] = field(default_factory=list)

    @property
    def answered(self) -> int:
        """Videos of this share of which there is a result."""
        return len(range(self.number - 1, self.videos, self.of)) - len(self.failed)

    def to_json(self) -> dict[str, Any]:
        """Plain values; the settings as they are read back."""
        return json.loads(json.dumps(vars(self)))


@dataclass(frozen=True, kw_only=True)
class Merged:
    """How many videos were asked for, and what became of them.

    Attributes:
        out: the file or folder that holds the results of all parts.
        parts: how many there were.
        videos: asked for.
        answered: of which there is a result.
        failed: video → why there is none.
        incomplete: answered videos → what is missing in the result.
    """

    out: str
    parts: int
    videos: int
    failed: _Sentences
    incomplete: _Sentences

    @property
    def answered(self) -> int:
        """Number of videos of which there is a result."""
        return self.videos - len(self.failed)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return vars(self) | {"answered": self.answered}

    def __str__(self) -> str:
        counts = f"{self.answered} of {self.videos} videos answered, {len(self.incomplete)} of them incomplete"
        lines = [f"{self.out}: {counts}, {len(self.failed)} failed; from {self.parts} parts"]
        for word, sentences in (("failed", self.failed), ("incomplete", self.incomplete)):
            for video, sentence in sentences.items():
                lines.append(f"{word}: {sentence if video in sentence else f'{video}: {sentence}'}")
        return join_lines(lines)


def read_paths(file: str | Path) -> list[str]:
    """The videos that a text file lists, a path on each line, each once; empty lines are left out.

    Raises:
        GestaError: the file cannot be read, or lists nothing.
    """
    text = read_text(file, remedy="give a text file with the path of a video on each line")
    lines = (line.removesuffix("\r") for line in text.split("\n"))  # splitlines() would also cut at what names may hold
    paths = list(dict.fromkeys(line for line in lines if line.strip()))
    if not paths:
        raise GestaError(f"{file}: lists no videos; write the path of one on each line")
    return paths


def paths_hash(paths: Iterable[str]) -> str:
    """SHA-256 of paths in their order."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(json.dumps(without_passwords(path)).encode() + b"\n")
    return digest.hexdigest()


def describe_part(
    command: Literal["predict", "features", "prepare"], share: Share, paths: Sequence[str], settings: dict[str, Any]
) -> Part:
    """The part of a share that has just begun.

    Args:
        command: that computes it.
        share: which.
        paths: of all videos, those of other shares included.
        settings: what the results depend on besides.

    Raises:
        GestaError: fewer videos than shares.
    """
    if share.of > len(paths):
        raise GestaError(
            f"--part {share.number}/{share.of}: there are {len(paths)} videos, so that some parts would have none; "
            "make fewer parts"
        )
    settings = json.loads(json.dumps(settings))  # as it is read back
    return Part(
        command=command,
        number=share.number,
        of=share.of,
        videos=len(paths),
        listed=paths_hash(paths),
        settings=settings,
    )


# --- the folder of a part --------------------------------------------------------------------------------------------


def check_part(folder: str | os.PathLike[str], part: Part | None) -> Part | None:
    """Refuse a folder that holds something else than ``part``; None is a command without ``--part``. Writes nothing.

    Args:
        folder: new, empty, or of the same part.
        part: what is to be computed.

    Returns:
        What an earlier call has written of this part; None if there was none.

    Raises:
        GestaError: see above.
    """
    path = Path(folder) / PART
    if not path.is_file():
        names = os.listdir(folder) if os.path.isdir(folder) else []
        if part and (others := [name for name in names if not name.startswith(".")]):
            raise GestaError(f"{folder}: holds {min(others)}, and no {PART}; choose another folder for this part")
        return None
    before = read_part(folder)
    if part is None:
        raise GestaError(
            f"{folder}: holds part {before.number} of {before.of}; choose another folder, or continue it with --part "
            f"{before.number}/{before.of}"
        )
    if other := _other(before, part, "command", "number", "of", "listed", "settings"):
        raise GestaError(f"{folder}: holds a part with {other}; choose another folder")
    return before


def write_part(folder: str | os.PathLike[str], part: Part) -> None:
    """Write ``part.json``."""
    write_text(make_folder(folder) / PART, json.dumps(part.to_json(), indent=2) + "\n")


def finish_part(folder: str | os.PathLike[str], part: Part, failed: _Sentences, incomplete: _Sentences) -> Part:
    """Write that a share is done, and what became of its videos; gives the part as it is written."""
    done = replace(part, finished=True, failed=failed, incomplete=incomplete)
    write_part(folder, done)
    return done


def read_part(folder: str | os.PathLike[str]) -> Part:
    """What the ``part.json`` of a folder says.

    Raises:
        GestaError: there is none, or it is damaged.
    """
    path = Path(folder) / PART
    if not path.is_file():
        raise GestaError(f"{folder}: holds no {PART}; give folders that gesta has written with --part")
    part: Part = from_json(read_json(path, dict[str, Any]), Part, source=str(path), remedy="compute the part again")
    return part


# --- parts together --------------------------------------------------------------------------------------------------


def read_parts(folders: Sequence[str]) -> list[Part]:
    """What the parts in folders say, in the order of the folders, if together they are all shares of one list.

    Raises:
        GestaError: a part that is no part, unfinished, given twice, missing, or of another command, list or settings.
    """
    parts = [read_part(folder) for folder in folders]
    first = parts[0]
    numbers: dict[int, str] = {}
    for folder, part in zip(folders, parts):
        if other := _other(part, first, "command", "of", "listed", "settings"):
            raise GestaError(f"{folder}: is a part with {other} than {folders[0]}; merge parts of one computation")
        if twice := numbers.get(part.number):
            raise GestaError(f"{folder}: is part {part.number} of {part.of}, as {twice} is; give each part once")
        if part.number > part.of:
            raise GestaError(f"{folder}: is part {part.number} of {part.of}, which there is not; compute it again")
        if not part.finished:
            raise GestaError(
                f"{folder}: part {part.number} of {part.of} is not finished; run its command again, which continues it"
            )
        numbers[part.number] = folder
    if missing := [str(number) for number in range(1, first.of + 1) if number not in numbers]:
        shown = ", ".join(missing[:20]) + (f" and {len(missing) - 20} more" if len(missing) > 20 else "")
        raise GestaError(f"of {first.of} parts {len(missing)} are missing ({shown}); give the folders of all parts")
    return parts


def merged(out: str | os.PathLike[str], parts: Sequence[Part]) -> Merged:
    """The counts of all parts together."""
    failed: _Sentences = {}
    incomplete: _Sentences = {}
    for part in parts:
        failed |= part.failed
        incomplete |= part.incomplete
    return Merged(out=os.fspath(out), parts=len(parts), videos=parts[0].videos, failed=failed, incomplete=incomplete)


def check_new_folder(folder: str | os.PathLike[str]) -> None:
    """Refuse a folder with something in it, and one that no other folder can replace.

    Raises:
        GestaError: see above.
    """
    if os.path.ismount(folder):
        raise GestaError(f"{folder}: is where a disk is mounted; give a new folder in it with --out")
    if os.path.lexists(folder) and not (os.path.isdir(folder) and not os.listdir(folder)):
        raise GestaError(f"{folder}: is not a new or empty folder; choose another with --out")


def copy_files(source: str | os.PathLike[str], target: str | os.PathLike[str], names: Iterable[str]) -> None:
    """Give files below a folder the same names below another one: as links to the same data where the disk can.

    Args:
        source: folder of a part.
        target: the other folder.
        names: of the files, relative to the folders.

    Raises:
        GestaError: a file that is there already, a link, or one that cannot be written.
    """
    for name in names:
        path, copy = os.path.join(source, name), os.path.join(target, name)
        if os.path.islink(path) or not os.path.isfile(path):
            raise GestaError(f"{path}: is a link or a device, which no part holds; put the file itself there")
        if os.path.lexists(copy):
            raise GestaError(f"{path}: another part holds a file of this name, too; compute the parts again")
        make_folder(os.path.dirname(copy))
        _link_or_copy(path, copy)


def _link_or_copy(path: str, copy: str) -> None:
    with suppress(OSError):  # another disk, or one without links
        os.link(path, copy)
        return
    try:
        with temporary_for(copy) as new:
            shutil.copyfile(path, new)
    except OSError as error:
        raise refusal(copy, error) from None


def _other(part: Part, other: Part, *names: str) -> str:
    """In what two parts differ, the settings one by one; empty if they do not."""
    words = {"command": "another command", "number": "another number", "of": "another number of parts"}
    for name in names:
        mine, its = getattr(part, name), getattr(other, name)
        if mine == its:
            continue
        if name == "settings":
            changed = [key for key in {**mine, **its} if mine.get(key) != its.get(key)]
            return f"other {' and '.join(changed)}"
        return words.get(name, "another list of videos")
    return ""
