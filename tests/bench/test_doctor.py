"""The doctor reports what is installed and, above all, what is missing."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import av
import pytest
import torch

from gesta.bench import doctor
from gesta.bench.doctor import Diagnosis, Finding, diagnose
from gesta.processes import memory


def of(diagnosis: Diagnosis, name: str) -> Finding:
    (finding,) = [f for f in diagnosis.findings if f.name == name]
    return finding


def adder(findings: list[Finding]) -> Callable[..., None]:
    def add(name: str, value: str, state: doctor.State = "ok", remedy: str = "") -> None:
        findings.append(Finding(group="x", name=name, value=value, state=state, remedy=remedy))

    return add


def test_a_working_machine() -> None:
    found = diagnose()
    assert found.ok, str(found)
    assert of(found, "torch").value == torch.__version__
    assert of(found, "gesta").value == importlib.metadata.version("gesta")
    assert "libavcodec " + ".".join(map(str, av.library_versions["libavcodec"])) in of(found, "FFmpeg in PyAV").value
    assert of(found, "H.264 encoder").value == "libx264"
    assert {"h264", "hevc", "vp9", "mpeg4"} <= set(of(found, "decoders").value.split(", "))
    assert [f.state for f in found.findings if f.group == "self test"] == ["ok"] * (
        1 + 1 + torch.accelerator.is_available()
    )
    assert of(found, "working folder").value == "can be written"
    assert all(f.remedy for f in found.findings if f.state != "ok")
    assert json.loads(json.dumps(found.to_json()))["ok"] is True
    text = str(found)
    assert all(f.name in text and f.value in text for f in found.findings) and "all well" in text


def test_packages_whose_modules_have_another_name_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"opencv-python-headless": "5.0", "scikit-learn": "1.9", "ray": "2.60", "fastapi": "0.165"}

    def version(name: str) -> str:
        if name not in there:
            raise importlib.metadata.PackageNotFoundError(name)
        return there[name]

    monkeypatch.setattr(doctor.importlib.metadata, "version", version)
    monkeypatch.setattr(doctor, "_import_error", lambda module: "")
    findings: list[Finding] = []
    doctor._optional(adder(findings))
    assert {f.name: f.value for f in findings if f.state == "ok"} == {n: f"{v} loads" for n, v in there.items()}
    assert {f.remedy for f in findings if f.name == "wandb"} == {'pip install "gesta[wandb]"'}
    assert {f.remedy for f in findings if f.name == "uvicorn"} == {'pip install "gesta[serve]"'}


def test_every_package_of_every_extra_is_looked_at() -> None:
    """One of them may have been removed, or installed by itself."""
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    for extra, wanted in tomllib.loads(text)["project"]["optional-dependencies"].items():
        if extra not in ("dev", "docs"):
            names = {re.match(r"[\w-]+", requirement).group() for requirement in wanted}  # type: ignore[union-attr]
            checked = {doctor.DISTRIBUTIONS.get(module, module) for module in doctor.EXTRAS[extra][0]}
            assert {name.replace("_", "-") for name in checked} == names


def test_what_is_missing_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    version = importlib.metadata.version

    def without(name: str) -> str:
        if name == "timm":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(doctor.importlib.metadata, "version", without)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    loaded = doctor.importlib.import_module

    def broken(name: str, package: str | None = None) -> object:
        if name == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist\nlong traceback")
        if name == "torchcodec":
            raise RuntimeError("Could not load libtorchcodec. Likely causes:\n1. no FFmpeg")
        return loaded(name, package)

    monkeypatch.setattr(doctor.importlib, "import_module", broken)
    monkeypatch.delitem(sys.modules, "torchcodec", raising=False)
    found = diagnose()
    assert not found.ok and "wrong: torchvision, timm" in str(found)
    assert of(found, "timm").value == "missing" and "pip install" in of(found, "timm").remedy
    assert of(found, "torchvision").state == "wrong" and "same index" in of(found, "torchvision").remedy
    assert "nms" in of(found, "torchvision").value and "traceback" not in of(found, "torchvision").value
    codec = of(found, "torchcodec")
    assert codec.state == "note" and codec.remedy
    if doctor.importlib.util.find_spec("torchcodec"):
        assert "libtorchcodec" in codec.value and "FFmpeg" in codec.remedy


def test_a_part_that_breaks_does_not_end_the_examination(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(av, "library_versions", None)
    found = diagnose()
    assert not found.ok
    broken = [f for f in found.findings if f.group == "video"]
    assert [f.state for f in broken] == ["wrong"] and "Error" in broken[0].value
    assert any(f.group == "self test" for f in found.findings)


def test_a_video_that_does_not_come_back_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    class Reader:
        @staticmethod
        def decode(video: int) -> list[object]:
            return []

    opened = av.open

    def open_nothing(file: object, mode: str = "r", **options: object) -> object:
        if mode == "w":
            return opened(file, mode, **options)  # type: ignore[call-overload]
        return contextlib.nullcontext(Reader())

    monkeypatch.setattr(av, "open", open_nothing)
    findings: list[Finding] = []
    doctor._self_test(adder(findings))
    assert findings[0].state == "wrong" and "8 grey frames" in findings[0].value
    assert findings[1].state == "ok"


def test_a_folder_that_cannot_be_written_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    findings: list[Finding] = []
    doctor._machine(adder(findings))
    (folder,) = [f for f in findings if f.name == "working folder"]
    assert folder.state == "note" and "Permission denied" in folder.value and folder.remedy


def test_memory_is_the_containers_if_it_is_smaller() -> None:
    known = memory()
    if Path("/proc/meminfo").exists():
        assert known is not None and 0 < known[1] <= known[0]
