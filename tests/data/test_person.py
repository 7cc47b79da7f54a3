"""The part of a picture around the people that masked depth shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gesta.data.person import crop_to_people, find_people, find_person
from gesta.data.samples import TestViews, TrainingClips, read_record
from gesta.datasets.ntu import NTU
from gesta.model import ClipSpec
from gesta.recipe import Augment, EvaluateConfig, TrainConfig
from gesta.records import Record
from gesta.video.depth import Depth

NAME = "S001C002P003R002A013"


def mask(*people: tuple[int, int], height: int = 100, width: int = 30) -> np.ndarray:
    """A masked map of 424 x 512 pixels with boxes of 2.5 m at these (top, left)."""
    picture = np.zeros((424, 512), dtype=np.uint16)
    for top, left in people:
        picture[top : top + height, left : left + width] = 2500
    return picture


def write_masks(folder: Path, pictures: list[np.ndarray]) -> Path:
    folder.mkdir(parents=True)
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"MDepth-{i + 1:08d}.png")
    return folder


def everything(n: int) -> torch.Tensor:
    return torch.arange(n)


def test_the_middle_of_the_person() -> None:
    assert find_person(mask()) is None
    place = find_person(mask((100, 200)))
    assert place == pytest.approx((150 / 424, 215 / 512), abs=0.003)
    noisy = mask((100, 200))
    noisy[::40, ::40] = 2500  # single pixels
    noisy[130:160:2, 210] = 0  # holes
    assert find_person(noisy) == place
    noisy[10:20, 10:20] = 2500  # a small spot
    assert find_person(noisy) == place
    two = find_person(mask((100, 300), (180, 60)))
    assert two == pytest.approx((150 / 424, 75 / 512), abs=0.003)  # the topmost row, the leftmost column
    half = find_person(mask((100, 200))[::2, ::2])
    assert half == pytest.approx(place, abs=0.01)


def test_places_come_from_the_nearest_frame_with_somebody(tmp_path: Path) -> None:
    folder = write_masks(tmp_path / NAME, [mask(), mask((100, 100)), mask(), mask(), mask((200, 300))])
    (folder / "MDepth-00000004.png").write_bytes(b"damaged")
    first, last = find_person(mask((100, 100))), find_person(mask((200, 300)))
    assert find_people(str(folder), torch.arange(5)) == [first, first, first, last, last]
    assert find_people(str(folder), torch.tensor([[4, 9], [1, 4]])) == [last, last, first, last]  # 5 maps, clamped
    assert find_people(str(folder), torch.tensor([0, 2])) == [(0.5, 0.5)] * 2


def test_the_part_stays_in_the_picture_and_gets_4_to_3() -> None:
    rows, columns = torch.meshgrid(torch.arange(90), torch.arange(160), indexing="ij")
    frames = torch.stack([rows, columns, rows]).to(torch.uint8).expand(3, -1, -1, -1)
    parts = crop_to_people(frames, [(0.5, 0.5), (0.1, 0.95), (0.6, 0.3)], "depth")
    assert parts.shape == (3, 3, 51, 68)
    assert parts[:, 0, 0, 0].tolist() == [20, 0, 28] and parts[:, 1, 0, 0].tolist() == [30, 60, 0]
    assert parts[:, 0, -1, 0].tolist() == [70, 50, 78] and parts[:, 1, 0, -1].tolist() == [129, 159, 99]
    colour = crop_to_people(frames, [(0.5, 0.5)] * 3, "rgb")
    assert colour.shape == (3, 3, 45, 60)
    assert colour[0, 0, :, 0].tolist() == list(range(22, 67)) and abs(int(colour[0, 1, 0, 30]) - 80) <= 1


def test_colour_follows_the_person(make_video: Callable[..., Path], tmp_path: Path) -> None:
    """The bright square of the made video is the person: it is in the middle of every part."""
    make_video(f"nturgb+d_rgb/{NAME}_rgb.avi", frames=50, size=(192, 108), shade=0)
    # the square is at rows 54 to 62 of 108, and at columns 2 i to 2 i + 8 of 192
    maps = [mask((round(54 / 108 * 424), round(2 * i / 192 * 512)), height=31, width=21) for i in range(50)]
    write_masks(tmp_path / "nturgb+d_depth_masked" / NAME, maps)
    (record,) = [r for r in NTU(root=str(tmp_path), person_crop=True).records("test") if r.name == NAME]
    assert record.masks == str(tmp_path / "nturgb+d_depth_masked" / NAME)
    frames = read_record(record, everything, 54)
    assert frames.shape == (50, 3, 54, 72)
    for i in range(28, 50):  # earlier it is too near to the left side to be in the middle
        rows, columns = (frames[i, 0] > 225).nonzero().float().mean(0).tolist()
        assert abs(rows - 26.5) < 2.5 and abs(columns - 35.5) < 2.5
    whole = read_record(Record(path=record.path, name=NAME), everything, 108)
    assert (whole[28, 0] > 225).nonzero().float().mean(0)[1] < 70  # not in the middle of the whole picture
    clip = ClipSpec(frames=4, sampling="uniform", size=32)
    views = TestViews([record], clip, EvaluateConfig(clips=2, crops=3, short_side=240))[0]
    assert not isinstance(views, tuple) and views["video"].shape == (6, 4, 3, 32, 32)
    augment = Augment(crop="jitter", short_side=(240, 240), rotate=10)
    sample = TrainingClips([record], clip, TrainConfig(augment=augment, repeats=2), ["a"] * 60)[0, 0]
    assert sample["video"].shape == (2, 4, 3, 32, 32) and not sample["failures"]


def test_depth_is_cropped_to_itself(tmp_path: Path) -> None:
    folder = write_masks(tmp_path / "nturgb+d_depth_masked" / NAME, [mask((20 + 10 * i, 300)) for i in range(4)])
    data = NTU(root=str(tmp_path), modality="depth", depth_encoding="repeat3", person_crop=True)
    (record,) = [r for r in data.records("test") if r.name == NAME]
    assert (record.path, record.masks, record.shows) == (str(folder), str(folder), Depth("repeat3"))
    frames = read_record(record, everything, 240)
    assert frames.shape == (4, 3, 240, 320) and set(frames.unique().tolist()) == {0, 128}
    person = frames[3, 0].nonzero()
    # its rows 50 to 150 are nearer to the top than half of the part; its columns 300 to 330 grow to 295 to 334 by the
    # dilation, whose middle 314.5 goes to 160, so 300 to 146
    assert person.amin(0).tolist() == [50, 146] and (person.amax(0) - person.amin(0)).tolist() == [99, 29]


def test_samples_without_masks_are_shown_whole_with_one_warning(
    make_video: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    make_video(f"nturgb+d_rgb/{NAME}_rgb.avi", size=(96, 54))
    make_video("nturgb+d_rgb/S001C001P003R001A001_rgb.avi", size=(96, 54))
    (tmp_path / "depth_s001" / NAME).mkdir(parents=True)  # full depth shows no person
    write_masks(tmp_path / "nturgb+d_depth_masked" / "S001C001P003R001A001", [mask((100, 200))])
    data = NTU(root=str(tmp_path), person_crop=True)
    records = {r.name: r for split in ("train", "test") for r in data.records(split)}  # type: ignore[arg-type]
    warning = capfd.readouterr().err
    assert warning.count("\n") == 1 and "1 of 2 samples have no folder of masked depth" in warning
    assert read_record(records[NAME], everything, 54).shape[-2:] == (54, 96)
    assert read_record(records["S001C001P003R001A001"], everything, 54).shape[-2:] == (54, 72)
    assert not NTU(root=str(tmp_path)).records("test")[0].masks and not capfd.readouterr().err


def test_genuine_clip(shared: Path, tmp_path: Path) -> None:
    """The person of the genuine colour clip, by a mask that is drawn where she stands: no genuine one is at hand."""
    name = "S001C001P001R001A001"
    (tmp_path / "nturgb+d_rgb").symlink_to(shared / "videos" / "ntu_rgbd" / "nturgb+d_rgb")
    write_masks(tmp_path / "nturgb+d_depth_masked" / name, [mask((113, 264), height=177, width=33)])
    (record,) = [r for r in NTU(root=str(tmp_path), person_crop=True).records("train") if r.name == name]
    frames = read_record(record, lambda n: torch.tensor([0, 10]), 240)
    assert frames.shape == (2, 3, 240, 320)
    dark = frames[:, :, 60:110, 145:175].float().mean((1, 2, 3))  # her black shirt
    wall = frames[:, :, 60:110, 30:120].float().mean((1, 2, 3))
    assert (dark < 100).all() and (wall > 140).all()
