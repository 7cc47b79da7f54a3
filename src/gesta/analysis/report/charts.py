"""Charts of a report as inline SVG that takes the colour of the page's text, for light and dark pages alike."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gesta.analysis.figures import hide_top_right_spines

TEXT_COLOUR = "#123456"
"""Replaced by the page's text colour after matplotlib has drawn."""

LINE_COLOURS = ("#3b82f6", "#f59e0b", "#10b981", "#ef4444", "#8b5cf6", "#14b8a6", "#ec4899")

MAX_POINTS = 1500
"""Points of a curve that are drawn at most."""

MAX_CLASSES = 110
"""Classes of a confusion matrix that are drawn at most."""

LogLine = dict[str, Any]
Points = list[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Panel:
    """Curves that are drawn into one pair of axes: name → points of step and value."""

    title: str
    curves: dict[str, Points]
    smooth: bool = False


def training_curves(log: Sequence[LogLine]) -> str:
    """Losses, validation accuracy, learning rate and speed over the optimiser steps of a training.

    Args:
        log: the lines of ``log.jsonl``; what they lack is left out.

    Returns:
        An ``<svg>`` element; an empty string if there is nothing to draw.
    """
    steps = [line for line in log if line.get("kind") == "step" and "step" in line]
    epochs = [line for line in log if line.get("kind") == "epoch" and "step" in line]
    accuracies = dict.fromkeys(
        name for line in epochs for name in line.get("val") or {} if name.endswith(("top1", "top5", "mean_class"))
    )
    panels = [
        Panel("training loss", _losses(steps, epochs), smooth=True),
        Panel(
            "validation, %",
            {name: _points(epochs, "val", name) for name in accuracies},
        ),
        Panel("learning rate", {"lr": _points(steps, "lr")}),
        Panel("clips per second", {"clips/s": _points(epochs, "clips_per_s")}),
    ]
    panels = [panel for panel in panels if any(panel.curves.values())]
    return _svg(panels) if panels else ""


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
        if isinstance(value, int | float):
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
        figure = Figure(figsize=(10.4, 2.7 * rows), layout="constrained")
        for index, panel in enumerate(panels):
            axes = figure.add_subplot(rows, min(2, len(panels)), index + 1)
            _draw_panel(axes, panel)
            if index >= len(panels) - 2:
                axes.set_xlabel("optimiser step")
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = svg.replace(TEXT_COLOUR, "currentColor")
    # without a size of its own the picture takes the width of the page
    return re.sub(r'(<svg[^>]*?) (?:width|height)="[^"]*"(.*?) (?:width|height)="[^"]*"', r"\1\2", svg, count=1)


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
        axes.plot(x, y, color=colour, linewidth=1.6, label=name, marker="." if len(y) < 60 else None)
    axes.locator_params(axis="x", integer=True, nbins=6)
    if len(panel.curves) > 1:
        axes.legend(frameon=False, fontsize=8)


def _smooth(y: np.ndarray, width: int) -> np.ndarray:
    """Mean of the ``width`` values on either side, fewer at the ends."""
    total = np.concatenate(([0.0], np.cumsum(y)))
    index = np.arange(len(y))
    low, high = np.maximum(index - width, 0), np.minimum(index + width + 1, len(y))
    return (total[high] - total[low]) / (high - low)


def confusion_svg(matrix: Sequence[Sequence[int]], names: Sequence[str], failed: Sequence[int]) -> tuple[str, str]:
    """Rows true, columns predicted; the darker a cell, the greater its fraction of the row.

    Args:
        matrix: numbers of videos.
        names: of the classes.
        failed: videos of each class that could not be scored; a last column if there are any.

    Returns:
        An ``<svg>`` element, whose cells show their numbers under the pointer, and a remark, empty unless classes are
        left out because there are too many to read.
    """
    counts = np.asarray(matrix)
    classes = list(range(len(counts)))
    remark = ""
    if len(classes) > MAX_CLASSES:
        wrong = counts.sum(0) + counts.sum(1) - 2 * counts.diagonal()
        classes = sorted(np.argsort(-wrong, kind="stable")[:MAX_CLASSES].tolist())
        remark = f"The {MAX_CLASSES} of {len(counts)} classes that are confused most often."
    totals = counts.sum(1) + np.asarray(failed)
    cell = max(9, min(44, 700 // len(classes)))
    font = max(7, min(13, cell - 2))
    left = min(200, 12 + round(0.6 * font * max(len(str(names[i])) for i in classes)))  # room for the names
    width = left + cell * (len(classes) + any(failed)) + 8
    height = left + cell * len(classes) + 4
    lines = [
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" class="matrix" font-size="{font}" '
        'role="img" aria-label="confusion matrix">'
    ]
    for row, i in enumerate(classes):
        label = escape(_shorten(str(names[i]), left, font))
        middle = left + cell * (row + 0.5)
        lines.append(f'<text x="{left - 6}" y="{middle + font / 3:.1f}" text-anchor="end">{label}</text>')
        lines.append(_column_label(middle, left, font, label))
        frame = f'x="{left}" y="{left + cell * row}" width="{cell * len(classes)}" height="{cell}"'
        lines.append(f'<rect {frame} class="row"/>')
    if any(failed):
        lines.append(_column_label(left + cell * (len(classes) + 0.5), left, font, "failed"))
    for row, i in enumerate(classes):
        for column, j in enumerate(classes):
            text = f"{names[i]}: {counts[i, j]} of {totals[i]} predicted as {names[j]}"
            corner = (left + cell * column, left + cell * row)
            kind = "hit" if i == j else "miss"
            lines += _cell(corner, cell, font, int(counts[i, j]), int(totals[i]), kind, text)
        text = f"{names[i]}: {failed[i]} of {totals[i]} failed"
        corner = (left + cell * len(classes), left + cell * row)
        lines += _cell(corner, cell, font, int(failed[i]), int(totals[i]), "failed", text)
    return "".join(lines) + "</svg>", remark


def _column_label(x: float, left: int, font: int, label: str) -> str:
    turned = f"translate({x + font / 3:.1f} {left - 6}) rotate(-90)"
    return f'<text transform="{turned}">{label}</text>'


def _cell(corner: tuple[int, int], size: int, font: int, count: int, total: int, kind: str, text: str) -> list[str]:
    """A cell that shows a text under the pointer, and its number if there is room; nothing for no videos."""
    if not count:
        return []
    x, y = corner
    opacity = 0.12 + 0.88 * count / max(total, 1)
    lines = [
        f'<g><title>{escape(text)}</title><rect x="{x + 0.5}" y="{y + 0.5}" width="{size - 1}" height="{size - 1}" '
        f'class="{kind}" fill-opacity="{opacity:.2f}"/>'
    ]
    if size >= 22:
        on_dark = ' class="on"' if opacity > 0.55 and kind != "failed" else ""
        position = f'x="{x + size / 2}" y="{y + size / 2 + font / 3:.1f}" text-anchor="middle"'
        lines.append(f"<text {position}{on_dark}>{count}</text>")
    return [*lines, "</g>"]


def _shorten(name: str, width: int, font: int) -> str:
    most = int(width / (0.6 * font))
    return name if len(name) <= most else name[: most - 1] + "…"
