"""The ledger's page is what the code counts, and every difference from a paper has a reason."""

from __future__ import annotations

from pathlib import Path

from gesta.recipes.ledger import ledger
from gesta.recipes.published import Figure, judge

PAGE = Path(__file__).parents[2] / "docs" / "fidelity.md"


def test_page_is_up_to_date_and_differences_are_explained() -> None:
    found = ledger()
    assert PAGE.read_text() == found.to_markdown(), "run: gesta ledger --write docs/fidelity.md"
    for _, verdict in found.rows():
        assert verdict.same is not False or verdict.figure.reason, f"{verdict.figure.what} differs without a reason"
    assert len(found.to_json()) == len(list(found.rows()))


def test_figures_are_compared_to_the_printed_digit() -> None:
    assert judge(Figure("a", "", "65.40", "G", lambda: 65.4049)).same
    alone = judge(Figure("a", "", "", "G", lambda: 65.4049))
    assert (alone.paper, alone.ours, alone.mark, alone.same) == ("–", "65.40", "", None)
    assert not judge(Figure("a", "", "65.40", "G", lambda: 65.4051)).same
    assert judge(Figure("a", "", "65", "G", lambda: 65.4)).ours == "65"
