"""Central difference convolution in three dimensions, as one kernel.

Source: Z. Yu et al., "Searching Multi-Rate and Multi-Modal Temporal Enhanced Networks for Gesture Recognition", TIP
2021 (3DCDC-ST and 3DCDC-T); equations are those of Y. Ma et al., "Multi-stage Factorized Spatio-Temporal
Representation for RGB-D Action and Gesture Recognition", ACM MM 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gesta.cost import is_counting

Difference = Literal["none", "st", "t"]
"""From the centre to all of space and time, to the other frames, or none."""

Triple = tuple[int, int, int]


def fold_difference(weight: Tensor, difference: Difference, theta: float) -> Tensor:
    """The one kernel of a central difference convolution (Eqs. 2.4 to 2.6).

    ``y = conv(x, w) - θ x(p₀) Σ w`` subtracts a multiple of the centre voxel, so it changes the kernel's centre tap
    only, for any stride, padding and dilation. ``st`` sums all taps, ``t`` those of all slices of time but the middle
    one; a kernel of one slice stays as it is.

    Args:
        weight: ``(O, I, kT, kH, kW)``, of odd sizes.
    """
    if difference == "none" or theta == 0 or weight.shape[2] == 1:
        return weight
    t, h, w = (size // 2 for size in weight.shape[2:])
    if difference == "st":
        total = weight.sum((2, 3, 4))
    else:
        total = weight[:, :, :t].sum((2, 3, 4)) + weight[:, :, t + 1 :].sum((2, 3, 4))
    folded = weight.clone()
    folded[:, :, t, h, w] -= theta * total
    return folded


def same_padding(size: Sequence[int], kernel: Sequence[int], stride: Sequence[int]) -> list[tuple[int, int]]:
    """Front and back padding of each axis that gives ``ceil(size / stride)`` positions (TensorFlow's "SAME")."""
    totals = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(size, kernel, stride)]
    return [(total // 2, total - total // 2) for total in totals]


class Conv(nn.Conv3d):
    """A 3-D convolution without bias, zeros around the map as in :func:`same_padding`, and a central difference.

    The kernel is folded in every training step (it is small beside the maps); in evaluation without gradients it is
    kept until the weights change.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: Triple,
        stride: Triple = (1, 1, 1),
        difference: Difference = "none",
        theta: float = 0.0,
        bias: bool = False,
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, bias=bias)
        self.difference: Difference = difference
        self.theta = theta
        self._kept: tuple[tuple[object, ...], Tensor] | None = None

    def forward(self, input: Tensor) -> Tensor:
        """``(B, I, T, H, W)`` to ``(B, O, T / s, H / s, W / s)``, sizes rounded up."""
        pads = same_padding(input.shape[2:], self.kernel_size, self.stride)
        if any(front != back for front, back in pads):
            t, h, w = pads  # F.pad names the last axis first
            return F.conv3d(F.pad(input, (*w, *h, *t)), self.kernel(), self.bias, self.stride)
        return F.conv3d(input, self.kernel(), self.bias, self.stride, [front for front, _ in pads])

    def kernel(self) -> Tensor:
        """What the map is convolved with, ``(O, I, kT, kH, kW)``: the weights with the difference folded in."""
        weight = self.weight
        learning = self.training or (torch.is_grad_enabled() and weight.requires_grad)
        if learning or torch.compiler.is_compiling() or is_counting() or weight.is_inference():
            return fold_difference(weight, self.difference, self.theta)
        now = (weight.data_ptr(), weight._version, weight.device, weight.dtype, self.difference, self.theta)
        if self._kept is None or self._kept[0] != now:
            with torch.inference_mode(False), torch.no_grad():
                self._kept = now, fold_difference(weight.detach(), self.difference, self.theta)
        return self._kept[1]
