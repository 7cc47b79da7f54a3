"""A clip that is cropped while it is read has the pixels of one that is cropped afterwards, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from gesta.config import replace
from gesta.data.batch import Failure
from gesta.data.clips import train_indices
from gesta.data.samples import TestViews, TrainingClips, read_record_frames, seeded_generator
from gesta.data.transforms import augment
from gesta.model import ClipSpec
from gesta.recipe import Augment, EvaluateConfig, TrainConfig
from gesta.records import Record
from gesta.video import picture
from gesta.video.depth import Depth
from gesta.video.read import Selection, read

Box = tuple[int, int, int, int]
BOXES: list[Box] = [(0, 0, 47, 64), (10, 20, 20, 30), (11, 21, 13, 40), (30, 3, 17, 61), (46, 63, 1, 1)]
"""Even and odd edges, the whole, the last pixel of a picture of 64 x 47 or more."""


def write_noise(path: Path, size: tuple[int, int], pixels: str = "yuv420p", frames: int = 4) -> Path:
    """Noise in every pixel and colour, (width, height), so that one wrong pixel shows."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        codec = "mjpeg" if pixels.startswith("yuvj") else "libx264"
        stream = container.add_stream(codec, rate=12)
        stream.width, stream.height, stream.pix_fmt = *size, pixels
        stream.options = {"crf": "4"}
        for _ in range(frames):
            image = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def everything(n: int) -> Tensor:
    return torch.arange(n)


def part(frames: Tensor, box: Box) -> Tensor:
    top, left, height, width = box
    return frames[..., top : top + height, left : left + width]


