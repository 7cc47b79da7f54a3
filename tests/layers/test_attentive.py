"""The attentive probe: a plain transcription of it, with every kind of model, over several layers, saved."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conftest import fast_first
from gesta.checkpoint import load, save_model
from gesta.checkpoint.weights import import_weights
from gesta.errors import GestaError
from gesta.layers.attentive import Attentive, AttentivePool
from gesta.models import create_model

SMALL = {"heads": 4, "depth": 2, "mlp_ratio": 2.0}


def randomised(module: nn.Module) -> Any:
    generator = torch.Generator().manual_seed(0)
    for parameter in module.double().eval().parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return module


def video(frames: int = 8, size: int = 64, channels: int = 3) -> Tensor:
    return torch.randn(2, channels, frames, size, size, generator=torch.Generator().manual_seed(1)).double()


def plain_attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    q, k, v = (part.unflatten(-1, (heads, -1)) for part in (q, k, v))
    weights = (torch.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5).softmax(-1)
    return torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2)


def plain_probe(p: dict[str, Tensor], x: Tensor, heads: int, depth: int, eps: float) -> Tensor:
    """Of :mod:`gesta.layers.attentive`'s two lines."""

    def norm(name: str, y: Tensor) -> Tensor:
        y = (y - y.mean(-1, keepdim=True)) / (y.var(-1, correction=0, keepdim=True) + eps).sqrt()
        return y * p[f"{name}.weight"] + p[f"{name}.bias"]

    def linear(name: str, y: Tensor) -> Tensor:
        return y @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    def mlp(name: str, y: Tensor) -> Tensor:
        return linear(f"{name}.2", F.gelu(linear(f"{name}.0", y)))

    for i in range(depth - 1):
        block = f"blocks.{i}."
        q, k, v = linear(block + "attn.qkv", norm(block + "norm1", x)).chunk(3, -1)
        x = x + linear(block + "attn.proj", plain_attention(q, k, v, heads))
        x = x + mlp(block + "mlp", norm(block + "norm2", x))
    query = p["cross.query"].expand(len(x), -1, -1)
    k, v = linear("cross.kv", norm("cross.norm1", x)).chunk(2, -1)
    query = query + plain_attention(linear("cross.q", query), k, v, heads)
    return (query + mlp("cross.mlp", norm("cross.norm2", query)))[:, 0]


@pytest.mark.parametrize("depth", [1, 3])
def test_probe_equals_a_plain_transcription(depth: int) -> None:
    pool = randomised(AttentivePool(8, 2, depth, 4.0, 1e-5))
    tokens = torch.randn(2, 11, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = plain_probe(dict(pool.named_parameters()), tokens, 2, depth, 1e-5)
    torch.testing.assert_close(pool(tokens), expected, atol=1e-12, rtol=0)
    wrong_eps = plain_probe(dict(pool.named_parameters()), tokens, 2, depth, 1e-6)
    assert (pool(tokens) - wrong_eps).abs().max() > 1e-9


NAMES = (
    "r3d_tiny", "ctn_tiny", "std_former_tiny", "mfst_rgbd_tiny",
    "hiera_tiny", "mvitv2_tiny", "timesformer_tiny", "rpe_stdt_tiny", "st_manet_tiny", "convnext_tiny",
)  # fmt: skip


@pytest.mark.parametrize(("name",), fast_first([(name,) for name in NAMES], 4))
def test_probe_reads_the_tokens_of_every_model(name: str, tmp_path: Any) -> None:
    torch.manual_seed(0)
    model = create_model(name, num_classes=3, attentive=Attentive(**SMALL)).eval()
    clip = model.config.clip
    clips = video(clip.frames, clip.size, clip.channels).float()
    state = model.forward_features(clips)
    tokens = model.tokens(state)
    assert tokens.shape == (2, model.to_grid(state)[0, 0].numel(), model.grid_at(len(model.blocks))[0])
    assert model.attentive is not None
    torch.testing.assert_close(model.embed(clips), model.attentive(tokens))
    torch.testing.assert_close(model.forward_head(state), model(clips))
    assert model.depth_of("attentive.cross.query") == len(model.blocks) + 1
    path = save_model(tmp_path / "model.safetensors", model, ["a", "b", "c"])
    torch.testing.assert_close(load(path).model(clips), model(clips))


def test_several_layers_are_joined_along_the_tokens() -> None:
    readout = Attentive(layers=(1, 3), **SMALL)
    model = randomised(create_model("timesformer_tiny", num_classes=3, attentive=readout))
    taps = model.taps(video(), ["block.1", "block.3"])
    tokens = torch.cat([model.norm(taps[name].flatten(2).mT) for name in ("block.1", "block.3")], 1)
    features = model.attentive(tokens)
    torch.testing.assert_close(model.embed(video()), features)
    torch.testing.assert_close(model(video()), model.classifier(features))
    with pytest.raises(GestaError, match="reads out several layers"):
        model.forward_head(model.forward_features(video()))


@pytest.mark.parametrize(
    ("name", "readout", "message"),
    [
        ("timesformer_tiny", Attentive(heads=7), "attentive.heads is 7, which does not divide the width 64"),
        ("timesformer_tiny", Attentive(layers=(4,)), "names block 4, which is none of blocks 0 to 3"),
        ("timesformer_tiny", Attentive(layers=(2, 1)), "name each block once, in their order"),
        ("hiera_tiny", Attentive(layers=(0, 6)), "names block 0, which has another width than the last"),
    ],
)
def test_what_cannot_be_read_is_refused(name: str, readout: Attentive, message: str) -> None:
    with torch.device("meta"), pytest.raises(GestaError, match=message):
        create_model(name, num_classes=3, attentive=readout)


def test_weights_without_a_probe_leave_it_fresh() -> None:
    torch.manual_seed(0)
    plain = create_model("r3d_tiny", num_classes=3)
    model = create_model("r3d_tiny", num_classes=3, attentive=Attentive(**SMALL))
    report = import_weights(model, plain.state_dict(), min_matched=1.0)
    assert report.matched_fraction == 1 and "attentive.cross.query" in report.missing
