"""Something-Something: both versions' official lists and where their clips lie."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gesta.data.batch import Failure
from gesta.data.lists import read_class_names
from gesta.data.samples import TestViews, TrainingClips
from gesta.data.transforms import flip_targets
from gesta.datasets.something import MIRRORED, SomethingV1, SomethingV2
from gesta.errors import GestaError
from gesta.model import ClipSpec
from gesta.recipe import Augment, EvaluateConfig, TrainConfig
from gesta.video.probe import probe
from gesta.video.read import read

NAMES = ["Holding something", "Closing something", "Poking something so lightly that it doesn't or almost doesn't move"]


@pytest.fixture
def first(tmp_path: Path) -> Path:
    """Version 1: official lists without headers; labels are not sorted."""
    name = "something-something-v1"
    (tmp_path / f"{name}-labels.csv").write_text("".join(f"{label}\n" for label in NAMES))
    (tmp_path / f"{name}-train.csv").write_text(f"100218;{NAMES[0]}\n85;{NAMES[2]}\n")
    (tmp_path / f"{name}-validation.csv").write_text(f"7;{NAMES[1]}\n")
    (tmp_path / f"{name}-test.csv").write_text("105723\n")
    return tmp_path


@pytest.fixture
def second(tmp_path: Path) -> Path:
    """Version 2, under the names of both sources."""
    (tmp_path / "labels").mkdir()
    labels = {"Putting something into something": "1", "Putting number of something onto something": "0"}
    (tmp_path / "labels" / "labels.json").write_text(json.dumps(labels))
    train = [
        {
            "id": "9",
            "label": "putting 3 pens onto table",
            "template": "Putting [number of] [something] onto [something]",
        },
        {"id": "78687", "label": "putting pen into cup", "template": "Putting [something] into [something]"},
    ]
    (tmp_path / "labels" / "train.json").write_text(json.dumps(train))
    (tmp_path / "something-something-v2-validation.json").write_text(json.dumps(train[1:]))
    (tmp_path / "labels" / "test.json").write_text('[{"id":"1420"}]')
    return tmp_path


def test_first_version(first: Path) -> None:
    data = SomethingV1(root=str(first))
    assert data.classes() == sorted(NAMES)
    assert [(r.name, r.label) for r in data.records("train")] == [("100218", 1), ("85", 2)]
    assert [(r.name, r.label) for r in data.records("val")] == [("7", 0)]
    assert [(r.name, r.label) for r in data.records("test")] == [("105723", None)]
    assert data.records("val")[0].path == str(first / "7")  # not on the disk: listed all the same
    data.class_names = str(first / "something-something-v1-labels.csv")
    assert data.classes() == NAMES and [r.label for r in data.records("train")] == [0, 2]


def test_headers_that_copies_have(first: Path) -> None:
    plain = [SomethingV1(root=str(first)).records(split) for split in ("train", "val", "test")]  # type: ignore[arg-type]
    for part, header in (
        ("labels", "label"),
        ("train", "video;label"),
        ("validation", "video;label"),
        ("test", "video"),
    ):
        path = first / f"something-something-v1-{part}.csv"
        path.write_text(f"{header}\n{path.read_text()}")
    assert [SomethingV1(root=str(first)).records(split) for split in ("train", "val", "test")] == plain  # type: ignore[arg-type]


@pytest.mark.parametrize("place", ["7", "20bn-something-something-v1/7", "rawframes/7", "videos/7.mp4"])
def test_places_of_the_first_version(first: Path, place: str) -> None:
    (first / place).mkdir(parents=True)
    assert SomethingV1(root=str(first)).records("val")[0].path == str(first / place)


def test_second_version(second: Path) -> None:
    data = SomethingV2(root=str(second))
    assert data.classes() == ["Putting number of something onto something", "Putting something into something"]
    assert [(r.name, r.label) for r in data.records("train")] == [("9.webm", 0), ("78687.webm", 1)]
    assert [(r.name, r.label) for r in data.records("val")] == [("78687.webm", 1)]
    assert [(r.name, r.label) for r in data.records("test")] == [("1420.webm", None)]
    assert data.records("val")[0].path == str(second / "78687.webm")


@pytest.mark.parametrize(
    "place", ["20bn-something-something-v2/78687.webm", "videos/78687.mp4", "rawframes/78687", "78687.webm"]
)
def test_places_of_the_second_version(second: Path, place: str) -> None:
    (second / place).parent.mkdir(parents=True, exist_ok=True)
    (second / place).touch()
    assert SomethingV2(root=str(second)).records("val")[0].path == str(second / place)


def test_refusals(first: Path, second: Path, tmp_path: Path) -> None:
    clips = tmp_path / "deep" / "clips"
    clips.mkdir(parents=True)
    for data, ending in ((SomethingV1, "csv"), (SomethingV2, "json")):
        with pytest.raises(GestaError, match="is not a folder"):
            data(root=str(tmp_path / "absent")).records("train")
        with pytest.raises(GestaError, match=rf"clips: holds no something.*train\.{ending}; .*data\.annotations"):
            data(root=str(clips)).records("train")
        assert data(root=str(clips)).records("test") == []
        assert len(data(root=str(clips), annotations=str(tmp_path)).records("train")) == 2
    path = first / "something-something-v1-train.csv"
    for line, message in (("85 46 30", "not a line"), ("85;Closing somethin", "did you mean 'Closing something'")):
        path.write_text(line)
        with pytest.raises(GestaError, match=message):
            SomethingV1(root=str(first)).records("train")
    path = second / "labels" / "train.json"
    for text, message in (
        ("{", "not valid JSON"),
        ("{}", "not the official list"),
        ('[{"id": "1"}]', "no entry of the official list"),
        ('[{"id": "1", "template": 3}]', r"train\.json: .*'template': 3.* is no entry of the official list"),
        ('[{"id": "1", "template": "Holding [something]"}]', "none of the 2 classes"),
    ):
        path.write_text(text)
        with pytest.raises(GestaError, match=message):
            SomethingV2(root=str(second)).records("train")
    (second / "labels" / "labels.json").write_text('{"a": "0", "b": "2"}')
    with pytest.raises(GestaError, match="not numbered from 0"):
        SomethingV2(root=str(second)).classes()
    for labels in ({"0": "Approaching something"}, {"Approaching something": None}, {"Approaching something": [0]}):
        (second / "labels" / "labels.json").write_text(json.dumps(labels))
        with pytest.raises(GestaError, match=r"labels\.json: gives '.*' the number .*; get the lists again"):
            SomethingV2(root=str(second)).classes()


def test_one_frame_per_segment(second: Path, make_video: Callable[..., Path]) -> None:
    """The protocol's sampling on a clip of 24 frames, frame i of grey level 4 i, in 8 segments of 3 frames."""
    make_video("78687.mp4", frames=24)
    data = SomethingV2(root=str(second))
    clip = ClipSpec(frames=8, sampling="uniform", size=32)
    views = TestViews(data.records("val"), clip, EvaluateConfig(clips=1, crops=3, short_side=224))
    sample = views[0]
    assert not isinstance(sample, Failure) and sample["video"].shape == (3, 8, 3, 32, 32)
    middle = sample["video"][1, :, :, :4].float().mean((1, 2, 3))
    torch.testing.assert_close(middle, 4.0 * torch.arange(1, 24, 3), atol=2, rtol=0)
    config = TrainConfig(augment=Augment(crop="jitter", inverse_uniform=True, flip=0.0))
    training = TrainingClips(data.records("val"), clip, config, data.classes())
    levels = torch.stack([training[epoch, 0]["video"][0, :, :, :4].float().mean((1, 2, 3)) / 4 for epoch in range(12)])
    frames = levels.round().long()
    assert torch.equal(frames // 3, torch.arange(8).expand_as(frames))  # one frame of each segment …
    assert all(len(set(column.tolist())) > 1 for column in frames.T)  # … any of them


@pytest.mark.full  # seconds of JSON; the layouts' test reads lists of the same format
def test_official_lists_have_the_published_sizes(shared: Path, tmp_path: Path) -> None:
    lists = shared / "annotations" / "something_something_v1"
    data = SomethingV1(root=str(tmp_path), annotations=str(lists))
    sizes = [len(data.records(split)) for split in ("train", "val", "test")]  # type: ignore[arg-type]
    assert sizes == [86_017, 11_522, 10_960]
    assert data.classes() == read_class_names(str(lists / "variants" / "uniformer_category.txt"))
    public = (lists / "variants" / "uniformer_somesomev1_rgb_validation_split.txt").read_text().splitlines()
    assert [[r.name, str(r.label)] for r in data.records("val")] == [line.split()[::2] for line in public]

    lists = shared / "annotations" / "something_something_v2"
    other = SomethingV2(root=str(tmp_path), annotations=str(lists))
    assert other.classes() == data.classes() and len(data.classes()) == 174
    val = other.records("val")
    assert (len(val), len(other.records("test"))) == (24_777, 27_157)
    public = (lists / "variants" / "uniformer_somesomev2_rgb_validation_split.txt").read_text().splitlines()
    assert [[r.name.removesuffix(".webm"), str(r.label)] for r in val] == [line.split()[::2] for line in public]
    unmirrored = [label for label, target in enumerate(flip_targets(other.classes(), {})) if target is None]
    assert unmirrored == [50, 86, 87, 93, 94, 166, 167]  # 50: "pulling it right out", left alone to be safe


def test_mirror_images_of_the_official_classes(shared: Path, tmp_path: Path) -> None:
    """Exchanging the words left and right in all 174 names gives exactly :data:`MIRRORED`, in any order of classes."""
    folder = shared / "annotations"
    v1 = read_class_names(str(folder / "something_something_v1" / "something-something-v1-labels.csv"))
    v2 = SomethingV2(root=str(tmp_path), annotations=str(folder / "something_something_v2")).classes()
    for classes, expected in ((v1, {2: 4, 30: 41, 52: 66}), (v2, {86: 87, 93: 94, 166: 167})):
        swapped = {
            name: re.sub(r"\b(left|right)\b", lambda word: "right" if word[1] == "left" else "left", name)
            for name in classes
        }
        pairs = {frozenset(pair) for pair in swapped.items() if pair[1] in classes and pair[0] != pair[1]}
        assert pairs == {frozenset(pair) for pair in MIRRORED.items()}
        targets = flip_targets(classes, MIRRORED)
        found = {label: target for label, target in enumerate(targets) if target not in (label, None)}
        assert found == expected | {b: a for a, b in expected.items()} and len(found) == 6
        assert [classes[i] for i, target in enumerate(targets) if target is None] == [
            next(name for name in classes if "right out" in name)
        ]
        soft = torch.rand(len(classes)).softmax(0)
        order = [label if target is None else target for label, target in enumerate(targets)]
        assert soft[order].sum() == pytest.approx(1) and torch.equal(soft[order][order], soft)


def test_genuine_clip(shared: Path) -> None:
    lists = shared / "annotations" / "something_something_v2"
    data = SomethingV2(root=str(shared / "videos" / "something_v2"), annotations=str(lists))
    (record,) = [record for record in data.records("val") if Path(record.path).exists()]
    assert record.name == "166766.webm" and data.classes()[record.label] == "Poking something so that it falls over"  # type: ignore[index]
    info = probe(record.path, exact=True)
    assert info.frames == 49 and info.fps == pytest.approx(12)
    assert read(record.path, lambda n: torch.tensor([0, n - 1])).shape == (2, 3, 240, 427)  # lying, as it was filmed
