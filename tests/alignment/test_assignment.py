"""The assignment engine against brute force, SciPy and its own promises."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import threading
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from problems import KINDS, problems, value
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from gesta.alignment import assignment, certificate
from gesta.alignment.assignment import assign
from gesta.alignment.auction import auction
from gesta.alignment.statistics import anybody_listens, statistics
from gesta.errors import GestaError


def by_scipy(similarity: Tensor) -> Tensor:
    return torch.stack(
        [torch.from_numpy(linear_sum_assignment(s.double().numpy(), maximize=True)[1]) for s in similarity]
    )


def is_permutation(matches: Tensor) -> bool:
    return bool((matches.sort(-1).values == torch.arange(matches.shape[-1])).all())


def only_optimum(similarity: Tensor, best: Tensor, margin: float = 1e-5) -> bool:
    """Whether every other matching is worse by more than a margin: forbid each pair of the best in turn."""
    for i in range(len(best)):
        without = similarity.double().clone()
        without[i, best[i]] = -1e3
        if value(without[None], by_scipy(without[None]))[0] > value(similarity[None], best[None])[0] - margin:
            return False
    return True


# --- optimality ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["auto", "scipy", "auction"])
def test_brute_force(solver: assignment.Solver) -> None:
    """200 random problems of up to 6 × 6: no permutation is better."""
    torch.manual_seed(0)
    for n in range(1, 7):
        similarity = torch.randn(34, n, n)
        every = torch.tensor(list(itertools.permutations(range(n))))
        best = similarity.double()[:, torch.arange(n), every].sum(-1).amax(1)
        matches = assign(similarity, solver)
        assert is_permutation(matches)
        assert torch.equal(value(similarity, matches), best) or (value(similarity, matches) - best).abs().max() < 1e-12


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("edge, amount", [(3, 150), (7, 45), (12, 5)])
def test_as_good_as_scipy(kind: str, edge: int, amount: int) -> None:
    """1,000 problems: the same total, and the same matches where only one matching is best."""
    similarity = problems(kind, edge, amount, seed=edge)
    matches, expected = assign(similarity), by_scipy(similarity)
    assert is_permutation(matches)
    assert (value(similarity, matches) - value(similarity, expected)).abs().max() < 1e-12 * edge**2
    if edge == 3 and kind in ("random", "smooth"):
        unique = [only_optimum(s, m) for s, m in zip(similarity, expected)]
        assert sum(unique) > amount / 2
        for matched, best, alone in zip(matches, expected, unique):
            assert torch.equal(matched, best) or not alone


@pytest.mark.parametrize("kind", ["random", "smooth", "clustered"])
def test_priced_problems_have_the_same_optimum(kind: str) -> None:
    """From 128 rows on prices prepare SciPy's search; nothing but its length may change."""
    similarity = problems(kind, 14, 2, seed=5)
    for s in similarity.numpy():
        cost = assignment._priced(s, s.max(1))
        assert np.isfinite(cost).all() and np.ptp(cost + s, axis=0).max() < 1e-6  # one price per column
        assert np.ptp((cost + s)[0]) > 1e-3
    assert torch.equal(assign(similarity), by_scipy(similarity))


def test_sign_and_orientation() -> None:
    """Similarity is maximised, and the result says the column of each row."""
    matches = assign(torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.9, 0.0, 0.0]]))
    assert matches.tolist() == [1, 2, 0]
    similarity = problems("smooth", 6, 20, seed=1)
    assert (value(similarity, assign(similarity)) > similarity.diagonal(dim1=1, dim2=2).double().sum(1) + 0.1).all()


def test_mutually_best_pair_outside_the_optimum() -> None:
    """A pair that is mutually best is not in the optimum here, so nothing may be proved without a solver."""
    similarity = torch.tensor([[10.0, 9.0], [9.0, 0.0]])
    assert assign(similarity).tolist() == [1, 0]
    assert not certificate.matches_without_solver(similarity[None])[1].any()


def test_certificates_are_never_wrong() -> None:
    torch.manual_seed(1)
    # whole numbers: ties and problems that need no solver are both frequent
    steps = torch.randint(-3, 4, (3000, 4, 4)).float()
    matches, proved = certificate.matches_without_solver(steps)
    assert 100 < proved.sum() < 2900
    best = value(steps, by_scipy(steps))
    assert torch.equal(value(steps, matches)[proved], best[proved])
    found = np.empty(4, dtype=np.int64)
    assert [assignment._best(s, found) for s in steps.numpy()] == proved.tolist()


