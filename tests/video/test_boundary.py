"""Whatever a decoder raises about a file belongs to that file alone, and everything else goes on."""

from __future__ import annotations

import errno
import io
import os
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

import gesta.video.container as containers
import gesta.video.images as images
from gesta.curation.check import check
from gesta.curation.prepare import prepare
from gesta.data.samples import TestViews
from gesta.errors import DecodeError, GestaError, VideoError
from gesta.model import ClipSpec
from gesta.recipe import EvaluateConfig
from gesta.records import Record
from gesta.video.boundary import decoding
from gesta.video.picture import FrameConverter
from gesta.video.probe import probe
from gesta.video.read import read, stream

MakeVideo = Callable[..., Path]
RAISED = [
    IndexError("list index out of range"),
    AttributeError("'SpiderImageFile' object has no attribute 'stkoffset'"),
    struct.error("unpack requires a buffer of 4 bytes"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    RecursionError("maximum recursion depth exceeded"),
    MemoryError(),
    SyntaxError("broken PNG file"),
    OverflowError("two\nlines"),
]


def everything(n: int) -> torch.Tensor:
    return torch.arange(n)


def all_streamed(path: Path) -> list[Any]:
    return list(stream(path))


READERS: list[Callable[[Path], Any]] = [
    lambda path: read(path, everything),
    probe,
    lambda path: probe(path, exact=True),
    all_streamed,
]


def late_sound(path: Path, late: int = 15, rate: int = 5) -> Path:
    """An FLV of ``late`` + 2 seconds whose sound begins after ``late`` ones, and whose header does not promise any."""
    with av.open(str(path), "w", format="flv", options={"flvflags": "no_metadata"}) as container:
        video = container.add_stream("flv", rate=rate)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream("pcm_s16le", rate=44100, layout="mono")
        for i in range(rate * (late + 2)):
            picture = np.full((48, 64, 3), 3 * i % 256, np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            if i >= rate * late:
                silence = av.AudioFrame.from_ndarray(np.zeros((1, 44100 // rate), np.int16), "s16", "mono")
                silence.sample_rate, silence.pts = 44100, i * 44100 // rate
                container.mux(sound.encode(silence))
        container.mux(video.encode())
    data = bytearray(path.read_bytes())
    data[4] = 1  # flags: video only
    path.write_bytes(data)
    return path


def test_an_intact_flv_whose_sound_begins_late_is_read_whole(tmp_path: Path) -> None:
    path = late_sound(tmp_path / "late.flv")
    with av.open(str(path)) as container:
        assert not container.streams.audio, "the sound must not be known when the file is opened"
        with pytest.raises(IndexError):
            list(container.demux(container.streams.video[0]))
    info = probe(path, exact=True)
    assert (info.frames, info.damaged, probe(path).frames) == (85, 0, 85)
    grey = [round(float(frame.float().mean())) for frame in read(path, everything)]
    assert np.abs(np.array(grey) - np.arange(85) * 3).max() <= 4
    assert len(all_streamed(path)) == 85


@pytest.mark.parametrize("raised", RAISED, ids=lambda error: type(error).__name__)
def test_no_exception_of_a_decoder_leaves_the_boundary(
    make_video: MakeVideo, monkeypatch: pytest.MonkeyPatch, raised: Exception
) -> None:
    path = make_video("a.mp4", frames=4)
    folder = path.with_name("frames")
    folder.mkdir()
    for i in range(3):
        Image.new("RGB", (64, 48)).save(folder / f"img_{i}.jpg")

    def broken(*arguments: Any, **options: Any) -> Any:
        raise raised

    for module, name, source in [
        (containers.av, "open", path),
        (containers, "_choose_stream", path),
        (containers.Deadline, "check", path),
        (FrameConverter, "picture", path),
        (FrameConverter, "size", path),
        (images.Image, "open", folder),
        (images.Image.Image, "convert", folder),
        (images, "scaled_size", folder),
    ]:
        with monkeypatch.context() as patch:
            patch.setattr(module, name, broken)
            errors = []
            for reader in READERS:
                try:
                    reader(source)
                except VideoError as error:
                    errors.append(str(error))
            assert errors, f"{name} is not called by any reader"
            for text in errors:
                assert text.startswith(str(source)) and "; " in text and "\n" not in text


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_interruptions_and_our_own_errors_pass(interruption: type[BaseException]) -> None:
    with pytest.raises(interruption), decoding("a.mp4"):
        raise interruption
    own = VideoError("a.mp4: was not read within 60 seconds; …")
    with pytest.raises(VideoError) as passed, decoding("a.mp4"):
        raise own
    assert passed.value is own


def test_the_machines_faults_are_not_called_damage(tmp_path: Path) -> None:
    for error, remedy in [
        (av.error.PermissionError(errno.EACCES, "Permission denied", "a.mp4"), "permissions"),
        (OSError(errno.EIO, "Input/output error"), "check the disk"),
        (MemoryError(), "free some memory"),
    ]:
        with pytest.raises(VideoError, match=remedy) as raised, decoding("a.mp4"):
            raise error
        assert not isinstance(raised.value, DecodeError) and "damaged" not in str(raised.value)
    for number, remedy in ((errno.EMFILE, "limit of open files"), (errno.ENFILE, "close other programs")):
        with pytest.raises(GestaError, match=remedy) as raised, decoding("a.mp4"):
            raise OSError(number, os.strerror(number))
        assert type(raised.value) is GestaError  # not of this file: no evaluation may count it as wrong
    with pytest.raises(DecodeError, match="is damaged"), decoding("a.mp4"):
        raise av.error.InvalidDataError(errno.EINVAL, "Invalid data", "a.mp4")


def damaged_spider() -> bytes:
    file = io.BytesIO()
    Image.new("F", (20, 20), 1.0).save(file, "SPIDER")
    data = bytearray(file.getvalue())
    data[4 * 26 : 4 * 27] = struct.pack("<f", 1.0)  # one picture of a stack that is not there
    return bytes(data)


def test_only_four_formats_of_pictures_are_opened_whatever_their_name(tmp_path: Path) -> None:
    pictures = tmp_path / "video"
    pictures.mkdir()
    for i, name in enumerate(["JPEG", "PNG", "BMP", "WEBP"]):
        Image.new("RGB", (64, 48), (i, i, i)).save(pictures / f"img_{i}.jpg", name)
    Image.new("RGB", (64, 48)).save(pictures / "img_4.jpg", "MPO", save_all=True, append_images=[])  # of some cameras
    (pictures / "img_5.jpg").write_bytes(damaged_spider())
    Image.new("RGB", (64, 48)).save(pictures / "img_6.jpg", "EPS")  # which starts Ghostscript
    Image.new("RGB", (64, 48)).save(pictures / "img_7.jpg", "TIFF")
    assert len(read(pictures, everything)) == 5
    info = probe(pictures, exact=True)
    assert (info.frames, info.damaged) == (5, 3)
    for i in range(5):
        (pictures / f"img_{i}.jpg").unlink()
    with pytest.raises(VideoError, match=r"img_\d.jpg: is no JPEG, PNG, BMP or WebP picture"):
        read(pictures, everything)


def test_mutated_files_end_in_frames_or_one_sentence(make_video: MakeVideo, tmp_path: Path) -> None:
    """Every way of reading, and the verbs that go through many files: none is stopped by one of them."""
    root = tmp_path / "videos" / "wave"
    root.mkdir(parents=True)
    sources = [late_sound(tmp_path / "late.flv", late=11, rate=2), *(make_video(f"a{s}") for s in (".mkv", ".avi"))]
    for number in range(24):
        source = sources[number % len(sources)]
        data, draw = bytearray(source.read_bytes()), random.Random(number)
        for _ in range(draw.choice((1, 4, 30))):
            data[draw.randrange(len(data))] = draw.randrange(256)
        path = root / f"{number:02d}{source.suffix}"
        path.write_bytes(data[: draw.choice((None, len(data) // 2))])
        for reader in READERS:
            try:
                reader(path)
            except VideoError as error:
                assert str(error).startswith(str(path)) and "\n" not in str(error)
    (root / "spider").mkdir()
    for i in range(3):
        (root / "spider" / f"img_{i}.jpg").write_bytes(damaged_spider())
    shutil.copy(sources[0], root / "late.flv")
    paths = [str(path) for path in sorted(root.iterdir())]
    records = [Record(path=path, name=path, label=0) for path in paths]
    report = check(records, workers=0, progress=False)
    undecodable = [finding.text for finding in report.findings if finding.kind == "cannot be decoded"]
    assert any("img_" in text for text in undecodable) and not any("late.flv" in text for text in undecodable)
    views = TestViews(records, ClipSpec(frames=4, size=16), EvaluateConfig(short_side=256, clips=1))
    failed = {path for path, sample in zip(paths, map(views.__getitem__, range(len(paths)))) if "video" not in sample}
    assert failed == {text.split(": ")[0] for text in undecodable}
    prepare(root.parent, tmp_path / "out", short_side=32, workers=0)
    assert os.path.isfile(tmp_path / "out" / "wave" / "late.mp4")
