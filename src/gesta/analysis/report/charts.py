"""Charts of a report, for inline SVG that takes the colour of the page's text, on light and dark pages alike."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from gesta.analysis.figures import hide_top_right_spines, new_figure
from gesta.config import Between
from gesta.evaluation.metrics import METRICS
from gesta.progress import one_line

TEXT_COLOUR = "#123456"
"""Replaced by the page's text colour after matplotlib has drawn."""

LINE_COLOURS = ("#3b82f6", "#f59e0b", "#10b981", "#ef4444", "#8b5cf6", "#14b8a6", "#ec4899")

MAX_POINTS = 1500
"""Points of a curve that are drawn at most."""

MAX_CLASSES = 110
"""Classes of a confusion matrix that are drawn at most."""

Values = dict[str, float | None] | None


class LogLine(TypedDict, total=False):
    """What is used of a line of ``log.jsonl``, see :mod:`gesta.training.log`."""

    kind: str
    step: Annotated[int, Between(0)]
    loss: float | None
    train_top1: float | None
    losses: Values
    lr: float | None
    val: Values
    seconds: Annotated[float, Between(0)] | None
    data_fraction: Annotated[float, Between(0, 1)] | None
    clips_per_s: float | None
    failures: dict[str, str] | list[str]


Points = list[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Panel:
    """Curves that are drawn into one pair of axes: name → points of step and value."""

    title: str
    curves: dict[str, Points]
    smooth: bool = False


def training_curves(log: Sequence[LogLine]) -> Markup:
    """Losses, validation accuracy, learning rate and speed over the optimiser steps of a training.

    Args:
        log: the lines of ``log.jsonl``; what they lack is left out.

    Returns:
        An ``<svg>`` element; an empty string if there is nothing to draw.
    """
    steps = [line for line in log if line.get("kind") == "step" and "step" in line]
    epochs = [line for line in log if line.get("kind") == "epoch" and "step" in line]
    accuracies = dict.fromkeys(
        name for line in epochs for name in line.get("val") or {} if name.split("/")[-1] in METRICS
    )
    panels = [
        Panel("training loss", _losses(steps, epochs), smooth=True),
        Panel(
            "accuracy, %",
            {
                "top1 of the training clips": _points(epochs, "train_top1"),
                **{f"{name}, validation": _points(epochs, "val", name) for name in accuracies},
            },
        ),
        Panel("learning rate", {"lr": _points(steps, "lr")}),
        Panel("clips per second", {"clips/s": _points(epochs, "clips_per_s")}),
    ]
    panels = [panel for panel in panels if any(panel.curves.values())]
    return Markup(_svg(panels) if panels else "")


def _losses(steps: list[LogLine], epochs: list[LogLine]) -> dict[str, Points]:
    """The whole loss, of the epochs where the steps have none, and its terms if there are several."""
    losses = {"loss": _points(steps, "loss")}
    terms = dict.fromkeys(name for line in steps for name in line.get("losses") or {})
    if len(terms) > 1:
        losses |= {name: _points(steps, "losses", name) for name in terms}
    if not losses["loss"]:
        losses["loss"] = _points(epochs, "loss")
    return losses


def _points(lines: Sequence[LogLine], *keys: str) -> Points:
    """Step and value of the lines that have a number under these keys, one inside the other."""
    points = []
    for line in lines:
        value: Any = line
        for key in keys:
            value = (value or {}).get(key)
        if value is not None:
            points.append((line["step"], float(value)))
    return points


def _svg(panels: Sequence[Panel]) -> str:
    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "curves",  # the same identifiers each time
        "font.size": 9,
        "font.family": "sans-serif",
    }
    style |= {f"{part}.color": TEXT_COLOUR for part in ("text", "xtick", "ytick", "grid")}
    style |= {f"axes.{part}": TEXT_COLOUR for part in ("edgecolor", "labelcolor", "titlecolor")}
    with matplotlib.rc_context(style):
        rows = (len(panels) + 1) // 2
        figure = new_figure(10.4, 2.7 * rows)
        for index, panel in enumerate(panels):
            axes = figure.add_subplot(rows, min(2, len(panels)), index + 1)
            _draw_panel(axes, panel)
            if index >= len(panels) - 2:
                axes.set_xlabel("optimiser step")
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    svg = re.sub(r"<(metadata|style).*?</\1>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = svg.replace(TEXT_COLOUR, "currentColor")
    # the page's policy allows no style in an element; all that matplotlib sets there are attributes, too
    svg = re.sub(r'(<[^<>]*) style="([^"<>]*)"', lambda match: match[1] + _attributes(match[2]), svg)
    # without a size of its own the picture takes the width of the page
    return re.sub(r'(<svg[^>]*?) (?:width|height)="[^"]*"(.*?) (?:width|height)="[^"]*"', r"\1\2", svg, count=1)


def _attributes(style: str) -> str:
    """CSS declarations of SVG as attributes."""
    pairs = (declaration.split(":", 1) for declaration in style.split(";"))
    return "".join(f' {name.strip()}="{value.strip()}"' for name, value in pairs)


def _draw_panel(axes: Axes, panel: Panel) -> None:
    axes.set_title(panel.title, fontsize=10)
    axes.grid(alpha=0.15)
    hide_top_right_spines(axes)
    axes.patch.set_alpha(0)
    for (name, points), colour in zip(panel.curves.items(), LINE_COLOURS * len(panel.curves)):
        if not points:
            continue
        x, y = np.array(points[:: len(points) // MAX_POINTS + 1]).T
        if panel.smooth and len(y) > 50:
            axes.plot(x, y, color=colour, linewidth=0.6, alpha=0.35)
            y = _smooth(y, len(y) // 50)
        axes.plot(x, y, color=colour, linewidth=1.6, label=one_line(name)[:40], marker="." if len(y) < 60 else None)
    axes.locator_params(axis="x", integer=True, nbins=6)
    if len(panel.curves) > 1:
        axes.legend(frameon=False, fontsize=8)


def _smooth(y: np.ndarray, width: int) -> np.ndarray:
    """Mean of the ``width`` values on either side, fewer at the ends."""
    total = np.concatenate(([0.0], np.cumsum(y)))
    index = np.arange(len(y))
    low, high = np.maximum(index - width, 0), np.minimum(index + width + 1, len(y))
    return (total[high] - total[low]) / (high - low)


class Cell(NamedTuple):
    """A cell of a confusion matrix that is not empty: its place among those drawn, and what it shows."""

    row: int
    column: int
    videos: int
    opacity: float
    kind: Literal["hit", "miss", "failed"]
    text: str


class MatrixChart(NamedTuple):
    """A confusion matrix as it is drawn: rows true, columns predicted; darker cells have more of their row."""

    rows: list[str]  # labels, shortened to fit
    columns: list[str]  # the same, and ``failed`` if videos failed
    cells: list[Cell]  # those without videos are left out
    cell: int  # pixels of a side of a cell
    left: int  # pixels before the first one, on the left and above
    font: int  # pixels of the labels
    remark: str  # empty unless classes are left out because there are too many to read

    def middle(self, number: int) -> float:
        """Of a row or a column, in pixels."""
        return self.left + self.cell * (number + 0.5)


def confusion_chart(matrix: Sequence[Sequence[int]], names: Sequence[str], failed: Sequence[int]) -> MatrixChart:
    """What a chart of a confusion matrix shows.

    Args:
        matrix: numbers of videos.
        names: of the classes.
        failed: videos of each class that could not be scored; a last column if there are any.
    """
    counts = np.asarray(matrix)
    classes = list(range(len(counts)))
    remark = ""
    if len(classes) > MAX_CLASSES:
        wrong = counts.sum(0) + counts.sum(1) - 2 * counts.diagonal()
        classes = sorted(np.argsort(-wrong, kind="stable")[:MAX_CLASSES].tolist())
        remark = f"The {MAX_CLASSES} of {len(counts)} classes that are confused most often."
    totals = counts.sum(1) + np.asarray(failed)
    cells = []
    for row, i in enumerate(classes):
        shown: list[tuple[int, Literal["hit", "miss", "failed"], str]] = [
            (int(counts[i, j]), "hit" if i == j else "miss", f"predicted as {names[j]}") for j in classes
        ]
        for column, (count, kind, what) in enumerate([*shown, (failed[i], "failed", "failed")]):
            if count:
                opacity = round(0.12 + 0.88 * count / max(totals[i], 1), 2)
                text = f"{names[i]}: {count} of {totals[i]} {what}"
                cells.append(Cell(row, column, count, opacity, kind, text))
    cell = max(9, min(44, 700 // len(classes)))
    font = max(7, min(13, cell - 2))
    left = min(200, 12 + round(0.6 * font * max(len(names[i]) for i in classes)))  # room for the names
    most = int(left / (0.6 * font))
    labels = [names[i] if len(names[i]) <= most else names[i][: most - 1] + "…" for i in classes]
    return MatrixChart(labels, [*labels, *["failed"] * any(failed)], cells, cell, left, font, remark)
