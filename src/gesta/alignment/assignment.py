"""Many linear assignments at once, every one of them optimal or provably close to it.

The Kuhn-Munkres step of ATA (Y. Zhao et al., "Alignment-guided Temporal Attention", NeurIPS 2022, Eqs 6 and 18 and
Appendix B), which takes most of alignment's time. Problems whose optimum a certificate proves at once need no solver
(:mod:`gesta.alignment.certificate`). The others go to SciPy, in parallel threads and, where it pays, with prices that
make its search short, or on a GPU to a kernel (:mod:`gesta.alignment.kernel`); results of the kernel that cannot be
proved good enough are replaced by SciPy's.
"""

from __future__ import annotations

import os
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from gesta.alignment import certificate
from gesta.alignment.statistics import anybody_listens, record
from gesta.config import suggest
from gesta.errors import GestaError

Solver = Literal["auto", "scipy", "auction", "kernel"]
SOLVERS: tuple[str, ...] = get_args(Solver)

TOLERANCE = 1e-7
"""Default of the largest tolerated gap per row: the rounding of a cosine in float32."""

WORTH_THREADS = 50_000
"""Entries of all problems together (about a millisecond) from which threads are used."""

WORTH_PRICES = (128, 20)
"""Rows, and among them rows whose best column is taken, from which prices are estimated first."""

SCALINGS = 8
"""Sinkhorn iterations of that estimate; more would take longer than they save."""


def assign(similarity: Tensor, solver: Solver = "auto", tolerance: float = TOLERANCE) -> Tensor:
    """Best one-to-one matches of the rows and columns of many matrices.

    Args:
        similarity: ``(..., N, N)`` real numbers, -inf for forbidden pairs. It receives no gradient.
        solver: ``scipy`` is exact. ``kernel`` (CUDA with Triton) and ``auction`` (any device, slow) are within
            ``tolerance``, since SciPy takes over where that cannot be proved. ``auto`` is ``kernel`` on CUDA devices
            that can run it, otherwise ``scipy``. Where several matchings are best, solvers may differ.
        tolerance: largest tolerated gap to the optimum per row, in units of similarity.

    Returns:
        ``(..., N)`` int64 on the same device: row i goes to column ``result[..., i]``.

    Raises:
        GestaError: unknown solver, no such device for it, not-a-number, or forbidden pairs that leave no matching.
    """
    if solver not in SOLVERS:
        raise GestaError(f"there is no solver {solver!r}{suggest(solver, SOLVERS)} (all: {', '.join(SOLVERS)})")
    if similarity.dim() < 2 or similarity.shape[-1] != similarity.shape[-2] or not similarity.is_floating_point():
        raise GestaError(
            f"similarity has to be floating-point and square (..., N, N), not {similarity.dtype} of "
            f"{' × '.join(map(str, similarity.shape))}"
        )
    return torch.ops.gesta.assign(similarity.detach(), solver, tolerance)


@torch.library.custom_op("gesta::assign", mutates_args=(), tags=(torch.Tag.cudagraph_unsafe,))
def _assign(similarity: Tensor, solver: str, tolerance: float) -> Tensor:
    if similarity.numel() == 0:
        return similarity.new_empty(similarity.shape[:-1], dtype=torch.int64)
    begin = _now(similarity.device)
    problems = similarity.reshape(-1, *similarity.shape[-2:])
    if problems.dtype not in (torch.float32, torch.float64):
        problems = problems.float()
    if problems.device.type == "cpu" and solver in ("auto", "scipy"):
        matches, proved = _by_scipy(problems)
        record(solver="scipy", solved=len(problems) - proved)
    else:
        matches, known = certificate.matches_without_solver(problems)
        open_problems = (~known).nonzero()[:, 0]
        proved = len(problems) - len(open_problems)
        if len(open_problems):
            matches[open_problems] = _solve(problems[open_problems] if proved else problems, solver, tolerance)
    record(problems=len(problems), certified=proved, seconds=_now(problems.device) - begin)
    return matches.view(similarity.shape[:-1])


@_assign.register_fake
def _(similarity: Tensor, solver: str, tolerance: float) -> Tensor:
    return similarity.new_empty(similarity.shape[:-1], dtype=torch.int64)


def _now(device: torch.device) -> float:
    """Seconds; while statistics are kept, after the device has finished what was queued before."""
    if anybody_listens() and device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


def _solve(problems: Tensor, solver: str, tolerance: float) -> Tensor:
    """``(P, N, N)`` to matches ``(P, N)``."""
    approximate = None  # matches and prices
    if solver == "kernel" or (solver == "auto" and problems.device.type == "cuda"):
        approximate = _by_kernel(problems, required=solver == "kernel")
    elif solver == "auction":
        from gesta.alignment.auction import auction

        approximate = auction(problems, eps=tolerance)
    if approximate is None:
        record(solver="scipy", solved=len(problems))
        return _by_scipy(problems)[0]
    matches, prices = approximate
    gaps = certificate.gap(problems, matches, prices)
    poor = (gaps > tolerance * problems.shape[-1]).nonzero()[:, 0]
    if len(poor):
        matches[poor] = _by_scipy(problems[poor])[0]
    if anybody_listens():
        taken = gaps[gaps <= tolerance * problems.shape[-1]].tolist()
        name = "auction" if solver == "auction" else "kernel"
        record(solver=name, solved=len(taken), gap=max(taken, default=0.0))
        record(solver="scipy", solved=len(poor), fallbacks=len(poor))
    return matches


