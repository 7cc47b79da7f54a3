"""STD-Former: the specification's integers, its equations in float64, CLIP as a special case, the invariants."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

import gesta.models.std_former_parts as parts
from conftest import fast_first
from gesta.checkpoint.weights import import_weights
from gesta.config import replace
from gesta.cost import count
from gesta.errors import GestaError
from gesta.model import ClipSpec
from gesta.models import model_config
from gesta.models.std_former import STDFormer, STDFormerConfig
from gesta.models.std_former_parts import CTM, PTM, Tubelets
from gesta.plugins.smem import MotionExcitation
from gesta.plugins.stdm import Diffusion

SMALL = STDFormerConfig(
    width=24,
    depth=4,
    heads=3,
    patch=8,
    ptm_layers=(2, 3),
    smem=(("T", 1),),
    classes=5,
    clip=ClipSpec(frames=8, sampling="uniform", size=32),
)
VIDEO = torch.randn(2, 3, 8, 32, 32, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def small(**changes: Any) -> STDFormer:
    torch.manual_seed(0)
    made = replace(SMALL, **changes).build()
    assert isinstance(made, STDFormer)
    return made.double().eval()


def shaken(model: Any, std: float = 0.2) -> Any:
    """All parameters and running statistics away from where they start."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=std)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            nn.init.normal_(buffer, std=std)
        elif name.endswith("running_var"):
            nn.init.uniform_(buffer, 0.5, 2)
    return model.double().eval()


# --- the equations, as the paper's words give them, with other layouts than the model's ------------------------------


