"""From an address on the command line to a recipe or table, and from recipes to rehearsals."""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_origin, get_type_hints

from gesta.config import copy, from_json, replace, suggest
from gesta.datasets import data_config
from gesta.errors import GestaError
from gesta.model import AroundConfig, Insert, ModelConfig
from gesta.models import model_config
from gesta.recipe import Recipe
from gesta.recipes.catalogue import catalogue, list_tables
from gesta.recipes.published import Table
from gesta.records import DataConfig, class_counts


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
        data: replace the data set by this one of :data:`gesta.datasets.DATASETS`; ``marionette`` rehearses it, see
            :func:`rehearse`.
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
        recipe = rehearse(recipe)
    elif data:
        recipe.data = data_config(data)
    return recipe


def read_recipe(path: Path, *, trust_code: bool = False) -> Recipe:
    """Read a ``recipe.json`` that a run folder keeps."""
    try:
        recipe = from_json(json.loads(path.read_text()), trust_code=trust_code, source=str(path))
    except (OSError, ValueError) as error:
        raise GestaError(f"{path} cannot be read as a recipe ({error}); give the recipe.json of a run folder") from None
    if not isinstance(recipe, Recipe):
        raise GestaError(f"{path} holds no recipe; give the recipe.json of a run folder")
    return recipe


def rehearse(recipe: Recipe, data: DataConfig | None = None) -> Recipe:
    """The same experiment small enough for two processor cores: the model's tiny size, Marionette, the demo's budget.

    With ``data`` (of a layout, see :mod:`gesta.marionette.layouts.make`) that is read instead, and the views of the
    test are those of the recipe.

    Switches of the model, the kind of sampling and the modality stay as the recipe sets them. Plug-ins keep their
    settings and move to the proportional place; of those that come from several places to one, the first place's stay.
    Freezing and the weights to start from are kept.
    """
    from gesta.recipes.embedded import demo

    budget, small = demo(), copy(recipe)
    small.model = replace(_tiny(recipe), classes=class_counts((data or budget.data).classes()))
    small_blocks, blocks = _blocks(small.model), _blocks(recipe.model)
    places = [min(round(at * small_blocks / blocks), small_blocks - 1) for at in range(blocks)]
    for name, value in _switches(recipe.model).items():
        if _names_blocks(small.model, name):
            value = _moved(value, small_blocks, blocks)
        setattr(small.model, name, copy(value))
    small.model.clip.sampling, small.model.clip.shrink = recipe.model.clip.sampling, recipe.model.clip.shrink
    came: dict[int, int] = {}
    small.model.inserts = [
        Insert(layer=copy(insert.layer), at=places[insert.at], class_token=insert.class_token)
        for insert in recipe.model.inserts
        if came.setdefault(places[insert.at], insert.at) == insert.at
    ]
    if data is not None:
        small.data = data
    else:
        small.data, small.evaluate = budget.data, budget.evaluate
        for name in {"modality", "depth_encoding"} & {f.name for f in fields(recipe.data)}:
            setattr(small.data, name, getattr(recipe.data, name))
    small.train = copy(budget.train)
    small.train.freeze = _smaller(recipe.train.freeze, places, small_blocks)
    small.name = f"{recipe.name}-rehearsal"
    return small


def _switches(model: ModelConfig) -> dict[str, Any]:
    """What a model does otherwise than its class by default, apart from its sizes: flags, words, plug-ins, blocks.

    Fields that name blocks end with "blocks" or are among a class's ``places``; it may name more fields as its
    ``switches``.
    """
    hints = get_type_hints(type(model))
    found = {}
    for f in fields(model):
        value = getattr(model, f.name)
        switch = get_origin(hints[f.name]) is Literal or isinstance(value, bool | AroundConfig)
        switch = switch or f.name in getattr(type(model), "switches", ())
        if value != f.default and (switch or _names_blocks(model, f.name)):
            found[f.name] = value
    return found


def _names_blocks(model: ModelConfig, name: str) -> bool:
    return name.endswith("blocks") or name in getattr(type(model), "places", ())


def _moved(value: Any, small_blocks: int, blocks: int) -> Any:
    """Numbers of blocks, or pairs of a word and such a number, in a model with fewer blocks."""
    if isinstance(value, int):
        return value * small_blocks // blocks
    if isinstance(value, tuple) and value and isinstance(value[0], str):
        return (value[0], _moved(value[1], small_blocks, blocks))
    return tuple(sorted({_moved(one, small_blocks, blocks) for one in value}))


def _smaller(prefixes: tuple[str, ...], places: Sequence[int], blocks: int) -> tuple[str, ...]:
    """Prefixes of parameters of a model with fewer blocks: places of blocks and inserts in proportion."""
    found: dict[str, None] = {}
    for prefix in prefixes:
        part, _, rest = prefix.partition(".")
        place = rest.split(".")[0]
        if part == "inserts":
            found[f"inserts.{places[int(place)]}."] = None
        elif part == "blocks":
            found |= dict.fromkeys(f"blocks.{i}." for i in range(round((int(place) + 1) * blocks / len(places))))
        else:
            found[prefix] = None
    return tuple(found)


def _tiny(recipe: Recipe) -> ModelConfig:
    """The tiny size of the recipe's model, without plug-ins."""
    from gesta.models import MODELS

    for name in filter(lambda name: name.endswith("_tiny"), MODELS):
        tiny = model_config(name)
        if type(tiny) is type(recipe.model) and not tiny.inserts and getattr(tiny, "around", None) is None:
            return tiny
    raise GestaError(f"{recipe.name}: {type(recipe.model).__name__} has no tiny size to rehearse with")


def _blocks(model: Any) -> int:
    import torch

    bare = copy(model)
    bare.inserts = []
    with torch.device("meta"):
        return len(bare.build().blocks)


def _find_function(address: str) -> Any:
    if ":" in address:
        module_name, _, name = address.partition(":")
        try:
            return getattr(importlib.import_module(module_name), name)
        except (ImportError, AttributeError) as error:
            raise GestaError(f"there is no recipe at {address!r}: {error}") from None
    known = catalogue()
    if address not in known:
        raise GestaError(f"there is no recipe {address!r}{suggest(address, known)} (all: gesta models)")
    return getattr(importlib.import_module(known[address].module), known[address].function)
