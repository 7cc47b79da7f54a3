"""ST-MANet: the specification's costs, the equations written out in float64, and its invariants."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conftest import fast_first, gradients_below_rounding, smooth_clips
from gesta.config import replace
from gesta.cost import count
from gesta.errors import GestaError
from gesta.model import ClipSpec
from gesta.models import create_model, model_config
from gesta.models.r3d import R3DConfig
from gesta.models.st_manet import Aggregation, STMANet, STMANetConfig, likeness, pool_frames, pool_positions
from gesta.plugins.st_manet import entropy

LITERAL: dict[str, Any] = {"second_softmax": "position", "attn_out_norm": "none"}
"""The second softmax that the paper prints, over positions, without a norm."""

SMALL = STMANetConfig(depths=(1, 1, 1, 1), width=8, stem_kernel=(3, 3, 3), classes=5, clip=ClipSpec(frames=32, size=64))
VIDEO = torch.randn(2, 3, 32, 64, 64, generator=torch.Generator().manual_seed(3))
SMOOTH = smooth_clips(2, 3, 32, 64)


def small(**changes: Any) -> STMANet:
    torch.manual_seed(0)
    made = replace(SMALL, **changes).build()
    assert isinstance(made, STMANet)
    return made


def shaken(model: nn.Module) -> Any:
    """All parameters and running statistics away from where they start, in float64."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5 if parameter.dim() < 2 else parameter[0].numel() ** -0.5)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            nn.init.normal_(buffer, std=0.2)
        elif name.endswith("running_var"):
            nn.init.uniform_(buffer, 0.5, 2)
    return model.double()


# --- costs -----------------------------------------------------------------------------------------------------------

TRUNK = 20_137_191_424
COSTS: list[tuple[dict[str, Any], int, float]] = [
    # parameters with 101 classes, and GMACs of one clip, ε's convolution before its pooling
    ({"tda": False, "sda": False, "mf": False}, 46_405_925, 20.137),
    ({}, 59_206_885, 25.014),
    (LITERAL | {"tda_value": "concat"}, 75_911_845, 29.791),
    (LITERAL, 59_200_165, 25.014),
    ({"tda": False, "sda": False}, 46_586_917, 20.137),
    (LITERAL | {"sda": False, "mf": False, "tda_value": "concat"}, 71_547_173, 27.604),
    (LITERAL | {"tda": False, "mf": False}, 50_589_605, 22.324),
    (LITERAL | {"sda_v_reduction": 8, "tda_value": "concat"}, 74_518_725, 29.062),
    (LITERAL | {"sda_qk_reduction": None, "sda_v_reduction": None, "tda_value": "concat"}, 71_728_165, 32.976),
    (LITERAL | {"tda_out": "dense", "tda_value": "concat"}, 92_612_005, 34.497),
    (LITERAL | {"tda_out": "separable", "sda_v_reduction": 8, "tda_value": "concat"}, 80_093_125, 30.635),
]


@pytest.mark.parametrize(("changes", "params", "macs"), fast_first(COSTS, 2))
def test_costs(changes: dict[str, Any], params: int, macs: float) -> None:
    found = count(model_config("st_manet_50", classes=101, **changes))
    assert (found.params, round(found.macs / 1e9, 3)) == (params, macs)


def test_a_quarter_more_work() -> None:
    """The only printed cost, "24 %"; per stage, every product of §3.2 and §3.3 by hand."""
    found = count(model_config("st_manet_50", classes=101))
    assert round(100 * (found.macs / TRUNK - 1), 1) == 24.2
    assert count(model_config("st_manet_50", classes=101, tda=False, sda=False, mf=False)).macs == TRUNK
    macs = {part.name: part.macs for part in found.parts}
    assert macs["stem_branch"] == 64 * 128 * 16 * 28 * 28
    for block, c, t, hw in ((3, 256, 16, 28 * 28), (8, 512, 8, 14 * 14), (15, 1024, 4, 7 * 7), (19, 2048, 2, 4 * 4)):
        both = c + c // 2
        tda = 2 * 3 * both * t * hw + t * t * both * hw  # φ and ω, and their product
        tda += t * t * c // 2 * hw + 3 * (c // 2) * c * t * hw  # A · P, and ε at full size
        tda += t * t * c * hw + 3 * c * t * hw  # A · Z and ε'
        sda = 2 * c * c // 8 * t * hw + hw * hw * c // 8 * t + 2 * c * c // 4 * t * hw + hw * hw * c // 4 * t
        assert macs[f"block.{block}"] == tda + sda


