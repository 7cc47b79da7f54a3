"""STAN: one learnt space-time transform per clip, under which a feature map is resampled.

Source: J. Ye, J. Liang, "Spatial-Temporal Alignment Network for Action Recognition", 2023 (arXiv 2308.09897), §2; no
official code exists. What the paper leaves open is decided in ``docs/fidelity.md`` (S1 to S16, S19); decisions about
the layer are fields of :class:`STAN`.

A deformation network D regresses θ (4 × 4, rows and columns in the order t, x, y, 1; x along W, y along H) from the
map; the warp samples the map at ``s = θ o`` for every output position ``o``, in coordinates that run from -1 to 1 over
each axis, so θ means the same on the raw clip; the input is added back (Eq 1)::

    I_out = W(θ, I_in) + I_in ,   θ = D(I_in)
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gesta.config import Count, NotNegative, Positive, config, unless
from gesta.cost import is_counting
from gesta.errors import GestaError
from gesta.layers.few_clips import SinglePositionNorm
from gesta.layers.precision import no_autocast
from gesta.model import Grid, LayerConfig, VideoModel, hooked

Mode = Literal["attention", "affine", "homography"]
Direction = Literal["output_to_source", "source_to_output"]
PaddingMode = Literal["zeros", "border", "reflection"]
Size = tuple[int, int, int]
"""Frames, height, width."""

DOF: dict[str, int] = {"attention": 6, "affine": 12, "homography": 15}
"""Degrees of freedom: how many numbers D regresses."""

SCALES: dict[str, tuple[tuple[int, ...], tuple[str, ...], str]] = {
    # kernels, channels, padding
    "small": ((2,), ("C/4",), "same"),
    "medium": ((3, 2), ("C", "C/4"), "same"),
    "large": ((4, 3, 2), ("4C", "C", "C/4"), "same"),
    "cost_matched": ((3,), ("C/4",), "valid"),
    "cost_matched_medium": ((3, 3), ("C/4", "C/8"), "valid"),
    "cost_matched_large": ((3, 3, 3), ("4C", "C", "C/4"), "valid"),
}
"""D by name. The first three are literally Table 3's; ``cost_matched`` is the net that has the parameters and FLOPs
of Table 1's row, which the paper's own "medium" (as Table 3 prints it) has not; ``cost_matched_medium`` and
``cost_matched_large`` have the parameters that Table 3 prints for "medium" and "large"."""

SAME_THETA = 1e-3
"""Clips have the same θ if no entry has a larger standard deviation; 2 is the width of the map."""

MOSTLY_OUTSIDE = 0.5
"""Fraction of the samples outside the map above which the warp is called empty."""

COLLAPSED = 0.01
"""Mean absolute determinant of θ below which the map is called squeezed to nothing."""

_MIN_DEPTH = 1e-4  # smallest |w| that the homography divides by


@config
class STAN(LayerConfig):
    """Spatial-temporal alignment before a block.

    Attributes:
        scale: the deformation network; ``medium`` costs +1.07 M and 4 to 6 G at the default block of MViTv2-S, not the
            +0.25 M and +1.0 G which the paper reports and ``cost_matched`` has.
        kernels: edges of D's cubic kernels, instead of those of ``scale``; ``channels`` must then be given too.
        channels: D's output channels per convolution, with ``kernels``.
        padding: of D's convolutions; None as ``scale`` says (``same`` with ``kernels``).
        norm: ``bn`` puts a batch norm after each convolution of D, as R(2+1)D has it, on which the paper says that D is
            based; ``none`` is the text of §2.2 alone, which names convolutions and poolings: D then dies in training
            unless its learning rate is much smaller than the backbone's.
        coordinates: D also sees the coordinates t, x, y of every position, as three more channels (our extension). The
            mean over positions at its end, which the paper has, forgets where things are: without it, θ can follow an
            actor only by what zero padding tells of the border.
        mode: ``attention`` (6 numbers: zoom and shift per axis, Eq 5), ``affine`` (12, Eq 3), ``homography`` (15, our
            extension: the paper announces it and never defines it).
        direction: ``output_to_source`` samples at s = θ o; ``source_to_output`` reads Eq 4 literally (o = θ s) and
            inverts θ.
        residual: what happens to the warped map W: ``add`` W + I (the paper; doubles the map at first), ``none`` W,
            ``mean`` (W + I) / 2, ``gated`` I + g (W - I) with a learnt g that starts at 0, so that a pretrained
            backbone starts unchanged.
        padding_mode: what lies outside the map.
        align_corners: whether -1 and 1 are the centres of the outermost cells (else their outer edges).
        separable: resample by three matrix products instead of ``grid_sample`` (``attention`` with ``zeros`` only):
            equal results, faster (``benchmarks/stan.py``), and deterministic gradients on GPUs, where those of
            ``grid_sample`` are not. None does so wherever it is possible.
        fc_init_std: standard deviation of D's last layer at first. None is 0, so that θ starts as the identity, except
            with ``gated``, where both factors of g (W - I) would be 0 and never get a gradient: there it is
            0.01 / ``p_scale``.
        p_scale: factor on the regressed numbers. Under Adam, which makes steps of the same size whatever the gradient,
            0.1 is a tenth of the learning rate for what D regresses (spatial transformers need that); 1 is the paper.
        tanh_bound: bounds them softly to ± this (slope 1 at 0), so that no axis can collapse or leave the map; None,
            the paper, for no bound.
    """

    scale: Literal["small", "medium", "large", "cost_matched", "cost_matched_medium", "cost_matched_large"] = (
        "cost_matched"
    )
    kernels: tuple[Count, ...] | None = None
    channels: tuple[Count, ...] | None = None
    padding: Literal["same", "valid"] | None = None
    norm: Literal["bn", "none"] = "bn"
    coordinates: bool = False
    mode: Mode = "affine"
    direction: Direction = "output_to_source"
    residual: Literal["add", "none", "mean", "gated"] = "add"
    padding_mode: PaddingMode = "zeros"
    align_corners: bool = False
    separable: bool | None = None
    fc_init_std: NotNegative | None = None
    p_scale: Positive = 0.1
    tanh_bound: Positive | None = 0.5

    def unused(self) -> Iterator[tuple[str, str]]:
        yield from unless(self.kernels is None and self.channels is None, "kernels=None", "scale")

    def build(self, grid: Grid) -> STANLayer:
        return STANLayer(self, grid[0])


class STANLayer(nn.Module):
    """The layer of :class:`STAN` for maps with ``channels`` channels of any size.

    Raises:
        GestaError: switches that exclude each other.
    """

    def __init__(self, config: STAN, channels: int) -> None:
        super().__init__()
        possible = config.mode == "attention" and config.padding_mode == "zeros"
        if config.separable and not possible:
            raise GestaError("STAN: separable needs mode 'attention' and padding_mode 'zeros'")
        self.separable = possible if config.separable is None else config.separable
        self.config = config
        self.deformation = Deformation(config, channels)
        if config.residual == "gated":
            self.gate = nn.Parameter(torch.zeros(1))  # 1-D: no weight decay, and FSDP refuses 0-D

    def theta(self, x: Tensor) -> Tensor:
        """The transform of each clip, ``(B, 4, 4)`` in float32 (float64 for float64 maps), from its map (Eq 2)."""
        return theta_from(self.deformation(x), self.config.mode)

    def diagnose(self, x: Tensor) -> dict[str, float]:
        """What to watch on a map ``(B, C, T, H, W)`` while STAN learns, see :func:`statistics`."""
        c = self.config
        size = (x.shape[2], x.shape[3], x.shape[4])
        return statistics(self.theta(x), size, direction=c.direction, align_corners=c.align_corners)

    def faults(self, figures: dict[str, float]) -> list[str]:
        """What of :meth:`diagnose` means that it aligns nothing."""
        spread = max((value for name, value in figures.items() if name.endswith(".std")), default=SAME_THETA)
        sentences = {
            f"θ is the same for all clips (its entries deviate by {spread:.2g} at most), so the deformation network "
            "has no effect": spread < SAME_THETA,
            f"{100 * figures['outside']:.0f} % of the samples lie outside the map, where the warp returns "
            f"{self.config.padding_mode}": figures["outside"] > MOSTLY_OUTSIDE,
            f"θ has squeezed the map to nothing (determinant {figures['det']:.2g})": figures["det"] < COLLAPSED,
        }
        return [sentence for sentence, holds in sentences.items() if holds]

    def forward(self, x: Tensor) -> Tensor:
        """Align the map (Eq 1): ``(B, C, T, H, W)`` to the same shape and dtype."""
        c = self.config
        warped = warp(
            x,
            self.theta(x),
            direction=c.direction,
            padding_mode=c.padding_mode,
            align_corners=c.align_corners,
            projective=c.mode == "homography",
            separable=self.separable and not is_counting(),  # costs are counted in the paper's form
        )
        if c.residual == "add":
            return warped + x
        if c.residual == "mean":
            return 0.5 * (warped + x)
        if c.residual == "gated":
            return torch.lerp(x, warped, self.gate.to(x.dtype))
        return warped


class Deformation(nn.Module):
    """The deformation network D (§2.2, Table 3): convolution – [norm] – ReLU – max-pool, n times; mean; linear."""

    def __init__(self, config: STAN, channels: int) -> None:
        super().__init__()
        kernels, widths, padding = _sizes(config, channels)
        self.p_scale, self.tanh_bound, self.coordinates = config.p_scale, config.tanh_bound, config.coordinates
        self.stages = nn.Sequential()
        channels += 3 * config.coordinates
        for kernel, width in zip(kernels, widths):
            self.stages.append(Stage(channels, width, kernel, padding, config.norm))
            channels = width
        self.fc = nn.Linear(channels, DOF[config.mode])
        std = config.fc_init_std
        if std is None:
            std = 0.01 / config.p_scale if config.residual == "gated" else 0.0
        nn.init.normal_(self.fc.weight, std=std) if std else nn.init.zeros_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, T, H, W)`` to p, ``(B, DoF)``, computed in float32 from the pooled features on."""
        features = self.stages(_with_coordinates(x) if self.coordinates else x)
        with no_autocast(x):
            dtype = torch.promote_types(features.dtype, torch.float32)
            pooled = features.to(dtype).mean((2, 3, 4))
            p = F.linear(pooled, self.fc.weight.to(dtype), self.fc.bias.to(dtype)) * self.p_scale
            return p if self.tanh_bound is None else self.tanh_bound * torch.tanh(p / self.tanh_bound)


