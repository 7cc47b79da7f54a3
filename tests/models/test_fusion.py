"""Fusion of streams: joined features, cross-attention as a plain transcription has it, and missing streams."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from gesta.checkpoint.weights import import_weights
from gesta.config import replace
from gesta.errors import GestaError
from gesta.models import model_config
from gesta.models.fusion import CrossBlock, Fusion, FusionConfig, State
from gesta.models.mfst import mfst_tiny


def small(**changes: Any) -> FusionConfig:
    """An R3D for RGB and a TimeSformer for flow: trunks of different kinds, widths and maps."""
    trunks = [model_config("r3d_tiny"), model_config("timesformer_tiny", depth=1)]
    clip = replace(trunks[0].clip, streams=("rgb", "flow"), frames=4, size=32)
    attention = {} if changes.get("depth") == 0 else {"width": 16, "heads": 2, "grid": (2, 2, 2)}
    return FusionConfig(classes=5, trunks=trunks, clip=clip, **attention | changes)


def built(config: FusionConfig) -> Fusion:
    torch.manual_seed(0)
    return config.build().double()


@pytest.fixture(scope="module")
def video() -> Tensor:
    return torch.randn(3, 6, 4, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@torch.no_grad()
@pytest.mark.parametrize("depth", [0, 2])
def test_features_are_those_of_the_networks_and_missing_ones_are_made_up_for(video: Tensor, depth: int) -> None:
    model = built(small(depth=depth)).eval()
    alone = [
        trunk.forward_head(trunk.forward_features(clip), pre_logits=True)
        for trunk, clip in zip(model._trunks(), video.split(3, 1))
    ]
    part = video.clone()
    part[1, 3:] = part[2, :3] = math.nan
    found = model.embed(part).split([*model.widths, 2 * 16 if depth else 0], 1)
    for stream, (weights, features) in enumerate(zip(((1, 2, 0), (1, 0, 2)), alone)):
        torch.testing.assert_close(found[stream], features * torch.tensor(weights, dtype=torch.float64)[:, None])
    if depth:
        attended = found[2].chunk(2, 1)
        assert not attended[1][1].any() and not attended[0][2].any() and attended[0][1].any()
    assert model(part).isfinite().all()


@torch.no_grad()
def test_cross_attention_is_that_of_a_plain_transcription() -> None:
    torch.manual_seed(2)
    block = CrossBlock(8, 2, 2.0).double()
    tokens = torch.randn(2, 3, 4, 8, dtype=torch.float64)
    there = torch.tensor([[True, True, True], [True, False, False]])
    found = block(State(tokens, torch.zeros(2, 0), there, {})).tokens
    for clip in range(2):
        for stream in range(3):
            x = tokens[clip, stream]
            others = [tokens[clip, s] for s in range(3) if s != stream and there[clip, s]]
            if others:
                query, _, _ = block.attn.qkv(block.norm1(x)).chunk(3, -1)
                _, key, value = block.attn.qkv(block.norm1(torch.cat(others))).chunk(3, -1)
                heads = [
                    torch.softmax(query[:, h] @ key[:, h].T / 2, -1) @ value[:, h] for h in (slice(0, 4), slice(4, 8))
                ]
                x = x + block.attn.proj(torch.cat(heads, -1))
            torch.testing.assert_close(found[clip, stream], x + block.mlp(block.norm2(x)))


def test_weights_of_one_stream_start_the_trunk_that_is_named() -> None:
    torch.manual_seed(3)
    config = model_config("r3d_tiny")
    source = replace(config, classes=5, clip=replace(config.clip, frames=4, size=32)).build().state_dict()
    model = built(small())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert import_weights(model, source, only=("trunks.rgb.",)).matched_fraction == 1
    for name, value in model.state_dict().items():
        own = name.removeprefix("trunks.rgb.")
        assert torch.equal(value, source[own].to(value.dtype) if own != name else before[name]), name


def test_training_leaves_streams_out_but_never_all() -> None:
    model = built(small(drop_stream=0.8))
    present = torch.ones(4000, 2, dtype=torch.bool)
    present[0] = torch.tensor([True, False])
    torch.manual_seed(0)
    kept = model._drop_streams(present)
    assert kept.any(1).all() and (kept <= present).all()
    # of a pair 0.8 are chosen, and left with one stream in half of the cases
    assert abs((kept[1:].sum(1) == 1).float().mean() - 0.4) < 0.03
    assert abs(kept[1:, 0].float().mean() - 0.8) < 0.03


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"trunks": [mfst_tiny()] * 3}, "trunks .* for the streams rgb, flow: give one each, or one for all"),
        ({"heads": 3}, "which does not divide the width 16"),
        (
            {"clip": replace(mfst_tiny().clip, streams=("rgb", "rgb"))},
            "clip.streams is rgb rgb, which names a stream twice",
        ),
        ({"trunks": [mfst_tiny()], "clip": mfst_tiny().clip}, "one network for each of model.clip.streams"),
    ],
)
def test_refusals(changes: dict[str, Any], sentence: str) -> None:
    config = replace(small(), **changes)
    with pytest.raises(GestaError, match=sentence), torch.device("meta"):
        config.build()


@torch.no_grad()
def test_a_network_that_reads_its_class_token_alone_gives_its_map_too(video: Tensor) -> None:
    ctn = model_config("ctn_tiny", depth=1)
    model = built(replace(small(), trunks=[ctn, ctn])).eval()
    assert model(video).shape == (3, 5)
