"""ATA: temporal attention along one-to-one matches of neighbouring frames instead of along fixed positions.

Source: Y. Zhao et al., "Alignment-guided Temporal Attention for Video Action Recognition", NeurIPS 2022, §3 and
Algorithms 1 and 2; no official code exists. What the paper leaves open or prints with errors is decided in
``docs/fidelity.md``; every decision is a field of :class:`ATA`.

The tokens of every frame are permuted so that token n of frame t is the best one-to-one match of token n of frame t-1
(:mod:`gesta.alignment`), temporal attention runs along the routes, and its result goes back where it came from::

    routes = matches(p.detach())                          (Eqs 6, 17, 18)
    p' = p + undo( attend( follow(p, routes) ) )          Algorithms 1 and 2

Layer norm, attention over time and the last layer act on each route alone, so undoing their result is undoing
everything, and the residual connection stays exact.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from gesta.alignment.assignment import Solver
from gesta.alignment.chain import Size, check_tiles, find_routes, follow, unfollow
from gesta.alignment.soft import Chain, soft_routes
from gesta.config import Count, CountOrZero, Positive, config, unless
from gesta.cost import is_counting
from gesta.errors import GestaError
from gesta.layers.temporal import Attend
from gesta.model import AroundConfig

STILL = 1e-4
"""Fraction of steps that leave a position up to which an alignment is said to move nothing."""

EXACT_UP_TO, TILES = 784, 256
"""Unless ``coarse`` is set: tokens per frame up to which single tokens are matched; largest number of tiles beyond."""


@config
class ATA(AroundConfig):
    """Alignment around a temporal attention; it has no parameters.

    Attributes:
        dealign: put the result back where its tokens came from. Without it the feature map stays permuted, which in a
            model that aligns every block and attends to all positions alike changes nothing (the paper's 79.3 and 79.6
            of Table 3 are noise), but does where space has structure.
        align_on: find matches between the tokens that enter (``input``, Fig. 3c and Algorithm 1), after temporal
            attention's layer norm (``norm``), or between those that enter without the embeddings of position and time
            that the stem has added (``content``, of TimeSformer only; ours). Attention sees them in each case.
        alignment: ``hard`` matches one to one, without gradient (the paper); ``sinkhorn`` is the soft version that §5
            announces, our form; ``straight_through`` is hard forward and soft backward.
        tau: temperature of soft alignment.
        sinkhorn_iters: Sinkhorn iterations of soft alignment.
        chain: how soft plans of neighbouring frames become routes, see :func:`gesta.alignment.soft.soft_routes`.
        solver: of the assignment problems, see :func:`gesta.alignment.assignment.assign`.
        tie_break: ``identity`` prefers the same position among equally good matches (repeated frames, flat regions).
        coarse: move tiles of ``coarse × coarse`` tokens whole, matched by their mean; 1 matches single tokens. None is
            1 up to 784 tokens per frame; beyond that the smallest that leaves 256 tiles at most, 4 for 56 × 56
            tokens (exact matches of which take about a second per pair of frames), or else the largest up to 8 that
            tiles the map.
        window: largest move along each axis from frame to frame, in tokens (or tiles); None for no limit.
    """

    dealign: bool = True
    align_on: Literal["input", "norm", "content"] = "input"
    alignment: Literal["hard", "sinkhorn", "straight_through"] = "hard"
    tau: Positive = 0.05
    sinkhorn_iters: Count = 20
    chain: Chain = "compose"
    solver: Solver = "auto"
    tie_break: Literal["identity", "none"] = "identity"
    coarse: Count | None = None
    window: CountOrZero | None = None

    def contradictions(self) -> Iterator[tuple[str, str]]:
        if self.align_on == "content" and not self.dealign:
            yield "align_on", "with dealign False, after which tokens are no longer where their embeddings say"

    def unused(self) -> Iterator[tuple[str, str]]:
        yield from unless(self.alignment != "hard", "soft alignment", "tau", "sinkhorn_iters", "chain")
        yield from unless(self.alignment == "hard", "alignment='hard'", "tie_break")
        yield from unless(self.alignment != "sinkhorn", "hard matches", "solver")

    @property
    def needs_positions(self) -> bool:
        return self.align_on == "content"

    def check_map(self, height: int, width: int) -> None:
        check_tiles((height, width), self.coarse or 1)

    def build(self) -> Alignment:
        return Alignment(self)


class Alignment(nn.Module):
    """The module of :class:`ATA`, see :class:`gesta.layers.temporal.Around`.

    Raises:
        GestaError: switches that exclude each other.
    """

    not_recomputed = (torch.ops.gesta.assign.default,)  # a tie that is broken otherwise would change the gradients

    def __init__(self, config: ATA) -> None:
        super().__init__()
        soft = config.alignment != "hard"
        if soft and not config.dealign:
            raise GestaError(
                f"ATA: {config.alignment} alignment cannot leave the feature map permuted; set dealign=True"
            )
        if soft and (config.coarse or 1) > 1:
            raise GestaError("ATA: tiles move whole, so coarse needs alignment='hard'; a window works with both")
        self.config = config

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={getattr(self.config, name)!r}" for name in ("alignment", "dealign", "align_on"))

    def forward(
        self,
        attend: Attend,
        x: Tensor,
        norm: nn.Module,
        routes: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """``(B, T, H, W, C)`` to the same shape; the input is not written to.

        Routes are ``(B, T, N)`` positions, or ``(B, T, N, N)`` weights of soft alignment.
        """
        tokens = x.flatten(2, 3)
        if x.shape[1] == 1 or is_counting():  # one frame is aligned; papers count operations without alignment
            routes = torch.arange(tokens.shape[2], device=x.device).expand(tokens.shape[:3])
        elif routes is None:
            routes = self.routes(self.compared(x, norm, positions), (x.shape[2], x.shape[3]))
        if routes.is_floating_point():
            routed = (routes.to(x.dtype) @ tokens).transpose(1, 2)
            result = attend(routed).transpose(1, 2)
            return x + (routes.to(result.dtype).transpose(2, 3) @ result).view(x.shape), routes
        routed = follow(tokens, routes)
        result = attend(routed)
        if self.config.dealign:
            return x + unfollow(result, routes).view(x.shape), routes
        identity = torch.arange(tokens.shape[2], device=x.device).expand_as(routes)  # the feature map is permuted now
        return (routed + result).transpose(1, 2).reshape(x.shape), identity

    def compared(self, x: Tensor, norm: nn.Module, positions: Tensor | None) -> Tensor:
        """The tokens between which matches are found, ``(B, T, N, C)``; arguments as of :meth:`forward`."""
        if self.config.align_on == "content":
            assert positions is not None  # TemporalAttention refuses it where there are none
            x = x - positions
        return norm(x.flatten(2, 3)) if self.config.align_on == "norm" else x.flatten(2, 3)

    def diagnose(
        self,
        attend: Attend,
        x: Tensor,
        norm: nn.Module,
        routes: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> dict[str, float]:
        """``moved``: fraction of the steps from frame to frame that leave a token's position; of found routes only."""
        if routes is not None or x.shape[1] == 1:
            return {}
        routes = self.routes(self.compared(x, norm, positions), (x.shape[2], x.shape[3]))
        if routes.is_floating_point():
            routes = routes.argmax(-1)
        return {"moved": (routes[:, 1:] != routes[:, :-1]).float().mean().item()}

    def faults(self, figures: dict[str, float]) -> list[str]:
        """What of :meth:`diagnose` means that nothing is aligned."""
        if figures.get("moved", 1.0) > STILL:
            return []
        return ["the alignment moves nothing: every token is matched to its own position in the next frame"]

    def uncounted(
        self,
        attend: Attend,
        x: Tensor,
        norm: nn.Module,
        routes: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> dict[str, int]:
        """What finding routes costs, which the paper does not count (see :class:`gesta.cost.Cost`)."""
        if routes is not None or x.shape[1] == 1:
            return {}
        batch, frames, height, width, channels = x.shape
        side = (self.config.coarse or tile_side((height, width), warn=False)) if self.config.alignment == "hard" else 1
        count, pairs = height * width // side**2, batch * (frames - 1)
        amounts = {"multiply-adds of similarities": pairs * count**2 * channels}
        if self.config.alignment != "sinkhorn":
            amounts[f"assignments of {count} × {count}"] = pairs
        return amounts

    def routes(self, tokens: Tensor, size: Size) -> Tensor:
        """The routes through some clips.

        Args:
            tokens: ``(B, T, N, C)``.
            size: (H, W), N = H·W.

        Returns:
            ``(B, T, N)`` int64, or ``(B, T, N, N)`` weights of soft alignment.
        """
        c = self.config
        if c.alignment == "hard":
            return find_routes(
                tokens,
                size,
                solver=c.solver,
                prefer_staying=c.tie_break == "identity",
                coarse=c.coarse or tile_side(size),
                window=c.window,
            )
        return soft_routes(
            tokens,
            size,
            tau=c.tau,
            iterations=c.sinkhorn_iters,
            chain=c.chain,
            straight_through=c.alignment == "straight_through",
            solver=c.solver,
            window=c.window,
        )


def tile_side(size: Size, warn: bool = True) -> int:
    """Side of the tiles by which a feature map is matched if ``coarse`` is None; warns if it is above 1."""
    height, width = size
    if height * width <= EXACT_UP_TO:
        return 1
    sides = [s for s in range(2, 9) if height % s == width % s == 0]
    side = next((s for s in sides if height * width <= TILES * s * s), max(sides, default=1))
    if warn and not torch.compiler.is_compiling():
        slow = "which takes about a second per pair of frames"
        remedy = f"in tiles of {side} × {side}; ATA(coarse=1) matches single tokens, {slow}"
        if side == 1:
            remedy = (
                f"one by one, since no tile of 2 × 2 to 8 × 8 divides them, {slow}; clips of another size are faster"
            )
        warnings.warn(f"ATA matches feature maps of {height} × {width} tokens {remedy}", stacklevel=2)
    return side
