"""From the export of a labelling tool to a list of segments that trainings and evaluations read."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args
from urllib.parse import parse_qs, unquote, urlsplit

from gesta.config import parse_json, read_text
from gesta.curation.labels import activitynet, ava, cvat, fiftyone, label_studio, via
from gesta.curation.labels.export import Export, LabelledSegment
from gesta.data.listfile import csv_errors, finder_for_list, label_of, parse_entries
from gesta.data.locate import split_of
from gesta.errors import GestaError, VideoError
from gesta.files import check_not_read, make_folder, write_text
from gesta.progress import join_lines, track
from gesta.video.find import find_videos, without_suffix
from gesta.video.probe import VideoInfo, probe

ExportFormat = Literal["label-studio", "cvat", "via", "fiftyone", "activitynet", "ava"]

MAX_NAMED = 10
"""Videos of one kind that the summary names; the others are counted (``--json`` has them all)."""

_UPLOAD = re.compile(r"[0-9a-f]{8}-(?=.)")
"""What Label Studio puts before the name of an uploaded file."""

_ROUNDING_S = 1e-3
"""Seconds by which a segment may end after its video without being cut: times are written with so many digits."""


@dataclass
class ImportSummary:
    """The result of :func:`import_labels`.

    Attributes:
        out: the list that was written.
        format: of the export.
        segments: lines in the list.
        videos: videos that have some.
        classes: segments by class.
        left_out: what of the export is not in the list, in words, and how often.
        missing: videos of the export that are not below the folder of videos.
        unreadable: sentences about videos whose segments are left out because they cannot be read.
        notes: sentences about how the export was read.
    """

    out: str
    format: ExportFormat
    segments: int
    videos: int
    classes: dict[str, int]
    left_out: dict[str, int] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    to_json = asdict

    def __str__(self) -> str:
        lines = [f"{self.out}: {self.segments} segments of {self.videos} videos, from an export of {self.format}"]
        lines += [f"  {name}: {number}" for name, number in sorted(self.classes.items())]
        if self.left_out:
            lines += ["left out:", *(f"  {number} {what}" for what, number in self.left_out.items())]
        for why, names in (("are not among the videos", self.missing), ("cannot be read", self.unreadable)):
            lines += [f"left out with all of their segments, since they {why}:"] * bool(names)
            lines += [f"  {name}" for name in names[:MAX_NAMED]]
            lines += [f"  … and {len(names) - MAX_NAMED} more (--json lists all)"] * (len(names) > MAX_NAMED)
        return join_lines([*lines, *self.notes])


def import_labels(
    path: str,
    videos: str,
    out: str,
    *,
    format: ExportFormat | None = None,
    skip: Sequence[str] = (),
    frame_rate: str = "",
) -> ImportSummary:
    """Write the segments of an export as a list, ``path,label,start…,end…`` with a header.

    Paths are relative to the folder of the list. Times are ``start_time`` and ``end_time`` in seconds, or
    ``start_frame`` and ``end_frame``, where the format counts the frames of the video; a label of a whole video has
    none. Names in the export are looked up among the videos below a folder, by as many of their last parts as agree, so
    that no export can make another file be read. Of two names that find one file, that which agrees in more is of it,
    and the other video is missing.

    Segments that end after their video are cut at its end; those that begin there, those without length and repeated
    ones are left out, as are those of videos that are missing or cannot be read. The summary counts all of them.

    Args:
        path: the export.
        videos: folder of the videos.
        out: the list, a file that is neither read here nor named as JSON.
        format: of the export; None recognises it by its content.
        skip: names of what is no segment of time and may be left out: types of regions, attributes, columns, fields.
        frame_rate: of Label Studio's ``Video`` tag, or the field of its tasks that holds it.

    Raises:
        GestaError: a file that is not of the format, holds something that is neither a segment nor skipped, or names no
            video of the folder; a name that may be of several videos, or a video of several names; a name that a list
            cannot hold; nothing to write.
    """
    if out.lower().endswith((".json", ".jsonl")):
        raise GestaError(f"{out}: the list is CSV, and would be read as JSON; choose a name that ends in .csv")
    check_not_read(out, [path])
    export = Export(path, frozenset(skip), frame_rate)
    text = read_text(path, remedy="give the file that the labelling tool exported; unpack an archive first")
    known = format or _recognise(path, text)
    with csv_errors(path):
        _READERS[known](export, text)
    export.finish()
    located = _located(path, export.videos, _VideosBelow(videos))
    missing = [name for name, video in located.items() if video is None]
    if len(missing) == len(located):
        first = f", such as {missing[0]!r}" if missing else ""
        raise GestaError(f"{videos}: holds none of the {len(missing)} videos of {path}{first}; give their folder")
    by_video: dict[str, list[LabelledSegment]] = defaultdict(list)
    for segment in export.segments:
        if video := located[segment.video]:
            by_video[video].append(segment)
    check_not_read(out, filter(None, located.values()))
    without = len({video for video in located.values() if video} - by_video.keys())
    export.left_out["videos that have no segments"] += without
    unreadable: list[str] = []
    for video in track(list(by_video), "looking at videos"):
        by_video[video] = _inside(export, video, by_video[video], unreadable)
    kept = {video: segments for video, segments in by_video.items() if segments}
    lines = _list_text(path, out, kept)
    make_folder(Path(out).parent)
    write_text(out, lines)
    counts = Counter(segment.label for segments in kept.values() for segment in segments)
    overlaps = sum(_overlap(*pair) for segments in kept.values() for pair in pairwise(segments))
    if overlaps:
        export.notes.append(f"{overlaps} segments begin before the one before them ends")
    left_out = {what: number for what, number in export.left_out.items() if number}
    return ImportSummary(
        out, known, counts.total(), len(kept), dict(counts), left_out, missing, unreadable, export.notes
    )


# --- formats ---------------------------------------------------------------------------------------------------------


def _of_json(read: Callable[[Export, Any], None]) -> Callable[[Export, str], None]:
    return lambda export, text: read(export, parse_json(text, export.path))


def _read_label_studio(export: Export, text: str) -> None:
    is_json = text.lstrip().startswith(("[", "{"))
    (_of_json(label_studio.read_json) if is_json else label_studio.read_csv)(export, text)


_READERS: dict[ExportFormat, Callable[[Export, str], None]] = {
    "label-studio": _read_label_studio,
    "cvat": cvat.read,
    "via": _of_json(via.read),
    "fiftyone": _of_json(fiftyone.read),
    "activitynet": _of_json(activitynet.read),
    "ava": ava.read,
}


def _recognise(path: str, text: str) -> ExportFormat:
    """The format of an export, by its content."""
    start = text.lstrip()
    if start.startswith("<"):
        return "cvat"
    if start.startswith(("[", "{")):
        value = parse_json(text, path)
        keys: set[str] = set(value) if isinstance(value, dict) else set()
        if keys & {"_via_img_metadata", "_via_settings"}:
            raise GestaError(f"{path}: is a project of VIA 2, which has no segments of time; annotate with VIA 3")
        for names, format in _KEYS.items():
            if keys >= set(names):
                return format
        tasks = isinstance(value, list) and all(isinstance(item, dict) for item in value)
        if tasks and any("annotations" in item or "predictions" in item for item in value):
            return "label-studio"
    if "timelinelabels" in text:
        return "label-studio"
    first = next(csv.reader(start.split("\n")[:1]), [])
    if len(first) in ava.COLUMNS and all(re.fullmatch(r"[\d.]+", cell.strip()) for cell in first[1:6]):
        return "ava"
    raise GestaError(
        f"{path}: its format is not recognised; name it with --format ({', '.join(get_args(ExportFormat))}), or, if it "
        "is a list already, read it with gesta data list"
    )


_KEYS: dict[tuple[str, ...], ExportFormat] = {
    ("database",): "activitynet",
    ("results",): "activitynet",
    ("attribute", "file", "metadata", "view"): "via",
    ("samples",): "fiftyone",
    ("classes", "labels"): "fiftyone",
}
"""Keys by which a JSON object is known."""


# --- videos ----------------------------------------------------------------------------------------------------------


class _Found(NamedTuple):
    """A video below the folder, and how well its path agrees with the name in the export (the greater, the better)."""

    agreement: tuple[int, bool, bool]
    path: str


_NOT_FOUND = _Found((-1, False, False), "")


def _located(export: str, names: Iterable[str], finder: _VideosBelow) -> dict[str, str | None]:
    """The video of each name; None if it is not there, or is that of a name which agrees better with it.

    Raises:
        GestaError: nothing tells of which of two names a video is.
    """
    found = {name: finder.find(name) for name in names}
    parts = {name: _parts(_path_in(name)) for name in found}
    by_video: dict[str, list[str]] = defaultdict(list)
    for name, video in found.items():
        if video:
            by_video[video.path].append(name)
    located: dict[str, str | None] = dict.fromkeys(found)
    for path, rivals in by_video.items():
        best = max(rivals, key=lambda name: found[name] or _NOT_FOUND)
        for name in rivals:
            if parts[name] == parts[best]:  # perhaps written in another way
                located[name] = path
            elif found[name] == found[best]:
                raise GestaError(
                    f"{export}: {best!r} and {name!r} may both be {path}; put each video into a folder that the export "
                    "names, or leave one of them out of the export"
                )
    return located


class _VideosBelow:
    """Looks the videos of an export up among those below a folder, and nowhere else."""

    def __init__(self, folder: str) -> None:
        self._by_name: dict[str, list[tuple[str, list[str]]]] = defaultdict(list)
        for path in find_videos(folder):
            parts = _parts(path)
            for name in {parts[-1], without_suffix(parts[-1])}:
                self._by_name[name].append((path, parts))

    def find(self, name: str) -> _Found | None:
        """The video of a name, or None if it is not there.

        Raises:
            GestaError: it may be one of several.
        """
        parts = _parts(_path_in(name))
        uploaded = [*parts[:-1], _UPLOAD.sub("", parts[-1], count=1)] if parts else []
        for wanted in (parts, uploaded):
            if not wanted:
                continue
            candidates = self._by_name.get(wanted[-1]) or self._by_name.get(without_suffix(wanted[-1]), [])
            if not candidates:
                continue
            ranked = sorted(
                (_Found((*_agreeing(found, wanted), wanted is parts), path) for path, found in candidates), reverse=True
            )
            if len(ranked) > 1 and ranked[0].agreement == ranked[1].agreement:
                raise GestaError(
                    f"{name!r} may be {ranked[0].path} or {ranked[1].path}; give the folder of the one that was "
                    "labelled"
                )
            return ranked[0]
        return None


def _path_in(name: str) -> str:
    """The path in an address, or in one of Label Studio's local files (``/data/local-files/?d=folder/a.mp4``)."""
    name = name.replace("\\", "/")
    if name.startswith("/data/local-files/") or "://" in name:
        with contextlib.suppress(ValueError):  # no address, but a name that looks like one
            address = urlsplit(name)
            return parse_qs(address.query).get("d", [""])[0] or unquote(address.path)
    return name