def _with_coordinates(x: Tensor) -> Tensor:
    """A map with t, x and y, from -1 to 1 over its axes, as further channels: ``(B, C + 3, T, H, W)``."""
    b, _, *size = x.shape
    t, y, x_ = (torch.linspace(-1, 1, n, dtype=x.dtype, device=x.device) if n > 1 else x.new_zeros(1) for n in size)
    grid = torch.stack(torch.meshgrid(t, y, x_, indexing="ij"))[[0, 2, 1]]
    return torch.cat((x, grid.expand(b, -1, -1, -1, -1)), 1)


class Stage(nn.Module):
    """One convolution of D and the max-pool "with the same filter size", for maps of any size.

    Taken literally the stages empty small maps (kernels 3, 2 on 8 frames leave none to pool), so an axis shorter than
    the kernel is zero-padded to its length, and the pool takes the whole of an axis shorter than itself.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, padding: str, norm: str) -> None:
        super().__init__()
        self.kernel, self.padding = kernel, padding
        self.conv = nn.Conv3d(inputs, outputs, kernel, bias=norm == "none")  # a batch norm takes it away again
        self.norm = SinglePositionNorm(outputs) if norm == "bn" else nn.Identity()
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, inputs, T, H, W)`` to ``(B, outputs, …)``, no axis ever below 1."""
        x = F.relu(self.norm(self._convolve(x)))
        window = [min(self.kernel, size) for size in x.shape[2:]]
        return F.max_pool3d(x, window, window)

    def _convolve(self, x: Tensor) -> Tensor:
        if self.padding == "same" and self.kernel % 2:  # the kernel does symmetric padding itself, without a copy
            return F.conv3d(x, self.conv.weight, self.conv.bias, padding=self.kernel // 2)
        pads: list[int] = []
        for size in reversed(x.shape[2:]):  # F.pad counts from the last axis
            lack = self.kernel - 1 if self.padding == "same" else max(self.kernel - size, 0)
            pads += [lack // 2, lack - lack // 2]
        return self.conv(F.pad(x, pads) if any(pads) else x)


def theta_from(p: Tensor, mode: Mode) -> Tensor:
    """Numbers to transform: the identity plus p (Eqs 3 and 5).

    Args:
        p: ``(B, 6)`` zooms of t, x, y and shifts of t, x, y; ``(B, 12)`` the first three rows; ``(B, 15)`` all rows but
            the last entry.

    Returns:
        θ ``(B, 4, 4)``, rows and columns in the order t, x, y, 1.
    """
    if p.dim() != 2 or p.shape[1] != DOF[mode]:
        raise ValueError(f"{mode} takes p of shape (B, {DOF[mode]}), not {tuple(p.shape)}")
    if mode == "attention":
        change = F.pad(torch.cat((torch.diag_embed(p[:, :3]), p[:, 3:, None]), dim=2), (0, 0, 0, 1))
    elif mode == "affine":
        change = F.pad(p.unflatten(1, (3, 4)), (0, 0, 0, 1))
    else:
        change = F.pad(p, (0, 1)).unflatten(1, (4, 4))
    return torch.eye(4, dtype=p.dtype, device=p.device) + change


def warp(
    x: Tensor,
    theta: Tensor,
    *,
    direction: Direction = "output_to_source",
    padding_mode: PaddingMode = "zeros",
    align_corners: bool = False,
    projective: bool = True,
    separable: bool = False,
) -> Tensor:
    """Resample maps under θ with trilinear interpolation (§2.3); all channels alike.

    Args:
        x: maps or raw clips ``(B, C, T, H, W)``, floating point.
        theta: ``(B, 4, 4)``, rows and columns in the order t, x, y, 1. On an axis of size 1 its row and column are
            taken as the identity's: a shift of a single frame would only darken it.
        projective: divide by the fourth coordinate; False saves that where the last row is known to be (0, 0, 0, 1).
        separable: θ is known to be diagonal with shifts; resample axis by axis with matrix products. Zero padding only.

    Returns:
        ``(B, C, T, H, W)`` in the dtype of ``x``; coordinates are float32 at least, also under autocast.
    """
    if separable and padding_mode != "zeros":
        raise ValueError("separable resampling pads with zeros only")
    dtype = torch.promote_types(x.dtype, torch.float32)
    with no_autocast(x):  # half-precision coordinates would be off by 1/128 of the map
        theta = theta.to(dtype)
        if separable:
            return _warp_by_axis(x, _source_from_output(theta, x.shape[2:], direction), align_corners)
        grid = sampling_grid(
            theta, x.shape[2:], direction=direction, align_corners=align_corners, projective=projective
        )
        warped = F.grid_sample(x.to(dtype), grid, padding_mode=padding_mode, align_corners=align_corners)
        return warped.to(x.dtype)


def sampling_grid(
    theta: Tensor,
    size: Size | torch.Size,
    *,
    direction: Direction = "output_to_source",
    align_corners: bool = False,
    projective: bool = True,
) -> Tensor:
    """Where each output cell is sampled, ``(B, T, H, W, 3)`` in the order x, y, t that ``grid_sample`` wants.

    Instead of a product with a cached grid of all positions, each column of θ is multiplied by the positions along its
    own axis and the results are broadcast: nothing to cache, and no matrix product that TF32 could round to 1/1000.
    """
    theta = _source_from_output(theta, size, direction)
    theta = torch.cat((theta[:, 1:3], theta[:, :1], theta[:, 3:]), dim=1)  # rows x, y, t, w
    if not projective:
        theta = theta[:, :3]
    t, y, x = (_positions(n, align_corners, theta) for n in size)
    from_t, from_x, from_y, shift = theta[:, None, None, None].unbind(-1)  # each (B, 1, 1, 1, rows)
    source = from_t * t.view(-1, 1, 1, 1) + shift
    source = source + from_y * y.view(-1, 1, 1)
    source = source + from_x * x.view(-1, 1)
    if not projective:
        return source
    w = source[..., 3:]
    w = torch.where(w < 0, w.clamp(max=-_MIN_DEPTH), w.clamp(min=_MIN_DEPTH))
    return source[..., :3] / w


def spatial_only(theta: Tensor) -> Tensor:
    """θ with everything that concerns time taken out: its row and column t become the identity's."""
    return _still(theta, (True, False, False))


def statistics(theta: Tensor, size: Size, **how: bool | str) -> dict[str, float]:
    """What to watch while STAN learns: is it still the identity, has it collapsed, does it look outside the map?

    Args:
        theta: ``(B, 4, 4)`` of some clips.
        size: frames, height and width of the map they are used on.
        how: ``direction``, ``align_corners`` as in :func:`sampling_grid`.

    Returns:
        ``p1`` … ``p15`` means over clips (as the affine mode numbers them) and, of two clips or more, ``p1.std`` …;
        ``det`` mean of the absolute determinant, and ``outside`` the fraction of samples beyond the map's edge.
    """
    theta = theta.detach()
    p = (theta - torch.eye(4, dtype=theta.dtype, device=theta.device)).flatten(1)[:, :15]
    quantities = {f"p{i + 1}": mean for i, mean in enumerate(p.mean(0).tolist())}
    if len(p) > 1:  # one clip cannot say whether θ depends on the clip
        quantities |= {f"p{i + 1}.std": std for i, std in enumerate(p.std(0, correction=0).tolist())}
    quantities["det"] = torch.linalg.det(theta).abs().mean().item()
    grid = sampling_grid(theta, size, **how)  # type: ignore[arg-type]
    quantities["outside"] = (grid.abs() > 1).any(-1).float().mean().item()
    return quantities


def thetas(model: VideoModel, video: Tensor) -> dict[str, tuple[Tensor, Size]]:
    """θ of every STAN layer of a model for some clips: name of the layer → ``(B, 4, 4)`` and its map's size.

    Args:
        video: normalised clips ``(B, C, T, H, W)``.
    """
    by_layer: dict[str, tuple[Tensor, Size]] = {}

    def note(name: str, layer: STANLayer, inputs: tuple[Tensor]) -> None:
        by_layer[name] = layer.theta(inputs[0]), tuple(inputs[0].shape[2:])  # type: ignore[assignment]

    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, STANLayer)]
    with hooked(pre={layer: partial(note, name) for name, layer in layers}):
        model.embed(video)
    return by_layer


