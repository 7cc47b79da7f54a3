"""Lists that are written are read back, whatever the names in them, or refused before anything is written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from empty_files import tree

from gesta.data.lists import Folder, Lists, read_class_names, write_lists
from gesta.errors import GestaError

ODD = [
    "a\u2028b.mp4",
    "a\x85.mp4",
    "a\x0cb 3.mp4",
    "gar\udce7on.mp4",
    "\u00a0 x.mp4",
    "c,d;e::f.mp4",
    'say "x".mp4',
    "=1+1.mp4",
]
"""Separators that str.splitlines() knows, Latin-1 bytes, a blank that str.strip() takes away, all delimiters."""


def test_lists_that_are_written_are_read_back(tmp_path: Path) -> None:
    classes = ["caf\udce9", "jump\x85", "two words\u2028"]
    root = tree(tmp_path, [f"{name}/{video}" for name in classes for video in ODD])
    counts = write_lists(str(root), val=0.25)
    assert counts == {"train.txt": 18, "val.txt": 6}
    data = Lists(train=str(root / "train.txt"), val=str(root / "val.txt"), class_names=str(root / "classes.txt"))
    assert data.classes() == classes
    for split in ("train", "val"):
        expected = Folder(root=str(root), val=0.25).records(split)  # type: ignore[arg-type]
        records = data.records(split)  # type: ignore[arg-type]
        assert [(r.path, r.name, r.label) for r in records] == [(r.path, r.name, r.label) for r in expected]
        assert all(os.path.exists(r.path) for r in records)


@pytest.mark.parametrize("name", ["a\nb.mp4", "a\r.mp4", " a/x.mp4"])
def test_names_that_no_line_can_hold_are_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    root = tree(tmp_path, [f"\tx/{name}" if name[0] != " " else name, "b/1.mp4"])
    with pytest.raises(GestaError, match="rename"):
        write_lists(str(root), val=0.0)
    assert not list(tmp_path.glob("*.txt"))


def test_a_list_of_an_earlier_split_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    root = tree(tmp_path, [f"{c}/{i}.mp4" for c in "ab" for i in range(20)])
    assert write_lists(str(root), test=0.3) == {"train.txt": 20, "val.txt": 8, "test.txt": 12}
    before = {path.name: path.read_text() for path in root.glob("*.txt")}
    for options, left in (({"seed": 1}, "test"), ({"val": 0.0, "test": 0.3}, "val")):
        message = (
            rf"{left}\.txt: would be left of an earlier split.*; delete it, or give its fraction again with {left}"
        )
        with pytest.raises(GestaError, match=message):
            write_lists(str(root), **options)  # type: ignore[arg-type]
        assert {path.name: path.read_text() for path in root.glob("*.txt")} == before
    (root / "test.txt").unlink()
    assert write_lists(str(root), seed=1) == {"train.txt": 32, "val.txt": 8}


@pytest.mark.parametrize("classes", [["label", "wave"], ["1 a", "2 b"], ["a\nb", "c"]])
def test_classes_that_a_file_of_names_cannot_hold_are_refused(tmp_path: Path, classes: list[str]) -> None:
    with pytest.raises(GestaError, match=r"classes\.txt cannot hold|cannot hold this name|has a line break"):
        write_lists(str(tree(tmp_path, [f"{name}/1.mp4" for name in classes])), val=0.0)


def test_class_names_that_are_not_utf8_stay_the_bytes_that_they_are(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_bytes("caf\u00e9\r\nZ\u00fcrich\r\n".encode("cp1252"))
    names = read_class_names(str(tmp_path / "names.txt"))
    assert [os.fsencode(name) for name in names] == [b"caf\xe9", b"Z\xfcrich"]  # as a folder of that name has them
