"""Evaluation: views → scores → metrics → a result in which the whole protocol is written down."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import torch
from lightning.fabric import Fabric
from torch import Tensor

from gesta.checkpoint import TrainedModel
from gesta.checkpoint.exported import ExportedNetwork, device_for
from gesta.checkpoint.formats import file_hash
from gesta.config import check, to_json
from gesta.data.batch import Batch, Failure
from gesta.data.frame_cache import FrameCache
from gesta.data.transforms import test_short_side
from gesta.errors import GestaError
from gesta.evaluation.health import PROBE_CLIPS, measure_health
from gesta.evaluation.result import Environment, ModelSource, Protocol, Remark, Result, Scores, json_hash
from gesta.evaluation.scoring import (
    VideoScores,
    check_average,
    named_classes,
    protocol,
    protocol_of,
    score_videos,
    view_loader,
    why_not_finite,
)
from gesta.model import ClipSpec, VideoModel, evaluating
from gesta.processes import Precision, describe_device, make_fabric
from gesta.progress import track
from gesta.recipe import EvaluateConfig
from gesta.records import (
    LABEL,
    ClassNames,
    DataConfig,
    Record,
    SplitName,
    by_space,
    classes_in,
    label_in,
    list_hash,
    segment_of,
)
from gesta.video.modality import in_words, modality_of


def evaluate(
    model: TrainedModel | VideoModel,
    data: DataConfig | Sequence[Record],
    *,
    views: EvaluateConfig | None = None,
    classes: ClassNames | None = None,
    split: Literal["val", "test"] | None = None,
    clips: int | None = None,
    crops: Literal[1, 3] | None = None,
    device: str | torch.device = "auto",
    precision: Precision = "32-true",
    fabric: Fabric | None = None,
    cache: FrameCache | None = None,
) -> Result:
    """Score videos and write down how.

    Several processes (torchrun) share the records; each video is scored exactly once, and none is added to make their
    numbers equal.

    Args:
        model: what :func:`gesta.load` gives, or a network; it is moved to the device, and its training mode is the same
            afterwards.
        data: a data set, whose split is then scored, or a list of records; unlabelled ones are scored, and left out of
            the metrics.
        views: the protocol, as of :func:`gesta.predict`; None for that of a trained model's run, or of a network the
            default one.
        classes: class names in label order, by label space if the model has several. None takes those of the trained
            model; of a network those of the data set, or ``"0"``, ``"1"`` … for a list of records.
        split, clips, crops: change these fields of the protocol. Of a list of records all are scored: the split is only
            what the result calls them.
        device: ``auto`` takes the first accelerator there is.
        precision: of the forward passes; the result names it.
        fabric: device, precision and processes of a training, instead of ``device`` and ``precision``.
        cache: of decoded frames; None reads those that are kept of a data set, if its field ``cache`` is ``auto``.

    Returns:
        The result, in every process.

    Raises:
        GestaError: no records, classes and labels that do not fit the model, or a device or precision that it cannot be
            computed with.
    """
    begin = time.monotonic()
    if fabric is not None and (device, precision) != ("auto", "32-true"):
        raise GestaError("fabric has a device and a precision: leave device and precision out")
    given = model.model if isinstance(model, TrainedModel) else model
    fabric = fabric or make_fabric(precision, device_for(given, device, precision))
    config = protocol(views or protocol_of(model), split=split, clips=clips, crops=crops)
    source = data if isinstance(data, DataConfig) else None
    records, classes = (
        records_of_split(model, data, config.split, classes) if isinstance(data, DataConfig) else (data, classes)
    )
    network, spaces = named_classes(model, classes)
    if not records:
        raise GestaError("there are no videos to evaluate: the list or split is empty; give another one")
    check_labels(records, spaces, network.config.multi_label)
    labels = {space: [_in_json(label_in(record, space)) for record in records] for space in spaces}
    check_average(network, config)
    if cache is None and source is not None and source.cache == "auto":
        cache = FrameCache()
    parts = _gather(_score(network, records, config, fabric, cache), fabric)
    result: Result | None = None
    if fabric.global_rank == 0:
        scored = _Scored.joined(parts, len(records))
        scores, failures = _scores(records, spaces, labels, scored, source, network)
        result = Result(
            metrics=scores.measure(config.average),
            model=model_source(network, model if isinstance(model, TrainedModel) else None),
            data=to_json(source) if source is not None else None,
            list_hash=list_hash(records),
            protocol=_protocol(config, network.config.clip, records),
            environment=environment(config.decoder, str(fabric.strategy.precision.precision), fabric.device),
            counts=scores.counts(len(scored.videos), sum(video.views for video in scored.videos.values())),
            failures=failures,
            partial=[Remark(index=f.index, name=f.name, reason=f.reason) for f in scored.partial],
            faults=scored.faults,
            input_differs=differing_input(model, records),
            seconds=round(time.monotonic() - begin, 2),
            scores=scores,
        )
    return cast(Result, fabric.broadcast(result))  # the first process made one


def records_of_split(
    model: TrainedModel | VideoModel, data: DataConfig, split: SplitName, classes: ClassNames | None
) -> tuple[Sequence[Record], ClassNames]:
    """What is scored of a data set, and its class names, which must be those of the model."""
    check(data, "the data set")
    records = data.records(split)
    if not records:
        raise GestaError(f"the data set has no split {split!r}; choose another with --evaluate.split")
    if classes is None:
        classes = model.classes if isinstance(model, TrainedModel) else data.classes()
    network = model.model if isinstance(model, TrainedModel) else model
    if network.config.multi_label != data.is_multi_label():
        kinds = "any number of classes", "one class in each label space"
        gives, has = kinds if network.config.multi_label else kinds[::-1]
        raise GestaError(
            f"the model gives a video {gives}, but in the data set a video has {has}: evaluate on data of the kind "
            "that it was trained on (lists of several labels per video are read with --data.multi-label True)"
        )
    if by_space(classes) != by_space(data.classes()):
        name = (model.name if isinstance(model, TrainedModel) else None) or "the model"
        raise GestaError(
            f"{name} knows {_sizes(classes)}, the data set has {_sizes(data.classes())}: evaluate on those it was "
            "trained on; for a list of some of them, give all in the model's order with --data.class-names "
            "RUN/labels.txt"
        )
    return records, classes


@dataclass
class _Scored:
    """Scores by position in the list of records, videos that could not be read, those that could only in part, and
    parts of the model that do nothing."""

    videos: dict[int, VideoScores] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    partial: list[Failure] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @classmethod
    def joined(cls, parts: Sequence[_Scored], listed: int) -> _Scored:
        """All of the processes' together, in the order of the list."""
        whole = cls(
            {index: video for part in parts for index, video in part.videos.items()},
            sorted(failure for part in parts for failure in part.failures),
            sorted(failure for part in parts for failure in part.partial),
            next((part.faults for part in parts if part.faults), []),
        )
        if sorted([*whole.videos, *(failure.index for failure in whole.failures)]) != list(range(listed)):
            raise RuntimeError("a video was lost or scored twice")  # a fault in the loader that no user could fix
        return whole


