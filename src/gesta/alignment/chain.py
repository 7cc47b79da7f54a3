"""Routes: which token of every frame belongs to which token of the first.

Source: Y. Zhao et al., "Alignment-guided Temporal Attention", NeurIPS 2022, §3.1, Eqs 4 to 7, 17, 18 and Algorithms 1
and 2, with their errors corrected (``docs/fidelity.md``).

The paper aligns frame after frame: frame t is matched with the *rearranged* frame t-1. That chain can be computed in
parallel. Let ``match_t`` be a best assignment between the raw frames t-1 and t. The chained problem at t only has its
rows permuted by the route so far, ``S'[i, j] = S[route_{t-1}(i), j]``, so its best assignments are
``match_t ∘ route_{t-1}``::

    route_0 = identity ,   route_t = match_t[route_{t-1}]

All B·(T-1) assignments of a batch are therefore independent; only how ties are broken may differ.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gesta.alignment.assignment import Solver, assign
from gesta.errors import GestaError
from gesta.layers.precision import no_autocast

IDENTITY_BIAS = 1e-6
"""Added to the similarity of a position with itself to break ties in favour of staying, as in repeated frames."""

Size = tuple[int, int]
"""Height and width of a frame's grid of tokens."""


def similarity(tokens: Tensor, *, prefer_staying: bool = False) -> Tensor:
    """Cosine similarity of all pairs of tokens of neighbouring frames (Eq 17, the full matrix), in at least float32.

    Args:
        tokens: ``(B, T, N, C)``.
        prefer_staying: break ties in favour of the same position.

    Returns:
        ``(B, T - 1, N, N)``, rows the earlier frame. Not-a-number (of tokens that are, or are infinite) counts as -1;
        tokens of zeros have similarity 0 to all.
    """
    with no_autocast(tokens):
        unit = F.normalize(tokens.double() if tokens.dtype == torch.float64 else tokens.float(), dim=-1, eps=1e-12)
        scores = unit[:, :-1] @ unit[:, 1:].transpose(2, 3)
    scores = torch.nan_to_num(scores, nan=-1.0)
    if prefer_staying:
        scores = scores + IDENTITY_BIAS * torch.eye(tokens.shape[2], dtype=scores.dtype, device=scores.device)
    return scores


def compose(matches: Tensor) -> Tensor:
    """Matches of neighbouring frames ``(B, T - 1, N)`` to routes ``(B, T, N)`` that start at every token of frame 0."""
    batch, _, positions = matches.shape
    route = torch.arange(positions, device=matches.device).expand(batch, positions)
    routes = [route]
    for match in matches.unbind(1):
        route = match.gather(1, route)
        routes.append(route)
    return torch.stack(routes, 1)


def inverse(permutations: Tensor) -> Tensor:
    """Inverse of each permutation ``(..., N)``."""
    positions = torch.arange(permutations.shape[-1], device=permutations.device).expand_as(permutations)
    return torch.empty_like(permutations).scatter_(-1, permutations, positions)


def follow(x: Tensor, routes: Tensor) -> Tensor:
    """Tokens along routes: ``(B, T, N, C)`` to ``(B, N, T, C)``, alignment (Eq 3) and change of layout in one copy."""
    batch, frames, positions, width = x.shape
    start = torch.arange(0, batch * frames * positions, positions, device=x.device).view(batch, frames, 1)
    index = (start + routes).transpose(1, 2).reshape(-1)
    return x.reshape(-1, width).index_select(0, index).view(batch, positions, frames, width)


def unfollow(x: Tensor, routes: Tensor) -> Tensor:
    """Undo :func:`follow` (de-alignment, Eqs 2 and 7): ``(B, N, T, C)`` to ``(B, T, N, C)``."""
    batch, positions, frames, width = x.shape
    row = inverse(routes) * frames + torch.arange(frames, device=x.device).view(1, frames, 1)
    row = row + torch.arange(0, batch * positions * frames, positions * frames, device=x.device).view(batch, 1, 1)
    return x.reshape(-1, width).index_select(0, row.reshape(-1)).view(batch, frames, positions, width)


def find_routes(
    tokens: Tensor,
    size: Size,
    *,
    solver: Solver = "auto",
    prefer_staying: bool = True,
    coarse: int = 1,
    window: int | None = None,
) -> Tensor:
    """Routes of best total similarity (Eqs 6 and 18) through the tokens of each clip, without gradient.

    Args:
        tokens: ``(B, T, N, C)``.
        size: (H, W), N = H·W.
        solver: see :func:`gesta.alignment.assignment.assign`.
        prefer_staying: break ties in favour of the same position.
        coarse: match tiles of ``coarse × coarse`` tokens by their mean and move them whole.
        window: let a token (or tile) move by at most this many positions along each axis from one frame to the next.

    Returns:
        ``(B, T, N)`` int64: ``routes[b, t, n]`` is the position in frame t on the route from position n of
            frame 0.

    Raises:
        GestaError: a grid that does not divide into tiles.
    """
    check_tiles(size, coarse)
    height, width = size
    tokens = tokens.detach()
    if tokens.shape[1] == 1 or tokens.shape[2] == 1:
        return torch.arange(tokens.shape[2], device=tokens.device).expand(tokens.shape[:3])
    tiles = tokens
    if coarse > 1:
        tiles = tokens.unflatten(2, (height // coarse, coarse, width // coarse, coarse)).mean((3, 5)).flatten(2, 3)
    scores = similarity(tiles, prefer_staying=prefer_staying)
    if window is not None:
        scores = scores.masked_fill(~nearby((height // coarse, width // coarse), window, scores.device), -torch.inf)
    routes = compose(assign(scores, solver))
    return _positions_of_tiles(routes, size, coarse) if coarse > 1 else routes


def check_tiles(size: Size, coarse: int) -> None:
    """Refuse tiles of ``coarse × coarse`` tokens that do not fill a grid of (H, W).

    Raises:
        GestaError: they do not.
    """
    height, width = size
    if height % coarse or width % coarse:
        raise GestaError(f"a grid of {height} × {width} tokens does not divide into tiles of {coarse} × {coarse}")


def nearby(size: Size, window: int, device: torch.device) -> Tensor:
    """Which pairs of positions lie within a window: ``(N, N)``."""
    rows, columns = (torch.arange(n, device=device) for n in size)
    near = [(axis[:, None] - axis[None]).abs() <= window for axis in (rows, columns)]
    return (near[0][:, None, :, None] & near[1][None, :, None, :]).flatten(2, 3).flatten(0, 1)


def _positions_of_tiles(routes: Tensor, size: Size, coarse: int) -> Tensor:
    """Routes of tiles to routes of their tokens, each of which keeps its position within its tile."""
    width = size[1]
    per_row = width // coarse
    y, x = (torch.arange(n, device=routes.device) for n in size)
    tile_of = ((y // coarse)[:, None] * per_row + (x // coarse)[None]).flatten()
    within = ((y % coarse)[:, None] * width + (x % coarse)[None]).flatten()
    tile = routes[..., tile_of]
    return (tile // per_row * coarse) * width + tile % per_row * coarse + within
