"""Soft alignment: doubly stochastic matches that have a gradient.

Y. Zhao et al., "Alignment-guided Temporal Attention", NeurIPS 2022, §5 names it as future work and leaves its form
open; every choice here is ours. R. Sinkhorn, P. Knopp, "Concerning nonnegative matrices and doubly stochastic
matrices", 1967.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from gesta.alignment.assignment import Solver, assign
from gesta.alignment.chain import Size, nearby, similarity
from gesta.layers.precision import no_autocast

Chain = Literal["compose", "anchor0", "sequential"]


def sinkhorn(scores: Tensor, iterations: int) -> Tensor:
    """Positive matrices of which rows sum to 1 and columns nearly so.

    Args:
        scores: ``(..., N, N)``, logarithms of what is scaled; -inf for pairs that may not match.
        iterations: scalings of all columns, then all rows, in the log domain.
    """
    for _ in range(iterations):
        scores = scores - scores.logsumexp(-2, keepdim=True)
        scores = scores - scores.logsumexp(-1, keepdim=True)
    return scores.exp()


def soft_routes(
    tokens: Tensor,
    size: Size,
    *,
    tau: float,
    iterations: int,
    chain: Chain = "compose",
    straight_through: bool = False,
    solver: Solver = "auto",
    window: int | None = None,
) -> Tensor:
    """For every route, weights over the positions of each frame, with gradient to the tokens.

    Args:
        tokens: ``(B, T, N, C)``.
        size: (H, W), N = H·W.
        tau: temperature of the similarities; towards 0 the hard routes.
        iterations: of Sinkhorn's scaling.
        chain: ``compose`` multiplies the plans of neighbouring raw frames (blurs with t), ``anchor0`` plans from frame
            0 to each frame directly, ``sequential`` from the aligned frame t - 1 to the raw frame t.
        straight_through: hard matches forward, the plans' gradient backward.
        solver: of the hard matches.
        window: as in :func:`gesta.alignment.chain.find_routes`.

    Returns:
        ``(B, T, N, N)`` of the tokens' precision (float32 at least), the identity for frame 0.
    """
    far = None if window is None else ~nearby(size, window, tokens.device)

    def plan(scores: Tensor) -> Tensor:
        if far is not None:
            scores = scores.masked_fill(far, -torch.inf)
        soft = sinkhorn(scores / tau, iterations)
        if not straight_through:
            return soft
        hard = F.one_hot(assign(scores.detach(), solver), soft.shape[-1]).to(soft.dtype)
        return hard + (soft - soft.detach())  # in this order exactly hard

    with no_autocast(tokens):
        tokens = tokens if tokens.dtype == torch.float64 else tokens.float()
        batch, frames, positions, _ = tokens.shape
        weights = [torch.eye(positions, dtype=tokens.dtype, device=tokens.device).expand(batch, positions, positions)]
        if chain == "compose":
            for step in plan(similarity(tokens)).unbind(1):
                weights.append(weights[-1] @ step)
        elif chain == "anchor0":
            pairs = torch.stack([tokens[:, :1].expand_as(tokens), tokens], 2)[:, 1:]
            weights += plan(similarity(pairs.flatten(0, 1))).unflatten(0, (batch, frames - 1))[:, :, 0].unbind(1)
        else:
            aligned = tokens[:, 0]
            for t in range(1, frames):
                weights.append(plan(similarity(torch.stack([aligned, tokens[:, t]], 1)))[:, 0])
                aligned = weights[-1] @ tokens[:, t]
        return torch.stack(weights, 1)
