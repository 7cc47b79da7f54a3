"""Label Studio: its exports JSON, JSON-MIN and CSV, and its pre-annotations.

From its documentation and the code of its machine-learning backend: a region of ``TimelineLabels`` has the type
``timelinelabels`` and ``ranges`` of frames, which count from 1 and include the last one. Frames are those of the
``frameRate`` of the ``Video`` tag: Label Studio takes the time that has passed, times this number, for the frame. The
number is not in the export, and it need not be that of the video, so it has to be given, and segments become seconds.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from gesta.config import parse_json
from gesta.curation.labels.export import Export, looks_like_video

CONTROL, VIDEO, RATE = "actions", "video", "fps"
"""Names in the pre-annotations that gesta writes: of the ``TimelineLabels`` and of the ``Video`` in the labelling
configuration, and of the task's field that holds the frame rate."""

_REGION = frozenset({"id", "type", "value", "from_name", "to_name", "origin", "score", "original_length", "readonly"})
_REGION |= {"hidden", "parentID"}
_BOOKKEEPING = frozenset({"id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time"})


def read_json(export: Export, tasks: Any) -> None:
    """Segments of a JSON export, of JSON-MIN, or of a file of pre-annotations (tasks without annotations)."""
    rows = export.objects(tasks, "the whole file")
    if any("annotations" in task or "predictions" in task for task in rows):
        for number, task in enumerate(rows, 1):
            _read_task(export, task, f"task {task.get('id', number)}")
    else:
        _read_rows(export, [(f"entry {number}", row) for number, row in enumerate(rows, 1)])


def read_csv(export: Export, text: str) -> None:
    """Segments of a CSV export, whose cells are text or JSON."""
    rows = []
    for number, row in enumerate(csv.DictReader(io.StringIO(text, newline=""), strict=True), 2):
        cells: dict[str, Any] = {}
        for name, cell in row.items():
            if name is None or cell is None:
                export.fail(f"line {number} has another number of cells than the header", "correct its quotes")
            is_json = cell.startswith(("[", "{"))
            cells[name] = parse_json(cell, f"{export.path}, line {number}, column {name}") if is_json else cell
        rows.append((f"line {number}", cells))
    _read_rows(export, rows)


def _read_task(export: Export, task: dict[str, Any], where: str) -> None:
    data = export.mapping(task.get("data"), f"data of {where}")
    annotations = export.objects(task.get("annotations"), f"annotations of {where}")
    predictions = export.objects(task.get("predictions"), f"predictions of {where}")
    kept = [annotation for annotation in annotations if not annotation.get("was_cancelled")]
    export.left_out["annotations that were cancelled (skipped tasks)"] += len(annotations) - len(kept)
    if "annotations" not in task:
        kept = predictions
    elif predictions:
        export.left_out["predictions beside annotations"] += len(predictions)
    export.left_out["drafts that were not submitted"] += len(task.get("drafts") or [])
    truth = [annotation for annotation in kept if annotation.get("ground_truth")]
    if len(kept) > 1 and len(truth) != 1:
        export.fail(
            f"{where} has {len(kept)} annotations", "mark one of them as ground truth in Label Studio, or delete others"
        )
    video = _video(export, data, where)
    for region in export.objects((truth or kept or [{}])[0].get("result"), f"result of {where}"):
        _read_region(export, video, region, data, where)


def _video(export: Export, fields: dict[str, Any], where: str) -> str:
    """The video that a task is about; other fields are noted, but for those that tell rows apart."""
    videos = [name for name, value in fields.items() if looks_like_video(value)]
    if len(videos) > 1 and VIDEO in videos:
        videos = [VIDEO]
    if len(videos) != 1:
        names = ", ".join(videos or fields)
        export.fail(
            f"{where} names {'several videos' if videos else 'no video'} in its fields ({names})",
            "keep one field that ends like a video's name, or call it video",
        )
    export.videos.setdefault(fields[videos[0]])
    return str(fields[videos[0]])


