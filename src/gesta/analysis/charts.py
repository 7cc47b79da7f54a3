"""Figures of a run as inline SVG that takes the colour of the page's text, so one file serves light and dark."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from html import escape
from itertools import islice
from typing import Any

import numpy as np

INK = "#123456"
"""Stands for the page's text colour while matplotlib draws."""

COLOURS = ("#3b82f6", "#f59e0b", "#10b981", "#ef4444", "#8b5cf6", "#14b8a6", "#ec4899")
POINTS = 1500
"""Points of a curve that are drawn at most."""

CLASSES = 110
"""Classes of a confusion matrix that are drawn at most."""


def curves(log: Sequence[dict[str, Any]]) -> str:
    """Losses, validation accuracy, learning rate and speed over the optimiser steps of a training.

    Args:
        log: the lines of ``log.jsonl``; what they lack is left out.

    Returns:
        An ``<svg>`` element; an empty string if there is nothing to draw.
    """
    steps = [line for line in log if line.get("kind") == "step" and "step" in line]
    epochs = [line for line in log if line.get("kind") == "epoch" and "step" in line]
    losses = {"loss": _column(steps, lambda line: line.get("loss"))}
    names = dict.fromkeys(name for line in steps for name in line.get("losses") or {})
    if len(names) > 1:
        losses |= {name: _column(steps, lambda line, name=name: line["losses"].get(name)) for name in names}
    if not losses["loss"]:
        losses["loss"] = _column(epochs, lambda line: line.get("loss"))
    metrics = dict.fromkeys(
        name for line in epochs for name in line.get("val") or {} if name.endswith(("top1", "top5", "mean_class"))
    )
    panels: list[tuple[str, dict[str, list[tuple[int, float]]], bool]] = [
        ("training loss", losses, True),
        (
            "validation, %",
            {name: _column(epochs, lambda line, name=name: (line.get("val") or {}).get(name)) for name in metrics},
            False,
        ),
        ("learning rate", {"lr": _column(steps, lambda line: line.get("lr"))}, False),
        ("clips per second", {"clips/s": _column(epochs, lambda line: line.get("clips_per_s"))}, False),
    ]
    drawn = [(title, lines, smooth) for title, lines, smooth in panels if any(lines.values())]
    return _draw_curves(drawn) if drawn else ""


def _column(lines: Sequence[dict[str, Any]], value: Any) -> list[tuple[int, float]]:
    points = [(line["step"], value(line)) for line in lines]
    return [(x, float(y)) for x, y in points if isinstance(y, int | float)]


