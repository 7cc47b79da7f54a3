"""The features of the views of each video, loaded as in evaluation."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from gesta.data.batch import Batch
from gesta.data.loader import Loader
from gesta.evaluation.scoring import passes, view_loader, views_per_pass, why_not_finite
from gesta.model import VideoModel
from gesta.prediction.background import in_background, reading_workers
from gesta.processes import Autocast
from gesta.recipe import EvaluateConfig
from gesta.records import Record

FeatureKind = Literal["pooled", "mean", "tokens", "read"]
"""What is kept of a view: ``pooled`` is what the classifier takes (:meth:`gesta.model.VideoModel.embed`), ``(D,)``;
``mean`` the mean of the last feature map over time and space, ``(C,)``; ``tokens`` that map, ``(C, T, H, W)``; ``read``
the tokens that an attentive probe reads, ``(N, C)``."""


@dataclass(frozen=True, slots=True)
class VideoFeatures:
    """The features of one video.

    Attributes:
        index: its position in the list of records.
        values: ``(V, …)`` on the CPU, a row for each view in the order of the evaluation (clip by clip), see
            :data:`FeatureKind`; None if there are none.
        error: why there are none, or that the end of the video is missing; empty if all went well.
        times: of windows, their beginning and end in seconds.
    """

    index: int
    values: Tensor | None
    error: str = ""
    times: list[list[float]] | None = None


@torch.inference_mode()
def features_of(
    model: VideoModel, clips: Tensor, kind: FeatureKind = "pooled", autocast: Autocast = contextlib.nullcontext
) -> Tensor:
    """Clips ``(B, C, T, H, W)`` to features ``(B, …)`` float32; the model is in evaluation mode, on their device."""
    with autocast():
        if kind in ("pooled", "read"):
            return (model.embed(clips) if kind == "pooled" else model.read_tokens(clips)).float()
        grid = model.to_grid(model.forward_features(clips))
        return (grid.mean((2, 3, 4)) if kind == "mean" else grid).float()


def extract(
    model: VideoModel,
    records: Sequence[Record],
    views: EvaluateConfig,
    *,
    kind: FeatureKind = "pooled",
    device: torch.device,
    indices: Sequence[int] | None = None,
    autocast: Autocast = contextlib.nullcontext,
) -> Iterator[VideoFeatures]:
    """The features of the views of each record, in the order of ``indices``, each as soon as it is known.

    Args:
        model: is moved to ``device`` and put into evaluation mode.
        records: videos, or segments of them.
        views: which views, how many at once, worker processes and decoder, as in evaluation.
        kind: what is kept of a view.
        device: where the model runs.
        indices: of the records that are wanted; None for all.
        autocast: the context of another precision.
    """
    indices = range(len(records)) if indices is None else indices
    workers = reading_workers(views.workers, len(indices))
    loader = view_loader(records, model.config.clip, views, indices, workers)
    how: dict[str, Any] = {"kind": kind, "batch_size": views.batch_size, "device": device, "autocast": autocast}
    return extract_loaded(model, loader, **how)


def extract_loaded(
    model: VideoModel,
    loader: Loader,
    *,
    kind: FeatureKind,
    batch_size: int,
    device: torch.device,
    autocast: Autocast = contextlib.nullcontext,
) -> Iterator[VideoFeatures]:
    """As :func:`extract`, of the batches of a loader, with at most ``batch_size`` views in a forward pass."""
    model.to(device).eval()
    size = views_per_pass(batch_size, device)

    def compute(views: Tensor) -> Tensor:
        clips = model.clips_of(views.to(device, non_blocking=True))
        return features_of(model, clips, kind, autocast).cpu()

    for batch in in_background(loader, size=2):
        done = {failure.index: VideoFeatures(failure.index, None, failure.reason) for failure in batch["failures"]}
        broken = {failure.index: failure.reason for failure in batch["partial"]}
        for index, rows in _by_video([batch], size, compute):
            if rows.isfinite().all():
                done[index] = VideoFeatures(index, rows, broken.get(index, ""))
            else:
                done[index] = VideoFeatures(index, None, why_not_finite(model).replace("scores", "features", 1))
        yield from (done[index] for index in sorted(done))


def _by_video(batches: Iterable[Batch], size: int, compute: Callable[[Tensor], Tensor]) -> Iterator[tuple[int, Tensor]]:
    """Index and features ``(V, …)`` of each video as soon as all of its views have been through the model."""
    rows: list[Tensor] = []
    for views, owners in passes(batches, size):
        for row, (index, is_last) in zip(compute(views), owners):
            rows.append(row)
            if is_last:
                yield index, torch.stack(rows)
                rows = []
