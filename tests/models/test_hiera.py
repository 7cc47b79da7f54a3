"""Hiera: costs, equal to the original classes (features, masked entry, other clips), public names and settings."""

from __future__ import annotations

import warnings
from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conftest import fast_first
from gesta.checkpoint.weights import import_weights
from gesta.errors import GestaError
from gesta.model import ClipSpec
from gesta.models import model_config, stored_cost
from gesta.models.hiera import Hiera, HieraConfig, from_public, hiera_b
from gesta.models.public import load

VIDEO = {
    "q_stride": (1, 2, 2),
    "mask_unit_size": (1, 8, 8),
    "patch_kernel": (3, 7, 7),
    "patch_stride": (2, 4, 4),
    "patch_padding": (1, 3, 3),
    "sep_pos_embed": True,
    "stages": (1, 2, 3, 1),
}
"""Arguments of the original class for videos, and a depth for tests."""

SIZES = {"as B": {"embed_dim": 16, "num_heads": 1}, "as B+": {"embed_dim": 20, "num_heads": 2}}


@pytest.fixture(scope="module")
def originals() -> SimpleNamespace:
    """The original classes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # it imports timm.models.layers
        from hiera.hiera import Hiera as Original
        from hiera.hiera_mae import MaskedAutoencoderHiera, apply_fusion_head
    return SimpleNamespace(Hiera=Original, MAE=MaskedAutoencoderHiera, fuse=apply_fusion_head)


def randomised(model: nn.Module) -> Any:
    """In double precision, with every parameter moved away from where it starts."""
    generator = torch.Generator().manual_seed(0)
    model = model.double().eval()
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model


def original(originals: SimpleNamespace, frames: int = 4, size: int = 64, **arguments: Any) -> Any:
    arguments = {**VIDEO, **SIZES["as B"], "num_classes": 5, "input_size": (frames, size, size), **arguments}
    return randomised(originals.Hiera(**arguments))


def shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in model.state_dict().items()}


def ours_of(theirs: Any) -> Hiera:
    """Our model with the weights of an original one."""
    config = from_public(theirs.config, shapes(theirs))
    assert config is not None
    model = config.build().double()
    report = import_weights(model, theirs.state_dict(), min_matched=1.0)
    assert not (report.missing or report.unexpected or report.mismatched)
    return model


def noise(frames: int = 4, size: int = 64, clips: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(clips, 3, frames, size, size, generator=generator, dtype=torch.float64)


def close(ours: Tensor, theirs: Tensor, atol: float = 1e-9) -> None:
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=0)


# --- costs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "params", "macs"),
    [
        ("hiera_b", "51.09", "101.7"),
        ("hiera_b_plus", "69.39", "132.3"),
        ("hiera_l", "213.09", "412.1"),
        ("hiera_h", "671.63", "1157.8"),
    ],
)
def test_costs_are_those_of_the_original_classes(name: str, params: str, macs: str) -> None:
    """As torch's FlopCounter counts the original classes; tests/models/test_catalogue.py counts ours again."""
    cost = stored_cost(name)
    assert (f"{cost.params / 1e6:.2f}", f"{cost.macs / 1e9:.1f}") == (params, macs)
    assert from_public(None, published_shapes(model_config(name))) == model_config(name)


def published_shapes(config: HieraConfig) -> dict[str, torch.Size]:
    """Names and shapes in a published file, as far as they tell its size."""
    begins = list(accumulate(config.depths))
    names = [f"blocks.{i}.norm1.weight" for i in range(begins[-1])] + [f"blocks.{i}.proj.weight" for i in begins[:-1]]
    return dict.fromkeys(names, torch.Size([1])) | {
        "pos_embed_spatial": torch.Size([1, 56 * 56, config.width]),
        "pos_embed_temporal": torch.Size([1, 8, config.width]),
        "patch_embed.proj.weight": torch.Size([config.width, 3, 3, 7, 7]),
        "blocks.0.mlp.fc1.weight": torch.Size([4 * config.width, config.width]),
        "head.projection.weight": torch.Size([400, 8 * config.width]),
    }


