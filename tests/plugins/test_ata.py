"""ATA: the invariants of its specification (§6) that concern the layer; the engine's are in tests/alignment."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gesta.alignment.chain import find_routes, follow, inverse, similarity, unfollow
from gesta.alignment.soft import sinkhorn, soft_routes
from gesta.alignment.statistics import statistics
from gesta.config import check
from gesta.errors import GestaError
from gesta.layers.temporal import TemporalAttention, TemporalBranch
from gesta.model import ClipSpec, ModelConfig, VideoModel
from gesta.models import model_config
from gesta.models.timesformer import TimeSformerConfig
from gesta.plugins.ata import ATA, Alignment, tile_side


def tokens(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def branch(width: int = 8, heads: int = 2, seed: int = 1, **options: Any) -> TemporalBranch:
    """A temporal branch of generic weights, in float64."""
    torch.manual_seed(seed)
    made = TemporalBranch(width, heads, **options).double()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    return made.eval()


def model(seed: int = 0, dtype: torch.dtype = torch.float64, **changes: Any) -> VideoModel:
    """A small TimeSformer of generic weights."""
    config = TimeSformerConfig(
        width=24, depth=4, heads=3, patch=8, classes=5, clip=ClipSpec(frames=4, stride=1, size=32), **changes
    )
    return generic(config, seed, dtype)


def generic(config: ModelConfig, seed: int, dtype: torch.dtype = torch.float64) -> VideoModel:
    torch.manual_seed(seed)
    made = config.build()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    return made.to(dtype).eval()


def video(config: ModelConfig, seed: int = 3, dtype: torch.dtype = torch.float64, count: int = 2) -> Tensor:
    return tokens(count, 3, config.clip.frames, config.clip.size, config.clip.size, seed=seed, dtype=dtype)


# --- routes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"coarse": 2}, {"window": 1}, {"coarse": 2, "window": 1}])
def test_routes_are_permutations_that_can_be_undone_to_the_bit(options: dict[str, int]) -> None:
    x = tokens(3, 5, 16, 6, dtype=torch.float32)
    routes = find_routes(x, (4, 4), **options)
    assert torch.equal(routes.sort(-1).values, torch.arange(16).expand(3, 5, 16))
    assert torch.equal(routes[:, 0], torch.arange(16).expand(3, 16))
    assert torch.equal(unfollow(follow(x, routes), routes), x)
    assert torch.equal(routes.gather(2, inverse(routes)), torch.arange(16).expand(3, 5, 16))


def test_follow_takes_each_token_from_its_place() -> None:
    x = tokens(2, 3, 9, 4)
    routes = find_routes(x, (3, 3))
    along = follow(x, routes)
    for b, n, t in [(0, 0, 0), (1, 4, 2), (0, 8, 1), (1, 2, 1)]:
        assert torch.equal(along[b, n, t], x[b, t, routes[b, t, n]])


def mean_cosine(along: Tensor) -> Tensor:
    """Of neighbours on each route: ``(B, N, T, C)`` to ``(B, T - 1)``."""
    return torch.cosine_similarity(along[:, :, :-1], along[:, :, 1:], dim=-1).mean(1)


def test_routes_never_lower_the_similarity_and_repeated_frames_stay() -> None:
    for seed in range(20):
        x = tokens(2, 4, 12, 5, seed=seed)
        before = mean_cosine(x.transpose(1, 2))
        assert (mean_cosine(follow(x, find_routes(x, (3, 4)))) - before).min() > 0
    still = tokens(2, 1, 12, 5).expand(2, 4, 12, 5)
    assert torch.equal(find_routes(still, (3, 4)), torch.arange(12).expand(2, 4, 12))
    flat = torch.ones(1, 3, 12, 5)  # every match is as good: tie_break keeps the places
    assert torch.equal(find_routes(flat, (3, 4)), torch.arange(12).expand(1, 3, 12))


def test_clip_of_shuffles_becomes_constant_along_routes() -> None:
    frame = tokens(16, 32)
    order = [torch.randperm(16, generator=torch.Generator().manual_seed(s)) for s in range(5)]
    x = torch.stack([frame[o] for o in order])[None]
    along = follow(x, find_routes(x, (4, 4)))
    assert torch.equal(along, along[:, :, :1].expand_as(along))
    noisy = x + 0.1 * tokens(*x.shape, seed=9)
    assert torch.equal(find_routes(noisy, (4, 4)), find_routes(x, (4, 4)))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_broken_tokens_do_not_break_the_routes(value: float) -> None:
    x = tokens(2, 3, 9, 4)
    x[0, 1, 2] = value
    x[1, 0] = 0  # a black frame: any match is as good
    routes = find_routes(x, (3, 3))
    assert torch.equal(routes.sort(-1).values, torch.arange(9).expand(2, 3, 9))
    assert torch.equal(routes[1], find_routes(x[1:], (3, 3))[0])


# --- around temporal attention ----------------------------------------------------------------------------------------


def by_the_paper(x: Tensor, temporal: TemporalBranch, dealign: bool) -> Tensor:
    """Algorithms 1 and 2 with their slips repaired, frame after frame: ``(B, T, H, W, C)``."""
    from scipy.optimize import linear_sum_assignment

    batch, frames, height, width, channels = x.shape
    aligned = x.reshape(batch, frames, -1, channels).clone()
    undo = torch.arange(height * width).repeat(batch, frames, 1)
    for b in range(batch):
        for t in range(1, frames):
            before, here = (nn.functional.normalize(aligned[b, s], dim=-1) for s in (t - 1, t))
            columns = torch.from_numpy(linear_sum_assignment((before @ here.T).numpy(), maximize=True)[1])
            aligned[b, t] = aligned[b, t, columns]
            undo[b, t] = columns.argsort()
    result = aligned + temporal.attend(aligned.transpose(1, 2)).transpose(1, 2)
    if dealign:
        result = result.gather(2, undo[..., None].expand_as(result))
    return result.view(x.shape)


@pytest.mark.parametrize("dealign", [True, False])
def test_layer_is_the_papers_algorithm_and_leaves_its_input_alone(dealign: bool) -> None:
    x = tokens(2, 5, 3, 4, 8)
    kept = x.clone()
    temporal = branch(around=ATA(dealign=dealign, tie_break="none"))
    with torch.no_grad():
        found, _ = temporal(x)
        torch.testing.assert_close(found, by_the_paper(x, temporal, dealign), atol=1e-12, rtol=0)
    assert torch.equal(x, kept)


@pytest.mark.parametrize("alignment", ["hard", "sinkhorn", "straight_through"])
def test_one_frame_and_one_place(alignment: Any) -> None:
    temporal, plain = branch(around=ATA(alignment=alignment)), branch()
    for shape in ((2, 1, 3, 3, 8), (2, 4, 1, 1, 8)):
        x = tokens(*shape)
        with torch.no_grad():
            torch.testing.assert_close(temporal(x)[0], plain(x)[0], atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    "around", [ATA(), ATA(dealign=False), ATA(align_on="norm"), ATA(alignment="sinkhorn"), ATA(coarse=2, window=1)]
)
def test_clips_do_not_see_each_other(around: ATA) -> None:
    x, temporal = tokens(3, 4, 4, 4, 8), branch(around=around)
    with torch.no_grad():
        torch.testing.assert_close(temporal(x)[0][1:2], temporal(x[1:2])[0], atol=1e-12, rtol=0)


def test_one_permutation_of_all_frames_permutes_the_result() -> None:
    x, temporal = tokens(2, 4, 3, 4, 8), branch(around=ATA(tie_break="none"))
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        flat = x.flatten(2, 3)
        permuted, _ = temporal(flat[:, :, order].view(x.shape))
        torch.testing.assert_close(permuted.flatten(2, 3), temporal(x)[0].flatten(2, 3)[:, :, order])


def test_matches_have_no_gradient_but_values_have() -> None:
    """The gradient is that of the branch along frozen routes, by finite differences."""
    x = tokens(1, 3, 2, 3, 8).requires_grad_()
    temporal = branch(around=ATA())
    _, routes = temporal(x)
    assert routes is not None and not routes.requires_grad
    assert torch.autograd.gradcheck(lambda x: temporal(x, routes=routes)[0], (x,))
    free, frozen = (torch.autograd.grad(temporal(x, routes=r)[0].square().sum(), x)[0] for r in (None, routes))
    assert torch.equal(free, frozen)


def test_straight_through_is_hard_forward_and_soft_backward() -> None:
    x = tokens(1, 3, 2, 3, 8).requires_grad_()
    hard, through = branch(around=ATA(tie_break="none")), branch(around=ATA(alignment="straight_through"))
    a, b = hard(x)[0], through(x)[0]
    torch.testing.assert_close(a, b, atol=1e-12, rtol=0)
    by_hard, by_through = (torch.autograd.grad(y.square().sum(), x)[0] for y in (a, b))
    assert (by_hard - by_through).abs().max() > 1e-4  # the similarities have a gradient, too


@pytest.mark.parametrize("chain", ["compose", "anchor0", "sequential"])
def test_soft_routes_become_hard_ones(chain: Any) -> None:
    """On a clip whose matches are clear the plans approach the permutations as tau falls."""
    frame = tokens(9, 16)
    x = torch.stack([frame[torch.randperm(9, generator=torch.Generator().manual_seed(s))] for s in range(4)])[None]
    hard = nn.functional.one_hot(find_routes(x, (3, 3)), 9).double()
    gaps = [
        (soft_routes(x, (3, 3), tau=tau, iterations=50, chain=chain) - hard).abs().max() for tau in (0.3, 0.1, 0.02)
    ]
    assert gaps[0] > gaps[1] > gaps[2] and gaps[2] < 1e-6


def test_sinkhorn_sums() -> None:
    plan = sinkhorn(tokens(3, 20, 20) / 0.3, 50)
    torch.testing.assert_close(plan.sum(-1), torch.ones(3, 20, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(plan.sum(-2), torch.ones(3, 20, dtype=torch.float64), atol=1e-3, rtol=0)


def test_soft_windows_let_nothing_through() -> None:
    x = tokens(2, 3, 16, 5)
    near = (torch.arange(16)[:, None] // 4 - torch.arange(16) // 4).abs() <= 1
    near &= (torch.arange(16)[:, None] % 4 - torch.arange(16) % 4).abs() <= 1
    plan = soft_routes(x, (4, 4), tau=0.5, iterations=30, window=1)[:, 1]
    assert (plan[:, ~near] == 0).all() and plan.isfinite().all()
    torch.testing.assert_close(plan.sum(-1), torch.ones(2, 16, dtype=torch.float64))


def test_autocast_finds_the_routes_of_full_precision() -> None:
    x = tokens(2, 4, 16, 32, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(similarity(x), similarity(x.clone())) and similarity(x).dtype == torch.float32
        routes = find_routes(x, (4, 4))
    assert torch.equal(routes, find_routes(x, (4, 4)))


def test_large_maps_are_matched_in_tiles_with_a_warning() -> None:
    with pytest.warns(UserWarning, match=r"maps of 56 × 56 tokens in tiles of 4 × 4; ATA\(coarse=1\) matches single"):
        assert tile_side((56, 56)) == 4
    with pytest.warns(UserWarning, match="maps of 58 × 58 tokens in tiles of 2 × 2"):  # 841, but no larger tile fits
        assert tile_side((58, 58)) == 2
    with pytest.warns(UserWarning, match="maps of 29 × 31 tokens one by one, since no tile of 2 × 2 to 8 × 8"):
        assert tile_side((29, 31)) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tile_side((28, 28)) == tile_side((14, 14)) == 1


def test_content_is_matched_without_the_embeddings_of_position_and_time() -> None:
    """A clip whose patches move: matched by content they are found, and attended to with their embeddings."""
    made = model(around=ATA(align_on="content"))
    with torch.no_grad():
        made.pos_embed.mul_(30)
    clip = video(made.config, count=1)
    patches = clip.unfold(3, 8, 8).unfold(4, 8, 8).flatten(3, 4)  # (1, 3, T, N, 8, 8)
    routes = torch.stack([torch.randperm(16, generator=torch.Generator().manual_seed(t)) for t in range(4)])
    routes = routes[:, routes[0].argsort()]  # from every position of frame 0
    moved = torch.stack([patches[:, :, 0, inverse(route)] for route in routes], 2)
    clip = moved.unflatten(3, (4, 4)).permute(0, 1, 2, 3, 5, 4, 6).reshape(clip.shape)
    entered: list[Any] = []
    temporal = made.blocks[0].temporal
    temporal.around.register_forward_hook(lambda _, inputs, result: entered.append((inputs, result)))
    with torch.no_grad():
        made(clip)
        (attend, x, norm, _, positions), (result, found) = entered[0]
        assert torch.equal(found[0], routes)
        assert not torch.equal(Alignment(ATA())(attend, x, norm)[1], found)  # which the embeddings hide
        table = (made.pos_embed[:, 1:] + made.time_embed[0, :, None]).view(1, 4, 4, 4, -1)
        torch.testing.assert_close(positions, table, rtol=0, atol=0)
        token = x.flatten(2, 3)
        expected = token.clone()  # Algorithm 2, token by token, of what entered
        for n in range(16):
            along = [(t, int(routes[t, n])) for t in range(4)]
            residual = temporal.attend(torch.stack([token[:, t, at] for t, at in along], 1)[:, None])[:, 0]
            for t, at in along:
                expected[:, t, at] += residual[:, t]
        torch.testing.assert_close(result.flatten(2, 3), expected, rtol=0, atol=1e-12)


def test_impossible_switches_are_refused() -> None:
    with pytest.raises(GestaError, match="a layer before a block does not know them"):
        check(TemporalAttention(around=ATA(align_on="content")))
    with pytest.raises(GestaError, match="tokens are no longer where their embeddings say"):
        check(ATA(align_on="content", dealign=False))
    with pytest.raises(GestaError, match="cannot leave the feature map permuted"):
        ATA(alignment="sinkhorn", dealign=False).build()
    with pytest.raises(GestaError, match="tiles move whole"):
        ATA(alignment="sinkhorn", coarse=2).build()
    with pytest.raises(GestaError, match="5 × 5 tokens does not divide into tiles of 2 × 2"):
        branch(around=ATA(coarse=2))(tokens(1, 2, 5, 5, 8))
    with pytest.raises(GestaError, match="5 × 5 tokens does not divide into tiles of 2 × 2"):
        TemporalAttention(around=ATA(coarse=2)).build((8, 2, 5, 5))


# --- in a TimeSformer -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_dealignment_changes_nothing_where_all_blocks_align(dtype: torch.dtype, bound: float) -> None:
    """§2.5: spatial attention commutes with permutations of a frame, and the same pairs match in the next block."""
    with_, without = (model(around=ATA(dealign=d, tie_break="none"), dtype=dtype) for d in (True, False))
    clip = video(with_.config, dtype=dtype)
    with torch.no_grad():
        scores = with_(clip)
        assert (scores - without(clip)).abs().max() < bound * scores.abs().max()
        some = [model(around=ATA(dealign=d, tie_break="none"), ata_blocks=(0, 2)) for d in (True, False)]
        a, b = (m(clip.double()) for m in some)
        assert (a - b).abs().max() > 1e-3 * a.abs().max()


def test_dealignment_matters_where_blocks_see_space() -> None:
    config = model_config("r3d_tiny", classes=3)
    config.clip.frames, config.clip.size = 8, 32
    scores = []
    for dealign in (True, False):
        made = with_temporal_attention(config, ATA(dealign=dealign))
        with torch.no_grad():
            scores.append(made(video(config)))
    assert (scores[0] - scores[1]).abs().max() > 1e-3 * scores[0].abs().max()


def with_temporal_attention(config: ModelConfig, around: ATA) -> VideoModel:
    from gesta.config import copy
    from gesta.model import Insert

    config = copy(config)
    config.inserts = [Insert(layer=TemporalAttention(around=around), at=1)]
    made = generic(config, 0)
    for module in made.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
    return made


def test_class_token_is_neither_aligned_nor_seen() -> None:
    """What enters spatial attention holds the block's own class token, and patches that know nothing of it."""
    made = model(around=ATA())
    seen: list[Tensor] = []
    made.blocks[0].norm1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].unflatten(0, (2, -1))))
    clip = video(made.config)
    with torch.no_grad():
        for factor in (1.0, -3.0):
            made.cls_token.mul_(factor)
            made(clip)
            assert torch.equal(seen[-1][:, :, 0], made.stem(clip).tokens[:, :1].expand(-1, seen[-1].shape[1], -1))
    assert torch.equal(seen[0][:, :, 1:], seen[1][:, :, 1:]) and not torch.equal(seen[0], seen[1])


