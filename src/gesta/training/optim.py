"""Which parameters are trained, how fast, and how that changes over the epochs."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

from torch import nn, optim

from gesta.errors import GestaError
from gesta.model import VideoModel, check_names
from gesta.recipe import TrainConfig
from gesta.training.lora import backbone_prefixes, is_adapter


def learning_rate(config: TrainConfig, epoch: float) -> float:
    """The learning rate at a fractional epoch, before a group's own factor.

    Linear warm-up from ``warmup_lr`` to ``lr``; then a half cosine from ``lr`` to ``min_lr`` over the remaining epochs
    (I. Loshchilov, F. Hutter, "SGDR", ICLR 2017, Eq. 5), or ``lr`` times ``gamma`` per milestone passed, or ``lr``.
    """
    lr, warmup_epochs, warmup_lr, min_lr, _ = config.rates()
    if epoch < warmup_epochs:
        return warmup_lr + (lr - warmup_lr) * epoch / warmup_epochs
    if config.schedule == "cosine":
        progress = (epoch - warmup_epochs) / max(config.epochs - warmup_epochs, 1e-12)
        return min_lr + (lr - min_lr) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2
    if config.schedule == "steps":
        return lr * config.gamma ** sum(epoch >= milestone for milestone in config.milestones)
    return lr


def set_learning_rate(optimizer: optim.Optimizer, rate: float) -> None:
    """Give every group ``rate`` times its own factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_factor"]


def freeze(model: VideoModel, prefixes: tuple[str, ...]) -> list[nn.Module]:
    """Exclude the parameters whose names begin with one of ``prefixes`` from training, but no adapters.

    Returns:
        The batch norms among them, which have to stay in evaluation mode.

    Raises:
        GestaError: a prefix that no parameter has.
    """
    if not prefixes:
        return []
    check_names(model, prefixes, "--train.freeze")
    for name, parameter in model.named_parameters():
        if name.startswith(prefixes):
            parameter.requires_grad_(is_adapter(name))
    norms = (nn.modules.batchnorm._BatchNorm,)
    return [m for name, m in model.named_modules() if isinstance(m, norms) and f"{name}.".startswith(prefixes)]


def frozen_prefixes(model: VideoModel, config: TrainConfig) -> tuple[str, ...]:
    """What :func:`freeze` is given for a training: ``config.freeze``, or with LoRA the whole backbone."""
    return backbone_prefixes(model) if config.lora else config.freeze


def check_frozen(model: VideoModel, config: TrainConfig, loaded: Collection[str] = ()) -> None:
    """Refuse to freeze parameters that no weights were loaded into, unless these are vectors (of norms) or zero.

    Args:
        model: with the weights that training starts from.
        config: what is frozen.
        loaded: names of the parameters that these weights had.

    Raises:
        GestaError: names what would stay random.
    """
    prefixes, which = frozen_prefixes(model, config), "lora" if config.lora else "freeze"
    for name, parameter in model.named_parameters():
        if not prefixes or not name.startswith(prefixes) or name in loaded or parameter.ndim < 2:
            continue
        if parameter.is_meta or parameter.any():
            raise GestaError(
                f"train.{which} keeps {name} and others as they are, which are random: give a run folder or a "
                f"checkpoint in which they are trained by --init.weights, or train without --train.{which}"
            )


def parameter_groups(model: VideoModel, config: TrainConfig) -> list[dict[str, Any]]:
    """Trainable parameters, grouped by weight decay and learning-rate factor.

    Biases and 1-D parameters (unless ``config.decay_biases``), those of ``model.no_weight_decay()`` and those whose
    names contain a fragment of ``config.no_decay`` are not decayed. The factor is ``layer_decay ** (D - d)`` for depth
    d of D, times the multiplier of the longest matching prefix.

    Returns:
        Groups with ``params``, ``weight_decay`` and ``lr_factor``, in the order of the model's parameters.

    Raises:
        GestaError: a multiplier's prefix or a fragment of ``config.no_decay`` that no parameter has, or nothing left to
            train.
    """
    check_names(model, tuple(config.lr_multipliers), "--train.lr-multipliers", trained=True)
    check_names(model, config.no_decay, "--train.no-decay", anywhere=True, trained=True)
    exempt, layer_decay = model.no_weight_decay(), config.rates().layer_decay
    deepest = len(model.blocks) + 1
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        bias = (parameter.ndim <= 1 or name.endswith(".bias")) and not config.decay_biases
        decay = 0.0 if bias or name in exempt or any(part in name for part in config.no_decay) else config.weight_decay
        factor = layer_decay ** (deepest - model.depth_of(name)) if layer_decay != 1 else 1.0
        factor *= config.lr_multipliers.get(
            max((p for p in config.lr_multipliers if name.startswith(p)), key=len, default=""), 1.0
        )
        group = groups.setdefault((decay, factor), {"params": [], "weight_decay": decay, "lr_factor": factor})
        group["params"].append(parameter)
    if not groups:
        raise GestaError("--train.freeze leaves no parameter to train; name fewer prefixes")
    return list(groups.values())


def build_optimizer(model: VideoModel, config: TrainConfig) -> optim.Optimizer:
    """AdamW or SGD over :func:`parameter_groups`."""
    groups, lr = parameter_groups(model, config), config.rates().lr
    if config.optimizer == "adamw":
        return optim.AdamW(groups, lr=lr, betas=config.betas)
    return optim.SGD(groups, lr=lr, momentum=config.momentum, nesterov=config.nesterov)
