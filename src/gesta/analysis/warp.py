"""What STAN does to a clip: its transform θ, learnt on feature maps, applied to the raw frames (STAN's Fig. 2).

Ye & Liang 2023. θ is regressed from the map that enters the layer; as its coordinates run from -1 to 1 whatever the
size of the map, the same θ warps the clip itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from torch import Tensor

from gesta.analysis.figures import ORANGE, RED, new_figure, show_frame
from gesta.analysis.measured import plain
from gesta.analysis.sources import as_input
from gesta.errors import GestaError
from gesta.model import VideoModel
from gesta.plugins.stan import STAN, sampling_grid, thetas, warp, without_flat_axes
from gesta.plugins.stan import spatial_only as without_time


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class LayerWarp:
    """One STAN layer's transform of the clip."""

    layer: str  # the layer's name in the model, inserts.3.0
    block: int  # the block before which it is inserted
    theta: Tensor  # (4, 4), rows and columns in the order t, x, y, 1
    after: Tensor  # the clip resampled under θ, of its shape
    source: Tensor  # where each pixel of it is taken from, (T, S, S, 3): x, y, t, from border -1 to border 1


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Warp:
    """The transforms of one clip."""

    name: str
    clip: Tensor  # raw frames (T, 3, S, S) uint8
    layers: list[LayerWarp]  # in the order of the forward pass

    def to_json(self) -> dict[str, Any]:
        """The transforms, without pixels."""
        return plain(self, "clip", "after", "source")

    def __str__(self) -> str:
        return "\n".join(f"{self.name}: STAN before block {w.block}\n{format_theta(w.theta)}" for w in self.layers)


@torch.inference_mode()
def measure_warp(name: str, model: VideoModel, clip: Tensor, *, spatial_only: bool = False) -> Warp:
    """Apply the transform of every STAN layer of a model to the clip it was regressed from.

    Args:
        name, model, clip: as in :mod:`gesta.analysis`; the model is put into evaluation mode.
        spatial_only: leave out all that concerns time (θ's row and column t).

    Raises:
        GestaError: a model without STAN.
    """
    by_layer = thetas(model.eval(), as_input(clip, model))
    if not by_layer:
        without = f"{type(model).__name__} has no STAN layer and hence no transform to draw"
        raise GestaError(f"{without}; train one that has, e.g. stan_mvitv2_s")
    video = clip.to(next(model.parameters()).device).float().transpose(0, 1)[None]
    layers = []
    for path, (theta, size) in by_layer.items():
        settings: STAN = model.get_submodule(path).config  # type: ignore[assignment]
        theta = without_flat_axes(theta, size)
        if spatial_only:
            theta = without_time(theta)
        how: dict[str, Any] = {"direction": settings.direction, "align_corners": settings.align_corners}
        source = sampling_grid(theta, video.shape[2:], **how)[0].cpu()
        if settings.align_corners:  # -1 and 1 are then centres of pixels; here they are the clip's borders
            cells = torch.tensor(video.shape[:1:-1])
            source = ((source + 1) * (cells - 1) + 1) / cells - 1
        after = warp(video, theta, padding_mode=settings.padding_mode, **how)
        pixels = after[0].transpose(0, 1).round().clamp(0, 255).to(torch.uint8).cpu()
        block = int(path.split(".")[1])
        layers.append(LayerWarp(layer=path, block=block, theta=theta[0].cpu(), after=pixels, source=source))
    return Warp(name=name, clip=clip.cpu(), layers=layers)


def draw_warp(measured: Warp) -> Figure:
    """Middle frame before and after, θ beneath, and which frames it is taken from; one row per layer.

    On the frame before, the outline shows from where the frame after is taken.
    """
    figure = new_figure(11, 4.9 * len(measured.layers))
    rows = figure.subfigures(len(measured.layers), squeeze=False)
    for row, layer in zip(rows[:, 0], measured.layers):
        _draw_layer(row, measured.clip, layer)
    return figure


