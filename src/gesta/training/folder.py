"""A run is a folder: how it is opened, what is checked before it starts, and how much of the training is done."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import torch
from lightning.fabric import Fabric

from gesta.checkpoint import load, load_state, previous_state
from gesta.config import Between, as_now, from_json, read_json, to_json
from gesta.errors import GestaError
from gesta.evaluation.evaluate import evaluate
from gesta.evaluation.result import read_summary
from gesta.files import lock_folder, remove_parts, write_text
from gesta.model import ModelConfig
from gesta.recipe import SMALL_PARAMETERS, EvaluateConfig, Rates, Recipe, TrainConfig, with_absolute_paths
from gesta.records import (
    LABEL,
    PATHS,
    ClassNames,
    DataConfig,
    Record,
    SplitName,
    by_space,
    class_counts,
    class_lines,
    labels_file,
    list_hash,
)
from gesta.video.archive import locate

LAST = "last.ckpt"
"""The training state that a run is resumed from."""

BEST = "best.safetensors"
"""The weights with the best validation top-1."""

CHANGEABLE_FIELDS = (
    *("name", "paper", "evaluate.", "model.activation_checkpointing"),
    *("train.epochs", "train.lr", "train.min_lr", "train.clip_grad", "train.precision", "train.compile"),
    "train.strategy",
    *("train.workers", "train.decoder", "train.validate_every", "train.patience", "train.keep_best"),
    *("train.save_every_s", "train.logger", "probe.cache"),
)
"""Fields of a recipe that may differ when its run is resumed; the others would make it another experiment. One that
ends with a dot stands for all fields in it. Of the data see :data:`CHANGEABLE_DATA`."""

CHANGEABLE_DATA = (*PATHS, "cache", "val_fraction")
"""Fields of a data set that may differ, too, as long as the training videos are the same: where files lie, and what is
held out. Others change what the same files show (``depth_encoding``, ``person_crop``); no hash of a list sees that."""


Count = Annotated[int, Between(0)]


@dataclass
class TrainingProgress:
    """How much of a training is done; saved with the weights.

    Attributes:
        epoch: epochs completed.
        epoch_steps: optimiser steps completed in the current epoch.
        step: optimiser steps completed in all epochs.
        metric: by which epochs are ranked.
        best_top1: the best validation ``metric`` in percent, None before the first validation.
        since_best: validations since that one, none of which was better.
        kept: epochs (counted from 1) whose weights are kept in files of their own, and their validation ``metric``,
            best first; see :meth:`kept_file`.
        dropped: epochs whose files the last epoch has replaced; they are removed once this is on the disk.
        log_bytes: length of ``log.jsonl``.
        wandb_id: of the W&B run that the training is recorded in; empty if it is not.
        overflows: fp16 steps in a row whose gradients were not finite.
        loss_sum, clips, seconds, data_s: sums over the current epoch; ``data_s`` is the part of ``seconds`` spent
            waiting for data.
        not_finite: steps of the current epoch whose loss was not finite, and is not in ``loss_sum``.
        right, counted: training clips of the current epoch of which the most probable class was right, and of how many;
            means over the processes. Both are 0 where no clip has one class (MixUp, CutMix, multi-label data).
        failures: training videos of this epoch that could not be read, name (and segment) → reason.
    """

    epoch: Count = 0
    epoch_steps: Count = 0
    step: Count = 0
    metric: Literal["top-1", "mAP"] = "top-1"
    best_top1: float | None = None
    since_best: Count = 0
    kept: list[tuple[Count, float]] = field(default_factory=list)
    dropped: list[tuple[Count, float]] = field(default_factory=list)
    log_bytes: Count = 0
    wandb_id: str = ""
    overflows: Count = 0
    loss_sum: float = 0.0
    not_finite: Count = 0
    clips: Count = 0
    seconds: float = 0.0
    data_s: float = 0.0
    right: float = 0.0
    counted: float = 0.0
    failures: dict[str, str] = field(default_factory=dict)

    def add(self, loss: float, clips: int, seconds: float, data_s: float) -> None:
        """Count one more optimiser step."""
        self.epoch_steps, self.step = self.epoch_steps + 1, self.step + 1
        if math.isfinite(loss):
            self.loss_sum += loss
        else:  # a step in fp16 that the loss scaler skipped
            self.not_finite += 1
        self.clips, self.seconds, self.data_s = self.clips + clips, self.seconds + seconds, self.data_s + data_s

    @property
    def loss(self) -> float:
        """Mean loss of the steps of the current epoch whose loss was finite; NaN if there is none."""
        steps = self.epoch_steps - self.not_finite
        return self.loss_sum / steps if steps else math.nan

    def forget_validations(self) -> str:
        """Rank the epochs from now on without those before, which other videos were the measure of.

        Returns:
            A sentence for the user; empty if no epoch has been validated.
        """
        if self.best_top1 is None:
            return ""
        files = ", ".join(self.kept_file(*of_epoch) for of_epoch in self.kept)
        remark = (
            f"the validation videos are others than before, so the best {self.metric} of {self.best_top1:.1f} % is "
            f"forgotten, and the next validation chooses {BEST} anew"
            + (f" ({files} stay as they are)" if files else "")
        )
        self.best_top1, self.since_best, self.kept = None, 0, []
        return remark

    @property
    def train_top1(self) -> float | None:
        """Top-1 of the training clips of the current epoch in percent, as they were trained: augmented, and each scored
        by the weights of its step; None where no clip has one class."""
        return 100 * self.right / self.counted if self.counted else None

    def ended_early(self, config: TrainConfig) -> str:
        """Why the training has ended before its last epoch, a sentence; empty if it has not."""
        if self.epoch >= config.epochs or config.patience is None or self.since_best < config.patience:
            return ""
        return (
            f"training ended early after epoch {self.epoch} of {config.epochs}: no validation {self.metric} above "
            f"{self.best_top1:.1f} % in {self.since_best} validation{'s' * (self.since_best > 1)} "
            f"(--train.patience {config.patience})"
        )

    def is_over(self, config: TrainConfig) -> bool:
        """Whether no epoch is left to be trained."""
        return self.epoch >= config.epochs or bool(self.ended_early(config))

    def kept_file(self, epoch: int, value: float) -> str:
        """Name of the file of weights that are among the best, ``epoch-0012-top1-83.33.safetensors``."""
        return f"epoch-{epoch:04d}-{self.metric.replace('-', '')}-{value:.2f}.safetensors"


class _Required(TypedDict):
    progress: TrainingProgress
    videos: str
    model: dict[str, Any]
    optimizer: dict[str, Any]
    precision: dict[str, Any]
    weights: dict[str, Any]


class State(_Required, total=False):
    """What a training state holds: the progress, :func:`videos_hash`, the names of the classes and the hash of the list
    of validation videos (older ones lack them), what has a ``state_dict``, and the factor of LoRA's adapters if there
    are any.

    ``shards`` is the folder of the parameters and moments that processes share, see :mod:`gesta.training.sharding`;
    then the others hold the rest alone."""

    classes: ClassNames
    held_out: str
    lora_scale: float
    shards: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedRun:
    """What :func:`open_run` found in a folder.

    Attributes:
        remarks: what the user should know.
        changes: of the recipe since the run was started, by the field's name, see :func:`differences`.
        evaluated: whether the folder holds a result.
    """

    remarks: list[str]
    changes: dict[str, str]
    evaluated: bool


def open_run(run: Path, recipe: Recipe, resume: bool, stack: ExitStack) -> OpenedRun:
    """Make the folder of a new run, or check that an old one can be resumed, and lock it for this process.

    A folder whose run has never written a training state is that of a new run, whatever its recipe was.

    Args:
        run: the folder.
        recipe: what is to be trained.
        resume: the run in the folder is continued.
        stack: whose end unlocks the folder.

    Raises:
        GestaError: a folder in use without ``resume`` or by another process; one that is no run, or whose training
            states are gone; a recipe that differs too much.
    """
    check_run(run, recipe, resume)  # before anything is written
    no_lock = stack.enter_context(lock_folder(run))
    changes = check_run(run, recipe, resume)  # what another process has done until then
    remarks = [no_lock]
    if recipe.probe is None and not _has_state(run) and (run / "recipe.json").exists():
        remarks.append(f"{run}: was stopped before its first training state was written, so it begins again")
    elif not _has_state(run) and resume:
        remarks.append(f"{run}: holds no run, so a new one begins")
    if changes:
        remarks.append(f"resumed with changes: {'; '.join(changes.values())}")
    remove_parts(run)
    return OpenedRun(remarks=remarks, changes=changes, evaluated=(run / "result.json").exists())


def check_run(run: Path, recipe: Recipe, resume: bool) -> dict[str, str]:
    """Check the folder of a new run, or of one to be resumed, as :func:`open_run` does, and write nothing.

    Returns:
        Changes of the recipe since the run was started.
    """
    if run.exists() and not run.is_dir():
        raise GestaError(f"{run}: is a file; choose another folder with --run")
    entries = list(run.iterdir()) if run.is_dir() else []
    for path in entries:  # a training would wait for a pipe, and write to whatever a link of others names
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise GestaError(f"{path}: is a link or a device; put the file itself there, or choose another run")
    names = {path.name for path in entries if not path.name.startswith(".")}
    # probes are trained in seconds, so that they have no state: the model file is there or not
    saved = _has_state(run) or (recipe.probe is not None and BEST in names)
    if "recipe.json" in names and not saved:
        _check_never_saved(run)
        begun = {"recipe.json", "log.jsonl", "events", "wandb", *map(labels_file, by_space(recipe.model.classes))}
        if resume or names <= begun:
            return {}
    if names and not resume and "recipe.json" not in names:
        raise GestaError(f"{run}: holds {min(names)} and no recipe.json, so it is not a run; choose another with --run")
    if names and not resume:
        raise GestaError(f"{run}: already holds files; resume that run with --resume, or choose another with --run")
    if not names:
        return {}
    if "recipe.json" not in names:
        raise GestaError(f"{run}: holds no recipe.json, so it is not a run to resume; choose another with --run")
    changes = recipe_changes(run, recipe)
    refused = [text for name, text in changes.items() if not may_change(name)]
    if refused:
        raise GestaError(
            f"{run}: was started with another recipe ({'; '.join(refused[:3])}); resume it without these changes, "
            f"or start another run from its weights with --init.weights {run / 'best.safetensors'}"
        )
    return changes


def may_change(field: str) -> bool:
    """Whether a dotted field may differ when a run is resumed; a data set may be in another, as in ``data.of.root``."""
    in_data = field.startswith("data.") and field.rpartition(".")[2] in CHANGEABLE_DATA
    return in_data or is_among(field, CHANGEABLE_FIELDS)


def is_among(field: str, names: Sequence[str]) -> bool:
    """Whether a dotted field is one of these names, or lies in one of them that ends with a dot.

    The beginning of a name is not enough: ``train.lr_multipliers`` is another field than ``train.lr``.
    """
    return field in names or field.startswith(tuple(name for name in names if name.endswith(".")))


def check_changes(run: Path, changes: dict[str, str], progress: TrainingProgress, config: TrainConfig) -> None:
    """Refuse changes that would be written into the recipe and have no effect, since what they change is done.

    Args:
        run: the folder, for the sentence.
        changes: of the recipe since the run was started.
        progress: of the run.
        config: of the recipe, changes included.
    """
    if not progress.is_over(config):
        return
    early = progress.ended_early(config)
    if "train.epochs" in changes and not early:
        raise GestaError(f"{run}: {progress.epoch} epochs are done already; give more than that with --train.epochs")
    useless = [text for name, text in changes.items() if not name.startswith(("evaluate.", "data."))]
    if useless:
        raise GestaError(
            f"{run}: {early or f'all {config.epochs} epochs are done'}, so nothing is left to be trained with "
            f"{'; '.join(useless[:3])}; resume it without these changes, or for longer with "
            + ("a greater --train.patience" if early else "--train.epochs")
        )


def check_space(run: Path, weights: int, state: int, kept: Sequence[str] = (), keep: int = 1) -> None:
    """Refuse a disk on which the checkpoints of a run do not fit.

    A training state is written while the last two are there; the model file while the one before is there.

    Args:
        run: the folder.
        weights: bytes of the model file.
        state: bytes of a training state.
        kept: names of further model files that are there.
        keep: of how many epochs weights will be kept.

    Raises:
        GestaError: there is not enough space for them.
    """
    files = (run / name for name in (LAST, "previous.ckpt", BEST, *kept))
    present = {path.stat().st_ino: path.stat().st_size for path in files if path.exists()}
    models = 2 + (keep + 1 if keep > 1 else 0)
    times = "twice" if models == 2 else f"{models} times"
    needed = 3 * state + models * weights - sum(present.values())
    total, _, free = shutil.disk_usage(run)
    if total and free < needed:  # some network disks do not say how large they are
        raise GestaError(
            f"{run}: its disk has {free / 1e6:.0f} MB free, and the checkpoints of this run need {needed / 1e6:.0f} MB "
            f"({state / 1e6:.0f} MB three times and {weights / 1e6:.0f} MB {times}); free some space, or choose a "
            "folder on another disk with --run"
        )


def _has_state(run: Path) -> bool:
    return (run / LAST).exists() or previous_state(run / LAST).exists()


def _check_never_saved(run: Path) -> None:
    """Refuse to begin again in the folder of a run that has finished epochs, but whose training states are gone."""
    log = run / "log.jsonl"
    results = [name for name in (BEST, "result.json") if (run / name).exists()]
    if log.exists() and b'"kind": "epoch"' in log.read_bytes():
        results.append(log.name)
    if results:
        raise GestaError(
            f"{run}: {LAST} is gone, and {results[0]} says that the run has finished an epoch; put it back, or start "
            "another run in another folder, from best.safetensors with --init.weights"
        )


def write_recipe(run: Path, recipe: Recipe, classes: ClassNames) -> None:
    """Write ``recipe.json`` and ``labels.txt`` (or one file of names for each label space).

    A result that is there was not made with this recipe, so it is removed.
    """
    (run / "result.json").unlink(missing_ok=True)
    write_text(run / "recipe.json", json.dumps(to_json(recipe), indent=2) + "\n")
    for space, names in by_space(classes).items():
        write_text(run / labels_file(space), class_lines(names))


def write_result(
    run: Path,
    recipe: Recipe,
    classes: ClassNames,
    test: EvaluateConfig,
    fabric: Fabric,
    say: Callable[[str], None],
    trust_code: bool,
    ended_early: str = "",
) -> None:
    """Write ``result.json``: the best weights, as read back from their file, on the recipe's split.

    ``ended_early`` says why their training ended before its last epoch, if it did.
    """
    fabric.barrier()  # until the first process has written the weights
    result = evaluate(load(run, trust_code=trust_code), recipe.data, views=test, fabric=fabric)
    result.ended_early = ended_early
    result.optimistic = why_optimistic(recipe, test.split)
    if fabric.global_rank == 0:
        say(str(result))
        write_recipe(run, recipe, classes)  # which may have changed in what is evaluated and how
        result.write(run / "result.json")


def why_optimistic(recipe: Recipe, split: str) -> str:
    """Why a run's result on a split of its own data is probably too good, a sentence; empty if no reason is known."""
    if split != "val" or not (recipe.probe or recipe.train.epochs > recipe.train.validate_every > 0):
        return ""
    return (
        f"these videos chose the best {'probe' if recipe.probe else 'epoch'}, so the result is probably too good; "
        "evaluate on test videos (--data.test 0.2, given at the start of a training, holds some of a folder out)"
    )