def test_columns_certify_too() -> None:
    # column 0 is best for both rows, but the best rows of the columns are different
    similarity = torch.tensor([[5.0, 4.0], [6.0, 0.0]])
    matches, proved = certificate.matches_without_solver(similarity[None])
    assert proved.all() and matches.tolist() == [[1, 0]]
    with statistics() as counted:
        assert assign(similarity).tolist() == [1, 0]
    assert counted.certified == 1


def test_shapes_types_and_layouts() -> None:
    similarity = torch.randn(2, 3, 5, 5)
    matches = assign(similarity)
    assert matches.shape == (2, 3, 5) and matches.dtype == torch.int64
    assert torch.equal(assign(similarity.double()), matches)
    turned = assign(similarity.mT)  # not contiguous
    assert torch.equal(turned.gather(-1, matches), torch.arange(5).expand(2, 3, 5))
    for dtype in (torch.bfloat16, torch.float16):
        low = similarity.to(dtype)
        assert torch.equal(assign(low), assign(low.float()))
    assert assign(torch.zeros(0, 4, 4)).shape == (0, 4) and assign(torch.zeros(3, 0, 0)).shape == (3, 0)
    assert assign(torch.zeros(2, 1, 1)).tolist() == [[0], [0]]
    assert not assign(similarity.requires_grad_()).requires_grad


def test_input_is_not_written_to() -> None:
    similarity = problems("smooth", 12, 4, seed=2)
    before = similarity.clone()
    for solver in ("scipy", "auction"):
        assign(similarity, solver)
        assert torch.equal(similarity, before)


@pytest.mark.parametrize("solver", ["scipy", "auction"])
def test_batch_independence(solver: assignment.Solver) -> None:
    """Ties included: the other problems of a batch do not matter."""
    batch = torch.cat([problems(kind, 5, 3, seed=3) for kind in KINDS])
    batch[4] *= 100  # another scale of prices
    together = assign(batch, solver)
    assert torch.equal(together, torch.stack([assign(s, solver) for s in batch]))
    assert torch.equal(together, assign(batch, solver))


# --- errors ----------------------------------------------------------------------------------------------------------


def test_misuse_is_refused() -> None:
    square = torch.zeros(2, 3, 3)
    for wrong, message in (
        (lambda: assign(square, "hungarian"), "no solver 'hungarian'"),
        (lambda: assign(square, "auctoin"), "did you mean 'auction'"),
        (lambda: assign(torch.zeros(2, 3)), "2 × 3"),
        (lambda: assign(square.long()), "int64"),
        (lambda: assign(problems("random", 3, 1, 0) * torch.nan), "not-a-number"),
        (lambda: assign(torch.eye(3).masked_fill(torch.eye(3) == 0, torch.nan)), "not-a-number"),
        (lambda: auction(square, eps=0.0), "eps > 0"),
        (lambda: auction(square, levels=0), "levels"),
    ):
        with pytest.raises(GestaError, match=message):
            wrong()


def test_no_matching_without_forbidden_pairs() -> None:
    similarity = torch.randn(4, 4)
    similarity[:2, 1:] = -torch.inf  # two rows, one column
    with pytest.raises(GestaError, match="infeasible"):
        assign(similarity)
    with pytest.raises(GestaError, match="infeasible"):  # given up by the auction, refused by SciPy
        assert (auction(similarity[None], rounds=50)[0] < 0).any()
        assign(similarity, "auction")


@pytest.mark.parametrize("solver", ["scipy", "auction"])
def test_forbidden_pairs(solver: assignment.Solver) -> None:
    """Bands with -inf outside, of which the identity is always left."""
    for rows, width in ((6, 1), (49, 3), (144, 5)):
        place = torch.arange(rows)
        near = (place[:, None] - place[None]).abs() <= width
        similarity = problems("random", int(rows**0.5) + 1, 3, seed=rows)[:, :rows, :rows].masked_fill(
            ~near, -torch.inf
        )
        matches, expected = assign(similarity, solver), by_scipy(similarity)
        assert is_permutation(matches) and near[place, matches].all()
        assert (value(similarity, matches) - value(similarity, expected)).abs().max() < 2e-7 * rows
    alone = torch.full((3, 3), -torch.inf).fill_diagonal_(-5.0)
    assert assign(alone, solver).tolist() == [0, 1, 2]


