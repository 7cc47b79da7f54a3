"""IsoGD: pairs of videos, labels from 1 on, unlabelled lists, and the genuine pairs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gesta.config import replace
from gesta.data.batch import Failure
from gesta.data.samples import TestViews
from gesta.datasets.isogd import IsoGD
from gesta.errors import GestaError
from gesta.model import ClipSpec
from gesta.recipe import EvaluateConfig
from gesta.video.probe import probe
from gesta.video.read import read


@pytest.fixture
def small(tmp_path: Path) -> Path:
    root = tmp_path / "Most Kinect data"  # an M and a K that are not a modality's
    (root / "IsoGD_phase_1").mkdir(parents=True)
    (root / "IsoGD_phase_2").mkdir()
    (root / "IsoGD_phase_1" / "train_list.txt").write_text(
        "train/001/M_00001.avi train/001/K_00001.avi 26\ntrain/001/M_00002.avi train/001/K_00002.avi 249\n"
    )
    (root / "IsoGD_phase_1" / "valid_list.txt").write_text("valid/001/M_00001.avi valid/001/K_00001.avi\n")
    (root / "IsoGD_phase_2" / "test_list.txt").write_text("test/001/M_00001.avi test/001/K_00001.avi 0\n")
    return root


def test_pairs_have_one_name_and_labels_from_zero(small: Path) -> None:
    rgb, depth = IsoGD(root=str(small)), IsoGD(root=str(small), modality="depth")
    assert [(r.name, r.label) for r in rgb.records("train")] == [("train/001/00001", 25), ("train/001/00002", 248)]
    for split in ("train", "val", "test"):
        pairs = list(zip(rgb.records(split), depth.records(split), strict=True))  # type: ignore[arg-type]
        assert pairs and all((a.name, a.label) == (b.name, b.label) for a, b in pairs)
        assert all(a.shows is None and b.shows is not None for a, b in pairs)
    assert rgb.records("train")[0].path == str(small / "train/001/M_00001.avi")
    assert depth.records("train")[0].path == str(small / "train/001/K_00001.avi")
    for one, other, both in zip(
        rgb.records("train"),
        depth.records("train"),
        IsoGD(root=str(small), modality="rgbd").records("train"),
        strict=True,
    ):
        assert both.streams == [one, other]
    assert [r.label for r in [*rgb.records("val"), *rgb.records("test")]] == [None, None]
    assert rgb.classes() == [str(number) for number in range(1, 250)]


@pytest.mark.parametrize(
    "place",
    [
        "train/001/{}_00001.avi",
        "IsoGD_phase_1/train/001/{}_00001.mp4",
        "IsoGD_Image/train_image/{}/{}_00001/000001.jpg",
        "train_image/{}/{}_00001/000001.jpg",
    ],
)
def test_places(small: Path, place: str) -> None:
    for modality, letter, folder in (("rgb", "M", "RGB"), ("depth", "K", "Depth")):
        names = (folder, letter) if place.count("{}") == 2 else (letter,)
        file = small / place.format(*names)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        expected = file.parent if file.suffix == ".jpg" else file
        records = IsoGD(root=str(small), modality=modality).records("train")  # type: ignore[arg-type]
        assert records[0].path == str(expected)
    (small / "M_00001.avi").touch()  # numbers begin anew in every split
    assert IsoGD(root=str(small)).records("val")[0].path == str(small / "valid/001/M_00001.avi")


def test_labels_of_the_test_split_from_another_list(small: Path, tmp_path: Path) -> None:
    labels = tmp_path / "test_rgb_list.txt"
    labels.write_text("/ssd/dataset/IsoGD_Image/test_image/RGB/M_00001/ 57 0\n")
    data = IsoGD(root=str(small), test_labels=str(labels))
    assert [r.label for r in data.records("test")] == [0] and data.records("val")[0].label is None
    for text, message in (("M_00002/ 57 0", "has no line for"), ("M_00001/ 57 249", "a label from 0 on")):
        labels.write_text(text)
        with pytest.raises(GestaError, match=message):
            data.records("test")
    labels.write_text("train_image/RGB/M_00001/ 57 0\ntrain_image/RGB/M_00002/ 57 0\n")  # of a longer split
    with pytest.raises(GestaError, match=r"list\.txt: has a line for M_00002, which the test list does not have"):
        data.records("test")
    with pytest.raises(GestaError, match=r"holds no test_list\.txt"):
        IsoGD(root=str(tmp_path), annotations=str(tmp_path), test_labels=str(labels)).records("test")


def test_refusals(small: Path) -> None:
    with pytest.raises(GestaError, match="is not a folder"):
        IsoGD(root=str(small / "absent")).records("train")
    with pytest.raises(GestaError, match="did you mean 'depth'"):
        IsoGD(root=str(small), modality="depths").records("train")  # type: ignore[arg-type]
    path = small / "IsoGD_phase_1" / "train_list.txt"
    for line in ("train/001/M_00001.avi 26", "train/001/M_00001.avi train/001/K_00001.avi 250",
                 "train/001/M_00001.avi train/001/K_00001.avi 0"):  # fmt: skip
        path.write_text(line)
        with pytest.raises(GestaError, match="not a line of the official list"):
            IsoGD(root=str(small)).records("train")


@pytest.mark.full  # 35,878 pairs; the layouts' test reads lists of the same format
def test_official_lists(shared: Path, tmp_path: Path) -> None:
    lists = shared / "annotations" / "isogd"
    data = IsoGD(root=str(tmp_path), annotations=str(lists))
    train, val, test = (data.records(split) for split in ("train", "val", "test"))  # type: ignore[arg-type]
    assert (len(train), len(val), len(test)) == (35_878, 5784, 6271)
    assert {r.label for r in train} == {r.label for r in val} == set(range(249)) and {r.label for r in test} == {None}
    data.test_labels = str(lists / "variants" / "attconvlstm_test_rgb_list.txt")
    assert {r.label for r in data.records("test")} == set(range(249))
    public = (lists / "variants" / "attconvlstm_valid_rgb_list.txt").read_text().splitlines()
    assert [str(r.label) for r in val] == [line.split()[-1] for line in public]  # theirs count from 0


def test_genuine_pairs(shared: Path) -> None:
    """Colour and depth of a pair are equally long and show the same moment; depth keeps its whole range."""
    root = str(shared / "videos" / "isogd")
    rgb, depth = (
        [r for r in IsoGD(root=root, modality=modality).records("train") if Path(r.path).exists()]  # type: ignore[arg-type]
        for modality in ("rgb", "depth")
    )
    assert len(rgb) == len(depth) == 10 and rgb[0].label == 25
    assert [probe(r.path).frames for r in rgb] == [probe(r.path).frames for r in depth]
    levels = read(depth[0].path, lambda n: torch.arange(n), shows=depth[0].shows)
    assert levels.shape == (55, 3, 240, 320)
    clip = ClipSpec(frames=8, sampling="uniform", size=32)
    parts = []
    for records in (rgb, depth):
        sample = TestViews(records, clip, EvaluateConfig(clips=1))[0]
        assert not isinstance(sample, Failure) and sample["video"].shape == (1, 8, 3, 32, 32)
        parts.append(sample["video"])
    pairs = [r for r in IsoGD(root=root, modality="rgbd").records("train") if Path(r.path).exists()]
    both = TestViews(pairs, replace(clip, streams=("rgb", "depth")), EvaluateConfig(clips=1))[0]
    assert not isinstance(both, Failure) and torch.equal(both["video"], torch.cat(parts, 2)) and not both["partial"]
