"""Faults of the machine against every verb that they can meet: nothing is lost, nothing is left half-written, and one
sentence says what has happened (the table is in docs/faults.md)."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import write_video
from gesta.analysis.figures import write_figure
from gesta.checkpoint import load_state
from gesta.cli import _terminable, main
from gesta.curation.prepare import prepare
from gesta.data.batch import Failure
from gesta.data.lists import write_lists
from gesta.data.loader import Loader, _is_memory_short, collate_arrays, from_arrays
from gesta.data.samples import TrainingClips, collate
from gesta.data.shards import write_shard
from gesta.errors import GestaError
from gesta.files import lock_folder, machine_fault
from gesta.marionette.dataset import make_set
from gesta.model import ClipSpec
from gesta.prediction.prediction import Prediction
from gesta.prediction.writers import Format, write_to
from gesta.processes import worker_context
from gesta.recipe import TrainConfig
from gesta.records import Record
from gesta.training.folder import TrainingProgress
from gesta.training.log import RunLog
from gesta.training.sweep import sweep
from test_files import largest_file

STEP = {"epoch": 1, "step": 1, "loss": 1.0, "losses": {}, "lr": 0.1, "grad_norm": 1.0}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("faults") / "videos"
    for label, name in enumerate(("dark", "light")):
        for i in range(6):
            write_video(root / name / f"{i}.mp4", frames=6, size=(48, 32), shade=90 * label + i)
    return root


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# --- full disks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["table", "text", "csv", "json", "srt"])
@pytest.mark.parametrize("live", [False, True])
def test_predictions(tmp_path: Path, format: Format, live: bool) -> None:
    out = tmp_path / "out"
    timed = (Prediction(path="a.mp4", start=i, end=i + 1.0, labels=(("wave", 0.9),)) for i in range(1000))
    with (
        largest_file(5000),
        pytest.raises(GestaError, match=r"out: cannot be written \(File too large\); raise"),
    ):
        write_to(str(out), timed, format, live)
    assert os.listdir(tmp_path) == (["out"] if live else []), "of a camera what came before is kept"


def test_the_log_ends_with_a_whole_line(tmp_path: Path) -> None:
    log = RunLog(tmp_path, quiet=True)
    with closing(log), largest_file(2000), pytest.raises(GestaError, match=r"cannot be written \(File too large\)"):
        for _ in range(1000):
            log.step(STEP, TrainingProgress())
    lines = (tmp_path / "log.jsonl").read_bytes()
    assert lines.endswith(b"}\n") and all(json.loads(line)["step"] == 1 for line in lines.splitlines())


def test_shards_figures_and_lists(tmp_path: Path, videos: Path) -> None:
    from matplotlib.figure import Figure

    out = tmp_path / "out"
    out.mkdir()
    for name in ("dark", "light"):
        (out / name).mkdir()
        (out / name / "0.mp4").symlink_to(videos / name / "0.mp4")
        (out / name / "1.mp4").symlink_to(videos / name / "1.mp4")
    before = files_below(out)
    work: list[Callable[[], object]] = [
        lambda: write_shard(str(out / "a.tar"), [("0", str(videos / "dark" / "0.mp4"), {"name": "0"})]),
        lambda: write_figure(Figure(), out / "a.png"),
        lambda: write_lists(str(out)),
    ]
    for write in work:
        with largest_file(10), pytest.raises(GestaError, match=r"out/[a-z.]+: cannot be written \(File too large\)"):
            write()
    assert files_below(out) == before


@pytest.mark.parametrize("shards", [0, 3])
def test_preparing_stops_at_the_first_file_that_does_not_fit(tmp_path: Path, videos: Path, shards: int) -> None:
    out = tmp_path / "out"
    with largest_file(1000), pytest.raises(GestaError, match=r"\.mp4: cannot be written \(File too large\)"):
        prepare(videos, out, shards=shards, workers=0)
    assert files_below(out) == ["prepare.json"]
    assert prepare(videos, out, shards=shards, workers=0).made == 12


def test_standard_output(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "gesta", "models"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and done.stderr == (
        "gesta: No space left on device; free some space or choose another disk\n"
    )


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(errno.EMFILE, "", "a.mp4"), "a.mp4: Too many open files; raise the limit of open files (ulimit -n)"),
        (RuntimeError("received 0 items of ancdata"), "Too many open files; raise the limit"),
        (RuntimeError("unable to allocate shared memory(shm) for file <x>"), "shared memory is short"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "Cannot allocate memory; free some"),
        (MemoryError(), "Cannot allocate memory; free some memory"),
        (OSError(errno.EROFS, "", "run"), "run: Read-only file system; choose a place that can be written"),
        (RuntimeError("shapes do not match"), ""),
        (ValueError("no"), ""),
        (FileNotFoundError(errno.ENOENT, "", "x"), ""),
    ],
)
def test_errors_of_the_machine_are_known(error: Exception, sentence: str) -> None:
    assert machine_fault(error).startswith(sentence) and bool(machine_fault(error)) == bool(sentence)


# --- two writers -----------------------------------------------------------------------------------------------------


def test_every_verb_that_fills_a_folder_refuses_one_in_use(tmp_path: Path, videos: Path) -> None:
    """Two processes that train are in tests/training/test_resume.py."""
    from gesta.recipes.own_videos import finetune

    recipe = finetune(model="r3d_tiny")
    recipe.data = recipe.data.__class__(root=str(videos))
    work: list[Callable[[], object]] = [
        lambda: prepare(videos, tmp_path, workers=0),
        lambda: make_set(tmp_path, clips=2, workers=1),
        lambda: sweep(recipe, "train.lr", [0.1], out=tmp_path, quiet=True),
    ]
    for write in work:
        with lock_folder(tmp_path), pytest.raises(GestaError, match=r"process \d+ on .* is writing to it; wait for it"):
            write()
        assert not os.listdir(tmp_path)


# --- processes and signals -------------------------------------------------------------------------------------------


def loader_of(videos: Path, count: int, workers: int, init: Callable[[int], None] | None = None) -> Loader:
    records = [Record(path=str(path), name=path.name, label=0) for path in sorted(videos.rglob("*.mp4"))]
    clip = ClipSpec(frames=2, stride=2, size=16)
    dataset = TrainingClips(records, clip, TrainConfig(), ["a", "b"])
    return Loader(dataset, [[(0, i % len(records))] for i in range(count)], workers, init)


def _die(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_idle_workers_that_are_killed_are_replaced(videos: Path) -> None:
    expected = [batch["video"] for batch in loader_of(videos, 8, 0)]
    came = []
    for batch in loader_of(videos, 8, 1):
        came.append(batch["video"])
        if len(came) == 2:
            time.sleep(0.3)  # it has read ahead and waits
            for child in multiprocessing.active_children():
                os.kill(child.pid or 0, signal.SIGKILL)
    assert len(came) == 8 and all(torch.equal(a, b) for a, b in zip(expected, came))


@pytest.mark.parametrize("error", [RuntimeError("unable to allocate shared memory(shm)"), OSError(errno.ENOSYS, "")])
def test_where_shared_memory_is_short_videos_are_loaded_without(
    videos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    """First through pipes, then without worker processes; the batches are the same."""
    expected = [batch["video"] for batch in loader_of(videos, 3, 0)]
    load = Loader._load

    def without_shared_memory(self: Loader, batches: Any, through_pipes: bool) -> Any:
        if self.workers:
            raise error
        return load(self, batches, through_pipes)

    for name, value in (("_load", without_shared_memory), ("_through_pipes", False), ("_alone", False)):
        monkeypatch.setattr(Loader, name, value)
    for _ in range(2):  # the second loader knows, and says nothing
        came = [batch["video"] for batch in loader_of(videos, 3, 2)]
        assert all(torch.equal(a, b) for a, b in zip(expected, came, strict=True))
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and "so loaded videos come through pipes" in said[0]
    assert "so videos are loaded without worker processes; make it larger" in said[1]


def test_a_batch_through_a_pipe_is_the_same(videos: Path) -> None:
    dataset = loader_of(videos, 1, 0).dataset
    samples = [dataset[0, 0], Failure(1, "b.mp4", "broken"), dataset[0, 2]]
    plain = collate(samples)
    for shared in (True, False):
        sent = pickle.loads(pickle.dumps(collate_arrays(samples, shared)))
        assert isinstance(sent["video"], torch.Tensor if shared else np.ndarray)
        assert isinstance(sent["label"]["label"], np.ndarray) and isinstance(sent["index"], np.ndarray)
        batch = from_arrays(sent)
        assert batch.keys() == plain.keys() and batch["failures"] == plain["failures"]
        for name in ("video", "index"):
            assert torch.equal(batch[name], plain[name]) and batch[name].dtype == plain[name].dtype  # type: ignore[literal-required]
        assert torch.equal(batch["label"]["label"], plain["label"]["label"])
    assert _is_memory_short(RuntimeError("DataLoader worker (pid 7) is killed"), object(), {0: -signal.SIGBUS})
    assert not _is_memory_short(RuntimeError("DataLoader worker (pid 7) is killed"), object(), {0: -signal.SIGKILL})
    assert not _is_memory_short(FileNotFoundError(errno.ENOENT, "of a worker that died"), object(), {})


def test_without_a_server_of_processes_they_are_started_afresh(monkeypatch: pytest.MonkeyPatch) -> None:
    assert worker_context("json").get_start_method() == "forkserver"
    monkeypatch.setattr("multiprocessing.get_all_start_methods", lambda: ["spawn"])
    assert worker_context("json").get_start_method() == "spawn"


@pytest.mark.full  # the same, part by part, above
@pytest.mark.parametrize("through_pipes", [False, True])
def test_worker_processes_that_are_started_afresh(
    videos: Path, monkeypatch: pytest.MonkeyPatch, through_pipes: bool
) -> None:
    monkeypatch.setattr("multiprocessing.get_all_start_methods", lambda: ["spawn"])
    expected = [batch["video"] for batch in loader_of(videos, 3, 0)]
    monkeypatch.setattr(Loader, "_through_pipes", through_pipes)
    assert all(torch.equal(a, b["video"]) for a, b in zip(expected, loader_of(videos, 3, 1), strict=True))


@pytest.mark.full  # a worker that dies once is replaced in the test above
def test_workers_that_always_die_are_one_sentence(videos: Path) -> None:
    with pytest.raises(GestaError, match=r"end or cannot be started \(killed by SIGKILL\); if memory is short"):
        next(iter(loader_of(videos, 8, 1, _die)))


def test_sigterm_ends_a_verb_in_order(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as end, _terminable():
        write_to(str(tmp_path / "out"), (signal.raise_signal(signal.SIGTERM) for _ in range(1)), "json")  # type: ignore[arg-type,misc]
    assert end.value.code == 143 and capfd.readouterr().err == "gesta: ended by SIGTERM\n"
    assert not os.listdir(tmp_path) and signal.getsignal(signal.SIGTERM) is before


def gesta(arguments: list[str], prefix: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """A process group of its own, as a terminal's job has."""
    command = [*prefix, sys.executable, "-m", "gesta", *arguments]
    options: dict[str, Any] = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL, "text": True}
    return subprocess.Popen(command, start_new_session=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, **options)


