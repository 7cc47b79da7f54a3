"""Videos inside tar files are read in place, and give the same frames as the files they were made of."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import resource
import tarfile
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gesta.curation.check import check
from gesta.data.lists import Folder
from gesta.data.samples import TestViews, TrainingClips
from gesta.data.shards import Shards, members, write_shard
from gesta.datasets import data_config
from gesta.errors import GestaError, VideoError
from gesta.model import ClipSpec
from gesta.recipe import EvaluateConfig, TrainConfig
from gesta.records import Record
from gesta.video import archive
from gesta.video.archive import locate, read_bytes, read_index
from gesta.video.probe import probe
from gesta.video.read import read, stream


@pytest.fixture
def shard(make_video: Callable[..., Path], tmp_path: Path) -> Path:
    """``train/shard-000000.tar`` of four videos of two classes; the videos stay in ``v``."""
    videos = [make_video(f"v/{i}.mp4", shade=20 * i, frames=20 + i) for i in range(4)]
    path = tmp_path / "s" / "shard-000000.tar"
    path.parent.mkdir()
    notes = [{"name": f"{'ab'[i % 2]}/{i}.mp4", "label": i % 2} for i in range(4)]
    write_shard(str(path), [(f"{i:06d}", str(v), n) for i, (v, n) in enumerate(zip(videos, notes))])
    (path.parent / "classes.txt").write_text("a\nb\n")
    return path


def test_a_member_gives_the_frames_of_its_file(shard: Path, tmp_path: Path) -> None:
    for i in (2, 0, 3, 1):  # any order
        file, member = str(tmp_path / f"v/{i}.mp4"), f"{shard}#{i:06d}.mp4"
        frames = read(member, lambda n: torch.arange(n), short_side=32)
        assert len(frames) == 20 + i and torch.equal(frames, read(file, lambda n: torch.arange(n), short_side=32))
        assert probe(member, exact=True).to_json() | {"path": file} == probe(file, exact=True).to_json()
        assert [f.time for f in stream(member)] == [f.time for f in stream(file)]
        where = locate(member)
        assert where is not None and b"".join(read_bytes(where, 1000)) == Path(file).read_bytes()


def test_large_members_are_entered_at_key_frames(shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gesta.video.index.HELD_BYTES", 0)
    chosen = torch.tensor([1, 7, 19])
    assert torch.equal(read(f"{shard}#000002.mp4", lambda n: chosen), read(str(tmp_path / "v/2.mp4"), lambda n: chosen))


def test_shards_are_a_data_set(shard: Path) -> None:
    data = Shards(root=str(shard.parent), val=0.5)
    train, val = data.records("train"), data.records("val")
    assert data.classes() == ["a", "b"] and data.records("test") == []
    assert sorted(r.name for r in train + val) == ["a/0.mp4", "a/2.mp4", "b/1.mp4", "b/3.mp4"]
    assert sorted(r.label for r in train) == sorted(r.label for r in val) == [0, 1]  # type: ignore[type-var]
    assert all(r.name.startswith("ab"[r.label]) for r in train + val)  # type: ignore[index]
    assert isinstance(data_config("shards"), Shards)
    sample = TrainingClips(train, ClipSpec(frames=4, stride=2, size=32), TrainConfig(), data.classes())[0, 0]
    assert sample["video"].shape == (1, 4, 3, 32, 32) and not sample["failures"]
    assert check(data, workers=0).ok


def test_labels_in_shards_have_one_form_of_accents(shard: Path, tmp_path: Path) -> None:
    names = ["caf\u00e9", unicodedata.normalize("NFD", "caf\u00e9"), "wave"]
    path = tmp_path / "named" / "x.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w") as tar:
        for i, name in enumerate(names):
            for suffix, content in (("mp4", b"video"), ("json", json.dumps({"label": name}).encode())):
                member = tarfile.TarInfo(f"{i}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    data = Shards(root=str(path.parent), val=0.0)
    assert data.classes() == [names[0], "wave"] and [r.label for r in data.records("train")] == [0, 0, 1]


def test_splits_are_told_by_folders_or_by_names(shard: Path) -> None:
    for train, val in (("train/x.tar", "val/x.tar"), ("train-000000.tar", "val-000000.tar")):
        root = shard.parent / train.partition(".")[0].replace("/", "_")
        for name in (train, val):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(shard.read_bytes())
        data = Shards(root=str(root))
        assert [len(data.records(s)) for s in ("train", "val", "test")] == [4, 4, 0]  # type: ignore[arg-type]
        assert data.classes() == ["0", "1"]
        assert all(record.path.startswith(str(root / val)) for record in data.records("val"))


def test_shards_of_others_are_read(make_video: Callable[..., Path], tmp_path: Path) -> None:
    path = tmp_path / "theirs" / "x.tar"
    path.parent.mkdir()
    video = make_video("one.mp4").read_bytes()
    with tarfile.open(path, "w") as tar:
        for name, data in {
            "some/dir/a.b.mp4": video,
            "some/dir/a.json": json.dumps({"label": "wave"}).encode(),
            "c.mp4": video,
            "c.json": json.dumps({"label": "bow", "name": "c c.mp4"}).encode(),
            "c.txt": b"a caption",
        }.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    data = Shards(root=str(path.parent), val=0.0)
    assert data.classes() == ["bow", "wave"]
    assert [(r.name, r.label) for r in data.records("train")] == [("some/dir/a.b.mp4", 1), ("c c.mp4", 0)]
    assert len(read(data.records("train")[0].path, lambda n: torch.arange(n))) == 24
    (path.parent / "classes.txt").write_text("wave\n")
    with pytest.raises(GestaError, match="'bow' is none of the 1 classes"):
        data.records("train")


def pack(
    path: Path, members: dict[str, bytes], links: dict[str, str] | None = None, kind: bytes = tarfile.LNKTYPE
) -> str:
    """A tar file of these members, of one age, and links."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            tar.addfile(member)
    return str(path)


