"""What a training needs before its first step: data, model, optimiser, and the state of a run that is resumed."""

from __future__ import annotations

import contextlib
import itertools
import re
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from lightning.fabric import Fabric
from timm.utils import ModelEmaV3
from torch import Tensor, nn, optim

from gesta.checkpoint import save_state
from gesta.checkpoint.formats import is_plain
from gesta.checkpoint.lora import merge_adapters
from gesta.checkpoint.weights import import_weights
from gesta.config import default_of, replace
from gesta.data.batch import Batch
from gesta.data.frame_cache import FrameCache, choose_cache
from gesta.data.listfile import alike_classes, joined_classes
from gesta.data.loader import Loader, training_batches
from gesta.data.samples import TestViews, TrainingClips, collate
from gesta.errors import GestaError
from gesta.evaluation.evaluate import check_labels as check_test_labels
from gesta.evaluation.health import PROBE_CLIPS
from gesta.files import remove
from gesta.layers.few_clips import ENOUGH_CLIPS, mix_statistics
from gesta.layers.init import Standardise
from gesta.model import VideoModel, to_clips
from gesta.processes import (
    Interruption,
    can_sync_batch_norms,
    describe_device,
    ignore_interrupts,
    limit_threads,
    make_fabric,
    processes,
    run_in_first_process,
)
from gesta.progress import show
from gesta.recipe import EvaluateConfig, Recipe, TrainConfig
from gesta.records import ClassNames, Record, by_space, labels_in, list_hash, single_class
from gesta.training.folder import (
    LAST,
    State,
    TrainingProgress,
    check_changes,
    check_labels,
    check_space,
    fit_classes,
    open_run,
    read_state,
    videos_hash,
    write_recipe,
)
from gesta.training.log import RunLog
from gesta.training.loggers import Openers, loggers, new_wandb_id
from gesta.training.lora import add_adapters
from gesta.training.loss import loss_weights
from gesta.training.optim import build_optimizer, check_frozen, freeze, frozen_prefixes
from gesta.training.sharding import (
    Shards,
    WholeState,
    fill,
    optimized_names,
    remove_other_shards,
    shard,
    share_buffers,
    whole_weights,
    write_shards,
)
from gesta.training.unread import unread_parameters


