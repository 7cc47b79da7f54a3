"""MFST: stages that look at space first and at time after, behind a stem of central difference convolutions.

Source: Y. Ma, B. Zhou, R. Wang, P. Wang, "Multi-stage Factorized Spatio-Temporal Representation for RGB-D Action and
Gesture Recognition", ACM MM 2023 (arXiv 2308.12006; also chapter 2 of Y. Ma's thesis, whose equations are cited here).
A network is one stream, RGB or depth; two of them are fused at their scores (``gesta fuse``).

A stage on a map ``Z``::

    F = maxpool( inception_B( inception_A( Z ) ) )               1 × k × k kernels only             Eq. 2.7
    L = k-NN Transformer over the positions of each frame of map(F)                                    Eq. 2.8
    W = fuse_s( repeat_s( Transformer( pool_s(L) + PE ) ) )      over the frames at each position, s = 1, 2, 4
    Z' = W + R(Z)                                                from the second stage on

No code of the paper is public and it prints no widths. Ours give its two parameter counts; the layers are those of the
public code it builds on (De+Recouple, UMDR, 3DCDC-NAS, KVT), block for block where the paper is silent.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import field
from functools import reduce
from typing import Annotated, Literal, cast

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from gesta.config import Between, Count, CountOrZero, Fraction, config, unless
from gesta.errors import GestaError
from gesta.layers.cdc import Conv, Difference, Triple, fold_difference, same_padding
from gesta.layers.init import Standardise, init_small
from gesta.layers.knn import knn_attention
from gesta.model import Classifier, ClipSpec, Grid, ModelConfig, VideoModel, drop_path_rates

PIECE = 2048
"""Tokens that go through a temporal Transformer together on a CPU; measured in ``benchmarks/mfst.py``."""

Nearest = tuple[float, int]
"""Fraction of the keys that attention keeps, and how many at most (0 for no such limit)."""

Branches = tuple[Count, Count, Count, Count, Count, Count]
"""Channels of an inception: b0, then inner and outer of b1 and of b2, then b3 (I3D's order)."""


@config
class StageConfig:
    """Sizes of one stage.

    Attributes:
        first: channels of its first inception.
        second: of its second.
        width: C of its Transformers and its output.
        stride: of its max-pool, in space.
        pair_max: halve the channels before the Transformers by the maximum of each pair (UMDR).
    """

    first: Branches
    second: Branches
    width: Count
    stride: Count = 1
    pair_max: bool = False


STAGES = (
    StageConfig(first=(64, 96, 128, 16, 32, 32), second=(128, 128, 192, 32, 96, 64), width=256, stride=2),
    StageConfig(first=(192, 96, 208, 16, 48, 64), second=(160, 112, 224, 24, 64, 64), width=256, stride=2),
    StageConfig(first=(128, 128, 256, 24, 64, 64), second=(112, 144, 288, 32, 64, 64), width=512),
    StageConfig(first=(256, 160, 320, 32, 128, 128), second=(384, 192, 384, 48, 128, 128), width=512, pair_max=True),
)
"""I3D's inceptions in I3D's order; the widths are our reconstruction."""


@config
class MFSTConfig(ModelConfig):
    """Sizes of an MFST, and the switches of its paper's tables.

    Attributes:
        cdc: central difference of the stem over space and time (``st``, for RGB), over time (``t``, for depth), or
            none.
        theta: its fraction, 0 to 1; 0 is none.
        stem: channels of the stem's first layers and of its last.
        stem_stride_t: temporal stride of the first layer; 2 is I3D's, and halves the work.
        stages: the stages, three in MFST-Base and four in MFST-Large.
        layers: of every Transformer.
        heads: attention heads.
        head_width: channels of a head, in stages of any width.
        hidden: hidden width of the MLPs.
        transformer_dropout: in the Transformers; ``dropout`` is before the classifier.
        knn: fraction of the keys that attention over space keeps, 1 for all.
        knn_keys: so many of them at most, 0 for no such limit; with ``knn=1`` exactly so many (KVT's own form).
        knn_temporal: the same over time, where the paper says nothing (De+Recouple: 0.7).
        knn_temporal_keys: so many of them at most.
        scales: temporal scales of the weight-shared Transformer; ``(1,)`` is the paper's V-Trans.
        scale_mode: how frames become fewer: the mean of every s frames (``avgpool``); one of them, random in training
            and the middle one else (``sample``, De+Recouple); or s windows of all frames (``window``).
        fuse: how the scales are put together.
        residual: the shortcut around every stage but the first.
        branch_pool_t: temporal size of the inceptions' max-pools; 3 is the public code's, and mixes frames.
        bn_momentum: of the batch norms.
        small_init: our addition for narrow models and few videos, see :mod:`gesta.layers.init`.
    """

    cdc: Difference = "st"
    theta: Fraction = 0.6
    stem: tuple[Count, Count] = (64, 192)
    stem_stride_t: Count = 1
    stages: tuple[StageConfig, ...] = STAGES
    layers: Count = 4
    heads: Count = 8
    head_width: Count = 64
    hidden: Count = 768
    transformer_dropout: Annotated[float, Between(0, 1, open="high")] = 0.1
    knn: Annotated[float, Between(0, 1, open="low")] = 0.7
    knn_keys: CountOrZero = 0
    knn_temporal: Annotated[float, Between(0, 1, open="low")] = 1.0
    knn_temporal_keys: CountOrZero = 0
    scales: tuple[Count, ...] = (1, 2, 4)
    scale_mode: Literal["avgpool", "sample", "window"] = "avgpool"
    fuse: Literal["mean", "sum", "max"] = "mean"
    residual: bool = True
    branch_pool_t: Literal[1, 3] = 1
    bn_momentum: Annotated[float, Between(0, 1, open="low")] = 0.01
    small_init: bool = False
    clip: ClipSpec = field(
        default_factory=lambda: ClipSpec(
            frames=32, sampling="uniform", size=224, mean=(0.5, 0.5, 0.5), std=(128 / 255, 128 / 255, 128 / 255)
        )
    )

    def unused(self) -> Iterator[tuple[str, str]]:
        yield from unless(self.cdc != "none" or self.theta == 0, "a central difference (cdc)", "theta")
        yield from unless(self.scales != (1,), "scales of time", "scale_mode")
        yield from unless(len(self.scales) > 1, "several scales", "fuse")

    def build(self) -> MFST:
        return MFST(self)


def mfst_large() -> MFSTConfig:
    """MFST-Large: four stages, 32 frames of 224 × 224, one of each segment of the video. For depth say ``cdc="t"``."""
    return MFSTConfig()


def mfst_base() -> MFSTConfig:
    """MFST-Base: three stages, 32 frames of 224 × 224."""
    return MFSTConfig(stages=STAGES[:3])


def mfst_bm() -> MFSTConfig:
    """The paper's baseline MFST-BM: no central difference, no shortcuts, one temporal scale."""
    return MFSTConfig(cdc="none", residual=False, scales=(1,))


def mfst_tiny() -> MFSTConfig:
    """Three narrow stages for CPUs: 8 frames of 64 × 64, every fourth frame."""
    return MFSTConfig(
        stem=(16, 32),
        stages=(
            StageConfig(first=(16, 16, 24, 4, 8, 16), second=(24, 16, 32, 4, 12, 12), width=64, stride=2),
            StageConfig(first=(24, 16, 32, 4, 12, 12), second=(24, 16, 32, 4, 12, 12), width=64),
            StageConfig(
                first=(32, 24, 48, 6, 16, 16), second=(48, 32, 64, 8, 24, 24), width=80, stride=2, pair_max=True
            ),
        ),
        layers=2,
        heads=2,
        head_width=32,
        hidden=128,
        transformer_dropout=0.0,
        bn_momentum=0.1,
        small_init=True,
        clip=ClipSpec(frames=8, stride=4, size=64),
    )


# --- convolutions ----------------------------------------------------------------------------------------------------


class Unit(nn.Module):
    """Convolution, batch norm, ReLU (I3D's Unit3D)."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: Triple = (1, 1, 1),
        stride: Triple = (1, 1, 1),
        difference: Difference = "none",
        theta: float = 0.0,
        momentum: float = 0.01,
    ) -> None:
        super().__init__()
        self.conv = Conv(inputs, outputs, kernel, stride, difference, theta)
        self.norm: nn.Module = nn.BatchNorm3d(outputs, eps=1e-3, momentum=momentum)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, I, T, H, W)`` to ``(B, O, T / s, H / s, W / s)``, sizes rounded up, none below 0."""
        return self.norm(self.conv(x)).relu_()

    @torch.no_grad()
    def fold(self) -> None:
        """Put the difference and the running statistics of the batch norm into a plain convolution."""
        conv, norm = self.conv, self.norm
        if isinstance(norm, nn.Identity):
            return
        assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
        assert norm.running_var is not None and norm.running_mean is not None
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        kernel = fold_difference(conv.weight, conv.difference, conv.theta)
        plain = Conv(conv.in_channels, conv.out_channels, kernel.shape[2:], conv.stride, bias=True).to(kernel)  # type: ignore[arg-type]
        assert plain.bias is not None
        plain.weight.copy_(kernel * scale[:, None, None, None, None])
        plain.bias.copy_(norm.bias - norm.running_mean * scale)
        self.conv, self.norm = plain.train(conv.training), nn.Identity()


class MaxPool(nn.Module):
    """Max-pooling of 3 × 3 positions with I3D's padding.

    Args:
        stride: in space.
        frames: temporal size.
        zeros: whether what lies outside counts as 0 (I3D's), which only matters for maps with negative values.
    """

    def __init__(self, stride: int, frames: int = 1, zeros: bool = False) -> None:
        super().__init__()
        self.kernel, self.stride, self.zeros = (frames, 3, 3), (1, stride, stride), zeros

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, T, H, W)`` to ``(B, C, T, H / s, W / s)``, sizes rounded up."""
        pads = same_padding(x.shape[2:], self.kernel, self.stride)
        if self.zeros:
            t, h, w = pads
            return F.max_pool3d(F.pad(x, (*w, *h, *t)), self.kernel, self.stride)
        # where the back has one more, the last window hangs over: cheaper than a padded copy
        return F.max_pool3d(x, self.kernel, self.stride, [front for front, _ in pads], ceil_mode=True)


class Stem(nn.Sequential):
    """The first five layers of I3D with central differences: ``(B, 3, T, H, W)`` to ``(B, C, T / s, H / 8, W / 8)``."""

    def __init__(self, config: MFSTConfig) -> None:
        inner, outer = config.stem
        momentum = config.bn_momentum
        difference = config.cdc, config.theta
        super().__init__(
            Unit(3, inner, (7, 7, 7), (config.stem_stride_t, 2, 2), *difference, momentum),
            MaxPool(2),
            Unit(inner, inner, momentum=momentum),
            Unit(inner, outer, (3, 3, 3), (1, 1, 1), *difference, momentum),
            MaxPool(2),
        )


class Inception(nn.Module):
    """Four branches over the positions of each frame, concatenated: 1×1 | 1×1, 3×3 | 1×1, 3×3 | max-pool, 1×1.

    The three 1×1 convolutions of the same input are one.
    """

    def __init__(self, inputs: int, branches: Branches, pool_t: int, momentum: float) -> None:
        super().__init__()
        b0, inner1, outer1, inner2, outer2, b3 = branches
        self.split = (b0, inner1, inner2)
        self.point = Unit(inputs, sum(self.split), momentum=momentum)
        self.branch1 = Unit(inner1, outer1, (1, 3, 3), momentum=momentum)
        self.branch2 = Unit(inner2, outer2, (1, 3, 3), momentum=momentum)
        self.pool = MaxPool(1, pool_t, zeros=True)  # the map between two stages has negative values
        self.branch3 = Unit(inputs, b3, momentum=momentum)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, I, T, H, W)`` to ``(B, b0 + outer1 + outer2 + b3, T, H, W)``."""
        zero, one, two = self.point(x).split(self.split, 1)
        return torch.cat([zero, self.branch1(one), self.branch2(two), self.branch3(self.pool(x))], 1)


