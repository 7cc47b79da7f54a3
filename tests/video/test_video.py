"""Reading: made videos of every awkward kind, folders of frames, and the genuine clips where they are present."""

from __future__ import annotations

import functools
import http.server
import os
import pickle
import sys
import threading
import wave
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.stream import Disposition
from PIL import Image
from torch import Tensor

from gesta.errors import GestaError, VideoError
from gesta.video import container as containers
from gesta.video import decode, index
from gesta.video.deadline import Deadline
from gesta.video.find import find_videos
from gesta.video.images import image_files
from gesta.video.picture import FrameBuffer, size_problem, upright
from gesta.video.probe import probe
from gesta.video.read import Selection, read, read_frames, stream

MakeVideo = Callable[..., Path]


def grey(frames: Tensor) -> list[int]:
    """Frame numbers from the grey level that ``make_video`` gives its pictures."""
    return [round(value / 4) for value in frames[..., 2, 2].float().mean(-1).flatten().tolist()]


def everything(n: int) -> Tensor:
    return torch.arange(n)


def encode(
    path: Path,
    codec: str = "libx264",
    frames: int = 60,
    gop: int = 12,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    times: list[int] | None = None,
    spoil: int | None = None,
) -> Path:
    """A 64 x 48 video of noise that moves, so that every frame differs; ``spoil`` overwrites one packet."""
    rng = np.random.default_rng(0)
    base = rng.integers(0, 255, (48, 64, 3), dtype=np.uint8).repeat(2, 0).repeat(2, 1)
    with av.open(str(path), "w", options=container_options or {}) as container:
        video = container.add_stream(codec, rate=25)
        video.width, video.height, video.gop_size = 64, 48, gop
        video.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        video.options = options or {}
        packets = []
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(np.roll(base, (i, 2 * i), (0, 1))[:48, :64].copy(), format="rgb24")
            frame.pts = i if times is None else times[i]
            frame.time_base = Fraction(1, 25)
            packets += video.encode(frame)
        packets += video.encode()
        for i, packet in enumerate(packets):
            if i == spoil:
                broken = av.Packet(b"\x00" * packet.size)
                broken.pts, broken.dts, broken.time_base = packet.pts, packet.dts, packet.time_base
                broken.stream, broken.is_keyframe = packet.stream, packet.is_keyframe
                packet = broken
            container.mux(packet)
    return path


def decode_from_start(path: Path | str, short_side: int | None = None) -> np.ndarray:
    """All frames in the order in which a decoder without any shortcut gives them."""
    with decode.VideoFile(str(path)) as file:
        file._shortcut = False
        while True:
            buffer = FrameBuffer(list(range(file.frames)), short_side)
            file.fill(buffer)
            if not buffer.missing:
                assert buffer.images is not None
                return buffer.images


# --- reading ---------------------------------------------------------------------------------------------------------


def test_indices_of_any_shape_repeated_and_in_any_order(make_video: MakeVideo) -> None:
    path = make_video("a.mp4", frames=30)
    frames = read(path, lambda n: torch.tensor([[n - 1, 0, 7], [7, 3, 12]]))
    assert frames.shape == (2, 3, 3, 48, 64) and frames.dtype == torch.uint8
    assert grey(frames) == [29, 0, 7, 7, 3, 12]
    assert read(path, lambda n: torch.tensor(5)).shape == (3, 48, 64)
    assert grey(read(path, lambda n: np.arange(n))) == list(range(30))


def test_a_segment_counts_from_its_start(make_video: MakeVideo) -> None:
    path = make_video("a.mp4", frames=30)
    seen = []

    def choose(n: int) -> Tensor:
        seen.append(n)
        return torch.tensor([0, n - 1])

    assert grey(read(path, choose, start=10, end=20)) == [10, 19]
    assert grey(read(path, choose, start=25, end=99)) == [25, 29]
    assert seen == [10, 5]
    with pytest.raises(VideoError, match=r"a\.mp4: has 30 frames, none of them from 30 to 40; correct"):
        read(path, choose, start=30, end=40)
    with pytest.raises(ValueError, match="indices from 0 to 29"):
        read(path, lambda n: torch.tensor([n]))


