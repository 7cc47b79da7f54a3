"""A paper's table with our numbers beside the paper's: cost counted now, accuracy from the runs that exist."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gesta.config import read_json, replace, to_json
from gesta.cost import count
from gesta.errors import GestaError
from gesta.evaluation.fuse import fuse
from gesta.evaluation.metrics import ACTION
from gesta.evaluation.result import Result
from gesta.progress import plain_text
from gesta.recipe import Recipe
from gesta.recipes.address import miniature, row_addresses, run_name
from gesta.recipes.published import INCREASE, UNITS, Row, Run, Table, digits_of
from gesta.training.finished import (
    INFORMATION,
    MAY_DIFFER,
    Credit,
    FinishedRun,
    Information,
    OverSeeds,
    by_seed,
    credits_of,
    distance,
    find_runs,
    over_seeds,
)
from gesta.training.folder import differences

NEAR = 3
"""A run that counts for no row is named with the row nearest to it if it differs from it in at most so many fields."""


@dataclass(frozen=True, slots=True)
class TableCell:
    """The paper's value and ours; None where there is none.

    Attributes:
        paper: as printed.
        ours: of costs the number counted now, else the mean over seeds.
        std: deviation over seeds; None for a single one.
        seeds: of the runs that count.
        runs: the results that count.
        same_as: in miniature this column is the same run as that one, which has the number.
    """

    paper: float | str | None
    ours: float | None = None
    std: float | None = None
    seeds: tuple[int, ...] = ()
    runs: tuple[Path, ...] = ()
    same_as: str = ""


@dataclass(frozen=True, slots=True)
class FilledTable:
    """A table and its cells by row and column.

    Attributes:
        addresses: what ``gesta train`` calls each row's runs, by column.
        remarks: what the reader should know about the runs, in sentences.
    """

    table: Table
    cells: list[dict[str, TableCell]]
    addresses: list[dict[str, str]]
    remarks: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The rows as plain values: of each column the paper's number and ours."""
        rows = []
        for row, cells, addresses in zip(self.table.rows, self.cells, self.addresses):
            entry: dict[str, Any] = {"row": row.label, "note": row.note, "addresses": addresses}
            for column, c in cells.items():
                entry[column] = {"paper": c.paper, "ours": c.ours}
                if c.runs:
                    entry[column] |= {"std": c.std, "seeds": c.seeds, "runs": [str(run) for run in c.runs]}
                if c.same_as:
                    entry[column]["same_as"] = c.same_as
            rows.append(entry)
        return {"source": self.table.source, "rows": rows, "remarks": self.remarks}

    def __str__(self) -> str:
        from rich.table import Table as Grid  # start-up time

        grid = Grid(caption="ours: cost counted now, accuracy from runs that exist; mean ± std (seeds)")
        grid.add_column("")
        for column in self.table.columns:
            grid.add_column(f"{column}\npaper", justify="right")
            if column not in self.table.words:
                grid.add_column("\nours", justify="right", style="bold")
        grid.add_column("gesta train …\n(one of a | b)", no_wrap=True)
        digits = {c: max([2, *(digits_of(r.published.get(c, 0)) for r in self.table.rows)]) for c in self.table.columns}
        for row, cells, addresses in zip(self.table.rows, self.cells, self.addresses):
            texts: list[str] = []
            for column, number in digits.items():
                texts += [_paper(cells[column], number)]
                texts += [] if column in self.table.words else [_ours(cells[column], number)]
            grid.add_row(row.label, *texts, _joined(list(dict.fromkeys(addresses.values()))))
        notes = [f"{row.label}: {row.note}" for row in self.table.rows if row.note]
        width = 64 + 16 * len(self.table.columns) * 2
        return plain_text(self.table.source, grid, *notes, *self.remarks, width=width)


def _paper(cell: TableCell, digits: int) -> str:
    return cell.paper if isinstance(cell.paper, str) else _text(cell.paper, digits)


def _ours(cell: TableCell, digits: int) -> str:
    if cell.same_as:
        return f"= {cell.same_as}"
    spread = "" if cell.std is None else f" ± {cell.std:.{digits}f} ({len(cell.seeds)})"
    return _text(cell.ours, digits) + spread


