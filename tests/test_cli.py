"""The verbs from the command line: flags, sentences instead of tracebacks, exit statuses, JSON."""

from __future__ import annotations

import argparse
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from gesta.cli import main, make_parser
from gesta.cli.options import CommandParser, data_source
from gesta.config import replace
from gesta.data.lists import Folder
from gesta.datasets import DATASETS, data_config
from gesta.errors import GestaError, naming_flags
from gesta.models import model_config


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    return int(end.value.code or 0)


def test_cost_prints_the_published_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("cost", "stan_mvitv2_s", "--classes", "101", "--style", "fvcore", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert round(found["macs"] / 1e9, 2) == 65.41
    assert round(found["params"] / 1e6, 3) == 34.557
    assert run("cost", "mvitv2_s", "--classes", "101") == 0
    assert "64.3905" in capsys.readouterr().out


def test_no_output_takes_the_place_of_what_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By whatever name; only files that are named or read count, not others of that folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "frames").mkdir()
    names = ["result.json", "weights.onnx", "by.csv", "list.csv", "frames/1.png"]
    for name in names:
        (tmp_path / name).write_text("kept")
    for words in (
        "analyse confusion result.json --out ./result.json",
        "analyse confusion other.json --by by.csv --out by.csv",
        "analyse warp stan_mvitv2_s frames --out frames/1.png",
        "analyse response frames stan_mvitv2_s --out frames/1.png",
        "export weights.onnx --to onnx --out weights.onnx",
        "evaluate run --data lists --data.test list.csv --out list.csv",
        "evaluate run --data lists --data.test=list.csv --out list.csv",
    ):
        assert run(*words.split()) == 1
        assert "is itself read, and would be replaced; choose another file with --out" in capsys.readouterr().err
    (tmp_path / "other.json").write_text("kept")
    assert run(*["analyse", "confusion", "result.json", "--out", "other.json"]) == 1
    assert "itself read" not in capsys.readouterr().err
    (tmp_path / "videos").mkdir()
    assert run(*["data", "prepare", "videos", "copies", "--lists", "--from", "copies/train.txt"]) == 1
    assert "copies/train.txt: is in the folder that --lists writes to" in capsys.readouterr().err
    assert {(tmp_path / name).read_text() for name in names} == {"kept"}


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
    assert run("show", "r3d_tiny", "--data", "ucf101") == 1
    assert "r3d_tiny is a model, and --data changes recipes: leave it out" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--model", "--data"])
