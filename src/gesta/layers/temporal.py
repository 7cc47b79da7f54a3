"""Factorised temporal attention over the frames at each position, or along routes found by alignment.

Source: G. Bertasius et al., "Is Space-Time Attention All You Need for Video Understanding?", ICML 2021, §3 (divided
space-time attention) with the public implementation's ``temporal_fc``; as a layer before the blocks of any per-frame
backbone, Y. Zhao et al., "Alignment-guided Temporal Attention", NeurIPS 2022, §4.3 and Table 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Protocol

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from gesta.config import Between, Count, config
from gesta.errors import GestaError
from gesta.model import AroundConfig, Grid, LayerConfig

Attend = Callable[[Tensor], Tensor]
"""Routes ``(B, N, T, C)`` to what temporal attention adds to them, of the same shape."""


class Around(Protocol):
    """What chooses the routes of a temporal attention: a module called with the attention as a function."""

    def __call__(
        self,
        attend: Attend,
        x: Tensor,
        norm: nn.Module,
        routes: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """The feature map after temporal modelling, residual connection included.

        Args:
            attend: routes ``(B, N, T, C)`` to their residual; a route is any choice of one token per frame.
            x: the feature map ``(B, T, H, W, C)`` that enters, N = H·W.
            norm: what ``attend`` normalises routes with first.
            routes: those found by an earlier block, to be used instead of finding new ones.
            positions: ``(1, T, H, W, C)``, what the stem has added to the tokens for their position and time; None
                where there is no such thing.

        Returns:
            ``(B, T, H, W, C)`` and the routes that hold in it; None if there are none to pass on.
        """
        ...


class FixedPositions(nn.Module):
    """No alignment: temporal attention runs over the frames at each position (TimeSformer)."""

    def forward(
        self,
        attend: Attend,
        x: Tensor,
        norm: nn.Module,
        routes: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """``(B, T, H, W, C)`` to the same shape, see :class:`Around`."""
        return x + attend(x.flatten(2, 3).transpose(1, 2)).transpose(1, 2).reshape(x.shape), None


class TemporalBranch(nn.Module):
    """``x + temporal_fc(MHSA_T(norm(x)))`` along routes; the last layer starts at 0, so the branch as identity.

    Args:
        width: channels.
        heads: attention heads.
        post_norm: a second layer norm between attention and ``temporal_fc``.
        drop_path: probability of leaving attention out for a route in training (the public code drops per position).
        around: what finds the routes; None for fixed positions.
        eps: of the layer norms.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        post_norm: bool = False,
        drop_path: float = 0.0,
        around: AroundConfig | None = None,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        if width % heads:
            raise GestaError(
                f"temporal attention of {heads} heads needs a width that is divisible by {heads}, not {width}"
            )
        self.heads = heads
        self.norm = nn.LayerNorm(width, eps=eps)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.post_norm = nn.LayerNorm(width, eps=eps) if post_norm else nn.Identity()
        self.drop_path = DropPath(drop_path)
        self.fc = nn.Linear(width, width)
        self.around = around.build() if around else FixedPositions()
        nn.init.zeros_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)

    def forward(
        self,
        x: Tensor,
        class_token: Tensor | None = None,
        routes: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """The feature map after temporal modelling, and the routes that hold in it (see :class:`Around`).

        Args:
            x: ``(B, T, H, W, C)``.
            class_token: ``(B, 1, C)``; every route attends to it as well; its own result is dropped.
            routes: those to follow instead of finding new ones, see :class:`Around`.
            positions: what the stem has added, see :class:`Around`.
        """
        return self.around(lambda routed: self.attend(routed, class_token), x, self.norm, routes, positions)

    def attend(self, routes: Tensor, class_token: Tensor | None = None) -> Tensor:
        """Residual of routes ``(B, N, T, C)``, see :data:`Attend`."""
        batch, positions, frames = routes.shape[:3]
        if class_token is not None:
            routes = torch.cat([class_token[:, None].expand(-1, positions, -1, -1), routes], 2)
        q, k, v = self.qkv(self.norm(routes)).unflatten(3, (3, self.heads, -1)).flatten(0, 1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        mixed = self.drop_path(self.post_norm(self.proj(mixed)))[:, mixed.shape[1] - frames :]
        return self.fc(mixed).unflatten(0, (batch, positions))


@config
class TemporalAttention(LayerConfig):
    """Temporal attention before a block of a backbone that has none: ``x + fc(MHSA_T(norm(x)))``.

    Attributes:
        heads: attention heads; None for channels / 32, or fewer if these do not divide the channels.
        post_norm: a second layer norm before the last layer, which the published costs of ATA's image backbones need.
        drop_path: probability of leaving attention out for a route in training.
        around: what finds the routes it attends along, e.g. ``ATA()``; None for fixed positions.
    """

    heads: Count | None = None
    post_norm: bool = True
    drop_path: Annotated[float, Between(0, 1, open="high")] = 0.0
    around: AroundConfig | None = None

    def contradictions(self) -> Iterator[tuple[str, str]]:
        if self.around is not None and self.around.needs_positions:
            yield "around", "which needs the embeddings of positions, and a layer before a block does not know them"

    def build(self, grid: Grid) -> TemporalLayer:
        return TemporalLayer(self, grid)


class TemporalLayer(nn.Module):
    """The layer of :class:`TemporalAttention`; a fresh one changes nothing."""

    def __init__(self, config: TemporalAttention, grid: Grid) -> None:
        super().__init__()
        width = grid[0]
        if config.around is not None:
            config.around.check_map(*grid[2:])
        self.temporal = TemporalBranch(
            width,
            config.heads or next(heads for heads in range(max(width // 32, 1), 0, -1) if width % heads == 0),
            post_norm=config.post_norm,
            drop_path=config.drop_path,
            around=config.around,
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, T, H, W)`` to the same shape."""
        return self.temporal(x.permute(0, 2, 3, 4, 1))[0].permute(0, 4, 1, 2, 3)
