"""What a paper prints: the rows of its tables, each beside the runs that measure it, and its costs beside ours.

A printed number stands once, in the cell of its table; the ledger's figures are made of these cells. In the papers'
files tables are laid out by hand, an entry after the other, which the formatter leaves as they are (``fmt: skip``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

import torch

from gesta.config import replace
from gesta.cost import Style, count
from gesta.evaluation.fuse import By
from gesta.model import ModelConfig
from gesta.recipe import Recipe

UNITS = {"params": "M", "GMACs": "G", "D params": "M"}
"""Columns of costs: parameters in millions, multiply-adds in billions, parameters of the plug-ins alone in millions."""

INCREASE = "Δ% "
"""Beginning of the name of a column that prints by how many percent another column exceeds that of the first row."""

Run = Callable[..., Recipe]


@dataclass(frozen=True, slots=True)
class Fusion:
    """Runs on the same videos whose scores are fused, see :func:`gesta.evaluation.fuse.fuse`."""

    runs: tuple[Run, ...]
    by: By = "prob_mean"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of a paper's table.

    Attributes:
        label: what the paper calls it.
        published: the paper's numbers by column.
        recipes: the runs that measure them, by column.
        fused: by column, where the number is that of several runs together.
        note: a remark below the table.
        text: what the paper prints in columns of words, see :class:`Table`.
    """

    label: str
    published: dict[str, float]
    recipes: dict[str, Run] = field(default_factory=dict)
    fused: dict[str, Fusion] = field(default_factory=dict)
    note: str = ""
    text: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A paper's table.

    Attributes:
        source: the paper and the table's number.
        columns: their names; those of costs are in :data:`UNITS`, ``Δ% UCF101`` is the relative increase of the column
            ``UCF101`` over the first row that has a run.
        rows: from top to bottom.
        digits: of columns in which a printed number ends with a zero: how many digits follow the point.
        words: columns of words, which no run measures.
        measures: what the other columns hold: accuracy in percent, or the mutual information of neighbouring frames
            that ``gesta analyse mi`` leaves in the folder of a run.
    """

    source: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    digits: dict[str, int] = field(default_factory=dict)
    words: tuple[str, ...] = ()
    measures: Literal["accuracy", "mutual information"] = "accuracy"

    def figure(
        self, label: str, column: str, what: str, ours: Callable[[], float], reason: str = "", where: str = ""
    ) -> Figure:
        """The ledger's figure about one cell.

        Args:
            label: of the row.
            column: of the cell.
            what: see :class:`Figure`, like the following.
            ours: counts our model.
            reason: why ours differs.
            where: tables that print this number, if it is not this one alone.
        """
        rows = {row.label: row for row in self.rows}
        value = rows[label].published[column]
        digits = self.digits.get(column, digits_of(value))
        number = re.search(r"Table [\d.]+", self.source)
        return Figure(what, where or (number[0] if number else ""), f"{value:.{digits}f}", UNITS[column], ours, reason)


@dataclass(frozen=True, slots=True)
class Figure:
    """One number that can be checked without data.

    Attributes:
        what: what is counted.
        where: table or section of the paper.
        printed: the number as printed, with its digits; empty if the paper prints none, and ours is all there is.
        unit: ``M`` (millions of parameters), ``G`` (giga multiply-adds, which the papers call FLOPs) or ``%``.
        ours: counts it on our model, in the same unit.
        reason: why ours differs, or what an equal figure rests on.
    """

    what: str
    where: str
    printed: str
    unit: str
    ours: Callable[[], float]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A figure, our number with the paper's digits (or 2), and whether the two agree; None if only ours is."""

    figure: Figure
    ours: str
    same: bool | None

    @property
    def mark(self) -> str:
        """✓ for equal, ✗ for different, nothing for a number of ours alone."""
        return "" if self.same is None else "✓" if self.same else "✗"

    @property
    def paper(self) -> str:
        """What the paper prints, with its unit."""
        return f"{self.figure.printed} {self.figure.unit}" if self.figure.printed else "–"


def judge(figure: Figure) -> Verdict:
    """Count a figure and compare it with the paper to the printed digit."""
    if not figure.printed:
        return Verdict(figure, f"{figure.ours():.2f}", None)
    ours = f"{figure.ours():.{digits_of(figure.printed)}f}"
    return Verdict(figure, ours, ours == figure.printed)


def row(
    columns: Sequence[str],
    label: str,
    values: Sequence[float | None],
    runs: Run | Fusion | Mapping[str, Run | Fusion] | None = None,
    note: str = "",
) -> Row:
    """A row of a table.

    Args:
        columns: of the table.
        label: of the row.
        values: one for each column, None where the paper prints nothing; the last ones may be left out.
        runs: by column, those of other columns are left out; or one run (or fusion) that measures every column of
            accuracy.
        note: a remark below the table.
    """
    if isinstance(runs, Fusion) or callable(runs):
        measured = (column for column in columns if column not in UNITS and not column.startswith(INCREASE))
        runs = dict.fromkeys(measured, runs)
    by_column = {column: run for column, run in (runs or {}).items() if column in columns}
    return Row(
        label=label,
        published={column: value for column, value in zip(columns, values) if value is not None},
        recipes={column: run for column, run in by_column.items() if not isinstance(run, Fusion)},
        fused={column: run for column, run in by_column.items() if isinstance(run, Fusion)},
        note=note,
    )


def params(make: Callable[[], ModelConfig], **changes: object) -> Callable[[], float]:
    """What counts the parameters, in millions, of a model with some fields changed."""

    def millions() -> float:
        with torch.device("meta"):  # no memory for the weights
            model = replace(make(), **changes).build()
        return sum(parameter.numel() for parameter in model.parameters()) / 1e6

    return millions


def gmacs(
    make: Callable[[], ModelConfig], *, style: Style = "fvcore", views: int = 1, **changes: object
) -> Callable[[], float]:
    """What counts the multiply-adds, in billions, of a model with some fields changed."""
    return lambda: views * count(replace(make(), **changes), style).macs / 1e9


def digits_of(number: float | str) -> int:
    """Digits after the point of a number as it is printed."""
    return max(-int(Decimal(str(number)).as_tuple().exponent), 0)
