"""TimeSformer: a ViT whose blocks attend over time and over space in turn; the backbone of ATA.

Source: G. Bertasius, H. Wang, L. Torresani, "Is Space-Time Attention All You Need for Video Understanding?", ICML 2021,
§3 (divided space-time attention) and its public implementation; with ATA: Y. Zhao et al., "Alignment-guided Temporal
Attention for Video Action Recognition", NeurIPS 2022.

A block on patch tokens ``p`` (B, T, N, C) and one class token ``c`` (B, 1, C) for the whole clip::

    p' = p + temporal_fc( MHSA_T( norm(p) ) )            over the T frames at each position, or along routes
    s_t = MHSA_S( norm1([c ; p'_t]) )                    over the 1 + N tokens of each frame, c seen by all
    c' = c + mean_t s_t[0] ;  p'' = p' + s_t[1:]
    [c' ; p''] += MLP( norm2([c' ; p'']) )

The class token mixes the frames in every block, so without temporal attention (``averaging``) this is not an image ViT
averaged over frames, unless the clip stands still.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import Annotated, Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from gesta.config import Between, Count, CountOrZero, Positive, config, unless
from gesta.cost import is_counting
from gesta.errors import GestaError
from gesta.layers.init import Standardise, init_small
from gesta.layers.mlp import mlp
from gesta.layers.resize import resize_line, resize_map
from gesta.layers.temporal import TemporalBranch
from gesta.model import AroundConfig, Classifier, ClipSpec, Grid, ModelConfig, VideoModel, drop_path_rates
from gesta.plugins.ata import ATA

EPS = 1e-6  # of all layer norms


@config
class TimeSformerConfig(ModelConfig):
    """Sizes of a TimeSformer, and how it models time.

    Attributes:
        width: channels.
        depth: number of blocks.
        heads: attention heads.
        mlp_ratio: hidden width of the MLPs / width.
        patch: side of the square patches, in pixels.
        temporal: ``attention`` over time before that over space (divided space-time attention), ``joint`` attention
            over all tokens of the clip at once, or ``averaging``: no temporal attention, frames meet in the
            class token only.
        readout: what is classified: the class token (TimeSformer), or the ``mean`` of all patches of all frames (ATA's
            row "averaging").
        around: what finds the routes of temporal attention, e.g. ``ATA()``; None for fixed positions.
        ata_blocks: the blocks that get it; None for all.
        align_every: of so many consecutive ones of these blocks the first finds routes, the others keep them.
        temporal_cls: let every route attend to the class token too (its own result is dropped).
        temporal_post_norm: a second layer norm in the temporal branch; with ``temporal_cls`` this costs what ATA's
            paper prints, see :func:`ata_vitb_costmatched`.
        small_init: our addition for narrow models and few videos, see :mod:`gesta.layers.init`; the time
            embedding and the temporal attention start random, not at zero, unless weights are given.
    """

    width: Count = 768
    depth: Count = 12
    heads: Count = 12
    mlp_ratio: Positive = 4.0
    patch: Count = 16
    temporal: Literal["attention", "joint", "averaging"] = "attention"
    readout: Literal["class_token", "mean"] = "class_token"
    around: AroundConfig | None = None
    ata_blocks: tuple[CountOrZero, ...] | None = None
    align_every: Count = 1
    temporal_cls: bool = False
    temporal_post_norm: bool = False
    small_init: bool = False
    drop_path: Annotated[float, Between(0, 1, open="high")] = 0.1
    clip: ClipSpec = field(default_factory=lambda: ClipSpec(frames=8, stride=32, size=224))

    def unused(self) -> Iterator[tuple[str, str]]:
        attends = self.temporal == "attention"
        yield from unless(attends, "temporal='attention'", "around", "temporal_cls", "temporal_post_norm")
        yield from unless(attends and self.around is not None, "around", "ata_blocks", "align_every")

    def build(self) -> TimeSformer:
        return TimeSformer(self)


def timesformer_b() -> TimeSformerConfig:
    """TimeSformer, ViT-B/16, on 8 frames of 224 × 224, every 32nd frame (the public model)."""
    return TimeSformerConfig()


def timesformer_l() -> TimeSformerConfig:
    """TimeSformer-L (long, not large): ViT-B/16 on 96 frames, every fourth frame."""
    config = timesformer_b()
    config.clip.frames, config.clip.stride = 96, 4
    return config


def ata_vitb() -> TimeSformerConfig:
    """TimeSformer with ATA in every block; it has TimeSformer's parameters and loads its checkpoints."""
    config = timesformer_b()
    config.around = ATA()
    return config


