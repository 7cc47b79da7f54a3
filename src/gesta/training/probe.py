"""Probes: classifiers on the features of a backbone that is not trained, of which the best becomes its classifier.

Features of all videos are computed once and kept in a folder whose name is a hash of the backbone's weights and the
views (:mod:`gesta.features.folder`), so that another training of probes on the same videos begins at once. All probes
see the same batches. The model file of the run is an ordinary one.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import itertools
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn, optim

from gesta.checkpoint import read_metadata, save_model
from gesta.data.locate import by_video, hold_out
from gesta.data.samples import seeded_generator
from gesta.errors import GestaError
from gesta.evaluation.metrics import Average, headline, headline_name, measure_spaces
from gesta.evaluation.scoring import as_probabilities, join_tokens
from gesta.features.compute import FeatureReport, compute_missing
from gesta.features.extract import FeatureKind, extract
from gesta.features.folder import FeatureFolder, describe, source_hash
from gesta.files import lock_folder, remove_parts
from gesta.model import Classifier, Scores, VideoModel
from gesta.processes import describe_device, limit_threads, make_fabric
from gesta.progress import show
from gesta.recipe import EvaluateConfig, ProbeConfig, Recipe, TrainConfig
from gesta.records import ClassNames, Record, SplitName, by_space, labels_in
from gesta.training.folder import (
    BEST,
    OpenedRun,
    check_space,
    is_among,
    open_run,
    videos_hash,
    write_recipe,
    write_result,
)
from gesta.training.log import RunLog
from gesta.training.loggers import loggers, new_wandb_id
from gesta.training.loss import class_loss, loss_weights
from gesta.training.setup import Data, build_model, read_data
from gesta.video.archive import cache_folder


def train_probe(
    recipe: Recipe,
    run: Path,
    *,
    resume: bool,
    quiet: bool,
    device: str | torch.device,
    trust_code: bool,
    stack: ExitStack,
) -> None:
    """Train probes and evaluate the best; arguments and errors as of :func:`gesta.training.loop.train`.

    Args:
        recipe: is changed: its model gets as many classes as the data has.
        stack: unlocks the run folder and closes the log when it ends.
    """
    assert recipe.probe is not None
    fabric = make_fabric(recipe.train.precision, device)
    if fabric.world_size > 1:
        raise GestaError("probes are trained by one process: start it without torchrun")
    limit_threads(fabric.device, recipe.evaluate.workers)
    data = read_data(recipe)
    train, val, remark = split_for_probes(data, recipe)
    is_trained = (run / BEST).exists()
    model, start = build_model(recipe, data.classes, start=not is_trained)
    if not recipe.init.weights:
        start = (
            "the backbone has random weights, so that probes see features of noise: give a run folder or a checkpoint "
            "in which it is trained by --init.weights"
        )
    model.eval()
    if type(model.classifier) is not Classifier:
        raise GestaError(f"{type(model).__name__} has a classifier of its own kind, which no probe can replace")
    folder = _feature_folder(model, recipe)
    # until here nothing was written, so a mistake in the recipe leaves no folder behind
    opened = open_run(run, recipe, resume, stack)
    _check_changes(run, opened, is_trained)
    videos = videos_hash(data.records)
    if is_trained and read_metadata(run / BEST).get("notes", {}).get("videos", videos) != videos:
        raise GestaError(
            f"{run}: the list of training videos is not the one that its probes were trained on, or the files have "
            "other sizes; restore them, or start another run in another folder: the features are kept"
        )
    if is_trained and opened.evaluated and not opened.changes:
        if not quiet:
            show(f"{run}: all probes are trained and the best is evaluated; nothing is left to resume", sys.stderr)
        return
    check_space(run, sum(value.nbytes for value in model.state_dict().values()), 0)
    openers = {} if is_trained else loggers(recipe, run, wandb_id=new_wandb_id(recipe.train.logger))
    written = run / "log.jsonl"
    keep = written.stat().st_size if is_trained and written.exists() else 0  # a run may be copied without it
    log = RunLog(run, keep=keep, loggers=openers, quiet=quiet)
    stack.enter_context(contextlib.closing(log))
    if not is_trained:
        write_recipe(run, recipe, data.classes)
    log.start(
        {
            "step": 0,
            "device": describe_device(fabric.device),
            "processes": 1,
            "precision": str(fabric.strategy.precision.precision),
            "changes": list(opened.changes.values()),
        }
    )
    for sentence in filter(None, [*data.remarks, *opened.remarks, remark, start]):
        log.say(sentence)
    if not is_trained:
        features = [_features(part, model, recipe, folder, fabric, log) for part in (train, val)]
        _train_and_save(run, recipe, model, data, videos, features[0], features[1], fabric, log)
    if data.test is not None:
        write_result(run, recipe, data.classes, data.test, fabric, log.say, trust_code)


def split_for_probes(data: Data, recipe: Recipe) -> tuple[list[Record], list[Record], str]:
    """Videos on which probes are trained, videos by which the best is chosen, and a remark for the user.

    Raises:
        GestaError: there are too few videos to hold some out.
    """
    if data.held_out:
        return data.records, data.held_out, ""
    assert recipe.probe is not None
    groups = by_video(data.records)
    splits: tuple[SplitName, SplitName] = ("train", "val")
    train, val = (hold_out(data.records, groups, recipe.probe.val, recipe.train.seed, split) for split in splits)
    if not train or not val:
        raise GestaError(
            f"the data has no validation videos, and of {len(data.records)} training videos none can be held out to "
            "choose the best probe: give more, or another fraction with --probe.val"
        )
    return train, val, f"the data has no validation videos, so {len(val)} of training choose the best probe"


def _check_changes(run: Path, opened: OpenedRun, is_trained: bool) -> None:
    """Refuse changed fields that would have no effect, since the probes of this run are trained already."""
    kept = ("evaluate.", "data.", "name", "paper", "probe.cache")
    useless = [text for name, text in opened.changes.items() if not is_among(name, kept)]
    if is_trained and useless:
        raise GestaError(
            f"{run}: its probes are trained, so nothing is left to be trained with {'; '.join(useless[:3])}; start "
            "another run in another folder: the features are kept"
        )


# --- features --------------------------------------------------------------------------------------------------------


class VideoRows(NamedTuple):
    """Features of videos.

    Attributes:
        rows: of each video ``(V, D)`` float32, or ``(V, N, C)`` for attentive probes, V being the crops alone where
            their clips are joined; None where it could not be read.
        labels: by label space, of each video; of multi-label data all of its classes.
    """

    rows: Sequence[Tensor | None]
    labels: dict[str, list[int | tuple[int, ...] | None]]


class _StoredFeatures(Sequence[Tensor | None]):
    """The features of videos in a folder; files are mapped into memory, so that only what is used is read."""

    def __init__(self, folder: FeatureFolder, files: list[str], config: EvaluateConfig) -> None:
        self.folder, self.files, self.config = folder, files, config

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: Any) -> Any:
        file = self.files[i]
        if file not in self.folder.entries:
            return None
        rows = torch.from_numpy(self.folder.read(file))
        return join_tokens(rows, self.config.crops) if self.config.average == "tokens" else rows


def _feature_kind(recipe: Recipe) -> FeatureKind:
    return "read" if recipe.model.attentive else "pooled"


def _feature_folder(model: VideoModel, recipe: Recipe) -> FeatureFolder:
    """The folder of features of this backbone and these views.

    Raises:
        GestaError: it holds something else.
    """
    assert recipe.probe is not None
    description = describe(model, recipe.evaluate, _feature_kind(recipe), precision=recipe.train.precision)
    name = hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:16]
    root = Path(recipe.probe.cache or os.path.join(cache_folder(), "features"))
    return FeatureFolder(root / f"{type(recipe.model).__name__.removesuffix('Config')}-{name}", description)


def _features(
    records: Sequence[Record], model: VideoModel, recipe: Recipe, folder: FeatureFolder, fabric: Fabric, log: RunLog
) -> VideoRows:
    """The features of videos; those that the folder does not have yet are computed."""
    began = time.monotonic()
    files = [_file_of(record) for record in records]

    def compute(indices: list[int]) -> Iterator[Any]:
        _check_disk(folder.folder, model, recipe, len(indices))
        how: dict[str, Any] = {"kind": _feature_kind(recipe), "device": fabric.device, "autocast": fabric.autocast}
        return extract(model, records, recipe.evaluate, indices=indices, **how)

    if all(folder.has(file, source_hash(record)) for file, record in zip(files, records)):
        report = FeatureReport(str(folder.folder), len(records), present=len(records))
    else:
        with lock_folder(folder.folder):
            remove_parts(folder.folder)
            folder = FeatureFolder(folder.folder, folder.description)  # again: another process may have added features
            report = compute_missing(folder, records, files, compute)
    seconds = time.monotonic() - began
    log.features(report.folder, report.videos, report.computed, seconds, report.failures)
    labels = labels_in(records, by_space(recipe.model.classes))
    return VideoRows(_StoredFeatures(folder, files, recipe.evaluate), labels)


def _file_of(record: Record) -> str:
    """The file of a video's features: segments of one video, and other encodings of its depth, have others, so that two
    trainings at once do not replace each other's. A video that changes keeps its file."""
    shown = [dataclasses.asdict(s.shows) if s.shows else None for s in record.streams]
    parts = [[s.path, s.masks, s.start, s.end, s.seconds, shows] for s, shows in zip(record.streams, shown)]
    name = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    return f"{name[:2]}/{name[2:34]}.npy"


