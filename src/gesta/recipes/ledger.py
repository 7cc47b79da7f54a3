"""The fidelity ledger: every published cost figure of the systems built so far beside ours, with verdict and reason.

``gesta ledger`` prints it; ``docs/fidelity.md`` is made from it (``gesta ledger --write docs/fidelity.md``) and a test
keeps the file true.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from gesta.progress import plain_text
from gesta.recipes import ata, ctn, mfst, rpe_stdt, st_manet, stan, std_former
from gesta.recipes.published import Figure, Verdict, judge


@dataclass(frozen=True, slots=True)
class System:
    """A published system.

    Attributes:
        source: the paper, and what holds for all figures.
        figures: its cost figures.
        summary: how its costs compare, in a sentence.
        decisions: number, error or gap of the paper, what gesta does about it.
    """

    source: str
    summary: str
    figures: tuple[Figure, ...]
    decisions: tuple[tuple[str, str, str], ...] = ()


def systems() -> dict[str, System]:
    """The systems by name, in the order they were built."""
    papers = {
        "STAN": stan, "ATA": ata, "MFST": mfst, "RPE-STDT": rpe_stdt, "CTN": ctn, "STD-Former": std_former,
        "ST-MANet": st_manet,
    }  # fmt: skip
    return {
        name: System(paper.SOURCE, paper.SUMMARY, paper.FIGURES, getattr(paper, "DECISIONS", ()))
        for name, paper in papers.items()
    }


@dataclass(frozen=True, slots=True)
class Ledger:
    """All verdicts, by system."""

    verdicts: dict[str, list[Verdict]]
    systems: dict[str, System]

    def rows(self) -> Iterator[tuple[str, Verdict]]:
        for system, verdicts in self.verdicts.items():
            for verdict in verdicts:
                yield system, verdict

    def to_json(self) -> list[dict[str, Any]]:
        return [
            {
                "system": system,
                "what": v.figure.what,
                "where": v.figure.where,
                "unit": v.figure.unit,
                "paper": v.figure.printed,
                "ours": v.ours,
                "same": v.same,
                "reason": v.figure.reason,
            }
            for system, v in self.rows()
        ]

    def to_markdown(self) -> str:
        """The page ``docs/fidelity.md``."""
        lines = [
            "# Fidelity ledger",
            "",
            "Every published cost figure of the systems built so far beside ours. Made by",
            "`gesta ledger --write docs/fidelity.md`; a test fails when it is out of date.",
            "",
            "M: millions of parameters. G: giga multiply-adds as fvcore counts them, which the papers call FLOPs.",
            "✓: equal to the printed digit; –: the paper prints no number, and ours is our own.",
            "",
            *self._summary(),
            "",
            "Below, each figure and each decision.",
        ]
        for system, verdicts in self.verdicts.items():
            lines += ["", f"## {system}", "", self.systems[system].source, ""]
            lines += ["| figure | paper | ours | | where | remark |", "|---|---:|---:|---|---|---|"]
            for v in verdicts:
                f = v.figure
                lines.append(_cells(f.what, v.paper, f"{v.ours} {f.unit}", v.mark, f.where, f.reason))
            if decisions := self.systems[system].decisions:
                lines += ["", "Where the paper errs or is silent, and what gesta does:", ""]
                lines += ["| | paper | gesta |", "|---|---|---|"]
                lines += [_cells(*decision) for decision in decisions]
        return "\n".join(lines) + "\n"

    def _summary(self) -> list[str]:
        """A table of one line for each system."""
        lines = ["| system | equal | different | ours alone | decisions | in short |", "|---|---:|---:|---:|---:|---|"]
        for name, verdicts in self.verdicts.items():
            equal, different, alone = (sum(v.same is same for v in verdicts) for same in (True, False, None))
            system = self.systems[name]
            lines.append(_cells(name, *map(str, (equal, different, alone, len(system.decisions))), system.summary))
        return lines

    def __str__(self) -> str:
        from rich.table import Table  # start-up time

        table = Table(title="Fidelity ledger", expand=False)
        for column in ("system", "figure", "paper", "ours", "", "remark"):
            table.add_column(column, justify="right" if column in ("paper", "ours") else "left")
        for system, v in self.rows():
            f = v.figure
            table.add_row(system, f.what, v.paper, f"{v.ours} {f.unit}", v.mark, f.reason)
        return plain_text(table, width=140)


def _cells(*texts: str) -> str:
    """A row of a Markdown table; a bar in a text does not end its cell."""
    return f"| {' | '.join(text.replace('|', chr(92) + '|') for text in texts)} |"


def ledger() -> Ledger:
    """Judge every figure of every system (builds models on the meta device; no weights, seconds)."""
    papers = systems()
    return Ledger({name: [judge(figure) for figure in system.figures] for name, system in papers.items()}, papers)
