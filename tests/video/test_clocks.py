"""Clocks of every kind: frames are those of a decode from the beginning, at the times when players show them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.logging
import numpy as np
import pytest
import torch
from av.video.frame import PictureType
from torch import Tensor

from gesta.curation.check import check
from gesta.curation.prepare import prepare
from gesta.data.frame_cache import FrameCache
from gesta.errors import VideoError
from gesta.records import Record
from gesta.video import index
from gesta.video.decode import VideoFile
from gesta.video.probe import probe
from gesta.video.read import Selection, frame_times, read, stream

BENCHMARKS = Path(__file__).parents[2] / "benchmarks" / "robustness"

PAIRS = [
    ("mpegts", "libx264"),
    ("mpegts", "libx265, open"),
    ("flv", "libx264"),
    ("mp4", "libx264"),
    ("matroska", "libx264"),
    ("avi", "mpeg4"),
    *(
        pytest.param(*pair, marks=pytest.mark.full)  # the same code as those above
        for pair in [("mp4", "libx264, open"), ("mp4", "libx265"), ("matroska", "libx265"), ("webm", "libvpx")]
    ),
]


@pytest.mark.parametrize("container, codec", PAIRS)
def test_every_clock_gives_the_frames_of_a_plain_decode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, container: str, codec: str
) -> None:
    """The small form of benchmarks/robustness/frames.py: every frame and clip of every container and codec."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import frames

    av.logging.set_level(av.logging.PANIC)
    tally = frames.Tally()
    clocks = [*frames.CLOCKS, *frames.JOINS]
    path = tmp_path / f"a.{frames.CONTAINERS[container]}"
    for name, data in frames.written(container, codec, 24, clocks):
        path.write_bytes(data)
        frames.judge(path, f"{name}, {container} {codec}", tally, every=11)
    assert tally.wrong == [] and tally.files >= 8 and tally.unreadable == 0
    assert bool(tally.shortcuts) == ("libx26" in codec)


def all_times(path: Path) -> list[float]:
    return [frame.time for frame in stream(path, short_side=16)]


def numbered(path: Path, picture: Callable[[int], int], times: list[int], **options: Any) -> Path:
    """Frames of grey level ``picture(i)`` at these times in milliseconds; with ``sound``, it begins at 0 s."""
    base = options.get("base", 1000)
    with av.open(str(path), "w") as container:
        video = container.add_stream(options.get("codec", "libx264"), rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        video.options = {} if "codec" in options else {"x264-params": "keyint=12:scenecut=0:bframes=2:b-adapt=0"}
        video.codec_context.time_base = Fraction(1, base)
        sound: Any = container.add_stream("pcm_s16le", rate=8000, layout="mono") if options.get("sound") else None
        if sound:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), "s16", "mono")
            silence.sample_rate = 8000
            container.mux([*sound.encode(silence)])
        for i, time in enumerate(times):
            grey = np.full((48, 64, 3), picture(i), np.uint8)
            frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
            frame.pts, frame.time_base = time * base // 1000, Fraction(1, base)
            container.mux(video.encode(frame))
        container.mux(video.encode())
    return path


def grey(images: Tensor) -> list[int]:
    return [round(float(image.float().mean()) / 8) for image in images]


def test_joined_recordings_keep_time_and_are_named(tmp_path: Path) -> None:
    """Two recordings one after the other; the clock of the second begins anew, half a frame later."""
    first = numbered(tmp_path / "first.ts", lambda i: 8 * i, list(range(0, 600, 40)))
    second = numbered(tmp_path / "second.ts", lambda i: 8 * (15 + i), list(range(20, 620, 40)))
    path = tmp_path / "joined" / "joined.ts"
    path.parent.mkdir()
    path.write_bytes(first.read_bytes() + second.read_bytes())
    info = probe(path)
    assert (info.frames, info.fps, info.variable_rate) == (30, pytest.approx(25), False)
    assert info.duration == pytest.approx(1.2, abs=1e-3) and info.contradictory_times
    assert all_times(path) == pytest.approx([i / 25 for i in range(30)], abs=1e-3)
    assert grey(read(path, torch.arange)) == list(range(30))
    assert grey(read(path, torch.arange, seconds=(0.8, 1.0))) == [20, 21, 22, 23, 24, 25]
    report = check([Record(path=str(path), name="joined", label=0)], workers=0, progress=False)
    (text,) = [finding.text for finding in report.findings if finding.kind == "contradictory times"]
    assert text.startswith(str(path)) and "gesta data prepare" in text
    prepare(path.parent, tmp_path / "out", workers=0)
    copy = probe(tmp_path / "out" / "joined.mp4")
    assert (copy.frames, copy.contradictory_times) == (30, False) and copy.duration == pytest.approx(1.2, abs=1e-2)


