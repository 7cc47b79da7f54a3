"""TimeSformer: published costs, parity with timm's ViT, public checkpoint names, embeddings for other clips."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from conftest import fast_first
from gesta.checkpoint.weights import import_weights
from gesta.config import replace
from gesta.cost import count
from gesta.errors import GestaError
from gesta.model import ClipSpec
from gesta.models import model_config
from gesta.models.timesformer import TimeSformer, TimeSformerConfig, from_public
from gesta.plugins.ata import ATA

SMALL = TimeSformerConfig(
    width=48, depth=3, heads=4, patch=8, classes=5, drop_path=0.0, clip=ClipSpec(frames=4, stride=1, size=32)
)


def small(**changes: Any) -> TimeSformer:
    torch.manual_seed(0)
    made = replace(SMALL, **changes).build()
    assert isinstance(made, TimeSformer)
    return made.eval()


def image_vit(size: int = 32) -> nn.Module:
    torch.manual_seed(1)
    vit = timm.create_model(
        "vit_base_patch16_224", img_size=size, patch_size=8, embed_dim=48, depth=3, num_heads=4, num_classes=5
    )
    for parameter in vit.parameters():
        nn.init.normal_(parameter, std=0.2)
    return vit.eval()


def official(model: TimeSformer) -> dict[str, Tensor]:
    """The model's weights under the names of the public TimeSformer checkpoints."""
    names = {
        "patch_embed.": "patch_embed.proj.",
        ".temporal.norm.": ".temporal_norm1.",
        ".temporal.qkv.": ".temporal_attn.qkv.",
        ".temporal.proj.": ".temporal_attn.proj.",
        ".temporal.fc.": ".temporal_fc.",
        ".mlp.0.": ".mlp.fc1.",
        ".mlp.2.": ".mlp.fc2.",
        "classifier.linear.": "head.",
    }
    renamed = {}
    for name, value in model.state_dict().items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        renamed[f"model.{name}"] = value
    return renamed


# --- weights ----------------------------------------------------------------------------------------------------------


def test_official_checkpoint_loads_key_by_key(tmp_path: Path) -> None:
    trained, fresh = small(), small()
    for parameter in trained.parameters():
        nn.init.normal_(parameter)
    weights = official(trained)
    block = {name.removeprefix("model.blocks.0.") for name in weights if name.startswith("model.blocks.0.")}
    parts = ("norm1", "attn.qkv", "attn.proj", "temporal_norm1", "temporal_attn.qkv", "temporal_attn.proj")
    parts += ("temporal_fc", "norm2", "mlp.fc1", "mlp.fc2")
    assert block == {f"{part}.{kind}" for part in parts for kind in ("weight", "bias")}
    torch.save({"model_state": weights}, tmp_path / "TimeSformer.pyth")
    report = import_weights(fresh, tmp_path / "TimeSformer.pyth")
    assert not report.missing and not report.unexpected and not report.mismatched and report.matched_fraction == 1
    assert all(torch.equal(a, b) for a, b in zip(fresh.state_dict().values(), trained.state_dict().values()))
    ata = small(around=ATA())
    report = import_weights(ata, tmp_path / "TimeSformer.pyth")
    assert not report.missing and not report.unexpected  # the plug-in has no parameters


def test_image_vit_loads_and_a_still_clip_is_its_image(tmp_path: Path) -> None:
    """Temporal attention starts as a copy of the spatial one behind zeros; on one image repeated nothing changes it."""
    vit = image_vit()
    torch.save(vit.state_dict(), tmp_path / "vit.pth")
    image = torch.randn(2, 3, 32, 32)
    for changes in ({}, {"around": ATA()}, {"temporal": "averaging"}):
        model = small(**changes)
        report = import_weights(model, tmp_path / "vit.pth")
        assert not report.unexpected and not report.mismatched
        expected = {"time_embed"} | {n for n, _ in model.named_parameters() if ".temporal.fc." in n}
        assert set(report.missing) == expected
        with torch.no_grad():
            scores = model(image[:, :, None].expand(-1, -1, 4, -1, -1))
            torch.testing.assert_close(scores, vit(image), atol=2e-4, rtol=1e-4)
    blocks = small()
    import_weights(blocks, tmp_path / "vit.pth")
    first = blocks.blocks[0]
    assert torch.equal(first.temporal.qkv.weight, first.attn.qkv.weight)
    assert torch.equal(first.temporal.norm.bias, first.norm1.bias) and not first.temporal.fc.weight.any()


