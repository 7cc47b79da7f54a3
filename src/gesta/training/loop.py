"""The training loop, top to bottom, on Lightning Fabric."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from gesta.checkpoint import save_model
from gesta.config import check, from_json, replace, to_json
from gesta.evaluation.evaluate import evaluate
from gesta.evaluation.health import Health, measure_health
from gesta.evaluation.metrics import headline
from gesta.processes import Interruption, gather_failures, is_first_process
from gesta.recipe import Recipe, with_absolute_paths
from gesta.training.folder import BEST, TrainingProgress, derive_rates, write_result
from gesta.training.loggers import check_loggers
from gesta.training.lora import unchanged_adapters
from gesta.training.probe import train_probe
from gesta.training.setup import Training, set_up
from gesta.training.step import train_step


def train(
    recipe: Recipe,
    run: str | Path,
    *,
    resume: bool = False,
    trust_code: bool = False,
    quiet: bool = False,
    device: str | torch.device = "auto",
) -> Path:
    """Train a model and evaluate it; the run folder holds everything about it.

    The folder holds ``recipe.json``, ``labels.txt`` (class names), ``log.jsonl`` (see :mod:`gesta.training.log`),
    ``events`` (TensorBoard, see ``train.logger``), ``last.ckpt`` (to resume from; ``previous.ckpt`` is the one before),
    ``best.safetensors`` (best validation top-1, of one clip and its central crop; the last weights if there is no
    validation split; ``train.keep_best`` keeps those of further epochs) and ``result.json`` (the best weights' result
    on ``recipe.evaluate.split``).

    With ``recipe.probe`` the model is not trained but probes on its features, see :mod:`gesta.training.probe`.

    Everything random is a function of the seed and the step, so a run that was stopped or killed at any moment and
    resumed ends with the weights of an uninterrupted run on the same device. Several processes (torchrun, srun) share
    each batch. Ctrl-C and SIGTERM end the run after the current step with exit status 130, ready to be resumed.

    Args:
        recipe: is not changed; the number of classes is taken from the data.
        run: the folder, made if absent.
        resume: continue a run that was stopped. One that never wrote a training state begins again, also without this
            and with another recipe.
        trust_code: allow recipes that name classes outside gesta.
        quiet: show nothing but the progress of evaluations.
        device: ``auto`` takes the first accelerator there is; several processes share the devices of a kind. The
            precision is the recipe's ``train.precision``.

    Returns:
        The run folder.

    Raises:
        GestaError: a value that is not allowed, see :func:`gesta.config.check`; a folder in use (by another process,
            too), training states that are gone from a run that has finished an epoch, other videos than those that the
            run was started with, a disk that is full or too small for the checkpoints, labels that do not fit, weights
            that do not match, a loss that is not finite. What is refused before the first step changes nothing.
        SystemExit: with status 130 after an interruption.
    """
    run = Path(run)
    check(recipe, "the recipe")
    recipe = from_json(to_json(recipe), trust_code=trust_code, source="the recipe")  # a copy, as read from its file
    recipe = with_absolute_paths(recipe)  # a run may be resumed or evaluated from another folder
    derive_rates(recipe, run if resume else None)
    check_loggers(recipe.train.logger)
    check(recipe, "the recipe")  # a value given may contradict one derived, or one of the run
    with Interruption() as interruption, contextlib.ExitStack() as stack, _exit_on_interrupt(interruption, run, quiet):
        how: dict[str, Any] = {"resume": resume, "quiet": quiet, "device": device, "stack": stack}
        if recipe.probe is not None:
            with interruption.at_once():
                train_probe(recipe, run, trust_code=trust_code, **how)
            return run
        with interruption.at_once():
            training = set_up(recipe, run, interruption=interruption, **how)
        if training is None:
            return run
        while not training.progress.is_over(recipe.train):
            train_epoch(training)
            finish_epoch(training)
        with interruption.at_once():  # all is saved
            if training.test is not None:
                test, say = training.test, training.log.say
                early = training.progress.ended_early(recipe.train)
                write_result(run, recipe, training.classes, test, training.fabric, say, trust_code, early)
    return run


def train_epoch(training: Training) -> None:
    """Do the steps that are left of the current epoch, and save the state now and then."""
    config, progress, steps = training.recipe.train, training.progress, training.steps_per_epoch
    # everything but frozen batch norms is in training mode; an evaluation has left the model in its own mode
    training.model.train()
    for norm in training.frozen_norms:
        norm.eval()
    training.log.begin_epoch(progress.epoch + 1, config.epochs, progress.epoch_steps, steps)
    while progress.epoch_steps < steps:
        stop = train_step(training)
        if stop or training.save_due:
            training.save()
        if stop:
            raise KeyboardInterrupt
    training.log.end_epoch()


def finish_epoch(training: Training) -> None:
    """Validate, keep the best weights, log the epoch, and save the state at the beginning of the next one."""
    recipe, fabric, progress = training.recipe, training.fabric, training.progress
    epoch = progress.epoch + 1
    last = epoch == recipe.train.epochs
    every = recipe.train.validate_every
    metrics = None
    validates = bool(training.held_out) and (last or bool(every and epoch % every == 0))
    if validates or not training.saved:  # the evaluation can be broken off anywhere; no weights without a state
        training.save()
    training.share_statistics()
    training.gather_weights()
    if validates:
        with training.interruption.at_once():
            metrics = _validate(training)
    top1, before = headline(metrics), progress.kept
    if top1 is not None:
        progress.since_best = 0 if progress.best_top1 is None or top1 > progress.best_top1 else progress.since_best + 1
        progress.best_top1 = max(top1, progress.best_top1 or 0.0)
        progress.kept = _best_epochs([*progress.kept, (epoch, top1)], recipe.train.keep_best)
    if top1 == progress.best_top1 and (last or top1 is not None):  # of equals the later, without validation the last
        _save_weights(training, BEST, epoch, metrics)
    if top1 is not None and (epoch, top1) in progress.kept:
        _save_weights(training, progress.kept_file(epoch, top1), epoch, metrics)
    progress.failures = gather_failures(fabric, progress.failures)
    probe = training.probe_clips
    health = Health() if probe is None else measure_health(training.final_model, probe.to(fabric.device))
    health.faults.extend(
        unchanged_adapters(training.final_model.state_dict() if training.is_sharded else training.model.state_dict())
    )
    training.log.epoch(recipe.train.epochs, metrics, top1, health, progress, show_faults=validates or last)
    if average := training.describe_average():
        training.log.say(average)
    names = ("step", "metric", "best_top1", "since_best", "kept", "wandb_id", "overflows")
    carried = {name: getattr(progress, name) for name in names}
    dropped = [of_epoch for of_epoch in before if of_epoch not in progress.kept]
    training.progress = TrainingProgress(epoch=epoch, dropped=dropped, **carried)
    if early := training.progress.ended_early(recipe.train):
        training.log.end_early(epoch, progress.step, early)
    training.save()
    training.remove_dropped()
    training.gathered = None


def _best_epochs(epochs: list[tuple[int, float]], keep: int) -> list[tuple[int, float]]:
    """Those with the best top-1, of equals the later ones; a single one is in ``best.safetensors`` already."""
    return sorted(epochs, key=lambda of_epoch: (of_epoch[1], of_epoch[0]), reverse=True)[: keep if keep > 1 else 0]


def _save_weights(training: Training, name: str, epoch: int, metrics: dict[str, float] | None) -> None:
    """Write a self-sufficient model file of the current weights into the run folder."""
    recipe = training.recipe
    if training.fabric.global_rank == 0:
        save_model(
            training.run / name,
            training.final_model,
            training.classes,
            shows=training.records[0].shows,
            person_crop=any(record.masks for record in training.records),
            protocol=recipe.evaluate,
            notes={"recipe": recipe.name, "paper": recipe.paper, "epoch": epoch, "val": metrics},
            weights=training.plain_weights(),
        )


def _validate(training: Training) -> dict[str, float]:
    """Metrics of one clip and its central crop per validation video, in all processes."""
    config = replace(training.recipe.evaluate, split="val", clips=1, crops=1, coverage="even")
    result = evaluate(
        training.final_model,
        training.held_out,
        views=config,
        classes=training.classes,
        fabric=training.fabric,
        cache=training.cache,
    )
    return result.metrics


@contextlib.contextmanager
def _exit_on_interrupt(interruption: Interruption, run: Path, quiet: bool) -> Iterator[None]:
    """End the program in order after Ctrl-C or SIGTERM, and say how to resume."""
    try:
        yield
    except KeyboardInterrupt:
        interruption.ignore()
        if is_first_process() and not quiet:
            begun = (run / "recipe.json").exists()
            flag = "--run-dir" if "TORCHELASTIC_RUN_ID" in os.environ else "--run"  # torchrun swallows --run
            how = f"; resume with: gesta train --resume {flag} {shlex.quote(str(run))}" if begun else ""
            print(f"stopped{how or ' before the training began'}", file=sys.stderr, flush=True)
        raise SystemExit(130) from None
