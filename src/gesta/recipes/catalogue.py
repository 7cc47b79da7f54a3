"""Which recipes and tables come with gesta, read from the source files, so that listing them does not import torch."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path
from typing import NamedTuple

GENERAL = ("own_videos", "synthetic")
"""Modules whose recipes are of no paper: their address is the function's name alone."""

TOOLS = ("address", "miniatures")
"""Modules whose functions return recipes, too, but of other recipes."""


class Listed(NamedTuple):
    """A recipe of the catalogue: where its function is, and the first line of the docstring."""

    module: str
    function: str
    summary: str


@functools.cache
def catalogue() -> dict[str, Listed]:
    """Every public function that returns a recipe, by its address: ``stan.ucf101``, or ``finetune`` of no paper."""
    entries = {}
    for module, tree in _modules().items():
        for function in tree.body:
            if isinstance(function, ast.FunctionDef) and module not in TOOLS and _is_recipe(function):
                address = function.name if module in GENERAL else f"{module}.{function.name}"
                summary = (ast.get_docstring(function) or "").partition("\n")[0]
                entries[address] = Listed(f"gesta.recipes.{module}", function.name, summary)
    return entries


def list_recipes() -> dict[str, str]:
    """Address → what the recipe is, in one line."""
    return {address: _plain(entry.summary) for address, entry in catalogue().items()}


def _plain(text: str) -> str:
    """The text without the markup of docstrings: ``:func:`x` `` and ``x`` between double backquotes become x."""
    return re.sub(r"(?::\w+:)?(`+)~?(.+?)\1", r"\2", text)


def list_tables() -> dict[str, str]:
    """Address (``stan.table2``) → source ("Ye & Liang 2023, Table 2 (UCF101)"), of every paper's tables.

    A paper's file ends its tables with ``TABLES = {"table1": TABLE1, …}``; each is ``TABLE1 = Table(source="…", …)``.
    """
    sources = {}
    for module, tree in _modules().items():
        values: dict[str, ast.expr] = {}
        for statement in tree.body:
            if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                values[statement.targets[0].id] = statement.value
        match values.get("TABLES"):
            case ast.Dict(keys=keys, values=names):
                for key, name in zip(keys, names):
                    sources[f"{module}.{_text(key)}"] = _source(values, name)
    return sources


def _source(values: dict[str, ast.expr], name: ast.expr) -> str:
    """The ``source`` of the table that a name stands for."""
    match name:
        case ast.Name(id=constant):
            match values.get(constant):
                case ast.Call(keywords=keywords):
                    return next(_text(keyword.value) for keyword in keywords if keyword.arg == "source")
    raise ValueError(f"not the name of a table: {ast.dump(name)}")


def _text(value: ast.expr | None) -> str:
    match value:
        case ast.Constant(value=str(text)):
            return text
    raise ValueError("keys and sources of tables are plain strings")


@functools.cache
def _modules() -> dict[str, ast.Module]:
    """The syntax trees of the files beside this one, the recipes of no paper first."""
    paths = sorted(Path(__file__).parent.glob("*.py"), key=lambda path: (path.stem not in GENERAL, path.stem))
    return {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in paths}


def _is_recipe(function: ast.FunctionDef) -> bool:
    returns = isinstance(function.returns, ast.Name) and function.returns.id == "Recipe"
    return returns and not function.name.startswith("_")
