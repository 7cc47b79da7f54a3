"""Parts on a Ray cluster of this machine: what comes of them is what one run writes, though a worker is killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import write_video
from gesta.checkpoint import save_model
from gesta.cli import main, on_ray
from gesta.cli.on_ray import MOST_STARTS, compute_part
from gesta.model import ClipSpec
from gesta.models.timesformer import TimeSformerConfig
from gesta.prediction.part import PREDICTIONS

pytestmark = pytest.mark.usefixtures("unchanged_place")

RAY = ["--ray", "local", "--parts", "2"]


@pytest.fixture
def unchanged_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder and the environment, which a task of Ray changes, are afterwards what they were."""
    monkeypatch.chdir(".")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--parts", "2"], "add --ray ADDRESS"),
        (["--ray", "local"], "say in how many, such as --parts 64"),
        ([*RAY, "--part", "1/2"], "give one of the two"),
        (RAY, "--ray needs a file or folder"),
        ([*RAY, "--out", "x", "--timeline", "--review"], "--review is about all videos"),
        ([*RAY, "--out", "x", "--format", "srt"], "--format srt is not made of parts"),
        ([*RAY, "--out", "x", "--json", "--format", "csv"], "--format csv is given, too"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    flags: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["predict", "model.safetensors", "video.mp4", *flags])
    assert ended.value.code == 1
    assert sentence in capsys.readouterr().err


def test_a_part_that_kills_its_process_is_given_up(tmp_path: Path) -> None:
    job = {"words": ["predict", "gone", "gone", "--clips", "1"], "parts": 2, "folder": str(tmp_path), "cpus": 1}
    for _ in range(MOST_STARTS):
        assert "gone" in compute_part({"id": 1}, place=str(tmp_path), **job)["failed"]
    given_up = compute_part({"id": 1}, place=str(tmp_path), **job)
    assert given_up == {"part": 2, "failed": "its process ended 10 times; run it alone to see why, with --part 2/2"}
    assert "all machines must see" in compute_part({"id": 0}, place=str(tmp_path / "elsewhere"), **job)["failed"]
    unseen = compute_part({"id": 0}, place=str(tmp_path), **job | {"folder": str(tmp_path / "parts")})["failed"]
    assert unseen.startswith(f"{tmp_path}/parts: No such file") and "all machines must see the same" in unseen


def test_parts_lie_beside_a_folder_that_ends_with_a_slash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Ray: each part is computed here."""
    for name in ("0", "1"):
        write_video(tmp_path / f"v/{name}.mp4", frames=4, size=(48, 32), shade=90)
    words = ["data", "prepare", f"{tmp_path}/v", f"{tmp_path}/small/", "--workers", "0", *RAY]

    def computed(_: object, job: dict[str, Any], needs_gpu: bool) -> Iterator[dict[str, Any]]:
        assert not needs_gpu
        return (compute_part({"id": part}, cpus=1, **job) for part in range(2))

    monkeypatch.setattr(on_ray, "require_ray", lambda: None)
    monkeypatch.setattr(on_ray, "_cluster", contextlib.nullcontext)
    monkeypatch.setattr(on_ray, "_computed", computed)
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small", "small.parts", "v"]
    assert sorted(os.listdir(tmp_path / "small")) == ["0.mp4", "1.mp4", "prepare.json", "sources.jsonl"]


def test_more_parts_than_listed_videos_are_refused_before_the_first_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "list.txt").write_text("video.mp4\n")
    monkeypatch.setattr(on_ray, "require_ray", lambda: None)
    words = ["features", "model.safetensors", "--from", f"{tmp_path}/list.txt", "--out", f"{tmp_path}/out", *RAY]
    with pytest.raises(SystemExit):
        main(words)
    assert "lists 1 videos; make fewer parts" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["list.txt"]


@pytest.mark.full
@pytest.mark.timeout(600)
def test_a_killed_worker_loses_nothing(tmp_path: Path) -> None:
    pytest.importorskip("ray.data", reason="needs the extra ray (scripts/test --full installs it)")
    clip = ClipSpec(frames=8, stride=2, size=64)
    model = TimeSformerConfig(classes=2, width=64, depth=2, heads=2, mlp_ratio=1, patch=8, clip=clip).build()
    save_model(tmp_path / "model.safetensors", model, ["a", "b"])
    write_video(tmp_path / "0.mp4", frames=24, size=(64, 64), shade=90)
    (tmp_path / "broken.mp4").write_bytes(bytes(range(256)) * 20)
    names = ["0", *(str(number) for number in range(1, 400)), "broken"]
    for name in names[1:-1]:
        os.link(tmp_path / "0.mp4", tmp_path / f"{name}.mp4")
    (tmp_path / "list.txt").write_text("".join(f"{name}.mp4\n" for name in names))
    gesta = [sys.executable, "-m", "gesta", "predict", "model.safetensors", "--from", "list.txt", "--device", "cpu"]
    one = subprocess.run([*gesta, "--format", "csv", "--out", "one.csv"], cwd=tmp_path, capture_output=True)
    assert one.returncode == 1  # the broken one
    command = [*gesta, *RAY, "--format", "csv", "--out", "ray.csv"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        first = tmp_path / "ray.csv.parts/1" / PREDICTIONS
        while not (first.is_file() and first.read_bytes().count(b"\n") > 3):
            assert running.poll() is None, running.communicate()
            time.sleep(0.02)
        os.kill(_writer_of(first), signal.SIGKILL)
        done = first.read_bytes().count(b"\n")
        out, error = running.communicate()
    assert running.returncode == 1, error
    assert 3 < done < 200  # it was killed in the middle of its part
    assert "400 of 401 videos answered, 0 of them incomplete, 1 failed; from 2 parts" in out
    assert (tmp_path / "ray.csv").read_bytes() == (tmp_path / "one.csv").read_bytes()


def _writer_of(file: Path) -> int:
    """The process that has a file open."""
    for folder in Path("/proc").glob("[0-9]*/fd"):
        with contextlib.suppress(OSError):  # of another user, or gone
            if any(os.readlink(link) == str(file.resolve()) for link in folder.iterdir()):
                return int(folder.parent.name)
    raise AssertionError(f"no process writes {file}")
