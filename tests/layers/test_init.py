"""Standardised features do not depend on how many clips go through the network at once."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gesta.layers.init import Standardise


@pytest.mark.parametrize("micro", [1, 2, 4])
def test_small_passes_are_standardised_as_large_ones(micro: int) -> None:
    """Two clips alone would become +1 and -1, and one clip 0."""
    generator = torch.Generator().manual_seed(0)
    clips = 5 + 3 * torch.randn(400, 6, generator=generator)
    norm = Standardise(6)
    results = torch.cat([norm(part) for part in clips.split(micro)])
    truth = (clips - 5) / 3
    together = torch.stack([results[100:].flatten(), truth[100:].flatten()])
    assert torch.corrcoef(together)[0, 1] > 0.9
    assert 0.8 < float(results[100:].std()) < 1.1
    whole = Standardise(6)
    for part in clips.split(8):
        whole(part)
    assert norm.eval()(clips).sub(whole.eval()(clips)).abs().mean() < 0.1


def test_eight_clips_are_normalised_by_themselves() -> None:
    clips = torch.randn(8, 6)
    torch.testing.assert_close(Standardise(6)(clips), nn.BatchNorm1d(6, affine=False)(clips), rtol=0, atol=0)


def test_two_clips_have_a_gradient() -> None:
    norm, clips = Standardise(6), torch.randn(40, 6)
    for part in clips.split(2):
        norm(part)
    last = clips[:2].clone().requires_grad_()
    norm(last)[0].sum().backward()
    assert last.grad is not None and float(last.grad[0].abs().min()) > 0.1