def _draw_curves(panels: list[tuple[str, dict[str, list[tuple[int, float]]], bool]]) -> str:
    import matplotlib
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "curves",
        "font.size": 9,
        "font.family": "sans-serif",
    }
    style |= {f"{part}.color": INK for part in ("text", "xtick", "ytick", "grid")}
    style |= {f"axes.{part}": INK for part in ("edgecolor", "labelcolor", "titlecolor")}
    with matplotlib.rc_context(style):
        rows = (len(panels) + 1) // 2
        figure = Figure(figsize=(10.4, 2.7 * rows), layout="constrained")
        for index, (title, lines, smooth) in enumerate(panels):
            axes = figure.add_subplot(rows, min(2, len(panels)), index + 1)
            axes.set_title(title, fontsize=10)
            axes.grid(alpha=0.15)
            axes.spines[["top", "right"]].set_visible(False)
            axes.patch.set_alpha(0)
            for (name, points), colour in zip(lines.items(), COLOURS * len(lines)):
                if not points:
                    continue
                x, y = np.array(points[:: len(points) // POINTS + 1]).T
                if smooth and len(y) > 50:
                    axes.plot(x, y, color=colour, linewidth=0.6, alpha=0.35)
                    y = _smooth(y, len(y) // 50)
                axes.plot(x, y, color=colour, linewidth=1.6, label=name, marker="." if len(y) < 60 else None)
            axes.locator_params(axis="x", integer=True, nbins=6)
            if len(lines) > 1:
                axes.legend(frameon=False, fontsize=8)
            if index >= len(panels) - 2:
                axes.set_xlabel("optimiser step")
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL).replace(
        INK, "currentColor"
    )
    return re.sub(r'(<svg[^>]*?) (?:width|height)="[^"]*"(.*?) (?:width|height)="[^"]*"', r"\1\2", svg, count=1)


def _smooth(y: np.ndarray, width: int) -> np.ndarray:
    """Mean of the ``width`` values on either side, fewer at the ends."""
    total = np.concatenate(([0.0], np.cumsum(y)))
    at = np.arange(len(y))
    low, high = np.maximum(at - width, 0), np.minimum(at + width + 1, len(y))
    return (total[high] - total[low]) / (high - low)


def confusion_matrix(matrix: Sequence[Sequence[int]], names: Sequence[str], failed: Sequence[int]) -> tuple[str, str]:
    """Rows true, columns predicted; the darker a cell, the greater its share of the row.

    Args:
        matrix: numbers of videos.
        names: of the classes.
        failed: videos of each class that could not be scored; a last column if there are any.

    Returns:
        An ``<svg>`` element, whose cells tell their numbers under the pointer, and a remark, empty unless classes are
        left out because there are too many to read.
    """
    counts = np.asarray(matrix)
    rows = list(range(len(counts)))
    remark = ""
    if len(rows) > CLASSES:
        wrong = counts.sum(0) + counts.sum(1) - 2 * counts.diagonal()
        rows = sorted(np.argsort(-wrong, kind="stable")[:CLASSES].tolist())
        remark = f"The {CLASSES} of {len(counts)} classes that are confused most often."
    totals = counts.sum(1) + np.asarray(failed)
    cell = max(9, min(44, 700 // len(rows)))
    font = max(7, min(13, cell - 2))
    left = min(200, 12 + round(0.6 * font * max(len(str(names[i])) for i in rows)))
    width = left + cell * (len(rows) + any(failed)) + 8
    height = left + cell * len(rows) + 4
    out = [
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" class="matrix" font-size="{font}" '
        'role="img" aria-label="confusion matrix">'
    ]
    for place, i in enumerate(rows):
        label = escape(_short(str(names[i]), left, font))
        middle = left + cell * (place + 0.5)
        out.append(f'<text x="{left - 6}" y="{middle + font / 3:.1f}" text-anchor="end">{label}</text>')
        turned = f"translate({middle + font / 3:.1f} {left - 6}) rotate(-90)"
        out.append(f'<text transform="{turned}">{label}</text>')
        out.append(
            f'<rect x="{left}" y="{left + cell * place}" width="{cell * len(rows)}" height="{cell}" class="row"/>'
        )
    if any(failed):
        x = left + cell * (len(rows) + 0.5) + font / 3
        out.append(f'<text transform="translate({x:.1f} {left - 6}) rotate(-90)">failed</text>')
    for place, i in enumerate(rows):
        cells = [
            (column, int(counts[i, j]), str(names[j]), "hit" if i == j else "miss") for column, j in enumerate(rows)
        ]
        cells.append((len(rows), int(failed[i]), "", "failed"))
        for column, count, name, kind in cells:
            if not count:
                continue
            x, y = left + cell * column, left + cell * place
            what = "failed" if kind == "failed" else f"taken for {name}"
            tip = escape(f"{names[i]}: {count} of {totals[i]} {what}")
            opacity = 0.12 + 0.88 * count / max(totals[i], 1)
            out.append(
                f'<g><title>{tip}</title><rect x="{x + 0.5}" y="{y + 0.5}" width="{cell - 1}" height="{cell - 1}" '
                f'class="{kind}" fill-opacity="{opacity:.2f}"/>'
            )
            if cell >= 22:
                on = ' class="on"' if opacity > 0.55 and kind != "failed" else ""
                place_in = f'x="{x + cell / 2}" y="{y + cell / 2 + font / 3:.1f}" text-anchor="middle"'
                out.append(f"<text {place_in}{on}>{count}</text>")
            out.append("</g>")
    return "".join(out) + "</svg>", remark


def _short(name: str, width: int, font: int) -> str:
    room = int(width / (0.6 * font))
    return name if len(name) <= room else name[: room - 1] + "…"


def confused_pairs(matrix: Sequence[Sequence[int]], names: Sequence[str], most: int) -> list[tuple[str, str, int, int]]:
    """Which class is taken for which most often: (true, predicted, videos, videos scored of the true class)."""
    pairs = [
        (-count, sum(row), i, j) for i, row in enumerate(matrix) for j, count in enumerate(row) if i != j and count
    ]
    return [(names[i], names[j], -count, sum(matrix[i])) for count, _, i, j in islice(sorted(pairs), most)]