def test_dropped_pictures_of_avi_take_time(tmp_path: Path) -> None:
    """AVI repeats a picture by an empty chunk: three of four here."""
    (tmp_path / "v").mkdir()
    path = numbered(
        tmp_path / "v" / "a.avi", lambda i: 8 * i % 256, [160 * i for i in range(10)], codec="mpeg4", base=25
    )
    assert all_times(path) == pytest.approx([0.16 * i for i in range(10)])
    assert [frame.duration for frame in stream(path)][-1] == pytest.approx(0.04)
    info = probe(path)
    assert (info.frames, info.fps, info.duration) == (10, pytest.approx(6.25), pytest.approx(1.48))
    assert grey(read(path, torch.arange, seconds=(0.5, 1.0))) == [3, 4, 5, 6]
    prepare(tmp_path / "v", tmp_path / "out", fps=12.5, workers=0)
    assert probe(tmp_path / "out" / "a.mp4").frames == pytest.approx(1.48 * 12.5, abs=1)


def test_times_begin_with_the_sound(tmp_path: Path) -> None:
    path = numbered(tmp_path / "late.mkv", lambda i: 8 * i % 256, [3000 + 40 * i for i in range(20)], sound=True)
    times = [3 + i / 25 for i in range(20)]
    assert all_times(path) == pytest.approx(times, abs=2e-3)
    with VideoFile(str(path)) as file:
        assert file.times() == pytest.approx(times, abs=2e-3)
    assert grey(read(path, torch.arange, seconds=(3.2, 3.4))) == [5, 6, 7, 8, 9, 10]
    assert probe(path).start == pytest.approx(3.0, abs=2e-3)
    for seconds in ((0.0, 2.9), (3.9, 5.0)):
        with pytest.raises(VideoError, match=r"late.mkv: shows pictures from 3.00 to 3.80 s, none of them from"):
            read(path, torch.arange, seconds=seconds)
    records = [Record(path=str(path), name="late", label=0, seconds=s) for s in ((3.0, 4.0), (3.0, 5.0), (4.0, 5.0))]
    report = check(records, workers=0, progress=False)
    assert [(f.severity, "from 3.00 to 3.80 s" in f.text) for f in report.findings if f.kind == "beyond the end"] == [
        ("error", True),
        ("warning", True),
    ]
    assert any(finding.kind == "begins late" for finding in report.findings)


HIDDEN = (5, 12, 20)


def hiding(path: Path, codec: str = "vp8") -> Path:
    """33 pictures of grey level ``8 * i``, those of HIDDEN never shown, as alternate references are.

    The encoders make none in one pass; of packets that are to be hidden the bit ``show_frame`` is taken away. libav
    then puts those of VP9 into one packet with the next (a superframe), as its format asks for.
    """
    name, bit = {"vp8": ("libvpx", 0x10), "vp9": ("libvpx-vp9", 0x02)}[codec]
    with av.open(str(path), "w") as container:
        base = Fraction(1, 25 if path.suffix == ".avi" else 1000)
        encoder: Any = av.CodecContext.create(name, "w")
        encoder.width, encoder.height, encoder.pix_fmt, encoder.bit_rate = 64, 48, "yuv420p", 300_000
        encoder.framerate, encoder.time_base = 25, Fraction(1, 25)
        encoder.options = {"lag-in-frames": "0", "deadline": "realtime", "cpu-used": "8"}
        video: Any = container.add_stream(name, rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        video.codec_context.time_base = base
        shown = 0
        for i in range(33):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 8 * i % 256, np.uint8), format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            if codec == "vp9" and i in HIDDEN:  # in a key frame nothing else depends on the bit
                frame.pict_type = PictureType.I
            (encoded,) = encoder.encode(frame)
            data = bytearray(bytes(encoded))
            data[0] &= ~bit if i in HIDDEN else 0xFF
            packet = av.Packet(bytes(data))
            # a hidden one comes a millisecond after the one before; AVI counts all
            packet.pts = packet.dts = i if path.suffix == ".avi" else 40 * shown - 39 * (i in HIDDEN)
            packet.time_base, packet.stream, packet.is_keyframe = base, video, encoded.is_keyframe
            container.mux(packet)
            shown += i not in HIDDEN
    return path