@pytest.mark.parametrize("short_side, size", [(24, (24, 32)), (96, (96, 128)), (48, (48, 64)), (None, (48, 64))])
def test_the_short_side_is_scaled_down_and_up(
    make_video: MakeVideo, short_side: int | None, size: tuple[int, int]
) -> None:
    frames = read(make_video("a.mp4"), everything, short_side=short_side)
    assert frames.shape == (24, 3, *size)
    assert grey(frames) == list(range(24))


def test_sides_are_rounded_to_the_nearest_pixel(make_video: MakeVideo) -> None:
    wide = make_video("wide.mp4", size=(342, 256), frames=2)
    assert read(wide, everything, short_side=128).shape == (2, 3, 128, 171)
    tall = make_video("tall.mp4", size=(48, 130), frames=2)
    assert read(tall, everything, short_side=17).shape == (2, 3, 46, 17)


def test_scaling_averages_what_it_drops(make_video: MakeVideo) -> None:
    path = make_video("a.mp4", size=(640, 480), frames=3)
    full = read(path, everything).float()
    expected = torch.nn.functional.interpolate(full, (48, 64), mode="bilinear", antialias=True)
    assert (read(path, everything, short_side=48) - expected).abs().mean() < 1


def test_a_broken_packet_costs_its_frames_and_choose_learns_the_true_number(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mkv", "mjpeg", frames=10, spoil=4)
    whole = decode_from_start(encode(tmp_path / "b.mkv", "mjpeg", frames=10))
    seen: list[int] = []

    def choose(n: int) -> Tensor:
        seen.append(n)
        return torch.arange(n)

    frames = read(path, choose)
    assert seen == [10, 9]
    assert np.array_equal(frames.numpy(), np.delete(whole, 4, axis=0))
    images, selection, count, broken = read_frames(path, lambda n: Selection(torch.arange(n)))
    assert broken == "", "a packet in the middle is not the end"
    assert torch.equal(images, frames) and torch.equal(selection.indices, torch.arange(9)) and count == 9
    info = probe(path, exact=True)
    assert (info.frames, info.damaged, probe(path).frames) == (9, 1, 10)


def test_a_broken_h264_packet_ends_the_shortcut_not_the_reading(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", frames=40, gop=10, spoil=25)
    whole = decode_from_start(path)
    assert 30 <= len(whole) < 40
    assert np.array_equal(read(path, everything).numpy(), whole)


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("suffix", ["mkv", "avi", "mp4", "ts"])
def test_a_file_that_breaks_off_is_read_to_there_or_refused(tmp_path: Path, suffix: str, keep: float) -> None:
    path = encode(tmp_path / f"a.{suffix}", "mpeg4" if suffix == "avi" else "libx264")
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data))])
    if suffix == "mp4" or (suffix == "avi" and keep < 0.5):  # the index at the end, the header at 20 % are missing
        with pytest.raises(VideoError, match="cannot be opened as a video"):
            read(path, everything)
    else:
        assert 1 <= len(read(path, everything)) <= 60


# --- shortcuts -------------------------------------------------------------------------------------------------------

KINDS = {
    "b-frames.mp4": {"options": {"bf": "3", "b-pyramid": "normal"}},
    "open-gop.mkv": {"options": {"x264-params": "open-gop=1:bframes=3:b-adapt=0:keyint=12:scenecut=0"}},
    "intra-refresh.mkv": {"options": {"x264-params": "intra-refresh=1:keyint=12"}},
    "every-frame-a-key.mp4": {"gop": 1},
    "fragments.mp4": {"container_options": {"movflags": "frag_keyframe"}},
    "broadcast.ts": {},
    "one-key.mp4": {"gop": 600},
    "uneven.mkv": {"times": [i * i for i in range(60)]},
}


@pytest.mark.parametrize("held", [index.HELD_BYTES, 0], ids=["small", "large"])
@pytest.mark.parametrize("name", KINDS)
def test_the_shortcut_gives_the_frames_of_decoding_from_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, held: int
) -> None:
    path = encode(tmp_path / name, **KINDS[name])  # type: ignore[arg-type]
    whole = decode_from_start(path)
    assert len(whole) == 60
    monkeypatch.setattr(index, "HELD_BYTES", held)
    reads = shortcuts_taken = 0
    for first in range(0, 60, 7):
        for step in (1, 4):
            wanted = list(range(first, min(first + 6 * step, 60), step))
            with decode.VideoFile(str(path)) as file:
                buffer = FrameBuffer(wanted, None)
                file.fill(buffer)
                shortcuts_taken += file._shortcut
            reads += 1
            assert not buffer.missing
            assert np.array_equal(buffer.images, whole[wanted])
    if name == "intra-refresh.mkv":  # no clean key frame to enter at but the first: the shortcut must notice
        assert shortcuts_taken < reads / 2
    else:
        assert shortcuts_taken == reads


