"""The server with its processes: broken files and slow ones, load, misuse and the stop."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gesta.models import model_config
from gesta.recipe import EvaluateConfig
from gesta.serve import pool
from gesta.serve.decoding import Job, Refused
from gesta.serve.limits import Limits, Refusal
from gesta.serve.pool import DecoderPool

pytestmark = pytest.mark.full  # processes that import torch; test_serve.py has the answers, the limits and the checks

ROOT = Path(__file__).parents[2]


def _misbehave(job: Job | None) -> Refused:
    """Work of a decoding process on files that say by their names what goes wrong."""
    assert job is not None
    if job.name == "kills":
        os._exit(11)
    if job.name == "kills once" and not os.path.exists(job.path):
        Path(job.path).touch()
        os._exit(11)
    if job.name == "hangs":
        time.sleep(60)
    if job.name == "raises":
        raise MemoryError
    return Refused(418, "")


def job_of(path: Path, name: str, **limits: float) -> Job:
    spec = model_config("r3d_tiny").clip
    return Job(str(path), name, spec, EvaluateConfig(clips=2), None, None, Limits(**limits))  # type: ignore[arg-type]


def test_a_file_that_ends_or_stops_its_process_is_refused_and_the_process_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restarts: list[None] = []
    monkeypatch.setattr(pool, "decode", _misbehave)
    decoders = DecoderPool(1, lambda: restarts.append(None))
    path = tmp_path / "file"
    for name, status in (("kills", 422), ("hangs", 504)):
        with pytest.raises(Refusal, match=f"^{name}: ") as refused:
            list(decoders.decode(job_of(path, name, decode_seconds=3)))
        assert refused.value.status == status
    with pytest.raises(MemoryError):
        list(decoders.decode(job_of(path, "raises")))
    with pytest.raises(Refusal) as refused:  # the second try gives the outcome
        list(decoders.decode(job_of(path, "kills once")))
    assert refused.value.status == 418 and path.exists() and len(restarts) == 4
    decoders.close()


def test_a_decoding_process_gets_no_more_memory_than_allowed(tmp_path: Path) -> None:
    from conftest import write_video  # here, since the processes above import this module

    video = write_video(tmp_path / "clip.mp4", frames=60, size=(1920, 1088))
    decoders = DecoderPool(1)
    (clips,) = decoders.decode(job_of(video, "clip"))
    assert clips.pixels.shape[0] == 2
    decoders.close()
    decoders = DecoderPool(1)
    with pytest.raises(Refusal) as refused:
        list(decoders.decode(job_of(video, "clip", decode_memory=1)))
    assert refused.value.status == 422
    decoders.close()


@pytest.mark.timeout(900)
def test_load_misuse_and_stop(tmp_path: Path) -> None:
    """What benchmarks/serve.py measures, with few requests: it names whatever is not as docs/serve.md says."""
    command = [sys.executable, "benchmarks/serve.py", "--smoke", "--json", str(tmp_path / "figures.json")]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["faults"] == [] and figures["stop"]["accepted"] >= figures["stop"]["answered"] > 0
    assert [left.name for left in tmp_path.iterdir()] == ["figures.json"]
