"""ConvNeXt on frames: the published costs, and that its layout in space tells dealigned from permuted maps.

What holds for every image model of timm is in test_frames.py.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gesta.config import from_json, to_json
from gesta.cost import Cost, count
from gesta.model import VideoModel
from gesta.models import create_model, model_config
from gesta.models.convnext import ata_convnext_b, convnext_b
from gesta.models.frames import temporal_inserts
from gesta.plugins.ata import ATA

# the published costs (ATA, Table 3), 8 frames of 224 × 224, 400 classes
TIME_EMBEDDING = 8 * 128  # our addition
HEAD_PER_FRAME = 7 * 1024 * (400 + 5)  # the published costs are of a norm and classifier on every frame
# norms of the stem, the downsamplings and the head are written by hand in the public code, where fvcore misses them
NORMS_OUTSIDE = 5 * 8 * (3136 * 128 + 3136 * 128 + 784 * 256 + 196 * 512 + 1024)


def rounded(cost: Cost, missed: int = 0) -> float:
    return round((cost.macs + HEAD_PER_FRAME - missed) / 1e9, 3)


def test_published_cost() -> None:
    """88.0 M and 123.0 G."""
    cost = count(convnext_b(), "fvcore")
    assert cost.params - TIME_EMBEDDING == 87_976_464
    assert cost.macs == 123_060_868_096
    assert rounded(cost) == 123.064 and rounded(cost, NORMS_OUTSIDE) == 123.020


@pytest.mark.full  # the fast suite counts these models in other settings
def test_published_cost_with_temporal_attention() -> None:
    """140.5 M and 198.0 G; both need the second norm in the branch, and alignment itself is not counted."""
    cost = count(ata_convnext_b(), "fvcore")
    assert cost.params - TIME_EMBEDDING == 140_485_776
    assert cost.macs == 198_018_995_200
    assert rounded(cost, NORMS_OUTSIDE) == 197.978
    config = convnext_b()
    config.inserts = temporal_inserts(config, post_norm=False)
    cost = count(config, "fvcore")
    assert round((cost.params - TIME_EMBEDDING) / 1e6, 1) == 140.4 and rounded(cost, NORMS_OUTSIDE) == 197.791


def test_grids_of_the_stages() -> None:
    with torch.device("meta"):
        model = create_model("convnext_b")
    assert len(model.blocks) == 36
    assert [model.grid_at(i)[0] for i in (0, 2, 3, 5, 6, 32, 33, 36)] == [128, 128, 256, 256, 512, 512, 1024, 1024]
    assert [model.grid_at(i)[1:] for i in (0, 3, 6, 33)] == [(8, 56, 56), (8, 28, 28), (8, 14, 14), (8, 7, 7)]
    clip = model.config.clip
    assert (clip.frames, clip.stride, clip.size, clip.mean[0], clip.std[0]) == (8, 32, 224, 0.45, 0.225)


def test_json_of_the_named_sizes() -> None:
    for name, inserts in (("ata_convnext_b", 36), ("ata_convnext_tiny", 5)):
        config = model_config(name)
        assert from_json(to_json(config)) == config and len(config.inserts) == inserts


@torch.no_grad()
def test_maps_that_stay_permuted_differ() -> None:
    """Specification §6.9: convolutions over space do not commute with alignment; fresh branches change nothing."""
    torch.manual_seed(0)
    plain = create_model("convnext_tiny", classes=5).double().eval()
    video = torch.randn(2, 3, 4, 64, 64, dtype=torch.float64)
    scores = {}
    for dealign in (True, False):
        model = with_branches(plain, ATA(dealign=dealign))
        if dealign:
            assert torch.equal(model(video), plain(video))
        liven(model)
        scores[dealign] = model(video)
    assert (scores[True] - plain(video)).abs().max() > 1e-3
    assert (scores[True] - scores[False]).abs().max() > 1e-3
    same = with_branches(plain, ATA(dealign=False))
    liven(same)
    still = video[:, :, :1].expand(-1, -1, 4, -1, -1)
    fixed = with_branches(plain, None)
    liven(fixed)
    torch.testing.assert_close(same(still), fixed(still), atol=1e-10, rtol=0)  # repeated frames stay where they are


@torch.no_grad()
def test_alignment_makes_shuffled_frames_alike() -> None:
    """Temporal attention sees no difference between a still clip and one whose later frames' tokens are shuffled."""
    model = with_branches(create_model("convnext_tiny", classes=5).double().eval(), ATA())
    liven(model)
    layer = model.inserts["2"]
    torch.manual_seed(1)
    grid = torch.randn(1, 128, 4, 4, 4, dtype=torch.float64)[:, :, :1].repeat(1, 1, 4, 1, 1)
    order = [torch.arange(16), *(torch.randperm(16) for _ in range(3))]
    shuffled = torch.stack([grid[:, :, t].flatten(2)[..., order[t]].view(1, 128, 4, 4) for t in range(4)], 2)
    expected = torch.stack([layer(grid)[:, :, t].flatten(2)[..., order[t]].view(1, 128, 4, 4) for t in range(4)], 2)
    torch.testing.assert_close(layer(shuffled), expected, atol=1e-10, rtol=0)


def with_branches(plain: VideoModel, around: ATA | None) -> VideoModel:
    config = model_config("convnext_tiny", classes=5)
    config.inserts = temporal_inserts(config, around)
    model = config.build().double().eval()
    model.load_state_dict(plain.state_dict(), strict=False)
    return model


def liven(model: VideoModel) -> None:
    """Give branches that start as identity something to do, the same in every model."""
    generator = torch.Generator().manual_seed(4)
    for layer in model.inserts.modules():
        if isinstance(layer, nn.Linear):
            weight: Tensor = layer.weight
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.2)
            nn.init.zeros_(layer.bias)