def test_a_shortcut_decodes_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = encode(tmp_path / "a.mp4", frames=120, gop=10)
    decoded = 0
    decode_packets = decode.decode_packets

    def counting(*arguments: object) -> object:
        nonlocal decoded
        for frame in decode_packets(*arguments):  # type: ignore[arg-type]
            decoded += 1
            yield frame

    monkeypatch.setattr(decode, "decode_packets", counting)
    read(path, lambda n: torch.tensor([0, 61, 119]))
    assert decoded < 30


# --- what files are like ---------------------------------------------------------------------------------------------


def test_probe(make_video: MakeVideo) -> None:
    info = probe(make_video("a.mkv", frames=24, fps=12))
    assert (info.kind, info.frames, info.width, info.height, info.codec) == ("file", 24, 64, 48, "h264")
    assert info.fps == pytest.approx(12) and info.duration == pytest.approx(2.0, abs=1e-3)
    assert info.declared_frames is None and not info.variable_rate and info.rotation == 0
    assert info.to_json()["frames"] == 24


def test_a_variable_rate_is_seen_and_streams_keep_time(tmp_path: Path) -> None:
    times = [0, 1, 2, 10, 11, 12, 13, 14, 15, 30]
    path = encode(tmp_path / "a.mp4", frames=10, times=times)
    assert probe(path).variable_rate
    assert [frame.time for frame in stream(str(path))] == pytest.approx([t / 25 for t in times], abs=1e-3)


@pytest.mark.parametrize(
    "matrix, expected",
    [
        ((1, 0, 0, 1), [[1, 2, 3], [4, 5, 6]]),
        ((0, 1, -1, 0), [[4, 1], [5, 2], [6, 3]]),  # a quarter turn clockwise
        ((-1, 0, 0, -1), [[6, 5, 4], [3, 2, 1]]),
        ((0, -1, 1, 0), [[3, 6], [2, 5], [1, 4]]),
        ((-1, 0, 0, 1), [[3, 2, 1], [6, 5, 4]]),  # a mirror
        ((1, 0, 0, -1), [[4, 5, 6], [1, 2, 3]]),
        ((0, 1, 1, 0), [[1, 4], [2, 5], [3, 6]]),
    ],
)
def test_display_matrices(matrix: tuple[int, int, int, int], expected: list[list[int]]) -> None:
    picture = np.array([[[1, 2, 3], [4, 5, 6]]])
    assert upright(picture, tuple(65536 * value for value in matrix)).tolist() == [expected]  # type: ignore[arg-type]


@pytest.mark.skipif(not hasattr(av.video.stream.VideoStream, "set_display_rotation"), reason="an older PyAV")
def test_rotation_is_applied_before_the_short_side(tmp_path: Path, make_video: MakeVideo) -> None:
    plain = make_video("plain.mp4", frames=3)
    turned = tmp_path / "turned.mp4"
    with av.open(str(plain)) as source, av.open(str(turned), "w") as target:
        video = target.add_stream_from_template(source.streams.video[0])
        video.set_display_rotation(90)
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = video
                target.mux(packet)
    info = probe(turned)
    assert (info.width, info.height, info.rotation) == (48, 64, 90)
    expected = torch.rot90(read(plain, everything), 1, (-2, -1))
    assert torch.equal(read(turned, everything), expected)
    assert read(turned, everything, short_side=24).shape == (3, 3, 32, 24)
    assert next(stream(turned)).image.shape == (3, 64, 48)


