"""Parts of STD-Former and their sizes: CLIP's block, the ST branch's PTM, the T branch's CTM, and the stem's tubelets.

Source: see :mod:`gesta.models.std_former`. Tokens are ``(T, B, N, C)``, frames first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import field
from typing import Annotated, Literal, cast

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from gesta.config import Between, Count, CountOrZero, NotNegative, Positive, config, unless
from gesta.cost import is_counting
from gesta.layers.adapters import is_adapted
from gesta.layers.mlp import hidden_width
from gesta.layers.resize import resize_line
from gesta.layers.tokens import DenseConv, DepthwiseConv, Norm, channel_norm, convolved, normed, zero
from gesta.model import ClipSpec, ModelConfig

QUICK = 1.702
"""Of QuickGELU."""
PIECE = 65535
"""Positions that attend along time together: CUDA's kernels have no larger grid."""

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""CLIP's normalisation of RGB."""

Branch = Literal["ST", "T"]


@config
class STDFormerSizes(ModelConfig):
    """Sizes of an STD-Former, and every decision that the paper leaves open. ``drop_path`` is of the ST branch.

    The parts below read them; :class:`gesta.models.std_former.STDFormerConfig` builds the network of them.

    Attributes:
        width: C.
        depth: layers of each branch.
        heads: attention heads.
        mlp_ratio: hidden width of the ST branch's FFNs, in widths.
        patch: edge of a token in pixels.
        stem: ``tubelet`` convolves the pixels (UniFormerV2); ``conv`` does that to the map of two
            small convolutions of each frame (ours, for training without CLIP).
        tubelet_kernel: frames of a token, 1 or 3.
        tubelet_stride: frames from token to token.
        gelu: ``quick`` is x·σ(1.702x), with which OpenAI's CLIP was trained.
        ptm_layers: which layers of the ST branch are PTMs.
        ptm_attention: within a frame (``spatial``), or over all tokens of the clip (``joint``).
        ptm_identity: ``scaled`` lets β multiply the shortcut, too; ``none`` is Eq. 1 as printed, without one (and
            without stochastic depth in the PTMs, which would leave nothing).
        dpe_reduction: by what a PTM's position encoding divides the width.
        dpe_norm: batch norm before it (UniFormerV2), or ``none``.
        alpha: weight of a PTM's FFN.
        beta: weight of its convolution.
        learnable_alpha_beta: a parameter each, per PTM, that starts there; beta only where it weighs something.
        conv_placement: a PTM's convolution is a third path (``residual``), comes behind attention, or is left out.
        conv_kind: its kernel is 3 × 3 on ``conv_plane``, or 3 × 3 × 3.
        conv_plane: ``time_space`` is the plane of frames and positions in raster order, the only one on which a 3 × 3
            kernel sees adjacent frames; rows touch at their ends there. ``space`` is the frame.
        cpe: kernel of a CTM's position encoding.
        ctm_residual: what a CTM adds its attention to: the ``query`` (CLIP's features reach the classifier at the
            start), the ``memory`` (a temporal stream of its own), or both.
        ctm_include_cls: class tokens attend along time as one more position, and count in the mean that is classified.
        ctm_mlp_ratio: hidden width of the CTMs' FFNs, in widths.
        ctm_dropout: in the CTMs' FFNs (UniFormerV2: 0.5).
        ctm_drop_path: stochastic depth of the CTMs, growing like ``drop_path``.
        memory_start: what the first CTM attends to: tokens with positions behind CLIP's first layer norm
            (``norm_pre``), or what the 3-D convolution gives (``stem``).
        temporal_pos_embed: a learned vector per frame in every CTM, added to what queries, keys and values are made of.
        stdm_layers: behind which CTMs there is an STDM; None for all but the last.
        stdm_kind: see :class:`~gesta.plugins.stdm.STDM`.
        stdm_final_relu: the same.
        smem: the SMEMs' branches and layers.
        smem_position: before or after that layer of its branch.
        smem_channels: see :class:`~gesta.plugins.smem.SMEM`.
        smem_fusion: the same.
        smem_edge: the same.
        smem_pairing: the same.
        norm: of all new convolutions; a ``layer`` norm does not depend on the batch.
        head_input: the last CTM, or that and the class tokens, ``fused`` by a learned gate per channel (UniFormerV2).
            With ``patches`` of the ST branch there is no T branch: CLIP's image encoder, from which STD-Former starts.
        small_init: our addition for narrow models and few videos, see :mod:`gesta.layers.init`: no layer starts at
            zero, unless weights are given.
    """

    width: Count = 768
    depth: Count = 12
    heads: Count = 12
    mlp_ratio: Positive = 4.0
    patch: Count = 16
    stem: Literal["tubelet", "conv"] = "tubelet"
    tubelet_kernel: Literal[1, 3] = 3
    tubelet_stride: Literal[1, 2] = 2
    gelu: Literal["quick", "exact"] = "quick"
    ptm_layers: tuple[CountOrZero, ...] = (8, 9, 10, 11)
    ptm_attention: Literal["spatial", "joint"] = "spatial"
    ptm_identity: Literal["plain", "scaled", "none"] = "plain"
    dpe_reduction: Annotated[float, Between(1)] = 1.5
    dpe_norm: Literal["bn", "none"] = "bn"
    alpha: NotNegative = 1.0
    beta: NotNegative = 1.0
    learnable_alpha_beta: bool = False
    conv_placement: Literal["residual", "attention", "none"] = "residual"
    conv_kind: Literal["2d", "3d"] = "2d"
    conv_plane: Literal["time_space", "space"] = "time_space"
    cpe: Literal["depthwise", "dense"] = "depthwise"
    ctm_residual: Literal["query", "memory", "both"] = "query"
    ctm_include_cls: bool = False
    ctm_mlp_ratio: Positive = 4.0
    ctm_dropout: Annotated[float, Between(0, 1, open="high")] = 0.0
    ctm_drop_path: Annotated[float, Between(0, 1, open="high")] = 0.0
    memory_start: Literal["norm_pre", "stem"] = "norm_pre"
    temporal_pos_embed: bool = False
    stdm_layers: tuple[CountOrZero, ...] | None = None
    stdm_kind: Literal["depthwise", "dense"] = "depthwise"
    stdm_final_relu: bool = False
    smem: tuple[tuple[Branch, CountOrZero], ...] = (("T", 4),)
    smem_position: Literal["before", "after"] = "before"
    smem_channels: Count = 64
    smem_fusion: Literal["mul", "add", "mul+add"] = "mul"
    smem_edge: Literal["repeat", "zero"] = "repeat"
    smem_pairing: Literal["anchor", "chain"] = "anchor"
    norm: Norm = "batch"
    head_input: Literal["ctm", "fused", "patches"] = "ctm"
    small_init: bool = False
    clip: ClipSpec = field(
        default_factory=lambda: ClipSpec(frames=16, sampling="uniform", size=224, mean=CLIP_MEAN, std=CLIP_STD)
    )

    def contradictions(self) -> Iterator[tuple[str, str]]:
        yield from ModelConfig.contradictions(self)
        if self.head_input == "patches" and self.stdm_layers != ():
            yield (
                "stdm_layers",
                "and head_input='patches' has no T branch whose features they could give back: name none",
            )
        if self.head_input == "patches" and any(branch == "T" for branch, _ in self.smem):
            yield "smem", "and head_input='patches' has no T branch: name none in it"

    def unused(self) -> Iterator[tuple[str, str]]:
        yield from unless(self.head_input != "patches", "a T branch (head_input)", *(
            "cpe", "ctm_residual", "ctm_include_cls", "ctm_mlp_ratio", "ctm_dropout", "ctm_drop_path", "memory_start",
            "temporal_pos_embed",
        ))  # fmt: skip
        ptm, conv = bool(self.ptm_layers), self.conv_placement != "none"
        yield from unless(ptm, "ptm_layers", *(
            "ptm_attention", "dpe_reduction", "dpe_norm", "alpha", "learnable_alpha_beta",
            "conv_placement",
        ))  # fmt: skip
        yield from unless(ptm and weighs_beta(self), "conv_placement='residual' or ptm_identity='scaled'", "beta")
        is_scaled = ptm and (self.beta != 1 or self.learnable_alpha_beta)
        changes = ptm and (self.ptm_identity == "none" or is_scaled)
        yield from unless(changes, "ptm_layers and, if scaled, a beta other than 1", "ptm_identity")
        yield from unless(ptm and conv, "a convolution in PTMs (ptm_layers, conv_placement)", "conv_kind")
        yield from unless(ptm and conv and self.conv_kind == "2d", "conv_kind='2d'", "conv_plane")
        yield from unless(self.stdm_layers != (), "stdm_layers", "stdm_kind", "stdm_final_relu")
        of_smem = ("smem_position", "smem_channels", "smem_fusion", "smem_edge", "smem_pairing")
        yield from unless(bool(self.smem), "smem", *of_smem)


