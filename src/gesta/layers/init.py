"""Initialisation of narrow models for few videos, which the published sizes do not use (``small_init``)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Standardise(nn.BatchNorm1d):
    """Features with mean 0 and variance 1 over the clips of a batch; of a single clip by running statistics."""

    def __init__(self, width: int) -> None:
        super().__init__(width, affine=False)

    def forward(self, input: Tensor) -> Tensor:
        """``(B, D)`` to the same shape."""
        if self.training and len(input) == 1:
            return F.batch_norm(input, self.running_mean, self.running_var, eps=self.eps)
        return super().forward(input)


def init_small(model: nn.Module) -> None:
    """Initialise every linear layer with variance 1 / inputs: a fixed 0.02² is almost nothing in a narrow network."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=module.in_features**-0.5)
