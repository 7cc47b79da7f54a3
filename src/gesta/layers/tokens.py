"""Convolutions and norms of token maps, without a change of layout.

A token map is ``(T, B, H, W, C)``: frames first, so that a shift in time is a slice, and channels last, so that a
linear layer is a 1 × 1 × 1 convolution and every frame is a channels-last image for the kernels that have one.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from gesta.cost import is_counting

Norm = Literal["batch", "layer"]
"""A norm over the tokens of a batch for each channel, or over the channels of each token."""


def channel_norm(kind: Norm, width: int) -> nn.Module:
    """A norm for :func:`normed`."""
    return nn.BatchNorm1d(width) if kind == "batch" else nn.LayerNorm(width)


def normed(norm: nn.Module, x: Tensor) -> Tensor:
    """``(..., C)`` through a norm of :func:`channel_norm`."""
    return norm(x.reshape(-1, x.shape[-1])).view(x.shape)


def convolved(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Every frame of a token map through a convolution: ``(T, B, H, W, C)`` to ``(T, B, H', W', C')``."""
    maps = conv(x.flatten(0, 1).permute(0, 3, 1, 2))
    return maps.permute(0, 2, 3, 1).unflatten(0, x.shape[:2])


class DepthwiseConv(nn.Conv3d):
    """A depth-wise convolution over time and space that keeps the size, on token maps.

    It is the sum of one 2-D convolution per step in time, each shifted by a slice: on a CPU that takes a third of the
    time of one 3-D convolution in training (``benchmarks/std_former.py``).

    Args:
        width: C.
        kernel: (time, space), each 1 or 3.
        bias: add a vector.
    """

    def __init__(self, width: int, kernel: tuple[int, int], bias: bool = True) -> None:
        time, space = kernel
        super().__init__(
            width, width, (time, space, space), padding=(time // 2, space // 2, space // 2), groups=width, bias=bias
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(T, B, H, W, C)`` to the same shape."""
        if is_counting():  # papers count the 3-D convolution
            return super().forward(x.permute(1, 4, 0, 2, 3)).permute(2, 0, 3, 4, 1)
        if self.kernel_size[0] == 1:
            return self._tap(x, 0, self.bias)
        y = self._tap(x, 1, self.bias)
        if len(x) > 1:
            y[1:] += self._tap(x[:-1], 0)
            y[:-1] += self._tap(x[1:], 2)
        return y

    def _tap(self, x: Tensor, step: int, bias: Tensor | None = None) -> Tensor:
        """What one step in time of the kernel gives."""
        kernel = self.weight[:, :, step]
        if self.kernel_size[1] == 1:
            y = x * kernel.flatten()
            return y if bias is None else y + bias
        maps = F.conv2d(x.flatten(0, 1).permute(0, 3, 1, 2), kernel, bias, padding=1, groups=self.groups)
        return maps.permute(0, 2, 3, 1).unflatten(0, x.shape[:2])


class DenseConv(nn.Conv3d):
    """A convolution over all channels of a token map that keeps its size."""

    def __init__(self, width: int, kernel: tuple[int, int], bias: bool = False) -> None:
        time, space = kernel
        super().__init__(width, width, (time, space, space), padding=(time // 2, space // 2, space // 2), bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """``(T, B, H, W, C)`` to the same shape."""
        return to_tokens(super().forward(to_grid(x)))


def to_tokens(grid: Tensor) -> Tensor:
    """``(B, C, T, H, W)`` as a token map, contiguous."""
    return grid.permute(2, 0, 3, 4, 1).contiguous()


def to_grid(x: Tensor) -> Tensor:
    """A token map as ``(B, C, T, H, W)``, a view."""
    return x.permute(1, 4, 0, 2, 3)


def zero(layer: nn.Linear | nn.Conv2d | nn.Conv3d) -> None:
    """Let a layer start by giving nothing."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