def training(videos: Path, run: Path, *more: str) -> list[str]:
    small = ["--model", "r3d_tiny", "--train.batch-size", "4", "--train.epochs", "60", "--data.val", "0.34"]
    return ["train", "finetune", *small, "--data.root", str(videos), "--run", str(run), *more]


def children(process: subprocess.Popen[str]) -> int:
    listed = subprocess.run(["ps", "-eo", "pgid"], capture_output=True, text=True, check=True).stdout.split()
    return listed.count(str(process.pid)) - 1


@pytest.mark.full  # what ends a training is tested part by part above and in tests/training
@pytest.mark.parametrize(
    ("number", "wait"), [(signal.SIGTERM, 0.0), (signal.SIGTERM, 0.5), (signal.SIGTERM, 2.0), (signal.SIGINT, 0.0)]
)
def test_a_signal_to_all_processes_while_workers_start(
    videos: Path, tmp_path: Path, number: signal.Signals, wait: float
) -> None:
    process = gesta(training(videos, tmp_path / "run", "--train.workers", "2"))
    deadline = time.monotonic() + 300
    while not children(process):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(wait)
    os.killpg(process.pid, number)
    stderr = process.communicate(timeout=300)[1]
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr and "Exception" not in stderr
    assert f"stopped; resume with: gesta train --resume --run {tmp_path / 'run'}" in stderr


