"""From an address on the command line to a recipe or a table, and from a recipe to its miniature."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

from gesta.config import read_json, suggest
from gesta.datasets import data_config
from gesta.errors import GestaError
from gesta.model import ModelConfig, check_size
from gesta.models import model_config
from gesta.recipe import Recipe
from gesta.recipes.catalogue import catalogue, list_tables
from gesta.recipes.miniatures import Miniature, shrink
from gesta.recipes.published import Table
from gesta.records import DataConfig


def find_table(address: str) -> Table:
    """A paper's table by its address, as ``stan.table2``.

    Raises:
        GestaError: there is none.
    """
    known = list_tables()
    if address not in known:
        raise GestaError(f"there is no table {address!r}{suggest(address, known)} (all: {', '.join(known)})")
    module, _, name = address.partition(".")
    table: Table = importlib.import_module(f"gesta.recipes.{module}").TABLES[name]
    return table


def find_recipe(address: str, *, model: str | None = None, data: str | None = None, trust_code: bool = False) -> Recipe:
    """Build the recipe an address names.

    Args:
        address: ``stan.ucf101`` (ours), ``my_package.runs:mine`` (yours), or the path of a ``recipe.json``.
        model: replace the recipe's model by this named one.
        data: replace the data set by this one of :data:`gesta.datasets.DATASETS`; ``marionette`` makes the recipe a
            miniature, see :func:`miniature`.
        trust_code: allow a ``recipe.json`` to name classes outside gesta.
    """
    if address.endswith(".json"):
        recipe = read_recipe(Path(address), trust_code=trust_code)
    else:
        function = _find_function(address)
        arguments: dict[str, Any] = {}
        if model and "model" in inspect.signature(function).parameters:
            arguments["model"], model = model, None
        recipe = function(**arguments)
        if not isinstance(recipe, Recipe):
            raise GestaError(f"{address} returned {type(recipe).__name__}, not a Recipe")
    if model:
        recipe.model = model_config(model, classes=recipe.model.classes)
        recipe.name = f"{recipe.name}-{model}"
    if data == "marionette" and type(recipe.data).__name__ != "Marionette" and not address.startswith("finetune"):
        recipe = miniature(recipe)
    elif data:
        recipe.data = data_config(data)
    return recipe


def read_recipe(path: Path, *, trust_code: bool = False) -> Recipe:
    """Read a ``recipe.json`` that a run folder keeps.

    Raises:
        GestaError: it cannot be read; it is no recipe; its name, which becomes a folder's, is a path; its model cannot
            be built.
    """
    remedy = "give the recipe.json of a run folder"
    recipe: Recipe = read_json(path, Recipe, trust_code=trust_code, remedy=remedy)
    if not re.fullmatch(r"[\w-][\w.+ -]{0,199}", recipe.name):
        raise GestaError(f"{path}: its name {recipe.name[:80]!r} cannot be that of a folder; {remedy}")
    check_size(recipe.model, str(path))
    return recipe


def miniature(recipe: Recipe, data: DataConfig | None = None) -> Recipe:
    """The same experiment small enough for two CPU cores, see :func:`gesta.recipes.miniatures.shrink`.

    Args:
        recipe: which is left as it is.
        data: read this instead of Marionette, and keep the views of the recipe's test.

    Raises:
        GestaError: the recipe's model has no miniature.
    """
    return shrink(recipe, miniature_of(recipe.model), data)


def miniature_of(model: ModelConfig) -> Miniature:
    """How models of this class are made small, from the ``MINIATURES`` of the papers' files.

    Raises:
        GestaError: nobody says how.
    """
    for module in sorted({entry.module for entry in catalogue().values()}):
        for how in getattr(importlib.import_module(module), "MINIATURES", ()):
            if type(how.model()) is type(model):
                return how
    raise GestaError(f"{type(model).__name__} has no miniature; choose one of gesta's models with --model NAME")


def _find_function(address: str) -> Any:
    if ":" in address:
        module_name, _, name = address.partition(":")
        try:
            return getattr(importlib.import_module(module_name), name)
        except (ImportError, AttributeError) as error:
            raise GestaError(
                f"there is no recipe at {address!r} ({error}); install its package, or name the folder that holds it: "
                "PYTHONPATH=FOLDER gesta train …"
            ) from None
    known = catalogue()
    if address not in known:
        raise GestaError(f"there is no recipe {address!r}{suggest(address, known)} (all: gesta models)")
    return getattr(importlib.import_module(known[address].module), known[address].function)
