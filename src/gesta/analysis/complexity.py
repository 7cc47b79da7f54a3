"""Cost against accuracy: parameters, multiply-adds and latency of models beside what they reach on each data set.

Fig. 6 of Y. Wang's ST-MANet (ComSIS 21(4), 2024), whose §4.5 calls it Table 6.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Column, Table

from gesta.analysis.figures import distinct_colours, hide_top_right_spines, new_figure, set_log_scale
from gesta.analysis.measured import plain
from gesta.bench.model import latency
from gesta.config import from_json, replace, suggest
from gesta.cost import Style, count
from gesta.errors import GestaError
from gesta.evaluation.metrics import headline
from gesta.evaluation.result import Result
from gesta.model import ModelConfig, check_size
from gesta.models import MODELS, model_config
from gesta.progress import one_line, plain_text, track
from gesta.recipe import Recipe
from gesta.recipes.address import find_recipe, find_table, read_recipe
from gesta.recipes.catalogue import list_recipes, list_tables
from gesta.recipes.published import UNITS, Row
from gesta.training.finished import FinishedRun, credits_of, find_runs, over_seeds


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Top-1 in percent on a data set: ``measured``, of a result, or ``published``, of a paper's table."""

    data: str
    top1: float
    measured: bool


@dataclass(kw_only=True)
class ComparedModel:
    """A model that is compared, before anything is counted."""

    name: str
    model: ModelConfig
    views: float | None = None  # of a video in the evaluation, on average; None if unknown
    accuracies: list[Accuracy] = field(default_factory=list)  # what it reaches, and where


