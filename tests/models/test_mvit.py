"""MViTv2: costs to the printed digit, equal to torchvision's, PySlowFast's names, any size, recomputing, compiling."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.video import mvit_v2_s
from torchvision.models.video.mvit import MSBlockConfig
from torchvision.models.video.mvit import MViT as TorchvisionMViT

from conftest import fast_first
from gesta.checkpoint.weights import import_weights
from gesta.cost import count
from gesta.errors import GestaError
from gesta.model import ClipSpec, Insert
from gesta.models import create_model, model_config
from gesta.models.mvit import Attention, MViT, MViTConfig, mvitv2_tiny, pooled
from gesta.plugins.stan import STAN


def small(**changes: object) -> MViTConfig:
    """Four blocks in three stages on a grid of 4 × 8 × 8."""
    fields = {
        "classes": 5,
        "depths": (1, 2, 1),
        "widths": (16, 32, 64),
        "heads": (1, 2, 4),
        "kv_stride": 4,
        "clip": ClipSpec(frames=8, size=32),
    }
    return MViTConfig(**(fields | changes))


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """Every parameter moved away from where it starts, so that none can be mistaken for another."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def torchvision_model(config: MViTConfig) -> torch.nn.Module:
    """torchvision's network of the same sizes."""
    settings = []
    inputs = config.widths[0]
    for stage, depth in enumerate(config.depths):
        for i in range(depth):
            stride, kv_stride = 2 if stage and not i else 1, max(config.kv_stride // 2**stage, 1)
            settings.append(
                MSBlockConfig(
                    num_heads=config.heads[stage],
                    input_channels=inputs,
                    output_channels=config.widths[stage],
                    kernel_q=[3, 3, 3],
                    kernel_kv=[3, 3, 3],
                    stride_q=[1, stride, stride],
                    stride_kv=[1, kv_stride, kv_stride],
                )
            )
            inputs = config.widths[stage]
    return randomised(
        TorchvisionMViT(
            spatial_size=(config.clip.size, config.clip.size),
            temporal_size=config.clip.frames,
            block_setting=settings,
            residual_pool=True,
            residual_with_cls_embed=False,
            rel_pos_embed=True,
            proj_after_attn=True,
            num_classes=config.classes,
        )
    )


# --- costs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "params", "torch_macs", "papers_macs"),
    fast_first(
        [
            ({"classes": 101}, "34.3077", "64.1576", "64.3905"),  # STAN's Table 1: 34.31 M, 64.39 G
            ({"classes": 101, "cls_token": True}, "34.3078", "64.2236", "64.4567"),
            ({"cls_token": True}, "34.5377", "64.2238", "64.4569"),  # the public checkpoints'
        ],
        1,
    ),
)
def test_cost(changes: dict[str, object], params: str, torch_macs: str, papers_macs: str) -> None:
    config = model_config("mvitv2_s", **changes)
    cost = count(config, style="fvcore")
    assert f"{cost.params / 1e6:.4f}" == params
    assert f"{cost.macs / 1e9:.4f}" == papers_macs
    assert f"{count(config).macs / 1e9:.4f}" == torch_macs


def test_cost_with_stan() -> None:
    config = model_config("mvitv2_s", classes=101, inserts=[Insert(layer=STAN(), at=3)])
    cost = count(config, style="fvcore")
    assert f"{cost.params / 1e6:.2f} M, {cost.macs / 1e9:.2f} G" == "34.56 M, 65.41 G"  # 0.39 M of the batch norm


# --- public weights --------------------------------------------------------------------------------------------------


@pytest.mark.full  # the next test has all that is computed, in a small model
def test_equal_to_torchvision(tmp_path) -> None:
    theirs = randomised(mvit_v2_s(weights=None))
    torch.save(theirs.state_dict(), tmp_path / "mvit_v2_s.pth")
    ours = create_model("mvitv2_s", cls_token=True).eval()
    report = import_weights(ours, tmp_path / "mvit_v2_s.pth")
    assert report.matched_fraction == 1 and not report.missing and not report.unexpected and not report.mismatched
    video = torch.randn(1, 3, 16, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = theirs(video)
        assert expected.abs().max() > 1
        torch.testing.assert_close(ours(video), expected, atol=1e-5, rtol=0)


def test_equal_to_torchvision_in_double_precision_with_gradients() -> None:
    config = small(cls_token=True, clip=ClipSpec(frames=8, size=64))
    theirs = torchvision_model(config).double()
    ours = config.build().double().eval()
    import_weights(ours, theirs.state_dict(), min_matched=1.0)
    video = torch.randn(2, 3, 8, 64, 64, dtype=torch.float64)
    scores, expected = ours(video), theirs(video)
    torch.testing.assert_close(scores, expected, atol=1e-10, rtol=0)
    scores.square().mean().backward()
    expected.square().mean().backward()
    gradients = ours.convert_foreign({name: parameter.grad for name, parameter in theirs.named_parameters()})
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-10, rtol=1e-8)


