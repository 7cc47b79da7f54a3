"""Where feature maps respond, frame by frame, for several models beside each other (ATA's Figs 6 and 7).

Y. Zhao et al., "Alignment-guided Temporal Attention for Video Action Recognition", NeurIPS 2022: the mean over channels
of the final feature map, or of the map after the temporal modelling of a block (the paper's 7th is block 6 here). The
final map is the last block's before any layer norm, which makes channel means (nearly) equal.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from gesta.analysis.figures import hide_axes, new_figure, show_frame, show_heat, spread_frames
from gesta.analysis.measured import plain
from gesta.analysis.sources import after_time, as_input, check_places
from gesta.errors import GestaError
from gesta.model import ClipSpec, VideoModel
from gesta.progress import join_lines

COLUMNS = 8
"""Frames that are drawn at most."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ResponseMap:
    """One value per position of a model's feature map."""

    name: str
    tap: str  # of the feature map
    map: Tensor  # (T', H, W); T' may be less than the frames of the clip

    def map_of(self, frame: int, frames: int) -> Tensor:
        """The part of the map ``(H, W)`` that frame ``frame`` of ``frames`` belongs to."""
        return self.map[frame * len(self.map) // frames]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Response:
    """Maps of one clip."""

    clip: Tensor  # raw frames (T, 3, S, S) uint8
    maps: list[ResponseMap]  # one row of the figure each

    def to_json(self) -> dict[str, Any]:
        """All but the clip."""
        return plain(self, "clip")

    def __str__(self) -> str:
        return join_lines(
            f"{m.name}, {m.tap}: {' × '.join(map(str, m.map.shape))}, mean {m.map.mean():.3g}, "
            f"{m.map.min():.3g} to {m.map.max():.3g}"
            for m in self.maps
        )


@torch.inference_mode()
def measure_response(models: Sequence[tuple[str, VideoModel]], clip: Tensor, *, block: int | None = None) -> Response:
    """Channel means of a feature map of each model.

    Args:
        models: names and models in evaluation mode; all expect the same frames.
        clip: as in :mod:`gesta.analysis`.
        block: None for the last block's result, otherwise the map after this block's temporal modelling.

    Raises:
        GestaError: models that expect different frames, or whose maps stay permuted; no such block.
    """
    (first_name, first_model), *_ = models
    expected = _describe(first_model.config.clip)
    maps = []
    for name, model in models:
        if (own := _describe(model.config.clip)) != expected:
            raise GestaError(f"{name} expects {own}, {first_name} expects {expected}: draw them separately")
        check_places(name, model)
        tap = f"block.{len(model.blocks) - 1}" if block is None else after_time(model, block)
        grid = model.taps(as_input(clip, model), [tap])[tap]
        maps.append(ResponseMap(name=name, tap=tap, map=grid[0].float().mean(0).cpu()))
    return Response(clip=clip, maps=maps)


def draw_response(measured: Response) -> Figure:
    """The frames, and under them each model's response over them, on one colour scale per model."""
    clip = measured.clip
    shown = spread_frames(len(clip), COLUMNS)
    rows = 1 + len(measured.maps)
    figure = new_figure(1.5 * len(shown) + 1.9, 1.56 * rows + 0.2, frames_apart=(0.02, 0.01))
    panels = figure.subplots(rows, len(shown) + 1, squeeze=False, width_ratios=[1] * len(shown) + [0.06])
    panels[0, -1].set_axis_off()
    for axes in panels[:, :-1].flat:
        hide_axes(axes)
    for axes, frame in zip(panels[0], shown):
        show_frame(axes, clip[frame])
        axes.set_title(f"frame {frame}", fontsize=9)
    panels[0, 0].set_ylabel("video", fontsize=9)
    for row, response in zip(panels[1:], measured.maps):
        low, high = np.quantile(response.map.numpy(), (0.01, 0.99))
        for axes, frame in zip(row, shown):
            heat = show_heat(axes, clip[frame], response.map_of(frame, len(clip)), low, high, alpha=0.6)
        row[0].set_ylabel(f"{_label(response.name)}\n{response.tap}", fontsize=9)
        figure.colorbar(heat, cax=row[-1]).ax.tick_params(labelsize=7)
    return figure


def _describe(clip: ClipSpec) -> str:
    spacing = f"{clip.stride} apart" if clip.sampling == "dense" else "spread over the video"
    squashed = ", squashed to a square" * clip.squash
    shrunk = ", closer together in short videos" * clip.shrink
    return f"{clip.frames} frames {spacing}{squashed}{shrunk}"


def _label(name: str) -> str:
    """A name in lines that fit beside a frame; of a path its last part."""
    path = Path(name.removesuffix("/best.safetensors"))
    return "\n".join(textwrap.wrap(path.name, 20))
