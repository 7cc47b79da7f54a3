"""Cost against accuracy: parameters, multiply-adds and latency of models beside what they reach on each data set.

Fig. 6 of Y. Wang's ST-MANet (ComSIS 21(4), 2024), whose §4.5 calls it Table 6.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gesta.analysis.sources import write_figure
from gesta.bench.model import latency
from gesta.config import from_json, replace, suggest, to_json
from gesta.cost import Style, count
from gesta.errors import GestaError
from gesta.evaluation.metrics import headline
from gesta.evaluation.result import Result
from gesta.model import ModelConfig
from gesta.models import MODELS, model_config
from gesta.progress import track
from gesta.recipe import Recipe
from gesta.recipes.address import find_recipe, find_table, read_recipe
from gesta.recipes.catalogue import list_recipes, list_tables
from gesta.recipes.published import Row
from gesta.recipes.tables import COSTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Top-1 in percent on a data set: ``measured``, of a result, or ``published``, of a paper's table."""

    data: str
    top1: float
    measured: bool


@dataclass(slots=True, kw_only=True)
class Subject:
    """A model that is compared, before anything is counted.

    Attributes:
        name: what to call it.
        model: its configuration.
        views: of a video in the evaluation, on average; None if unknown.
        accuracies: what it reaches, and where.
    """

    name: str
    model: ModelConfig
    views: float | None = None
    accuracies: list[Accuracy] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One row of the comparison.

    Attributes:
        name: of the model.
        params: their number.
        macs: multiply-adds for one view.
        views: of a video, None if unknown.
        milliseconds: of one view on this machine, None if not measured.
        accuracies: those known.
    """

    name: str
    params: int
    macs: int
    views: float | None
    milliseconds: float | None
    accuracies: list[Accuracy]

    @property
    def macs_of_views(self) -> float | None:
        """Multiply-adds for all views of a video."""
        return None if self.views is None else self.macs * self.views

    def best(self, data: str, measured: bool) -> float | None:
        """Top-1 on a data set, as measured or as published."""
        return next((a.top1 for a in self.accuracies if (a.data, a.measured) == (data, measured)), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Complexity:
    """What :func:`compare_costs` found; ``print`` it.

    Attributes:
        style: how multiply-adds are counted, see :mod:`gesta.cost`.
        device: where latency was measured, None if it was not.
        entries: in the order asked for.
    """

    style: Style
    device: str | None
    entries: list[Entry]

    @property
    def data(self) -> list[str]:
        """Data sets on which an accuracy is known, in the order in which they turn up."""
        return list(dict.fromkeys(a.data for entry in self.entries for a in entry.accuracies))

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return {
            "style": self.style,
            "device": self.device,
            "models": [
                {
                    "model": e.name,
                    "params": e.params,
                    "macs": e.macs,
                    "macs_of_first": e.macs / self.entries[0].macs,
                    "views": e.views,
                    "macs_of_views": e.macs_of_views,
                    "milliseconds": e.milliseconds,
                    "top1": {
                        data: {"measured": e.best(data, True), "published": e.best(data, False)}
                        for data in dict.fromkeys(a.data for a in e.accuracies)
                    },
                }
                for e in self.entries
            ],
        }

    def __str__(self) -> str:
        from rich.console import Console
        from rich.table import Table

        table = Table()
        table.add_column("")
        columns = ["params M", "GMACs", "of the first", "views", "GMACs × views", *["ms"] * bool(self.device)]
        known = {(a.data, a.measured) for e in self.entries for a in e.accuracies}
        sides = [(data, measured) for data in self.data for measured in (True, False) if (data, measured) in known]
        columns += [f"{data}\n{'ours' if measured else 'paper'}" for data, measured in sides]
        for column in columns:
            table.add_column(column, justify="right")
        for e in self.entries:
            together = "" if e.macs_of_views is None else f"{e.macs_of_views / 1e9:.1f}"
            cells = [f"{e.params / 1e6:.2f}", f"{e.macs / 1e9:.2f}", f"{e.macs / self.entries[0].macs:.3f}"]
            cells += ["" if e.views is None else f"{e.views:g}", together]
            cells += [f"{e.milliseconds:.1f}"] if e.milliseconds is not None else []
            values = [e.best(data, measured) for data, measured in sides]
            cells += ["" if value is None else f"{value:.2f}" for value in values]
            table.add_row(e.name, *cells)
        console = Console(width=80 + 30 * (1 + len(self.data)), color_system=None, markup=False, highlight=False)
        with console.capture() as capture:
            console.print(table)
            lines = ["GMACs of one view" + (", counted as papers do" if self.style == "fvcore" else "")]
            if self.device:
                lines.append(f"ms: one view, full precision, median, {self.device}")
            if not self.data:
                lines.append("no results and no published numbers: name runs, recipes or tables to see accuracies")
            console.print("; ".join(lines), soft_wrap=True)
        return "\n".join(line.rstrip() for line in capture.get().splitlines())


def subjects(source: str, *, runs: str | os.PathLike[str] = "runs", trust_code: bool = False) -> list[Subject]:
    """The models that a word on the command line means.

    Args:
        source: a result or run folder (the accuracy it measured), a model's name (cost only), a recipe's address or a
            paper's table (one model per row; published numbers, and those of runs that exist).
        runs: folder of run folders, in which runs of recipes are looked for by name.
        trust_code: allow files that name classes outside gesta.

    Raises:
        GestaError: none of these, or a result of several fused models.
    """
    if source in MODELS:
        return [Subject(name=source, model=model_config(source))]
    if source in (tables := list_tables()):
        return [subject for row in find_table(source).rows for subject in _of_row(row, Path(runs))]
    path = Path(source)
    if path.is_dir() and not (path / "result.json").is_file():
        recipe = read_recipe(path / "recipe.json", trust_code=trust_code)
        return [Subject(name=source.rstrip("/"), model=recipe.model, views=_views(recipe))]
    if path.exists():
        return [_of_result(source, path / "result.json" if path.is_dir() else path, trust_code)]
    if source in list_recipes() or ":" in source:
        recipe = find_recipe(source, trust_code=trust_code)
        found = Subject(name=source, model=recipe.model, views=_views(recipe))
        found.accuracies += [*_measured(recipe, Path(runs)), *_published(recipe)]
        return [found]
    known = [*MODELS, *list_recipes(), *tables]
    raise GestaError(
        f"{source} is neither a result, a run folder, a model, a recipe nor a table{suggest(source, known)} "
        "(all names: gesta models)"
    )


def _of_result(source: str, path: Path, trust_code: bool) -> Subject:
    result = Result.read(path)
    if "class" not in result.model_config:
        raise GestaError(f"{source}: holds fused scores of several models; give their own results")
    model = from_json(result.model_config, trust_code=trust_code, source=str(path))
    found = Subject(name=source.rstrip("/").removesuffix("/result.json"), model=model)
    found.views = result.views["total"] / result.decoded if result.decoded else None
    top1 = headline(result.metrics)
    if top1 is not None:
        data = result.data["class"].rpartition(":")[2] if result.data else result.split
        found.accuracies.append(Accuracy(data=data, top1=top1, measured=True))
    return found


def _of_row(row: Row, runs: Path) -> list[Subject]:
    """A row's models: one, unless its columns are about several."""
    found: list[Subject] = []
    for column, data, recipe in _columns(row):
        model = recipe.model
        same = [s for s in found if replace(model, classes=s.model.classes) == s.model]
        if not same:
            found.append(Subject(name=row.label, model=model, views=_views(recipe)))
        subject = (same or found[-1:])[0]
        subject.accuracies += _measured(recipe, runs, data)
        if column in row.published:
            subject.accuracies.append(Accuracy(data=data, top1=row.published[column], measured=False))
    if not found and row.recipes:  # a table of costs only
        recipe = next(iter(row.recipes.values()))()
        found = [Subject(name=row.label, model=recipe.model, views=_views(recipe))]
    if len(found) > 1:
        for number, subject in enumerate(found):
            subject.name = f"{row.label} ({number + 1})"
    return found