def slowfast_names(model: MViT) -> dict[str, Tensor]:
    """A state dict as PySlowFast writes it."""
    theirs: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        block, _, part = name.partition(".attn.")
        if part.startswith(("q.", "k.", "v.")):
            kind = part.partition(".")[2]
            theirs[f"{block}.attn.qkv.{kind}"] = torch.cat(
                [model.state_dict()[f"{block}.attn.{x}.{kind}"] for x in "qkv"]
            )
            continue
        name = name.replace("patch_embed.", "patch_embed.proj.").replace("classifier.linear.", "head.projection.")
        name = name.replace(".mlp.0.", ".mlp.fc1.").replace(".mlp.2.", ".mlp.fc2.").replace(".rel_pos.", ".rel_pos_")
        for x in "qkv":
            name = name.replace(f".pool_{x}.conv.", f".pool_{x}.").replace(f".pool_{x}.norm.", f".norm_{x}.")
        theirs[name] = value
    return theirs


@pytest.mark.parametrize("cls_token", [False, True])
def test_slowfast_names(cls_token: bool) -> None:
    source = randomised(small(cls_token=cls_token).build())
    theirs = slowfast_names(source)
    assert {"blocks.1.attn.qkv.weight", "blocks.1.attn.pool_q.weight", "blocks.1.attn.norm_q.bias"} < set(theirs)
    assert {"blocks.1.proj.weight", "blocks.0.attn.rel_pos_h", "patch_embed.proj.bias"} < set(theirs)
    target = small(cls_token=cls_token).build()
    report = import_weights(target, theirs, min_matched=1.0)
    assert not report.missing and not report.unexpected
    for name, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], value), name


def test_our_own_names_pass_unchanged() -> None:
    model = small(cls_token=True, inserts=[Insert(layer=STAN(), at=1)]).build()
    weights = model.state_dict()
    converted = model.convert_foreign(weights)
    assert converted.keys() == weights.keys()
    assert all(torch.equal(converted[name], weights[name]) for name in weights)


def test_a_class_token_without_a_place_is_reported() -> None:
    report = import_weights(small().build(), small(cls_token=True).build().state_dict())
    assert report.unexpected == ("cls_token",) and report.matched_fraction == 1 and "cls_token" in str(report)
    report = import_weights(small(cls_token=True).build(), small().build().state_dict())
    assert report.missing == ("cls_token",)


