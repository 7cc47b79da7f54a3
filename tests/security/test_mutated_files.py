"""Files from others, mutated, through the verbs that take them: nothing runs, hangs or ends in a traceback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks" / "robustness"

FUZZ = """
import json, pathlib, sys
from collections import Counter
import given_files
intact = given_files.make_intact(pathlib.Path(sys.argv[1]))
table = given_files.fuzz_files(given_files.Fuzz(intact, list(given_files.KINDS), seed=1), range(26))
print(json.dumps([list(map(str, table.faults)), sum(table.counts.values(), Counter())]))
"""


def test_mutated_files_are_read_or_refused_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import given_files
    import hostile

    # in a process of its own: forks of one whose autograd has threads, as after work on another device, cannot train
    done = subprocess.run(
        [sys.executable, "-c", FUZZ, tmp_path / "intact"], cwd=BENCHMARKS, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    faults, counts = json.loads(done.stdout.splitlines()[-1])
    assert not faults, "\n".join(faults)
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

    intact, verb = given_files.Intact(tmp_path, {}, {}, {}), {"verb": ("show", "r3d_tiny")}
    faults = {"runs": run_code, "hangs": hang, "crashes": crash, "raises": dict}
    monkeypatch.setattr(given_files, "KINDS", {name: given_files.Kind(make, "", verb) for name, make in faults.items()})
    monkeypatch.setattr(given_files, "CLOCK_S", 2)
    table = given_files.fuzz_files(given_files.Fuzz(intact, list(faults)), range(5))
    texts = [outcome.fault.split(":")[0] for outcome in table.faults]
    assert texts == ["code ran", "hangs", "killed by SIGKILL", "exception", "code ran"]