def draw_warps(measured: Sequence[Warp]) -> Figure:
    """The middle frames of several clips before and after the first STAN layer, a column each: how θ follows a clip.

    On the frames before, the outline shows from where the frame after is taken.
    """
    figure = new_figure(3.2 * len(measured), 6.6)
    panels = figure.subplots(2, len(measured), squeeze=False)
    for (above, below), of_one in zip(panels.T, measured):
        layer, half = of_one.layers[0], len(of_one.clip) // 2
        above.set_title(of_one.name, fontsize=10)
        show_frame(above, of_one.clip[half])
        _draw_mesh(above, layer.source[half], of_one.clip.shape[-1])
        below.set_title("under θ", fontsize=10)
        show_frame(below, layer.after[half])
        for axes in (above, below):
            axes.set(xticks=[], yticks=[])
    limits = [axes.get_xlim() + axes.get_ylim() for axes in panels[0]]  # of y the lower edge comes first
    left, right, bottom, top = (pick(edge) for pick, edge in zip((min, max, max, min), zip(*limits)))
    for axes in panels[0]:  # one scale for all, so that they can be compared
        axes.set(xlim=(left, right), ylim=(bottom, top))
    figure.suptitle(f"STAN before block {measured[0].layers[0].block}; outline: what is shown under θ", fontsize=10)
    return figure


def _draw_layer(figure: SubFigure, clip: Tensor, layer: LayerWarp) -> None:
    figure.suptitle(f"STAN before block {layer.block}", fontsize=12)
    panels = figure.subplots(2, 3, height_ratios=(4, 1))
    for axes in panels[1]:
        axes.set_axis_off()
    left, middle, right = panels[0]
    half = len(clip) // 2
    left.set_title("middle frame of the clip", fontsize=10)
    show_frame(left, clip[half])
    _draw_mesh(left, layer.source[half], clip.shape[-1])
    middle.set_title("the same under θ", fontsize=10)
    show_frame(middle, layer.after[half])
    for axes in (left, middle):
        axes.set(xticks=[], yticks=[])
    _draw_time(right, layer)
    panels[1, 0].text(0, 1, format_theta(layer.theta), family="monospace", fontsize=9, va="top")
    legend = "outline: what the frame under θ shows,\nits upper edge in red"
    if torch.allclose(layer.theta, torch.eye(4), atol=1e-4):
        legend = "θ is the identity: nothing learnt, or nothing to align"
    panels[1, 1].text(0, 1, legend, fontsize=9, va="top")


def _draw_mesh(axes: Axes, source: Tensor, size: int) -> None:
    """The outline and some lines of the region that a frame is taken from; ``source`` is ``(S, S, 3)``."""
    axes.set_facecolor("0.85")
    pixels = (source + 1) / 2 * size - 0.5  # image coordinates count pixel centres
    for fraction in (0.25, 0.5, 0.75):
        line = round(fraction * (size - 1))
        for mesh in (pixels[line], pixels[:, line]):
            axes.plot(mesh[:, 0], mesh[:, 1], color="#ffb000", linewidth=0.7, alpha=0.7)
    outline = torch.cat((pixels[0], pixels[:, -1], pixels[-1].flip(0), pixels[:, 0].flip(0))).numpy()
    axes.plot(outline[:, 0], outline[:, 1], color="#ffb000", linewidth=2.2)
    reach = np.clip(outline[:, :2], -size, 2 * size)  # an extreme θ must not shrink the frame to a dot
    margin = 0.03 * size
    axes.set_xlim(min(0, reach[:, 0].min()) - margin, max(size - 1, reach[:, 0].max()) + margin)
    axes.set_ylim(max(size - 1, reach[:, 1].max()) + margin, min(0, reach[:, 1].min()) - margin)
    axes.plot(pixels[0, :, 0], pixels[0, :, 1], color=RED, linewidth=2.2)


def format_theta(theta: Tensor) -> str:
    """θ as lines of text."""
    rows = ["θ" + "".join(f"{axis:>8}" for axis in "txy1")]
    rows += [axis + "".join(f"{value:8.3f}" for value in row.tolist()) for axis, row in zip("txy1", theta)]
    return "\n".join(rows)


def _draw_time(axes: Axes, layer: LayerWarp) -> None:
    """Which frames each output frame is taken from; away from the picture's centre they may be others."""
    frames, middle = len(layer.after), layer.after.shape[-1] // 2
    source = ((layer.source[..., 2] + 1) / 2 * frames - 0.5).numpy()
    frame = np.arange(frames)
    low, high = source.min((1, 2)), source.max((1, 2))
    axes.plot(frame, frame, ":", color="0.6", label="as in the clip")
    axes.fill_between(frame, low, high, alpha=0.25, linewidth=0, label="anywhere in the frame")
    axes.plot(frame, source[:, middle, middle], color=ORANGE, linewidth=2, label="centre of the frame")
    axes.set_title("time", fontsize=10)
    axes.set(xlabel="frame under θ", ylabel="shows frame … of the clip")
    axes.locator_params(integer=True)
    axes.set_box_aspect(1)
    axes.legend(fontsize=7, frameon=False)
