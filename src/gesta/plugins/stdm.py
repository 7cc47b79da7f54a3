"""STDM: small convolutions that carry features of one position and moment to their neighbours in space and time.

Source: "Spatio-temporal diffusion transformer for action recognition", anonymous submission to ICLR (OpenReview
ICR3swcnaa), §3.4. "Diffusion" means that temporal features spread into the spatial branch; nothing is denoised. In
STD-Former it feeds each temporal layer back; as a plug-in it feeds a backbone's own map back to it::

    STDM(z) = Conv 1×1×1( ReLU( BN( Conv 3×1×1( BN( Conv 1×3×3( z ) ) ) ) ) )
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from gesta.config import config
from gesta.layers.tokens import DenseConv, DepthwiseConv, Norm, channel_norm, normed, to_grid, to_tokens, zero
from gesta.model import Grid, LayerConfig


@config
class STDM(LayerConfig):
    """``x + STDM(x)`` before a block of any backbone; a fresh one changes nothing.

    Attributes:
        kind: the convolutions in space and in time are ``depthwise`` or ``dense``; the last is always dense.
        final_relu: ReLU after the last convolution, as one may read the paper, too. What starts at zero is then a gate
            behind it: a convolution of zeros followed by ReLU would never have a gradient.
        norm: between the convolutions.
    """

    kind: Literal["depthwise", "dense"] = "depthwise"
    final_relu: bool = False
    norm: Norm = "batch"

    def build(self, grid: Grid) -> Diffusion:
        return Diffusion(grid[0], self)


class Diffusion(nn.Module):
    """The module of :class:`STDM`.

    Args:
        width: C.
        config: its switches.
    """

    def __init__(self, width: int, config: STDM | None = None) -> None:
        super().__init__()
        config = config or STDM()
        self.space: nn.Module
        self.time: nn.Module
        if config.kind == "depthwise":
            self.space = DepthwiseConv(width, (1, 3), bias=False)
            self.time = DepthwiseConv(width, (3, 1), bias=False)
        else:
            self.space = DenseConv(width, (1, 3))
            self.time = DenseConv(width, (3, 1))
        self.norm1 = channel_norm(config.norm, width)
        self.norm2 = channel_norm(config.norm, width)
        self.mix = nn.Linear(width, width)
        self.gate = nn.Parameter(torch.zeros(1)) if config.final_relu else None
        if self.gate is None:
            zero(self.mix)

    def forward(self, grid: Tensor) -> Tensor:
        """``(B, C, T, H, W)`` to the same shape."""
        return grid + to_grid(self.spread(to_tokens(grid)))

    def spread(self, z: Tensor) -> Tensor:
        """What is added: of ``(T, B, H, W, C)``, of the same shape."""
        z = normed(self.norm1, self.space(z))
        z = self.mix(normed(self.norm2, self.time(z)).relu_())
        return z if self.gate is None else self.gate * z.relu()

    @torch.no_grad()
    def diagnose(self, grid: Tensor) -> dict[str, float]:
        """``rms_ratio``: the root mean square of what is added, divided by that of the map."""
        added = self.spread(to_tokens(grid))
        return {"rms_ratio": float(added.square().mean().sqrt() / grid.square().mean().sqrt().clamp_min(1e-12))}

    def faults(self, figures: dict[str, float]) -> list[str]:
        """What of :meth:`diagnose` means that it does nothing."""
        return ["what it adds is still 0"] if figures["rms_ratio"] == 0 else []
