"""Files from others, mutated, through the verbs that take them: nothing runs, hangs or ends in a traceback."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from pathlib import Path

import pytest


def test_mutated_files_are_read_or_refused_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    import given_files
    import hostile

    intact = given_files.make_intact(tmp_path / "intact")
    table = given_files.fuzz_files(given_files.Fuzz(intact, list(given_files.KINDS), seed=1), range(26))
    assert not table.faults, "\n".join(map(str, table.faults))
    counts = sum(table.counts.values(), Counter())
    assert counts["files"] == 26 and counts["refused"] > 5 and counts["fine"] > 3

    def run_code(*_: object) -> str:
        exec(hostile.RUN)
        return "given"

    def hang(*_: object) -> str:
        while True:
            time.sleep(1)

    def crash(*_: object) -> str:
        os.kill(os.getpid(), signal.SIGKILL)
        return ""

    verb = {"verb": ("show", "r3d_tiny")}
    faults = {"runs": run_code, "hangs": hang, "crashes": crash, "raises": dict}
    monkeypatch.setattr(given_files, "KINDS", {name: given_files.Kind(make, "", verb) for name, make in faults.items()})
    monkeypatch.setattr(given_files, "CLOCK_S", 2)
    table = given_files.fuzz_files(given_files.Fuzz(intact, list(faults)), range(5))
    texts = [outcome.fault.split(":")[0] for outcome in table.faults]
    assert texts == ["code ran", "hangs", "killed by SIGKILL", "exception", "code ran"]
