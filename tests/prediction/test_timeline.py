"""Sliding windows at bounded memory, smoothing, hysteresis, live sources; videos whose grey level tells the class."""

from __future__ import annotations

import contextlib
import io
import itertools
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from gesta.config import config
from gesta.errors import GestaError
from gesta.model import ClipSpec, Grid, ModelConfig, VideoModel
from gesta.prediction import timeline as room
from gesta.prediction.annotate import annotate, find_font
from gesta.prediction.predict import predict
from gesta.prediction.prediction import Prediction
from gesta.prediction.segments import Segmenter, Window, smooth
from gesta.prediction.timeline import TimelineConfig, cut_windows, is_live, score_windows, timeline
from gesta.prediction.windows import WindowCutter, WindowFrames
from gesta.processes import choose_device
from gesta.recipe import EvaluateConfig
from gesta.video.probe import probe
from gesta.video.read import Frame, stream

SHADES = ["dark", "grey", "bright"]
LEVELS = {"dark": 20, "grey": 128, "bright": 235}


@config
class ShadeConfig(ModelConfig):
    """Tells dark, grey and bright clips apart."""

    def build(self) -> VideoModel:
        return Shade(self)


class Shade(VideoModel):
    """The probability of a class is the share of frames with its grey level."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.blocks = nn.ModuleList([nn.Identity()])
        self.classifier = nn.Identity()
        self.delay = 0.0
        self.finish()

    def stem(self, video: Tensor) -> Tensor:
        time.sleep(self.delay)
        return video

    def to_grid(self, state: Tensor) -> Tensor:
        return state

    def from_grid(self, grid: Tensor, state: Tensor) -> Tensor:
        return grid

    def grid_at(self, block: int) -> Grid:
        clip = self.config.clip
        return 3, clip.frames, clip.size, clip.size

    def pool(self, state: Tensor) -> Tensor:
        level = 255 * (0.225 * state.mean((1, 3, 4)) + 0.45)  # (B, T)
        distance = (level[..., None] - torch.tensor([float(v) for v in LEVELS.values()])).abs()
        return (-distance / 8).softmax(-1).mean(1).log()


def shade_model(frames: int = 4, stride: int = 2, uniform: bool = False) -> VideoModel:
    sampling: dict[str, Any] = {"sampling": "uniform"} if uniform else {"stride": stride}
    clip = ClipSpec(frames=frames, size=32, **sampling)
    return ShadeConfig(classes=3, clip=clip).build()


def shaded_video(path: Path, shades: list[tuple[str, int]], fps: int = 10, times: list[float] | None = None) -> Path:
    """An MP4 whose frames have the grey levels of the named classes, each for some frames; ``times`` in seconds."""
    levels = [LEVELS[name] for name, count in shades for _ in range(count)]
    with av.open(str(path), "w") as container:
        out = container.add_stream("libx264", rate=fps)
        out.width, out.height, out.pix_fmt = 64, 48, "yuv420p"
        out.options = {"preset": "ultrafast"}
        out.time_base = out.codec_context.time_base = Fraction(1, 1000)
        for i, level in enumerate(levels):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), level, np.uint8), format="rgb24")
            frame.pts, frame.time_base = round(1000 * (times[i] if times else i / fps)), Fraction(1, 1000)
            container.mux(out.encode(frame))
        container.mux(out.encode())
    return path


def numbers(clips: list[WindowFrames]) -> list[list[int]]:
    return [clip.frames.flatten().tolist() for clip in clips]


def cut(cutter: WindowCutter, times: list[float]) -> list[WindowFrames]:
    """All windows of a video whose frame i has the single pixel i; checks the promised bound on the way."""
    clips = []
    for i, seconds in enumerate(times):
        clips += cutter.push(i, seconds, torch.tensor([i]))
        assert cutter.held <= cutter.max_held
    return [*clips, *cutter.finish()]


# --- windows ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hop", [1.0, 0.5, 0.25, 0.01])
@pytest.mark.parametrize("n", [12, 13, 23, 24, 25, 60, 100])
def test_dense_windows_hold_the_frames_the_stride_says(n: int, hop: float) -> None:
    cutter = WindowCutter(ClipSpec(frames=4, stride=3), hop=hop)
    clips = cut(cutter, [i / 10 for i in range(n)])
    step = max(1, round(4 * hop)) * 3
    whole = [[start + 3 * i for i in range(4)] for start in range(0, n - 12 + 1, step)]
    assert numbers(clips)[: len(whole)] == whole
    assert [round(10 * c.start) for c in clips[: len(whole)]] == [w[0] for w in whole]
    assert [round(10 * c.end) for c in clips[: len(whole)]] == [w[0] + 12 for w in whole]
    rest = n - (whole[-1][0] + 12)
    assert len(clips) == len(whole) + (rest > 0)
    assert clips[-1].end == pytest.approx(n / 10)
    if rest:  # the last window takes a frame of the last three
        begin = whole[-1][0] + 3 * -(-rest // 3)
        assert numbers(clips)[-1] == [begin + 3 * i for i in range(4)] and n - 3 <= begin + 9 < n
        assert clips[-1].start == pytest.approx(begin / 10)


@pytest.mark.parametrize("uniform", [False, True])
@pytest.mark.parametrize("last", [1, 2, 3, 4, 12])
def test_a_frame_is_taken_by_time_where_the_rate_varies(uniform: bool, last: int) -> None:
    times = np.cumsum([0.0] + [0.1] * 20 + [0.02] * 200 + [0.5] * last).tolist()
    cutter = WindowCutter(ClipSpec(frames=5, sampling="uniform" if uniform else "dense"), window=2.0, hop=0.5)
    clips = cut(cutter, times)
    for clip in clips:  # also of the last
        targets = [clip.start + 0.4 * (i + (0.5 if uniform else 0.0)) for i in range(5)]
        on_screen = [int(np.searchsorted(times, t + 1e-9, side="right")) - 1 for t in targets]
        assert numbers([clip])[0] == on_screen
        assert targets[-1] < times[-1] + 0.5
    assert [c.end - c.start for c in clips[:-1]] == pytest.approx([2.0] * (len(clips) - 1))
    assert 2.0 - 0.4 < clips[-1].end - clips[-1].start <= 2.0 + 0.4 * uniform
    assert [c.start for c in clips[:-1]] == pytest.approx([float(k) for k in range(len(clips) - 1)])
    assert clips[-1].end == pytest.approx(times[-1] + 0.5)


def test_the_last_window_ends_when_the_last_frame_does() -> None:
    """AVI with dropped pictures: every fourth is there, and the last is shown for a quarter of the step before it."""
    cutter = WindowCutter(ClipSpec(frames=4, stride=1), window=1.0, hop=1.0)
    for i in range(10):
        list(cutter.push(i, 0.16 * i, torch.tensor([i])))
    assert list(cutter.finish(0.04))[-1].end == pytest.approx(0.16 * 9 + 0.04)


def test_a_video_shorter_than_a_window_is_played_again() -> None:
    (clip,) = cut(WindowCutter(ClipSpec(frames=8, stride=1)), [0.0, 0.1, 0.2])
    assert clip.frames.flatten().tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert (clip.start, clip.end) == (0.0, pytest.approx(0.3))
    (clip,) = cut(WindowCutter(ClipSpec(frames=8, sampling="uniform")), [0.0])
    assert clip.frames.flatten().tolist() == [0] * 8
    assert cut(WindowCutter(ClipSpec()), []) == []
    (clip,) = cut(WindowCutter(ClipSpec(frames=8, stride=1), short_videos="clamp"), [0.0, 0.1, 0.2])
    assert clip.frames.flatten().tolist() == [0, 1, 2, 2, 2, 2, 2, 2]


@pytest.mark.parametrize(("window", "hop"), [(None, 0.5), (60.0, 0.5), (60.0, 0.05), (2.0, 1.0)])
def test_frames_in_memory_do_not_grow_with_the_video_nor_with_the_window(window: float | None, hop: float) -> None:
    spec = ClipSpec(frames=16, stride=4, sampling="dense")
    cutter, most, image = WindowCutter(spec, window, hop), 0, torch.zeros(1)
    for i in range(20_000):  # 11 minutes at 30 frames/s
        for _ in cutter.push(i, i / 30, image):
            pass
        most = max(most, cutter.held)
    assert cutter.complete > 10
    assert most <= cutter.max_held <= 16 * (np.ceil(1 / hop) + 2) + 1


def test_a_window_shorter_than_a_frame_shows_it_several_times() -> None:
    cutter = WindowCutter(ClipSpec(frames=4, stride=8), window=0.04, hop=1.0)
    assert numbers(cut(cutter, [0.0, 0.1, 0.2]))[:6] == [[0] * 4, [0] * 4, [0, 0, 1, 1], [1] * 4, [1] * 4, [2] * 4]


def test_time_that_jumps_back_stands_still() -> None:
    cutter = WindowCutter(ClipSpec(frames=2, sampling="uniform"), window=1.0, hop=1.0)
    clips = cut(cutter, [0.0, 0.3, 0.6, 0.1, 0.2, 0.9, 1.2, 1.5, 2.1])
    assert [(c.start, c.end) for c in clips[:2]] == [(0.0, 1.0), (1.0, 2.0)]


@pytest.mark.parametrize(
    "bad",
    [
        *({"window": 0.0}, {"window": 1e-9}, {"hop": 1.5}, {"hop": 1e-9}, {"hop": 0.05, "window": 0.01}),
        *({"smoothing": 2}, {"release": 0.6}, {"join": -1.0}),
    ],
)
def test_senseless_settings_are_refused_before_the_first_segment_is_asked_for(bad: dict[str, Any]) -> None:
    """Windows of 1e-9 s never came to an end."""
    with pytest.raises(GestaError, match=f"^the timeline: {next(iter(bad))} is "):
        timeline(shade_model(), "clip.mp4", config=TimelineConfig(**bad))
    with pytest.raises(GestaError, match=r"^the device 'meta' cannot be used"):
        timeline(shade_model(), "clip.mp4", device="meta")
    with pytest.raises(GestaError, match=r"^the device 'meta' cannot be used"):
        predict(shade_model(), "clip.mp4", device="meta")


# --- segments --------------------------------------------------------------------------------------------------------


def test_a_protocol_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    """With batches of 0 windows all of a video were held in memory, and then it ended in a traceback."""
    path = shaded_video(tmp_path / "a.mp4", [("dark", 20)])
    with pytest.raises(GestaError, match="batch_size"):
        list(timeline(shade_model(), path, views=EvaluateConfig(batch_size=0)))


def spoken(rows: list[list[float]]) -> list[Window]:
    """Windows two seconds long, a second apart."""
    return [Window(float(i), i + 2.0, torch.tensor(row)) for i, row in enumerate(rows)]


def decided(rows: list[list[float]], *settings: float) -> list[tuple[int, float, float]]:
    segmenter = Segmenter(*settings)
    found = [s for window in spoken(rows) for s in segmenter.push(window)] + list(segmenter.finish())
    return [(s.label, s.start, s.end) for s in found]


def test_smoothing_is_a_centred_average_that_keeps_times() -> None:
    items = spoken([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    got = list(smooth(items, 3))
    assert [w.probabilities[0].item() for w in got] == pytest.approx([1 / 2, 1 / 3, 1 / 3, 1 / 2])
    assert [(w.start, w.end) for w in got] == [(w.start, w.end) for w in items]
    assert [w.probabilities.tolist() for w in smooth(items, 1)] == [w.probabilities.tolist() for w in items]
    assert [w.probabilities[0].item() for w in smooth(items[:2], 9)] == pytest.approx([0.5, 0.5])


def test_a_segment_outlives_a_dip_but_not_its_end() -> None:
    a, dip, none = [0.8, 0.1, 0.1], [0.35, 0.33, 0.32], [0.2, 0.45, 0.35]
    assert decided([none, a, dip, a, none], 0.5, 0.3, 0.0) == [(0, 1.5, 4.5)]
    assert decided([none, a, dip, a, none], 0.5, 0.5, 0.0) == [(0, 1.5, 2.5), (0, 3.5, 4.5)]
    assert decided([a], 0.5, 0.3, 0.0) == [(0, 0.0, 2.0)]
    assert decided([none, none], 0.5, 0.3, 0.0) == []


def test_one_action_gives_way_to_the_next() -> None:
    a, b = [0.6, 0.4], [0.4, 0.6]
    assert decided([a, a, b, b], 0.5, 0.3, 0.0) == [(0, 0.0, 2.5), (1, 2.5, 5.0)]


def test_a_segment_ends_where_another_class_is_more_probable() -> None:
    """It lasted for nine windows of 0.26 beside another class of 0.49, with a mean of 0.289."""
    begin, other, tie = [0.55, 0.2, 0.25], [0.26, 0.49, 0.25], [0.4, 0.4, 0.2]
    assert decided([begin] + [other] * 9, 0.5, 0.25, 0.0) == [(0, 0.0, 1.5)]
    assert decided([begin[::-1], tie[::-1], tie[::-1]], 0.5, 0.25, 0.0) == [(2, 0.0, 4.0)]  # the first is not preferred


def test_short_segments_go_and_nothing_is_joined() -> None:
    a, b, none = [0.9, 0.1], [0.1, 0.9], [0.1, 0.1]
    assert decided([a, a, a, b, a, a, a], 0.5, 0.3, 1.5) == [(0, 0.0, 3.5), (0, 4.5, 8.0)]
    two_waves = [a, a, a, a, none, none, a, a, a, a]
    assert decided(two_waves, 0.5, 0.3, 3.0) == [(0, 0.0, 4.5), (0, 6.5, 11.0)]


def test_near_segments_are_joined_before_short_ones_go() -> None:
    a, b, none = [0.9, 0.1], [0.1, 0.9], [0.1, 0.1]
    assert decided([a, a, a, b, a, a, a], 0.5, 0.3, 1.5, 1.1) == [(0, 0.0, 8.0)]  # over what is dropped
    assert decided([a, a, a, b, a, a, a], 0.5, 0.3, 0.0, 1.1) == [(0, 0.0, 3.5), (1, 3.5, 4.5), (0, 4.5, 8.0)]
    assert decided([a, none, a, none, none, a], 0.5, 0.3, 2.5, 1.1) == [(0, 0.0, 3.5)]
    assert decided([a, none, a, none, none, a], 0.5, 0.3, 0.0, 2.0) == [(0, 0.0, 3.5), (0, 5.5, 7.0)]  # 2 s apart
    assert decided([b, b, b, a, none, b, none, b, a], 0.5, 0.3, 2.0, 1.1) == [(1, 0.0, 3.5), (1, 5.5, 8.5)]


def test_threshold_zero_names_an_action_at_all_times() -> None:
    rows = torch.rand(50, 4, generator=torch.Generator().manual_seed(0)).softmax(-1).tolist()
    found = decided(rows, 0.0, 0.0, 0.0)
    assert (found[0][1], found[-1][2]) == (0.0, 51.0)
    assert all(x[2] == y[1] for x, y in pairwise(found))


@pytest.mark.parametrize("wait", [0.0, 3.0])
def test_segments_are_decided_early(wait: float) -> None:
    a, none = [0.9, 0.1], [0.45, 0.45]
    segmenter = Segmenter(0.5, 0.46, 2.0, wait)
    when = [i for i, window in enumerate(spoken([a] * 4 + [none] * 20)) for _ in segmenter.push(window)]
    assert when == [5 if wait == 0.0 else 7]  # its end is known one window later, and then nothing equal may follow


# --- files -----------------------------------------------------------------------------------------------------------


def test_changes_of_action_are_found_where_they_are(tmp_path: Path) -> None:
    path = shaded_video(tmp_path / "three.mp4", [("dark", 50), ("bright", 80), ("grey", 40)])
    found = list(timeline(shade_model(), path, classes=SHADES, config=TimelineConfig(smoothing=1), top=2))
    assert [p.labels[0][0] for p in found] == ["dark", "bright", "grey"]
    assert [len(p.labels) for p in found] == [2, 2, 2]
    assert (found[0].start, found[-1].end) == (0.0, pytest.approx(17.0))
    assert found[0].end == pytest.approx(5.0, abs=0.4)  # half a window
    assert found[1].end == pytest.approx(13.0, abs=0.4)
    assert all(p.labels[0][1] > 0.5 and not p.error and p.path == str(path) for p in found)


def test_variable_frame_rate_does_not_move_the_borders(tmp_path: Path) -> None:
    times = np.cumsum([0.0] + [0.2] * 24 + [0.05] * 100 + [0.2] * 24).tolist()  # 149 frames, borders at 4.8 s and 9.8 s
    shades = [("dark", 24), ("bright", 100), ("dark", 25)]
    path = shaded_video(tmp_path / "vfr.mp4", shades, times=times)
    found = list(
        timeline(
            shade_model(uniform=True), path, classes=SHADES, config=TimelineConfig(window=1.0, hop=0.25, smoothing=1)
        )
    )
    assert [p.labels[0][0] for p in found] == ["dark", "bright", "dark"]
    assert [p.end for p in found] == pytest.approx([4.8, 9.8, 14.8], abs=0.2)


def test_a_video_shorter_than_a_window_is_answered_as_predict_answers(tmp_path: Path) -> None:
    path = shaded_video(tmp_path / "short.mp4", [("dark", 2), ("bright", 3)])
    for uniform in (False, True):
        model = shade_model(frames=8, stride=4, uniform=uniform)
        views = EvaluateConfig(clips=1, workers=0)
        (whole,) = predict(model, [path], classes=SHADES, views=views)
        (piece,) = timeline(model, path, classes=SHADES, config=TimelineConfig(threshold=0.0), views=views)
        assert piece.labels == whole.labels
        assert (piece.start, piece.end) == (0.0, pytest.approx(0.5))


def test_a_video_shorter_than_the_window_that_was_asked_for_is_shown_from_its_beginning(tmp_path: Path) -> None:
    path = shaded_video(tmp_path / "short.mp4", [("dark", 20), ("bright", 20)])
    spec, views = ClipSpec(frames=8, stride=1, size=32), EvaluateConfig(workers=0)
    (window,) = cut_windows(str(path), spec, TimelineConfig(window=4.5), views)
    shades = window.frames.float().mean((-1, -2, -3)).flatten()
    assert shades[0] == pytest.approx(LEVELS["dark"], abs=3) and shades.max() == pytest.approx(LEVELS["bright"], abs=3)
    assert shades[-1] == pytest.approx(LEVELS["bright"], abs=3)
    held = EvaluateConfig(workers=0, short_videos="clamp")
    (window,) = cut_windows(str(path), spec, TimelineConfig(window=9.0), held)
    assert (window.frames[4:].float().mean((-1, -2, -3)) - LEVELS["bright"]).abs().max() <= 3
    (window,) = cut_windows(str(path), spec, TimelineConfig(window=9.0), views)
    assert (window.frames[4:].float().mean((-1, -2, -3)) - LEVELS["dark"]).abs().min() <= 3  # played again


def test_a_folder_of_frames_has_a_timeline(tmp_path: Path) -> None:
    from PIL import Image

    for i in range(60):
        shade = LEVELS["dark" if i < 30 else "bright"]
        Image.new("RGB", (64, 48), (shade,) * 3).save(tmp_path / f"img_{i + 1:05d}.jpg")
    found = list(timeline(shade_model(), tmp_path, classes=SHADES, config=TimelineConfig(smoothing=1)))
    assert [p.labels[0][0] for p in found] == ["dark", "bright"]
    assert found[-1].end == pytest.approx(60 / 25)


def test_a_broken_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video at all" * 100)
    (only,) = timeline(shade_model(), tmp_path / "broken.mp4", classes=SHADES)
    assert str(tmp_path / "broken.mp4") in str(only) and only.error and not only.labels and "\n" not in only.error


def test_what_was_seen_before_a_break_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaking(source: str, **_: object) -> Iterator[Frame]:
        yield from paced(source, frames=100, pause=0.0)
        raise room.VideoError(f"{source}: the connection broke; connect again")

    monkeypatch.setattr(room, "stream", breaking)
    *seen, last = timeline(shade_model(), "clip.mp4", classes=SHADES, config=TimelineConfig(threshold=0.0))
    assert [p.labels[0][0] for p in seen] == ["dark", "bright", "dark"]
    assert seen[-1].end == pytest.approx(10.0, abs=0.8)
    assert last.error == "clip.mp4: the connection broke; connect again"


# --- cameras and streams ---------------------------------------------------------------------------------------------


def paced(source: str, frames: int = 10**9, pause: float = 0.005, **_: object) -> Iterator[Frame]:
    """A camera: 10 frames per second of its own time, ``pause`` seconds of ours apart; dark and bright in turn."""
    for i in range(frames):
        time.sleep(pause)
        yield Frame(
            i, i / 10, torch.full((3, 48, 64), LEVELS["dark" if i // 40 % 2 == 0 else "bright"], dtype=torch.uint8)
        )


def test_sources_that_wait_for_nobody(tmp_path: Path) -> None:
    assert all(map(is_live, ["0", "12", "/dev/video1", "rtsp://door/1", "udp://@:5000"]))
    assert not any(map(is_live, ["a.mp4", "https://example.org/a.mp4", str(tmp_path), "C:\\a.mp4"]))


def windows_of(model: VideoModel, source: str) -> Iterator[Window]:
    return score_windows(model, ["label"], source, TimelineConfig(), views=EvaluateConfig(), device=choose_device())


def test_a_slow_model_leaves_windows_out_instead_of_lagging(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "stream", lambda source, **_: paced(source, frames=200))
    model = shade_model()
    model.delay = 0.1  # ten windows a second; the camera completes fifty
    begin = time.monotonic()
    seen = list(windows_of(model, "0"))
    assert time.monotonic() - begin < 2.5  # all 49 windows would take 4.9 s
    assert 3 <= len(seen) < 40
    assert seen[-1].end == pytest.approx(20.0, abs=0.5)  # the answers keep up with the camera
    assert all(a.start < b.start for a, b in pairwise(seen))
    waited = list(windows_of(shade_model(), "file.mp4"))
    assert len(waited) == 49  # a file waits


def test_segments_of_a_camera_come_while_it_runs_and_ctrl_c_ends_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "stream", paced)
    model = shade_model()
    stem, calls = model.stem, 0

    def interrupted(video: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 40:
            raise KeyboardInterrupt
        return stem(video)

    model.stem = interrupted  # type: ignore[method-assign]
    found = timeline(model, "0", classes=SHADES, config=TimelineConfig(smoothing=1))
    first = next(found)  # the camera goes on for ever: this one came before its end
    assert first.labels[0][0] == "dark" and first.end == pytest.approx(4.0, abs=0.8)
    rest = list(found)
    assert [p.labels[0][0] for p in rest[:2]] == ["bright", "dark"]
    assert not any(p.error for p in rest)
    calls = 39
    with pytest.raises(KeyboardInterrupt):  # a file's run was stopped, not finished
        list(timeline(model, "file.mp4", classes=SHADES))


@pytest.fixture
def mjpeg_camera() -> Iterator[str]:
    """The address of a camera that sends pictures by MJPEG over http, dark and bright in turn, until nobody reads."""
    pictures = []
    for name in ("dark", "bright"):
        data = io.BytesIO()
        Image.new("L", (64, 48), LEVELS[name]).save(data, "JPEG")
        pictures.append(b"--frame\r\nContent-Type: image/jpeg\r\n\r\n" + data.getvalue() + b"\r\n")

    class Camera(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            with contextlib.suppress(OSError):
                for i in itertools.count():
                    self.wfile.write(pictures[i // 40 % 2])
                    time.sleep(0.001)

    with ThreadingHTTPServer(("127.0.0.1", 0), Camera) as server:
        server.daemon_threads, server.block_on_close = True, False
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/picture.mjpg"
        server.shutdown()


def test_a_camera_whose_address_does_not_say_so(mjpeg_camera: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TimelineConfig(smoothing=1, threshold=0.0)
    found = timeline(shade_model(), mjpeg_camera, classes=SHADES, config=config, live=True)
    assert {next(found).labels[0][0], next(found).labels[0][0]} == {"dark", "bright"}
    found.close()
    monkeypatch.setattr("gesta.data.samples.TIMEOUT_S", 0.5)
    (whole,) = predict(shade_model(), mjpeg_camera, classes=SHADES)
    assert "was not read within 0 seconds; download it first, or give --live to gesta predict if it" in whole.error


# --- the drawn copy --------------------------------------------------------------------------------------------------


def test_the_drawn_copy_keeps_times_and_shows_the_segments(tmp_path: Path) -> None:
    times = [0.0, 0.1, 0.2, 0.25, 0.3, 0.7, 0.8, 1.5]
    path = shaded_video(tmp_path / "vfr.mp4", [("grey", 8)], times=times)
    segments = [Prediction(path=str(path), start=0.2, end=0.7, labels=(("waving", 0.9),))]
    out = annotate(path, segments, tmp_path / "drawn.mp4")
    frames = list(stream(out))
    assert [f.time for f in frames] == pytest.approx(times, abs=1e-3)
    changed = [bool((f.image[:, -12:].float() - 128).abs().max() > 60) for f in frames]
    assert changed == [False, False, True, True, True, False, False, False]
    banner = frames[2].image[:, -1]
    assert banner[1, :50].float().mean() > banner[1, 62:].float().mean() + 40  # the bar is nine tenths long
    assert probe(out).codec == "h264"
    assert [p.name for p in tmp_path.iterdir() if "part" in p.name] == []


def test_the_drawn_copy_is_as_wide_as_players_show_the_video(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "wide.mp4"), "w") as container:
        video = container.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        video.codec_context.sample_aspect_ratio = Fraction(16, 15)
        for _ in range(2):
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        container.mux(video.encode())
    copied = probe(annotate(tmp_path / "wide.mp4", [], tmp_path / "copy.mp4"))
    assert copied.pixel_aspect == probe(tmp_path / "wide.mp4").pixel_aspect == pytest.approx(16 / 15)


def test_letters_beyond_ascii_are_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pillow's own font has boxes for them."""
    path = shaded_video(tmp_path / "a.mp4", [("grey", 1)])
    drawn = []
    for name in ("ö", "ü", "Ж"):
        segment = Prediction(path=str(path), start=0.0, end=9.0, labels=((name, 0.9),))
        drawn.append(next(stream(annotate(path, [segment], tmp_path / "drawn.mp4"))).image)
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(drawn, 2))
    assert find_font("wave") == "" and capsys.readouterr().err == ""
    assert find_font("wave \U000f0000")  # a letter of no font
    assert "no font here has the letters \U000f0000; install one" in capsys.readouterr().err


def test_odd_sizes_can_be_drawn_and_bad_targets_are_refused(tmp_path: Path) -> None:
    from PIL import Image

    folder = tmp_path / "frames"
    folder.mkdir()
    for i in range(3):
        Image.new("RGB", (31, 23)).save(folder / f"{i:03d}.png")
    info = probe(annotate(folder, [], tmp_path / "odd.mkv"))
    assert (info.frames, info.width, info.height) == (3, 32, 24)
    path = shaded_video(tmp_path / "a.mp4", [("grey", 2)])
    before = path.read_bytes()
    for target in (path, tmp_path / "a.gif", tmp_path / "nowhere" / "a.mp4"):
        with pytest.raises(GestaError, match=target.name):
            annotate(path, [], target)
    assert path.read_bytes() == before