@pytest.mark.full  # the handler's part is tested in tests/training/test_train.py
def test_two_interruptions(videos: Path, tmp_path: Path) -> None:
    process = gesta(training(videos, tmp_path / "run", "--train.workers", "2"))
    deadline = time.monotonic() + 300
    log = tmp_path / "run" / "log.jsonl"
    while not log.exists() or not log.stat().st_size:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    for _ in range(3):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.05)
    stderr = process.communicate(timeout=300)[1]
    assert process.returncode == 130 and "Traceback" not in stderr and "Exception" not in stderr, stderr
    assert stderr.count("stopped; resume with") == 1


# --- a machine of our own --------------------------------------------------------------------------------------------


def on_small_disk(arguments: list[str], mount: str, options: str) -> tuple[int, str]:
    """Run gesta where ``mount`` is a disk of its own; the status and what it said."""
    script = f'mount -t tmpfs -o "{options}" none "$0" && exec "$@"'
    process = gesta(arguments, ("unshare", "--mount", "bash", "-c", script, mount))
    stderr = process.communicate(timeout=300)[1]
    return process.returncode, stderr


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if (
        not shutil.which("unshare")
        or subprocess.run(["unshare", "--mount", "mount", "-t", "tmpfs", "x", folder]).returncode
    ):
        pytest.skip("a disk of its own cannot be mounted here")
    yield folder