# --- the original classes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_features_scores_and_gradients_equal_the_original(size: str, originals: SimpleNamespace) -> None:
    theirs = original(originals, **SIZES[size])
    ours, video = ours_of(theirs), noise()
    _, stages = theirs(video, return_intermediates=True)
    taps = ours.taps(video, [f"block.{last}" for last in theirs.stage_ends])
    for last, stage in zip(theirs.stage_ends, stages):
        assert stage.std() > 0.1
        close(taps[f"block.{last}"], stage.permute(0, 4, 1, 2, 3))
    scores = ours(video)
    close(scores.softmax(-1), theirs(video))  # in evaluation the original gives probabilities
    close(scores, theirs.train()(video))
    scores.square().sum().backward()
    theirs(video).square().sum().backward()
    gradients = ours.convert_foreign({name: parameter.grad for name, parameter in theirs.named_parameters()})
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(("q_pool",), fast_first([(2,), (1,), (0,)], 1))
def test_fewer_poolings_equal_the_original(q_pool: int, originals: SimpleNamespace) -> None:
    theirs = original(originals, q_pool=q_pool)
    ours, video = ours_of(theirs), noise(clips=1)
    assert ours.grid_at(7) == (128, 2, *[16 >> q_pool] * 2)
    with torch.no_grad():
        close(ours(video), theirs.train()(video))


