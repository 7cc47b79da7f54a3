"""Attention of each stage of a model, and how similar the stages are, which ST-MANet's diversity losses reduce.

Y. Wang, ComSIS 21(4), 2024: frames that attend to frames (A_t, Eq. 1), positions that attend to positions (A_s, Eq. 4),
and cosines between stages of the matrices pooled to the last stage's size (Eqs 6 and 7). The paper shows no such maps.
See :mod:`gesta.models.st_manet`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from torch import Tensor

from gesta.analysis.figures import hide_axes, hide_top_right_spines, new_figure, show_frame, show_heat, spread_frames
from gesta.analysis.measured import plain
from gesta.analysis.sources import as_input, load
from gesta.checkpoint import read_metadata
from gesta.errors import GestaError
from gesta.model import VideoModel
from gesta.models.st_manet import StageAttention as AttentionMatrices
from gesta.models.st_manet import pool_frames, pool_positions
from gesta.progress import join_lines

COLUMNS = 8
"""Frames that are drawn at most."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class StageMaps:
    """What one stage attends to in a clip."""

    stage: int  # its number
    size: tuple[int, int, int]  # T, H, W of its feature map
    temporal: Tensor | None  # (T, T), a row per attending frame; None if frames do not attend
    # In multiples of uniform attention: what a position gets from all on average, or what the chosen one gives to each.
    spatial: Tensor | None  # (H, W); None if positions do not attend
    entropy: dict[str, float]  # mean over the rows, by kind, as a fraction of the entropy of uniform attention


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointCosines:
    """One checkpoint of a run: its epoch and the mean cosine over pairs of stages, by kind."""

    epoch: int
    cosines: dict[str, float]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class StageAttention:
    """Attention of all stages to one clip."""

    name: str
    clip: Tensor  # raw frames (T, 3, S, S) uint8
    position: tuple[int, int] | None  # row and column whose attention is shown, in pixels of the input; None for all
    size: int  # height and width of the model's input in pixels
    stages: list[StageMaps]  # in their order
    pooled_to: dict[str, tuple[int, ...]]  # by kind, the size at which matrices are compared: (T,), or (H, W)
    cosines: dict[str, tuple[list[int], Tensor]]  # by kind, the stages and the cosines (S, S) between them
    checkpoints: list[CheckpointCosines]  # of a run that keeps several, in the order of their epochs

    def to_json(self) -> dict[str, Any]:
        """All but the clip."""
        cosines = {
            kind: {"stages": stages, "pooled_to": list(self.pooled_to[kind]), "matrix": matrix.tolist()}
            for kind, (stages, matrix) in self.cosines.items()
        }
        checkpoints = [{"epoch": c.epoch, **c.cosines} for c in self.checkpoints]
        shown = {"model": self.name, "position": plain(self.position), "stages": plain(self.stages)}
        return shown | {"cosines": cosines, "checkpoints": checkpoints}

    def __str__(self) -> str:
        lines = [f"{self.name}, attention by stage (entropy: 100 % is uniform)"]
        for s in self.stages:
            entropies = ", ".join(f"{kind} entropy {value:.1%}" for kind, value in s.entropy.items())
            lines.append(f"  stage {s.stage}, {' × '.join(map(str, s.size))}: {entropies or 'no attention'}")
        for kind, (stages, matrix) in self.cosines.items():
            lines.append(f"{kind} cosines of stages {stages}, pooled to {_describe(self.pooled_to[kind])}:")
            lines += ["  " + "  ".join(f"{value:.3f}" for value in row) for row in matrix.tolist()]
        for c in self.checkpoints:
            lines.append(f"epoch {c.epoch}: " + ", ".join(f"{kind} {value:.3f}" for kind, value in c.cosines.items()))
        if len(self.checkpoints) < 2:
            lines.append("there is one checkpoint, so the cosines are of that state, not over the training")
        return join_lines(lines)


@torch.inference_mode()
def measure_stage_attention(
    name: str,
    model: VideoModel,
    clip: Tensor,
    *,
    position: tuple[int, int] | None = None,
    checkpoints: Sequence[CheckpointCosines] = (),
) -> StageAttention:
    """Attention of each stage to the frames and positions of a clip, and its similarity to that of the other stages.

    Args:
        name, model, clip: as in :mod:`gesta.analysis`; the model offers ``attention_maps(video) -> {stage:
            AttentionMatrices}``.
        position: row and column in pixels of the model's input: show what this position attends to.
        checkpoints: cosines of other checkpoints, see :func:`cosines_over_training`.

    Raises:
        GestaError: a model without such stages, a position outside the clip.
    """
    size = model.config.clip.size
    if position is not None and not all(0 <= coordinate < size for coordinate in position):
        allowed = f"{name} sees {size} × {size} pixels, rows and columns 0 to {size - 1}"
        raise GestaError(f"position {position[0]},{position[1]}: {allowed}; choose another --at")
    matrices = _attention_matrices(name, model, as_input(clip, model))
    pooled_to, cosines = stage_cosines(matrices)
    return StageAttention(
        name=name,
        clip=clip,
        position=position,
        size=size,
        stages=[_stage_maps(stage, of_stage, position, size) for stage, of_stage in matrices.items()],
        pooled_to=pooled_to,
        cosines=cosines,
        checkpoints=list(checkpoints),
    )


