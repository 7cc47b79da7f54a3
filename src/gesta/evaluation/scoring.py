"""From views to scores, for evaluation and prediction alike: forward passes, softmax or sigmoid, mean over views, joint
label spaces."""

from __future__ import annotations

import contextlib
import itertools
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gesta.checkpoint import TrainedModel
from gesta.checkpoint.formats import check_finite
from gesta.config import check, from_json, read_json, replace
from gesta.data.batch import Batch
from gesta.data.frame_cache import FrameCache
from gesta.data.loader import Loader, test_loader
from gesta.data.samples import TestViews
from gesta.errors import CheckpointError, GestaError
from gesta.evaluation.metrics import Average
from gesta.model import ClipSpec, Scores, VideoModel
from gesta.processes import Autocast
from gesta.recipe import EvaluateConfig
from gesta.records import LABEL, ClassNames, Record, by_space, single_class


@dataclass(frozen=True, slots=True)
class VideoScores:
    """The scores of one video.

    Attributes:
        index: its position in the list of records.
        scores: by label space ``(K,)`` float64 on the CPU, the mean over its views.
        views: how many there were.
    """

    index: int
    scores: dict[str, Tensor]
    views: int


def named_classes(
    model: TrainedModel | VideoModel, classes: ClassNames | None = None
) -> tuple[VideoModel, dict[str, list[str]]]:
    """A model's network and its class names by label space, checked against its classifier.

    Of a model of a single class a warning says that it has only one answer.

    Args:
        model: what was trained, or a network.
        classes: class names in label order; None takes those of the trained model, or ``"0"``, ``"1"`` … for a network.

    Raises:
        GestaError: a model without a classifier, or names that do not fit it.
    """
    network = model.model if isinstance(model, TrainedModel) else model
    sizes = by_space(network.config.classes)
    if not all(sizes.values()):
        raise GestaError("this model gives features, not classes (classes=0): train a classifier first")
    if classes is None and isinstance(model, TrainedModel):
        classes = model.classes
    if classes is None:
        return network, {space: [str(index) for index in range(size)] for space, size in sizes.items()}
    spaces = {space: list(names) for space, names in by_space(classes).items()}
    given = {space: len(names) for space, names in spaces.items()}
    if given != sizes:
        raise GestaError(
            f"there are names for {_counts(given)}, but the model has {_counts(sizes)}: give the class names that it "
            "was trained with"
        )
    if not network.config.multi_label and (remark := single_class(spaces)):
        warnings.warn(remark, stacklevel=3)
    return network, spaces


def protocol(config: EvaluateConfig | None, **changes: Any) -> EvaluateConfig:
    """How views are taken: a protocol (None: the default one) with those fields changed that are not None."""
    changed = replace(config or EvaluateConfig(), **{n: value for n, value in changes.items() if value is not None})
    check(changed, "the protocol")
    return changed


def protocol_of(model: TrainedModel | VideoModel) -> EvaluateConfig:
    """The protocol by which the run of a trained model is evaluated, as its file says; of others the default one.

    Raises:
        GestaError: a file whose protocol is none.
    """
    if not isinstance(model, TrainedModel):
        return EvaluateConfig()
    saved, source = model.metadata.get("protocol"), model.path or ""
    recipe = Path(source).parent / "recipe.json"
    if saved is None and model.path and model.metadata and recipe.is_file():  # of files that do not say it yet
        saved, source = read_json(recipe, dict[str, Any], remedy="fix it").get("evaluate"), str(recipe)
    return saved_protocol(saved, source) if saved else EvaluateConfig()


def saved_protocol(saved: dict[str, Any], source: str) -> EvaluateConfig:
    """The protocol that a file of a model holds, but for what suits a machine and changes no score: a file that was
    given chooses neither worker processes nor the library that decodes.

    Args:
        saved: as the file holds it.
        source: the file, for messages.

    Raises:
        GestaError: what it holds is no protocol.
    """
    config, usual = from_json(saved, EvaluateConfig, source=f"{source}: its protocol"), EvaluateConfig()
    return replace(config, batch_size=usual.batch_size, workers=usual.workers, decoder=usual.decoder)


