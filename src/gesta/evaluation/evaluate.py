"""Evaluation: views → scores → metrics → a result in which the whole protocol is written down."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from lightning.fabric import Fabric

from gesta.checkpoint import TrainedModel, file_hash
from gesta.config import to_json
from gesta.data.batch import Batch, Failure
from gesta.data.loader import test_loader
from gesta.data.samples import TestViews
from gesta.data.transforms import test_short_side
from gesta.errors import GestaError
from gesta.evaluation.metrics import measure_parts, measure_spaces
from gesta.evaluation.result import Result
from gesta.evaluation.scoring import VideoScores, named_classes, protocol, score_videos
from gesta.model import ClipSpec, VideoModel, evaluating
from gesta.processes import make_fabric
from gesta.progress import track
from gesta.recipe import EvaluateConfig
from gesta.records import LABEL, ClassNames, DataConfig, Record, by_space, label_in, list_hash


def evaluate(
    model: TrainedModel | VideoModel,
    data: DataConfig | Sequence[Record],
    *,
    config: EvaluateConfig | None = None,
    classes: ClassNames | None = None,
    split: Literal["val", "test"] | None = None,
    clips: int | None = None,
    crops: Literal[1, 3] | None = None,
    fabric: Fabric | None = None,
) -> Result:
    """Score videos and write down how.

    Several processes (torchrun) share the records; each video is scored exactly once, and none is added to make their
    numbers equal.

    Args:
        model: what :func:`gesta.load` gives, or a network; it is moved to the device, and its training mode is the same
            afterwards.
        data: a data set, whose split is then scored, or a list of records; unlabelled ones are scored, and left out of
            the metrics.
        config: the protocol; None for the default one.
        classes: class names in label order, by label space if the model has several. None takes those of the trained
            model; of a network those of the data set, or ``"0"``, ``"1"`` … for a list of records.
        split, clips, crops: change these fields of the protocol.
        fabric: device, precision and processes; None takes the first accelerator at full precision.

    Returns:
        The result, in every process.

    Raises:
        GestaError: no records, or classes and labels that do not fit the model.
    """
    begin = time.monotonic()
    config = protocol(config, split=split, clips=clips, crops=crops)
    records, classes = _records(model, data, config, classes)
    network, spaces = named_classes(model, classes)
    labels = {space: [label_in(record, space) for record in records] for space in spaces}
    _check(config, records, spaces, labels)
    fabric = fabric or make_fabric()
    parts = _gather(_score(network, records, config, fabric), fabric)
    result: Result | None = None
    if fabric.global_rank == 0:
        checkpoint = model.path if isinstance(model, TrainedModel) else None
        scored = _Scored.joined(parts, len(records))
        source = data if isinstance(data, DataConfig) else None
        result = _result(network, records, config, fabric, spaces, labels, scored, checkpoint, source)
        result.seconds = round(time.monotonic() - begin, 2)
    return cast(Result, fabric.broadcast(result))  # the first process made one


def _records(
    model: TrainedModel | VideoModel,
    data: DataConfig | Sequence[Record],
    config: EvaluateConfig,
    classes: ClassNames | None,
) -> tuple[Sequence[Record], ClassNames | None]:
    """What is scored, and its class names if any are known; a data set must have those of the model."""
    if not isinstance(data, DataConfig):
        return data, classes
    records = data.records(config.split)
    if not records:
        raise GestaError(f"the data set has no split {config.split!r}; choose another with --evaluate.split")
    if classes is None:
        classes = model.classes if isinstance(model, TrainedModel) else data.classes()
    if by_space(classes) != by_space(data.classes()):
        name = (model.path if isinstance(model, TrainedModel) else None) or "the model"
        raise GestaError(
            f"{name} knows {_some(classes)}, the data set has {_some(data.classes())}: evaluate on those it was "
            "trained on"
        )
    return records, classes


@dataclass
class _Scored:
    """What one process made of its videos, or all of them together.

    Attributes:
        videos: scores by position in the list of records.
        failures: videos that could not be read; ``partial`` could only in part.
    """

    videos: dict[int, VideoScores]
    failures: list[Failure]
    partial: list[Failure]

    @classmethod
    def joined(cls, parts: Sequence[_Scored], listed: int) -> _Scored:
        """All of the processes' together, in the order of the list."""
        whole = cls(
            {index: video for part in parts for index, video in part.videos.items()},
            sorted(failure for part in parts for failure in part.failures),
            sorted(failure for part in parts for failure in part.partial),
        )
        if sorted([*whole.videos, *(failure.index for failure in whole.failures)]) != list(range(listed)):
            raise RuntimeError("a video was lost or scored twice")  # a fault in the loader that no user could fix
        return whole


