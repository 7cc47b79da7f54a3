"""Shortest augmenting paths on a GPU, one program per assignment problem.

R. Jonker, A. Volgenant, "A shortest augmenting path algorithm for dense and sparse linear assignment problems",
Computing 38, 1987: every row whose favourite column is taken grows a tree of alternating shortest paths (Dijkstra with
prices that keep lengths non-negative) until it reaches a free column. Rows of the matrix are read through the cache;
prices, owners and distances of all columns stay in registers. All is float32, so the caller proves how good the result
is (:func:`gesta.alignment.certificate.gap`), and nothing here has to be believed.

Importing this module needs Triton, which wheels of PyTorch for CPUs do not bring.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

LARGEST = 4096
"""Rows of a problem: beyond, a program's registers overflow."""


def can_run(problems: Tensor) -> bool:
    """Whether ``(P, N, N)`` problems lie on a device the kernel runs on (any, in Triton's interpreter) and fit."""
    return problems.shape[-1] <= LARGEST and (problems.is_cuda or triton.knobs.runtime.interpret)


def solve(problems: Tensor) -> tuple[Tensor, Tensor]:
    """Matches ``(P, N)`` int64, -1 for rows left alone, and prices ``(P, N)`` float32 of ``(P, N, N)`` problems."""
    problems = problems.float().contiguous()
    amount, rows, _ = problems.shape
    index = torch.arange(rows, device=problems.device).expand(amount, rows)
    row_argmax = problems.argmax(2)
    owners = torch.full_like(row_argmax, rows).scatter_reduce_(1, row_argmax, index, "amin")  # the lowest row
    waiting = (owners.gather(1, row_argmax) != index).to(torch.int32)
    owners = owners.masked_fill_(owners == rows, -1).to(torch.int32)
    matches = torch.full_like(owners, -1)
    prices = torch.empty_like(problems[:, 0])
    block = max(32, triton.next_power_of_2(rows))
    with torch.cuda.device_of(problems):
        _augment[(amount,)](
            problems,
            owners,
            waiting,
            matches,
            prices,
            rows,
            BLOCK=block,
            num_warps=max(1, min(block // 256, 8)),
            enable_fp_fusion=False,  # there is nothing to fuse, and Triton 3.9 wants it said
        )
    return matches.long(), prices


@triton.jit
def _augment(similarity, owners_of, waiting, matches, prices, rows, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """One problem of ``rows × rows``.

    Args:
        similarity: float32 ``(P, rows, rows)``.
        owners_of: int32 ``(P, rows)``, the row that has each column at first, or -1.
        waiting: int32 ``(P, rows)``, not 0 for rows that have none.
        matches: int32 ``(P, rows)``, written: the column of each row.
        prices: float32 ``(P, rows)``, written: of the columns.
    """
    problem = tl.program_id(0).to(tl.int64)
    similarity += problem * rows * rows
    column = tl.arange(0, BLOCK)
    real = column < rows
    owner = tl.load(owners_of + problem * rows + column, mask=real, other=-1)
    price = tl.zeros([BLOCK], tl.float32)
    for start in range(rows):
        if tl.load(waiting + problem * rows + start) != 0:
            distance = tl.full([BLOCK], float("inf"), tl.float32)
            before = tl.full([BLOCK], -1, tl.int32)  # the column from which a path comes, -1: from the start
            unseen = real
            row, here, end, low, steps = start, -1, -1, 0.0, 0
            while (end < 0) & (low < float("inf")) & (steps < rows):
                profit = tl.load(similarity + row * rows + column, mask=real, other=-float("inf")) - price
                own = tl.max(tl.where((column == here) | (here < 0), profit, -float("inf")), 0)
                length = low + (own - profit)
                shorter = unseen & (length < distance)
                distance = tl.where(shorter, length, distance)
                before = tl.where(shorter, here, before)
                low, here = tl.min(tl.where(unseen, distance, float("inf")), 0, return_indices=True)
                unseen = unseen & (column != here)
                row = tl.max(tl.where(column == here, owner, -1), 0)
                end = tl.where(row < 0, here, -1)
                steps += 1
            if (end >= 0) & (low < float("inf")):
                price = tl.where(real & (unseen == 0), price + (low - distance), price)
                while end >= 0:
                    origin = tl.max(tl.where(column == end, before, -1), 0)
                    taker = tl.max(tl.where(column == origin, owner, -1), 0)
                    owner = tl.where(column == end, tl.where(origin < 0, start, taker), owner)
                    end = origin
    tl.store(matches + problem * rows + owner, column, mask=real & (owner >= 0))
    tl.store(prices + problem * rows + column, price, mask=real)
