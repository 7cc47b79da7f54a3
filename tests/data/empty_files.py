"""Folders of empty files, for tests that read names alone."""

from __future__ import annotations

import unicodedata
from pathlib import Path

COMPOSED = "caf\u00e9"
DECOMPOSED = unicodedata.normalize("NFD", COMPOSED)  # as folders of macOS have it


def tree(root: Path, names: list[str]) -> Path:
    """Make files below a folder."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def frames(folder: Path, count: int) -> None:
    """Make a video that is a folder of pictures."""
    folder.mkdir(parents=True)
    for i in range(count):
        (folder / f"img_{i + 1:05d}.jpg").touch()
