"""TDA and SDA, ST-MANet's attention between the frames and between the positions of a feature map.

Source: Y. Wang, "Spatio-temporal-based multi-level aggregation network for physical action recognition", ComSIS 21(4),
2024, §3.2 and §3.3; no code exists. What the paper leaves open is a field of :class:`TDA` and :class:`SDA`, decided in
``docs/fidelity.md``. With a map Z ``(B, C, T, H, W)`` and the aggregation branch P of the stage before, Z̄ = [Z ; P]::

    A_t = softmax( φ(Z̄) ω(Z̄)ᵀ / √D )                T × T between frames, whole maps as vectors          (Eq. 1)
    P'  = pool( ε( A_t · P ) )                       what the next stage's branch gets                    (Eq. 2)
    Z_t = Z + norm( ε'( A_t · Z ) )                                                                        (Eq. 3)
    A_s = softmax( α(Z) β(Z)ᵀ / √D )                 H·W × H·W between positions, whole courses as vectors   (Eq. 4)
    Z_s = norm( π( A_s · η(Z) ) )                                                                          (Eq. 5)

Eqs. 2, 3 and 5 print a second softmax, of the products with A, without an axis, and no norm. Over positions it makes
SDA's mean over all positions a constant, so that a classifier of means does not see it, and whatever SDA adds elsewhere
is far smaller than the map. It is the option ``second_softmax``.

As plug-ins they are Z_t without a branch, and Z + Z_s; fresh ones change nothing.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gesta.config import Count, config, unless
from gesta.cost import is_counting
from gesta.layers.pointwise import Pointwise
from gesta.layers.precision import no_autocast
from gesta.model import Grid, LayerConfig

Softmax = Literal["position", "feature", "none"]
Scale = Literal["sqrt", "none"]
OutNorm = Literal["none", "bn_zero"]
Size = tuple[int, int, int]

IDLE = 1e-3
"""A module is said to add next to nothing if its :func:`strength` is below this."""


@config
class TDA(LayerConfig):
    """Temporal deep aggregation.

    Attributes:
        embed: φ and ω: ``depthwise`` or ``dense`` convolutions over three frames, or ``none``.
        value: what the branch aggregates: ``branch`` P, as Eq. 2 has it, or ``concat`` Z̄, as two of the text's shapes
            do. Without a branch both are Z.
        out: ε': ``depthwise``, ``separable`` (and then 1 × 1 × 1) or ``dense``.
        out_norm: ``bn_zero``: a batch norm after ε' that starts at 0.
        branch_norm: batch norm, or that and ReLU, after the branch's pooling.
        second_softmax: of the attention's product: ``none``, over the frames (``position``), or over all the
            ``feature``s of a frame.
        scale: divide the logits by ``sqrt`` of the features per frame, which the paper does not print; ``none`` gives
            one-hot rows.
    """

    embed: Literal["depthwise", "dense", "none"] = "depthwise"
    value: Literal["concat", "branch"] = "branch"
    out: Literal["depthwise", "separable", "dense"] = "depthwise"
    out_norm: OutNorm = "bn_zero"
    branch_norm: Literal["none", "bn", "bn_relu"] = "none"
    second_softmax: Softmax = "none"
    scale: Scale = "sqrt"

    def unused(self) -> Iterator[tuple[str, str]]:
        yield from unless(False, "the branch of ST-MANet (its tda_value …)", "value", "branch_norm")

    def build(self, grid: Grid) -> TDALayer:
        return TDALayer(self, grid[0])


@config
class SDA(LayerConfig):
    """Spatial deep aggregation.

    Attributes:
        qk_reduction: α and β are 1 × 1 × 1 convolutions to C / this many channels; None: only reshaped, as the text
            says, so that the attention is a fixed function of the map.
        v_reduction: the same of η; π goes back to C channels.
        out_norm: ``bn_zero``: a batch norm after π that starts at 0.
        second_softmax: see :class:`TDA`; over all positions of a map, or over the features of a position.
        scale: see :class:`TDA`.
    """

    qk_reduction: Count | None = 8
    v_reduction: Count | None = 4
    out_norm: OutNorm = "bn_zero"
    second_softmax: Softmax = "none"
    scale: Scale = "sqrt"

    def build(self, grid: Grid) -> SDALayer:
        return SDALayer(self, grid[0])


class Aggregated(NamedTuple):
    """What an attention gives.

    Attributes:
        residual: what is added to the map, of its shape.
        attention: ``(B, T, T)`` or ``(B, H·W, H·W)``, float32 at least.
        branch: for the next stage; None if nobody asked.
    """

    residual: Tensor
    attention: Tensor
    branch: Tensor | None = None


class TDALayer(nn.Module):
    """The layer of :class:`TDA`, and the module of ST-MANet's stages, where a branch goes in and out.

    Args:
        channels: C of the map.
        incoming: channels of the branch that comes in; 0 for none.
        pool: the branch that goes out is pooled by these frames, rows and columns; None: no branch goes out.
    """

    def __init__(self, config: TDA, channels: int, incoming: int = 0, pool: Size | None = None) -> None:
        super().__init__()
        self.config, self.incoming, self.pool = config, incoming, pool
        width = channels + incoming
        if config.embed != "none":
            groups = width if config.embed == "depthwise" else 1
            self.phi, self.omega = (_over_time(width, width, groups) for _ in range(2))
            for conv in (self.phi, self.omega):
                nn.init.normal_(conv.weight, std=0.15)
        bias = config.out_norm == "none"  # a norm takes it away again
        self.out = nn.Sequential(_over_time(channels, channels, 1 if config.out == "dense" else channels, bias))
        if config.out == "separable":
            self.out.append(_pointwise(channels, channels, bias))
        if config.out_norm == "bn_zero":
            self.out.append(_zero_norm(channels))
        if pool is not None:
            values = incoming if config.value == "branch" and incoming else width
            self.epsilon = _over_time(values, channels, bias=config.branch_norm == "none")
            self.branch_norm = nn.Sequential()
            if config.branch_norm != "none":
                self.branch_norm.append(nn.BatchNorm3d(channels))
            if config.branch_norm == "bn_relu":
                self.branch_norm.append(nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        """Z_t (Eq. 3): ``(B, C, T, H, W)`` to the same shape."""
        return x + self.aggregate(x).residual

    def diagnose(self, x: Tensor) -> dict[str, float]:
        """``entropy`` of the attention and ``strength`` of the module on a map ``(B, C, T, H, W)``."""
        added = self.aggregate(x)
        return {"entropy": entropy(added.attention), "strength": strength(added.residual, x)}

    def faults(self, figures: dict[str, float]) -> list[str]:
        """What of :meth:`diagnose` means that it does nothing."""
        return idle(figures["strength"])

    def aggregate(self, x: Tensor, branch: Tensor | None = None) -> Aggregated:
        """Attention between the frames of a map ``(B, C, T, H, W)`` and of the branch, of another width."""
        attention = self.attend([x] if branch is None else [x, branch])
        values = [] if self.pool is None else [x]
        if self.pool is not None and branch is not None:
            values = [branch] if self.config.value == "branch" else [x, branch]
        if is_counting() or self.config.second_softmax == "feature":  # papers count A · Z and A · Z̄ apart
            (own,), values = self.weigh(attention, [x]), self.weigh(attention, values)
        else:  # and they are the same numbers
            own, *others = self.weigh(attention, [x, *(value for value in values if value is not x)])
            values = [own, *others] if values and values[0] is x else others
        return Aggregated(self._to_map(own), attention, self._to_branch(values))

    def attend(self, parts: Sequence[Tensor]) -> Tensor:
        """A_t ``(B, T, T)`` (Eq. 1) of maps that together are Z̄."""
        c = self.config
        if c.embed == "depthwise" and not is_counting():
            return self._attend_by_grams(parts)
        whole = torch.cat(list(parts), 1)
        q, k = (whole, whole) if c.embed == "none" else (self.phi(whole), self.omega(whole))
        return _attention(_by_frame(q), _by_frame(k), c.scale)

    def _attend_by_grams(self, parts: Sequence[Tensor]) -> Tensor:
        """The same without φ(Z̄) and ω(Z̄), from each channel's products G of frames alone.

        With three taps each, φ(Z̄) ω(Z̄)ᵀ at (t, s) is the sum over channels and pairs of taps (a, b) of φ_a ω_b
        G(t + a, s + b): a convolution of the T × T images G with the outer products of the taps.
        """
        dtype = torch.promote_types(parts[0].dtype, torch.float32)
        with no_autocast(parts[0]):
            rows = [_by_channel(part.to(dtype)) for part in parts]
            grams = torch.cat(
                [(part.flatten(0, 1) @ part.flatten(0, 1).mT).unflatten(0, part.shape[:2]) for part in rows], 1
            )
            sums = torch.cat([part.sum(3) for part in rows], 1)
            phi, omega = (conv.weight.to(dtype).flatten(1) for conv in (self.phi, self.omega))
            assert self.phi.bias is not None and self.omega.bias is not None
            phi_bias, omega_bias = (bias.to(dtype)[:, None] for bias in (self.phi.bias, self.omega.bias))
            logits = F.conv2d(grams, (phi[:, :, None] * omega[:, None])[None], padding=1)[:, 0]
            logits = logits + F.conv1d(sums, (phi_bias * omega)[None], padding=1)
            logits = logits + F.conv1d(sums, (omega_bias * phi)[None], padding=1).mT
            positions = rows[0].shape[3]
            logits = logits + positions * (phi_bias * omega_bias).sum()
            scale = (positions * len(phi)) ** -0.5 if self.config.scale == "sqrt" else 1.0
            return (scale * logits).softmax(-1)

    def weigh(self, attention: Tensor, parts: Sequence[Tensor]) -> list[Tensor]:
        """Frames of maps that together are one, mixed and under the second softmax."""
        mixed = [attention.to(part.dtype) @ _by_frame(part) for part in parts]
        if self.config.second_softmax == "position":
            mixed = [part.softmax(1) for part in mixed]
        elif self.config.second_softmax == "feature":
            mixed = _over_features(mixed)
        sizes = [(*part.shape[3:], part.shape[1]) for part in parts]
        return [part.unflatten(2, size).permute(0, 4, 1, 2, 3) for part, size in zip(mixed, sizes)]

    def _to_map(self, x: Tensor) -> Tensor:
        """ε'."""
        first: nn.Conv3d = self.out[0]  # type: ignore[assignment]
        if first.groups == 1 or is_counting():
            return self.out(x)
        bias = None if first.bias is None else first.bias.to(x.dtype)
        mixed = _Taps.apply(x.permute(0, 2, 3, 4, 1), first.weight.flatten(1).to(x.dtype), bias)
        return self.out[1:](mixed.permute(0, 4, 1, 2, 3))

    def _to_branch(self, values: Sequence[Tensor]) -> Tensor | None:
        """ε and the average pooling after it, with the pooling first as far as that gives the same.

        In space it always does. In time, s frames of a convolution's output are averaged by the convolution of stride s
        over running means of s frames of the padded input, if s divides the number of frames.
        """
        if self.pool is None:
            return None
        stride, *space = self.pool
        if is_counting():  # "a convolutional layer …, followed by a pooling layer" (§3.2)
            whole = self.epsilon(torch.cat(list(values), 1))
            return self.branch_norm(_pool_time(_pool_space(whole, space), stride))
        x = torch.cat([_pool_space(value, space) for value in values], 1)
        if stride == 1 or x.shape[2] % stride:
            return self.branch_norm(_pool_time(self.epsilon(x), stride))
        padded = F.pad(x, (0, 0, 0, 0, 1, 1))
        frames = padded.shape[2] - stride + 1
        means = functools.reduce(torch.add, [padded[:, :, i : i + frames] for i in range(stride)]) / stride
        return self.branch_norm(F.conv3d(means, self.epsilon.weight, self.epsilon.bias, (stride, 1, 1)))


