"""Cost against accuracy: what a word means, which numbers are joined, what is drawn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import gesta.analysis.complexity as complexity
from finished import finish
from gesta.analysis.complexity import Accuracy, ComparedModel, draw_complexity, find_models, measure_complexity
from gesta.bench.model import latency
from gesta.cli import main
from gesta.config import to_json
from gesta.cost import count
from gesta.errors import GestaError
from gesta.models import model_config
from gesta.recipes.address import find_recipe, find_table
from results import result as make_result


def test_a_result_tells_its_accuracy_and_its_views(tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = make_result([0, 1], [0, 0], config=to_json(model_config("r3d_tiny", classes=2)))
    result.data = {"class": "gesta.datasets.ucf101:UCF101"}
    result.counts.views, result.counts.decoded = 30, 12
    result.write(run / "result.json")
    for source in (str(run), str(run / "result.json")):
        (found,) = find_models(source)
        assert (found.name, found.views) == (str(run), 2.5)
        assert found.accuracies == [Accuracy(data="UCF101", top1=50, measured=True)]
    result.model.config = {"fused": "prob_mean", "weights": None, "of": []}
    result.write(run / "result.json")
    with pytest.raises(GestaError, match="fused scores"):
        find_models(str(run))
    (run / "result.json").unlink()
    recipe = find_recipe("stan.ucf101")
    (run / "recipe.json").write_text(json.dumps(to_json(recipe)))
    (found,) = find_models(str(run))  # a run without a result: its cost only
    assert found.model == recipe.model and found.accuracies == []
    with pytest.raises(GestaError, match="did you mean 'st"):
        find_models("stan.ucf10")


def test_recipes_and_tables_tell_what_was_published_and_what_runs_reach(tmp_path: Path) -> None:
    recipe = find_recipe("stan.ucf101")
    published = next(row.published["UCF101"] for row in find_table("stan.table1").rows if "STAN" in row.label)
    (found,) = find_models("stan.ucf101", runs=tmp_path)
    assert found.accuracies == [Accuracy(data="UCF101", top1=published, measured=False)]
    assert found.views == recipe.evaluate.clips * recipe.evaluate.crops
    for seed, top1 in enumerate((12.0, 13.0)):
        finish(recipe, tmp_path / f"seed{seed}", {"top1": top1}, seed)
    (found,) = find_models("stan.ucf101", runs=tmp_path)
    assert [(a.top1, a.measured) for a in found.accuracies] == [(12.5, True), (published, False)]
    plain, ours = find_models("stan.table1", runs=tmp_path)
    assert [(a.data, a.measured) for a in ours.accuracies] == [("UCF101", True), ("UCF101", False), ("HMDB51", False)]
    assert (plain.name, ours.name) == tuple(row.label for row in find_table("stan.table1").rows if row.recipes)
    both = find_models("mfst.table5", runs=tmp_path)  # whose columns are two models
    assert [s.name[-3:] for s in both[:2]] == ["(1)", "(2)"] and both[0].model != both[1].model
    sides = [a.data for s in find_models("mfst.table1", runs=tmp_path) for a in s.accuracies]
    assert sides[:2] == ["NTU CS", "NTU CV"]  # one data set, two protocols
    assert [len(s.accuracies) for s in find_models("stan.table3", runs=tmp_path)] == [0, 0, 0]  # of costs only


def test_costs_are_those_of_gesta_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[str] = []

    def pretend(config: object, **options: object) -> tuple[float, str]:
        measured.append(type(config).__name__)
        return 12.0, "a clock"

    monkeypatch.setattr(complexity, "latency", pretend)
    models = [model_config("r3d_tiny"), model_config("mvitv2_tiny"), model_config("r3d_tiny")]
    of = [ComparedModel(name=str(i), model=model, views=3.0 * i or None) for i, model in enumerate(models)]
    found = measure_complexity(of, style="fvcore")
    costs = [count(model, style="fvcore") for model in models]
    assert [(e.params, e.macs) for e in found.models] == [(c.params, c.macs) for c in costs]
    assert [e.macs_of_views for e in found.models] == [None, 3 * costs[1].macs, 6 * costs[2].macs]
    assert len(measured) == 2 and found.device == "a clock"  # the third is the first's model
    assert found.to_json()["models"][1]["macs_of_first"] == costs[1].macs / costs[0].macs
    assert "no results and no published numbers" in str(found)
    without = measure_complexity(of, seconds=0)
    assert without.device is None and len(measured) == 2 and len(draw_complexity(without).get_axes()) == 2


def test_latency_is_the_clocks() -> None:
    milliseconds, device = latency(model_config("r3d_tiny"), device="cpu", seconds=0.01)
    assert 0.1 < milliseconds < 60_000 and device.startswith("cpu, ")


def test_full_dots_are_measured_and_rings_published() -> None:
    of = [
        ComparedModel(name="a", model=model_config("r3d_tiny"), views=1.0),
        ComparedModel(name="b", model=model_config("mvitv2_tiny"), views=4.0),
    ]
    of[0].accuracies = [Accuracy(data="X", top1=50.0, measured=True), Accuracy(data="X", top1=55.0, measured=False)]
    of[1].accuracies = [Accuracy(data="X", top1=60.0, measured=False)]
    found = measure_complexity(of, seconds=0)
    *bars, scatter = draw_complexity(found).get_axes()
    assert len(bars) == 2 and [bar.get_width() for bar in bars[0].patches] == [e.params / 1e6 for e in found.models]
    dots = [(*dot.get_offsets()[0].tolist(), len(dot.get_facecolor())) for dot in scatter.collections]
    first, second = (e.macs_of_views / 1e9 for e in found.models if e.macs_of_views)
    assert dots == [(first, 50.0, 1), (first, 55.0, 0), (second, 60.0, 0)]
    # where the views of one are unknown, the cost of one view is compared
    of[1].views = None
    scatter = draw_complexity(measure_complexity(of, seconds=0)).get_axes()[-1]
    assert scatter.get_xlabel() == "GMACs of one view"
    assert "ours" in str(found) and "paper" in str(found) and "50.00" in str(found)


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "complexity.png"
    with pytest.raises(SystemExit) as end:
        main(
            ["analyse", "complexity", "r3d_tiny", "stan.table1", "--seconds", "0", "--runs", str(tmp_path)]
            + ["--style", "fvcore", "--json", "--out", str(out)]
        )
    found = json.loads(capsys.readouterr().out)
    assert not end.value.code and out.stat().st_size > 10_000
    assert (
        len(found["models"]) == 3 and round(found["models"][2]["macs"] / 1e9, 2) == 65.41
    )  # 65.40 as published, and batch norm
    assert set(found["models"][2]["top1"]) == {"UCF101", "HMDB51"}
    with pytest.raises(SystemExit) as end:
        main(["analyse", "complexity", "ata.table4", "--out", str(out)])
    assert end.value.code == 1 and "no row of these has a recipe" in capsys.readouterr().err
