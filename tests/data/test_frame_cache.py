"""The cache of decoded frames: the same pixels and trainings to the bit, and what is not kept, refused and removed."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import write_video
from gesta.cli import main
from gesta.config import replace
from gesta.data import frame_cache
from gesta.data.batch import Failure
from gesta.data.frame_cache import FrameCache, choose_cache
from gesta.data.lists import Folder
from gesta.data.samples import TestViews, TrainingClips
from gesta.errors import GestaError, VideoError
from gesta.model import ClipSpec
from gesta.models.r3d import r3d_tiny
from gesta.recipe import Augment, EvaluateConfig, Recipe, TrainConfig
from gesta.records import Record
from gesta.training.loop import train
from gesta.video.depth import Depth
from gesta.video.read import Selection, read_frames, read_whole

CLIP = ClipSpec(frames=4, stride=2, size=24)


def images(folder: Path, sizes: list[tuple[int, int]]) -> Path:
    """A folder of noise."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for i, (width, height) in enumerate(sizes):
        pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"img_{i:05}.png")
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("videos")


@pytest.fixture(scope="module")
def records(root: Path) -> list[Record]:
    """Videos larger and smaller than a clip, with odd sides, as folders and as depth, whole and in part."""
    large = str(write_video(root / "large.mp4", size=(96, 70)))
    small = str(write_video(root / "small.mp4", size=(34, 18)))
    odd = str(images(root / "odd", [(37, 29)] * 9))
    maps = str(images(root / "maps", [(40, 31)] * 7))
    parts = [{}, {"start": 3, "end": 17}, {"seconds": (0.5, 1.4)}]
    listed = [Record(path=large, name="large", label=0, **part) for part in parts]  # type: ignore[arg-type]
    listed += [Record(path=path, name="other", label=1) for path in (small, odd)]
    return [*listed, Record(path=maps, name="maps", label=1, shows=Depth("jet", 0, 255))]


@pytest.fixture
def cache(tmp_path: Path) -> FrameCache:
    return FrameCache(tmp_path / "frames", fills=True)