@pytest.fixture
def converted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Width and height of every picture that is converted to RGB."""
    sizes: list[tuple[int, int]] = []
    to_rgb = picture.FrameConverter._to_rgb

    def seen(self: picture.FrameConverter, frame: av.VideoFrame) -> np.ndarray:
        sizes.append((frame.width, frame.height))
        return to_rgb(self, frame)

    monkeypatch.setattr(picture.FrameConverter, "_to_rgb", seen)
    return sizes


@pytest.mark.parametrize("size", [(64, 48), (98, 66)])
@pytest.mark.parametrize("pixels", ["yuv420p", "yuvj420p"])
def test_only_the_box_is_converted(
    tmp_path: Path, converted: list[tuple[int, int]], pixels: str, size: tuple[int, int]
) -> None:
    path = write_noise(tmp_path / "a.mov", size, pixels)
    whole = read(path, everything)
    assert set(converted) == {size} and whole.float().std() > 30
    for box in BOXES:
        converted.clear()
        assert torch.equal(read(path, everything, crop=lambda h, w, box=box: box), part(whole, box))
        ((width, height),) = set(converted)
        assert 0 <= width - box[3] <= 2 and 0 <= height - box[2] <= 2


@pytest.mark.parametrize(
    ("pixels", "size"),
    [("yuv422p", (64, 48)), ("yuv444p", (65, 47)), ("yuv420p10le", (64, 48)), ("yuvj420p", (65, 47))],
)
def test_other_formats_and_odd_sizes(tmp_path: Path, pixels: str, size: tuple[int, int]) -> None:
    path = write_noise(tmp_path / "a.mov", size, pixels)
    for short_side in (None, 47, 48, 30):
        whole = read(path, everything, short_side=short_side)
        for top, left, height, width in BOXES:
            box = top * whole.shape[-2] // 48, left * whole.shape[-1] // 65, height // 2 + 1, width // 2 + 1
            found = read(path, everything, short_side=short_side, crop=lambda h, w, box=box: box)
            assert torch.equal(found, part(whole, box))


def test_odd_width(tmp_path: Path, converted: list[tuple[int, int]]) -> None:
    path = write_noise(tmp_path / "a.mov", (65, 48), "yuvj420p")
    whole = read(path, everything)
    for box in [(11, 21, 13, 44), (2, 64, 9, 1), (0, 0, 48, 65)]:
        assert torch.equal(read(path, everything, crop=lambda h, w, box=box: box), part(whole, box))
    assert len(set(converted)) == 3


def test_the_box_is_asked_for_once_in_the_frames_that_would_be_returned(make_video: Callable[..., Path]) -> None:
    path, asked = make_video("a.mp4"), []

    def box(height: int, width: int) -> Box:
        asked.append((height, width))
        return 1, 2, 20, 30

    assert read(path, lambda n: torch.tensor([[5, 5], [0, 9]]), short_side=24, crop=box).shape == (2, 2, 3, 20, 30)
    assert asked == [(24, 32)]


@pytest.mark.skipif(not hasattr(av.video.stream.VideoStream, "set_display_rotation"), reason="an older PyAV")
def test_turned_pictures(tmp_path: Path, make_video: Callable[..., Path]) -> None:
    turned = tmp_path / "turned.mp4"
    with av.open(str(make_video("a.mp4"))) as source, av.open(str(turned), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        stream.set_display_rotation(90)
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)
    asked = []
    for short_side in (None, 24):
        whole = read(turned, everything, short_side=short_side)
        found = read(turned, everything, short_side=short_side, crop=lambda *size: asked.append(size) or (3, 5, 21, 11))
        assert asked[-1] == whole.shape[-2:] and whole.shape[-2] > whole.shape[-1]
        assert torch.equal(found, part(whole, (3, 5, 21, 11)))


def test_a_picture_size_that_changes(tmp_path: Path) -> None:
    sizes = [(64, 48), (64, 48), (32, 24)]
    frames = []
    for i, (width, height) in enumerate(sizes):
        image = np.random.default_rng(i).integers(0, 256, (height, width, 3), dtype=np.uint8)
        frames.append(av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p"))
    box = (5, 7, 20, 31)
    whole, cut = picture.FrameBuffer([0, 1, 2], None), picture.FrameBuffer([0, 1, 2], None, crop=lambda h, w: box)
    for i, frame in enumerate(frames):
        whole.add_frame(i, frame)
        cut.add_frame(i, frame)
    assert cut.images.shape == (3, 3, 20, 31) and np.array_equal(cut.images, whole.images[..., 5:25, 7:38])


def test_images_and_depth(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    for i in range(5):
        image = np.random.default_rng(i).integers(0, 256, (60, 80, 3), dtype=np.uint8)
        Image.fromarray(image).save(tmp_path / "f" / f"img_{i:05d}.png")
    video = write_noise(tmp_path / "depth.mp4", (64, 48))
    for path, depth in [(tmp_path / "f", None), (video, Depth())]:
        whole = read(path, everything, short_side=30, shows=depth)
        found = read(path, everything, short_side=30, shows=depth, crop=lambda h, w: (7, 9, 20, 23))
        assert torch.equal(found, part(whole, (7, 9, 20, 23))) and len(found) > 3


def test_a_box_without_pixels_is_decoding_alone(
    make_video: Callable[..., Path], converted: list[tuple[int, int]]
) -> None:
    path = make_video("a.mp4")
    assert read(path, everything, crop=lambda h, w: (0, 0, 0, 0)).shape == (24, 3, 0, 0)
    assert read(path, everything, short_side=24, crop=lambda h, w: (0, 0, 0, 0)).shape == (24, 3, 0, 0)
    assert converted == []


CHANGES = [
    {},
    {"interpolation": "bicubic"},
    {"crop": "jitter"},
    {"crop": "short_side", "scale": (0.3, 1.0)},
    {"color_jitter": 0.4, "hue": 0.1},
    {"randaugment": 2, "erasing": 0.9},
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("size", [(84, 64), (128, 96)])
def test_training_clips_are_those_that_are_cropped_afterwards(
    tmp_path: Path, size: tuple[int, int], change: dict[str, object]
) -> None:
    record = Record(path=str(write_noise(tmp_path / "a.mp4", size, frames=12)), name="a", label=0)
    spec = ClipSpec(frames=4, stride=2, size=56)
    config = TrainConfig(augment=replace(Augment(), **change))
    clips = TrainingClips([record], spec, config, ["any"])
    mirrored = set()
    for epoch in range(4):
        draw = seeded_generator(config.seed, epoch, 0, 0)
        frames, _, count, _ = read_record_frames(
            record, lambda n, d=draw: Selection(train_indices(n, spec, "loop", d)), clips.short_side, enlarge=False
        )
        assert count == 12
        flip = float(torch.rand((), generator=draw)) < config.augment.flip
        mirrored.add(flip)
        found = clips[epoch, 0]["video"]
        assert found.is_contiguous() and torch.equal(found[0], augment([frames], config.augment, spec, flip, draw))
    assert mirrored == {False, True}


def test_small_videos_are_scaled_once(tmp_path: Path, converted: list[tuple[int, int]]) -> None:
    """A training clip of a video smaller than it would be read at is cut at the video's size; a test's is scaled."""
    path = str(write_noise(tmp_path / "a.mp4", (64, 48), frames=12))
    assert read(path, everything, short_side=60).shape == (12, 3, 60, 80)
    assert read(path, everything, short_side=60, enlarge=False).shape == (12, 3, 48, 64)
    assert read(path, everything, short_side=40, enlarge=False).shape == (12, 3, 40, 53)
    spec, record = ClipSpec(frames=4, stride=2, size=56), Record(path=path, name="a", label=0)
    converted.clear()
    video = TrainingClips([record], spec, TrainConfig(), ["any"])[0, 0]["video"]
    ((width, height),) = set(converted)
    assert video.shape[-2:] == (56, 56) and width <= 64 and height <= 48
    views = TestViews([record], spec, EvaluateConfig(clips=1, crops=1))[0]
    assert not isinstance(views, Failure) and views["video"].shape[-2:] == (56, 56)