def weighs_beta(config: STDFormerSizes) -> bool:
    """Whether a PTM has something that beta is the weight of."""
    return config.conv_placement == "residual" or config.ptm_identity == "scaled"


# --- the stem --------------------------------------------------------------------------------------------------------


class Tubelets(nn.Conv3d):
    """Tokens of patches of 1 or 3 frames: a convolution whose stride in space is its kernel, as one matrix product.

    With 3 frames the clip is padded with a frame of zeros at either end.
    """

    def __init__(self, channels: int, width: int, patch: int, frames: int, stride: int) -> None:
        super().__init__(
            channels, width, (frames, patch, patch), (stride, patch, patch), padding=(frames // 2, 0, 0), bias=False
        )

    def forward(self, video: Tensor) -> Tensor:
        """``(B, channels, T', H', W')`` to ``(T, B, H, W, C)``."""
        if is_counting() or self.in_channels > 3:  # small patches of many channels are not worth the copy
            return super().forward(video).permute(2, 0, 3, 4, 1).contiguous()
        (frames, edge, _), pad = self.kernel_size, self.kernel_size[0] // 2
        pieces = F.pad(video, (0, 0, 0, 0, pad, pad)).unfold(2, frames, self.stride[0])
        pieces = pieces.unflatten(4, (-1, edge)).unflatten(3, (-1, edge)).permute(2, 0, 3, 5, 1, 7, 4, 6)
        return F.linear(pieces.flatten(4), self.weight.flatten(1))


class ConvStem(nn.Sequential):
    """Two convolutions of every frame, each with batch norm and ReLU, to a quarter of its size."""

    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.Conv2d(3, channels // 2, 5, 2, padding=2, bias=False),
            nn.BatchNorm2d(channels // 2),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels // 2, channels, 3, 2, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, video: Tensor) -> Tensor:
        """``(B, 3, T, H, W)`` to ``(B, channels, T, H / 4, W / 4)``."""
        frames = video.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        return super().forward(frames).unflatten(0, (video.shape[0], -1)).transpose(1, 2)


# --- parts of the ST branch ------------------------------------------------------------------------------------------


class FFN(nn.Sequential):
    """Two linear layers with a GELU between them.

    x·σ(1.702x) is silu(1.702x) / 1.702, and both factors go into the matrix products: one pass over the widest tensor
    of the network instead of three, and two over its gradient instead of five.
    """

    def __init__(self, width: int, ratio: float, gelu: Literal["quick", "exact"], dropout: float = 0.0) -> None:
        hidden = hidden_width(width, ratio)
        super().__init__(
            nn.Linear(width, hidden), nn.SiLU() if gelu == "quick" else nn.GELU(), nn.Linear(hidden, width)
        )
        self.quick, self.dropout = gelu == "quick", dropout

    def forward(self, x: Tensor) -> Tensor:
        """``(..., C)`` to the same shape."""
        first, last = cast(nn.Linear, self[0]), cast(nn.Linear, self[2])
        if not self.quick:
            return last(F.dropout(self[1](first(x)), self.dropout, self.training))
        if is_adapted(first) or is_adapted(last):
            hidden = F.dropout(F.silu(QUICK * first(x)), self.dropout, self.training)
            return last(hidden / QUICK)
        hidden = torch.addmm(QUICK * first.bias, x.flatten(0, -2), first.weight.mT, alpha=QUICK)
        hidden = F.dropout(F.silu(hidden, inplace=not torch.is_grad_enabled()), self.dropout, self.training)
        return torch.addmm(last.bias, hidden, last.weight.mT, alpha=1 / QUICK).view(x.shape)


class Attention(nn.Module):
    """Multi-head self-attention over the tokens of a frame, or of a clip."""

    def __init__(self, width: int, heads: int, joint: bool = False) -> None:
        super().__init__()
        self.heads, self.joint = heads, joint
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """``(T, B, L, C)`` to the same shape."""
        qkv = self.qkv(x).unflatten(3, (3, self.heads, -1))
        if self.joint:
            q, k, v = (part.permute(1, 3, 0, 2, 4).flatten(2, 3) for part in qkv.unbind(3))
            mixed = (
                F.scaled_dot_product_attention(q, k, v).unflatten(2, (x.shape[0], x.shape[2])).permute(2, 0, 3, 1, 4)
            )
        else:
            q, k, v = (part.flatten(0, 1).transpose(1, 2) for part in qkv.unbind(3))
            mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).unflatten(0, x.shape[:2])
        return self.proj(mixed.flatten(3))


class Block(nn.Module):
    """CLIP's block: ``x + MHA(x)``, then ``x + FFN(x)``, each behind a layer norm."""

    def __init__(self, config: STDFormerSizes, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width)
        self.attn = Attention(config.width, config.heads)
        self.norm2 = nn.LayerNorm(config.width)
        self.mlp = FFN(config.width, config.mlp_ratio, config.gelu)
        self.drop_path = ClipDropPath(drop_path)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """``(T, B, 1 + H·W, C)`` to the same shape; ``size`` is (H, W)."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PTM(nn.Module):
    """Parallel transformer module (§3.2): attention, FFN and convolution of the same encoded tokens, added up (Eq. 1).

    The identity that Eq. 1 does not print is the "residual connection" of Table 3.
    """

    def __init__(self, config: STDFormerSizes, drop_path: float = 0.0) -> None:
        super().__init__()
        width, self.switches = config.width, config
        self.dpe = PositionEncoding(width, int(width / config.dpe_reduction), config)
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, config.heads, config.ptm_attention == "joint")
        self.norm2 = nn.LayerNorm(width)
        self.mlp = FFN(width, config.mlp_ratio, config.gelu)
        self.conv = None if config.conv_placement == "none" else AdjacentConv(width, config)
        self.alpha: float | nn.Parameter = config.alpha
        self.beta: float | nn.Parameter = config.beta
        if config.learnable_alpha_beta:
            self.alpha = nn.Parameter(torch.full((1,), config.alpha))
            if weighs_beta(config):
                self.beta = nn.Parameter(torch.full((1,), config.beta))
        self.drop_path = ClipDropPath(drop_path)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """``(T, B, 1 + H·W, C)`` to the same shape; ``size`` is (H, W)."""
        u = add_to_patches(x, self.dpe(x[:, :, 1:]))
        y1 = self.attn(self.norm1(u))
        if self.conv is not None and self.switches.conv_placement == "attention":
            y1 = add_to_patches(y1, self.conv(y1[:, :, 1:], size))
        added = y1 + self.alpha * self.mlp(self.norm2(u))
        if self.conv is not None and self.switches.conv_placement == "residual":
            added = add_to_patches(added, self.beta * self.conv(u[:, :, 1:], size))
        if self.switches.ptm_identity == "none":
            return added
        return (self.beta * u if self.switches.ptm_identity == "scaled" else u) + self.drop_path(added)


class PositionEncoding(nn.Module):
    """Dynamic position encoding: 1 × 1 × 1, depth-wise 3 × 1 × 1 and 1 × 1 × 1 convolutions (§3.2)."""

    def __init__(self, width: int, hidden: int, config: STDFormerSizes) -> None:
        super().__init__()
        self.norm = channel_norm(config.norm, width) if config.dpe_norm == "bn" else nn.Identity()
        self.reduce = nn.Linear(width, hidden)
        self.time = DepthwiseConv(hidden, (3, 1))
        self.expand = nn.Linear(hidden, width)
        zero(self.expand)

    def forward(self, patches: Tensor) -> Tensor:
        """``(T, B, N, C)`` to the same shape."""
        x = self.reduce(normed(self.norm, patches))
        return self.expand(self.time(x.unsqueeze(2)).squeeze(2))


class AdjacentConv(nn.Module):
    """The PTM's 1 × 1, 3 × 3, 1 × 1 convolution, with batch norm and ReLU between them."""

    def __init__(self, width: int, config: STDFormerSizes) -> None:
        super().__init__()
        hidden = width // 4
        self.plane = "3d" if config.conv_kind == "3d" else config.conv_plane
        self.reduce = nn.Linear(width, hidden, bias=False)
        self.norm1 = channel_norm(config.norm, hidden)
        kind = nn.Conv3d if self.plane == "3d" else nn.Conv2d
        self.conv: nn.Module = kind(hidden, hidden, 3, padding=1, bias=False)
        self.norm2 = channel_norm(config.norm, hidden)
        self.expand = nn.Linear(hidden, width)
        zero(self.expand)

    def forward(self, patches: Tensor, size: tuple[int, int]) -> Tensor:
        """``(T, B, N, C)`` to the same shape, strided; ``size`` is (H, W)."""
        x = normed(self.norm1, self.reduce(patches)).relu_()
        if self.plane == "space":
            x = self._last(convolved(self.conv, x.unflatten(2, size)).flatten(2, 3))  # type: ignore[arg-type]
        elif self.plane == "time_space":
            clips = x.transpose(0, 1).contiguous()  # (B, T, N, C/4): a channels-last image of T × N
            x = self._last(self.conv(clips.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)).transpose(0, 1)
        else:
            maps = self.conv(x.unflatten(2, size).permute(1, 4, 0, 2, 3))
            x = self._last(maps.permute(2, 0, 3, 4, 1).flatten(2, 3))
        return x

    def _last(self, x: Tensor) -> Tensor:
        return self.expand(normed(self.norm2, x).relu_())


# --- the T branch ----------------------------------------------------------------------------------------------------


class CTM(nn.Module):
    """Cross transformer module (§3.3): at each position the frames of the ST branch look at those of the memory."""

    def __init__(self, config: STDFormerSizes, drop_path: float = 0.0) -> None:
        super().__init__()
        width, self.heads, self.residual = config.width, config.heads, config.ctm_residual
        self.cpe: nn.Module
        self.cpe = DepthwiseConv(width, (3, 3)) if config.cpe == "depthwise" else DenseConv(width, (3, 3), bias=True)
        self.norm_q = nn.LayerNorm(width)
        self.norm_kv = nn.LayerNorm(width)
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = FFN(width, config.ctm_mlp_ratio, config.gelu, config.ctm_dropout)
        self.drop_path = ClipDropPath(drop_path)
        self.time_embed: nn.Parameter | None = None
        if config.temporal_pos_embed:
            frames = -(-config.clip.frames // config.tubelet_stride)
            self.time_embed = nn.Parameter(torch.zeros(1, frames, width))
        for layer in (self.q, self.kv):  # Xavier's bound for one layer of 3 C outputs, as UniFormerV2's
            nn.init.uniform_(layer.weight, -math.sqrt(6 / (4 * width)), math.sqrt(6 / (4 * width)))
            nn.init.zeros_(layer.bias)
        for last in (self.proj, self.mlp[2], self.cpe):
            zero(last)  # type: ignore[arg-type]

    def forward(self, query: Tensor, memory: Tensor, size: tuple[int, int]) -> Tensor:
        """The next memory, ``(T, B, N, C)``.

        Args:
            query: ``(T, B, N, C)``; of the ST branch.
            memory: ``(T, B, N, C)``.
            size: (H, W); if N is H·W + 1, the first is a class token, which no convolution sees.
        """
        positions = size[0] * size[1]
        maps = query[:, :, query.shape[2] - positions :].unflatten(2, size)
        encoded = self.cpe(maps).flatten(2, 3)
        query = query + encoded if query.shape[2] == positions else add_to_patches(query, encoded)
        added = self.drop_path(self.attend(self.norm_q(query), self.norm_kv(memory)))
        if self.residual != "memory":
            added = added + query
        if self.residual != "query":
            added = added + memory
        return added + self.drop_path(self.mlp(self.norm2(added)))

    def attend(self, query: Tensor, memory: Tensor) -> Tensor:
        """Attention along time at every position: ``(T, B, N, C)`` twice to the same shape."""
        if self.time_embed is not None:
            times = resize_line(self.time_embed, len(query))[0][:, None, None]
            query, memory = query + times, memory + times
        q = self.q(query).flatten(1, 2).unflatten(2, (self.heads, -1)).permute(1, 2, 0, 3)
        k, v = self.kv(memory).flatten(1, 2).unflatten(2, (2, self.heads, -1)).permute(2, 1, 3, 0, 4)
        if torch.compiler.is_exporting() or len(q) <= PIECE:  # an exported program takes any number of clips
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:
            pieces = zip(q.split(PIECE), k.split(PIECE), v.split(PIECE))
            mixed = torch.cat([F.scaled_dot_product_attention(*piece) for piece in pieces])
        return self.proj(mixed.permute(2, 0, 1, 3).flatten(2)).view(query.shape)


class ClipDropPath(DropPath):
    """Stochastic depth, clip by clip, of ``(T, B, ...)``."""

    def forward(self, x: Tensor) -> Tensor:
        return x if self.drop_prob == 0 or not self.training else super().forward(x.transpose(0, 1)).transpose(0, 1)


def add_to_patches(x: Tensor, added: Tensor) -> Tensor:
    """``(T, B, 1 + N, C)`` and ``(T, B, N, C)``: the class token stays as it is."""
    return torch.cat([x[:, :, :1], x[:, :, 1:] + added], 2)
