"""A paper's table with our numbers beside the paper's: cost counted now, accuracy from the runs that exist."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gesta.cost import count
from gesta.recipes import Recipe, Row, Table


@dataclass(frozen=True, slots=True)
class Cell:
    """The paper's value and ours; None where there is none."""

    paper: float | None
    ours: float | None


@dataclass(frozen=True, slots=True)
class FilledTable:
    """A table and its cells by row and column."""

    table: Table
    cells: list[dict[str, Cell]]

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
        from rich.console import Console
        from rich.table import Table as Grid

        grid = Grid(caption="ours: cost counted now, accuracy from runs that exist")
        grid.add_column("")
        for column in self.table.columns:
            grid.add_column(f"{column}\npaper", justify="right")
            grid.add_column("\nours", justify="right", style="bold")
        for row, cells in zip(self.table.rows, self.cells):
            grid.add_row(row.label, *(_text(v) for c in self.table.columns for v in (cells[c].paper, cells[c].ours)))
        console = Console(width=24 + 16 * len(self.table.columns) * 2)
        with console.capture() as capture:
            console.print(self.table.source, soft_wrap=True)
            console.print(grid)
            for row in self.table.rows:
                if row.note:
                    console.print(f"{row.label}: {row.note}")
        return capture.get().rstrip()


def fill(table: Table, runs: Path = Path("runs"), rehearsal: bool = False) -> FilledTable:
    """Our side of a table.

    Args:
        table: the paper's.
        runs: folder of run folders; a run counts for a cell if its name is the recipe's and it has a ``result.json``.
        rehearsal: look for the runs' rehearsals on the embedded data set instead (their cost too).
    """
    return FilledTable(
        table,
        [{c: Cell(row.published.get(c), _ours(row, c, runs, rehearsal)) for c in table.columns} for row in table.rows],
    )


def _ours(row: Row, column: str, runs: Path, rehearsal: bool) -> float | None:
    from gesta.recipes.address import rehearse

    def recipe_of(name: str) -> Recipe:
        return rehearse(row.recipes[name]()) if rehearsal else row.recipes[name]()

    first = next(iter(row.recipes))
    if column == "params":
        return count(recipe_of(first).model).params / 1e6
    if column == "GMACs":
        return count(recipe_of(first).model, style="fvcore").macs / 1e9
    if column == "D params":
        with_plugin = recipe_of(first).model
        bare = recipe_of(first).model
        bare.inserts = []
        return (count(with_plugin).params - count(bare).params) / 1e6
    if column not in row.recipes:
        return None
    result = runs / recipe_of(column).name / "result.json"
    if not result.is_file():
        return None
    return json.loads(result.read_text())["metrics"]["top1"]


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
