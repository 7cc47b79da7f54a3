"""The 3-D ResNet against numbers known beforehand and against a second forward pass written independently."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.video.resnet import Bottleneck as TorchvisionBottleneck
from torchvision.models.video.resnet import Conv3DSimple

from gesta.errors import GestaError
from gesta.models import create_model, model_config
from gesta.models.r3d import R3D, Bottleneck

TINY = {"classes": 5}


def hara_forward(weights: dict[str, Tensor], video: Tensor, depths: tuple[int, ...]) -> Tensor:
    """Hara's ResNet with bottlenecks and shortcut B, straight from a state dict in his names, in evaluation mode."""

    def norm(x: Tensor, name: str) -> Tensor:
        scale = weights[f"{name}.weight"] / (weights[f"{name}.running_var"] + 1e-5).sqrt()
        offset = weights[f"{name}.bias"] - weights[f"{name}.running_mean"] * scale
        return x * scale.view(-1, 1, 1, 1) + offset.view(-1, 1, 1, 1)

    x = F.conv3d(video, weights["conv1.weight"], stride=(1, 2, 2), padding=(3, 3, 3))
    x = F.max_pool3d(norm(x, "bn1").relu(), kernel_size=3, stride=2, padding=1)
    for stage, depth in enumerate(depths, start=1):
        for i in range(depth):
            name, stride = f"layer{stage}.{i}", 2 if stage > 1 and i == 0 else 1
            y = norm(F.conv3d(x, weights[f"{name}.conv1.weight"]), f"{name}.bn1").relu()
            y = norm(F.conv3d(y, weights[f"{name}.conv2.weight"], stride=stride, padding=1), f"{name}.bn2").relu()
            y = norm(F.conv3d(y, weights[f"{name}.conv3.weight"]), f"{name}.bn3")
            if i == 0:
                x = norm(F.conv3d(x, weights[f"{name}.downsample.0.weight"], stride=stride), f"{name}.downsample.1")
            x = (x + y).relu()
    return F.linear(F.adaptive_avg_pool3d(x, 1).flatten(1), weights["fc.weight"], weights["fc.bias"])


def hara_weights(model: R3D, prefix: str = "") -> dict[str, Tensor]:
    """Random weights, with lively batch norms, in the names of Hara's checkpoints."""
    generator = torch.Generator().manual_seed(3)
    weights = {}
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            value = torch.rand(value.shape, generator=generator) * 0.5 + (0.5 if "running_var" in name else -0.2)
            if value.dim() == 5:
                value = (value - 0.05) / value[0].numel() ** 0.5
        weights[prefix + name.replace("classifier.linear.", "fc.")] = value
    return weights


def test_published_numbers() -> None:
    """46,405,925 parameters and 20.137191 GMACs at 32 frames of 112 × 112, 101 classes (ST-MANet's backbone)."""
    with torch.device("meta"):
        model = create_model("r3d_50", classes=101).eval()
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, 32, 112, 112))
    assert sum(p.numel() for p in model.parameters()) == 46_405_925
    assert counter.get_total_flops() == 2 * 20_137_191_424


def test_tiny_is_tiny() -> None:
    model = create_model("r3d_tiny")
    assert sum(p.numel() for p in model.parameters()) < 1_000_000
    assert model.config.clip.frames == 16 and model.config.clip.size == 64


def test_clip_of_r3d_50() -> None:
    clip = model_config("r3d_50").clip
    assert (clip.frames, clip.sampling, clip.stride, clip.size) == (32, "dense", 2, 112)
    assert clip.mean == (0.4345, 0.4051, 0.3775) and clip.std == (0.2768, 0.2713, 0.2737)


def test_names_are_haras() -> None:
    with torch.device("meta"):
        names = set(create_model("r3d_50").state_dict())
    bn = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    expected = {"conv1.weight", "classifier.linear.weight", "classifier.linear.bias"} | {f"bn1.{n}" for n in bn}
    for stage, depth in zip((1, 2, 3, 4), (3, 4, 6, 3)):
        for i in range(depth):
            block = f"layer{stage}.{i}"
            expected |= {f"{block}.conv{k}.weight" for k in (1, 2, 3)}
            expected |= {f"{block}.bn{k}.{n}" for k in (1, 2, 3) for n in bn}
        expected |= {f"layer{stage}.0.downsample.0.weight"} | {f"layer{stage}.0.downsample.1.{n}" for n in bn}
    assert names == expected