def _text(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _joined(addresses: Sequence[str]) -> str:
    """``stan.table1.2.ucf101 | hmdb51``: what addresses have in common stands once."""
    first, *others = addresses or [""]
    return " | ".join([first, *(address.rpartition(".")[2] for address in others)])


# --- filling it ------------------------------------------------------------------------------------------------------


def fill(table: Table, runs: Path = Path("runs"), miniatures: bool = False) -> FilledTable:
    """Our side of a table.

    Args:
        table: the paper's.
        runs: folder of run folders; a result counts for a cell if it and the training are those of the cell's recipe,
            see :mod:`gesta.training.finished`. Those of several seeds are averaged.
        miniatures: of the recipes' miniatures on the synthetic data set instead (their cost, too).
    """
    finished, remarks = find_runs(runs)
    filling = _Filling(table, finished, miniatures, remarks)
    cells = [filling.cells(row) for row in table.rows]
    _increases(table, cells)
    return FilledTable(table, cells, row_addresses(table), [*filling.about_starts(), *remarks, *filling.near_misses()])


def _increases(table: Table, cells: list[dict[str, TableCell]]) -> None:
    """Fill columns of relative increases, in percent of the first row with a run."""
    measured = [of_row for row, of_row in zip(table.rows, cells) if row.recipes]
    for column in (column for column in table.columns if column.startswith(INCREASE)):
        first, *others = ((of_row, of_row[column.removeprefix(INCREASE)].ours) for of_row in measured)
        for of_row, ours in others:
            if first[1] and ours is not None:
                of_row[column] = TableCell(of_row[column].paper, 100 * (ours / first[1] - 1))


@dataclass(slots=True)
class _Filling:
    """A table that is being filled.

    Attributes:
        table, runs, miniatures: see :func:`fill`.
        faults: sentences about files that cannot be read.
        wanted: label → recipes, of all rows so far.
        counted: the runs that count for some row.
    """

    table: Table
    runs: list[FinishedRun]
    miniatures: bool
    faults: list[str]
    wanted: dict[str, list[Recipe]] = field(default_factory=dict)
    counted: list[FinishedRun] = field(default_factory=list)

    def cells(self, row: Row) -> dict[str, TableCell]:
        """All cells of a row."""
        recipes = {column: self._recipe(make) for column, make in row.recipes.items()}  # none for others' systems
        self.wanted[row.label] = list(recipes.values())
        cells = {c: TableCell(row.text.get(c, row.published.get(c))) for c in self.table.columns}
        costs = self._costs(next(iter(recipes.values())).model) if recipes else {}
        first_with: dict[str, str] = {}  # what tells a run from another → the column that has it
        for column, cell in cells.items():
            if column in costs:
                cells[column] = dataclasses.replace(cell, ours=costs[column])
            elif column in row.fused:
                cells[column] = self._measured(cell, column, [self._recipe(run) for run in row.fused[column].runs], row)
            elif column in recipes:
                name = first_with.setdefault(_essence(recipes[column]), column)
                same = self.miniatures and run_name(name) != run_name(column)
                cells[column] = (
                    dataclasses.replace(cell, same_as=name)
                    if same
                    else self._measured(cell, column, [recipes[column]], row)
                )
        return cells

    def _recipe(self, make: Run) -> Recipe:
        return miniature(make()) if self.miniatures else make()

    def _costs(self, model: Any) -> dict[str, float]:
        """Counted costs, if the table has a column of them."""
        if not set(UNITS) & set(self.table.columns):
            return {}
        cost = count(model, style="fvcore")
        costs = {"params": cost.params / 1e6, "GMACs": cost.macs / 1e9}
        if "D params" in self.table.columns:
            costs["D params"] = (cost.params - count(replace(model, inserts=[])).params) / 1e6
        return costs

    def _measured(self, cell: TableCell, column: str, recipes: Sequence[Recipe], row: Row) -> TableCell:
        """What the runs of a recipe, or the fused ones of several, have measured."""
        if self.table.measures == "mutual information":
            return self._information(cell, recipes[0], row)
        credits = [credits_of(recipe, self.runs, self.faults, any_start=self.miniatures) for recipe in recipes]
        self.counted += [credit.run for of_recipe in credits for credit in of_recipe]
        if len(credits) == 1:
            values = [(c.seed, v) for c in credits[0] if (v := accuracy(c.metrics, column)) is not None]
            return _averaged(cell, over_seeds(values), [c.path for c in credits[0]])
        of_seeds: list[Mapping[int, Credit]] = [by_seed(of_recipe) for of_recipe in credits]
        values, paths = [], []
        for seed in sorted(set.intersection(*(set(of_recipe) for of_recipe in of_seeds))):
            parts = [of_recipe[seed].path for of_recipe in of_seeds]
            try:
                metrics = fuse([Result.read(path) for path in parts], row.fused[column].by).metrics
            except GestaError as error:
                self.faults.append(f"{row.label}, {column}, seed {seed}: cannot be fused: {error}")
                continue
            if (value := accuracy(metrics, column)) is not None:
                values.append((seed, value))
                paths += parts
        return _averaged(cell, over_seeds(values), paths)

    def _information(self, cell: TableCell, recipe: Recipe, row: Row) -> TableCell:
        """Mutual information that ``gesta analyse mi`` measured on the recipe's own data."""
        tap = "stem" if row.label.startswith("None") else "last"
        values, paths = [], []
        for run in self.runs:
            path = run.folder / INFORMATION
            if not path.is_file() or run.training_differs(recipe, any_start=self.miniatures):
                continue
            try:
                measured = read_json(path, Information, remedy="gesta analyse mi writes it again")
            except GestaError as error:
                self.faults.append(str(error))
                continue
            elsewhere = differences({"data": to_json(run.recipe.data)}, {"data": measured["data"]}).keys() - MAY_DIFFER
            if other := _otherwise(measured):
                sentence = f"{path}: was measured with {other}, the rows of the table without: it does not count"
                self.faults += [sentence] * (sentence not in self.faults)
            elif not elsewhere and tap in measured["unaligned"]:
                values.append((run.recipe.train.seed, measured["unaligned"][tap]))
                paths.append(path)
                self.counted.append(run)
        return _averaged(cell, over_seeds(values), paths)

    def about_starts(self) -> list[str]:
        """What is to be said of miniatures that began from random weights where the paper does not."""
        expected = {recipe.init.expected for recipes in self.wanted.values() for recipe in recipes} - {""}
        from_scratch = {run.folder for run in self.counted if run.recipe.init.weights is None}
        if not (self.miniatures and expected and from_scratch):
            return []
        return [
            f"{len(from_scratch)} of these runs started from random weights, the paper's from "
            f"{' or '.join(sorted(expected))}: numbers near chance say nothing about the rows"
        ]

    def near_misses(self) -> list[str]:
        """Runs that count for no row, though they differ from one in a few fields only."""
        counted = {run.folder for run in self.counted}
        others = [run for run in self.runs if run.folder not in counted] if self.table.measures == "accuracy" else []
        sentences = []
        for run in others:
            with contextlib.suppress(GestaError):  # a result that cannot be read, which is told already
                label, changes = self._nearest(run)
                if 0 < len(changes) <= NEAR:
                    texts = (text if len(text) < 100 else f"{text[:99]}…" for text in changes.values())
                    sentences.append(f"{run.folder} counts for no row: not {label!r}, {'; '.join(texts)}")
        return sentences

    def _nearest(self, run: FinishedRun) -> tuple[str, dict[str, str]]:
        """The label of the row from which a run differs least, and in what; nothing if none is about such a model."""
        differing = [
            (label, run.training_differs(recipe, self.miniatures) | run.result_of(recipe)[1])
            for label, recipes in self.wanted.items()
            for recipe in recipes
            if type(recipe.model) is type(run.recipe.model) and type(recipe.data) is type(run.recipe.data)
        ]
        return min(differing, key=lambda pair: distance(pair[1]), default=("", {}))


def _otherwise(measured: Information) -> str:
    """The flags of ``gesta analyse mi`` by which a measurement is none of a table; empty if it is one.

    Numbers of different estimators, temperatures or splits are not comparable.
    """
    usual = {"estimator": "infonce", "tau": 0.1, "split": "val"}
    given = {name: measured.get(name, value) for name, value in usual.items()}
    return " ".join(f"--{name} {given[name]}" for name in usual if given[name] not in (usual[name], None))


def _averaged(cell: TableCell, value: OverSeeds | None, paths: Sequence[Path]) -> TableCell:
    if value is None:
        return cell
    return dataclasses.replace(cell, ours=value.mean, std=value.std, seeds=value.seeds, runs=tuple(paths))


def accuracy(metrics: Mapping[str, float], column: str) -> float | None:
    """Top-1, or top-5 in a column of that name, in percent; of actions if a result has verb and noun."""
    key = "top5" if column.endswith("Top-5") else "top1"
    return metrics.get(f"{ACTION}/{key}", metrics.get(key))


def _essence(recipe: Recipe) -> str:
    """All of a recipe but its name and its source."""
    return str(to_json(replace(recipe, name="", paper="")))