def kept(cache: FrameCache) -> list[Path]:
    return sorted(path for path in cache.folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("repeats", [1, 2], ids=["the crop alone is read", "whole frames are read"])
def test_training_clips_are_the_same(records: list[Record], cache: FrameCache, repeats: int) -> None:
    config = TrainConfig(repeats=repeats, augment=Augment(color_jitter=0.3, erasing=0.5))
    with_cache, without = (TrainingClips(records, CLIP, config, ["a", "b"]) for _ in range(2))
    with_cache.cache = cache
    for epoch in range(2):  # the first decodes, the second does not
        for index in range(len(records)):
            assert torch.equal(with_cache[epoch, index]["video"], without[epoch, index]["video"])
    assert len(kept(cache)) == len(records)


def test_views_of_a_test_are_the_same(records: list[Record], cache: FrameCache) -> None:
    with_cache, without = (TestViews(records, CLIP, EvaluateConfig(clips=2, crops=3)) for _ in range(2))
    with_cache.cache = cache
    for index in [*range(len(records))] * 2:
        assert torch.equal(with_cache[index]["video"], without[index]["video"])  # type: ignore[index]
    cached, read = (views.read(0, lambda n: without.select(0, n)).images for views in (with_cache, without))
    assert cached.stride() == read.stride()  # scaling may round otherwise where pixels lie in another order


def test_what_is_kept_is_not_decoded_again(
    records: list[Record], cache: FrameCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    views = TestViews(records, CLIP, EvaluateConfig(clips=2))
    views.cache = cache
    first = [views[index] for index in range(len(records))]
    monkeypatch.setattr("gesta.video.read._open", None)
    for sample, index in zip(first, range(len(records))):
        assert torch.equal(views[index]["video"], sample["video"])  # type: ignore[index]
    views.cache = None
    assert isinstance(views[0], Failure)  # nothing can be decoded now


def test_a_video_that_changes_is_decoded_again(tmp_path: Path, cache: FrameCache) -> None:
    path = write_video(tmp_path / "a.mp4", shade=0)
    record = Record(path=str(path), name="a")
    views = TestViews([record], CLIP, EvaluateConfig(clips=1))
    views.cache = cache
    before = views[0]["video"]  # type: ignore[index]
    write_video(path, shade=100)
    os.utime(path, ns=(1, 1))
    after = views[0]["video"]  # type: ignore[index]
    assert not torch.equal(before, after)
    views.cache = None
    assert torch.equal(after, views[0]["video"])  # type: ignore[index]


def test_damaged_videos_are_read_as_without(tmp_path: Path, cache: FrameCache) -> None:
    whole = write_video(tmp_path / "whole.mp4", frames=40).read_bytes()
    middle = len(whole) // 2
    texts = {
        "cut": whole[:-900],
        "zeros": whole[:middle] + bytes(300) + whole[middle + 300 :],
        "none": b"no video",
    }
    paths = [tmp_path / f"{name}.mp4" for name in texts]
    for path, data in zip(paths, texts.values()):
        path.write_bytes(data)
    paths.append(images(tmp_path / "sizes", [(40, 30), (44, 30), (40, 30)]))
    paths.append(images(tmp_path / "broken", [(40, 30)] * 5))
    (paths[-1] / "img_00002.png").write_bytes(b"no picture")
    paths.append(tmp_path / "absent.mp4")
    listed = [Record(path=str(path), name=path.name, label=0) for path in paths]
    with_cache, without = (TestViews(listed, CLIP, EvaluateConfig(clips=3)) for _ in range(2))
    with_cache.cache = cache
    for index in [*range(len(listed))] * 2:
        one, other = with_cache[index], without[index]
        if isinstance(one, Failure) or isinstance(other, Failure):
            assert one == other
        else:
            assert torch.equal(one["video"], other["video"]) and one["partial"] == other["partial"]
    assert not kept(cache)


def everything(n: int) -> Selection:
    return Selection(torch.arange(n))


def test_a_video_of_too_many_pixels_is_not_read_whole(records: list[Record]) -> None:
    size = 24 * 70 * 96 * 3
    pixels = read_whole(records[0].path, size)
    assert pixels is not None and pixels.nbytes == size
    with pytest.raises((MemoryError, VideoError)):
        read_whole(records[0].path, size - 1)


def test_files_that_hold_no_frames_are_written_again(records: list[Record], cache: FrameCache) -> None:
    path = records[0].path
    expected = read_frames(path, everything, short_side=32).images
    file = cache.file(path, {"short_side": 32})
    assert file is not None
    cache.read_frames(path, everything, short_side=32)
    whole = file.read_bytes()
    for data in (whole[:-1], whole[:50], b"", b"text"):
        file.write_bytes(data)
        assert torch.equal(cache.read_frames(path, everything, short_side=32).images, expected)
        assert file.read_bytes() == whole


def test_two_writers_and_a_full_disk(
    records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = records[0].path
    expected = read_frames(path, everything, short_side=32).images
    caches = [FrameCache(tmp_path / "frames", fills=True) for _ in range(4)]
    results: list[torch.Tensor] = []
    threads = [
        threading.Thread(target=lambda c=c: results.append(c.read_frames(path, everything, short_side=32).images))
        for c in caches
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(result, expected) for result in results) and len(kept(caches[0])) == 1 and len(results) == 4

    def full(*_: object) -> None:
        raise GestaError("clip.npy: cannot be written (No space left on device); free some space")

    monkeypatch.setattr(frame_cache, "write_atomically", full)
    other = FrameCache(tmp_path / "other", fills=True)
    for _ in range(2):
        assert torch.equal(other.read_frames(path, everything, short_side=32).images, expected)
    assert capsys.readouterr().err.count("No space left") == 1 and not kept(other)


def test_what_is_kept_is_chosen_by_its_size(
    records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    views = TestViews(records, CLIP, EvaluateConfig())
    readings = views.readings()
    assert choose_cache("off", readings) == (None, "")
    cache, sentence = choose_cache("auto", readings)
    assert cache is not None and cache.fills and "6 videos" in sentence and "already" not in sentence
    estimate = frame_cache._estimate(readings)
    views.cache = cache
    for index in range(len(records)):
        views[index]
    sizes = sum(file.stat().st_size - 128 for file in kept(cache))  # without their headers
    assert sizes == pytest.approx(estimate, rel=0.1)  # frames of segments in seconds are estimated
    assert "6 of them already" in choose_cache("auto", readings)[1]
    monkeypatch.setattr(frame_cache, "memory", lambda: (0, 3 * sizes))
    assert choose_cache("auto", readings)[0] is None
    assert "more than a quarter of the free memory" in choose_cache("auto", readings)[1]
    monkeypatch.setattr(frame_cache, "memory", lambda: None)  # the system does not say
    assert choose_cache("auto", readings)[0] is not None


def test_a_cache_folder_that_cannot_be_written_is_said(
    records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gesta").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache, sentence = choose_cache("auto", TestViews(records, CLIP, EvaluateConfig()).readings())
    assert cache is None and "cannot be written" in sentence and "XDG_CACHE_HOME" in sentence


def test_old_files_are_removed_and_then_the_least_recently_used(
    records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "gesta" / "frames"
    folder.mkdir(parents=True)
    day = 24 * 3600
    for name, days in {"old.npy": 31, "half.npy.part": 1, "new.npy": 1, "newer.npy": 0}.items():
        (folder / name).write_bytes(bytes(1000))
        os.utime(folder / name, (time.time() - days * day,) * 2)
    readings = TestViews(records, CLIP, EvaluateConfig()).readings()
    choose_cache("auto", readings)
    assert {file.name for file in folder.iterdir()} == {"new.npy", "newer.npy"}
    needed = frame_cache._estimate(readings)
    monkeypatch.setattr("shutil.disk_usage", lambda _: (0, 0, 2 * needed + 1000))
    assert choose_cache("auto", readings)[0] is not None
    assert {file.name for file in folder.iterdir()} == {"newer.npy"}
    monkeypatch.setattr("shutil.disk_usage", lambda _: (0, 0, 2 * needed - 1))
    cache, sentence = choose_cache("auto", readings)
    assert cache is None and "more than half of what is free" in sentence


def test_a_training_is_the_same_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for label in range(2):
        for split, count in (("train", 3), ("val", 1), ("test", 1)):
            for i in range(count):
                write_video(tmp_path / "videos" / split / str(label) / f"{i}.mp4", frames=8, shade=90 * label + i)
    model = replace(r3d_tiny(), clip=ClipSpec(frames=2, stride=2, size=32))
    config = TrainConfig(epochs=2, batch_size=2, workers=0, augment=Augment(color_jitter=0.2))
    runs = {}
    for mode in ("off", "auto", "again"):
        data = Folder(root=str(tmp_path / "videos"), cache="off" if mode == "off" else "auto")
        recipe = Recipe(name="r", model=model, data=data, train=config, evaluate=EvaluateConfig(clips=1, workers=0))
        if mode == "again":
            monkeypatch.setattr("gesta.data.frame_cache.read_whole", None)
        runs[mode] = train(recipe, tmp_path / mode, quiet=True)
    weights = {mode: (run / "best.safetensors").read_bytes() for mode, run in runs.items()}
    logs = {mode: (run / "log.jsonl").read_text() for mode, run in runs.items()}
    assert weights["off"] == weights["auto"] == weights["again"]
    assert "decoded frames of 8 videos are kept" in logs["auto"] and "8 of them already" in logs["again"]
    assert "decoded frames" not in logs["off"]


def test_verbs_that_train_nothing_refuse_it(
    tmp_path: Path, records: list[Record], capsys: pytest.CaptureFixture[str]
) -> None:
    write_video(tmp_path / "videos" / "a" / "0.mp4")
    with pytest.raises(SystemExit):
        main(["data", "list", str(tmp_path / "videos"), "--cache", "off"])
    assert "--cache: only trainings keep decoded frames" in capsys.readouterr().err