# --- the kernel ------------------------------------------------------------------------------------------------------


def _by_kernel(problems: Tensor, *, required: bool) -> tuple[Tensor, Tensor] | None:
    """Matches and prices, or None where the kernel cannot run and need not."""
    try:
        from gesta.alignment import kernel

        if not kernel.can_run(problems):
            if required:
                raise GestaError(
                    f"the kernel solves problems of up to {kernel.LARGEST} rows on CUDA devices, not "
                    f"{problems.shape[-1]} rows on {problems.device.type}; use solver='auto'"
                )
            return None
        return kernel.solve(problems)
    except (GestaError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever a compiler or driver may raise
        if required:
            raise GestaError(f"the assignment kernel cannot run here, use solver='auto': {error}") from error
        _warn_of_kernel(str(error))
        return None


@cache
def _warn_of_kernel(reason: str) -> None:
    first = reason.strip().partition("\n")[0]
    warnings.warn(f"assignments are solved by SciPy because the GPU kernel cannot run here: {first}", stacklevel=2)


# --- SciPy -----------------------------------------------------------------------------------------------------------


def _by_scipy(problems: Tensor) -> tuple[Tensor, int]:
    """Exact matches: ``(P, N, N)`` on any device to ``(P, N)`` there, and how many needed no solver."""
    host = problems.cpu().numpy()
    matches = np.empty(host.shape[:2], dtype=np.int64)

    def solve(indices: range) -> int:
        return sum(_best(host[i], matches[i]) for i in indices)

    count = len(host)
    workers = _cpu_cores() if count > 1 and host.size >= WORTH_THREADS else 1
    if workers == 1:
        proved = solve(range(count))
    else:  # SciPy and NumPy release the interpreter lock while they compute
        step = -(-count // (4 * workers))  # a few tasks per thread, for problems are not equally hard
        proved = sum(_threads().map(solve, [range(i, min(i + step, count)) for i in range(0, count, step)]))
    return torch.from_numpy(matches).to(problems.device), proved


def _best(similarity: NDArray[Any], matches: NDArray[np.int64]) -> bool:
    """Write the best matches of one problem; whether no solver was needed, see
    :func:`certificate.matches_without_solver`."""
    rows = len(similarity)
    index = np.arange(rows)
    row_argmax = similarity.argmax(1)
    best = similarity[index, row_argmax]
    distinct = np.count_nonzero(np.bincount(row_argmax, minlength=rows))
    finite = bool(np.isfinite(best).all())
    if distinct == rows and finite:
        matches[:] = row_argmax
        return True
    column_argmax = similarity.argmax(0)
    if np.bincount(column_argmax, minlength=rows).all() and np.isfinite(similarity[column_argmax, index]).all():
        matches[column_argmax] = index
        return True
    if rows >= WORTH_PRICES[0] and rows - distinct >= WORTH_PRICES[1] and finite:
        cost = _priced(similarity, best)
    else:
        cost = np.negative(similarity, dtype=np.float64)
    try:
        matches[:] = linear_sum_assignment(cost)[1]
    except ValueError as error:
        raise GestaError(
            f"an assignment problem cannot be solved ({error}): forbid fewer pairs, and look for not-a-number"
        ) from None
    return False


def _priced(similarity: NDArray[Any], best: NDArray[Any]) -> NDArray[np.float64]:
    """Costs with the same optimum as the similarities, on which SciPy's search is short.

    Any prices may be added to columns. SciPy starts without prices and grows a tree of shortest paths for every row
    whose best column is taken; prices near the optimal duals, from a few Sinkhorn iterations, make these trees small.
    That saves about a third of the time on frames of 14 × 14 tokens and more, and nothing where few rows compete.
    """
    scores = similarity - best[:, None]
    temperature = -0.025 * float(scores.mean())
    if not np.isfinite(temperature):
        temperature = -0.025 * float(scores.mean(where=np.isfinite(scores)))
    temperature = max(temperature, 1e-6)
    scores *= 1 / temperature
    kernel = np.maximum(np.exp(scores, out=scores), 1e-20, out=scores)
    scale = np.ones(len(kernel), dtype=kernel.dtype)
    for _ in range(SCALINGS):  # not by @, whose own threads would compete with these
        scale = 1 / np.einsum("ij,i->j", kernel, 1 / np.einsum("ij,j->i", kernel, scale))
    return np.subtract(-temperature * np.log(scale, dtype=np.float64), similarity)


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_cpu_cores(), thread_name_prefix="gesta-assign")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.cache_clear)  # threads do not survive a fork


def _cpu_cores() -> int:
    from gesta.processes import cpu_cores

    return cpu_cores()