def test_positions_of_another_clip_size_are_resized_and_said() -> None:
    source = randomised(small().build())
    larger = small(clip=ClipSpec(frames=12, size=64)).build().eval()
    with pytest.warns(UserWarning, match=r"12 tables of relative positions .* resized linearly"):
        report = import_weights(larger, source.state_dict())
    assert report.matched_fraction == 1
    table, resized = source.blocks[0].attn.rel_pos.h, larger.blocks[0].attn.rel_pos.h
    assert (len(table), len(resized)) == (15, 31)
    torch.testing.assert_close(resized[15], table[7])  # distance 0 stays in the middle
    # and a model does the same by itself when it meets clips of another size
    video = torch.randn(1, 3, 12, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(source(video), larger(video), atol=1e-5, rtol=1e-5)
        assert not torch.allclose(source(video), small().build().eval()(video), atol=1e-3)


# --- attention -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize(("size", "q_stride", "kv_stride"), [((3, 6, 4), 1, 2), ((2, 5, 7), 2, 1), ((1, 1, 1), 1, 4)])
def test_attention_as_the_paper_writes_it(size, q_stride: int, kv_stride: int, first: int) -> None:
    torch.manual_seed(0)
    heads, dim = 2, 5
    attention = randomised(Attention(6, heads * dim, heads, size, q_stride, kv_stride).double())
    tokens = torch.randn(2, first + size[0] * size[1] * size[2], 6, dtype=torch.float64)
    q_size, k_size = pooled(size, q_stride), pooled(size, kv_stride)

    def pool(x: Tensor, layer: torch.nn.Module) -> Tensor:
        """Each head on its own, by a plain convolution on a plain grid: (B, heads, N, d)."""
        x = x.unflatten(2, (heads, dim)).transpose(1, 2)
        grid = x[:, :, first:].flatten(0, 1).transpose(1, 2).reshape(-1, dim, *size).contiguous()
        grid = layer.conv(grid).flatten(2).transpose(1, 2).unflatten(0, (2, heads))
        return layer.norm(torch.cat([x[:, :, :first], grid], 2))

    q = pool(attention.q(tokens), attention.pool_q)
    k = pool(attention.k(tokens), attention.pool_k)
    v = pool(attention.v(tokens), attention.pool_v)
    scores = q @ k.transpose(2, 3) / dim**0.5
    places = [torch.cartesian_prod(*(torch.arange(n) for n in s)).reshape(-1, 3) for s in (q_size, k_size)]
    for i, at in enumerate(places[0].tolist()):
        for j, there in enumerate(places[1].tolist()):
            for axis, name in enumerate("thw"):
                nq, nk = q_size[axis], k_size[axis]
                distance = at[axis] * max(nk / nq, 1) - (there[axis] - (nk - 1)) * max(nq / nk, 1)
                row = attention.rel_pos.get_parameter(name)[int(distance)]
                scores[:, :, first + i, first + j] += q[:, :, first + i] @ row
    result = scores.softmax(-1) @ v
    result[:, :, first:] += q[:, :, first:]
    expected = attention.proj(result.transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(tokens, size), expected, atol=1e-12, rtol=1e-10)


# --- the model's shape -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls_token", [False, True])
@pytest.mark.parametrize(("frames", "size"), [(8, 32), (9, 44), (2, 16)])
def test_grids(frames: int, size: int, cls_token: bool) -> None:
    model = small(clip=ClipSpec(frames=frames, size=size), cls_token=cls_token).build().eval()
    taps = model.taps(torch.randn(2, 3, frames, size, size), model.tap_names())
    assert taps["stem"].shape == (2, *model.grid_at(0))
    for i in range(4):
        assert taps[f"block.{i}"].shape == (2, *model.grid_at(i + 1))
    state = model.stem(torch.randn(2, 3, frames, size, size))
    grid = model.to_grid(state)
    again = model.from_grid(grid.contiguous(), state)
    assert torch.equal(again.tokens, state.tokens) and again.size == state.size
    changed = model.from_grid(grid + 1, state)
    assert torch.equal(changed.tokens[:, : int(cls_token)], state.tokens[:, : int(cls_token)])
    assert torch.equal(model.to_grid(changed), grid + 1)


def test_stages_of_mvitv2_s() -> None:
    with torch.device("meta"):
        model = create_model("mvitv2_s")
    assert [model.grid_at(i) for i in (0, 1, 3, 14)] == [
        (96, 8, 56, 56),
        (96, 8, 56, 56),
        (192, 8, 28, 28),
        (384, 8, 14, 14),
    ]
    assert model.grid_at(16) == (768, 8, 7, 7)
    keys = [block.attn.rel_pos.sizes[1] for block in model.blocks]
    assert [size[1] for size in keys] == [7, 14, 7, 14] + [7] * 10 + [14, 7]


def test_tokens_reach_inserts_as_views() -> None:
    model = small().build()
    state = model.stem(torch.randn(1, 3, 8, 32, 32))
    assert model.to_grid(state).data_ptr() == state.tokens.data_ptr()
    grid = model.to_grid(state)
    assert model.from_grid(grid, state).tokens.data_ptr() == grid.data_ptr()


def test_readout() -> None:
    video = torch.randn(2, 3, 8, 32, 32)
    for cls_token in (False, True):
        model = small(cls_token=cls_token, classes=0).build().eval()
        state = model._run(video, None)
        tokens = F.layer_norm(state.tokens, (64,), model.norm.weight, model.norm.bias, eps=1e-6)
        torch.testing.assert_close(model(video), tokens[:, 0] if cls_token else tokens.mean(1))


def test_drop_path_and_checkpointing() -> None:
    model = small(drop_path=0.3).build()
    assert [block.drop_path.drop_prob for block in model.blocks] == pytest.approx([0, 0.1, 0.2, 0.3])
    video = torch.randn(2, 3, 8, 32, 32)
    grads = []
    for checkpointing in (False, True):
        model.config.activation_checkpointing = checkpointing
        model.zero_grad()
        torch.manual_seed(3)
        model.train()(video).square().sum().backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads))


@pytest.mark.full  # tests/contract compiles other models for training, in the fast suite
def test_compiles_in_one_graph() -> None:
    model = randomised(small(cls_token=True, inserts=[Insert(layer=STAN(), at=1)]).build())
    video = torch.randn(2, 3, 8, 32, 32)
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(video), model(video), atol=1e-5, rtol=1e-5)


def test_autocast() -> None:
    model = randomised(small(cls_token=True).build())
    video = torch.randn(2, 3, 8, 32, 32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        low = model(video)
    assert low.dtype == torch.bfloat16
    exact = model(video)
    assert (low - exact).abs().max() < 0.05 * exact.abs().max()


def test_every_parameter_is_trained() -> None:
    model = small().build()
    model(torch.randn(2, 3, 8, 32, 32)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_tiny_is_tiny() -> None:
    cost = count(mvitv2_tiny())
    assert cost.params < 2e6 and cost.macs < 0.7e9
    assert len(mvitv2_tiny().depths) == 3 and sum(mvitv2_tiny().depths) >= 4


def test_unfit_sizes_are_refused() -> None:
    with pytest.raises(GestaError, match="same number of stages"):
        small(heads=(1, 2)).build()
    with pytest.raises(GestaError, match="divisible"):
        small(heads=(1, 3, 4)).build()
    with pytest.raises(GestaError, match="an MViT needs at least one stage"):
        small(depths=(), widths=(), heads=()).build()