def test_a_run_to_resume_has_its_model_and_data(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", "--resume", "--run", "runs/x", flag, "marionette") == 1
    assert f"is resumed as it was begun; leave {flag} out" in capsys.readouterr().err


def test_a_field_from_which_others_follow_in_a_recipe_is_told_apart_from_its_argument(
    capsys: pytest.CaptureFixture[str],
) -> None:
    sentence = "--model.clip.frames 16 changes this field alone, where timesformer.kinetics400 --frames 16 also sets"
    assert run("show", "timesformer.kinetics400", "--model.clip.frames", "16") == 0
    assert sentence in capsys.readouterr().err
    assert run("show", "timesformer.kinetics400", "--frames", "16") == 0
    assert not capsys.readouterr().err
    assert run("sweep", "timesformer.kinetics400", "--field", "model.clip.frames", "--values", "16") == 1  # no videos
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "expected", "fields"),
    [
        ("show --train.lr 1e-4 demo", {"what": "demo"}, "--train.lr 1e-4"),
        ("show --train.lr=1e-4 demo --data marionette", {"what": "demo", "data": "marionette"}, "--train.lr=1e-4"),
        ("train --train.lr 1e-4 demo", {"recipe": "demo"}, "--train.lr 1e-4"),
        ("train --data.columns path label lists.mine", {"recipe": "lists.mine"}, "--data.columns path label"),
        ("train --resume --run r --train.freeze a. b.", {"recipe": None, "run": "r"}, "--train.freeze a. b."),
        ("pretrain --data.root videos videomae", {"recipe": "videomae"}, "--data.root videos"),
        (
            "train --train.lr 1e-4 demo --train.betas 0.9 0.99",
            {"recipe": "demo"},
            "--train.lr 1e-4 --train.betas 0.9 0.99",
        ),
        ("evaluate --evaluate.clips 2 run", {"checkpoint": "run"}, "--evaluate.clips 2"),
        ("sweep --field lr --values 1,2 --train.epochs 3 demo", {"recipe": "demo"}, "--train.epochs 3"),
        ("cost --dropout 0.1 r3d_tiny --style torch", {"model": "r3d_tiny", "style": "torch"}, "--dropout 0.1"),
        ("bench model --dropout 0.1 r3d_tiny", {"model": "r3d_tiny"}, "--dropout 0.1"),
        ("bench memory --dropout 0.1 r3d_tiny", {"model": "r3d_tiny"}, "--dropout 0.1"),
        ("bench scale --dropout 0.1 --gpus 8 r3d_tiny", {"model": "r3d_tiny", "gpus": (8,)}, "--dropout 0.1"),
        ("data list --root videos train.txt", {"source": "train.txt"}, "--root videos"),
        ("data check --root videos train.txt --seconds 9", {"source": "train.txt", "seconds": 9.0}, "--root videos"),
        ("analyse rpe --ratio 2 rpe_stdt_b12", {"model": "rpe_stdt_b12"}, "--ratio 2"),
        ("analyse clusters --ratio 2 rpe_stdt_b12", {"model": "rpe_stdt_b12"}, "--ratio 2"),
        ("analyse stages --data.root videos run", {"run": "run"}, "--data.root videos"),
        ("analyse tsne --data.root videos run1 run2", {"runs": ["run1", "run2"]}, "--data.root videos"),
        ("analyse mi --data.root videos run --data folder", {"sources": ["run"]}, "--data.root videos"),
    ],
)
def test_flags_of_fields_may_stand_before_the_positional(
    command: str, expected: dict[str, object], fields: str
) -> None:
    options = make_parser().parse_args(command.split())
    assert {name: getattr(options, name) for name in expected} == expected
    assert options.fields == fields.split()


def test_every_verb_that_takes_fields_is_tried_above() -> None:
    def verbs(parser: CommandParser, words: tuple[str, ...] = ()) -> list[str]:
        if not parser.is_group:
            return [" ".join(words)] * parser.takes_fields
        choices = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction)).choices
        return [verb for word, sub in choices.items() for verb in verbs(sub, (*words, word))]

    parameters = test_flags_of_fields_may_stand_before_the_positional.pytestmark[0].args[1]
    assert all(any(command.startswith(f"{verb} ") for command, *_ in parameters) for verb in verbs(make_parser()))


def test_positional_words_and_flags_come_in_any_order() -> None:
    options = make_parser().parse_args(["predict", "run", "a.mp4", "--top", "3", "b.mp4"])
    assert (options.checkpoint, options.sources, options.top) == ("run", ["a.mp4", "b.mp4"], 3)


def test_misspelt_flags_get_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    for command, remedy in {
        "predict run a.mp4 --clipz 3": "did you mean '--clips'",
        "cost r3d_tiny --styl torch": "did you mean '--style'",
        "show demo --modle r3d_tiny": "did you mean '--model'",
        "show demo --train.lrr 1": "--train.lr",
        "doctor --train.lr 3": "unrecognized",
    }.items():
        assert run(*command.split()) == 2, command
        assert remedy in capsys.readouterr().err, command


