"""Filters of a model's first layer as pictures: one image each, or a row of slices each if they extend over time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor, nn

from gesta.analysis.figures import new_figure
from gesta.errors import GestaError
from gesta.model import VideoModel

GAP = 1
"""Pixels between slices of a filter; twice as many are between filters."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Filters:
    """The filters that see the pixels."""

    name: str
    layer: str  # name of the convolution in it
    weights: Tensor  # (O, 3, h, w) or (O, 3, t, h, w), float32

    @property
    def size(self) -> str:
        """``t × h × w`` or ``h × w``."""
        return " × ".join(str(length) for length in self.weights.shape[2:])

    @property
    def norms(self) -> Tensor:
        """Length of each filter, ``(O,)``."""
        return self.weights.flatten(1).norm(dim=1)

    def to_json(self) -> dict[str, Any]:
        """The layer, the shape of its weights and the filters' norms."""
        shape, norms = list(self.weights.shape), self.norms.tolist()
        return {"model": self.name, "layer": self.layer, "shape": shape, "norms": norms}

    def __str__(self) -> str:
        low, high = self.norms.min(), self.norms.max()
        return f"{self.name}, {self.layer}: {len(self.weights)} filters of {self.size}, norms {low:.3g} to {high:.3g}"


def measure_filters(name: str, model: VideoModel, *, folded: bool = True) -> Filters:
    """The filters that see the pixels: those of the first convolution of three channels.

    Args:
        name: what to call the model.
        model: any.
        folded: of a model whose kernels are folded before they are used (MFST), as they act on the video instead of the
            weights as learned.

    Raises:
        GestaError: a model without such a convolution; ``folded=False`` of one that folds nothing.
    """
    for layer, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d) and module.in_channels == 3:
            folding = getattr(model, "filters", None)  # a method filters(folded) of models that fold
            if folding is None and not folded:
                raise GestaError(f"{type(model).__name__} folds nothing into its filters: leave --learned out")
            weights = module.weight if folding is None else folding(folded)
            return Filters(name=name, layer=layer, weights=weights.detach().float().cpu())
    raise GestaError(f"{type(model).__name__} has no convolution that sees pixels, and so no filters to draw")


def draw_filters(measured: Filters, most: int = 64) -> Figure:
    """Filters, the greatest norm first, each with its own scale: grey is 0, its largest weight is black or full.

    Args:
        measured: the filters; those that extend over time are drawn as rows of slices.
        most: filters drawn at most.
    """
    total = len(measured.weights)
    shown = min(most, total)
    which = f"all {shown}" if shown == total else f"the {shown} of {total} of the greatest norm"
    picture = mosaic(measured.weights, most)
    height, width = picture.shape[:2]
    inches = min(14.0, max(6.0, width / 22))
    figure = new_figure(inches, inches * height / width + 0.7)
    axes = figure.add_subplot()
    axes.imshow(picture, interpolation="nearest")
    axes.set_axis_off()
    time = "; a row of slices each, time from left to right" if measured.weights.dim() == 5 else ""
    axes.set_title(f"{measured.name}, {measured.layer}\n{which} filters of {measured.size}{time}", fontsize=10)
    return figure


def mosaic(filters: Tensor, most: int) -> np.ndarray:
    """The picture: ``(rows, columns, 3)`` from 0 to 1, white between filters."""
    volumes = filters if filters.dim() == 5 else filters[:, :, None]
    order = volumes.flatten(1).norm(dim=1).argsort(descending=True, stable=True)[:most]
    scale = volumes[order].abs().amax((1, 2, 3, 4), keepdim=True).clamp(min=1e-12)
    values = (0.5 + volumes[order] / scale / 2).permute(0, 2, 3, 4, 1).numpy()  # (n, t, h, w, 3)
    count, slices, height, width = values.shape[:4]
    cell_width, cell_height = slices * (width + GAP) + GAP, height + 2 * GAP
    columns = max(1, round((count * cell_height / cell_width) ** 0.5 * 1.2))  # a little wider than high
    rows = -(-count // columns)
    picture = np.ones((rows * cell_height, columns * cell_width, 3), dtype=np.float32)
    for number, volume in enumerate(values):
        top, left = number // columns * cell_height, number % columns * cell_width
        for x, image in zip(range(left, picture.shape[1], width + GAP), volume):
            picture[top : top + height, x : x + width] = image
    return picture