def ata_vitb_costmatched() -> TimeSformerConfig:
    """TimeSformer with ATA, the class token in temporal attention and a second layer norm: the FLOPs of ATA's paper."""
    config = ata_vitb()
    config.temporal_cls = config.temporal_post_norm = True
    return config


def timesformer_tiny() -> TimeSformerConfig:
    """Four narrow blocks for CPUs: 8 frames of 64 × 64, every fourth frame, patches of 8 × 8."""
    return TimeSformerConfig(
        width=64,
        depth=4,
        heads=2,
        patch=8,
        small_init=True,
        drop_path=0.0,
        clip=ClipSpec(frames=8, stride=4, size=64),
    )


def ata_timesformer_tiny() -> TimeSformerConfig:
    """The TimeSformer for CPUs with ATA in every block."""
    config = timesformer_tiny()
    config.around = ATA()
    return config


class State(NamedTuple):
    """What passes from block to block.

    Attributes:
        tokens: ``(B, 1 + T·H·W, C)``, the class token first, then t-major.
        size: (T, H, W), ints.
        routes: those that an earlier block found, while later blocks reuse them, see ``align_every``.
        positions: what the stem has added to the patches for their position and time, ``(1, T, H, W, C)``; None where
            no block asks for it.
    """

    tokens: Tensor
    size: tuple[int, int, int]
    routes: Tensor | None = None
    positions: Tensor | None = None


class Attention(nn.Module):
    """Multi-head self-attention over ``(B, N, C)``."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """``(B, N, C)`` to the same shape."""
        q, k, v = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention over time, attention over space, MLP, each with a residual connection.

    Args:
        config: sizes.
        drop_path: probability of leaving a branch out in training: for a route in time, for a frame in space, for a
            clip in the MLP, as in the public implementation.
        around: what finds the routes of this block's temporal attention; None for fixed positions.
        route_mode: ``find`` routes for this block only, find them and ``pass`` them on, or ``keep`` those passed on.
    """

    def __init__(
        self,
        config: TimeSformerConfig,
        drop_path: float,
        around: AroundConfig | None,
        route_mode: Literal["find", "pass", "keep"],
    ) -> None:
        super().__init__()
        self.joint = config.temporal == "joint"
        self.with_class_token = config.temporal_cls
        self.route_mode = route_mode
        self.temporal = None
        if config.temporal == "attention":
            self.temporal = TemporalBranch(
                config.width,
                config.heads,
                post_norm=config.temporal_post_norm,
                drop_path=drop_path,
                around=around,
                eps=EPS,
            )
        self.norm1 = nn.LayerNorm(config.width, eps=EPS)
        self.attn = Attention(config.width, config.heads)
        self.norm2 = nn.LayerNorm(config.width, eps=EPS)
        self.mlp = mlp(config.width, config.mlp_ratio)
        self.drop_path = DropPath(drop_path)

    def forward(self, state: State) -> State:
        tokens, size, routes, positions = state
        if self.joint:
            tokens = tokens + self.drop_path(self.attn(self.norm1(tokens)))
        else:
            class_token, patches = tokens[:, :1], tokens[:, 1:].unflatten(1, size)
            if self.temporal is not None:
                known = routes if self.route_mode == "keep" else None
                token = class_token if self.with_class_token else None
                patches, new_routes = self.temporal(patches, token, known, positions)
                routes = new_routes if self.route_mode == "pass" else routes
            tokens = self._attend_in_frames(class_token, patches.flatten(2, 3))
        tokens = tokens + self.drop_path(self.mlp(self.norm2(tokens)))
        return State(tokens, size, routes, positions)

    def _attend_in_frames(self, class_token: Tensor, patches: Tensor) -> Tensor:
        """Attention over each frame and the class token: ``(B, 1, C)``, ``(B, T, N, C)`` to ``(B, 1 + T·N, C)``."""
        frames = torch.cat([class_token[:, None].expand(-1, patches.shape[1], -1, -1), patches], 2)
        result = self.drop_path(self.attn(self.norm1(frames.flatten(0, 1)))).view(frames.shape)
        class_token = class_token + result[:, :, 0].mean(1, keepdim=True)
        return torch.cat([class_token, (patches + result[:, :, 1:]).flatten(1, 2)], 1)


