"""FiftyOne: ``FiftyOneTemporalDetectionDataset`` (``labels.json``) and ``FiftyOneDataset`` (``samples.json``).

From its documentation: a temporal detection has a ``support``, its first and last frame, which count from 1 and are
both included, or ``timestamps`` in seconds. In ``labels.json`` videos are named without their suffix, and labels may
be numbers into ``classes``.
"""

from __future__ import annotations

from typing import Any

from gesta.curation.labels.export import Export

_DETECTION = frozenset({"label", "support", "timestamps", "confidence", "_id", "_cls", "id"})
_SAMPLE = frozenset(
    {"filepath", "_id", "id", "_cls", "tags", "metadata", "media_type", "_media_type", "_rand", "frames"}
)
_SAMPLE |= {"created_at", "last_modified_at", "_dataset_id"}


def read(export: Export, value: Any) -> None:
    """Segments of either file."""
    value = export.mapping(value, "the whole file")
    if "samples" in value:
        for number, sample in enumerate(export.objects(value["samples"], "samples"), 1):
            _read_sample(export, sample, f"sample {number}")
        return
    classes = value.get("classes")
    for video, detections in export.mapping(value.get("labels"), "labels").items():
        export.videos.setdefault(video)
        for detection in export.objects(detections, f"labels of {video}"):
            _read_detection(export, video, detection, classes)


def _read_sample(export: Export, sample: dict[str, Any], where: str) -> None:
    video = sample.get("filepath")
    if not isinstance(video, str):
        export.fail(f"{where} has no filepath", "export again from FiftyOne")
    export.videos.setdefault(video)
    if sample.get("frames"):
        export.other("frames", "labels of frames")
    for name, value in sample.items():
        kind = value.get("_cls") if isinstance(value, dict) else None
        if name in export.skip and name not in _SAMPLE and value:
            export.other(name, f"fields {name!r} of samples")
        elif kind in ("TemporalDetections", "TemporalDetection"):
            detections = value.get("detections") if kind == "TemporalDetections" else [value]
            for detection in export.objects(detections, f"{name} of {where}"):
                _read_detection(export, video, detection, None)
        elif kind == "Classification" and value.get("label") is not None:
            export.add(video, value["label"])
        elif name not in _SAMPLE and value not in (None, "", [], {}):
            export.other(name, f"fields {name!r} of samples")


def _read_detection(export: Export, video: str, detection: dict[str, Any], classes: Any) -> None:
    label, where = detection.get("label"), f"a detection of {video}"
    if isinstance(label, int) and isinstance(classes, list):
        if not 0 <= label < len(classes):
            export.fail(f"{where} has the label {label}, of {len(classes)} classes", "export again from FiftyOne")
        label = classes[label]
    export.known(detection, _DETECTION, "detections")
    export.left_out["confidences of detections"] += detection.get("confidence") is not None
    support, seconds = detection.get("support"), detection.get("timestamps")
    if (support is None) == (seconds is None):
        export.fail(
            f"{where} has {'neither' if support is None else 'both'} support and timestamps", "give one of them"
        )
    if support is not None:
        first, last = export.span(support, f"the support of {where}")
        if not export.is_empty(first - 1, last):
            export.add(video, label, first - 1, last, "frames")
    else:
        start, end = export.span(seconds, f"the timestamps of {where}")
        if not export.is_empty(start, end):
            export.add(video, label, start, end)
