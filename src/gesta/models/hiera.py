"""Hiera for video: a hierarchical Transformer of plain parts, made for masked pretraining.

Source: C. Ryali et al., "Hiera: A Hierarchical Vision Transformer without the Bells-and-Whistles", ICML 2023 (arXiv
2306.00989), §3 and Table 1 of its appendix for video, and its public implementation, whose weights load.

A block on tokens ``x``::

    y = norm1(x)
    x = max_pool(proj(y)) + attention(y)      where a stage begins: width and heads double, and the grid halves
    x = x + attention(y)                      everywhere else
    x = x + mlp(norm2(x))

Nothing but max-pooling changes the grid, of q as of the residual connection; time is never pooled. In the first two
stages, and in the first block of the third, attention stays inside *mask units*, squares of 8 × 8 tokens of one
tubelet of two frames (which become 4 × 4 and 2 × 2); afterwards every token sees the whole clip. Masked pretraining
leaves out whole units, so that what is left is dense.

Order of the tokens: the mask units one after the other; inside one, first the tokens of even row and column, then even
row and odd column, and so on, and in each of these four groups likewise. So pooling 2 × 2 tokens is the maximum of the
four quarters of a unit, without moving anything, and a window is a slice. (The public code has the quarters outside and
the units inside: the same numbers, but its windowed attention has a dimension more than the fused kernels take.)
"""

from __future__ import annotations

import itertools
import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any, NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from gesta.config import Between, Count, Positive, config
from gesta.errors import GestaError
from gesta.layers.init import Standardise, init_small
from gesta.layers.mlp import mlp
from gesta.layers.resize import resize_line, resize_map
from gesta.model import Classifier, ClipSpec, Grid, ModelConfig, VideoModel, drop_path_rates

EPS = 1e-6  # of all layer norms
INIT_BIAS = 0.02  # of linear layers and norms
PATCH_KERNEL, PATCH_STRIDE, PATCH_PADDING = (3, 7, 7), (2, 4, 4), (1, 3, 3)
WINDOWED_STAGES = 2  # in which attention stays inside mask units


@config
class HieraConfig(ModelConfig):
    """Sizes of a Hiera.

    Attributes:
        depths: blocks of each stage; a mask unit has 2 ** (stages - 1) tokens a side.
        width: channels of the first stage; they double with every stage.
        heads: attention heads of the first stage; they double, too.
        q_pool: how many stages begin by halving the grid: 3 for classification, so that a clip of 16 x 224 x 224 ends
            as 8 x 7 x 7 tokens; masked pretraining has 2, so that it ends as 8 x 14 x 14. No weights depend on it.
        mlp_ratio: hidden width of the MLPs / width.
        small_init: our addition for narrow models and few videos, see :mod:`gesta.layers.init`.
    """

    depths: tuple[Count, ...] = (2, 3, 16, 3)
    width: Count = 96
    heads: Count = 1
    q_pool: Annotated[int, Between(0, 8)] = 3
    mlp_ratio: Positive = 4.0
    small_init: bool = False
    clip: ClipSpec = field(default_factory=lambda: ClipSpec(frames=16, stride=4, size=224))

    def build(self) -> Hiera:
        return Hiera(self)


def hiera_b() -> HieraConfig:
    """Hiera-B on 16 frames of 224 × 224, every fourth frame."""
    return HieraConfig()


def hiera_b_plus() -> HieraConfig:
    """Hiera-B+ on 16 frames of 224 × 224, every fourth frame."""
    return HieraConfig(width=112, heads=2)


def hiera_l() -> HieraConfig:
    """Hiera-L on 16 frames of 224 × 224, every fourth frame."""
    return HieraConfig(depths=(2, 6, 36, 4), width=144, heads=2)


def hiera_h() -> HieraConfig:
    """Hiera-H on 16 frames of 224 × 224, every fourth frame."""
    return HieraConfig(depths=(2, 6, 36, 4), width=256, heads=4)


def hiera_tiny() -> HieraConfig:
    """Seven narrow blocks in the four stages for CPUs: 8 frames of 64 × 64, every fourth frame."""
    return HieraConfig(
        depths=(1, 1, 4, 1),
        width=32,
        small_init=True,
        clip=ClipSpec(frames=8, stride=4, size=64),
    )


