"""A run that was killed, stopped or shared among processes ends as a straight run of one process does."""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.plugins.precision import Precision
from torch.distributed.run import get_args_parser

from conftest import write_video
from gesta.checkpoint import load_state, save_state
from gesta.checkpoint.formats import file_hash
from gesta.checkpoint.weights import read_source
from gesta.cli import make_parser
from gesta.config import from_json, replace, to_json
from gesta.data.lists import Folder
from gesta.data.parts import FewLabels
from gesta.datasets.ntu import NTU
from gesta.errors import CheckpointError, GestaError
from gesta.files import lock_folder
from gesta.model import ClipSpec
from gesta.models.r3d import R3DConfig
from gesta.recipe import EvaluateConfig, Recipe, TrainConfig
from gesta.recipes.address import read_recipe
from gesta.training.folder import CHANGEABLE_FIELDS, check_run, is_among, may_change
from gesta.training.loop import train

SCRIPT = """
import json, sys
from pathlib import Path
import torch
from gesta.cli import make_parser
from gesta.config import from_json
from gesta.training.loop import train

if __name__ == "__main__":
    torch.set_num_threads(1)
    train(from_json(json.loads(Path(sys.argv[1]).read_text())), sys.argv[2])
"""

TIMES = ("data_s", "compute_s", "seconds", "data_fraction", "clips_per_s")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Everything that is random or has a state: dropout, drop-path, batch norm, average, momentum, mixed clips."""
    root = tmp_path_factory.mktemp("videos")
    for label, name in enumerate(("dark", "light")):
        for i in range(5):
            write_video(root / name / f"{i}.mp4", frames=6, size=(48, 32), shade=90 * label + i)
    return Recipe(
        name="toy",
        model=R3DConfig(
            depths=(1, 1, 1, 1), width=4, clip=ClipSpec(frames=2, stride=2, size=16), dropout=0.3, drop_path=0.2
        ),
        data=Folder(root=str(root), val=0.2),
        train=TrainConfig(
            epochs=10,
            batch_size=4,
            accumulate=2,
            lr=1e-2,
            warmup_epochs=0.5,
            ema=0.9,
            mixup=0.4,
            cutmix=0.4,
            workers=0,
            validate_every=5,
            save_every_s=0.0,
        ),
        evaluate=EvaluateConfig(split="val", clips=1, workers=0),
    )


def start(recipe: Recipe, run: Path) -> subprocess.Popen[bytes]:
    script, file = run.parent / "script.py", run.parent / f"{run.name}.json"
    script.write_text(SCRIPT)
    file.write_text(json.dumps(to_json(recipe)))
    return subprocess.Popen([sys.executable, str(script), str(file), str(run)], stderr=subprocess.DEVNULL)


def send(number: int, process: int, run: Path, lives: Callable[[], bool]) -> None:
    """Send a signal to a process at a random moment of the training that it does."""
    log = run / "log.jsonl"
    until = (log.stat().st_size if log.exists() else 0) + random.randint(300, 1500)  # a line has some 250 bytes
    deadline = time.monotonic() + 180  # importing torch takes long on a busy machine
    while not log.exists() or log.stat().st_size <= until:
        assert lives() and time.monotonic() < deadline
        time.sleep(0.002)
    time.sleep(random.uniform(0, 0.02))
    os.kill(process, number)


def log_without_times(run: Path) -> list[dict[str, Any]]:
    """Steps and epochs; where a process began or resumed is left out."""
    entries = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    trained = (entry for entry in entries if entry["kind"] != "start")
    return [{name: value for name, value in entry.items() if name not in TIMES} for entry in trained]


def starts(run: Path) -> list[dict[str, Any]]:
    entries = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    return [entry for entry in entries if entry["kind"] == "start"]


def test_killed_and_resumed_is_the_same_as_straight(
    toy: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, straight = tmp_path / "run", tmp_path / "straight"
    process = start(toy, run)
    send(signal.SIGKILL, process.pid, run, lambda: process.poll() is None)
    assert process.wait(60) == -signal.SIGKILL
    sender = threading.Thread(target=send, args=(signal.SIGTERM, os.getpid(), run, threading.main_thread().is_alive))
    sender.start()
    with pytest.raises(SystemExit) as stopped:
        train(toy, run, resume=True)
    sender.join()
    assert stopped.value.code == 130 and f"gesta train --resume --run {run}" in capsys.readouterr().err
    reached = load_state(run / "last.ckpt")["progress"]["step"]
    assert reached == log_without_times(run)[-1]["step"] < 20, "the training was over before the signal came"

    train(toy, run, resume=True, quiet=True)
    train(toy, straight, quiet=True)
    ours, theirs = load_state(run / "last.ckpt"), load_state(straight / "last.ckpt")
    for part in ("model", "weights"):
        assert all(torch.equal(value, theirs[part][name]) for name, value in ours[part].items())
    for mine, other in zip(ours["optimizer"]["state"].values(), theirs["optimizer"]["state"].values(), strict=True):
        assert all(torch.equal(mine[name], other[name]) for name in other)
    assert file_hash(run / "best.safetensors") == file_hash(straight / "best.safetensors")
    assert log_without_times(run) == log_without_times(straight)
    assert len(log_without_times(run)) == 10 * 2 + 10
    scores = [json.loads((folder / "result.json").read_text())["scores"]["values"] for folder in (run, straight)]
    assert scores[0] == scores[1]


def test_damaged_and_foreign_states_are_refused(toy: Recipe, tmp_path: Path) -> None:
    run = tmp_path / "run"
    short = replace(toy, train=replace(toy.train, epochs=2))
    train(short, run, quiet=True)
    last, previous = run / "last.ckpt", run / "previous.ckpt"
    assert load_state(previous)["progress"]["step"] <= load_state(last)["progress"]["step"]
    longer = replace(toy, train=replace(toy.train, epochs=3))
    whole = last.read_bytes()
    last.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"last\.ckpt: cut short.*previous\.ckpt"):
        train(longer, run, resume=True, quiet=True)
    torch.save({"magic": "gesta training state", "format": 1, "state": torch.nn.Linear(1, 1)}, last)
    with pytest.raises(CheckpointError, match=r"holds a Python object.*previous\.ckpt"):
        train(longer, run, resume=True, quiet=True)
    moments = {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": []}
    kept = {name: (run / name).read_bytes() for name in ("log.jsonl", "result.json", "recipe.json")}
    for part, value, message in (
        ("progress", {"epoch": -1}, "progress.epoch is -1, not 0 or more"),
        ("progress", {"step": "<b>"}, "progress.step is .<b>., not a whole number"),
        ("model", "weights", "model is .weights."),
        ("weights", {"a": 1}, "does not fit the model and the optimiser"),
        ("optimizer", moments, "does not fit the model and the optimiser"),
    ):
        save_state(tmp_path / "made.ckpt", load_state(previous) | {part: value}).replace(last)
        with pytest.raises(GestaError, match=message):
            train(longer, run, resume=True, quiet=True)
    assert kept == {name: (run / name).read_bytes() for name in kept}
    last.write_bytes(previous.read_bytes())
    train(longer, run, resume=True, quiet=True)
    assert load_state(last)["progress"]["epoch"] == 3
    assert [entry["step"] for entry in log_without_times(run) if entry["kind"] == "step"] == [1, 2, 3, 4, 5, 6]


def test_a_run_in_use_or_without_its_states_is_left_as_it_is(
    toy: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    recipe = replace(toy, train=replace(toy.train, epochs=2))
    train(recipe, run, quiet=True)
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    recipe.train.epochs = 3
    with lock_folder(run), pytest.raises(GestaError, match=r"process \d+ on .* is writing to it"):
        train(recipe, run, resume=True)
    log = (run / "log.jsonl").rename(tmp_path / "log.jsonl")
    for make in (os.mkfifo, lambda path: path.symlink_to(log)):  # as in a folder of others
        make(run / "log.jsonl")
        with pytest.raises(GestaError, match=r"log\.jsonl: is a link or a device; put the file itself there"):
            train(recipe, run, resume=True)
        (run / "log.jsonl").unlink()
    log.rename(run / "log.jsonl")
    for name in ("last.ckpt", "previous.ckpt"):
        (run / name).unlink()
    with pytest.raises(
        GestaError, match=r"last\.ckpt is gone, and best\.safetensors says that .* put it back, or start"
    ):
        train(recipe, run, resume=True)
    (run / "previous.ckpt").write_bytes(before["previous.ckpt"])
    after = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    assert before.pop("last.ckpt") and after == before

    recipe.train.epochs = 2
    train(recipe, run, resume=True)
    assert "last.ckpt is gone, so previous.ckpt, the state before it, takes its place" in capsys.readouterr().err
    assert (run / "best.safetensors").read_bytes() == before["best.safetensors"]
    assert [entry["step"] for entry in log_without_times(run) if entry["kind"] == "step"] == [1, 2, 3, 4]


def test_other_videos_are_refused(toy: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another list, or others of the same names: a relative path means what it meant at the start."""
    run, root, moved = tmp_path / "run", Path(toy.data.root), tmp_path / "elsewhere" / "videos"
    shutil.copytree(root, moved)
    monkeypatch.chdir(root.parent)
    relative = replace(toy.data, root=root.name)
    train(replace(toy, data=relative, train=replace(toy.train, epochs=1)), run, quiet=True)
    before = (run / "recipe.json").read_bytes()
    longer = replace(toy.train, epochs=2)
    with pytest.raises(GestaError, match="list of training videos is not the one"):
        train(replace(toy, data=replace(relative, val=0.4), train=longer), run, resume=True, quiet=True)

    monkeypatch.chdir(moved.parent)
    assert read_recipe(run / "recipe.json").data.root == str(root)
    with open(moved / "dark" / "0.mp4", "ab") as file:
        file.write(b"0")
    with pytest.raises(GestaError, match=r"the list .* is not the one .*, or the files have other sizes; restore them"):
        train(replace(toy, data=replace(relative, root="videos"), train=longer), run, resume=True, quiet=True)
    assert (run / "recipe.json").read_bytes() == before
    shutil.copy(root / "dark" / "0.mp4", moved / "dark")
    train(replace(toy, data=replace(relative, root="videos"), train=longer), run, resume=True, quiet=True)
    assert read_recipe(run / "recipe.json").data.root == str(moved)