class TimeSformer(VideoModel):
    """TimeSformer. Clips of another length or size than configured get their embeddings by nearest neighbour."""

    config: TimeSformerConfig
    variants = ("temporal",)

    def __init__(self, config: TimeSformerConfig) -> None:
        super().__init__(config)
        width, per_side = config.width, config.clip.size // config.patch  # patches per side of a frame
        if config.clip.size % config.patch:
            raise GestaError(
                f"patches of {config.patch} pixels do not tile a clip of {config.clip.size} pixels; give another size"
            )
        if width % config.heads:
            raise GestaError(f"attention of {config.heads} heads needs a width that is divisible by {config.heads}, "
                             f"not {width}")  # fmt: skip
        aligned = range(config.depth) if config.ata_blocks is None else sorted(set(config.ata_blocks))
        if not aligned:
            raise GestaError("ata_blocks is empty, so `around` is in no block: leave `around` out, or name blocks")
        if not 0 <= min(aligned) <= max(aligned) < config.depth:
            raise GestaError(f"ata_blocks {tuple(aligned)}: the model has blocks 0 to {config.depth - 1}")
        if config.around is not None:
            config.around.check_map(per_side, per_side)
        self.patch_embed = nn.Conv2d(3, width, config.patch, config.patch)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + per_side * per_side, width))
        self.time_embed = nn.Parameter(torch.zeros(1, config.clip.frames, width))
        self.blocks = nn.ModuleList()
        for i, rate in enumerate(drop_path_rates(config.drop_path, config.depth)):
            around = config.around if i in aligned else None
            route_mode: Literal["find", "pass", "keep"] = "find"
            if around is not None and config.align_every > 1:
                route_mode = "keep" if list(aligned).index(i) % config.align_every else "pass"
            self.blocks.append(Block(config, rate, around, route_mode))
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.standardise = Standardise(width) if config.small_init else nn.Identity()
        self.classifier = Classifier(width, config.classes, config.dropout)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        if config.small_init:
            init_small(self)
            # pos_embed keeps the public std of 0.02: larger embeddings would dominate ATA's similarity
            nn.init.trunc_normal_(self.time_embed, std=0.3)
        for module in self.modules():
            if isinstance(module, TemporalBranch) and not config.small_init:
                # in every block, as the public code: its test i > 0 skips only the ModuleList
                nn.init.zeros_(module.fc.weight)
        self.finish()

    def stem(self, video: Tensor) -> State:
        """Patches of every frame with the embeddings of their position and frame, and one class token."""
        batch, _, frames = video.shape[:3]
        feature_map = self.patch_embed(video.transpose(1, 2).flatten(0, 1))
        height, width = feature_map.shape[2:]
        positions: Tensor = self.pos_embed[:, 1:]
        if height * width != positions.shape[1]:
            per_side = int(positions.shape[1] ** 0.5)
            positions = positions.transpose(1, 2).unflatten(2, (per_side, per_side))
            positions = resize_map(positions, (height, width)).flatten(2).mT
        times = resize_line(self.time_embed, frames)
        patches = feature_map.flatten(2).mT.unflatten(0, (batch, frames)) + positions[:, None] + times[:, :, None]
        class_token = (self.cls_token + self.pos_embed[:, :1]).expand(batch, -1, -1)
        tokens, size = torch.cat([class_token, patches.flatten(1, 2)], 1), (frames, height, width)
        if self.config.around is None or not self.config.around.needs_positions:
            return State(tokens, size)
        return State(tokens, size, positions=(positions[:, None] + times[:, :, None]).unflatten(2, size[1:]))

    def pool(self, state: State) -> Tensor:
        """The class token, normalised, or the mean of the normalised patches."""
        if self.config.readout == "mean":
            return self.standardise(self.norm(state.tokens)[:, 1:].mean(1))
        tokens = state.tokens if is_counting() else state.tokens[:, :1]  # papers count the norm of all tokens
        return self.standardise(self.norm(tokens)[:, 0])

    def to_grid(self, state: State) -> Tensor:
        return state.tokens[:, 1:].unflatten(1, state.size).permute(0, 4, 1, 2, 3)

    def from_grid(self, grid: Tensor, state: State) -> State:
        tokens = torch.cat([state.tokens[:, :1], grid.permute(0, 2, 3, 4, 1).flatten(1, 3)], 1)
        return state._replace(tokens=tokens)

    def scale_token(self, state: State, factor: int) -> State:
        """Tokens, and with them the embeddings that are in them; weights of routes stay as they are."""
        positions = None if state.positions is None else state.positions * factor
        return state._replace(tokens=state.tokens * factor, positions=positions)

    def grid_at(self, block: int) -> Grid:
        clip, per_side = self.config.clip, self.config.clip.size // self.config.patch
        return self.config.width, clip.frames, per_side, per_side

    def no_weight_decay(self) -> set[str]:
        return {"cls_token", "pos_embed", "time_embed"}

    def convert_foreign(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename the weights of the public TimeSformer checkpoints, in their own names or those of ``transformers``,
        and of timm's image ViTs to ours.

        An image ViT has no temporal attention: it starts as a copy of the spatial one, behind a last layer of zeros.
        The public model of joint attention is told from one without attention over time by its time embedding, with a
        warning where it becomes something else. Embeddings made for another clip size are resized by nearest
        neighbour, with a warning.
        """
        renamed: dict[str, Tensor] = {}
        for name, value in weights.items():
            name = name.removeprefix("module.").removeprefix("model.")
            for pattern, ours in _FOREIGN:
                name = re.sub(pattern, ours, name)
            renamed[name] = value
        has_temporal = any(".temporal." in name for name in renamed)
        is_public = any(
            ".mlp.fc1." in name or ".intermediate." in name for name in weights
        )  # ours of ``averaging`` have a time embedding, too
        if is_public and "time_embed" in renamed and not has_temporal and self.config.temporal != "joint":
            warnings.warn(
                "these weights have a time embedding and no temporal attention, as joint attention: use "
                f"temporal='joint' (--model.temporal joint), not {self.config.temporal!r}",
                stacklevel=2,
            )
        if self.config.temporal == "attention" and not has_temporal:
            for name in list(renamed):
                for spatial, temporal in ((".norm1.", ".temporal.norm."), (".attn.", ".temporal.")):
                    if spatial in name:
                        renamed[name.replace(spatial, temporal)] = renamed[name].clone()
        for name in ("time_embed", "pos_embed"):
            table, count = renamed.get(name), self.get_parameter(name).shape[1]
            if table is None or table.dim() != 3 or table.shape[1] == count:
                continue
            warnings.warn(f"{name} was made for another clip and is resized to {count} vectors", stacklevel=2)
            if name == "time_embed":
                renamed[name] = resize_line(table, count)
            else:
                old, new = (int((n - 1) ** 0.5) for n in (table.shape[1], count))
                positions = resize_map(table[:, 1:].mT.unflatten(2, (old, old)), (new, new))
                renamed[name] = torch.cat([table[:, :1], positions.flatten(2).mT], 1)
        return renamed


_FOREIGN: tuple[tuple[str, str], ...] = (
    # transformers
    (r"^timesformer\.", ""),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed."),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.time_embeddings$", "time_embed"),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^layernorm\.", "norm."),
    (r"^encoder\.layer\.", "blocks."),
    (r"\.temporal_layernorm\.", ".temporal.norm."),
    (r"\.temporal_attention\.attention\.", ".temporal."),
    (r"\.temporal_attention\.output\.dense\.", ".temporal.proj."),
    (r"\.temporal_dense\.", ".temporal.fc."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.attention\.", ".attn."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.0."),
    (r"\.output\.dense\.", ".mlp.2."),
    (r"^classifier\.(weight|bias)$", r"classifier.linear.\1"),
    # the public code, and timm
    (r"^patch_embed\.proj\.", "patch_embed."),
    (r"\.temporal_norm1\.", ".temporal.norm."),
    (r"\.temporal_attn\.", ".temporal."),
    (r"\.temporal_fc\.", ".temporal.fc."),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.2."),
    (r"^head\.", "classifier.linear."),
)
"""Patterns of public names, and what replaces them here."""


# --- public weights --------------------------------------------------------------------------------------------------


def from_public(config: Mapping[str, Any] | None, shapes: Mapping[str, torch.Size]) -> TimeSformerConfig | None:
    """The configuration that fits public weights, in the original names or those of transformers; None if they are not
    those of a TimeSformer.

    Shapes tell all but the heads, which are those of the config.json beside the weights, or 64 channels wide, as in
    ViT. Neither tells the sampling: that of the public models is taken (8 frames of Kinetics 32 apart, 16 of them 16
    apart, 96 of them 4 apart; for the 174 classes of Something-Something uniform).

    Args:
        config: the config.json beside them (transformers'), if there is one.
        shapes: name → shape of the public tensors.

    Raises:
        GestaError: another eps, activation or bias than the public models have.
    """

    def shape(pattern: str) -> torch.Size | None:
        return next(
            (value for name, value in shapes.items() if re.fullmatch(rf"(timesformer\.)?({pattern})", name)), None
        )

    times = shape(r"time_embed|embeddings\.time_embeddings")
    positions = shape(r"pos_embed|embeddings\.position_embeddings")
    patches = shape(r"patch_embed\.proj\.weight|embeddings\.patch_embeddings\.projection\.weight")
    hidden = shape(r"blocks\.0\.mlp\.fc1\.weight|encoder\.layer\.0\.intermediate\.dense\.weight")
    if not (times and positions and patches and hidden) or len(patches) != 4:
        return None
    config = config or {}
    for name, known in {"layer_norm_eps": EPS, "hidden_act": "gelu", "qkv_bias": True}.items():
        if config.get(name, known) != known:
            raise GestaError(f"config.json: {name} is {config[name]}, and gesta's TimeSformer has {known} only")
    width, patch, frames = patches[0], patches[2], times[1]
    temporal = any(re.search(r"\.temporal_(attn|attention)\.", name) for name in shapes)
    classes = shape(r"(head|classifier)\.weight")
    count = classes[0] if classes else 0
    return TimeSformerConfig(
        classes=count,
        width=width,
        depth=len({m[1] for name in shapes if (m := re.search(r"(?:blocks|encoder\.layer)\.(\d+)\.", name))}),
        heads=config.get("num_attention_heads") or max(1, width // 64),
        mlp_ratio=hidden[0] / width,
        patch=patch,
        temporal="attention" if temporal else "joint" if _is_joint(config) else "averaging",
        clip=ClipSpec(
            frames=frames,
            sampling="uniform" if count == 174 else "dense",
            stride=4 if count == 174 else _STRIDES.get(frames, 4),
            size=patch * math.isqrt(positions[1] - 1),
        ),
    )


def _is_joint(config: Mapping[str, Any]) -> bool:
    """Whether weights without temporal attention attend to all frames at once; only then they have a time embedding."""
    return config.get("attention_type", "joint_space_time") == "joint_space_time"


_STRIDES = {8: 32, 16: 16, 96: 4}
"""Frames of a clip → their distance, in the public models."""
