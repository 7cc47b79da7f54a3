"""Which results count for which row of a paper's table, and the addresses of rows."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from finished import finish, scored
from gesta.cli import main
from gesta.comparison.tables import FilledTable, TableCell, fill
from gesta.config import replace, to_json
from gesta.cost import Cost, Part
from gesta.errors import GestaError
from gesta.plugins.ata import ATA
from gesta.recipe import Recipe
from gesta.recipes.address import find_recipe, find_table, miniature, row_addresses
from gesta.recipes.catalogue import list_tables
from gesta.training.finished import INFORMATION
from results import changed


@pytest.fixture(autouse=True)
def no_counting(monkeypatch: pytest.MonkeyPatch) -> None:
    """What models cost is another test's."""
    cost = Cost("", "fvcore", (1, 1, 1), (Part("", 1, 1),), {})
    monkeypatch.setattr("gesta.comparison.tables.count", lambda *_, **__: cost)


def ours(filled: FilledTable, label: str) -> dict[str, Any]:
    """Our numbers of a row, costs left out."""
    cells = next(cells for row, cells in zip(filled.table.rows, filled.cells) if row.label == label)
    return {column: cell.ours for column, cell in cells.items() if cell.runs}


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    """What a verb prints as JSON."""
    with pytest.raises(SystemExit) as end:
        main(words)
    printed = capsys.readouterr()
    assert not end.value.code, printed.err
    return json.loads(printed.out)


def without_names(recipe: Recipe) -> Any:
    return to_json(replace(recipe, name="", paper=""))


# --- what counts -----------------------------------------------------------------------------------------------------


def test_a_changed_field_is_another_row(tmp_path: Path) -> None:
    """Both were credited by the name of the folder, which a flag does not change."""
    attention, shuffled = find_recipe("stan.ucf101"), find_recipe("ata.ablation")
    attention.model.inserts[0].layer.mode = "attention"  # type: ignore[attr-defined]
    finish(attention, tmp_path / attention.name, {"top1": 11.0})
    table = fill(find_table("stan.table2"), tmp_path)
    assert ours(table, "attention, 6 DoF") == {"UCF101": 11.0}
    assert ours(table, "position [3]") == ours(table, "affine, 12 DoF") == {} and not table.remarks

    shuffled.model.around = ATA(dealign=False)  # type: ignore[attr-defined]
    finish(shuffled, tmp_path / shuffled.name, {"top1": 12.0, "top5": 22.0})
    table = fill(find_table("ata.table3"), tmp_path)
    assert ours(table, "ViT-B, ATA, not de-aligned") == {"Top-1": 12.0, "Top-5": 22.0}
    assert ours(table, "ViT-B, ATA") == {}


def test_results_of_several_seeds_are_averaged(tmp_path: Path) -> None:
    """From run folders of any name and from those of a sweep; those of one seed count as one."""
    recipe = find_recipe("stan.table2.4")
    for name, seed, top1 in (
        ("a", 0, 80.0),
        ("b", 0, 82.0),
        ("s-sweep-train.lr/0.0004-seed1", 1, 84.0),
        ("c", 2, 88.0),
    ):
        finish(recipe, tmp_path / name, {"top1": top1}, seed)
    filled = fill(find_table("stan.table2"), tmp_path)
    cell = filled.cells[3]["UCF101"]
    mean, std = pytest.approx(84.3333, abs=1e-4), pytest.approx(3.5119, abs=1e-4)
    assert (cell.ours, cell.std, cell.seeds, len(cell.runs)) == (mean, std, (0, 1, 2), 4)
    assert "84.33 ± 3.51 (3)" in str(filled)