def _columns(row: Row) -> Iterator[tuple[str, str, Recipe]]:
    """Columns of top-1 that a recipe measures: column, data set (and column, where several are about it), recipe."""
    recipes = {
        column: make()
        for column, make in row.recipes.items()
        if column and column not in COSTS and not column.endswith("Top-5")
    }
    names = [type(recipe.data).__name__ for recipe in recipes.values()]
    for (column, recipe), name in zip(recipes.items(), names):
        yield column, name if names.count(name) == 1 else f"{name} {column}", recipe


def _published(recipe: Recipe) -> list[Accuracy]:
    """What the first table that has this recipe says about it."""
    for address in list_tables():
        for row in find_table(address).rows:
            for column, data, of in _columns(row):
                if of.name == recipe.name and column in row.published:
                    return [Accuracy(data=data.split()[0], top1=row.published[column], measured=False)]
    return []


def _measured(recipe: Recipe, runs: Path, data: str | None = None) -> list[Accuracy]:
    path = runs / recipe.name / "result.json"
    if not path.is_file():
        return []
    top1 = headline(json.loads(path.read_text())["metrics"])
    return [] if top1 is None else [Accuracy(data=data or type(recipe.data).__name__, top1=top1, measured=True)]


def _views(recipe: Recipe) -> float | None:
    """Views of a video; unknown where a video is cut into as many clips as it holds."""
    protocol = recipe.evaluate
    return None if protocol.coverage == "contiguous" else protocol.clips * protocol.crops