@dataclass(kw_only=True)
class Training:
    """All that a training works with, in this process.

    Attributes:
        recipe: what is trained, with as many classes as the data has.
        run: the run folder.
        fabric: device, precision and processes.
        classes: class names in label order.
        records: training videos.
        videos: hash of ``records``, see :func:`gesta.training.folder.videos_hash`.
        held_out: validation videos; may be empty.
        held_out_hash: hash of their list, see :func:`gesta.records.list_hash`.
        cache: of decoded frames of these two, if there is one.
        test: how the best weights are scored at the end; None without held-out videos.
        progress: how much of the training is done.
        model: the module whose parameters are trained.
        steps_per_epoch: optimiser steps per epoch.
        batches: micro-batches of all epochs that are left, in order.
        probe_clips: a few clips on which the model's parts are looked at after every epoch, on the CPU; None in other
            processes than the first.
        log: of the run; writes nothing in other processes than the first.
        frozen_norms: batch norms that stay in evaluation mode.
        optimizer: of the parameters that are not frozen.
        forward: ``model``, compiled and wrapped for several processes.
        stepper: ``optimizer``, wrapped for loss scaling.
        average: moving average of the weights, if the recipe asks for one.
        class_weights: of the loss, see :func:`gesta.training.loss.loss_weights`.
        interruption: whether Ctrl-C or SIGTERM has asked for a stop.
        gathered: a model with the weights that processes share, put together at the end of an epoch.
        shards: folders of the shares of the last states, see :mod:`gesta.training.sharding`.
        saved: whether the run has a training state.
        save_due: whether a process has found the last state to be old.
        workers_started: whether the first batch has come; waiting for it is waiting for workers to start.
        saved_s: when ``last.ckpt`` was written last, on the monotonic clock.
    """

    recipe: Recipe
    run: Path
    fabric: Fabric
    classes: ClassNames
    records: list[Record]
    videos: str
    held_out: list[Record]
    held_out_hash: str
    cache: FrameCache | None
    test: EvaluateConfig | None
    progress: TrainingProgress
    model: VideoModel
    steps_per_epoch: int
    batches: Iterator[Batch]
    probe_clips: Tensor | None
    interruption: Interruption
    class_weights: dict[str, Tensor]
    log: RunLog = field(init=False)
    frozen_norms: list[nn.Module] = field(init=False)
    optimizer: optim.Optimizer = field(init=False)
    forward: Any = field(init=False)
    stepper: Any = field(init=False)
    average: ModelEmaV3 | None = field(init=False)
    gathered: VideoModel | None = None
    shards: list[str] = field(default_factory=list)
    saved: bool = False
    save_due: bool = False
    workers_started: bool = False
    saved_s: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        """Everything that follows from the model and the recipe: optimiser, wrappers, average."""
        config, model = self.recipe.train, self.model
        self.frozen_norms = freeze(model, frozen_prefixes(model, config))
        self.average = None
        if self.is_sharded:  # before the optimiser is made, whose parameters are the shares
            self.forward = self.fabric.setup_module(model.to(self.fabric.device))
            self.optimizer = build_optimizer(model, config)
            self.stepper = self.fabric.setup_optimizers(self.optimizer)
            return
        self.optimizer = build_optimizer(model, config)
        compiled: Any = torch.compile(model) if config.compile else model
        self.forward, self.stepper = self.fabric.setup(compiled, self.optimizer)
        if config.ema is not None:
            self.average = ModelEmaV3(model, decay=config.ema, use_warmup=config.ema_warmup, warmup_power=3 / 4)

    @property
    def is_sharded(self) -> bool:
        """Whether the processes share weights, gradients and moments."""
        return self.recipe.train.strategy == "fsdp"

    def share_statistics(self) -> None:
        """Give all processes the running statistics of the first one, which are those that are saved; all call it.

        Each has followed its own clips since the last forward pass: a validation would be of no model that there is.
        """
        for module in (self.model, self.average.module if self.average else None):
            if self.fabric.world_size > 1 and module is not None:
                share_buffers(module)

    def gather_weights(self) -> None:
        """Put the weights together that processes share; all of them call it."""
        if self.is_sharded:
            with torch.random.fork_rng(devices=[]):  # the initial values are overwritten
                self.gathered = self.recipe.model.build()
            self.gathered.load_state_dict(whole_weights(self.model))

    def plain_weights(self) -> dict[str, Tensor]:
        """Weights of :attr:`final_model` as its configuration builds it: adapters are merged into them."""
        weights, lora = self.final_model.state_dict(), self.recipe.train.lora
        return merge_adapters(weights, lora.scale) if lora else weights

    def average_weights(self) -> None:
        """Add the weights after the step in progress to their average."""
        if self.average:
            self.average.update(self.model, self._average_step(self.progress.step + 1))

    def describe_average(self) -> str:
        """How far back the average reaches after the completed steps; empty without an average."""
        if not self.average or not self.progress.step:
            return ""
        steps = self.progress.step
        decay = self.average.get_decay(self._average_step(steps))
        left = 0.0 if self.recipe.train.ema_warmup else decay**steps
        return (
            f"  average of the weights: decay {decay:.6g}, over about {1 / (1 - decay):.0f} of {steps} steps, "
            f"{100 * left:.1f} % of the start is left"
        )

    def _average_step(self, step: int) -> int | None:
        """What timm takes the number of a step for; it takes None for a decay without warm-up."""
        return step if self.recipe.train.ema_warmup else None

    @property
    def final_model(self) -> VideoModel:
        """The model that is evaluated and kept: that of the averaged weights, if there is an average; of weights that
        processes share the one that :meth:`gather_weights` made."""
        if self.is_sharded:
            assert self.gathered is not None
            return self.gathered
        return self.average.module if self.average else self.model  # type: ignore[return-value]

    def save(self) -> None:
        """Write ``last.ckpt``, from which the run can be resumed bit for bit; all processes call it."""
        optimizer, parameters = self.optimizer.state_dict(), {name for name, _ in self.model.named_parameters()}
        weights = self.model.state_dict()
        shards: dict[str, str] = {}
        if self.is_sharded:
            shards["shards"] = f"shards-{self.progress.step:08d}-of-{self.fabric.world_size}"
            write_shards(self.run / shards["shards"], self.model, self.optimizer, self.fabric)
            optimizer["state"] = {i: {"step": v["step"]} for i, v in optimizer["state"].items() if "step" in v}
            weights = {name: value for name, value in weights.items() if name not in parameters}  # buffers
            self.shards = [*dict.fromkeys([*self.shards, shards["shards"]])][-2:]  # one is of previous.ckpt
        if self.fabric.global_rank == 0:
            self.progress.log_bytes = self.log.size()
            save_state(
                self.run / LAST,
                {
                    "progress": asdict(self.progress),
                    "videos": self.videos,
                    "classes": self.classes,
                    "held_out": self.held_out_hash,
                    "model": weights,
                    "optimizer": optimizer,
                    "precision": self.fabric.strategy.precision.state_dict(),
                    "weights": {} if self.is_sharded else self.final_model.state_dict(),
                    **shards,
                    **({"lora_scale": lora.scale} if (lora := self.recipe.train.lora) else {}),
                },
            )
            remove_other_shards(self.run, {*self.shards})
        self.saved, self.saved_s = True, time.monotonic()

    def remove_dropped(self) -> None:
        """Remove weights that are not among the best any more, now that the saved state does not count on them."""
        if self.fabric.global_rank == 0:
            for of_epoch in self.progress.dropped:
                remove(self.run / self.progress.kept_file(*of_epoch))

    def sizes(self) -> tuple[int, int]:
        """Bytes of the model file and of a training state."""
        weights = _bytes(self.model.state_dict().values())
        moments = 2 if isinstance(self.optimizer, optim.AdamW) else 1
        trained = _bytes(parameter for group in self.optimizer.param_groups for parameter in group["params"])
        return weights, weights * (2 if self.average else 1) + moments * trained

    def restore(self, state: State) -> None:
        """Give model, average, optimiser and loss scaler the values that :meth:`save` wrote.

        Raises:
            GestaError: they are of another model or optimiser.
        """
        name = state.get("shards", "")
        if not (self._takes_rows(state, name) if name or self.is_sharded else self._takes(state)):
            raise GestaError(
                f"{self.run}: its training state does not fit the model and the optimiser of its recipe; put back the "
                f"{LAST} of this run, or start another run with --init.weights {self.run / 'best.safetensors'}"
            )
        if state["precision"]:  # only fp16 has one, and the state may be of another precision
            self.fabric.strategy.precision.load_state_dict(state["precision"])
        self.saved = True

    def _takes(self, state: State) -> bool:
        """Give model, average and optimiser the values of a state of one file, if they fit."""
        if not self._fits(state):
            return False
        self.model.load_state_dict(state["model"])
        self.final_model.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        return True

    def _takes_rows(self, state: State, name: str) -> bool:
        """Give model and optimiser the values of a state whose parameters are shared, or is to be, if they fit.

        Args:
            state: what ``last.ckpt`` holds.
            name: of the folder with the parameters and moments; empty if the file holds them.
        """
        saved, ours = state["optimizer"], self.optimizer.state_dict()
        parameters = {name for name, _ in self.model.named_parameters()}
        buffers = {name: value for name, value in self.model.state_dict().items() if name not in parameters}
        given = {name: value for name, value in state["model"].items() if name not in parameters}
        numbers = saved.get("state")
        source: Shards | WholeState
        if not name:
            if not self._fits(state):
                return False
            names = optimized_names(self.model, self.optimizer)
            source = WholeState({name: state["model"][name] for name in parameters}, saved["state"], names)
        elif not re.fullmatch(r"shards-\d+-of-\d+", name) or not isinstance(numbers, dict):
            return False
        else:
            source = Shards(self.run / name)
            self.shards = [name]
        step = torch.tensor(0.0)
        steps = {number: held["step"] for number, held in saved["state"].items() if "step" in held}
        fit = all(has_form_of(value, step) for value in steps.values())
        with source if isinstance(source, Shards) else contextlib.nullcontext():
            if not (
                fit and has_form_of(given, buffers) and has_form_of(saved.get("param_groups"), ours["param_groups"])
            ):
                return False
            if list(fill(self.model, self.optimizer, source, steps)):
                return False
        self.model.load_state_dict(given, strict=False)
        return True

    def _fits(self, state: State) -> bool:
        """Whether all tensors and numbers are those of this model and optimiser, except for their values."""
        weights, ours, saved = self.model.state_dict(), self.optimizer.state_dict(), state["optimizer"]
        moments = ("exp_avg", "exp_avg_sq") if isinstance(self.optimizer, optim.AdamW) else ("momentum_buffer",)
        step = {"step": torch.tensor(0.0)} if isinstance(self.optimizer, optim.AdamW) else {}
        parameters = dict(enumerate(p for group in self.optimizer.param_groups for p in group["params"]))
        forms = {i: step | dict.fromkeys(moments, parameter) for i, parameter in parameters.items()}
        of_parameters, groups = saved.get("state"), saved.get("param_groups")
        if not isinstance(of_parameters, dict) or not of_parameters.keys() <= forms.keys():
            return False
        forms = {i: forms[i] for i in of_parameters}  # a parameter without a gradient has none
        parts = (state["model"], state["weights"], of_parameters, groups)
        return all(map(has_form_of, parts, (weights, weights, forms, ours["param_groups"])))


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def has_form_of(value: Any, other: Any) -> bool:
    """Whether a part of a training state has the keys, lengths, types and shapes of another."""
    if isinstance(other, Tensor):
        return (
            isinstance(value, Tensor) and is_plain(value) and (value.shape, value.dtype) == (other.shape, other.dtype)
        )
    if isinstance(other, dict):
        return (
            isinstance(value, dict)
            and value.keys() == other.keys()
            and all(has_form_of(value[k], other[k]) for k in other)
        )
    if isinstance(other, list | tuple):
        return isinstance(value, list | tuple) and len(value) == len(other) and all(map(has_form_of, value, other))
    return value is None or other is None or type(value) is type(other) or {type(value), type(other)} == {int, float}


