"""The public names have types: scripts that use them pass mypy --strict, a misspelt one is an error."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from test_python_page import GUIDES, PAGE, blocks

import gesta

ROOT = Path(__file__).parents[2]


def test_public_names_are_typed_and_misspelt_ones_are_errors(tmp_path: Path) -> None:
    (tmp_path / "misspelt.py").write_text(
        "import gesta\n"
        "gesta.stan_typo\n"
        "gesta.recipes.finetune(modle='mvitv2_tiny')\n"
        "gesta.load('runs/demo').clases\n"
        "gesta.TrainConfig(lerning_rate=1e-3)\n"
    )
    scripts = ["tests/front_door.py", str(tmp_path / "misspelt.py")]
    for page in [PAGE, PAGE.with_name("index.md"), *GUIDES]:  # pyproject.toml has flags for them
        script = tmp_path / f"page_{page.stem.replace('-', '_')}.py"
        script.write_text("\n".join(block for _, block in blocks(page)), encoding="utf-8")
        scripts.append(str(script))
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *scripts],
        cwd=ROOT,  # for the settings of pyproject.toml, and the cache of scripts/check
        env=os.environ | {"MYPYPATH": str(Path(gesta.__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    errors = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert [line.split("misspelt.py:")[-1].split(":")[0] for line in errors] == ["2", "3", "4", "5"], done.stdout
    for line, word in zip(errors, ("stan_typo", "modle", "clases", "lerning_rate")):
        assert word in line