@pytest.mark.parametrize("name, codec", [("a.webm", "vp8"), ("a.avi", "vp8"), ("a.webm", "vp9")])
def test_hidden_pictures_are_no_frames(tmp_path: Path, name: str, codec: str) -> None:
    path = hiding(tmp_path / name, codec)
    shown = [i for i in range(33) if i not in HIDDEN]
    times = [i / 25 for i in (shown if name == "a.avi" else range(30))]
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    assert len(packets) == (33 if codec == "vp8" else 30)
    assert all_times(path) == pytest.approx(times)
    assert frame_times(str(path)) == pytest.approx(times)
    for info in (probe(path), probe(path, exact=True)):
        assert (info.frames, info.damaged, info.contradictory_times) == (30, 0, False)
        assert info.duration == pytest.approx(times[-1] + 1 / 25)
        if name == "a.webm":
            assert (info.fps, info.variable_rate) == (pytest.approx(25), False)
    with VideoFile(str(path)) as file:
        assert file._decoded_times is None  # the packets tell; nothing is decoded for it
    levels = [i % 32 for i in shown]
    assert grey(read(path, torch.arange)) == levels
    assert grey(read(path, lambda n: torch.tensor([n // 2, n - 1]))) == [levels[15], levels[29]]
    for first, last in ((0, 3), (4, 11), (10, 19), (18, 29)):
        assert grey(read(path, torch.arange, seconds=(times[first], times[last]))) == levels[first : last + 1]
    cache = FrameCache(tmp_path / "cache", fills=True)
    for _ in range(2):
        assert grey(cache.read_frames(str(path), lambda n: Selection(torch.arange(n))).images) == levels
    assert len([*(tmp_path / "cache").rglob("*.npy")]) == 1


def test_a_video_of_hidden_pictures_alone_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an encrypted one looks, whose bytes are anything."""
    monkeypatch.setattr(sys.modules[__name__], "HIDDEN", range(33))
    path = hiding(tmp_path / "a.webm")
    for seconds in (None, (0.0, 1.0)):
        with pytest.raises(VideoError, match="no frame of it can be decoded"):
            read(path, torch.arange, seconds=seconds)
    with pytest.raises(VideoError, match="no frame of it can be decoded"):
        probe(path)


@pytest.mark.parametrize("held", [index.HELD_BYTES, 0], ids=["small", "large"])
def test_seconds_are_presentation_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int) -> None:
    """A variable rate with B-frames, also where the file is too large to hold and its own index has decoding times."""
    monkeypatch.setattr(index, "HELD_BYTES", held)
    times = np.cumsum([40 if i < 20 else 200 for i in range(40)]) - 40
    path = numbered(tmp_path / "a.mp4", lambda i: 8 * i % 256, times.tolist(), base=1000)
    with VideoFile(str(path)) as file:
        assert file.times() == pytest.approx(times / 1000, abs=2e-3)
        assert (file._index.packets is None) == (held == 0)
    expected = [i for i in range(40) if 1.0 - 0.2 < times[i] / 1000 <= 3.0]
    assert grey(read(path, torch.arange, seconds=(1.0, 3.0))) == expected


def test_the_cases_of_the_issue(shared: Path) -> None:
    """Files of which readers gave wrong frames or times; what is right was found by decoding them elsewhere."""
    videos = shared / "cases" / "video"
    if not videos.is_dir():
        pytest.skip("no cases beside this checkout")
    whole = torch.stack([frame.image for frame in stream(videos / "overlap.ts")])
    assert len(whole) == 150
    for k in range(85, 100):
        assert torch.equal(read(videos / "overlap.ts", lambda n, k=k: torch.tensor([k])), whole[k : k + 1])  # type: ignore[misc]
    info = probe(videos / "overlap.ts")
    assert (info.fps, info.duration) == (30.0, pytest.approx(5.0, abs=1e-3))
    assert all_times(videos / "a.avi")[-1] == pytest.approx(147 / 30)
    assert probe(videos / "a.avi").duration == pytest.approx(148 / 30)
    late = all_times(videos / "off.mkv")
    assert (late[0], late[-1]) == (pytest.approx(3.023), pytest.approx(5.99))