def test_fields_are_refused_in_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    for flags, sentence in {
        "--train.epochs 1e3": "--train.epochs cannot be '1e3'; it takes a whole number (1 or more)",
        "--train.epochs=1e3": "--train.epochs cannot be '1e3'; it takes a whole number (1 or more)",
        "--train.lr": "--train.lr has no value; it takes a number (above 0), or None",
        "--train.lr 0.1 0.2": "--train.lr cannot be '0.1 0.2'; it takes a number (above 0), or None",
        "--train.betas 1": "--train.betas cannot be '1'; it takes 2 values, each a number (0 or more and below 1)",
        "--data.held-out bth": "--data.held-out cannot be 'bth'; it takes both, subjects or cameras",
        "--stan maybe": "--stan cannot be 'maybe'; it takes True or False",
        "--train 3": "--train is set by its fields, such as --train.epochs",
        "--train.epochs 3 --train.epohs 3": "unrecognized arguments: --train.epohs; did you mean '--train.epochs'?",
        "--train.warmup_lrs 3": "unrecognized arguments: --train.warmup_lrs; did you mean '--train.warmup-lr'?",
        "--train.xyzzy 3": "unrecognized arguments: --train.xyzzy; gesta show RECIPE lists the fields",
    }.items():
        assert run("show", "demo", *flags.split()) == 2, flags
        said = capsys.readouterr()
        assert said.err.endswith(f"gesta show: error: {sentence}\n") and said.out == "", said.err


def test_names_with_a_leading_dash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("-dash.mp4").touch()
    Path("--dashes.mp4").touch()
    assert run("predict", "run", "-dash.mp4") == 2
    assert "-dash.mp4: is taken for a flag; write ./-dash.mp4, or -- before it" in capsys.readouterr().err
    assert run("predict", "run", "--dashes.mp4") == 2
    assert "--dashes.mp4: is taken for a flag; write ./--dashes.mp4, or -- before it" in capsys.readouterr().err
    read = make_parser().parse_args
    options = read(["predict", "run", "--top", "3", "--out", "-o.csv", "--", "-dash.mp4", "--dashes.mp4", "--json"])
    assert (options.checkpoint, options.sources) == ("run", ["-dash.mp4", "--dashes.mp4", "--json"])
    assert (options.out, options.top, options.json) == ("-o.csv", 3, False)
    assert read(["predict", "--json", "--", "run", "-1"]).sources == ["-1"]
    assert read(["train", "--train.lr", "1", "--", "demo"]).recipe == "demo"
    assert read(["analyse", "warp", "run", "--", "-dash.mp4"]).fields == []


def test_show_with_the_flag_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("show", "--train.lr", "1e-4", "demo") == 0
    assert json.loads(capsys.readouterr().out)["train"]["lr"] == 1e-4


def test_sentences_about_data_name_the_flags_of_their_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], make_video: Callable[..., Path]
) -> None:
    """``--root`` after ``gesta data``, ``--data.root`` elsewhere; what is advised is then accepted."""
    monkeypatch.chdir(tmp_path)
    make_video("only/clip/wave/a.mp4")
    make_video("only/clip/jump/b.mp4")
    (tmp_path / "list.txt").write_text("only/clip/wave/a.mp4 1 2 3\n")
    for words, sentence in {
        "data list ucf101 --root only": "or give its folder with --annotations DIR",
        "data list ucf101": "gesta: data/ucf101: is not a folder; give the one that holds the videos (--root DIR)",
        "data list hmdb51 --root only --annotations only": "give the folder of HMDB-51's lists (--annotations DIR)",
        "data check kinetics400 --root only": "give the folder of the official lists with --annotations DIR",
        "data list only": "give only/clip in place of only; if there is only one, say --folders classes",
        "data prepare only copies --lists": "give only/clip in place of only; if there is only one, say --folders",
        "data list list.txt": "path offset frames label (--columns)",
        "train finetune --data lists --data.train list.txt": "path offset frames label (--data.columns)",
        "train finetune --data.root only": "if there is only one, say --data.folders classes",
    }.items():
        assert run(*words.split()) == 1, words
        assert sentence in capsys.readouterr().err, words
    assert run("data", "list", "only", "--folders", "classes") == run("data", "list", "only/clip") == 0


