"""The MLP of a Transformer block: Linear, GELU, Linear."""

from __future__ import annotations

from torch import nn

from gesta.errors import GestaError


def hidden_width(width: int, ratio: float) -> int:
    """The hidden width of an MLP, from its ratio to the width.

    Args:
        width: of the input and the output.
        ratio: hidden width / width. It is rounded, since a ratio that was read from weights, such as 6144 / 1408, need
            not give their hidden width back exactly.

    Raises:
        GestaError: nothing is left of the hidden layer; torch would build it all the same, and it would add a constant.
    """
    if (hidden := round(ratio * width)) < 1:
        raise GestaError(f"an MLP of {ratio:g} times a width of {width} has no hidden units; give a larger mlp_ratio")
    return hidden


def mlp(width: int, ratio: float, gelu: str = "none") -> nn.Sequential:
    """Linear, GELU (``none`` is the exact one, ``tanh`` its approximation), linear; arguments see `hidden_width`."""
    hidden = hidden_width(width, ratio)
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(gelu), nn.Linear(hidden, width))