def why_seen(recipe: Recipe, data: DataConfig, split: SplitName) -> str:
    """Whether training has seen videos of a split of another data set, or of other fields of its own; a sentence.

    Other fractions or another seed divide a folder anew, and then training videos become test videos.

    Args:
        recipe: of the run.
        data: what is scored.
        split: of it.
    """
    if split == "train" or to_json(data) == to_json(recipe.data):
        return ""
    try:
        trained = {_what_is_read(record) for record in recipe.data.records("train")}
    except GestaError:  # they are no longer where they were
        return ""
    scored = [_what_is_read(record) for record in data.records(split)]
    seen = sum(video in trained for video in scored)
    if not seen:
        return ""
    return (
        f"{seen} of these {len(scored)} videos were trained on, so the result is too good; evaluate on others, or "
        "train again with these fields of the data"
    )


def _what_is_read(record: Record) -> tuple[object, ...]:
    return os.path.realpath(record.path), record.start, record.end, record.seconds


def why_others(run: Path, recipe: Recipe, data: DataConfig, split: SplitName, listed: str) -> str:
    """Whether a split has other videos than when the run was scored at its end; a sentence.

    Args:
        run: its folder.
        recipe: of the run.
        data: what is scored.
        split: of it.
        listed: hash of its list now, see :func:`gesta.records.list_hash`.
    """
    path = run / "result.json"
    if not path.is_file() or to_json(data) != to_json(recipe.data):
        return ""
    try:
        before = read_summary(path)
    except GestaError:  # damaged; what is scored now is not lost for it
        return ""
    if before.protocol.split != split or before.list_hash in ("", listed):
        return ""
    return (
        f"these are not the videos that {path} is of: files or lists have changed, or an earlier version of gesta "
        "divided them in another way; training may have seen some of them"
    )