def test_the_list_of_members_is_kept_and_follows_the_content(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = read_index(str(shard))
    assert sorted(path.name for path in shard.parent.iterdir()) == ["classes.txt", shard.name]  # nothing beside it
    archive._read_index.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(archive.tarfile, "open", lambda *a: pytest.fail("the kept list was not used"))
        assert read_index(str(shard)) == before
    with tarfile.open(shard, "a") as tar:
        tar.add(__file__, "new.json")
    assert "new.json" in read_index(str(shard)).members


@pytest.mark.parametrize("in_place", [True, False])
def test_a_shard_that_takes_anothers_place_with_its_size_and_time(tmp_path: Path, in_place: bool) -> None:
    def shard_of(name: str, labels: str) -> Path:
        return Path(pack(tmp_path / name, {f"{i}.{suffix}": data for i, label in enumerate(labels)
                                           for suffix, data in (("mp4", b"x"), ("cls", label.encode()))}))  # fmt: skip

    old, new = shard_of("s/x.tar", "0101"), shard_of("new.tar", "0011")
    status = old.stat()
    assert [member.label for member in members(str(old))] == [0, 1, 0, 1]
    if in_place:
        old.write_bytes(new.read_bytes())  # cp -p
    else:
        os.replace(new, old)  # rsync -a
    os.utime(old, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (old.stat().st_size, old.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    assert [member.label for member in members(str(old))] == [0, 0, 1, 1]


def test_content_is_recognised_where_a_disk_knows_no_time_of_change(tmp_path: Path) -> None:
    paths = [pack(tmp_path / f"{labels}.tar", {"0.mp4": b"x", "0.cls": labels.encode()}) for labels in "01"]
    assert archive._fingerprint(paths[0], (1, 2, 10240)) != archive._fingerprint(paths[1], (1, 2, 10240))


def test_links_hidden_and_repeated_members(tmp_path: Path) -> None:
    videos = {"./a.mp4": b"first", "./a.cls": b"1", "./._a.mp4": b"Mac OS X", "d/.hidden.mp4": b"x"}
    links = {"./b.mp4": "./a.mp4", "./b.cls": "a.cls", "c.mp4": "b.mp4"}
    linked = read_index(pack(tmp_path / "linked.tar", videos, links))
    assert linked.members["./b.mp4"] == linked.members["c.mp4"] == linked.members["./a.mp4"]
    assert linked.texts == {"./a.cls": "1", "./b.cls": "1"} and linked.hidden == ["./._a.mp4", "d/.hidden.mp4"]
    assert [(m.name, m.label) for m in members(str(tmp_path / "linked.tar"))] == [
        ("./a.mp4", 1),
        ("./b.mp4", 1),
        ("c.mp4", None),
    ]
    symbolic = read_index(
        pack(tmp_path / "symbolic.tar", {"x/a.mp4": b"first"}, {"y/b.mp4": "../x/a.mp4"}, tarfile.SYMTYPE)
    )
    assert symbolic.members["y/b.mp4"] == symbolic.members["x/a.mp4"]
    for links in ({"b.mp4": "gone.mp4"}, {"b.mp4": "c.mp4", "c.mp4": "b.mp4"}):
        with pytest.raises(GestaError, match=r"dangling\.tar: .*b\.mp4 is a link to .*, which it does not hold"):
            read_index(pack(tmp_path / "dangling.tar", {"a.mp4": b"x"}, links))
    with tarfile.open(tmp_path / "linked.tar", "a") as tar:
        tar.add(__file__, "./a.mp4")
    with pytest.raises(GestaError, match=r"linked\.tar: .*it holds \./a\.mp4 twice"):
        read_index(str(tmp_path / "linked.tar"))


def test_hidden_members_are_said_once(shard: Path) -> None:
    with tarfile.open(shard, "a") as tar:
        tar.add(__file__, "._000000.mp4")
    report = check(Shards(root=str(shard.parent), val=0.5), workers=0)
    hidden = [finding.text for finding in report.findings if finding.kind == "hidden"]
    assert report.ok and len(hidden) == 1 and "#._000000.mp4: 1 such hidden files were ignored" in hidden[0]


def test_folders_of_shards(shard: Path, tmp_path: Path) -> None:
    (shard.parent / "l").symlink_to(".", target_is_directory=True)
    assert sum(len(Shards(root=str(shard.parent)).records(split)) for split in ("train", "val")) == 4  # type: ignore[misc]
    for name in ("o/ucf_train_000.tar", "o/ucf_validation_000.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(shard.read_bytes())
    data = Shards(root=str(tmp_path / "o"))
    assert [len(data.records(split)) for split in ("train", "val", "test")] == [4, 4, 0]  # type: ignore[arg-type]
    (tmp_path / "o" / "more.tar").write_bytes(shard.read_bytes())
    with pytest.raises(GestaError, match=r"more\.tar: its name says no split"):
        data.records("train")
    (tmp_path / "o" / "more.tar").rename(tmp_path / "o" / "train_test.tar")
    with pytest.raises(GestaError, match="its name says both test and train"):
        data.records("train")


def test_the_machines_faults_are_not_the_files(shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, video = os.stat, str(tmp_path / "v" / "0.mp4")

    def refuse(path: Any, *args: Any, **options: Any) -> os.stat_result:
        if path == video:
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real(path, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", refuse)
        with pytest.raises(VideoError, match=r"0\.mp4: cannot be read \(Permission denied\); check its permissions"):
            read(video, lambda n: torch.arange(n))  # not: it does not exist
        report = check([Record(path=video, name="0", label=0)], workers=0)
        assert [finding.kind for finding in report.findings] == ["cannot be decoded", "a single class"]
    views = TestViews([Record(path=video, name="0", label=0)], ClipSpec(frames=2, size=16), EvaluateConfig(clips=1))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    archive._read_index.cache_clear()
    used = max(map(int, os.listdir("/proc/self/fd")))
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 1, limits[1]))
        held = []
        with contextlib.suppress(OSError):
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        for call in (lambda: views[0], lambda: read_index(str(shard)), lambda: Folder(root=str(tmp_path)).classes()):
            with pytest.raises(GestaError, match=r"Too many open files\); raise the limit of open files") as raised:
                call()
            assert type(raised.value) is GestaError  # no result counts the video as wrong
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for file in held:
            os.close(file)


def test_the_shards_that_went_wrong(shared: Path, tmp_path: Path) -> None:
    folder = shared / "cases" / "shards"
    if not folder.is_dir():
        pytest.skip("no such cases beside this checkout")
    shard, labels = tmp_path / "x.tar", []
    for name in ("v1.tar", "v2.tar"):
        shard.write_bytes((folder / name).read_bytes())
        os.utime(shard, ns=(0, 0))
        labels.append([member.label for member in members(str(shard))])
    assert labels == [[0, 1, 0, 1], [0, 0, 1, 1]]
    assert len(members(str(folder / "hard" / "s.tar"))) == 5


def test_what_is_not_there_is_a_sentence(shard: Path, tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"shard-000000.tar#9.mp4: does not exist"):
        read(f"{shard}#9.mp4", lambda n: torch.arange(n))
    report = check([Record(path=f"{shard}#9.mp4", name="9", label=0)], workers=0)
    assert not report.ok and "does not exist" in report.findings[0].text
    with pytest.raises(GestaError, match="no tar files"):
        Shards(root=str(tmp_path / "v")).records("train")
    cut = tmp_path / "cut" / "x.tar"
    cut.parent.mkdir()
    cut.write_bytes(shard.read_bytes()[:5000])
    with pytest.raises(GestaError, match=r"x\.tar: cannot be read as an uncompressed tar file \(it is cut off\)"):
        Shards(root=str(cut.parent)).records("train")
