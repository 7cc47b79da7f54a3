"""A paper's table with our numbers beside the paper's: cost counted now, accuracy from the runs that exist."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gesta.config import replace
from gesta.cost import count
from gesta.evaluation.metrics import ACTION
from gesta.evaluation.result import read_metrics
from gesta.progress import plain_text
from gesta.recipe import Recipe
from gesta.recipes.address import miniature
from gesta.recipes.published import INCREASE, UNITS, Row, Table, digits_of


@dataclass(frozen=True, slots=True)
class TableCell:
    """The paper's value and ours; None where there is none."""

    paper: float | None
    ours: float | None


@dataclass(frozen=True, slots=True)
class FilledTable:
    """A table and its cells by row and column."""

    table: Table
    cells: list[dict[str, TableCell]]

    def to_json(self) -> dict[str, Any]:
        rows = [
            {
                "row": row.label,
                "note": row.note,
                **{column: {"paper": cell.paper, "ours": cell.ours} for column, cell in cells.items()},
            }
            for row, cells in zip(self.table.rows, self.cells)
        ]
        return {"source": self.table.source, "rows": rows}

    def __str__(self) -> str:
        from rich.table import Table as Grid  # start-up time

        grid = Grid(caption="ours: cost counted now, accuracy from runs that exist")
        grid.add_column("")
        for column in self.table.columns:
            grid.add_column(f"{column}\npaper", justify="right")
            grid.add_column("\nours", justify="right", style="bold")
        digits = {
            c: max([2, *(digits_of(row.published.get(c, 0)) for row in self.table.rows)]) for c in self.table.columns
        }
        for row, cells in zip(self.table.rows, self.cells):
            pairs = ((_text(cells[c].paper, n), _text(cells[c].ours, n)) for c, n in digits.items())
            grid.add_row(row.label, *(text for pair in pairs for text in pair))
        notes = [f"{row.label}: {row.note}" for row in self.table.rows if row.note]
        return plain_text(self.table.source, grid, *notes, width=24 + 16 * len(self.table.columns) * 2)


def fill(table: Table, runs: Path = Path("runs"), miniatures: bool = False) -> FilledTable:
    """Our side of a table.

    Args:
        table: the paper's.
        runs: folder of run folders; a run counts for a cell if its name is the recipe's and it has a ``result.json``.
        miniatures: of the recipes' miniatures on the synthetic data set instead (their cost, too).
    """
    cells = [_cells(row, table.columns, runs, miniatures) for row in table.rows]
    measured = [of_row for row, of_row in zip(table.rows, cells) if row.recipes]
    for column in (column for column in table.columns if column.startswith(INCREASE)):
        first, *others = ((of_row, of_row[column.removeprefix(INCREASE)].ours) for of_row in measured)
        for of_row, ours in others:
            if first[1] and ours is not None:
                of_row[column] = TableCell(of_row[column].paper, 100 * (ours / first[1] - 1))
    return FilledTable(table, cells)


def _cells(row: Row, columns: Sequence[str], runs: Path, miniatures: bool) -> dict[str, TableCell]:
    recipes = {column: make() for column, make in row.recipes.items()}  # none for other people's systems
    if miniatures:
        recipes = {column: miniature(recipe) for column, recipe in recipes.items()}
    ours: dict[str, float | None] = {column: _accuracy(recipe, column, runs) for column, recipe in recipes.items()}
    if recipes and set(UNITS) & set(columns):
        model = next(iter(recipes.values())).model
        cost = count(model, style="fvcore")
        ours |= {"params": cost.params / 1e6, "GMACs": cost.macs / 1e9}
        if "D params" in columns:
            ours["D params"] = (cost.params - count(replace(model, inserts=[])).params) / 1e6
    return {column: TableCell(row.published.get(column), ours.get(column)) for column in columns}


def _accuracy(recipe: Recipe, column: str, runs: Path) -> float | None:
    """Top-1, or top-5 in a column of that name, of a recipe's run in percent; of actions if it has verb and noun."""
    result = runs / recipe.name / "result.json"
    if not result.is_file():
        return None
    metrics = read_metrics(result)
    key = "top5" if column.endswith("Top-5") else "top1"
    return metrics.get(f"{ACTION}/{key}", metrics.get(key))


def _text(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
