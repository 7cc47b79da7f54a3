"""Evaluation: views → scores → metrics → a result in which the whole protocol is written down."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor

from gesta.config import to_json
from gesta.data.batch import Batch, Failure
from gesta.errors import GestaError
from gesta.evaluation.metrics import measure_parts, measure_spaces
from gesta.evaluation.result import Result as Result
from gesta.model import ClipSpec, ModelConfig, VideoModel
from gesta.progress import track
from gesta.recipe import EvaluateConfig
from gesta.records import DataConfig, Record


def evaluate(
    model: VideoModel,
    records: Sequence[Record],
    classes: list[str] | dict[str, list[str]],
    config: EvaluateConfig,
    *,
    fabric: Fabric | None = None,
    checkpoint: str | None = None,
    data: DataConfig | None = None,
) -> Result | None:
    """Score videos and write down how.

    Several processes (torchrun) share the records; each video is scored exactly once, and none is added to make the
    shares equal.

    Args:
        model: it is moved to the device; its training mode is the same afterwards.
        records: the list; unlabelled ones are scored, and left out of the metrics.
        classes: class names in label order, by label space if the model has several.
        config: the protocol.
        fabric: device, precision and processes; None takes the first accelerator at full precision.
        checkpoint: file of the weights, for the result.
        data: where the records came from, for the result.

    Returns:
        The result; None in all processes but the first.

    Raises:
        GestaError: no records, or classes and labels that do not fit the model.
    """
    from gesta.checkpoint import file_hash
    from gesta.data.transforms import test_short_side
    from gesta.processes import make_fabric
    from gesta.records import label_in, list_hash

    begin = time.monotonic()
    model = getattr(model, "module", model)  # out of wrappers for several processes, whose forward waits for the others
    spaces = classes if isinstance(classes, dict) else {"label": classes}
    labels = {space: [label_in(record, space) for record in records] for space in spaces}
    _check(model.config, config, records, spaces, labels)
    fabric = fabric or make_fabric()
    gathered = _gather(_score_videos(model, records, config, fabric), fabric)
    if fabric.global_rank > 0:
        return None

    found = {index: video for part, _, _ in gathered for index, video in part.items()}
    failures = [failure for _, part, _ in gathered for failure in part]
    partial = sorted(failure for _, _, part in gathered for failure in part)
    if sorted([*found, *(failure.index for failure in failures)]) != list(range(len(records))):
        raise RuntimeError("a video was lost or scored twice")  # a fault in the loader, nothing that a user could mend
    scores: dict[str, list[list[float] | None]] = {space: [None] * len(records) for space in spaces}
    for index, video in found.items():
        for space, values in video.scores.items():
            scores[space][index] = [float(f"{value:.7g}") for value in values]
    failed = [
        {"index": f.index, "name": f.name, "reason": f.reason.removeprefix(f"{records[f.index].path}: ")}
        for f in failures
    ]
    for index, video in found.items():
        if not all(np.isfinite(values).all() for values in video.scores.values()):
            failed.append({"index": index, "name": records[index].name, "reason": "the model's scores are not finite"})
            for column in scores.values():
                column[index] = None

    metrics, per_class, confusion = measure_spaces(scores, labels, spaces, config.average)
    some = any(label is not None for column in labels.values() for label in column)
    attributes = data.attributes() if data is not None and some else {}
    groups = data.groups(records) if data is not None else {}
    metrics |= measure_parts(scores, labels, config.average, attributes, groups)
    clip = model.config.clip
    model_json = to_json(model.config)
    return Result(
        metrics=metrics,
        gesta=importlib.metadata.version("gesta"),
        model=_model_words(model.config),
        model_hash=_hash(model_json),
        model_config=model_json,
        checkpoint=checkpoint,
        checkpoint_sha256=file_hash(checkpoint) if checkpoint else None,
        data=to_json(data) if data is not None else None,
        split=config.split,
        list_hash=list_hash(records),
        listed=len(records),
        labelled=sum(any(column[i] is not None for column in labels.values()) for i in range(len(records))),
        decoded=len(found),
        scored=len(records) - len(failed),
        failed=len(failed),
        failures=sorted(failed, key=lambda failure: failure["index"]),
        views=_views(config) | {"total": sum(video.views for video in found.values())},
        sampling=_sampling(clip, records),
        coverage=config.coverage,
        short_side=test_short_side(config.short_side, clip.size),
        size=clip.size,
        short_videos=config.short_videos,
        average=config.average,
        decoder=f"{config.decoder} {importlib.metadata.version({'pyav': 'av'}.get(config.decoder, config.decoder))}",
        precision=str(fabric.strategy.precision.precision),
        device=_device_words(fabric.device),
        torch=torch.__version__,
        classes=spaces,
        names=[record.name for record in records],
        labels=labels,
        scores=scores,
        per_class=per_class,
        confusion=confusion,
        seconds=round(time.monotonic() - begin, 2),
        attributes=attributes,
        groups=groups,
        partial=[failure._asdict() for failure in partial],
    )


@dataclass
class _Video:
    """Scores of one video by label space, averaged over its views."""

    scores: dict[str, np.ndarray]
    views: int


def _score_videos(
    model: VideoModel, records: Sequence[Record], config: EvaluateConfig, fabric: Fabric
) -> tuple[dict[int, _Video], list[Failure], list[Failure]]:
    """This process's share of the videos: scores by index, what could not be read, and what could only in part."""
    from gesta.data.loader import test_loader
    from gesta.data.samples import TestViews
    from gesta.model import to_clips

    model.to(fabric.device)
    dtype = next(model.parameters()).dtype
    indices = list(range(fabric.global_rank, len(records), fabric.world_size))
    together = 1 if config.coverage == "contiguous" else max(1, config.batch_size // (config.clips * config.crops))
    loader = test_loader(TestViews(records, model.config.clip, config), indices, together, config.workers)
    failures: list[Failure] = []
    partial: list[Failure] = []
    videos: dict[int, _Video] = {}
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.inference_mode():
            batches: Iterable[Batch] = track(loader, "evaluating") if fabric.global_rank == 0 else loader
            for views, owners in _passes(batches, config.batch_size, failures, partial):
                with fabric.autocast():
                    scores = model(to_clips(views[None].to(fabric.device, non_blocking=True), model.config.clip, dtype))
                for space, values in (scores if isinstance(scores, dict) else {"label": scores}).items():
                    values = values.float() if config.average == "logits" else values.float().softmax(-1)
                    for owner, view in zip(owners, values.cpu().double().numpy()):
                        video = videos.setdefault(owner, _Video({}, 0))
                        video.scores[space] = video.scores.get(space, 0.0) + view
                for owner in owners:
                    videos[owner].views += 1
    finally:
        for module in training:
            module.training = True
    for video in videos.values():
        video.scores = {space: total / video.views for space, total in video.scores.items()}
    return videos, failures, partial


def _passes(
    batches: Iterable[Batch], size: int, failures: list[Failure], partial: list[Failure]
) -> Iterator[tuple[Tensor, list[int]]]:
    """Cut and join videos into forward passes: views ``(size, T, C, H, W)`` and the record index of each.

    A video with many views is spread over several passes, several with few share one; failures are noted on the way.
    """
    views: list[Tensor] = []
    owners: list[int] = []
    for batch in batches:
        failures += batch["failures"]
        partial += batch["partial"]
        for video, index in zip(batch["video"], batch["index"].tolist()):
            views.append(video)
            owners += [index] * len(video)
        if len(owners) >= size:
            waiting = torch.cat(views)
            while len(owners) >= size:
                yield waiting[:size], owners[:size]
                waiting, owners = waiting[size:], owners[size:]
            views = [waiting]
    if owners:
        yield torch.cat(views), owners


def _gather(mine: Any, fabric: Fabric) -> list[Any]:
    """What every process has, in the first one; shares differ in length, so objects and not tensors are sent."""
    if fabric.world_size == 1:
        return [mine]
    gathered = [None] * fabric.world_size
    torch.distributed.all_gather_object(gathered, mine)
    return gathered


def _check(
    model: ModelConfig,
    config: EvaluateConfig,
    records: Sequence[Record],
    spaces: dict[str, list[str]],
    labels: dict[str, list[int | None]],
) -> None:
    if not records:
        raise GestaError("there are no videos to evaluate: the list or split is empty")
    if min(config.clips, config.batch_size) < 1:
        raise GestaError("evaluate.clips and evaluate.batch_size must be at least 1")
    expected = model.classes if isinstance(model.classes, dict) else {"label": model.classes}
    if {space: len(names) for space, names in spaces.items()} != expected:
        raise GestaError(
            f"the model answers with {expected}, the class names are { ({s: len(n) for s, n in spaces.items()}) }: "
            "evaluate on the classes that it was trained on"
        )
    for space, column in labels.items():
        for record, label in zip(records, column):
            if label is not None and not 0 <= label < len(spaces[space]):
                raise GestaError(
                    f"{record.name}: label {label}, but the {len(spaces[space])} classes are numbered from 0; "
                    "mend the list (gesta data check shows all such labels)"
                )


def _views(config: EvaluateConfig) -> dict[str, Any]:
    crops = f"{config.crops} crop" + "s" * (config.crops > 1)
    if config.coverage == "contiguous":
        return {"clips": None, "crops": config.crops, "text": f"whole video × {crops}"}
    text = f"{config.clips} clip" + "s" * (config.clips > 1) + f" × {crops}"
    return {"clips": config.clips, "crops": config.crops, "text": text}


def _sampling(clip: ClipSpec, records: Sequence[Record]) -> str:
    there = {"depth" if stream.depth else "rgb" for record in records for stream in record.streams}
    of = f" of {' and '.join(kind for kind in clip.streams if kind in there)}" if clip.streams else ""
    if clip.sampling == "uniform":
        return f"uniform {clip.frames}{of}"
    return f"dense {clip.frames}×{clip.stride}" + " or less" * clip.shrink + of


def _model_words(model: ModelConfig) -> str:
    plugins = [f"{type(insert.layer).__name__}[{insert.at}]" for insert in model.inserts]
    return " + ".join([type(model).__name__.removesuffix("Config"), *plugins])


def _device_words(device: torch.device) -> str:
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
