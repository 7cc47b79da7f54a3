"""One optimiser step: losses of its micro-batches, gradients, the update, and its line in the log."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from gesta.data.batch import Batch, Failure
from gesta.data.mix import mix, multi_hot
from gesta.errors import GestaError
from gesta.model import ModelConfig, to_clips
from gesta.processes import mean_over_processes
from gesta.recipe import TrainConfig
from gesta.records import by_space, name_with_segment
from gesta.training.loss import class_loss
from gesta.training.optim import learning_rate, set_learning_rate
from gesta.training.setup import Training

MAX_OVERFLOWS = 25
"""So many fp16 steps in a row may overflow (the loss scale is halved each time) before a run is given up."""


@dataclass
class Hits:
    """Clips of which the most probable class is right; with several label spaces, of which all of them are.

    Attributes:
        right, counted: numbers of clips; a tensor on the device, so that counting does not wait for it.
    """

    right: Tensor | float = 0.0
    counted: int = 0

    def add(self, scores: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> None:
        """Count a batch: scores ``(N, K)`` and classes ``(N,)`` by label space."""
        right = torch.stack([values.argmax(1) == targets[space] for space, values in scores.items()]).all(0)
        self.right, self.counted = self.right + right.sum(), self.counted + len(right)


@dataclass
class _Accumulated:
    """What the micro-batches of one step add up to.

    Attributes:
        losses: name → mean over this process's micro-batches.
        clips: trained on, in all processes.
        hits: of the clips of this process.
        failures: videos that could not be read.
        data_s: seconds spent waiting for data.
    """

    losses: dict[str, Tensor] = field(default_factory=dict)
    clips: int = 0
    hits: Hits = field(default_factory=Hits)
    failures: list[Failure] = field(default_factory=list)
    data_s: float = 0.0


def train_step(training: Training) -> bool:
    """Do one optimiser step and log it.

    Returns:
        Whether any process has been asked to stop.

    Raises:
        GestaError: the loss or the gradient is not finite; the weights are untouched.
        KeyboardInterrupt: after a signal during the step, if no batch came any more.
    """
    config, fabric, progress = training.recipe.train, training.fabric, training.progress
    began = time.monotonic()
    lr = learning_rate(config, progress.epoch + progress.epoch_steps / training.steps_per_epoch)
    set_learning_rate(training.optimizer, lr)
    sums = _accumulate_gradients(training)
    max_norm = math.inf if config.clip_grad is None else config.clip_grad  # at infinity the norm is only measured
    norm = fabric.clip_gradients(training.forward, training.stepper, max_norm=max_norm, error_if_nonfinite=False)

    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    # one exchange per step: processes agree on losses, norm and whether to stop or save, so that all do after the same
    save = time.monotonic() - training.saved_s > config.save_every_s
    others = {"grad_norm": norm, "stop": float(training.interruption.requested), "save": float(save)}
    means = mean_over_processes(fabric, sums.losses | others | {"right": sums.hits.right, "counted": sums.hits.counted})
    training.save_due = bool(means.pop("save"))
    stop, grad_norm, loss = means.pop("stop"), means.pop("grad_norm"), means.pop("loss")
    right, counted = means.pop("right"), means.pop("counted")
    _check_finite(training, loss, grad_norm)
    training.stepper.step()
    training.stepper.zero_grad()
    training.average_weights()

    seconds = time.monotonic() - began
    start_s = 0.0 if training.workers_started else sums.data_s  # no sign of a slow loader, so it does not count
    training.workers_started = True
    progress.add(loss, sums.clips, seconds - start_s, sums.data_s - start_s)
    progress.right, progress.counted = progress.right + right, progress.counted + counted
    failures = {name_with_segment(training.records[failure.index]): failure.reason for failure in sums.failures}
    progress.failures |= failures
    entry = {
        "epoch": progress.epoch + 1,
        "step": progress.step,
        "loss": loss,
        "losses": means,
        "lr": lr,
        "grad_norm": grad_norm,
        "data_s": sums.data_s,
        "compute_s": seconds - sums.data_s,
        "failures": list(failures),
    }
    training.log.step(entry, progress)
    return bool(stop)


def _accumulate_gradients(training: Training) -> _Accumulated:
    """Forward and backward passes over the micro-batches of one step."""
    config, fabric, sums = training.recipe.train, training.fabric, _Accumulated()
    for part in range(config.accumulate):
        wait_began = time.monotonic()
        batch = _next_batch(training, part)
        sums.data_s += time.monotonic() - wait_began
        # what the model draws (dropout, mixing) depends on the step alone, so that a resumed run draws the same
        torch.manual_seed(_seed(config.seed, training.progress.step, part, fabric.global_rank))
        with fabric.no_backward_sync(training.forward, enabled=part + 1 < config.accumulate):
            how = training.recipe.model, config, fabric.device, training.class_weights, sums.hits
            losses = batch_losses(training.forward, batch, *how)
            fabric.backward(losses["loss"] / config.accumulate)
        for name, value in losses.items():
            sums.losses[name] = sums.losses.get(name, 0.0) + value.detach() / config.accumulate
        videos, views = batch["video"].shape[:2]
        sums.clips += videos * views * fabric.world_size
        sums.failures += batch["failures"]
    return sums


def _next_batch(training: Training, part: int) -> Batch:
    try:
        return next(training.batches)
    except (RuntimeError, OSError, EOFError):
        if not training.interruption.requested:
            raise
        # the signal reached the workers, too; no gradient has been added yet (shares are saved by all processes)
        if part == 0 and not training.is_sharded:
            training.save()
        raise KeyboardInterrupt from None


def batch_losses(
    forward: Callable[..., Any],
    batch: Batch,
    model: ModelConfig,
    config: TrainConfig,
    device: torch.device,
    class_weights: Mapping[str, Tensor] | None = None,
    hits: Hits | None = None,
) -> dict[str, Tensor]:
    """Losses of a batch by name; ``"loss"`` is what is minimised.

    The cross-entropies of several label spaces are averaged; the model's own losses are added as they are. Of
    multi-label data it is the binary cross-entropy, the mean over clips and classes. ``class_weights`` are those of
    :func:`gesta.training.loss.loss_weights`. A model that gives no scores (masked pretraining) has its own losses
    alone. The clips of the batch are added to ``hits``, unless they are mixed or have several classes.
    """
    video = batch["video"].to(device, non_blocking=True)
    clips = to_clips(video, model.clip)
    labels = batch["label"].items()
    targets = {k: v.to(device, non_blocking=True).repeat_interleave(video.shape[1], 0) for k, v in labels}
    if config.mixup or config.cutmix:
        clips, targets = mix(clips, targets, config, model.classes)
    elif model.multi_label:
        targets = {space: multi_hot(values, by_space(model.classes)[space]) for space, values in targets.items()}
    scores, extra = forward(clips, with_losses=True)
    spaces = by_space(scores)
    if hits is not None and spaces and not (config.mixup or config.cutmix or model.multi_label):
        hits.add({space: values.detach() for space, values in spaces.items()}, targets)
    name = "focal" if config.focal_gamma else "binary_cross_entropy" if model.multi_label else "cross_entropy"
    how: dict[str, Any] = {"multi_label": model.multi_label, "smoothing": config.label_smoothing}
    how["gamma"] = config.focal_gamma
    losses = {
        name if len(spaces) == 1 else f"{name}/{space}": class_loss(
            values.float(), targets[space], weights=(class_weights or {}).get(space), **how
        )
        for space, values in spaces.items()
    }
    parts = [torch.stack(list(losses.values())).mean()] if losses else []
    return {"loss": sum([*parts, *extra.values()]), **losses, **extra}


def _check_finite(training: Training, loss: float, grad_norm: float) -> None:
    """Stop a run whose weights this step would ruin; some fp16 overflows are left to the loss scaler."""
    progress, run = training.progress, training.run
    if math.isfinite(loss) and math.isfinite(grad_norm):
        progress.overflows = 0
        return
    progress.overflows += 1
    scaler = getattr(training.fabric.strategy.precision, "scaler", None)
    if scaler is not None and progress.overflows < MAX_OVERFLOWS:
        return
    kept = "; last.ckpt still holds good weights" if (run / "last.ckpt").exists() else ""
    raise GestaError(
        f"{run}: in epoch {progress.epoch + 1}, step {progress.step + 1}, the loss became {loss:g} with a gradient of "
        f"norm {grad_norm:g}; lower --train.lr, lengthen --train.warmup-epochs or use a wider --train.precision{kept}"
    )


def _seed(seed: int, *numbers: int) -> int:
    """A seed that depends on all arguments and on nothing else."""
    return int(np.random.SeedSequence([seed % 2**32, *numbers]).generate_state(1, np.uint64)[0] >> 1)