def set_up(
    recipe: Recipe,
    run: Path,
    *,
    resume: bool,
    quiet: bool,
    device: str | torch.device,
    interruption: Interruption,
    stack: ExitStack,
) -> Training | None:
    """Check the data, open the run folder, build the model and its optimiser, and restore the state of a stopped run.

    Args:
        recipe: is changed: its model gets as many classes as the data has.
        run: the run folder.
        resume: continue the run in that folder.
        quiet: show nothing.
        device: where it is trained, see :func:`gesta.processes.make_fabric`.
        interruption: asks the training to stop.
        stack: whose end unlocks the run folder, closes the log and ends the worker processes.

    Returns:
        What the loop needs; None if all epochs are done and evaluated.

    Raises:
        GestaError: see :func:`gesta.training.loop.train`.
    """
    config = recipe.train
    unread = processes() > 1 and config.strategy == "ddp" and bool(unread_parameters(recipe.model))
    fabric = make_fabric(config.precision, device, shard if config.strategy == "fsdp" else None, unread)
    limit_threads(fabric.device, config.workers)
    sync_bn = config.sync_bn and can_sync_batch_norms(fabric)
    data = read_data(recipe)
    classes, records, remarks = data.classes, data.records, data.remarks
    micro_batches = training_batches(records, config, 0, fabric.global_rank, fabric.world_size)
    # until here nothing was written, so a mistake in the recipe leaves no folder behind
    opened = run_in_first_process(fabric, lambda: open_run(run, recipe, resume, stack))
    videos = videos_hash(records)
    state, remark = read_state(run, videos, classes)
    remarks += [*opened.remarks, remark]
    held_out = list_hash(data.held_out)
    progress = state["progress"] if state else TrainingProgress(metric="mAP" if recipe.model.multi_label else "top-1")
    check_changes(run, opened.changes, progress, config)
    is_trained = progress.is_over(config)
    if state and not is_trained and state.get("held_out", held_out) != held_out:
        remarks.append(progress.forget_validations())
    done = progress.ended_early(config) or f"all {config.epochs} epochs are done"
    if is_trained and opened.evaluated and not opened.changes:
        if not quiet and fabric.global_rank == 0:
            show(f"{run}: {done}, and the best weights are evaluated; nothing is left to resume", sys.stderr)
        return None

    model, remark = build_model(recipe, classes, start=state is None)
    clips = len(micro_batches[0]) * config.repeats * (fabric.world_size if sync_bn else 1)
    remarks += [remark, fit_batch_norms(model, clips, config, sync_bn)]
    class_weights, remark = loss_weights(labels_in(records, by_space(classes)), classes, config, fabric.device)
    remarks.append(remark)
    dataset = TrainingClips(records, recipe.model.clip, config, classes)
    readings = dataset.readings()
    if data.held_out:
        readings += TestViews(data.held_out, recipe.model.clip, recipe.evaluate).readings()
    dataset.cache, remark = choose_cache(recipe.data.cache, [] if is_trained else readings)
    remarks.append(remark)
    batches_left = _batches_left(records, recipe, progress, fabric)
    # one loader for all epochs: its workers start once and read ahead during evaluations
    loader = Loader(dataset, batches_left, config.workers, ignore_interrupts, lambda: interruption.requested)
    training = Training(
        recipe=recipe,
        run=run,
        fabric=fabric,
        classes=classes,
        records=records,
        videos=videos,
        held_out=data.held_out,
        held_out_hash=held_out,
        cache=dataset.cache,
        test=data.test,
        progress=progress,
        model=model,
        steps_per_epoch=len(micro_batches) // config.accumulate,
        batches=stack.enter_context(contextlib.closing(iter(loader))),
        probe_clips=_probe_clips(dataset, recipe, fabric),
        interruption=interruption,
        class_weights=class_weights,
    )
    if state:
        training.restore(state)
        training.remove_dropped()  # the process may have been killed before it did
        remarks.append(
            f"{run}: {done}, so only the evaluation is left"
            if is_trained
            else f"{run}: resumes in epoch {progress.epoch + 1} after step {progress.step}"
        )
    _begin(training, opened.changes, remarks, quiet=quiet, is_trained=is_trained, stack=stack)
    return training


