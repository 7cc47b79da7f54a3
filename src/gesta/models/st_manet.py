"""ST-MANet: a 3-D ResNet whose stages attend between frames and between positions, with a second branch beside it.

Source: Y. Wang, "Spatio-temporal-based multi-level aggregation network for physical action recognition", ComSIS 21(4),
2024, §3; no code exists. TDA and SDA are in :mod:`gesta.plugins.st_manet`, the trunk in :mod:`gesta.models.r3d`. After
stage i = 2 … 5 of the trunk, whose first layer the paper counts as stage 1::

    Z_i = Z^i + Z_t^i + Z_s^i          replaces the map, and so feeds the next stage         (Fig. 1)
    Z   = [mean(Z_2); …; mean(Z_5)]    to the classifier                                     (Eq. 8)
    L   = L_ce + λ1 L_s + λ2 L_t       cosines between the stages' pooled attention matrices (Eqs. 6, 7, 9)
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gesta.config import Between, Count, NotNegative, config, unless
from gesta.errors import GestaError
from gesta.layers.pointwise import Pointwise
from gesta.model import Classifier, evaluating
from gesta.models.r3d import Bottleneck, R3DConfig, R3DTrunk
from gesta.plugins.st_manet import SDA, TDA, OutNorm, SDALayer, Size, Softmax, TDALayer, idle, strength

STAGES = (2, 3, 4, 5)
LAST = STAGES[-1]
Stages = tuple[Annotated[int, Between(2, 5)], ...]


@config
class STMANetConfig(R3DConfig):
    """Sizes of an ST-MANet, the switches of its paper's ablations, and what the paper leaves open.

    Attributes:
        tda: temporal aggregation.
        sda: spatial aggregation.
        mf: multi-level fusion: the classifier sees all stages, not only the last.
        tda_stages: after which stages there is temporal aggregation.
        sda_stages: after which stages there is spatial aggregation.
        head_stages: what multi-level fusion fuses; stages after the last of them are not built.
        second_softmax: in both modules, see :class:`gesta.TDA`.
        attention_scale: in both modules, see ``scale`` of :class:`gesta.TDA`.
        attn_out_norm: in both modules, see ``out_norm`` of :class:`gesta.TDA`.
        tda_embed: see :class:`gesta.TDA`, like all that begins with ``tda_``.
        tda_first: stage 2 gets a branch from the stem by ``project``\\ ion, or ``none``.
        tda_final: ``add`` the branch of stage 5 to its map, or ``drop`` it.
        sda_qk_reduction: see :class:`gesta.SDA`.
        sda_v_reduction: see :class:`gesta.SDA`.
        stage_sum: ``literal``: Z_i contains Z^i twice, because Z_t does so already; ``single``: once.
        fusion_pool: stages are averaged at once (``gap``), or to the size of stage 5 first (``stage5``).
        diversity: losses only with multi-level fusion (``fused``), or ``always``.
        lambda1: weight of the spatial matrices' likeness in the loss; 0 for none.
        lambda2: weight of the temporal matrices' likeness; 0 for none.
        pairs: Eq. 7 counts each pair of stages twice (``ordered``), or once.
    """

    tda: bool = True
    sda: bool = True
    mf: bool = True
    tda_stages: Stages = STAGES
    sda_stages: Stages = STAGES
    head_stages: Stages = STAGES
    second_softmax: Softmax = "none"
    attention_scale: Literal["sqrt", "none"] = "sqrt"
    attn_out_norm: OutNorm = "bn_zero"
    tda_embed: Literal["depthwise", "dense", "none"] = "depthwise"
    tda_value: Literal["concat", "branch"] = "branch"
    tda_out: Literal["depthwise", "separable", "dense"] = "depthwise"
    tda_branch_norm: Literal["none", "bn", "bn_relu"] = "none"
    tda_first: Literal["project", "none"] = "project"
    tda_final: Literal["add", "drop"] = "add"
    sda_qk_reduction: Count | None = 8
    sda_v_reduction: Count | None = 4
    stage_sum: Literal["literal", "single"] = "literal"
    fusion_pool: Literal["gap", "stage5"] = "gap"
    diversity: Literal["fused", "always"] = "fused"
    lambda1: NotNegative = 0.01
    lambda2: NotNegative = 0.001
    pairs: Literal["ordered", "unordered"] = "ordered"

    def contradictions(self) -> Iterator[tuple[str, str]]:
        yield from R3DConfig.contradictions(self)
        last = max(_head_stages(self), default=LAST)
        for module, of_stages in (("tda", self.tda_stages), ("sda", self.sda_stages)):
            if getattr(self, module) and not any(stage <= last for stage in of_stages):
                yield (
                    f"{module}_stages",
                    f"and no stage after {last} is built (head_stages): name one up to there, or say {module}=False",
                )

    def unused(self) -> Iterator[tuple[str, str]]:
        tda, sda = _module_stages(self)
        branches = [stage for stage in tda if stage + 1 in tda or (stage == LAST and self.tda_final == "add")]
        joins = [stage for stage in branches if (self.tda_first == "project" if stage == 2 else stage - 1 in tda)]
        yield from unless(self.tda, "tda", "tda_stages", "tda_embed", "tda_out")
        yield from unless(2 in tda, "TDA after stage 2 (tda, tda_stages)", "tda_first")
        yield from unless(LAST in tda, f"TDA after stage {LAST} (tda, tda_stages, head_stages)", "tda_final")
        yield from unless(
            bool(branches), "a branch, of which the next stage or the last map has use", "tda_branch_norm"
        )
        yield from unless(bool(joins), "a stage where a branch comes in and goes out", "tda_value")
        yield from unless(self.tda, "tda", "stage_sum")
        yield from unless(self.sda, "sda", "sda_stages", "sda_qk_reduction", "sda_v_reduction")
        yield from unless(self.tda or self.sda, "tda or sda", "second_softmax", "attention_scale", "attn_out_norm")
        yield from unless(self.mf, "mf", "head_stages")
        pools = self.mf and any(stage < LAST for stage in _head_stages(self))
        yield from unless(pools, "mf and a stage before the last in head_stages", "fusion_pool")
        spatial, temporal = len(sda) > 1, len(tda) > 1
        yield from unless(not self.mf and (spatial or temporal), "mf=False beside attention in two stages", "diversity")
        compares = self.mf or self.diversity == "always"
        yield from unless(spatial and compares, "sda in two stages, and mf or diversity='always'", "lambda1")
        yield from unless(temporal and compares, "tda in two stages, and mf or diversity='always'", "lambda2")
        weighs = compares and ((spatial and self.lambda1 > 0) or (temporal and self.lambda2 > 0))
        yield from unless(weighs, "a diversity loss (lambda1, lambda2)", "pairs")

    def build(self) -> STMANet:
        return STMANet(self)


def st_manet_50() -> STMANetConfig:
    """ST-MANet on 3-D ResNet-50: 32 frames of 112 × 112, every second frame."""
    return STMANetConfig()


def st_manet_50_eq() -> STMANetConfig:
    """ST-MANet with the second softmax that Eqs. 2, 3 and 5 print, over positions, and without batch norm behind it.

    Stage 5's SDA then reaches the classifier as a constant: only the diversity loss moves it.
    """
    return STMANetConfig(second_softmax="position", attn_out_norm="none")


def st_manet_tiny() -> STMANetConfig:
    """A narrow network of four bottlenecks for CPUs: 16 frames of 64 × 64, of which every stage has 4."""
    config = STMANetConfig(depths=(1, 1, 1, 1), width=8, stem_kernel=(3, 5, 5), time_strides=(2, 2, 1, 1, 1))
    config.clip.frames, config.clip.size = 16, 64
    return config


class Matrices(NamedTuple):
    """Attention of one stage and the size of its map, in the state.

    Attributes:
        stage: 2 … 5.
        temporal: ``(B, T, T)``.
        spatial: ``(B, H·W, H·W)``.
        size: T, H, W.
    """

    stage: int
    temporal: Tensor | None
    spatial: Tensor | None
    size: Size


@dataclass(frozen=True)
class StageAttention:
    """Attention matrices of one stage; rows are what attends and sum to 1.

    Attributes:
        temporal: ``(B, T, T)``; None if the stage has no TDA.
        spatial: ``(B, H·W, H·W)``; None if the stage has no SDA.
        size: T, H, W of the stage's map.
    """

    temporal: Tensor | None
    spatial: Tensor | None
    size: Size


class State(NamedTuple):
    """What goes from block to block.

    Attributes:
        map: ``(B, C, T, H, W)``.
        branch: ``(B, C / 2, T, H, W)``, where C, T, H, W are those of the stage that comes; None for no branch.
        final: T, H, W of stage 5's map.
        pooled: ``(B, C)`` of each stage that the classifier sees.
        attention: matrices of the stages so far; None if nobody needs them.
    """

    map: Tensor
    branch: Tensor | None
    final: Size
    pooled: tuple[Tensor, ...] = ()
    attention: tuple[Matrices, ...] | None = None


class StateBottleneck(Bottleneck):
    """A bottleneck that changes the map of a state."""

    def forward(self, state: State) -> State:  # type: ignore[override]
        return state._replace(map=super().forward(state.map))


class Aggregation(nn.Module):
    """What comes after a stage: its modules, the sum of maps, the collection for head and losses.

    Args:
        stage: 2 … 5.
        tda: None for none.
        sda: None for none.
    """

    def __init__(self, config: STMANetConfig, stage: int, tda: TDALayer | None, sda: SDALayer | None) -> None:
        super().__init__()
        self.config, self.stage, self.tda, self.sda = config, stage, tda, sda
        self.collected = stage in _head_stages(config)

    def forward(self, state: State) -> State:
        x, branch, temporal, spatial = state.map, None, None, None
        size = (x.shape[2], x.shape[3], x.shape[4])
        total = x
        if self.tda is not None:
            over_time = self.tda.aggregate(x, state.branch)
            temporal, branch = over_time.attention, over_time.branch
            total = total + over_time.residual
            if self.config.stage_sum == "literal":
                total = total + x
            if self.stage == LAST and branch is not None:
                total, branch = total + branch, None
        if self.sda is not None:
            over_space = self.sda.aggregate(x)
            spatial = over_space.attention
            total = total + over_space.residual
        pooled, attention = state.pooled, state.attention
        if self.collected:
            even = F.adaptive_avg_pool3d(total, state.final) if self.config.fusion_pool == "stage5" else total
            pooled = (*pooled, even.mean((2, 3, 4)))
        if attention is not None:
            attention = (*attention, Matrices(self.stage, temporal, spatial, size))
        return State(total, branch, state.final, pooled, attention)

    def diagnose(self, state: State) -> dict[str, float]:
        """``tda.strength`` and ``sda.strength``: see :func:`gesta.plugins.st_manet.strength`.

        In a stage that the classifier sees, ``tda.seen`` and ``sda.seen`` are that of the means over time and space.
        """
        x, figures = state.map, {}
        for name, layer, inputs in (("tda", self.tda, (x, state.branch)), ("sda", self.sda, (x,))):
            if layer is not None:
                added = layer.aggregate(*inputs).residual
                figures[f"{name}.strength"] = strength(added, x)
                if self.collected and len(x) > 1:
                    means = (part.mean((2, 3, 4), keepdim=True) for part in (added, x))
                    figures[f"{name}.seen"] = strength(*means)
        return figures

    def faults(self, figures: dict[str, float]) -> list[str]:
        """What of :meth:`diagnose` means that a module does nothing; of the last stage also, that nobody sees it."""
        sentences = []
        for name in ("tda", "sda"):
            adds = idle(figures.get(f"{name}.strength", 1), f"what {name.upper()} adds to stage {self.stage}")
            if not adds and self.stage == max(_head_stages(self.config)):
                seen = f"what the classifier sees of {name.upper()} in stage {self.stage}"
                adds = idle(figures.get(f"{name}.seen", 1), seen)
            sentences += adds
        return sentences


class STMANet(R3DTrunk):
    """ST-MANet. Its blocks are the bottlenecks and, after those of each stage, one :class:`Aggregation`.

    In ``st_manet_50`` the stages end with blocks 3, 8, 15 and 19.

    Raises:
        GestaError: a head without stages.
    """

    config: STMANetConfig
    bottleneck = StateBottleneck

    def __init__(self, config: STMANetConfig) -> None:
        if not config.head_stages:
            raise GestaError("head_stages names no stage for the classifier to see; mf=False gives it stage 5 alone")
        heads = _head_stages(config)
        stages = tuple(range(2, max(heads) + 1))
        super().__init__(config, len(stages))
        self.stages = stages
        tda_stages, sda_stages = _module_stages(config)
        projected = 2 in tda_stages and config.tda_first == "project"
        if projected:
            conv = Pointwise(config.width, 2 * config.width, bias=False)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            self.stem_branch = nn.Sequential(conv, nn.BatchNorm3d(2 * config.width), nn.ReLU(inplace=True))
        features = 0
        for stage in stages:
            channels = self.bottlenecks(stage - 1)[-1].conv3.out_channels
            features += channels * (stage in heads)
            tda = sda = None
            if stage in tda_stages:
                comes = projected if stage == 2 else stage - 1 in tda_stages
                pool = None
                if stage + 1 in tda_stages:
                    pool = (config.time_strides[stage], 2, 2)
                elif stage == LAST and config.tda_final == "add":
                    pool = (1, 1, 1)
                tda = TDALayer(_tda(config), channels, channels // 2 * comes, pool)
            if stage in sda_stages:
                sda = SDALayer(_sda(config), channels)
            self.add_module(f"aggregation{stage}", Aggregation(config, stage, tda, sda))
        self.classifier = Classifier(features, config.classes, config.dropout)
        self._looked_at = False
        if self._weights["diversity_temporal"] and self._final(config.clip.frames, 1, 1)[0] < 2:
            warnings.warn(
                f"of a clip of {config.clip.frames} frames one is left in stage 5, so that the loss of temporal "
                "diversity would be a constant; it is left out (lambda2=0 says so, more frames bring it back)",
                stacklevel=3,
            )
        self.finish()

    @property
    def blocks(self) -> list[nn.Module]:
        """Bottlenecks and aggregations in order."""
        return [
            block
            for stage in self.stages
            for block in (*self.bottlenecks(stage - 1), self.get_submodule(f"aggregation{stage}"))
        ]

    def stem(self, video: Tensor) -> State:
        """The trunk's first layer, and the branch that stage 2 gets."""
        x = self.stem_map(video)
        frames, height, width = video.shape[2:]
        keep_attention = self._looked_at or (self.training and any(self._weights.values()))
        branch = self.stem_branch(x) if hasattr(self, "stem_branch") else None
        return State(x, branch, self._final(frames, height, width), attention=() if keep_attention else None)

    def pool(self, state: State) -> Tensor:
        """The means of all stages that are fused, one after the other (Eq. 8)."""
        return torch.cat(state.pooled, 1)

    def losses(self, state: State) -> dict[str, Tensor]:
        """``diversity_spatial`` and ``diversity_temporal`` (L_s and L_t of Eq. 7), weighted; none in evaluation."""
        if not self.training or state.attention is None:
            return {}
        frames, height, width = state.final
        small: dict[str, list[Tensor]] = {"diversity_spatial": [], "diversity_temporal": []}
        for stage in state.attention:
            if stage.spatial is not None and height * width > 1:
                small["diversity_spatial"].append(pool_positions(stage.spatial, stage.size[1:], (height, width)))
            if stage.temporal is not None and frames > 1:
                small["diversity_temporal"].append(pool_frames(stage.temporal, frames))
        return {
            name: self._weights[name] * likeness(matrices, self.config.pairs)
            for name, matrices in small.items()
            if self._weights[name] and len(matrices) > 1
        }

    @property
    def _weights(self) -> dict[str, float]:
        """Of the losses by name."""
        c = self.config
        on = c.mf or c.diversity == "always"
        return {"diversity_spatial": c.lambda1 * on, "diversity_temporal": c.lambda2 * on}

    @torch.no_grad()
    def attention_maps(self, video: Tensor) -> dict[int, StageAttention]:
        """Attention matrices of every stage in evaluation; the model's mode is as it was afterwards.

        Args:
            video: normalised clips ``(B, 3, T, H, W)``.
        """
        self._looked_at = True
        try:
            with evaluating(self):
                state: State = self._run(video, None)
        finally:
            self._looked_at = False
        return {m.stage: StageAttention(m.temporal, m.spatial, m.size) for m in state.attention or ()}

    @torch.no_grad()
    def stage_features(self, video: Tensor) -> dict[int, Tensor]:
        """Z_2 … Z_5 averaged over time and space, ``(B, C)`` each, in evaluation, whatever the classifier sees.

        Args:
            video: normalised clips ``(B, 3, T, H, W)``.
        """
        ends = [i for i, block in enumerate(self.blocks) if isinstance(block, Aggregation)]
        with evaluating(self):
            maps = self.taps(video, [f"block.{i}" for i in ends])
        return {stage: maps[f"block.{i}"].mean((2, 3, 4)) for stage, i in zip(self.stages, ends)}

    def to_grid(self, state: State) -> Tensor:
        return state.map

    def from_grid(self, grid: Tensor, state: State) -> State:
        return state._replace(map=grid)

    def _final(self, frames: int, height: int, width: int) -> Size:
        """Size of stage 5's map for clips of this size."""
        return -(-frames // math.prod(self.config.time_strides)), -(-height // 32), -(-width // 32)


def likeness(matrices: Sequence[Tensor], pairs: Literal["ordered", "unordered"] = "ordered") -> Tensor:
    """Sum of cosines of all pairs, mean over clips; at most 12 for four stages (Eq. 7).

    Args:
        matrices: of the stages, pooled to one size, ``(B, *)`` each.
        pairs: count each pair twice, or once.
    """
    stacked = F.normalize(torch.stack([matrix.flatten(1) for matrix in matrices], 1), dim=2)
    cosines = (stacked @ stacked.mT).triu(1).sum((1, 2)).mean()
    return 2 * cosines if pairs == "ordered" else cosines


def pool_frames(attention: Tensor, frames: int) -> Tensor:
    """Means of ``(B, T, T)`` over the frames that become one (Eq. 6): ``(B, frames, frames)``."""
    return F.adaptive_avg_pool2d(attention[:, None], frames)[:, 0]


def pool_positions(attention: Tensor, size: tuple[int, int], new_size: tuple[int, int]) -> Tensor:
    """Means of ``(B, H·W, H·W)`` over the grid of what attends and the grid of what is attended to (Eq. 6).

    Args:
        size: H, W.
        new_size: h, w.

    Returns:
        ``(B, h·w, h·w)``.
    """
    for _ in range(2):  # the last axis is pooled and goes first
        attention = F.adaptive_avg_pool2d(attention.unflatten(2, size), new_size).flatten(2).mT
    return attention


def _head_stages(config: STMANetConfig) -> Stages:
    return tuple(sorted(set(config.head_stages))) if config.mf else (LAST,)


def _module_stages(config: STMANetConfig) -> tuple[list[int], list[int]]:
    """The stages that are built with TDA, and those with SDA."""
    built = range(2, max(_head_stages(config), default=LAST) + 1)
    tda = [stage for stage in built if config.tda and stage in config.tda_stages]
    return tda, [stage for stage in built if config.sda and stage in config.sda_stages]


def _tda(config: STMANetConfig) -> TDA:
    return TDA(
        embed=config.tda_embed,
        value=config.tda_value,
        out=config.tda_out,
        out_norm=config.attn_out_norm,
        branch_norm=config.tda_branch_norm,
        second_softmax=config.second_softmax,
        scale=config.attention_scale,
    )


def _sda(config: STMANetConfig) -> SDA:
    return SDA(
        qk_reduction=config.sda_qk_reduction,
        v_reduction=config.sda_v_reduction,
        out_norm=config.attn_out_norm,
        second_softmax=config.second_softmax,
        scale=config.attention_scale,
    )
