"""The page of all claims, ``docs/claims.md``: the status of each, with a picture, from the collected outcomes alone."""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gesta.analysis.figures import distinct_colours, hide_top_right_spines, new_figure, write_figure
from gesta.claims.claim import Claim, Metric
from gesta.claims.outcomes import Key, Outcome
from gesta.claims.statistics import HALF, LEARNED, RISING, RULE
from gesta.claims.status import Status, status_of
from gesta.files import write_text

IMAGES = Path("images") / "claims"
"""Folder of the pictures, beside the page."""

HEAD = f"""# Claims of the papers, tested

Made by `gesta claims --report docs/claims.md` from `docs/claims.json`, which holds what every training gave; do not
edit. The experiments are those of `src/gesta/claims/`, one file per system. They are small: tiny networks on
Marionette, synthetic videos of a puppet, some minutes of a CPU core each. A verdict is about these experiments, not
about the papers' networks and data. `fusion.*` tests a next step that the papers name, `pretraining.labels` does so by
a claim of VideoMAE's paper. Plug-ins on genuine videos, with ImageNet's weights, and pretraining without labels on
genuine videos are in [real.md](real.md). In a checkout the outcomes in `docs/claims.json` count as done; to train a
claim again, give another page: `gesta claims stan.viewpoint --out runs/again --report runs/again/claims.md`.

{textwrap.fill(RULE, 120)}

"Training accuracy" is top-1 of the training clips as they were trained (augmented) in the last epoch, the mean over
seeds, and of an arm of fused networks that of the network with the lowest. The verdict below each claim names the arms
below {LEARNED:.0f} %, and those that were **still rising**: in most seeds the mean over the last fifth of the epochs
is more than {RISING:g} point above that over the fifth before. "Epoch above {HALF:.0f} %" is, by seed, the first epoch
in which it is above {HALF:.0f} % (–: none). A **control** is an arm that could refute the claim: a gain that it has,
too, is not due to what the paper says. The numbers in brackets after a difference are its interval; a word in brackets
after a comparison is the metric where it is not top-1, of one of the tables above it (`right_order`, `by_shift`,
`strides`, `alike`, …). "strides/3 − strides/4" in a comparison is what an arm loses by the change, so that what is
compared is the loss, not how good the arms are.
"""


def write_report(page: Path, claims: Sequence[Claim], outcomes: Mapping[Key, Outcome]) -> list[Status]:
    """Write the page and a picture of each claim of which something was measured.

    Args:
        page: a Markdown file; pictures go to :data:`IMAGES` beside it.
        claims: in their order.
        outcomes: see :func:`gesta.claims.outcomes.read_collected`.
    """
    statuses = [status_of(claim, outcomes) for claim in claims]
    for status in statuses:
        if has_picture(status):
            write_figure(draw_claim(status), page.parent / picture(status.claim))
    write_text(page, to_markdown(statuses))
    return statuses


def picture(claim: Claim) -> Path:
    """Where the picture of a claim is, from the folder of the page."""
    return IMAGES / f"{claim.name}.png"


def has_picture(s: Status) -> bool:
    """Whether there is anything to draw."""
    return any(s.outcomes.values())


# --- text ------------------------------------------------------------------------------------------------------------


def to_markdown(statuses: Sequence[Status]) -> str:
    """The page."""
    overview = _table(
        ["claim", "statement", "verdict"],
        [[f"[{s.claim.name}](#{_anchor(s.claim)})", s.claim.statement, s.sentence(brief=True)] for s in statuses],
    )
    return "\n".join([HEAD, _filled(_summary(statuses)), "", overview, "", *(_section(s) for s in statuses)])


def _summary(statuses: Sequence[Status]) -> str:
    """How many claims have which verdict, in a sentence."""
    unfinished = [s for s in statuses if s.done < s.needed]
    finished = Counter(s.verdict for s in statuses if s.done == s.needed)
    counts = [f"**{finished[verdict]} {verdict}**" for verdict in ("shown", "contradicted", "not shown")]
    last = f", {len(unfinished)} not finished" if unfinished else ""
    return f"Of {len(statuses)} claims: {', '.join(counts)}{last}."


