"""The chart of a sweep: accuracy over the values of a field. See :mod:`gesta.training.sweep`."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gesta.config import words
from gesta.training.sweep import Sweep

DECADE = 10.0
"""Positive values whose greatest is so many times the least are drawn on a logarithmic axis."""


def draw(found: Sweep) -> Figure:
    """Accuracy over the value: a dot per training, the mean and the standard deviation over seeds.

    Values that span a decade lie on a logarithmic axis, on which 0 has a place of its own left of a break; values that
    are no numbers lie beside each other.
    """
    figure = Figure(figsize=(6.4, 4.2), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    places, broken = _axis(axes, found.values)
    drawn = sorted(range(len(places)), key=lambda i: places[i])
    means = [(i, statistics.fmean(a)) for i in drawn if (a := found.accuracies(found.values[i]))]
    joined = [(places[i], mean) for i, mean in means if not (broken and found.values[i] == 0)]
    if _numeric(found.values):
        axes.plot([x for x, _ in joined], [y for _, y in joined], color="#3b82f6", linewidth=1.6)
    for i, mean in means:
        each = found.accuracies(found.values[i])
        spread = statistics.stdev(each) if len(each) > 1 else None
        axes.errorbar(places[i], mean, spread, fmt="o", color="#3b82f6", markersize=6, capsize=4, linewidth=1.4)
        if len(each) > 1:
            axes.plot([places[i]] * len(each), each, "o", color="#94a3b8", markersize=3.5, zorder=1)
    failed = [places[i] for i in drawn if any(t.failure for t in found.trials if t.value == found.values[i])]
    if failed:
        axes.plot(
            failed, [0.02] * len(failed), "x", color="#d40000", transform=axes.get_xaxis_transform(), label="failed"
        )
        axes.legend(frameon=False, fontsize=9)
    if found.default in found.values:
        at = places[found.values.index(found.default)]
        axes.axvline(at, color="0.75", linewidth=1, linestyle=":", zorder=0)
    spread_words = f", mean ± std of {len(found.seeds)} seeds" if len(found.seeds) > 1 else ""
    axes.set_xlabel(found.field + " (dotted: the recipe's)" * (found.default in found.values))
    axes.set_ylabel("top-1 %")
    axes.set_title(f"{found.recipe}{spread_words}\n{found.protocol}", fontsize=9)
    axes.grid(alpha=0.2)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _numeric(values: Sequence[Any]) -> bool:
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    return len(numbers) == len(values) and all(math.isfinite(value) for value in numbers)


def _axis(axes: Axes, values: Sequence[Any]) -> tuple[list[float], bool]:
    """Scale and label the axis of values; the place of each, and whether 0 lies beyond a break."""
    if not _numeric(values):
        axes.set_xticks(range(len(values)), labels=[words(value) for value in values])
        axes.set_xlim(-0.5, len(values) - 0.5)
        return [float(i) for i in range(len(values))], False
    positive = sorted({value for value in values if value > 0})
    if min(values) < 0 or len(positive) < 2 or positive[-1] < DECADE * positive[0]:
        low, high = min(values), max(values)
        margin = 0.06 * (high - low) or 1.0
        axes.set_xlim(low - margin, high + margin)
        if len(values) <= 12:
            axes.set_xticks(sorted({float(value) for value in values}))
        return [float(value) for value in values], False
    axes.set_xscale("log")
    zero = positive[0] / max(DECADE, positive[1] / positive[0])
    broken = 0 in values
    ticks = [zero] * broken + positive
    margin = (ticks[-1] / ticks[0]) ** 0.06
    axes.set_xlim(ticks[0] / margin, ticks[-1] * margin)
    if len(ticks) <= 12:
        axes.set_xticks(ticks, labels=["0"] * broken + [f"{value:g}" for value in positive])
        axes.minorticks_off()
    if broken:
        gap = math.sqrt(zero * positive[0])
        axes.text(
            gap, 0, "//", ha="center", va="center", transform=axes.get_xaxis_transform(),
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
        )  # fmt: skip
    return [zero if value == 0 else float(value) for value in values], broken