class Data(NamedTuple):
    """The videos of a run, with labels that it can be trained and evaluated on.

    Attributes:
        classes: class names in label order.
        records: training videos.
        held_out: validation videos; may be empty.
        test: how the best weights are scored at the end; None without held-out videos.
        remarks: what the user should know.
    """

    classes: ClassNames
    records: list[Record]
    held_out: list[Record]
    test: EvaluateConfig | None
    remarks: list[str]


def read_data(recipe: Recipe) -> Data:
    """Read the lists of a run, and give its model as many classes as the data has.

    Raises:
        GestaError: labels that do not fit, or no training videos.
    """
    classes, records = recipe.data.classes(), recipe.data.records("train")
    remarks = [fit_classes(recipe.model, recipe.data, classes)]
    check_labels(records, recipe.model)
    if recipe.model.multi_label:
        if recipe.train.balanced:
            raise GestaError(
                "train.balanced draws every class equally often, which cannot be done with videos of several classes; "
                "leave it out"
            )
        if recipe.train.class_weights:
            raise GestaError(
                "--train.class-weights counts each video for one class, and these have several; leave it out, or give "
                "--train.focal-gamma"
            )
    else:
        remarks.append(single_class(classes, (record.label for record in records)))
        remarks += [joined_classes(names) for names in by_space(classes).values()]
    remarks += [text for names in by_space(classes).values() for text in alike_classes(names)]
    held_out, test, remark = held_out_videos(recipe, classes)
    _check_validates(recipe.train, held_out)
    return Data(classes, records, held_out, test, [*remarks, remark])


