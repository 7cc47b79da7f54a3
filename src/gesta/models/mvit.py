"""MViTv2: a video transformer whose attention pools its tokens, so that the grid gets smaller and the channels more.

Source: Y. Li et al., "MViTv2: Improved Multiscale Vision Transformers for Classification and Detection", CVPR 2022
(arXiv 2112.01526), §3 and Table 1 of its appendix for video; pooling attention is from H. Fan et al., "Multiscale
Vision Transformers", ICCV 2021. The sizes of ``mvitv2_s`` are those of the public MViTv2-S 16×4.

A block on tokens ``x`` (B, N, C) of a grid T × H × W::

    y = norm1(x)
    x = max_pool(proj(y)) + attention(y)      where a stage begins: the grid halves and the channels double
    x = x + attention(y)                      everywhere else
    x = x + mlp(norm2(x))

Attention pools q, k and v on the grid, adds the distance of every query to every key along t, y and x (decomposed
relative positions), and adds the pooled q to its result (residual pooling, Eq 5)::

    scores = q kᵀ / √d + q·R_t[t_q - t_k] + q·R_y[y_q - y_k] + q·R_x[x_q - x_k]          (Eq 3, 4)
    result = softmax(scores) v + q

How it is made fast, with equal results: the three distance terms are further columns of q (``q·R``, one column per
key position of each axis) against one-hot columns of k, so that one fused attention computes everything and no
(queries × keys) matrix is ever stored; all heads are pooled by one depthwise convolution in the layout in which the
linear layers leave their tokens, so nothing is permuted and copied. While operations are counted
(:mod:`gesta.cost`) attention runs without these columns, as the paper counts it.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import field
from math import prod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from gesta.config import Count, Positive, config
from gesta.cost import is_counting
from gesta.errors import GestaError
from gesta.layers.init import Standardise, init_small
from gesta.layers.mlp import mlp
from gesta.model import Classifier, ClipSpec, Grid, ModelConfig, VideoModel, drop_path_rates

Size = tuple[Count, Count, Count]
"""Frames, height, width of a grid of tokens."""

AXES = "thw"
EPS = 1e-6  # of all layer norms


@config
class MViTConfig(ModelConfig):
    """Sizes of an MViTv2.

    Attributes:
        depths: blocks of each stage.
        widths: channels of each stage.
        heads: attention heads of each stage.
        kv_stride: spatial stride of the key and value pooling in the first stage; it halves with every stage, so that
            all stages see keys on the same grid.
        mlp_ratio: hidden width of the MLPs / width.
        patch_kernel: kernel of the convolution that makes tokens (frames, height, width).
        patch_stride: its stride.
        cls_token: whether a class token is added and classified; otherwise the mean of the tokens is.
        small_init: our addition for narrow models and few videos: linear layers start with variance 1 / inputs instead
            of 0.02², and the pooled features are standardised over the clips before the classifier, see
            :class:`gesta.layers.init.Standardise`.
    """

    depths: tuple[Count, ...] = (1, 2, 11, 2)
    widths: tuple[Count, ...] = (96, 192, 384, 768)
    heads: tuple[Count, ...] = (1, 2, 4, 8)
    kv_stride: Count = 8
    mlp_ratio: Positive = 4.0
    patch_kernel: Size = (3, 7, 7)
    patch_stride: Size = (2, 4, 4)
    cls_token: bool = False
    small_init: bool = False
    clip: ClipSpec = field(default_factory=lambda: ClipSpec(frames=16, stride=4, size=224))

    def build(self) -> MViT:
        return MViT(self)


def mvitv2_s() -> MViTConfig:
    """MViTv2-S on 16 frames of 224 × 224, every fourth frame, without class token (as STAN's paper counts it).

    The public Kinetics checkpoints have a class token: ``model_config("mvitv2_s", cls_token=True)``.
    """
    return MViTConfig()


def mvitv2_tiny() -> MViTConfig:
    """Five blocks in three stages for CPUs: 8 frames of 64 × 64, every fourth frame."""
    return MViTConfig(
        depths=(1, 2, 2),
        widths=(48, 96, 192),
        heads=(1, 2, 4),
        kv_stride=2,
        patch_kernel=(3, 15, 15),
        patch_stride=(2, 8, 8),
        small_init=True,
        clip=ClipSpec(frames=8, stride=4, size=64),
    )


class State(NamedTuple):
    """What passes from block to block.

    Attributes:
        tokens: ``(B, [1 +] T·H·W, C)``, the class token first if there is one, then t-major.
        size: (T, H, W), ints.
    """

    tokens: Tensor
    size: Size


class Pool(nn.Module):
    """Pool tokens on their grid by a depthwise 3×3×3 convolution that all heads share, then normalise each head.

    A class token is not pooled, only normalised.

    Args:
        dim: channels of one head.
        heads: how many share the kernel.
        stride: of height and width.
    """

    def __init__(self, dim: int, heads: int, stride: int) -> None:
        super().__init__()
        self.heads, self.stride = heads, stride
        self.conv = nn.Conv3d(dim, dim, 3, (1, stride, stride), padding=1, groups=dim, bias=False)
        self.norm = nn.LayerNorm(dim, eps=EPS)

    def forward(self, tokens: Tensor, size: Size) -> Tensor:
        """``(B, [1 +] T·H·W, heads·d)`` to ``(B, [1 +] T·H'·W', heads, d)``, see :func:`pooled`."""
        class_tokens = tokens.shape[1] - prod(size)  # 0 or 1
        grid = _as_grid(tokens[:, class_tokens:], size)
        result = _as_tokens(_depthwise(grid, self.conv.weight.repeat(self.heads, 1, 1, 1, 1), self.stride))
        if class_tokens:
            result = torch.cat([tokens[:, :class_tokens], result], 1)
        result = result.unflatten(2, (self.heads, -1))
        return self.norm(result).to(result.dtype)


class RelativePositions(nn.Module):
    """Decomposed relative positions: for each axis a learnt vector per distance between a query and a key (Eq 4).

    Args:
        dim: channels of one head.
        q_size: grid of the queries.
        k_size: grid of the keys.
    """

    def __init__(self, dim: int, q_size: Size, k_size: Size) -> None:
        super().__init__()
        for axis, q, k in zip(AXES, q_size, k_size):
            self.register_parameter(axis, nn.Parameter(torch.empty(2 * max(q, k) - 1, dim)))
            nn.init.trunc_normal_(self.get_parameter(axis), std=0.02)
            self.register_buffer(f"{axis}_distance", _distances(q, k), persistent=False)
        self.register_buffer("positions", _one_hot_positions(k_size), persistent=False)
        self.sizes = q_size, k_size

    def forward(self, q: Tensor, q_size: Size, k_size: Size, zeros: int = 0) -> Tensor:
        """Further columns of the queries: their products with the vector of every key position of each axis.

        Args:
            q: queries without class token ``(B, T·H·W, heads, d)``.
            q_size: T, H, W.
            k_size: grid of the keys T', H', W'.
            zeros: columns of zeros that follow.

        Returns:
            ``(B, T·H·W, heads, T' + H' + W' + zeros)``.
        """
        batch, count, heads, dim = q.shape
        frames, height, width = q_size
        t, h, w = (self._vectors(*axis, zeros if axis[0] == "w" else 0) for axis in zip(AXES, q_size, k_size))
        by_t = q.reshape(batch, frames, height * width * heads, dim) @ t
        by_h = q.reshape(batch * frames, height, width * heads, dim) @ h
        by_w = torch.einsum("bwnd,wdk->bwnk", q.reshape(batch * frames * height, width, heads, dim), w)
        return torch.cat([by.reshape(batch, count, heads, -1) for by in (by_t, by_h, by_w)], -1)

    def columns_of_keys(self, k_size: Size) -> Tensor:
        """``(T'·H'·W', T' + H' + W')``: 1 at a key's position on each axis; q's columns times these are Eq 4's sum."""
        positions = self.get_buffer("positions")
        return positions if k_size == self.sizes[1] else _one_hot_positions(k_size, positions.device)

    def _vectors(self, axis: str, q: int, k: int, zeros: int) -> Tensor:
        """``(q, d, k + zeros)``: the vector of each pair of positions."""
        table = _resized(self.get_parameter(axis), 2 * max(q, k) - 1)
        i = AXES.index(axis)
        as_configured = (q, k) == (self.sizes[0][i], self.sizes[1][i])
        distance = self.get_buffer(f"{axis}_distance") if as_configured else _distances(q, k, table.device)
        return F.pad(table[distance].transpose(1, 2), (0, zeros))


class Attention(nn.Module):
    """Pooling attention with decomposed relative positions and residual pooling (§3.1).

    Args:
        inputs: channels of the input.
        width: channels of the result.
        heads: attention heads.
        size: grid of the input, which sizes the tables of relative positions.
        q_stride: spatial stride of the queries' pooling, and so of the result.
        kv_stride: spatial stride of the keys' and values' pooling.
    """

    def __init__(self, inputs: int, width: int, heads: int, size: Size, q_stride: int, kv_stride: int) -> None:
        super().__init__()
        dim = width // heads
        self.q = nn.Linear(inputs, width)
        self.k = nn.Linear(inputs, width)
        self.v = nn.Linear(inputs, width)
        self.pool_q = Pool(dim, heads, q_stride)
        self.pool_k = Pool(dim, heads, kv_stride)
        self.pool_v = Pool(dim, heads, kv_stride)
        self.rel_pos = RelativePositions(dim, pooled(size, q_stride), pooled(size, kv_stride))
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor, size: Size) -> Tensor:
        """``(B, [1 +] T·H·W, inputs)`` to ``(B, [1 +] T·H'·W', width)``."""
        q = self.pool_q(self.q(tokens), size)
        k = self.pool_k(self.k(tokens), size)
        v = self.pool_v(self.v(tokens), size)
        class_tokens = tokens.shape[1] - prod(size)  # 0 or 1
        q_size, k_size = pooled(size, self.pool_q.stride), pooled(size, self.pool_k.stride)
        result = self._attend(q, k, v, class_tokens, q_size, k_size)
        if class_tokens:  # the class token has no residual
            result = torch.cat([result[:, :class_tokens], result[:, class_tokens:] + q[:, class_tokens:]], 1)
        else:
            result = result + q
        return self.proj(result.flatten(2))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, class_tokens: int, q_size: Size, k_size: Size) -> Tensor:
        """``softmax(q kᵀ / √d + relative positions) v``, all ``(B, N, heads, d)``; a class token has no position."""
        dim = q.shape[-1]
        scale = dim**-0.5
        if is_counting():  # as the paper does: the relative positions' products, and attention without them
            self.rel_pos(q[:, class_tokens:], q_size, k_size)
        else:
            zeros = -(dim + sum(k_size)) % 8  # the kernels are fast for widths that are divisible by 8
            of_q = F.pad(self.rel_pos(q[:, class_tokens:], q_size, k_size, zeros), (0, 0, 0, 0, class_tokens, 0))
            of_k = self.rel_pos.columns_of_keys(k_size).to(k.dtype)
            of_k = F.pad(of_k, (0, of_q.shape[-1] - of_k.shape[-1], class_tokens, 0))
            q = torch.cat([q, of_q], -1)
            k = torch.cat([k * scale, of_k[:, None].expand(*k.shape[:3], -1)], -1)
            v = F.pad(v, (0, q.shape[-1] - dim))  # fused attention needs equal widths
            scale = 1.0
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        result = F.scaled_dot_product_attention(q, k, v, scale=scale)
        return result.transpose(1, 2)[..., :dim]


