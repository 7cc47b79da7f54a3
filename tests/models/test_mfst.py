"""MFST: published sizes, and every property of its parts that does not depend on training."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conftest import fast_first
from gesta.config import replace
from gesta.cost import count
from gesta.errors import GestaError
from gesta.layers.cdc import Conv
from gesta.model import ClipSpec
from gesta.models import model_config
from gesta.models.mfst import MFST, Inception, MaxPool, MFSTConfig, MSCTrans, StageConfig, WMSTrans, sinusoids

SMALL = MFSTConfig(
    stem=(4, 6),
    stages=(
        StageConfig(first=(2, 2, 3, 1, 2, 2), second=(2, 2, 3, 1, 3, 4), width=8, stride=2),
        StageConfig(first=(2, 2, 3, 1, 2, 2), second=(2, 2, 3, 1, 3, 4), width=8, stride=2),
        StageConfig(first=(2, 2, 3, 1, 2, 3), second=(2, 2, 3, 1, 3, 4), width=12, pair_max=True),
    ),
    layers=2,
    heads=2,
    head_width=4,
    hidden=10,
    classes=5,
    clip=ClipSpec(frames=6, stride=1, size=40),
)


def small(**changes: Any) -> MFST:
    """In evaluation, in float64, with statistics that are not those of a fresh batch norm."""
    torch.manual_seed(0)
    model = replace(SMALL, **changes).build()
    assert isinstance(model, MFST)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    return model.eval().double()


def clip(frames: int = 6, size: int = 40, count: int = 1) -> Tensor:
    return torch.randn(count, 3, frames, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def wms(model: MFST, stage: int = 0) -> WMSTrans:
    found = model.blocks[stage].wms
    assert isinstance(found, WMSTrans)
    return found


# --- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "classes", "params", "macs"),
    fast_first(
        [
            ("mfst_base", 60, 32_569_180, 197.9),
            ("mfst_large", 60, 49_687_356, 233.9),
            ("mfst_bm", 60, 49_687_356, 194.6),
            ("mfst_base", 249, 32_666_137, 197.9),
            ("mfst_large", 249, 49_784_313, 233.9),
        ],
        2,
    ),
)
def test_sizes(name: str, classes: int, params: int, macs: float) -> None:
    found = count(model_config(name, classes=classes))
    assert (found.params, round(found.macs / 1e9, 1)) == (params, macs)


def test_parts_of_the_large_model() -> None:
    parts = {part.name: part for part in count(model_config("mfst_large", classes=60)).parts}
    assert parts["cdc_stem"].params == 402_368 and parts["norm"].params + parts["classifier"].params == 31_804
    blocks = [parts[f"block.{i}"] for i in range(4)]
    assert [round(block.params / 1e6, 3) for block in blocks] == [7.980, 8.199, 15.956, 17.118]
    assert [round(block.macs / 1e9, 1) for block in blocks] == [82.6, 21.0, 34.2, 36.0]
    assert round(count(model_config("mfst_large", classes=60, stem_stride_t=2)).macs / 1e9, 1) == 116.5


def test_maps_of_the_large_model() -> None:
    """The paper's table of shapes; the thesis writes frames before channels."""
    with torch.device("meta"):
        model = model_config("mfst_large", classes=60).build().eval()
        state = model.stem(torch.empty(1, 3, 32, 224, 224))
        shapes = [tuple(state.shape[1:])]
        for block in model.blocks:
            state = block(state)
            shapes.append(tuple(state.shape[1:]))
    assert shapes == [model.grid_at(i) for i in range(5)]
    assert shapes == [(192, 32, 28, 28), (256, 32, 14, 14), (256, 32, 7, 7), (512, 32, 7, 7), (512, 32, 7, 7)]


@pytest.mark.parametrize(("size", "frames", "stride"), [(40, 6, 1), (37, 5, 2), (50, 7, 2)])
def test_any_size_rounds_up(size: int, frames: int, stride: int) -> None:
    model = small(clip=ClipSpec(frames=frames, size=size), stem_stride_t=stride)
    with torch.no_grad():
        taps = model.taps(clip(frames, size), model.tap_names())
    assert [tuple(taps[name].shape[1:]) for name in model.tap_names()] == [model.grid_at(i) for i in range(4)]


def test_both_modalities_have_the_same_weights() -> None:
    shapes = [{name: v.shape for name, v in small(cdc=cdc).state_dict().items()} for cdc in ("none", "st", "t")]
    assert shapes[0] == shapes[1] == shapes[2]


