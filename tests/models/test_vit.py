"""The plain video ViT: costs, equal to the classes of ``transformers`` and plain transcriptions, names, positions."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conftest import fast_first
from gesta.checkpoint.weights import import_weights
from gesta.cost import count
from gesta.errors import GestaError
from gesta.layers.attentive import Attentive
from gesta.model import ClipSpec
from gesta.models import create_model, model_config, stored_cost
from gesta.models.ctn import CTNConfig
from gesta.models.vit import ViT, ViTConfig, from_public, vit_tiny


@pytest.fixture(scope="module")
def hf() -> SimpleNamespace:
    """The original classes, as ``transformers`` has them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers.models.videomae.modeling_videomae as videomae
        import transformers.models.vivit.modeling_vivit as vivit
        import transformers.models.vjepa2.modeling_vjepa2 as vjepa2
        from transformers import VideoMAEConfig, VivitConfig, VJEPA2Config
    return SimpleNamespace(
        videomae=videomae, vivit=vivit, vjepa2=vjepa2,
        VideoMAEConfig=VideoMAEConfig, VivitConfig=VivitConfig, VJEPA2Config=VJEPA2Config,
    )  # fmt: skip


SIZES = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 96, "num_labels": 5}
CLIP = {"image_size": 32, "num_frames": 4}


def randomised(model: nn.Module) -> Any:
    """In double precision, with every parameter moved away from where it starts."""
    generator = torch.Generator().manual_seed(0)
    model = model.double().eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model


def videomae(hf: SimpleNamespace, **changes: Any) -> Any:
    config = hf.VideoMAEConfig(**{**SIZES, **CLIP, "patch_size": 8, "tubelet_size": 2, **changes})
    return randomised(hf.videomae.VideoMAEForVideoClassification(config))


def vivit(hf: SimpleNamespace, **changes: Any) -> Any:
    config = hf.VivitConfig(**{**SIZES, **CLIP, "tubelet_size": [2, 8, 8], **changes})
    return randomised(hf.vivit.VivitForVideoClassification(config))


def vjepa2(hf: SimpleNamespace, **changes: Any) -> Any:
    config = hf.VJEPA2Config(**{
        "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "mlp_ratio": 2.0, "num_labels": 5,
        "crop_size": 32, "frames_per_clip": 4, "patch_size": 8, "tubelet_size": 2, "num_pooler_layers": 2,
        "pred_hidden_size": 24, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1, **changes,
    })  # fmt: skip
    return randomised(hf.vjepa2.VJEPA2ForVideoClassification(config))


FAMILIES: dict[str, Callable[..., Any]] = {"videomae": videomae, "vivit": vivit, "vjepa2": vjepa2}


def noise(frames: int = 4, size: int = 32, clips: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(clips, 3, frames, size, size, generator=generator, dtype=torch.float64)


def description(theirs: Any) -> dict[str, Any]:
    """Its config.json."""
    return json.loads(theirs.config.to_json_string())


def ours_of(weights: dict[str, Tensor], config: dict[str, Any] | None, **changes: Any) -> ViT:
    """Our model with public weights; all of them are used, except of parts that only pretraining needs."""
    model_config = from_public(config, {name: value.shape for name, value in weights.items()})
    assert model_config is not None
    for name, value in changes.items():
        setattr(model_config, name, value)
    model = model_config.build().double()
    report = import_weights(model, weights, min_matched=1.0)
    assert not (report.missing or report.mismatched)
    assert all(re.match(r"(vjepa2\.)?predictor\.|decoder|mask_token|encoder_to", name) for name in report.unexpected)
    return model


def scores_of(theirs: Any, video: Tensor) -> Tensor:
    with torch.no_grad():
        return theirs(video.transpose(1, 2)).logits


def close(ours: Tensor, theirs: Tensor, atol: float = 1e-9) -> None:
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=0)


# --- names -----------------------------------------------------------------------------------------------------------

_OF_4 = {
    "videomae": [(r"\.query\.bias$", ".q_bias"), (r"\.value\.bias$", ".v_bias")],
    "vivit": [
        (r"^vivit\.layers\.", "vivit.encoder.layer."),
        (r"\.attention\.q_proj\.", ".attention.attention.query."),
        (r"\.attention\.k_proj\.", ".attention.attention.key."),
        (r"\.attention\.v_proj\.", ".attention.attention.value."),
        (r"\.attention\.o_proj\.", ".attention.output.dense."),
        (r"\.mlp\.fc1\.", ".intermediate.dense."),
        (r"\.mlp\.fc2\.", ".output.dense."),
    ],
    "vjepa2": [],
}  # fmt: skip
"""From the names of transformers 5 to those of 4, in which the published files are."""

