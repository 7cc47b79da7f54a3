"""A part of a model that does nothing is named: a warp that is the same for all clips, a still alignment, attention."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gesta.evaluation.health import measure_health
from gesta.model import Insert, VideoModel
from gesta.models import create_model
from gesta.plugins.ata import ATA
from gesta.plugins.smem import SMEM
from gesta.plugins.st_manet import SDA
from gesta.plugins.stan import STAN

CLIPS = torch.randn(3, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))


def network(**fields: object) -> VideoModel:
    torch.manual_seed(0)
    model = create_model("r3d_tiny", classes=3, **fields)
    return model.eval()


def test_a_warp_that_is_the_same_for_all_clips_is_named() -> None:
    model = network(inserts=[Insert(layer=STAN(p_scale=1.0, tanh_bound=None), at=1)])
    last = model.inserts["1"][0].deformation.fc
    health = measure_health(model.train(), CLIPS)
    assert model.training and health.figures["insert.1.0/outside"] == 0
    assert len(health.faults) == 1 and health.faults[0].startswith("insert.1.0 (STAN): θ is the same for all clips")
    alone = measure_health(model, CLIPS[:1])
    assert alone.faults == [] and "insert.1.0/p1.std" not in alone.figures  # of one clip nobody can tell
    nn.init.normal_(last.weight, std=0.01)
    assert measure_health(model, CLIPS).faults == []
    nn.init.constant_(last.bias, 30.0)
    faults = measure_health(model, CLIPS).faults
    assert len(faults) == 1 and "lie outside the map, where the warp returns zeros" in faults[0]


def test_an_alignment_that_moves_nothing_is_named() -> None:
    model = create_model("timesformer_tiny", classes=3, around=ATA())
    size, frames = model.config.clip.size, model.config.clip.frames
    still = torch.randn(1, 3, 1, size, size).expand(-1, -1, frames, -1, -1)
    faults = measure_health(model, still).faults
    assert any(fault.startswith("block.0.temporal.around (ATA): the alignment moves nothing") for fault in faults)
    health = measure_health(model, torch.randn(1, 3, frames, size, size))
    assert health.figures["block.0.temporal.around/moved"] > 0.5 and not any("ATA" in fault for fault in health.faults)


def test_attention_that_is_one_hot_or_uniform_is_named() -> None:
    model = create_model("timesformer_tiny", classes=3)
    clips = torch.randn(2, 3, model.config.clip.frames, *[model.config.clip.size] * 2)
    qkv = [module for name, module in model.named_modules() if name.endswith("qkv")]
    assert not any("one-hot" in fault or "uniform" in fault for fault in measure_health(model, clips).faults)
    for factor, word in ((1e4, "one-hot"), (0.0, "uniform")):
        with torch.no_grad():
            for module in qkv:
                module.weight.mul_(factor)
        faults = measure_health(model, clips).faults
        assert [fault.split()[0] for fault in faults if word in fault][:2] == [
            "block.0/attention.1", "block.0/attention.2",
        ]  # fmt: skip


@pytest.mark.parametrize("scale, fault", [(1.0, False), (1e6, True)])
def test_attention_without_pytorchs_function_is_seen(scale: float, fault: bool) -> None:
    model = network(inserts=[Insert(layer=SDA(), at=1)])
    layer = model.inserts["1"][0]
    with torch.no_grad():
        layer.alpha.weight.mul_(scale)
    health = measure_health(model, CLIPS)
    assert [name for name in health.figures if "attention" in name] == ["insert.1.0/attention.1"]
    assert any("insert.1.0/attention.1 is one-hot" in sentence for sentence in health.faults) == fault


def test_what_adds_nothing_is_named() -> None:
    assert measure_health(network(inserts=[Insert(layer=SMEM(), at=1)]), CLIPS).faults == [
        "insert.1.0 (SMEM): what it adds is still 0"
    ]
    assert measure_health(network(inserts=[Insert(layer=SDA(), at=1)]), CLIPS).faults == [
        "insert.1.0 (SDA): what it adds is almost constant (it varies by 0 of the map)"
    ]


def test_sda_that_the_classifier_cannot_see_is_named() -> None:
    """With a softmax over positions its mean over them is a constant, whatever the clip."""
    clips = torch.randn(2, 3, 8, 64, 64, generator=torch.Generator().manual_seed(0))
    part = "block.7 (STMANetConfig): what"
    literal = create_model("st_manet_tiny", classes=3, second_softmax="position", attn_out_norm="none")
    faults = measure_health(literal, clips).faults
    assert any(fault.startswith(f"{part} the classifier sees of SDA in stage 5 is almost constant") for fault in faults)
    model = create_model("st_manet_tiny", classes=3)
    assert (
        f"{part} SDA adds to stage 5 is almost constant (it varies by 0 of the map)"
        in measure_health(model, clips).faults
    )
    for name, parameter in model.named_parameters():
        if name.endswith((".out.1.weight", ".pi.1.weight")):
            nn.init.ones_(parameter)
    assert measure_health(model, clips).faults == []
