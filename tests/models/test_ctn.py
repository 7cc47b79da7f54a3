"""CTN: integers of the specification, ViT and ViViT as special cases, the invariants of convolutional mapping."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conftest import fast_first
from gesta.checkpoint.weights import import_weights
from gesta.config import replace, reset_unused
from gesta.cost import count
from gesta.errors import GestaError
from gesta.layers.attentive import Attentive
from gesta.model import ClipSpec
from gesta.models import model_config
from gesta.models.ctn import CTN, Attention, CTNConfig, DepthwiseConv, State

SMALL = CTNConfig(
    width=48, depth=3, heads=4, patch=8, stem_kernel=3, stem_channels=6, classes=5, clip=ClipSpec(frames=4, size=32)
)
VIDEO = torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(3))


def small(**changes: Any) -> CTN:
    torch.manual_seed(0)
    config = replace(SMALL, **changes)
    reset_unused(config, changes)
    made = config.build()
    assert isinstance(made, CTN)
    return made.eval()


def shaken(module: nn.Module, std: float = 0.2) -> Any:
    """All parameters and running statistics away from where they start, in float64."""
    torch.manual_seed(1)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=std)
    for name, buffer in module.named_buffers():
        if name.endswith("running_mean"):
            nn.init.normal_(buffer, std=std)
        elif name.endswith("running_var"):
            nn.init.uniform_(buffer, 0.5, 2)
    return module.double().eval()


def in_float64(build: Callable[[], Any]) -> Any:
    """What starts exact in float64: √(1 + eps) of float32 is not."""
    torch.set_default_dtype(torch.float64)
    try:
        return build()
    finally:
        torch.set_default_dtype(torch.float32)


def image_vit(size: int = 32) -> nn.Module:
    vit = timm.create_model(
        "vit_base_patch16_224", img_size=size, patch_size=8, embed_dim=48, depth=3, num_heads=4, num_classes=5
    )
    return shaken(vit)


# --- costs: integers of the specification, §3 -------------------------------------------------------------------------

STEM4 = {"stem_stride": 4, "stem_channels": 64, "stem_pool": False, "stem_norm": False}
COSTS: list[tuple[str, dict[str, Any], float, float]] = [
    # millions of parameters with 48 classes and GMACs of 8 frames, both to three digits
    ("ctn_b", {}, 86.218, 82.148),
    ("ctn_b_eq", {}, 86.216, 82.148),
    ("ctn_a", {}, 85.914, 81.953),
    ("ctn_b", {"mapping_kernel": 5}, 86.660, 82.495),
    ("ctn_b", {"mapping_norm": False}, 86.163, 82.148),
    ("ctn_b", STEM4, 87.037, 81.112),
    ("ctn_b", STEM4 | {"stem_kernel": 5}, 86.996, 80.062),
    ("ctn_b", {"positions": "learned"}, 86.821, 82.148),
    ("ctn_b", {"embed": "tube", "positions": "learned"}, 87.181, 79.152),
    ("ctn_b", {"time_strides": (2, 2)}, 86.218, 19.303),
    ("ctn_b", {"time_strides": (2, 1)}, 86.218, 38.284),
    ("ctn_b", {"time_strides": (2, 1), "patch_frames": 1}, 85.825, 80.188),
]


@pytest.mark.parametrize(("name", "changes", "params", "macs"), fast_first(COSTS, 4))
def test_costs(name: str, changes: dict[str, Any], params: float, macs: float) -> None:
    found = count(model_config(name, classes=48, **changes))
    assert (round(found.params / 1e6, 3), round(found.macs / 1e9, 3)) == (params, macs)


@pytest.mark.full  # the fast suite counts these models in other settings
def test_costs_to_the_unit() -> None:
    assert count(model_config("ctn_b", classes={"verb": 97, "noun": 300})).params == 86_486_381
    pre, post = (count(model_config(name, classes=48)) for name in ("ctn_b", "ctn_b_eq"))
    assert pre.params - post.params == 1536 and pre.macs == post.macs == 82_148_038_656
    public = count(model_config("vivit_b"))
    assert public.params == 88_954_000 and round(public.macs / 1e9, 1) == 451.5
    for frames, ctn, vivit in ((8, 82.1, 79.0), (16, 186.9, 180.5), (32, 464.3, 451.5)):
        clip = ClipSpec(frames=frames)
        assert round(count(model_config("ctn_b", clip=clip)).macs / 1e9, 1) == ctn
        assert round(count(model_config("vivit_b", clip=clip)).macs / 1e9, 1) == vivit
    long = model_config("ctn_b", classes=48, positions="learned", clip=ClipSpec(frames=32))
    assert round(count(long).params / 1e6, 3) == 88.627  # the paper's 88.6: with ViViT's table of 3,137 positions


# --- the convolutional mapping ----------------------------------------------------------------------------------------


def mapping(**changes: Any) -> Attention:
    return shaken(Attention(replace(SMALL, **changes)))


@pytest.mark.parametrize("dims", [2, 3])
def test_identity_kernels_are_the_linear_mapping(dims: int) -> None:
    """Invariant 1, class token included, for a fresh convolution and batch norm."""
    config = replace(SMALL, mapping_dims=dims)
    linear = shaken(Attention(replace(config, mapping="linear")))
    conv = in_float64(lambda: Attention(config)).eval()
    assert conv.load_state_dict(linear.state_dict(), strict=False).unexpected_keys == []
    tokens = torch.randn(2, 33, 48, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(conv(tokens, (2, 4, 4)), linear(tokens, (2, 4, 4)), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("dims", [2, 3])
def test_evaluation_is_the_unfolded_convolution_and_norm(dims: int) -> None:
    """Invariant 3: the folded kernel gives what convolution and batch norm give one after the other."""
    conv: DepthwiseConv = shaken(DepthwiseConv(replace(SMALL, mapping_dims=dims, mapping_kernel=5)))
    grid = torch.randn(2, 2, 4, 6, 48, dtype=torch.float64)
    planes = grid.flatten(0, 1).permute(0, 3, 1, 2) if dims == 2 else grid.permute(0, 4, 1, 2, 3)
    with torch.no_grad():
        slow = conv.norm(conv.conv(planes))
        slow = slow.permute(0, 2, 3, 1).unflatten(0, (2, 2)) if dims == 2 else slow.permute(0, 2, 3, 4, 1)
        torch.testing.assert_close(conv(grid), slow, atol=1e-12, rtol=1e-12)


def test_mapping_is_that_of_the_equation() -> None:
    """4.6 by hand: planes one by one, convolution, batch norm and a 1 × 1 convolution with channels first."""
    attn = mapping()
    assert attn.depthwise is not None
    tokens = torch.randn(2, 33, 48, dtype=torch.float64)
    with torch.no_grad():
        parts = []
        for i, part in enumerate("qkv"):
            rows = slice(48 * i, 48 * (i + 1))
            weight, bias = attn.qkv.weight[rows], attn.qkv.bias[rows]
            planes = tokens[:, 1:].view(2, 2, 4, 4, 48).permute(1, 0, 4, 2, 3)
            module: Any = attn.depthwise[part]
            maps = [F.conv2d(module.norm(module.conv(plane)), weight[:, :, None, None], bias) for plane in planes]
            patches = torch.stack(maps, 2).flatten(2).mT
            parts.append(torch.cat([F.linear(tokens[:, :1], weight, bias), patches], 1))
        q, k, v = (part.view(2, 33, 4, 12).transpose(1, 2) for part in parts)
        mixed = (q @ k.mT / 12**0.5).softmax(-1) @ v
        expected = attn.proj(mixed.transpose(1, 2).reshape(2, 33, 48))
        torch.testing.assert_close(attn(tokens, (2, 4, 4)), expected, atol=1e-12, rtol=1e-12)


def test_planes_do_not_leak_and_interiors_shift() -> None:
    """Invariant 4; with three dimensions neighbouring planes do."""
    flat, deep = (shaken(DepthwiseConv(replace(SMALL, mapping_dims=dims))) for dims in (2, 3))
    grid = torch.randn(1, 4, 8, 8, 48, dtype=torch.float64)
    other = grid.clone()
    other[:, 2] += 1
    with torch.no_grad():
        changed = [
            (a != b).flatten(2).any(2)[0].tolist() for a, b in ((flat(grid), flat(other)), (deep(grid), deep(other)))
        ]
        assert changed == [[False, False, True, False], [False, True, True, True]]
        shifted = flat(grid.roll((1, 2), (2, 3)))
        torch.testing.assert_close(
            shifted[:, :, 2:-1, 3:-1], flat(grid).roll((1, 2), (2, 3))[:, :, 2:-1, 3:-1], atol=1e-12, rtol=0
        )


def test_without_positions_order_reaches_only_through_convolutions() -> None:
    """Invariant 8: permutations of tokens, and of planes, after the stem."""
    state = State(torch.randn(2, 1 + 4 * 16, 48, dtype=torch.float64), (4, 4, 4))

    def token(model: CTN, order: Tensor) -> Tensor:
        shuffled = torch.cat([state.tokens[:, :1], state.tokens[:, 1:][:, order]], 1)
        now = State(shuffled, state.size)
        for block in model.blocks:
            now = block(now)
        return model.pool(now)

    still, tokens = torch.arange(64), torch.randperm(64, generator=torch.Generator().manual_seed(0))
    planes = still.view(4, 16)[[2, 0, 3, 1]].flatten()
    linear, conv, deep = (shaken(small(**c), 0.1) for c in ({"mapping": "linear"}, {}, {"mapping_dims": 3}))
    with torch.no_grad():
        for model, order in ((linear, tokens), (linear, planes), (conv, planes)):
            torch.testing.assert_close(token(model, order), token(model, still), atol=1e-10, rtol=1e-10)
        for model, order in ((conv, tokens), (deep, planes)):
            assert (token(model, order) - token(model, still)).abs().max() > 1e-5


def test_order_of_long_clips_needs_temporal_positions() -> None:
    """Frames beyond a token's reach, far from the ends, may change places unseen; ``temporal`` positions see them."""
    clip = ClipSpec(frames=32, size=32)
    video = torch.zeros(1, 3, 32, 32, 32, dtype=torch.float64)
    early, late = video.clone(), video.clone()
    flash = torch.randn(3, 2, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    early[0, :, 10:12], late[0, :, 20:22] = flash, flash
    with torch.no_grad():
        blind = shaken(small(clip=clip))
        torch.testing.assert_close(blind(early), blind(late), atol=1e-10, rtol=1e-10)
        for positions in ("temporal", "learned"):
            sees = shaken(small(clip=clip, positions=positions))
            assert (sees(early) - sees(late)).abs().max() > 1e-5


# --- blocks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"norm": "post"}, {"mapping": "linear"}, {"mapping_dims": 3}])
def test_last_block_for_the_class_token_alone_is_exact(changes: dict[str, Any]) -> None:
    """Invariant 12, gradients included."""
    outcomes = []
    for all_tokens in (False, True):
        model = shaken(small(**changes)).train()
        state = model.stem(VIDEO.double())._replace(all_tokens=all_tokens)
        for block in model.blocks:
            state = block(state)
        assert state.tokens.shape[1] == (33 if all_tokens else 1)
        scores = model.classifier(model.pool(state))
        scores.square().sum().backward()
        outcomes.append([scores.detach()] + [p.grad for p in model.parameters() if p.requires_grad])
    for fast, slow in zip(*outcomes):
        torch.testing.assert_close(fast, slow, atol=1e-10, rtol=1e-8)


def test_the_map_of_the_last_block_is_there_for_those_who_look() -> None:
    model = shaken(small())
    with torch.no_grad():
        state, sizes = model.stem(VIDEO.double()), []
        for block in model.blocks:
            state = block(state)
        looked = model.taps(VIDEO.double(), ["block.2"])["block.2"]
        torch.testing.assert_close(looked, model.to_grid(state))
        handle = model.blocks[2].register_forward_hook(lambda _, __, state: sizes.append(state.tokens.shape[1]))
        model(VIDEO.double())
        model.taps(VIDEO.double(), ["stem"])
        handle.remove()
    assert sizes == [1, 33]


def test_what_is_never_read_is_not_trained() -> None:
    model = small().train()
    unread = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert unread and all(name.startswith("blocks.2.attn.depthwise.q.") for name in unread)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model(VIDEO).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    moved = {name for name, value in model.named_buffers() if not torch.equal(value, before[name])}
    assert moved and not any(name.startswith("blocks.2.attn.depthwise.q.") for name in moved)


def test_where_all_tokens_are_read_all_parts_are_trained() -> None:
    model = small(attentive=Attentive(heads=2)).train()
    last = model.blocks[-1].attn.depthwise["q"]
    assert all(p.requires_grad for p in model.parameters()) and all(part.training for part in last.modules())
    model(VIDEO).square().sum().backward()
    moved = torch.cat([p.grad.flatten() for p in last.parameters() if p.grad is not None])
    assert len(moved) == sum(p.numel() for p in last.parameters()) and moved.abs().max() > 0
    last.requires_grad_(False)  # as a linear probe does
    assert not any(part.training for part in model.train().blocks[-1].attn.depthwise["q"].modules())


def test_norms_stand_where_the_equations_have_them() -> None:
    """4.1 and 4.2 by hand, and their pre-norm form."""
    tokens = torch.randn(2, 33, 48, dtype=torch.float64)
    for norm in ("post", "pre"):
        block = shaken(small(norm=norm)).blocks[0]
        size = (2, 4, 4)
        with torch.no_grad():
            if norm == "post":
                middle = block.norm1(tokens + block.attn(tokens, size))
                expected = block.norm2(middle + block.mlp(middle))
            else:
                middle = tokens + block.attn(block.norm1(tokens), size)
                expected = middle + block.mlp(block.norm2(middle))
            torch.testing.assert_close(block(State(tokens, size)).tokens, expected)


# --- video to tokens --------------------------------------------------------------------------------------------------


def test_stem_is_that_of_the_equation_and_has_no_activation() -> None:
    """4.5 by hand; invariant 6."""
    model = shaken(small())
    stem = model.video_to_tokens
    with torch.no_grad():
        normed = stem.norm(F.conv3d(VIDEO.double(), stem.conv.weight, stride=(1, 2, 2), padding=1))
        pooled = F.max_pool3d(normed, 3, (1, 2, 2), 1)
        assert (pooled < 0).any() and stem.conv.bias is None
        patches = F.conv3d(pooled, stem.patches.weight, stem.patches.bias, stride=(2, 2, 2))
        torch.testing.assert_close(model.to_grid(model.stem(VIDEO.double())), patches)
        rectified = shaken(small(stem_relu=True)).video_to_tokens
        assert (rectified.relu(rectified.norm(rectified.conv(VIDEO.double()))) >= 0).all()


@pytest.mark.parametrize(
    ("changes", "grid"),
    [
        ({}, (768, 4, 14, 14)),
        ({"time_strides": (2, 2)}, (768, 1, 14, 14)),
        ({"time_strides": (2, 1)}, (768, 2, 14, 14)),
        ({"time_strides": (2, 1), "patch_frames": 1}, (768, 4, 14, 14)),
        (STEM4, (768, 4, 14, 14)),
        (STEM4 | {"stem_kernel": 5}, (768, 4, 14, 14)),
        ({"embed": "tube"}, (768, 4, 14, 14)),
    ],
)
def test_grids(changes: dict[str, Any], grid: tuple[int, ...]) -> None:
    """Invariant 5, for 8 frames of 224 × 224."""
    with torch.device("meta"):
        model = model_config("ctn_b", depth=1, **changes).build()
        stem = model.to_grid(model.stem(torch.empty(1, 3, 8, 224, 224)))
    assert tuple(stem.shape[1:]) == grid == model.grid_at(0)


# --- weights ----------------------------------------------------------------------------------------------------------


def test_identity_kernels_are_the_image_vit() -> None:
    """Invariant 2: one frame, its patches, ViT's weights; every parameter of the ViT finds its place."""
    vit = image_vit()
    model = small(embed="tube", patch_frames=1, positions="learned", clip=ClipSpec(frames=1, size=32)).double()
    report = import_weights(model, vit.state_dict())
    assert not report.unexpected and not report.mismatched
    assert all(".attn.depthwise." in name for name in report.missing)
    image = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(model(image[:, :, None]), vit(image), atol=1e-6, rtol=0)


def test_image_vit_becomes_the_central_frame_of_tubes() -> None:
    """Each plane's tokens are those of its central frame, with the image's positions."""
    vit: Any = image_vit()
    model = small(embed="tube", positions="learned").double()
    report = import_weights(model, vit.state_dict())
    assert not report.unexpected and not report.mismatched
    with torch.no_grad():
        stem = model.stem(VIDEO.double()).tokens
        for plane, frame in enumerate((1, 3)):
            image = vit._pos_embed(vit.patch_embed(VIDEO.double()[:, :, frame]))
            torch.testing.assert_close(stem[:, 1 + 16 * plane : 17 + 16 * plane], image[:, 1:])
            torch.testing.assert_close(stem[:, :1], image[:, :1])


def test_what_does_not_fit_is_reported() -> None:
    weights = image_vit().state_dict()
    report = import_weights(small(), weights)
    assert set(report.unexpected) == {"pos_embed", "patch_embed.weight", "patch_embed.bias"}
    assert not report.mismatched and report.matched_fraction > 0.9
    with pytest.warns(UserWarning, match="has them after"):
        import_weights(small(norm="post"), weights)


def vivit_scores(weights: dict[str, Tensor], video: Tensor, heads: int) -> Tensor:
    """ViViT with joint attention, written down from its paper (§3.3, model 1) over public names of weights."""
    w = weights
    kernel = w["vivit.embeddings.patch_embeddings.projection.weight"]
    x = F.conv3d(video, kernel, w["vivit.embeddings.patch_embeddings.projection.bias"], kernel.shape[2:]).flatten(2).mT
    x = torch.cat([w["vivit.embeddings.cls_token"].expand(len(x), -1, -1), x], 1)
    x = x + w["vivit.embeddings.position_embeddings"]

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-6)

    for i in range(3):
        layer = f"vivit.encoder.layer.{i}"
        normed = norm(f"{layer}.layernorm_before", x)
        q, k, v = (
            linear(f"{layer}.attention.attention.{part}", normed).unflatten(2, (heads, -1)).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        mixed = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v
        x = x + linear(f"{layer}.attention.output.dense", mixed.transpose(1, 2).flatten(2))
        hidden = F.gelu(linear(f"{layer}.intermediate.dense", norm(f"{layer}.layernorm_after", x)), approximate="tanh")
        x = x + linear(f"{layer}.output.dense", hidden)
    return linear("classifier", norm("vivit.layernorm", x)[:, 0])


def public_vivit() -> dict[str, Tensor]:
    torch.manual_seed(2)
    shapes: dict[str, tuple[int, ...]] = {
        "vivit.embeddings.cls_token": (1, 1, 48),
        "vivit.embeddings.position_embeddings": (1, 33, 48),
        "vivit.embeddings.patch_embeddings.projection.weight": (48, 3, 2, 8, 8),
        "vivit.embeddings.patch_embeddings.projection.bias": (48,),
    }
    linear = {"classifier": (5, 48)}
    norms = ["vivit.layernorm"]
    for i in range(3):
        layer = f"vivit.encoder.layer.{i}"
        linear |= {f"{layer}.attention.attention.{part}": (48, 48) for part in ("query", "key", "value")}
        linear |= {f"{layer}.attention.output.dense": (48, 48), f"{layer}.intermediate.dense": (192, 48)}
        linear |= {f"{layer}.output.dense": (48, 192)}
        norms += [f"{layer}.layernorm_before", f"{layer}.layernorm_after"]
    for name, shape in linear.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for name in norms:
        shapes |= {f"{name}.weight": (48,), f"{name}.bias": (48,)}
    return {name: 0.2 * torch.randn(shape, dtype=torch.float64) for name, shape in shapes.items()}


@pytest.mark.parametrize("mapping", ["linear", "conv"])
def test_public_vivit(mapping: str) -> None:
    model = small(embed="tube", positions="learned", gelu="tanh", mapping=mapping).double()
    weights = public_vivit()
    report = import_weights(model, weights)
    assert not report.unexpected and not report.mismatched
    assert (report.matched_fraction == 1) == (mapping == "linear")
    with torch.no_grad():
        torch.testing.assert_close(model(VIDEO.double()), vivit_scores(weights, VIDEO.double(), 4), atol=1e-6, rtol=0)


def test_positions_of_another_clip() -> None:
    long, short = small(positions="learned", clip=ClipSpec(frames=8, size=32)), small(positions="learned")
    with pytest.warns(UserWarning, match="resized to 65 vectors"):
        import_weights(long, {name: value.clone() for name, value in short.state_dict().items()})
    planes = long.pos_embed[:, 1:].unflatten(1, (4, 16))
    assert torch.equal(planes[:, ::2], planes[:, 1::2])
    assert torch.equal(planes[:, ::2].flatten(1, 2), short.pos_embed[:, 1:])
    clip = torch.randn(1, 3, 8, 32, 32)
    with torch.no_grad():  # and on the fly
        torch.testing.assert_close(short.embed(clip), long.embed(clip))
        assert short.embed(torch.randn(1, 3, 4, 64, 32)).isfinite().all()
        longer = small(positions="temporal")
        nn.init.normal_(longer.time_embed)
        assert longer.embed(clip).isfinite().all()


def test_heads_start_at_zero() -> None:
    """Invariant 11 beside the contract's: fresh scores are 0, one linear layer per label space."""
    scores = small(classes={"verb": 4, "noun": 6})(VIDEO)
    assert {name: tuple(s.shape) for name, s in scores.items()} == {"verb": (2, 4), "noun": (2, 6)}
    assert not any(s.any() for s in scores.values())
    assert small().no_weight_decay() == {"cls_token"}
    assert small(positions="temporal").no_weight_decay() == {"cls_token", "time_embed"}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"patch": 5}, "patches of 5 pixels|stem of stride 4 cannot make patches of 5 pixels"),
        ({"heads": 5}, "5 heads need a width"),
        ({"mapping_kernel": 4}, "must be odd, not 4 and 3"),
        ({"stem_pool": False, "time_strides": (1, 2)}, "time_strides is 1 2, and the second is of the pooling"),
        ({"clip": ClipSpec(frames=5, size=32)}, "a clip of 5 frames gives 5 to embed, which patches of 2 do not tile"),
        ({"clip": ClipSpec(frames=4, size=36)}, "patches of 8 pixels do not tile a clip of 36 × 36 pixels"),
    ],
)
def test_impossible_sizes_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(GestaError, match=sentence):
        small(**changes)
    with pytest.raises(GestaError, match="a clip of 3 frames"):
        small()(torch.zeros(1, 3, 3, 32, 32))


@torch.no_grad()
def test_features_have_a_map_though_scores_need_the_class_token_alone() -> None:
    model, clip = small().eval(), VIDEO
    state = model.forward_features(clip)
    assert model.to_grid(state).shape == (2, *model.grid_at(len(model.blocks)))
    assert torch.equal(model.to_grid(state), model.taps(clip, ["block.2"])["block.2"])
    torch.testing.assert_close(model.forward_head(state, pre_logits=True), model.embed(clip))