@pytest.mark.full  # the same sentences come from files that may not grow, above
@pytest.mark.parametrize(
    ("verb", "options", "reason"),
    [
        ("train", "size=8m", "its disk has 8 MB free, and the checkpoints of this run need"),
        ("train", "ro", "Read-only file system"),
        ("prepare", "size=20k", "No space left on device"),
        ("prepare --shards 3", "size=40k", "No space left on device"),
        ("prepare", "ro", "Read-only file system"),
    ],
)
def test_full_and_read_only_disks(videos: Path, disk: Path, verb: str, options: str, reason: str) -> None:
    name, *more = verb.split()
    arguments = ["data", "prepare", str(videos), str(disk / "x"), *more]
    if name == "train":
        arguments = training(videos, disk / "run", "--train.workers", "0")
    status, stderr = on_small_disk(arguments, str(disk), options)
    assert status == 1 and reason in stderr and "Traceback" not in stderr, stderr


@pytest.mark.full  # the sentences themselves are tested above
def test_small_shared_memory_and_few_open_files(videos: Path, tmp_path: Path, disk: Path) -> None:
    arguments = training(videos, tmp_path / "run", "--train.workers", "2", "--train.epochs", "1")
    for size, instead in (("1m", "so loaded videos come through pipes"), ("4k", "without worker processes")):
        run = str(tmp_path / size)
        status, stderr = on_small_disk([*arguments, "--run", run], "/dev/shm", f"size={size}")
        assert status == 0 and instead in stderr and "Traceback" not in stderr, stderr
    process = gesta(arguments, ("bash", "-c", 'ulimit -n 24; exec "$@"', "x"))
    stderr = process.communicate(timeout=280)[1]
    assert process.returncode == 1 and "Too many open files; raise the limit" in stderr and "Traceback" not in stderr


@pytest.mark.full  # each part of it is tested above
def test_two_processes_resume_one_run(videos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = gesta(training(videos, run, "--train.workers", "0"))
    deadline = time.monotonic() + 300
    while not (run / "log.jsonl").exists() or not (run / "log.jsonl").stat().st_size:
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    with pytest.raises(SystemExit) as end:
        main(["train", "--resume", "--run", str(run)])
    assert end.value.code == 1
    first.send_signal(signal.SIGTERM)
    stderr = first.communicate(timeout=300)[1]
    assert first.returncode == 130, stderr
    steps = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    numbers = [step["step"] for step in steps if step["kind"] == "step"]
    assert numbers == list(range(1, load_state(run / "last.ckpt")["progress"]["step"] + 1))
