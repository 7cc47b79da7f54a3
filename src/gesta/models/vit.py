"""The plain video ViT: VideoMAE 1 and 2, UMT, V-JEPA 2 and 2.1, and ViViT with joint attention.

Sources: Z. Tong et al., "VideoMAE", NeurIPS 2022; L. Wang et al., "VideoMAE V2", CVPR 2023; K. Li et al., "Unmasked
Teacher" (UMT), ICCV 2023; M. Assran et al., "V-JEPA 2", 2025; A. Arnab et al., "ViViT", ICCV 2021 (model 1); and their
public implementations, whose weights load. All are one network: tubes of pixels become tokens, and every block is ::

    x = x + s1 · attention(norm1(x)) ;  x = x + s2 · mlp(norm2(x))        over all tokens of the clip at once

with s1 = s2 = 1 unless there is a layer scale. They differ in

========== =========================== ========================================================== ===========
model      positions                   what is read out                                           GELU
========== =========================== ========================================================== ===========
VideoMAE   ``sincos``, added once      mean of the tokens, then layer norm (``mean_norm``)        exact
UMT        the same, or ``learned``    the same                                                   exact
ViViT      ``learned``, added once     layer norm, then the class token (``norm_first``)          tanh
V-JEPA 2   ``rope_tiled``, in blocks   layer norm, then an attentive probe (``attentive``)        exact
V-JEPA 2.1 ``rope``, in blocks         the same, with a norm for each of four depths              exact
========== =========================== ========================================================== ===========

Weights never tell the number of heads, eps, the form of the GELU or which RoPE: these come from the named model or from
the config.json beside the weights.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import field
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from gesta.config import Between, Count, CountOrZero, Positive, config, unless
from gesta.cost import is_counting
from gesta.errors import GestaError
from gesta.layers.attentive import Attention, Attentive, Bias
from gesta.layers.init import Standardise, init_small
from gesta.layers.mlp import mlp
from gesta.layers.precision import no_autocast
from gesta.layers.resize import resize_map
from gesta.model import Classifier, ClipSpec, Grid, ModelConfig, VideoModel, drop_path_rates

Size = tuple[int, int, int]
"""Tokens along time, height and width."""

_Eps = Annotated[float, Between(0, 1, open="both")]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
HALF = (0.5, 0.5, 0.5)  # ViViT's mean and standard deviation

HEADS = {384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16, 1664: 26}
"""Attention heads of the published widths; V-JEPA's of 1408 has :data:`VJEPA_G_HEADS`."""

VJEPA_G_HEADS = 22
PROBE_HEADS = 16  # of V-JEPA's published probes, at every width


@config
class ViTConfig(ModelConfig):
    """Sizes and switches of a plain video ViT.

    Attributes:
        width: channels.
        depth: number of blocks.
        heads: attention heads.
        mlp_ratio: hidden width of the MLPs / width.
        patch: side of a tube, in pixels.
        patch_frames: frames of a tube.
        positions: ``sincos``: a fixed vector of sines and cosines for each index in the sequence of tokens, added once
            (VideoMAE); ``learned``: a learned one; ``rope_tiled``: queries and keys are rotated in every attention, as
            V-JEPA 2 was trained (the two of a pair by different angles, so no true rotation); ``rope``: the repaired
            one of V-JEPA 2.1, whose rows and columns are stretched to those of ``position_size``.
        position_size: side in pixels of the clips that the positions were trained with. ``sincos`` tables of this size
            are resized for others, as the public code does, since an index means another position there;
            ``learned`` ones of this size are taken over into a model for others.
        position_frames: for ``sincos``, tubes along time of the table, which is then resized linearly (UMT); None
            makes the table for as many frames as the clip has (VideoMAE).
        class_token: a learned token in front.
        eps: of the layer norms of the blocks, and of a last one before the readout.
        head_eps: of the layer norm after the mean.
        gelu: ``exact``, or its ``tanh`` approximation.
        layer_scale: a learned factor for each channel of each branch starts at this; None has none.
        qkv_bias: which of queries, keys and values have a bias; VideoMAE has none for the keys.
        tail: how tokens become the features that are classified: ``mean_norm``: mean of the tokens, then layer norm;
            ``norm_mean``: the other way round; ``norm_first``: layer norm, then the first token, which is the class
            token if there is one; ``mean``: without a norm. With ``attentive`` the probe pools the tokens instead,
            after the same norm.
        modality_embed: a learned vector is added to all tokens, and another one to those of a clip of one frame, which
            has a patch embedding of its own (V-JEPA 2.1).
        norm_after: blocks after each of which a norm of its own reads the tokens, the last of them instead of the last
            norm (V-JEPA 2.1); empty for a single last norm.
        small_init: our addition for narrow models and few videos, see :mod:`gesta.layers.init`.
    """

    width: Count = 768
    depth: Count = 12
    heads: Count = 12
    mlp_ratio: Positive = 4.0
    patch: Count = 16
    patch_frames: Count = 2
    positions: Literal["sincos", "learned", "rope_tiled", "rope"] = "sincos"
    position_size: Count = 224
    position_frames: Count | None = None
    class_token: bool = False
    eps: _Eps = 1e-6
    head_eps: _Eps = 1e-6
    gelu: Literal["exact", "tanh"] = "exact"
    layer_scale: Positive | None = None
    qkv_bias: Bias = "query_value"
    tail: Literal["mean_norm", "norm_mean", "norm_first", "mean"] = "mean_norm"
    modality_embed: bool = False
    norm_after: tuple[CountOrZero, ...] = ()
    small_init: bool = False
    clip: ClipSpec = field(default_factory=lambda: ClipSpec(frames=16, stride=4, size=224, mean=MEAN, std=STD))

    def unused(self) -> Iterator[tuple[str, str]]:
        yield from unless(self.positions != "rope_tiled", "positions other than 'rope_tiled'", "position_size")
        yield from unless(self.positions == "sincos", "positions='sincos'", "position_frames")
        yield from unless(self.tail == "mean_norm", "tail='mean_norm'", "head_eps")

    def build(self) -> ViT:
        return ViT(self)


