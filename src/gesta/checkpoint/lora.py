"""Weights with the adapters of LoRA beside them, as ``peft`` names them, become those of a plain model."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

_BASE, _A, _B = ".base_layer.", ".lora_A.default.weight", ".lora_B.default.weight"


def merge_adapters(weights: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """Every adapted weight W ``(outputs, inputs)`` as W + scale · B A, under the name that it has without adapters.

    Args:
        weights: state dict of a model with adapters of the name ``default``.
        scale: LoRA's alpha / rank.
    """
    merged = {}
    for name, value in weights.items():
        if name.endswith((_A, _B)):
            continue
        layer = name.removesuffix(f"{_BASE}weight")
        if layer != name:
            value = value + scale * (weights[layer + _B] @ weights[layer + _A])
        merged[name.replace(_BASE, ".")] = value
    return merged