def _score(
    model: VideoModel, records: Sequence[Record], config: EvaluateConfig, fabric: Fabric, cache: FrameCache | None
) -> _Scored:
    """Score every ``world_size``-th video, this process's part of the list."""
    model.to(fabric.device)
    indices = list(range(fabric.global_rank, len(records), fabric.world_size))
    loader = view_loader(records, model.config.clip, config, indices, config.workers, cache)
    scored = _Scored()
    first: list[Tensor] = []  # a view of each of the first videos

    def readable() -> Iterator[Batch]:
        batches: Iterable[Batch] = track(loader, "evaluating") if fabric.global_rank == 0 else loader
        for batch in batches:
            scored.failures += batch["failures"]
            scored.partial += batch["partial"]
            first.extend(views[0] for views in batch["video"][: min(PROBE_CLIPS, config.batch_size) - len(first)])
            yield batch

    with evaluating(model):
        for video in score_videos(model, readable(), config, config.batch_size, fabric.device, fabric.autocast):
            scored.videos[video.index] = video
        if len(first) > 1 and not isinstance(model, ExportedNetwork):  # some parts compare clips
            with fabric.autocast():
                clips = model.clips_of(torch.stack(first).to(fabric.device))
                scored.faults = measure_health(model, clips).faults
    return scored


def _scores(
    records: Sequence[Record],
    spaces: dict[str, list[str]],
    labels: dict[str, list[int | list[int] | None]],
    scored: _Scored,
    data: DataConfig | None,
    model: VideoModel,
) -> tuple[Scores, list[Remark]]:
    """The scores of all videos, not measured yet, and the failures among them."""
    values: dict[str, list[list[float] | None]] = {space: [None] * len(records) for space in spaces}
    failures: list[Remark] = [
        {"index": f.index, "name": f.name, "reason": f.reason.removeprefix(f"{records[f.index].path}: ")}
        for f in scored.failures
    ]
    bad = {i for i, v in scored.videos.items() if not all(row.isfinite().all() for row in v.scores.values())}
    reason = why_not_finite(model) if bad else ""
    for index, video in scored.videos.items():
        if index in bad:
            failures.append({"index": index, "name": records[index].name, "reason": reason})
            continue
        for space, row in video.scores.items():
            values[space][index] = [float(f"{value:.7g}") for value in row.tolist()]
    failures.sort(key=lambda failure: failure["index"])
    names, multi_label = [record.name for record in records], model.config.multi_label
    segments = [segment_of(record) for record in records]
    scores = Scores(
        classes=spaces,
        names=names,
        labels=labels,
        values=values,
        multi_label=multi_label,
        segments=segments if any(segments) else [],
    )
    if data is not None:
        known = any(label is not None for column in labels.values() for label in column)
        scores.attributes = data.attributes() if known else {}
        scores.groups = data.groups(records)
    return scores, failures


