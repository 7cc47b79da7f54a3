"""List files as users of other libraries have them: text with or without header, CSV, JSON.

Text without header is read from the right, because only the path may hold blanks or the delimiter. What a column means
is given by the caller or by its name, follows from the number of columns, or is proved on the videos; if none of these
decides, the reader stops and asks for the option that decides it. No column is left out without being asked to, except
those that only tell rows apart.
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from gesta.config import parse_json, read_text, suggest
from gesta.config import read_json as read_given_json
from gesta.data.locate import VideoFinder, split_of
from gesta.errors import GestaError, VideoError
from gesta.records import Record, SplitName
from gesta.video.find import is_video_name
from gesta.video.images import image_files
from gesta.video.probe import probe

COLUMNS = ("path", "label", "frames", "start", "end", "last", "offset", "start_time", "end_time", "split", "skip")
"""What a column may be: ``start`` and ``end`` are frames, ``end`` one past the last frame and ``last`` the last frame
itself; ``offset`` goes with ``frames`` and counts from 0; ``start_time`` and ``end_time`` are seconds or h:mm:ss;
``split`` says which rows are for training, validation and test; ``skip`` is not read."""

PATHS = (
    ("path", "video_path", "file_path", "filepath", "clip_path"),
    ("file", "file_name", "filename", "video_file", "video_filename"),
    ("video", "clip", "video_name", "clip_name"),
)
"""Names of columns that say where a video is, the surest first; where one is there, later ones are names beside it."""

ROLES = {
    **dict.fromkeys(
        ("label", "class", "class_name", "label_name", "class_id", "label_id", "action", "activity", "tag", "category")
        + ("target", "choice"),
        "label",
    ),
    **dict.fromkeys(("start_frame", "frame_start", "first_frame"), "start"),
    **dict.fromkeys(("end_frame", "frame_end", "stop_frame"), "end"),
    "last_frame": "last",
    **dict.fromkeys(
        ("start_time", "time_start", "t_start", "start_sec", "start_s", "start_seconds", "start_timestamp"),
        "start_time",
    ),
    **dict.fromkeys(
        ("end_time", "time_end", "t_end", "end_sec", "end_s", "end_seconds", "stop_timestamp", "end_timestamp"),
        "end_time",
    ),
    "start": "start?",  # frames or seconds: the values decide
    "end": "end?",
    **dict.fromkeys(("frames", "num_frames", "n_frames", "total_frames", "frame_count"), "frames"),
    **dict.fromkeys(("split", "subset", "partition", "set"), "split"),
    **dict.fromkeys(
        ("", "unnamed:_0", "index", "id", "clip_id", "video_id", "youtube_id", "narration_id", "annotation_id")
        + ("annotator", "created_at", "updated_at", "lead_time"),
        "skip",
    ),
}
"""What columns of other names than :data:`PATHS` are. Those that are skipped only tell rows apart, or say who wrote
them and when (pandas, Label Studio)."""

COLUMNS_FLAG = "(--columns after gesta data, --data.columns elsewhere)"
MULTI_LABEL_FLAG = "multi_label (--multi-label True after gesta data, --data.multi-label True elsewhere)"
LABEL_DELIMITERS = (";", "|", ",")
"""What may be between several labels in one column, unless it is given."""
MAX_CLASSES = 100_000  # labels above it are taken for a mistake
MAX_COUNTED = 20  # videos whose frames are counted to prove what a column means

T = TypeVar("T")

_INTEGER = re.compile(r"-?\d{1,18}")
_BLANKS = " \t\r"
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


def read_list(
    path: str,
    *,
    columns: Sequence[str] = (),
    delimiter: str = "",
    root: str = "",
    class_names: Sequence[str] | None = None,
    label_base: int = 0,
    frame_base: int = 0,
    label_from_folder: bool = False,
    multi_label: bool = False,
    label_delimiter: str = "",
) -> list[Record]:
    """Read a list file.

    Args:
        path: text (``path label``, any delimiter), CSV with a header, ``.json`` or ``.jsonl``.
        columns: what the columns are in their order, see :data:`COLUMNS`, or ``NAME=COLUMN`` for those of a list with
            names (``tag=label fps=skip``); needed where a line has more than one number or a name is not known.
        delimiter: between columns; worked out if not given.
        root: folder that relative paths start from; else, and next, the list's own folder.
        class_names: in label order; without them labels are numbers, or the sorted names that the list itself has.
        label_base: number of the first class, 1 in lists that count from 1.
        frame_base: number of the first frame in ``start``, ``end`` and ``last``.
        label_from_folder: entries without a label have the name of their folder as label.
        multi_label: a video may have any number of classes: several columns at the end of a line, several labels in one
            column, or a list in JSON. A label is then a tuple; an empty one is written as ``[]`` or as the delimiter
            alone.
        label_delimiter: between labels in one column; worked out, among ``;``, ``|`` and ``,``, if not given.

    Returns:
        Records in the order of the list; an unlabelled one (no label, or -1) has the label None.

    Raises:
        GestaError: the list cannot be read, or not without more options; or it has a column of splits.
    """
    finder = finder_for_list(path, root)
    entries = read_entries(path, finder, columns, delimiter, frame_base, label_delimiter if multi_label else None)
    if any(entry.split for entry in entries):
        raise GestaError(
            f"{path}: has a column of splits; read it with gesta.data.lists.Lists, which divides it by them"
        )
    return to_records(path, entries, finder, class_names, label_base, label_from_folder, multi_label)


def finder_for_list(path: str, root: str) -> VideoFinder:
    """Where the entries of a list are looked up."""
    return VideoFinder([*([root] if root else []), os.path.dirname(path)])


def read_entries(
    path: str,
    finder: VideoFinder,
    columns: Sequence[str] = (),
    delimiter: str = "",
    frame_base: int = 0,
    label_delimiter: str | None = None,
) -> list[ListEntry]:
    """The lines of a list; see :func:`read_list`. A video has one label if ``label_delimiter`` is None."""
    text = read_text(path)
    with csv_errors(path):
        if label_delimiter is None:
            return parse_entries(path, text, finder, columns, delimiter, frame_base)
        entries = parse_entries(path, text, finder, columns, delimiter, frame_base, multi_label=True)
        return _split_labels(path, entries, label_delimiter)


def parse_entries(
    path: str,
    text: str,
    finder: VideoFinder,
    columns: Sequence[str] = (),
    delimiter: str = "",
    frame_base: int = 0,
    multi_label: bool = False,
) -> list[ListEntry]:
    """The lines of a list whose text is known; see :func:`read_list`. The labels of a multi-label list stay one text,
    which is JSON where they are in several columns."""
    named = {name: column for name, equals, column in (word.rpartition("=") for word in columns) if equals}
    if named and len(named) < len(columns):
        raise GestaError(f"columns {' '.join(columns)}: write either NAME=COLUMN for each, or all columns in order")
    _check_columns(list(named.values()) or columns, ordered=not named)
    if path.lower().endswith((".json", ".jsonl")):
        header, rows = _json_rows(path, text, multi_label)
        if (columns and not named) or delimiter:
            raise GestaError(
                f"{path}: a JSON list has names, neither an order of columns nor a delimiter; set columns to "
                f"NAME=COLUMN {COLUMNS_FLAG}"
            )
        return _named_entries(path, header, rows, named, frame_base, multi_label)
    lines = [(number, line) for number, line in enumerate(split_lines(text), 1) if line]
    if not lines:
        raise GestaError(f"{path}: the list is empty")
    first = lines[0][1]
    header_delimiter = delimiter or next((d for d in ("\t", ",", ";") if d in first), " ")
    header = _cells(path, lines[0], header_delimiter)
    if _is_header(header, named, finder):
        if columns and not named:
            if len(columns) != len(header):
                raise GestaError(f"{path}: has {len(header)} columns ({', '.join(header)}), not {len(columns)}")
            header, named = [f"{number}" for number in range(len(columns))], {}
            named = dict(zip(header, columns))
        rows = _text_rows(path, header, lines[1:], header_delimiter)
        return _named_entries(path, header, rows, named, frame_base, multi_label)
    if named:
        raise GestaError(f"{path}: has no header with such names; set columns to all columns in order {COLUMNS_FLAG}")
    if multi_label:
        return _multi_label_entries(path, lines, columns, delimiter, frame_base, finder)
    delimiter = delimiter or _find_delimiter(path, [line for _, line in lines])
    columns = columns or _infer_columns(path, lines, delimiter, finder)
    entries = [_parse_line(path, number, line, delimiter, columns, frame_base, finder) for number, line in lines]
    unlike_others = not is_video_name(entries[0].path) and all(is_video_name(entry.path) for entry in entries[1:])
    if len(entries) > 1 and unlike_others and finder.find(entries[0].path) is None:
        raise GestaError(
            f"{path}, line {lines[0][0]}: {first!r} seems to be a header of names that are not known; set columns to "
            f"NAME=COLUMN for each of them {COLUMNS_FLAG}"
        )
    return entries


def to_records(
    path: str,
    entries: Sequence[ListEntry],
    finder: VideoFinder,
    class_names: Sequence[str] | None,
    label_base: int = 0,
    label_from_folder: bool = False,
    multi_label: bool = False,
) -> list[Record]:
    """Look labels and paths up; see :func:`read_list`."""
    labels = [label_of(entry, label_from_folder, multi_label) for entry in entries]
    single = [part for label in labels for part in (label if isinstance(label, tuple) else (label,))]
    numbers = [label for label in single if isinstance(label, int)]
    label_names = sorted({label for label in single if isinstance(label, str)})
    if numbers and label_names:
        raise GestaError(f"{path}: some labels are numbers and some names ({label_names[0]!r}); write all in one way")
    names = list(class_names) if class_names is not None else label_names
    if class_names is not None and numbers and not label_base and min(numbers) == 1 and max(numbers) == len(names):
        raise GestaError(
            f"{path}: labels run from 1 to {len(names)}, the number of classes, so they seem to count from 1: "
            "set label_base=1 (--label-base 1 after gesta data, --data.label-base 1 elsewhere)"
        )
    exact = {name: label for label, name in enumerate(names)}
    normalised: dict[str, int | None] = {}  # None: ambiguous
    for name, number in exact.items():
        normalised[_normalised(name)] = None if _normalised(name) in normalised else number

    def class_of(entry: ListEntry, label: int | str) -> int:
        if isinstance(label, str):
            index = exact.get(label, normalised.get(_normalised(label)))
            if index is None:
                raise GestaError(
                    f"{path}, line {entry.line}: {label!r} is none of the {len(names)} classes{suggest(label, names)}"
                )
            return index
        index = label - label_base
        if index < 0 or (class_names is not None and index >= len(names)):
            last = f" to {len(names) - 1 + label_base}" if class_names is not None else ""
            raise GestaError(
                f"{path}, line {entry.line}: label {label}, but labels are {label_base}{last}; "
                "correct the list, the class names or label_base"
            )
        return index

    records = []
    for entry, label in zip(entries, labels):
        if isinstance(label, tuple):
            of_video: int | tuple[int, ...] | None = tuple(sorted({class_of(entry, part) for part in label}))
        else:
            of_video = None if label is None else class_of(entry, label)
        records.append(
            Record(
                path=finder.path(entry.path),
                name=entry.path,
                label=of_video,
                start=entry.start,
                end=entry.end,
                seconds=entry.seconds,
            )
        )
    return records


def label_of(
    entry: ListEntry, label_from_folder: bool, multi_label: bool = False
) -> int | str | tuple[int | str, ...] | None:
    """The label of an entry as written, or its folder's name."""
    if entry.label is None and label_from_folder:
        name = os.path.basename(os.path.dirname(os.path.normpath(entry.path)))
        return ((name,) if multi_label else name) if name else None
    return None if entry.label in (-1, (-1,)) else entry.label


