"""List files as users of other libraries have them: text with or without header, CSV, JSON.

Text without header is read from the right, because only the path may hold blanks or the delimiter. What a column means
is given by the caller or by its name, follows from the number of columns, or is proved on the videos; if none of these
decides, the reader stops and asks for the option that decides it. No column is left out without being asked to, except
those that only tell rows apart.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

from gesta.config import parse_json, read_text, suggest
from gesta.config import read_json as read_given_json
from gesta.data.list_entry import (
    BLANKS,
    COLUMNS_FLAG,
    MULTI_LABEL_FLAG,
    ListEntry,
    check_columns,
    label_in_text,
    split_lines,
)
from gesta.data.list_table import header_cells, is_header, json_rows, named_entries, text_rows
from gesta.data.list_text import check_path_first, find_delimiter, infer_columns, multi_label_entries, parse_line
from gesta.data.locate import VideoFinder
from gesta.errors import GestaError
from gesta.records import Record, class_name
from gesta.video.find import is_video_name

LABEL_DELIMITERS = (";", "|", ",")
"""What may be between several labels in one column, unless it is given."""

T = TypeVar("T")


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
        columns: what the columns are in their order (``list_entry.COLUMNS``), or ``NAME=COLUMN`` for those of a list
            with names (``tag=label fps=skip``); needed where a line has more than one number or a name is not known.
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
    check_columns(list(named.values()) or columns, ordered=not named)
    if path.lower().endswith((".json", ".jsonl")):
        header, rows = json_rows(path, text, multi_label)
        if (columns and not named) or delimiter:
            raise GestaError(
                f"{path}: a JSON list has names, neither an order of columns nor a delimiter; set columns to "
                f"NAME=COLUMN {COLUMNS_FLAG}"
            )
        return named_entries(path, header, rows, named, frame_base, multi_label)
    lines = [(number, line) for number, line in enumerate(split_lines(text), 1) if line]
    if not lines:
        raise GestaError(f"{path}: the list is empty; write a line for each video, as in clip.mp4 wave")
    first = lines[0][1]
    header_delimiter = delimiter or next((d for d in ("\t", ",", ";") if d in first), " ")
    table = lines
    if header_delimiter == "\t":  # at the ends of lines tabs may be empty cells, but none of the header is empty there
        whole = split_lines(text, " \r")
        table = [(number, whole[number - 1]) for number, _ in lines]
        table[0] = (table[0][0], table[0][1].rstrip(BLANKS))
    header = header_cells(path, table[0], header_delimiter)
    if is_header(header, named, finder):
        if columns and not named:
            if len(columns) != len(header):
                raise GestaError(
                    f"{path}: has {len(header)} columns ({', '.join(header)}), but {len(columns)} were given; name one "
                    "for each"
                )
            header, named = [f"{number}" for number in range(len(columns))], {}
            named = dict(zip(header, columns))
        rows = text_rows(path, header, table[1:], header_delimiter)
        return named_entries(path, header, rows, named, frame_base, multi_label)
    if named:
        raise GestaError(f"{path}: has no header with such names; set columns to all columns in order {COLUMNS_FLAG}")
    if multi_label:
        entries = multi_label_entries(path, lines, columns, delimiter, frame_base, finder)
        check_path_first(path, lines, entries, finder)
        return entries
    delimiter = delimiter or find_delimiter(path, [line for _, line in lines])
    columns = columns or infer_columns(path, lines, delimiter, finder)
    entries = [parse_line(path, number, line, delimiter, columns, frame_base, finder) for number, line in lines]
    check_path_first(path, lines, entries, finder)
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
            "set label_base=1 (--data.label-base 1)"
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
                    f"{path}, line {entry.line}: {label!r} is none of the {len(names)} classes{suggest(label, names)}; "
                    "correct the label, or the class names"
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
        name = class_name(name)
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


def alike_classes(names: Sequence[str]) -> list[str]:
    """A warning of each class name that differs from an earlier one only in how it is written."""
    first: dict[str, str] = {}
    pairs = ((first.setdefault(re.sub(r"[\s_-]+", " ", class_name(name)).casefold(), name), name) for name in names)
    return [
        f"classes {one!r} and {other!r} differ only in capitals, blanks, underscores or hyphens; give both one name if "
        "they are one action"
        for one, other in pairs
        if one != other
    ]


def _split_labels(path: str, entries: Sequence[ListEntry], delimiter: str) -> list[ListEntry]:
    """Entries whose labels are tuples instead of one text; an empty text says nothing."""
    texts = [
        entry.label for entry in entries if isinstance(entry.label, str) and not entry.label.startswith(("[", "{"))
    ]
    used = [each for each in LABEL_DELIMITERS if any(each in text for text in texts)]
    if not delimiter and len(used) > 1:
        raise GestaError(
            f"{path}: its labels hold both {used[0]!r} and {used[1]!r}; set label_delimiter to what is between two "
            "labels (--data.label-delimiter)"
        )
    delimiter = delimiter or next(iter(used), "")
    split = []
    for entry in entries:
        if isinstance(entry.label, str):
            where = f"{path}, line {entry.line}"
            labels = (label_in_text(where, part.strip(BLANKS)) for part in _parts(where, entry.label, delimiter))
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


def _normalised(name: str) -> str:
    """A class name without what lists write differently: case, blanks, underscores, hyphens, forms of accents."""
    return re.sub(r"[\s_+-]+", "", class_name(name)).casefold()


def label_number(labels: Mapping[str, int], name: str, where: str) -> int:
    """The number of a class by its name.

    Raises:
        GestaError: there is no such class; the sentence begins with ``where`` it is named.
    """
    name = name if name in labels else class_name(name)
    if name not in labels:
        raise GestaError(
            f"{where}: {name!r} is none of the {len(labels)} classes{suggest(name, labels)}; correct it, or the "
            "class names"
        )
    return labels[name]


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