def derive_rates(recipe: Recipe, resumed: Path | None = None) -> None:
    """Give the fields of ``recipe.train`` that are derived from others (None) their values, see ``TrainConfig.rates``.

    Args:
        recipe: is changed.
        resumed: a run that is continued, which keeps the values that it has.
    """
    saved: dict[str, Any] = {}
    if resumed is not None and (path := resumed / "recipe.json").is_file():
        saved = read_json(path, dict[str, Any], remedy="fix it, or start again in another folder").get("train") or {}
    for name in Rates._fields:
        if getattr(recipe.train, name) is None and saved.get(name) is not None:
            setattr(recipe.train, name, saved[name])
    from_weights = bool(recipe.init.weights)
    is_small = from_weights and recipe.train.lr is None and _parameters(recipe.model) < SMALL_PARAMETERS
    for name, value in recipe.train.rates(from_weights, is_small)._asdict().items():
        setattr(recipe.train, name, value)


def _parameters(config: ModelConfig) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in config.build().parameters())


def recipe_changes(run: Path, recipe: Recipe) -> dict[str, str]:
    """Differences between a run's ``recipe.json`` and a recipe, see :func:`differences`."""
    path = run / "recipe.json"
    saved = read_json(path, dict[str, Any], remedy="fix it, or start again in another folder")
    return differences(as_now(saved), to_json(with_absolute_paths(recipe)))


