"""Learned fusion of any number of streams (RGB, depth, optical flow), each with a network of its own.

The networks run side by side and are trained together. Their features are fused in one of two ways:

- ``depth=0``: their pooled features, joined one after the other, go to one classifier (fusion of features);
- ``depth=n``: besides, the tokens of each stream attend to those of the others in n blocks of cross-attention (as the
  co-attention of Lu et al., ViLBERT, NeurIPS 2019, with the same weights for all streams), and their means are joined
  to the features.

Fusion of scores, of networks trained apart, is ``gesta fuse``. No tokens attend to a missing stream, its features are
0, and those of the others are scaled up. ``drop_stream`` leaves streams out of training clips, too, as ModDrop does
(Neverova et al., PAMI 2016), so that the classifier has been trained on such clips before the test.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import field
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gesta.config import Count, CountOrZero, Fraction, Positive, config, copy, replace, unless
from gesta.errors import GestaError
from gesta.layers.mlp import mlp
from gesta.model import Classifier, ClipSpec, Grid, ModelConfig, VideoModel
from gesta.models.mfst import mfst_large, mfst_tiny
from gesta.video.modality import Modality

ALL: tuple[Modality, ...] = ("rgb", "depth", "flow")


@config
class FusionConfig(ModelConfig):
    """Networks of any kind, one for each of ``clip.streams``.

    Classes, clips, stochastic depth and recomputation are those of the whole; what the networks say of them is not
    read. Plug-ins go into the networks (``trunks[i].inserts``) or before a block of the fusion (``inserts``).

    Attributes:
        trunks: the network of each stream, or one configuration for all of them; weights are never shared.
        depth: blocks of cross-attention between streams; 0 joins pooled features alone.
        width: channels of the tokens in them.
        heads: attention heads; they divide the width.
        mlp_ratio: hidden width of their MLPs / width.
        grid: frames, rows and columns of tokens into which each network's last feature map is averaged for them.
        drop_stream: fraction of training clips of which each stream is left out with probability one half; where none
            would be left, all stay.
    """

    trunks: list[ModelConfig] = field(default_factory=lambda: [mfst_large()])
    depth: CountOrZero = 2
    width: Count = 256
    heads: Count = 8
    mlp_ratio: Positive = 4.0
    grid: tuple[Count, Count, Count] = (4, 4, 4)
    drop_stream: Fraction = 0.0
    clip: ClipSpec = field(default_factory=lambda: replace(mfst_large().clip, streams=ALL))

    def unused(self) -> Iterator[tuple[str, str]]:
        yield from unless(self.depth > 0, "depth", "width", "heads", "mlp_ratio", "grid")

    def contradictions(self) -> Iterator[tuple[str, str]]:
        yield from ModelConfig.contradictions(self)
        if self.depth and self.width % self.heads:
            yield "heads", f"which does not divide the width {self.width}"
        if len(set(self.clip.streams)) < len(self.clip.streams):
            yield "clip.streams", "which names a stream twice"
        if len(self.trunks) not in (1, len(self.clip.streams)):
            yield "trunks", f"for the streams {', '.join(self.clip.streams) or 'none'}: give one each, or one for all"

    def build(self) -> Fusion:
        return Fusion(self)


def mfst_fusion() -> FusionConfig:
    """MFST-Large on RGB, depth and optical flow, fused by cross-attention."""
    trunk = mfst_large()
    return FusionConfig(trunks=[trunk, replace(trunk, cdc="t"), trunk])


def fusion_tiny() -> FusionConfig:
    """Three ``mfst_tiny`` on RGB, depth and optical flow, fused by cross-attention."""
    rgb = mfst_tiny()
    trunks: list[ModelConfig] = [rgb, replace(rgb, cdc="t"), rgb]
    return FusionConfig(trunks=trunks, width=64, heads=4, grid=(4, 2, 2), clip=replace(rgb.clip, streams=ALL))


class State(NamedTuple):
    """What goes from block to block.

    Attributes:
        tokens: of all streams, ``(B, S, N, C)``; empty (C = 0) without cross-attention.
        features: the pooled features of all networks, ``(B, D)``; 0 for a missing stream, and the others scaled up.
        present: ``(B, S)`` bool; whether a clip has that stream.
        losses: of the networks, by name.
    """

    tokens: Tensor
    features: Tensor
    present: Tensor
    losses: dict[str, Tensor]


class CrossAttention(nn.Module):
    """The tokens of each stream attend to those of all others."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        """``(B, S, N, C)`` to the same shape, 0 for a stream without others.

        Args:
            x: normalised tokens of all streams.
            present: ``(B, S)`` bool; whether a clip has that stream.
        """
        batch, streams, count, width = x.shape
        # split_heads: (B, heads, S N, width / heads)
        q, k, v = (
            part.flatten(1, 2).unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1)
        )
        # (B, streams of the queries, streams of the keys)
        allowed = ~torch.eye(streams, dtype=torch.bool, device=x.device) & present[:, None]
        has_keys = allowed.any(2)
        # queries without keys see all, and the result is multiplied by 0: a softmax over nothing would be NaN
        mask = (allowed | ~has_keys[..., None]).repeat_interleave(count, 1).repeat_interleave(count, 2)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None])
        attended = self.proj(attended.transpose(1, 2).reshape(batch, streams, count, width))
        return attended * has_keys[..., None, None].to(x.dtype)


class CrossBlock(nn.Module):
    """Cross-attention, then an MLP; both with pre-norm and a residual."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = CrossAttention(width, heads)
        self.mlp = mlp(width, mlp_ratio)

    def forward(self, state: State) -> State:
        x = state.tokens + self.attn(self.norm1(state.tokens), state.present)
        return state._replace(tokens=x + self.mlp(self.norm2(x)))