# --- named sizes -----------------------------------------------------------------------------------------------------


def videomae_s() -> ViTConfig:
    """VideoMAE ViT-S on 16 frames of 224 × 224, every fourth; also VideoMAE 2's."""
    return ViTConfig(width=384, heads=6, drop_path=0.1)


def videomae_b() -> ViTConfig:
    """VideoMAE ViT-B on 16 frames of 224 × 224, every fourth; also VideoMAE 2's."""
    return ViTConfig(drop_path=0.1)


def videomae_l() -> ViTConfig:
    """VideoMAE ViT-L on 16 frames of 224 × 224, every fourth."""
    return ViTConfig(width=1024, depth=24, heads=16, drop_path=0.1)


def videomae_h() -> ViTConfig:
    """VideoMAE ViT-H on 16 frames of 224 × 224, every fourth."""
    return ViTConfig(width=1280, depth=32, heads=16, drop_path=0.2)


def videomae2_g() -> ViTConfig:
    """VideoMAE 2's ViT-g on 16 frames of 224 × 224, every fourth; patches of 14 pixels."""
    return ViTConfig(width=1408, depth=40, heads=16, mlp_ratio=48 / 11, patch=14, drop_path=0.25)


def umt_b() -> ViTConfig:
    """Unmasked Teacher's ViT-B on 8 frames of 224 × 224, one per segment; tubes of one frame."""
    clip = ClipSpec(frames=8, sampling="uniform", size=224, mean=MEAN, std=STD)
    return ViTConfig(patch_frames=1, position_frames=8, drop_path=0.1, clip=clip)


def umt_l() -> ViTConfig:
    """Unmasked Teacher's ViT-L on 8 frames of 224 × 224, one per segment; tubes of one frame."""
    clip = ClipSpec(frames=8, sampling="uniform", size=224, mean=MEAN, std=STD)
    return ViTConfig(width=1024, depth=24, heads=16, patch_frames=1, position_frames=8, drop_path=0.2, clip=clip)


def _vjepa2(width: int, depth: int, heads: int, mlp_ratio: float = 4.0, size: int = 256) -> ViTConfig:
    clip = ClipSpec(frames=16, stride=4, size=size, mean=MEAN, std=STD)
    return ViTConfig(
        width=width, depth=depth, heads=heads, mlp_ratio=mlp_ratio, qkv_bias="full", positions="rope_tiled",
        tail="norm_mean", attentive=Attentive(), clip=clip,
    )  # fmt: skip


def vjepa2_l() -> ViTConfig:
    """V-JEPA 2 ViT-L and its attentive probe on 16 frames of 256 × 256, every fourth; pretrained with 64."""
    return _vjepa2(1024, 24, 16)


def vjepa2_h() -> ViTConfig:
    """V-JEPA 2 ViT-H and its attentive probe on 16 frames of 256 × 256, every fourth; pretrained with 64."""
    return _vjepa2(1280, 32, 16)


def vjepa2_g() -> ViTConfig:
    """V-JEPA 2 ViT-g and its attentive probe on 16 frames of 256 × 256, every fourth; pretrained with 64."""
    return _vjepa2(1408, 40, VJEPA_G_HEADS, 48 / 11)


def vjepa2_g_384() -> ViTConfig:
    """V-JEPA 2 ViT-g and its attentive probe on 16 frames of 384 × 384, every fourth; pretrained with 64."""
    return _vjepa2(1408, 40, VJEPA_G_HEADS, 48 / 11, 384)


def _vjepa2_1(width: int, depth: int, heads: int, norm_after: tuple[int, ...], mlp_ratio: float = 4.0) -> ViTConfig:
    config = _vjepa2(width, depth, heads, mlp_ratio, 384)
    config.positions, config.position_size, config.modality_embed, config.norm_after = "rope", 256, True, norm_after
    return config


def vjepa2_1_b() -> ViTConfig:
    """V-JEPA 2.1 ViT-B, distilled, and an attentive probe on 16 frames of 384 × 384, every fourth."""
    return _vjepa2_1(768, 12, 12, (2, 5, 8, 11))


def vjepa2_1_l() -> ViTConfig:
    """V-JEPA 2.1 ViT-L, distilled, and an attentive probe on 16 frames of 384 × 384, every fourth."""
    return _vjepa2_1(1024, 24, 16, (5, 11, 17, 23))


def vjepa2_1_g() -> ViTConfig:
    """V-JEPA 2.1 ViT-g (1 B) and an attentive probe on 16 frames of 384 × 384, every fourth."""
    return _vjepa2_1(1408, 40, VJEPA_G_HEADS, (9, 19, 29, 39), 48 / 11)


