"""Today's numbers are those of ``goldens.json``, to 1e-6; what they are and how they were made: ``compute.py``."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import compute

GOLDENS = json.loads(compute.FILE.read_text())


def differences(here: Any, there: Any, at: str = "") -> list[str]:
    """Where two values of JSON differ, numbers by more than 1e-6 of their size."""
    if isinstance(here, dict) and isinstance(there, dict) and here.keys() == there.keys():
        return [text for key in here for text in differences(here[key], there[key], f"{at}/{key}")]
    if isinstance(here, list) and isinstance(there, list) and len(here) == len(there):
        return [text for i, (a, b) in enumerate(zip(here, there)) for text in differences(a, b, f"{at}/{i}")]
    if isinstance(here, float) and isinstance(there, float):
        close = math.isclose(here, there, rel_tol=1e-6, abs_tol=1e-6)
        return [] if close else [f"{at}: {here!r}, not {there!r}"]
    return [] if here == there else [f"{at}: {here!r}, not {there!r}"]


@pytest.mark.parametrize("name", GOLDENS)
def test_golden(name: str, tmp_path: Path) -> None:
    value = json.loads(json.dumps(compute.everything()[name](tmp_path / "data")))
    assert not differences(value, GOLDENS[name])


def test_nothing_is_left_out() -> None:
    assert set(compute.everything()) == set(GOLDENS)
    assert compute.FILE.stat().st_size < 300_000


def test_differences_are_seen() -> None:
    assert differences({"a": [1.0, 2]}, {"a": [1.0 + 1e-5, 2]}) == ["/a/0: 1.0, not 1.00001"]
    assert differences({"a": 1}, {"b": 1}) and differences([1], [1, 2]) and not differences([1.0], [1.0 + 1e-8])