def test_a_wrong_number_is_named_by_its_flag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Alone: neither the other numbers, which are right, nor a class of the code."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "videos").mkdir()
    (tmp_path / "weights.safetensors").touch()
    for words, sentence in {
        "data prepare videos prep --short-side 15": "--short-side 15 is not an even number of pixels from 16 on; give",
        "data prepare videos prep --workers -1": "--workers -1 is below 0; give a number of processes",
        "data make marionette m2 --clips 0": "--clips 0 is below 1; give how many videos to make",
        "data make marionette m2 --workers 0": "--workers 0 is below 1; give a number of processes",
        "data make marionette m2 --seed -1": "--seed -1 is below 0; give a whole number from 0 on",
        "data make marionette m2 --layout ntu --seed -1": "--seed -1 is below 0; give a whole number from 0 on",
        "data make marionette m2 --layout ntu --clips 1": "--clips 1: ntu is laid out with ",
        "evaluate nothing": "nothing: there is no such file or folder; give a run folder or a .safetensors file",
        "evaluate weight.safetensors": "no such file or folder; did you mean 'weights.safetensors'?",
    }.items():
        assert run(*words.split()) == 1, words
        said = capsys.readouterr().err
        assert sentence in said, said
    assert run("cost", "mvitv2_tiny", "--classes", "-3") == 2
    assert "argument --classes: '-3' is not a whole number from 1 on" in capsys.readouterr().err
    assert not (tmp_path / "m2").exists() and not (tmp_path / "prep").exists()


def test_the_help_of_shares_names_the_output_of_its_command(capsys: pytest.CaptureFixture[str]) -> None:
    for words, out in (("data prepare", "OUT"), ("predict", "--out"), ("features", "--out")):
        assert run(*words.split(), "--help") == 0
        said = " ".join(capsys.readouterr().out.split())
        assert f"{out} is then the folder of the part" in said and ("--out" in said) == (out == "--out")