def _score(model: VideoModel, records: Sequence[Record], config: EvaluateConfig, fabric: Fabric) -> _Scored:
    """Score every ``world_size``-th video, this process's part of the list."""
    model.to(fabric.device)
    indices = list(range(fabric.global_rank, len(records), fabric.world_size))
    together = 1 if config.coverage == "contiguous" else max(1, config.batch_size // (config.clips * config.crops))
    loader = test_loader(TestViews(records, model.config.clip, config), indices, together, config.workers)
    scored = _Scored({}, [], [])

    def readable() -> Iterator[Batch]:
        batches: Iterable[Batch] = track(loader, "evaluating") if fabric.global_rank == 0 else loader
        for batch in batches:
            scored.failures += batch["failures"]
            scored.partial += batch["partial"]
            yield batch

    with evaluating(model):
        for video in score_videos(model, readable(), config.average, config.batch_size, fabric.device, fabric.autocast):
            scored.videos[video.index] = video
    return scored


def _result(
    model: VideoModel,
    records: Sequence[Record],
    config: EvaluateConfig,
    fabric: Fabric,
    spaces: dict[str, list[str]],
    labels: dict[str, list[int | None]],
    scored: _Scored,
    checkpoint: str | None,
    data: DataConfig | None,
) -> Result:
    scores: dict[str, list[list[float] | None]] = {space: [None] * len(records) for space in spaces}
    for index, video in scored.videos.items():
        for space, values in video.scores.items():
            scores[space][index] = [float(f"{value:.7g}") for value in values.tolist()]
    failed = [
        {"index": f.index, "name": f.name, "reason": f.reason.removeprefix(f"{records[f.index].path}: ")}
        for f in scored.failures
    ]
    for index, video in scored.videos.items():
        if not all(values.isfinite().all() for values in video.scores.values()):
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
        model=model.config.summary,
        model_hash=_hash(model_json),
        model_config=model_json,
        checkpoint=checkpoint,
        checkpoint_sha256=file_hash(checkpoint) if checkpoint else None,
        data=to_json(data) if data is not None else None,
        split=config.split,
        list_hash=list_hash(records),
        listed=len(records),
        labelled=sum(any(column[i] is not None for column in labels.values()) for i in range(len(records))),
        decoded=len(scored.videos),
        scored=len(records) - len(failed),
        failed=len(failed),
        failures=sorted(failed, key=lambda failure: failure["index"]),
        views=_views(config) | {"total": sum(video.views for video in scored.videos.values())},
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
        seconds=0.0,
        attributes=attributes,
        groups=groups,
        partial=[failure._asdict() for failure in scored.partial],
    )


def _gather(mine: Any, fabric: Fabric) -> list[Any]:
    """What every process has, in the first one; shares differ in length, so objects and not tensors are sent."""
    if fabric.world_size == 1:
        return [mine]
    gathered = [None] * fabric.world_size
    torch.distributed.all_gather_object(gathered, mine)
    return gathered


def _check(
    config: EvaluateConfig,
    records: Sequence[Record],
    spaces: dict[str, list[str]],
    labels: dict[str, list[int | None]],
) -> None:
    if not records:
        raise GestaError("there are no videos to evaluate: the list or split is empty")
    if min(config.clips, config.batch_size) < 1:
        raise GestaError("evaluate.clips and evaluate.batch_size must be at least 1")
    for space, column in labels.items():
        for record, label in zip(records, column):
            if label is not None and not 0 <= label < len(spaces[space]):
                raise GestaError(
                    f"{record.name}: label {label}, but the {len(spaces[space])} classes are numbered from 0; "
                    "correct the list (gesta data check shows all such labels)"
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


def _device_words(device: torch.device) -> str:
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type


def _some(classes: ClassNames) -> str:
    return " and ".join(
        f"{len(names)} classes{'' if space == LABEL else f' of {space}'} ({', '.join(names[:3])} …)"
        for space, names in by_space(classes).items()
    )


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