def test_layers_start_as_pytorch_leaves_them() -> None:
    model = model_config("mfst_large", classes=60).build()
    for module in model.modules():
        if isinstance(module, nn.Linear | Conv):
            bound = module.weight[0].numel() ** -0.5  # Kaiming's uniform at a = √5
            assert 0.9 * bound < module.weight.abs().max() <= bound
        if isinstance(module, nn.BatchNorm3d):
            assert (module.eps, module.momentum) == (1e-3, 0.01)


# --- convolutions ----------------------------------------------------------------------------------------------------


def test_stem_is_switched() -> None:
    """Differences are in the two layers of more than one frame, and change what they compute."""
    model, plain = small(theta=0.6), small(cdc="none")
    found = [(m.difference, m.theta) for m in model.cdc_stem.modules() if isinstance(m, Conv) and m.kernel_size[0] > 1]
    assert found == [("st", 0.6)] * 2
    with torch.no_grad():
        outcomes = [small(cdc=cdc, theta=theta)(clip()) for cdc in ("st", "t") for theta in (0.0, 0.6, 0.8)]
        assert torch.equal(outcomes[0], plain(clip())) and torch.equal(outcomes[3], outcomes[0])
        for i, a in enumerate(outcomes):
            for b in outcomes[i + 1 :]:
                assert torch.equal(a, b) == (torch.equal(a, outcomes[0]) and torch.equal(b, outcomes[0]))
    assert all(m.difference == "none" for m in model.blocks.modules() if isinstance(m, Conv))


