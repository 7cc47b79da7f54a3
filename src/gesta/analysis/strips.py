"""What a model got right and wrong, to look at: frames of the surest hits and misses, as HTML."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from html import escape
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from gesta.config import from_json, replace
from gesta.data.samples import read_record
from gesta.errors import GestaError, VideoError
from gesta.evaluation.result import Result
from gesta.records import DataConfig, Record

HITS, MISSES = 6, 12
"""Strips of frames that are shown at most."""
FRAMES, FRAME_HEIGHT = 8, 96
"""Frames of a strip, and their height in pixels."""


def strips(result: Result, data_root: str | Path | None) -> Iterator[str]:
    """Frames of the surest hits, one per class, and of the surest misses."""
    space = next(iter(result.classes))
    names, labels = result.classes[space], result.labels[space]
    sure = {i: _shares(scores, result.average) for i, scores in enumerate(result.scores[space]) if scores is not None}
    order = sorted((i for i in sure if labels[i] is not None), key=lambda i: -float(sure[i].max()))
    hits = {labels[i]: i for i in reversed(order) if int(sure[i].argmax()) == labels[i]}  # the surest of each class
    misses = [i for i in order if int(sure[i].argmax()) != labels[i]]
    if not order:
        return
    try:
        records = _records(result, data_root)
    except GestaError as error:
        yield f'<p class="soft">No frames can be shown: {escape(str(error))}</p>'
        return
    if len(result.classes) > 1:
        yield f"<p>Answers of the label space {escape(space)}.</p>"
    for title, kind, some in (
        ("Hits: the surest of some classes", "hit", sorted(hits.values(), key=lambda i: -float(sure[i].max()))[:HITS]),
        (f"Misses: the surest of {len(misses)}", "miss", misses[:MISSES]),
    ):
        if some:
            yield f"<h3>{title}</h3>"
        for i in some:
            answers = ""
            for rank, k in enumerate(np.argsort(-sure[i], kind="stable")[:3].tolist()):
                share = 100 * float(sure[i][k])
                name = escape(names[k]) + " ✓" * (k == labels[i])
                bar = f"<i class='bar {'rest' if rank else 'top'}' style='width:{max(share, 0.5):.1f}%'></i>"
                answers += f"<div><span><span>{name}</span><span>{share:.1f} %</span></span>{bar}</div>"
            truth = escape(names[labels[i] or 0])
            yield (
                f'<div class="strip {kind}">{_frames(records[i])}<div><b>{truth}</b> '
                f'<span class="soft">{escape(result.names[i])}</span></div><div class="answers">{answers}</div></div>'
            )


def _shares(scores: list[float], average: str) -> np.ndarray:
    values = np.asarray(scores)
    if average == "probabilities":
        return values
    powers = np.exp(values - values.max())
    return powers / powers.sum()


def _records(result: Result, data_root: str | Path | None) -> list[Record]:
    """The evaluated list, built again from the data set's configuration."""
    if result.data is None:
        raise GestaError("the result does not say which data set was evaluated")
    data: DataConfig = from_json(result.data, source="the result")
    if data_root is not None:
        data = replace(data, root=str(data_root))
    records = data.records(result.split)  # type: ignore[arg-type]
    if [record.name for record in records] != result.names:
        raise GestaError("the data set now holds other videos than the evaluated ones")
    return records


def _frames(record: Record) -> str:
    """An image of frames spread over a video; a sentence if it cannot be read."""

    def spread(n: int) -> torch.Tensor:
        return torch.linspace(0, n - 1, FRAMES).round().long()

    try:
        frames = read_record(record, spread, FRAME_HEIGHT)
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
