"""RPE-STDT: buckets, relative positions beside naive ones, what each encoder sees, the dropping of frames, weights."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from gesta.checkpoint.weights import import_weights
from gesta.config import replace, reset_unused
from gesta.cost import count
from gesta.errors import GestaError
from gesta.layers.rpe import Attention, bucket_map, buckets, line_map, reach, rows
from gesta.model import ClipSpec
from gesta.models import model_config
from gesta.models.rpe_stdt import (
    RPESTDT,
    UNIT,
    Collect,
    RPESTDTConfig,
    State,
    TemporalBlock,
    deviation,
    rpe_stdt_b12,
    select,
)

SMALL = RPESTDTConfig(
    width=48,
    depth=3,
    heads=4,
    patch=8,
    classes=5,
    temporal_heads=2,
    temporal_head_width=16,
    temporal_hidden=40,
    clip=ClipSpec(frames=8, stride=1, size=32),
)


def small(std: float = 0.2, **changes: Any) -> RPESTDT:
    """In float64, no parameter at zero."""
    torch.manual_seed(0)
    made = replace(SMALL, **changes).build()
    assert isinstance(made, RPESTDT)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=std)
    return made.double().eval()


def video(count: int = 2, frames: int = 8, size: int = 32) -> Tensor:
    return torch.randn(count, 3, frames, size, size, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-11, rtol=1e-10)


# --- buckets ----------------------------------------------------------------------------------------------------------

SECTIONED = {  # ratio: buckets of the distances 0 to 13; clusters on 14 × 14 with the class token's: declared, used
    0.5: ((0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1), 10, 10),
    1.0: ((0, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2), 26, 26),
    1.5: ((0, 1, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3), 50, 50),
    1.9: ((0, 1, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3), 50, 50),
    2.0: ((0, 1, 2, 2, 3, 3, 3, 3, 3, 3, 4, 4, 4, 4), 82, 82),
    2.5: ((0, 1, 2, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4, 4), 122, 82),
    3.0: ((0, 1, 2, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 5), 170, 122),
    3.5: ((0, 1, 2, 3, 4, 4, 4, 5, 5, 5, 5, 5, 6, 6), 226, 170),
    4.0: ((0, 1, 2, 3, 4, 4, 5, 5, 5, 6, 6, 6, 6, 6), 290, 170),
}


@pytest.mark.parametrize("ratio", SECTIONED)
def test_sectioned_buckets(ratio: float) -> None:
    expected, declared, used = SECTIONED[ratio]
    distance = torch.arange(14)
    assert buckets(distance, ratio).tolist() == list(expected)
    assert torch.equal(buckets(-distance, ratio), -buckets(distance, ratio))
    assert (rows(ratio), len(bucket_map(14, 14, ratio).unique())) == (declared, used)


@pytest.mark.parametrize("bucket", ["sectioned", "clip"])
def test_a_cluster_depends_on_the_offset_alone(bucket: Any) -> None:
    ids = bucket_map(14, 14, bucket=bucket)
    far = reach(1.9)
    found: dict[tuple[int, int], set[int]] = {}
    for i in range(196):
        for j in range(196):
            found.setdefault((i // 14 - j // 14, i % 14 - j % 14), set()).add(int(ids[1 + i, 1 + j]))
    assert len(found) == 27**2 and all(len(clusters) == 1 for clusters in found.values())
    patches = ids[1:, 1:]
    assert torch.equal(patches + patches.T, torch.full((196, 196), 2 * far * (2 * far + 2)))
    assert patches.diagonal().unique().tolist() == [24]
    assert ids[0].unique().tolist() == ids[:, 0].unique().tolist() == [49] and patches.max() == 48
    assert len(patches[7 * 14 + 7].unique()) == 49  # Fig. 3.5


def test_fine_buckets_are_offsets() -> None:
    """From ratio 13 on every offset of 14 × 14 patches has its own cluster, whatever the function."""
    sectioned, clip = bucket_map(14, 14, 13.0), bucket_map(14, 14, 13.0, "clip")
    assert torch.equal(sectioned, clip) and len(sectioned.unique()) == 729 + 1
    assert buckets(torch.arange(14), 1.9, "clip").tolist() == [0, 1, 2] + 11 * [3]


def test_euclidean_clusters() -> None:
    ids = bucket_map(14, 14, method="euclidean")
    assert rows(1.9, "euclidean") == 8 and ids.unique().tolist() == [3, 4, 5, 6, 7]
    assert torch.equal(ids, ids.T) and ids[1, 2 + 14] == 4 and ids[1, 1 + 3 * 14 + 4] == 6  # distances √2, 5
    offsets = torch.cartesian_prod(torch.arange(14), torch.arange(14))
    distance = torch.cdist(offsets.double(), offsets.double(), compute_mode="donot_use_mm_for_euclid_dist")
    far = (1.9 + (distance / 1.9).clamp(min=1).log() / torch.tensor(8.0, dtype=torch.float64).log() * 1.9).round()
    literal = torch.where(distance <= 1.9, distance.round(), far.clamp(max=3.8)).long() + 3  # Eq. 3.10
    exact = bucket_map(14, 14, method="euclidean_exact")[1:, 1:]
    assert torch.equal(exact, literal) and (exact != ids[1:, 1:]).sum() == 1056


def test_other_grids() -> None:
    wide = bucket_map(3, 5)
    assert wide.shape == (16, 16)
    square = bucket_map(5, 5)
    assert torch.equal(wide, square[:16, :16])  # row-major: the first three rows
    assert torch.equal(line_map(torch.arange(5)[None])[0, 1:, 1:] + 21, bucket_map(1, 5)[1:, 1:])


# --- attention with relative positions --------------------------------------------------------------------------------


def attention(ids: Tensor, **changes: Any) -> Attention:
    torch.manual_seed(1)
    made = Attention(24, 3, 8, clusters=int(ids.max()) + 1, **changes)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.5)
    return made.double()


def naive(layer: Attention, tokens: Tensor, ids: Tensor) -> Tensor:
    """Eqs. 3.5 to 3.7 with a vector for every pair of tokens."""
    q, k, v = layer.qkv(tokens).unflatten(2, (3, layer.heads, -1)).permute(2, 0, 3, 1, 4)

    def vectors(table: Tensor) -> Tensor:  # (heads, queries, keys, d)
        return table.expand(layer.heads, -1, -1)[:, ids]

    scores = torch.einsum("bhid,bhjd->bhij", q, k)
    if layer.rpe_q is not None:
        scores = scores + torch.einsum("bhid,hijd->bhij", q, vectors(layer.rpe_q.mT))
    if layer.rpe_k is not None:
        scores = scores + torch.einsum("bhjd,hjid->bhij", k, vectors(layer.rpe_k.mT))
    weights = (scores / 8**0.5).softmax(3)
    result = torch.einsum("bhij,bhjd->bhid", weights, v)
    if layer.rpe_v is not None:
        result = result + torch.einsum("bhij,hijd->bhid", weights, vectors(layer.rpe_v))
    return layer.proj(result.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("on", ["q", "k", "qk", "qkv"])
def test_attention_is_the_naive_one(on: Any, shared: bool) -> None:
    ids = bucket_map(4, 5)
    layer, tokens = attention(ids, on=on, shared=shared), torch.randn(2, 21, 24, dtype=torch.float64)
    expected = naive(layer, tokens, ids)
    close(layer(tokens, ids), expected)
    close(layer(tokens, ids, first=True), expected[:, :1])
    of_pairs = torch.stack([ids, ids.flip(1)])  # clusters of each clip its own
    both = torch.cat([expected[:1], naive(layer, tokens[1:], of_pairs[1])])
    close(layer(tokens, of_pairs), both)
    names = [name for name, _ in layer.named_parameters() if name.startswith("rpe")]
    assert names == [f"rpe_{letter}" for letter in "qkv" if letter in on]
    grads = torch.autograd.grad(layer(tokens, ids).square().sum(), list(layer.parameters()))
    for found, wanted in zip(grads, torch.autograd.grad(expected.square().sum(), list(layer.parameters()))):
        close(found, wanted)


def test_shared_is_unshared_with_equal_heads() -> None:
    ids = bucket_map(4, 5)
    one, three = attention(ids), attention(ids, shared=False)
    three.load_state_dict({n: v.expand(3, -1, -1) if n == "rpe_q" else v for n, v in one.state_dict().items()})
    tokens = torch.randn(2, 21, 24, dtype=torch.float64)
    close(three(tokens, ids), one(tokens, ids))


def test_tables_of_zeros_change_nothing() -> None:
    ids = bucket_map(4, 5)
    layer, tokens = attention(ids, on="qkv"), torch.randn(2, 21, 24, dtype=torch.float64)
    for table in (layer.rpe_q, layer.rpe_k, layer.rpe_v):
        nn.init.zeros_(table)
    close(layer(tokens, ids), layer(tokens, None))


# --- the spatial encoder ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"rpe_on": "qk"}, {"relative": False, "absolute": "frame"}])
def test_class_only_last_block_is_exact(changes: dict[str, Any]) -> None:
    model = small(**changes)
    short = model(video())
    model.spatial[-1].class_only = False
    close(model(video()), short)


def test_frames_are_independent_in_space() -> None:
    model, clip = small(), video()
    changed = clip.clone()
    changed[:, :, 3] += 1
    with torch.no_grad():
        one, two = (model.taps(x, ["block.2"])["block.2"][..., 0, 0] for x in (clip, changed))
    moved = (one - two).abs().amax((0, 1)) > 1e-9
    assert moved.tolist() == [t == 3 for t in range(8)]


def test_patches_see_where_others_are_only_with_positions() -> None:
    """Without any, mixing up the patches changes no score; with relative positions it does."""
    clip = video()
    mixed = clip.unflatten(4, (4, 8)).flip(4).flatten(4, 5)
    for changes, sees in (
        ({"relative": False}, False),
        ({}, True),
        ({"relative": False, "absolute": "sinusoid"}, True),
    ):
        model = small(**changes)
        with torch.no_grad():
            assert ((model(mixed) - model(clip)).abs().max() > 1e-6) == sees


def test_patch_attention() -> None:
    model = small()
    with torch.no_grad():
        found = model.patch_attention(video(), 1)
        state = model.blocks[0](model.stem(video()))
        block = model.spatial[1]
        q, k, _ = block.attn.project(block.norm1(state.tokens))
        weights = block.attn.scores(q, k, state.ids).softmax(3)[:, :, 0, 1:]
    assert found.shape == (2, 4, 8, 4, 4)
    close(found[1, 2, 5].flatten(), weights[8 + 5, 2])
    assert model.patch_attention(video()).sum((3, 4)).max() < 1
    with pytest.raises(GestaError, match="spatial blocks are 0 to 2"):
        model.patch_attention(video(), 3)


# --- the temporal encoder ---------------------------------------------------------------------------------------------


def encode(model: RPESTDT, frames: Tensor, positions: Tensor | None = None) -> Tensor:
    """Scores of frame vectors ``(B, T, C)`` at some places."""
    collect = model.spatial[-1].collect
    assert isinstance(collect, Collect) and collect.cls_token is not None
    tokens = torch.cat([collect.cls_token.expand(len(frames), -1, -1), frames], 1)
    if collect.pos_embed is not None:
        tokens = tokens + collect.pos_embed
    places = torch.arange(frames.shape[1]) if positions is None else positions
    state = State(tokens, (frames.shape[1], 1, 1), positions=UNIT * places.expand(len(frames), -1))
    for block in model.temporal:
        state = block(state)
    return model.classifier(model.pool(state))  # type: ignore[return-value]


def test_order_is_seen_through_positions_alone() -> None:
    frames, order = torch.randn(2, 8, 48, dtype=torch.float64), torch.randperm(8)
    with torch.no_grad():
        blind = small(temporal_pos="none")
        close(encode(blind, frames[:, order]), encode(blind, frames))
        for pos in ("rpe", "abs"):
            model = small(temporal_pos=pos)
            assert (encode(model, frames[:, order]) - encode(model, frames)).abs().max() > 1e-6
        model = small()
        close(encode(model, frames[:, order], order), encode(model, frames))  # places go with their frames
        close(encode(model, frames, torch.arange(8) + 40), encode(model, frames))  # no place is special
        assert (encode(model, frames, 3 * torch.arange(8)) - encode(model, frames)).abs().max() > 1e-6


@pytest.mark.parametrize(("frames", "left"), [(16, (16, 8, 8, 4)), (7, (7, 3, 3, 1)), (1, (1, 1, 1, 1))])
def test_half_of_the_frames_stay(frames: int, left: tuple[int, ...]) -> None:
    model = small()
    state = model.stem(video(frames=frames))
    sizes = []
    with torch.no_grad():
        for i, block in enumerate(model.blocks):
            state = block(state)
            if i >= 3:
                sizes.append(state.size[0])
                assert state.tokens.shape == (2, 1 + state.size[0], 48)
                places = state.positions
                assert places is not None and (places.diff() > 0).all() and (places % UNIT == 0).all()
    assert tuple(sizes) == left
    assert model.grid_at(7) == (48, 2, 1, 1)


def test_topk_keeps_rows_of_the_largest_deviation() -> None:
    """Beside the same written by hand: rows of the softmaxed attention, no second softmax, keys and values all kept."""
    model = small()
    block = model.temporal[1]
    assert isinstance(block, TemporalBlock)
    tokens = torch.randn(1, 9, 48, dtype=torch.float64)
    places = UNIT * torch.tensor([[0, 1, 4, 5, 6, 9, 11, 12]])
    with torch.no_grad():
        found = block(State(tokens, (8, 1, 1), positions=places))
        ids = line_map(places // UNIT)[0]
        q, k, v = block.attn.qkv(block.norm1(tokens)).unflatten(2, (3, 2, 16)).permute(2, 0, 3, 1, 4)
        table = block.attn.rpe_q[0].mT[ids]
        weights = ((q @ k.mT + torch.einsum("bhid,ijd->bhij", q, table)) / 4).softmax(3)
        sigma = [weights[0, :, 1 + t].std(1).mean().item() for t in range(8)]
        kept = sorted(sorted(range(8), key=lambda t: -sigma[t])[:4])
        lines = [0] + [1 + t for t in kept]
        mixed = tokens[:, lines] + block.attn.proj((weights[:, :, lines] @ v).transpose(1, 2).flatten(2))
        expected = mixed + block.mlp(block.norm2(mixed))
    close(found.tokens, expected)
    assert found.size == (4, 1, 1) and torch.equal(found.positions, places[:, kept])


def test_selection() -> None:
    score = torch.tensor([[0.1, 0.9, 0.3, 0.8, 0.2], [1.0, 1.0, 1.0, 1.0, 1.0]])
    assert select(score).tolist() == [[1, 3], [0, 1]] and select(score[:, :1]).tolist() == [[0], [0]]
    weights = torch.rand(3, 2, 9, 9, dtype=torch.float64).softmax(3)
    assert torch.equal(select(deviation(5 * weights)), select(deviation(weights)))
    one_head = weights[:, :1]
    printed = (one_head[:, 0, 1:] - one_head[:, 0, 1:].mean(2, keepdim=True)).square().sum(2).sqrt() / 9  # Eq. 3.13
    variance = one_head[:, 0, 1:].var(2, correction=0)
    assert torch.equal(select(deviation(one_head)), select(printed))
    assert torch.equal(select(deviation(one_head)), select(variance))
    assert deviation(torch.full((1, 2, 5, 5), 0.2)).abs().max() < 1e-7  # equally spread
    frames = one_head[:, 0, 1:, 1:]  # T terms
    printed = (frames - frames.mean(2, keepdim=True)).square().sum(2).sqrt() / 8
    assert torch.equal(select(deviation(one_head, frames_only=True)), select(printed))
    assert deviation(weights[:, :, :2, :2], frames_only=True).abs().max() == 0  # of one frame nothing deviates


def test_layer_0_after_is_before_the_first() -> None:
    """[0, 2] of Table 3.4 in the text's counting: dropped on entry, by the attention that the first layer would pay."""
    frames = torch.randn(2, 16, 48, dtype=torch.float64)
    model, whole = small(subsample_layers=(0,), subsample_mode="after"), small(subsample="none")
    whole.load_state_dict(model.state_dict())
    entry = whole.spatial[-1].collect
    assert isinstance(entry, Collect)
    with torch.no_grad():
        first = whole.temporal[0]
        tokens = torch.cat([entry.cls_token.expand(2, -1, -1), frames], 1)  # type: ignore[union-attr]
        kept = select(deviation(first.attend(tokens, UNIT * torch.arange(16).expand(2, -1))[1].softmax(3)))  # type: ignore[operator]
        halves = torch.stack([frames[i, at] for i, at in enumerate(kept)])
        expected = torch.cat([encode(whole, half[None], at) for half, at in zip(halves, kept)])
    close(encode(model, frames), expected)
    for how in ("topk", "conv1d"):
        twice = small(subsample=how, subsample_layers=(0, 1), subsample_mode="after")
        assert twice.grid_at(4) == (48, 2, 1, 1) and twice.taps(video(), ["block.3"])["block.3"].shape[2] == 2
    steps = small(subsample_layers=(0, 1, 4), subsample_mode="after").kept_frames(video())
    assert [(step.block, step.frames.shape[1], step.matters) for step in steps] == [
        (3, 8, True),
        (3, 4, True),
        (6, 2, False),
    ]