class _Taps(torch.autograd.Function):
    """Depth-wise convolution over three frames of ``(B, T, H, W, C)`` with ``(C, 3)`` and ``(C,)`` or None.

    Sums of shifted products, which with channels last are ten times as fast as a CPU's convolution in groups.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        mixed = _taps(x, weight)
        return mixed if bias is None else mixed.add_(bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        x, weight = ctx.saved_tensors
        grad = grads[0].contiguous()
        pairs = ((grad[:, 1:], x[:, :-1]), (grad, x), (grad[:, :-1], x[:, 1:]))
        along = torch.stack([(a * b).sum((0, 1, 2, 3)) for a, b in pairs], 1)
        of_bias = grad.sum((0, 1, 2, 3)) if ctx.needs_input_grad[2] else None
        return _taps(grad, weight.flip(1)), along, of_bias


def _taps(x: Tensor, weight: Tensor) -> Tensor:
    before, here, after = weight.unbind(1)
    mixed = x * here
    mixed[:, 1:].addcmul_(x[:, :-1], before)
    mixed[:, :-1].addcmul_(x[:, 1:], after)
    return mixed


class SDALayer(nn.Module):
    """The layer of :class:`SDA`, and the module of ST-MANet's stages."""

    def __init__(self, config: SDA, channels: int) -> None:
        super().__init__()
        self.config = config
        if config.qk_reduction is not None:
            self.alpha, self.beta = (_pointwise(channels, max(channels // config.qk_reduction, 1)) for _ in range(2))
            for conv in (self.alpha, self.beta):
                nn.init.normal_(conv.weight, std=0.5 * channels**-0.5)
        self.pi = nn.Sequential()
        if config.v_reduction is not None:
            bias = config.out_norm == "none"  # a norm takes it away again, and rows of A sum to 1
            inner = max(channels // config.v_reduction, 1)
            self.eta = _pointwise(channels, inner, bias or config.second_softmax == "feature")
            self.pi.append(_pointwise(inner, channels, bias))
        if config.out_norm == "bn_zero":
            self.pi.append(_zero_norm(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Z + Z_s: ``(B, C, T, H, W)`` to the same shape."""
        return x + self.aggregate(x).residual

    def diagnose(self, x: Tensor) -> dict[str, float]:
        """``entropy`` of the attention and ``strength`` of the module on a map ``(B, C, T, H, W)``."""
        added = self.aggregate(x)
        return {"entropy": entropy(added.attention), "strength": strength(added.residual, x)}

    def faults(self, figures: dict[str, float]) -> list[str]:
        """What of :meth:`diagnose` means that it does nothing."""
        return idle(figures["strength"])

    def aggregate(self, x: Tensor) -> Aggregated:
        """Attention between the positions of a map ``(B, C, T, H, W)``."""
        c, size = self.config, x.shape[2:]
        q, k, value = self._embed(x)
        attention = _attention(_by_position(q), _by_position(k), c.scale)
        value = attention.to(value.dtype) @ _by_position(value)
        if c.second_softmax == "position":
            value = value.softmax(1)
        elif c.second_softmax == "feature":
            (value,) = _over_features([value])
        value = value.unflatten(2, (size[0], -1)).unflatten(1, size[1:])
        return Aggregated(self.pi(value.permute(0, 4, 3, 1, 2)), attention)

    def _embed(self, x: Tensor) -> list[Tensor]:
        """α(Z), β(Z) and η(Z), by one product of matrices."""
        names = ["alpha", "beta", "eta"]
        convs = [getattr(self, name) for name in names if hasattr(self, name)]
        if is_counting() or not convs:
            return [getattr(self, name)(x) if hasattr(self, name) else x for name in names]
        weight = torch.cat([conv.weight.flatten(1) for conv in convs])
        bias = torch.cat(
            [conv.weight.new_zeros(len(conv.weight)) if conv.bias is None else conv.bias for conv in convs]
        )
        embedded = F.linear(x.permute(0, 2, 3, 4, 1), weight, bias)
        parts = iter(embedded.permute(0, 4, 1, 2, 3).split([len(conv.weight) for conv in convs], 1))
        return [next(parts) if hasattr(self, name) else x for name in names]


def entropy(attention: Tensor) -> float:
    """Mean entropy of rows ``(B, N, N)`` in units of the largest possible: 1 is uniform, 0 is one position."""
    return (torch.special.entr(attention).sum(-1).mean() / math.log(max(attention.shape[-1], 2))).item()


def strength(added: Tensor, x: Tensor) -> float:
    """The standard deviation of what is added to a map, divided by that of the map; of each channel, then the RMS."""
    return (_variation(added) / _variation(x).clamp_min(1e-12)).sqrt().item()


def _variation(x: Tensor) -> Tensor:
    return x.double().var((0, 2, 3, 4), correction=0).mean()


def idle(strength: float, what: str = "what it adds") -> list[str]:
    """A sentence if a module does nothing."""
    return [f"{what} is almost constant (it varies by {strength:.1g} of the map)"] if strength < IDLE else []


def _over_time(inputs: int, outputs: int, groups: int = 1, bias: bool = True) -> nn.Conv3d:
    """A convolution over three frames."""
    return _started(nn.Conv3d(inputs, outputs, (3, 1, 1), padding=(1, 0, 0), groups=groups, bias=bias))


def _pointwise(inputs: int, outputs: int, bias: bool = True) -> nn.Conv3d:
    return _started(Pointwise(inputs, outputs, bias=bias))


def _started(conv: nn.Conv3d) -> nn.Conv3d:
    """Variance 1 / inputs of an output (Kaiming's rule without ReLU), and no bias at first."""
    nn.init.normal_(conv.weight, std=conv.weight[0].numel() ** -0.5)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def _zero_norm(channels: int) -> nn.BatchNorm3d:
    norm = nn.BatchNorm3d(channels)
    nn.init.zeros_(norm.weight)
    return norm


def _by_frame(x: Tensor) -> Tensor:
    """``(B, C, T, H, W)`` to ``(B, T, H·W·C)``, without a copy if channels lie last."""
    return x.permute(0, 2, 3, 4, 1).flatten(2)


def _by_channel(x: Tensor) -> Tensor:
    """``(B, C, T, H, W)`` to ``(B, C, T, H·W)`` with channels first."""
    # a CPU transposes matrices three times as fast as anything else; an exported program takes any number of clips
    if x.device.type == "cpu" and not torch.compiler.is_exporting() and len(x):
        return torch.stack([clip.flatten(1).contiguous() for clip in x]).view(*x.shape[:3], -1)
    return x.contiguous().flatten(3)


def _by_position(x: Tensor) -> Tensor:
    """``(B, C, T, H, W)`` to ``(B, H·W, T·C)``."""
    return x.permute(0, 3, 4, 2, 1).flatten(1, 2).flatten(2)


def _attention(q: Tensor, k: Tensor, scale: Scale) -> Tensor:
    """softmax(q kᵀ) by rows, ``(B, N, D)`` to ``(B, N, N)``; half precision would overflow at D of 300,000."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    with no_autocast(q):
        q, k = q.to(dtype), k.to(dtype)
        if scale == "sqrt":
            q = q * q.shape[2] ** -0.5
        return (q @ k.mT).softmax(-1)


def _pool_space(x: Tensor, size: Sequence[int]) -> Tensor:
    """Means of ``(B, C, T, H, W)`` over rows and columns, those at the edge of what there is."""
    images = x.transpose(1, 2).flatten(0, 1)  # pooling of images knows how to read channels that lie last
    images = F.avg_pool2d(images, tuple(size), ceil_mode=True, count_include_pad=False)
    return images.unflatten(0, (x.shape[0], -1)).transpose(1, 2)


def _pool_time(x: Tensor, frames: int) -> Tensor:
    if frames == 1:
        return x
    kernel = (min(frames, x.shape[2]), 1, 1)  # no longer than the clip
    return F.avg_pool3d(x, kernel, ceil_mode=True, count_include_pad=False)


def _over_features(parts: Sequence[Tensor]) -> list[Tensor]:
    """Softmax over all the features of a frame, of ``(B, T, D)`` that together are one map; under autocast float32,
    as softmax is, else of the dtype of the parts."""
    if not parts:
        return []
    dtype = torch.promote_types(parts[0].dtype, torch.float32)
    total = torch.stack([part.to(dtype).logsumexp(2, keepdim=True) for part in parts]).logsumexp(0)
    if not parts[0].is_meta and torch.is_autocast_enabled(parts[0].device.type):
        return [(part - total).exp() for part in parts]
    return [(part - total).exp().to(part.dtype) for part in parts]