def _check_validates(config: TrainConfig, held_out: Sequence[Record]) -> None:
    """Refuse settings that follow the validation of a training without validation videos."""
    for name in ("patience", "keep_best"):
        if getattr(config, name) != default_of(TrainConfig, name) and not held_out:
            flag = name.replace("_", "-")
            raise GestaError(
                f"--train.{flag} goes by the accuracy on validation videos, and the data has none: hold some out (of "
                f"folders --data.val 0.2, of lists --data.val-fraction 0.2), or leave --train.{flag} out"
            )


def build_model(recipe: Recipe, classes: ClassNames, start: bool = True) -> tuple[VideoModel, str]:
    """The model of a recipe, and a remark for the user; ``start`` gives it the weights that the recipe starts from."""
    torch.manual_seed(recipe.train.seed)
    model, init, config = recipe.model.build(), recipe.init, recipe.train
    remarks: list[str] = []
    loaded: tuple[str, ...] = ()
    if start and init.weights:
        how: dict[str, Any] = {"average": init.average, "head": init.head, "only": init.only, "classes": classes}
        report = import_weights(model, init.weights, init.min_matched, **how)
        remarks, loaded = [str(report)], report.matched
    elif start and init.expected:
        remarks = [f"starts from random weights, the paper from {init.expected} (--init.weights FILE)"]
    if start:
        check_frozen(model, config, loaded)
    if config.lora:
        remarks.append(add_adapters(model, config.lora))
    return model, "\n".join(remarks)


