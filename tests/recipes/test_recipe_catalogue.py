"""The list of recipes and tables says what the modules hold, without importing them."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys

import pytest

from gesta import recipes
from gesta.datasets.ucf101 import UCF101
from gesta.errors import GestaError
from gesta.recipe import Recipe
from gesta.recipes.catalogue import catalogue, list_recipes, list_tables


def test_recipes_are_those_of_the_modules() -> None:
    assert {"finetune", "demo", "stan.ucf101", "std_former.something_v2"} <= set(list_recipes())
    for module in {entry.module for entry in catalogue().values()}:
        functions = {
            name: function.__doc__.splitlines()[0]
            for name, function in inspect.getmembers(importlib.import_module(module), inspect.isfunction)
            if function.__module__ == module and not name.startswith("_")
            if function.__annotations__.get("return") in (Recipe, "Recipe")
        }
        assert functions == {e.function: e.summary for e in catalogue().values() if e.module == module}


def test_tables_are_those_of_the_modules() -> None:
    modules = {address.partition(".")[0] for address in list_tables()}
    assert modules == {"ata", "ctn", "mfst", "rpe_stdt", "st_manet", "stan", "std_former"}
    for module in modules:
        tables = importlib.import_module(f"gesta.recipes.{module}").TABLES
        sources = {f"{module}.{name}": table.source for name, table in tables.items()}
        assert sources == {a: source for a, source in list_tables().items() if a.startswith(f"{module}.")}


def test_listing_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom gesta.recipes.catalogue import list_recipes, list_tables\n"
        "assert list_recipes() and list_tables()\n"
        "heavy = {'torch', 'numpy', 'timm', 'av', 'rich'} & set(sys.modules)\nassert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_functions_of_the_package() -> None:
    assert recipes.finetune("r3d_tiny", root="videos").data.root == "videos"  # type: ignore[attr-defined]
    assert recipes.demo("there").data.root == "there"  # type: ignore[attr-defined]
    assert recipes.find_table("stan.table1").source == recipes.list_tables()["stan.table1"]
    with pytest.raises(GestaError, match="both say which videos"):
        recipes.finetune(root="videos", data=UCF101())
