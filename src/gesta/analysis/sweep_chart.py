"""The chart of a sweep: accuracy over the values of one field of a recipe (ST-MANet's Fig. 5).

:func:`gesta.training.sweep.sweep` measures it: a training for each value and seed.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gesta.analysis.figures import BLUE, GREY, RED, hide_top_right_spines, new_figure, set_log_scale
from gesta.config import format_value
from gesta.training.sweep import Sweep

LOG_AXIS_RATIO = 10.0
"""Positive values are on a log axis if the largest is at least this many times the smallest."""

ZERO_GAP_RATIO = 10.0
"""On a log axis 0 is drawn at the smallest positive value divided by at least this."""


def draw_sweep(measured: Sweep) -> Figure:
    """Accuracy over the value: a dot per training, the mean and the standard deviation over seeds.

    Positive values of very different size (:data:`LOG_AXIS_RATIO`) are on a log axis, unless a value is negative; 0 is
    drawn left of a gap; non-numeric values are evenly spaced.
    """
    values, seeds = measured.values, len(measured.seeds)
    figure = new_figure(6.4, 4.2)
    axes = figure.add_subplot()
    xs, has_gap = _set_axis(axes, values)
    order = sorted(range(len(xs)), key=lambda i: xs[i])
    means = [(i, statistics.fmean(a)) for i in order if (a := measured.accuracies(values[i]))]
    if _numeric(values):
        joined = [(xs[i], mean) for i, mean in means if not (has_gap and values[i] == 0)]  # no line over the gap
        axes.plot([x for x, _ in joined], [y for _, y in joined], color=BLUE, linewidth=1.6)
    for i, mean in means:
        accuracies = measured.accuracies(values[i])
        deviation = statistics.stdev(accuracies) if len(accuracies) > 1 else None
        axes.errorbar(xs[i], mean, deviation, fmt="o", color=BLUE, markersize=6, capsize=4, linewidth=1.4)
        if len(accuracies) > 1:
            axes.plot([xs[i]] * len(accuracies), accuracies, "o", color=GREY, markersize=3.5, zorder=1)
    failed = [xs[i] for i in order if any(t.failure for t in measured.trials if t.value == values[i])]
    if failed:
        bottom = axes.get_xaxis_transform()
        axes.plot(failed, [0.02] * len(failed), "x", color=RED, transform=bottom, label="failed")
        axes.legend(frameon=False, fontsize=9)
    if measured.default in values:
        axes.axvline(xs[values.index(measured.default)], color="0.75", linewidth=1, linestyle=":", zorder=0)
    dotted = " (dotted: the recipe's value)" * (measured.default in values)
    axes.set(xlabel=measured.field + dotted, ylabel=f"{measured.metric} %")
    over_seeds = f", mean ± std of {seeds} seeds" if seeds > 1 else ""
    axes.set_title(f"{measured.recipe}{over_seeds}\n{measured.protocol}", fontsize=9)
    axes.grid(alpha=0.2)
    hide_top_right_spines(axes)
    return figure


def _numeric(values: Sequence[Any]) -> bool:
    return all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values)


def _set_axis(axes: Axes, values: Sequence[Any]) -> tuple[list[float], bool]:
    """Scale and label the axis of values; the coordinate of each, and whether 0 is left of a gap."""
    if not _numeric(values):
        axes.set_xticks(range(len(values)), labels=[format_value(value) for value in values])
        axes.set_xlim(-0.5, len(values) - 0.5)
        return [float(i) for i in range(len(values))], False
    positive = sorted({value for value in values if value > 0})
    if min(values) < 0 or len(positive) < 2 or positive[-1] < LOG_AXIS_RATIO * positive[0]:
        low, high = min(values), max(values)
        margin = 0.06 * (high - low) or 1.0
        axes.set_xlim(low - margin, high + margin)
        if len(values) <= 12:
            axes.set_xticks(sorted({float(value) for value in values}))
        return [float(value) for value in values], False
    set_log_scale(axes)
    zero = positive[0] / max(ZERO_GAP_RATIO, positive[1] / positive[0])
    has_gap = 0 in values
    ticks = [zero] * has_gap + positive
    margin = (ticks[-1] / ticks[0]) ** 0.06
    axes.set_xlim(ticks[0] / margin, ticks[-1] * margin)
    if len(ticks) <= 12:
        axes.set_xticks(ticks, labels=["0"] * has_gap + [f"{value:g}" for value in positive])
        axes.minorticks_off()
    if has_gap:
        gap_x, box = math.sqrt(zero * positive[0]), {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
        axes.text(gap_x, 0, "//", ha="center", va="center", transform=axes.get_xaxis_transform(), bbox=box)
    return [zero if value == 0 else float(value) for value in values], has_gap