def compare_costs(
    found: Sequence[Subject], *, style: Style = "torch", seconds: float = 2.0, device: str = "auto"
) -> Complexity:
    """Count parameters and multiply-adds, and measure latency.

    Args:
        found: the models, the first of which the others are compared with.
        style: how multiply-adds are counted.
        seconds: of each measurement of latency; 0 leaves it out.
        device: of the latency.
    """
    entries, words = [], None
    known: dict[str, tuple[int, int, float | None]] = {}  # several rows may be about one model
    for subject in track(found, "models"):
        key = json.dumps(to_json(subject.model), sort_keys=True)
        if key not in known:
            cost, took = count(subject.model, style), None
            if seconds > 0:
                took, words = latency(subject.model, device=device, seconds=seconds)
            known[key] = cost.params, cost.macs, took
        params, macs, took = known[key]
        entries.append(
            Entry(
                name=subject.name,
                params=params,
                macs=macs,
                views=subject.views,
                milliseconds=took,
                accuracies=subject.accuracies,
            )
        )
    return Complexity(style=style, device=words, entries=entries)


def draw(found: Complexity) -> Figure:
    """Bars of each cost, and for each data set the accuracy over the multiply-adds, a colour per model."""
    import matplotlib
    from matplotlib.figure import Figure

    entries = found.entries
    palette = matplotlib.colormaps[
        "tab10" if len(entries) <= 10 else "tab20" if len(entries) <= 20 else "nipy_spectral"
    ]
    colours = [palette(i if len(entries) <= 20 else i / (len(entries) - 1)) for i in range(len(entries))]
    bars = [
        ("parameters, M", [e.params / 1e6 for e in entries]),
        ("GMACs of one view", [e.macs / 1e9 for e in entries]),
    ]
    if found.device:
        bars.append((f"ms of one view,\n{found.device}", [e.milliseconds or 0.0 for e in entries]))
    tall = 0.32 * len(entries) + 1.1
    across = max(len(bars), min(len(found.data), 3))
    lines = -(-len(found.data) // across)
    figure = Figure(figsize=(3.6 * across + 1.6, tall + 3.4 * lines), layout="constrained", facecolor="white")
    parts = figure.subfigures(2 if lines else 1, 1, squeeze=False, height_ratios=[tall, 3.4 * lines][: 1 + bool(lines)])
    panels = parts[0, 0].subplots(1, len(bars), sharey=True, squeeze=False)[0]
    for axes, (title, values) in zip(panels, bars):
        axes.barh(range(len(entries)), values, color=colours, height=0.7)
        for place, value in enumerate(values):
            axes.annotate(f"{value:.4g}", (value, place), (3, 0), textcoords="offset points", va="center", fontsize=8)
        axes.set_title(title, fontsize=9)
        axes.set_yticks(range(len(entries)), labels=[e.name for e in entries], fontsize=8)
        axes.tick_params(axis="x", labelsize=8)
        axes.margins(x=0.18)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].invert_yaxis()
    if lines:
        grid = parts[1, 0].subplots(lines, min(len(found.data), across), squeeze=False)
        for axes in grid.flat[len(found.data) :]:
            axes.set_axis_off()
        for axes, data in zip(grid.flat, found.data):
            _scatter(axes, found, data, colours)
    return figure


def _scatter(axes: Axes, found: Complexity, data: str, colours: Sequence[Any]) -> None:
    """Accuracy on one data set: a full dot as measured, a ring as published; the greater, the more parameters."""
    drawn = [(e, c) for e, c in zip(found.entries, colours) if any(a.data == data for a in e.accuracies)]
    together = all(e.macs_of_views is not None for e, _ in drawn)
    greatest = max(e.params for e in found.entries)
    costs = [((e.macs_of_views if together else e.macs) or 0) / 1e9 for e, _ in drawn]
    for (e, colour), cost in zip(drawn, costs):
        for measured in (True, False):
            top1 = e.best(data, measured)
            if top1 is not None:
                axes.scatter(
                    cost,
                    top1,
                    s=30 + 170 * e.params / greatest,
                    facecolor=colour if measured else "none",
                    edgecolor=colour,
                    linewidth=1.6,
                    alpha=0.85,
                )
    kinds = {a.measured for e, _ in drawn for a in e.accuracies if a.data == data}
    words = " (dots: ours, rings: the paper's)" if len(kinds) > 1 else "" if True in kinds else " (published)"
    axes.set_title(f"{data}{words}", fontsize=9)
    axes.set_xlabel("GMACs of all views" if together else "GMACs of one view", fontsize=8)
    axes.set_ylabel("top-1 %", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.margins(0.15)
    if max(costs) > 10 * min(costs):
        axes.set_xscale("log")
    else:
        axes.locator_params(axis="x", nbins=5)
    axes.grid(alpha=0.2)
    axes.spines[["top", "right"]].set_visible(False)


def complexity_figure(found: Complexity, out: str | os.PathLike[str]) -> Path:
    """Draw a comparison into a picture; its ending says the kind (.png, .svg, .pdf)."""
    return write_figure(draw(found), out)
