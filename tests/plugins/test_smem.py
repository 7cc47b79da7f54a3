"""SMEM and STDM: what they compute, that a fresh one changes nothing, and that they learn."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gesta.errors import GestaError
from gesta.layers.tokens import DepthwiseConv, to_grid, to_tokens
from gesta.plugins.smem import SMEM, MotionExcitation
from gesta.plugins.stdm import STDM

GRID = (12, 5, 6, 4)  # C, T, H, W
CLIPS = torch.randn(2, *GRID, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def shaken(layer: Any) -> Any:
    torch.manual_seed(1)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.2)
    return layer.double().eval()


def smem(**changes: Any) -> MotionExcitation:
    return shaken(SMEM(channels=8, **changes).build(GRID))


@pytest.mark.parametrize("fusion", ["mul", "add", "mul+add"])
def test_channels_that_are_transformed(fusion: str) -> None:
    layer = SMEM(fusion=fusion).build((768, 8, 14, 14))  # type: ignore[arg-type]
    inputs = layer.transform[0].in_channels
    assert inputs == {"mul": 392, "add": 128, "mul+add": 520}[fusion]
    parameters = sum(p.numel() for p in layer.parameters())
    assert parameters == 1_185_536 + (inputs - 392) * 64 * 9


def test_correlation_by_hand() -> None:
    layer = smem()
    frames = CLIPS.transpose(1, 2).flatten(0, 1)
    e = layer.estimate_norm(layer.estimate(frames).movedim(1, -1).reshape(-1, 8)).relu().view(2, 5, 24, 8)
    e = F.normalize(e, dim=-1)
    found = layer.correlation(CLIPS)
    assert found.shape == (2, 5, 2, 6, 4, 6, 4)
    for t, (k, step) in itertools.product(range(5), enumerate((1, 2))):
        expected = e[:, t] @ e[:, min(t + step, 4)].mT
        torch.testing.assert_close(found[:, t, k].flatten(3).flatten(1, 2), expected)
    assert found.min() >= 0 and 0.99 < found.max() <= 1 + 1e-9


def test_still_frames_look_like_themselves() -> None:
    layer = smem()
    still = CLIPS[:, :, :1].expand(-1, -1, 5, -1, -1)
    cosines = layer.correlation(still).flatten(5).flatten(3, 4).diagonal(dim1=3, dim2=4)
    seen = layer.estimate_norm(layer.estimate(CLIPS[:, :, 0]).movedim(1, -1).reshape(-1, 8)).relu().any(-1)
    assert seen.float().mean() > 0.5
    expected = seen.view(2, 1, 1, 24).to(cosines.dtype).expand_as(cosines)
    torch.testing.assert_close(cosines, expected)


@pytest.mark.parametrize("pairing", ["anchor", "chain"])
def test_which_frames_are_compared(pairing: str) -> None:
    """Features whose only channel is the frame's number, so a sum says which two frames were added."""
    layer = SMEM(fusion="add", pairing=pairing, edge="repeat").build(GRID)  # type: ignore[arg-type]
    numbers = torch.arange(1.0, 6).view(5, 1, 1, 1, 1)
    near, far = (sum(pair).flatten().tolist() for pair in layer._pairs(numbers))
    assert near == [3, 5, 7, 9, 10]
    assert far == ([4, 6, 8, 9, 10] if pairing == "anchor" else [5, 7, 9, 10, 10])
    layer.config.edge = "zero"
    near, far = (later.flatten().tolist() for _, later in layer._pairs(numbers))
    assert near == [2, 3, 4, 5, 0] and far == [3, 4, 5, 0, 0]
    one = layer._pairs(numbers[:1])
    assert [later.shape[0] for _, later in one] == [1, 1]


def test_zero_edge_gives_zero_channels() -> None:
    found = smem(edge="zero").correlation(CLIPS)
    assert not found[:, 4].any() and not found[:, 3, 1].any()
    assert found[:, 3, 0].any() and found[:, 2].flatten(2).any(2).all()


