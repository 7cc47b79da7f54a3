"""CycleMLP against a forward pass with deformable convolutions, and against the published costs."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from gesta.config import from_json, to_json
from gesta.cost import count
from gesta.errors import GestaError
from gesta.model import ClipSpec
from gesta.models import create_model, model_config
from gesta.models.cyclemlp import CycleFC, CycleMLP, CycleMLPConfig, ata_cyclemlp_b5, cyclemlp_b5
from gesta.models.frames import temporal_inserts
from gesta.plugins.ata import ATA

DEPTHS, WIDTHS = (1, 2, 1), (8, 12, 20)


def small(**changes: object) -> CycleMLPConfig:
    clip = ClipSpec(frames=3, stride=1, size=36)
    return CycleMLPConfig(depths=DEPTHS, widths=WIDTHS, **{"classes": 5, "clip": clip, **changes})  # type: ignore[arg-type]


def video(frames: int = 3) -> Tensor:
    return torch.randn(2, 3, frames, 36, 36, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def public_weights(seed: int = 1) -> dict[str, Tensor]:
    """Random weights with the public checkpoints' names and shapes."""
    generator = torch.Generator().manual_seed(seed)
    weights: dict[str, Tensor] = {}

    def add(name: str, *shape: int, bias: bool = True) -> None:
        fan_in = torch.Size(shape[1:]).numel()
        weights[f"{name}.weight"] = torch.randn(shape, generator=generator, dtype=torch.float64) / fan_in**0.5
        if bias:
            weights[f"{name}.bias"] = torch.randn(shape[0], generator=generator, dtype=torch.float64)

    add("patch_embed.proj", WIDTHS[0], 3, 7, 7)
    for stage, (depth, c) in enumerate(zip(DEPTHS, WIDTHS)):
        for i in range(depth):
            block = f"network.{2 * stage}.{i}"
            add(f"{block}.norm1", c)
            add(f"{block}.attn.mlp_c", c, c, bias=False)
            for branch, axis in (("sfc_h", 1), ("sfc_w", 0)):
                add(f"{block}.attn.{branch}", c, c, 1, 1)
                offset = torch.zeros(c, 2)
                offset[1::3, axis], offset[2::3, axis] = 1, -1
                weights[f"{block}.attn.{branch}.offset"] = offset.view(1, 2 * c, 1, 1)
            add(f"{block}.attn.reweight.fc1", c // 4, c)
            add(f"{block}.attn.reweight.fc2", 3 * c, c // 4)
            add(f"{block}.attn.proj", c, c)
            add(f"{block}.norm2", c)
            add(f"{block}.mlp.fc1", 4 * c, c)
            add(f"{block}.mlp.fc2", c, 4 * c)
        if stage + 1 < len(DEPTHS):
            add(f"network.{2 * stage + 1}.proj", WIDTHS[stage + 1], c, 3, 3)
    add("norm", WIDTHS[-1])
    add("head", 5, WIDTHS[-1])
    return weights


def image_scores(w: dict[str, Tensor], images: Tensor) -> Tensor:
    """CycleMLP on images, channels first throughout, straight from weights in the public names."""

    def linear(x: Tensor, name: str) -> Tensor:
        weight = w[f"{name}.weight"]
        return F.conv2d(x, weight.view(*weight.shape, 1, 1), w.get(f"{name}.bias"))

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var = x.mean(1, keepdim=True), x.var(1, unbiased=False, keepdim=True)
        scale, shift = (w[f"{name}.{part}"].view(1, -1, 1, 1) for part in ("weight", "bias"))
        return (x - mean) / (var + 1e-5).sqrt() * scale + shift

    def cycle(x: Tensor, name: str) -> Tensor:
        offset = w[f"{name}.offset"].to(x).expand(len(x), -1, *x.shape[2:])
        return deform_conv2d(x, offset, w[f"{name}.weight"], w[f"{name}.bias"])

    x = F.conv2d(images, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=4, padding=2)
    for stage, depth in enumerate(DEPTHS):
        for i in range(depth):
            block = f"network.{2 * stage}.{i}"
            y = norm(x, f"{block}.norm1")
            branches = [
                cycle(y, f"{block}.attn.sfc_h"),
                cycle(y, f"{block}.attn.sfc_w"),
                linear(y, f"{block}.attn.mlp_c"),
            ]
            summary = torch.stack(branches).sum(0).mean((2, 3), keepdim=True)
            logits = linear(F.gelu(linear(summary, f"{block}.attn.reweight.fc1")), f"{block}.attn.reweight.fc2")
            shares = torch.stack([logits[:, k::3] for k in range(3)]).softmax(0)  # the branch varies fastest
            x = x + linear(sum(a * b for a, b in zip(shares, branches)), f"{block}.attn.proj")  # type: ignore[arg-type]
            y = F.gelu(linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1"))
            x = x + linear(y, f"{block}.mlp.fc2")
        if stage + 1 < len(DEPTHS):
            name = f"network.{2 * stage + 1}.proj"
            x = F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], stride=2, padding=1)
    return F.linear(norm(x, "norm").mean((2, 3)), w["head.weight"], w["head.bias"])


def loaded(config: CycleMLPConfig | None = None) -> CycleMLP:
    """A model with the weights of :func:`public_weights`, in float64."""
    model = (config or small()).build().double().eval()
    model.load_state_dict(model.convert_foreign(public_weights()), strict=False)
    return model


@pytest.mark.parametrize("axis, dim", [("width", 2), ("height", 1)])
def test_cycle_fc_is_a_deformable_convolution(axis: str, dim: int) -> None:
    torch.manual_seed(0)
    layer = CycleFC(7, axis).double()  # type: ignore[arg-type]
    x = torch.randn(2, 4, 5, 7, dtype=torch.float64, requires_grad=True)
    offset = layer.offsets().double().expand(2, -1, 4, 5)
    expected = deform_conv2d(x.permute(0, 3, 1, 2), offset, layer.weight[..., None, None], layer.bias).permute(
        0, 2, 3, 1
    )
    found = layer(x)
    torch.testing.assert_close(found, expected, atol=1e-13, rtol=0)
    inputs = (x, layer.weight, layer.bias)
    for ours, theirs in zip(*(torch.autograd.grad(y.square().sum(), inputs) for y in (found, expected))):
        torch.testing.assert_close(ours, theirs, atol=1e-11, rtol=0)
    # said plainly: channel 0 from here, 1 from one ahead, 2 from one back, and so on; zeros beyond the edge
    nn.init.eye_(layer.weight)
    nn.init.zeros_(layer.bias)
    ahead, back = x.roll(-1, dim).clone(), x.roll(1, dim).clone()
    ahead.select(dim, -1).zero_()
    back.select(dim, 0).zero_()
    assert torch.equal(layer(x), torch.stack([(x, ahead, back)[c % 3][..., c] for c in range(7)], -1))


@torch.no_grad()
def test_a_still_clip_gets_the_public_models_scores() -> None:
    model = loaded()
    images = video(1)[:, :, 0]
    expected = image_scores(public_weights(), images)
    assert expected.std() > 0.1
    for frames in (3, 1):
        still = images[:, :, None].expand(-1, -1, frames, -1, -1)
        torch.testing.assert_close(model(still), expected, atol=1e-11, rtol=0)


@torch.no_grad()
def test_a_moving_clip_gets_the_mean_of_its_frames_scores() -> None:
    expected = torch.stack([image_scores(public_weights(), frame) for frame in video().unbind(2)]).mean(0)
    torch.testing.assert_close(loaded()(video()), expected, atol=1e-11, rtol=0)


def test_public_names() -> None:
    model = small().build()
    weights = public_weights()
    converted = model.convert_foreign({f"module.{name}": value for name, value in weights.items()})
    report = model.load_state_dict(converted, strict=False)
    assert report.missing_keys == ["time_embed"] and not report.unexpected_keys
    assert list(model.convert_foreign(model.state_dict())) == list(model.state_dict())
    weights["network.2.1.attn.sfc_h.offset"] = weights["network.2.1.attn.sfc_w.offset"]
    with pytest.raises(GestaError, match=r"blocks\.2\.attn\.sfc_h\.offset: only .* of stepsize 3"):
        model.convert_foreign(weights)


def test_grids() -> None:
    with torch.device("meta"):
        model = cyclemlp_b5().build()
        taps = model.taps(torch.empty(1, 3, 8, 224, 224), ["stem", *(f"block.{i}" for i in range(34))])
    assert len(model.blocks) == 34
    stages = [(96, 8, 56, 56), (192, 8, 28, 28), (384, 8, 14, 14), (768, 8, 7, 7)]
    assert [model.grid_at(i) for i in (0, 2, 3, 6, 7, 30, 31, 34)] == [stage for stage in stages for _ in range(2)]
    names = ["stem", *(f"block.{i}" for i in range(34))]
    assert [tuple(taps[name].shape[1:]) for name in names] == [model.grid_at(i) for i in range(35)]
    odd = small(clip=ClipSpec(frames=2, size=45)).build()
    assert odd.grid_at(4) == (20, 2, 3, 3)
    assert tuple(odd.taps(torch.zeros(1, 3, 2, 45, 45), ["block.3"])["block.3"].shape) == (1, 20, 2, 3, 3)


@torch.no_grad()
def test_temporal_attention_and_alignment() -> None:
    """A fresh branch changes nothing; then dealigning does not commute with what has a place in space (§6.9)."""
    plain = loaded()
    scores = {}
    for dealign in (True, False):
        config = small()
        config.inserts = temporal_inserts(config, ATA(dealign=dealign))
        model = loaded(config)
        if dealign:
            torch.testing.assert_close(model(video()), plain(video()), atol=1e-12, rtol=0)
        torch.manual_seed(4)
        for layer in model.inserts.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.2)
        scores[dealign] = model(video())
        assert model(video(1)).isfinite().all()
    assert (scores[True] - plain(video())).abs().max() > 1e-3
    assert (scores[True] - scores[False]).abs().max() > 1e-3


