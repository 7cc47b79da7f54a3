"""UCF-101's official splits, with all their quirks."""

from __future__ import annotations

from pathlib import Path

import pytest

from gesta.data.batch import Failure
from gesta.data.samples import TestViews
from gesta.datasets.ucf101 import UCF101
from gesta.errors import GestaError
from gesta.model import ClipSpec
from gesta.recipe import EvaluateConfig
from gesta.records import list_hash


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Three classes whose order is not that of sorted names, CRLF line ends, and the odd file name."""
    lists = tmp_path / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_bytes(b"1 Hammering\r\n2 HammerThrow\r\n3 HandstandPushups\r\n")
    names = ["Hammering/v_Hammering", "HammerThrow/v_HammerThrow", "HandstandPushups/v_HandStandPushups"]
    train = [
        f"{name}_g{g:02d}_c{c:02d}.avi {i + 1}" for i, name in enumerate(names) for g in range(8, 12) for c in (1, 2)
    ]
    test = [f"{name}_g01_c01.avi" for name in names]
    (lists / "trainlist01.txt").write_bytes("\r\n".join([*train, ""]).encode())
    (lists / "testlist01.txt").write_bytes("\r\n".join([*test, ""]).encode())
    return tmp_path


def test_classes_are_in_the_official_order_and_come_from_the_folder(small: Path) -> None:
    data = UCF101(root=str(small))
    assert data.classes() == ["Hammering", "HammerThrow", "HandstandPushups"]
    train, test = data.records("train"), data.records("test")
    assert len(train) == 24 and [r.label for r in test] == [0, 1, 2]
    assert test[2].name == "HandstandPushups/v_HandStandPushups_g01_c01.avi"
    assert test[2].path == str(small / test[2].name)  # not on the disk: listed all the same
    assert data.records("val") == []


def test_validation_holds_out_whole_groups(small: Path) -> None:
    data = UCF101(root=str(small), val=0.25)
    train, val = data.records("train"), data.records("val")
    groups = [{r.name.rpartition("_c")[0] for r in part} for part in (train, val)]
    assert len(train) == 18 and len(val) == 6 and not groups[0] & groups[1]
    assert sorted(r.label for r in val) == [0, 0, 1, 1, 2, 2]  # type: ignore[type-var]


@pytest.mark.parametrize(
    "place",
    [
        "UCF-101/HandstandPushups/v_HandStandPushups_g01_c01.avi",
        "videos/HandStandPushups/v_HandStandPushups_g01_c01.mp4",
        "HandstandPushups/v_HandstandPushups_g01_c01.avi",
        "v_HandStandPushups_g01_c01.avi",
        "rawframes/HandstandPushups/v_HandStandPushups_g01_c01/img_00001.jpg",
        "jpegs_256/v_HandStandPushups_g01_c01/frame000001.jpg",
    ],
)
def test_places_and_forms_of_the_clips(small: Path, place: str) -> None:
    file = small / place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    expected = file.parent if file.suffix == ".jpg" else file
    assert UCF101(root=str(small)).records("test")[2].path == str(expected)


def test_refusals(small: Path, tmp_path: Path) -> None:
    with pytest.raises(GestaError, match="is not a folder"):
        UCF101(root=str(tmp_path / "absent")).records("train")
    (tmp_path / "elsewhere" / "clips").mkdir(parents=True)
    with pytest.raises(GestaError, match=r"ucfTrainTestlist: does not exist; .*data\.annotations"):
        UCF101(root=str(tmp_path / "elsewhere" / "clips")).records("train")
    with pytest.raises(GestaError, match="splits 1, 2 and 3"):
        UCF101(root=str(small), split=4).records("train")
    assert len(UCF101(root=str(tmp_path / "elsewhere"), annotations=str(small)).records("test")) == 3
    (small / "ucfTrainTestlist" / "testlist01.txt").write_text("Hammering/v_Hammering_g01_c01.avi 2\n")
    with pytest.raises(GestaError, match="not a line of the official list"):
        UCF101(root=str(small)).records("test")


def test_official_lists_have_the_published_sizes(shared: Path, tmp_path: Path) -> None:
    sizes = {1: (9537, 3783), 2: (9586, 3734), 3: (9624, 3696)}
    for split, expected in sizes.items():
        data = UCF101(root=str(tmp_path), annotations=str(shared / "annotations" / "ucf101"), split=split)
        train, test = data.records("train"), data.records("test")
        assert (len(train), len(test)) == expected
        assert len({r.name for r in train} | {r.name for r in test}) == 13_320
        assert {r.label for r in train} == {r.label for r in test} == set(range(101))
    # a group is of one class: held out are the videos that were when each class was drawn alone
    assert list_hash(UCF101(root=data.root, annotations=data.annotations, val=0.1, seed=3).records("val"))[:16] == (
        "684c31b326ddb1c4"
    )
    classes = data.classes()
    assert classes[34:36] == ["Hammering", "HammerThrow"] and classes[46:48] == ["JumpingJack", "JumpRope"]
    assert sum(r.label == classes.index("HandstandPushups") for r in [*train, *test]) == 128


def test_genuine_clips(shared: Path) -> None:
    data = UCF101(root=str(shared / "videos" / "ucf101"), annotations=str(shared / "annotations" / "ucf101"))
    records = data.records("test")
    views = TestViews(records, ClipSpec(frames=4, stride=4, size=32), EvaluateConfig(clips=2))
    there = [i for i, record in enumerate(records) if Path(record.path).exists()]
    assert [records[i].name.split("/")[1] for i in there] == [
        "v_ApplyEyeMakeup_g01_c01.avi",
        "v_BaseballPitch_g01_c01.avi",
    ]
    sample = views[there[0]]
    assert not isinstance(sample, Failure) and sample["video"].shape == (2, 4, 3, 32, 32) and sample["label"] == 0
    missing = views[1]
    assert isinstance(missing, Failure) and missing.name == "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c02.avi"
