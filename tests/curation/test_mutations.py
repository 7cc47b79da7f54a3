"""Sixty broken files: none crashes or stops anything, and each unreadable one is named by everything that reads it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest


def test_broken_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks" / "robustness")
    import mutations

    made = mutations.mutate(tmp_path / "a", 60, seed=1)
    again = mutations.mutate(tmp_path / "b", 60, seed=1)
    assert [a.kind for a in made] == [b.kind for b in again] and len({a.kind for a in made}) > 25
    for a, b in zip(made, again):
        assert not a.path.is_file() or a.path.stat().st_size > 2**20 or a.path.read_bytes() == b.path.read_bytes()
    # an intact file that is listed as unreadable shows that the benchmark notices what is missing
    intact = mutations.Mutant(tmp_path / "a" / "intact" / "h264.mp4", "intact", unreadable=True)
    outcome = mutations.judge(tmp_path / "a", [*made, intact], workers=0)
    assert len(outcome.missing) == 1 and outcome.missing[0].startswith(f"intact: {intact.path}")
    total = sum(outcome.kinds.values(), Counter())
    assert total["files"] == 61 and total["missing"] == 1 and total["fine"] > 5 and total["damaged"] > 5
    assert sum(mutant.unreadable for mutant in made) <= total["failed"] < 40
