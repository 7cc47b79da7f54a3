"""Used by several figures: an empty figure, colours, frames under heat maps, and writing the file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text
from matplotlib.ticker import LogFormatter
from torch import Tensor

from gesta.errors import GestaError
from gesta.files import make_folder, write_atomically
from gesta.progress import visible

BLUE, GREY, RED, ORANGE = "#3b82f6", "#94a3b8", "#d40000", "#d55e00"


MAX_CHARACTERS = 80
"""Of one text in a figure: matplotlib takes minutes for a name of 100,000."""


class PlainFigure(Figure):
    """A figure whose texts are shown as they are: a ``$`` in a name begins no formula (which may be a wrong one)."""

    def draw(self, renderer: Any) -> None:
        """Draw it, as matplotlib does."""
        with matplotlib.rc_context({"text.parse_math": False}):  # for texts that are made meanwhile, as of ticks
            for text in self.findobj(Text):
                text.set_parse_math(False)
                text.set_text(_shown(text.get_text()))
            for axis in (axis for axes in self.axes for axis in (axes.xaxis, axes.yaxis)):
                names = [label.get_text() for label in axis.get_majorticklabels()]
                if (shown := [_shown(name) for name in names]) != names:  # an axis writes its labels again
                    axis.set_ticks(axis.get_majorticklocs(), labels=shown)
            super().draw(renderer)


def _shown(text: str) -> str:
    """A text without control characters, cut."""
    text = visible(text)
    return text if len(text) <= MAX_CHARACTERS else text[: MAX_CHARACTERS - 1] + "…"


def new_figure(width: float, height: float, *, frames_apart: tuple[float, float] | None = None) -> Figure:
    """A white figure of so many inches whose parts are arranged by matplotlib.

    Args:
        width, height: in inches.
        frames_apart: of rows of frames, which have next to nothing between them: padding and space of the height.
    """
    layout: Any = "constrained"
    if frames_apart is not None:
        layout = ConstrainedLayoutEngine(w_pad=0.01, h_pad=frames_apart[0], wspace=0.0, hspace=frames_apart[1])
    return PlainFigure(figsize=(width, height), layout=layout, facecolor="white")


def distinct_colours(count: int) -> list[Any]:
    """So many colours, easy to distinguish if they are at most 20."""
    palette = matplotlib.colormaps["tab10" if count <= 10 else "tab20" if count <= 20 else "nipy_spectral"]
    return [palette(i if count <= 20 else i / (count - 1)) for i in range(count)]


def spread_frames(frames: int, most: int) -> list[int]:
    """Frames of a clip that are drawn: all, or ``most`` spread evenly from the first to the last."""
    return np.linspace(0, frames - 1, min(frames, most)).round().astype(int).tolist()


def hide_axes(axes: Axes) -> None:
    """Remove ticks and borders but keep the labels, which ``set_axis_off`` would hide."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def hide_top_right_spines(axes: Axes) -> None:
    """Remove the upper and the right border of a chart."""
    axes.spines[["top", "right"]].set_visible(False)


def set_log_scale(axes: Axes) -> None:
    """Make the x axis logarithmic, with plain numbers (matplotlib writes powers as formulas)."""
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(LogFormatter())
    axes.xaxis.set_minor_formatter(LogFormatter())


def show_frame(axes: Axes, frame: Tensor, *, grey: bool = False, alpha: float = 1.0) -> None:
    """Draw a frame ``(3, S, S)`` uint8."""
    if grey:
        axes.imshow(frame.float().mean(0).numpy(), cmap="gray", vmin=0, vmax=255, alpha=alpha)
    else:
        axes.imshow(frame.permute(1, 2, 0).numpy(), alpha=alpha)


def show_heat(
    axes: Axes, frame: Tensor, heat: Tensor, low: float, high: float, *, alpha: float, interpolation: str = "bilinear"
) -> Any:
    """Draw a frame in grey and a map ``(H, W)`` of any size over all of it.

    Args:
        axes: where.
        frame: ``(3, S, S)`` uint8.
        heat: the map.
        low: value of the first colour.
        high: value of the last colour.
        alpha: opacity of the map.
        interpolation: between its cells.

    Returns:
        The map's image, for a colour bar.
    """
    edge = frame.shape[-1]
    show_frame(axes, frame, grey=True)
    how: dict[str, Any] = {"extent": (-0.5, edge - 0.5, edge - 0.5, -0.5), "interpolation": interpolation}
    return axes.imshow(heat.numpy(), cmap="turbo", vmin=low, vmax=high, alpha=alpha, **how)


def write_figure(figure: Figure, out: str | os.PathLike[str]) -> Path:
    """Write a figure; the suffix of ``out`` chooses the format (.png, .svg, .pdf). Its folder is made if needed.

    Raises:
        GestaError: a format that matplotlib does not know, or a path that cannot be written.
    """
    try:
        make_folder(Path(out).parent)
        with write_atomically(out) as file:
            figure.savefig(file, dpi=130, format=Path(out).suffix[1:].lower() or "png")
    except ValueError as error:
        remedy = "choose another file with --out, .png, .svg or .pdf"
        raise GestaError(f"{out}: the picture cannot be written ({error}); {remedy}") from None
    return Path(out)
