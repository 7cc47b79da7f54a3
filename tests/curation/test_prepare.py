"""A prepared folder has the same videos, smaller, with the same frames in the same order."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
import unicodedata
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from gesta.cli import main
from gesta.curation import prepare as prepare_module
from gesta.curation import reencode
from gesta.curation.prepare import MANIFEST, Prepared, prepare
from gesta.curation.sources import SOURCES
from gesta.data.lists import Lists, write_lists
from gesta.data.shards import Shards
from gesta.data.shares import PART, Share
from gesta.data.workers import run_each
from gesta.errors import GestaError
from gesta.files import is_part
from gesta.video.find import find_videos
from gesta.video.probe import probe
from gesta.video.read import read


@pytest.fixture
def root(make_video: Callable[..., Path], tmp_path: Path) -> Path:
    """Two classes of three videos, 96 x 80; one name with a blank and another suffix."""
    for name in ("a/0.mp4", "a/1 x.mkv", "a/sub/2.mp4", "b/0.avi", "b/1.mp4", "b/sub/2.mp4"):
        make_video(f"v/{name}", size=(96, 80), frames=20)
    return tmp_path / "v"


def small(root: Path, out: Path, **options: object) -> Prepared:
    return prepare(root, out, short_side=64, workers=0, **options)  # type: ignore[arg-type]


def everything(path: str | Path) -> torch.Tensor:
    return read(path, lambda n: torch.arange(n), short_side=64).float()


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_copies_have_the_same_frames(root: Path, tmp_path: Path, codec: str) -> None:
    done = small(root, tmp_path / "o", codec=codec)
    assert (done.videos, done.made, done.kept, done.left_out, done.frames) == (6, 6, 0, [], 120)
    for path in find_videos(root):
        copy = tmp_path / "o" / Path(path).relative_to(root).with_suffix(".mp4")
        info, before = probe(copy, exact=True), probe(path)
        assert (info.width, info.height, info.codec, info.frames) == (76, 64, codec, 20)
        assert info.fps == pytest.approx(before.fps) and not info.variable_rate
        reference = everything(path)[..., :76]
        assert (everything(copy) - reference).abs().mean() < 3  # frames that follow differ by 4 grey levels
    assert not list((tmp_path / "o").rglob("*.part"))


def test_a_second_run_makes_what_is_missing(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "o"
    small(root, out)
    before = {path: os.stat(path).st_mtime_ns for path in find_videos(out)}
    (out / "a" / "0.mp4").unlink()
    (out / "a" / ".0.mp4.99.part").write_bytes(b"half")
    (out / "b" / ".x.99.part").mkdir()
    done = small(root, out)
    assert (done.made, done.kept) == (1, 5) and not list(out.rglob("*.part"))
    assert {path for path in before if os.stat(path).st_mtime_ns != before[path]} == {str(out / "a" / "0.mp4")}
    with pytest.raises(GestaError, match="was made with short_side 64, not 32"):
        prepare(root, out, short_side=32, workers=0)
    other = tmp_path / "other"
    other.mkdir()
    (other / "precious.txt").touch()
    with pytest.raises(GestaError, match="not empty"):
        small(root, other)


def test_a_stopped_file_does_not_appear(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stops(*_: object) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(reencode, "_write_images", lambda folder, *_: (Path(folder) / "img_00001.jpg").touch() or stops())
        with pytest.raises(KeyboardInterrupt):
            small(root, tmp_path / "o", frames=True)
    assert not find_videos(tmp_path / "o")
    assert small(root, tmp_path / "o", frames=True).made == 6


def test_broken_files_are_named_and_the_rest_is_made(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "b" / "broken.mp4").write_bytes(b"nothing" * 99)
    (root / "b" / "0.mkv").write_bytes((root / "b" / "1.mp4").read_bytes())  # would become b/0.mp4, too
    cut = root / "b" / "cut.mkv"
    cut.write_bytes((root / "a" / "1 x.mkv").read_bytes()[:-300])
    for made in (7, 0):
        with pytest.raises(SystemExit) as stop:
            main(["data", "prepare", str(root), str(tmp_path / "o"), "--workers", "0", "--json"])
        assert stop.value.code == 1
        value = json.loads(capsys.readouterr().out)
        assert value["made"] == made and value["kept"] == 7 - made and len(value["left_out"]) == 2
        assert any("broken.mp4: cannot be opened as a video" in sentence for sentence in value["left_out"])
        assert any("would become the same file" in sentence for sentence in value["left_out"])
    with pytest.raises(SystemExit) as stop:
        main(["data", "prepare", str(root / "a"), str(tmp_path / "p"), "--workers", "0"])
    assert stop.value.code == 0 and "3 of 3 videos" in capsys.readouterr().out


def test_frames_are_images_counted_from_one(root: Path, tmp_path: Path) -> None:
    done = small(root, tmp_path / "o", frames=True, lists=True)
    folder = tmp_path / "o" / "a" / "1 x"
    assert sorted(os.listdir(folder)) == [f"img_{i:05d}.jpg" for i in range(1, 21)]
    with Image.open(folder / "img_00020.jpg") as image:
        assert image.size == (77, 64)
    assert (everything(folder) - everything(root / "a" / "1 x.mkv")).abs().mean() < 2
    lists = Lists(train=str(tmp_path / "o" / "train.txt"), val=str(tmp_path / "o" / "val.txt"))
    assert done.lists == {"train.txt": 4, "val.txt": 2}
    assert [len(read(r.path, lambda n: torch.arange(n))) for r in lists.records("train")] == [20] * 4


def test_a_list_of_an_earlier_split_is_refused_before_the_first_copy(root: Path, tmp_path: Path) -> None:
    small(root, tmp_path / "o", lists=True, test=0.3)
    shutil.copy(root / "a" / "0.mp4", root / "a" / "new.mp4")
    with pytest.raises(GestaError, match=r"test\.txt: would be left of an earlier split.*delete it"):
        small(root, tmp_path / "o", lists=True)
    assert not (tmp_path / "o" / "a" / "new.mp4").exists()


def test_a_folder_of_one_image_is_not_made(make_video: Callable[..., Path], tmp_path: Path) -> None:
    """It would be in no list, and no reader would find it."""
    for name in ("a/0", "a/1", "a/2", "b/0", "b/1"):
        make_video(f"v/{name}.mp4", size=(96, 80), frames=36, fps=12)
    make_video("v/b/short.mp4", size=(96, 80), frames=6, fps=12)
    done = small(tmp_path / "v", tmp_path / "o", frames=True, lists=True, fps=1)
    assert (done.made, done.frames, sum(done.lists.values())) == (5, 15, 5)
    assert [sentence.partition(": ")[2] for sentence in done.left_out] == [
        "would be a folder of one image, which is no video; leave frames out or give a higher fps"
    ]
    assert sorted(os.listdir(tmp_path / "o" / "b")) == ["0", "1"]


@pytest.mark.parametrize(("fps", "expected"), [(6.0, 10), (12.0, 20), (24.0, 40), (5.0, 9)])
def test_another_rate_shows_each_moment(
    make_video: Callable[..., Path], tmp_path: Path, fps: float, expected: int
) -> None:
    make_video("v/0.mp4", size=(96, 80), frames=20, fps=12)
    small(tmp_path / "v", tmp_path / "o", fps=fps)
    info = probe(tmp_path / "o" / "0.mp4")
    assert (info.frames, info.fps) == (expected, pytest.approx(fps))
    shown = [int(12 * k / fps + 1e-6) for k in range(expected)]
    copy, whole = everything(tmp_path / "o" / "0.mp4"), everything(tmp_path / "v" / "0.mp4")
    assert (copy - whole[shown][..., :76]).abs().mean() < 3


def test_times_of_a_video_without_a_rate_stay(tmp_path: Path) -> None:
    times = [0, 40, 80, 240, 280, 500, 540, 900]
    (tmp_path / "v").mkdir()
    with av.open(str(tmp_path / "v" / "x.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 80, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for i, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full((64, 80, 3), 25 * i, np.uint8), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    small(tmp_path / "v", tmp_path / "o")
    with av.open(str(tmp_path / "o" / "x.mp4")) as container:
        found = [frame.time for frame in container.decode(video=0)]
    assert [round(1000 * (time - found[0])) for time in found] == times


def test_turned_full_range_and_frame_folders(make_video: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    with av.open(str(tmp_path / "v" / "full.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 80, "yuvj420p"
        for i in range(8):
            image = np.full((80, 96, 3), (10 + 30 * i, 250 - 30 * i, 40), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    for i in range(5):
        (tmp_path / "v" / "f").mkdir(exist_ok=True)
        Image.new("RGB", (161, 99), (10 * i, 100, 200)).save(tmp_path / "v" / "f" / f"img_{i:05d}.png")
    done = small(tmp_path / "v", tmp_path / "o")
    assert (done.made, done.frames) == (2, 13)
    for name, width in (("full", 76), ("f", 104)):
        source = tmp_path / "v" / (f"{name}.mp4" if name == "full" else name)
        copy = everything(tmp_path / "o" / f"{name}.mp4")
        assert copy.shape[-1] == width and (copy.mean((2, 3)) - everything(source).mean((2, 3))).abs().max() < 4


def test_lists_split_by_seed_or_by_sub_folder(root: Path, make_video: Callable[..., Path], tmp_path: Path) -> None:
    assert write_lists(str(root), val=0.34, seed=1) == {"train.txt": 4, "val.txt": 2}
    assert (root / "classes.txt").read_text() == "a\nb\n"
    first = (root / "val.txt").read_text()
    assert first == (write_lists(str(root), val=0.34, seed=1) and (root / "val.txt").read_text())
    assert any(write_lists(str(root), val=0.34, seed=s) and (root / "val.txt").read_text() != first for s in range(9))
    for i in range(3):
        make_video(f"v/a/sub/more{i}.mp4")
    for seed in range(6):
        write_lists(str(root), val=0.34, seed=seed, by_folder=True)
        lists = Lists(train=str(root / "train.txt"), val=str(root / "val.txt"), class_names=str(root / "classes.txt"))
        parts = {split: {r.name for r in lists.records(split)} for split in ("train", "val")}  # type: ignore[arg-type]
        assert len(parts["train"] | parts["val"]) == 9 and not parts["train"] & parts["val"]
        together = {name for name in parts["train"] | parts["val"] if name.startswith("a/sub/")}
        assert together <= parts["train"] or together <= parts["val"]
    for i in range(3):
        make_video(f"v/b/sub/other{i}.mp4")  # the same person in another class
    for seed in range(6):
        write_lists(str(root), val=0.34, seed=seed, by_folder=True)
        train, val = ((root / f"{name}.txt").read_text() for name in ("train", "val"))
        assert ("/sub/" in train) + ("/sub/" in val) == 1 and train.count("\n") + val.count("\n") == 12
    for path in (root / "b" / "sub").glob("other*"):
        path.unlink()
    root.rename(tmp_path / "train")
    (tmp_path / "whole").mkdir()
    (tmp_path / "train").rename(tmp_path / "whole" / "train")
    make_video("whole/val/a/9.mp4")
    for by_folder in (False, True):
        assert write_lists(str(tmp_path / "whole"), by_folder=by_folder) == {"train.txt": 9, "val.txt": 1}
        assert (tmp_path / "whole" / "val.txt").read_text() == "val/a/9.mp4 0\n"


def test_shards_hold_all_videos_and_go_on(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "o"
    (root / "b" / "broken.mp4").write_bytes(b"nothing" * 99)
    done = small(root, out, shards=3)
    names = sorted(path.name for path in out.glob("*.tar"))
    assert names == [f"shard-{i:06d}.tar" for i in range(3)] and done.shards == 3 and len(done.left_out) == 1
    data = Shards(root=str(out), val=0.0)
    records = data.records("train")
    assert {(r.name, r.label) for r in records} == {
        (Path(p).relative_to(root).as_posix(), "ab".index(Path(p).relative_to(root).parts[0]))
        for p in find_videos(root)
        if "broken" not in p
    }
    for record in records:
        assert (everything(record.path) - everything(root / record.name)[..., :76]).abs().mean() < 3
    assert sorted(os.listdir(out)) == sorted([*names, "classes.txt", MANIFEST, SOURCES])
    again = small(root, out, shards=3)
    assert (again.made, again.kept) == (0, 6) and "broken.mp4: is not in" in again.left_out[0]
    bytes_before = (out / names[1]).read_bytes()
    (out / names[1]).unlink()
    assert small(root, out, shards=3).made >= 2 and (out / names[1]).read_bytes() == bytes_before
    (root / "b" / "broken.mp4").unlink()
    (root / "a" / "0.mp4").rename(root / "a" / "renamed.mp4")
    with pytest.raises(GestaError, match="choose a new folder"):
        small(root, out, shards=3)


def test_shards_of_folders_whose_names_are_decomposed_are_labelled(
    make_video: Callable[..., Path], tmp_path: Path
) -> None:
    name = unicodedata.normalize("NFD", "caf\u00e9")  # as macOS writes it
    for folder in (name, "wave"):
        make_video(f"v/{folder}/0.mp4", size=(96, 80), frames=4)
    small(tmp_path / "v", tmp_path / "o", shards=2)
    data = Shards(root=str(tmp_path / "o"), val=0.0)
    assert data.classes() == ["caf\u00e9", "wave"]
    assert {(r.name, r.label) for r in data.records("train")} == {(f"{name}/0.mp4", 0), ("wave/0.mp4", 1)}


@pytest.mark.parametrize("names", ["bus/0.mp4 train/1.mp4", "train/bus/0.mp4 train/train/1.mp4 val/bus/2.mp4"])
def test_a_class_may_have_the_name_of_a_split(make_video: Callable[..., Path], tmp_path: Path, names: str) -> None:
    """What is a split in shards is so by the same rule as in folders."""
    for name in names.split():
        make_video(f"v/{name}", size=(96, 80), frames=4)
    folders = "classes" if names.startswith("bus") else "auto"
    done = small(tmp_path / "v", tmp_path / "o", shards=10, folders=folders)
    assert (done.made, done.left_out) == (len(names.split()), [])
    data = Shards(root=str(tmp_path / "o"), val=0.0)
    records = [*data.records("train"), *data.records("val")]
    assert sorted((r.name, data.classes()[r.label]) for r in records) == [  # type: ignore[index]
        (name, name.split("/")[-2]) for name in names.split()
    ]


def test_shards_of_splits_hold_only_what_is_in_one(make_video: Callable[..., Path], tmp_path: Path) -> None:
    for name in ("train/a/0", "train/b/1", "val/a/2", "more/a/3"):
        make_video(f"v/{name}.mp4", size=(96, 80), frames=4)
    done = small(tmp_path / "v", tmp_path / "o", shards=10, folders="splits")
    assert done.left_out == [
        f"{tmp_path}/v/more/a/3.mp4: is in no folder of a split, so no shard holds it; move it into one"
    ]
    data = Shards(root=str(tmp_path / "o"))
    assert [len(data.records(split)) for split in ("train", "val", "test")] == [2, 1, 0]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"short_side": 63}, "^short_side 63 is not an even number of pixels from 16 on"),
        ({"fps": 0.0}, "^fps 0 is not above 0"),
        ({"shards": -1}, "^shards -1 is below 0"),
        ({"shards": 2, "frames": True}, "leave frames"),
        ({"val": 0.0}, "val would do nothing; leave it out, or add lists"),
        ({"test": 0.1, "shards": 2}, "test would do nothing"),
        ({"by_folder": True}, "by_folder=True would do nothing"),
        ({"seed": 0}, "seed would do nothing; leave it out, or add lists or shards"),
        ({"folders": "classes"}, "folders would do nothing"),
        ({"frames": True, "codec": "h264"}, "codec is of video files, and frames makes images"),
        ({"lists": True, "val": 1.2}, "val 1.2 and test 0 are fractions"),
        ({"lists": True, "val": 0.5, "test": 0.5}, "together below 1"),
        ({"out": "v/o"}, "is inside"),
        ({"root": "nowhere"}, "is not a folder"),
        ({"root": "image"}, "is one video as frames, not a folder of videos"),
    ],
)
def test_impossible_wishes(root: Path, tmp_path: Path, options: dict[str, object], message: str) -> None:
    options = {"root": "v", "out": "o"} | options
    (tmp_path / "image").mkdir()
    for number in range(2):
        (tmp_path / f"image/img_{number}.jpg").touch()
    folders = [tmp_path / str(options.pop(name)) for name in ("root", "out")]
    with pytest.raises(GestaError, match=message):
        prepare(*folders, workers=0, **options)  # type: ignore[arg-type]
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("how", [{}, {"frames": True}, {"shards": 2}, {"share": Share(1, 1)}])
def test_a_damaged_copy_is_named_by_every_run_even_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: dict[str, Any]
) -> None:
    """The process is killed as soon as the copy has its name."""
    root, out = tmp_path / "v", tmp_path / "o"
    for name in ("a/1", "b/2"):
        (root / name).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (64, 64)).save(root / name / f"img_{number}.png")
    (root / "a/1/img_1.png").write_bytes(b"no picture")

    def killed(job: reencode.EncodeJob) -> None:
        reencode.prepare_one(job)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "prepare_one", killed)
        with pytest.raises(KeyboardInterrupt):
            small(root, out, **how)
    sentence = f"{root}/a/1: 1 damaged packets, 2 frames are left; get a better copy"
    for made in (1, 0):
        done = small(root, out, **how)
        assert (done.made, done.damaged, done.left_out) == (made, [sentence], [])
    if "share" in how:
        assert json.loads((out / PART).read_text())["incomplete"] == {f"{root}/a/1": sentence}
    Image.new("RGB", (64, 64)).save(root / "a/1/img_1.png")
    for copy in [*out.rglob("1.mp4"), *out.rglob("*.tar"), *(out / "a").glob("1")]:
        shutil.rmtree(copy) if copy.is_dir() else copy.unlink()
    assert small(root, out, **how).damaged == small(root, out, **how).damaged == []
    assert not list(out.rglob("*.remark"))


def replaced(path: Path, by: Path) -> Path:
    """Another video under a name, with its own time of change, which lies before that of any copy (``cp -p``)."""
    path.unlink()
    shutil.copy(by, path)
    os.utime(path, (1e9, 1e9))
    return path


@pytest.mark.parametrize("how", [{}, {"frames": True}, {"share": Share(1, 1)}])
def test_copies_of_videos_that_have_changed_are_made_again(
    root: Path, make_video: Callable[..., Path], tmp_path: Path, how: dict[str, Any]
) -> None:
    out, other = tmp_path / "o", make_video("other.mp4", size=(96, 80), frames=7)
    copy = out / "a" / ("0" if how.get("frames") else "0.mp4")
    assert (small(root, out, **how).changed, small(root, out, **how).made) == ([], 0)
    path = replaced(root / "a/0.mp4", by=other)
    done = small(root, out, **how)
    assert (done.made, done.kept, done.changed, probe(copy).frames) == (1, 5, [str(path)], 7)
    assert f"made again: {path}: has changed since it was copied" in str(done)
    assert (small(root, out, **how).made, small(root, out, **how).changed) == (0, [])
    path.write_bytes(b"no video")
    done = small(root, out, **how)
    assert (done.made, done.kept, done.changed) == (0, 5, [])
    assert done.left_out[0].endswith(f"; {copy} still shows what it was before") and len(done.left_out) == 1
    assert probe(copy).frames == 7 and len(read_lines(out)) == 6
    assert len(small(root, out, **how).left_out) == 1  # it is tried again
    replaced(path, by=make_video("third.mp4", size=(96, 80), frames=9))
    assert (small(root, out, **how).made, probe(copy).frames) == (1, 9)
    assert not [name for name in out.rglob(".*") if is_part(name.name)]
    assert [line["copy"] for line in read_lines(out)] == sorted(line["copy"] for line in read_lines(out))


@pytest.mark.parametrize("how", [{}, {"frames": True}])
def test_an_old_copy_stays_until_the_new_one_is_complete(
    root: Path, make_video: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: dict[str, Any]
) -> None:
    """The process is killed, or the disk is full, while a changed video is read."""
    out = tmp_path / "o"
    copy = out / "a" / ("0" if how else "0.mp4")
    small(root, out, **how)
    replaced(root / "a/0.mp4", by=make_video("other.mp4", size=(96, 80), frames=7))
    for error in (KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")):

        def stopped(*_: object, error: BaseException = error) -> None:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(reencode, "probe", stopped)
            with pytest.raises((KeyboardInterrupt, GestaError)):
                small(root, out, **how)
        assert probe(copy).frames == 20
    assert (small(root, out, **how).made, probe(copy).frames) == (1, 7)


def test_what_a_video_was_before_gets_into_no_shard(
    root: Path, make_video: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "o"

    def killed(shard: str, *_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "_pack", killed)  # all copies are made, and no shard
        with pytest.raises(KeyboardInterrupt):
            small(root, out, shards=10)
    (root / "a/0.mp4").write_bytes(b"no video")
    assert len(small(root, out, shards=10).left_out) == 1
    assert "a/0.mp4" not in [record.name for record in Shards(root=str(out), val=0.0).records("train")]


def test_a_video_of_another_suffix_is_another_one(root: Path, tmp_path: Path) -> None:
    """Which has the same copy."""
    out = tmp_path / "o"
    small(root, out)
    shutil.move(root / "a/0.mp4", root / "a/0.mkv")
    assert (small(root, out).changed, small(root, out).made) == ([str(root / "a/0.mkv")], 0)


def test_the_copy_of_a_video_that_was_moved_to_another_class_is_named(root: Path, tmp_path: Path) -> None:
    """Else it would be trained on as of both."""
    out = tmp_path / "o"
    small(root, out)
    assert small(root, out, listed=[str(root / "b/1.mp4")]).left_over == []  # the others are there, and not asked for
    shutil.move(root / "a/0.mp4", root / "b/moved.mp4")
    sentence = f"{out}/a/0.mp4: is the copy of {root}/a/0.mp4, which is no longer there; remove the copy"
    with pytest.raises(GestaError, match="as lists would hold it"):
        small(root, out, lists=True)
    assert not (out / "train.txt").exists()
    done = small(root, out)
    assert (done.made, done.left_over) == (1, [sentence]) and f"left over: {sentence}" in str(done)
    (out / "a/0.mp4").unlink()
    done = small(root, out, lists=True)
    assert (done.left_over, sum(done.lists.values())) == ([], 6)


def read_lines(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / SOURCES).read_text().splitlines()]


def test_copies_without_a_record_are_kept_unless_their_video_is_newer(
    root: Path, make_video: Callable[..., Path], tmp_path: Path
) -> None:
    """Of an earlier version, or made by a process that was killed before it wrote the line."""
    out, other = tmp_path / "o", make_video("other.mp4", size=(96, 80), frames=7)
    small(root, out)
    whole = (out / SOURCES).read_text()
    for text in ("", whole[: len(whole) // 2 + 7]):  # nothing, and half a line
        (out / SOURCES).write_text(text)
        assert small(root, out).made == 0
        assert (out / SOURCES).read_text() == whole  # from now on it is known
    (out / SOURCES).unlink()
    shutil.copy(other, root / "a/0.mp4")
    later = time.time() + 60
    os.utime(root / "a/0.mp4", (later, later))
    assert (small(root, out).changed, small(root, out).made) == ([str(root / "a/0.mp4")], 0)
    (out / SOURCES).write_text("[]\n")
    with pytest.raises(GestaError, match=rf"{SOURCES}: .*remove the file"):
        small(root, out)


def test_a_better_copy_of_a_damaged_video_is_taken(tmp_path: Path) -> None:
    root, out = tmp_path / "v", tmp_path / "o"
    (root / "a").mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (64, 64)).save(root / f"a/img_{number}.png")
    better = (root / "a/img_1.png").read_bytes()
    (root / "a/img_1.png").write_bytes(b"no picture")
    assert [len(small(root, out).damaged) for _ in range(2)] == [1, 1]
    (root / "a/img_1.png").write_bytes(better)
    os.utime(root / "a/img_1.png", (1e9, 1e9))
    done = small(root, out)
    assert (done.made, done.damaged, probe(out / "a.mp4").frames) == (1, [], 3)


def test_a_shard_of_a_video_that_has_changed_is_named(
    root: Path, make_video: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "o"
    small(root, out, shards=10)
    path = replaced(root / "a/0.mp4", by=make_video("other.mp4", size=(96, 80), frames=7))
    shard = out / "shard-000000.tar"
    for _ in range(2):
        done = small(root, out, shards=10)
        assert (done.made, done.kept, done.changed) == (0, 5, [])
        assert done.left_out == [f"{path}: has changed since {shard} was made; delete that to make it again"]
    shard.unlink()
    assert (small(root, out, shards=10).made, small(root, out, shards=10).left_out) == (6, [])
    records = {record.name: record.path for record in Shards(root=str(out), val=0.0).records("train")}
    assert probe(records["a/0.mp4"]).frames == 7


def test_a_video_that_came_after_its_shard_may_be_new(root: Path, tmp_path: Path) -> None:
    small(root, tmp_path / "o", shards=10)
    shutil.copy(root / "b" / "1.mp4", root / "b" / "new.mp4")
    (sentence,) = small(root, tmp_path / "o", shards=10).left_out
    assert "new.mp4: is not in" in sentence and "as it could not be read then, or is new; delete that" in sentence


def test_shards_that_were_never_written_are_not_counted(root: Path, tmp_path: Path) -> None:
    for path in find_videos(root / "b"):
        Path(path).write_bytes(b"no video")
    done = small(root, tmp_path / "o", shards=1)
    assert (done.shards, done.made, len(done.left_out)) == (3, 3, 3)


def _dies_of_three(number: int) -> int:
    if number == 3:
        os._exit(11)
    return number * number


def _dies_once(path: str) -> str:
    if not os.path.exists(path):
        Path(path).touch()
        os._exit(11)
    return "alive"


def test_an_item_whose_process_dies_is_tried_again(tmp_path: Path) -> None:
    assert list(run_each(_dies_once, [str(tmp_path / "died")], 1)) == [(0, "alive", "")]


def test_what_work_raises_is_raised() -> None:
    with pytest.raises(GestaError, match="nowhere: does not exist"):
        list(run_each(find_videos, ["nowhere"], 1))


def test_a_process_that_dies_takes_no_other_work_along() -> None:
    found = {position: (result, why) for position, result, why in run_each(_dies_of_three, range(6), 2)}
    assert found.pop(3) == (None, "kills its process")
    assert found == {i: (i * i, "") for i in (0, 1, 2, 4, 5)}


def test_folders_that_may_be_meant_in_two_ways_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    root, out = tmp_path / "v", tmp_path / "out"
    for name in ("UCF/a/1.mp4", "UCF/b/2.mp4"):
        (root / name).parent.mkdir(parents=True)
        (root / name).touch()
    for options in ({"lists": True}, {"shards": 2}):
        with pytest.raises(GestaError, match=r"UCF: is the only class; .*folders classes"):
            prepare(root, out, workers=0, **options)  # type: ignore[arg-type]
    (root / "UCF" / "a" / "thumbs").mkdir()
    for number in (1, 2):
        (root / "UCF" / "a" / "thumbs" / f"t_{number}.jpg").touch()
    with pytest.raises(GestaError, match=r"thumbs: is a folder of images beside video files .*kind files"):
        prepare(root / "UCF", out, lists=True, workers=0)
    (root / "UCF" / "b" / "two\nlines.mp4").touch()
    with pytest.raises(GestaError, match="cannot hold this name; rename it"):
        prepare(root / "UCF", out, lists=True, kind="files", workers=0)
    assert not out.exists()
    prepare(root / "UCF", out, kind="frames", workers=0)
    for content in ("[]", "{", "[" * 1000):
        (out / MANIFEST).write_text(content)
        with pytest.raises(GestaError, match=rf"{MANIFEST}: .*choose another folder"):
            prepare(root / "UCF", out, workers=0)
