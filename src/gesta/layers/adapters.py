"""Some of the outputs of a linear layer that may have adapters (LoRA, by ``peft``) around it."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


def some_outputs(layer: nn.Linear, x: Tensor, outputs: slice) -> Tensor:
    """Some outputs of a linear layer, with what its adapters add to them, ``(*, inputs)`` to ``(*, outputs)``.

    A model that multiplies by the layer's weight itself would leave the adapters out.
    """
    result = F.linear(x, layer.weight[outputs], None if layer.bias is None else layer.bias[outputs])
    adapted: Any = layer
    for name in adapted.active_adapters if is_adapted(layer) else ():
        reduced = adapted.lora_A[name](adapted.lora_dropout[name](x))
        result = result + adapted.scaling[name] * F.linear(reduced, adapted.lora_B[name].weight[outputs])
    return result


def is_adapted(layer: nn.Module) -> bool:
    """Whether adapters have been put around a layer, so that its weight alone is not what it computes."""
    return hasattr(layer, "active_adapters")
