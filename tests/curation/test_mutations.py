"""Sixty broken files: none crashes or stops anything, and every one that cannot be read is named by all who read it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest


def test_broken_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    import mutations

    made = mutations.mutate(tmp_path / "a", 60, seed=1)
    again = mutations.mutate(tmp_path / "b", 60, seed=1)
    assert [a.kind for a in made] == [b.kind for b in again] and len({a.kind for a in made}) > 25
    for a, b in zip(made, again):
        assert not a.path.is_file() or a.path.stat().st_size > 2**20 or a.path.read_bytes() == b.path.read_bytes()
    # a sound one that is said to be hopeless shows that the benchmark sees what is missing
    sound = mutations.Mutant(tmp_path / "a" / "sound" / "h264.mp4", "sound", hopeless=True)
    outcome = mutations.judge(tmp_path / "a", [*made, sound], workers=0)
    assert len(outcome.missing) == 1 and outcome.missing[0].startswith(f"sound: {sound.path}")
    total = sum(outcome.kinds.values(), Counter())
    assert total["files"] == 61 and total["missing"] == 1 and total["fine"] > 5 and total["damaged"] > 5
    assert sum(mutant.hopeless for mutant in made) <= total["failed"] < 40