def test_a_gif_and_odd_sizes(tmp_path: Path) -> None:
    pictures = [Image.new("RGB", (33, 21), (60 * i, 0, 255)) for i in range(4)]
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=100)
    frames = read(tmp_path / "a.gif", everything)
    assert frames.shape == (4, 3, 21, 33)
    assert frames[:, 0, 10, 10].tolist() == [0, 60, 120, 180] and (frames[:, 2] == 255).all()
    assert read(tmp_path / "a.gif", everything, short_side=10).shape == (4, 3, 10, 16)


def test_a_rough_name_is_only_a_name(make_video: MakeVideo, tmp_path: Path) -> None:
    for name in ("a b [1].mp4", "-dash.mp4", "http:colon.mp4", "wëbm 行动.mp4", "100%03d.mp4"):
        assert grey(read(make_video(name, frames=3), everything)) == [0, 1, 2]
    webm = make_video("real.mkv", frames=3)
    assert len(read(webm.rename(tmp_path / "lies.mp4"), everything)) == 3


def test_what_is_no_video_is_refused_in_one_sentence(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "picture.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "picture.mp4", "JPEG")
    (tmp_path / "words.txt").write_text("not a video\n" * 100)
    (tmp_path / "words.mp4").write_text("not a video\n" * 100)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "folder").mkdir()
    with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(b"\x01\x00" * 8000)
    with av.open(str(tmp_path / "song.m4a"), "w", format="mp4") as song:
        tune, cover = song.add_stream("aac", rate=8000), song.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt, cover.disposition = 64, 48, "yuvj420p", Disposition.attached_pic
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", "mono")
        silence.sample_rate = 8000
        picture = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
        for packet in [*cover.encode(picture), *cover.encode(), *tune.encode(silence), *tune.encode()]:
            song.mux(packet)
    cases = {
        "song.m4a": "holds no video, only a cover picture and audio",
        "picture.png": "still image",
        "picture.mp4": "still image",
        "words.txt": "cannot be opened as a video|text file",
        "words.mp4": "cannot be opened as a video",
        "empty.mp4": "cannot be opened as a video",
        "sound.wav": "holds no video, only audio",
        "missing.mp4": "does not exist",
        "folder": "holds no numbered images",
    }
    for name, what in cases.items():
        for action in (probe, lambda path: read(path, everything), lambda path: next(stream(path))):
            with pytest.raises(VideoError, match=what) as error:
                action(tmp_path / name)
            assert str(tmp_path / name) in str(error.value) and "; " in str(error.value)
            assert "\n" not in str(error.value)
    again = pickle.loads(pickle.dumps(error.value))  # loader processes send errors to the main one
    assert str(again) == str(error.value) and isinstance(again, GestaError)


# --- folders of frames -----------------------------------------------------------------------------------------------