# --- Transformers ----------------------------------------------------------------------------------------------------


class Attention(nn.Module):
    """Multi-head (k-NN) self-attention inside sequences that lie one after another."""

    def __init__(self, width: int, config: MFSTConfig, nearest: Nearest) -> None:
        super().__init__()
        inner = config.heads * config.head_width
        self.heads, self.nearest = config.heads, nearest
        self.qkv = nn.Linear(width, 3 * inner, bias=False)
        self.proj = nn.Linear(inner, width)

    def forward(self, tokens: Tensor, lengths: Sequence[int]) -> Tensor:
        """``(B, N, C)`` to the same shape; ``lengths`` are those of the sequences in N."""
        qkv = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = [knn_attention(part[0], part[1], part[2], *self.nearest) for part in qkv.split(list(lengths), 3)]
        return self.proj(torch.cat([part.transpose(1, 2).flatten(2) for part in mixed], 1))


class Layer(nn.Module):
    """Attention and MLP, each with a layer norm before and a shortcut around (Eq. 2.8 prints neither)."""

    def __init__(self, width: int, config: MFSTConfig, nearest: Nearest, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, config, nearest)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, config.hidden),
            nn.GELU(),
            nn.Dropout(config.transformer_dropout),
            nn.Linear(config.hidden, width),
        )
        self.dropout = nn.Dropout(config.transformer_dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: Tensor, lengths: Sequence[int]) -> Tensor:
        tokens = tokens + self.drop_path(self.dropout(self.attn(self.norm1(tokens), lengths)))
        return tokens + self.drop_path(self.dropout(self.mlp(self.norm2(tokens))))


