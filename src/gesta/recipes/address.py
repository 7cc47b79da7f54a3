"""From an address on the command line to a recipe or a table, and from a recipe to its miniature."""

from __future__ import annotations

import functools
import importlib
import inspect
import itertools
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from gesta.config import format_value, leaves, read_json, suggest
from gesta.data.lists import Videos
from gesta.data.parts import Unlabelled
from gesta.datasets import data_config
from gesta.errors import GestaError
from gesta.model import ModelConfig, check_size
from gesta.models import model_config
from gesta.recipe import Recipe
from gesta.recipes.catalogue import catalogue, list_tables
from gesta.recipes.miniatures import Miniature, shrink
from gesta.recipes.published import Fusion, Run, Table
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


def find_recipe(
    address: str,
    *,
    model: str | None = None,
    data: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    trust_code: bool = False,
    make: Run | None = None,
    say: Callable[[str], object] = lambda sentence: None,
) -> Recipe:
    """Build the recipe an address names.

    Args:
        address: ``stan.ucf101`` (ours), ``stan.table2.4`` (the fourth row of a paper's table), ``my_package.runs:mine``
            (yours), or the path of a ``recipe.json``.
        model: replace the recipe's model by this named one.
        data: replace the data set by this one of :data:`gesta.datasets.DATASETS`; ``marionette`` makes the recipe a
            miniature, see :func:`miniature`.
        arguments: of the recipe's function, see :func:`recipe_function`.
        trust_code: allow a ``recipe.json``, or the weights that a recipe takes its model from, to name classes outside
            gesta.
        make: one of the runs that a row fuses, in place of what the address names.
        say: called with a sentence where the recipe is not what its address may suggest.

    Raises:
        GestaError: no such recipe, row, model or data set; a row that is several runs, or of another system.
    """
    arguments = dict(arguments or {})
    if address.endswith(".json"):
        recipe = read_recipe(Path(address), trust_code=trust_code)
    elif isinstance(run := make or _run_of_row(address), Fusion):
        parts = " and ".join(make().name for make in run.runs)
        raise GestaError(f"{address} is made of two runs or more, {parts}; gesta train {address} trains and fuses them")
    else:
        function = run or _find_function(address)
        parameters = inspect.signature(function).parameters
        if model and "model" in parameters:
            arguments["model"], model = model, None
        if trust_code and "trust_code" in parameters:
            arguments["trust_code"] = True
        recipe = function(**arguments)
        if not isinstance(recipe, Recipe):
            raise GestaError(f"{address} returned {type(recipe).__name__}, not a Recipe")
    if model:
        own, recipe.model = recipe.model, model_config(model, classes=recipe.model.classes)
        recipe.name = f"{recipe.name}-{model}"
        if lost := _lost(own, recipe.model):
            say(f"--model {model} is what gesta show {model} prints, without what {address} sets in its own: {lost}")
    if data and isinstance(recipe.data, Videos | Unlabelled):
        recipe.data = Unlabelled(of=data_config(data))
    elif data == "marionette" and not _reads_marionette(recipe) and address not in ("finetune", "probe"):
        recipe = miniature(recipe)
    elif data:
        recipe.data = data_config(data)
    return recipe


def _reads_marionette(recipe: Recipe) -> bool:
    return type(recipe.data).__name__ in ("Marionette", "MarionetteJoints")


def find_fusion(address: str) -> Fusion | None:
    """The runs that a row of a paper's table fuses; None if the address names anything else."""
    run = _run_of_row(address)
    return run if isinstance(run, Fusion) else None


def recipe_function(address: str) -> Callable[..., Any] | None:
    """The function whose arguments a recipe takes; None where it takes none (a row of a table, a ``recipe.json``)."""
    return None if address.endswith(".json") or _ROW.fullmatch(address) else _find_function(address)