# --- the auction -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_auction_keeps_its_promise(kind: str) -> None:
    similarity = problems(kind, 6, 6, seed=7)
    best = value(similarity, by_scipy(similarity))
    for eps in (1e-1, 1e-2, 1e-4):
        matches, prices = auction(similarity, eps=eps)
        assert is_permutation(matches)
        promised, true = certificate.gap(similarity, matches, prices), best - value(similarity, matches)
        assert (true <= promised + 1e-9).all() and (true >= -1e-9).all()
        assert (promised <= 36 * eps + 1e-9).all()


@pytest.mark.parametrize("kind", KINDS)
def test_auction_is_exact_in_whole_numbers(kind: str) -> None:
    similarity, levels = problems(kind, 6, 6, seed=8), 4096
    matches, _ = auction(similarity, levels=levels)
    rounded = (similarity.double() * levels).round()
    assert torch.equal(value(rounded, matches), value(rounded, by_scipy(rounded)))
    assert (value(similarity, by_scipy(similarity)) - value(similarity, matches)).max() <= 36 / levels


def test_auction_of_one_row_and_of_equals() -> None:
    assert auction(torch.tensor([[[0.3]]]))[0].tolist() == [[0]]
    first, second = auction(torch.zeros(2, 5, 5))[0]
    assert is_permutation(first) and torch.equal(first, second)
    matches, prices = auction(problems("random", 4, 2, seed=0), rounds=1)  # given up
    assert certificate.gap(problems("random", 4, 2, seed=0), matches, prices).isposinf().all()


def test_gap_needs_a_matching() -> None:
    similarity = torch.eye(3)[None]
    zero = torch.zeros(1, 3)
    assert certificate.gap(similarity, torch.tensor([[0, 1, 2]]), zero).tolist() == [0.0]
    assert certificate.gap(similarity, torch.tensor([[1, 2, 0]]), zero).tolist() == [3.0]
    for wrong in ([0, 0, 2], [0, 1, -1]):
        assert certificate.gap(similarity, torch.tensor([wrong]), zero).isposinf().all()


def test_gap_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    similarity = problems("smooth", 4, 5, seed=0)
    arguments = similarity, by_scipy(similarity), torch.rand(5, 16)
    whole = certificate.gap(*arguments)
    monkeypatch.setattr(certificate, "MAX_ENTRIES", 2 * 16 * 16)
    assert torch.equal(certificate.gap(*arguments), whole)


# --- falling back ----------------------------------------------------------------------------------------------------