def model_source(model: VideoModel, trained: TrainedModel | None) -> ModelSource:
    """Which model this is, for a result."""
    config = to_json(model.config)
    return ModelSource(
        summary=model.config.summary,
        config=config,
        config_sha256=json_hash(config),
        checkpoint=trained.name if trained else None,
        checkpoint_sha256=_hash_of_files(trained) if trained else None,
    )


def _hash_of_files(trained: TrainedModel) -> str | None:
    """The hash of a model's file; of weights whose head has a file of its own, a hash of those of both."""
    if trained.path is None or trained.head is None:
        return file_hash(trained.path) if trained.path else None
    return json_hash([file_hash(file) for file in (trained.path, trained.head)])


def is_of(model: ModelSource, weights: Path) -> bool:
    """Whether a result is of the weights that a file holds now: a training that goes on writes others into it."""
    return model.checkpoint_sha256 == file_hash(weights)


def _protocol(config: EvaluateConfig, clip: ClipSpec, records: Sequence[Record]) -> Protocol:
    return Protocol(
        split=config.split,
        clips=None if config.coverage == "contiguous" else config.clips,
        crops=config.crops,
        coverage=config.coverage,
        sampling=sampling_words(clip, records),
        short_videos=config.short_videos,
        short_side=test_short_side(config.short_side, clip.size),
        size=clip.size,
        average=config.average,
        squash=clip.squash,
    )


def environment(decoder: str, precision: str, device: torch.device) -> Environment:
    """The software and hardware of this process, for a result."""
    return Environment(
        decoder=f"{decoder} {importlib.metadata.version({'pyav': 'av'}.get(decoder, decoder))}",
        precision=precision,
        device=describe_device(device),
        torch=torch.__version__,
        gesta=importlib.metadata.version("gesta"),
    )


def _gather(part: _Scored, fabric: Fabric) -> list[_Scored]:
    """What each process has, in all of them; it differs in length, so objects and not tensors are sent."""
    if fabric.world_size == 1:
        return [part]
    gathered: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(gathered, part)
    return gathered


def _in_json(label: int | tuple[int, ...] | None) -> int | list[int] | None:
    return list(label) if isinstance(label, tuple) else label


def check_labels(records: Sequence[Record], spaces: dict[str, list[str]], multi_label: bool) -> None:
    """Refuse labels that are not those of the classes; ``spaces`` has their names by label space."""
    for space, names in spaces.items():
        for record in records:
            label = label_in(record, space)
            if label is not None and isinstance(label, tuple) is not multi_label:
                raise GestaError(
                    f"{record.name}: its label is {label}, but the model gives a video "
                    + ("any number of classes: give a tuple of them" if multi_label else "one class: give its number")
                )
            if not all(0 <= k < len(names) for k in classes_in(record, space)):
                raise GestaError(
                    f"{record.name}: label {label}, but the {len(names)} classes are numbered from 0; correct the list "
                    "(gesta data check shows all such labels)"
                )


def differing_input(model: TrainedModel | VideoModel, records: Sequence[Record]) -> str:
    """How the input of records differs from that which a model of one stream was trained on.

    Args:
        model: what it was trained on is not known of a network.
        records: what is scored.

    Returns:
        A sentence; empty if it does not differ, or that is not known.
    """
    if not isinstance(model, TrainedModel) or model.model.config.clip.streams:
        return ""
    trained, shown = in_words(model.shows), [in_words(record.shows) for record in records]
    is_cropped = any(record.masks for record in records)  # training shows those without masks whole, too
    cropping = {False: " in whole frames", True: " cropped to the person"} if is_cropped != model.person_crop else {}
    others = [what for what in shown if cropping or what != trained]
    if not others:
        return ""
    videos = "these videos" if len(others) == len(records) else f"{len(others)} of these {len(records)} videos"
    return (
        f"the model was trained on {trained}{cropping.get(model.person_crop, '')}, and {videos} show "
        f"{' and '.join(sorted(set(others)))}{cropping.get(is_cropped, '')}; for a result of what it was trained for, "
        "evaluate it on such videos"
    )


def sampling_words(clip: ClipSpec, records: Sequence[Record]) -> str:
    """The frames of a clip in the field's words, see :class:`gesta.evaluation.result.Protocol`."""
    present = {modality_of(stream.shows) for record in records for stream in record.streams}
    of = f" of {' and '.join(kind for kind in clip.streams if kind in present)}" if clip.streams else ""
    if clip.sampling == "uniform":
        return f"uniform {clip.frames}{of}"
    return f"dense {clip.frames}×{clip.stride}" + " or less" * clip.shrink + of


def _sizes(classes: ClassNames) -> str:
    return " and ".join(
        f"{len(names)} classes{'' if space == LABEL else f' of {space}'} ({', '.join(names[:3])} …)"
        for space, names in by_space(classes).items()
    )