def test_only_the_fields_that_are_named_may_change(toy: Recipe, tmp_path: Path) -> None:
    """The beginning of a name is another field: the state would bring the old multipliers back."""
    assert is_among("train.lr", CHANGEABLE_FIELDS) and may_change("data.root") and not may_change("train.root")
    assert not any(is_among(f"{name}_x", CHANGEABLE_FIELDS) for name in CHANGEABLE_FIELDS if not name.endswith("."))
    run, before = tmp_path / "run", replace(toy, train=replace(toy.train, lr_multipliers={"stem.": 0.5}))
    run.mkdir()
    (run / "recipe.json").write_text(json.dumps(to_json(before)))
    (run / "last.ckpt").touch()
    changed = replace(before, train=replace(before.train, lr=1e-3, lr_multipliers={"stem.": 0.1}))
    with pytest.raises(GestaError, match=r"another recipe \(train\.lr_multipliers\.stem\.: 0\.5 → 0\.1\); resume it"):
        check_run(run, changed, resume=True)
    changed.train.lr_multipliers = before.train.lr_multipliers
    assert list(check_run(run, changed, resume=True)) == ["train.lr"]


@pytest.mark.parametrize("inside", [False, True])
def test_what_the_same_files_show_may_not_change(inside: bool, toy: Recipe, tmp_path: Path) -> None:
    """The hash of the list does not see it; a data set may be the part of another."""

    def recipe(**changes: Any) -> Recipe:
        data = NTU(**{"root": "/a", "modality": "depth", **changes})
        return replace(toy, data=FewLabels(of=data) if inside else data)

    (tmp_path / "recipe.json").write_text(json.dumps(to_json(recipe())))
    (tmp_path / "last.ckpt").touch()
    part = "data.of" if inside else "data"
    for change, words in (
        ({"depth_encoding": "repeat3"}, '"jet" → "repeat3"'),
        ({"depth_range": (0.0, 4500.0)}, "[500.0, 4500.0] → [0.0, 4500.0]"),
        ({"person_crop": True}, "false → true"),
    ):
        text = (
            f"another recipe ({part}.{next(iter(change))}: {words}); resume it without these changes, or start another"
        )
        with pytest.raises(GestaError, match=re.escape(text)):
            check_run(tmp_path, recipe(**change), resume=True)
    assert list(check_run(tmp_path, recipe(root="/b"), resume=True)) == [f"{part}.root"]