def differences(old: Any, new: Any, name: str = "") -> dict[str, str]:
    """Dotted name → ``"name: old → new"`` for every leaf that differs."""
    if old == new:
        return {}
    if isinstance(old, dict) and isinstance(new, dict):
        changes: dict[str, str] = {}
        for key in {**old, **new}:
            changes |= differences(old.get(key), new.get(key), f"{name}.{key}" if name else key)
        return changes
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new) and isinstance(old[0], dict):
        return differences(dict(enumerate(old)), dict(enumerate(new)), name)
    return {name: f"{name}: {json.dumps(old)} → {json.dumps(new)}"}


def fit_classes(model: ModelConfig, data: DataConfig, classes: ClassNames) -> str:
    """Give the model as many classes as the data has, of which a video has one or, if multi-label, any number.

    Args:
        model: is changed.
        data: the data set; ``classes`` are its own.

    Returns:
        A sentence about it for the user, empty if nothing changed.

    Raises:
        GestaError: a name that ``labels.txt`` cannot hold.
    """
    for names in by_space(classes).values():
        class_lines(names)
    changes = []
    for name, value in (("classes", class_counts(classes)), ("multi_label", data.is_multi_label())):
        if (before := getattr(model, name)) != value:
            changes.append(f"model.{name}: {before} → {value}, as the data has it")
            setattr(model, name, value)
    return "; ".join(changes)


