"""Each thing that spoils a training is found, named with its file, and decides the exit status only if it must."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gesta.curation import check as check_module
from gesta.curation.check import MAX_PRINTED, CheckReport, DataFinding, check
from gesta.curation.describe import describe
from gesta.data.lists import Folder, Lists
from gesta.model import ClipSpec
from gesta.records import Record


def texts(report: CheckReport, kind: str) -> list[str]:
    return [finding.text for finding in report.findings if finding.kind == kind]


def kinds(report: CheckReport) -> dict[str, str]:
    return {finding.kind: finding.severity for finding in report.findings}


@pytest.fixture
def folder(make_video: Callable[..., Path], tmp_path: Path) -> Path:
    """Two sound classes, four videos each."""
    for i in range(8):
        make_video(f"root/{'ab'[i % 2]}/{i}.mp4", shade=9 * i, frames=20)
    return tmp_path / "root"


def test_a_sound_folder(folder: Path) -> None:
    report = check(Folder(root=str(folder), val=0.25), ClipSpec(frames=4, stride=2), workers=2)
    assert report.ok and report.findings == []
    assert report.videos == 8 and report.frames == 160 and report.splits == {"train": 6, "val": 2, "test": 0}
    assert "8 videos with 160 frames" in str(report) and "no problem found" in str(report)


def test_what_is_wrong_with_files(folder: Path, make_video: Callable[..., Path]) -> None:
    (folder / "a" / "broken.mp4").write_bytes(b"no video")
    (folder / "a" / "empty.mp4").touch()
    make_video("root/b/single.mp4", frames=1)
    make_video("root/b/short.mp4", frames=5)
    (folder / "b" / "notes.txt").touch()
    (folder / "stray.mp4").touch()
    (folder / "b" / "folder.mp4").mkdir()
    report = check(Folder(root=str(folder), val=0.0), ClipSpec(frames=4, stride=2), workers=0, progress=False)
    assert not report.ok
    undecodable = texts(report, "cannot be decoded")
    assert [Path(text.split(":")[0]).name for text in undecodable] == ["broken.mp4", "empty.mp4"]
    assert "is an empty file" in undecodable[1] and all("take it off the list" in text for text in undecodable)
    assert "single.mp4" in texts(report, "one frame")[0]
    assert "short.mp4: has 5 frames, a clip spans 8" in texts(report, "shorter than a clip")[0]
    assert "folder.mp4: is a folder that holds no video" in texts(report, "not a video")[0]
    assert "notes.txt: 1 such file" in texts(report, "not a video")[1]
    assert "stray.mp4: 1 videos in this folder belong to no class" in texts(report, "outside the classes")[0]
    severities = [finding.severity for finding in report.findings]
    assert severities == sorted(severities, key=["error", "warning", "info"].index)
    without = check(Folder(root=str(folder), val=0.0), None, workers=0, progress=False)
    assert "shorter than a clip" not in kinds(without)
    shrinks = ClipSpec(frames=6, stride=2, shrink=True)  # only a video with fewer frames than it is too short
    fits = check(Folder(root=str(folder), val=0.0), shrinks, workers=0, progress=False)
    assert "short.mp4: has 5 frames, a clip spans 6" in texts(fits, "shorter than a clip")[0]


def test_missing_files_and_stretches_beyond_the_end(folder: Path) -> None:
    path = str(folder / "a" / "0.mp4")
    records = [
        Record(path=str(folder / "gone.mp4"), name="gone.mp4", label=0),
        Record(path=path, name="x", label=0, start=0, end=20),
        Record(path=path, name="x", label=0, start=10, end=30),
        Record(path=path, name="x", label=0, start=20, end=30),
    ]
    report = check(records, workers=0, progress=False)
    assert len(texts(report, "missing")) == 1 and "gone.mp4: does not exist" in texts(report, "missing")[0]
    beyond = [(finding.severity, finding.text) for finding in report.findings if finding.kind == "beyond the end"]
    assert [severity for severity, _ in beyond] == ["error", "warning"] and "frame 29, but it has 20" in beyond[0][1]


def test_one_name_in_the_folders_of_two_splits(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "splits"
    for source, copy in {
        "a/0": "train/a/x.mp4",
        "a/2": "val/a/x.m4v",
        "b/1": "train/b/x.mp4",
        "b/3": "val/b/x.m4v",
    }.items():
        (root / copy).parent.mkdir(parents=True)
        shutil.copy(folder / f"{source}.mp4", root / copy)
    report = check(Folder(root=str(root)), workers=0, progress=False)
    (text,) = texts(report, "one name in two splits")
    assert "train/a/x.mp4 and" in text and "val/a/x.m4v: 2 such pairs" in text


def test_the_same_video_twice(folder: Path) -> None:
    original = folder / "a" / "0.mp4"
    copies = [folder / "b" / "copy.mp4", folder / "a" / "again.mp4", folder / "a" / "held.mp4"]
    for copy in copies:
        shutil.copy(original, copy)

    def record(path: Path, label: int, **part: int) -> Record:
        return Record(path=str(path), name=path.name, label=label, **part)

    splits = {
        "train": [record(original, 0), record(copies[0], 1), record(copies[1], 0), record(folder / "b" / "1.mp4", 1)],
        "test": [record(copies[2], 0)],
    }
    report = check(splits, workers=0, progress=False)
    assert [len(texts(report, kind)) for kind in ("two labels", "repeated", "in two splits")] == [1, 1, 1]
    assert {kind: severity for kind, severity in kinds(report).items()} == {
        "two labels": "error",
        "in two splits": "error",
        "repeated": "warning",
    }
    assert "copy.mp4" in texts(report, "two labels")[0] and "held.mp4 (test)" in texts(report, "in two splits")[0]
    parts = [record(original, 0, start=0, end=10), record(original, 0, start=10, end=20)]
    assert check(parts, workers=0, progress=False).ok  # two stretches of one video are two videos


def test_labels(folder: Path, tmp_path: Path) -> None:
    paths = sorted(str(path) for path in folder.glob("*/*.mp4"))

    def labelled(*labels: int | None) -> CheckReport:
        records = [Record(path=path, name=path, label=label) for path, label in zip(paths, labels)]
        return check(records, workers=0, progress=False)

    assert kinds(labelled(1, 2, 3, 1)) == {"counts from 1?": "warning", "one training video": "warning"}
    assert kinds(labelled(0, 3, 0, 3)) == {"class without videos": "warning"}
    assert len(texts(labelled(0, 3, 0, 3), "class without videos")) == 2
    assert kinds(labelled(1, 1)) == {"a single class": "warning", "class without videos": "warning"}
    assert texts(labelled(0, 0), "a single class")[0].startswith("all videos have one class, so a model gives it to")
    assert kinds(labelled(0, None, 1)) == {"no label": "error", "one training video": "warning"}
    (single,) = texts(labelled(0, 1, 0), "one training video")
    assert single == "class 1 (1) has one training video, which shows one way to do it; add some"
    many = [Record(path=paths[i % 8], name="x", label=0, start=i, end=i + 1) for i in range(20)]
    rare = check([*many, Record(path=paths[0], name="y", label=1)], workers=0, progress=False)
    assert "class 1 (1) has 1 training videos, another 20" in texts(rare, "rare class")[0]
    empty = check({"train": [], "val": []}, workers=0, progress=False)
    assert kinds(empty) == {"no training videos": "warning"}
    (tmp_path / "list.txt").write_text("".join(f"{path} {i}\n" for i, path in enumerate(paths[:2])))
    (tmp_path / "names.txt").write_text("turn left\nwave\nclap\n")
    data = Lists(train=str(tmp_path / "list.txt"), class_names=str(tmp_path / "names.txt"))
    report = check(data, workers=0, progress=False)
    assert "class 2 (clap) has no training video" in texts(report, "class without videos")[0]
    assert "'turn left' names a side" in texts(report, "left and right")[0]
    assert "left and right" not in kinds(check(data, flip=False, workers=0, progress=False))
    assert report.ok


def test_class_names_that_are_written_alike_and_absent_validation_videos(tmp_path: Path) -> None:
    """Checked by name, before any video is there; names that differ in more are left alone."""
    names = ["Left", "left", "turn left", "Turn_Left", "turn-left", "turnleft", "fast+", "fast", "wäsche"]
    (tmp_path / "list.csv").write_text("path,label\n" + "".join(f"{i}.mp4,{name}\n" for i, name in enumerate(names)))
    report = check(Lists(train=str(tmp_path / "list.csv")), flip=False, workers=0, progress=False)
    alike = texts(report, "one class twice?")
    assert len(alike) == 3 and all(sum(f"'{name}'" in text for name in names) == 2 for text in alike)
    assert alike[0].startswith("classes 'Left' and 'left' differ only in capitals, blanks")
    (text,) = texts(report, "no validation videos")
    assert "hold some out (of folders data.val 0.2, of lists data.val_fraction 0.2)" in text
    data = Lists(train=str(tmp_path / "list.csv"), val=str(tmp_path / "list.csv"))
    assert not texts(check(data, flip=False, workers=0, progress=False), "no validation videos")


def test_the_report_is_short_and_complete() -> None:
    findings = [DataFinding("error", "cannot be decoded", f"{i}.mp4: x") for i in range(MAX_PRINTED + 5)]
    report = CheckReport(findings=findings, splits={"train": 3}, videos=3, frames=9)
    printed = str(report)
    assert printed.count(".mp4") == MAX_PRINTED and "and 5 more" in printed and "15 errors" in printed
    value = json.loads(json.dumps(report.to_json()))
    assert value["ok"] is False and len(value["findings"]) == MAX_PRINTED + 5 and value["videos"] == 3


def _dies(file: check_module._File) -> check_module._Decoded:
    if file.path.endswith("deadly.mp4"):
        os._exit(11)
    while file.path.endswith("endless.mp4"):
        time.sleep(1)
    return check_module._decode(file)


def test_a_file_that_kills_or_stops_the_decoder_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("deadly.mp4", "endless.mp4"):
        shutil.copy(folder / "a" / "0.mp4", folder / "a" / name)
    paths = sorted(str(path) for path in folder.glob("*/*.mp4"))
    with monkeypatch.context() as patch:
        patch.setattr(check_module, "_decode", _dies)
        patch.setattr(check_module, "KILL_AFTER_S", 1.0)
        found = dict(check_module._decode_all(dict.fromkeys(paths), 2, 2.0))
    assert sorted(found) == paths
    bad = {Path(path).name: problem for path, (info, problem, _) in found.items() if info is None}
    assert sorted(bad) == ["deadly.mp4", "endless.mp4"]
    assert "kills its process" in bad["deadly.mp4"] and "takes more than 3 seconds" in bad["endless.mp4"]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_has_its_time(folder: Path, workers: int) -> None:
    record = Record(path=str(folder / "a" / "0.mp4"), name="0.mp4", label=0)
    report = check([record], workers=workers, progress=False, seconds=-1.0)
    assert "0.mp4: was not read within" in texts(report, "cannot be decoded")[0]


def test_what_cannot_be_opened_without_waiting_for_ever(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder / "a")  # the name of a socket must be short
    os.mkfifo("pipe.mp4")
    os.symlink("/dev/zero", "zeros.mp4")
    os.symlink("itself.mp4", "itself.mp4")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket.mp4")
    report = check(Folder(root=str(folder), val=0.0), workers=0, progress=False)
    undecodable = texts(report, "cannot be decoded")
    assert [Path(text.split(":")[0]).name for text in undecodable] == ["pipe.mp4", "socket.mp4", "zeros.mp4"]
    assert all("neither a file nor a folder" in text for text in undecodable)
    assert "itself.mp4: does not exist" in texts(report, "missing")[0]


def test_describe(folder: Path) -> None:
    description = describe(Folder(root=str(folder), val=0.25))
    assert description.counts == {"train": [3, 3], "val": [1, 1], "test": [0, 0]}
    printed = str(description)
    assert "train" in printed and "test" not in printed.splitlines()[0] and printed.count(".mp4") == 3 + 2
    assert json.loads(json.dumps(description.to_json()))["classes"] == ["a", "b"]