def test_what_may_differ_and_what_not(tmp_path: Path) -> None:
    recipe = find_recipe("stan.ucf101")
    recipe.data.root, recipe.train.workers = "/elsewhere", 3  # type: ignore[attr-defined]
    recipe.model.activation_checkpointing, recipe.evaluate.batch_size = True, 4
    finish(recipe, tmp_path / "same", {"top1": 1.0})
    table = find_table("stan.table1")
    assert ours(fill(table, tmp_path), "+ STAN[3]") == {"UCF101": 1.0}
    (tmp_path / "same" / "recipe.json").unlink()
    for number, change in enumerate(({"epochs": 3}, {"seed": 1, "lr": 1.0}, {"batch_size": 8})):
        finish(replace(recipe, train=replace(recipe.train, **change)), tmp_path / f"other{number}", {"top1": 2.0})
    finish(replace(recipe, init=replace(recipe.init, weights="kinetics.pyth")), tmp_path / "pretrained", {"top1": 3.0})
    scored(replace(recipe, evaluate=replace(recipe.evaluate, clips=1)), {"top1": 4.0}).write(
        finish(recipe, tmp_path / "one_clip", {"top1": 4.0}) / "result.json"
    )
    filled = fill(table, tmp_path)
    assert ours(filled, "+ STAN[3]") == {}
    assert [remark.partition(" ")[0].rpartition("/")[2] for remark in filled.remarks] == [
        *("one_clip", "other0", "other1", "other2", "pretrained")
    ]
    assert filled.remarks[0].endswith("counts for no row: not '+ STAN[3]', evaluate.clips: 5 → 1")
    assert filled.remarks[-1].endswith("init.weights: random weights → kinetics.pyth")


def test_accumulation_is_another_experiment_where_batch_norms_see_fewer_clips(tmp_path: Path) -> None:
    for address, table, label, expected in (
        ("stan.ucf101", "stan.table1", "+ STAN[3]", {}),
        ("ata.table3.12", "ata.table3", "ViT-B, ATA", {"Top-1": 70.0}),
    ):
        recipe = find_recipe(address)
        recipe.train.accumulate = 8
        finish(recipe, tmp_path / table / "run", {"top1": 70.0})
        filled = fill(find_table(table), tmp_path / table)
        assert ours(filled, label) == expected
        assert bool(filled.remarks) is not bool(expected)


def test_results_of_weights_that_a_run_no_longer_has_are_left_out(tmp_path: Path) -> None:
    """It was resumed for more epochs, after it had been evaluated in another way than its recipe's."""
    row, own = find_recipe("stan.ucf101"), find_recipe("stan.ucf101")
    own.evaluate.clips = 1
    run = finish(own, tmp_path / "run", {"top1": 30.0})
    changed(scored(row, {"top1": 20.0}), checkpoint_sha256=hashlib.sha256(b"10 epochs").hexdigest()).write(
        run / "result-test.json"
    )
    table = find_table("stan.table1")
    assert ours(fill(table, tmp_path), "+ STAN[3]") == {"UCF101": 20.0}  # the weights are not there to compare with
    (run / "best.safetensors").write_bytes(b"10 epochs")
    assert ours(fill(table, tmp_path), "+ STAN[3]") == {"UCF101": 20.0}
    (run / "best.safetensors").write_bytes(b"20 epochs")
    filled = fill(table, tmp_path)
    assert ours(filled, "+ STAN[3]") == {}
    assert filled.remarks[0].endswith("result-test.json is of other weights than best.safetensors; evaluate again")


def test_a_paper_that_starts_from_weights_is_not_measured_from_scratch(tmp_path: Path) -> None:
    recipe = find_recipe("ata.table3.12")
    run = finish(recipe, tmp_path / "run", {"top1": 70.0})
    assert ours(fill(find_table("ata.table3"), tmp_path), "ViT-B, ATA") == {"Top-1": 70.0}
    (run / "recipe.json").write_text(json.dumps(to_json(recipe)))  # without weights
    filled = fill(find_table("ata.table3"), tmp_path)
    assert ours(filled, "ViT-B, ATA") == {} and "ImageNet-21K's → random weights" in filled.remarks[0]


