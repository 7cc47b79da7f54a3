"""The miniature of every recipe is what ``miniatures.json`` says.

A change that is meant: ``python tests/recipes/test_miniatures.py`` writes the file again.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import fields, is_dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch

from gesta.config import format_value, replace, to_json
from gesta.datasets.ntu import NTU
from gesta.errors import GestaError
from gesta.marionette.dataset import Marionette
from gesta.model import ModelConfig
from gesta.recipe import Recipe
from gesta.recipes.address import find_recipe, find_table, miniature, miniature_of
from gesta.recipes.catalogue import list_recipes, list_tables
from gesta.recipes.synthetic import mvitv2
from gesta.records import class_counts
from gesta.training.optim import freeze

STORED = Path(__file__).with_name("miniatures.json")
PAPERS = [
    address for address in list_recipes() if "." in address and not address.startswith(("experiments.", "pretrain."))
]


def runs() -> dict[str, Recipe]:
    """Every recipe of every paper with its default arguments, and those of the rows of all tables, by name."""
    made = [find_recipe(address) for address in PAPERS]
    made += [run() for address in list_tables() for row in find_table(address).rows for run in row.recipes.values()]
    return {recipe.name: recipe for recipe in made}


def shown(value: Any) -> str:
    """A value of a config; of a plug-in the fields that differ from its class's default."""
    if not is_dataclass(value):
        return format_value(value)
    changes = (
        f"{f.name}={shown(getattr(value, f.name))}" for f in fields(value) if getattr(value, f.name) != f.default
    )
    return f"{type(value).__name__}({', '.join(changes)})"


def described(recipe: Recipe) -> dict[str, Any]:
    """The fields in which the miniature differs from its tiny model, its plug-ins, and what is frozen."""
    small, tiny = miniature(recipe), miniature_of(recipe.model).model()
    names = [f.name for f in fields(tiny) if f.name not in ("classes", "clip", "inserts")]
    changes = {name: getattr(small.model, name) for name in names if getattr(small.model, name) != getattr(tiny, name)}
    plugins = groupby(small.model.inserts, lambda insert: shown(insert.layer))
    return {
        **{name: shown(value) for name, value in changes.items()},
        "sampling": small.model.clip.sampling,
        **{layer: format_value(tuple(insert.at for insert in inserts)) for layer, inserts in plugins},
        **({"freeze": format_value(small.train.freeze)} if small.train.freeze else {}),
    }


@pytest.mark.parametrize("part", [pytest.param(i, marks=[pytest.mark.full] if i else []) for i in range(4)])
def test_all_are_as_stored(part: int) -> None:
    """Every fourth one; the other three quarters in the full suite."""
    stored, recipes = json.loads(STORED.read_text()), runs()
    assert set(recipes) == set(stored)
    names = sorted(recipes)[part::4]
    assert {name: described(recipes[name]) for name in names} == {name: stored[name] for name in names}


@pytest.mark.parametrize("address", PAPERS)
def test_keeps_the_plug_ins_and_builds(address: str) -> None:
    recipe, small = find_recipe(address), find_recipe(address, data="marionette")
    assert isinstance(small.data, Marionette) and small.name == f"{recipe.name}-miniature"
    views = {name: getattr(recipe.evaluate, name) for name in ("clips", "crops", "coverage")}
    assert small.evaluate == replace(mvitv2().evaluate, **views)
    assert small.model.classes == class_counts(small.data.classes())
    assert {str(i.layer) for i in small.model.inserts} == {str(i.layer) for i in recipe.model.inserts}
    assert bool(small.train.freeze) == bool(recipe.train.freeze)
    with torch.device("meta"):
        model = small.model.build()
    assert sum(p.numel() for p in model.parameters()) < 5e6
    freeze(model, small.train.freeze)


def test_does_not_touch_the_recipe() -> None:
    recipe = find_recipe("stan.ucf101")
    before = to_json(recipe)
    miniature(recipe)
    assert to_json(recipe) == before


def test_keeps_the_modality() -> None:
    recipe = find_recipe("mfst.ntu", data="marionette")
    assert recipe.data.modality == "rgb"  # type: ignore[attr-defined]
    recipe = find_recipe("mfst.ntu")
    recipe.data = NTU(modality="depth", depth_encoding="repeat3")
    small = miniature(recipe).data
    assert isinstance(small, Marionette) and (small.modality, small.depth_encoding) == ("depth", "repeat3")


COLLAPSED = ("ata.table1", "ctn.table4", "ctn.table6", "mfst.table1", "mfst.table5", "st_manet.figure5", "stan.table2")
"""Tables of which a miniature once was the same run as another's; the others are in the full suite."""


@pytest.mark.parametrize("address", [
    pytest.param(address, marks=[] if address in COLLAPSED else [pytest.mark.full]) for address in sorted(list_tables())
])  # fmt: skip
def test_no_two_rows_become_the_same_run(address: str) -> None:
    """A miniature keeps every difference between the runs of its table, except for their data sets."""
    table = find_table(address)
    runs = [(row.label, column, run()) for row in table.rows for column, run in row.recipes.items()]
    pairs = [(label, column, essence(recipe), essence(miniature(recipe))) for label, column, recipe in runs]
    for first, second in itertools.combinations(pairs, 2):
        if type(first[2].data) is type(second[2].data) and first[2] != second[2]:
            assert first[3] != second[3], (first[:2], second[:2])


def essence(recipe: Recipe) -> Recipe:
    return replace(recipe, name="", paper="")


def test_what_data_sets_ask_stays() -> None:
    """NTU's held-out subjects or cameras, and EPIC-KITCHENS' verbs and nouns."""
    subjects, cameras = (find_recipe(f"mfst.table1.14.{split}", data="marionette").data for split in ("cs", "cv"))
    assert isinstance(subjects, Marionette) and isinstance(cameras, Marionette)
    assert (subjects.held_out, cameras.held_out) == ("subjects", "cameras")
    kitchen = find_recipe("ctn.epic_kitchens", data="marionette")
    assert kitchen.model.classes == {"verb": 7, "noun": 5} and kitchen.data == Marionette(
        root="data/kitchen", family="kitchen"
    )
    with pytest.raises(GestaError, match=r"run: gesta data make marionette data/kitchen --family kitchen"):
        kitchen.data.records("train")


def test_learning_rates_stay_in_proportion() -> None:
    rates = [find_recipe(f"st_manet.figure5.{row}.ucf101", data="marionette").train.lr for row in (13, 15, 18)]
    assert rates == pytest.approx([10 * mvitv2().train.lr, mvitv2().train.lr, mvitv2().train.lr / 20])


def test_models_of_others_have_none() -> None:
    class Strange(ModelConfig):
        pass

    recipe = find_recipe("stan.ucf101")
    recipe.model = Strange()
    with pytest.raises(GestaError, match=r"Strange has no miniature; .*model"):
        miniature(recipe)


if __name__ == "__main__":
    lines = [f"{json.dumps(name)}: {json.dumps(described(run), ensure_ascii=False)}" for name, run in runs().items()]
    STORED.write_text("{\n" + ",\n".join(lines) + "\n}\n")