def test_joint_attention_of_one_frame_is_the_image_vit() -> None:
    vit, model = image_vit(), small(temporal="joint", clip=ClipSpec(frames=1, size=32))
    import_weights(model, vit.state_dict())
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model(image[:, :, None]), vit(image), atol=2e-4, rtol=1e-4)


def test_averaging_is_not_an_image_vit_averaged() -> None:
    """The class token mixes the frames in every block (spec §2.1)."""
    vit, model = image_vit(), small(temporal="averaging")
    import_weights(model, vit.state_dict())
    clip = torch.randn(1, 3, 4, 32, 32)
    with torch.no_grad():
        features = model.embed(clip)
        single = torch.stack([vit.forward_head(vit.forward_features(clip[:, :, t]), pre_logits=True) for t in range(4)])
    assert (features - single.mean(0)).abs().max() > 1e-3 * features.abs().max()


def test_the_mean_of_all_patches_is_read() -> None:
    """ATA's Table 3: averaging is "the mean of all spatial-temporal features"."""
    clip, model = torch.randn(2, 3, 4, 32, 32), small(temporal="averaging", readout="mean").eval()
    other = small(temporal="averaging").eval()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        patches = model.norm(model._run(clip, None).tokens)[:, 1:]
        torch.testing.assert_close(model.embed(clip), patches.unflatten(1, (4, 4, 4)).mean((1, 2, 3)))
        assert (model.embed(clip) - other.embed(clip)).abs().max() > 1e-3


def test_embeddings_of_another_clip_are_resized_by_nearest_neighbour() -> None:
    long = small(clip=ClipSpec(frames=8, stride=1, size=64))
    short = small()
    nn.init.normal_(short.time_embed)
    with pytest.warns(UserWarning, match="was made for another clip and is resized"):
        import_weights(long, {name: value.clone() for name, value in short.state_dict().items()})
    assert torch.equal(long.time_embed[:, ::2], short.time_embed) and torch.equal(
        long.time_embed[:, 1::2], short.time_embed
    )
    grid = long.pos_embed[:, 1:].unflatten(1, (8, 8))
    assert torch.equal(grid[:, ::2, ::2].flatten(1, 2), short.pos_embed[:, 1:])
    with torch.no_grad():  # and on the fly, for a clip that the model was not built for
        torch.testing.assert_close(short(torch.ones(1, 3, 8, 64, 64)), long(torch.ones(1, 3, 8, 64, 64)))


def test_still_clip_is_its_image_only_without_embeddings_of_time() -> None:
    model = small()
    clip = torch.randn(1, 3, 1, 32, 32).expand(-1, -1, 4, -1, -1)
    with torch.no_grad():
        still = model(clip)
        torch.testing.assert_close(model(clip[:, :, :1]), still, atol=1e-5, rtol=1e-5)
        nn.init.normal_(model.time_embed)
        assert (model(clip) - still).abs().max() > 1e-3


# --- costs ------------------------------------------------------------------------------------------------------------

COSTS: list[tuple[dict[str, Any], int, float, float, float]] = [
    # changes, frames, parameters in M, MACs in G by torch's and by fvcore's counting (specification §3)
    ({"temporal": "averaging", "readout": "mean"}, 8, 86.112, 140.108, 140.259),
    ({"temporal": "joint"}, 8, 86.112, 179.563, 179.713),
    ({}, 8, 121.566, 195.830, 196.053),
    ({"around": ATA()}, 8, 121.566, 195.830, 196.053),
    ({"temporal_post_norm": True}, 8, 121.585, 195.830, 196.126),
    ({"temporal_cls": True}, 8, 121.566, 201.441, 201.673),
    ({"temporal_cls": True, "temporal_post_norm": True}, 8, 121.585, 201.441, 201.754),
    ({}, 32, 121.585, 785.925, 786.818),
    ({"temporal_cls": True, "temporal_post_norm": True}, 32, 121.603, 791.709, 792.908),
]


@pytest.mark.parametrize(("changes", "frames", "params", "macs", "fvcore"), fast_first(COSTS, 3))
def test_costs(changes: dict[str, Any], frames: int, params: float, macs: float, fvcore: float) -> None:
    config = model_config("timesformer_b", **changes)
    config.clip.frames = frames
    torch_style, papers = count(config), count(config, style="fvcore")
    assert round(torch_style.params / 1e6, 3) == params
    assert (round(torch_style.macs / 1e9, 3), round(papers.macs / 1e9, 3)) == (macs, fvcore)


def test_costs_of_timesformer_l() -> None:
    found = count(model_config("timesformer_l"))
    assert (round(found.params / 1e6, 3), round(found.macs / 1e9, 2)) == (121.634, 2379.86)
    assert round(count(model_config("timesformer_b", classes=174)).params / 1e6, 3) == 121.393