def _attention_matrices(name: str, model: VideoModel, video: Tensor) -> dict[int, AttentionMatrices]:
    attention_maps: Callable[[Tensor], Mapping[int, AttentionMatrices]] | None = getattr(model, "attention_maps", None)
    if attention_maps is None:
        raise GestaError(f"{name} has no attention by stage; st_manet_50 and st_manet_tiny have")
    matrices = dict(sorted(attention_maps(video).items()))
    if all(of_stage.temporal is None and of_stage.spatial is None for of_stage in matrices.values()):
        raise GestaError(f"{name} has no stage that attends: its model.tda and model.sda are off")
    return matrices


def _stage_maps(stage: int, maps: AttentionMatrices, position: tuple[int, int] | None, size: int) -> StageMaps:
    _, height, width = maps.size
    entropy = {}
    for kind, matrix in (("temporal", maps.temporal), ("spatial", maps.spatial)):
        if matrix is not None and matrix.shape[-1] > 1:
            rows = torch.special.entr(matrix[0].double()).sum(1).mean()
            entropy[kind] = float(rows / np.log(matrix.shape[-1]))
    spatial = None
    if maps.spatial is not None:
        weights = maps.spatial[0].float().cpu()
        if position is None:
            row = weights.mean(0)
        else:  # pixels to cells of the map
            row = weights[position[0] * height // size * width + position[1] * width // size]
        spatial = row.reshape(height, width) * height * width
    temporal = None if maps.temporal is None else maps.temporal[0].float().cpu()
    return StageMaps(stage=stage, size=maps.size, temporal=temporal, spatial=spatial, entropy=entropy)


def stage_cosines(
    matrices: Mapping[int, AttentionMatrices],
) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[list[int], Tensor]]]:
    """Cosines between the stages' matrices, each pooled to the smallest stage's size.

    Returns:
        By kind, the common size, and the stages with their cosines ``(S, S)``. A kind is absent if fewer than two
        stages have it, or if a stage has only one frame or position, for then all pooled matrices are the same.
    """
    frames, height, width = (min(lengths) for lengths in zip(*(maps.size for maps in matrices.values())))
    pooled: dict[str, dict[int, Tensor]] = {"temporal": {}, "spatial": {}}
    for stage, maps in matrices.items():
        if maps.temporal is not None and frames > 1:
            pooled["temporal"][stage] = pool_frames(maps.temporal.float(), frames)[0]
        if maps.spatial is not None and height * width > 1:
            pooled["spatial"][stage] = pool_positions(maps.spatial.float(), maps.size[1:], (height, width))[0]
    sizes: dict[str, tuple[int, ...]] = {"temporal": (frames,), "spatial": (height, width)}
    pooled_to, cosines = {}, {}
    for kind, by_stage in pooled.items():
        if len(by_stage) > 1:
            flat = F.normalize(torch.stack([matrix.flatten() for matrix in by_stage.values()]).double(), dim=1)
            pooled_to[kind], cosines[kind] = sizes[kind], (list(by_stage), (flat @ flat.T).cpu())
    return pooled_to, cosines


@torch.inference_mode()
def cosines_over_training(source: str, clip: Tensor, *, trust_code: bool = False) -> list[CheckpointCosines]:
    """The cosines at each checkpoint in a run folder: all ``.safetensors`` files, by their epoch.

    A training keeps its best one; copies of it made during the training count.

    Args:
        source: a run folder; a single file or the name of a model has no history.
        clip: as of :func:`measure_stage_attention`.
        trust_code: see :func:`gesta.load`.
    """
    by_epoch: dict[int, CheckpointCosines] = {}
    for path in sorted(Path(source).glob("*.safetensors")):
        epoch = read_metadata(path).get("notes", {}).get("epoch")
        if isinstance(epoch, int) and epoch not in by_epoch:
            name, model = load(str(path), trust_code=trust_code)
            _, cosines = stage_cosines(_attention_matrices(name, model, as_input(clip, model)))
            means = {}  # over the pairs of different stages
            for kind, (stages, matrix) in cosines.items():
                means[kind] = float((matrix.sum() - matrix.trace()) / (len(stages) * (len(stages) - 1)))
            by_epoch[epoch] = CheckpointCosines(epoch=epoch, cosines=means)
    return [by_epoch[epoch] for epoch in sorted(by_epoch)]