class Transformer(nn.Module):
    """Layers and a last layer norm.

    Args:
        width: C.
        nearest: which keys attention keeps.
        drop_path: probability of leaving a branch out for a row of the batch in training: a frame, a position.
    """

    def __init__(self, width: int, config: MFSTConfig, nearest: Nearest, drop_path: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(width, config, nearest, drop_path) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, lengths: Sequence[int] = ()) -> Tensor:
        """``(B, N, C)`` to the same shape; ``lengths``: of sequences that do not see each other, by default one."""
        for layer in self.layers:
            tokens = layer(tokens, lengths or (tokens.shape[1],))
        return self.norm(tokens)


def sinusoids(length: int, width: int, like: Tensor) -> Tensor:
    """Positional embeddings ``(length, width)``: sine at even, cosine at odd channels (Eqs. 2.9, 2.10)."""
    rates = 10000 ** (-torch.arange(0, width, 2, device=like.device, dtype=torch.float64) / width)
    angles = torch.arange(length, device=like.device, dtype=torch.float64)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], 2).flatten(1)[:, :width].to(like.dtype)


# --- the two halves of a stage ---------------------------------------------------------------------------------------


class MSCTrans(nn.Module):
    """Space: two inceptions, a max-pool and a k-NN Transformer inside every frame."""

    def __init__(self, inputs: int, stage: StageConfig, config: MFSTConfig, drop_path: float) -> None:
        super().__init__()
        momentum = config.bn_momentum
        self.inceptions = nn.Sequential(
            Inception(inputs, stage.first, config.branch_pool_t, momentum),
            Inception(_outputs(stage.first), stage.second, config.branch_pool_t, momentum),
        )
        self.pair_max = stage.pair_max
        self.pool = MaxPool(stage.stride)
        channels = _outputs(stage.second) // (2 if stage.pair_max else 1)
        self.map = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, stage.width))
        self.transformer = Transformer(stage.width, config, (config.knn, config.knn_keys), drop_path)

    def forward(self, grid: Tensor) -> Tensor:
        """``(B, I, T, H, W)`` to ``(B, T, H / s, W / s, C)``, sizes rounded up."""
        grid = self.inceptions(grid)
        if self.pair_max:
            grid = grid.unflatten(1, (-1, 2)).amax(2)
        tokens = self.map(self.pool(grid).permute(0, 2, 3, 4, 1))
        return self.transformer(tokens.flatten(2, 3).flatten(0, 1)).view(tokens.shape)