# --- shapes -----------------------------------------------------------------------------------------------------------


def test_shapes_of_st_manet_50() -> None:
    """Table of the specification, §1, and the branch that each stage gets (C / 2 channels at the stage's own size)."""
    with torch.device("meta"):
        model = create_model("st_manet_50", classes=101)
        assert isinstance(model, STMANet)
        state = model.stem(torch.empty(1, 3, 32, 112, 112))
        assert state.final == (2, 4, 4) and state.map.shape[1:] == (64, 16, 28, 28) == model.grid_at(0)
        seen = []
        for i, block in enumerate(model.blocks):
            if isinstance(block, Aggregation):
                assert state.branch is not None
                before, map_before = state.branch.shape[1:], state.map.shape[1:]
                assert before == (map_before[0] // 2, *map_before[1:])
                seen.append((i, *map_before))
            state = block(state)
            assert state.map.shape[1:] == model.grid_at(i + 1)
    assert seen == [(3, 256, 16, 28, 28), (8, 512, 8, 14, 14), (15, 1024, 4, 7, 7), (19, 2048, 2, 4, 4)]
    assert state.branch is None and model.pool(state).shape == (1, 3840)


@pytest.mark.parametrize(("frames", "height", "width"), [(64, 112, 112), (48, 96, 160), (33, 75, 112)])
def test_other_clips(frames: int, height: int, width: int) -> None:
    with torch.device("meta"):
        model = create_model("st_manet_50", classes=7).train()
        scores, losses = model(torch.empty(2, 3, frames, height, width), with_losses=True)
    assert scores.shape == (2, 7) and set(losses) == {"diversity_spatial", "diversity_temporal"}


# --- the trunk --------------------------------------------------------------------------------------------------------


def test_without_modules_it_is_the_resnet() -> None:
    plain = R3DConfig(depths=SMALL.depths, width=8, stem_kernel=(3, 3, 3), classes=5, clip=SMALL.clip).build().eval()
    model = small(tda=False, sda=False, mf=False).eval()
    assert list(model.state_dict()) == list(plain.state_dict())
    hara = {name.replace("classifier.linear.", "module.fc."): value for name, value in plain.state_dict().items()}
    model.load_state_dict(model.convert_foreign(hara))
    with torch.no_grad():
        assert torch.equal(model(VIDEO), plain(VIDEO))


def test_trunk_keeps_its_names() -> None:
    with torch.device("meta"):
        trunk, model = (set(create_model(name).state_dict()) for name in ("r3d_50", "st_manet_50"))
    assert trunk <= model and all(name.startswith(("aggregation", "stem_branch")) for name in model - trunk)


# --- the equations, written out ---------------------------------------------------------------------------------------


def conv(weights: dict[str, Tensor], name: str, x: Tensor, depthwise: bool = False) -> Tensor:
    kernel = weights[f"{name}.weight"]
    padding = (kernel.shape[2] // 2, 0, 0)
    return F.conv3d(x, kernel, weights.get(f"{name}.bias"), padding=padding, groups=len(kernel) if depthwise else 1)


def norm(weights: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    """In evaluation; the last of ``name``'s layers, if it is a norm."""
    running = [key.removesuffix(".running_var") for key in weights if key.startswith(name) and "running_var" in key]
    for key in running:
        mean, var, weight, bias = (
            weights[f"{key}.{part}"].view(-1, 1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
        )
        x = (x - mean) / (var + 1e-5).sqrt() * weight + bias
    return x


def second(product: Tensor, kind: str) -> Tensor:
    """Rows are what attends: (B, N, D)."""
    return product if kind == "none" else product.softmax(1 if kind == "position" else 2)


def stage_by_hand(model: STMANet, stage: int, z: Tensor, p: Tensor | None) -> tuple[Tensor, Tensor | None, Any, Any]:
    """Z_i, the next branch, A_t, A_s; channels first, everything concatenated, ε and then pooling."""
    c = model.config
    block = model.get_submodule(f"aggregation{stage}")
    w = dict(block.state_dict())
    b, ch, t, h, wd = z.shape
    total, branch, a_t, a_s = z, None, None, None
    if block.tda is not None:
        bar = z if p is None else torch.cat([z, p], 1)
        depthwise = c.tda_embed == "depthwise"
        phi = bar if c.tda_embed == "none" else conv(w, "tda.phi", bar, depthwise)
        omega = bar if c.tda_embed == "none" else conv(w, "tda.omega", bar, depthwise)
        rows = [x.transpose(1, 2).reshape(b, t, -1) for x in (phi, omega)]
        d = rows[0].shape[2] if c.attention_scale == "sqrt" else 1
        a_t = (rows[0] @ rows[1].mT / math.sqrt(d)).softmax(-1)
        mixed = second(a_t @ z.transpose(1, 2).reshape(b, t, -1), c.second_softmax)
        mixed = mixed.view(b, t, ch, h, wd).transpose(1, 2)
        out = conv(w, "tda.out.0", mixed, c.tda_out != "dense")
        if c.tda_out == "separable":
            out = conv(w, "tda.out.1", out)
        z_t = z + norm(w, "tda.out.", out)
        total = z_t if c.stage_sum == "single" else total + z_t
        if "tda.epsilon.weight" in w:
            value = p if c.tda_value == "branch" and p is not None else bar
            mixed = second(a_t @ value.transpose(1, 2).reshape(b, t, -1), c.second_softmax)
            branch = conv(w, "tda.epsilon", mixed.view(b, t, -1, h, wd).transpose(1, 2))
            if stage < 5:
                branch = F.avg_pool3d(branch, (c.time_strides[stage], 2, 2), ceil_mode=True, count_include_pad=False)
    if block.sda is not None:
        alpha, beta = (z if c.sda_qk_reduction is None else conv(w, f"sda.{n}", z) for n in ("alpha", "beta"))
        eta = z if c.sda_v_reduction is None else conv(w, "sda.eta", z)
        rows = [x.reshape(b, -1, h * wd).mT for x in (alpha, beta, eta)]
        d = rows[0].shape[2] if c.attention_scale == "sqrt" else 1
        a_s = (rows[0] @ rows[1].mT / math.sqrt(d)).softmax(-1)
        z_s = second(a_s @ rows[2], c.second_softmax).mT.reshape(b, -1, t, h, wd)
        total = total + norm(w, "sda.pi.", z_s if c.sda_v_reduction is None else conv(w, "sda.pi.0", z_s))
    if stage == 5 and branch is not None:
        total = total + branch
    return total, branch, a_t, a_s


SWITCHES: list[dict[str, Any]] = [
    {},
    LITERAL | {"tda_value": "concat"},
    LITERAL,
    {"second_softmax": "feature"},
    {"tda_embed": "none", "tda_value": "concat", "attn_out_norm": "none"},
    {"tda_embed": "dense", "tda_out": "separable"},
    LITERAL | {"second_softmax": "feature", "tda_first": "none"},
    LITERAL | {"tda_value": "concat", "tda_first": "none", "tda_final": "drop", "tda_out": "dense"},
    {"sda_qk_reduction": None, "sda_v_reduction": None, "stage_sum": "single"},
    {"attention_scale": "none", "second_softmax": "position"},
    {"sda_qk_reduction": None, "tda_stages": (3, 5), "sda_stages": (2, 5)},
    {"time_strides": (2, 1, 2, 1, 3), "sda": False},
    {"tda": False, "head_stages": (3,)},
]


@pytest.mark.parametrize("changes", SWITCHES)
@pytest.mark.parametrize("frames", [32, 21])
def test_stages_are_those_of_the_equations(changes: dict[str, Any], frames: int) -> None:
    """Features and matrices in float64, for sizes that halve evenly and others."""
    model = shaken(small(**changes, clip=ClipSpec(frames=frames, size=56))).eval()
    video = VIDEO[:, :, :frames, :56, :56].double()
    with torch.no_grad():
        state = model.stem(video)
        z, p, features = state.map, state.branch, []
        matrices: dict[int, tuple[Any, Any]] = {}
        for stage in model.stages:
            for block in model.bottlenecks(stage - 1):
                z = block(state._replace(map=z)).map
            z, p, *found = stage_by_hand(model, stage, z, p)
            matrices[stage] = (found[0], found[1])
            if stage in (model.config.head_stages if model.config.mf else (5,)):
                features.append(z.mean((2, 3, 4)))
        torch.testing.assert_close(model.embed(video), torch.cat(features, 1), atol=1e-11, rtol=1e-11)
        maps = model.attention_maps(video)
    assert set(maps) == set(model.stages)
    for stage, (a_t, a_s) in matrices.items():
        for mine, by_hand in ((maps[stage].temporal, a_t), (maps[stage].spatial, a_s)):
            assert (mine is None) == (by_hand is None)
            if mine is not None:
                torch.testing.assert_close(mine, by_hand, atol=1e-12, rtol=1e-10)


# --- attention --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_attention_is_finite_in_half_precision(dtype: torch.dtype) -> None:
    model = small().eval()
    with torch.autocast("cpu", dtype):
        found = model.attention_maps(100 * VIDEO)
    for stage in found.values():
        for matrix in (stage.temporal, stage.spatial):
            assert matrix is not None and matrix.dtype == torch.float32
            assert matrix.isfinite().all() and (matrix >= 0).all()
            torch.testing.assert_close(matrix.sum(-1), torch.ones(matrix.shape[:2]))


def test_starts_neither_uniform_nor_saturated() -> None:
    """Entropy of fresh attention, in units of the largest possible, on a square that moves over a pattern."""
    torch.manual_seed(0)
    model = create_model("st_manet_50", classes=2, depths=(1, 1, 1, 1)).train()
    assert isinstance(model, STMANet)
    rows = torch.arange(112.0)
    video = ((rows[:, None] / 9).sin() * (rows / 13).cos()).expand(1, 3, 32, 112, 112).clone()
    for t in range(32):
        video[:, :, t, 2 * t : 2 * t + 30, 20 : 50 + t] += 2
    with torch.no_grad():
        state = model.stem(video)
        for block in model.blocks:
            state = block(state)
    for found in state.attention:
        for matrix in (found.temporal, found.spatial):
            assert 0.5 < entropy(matrix) < 0.999, (found.stage, matrix.shape, entropy(matrix))


# --- losses -----------------------------------------------------------------------------------------------------------


def training_losses(model: STMANet, video: Tensor = VIDEO) -> dict[str, Tensor]:
    return model.train()(video, with_losses=True)[1]


def test_losses_are_cosines_of_pooled_matrices() -> None:
    """L_s and L_t of Eq. 7 with explicit loops over pairs, clips and, for Eq. 6, grid places."""
    model = small(lambda1=0.5, lambda2=0.25).double().train()
    with torch.no_grad():
        state = model.stem(VIDEO.double())
        for block in model.blocks:
            state = block(state)
        losses = model.losses(state)
    spatial, temporal = [], []
    for found in state.attention:
        (t, h, w), (b, _, _) = found.size, found.temporal.shape
        a = found.spatial.view(b, h, w, h, w)
        pooled = torch.zeros(b, 2, 2, 2, 2, dtype=torch.float64)
        for i, j, k, m in itertools.product(range(2), repeat=4):
            rows, columns = slice(i * h // 2, (i + 1) * h // 2), slice(j * w // 2, (j + 1) * w // 2)
            others, across = slice(k * h // 2, (k + 1) * h // 2), slice(m * w // 2, (m + 1) * w // 2)
            pooled[:, i, j, k, m] = a[:, rows, columns, others, across].mean((1, 2, 3, 4))
        spatial.append(pooled.flatten(1))
        temporal.append(found.temporal.view(b, 2, t // 2, 2, t // 2).mean((2, 4)).flatten(1))
    for name, weight, rows in (("diversity_spatial", 0.5, spatial), ("diversity_temporal", 0.25, temporal)):
        total = sum(F.cosine_similarity(a, b, dim=1).mean() for a, b in itertools.permutations(rows, 2))
        torch.testing.assert_close(losses[name], weight * total)


def test_likeness() -> None:
    same = [torch.rand(3, 4, 4)] * 4
    assert likeness(same).item() == pytest.approx(12, rel=1e-6)
    assert likeness(same, "unordered").item() == pytest.approx(6, rel=1e-6)
    matrices = [torch.rand(3, 4, 4, dtype=torch.float64, requires_grad=True) for _ in range(4)]
    found = likeness(matrices)
    for order in ((3, 0, 2, 1), (1, 2, 3, 0)):
        torch.testing.assert_close(likeness([matrices[i] for i in order]), found)
    torch.testing.assert_close(likeness([m.flip(0) for m in matrices]), found)  # order of the clips
    torch.testing.assert_close(likeness([scale * m for scale, m in zip((2, 0.1, 30, 1), matrices)]), found)
    assert torch.autograd.gradcheck(lambda *m: likeness(m), matrices)
    found.backward()
    assert all(m.grad is not None and m.grad.abs().max() > 0 for m in matrices)  # into both of every pair


def test_pooling_of_odd_grids() -> None:
    """7 × 7 places to 4 × 4, whose bins overlap, against means over two grids one after the other."""
    attention = torch.rand(2, 49, 49, dtype=torch.float64)
    bins = [slice(i * 7 // 4, -((i + 1) * -7 // 4)) for i in range(4)]
    a = attention.view(2, 7, 7, 7, 7)
    by_hand = [a[:, i, j, k, m].mean((1, 2, 3, 4)) for i, j, k, m in itertools.product(bins, repeat=4)]
    torch.testing.assert_close(pool_positions(attention, (7, 7), (4, 4)).flatten(1), torch.stack(by_hand, 1))
    torch.testing.assert_close(pool_frames(torch.eye(4)[None], 2), torch.eye(2)[None] / 2)


def test_losses_are_named_and_absent_where_they_mean_nothing() -> None:
    both = {"diversity_spatial", "diversity_temporal"}
    assert set(training_losses(small())) == both
    assert set(training_losses(small(tda=False))) == {"diversity_spatial"}
    assert set(training_losses(small(sda=False))) == {"diversity_temporal"}
    assert set(training_losses(small(lambda1=0))) == {"diversity_temporal"}
    assert training_losses(small(mf=False)) == {}
    assert set(training_losses(small(mf=False, diversity="always"))) == both
    assert training_losses(small(tda_stages=(4,), sda_stages=(2,))) == {}  # no pair
    assert small().eval()(VIDEO, with_losses=True)[1] == {}


def test_in_evaluation_nothing_is_kept() -> None:
    model = small()
    states: list[Any] = []
    model.blocks[-1].register_forward_hook(lambda _, __, state: states.append(state))
    model.eval()(VIDEO)
    model.train()(VIDEO)
    model.eval().attention_maps(VIDEO)
    kept = [None if state.attention is None else len(state.attention) for state in states]
    assert kept == [None, 4, 4] and not model.training


def test_one_frame_in_the_last_stage() -> None:
    with pytest.warns(UserWarning, match="16 frames one is left in stage 5"):
        model = small(clip=ClipSpec(frames=16, size=64))
    assert set(training_losses(model, VIDEO[:, :, :16])) == {"diversity_spatial"}
    small(clip=ClipSpec(frames=16, size=64), lambda2=0)  # says nothing


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tda": False},
        {"sda": False, "tda_final": "drop", "tda_value": "concat"},
        {"mf": False},
        {"lambda1": 0.0, "lambda2": 0.0, "tda_first": "none"},
        {"tda_branch_norm": "bn_relu", "sda_v_reduction": None},
        {"second_softmax": "none", "attn_out_norm": "none", "tda_branch_norm": "bn"},
        {"head_stages": (2, 3)},
        {"tda_stages": (2, 4), "sda_stages": (5,), "fusion_pool": "stage5"},
        {"tda_out": "separable", "tda_embed": "dense"},
    ],
)
def test_classification_moves_every_parameter(changes: dict[str, Any]) -> None:
    known = ("tda.omega.bias", "sda.beta.bias")  # added to all keys
    if not changes.get("mf", True):  # a shift that the next batch norm takes away again
        known += tuple(f"aggregation{i}.{norm}.1.bias" for i in (2, 3, 4) for norm in ("tda.out", "sda.pi"))
    unmoved = gradients_below_rounding(small(**changes), SMOOTH)
    assert all(name.endswith(known) for name in unmoved), unmoved


def test_softmax_over_positions_leaves_sda_of_stage_5_to_the_losses() -> None:
    """The printed softmax: a head that averages over positions sees a constant, so the default is without (M7)."""
    model = small(**LITERAL)
    unmoved = gradients_below_rounding(model, SMOOTH)
    assert {f"aggregation5.sda.{name}.weight" for name in ("alpha", "beta", "eta")} <= set(unmoved)
    with torch.no_grad():
        model.eval()
        before = model(SMOOTH.double())
        for name in ("alpha", "beta", "eta"):
            nn.init.normal_(model.get_submodule(f"aggregation5.sda.{name}").weight)  # type: ignore[arg-type]
        torch.testing.assert_close(model(SMOOTH.double()), before, atol=1e-13, rtol=0)


# --- head -------------------------------------------------------------------------------------------------------------


def test_without_fusion_earlier_stages_are_seen_through_the_trunk_only() -> None:
    model = small(mf=False).eval()
    assert model.embed(VIDEO).shape == (2, 256)
    before = model(VIDEO)
    with torch.no_grad():
        for parameter in model.get_submodule("aggregation2.sda").parameters():
            parameter.add_(0.1)
        assert (model(VIDEO) - before).abs().max() > 1e-6


def test_head_of_early_stages_builds_no_later_ones() -> None:
    model = small(head_stages=(3, 2)).eval()
    assert model.stages == (2, 3) and not hasattr(model, "layer3") and len(model.blocks) == 4
    features = model.stage_features(VIDEO)
    assert {stage: tuple(f.shape) for stage, f in features.items()} == {2: (2, 32), 3: (2, 64)}
    torch.testing.assert_close(model.embed(VIDEO), torch.cat([features[2], features[3]], 1))


def test_fusion_at_the_size_of_stage_5() -> None:
    """The same vector where bins are even."""
    even, other = small().eval(), small(fusion_pool="stage5").eval()
    other.load_state_dict(even.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(other(VIDEO), even(VIDEO), atol=1e-5, rtol=1e-5)
        odd = VIDEO[..., :56, :56]
        assert (other(odd) - even(odd)).abs().max() > 1e-6


def test_views_for_analyses_disturb_nothing() -> None:
    model = small().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    maps, features = model.attention_maps(VIDEO), model.stage_features(VIDEO)
    assert model.training and all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert list(maps) == list(features) == [2, 3, 4, 5]
    assert [m.size for m in maps.values()] == [(16, 16, 16), (8, 8, 8), (4, 4, 4), (2, 2, 2)]
    assert all(m.temporal.shape == (2, m.size[0], m.size[0]) for m in maps.values())
    assert all(m.spatial.shape == (2, m.size[1] ** 2, m.size[1] ** 2) for m in maps.values())
    assert not any(m.temporal.requires_grad for m in maps.values())
    assert not any(f.requires_grad for f in features.values())
    without = small(tda=False).attention_maps(VIDEO)
    assert all(m.temporal is None and m.spatial is not None for m in without.values())


@pytest.mark.parametrize(
    ("changes", "field", "needs"),
    [
        ({"sda": False}, {"lambda1": 0.1}, "sda in two stages, and mf or diversity"),
        ({"tda": False}, {"lambda2": 0.1}, "tda in two stages, and mf or diversity"),
        ({"mf": False}, {"lambda1": 0.1}, "sda in two stages, and mf or diversity"),
        ({"tda": False, "sda_stages": (5,)}, {"lambda1": 5.0}, "sda in two stages"),
        ({"head_stages": (2,)}, {"lambda2": 0.1}, "tda in two stages"),
        ({"head_stages": (2,), "mf": True}, {"tda_final": "drop"}, "TDA after stage 5"),
        ({"tda_stages": (3, 4)}, {"tda_first": "none"}, "TDA after stage 2"),
        ({"tda_stages": (2, 4)}, {"tda_branch_norm": "bn_relu"}, "a branch, of which"),
        ({"tda_stages": (3, 5), "tda_final": "drop"}, {"tda_value": "concat"}, "a stage where a branch comes in"),
        ({"tda": False}, {"stage_sum": "single"}, "tda"),
        ({"head_stages": (5,)}, {"fusion_pool": "stage5"}, "a stage before the last"),
        ({"mf": False}, {"pairs": "unordered"}, "a diversity loss"),
        ({"lambda1": 0.0, "lambda2": 0.0}, {"pairs": "unordered"}, "a diversity loss"),
        ({"mf": False, "tda_stages": (5,), "sda_stages": (5,)}, {"diversity": "always"}, "attention in two stages"),
    ],
)
def test_switches_without_effect_are_refused(changes: dict[str, Any], field: dict[str, Any], needs: str) -> None:
    small(**changes)
    (name,) = field
    with pytest.raises(GestaError, match=f"{name} is .*, which changes nothing without .*{needs}"):
        small(**changes, **field)


def test_stages_that_do_not_exist_are_refused() -> None:
    with pytest.raises(GestaError, match=r"tda_stages\[0\] is 1, not from 2 to 5"):
        small(tda_stages=(1, 2))
    with pytest.raises(GestaError, match="head_stages names no stage"):
        small(head_stages=())
    with pytest.raises(GestaError, match="sda_stages is 5, and no stage after 3 is built"):
        small(head_stages=(2, 3), sda_stages=(5,))
