"""Central difference convolution: one kernel against the equations, against two convolutions, and its meaning."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gesta.layers.cdc import Conv, Difference, fold_difference, same_padding


@pytest.fixture(autouse=True)
def in_double() -> Iterator[None]:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def literal(x: Tensor, weight: Tensor, stride: tuple[int, int, int], difference: str, theta: float) -> Tensor:
    """Equations 2.3 to 2.6, tap by tap, on a padded map."""
    windows = x
    for axis, (size, step) in enumerate(zip(weight.shape[2:], stride)):
        windows = windows.unfold(2 + axis, size, step)
    centre = windows[..., *(size // 2 for size in weight.shape[2:])][..., None, None, None]

    def weighted(values: Tensor, taps: Tensor) -> Tensor:
        return torch.einsum("bithwxyz,oixyz->bothw", values.expand(windows.shape), taps)

    vanilla = weighted(windows, weight)
    if difference == "st":
        return theta * weighted(windows - centre, weight) + (1 - theta) * vanilla
    adjacent = weight.clone()
    adjacent[:, :, weight.shape[2] // 2] = 0
    return vanilla - theta * weighted(centre, adjacent)


def two_convolutions(x: Tensor, weight: Tensor, stride: tuple[int, int, int], difference: str, theta: float) -> Tensor:
    """The public code's form, with every slice but the middle one adjacent, on a padded map."""
    t, h, w = (size // 2 for size in weight.shape[2:])
    rest = weight.sum((2, 3, 4)) - (weight[:, :, t].sum((2, 3)) if difference == "t" else 0)
    inner = x[:, :, t : x.shape[2] - t, h : x.shape[3] - h, w : x.shape[4] - w]
    return F.conv3d(x, weight, None, stride) - theta * F.conv3d(inner, rest[..., None, None, None], None, stride)


@pytest.mark.parametrize("difference", ["st", "t"])
@pytest.mark.parametrize("theta", [0.6, 0.8, 1.0])
@pytest.mark.parametrize(
    ("kernel", "stride", "size"),
    [
        ((3, 3, 3), (1, 1, 1), (5, 6, 7)),
        ((3, 3, 3), (2, 2, 2), (5, 7, 9)),
        ((3, 3, 3), (2, 2, 2), (6, 8, 6)),  # one zero more behind than before
        ((7, 7, 7), (1, 2, 2), (8, 14, 12)),
        ((7, 7, 7), (2, 2, 2), (9, 13, 11)),
        ((5, 3, 3), (1, 1, 2), (6, 5, 8)),
    ],
)
def test_folded_kernel_is_the_equations(
    difference: Difference,
    theta: float,
    kernel: tuple[int, int, int],
    stride: tuple[int, int, int],
    size: tuple[int, int, int],
) -> None:
    """Values and both gradients, with SAME padding (symmetric where sizes are odd)."""
    conv = Conv(2, 3, kernel, stride, difference, theta)
    x = torch.randn(2, 2, *size, requires_grad=True)
    t, h, w = same_padding(size, kernel, stride)
    found = conv(x)
    assert tuple(found.shape) == (2, 3, *(-(-n // s) for n, s in zip(size, stride)))
    seed = torch.randn_like(found)
    gradients = torch.autograd.grad(found, (x, conv.weight), seed)
    for reference in (literal, two_convolutions):
        expected = reference(F.pad(x, (*w, *h, *t)), conv.weight, stride, difference, theta)
        torch.testing.assert_close(found, expected, atol=1e-11, rtol=1e-11)
        for ours, theirs in zip(gradients, torch.autograd.grad(expected, (x, conv.weight), seed)):
            torch.testing.assert_close(ours, theirs, atol=1e-11, rtol=1e-11)


def test_other_paddings_and_dilations_fold_too() -> None:
    x, weight = torch.randn(1, 2, 9, 9, 9), torch.randn(3, 2, 3, 3, 3)
    found = F.conv3d(x, fold_difference(weight, "st", 0.6), dilation=2, padding=2)
    expected = F.conv3d(x, weight, dilation=2, padding=2) - 0.6 * F.conv3d(x, weight.sum((2, 3, 4), keepdim=True))
    torch.testing.assert_close(found, expected, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize(
    ("kernel", "difference", "theta"),
    [
        ((3, 3, 3), "none", 0.6),
        ((3, 3, 3), "st", 0.0),
        ((3, 3, 3), "t", 0.0),
        ((1, 3, 3), "st", 0.6),
        ((1, 1, 1), "t", 1),
    ],
)
def test_without_difference_it_is_a_plain_convolution(
    kernel: tuple[int, int, int], difference: Difference, theta: float
) -> None:
    conv, x = Conv(2, 3, kernel, (1, 1, 1), difference, theta, bias=True), torch.randn(1, 2, 4, 5, 6)
    expected = F.conv3d(x, conv.weight, conv.bias, padding=[size // 2 for size in kernel])
    for mode in (True, False):
        assert torch.equal(conv.train(mode)(x), expected)


def test_bias_is_left_alone() -> None:
    conv = Conv(2, 3, (3, 3, 3), (1, 1, 1), "st", 0.6, bias=True)
    assert conv.bias is not None
    zeros = torch.zeros(1, 2, 4, 5, 6)
    torch.testing.assert_close(conv(zeros), conv.bias.view(1, -1, 1, 1, 1).expand(1, 3, 4, 5, 6))


INNER = (slice(None), slice(None), slice(1, -1), slice(1, -1), slice(1, -1))


def test_constant_volume() -> None:
    """θ = 1 over space and time gives 0, over time the middle slice alone; at borders zeros around the map show."""
    constant = torch.full((1, 2, 5, 6, 7), 3.0)
    conv = Conv(2, 4, (3, 3, 3), difference="st", theta=1.0)
    found = conv(constant)
    assert found[INNER].abs().max() < 1e-13 and found.abs().max() > 0.1
    conv = Conv(2, 4, (3, 3, 3), difference="t", theta=1.0)
    expected = 3 * conv.weight[:, :, 1].sum((1, 2, 3)).view(1, -1, 1, 1, 1)
    found = conv(constant)[INNER]
    torch.testing.assert_close(found, expected.expand(found.shape), atol=1e-13, rtol=0)


@pytest.mark.parametrize("theta", [0.3, 0.6, 1.0])
def test_a_brighter_volume(theta: float) -> None:
    """y(x + c) = y(x) + (1 - θ) c Σw in the interior."""
    conv, x = Conv(2, 4, (3, 3, 3), difference="st", theta=theta), torch.randn(1, 2, 5, 6, 7)
    total = conv.weight.sum((1, 2, 3, 4)).view(1, -1, 1, 1, 1)
    expected = conv(x)[INNER] + (1 - theta) * 2.5 * total
    torch.testing.assert_close(conv(x + 2.5)[INNER], expected, atol=1e-13, rtol=1e-13)


def test_static_texture_over_time() -> None:
    """The temporal difference does not vanish on a still picture: it is a convolution of that picture."""
    conv, picture = Conv(2, 4, (3, 3, 3), difference="t", theta=1.0), torch.randn(1, 2, 6, 7)
    found = conv(picture[:, :, None].expand(-1, -1, 5, -1, -1))[:, :, 1:-1]
    middle, adjacent = conv.weight[:, :, 1], conv.weight[:, :, 0] + conv.weight[:, :, 2]
    difference = F.conv2d(picture, adjacent, padding=1) - F.conv2d(picture, adjacent.sum((2, 3), keepdim=True))
    assert difference.abs().max() > 0.1
    expected = F.conv2d(picture, middle, padding=1) + difference
    torch.testing.assert_close(found, expected[:, :, None].expand(found.shape), atol=1e-12, rtol=1e-12)


def test_adjacent_slices_of_a_long_kernel() -> None:
    """All slices but the middle one, not the first and the third as in the public code."""
    weight = torch.randn(1, 1, 7, 3, 3)
    changed = (fold_difference(weight, "t", 1.0) - weight)[0, 0, 3, 1, 1]
    torch.testing.assert_close(-changed, weight[0, 0, [0, 1, 2, 4, 5, 6]].sum())
    assert (changed + weight[0, 0, [0, 2]].sum()).abs() > 0.1


@pytest.mark.parametrize("difference", ["st", "t"])
def test_kept_kernel_follows_the_weights(difference: Literal["st", "t"]) -> None:
    conv = Conv(2, 3, (3, 3, 3), (1, 1, 1), difference, 0.6).eval()
    x = torch.randn(1, 2, 4, 5, 6)

    def fresh() -> Tensor:
        return F.conv3d(x.to(conv.weight), fold_difference(conv.weight, difference, 0.6), padding=1)

    with torch.no_grad():
        kept = conv.kernel()
        assert conv.kernel() is kept and torch.equal(conv(x), fresh())
        conv.weight.add_(1.0)
        assert conv.kernel() is not kept and torch.equal(conv(x), fresh())
        conv.load_state_dict({"weight": torch.randn(3, 2, 3, 3, 3)})
        assert torch.equal(conv(x), fresh())
        conv.float()
        assert torch.equal(conv(x.float()), fresh())
        conv.double()
    with torch.inference_mode():
        conv(x)
    conv.requires_grad_(False)
    x.requires_grad_()
    conv(x).sum().backward()  # the kernel kept in inference mode serves gradients of the input
    assert x.grad is not None and x.grad.abs().max() > 0
    conv.requires_grad_(True)
    conv(x).sum().backward()  # in evaluation mode, too
    assert conv.weight.grad is not None and conv.weight.grad.abs().max() > 0
