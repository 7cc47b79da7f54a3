"""Initialisation of narrow models for few videos, which the published sizes do not use (``small_init``)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

ENOUGH = 8
"""Clips from which on a batch has statistics of its own."""


class Standardise(nn.BatchNorm1d):
    """Features with mean 0 and variance 1 over at least eight clips.

    A batch of n < 8 clips (``--train.accumulate``, torchrun) weighs n / 8 in the statistics by which it is normalised,
    and the running ones of the clips before it weigh the rest. By itself, two clips would become +1 and -1 whatever
    they show. The running statistics follow eight clips as fast, however many passes they take.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, affine=False)

    def forward(self, input: Tensor) -> Tensor:
        """``(B, D)`` to the same shape."""
        if not self.training or len(input) >= ENOUGH:
            return super().forward(input)
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        features = input.to(self.running_mean.dtype)
        mean, var = features.mean(0), features.var(0, correction=0)
        at_first = 1 / (self.num_batches_tracked + 1)  # all passes weigh the same until there are enough of them
        mean_now, var_now = self._mixed(mean, var, at_first.clamp(min=len(input) / ENOUGH))
        with torch.no_grad():
            keep = (1 - (self.momentum or 0.1)) ** (len(input) / ENOUGH)
            new_mean, new_var = self._mixed(mean, var, at_first.clamp(min=1 - keep))
            self.running_mean.copy_(new_mean)
            self.running_var.copy_(new_var)
            self.num_batches_tracked += 1
        return ((features - mean_now) * torch.rsqrt(var_now + self.eps)).to(input.dtype)

    def _mixed(self, mean: Tensor, var: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of the clips before and those of now, which have this weight."""
        assert self.running_mean is not None and self.running_var is not None
        old_mean, old_var = self.running_mean.clone(), self.running_var.clone()
        apart = weight * (1 - weight) * (mean - old_mean).square()
        return torch.lerp(old_mean, mean, weight), torch.lerp(old_var, var, weight) + apart


def init_small(model: nn.Module) -> None:
    """Initialise every linear layer with variance 1 / inputs: a fixed 0.02² is almost nothing in a narrow network."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=module.in_features**-0.5)
