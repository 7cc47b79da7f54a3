"""Predicted segments as pre-annotations, which Label Studio imports and ``gesta data import`` reads back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import numpy as np

from gesta.curation.labels.label_studio import RATE, VIDEO, regions
from gesta.errors import GestaError, VideoError, without_passwords
from gesta.prediction.prediction import Prediction
from gesta.video.clock import FALLBACK_FPS
from gesta.video.probe import probe


@dataclass(frozen=True, slots=True)
class TaskNames:
    """What tasks say besides the segments.

    Attributes:
        url_prefix: what Label Studio needs before the path of a video to open it, such as
            ``/data/local-files/?d=videos/``; the path behind it is then quoted as in an address.
        model_version: which model it was.
        rates: video as predictions name it → frames per second, see :func:`frame_rates`; others are looked at.
    """

    url_prefix: str = ""
    model_version: str = "gesta"
    rates: Mapping[str, float] = field(default_factory=dict)


def frame_rates(paths: Iterable[str]) -> dict[str, float]:
    """Frames per second of the videos that can be opened, by their names in predictions.

    They are asked for before anything is predicted: at the end an address lacks its password, and a video may be gone.
    """
    rates: dict[str, float] = {}
    for path in paths:
        with contextlib.suppress(VideoError):  # its prediction will say so
            rates[without_passwords(path)] = probe(path).fps or FALLBACK_FPS
    return rates


def tasks(predictions: Iterable[Prediction], names: TaskNames) -> Iterator[dict[str, Any]]:
    """A task for each video that has segments, in the order in which the first of each comes.

    Segments are regions of ``TimelineLabels`` in frames of the video's own rate, which the task's field ``fps`` holds
    for ``<Video frameRate="$fps">``. The score of a region is the probability of its class, that of the task's
    prediction their mean.

    Raises:
        GestaError: a prediction without times.
        VideoError: a video that cannot be opened for its frame rate.
    """
    by_video: dict[str, list[tuple[float, float, str, float]]] = {}
    for p in predictions:
        if p.error and not p.labels:
            continue
        if p.start is None or p.end is None:
            raise GestaError("pre-annotations need times: ask for the timeline too (--timeline), or take csv or json")
        by_video.setdefault(p.path, []).append((p.start, p.end, *p.labels[0]))
    for path, segments in by_video.items():
        rate = names.rates.get(path) or probe(path).fps or FALLBACK_FPS
        address = names.url_prefix + quote(path, errors="surrogateescape") if names.url_prefix else path
        prediction = {
            "model_version": names.model_version,
            "score": round(float(np.mean([segment[3] for segment in segments])), 6),
            "result": list(regions(iter(sorted(segments)), rate)),
        }
        yield {"data": {VIDEO: address, RATE: rate}, "predictions": [prediction]}
