"""Batch norms that see few clips at once give what those of many give."""

from __future__ import annotations

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn
from torch.nn import functional

from gesta.config import replace
from gesta.layers.few_clips import MixedBatchNorm, SinglePositionNorm, mix_statistics
from gesta.models.r3d import r3d_tiny
from gesta.models.vit import vit_tiny
from gesta.recipe import TrainConfig
from gesta.training.setup import with_few_clips


@pytest.mark.parametrize("clips", [1, 2, 3])
def test_small_passes_are_normalised_as_large_ones(clips: int) -> None:
    generator = torch.Generator().manual_seed(0)
    # clips differ in their means, which a batch norm of one clip alone takes away
    maps = 5 + 3 * torch.randn(600, 4, 1, 1, 1, generator=generator) + torch.randn(600, 4, 2, 3, 3, generator=generator)
    norm = MixedBatchNorm(nn.BatchNorm3d(4, affine=False), clips)
    alone, whole = nn.BatchNorm3d(4, affine=False), nn.BatchNorm3d(4, affine=False)
    mixed = torch.cat([norm(part) for part in maps.split(clips)])[200:]

    def likeness(results: torch.Tensor) -> float:
        """Correlation with what the statistics of all clips give."""
        return float(torch.corrcoef(torch.stack([results.flatten(), maps[200:].flatten()]))[0, 1])

    of_pass = torch.cat([alone(part) for part in maps.split(clips)])[200:]
    of_four = torch.cat([whole(part) for part in maps.split(4)])[200:]
    assert likeness(of_pass) + 0.02 < likeness(of_four) < likeness(mixed) + 0.02
    assert 0.7 < float(mixed.std()) < 1.1  # a fourth of what one clip has more of than others is taken away
    assert norm.eval()(maps).sub(whole.eval()(maps)).abs().mean() < 0.15


def test_recomputed_passes_have_the_same_gradients_and_statistics() -> None:
    video = torch.randn(1, 3, 8, 32, 32, dtype=torch.float64)
    outcomes = []
    for recompute in (False, True):
        torch.manual_seed(0)
        model = replace(r3d_tiny(), classes=3, activation_checkpointing=recompute).build().double().train()
        assert mix_statistics(model, 1) == 17
        for _ in range(3):
            functional.cross_entropy(model(video), torch.tensor([1])).backward()
        gradients = {f"{name}.grad": p.grad for name, p in model.named_parameters()}
        outcomes.append(gradients | model.state_dict())
    for name, value in outcomes[0].items():
        torch.testing.assert_close(outcomes[1][name], value, rtol=1e-9, atol=1e-12, msg=name)


def test_weights_keep_their_names_and_other_norms_stay() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), BatchNormAct2d(3), nn.Sequential(SinglePositionNorm(3)))
    before = list(model.state_dict())
    assert mix_statistics(model, 2) == 2 and type(model[1]) is BatchNormAct2d
    assert list(model.state_dict()) == before


def test_a_single_position_is_normalised_by_running_statistics() -> None:
    norm = MixedBatchNorm(SinglePositionNorm(2), 1)
    for value in (1.0, 3.0, 5.0):
        result = norm(torch.full((1, 2, 1, 1, 1), value))
    assert result.isfinite().all() and result.gt(0.5).all()


def test_a_training_says_what_passes_of_few_clips_cost() -> None:
    said = {clips: with_few_clips(vit_tiny().build(), clips, TrainConfig()) for clips in (1, 2, 4)}
    assert "features are standardised over 1 clip per forward pass together with those before" in said[1]
    assert "over 2 clips per forward pass" in said[2] and said[4] == ""
    assert "standardised" not in with_few_clips(r3d_tiny().build(), 2, TrainConfig())
