"""NTU RGB+D: the protocols as rules on names, where samples lie, both modalities."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gesta.data.batch import Failure
from gesta.data.samples import TestViews
from gesta.datasets.ntu import NTU
from gesta.errors import GestaError
from gesta.model import ClipSpec
from gesta.recipe import EvaluateConfig

NAME = "S001C002P003R002A013"


def by_name(data: NTU) -> dict[str, tuple[str, str, int]]:
    """Name → split, path, label."""
    return {r.name: (s, r.path, r.label) for s in ("train", "val", "test") for r in data.records(s)}  # type: ignore[arg-type, misc]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, tuple[str, str, int]]]:
    """All samples by protocol, of an empty folder."""
    root = str(tmp_path_factory.mktemp("ntu"))
    return {split: by_name(NTU(root=root, split=split)) for split in ("cross_subject", "cross_view")}  # type: ignore[arg-type]


@pytest.mark.parametrize(("split", "sizes"), [("cross_subject", (40_320, 16_560)), ("cross_view", (37_920, 18_960))])
def test_protocols(whole: dict[str, dict[str, tuple[str, str, int]]], split: str, sizes: tuple[int, ...]) -> None:
    labels = {part: [label for of, _, label in whole[split].values() if of == part] for part in ("train", "test")}
    assert tuple(map(len, labels.values())) == sizes and sum(sizes) == len(whole[split])
    for of_part in labels.values():
        counts = np.bincount(of_part)
        assert len(counts) == 60 and len(set(counts)) == 1
    assert all(label == int(name[-3:]) - 1 for name, (*_, label) in whole[split].items())


def test_single_names(whole: dict[str, dict[str, tuple[str, str, int]]]) -> None:
    subject, view = whole.values()
    assert subject["S001C001P003R001A001"][0] == "test"  # performer 3; setup 1 is not what decides
    assert subject["S001C001P001R001A001"][0] == "train" and subject["S003C001P001R001A060"][2] == 59
    assert view["S001C001P001R001A001"][0] == "test" and view["S001C002P003R001A001"][0] == "train"
    assert subject.keys() == view.keys() and len(subject) == 56_880
    assert NAME in subject and "S018C001P041R001A061" not in subject


@pytest.mark.parametrize(
    ("modality", "place"),
    [
        ("rgb", "nturgb+d_rgb/{}_rgb.avi"),
        ("rgb", "{}_rgb.mp4"),
        ("rgb", "wear_jacket/{}_rgb.avi"),
        ("rgb", "Images/{}_rgb/000001.jpg"),
        ("rgb", "frames/s001/{}/img_00001.jpg"),
        ("depth", "nturgb+d_depth_masked/{}/MDepth-00000001.png"),
        ("depth", "nturgbd_depth_masked_s001/nturgb+d_depth_masked/{}/MDepth-00000001.png"),
        ("depth", "depth_s001/{}/Depth-00000001.png"),
        ("depth", "{}/MDepth-00000001.png"),
        ("depth", "videos/{}_depth.mp4"),
    ],
)
def test_places(tmp_path: Path, modality: str, place: str) -> None:
    file = tmp_path / place.format(NAME)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    for decoy in (f"nturgb+d_ir/{NAME}_ir.avi", f"nturgb+d_skeletons/{NAME}.skeleton"):
        (tmp_path / decoy).parent.mkdir()
        (tmp_path / decoy).touch()
    expected = file.parent if NAME in file.parent.name else file
    assert by_name(NTU(root=str(tmp_path), setups=(1,), modality=modality))[NAME][1] == str(expected)  # type: ignore[arg-type]


def test_both_modalities_below_one_root(tmp_path: Path) -> None:
    root: Any = {"root": str(tmp_path), "setups": (1,)}
    for folder in (f"nturgb+d_depth_masked/{NAME}", f"nturgb+d_depth_s001/{NAME}", "nturgb+d_rgb"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "nturgb+d_rgb" / f"{NAME}_rgb.avi").touch()
    assert by_name(NTU(**root))[NAME][1].endswith("_rgb.avi")
    masked = by_name(NTU(**root, modality="depth"))[NAME][1]
    assert masked == str(tmp_path / "nturgb+d_depth_masked" / NAME)
    for crop in (False, True):
        one, other, both = (
            next(r for r in NTU(**root, modality=m, person_crop=crop).records("test") if r.name == NAME)  # type: ignore[arg-type]
            for m in ("rgb", "depth", "rgbd")
        )
        assert both.streams == [one, other] and bool(both.masks) == crop
    (tmp_path / "nturgb+d_rgb" / f"{NAME}_rgb.avi").unlink()
    assert by_name(NTU(**root))[NAME][1] == str(tmp_path / NAME)  # depth is not taken for colour


@pytest.mark.parametrize("slash", ["", "/"])
def test_the_name_of_the_root_says_nothing_however_it_is_written(tmp_path: Path, slash: str) -> None:
    root = tmp_path / "ntu_rgb_and_depth"
    root.mkdir()
    (root / f"{NAME}.avi").touch()
    assert by_name(NTU(root=f"{root}{slash}", setups=(1,)))[NAME][1] == str(root / f"{NAME}.avi")


def test_parts_of_it(tmp_path: Path) -> None:
    data = NTU(root=str(tmp_path), setups=(1, 4))
    assert len(by_name(data)) == (8 + 4) * 3 * 2 * 60
    data.leave_out = str(tmp_path / "missing.txt")
    Path(data.leave_out).write_text(f"302 samples, see below\n\n{NAME}\nS001C002P005R002A008\n")
    names = by_name(data)
    assert len(names) == 12 * 360 - 2 and NAME not in names


def test_depth_maps_are_shown_in_millimetres(tmp_path: Path) -> None:
    folder = tmp_path / "nturgb+d_depth_masked" / NAME
    folder.mkdir(parents=True)
    for i in range(3):
        Image.fromarray(np.full((42, 51), 2500, dtype=np.uint16)).save(folder / f"MDepth-{i:08d}.png")
    data = NTU(root=str(tmp_path), setups=(1,), modality="depth", depth_encoding="repeat3", depth_range=(1500, 3500))
    records = [r for r in data.records("test") if r.name == NAME]
    sample = TestViews(records, ClipSpec(frames=4, sampling="uniform", size=32), EvaluateConfig(clips=1))[0]
    assert not isinstance(sample, Failure) and sample["video"].unique().tolist() == [128]


def test_refusals(tmp_path: Path) -> None:
    for fields, message in (
        ({"root": str(tmp_path / "absent")}, "is not a folder"),
        ({"split": "cross_subjects"}, "did you mean 'cross_subject'"),
        ({"setups": (18,)}, "setups 1 to 17"),
        ({"depth_range": (3.0, 1.0), "modality": "depth"}, "two rising distances"),
    ):
        with pytest.raises(GestaError, match=message):
            NTU(**{"root": str(tmp_path), **fields}).records("train")  # type: ignore[arg-type]


def test_official_names(shared: Path, tmp_path: Path) -> None:
    lists = shared / "annotations" / "ntu_rgbd"
    for split in ("train", "test"):
        text = (lists / "variants" / f"severe_cross_subject_{split}list01.txt").read_text()
        records = NTU(root=str(tmp_path)).records(split)  # type: ignore[arg-type]
        assert {r.name for r in records} == set(re.findall(r"(S\w{19})_rgb", text))
    text = (lists / "official_repo_README.md").read_text()
    names = dict(re.findall(r"^\* A(\d+)\. (.*?)\.?\s*$", text, re.MULTILINE))
    assert NTU().classes() == [names[str(number)] for number in range(1, 61)]
    for split, sizes in (("cross_subject", (40_091, 16_487)), ("cross_view", (37_646, 18_932))):
        data = NTU(root=str(tmp_path), split=split)  # type: ignore[arg-type]
        data.leave_out = str(lists / "NTU_RGBD_samples_with_missing_skeletons.txt")
        assert (len(data.records("train")), len(data.records("test"))) == sizes


def test_genuine_clip(shared: Path) -> None:
    root = shared / "videos" / "ntu_rgbd"
    there = {n: v for n, v in by_name(NTU(root=str(root), setups=(1,))).items() if Path(v[1]).is_file()}
    assert [(name, *v[::2]) for name, v in there.items()] == [("S001C001P001R001A001", "train", 0)]