def fit_batch_norms(model: VideoModel, clips: int, config: TrainConfig, sync: bool) -> str:
    """Let batch norms see the clips of all processes (``sync``), and what :func:`with_few_clips` does and says."""
    if sync:
        nn.SyncBatchNorm.convert_sync_batchnorm(model)  # names and values of the weights stay the same
    return with_few_clips(model, clips, config)


def with_few_clips(model: VideoModel, clips: int, config: TrainConfig) -> str:
    """Change the batch norms of a model for so many clips per forward pass, as ``config.few_clips`` says.

    Returns:
        What was done, and warnings of statistics that are of few clips; empty if they are of enough.
    """
    if clips >= ENOUGH_CLIPS:
        return ""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    trained = len(norms) - sum(isinstance(m, Standardise) for m in norms)
    mixed = mix_statistics(model, clips) if config.few_clips == "running" else 0
    passes = f"{clips} clip{'s' * (clips > 1)} per forward pass"
    sentences = []
    if mixed:
        sentences.append(f"{mixed} batch norms mix their running statistics into those of {passes}")
    if trained > mixed:
        sentences.append(
            f"{trained - mixed} batch norms take their statistics of {passes}, which are noisy: raise "
            "--train.batch-size, lower --train.accumulate, or use --train.sync-bn True with several GPUs"
        )
    if trained < len(norms):
        sentences.append(
            f"features are standardised over {passes} together with those before, which costs some models accuracy: "
            "raise --train.batch-size or lower --train.accumulate"
        )
    return "; ".join(sentences)


