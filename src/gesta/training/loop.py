"""The training loop, top to bottom, on Lightning Fabric."""

from __future__ import annotations

import contextlib
import itertools
import math
import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional

from gesta.checkpoint import import_weights, load, save_model, save_state
from gesta.config import from_json, replace, to_json
from gesta.data.batch import Batch, Failure
from gesta.data.loader import training_batches, training_loader
from gesta.data.samples import TrainingClips, collate
from gesta.data.transforms import mix
from gesta.errors import GestaError
from gesta.evaluation.evaluate import evaluate
from gesta.evaluation.metrics import headline
from gesta.model import ClipSpec, ModelConfig, VideoModel, to_clips
from gesta.processes import (
    Interruption,
    all_failures,
    batch_norms_to_join,
    in_first_process,
    leave_interrupts_to_parent,
    make_fabric,
    mean_over_processes,
    share_processors,
)
from gesta.recipe import Recipe, TrainConfig
from gesta.records import ClassNames, Record, by_space, list_hash
from gesta.training.folder import Position, check_labels, fit_classes, open_run, read_state
from gesta.training.log import RunLog
from gesta.training.optim import build_optimizer, freeze, learning_rate, set_learning_rate

OVERFLOWS = 25
"""So many fp16 steps in a row may overflow (the loss scale is halved each time) before a run is given up."""