def prediction_protocol(model: TrainedModel | VideoModel, **changes: Any) -> EvaluateConfig:
    """How videos are shown to a model that predicts: in four clips with one crop of each, at the scale of its run's
    evaluation, with its average, and short videos as there.

    Args:
        model: see :func:`protocol_of`.
        changes: fields with other values; None changes nothing.

    Raises:
        GestaError: a value that a field cannot have, or a file whose protocol is none.
    """
    own = protocol_of(model)
    # windows of a timeline and exported files have no tokens that could be joined
    average = "probabilities" if own.average == "tokens" else own.average
    views = EvaluateConfig(clips=4, short_side=own.short_side, average=average, short_videos=own.short_videos)
    return protocol(views, **changes)


def _counts(sizes: dict[str, int]) -> str:
    return ", ".join(f"{n} {'classes' if space == LABEL else f'classes of {space}'}" for space, n in sizes.items())


def view_loader(
    records: Sequence[Record],
    clip: ClipSpec,
    config: EvaluateConfig,
    indices: Sequence[int],
    workers: int,
    cache: FrameCache | None = None,
) -> Loader:
    """Loads the views of the records at ``indices``, in this order, as the model expects them.

    As many videos together as fill a forward pass, if all have as many views; -1 ``workers`` are as many as suit the
    CPU cores.
    """
    together = 1 if config.coverage == "contiguous" else max(1, config.batch_size // (config.clips * config.crops))
    views = TestViews(records, clip, config)
    views.cache = cache
    return test_loader(views, indices, together, workers)


def views_per_pass(batch_size: int, device: torch.device) -> int:
    """Views per forward pass in prediction: on a CPU 2 at most, as more are hardly faster and take memory."""
    return min(batch_size, 2) if device.type == "cpu" else batch_size


@torch.inference_mode()
def score_views(
    model: VideoModel,
    views: Tensor,
    average: Average,
    device: torch.device,
    autocast: Autocast = contextlib.nullcontext,
) -> dict[str, Tensor]:
    """One forward pass.

    Args:
        model: in evaluation mode, on ``device``.
        views: ``(V, T, C, H, W)`` uint8.
        average: whether scores are ``logits``, or probabilities.
        device: of the model.
        autocast: gives the context in which the model runs in another precision.

    Returns:
        By label space ``(V, K)`` float64 on the CPU.
    """
    with autocast():
        scores = model(model.clips_of(views.to(device, non_blocking=True)))
    return _as_averaged(scores, average, model.config.multi_label)


def _as_averaged(scores: Scores, average: Average, multi_label: bool) -> dict[str, Tensor]:
    """What is averaged, by label space ``(V, K)`` float64 on the CPU."""
    spaces = {space: values.float() for space, values in by_space(scores).items()}
    if average != "logits":
        spaces = {space: as_probabilities(logits, multi_label) for space, logits in spaces.items()}
    return {space: values.cpu().double() for space, values in spaces.items()}


def score_videos(
    model: VideoModel,
    batches: Iterable[Batch],
    config: EvaluateConfig,
    batch_size: int,
    device: torch.device,
    autocast: Autocast = contextlib.nullcontext,
) -> Iterator[VideoScores]:
    """The mean scores of each video, as soon as all of its views have been through the model, in order.

    Args:
        model: in evaluation mode, on ``device``.
        batches: videos of any numbers of views.
        config: what is averaged over a video's views, and how many of them are crops of one clip.
        batch_size: views per forward pass: a video of many is spread over several, videos of few share one.
        device, autocast: as of :func:`score_views`.
    """
    average = config.average
    if average == "tokens":
        yield from _score_joined(model, batches, config.crops, batch_size, device, autocast)
        return
    sums: dict[str, Tensor] = {}
    count = 0
    for views, owners in passes(batches, batch_size):
        scores = score_views(model, views, average, device, autocast)
        for row, (index, is_last) in enumerate(owners):
            sums = {space: sums.get(space, 0.0) + values[row] for space, values in scores.items()}
            count += 1
            if is_last:
                yield VideoScores(index, {space: total / count for space, total in sums.items()}, count)
                sums, count = {}, 0


@torch.inference_mode()
def _score_joined(
    model: VideoModel,
    batches: Iterable[Batch],
    crops: int,
    batch_size: int,
    device: torch.device,
    autocast: Autocast,
) -> Iterator[VideoScores]:
    """As :func:`score_videos`; the attentive head reads the tokens of all clips of a crop at once."""
    tokens: list[Tensor] = []  # of the views of one video
    for views, owners in passes(batches, batch_size):
        with autocast():
            rows = model.read_tokens(model.clips_of(views.to(device, non_blocking=True)))
        for row, (index, is_last) in zip(rows, owners):
            tokens.append(row)
            if is_last:
                with autocast():
                    scores = model.score_tokens(join_tokens(torch.stack(tokens), crops))
                means = {
                    space: values.mean(0)
                    for space, values in _as_averaged(scores, "tokens", model.config.multi_label).items()
                }
                yield VideoScores(index, means, len(tokens))
                tokens = []


def join_tokens(views: Tensor, crops: int) -> Tensor:
    """The tokens of a video's clips one after the other, for each crop (V-JEPA 2, Assran et al. 2025).

    Args:
        views: tokens ``(clips * crops, N, C)`` of all views, clip by clip.
        crops: of each clip.

    Returns:
        ``(crops, clips * N, C)``.
    """
    return views.unflatten(0, (-1, crops)).transpose(0, 1).flatten(1, 2)


def check_average(model: VideoModel, config: EvaluateConfig) -> None:
    """Refuse a protocol that joins tokens for a model that reads none.

    Raises:
        GestaError: naming the field.
    """
    if config.average == "tokens" and model.attentive is None:
        raise GestaError(
            "evaluate.average is 'tokens', and the model has no attentive head to read joined tokens; leave it at "
            "'probabilities'"
        )


def passes(batches: Iterable[Batch], size: int) -> Iterator[tuple[Tensor, list[tuple[int, bool]]]]:
    """Cut and join videos into forward passes.

    Yields:
        Views ``(size, T, C, H, W)``, and for each the index of its record and whether it is the last view of it.
    """
    views: list[Tensor] = []
    owners: list[tuple[int, bool]] = []
    for batch in batches:
        for video, index in zip(batch["video"], batch["index"].tolist()):
            views.append(video)
            owners += [(index, view == len(video) - 1) for view in range(len(video))]
        if len(owners) >= size:
            waiting = torch.cat(views)
            while len(owners) >= size:
                yield waiting[:size], owners[:size]
                waiting, owners = waiting[size:], owners[size:]
            views = [waiting]
    if owners:
        yield torch.cat(views), owners


# --- several label spaces as one -------------------------------------------------------------------------------------


def joint_names(spaces: dict[str, list[str]]) -> list[str]:
    """Names of all combinations of the classes ("open door"), in the order of :func:`joint_probabilities`."""
    return [" ".join(parts) for parts in itertools.product(*spaces.values())]


def as_probabilities(logits: Tensor, multi_label: bool) -> Tensor:
    """Logits ``(…, K)`` → probabilities: of one class per video, or of each class by itself."""
    return logits.sigmoid() if multi_label else logits.softmax(-1)


def joint_probabilities(
    scores: dict[str, Tensor], spaces: Iterable[str], average: Average, multi_label: bool
) -> Tensor:
    """Scores ``(K,)`` of each label space → probabilities of all combinations, ``(product of K,)`` float32.

    Label spaces are taken as independent, so their probabilities multiply. Multi-label scores have one label space.
    """
    joint = torch.ones(1, dtype=torch.float64)
    for space in spaces:
        probabilities = as_probabilities(scores[space], multi_label) if average == "logits" else scores[space]
        joint = torch.outer(joint, probabilities).flatten()
    return joint.float()


def why_not_finite(model: VideoModel) -> str:
    """Why scores are not finite numbers: which weights are not, or that none is at fault."""
    try:
        check_finite(model.state_dict(), "the model")
    except CheckpointError as error:
        return f"the model's scores are not finite numbers: {error}"
    return "the model's scores are not finite numbers; use a wider precision, or weights of a training that went well"


def rank(
    probabilities: Tensor, names: Sequence[str], top: int, threshold: float = 0.0
) -> tuple[tuple[str, float], ...]:
    """The ``top`` most probable of the named classes that reach the threshold, best first."""
    values, indices = probabilities.topk(min(top, len(probabilities)))
    ranked = zip(indices.tolist(), values.tolist())
    return tuple((names[i], value) for i, value in ranked if value >= threshold)