def _section(s: Status) -> str:
    claim = s.claim
    lines = [f"## {claim.name}", "", f"> {claim.statement}", f"> ({claim.source})", "", _filled(claim.experiment), ""]
    lines += [_table(["arm", "purpose"], [[_name(s, arm.name), arm.why] for arm in claim.arms]), ""]
    if has_picture(s):
        lines += [f"![{claim.name}]({picture(claim).as_posix()})", "", _results(s), "", *_further(s)]
    lines += [_comparisons(s), ""]
    lines += [_filled(f"**Verdict: {s.sentence()}.** To know more: {claim.learn_more}"), ""]
    command = f"gesta claims {claim.name} --seeds {claim.seeds} --out runs/claims"
    return "\n".join([*lines, "```bash", command, "```", ""])


def _comparisons(s: Status) -> str:
    metrics = {metric.name: metric for metric in s.claim.metrics}
    rows = []
    for c, found, judged in zip(s.claim.comparisons, s.intervals, s.with_margins()):
        metric = metrics[c.metric] if c.metric in metrics else metrics[c.metric.partition("/")[0]]
        if found is None or judged is None:
            rows.append([str(c), c.kind, "", ""])
        else:
            holds = "yes" if judged.low > 0 else "no" if judged.high < 0 else "undecided"
            rows.append([str(c), c.kind, found.text(metric.digits), holds])
    return _table(["comparison", "against a", "difference", "holds"], rows)


def _filled(text: str) -> str:
    return textwrap.fill(text, 120, break_on_hyphens=False)


def _name(s: Status, arm: str) -> str:
    return f"{arm} (control)" if next(a for a in s.claim.arms if a.name == arm).is_control else arm


def _results(s: Status) -> str:
    """A row for each arm: the first metric by seed, and how well it learned its training clips."""
    metric = s.claim.metrics[0]
    seeds = sorted({seed for of_arm in s.outcomes.values() for seed in of_arm})
    columns = [metric.heading, *(f"seed {seed}" for seed in seeds), "mean ± std"]
    rows = []
    for arm in s.outcomes:
        values, learned = s.values(arm, metric.name), s.learning(arm)
        cells = [f"{values[seed]:.{metric.digits}f}" if seed in values else "" for seed in seeds]
        trained = f"{fmean(of_one.final for of_one in learned):.1f}" if learned else ""
        half = ", ".join("–" if of_one.half is None else str(of_one.half) for of_one in learned)
        rows.append([_name(s, arm), *cells, _spread(list(values.values()), metric.digits), trained, half])
    return _table([*columns, "training accuracy, %", f"epoch above {HALF:.0f} %"], rows)


def _further(s: Status) -> list[str]:
    """A table for each further metric: numbers, or the points of a curve."""
    lines = []
    for metric in s.claim.metrics[1:]:
        arms = [arm for arm in s.outcomes if not metric.arms or arm in metric.arms]
        points = _points(s, metric)
        names = [f"{metric.name}/{point}" for point in points] if metric.axis else [metric.name]
        rows = [
            [_name(s, arm), *(_spread(list(s.values(arm, name).values()), metric.digits) for name in names)]
            for arm in arms
        ]
        head = [f"{metric.heading}; {metric.axis}:", *points] if metric.axis else [metric.heading, "mean ± std"]
        lines += [_table(head, rows), ""] if any(any(row[1:]) for row in rows) else []
    return lines


def _points(s: Status, metric: Metric) -> list[str]:
    """The points of a curve, in the order in which they were measured."""
    points: dict[str, None] = {}
    for of_arm in s.outcomes.values():
        for outcome in of_arm.values():
            value = outcome.metrics.get(metric.name)
            points |= dict.fromkeys(value if isinstance(value, dict) else ())
    return list(points)


def _spread(values: Sequence[float], digits: int) -> str:
    if not values:
        return ""
    return f"{fmean(values):.{digits}f}" + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    align = ["---", *("---:" if _is_number(rows, i) else "---" for i in range(1, len(head)))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, align, *rows))


def _is_number(rows: Sequence[Sequence[str]], column: int) -> bool:
    cells = [row[column] for row in rows if row[column]]
    return bool(cells) and not any(re.search(r"[a-z]{2}", cell.replace(" to ", " ")) for cell in cells)


def _anchor(claim: Claim) -> str:
    return claim.name.replace(".", "")


# --- pictures --------------------------------------------------------------------------------------------------------


