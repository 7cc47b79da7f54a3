"""Strips of frames of a report: the most confident right and wrong predictions, as HTML."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

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


def strips(result: Result, data_root: str | Path | None) -> Iterator[str]:
    """Frames of the most confident hits, one per class, and of the most confident misses."""
    space = next(iter(result.scores.classes))
    names, labels = result.scores.classes[space], result.scores.labels[space]
    average: Any = result.protocol.average
    probabilities = {
        i: joint_probabilities({space: torch.tensor(row, dtype=torch.float64)}, [space], average)
        for i, row in enumerate(result.scores.values[space])
        if row is not None
    }
    # the most confident first
    order = sorted((i for i in probabilities if labels[i] is not None), key=lambda i: -float(probabilities[i].max()))
    if not order:
        return
    right = [i for i in order if int(probabilities[i].argmax()) == labels[i]]
    first_of_class = {labels[i]: i for i in reversed(right)}
    hits = [i for i in right if first_of_class[labels[i]] == i][:HITS]
    misses = [i for i in order if int(probabilities[i].argmax()) != labels[i]]
    try:
        records = _records(result, data_root)
    except GestaError as error:
        yield f'<p class="soft">No frames can be shown: {escape(str(error))}</p>'
        return
    if len(result.scores.classes) > 1:
        yield f"<p>Predictions of the label space {escape(space)}.</p>"
    for title, kind, shown in (
        ("Hits: the most confident of some classes", "hit", hits),
        (f"Misses: the most confident of {len(misses)}", "miss", misses[:MISSES]),
    ):
        if shown:
            yield f"<h3>{title}</h3>"
        for i in shown:
            label = labels[i] or 0
            yield (
                f'<div class="strip {kind}">{_frames(records[i])}<div><b>{escape(names[label])}</b> '
                f'<span class="soft">{escape(result.scores.names[i])}</span></div><div class="answers">'
                f"{_answers(probabilities[i], names, label)}</div></div>"
            )


def _answers(probabilities: torch.Tensor, names: Sequence[str], label: int) -> str:
    """The three most probable classes as bars, the right one ticked."""
    bars = ""
    for position, (name, probability) in enumerate(rank(probabilities, names, 3)):
        text = escape(name) + " ✓" * (name == names[label])
        width = max(100 * probability, 0.5)
        bar = f"<i class='bar {'other' if position else 'top'}' style='width:{width:.1f}%'></i>"
        bars += f"<div><span><span>{text}</span><span>{100 * probability:.1f} %</span></span>{bar}</div>"
    return bars


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


def _frames(record: Record) -> str:
    """An image of frames spread over a video; a sentence if it cannot be read."""

    def evenly_spaced(n: int) -> torch.Tensor:
        return torch.linspace(0, n - 1, FRAMES).round().long()

    try:
        frames = read_record(record, evenly_spaced, FRAME_HEIGHT)
    except VideoError as error:
        return f'<p class="soft">{escape(str(error))}</p>'
    frames = torch.nn.functional.pad(frames[..., :-2], (0, 2), value=255)  # a gap between frames
    strip = torch.cat(list(frames), dim=2).permute(1, 2, 0).numpy()
    file = io.BytesIO()
    image = Image.fromarray(strip)
    image.thumbnail((1600, FRAME_HEIGHT))  # frames of an upright video are higher than its short side
    image.save(file, format="JPEG", quality=80)
    code = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="{FRAMES} frames" width="{image.width}" src="data:image/jpeg;base64,{code}">'
