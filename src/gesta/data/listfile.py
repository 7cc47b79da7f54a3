"""List files as users of other libraries have them: text with or without header, CSV, JSON.

Everything is read from the right, because only the path may hold blanks or the delimiter. What a column means is given
by the caller or by a header, follows from the number of columns, or is proved on the videos; if none of these decides,
the reader stops and asks for the option that decides it.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from gesta.config import suggest
from gesta.data.locate import VideoFinder
from gesta.errors import GestaError, VideoError
from gesta.records import Record
from gesta.video.find import VIDEOS
from gesta.video.images import image_files
from gesta.video.probe import probe

COLUMNS = ("path", "label", "frames", "start", "end", "last", "offset", "skip")
"""What a column may be: ``end`` is one past the last frame, ``last`` the last frame itself, ``offset`` goes with
``frames`` and counts from 0, ``skip`` is not read."""

# names that columns have in the headers of public lists
HEADERS = frozenset(
    ["path", "video", "video_path", "file_name", "filename", "file", "label", "id", "youtube_id", "video_id"]
    + ["narration_id", "original_vido_id"]
)
PATHS = ("path", "video_path", "video", "file_name", "filename", "file")
LABELS = ("label", "class", "class_name")
TIMES = frozenset(["start", "end", "time_start", "time_end", "start_time", "end_time", "t_start", "t_end"])

COLUMNS_FLAG = "(--columns after gesta data, --data.columns elsewhere)"
MAX_COUNTED = 20  # videos whose frames are counted to prove what a column means

T = TypeVar("T")

_INTEGER = re.compile(r"-?\d+")


@dataclass(frozen=True, slots=True)
class ListEntry:
    """One line of a list: ``label`` is a number or a name as written, start and end count from 0."""

    line: int
    path: str
    label: int | str | None = None
    start: int | None = None
    end: int | None = None


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
) -> list[Record]:
    """Read a list file.

    Args:
        path: text (``path label``, any delimiter), CSV with a header, ``.json`` or ``.jsonl``.
        columns: what the columns are, see :data:`COLUMNS`; needed where a line has more than one number.
        delimiter: between columns; worked out if not given.
        root: folder that relative paths start from; else, and next, the list's own folder.
        class_names: in label order; without them labels are numbers, or the sorted names that the list itself has.
        label_base: number of the first class, 1 in lists that count from 1.
        frame_base: number of the first frame in ``start``, ``end`` and ``last``.
        label_from_folder: entries without a label have the name of their folder as label.

    Returns:
        Records in the order of the list; an unlabelled one (no label, or -1) has the label None.

    Raises:
        GestaError: the list cannot be read, or not without more options.
    """
    finder = finder_for_list(path, root)
    entries = read_entries(path, finder, columns, delimiter, frame_base)
    return to_records(path, entries, finder, class_names, label_base, label_from_folder)


def finder_for_list(path: str, root: str) -> VideoFinder:
    """Where the entries of a list are looked up."""
    return VideoFinder([*([root] if root else []), os.path.dirname(path)])


def read_entries(
    path: str, finder: VideoFinder, columns: Sequence[str] = (), delimiter: str = "", frame_base: int = 0
) -> list[ListEntry]:
    """The lines of a list; see :func:`read_list`."""
    _check_columns(columns)
    text = read_text(path)
    if path.lower().endswith((".json", ".jsonl")):
        return _parse_json(path, text)
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise GestaError(f"{path}: the list is empty")
    first = lines[0][1]
    header_delimiter = delimiter or next((d for d in ("\t", ",", ";") if d in first), " ")
    fields = first.split(header_delimiter if header_delimiter != " " else None)
    header = [field.strip().strip('"').lower() for field in fields]
    if header[0] in HEADERS:
        return _parse_with_header(path, header, lines[1:], header_delimiter)
    delimiter = delimiter or _find_delimiter(path, [line for _, line in lines])
    columns = columns or _infer_columns(path, lines, delimiter, finder)
    return [_parse_line(path, number, line, delimiter, columns, frame_base, finder) for number, line in lines]


def to_records(
    path: str,
    entries: Sequence[ListEntry],
    finder: VideoFinder,
    class_names: Sequence[str] | None,
    label_base: int = 0,
    label_from_folder: bool = False,
) -> list[Record]:
    """Look labels and paths up; see :func:`read_list`."""
    labels = [label_of(entry, label_from_folder) for entry in entries]
    numbers = [label for label in labels if isinstance(label, int)]
    label_names = sorted({label for label in labels if isinstance(label, str)})
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
    records = []
    for entry, label in zip(entries, labels):
        index: int | None = None
        if isinstance(label, str):
            index = exact.get(label, normalised.get(_normalised(label)))
            if index is None:
                raise GestaError(
                    f"{path}, line {entry.line}: {label!r} is none of the {len(names)} classes{suggest(label, names)}"
                )
        elif label is not None:
            index = label - label_base
            if index < 0 or (class_names is not None and index >= len(names)):
                last = f" to {len(names) - 1 + label_base}" if class_names is not None else ""
                raise GestaError(
                    f"{path}, line {entry.line}: label {label}, but labels are {label_base}{last}; "
                    "correct the list, the class names or label_base"
                )
        records.append(
            Record(path=finder.path(entry.path), name=entry.path, label=index, start=entry.start, end=entry.end)
        )
    return records


def label_of(entry: ListEntry, label_from_folder: bool) -> int | str | None:
    """The label of an entry as written, or its folder's name."""
    if entry.label is None and label_from_folder:
        return os.path.basename(os.path.dirname(os.path.normpath(entry.path))) or None
    return None if entry.label == -1 else entry.label