# --- several labels --------------------------------------------------------------------------------------------------


def joined_classes(names: Sequence[str]) -> str:
    """A warning of a class name that joins the names of others by what may be between labels; empty if none does."""
    for delimiter in LABEL_DELIMITERS:
        for name in names:
            parts = [part.strip() for part in name.split(delimiter)]
            if len(parts) > 1 and set(parts) & set(names):
                return (
                    f"class {name!r} seems to be several classes; if videos have several labels, set {MULTI_LABEL_FLAG}"
                )
    return ""


def _split_labels(path: str, entries: Sequence[ListEntry], delimiter: str) -> list[ListEntry]:
    """Entries whose labels are tuples instead of one text; an empty text says nothing."""
    texts = [
        entry.label for entry in entries if isinstance(entry.label, str) and not entry.label.startswith(("[", "{"))
    ]
    used = [each for each in LABEL_DELIMITERS if any(each in text for text in texts)]
    if not delimiter and len(used) > 1:
        raise GestaError(
            f"{path}: its labels hold both {used[0]!r} and {used[1]!r}; set label_delimiter to what is between two "
            "labels (--label-delimiter after gesta data, --data.label-delimiter elsewhere)"
        )
    delimiter = delimiter or next(iter(used), "")
    split = []
    for entry in entries:
        if isinstance(entry.label, str):
            where = f"{path}, line {entry.line}"
            labels = (_label(where, part.strip(_BLANKS)) for part in _parts(where, entry.label, delimiter))
            entry = replace(entry, label=tuple(label for label in labels if label is not None))
        split.append(entry)
    return split