def _parts(path: str) -> list[str]:
    parts = unicodedata.normalize("NFC", path.replace(os.sep, "/")).split("/")
    return [part for part in parts if part not in ("", ".", "..")]


def _agreeing(found: Sequence[str], wanted: Sequence[str]) -> tuple[int, bool]:
    """How many folders agree, from the last one backwards, and whether the names have the same suffix."""
    number = 0
    for one, other in zip(found[-2::-1], wanted[-2::-1]):
        if one != other:
            break
        number += 1
    return number, found[-1] == wanted[-1]


def _inside(
    export: Export, video: str, segments: Sequence[LabelledSegment], unreadable: list[str]
) -> list[LabelledSegment]:
    """The segments of a video in order, each once and cut at its end."""
    if all(segment.start is None for segment in segments):
        info = None
    else:
        try:
            info = probe(video)
        except VideoError as error:
            unreadable.append(str(error))
            return []
    kept: dict[LabelledSegment, None] = {}
    for segment in segments:
        if segment.start is not None and segment.end is not None and info is not None:
            end = _end_of(info, segment)
            if segment.start < 0 or segment.start >= end:
                export.left_out["segments outside of their video"] += 1
                continue
            if segment.end > end + (_ROUNDING_S if segment.unit == "seconds" else 0):
                export.left_out["ends of segments after the end of their video (cut there)"] += 1
            segment = replace(segment, start=segment.start, end=min(segment.end, end))
        segment = replace(segment, video=video)
        export.left_out["repeated segments"] += segment in kept
        kept[segment] = None
    return sorted(kept, key=lambda segment: (segment.start or 0, segment.end or 0))


