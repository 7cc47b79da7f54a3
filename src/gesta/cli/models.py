"""Verbs about models and recipes before anything is trained."""

from __future__ import annotations

import argparse
import json
from typing import Any

from gesta.cli.options import Verbs, print_results, recipe_options, trust_option, views, with_fields


def add_verbs(verbs: Verbs) -> None:
    sub = verbs.add("models", _models, "list models, recipes and tables")
    sub.add_argument("pattern", nargs="?", default="*", help="shell pattern of model names")

    sub = verbs.add("show", _show, "print every field of a recipe or model", fields=True, result=False)
    sub.add_argument("what", metavar="RECIPE|MODEL")
    recipe_options(sub)
    trust_option(sub)

    sub = verbs.add("cost", _cost, "parameters and multiply-adds per part", fields=True)
    sub.add_argument("model", metavar="MODEL")
    sub.add_argument("--classes", type=int, help="of the classifier (default: the model's)")
    sub.add_argument(
        "--style",
        choices=["torch", "fvcore", "both"],
        default="both",
        help="counting: torch's, the papers' (fvcore), or both",
    )
    sub.add_argument(
        "--views", type=views, metavar="N|WORDS", help='also the cost of so many views: 12, or "4 clips x 3 crops"'
    )


def _models(options: argparse.Namespace) -> None:
    from gesta.cost import count
    from gesta.models import list_models, model_config
    from gesta.recipes.catalogue import list_recipes, list_tables

    models: list[dict[str, Any]] = [
        {
            "name": name,
            "params": (cost := count(model_config(name))).params,
            "clip": _words(model_config(name).clip),
            "macs": cost.macs,
        }
        for name in list_models(options.pattern)
    ]
    if options.json:
        print(json.dumps({"models": models, "recipes": list_recipes(), "tables": sorted(list_tables())}, indent=2))
        return
    print("models")
    for m in models:
        print(f"  {m['name']:<20} {m['params'] / 1e6:8.2f} M {m['macs'] / 1e9:8.2f} GMACs   {m['clip']}")
    print("recipes (gesta train …)")
    for address, line in list_recipes().items():
        print(f"  {address:<20} {line}")
    print("tables (gesta table …)")
    for address, source in list_tables().items():
        print(f"  {address:<20} {source}")


def _show(options: argparse.Namespace) -> None:
    from gesta.config import to_json
    from gesta.models import MODELS, model_config
    from gesta.recipes.address import find_recipe

    if options.what in MODELS:
        config: Any = model_config(options.what)
    else:
        config = find_recipe(options.what, model=options.model, data=options.data, trust_code=options.trust_code)
    print(json.dumps(to_json(with_fields(config, options)), indent=2))


def _cost(options: argparse.Namespace) -> None:
    from dataclasses import replace

    from gesta.cost import count
    from gesta.models import model_config

    changes = {"classes": options.classes} if options.classes is not None else {}
    model = with_fields(model_config(options.model, **changes), options)
    styles: list[Any] = ["torch", "fvcore"] if options.style == "both" else [options.style]
    print_results(options, *[replace(count(model, style=style), views=options.views) for style in styles])


def _words(clip: Any) -> str:
    sampling = f"{clip.frames}×{clip.stride}" if clip.sampling == "dense" else f"{clip.frames} uniform"
    return f"{sampling} frames, {clip.size} px"