def _parts(where: str, text: str, delimiter: str) -> list[str]:
    """The labels in one text: with delimiters between them, a JSON list, or Label Studio's ``{"choices": [...]}``."""
    if text.startswith(("[", "{")):
        value = parse_json(text, f"{where}: its label", 'write a list of labels as ["wave", "clap"]')
        value = value.get("choices") if isinstance(value, dict) and value.keys() == {"choices"} else value
        if not isinstance(value, list) or not all(isinstance(part, str) or type(part) is int for part in value):
            raise GestaError(f'{where}: its labels are {text[:60]}; write a list of them, as ["wave", "clap"]')
        return [str(part) for part in value]
    return text.split(delimiter) if delimiter else [text]


def _multi_label_entries(
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
    delimiter = delimiter or next(by_path, "") or _find_delimiter(path, texts)
    rows = [_cut(line, delimiter) for line in texts]
    if not columns:
        columns = ("path", "label")
        counts = [(row[0], int(row[1])) for row in rows if len(row) > 1 and _INTEGER.fullmatch(row[1])]
        if len(counts) == len(rows) and max(map(len, rows)) > 2:
            if _are_frame_counts(counts, finder):
                columns = ("path", "frames", "label")
            elif not all(is_video_name(row[0]) for row in rows):
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
        entries.append(_entry(f"{path}, line {number}", number, {"label": text} | values, frame_base, True))
    return entries


def _cut(line: str, delimiter: str) -> list[str]:
    """The path of a line, which may hold the delimiter, and the fields behind it."""
    fields = _split(line, delimiter, 0)
    ends = [i for i in range(1, len(fields) + 1) if is_video_name(delimiter.join(fields[:i]))]
    numbers = _count_numbers(line, delimiter)
    end = ends[0] if ends else len(fields) - numbers if numbers else 1
    return [_split(line, delimiter, len(fields) - end + 1)[0], *fields[end:]]


# --- text without header ---------------------------------------------------------------------------------------------


def _split(line: str, delimiter: str, columns: int) -> list[str]:
    """Fields of a line, cut from the right; a quoted field may hold the delimiter."""
    if '"' in line and len(delimiter) == 1 and delimiter != " ":
        return [field.strip(_BLANKS) for field in next(csv.reader([line], delimiter=delimiter, skipinitialspace=True))]
    if delimiter != " ":
        return [field.strip(_BLANKS) for field in line.rsplit(delimiter, columns - 1)]
    # str.rsplit would take no-break spaces and line separators for blanks
    blanks = [match.span() for match in re.finditer(r"[ \t]+", line) if match.start() and match.end() < len(line)]
    if columns:
        blanks = blanks[max(len(blanks) - (columns - 1), 0) :]
    starts, ends = [0, *(end for _, end in blanks)], [*(start for start, _ in blanks), len(line)]
    return [line[start:end] for start, end in zip(starts, ends)]


def _count_numbers(line: str, delimiter: str) -> int:
    """How many fields at the end of a line are whole numbers; the first field is the path and does not count."""
    fields = _split(line, delimiter, 0)
    count = 0
    while count < len(fields) - 1 and _INTEGER.fullmatch(fields[-1 - count]):
        count += 1
    return count


def _find_delimiter(path: str, lines: list[str]) -> str:
    """The delimiter: one before a number in every line, else one that is equally often in every line."""
    for delimiter in ("\t", "::", ",", ";", " "):
        if all(_count_numbers(line, delimiter) for line in lines):
            return delimiter
    for delimiter in ("\t", "::", ",", ";"):
        if len({line.count(delimiter) for line in lines}) == 1 and delimiter in lines[0]:
            return delimiter
    if all(len(_split(line, " ", 0)) == 2 for line in lines) or all(_is_path_only(line, " ") for line in lines):
        return " "
    raise GestaError(
        f"{path}: cannot tell where paths end and labels begin; set the delimiter, or put labels in numbers"
    )


def _is_path_only(line: str, delimiter: str) -> bool:
    return len(_split(line, delimiter, 0)) == 1 or is_video_name(line)


def _infer_columns(path: str, lines: Sequence[tuple[int, str]], delimiter: str, finder: VideoFinder) -> tuple[str, ...]:
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
    fields = [_split(line, delimiter, columns) for _, line in lines[:MAX_COUNTED]]
    return _are_frame_counts([(row[0], int(row[1])) for row in fields], finder)


def _are_frame_counts(pairs: Sequence[tuple[str, int]], finder: VideoFinder) -> bool:
    """Whether these numbers are the videos' numbers of frames, by counting those of the first videos."""
    counts: dict[str, int] = {}
    for path, count in pairs[:MAX_COUNTED]:
        video = finder.find(path)
        if video is None or counts.setdefault(video, count) != count:
            return False
    try:
        return all(_frames(video) == count for video, count in counts.items())
    except VideoError:
        return False


def _frames(video: str) -> int:
    return len(image_files(video)) if os.path.isdir(video) else probe(video).frames


def _parse_line(
    path: str, number: int, line: str, delimiter: str, columns: Sequence[str], frame_base: int, finder: VideoFinder
) -> ListEntry:
    fields = _split(line, delimiter, len(columns))
    if len(fields) != len(columns):
        raise GestaError(
            f"{path}, line {number}: {line!r} does not have the {len(columns)} columns {' '.join(columns)}"
        )
    before = fields[0].split(delimiter)
    if len(before) > 1 and finder.find(fields[0]) is None:
        if len(columns) > 1 and delimiter == " " and _INTEGER.fullmatch(before[-1]):
            raise GestaError(
                f"{path}, line {number}: {line!r} has more numbers than columns {' '.join(columns)}; for several "
                f"labels per video set {MULTI_LABEL_FLAG}"
            )
        if not is_video_name(fields[0]) and any(map(is_video_name, before)):
            raise GestaError(
                f"{path}, line {number}: {line!r} has more fields than columns {' '.join(columns)}; set columns to "
                f"what each of them is, of {', '.join(COLUMNS)} {COLUMNS_FLAG}"
            )
    return _entry(f"{path}, line {number}", number, dict(zip(columns, fields)), frame_base)


def _entry(where: str, number: int, values: Mapping[str, str], frame_base: int, multi_label: bool = False) -> ListEntry:
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
    label = (values.get("label") or None) if multi_label else _label(where, values.get("label", ""))
    split = split_of(values["split"]) if "split" in values else None
    if "split" in values and split is None:
        raise GestaError(f"{where}: its split is {values['split']!r}; write train, val or test")
    seconds = (times[0], times[1]) if times else None
    return ListEntry(number, values["path"], label, start, end, seconds, split)


def _label(where: str, text: str) -> int | str | None:
    number = re.sub(r"\.0+$", "", text)  # as pandas writes them where some are missing
    label = int(number) if _INTEGER.fullmatch(number) else text or None
    if isinstance(label, int) and label >= MAX_CLASSES:
        raise GestaError(f"{where}: label {label} is more than {MAX_CLASSES}; correct it, or set columns")
    return label


def _whole_number(where: str, column: str, text: str) -> int:
    number = re.sub(r"\.0+$", "", text)
    if not _INTEGER.fullmatch(number):
        raise GestaError(f"{where}: {column} is {text!r}, not a whole number; correct the list or columns")
    return int(number)


def _seconds(where: str, text: str) -> float:
    """Seconds, or h:mm:ss."""
    try:
        return sum(float(part) * 60**power for power, part in enumerate(text.split(":")[::-1]))
    except ValueError:
        raise GestaError(f"{where}: {text!r} is no time; write seconds, or h:mm:ss") from None


def _check_columns(columns: Sequence[str], ordered: bool) -> None:
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


# --- with names ------------------------------------------------------------------------------------------------------


Row = tuple[int, list[Any]]
"""The number of a line, or of an element of a JSON list, and what its columns hold."""


def _is_header(cells: Sequence[str], named: Mapping[str, str], finder: VideoFinder) -> bool:
    """Whether these are names of columns: one of them is known, and they are not a video and its label."""
    if any(_INTEGER.fullmatch(cell) or is_video_name(cell) or "/" in cell for cell in cells):
        return False
    names = [_column_name(cell) for cell in cells]
    known = {name for names in PATHS for name in names} | (ROLES.keys() if len(names) > 1 else set())
    return any(name in known or cell in named for name, cell in zip(names, cells)) and (
        not cells[0] or finder.find(cells[0]) is None
    )


def _column_name(text: str) -> str:
    return re.sub(r"[\s-]+", "_", text.strip().casefold())


def _cells(path: str, line: tuple[int, str], delimiter: str) -> list[str]:
    (row,) = _text_rows(path, None, [line], delimiter)
    return row[1]


def _text_rows(
    path: str, header: Sequence[str] | None, lines: Sequence[tuple[int, str]], delimiter: str
) -> Iterator[Row]:
    for number, line in lines:
        if len(delimiter) > 1 or delimiter == " ":
            cells = _split(line, delimiter, 0)
        else:
            try:
                cells = next(csv.reader([line], delimiter=delimiter, skipinitialspace=True, strict=True))
            except csv.Error as error:
                raise GestaError(f"{path}, line {number}: cannot be read ({error}); correct its quotes") from None
        if header is not None and len(cells) != len(header):
            raise GestaError(
                f"{path}, line {number}: {len(cells)} fields, but the header has {len(header)}; quote the path"
            )
        yield number, [cell.strip(_BLANKS) for cell in cells]


def _named_entries(
    path: str, header: Sequence[str], rows: Iterator[Row], named: Mapping[str, str], frame_base: int, multi_label: bool
) -> list[ListEntry]:
    """Entries of rows whose columns have names."""
    roles = _roles(path, header, named)
    table = []
    for number, cells in rows:
        used = [(role, name, cell) for role, name, cell in zip(roles, header, cells) if role != "skip"]
        where = f"{path}, line {number}"
        table.append(
            (number, {role: _text(where, name, cell, multi_label and role == "label") for role, name, cell in used})
        )
    if not table:
        raise GestaError(f"{path}: the list is empty")
    bounds = {
        role: [values[role] for _, values in table if values[role]] for role in ("start?", "end?") if role in roles
    }
    if bounds:
        texts = [text for column in bounds.values() for text in column]
        if all(_INTEGER.fullmatch(text) for text in texts):
            raise GestaError(
                f"{path}: start and end may be frames or seconds; set columns to start=start end=end for frames, or to "
                f"start=start_time end=end_time {COLUMNS_FLAG}"
            )
        final = {"start?": "start_time", "end?": "end_time"}
        table = [(number, {final.get(role, role): text for role, text in row.items()}) for number, row in table]
    return [_entry(f"{path}, line {number}", number, row, frame_base, multi_label) for number, row in table]


def _roles(path: str, header: Sequence[str], named: Mapping[str, str]) -> list[str]:
    """What each column is, by its name.

    Raises:
        GestaError: it is not known, or two are the same, or none is the path.
    """
    for name in named:
        if name not in header:
            raise GestaError(f"{path}: has no column {name!r}{suggest(name, header)} (it has {', '.join(header)})")
    names = [_column_name(name) for name in header]
    by_tier = [[name for name in names if name in tier and name not in map(_column_name, named)] for tier in PATHS]
    given = "path" in named.values()
    best = next((tier for tier in by_tier if tier), []) if not given else []
    if not best and not given:
        raise GestaError(
            f"{path}: a list with the columns {', '.join(header)} names no files; set columns to NAME=path for the one "
            f"that does {COLUMNS_FLAG}"
        )
    roles: list[str] = []
    for original, name in zip(header, names):
        role = named.get(original) or ("path" if name in best else ROLES.get(name))
        if role is None and any(name in tier for tier in by_tier):
            role = "skip"  # another name of the same video
        if role is None:
            raise GestaError(
                f"{path}: the column {original!r} is not known; set columns to {original}=skip if it may be left out, "
                f"or to {original}= one of {', '.join(COLUMNS[:-1])} {COLUMNS_FLAG}"
            )
        if role != "skip" and role in roles:
            other = header[roles.index(role)]
            raise GestaError(
                f"{path}: both {other!r} and {original!r} may be the {role.rstrip('?')}; set columns to "
                f"{other}={role.rstrip('?')} {original}=skip, or the other way round {COLUMNS_FLAG}"
            )
        roles.append(role)
    _check_columns([role.rstrip("?") for role in roles], ordered=False)
    return roles


def _json_rows(path: str, text: str, multi_label: bool) -> tuple[list[str], Iterator[Row]]:
    """Names and rows of a JSON list: ``{"clip.mp4": "wave"}``, or objects in a list or one a line."""
    if path.lower().endswith(".jsonl"):
        lines = enumerate(split_lines(text), 1)
        value: Any = [parse_json(line, f"{path}, line {number}") for number, line in lines if line]
    else:
        value = parse_json(text, path)
    parts = dict if multi_label else dict | list
    if isinstance(value, dict) and not any(isinstance(label, parts) for label in value.values()):
        value = [{"path": name, "label": label} for name, label in value.items()]
    if not value or not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise GestaError(
            f'{path}: this kind of JSON is not supported; write {{"clip.mp4": "wave", …}} or '
            '[{"path": "clip.mp4", "label": "wave"}, …]'
        )
    if all(isinstance(item.get("data"), dict) and "annotations" in item for item in value):
        raise GestaError(f"{path}: is a full export of Label Studio; export it as JSON-MIN or CSV")
    header = list(dict.fromkeys(name for item in value for name in item))

    def rows() -> Iterator[Row]:
        for number, item in enumerate(value, 1):
            yield number, [item.get(name) for name in header]

    return header, rows()


def _text(where: str, name: str, value: Any, several: bool) -> str:
    """A value of JSON as a column of text has it; a list or an object, where there may be ``several``, stays JSON."""
    if several and isinstance(value, list | dict):
        return json.dumps(value)
    if isinstance(value, bool | list | dict):
        raise GestaError(
            f"{where}: {name!r} is {json.dumps(value)[:60]}; write one text or number, or for several labels per video "
            f"set {MULTI_LABEL_FLAG}"
        )
    return "" if value is None else str(value).strip(_BLANKS)


def _normalised(name: str) -> str:
    """A class name without what lists write differently: case, blanks, underscores, hyphens."""
    return re.sub(r"[\s_+-]+", "", name).casefold()


def label_number(labels: Mapping[str, int], name: str, where: str) -> int:
    """The number of a class by its name.

    Raises:
        GestaError: there is no such class; the sentence begins with ``where`` it is named.
    """
    if name not in labels:
        raise GestaError(f"{where}: {name!r} is none of the {len(labels)} classes{suggest(name, labels)}")
    return labels[name]


def split_lines(text: str) -> list[str]:
    """Lines without blanks around them; only a line feed ends one, as file names may hold what else Unicode has."""
    return [line.strip(_BLANKS) for line in text.split("\n")]


def read_lines(path: str) -> list[str]:
    """The lines of a text file, without blanks around them and without empty ones."""
    return [line for line in split_lines(read_text(path)) if line]


def read_rows(path: str) -> list[dict[str, Any]]:
    """The rows of a CSV file with a header."""
    with csv_errors(path):
        return list(csv.DictReader(read_text(path).split("\n")))


@contextmanager
def csv_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Name the file that the CSV reader cannot read: carriage returns inside its lines, or a field without an end."""
    try:
        yield
    except csv.Error as error:
        raise GestaError(f"{path}: cannot be read as CSV ({error}); correct its quotes and its ends of lines") from None


def read_json(path: str, expected: type[T]) -> T:
    """The content of a JSON file of official annotations.

    Raises:
        GestaError: it is no JSON, or not of the expected type.
    """
    value: T = read_given_json(path, expected, remedy="it is not the official list, so get it again")
    return value
