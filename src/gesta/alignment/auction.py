"""The auction algorithm, for many problems at once, in plain PyTorch on any device.

D. P. Bertsekas, "The auction algorithm: a distributed relaxation method for the assignment problem", Annals of
Operations Research 14, 1988: rows that have no column bid for the one of best profit (similarity minus price) all at
once; a bid raises the price by the lead over the second best and ``eps``. When every row has a column, each profit is
within ``eps`` of the best at these prices, so the total is within N·eps of the optimum. Prices are found for large
``eps`` first.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gesta.errors import GestaError

SHRINK = 5
"""``eps`` of one phase to that of the next."""


def auction(
    similarity: Tensor, *, eps: float = 1e-4, levels: int | None = None, rounds: int = 10_000
) -> tuple[Tensor, Tensor]:
    """Nearly best matches, the same on every run and in every batch: of equal bids that of the lowest row wins.

    Args:
        similarity: ``(P, N, N)``, -inf for forbidden pairs.
        eps: the total is within N·eps of the optimum (and of rounding in double precision).
        levels: round similarities to multiples of 1/levels and be exact for these, hence within N/levels of the
            optimum; ``eps`` is not used then.
        rounds: of bidding with one ``eps``; problems that need more (say, because no matching avoids the forbidden
            pairs) are given up.

    Returns:
        Matches ``(P, N)`` int64 with -1 for rows that have none, and prices ``(P, N)`` float64.

    Raises:
        GestaError: no positive ``eps`` or ``levels``.
    """
    if eps <= 0 or (levels is not None and levels < 1):
        raise GestaError("an auction needs eps > 0, or levels ≥ 1")
    values, rows, unit = similarity.double(), similarity.shape[-1], 1.0
    if levels is not None:  # whole numbers, exact in double precision, so far apart that N bids of 1 cannot mix them up
        unit = float(levels * (rows + 1))
        values, eps = (values * levels).round() * (rows + 1), 1.0
    finite = values.isfinite()
    spread = values.where(finite, -torch.inf).amax((1, 2)) - values.where(finite, torch.inf).amin((1, 2))
    spread = spread.clamp(min=eps).nan_to_num(eps, posinf=eps, neginf=eps)
    phases = ((spread / eps).log() / math.log(SHRINK)).ceil().long()
    prices = torch.zeros_like(values[:, 0])
    matches = torch.full(prices.shape, -1, device=values.device)
    alive = torch.ones_like(phases, dtype=torch.bool)
    for phase in range(int(phases.max()) + 1):
        alive &= phases >= phase
        matches.masked_fill_(alive[:, None], -1)
        _bid(values, prices, matches, eps * SHRINK ** (phases - phase).clamp(min=0).double(), spread, alive, rounds)
        alive &= (matches >= 0).all(1)
    return matches, prices / unit


def _bid(
    values: Tensor, prices: Tensor, matches: Tensor, eps: Tensor, spread: Tensor, alive: Tensor, rounds: int
) -> None:
    """Bid until all rows of the problems that are ``alive`` have a column; changes ``prices`` and ``matches``."""
    rows = values.shape[-1]
    owners = torch.full_like(matches, -1)
    flat_prices, flat_matches, flat_owners = prices.view(-1), matches.view(-1), owners.view(-1)
    for _ in range(rounds):
        problem, row = ((matches < 0) & alive[:, None]).nonzero(as_tuple=True)
        if not len(row):
            break
        profit, column = (values[problem, row] - prices[problem]).topk(min(2, rows), 1)
        lead = (
            (profit[:, 0] - profit[:, -1]).nan_to_num(torch.inf).minimum(spread[problem])
        )  # where only one is allowed
        target = problem * rows + column[:, 0]
        bid = flat_prices[target] + lead + eps[problem]
        highest = torch.full_like(flat_prices, -torch.inf).scatter_reduce_(0, target, bid, "amax")
        candidate = torch.where(bid == highest[target], row, rows)
        winner = torch.full_like(flat_owners, rows).scatter_reduce_(0, target, candidate, "amin")
        won = winner[target] == row
        target, problem, row = target[won], problem[won], row[won]
        evicted = flat_owners[target]
        had = evicted >= 0
        flat_matches[(problem * rows + evicted)[had]] = -1
        flat_matches[problem * rows + row] = target - problem * rows
        flat_owners[target] = row
        flat_prices[target] = highest[target]
