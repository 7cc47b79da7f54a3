"""LoRA: linear layers learn a change of low rank, and all else of the blocks stays as it is. Through ``peft``.

Source: E. J. Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, §4.1: a layer computes
``W x + (alpha / rank) · B A x``, where A ``(rank, inputs)`` starts at random and B ``(outputs, rank)`` at zero. The
head (last norm, readout, classifier) and plug-ins, which weights of a backbone seldom have, are trained as a whole.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gesta.errors import GestaError
from gesta.layers.attentive import QueryValueLinear
from gesta.model import VideoModel
from gesta.recipe import LoRA

_PARTS = {"attn": {"attn", "temporal", "cross"}, "mlp": {"mlp"}}
"""Each of :attr:`LoRA.targets`, and the words in the names of such parts of a block."""

_SHOWN = 4  # names in a sentence


def adapted_layers(model: VideoModel, targets: tuple[str, ...]) -> list[str]:
    """Names of the linear layers of a model's blocks that belong to the targets, see :class:`gesta.recipe.LoRA`.

    Raises:
        GestaError: there is none of a target; names what the blocks have.
    """
    kinds = {name: _kind(name, block) for block in model._blocks_by_name() for name in _linear_layers(model, block)}
    for target in targets:
        if target in kinds.values():
            continue
        known = ", ".join(sorted(set(kinds.values()) & _PARTS.keys()))
        others = ", ".join(list(kinds)[:_SHOWN])
        remedy = (
            f"its blocks have those of {known}: use --train.lora.targets {known.replace(',', '')}" if known
            else f"its blocks have {others or 'no linear layers at all'}: train it without --train.lora"
        )  # fmt: skip
        raise GestaError(f"train.lora.targets: {type(model).__name__} has no linear layers of {target}; {remedy}")
    return [name for name, kind in kinds.items() if kind in targets]


def _linear_layers(model: VideoModel, block: str) -> list[str]:
    """Names of the layers of a block that compute W x + b and nothing else: not of classes with another forward."""
    layers = (nn.Linear, QueryValueLinear)
    return [name for name, module in model.named_modules() if name.startswith(block) and type(module) in layers]


def _kind(name: str, block: str) -> str:
    """The target that a layer of a block belongs to; empty for none. An MLP inside an attention's part is an MLP."""
    words = set(name.removeprefix(block).split("."))
    return next((target for target in ("mlp", "attn") if words & _PARTS[target]), "")


def add_adapters(model: VideoModel, config: LoRA) -> str:
    """Put adapters around a model's layers, in place.

    Returns:
        What is trained, in a sentence.

    Raises:
        GestaError: no such layers, see :func:`adapted_layers`, or ``peft`` is not installed.
    """
    names = adapted_layers(model, config.targets)
    try:
        from peft import LoraConfig, inject_adapter_in_model  # an optional dependency, and start-up time
        from peft.tuners.tuners_utils import BaseTunerLayer
    except ImportError:
        raise GestaError("train.lora: peft is not installed; pip install 'gesta[lora]', or train without it") from None
    layers = "|".join(map(re.escape, names))  # a list of names would be one of endings
    how = LoraConfig(r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=layers)
    trained = {parameter: parameter.requires_grad for parameter in model.parameters()}
    inject_adapter_in_model(how, model)
    for parameter, is_trained in trained.items():  # which parameters are frozen is not for peft to say
        parameter.requires_grad_(is_trained)
    layers_around: list[Any] = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers_around:  # autocast casts their input; peft would keep a copy of it in 32 bits first
        layer.cast_input_dtype_enabled = False
    count = sum(p.numel() for name, p in model.named_parameters() if is_adapter(name))
    whole = sum(p.numel() for p in model.parameters()) - count
    return (
        f"LoRA: {count:,} parameters of rank {config.rank} in {len(names)} layers ({', '.join(config.targets)}) are "
        f"trained, and the head and plug-ins; of {whole:,} parameters the others stay as they are"
    )


def is_adapter(name: str) -> bool:
    """Whether a parameter's name is that of an adapter."""
    return ".lora_A." in name or ".lora_B." in name


def backbone_prefixes(model: VideoModel) -> tuple[str, ...]:
    """Beginnings of the names of the backbone's parameters, of which LoRA trains only the adapters."""
    head = len(model.blocks) + 1
    names = [n for n, _ in model.named_parameters() if not n.startswith("inserts.") and model.depth_of(n) < head]
    return tuple({f"{owner}." if (owner := name.rpartition(".")[0]) else name for name in names})


def unchanged_adapters(weights: Mapping[str, Tensor]) -> list[str]:
    """A sentence about adapters that training has not changed, if there are any; no gradient reaches them."""
    names = [n.partition(".lora_B.")[0] for n, value in weights.items() if ".lora_B." in n and not torch.any(value)]
    if not names:
        return []
    shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
    return [f"LoRA has not changed {shown}: no gradient reaches these layers, so they stay as they were"]
