"""Depth pictures: levels, colours, and the same from images of 16 bits and from videos of 8."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from gesta.curation.check import check
from gesta.data.batch import Failure
from gesta.data.samples import TestViews, TrainingClips
from gesta.errors import GestaError, VideoError
from gesta.model import ClipSpec
from gesta.recipe import EvaluateConfig, TrainConfig
from gesta.records import Record
from gesta.video.depth import Depth, resize_nearest
from gesta.video.modality import depth_settings
from gesta.video.probe import probe
from gesta.video.read import read

GREY = Depth("repeat3", near=1000, far=3000)


def everything(n: int) -> torch.Tensor:
    return torch.arange(n)


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    """Six maps of 16 bits: 1000 mm + 200 mm per frame, a strip without reading, a corner beyond the range."""
    folder = tmp_path / "S001C001P001R001A001"
    folder.mkdir()
    for i in range(6):
        image = np.full((48, 64), 1000 + 200 * i, dtype=np.uint16)
        image[:, :16] = 0
        image[:8, -8:] = 60_000
        Image.fromarray(image).save(folder / f"MDepth-{i + 1:08d}.png")
    return folder


def test_levels_run_from_near_to_far_and_none_stays_none() -> None:
    millimetres = np.array([0, 1, 1000, 2000, 3000, 65_535], dtype=np.uint16)
    assert GREY.levels(millimetres).tolist() == [0, 1, 1, 128, 255, 255]
    assert GREY.levels(millimetres.astype(np.float32)).tolist() == [0, 1, 1, 128, 255, 255]
    levels = GREY.levels(np.arange(1, 65_536, dtype=np.uint16)).astype(int)
    assert (np.diff(levels) >= 0).all() and levels.min() == 1


def test_encodings() -> None:
    levels = np.array([[0, 1, 128, 255]], dtype=np.uint8)
    assert np.array_equal(GREY.encode(levels), np.repeat(levels[None], 3, 0))
    jet = Depth("jet").encode(levels)[:, 0].T.tolist()
    assert jet[0] == [0, 0, 0]  # no reading
    assert jet[1][:2] == [0, 0] and 127 <= jet[1][2] <= 133  # near: dark blue
    assert jet[2][1] == 255 and abs(jet[2][0] - jet[2][2]) < 6  # the middle: green, as much red as blue
    assert jet[3][1:] == [0, 0] and 127 <= jet[3][0] <= 129  # far: dark red
    every = Depth("jet").encode(np.arange(256, dtype=np.uint8)[None])[:, 0].T
    assert len({tuple(colour) for colour in every.tolist()}) == 256


def test_the_public_codes_colours_wrap() -> None:
    """``uint8(255 * millimetres)`` through OpenCV's colour map, whose BGR is taken for RGB."""
    wrapped, millimetres = Depth("jet_wrapped"), np.array([[0, 1, 2, 256, 1000, 4000]], dtype=np.uint16)
    assert wrapped.levels(millimetres).tolist() == [[0, 255, 254, 0, 24, 96]]
    assert wrapped.encode(millimetres)[:, 0, :2].T.tolist() == [[128, 0, 0], [0, 0, 128]]
    assert np.array_equal(wrapped.encode(millimetres), wrapped.encode(millimetres + 256))


def test_nearest_takes_pixels_as_they_are() -> None:
    picture = np.arange(48, dtype=np.uint16).reshape(6, 8)
    assert np.array_equal(resize_nearest(picture, 8, 6), picture)
    assert np.array_equal(resize_nearest(picture, 4, 3), picture[1::2, 1::2])
    assert set(resize_nearest(picture, 13, 9).flat) <= set(picture.flat)
    assert np.array_equal(resize_nearest(picture, 16, 12)[::2, ::2], picture)


def test_maps_of_16_bits(maps: Path) -> None:
    video = read(maps, everything, shows=GREY)
    assert video.shape == (6, 3, 48, 64) and video.dtype == torch.uint8
    expected = GREY.levels(1000 + 200 * np.arange(6, dtype=np.uint16))
    assert video[:, 0, 24, 32].tolist() == expected.tolist()
    assert not video[..., :16].any() and (video[..., :8, -8:] == 255).all()
    small = read(maps, everything, short_side=20, shows=GREY)
    assert small.shape == (6, 3, 20, 27)
    assert set(small[3].flatten().tolist()) == {0, int(expected[3]), 255}  # nothing between depth and none
    assert probe(str(maps), exact=True, shows=GREY).frames == 6
    with pytest.raises(VideoError, match="16-bit image"):
        read(maps, everything)


