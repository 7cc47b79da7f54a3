"""Commands about models and recipes before anything is trained."""

from __future__ import annotations

import argparse
import fnmatch
import itertools
import json
from importlib import resources
from typing import Any

from gesta.cli.options import (
    Commands,
    count,
    named_recipe,
    print_results,
    recipe_options,
    trust_option,
    views,
    with_fields,
)
from gesta.config import suggest
from gesta.errors import GestaError


def add_commands(commands: Commands) -> None:
    sub = commands.add("models", _models, "list models, recipes and tables")
    sub.add_argument("pattern", nargs="?", default="*", help="shell pattern of the names (stan*)")
    text = "only models of which weights are published, with their licence and accuracy"
    sub.add_argument("--pretrained", action="store_true", help=text)

    sub = commands.add("show", _show, "print every field of a recipe or model, and a model's card", fields=True)
    sub.add_argument("what", metavar="RECIPE|MODEL", help="a name of those that gesta models lists")
    recipe_options(sub)
    trust_option(sub)

    sub = commands.add("cost", _cost, "parameters and multiply-adds per part", fields=True, example="--dropout 0.1")
    sub.add_argument("model", metavar="MODEL", help="name of a model (all: gesta models)")
    sub.add_argument("--classes", type=count, help="number of classes (default: the model's)")
    text = "counting: torch's, the papers' (fvcore), or both"
    sub.add_argument("--style", choices=["torch", "fvcore", "both"], default="both", help=text)
    text = 'also the cost of so many views: 12, or "4 clips x 3 crops"'
    sub.add_argument("--views", type=views, metavar="N|WORDS", help=text)


def _models(options: argparse.Namespace) -> None:
    from gesta.models import card, list_models
    from gesta.recipes.catalogue import list_recipes, list_tables

    names, pattern = list_models(options.pattern, options.pretrained), options.pattern
    others: dict[str, Any] = {} if options.pretrained else {"recipes": list_recipes(), "tables": list_tables()}
    known = [*list_models("*", options.pretrained), *itertools.chain.from_iterable(others.values())]
    others = {kind: {name: kinds[name] for name in fnmatch.filter(kinds, pattern)} for kind, kinds in others.items()}
    if not (names or any(others.values())):
        what = "model with published weights" if options.pretrained else "model, recipe or table"
        remedy = suggest(pattern, known) or "; without a pattern gesta models lists all"
        raise GestaError(f"no {what} is called {pattern!r}{remedy}")
    cards = [card(name) for name in names]
    if options.json:
        others |= {"tables": sorted(others["tables"])} if others else {}
        print(json.dumps({"models": [c.to_json() for c in cards], **others}, indent=2))
        return
    if cards:
        print("models")
    for c in cards:
        line = f"  {c.name:<20} {c.params / 1e6:8.2f} M {c.macs / 1e9:8.2f} GMACs   {c.clip:<24}"
        if options.pretrained and c.published:
            best: dict[str, float] = {}
            for accuracy in c.published.accuracy:
                best[accuracy.data] = max(accuracy.top1, best.get(accuracy.data, 0.0))
            line += f"  {c.published.licence or 'licence not known':<22}"
            line += ", ".join(f"{data} {top1:.1f}" for data, top1 in best.items())
        print(line.rstrip())
    if options.pretrained:
        print("gesta show NAME prints where the weights are, and how the accuracies (top-1) were measured")
        return
    for kind, lines in others.items():
        if lines:
            print(f"{kind} (gesta {'train' if kind == 'recipes' else 'table'} …)")
        for address, line in lines.items():
            print(f"  {address:<20} {line}")


def _show(options: argparse.Namespace) -> None:
    from gesta.models import MODELS, card

    if options.what in MODELS and (options.model or options.data):
        flag = "--model" if options.model else "--data"
        raise GestaError(f"{options.what} is a model, and {flag} changes recipes: leave it out")
    unchanged = not (options.fields or options.model or options.data)
    fields = (stored_fields().get(options.what) if unchanged else None) or _fields(options)
    if options.what not in MODELS:
        print(json.dumps(fields, indent=2))
    elif options.json:
        print(json.dumps({"card": card(options.what).to_json(), "fields": fields}, indent=2))
    else:
        print(f"{card(options.what)}\n\n{json.dumps(fields, indent=2)}")


def _fields(options: argparse.Namespace) -> Any:
    from gesta.config import to_json
    from gesta.models import MODELS, model_config

    if options.what in MODELS:
        return to_json(with_fields(model_config(options.what), options))
    return to_json(named_recipe(options.what, options))


def stored_fields() -> dict[str, Any]:
    """All fields of every recipe and model by name, as JSON: known without torch, which takes seconds to import."""
    return json.loads(resources.files(__package__).joinpath("fields.json").read_text(encoding="utf-8"))


def compute_fields() -> dict[str, Any]:
    """What ``fields.json`` holds; ``scripts/precompute`` writes it again."""
    from gesta.config import to_json
    from gesta.models import list_models, model_config
    from gesta.recipes.address import find_recipe
    from gesta.recipes.catalogue import list_recipes

    fields = {address: to_json(find_recipe(address)) for address in list_recipes()}
    return fields | {name: to_json(model_config(name)) for name in list_models()}


def _cost(options: argparse.Namespace) -> None:
    from dataclasses import replace

    from gesta.cost import count as count_cost
    from gesta.models import model_config, stored_cost

    styles: list[Any] = ["torch", "fvcore"] if options.style == "both" else [options.style]
    if options.fields or options.classes is not None:
        changes = {} if options.classes is None else {"classes": options.classes}
        model = with_fields(model_config(options.model, **changes), options)
        costs = [count_cost(model, style=style) for style in styles]
    else:
        costs = [stored_cost(options.model, style) for style in styles]
    print_results(options, *[replace(cost, views=options.views) for cost in costs])