def vjepa2_1_gigantic() -> ViTConfig:
    """V-JEPA 2.1 ViT-G (2 B) and an attentive probe on 16 frames of 384 × 384, every fourth."""
    return _vjepa2_1(1664, 48, HEADS[1664], (11, 23, 37, 47), 64 / 13)


def vivit_b() -> ViTConfig:
    """ViViT-B/16×2 with joint space-time attention on 32 frames, every second frame (the public model)."""
    clip = ClipSpec(frames=32, stride=2, size=224, mean=HALF, std=HALF)
    return ViTConfig(qkv_bias="full", positions="learned", class_token=True, gelu="tanh", tail="norm_first", clip=clip)


def vit_tiny() -> ViTConfig:
    """Four narrow blocks for CPUs: 8 frames of 64 × 64, every fourth frame, 4 × 8 × 8 tokens."""
    clip = ClipSpec(frames=8, stride=4, size=64, mean=MEAN, std=STD)
    return ViTConfig(width=64, depth=4, heads=2, patch=8, position_size=64, small_init=True, clip=clip)


# --- the network -----------------------------------------------------------------------------------------------------


class State(NamedTuple):
    """What passes from block to block.

    Attributes:
        tokens: ``(B, N, C)``, a class token first if there is one, then t-major; N is less than the whole clip has
            where some tokens were left out.
        size: tokens of the whole clip along time, height and width, ints.
        rope: cosines and signed sines of RoPE for every token, ``(2, N, D)`` or ``(2, B, 1, N, D)``, in at least 32
            bits; None without RoPE.
        kept: ``(B, t·h·w)`` bool, the tokens that were not left out; None for all.
    """

    tokens: Tensor
    size: Size
    rope: Tensor | None = None
    kept: Tensor | None = None


class Block(nn.Module):
    """Attention and an MLP, each behind a layer norm and beside a residual connection."""

    def __init__(self, config: ViTConfig, drop_path: float) -> None:
        super().__init__()
        width = config.width
        self.norm1 = nn.LayerNorm(width, eps=config.eps)
        self.attn = Attention(width, config.heads, config.qkv_bias)
        self.norm2 = nn.LayerNorm(width, eps=config.eps)
        self.mlp = mlp(width, config.mlp_ratio, "tanh" if config.gelu == "tanh" else "none")
        self.scale1: nn.Parameter | None = None
        self.scale2: nn.Parameter | None = None
        if config.layer_scale is not None:
            self.scale1, self.scale2 = (nn.Parameter(torch.full((width,), config.layer_scale)) for _ in range(2))
        self.drop_path = DropPath(drop_path)

    def forward(self, state: State) -> State:
        tokens, rope = state.tokens, state.rope
        added = self.attn(self.norm1(tokens), None if rope is None else partial(rotate, rope=rope))
        tokens = tokens + self.drop_path(added if self.scale1 is None else added * self.scale1)
        added = self.mlp(self.norm2(tokens))
        tokens = tokens + self.drop_path(added if self.scale2 is None else added * self.scale2)
        return state._replace(tokens=tokens)