def test_json_and_named_sizes() -> None:
    config = model_config("ata_cyclemlp_tiny")
    assert from_json(to_json(config)) == config and len(config.inserts) == 5
    assert [insert.at for insert in ata_cyclemlp_b5().inserts] == list(range(34))
    heads = [create_model("ata_cyclemlp_tiny").inserts[str(at)][0].temporal.heads for at in (0, 1, 2, 4)]  # type: ignore
    assert heads == [1, 2, 4, 6]
    with pytest.raises(GestaError, match="depths and widths for as many stages"):
        CycleMLPConfig(depths=(1, 2), widths=(8,)).build()
    for widths in ((), (8, 2)):
        with pytest.raises(GestaError, match="a CycleMLP needs a stage, and 4 channels or more in each"):
            CycleMLPConfig(depths=(1,) * len(widths), widths=widths).build()


# --- the published costs (ATA, Table 3), 8 frames of 224 × 224, 400 classes -----------------------------------------

TIME_EMBEDDING = 8 * 96  # our addition
HEAD_PER_FRAME = 7 * 768 * 400  # the published costs are of a classifier on every frame; ours sees their mean


def test_published_cost() -> None:
    """75.3 M and 82.4 G (printed with their columns swapped); fvcore does not know deformable convolutions."""
    cost = count(cyclemlp_b5(), "fvcore")
    assert cost.params - TIME_EMBEDDING == 75_285_880
    assert cost.macs == 82_406_774_784 and round((cost.macs + HEAD_PER_FRAME) / 1e9, 3) == 82.409
    cycle_fcs = 2 * sum(8 * n * c * c * d for n, c, d in zip((3136, 784, 196, 49), (96, 192, 384, 768), (3, 4, 24, 3)))
    norms = 5 * 8 * sum(2 * n * c * d for n, c, d in zip((3136, 784, 196, 49), (96, 192, 384, 768), (3, 4, 24, 3)))
    norms += 5 * 8 * 49 * 768
    real = count(cyclemlp_b5(), "torch").macs
    assert real == cost.macs + cycle_fcs - norms == 97_853_657_088
    assert round(real / 8e9, 2) == 12.23  # per frame; the public code says 12.3


@pytest.mark.full  # the fast suite counts these models in other settings
def test_published_cost_with_temporal_attention() -> None:
    """102.8 M and 122.4 G; alignment itself is not counted."""
    cost = count(ata_cyclemlp_b5(), "fvcore")
    assert cost.params - TIME_EMBEDDING == 102_816_664
    assert cost.macs == 122_424_944_640 and round((cost.macs + HEAD_PER_FRAME) / 1e9, 3) == 122.427
    assert count(ata_cyclemlp_b5(), "torch").macs == 137_597_865_984