_ORIGINAL = [
    (r"^(videomae|vjepa2)\.", ""),
    (r"^(encoder\.)?embeddings\.patch_embeddings\.proj(ection)?\.", "patch_embed.proj."),
    (r"^encoder\.layernorm\.", "norm."),
    (r"^layernorm\.", "norm."),
    (r"^encoder\.layer\.", "blocks."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.attention(\.attention)?\.(?=query|key|value|proj)", ".attn."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"^classifier\.", "head."),
    (r"^pooler\.self_attention_layers\.", "pooler.blocks."),
    (r"^pooler\.cross_attention_layer\.", "pooler.cross_attention_block."),
    (r"\.layer_norm([12])\.", r".norm\1."),
    (r"\.self_attn\.out_proj\.", ".attn.proj."),
    (r"\.self_attn\.([qkv])_proj\.", r".attn.\1."),
    (r"\.cross_attn\.q_proj\.", ".xattn.q."),
    (r"\.cross_attn\.([kv])_proj\.", r".xattn.\1."),
    (r"\.attn\.query\.", ".attn.q."),
    (r"\.attn\.key\.", ".attn.k."),
    (r"\.attn\.value\.", ".attn.v."),
]


def renamed(weights: dict[str, Tensor], patterns: list[tuple[str, str]]) -> dict[str, Tensor]:
    result = {}
    for name, value in weights.items():
        for pattern, theirs in patterns:
            name = re.sub(pattern, theirs, name)
        result[name] = value
    return result


def original(weights: dict[str, Tensor], head: str = "head") -> dict[str, Tensor]:
    """Names of the original codes, from those of transformers 5, by the tables of their conversion scripts."""
    names = renamed({n: v for n, v in weights.items() if "predictor" not in n}, _ORIGINAL)
    for name in [name for name in names if name.endswith(".attn.q.weight")]:
        parts = [name.replace(".q.", f".{part}.") for part in "qkv"]
        names[name.replace(".q.", ".qkv.")] = torch.cat([names.pop(part) for part in parts])
        q, k, v = (part.replace("weight", "bias") for part in parts)
        if k in names:
            names[q.replace(".q.", ".qkv.")] = torch.cat([names.pop(q), names.pop(k), names.pop(v)])
        else:
            names[q.replace(".q.bias", ".q_bias")], names[v.replace(".v.bias", ".v_bias")] = names.pop(q), names.pop(v)
    for kind in ("weight", "bias"):
        place = "pooler.cross_attention_block.xattn."
        if f"{place}k.{kind}" in names:
            names[f"{place}kv.{kind}"] = torch.cat([names.pop(f"{place}k.{kind}"), names.pop(f"{place}v.{kind}")])
    return {re.sub("^head", head, name): value for name, value in names.items()}


# --- costs -----------------------------------------------------------------------------------------------------------

HEAD = ("attentive", "classifier")


@pytest.mark.parametrize(
    ("name", "params", "macs", "without"),
    [
        ("videomae_s", "22.03", "56.9", ()),
        ("videomae_b", "86.53", "180.3", ()),
        ("videomae_l", "304.27", "596.8", ()),
        ("videomae_h", "632.12", "1191.0", ()),
        ("videomae2_g", "1012.17", "2542.8", ()),
        ("videomae_s", "21.88", "56.9", HEAD),
        ("videomae2_g", "1011.61", "2542.8", HEAD),
        ("vjepa2_l", "303.89", "827.9", HEAD),
        ("vjepa2_l", "353.63", "935.2", ()),
        ("vjepa2_h", "631.65", None, HEAD),
        ("vjepa2_g_384", "1012.17", "7052.4", HEAD),
        ("vivit_b", "88.95", "451.5", ()),
    ],
)
def test_costs_are_those_of_the_original_classes(
    name: str, params: str, macs: str | None, without: tuple[str, ...]
) -> None:
    """As torch's FlopCounter counts the original classes; tests/models/test_catalogue.py counts ours again."""
    parts = [part for part in stored_cost(name).parts if part.name not in without]
    assert f"{sum(part.params for part in parts) / 1e6:.2f}" == params
    assert macs is None or f"{sum(part.macs for part in parts) / 1e9:.1f}" == macs


@pytest.mark.full  # test_costs_are_those_of_the_original_classes has the same networks on shorter clips
@pytest.mark.parametrize(
    ("name", "size", "frames", "macs", "head"),
    [
        ("vjepa2_l", 256, 16, "828", (49.5, 107)),
        ("vjepa2_l", 256, 64, "5785", (49.5, None)),
        ("vjepa2_h", 256, 64, "10668", (None, None)),
        ("vjepa2_g_384", 384, 64, "56911", (93.5, 4259)),
    ],
)
def test_costs_of_longer_clips(name: str, size: int, frames: int, macs: str, head: Any) -> None:
    cost = count(model_config(name, classes=174, clip=ClipSpec(frames=frames, size=size)))
    parts = {part.name: part for part in cost.parts}
    probe = [parts[part] for part in HEAD]
    assert f"{(cost.macs - sum(part.macs for part in probe)) / 1e9:.0f}" == macs
    assert head[0] in (None, round(sum(part.params for part in probe) / 1e6, 1))
    assert head[1] in (None, round(sum(part.macs for part in probe) / 1e9))


# --- the original classes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_features_scores_and_gradients_equal_the_original(family: str, hf: SimpleNamespace) -> None:
    theirs, video = FAMILIES[family](hf), noise()
    weights = theirs.state_dict()
    ours = ours_of(weights, description(theirs))
    scores = ours(video)
    assert scores.std() > 0.1
    close(scores, scores_of(theirs, video))
    base = theirs.base_model(video.transpose(1, 2), **({"skip_predictor": True} if family == "vjepa2" else {}))
    tokens = ours.forward_features(video)
    if family == "videomae":  # its norm comes after the mean
        close(tokens.tokens, base.last_hidden_state)
    else:
        close(ours.tokens(tokens), base.last_hidden_state)
    scores.square().sum().backward()
    theirs(video.transpose(1, 2)).logits.square().sum().backward()
    gradients = ours.convert_foreign({n: p.grad for n, p in theirs.named_parameters() if p.grad is not None})
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_names_of_transformers_4(family: str, hf: SimpleNamespace, tmp_path: Path) -> None:
    """The published files, with the config.json beside them."""
    theirs = FAMILIES[family](hf)
    weights = renamed(theirs.state_dict(), _OF_4[family])
    close(ours_of(weights, description(theirs))(noise()), scores_of(theirs, noise()))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_transformers_saves_loads(family: str, hf: SimpleNamespace, tmp_path: Path) -> None:
    theirs = FAMILIES[family](hf)
    theirs.save_pretrained(tmp_path)
    shapes = {name: value.shape for name, value in theirs.state_dict().items()}
    config = from_public(json.loads((tmp_path / "config.json").read_text()), shapes)
    assert config is not None
    model = config.build().double()
    report = import_weights(model, tmp_path, min_matched=1.0)
    assert not report.missing
    close(model(noise()), scores_of(theirs, noise()))


PREFIXES = ("module.", "model.", "_orig_mod.module.", "backbone.", "module.backbone.")


@pytest.mark.parametrize(("prefix",), fast_first([(prefix,) for prefix in ("", *PREFIXES)], 3))
def test_original_videomae(prefix: str, hf: SimpleNamespace) -> None:
    theirs = videomae(hf, layer_norm_eps=1e-6)
    theirs.fc_norm.eps = 1e-6
    weights = {prefix + name: value for name, value in original(theirs.state_dict()).items()}
    ours = original_model(weights)
    close(ours(noise()), scores_of(theirs, noise()))


def test_a_wrong_eps_shows_in_double_precision(hf: SimpleNamespace) -> None:
    """Public weights of ``transformers`` say 1e-12 in blocks, and have 1e-5 before the classifier."""
    theirs, video = videomae(hf), noise()
    expected = scores_of(theirs, video)
    config = from_public(description(theirs), {n: v.shape for n, v in theirs.state_dict().items()})
    assert config is not None and (config.eps, config.head_eps) == (1e-12, 1e-5)
    for change in ({"eps": 1e-6}, {"head_eps": 1e-6}, {"gelu": "tanh"}, {"heads": 6}):
        ours = ours_of(theirs.state_dict(), description(theirs), **change)
        assert (ours(video) - expected).abs().max() > 1e-8


def test_pretraining_files_bring_their_encoder(hf: SimpleNamespace) -> None:
    """The encoder with a mask equals that of the pretraining class, which adds positions before it selects."""
    config = hf.VideoMAEConfig(
        **{**SIZES, **CLIP}, patch_size=8, tubelet_size=2, use_mean_pooling=False, layer_norm_eps=1e-6,
        decoder_num_attention_heads=2, decoder_hidden_size=24, decoder_num_hidden_layers=1,
        decoder_intermediate_size=48,
    )  # fmt: skip
    theirs = randomised(hf.videomae.VideoMAEForPreTraining(config))
    ours = ours_of(theirs.state_dict(), description(theirs))
    assert (ours.config.tail, ours.config.classes) == ("norm_mean", 0)
    kept = torch.zeros(2, 32, dtype=torch.bool)
    kept[0, 3:11] = kept[1, ::4] = True
    with torch.no_grad():
        expected = theirs.videomae(noise().transpose(1, 2), bool_masked_pos=~kept).last_hidden_state
        close(encoded(ours, noise(), kept), expected)
    encoder = {n: v for n, v in theirs.state_dict().items() if n.startswith("videomae.")}
    others = {n: v for n, v in theirs.state_dict().items() if n not in encoder}
    names = {f"encoder.{name}": value for name, value in original(encoder).items()} | others
    ours = original_model(names, classes=0, tail="norm_mean")
    close(encoded(ours, noise(), kept), expected)
    reads_the_mean = ViTConfig(**TINY, classes=0).build()
    report = import_weights(reads_the_mean, names)
    assert set(report.missing) == {"fc_norm.weight", "fc_norm.bias"}
    assert {"norm.weight", "norm.bias", *others} == set(report.unexpected)


TINY: dict[str, Any] = {
    "width": 48, "depth": 2, "heads": 3, "mlp_ratio": 2.0, "patch": 8, "position_size": 32,
    "clip": ClipSpec(frames=4, size=32),
}  # fmt: skip


def original_model(weights: dict[str, Tensor], **changes: Any) -> ViT:
    """A model of the size of the tests with weights in the names of an original code."""
    model = ViTConfig(**{**TINY, "classes": 5, **changes}).build().double()
    report = import_weights(model, weights, min_matched=1.0)
    assert not (report.missing or report.mismatched)
    return model


def encoded(model: ViT, video: Tensor, kept: Tensor | None = None) -> Tensor:
    """The tokens after the last norm, of clips of which some tokens are left out."""
    state = model.stem(video, kept)
    for block in model.blocks:
        state = block(state)
    return model.tokens(state)


JEPA: dict[str, Any] = {"positions": "rope_tiled", "position_size": 224, "qkv_bias": "full", "tail": "norm_mean"}


def test_original_vjepa2_and_its_probe(hf: SimpleNamespace, tmp_path: Path) -> None:
    """Two files, as they are published: the encoder's moving average among others, and a list of probes."""
    theirs = vjepa2(hf)
    names = original(theirs.state_dict(), head="linear")
    encoder = {f"module.backbone.{n}": v for n, v in names.items() if not n.startswith(("pooler", "linear"))}
    encoder["module.backbone.pos_embed"] = torch.zeros(1, 32, 48, dtype=torch.float64)  # published, and not used
    probe = {f"module.{n}": v for n, v in names.items() if n.startswith(("pooler", "linear"))}
    wrong = {name: value + 1 for name, value in encoder.items()}
    torch.save({"encoder": wrong, "predictor": {}, "target_encoder": encoder, "epoch": 1}, tmp_path / "vit.pt")
    torch.save({"classifiers": [probe]}, tmp_path / "probe.pt")
    model = (
        ViTConfig(**{**TINY, **JEPA, "classes": 5, "attentive": Attentive(heads=3, depth=3, eps=1e-6)}).build().double()
    )
    report = import_weights(model, tmp_path / "vit.pt", min_matched=1.0, head=tmp_path / "probe.pt")
    assert not (report.missing or report.mismatched) and report.unexpected == ("pos_embed",)
    close(model(noise()), scores_of(theirs, noise()))


def test_vjepa2_with_kept_tokens(hf: SimpleNamespace) -> None:
    """Rotated by the places of the tokens that are kept, not by 0, 1, 2."""
    theirs = vjepa2(hf)
    ours = ours_of(theirs.state_dict(), description(theirs))
    kept = torch.zeros(2, 32, dtype=torch.bool)
    kept[0, 5:17] = kept[1, 20:] = True
    ids = torch.stack([row.nonzero().flatten() for row in kept])
    encoder = theirs.vjepa2.encoder
    with torch.no_grad():
        tokens = encoder.embeddings(noise().transpose(1, 2))
        tokens = tokens.gather(1, ids[..., None].expand(-1, -1, 48))
        for layer in encoder.layer:
            tokens = layer(tokens, position_mask=ids)[0]
        expected = encoder.layernorm(tokens)
        close(encoded(ours, noise(), kept), expected)
        state = ours.stem(noise(), kept)
    assert state.size == (2, 4, 4) and state.kept is kept
    with pytest.raises(GestaError, match="some tokens were left out"):
        ours.to_grid(state)
    kept[0, 5] = False
    with pytest.raises(GestaError, match=r"keep as many in every clip; this one is .* and keeps 11 to 12"):
        ours.stem(noise(), kept)


@pytest.mark.parametrize(("family", "frames"), [("vjepa2", 8), ("vjepa2", 2), ("vjepa2", 1)])
def test_rope_takes_any_number_of_frames(family: str, frames: int, hf: SimpleNamespace) -> None:
    theirs = FAMILIES[family](hf)
    ours = ours_of(theirs.state_dict(), description(theirs))
    close(ours(noise(frames)), scores_of(theirs, noise(frames)))


def test_probe_over_several_layers_reads_each_through_the_last_norm(hf: SimpleNamespace) -> None:
    theirs = vjepa2(hf)
    config = from_public(description(theirs), {n: v.shape for n, v in theirs.state_dict().items()})
    assert config is not None and isinstance(config.attentive, Attentive)
    config.attentive.layers = (0, 1)
    ours = config.build().double()
    import_weights(ours, theirs.state_dict(), min_matched=1.0)
    encoder = theirs.vjepa2.encoder
    with torch.no_grad():
        first = encoder.layer[0](encoder.embeddings(noise().transpose(1, 2)))[0]
        both = [encoder.layernorm(tokens) for tokens in (first, encoder.layer[1](first)[0])]
        close(ours(noise()), theirs.classifier(theirs.pooler(torch.cat(both, 1))))


# --- positions -------------------------------------------------------------------------------------------------------


def table(rows: int, width: int) -> Tensor:
    """VideoMAE's formula, number by number, rounded to 32 bits."""
    angles = torch.tensor(
        [[i / 10000 ** (2 * (j // 2) / width) for j in range(width)] for i in range(rows)], dtype=torch.float64
    )
    angles[:, 0::2], angles[:, 1::2] = angles[:, 0::2].sin(), angles[:, 1::2].cos()
    return angles.float()


@pytest.mark.parametrize(("frames", "size"), [(8, 32), (4, 48), (6, 24), (2, 40)])
def test_videomae_at_other_sizes(frames: int, size: int, hf: SimpleNamespace) -> None:
    """The table continues in time and is resized in space; the original class is given that table."""
    theirs = videomae(hf, image_size=size, num_frames=frames)
    grid = table(frames // 2 * 16, 48).unflatten(0, (frames // 2, 4, 4)).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, (size // 8, size // 8), mode="bicubic", align_corners=False) if size != 32 else grid
    theirs.videomae.embeddings.position_embeddings = grid.permute(0, 2, 3, 1).flatten(0, 2)[None]
    trained = description(videomae(hf))
    given = ours_of(theirs.state_dict(), trained)  # of 4 frames at 32 px
    close(given(noise(frames, size)), scores_of(theirs, noise(frames, size)))
    clip = ClipSpec(frames=frames, size=size)
    if size == 32:
        configured = ours_of(theirs.state_dict(), trained, clip=clip)
    else:
        with pytest.warns(UserWarning, match=r"positions are those of \d × 4 × 4 tokens, resized to"):
            configured = ours_of(theirs.state_dict(), trained, clip=clip)
    close(configured(noise(frames, size)), given(noise(frames, size)))


def test_umt(hf: SimpleNamespace) -> None:
    """Tubes of one frame; the table of other clips is resized in time, too."""
    theirs = videomae(hf, tubelet_size=1, layer_norm_eps=1e-6)
    theirs.fc_norm.eps = 1e-6
    weights = {f"module.{name}": value for name, value in original(theirs.state_dict()).items()}
    umt = {"patch_frames": 1, "position_frames": 4}
    close(original_model(weights, **umt)(noise()), scores_of(theirs, noise()))
    longer = videomae(hf, tubelet_size=1, layer_norm_eps=1e-6, num_frames=6)
    longer.load_state_dict(theirs.state_dict())
    longer.fc_norm.eps = 1e-6
    lines = table(64, 48).unflatten(0, (4, 16)).flatten(1).T[None]
    lines = F.interpolate(lines, 6, mode="linear", align_corners=False)[0].T.reshape(1, 96, 48)
    longer.videomae.embeddings.position_embeddings = lines
    with pytest.warns(UserWarning, match="positions are those of 4 × 4 × 4 tokens, resized to 6 × 4 × 4"):
        ours = original_model(weights, **umt, clip=ClipSpec(frames=6, size=32))
    close(ours(noise(6)), scores_of(longer, noise(6)))
    weights["module.pos_embed"] = lines.double()  # as a file for 6 frames has it
    learned = from_public({"model_type": "umt"}, {n: v.shape for n, v in published(384, umt=True).items()})
    assert learned is not None and learned.positions == "learned" and learned.clip.frames == 16
    ours = original_model(weights, patch_frames=1, positions="learned", clip=ClipSpec(frames=6, size=32))
    close(ours(noise(6)), scores_of(longer, noise(6)))
    with pytest.warns(UserWarning, match="have learned positions"):
        original_model(weights, **umt)


def published(width: int, umt: bool = False) -> dict[str, Tensor]:
    """Tensors of a published file, as far as they tell its size."""
    with torch.device("meta"):
        names = {
            "patch_embed.proj.weight": torch.empty(width, 3, 1 if umt else 2, 16, 16),
            "blocks.11.norm1.weight": torch.empty(width),
            "blocks.0.norm1.weight": torch.empty(width),
            "blocks.0.attn.q_bias": torch.empty(width),
            "blocks.0.attn.qkv.weight": torch.empty(3 * width, width),
            "blocks.0.mlp.fc1.weight": torch.empty(4 * width, width),
            "fc_norm.weight": torch.empty(width),
            "head.weight": torch.empty(400, width),
        }
        return names | ({"pos_embed": torch.empty(1, 16 * 14 * 14, width)} if umt else {})


def test_vivit_at_other_sizes(hf: SimpleNamespace) -> None:
    theirs = vivit(hf)
    positions = theirs.vivit.embeddings.position_embeddings
    grid = positions[:, 1:].mT.unflatten(2, (2, 4, 4))
    in_space = torch.stack([F.interpolate(plane, (6, 6), mode="bicubic") for plane in grid.unbind(2)], 2)
    resized = F.interpolate(in_space.flatten(3).transpose(2, 3).flatten(1, 2), 4, mode="linear")
    resized = resized.unflatten(1, (48, 36)).transpose(2, 3).flatten(2).mT
    larger = vivit(hf, num_frames=8, image_size=48)
    weights = {n: v for n, v in theirs.state_dict().items() if "position" not in n}
    larger.load_state_dict(weights, strict=False)
    larger.vivit.embeddings.position_embeddings.data = torch.cat([positions[:, :1], resized], 1)
    ours = ours_of(theirs.state_dict(), description(theirs))
    close(ours(noise(8, 48)), scores_of(larger, noise(8, 48)))
    with pytest.warns(UserWarning, match="pos_embed was made for another clip and is resized to 4 × 6 × 6 vectors"):
        configured = ours_of(theirs.state_dict(), description(theirs), clip=ClipSpec(frames=8, size=48))
    close(configured(noise(8, 48)), ours(noise(8, 48)))


def test_clips_that_tubes_do_not_tile_are_refused() -> None:
    model = vit_tiny().build()
    with pytest.raises(GestaError, match="tubes of 2 frames do not tile a clip of 5 frames"):
        model(noise(5, 64).float())
    with pytest.raises(GestaError, match="patches of 8 pixels do not tile a clip of 60 × 60 pixels"):
        model(noise(4, 60).float())
    with pytest.raises(GestaError, match="13 positions cannot be resized to 4 × 8 × 8"):
        ViTConfig(**{**TINY, "positions": "learned"}).build()._for_size(torch.zeros(1, 13, 48), (4, 8, 8))


# --- V-JEPA 2.1 ------------------------------------------------------------------------------------------------------


def plain_2_1(w: dict[str, Tensor], video: Tensor, heads: int, after: tuple[int, ...], base: int) -> list[Tensor]:
    """V-JEPA 2.1 over the names of its files; rotations are products of complex numbers."""

    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-6)

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    image = video.shape[2] == 1
    patch = "patch_embed_img" if image else "patch_embed"
    kernel = w[f"{patch}.proj.weight"]
    grid = F.conv3d(video, kernel, w[f"{patch}.proj.bias"], kernel.shape[2:])
    x = grid.flatten(2).mT + w["img_mod_embed" if image else "video_mod_embed"]
    frames, height, width = grid.shape[2:]
    places = torch.tensor([
        [t, h * (base - 1) / (height - 1), v * (base - 1) / (width - 1)]
        for t in range(frames) for h in range(height) for v in range(width)
    ], dtype=torch.float64)  # fmt: skip
    head = x.shape[2] // heads
    pairs = head // 3 // 2

    def rotate(y: Tensor) -> Tensor:
        y = y.clone()
        for axis in range(3):
            for k in range(pairs):
                j = 2 * (axis * pairs + k)
                turned = torch.complex(y[..., j], y[..., j + 1]) * torch.exp(
                    1j * places[:, axis] / 10000 ** (k / pairs)
                )
                y[..., j], y[..., j + 1] = turned.real, turned.imag
        return y

    results = []
    for i in range(1 + max(after)):
        block = f"blocks.{i}."
        q, k, v = linear(block + "attn.qkv", norm(block + "norm1", x)).chunk(3, 2)
        q, k, v = (part.unflatten(2, (heads, head)).transpose(1, 2) for part in (q, k, v))
        weights = (rotate(q) @ rotate(k).mT / head**0.5).softmax(-1)
        x = x + linear(block + "attn.proj", (weights @ v).transpose(1, 2).flatten(2))
        hidden = F.gelu(linear(block + "mlp.fc1", norm(block + "norm2", x)))
        x = x + linear(block + "mlp.fc2", hidden)
        if i in after:
            results.append(norm(f"norms_block.{after.index(i)}", x))
    return results


def files_of_2_1(model: ViT) -> dict[str, Tensor]:
    """A model's weights in the names of V-JEPA 2.1's files."""
    patterns = [
        (r"^(image_)?patch_embed\.", r"\1patch_embed.proj."), (r"^image_patch_embed", "patch_embed_img"),
        (r"^norms\.", "norms_block."), (r"^video_embed", "video_mod_embed"), (r"^image_embed", "img_mod_embed"),
        (r"\.mlp\.0\.", ".mlp.fc1."), (r"\.mlp\.2\.", ".mlp.fc2."),
    ]  # fmt: skip
    return renamed(dict(model.state_dict()), patterns)


@pytest.mark.parametrize(("frames", "size"), [(4, 32), (1, 32), (6, 48)])
def test_vjepa2_1_equals_a_plain_transcription(frames: int, size: int) -> None:
    fields = {**TINY, **JEPA, "positions": "rope", "position_size": 32, "depth": 4, "classes": 0}
    model = randomised(ViTConfig(**fields, modality_embed=True, norm_after=(0, 1, 2, 3)).build())
    weights = files_of_2_1(model)
    expected = plain_2_1(weights, noise(frames, size), 3, (0, 1, 2, 3), 4)
    config = from_public({"hidden_size": 48, "num_attention_heads": 3}, {n: v.shape for n, v in weights.items()})
    assert config is not None and config.norm_after == (0, 1, 2, 3) and config.positions == "rope"
    again = ViTConfig(**fields, modality_embed=True, norm_after=(0, 1, 2, 3)).build().double()
    wrapped = {f"module.backbone.{name}": value for name, value in weights.items()}
    assert not import_weights(again, wrapped, min_matched=1.0).missing
    close(encoded(again, noise(frames, size)), expected[-1])
    state = again.stem(noise(frames, size))
    for i, block in enumerate(again.blocks):
        state = block(state)
        close(again.tokens(state, i), expected[i])


@pytest.mark.parametrize(("name",), fast_first([(f"vjepa2_1_{size}",) for size in ("b", "l", "g", "gigantic")], 1))
def test_norms_of_vjepa2_1_lie_where_they_are_published(name: str) -> None:
    config = model_config(name)
    assert isinstance(config, ViTConfig)
    with torch.device("meta"):
        weights = files_of_2_1(config.build())
    public = from_public(
        None, {n: v.shape for n, v in weights.items() if not n.startswith(("attentive", "classifier"))}
    )
    assert public is not None and public.norm_after == config.norm_after
    assert (public.heads, public.mlp_ratio) == (config.heads, pytest.approx(config.mlp_ratio))


# --- what the shapes do not tell -------------------------------------------------------------------------------------


def test_videomae_s_has_6_heads_whatever_its_config_says(tmp_path: Path) -> None:
    shapes = {name: value.shape for name, value in published(384).items()}
    said = {"model_type": "videomae", "hidden_size": 384, "num_attention_heads": 16, "layer_norm_eps": 1e-12}
    config = from_public(said, shapes)
    assert config is not None and (config.heads, config.depth, config.classes) == (6, 12, 400)
    with torch.device("meta"):
        model = config.build()
    with pytest.warns(UserWarning, match="config.json says 16 heads; VideoMAE-S was trained with 6, which are taken"):
        model.check_source(json.dumps(said))
    with torch.device("meta"), pytest.raises(GestaError, match="16 attention heads, and this model has 12"):
        create_model("videomae_b").check_source(json.dumps(said))


def test_probes_of_published_sizes_have_16_heads(hf: SimpleNamespace) -> None:
    """``transformers`` pools those of ViT-g with the encoder's 22."""
    with torch.device("meta"):
        sizes = {"hidden_size": 1408, "num_attention_heads": 22, "mlp_ratio": 48 / 11}
        config = hf.VJEPA2Config(**sizes, num_hidden_layers=1, pred_num_hidden_layers=1)
        theirs = hf.vjepa2.VJEPA2ForVideoClassification(config)
        shapes = {name: value.shape for name, value in theirs.state_dict().items()}
        config = from_public(description(theirs), shapes)
        assert isinstance(config, ViTConfig) and isinstance(config.attentive, Attentive)
        assert (config.heads, config.attentive.heads, config.attentive.depth) == (22, 16, 4)
        assert (config.clip.frames, config.clip.size) == (64, 256)
        model = config.build()
    with pytest.warns(UserWarning, match="read with 16 heads, as it was trained; transformers has the encoder's 22"):
        model.check_source(json.dumps(description(theirs)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "videomae", "hidden_size": 384, "hidden_act": "relu"}, "hidden_act is 'relu'"),
        (None, "of width 40 is not published"),
    ],
)
def test_what_does_not_fit_is_refused(change: Any, message: str) -> None:
    width = 40 if change is None else 384
    shapes = {name: value.shape for name, value in published(width).items()}
    with pytest.raises(GestaError, match=message):
        from_public(change, shapes)


@pytest.mark.parametrize("name", ["hiera_tiny", "mvitv2_tiny", "timesformer_tiny"])
def test_weights_of_others_are_not_taken_for_a_vit(name: str) -> None:
    with torch.device("meta"):
        shapes = {n: value.shape for n, value in create_model(name, num_classes=3).state_dict().items()}
    public = {re.sub("^patch_embed", "patch_embed.proj", n).replace("mlp.0", "mlp.fc1"): s for n, s in shapes.items()}
    assert from_public(None, public) is None


def test_weights_of_ours_are_not_public() -> None:
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in vit_tiny().build().state_dict().items()}
    assert from_public(None, shapes) is None


# --- other settings --------------------------------------------------------------------------------------------------


def test_ctn_with_tubes_and_linear_mapping_is_vivit() -> None:
    """The baseline of CTN's paper, by the same names."""
    clip = ClipSpec(frames=4, size=32)
    ctn = CTNConfig(width=48, depth=2, heads=3, patch=8, embed="tube", mapping="linear", positions="learned", clip=clip)
    theirs = randomised(ctn.build())
    ours = ViTConfig(
        width=48, depth=2, heads=3, patch=8, qkv_bias="full", positions="learned", class_token=True, tail="norm_first",
        clip=clip,
    ).build().double()  # fmt: skip
    ours.load_state_dict(theirs.state_dict())
    close(ours(noise()), theirs(noise()))


@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision(family: str, hf: SimpleNamespace) -> None:
    theirs = FAMILIES[family](hf)
    ours = ours_of(theirs.state_dict(), description(theirs))
    exact = ours(noise())
    with torch.autocast("cpu", torch.bfloat16):
        mixed = ours.float()(noise().float())
    error = (mixed.double() - exact).abs().max() / exact.abs().max()
    assert error < 0.05
    assert ((ours.bfloat16()(noise().bfloat16()).double() - exact).abs().max() / exact.abs().max()) < 0.1


def test_angles_are_exact_in_half_precision() -> None:
    model = ViTConfig(**{**TINY, **JEPA}).build()
    exact = model.stem(noise(64).float()).rope
    half = model.bfloat16().stem(noise(64).bfloat16()).rope
    assert exact is not None and half is not None and half.dtype == torch.float32
    assert torch.equal(exact, half)


def test_the_class_token_is_not_rotated() -> None:
    model = ViTConfig(**{**TINY, **JEPA}, class_token=True).build().double()
    kept = torch.zeros(2, 32, dtype=torch.bool)
    kept[:, 4:9] = True
    whole, part = model.stem(noise()).rope, model.stem(noise(), kept).rope
    assert whole is not None and part is not None
    assert (whole[0, 0] == 1).all() and (whole[1, 0] == 0).all()
    torch.testing.assert_close(part[:, 1, 0], whole[:, [0, *range(5, 10)]])


def test_layer_scale_starts_small_and_is_read(hf: SimpleNamespace) -> None:
    theirs = videomae(hf, layer_norm_eps=1e-6)
    weights = original(theirs.state_dict())
    for i in range(2):
        weights[f"blocks.{i}.gamma_1"], weights[f"blocks.{i}.gamma_2"] = torch.full((48,), 0.5), torch.full((48,), 2.0)
    scaled = original_model(weights, layer_scale=0.1, head_eps=1e-5)
    for layer in theirs.videomae.encoder.layer:
        for linear, factor in ((layer.attention.output.dense, 0.5), (layer.output.dense, 2.0)):
            linear.weight.data *= factor
            linear.bias.data *= factor
    close(scaled(noise()), scores_of(theirs, noise()))