class ViT(VideoModel):
    """A plain video ViT. Clips of another length or size than configured may be given."""

    config: ViTConfig

    def __init__(self, config: ViTConfig) -> None:
        super().__init__(config)
        _check(config)
        width, clip = config.width, config.clip
        tube = (config.patch_frames, config.patch, config.patch)
        self.patch_embed = nn.Conv3d(3, width, tube, tube)
        size = self._size(clip.frames, clip.size, clip.size)
        if config.class_token:
            self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        if config.positions == "learned":
            self.pos_embed = nn.Parameter(torch.empty(1, config.class_token + math.prod(size), width))
        if config.positions == "sincos":
            self.register_buffer("sinusoids", self._sinusoids(size), persistent=False)
        if config.modality_embed:
            self.video_embed = nn.Parameter(torch.empty(1, 1, width))
            self.image_embed = nn.Parameter(torch.empty(1, 1, width))
            self.image_patch_embed = nn.Conv3d(3, width, (1, *tube[1:]), (1, *tube[1:]))
        self.blocks = nn.ModuleList(Block(config, rate) for rate in drop_path_rates(config.drop_path, config.depth))
        if config.norm_after:
            self.norms = nn.ModuleList(nn.LayerNorm(width, eps=config.eps) for _ in config.norm_after)
        elif config.tail == "mean_norm":
            self.fc_norm = nn.LayerNorm(width, eps=config.head_eps)
        elif config.tail != "mean":
            self.norm = nn.LayerNorm(width, eps=config.eps)
        self.standardise = Standardise(width) if config.small_init else nn.Identity()
        self.classifier = Classifier(width, config.classes, config.dropout)
        self._initialise()
        self.finish()

    def _initialise(self) -> None:
        """Weights and embeddings N(0, 0.02²), biases zero, and a tiny classifier, as VideoMAE."""
        small = self.config.small_init
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv3d):
                inputs = module.weight[0].numel()
                is_patch = isinstance(module, nn.Conv3d)
                nn.init.trunc_normal_(module.weight, std=inputs**-0.5 if small and is_patch else 0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for name in self.no_weight_decay():
            nn.init.trunc_normal_(self.get_parameter(name), std=0.02)
        if small:
            init_small(self)
        else:
            for parameter in self.classifier.parameters():
                parameter.data.mul_(0.001)

    # --- tokens and their positions ----------------------------------------------------------------------------------

    def stem(self, video: Tensor, kept: Tensor | None = None) -> State:
        """Tubes of pixels to tokens, with added positions, and with the angles of RoPE, which every block applies.

        Args:
            video: ``(B, 3, T, H, W)`` that tubes tile; of fewer frames than one tube, the last is repeated.
            kept: ``(B, t·h·w)`` bool, tokens in the order (t, y, x) that are kept, as many in every clip, as in masked
                pretraining; they keep their positions. None for all.

        Raises:
            GestaError: a clip that tubes do not tile, or a mask of another size.
        """
        config, batch, frames = self.config, video.shape[0], video.shape[2]
        as_image = config.modality_embed and frames == 1
        if frames < config.patch_frames and not as_image:
            video = torch.cat([video, video[:, :, -1:].expand(-1, -1, config.patch_frames - frames, -1, -1)], 2)
        size = (1, *self._size(config.patch_frames, *video.shape[3:])[1:]) if as_image else self._size(*video.shape[2:])
        tokens = (self.image_patch_embed if as_image else self.patch_embed)(video).flatten(2).mT
        tokens = tokens.contiguous()  # all later layers keep this layout
        positions, of_class = self._added_positions(size, tokens)
        if positions is not None:
            tokens = tokens + positions
        if config.modality_embed:
            tokens = tokens + (self.image_embed if as_image else self.video_embed)
        rope = self._rope(size, tokens) if config.positions.startswith("rope") else None
        if kept is not None:
            tokens = selected(tokens, kept)
            if rope is not None:
                rope = torch.stack([selected(part.expand(batch, -1, -1), kept) for part in rope])[:, :, None]
        if config.class_token:
            token = self.cls_token if of_class is None else self.cls_token + of_class
            tokens = torch.cat([token.expand(batch, -1, -1).to(tokens.dtype), tokens], 1)
            if rope is not None:  # the class token is not rotated
                first = torch.zeros_like(rope[..., :1, :])
                first[0] = 1
                rope = torch.cat([first, rope], -2)
        return State(tokens, size, rope, kept)

    def _added_positions(self, size: Size, tokens: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Positions to add to the tokens, ``(1, N, C)``, and to the class token; None where nothing is added."""
        if self.config.positions == "sincos":
            table = self.sinusoids
            assert isinstance(table, Tensor)
            if size != self._configured_size:
                table = self._sinusoids(size, "meta" if tokens.is_meta else "cpu")
            return table.to(tokens.device, tokens.dtype), None
        if self.config.positions == "learned":
            table = self._for_size(self.pos_embed, size)
            prefix = int(self.config.class_token)
            return table[:, prefix:], table[:, :prefix] if prefix else None
        return None, None

    def _sinusoids(self, size: Size, device: str | None = None, width: int | None = None) -> Tensor:
        """VideoMAE's table ``(1, t·h·w, C)`` in 32 bits, resized where it was made for another size.

        Row i, the index in the sequence, has sin(i / 10000^(j/C)) in even columns j, and the cosine of the same angle
        in the next.
        """
        per_side, width = max(1, self.config.position_size // self.config.patch), width or self.config.width
        frames = self.config.position_frames or size[0]
        arange = partial(torch.arange, dtype=torch.float64, device=device)
        rows = arange(frames * per_side * per_side)[:, None]
        angles = rows / 10000 ** (arange(0, width, 2) / width)
        table = torch.stack([angles.sin(), angles.cos()], 2).flatten(1)[:, :width].float()[None]
        return _resized(table, (frames, per_side, per_side), size)

    def _rope(self, size: Size, tokens: Tensor) -> Tensor:
        """Cosines and signed sines for :func:`rotate`, ``(2, t·h·w, D)``, in at least 32 bits.

        Of the D features of a head, d = 2·⌊⌊D/3⌋/2⌋ each say the token's position along time, height and width.
        """
        head = self.config.width // self.config.heads
        part = 2 * (head // 3 // 2)
        with no_autocast(tokens):
            exact = torch.promote_types(tokens.dtype, torch.float32)
            arange = partial(torch.arange, dtype=exact, device=tokens.device)
            omega = 1 / 10000 ** (arange(part // 2) / (part / 2))
            axes = [arange(count) for count in size]
            if self.config.positions == "rope":  # rows and columns as those that were trained
                last = self.config.position_size // self.config.patch - 1
                axes[1:] = [axis * (last / max(1, len(axis) - 1)) for axis in axes[1:]]
            parts = []
            for coordinates in torch.meshgrid(*axes, indexing="ij"):
                angles = coordinates.flatten()[:, None] * omega
                is_tiled = self.config.positions == "rope_tiled"
                parts.append(torch.cat([angles, angles], 1) if is_tiled else angles.repeat_interleave(2, 1))
            angles = torch.cat([*parts, angles.new_zeros(len(angles), head - 3 * part)], 1)
            signs = angles.new_ones(head)
            signs[::2] = -1
            return torch.stack([angles.cos(), angles.sin() * signs])

    def _for_size(self, table: Tensor, size: Size) -> Tensor:
        """Learned positions ``(1, [1 +] N, C)`` for another size, bicubically in space and linearly in time.

        Raises:
            GestaError: a number of positions whose size is not known.
        """
        prefix = int(self.config.class_token)
        count = table.shape[1] - prefix
        if count == math.prod(size):
            return table
        configured, trained = self._configured_size[1:], self.config.position_size // self.config.patch
        for height, width in ((trained, trained), configured, size[1:]):
            if height * width and count > 0 and count % (height * width) == 0:
                resized = _resized(table[:, prefix:], (count // (height * width), height, width), size)
                return torch.cat([table[:, :prefix], resized], 1)
        raise GestaError(
            f"{count} positions cannot be resized to {size[0]} × {size[1]} × {size[2]}, since they are no number of "
            f"frames of {trained} × {trained}; give the size of the clips they were trained with (model.position_size)"
        )

    @property
    def _configured_size(self) -> Size:
        clip = self.config.clip
        return self._size(clip.frames, clip.size, clip.size)

    def _size(self, frames: int, height: int, width: int) -> Size:
        """Tokens of a clip along its axes.

        Raises:
            GestaError: tubes do not tile it.
        """
        patch, tube = self.config.patch, self.config.patch_frames
        if height % patch or width % patch or not height * width:
            raise GestaError(
                f"patches of {patch} pixels do not tile a clip of {height} × {width} pixels; give another size"
            )
        if frames % tube and frames > tube:
            raise GestaError(f"tubes of {tube} frames do not tile a clip of {frames} frames; give a multiple of {tube}")
        return -(-frames // tube), height // patch, width // patch

    # --- what all models have ----------------------------------------------------------------------------------------

    def tokens(self, state: State, block: int | None = None) -> Tensor:
        """The tokens, a class token included, through the last norm, or through that of their depth."""
        return self._norm_of(block)(state.tokens)

    def _norm_of(self, block: int | None = None) -> nn.Module:
        """The norm that reads the tokens after a block, by default the last."""
        config = self.config
        if config.norm_after:
            return self.norms[config.norm_after.index(block) if block in config.norm_after else -1]
        if config.tail == "mean":
            return nn.Identity()
        return self.fc_norm if config.tail == "mean_norm" else self.norm

    def pool(self, state: State) -> Tensor:
        """Mean or first token and layer norm, in the order that ``tail`` says."""
        tokens, norm = state.tokens, self._norm_of()
        if self.config.tail == "norm_first":
            tokens = tokens if is_counting() else tokens[:, :1]  # papers count the norm of all tokens
            return self.standardise(norm(tokens)[:, 0])
        if self.config.tail == "norm_mean":
            return self.standardise(norm(tokens).mean(1))
        return self.standardise(norm(tokens.mean(1)))

    def to_grid(self, state: State) -> Tensor:
        tokens = state.tokens[:, int(self.config.class_token) :]
        if tokens.shape[1] != math.prod(state.size):
            raise GestaError("some tokens were left out, so there is no whole feature map; the state has the others")
        return tokens.unflatten(1, state.size).permute(0, 4, 1, 2, 3)

    def from_grid(self, grid: Tensor, state: State) -> State:
        tokens = grid.permute(0, 2, 3, 4, 1).flatten(1, 3)
        if self.config.class_token:
            tokens = torch.cat([state.tokens[:, :1], tokens], 1)
        return state._replace(tokens=tokens)

    def scale_token(self, state: State, factor: int) -> State:
        return state._replace(tokens=state.tokens * factor)

    def grid_at(self, block: int) -> Grid:
        return self.config.width, *self._configured_size

    def no_weight_decay(self) -> set[str]:
        names = ("cls_token", "pos_embed", "video_embed", "image_embed")
        return {name for name in names if isinstance(getattr(self, name, None), nn.Parameter)}

    def _is_stem(self, name: str) -> bool:
        return not name.startswith(("classifier.", "norm.", "norms.", "fc_norm."))

    # --- public weights ----------------------------------------------------------------------------------------------

    def convert_foreign(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename the weights of the public codes and of ``transformers`` (4 and 5), see :data:`FOREIGN`.

        Queries, keys and values become one layer; a bias that the keys lack is zero. Weights of pretraining bring their
        encoder: the decoder or predictor, and the norm between the two where this model reads the mean, keep their
        names, so that the report lists them as not used. Positions made for another clip size are resized, with a
        warning.
        """
        with_key = self.config.qkv_bias == "full"
        renamed = fused({_our_name(name): value for name, value in weights.items()}, with_key)
        is_public = renamed.keys() != weights.keys()
        size, config = self._configured_size, self.config
        table = renamed.get("pos_embed")
        if config.positions == "learned" and table is not None and table.dim() == 3:
            if table.shape[1] != config.class_token + math.prod(size):
                warnings.warn(
                    f"pos_embed was made for another clip and is resized to {' × '.join(map(str, size))} vectors",
                    stacklevel=2,
                )
                renamed["pos_embed"] = self._for_size(table, size)
        elif config.positions == "sincos" and is_public:
            trained = config.position_size // config.patch
            if table is not None:
                warnings.warn(
                    "these weights have learned positions (pos_embed), which a model of positions='sincos' lacks: use "
                    "positions='learned' (--model.positions learned)",
                    stacklevel=2,
                )
            elif size[1:] != (trained, trained) or size[0] != (config.position_frames or size[0]):
                warnings.warn(
                    f"the positions are those of {config.position_frames or size[0]} × {trained} × {trained} tokens, "
                    f"resized to {' × '.join(map(str, size))}",
                    stacklevel=2,
                )
        return renamed

    def check_source(self, description: str) -> None:
        """Refuse weights of another number of heads, which their shapes do not show, and name the two exceptions.

        The config.json of VideoMAE-S says 16 heads, but it was trained with 6. V-JEPA's probes were trained with 16,
        but ``transformers`` gives them those of the encoder.
        """
        stated = re.search(r'"num_attention_heads": *(\d+)', description)
        if stated is None:
            return
        theirs, config = int(stated[1]), self.config
        if theirs != config.heads and config.width == 384 and config.heads == HEADS[384]:
            warnings.warn(
                f"config.json says {theirs} heads; VideoMAE-S was trained with 6, which are taken", stacklevel=2
            )
        elif theirs != config.heads:
            raise GestaError(
                f"config.json says {theirs} attention heads, and this model has {config.heads}: the same weights fit "
                f"both, and give other numbers; use --model.heads {theirs}"
            )
        probe = config.attentive.heads if isinstance(config.attentive, Attentive) else theirs
        if probe != theirs and '"vjepa2"' in description:
            warnings.warn(
                f"the attentive probe is read with {probe} heads, as it was trained; transformers has the encoder's "
                f"{theirs}",
                stacklevel=2,
            )


def rotate(x: Tensor, rope: Tensor) -> Tensor:
    """Queries or keys ``(B, heads, N, D)`` rotated in pairs of neighbours, computed in the precision of ``rope``."""
    cos, sin = rope
    swapped = x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return torch.addcmul(x * cos, swapped.to(cos.dtype), sin).to(x.dtype)


def selected(tokens: Tensor, kept: Tensor) -> Tensor:
    """The tokens ``(B, N, C)`` that a mask keeps, ``(B, K, C)``.

    Raises:
        GestaError: a mask of another size, or that keeps more tokens of one clip than of another.
    """
    counts = kept.sum(-1)
    if kept.shape != tokens.shape[:2] or not (counts == counts[0]).all():
        raise GestaError(
            f"a mask of kept tokens must be {tuple(tokens.shape[:2])} here, clips × tokens, and keep as many in every "
            f"clip; this one is {tuple(kept.shape)} and keeps {counts.min()} to {counts.max()}"
        )
    return tokens[kept].unflatten(0, (tokens.shape[0], -1))


def _resized(table: Tensor, old: Size, new: Size) -> Tensor:
    """Positions ``(1, t·h·w, C)`` for another size: bicubically in space, then linearly in time."""
    grid = table[0].unflatten(0, old).permute(0, 3, 1, 2)
    grid = resize_map(grid, new[1:], "bicubic")
    in_time = resize_map(grid.flatten(1).mT[None], (new[0],), "linear")[0].mT
    return in_time.unflatten(1, grid.shape[1:]).permute(0, 2, 3, 1).flatten(0, 2)[None]


def _check(config: ViTConfig) -> None:
    """Refuse what contradicts.

    Raises:
        GestaError: with the fields.
    """
    head, is_rope = config.width // config.heads, config.positions.startswith("rope")
    rules = {
        f"{config.heads} heads need a width that is divisible by {config.heads}, not {config.width}": config.width
        % config.heads,
        f"RoPE needs heads of an even width of at least 6, not {head}": is_rope and (head < 6 or head % 2),
        f"norm_after is {config.norm_after}: name some of blocks 0 to {config.depth - 1} once each, in their order, "
        "the last of all at the end": config.norm_after
        and (list(config.norm_after) != sorted(set(config.norm_after)) or config.norm_after[-1] != config.depth - 1),
        "norm_after is a norm of tokens: use tail='norm_mean' or 'norm_first'": config.norm_after
        and not config.tail.startswith("norm_"),
    }
    for message, is_violated in rules.items():
        if is_violated:
            raise GestaError(message)


# --- names of public weights -----------------------------------------------------------------------------------------

FOREIGN: tuple[tuple[str, str], ...] = (
    (r"^(?:(?:module|_orig_mod|model|backbone)\.)+", ""),
    (r"^(?:videomae|vivit|vjepa2)\.", ""),
    (r"^encoder\.(?=(?:patch_embed|blocks|norm|pos_embed)\b)", ""),  # of VideoMAE's pretraining
    (r"^(?:encoder\.)?embeddings\.patch_embeddings\.proj(?:ection)?\.", "patch_embed."),
    (r"^patch_embed\.proj\.", "patch_embed."),
    (r"^patch_embed_img\.proj\.", "image_patch_embed."),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^(video|img)_mod_embed$", r"\1_embed"),
    (r"^img_embed$", "image_embed"),
    (r"^(?:encoder\.)?layernorm\.", "norm."),
    (r"^norms_block\.", "norms."),
    (r"^(?:encoder\.layer|layers)\.", "blocks."),
    # V-JEPA's probe
    (r"^pooler\.query_tokens$", "attentive.cross.query"),
    (r"^pooler\.(?:blocks|self_attention_layers)\.", "attentive.blocks."),
    (r"^pooler\.(?:cross_attention_block|cross_attention_layer)\.", "attentive.cross."),
    (r"^(attentive\.cross\.)(?:xattn\.|cross_attn\.)(q|kv|k|v)(?:_proj)?\.", r"\1\2."),
    (r"\.self_attn\.out_proj\.", ".attn.proj."),
    (r"\.self_attn\.", ".attn."),
    (r"\.layer_norm([12])\.", r".norm\1."),
    # blocks
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.(?:attention\.attention|attention)\.", ".attn."),
    (r"\.attn\.o_proj\.", ".attn.proj."),
    (r"\.attn\.(?:query|q_proj)\.", ".attn.q."),
    (r"\.attn\.(?:key|k_proj)\.", ".attn.k."),
    (r"\.attn\.(?:value|v_proj)\.", ".attn.v."),
    (r"\.attn\.([qv])_bias$", r".attn.\1.bias"),
    (r"\.intermediate\.dense\.", ".mlp.0."),
    (r"\.output\.dense\.", ".mlp.2."),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.2."),
    (r"\.gamma_([12])$", r".scale\1"),
    (r"^(?:head|linear)\.", "classifier.linear."),
    (r"^classifier\.(weight|bias)$", r"classifier.linear.\1"),
)  # fmt: skip
"""Patterns of public names, applied in this order, and their replacements here."""

_DECODERS = ("decoder.", "predictor.", "encoder_to_decoder.")  # what only pretraining needs, names unchanged

_PREFIXES = re.compile(rf"{FOREIGN[0][0]}|{FOREIGN[1][0]}")


def without_prefixes(name: str) -> str:
    """The name of a public tensor without the prefixes of wrappers and of the class in ``transformers``."""
    return _PREFIXES.sub("", name)


def _our_name(name: str) -> str:
    """The name here of a public tensor, before queries, keys and values are joined."""
    if without_prefixes(name).startswith(_DECODERS):
        return name
    for pattern, ours in FOREIGN:
        name = re.sub(pattern, ours, name)
    return name


def fused(weights: dict[str, Tensor], with_key: bool) -> dict[str, Tensor]:
    """Separate queries, keys and values as one layer, and those of a probe's query as two.

    Args:
        weights: by our names; changed.
        with_key: the encoder's keys have a bias, of zeros where the weights have none.
    """
    for name in [name for name in weights if name.endswith((".attn.q.weight", ".attn.q.bias"))]:
        q, k, v = (name.replace(".q.", f".{part}.") for part in "qkv")
        if v not in weights or (k not in weights and name.endswith("weight")):
            continue
        query, value = weights.pop(q), weights.pop(v)
        if k not in weights and not with_key:
            weights[name.replace(".q.bias", ".qkv.query_bias")] = query
            weights[name.replace(".q.bias", ".qkv.value_bias")] = value
        else:
            key = weights.pop(k) if k in weights else torch.zeros_like(query)
            weights[name.replace(".q.", ".qkv.")] = torch.cat([query, key, value])
    for kind in ("weight", "bias"):
        k, v = f"attentive.cross.k.{kind}", f"attentive.cross.v.{kind}"
        if k in weights and v in weights:
            weights[f"attentive.cross.kv.{kind}"] = torch.cat([weights.pop(k), weights.pop(v)])
    return weights


# --- the configuration of public weights ------------------------------------------------------------------------------


def from_public(config: Mapping[str, Any] | None, shapes: Mapping[str, torch.Size]) -> ViTConfig | None:
    """The configuration that fits public weights; None if they are not those of a plain video ViT.

    Shapes tell width, depth, MLPs, tubes, classes, class token, layer scale and probe. The number of heads, eps, GELU
    and the clip come from the config.json beside the weights, else from the named model of this width, with two
    exceptions that :meth:`ViT.check_source` names: VideoMAE-S has 6 heads, and V-JEPA's probes have 16.

    Args:
        config: the config.json beside them, as ``transformers`` writes it, if there is one.
        shapes: name → shape of the public tensors.

    Raises:
        GestaError: a ViT that this file does not build, or one of a width that is not published without a config.json.
    """
    names = {_our_name(name): shape for name, shape in shapes.items()}
    family = _family(config or {}, shapes, names)
    if family is None:
        return None
    described = (config or {}) if "hidden_size" in (config or {}) else {}  # other libraries have other fields
    kernel = names["patch_embed.weight"]
    width, tube, patch = kernel[0], kernel[2], kernel[3]
    is_jepa = family in ("vjepa2", "vjepa2_1")
    eps = described.get("layer_norm_eps", 1e-6)
    mean_norm, norm = "fc_norm.weight" in names, "norm.weight" in names or "norms.0.weight" in names
    classes = names.get("classifier.linear.weight")
    has_probe = "attentive.cross.query" in names
    tail: Any = "norm_first" if classes and not has_probe else "norm_mean"
    tail = "mean_norm" if mean_norm else tail if norm else "mean"
    has_learned = family == "videomae" and "pos_embed" in names  # UMT's weights for other clips
    positions: Any = {"videomae": "sincos", "vivit": "learned", "vjepa2": "rope_tiled", "vjepa2_1": "rope"}[family]
    heads = _heads(described, width, family)
    time_positions = names["pos_embed"][1] // (224 // patch) ** 2 if has_learned else None
    public = ViTConfig(
        classes=classes[0] if classes else 0,
        width=width,
        depth=1 + max(int(name.split(".")[1]) for name in names if name.startswith("blocks.")),
        heads=heads,
        mlp_ratio=names["blocks.0.mlp.0.weight"][0] / width,
        patch=patch,
        patch_frames=tube,
        positions="learned" if has_learned else positions,
        class_token="cls_token" in names,
        eps=eps,
        gelu=_gelu(described, family),
        layer_scale=1e-5 if "blocks.0.scale1" in names else None,
        qkv_bias=_qkv_bias(names),
        tail=tail,
        modality_embed="video_embed" in names,
        norm_after=_norm_after(names) if family == "vjepa2_1" else (),
        attentive=_probe_config(names, width, heads, eps if described else 1e-5) if has_probe else None,
        clip=_clip_spec(described, family, tube, time_positions),
    )
    if public.positions != "rope_tiled":
        public.position_size = 256 if is_jepa else public.clip.size
    if public.positions == "sincos" and tube == 1:
        public.position_frames = 8
    if described and tail == "mean_norm":
        public.head_eps = 1e-5  # torch's default, which transformers leaves
    return public


def _family(config: Mapping[str, Any], shapes: Mapping[str, torch.Size], names: Mapping[str, torch.Size]) -> str | None:
    """``videomae`` (with UMT), ``vivit``, ``vjepa2`` or ``vjepa2_1``; None for other weights."""
    kernel = names.get("patch_embed.weight", ())
    needed = ("blocks.0.norm1.weight", "blocks.0.mlp.0.weight")
    is_public = any(".mlp.fc1." in name or "intermediate.dense" in name for name in shapes)
    others = re.compile(r"rel_pos|\.pool_[qkv]|pos_embed_spatial|clip_projector|temporal")
    if len(kernel) != 5 or kernel[1] != 3 or kernel[3] != kernel[4] or 0 in kernel or not is_public:
        return None
    if not all(names.get(name) for name in needed) or any(others.search(name) for name in shapes):
        return None
    if "norms.0.weight" in names:
        return "vjepa2_1"
    bias = ("blocks.0.attn.qkv.bias", "blocks.0.attn.k.bias")
    if config.get("model_type") in ("videomae", "vivit", "vjepa2"):
        return str(config["model_type"])
    if "cls_token" in names:
        return "vivit" if any(name.partition(".")[0] in ("vivit", "embeddings") for name in shapes) else None
    return "vjepa2" if any(name in names for name in bias) else "videomae"


def _heads(described: Mapping[str, Any], width: int, family: str) -> int:
    """Heads of a public encoder.

    Raises:
        GestaError: nothing says how many.
    """
    if family == "videomae" and width == 384:
        return HEADS[384]  # config.json says 16: check_source
    if "num_attention_heads" in described:
        return int(described["num_attention_heads"])
    heads = VJEPA_G_HEADS if width == 1408 and family.startswith("vjepa") else HEADS.get(width)
    if heads is None:
        raise GestaError(
            f"a video ViT of width {width} is not published, and weights do not tell its number of heads; put its "
            "config.json beside them"
        )
    return heads


def _qkv_bias(names: Mapping[str, torch.Size]) -> Bias:
    if "blocks.0.attn.qkv.bias" in names or "blocks.0.attn.k.bias" in names:
        return "full"
    return "query_value" if "blocks.0.attn.q.bias" in names else "none"


def _gelu(described: Mapping[str, Any], family: str) -> Literal["exact", "tanh"]:
    """Which GELU.

    Raises:
        GestaError: another activation.
    """
    name = described.get("hidden_act", "gelu_fast" if family == "vivit" else "gelu")
    if name not in ("gelu", "gelu_fast", "gelu_new", "gelu_pytorch_tanh"):
        raise GestaError(f"config.json: hidden_act is {name!r}, and gesta's ViT has GELU only; use other weights")
    return "exact" if name == "gelu" else "tanh"


def _clip_spec(described: Mapping[str, Any], family: str, tube: int, time_positions: int | None) -> ClipSpec:
    """The clips of a family; frames and size as config.json says, or as there are positions along time."""
    is_jepa = family.startswith("vjepa")
    is_sparse = family == "videomae" and tube == 1  # UMT
    usual_frames = {"vivit": 32}.get(family, 8 if is_sparse else 16)
    frames = described.get("frames_per_clip" if is_jepa else "num_frames") or usual_frames
    side = described.get("crop_size" if is_jepa else "image_size") or {"vjepa2": 256, "vjepa2_1": 384}.get(family, 224)
    side = side if isinstance(side, int) else max(side)
    mean, std = (HALF, HALF) if family == "vivit" else (MEAN, STD)
    clip = ClipSpec(frames=time_positions * tube if time_positions else frames, size=side, mean=mean, std=std)
    if is_sparse:
        clip.sampling = "uniform"
    elif family == "vivit":
        clip.stride = 2
    return clip


def _norm_after(names: Mapping[str, torch.Size]) -> tuple[int, ...]:
    """After which blocks V-JEPA 2.1 has its norms: their number and depth tell."""
    depth = 1 + max(int(name.split(".")[1]) for name in names if name.startswith("blocks."))
    count = 1 + max(int(name.split(".")[1]) for name in names if name.startswith("norms."))
    if (depth, count) == (48, 4):
        return 11, 23, 37, 47  # the published one is not even
    return tuple(depth * (i + 1) // count - 1 for i in range(count))


def _probe_config(names: Mapping[str, torch.Size], width: int, heads: int, eps: float) -> Attentive:
    """An attentive probe; those of the published widths have 16 heads, whatever the encoder has."""
    blocks = [int(name.split(".")[2]) for name in names if name.startswith("attentive.blocks.")]
    ratio = names["attentive.cross.mlp.0.weight"][0] / width
    return Attentive(
        heads=PROBE_HEADS if width in HEADS else heads, depth=2 + max(blocks, default=-1), mlp_ratio=ratio, eps=eps
    )
