"""The clusters drawn are those that the model attends with; counts are the paper's; only runs of such models count."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gesta.analysis.rpe import draw_bucket_map, draw_clusters, measure_bucket_map, measure_clusters, read_config
from gesta.checkpoint import save_model
from gesta.cli import main
from gesta.config import to_json
from gesta.data.lists import Folder
from gesta.errors import GestaError
from gesta.marionette.dataset import Marionette
from gesta.models import create_model, model_config
from gesta.recipe import Recipe
from results import result


def run_command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(["analyse", *arguments])
    text = capsys.readouterr()
    return end.value.code, text.out, text.err  # type: ignore[return-value]


def test_the_map_is_the_models_own() -> None:
    model = create_model("rpe_stdt_tiny", classes=3)
    found = measure_bucket_map("tiny", model.config, (2, 5))
    assert found.ids.tolist() == model.ids[1 + 2 * 8 + 5, 1:].view(8, 8).tolist()  # type: ignore[index,operator]


def test_fig_3_5_around_the_centre() -> None:
    found = measure_bucket_map("b12", model_config("rpe_stdt_b12"))
    assert found.reference == (7, 7) and found.ids.shape == (14, 14)
    assert (found.declared, found.used, found.shown) == (50, 50, 49)
    assert found.ids[7, 7] == 24 and found.ids[0, 0] == found.ids[3, 3] == 48  # self; as far as can be, twice
    assert found.ids[7, 8] == 23 and found.ids[8, 7] == 17  # a patch to the right, a patch below
    panel = draw_bucket_map(found).axes[0]
    numbers = {(round(t.get_position()[1]), round(t.get_position()[0])): int(t.get_text()) for t in panel.texts}
    assert len(numbers) == 195 and numbers == {at: int(found.ids[at]) for at in numbers}
    image = panel.images[0].get_array()
    assert len({tuple(colour) for colour in image.reshape(-1, 3).tolist()}) == 49  # type: ignore[union-attr]


def test_clusters_declared_and_used_as_in_the_paper() -> None:
    found = measure_clusters("b12", model_config("rpe_stdt_b12"), runs="nowhere")
    table = [(c.ratio, c.declared, c.used) for c in found.by_ratio]
    assert table == [
        (0.5, 10, 10),
        (1.0, 26, 26),
        (1.5, 50, 50),
        (1.9, 50, 50),
        (2.0, 82, 82),
        (2.5, 122, 82),
        (3.0, 170, 122),
        (3.5, 226, 170),
        (4.0, 290, 170),
    ]
    assert len(draw_clusters(found).axes) == 1 and "so no accuracies" in str(found)


def test_accuracies_come_from_runs_that_differ_in_the_ratio_alone(tmp_path: Path) -> None:
    def run(name: str, labels: list[int], data: Folder | Marionette, **changes: object) -> None:
        model = model_config("rpe_stdt_tiny", classes=2, **changes)
        folder = tmp_path / name
        folder.mkdir()
        (folder / "recipe.json").write_text(json.dumps(to_json(Recipe(name=name, model=model, data=data))))
        result(labels, [0, 0, 0, 0]).write(folder / "result.json")

    run("a", [0, 0, 0, 1], Marionette(), ratio=1.0)
    run("a-seed-1", [0, 0, 1, 1], Marionette(), ratio=1.0)
    run("b", [0, 0, 0, 0], Marionette(), ratio=1.2)  # not in the list, but a run has it
    run("c", [0, 1, 1, 1], Folder(root="x"), ratio=1.9)
    run("other", [1, 1, 1, 1], Marionette(), ratio=1.0, shared=False)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "recipe.json").write_text("{")
    (tmp_path / "broken" / "result.json").write_text("{")
    found = measure_clusters("tiny", model_config("rpe_stdt_tiny"), (1.0, 1.9), tmp_path)
    assert {c.ratio: c.top1 for c in found.by_ratio} == {
        1.0: {"Marionette": [75.0, 50.0]},
        1.2: {"Marionette": [100.0]},
        1.9: {"Folder": [25.0]},
    }
    assert [c.used for c in found.by_ratio] == [26, 26, 50]
    right = draw_clusters(found).axes[1]
    lines = {line.get_label(): line.get_xydata().tolist() for line in right.lines}  # type: ignore[union-attr]
    assert lines["Marionette"] == [[26, 62.5], [26, 100]] and lines["Folder"] == [[50, 25]]


def test_the_verbs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    run.mkdir()
    model = create_model("rpe_stdt_tiny", classes=2)
    save_model(run / "best.safetensors", model, ["a", "b"])
    assert read_config(str(run)) == read_config(str(run / "best.safetensors")) == model.config
    out = str(tmp_path / "map.png")
    code, text, _ = run_command(capsys, "rpe", str(run), "--ref", "0,7", "--ratio", "1", "--json", "--out", out)
    assert code == 0 and Path(out).stat().st_size > 10_000
    found = json.loads(text)
    assert (found["reference"], found["ratio"], found["shown"]) == ([0, 7], 1.0, 9)
    out = str(tmp_path / "sweep.png")
    code, text, _ = run_command(
        capsys, "clusters", "rpe_stdt_tiny", "--ratios", "1,2", "--runs", str(run), "--out", out
    )
    assert code == 0 and Path(out).stat().st_size > 5_000 and "no runs of this model" in text
    for arguments, message in (
        (("rpe", "rpe_stdt_tiny", "--ref", "8,0"), "rows and columns 0 to 7"),
        (("rpe", "ctn_tiny"), "no relative positions"),
        (("rpe", "vit_spatial"), "no relative positions"),
        (("rpe", "rpe_stdt_tinny"), "did you mean 'rpe_stdt_tiny'"),
        (("clusters", "rpe_stdt_tiny", "--ratios", "0.2,1"), "leaves one cluster"),
    ):
        code, _, error = run_command(capsys, *arguments)
        assert code == 1 and message in error and error.count("\n") == 1
    assert run_command(capsys, "rpe", "rpe_stdt_tiny", "--ref", "7;7")[0] == 2
    with pytest.raises(GestaError, match="leaves one cluster"):
        measure_bucket_map("tiny", model_config("rpe_stdt_tiny", ratio=0.3))
