"""Every recipe of every paper builds, is JSON, and its tables fill."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch

from finished import finish
from gesta.comparison.tables import fill
from gesta.config import check, from_json, to_json
from gesta.errors import GestaError
from gesta.recipe import Recipe
from gesta.recipes.address import changed_alone, find_recipe, find_table, recipe_function
from gesta.recipes.catalogue import list_recipes, list_tables
from gesta.training.sweep import with_value

RECIPES = sorted(list_recipes())


@pytest.mark.parametrize("address", RECIPES)
def test_builds_on_meta_and_goes_through_json(address: str) -> None:
    recipe = find_recipe(address)
    assert from_json(json.loads(json.dumps(to_json(recipe)))) == recipe
    with torch.device("meta"):
        assert len(recipe.model.build().blocks) > 0
    assert list_recipes()[address].strip()


def words_of(address: str) -> Iterator[str]:
    """The arguments of a recipe that are one of some words."""
    for name, hint in get_type_hints(recipe_function(address)).items():
        options = (hint, *get_args(hint))  # a Literal, or that and None
        if any(get_origin(option) is Literal and isinstance(get_args(option)[0], str) for option in options):
            yield name


@pytest.mark.parametrize(("address", "name"), [(address, name) for address in RECIPES for name in words_of(address)])
def test_a_misspelt_word_is_refused_and_never_taken_for_another(address: str, name: str) -> None:
    with pytest.raises(GestaError, match=r"'misspelt' \(possible: |is .misspelt., not "):
        check(find_recipe(address, arguments={name: "misspelt"}))


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
    with pytest.raises(GestaError, match=r"is not valid JSON .*give the recipe\.json of a run folder"):
        find_recipe(str(saved))


@pytest.mark.parametrize(
    ("address", "field", "value", "sentence"),
    [
        ("timesformer.kinetics400", "model.clip.frames", 32, "--frames 32 also sets --model.clip.stride 8;"),
        ("timesformer.kinetics400", "model.temporal", "averaging", "also sets --model.readout mean;"),
        ("ata.table1.13", "model.clip.frames", 16, "ata.kinetics400 --frames 16 also sets --model.clip.stride 16;"),
        ("mfst.isogd", "data.modality", "depth", "sets --data.depth-encoding repeat3, --model.cdc t;"),
        ("mfst.table6.1.dep", "data.modality", "rgb", "mfst.ntu --modality rgb also sets --model.cdc st;"),
        pytest.param(  # which takes seconds, as it counts the model's blocks
            *("stan.transfer", "model.inserts.0.at", 1, "sets --train.freeze patch_embed. blocks.0. inserts.1.;"),
            marks=pytest.mark.full,
        ),
        ("timesformer.kinetics400", "train.seed", 1, None),  # no argument has its value
        ("timesformer.something_v2", "model.clip.frames", 16, None),  # nothing else depends on it there
        ("mfst.table4.2.rgb", "data.modality", "depth", None),  # the row has a fixed cdc
        ("ata.kinetics400", "model.temporal_cls", True, None),  # a switch of its own, not the argument cost_matched
    ],
)
def test_fields_that_a_recipe_would_derive_too_are_named(
    address: str, field: str, value: Any, sentence: str | None
) -> None:
    """A recipe derives several fields from one argument; a flag of one of these fields changes that one alone."""
    changed = with_value(find_recipe(address), field, value)
    sentences = list(changed_alone(address, changed, [field]))
    if sentence is None:
        assert not sentences
        return
    assert len(sentences) == 1 and sentence in sentences[0]
    followers = [word[2:].replace("-", "_") for word in sentences[0].split("sets")[1].split() if word[:2] == "--"]
    assert not list(changed_alone(address, changed, [field, *followers]))  # which are given, too


def test_arguments_that_no_recipe_can_have_are_refused() -> None:
    with pytest.raises(GestaError, match=r"frames 0 cannot be spread over 256; give a number from 1 to 256"):
        find_recipe("ata.kinetics400", arguments={"frames": 0})
    with pytest.raises(
        GestaError, match=r"std_former\.something_v1: there is no variant 'smem_ad'; did you mean 'smem_add'"
    ):
        find_recipe("std_former.something_v1", arguments={"variant": "smem_ad"})


def test_model_and_data_can_be_exchanged() -> None:
    recipe = find_recipe("stan.ucf101", model="r3d_tiny", data="hmdb51")
    assert type(recipe.model).__name__ == "R3DConfig" and recipe.model.classes == 101
    assert type(recipe.data).__name__ == "HMDB51"
    assert find_recipe("finetune", model="r3d_tiny").name == "finetune-r3d_tiny"


def one_of_each_paper() -> list[Any]:
    """Addresses of tables: a paper's first is in the fast suite, the others, real sizes to count, in the full."""
    papers: set[str] = set()
    cases = []
    for address in sorted(list_tables(), key=lambda address: (not address.endswith(".table1"), address)):
        paper = address.partition(".")[0]
        cases.append(pytest.param(address, marks=[pytest.mark.full] if paper in papers else []))
        papers.add(paper)
    return cases


@pytest.mark.parametrize("address", one_of_each_paper())
def test_tables_fill(address: str, tmp_path: Path) -> None:
    table = find_table(address)
    filled = fill(table, tmp_path)
    assert len(filled.cells) == len(table.rows)
    for cells in filled.cells:
        assert set(cells) == set(table.columns)
    assert table.source in str(filled)


def test_brackets_of_a_row_are_printed(tmp_path: Path) -> None:
    assert "Top-K [layer 0, 2]" in str(fill(find_table("rpe_stdt.table4"), tmp_path))


def test_published_numbers_have_columns() -> None:
    for table in map(find_table, list_tables()):
        for row in table.rows:
            assert set(row.published) <= set(table.columns), table.source


def test_accuracy_of_a_table_comes_from_runs_that_exist(tmp_path: Path) -> None:
    finish(find_recipe("stan.ucf101"), tmp_path / "any_name", {"top1": 12.5})
    cells = fill(find_table("stan.table1"), tmp_path).cells
    *_, baseline, stan = cells
    assert stan["UCF101"].ours == 12.5
    assert baseline["UCF101"].ours is None
    assert stan["GMACs"].ours == pytest.approx(65.405, abs=0.005)