class Block(nn.Module):
    """Pooling attention and an MLP with residual connections; the first of a stage changes grid and width (§3.1).

    Args:
        inputs: channels of the input.
        width: channels of the output.
        heads: attention heads.
        size: grid of the input.
        q_stride: spatial stride, 2 where a stage begins.
        kv_stride: spatial stride of keys and values.
        mlp_ratio: hidden width of the MLP, in widths.
        drop_path: probability of leaving out a branch for a clip in training.
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        heads: int,
        size: Size,
        q_stride: int,
        kv_stride: int,
        mlp_ratio: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.stride = q_stride
        self.norm1 = nn.LayerNorm(inputs, eps=EPS)
        self.attn = Attention(inputs, width, heads, size, q_stride, kv_stride)
        self.proj = nn.Linear(inputs, width) if inputs != width else None
        self.norm2 = nn.LayerNorm(width, eps=EPS)
        self.mlp = mlp(width, mlp_ratio)
        self.drop_path = DropPath(drop_path)

    def forward(self, state: State) -> State:
        tokens, size = state
        normed = _as_autocast(self.norm1(tokens))
        if self.proj is not None:
            tokens = self.proj(normed)
        if self.stride > 1:
            tokens = _max_pool(tokens, size, self.stride)
        tokens = tokens + self.drop_path(self.attn(normed, size))
        tokens = tokens + self.drop_path(self.mlp(self.norm2(tokens)))
        return State(tokens, pooled(size, self.stride))


class MViT(VideoModel):
    """MViTv2. The stages of ``mvitv2_s`` start at blocks 0, 1, 3 and 14; its grids halve inside blocks 1, 3 and 14.

    Weight decay spares neither the tables of relative positions nor the class token, as PySlowFast's recipe has it:
    ``MVIT.ZERO_DECAY_POS_CLS: False`` in its ``configs/Kinetics/MVITv2_S_16x4.yaml`` empties the list of exceptions
    of its ``MViT.no_weight_decay``. ``--train.no-decay rel_pos cls_token`` would spare them.
    """

    config: MViTConfig
    variants = ("cls_token",)

    def __init__(self, config: MViTConfig) -> None:
        super().__init__(config)
        if not len(config.depths) == len(config.widths) == len(config.heads):
            raise GestaError(
                f"an MViT needs depths, widths and heads for the same number of stages, not {config.depths}, "
                f"{config.widths} and {config.heads}"
            )
        if not config.depths:
            raise GestaError("an MViT needs at least one stage; name its blocks, channels and heads")
        t, h, w = config.patch_kernel
        self.patch_embed = nn.Conv3d(
            3, config.widths[0], config.patch_kernel, config.patch_stride, padding=(t // 2, h // 2, w // 2)
        )
        if config.cls_token:
            self.cls_token = nn.Parameter(torch.empty(1, 1, config.widths[0]))
            nn.init.trunc_normal_(self.cls_token, std=0.02)
        clip = (config.clip.frames, config.clip.size, config.clip.size)
        size = _convolved(clip, config.patch_kernel, config.patch_stride)
        inputs = config.widths[0]
        self.blocks = nn.ModuleList()
        self._grids: list[Grid] = [(inputs, *size)]
        rates = iter(drop_path_rates(config.drop_path, sum(config.depths)))
        for stage, (depth, width, heads) in enumerate(zip(config.depths, config.widths, config.heads)):
            if width % heads:
                raise GestaError(f"an MViT of {heads} heads needs a width that is divisible by {heads}, not {width}")
            for i in range(depth):
                stride = 2 if stage and not i else 1
                kv_stride = max(config.kv_stride >> stage, 1)
                self.blocks.append(Block(inputs, width, heads, size, stride, kv_stride, config.mlp_ratio, next(rates)))
                inputs, size = width, pooled(size, stride)
                self._grids.append((inputs, *size))
        self.norm = nn.LayerNorm(inputs, eps=EPS)
        self.standardise = Standardise(inputs) if config.small_init else nn.Identity()
        self.classifier = Classifier(inputs, config.classes, config.dropout)
        self.apply(_initialise)
        if config.small_init:
            init_small(self)
        self.finish()

    def stem(self, video: Tensor) -> State:
        """Overlapping patches to tokens, the class token in front."""
        grid = self.patch_embed(video)
        tokens = _as_tokens(grid).contiguous()  # all later layers keep this layout
        if self.config.cls_token:
            tokens = torch.cat([self.cls_token.expand(tokens.shape[0], -1, -1), tokens], 1)
        frames, height, width = grid.shape[2:]
        return State(tokens, (frames, height, width))

    def pool(self, state: State) -> Tensor:
        """Layer norm, then the class token, or the mean of all tokens."""
        tokens = self.norm(state.tokens)
        return self.standardise(tokens[:, 0] if self.config.cls_token else tokens.mean(1))

    def to_grid(self, state: State) -> Tensor:
        return _as_grid(state.tokens[:, int(self.config.cls_token) :], state.size)

    def from_grid(self, grid: Tensor, state: State) -> State:
        tokens = _as_tokens(grid)
        if self.config.cls_token:
            tokens = torch.cat([state.tokens[:, :1], tokens], 1)
        return State(tokens, state.size)

    def grid_at(self, block: int) -> Grid:
        return self._grids[block]

    def convert_foreign(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename the weights of torchvision's ``mvit_v2_s`` and of PySlowFast's MViTv2.

        Tables of relative positions made for another clip size are resized linearly, with a warning.
        """
        renamed: dict[str, Tensor] = {}
        for name, value in weights.items():
            for pattern, ours in _FOREIGN:
                name = re.sub(pattern, ours, name)
            if name == "cls_token":
                renamed[name] = value.reshape(1, 1, -1)
            elif ".attn.qkv." in name:
                renamed |= {name.replace("qkv", part): x for part, x in zip("qkv", value.chunk(3))}
            else:
                renamed[name] = value
        resized = []
        for name, parameter in self.named_parameters():
            table = renamed.get(name)
            if ".rel_pos." in name and table is not None and table.dim() == 2 and len(table) != len(parameter):
                renamed[name] = _resized(table, len(parameter))
                resized.append(f"{name} from {len(table)} to {len(parameter)}")
        if resized:
            warnings.warn(
                f"{len(resized)} tables of relative positions were made for another clip size and are resized linearly "
                f"({resized[0]}{', …' if len(resized) > 1 else ''})",
                stacklevel=2,
            )
        return renamed


