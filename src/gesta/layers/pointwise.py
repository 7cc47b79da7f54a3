"""Convolutions of one point as products of matrices, which leave the layout as it is."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Pointwise(nn.Conv3d):
    """A 1 × 1 × 1 convolution. On CPUs channels that lie last stay there, where torch would often put them first."""

    def __init__(self, inputs: int, outputs: int, stride: int | tuple[int, int, int] = 1, *, bias: bool = True) -> None:
        super().__init__(inputs, outputs, 1, stride, bias=bias)

    def forward(self, input: Tensor) -> Tensor:
        """``(B, inputs, T, H, W)`` to ``(B, outputs, …)``."""
        if input.device.type != "cpu":
            return super().forward(input)
        if self.stride != (1, 1, 1):
            input = input[:, :, :: self.stride[0], :: self.stride[1], :: self.stride[2]]
        return F.linear(input.permute(0, 2, 3, 4, 1), self.weight.flatten(1), self.bias).permute(0, 4, 1, 2, 3)
