"""How the source is arranged: what docs/design.md says of it, where a tool can tell."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "gesta"
FILES = sorted(SOURCE.rglob("*.py"))


def folders(root: Path) -> dict[str, int]:
    """Number of Python files in each folder below a root."""
    return Counter(str(path.parent.relative_to(ROOT)) for path in root.rglob("*.py"))


def test_few_modules_at_the_root() -> None:
    modules = [path.stem for path in SOURCE.glob("*.py") if not path.stem.startswith("__")]
    assert len(modules) <= 12, modules


@pytest.mark.parametrize("root", ["src", "tests", "benchmarks"])
def test_no_folder_is_crowded(root: str) -> None:
    crowded = {folder: number for folder, number in folders(ROOT / root).items() if number > 20}
    assert not crowded, "more than 20 files: split the folder by what its files are about"


def test_no_two_files_of_tests_have_one_name() -> None:
    """pytest imports them by their name alone."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("*.py"))
    assert not [name for name, number in names.items() if number > 1]


def test_no_function_is_long() -> None:
    long = {
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= 100
    }
    assert not long, "more than 100 lines"


def test_every_file_says_what_it_holds() -> None:
    silent = [str(path.relative_to(ROOT)) for path in FILES if not ast.get_docstring(ast.parse(path.read_text()))]
    assert not silent, "files without a docstring"


def test_imports_for_the_type_checker_alone_are_explained() -> None:
    """``if TYPE_CHECKING:`` is for start-up time and says so; it hides no circle of imports."""
    bare = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in FILES
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if line.strip().startswith("if TYPE_CHECKING:") and "start-up time" not in line
    ]
    assert not bare, "if TYPE_CHECKING: without a comment that says 'start-up time'"