class Fusion(VideoModel):
    """The networks are the stem; the blocks are those of cross-attention; their map has the streams one after the other
    in time. Without blocks the map is the joined features, of one position."""

    config: FusionConfig

    def __init__(self, config: FusionConfig) -> None:
        super().__init__(config)
        names = config.clip.streams
        trunks = config.trunks * len(names) if len(config.trunks) == 1 else config.trunks
        if not names or len(trunks) != len(names):
            raise GestaError("model.trunks must be one network for each of model.clip.streams, or one for all")
        self.trunks = nn.ModuleDict({name: _trunk(config, trunk) for name, trunk in zip(names, trunks)})
        self.widths = [cast(nn.Linear, trunk.classifier.linear).in_features for trunk in self._trunks()]
        for trunk in self._trunks():
            del trunk.classifier
        width = config.width if config.depth else 0
        self.blocks = nn.ModuleList(CrossBlock(width, config.heads, config.mlp_ratio) for _ in range(config.depth))
        if width:
            channels = [trunk.grid_at(len(trunk.blocks))[0] for trunk in self._trunks()]
            self.project = nn.ModuleList(nn.Linear(count, width) for count in channels)
            self.position = nn.Parameter(torch.empty(1, len(names), math.prod(config.grid), width))
            nn.init.trunc_normal_(self.position, std=0.02)
            self.norm = nn.LayerNorm(width)
        self.classifier = Classifier(sum(self.widths) + len(names) * width, config.classes, config.dropout)
        self.finish()

    @property
    def streams(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.config.clip.streams

    def stem(self, video: Tensor) -> State:
        """``(B, 3 S, T, H, W)``, in the order of ``clip.streams``; streams that a clip has not are NaN."""
        present = ~video[:, ::3, 0, 0, 0].isnan()
        if self.training and self.config.drop_stream:
            present = self._drop_streams(present)
        clips = video.nan_to_num(nan=0.0).split(3, 1)
        weight = present.shape[1] * present / present.sum(1, keepdim=True).clamp(min=1)
        features, tokens = [], []
        losses: dict[str, Tensor] = {}
        for i, (name, trunk, clip) in enumerate(zip(self.trunks, self._trunks(), clips)):
            tapped = trunk._tapped()
            if self.config.depth:  # the map is read, so a CTN computes all of it
                tapped[f"block.{len(trunk.blocks) - 1}"] = None
            state = trunk._run(clip, tapped or None)
            pooled = trunk.forward_head(state, pre_logits=True, tapped=tapped)
            features.append(pooled * weight[:, i : i + 1].to(pooled.dtype))
            losses |= {f"{name}/{loss}": value for loss, value in trunk.losses(state).items()}
            if self.config.depth:
                average = _averages(trunk.to_grid(state), self.config.grid)
                tokens.append(self.project[i](average.flatten(2).mT) + self.position[:, i])
        joined = torch.cat(features, 1)
        empty = joined.new_empty(joined.shape[0], len(clips), 0, 0)
        return State(torch.stack(tokens, 1) if tokens else empty, joined, present, losses)

    def pool(self, state: State) -> Tensor:
        """Features of all networks and, with cross-attention, the mean of each stream's tokens; 0 if it is missing."""
        if not self.config.depth:
            return state.features
        means = self.norm(state.tokens).mean(2) * state.present[..., None].to(state.tokens.dtype)
        return torch.cat([state.features, means.flatten(1)], 1)

    def to_grid(self, state: State) -> Tensor:
        if not self.config.depth:
            return state.features[..., None, None, None]
        frames, rows, columns = self.config.grid
        return state.tokens.unflatten(2, (frames, rows, columns)).flatten(1, 2).permute(0, 4, 1, 2, 3)

    def from_grid(self, grid: Tensor, state: State) -> State:
        if not self.config.depth:
            return state._replace(features=grid.flatten(1))
        tokens = grid.permute(0, 2, 3, 4, 1).unflatten(1, (len(self.trunks), -1)).flatten(2, 4)
        return state._replace(tokens=tokens)

    def grid_at(self, block: int) -> Grid:
        if not self.config.depth:
            return sum(self.widths), 1, 1, 1
        frames, rows, columns = self.config.grid
        return self.config.width, len(self.trunks) * frames, rows, columns

    def losses(self, state: State) -> dict[str, Tensor]:
        return state.losses

    def no_weight_decay(self) -> set[str]:
        kept = {f"trunks.{name}.{own}" for name, trunk in self.trunks.items() for own in trunk.no_weight_decay()}  # type: ignore[operator]
        return kept | ({"position"} if self.config.depth else set())

    def convert_foreign(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights of a network of one stream are those of every trunk; ``init.only`` names one (``trunks.rgb.``)."""
        if any(name.startswith("trunks.") for name in weights):
            return weights
        converted = {name: trunk.convert_foreign(dict(weights)) for name, trunk in zip(self.trunks, self._trunks())}
        return {f"trunks.{name}.{key}": value for name, of_one in converted.items() for key, value in of_one.items()}

    def _has_class_token(self) -> bool:
        return False  # those of the networks are not in the map

    def _trunks(self) -> list[VideoModel]:
        return list(self.trunks.values())  # type: ignore[arg-type]

    def _drop_streams(self, present: Tensor) -> Tensor:
        """The streams that training clips keep of those that are present, ``(B, S)`` bool."""
        kept = present & (torch.rand(present.shape, device=present.device) < 0.5)
        is_chosen = torch.rand(present.shape[0], 1, device=present.device) < self.config.drop_stream
        return torch.where(is_chosen & kept.any(1, keepdim=True), kept, present)


def _trunk(whole: FusionConfig, trunk: ModelConfig) -> VideoModel:
    """The network of one stream."""
    clip = replace(whole.clip, streams=())
    changes = {"drop_path": whole.drop_path, "activation_checkpointing": whole.activation_checkpointing}
    return replace(copy(trunk), classes=1, clip=clip, **changes).build()  # its classifier is thrown away


def _averages(grid: Tensor, size: tuple[int, int, int]) -> Tensor:
    """Means of a map ``(B, C, T, H, W)`` over ``size`` bins; of equal ones by a kernel, which ONNX has, too."""
    if any(of % bins for of, bins in zip(grid.shape[2:], size)):
        return F.adaptive_avg_pool3d(grid, size)
    return F.avg_pool3d(grid, [of // bins for of, bins in zip(grid.shape[2:], size)])
