"""A training clip that is cropped while it is read is close to one that is cropped afterwards, and drawn alike."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from gesta.config import replace
from gesta.data.dataset import Record, TrainingClips, read_record, seeded
from gesta.data.decode import Crop
from gesta.data.transforms import Augment, augment
from gesta.data.video import read
from gesta.model import ClipSpec
from gesta.train import TrainConfig


def write_scene(path: Path, size: tuple[int, int], pixels: str = "yuv420p", frames: int = 6) -> Path:
    """Smooth waves of colour that move, (width, height)."""
    width, height = size
    y, x = np.mgrid[:height, :width] / 16.0
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(12))
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        stream.options = {"crf": "4", "preset": "ultrafast"}
        for t in range(frames):
            waves = [np.sin(x + t / 3), np.cos(y - t / 3), np.sin((x + y) / 2 + t)]
            image = (128 + 90 * np.stack(waves, -1)).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


Box = tuple[int, int, int, int]


def both(path: Path, box: Box, size: int, short_side: int | None, even: Box | None = None) -> tuple[Tensor, Tensor]:
    """The box cut out while reading, and (its edges on even pixels) out of whole frames."""
    every = torch.arange
    cut = read(path, every, short_side=short_side, crop=Crop(size, lambda *_: box))
    whole = read(path, every, short_side=short_side)
    top, left, down, across = even or box
    part = whole[..., top : top + down, left : left + across].float()
    plain = torch.nn.functional.interpolate(part, (size, size), mode="bilinear", antialias=True)
    return cut.float(), plain


@pytest.mark.parametrize("pixels", ["yuv420p", "yuvj420p", "yuv422p", "yuv444p", "yuv420p10le"])
@pytest.mark.parametrize("box", [(10, 20, 60, 70), (0, 0, 96, 128), (32, 64, 64, 64), (11, 21, 37, 101)])
def test_a_box_is_close_to_the_box_of_the_whole(tmp_path: Path, pixels: str, box: tuple[int, int, int, int]) -> None:
    path = write_scene(tmp_path / "a.mp4", (128, 96), pixels)
    odd = box[0] % 2 == 1 and pixels != "yuv420p10le"  # which is cropped after it is converted
    for size in (64, 57):
        cut, plain = both(path, box, size, None, (12, 20, 36, 102) if odd else None)
        assert cut.shape == plain.shape == (6, 3, size, size)
        assert (cut - plain).abs().mean() < 1.5
        assert (cut.mean((2, 3)) - plain.mean((2, 3))).abs().max() < 2.0


def test_a_large_picture_is_scaled_once(tmp_path: Path) -> None:
    path = write_scene(tmp_path / "a.mp4", (322, 241 // 2 * 2))
    cut, plain = both(path, (8, 12, 48, 50), 56, 64)
    assert (cut - plain).abs().mean() < 6.0 and (cut.mean((2, 3)) - plain.mean((2, 3))).abs().max() < 3.0
    true = read(path, torch.arange)[..., 30:210, 44:232].float()  # the same box in even pixels of the stored picture
    true = torch.nn.functional.interpolate(true, (56, 56), mode="bilinear", antialias=True)
    assert (cut - true).abs().mean() < 1.5


@pytest.mark.parametrize("change", [{}, {"interpolation": "bicubic"}, {"crop": "jitter"}, {"randaugment": 1}])
def test_clips_are_drawn_as_if_cropped_afterwards(tmp_path: Path, change: dict[str, object]) -> None:
    record = Record(path=str(write_scene(tmp_path / "a.mp4", (128, 96), frames=20)), name="a", label=0)
    spec = ClipSpec(frames=4, stride=2, size=64)
    config = TrainConfig(augment=replace(Augment(), **change))
    clips = TrainingClips([record], spec, config, ["any"])
    for epoch in range(6):
        draw = seeded(config.seed, epoch, 0, 0)
        frames = read_record(record, lambda n, d=draw: clip_indices(n, spec, d), clips.short_side)
        flip = float(torch.rand((), generator=draw)) < config.augment.flip
        plain = augment(frames, config.augment, spec, flip, draw).float()
        assert (clips[epoch, 0]["video"][0] - plain).abs().mean() < 8.0
        assert torch.equal(clips[epoch, 0]["video"], clips[epoch, 0]["video"])


def clip_indices(n: int, spec: ClipSpec, draw: torch.Generator) -> Tensor:
    from gesta.data.clips import train_indices

    return train_indices(n, spec, "loop", draw)


def test_images_and_shortened_videos_are_cropped_too(make_video: Callable[..., Path], tmp_path: Path) -> None:
    for i in range(9):
        (tmp_path / "f").mkdir(exist_ok=True)
        Image.new("RGB", (80, 60), (20 * i, 90, 30)).save(tmp_path / "f" / f"img_{i:05d}.png")
    boxes: list[tuple[int, int]] = []

    def draw(height: int, width: int) -> tuple[int, int, int, int]:
        boxes.append((height, width))
        return 4, 6, 20, 30

    images = read(tmp_path / "f", torch.arange, short_side=30, crop=Crop(16, draw))
    assert images.shape == (9, 3, 16, 16) and boxes == [(30, 40)]  # one box for all frames
    assert images[:, 0].float().mean((1, 2)).tolist() == [20.0 * i for i in range(9)]
    path = make_video("a.mp4")
    twice = read(path, lambda n: torch.tensor([3, 3, 1]), crop=Crop(16, draw))
    assert torch.equal(twice[0], twice[1]) and not torch.equal(twice[0], twice[2])
