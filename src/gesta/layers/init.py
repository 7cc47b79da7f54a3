"""Initialisation of narrow models for few videos, which the published sizes do not use (``small_init``)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gesta.layers.few_clips import StatisticsMixer

ENOUGH_CLIPS = 8
"""Clips from which on a batch has statistics of its own."""


class Standardise(StatisticsMixer):
    """Features with mean 0 and variance 1 over at least eight clips.

    A batch of n < 8 clips (``--train.accumulate``, torchrun) weighs n / 8 in the statistics by which it is normalised,
    and the running ones of the clips before it weigh the rest, see :mod:`gesta.layers.few_clips`.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, affine=False)

    def forward(self, input: Tensor) -> Tensor:
        """``(B, D)`` to the same shape."""
        if not self.training or len(input) >= ENOUGH_CLIPS:
            return super().forward(input)
        assert self.running_mean is not None
        features = input.to(self.running_mean.dtype)
        var, mean = torch.var_mean(features, 0, correction=0)
        mean, var = self.mixed_statistics(mean, var, len(input) / ENOUGH_CLIPS)
        return ((features - mean) * torch.rsqrt(var + self.eps)).to(input.dtype)


def init_small(model: nn.Module) -> None:
    """Initialise every linear layer with variance 1 / inputs: a fixed 0.02² is almost nothing in a narrow network."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=module.in_features**-0.5)
