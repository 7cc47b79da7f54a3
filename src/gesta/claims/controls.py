"""Layers in the place of a plug-in that could refute it: the same but for what the paper says makes the difference."""

from __future__ import annotations

from dataclasses import field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gesta.config import config
from gesta.layers.few_clips import SinglePositionNorm
from gesta.model import Grid, LayerConfig
from gesta.plugins.stan import DOF, STAN, STANLayer, theta_from


@config
class STANControl(LayerConfig):
    """STAN with a θ that does not come from the clip.

    Attributes:
        theta: ``constant`` learns one for all clips; ``other`` gives each clip of a batch the next one's, in training
            and in testing.
        stan: all else.
    """

    theta: Literal["constant", "other"] = "constant"
    stan: STAN = field(default_factory=STAN)

    def build(self, grid: Grid) -> nn.Module:
        return (ConstantTheta if self.theta == "constant" else OtherTheta)(self.stan, grid[0])


class ConstantTheta(STANLayer):
    """Its deformation network is a vector."""

    def __init__(self, config: STAN, channels: int) -> None:
        super().__init__(config, channels)
        self.deformation = Constant(config)  # type: ignore[assignment]

    def faults(self, figures: dict[str, float]) -> list[str]:
        """That θ is the same for all clips is what it is for."""
        return []


class Constant(nn.Module):
    """The same numbers for every clip, scaled and bounded as those of a deformation network."""

    def __init__(self, config: STAN) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.zeros(DOF[config.mode]))
        self.scale, self.bound = config.p_scale, config.tanh_bound

    def forward(self, x: Tensor) -> Tensor:
        p = self.p * self.scale
        p = p if self.bound is None else self.bound * torch.tanh(p / self.bound)
        return p.expand(len(x), -1)


class OtherTheta(STANLayer):
    """Each clip is warped with the θ of the next one of its batch."""

    def theta(self, x: Tensor) -> Tensor:
        return theta_from(self.deformation(x).roll(1, 0), self.config.mode)


@config
class PlainLayers(LayerConfig):
    """A residual bottleneck of the parts of STAN's deformation network: its convolution and batch norm, and in place of
    its other layers a linear one back to all channels, which starts at zero. It has as many parameters, and more
    multiply-adds, since its convolution is padded."""

    def build(self, grid: Grid) -> nn.Module:
        return Bottleneck(grid[0])


class Bottleneck(nn.Module):
    """``x + W relu(norm(conv(x)))`` for maps ``(B, C, T, H, W)``, with a 3 × 3 × 3 convolution to C / 4 channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(channels // 4, 8)
        self.conv = nn.Conv3d(channels, inner, 3, padding=1, bias=False)
        self.norm = SinglePositionNorm(inner)
        self.back = nn.Conv3d(inner, channels, 1, bias=False)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.back.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.back(F.relu(self.norm(self.conv(x))))
