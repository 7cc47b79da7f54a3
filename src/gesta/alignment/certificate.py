"""Proofs that matches are optimal, from linear programming duality.

For any prices ``p`` of the columns, no one-to-one matching has more similarity than

    bound(p) = Σ_i max_j (S_ij - p_j) + Σ_j p_j

since each row contributes at most max_j (S_ij - p_j), and every price counts once. So for any matching, however it was
found, bound(p) minus its similarity is an upper bound on its distance to the optimum; 0 proves it optimal.
"""

from __future__ import annotations

import torch
from torch import Tensor

MAX_ENTRIES = 1 << 26
"""Entries of similarity matrices that are processed together in float64."""


def matches_without_solver(similarity: Tensor) -> tuple[Tensor, Tensor]:
    """Matches that need no solver: the best columns of all rows (or best rows of all columns) are different.

    They attain the bound for ``p = 0`` (or that of the transposed problem). A pair that is mutually best need not be in
    the optimum: ``[[10, 9], [9, 0]]`` has 10 + 0 on the diagonal, but 9 + 9 is more.

    Args:
        similarity: ``(P, N, N)``, P problems.

    Returns:
        Matches ``(P, N)`` int64, and whether they are proved optimal, ``(P,)``; the others are each row's best
        column, which may repeat.
    """
    best, columns = similarity.max(2)
    proved = one_to_one(columns) & best.isfinite().all(1)  # not-a-number proves nothing
    unproved = (~proved).nonzero()[:, 0]
    if len(unproved):
        best, rows = similarity[unproved].max(1)
        by_columns = one_to_one(rows) & best.isfinite().all(1)
        index = torch.arange(rows.shape[1], device=rows.device).expand_as(rows)
        inverse = columns[unproved].scatter(1, rows, index)  # of rows, where these are one to one
        columns[unproved] = torch.where(by_columns[:, None], inverse, columns[unproved])
        proved[unproved] = by_columns
    return columns, proved


def one_to_one(matches: Tensor) -> Tensor:
    """Which of some ``(P, N)`` matches take every column once, ``(P,)``; -1 stands for no match."""
    taken = torch.zeros_like(matches, dtype=torch.bool)
    return taken.scatter_(1, matches.clamp(min=0), matches >= 0).all(1) & (matches >= 0).all(1)


def gap(similarity: Tensor, matches: Tensor, prices: Tensor) -> Tensor:
    """Largest possible distance to the optimum, in float64.

    Args:
        similarity: ``(P, N, N)``, P problems, -inf for forbidden pairs.
        matches: ``(P, N)``, -1 for no match.
        prices: of the columns, ``(P, N)``; any will do, good ones give a small gap.

    Returns:
        ``(P,)`` float64 in units of similarity, summed over the N pairs; infinite for matches that are not one to one.
    """
    problems_per_chunk = max(1, MAX_ENTRIES // similarity[0].numel())
    gaps = [_gap(*chunk) for chunk in zip(*(x.split(problems_per_chunk) for x in (similarity, matches, prices)))]
    return torch.cat(gaps).nan_to_num(torch.inf).where(one_to_one(matches), torch.inf)


def _gap(similarity: Tensor, matches: Tensor, prices: Tensor) -> Tensor:
    prices = prices.double()
    bound = (similarity - prices[:, None]).amax(2).sum(1) + prices.sum(1)
    return bound - similarity.gather(2, matches.clamp(min=0)[..., None]).double().sum((1, 2))