class WMSTrans(nn.Module):
    """Time: one Transformer over the frames at each position, at several temporal scales with the same weights.

    All its layers but attention treat tokens alike, so the scales go through it together.
    """

    def __init__(self, width: int, config: MFSTConfig, drop_path: float) -> None:
        super().__init__()
        self.scales, self.mode, self.fuse = config.scales, config.scale_mode, config.fuse
        self.transformer = Transformer(width, config, (config.knn_temporal, config.knn_temporal_keys), drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, T, H, W, C)`` to the same shape."""
        batch, frames, height, width, channels = x.shape
        routes = x.permute(0, 2, 3, 1, 4).reshape(-1, frames, channels)
        scales = [self.at_scale(routes, scale) for scale in self.scales]
        parts = [part for scale in scales for part in scale]
        lengths = [part.shape[1] for part in parts]
        packed = torch.cat([part + sinusoids(part.shape[1], channels, x) for part in parts], 1)
        encoded = list(self.encode(packed, lengths).split(lengths, 1))
        fused = []
        for scale, inputs in zip(self.scales, scales):
            mine = torch.cat([encoded.pop(0) for _ in inputs], 1)
            fused.append(mine if self.mode == "window" else mine.repeat_interleave(scale, 1)[:, :frames])
        whole = reduce(torch.maximum if self.fuse == "max" else torch.add, fused)
        if self.fuse == "mean":
            whole = whole / len(fused)
        return whole.reshape(batch, height, width, frames, channels).permute(0, 3, 1, 2, 4).contiguous()

    def encode(self, packed: Tensor, lengths: Sequence[int]) -> Tensor:
        """The Transformer on ``(N, L, C)``; on a CPU some of the N positions at a time, to stay in its cache."""
        if packed.device.type != "cpu" or torch.compiler.is_compiling():
            return self.transformer(packed, lengths)
        pieces = packed.split(max(PIECE // packed.shape[1], 1))
        return torch.cat([self.transformer(piece, lengths) for piece in pieces])

    def at_scale(self, routes: Tensor, scale: int) -> list[Tensor]:
        """Sequences of one scale, from ``(N, T, C)``: one of ``ceil(T / s)`` frames, or up to s windows of these."""
        frames = routes.shape[1]
        length = -(-frames // scale)
        if self.mode == "window":
            return list(routes.split(length, 1))
        if scale == 1:
            return [routes]
        if self.mode == "avgpool":
            if frames % scale:
                return [F.avg_pool1d(routes.mT, scale, ceil_mode=True).mT]
            return [routes.unflatten(1, (length, scale)).mean(2)]
        starts = torch.arange(length, device=routes.device) * scale
        sizes = (frames - starts).clamp(max=scale)
        if self.training:  # one draw for all clips
            chosen = (torch.rand(length, device=routes.device) * sizes).long()
        else:
            chosen = sizes // 2
        return [routes[:, starts + chosen]]


class Stage(nn.Module):
    """Space, then time, then the shortcut from before both."""

    def __init__(self, inputs: int, stage: StageConfig, config: MFSTConfig, drop_path: float, residual: bool) -> None:
        super().__init__()
        self.msc = MSCTrans(inputs, stage, config, drop_path)
        self.wms = WMSTrans(stage.width, config, drop_path)
        self.stride, self.residual = stage.stride, residual
        self.extra = stage.width - inputs

    def forward(self, grid: Tensor) -> Tensor:
        """``(B, I, T, H, W)`` to ``(B, C, T, H / s, W / s)``, sizes rounded up."""
        new = self.wms(self.msc(grid)).permute(0, 4, 1, 2, 3)
        return new + self.shortcut(grid) if self.residual else new

    def shortcut(self, grid: Tensor) -> Tensor:
        """R: the mean over the stride's positions, and zeros for channels that were not there (ResNet's option A)."""
        if self.stride > 1:
            grid = F.avg_pool3d(grid, (1, self.stride, self.stride), ceil_mode=True)
        return F.pad(grid, (0, 0, 0, 0, 0, 0, 0, self.extra)) if self.extra else grid


class MFST(VideoModel):
    """MFST, one stream. Its blocks are the stages; the state between them is the feature map itself."""

    config: MFSTConfig

    def __init__(self, config: MFSTConfig) -> None:
        super().__init__(config)
        _check(config)
        self.cdc_stem = Stem(config)
        self.blocks = nn.ModuleList()
        inputs = config.stem[1]
        for i, (stage, rate) in enumerate(zip(config.stages, drop_path_rates(config.drop_path, len(config.stages)))):
            self.blocks.append(Stage(inputs, stage, config, rate, residual=config.residual and i > 0))
            inputs = stage.width
        self.norm = nn.LayerNorm(inputs)
        self.standardise = Standardise(inputs) if config.small_init else nn.Identity()
        self.classifier = Classifier(inputs, config.classes, config.dropout)
        if config.small_init:
            init_small(self)
        self.to(memory_format=torch.channels_last_3d)  # a tenth faster on a CPU, and tokens need no copy
        self.finish()
        grids = [self.grid_at(i + 1) for i in range(len(self.blocks))]
        _check_keys("knn", config.knn, config.knn_keys, max(height * width for *_, height, width in grids))
        _check_keys("knn_temporal", config.knn_temporal, config.knn_temporal_keys, max(grid[1] for grid in grids))

    def stem(self, video: Tensor) -> Tensor:
        """``(B, 3, T, H, W)`` to ``(B, C, T / s, H / 8, W / 8)``, sizes rounded up."""
        return self.cdc_stem(video)

    def pool(self, state: Tensor) -> Tensor:
        """Mean over time and space, normalised."""
        return self.standardise(self.norm(state.mean((2, 3, 4))))

    def to_grid(self, state: Tensor) -> Tensor:
        return state

    def from_grid(self, grid: Tensor, state: Tensor) -> Tensor:
        return grid

    def grid_at(self, block: int) -> Grid:
        clip, edge = self.config.clip, self.config.clip.size
        for _ in range(3):
            edge = (edge + 1) // 2
        channels = self.config.stem[1]
        for stage in self.config.stages[:block]:
            channels, edge = stage.width, -(-edge // stage.stride)
        return channels, -(-clip.frames // self.config.stem_stride_t), edge, edge

    def filters(self, folded: bool = True) -> Tensor:
        """Filters of the first layer, ``(O, 3, 7, 7, 7)``: as they act on the video, or the weights as learned."""
        first = cast(Unit, self.cdc_stem[0]).conv
        return (first.kernel() if folded else first.weight).detach().clone()

    def folded(self) -> MFST:
        """A copy for evaluation: every convolution with its difference and its batch norm in one plain kernel."""
        model = copy.deepcopy(self).eval()
        for unit in [module for module in model.modules() if isinstance(module, Unit)]:
            unit.fold()
        return model


def _check_keys(name: str, fraction: float, most: int, count: int) -> None:
    """Refuse a number of keys that no attention over so many at most falls below."""
    kept = max(int(fraction * count), 1)
    if most >= kept and most > 0:
        raise GestaError(
            f"{name}_keys is {most}, which changes nothing where {name} {fraction:g} keeps {kept} of {count} keys at "
            "most; give fewer, or leave it at 0"
        )


def _outputs(branches: Branches) -> int:
    b0, _, outer1, _, outer2, b3 = branches
    return b0 + outer1 + outer2 + b3


def _check(config: MFSTConfig) -> None:
    widths = [stage.width for stage in config.stages]
    if not widths:
        raise GestaError("an MFST needs at least one stage")
    if config.residual and widths != sorted(widths):
        raise GestaError(
            f"stages of widths {widths} cannot have shortcuts, which never drop channels; set residual=False"
        )
    for i, stage in enumerate(config.stages):
        if stage.pair_max and _outputs(stage.second) % 2:
            raise GestaError(
                f"stages.{i} has {_outputs(stage.second)} channels after its second inception, of which pair_max makes "
                "no pairs; choose an even number"
            )
    if not config.scales:
        raise GestaError("scales names no scale; (1,) is V-Trans")