def test_larger_maps_have_their_targets_averaged() -> None:
    layer = smem()
    large = torch.randn(1, 12, 3, 12, 8, dtype=torch.float64)
    whole = shaken(SMEM(channels=8).build((12, 3, 12, 8)))
    exact = whole.correlation(large)  # same weights of the first convolution: the same seed
    averaged = exact.unflatten(5, (6, 2)).unflatten(7, (4, 2)).mean((6, 8))
    torch.testing.assert_close(layer.correlation(large), averaged)
    assert layer(large).shape == large.shape
    assert SMEM().build((768, 8, 28, 21)).targets == (14, 14)


def test_motion_is_the_length_of_what_is_added() -> None:
    layer = smem()
    with torch.no_grad():
        torch.testing.assert_close(layer.motion(CLIPS), (layer(CLIPS) - CLIPS).norm(dim=1))
    assert layer.motion(CLIPS).shape == (2, 5, 6, 4)


@pytest.mark.parametrize(
    "layer", [SMEM(), SMEM(norm="layer", fusion="add"), STDM(), STDM(final_relu=True, kind="dense")]
)
def test_fresh_layer_is_the_identity_and_learns(layer: SMEM | STDM) -> None:
    torch.manual_seed(0)
    built = layer.build(GRID).double().train()
    assert torch.equal(built(CLIPS), CLIPS)
    assert built.diagnose(CLIPS) == {"rms_ratio": 0.0}
    target = torch.randn(CLIPS.shape, dtype=torch.float64)
    optimizer = torch.optim.SGD(built.parameters(), lr=1.0)
    for _ in range(3):
        optimizer.zero_grad()
        F.mse_loss(built(CLIPS), target).backward()
        optimizer.step()
    dead = [name for name, p in built.named_parameters() if p.grad is None or not p.grad.any()]
    assert not dead
    assert built.diagnose(CLIPS)["rms_ratio"] > 0


def test_a_convolution_of_zeros_before_a_relu_would_never_learn() -> None:
    """Why ``final_relu`` has a gate."""
    layer = STDM(final_relu=True).build(GRID).double()
    nn.init.zeros_(layer.mix.weight)
    nn.init.zeros_(layer.mix.bias)
    nn.init.ones_(layer.gate)
    layer(CLIPS).square().sum().backward()
    assert layer.mix.weight.grad is not None and not layer.mix.weight.grad.any()


@pytest.mark.parametrize("kernel", [(3, 3), (1, 3), (3, 1)])
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_shifted_convolutions_are_the_3d_one(kernel: tuple[int, int], frames: int) -> None:
    torch.manual_seed(0)
    conv = DepthwiseConv(12, kernel).double()
    x = CLIPS[:, :, :frames].clone().requires_grad_()
    results: list[list[Tensor]] = []
    for run in (lambda: to_grid(conv(to_tokens(x))), lambda: nn.Conv3d.forward(conv, x)):
        y = run()
        gradients = torch.autograd.grad(y.square().sum(), [x, conv.weight, conv.bias])  # type: ignore[list-item]
        results.append([y, *gradients])
    for found, expected in zip(*results):
        torch.testing.assert_close(found, expected)


def test_stdm_sees_neighbours_only() -> None:
    layer = shaken(STDM().build(GRID))
    x = CLIPS[:1].clone().requires_grad_()
    layer(x)[0, :, 2, 3, 0].square().sum().backward()
    assert x.grad is not None
    t, h, w = x.grad[0].abs().sum(0).nonzero().T
    assert (t.min(), t.max(), h.min(), h.max(), w.min(), w.max()) == (1, 3, 2, 4, 0, 1)


def test_no_channels_are_refused() -> None:
    with pytest.raises(GestaError, match="channels is 0, not 1 or more"):
        SMEM(channels=0).build(GRID)
