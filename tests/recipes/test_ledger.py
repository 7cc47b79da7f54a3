"""The ledger's page is what the code counts, every difference from a paper has a reason, and a number stands once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gesta.comparison.ledger import ledger, systems
from gesta.recipes.address import find_table
from gesta.recipes.catalogue import list_tables
from gesta.recipes.published import INCREASE, UNITS, Figure, Table, digits_of, judge, row

PAGE = Path(__file__).parents[2] / "docs" / "fidelity.md"
MODULES = {
    "STAN": "stan",
    "ATA": "ata",
    "MFST": "mfst",
    "RPE-STDT": "rpe_stdt",
    "CTN": "ctn",
    "STD-Former": "std_former",
    "ST-MANet": "st_manet",
}

SAME_AS_ANOTHER = {("G", 196.7)}
"""ATA's Table 2 prints so what Table 1 prints as 196 G, which the ledger has."""


@pytest.mark.full  # the next test counts a part of the figures, and would fail for most mistakes, too
def test_page_is_up_to_date_and_differences_are_explained() -> None:
    counted = ledger()
    assert PAGE.read_text() == counted.to_markdown(), "run: gesta ledger --write docs/fidelity.md"
    for _, verdict in counted.rows():
        assert verdict.same is not False or verdict.figure.reason, f"{verdict.figure.what} differs without a reason"
    assert len(counted.to_json()) == len(list(counted.rows()))


@pytest.mark.parametrize("name", list(systems()))
def test_figures_of_each_system_stand_in_the_page(name: str) -> None:
    lines = PAGE.read_text().split(f"## {name}\n")[1].split("\n## ")[0].splitlines()
    for i, figure in enumerate(systems()[name].figures):
        v = judge(figure) if i % 4 == 0 else None  # counting all takes a minute
        row = f"| {figure.what} | {v.paper} | {v.ours} {figure.unit} | {v.mark} | " if v else f"| {figure.what} | "
        assert any(line.startswith(row) for line in lines), row


@pytest.mark.parametrize("name", list(systems()))
def test_decisions_of_each_system_are_those_of_the_page(name: str) -> None:
    section = PAGE.read_text().split(f"## {name}\n")[1].split("\n## ")[0]
    written = [tuple(line[2:-2].split(" | ")) for line in section.splitlines() if re.match(r"\| [A-Z]+\d+ \| ", line)]
    assert written == [tuple(decision) for decision in systems()[name].decisions]


@pytest.mark.parametrize("name", list(systems()))
def test_tables_and_ledger_print_the_same_numbers(name: str) -> None:
    """Each cost in a row of ours has a figure, and each figure stands in the tables that it names."""
    printed: dict[str, set[tuple[str, float]]] = {}
    ours = set()
    for address, source in list_tables().items():
        if address.startswith(f"{MODULES[name]}.table"):
            cells = [
                (r, UNITS[c], float(v)) for r in find_table(address).rows for c, v in r.published.items() if c in UNITS
            ]
            ours |= {(unit, value) for r, unit, value in cells if r.recipes}
            printed[re.findall(r"Table ([\d.]+)", source)[0]] = {(unit, value) for _, unit, value in cells}
    figures = [f for f in systems()[name].figures if f.printed and f.where.startswith("Table")]
    assert ours - SAME_AS_ANOTHER <= {(f.unit, float(f.printed)) for f in figures}
    for figure in figures:
        for number in _numbers(figure.where):
            assert (figure.unit, float(figure.printed)) in printed[number], f"{figure.what}: not in Table {number}"


def _numbers(where: str) -> list[str]:
    """``Tables 3, 5-7`` → 3, 5, 6, 7."""
    ranges = [part.split("-") for part in re.findall(r"[\d.]+(?:-\d+)?", where)]
    return [n for first, *last in ranges for n in (map(str, range(int(first), int(last[0]) + 1)) if last else [first])]


def test_figures_come_from_the_cells_with_their_digits() -> None:
    table = Table(
        source="A 2024, Table 4.2 (data)",
        columns=("Top-1", "params", "GMACs"),
        rows=(row(("Top-1", "params", "GMACs"), "ours", (50.5, 97, 65.40)),),
        digits={"GMACs": 2},
    )
    params, gmacs = (table.figure("ours", column, column, lambda: 97.04) for column in ("params", "GMACs"))
    assert (params.where, params.printed, params.unit) == ("Table 4.2", "97", "M") and judge(params).same
    assert (gmacs.printed, gmacs.unit) == ("65.40", "G") and judge(gmacs).ours == "97.04"


def test_rows_leave_out_what_the_table_lacks() -> None:
    def run() -> None: ...

    one = row(("A", "B", "params"), "x", (1.0, None), run, "a remark")  # type: ignore[arg-type]
    assert (one.published, one.recipes, one.note) == ({"A": 1.0}, {"A": run, "B": run}, "a remark")
    assert row(("A",), "x", (), {"A": run, "C": run}).recipes == {"A": run}  # type: ignore[dict-item]


@pytest.mark.parametrize("address", ["stan.table1", "stan.table2"])
def test_printed_increases_are_those_of_the_printed_numbers(address: str) -> None:
    table = find_table(address)
    base = next(r for r in table.rows if r.recipes)
    found = {}
    for r in table.rows:
        for column, value in r.published.items():
            if column.startswith(INCREASE):
                of = column.removeprefix(INCREASE)
                found[r.label, of] = value, 100 * (r.published[of] / base.published[of] - 1)
    assert len(found) == {"stan.table1": 4, "stan.table2": 20}[address]
    for printed, ratio in found.values():
        assert f"{ratio:.{digits_of(printed)}f}" == str(printed)


def test_figures_are_compared_to_the_printed_digit() -> None:
    assert judge(Figure("a", "", "65.40", "G", lambda: 65.4049)).same
    alone = judge(Figure("a", "", "", "G", lambda: 65.4049))
    assert (alone.paper, alone.ours, alone.mark, alone.same) == ("–", "65.40", "", None)
    assert not judge(Figure("a", "", "65.40", "G", lambda: 65.4051)).same
    assert judge(Figure("a", "", "65", "G", lambda: 65.4)).ours == "65"
