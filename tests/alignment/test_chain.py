"""Routes against the paper's algorithm written out frame after frame, and against clips whose routes are known."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from problems import KINDS, tokens
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from gesta.alignment.chain import IDENTITY_BIAS, compose, find_routes, follow, inverse, nearby, similarity, unfollow
from gesta.errors import GestaError


def sequential_routes(clip: Tensor) -> Tensor:
    """Algorithm 1 with its slips repaired, for one clip ``(T, N, C)``: frame t is matched with the rearranged t - 1."""
    aligned, routes = clip[0], [list(range(clip.shape[1]))]
    for frame in clip[1:]:
        cosines = F.normalize(aligned.double(), dim=1) @ F.normalize(frame.double(), dim=1).T
        _, columns = linear_sum_assignment(cosines.numpy(), maximize=True)
        aligned = frame[columns]
        routes.append(columns.tolist())
    return torch.tensor(routes)


def total(clip: Tensor, routes: Tensor) -> Tensor:
    """Sum of cosines of neighbouring frames along routes (Eq 5), ``(T - 1,)``."""
    along = torch.stack([frame[route] for frame, route in zip(clip.double(), routes)])
    return F.cosine_similarity(along[:-1], along[1:], dim=-1).sum(1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("edge", [3, 6, 12])
def test_chain_is_the_papers_algorithm(kind: str, edge: int) -> None:
    """The same routes where matches are unique, routes of the same similarity in every frame where they tie."""
    for seed in range(4 if edge < 12 else 1):
        clip = tokens(kind, edge, 6, seed)[0]
        expected = sequential_routes(clip)
        routes = find_routes(clip[None].double(), (edge, edge), prefer_staying=False)[0]
        torch.testing.assert_close(total(clip, routes), total(clip, expected), atol=1e-9, rtol=0)
        if kind in ("random", "smooth", "clustered"):
            assert torch.equal(routes, expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options", [{}, {"coarse": 2}, {"window": 1}, {"coarse": 2, "window": 1}, {"solver": "auction"}]
)
def test_routes_are_permutations_and_no_worse_than_none(kind: str, options: dict[str, int]) -> None:
    clips = torch.cat([tokens(kind, 6, 5, seed, width=3) for seed in range(3)])
    before = clips.clone()
    routes = find_routes(clips, (6, 6), **options)
    assert torch.equal(clips, before)
    places = torch.arange(36)
    assert torch.equal(routes.sort(-1).values, places.expand(3, 5, 36)) and torch.equal(
        routes[:, 0], places.expand(3, 36)
    )
    if "coarse" not in options:  # tiles go by their means
        for clip, route in zip(clips, routes):
            assert (total(clip, route) >= total(clip, places.expand(5, 36)) - 1e-4).all()
    assert torch.equal(find_routes(clips[1:2], (6, 6), **options)[0], routes[1])  # other clips do not matter


def test_known_permutations_are_recovered() -> None:
    """Three frames, each with its own shuffle: a mistake of one frame, or an inverse, would show."""
    torch.manual_seed(0)
    frame = torch.randn(25, 32)
    shuffles = torch.stack([torch.randperm(25) for _ in range(3)])
    clip = torch.stack([frame[s] for s in shuffles])
    expected = torch.stack([inverse(s)[shuffles[0]] for s in shuffles])  # where frame 0's token n went
    assert torch.equal(find_routes(clip[None], (5, 5))[0], expected)
    along = follow(clip[None], expected[None])
    assert torch.equal(along, clip[0][None, :, None].expand(1, 25, 3, 32))  # constant along routes
    noisy = clip + 0.1 * torch.randn_like(clip)
    assert torch.equal(find_routes(noisy[None], (5, 5))[0], expected)


def test_moving_scene_is_followed() -> None:
    """One column to the right per frame, the last column re-enters at the left."""
    torch.manual_seed(0)
    grid = torch.randn(4, 6, 16)
    clip = torch.stack([grid.roll(t, 1).flatten(0, 1) for t in range(4)])
    places = torch.arange(24).view(4, 6)
    expected = torch.stack([places.roll(-t, 1).flatten() for t in range(4)])
    assert torch.equal(find_routes(clip[None], (4, 6))[0], expected)


def test_compose_and_inverse() -> None:
    torch.manual_seed(0)
    matches = torch.rand(2, 3, 7).argsort(-1)
    routes = compose(matches)
    for b in range(2):
        for n in range(7):
            place = n
            for t in range(3):
                assert routes[b, t, n] == place
                place = int(matches[b, t, place])
            assert routes[b, 3, n] == place
    assert torch.equal(inverse(routes), routes.argsort(-1))
    assert torch.equal(routes.gather(-1, inverse(routes)), torch.arange(7).expand(2, 4, 7))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_follow_and_back_to_the_bit(dtype: torch.dtype) -> None:
    x, routes = torch.randn(2, 3, 6, 5).to(dtype), torch.rand(2, 3, 6).argsort(-1)
    along = follow(x, routes)
    assert along.shape == (2, 6, 3, 5) and torch.equal(unfollow(along, routes), x)
    for b, t, n in ((0, 0, 0), (1, 2, 3), (0, 1, 5)):
        assert torch.equal(along[b, n, t], x[b, t, routes[b, t, n]])


def test_one_frame_or_one_place() -> None:
    assert find_routes(torch.randn(2, 1, 6, 3), (2, 3)).tolist() == [[list(range(6))]] * 2
    assert find_routes(torch.randn(2, 4, 1, 3), (1, 1)).tolist() == [[[0]] * 4] * 2


# --- similarity ------------------------------------------------------------------------------------------------------


def test_similarity_of_ordinary_and_broken_tokens() -> None:
    x = torch.randn(2, 3, 4, 5)
    found = similarity(x)
    torch.testing.assert_close(found[1, 0, 2, 3], F.cosine_similarity(x[1, 0, 2], x[1, 1, 3], dim=0))
    x[0, 0, 1] = 0.0
    x[0, 1, 2] = torch.nan
    x[0, 2, 3] = torch.inf
    found = similarity(x)
    assert found.isfinite().all()
    assert (found[0, 0, 1, [0, 1, 3]] == 0).all()  # zeros are like nothing
    assert (found[0, 0, :, 2] == -1).all() and (found[0, 1, 2] == -1).all() and (found[0, 1, :, 3] == -1).all()
    routes = find_routes(x, (2, 2))
    assert torch.equal(routes.sort(-1).values, torch.arange(4).expand(2, 3, 4))
    assert torch.equal(routes[1], find_routes(x[1:], (2, 2))[0])


def test_similarity_is_precise_whatever_the_tokens_are() -> None:
    x = torch.randn(1, 2, 4, 64)
    assert similarity(x.bfloat16()).dtype == torch.float32 and similarity(x.double()).dtype == torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(similarity(x), similarity(x.clone()))
        assert (similarity(x) - similarity(x.double())).abs().max() < 1e-6


def test_repeated_frames_stay_where_they_are() -> None:
    """Duplicate tokens tie; staying is preferred, by too little to outweigh anything else."""
    for kind in ("tied", "duplicate"):
        frame = tokens(kind, 5, 1, seed=0)
        assert torch.equal(find_routes(frame.expand(1, 4, 25, -1), (5, 5)), torch.arange(25).expand(1, 4, 25))
    clip = tokens("random", 5, 2, seed=0)
    biased = (similarity(clip.double(), prefer_staying=True) - similarity(clip.double()))[0, 0]
    torch.testing.assert_close(biased, IDENTITY_BIAS * torch.eye(25, dtype=torch.float64), atol=1e-12, rtol=0)


def test_routes_have_no_gradient() -> None:
    x = torch.randn(1, 3, 4, 5, requires_grad=True)
    assert not find_routes(x, (2, 2)).requires_grad
    follow(x, find_routes(x, (2, 2))).sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))


# --- tiles and windows -----------------------------------------------------------------------------------------------


def test_tiles_move_whole() -> None:
    """Tiles are shuffled, their inside is not: routes of single tokens follow, each keeping its place in its tile."""
    torch.manual_seed(0)
    height, width, coarse = 4, 6, 2
    grid = torch.randn(height, width, 16)
    tiles = grid.unflatten(0, (2, coarse)).unflatten(2, (3, coarse)).transpose(1, 2).flatten(0, 1)  # 6, 2, 2, C
    shuffle = torch.tensor([4, 2, 0, 1, 5, 3])
    moved = tiles[shuffle].unflatten(0, (2, 3)).transpose(1, 2).flatten(2, 3).flatten(0, 1)
    clip = torch.stack([grid.flatten(0, 1), moved.flatten(0, 1)])
    routes = find_routes(clip[None], (height, width), coarse=coarse)[0]
    assert torch.equal(clip[1][routes[1]], clip[0])
    route = find_routes(torch.randn(1, 2, height * width, 3), (height, width), coarse=coarse)[0, 1].view(height, width)
    corner = route[::coarse, ::coarse].repeat_interleave(coarse, 0).repeat_interleave(coarse, 1)
    within = (torch.arange(height) % coarse)[:, None] * width + torch.arange(width) % coarse
    assert torch.equal(route, corner + within)
    assert (corner // width % coarse == 0).all() and (corner % width % coarse == 0).all()


def test_tiles_have_to_fit() -> None:
    with pytest.raises(GestaError, match="4 × 6 tokens does not divide into tiles of 4 × 4"):
        find_routes(torch.randn(1, 2, 24, 3), (4, 6), coarse=4)


@pytest.mark.parametrize("coarse", [1, 2])
def test_windows_are_respected_from_frame_to_frame(coarse: int) -> None:
    torch.manual_seed(0)
    height, width = 6, 8
    free = find_routes(torch.randn(2, 4, 48, 3), (height, width), coarse=coarse)
    bound = find_routes(torch.randn(2, 4, 48, 3), (height, width), coarse=coarse, window=1)

    def farthest(routes: Tensor) -> int:
        steps = torch.stack([routes // width, routes % width]).diff(dim=2).abs()
        return int(steps.max()) // coarse

    assert farthest(free) > 1 == farthest(bound)
    still = find_routes(torch.randn(1, 3, 48, 3), (height, width), window=0)
    assert torch.equal(still, torch.arange(48).expand(1, 3, 48))


def test_nearby_is_a_square_of_places() -> None:
    near = nearby((3, 4), 1, torch.device("cpu"))
    for a in range(12):
        for b in range(12):
            assert near[a, b] == (abs(a // 4 - b // 4) <= 1 and abs(a % 4 - b % 4) <= 1)