# --- text without header ---------------------------------------------------------------------------------------------


def _split(line: str, delimiter: str, columns: int) -> list[str]:
    """Fields of a line, cut from the right; a quoted field may hold the delimiter."""
    if '"' in line and len(delimiter) == 1 and delimiter != " ":
        return [field.strip() for field in next(csv.reader([line], delimiter=delimiter, skipinitialspace=True))]
    fields = line.rsplit(delimiter if delimiter.strip() or delimiter == "\t" else None, columns - 1)
    return [field.strip() for field in fields]


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
    if all(len(line.split()) == 2 for line in lines) or all(_is_path_only(line) for line in lines):
        return " "
    raise GestaError(
        f"{path}: cannot tell where paths end and labels begin; set the delimiter, or put labels in numbers"
    )


def _is_path_only(line: str) -> bool:
    return len(line.split()) == 1 or os.path.splitext(line)[1].lower() in VIDEOS


def _infer_columns(path: str, lines: Sequence[tuple[int, str]], delimiter: str, finder: VideoFinder) -> tuple[str, ...]:
    """What the columns are, where that is certain."""
    counts = {line: _count_numbers(line, delimiter) for _, line in lines}
    if delimiter != " " and set(counts.values()) == {0, 1}:
        return ("path", "label")  # a mixture of numbers and names, which the lookup of labels explains
    if len(set(counts.values())) > 1:
        few, many = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
        raise GestaError(
            f"{path}: {many!r} has more numbers than {few!r}; lists with several labels per video are not supported, "
            f"and if the numbers belong to the path, set columns to path label {COLUMNS_FLAG}"
        )
    numbers = counts[lines[0][1]]
    if numbers == 0:
        return ("path",) if all(_is_path_only(line) for _, line in lines) else ("path", "label")
    if numbers == 1:
        if len(lines) >= 3 and _is_frame_count(lines, delimiter, ("path", "frames"), finder):
            raise GestaError(
                f"{path}: the number behind each path is the video's number of frames, hence hardly its label; "
                f"set columns to path frames {COLUMNS_FLAG}, and label_from_folder if folders are classes, or to path "
                "label"
            )
        return ("path", "label")
    if numbers == 2 and _is_frame_count(lines, delimiter, ("path", "frames", "label"), finder):
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


def _is_frame_count(
    lines: Sequence[tuple[int, str]], delimiter: str, columns: Sequence[str], finder: VideoFinder
) -> bool:
    """Whether the first number of the lines is the video's number of frames, by counting those of the first videos."""
    counts: dict[str, int] = {}
    for _, line in lines[:MAX_COUNTED]:
        fields = _split(line, delimiter, len(columns))
        video, count = finder.find(fields[0]), int(fields[1])
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
    if len(columns) > 1 and delimiter == " " and re.search(r"\s\d+$", fields[0]) and finder.find(fields[0]) is None:
        raise GestaError(
            f"{path}, line {number}: {line!r} has more numbers than columns {' '.join(columns)}; lists with several "
            "labels per video are not supported"
        )
    values: dict[str, int] = {}
    label: int | str | None = None
    for column, field in zip(columns, fields):
        if column == "label":
            label = int(field) if _INTEGER.fullmatch(field) else field or None
        elif column not in ("path", "skip"):
            if not _INTEGER.fullmatch(field):
                raise GestaError(
                    f"{path}, line {number}: {column} is {field!r}, not a whole number; correct the list or columns"
                )
            values[column] = int(field)
    start, end = values.get("start"), values.get("end")
    if start is not None:
        start -= frame_base
    if end is not None:
        end -= frame_base
    if "last" in values:
        end = values["last"] - frame_base + 1
    if "offset" in values:
        start, end = values["offset"], values["offset"] + values["frames"]
    if (start is not None and start < 0) or (end is not None and end <= (start or 0)):
        raise GestaError(
            f"{path}, line {number}: {line!r} gives frames {start} to {end}; correct the list, columns or frame_base"
        )
    return ListEntry(number, fields[0], label, start, end)