def test_the_fields_of_data_sets_are_listed_and_suggested(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("list", "check"):
        assert run("data", verb, "--help") == 0
        said = capsys.readouterr().out
        assert "--val-fraction" in said and "--train.lr" not in said and "gesta show" not in said
        assert all(f"  {name} " in said for name in DATASETS)
        assert run("data", verb, str(tmp_path), "--data.val", "0.3") == 2
        assert "unrecognized arguments: --data.val; did you mean '--val'?" in capsys.readouterr().err


def test_unknown_names_get_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("cost", "mvitv2_z") == 1
    assert "did you mean 'mvitv2_s'" in capsys.readouterr().err
    assert run("show", "stan.ucf11") == 1
    assert "did you mean 'stan.ucf101'" in capsys.readouterr().err
    assert run("table", "stan.table9") == 1
    assert "did you mean" in capsys.readouterr().err
    assert run("table", "stan.table2", "--runs", "nowhere") == 1
    assert "nowhere: is not a folder; give the one that holds run folders with --runs" in capsys.readouterr().err
    assert run("analyse", "complexity", "r3d_tiny", "--runs", "nowhere") == 1
    for seconds in ("nan", "-1", "inf", "soon"):
        assert run("data", "check", "nowhere", "--seconds", seconds) == 2
        assert f"'{seconds}' is not a number of seconds" in capsys.readouterr().err
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
    listed = capsys.readouterr().out
    assert "mvitv2_s " not in listed and "recipes" not in listed  # nor headings of nothing
    assert run("models", "stan.*") == 0
    listed = capsys.readouterr().out
    assert "stan.ucf101" in listed and "stan.table1" in listed and "models" not in listed.splitlines()
    assert run("models") == 0
    listed = capsys.readouterr().out
    assert "stan_mvitv2_tiny, tested like demo; miniatures" in listed and "`" not in listed


def test_a_pattern_of_nothing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for words, sentence in {
        "models stan.ucf11": "no model, recipe or table is called 'stan.ucf11'; did you mean 'stan.ucf101'?",
        "models --json zzz*": "no model, recipe or table is called 'zzz*'; without a pattern gesta models lists all",
        "models --pretrained hiera_bb": "no model with published weights is called 'hiera_bb'; did you mean 'hiera_b'?",
    }.items():
        assert run(*words.split()) == 1
        said = capsys.readouterr()
        assert (said.out, said.err) == ("", f"gesta: {sentence}\n")


def test_published_weights_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models", "--pretrained", "hiera*") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:-1]] == ["hiera_b", "hiera_b_plus", "hiera_h", "hiera_l"]
    assert "CC-BY-NC-4.0" in lines[1] and lines[1].endswith("Kinetics-400 84.0") and "gesta show" in lines[-1]
    assert run("models", "--pretrained", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"models"} and all(model["published"]["weights"] for model in found["models"])
    assert run("show", "hiera_b", "--q-pool", "2") == 0
    card, _, fields = capsys.readouterr().out.partition("\n\n")
    assert "hf:facebook/hiera_base_16x224.mae_k400" in card and json.loads(fields)["q_pool"] == 2
    assert run("show", "hiera_b", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["card"]["published"]["accuracy"][0]["top1"] == 84.0 and shown["fields"]["q_pool"] == 3
    assert run("show", "demo", "--json") == 0
    assert json.loads(capsys.readouterr().out)["name"] == "demo"


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
    listed, counts = len(result["scores"]["names"]), result["counts"]
    assert counts["scored"] + counts["failed"] == listed
    log = (tmp_path / "run/log.jsonl").read_text()
    named = log + json.dumps(result["failures"])
    assert "empty.mp4" in named and "broken.mp4" in named

    assert run(*train, *quick) == 1, "a run folder in use is not overwritten"
    assert "--resume" in capsys.readouterr().err
    assert run("train", "--resume", "--run", "run") == 0
    assert run("train", "--resume", "--run", "run", "--train.epochs", "2") == 0
    capsys.readouterr()

    assert run("evaluate", "run", "--evaluate.clips", "2", "--out", "again.json", "--json") == 0
    printed = capsys.readouterr().out
    assert json.loads(printed)["optimistic"].startswith("these videos chose the best epoch")  # two epochs, by now
    assert result["optimistic"] == ""  # of one
    assert run("evaluate", "run", "--evaluate.split", "test", "--data.test", "0.5", "--out", "t.json", "--json") == 0
    assert "of these 8 videos were trained on" in json.loads(capsys.readouterr().out)["optimistic"]
    before = (tmp_path / "run/result.json").read_text()
    (tmp_path / "run/result.json").write_text(before.replace(result["list_hash"], "0" * 64))
    assert run("evaluate", "run", "--out", "t.json", "--json") == 0
    assert "these are not the videos that" in json.loads(capsys.readouterr().out)["optimistic"]
    (tmp_path / "run/result.json").write_text(before)
    assert run("evaluate", "run", "--evaluate.clips", "2", "--out", "again.json/again.json", "--json") == 1
    failed = capsys.readouterr()
    assert json.loads(failed.out)["scores"] == json.loads(printed)["scores"], "scored for nothing"
    assert failed.err.splitlines()[-1].startswith("gesta: again.json: cannot be written (")
    assert run("compare", "run", "again.json") == 0
    assert "clips" in capsys.readouterr().out
    assert run("analyse", "report", "run") == 0
    assert (tmp_path / "run/report.html").stat().st_size > 10_000
    capsys.readouterr()

    assert run("predict", "run", "videos/bright", "--top", "2", "--json") == 0
    answers = json.loads(capsys.readouterr().out)
    assert len(answers) == 7 and all(len(a["labels"]) == 2 for a in answers)
    assert run("predict", "run", "videos/dark/empty.mp4") == 1
    capsys.readouterr()
    assert run("predict", "run", "videos/dark/0.mp4", "--device", "cuda:99") == 1
    assert capsys.readouterr().err.startswith("gesta: the device 'cuda:99' cannot be used here (")
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
    said = capsys.readouterr().err
    assert "evaluate on those it was trained on" in said and "with --data.class-names RUN/labels.txt" in said


@pytest.mark.parametrize("timeline", [False, True])
def test_a_list_of_some_classes_is_scored_and_results_of_other_videos_stay(
    timeline: bool, make_video: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its classes are those of the model by name; another list needs a file of its own, the same list does not."""
    from gesta.checkpoint import save_model

    for name in "ab":
        make_video(f"{name}.mp4", frames=6)
    model = replace(model_config("r3d_tiny"), classes=3).build()
    path = save_model(tmp_path / "model.safetensors", model, ["x", "y", "z"])
    for name, rows in (("one", "a.mp4,z,0,4"), ("other", "b.mp4,z,0,4"), ("foreign", "b.mp4,w,0,4")):
        (tmp_path / f"{name}.csv").write_text(f"path,label,start_frame,end_frame\n{rows}\na.mp4,y,4,6\n")

    def evaluated(name: str, *more: str) -> tuple[int, str]:
        words = ["--data", "lists", "--data.test", str(tmp_path / f"{name}.csv"), "--device", "cpu", *more]
        words += ["--timeline"] if timeline else ["--evaluate.clips", "1", "--evaluate.workers", "0"]
        return run("evaluate", str(path), *words), capsys.readouterr().err

    missing = (1, "give all in the model's order with --data.class-names RUN/labels.txt")
    assert evaluated("one")[0] == missing[0] and missing[1] in evaluated("one")[1]  # no file says the model's order
    (tmp_path / "labels.txt").write_text("x\ny\nz\n")
    for name in ("one", "foreign"):
        status, said = evaluated(name)
        assert (status, "names 2 of the model's 3 classes" in said) == ((0, True) if name == "one" else (1, False))
    out = tmp_path / f"{'timeline' if timeline else 'result'}-test.json"
    first = json.loads(out.read_text())
    by_name = first["videos"][0]["true"][0][-1] if timeline else first["scores"]["labels"]["label"][0]
    assert by_name == ("z" if timeline else 2)
    status, said = evaluated("other")
    assert status == 1 and f"{out}: is a result of other videos; choose another file with --out" in said
    assert json.loads(out.read_text()) == first
    assert evaluated("other", "--out", str(tmp_path / "other.json"))[0] == 0
    assert evaluated("one")[0] == 0
    (tmp_path / "one.csv").write_text((tmp_path / "one.csv").read_text() + "b.mp4,y,0,4\n")
    assert evaluated("one")[0] == 0  # the same data set, which has grown
    assert evaluated("one", "--out", str(path))[0] == 1 and path.stat().st_size > 10_000


def test_a_word_means_the_same_whatever_lies_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in DATASETS:
        (tmp_path / name / "wave").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for name in DATASETS:
        assert type(data_source(name, argparse.Namespace(fields=[]))) is type(data_config(name))
    assert isinstance(data_source("./shards", argparse.Namespace(fields=[])), Folder)
    assert run("data", "check", "shards") == 1
    assert "which shards? give the folder that holds the tar files: --root DIR" in capsys.readouterr().err


def test_public_weights_are_scored_without_training(
    make_video: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from gesta.checkpoint import save_model

    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "c"):
        make_video(f"videos/{name}/0.mp4", frames=4)
        make_video(f"videos/{name}/1.mp4", frames=4)
    model = model_config("r3d_tiny", classes=3).build()
    torch.save({"state_dict": model.state_dict()}, "public.pth")
    public = ["--model", "r3d_tiny", "--weights", "public.pth"]
    data = ["--data", "folder", "--data.root", "videos", "--data.val", "0.5", "--evaluate.split", "val"]
    assert run("evaluate", *public, *data, "--evaluate.clips", "1", "--evaluate.workers", "0", "--json") == 0
    printed = capsys.readouterr()
    assert "100.0 % of the parameters match" in printed.err
    assert "the order of its classes is not known" in printed.err
    result = json.loads(printed.out)
    assert result == json.loads((tmp_path / "result-r3d_tiny-val.json").read_text())
    # the same weights with their classes in another order, which the file names: the same scores of the data's classes
    for part in model.classifier.linear.parameters():
        part.data = part.data[[2, 0, 1]]
    save_model("named.safetensors", model, ["c", "a", "b"])
    fast = ["--evaluate.clips", "1", "--evaluate.workers", "0", "--json"]
    assert run("evaluate", *public[:3], "named.safetensors", *data, *fast) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["scores"] == result["scores"] and "all 3 classes by name" in printed.err

    predict = ["predict", "videos/a/0.mp4", *public, "--json", "--clips", "1", "--top", "3"]
    assert run(*predict, "videos/b/0.mp4") == 0
    numbered = json.loads(capsys.readouterr().out)
    assert [prediction["path"] for prediction in numbered] == ["videos/a/0.mp4", "videos/b/0.mp4"]
    assert {label["class"] for label in numbered[0]["labels"]} == {"0", "1", "2"}
    (tmp_path / "names.txt").write_text("wave\njump\nrun\n")
    assert run(*predict, "--classes", "names.txt") == 0
    (named,) = json.loads(capsys.readouterr().out)
    names = ["wave", "jump", "run"]
    assert [label["class"] for label in named["labels"]] == [names[int(n["class"])] for n in numbered[0]["labels"]]

    for command, sentence in {
        ("evaluate", "run", *public): "not both",
        ("predict", "run.safetensors", "a.mp4", *public): "not both",
        ("evaluate", "--model", "r3d_tiny", *data): "--weights",
        ("evaluate",): "or --model NAME --weights FILE",
        ("evaluate", *public): "say which videos",
        (*predict, "--classes", "nowhere.txt"): "nowhere.txt: cannot be read (No such file",
        ("evaluate", *public, "--classes", "names.txt", *data): "its 3 classes are not the 3 of the data",
        ("predict", "public.pth"): "public.pth: a file of weights without a description of their model",
        ("predict", "public.pth", "videos/a/0.mp4"): "--model NAME --weights FILE",
    }.items():
        assert run(*command) == 1, command
        assert sentence in capsys.readouterr().err, command
    assert run("predict", "run") == 2
    assert "VIDEO" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "python"),
    [
        ("a.csv: broken; correct --data.class-names", "a.csv: broken; correct data.class_names"),
        ("--train.lr-multipliers: no such prefix", "train.lr_multipliers: no such prefix"),
        ("lower --init.min-matched", "lower min_matched"),
        ("use --resume or another --run (--trust-code)", "use resume=True or another run (trust_code=True)"),
        ("name it (--model NAME --weights FILE)", "name it (gesta.load(FILE, model=NAME))"),
        (
            "type gesta train demo --run r; or lower --train.lr",
            "type gesta train demo --run r; or lower train.lr",
        ),
        ("--run.mp4: absent", "--run.mp4: absent"),  # names of files stay
        ("/videos/--data.root/a.mp4: absent", "/videos/--data.root/a.mp4: absent"),
    ],
)
def test_a_sentence_names_flags_for_the_command_and_arguments_for_python(flags: str, python: str) -> None:
    error = GestaError(flags)
    assert str(error) == python
    with naming_flags():
        assert str(error) == flags
    assert str(pickle.loads(pickle.dumps(error))) == python  # as from a worker process


def test_public_weights_without_a_classifier_are_refused(
    make_video: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    weights = model_config("r3d_tiny", classes=3).build().state_dict()
    torch.save({name: w for name, w in weights.items() if "classifier" not in name}, tmp_path / "backbone.pth")
    video = str(make_video("a.mp4", frames=4))
    assert run("predict", "--model", "r3d_tiny", "--weights", str(tmp_path / "backbone.pth"), video) == 1
    assert "gesta train finetune --model r3d_tiny --init.weights" in capsys.readouterr().err


def test_flags_of_a_timeline_are_used_or_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for command, sentence in {
        "evaluate run --hop 0.2": "--hop is about the windows of a timeline",
        "evaluate run --threshold 0.2": "--threshold is about the windows of a timeline",
        "evaluate run --timeline --evaluate.clips 9": "--evaluate.clips changes nothing in a timeline",
        "evaluate run --timeline --window 1e-9": "--window is 1e-09, shorter than a frame of any video",
        "predict run a.mp4 --window 3": "--window is about the windows of a timeline",
    }.items():
        assert run(*command.split()) == 1, command
        assert sentence in capsys.readouterr().err, command