def test_fresh_model_is_the_one_without_temporal_attention() -> None:
    """A zero temporal_fc: ATA, attention and averaging over the shared class token give the same to the bit."""
    plain = model(temporal="averaging")
    with torch.no_grad():
        scores = plain(video(plain.config))
        for changes in ({}, {"around": ATA()}, {"around": ATA(alignment="sinkhorn")}):
            made = model(**changes)
            made.load_state_dict(plain.state_dict(), strict=False)
            for module in made.modules():
                if isinstance(module, TemporalBranch):
                    nn.init.zeros_(module.fc.weight)
                    nn.init.zeros_(module.fc.bias)
            assert torch.equal(made(video(made.config)), scores)


def test_routes_are_kept_for_some_blocks() -> None:
    made = model(around=ATA(), align_every=3, ata_blocks=(0, 1, 2, 3))
    assert [block.route_mode for block in made.blocks] == ["pass", "keep", "keep", "pass"]
    found: list[Any] = []
    for block in made.blocks:
        block.temporal.register_forward_hook(lambda _, __, result: found.append(result[1]))
    calls: list[int] = []
    sought = Alignment.routes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Alignment, "routes", lambda self, *args: calls.append(1) or sought(self, *args))
        with torch.no_grad():
            made(video(made.config))
    assert len(calls) == 2 and torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[3])


def test_recomputed_blocks_use_the_routes_they_had() -> None:
    """A solver that answered otherwise the second time would change the gradients; it is not asked."""
    gradients = []
    for recompute in (False, True):
        made = model(around=ATA(), activation_checkpointing=recompute, drop_path=0.0).train()
        with statistics() as counted:
            made(video(made.config)).sum().backward()
        assert counted.problems == 2 * 3 * len(made.blocks)
        gradients.append([p.grad for p in made.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients) if a is not None and b is not None)
