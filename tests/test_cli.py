"""The verbs from the command line: flags, sentences instead of tracebacks, exit statuses, JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gesta.cli import main
from gesta.config import replace
from gesta.models import model_config


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    return int(end.value.code or 0)


def test_cost_prints_the_published_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("cost", "stan_mvitv2_s", "--classes", "101", "--style", "fvcore", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert round(found["macs"] / 1e9, 2) == 65.40
    assert round(found["params"] / 1e6, 3) == 34.557
    assert run("cost", "mvitv2_s", "--classes", "101") == 0
    assert "64.3905" in capsys.readouterr().out


def test_cost_of_several_views(capsys: pytest.CaptureFixture[str]) -> None:
    """Clips and crops are told apart by words, since papers disagree about their order."""
    cost = ["cost", "r3d_tiny", "--style", "torch"]
    assert run(*cost, "--json") == 0
    one = json.loads(capsys.readouterr().out)
    for words in ("4 clips x 3 crops", "3 crops × 4 clips", "4clips,3crops"):
        assert run(*cost, "--views", words, "--json") == 0
        found = json.loads(capsys.readouterr().out)
        assert found["macs"] == one["macs"] and found["macs_of_views"] == 12 * one["macs"]
        assert found["views"] == {"total": 12, "text": "4 clips × 3 crops"}
    assert run(*cost, "--views", "5") == 0
    each, together = f"{one['macs'] / 1e9:.4f}", f"{5 * one['macs'] / 1e9:.4f}"
    assert f"{each} GMACs (torch) per view, {together} for 5 views" in capsys.readouterr().out
    for words in ("4x3", "0", "0 clips x 3 crops", "4 clips x 3 clips", "many"):
        assert run(*cost, "--views", words) == 2
        assert "4 clips x 3 crops" in capsys.readouterr().err


def test_show_changes_fields_and_refuses_misspelt_ones(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--train.lr", "0.5", "--model.inserts.0.layer.mode", "attention"]
    assert run("show", "stan.ucf101", *flags) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["train"]["lr"] == 0.5 and shown["model"]["inserts"][0]["layer"]["mode"] == "attention"
    assert run("show", "stan.ucf101", "--model.insert.0.layer.mode", "attention") == 2
    assert "--model.inserts.0.layer.mode" in capsys.readouterr().err
    assert run("show", "stan.ucf101", "--train.optimizer", "adam") == 2
    assert "adamw" in capsys.readouterr().err


def test_unknown_names_get_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("cost", "mvitv2_z") == 1
    assert "did you mean 'mvitv2_s'" in capsys.readouterr().err
    assert run("show", "stan.ucf11") == 1
    assert "did you mean 'stan.ucf101'" in capsys.readouterr().err
    assert run("table", "stan.table9") == 1
    assert "did you mean" in capsys.readouterr().err
    assert run("data", "check", "nowhere") == 1
    assert "neither a folder, a list file nor a data set" in capsys.readouterr().err
    assert run("predict", "nowhere.safetensors", "clip.mp4") == 1
    assert "nowhere.safetensors" in capsys.readouterr().err
    assert run("doctor", "--train.lr", "3") == 2


def test_models_lists_recipes_and_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert {"stan.ucf101", "finetune", "demo"} <= set(found["recipes"])
    assert "stan.table1" in found["tables"]
    assert {m["name"] for m in found["models"]} >= {"stan_mvitv2_s", "r3d_50"}
    assert run("models", "r3d*") == 0
    assert "mvitv2_s " not in capsys.readouterr().out


@pytest.mark.slow
def test_own_videos_from_check_to_prediction(
    make_video: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder with a broken, an empty and a one-frame file: named, survived, and counted."""
    monkeypatch.chdir(tmp_path)
    for i in range(6):
        make_video(f"videos/dark/{i}.mp4", frames=12)
        make_video(f"videos/bright/{i} [x].mp4", frames=12, shade=120)
    make_video("videos/bright/one.mp4", frames=1)
    (tmp_path / "videos/dark/empty.mp4").write_bytes(b"")
    (tmp_path / "videos/dark/broken.mp4").write_bytes((tmp_path / "videos/dark/0.mp4").read_bytes()[:700])

    assert run("data", "check", "videos") == 1
    report = capsys.readouterr().out
    assert "empty.mp4" in report and "broken.mp4" in report and "one.mp4" in report
    assert run("data", "list", "videos", "--json") == 0
    capsys.readouterr()

    quick = ["--train.epochs", "1", "--train.batch-size", "4", "--train.workers", "0", "--evaluate.workers", "0"]
    quick += ["--model.clip.frames", "8", "--model.clip.size", "32", "--evaluate.clips", "1", "--evaluate.split", "val"]
    train = ["train", "finetune", "--model", "r3d_tiny", "--data.root", "videos", "--data.val", "0.4", "--run", "run"]
    assert run(*train, *quick) == 0
    capsys.readouterr()
    result = json.loads((tmp_path / "run/result.json").read_text())
    listed = len(result["names"])
    assert result["scored"] + result["failed"] == listed
    log = (tmp_path / "run/log.jsonl").read_text()
    named = log + json.dumps(result["failures"])
    assert "empty.mp4" in named and "broken.mp4" in named

    assert run(*train, *quick) == 1, "a run folder in use is not overwritten"
    assert "--resume" in capsys.readouterr().err
    assert run("train", "--resume", "--run", "run") == 0
    assert run("train", "--resume", "--run", "run", "--train.epochs", "2") == 0
    capsys.readouterr()

    assert run("evaluate", "run", "--evaluate.clips", "2", "--out", "again.json", "--json") == 0
    capsys.readouterr()
    assert run("compare", "run", "again.json") == 0
    assert "clips" in capsys.readouterr().out
    assert run("analyse", "report", "run") == 0
    assert (tmp_path / "run/report.html").stat().st_size > 10_000
    capsys.readouterr()

    assert run("predict", "run", "videos/bright", "--top", "2", "--json") == 0
    answers = json.loads(capsys.readouterr().out)
    assert len(answers) == 7 and all(len(a["labels"]) == 2 for a in answers)
    assert run("predict", "run", "videos/dark/empty.mp4") == 1
    assert run("analyse", "warp", "run", "videos/bright/one.mp4") == 1
    assert "STAN" in capsys.readouterr().err


def test_a_checkpoint_is_evaluated_on_its_own_classes_only(
    make_video: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from gesta.checkpoint import save_model

    for name in ("a", "b"):
        make_video(f"videos/{name}/0.mp4", frames=4)
        make_video(f"videos/{name}/1.mp4", frames=4)
    model = replace(model_config("r3d_tiny"), classes=3).build()
    path = save_model(tmp_path / "model.safetensors", model, ["x", "y", "z"])
    data = ["--data", "folder", "--data.root", str(tmp_path / "videos"), "--evaluate.split", "val"]
    assert run("evaluate", str(path)) == 1
    assert "say which videos" in capsys.readouterr().err
    assert run("evaluate", str(path), *data, "--data.val", "0.5") == 1
    assert "evaluate on those it was trained on" in capsys.readouterr().err