@dataclass(kw_only=True)
class ModelCost(ComparedModel):
    """One row of the comparison."""

    params: int  # their number
    macs: int  # multiply-adds for one view
    milliseconds: float | None  # of one view on this machine, None if not measured

    @property
    def macs_of_views(self) -> float | None:
        """Multiply-adds for all views of a video."""
        return None if self.views is None else self.macs * self.views

    def top1(self, data: str, measured: bool) -> float | None:
        """Top-1 on a data set, as measured or as published."""
        return next((a.top1 for a in self.accuracies if (a.data, a.measured) == (data, measured)), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Complexity:
    """Costs and accuracies of several models."""

    style: Style  # how multiply-adds are counted, see gesta.cost
    device: str | None  # where latency was measured, None if it was not
    models: list[ModelCost]  # in the given order

    @property
    def data(self) -> list[str]:
        """Data sets on which an accuracy is known, in the order in which they occur."""
        return list(dict.fromkeys(a.data for model in self.models for a in model.accuracies))

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        models = []
        for m in self.models:
            names = [accuracy.data for accuracy in m.accuracies]
            top1 = {name: {"measured": m.top1(name, True), "published": m.top1(name, False)} for name in names}
            relative = {"macs_of_first": m.macs / self.models[0].macs, "macs_of_views": m.macs_of_views}
            models.append(plain(m, "model", "accuracies") | relative | {"top1": top1})
        return {"style": self.style, "device": self.device, "models": models}

    def __str__(self) -> str:
        known = {(a.data, a.measured) for m in self.models for a in m.accuracies}
        kinds = [(data, measured) for data in self.data for measured in (True, False) if (data, measured) in known]
        columns = ["params M", "GMACs", "of the first", "views", "GMACs × views", *["ms"] * bool(self.device)]
        columns += [f"{data}\n{'ours' if measured else 'paper'}" for data, measured in kinds]
        table = Table("", *(Column(column, justify="right") for column in columns))
        for m in self.models:
            cells = [f"{m.params / 1e6:.2f}", f"{m.macs / 1e9:.2f}", f"{m.macs / self.models[0].macs:.3f}"]
            cells += ["" if m.views is None else f"{m.views:g}"]
            cells += ["" if m.macs_of_views is None else f"{m.macs_of_views / 1e9:.1f}"]
            cells += [f"{m.milliseconds:.1f}"] if m.milliseconds is not None else []
            values = [m.top1(data, measured) for data, measured in kinds]
            cells += ["" if value is None else f"{value:.2f}" for value in values]
            table.add_row(m.name, *cells)
        notes = ["GMACs of one view" + (", counted as papers do" if self.style == "fvcore" else "")]
        if self.device:
            notes.append(f"ms: one view, full precision, median, {self.device}")
        if not self.data:
            notes.append("no results and no published numbers: name runs, recipes or tables to see accuracies")
        return plain_text(table, "; ".join(notes), width=80 + 30 * (1 + len(self.data)))


def find_models(source: str, *, runs: str | os.PathLike[str] = "runs", trust_code: bool = False) -> list[ComparedModel]:
    """The models that an argument on the command line means.

    Args:
        source: a result or run folder (the accuracy it measured), a model's name (cost only), a recipe's address or a
            paper's table (one model per row; published numbers, and those of runs that exist).
        runs: folder of run folders, in which runs of recipes are looked for, by what they did.
        trust_code: allow files that name classes outside gesta.

    Raises:
        GestaError: none of these, or a result of several fused models.
    """
    if source in MODELS:
        return [ComparedModel(name=source, model=model_config(source))]
    if source in (tables := list_tables()):
        finished = find_runs(Path(runs))[0]
        return [model for row in _rows(source) for model in _of_row(row, finished)]
    path = Path(source)
    if source in list_recipes() or (":" in source and not path.exists()):
        recipe = find_recipe(source, trust_code=trust_code)
        accuracies = [*_measured(recipe, find_runs(Path(runs))[0]), *_published(recipe)]
        return [ComparedModel(name=source, model=recipe.model, views=_views(recipe), accuracies=accuracies)]
    if path.is_dir() and not (path / "result.json").is_file():
        recipe = read_recipe(path / "recipe.json", trust_code=trust_code)
        return [ComparedModel(name=source.rstrip("/"), model=recipe.model, views=_views(recipe))]
    if path.exists():
        return [_of_result(source, path / "result.json" if path.is_dir() else path, trust_code)]
    near = suggest(source, [*MODELS, *list_recipes(), *tables])
    kinds = "neither a result, a run folder, a model, a recipe nor a table"
    raise GestaError(f"{source} is {kinds}{near} (all names: gesta models)")


def _of_result(source: str, path: Path, trust_code: bool) -> ComparedModel:
    result = Result.read(path)
    if "class" not in result.model.config:
        raise GestaError(f"{source}: holds fused scores of several models; give the results of the single models")
    config = from_json(result.model.config, ModelConfig, trust_code=trust_code, source=str(path))
    check_size(config, str(path))
    model = ComparedModel(name=source.rstrip("/").removesuffix("/result.json"), model=config)
    model.views = result.counts.views / result.counts.decoded if result.counts.decoded else None
    if result.scores.multi_label:
        raise GestaError(f"{source}: is of multi-label data, which has no top-1 accuracy; give results of other data")
    top1 = headline(result.metrics)
    if top1 is not None:
        data = result.data["class"].rpartition(":")[2] if result.data else result.protocol.split
        model.accuracies.append(Accuracy(data=data, top1=top1, measured=True))
    return model


def _rows(address: str) -> Sequence[Row]:
    """The rows of a table of accuracies; none of another."""
    table = find_table(address)
    return table.rows if table.measures == "accuracy" else ()


def _of_row(row: Row, runs: Sequence[FinishedRun]) -> list[ComparedModel]:
    """A row's models: one, unless its columns are about several."""
    models: list[ComparedModel] = []
    for column, data, recipe in _columns(row):
        model = next((m for m in models if replace(recipe.model, classes=m.model.classes) == m.model), None)
        if model is None:
            model = ComparedModel(name=row.label, model=recipe.model, views=_views(recipe))
            models.append(model)
        model.accuracies += _measured(recipe, runs, data)
        if column in row.published:
            model.accuracies.append(Accuracy(data=data, top1=row.published[column], measured=False))
    if not models and row.recipes:  # a table of costs only
        recipe = next(iter(row.recipes.values()))()
        models = [ComparedModel(name=row.label, model=recipe.model, views=_views(recipe))]
    if len(models) > 1:
        for number, model in enumerate(models, 1):
            model.name = f"{row.label} ({number})"
    return models


def _columns(row: Row) -> Iterator[tuple[str, str, Recipe]]:
    """Columns of top-1 that a recipe measures: column, data set (and column, where several are about it), recipe."""
    columns = [c for c in row.recipes if c and c not in UNITS and not c.endswith("Top-5")]
    recipes = {column: row.recipes[column]() for column in columns}
    names = [type(recipe.data).__name__ for recipe in recipes.values()]
    for (column, recipe), name in zip(recipes.items(), names):
        yield column, name if names.count(name) == 1 else f"{name} {column}", recipe


def _published(recipe: Recipe) -> list[Accuracy]:
    """What the first table that has this recipe says about it."""
    for address in list_tables():
        for row in _rows(address):
            for column, data, of_column in _columns(row):
                if of_column == recipe and column in row.published:
                    return [Accuracy(data=data.split()[0], top1=row.published[column], measured=False)]
    return []


def _measured(recipe: Recipe, runs: Sequence[FinishedRun], data: str | None = None) -> list[Accuracy]:
    """The mean over the seeds of a recipe's runs, see :mod:`gesta.training.finished`."""
    credits = credits_of(recipe, runs, [])
    values = [(credit.seed, top1) for credit in credits if (top1 := headline(credit.metrics)) is not None]
    mean = over_seeds(values)
    return [] if mean is None else [Accuracy(data=data or type(recipe.data).__name__, top1=mean.mean, measured=True)]


def _views(recipe: Recipe) -> float | None:
    """Views of a video; unknown where a video is cut into as many clips as it holds."""
    protocol = recipe.evaluate
    return None if protocol.coverage == "contiguous" else protocol.clips * protocol.crops


def measure_complexity(
    models: Sequence[ComparedModel], *, style: Style = "torch", seconds: float = 2.0, device: str = "auto"
) -> Complexity:
    """Count parameters and multiply-adds, and measure latency.

    Args:
        models: those to compare, with the first.
        style: how multiply-adds are counted.
        seconds: of each measurement of latency; 0 leaves it out.
        device: of the latency.
    """
    costs: list[ModelCost] = []
    device_name = None
    for compared in track(models, "models"):
        known = next((c for c in costs if c.model == compared.model), None)  # several rows may be about one model
        if known:
            params, macs, milliseconds = known.params, known.macs, known.milliseconds
        else:
            cost = count(compared.model, style)
            params, macs, milliseconds = cost.params, cost.macs, None
            if seconds > 0:
                milliseconds, device_name = latency(compared.model, device=device, seconds=seconds)
        costs.append(ModelCost(**vars(compared), params=params, macs=macs, milliseconds=milliseconds))
    return Complexity(style=style, device=device_name, models=costs)


def draw_complexity(measured: Complexity) -> Figure:
    """Bars of each cost, and for each data set the accuracy over the multiply-adds, a colour per model."""
    models, data_sets = measured.models, measured.data
    colours = distinct_colours(len(models))
    bars = [("parameters, M", [m.params / 1e6 for m in models]), ("GMACs of one view", [m.macs / 1e9 for m in models])]
    if measured.device:
        bars.append((f"ms of one view,\n{measured.device}", [m.milliseconds or 0.0 for m in models]))
    height = 0.32 * len(models) + 1.1
    columns = max(len(bars), min(len(data_sets), 3))
    rows = -(-len(data_sets) // columns)
    figure = new_figure(3.6 * columns + 1.6, height + 3.4 * rows)
    parts = figure.subfigures(1 + bool(rows), 1, squeeze=False, height_ratios=[height, 3.4 * rows][: 1 + bool(rows)])
    panels = parts[0, 0].subplots(1, len(bars), sharey=True, squeeze=False)[0]
    for axes, (title, values) in zip(panels, bars):
        axes.barh(range(len(models)), values, color=colours, height=0.7)
        for y, value in enumerate(values):
            axes.annotate(f"{value:.4g}", (value, y), (3, 0), textcoords="offset points", va="center", fontsize=8)
        axes.set_title(title, fontsize=9)
        axes.set_yticks(range(len(models)), labels=[one_line(m.name) for m in models], fontsize=8)
        axes.tick_params(axis="x", labelsize=8)
        axes.margins(x=0.18)
        hide_top_right_spines(axes)
    panels[0].invert_yaxis()
    if rows:
        grid = parts[1, 0].subplots(rows, min(len(data_sets), columns), squeeze=False)
        for axes in grid.flat[len(data_sets) :]:
            axes.set_axis_off()
        for axes, data in zip(grid.flat, data_sets):
            _draw_accuracies(axes, measured, data, colours)
    return figure


def _draw_accuracies(axes: Axes, measured: Complexity, data: str, colours: Sequence[Any]) -> None:
    """Accuracy on one data set: a full dot as measured, a ring as published; the greater, the more parameters."""
    drawn = [(m, c) for m, c in zip(measured.models, colours) if any(a.data == data for a in m.accuracies)]
    all_views = all(m.macs_of_views is not None for m, _ in drawn)
    most_params = max(m.params for m in measured.models)
    costs = [((m.macs_of_views if all_views else m.macs) or 0) / 1e9 for m, _ in drawn]
    for (m, colour), cost in zip(drawn, costs):
        size = 30 + 170 * m.params / most_params
        for ours, fill in ((True, colour), (False, "none")):
            if (top1 := m.top1(data, ours)) is not None:
                axes.scatter(cost, top1, size, facecolor=fill, edgecolor=colour, linewidth=1.6, alpha=0.85)
    kinds = {a.measured for m, _ in drawn for a in m.accuracies if a.data == data}
    note = " (dots: ours, rings: the paper's)" if len(kinds) > 1 else "" if True in kinds else " (published)"
    axes.set_title(f"{data}{note}", fontsize=9)
    axes.set_xlabel("GMACs of all views" if all_views else "GMACs of one view", fontsize=8)
    axes.set_ylabel("top-1 %", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.margins(0.15)
    if max(costs) > 10 * min(costs):
        set_log_scale(axes)
    else:
        axes.locator_params(axis="x", nbins=5)
    axes.grid(alpha=0.2)
    hide_top_right_spines(axes)