def _check_disk(folder: Path, model: VideoModel, recipe: Recipe, videos: int) -> None:
    """Refuse a disk on which the tokens of so many videos do not fit."""
    readout = recipe.model.attentive
    if readout is None or recipe.evaluate.coverage != "even":
        return
    views = recipe.evaluate.clips * recipe.evaluate.crops
    needed = 4 * videos * views * math.prod(model.grid_at(len(model.blocks))) * max(1, len(readout.layers))
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise GestaError(
            f"{folder}: its disk has {free / 1e9:.1f} GB free, and the tokens of {videos} videos in {views} views take "
            f"{needed / 1e9:.1f} GB; choose another disk with --probe.cache, fewer --evaluate.clips, or linear probes"
        )


# --- probes ----------------------------------------------------------------------------------------------------------


class AttentiveProbe(nn.Module):
    """A copy of a model's attentive pooling and classifier, which takes tokens ``(B, N, C)``."""

    def __init__(self, pool: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.pool, self.classifier = copy.deepcopy(pool), copy.deepcopy(classifier)

    def forward(self, tokens: Tensor) -> Scores:
        scores: Scores = self.classifier(self.pool(tokens))
        return scores

    def copy_into(self, model: VideoModel) -> None:
        """Copy the probe's weights into the model's pooling and classifier."""
        assert model.attentive is not None
        model.attentive.load_state_dict(self.pool.state_dict())
        model.classifier.load_state_dict(self.classifier.state_dict())


class LinearProbe(nn.Module):
    """A classifier on standardised features ``(B, D)``.

    Weights begin at zero: the loss is convex.

    Args:
        classes, dropout: as of the classifier.
        mean, std: of each feature over the training videos, ``(D,)``.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, classes: int | dict[str, int], dropout: float, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.classifier = Classifier(len(mean), classes, dropout)
        for parameter in self.classifier.parameters():
            nn.init.zeros_(parameter)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, features: Tensor) -> Scores:
        scores: Scores = self.classifier((features - self.mean) / self.std)
        return scores

    @torch.no_grad()
    def copy_into(self, model: VideoModel) -> None:
        """Copy the weights into the model's classifier, such that it gives the same scores of features that are not
        standardised."""
        self.cpu().double()
        for layer in self.classifier.modules():
            if isinstance(layer, nn.Linear):
                layer.weight.div_(self.std)
                layer.bias.sub_(layer.weight @ self.mean)
        model.classifier.load_state_dict(self.classifier.state_dict())


Probe = AttentiveProbe | LinearProbe


@dataclass(frozen=True, slots=True)
class TrainedProbe:
    """A probe after its training.

    Attributes:
        lr, weight_decay: its settings.
        losses: on the training videos, of each epoch.
        val: metrics of the validation videos.
        val_loss: mean loss of their views, without label smoothing; infinite if a score is not finite.
    """

    probe: Probe
    lr: float
    weight_decay: float
    losses: list[float]
    val: dict[str, float]
    val_loss: float

    @property
    def rank(self) -> tuple[float, float]:
        """Greatest for the best probe: by validation top-1 (multi-label: mAP), then by the smaller loss."""
        return headline(self.val) or 0.0, -self.val_loss


def train_probes(
    train: VideoRows,
    val: VideoRows,
    classes: ClassNames,
    grid: ProbeConfig,
    config: TrainConfig,
    model: VideoModel,
    average: Average = "probabilities",
    device: torch.device | None = None,
) -> list[TrainedProbe]:
    """Train a probe for each learning rate and weight decay, all on the same batches.

    Args:
        train: every view of a video is a sample with the video's label.
        val: what they are measured on at the end, the mean over a video's views as in evaluation.
        classes: class names in label order.
        grid: the learning rates and weight decays.
        config: epochs, samples per step, loss and seed.
        model: for whose classifier they are trained; with ``model.attentive`` the probes are attentive, else linear.
        average: what is averaged over the views of a validation video.
        device: where they are trained.

    Raises:
        GestaError: no training or validation video has features, or the training of every probe diverged.
    """
    samples = [(i, view) for i, rows in enumerate(train.rows) if rows is not None for view in range(len(rows))]
    if not samples or all(rows is None for rows in val.rows):
        raise GestaError("no video to train probes on, or to choose one by, can be read (gesta data check names why)")
    multi_label = model.config.multi_label
    weights, _ = loss_weights(train.labels, classes, config, device)
    how: dict[str, Any] = {"smoothing": config.label_smoothing, "gamma": config.focal_gamma, "multi_label": multi_label}
    sizes = by_space(model.config.classes)
    targets = {
        s: _targets([labels[i] for i, _ in samples], sizes[s], multi_label).to(device)
        for s, labels in train.labels.items()
    }
    settings = list(itertools.product(grid.lrs, grid.weight_decays))
    probes, read = _new_probes(model, train, samples, device, len(settings))
    groups = [group for probe, (lr, decay) in zip(probes, settings) for group in _parameter_groups(probe, lr, decay)]
    optimizer = optim.AdamW(groups)
    batches = _batches(len(samples), config)
    losses: list[list[float]] = [[] for _ in settings]
    for epoch in range(config.epochs):
        sums = torch.zeros(len(settings), device=device)
        for number, batch in enumerate(next(batches)):
            done = (epoch + number / math.ceil(len(samples) / config.batch_size)) / config.epochs
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * (1 + math.cos(math.pi * done)) / 2
            features, labels = read(batch), {space: values[batch] for space, values in targets.items()}
            optimizer.zero_grad()
            for i, probe in enumerate(probes):  # one after the other: activations of a single probe in memory
                spaces = by_space(probe(features))
                terms = [class_loss(spaces[s], labels[s], weights=weights.get(s), **how) for s in spaces]
                loss = torch.stack(terms).mean()
                loss.backward()
                sums[i] += loss.detach() * len(batch)
            optimizer.step()
        for epoch_losses, loss_mean in zip(losses, (sums / len(samples)).tolist()):
            epoch_losses.append(loss_mean)
    measured = [_measure(probe, val, classes, average, device, multi_label) for probe in probes]
    if not any(math.isfinite(val_loss) for _, val_loss in measured):
        raise GestaError(
            f"the training of every probe diverged (learning rates {', '.join(f'{lr:g}' for lr in grid.lrs)}): no loss "
            "on the validation videos is finite; give smaller rates with --probe.lrs"
        )
    return [
        TrainedProbe(probe, *setting, epoch_losses, *measures)
        for probe, setting, epoch_losses, measures in zip(probes, settings, losses, measured)
    ]


def _new_probes(
    model: VideoModel, train: VideoRows, samples: list[tuple[int, int]], device: torch.device | None, number: int
) -> tuple[list[Probe], Callable[[Tensor], Tensor]]:
    """Fresh probes, and a function that gives the features of samples (views of training videos) by index ``(B,)``."""

    def read(batch: Tensor) -> Tensor:
        views = [train.rows[i][view] for i, view in (samples[j] for j in batch.tolist())]  # type: ignore[index]
        return torch.stack(views).to(device)

    if model.attentive is not None:
        return [AttentiveProbe(model.attentive, model.classifier).to(device).train() for _ in range(number)], read
    features = read(torch.arange(len(samples)))
    std = features.std(0, correction=0)
    mean, std = features.mean(0), torch.where(std > 1e-6 * std.max().clamp(min=1e-12), std, 1.0)
    config = model.config
    linear: list[Probe] = [LinearProbe(config.classes, config.dropout, mean, std).to(device) for _ in range(number)]
    return linear, lambda batch: features[batch.to(device)]


def _parameter_groups(probe: nn.Module, lr: float, decay: float) -> Iterator[dict[str, Any]]:
    for is_weight, weight_decay in ((True, decay), (False, 0.0)):
        parameters = [p for p in probe.parameters() if (p.ndim > 1) is is_weight]
        yield {"params": parameters, "weight_decay": weight_decay, "peak": lr}


def _batches(samples: int, config: TrainConfig) -> Iterator[tuple[Tensor, ...]]:
    """The samples of each step of an epoch, in an order that depends on the seed and the epoch."""
    for epoch in itertools.count():
        order = torch.randperm(samples, generator=seeded_generator(config.seed, epoch, "probe"))
        yield order.split(config.batch_size)


def _targets(labels: Sequence[Any], classes: int, multi_label: bool) -> Tensor:
    """Labels as :func:`class_loss` takes them."""
    if not multi_label:
        return torch.tensor(labels)
    targets = torch.zeros(len(labels), classes)
    for row, of_video in zip(targets, labels):
        row[list(of_video)] = 1
    return targets


@torch.no_grad()
def _measure(
    probe: nn.Module,
    val: VideoRows,
    classes: ClassNames,
    average: Average,
    device: torch.device | None,
    multi_label: bool,
) -> tuple[dict[str, float], float]:
    """Metrics of the validation videos, and the mean loss of their views, infinite if a score or it is not finite.

    Videos without features and those whose scores are not finite count as wrong.
    """
    probe.eval()
    names = by_space(classes)
    scores: dict[str, list[list[float] | None]] = {space: [None] * len(val.rows) for space in names}
    losses: list[float] = []
    for i, rows in enumerate(val.rows):
        if rows is None:
            continue
        labels = {space: column[i] for space, column in val.labels.items()}
        logits = {space: values.double() for space, values in by_space(probe(rows.to(device))).items()}
        for space, values in logits.items():
            if not values.isfinite().all():
                losses.append(math.inf)
                continue
            view_scores = values if average == "logits" else as_probabilities(values, multi_label)
            scores[space][i] = view_scores.mean(0).tolist()
            if (label := labels[space]) is not None:
                target = _targets([label] * len(values), len(names[space]), multi_label).to(values.device)
                target = target.to(values.dtype) if multi_label else target
                losses.append(float(class_loss(values, target, multi_label=multi_label)))
    metrics = measure_spaces(scores, val.labels, names, average, multi_label).metrics
    loss = sum(losses) / max(len(losses), 1)
    return metrics, loss if math.isfinite(loss) else math.inf


def _train_and_save(
    run: Path,
    recipe: Recipe,
    model: VideoModel,
    data: Data,
    videos: str,
    train: VideoRows,
    val: VideoRows,
    fabric: Fabric,
    log: RunLog,
) -> None:
    """Train probes on features, save the model with the best as its classifier, and log the accuracy of all.

    ``videos`` is the hash of the training videos, which is kept with the model.
    """
    assert recipe.probe is not None
    began = time.monotonic()
    if weighted := loss_weights(train.labels, data.classes, recipe.train)[1]:
        log.say(weighted)
    torch.manual_seed(recipe.train.seed)  # dropout
    trained = train_probes(
        train,
        val,
        data.classes,
        recipe.probe,
        recipe.train,
        model=model,
        average=recipe.evaluate.average,
        device=fabric.device,
    )
    seconds = time.monotonic() - began
    best = max(trained, key=lambda one: one.rank)
    best.probe.copy_into(model)
    settings = {"lr": best.lr, "weight_decay": best.weight_decay}
    save_model(
        run / BEST,
        model,
        data.classes,
        shows=data.records[0].shows,
        person_crop=any(record.masks for record in data.records),
        protocol=recipe.evaluate,
        notes={"recipe": recipe.name, "paper": recipe.paper, "probe": settings, "val": best.val, "videos": videos},
    )
    for one in trained:
        entry = {"lr": one.lr, "weight_decay": one.weight_decay, "loss": one.losses[-1], "val": one.val}
        log.probe({**entry, "val_loss": one.val_loss, "kept": one is best})
    log.probe_epochs(best.losses, best.val, headline(best.val), seconds)
    accuracies = sorted(headline(one.val) or 0.0 for one in trained)
    log.say(
        f"{len(trained)} probes in {seconds:.1f} s: val {headline_name(best.val)} {accuracies[0]:.1f} to "
        f"{accuracies[-1]:.1f} %; kept: "
        f"learning rate {best.lr:g}, weight decay {best.weight_decay:g}"
    )
    rates = recipe.probe.lrs
    others = [headline(one.val) or 0.0 for one in trained if one.lr != best.lr]
    if best.lr in (min(rates), max(rates)) and others and max(others) < accuracies[-1]:
        which = "smallest" if best.lr == min(rates) else "largest"
        log.say(f"that is the {which} learning rate of the grid: another grid (--probe.lrs) may do better")