def _read_region(export: Export, video: str, region: dict[str, Any], data: dict[str, Any], where: str) -> None:
    kind, value = region.get("type"), export.mapping(region.get("value"), f"a region's value of {where}")
    if isinstance(region.get("meta"), dict) and region["meta"]:
        export.left_out["comments on regions (meta)"] += 1
    export.known({key: item for key, item in region.items() if key != "meta"}, _REGION, "regions")
    if kind == "timelinelabels":
        _read_ranges(export, video, value, data, where)
    elif kind == "labels" and {"start", "end", "labels"} <= value.keys():
        export.known(value, frozenset({"start", "end", "labels", "channel"}), "segments")
        start, end = export.span([value["start"], value["end"]], f"a segment of {where}")
        if not export.is_empty(start, end):
            for label in _labels(export, value["labels"], where):
                export.add(video, label, start, end)
    elif kind == "choices" and value.keys() == {"choices"}:
        for label in _labels(export, value["choices"], where):
            export.add(video, label)
    else:
        name = str(kind) if kind != "choices" else "choices of regions"
        export.other(name, f"regions of the type {name!r}")


def _read_ranges(export: Export, video: str, value: dict[str, Any], data: dict[str, Any], where: str) -> None:
    """``{"ranges": [{"start": 3, "end": 5}], "timelinelabels": ["wave"]}``."""
    export.known(value, frozenset({"ranges", "timelinelabels"}), "segments")
    rate = _rate(export, data, where)
    for part in export.objects(value.get("ranges"), f"the ranges of {where}"):
        export.known(part, frozenset({"start", "end"}), "ranges")
        first, last = export.span([part.get("start"), part.get("end")], f"a range of {where}")
        if not export.is_empty(first - 1, last):
            for label in _labels(export, value.get("timelinelabels"), where):
                export.add(video, label, (first - 1) / rate, last / rate)


def _labels(export: Export, value: Any, where: str) -> list[str]:
    if not isinstance(value, list) or not value:
        export.fail(f"a region of {where} has no label", "give it one in Label Studio")
    return value


def _rate(export: Export, data: dict[str, Any], where: str) -> float:
    """Frames per second of the ``Video`` tag: a number, or the name of a field of the tasks."""
    export.frame_rate_used = True
    if not export.frame_rate:
        export.fail(
            "counts frames by the frameRate of the Video tag in Label Studio's labelling configuration",
            "give that number with --frame-rate (24 by default), or the name of the field of tasks that holds it",
        )
    try:
        rate = float(data.get(export.frame_rate, export.frame_rate))
    except (TypeError, ValueError):
        export.fail(f"{where} has no number in a field {export.frame_rate!r}", "give --frame-rate a number")
    if not 0 < rate < 1e6:
        export.fail(f"{where}: {rate} frames per second are impossible", "correct --frame-rate")
    return rate


def _read_rows(export: Export, rows: list[tuple[str, dict[str, Any]]]) -> None:
    """Entries of JSON-MIN or lines of CSV, one per task."""
    tasks: dict[Any, str] = {}
    for where, row in rows:
        if (number := row.get("id")) is not None and number in tasks:
            export.fail(
                f"{tasks[number]} and {where} are annotations of one task ({number})",
                "export JSON with one of them marked as ground truth, or delete the others",
            )
        tasks[number] = where
        _read_row(export, row, where)


def _read_row(export: Export, row: dict[str, Any], where: str) -> None:
    """An entry of JSON-MIN or CSV: each control of the labelling configuration is a column, with all of its regions."""
    video = _video(export, row, where)
    for name, value in row.items():
        if name in _BOOKKEEPING or value == video or name == export.frame_rate:
            continue
        if isinstance(value, list) and all(isinstance(item, dict) for item in value):
            for item in value:
                kind = "timelinelabels" if "timelinelabels" in item else "labels" if "labels" in item else name
                _read_region(export, video, {"type": kind, "value": item}, row, where)
        elif value not in (None, "", [], {}):
            export.other(name, f"values in the column {name!r}")


def regions(segments: Iterator[tuple[float, float, str, float]], rate: float) -> Iterator[dict[str, Any]]:
    """Regions of a prediction in the format of pre-annotations.

    Args:
        segments: start and end in seconds, name of the class and its probability.
        rate: frames per second of the ``Video`` tag; times are rounded to its frames, and no segment to less than one.
    """
    for number, (start, end, label, probability) in enumerate(segments, 1):
        first = round(start * rate) + 1
        yield {
            "id": f"gesta-{number}",
            "from_name": CONTROL,
            "to_name": VIDEO,
            "type": "timelinelabels",
            "value": {"ranges": [{"start": first, "end": max(first, round(end * rate))}], "timelinelabels": [label]},
            "score": round(probability, 6),
        }
