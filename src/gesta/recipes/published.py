"""What a paper prints: the rows of its tables, each beside the runs that measure it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal

from gesta.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of a paper's table: a recipe beside the paper's numbers (column → value)."""

    label: str
    published: dict[str, float]
    recipes: dict[str, Callable[..., Recipe]] = field(default_factory=dict)  # column → the run that measures it
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A paper's table: where it stands, its columns and its rows."""

    source: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


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
    """A figure, our number at the printed number of digits (or 2), and whether the two agree; None if only ours is."""

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
    ours = f"{figure.ours():.{max(-int(Decimal(figure.printed).as_tuple().exponent), 0)}f}"
    return Verdict(figure, ours, ours == figure.printed)
