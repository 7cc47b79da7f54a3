"""List files of text without a header, read from the right, because only the path may hold blanks or the delimiter."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Sequence

from gesta.data.list_entry import (
    BLANKS,
    COLUMNS,
    COLUMNS_FLAG,
    INTEGER,
    MULTI_LABEL_FLAG,
    ListEntry,
    make_entry,
)
from gesta.data.locate import VideoFinder
from gesta.errors import GestaError, VideoError
from gesta.video.find import is_video_name
from gesta.video.images import image_files
from gesta.video.probe import probe

MAX_COUNTED = 20  # videos whose frames are counted to prove what a column means


def multi_label_entries(
    path: str,
    lines: Sequence[tuple[int, str]],
    columns: Sequence[str],
    delimiter: str,
    frame_base: int,
    finder: VideoFinder,
) -> list[ListEntry]:
    """Entries of text without header, in which any number of labels follow the other columns."""
    texts = [line for _, line in lines]
    by_path = (
        each
        for each in ("\t", "::", ",", ";", " ")
        if all(is_video_name(fields[0]) or finder.find(fields[0]) for fields in (_cut(t, each) for t in texts))
    )
    delimiter = delimiter or next(by_path, "") or find_delimiter(path, texts)
    rows = [_cut(line, delimiter) for line in texts]
    if not columns:
        columns = ("path", "label")
        counts = [(row[0], int(row[1])) for row in rows if len(row) > 1 and INTEGER.fullmatch(row[1])]
        if len(counts) == len(rows) and max(map(len, rows)) > 2:
            proof = _are_frame_counts(counts, finder)
            if proof:
                columns = ("path", "frames", "label")
            elif proof is None or not all(is_video_name(row[0]) for row in rows):
                raise GestaError(
                    f"{path}: the first number behind a path may be its number of frames or a label; set columns to "
                    f"path label or to path frames label {COLUMNS_FLAG}"
                )
    before = len(columns) - 1 if columns[-1] == "label" else len(columns)
    entries = []
    for (number, line), row in zip(lines, rows):
        labels = row[before:]
        if len(row) < before or (labels and columns[-1] != "label"):
            raise GestaError(
                f"{path}, line {number}: {line!r} does not have the columns {' '.join(columns)}; any number of labels "
                "may stand at its end"
            )
        values = dict(zip(columns, row[:before]))
        text = labels[0] if len(labels) == 1 else json.dumps(labels) if labels else ""
        entries.append(make_entry(f"{path}, line {number}", number, {"label": text} | values, frame_base, True))
    return entries


def _cut(line: str, delimiter: str) -> list[str]:
    """The path of a line, which may hold the delimiter, and the fields behind it."""
    fields = split_fields(line, delimiter, 0)
    ends = [i for i in range(1, len(fields) + 1) if is_video_name(delimiter.join(fields[:i]))]
    numbers = _count_numbers(line, delimiter)
    end = ends[0] if ends else len(fields) - numbers if numbers else 1
    return [split_fields(line, delimiter, len(fields) - end + 1)[0], *fields[end:]]


def split_fields(line: str, delimiter: str, columns: int) -> list[str]:
    """Fields of a line, cut from the right; a quoted field may hold the delimiter."""
    if '"' in line and len(delimiter) == 1 and delimiter != " ":
        return [field.strip(BLANKS) for field in next(csv.reader([line], delimiter=delimiter, skipinitialspace=True))]
    if delimiter != " ":
        return [field.strip(BLANKS) for field in line.rsplit(delimiter, columns - 1)]
    # str.rsplit would take no-break spaces and line separators for blanks
    blanks = [match.span() for match in re.finditer(r"[ \t]+", line) if match.start() and match.end() < len(line)]
    if columns:
        blanks = blanks[max(len(blanks) - (columns - 1), 0) :]
    starts, ends = [0, *(end for _, end in blanks)], [*(start for start, _ in blanks), len(line)]
    return [line[start:end] for start, end in zip(starts, ends)]


def _count_numbers(line: str, delimiter: str) -> int:
    """How many fields at the end of a line are whole numbers; the first field is the path and does not count."""
    fields = split_fields(line, delimiter, 0)
    count = 0
    while count < len(fields) - 1 and INTEGER.fullmatch(fields[-1 - count]):
        count += 1
    return count


def find_delimiter(path: str, lines: list[str]) -> str:
    """The delimiter: one before a number in every line, else one that is equally often in every line."""
    for delimiter in ("\t", "::", ",", ";", " "):
        if all(_count_numbers(line, delimiter) for line in lines):
            return delimiter
    for delimiter in ("\t", "::", ",", ";"):
        if len({line.count(delimiter) for line in lines}) == 1 and delimiter in lines[0]:
            return delimiter
    if all(len(split_fields(line, " ", 0)) == 2 for line in lines) or all(_is_path_only(line, " ") for line in lines):
        return " "
    raise GestaError(
        f"{path}: cannot tell where paths end and labels begin; set the delimiter, or put labels in numbers"
    )


def _is_path_only(line: str, delimiter: str) -> bool:
    return len(split_fields(line, delimiter, 0)) == 1 or is_video_name(line)


def infer_columns(path: str, lines: Sequence[tuple[int, str]], delimiter: str, finder: VideoFinder) -> tuple[str, ...]:
    """What the columns are, where that is certain."""
    counts = {line: _count_numbers(line, delimiter) for _, line in lines}
    if delimiter != " " and set(counts.values()) == {0, 1}:
        return ("path", "label")  # a mixture of numbers and names, which the lookup of labels explains
    if len(set(counts.values())) > 1:
        few, many = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
        first_differs = len({counts[line] for _, line in lines[1:]}) == 1
        raise GestaError(
            f"{path}: {many!r} has more numbers than {few!r}; "
            + (
                f"if the first line is a header, set columns to NAME=COLUMN for each of its names {COLUMNS_FLAG}; "
                if first_differs
                else ""
            )
            + f"for several labels per video set {MULTI_LABEL_FLAG}, "
            f"and if the numbers belong to the path, set columns to path label {COLUMNS_FLAG}"
        )
    numbers = counts[lines[0][1]]
    if numbers == 0:
        return ("path",) if all(_is_path_only(line, delimiter) for _, line in lines) else ("path", "label")
    if numbers == 1:
        if len(lines) >= 3 and _is_frame_count(lines, delimiter, 2, finder):
            raise GestaError(
                f"{path}: the number behind each path is the video's number of frames, hence hardly its label; "
                f"set columns to path frames {COLUMNS_FLAG}, and label_from_folder if folders are classes, or to path "
                "label"
            )
        return ("path", "label")
    if numbers == 2 and _is_frame_count(lines, delimiter, 3, finder):
        return ("path", "frames", "label")
    possible_columns = {
        2: "path frames label (frames of the video) or path start label (first frame of the clip)",
        3: "path start end label (one past the last frame), path start last label (last frame included) or "
        "path offset frames label",
    }.get(numbers, "for instance path start last label skip")
    raise GestaError(
        f"{path}: {lines[0][1]!r} has {numbers} numbers behind the path, whose meaning the videos do not prove; "
        f"set columns to {possible_columns} {COLUMNS_FLAG}"
    )


def _is_frame_count(lines: Sequence[tuple[int, str]], delimiter: str, columns: int, finder: VideoFinder) -> bool:
    """Whether the first number of lines of so many columns is the video's number of frames."""
    fields = [split_fields(line, delimiter, columns) for _, line in lines[:MAX_COUNTED]]
    return bool(_are_frame_counts([(row[0], int(row[1])) for row in fields], finder))