def test_miniatures_count_as_miniatures_only(tmp_path: Path) -> None:
    table, recipe = find_table("rpe_stdt.table4"), miniature(find_recipe("rpe_stdt.table4.4.ucf101"))
    run = finish(recipe, tmp_path / "run", {"top1": 9.0})
    assert not any(cell.runs for cells in fill(table, tmp_path).cells for cell in cells.values())
    filled = fill(table, tmp_path, miniatures=True)
    cells = filled.cells[3]
    assert [(c.ours, c.same_as) for c in cells.values()] == [(9.0, ""), (None, "HMDB51"), (None, "HMDB51")]
    assert not filled.remarks
    recipe.init.weights = None
    (run / "recipe.json").write_text(json.dumps(to_json(recipe)))
    assert "1 of these runs started from random weights" in fill(table, tmp_path, miniatures=True).remarks[0]


def test_two_streams_are_fused(tmp_path: Path) -> None:
    """The scores of the runs of one seed, whose metrics alone do not say it."""
    for seed in (0, 1):
        for stream, row in (("rgb", 14), ("depth", 15)):
            recipe = find_recipe(f"mfst.table1.{row}.cs")
            finish(recipe, tmp_path / f"{stream}{seed}", {"top1": 50.0}, seed)
    finish(find_recipe("mfst.table1.14.cs"), tmp_path / "rgb2", {"top1": 50.0}, 2)
    cells = fill(find_table("mfst.table1"), tmp_path).cells[15]
    assert (cells["CS"].ours, cells["CS"].seeds, len(cells["CS"].runs)) == (100.0, (0, 1), 4)
    assert cells["CV"] == TableCell(98.2)


def test_mutual_information_that_was_measured_fills_the_table(tmp_path: Path) -> None:
    recipe = find_recipe("ata.table4.2.kinetics_400")
    run = finish(recipe, tmp_path / "run", {"top1": 50.0})
    information = {"data": to_json(recipe.data) | {"root": "/elsewhere"}, "split": "val", "clips": 3, "tau": 0.1}
    information |= {"estimator": "infonce", "unaligned": {"stem": 0.25, "last": 1.5}}
    (run / INFORMATION).write_text(json.dumps(information))
    filled = fill(find_table("ata.table4"), tmp_path)
    assert ours(filled, "Averaging") == {"Kinetics-400": 1.5} and ours(filled, "Attention") == {}
    assert ours(filled, "None (after patch embedding)") == {"Kinetics-400": 0.25}
    for other, flag in (
        ({"split": "train"}, "--split train"),
        ({"estimator": "gaussian", "tau": None}, "--estimator gaussian"),
        ({"tau": 1.0}, "--tau 1.0"),
    ):
        (run / INFORMATION).write_text(json.dumps(information | other))
        refilled = fill(find_table("ata.table4"), tmp_path)
        assert ours(refilled, "Averaging") == {} and f"was measured with {flag}, the rows of the table" in str(refilled)
    information["data"] = to_json(find_recipe("ata.table4.2.something_something_v2").data)
    (run / INFORMATION).write_text(json.dumps(information))
    assert ours(fill(find_table("ata.table4"), tmp_path), "Averaging") == {}


def test_mutual_information_of_a_miniature_fills_the_table(tmp_path: Path) -> None:
    """It may have started from random weights, which is said."""
    recipe = find_recipe("ata.table4.3.kinetics_400", data="marionette")
    run = finish(recipe, tmp_path / "run", {"top1": 50.0})
    started = json.loads((run / "recipe.json").read_text())
    started["init"]["weights"] = None
    (run / "recipe.json").write_text(json.dumps(started))
    information = {"data": to_json(recipe.data), "split": "val", "clips": 3, "tau": 0.1, "estimator": "infonce"}
    (run / INFORMATION).write_text(json.dumps(information | {"unaligned": {"last": 1.5}}))
    filled = fill(find_table("ata.table4"), tmp_path, miniatures=True)
    assert ours(filled, "Attention") == {"Kinetics-400": 1.5}
    assert any("1 of these runs started from random weights" in remark for remark in filled.remarks)
    assert ours(fill(find_table("ata.table4"), tmp_path), "Attention") == {}


