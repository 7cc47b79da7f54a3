"""Pictures as players show them: upright, in the order of their numbers, with square pixels, whole and not combed."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from gesta.curation.check import check
from gesta.curation.prepare import prepare
from gesta.errors import VideoError
from gesta.records import Record
from gesta.video.depth import Depth
from gesta.video.images import image_files, read_image
from gesta.video.probe import probe
from gesta.video.read import read


def findings(path: Path) -> dict[str, str]:
    report = check([Record(path=str(path), name="a", label=0)], workers=0, progress=False)
    return {finding.kind: finding.text for finding in report.findings}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_pictures_stand_as_their_exif_orientation_says(tmp_path: Path, orientation: int, suffix: str) -> None:
    """The scene lies in the file as the EXIF standard says (2.32, section 4.6.4): 6 has its top at the right."""
    scene = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((64, 48), 0)
    turns = Image.Transpose
    lies = [None, turns.FLIP_LEFT_RIGHT, turns.ROTATE_180, turns.FLIP_TOP_BOTTOM, turns.TRANSPOSE, turns.ROTATE_90,
            turns.TRANSVERSE, turns.ROTATE_270][orientation - 1]  # fmt: skip
    stored = scene if lies is None else scene.transpose(lies)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"img_1.{suffix}"
    stored.save(path, exif=exif, quality=95)
    shown = read_image(str(path), None)
    assert shown.shape == (3, 48, 64)
    assert np.abs(shown.astype(int) - np.asarray(scene).transpose(2, 0, 1)).mean() < 12
    assert read_image(str(path), 24).shape == (3, 24, 32)
    assert read_image(str(path), None, Depth()).shape == (3, 48, 64)
    assert (probe(tmp_path).width, probe(tmp_path).height) == (64, 48)


@pytest.mark.parametrize(
    "names",
    [
        ["0.033.jpg", "0.1.jpg", "0.2.jpg"],
        ["0.00.png", "0.04.png", "0.96.png", "1.00.png", "1.04.png", "10.00.png"],
        ["0.0.jpg", "0.0333.jpg", "0.1.jpg", "1.0.jpg"],
        ["shot.0009.jpg", "shot.0010.jpg"],
        ["clip1.9.jpg", "clip1.10.jpg", "clip1.12.jpg"],
        ["1.8.jpg", "1.9.jpg", "1.10.jpg", "1.12.jpg"],
        ["9.jpg", "10.jpg", "100.jpg"],
    ],
)
def test_frames_are_in_the_order_of_numbers_and_seconds(tmp_path: Path, names: list[str]) -> None:
    for name in reversed(names):
        (tmp_path / name).touch()
    assert [Path(file).name for file in image_files(str(tmp_path))] == names


@pytest.mark.parametrize("pair", [("img_1.jpg", "img_00001.jpg"), ("img_1.jpg", "img_1.JPG"), ("0.1.jpg", "0.10.jpg")])
def test_two_pictures_of_one_number_are_refused(tmp_path: Path, pair: tuple[str, str]) -> None:
    for name in (*pair, "img_2.jpg" if "img" in pair[0] else "0.033.jpg"):
        (tmp_path / name).touch()
    with pytest.raises(VideoError, match=r"(?i)jpg and .*jpg have the same number; keep one file per frame"):
        image_files(str(tmp_path))


def test_cameras_side_by_side_stay_several_sequences(tmp_path: Path) -> None:
    for name in ("1.001.jpg", "1.002.jpg", "2.001.jpg", "2.002.jpg"):
        (tmp_path / name).touch()
    with pytest.raises(VideoError, match="several image sequences"):
        image_files(str(tmp_path))


def write(path: Path, images: list[np.ndarray], codec: str = "libx264", **settings: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for name, value in settings.items():
            setattr(stream.codec_context, name, value)
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    "aspect, size", [(Fraction(2), (128, 48)), (Fraction(1, 2), (64, 96)), (Fraction(256, 255), (64, 48))]
)
def test_prepare_makes_pixels_square(tmp_path: Path, aspect: Fraction, size: tuple[int, int]) -> None:
    circle = np.hypot(*np.mgrid[-24:24, -32:32] * np.array([1, float(aspect)])[:, None, None]) < 14  # type: ignore[arg-type]
    path = write(
        tmp_path / "v" / "a.mp4",
        [np.repeat(255 * circle.astype(np.uint8)[..., None], 3, 2)] * 3,
        sample_aspect_ratio=aspect,
    )
    assert read(path, torch.arange).shape[-2:] == (48, 64)
    assert ("pixels not square" in findings(path)) == (size != (64, 48))
    for frames in (False, True):
        out = tmp_path / f"out{frames}"
        prepare(tmp_path / "v", out, frames=frames, workers=0)
        copy = out / ("a" if frames else "a.mp4")
        info = probe(copy)
        assert (info.width, info.height, info.pixel_aspect) == (*size, 1.0)
        bright = read(copy, torch.arange)[0, 0] > 128
        across, down = int(bright.any(0).sum()), int(bright.any(1).sum())
        assert abs(across - down) <= (2 if size != (64, 48) else 3), "a circle is shown"


def test_interlaced_video_is_named_and_deinterlaced(tmp_path: Path) -> None:
    """A bar that moves 6 pixels between the two fields of a frame."""
    images = []
    for i in range(8):
        image = np.full((96, 128, 3), 40, np.uint8)
        for field in (0, 1):
            left = 12 * i + 6 * field
            image[field::2, left : left + 12] = 220
        images.append(image)
    path = write(tmp_path / "v" / "a.mpg", images, "mpeg2video", options={"flags": "+ildct+ilme"}, bit_rate=4_000_000)
    assert probe(path).interlaced and "deinterlaces" in findings(path)["interlaced"]

    def combs(frames: torch.Tensor) -> float:
        rows = frames.float()
        return float((rows[..., 1:-1, :] - (rows[..., :-2, :] + rows[..., 2:, :]) / 2).abs().mean())

    prepare(tmp_path / "v", tmp_path / "out", workers=0)
    copy = tmp_path / "out" / "a.mp4"
    assert not probe(copy).interlaced and probe(copy).frames == 8
    assert combs(read(copy, torch.arange)) < 0.3 * combs(read(path, torch.arange))


@pytest.mark.parametrize("transfer, named", [(16, True), (18, True), (1, False)])
def test_hdr_is_named(tmp_path: Path, transfer: int, named: bool) -> None:
    images = [np.full((48, 64, 3), 40 * i, np.uint8) for i in range(3)]
    path = write(tmp_path / "a.mp4", images, color_trc=transfer)
    assert probe(path).hdr == named and ("HDR" in findings(path)) == named


def test_plain_video_gives_no_finding_of_these(make_video: Callable[..., Path]) -> None:
    info = probe(make_video("a.mp4"), exact=True)
    assert (info.pixel_aspect, info.start) == (1.0, 0.0)
    assert not (info.interlaced or info.hdr or info.contradictory_times)