@pytest.mark.parametrize(
    ("frames", "macs", "problems"), fast_first([(8, 2_478_292_992, 84), (32, 10_975_297_536, 372)], 1)
)
def test_alignment_is_counted_beside(frames: int, macs: int, problems: int) -> None:
    """The paper's "no extra cost" leaves this out (errata A15)."""
    config = model_config("ata_vitb")
    config.clip.frames = frames
    found = count(config)
    assert found.uncounted == {"multiply-adds of similarities": macs, "assignments of 196 × 196": problems}
    assert f"not counted: {macs:,} multiply-adds of similarities, {problems} assignments of 196 × 196" in str(found)
    assert found.macs == count(model_config("timesformer_b", clip=config.clip)).macs
    kept = count(replace(config, align_every=3)).uncounted
    assert kept["assignments of 196 × 196"] == problems // 3
    assert not count(model_config("timesformer_b")).uncounted


def test_without_decay() -> None:
    assert small().no_weight_decay() == {"cls_token", "pos_embed", "time_embed"}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"temporal": "joint", "around": ATA()}, "around is .* changes nothing without temporal=.attention."),
        ({"around": ATA(), "ata_blocks": (1, 3)}, r"ata_blocks \(1, 3\): the model has blocks 0 to 2"),
        ({"around": ATA(), "ata_blocks": ()}, "ata_blocks is empty, so `around` is in no block"),
        ({"around": ATA(coarse=3)}, "a grid of 4 × 4 tokens does not divide into tiles of 3 × 3"),
        ({"align_every": 0}, "align_every is 0, not 1 or more"),
        ({"patch": 5}, "patches of 5 pixels do not tile a clip of 32 pixels"),
        ({"heads": 5}, "attention of 5 heads needs a width"),
        ({"heads": 5, "temporal": "joint"}, "attention of 5 heads needs a width"),
    ],
)
def test_impossible_sizes_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(GestaError, match=sentence):
        small(**changes)


# --- names of transformers --------------------------------------------------------------------------------------------


def of_transformers(**changes: Any) -> Any:
    """The class of ``transformers`` in double precision, every parameter away from where it starts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import TimesformerConfig  # slow to import
        from transformers.models.timesformer.modeling_timesformer import TimesformerForVideoClassification
    config = TimesformerConfig(**{
        "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 96, "num_labels": 5,
        "image_size": 32, "patch_size": 8, "num_frames": 4, **changes,
    })  # fmt: skip
    model = TimesformerForVideoClassification(config).double().eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model


@pytest.mark.parametrize(("kind", "temporal"), [("divided_space_time", "attention"), ("joint_space_time", "joint")])
def test_names_of_transformers(kind: str, temporal: str) -> None:
    theirs = of_transformers(attention_type=kind)
    weights = theirs.state_dict()
    config = from_public(theirs.config.to_dict(), {name: value.shape for name, value in weights.items()})
    assert config is not None
    assert (config.temporal, config.heads, config.clip.frames, config.clip.size) == (temporal, 3, 4, 32)
    ours = config.build().double().eval()
    report = import_weights(ours, weights, min_matched=1.0)
    assert not (report.missing or report.unexpected or report.mismatched)
    video = torch.randn(2, 3, 4, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours(video), theirs(video.transpose(1, 2)).logits, atol=1e-9, rtol=0)


def test_settings_that_the_public_models_do_not_have_are_refused() -> None:
    shapes = {name.removeprefix("model."): value.shape for name, value in official(small()).items()}
    assert from_public({"num_attention_heads": 4}, shapes) is not None
    with pytest.raises(GestaError, match="layer_norm_eps is 1e-12, and gesta's TimeSformer has 1e-06 only"):
        from_public({"layer_norm_eps": 1e-12}, shapes)


def test_a_doubled_class_token_leaves_routes_alone() -> None:
    """Soft routes are weights, too; embeddings are those that are in the tokens."""
    model = small(around=ATA(alignment="sinkhorn"), align_every=2)
    with torch.no_grad():
        state = model.blocks[0](model.stem(torch.randn(1, 3, 4, 32, 32, dtype=model.cls_token.dtype)))._replace(
            positions=torch.ones(1)
        )
        doubled = model.scale_token(state, 2)
    assert state.routes.is_floating_point() and torch.equal(doubled.routes, state.routes)
    assert torch.equal(doubled.tokens, 2 * state.tokens) and doubled.positions == 2
