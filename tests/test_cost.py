"""Counting: against fvcore itself, against arithmetic by hand, and the parts against the whole."""

from __future__ import annotations

import json
import warnings
from dataclasses import field

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from gesta.config import config
from gesta.cost import count, counting, is_counting
from gesta.model import ClipSpec, Grid, Insert, ModelConfig, VideoModel
from gesta.models import model_config
from gesta.plugins.stan import STAN


@config
class PlainConfig(ModelConfig):
    clip: ClipSpec = field(default_factory=lambda: ClipSpec(frames=2, size=8))

    def build(self) -> Plain:
        return Plain(self)


class Plain(VideoModel):
    """One operation of every kind that is counted."""

    def __init__(self, config: PlainConfig) -> None:
        super().__init__(config)
        self.conv = nn.Conv3d(3, 6, (1, 3, 3), padding=(0, 1, 1))
        self.blocks = nn.ModuleList([nn.BatchNorm3d(6), nn.BatchNorm3d(6, affine=False), nn.GroupNorm(2, 6)])
        self.norm = nn.LayerNorm(6)
        self.free = nn.Parameter(torch.zeros(6, 5))
        self.classifier = nn.Linear(5, 4)
        self.finish()

    def stem(self, video: Tensor) -> Tensor:
        return self.conv(video)

    def pool(self, state: Tensor) -> Tensor:
        tokens = self.norm(state.flatten(2).transpose(1, 2))
        tokens = nn.functional.scaled_dot_product_attention(tokens[:, None], tokens[:, None], tokens[:, None])[:, 0]
        return tokens.mean(1) @ self.free

    def to_grid(self, state: Tensor) -> Tensor:
        return state

    def from_grid(self, grid: Tensor, state: Tensor) -> Tensor:
        return grid

    def grid_at(self, block: int) -> Grid:
        return 6, self.config.clip.frames, self.config.clip.size, self.config.clip.size


N = 2 * 8 * 8  # positions of Plain's only grid


def test_by_hand() -> None:
    cost = count(PlainConfig(), style="fvcore")
    macs = {part.name: part.macs for part in cost.parts}
    assert macs == {
        "conv": N * 27 * 6,
        "block.0": 2 * 6 * N,
        "block.1": 6 * N,
        "block.2": 5 * 6 * N,
        "norm": 5 * 6 * N,
        "classifier": 20,
        "other": 2 * N * N * 6 + 30,
    }
    assert {part.name: part.params for part in cost.parts}["other"] == 30
    products = {part.name: part.macs for part in count(PlainConfig()).parts}
    del macs["block.1"]  # neither parameters nor products: no part
    assert products == macs | {"block.0": 0, "block.2": 0, "norm": 0}


@pytest.mark.parametrize("style", ["torch", "fvcore"])
def test_parts_add_up_and_an_instance_counts_like_its_configuration(style: str) -> None:
    model = model_config("r3d_tiny", inserts=[Insert(layer=STAN(), at=1), Insert(layer=STAN(mode="attention"), at=3)])
    cost = count(model, style=style)
    built = model.build().train()
    assert count(built, style=style) == cost
    assert built.training and all(p.device.type == "cpu" for p in built.parameters())
    assert cost.params == sum(p.numel() for p in built.parameters())
    names = [part.name for part in cost.parts]
    assert names == ["conv1", "bn1", "block.0", "insert.1", "block.1", "block.2", "insert.3", "block.3", "classifier"]
    assert json.loads(json.dumps(cost.to_json()))["macs"] == sum(part.macs for part in cost.parts)
    assert f"{cost.params:,}" in str(cost) and "insert.3" in str(cost)


def test_another_clip() -> None:
    short, long = ClipSpec(frames=8, size=64), ClipSpec(frames=16, size=64)
    model = model_config("r3d_tiny")
    assert count(model, clip=short).macs < count(model).macs == count(model, clip=long).macs
    assert count(model.build(), clip=short) == count(model, clip=short)
    assert model.clip.frames == 16  # the configuration is left as it was


@pytest.mark.parametrize("layer", [STAN(), STAN(scale="cost_matched_large", mode="attention", separable=False)])
def test_equal_to_fvcore(layer: STAN) -> None:
    fvcore = pytest.importorskip("fvcore.nn")  # it traces the form that runs, so that must be the papers'
    model = model_config("r3d_tiny", inserts=[Insert(layer=layer, at=2)]).build().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fvcore scripts functions, which torch deprecates
        theirs = fvcore.FlopCountAnalysis(model, torch.zeros(1, 3, 16, 64, 64))
        theirs.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        assert count(model, style="fvcore").macs == theirs.total()


def test_only_counting_asks_for_the_papers_form() -> None:
    """A forward pass on the meta device alone is not counted, and what happens in between does not matter."""
    assert not is_counting()
    with pytest.raises(ValueError, match="stop"), counting():
        with counting():
            pass
        assert is_counting()
        raise ValueError("stop")
    assert not is_counting()
    with torch.device("meta"):
        model = model_config("cyclemlp_tiny").build().eval()
        video = torch.empty(1, 3, 8, 64, 64)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(video)
    assert sum(counter.get_flop_counts()["Global"].values()) // 2 != count(model_config("cyclemlp_tiny")).macs
    assert not is_counting()
