"""Videos inside tar files are read in place, and give the same frames as the files they were made of."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gesta.curation.check import check
from gesta.data.samples import TrainingClips
from gesta.data.shards import Shards, write_shard
from gesta.datasets import data_config
from gesta.errors import GestaError, VideoError
from gesta.model import ClipSpec
from gesta.recipe import TrainConfig
from gesta.records import Record
from gesta.video import archive
from gesta.video.archive import index_file, locate, read_bytes, read_index
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
    monkeypatch.setattr("gesta.video.container.HELD_BYTES", 0)
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


def test_the_list_of_members_is_kept_and_follows_the_file(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert os.path.exists(index_file(str(shard)))
    before = read_index(str(shard))
    archive._read_index.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(archive.tarfile, "open", lambda *a: pytest.fail("the kept list was not used"))
        assert read_index(str(shard)) == before
    with tarfile.open(shard, "a") as tar:
        tar.add(__file__, "new.json")
    assert "new.json" in read_index(str(shard)).members


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