class Written:
    """The whole network on (B, C, T, H, W) maps and (B·T, 1 + N, C) tokens, with PyTorch's own functions."""

    def __init__(self, model: STDFormer) -> None:
        self.c, self.w = model.config, dict(model.state_dict())

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.w[f"{name}.weight"], self.w.get(f"{name}.bias"))

    def ln(self, name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.w[f"{name}.weight"], self.w[f"{name}.bias"])

    def bn(self, name: str, x: Tensor) -> Tensor:
        if f"{name}.running_mean" not in self.w:
            return self.ln(name, x.movedim(1, -1)).movedim(-1, 1)
        stats = [self.w[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *stats)

    def conv(self, name: str, x: Tensor, **options: Any) -> Tensor:
        """Any convolution; a linear layer is one of size 1."""
        weight, bias = self.w[f"{name}.weight"], self.w.get(f"{name}.bias")
        if weight.dim() == 2:
            weight = weight.view(*weight.shape, *[1] * (x.dim() - 2))
        groups = x.shape[1] // weight.shape[1]
        padding = options.pop("padding", tuple(k // 2 for k in weight.shape[2:]))
        run = F.conv3d if x.dim() == 5 else F.conv2d
        return run(x, weight, bias, padding=padding, groups=groups, **options)

    def ffn(self, name: str, x: Tensor) -> Tensor:
        x = self.linear(f"{name}.0", x)
        return self.linear(f"{name}.2", x / (1 + torch.exp(-1.702 * x)) if self.c.gelu == "quick" else F.gelu(x))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """``(S, L, C)`` with the heads in C."""
        q, k, v = (x.unflatten(2, (self.c.heads, -1)).transpose(1, 2) for x in (q, k, v))
        return ((q @ k.mT) * q.shape[-1] ** -0.5).softmax(-1).matmul(v).transpose(1, 2).flatten(2)

    def patches(self, x: Tensor) -> Tensor:
        return x[:, 1:].view(self.batch, self.frames, *self.size, -1).permute(0, 4, 1, 2, 3)

    def tokens(self, cls: Tensor, grid: Tensor) -> Tensor:
        return torch.cat([cls, grid.permute(0, 2, 3, 4, 1).reshape(len(cls), -1, grid.shape[1])], 1)

    def sites(self, grid: Tensor) -> Tensor:
        return grid.permute(0, 3, 4, 2, 1).reshape(-1, grid.shape[2], grid.shape[1])

    def grid(self, sites: Tensor) -> Tensor:
        return sites.view(self.batch, *self.size, *sites.shape[1:]).permute(0, 4, 3, 1, 2)

    def mha(self, name: str, x: Tensor) -> Tensor:
        if self.c.ptm_attention == "joint" and ".spatial" in name and int(name.split(".")[1]) in self.c.ptm_layers:
            long = x.view(self.batch, -1, x.shape[-1])
        else:
            long = x
        q, k, v = self.linear(f"{name}.qkv", long).chunk(3, -1)
        return self.linear(f"{name}.proj", self.attend(q, k, v)).view(x.shape)

    def adjacent(self, name: str, grid: Tensor) -> Tensor:
        batch, _, frames, height, width = grid.shape
        x = self.bn(f"{name}.norm1", self.conv(f"{name}.reduce", grid)).relu()
        if self.c.conv_kind == "3d":
            x = self.conv(f"{name}.conv", x)
        elif self.c.conv_plane == "time_space":
            x = self.conv(f"{name}.conv", x.flatten(3)).unflatten(3, (height, width))
        else:
            x = self.conv(f"{name}.conv", x.transpose(1, 2).flatten(0, 1)).unflatten(0, (batch, frames)).transpose(1, 2)
        return self.conv(f"{name}.expand", self.bn(f"{name}.norm2", x).relu())

    def ptm(self, name: str, x: Tensor) -> Tensor:
        grid = self.patches(x)
        normed = self.bn(f"{name}.dpe.norm", grid) if self.c.dpe_norm == "bn" else grid
        encoded = self.conv(
            f"{name}.dpe.expand", self.conv(f"{name}.dpe.time", self.conv(f"{name}.dpe.reduce", normed))
        )
        u = self.tokens(x[:, :1], grid + encoded)
        y1 = self.mha(f"{name}.attn", self.ln(f"{name}.norm1", u))
        y2 = self.ffn(f"{name}.mlp", self.ln(f"{name}.norm2", u))
        y3 = torch.zeros_like(u)
        if self.c.conv_placement != "none":
            source = u if self.c.conv_placement == "residual" else y1
            y3 = self.tokens(torch.zeros_like(x[:, :1]), self.adjacent(f"{name}.conv", self.patches(source)))
        if self.c.conv_placement == "attention":
            y1, y3 = y1 + y3, torch.zeros_like(u)
        alpha, beta = (self.w.get(f"{name}.{part}", getattr(self.c, part)) for part in ("alpha", "beta"))
        return {"plain": u, "scaled": beta * u, "none": 0}[self.c.ptm_identity] + y1 + alpha * y2 + beta * y3

    def block(self, name: str, x: Tensor) -> Tensor:
        x = x + self.mha(f"{name}.attn", self.ln(f"{name}.norm1", x))
        return x + self.ffn(f"{name}.mlp", self.ln(f"{name}.norm2", x))

    def ctm(self, name: str, grid: Tensor, z: Tensor, token: Tensor | None = None) -> Tensor:
        q = self.sites(grid + self.conv(f"{name}.cpe", grid))
        if token is not None:
            q = torch.cat([q, token])
        k, v = self.linear(f"{name}.kv", self.ln(f"{name}.norm_kv", z)).chunk(2, -1)
        a = self.linear(f"{name}.proj", self.attend(self.linear(f"{name}.q", self.ln(f"{name}.norm_q", q)), k, v))
        u = a + {"query": q, "memory": z, "both": q + z}[self.c.ctm_residual]
        return u + self.ffn(f"{name}.mlp", self.ln(f"{name}.norm2", u))

    def stdm(self, name: str, z: Tensor) -> Tensor:
        x = self.bn(f"{name}.norm1", self.conv(f"{name}.space", z))
        x = self.conv(f"{name}.mix", self.bn(f"{name}.norm2", self.conv(f"{name}.time", x)).relu())
        return self.w[f"{name}.gate"] * x.relu() if self.c.stdm_final_relu else x

    def smem(self, name: str, f: Tensor) -> Tensor:
        frames, (height, width) = f.shape[2], f.shape[3:]
        maps = [
            self.bn(f"{name}.estimate_norm", self.conv(f"{name}.estimate", f[:, :, t])).relu() for t in range(frames)
        ]
        added = []
        for t in range(frames):
            near, far = (maps[min(t + k, frames - 1)] for k in (1, 2))
            gone = [self.c.smem_edge == "zero" and t + k >= frames for k in (1, 2)]
            near, far = (torch.zeros_like(m) if g else m for m, g in zip((near, far), gone))
            pairs = [(maps[t], near), (maps[t] if self.c.smem_pairing == "anchor" else near, far)]
            parts = []
            if self.c.smem_fusion != "add":
                for a, b in pairs:
                    a, b = (x.flatten(2) / x.flatten(2).norm(dim=1, keepdim=True).clamp_min(1e-6) for x in (a, b))
                    parts.append((b.mT @ a).unflatten(2, (height, width)))  # targets as channels
            if self.c.smem_fusion != "mul":
                parts += [a + b for a, b in pairs]
            x = torch.cat(parts, 1)
            for i in range(3):
                x = self.conv(f"{name}.transform.{i}", x, stride=1 if i else 2)
                x = self.bn(f"{name}.transform_norms.{i}", x).relu()
            x = self.conv(f"{name}.excite", x)
            added.append(F.interpolate(x, (height, width), mode="bilinear", align_corners=False))
        return f + torch.stack(added, 2)

    def __call__(self, video: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, the last ST tokens and the last CTM's map."""
        c = self.c
        padding = (c.tubelet_kernel // 2, 0, 0)
        v = F.conv3d(video, self.w["patch_embed.weight"], stride=(c.tubelet_stride, c.patch, c.patch), padding=padding)
        self.batch, _, self.frames, *self.size = v.shape
        cls = self.w["cls_token"].expand(self.batch * self.frames, -1, -1)
        x = self.ln("norm_pre", self.tokens(cls, v.clone()) + self.w["pos_embed"])
        begin = self.tokens(cls, v.clone()) if c.memory_start == "stem" else x
        z, token = self.sites(self.patches(begin)), None
        if c.ctm_include_cls:
            z = torch.cat([z, begin[:, 0].unflatten(0, (self.batch, self.frames))])
        count = self.batch * self.size[0] * self.size[1]
        stdm = range(c.depth - 1) if c.stdm_layers is None else c.stdm_layers
        for i in range(c.depth):
            excited = [branch for branch, at in c.smem if at == i]
            before = c.smem_position == "before"
            name = f"blocks.{i}"

            def st(x: Tensor, name: str = name) -> Tensor:
                return self.tokens(x[:, :1], self.smem(f"{name}.motion.ST", self.patches(x)))

            def t(z: Tensor, name: str = name) -> Tensor:
                return torch.cat([self.sites(self.smem(f"{name}.motion.T", self.grid(z[:count]))), z[count:]])

            x = st(x) if "ST" in excited and before else x
            x = (self.ptm if i in c.ptm_layers else self.block)(f"{name}.spatial", x)
            x = st(x) if "ST" in excited and not before else x
            z = t(z) if "T" in excited and before else z
            token = x[:, 0].unflatten(0, (self.batch, self.frames)) if c.ctm_include_cls else None
            z = self.ctm(f"{name}.cross", self.patches(x), z, token)
            z = t(z) if "T" in excited and not before else z
            if i in stdm and i < c.depth - 1:
                x = self.tokens(x[:, :1], self.patches(x) + self.stdm(f"{name}.feedback", self.grid(z[:count])))
        last = self.grid(z[:count])
        features = last.mean((2, 3, 4))
        if c.ctm_include_cls:  # one more position
            positions = self.size[0] * self.size[1]
            features = (positions * features + z[count:].mean(1)) / (positions + 1)
        if c.head_input == "fused":
            share = self.w["balance"].sigmoid()
            features = share * x[:, 0].unflatten(0, (self.batch, -1)).mean(1) + (1 - share) * features
        return self.linear("classifier.linear", self.ln("norm_read", features)), x, last


SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "space": {"conv_plane": "space", "smem": (("ST", 1), ("T", 1)), "tubelet_kernel": 1},
    "3d": {"conv_kind": "3d", "stdm_kind": "dense", "cpe": "dense", "alpha": 0.5, "beta": 1.5, "gelu": "exact"},
    "attention": {"conv_placement": "attention", "ptm_attention": "joint", "smem_fusion": "add", "tubelet_stride": 1},
    "none": {
        "conv_placement": "none",
        "ptm_identity": "none",
        "dpe_norm": "none",
        "ctm_residual": "both",
        "smem_pairing": "chain",
    },
    "scaled": {"ptm_identity": "scaled", "learnable_alpha_beta": True, "smem_edge": "zero", "dpe_reduction": 2.0},
    "cls": {"ctm_include_cls": True, "head_input": "fused", "smem": (("T", 1), ("ST", 3)), "smem_position": "after"},
    "layer": {"norm": "layer", "ctm_residual": "memory", "stdm_final_relu": True, "smem_fusion": "mul+add"},
    "stem": {"memory_start": "stem", "ptm_identity": "none", "ctm_include_cls": True},
    "bare": {"ptm_layers": (), "stdm_layers": (), "smem": ()},
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_equations(setting: str) -> None:
    model = shaken(small(**SETTINGS[setting]))
    with torch.no_grad():
        logits, tokens, last = Written(model)(VIDEO)
        state = model._run(VIDEO, None)
        torch.testing.assert_close(state.tokens.transpose(0, 1).flatten(0, 1), tokens, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(model.to_grid(state), last, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(model(VIDEO), logits, rtol=1e-9, atol=1e-9)
        assert logits.std() > 0.1


# --- §3: numbers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "params", "gmacs"),
    fast_first(
        [
            ({}, 185_939_118, 296.38),
            ({"ptm_layers": (), "stdm_layers": (), "smem": ()}, 172_443_822, 276.15),
            ({"ptm_layers": tuple(range(12)), "conv_kind": "3d", "smem_fusion": "mul+add"}, None, 326.63),
            ({"ptm_attention": "joint"}, 185_939_118, 309.73),
            ({"ctm_mlp_ratio": 1.0, "smem_fusion": "add"}, None, 229.70),
            ({"tubelet_kernel": 1, "tubelet_stride": 1}, 184_759_470, 589.53),
            ({"cpe": "dense"}, None, 595.6),
            ({"stdm_kind": "dense"}, None, 418.3),
        ],
        2,
    ),
)
def test_costs(changes: dict[str, Any], params: int | None, gmacs: float) -> None:
    """The specification's table; where several settings change, the sum of its differences."""
    cost = count(model_config("std_former_b", classes=174, **changes))
    assert params in (None, cost.params)
    assert cost.macs / 1e9 == pytest.approx(gmacs, rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "params"),
    [
        ({"stdm_layers": (), "smem": ()}, 178_121_902),
        ({"ptm_layers": (), "smem": ()}, 179_075_502),
        ({"ptm_layers": (), "stdm_layers": ()}, 173_629_358),
        ({"ptm_layers": tuple(range(12))}, 197_295_278),
        ({"conv_kind": "3d"}, 188_593_326),
        ({"smem_fusion": "add"}, 185_787_054),
        ({"smem_fusion": "mul+add"}, 186_012_846),
        ({"ctm_mlp_ratio": 1.0}, 143_444_142),
    ],
)
def test_parameters(changes: dict[str, Any], params: int) -> None:
    with torch.device("meta"):
        model = model_config("std_former_b", classes=174, **changes).build()
    assert sum(p.numel() for p in model.parameters()) == params


def test_parts_cost_what_the_specification_says() -> None:
    with torch.device("meta"):
        model = model_config("std_former_b", classes=174).build()

    def millions(part: Any) -> float:
        return round(sum(p.numel() for p in part.parameters()) / 1e6, 2)

    layer = model.blocks[4]
    assert isinstance(model.blocks[8].spatial, PTM) and millions(model.blocks[8].spatial) == 8.51
    assert (millions(layer.spatial), millions(layer.cross), millions(layer.feedback)) == (7.09, 7.11, 0.60)
    assert millions(layer.motion["T"]) == 1.19 and millions(model.patch_embed) == 1.77
    assert [block.feedback is None for block in model.blocks] == [False] * 11 + [True]


# --- §6: invariants --------------------------------------------------------------------------------------------------


def test_shapes_and_other_sizes() -> None:
    model = small()
    state = model.stem(VIDEO)
    assert state.tokens.shape == (4, 2, 17, 24) and state.memory.shape == (4, 2, 16, 24)
    with torch.no_grad():
        assert model(torch.randn(1, 3, 6, 48, 40, dtype=torch.float64)).shape == (1, 5)
    with pytest.raises(GestaError, match="7 frames cannot be embedded with tubelet_stride=2"):
        model(VIDEO[:, :, :7])
    with pytest.raises(GestaError, match="8 pixels do not tile a clip of 30 × 32"):
        model(VIDEO[..., :30, :])


@pytest.mark.parametrize(("frames", "kernel", "stride"), [(8, 3, 2), (6, 1, 2), (5, 3, 1), (1, 3, 1), (2, 3, 2)])
def test_tubelets_are_the_convolution(frames: int, kernel: int, stride: int) -> None:
    tubelets = Tubelets(3, 6, 4, kernel, stride).double()
    video = torch.randn(2, 3, frames, 12, 8, dtype=torch.float64)
    expected = nn.Conv3d.forward(tubelets, video).permute(2, 0, 3, 4, 1)
    torch.testing.assert_close(tubelets(video), expected)


def clip_vit() -> nn.Module:
    return shaken(
        timm.create_model(
            "vit_base_patch16_clip_quickgelu_224",
            img_size=32,
            patch_size=8,
            embed_dim=24,
            depth=4,
            num_heads=3,
            num_classes=7,
        )
    )


def openai_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's state dict as OpenAI's checkpoints write it, with a text tower whose blocks have the same names."""
    names = {
        "patch_embed.proj.": "conv1.",
        "norm_pre.": "ln_pre.",
        "norm.": "ln_post.",
        "blocks.": "transformer.resblocks.",
        ".norm1.": ".ln_1.",
        ".norm2.": ".ln_2.",
        ".attn.qkv.": ".attn.in_proj_",
        ".attn.proj.": ".attn.out_proj.",
        ".mlp.fc1.": ".mlp.c_fc.",
        ".mlp.fc2.": ".mlp.c_proj.",
    }
    found = {}
    for name, value in weights.items():
        if name.startswith("head."):
            continue
        for theirs, openai in names.items():
            if (theirs.startswith(".") and theirs in name) or name.startswith(theirs):
                name = name.replace(theirs, openai, 1)
        found[f"visual.{name}"] = value
    found["visual.class_embedding"] = found.pop("visual.cls_token").flatten()
    found["visual.positional_embedding"] = found.pop("visual.pos_embed")[0]
    found["visual.proj"] = torch.randn(24, 12)
    found["transformer.resblocks.0.ln_1.weight"] = torch.randn(24)
    return found


@pytest.mark.parametrize("names", ["timm", "openai", "openai_image_part"])
def test_equals_clip_on_every_second_frame(names: str) -> None:
    """Without PTMs a fresh network's ST branch is CLIP on frames 0, 2, …, and the classifier reads CLIP's patches."""
    vit = clip_vit()
    weights = vit.state_dict()
    if names != "timm":
        weights = openai_names(weights)
    if names == "openai_image_part":
        weights = {n.removeprefix("visual."): v for n, v in weights.items() if n.startswith("visual.")}
    model = small(ptm_layers=())
    report = import_weights(model, weights, min_matched=0.1)
    assert not report.mismatched
    unused = {
        "timm": {"norm.weight", "norm.bias", "head.weight", "head.bias"},
        "openai": {"ln_post.weight", "ln_post.bias", "proj", "transformer.resblocks.0.ln_1.weight"},
        "openai_image_part": {"ln_post.weight", "ln_post.bias", "proj"},
    }
    assert set(report.unexpected) == unused[names]
    new = (".cross.", ".feedback.", ".motion.", "norm_read.", "classifier.")
    assert report.missing and all(any(part in f".{name}" for part in new) for name in report.missing)
    assert len(report.matched) == 5 + 4 * 12
    with torch.no_grad():
        frames = VIDEO[:, :, ::2].transpose(1, 2).flatten(0, 1)
        expected = vit.norm_pre(vit._pos_embed(vit.patch_embed(frames)))  # type: ignore[operator]
        expected = vit.blocks(expected)  # type: ignore[operator]
        state = model._run(VIDEO, None)
        torch.testing.assert_close(state.tokens.transpose(0, 1).flatten(0, 1), expected, rtol=0, atol=1e-9)
        assert torch.equal(state.memory, state.tokens[:, :, 1:])  # CLIP's own features, to the bit


def test_equals_clip_of_transformers() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import CLIPVisionConfig  # slow to import
        from transformers.models.clip.modeling_clip import CLIPVisionModel
    vit = shaken(CLIPVisionModel(CLIPVisionConfig(
        hidden_size=24, intermediate_size=96, num_hidden_layers=4, num_attention_heads=3, image_size=32, patch_size=8,
        layer_norm_eps=1e-5,
    )))  # fmt: skip
    prefix = "" if any(name.startswith("vision_model.") for name in vit.state_dict()) else "vision_model."
    weights = {prefix + name: value for name, value in vit.state_dict().items()}
    weights["text_model.encoder.layers.0.layer_norm1.weight"] = torch.randn(24)  # of the whole CLIP
    model = small(ptm_layers=())
    report = import_weights(model, weights, min_matched=0.1)
    assert not report.mismatched and len(report.matched) == 5 + 4 * 12
    assert all("post_layernorm" in n or "text_model" in n or "position_ids" in n for n in report.unexpected)
    with torch.no_grad():
        frames = VIDEO[:, :, ::2].transpose(1, 2).flatten(0, 1)
        expected = vit(frames).last_hidden_state  # type: ignore[operator]
        state = model._run(VIDEO, None)
        torch.testing.assert_close(state.tokens.transpose(0, 1).flatten(0, 1), expected, rtol=0, atol=1e-9)


def test_positions_of_another_size_are_resized_with_a_warning() -> None:
    weights = clip_vit().state_dict()
    model = small(clip=ClipSpec(frames=8, size=48))
    with pytest.warns(UserWarning, match="resized to 6 × 6"):
        import_weights(model, weights, min_matched=0.1)
    expected = timm.layers.resample_abs_pos_embed(weights["pos_embed"], [6, 6], num_prefix_tokens=1)
    torch.testing.assert_close(model.pos_embed.data, expected)


@pytest.mark.parametrize(
    ("name", "beside", "gelu"),
    [
        ("vit_base_patch16_clip_quickgelu_224.openai.safetensors", "", "quick"),
        ("vit_base_patch16_clip_224.openai.safetensors", "", "quick"),  # the same weights under another name
        ("vit_base_patch16_clip_224.laion2b.safetensors", "", "exact"),
        ("model.safetensors", '{"architecture": "vit_base_patch16_clip_quickgelu_224"}', "quick"),
        ("model.safetensors", '{"vision_config": {"hidden_act": "gelu"}}', "exact"),
        ("model.safetensors", "", None),
    ],
)
def test_weights_of_the_other_gelu_are_refused(name: str, beside: str, gelu: str | None, tmp_path: Path) -> None:
    save_file(clip_vit().state_dict(), tmp_path / name)
    if beside:
        (tmp_path / "config.json").write_text(beside)
    for ours in ("quick", "exact"):
        model = small(gelu=ours)
        if gelu in (ours, None):
            assert import_weights(model, tmp_path / name, min_matched=0.1).matched
        else:
            with pytest.raises(GestaError, match=f"set model.gelu {gelu}"):
                import_weights(model, tmp_path / name, min_matched=0.1)


def test_new_parts_change_nothing_at_the_start() -> None:
    """Eight settings, one answer: what starts at zero adds exactly nothing."""
    reference: Tensor | None = None
    for smem in ((), (("T", 1), ("ST", 2))):
        for stdm in ((), None):
            for placement in ("none", "residual"):
                model = small(smem=smem, stdm_layers=stdm, conv_placement=placement)
                if reference is None:
                    first = model
                model.load_state_dict(
                    first.state_dict() | {k: v for k, v in model.state_dict().items() if k not in first.state_dict()}
                )
                with torch.no_grad():
                    logits = model(VIDEO)
                reference = logits if reference is None else reference
                assert torch.equal(logits, reference)
    plain = small(ptm_layers=(), smem=(), stdm_layers=())
    plain.load_state_dict({k: v for k, v in first.state_dict().items() if k in plain.state_dict()})
    assert (plain(VIDEO) - reference).abs().max() > 1e-6  # but a PTM's FFN does not see its attention


def test_beta_is_learned_where_it_weighs_something() -> None:
    for placement, identity in (("residual", "plain"), ("attention", "plain"), ("none", "plain"), ("none", "scaled")):
        ptm = PTM(replace(SMALL, learnable_alpha_beta=True, conv_placement=placement, ptm_identity=identity))
        ptm(torch.randn(4, 2, 17, 24), (4, 4)).square().sum().backward()
        grads = {name: ptm.get_parameter(name).grad for name, _ in ptm.named_parameters() if name in ("alpha", "beta")}
        assert all(grad is not None for grad in grads.values())
        assert ("beta" in grads) == (placement == "residual" or identity == "scaled")


def test_parallel_form() -> None:
    """y(u) = u + MHA(LN u) + α FFN(LN u) + β Conv(u): α scales the FFN alone, β the convolution alone."""
    x, size = torch.randn(4, 2, 17, 24, dtype=torch.float64), (4, 4)
    outputs = {}
    for alpha, beta in ((0.0, 0.0), (1.0, 0.0), (3.0, 0.0), (0.0, 1.0), (0.0, 3.0), (3.0, 3.0)):
        ptm = shaken(PTM(replace(SMALL, alpha=alpha, beta=beta)))
        outputs[alpha, beta] = ptm(x, size)
    nothing = outputs[0, 0]
    torch.testing.assert_close(outputs[3, 0] - nothing, 3 * (outputs[1, 0] - nothing))
    torch.testing.assert_close(outputs[0, 3] - nothing, 3 * (outputs[0, 1] - nothing))
    torch.testing.assert_close(outputs[3, 3] - nothing, outputs[3, 0] + outputs[0, 3] - 2 * nothing)
    assert not (outputs[0, 1] - nothing)[:, :, 0].any()  # a class token is in no map
    u = torch.cat([x[:, :, :1], x[:, :, 1:] + ptm.dpe(x[:, :, 1:])], 2)
    torch.testing.assert_close(nothing, u + ptm.attn(ptm.norm1(u)))
    torch.testing.assert_close(outputs[1, 0] - nothing, ptm.mlp(ptm.norm2(u)))


@pytest.mark.parametrize("relu", [False, True])
def test_no_parameter_is_dead(relu: bool) -> None:
    model = small(stdm_final_relu=relu, learnable_alpha_beta=True, smem=(("T", 1), ("ST", 2))).float().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    generator, without = torch.Generator().manual_seed(0), []
    for _ in range(5):
        optimizer.zero_grad()
        video = torch.randn(4, 3, 8, 32, 32, generator=generator)
        F.cross_entropy(model(video), torch.tensor([0, 1, 2, 3])).backward()
        optimizer.step()
        dead = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
        without.append(len(dead))
    assert without[0] > without[1] > 0 and not dead, dead  # what starts at zero hides what is before it, at first


def grad_support(model: STDFormer, frame: int, place: int) -> Tensor:
    """Which token frames and pixels the first layer's memory of a frame and place depends on, ``(8, 32, 32)``."""
    video = VIDEO[:1].clone().requires_grad_()
    state = model.blocks[0](model.stem(video))
    state.memory[frame, 0, place].square().sum().backward()
    assert video.grad is not None
    return video.grad[0].abs().sum(0) > 0


def test_receptive_field() -> None:
    model = small(stdm_layers=(), smem=(), ptm_layers=(), tubelet_kernel=1)
    nn.init.normal_(model.blocks[0].cross.proj.weight)
    seen = grad_support(model, 1, 6)
    own = torch.zeros(8, 32, 32, dtype=torch.bool)
    own[:, 8:16, 16:24] = True  # place 6 is row 1, column 2
    expected = torch.zeros_like(own)
    expected[::2] = own[::2]  # other frames at the same place only; the tubelet takes every second frame
    expected[2] = True  # its own frame everywhere, through attention over space
    assert torch.equal(seen, expected)
    nn.init.zeros_(model.blocks[0].cross.proj.weight)
    expected[[0, 4, 6]] = False
    assert torch.equal(grad_support(model, 1, 6), expected)


@pytest.mark.parametrize("plane", ["time_space", "space"])
def test_plane_of_the_ptm_convolution(plane: str) -> None:
    ptm = shaken(PTM(replace(SMALL, conv_plane=plane)))
    x = torch.randn(5, 1, 16, 24, dtype=torch.float64, requires_grad=True)
    ptm.conv(x, (4, 4))[2, 0, 7].square().sum().backward()
    assert x.grad is not None
    seen = {(int(t), int(n)) for t, _, n in x.grad.abs().sum(-1).nonzero()}
    if plane == "time_space":  # place 7 ends a row, and place 8 begins the next
        assert seen == {(t, n) for t in (1, 2, 3) for n in (6, 7, 8)}
    else:
        assert seen == {(2, n) for n in (2, 3, 6, 7, 10, 11)}


def test_temporal_attention_does_not_know_places() -> None:
    ctm = shaken(CTM(SMALL))
    nn.init.zeros_(ctm.cpe.weight)
    nn.init.zeros_(ctm.cpe.bias)
    query, memory = torch.randn(2, 4, 2, 16, 24, dtype=torch.float64)
    order = torch.randperm(16)
    permuted = ctm(query[:, :, order], memory[:, :, order], (4, 4))
    torch.testing.assert_close(permuted, ctm(query, memory, (4, 4))[:, :, order])


def test_class_tokens_in_the_memory_change_the_scores() -> None:
    """No convolution and no position sees them, so they would change nothing if the mean left them out."""
    with torch.no_grad():
        one, other = (shaken(small(ctm_include_cls=include))(VIDEO) for include in (False, True))
    assert float((one - other).abs().max()) > 1e-3


@pytest.mark.parametrize("gelu", ["quick", "exact"])
def test_dropout_of_the_temporal_branch(gelu: Any) -> None:
    """Between the FFN's two layers, in training alone, and nowhere in the ST branch."""
    layers = small(gelu=gelu, ctm_dropout=0.5).train().blocks
    assert {layer.spatial.mlp.dropout for layer in layers} == {0.0}
    ffn, x = layers[0].cross.mlp.double(), torch.randn(3, 5, 24, dtype=torch.float64)
    hidden = ffn[0](x)
    hidden = hidden * torch.sigmoid(1.702 * hidden) if gelu == "quick" else F.gelu(hidden)
    torch.manual_seed(1)
    found = ffn(x)
    torch.manual_seed(1)
    torch.testing.assert_close(found, ffn[2](F.dropout(hidden.flatten(0, 1), 0.5).view_as(hidden)))
    torch.testing.assert_close(ffn.eval()(x), ffn[2](hidden))


def test_class_tokens_reach_the_memory_through_attention_over_space_only() -> None:
    for include in (False, True):
        model = shaken(small(ctm_include_cls=include))
        state = model.stem(VIDEO)
        moved = state.tokens.clone()
        moved[:, :, 0] += 1
        layer = model.blocks[0]
        layer.spatial = nn.Identity()
        layer.spatial.forward = lambda x, size: x  # type: ignore[method-assign]
        with torch.no_grad():
            changed = [layer(state._replace(tokens=x)).memory for x in (state.tokens, moved)]
        assert torch.equal(*changed) != include


def test_time_reversal_changes_the_scores() -> None:
    model = shaken(small())
    with torch.no_grad():
        assert (model(VIDEO.flip(2)) - model(VIDEO)).abs().max() > 1e-3


def test_pieces_of_places_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    ctm = shaken(CTM(replace(SMALL, temporal_pos_embed=True)))
    query, memory = torch.randn(2, 4, 2, 16, 24, dtype=torch.float64)
    whole = ctm.attend(query, memory)
    monkeypatch.setattr(parts, "PIECE", 7)
    torch.testing.assert_close(ctm.attend(query, memory), whole, rtol=1e-12, atol=1e-12)


def test_frame_embeddings_are_compared_with() -> None:
    model = small(temporal_pos_embed=True)
    assert model.no_weight_decay() >= {"pos_embed", "blocks.3.cross.time_embed"}
    shaken(model)
    with torch.no_grad():
        before = model(VIDEO)
        nn.init.normal_(model.blocks[2].cross.time_embed, std=2)
        assert (model(VIDEO) - before).abs().max() > 1e-6
        assert model(VIDEO[:, :, :4]).shape == (2, 5)  # other lengths: by nearest neighbour


def test_half_precision_is_near() -> None:
    model = small().float()
    shaken(model, 0.1).float()
    with torch.no_grad():
        full = model(VIDEO.float())
        with torch.autocast("cpu", torch.bfloat16):
            half = model(VIDEO.float()).float()
    torch.testing.assert_close(half, full, rtol=0, atol=0.03 * float(full.abs().max()))


def test_parts_stand_alone() -> None:
    grid = torch.randn(2, 24, 4, 5, 7)
    for part in (Diffusion(24), MotionExcitation(24, (5, 7))):
        assert torch.equal(part(grid), grid)
    tokens = torch.randn(4, 2, 36, 24)
    assert PTM(SMALL)(tokens, (5, 7)).shape == tokens.shape
    assert CTM(SMALL)(tokens[:, :, 1:], tokens[:, :, 1:], (5, 7)).shape == (4, 2, 35, 24)


def test_drop_path_drops_whole_clips() -> None:
    drop = parts.ClipDropPath(0.5).train()
    torch.manual_seed(0)
    kept = drop(torch.ones(3, 64, 5, 2))
    assert set(kept.unique().tolist()) == {0.0, 2.0} and (kept == kept[:1, :, :1, :1]).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 5}, "5 heads need a width that is divisible"),
        ({"ptm_layers": (3, 4)}, r"ptm_layers \(3, 4\): the model has layers 0 to 3"),
        ({"stdm_layers": (3,)}, "nothing follows layer 3, so the last STDM is behind layer 2"),
        ({"smem": (("T", 4),)}, "smem .*: the model has layers 0 to 3"),
        ({"dpe_reduction": 1000.0}, "dpe_reduction 1000 leaves nothing of the width"),
        ({"smem": (("T", 1), ("T", 1))}, "a layer is named twice"),
        ({"stem": "conv", "patch": 6}, "a patch of 6 pixels cannot be four times smaller"),
        ({"dpe_reduction": 0.5}, "dpe_reduction is 0.5, not 1 or more"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(GestaError, match=message):
        small(**changes)


def test_a_doubled_class_token_leaves_the_memory_alone() -> None:
    model = model_config("std_former_tiny", depth=2, ptm_layers=(), smem=()).build()
    state = model.stem(torch.randn(1, 3, 4, 64, 64))
    doubled = model.scale_token(state, 2)
    assert torch.equal(doubled.tokens, 2 * state.tokens) and torch.equal(doubled.memory, state.memory)