def test_runs_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    run = finish(find_recipe("stan.ucf101"), tmp_path / "run", {"top1": 1.0})
    (run / "result.json").write_text("{")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "recipe.json").write_text("[]")
    (tmp_path / "other" / "result.json").write_text("{}")
    remarks = fill(find_table("stan.table1"), tmp_path).remarks
    assert (
        len(remarks) == 2 and "run/result.json: is not valid JSON" in remarks[1] and "other/recipe.json" in remarks[0]
    )


# --- addresses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", sorted(list_tables()))
def test_every_row_has_an_address(address: str) -> None:
    """A row with our runs has an address for each that ``find_recipe`` turns into its recipe."""
    table = find_table(address)
    addresses = row_addresses(table)
    for row, of_row in zip(table.rows, addresses):
        assert set(of_row) == {*row.recipes, *row.fused}
        for column, run in row.recipes.items():
            assert without_names(find_recipe(of_row[column])) == without_names(run())
        assert len(set(of_row.values())) == len({str(without_names(run())) for run in row.recipes.values()}) + len(
            row.fused
        )
    assert len({text for of_row in addresses for text in of_row.values()}) == sum(len({*o.values()}) for o in addresses)


def test_addresses_that_name_no_run() -> None:
    for address, sentence in (
        ("ata.table3.13", "has rows 1 to 12"),
        ("ata.table9.1", "there is no table"),
        ("ata.table1.1", "is another paper.s system"),
        ("rpe_stdt.table1.1", r"this row has rpe_stdt\.table1\.1\.ucf101, rpe_stdt\.table1\.1\.hmdb51"),
        ("rpe_stdt.table1.1.k400", "names no run"),
        ("mfst.table2.14", "gesta train mfst.table2.14 trains and fuses them"),
    ):
        with pytest.raises(GestaError, match=sentence):
            find_recipe(address)


def test_arguments_of_recipes_are_flags(capsys: pytest.CaptureFixture[str]) -> None:
    for words, address in (
        (("ata.ablation", "--backbone", "convnext_b", "--dealign", "False"), "ata.table3.7"),
        (("ata.ablation", "--blocks", "3", "4", "5"), "ata.table5.3"),
        (("stan.ucf101", "--scale=small"), "stan.table2.8"),
        (("st_manet.ucf101", "--variant", "tda", "--train.seed", "0"), "st_manet.table4.2"),
        (("rpe_stdt.hmdb51", "--layers", "0", "2"), "rpe_stdt.table4.4.hmdb51"),
    ):
        assert shown(capsys, "show", *words) == shown(capsys, "show", address)
    for words in (("ata.ablation", "--backbon", "convnext_b"), ("ata.table3.7", "--dealign", "True")):
        with pytest.raises(SystemExit) as end:
            main(["show", *words])
        assert end.value.code == 2
    printed = capsys.readouterr().err
    assert "did you mean '--backbone'?" in printed and "--dealign" in printed


def test_another_model_is_not_the_row_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["show", "ata.ablation", "--model", "ata_convnext_b"])
    assert "without what ata.ablation sets in its own: drop_path 0.1" in capsys.readouterr().err
    row, named = find_recipe("ata.table3.8"), find_recipe("ata.ablation", model="ata_convnext_b")
    assert (row.model.drop_path, named.model.drop_path) == (0.1, 0.0) and row.name != named.name


def test_addresses_are_printed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rows = shown(capsys, "table", "ctn.table5", "--runs", str(tmp_path), "--json")["rows"]
    assert [row["addresses"] for row in rows] == [
        {"EK": f"ctn.table5.{n}.ek", "D-48": f"ctn.table5.{n}.d_48"} for n in (1, 2)
    ]
    assert "ctn.table5.2.ek | d_48" in str(fill(find_table("ctn.table5"), tmp_path))