def draw_claim(s: Status) -> Figure:
    """A dot for each seed of each arm and a bar at their mean; beside it every curve, its mean over seeds.

    A claim with series has these as curves with all seeds in place of the dots.
    """
    if s.claim.series:
        figure = new_figure(6.4, 4.0)
        metric = s.claim.metrics[0]
        series = {
            name: [(x, list(s.values(arm, metric.name).values())) for x, arm in arms]
            for name, arms in s.claim.series.items()
        }
        draw_series(figure.subplots(), series, s.claim.series_axis, metric.heading)
        figure.suptitle(_title(s), fontsize=10)
        return figure
    curves = [metric for metric in s.claim.metrics if metric.axis and _points(s, metric)]
    figure = new_figure(6.4 + 4.2 * len(curves), 1.2 + 0.45 * len(s.outcomes) if not curves else 3.6)
    width = [1.4, *(1.0 for _ in curves)]
    axes = figure.subplots(1, 1 + len(curves), squeeze=False, width_ratios=width)[0]
    colours = dict(zip(s.outcomes, distinct_colours(len(s.outcomes))))
    _draw_dots(axes[0], s, colours)
    for metric, of_metric in zip(curves, axes[1:]):
        _draw_curve(of_metric, s, metric, colours)
    figure.suptitle(_title(s), fontsize=10)
    return figure


def _title(s: Status) -> str:
    return f"{s.claim.name}: {s.sentence().partition(',')[0].partition(' (')[0]}"


def _draw_dots(axes: Axes, s: Status, colours: Mapping[str, object]) -> None:
    metric = s.claim.metrics[0]
    for row, arm in enumerate(s.outcomes):
        values = list(s.values(arm, metric.name).values())
        axes.plot(values, [row] * len(values), "o", color=colours[arm], markersize=5, alpha=0.8)
        if values:
            axes.plot([fmean(values)] * 2, [row - 0.3, row + 0.3], color=colours[arm], linewidth=2)
    axes.set_yticks(range(len(s.outcomes)), labels=[_name(s, arm) for arm in s.outcomes])
    axes.invert_yaxis()
    axes.set_xlabel(metric.heading)
    axes.grid(alpha=0.2, axis="x")
    hide_top_right_spines(axes)


def _draw_curve(axes: Axes, s: Status, metric: Metric, colours: Mapping[str, object]) -> None:
    points = _points(s, metric)
    style = "o-" if any(character.isdigit() for point in points for character in point) else "o"  # kinds have no order
    for arm in s.outcomes:
        by_point = [list(s.values(arm, f"{metric.name}/{point}").values()) for point in points]
        means = [(x, fmean(values)) for x, values in enumerate(by_point) if values]
        if means:
            axes.plot([x for x, _ in means], [y for _, y in means], style, color=colours[arm], label=arm, markersize=4)
    long = sum(map(len, points)) > 30  # they would overlap
    axes.set_xticks(range(len(points)), labels=points, rotation=30 if long else 0, ha="right" if long else "center")
    axes.set(xlabel=metric.axis, ylabel=textwrap.fill(metric.heading, 36))
    axes.grid(alpha=0.2)
    axes.legend(frameon=False, fontsize=7)
    hide_top_right_spines(axes)


def draw_series(
    axes: Axes, series: Mapping[str, Sequence[tuple[float, Sequence[float]]]], xlabel: str, ylabel: str
) -> None:
    """Curves of means, with a dot for each seed.

    Args:
        axes: where they are drawn; the horizontal one is logarithmic.
        series: name → (position, values of the seeds), in order.
        xlabel, ylabel: of the axes.
    """
    for colour, (name, points) in zip(distinct_colours(len(series)), series.items()):
        axes.plot([x for x, v in points for _ in v], [y for _, v in points for y in v], "o", color=colour, alpha=0.4)
        means = [(x, fmean(values)) for x, values in points if values]
        axes.plot([x for x, _ in means], [y for _, y in means], "-", color=colour, label=name, linewidth=2)
    axes.set_xscale("log")
    positions = sorted({x for points in series.values() for x, _ in points})
    axes.set_xticks(positions, labels=[f"{x:g}" for x in positions])
    axes.minorticks_off()
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.2)
    axes.legend(frameon=False)
    hide_top_right_spines(axes)