def _check_columns(columns: Sequence[str]) -> None:
    for column in columns:
        if column not in COLUMNS:
            raise GestaError(
                f"columns: there is no column {column!r}{suggest(column, COLUMNS)} (known: {', '.join(COLUMNS)})"
            )
    used = [column for column in columns if column != "skip"]
    if columns and (columns[0] != "path" or len(set(used)) < len(used)):
        raise GestaError(f"columns {' '.join(columns)}: path comes first, and every column once")
    if ("offset" in used and "frames" not in used) or ({"end", "last"} <= set(used)):
        raise GestaError(
            f"columns {' '.join(columns)}: offset needs frames beside it, and end and last exclude each other"
        )


# --- with names ------------------------------------------------------------------------------------------------------


def _parse_with_header(
    path: str, header: list[str], lines: Sequence[tuple[int, str]], delimiter: str
) -> list[ListEntry]:
    paths, labels = ([name for name in known if name in header] for known in (PATHS, LABELS))
    if not paths or TIMES & set(header):
        content = "gives segments in seconds" if TIMES & set(header) else "names no files"
        raise GestaError(
            f"{path}: a list with the header {', '.join(header)} {content}, which is not supported; "
            "write a list of path and label"
        )
    entries = []
    for number, line in lines:
        fields = next(csv.reader([line], delimiter=delimiter, skipinitialspace=True))
        if len(fields) != len(header):
            raise GestaError(
                f"{path}, line {number}: {len(fields)} fields, but the header has {len(header)}; quote the path"
            )
        row = dict(zip(header, fields))
        entries.append(_named_entry(number, row[paths[0]], row[labels[0]] if labels else None))
    return entries


def _parse_json(path: str, text: str) -> list[ListEntry]:
    try:
        if path.lower().endswith(".jsonl"):
            value: Any = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            value = json.loads(text)
    except ValueError as error:
        raise GestaError(f"{path}: is not valid JSON ({error})") from None
    pairs: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, list) and all(isinstance(item, dict) for item in value):
        for item in value:
            label = next((item[name] for name in LABELS if name in item), None)
            pairs.append((next((item[name] for name in PATHS if name in item), None), label))
    if not pairs or not all(isinstance(p, str) and isinstance(v, str | int | None) for p, v in pairs):
        raise GestaError(
            f'{path}: this kind of JSON is not supported; write {{"clip.mp4": "wave", …}} or '
            '[{"path": "clip.mp4", "label": "wave"}, …]'
        )
    return [_named_entry(number, p, v) for number, (p, v) in enumerate(pairs, 1)]


def _named_entry(number: int, path: str, label: Any) -> ListEntry:
    if isinstance(label, str):
        label = int(label) if _INTEGER.fullmatch(label.strip()) else label.strip() or None
    return ListEntry(number, path.strip(), label)


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


def read_text(path: str) -> str:
    """A text file of any origin: UTF-8 or UTF-16, with or without byte-order mark."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise GestaError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", errors="replace")
    return data.decode("utf-8-sig", errors="surrogateescape")  # names in other encodings stay what they are on the disk


def read_lines(path: str) -> list[str]:
    """The lines of a text file, without blanks around them and without empty ones."""
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def read_rows(path: str) -> list[dict[str, Any]]:
    """The rows of a CSV file with a header."""
    return list(csv.DictReader(read_text(path).splitlines()))


def read_json(path: str, expected: type[T]) -> T:
    """The content of a JSON file of official annotations.

    Raises:
        GestaError: it is no JSON, or not of the expected type.
    """
    try:
        value = json.loads(read_text(path))
    except ValueError as error:
        raise GestaError(f"{path}: is not valid JSON ({error}); get the lists again") from None
    if not isinstance(value, expected):
        raise GestaError(f"{path}: is not the official list; get the lists again")
    return value