def changed_alone(
    address: str,
    changed: Recipe,
    names: Collection[str],
    *,
    arguments: Mapping[str, Any] | None = None,
    make: Run | None = None,
    **options: Any,
) -> Iterator[str]:
    """Sentences about fields that a flag changed alone, where an argument of the recipe would change others with them.

    ``--model.clip.frames 16`` leaves the stride that ``timesformer.kinetics400`` derives from its argument ``frames``.
    An argument stands for a field if both have the same value, and the field follows when the argument changes; True
    and False are not compared, since too many fields have these values.

    Args:
        address, arguments, make, options: as :func:`find_recipe` was called with.
        changed: the recipe that it returned, with fields changed.
        names: the dotted names of these fields.
    """
    run = make or (None if address.endswith(".json") else _run_of_row(address) or _find_function(address))
    if not names or run is None or isinstance(run, Fusion):
        return
    function, given = (run.func, run.keywords) if isinstance(run, functools.partial) else (run, {})
    signature = inspect.signature(function)
    if any(p.kind not in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) for p in signature.parameters.values()):
        return  # somebody's function, of which not all arguments have names
    bound = signature.bind_partial(*getattr(run, "args", ()), **{**given, **(arguments or {})})
    bound.apply_defaults()

    def build(values: Mapping[str, Any]) -> dict[str, Any]:
        return leaves(find_recipe(address, make=functools.partial(function, **values), **options))

    before, after = build(bound.arguments), leaves(changed)
    for name, (argument, own) in itertools.product(names, bound.arguments.items()):
        value = after.get(name)
        if isinstance(own, bool) or own is None or own != before.get(name) or own == value:
            continue
        try:
            derived = build({**bound.arguments, argument: value})
        except Exception:  # whatever somebody's function does with a value that it cannot have
            continue
        derived_too = {field for field in derived if derived[field] != before.get(field)} - {"name", "paper", *names}
        if derived.get(name) == value and derived_too:
            title = f"{function.__module__.removeprefix('gesta.recipes.')}.{function.__name__}"
            others = ", ".join(f"{_flag(field)} {format_value(derived[field])}" for field in sorted(derived_too))
            flags = "this flag" if len(derived_too) == 1 else "these flags"
            yield (
                f"{_flag(name)} {format_value(value)} changes this field alone, where {title} {_flag(argument)} "
                f"{format_value(value)} also sets {others}; add {flags} if you want that, too"
            )


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _lost(own: ModelConfig, other: ModelConfig) -> str:
    """Settings that every model has, as far as another model has not those of the recipe's own: ``drop_path 0.1``."""
    plugins = [f"{type(i.layer).__name__}[{i.at}]" for i in own.inserts if i not in other.inserts]
    shown = plugins if len(plugins) < 4 else [f"{plugins[0]} to {plugins[-1]}, as they are set there"]
    values = {
        name: getattr(own, name) for name in ("dropout", "drop_path") if getattr(own, name) != getattr(other, name)
    }
    return ", ".join([*(f"{name} {value:g}" for name, value in values.items()), *shown])


# --- rows of tables --------------------------------------------------------------------------------------------------

_ROW = re.compile(r"(?P<table>\w+\.\w+)\.(?P<row>\d+)(?:\.(?P<run>\w+))?")
"""``stan.table2.4``, or ``stan.table1.2.ucf101`` in a row of several runs."""


def run_name(column: str) -> str:
    """What a column calls its run in an address: ``d_48`` for D-48, ``ssv1`` for "SSV1 Top-5", nothing for Top-1."""
    return re.sub(r"\W+", "_", re.sub(r"\bTop-\d$", "", column)).strip("_").lower()


def row_addresses(table: Table) -> list[dict[str, str]]:
    """For each row of a table the addresses of its runs by column; none of other people's systems."""
    name = next(address for address in list_tables() if find_table(address) is table)
    rows = []
    for number, row in enumerate(table.rows, 1):
        runs = {column: run_name(column) for column in (*row.recipes, *row.fused)}
        several = len(set(runs.values())) > 1
        rows.append({c: f"{name}.{number}" + f".{run}" * several for c, run in runs.items()})
    return rows


def _run_of_row(address: str) -> Run | Fusion | None:
    """The run that a row's address names; None for an address of another kind.

    Raises:
        GestaError: no such table, row or run in the row.
    """
    match = _ROW.fullmatch(address)
    if match is None:
        return None
    table = find_table(match["table"])
    if not 1 <= int(match["row"]) <= len(table.rows):
        raise GestaError(f"{address}: {match['table']} has rows 1 to {len(table.rows)} (gesta table {match['table']})")
    row = table.rows[int(match["row"]) - 1]
    recipes: dict[str, Run | Fusion] = {**row.recipes, **row.fused}
    runs = {run_name(column): run for column, run in recipes.items()}
    if not runs:
        raise GestaError(
            f"{address}: {row.label!r} is another paper's system, for which gesta has no recipe; choose another row"
        )
    if match["run"] is None and len(runs) == 1:
        return next(iter(runs.values()))
    if match["run"] not in runs:
        known = ", ".join(f"{match['table']}.{match['row']}" + f".{run}" * (len(runs) > 1) for run in runs)
        raise GestaError(f"{address} names no run; this row has {known}")
    return runs[match["run"]]


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