def draw_stage_attention(measured: StageAttention) -> Figure:
    """A row per stage: A_t, then A_s over the frames; below, the cosines between stages, and over training if known."""
    shown = spread_frames(len(measured.clip), COLUMNS)
    height, below = 1.35 * len(measured.stages), 2.5 if measured.cosines else 0.0
    figure = new_figure(1.25 * (len(shown) + 1) + 1.4, height + below + 0.5)
    parts = figure.subfigures(1 + bool(below), 1, squeeze=False, height_ratios=[height, below][: 1 + bool(below)])
    _draw_stages(parts[0, 0], measured, shown)
    if below:
        _draw_cosines(parts[1, 0], measured)
    subject = "what a position gets on average"
    if measured.position is not None:
        subject = f"what the position {measured.position[0]},{measured.position[1]} attends to"
    figure.suptitle(f"{measured.name}: frames that attend to frames, and {subject} (1: uniform)", fontsize=10)
    return figure


def _draw_stages(figure: SubFigure, measured: StageAttention, shown: list[int]) -> None:
    clip, edge = measured.clip, measured.clip.shape[-1]
    widths = [1] * (len(shown) + 1) + [0.06]
    panels = figure.subplots(len(measured.stages), len(widths), squeeze=False, width_ratios=widths)
    for row, s in zip(panels, measured.stages):
        for axes in row[:-1]:
            hide_axes(axes)
        row[0].set_ylabel(f"stage {s.stage}\n{' × '.join(map(str, s.size))}", fontsize=8)
        if s.temporal is None:
            row[0].text(0.5, 0.5, "none", ha="center", va="center", fontsize=8, transform=row[0].transAxes)
        else:
            _draw_matrix(row[0], s.temporal, float(s.temporal.max()), [])
        for axes, frame in zip(row[1:], shown):
            if s.spatial is None:
                show_frame(axes, clip[frame], grey=True)
            else:
                low, high = float(s.spatial.min()), float(s.spatial.max())
                heat = show_heat(axes, clip[frame], s.spatial, low, high, alpha=0.55, interpolation="nearest")
            if measured.position is not None:
                y, x = ((pixel + 0.5) * edge / measured.size - 0.5 for pixel in measured.position)
                axes.plot([x], [y], "+", color="white", markersize=9, markeredgewidth=1.6)
        if s.spatial is None:
            row[-1].set_axis_off()
        else:
            figure.colorbar(heat, cax=row[-1]).ax.tick_params(labelsize=6)
    panels[0, 0].set_title("frames", fontsize=8)
    for axes, frame in zip(panels[0, 1:], shown):
        axes.set_title(f"positions, frame {frame}" if frame == shown[0] else f"{frame}", fontsize=8)


def _draw_cosines(figure: SubFigure, measured: StageAttention) -> None:
    history = len(measured.checkpoints) > 1
    panels = figure.subplots(1, len(measured.cosines) + history, squeeze=False)[0]
    for axes, (kind, (stages, matrix)) in zip(panels, measured.cosines.items()):
        _draw_matrix(axes, matrix, 1, [str(stage) for stage in stages])
        title = f"{kind}: cosines between stages\npooled to {_describe(measured.pooled_to[kind])}"
        axes.set_title(title, fontsize=8)
        axes.set_xlabel("stage", fontsize=8)
        axes.set_ylabel("stage", fontsize=8)
    if history:
        for kind in measured.cosines:
            points = [(c.epoch, c.cosines[kind]) for c in measured.checkpoints if kind in c.cosines]
            panels[-1].plot(*zip(*points), marker="o", markersize=4, label=kind)
        panels[-1].set_title("mean cosine of two stages", fontsize=8)
        panels[-1].set_xlabel("epoch", fontsize=8)
        panels[-1].tick_params(labelsize=7)
        hide_top_right_spines(panels[-1])
        panels[-1].legend(frameon=False, fontsize=8)


def _draw_matrix(axes: Axes, values: Tensor, high: float, names: list[str]) -> None:
    """A square of cells from 0 to ``high``, with their numbers if they are few."""
    axes.imshow(values.numpy(), cmap="Blues", vmin=0, vmax=high, interpolation="nearest")
    axes.set_xticks(range(len(names)), labels=names, fontsize=8)
    axes.set_yticks(range(len(names)), labels=names, fontsize=8)
    if len(values) <= 4:
        for (i, j), value in np.ndenumerate(values.numpy()):
            colour = "white" if value > 0.6 * high else "0.2"
            axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=6.5, color=colour)


def _describe(pooled_to: tuple[int, ...]) -> str:
    return f"{pooled_to[0]} frames" if len(pooled_to) == 1 else f"{pooled_to[0]} × {pooled_to[1]} positions"
