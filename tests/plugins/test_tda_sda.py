"""TDA and SDA as layers: what they are blind to, their softmaxes, the order of convolution and pooling."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gesta.plugins.st_manet import SDA, TDA, SDALayer, TDALayer

GRID = (16, 6, 5, 7)


def made(layer: TDA | SDA, **how: Any) -> Any:
    torch.manual_seed(0)
    module = TDALayer(layer, GRID[0], **how) if isinstance(layer, TDA) else SDALayer(layer, GRID[0])
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module.double().eval()


def some(*size: int) -> Tensor:
    return torch.randn(2, *size, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


X, ORDER = some(*GRID), [3, 0, 5, 1, 4, 2]


def places(x: Tensor, order: Tensor) -> Tensor:
    return x.flatten(3)[..., order].view_as(x)


def test_without_convolutions_frames_may_be_permuted() -> None:
    layer = made(TDA(embed="none"))
    found = layer.aggregate(X)
    turned = layer.attend([X[:, :, ORDER]])
    torch.testing.assert_close(turned, found.attention[:, ORDER][:, :, ORDER])
    (weighed,), (again,) = layer.weigh(found.attention, [X]), layer.weigh(turned, [X[:, :, ORDER]])
    torch.testing.assert_close(again, weighed[:, :, ORDER])
    with_convolutions = made(TDA())
    assert (with_convolutions(X[:, :, ORDER]) - with_convolutions(X)[:, :, ORDER]).abs().max() > 1e-3


def test_places_may_be_permuted_and_time_is_nothing_to_sda() -> None:
    layer, order = made(SDA()), torch.randperm(35)
    torch.testing.assert_close(layer(places(X, order)), places(layer(X), order))
    attention = layer.aggregate(X).attention
    torch.testing.assert_close(layer.aggregate(X[:, :, ORDER]).attention, attention)
    temporal = made(TDA())
    assert (temporal.attend([X[:, :, ORDER]]) - temporal.attend([X])).abs().max() > 1e-3


@pytest.mark.parametrize(("kind", "axes"), [("position", 2), ("feature", (1, 3, 4))])
def test_second_softmax_of_tda(kind: Any, axes: Any) -> None:
    layer = made(TDA(second_softmax=kind), incoming=8, pool=(2, 2, 2))
    parts = layer.weigh(layer.attend([X, some(8, *GRID[1:])]), [X, some(8, *GRID[1:])])
    whole = torch.cat(parts, 1)
    assert whole.shape == (2, 24, *GRID[1:])
    torch.testing.assert_close(whole.sum(axes), torch.ones_like(whole.sum(axes)))


@pytest.mark.parametrize(("kind", "axes"), [("position", (3, 4)), ("feature", (1, 2))])
def test_second_softmax_of_sda(kind: Any, axes: Any) -> None:
    layer = made(SDA(second_softmax=kind, v_reduction=None, out_norm="none"))
    found = layer.aggregate(X).residual
    assert found.shape == X.shape
    torch.testing.assert_close(found.sum(axes), torch.ones_like(found.sum(axes)))


@pytest.mark.parametrize("size", [(6, 8, 8), (4, 7, 7), (5, 7, 4), (3, 3, 2)])
@pytest.mark.parametrize("time", [1, 2, 3])
def test_pooling_before_the_convolution(size: tuple[int, int, int], time: int) -> None:
    layer = made(TDA(value="concat"), incoming=8, pool=(time, 2, 2))
    x, branch = some(16, *size), some(8, *size)
    slow = layer.epsilon(torch.cat([x, branch], 1))
    slow = F.avg_pool3d(slow, (time, 2, 2), ceil_mode=True, count_include_pad=False)
    torch.testing.assert_close(layer._to_branch([x, branch]), slow, atol=1e-13, rtol=1e-13)


def test_a_single_frame_stays_one() -> None:
    """Clips of 8 frames have one left before ST-MANet's last stage, which would halve them once more."""
    layer = made(TDA(), incoming=8, pool=(2, 2, 2))
    x = some(8, 1, 4, 4)
    torch.testing.assert_close(layer._to_branch([x]), F.avg_pool3d(layer.epsilon(x), (1, 2, 2)))


def test_branch_of_the_last_stage_is_not_pooled() -> None:
    layer = made(TDA(), incoming=8, pool=(1, 1, 1))
    found = layer.aggregate(X, some(8, *GRID[1:]))
    assert found.branch.shape == X.shape and made(TDA()).aggregate(X).branch is None


@pytest.mark.parametrize("layer", [TDA(), TDA(embed="dense", out="separable"), SDA(), SDA(qk_reduction=None)])
def test_layouts_and_meta_give_the_same(layer: TDA | SDA) -> None:
    """Channels first or last; shapes on the meta device, where costs are counted."""
    module = made(layer)
    torch.testing.assert_close(module(X.contiguous(memory_format=torch.channels_last_3d)), module(X))
    assert copy.deepcopy(module).to("meta")(X.to("meta")).shape == X.shape


@pytest.mark.parametrize(
    "layer", [TDA(second_softmax="feature"), SDA(second_softmax="feature", v_reduction=None, out_norm="none")]
)
def test_half_precision_stays_half(layer: TDA | SDA) -> None:
    module = made(layer).bfloat16()
    assert module(X.bfloat16()).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert made(layer).float()(X.float()).dtype == torch.float32


def test_no_clips_give_no_clips() -> None:
    assert made(TDA())(X[:0]).shape == X[:0].shape


@pytest.mark.parametrize("layer", [TDA(), TDA(second_softmax="position", out_norm="none"), SDA()])
def test_gradients(layer: TDA | SDA) -> None:
    module = made(layer).train()
    x = some(16, 3, 2, 3)[:1].requires_grad_()
    names = dict(module.named_parameters())
    assert torch.autograd.gradcheck(
        lambda x, *values: torch.func.functional_call(module, dict(zip(names, values)), (x,)),
        (x, *names.values()),
        fast_mode=True,
    )


def test_they_say_how_even_their_attention_is() -> None:
    one_hot = made(SDA(qk_reduction=None, scale="none")).diagnose(100 * X)
    assert one_hot["entropy"] == pytest.approx(0, abs=1e-6) and one_hot["strength"] > 0.01
    assert made(TDA(embed="none")).diagnose(torch.ones_like(X))["entropy"] == pytest.approx(1)
    layer = made(SDA())
    nn.init.zeros_(layer.pi[1].weight)
    assert layer.faults(layer.diagnose(X)) == ["what it adds is almost constant (it varies by 0 of the map)"]
