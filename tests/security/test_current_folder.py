"""Code in the current folder, which may be a data set of others, never runs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

MODULES = (
    *("av", "numpy", "PIL", "torch", "torchvision", "timm", "scipy", "safetensors", "lightning", "matplotlib", "rich"),
    *("tyro", "lazy_loader", "gesta", "multiprocessing", "signal", "json", "pickle", "readline", "sitecustomize"),
)


def set_trap(folder: Path) -> Path:
    """Modules in a folder that write a file when they are imported; the file."""
    mark = folder.parent / "mark"
    for name in MODULES:
        (folder / f"{name}.py").write_text(f"open({str(mark)!r}, 'a').write({name!r} + '\\n')\n")
    return mark


def run_as_command(folder: Path, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script that lies elsewhere, as the installed command does, in a folder; it guards nothing as main."""
    script = folder.parent / "gesta"
    script.write_text(f"{code}\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    return subprocess.run(
        [sys.executable, str(script), *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )


def test_worker_processes_search_no_module_in_the_current_folder(tmp_path: Path) -> None:
    """This starts the server and the resource tracker of multiprocessing; training, prediction and making use them."""
    (folder := tmp_path / "given").mkdir()
    mark = set_trap(folder)
    code = "from gesta.data.workers import run_each; print(list(run_each(len, ['a', 'bc'], 1)))"
    done = run_as_command(folder, code)
    assert not mark.exists(), mark.read_text()
    assert done.stdout == "[(0, 1, ''), (1, 2, '')]\n", done.stderr


def test_every_start_of_worker_processes_is_inside_starting_workers() -> None:
    """The three places, so that a fourth is not forgotten, and where it is said how."""
    source = Path(__file__).parents[2] / "src" / "gesta"
    files = {file.name: file.read_text() for file in source.rglob("*.py")}
    starting = ("get_context(", "ProcessPoolExecutor(", "subprocess", "Popen(", "os.system(")
    assert {name for name, text in files.items() if " worker_context(" in text} == {
        *("processes.py", "workers.py", "loader.py")
    }
    assert {name for name, text in files.items() if any(word in text for word in starting)} == {
        *("processes.py", "files.py", "demo_steps.py", "web.py")
    }
    assert "shutil.which(" in files["web.py"] and "cwd=folder" in files["web.py"]  # npm, in a folder of its own
    assert '"PYTHONSAFEPATH": "1"' in files["demo_steps.py"]  # a verb of ours in a process of its own
    assert all("with starting_workers():" in files[name] for name in ("workers.py", "loader.py", "files.py"))


@pytest.mark.timeout(1200)
@pytest.mark.full  # the fast test above starts the same processes
def test_no_verb_runs_code_of_the_current_folder(tmp_path: Path, make_video: Callable[..., Path]) -> None:
    folder = tmp_path / "given"
    for i in range(8):
        make_video(f"given/{('wave', 'jump')[i % 2]}/{i}.mp4", frames=16, shade=i)
    mark = set_trap(folder)
    run, fields = str(tmp_path / "run"), ["--train.epochs", "1", "--train.batch-size", "2", "--train.workers", "1"]
    train = ["train", "finetune", "--model", "r3d_tiny", "--data.root", ".", "--run", run, *fields]
    for arguments in (
        ["data", "check", "."],
        ["data", "make", "marionette", str(tmp_path / "made"), "--clips", "12", "--workers", "2"],
        [*train, "--evaluate.workers", "1", "--evaluate.clips", "1"],
        ["analyse", "report", run],
        ["predict", run, "wave/0.mp4"],
        ["bench", "data", "."],
        ["doctor"],
    ):
        done = run_as_command(folder, "from gesta.cli import main; main()", *arguments)
        assert not mark.exists(), (arguments, mark.read_text())
        assert done.returncode == 0, (arguments, done.stderr)
