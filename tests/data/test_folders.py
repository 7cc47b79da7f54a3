"""A folder per class: how it becomes records, and how its videos are split, keeping together what belongs together."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from empty_files import COMPOSED, DECOMPOSED, frames, tree

from gesta.data.lists import Folder, Lists, read_class_names, write_lists
from gesta.data.locate import split_by_class
from gesta.errors import GestaError
from gesta.records import SPLITS, Record, SplitName


def test_folder_splits_by_class_and_stays_put(tmp_path: Path) -> None:
    root = tree(
        tmp_path, [f"{c}/{i:02d}.mp4" for c in ("wave", "Run") for i in range(20)] + ["notes.txt", ".git/x.mp4"]
    )
    data = Folder(root=str(root), val=0.2, test=0.1)
    assert data.classes() == ["Run", "wave"]
    parts = {split: data.records(split) for split in ("train", "val", "test")}  # type: ignore[arg-type]
    assert {split: [[r.label for r in p].count(c) for c in (0, 1)] for split, p in parts.items()} == {
        "train": [14, 14],
        "val": [4, 4],
        "test": [2, 2],
    }
    names = [r.name for p in parts.values() for r in p]
    assert len(set(names)) == 40 and "Run/07.mp4" in names
    tree(root, ["wave/new.mp4"])
    for split, before in parts.items():
        after = {r.name for r in data.records(split)} - {"wave/new.mp4"}  # type: ignore[arg-type]
        assert len(after ^ {r.name for r in before}) <= 1
    assert Folder(root=str(root), seed=3).records("val") != Folder(root=str(root)).records("val")
    assert Folder(root=str(root), val=0.0).records("val") == []


def test_folder_with_split_folders(tmp_path: Path) -> None:
    names = ["train/a/1.mp4", "train/b/2.avi", "train/b/deep/3.webm", "Validation/b/4.mp4", "extra/x/y.mp4"]
    data = Folder(root=str(tree(tmp_path, names)), val=0.9)
    with pytest.raises(GestaError, match=r"extra: holds videos, .* as Validation beside it .*folders splits"):
        data.classes()
    data.folders = "splits"
    assert data.classes() == ["a", "b"]
    assert [(r.name, r.label) for r in data.records("train")] == [
        ("train/a/1.mp4", 0),
        ("train/b/2.avi", 1),
        ("train/b/deep/3.webm", 1),
    ]
    assert [(r.name, r.label) for r in data.records("val")] == [("Validation/b/4.mp4", 1)]
    assert data.records("test") == []
    tree(tmp_path, ["test/c/5.mp4"])
    with pytest.raises(GestaError, match="no training folder has the name 'c'"):
        data.records("test")


@pytest.mark.parametrize(
    "names", [("train_256", "val_256"), ("Training", "validate"), ("train", "valid"), ("TRAIN-1", "test")]
)
def test_folders_of_splits_are_known_by_common_names(tmp_path: Path, names: tuple[str, str]) -> None:
    data = Folder(root=str(tree(tmp_path, [f"{name}/{c}/{name}.mp4" for name in names for c in "ab"])))
    other: SplitName = "test" if "test" in names else "val"
    assert data.classes() == ["a", "b"] and [r.name[-6:] for r in data.records("train")].count("val.mp4") == 0
    assert {r.name.split("/")[0] for r in data.records(other)} == {names[1]}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["UCF/a/1.mp4", "UCF/b/1.mp4"], r"UCF: is the only class; .* give .*UCF in place of .*folders classes"),
        (["train/UCF/a/1.mp4", "val/UCF/a/1.mp4"], r"train/UCF: is the only class; .*move these up"),
        (["my_train/a/1.mp4", "my_val/a/1.mp4"], "my_train and my_val seem to be splits; rename them"),
        (["train/a/1.mp4", "training/a/1.mp4"], "are of the same split; keep one"),
        (["train/a/1.mp4", "train/b/1.mp4", "c/1.mp4"], "c: holds videos, .*folders splits"),
        (["train/a/1.mp4", "train/b/1.mp4", "test/1.mp4"], "test: holds videos, but its folder is not one of classes"),
        (["a/train/1.mp4", "a/test/2.mp4", "b/train/1.mp4"], "a/train|a/test: is a split inside a class"),
        (
            ["a/1.mp4", "b/1.mp4", "b/thumbs/t_1.jpg", "b/thumbs/t_2.jpg"],
            "b/thumbs: is a folder of images .*kind files",
        ),
        (["a/1.mp4", "b/1.mp4", "b/1/t_1.jpg", "b/1/t_2.jpg"], "b/1: is a folder of images beside video files"),
    ],
)
def test_folders_that_may_be_meant_in_two_ways_are_refused(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(GestaError, match=message):
        Folder(root=str(tree(tmp_path, names))).records("train")


def test_a_flag_says_how_folders_are_meant(tmp_path: Path) -> None:
    root = str(tree(tmp_path / "x", ["train/1.mp4", "bus/1.mp4", "car/1.mp4", "car/1/t_1.jpg", "car/1/t_2.jpg"]))
    assert Folder(root=root, kind="files").classes() == ["bus", "car", "train"]  # a class of that name holds videos
    for kind, count in (("files", 3), ("frames", 1), ("both", 4)):
        data = Folder(root=root, kind=kind, val=0.0)  # type: ignore[arg-type]
        if kind == "frames":
            with pytest.raises(GestaError, match="bus: holds no video"):
                data.records("train")
        else:
            assert len(data.records("train")) == count
    root = str(tree(tmp_path / "y", ["train/a/1.mp4", "c/1.mp4"]))
    assert Folder(root=root, folders="classes").classes() == ["c", "train"]
    assert Folder(root=root, folders="splits").classes() == ["a"]
    root = str(tree(tmp_path / "z", ["val/a/1.mp4", "val/b/1.mp4"]))  # for an evaluation only
    data = Folder(root=root)
    assert data.classes() == ["a", "b"] and len(data.records("val")) == 2 and data.records("train") == []


def test_a_recording_and_its_copy_are_in_one_split(tmp_path: Path) -> None:
    names = [f"{c}/{i}.{suffix}" for c in "ab" for i in range(20) for suffix in ("avi", "mp4")]
    data = Folder(root=str(tree(tmp_path, names)))
    train, val = ({Path(r.name).with_suffix("") for r in data.records(split)} for split in ("train", "val"))  # type: ignore[arg-type]
    assert len(train) == 32 and len(val) == 8 and not train & val


@pytest.mark.parametrize("copy", ["{}.mp4", "{}/img_00001.jpg {}/img_00002.jpg"])
def test_a_copy_is_split_as_its_original(tmp_path: Path, copy: str) -> None:
    """Whoever trains on what gesta data prepare has made may test on the originals."""
    stems = [f"{c}/day.{i:02d}" for c in "ab" for i in range(20)]
    parts = []
    for folder, form in (("whole", "{}.avi"), ("small", copy)):
        names = [name.format(stem) for stem in stems for name in form.split()]
        data = Folder(root=str(tree(tmp_path / folder, names)), val=0.2, test=0.1)
        parts.append([[r.name.removesuffix(".avi").removesuffix(".mp4") for r in data.records(s)] for s in SPLITS])
    assert parts[0] == parts[1] and [len(part) for part in parts[0]] == [28, 8, 4]


def test_folders_of_classes_have_one_form_of_accents(tmp_path: Path) -> None:
    names = [f"train/{COMPOSED}/1.mp4", "train/wave/1.mp4", f"val/{DECOMPOSED}/2.mp4", "val/wave/2.mp4"]
    data = Folder(root=str(tree(tmp_path / "x", names)))
    assert data.classes() == [COMPOSED, "wave"]
    assert [(r.name, r.label) for split in ("train", "val") for r in data.records(split)] == list(
        zip(names, [0, 1] * 2)
    )  # type: ignore[arg-type]
    root = tree(tmp_path / "y", [f"{DECOMPOSED}/1.mp4", "wave/1.mp4"])
    assert write_lists(str(root), val=0.0) == {"train.txt": 2}
    assert read_class_names(str(root / "classes.txt")) == [COMPOSED, "wave"] == Folder(root=str(root)).classes()
    assert [r.path for r in Lists(train=str(root / "train.txt")).records("train")] == [
        str(root / DECOMPOSED / "1.mp4"),
        str(root / "wave" / "1.mp4"),
    ]
    both = tree(tmp_path / "z", [f"{COMPOSED}/1.mp4", f"{DECOMPOSED}/2.mp4"])
    with pytest.raises(GestaError, match="in the form of accents only; put the videos of both into one folder"):
        Folder(root=str(both)).classes()


def test_folder_of_frame_folders(tmp_path: Path) -> None:
    for name in ("a/v1", "a/v2", "b/v3"):
        frames(tmp_path / name, 3)
    assert [r.name for r in Folder(root=str(tmp_path), val=0.0).records("train")] == ["a/v1", "a/v2", "b/v3"]
    frames(tmp_path / "c", 3)
    with pytest.raises(GestaError, match="is one video as frames, not a class"):
        Folder(root=str(tmp_path)).records("train")


def test_folder_refusals(tmp_path: Path) -> None:
    with pytest.raises(GestaError, match=r"data\.root DIR"):
        Folder().records("train")
    with pytest.raises(GestaError, match="is not a folder"):
        Folder(root=str(tmp_path / "absent")).classes()
    tree(tmp_path, ["x.mp4"])
    with pytest.raises(GestaError, match="holds no folders"):
        Folder(root=str(tmp_path)).records("train")
    tree(tmp_path, ["a/1.mp4", "b/readme.txt"])
    with pytest.raises(GestaError, match=rf"{re.escape(str(tmp_path / 'b'))}: holds no video"):
        Folder(root=str(tmp_path)).records("train")
    with pytest.raises(GestaError, match="together below 1"):
        Folder(root=str(tmp_path), val=0.6, test=0.6).classes()


def test_videos_of_a_class_are_split_by_the_hash_of_their_names() -> None:
    def split(names: list[str], *how: Any) -> list[str]:
        return list(split_by_class([Record(path=name, name=name, label=0) for name in names], *how))

    names = [f"v{i}" for i in range(10)]
    splits = split(names, 0.3, 0.2, 0)
    assert (splits.count("val"), splits.count("test"), splits.count("train")) == (3, 2, 5)
    shuffled = names[::-1]
    assert dict(zip(shuffled, split(shuffled, 0.3, 0.2, 0))) == dict(zip(names, splits))
    assert split(["only"], 0.5, 0.4, 0) == ["train"]
    assert sorted(split(["a", "b"], 0.1, 0.0, 0)) == ["train", "val"]
    groups = ["g0"] * 4 + ["g1"] * 3 + ["g2"] * 3
    parts = split(names, 0.2, 0.0, 0, groups)
    assert len({(g, s) for g, s in zip(groups, parts)}) == 3 and parts.count("val") in (3, 4)


def test_groups_of_one_class_are_drawn_as_they_were_before_groups_of_several() -> None:
    groups = [f"g{k}{i % 7}" for k in range(3) for i in range(20)]
    records = [Record(path=f"{i}.mp4", name=f"{i}", label=i // 20) for i in range(60)]
    splits = split_by_class(records, 0.2, 0.1, 5, groups)
    for k in range(3):
        part = slice(20 * k, 20 * k + 20)
        assert splits[part] == split_by_class(records[part], 0.2, 0.1, 5, groups[part])
    held = {s: sorted({g for g, of in zip(groups, splits) if of == s}) for s in ("val", "test")}
    # written down when groups were drawn for each class alone
    assert held == {"val": ["g02", "g03", "g11", "g13", "g20", "g21"], "test": ["g05", "g15", "g22"]}


def test_groups_of_several_classes_are_never_divided() -> None:
    """Persons who do everything, one of whom alone does the rarest, and pairs of verb and noun."""
    for labels in (lambda k: k, lambda k: {"verb": k % 2, "noun": k}):
        people = [(f"p{p}", labels(k)) for p in range(10) for k in range(6) for _ in range(2)] + [("p3", labels(6))]
        records = [Record(path=f"{i}", name=f"{i}", label=label) for i, (_, label) in enumerate(people)]  # type: ignore[arg-type]
        groups = [person for person, _ in people]
        for seed in range(10):
            splits = split_by_class(records, 0.2, 0.1, seed, groups)
            assert {g: len({s for g2, s in zip(groups, splits) if g2 == g}) for g in groups} == dict.fromkeys(groups, 1)
            assert (splits.count("val"), splits.count("test")) == (24, 12) and splits[-1] == "train"
    few = [Record(path=f"{i}", name=f"{i}", label=i % 2) for i in range(300)]  # three recordings, all too large
    splits = split_by_class(few, 0.1, 0.0, 0, [f"r{i // 100}" for i in range(300)])
    assert (splits.count("val"), splits.count("train")) == (100, 200)
    one = split_by_class(few, 0.1, 0.1, 0, ["r"] * 300)
    assert set(one) == {"train"}