def _are_frame_counts(pairs: Sequence[tuple[str, int]], finder: VideoFinder) -> bool | None:
    """Whether these numbers are the videos' numbers of frames, by counting those of the first videos.

    None if no number is wrong, but some of these videos are not there or cannot be read.
    """
    counts: dict[str, int] = {}
    found: dict[str, str | None] = {}
    for path, count in pairs[:MAX_COUNTED]:
        found[path] = video = found[path] if path in found else finder.find(path)
        if counts.setdefault(video or path, count) != count:
            return False
    if any(count < 1 for _, count in pairs):
        return False
    proof: bool | None = None if None in found.values() else True
    for video in filter(None, found.values()):
        try:
            if _frames(video) != counts[video]:
                return False
        except VideoError:
            proof = None
    return proof


def _frames(video: str) -> int:
    return len(image_files(video)) if os.path.isdir(video) else probe(video).frames


def check_path_first(
    path: str, lines: Sequence[tuple[int, str]], entries: Sequence[ListEntry], finder: VideoFinder
) -> None:
    """Refuse a list whose lines begin with a label: no video is there as it is read, but one by the end of a line.

    Raises:
        GestaError: see above.
    """
    wrong: list[tuple[int, str]] = []
    for (number, line), entry in zip(lines[:MAX_COUNTED], entries):
        if is_video_name(entry.path) and finder.find(entry.path) is not None:
            return
        ends = (line[match.end() :] for match in re.finditer(r"[ \t]+|::|[,;][ \t]*", line))
        wrong += [(number, end) for end in ends if ("/" in end or is_video_name(end)) and finder.find(end) is not None]
    if wrong:
        number, end = wrong[0]
        raise GestaError(
            f"{path}, line {number}: begins with something else than the path {end!r}; write the path first, then the "
            "label"
        )


def parse_line(
    path: str, number: int, line: str, delimiter: str, columns: Sequence[str], frame_base: int, finder: VideoFinder
) -> ListEntry:
    """The entry of a line with these columns."""
    fields = split_fields(line, delimiter, len(columns))
    if len(fields) != len(columns):
        raise GestaError(
            f"{path}, line {number}: {line!r} does not have the {len(columns)} columns {' '.join(columns)}; correct "
            "it, or give other columns"
        )
    before = fields[0].split(delimiter)
    if len(before) > 1 and finder.find(fields[0]) is None:
        if len(columns) > 1 and delimiter == " " and INTEGER.fullmatch(before[-1]):
            raise GestaError(
                f"{path}, line {number}: {line!r} has more numbers than columns {' '.join(columns)}; for several "
                f"labels per video set {MULTI_LABEL_FLAG}"
            )
        if not is_video_name(fields[0]) and any(map(is_video_name, before)):
            raise GestaError(
                f"{path}, line {number}: {line!r} has more fields than columns {' '.join(columns)}; set columns to "
                f"what each of them is, of {', '.join(COLUMNS)} {COLUMNS_FLAG}"
            )
    return make_entry(f"{path}, line {number}", number, dict(zip(columns, fields)), frame_base)