def test_what_cannot_be_proved_goes_to_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    similarity = problems("smooth", 5, 6, seed=9)

    def careless(values: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        matches, prices = auction(values, eps=eps)
        matches[0], prices[1], matches[2, :2] = matches[0].flip(0), prices[1] + torch.rand(25), 7
        return matches, prices

    monkeypatch.setattr("gesta.alignment.auction.auction", careless)
    with statistics() as counted:
        matches = assign(similarity, "auction")
    assert (value(similarity, matches) - value(similarity, by_scipy(similarity))).abs().max() < 25e-7
    assert counted.fallbacks == 3 and counted.solved == {"auction": 3, "scipy": 3}
    assert 0 <= counted.gap <= 25e-7


def test_tolerance_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    similarity = problems("smooth", 5, 4, seed=9)
    monkeypatch.setattr("gesta.alignment.auction.auction", lambda values, eps: auction(values, eps=0.01))
    for tolerance, taken in ((0.01, "auction"), (1e-6, "scipy")):
        with statistics() as counted:
            assign(similarity, "auction", tolerance)
        assert counted.solved == {taken: 4}


def test_kernel_that_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Required, that is an error; otherwise one warning, once, and SciPy."""
    similarity = problems("random", 4, 2, seed=0)
    with pytest.raises(GestaError, match="use solver='auto'"):
        assign(similarity, "kernel")

    def broken(_: Tensor) -> object:
        raise RuntimeError("no compiler\nand a long story")

    kernel = pytest.importorskip("gesta.alignment.kernel", exc_type=ImportError)
    monkeypatch.setattr(kernel, "can_run", lambda _: True)
    monkeypatch.setattr(kernel, "solve", broken)
    assignment._warn_of_kernel.cache_clear()
    with pytest.warns(UserWarning, match=r"SciPy because the GPU kernel cannot run here: no compiler$"):
        assert assignment._by_kernel(similarity, required=False) is None
    assert assignment._by_kernel(similarity, required=False) is None
    with pytest.raises(GestaError, match="no compiler"):
        assign(similarity, "kernel")


# --- statistics ------------------------------------------------------------------------------------------------------


def test_statistics_add_up() -> None:
    similarity = torch.cat([torch.eye(16)[None], problems("random", 4, 9, seed=0)])
    assert not anybody_listens()
    with statistics() as outer:
        assign(similarity)
        with statistics() as inner:
            assign(similarity, "auction")
    assert not anybody_listens()
    assign(similarity)
    for counted, calls in ((inner, 1), (outer, 2)):
        assert counted.problems == 10 * calls == counted.certified + sum(counted.solved.values())
        assert counted.certified >= calls and counted.fallbacks == 0 and counted.seconds > 0
    assert set(inner.solved) == {"auction"} and set(outer.solved) == {"auction", "scipy"}
    assert outer.seconds > inner.seconds and 0 < outer.gap == inner.gap <= 16e-7


def test_statistics_of_several_threads() -> None:
    similarity = problems("random", 3, 5, seed=0)
    with statistics() as counted:
        threads = [threading.Thread(target=lambda: [assign(similarity) for _ in range(20)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert counted.problems == 400 == counted.certified + counted.solved["scipy"]


# --- threads ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def three_threads(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    monkeypatch.setattr(assignment, "_cpu_cores", lambda: 3)
    assignment._threads.cache_clear()
    yield
    assignment._threads.cache_clear()


@pytest.mark.usefixtures("three_threads")
def test_threads_change_nothing() -> None:
    similarity = torch.cat([problems(kind, 8, 7, seed=4) for kind in KINDS])  # more problems than tasks
    assert similarity.numel() >= assignment.WORTH_THREADS
    matches = assign(similarity)
    assert assignment._threads.cache_info().currsize == 1
    assert torch.equal(matches, torch.stack([assign(s) for s in similarity]))
    bad = similarity.clone()
    bad[20] = torch.nan
    with pytest.raises(GestaError, match="not-a-number"):
        assign(bad)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.usefixtures("three_threads")
def test_threads_after_a_fork() -> None:
    """Threads do not survive a fork: a child that inherited the pool would wait for ever."""
    similarity = problems("random", 12, 6, seed=4)
    expected = assign(similarity)
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # later Pythons warn of forking with threads
        child = context.Process(target=lambda: answers.put(assign(similarity).tolist()))
        child.start()
    child.join(30)
    alive = child.is_alive()
    child.kill()
    assert not alive and answers.get() == expected.tolist()


# --- the operator ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_operator_is_well_behaved(dtype: torch.dtype) -> None:
    torch.library.opcheck(torch.ops.gesta.assign.default, (torch.randn(2, 3, 4, 4, dtype=dtype), "scipy", 1e-7))


def test_compiles_into_one_graph() -> None:
    def matched(x: Tensor) -> Tensor:
        return (x * 2).gather(-1, assign(x * 2)[..., None]).sum()

    x = torch.randn(3, 6, 6)
    compiled = torch.compile(matched, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), matched(x))
    with statistics() as counted:
        compiled(x)
    assert counted.problems == 3


def test_meta_tensors_have_a_shape() -> None:
    matches = assign(torch.empty(2, 3, 5, 5, device="meta"))
    assert matches.shape == (2, 3, 5) and matches.dtype == torch.int64 and matches.is_meta


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", KINDS)
def test_on_a_gpu(kind: str) -> None:
    pytest.importorskip("triton")
    for edge in (2, 7, 14, 20):
        similarity = problems(kind, edge, 4, seed=edge)
        best = value(similarity, by_scipy(similarity))
        with statistics() as counted:
            matches = assign(similarity.cuda(), "kernel")
        assert matches.is_cuda and is_permutation(matches.cpu())
        assert (best - value(similarity, matches.cpu())).max() <= 1e-7 * edge**2
        assert counted.fallbacks == 0
        assert torch.equal(matches, assign(similarity.cuda()))