def test_files_and_repositories_of_the_public_code_load(
    tmp_path: Path, originals: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs, video = original(originals, drop_path_rate=0.2), noise(clips=1)
    expected = HieraConfig(
        classes=5, depths=(1, 2, 3, 1), width=16, drop_path=0.2, clip=ClipSpec(frames=4, stride=4, size=64)
    )
    torch.save({"model_state": theirs.state_dict()}, tmp_path / "hiera.pth")
    theirs.save_pretrained(tmp_path, config=theirs.config)  # model.safetensors and config.json
    for file in ("hiera.pth", "model.safetensors"):
        model = load(tmp_path / file).model
        assert model.config == expected and "100.0 % of the parameters match" in capsys.readouterr().err
        with torch.no_grad():
            close(model.double()(video).softmax(-1), theirs(video), atol=1e-6)  # loaded in single precision


def test_masked_entry_equals_the_encoder_of_pretraining(originals: SimpleNamespace) -> None:
    theirs = randomised(
        originals.MAE(
            **(VIDEO | SIZES["as B"]), input_size=(4, 64, 64), q_pool=2, decoder_embed_dim=16, decoder_depth=1
        )
    )
    config = from_public(None, shapes(theirs) | {"patch_embed.proj.weight": torch.Size([96, 3, 3, 7, 7])})
    assert config is not None and config.classes == 0 and config.q_pool == 3
    ours = from_public({"num_heads": 1, "q_pool": 2}, shapes(theirs)).build().double()  # type: ignore[union-attr]
    with pytest.warns(UserWarning, match="no last norm: it starts as a fresh one"):  # encoder_norm is of another sum
        report = import_weights(ours, theirs.state_dict(), min_matched=1.0)
    assert not report.missing and (ours.norm.weight == 1).all() and (ours.norm.bias == 0.02).all()
    needless = ("decoder_", "mask_token", "multi_scale_fusion_heads.", "encoder_norm.")
    assert len(report.unexpected) == 26 and all(name.startswith(needless) for name in report.unexpected)
    assert "26 not used: mask_token, decoder_pos_embed" in str(report)

    video, kept = noise(), torch.rand(2, 8).argsort(1) < 3
    state, maps = ours.stem(video, kept), []
    for i, block in enumerate(ours.blocks):
        state = block(state)
        if i in theirs.stage_ends:
            maps.append(ours.unit_maps(state)[:, :, None])  # the original keeps an axis of time in each unit
    assert state.tokens.shape == (2, 3, 4, 128) and len(maps) == 4
    fused = sum(originals.fuse(head, x) for head, x in zip(theirs.multi_scale_fusion_heads, [*maps[:2], maps[3]]))
    latent, _ = theirs.forward_encoder(video, 0.7, mask=kept)
    close(theirs.encoder_norm(fused), latent)
    with pytest.raises(GestaError, match="no whole feature map"):
        ours.to_grid(state)
    everything = torch.ones(2, 8, dtype=torch.bool)
    assert torch.equal(ours.stem(video, everything).tokens, ours.stem(video).tokens)


@pytest.mark.parametrize("kept", [torch.arange(16).view(2, 8) < 5, torch.ones(2, 4, dtype=torch.bool)])
def test_a_mask_that_does_not_fit_is_refused(kept: Tensor) -> None:
    with pytest.raises(GestaError, match=r"must be \(2, 8\) here, clips x mask units, and keep as many"):
        small().build().stem(noise().float(), kept)


def test_bfloat16(originals: SimpleNamespace) -> None:
    theirs = original(originals)
    ours, video = ours_of(theirs).float(), noise().float()
    exact = theirs.float().train()(video)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        low = ours(video)
    assert low.dtype == torch.bfloat16
    assert (low - exact).abs().max() < 0.05 * exact.abs().max()


# --- other clips -----------------------------------------------------------------------------------------------------


def small(**changes: Any) -> HieraConfig:
    fields = {"classes": 5, "depths": (1, 2, 3, 1), "width": 16, "clip": ClipSpec(frames=4, size=64)}
    return HieraConfig(**(fields | changes))


def test_other_clips_have_interpolated_embeddings(originals: SimpleNamespace) -> None:
    """Time linearly, space bicubically: as the original gives it with tables interpolated by hand."""
    source, target = original(originals), original(originals, frames=6, size=96)
    weights = source.state_dict()
    weights["pos_embed_temporal"] = F.interpolate(weights["pos_embed_temporal"].mT, size=3, mode="linear").mT
    spatial = weights["pos_embed_spatial"].mT.unflatten(2, (16, 16))
    weights["pos_embed_spatial"] = F.interpolate(spatial, size=(24, 24), mode="bicubic").flatten(2).mT
    target.load_state_dict(weights)
    video = noise(6, 96, clips=1)
    with torch.no_grad():
        expected = target.train()(video)
        close(ours_of(source)(video), expected)
        larger = small(clip=ClipSpec(frames=6, size=96)).build().double()
        with pytest.warns(
            UserWarning, match=r"was made for another clip and is interpolated to (3|576) vectors"
        ) as said:
            import_weights(larger, source.state_dict(), min_matched=1.0)
        assert len(said) == 2
        close(larger(video), expected)
        assert ours_of(source)(noise(5, 64)[..., :32, :]).shape == (2, 5)  # an odd length, a frame that is no square


def test_sizes_that_mask_units_do_not_tile_are_refused() -> None:
    with pytest.raises(GestaError, match=r"multiples of 32 pixels .* not 80 x 80"):
        small(clip=ClipSpec(size=80)).build()
    with pytest.raises(GestaError, match=r"multiples of 32 pixels .* not 64 x 48"):
        small().build()(torch.zeros(1, 3, 4, 64, 48))
    with pytest.raises(GestaError, match="a Hiera needs at least one stage"):
        small(depths=()).build()
    with pytest.raises(GestaError, match="give at most 3"):
        small(q_pool=4).build()
    with pytest.raises(GestaError, match="divisible"):
        small(heads=3).build()


# --- configurations of others ----------------------------------------------------------------------------------------


def test_only_what_it_can_be_is_built_from_a_public_configuration(originals: SimpleNamespace) -> None:
    theirs = shapes(original(originals))
    assert (
        from_public(None, {"pos_embed": torch.Size([1, 9, 4]), "patch_embed.proj.weight": torch.Size([4, 3, 7, 7])})
        is None
    )
    assert from_public({"model_type": "videomae"}, {"blocks.0.attn.qkv.weight": torch.Size([3, 1])}) is None
    with pytest.raises(GestaError, match="a Hiera of width 16 is not published"):
        from_public(None, theirs)
    for name, value in (("dim_mul", 1.5), ("mask_unit_attn", [True, False, False, False]), ("q_stride", [2, 2, 2])):
        with pytest.raises(GestaError, match=f"config.json: {name} is "):
            from_public({"num_heads": 1, name: value}, theirs)


def test_fresh_weights_are_the_public_ones() -> None:
    torch.manual_seed(0)
    model = small().build()
    for name, parameter in model.named_parameters():
        if name.startswith("classifier."):
            assert parameter.abs().max() < 1e-4
        elif name.endswith("bias") and not name.startswith("patch_embed."):
            assert torch.equal(parameter, torch.full_like(parameter, 0.02)), name
        elif "norm" not in name and not name.endswith("bias"):
            assert 0.018 < parameter.std() < 0.022, name
    assert hiera_b().clip == ClipSpec(frames=16, stride=4, size=224, mean=(0.45,) * 3, std=(0.225,) * 3)
