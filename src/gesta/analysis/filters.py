"""Filters of a model's first layer as pictures: one image each, or a row of slices each if they see time."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor, nn

from gesta.analysis.sources import write_figure
from gesta.errors import GestaError
from gesta.model import VideoModel

GAP = 1
"""Pixels between slices of a filter; twice as many are between filters."""


def first_filters(model: VideoModel, *, folded: bool = True) -> tuple[str, Tensor]:
    """The filters that see the pixels: those of the first convolution of three channels.

    Args:
        model: any.
        folded: of a model whose kernels are folded before they are used (MFST), as they act on the video instead of the
            weights as learned.

    Returns:
        The layer's name, and filters ``(O, 3, h, w)`` or ``(O, 3, t, h, w)``, float32.

    Raises:
        GestaError: a model without such a convolution.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d) and module.in_channels == 3:
            own = getattr(model, "filters", None)
            return name, (module.weight if own is None else own(folded)).detach().float().cpu()
    raise GestaError(f"{type(model).__name__} has no convolution that sees pixels, and so no filters to draw")


def draw(name: str, filters: Tensor, most: int = 64) -> Figure:
    """Filters, the greatest norm first, each with its own scale: grey is 0, its largest weight is black or full.

    Args:
        name: what to write above.
        filters: ``(O, 3, h, w)``, or ``(O, 3, t, h, w)`` drawn as rows of t slices.
        most: filters drawn at most.
    """
    from matplotlib.figure import Figure

    picture = mosaic(filters, most)
    shown = min(most, len(filters))
    which = f"all {shown}" if shown == len(filters) else f"the {shown} of {len(filters)} of the greatest norm"
    height, width = picture.shape[:2]
    wide = min(14.0, max(6.0, width / 22))
    figure = Figure(figsize=(wide, wide * height / width + 0.7), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    axes.imshow(picture, interpolation="nearest")
    axes.set_axis_off()
    size = " × ".join(str(n) for n in filters.shape[2:])
    time = "; a row of slices each, time from left to right" if filters.dim() == 5 else ""
    axes.set_title(f"{name}\n{which} filters of {size}{time}", fontsize=10)
    return figure


def mosaic(filters: Tensor, most: int) -> np.ndarray:
    """The picture: ``(rows, columns, 3)`` from 0 to 1, white between filters."""
    volumes = filters if filters.dim() == 5 else filters[:, :, None]
    order = volumes.flatten(1).norm(dim=1).argsort(descending=True, stable=True)[:most]
    scale = volumes[order].abs().amax((1, 2, 3, 4), keepdim=True).clamp(min=1e-12)
    values = (0.5 + volumes[order] / scale / 2).permute(0, 2, 3, 4, 1).numpy()  # (n, t, h, w, 3)
    count, slices, height, width = values.shape[:4]
    wide, high = slices * (width + GAP) + GAP, height + 2 * GAP
    columns = max(1, round((count * high / wide) ** 0.5 * 1.2))
    rows = -(-count // columns)
    picture = np.ones((rows * high, columns * wide, 3), dtype=np.float32)
    for number, volume in enumerate(values):
        top, left = number // columns * high, number % columns * wide
        for t, image in enumerate(volume):
            x = left + t * (width + GAP)
            picture[top : top + height, x : x + width] = image
    return picture


def filters_figure(
    name: str, model: VideoModel, out: str | os.PathLike[str], *, most: int = 64, folded: bool = True
) -> Path:
    """Draw a model's first filters into a picture.

    Args:
        name: of the model.
        model: any.
        out: the picture; its ending says the kind (.png, .svg, .pdf).
        most: filters drawn at most.
        folded: as in :func:`first_filters`.

    Raises:
        GestaError: as :func:`first_filters`, or a picture that cannot be written.
    """
    layer, filters = first_filters(model, folded=folded)
    return write_figure(draw(f"{name}, {layer}", filters, most), out)
