"""List files whose columns have names: CSV with a header, and JSON."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gesta.config import parse_json, suggest
from gesta.data.list_entry import (
    BLANKS,
    COLUMNS,
    COLUMNS_FLAG,
    INTEGER,
    MULTI_LABEL_FLAG,
    ListEntry,
    check_columns,
    make_entry,
    split_lines,
)
from gesta.data.list_text import split_fields
from gesta.data.locate import VideoFinder
from gesta.errors import GestaError
from gesta.video.find import is_video_name

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

Row = tuple[int, list[Any]]
"""The number of a line, or of an element of a JSON list, and what its columns hold."""


def is_header(cells: Sequence[str], named: Mapping[str, str], finder: VideoFinder) -> bool:
    """Whether these are names of columns: one of them is known, and they are not a video and its label."""
    if any(INTEGER.fullmatch(cell) or is_video_name(cell) or "/" in cell for cell in cells):
        return False
    names = [_column_name(cell) for cell in cells]
    known = {name for names in PATHS for name in names} | (ROLES.keys() if len(names) > 1 else set())
    return any(name in known or cell in named for name, cell in zip(names, cells)) and (
        not cells[0] or finder.find(cells[0]) is None
    )


def _column_name(text: str) -> str:
    return re.sub(r"[\s-]+", "_", text.strip().casefold())


def header_cells(path: str, line: tuple[int, str], delimiter: str) -> list[str]:
    """The cells of one line of text."""
    (row,) = text_rows(path, None, [line], delimiter)
    return row[1]


def text_rows(
    path: str, header: Sequence[str] | None, lines: Sequence[tuple[int, str]], delimiter: str
) -> Iterator[Row]:
    """The rows of text; a row of another number of cells than the header is refused."""
    for number, line in lines:
        cells = _cells(path, number, line, delimiter)
        if header is not None and len(cells) != len(header) and delimiter == "\t":
            cells = _cells(path, number, line.strip(BLANKS), delimiter)  # tabs around the line are no cells
        if header is not None and len(cells) != len(header):
            raise GestaError(
                f"{path}, line {number}: {len(cells)} fields, but the header has {len(header)}; quote the path"
            )
        yield number, [cell.strip(BLANKS) for cell in cells]


def _cells(path: str, number: int, line: str, delimiter: str) -> list[str]:
    if len(delimiter) > 1 or delimiter == " ":
        return split_fields(line, delimiter, 0)
    try:
        return next(csv.reader([line], delimiter=delimiter, skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise GestaError(f"{path}, line {number}: cannot be read ({error}); correct its quotes") from None


def named_entries(
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
        raise GestaError(f"{path}: the list is empty below its header; write a line for each video")
    bounds = {
        role: [values[role] for _, values in table if values[role]] for role in ("start?", "end?") if role in roles
    }
    if bounds:
        texts = [text for column in bounds.values() for text in column]
        if all(INTEGER.fullmatch(text) for text in texts):
            raise GestaError(
                f"{path}: start and end may be frames or seconds; set columns to start=start end=end for frames, or to "
                f"start=start_time end=end_time {COLUMNS_FLAG}"
            )
        final = {"start?": "start_time", "end?": "end_time"}
        table = [(number, {final.get(role, role): text for role, text in row.items()}) for number, row in table]
    return [make_entry(f"{path}, line {number}", number, row, frame_base, multi_label) for number, row in table]


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
    check_columns([role.rstrip("?") for role in roles], ordered=False)
    return roles


def json_rows(path: str, text: str, multi_label: bool) -> tuple[list[str], Iterator[Row]]:
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
        raise GestaError(f"{path}: is a full export of Label Studio; make a list of it with gesta data import")
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
    return "" if value is None else str(value).strip(BLANKS)
