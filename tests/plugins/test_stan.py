"""STAN's invariants: specification §6, numbers in the test names' comments."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gesta.config import check
from gesta.errors import GestaError
from gesta.model import ClipSpec, Insert
from gesta.models import create_model
from gesta.plugins.stan import (
    DOF,
    SCALES,
    STAN,
    STANLayer,
    sampling_grid,
    spatial_only,
    statistics,
    theta_from,
    thetas,
    warp,
)

MODES = list(DOF)
P12_OF_P6 = [0, 5, 10, 3, 7, 11]  # p1 p6 p11 p4 p8 p12


def affine(**entries: float) -> Tensor:
    """θ of one clip in float64 from some of p1 to p12."""
    p = torch.zeros(1, 12, dtype=torch.float64)
    for name, value in entries.items():
        p[0, int(name[1:]) - 1] = value
    return theta_from(p, "affine")


def smooth(*shape: int, seed: int = 0) -> Tensor:
    """A map (B, C, T, H, W) in float64 of few low waves, so that interpolation errors are small."""
    generator = torch.Generator().manual_seed(seed)
    axes = [torch.linspace(-1, 1, n, dtype=torch.float64) for n in shape[2:]]
    t, y, x = torch.meshgrid(*axes, indexing="ij")
    phases = torch.rand(shape[0], shape[1], 4, 1, 1, 1, generator=generator, dtype=torch.float64) * 2 - 1
    a, b, c, d = phases.unbind(2)
    return torch.sin(2 * (a * t + b * y + c * x) + 3 * d)


def randomised(layer: STANLayer, std: float = 0.3) -> STANLayer:
    """A layer whose θ depends visibly on its map."""
    torch.manual_seed(1)
    torch.nn.init.normal_(layer.deformation.fc.weight, std=std / layer.config.p_scale)
    torch.nn.init.normal_(layer.deformation.fc.bias, std=0.1 / layer.config.p_scale)
    return layer


# --- θ ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_no_numbers_give_the_identity(mode: str) -> None:  # 1
    assert torch.equal(theta_from(torch.zeros(2, DOF[mode]), mode), torch.eye(4).expand(2, 4, 4))


def test_attention_is_affine_with_six_entries() -> None:  # 1
    p6 = torch.randn(5, 6)
    p12 = torch.zeros(5, 12)
    p12[:, P12_OF_P6] = p6
    assert torch.equal(theta_from(p6, "attention"), theta_from(p12, "affine"))


def test_rows_are_t_x_y_and_row_major() -> None:
    theta = theta_from(torch.arange(1.0, 13.0)[None], "affine")[0]
    assert theta.tolist() == [[2, 2, 3, 4], [5, 7, 7, 8], [9, 10, 12, 12], [0, 0, 0, 1]]
    theta = theta_from(torch.arange(1.0, 16.0)[None], "homography")[0]
    assert theta.tolist() == [[2, 2, 3, 4], [5, 7, 7, 8], [9, 10, 12, 12], [13, 14, 15, 1]]


def test_wrong_number_of_numbers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"affine takes p of shape \(B, 12\), not \(2, 6\)"):
        theta_from(torch.zeros(2, 6), "affine")


# --- the warp --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
def test_identity_keeps_the_map(padding_mode: str, align_corners: bool) -> None:  # 2
    x = torch.randn(2, 3, 4, 5, 7)
    identity = torch.eye(4).expand(2, 4, 4)
    for direction in ("output_to_source", "source_to_output"):
        y = warp(x, identity, direction=direction, padding_mode=padding_mode, align_corners=align_corners)
        torch.testing.assert_close(y, x, atol=1e-6 * x.abs().max().item(), rtol=0)


@pytest.mark.parametrize("separable", [False, True])
@pytest.mark.parametrize("entry, axis", [("p4", 0), ("p12", 1), ("p8", 2)])
@pytest.mark.parametrize("direction, step", [("output_to_source", -1), ("source_to_output", 1)])
def test_shift_by_one_cell(entry: str, axis: int, direction: str, step: int, separable: bool) -> None:  # 3
    size = (5, 7, 9)  # T, H, W all different, so that swapped axes fail
    x = torch.zeros(1, 1, *size, dtype=torch.float64)
    x[0, 0, 3, 3, 3] = 1
    goal = [3, 3, 3]
    goal[axis] += step
    y = warp(x, affine(**{entry: 2 / size[axis]}), direction=direction, separable=separable)
    expected = torch.zeros_like(x)
    expected[0, 0, goal[0], goal[1], goal[2]] = 1
    torch.testing.assert_close(y, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("entry, axis", [("p4", 2), ("p12", 3), ("p8", 4)])
def test_shift_equals_roll_inside(entry: str, axis: int) -> None:  # 4
    x = torch.randn(2, 3, 5, 6, 7, dtype=torch.float64)
    y = warp(x, affine(**{entry: 2 / x.shape[axis]}).expand(2, 4, 4))
    inside = x.shape[axis] - 1
    torch.testing.assert_close(y.narrow(axis, 0, inside), x.roll(-1, axis).narrow(axis, 0, inside), atol=1e-12, rtol=0)
    assert y.narrow(axis, inside, 1).abs().max() < 1e-12  # zeros come in at the end


@pytest.mark.parametrize("entry, axis", [("p1", 2), ("p11", 3), ("p6", 4)])
def test_zoom_is_about_the_centre(entry: str, axis: int) -> None:  # 5
    size = [11, 13, 15]
    centre = [n // 2 for n in size]
    for offset in (0, 1, 2):
        x = torch.zeros(1, 1, *size, dtype=torch.float64)
        place = list(centre)
        place[axis - 2] += offset
        x[0, 0, place[0], place[1], place[2]] = 1
        y = warp(x, affine(**{entry: -0.5}))
        place[axis - 2] = centre[axis - 2] + 2 * offset
        assert y[0, 0, place[0], place[1], place[2]].item() == pytest.approx(1)
        assert (
            y.flatten().argmax()
            == torch.zeros_like(y)
            .index_put_(tuple(map(torch.tensor, [0, 0, *place])), torch.tensor(1.0).double())
            .flatten()
            .argmax()
        )


@pytest.mark.parametrize(
    "entry, moves_with", [("p2", "x"), ("p3", "y"), ("p5", "t"), ("p7", "y"), ("p9", "t"), ("p10", "x")]
)
def test_shears_couple_the_axes_the_matrix_names(entry: str, moves_with: str) -> None:  # 3
    size = (5, 7, 9)
    grid = sampling_grid(affine(**{entry: 0.3}), size) - sampling_grid(affine(), size)
    row = (int(entry[1:]) - 1) // 4
    channel = {0: 2, 1: 0, 2: 1}[row]  # rows t, x, y of θ; channels x, y, t of the grid
    others = [c for c in range(3) if c != channel]
    assert grid[..., others].abs().max() < 1e-15
    positions = {axis: sampling_grid(affine(), size)[0, ..., c] for axis, c in (("x", 0), ("y", 1), ("t", 2))}
    torch.testing.assert_close(grid[0, ..., channel], 0.3 * positions[moves_with], atol=1e-12, rtol=0)


def test_our_grid_is_torchs_affine_grid() -> None:  # 3, the mapping of §2.2
    size = (4, 5, 6)
    theta = theta_from(0.3 * torch.randn(3, 12, dtype=torch.float64), "affine")
    order = [1, 2, 0, 3]
    for align_corners in (False, True):
        reference = F.affine_grid(theta[:, order][:, :, order][:, :3], [3, 1, *size], align_corners=align_corners)
        for projective in (False, True):
            grid = sampling_grid(theta, size, align_corners=align_corners, projective=projective)
            torch.testing.assert_close(grid, reference, atol=1e-12, rtol=0)


def test_the_two_directions_are_inverse() -> None:  # 6
    x = smooth(2, 3, 5, 6, 7)
    theta = theta_from(0.1 * torch.randn(2, 12, dtype=torch.float64), "affine")
    there = warp(x, theta, direction="source_to_output")
    torch.testing.assert_close(there, warp(x, torch.linalg.inv(theta)), atol=1e-10, rtol=0)


def test_composition() -> None:  # 6
    x = smooth(1, 2, 40, 42, 44)
    a = affine(p2=0.05, p6=-0.1, p8=0.1, p10=0.1)
    b = affine(p3=0.05, p5=-0.05, p11=0.1, p4=0.05)
    inside = (slice(None), slice(None), slice(12, -12), slice(12, -12), slice(12, -12))
    twice, once = warp(warp(x, a), b), warp(x, a @ b)  # sampling warp(x, a) at B o samples x at A B o
    torch.testing.assert_close(twice[inside], once[inside], atol=5e-3, rtol=0)
    assert (twice - warp(x, b @ a))[inside].abs().max() > 1e-2


def test_homography_without_perspective_is_affine() -> None:  # 7
    p = 0.2 * torch.randn(3, 12)
    x = torch.randn(3, 2, 4, 5, 6)
    theta = theta_from(torch.cat((p, torch.zeros(3, 3)), 1), "homography")
    assert torch.equal(theta, theta_from(p, "affine"))
    assert torch.equal(warp(x, theta), warp(x, theta, projective=False))


def test_homography_divides() -> None:  # 7
    p = torch.zeros(1, 15, dtype=torch.float64)
    p[0, 13] = 0.5  # w = 1 + 0.5 x
    grid = sampling_grid(theta_from(p, "homography"), (3, 4, 5))
    flat = sampling_grid(affine(), (3, 4, 5))
    torch.testing.assert_close(grid, flat / (1 + 0.5 * flat[..., :1]), atol=1e-12, rtol=0)


def test_homography_stays_finite() -> None:  # 7
    torch.manual_seed(0)
    p = torch.randn(64, 15, requires_grad=True)
    y = warp(torch.randn(64, 2, 3, 5, 7), theta_from(p, "homography"))
    y.square().sum().backward()
    assert y.isfinite().all() and p.grad is not None and p.grad.isfinite().all()
    p = torch.zeros(1, 15, requires_grad=True)
    theta = theta_from(p, "homography") - torch.eye(4)  # w is 0 everywhere: the clamp alone holds
    grid = sampling_grid(theta + torch.diag(torch.tensor([1.0, 1, 1, 0])), (3, 5, 7))
    grid.sum().backward()
    assert grid.isfinite().all() and p.grad is not None and p.grad.isfinite().all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("direction", ["output_to_source", "source_to_output"])
def test_gradient_of_the_warp(mode: str, direction: str) -> None:  # 9
    torch.manual_seed(0)
    x = smooth(2, 2, 4, 5, 6)
    p = (0.07 * torch.randn(2, DOF[mode], dtype=torch.float64)).requires_grad_()
    weights = torch.randn(2, 2, 4, 5, 6, dtype=torch.float64)

    def loss(p: Tensor) -> Tensor:
        return (warp(x, theta_from(p, mode), direction=direction, padding_mode="border") * weights).sum()

    assert torch.autograd.gradcheck(loss, p, eps=1e-7, atol=1e-4)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("direction", ["output_to_source", "source_to_output"])
def test_separable_equals_grid_sample(direction: str, align_corners: bool) -> None:
    torch.manual_seed(0)
    how = {"direction": direction, "align_corners": align_corners}
    for layout, scale in itertools.product((torch.contiguous_format, torch.channels_last_3d), (0.0, 0.3, 1.0)):
        x = torch.randn(4, 6, 4, 8, 7).to(memory_format=layout)
        grads = []
        for separable in (False, True):
            # Dyadic steps put samples exactly on cells, where the interpolation has kinks.
            p = (scale * torch.randn(4, 6, generator=torch.Generator().manual_seed(2))).requires_grad_()
            y = warp(x.requires_grad_(), theta_from(p, "attention"), separable=separable, **how)
            grads.append((y, *torch.autograd.grad((y * torch.linspace(0, 1, y.numel()).view_as(y)).sum(), (x, p))))
        for fast, slow in zip(*grads):
            torch.testing.assert_close(fast, slow, atol=1e-5 * max(1.0, slow.abs().max().item()), rtol=0)


def test_separable_agrees_on_the_cells_themselves() -> None:
    """With corners aligned, five cells lie at -1, -.5, 0, .5, 1 exactly: the one-sided gradients must be the same."""
    x = torch.randn(1, 3, 5, 5, 5, dtype=torch.float64)
    grads = []
    for separable in (False, True):
        p = torch.zeros(1, 6, dtype=torch.float64, requires_grad=True)
        y = warp(x, theta_from(p, "attention"), separable=separable, align_corners=True)
        assert torch.equal(y, x)
        grads.append(torch.autograd.grad((y * x.flip(0, 2, 3)).sum(), p)[0])
    torch.testing.assert_close(*grads, atol=1e-12, rtol=0)
    assert grads[0].abs().min() > 0.1


def test_separable_pads_with_zeros_only() -> None:
    with pytest.raises(ValueError, match="zeros only"):
        warp(torch.zeros(1, 1, 2, 2, 2), torch.eye(4)[None], separable=True, padding_mode="border")
    for layer in (STAN(separable=True), STAN(separable=True, mode="attention", padding_mode="border")):
        with pytest.raises(GestaError, match="separable needs mode 'attention' and padding_mode 'zeros'"):
            layer.build((8, 2, 4, 4))


def test_every_channel_is_warped_alike() -> None:  # 14
    x = torch.randn(2, 6, 3, 4, 5)
    theta = theta_from(0.3 * torch.randn(2, 12), "affine")
    order = torch.randperm(6)
    assert torch.equal(warp(x[:, order], theta), warp(x, theta)[:, order])


def test_axes_of_one_cell_are_left_alone() -> None:  # 10
    theta = theta_from(0.3 * torch.randn(2, 12), "affine")
    x = torch.randn(2, 3, 1, 5, 6)
    image = warp(x, theta)
    assert torch.equal(image, warp(x, spatial_only(theta)))
    still = torch.eye(4).expand(2, 4, 4).clone()
    still[:, 1:3, 1:] = theta[:, 1:3, 1:]
    assert torch.equal(spatial_only(theta), still)
    for padding_mode in ("zeros", "border"):
        point = torch.randn(2, 3, 1, 1, 1)
        torch.testing.assert_close(warp(point, theta, padding_mode=padding_mode), point, atol=1e-6, rtol=0)
    attention = theta_from(0.3 * torch.randn(2, 6), "attention")
    torch.testing.assert_close(warp(x, attention, separable=True), warp(x, attention), atol=1e-5, rtol=0)


# --- the layer -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "residual, factor, tolerance", [("add", 2, 1e-6), ("mean", 1, 1e-6), ("none", 1, 1e-6), ("gated", 1, 0)]
)
def test_a_fresh_layer(residual: str, factor: int, tolerance: float, mode: str) -> None:  # 2
    x = torch.randn(2, 8, 4, 5, 7)
    y = STAN(mode=mode, residual=residual).build((8, 4, 5, 7))(x)
    torch.testing.assert_close(y, factor * x, atol=tolerance * factor * x.abs().max().item(), rtol=0)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("scale", list(SCALES))
def test_every_size(scale: str, padding: str) -> None:  # 10
    for size in ((1, 1, 1), (1, 2, 3), (1, 7, 7), (2, 3, 5), (2, 7, 7), (8, 28, 28)):
        layer = STAN(scale=scale, padding=padding, mode="homography").build((8, *size)).eval()
        x = torch.randn(2, 8, *size)
        y = randomised(layer, 0.01)(x)
        assert y.shape == x.shape and y.isfinite().all()
        assert layer.theta(x).shape == (2, 4, 4)
        assert layer.train()(x[:1]).isfinite().all()  # a batch norm of a single value has no variance


def test_stage_sizes() -> None:
    """The emptying maps of §2.1: 8x28x28 → conv3 6x26x26 → pool3 2x8x8 → conv2 1x7x7 → pool2 has one frame."""
    stages = STAN(scale="medium", padding="valid").build((8, 8, 28, 28)).deformation.stages
    x = torch.zeros(1, 8, 8, 28, 28)
    assert stages[0](x).shape[2:] == (2, 8, 8)
    assert stages[1](stages[0](x)).shape[2:] == (1, 3, 3)
    same = STAN(scale="large").build((8, 8, 28, 28)).deformation.stages
    assert same[0](x).shape[2:] == (2, 7, 7) and same[1](same[0](x)).shape[2:] == (1, 2, 2)  # 4 pools 8x28x28 whole


@pytest.mark.parametrize(
    "scale, formula",
    [
        ("small", lambda c: 2 * c**2 + c // 4 + 3 * c + 12),
        ("medium", lambda c: 29 * c**2 + 5 * c // 4 + 3 * c + 12),
        ("large", lambda c: 366 * c**2 + 21 * c // 4 + 3 * c + 12),
        ("cost_matched", lambda c: 27 * c**2 // 4 + c // 4 + 3 * c + 12),
    ],
)
def test_parameters(scale: str, formula) -> None:  # §3.2
    with torch.device("meta"):
        for channels in (96, 192, 384):
            layer = STAN(scale=scale, norm="none").build((channels, 8, 28, 28))
            assert sum(p.numel() for p in layer.parameters()) == formula(channels)
            widths = sum(stage.conv.out_channels for stage in layer.deformation.stages)
            normed = STAN(scale=scale).build((channels, 8, 28, 28))  # two vectors of a norm for one of biases
            assert sum(p.numel() for p in normed.parameters()) == formula(channels) + widths


def test_parameters_to_the_digit() -> None:  # §3.2
    with torch.device("meta"):
        plain = STAN(norm="none"), STAN(norm="none", mode="attention")
        sizes = {c: sum(p.numel() for p in plain[0].build((c, 8, 28, 28)).parameters()) for c in (96, 192, 384)}
        attention = sum(p.numel() for p in plain[1].build((192, 8, 28, 28)).parameters())
    assert sizes == {96: 62_532, 192: 249_468, 384: 996_588}
    assert attention == 249_174


def test_explicit_deformation_network() -> None:
    layer = STAN(kernels=(3, 2), channels=(12, 6)).build((8, 4, 8, 8))
    assert [tuple(s.conv.weight.shape) for s in layer.deformation.stages] == [(12, 8, 3, 3, 3), (6, 12, 2, 2, 2)]
    assert [s.padding for s in layer.deformation.stages] == ["same", "same"]
    for wrong in (
        {"kernels": (3,)},
        {"channels": (3,)},
        {"kernels": (3, 2), "channels": (8,)},
        {"kernels": (), "channels": ()},
    ):
        with pytest.raises(GestaError, match="must be given together, one positive number per convolution"):
            STAN(**wrong).build((8, 4, 8, 8))
    with pytest.raises(GestaError, match=r"kernels\[0\] is 0, not 1 or more"):
        STAN(kernels=(0,), channels=(8,)).build((8, 4, 8, 8))


def test_raw_clips_have_eight_channels_in_the_network() -> None:
    layer = STAN().build((3, 4, 8, 8))
    assert layer.deformation.stages[0].conv.out_channels == 8


def test_a_size_beside_kernels_is_refused() -> None:
    check(STAN(kernels=(3,), channels=(8,)), "STAN")
    with pytest.raises(GestaError, match="scale"):
        check(STAN(kernels=(3,), channels=(8,), scale="large"), "STAN")


def test_bounds() -> None:
    x = torch.randn(4, 8, 4, 6, 6)
    unbounded = {"p_scale": 1.0, "tanh_bound": None}
    plain = randomised(STAN(fc_init_std=1.0, **unbounded).build((8, 4, 6, 6)), 1.0)
    p = plain.deformation(x)
    assert p.abs().max() > 0.5
    for options, expected in (({"p_scale": 0.1}, 0.1 * p), ({"tanh_bound": 0.5}, 0.5 * torch.tanh(p / 0.5))):
        layer = STAN(**unbounded | options).build((8, 4, 6, 6))
        layer.load_state_dict(plain.state_dict())
        torch.testing.assert_close(layer.deformation(x), expected)


@pytest.mark.parametrize("coordinates", [False, True])
def test_only_with_coordinates_does_theta_follow_a_shift(coordinates: bool) -> None:
    """The mean at D's end forgets where a pattern is; at multiples of the pool's edge it is exactly the same one."""
    layer = randomised(STANLayer(STAN(coordinates=coordinates), 8)).double().eval()
    here = torch.zeros(1, 8, 5, 20, 20, dtype=torch.float64)
    here[..., 4:7, 4:7] = torch.rand(1, 8, 5, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moved = here.roll(9, -1)
    equal = torch.allclose(layer.theta(here), layer.theta(moved), atol=1e-9)
    assert equal != coordinates


def test_residuals() -> None:
    x = torch.randn(2, 8, 4, 5, 6)
    layers = {}
    for residual in ("none", "add", "mean", "gated"):
        layers[residual] = randomised(STAN(residual=residual).build((8, 4, 5, 6)))
        layers[residual].load_state_dict(layers["none"].state_dict(), strict=False)
    warped = layers["none"](x)
    assert (warped - x).abs().max() > 0.1
    torch.testing.assert_close(layers["add"](x), warped + x)
    torch.testing.assert_close(layers["mean"](x), (warped + x) / 2)
    with torch.no_grad():
        layers["gated"].gate.fill_(0.25)
    torch.testing.assert_close(layers["gated"](x), 0.75 * x + 0.25 * warped)


@pytest.mark.parametrize("norm", ["none", "bn"])
def test_clips_do_not_see_each_other(norm: str) -> None:  # 8
    layer = randomised(STAN(norm=norm).build((8, 4, 5, 6)))
    x = torch.randn(3, 8, 4, 5, 6)
    changed = torch.cat((x[:1], torch.randn(2, 8, 4, 5, 6)))
    for training in (False, True) if norm == "none" else (False,):
        layer.train(training)
        assert torch.equal(layer(x)[0], layer(changed)[0])
        assert not torch.equal(layer(x)[1], layer(changed)[1])


@pytest.mark.parametrize("residual", ["add", "none", "mean", "gated"])
def test_gradients_arrive_within_two_steps(residual: str) -> None:  # 9
    torch.manual_seed(0)
    layer = STAN(residual=residual).build((8, 4, 6, 6))
    optimizer = torch.optim.SGD(layer.parameters(), lr=1e-3)
    x, goal = torch.randn(2, 8, 4, 6, 6), torch.randn(2, 8, 4, 6, 6)
    first = {}
    for step in range(2):
        layer.zero_grad()
        F.mse_loss(layer(x), goal).backward()
        if step == 0:
            first = {name: p.grad.abs().max().item() for name, p in layer.named_parameters()}
        optimizer.step()
    if residual == "gated":  # nothing passes the closed gate, which itself must learn to open
        assert {name for name, size in first.items() if size > 0} == {"gate"}
        assert first["gate"] > 1e-5
    else:
        assert first["deformation.stages.0.conv.weight"] == 0 and first["deformation.fc.weight"] > 0
    for name, parameter in layer.named_parameters():
        assert parameter.grad.abs().max() > 0, name


def test_small_init_gives_gradients_at_once() -> None:  # 9
    layer = STAN(fc_init_std=1e-4).build((8, 4, 6, 6))
    layer(torch.randn(2, 8, 4, 6, 6)).square().mean().backward()
    assert all(p.grad.abs().max() > 0 for p in layer.parameters())


@pytest.mark.parametrize("separable", [False, True])
def test_coordinates_stay_float32_under_autocast(separable: bool) -> None:  # 13
    torch.manual_seed(0)
    layer = randomised(STAN(mode="attention", separable=separable, residual="none").build((8, 4, 6, 56)), 0.05)
    x = torch.randn(2, 8, 4, 6, 56, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer.theta(x).dtype == torch.float32
        assert layer(x).dtype == torch.float32
        assert layer(x.bfloat16()).dtype == torch.bfloat16
        # the convolution rounds, the coordinates do not: same θ, same map
        theta = layer.theta(x)
        torch.testing.assert_close(layer(x), warp(x, theta, separable=separable), atol=0, rtol=0)
        layer(x).sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = warp(x, theta, separable=separable)
    assert torch.equal(inside, warp(x, theta, separable=separable))


def test_whole_layer_in_bfloat16() -> None:  # 13
    layer = STAN(fc_init_std=0.1).build((8, 4, 6, 6)).bfloat16()
    x = torch.randn(2, 8, 4, 6, 6, dtype=torch.bfloat16)
    assert layer(x).dtype == torch.bfloat16 and layer.theta(x).dtype == torch.float32


@pytest.mark.full  # tests/contract compiles all plug-ins, and STAN with its gradients
@pytest.mark.parametrize("mode, separable", [("attention", True), ("attention", False), ("homography", False)])
def test_compiles_with_its_gradients(mode: str, separable: bool) -> None:
    torch._dynamo.reset()
    layer = randomised(STAN(mode=mode, separable=separable, direction="source_to_output").build((8, 4, 6, 6)))
    x = torch.randn(2, 8, 4, 6, 6, requires_grad=True)
    grads = []
    for run in (layer, torch.compile(layer, backend="aot_eager", fullgraph=True)):
        y = run(x)
        grads.append((y, *torch.autograd.grad(y.square().mean(), (x, *layer.parameters()))))
    for compiled, plain in zip(*grads):
        torch.testing.assert_close(compiled, plain, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("literal", [False, True])
def test_early_steps_are_bounded(literal: bool) -> None:
    """Ten steps of AdamW at a backbone's rate, all one way, on a map as large as a residual stream's."""
    torch.manual_seed(0)
    fields = {"norm": "none", "p_scale": 1.0, "tanh_bound": None} if literal else {}
    layer = STAN(**fields).build((96, 4, 4, 4))
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-3)
    maps = 3 + 2 * torch.randn(8, 96, 4, 4, 4)
    for _ in range(10):
        optimizer.zero_grad()
        layer.theta(maps).sum().backward()
        optimizer.step()
    change = (layer.theta(maps) - torch.eye(4)).abs().max().item()
    assert change > 1 if literal else 0 < change < 0.1, change


# --- in a model ------------------------------------------------------------------------------------------------------


def test_statistics() -> None:
    theta = torch.cat((affine(p4=1.0, p6=1.0), affine(p4=1.0, p6=0.0)))
    found = statistics(theta, (4, 4, 4))
    assert found["p4"] == 1 and found["p4.std"] == 0 and found["p6"] == 0.5 and found["p6.std"] == 0.5
    assert found["p15"] == 0 and len(found) == 32
    assert found["det"] == pytest.approx(1.5)
    # a shift by half the map puts half the frames outside; of the rest, a zoom-out by 2 half the columns
    assert found["outside"] == pytest.approx((0.75 + 0.5) / 2)


def test_thetas_of_a_model() -> None:
    clip = ClipSpec(frames=8, size=32)
    inserts = [Insert(layer=STAN(fc_init_std=0.1), at=0), Insert(layer=STAN(), at=0), Insert(layer=STAN(), at=2)]
    model = create_model("r3d_tiny", classes=3, clip=clip, inserts=inserts).eval()
    found = thetas(model, torch.randn(2, 3, 8, 32, 32))
    assert list(found) == ["inserts.0.0", "inserts.0.1", "inserts.2.0"]
    assert found["inserts.0.0"][1] == model.grid_at(0)[1:] == (4, 8, 8)
    assert (found["inserts.0.0"][0] - torch.eye(4)).abs().max() > 1e-4
    assert torch.equal(found["inserts.2.0"][0], torch.eye(4).expand(2, 4, 4))
    assert not any(layer._forward_pre_hooks for layer in model.modules())


def blobs(clips: int, seed: int) -> Tensor:
    """Videos (B, 3, 6, 16, 16) of some soft spots."""
    generator = torch.Generator().manual_seed(seed)
    t, y, x = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in (6, 16, 16)), indexing="ij")
    video = torch.zeros(clips, 3, 6, 16, 16)
    for _ in range(4):
        at = torch.rand(clips, 3, 3, 1, 1, 1, generator=generator) * 1.2 - 0.6
        distance = (t - at[:, :, 0]) ** 2 / 0.6 + ((y - at[:, :, 1]) ** 2 + (x - at[:, :, 2]) ** 2) / 0.1
        video += torch.exp(-distance)
    return video


def test_learns_a_known_transform_from_pixels() -> None:  # 16
    torch.manual_seed(0)
    truth = affine(p1=0.1, p4=0.2, p6=-0.2, p8=0.25, p11=-0.15, p12=-0.2).float()
    layer = STAN(residual="none", p_scale=0.1).build((3, 6, 16, 16))
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.03)
    for step in range(150):
        x = blobs(8, step)
        loss = F.mse_loss(layer(x), warp(x, truth.expand(8, 4, 4)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = layer.theta(blobs(8, 10_000))
    assert (found - truth).abs().max() < 0.05, found.mean(0)
    assert math.isfinite(loss.item())
