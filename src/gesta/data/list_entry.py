"""One line of a list file: what its columns may be, and the entry that their texts become."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gesta.config import suggest
from gesta.data.locate import split_of
from gesta.errors import GestaError
from gesta.records import SplitName, class_name

COLUMNS = ("path", "label", "frames", "start", "end", "last", "offset", "start_time", "end_time", "split", "skip")
"""What a column may be: ``start`` and ``end`` are frames, ``end`` one past the last frame and ``last`` the last frame
itself; ``offset`` goes with ``frames`` and counts from 0; ``start_time`` and ``end_time`` are seconds or h:mm:ss;
``split`` says which rows are for training, validation and test; ``skip`` is not read."""

COLUMNS_FLAG = "(--data.columns)"

MULTI_LABEL_FLAG = "multi_label (--data.multi-label True)"

MAX_CLASSES = 100_000  # labels above it are taken for a mistake

INTEGER = re.compile(r"-?\d{1,18}")

BLANKS = " \t\r"
"""What is cut off around fields; other white space may be part of a name."""


@dataclass(frozen=True, slots=True)
class ListEntry:
    """One line of a list: ``label`` is a number or a name as written, or a tuple of them; frames count from 0."""

    line: int
    path: str
    label: int | str | tuple[int | str, ...] | None = None
    start: int | None = None
    end: int | None = None
    seconds: tuple[float, float] | None = None
    split: SplitName | None = None


def make_entry(
    where: str, number: int, values: Mapping[str, str], frame_base: int, multi_label: bool = False
) -> ListEntry:
    """One entry from the text of its columns; empty ones say nothing. Labels of a multi-label entry stay one text."""
    if not values.get("path") or "\0" in values["path"]:
        raise GestaError(f"{where}: {values.get('path', '')!r} cannot be the path of a video; correct it")
    frames = {
        column: _whole_number(where, column, values[column])
        for column in ("start", "end", "last", "offset", "frames")
        if values.get(column)
    }
    start, end = (frames[name] - frame_base if name in frames else None for name in ("start", "end"))
    if "last" in frames:
        end = frames["last"] - frame_base + 1
    if "offset" in frames:
        if "frames" not in frames:
            raise GestaError(f"{where}: has an offset without frames; give both or neither")
        start, end = frames["offset"], frames["offset"] + frames["frames"]
    if (start is not None and start < 0) or (end is not None and end <= (start or 0)):
        raise GestaError(
            f"{where}: gives frames {start} to {end}, where the end is one past the last frame; correct the list, "
            "columns or frame_base"
        )
    times = [_seconds(where, values[name]) for name in ("start_time", "end_time") if values.get(name)]
    if times and (len(times) < 2 or not 0 <= times[0] < times[1] < math.inf or (start, end) != (None, None)):
        raise GestaError(
            f"{where}: gives a segment from {values.get('start_time')} to {values.get('end_time')} seconds; give both, "
            "the end after the start, and no frames beside them"
        )
    label = (values.get("label") or None) if multi_label else label_in_text(where, values.get("label", ""))
    split = split_of(values["split"]) if "split" in values else None
    if "split" in values and split is None:
        raise GestaError(f"{where}: its split is {values['split']!r}; write train, val or test")
    seconds = (times[0], times[1]) if times else None
    return ListEntry(number, values["path"], label, start, end, seconds, split)


def label_in_text(where: str, text: str) -> int | str | None:
    """A label as written: a number, a name (see :func:`gesta.records.class_name`), or None for an empty text."""
    number = re.sub(r"\.0+$", "", text)  # as pandas writes them where some are missing
    label = int(number) if INTEGER.fullmatch(number) else class_name(text) or None
    if isinstance(label, int) and label >= MAX_CLASSES:
        raise GestaError(f"{where}: label {label} is more than {MAX_CLASSES}; correct it, or set columns")
    return label


def _whole_number(where: str, column: str, text: str) -> int:
    number = re.sub(r"\.0+$", "", text)
    if not INTEGER.fullmatch(number):
        raise GestaError(f"{where}: {column} is {text!r}, not a whole number; correct the list or columns")
    return int(number)


def _seconds(where: str, text: str) -> float:
    """Seconds, or h:mm:ss."""
    try:
        return sum(float(part) * 60**power for power, part in enumerate(text.split(":")[::-1]))
    except ValueError:
        raise GestaError(f"{where}: {text!r} is no time; write seconds, or h:mm:ss") from None


def check_columns(columns: Sequence[str], ordered: bool) -> None:
    """Refuse columns that are not known, stand twice or do not say what a segment is; ``ordered`` ones begin with path.

    Raises:
        GestaError: with the columns.
    """
    for column in columns:
        if column not in COLUMNS:
            raise GestaError(
                f"columns: there is no column {column!r}{suggest(column, COLUMNS)} (known: {', '.join(COLUMNS)})"
            )
    used = [column for column in columns if column != "skip"]
    if columns and ((ordered and columns[0] != "path") or len(set(used)) < len(used)):
        raise GestaError(f"columns {' '.join(columns)}: path comes first, and every column once")
    if {"start", "frames"} <= set(used) and not {"end", "last"} & set(used):
        raise GestaError(
            f"columns {' '.join(columns)}: frames beside start may count those of the segment or of the video; set "
            "columns to offset and frames, or frames to skip"
        )
    if (ordered and "offset" in used and "frames" not in used) or {"end", "last"} <= set(used):
        raise GestaError(
            f"columns {' '.join(columns)}: offset needs frames beside it, and end and last exclude each other"
        )


def split_lines(text: str, blanks: str = BLANKS) -> list[str]:
    """Lines without blanks around them; only a line feed ends one, as file names may hold what else Unicode has."""
    return [line.strip(blanks) for line in text.split("\n")]
