"""SMEM: what moved where, from how much each position of a frame looks like every position of the next two.

Source: "Spatio-temporal diffusion transformer for action recognition", anonymous submission to ICLR (OpenReview
ICR3swcnaa), §3.5 and Tables 4 and 6; its parts are those of ATM (W. Wu et al., ICCV 2023), which looks at a window of
9 × 9 positions. No code exists; what the paper leaves open is a field of :class:`SMEM`. For features f of frame t::

    e_t = ReLU( BN( Conv( f_t ) ) )                             64 channels
    S_k = ê_t · ê_{t+k}                                         cosines of all pairs of positions, k = 1, 2
    f_t + up( Conv( Conv³( [S_1 ; S_2] ) ) )                    the first of the three has stride 2

The position in frame t stays a position of the map, and the positions of frame t + k become channels.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gesta.config import Count, config
from gesta.layers.tokens import Norm, channel_norm, convolved, normed, to_grid, to_tokens, zero
from gesta.model import Grid, LayerConfig

LARGEST = 14
"""Edge of the map of targets: larger maps are averaged down to it (the paper's maps are 14 × 14)."""


@config
class SMEM(LayerConfig):
    """Salient motion excitation before a block of any backbone; a fresh one changes nothing.

    Attributes:
        channels: of the features that are compared.
        fusion: neighbouring frames are compared by ``mul`` (cosines of all pairs of positions), or fused by ``add``
            (sums at the same position), or both (``mul+add``).
        pairing: ``anchor`` compares t with t + 1 and t with t + 2, ``chain`` t with t + 1 and t + 1 with t + 2.
        edge: past the last frame it is repeated, or what is compared with it is ``zero``.
        norm: behind the convolutions.
    """

    channels: Count = 64
    fusion: Literal["mul", "add", "mul+add"] = "mul"
    pairing: Literal["anchor", "chain"] = "anchor"
    edge: Literal["repeat", "zero"] = "repeat"
    norm: Norm = "batch"

    def build(self, grid: Grid) -> MotionExcitation:
        return MotionExcitation(grid[0], (grid[2], grid[3]), self)


class MotionExcitation(nn.Module):
    """The module of :class:`SMEM`.

    Args:
        width: C.
        size: (H, W) of the maps; other sizes may be given later, their targets are averaged to this one's.
        config: its switches.
    """

    def __init__(self, width: int, size: tuple[int, int], config: SMEM | None = None) -> None:
        super().__init__()
        self.config = config = config or SMEM()
        self.targets = (min(size[0], LARGEST), min(size[1], LARGEST))
        hidden, inputs = config.channels, 0
        if config.fusion != "add":
            inputs += 2 * self.targets[0] * self.targets[1]
        if config.fusion != "mul":
            inputs += 2 * hidden
        self.estimate = nn.Conv2d(width, hidden, 3, padding=1, bias=False)
        self.estimate_norm = channel_norm(config.norm, hidden)
        self.transform = nn.ModuleList(
            nn.Conv2d(hidden if i else inputs, hidden, 3, 1 if i else 2, 1, bias=False) for i in range(3)
        )
        self.transform_norms = nn.ModuleList(channel_norm(config.norm, hidden) for _ in range(3))
        self.excite = nn.Conv2d(hidden, width, 3, padding=1)
        zero(self.excite)

    def forward(self, grid: Tensor) -> Tensor:
        """``(B, C, T, H, W)`` to the same shape."""
        return grid + to_grid(self.excitation(to_tokens(grid)))

    def excitation(self, x: Tensor) -> Tensor:
        """What is added: of ``(T, B, H, W, C)``, of the same shape."""
        size = x.shape[2:4]
        x = self._fused(normed(self.estimate_norm, convolved(self.estimate, x)).relu_())
        for conv, norm in zip(self.transform, self.transform_norms):
            x = normed(norm, convolved(conv, x)).relu_()  # type: ignore[arg-type]
        x = convolved(self.excite, x)
        maps = F.interpolate(x.flatten(0, 1).permute(0, 3, 1, 2), size, mode="bilinear")
        return maps.permute(0, 2, 3, 1).unflatten(0, x.shape[:2])

    def motion(self, grid: Tensor) -> Tensor:
        """How much each position is excited: ``(B, C, T, H, W)`` to the length of what is added, ``(B, T, H, W)``."""
        return self.excitation(to_tokens(grid)).norm(dim=-1).transpose(0, 1)

    def correlation(self, grid: Tensor) -> Tensor:
        """Cosines of all pairs of positions, whatever ``fusion`` says.

        Args:
            grid: ``(B, C, T, H, W)``.

        Returns:
            ``(B, T, 2, H, W, h, w)`` in [0, 1]: of position (H, W) of a pair's earlier frame with the positions (h, w)
            of its later one.
        """
        e = normed(self.estimate_norm, convolved(self.estimate, to_tokens(grid))).relu_()
        cosines = torch.stack([self._cosines(*pair) for pair in self._pairs(e)])  # (2, T, B, H, W, h·w)
        return cosines.unflatten(-1, self.targets).permute(2, 1, 0, 3, 4, 5, 6)

    @torch.no_grad()
    def diagnose(self, grid: Tensor) -> dict[str, float]:
        """``rms_ratio``: the root mean square of what is added, divided by that of the map."""
        added = self.excitation(to_tokens(grid))
        return {"rms_ratio": float(added.square().mean().sqrt() / grid.square().mean().sqrt().clamp_min(1e-12))}

    def faults(self, figures: dict[str, float]) -> list[str]:
        """What of :meth:`diagnose` means that it does nothing."""
        return ["what it adds is still 0"] if figures["rms_ratio"] == 0 else []

    def _fused(self, e: Tensor) -> Tensor:
        """``(T, B, H, W, 64)`` to the channels that are transformed."""
        pairs = self._pairs(e)
        parts: list[Tensor] = []
        if self.config.fusion != "add":
            parts += [self._cosines(*pair) for pair in pairs]
        if self.config.fusion != "mul":
            parts += [earlier + later for earlier, later in pairs]
        return torch.cat(parts, -1)

    def _pairs(self, e: Tensor) -> list[tuple[Tensor, Tensor]]:
        """For each frame the two pairs of frames that are compared, each ``(T, B, H, W, 64)``."""
        last = e[-1:] if self.config.edge == "repeat" else torch.zeros_like(e[-1:])
        next1 = torch.cat([e[1:], last])
        next2 = torch.cat([e[2:], last, last])[: len(e)]
        return [(e, next1), (e if self.config.pairing == "anchor" else next1, next2)]

    def _cosines(self, earlier: Tensor, later: Tensor) -> Tensor:
        """``(T, B, H, W, 64)`` twice to ``(T, B, H, W, h·w)``."""
        a, b = (F.normalize(x.flatten(0, 1).flatten(1, 2), dim=-1, eps=1e-6) for x in (earlier, later))
        if later.shape[2:4] != self.targets:
            maps = b.mT.unflatten(2, later.shape[2:4])
            b = F.adaptive_avg_pool2d(maps, self.targets).flatten(2).mT  # the mean of cosines is a cosine of the mean
        return (a @ b.mT).unflatten(1, earlier.shape[2:4]).unflatten(0, earlier.shape[:2])
