"""RPE-STDT: a ViT with relative positions on every frame, then a light Transformer over the frames that drops half.

Source: Y. Ma and R. Wang, "Relative-position embedding based spatially and temporally decoupled Transformer for action
recognition", Pattern Recognition 145, 109905, 2024 (chapter 3 of Y. Ma's thesis, whose equations are cited here).
Relative positions are iRPE's (:mod:`gesta.layers.rpe`), the rule by which frames are dropped is VidTr's (Y. Zhang et
al., ICCV 2021), sizes of the temporal encoder are De+Recouple's. No code of the paper is public.

``(B, 3, T, H, W)`` goes through::

    spatial block, each frame alone     x += attention(norm1(x))          Eq. 3.7;  x += mlp(norm2(x))
    after the last of them              h_t = norm(x)[class token]        a vector per frame, with a class token of time
    temporal block, all frames          A = softmax(e);  rows of A with the largest deviation stay          Eq. 3.12
                                        x = x[those] + A[those] V;  x += mlp(norm2(x))
    classifier                          norm(x)[class token of time]

The grid of the state is that of the patches, and ``(C, T', 1, 1)`` behind the last spatial block. There only the class
token is read, so that block computes nothing else (except while costs are counted as the paper
writes them). Its relative positions then have no effect: a class token is equally far from everything.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from math import isqrt, log, prod
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
from gesta.layers.resize import resize_line
from gesta.layers.rpe import Attention, Bucket, Method, On, bucket_map, line_map, reach, rows
from gesta.model import Classifier, ClipSpec, Grid, ModelConfig, VideoModel, drop_path_rates, hooked

EPS = 1e-6  # of all layer norms
Place = Literal["before", "inside", "after"]
"""Where in a temporal block frames are halved."""
UNIT = 64
"""Positions of frames are counted in 64ths of a frame, whole numbers: means of two frames of means of two and so on."""


@config
class RPESTDTConfig(ModelConfig):
    """Sizes of an RPE-STDT, and the switches of its paper's tables.

    Attributes:
        width: C.
        depth: spatial blocks.
        heads: of spatial attention.
        mlp_ratio: hidden width of the spatial MLPs, in widths.
        patch: edge of the square patches in pixels.
        stem: our addition for small models trained from scratch: channels of 3 × 3 convolutions of stride 2 before the
            patches, each with batch norm and ReLU. Patches then are of their map and cover as many pixels as before.
        relative: relative positions in spatial attention.
        absolute: position embeddings of the patches: a learnt table for all frames (``frame``, as ViT's) or one per
            frame (``clip``), fixed sinusoids, or none.
        bucket: how distances share buckets.
        method: buckets along both axes, or of the distance.
        ratio: where sharing begins, in patches; sets the number of clusters, see :mod:`gesta.layers.rpe`.
        shared: one table of relative positions for all heads.
        rpe_on: what relative positions are multiplied by.
        temporal_depth: temporal blocks; 0 averages the frames' scores.
        temporal_heads: of temporal attention.
        temporal_head_width: channels of one.
        temporal_hidden: hidden width of the temporal MLPs.
        temporal_qkv_bias: of the layers that make queries, keys and values there.
        temporal_dropout: behind temporal attention and in the temporal MLPs.
        temporal_pos: relative positions of the original frames, a learnt table, or none, which sees no order.
        subsample: how frames are halved: those whose attention deviates most stay (``topk``), the maximum or the mean
            of neighbours, or a convolution of stride 2.
        subsample_layers: temporal layers that do it.
        subsample_mode: layers are counted from 0 and halve inside (``topk``) or before attention, or they are counted
            from 1 and halve when all is done; 0 is then before the first, by the attention that it would have paid.
        topk_score: deviation of attention weights (VidTr's code), or of what is before their softmax (the text under
            Eq. 3.12).
        topk_terms: deviation over a row's T + 1 weights (VidTr's code), or over those of the T frames, without the
            class token's (the sum of Eq. 3.13).
        topk_again: a second softmax over the rows that stay (VidTr's code).
        topk_per_head: each head chooses its own frames (VidTr's code) instead of all by their mean deviation, as Eq.
            3.13 has it. Of a shortcut's channels, in as many groups as heads, each group comes from the frames of its
            head, as in that code. So what stays is no frame of the clip but parts of several, which lie in the middle
            of them: a decision of ours, since VidTr has no positions there.
        small_init: our addition for narrow models and few videos, see :mod:`gesta.layers.init`.
    """

    width: Count = 768
    depth: Count = 12
    heads: Count = 12
    mlp_ratio: Positive = 4.0
    patch: Count = 16
    stem: tuple[Count, ...] = ()
    relative: bool = True
    absolute: Literal["none", "frame", "clip", "sinusoid"] = "none"
    bucket: Bucket = "sectioned"
    method: Method = "product"
    ratio: Positive = 1.9
    shared: bool = True
    rpe_on: On = "q"
    temporal_depth: CountOrZero = 4
    temporal_heads: Count = 8
    temporal_head_width: Count = 64
    temporal_hidden: Count = 768
    temporal_qkv_bias: bool = False
    temporal_dropout: Annotated[float, Between(0, 1, open="high")] = 0.0
    temporal_pos: Literal["rpe", "abs", "none"] = "rpe"
    subsample: Literal["topk", "max", "avg", "conv1d", "none"] = "topk"
    subsample_layers: tuple[CountOrZero, ...] = (1, 3)
    subsample_mode: Literal["inside", "after"] = "inside"
    topk_score: Literal["post", "logits"] = "post"
    topk_terms: Literal["all", "frames"] = "all"
    topk_again: bool = False
    topk_per_head: bool = False
    small_init: bool = False
    clip: ClipSpec = field(
        default_factory=lambda: ClipSpec(
            frames=16, sampling="uniform", size=224, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
        )
    )

    def contradictions(self) -> Iterator[tuple[str, str]]:
        yield from ModelConfig.contradictions(self)
        after = self.subsample_mode == "after"
        last = self.temporal_depth - 1 + after
        # of the last block only the class token is read: what is dropped there, or after it, is missed by nobody
        misses = {last} if after or self.subsample == "topk" else set()
        if self.temporal_depth and self.subsample != "none" and set(self.subsample_layers) <= misses:
            yield (
                "subsample_layers",
                f"and no frame that is dropped there would have been read: name a layer below {last}, or say "
                "subsample='none'",
            )

    def unused(self) -> Iterator[tuple[str, str]]:
        temporal = self.temporal_depth > 0
        yield from unless(temporal, "temporal_depth", *(
            "temporal_heads", "temporal_head_width", "temporal_hidden", "temporal_qkv_bias", "temporal_dropout",
            "temporal_pos",
        ))  # fmt: skip
        yield from unless(temporal or self.subsample == "none", "temporal_depth", "subsample")
        halves = temporal and self.subsample != "none"
        yield from unless(halves, "subsample", "subsample_layers")
        # the maximum or mean before a block is that after the block before it
        yield from unless(
            halves and self.subsample not in ("max", "avg"), "subsample='topk' or 'conv1d'", "subsample_mode"
        )
        top_k = halves and self.subsample == "topk"
        yield from unless(top_k, "subsample='topk'", "topk_score", "topk_terms")
        yield from unless(top_k and self.temporal_heads > 1, "subsample='topk' of several heads", "topk_per_head")
        yield from unless(top_k and self.subsample_mode == "inside", "subsample_mode='inside'", "topk_again")
        relative = self.relative or (temporal and self.temporal_pos == "rpe")
        yield from unless(relative, "relative positions", "bucket", "ratio", "shared", "rpe_on")
        yield from unless(self.relative, "relative", "method")

    def build(self) -> RPESTDT:
        return RPESTDT(self)


def rpe_stdt_b12() -> RPESTDTConfig:
    """RPE-STDT, 12 spatial blocks of ViT-B/16, on 16 frames of 224 × 224: the paper's cost, and our default."""
    return RPESTDTConfig()


def rpe_stdt_b8() -> RPESTDTConfig:
    """RPE-STDT with the 8 spatial blocks that the paper's text says."""
    return RPESTDTConfig(depth=8)


def vit_spatial() -> RPESTDTConfig:
    """RPE-STDT's baseline, ViT-B/16 on every frame, scores averaged (Table 3.3)."""
    return RPESTDTConfig(relative=False, absolute="frame", temporal_depth=0, subsample="none")


def stdt() -> RPESTDTConfig:
    """RPE-STDT's baseline without relative positions and without dropping frames (Table 3.5)."""
    return RPESTDTConfig(relative=False, absolute="frame", temporal_pos="abs", subsample="none")


def stdt_topk() -> RPESTDTConfig:
    """RPE-STDT's baseline that drops frames (Table 3.5)."""
    return RPESTDTConfig(relative=False, absolute="frame", temporal_pos="abs")


def rpe_stdt_tiny() -> RPESTDTConfig:
    """Two and four narrow blocks for CPUs: 8 frames of 64 × 64, every fourth frame, patches of 8 × 8.

    Like the large ones it needs an encoder of single frames to start from: train one with ``temporal_depth=0`` and
    ``subsample="none"``, then load its weights.
    """
    return RPESTDTConfig(
        width=64,
        depth=2,
        heads=2,
        patch=8,
        stem=(24, 48),
        temporal_heads=2,
        temporal_head_width=32,
        temporal_hidden=128,
        small_init=True,
        clip=ClipSpec(frames=8, stride=4, size=64),
    )


class State(NamedTuple):
    """What goes from block to block.

    Attributes:
        tokens: ``(B·T, 1 + H·W, C)`` in spatial blocks, ``(B, [1 +] T', C)`` behind them; class token first.
        size: T, H, W, plain numbers; T', 1, 1 behind spatial blocks.
        ids: cluster of every pair of tokens of a frame, ``(1 + H·W, 1 + H·W)``, in spatial blocks with relative
            positions.
        positions: original positions of the frames that are left, ``(B, T')`` in 64ths, behind spatial blocks.
    """

    tokens: Tensor
    size: tuple[int, int, int]
    ids: Tensor | None = None
    positions: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Kept:
    """Which frames a temporal block kept.

    Attributes:
        block: its number in the model.
        frames: original positions of the frames that entered, ``(B, T')``, in frames of the clip.
        deviation: σ of each (Eq. 3.13), ``(B, T')``, or ``(B, heads, T')`` where each head chooses.
        kept: which of them stayed, ``(B, K)`` or ``(B, heads, K)``, indices into the frames, ascending.
        matters: whether scores depend on it; after the last attention only the class token is read.
    """

    block: int
    frames: Tensor
    deviation: Tensor
    kept: Tensor
    matters: bool


def deviation(attention: Tensor, per_head: bool = False, frames_only: bool = False) -> Tensor:
    """σ of every frame's row of an attention over time, mean of the heads (Eq. 3.13) or of each: ``(B, h, 1 + T,
    1 + T)`` to ``(B, T)`` or ``(B, h, T)``; over the whole row or, ``frames_only``, without the class token's weight.
    The paper's factor outside the root changes no ranking; this is the unbiased one of VidTr's code."""
    rows = attention[:, :, 1:, 1:] if frames_only else attention[:, :, 1:]
    deviations = rows.std(3, correction=min(1, rows.shape[3] - 1))
    return deviations if per_head else deviations.mean(1)


def select(score: Tensor) -> Tensor:
    """Half of the frames, those of the largest score, in their order: ``(…, T)`` to ``(…, max(T // 2, 1))``."""
    count = max(score.shape[-1] // 2, 1)
    if torch.compiler.is_exporting():  # ONNX has no stable sort, but its TopK takes the earlier of equal ones, too
        return score.detach().topk(count).indices.sort().values
    return score.detach().sort(descending=True, stable=True).indices[..., :count].sort().values


class Collect(nn.Module):
    """From the patches of frames to a vector per frame and, for a temporal encoder, its class token and embeddings."""

    def __init__(self, config: RPESTDTConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.width, eps=EPS)
        self.cls_token: nn.Parameter | None = None
        self.pos_embed: nn.Parameter | None = None
        if config.temporal_depth:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
            if config.temporal_pos == "abs":
                self.pos_embed = nn.Parameter(torch.empty(1, 1 + config.clip.frames, config.width))

    def forward(self, tokens: Tensor, frames: int) -> State:
        """``(B·T, N, C)``, the class token first."""
        tokens = tokens if is_counting() else tokens[:, :1]  # costs are counted with the norm of all tokens
        vectors = self.norm(tokens)[:, 0].unflatten(0, (-1, frames))
        positions = UNIT * torch.arange(frames, device=vectors.device).expand(vectors.shape[0], -1)
        if self.cls_token is not None:
            vectors = torch.cat([self.cls_token.to(vectors.dtype).expand(vectors.shape[0], -1, -1), vectors], 1)
        if self.pos_embed is not None:
            vectors = vectors + resize_line(self.pos_embed, 1 + frames)
        return State(vectors, (frames, 1, 1), positions=positions)


class SpatialBlock(nn.Module):
    """Attention within each frame and an MLP, each with a shortcut.

    Args:
        config: sizes.
        drop_path: probability of leaving a branch out for a frame in training.
        last: read the frames out afterwards; only their class tokens are computed.
    """

    def __init__(self, config: RPESTDTConfig, drop_path: float, last: bool) -> None:
        super().__init__()
        width = config.width
        clusters = rows(config.ratio, config.method) if config.relative else 0
        self.norm1 = nn.LayerNorm(width, eps=EPS)
        self.attn = Attention(
            *(width, config.heads, width // config.heads),
            clusters=clusters,
            on=config.rpe_on,
            shared=config.shared,
        )
        self.norm2 = nn.LayerNorm(width, eps=EPS)
        self.mlp = mlp(width, config.mlp_ratio)
        self.drop_path = DropPath(drop_path)
        self.collect = Collect(config) if last else None
        self.class_only = last

    def forward(self, state: State) -> State:
        tokens, size, ids, _ = state
        class_only = self.class_only and not is_counting()
        result = self.attn(self.norm1(tokens), ids, class_only)
        tokens = (tokens[:, :1] if class_only else tokens) + self.drop_path(result)
        tokens = tokens + self.drop_path(self.mlp(self.norm2(tokens)))
        return State(tokens, size, ids) if self.collect is None else self.collect(tokens, size[0])


class TemporalBlock(nn.Module):
    """Attention over the frames and an MLP, each with a shortcut; it may halve the frames.

    Args:
        config: sizes.
        places: where frames are halved, in this order: ``before`` the block, ``inside`` attention (before it, if not
            by Top-K), ``after`` all.
        last: no attention follows.
    """

    def __init__(self, config: RPESTDTConfig, places: tuple[Place, ...], last: bool) -> None:
        super().__init__()
        width, dropout = config.width, config.temporal_dropout
        self.how = config.subsample if places else "none"
        self.places, self.last = places, last
        self.logits, self.again, self.per_head = config.topk_score == "logits", config.topk_again, config.topk_per_head
        self.frames_only = config.topk_terms == "frames"
        self.ratio, self.bucket = config.ratio, config.bucket
        self.relative = config.temporal_pos == "rpe"
        clusters = 2 * reach(config.ratio) + 2 if self.relative else 0
        convolves = self.how == "conv1d"
        self.conv_before = nn.Conv1d(width, width, 3, 2, padding=1) if convolves and "before" in places else None
        self.conv = nn.Conv1d(width, width, 3, 2, padding=1) if convolves and places[-1] != "before" else None
        self.norm1 = nn.LayerNorm(width, eps=EPS)
        self.attn = Attention(
            *(width, config.temporal_heads, config.temporal_head_width),
            bias=config.temporal_qkv_bias,
            clusters=clusters,
            on=config.rpe_on,
            shared=config.shared,
        )
        self.dropout = nn.Dropout(dropout)
        self.norm2 = nn.LayerNorm(width, eps=EPS)
        hidden = config.temporal_hidden
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width), nn.Dropout(dropout))

    def forward(self, state: State) -> State:
        tokens, _, _, positions = state
        assert positions is not None
        if "before" in self.places:
            tokens, positions = self.halve_before(tokens, positions)
        if "inside" in self.places and self.how != "topk":
            tokens, positions = self.merge(tokens, positions)
        ids, scores, v = self.attend(tokens, positions)
        weights = scores.softmax(3)
        kept = select(self.sigma(scores)) if self.how == "topk" and self.places[-1] != "before" else None
        if kept is not None and "inside" in self.places:
            tokens, positions = _keep(tokens, positions, kept)
            along = F.pad(kept + 1, (1, 0)).view(kept.shape[0], -1, 1 + kept.shape[-1], 1)  # and the class token
            along = along.expand(*weights.shape[:2], -1, weights.shape[3])
            weights = weights.gather(2, along)
            weights = weights.softmax(3) if self.again else weights
            ids = None if ids is None else ids[:, None].expand(*weights.shape[:2], -1, -1).gather(2, along)
        tokens = tokens + self.dropout(self.attn.mix(weights, v, ids))
        tokens = tokens + self.mlp(self.norm2(tokens))
        if "after" in self.places:
            if kept is not None:
                tokens, positions = _keep(tokens, positions, kept)
            else:
                tokens, positions = self.merge(tokens, positions)
        return State(tokens, (positions.shape[1], 1, 1), positions=positions)

    def attend(self, tokens: Tensor, positions: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        """Clusters of the pairs, scores before the softmax ``(B, heads, 1 + T, 1 + T)``, and values."""
        ids = line_map(positions / UNIT, self.ratio, self.bucket) if self.relative else None
        q, k, v = self.attn.project(self.norm1(tokens))
        return ids, self.attn.scores(q, k, ids), v

    def sigma(self, scores: Tensor) -> Tensor:
        """σ of every frame, by which Top-K chooses."""
        return deviation(scores if self.logits else scores.softmax(3), self.per_head, self.frames_only)

    def halve_before(self, tokens: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The frames that the block sees at all: by Top-K those of the attention that it would have paid to all."""
        if self.how != "topk":
            return self.merge(tokens, positions, self.conv_before)
        return _keep(tokens, positions, select(self.sigma(self.attend(tokens, positions)[1])))

    def merge(self, tokens: Tensor, positions: Tensor, conv: nn.Conv1d | None = None) -> tuple[Tensor, Tensor]:
        """Every two frames to one, the class token untouched; a single frame stays as it is.

        A merged frame lies in the middle of those it was made of; of a convolution, at the position of its middle tap.
        """
        grid = tokens[:, 1:].mT
        if grid.shape[2] == 1:
            return tokens, positions
        if (conv := conv or self.conv) is not None:
            grid, positions = conv(grid), positions[:, ::2]
        else:
            grid = F.max_pool1d(grid, 2) if self.how == "max" else F.avg_pool1d(grid, 2)
            pairs = positions[:, : 2 * grid.shape[2]].unflatten(1, (-1, 2))
            positions = pairs.sum(2) // 2
        return torch.cat([tokens[:, :1], grid.mT], 1), positions

    def halved(self, frames: int) -> int:
        """Frames that are left of so many."""
        for _ in self.places:
            frames = (frames + 1) // 2 if self.how == "conv1d" else max(frames // 2, 1)
        return frames


class RPESTDT(VideoModel):
    """RPE-STDT and its baselines. Clips of another length or size than configured are welcome."""

    config: RPESTDTConfig
    variants = ("relative", "rpe_on", "shared")

    def __init__(self, config: RPESTDTConfig) -> None:
        super().__init__(config)
        width, edge = config.width, config.clip.size // config.patch
        if config.clip.size % config.patch:
            raise GestaError(
                f"patches of {config.patch} pixels do not tile a clip of {config.clip.size} pixels; give another size"
            )
        if config.patch % 2 ** len(config.stem):
            raise GestaError(
                f"a stem of {len(config.stem)} convolutions halves the picture as often, and a patch of "
                f"{config.patch} pixels is not divisible by {2 ** len(config.stem)}"
            )
        if config.width % config.heads:
            raise GestaError(
                f"attention of {config.heads} heads needs a width that is divisible by {config.heads}, not {width}"
            )
        if config.topk_per_head and config.width % config.temporal_heads:
            raise GestaError(
                f"topk_per_head needs a width that {config.temporal_heads} temporal heads divide, not {config.width}"
            )
        in_time = config.temporal_depth > 0 and config.temporal_pos == "rpe"
        if (config.relative or in_time) and reach(config.ratio) < 1:
            raise GestaError(f"ratio={config.ratio} leaves one cluster; say 0.5 or more")
        places = self._halving(config)
        self.convolutions = nn.Sequential()
        for inputs, outputs in pairwise((3, *config.stem)):
            conv = nn.Conv2d(inputs, outputs, 3, 2, padding=1, bias=False)
            self.convolutions.extend((conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)))
        patch = config.patch >> len(config.stem)
        self.patch_embed = nn.Conv2d((3, *config.stem)[-1], width, patch, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed: nn.Parameter | None = None
        if config.absolute in ("frame", "clip"):
            frames = (config.clip.frames,) if config.absolute == "clip" else ()
            self.pos_embed = nn.Parameter(torch.empty(1, *frames, 1 + edge * edge, width))
        fixed = _sinusoids(1 + edge * edge, width) if config.absolute == "sinusoid" else None
        self.register_buffer("sinusoids", fixed, persistent=False)
        ids = self._map(edge, edge).clone() if config.relative else None
        self.register_buffer("ids", ids if ids is None else ids.to(self.cls_token.device), persistent=False)
        rates = drop_path_rates(config.drop_path, config.depth)
        self.spatial = nn.ModuleList(SpatialBlock(config, r, i == config.depth - 1) for i, r in enumerate(rates))
        self.temporal = nn.ModuleList(
            TemporalBlock(config, places.get(i, ()), i == config.temporal_depth - 1)
            for i in range(config.temporal_depth)
        )
        self.norm = nn.LayerNorm(width, eps=EPS) if config.temporal_depth else nn.Identity()
        self.standardise = Standardise(width) if config.small_init else nn.Identity()
        self.classifier = Classifier(width, config.classes, config.dropout)
        std = 0.3 if config.small_init else 0.02
        for name, parameter in self.named_parameters():
            if name.endswith("pos_embed"):
                nn.init.trunc_normal_(parameter, std=std)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if config.small_init:
            init_small(self)
            for name, parameter in self.named_parameters():
                if name.endswith(("cls_token", "rpe_q", "rpe_k", "rpe_v")):
                    nn.init.trunc_normal_(parameter, std=std)
        self.finish()

    @staticmethod
    def _halving(config: RPESTDTConfig) -> dict[int, tuple[Place, ...]]:
        """Which temporal blocks halve the frames, and where in them."""
        if config.subsample == "none" or not config.temporal_depth:
            return {}
        after = config.subsample_mode == "after"
        places: dict[int, tuple[Place, ...]] = {}
        for layer in sorted(set(config.subsample_layers)):
            if not 0 <= layer < config.temporal_depth + after:
                raise GestaError(
                    f"subsample_layers {config.subsample_layers}: with subsample_mode={config.subsample_mode!r} "
                    f"temporal layers are 0 to {config.temporal_depth - 1 + after}"
                )
            place: Place = "inside" if not after else "after" if layer else "before"
            block = max(layer - after, 0)
            places[block] = (*places.get(block, ()), place)
        return places

    @property
    def blocks(self) -> list[nn.Module]:  # type: ignore[override]
        """Spatial blocks, then temporal ones."""
        return [*self.spatial, *self.temporal]

    def stem(self, video: Tensor) -> State:
        """Patches of every frame behind a class token, with their embeddings if there are any."""
        frames = video.shape[2]
        grid = self.patch_embed(self.convolutions(video.transpose(1, 2).flatten(0, 1)))
        height, width = grid.shape[2:]
        patches = grid.flatten(2).mT
        tokens = torch.cat([self.cls_token.to(patches.dtype).expand(patches.shape[0], -1, -1), patches], 1)
        if self.pos_embed is not None:
            table: Tensor = self.pos_embed
            if table.dim() == 4:
                table = resize_line(table.flatten(2), frames).unflatten(2, table.shape[2:])[0]
                table = _of_size(table, height, width).repeat(tokens.shape[0] // frames, 1, 1)
            tokens = tokens + _of_size(table, height, width)
        elif (sinusoids := self._buffers["sinusoids"]) is not None:
            tokens = tokens + _of_size(sinusoids, height, width)
        ids = self._buffers["ids"]
        if ids is not None and len(ids) != tokens.shape[1]:
            ids = self._map(height, width).to(ids.device)
        return State(tokens, (frames, height, width), ids)

    def pool(self, state: State) -> Tensor:
        """The temporal class token, normalised; without a temporal encoder the mean of the frames."""
        if not self.config.temporal_depth:
            return self.standardise(state.tokens.mean(1))
        return self.standardise(self.norm(state.tokens)[:, 0])

    def to_grid(self, state: State) -> Tensor:
        tokens = state.tokens[:, _prefix(state) :]
        batch = tokens.shape[0] if state.positions is not None else tokens.shape[0] // state.size[0]
        return tokens.reshape(batch, *state.size, -1).permute(0, 4, 1, 2, 3)

    def from_grid(self, grid: Tensor, state: State) -> State:
        prefix = _prefix(state)
        tokens = grid.permute(0, 2, 3, 4, 1).reshape(state.tokens.shape[0], -1, grid.shape[1])
        return state._replace(tokens=torch.cat([state.tokens[:, :prefix], tokens], 1))

    def grid_at(self, block: int) -> Grid:
        clip, edge = self.config.clip, self.config.clip.size // self.config.patch
        if block < self.config.depth:
            return self.config.width, clip.frames, edge, edge
        frames = clip.frames
        for i in range(block - self.config.depth):
            frames = self.temporal[i].halved(frames)  # type: ignore[operator]
        return self.config.width, frames, 1, 1

    def no_weight_decay(self) -> set[str]:
        names = ("cls_token", "pos_embed", "rpe_q", "rpe_k", "rpe_v")
        return {name for name, _ in self.named_parameters() if name.rpartition(".")[2] in names}

    @torch.no_grad()
    def patch_attention(self, video: Tensor, block: int | None = None) -> Tensor:
        """How much each frame's class token attends to its patches, ``(B, heads, T, H, W)``.

        Args:
            video: normalised clips ``(B, 3, T, H, W)``.
            block: which spatial block, the last one by default.
        """
        count = len(self.spatial)
        block = count - 1 if block is None else block
        if not 0 <= block < count:
            raise GestaError(f"spatial blocks are 0 to {count - 1}, so there is no attention in block {block}")
        attention: list[Tensor] = []

        def note(module: Any, inputs: tuple[State]) -> None:
            tokens, size, ids, _ = inputs[0]
            q, k, _ = module.attn.project(module.norm1(tokens), first=True)
            weights = module.attn.scores(q, k, ids).softmax(3)[:, :, 0, 1:]
            attention.append(weights.reshape(-1, size[0], weights.shape[1], *size[1:]).transpose(1, 2))

        with hooked(pre={self.spatial[block]: note}):
            self._run(video, None)
        return attention[0]

    @torch.no_grad()
    def kept_frames(self, video: Tensor) -> list[Kept]:
        """Which frames the temporal blocks keep of clips ``(B, 3, T, H, W)``; nothing if they keep all or merge.

        Where each head chooses, the frames of later blocks lie in the middle of those that the heads kept.
        """
        kept: list[Kept] = []

        def note(block: int, module: Any, inputs: tuple[State]) -> None:
            tokens, positions = inputs[0].tokens, inputs[0].positions
            assert positions is not None
            for place in module.places:
                sigma = module.sigma(module.attend(tokens, positions)[1])
                matters = place == "before" or not module.last
                kept.append(Kept(block, positions / UNIT, sigma, select(sigma), matters))
                if place == "before":
                    tokens, positions = _keep(tokens, positions, kept[-1].kept)

        choosing = [(i, block) for i, block in enumerate(self.temporal, len(self.spatial)) if block.how == "topk"]
        with hooked(pre={block: partial(note, i) for i, block in choosing}):
            self._run(video, None)
        return kept

    def convert_foreign(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Names of timm's image ViTs, and of iRPE's DeiTs, to ours; a shallower encoder takes their first blocks.

        Without absolute positions the position embeddings are not used. Embeddings made for another size are resized,
        with a warning; those of an image serve every frame.
        """
        if not any(name.startswith("blocks.") for name in weights):
            return weights
        last = f"spatial.{self.config.depth - 1}.collect.norm."
        renamed: dict[str, Tensor] = {}
        for name, value in weights.items():
            block = re.match(r"blocks\.(\d+)\.", name)
            if block is None or int(block[1]) < self.config.depth:
                for pattern, ours in _FOREIGN:
                    name = re.sub(pattern, ours, name)
            renamed[re.sub(r"^norm\.", last, name)] = value
        table = renamed.get("pos_embed")
        if table is not None and self.pos_embed is not None and table.dim() == 3:
            count = self.pos_embed.shape[-2]
            if table.shape[1] != count:
                warnings.warn(f"pos_embed was made for another size and is resized to {count} vectors", stacklevel=2)
                table = _of_size(table, isqrt(count - 1), isqrt(count - 1))
            renamed["pos_embed"] = (
                table.unsqueeze(1).expand(self.pos_embed.shape) if self.pos_embed.dim() == 4 else table
            )
        return renamed

    def _map(self, height: int, width: int) -> Tensor:
        ids = bucket_map(height, width, self.config.ratio, self.config.bucket, self.config.method)
        if torch.compiler.is_compiling() or not ids.is_inference():
            return ids
        return ids.clone()  # it was first asked for in inference mode, and a training cannot keep it for its gradients


_FOREIGN: tuple[tuple[str, str], ...] = (
    (r"^patch_embed\.proj\.", "patch_embed."),
    (r"^blocks\.", "spatial."),
    (r"\.attn\.rpe_q\.lookup_table_weight$", ".attn.rpe_q_of_theirs"),
    (r"\.attn\.rpe_k\.lookup_table_weight$", ".attn.rpe_q"),  # named after what is at the other end
    (r"\.attn\.rpe_q_of_theirs$", ".attn.rpe_k"),
    (r"\.attn\.rpe_v\.lookup_table_weight$", ".attn.rpe_v"),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.2."),
    (r"^head\.", "classifier.linear."),
)
"""Patterns of public names, applied one after the other, and ours."""


def _prefix(state: State) -> int:
    """Class tokens in front."""
    count = prod(state.size) if state.positions is not None else prod(state.size[1:])
    return state.tokens.shape[1] - count


def _keep(tokens: Tensor, positions: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """The class token and the kept frames ``(B, K)`` of ``(B, 1 + T, C)``, and their positions; of ``(B, heads, K)``
    each group of channels from the frames of its head, in the middle of them."""
    heads = kept if kept.dim() == 3 else kept[:, None]
    groups = tokens.unflatten(2, (heads.shape[1], -1)).transpose(1, 2)
    along = F.pad(heads + 1, (1, 0))[..., None].expand(-1, -1, -1, groups.shape[3])
    by_head = positions[:, None].expand(-1, heads.shape[1], -1).gather(2, heads)
    return groups.gather(2, along).transpose(1, 2).flatten(2), by_head.sum(1) // heads.shape[1]


def _of_size(table: Tensor, height: int, width: int) -> Tensor:
    """``(…, 1 + N, C)`` embeddings of a class token and square patches for another grid, bicubic like timm's."""
    if table.shape[1] == 1 + height * width:
        return table
    edge = isqrt(table.shape[1] - 1)
    grid = table[:, 1:].mT.unflatten(2, (edge, edge)).float()
    grid = F.interpolate(grid, size=(height, width), mode="bicubic", antialias=True)
    return torch.cat([table[:, :1], grid.flatten(2).mT.to(table.dtype)], 1)


def _sinusoids(count: int, width: int) -> Tensor:
    """``(1, N, C)`` sines and cosines of the token's number (Vaswani et al. 2017, §3.5)."""
    rates = torch.exp(torch.arange(0, width, 2) * (-log(10000.0) / width))
    angles = torch.arange(count)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], 2).flatten(1)[None, :, :width]
