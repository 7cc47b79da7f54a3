"""ActivityNet: ``database`` of videos with ``annotations``, or ``results`` of predictions; segments in seconds."""

from __future__ import annotations

from typing import Any

from gesta.curation.labels.export import Export

_VIDEO = frozenset(
    {"annotations", "subset", "duration", "resolution", "url", "duration_second", "duration_frame", "fps"}
)
"""Fields of a video that are used, or that the video itself tells."""


def read(export: Export, value: Any) -> None:
    """Segments of all videos; their subset becomes the split."""
    value = export.mapping(value, "the whole file")
    if "database" not in value:
        export.notes.append("these are results, and their scores are not used")
        for video, items in export.mapping(value.get("results"), "results").items():
            _read_annotations(export, video, items, "")
        return
    for video, item in export.mapping(value["database"], "database").items():
        item = export.mapping(item, f"video {video}")
        export.known(item, _VIDEO, "videos")
        _read_annotations(export, video, item.get("annotations"), str(item.get("subset") or ""))


def _read_annotations(export: Export, video: str, items: Any, split: str) -> None:
    export.videos.setdefault(video)
    for item in export.objects(items, f"annotations of {video}"):
        export.known(item, frozenset({"segment", "label", "score"}), "annotations")
        start, end = export.span(item.get("segment"), f"a segment of {video}")
        if not export.is_empty(start, end):
            export.add(video, item.get("label"), start, end, split=split)