def train(
    recipe: Recipe, run: str | Path, *, resume: bool = False, trust_code: bool = False, quiet: bool = False
) -> Path:
    """Train a model and evaluate it; the run folder tells the whole story.

    The folder holds ``recipe.json``, ``labels.txt`` (class names), ``log.jsonl`` (see :mod:`gesta.training.log`),
    ``events`` (TensorBoard), ``last.ckpt`` (to resume from; ``previous.ckpt`` is the one before),
    ``best.safetensors`` (best validation top-1, of one clip and its central crop; the last weights if there is no
    validation split) and ``result.json`` (the best weights' result on ``recipe.evaluate.split``).

    Everything random is a function of the seed and the step, so a run that was stopped or killed at any moment and
    resumed ends with the weights of a straight run on the same device. Several processes (torchrun, srun) share each
    batch. Ctrl-C and SIGTERM end the run after the present step with exit status 130, ready to be resumed.

    Args:
        recipe: is not changed; the number of classes is taken from the data.
        run: the folder, made if absent.
        resume: go on with a run that was stopped; one that never wrote a checkpoint starts anew.
        trust_code: allow recipes that name classes outside gesta.
        quiet: show nothing but the progress of evaluations.

    Returns:
        The run folder.

    Raises:
        GestaError: a folder in use, labels that do not fit, weights that do not match, a loss that is not finite.
        SystemExit: with status 130 after an interruption.
    """
    from timm.utils import ModelEmaV3

    run, recipe = Path(run), from_json(to_json(recipe), trust_code=trust_code, source="the recipe")
    config = recipe.train
    fabric = make_fabric(config.precision)
    share_processors(fabric, config.workers)
    rank, world = fabric.global_rank, fabric.world_size
    joined = config.sync_bn and batch_norms_to_join(fabric)
    classes, records, held_out = recipe.data.classes(), recipe.data.records("train"), recipe.data.records("val")
    remarks = [fit_classes(recipe.model, classes)]
    check_labels(records, recipe.model.classes)
    remarks.append(in_first_process(fabric, lambda: open_run(run, recipe, classes, resume)))
    state = read_state(run, records) if resume else None
    at = Position(**state["at"]) if state else Position()
    log = RunLog(run, keep=at.log_bytes, step=at.step, quiet=quiet, silent=rank > 0)
    if at.epoch >= config.epochs and (run / "result.json").exists():
        log.say(f"{run}: all {config.epochs} epochs are done and evaluated; nothing is left to resume")
        log.close()
        return run
    if rank == 0:
        (run / "result.json").unlink(missing_ok=True)

    torch.manual_seed(config.seed)
    model = recipe.model.build()
    if recipe.init.weights and not state:
        remarks.append(str(import_weights(model, recipe.init.weights, recipe.init.min_matched)))
    if joined:
        nn.SyncBatchNorm.convert_sync_batchnorm(model)  # names and values of weights stay
    frozen_norms = freeze(model, config.freeze)
    optimizer = build_optimizer(model, config)
    compiled: Any = torch.compile(model) if config.compile else model
    forward, stepper = fabric.setup(compiled, optimizer)
    average = ModelEmaV3(model, decay=config.ema) if config.ema is not None else None
    weights = average.module if average else model  # what is evaluated and kept
    if state:
        model.load_state_dict(state["model"])
        weights.load_state_dict(state["weights"])
        optimizer.load_state_dict(state["optimizer"])
        fabric.strategy.precision.load_state_dict(state["precision"])
        remarks.append(f"{run}: goes on in epoch {at.epoch + 1} after step {at.step}")
    dataset = TrainingClips(records, recipe.model.clip, config, classes)
    watched = _some_clips(dataset, recipe.model.clip, fabric.device) if rank == 0 and recipe.model.inserts else None
    rest = (training_batches(records, config, epoch, rank, world) for epoch in range(at.epoch, config.epochs))
    behind = at.done * config.accumulate
    loader = training_loader(
        dataset,
        itertools.islice(itertools.chain.from_iterable(rest), behind, None),
        config.workers,
        leave_interrupts_to_parent,
    )
    samples = iter(loader)  # one for all epochs: its workers start once, and read ahead during evaluations
    started, saved = False, time.monotonic()

    def save() -> None:
        nonlocal saved
        if rank == 0:
            at.log_bytes = log.position()
            content = {"at": asdict(at), "videos": list_hash(records), "model": model.state_dict()}
            content |= {"optimizer": optimizer.state_dict(), "precision": fabric.strategy.precision.state_dict()}
            save_state(run / "last.ckpt", content | {"weights": weights.state_dict()})
        saved = time.monotonic()

    with contextlib.closing(log), Interruption() as interruption, _leaving(log, run):
        for remark in filter(None, remarks):
            log.say(remark)
        while at.epoch < config.epochs:
            steps = len(training_batches(records, config, at.epoch, rank, world)) // config.accumulate
            model.train()
            for norm in frozen_norms:
                norm.eval()
            log.begin_epoch(at.epoch + 1, config.epochs, at.done, steps)

            while at.done < steps:
                began, waited, clips = time.monotonic(), 0.0, 0
                rate = learning_rate(config, at.epoch + at.done / steps)
                set_learning_rate(optimizer, rate)
                sums: dict[str, Tensor] = {}
                unread: list[Failure] = []
                for part in range(config.accumulate):
                    asked = time.monotonic()
                    try:
                        batch = next(samples)
                    except RuntimeError:
                        if not interruption.asked:
                            raise
                        if part == 0:  # Ctrl-C reached a worker that was just starting; the model is untouched
                            save()
                        raise KeyboardInterrupt from None
                    waited += time.monotonic() - asked
                    torch.manual_seed(_seed(config.seed, at.step, part, rank))
                    with fabric.no_backward_sync(forward, enabled=part + 1 < config.accumulate):
                        losses = _losses(forward, batch, recipe.model, config, fabric.device)
                        fabric.backward(losses["loss"] / config.accumulate)
                    for name, value in losses.items():
                        sums[name] = sums.get(name, 0.0) + value.detach() / config.accumulate
                    clips += batch["video"].shape[0] * batch["video"].shape[1] * world
                    unread += batch["failures"]
                limit = math.inf if config.clip_grad is None else config.clip_grad
                gradient = fabric.clip_gradients(forward, stepper, max_norm=limit, error_if_nonfinite=False)
                means = mean_over_processes(fabric, sums | {"grad_norm": gradient, "stop": float(interruption.asked)})
                stop, grad_norm, loss = means.pop("stop"), means.pop("grad_norm"), means.pop("loss")
                _must_be_finite(loss, grad_norm, at, fabric, run)
                stepper.step()
                stepper.zero_grad()
                if average:
                    average.update(model)

                seconds = time.monotonic() - began
                starting, started = (0.0 if started else waited), True  # the first wait is for the workers to start
                at.add(loss, clips, seconds - starting, waited - starting)
                at.failures |= {failure.name: failure.reason for failure in unread}
                entry = {"epoch": at.epoch + 1, "step": at.step, "loss": loss, "losses": means, "lr": rate}
                entry |= {"grad_norm": grad_norm, "data_s": waited, "compute_s": seconds - waited}
                log.step(entry | {"failures": [failure.name for failure in unread]}, at)
                if stop or time.monotonic() - saved > config.save_every_s:
                    save()
                if stop:
                    raise KeyboardInterrupt

            log.end_epoch()
            epoch, last = at.epoch + 1, at.epoch + 1 == config.epochs
            metrics = None
            if held_out and (last or (config.validate_every and epoch % config.validate_every == 0)):
                save()  # an evaluation may be broken off anywhere
                with interruption.at_once():
                    metrics = _validate(weights, held_out, classes, recipe, fabric)
            top1 = headline(metrics)
            best = top1 is not None and (at.best is None or top1 >= at.best)  # a draw goes to the later
            at.best = top1 if best else at.best
            if rank == 0 and (best or (last and at.best is None)):
                notes = {"recipe": recipe.name, "paper": recipe.paper, "epoch": epoch, "val": metrics}
                save_model(
                    run / "best.safetensors",
                    weights,
                    classes,
                    depth=records[0].depth,
                    person_crop=any(record.masks for record in records),
                    notes=notes,
                )
            at.failures = all_failures(fabric, at.failures)
            said = {} if watched is None else model.diagnose(watched)
            log.epoch(epoch, config.epochs, metrics, top1, said, at)
            at = Position(epoch=epoch, step=at.step, best=at.best, overflows=at.overflows)
            save()

        with interruption.at_once():
            _evaluate_best(run, recipe, classes, fabric, log, trust_code)
    return run