def make_frames(folder: Path, template: str, numbers: list[int]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, number in enumerate(numbers):
        Image.new("RGB", (64, 48), (4 * i, 4 * i, 4 * i)).save(folder / template.format(number), quality=95)
    return folder


@pytest.mark.parametrize("first", [0, 1, 16])
@pytest.mark.parametrize(
    "template",
    [
        "img_{:05d}.jpg", "image_{:05d}.jpg", "{:05d}.jpg", "{:06d}.jpg", "frame_{:010d}.jpg", "frame{:06d}.jpg",
        "clip 1_{:06d}.jpg", "{}.png", "IMG-{}.JPEG",
    ],
)  # fmt: skip
def test_frame_folders_are_found_not_guessed(tmp_path: Path, template: str, first: int) -> None:
    folder = make_frames(tmp_path / "clip 1", template, [first + i for i in range(12)])
    for flow in ("flow_x_{:05d}.jpg", "flow_y_{:05d}.jpg", "x_{:05d}.jpg", "y_{:05d}.jpg"):
        make_frames(folder, flow, [1, 2, 3])
    (folder / "notes.txt").touch()
    (folder / "cover.jpg").touch()
    assert grey(read(folder, everything)) == list(range(12))
    assert grey(read(folder, everything, start=3, end=6)) == [3, 4, 5]
    assert read(folder, everything, short_side=24).shape == (12, 3, 24, 32)
    info = probe(folder)
    assert (info.kind, info.frames, info.width, info.height) == ("frames", 12, 64, 48)


def test_missing_numbers_are_no_frames_and_order_is_by_number(tmp_path: Path) -> None:
    folder = make_frames(tmp_path / "a", "{}.jpg", [2, 9, 10, 11, 100])
    assert grey(read(folder, everything)) == [0, 1, 2, 3, 4]
    assert [Path(name).name for name in image_files(str(folder))] == ["2.jpg", "9.jpg", "10.jpg", "11.jpg", "100.jpg"]


def test_a_broken_image_costs_its_frame(tmp_path: Path) -> None:
    folder = make_frames(tmp_path / "a", "img_{:05d}.jpg", list(range(6)))
    data = (folder / "img_00002.jpg").read_bytes()
    (folder / "img_00002.jpg").write_bytes(data[: len(data) // 2])
    (folder / "img_00004.jpg").write_bytes(b"")
    assert grey(read(folder, everything)) == [0, 1, 3, 5]
    assert grey(torch.stack([frame.image for frame in stream(folder)])) == [0, 1, 3, 5]
    info = probe(folder, exact=True)
    assert (info.frames, info.damaged) == (4, 2)


def test_ambiguous_and_flow_folders_are_refused(tmp_path: Path) -> None:
    make_frames(tmp_path / "two", "left_{}.jpg", [1, 2])
    make_frames(tmp_path / "two", "right_{}.jpg", [1, 2])
    with pytest.raises(VideoError, match=r"several image sequences \(left_\*\.jpg, right_\*\.jpg\)"):
        probe(tmp_path / "two")
    make_frames(tmp_path / "flow", "flow_x_{:05d}.jpg", [1, 2])
    with pytest.raises(VideoError, match="optical flow images only"):
        probe(tmp_path / "flow")
    (tmp_path / "depth").mkdir()
    Image.fromarray(np.full((8, 8), 3000, np.uint16)).save(tmp_path / "depth" / "1.png")
    with pytest.raises(VideoError, match="16-bit"):
        read(tmp_path / "depth", everything)


def test_find_videos(tmp_path: Path) -> None:
    for name in ("b/-x [1].mp4", "b/ü.WEBM", "a.avi", ".hidden/c.mp4", "b/.c.mp4", "b/notes.txt", "b/cover1.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    make_frames(tmp_path / "c" / "v1", "img_{:05d}.jpg", [1, 2])
    make_frames(tmp_path / "c" / "flow", "x_{:05d}.jpg", [1, 2])
    (tmp_path / "b" / "loop").symlink_to(tmp_path, target_is_directory=True)
    expected = sorted(str(tmp_path / name) for name in ("a.avi", "b/-x [1].mp4", "b/ü.WEBM", "c/v1"))
    assert find_videos(tmp_path) == expected
    assert find_videos(tmp_path / "a.avi") == [str(tmp_path / "a.avi")]
    with pytest.raises(VideoError, match="does not exist"):
        find_videos(tmp_path / "nowhere")


def test_folders_that_link_to_each_other_are_visited_once(tmp_path: Path) -> None:
    for i in range(10):
        (tmp_path / f"f{i}").mkdir()
        (tmp_path / f"f{i}" / "v.mp4").touch()
    for i in range(10):
        for j in range(10):
            (tmp_path / f"f{i}" / f"l{j}").symlink_to(tmp_path / f"f{j}", target_is_directory=True)
    (tmp_path / "f3" / "here").symlink_to(".", target_is_directory=True)
    (tmp_path / "a_first").symlink_to(tmp_path / "f0", target_is_directory=True)
    assert find_videos(tmp_path) == [str(tmp_path / f"f{i}" / "v.mp4") for i in range(10)]  # by their own names
    assert str(tmp_path / "a_first" / "v.mp4") in find_videos(tmp_path / "a_first")


def test_an_address_is_read_like_the_file(
    make_video: MakeVideo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_video("a.mkv")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    monkeypatch.setattr(handler.func, "log_message", lambda *_: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        for held in (index.HELD_BYTES, 0):  # with its packets held, and with the address opened again
            monkeypatch.setattr(index, "HELD_BYTES", held)
            assert torch.equal(read(address + "a.mkv", everything), read(path, everything))
        assert probe(address + "a.mkv").frames == probe(path).frames
        with pytest.raises(VideoError, match="check that the address is right"):
            probe(address + "b.mkv")
        server.shutdown()


# --- streams ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "ts"])
def test_streams_give_every_step_th_frame_with_its_time(tmp_path: Path, suffix: str) -> None:
    path = encode(tmp_path / f"a.{suffix}", "mpeg4" if suffix == "avi" else "libx264", frames=20)
    whole = decode_from_start(path, 24)
    frames = list(stream(str(path), short_side=24, step=3))
    assert [frame.index for frame in frames] == list(range(0, 20, 3))
    assert [frame.time for frame in frames] == pytest.approx([i / 25 for i in range(0, 20, 3)], abs=2e-3)
    for frame in frames:
        assert np.array_equal(frame.image.numpy(), whole[frame.index])


def test_a_camera_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"cannot be opened as a video .*; check that|cameras have names"):
        next(stream(987))
    with pytest.raises(VideoError, match=r"rtsp://127\.0\.0\.1:9/x: cannot be opened"):
        next(stream("rtsp://127.0.0.1:9/x"))


# --- torchcodec ------------------------------------------------------------------------------------------------------


@pytest.fixture
def torchcodec_loads() -> None:
    try:
        from gesta.video.torchcodec import video_decoder

        video_decoder()
    except GestaError as error:
        pytest.skip(str(error))


def alike(ours: Tensor, theirs: Tensor, exact: bool, mean: float = 5) -> None:
    """The same pictures: bit for bit where libswscale takes the same path, else close, and closer than to any other.

    8-bit 4:2:0 of even size goes through the same unscaled conversion in both. Other formats and sizes go through
    another filter of libswscale in torchcodec, whose chroma differs by interpolation, so only means can be compared.
    """
    assert ours.shape == theirs.shape
    if exact:
        assert torch.equal(ours, theirs)
        return
    distance = (ours[:, None].float() - theirs[None].float()).abs().flatten(2).mean(-1)
    assert distance.diagonal().max() < mean
    assert (distance.diagonal() <= distance.min(1).values).all()


@pytest.mark.parametrize("name", ["b-frames.mp4", "open-gop.mkv", "uneven.mkv"])
def test_both_decoders_give_the_same_frames(tmp_path: Path, torchcodec_loads: None, name: str) -> None:
    path = encode(tmp_path / name, **KINDS[name])  # type: ignore[arg-type]
    ours, theirs = (read(path, everything, decoder=decoder) for decoder in ("pyav", "torchcodec"))  # type: ignore[arg-type]
    alike(ours, theirs, exact=True)
    ours, theirs = (read(path, everything, short_side=24, decoder=d) for d in ("pyav", "torchcodec"))  # type: ignore[arg-type]
    # white noise at half size: two good filters differ most here, by a quarter of what two frames do
    alike(ours, theirs, exact=False, mean=12)


@pytest.mark.parametrize("error, remedy", [(ModuleNotFoundError, "pip install"), (RuntimeError, "install FFmpeg")])
def test_torchcodec_that_does_not_load_names_the_remedy(
    make_video: MakeVideo, monkeypatch: pytest.MonkeyPatch, error: type[Exception], remedy: str
) -> None:
    class Refuses:
        def find_spec(self, name: str, *arguments: object) -> None:
            if name.startswith("torchcodec"):
                raise error("no")

    for name in [name for name in sys.modules if name.split(".")[0] == "torchcodec"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Refuses(), *sys.meta_path])
    with pytest.raises(GestaError, match=remedy):
        read(make_video("a.mp4"), everything, decoder="torchcodec")


# --- genuine files ---------------------------------------------------------------------------------------------------


@pytest.fixture
def videos(shared: Path) -> Path:
    return shared / "videos"


def genuine(videos: Path, all_alike: bool) -> list[str]:
    """All files; of those that one program wrote in the same way, the first of each folder unless ``all_alike``."""
    first: dict[tuple[Path, str], str] = {}
    files = [path for path in find_videos(videos) if Path(path).is_file()]
    for path in files:
        kind = Path(path).name[0] if "IsoGD_phase_1" in path else "" if "egogestar" in path else path
        first.setdefault((Path(path).parent, kind), path)
    return files if all_alike else list(first.values())


alike_ones_in_the_full_suite = pytest.mark.parametrize("all_alike", [False, pytest.param(True, marks=pytest.mark.full)])


def test_genuine_corrupted_and_misnamed_files(videos: Path) -> None:
    corrupted = probe(videos / "decord/corrupted.mp4", exact=True)
    assert (corrupted.frames, corrupted.damaged) == (49, 1)
    (pippi,) = (videos / "hmdb51/hmdb51_org/cartwheel").iterdir()  # a tag that is not UTF-8, a header that lies
    assert probe(pippi, exact=True).frames == 83 and probe(pippi).declared_frames == 84
    assert len(read(pippi, lambda n: torch.tensor([0, n - 1]), short_side=16)) == 2
    edited = probe(videos / "misc/trnfork_sample_neg_2.mp4")
    assert (edited.frames, edited.declared_frames) == (36, 116)
    two_streams = probe(videos / "torchcodec/nasa_13013.mp4")
    assert (two_streams.width, two_streams.height) == (480, 270)
    assert probe(videos / "misc/mmaction2_part_0.mp4").variable_rate
    late = list(stream(videos / "torchcodec/test_non_zero_start.mp4"))
    assert late[0].time == 0 and late[-1].time == pytest.approx(11 / 30, abs=1e-3)


@pytest.mark.parametrize(
    "name, size", [("0", (568, 320)), ("90", (320, 568)), ("180", (568, 320)), ("270", (320, 568))]
)
def test_genuine_rotations(videos: Path, name: str, size: tuple[int, int]) -> None:
    info = probe(videos / f"decord/video_{name}.mov")
    assert (info.width, info.height) == size and info.rotation == -int(name) % 360
    assert read(info.path, everything).shape == (3, 3, size[1], size[0])


def test_avi_frames_stay_in_decode_order(videos: Path) -> None:
    path = videos / "ucf101/UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi"
    frames = read(path, everything, short_side=64).float()
    with av.open(str(path)) as container:
        timestamps = [frame.pts for frame in container.decode(video=0)]
    shuffled = frames[np.argsort(timestamps)]
    change, by_timestamp = ((video[1:] - video[:-1]).abs().mean() for video in (frames, shuffled))
    assert change < 0.8 * by_timestamp  # sorted by its timestamps this file jumps back and forth
    times = [frame.time for frame in stream(path, short_side=16)]
    assert times == pytest.approx([i / 25 for i in range(164)])


@pytest.mark.full  # tests/video/test_clocks.py compares every frame of files that it makes
@pytest.mark.parametrize("all_alike", [False, True])
def test_every_genuine_file_reads_the_same_with_and_without_shortcuts(videos: Path, all_alike: bool) -> None:
    shortcuts_taken = 0
    for path in genuine(videos, all_alike):
        whole = decode_from_start(path, 48)
        rng = np.random.default_rng(0)
        for _ in range(2):
            wanted = np.unique(np.clip(rng.integers(len(whole)) + 4 * np.arange(8), 0, len(whole) - 1)).tolist()
            with decode.VideoFile(path) as file:
                buffer = FrameBuffer(wanted, 48)
                file.fill(buffer)
                shortcuts_taken += file._shortcut
            assert np.array_equal(buffer.images, whole[wanted]), path
    assert shortcuts_taken > 40


@alike_ones_in_the_full_suite
def test_both_decoders_give_the_same_frames_of_every_genuine_file(
    videos: Path, torchcodec_loads: None, all_alike: bool
) -> None:
    for path in genuine(videos, all_alike):
        ours, theirs = (
            read(path, lambda n: torch.arange(0, n, max(n // 4, 1))[:4], decoder=decoder)  # type: ignore[arg-type]
            for decoder in ("pyav", "torchcodec")
        )
        alike(ours, theirs, exact=not any(word in path for word in ("10bits", "hdr", "height_and_width_mpeg2")))


def test_pictures_of_absurd_size_are_refused_before_they_are_scaled(tmp_path: Path) -> None:
    for i, size in enumerate([(60_000, 2), (50, 20_000), (64, 48)], start=1):
        Image.new("1", size).save(tmp_path / f"img_{i:05d}.png")
    assert read(tmp_path, lambda n: torch.arange(n), short_side=16).shape == (1, 3, 16, 21)
    info = probe(tmp_path, exact=True)
    assert (info.frames, info.damaged, info.width) == (1, 2, 64)
    (tmp_path / "img_00003.png").unlink()
    with pytest.raises(VideoError, match=r"img_0000[12].png: pictures of \d+ x \d+ pixels are not read"):
        read(tmp_path, lambda n: torch.arange(n), short_side=16)
    assert size_problem(7680, 4320) == "" and size_problem(2**14, 2**13) != "" and size_problem(0, 5) != ""


def test_videos_of_absurd_size_are_refused(make_video: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    long = make_video("long.mp4", size=(1040, 16))
    with pytest.raises(VideoError, match=r"long.mp4: by its header, pictures of 1040 x 16 pixels"):
        probe(long)
    path = make_video("a.mp4", size=(64, 48))
    assert read(path, lambda n: torch.arange(2)).shape == (2, 3, 48, 64)
    monkeypatch.setattr(containers, "LIMITS", {"max_pixels": "1000"})  # what says so inside the stream, to the decoder
    with pytest.raises(VideoError, match="no frame of it can be decoded"):
        read(path, lambda n: torch.arange(2))


def test_files_that_name_other_files_are_refused(make_video: Callable[..., Path], tmp_path: Path) -> None:
    """libav would open what they name, and the frames of another file would be taken for this one's."""
    make_video("other.mp4")
    for name, text in {
        "clip": "ffconcat version 1.0\nfile other.mp4\n",
        "clip.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nother.mp4\n#EXT-X-ENDLIST\n",
    }.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(VideoError, match=f"{name}: is a playlist or another text that names files"):
            probe(tmp_path / name)


def test_addresses_that_are_of_no_server_are_refused(make_video: Callable[..., Path], tmp_path: Path) -> None:
    """As by ``file:`` in a list, past the checks of files: a playlist would show the frames of another file."""
    path = make_video("other.mp4")
    (tmp_path / "a.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nother.mp4\n#EXT-X-ENDLIST\n")
    for address in (f"file://{tmp_path}/a.m3u8", f"subfile,,start,0,end,0,,:file://{path}", f"FILE://{path}"):
        for work in (
            probe,
            lambda source: next(stream(source)),
            lambda source: read(source, lambda n: torch.arange(n)),
        ):
            with pytest.raises(VideoError, match="is no address of a server; give the path of a file"):
                work(address)


def test_images_that_are_pipes_or_devices_do_not_stop_reading(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "img_00001.png")
    (tmp_path / "img_00002.png").symlink_to("/dev/zero")
    with pytest.raises(VideoError, match=r"img_0000[12].png: is not a file"):
        read(tmp_path, lambda n: torch.arange(n))
    Image.new("RGB", (64, 48)).save(tmp_path / "img_00003.png")
    assert read(tmp_path, lambda n: torch.arange(n)).shape == (1, 3, 48, 64)
    assert probe(tmp_path, exact=True).damaged == 2


@pytest.mark.parametrize("held", [True, False])
def test_reading_a_file_is_given_up_after_some_time(
    make_video: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, held: bool
) -> None:
    path = str(make_video("a.mp4"))
    monkeypatch.setattr(index, "HELD_BYTES", 2**20 if held else 0)
    late = Deadline(path, -10.0)
    for work in (lambda: read(path, lambda n: torch.arange(n), deadline=late), lambda: probe(path, deadline=late)):
        with pytest.raises(VideoError, match=r"a.mp4: was not read within -\d+ seconds"):
            work()


def test_a_file_has_time_by_what_it_has_on_the_disk(make_video: Callable[..., Path], tmp_path: Path) -> None:
    path = make_video("a.mp4")
    os.truncate(path, 2**40)
    assert Deadline(str(path)).seconds < 62
    path.write_bytes(bytes(2**18))
    assert Deadline(str(path), 5.0).seconds == 7.0
    for i in range(3):
        (tmp_path / "f").mkdir(exist_ok=True)
        (tmp_path / "f" / f"{i}.jpg").touch()
    assert Deadline(str(tmp_path / "f"), 5.0).seconds == 8.0


def test_links_that_lead_to_themselves_are_no_folders(make_video: Callable[..., Path], tmp_path: Path) -> None:
    path = make_video("v/a.mp4")
    (tmp_path / "v" / "again").symlink_to("again")
    (tmp_path / "v" / "up").symlink_to("..")
    assert find_videos(tmp_path / "v") == [str(path)]