def test_other_class_names_of_the_same_labels_are_refused(toy: Recipe, tmp_path: Path) -> None:
    """A state of a version that wrote down neither them nor the validation videos is taken as it is."""
    last = train(replace(toy, train=replace(toy.train, epochs=1)), tmp_path / "run", quiet=True) / "last.ckpt"
    state, longer = load_state(last), replace(toy, train=replace(toy.train, epochs=2))
    for classes, text in (
        (["dark", "bright"], "class 1 was 'bright' when the run was started, and is 'light' now"),
        ({"verb": ["dark", "light"]}, "class 0 of verb was 'dark' when the run was started, and is None now"),
    ):
        save_state(tmp_path / "made.ckpt", state | {"classes": classes}).replace(last)
        before = last.read_bytes()
        with pytest.raises(GestaError, match=rf"run: {text}, .*; restore the names, or start another run"):
            train(longer, tmp_path / "run", resume=True, quiet=True)
        assert last.read_bytes() == before
    old = {name: value for name, value in state.items() if name not in ("classes", "held_out")}
    save_state(tmp_path / "made.ckpt", old).replace(last)
    train(longer, tmp_path / "run", resume=True, quiet=True)
    assert load_state(last)["classes"] == ["dark", "light"]


def test_a_run_goes_on_in_half_precision(toy: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its state has no scale of the loss yet; fp16 needs an accelerator, whose scaler is asked here."""
    short = replace(toy, train=replace(toy.train, epochs=1))
    train(short, tmp_path / "run", quiet=True)
    given: list[Any] = []

    def load_scale(_: Precision, state: dict[str, Any]) -> None:
        given.append(state)
        torch.amp.GradScaler("cpu").load_state_dict(state)

    monkeypatch.setattr(Precision, "load_state_dict", load_scale)
    train(replace(short, train=replace(short.train, epochs=2)), tmp_path / "run", resume=True, quiet=True)
    assert not given
    scale = torch.amp.GradScaler("cpu").state_dict()
    state = load_state(tmp_path / "run" / "last.ckpt") | {"precision": scale}
    save_state(tmp_path / "made.ckpt", state).replace(tmp_path / "run" / "last.ckpt")
    train(replace(short, train=replace(short.train, epochs=3)), tmp_path / "run", resume=True, quiet=True)
    assert given == [scale]


@pytest.mark.full  # test_torchrun_leaves_our_flags_alone is the fast one
def test_two_processes_train_as_one(toy: Recipe, tmp_path: Path) -> None:
    plain = from_json(to_json(toy))
    plain.model.dropout = plain.model.drop_path = 0.0  # drawn per process, and batch norm sees a part of the batch
    plain.train = replace(plain.train, epochs=1, accumulate=1, mixup=0.0, cutmix=0.0)
    names = [name for name, _ in replace(plain.model, classes=2).build().named_modules()]
    plain.train.freeze = tuple(f"{name}." for name in names if "bn" in name or name.endswith("downsample.1"))
    train(plain, tmp_path / "one", quiet=True)
    (tmp_path / "plain.json").write_text(json.dumps(to_json(plain)))
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    words = (*torchrun, "-m", "gesta", "train", str(tmp_path / "plain.json"), "--run-dir", str(tmp_path / "two"))
    process = subprocess.Popen(
        [sys.executable, *words], stderr=subprocess.PIPE, text=True
    )  # as docs/guides/training.md has it
    try:
        stderr = process.communicate(timeout=240)[1]
    finally:
        process.terminate()  # then torchrun ends its processes, which are in groups of their own
        process.wait(30)
    assert process.returncode == 0, stderr
    one, two = (read_source(tmp_path / name / "best.safetensors").weights for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=1e-6)
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("one", "two")]
    assert results[0]["scores"]["names"] == results[1]["scores"]["names"]
    assert results[1]["counts"]["scored"] == results[0]["counts"]["scored"] > 0
    torch.testing.assert_close(*(torch.tensor(r["scores"]["values"]["label"]) for r in results), rtol=0, atol=1e-5)
    assert [e["step"] for e in log_without_times(tmp_path / "two") if e["kind"] == "step"] == [1, 2]
    assert stderr.count("epoch 1/1") == 1
    assert [entry["processes"] for name in ("one", "two") for entry in starts(tmp_path / name)] == [1, 2]


def test_torchrun_leaves_our_flags_alone() -> None:
    """It takes an abbreviation of several of its own flags for a mistake, also behind the name of the script."""
    torchrun = get_args_parser()
    verbs = next(a for a in make_parser()._actions if isinstance(a, argparse._SubParsersAction)).choices
    for verb in ("train", "evaluate", "sweep"):
        for names in {tuple(action.option_strings) for action in verbs[verb].flags.values()}:
            clear = [n for n in names if sum(flag.startswith(n) for flag in torchrun._option_string_actions) < 2]
            assert clear, f"torchrun swallows {names}"
            words = ["--nproc-per-node", "2", "-m", "gesta", verb, clear[0], "x"]
            assert torchrun.parse_args(words).training_script_args == [verb, clear[0], "x"]