def check_labels(records: Sequence[Record], model: ModelConfig) -> None:
    """Check that there are training videos and that each has a label in every label space.

    Of multi-label data that may be no class at all.

    Raises:
        GestaError: there are none, or a label is missing or out of range.
    """
    if not records:
        raise GestaError("the data has no training videos; check --data.root and how it is split (gesta data list)")
    sizes = by_space(model.classes) if model.classes else {}  # without classes there is nothing to learn of labels
    for record in records:
        labels = by_space(record.label)
        for space, size in sizes.items():
            label = labels.get(space)
            given = label if isinstance(label, tuple) else (label,)
            if isinstance(label, tuple) is not model.multi_label or not all(
                k is not None and 0 <= k < size for k in given
            ):
                some, none = ("any", ", or an empty list if it shows none") if model.multi_label else ("one", "")
                raise GestaError(
                    f"{record.name}: its {space} is {label}, training needs {some} of 0 to {size - 1}{none}; "
                    "fix the list (gesta data check shows all such entries)"
                )


def videos_hash(records: Sequence[Record]) -> str:
    """A hash of a list of videos (:func:`gesta.records.list_hash`) and the sizes of their files.

    Other videos of the same names have other sizes. A folder of frames counts as there or not.
    """
    sizes: list[int | None] = []
    for stream in itertools.chain.from_iterable(record.streams for record in records):
        try:
            place = locate(stream.path)
        except GestaError:  # a training names it and goes on
            place = None
        sizes.append(place.size if place else os.path.isdir(stream.path) - 1)
    return hashlib.sha256(json.dumps([list_hash(records), sizes]).encode()).hexdigest()