def test_depth_is_preferred_among_several_sequences(maps: Path) -> None:
    for i in range(6):
        Image.new("RGB", (64, 48)).save(maps / f"WRGB-{i + 1:08d}.jpg")
    assert read(maps, everything, shows=GREY)[0, 0, 24, 32] == 1


def _grey(path: Path, levels: list[int], codec: str = "mpeg4", form: str = "yuv420p") -> Path:
    """A video of even pictures of these stored luma levels."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(10))
        stream.width, stream.height, stream.pix_fmt = 64, 48, form
        stream.options = {"qscale": "2"}
        for level in levels:
            frame = av.VideoFrame(64, 48, form)
            for i, plane in enumerate(frame.planes):
                if form == "gray16le":
                    plane.update(np.full((48, plane.line_size // 2), level, dtype="<u2").tobytes())
                else:
                    plane.update(bytes([128 if i else level]) * plane.buffer_size)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("decoder", ["pyav", "torchcodec"])
def test_stored_luma_is_neither_stretched_nor_clipped(tmp_path: Path, decoder: str) -> None:
    levels = [7, 16, 128, 235, 242]
    path = _grey(tmp_path / "K_00001.avi", levels)
    video = read(path, everything, shows=GREY, decoder=decoder)  # type: ignore[arg-type]
    torch.testing.assert_close(video[:, 0, 24, 32].int(), torch.tensor(levels, dtype=torch.int32), atol=1, rtol=0)
    rgb = read(path, everything)[:, :, 24, 32]
    assert rgb[0].max() == 0 and rgb[-1].min() == 255  # what reading it as colour would have lost


def test_video_of_16_bits(tmp_path: Path) -> None:
    path = _grey(tmp_path / "depth.mkv", [1000, 2000, 3000], "ffv1", "gray16le")
    assert read(path, everything, shows=GREY)[:, 0, 24, 32].tolist() == [1, 128, 255]


def test_samples_and_check(maps: Path) -> None:
    records = [Record(path=str(maps), name="a", label=0, shows=GREY)]
    clip = ClipSpec(frames=4, sampling="uniform", size=32)
    view = TestViews(records, clip, EvaluateConfig(clips=1))[0]
    assert not isinstance(view, Failure) and view["video"].shape == (1, 4, 3, 32, 32)
    sample = TrainingClips(records, clip, TrainConfig(), ["a"])[0, 0]
    assert sample["video"].shape == (1, 4, 3, 32, 32) and not sample["failures"]
    assert check(records, workers=0, progress=False).ok


def test_refusals() -> None:
    assert depth_settings("rgb", "jet", (0, 1)) is None and depth_settings("depth", "jet", (5, 9)) == Depth("jet", 5, 9)
    for arguments, message in (
        (("dept", "jet", (0, 1)), "modality.*did you mean 'depth'"),
        (("depth", "jett", (0, 1)), "depth_encoding.*did you mean 'jet'"),
        (("depth", "jet", (3, 1)), "two rising distances"),
    ):
        with pytest.raises(GestaError, match=message):
            depth_settings(*arguments)


def test_segments_in_seconds(tmp_path: Path, maps: Path) -> None:
    for suffix in ("mp4", "mkv", "avi"):  # the last by number and rate, its time stamps are not read
        path = _grey(tmp_path / f"video.{suffix}", [8 * i for i in range(30)])

        def numbers(start: float, end: float, path: Path = path) -> list[int]:
            levels = read(path, everything, seconds=(start, end), shows=GREY)[:, 0, 24, 32].int() + 2
            return (levels // 8).tolist()

        assert numbers(0, 0.35) == [0, 1, 2, 3]
        assert numbers(0.5, 0.89) == [5, 6, 7, 8]  # the frames shown then, from the first to the last
        assert numbers(2.7, 99) == [27, 28, 29]
        assert numbers(1.0, 1.0) == [10]
    with pytest.raises(VideoError, match="does not know seconds"):
        read(maps, everything, seconds=(0, 1), shows=GREY)