class State(NamedTuple):
    """What passes from block to block.

    Attributes:
        tokens: ``(B, U, M, C)``: M tokens of each of U mask units, in the order that the module's docstring describes.
        units: mask units of a whole clip along time, height and width, ints; U is less than their product where some
            were left out.
    """

    tokens: Tensor
    units: tuple[int, int, int]


class Attention(nn.Module):
    """Multi-head self-attention inside every mask unit, or over all of them, that may pool its queries.

    Args:
        inputs: channels of the input.
        width: channels of the output.
        heads: attention heads.
        windowed: stay inside the mask units.
        pools: take the maximum of each 2 × 2 queries.
    """

    def __init__(self, inputs: int, width: int, heads: int, windowed: bool, pools: bool) -> None:
        super().__init__()
        self.heads, self.windowed, self.pools = heads, windowed, pools
        self.qkv = nn.Linear(inputs, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """``(B, U, M, inputs)`` to ``(B, U, M or M / 4, width)``."""
        q, k, v = self.qkv(tokens).chunk(3, -1)
        q = _pooled(q) if self.pools else q
        shape = q.shape
        joined = (0, 1) if self.windowed else (1, 2)  # units are clips of their own, or parts of one sequence
        q, k, v = (part.flatten(*joined).unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(shape))


class Block(nn.Module):
    """Attention and an MLP with residual connections; the first of a stage changes the width, and may halve the grid.

    Args:
        inputs: channels of the input.
        width: channels of the output.
        heads: attention heads.
        windowed: attention stays inside the mask units.
        pools: the grid halves.
        mlp_ratio: hidden width of the MLP / width.
        drop_path: probability of leaving out a branch for a clip in training.
    """

    def __init__(
        self, inputs: int, width: int, heads: int, windowed: bool, pools: bool, mlp_ratio: float, drop_path: float
    ) -> None:
        super().__init__()
        self.pools = pools
        self.norm1 = nn.LayerNorm(inputs, eps=EPS)
        self.attn = Attention(inputs, width, heads, windowed, pools)
        self.proj = nn.Linear(inputs, width) if inputs != width else None
        self.norm2 = nn.LayerNorm(width, eps=EPS)
        self.mlp = mlp(width, mlp_ratio)
        self.drop_path = DropPath(drop_path)

    def forward(self, state: State) -> State:
        tokens = state.tokens
        normed = self.norm1(tokens)
        if self.proj is not None:
            tokens = self.proj(normed)
            tokens = _pooled(tokens) if self.pools else tokens
        tokens = tokens + self.drop_path(self.attn(normed))
        tokens = tokens + self.drop_path(self.mlp(self.norm2(tokens)))
        return State(tokens, state.units)


class Hiera(VideoModel):
    """Hiera. Clips of another length or size than configured get their embeddings by interpolation.

    It gives logits in evaluation, too, where the public code gives their softmax.
    """

    config: HieraConfig

    def __init__(self, config: HieraConfig) -> None:
        super().__init__(config)
        if not config.depths:
            raise GestaError("a Hiera needs at least one stage; name its blocks in depths")
        self.side = 2 ** (len(config.depths) - 1)  # of a mask unit at first, in tokens
        if config.q_pool >= len(config.depths):
            raise GestaError(f"q_pool is {config.q_pool}: a Hiera of {len(config.depths)} stages can pool before all "
                             f"but the first, so give at most {len(config.depths) - 1}")  # fmt: skip
        if config.width % config.heads:
            raise GestaError(
                f"a Hiera of {config.heads} heads needs a width that is divisible by {config.heads}, not {config.width}"
            )
        clip = config.clip
        units = self._units(clip.frames, clip.size, clip.size)
        self.patch_embed = nn.Conv3d(3, config.width, PATCH_KERNEL, PATCH_STRIDE, PATCH_PADDING)
        per_side = units[1] * self.side
        self.pos_embed_spatial = nn.Parameter(torch.empty(1, per_side * per_side, config.width))
        self.pos_embed_temporal = nn.Parameter(torch.empty(1, units[0], config.width))
        inputs, heads, side = config.width, config.heads, self.side
        self.blocks = nn.ModuleList()
        self._grids: list[Grid] = [(inputs, units[0], per_side, per_side)]
        rates = iter(drop_path_rates(config.drop_path, sum(config.depths)))
        for stage, depth in enumerate(config.depths):
            for i in range(depth):
                begins = stage > 0 and i == 0
                width, heads = (2 * inputs, 2 * heads) if begins else (inputs, heads)
                windowed = (
                    stage - begins < WINDOWED_STAGES
                )  # the first block of a stage keeps the attention of the one before
                pools = begins and stage <= config.q_pool
                self.blocks.append(Block(inputs, width, heads, windowed, pools, config.mlp_ratio, next(rates)))
                inputs, side = width, side // 2 if pools else side
                self._grids.append((inputs, units[0], units[1] * side, units[2] * side))
        self.norm = nn.LayerNorm(inputs, eps=EPS)
        self.standardise = Standardise(inputs) if config.small_init else nn.Identity()
        self.classifier = Classifier(inputs, config.classes, config.dropout)
        self._initialise()
        self.finish()

    def _initialise(self) -> None:
        """As the public implementation: weights and embeddings N(0, 0.02²), biases 0.02; a tiny classifier."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv3d):
                nn.init.trunc_normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear | nn.LayerNorm):
                nn.init.constant_(module.bias, INIT_BIAS)
        for table in (self.pos_embed_spatial, self.pos_embed_temporal):
            nn.init.trunc_normal_(table, std=0.02)
        if self.config.small_init:
            init_small(self)
        else:
            for parameter in self.classifier.parameters():
                parameter.data.mul_(0.001)

    def stem(self, video: Tensor, kept: Tensor | None = None) -> State:
        """Overlapping patches to tokens with their embeddings in time and space, in the order of mask units.

        Args:
            video: ``(B, 3, T, H, W)``, H and W divisible by the pixels of a mask unit (32).
            kept: ``(B, units)`` bool, mask units in the order (t, y, x) that are kept, as many in every clip: masked
                pretraining leaves the others out, and sets their pixels to zero, since patches overlap. None for all.
        """
        units = self._units(*video.shape[2:])
        if kept is not None:
            shape, counts = (video.shape[0], math.prod(units)), kept.sum(-1)
            if kept.shape != shape or not (counts == counts[0]).all():
                raise GestaError(
                    f"a mask of kept units must be {shape} here, clips x mask units, and keep as many in every clip; "
                    f"this one is {tuple(kept.shape)} and keeps {counts.min()} to {counts.max()}"
                )
            mask = kept.view(-1, 1, *units).to(video.dtype)
            video = video * F.interpolate(mask, size=video.shape[2:], mode="nearest")
        grid = self.patch_embed(video).permute(0, 2, 3, 4, 1)
        tokens = _to_units(grid, self.side) + _to_units(self._positions(grid.shape[1:4]), self.side)
        if kept is not None:
            tokens = tokens[kept].unflatten(0, (video.shape[0], -1))
        return State(tokens, units)

    def _positions(self, size: torch.Size) -> Tensor:
        """Embeddings of a clip of T', H', W' tokens, ``(1, T', H', W', C)``."""
        per_side = math.isqrt(self.pos_embed_spatial.shape[1])
        spatial = self.pos_embed_spatial.mT.unflatten(2, (per_side, per_side))
        spatial = resize_map(spatial, (size[1], size[2]), "bicubic").permute(0, 2, 3, 1)
        return spatial[:, None] + resize_line(self.pos_embed_temporal, size[0], "linear")[:, :, None, None]

    def _units(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Mask units of a clip along its axes.

        Raises:
            GestaError: they do not tile it.
        """
        pixels = PATCH_STRIDE[1] * self.side
        if height % pixels or width % pixels:
            raise GestaError(
                f"a Hiera of {len(self.config.depths)} stages takes frames whose sides are multiples of {pixels} "
                f"pixels (its mask units), not {height} x {width}"
            )
        return -(-frames // PATCH_STRIDE[0]), height // pixels, width // pixels

    def pool(self, state: State) -> Tensor:
        """The mean of all tokens, then layer norm."""
        return self.standardise(self.norm(state.tokens.mean((1, 2))))

    def unit_maps(self, state: State) -> Tensor:
        """The tokens of each mask unit as a map, ``(B, U, H, W, C)``; also where units were left out."""
        return _from_units(state.tokens, (state.tokens.shape[1], 1, 1))

    def to_grid(self, state: State) -> Tensor:
        if state.tokens.shape[1] != math.prod(state.units):
            raise GestaError(
                "some mask units were left out, so there is no whole feature map; unit_maps has the others"
            )
        return _from_units(state.tokens, state.units).permute(0, 4, 1, 2, 3)

    def from_grid(self, grid: Tensor, state: State) -> State:
        return State(_to_units(grid.permute(0, 2, 3, 4, 1), math.isqrt(state.tokens.shape[2])), state.units)

    def grid_at(self, block: int) -> Grid:
        return self._grids[block]

    def no_weight_decay(self) -> set[str]:
        return {"pos_embed_spatial", "pos_embed_temporal"}

    def convert_foreign(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename the weights of the public implementation.

        Those of masked pretraining lack the classifier, and the last norm, which starts as a fresh one, with a warning:
        their ``encoder_norm`` is that of a sum of stages. What only pretraining needs keeps its name, so that the
        report lists it as not used. Embeddings made for another clip size are interpolated, with a warning.
        """
        renamed: dict[str, Tensor] = {}
        for name, value in weights.items():
            if not name.startswith(_DECODER):
                for pattern, ours in _FOREIGN:
                    name = re.sub(pattern, ours, name)
            renamed[name] = value
        if "encoder_norm.weight" in renamed and "norm.weight" not in renamed:
            warnings.warn(
                "these weights of masked pretraining have no last norm: it starts as a fresh one", stacklevel=2
            )
            renamed |= {
                "norm.weight": torch.ones_like(self.norm.weight),
                "norm.bias": torch.full_like(self.norm.bias, INIT_BIAS),
            }
        for name in ("pos_embed_spatial", "pos_embed_temporal"):
            table, count = renamed.get(name), self.get_parameter(name).shape[1]
            if table is None or table.dim() != 3 or table.shape[1] == count:
                continue
            old, new = math.isqrt(table.shape[1]), math.isqrt(count)
            if name == "pos_embed_spatial" and old * old != table.shape[1]:
                continue  # no square map: the report says that its shape differs
            warnings.warn(f"{name} was made for another clip and is interpolated to {count} vectors", stacklevel=2)
            if name == "pos_embed_temporal":
                renamed[name] = resize_line(table, count, "linear")
            else:
                renamed[name] = resize_map(table.mT.unflatten(2, (old, old)), (new, new), "bicubic").flatten(2).mT
        return renamed


_DECODER = ("decoder_", "mask_token", "multi_scale_fusion_heads.", "encoder_norm.")
"""Beginnings of the names of what only masked pretraining needs."""

_FOREIGN: tuple[tuple[str, str], ...] = (
    (r"^patch_embed\.proj\.", "patch_embed."),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.2."),
    (r"^head\.projection\.", "classifier.linear."),
)
"""Patterns of public names, and what replaces them here."""


# --- public weights --------------------------------------------------------------------------------------------------


def from_public(config: Mapping[str, Any] | None, shapes: Mapping[str, torch.Size]) -> HieraConfig | None:
    """The configuration that fits public weights; None if they are not those of a Hiera for video.

    Shapes tell all but the heads and ``q_pool``. These come from the config.json beside the weights; without one, heads
    are those of the published size of this width, and ``q_pool`` is 3, as the public code loads all its weights.

    Args:
        config: the config.json beside them (the arguments of the public class ``Hiera``), if there is one.
        shapes: name → shape of the public tensors.

    Raises:
        GestaError: a Hiera that this file does not build, or without a config.json of a width that is not published.
    """
    needed = {
        "patch_embed.proj.weight": 5,
        "pos_embed_spatial": 3,
        "pos_embed_temporal": 3,
        "blocks.0.mlp.fc1.weight": 2,
    }
    if any(len(shapes.get(name, ())) != dims or 0 in shapes[name] for name, dims in needed.items()):
        return None
    config = config or {}
    width = shapes["patch_embed.proj.weight"][0]
    blocks = len({name.split(".")[1] for name in shapes if name.startswith("blocks.")})
    begins = [0, *(i for i in range(blocks) if f"blocks.{i}.proj.weight" in shapes), blocks]
    depths = tuple(end - begin for begin, end in itertools.pairwise(begins))
    heads = config.get("num_heads") or {96: 1, 112: 2, 144: 2, 256: 4}.get(width)
    if heads is None:
        raise GestaError(f"a Hiera of width {width} is not published, and weights do not tell its number of heads; put "
                         "its config.json beside them")  # fmt: skip
    _check_fixed(config, 2 ** (len(depths) - 1))
    classes = shapes.get("head.projection.weight")
    return HieraConfig(
        classes=classes[0] if classes else 0,
        depths=depths,
        width=width,
        heads=heads,
        q_pool=config.get("q_pool", 3),
        mlp_ratio=shapes["blocks.0.mlp.fc1.weight"][0] / width,
        dropout=config.get("head_dropout", 0.0),
        drop_path=config.get("drop_path_rate", 0.0),
        clip=ClipSpec(
            frames=PATCH_STRIDE[0] * shapes["pos_embed_temporal"][1],
            stride=4,
            size=PATCH_STRIDE[1] * math.isqrt(shapes["pos_embed_spatial"][1]),
        ),
    )


def _check_fixed(config: Mapping[str, Any], side: int) -> None:
    """Refuse a public configuration of a network that :class:`Hiera` cannot be.

    Raises:
        GestaError: with the first such argument.
    """
    fixed = {
        "in_chans": 3, "q_stride": (1, 2, 2), "mask_unit_size": (1, side, side), "dim_mul": 2, "head_mul": 2,
        "patch_kernel": PATCH_KERNEL, "patch_stride": PATCH_STRIDE, "patch_padding": PATCH_PADDING,
        "norm_layer": "LayerNorm", "sep_pos_embed": True,
    }  # fmt: skip
    stages = config.get("mask_unit_attn")
    if stages is not None:
        fixed["mask_unit_attn"] = tuple(i < WINDOWED_STAGES for i in range(len(stages)))
    for name, value in fixed.items():
        given = config.get(name, value)
        given = tuple(given) if isinstance(given, list) else given
        if given != value:
            raise GestaError(f"config.json: {name} is {given}, and gesta's Hiera has {value} only; use other weights")


# --- order of the tokens ---------------------------------------------------------------------------------------------


def _pooled(tokens: Tensor) -> Tensor:
    """The maximum of each 2 × 2 tokens, ``(B, U, M, C)`` to ``(B, U, M / 4, C)``."""
    return tokens.unflatten(2, (4, -1)).amax(2)


def _to_units(grid: Tensor, side: int) -> Tensor:
    """A map ``(B, T, H, W, C)`` as mask units of ``side`` × ``side`` tokens each, ``(B, units, side², C)``."""
    batch, frames, height, width, channels = grid.shape
    levels = side.bit_length() - 1
    twos = [2] * levels
    split = grid.reshape(batch, frames, height // side, *twos, width // side, *twos, channels)
    rows, columns = range(2 + levels, 2, -1), range(3 + 2 * levels, 3 + levels, -1)  # the finest first
    inside = [axis for pair in zip(rows, columns) for axis in pair]
    return split.permute(0, 1, 2, 3 + levels, *inside, 4 + 2 * levels).reshape(batch, -1, side * side, channels)


def _from_units(tokens: Tensor, units: tuple[int, int, int]) -> Tensor:
    """Mask units ``(B, T·R·S, M, C)``, R × S of them in each of T tubelets, as a map ``(B, T, R·√M, S·√M, C)``."""
    batch, _, count, channels = tokens.shape
    side = math.isqrt(count)
    levels = side.bit_length() - 1
    split = tokens.reshape(batch, *units, *[2, 2] * levels, channels)
    rows, columns = range(2 + 2 * levels, 3, -2), range(3 + 2 * levels, 3, -2)  # the coarsest first
    ordered = split.permute(0, 1, 2, *rows, 3, *columns, 4 + 2 * levels)
    return ordered.reshape(batch, units[0], units[1] * side, units[2] * side, channels)
