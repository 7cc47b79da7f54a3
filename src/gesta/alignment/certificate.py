"""Proofs that matches are optimal, from linear programming duality.

For any prices ``p`` of the columns, no one-to-one matching has more similarity than

    bound(p) = Σ_i max_j (S_ij - p_j) + Σ_j p_j

since each row gives at most its best profit, and all columns are paid once. So whoever found the matches, and however
roughly, bound minus value is a certified gap to the optimum, and a gap of zero proves them optimal.
"""

from __future__ import annotations

import torch
from torch import Tensor

AT_ONCE = 1 << 26
"""Entries of similarity matrices that are looked at together in double precision."""


def obvious(similarity: Tensor) -> tuple[Tensor, Tensor]:
    """Matches that need no solver: all rows (or all columns) like another column (or row) best.

    These attain the bound for ``p = 0`` (or its mirror image). It is all or nothing: pairs that like each other best
    need not belong to the optimum, ``[[10, 9], [9, 0]]`` is one.

    Args:
        similarity: ``(P, N, N)``.

    Returns:
        Matches ``(P, N)`` int64, and whether they are proved, ``(P,)``; the others are each row's favourite column.
    """
    best, columns = similarity.max(2)
    proved = one_to_one(columns) & best.isfinite().all(1)  # not-a-number proves nothing
    rest = (~proved).nonzero()[:, 0]
    if len(rest):
        best, rows = similarity[rest].max(1)
        mirrored = one_to_one(rows) & best.isfinite().all(1)
        index = torch.arange(rows.shape[1], device=rows.device).expand_as(rows)
        inverse = columns[rest].scatter(1, rows, index)  # the inverse where mirrored
        columns[rest] = torch.where(mirrored[:, None], inverse, columns[rest])
        proved[rest] = mirrored
    return columns, proved


def one_to_one(matches: Tensor) -> Tensor:
    """Which of some ``(P, N)`` matches take every column once, ``(P,)``; -1 stands for no match."""
    taken = torch.zeros_like(matches, dtype=torch.bool)
    return taken.scatter_(1, matches.clamp(min=0), matches >= 0).all(1) & (matches >= 0).all(1)


def gap(similarity: Tensor, matches: Tensor, prices: Tensor) -> Tensor:
    """Largest possible distance to the optimum, in double precision.

    Args:
        similarity: ``(P, N, N)``, -inf for forbidden pairs.
        matches: ``(P, N)``, -1 for no match.
        prices: of the columns, ``(P, N)``; any will do, good ones give a small gap.

    Returns:
        ``(P,)`` float64 in units of similarity, summed over the N pairs; infinite for matches that are not one to one.
    """
    parts = max(1, AT_ONCE // similarity[0].numel())
    gaps = [_gap(*part) for part in zip(*(x.split(parts) for x in (similarity, matches, prices)))]
    return torch.cat(gaps).nan_to_num(torch.inf).where(one_to_one(matches), torch.inf)


def _gap(similarity: Tensor, matches: Tensor, prices: Tensor) -> Tensor:
    prices = prices.double()
    bound = (similarity - prices[:, None]).amax(2).sum(1) + prices.sum(1)
    return bound - similarity.gather(2, matches.clamp(min=0)[..., None]).double().sum((1, 2))
