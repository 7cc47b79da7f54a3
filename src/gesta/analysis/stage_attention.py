"""Attention of each stage of a model, and how alike the stages are, which ST-MANet's diversity losses hold down.

Y. Wang, ComSIS 21(4), 2024: frames that attend to frames (A_t, Eq. 1), places that attend to places (A_s, Eq. 4), and
cosines between stages of the matrices pooled to the last stage's size (Eqs 6 and 7). See :mod:`gesta.models.st_manet`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from torch import Tensor

from gesta.analysis.sources import as_input, load, read_clip, write_figure
from gesta.checkpoint import read_metadata
from gesta.errors import GestaError
from gesta.model import VideoModel
from gesta.models.st_manet import pool_frames, pool_places

COLUMNS = 8
"""Frames that are drawn at most."""

KINDS = ("temporal", "spatial")


class StageAttention(Protocol):
    """What a model tells about one stage; rows are what attends and sum to 1."""

    @property
    def temporal(self) -> Tensor | None:
        """``(B, T, T)``."""

    @property
    def spatial(self) -> Tensor | None:
        """``(B, H·W, H·W)``."""

    @property
    def size(self) -> tuple[int, int, int]:
        """T, H, W."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class StageMaps:
    """What one stage attends to in a clip.

    Attributes:
        stage: its number.
        size: T, H, W of its feature map.
        temporal: ``(T, T)``, rows are what attends; None if frames do not.
        spatial: ``(H, W)``, times what uniform attention would give: what a place gets from all places on average, or
            what the chosen place gives to each; None if places do not attend.
        entropy: mean over the rows, by kind, as a share of the entropy of uniform attention.
    """

    stage: int
    size: tuple[int, int, int]
    temporal: Tensor | None
    spatial: Tensor | None
    entropy: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One checkpoint of a run: its epoch and the mean cosine over pairs of stages, by kind."""

    epoch: int
    cosines: dict[str, float]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class StageAttentions:
    """What :func:`attend` found; ``print`` it.

    Attributes:
        name: of the model.
        place: row and column, in pixels of the model's clip, of the place whose attention is shown; None for all.
        size: height and width of that clip in pixels.
        stages: in their order.
        common: by kind, what the matrices are pooled to before they are compared: frames, or height and width.
        cosines: by kind, the stages and the cosines ``(S, S)`` between them.
        moments: of a run that keeps several checkpoints, in the order of their epochs.
    """

    name: str
    place: tuple[int, int] | None
    size: int
    stages: list[StageMaps]
    common: dict[str, tuple[int, ...]]
    cosines: dict[str, tuple[list[int], Tensor]]
    moments: list[Moment]

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return {
            "model": self.name,
            "place": self.place and list(self.place),
            "stages": [
                {
                    "stage": s.stage,
                    "size": list(s.size),
                    "temporal": None if s.temporal is None else s.temporal.tolist(),
                    "spatial": None if s.spatial is None else s.spatial.tolist(),
                    "entropy": s.entropy,
                }
                for s in self.stages
            ],
            "cosines": {
                kind: {"stages": stages, "pooled_to": list(self.common[kind]), "matrix": matrix.tolist()}
                for kind, (stages, matrix) in self.cosines.items()
            },
            "moments": [{"epoch": m.epoch, **m.cosines} for m in self.moments],
        }

    def __str__(self) -> str:
        lines = [f"{self.name}, attention by stage (entropy: 100 % is uniform)"]
        for s in self.stages:
            words = ", ".join(f"{kind} entropy {value:.1%}" for kind, value in s.entropy.items()) or "no attention"
            lines.append(f"  stage {s.stage}, {' × '.join(map(str, s.size))}: {words}")
        for kind, (stages, matrix) in self.cosines.items():
            lines.append(f"{kind} cosines of stages {stages}, pooled to {_words(self.common[kind])}:")
            lines += ["  " + "  ".join(f"{value:.3f}" for value in row) for row in matrix.tolist()]
        for m in self.moments:
            lines.append(f"epoch {m.epoch}: " + ", ".join(f"{kind} {value:.3f}" for kind, value in m.cosines.items()))
        if len(self.moments) < 2:
            lines.append("there is one checkpoint, so the cosines are those of its state and not over training")
        return "\n".join(lines)


@torch.inference_mode()
def attend(
    name: str, model: VideoModel, clip: Tensor, *, place: tuple[int, int] | None = None, moments: Sequence[Moment] = ()
) -> StageAttentions:
    """Attention of each stage to the frames and places of a clip, and its likeness to that of the others.

    Args:
        name: what to call the model.
        model: in evaluation mode; it offers ``attention_maps(video) -> {stage: StageAttention}``.
        clip: square raw frames ``(T, 3, S, S)`` uint8 of any size; the model sees them at its own size.
        place: row and column in pixels of the model's clip: show what this place attends to.
        moments: of other checkpoints, see :func:`over_training`.

    Raises:
        GestaError: a model without such stages, a place outside the clip.
    """
    size = model.config.clip.size
    if place is not None and not all(0 <= at < size for at in place):
        raise GestaError(
            f"place {place[0]},{place[1]}: {name} sees {size} × {size} pixels, rows and columns 0 to {size - 1}"
        )
    found = _maps(name, model, as_input(clip, model))
    common, cosines = likeness(found)
    return StageAttentions(
        name=name,
        place=place,
        size=size,
        stages=[_stage(stage, maps, place, size) for stage, maps in found.items()],
        common=common,
        cosines=cosines,
        moments=list(moments),
    )


def _maps(name: str, model: VideoModel, video: Tensor) -> dict[int, StageAttention]:
    ask: Callable[[Tensor], Mapping[int, StageAttention]] | None = getattr(model, "attention_maps", None)
    if ask is None:
        raise GestaError(f"{name} has no attention by stage; st_manet_50 and st_manet_tiny have")
    found = dict(sorted(ask(video).items()))
    if all(maps.temporal is None and maps.spatial is None for maps in found.values()):
        raise GestaError(f"{name} has no stage that attends: its model.tda and model.sda are off")
    return found


def _stage(stage: int, maps: StageAttention, place: tuple[int, int] | None, size: int) -> StageMaps:
    frames, height, width = maps.size
    entropy = {}
    for kind, matrix in zip(KINDS, (maps.temporal, maps.spatial)):
        if matrix is not None and matrix.shape[-1] > 1:
            rows = torch.special.entr(matrix[0].double()).sum(1).mean()
            entropy[kind] = float(rows / np.log(matrix.shape[-1]))
    spatial = None
    if maps.spatial is not None:
        weights = maps.spatial[0].float().cpu()
        if place is None:
            row = weights.mean(0)
        else:
            row = weights[place[0] * height // size * width + place[1] * width // size]
        spatial = row.reshape(height, width) * height * width
    temporal = None if maps.temporal is None else maps.temporal[0].float().cpu()
    return StageMaps(stage=stage, size=(frames, height, width), temporal=temporal, spatial=spatial, entropy=entropy)


def likeness(
    found: Mapping[int, StageAttention],
) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[list[int], Tensor]]]:
    """Cosines between the stages' matrices, each pooled to the smallest stage's size.

    Returns:
        By kind, the common size, and the stages with their cosines ``(S, S)``. A kind is absent if fewer than two
        stages have it, or if a stage has only one frame or place, which every stage's attention is alike in.
    """
    frames, height, width = (min(maps.size[axis] for maps in found.values()) for axis in range(3))
    small: dict[str, dict[int, Tensor]] = {"temporal": {}, "spatial": {}}
    for stage, maps in found.items():
        if maps.temporal is not None and frames > 1:
            small["temporal"][stage] = pool_frames(maps.temporal.float(), frames)[0]
        if maps.spatial is not None and height * width > 1:
            small["spatial"][stage] = pool_places(maps.spatial.float(), maps.size[1:], (height, width))[0]
    sizes: dict[str, tuple[int, ...]] = {"temporal": (frames,), "spatial": (height, width)}
    common, cosines = {}, {}
    for kind, matrices in small.items():
        if len(matrices) > 1:
            flat = F.normalize(torch.stack([matrix.flatten() for matrix in matrices.values()]).double(), dim=1)
            common[kind], cosines[kind] = sizes[kind], (list(matrices), (flat @ flat.T).cpu())
    return common, cosines


@torch.inference_mode()
def over_training(source: str, clip: Tensor, *, trust_code: bool = False) -> list[Moment]:
    """The cosines at each checkpoint that lies in a run folder: all ``.safetensors`` files, by their epoch.

    A training keeps its best one; copies of it made along the way count.

    Args:
        source: a run folder; a single file or the name of a model has no history.
        clip: as of :func:`attend`.
        trust_code: see :func:`gesta.checkpoint.load`.
    """
    moments: dict[int, Moment] = {}
    for path in sorted(Path(source).glob("*.safetensors")) if Path(source).is_dir() else []:
        epoch = read_metadata(path).get("notes", {}).get("epoch")
        if isinstance(epoch, int) and epoch not in moments:
            name, model = load(str(path), trust_code=trust_code)
            _, cosines = likeness(_maps(name, model, as_input(clip, model)))
            moments[epoch] = Moment(
                epoch=epoch, cosines={kind: _mean_pair(found[1]) for kind, found in cosines.items()}
            )
    return [moments[epoch] for epoch in sorted(moments)]


def _mean_pair(matrix: Tensor) -> float:
    """Mean over the pairs of different stages."""
    return float((matrix.sum() - matrix.trace()) / (len(matrix) * (len(matrix) - 1)))


def draw(clip: Tensor, found: StageAttentions) -> Figure:
    """A row per stage: A_t, then A_s over the frames; below, the cosines between stages, and over training if known.

    Args:
        clip: raw frames ``(T, 3, S, S)`` uint8.
        found: what :func:`attend` gave for it.
    """
    from matplotlib.figure import Figure

    shown = np.linspace(0, len(clip) - 1, min(len(clip), COLUMNS)).round().astype(int).tolist()
    wide = 1.25 * (len(shown) + 1) + 1.4
    below = 2.5 if found.cosines else 0.0
    figure = Figure(figsize=(wide, 1.35 * len(found.stages) + below + 0.5), layout="constrained", facecolor="white")
    parts = figure.subfigures(
        2 if below else 1, 1, squeeze=False, height_ratios=[1.35 * len(found.stages), below][: 1 + bool(below)]
    )
    _draw_stages(parts[0, 0], clip, found, shown)
    if below:
        _draw_cosines(parts[1, 0], found)
    what = (
        "what a place gets on average"
        if found.place is None
        else f"what the place {found.place[0]},{found.place[1]} attends to"
    )
    figure.suptitle(f"{found.name}: frames that attend to frames, and {what} (1: uniform)", fontsize=10)
    return figure


def _draw_stages(figure: SubFigure, clip: Tensor, found: StageAttentions, shown: list[int]) -> None:
    edge = clip.shape[-1]
    panels = figure.subplots(
        len(found.stages), len(shown) + 2, squeeze=False, width_ratios=[1] * (len(shown) + 1) + [0.06]
    )
    for row, s in zip(panels, found.stages):
        for axes in row[:-1]:
            _bare(axes)
        row[0].set_ylabel(f"stage {s.stage}\n{' × '.join(map(str, s.size))}", fontsize=8)
        if s.temporal is None:
            row[0].text(0.5, 0.5, "none", ha="center", va="center", fontsize=8, transform=row[0].transAxes)
        else:
            _matrix(row[0], s.temporal, 0, float(s.temporal.max()), "Blues", [])
        for axes, frame in zip(row[1:], shown):
            axes.imshow(clip[frame].float().mean(0).numpy(), cmap="gray", vmin=0, vmax=255)
            if s.spatial is not None:
                heat = axes.imshow(
                    s.spatial.numpy(),
                    cmap="turbo",
                    vmin=float(s.spatial.min()),
                    vmax=float(s.spatial.max()),
                    alpha=0.55,
                    extent=(-0.5, edge - 0.5, edge - 0.5, -0.5),
                    interpolation="nearest",
                )
            if found.place is not None:
                y, x = ((at + 0.5) * edge / found.size - 0.5 for at in found.place)
                axes.plot([x], [y], "+", color="white", markersize=9, markeredgewidth=1.6)
        if s.spatial is None:
            row[-1].set_axis_off()
        else:
            figure.colorbar(heat, cax=row[-1]).ax.tick_params(labelsize=6)
    panels[0, 0].set_title("frames", fontsize=8)
    for axes, frame in zip(panels[0, 1:], shown):
        axes.set_title(f"places, frame {frame}" if frame == shown[0] else f"{frame}", fontsize=8)


def _draw_cosines(figure: SubFigure, found: StageAttentions) -> None:
    history = len(found.moments) > 1
    panels = figure.subplots(1, len(found.cosines) + history, squeeze=False)[0]
    for axes, (kind, (stages, matrix)) in zip(panels, found.cosines.items()):
        _matrix(axes, matrix, 0, 1, "Blues", [str(stage) for stage in stages])
        axes.set_title(f"{kind}: cosines between stages\npooled to {_words(found.common[kind])}", fontsize=8)
        axes.set_xlabel("stage", fontsize=8)
        axes.set_ylabel("stage", fontsize=8)
    if history:
        for kind in found.cosines:
            points = [(m.epoch, m.cosines[kind]) for m in found.moments if kind in m.cosines]
            panels[-1].plot(*zip(*points), marker="o", markersize=4, label=kind)
        panels[-1].set_title("mean cosine of two stages", fontsize=8)
        panels[-1].set_xlabel("epoch", fontsize=8)
        panels[-1].tick_params(labelsize=7)
        panels[-1].spines[["top", "right"]].set_visible(False)
        panels[-1].legend(frameon=False, fontsize=8)


def _matrix(axes: Axes, values: Tensor, low: float, high: float, colours: str, names: list[str]) -> None:
    """A square of cells, with their numbers if they are few."""
    axes.imshow(values.numpy(), cmap=colours, vmin=low, vmax=high, interpolation="nearest")
    axes.set_xticks(range(len(names)), labels=names, fontsize=8)
    axes.set_yticks(range(len(names)), labels=names, fontsize=8)
    if len(values) <= 4:
        for (i, j), value in np.ndenumerate(values.numpy()):
            dark = value > low + 0.6 * (high - low)
            axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=6.5, color="white" if dark else "0.2")


def _words(common: tuple[int, ...]) -> str:
    return f"{common[0]} frames" if len(common) == 1 else f"{common[0]} × {common[1]} places"


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def stage_attention_figure(
    source: str,
    video: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    place: tuple[int, int] | None = None,
    trust_code: bool = False,
) -> StageAttentions:
    """Draw the attention of a model's stages on the middle clip of a video into a picture.

    Args:
        source: run folder, ``.safetensors`` file or name of a model (random weights).
        video: file or folder of frames.
        out: the picture; its ending says the kind (.png, .svg, .pdf).
        place: as in :func:`attend`.
        trust_code: see :func:`gesta.checkpoint.load`.

    Raises:
        GestaError: as :func:`attend`, an unreadable video, a picture that cannot be written.
    """
    name, model = load(source, trust_code=trust_code)
    clip = read_clip(video, model.config.clip)
    found = attend(name, model, clip, place=place, moments=over_training(source, clip, trust_code=trust_code))
    write_figure(draw(clip, found), out)
    return found