def _some_clips(dataset: TrainingClips, spec: ClipSpec, device: torch.device) -> Tensor:
    """A few clips, the same after every epoch, on which the plug-ins say what they do."""
    return to_clips(collate([dataset[0, index] for index in range(min(8, len(dataset)))])["video"].to(device), spec)


def _losses(
    forward: Callable[..., Any], batch: Batch, model: ModelConfig, config: TrainConfig, device: torch.device
) -> dict[str, Tensor]:
    """Losses of a batch by name; ``"loss"`` is what is minimised.

    The cross-entropies of several label spaces are averaged; the model's own losses are added as they are.
    """
    video = batch["video"].to(device, non_blocking=True)
    clips = to_clips(video, model.clip)
    targets = {k: v.to(device, non_blocking=True).repeat_interleave(video.shape[1]) for k, v in batch["label"].items()}
    if config.mixup or config.cutmix:
        clips, targets = mix(clips, targets, config, model.classes)
    scores, extra = forward(clips, with_losses=True)
    spaces = by_space(scores)
    losses = {
        "cross_entropy" if len(spaces) == 1 else f"cross_entropy/{space}": functional.cross_entropy(
            values.float(), targets[space], label_smoothing=config.label_smoothing
        )
        for space, values in spaces.items()
    }
    loss = torch.stack(list(losses.values())).mean() + sum(extra.values())
    return {"loss": loss, **losses, **extra}


def _must_be_finite(loss: float, grad_norm: float, at: Position, fabric: Fabric, run: Path) -> None:
    """Stop a run whose weights the present step would ruin; fp16 overflows are left to the loss scaler for a while."""
    if math.isfinite(loss) and math.isfinite(grad_norm):
        at.overflows = 0
        return
    at.overflows += 1
    if getattr(fabric.strategy.precision, "scaler", None) is not None and at.overflows < OVERFLOWS:
        return
    kept = "; last.ckpt still holds good weights" if (run / "last.ckpt").exists() else ""
    raise GestaError(
        f"{run}: in epoch {at.epoch + 1}, step {at.step + 1}, the loss became {loss:g} with a gradient of norm "
        f"{grad_norm:g}; lower --train.lr, lengthen --train.warmup-epochs or use a wider --train.precision{kept}"
    )


def _validate(
    model: VideoModel, held_out: list[Record], classes: ClassNames, recipe: Recipe, fabric: Fabric
) -> dict[str, float]:
    """Metrics of one clip and its central crop per video, in all processes."""
    protocol = replace(recipe.evaluate, split="val", clips=1, crops=1, coverage="even")
    return evaluate(model, held_out, config=protocol, classes=classes, fabric=fabric).metrics


def _evaluate_best(
    run: Path, recipe: Recipe, classes: ClassNames, fabric: Fabric, log: RunLog, trust_code: bool
) -> None:
    """Write ``result.json``: the best weights, as read back from their file, on the recipe's split."""
    protocol = recipe.evaluate
    records = recipe.data.records(protocol.split)
    if not records:
        other: Literal["val", "test"] = "val" if protocol.split == "test" else "test"
        log.say(f"the data has no {protocol.split} videos, so result.json is about the {other} split")
        protocol, records = replace(protocol, split=other), recipe.data.records(other)
    if not records:
        log.say("the data has no held-out videos at all, so there is no result.json")
        return
    fabric.barrier()
    result = evaluate(load(run, trust_code=trust_code), recipe.data, config=protocol, fabric=fabric)
    if fabric.global_rank == 0:
        result.write(run / "result.json")
        log.say(str(result))


def _seed(seed: int, *numbers: int) -> int:
    """A seed that depends on all arguments and on nothing else."""
    return int(np.random.SeedSequence([seed % 2**32, *numbers]).generate_state(1, np.uint64)[0] >> 1)


@contextlib.contextmanager
def _leaving(log: RunLog, run: Path) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        log.end_epoch()
        log.say(f"stopped; go on with: gesta train --resume --run {shlex.quote(str(run))}")
        raise SystemExit(130) from None
