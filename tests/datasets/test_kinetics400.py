"""Kinetics-400's official lists and the many ways in which its clips lie on disks."""

from __future__ import annotations

from pathlib import Path

import pytest

from gesta.data.batch import Failure
from gesta.data.lists import read_class_names
from gesta.data.samples import TestViews
from gesta.datasets.kinetics400 import _SPLIT, Kinetics400
from gesta.errors import GestaError
from gesta.model import ClipSpec
from gesta.recipe import EvaluateConfig

CLIP = "-_aB3456789_000007_000017"
NAME = "massaging person's head"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Official lists of three classes, as the crawler and the mirrors write them."""
    (tmp_path / "kinetics-400_train.csv").write_text(
        "label,youtube_id,time_start,time_end,split,is_cc\n"
        "yoga,abcdefghijk,417,427,train,0\nabseiling,bcdefghijkl,36,46,train,1\n"
        '"passing (in game)",cdefghijklm,0,10,train,0\n'
    )
    (tmp_path / "validate.csv").write_bytes(
        f'label,youtube_id,time_start,time_end,split\r\n"{NAME}",-_aB3456789,7.0,17.0,validate\r\n'.encode()
    )
    return tmp_path


def test_classes_are_sorted_and_clips_named_by_seconds(small: Path) -> None:
    data = Kinetics400(root=str(small))
    assert data.classes() == ["abseiling", NAME, "passing (in game)", "yoga"]
    assert [r.label for r in data.records("train")] == [3, 0, 2]
    (record,) = data.records("val")
    assert record.name == f"{NAME}/{CLIP}.mp4" and record.label == 1
    assert record.path == str(small / record.name)  # not on the disk: listed all the same
    assert data.records("test") == []
    (small / "test.csv").write_text("youtube_id,time_start,time_end,split\n--6bJUbfpnQ,17,27,test\n")
    assert [(r.name, r.label) for r in data.records("test")] == [("--6bJUbfpnQ_000017_000027.mp4", None)]


def test_other_numbers_of_classes(small: Path) -> None:
    (small / "facebook.txt").write_text(f"yoga\t0\n{NAME}\t1\nabseiling\t2\npassing (in game)\t3\n")
    data = Kinetics400(root=str(small), class_names=str(small / "facebook.txt"))
    assert [r.label for r in data.records("train")] == [0, 2, 3]


@pytest.mark.parametrize(
    "place",
    [
        f"{NAME}/{CLIP}.mp4",
        f"val/massaging_person's_head/{CLIP}.mp4",
        f"videos_val/massaging_persons_head/{CLIP}.webm",
        f"k400/val/{CLIP}.mkv",
        "val_256/-_aB3456789.mp4",
        f"rawframes_val/{NAME}/{CLIP}/img_00001.jpg",
        "frames/-_aB3456789/img_00001.jpg",
    ],
)
def test_places_and_forms_of_the_clips(small: Path, place: str) -> None:
    file = small / place
    file.parent.mkdir(parents=True)
    file.touch()
    expected = file.parent if file.suffix == ".jpg" else file
    assert Kinetics400(root=str(small)).records("val")[0].path == str(expected)


def test_which_of_several_files(small: Path) -> None:
    def path_with(place: str) -> str:
        (small / place).parent.mkdir(parents=True, exist_ok=True)
        (small / place).touch()
        return Kinetics400(root=str(small)).records("val")[0].path

    missing = str(small / NAME / f"{CLIP}.mp4")
    assert path_with(f"train/{NAME}/{CLIP}.mp4") == missing  # the folder of another split
    assert path_with(f"val/{NAME}/{CLIP}.txt") == missing
    frames = path_with(f"rawframes_val/{NAME}/{CLIP}/img_00001.jpg")
    assert frames == str(small / "rawframes_val" / NAME / CLIP)
    assert path_with(f"val/{NAME}/{CLIP}.mp4") == str(small / "val" / NAME / f"{CLIP}.mp4")
    replacement = f"replacement/replacement_for_corrupted_k400/{CLIP}.mp4"
    assert path_with(replacement) == str(small / replacement)


def test_refusals(small: Path, tmp_path: Path) -> None:
    with pytest.raises(GestaError, match="is not a folder"):
        Kinetics400(root=str(tmp_path / "absent")).records("train")
    clips = tmp_path / "deep" / "clips"
    clips.mkdir(parents=True)
    with pytest.raises(GestaError, match=r"clips: holds no kinetics-400_train\.csv; .*data\.annotations"):
        Kinetics400(root=str(clips)).classes()
    with pytest.raises(GestaError, match=r"kinetics-400_val\.csv"):
        Kinetics400(root=str(clips)).records("val")
    assert len(Kinetics400(root=str(clips), annotations=str(small)).records("train")) == 3
    (small / "one.txt").write_text("abseiling\nyogo\n")
    with pytest.raises(GestaError, match=r"abcdefghijk.*'yoga' is none of the 2 classes; did you mean 'yogo'"):
        Kinetics400(root=str(small), class_names=str(small / "one.txt")).records("train")
    for lines in ("abseiling/x.mp4 0\n", "label,youtube_id,time_start,time_end\nyoga,abcdefghijk,x,3\n"):
        (small / "kinetics-400_train.csv").write_text("path label\n" * (not lines.startswith("label")) + lines)
        with pytest.raises(GestaError, match="not a line of an official list"):
            Kinetics400(root=str(small)).records("train")


def test_official_lists_have_the_published_sizes(shared: Path, tmp_path: Path) -> None:
    lists = shared / "annotations" / "kinetics400"
    data = Kinetics400(root=str(tmp_path), annotations=str(lists))
    assert data.classes() == read_class_names(str(lists / "label_map_k400.txt")) and len(data.classes()) == 400
    assert not any(map(_SPLIT.fullmatch, data.classes()))  # no class's folder is taken for that of a split
    val, test = data.records("val"), data.records("test")
    assert (len(val), len(test)) == (19_906, 38_685)
    assert {r.label for r in val} == set(range(400)) and {r.label for r in test} == {None}
    # the order of public weights made elsewhere: their list has the same classes under other numbers
    theirs = lists / "variants" / "uniformer_kinetics_400_categories.txt"
    other = Kinetics400(root=str(tmp_path), annotations=str(lists), class_names=str(theirs))
    labels = {r.name.split("/")[1][:11]: r.label for r in other.records("val")}
    listed = [line.split(",") for line in (lists / "variants" / "uniformer_val.csv").read_text().split()]
    assert len(listed) == 19_787 and all(labels[name.removesuffix(".mp4")] == int(label) for name, label in listed)


def test_genuine_clips(shared: Path) -> None:
    lists = shared / "annotations" / "kinetics400"
    data = Kinetics400(root=str(shared / "videos" / "kinetics400"), annotations=str(lists))
    records, classes = data.records("val"), data.classes()
    views = TestViews(records, ClipSpec(frames=8, stride=32, size=32), EvaluateConfig(crops=3, clips=1, short_side=224))
    there = [i for i, record in enumerate(records) if Path(record.path).exists()]
    assert [records[i].name for i in there] == [
        "using segway/R6llTwEh07w_000000_000010.mp4",
        "using segway/SOX5yA1l24A_000299_000309.mp4",
        "yoga/Tw2yXa6CzWE_000491_000501.mp4",
    ]
    for i in there:
        sample = views[i]
        assert not isinstance(sample, Failure) and sample["video"].shape == (3, 8, 3, 32, 32)
        assert classes[sample["label"]] == records[i].name.split("/")[0]  # type: ignore[index]
    missing = views[0]
    assert isinstance(missing, Failure) and missing.name == "abseiling/0wR5jVB-WPk_000417_000427.mp4"
