"""Every recipe of every paper builds, is JSON, can be rehearsed, and its tables fill."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from gesta.config import from_json, to_json
from gesta.datasets.ntu import NTU
from gesta.errors import GestaError
from gesta.marionette.dataset import Marionette
from gesta.recipe import Recipe
from gesta.recipes.address import find_recipe, find_table, rehearse
from gesta.recipes.catalogue import list_recipes, list_tables
from gesta.recipes.tables import fill
from gesta.training.optim import freeze

RECIPES = sorted(list_recipes())


@pytest.mark.parametrize("address", RECIPES)
def test_builds_on_meta_and_goes_through_json(address: str) -> None:
    recipe = find_recipe(address)
    assert from_json(json.loads(json.dumps(to_json(recipe)))) == recipe
    with torch.device("meta"):
        assert len(recipe.model.build().blocks) > 0
    assert list_recipes()[address].strip()


@pytest.mark.parametrize("address", [a for a in RECIPES if a not in ("demo", "finetune")])
def test_rehearsal_keeps_the_plug_ins(address: str) -> None:
    recipe = find_recipe(address)
    small = find_recipe(address, data="marionette")
    assert type(small.data).__name__ == "Marionette"
    assert {str(i.layer) for i in small.model.inserts} == {str(i.layer) for i in recipe.model.inserts}
    assert bool(small.train.freeze) == bool(recipe.train.freeze)
    with torch.device("meta"):
        model = small.model.build()
    assert sum(p.numel() for p in model.parameters()) < 5e6
    freeze(model, small.train.freeze)


def test_rehearsal_does_not_touch_the_recipe() -> None:
    recipe = find_recipe("stan.ucf101")
    before = to_json(recipe)
    rehearse(recipe)
    assert to_json(recipe) == before


def test_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GestaError, match=r"did you mean 'stan\.ucf101'"):
        find_recipe("stan.ucf10")
    (tmp_path / "my_runs.py").write_text(
        "from gesta.recipe import Recipe\nfrom gesta.recipes import mvitv2\n"
        "def mine() -> Recipe:\n    recipe = mvitv2.ucf101()\n    recipe.name = 'mine'\n    return recipe\n"
        "def wrong():\n    return 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert find_recipe("my_runs:mine").name == "mine"
    with pytest.raises(GestaError, match="not a Recipe"):
        find_recipe("my_runs:wrong")
    with pytest.raises(GestaError, match="no recipe"):
        find_recipe("my_runs:absent")
    saved = tmp_path / "recipe.json"
    saved.write_text(json.dumps(to_json(find_recipe("stan.hmdb51"))))
    assert isinstance(find_recipe(str(saved)), Recipe)
    saved.write_text("{")
    with pytest.raises(GestaError, match="cannot be read as a recipe"):
        find_recipe(str(saved))


def test_rehearsals_keep_the_modality() -> None:
    recipe = find_recipe("mfst.ntu", data="marionette")
    assert recipe.data.modality == "rgb"  # type: ignore[attr-defined]
    recipe = find_recipe("mfst.ntu")
    recipe.data = NTU(modality="depth", depth_encoding="repeat3")
    small = rehearse(recipe).data
    assert isinstance(small, Marionette) and (small.modality, small.depth_encoding) == ("depth", "repeat3")


def test_model_and_data_can_be_exchanged() -> None:
    recipe = find_recipe("stan.ucf101", model="r3d_tiny", data="hmdb51")
    assert type(recipe.model).__name__ == "R3DConfig" and recipe.model.classes == 101
    assert type(recipe.data).__name__ == "HMDB51"
    assert find_recipe("finetune", model="r3d_tiny").name == "finetune-r3d_tiny"


@pytest.mark.parametrize("address", sorted(list_tables()))
def test_tables_fill(address: str, tmp_path: Path) -> None:
    table = find_table(address)
    filled = fill(table, tmp_path)
    assert len(filled.cells) == len(table.rows)
    for row, cells in zip(table.rows, filled.cells):
        assert set(row.published) <= set(table.columns)
        assert set(cells) == set(table.columns)
    assert table.source in str(filled)


def test_accuracy_of_a_table_comes_from_runs_that_exist(tmp_path: Path) -> None:
    run = tmp_path / find_recipe("stan.ucf101").name
    run.mkdir()
    (run / "result.json").write_text(json.dumps({"metrics": {"top1": 12.5}}))
    cells = fill(find_table("stan.table1"), tmp_path).cells
    assert cells[1]["UCF101"].ours == 12.5
    assert cells[0]["UCF101"].ours is None
    assert cells[1]["GMACs"].ours == pytest.approx(65.40, abs=0.005)