def _end_of(info: VideoInfo, segment: LabelledSegment) -> float:
    """The end of a video in the unit of a segment."""
    if segment.unit == "frames":
        return info.frames
    if not info.duration:
        raise GestaError(
            f"{info.path}: is a folder of frames, which does not know seconds; give the video file in its place"
        )
    return info.start + info.duration


def _overlap(one: LabelledSegment, other: LabelledSegment) -> bool:
    return one.end is not None and other.start is not None and one.unit == other.unit and other.start < one.end


# --- the list --------------------------------------------------------------------------------------------------------


def _list_text(export: str, out: str, by_video: dict[str, list[LabelledSegment]]) -> str:
    """The list as CSV, proved to be read as these segments.

    Raises:
        GestaError: there are none, or a name or label that a list cannot hold.
    """
    segments = [segment for of_video in by_video.values() for segment in of_video]
    if not segments:
        raise GestaError(f"{out}: there are no segments to write; correct the export")
    units = {segment.unit for segment in segments if segment.start is not None}
    columns = [name for unit, names in _TIMES.items() if unit in units for name in names]
    splits = ["split"] if any(segment.split for segment in segments) else []
    if unknown := [segment for segment in segments if splits and split_of(segment.split) is None]:
        raise GestaError(
            f"{unknown[0].video}: its split is {unknown[0].split!r}; write train, val or test in the export"
        )
    buffer = io.StringIO()
    rows = csv.writer(buffer, lineterminator="\n")
    rows.writerow(["path", "label", *columns, *splits])
    folder = os.path.dirname(os.path.abspath(out))
    expected = []
    for segment in segments:
        path = os.path.relpath(segment.video, folder)
        start, end = segment.start, segment.end
        times = (
            {} if start is None or end is None else dict(zip(_TIMES[segment.unit], _written(segment.unit, start, end)))
        )
        rows.writerow([path, segment.label, *(times.get(name, "") for name in columns), *[segment.split] * len(splits)])
        expected.append((path, segment))
        if "\n" in path + segment.label:
            raise _cannot_hold(out, path, segment)
    text = buffer.getvalue()
    with csv_errors(out):
        try:
            entries = parse_entries(out, text, finder_for_list(out, ""))
        except GestaError as error:
            raise GestaError(f"{out}: would not be read as the segments of {export} ({error})") from None
    for (path, segment), entry in zip(expected, [*entries, *[None] * len(expected)]):
        if entry is None or (entry.path, str(label_of(entry, False))) != (path, segment.label):
            raise _cannot_hold(out, path, segment)
    if len({segment.label.isdecimal() for segment in segments}) > 1:
        raise GestaError(f"{out}: some labels are numbers and some names; write all in one way in the labelling tool")
    return text


def _cannot_hold(out: str, path: str, segment: LabelledSegment) -> GestaError:
    return GestaError(f"{out}: cannot hold the label {segment.label!r} of {path}; rename one of them")


_TIMES = {"seconds": ("start_time", "end_time"), "frames": ("start_frame", "end_frame")}


def _written(unit: str, start: float, end: float) -> tuple[str, str]:
    return (f"{start:.6f}", f"{end:.6f}") if unit == "seconds" else (f"{start:.0f}", f"{end:.0f}")