def _sizes(config: STAN, channels: int) -> tuple[tuple[int, ...], tuple[int, ...], str]:
    """Kernels, channels and padding of D."""
    kernels, names, padding = SCALES[config.scale]
    # A quarter of a raw clip's three channels would be none.
    sizes = {"C/8": max(channels // 8, 8), "C/4": max(channels // 4, 8), "C": channels, "4C": 4 * channels}
    widths: tuple[int, ...] = tuple(sizes[name] for name in names)
    if config.kernels is not None or config.channels is not None:
        kernels, widths, padding = config.kernels or (), config.channels or (), "same"
        if not kernels or len(kernels) != len(widths) or min(*kernels, *widths) < 1:
            raise GestaError(
                f"STAN: kernels {config.kernels} and channels {config.channels} must be given together, "
                "one positive number per convolution"
            )
    return kernels, widths, config.padding or padding


def _source_from_output(theta: Tensor, size: Size | torch.Size, direction: Direction) -> Tensor:
    """The 4 × 4 that takes output positions to source positions, axes of size 1 left alone."""
    theta = without_flat_axes(theta, size)
    if direction == "source_to_output":
        return torch.linalg.inv_ex(theta).inverse  # unlike inv, it does not wait for the GPU to look for singular ones
    return theta


def without_flat_axes(theta: Tensor, size: Size | torch.Size) -> Tensor:
    """θ as it moves a map ``(T, H, W)``: along an axis of size 1 there is nothing to be moved."""
    return _still(theta, [n == 1 for n in (size[0], size[2], size[1])])


def _still(theta: Tensor, axes: list[bool] | tuple[bool, ...]) -> Tensor:
    """θ with row and column of the marked axes (t, x, y) replaced by the identity's."""
    if not any(axes):
        return theta
    free = torch.tensor([not axis for axis in axes] + [True], device=theta.device)
    identity = torch.eye(4, dtype=theta.dtype, device=theta.device)
    return torch.where(free[:, None] & free, theta, identity)


def _positions(n: int, align_corners: bool, like: Tensor) -> Tensor:
    """Centres of n cells on an axis from -1 to 1."""
    cells = torch.arange(n, dtype=like.dtype, device=like.device)
    return 2 * cells / max(n - 1, 1) - 1 if align_corners else (2 * cells + 1) / n - 1


def _warp_by_axis(x: Tensor, theta: Tensor, align_corners: bool) -> Tensor:
    """Resample along t, y and x in turn; exact for a diagonal θ with shifts and zeros outside.

    The weights are a hat function of the distance between sample and cell, written with ``floor`` as ``grid_sample``
    does, so that on the cells themselves, where the hat has kinks, the gradients are equal too.
    """
    x = x.movedim(1, -1)  # (B, T, H, W, C): every axis is then a plain batched product, and token maps need no copy
    for axis, equation in ((0, "bos,bshwc->bohwc"), (2, "bos,btswc->btowc"), (1, "bos,bthsc->bthoc")):
        n = x.shape[{0: 1, 2: 2, 1: 3}[axis]]
        source = theta[:, axis, axis, None] * _positions(n, align_corners, theta) + theta[:, axis, 3, None]
        index = (source + 1) / 2 * (n - 1) if align_corners else ((source + 1) * n - 1) / 2
        lower = index.floor()
        fraction = (index - lower)[..., None]
        distance = torch.arange(n, dtype=index.dtype, device=index.device) - lower[..., None]  # (B, out, source)
        weights = torch.where(distance == 0, 1 - fraction, 0) + torch.where(distance == 1, fraction, 0)
        x = torch.einsum(equation, weights.to(x.dtype), x)
    return x.movedim(-1, 1)