def test_pooling_in_the_last_layer_changes_nothing_inside() -> None:
    """[1, 3] is [1] where only the class token is read; after the layers, the fourth sees fewer frames."""
    frames = torch.randn(2, 16, 48, dtype=torch.float64)
    states = small().state_dict()
    scores = {}
    for mode in ("inside", "after"):
        for layers in ((1, 3), (1,)):
            model = small(subsample_layers=layers, subsample_mode=mode)
            model.load_state_dict(states)  # Top-K has no parameters
            scores[mode, layers] = encode(model, frames)
    close(scores["inside", (1, 3)], scores["inside", (1,)])
    assert (scores["after", (1, 3)] - scores["after", (1,)]).abs().max() > 1e-6
    early = small(subsample_layers=(0, 2), subsample_mode="inside")
    assert (encode(early, frames) - scores["inside", (1, 3)]).abs().max() > 1e-6


def test_further_ways_to_choose() -> None:
    frames = torch.randn(8, 16, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    changes = ({"topk_score": "logits"}, {"topk_terms": "frames"}, {"topk_again": True})
    plain, *others = (encode(small(std=0.2, **c), frames) for c in ({}, *changes))
    assert all((other - plain).abs().max() > 1e-6 for other in others)


def per_head(on: Any = "qkv", **changes: Any) -> tuple[TemporalBlock, Tensor, Tensor]:
    """A block whose heads choose, frames, and their places."""
    block = small(std=0.4, topk_per_head=True, rpe_on=on, temporal_heads=4, **changes).temporal[1]
    assert isinstance(block, TemporalBlock)
    return block, torch.randn(2, 9, 48, dtype=torch.float64), UNIT * torch.tensor([[0, 1, 4, 5, 6, 9, 11, 12]] * 2)


def test_every_head_keeps_its_own_frames() -> None:
    """Beside the same written by hand, head by head: rows of attention, groups of the shortcut's channels, places."""
    block, tokens, places = per_head()
    with torch.no_grad():
        found = block(State(tokens, (8, 1, 1), positions=places))
        ids, scores, v = block.attend(tokens, places)
        weights = scores.softmax(3)
        assert ids is not None and block.attn.rpe_v is not None
        for clip in range(2):
            mixed, short, at, chosen = [], [], torch.zeros(4, dtype=torch.long), set()
            for head in range(4):
                sigma = [weights[clip, head, 1 + t].std().item() for t in range(8)]
                kept = sorted(sorted(range(8), key=lambda t: -sigma[t])[:4])
                lines = [0] + [1 + t for t in kept]
                w = weights[clip, head, lines]
                mixed.append(w @ v[clip, head] + torch.einsum("qk,qkd->qd", w, block.attn.rpe_v[0][ids[clip, lines]]))
                short.append(tokens[clip, lines, 12 * head : 12 * head + 12])
                at += places[clip, kept]
                chosen.add(tuple(kept))
            assert len(chosen) > 1  # they differ, so this test says something
            expected = torch.cat(short, 1) + block.attn.proj(torch.cat(mixed, 1))
            close(found.tokens[clip], expected + block.mlp(block.norm2(expected)))
            assert torch.equal(found.positions[clip], at // 4)
    assert found.size == (4, 1, 1)


@pytest.mark.parametrize("mode", ["inside", "after"])
def test_heads_that_agree_choose_together(mode: Any) -> None:
    """Heads with equal queries, keys and relative positions; otherwise not."""
    frames = torch.randn(2, 16, 48, dtype=torch.float64)
    for heads, equal in ((4, True), (4, False)):
        together, each = (
            small(std=0.3, temporal_heads=heads, subsample_layers=(1, 2), subsample_mode=mode, topk_per_head=own)
            for own in (False, True)
        )
        if equal:
            for block in together.temporal:
                rows = block.attn.qkv.weight.data.unflatten(0, (3, heads, -1))  # type: ignore[union-attr, operator]
                rows[:2] = rows[:2, :1].clone()
        each.load_state_dict(together.state_dict())  # no parameter is different
        with torch.no_grad():
            assert (torch.equal(encode(each, frames), encode(together, frames))) == equal


def test_kept_frames_of_every_head() -> None:
    model = small(topk_per_head=True)
    first, second = model.kept_frames(video())
    assert first.deviation.shape == (2, 2, 8) and first.kept.shape == (2, 2, 4) and second.kept.shape == (2, 2, 2)
    close(first.deviation.mean(1), small().kept_frames(video())[0].deviation)
    assert torch.equal(first.kept, select(first.deviation))
    middle = first.frames[:, None].expand(-1, 2, -1).gather(2, first.kept).double().mean(1)
    assert torch.equal(second.frames.double(), middle) and (second.frames.diff() > 0).all()
    with pytest.raises(GestaError, match="topk_per_head needs a width that 5 temporal heads divide, not 48"):
        small(topk_per_head=True, temporal_heads=5)


@pytest.mark.parametrize("how", ["max", "avg", "conv1d"])
def test_merging(how: Any) -> None:
    model = small(subsample=how, subsample_layers=(0, 1))
    block = model.temporal[0]
    assert isinstance(block, TemporalBlock)
    tokens, places = torch.randn(2, 6, 48, dtype=torch.float64), UNIT * torch.tensor([[0, 1, 2, 3, 4]]).expand(2, -1)
    with torch.no_grad():
        found, at = block.merge(tokens, places)
        assert torch.equal(found[:, 0], tokens[:, 0])
        if block.conv is not None:
            weight = block.conv.weight
            expected = block.conv.bias + tokens[:, 2] @ weight[..., 0].T + tokens[:, 3] @ weight[..., 1].T
            close(found[:, 2], expected + tokens[:, 4] @ weight[..., 2].T)
            assert (at / UNIT)[0].tolist() == [0, 2, 4]
        else:
            pair = tokens[:, 1:3]
            close(found[:, 1], pair.amax(1) if how == "max" else pair.mean(1))
            assert (at / UNIT)[0].tolist() == [0.5, 2.5]
        assert found.shape[1] - 1 == at.shape[1] == block.halved(5)
        kept, _ = block.merge(tokens[:, :2], places[:, :1])
        assert torch.equal(kept, tokens[:, :2])
        assert model.taps(video(), ["block.6"])["block.6"].shape == (2, *model.grid_at(7))


def test_kept_frames() -> None:
    model = small()
    found = model.kept_frames(video())
    assert [(step.block, step.matters) for step in found] == [(4, True), (6, False)]
    first, second = found
    assert first.frames.tolist() == [list(range(8))] * 2 and first.deviation.shape == (2, 8)
    assert torch.equal(second.frames, first.frames.gather(1, first.kept))
    assert torch.equal(second.kept, select(second.deviation)) and second.kept.shape == (2, 2)
    assert not small(subsample="avg").kept_frames(video())


# --- sizes and weights ------------------------------------------------------------------------------------------------


def parameters(**changes: Any) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in replace(rpe_stdt_b12(), classes=101, **changes).build().parameters())


def test_parameters() -> None:
    """Specification §3, in M: 96.80 of which 2,048 are the temporal tables; shared and unshared tables."""
    shared, bare = parameters(), parameters(relative=False)
    assert shared == 96_799_333 and shared - bare == 12 * 3200
    assert parameters(temporal_pos="none") == shared - 4 * 8 * 64
    assert parameters(shared=False, temporal_pos="none") - parameters(temporal_pos="none") == 12 * 11 * 3200
    assert parameters(subsample="none") == parameters(subsample_layers=(0, 2)) == shared
    assert parameters(subsample="conv1d") - shared == 2 * (768 * 768 * 3 + 768)
    assert parameters(absolute="clip") - parameters(absolute="frame") == 15 * 197 * 768


def test_costs() -> None:
    found = {n: round(count(model_config(n, classes=101)).macs / 1e9, 1) for n in ("vit_spatial", "rpe_stdt_b12")}
    assert found == {"vit_spatial": 281.0, "rpe_stdt_b12": 282.6}


def image_vit() -> nn.Module:
    torch.manual_seed(1)
    vit = timm.create_model(
        "vit_base_patch16_224", img_size=32, patch_size=8, embed_dim=48, depth=3, num_heads=4, num_classes=5
    )
    for parameter in vit.parameters():
        nn.init.normal_(parameter, std=0.2)
    return vit.double().eval()


def test_image_vit_is_the_spatial_encoder() -> None:
    """A ViT of timm, with fresh tables of relative positions (zeros): its scores are averaged, its features used."""
    vit, clip = image_vit(), video()
    images = clip.transpose(1, 2).flatten(0, 1)
    for changes in ({"relative": False}, {}):
        config = replace(SMALL, absolute="frame", temporal_depth=0, subsample="none", **changes)
        reset_unused(config)  # SMALL's temporal sizes
        model = config.build().double().eval()
        report = import_weights(model, vit.state_dict())
        assert not report.unexpected and not report.mismatched
        assert all(name.endswith("rpe_q") for name in report.missing)
        with torch.no_grad():
            close(model(clip), vit(images).unflatten(0, (2, 8)).mean(1))
    model = replace(SMALL, absolute="clip").build().double().eval()
    report = import_weights(model, vit.state_dict())
    assert set(report.missing) == {
        n for n in model.state_dict() if "rpe_q" in n or "collect.cls" in n or n.startswith(("temporal.", "norm."))
    }
    with torch.no_grad():
        features = model.taps(clip, ["block.2"])["block.2"][..., 0, 0].transpose(1, 2).flatten(0, 1)
        close(features, vit.forward_features(images)[:, 0])


def test_a_shallower_encoder_takes_the_first_blocks() -> None:
    model = replace(SMALL, depth=2).build()
    report = import_weights(model, image_vit().float().state_dict(), min_matched=0.3)
    assert {name for name in report.unexpected if not name.startswith("blocks.2.")} == {"pos_embed"}
    assert "temporal.0.norm1.weight" in report.missing and "norm.weight" in report.missing
    assert torch.equal(model.spatial[1].norm2.weight, image_vit().float().blocks[1].norm2.weight)


def test_names_of_irpe() -> None:
    """iRPE names a table after what is at its other end."""
    model = replace(SMALL, rpe_on="qkv", absolute="frame").build()
    theirs = image_vit().float().state_dict()
    for i in range(3):
        for letter, shape in (("q", (1, 12, 50)), ("k", (1, 12, 50)), ("v", (1, 50, 12))):
            theirs[f"blocks.{i}.attn.rpe_{letter}.lookup_table_weight"] = torch.randn(shape)
    report = import_weights(model, theirs)
    assert not report.unexpected and not report.mismatched
    assert torch.equal(model.spatial[1].attn.rpe_q, theirs["blocks.1.attn.rpe_k.lookup_table_weight"])
    assert torch.equal(model.spatial[1].attn.rpe_k, theirs["blocks.1.attn.rpe_q.lookup_table_weight"])
    assert torch.equal(model.spatial[1].attn.rpe_v, theirs["blocks.1.attn.rpe_v.lookup_table_weight"])


def test_other_clips() -> None:
    """Relative positions fit any size; tables of absolute ones are resized."""
    model, large = small(), small(clip=ClipSpec(frames=5, stride=1, size=40))
    large.load_state_dict(model.state_dict())
    clip = video(frames=5, size=40)
    with torch.no_grad():
        close(model(clip), large(clip))
        for absolute in ("frame", "clip", "sinusoid"):
            assert small(absolute=absolute, temporal_pos="abs")(clip).isfinite().all()
    assert model(torch.zeros(1, 3, 4, 24, 40, dtype=torch.float64)).isfinite().all()
    vit = image_vit().float().state_dict()
    with pytest.warns(UserWarning, match="pos_embed was made for another size and is resized to 26 vectors"):
        import_weights(replace(SMALL, absolute="frame", clip=ClipSpec(frames=2, size=40)).build(), vit)


def test_a_table_per_frame_repeated_is_one_table() -> None:
    frame, clip = small(absolute="frame"), small(absolute="clip")
    states = frame.state_dict()
    states["pos_embed"] = states["pos_embed"].unsqueeze(1).expand(-1, 8, -1, -1)
    clip.load_state_dict(states)
    with torch.no_grad():
        close(clip(video()), frame(video()))


def test_without_decay() -> None:
    tables = {
        n for n, _ in small(absolute="frame").named_parameters() if n.endswith(("rpe_q", "cls_token", "pos_embed"))
    }
    assert small(absolute="frame").no_weight_decay() == tables and len(tables) == 1 + 1 + 3 + 1 + 4


def test_exported_is_eager() -> None:
    model = small(depth=2, subsample_layers=(0,), temporal_depth=2)
    exported = torch.export.export(model, (video(),), strict=False).module()
    with torch.no_grad():
        close(exported(video()), model(video()))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"patch": 5}, "patches of 5 pixels do not tile a clip of 32 pixels"),
        ({"heads": 5}, "attention of 5 heads needs a width"),
        ({"ratio": 0.4}, "leaves one cluster"),
        ({"ratio": 0.4, "relative": False}, "leaves one cluster"),  # of frames, which would be in no order
        ({"subsample_layers": (1, 4)}, r"subsample_layers \(1, 4\): .*temporal layers are 0 to 3"),
        ({"subsample_layers": (5,), "subsample_mode": "after"}, "temporal layers are 0 to 4"),
        ({"subsample_layers": (3,)}, r"subsample_layers is 3, and no frame .* name a layer below 3"),
        ({"subsample_layers": (4,), "subsample_mode": "after"}, "name a layer below 4"),
        ({"subsample": "max", "subsample_mode": "after"}, "changes nothing without subsample='topk' or 'conv1d'"),
        ({"temporal_heads": 1, "topk_per_head": True}, "changes nothing without subsample='topk' of several heads"),
        ({"subsample": "max", "subsample_layers": ()}, r"subsample_layers is \(\), and no frame"),
    ],
)
def test_impossible_sizes_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(GestaError, match=sentence):
        small(**changes)


def test_a_stem_keeps_the_patches_grid() -> None:
    plain, stemmed = (model_config("rpe_stdt_tiny", stem=stem).build() for stem in ((), (8, 16)))
    clip = torch.randn(1, 3, 2, 64, 48)
    assert stemmed.stem(clip).tokens.shape == plain.stem(clip).tokens.shape == (2, 1 + 8 * 6, 64)
    assert stemmed.stem(clip).size == (2, 8, 6)
    with pytest.raises(GestaError, match="patch of 8 pixels is not divisible by 16"):
        model_config("rpe_stdt_tiny", stem=(8, 8, 8, 8)).build()


def test_a_size_first_seen_in_inference_mode_can_be_trained_afterwards() -> None:
    bucket_map.cache_clear()
    model, clip = small(), video()[..., :24, :24]
    with torch.inference_mode():
        model(clip)
    model(clip).sum().backward()