_FOREIGN: tuple[tuple[str, str], ...] = (
    (r"^(conv_proj|patch_embed\.proj)\.", "patch_embed."),
    (r"^pos_encoding\.class_token$", "cls_token"),
    (r"\.attn\.project\.0\.", ".attn.proj."),
    (r"\.attn\.(pool_[qkv])\.pool\.", r".attn.\1.conv."),  # torchvision
    (r"\.attn\.(pool_[qkv])\.norm_act\.0\.", r".attn.\1.norm."),
    (r"\.attn\.(pool_[qkv])\.weight$", r".attn.\1.conv.weight"),  # PySlowFast
    (r"\.attn\.norm_([qkv])\.", r".attn.pool_\1.norm."),
    (r"\.attn\.rel_pos_([thw])$", r".attn.rel_pos.\1"),
    (r"\.project\.", ".proj."),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.(fc2|3)\.", ".mlp.2."),
    (r"^head\.(1|projection)\.", "classifier.linear."),
)
"""Patterns of public names, applied in this order, and what replaces them here."""


# --- sizes -----------------------------------------------------------------------------------------------------------


def pooled(size: Size, stride: int) -> Size:
    """Grid after pooling by a spatial stride (kernel 3, padding 1): height and width divided and rounded up."""
    frames, height, width = size
    return frames, -(-height // stride), -(-width // stride)


def _convolved(size: Size, kernel: Size, stride: Size) -> Size:
    t, h, w = ((n + 2 * (k // 2) - k) // s + 1 for n, k, s in zip(size, kernel, stride))
    return t, h, w


def _as_grid(tokens: Tensor, size: Size) -> Tensor:
    """``(B, T·H·W, C)`` as a view ``(B, C, T, H, W)``, channels last (also for B = 1, where other ways lose that)."""
    return tokens.unflatten(1, size).permute(0, 4, 1, 2, 3)


def _as_tokens(grid: Tensor) -> Tensor:
    """``(B, C, T, H, W)`` as ``(B, T·H·W, C)``: a view if the grid is channels last."""
    return grid.permute(0, 2, 3, 4, 1).flatten(1, 3)


def _depthwise(grid: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Convolve each channel by its 3×3×3 kernel: ``(B, C, T, H, W)`` and ``(C, 1, 3, 3, 3)``, strided in space.

    On CPUs the gradients of 3-D depthwise convolutions take two to five times as long as those in 2-D. So where
    gradients are needed, three 2-D convolutions are summed: of the previous, the same and the next frame.
    """
    channels = weight.shape[0]
    if grid.device.type != "cpu" or not torch.is_grad_enabled():
        return F.conv3d(grid, weight, None, (1, stride, stride), padding=1, groups=channels)
    images = grid.permute(0, 2, 1, 3, 4).flatten(0, 1)
    previous, same, following = (
        F.conv2d(images, weight[:, :, i], None, stride, padding=1, groups=channels)
        .unflatten(0, (grid.shape[0], -1))
        .permute(0, 1, 3, 4, 2)
        for i in range(3)
    )
    no_shift = (0, 0, 0, 0, 0, 0)  # of channels, width, height; only time is shifted
    summed = F.pad(previous, (*no_shift, 1, -1)) + same + F.pad(following, (*no_shift, -1, 1))
    return summed.permute(0, 4, 1, 2, 3)


def _max_pool(tokens: Tensor, size: Size, stride: int) -> Tensor:
    """Max-pooling in the residual connection, kernel 3, over height and width; a class token is not pooled.

    Frames become part of the batch: 2-D pooling reads the tokens without a copy, 3-D pooling would not.
    """
    class_tokens = tokens.shape[1] - prod(size)  # 0 or 1
    _, height, width = size
    images = tokens[:, class_tokens:].reshape(-1, height, width, tokens.shape[2]).permute(0, 3, 1, 2)
    images = F.max_pool2d(images, 3, stride, padding=1)
    result = images.permute(0, 2, 3, 1).reshape(tokens.shape[0], -1, tokens.shape[2])
    return torch.cat([tokens[:, :class_tokens], result], 1) if class_tokens else result


# --- relative positions ----------------------------------------------------------------------------------------------


def _distances(q: int, k: int, device: torch.device | None = None) -> Tensor:
    """Row of the table for each query and key position of an axis, ``(q, k)``; the coarser is scaled to the finer."""
    of_q = torch.arange(q, device=device) * max(k / q, 1.0)
    of_k = (torch.arange(k, device=device) - (k - 1)) * max(q / k, 1.0)
    return (of_q[:, None] - of_k[None, :]).long()


def _one_hot_positions(size: Size, device: torch.device | None = None) -> Tensor:
    """One-hot positions on the three axes side by side, ``(T·H·W, T + H + W)``."""
    axes = torch.meshgrid(*(torch.arange(n, device=device) for n in size), indexing="ij")
    one_hot = [axis.reshape(-1, 1) == torch.arange(n, device=device) for axis, n in zip(axes, size)]
    return torch.cat(one_hot, 1).float()


def _resized(table: Tensor, rows: int) -> Tensor:
    """A table of relative positions for another grid, interpolated linearly."""
    if len(table) == rows:
        return table
    return F.interpolate(table.T[None].float(), size=rows, mode="linear")[0].T.to(table.dtype)


# --- precision, initialisation ---------------------------------------------------------------------------------------


def _as_autocast(x: Tensor) -> Tensor:
    """Cast once what several layers under autocast would cast each for itself."""
    if not x.is_meta and torch.is_autocast_enabled(x.device.type):
        return x.to(torch.get_autocast_dtype(x.device.type))
    return x


def _initialise(module: nn.Module) -> None:
    """As the public implementation: weights N(0, 0.02) cut at ±2, biases of linear layers and norms 0.02."""
    if isinstance(module, nn.Linear | nn.Conv3d):
        nn.init.trunc_normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear | nn.LayerNorm):
        nn.init.constant_(module.bias, 0.02)