def read_state(run: Path, videos: str, classes: ClassNames) -> tuple[State | None, str]:
    """The training state in ``last.ckpt``, or the one before it where that file is gone.

    Args:
        run: the folder.
        videos: hash of the training videos, see :func:`videos_hash`.
        classes: class names of the data.

    Returns:
        The state, None if there is none; and a remark for the user.

    Raises:
        GestaError: it cannot be read, or is of other videos or classes.
    """
    path, remark = run / LAST, ""
    if not path.exists():
        path = previous_state(path)
        if not path.exists():
            return None, ""
        remark = f"{run}: {LAST} is gone, so {path.name}, the state before it, takes its place"
    state: State = from_json(load_state(path), State, source=str(path), remedy="give another training state")
    if state["videos"] != videos:
        raise GestaError(
            f"{run}: the list of training videos is not the one that the run was started with, or the files have other "
            f"sizes; restore them, or start another run from these weights with --init.weights {path}"
        )
    if other := _other_class(state.get("classes", classes), classes):
        raise GestaError(
            f"{run}: {other}, so its labels would mean other classes; restore the names, or start another run from "
            f"these weights with --init.weights {path}"
        )
    return state, remark


def _other_class(before: ClassNames, now: ClassNames) -> str:
    """The first class whose name is not what it was, in words; empty if all are the same."""
    old, new = by_space(before), by_space(now)
    for space in {**old, **new}:
        for label, (was, name) in enumerate(itertools.zip_longest(old.get(space, []), new.get(space, []))):
            if was != name:
                of_space = "" if space == LABEL else f" of {space}"
                return f"class {label}{of_space} was {was!r} when the run was started, and is {name!r} now"
    return ""