def _begin(
    training: Training, changes: dict[str, str], remarks: list[str], *, quiet: bool, is_trained: bool, stack: ExitStack
) -> None:
    """Write the first things, now that nothing can be refused any more: what a refused run had written stays.

    The recipe of a run that is only evaluated is written with its result.
    """
    run, fabric, progress = training.run, training.fabric, training.progress
    if not is_trained:
        kept, keep = [progress.kept_file(*of_epoch) for of_epoch in progress.kept], training.recipe.train.keep_best
        run_in_first_process(fabric, lambda: check_space(run, *training.sizes(), kept, keep))
    silent = fabric.global_rank > 0
    openers: Openers = {}
    if not is_trained:
        progress.wandb_id = progress.wandb_id or new_wandb_id(training.recipe.train.logger)
        openers = loggers(training.recipe, run, progress.step, progress.wandb_id)
    training.log = RunLog(run, keep=progress.log_bytes, loggers=openers, quiet=quiet, silent=silent)
    stack.enter_context(contextlib.closing(training.log))
    if not is_trained:
        run_in_first_process(fabric, lambda: write_recipe(run, training.recipe, training.classes))
        training.log.start(
            {
                "step": progress.step,
                "device": describe_device(fabric.device),
                "processes": fabric.world_size,
                "precision": str(fabric.strategy.precision.precision),
                "changes": list(changes.values()),
                "remarks": list(filter(None, remarks)),
            }
        )
        if changes:
            training.save()  # or the log would be cut back to before its line about the changes
    for remark in filter(None, remarks):
        training.log.say(remark)


def held_out_videos(recipe: Recipe, classes: ClassNames) -> tuple[list[Record], EvaluateConfig | None, str]:
    """What the run will be validated and evaluated on, with labels that can be, before it is trained.

    Returns:
        The validation videos; how the best weights are scored, None without held-out videos; a remark for the user.

    Raises:
        GestaError: a label that is out of range.
    """
    other: Literal["val", "test"] = "val" if recipe.evaluate.split == "test" else "test"
    videos = {split: recipe.data.records(split) for split in ("val", recipe.evaluate.split)}
    remark, test = "", recipe.evaluate
    if not videos[test.split]:
        remark = f"the data has no {test.split} videos, so result.json will be about the {other} split"
        test, videos[other] = replace(test, split=other), recipe.data.records(other)
    for listed in videos.values():
        check_test_labels(listed, by_space(classes), recipe.model.multi_label)
    if not videos[test.split]:
        return videos["val"], None, "the data has no held-out videos at all, so there will be no result.json"
    return videos["val"], test, remark


def _batches_left(
    records: Sequence[Record], recipe: Recipe, progress: TrainingProgress, fabric: Fabric
) -> Iterator[list[tuple[int, int]]]:
    """Micro-batches of all epochs that are left, without the completed steps of the current epoch."""
    config, rank, world_size = recipe.train, fabric.global_rank, fabric.world_size
    skip = progress.epoch_steps * config.accumulate
    epochs = (training_batches(records, config, e, rank, world_size) for e in range(progress.epoch, config.epochs))
    return itertools.islice(itertools.chain.from_iterable(epochs), skip, None)


def _probe_clips(dataset: TrainingClips, recipe: Recipe, fabric: Fabric) -> Tensor | None:
    """Clips ``(B, C, T, H, W)``, the same after every epoch: not more than a training step passes at once, but two."""
    if fabric.global_rank > 0:
        return None
    config = recipe.train
    at_once = config.batch_size * config.repeats // (config.accumulate * fabric.world_size)
    count = min(PROBE_CLIPS, max(at_once, 2), len(dataset))
    samples = [dataset[0, index * len(dataset) // count] for index in range(count)]  # lists are often sorted by class
    return to_clips(collate(samples)["video"], recipe.model.clip)