@pytest.mark.parametrize("size", [(4, 8, 8), (3, 7, 8), (3, 9, 5)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("frames", [1, 3])
def test_max_pool(size: tuple[int, int, int], stride: int, frames: int) -> None:
    """Against an explicit frame of zeros: below ReLU both kinds are equal, elsewhere the one that counts them is."""
    x = torch.randn(2, 3, *size)
    sizes = [(n, k, s) for n, k, s in zip(size, (frames, 3, 3), (1, stride, stride))]
    totals = [max((math.ceil(n / s) - 1) * s + k - n, 0) for n, k, s in sizes]
    pads = [pad for total in reversed(totals) for pad in (total // 2, total - total // 2)]
    expected = [F.max_pool3d(F.pad(y, pads), (frames, 3, 3), (1, stride, stride)) for y in (x, x.relu())]
    assert torch.equal(MaxPool(stride, frames, zeros=True)(x), expected[0])
    assert torch.equal(MaxPool(stride, frames)(x.relu()), expected[1])


def test_inception_is_four_branches() -> None:
    """The merged convolution against three of their own."""
    torch.manual_seed(0)
    inception = Inception(5, (2, 3, 4, 1, 2, 3), 1, 0.01).double().eval()
    for norm in inception.modules():
        if isinstance(norm, nn.BatchNorm3d):
            nn.init.normal_(norm.bias)
    x = torch.randn(2, 5, 3, 6, 7, dtype=torch.float64)

    def unit(x: Tensor, conv: Tensor, norm: Any, part: slice = slice(None)) -> Tensor:
        y = F.conv3d(x, conv[part], padding=[size // 2 for size in conv.shape[2:]])
        scale = norm.weight[part] / (norm.running_var[part] + 1e-3).sqrt()
        return (y * scale.view(-1, 1, 1, 1) + norm.bias[part].view(-1, 1, 1, 1)).relu()

    points = [
        unit(x, inception.point.conv.weight, inception.point.norm, part)
        for part in (slice(2), slice(2, 5), slice(5, 6))
    ]
    branches = [points[0]]
    for branch, inner in ((inception.branch1, points[1]), (inception.branch2, points[2])):
        branches.append(unit(inner, branch.conv.weight, branch.norm))
    pooled = F.max_pool3d(F.pad(x, (1, 1, 1, 1)), (1, 3, 3), 1)
    branches.append(unit(pooled, inception.branch3.conv.weight, inception.branch3.norm))
    torch.testing.assert_close(inception(x), torch.cat(branches, 1), atol=1e-12, rtol=1e-12)


def test_folded_model_gives_the_same_scores() -> None:
    model = small()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    folded = model.folded()
    assert not any(isinstance(m, nn.BatchNorm3d) for m in folded.modules())
    assert all(m.difference == "none" and m.bias is not None for m in folded.modules() if isinstance(m, Conv))
    with torch.no_grad():
        torch.testing.assert_close(folded(clip()), model(clip()), atol=1e-10, rtol=1e-10)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_first_filters() -> None:
    model = small()
    weights, filters = model.filters(folded=False), model.filters()
    assert filters.shape == (4, 3, 7, 7, 7) and torch.equal(weights, model.cdc_stem[0].conv.weight)  # type: ignore[union-attr]
    total = weights.sum((2, 3, 4))
    torch.testing.assert_close(filters.sum((2, 3, 4)), 0.4 * total, atol=1e-12, rtol=0)
    filters[...] = 0  # a copy
    assert model.filters().any()


# --- space -----------------------------------------------------------------------------------------------------------


def space(**changes: Any) -> MSCTrans:
    found = small(**changes).blocks[0].msc
    assert isinstance(found, MSCTrans)
    return found


def test_space_treats_every_frame_alone() -> None:
    grid, order = torch.randn(2, 6, 5, 8, 8, dtype=torch.float64), [3, 0, 4, 2, 1]
    block = space()
    with torch.no_grad():
        result = block(grid)
        assert result.shape == (2, 5, 4, 4, 8)
        torch.testing.assert_close(block(grid[:, :, order]), result[:, order], atol=1e-12, rtol=1e-12)
        other = grid.clone()
        other[:, :, 2] = torch.randn(8, 8)
        changed = (block(other) - result).abs().amax((0, 2, 3, 4))
        assert changed[2] > 1e-3 and (changed[[0, 1, 3, 4]] < 1e-12).all()
        mixing = space(branch_pool_t=3)  # the public code's
        changed = (mixing(other) - mixing(grid)).abs().amax((0, 2, 3, 4))
        assert (changed[1:4] > 1e-6).all()


def test_nearest_keys_of_space_and_of_time() -> None:
    model = small(knn=0.5, knn_temporal=0.9)
    for block in model.blocks:
        assert {layer.attn.nearest for layer in block.msc.transformer.layers} == {(0.5, 0)}
        assert {layer.attn.nearest for layer in block.wms.transformer.layers} == {(0.9, 0)}
    with torch.no_grad():
        scores = [small(knn=a, knn_temporal=b)(clip()) for a, b in ((1.0, 1.0), (0.5, 1.0), (1.0, 0.5))]
        counted = [small(knn=1.0, **{name: 2})(clip()) for name in ("knn_keys", "knn_temporal_keys")]
    assert all((scores[0] - other).abs().max() > 1e-6 for other in (*scores[1:], *counted))
    for name in ("knn_keys", "knn_temporal_keys"):
        with pytest.raises(
            GestaError, match=rf"{name} is 999, which changes nothing where {name[:-5]} .* keeps \d+ of"
        ):
            small(**{name: 999})


# --- time ------------------------------------------------------------------------------------------------------------


def loop(block: WMSTrans, x: Tensor, fuse: str = "mean") -> Tensor:
    """Scale by scale: pool, add positions, Transformer, repeat; ``(B, T, H, W, C)``."""
    frames, width = x.shape[1], x.shape[-1]
    routes = x.permute(0, 2, 3, 1, 4).reshape(-1, frames, width)
    found = []
    for scale in block.scales:
        pooled = torch.stack([part.mean(1) for part in routes.split(scale, 1)], 1)
        encoded = block.transformer(pooled + sinusoids(pooled.shape[1], width, x))
        found.append(torch.stack([encoded[:, t // scale] for t in range(frames)], 1))
    whole = torch.stack(found)
    fused = {"mean": whole.mean(0), "sum": whole.sum(0), "max": whole.amax(0)}[fuse]
    return fused.view(x.shape[0], *x.shape[2:4], frames, width).permute(0, 3, 1, 2, 4)


@pytest.mark.parametrize("fuse", ["mean", "sum", "max"])
@pytest.mark.parametrize("frames", [8, 6, 7, 3, 1])
@pytest.mark.parametrize("fraction", [1.0, 0.7])
def test_scales_together_are_scales_in_turn(fuse: str, frames: int, fraction: float) -> None:
    """Also for lengths that the scales do not divide, which stay as they are."""
    x = torch.randn(2, frames, 2, 3, 8, dtype=torch.float64)
    block = wms(small(fuse=fuse, knn_temporal=fraction))
    with torch.no_grad():
        torch.testing.assert_close(block(x), loop(block, x, fuse), atol=1e-12, rtol=1e-12)


def test_one_scale_is_the_plain_transformer() -> None:
    model, plain = small(), small(scales=(1,))
    plain.load_state_dict(model.state_dict())
    x = torch.randn(2, 6, 2, 3, 8, dtype=torch.float64)
    routes = x.permute(0, 2, 3, 1, 4).flatten(0, 2)
    with torch.no_grad():
        expected = wms(model).transformer(routes + sinusoids(6, 8, x)).unflatten(0, (2, 2, 3)).permute(0, 3, 1, 2, 4)
        torch.testing.assert_close(wms(plain)(x), expected, atol=1e-12, rtol=1e-12)
        assert (wms(model)(x) - expected).abs().max() > 1e-3


def test_scales_share_their_weights() -> None:
    counts = {sum(p.numel() for p in small(scales=scales).parameters()) for scales in ((1,), (1, 2), (1, 2, 4, 8))}
    assert len(counts) == 1


@pytest.mark.parametrize("mode", ["avgpool", "sample", "window"])
def test_places_do_not_mix_in_time(mode: str) -> None:
    x = torch.randn(1, 6, 2, 3, 8, dtype=torch.float64)
    other = x.clone()
    other[:, :, 1, 2] = torch.randn(8)  # a constant would be lost in the layer norms
    block = wms(small(scale_mode=mode))
    with torch.no_grad():
        changed = (block(other) - block(x)).abs().amax((0, 1, 4))
    assert changed[1, 2] > 1e-3 and changed.sum() - changed[1, 2] < 1e-11


def test_windows() -> None:
    """Windows of a scale neither see each other nor know their place in the clip."""
    x = torch.randn(1, 8, 1, 1, 8, dtype=torch.float64)
    block = wms(small(scale_mode="window", scales=(2,)))
    with torch.no_grad():
        both = block(x)
        torch.testing.assert_close(block(x[:, [4, 5, 6, 7, 0, 1, 2, 3]])[:, :4], both[:, 4:], atol=1e-12, rtol=1e-12)
        assert [part.shape[1] for part in block.at_scale(torch.zeros(1, 7, 8), 4)] == [2, 2, 2, 1]
        assert block(x[:, :7]).shape == (1, 7, 1, 1, 8)


def test_sampled_frames() -> None:
    routes = torch.arange(7.0, dtype=torch.float64).view(1, 7, 1)
    block = wms(small(scale_mode="sample"))
    assert block.at_scale(routes, 2)[0].flatten().tolist() == [1, 3, 5, 6]
    assert block.at_scale(routes, 4)[0].flatten().tolist() == [2, 5]
    block.train()
    drawn = torch.stack([block.at_scale(routes, 4)[0].flatten() for _ in range(200)])
    assert set(drawn[:, 0].tolist()) == {0, 1, 2, 3} and set(drawn[:, 1].tolist()) == {4, 5, 6}


def test_positions_in_closed_form() -> None:
    found = sinusoids(5, 6, torch.zeros(1, dtype=torch.float64))
    for position in range(5):
        for i in range(3):
            angle = position / 10000 ** (2 * i / 6)
            assert found[position, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-15)
            assert found[position, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-15)
    assert sinusoids(2, 5, torch.zeros(1)).shape == (2, 5)


# --- shortcuts -------------------------------------------------------------------------------------------------------


def test_shortcut_is_all_that_the_switch_changes() -> None:
    with_it, without = small(), small(residual=False)
    grids = [torch.randn(1, *with_it.grid_at(i), dtype=torch.float64) for i in range(3)]
    with torch.no_grad():
        for i, (a, b, grid) in enumerate(zip(with_it.blocks, without.blocks, grids)):
            if i == 0:
                assert torch.equal(a(grid), b(grid))  # the stem is no stage
                continue
            expected = F.avg_pool3d(grid, (1, 2, 2), ceil_mode=True) if i == 1 else grid
            extra = with_it.grid_at(i + 1)[0] - grid.shape[1]
            expected = torch.cat([expected, expected.new_zeros(1, extra, *expected.shape[2:])], 1)
            torch.testing.assert_close(a(grid) - b(grid), expected, atol=1e-12, rtol=1e-12)
            for parameter in a.parameters():
                parameter.zero_()
            assert torch.equal(a(grid), expected)


def test_head_is_mean_norm_linear() -> None:
    model = small()
    with torch.no_grad():
        last = model.taps(clip(), ["block.2"])["block.2"].mean((2, 3, 4))
        expected = model.classifier.linear(F.layer_norm(last, (12,), model.norm.weight, model.norm.bias))  # type: ignore[operator]
        torch.testing.assert_close(model(clip()), expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"stages": SMALL.stages[::-1]}, r"widths \[12, 8, 8\] cannot have shortcuts"),
        ({"stages": ()}, "needs at least one stage"),
        (
            {"stages": (replace(SMALL.stages[0], second=(3, 2, 2, 2, 2, 2), pair_max=True),)},
            r"stages\.0 has 9 channels .* of which pair_max makes no pairs",
        ),
        ({"scales": (1, 0)}, r"scales\[1\] is 0, not 1 or more"),
        ({"knn": 0.0}, "knn is 0.0, not above 0 and at most 1"),
        ({"knn_temporal": 1.2}, "knn_temporal is 1.2, not above 0"),
    ],
)
def test_impossible_sizes_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(GestaError, match=sentence):
        small(**changes)
