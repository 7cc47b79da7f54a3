"""Strips of frames of a report: the most confident right and wrong predictions."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image

from gesta.config import from_json, replace
from gesta.data.samples import read_record
from gesta.errors import GestaError, VideoError
from gesta.evaluation.result import Result
from gesta.evaluation.scoring import joint_probabilities, rank
from gesta.records import DataConfig, Record

HITS, MISSES = 6, 12
"""Strips of frames that are shown at most."""
FRAMES, FRAME_HEIGHT = 8, 96
"""Frames of a strip, and their height in pixels."""


class Strip(NamedTuple):
    """Frames of a video as a JPEG in base64 and their width in pixels, or why there are none; and its best answers."""

    video: str
    labels: list[str]
    answers: list[tuple[str, float]]
    jpeg: str = ""
    width: int = 0
    problem: str = ""


class Strips(NamedTuple):
    """A remark, and strips under a headline: title, kind (``hit`` or ``miss``), strips."""

    note: str = ""
    groups: Sequence[tuple[str, str, list[Strip]]] = ()


def strips(result: Result, data_root: str | Path | None) -> Strips | None:
    """Frames of the most confident hits, one per class, and of the most confident misses; None without labels."""
    space = next(iter(result.scores.classes))
    names, labels = result.scores.classes[space], result.scores.labels[space]
    average, multi_label = result.protocol.average, result.scores.multi_label
    probabilities = {
        i: joint_probabilities({space: torch.tensor(row, dtype=torch.float64)}, [space], average, multi_label)
        for i, row in enumerate(result.scores.values[space])
        if row is not None
    }
    # the most confident first
    order = sorted((i for i in probabilities if labels[i] is not None), key=lambda i: -float(probabilities[i].max()))
    if not order:
        return None
    is_right = result.scores.right(space, average)
    right = [i for i in order if is_right[i]]
    first_of_class = {str(labels[i]): i for i in reversed(right)}
    hits = [i for i in right if first_of_class[str(labels[i])] == i][:HITS]
    misses = [i for i in order if not is_right[i]]
    try:
        records = _records(result, data_root)
    except GestaError as error:
        return Strips(f"No frames can be shown: {error}")

    def strip(i: int) -> Strip:
        label = labels[i]
        classes = label if isinstance(label, list) else [label or 0]
        answers = rank(probabilities[i], names, max(3, len(classes)))
        shown = Strip(result.scores.names[i], [names[k] for k in classes], list(answers))
        return _with_frames(shown, records[i])

    return Strips(
        f"Predictions of the label space {space}." if len(result.scores.classes) > 1 else "",
        [
            ("Hits: the most confident of some classes", "hit", [strip(i) for i in hits]),
            (f"Misses: the most confident of {len(misses)}", "miss", [strip(i) for i in misses[:MISSES]]),
        ],
    )


def _records(result: Result, data_root: str | Path | None) -> list[Record]:
    """The evaluated list, built again from the data set's configuration."""
    if result.data is None:
        raise GestaError("the result does not say which data set was evaluated")
    data: DataConfig = from_json(result.data, DataConfig, source="the result")
    if data_root is not None:
        data = replace(data, root=str(data_root))
    records = data.records(result.protocol.split)  # type: ignore[arg-type]
    if [record.name for record in records] != result.scores.names:
        raise GestaError("the data set now holds other videos than the evaluated ones")
    return records


def _with_frames(strip: Strip, record: Record) -> Strip:
    """The strip with frames spread over its video, or with a sentence if it cannot be read."""

    def evenly_spaced(n: int) -> torch.Tensor:
        return torch.linspace(0, n - 1, FRAMES).round().long()

    try:
        frames = read_record(record, evenly_spaced, FRAME_HEIGHT)
    except VideoError as error:
        return strip._replace(problem=str(error))
    frames = torch.nn.functional.pad(frames[..., :-2], (0, 2), value=255)  # a gap between frames
    image = Image.fromarray(torch.cat(list(frames), dim=2).permute(1, 2, 0).numpy())
    image.thumbnail((1600, FRAME_HEIGHT))  # frames of an upright video are higher than its short side
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=80)
    return strip._replace(jpeg=base64.b64encode(file.getvalue()).decode(), width=image.width)