def test_grids_of_the_stages() -> None:
    """Table of the specification: 64x16x28x28 into stage 2 … 2048x2x4x4 out of stage 5; stages start at 0, 3, 7, 13."""
    with torch.device("meta"):
        model = create_model("r3d_50")
    assert len(model.blocks) == 16
    assert model.grid_at(0) == (64, 16, 28, 28)
    assert {model.grid_at(i) for i in (1, 2, 3)} == {(256, 16, 28, 28)}
    assert {model.grid_at(i) for i in range(4, 8)} == {(512, 8, 14, 14)}
    assert {model.grid_at(i) for i in range(8, 14)} == {(1024, 4, 7, 7)}
    assert {model.grid_at(i) for i in (14, 15, 16)} == {(2048, 2, 4, 4)}


@pytest.mark.parametrize("prefix", ["", "module."])
def test_haras_checkpoints_give_haras_scores(prefix: str) -> None:
    model = create_model("r3d_tiny", depths=(2, 1, 2, 1), **TINY).eval()
    weights = hara_weights(model, prefix)
    model.load_state_dict(model.convert_foreign(weights))
    video = torch.randn(2, 3, 9, 37, 50)  # odd sizes: everything rounds up
    plain = {name.removeprefix(prefix): value for name, value in weights.items()}
    expected = hara_forward(plain, video, (2, 1, 2, 1))
    assert expected.std() > 1e-3
    with torch.no_grad():
        torch.testing.assert_close(model(video), expected, atol=1e-5, rtol=1e-5)


def test_convert_leaves_unknown_and_own_names() -> None:
    model = create_model("r3d_tiny", **TINY)
    own = model.state_dict()
    assert list(model.convert_foreign(own)) == list(own)
    assert list(model.convert_foreign({"something.else": torch.zeros(1)})) == ["something.else"]
    two = create_model("r3d_tiny", classes={"verb": 2, "noun": 3})
    assert list(two.convert_foreign({"fc.weight": torch.zeros(1)})) == ["fc.weight"]  # neither of the two is meant


@pytest.mark.parametrize("inputs, width, stride", [(16, 8, 1), (32, 8, 1), (16, 8, 2)])
def test_bottleneck_is_torchvisions(inputs: int, width: int, stride: int) -> None:
    block = Bottleneck(inputs, width, stride, drop_path=0.0)
    shortcut = None
    if stride != 1 or inputs != 4 * width:
        shortcut = torch.nn.Sequential(
            torch.nn.Conv3d(inputs, 4 * width, 1, stride, bias=False), torch.nn.BatchNorm3d(4 * width)
        )
    # its conv2 computes a "midplanes" for factorised kernels; the plain builder ignores it
    other = TorchvisionBottleneck(inputs, width, Conv3DSimple, stride, shortcut)
    assert [v.shape for v in other.state_dict().values()] == [v.shape for v in block.state_dict().values()]
    other.load_state_dict(dict(zip(other.state_dict(), block.state_dict().values())))
    x = torch.randn(2, inputs, 5, 6, 7)
    torch.testing.assert_close(block(x), other(x), atol=1e-5, rtol=1e-5)


def test_initialised_by_kaiming_fan_out() -> None:
    model = create_model("r3d_50", classes=2)
    for weight in (model.conv1.weight, model.blocks[3].conv2.weight):
        fan_out = weight.shape[0] * weight[0, 0].numel()
        assert weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.02)


def test_depths_of_parameters() -> None:
    model = create_model("r3d_tiny", **TINY)
    depths = {name: model.depth_of(name) for name, _ in model.named_parameters()}
    assert depths["conv1.weight"] == depths["bn1.bias"] == 0
    assert depths["layer1.0.conv1.weight"] == 1 and depths["layer4.0.downsample.0.weight"] == 4
    assert depths["classifier.linear.weight"] == 5


def test_drop_path_drops_whole_clips() -> None:
    block = Bottleneck(32, 8, 1, drop_path=0.5).train()
    torch.manual_seed(0)
    x = torch.rand(64, 32, 2, 2, 2)
    untouched = (block(x) == x).flatten(1).all(1).float().mean().item()
    assert 0.25 < untouched < 0.75
    model = create_model("r3d_tiny", drop_path=0.3, **TINY)
    assert [b.drop_path.drop_prob for b in model.blocks] == pytest.approx([0.0, 0.1, 0.2, 0.3])


def test_a_kernel_of_even_size_is_refused() -> None:
    """Maps would have one position more than ``grid_at`` tells plug-ins."""
    with pytest.raises(GestaError, match="stem_kernel is 2 7 7, and its sizes must be odd"):
        create_model("r3d_tiny", stem_kernel=(2, 7, 7))
