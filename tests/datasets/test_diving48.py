"""Diving48: official lists, names that begin with odd characters, places of the clips."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gesta.datasets.diving48 import Diving48
from gesta.errors import GestaError
from gesta.evaluation.metrics import measure_parts
from results import result

VOCABULARY = [["Back", "15som", "05Twis", "FREE"], ["Forward", "Dive", "NoTwis", "STR"]]


def entry(name: str, label: int) -> dict[str, object]:
    return {"vid_name": name, "label": label, "start_frame": 0, "end_frame": 48}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    train = [
        entry(f"{video}_{i:05d}", i % 2) for video in ("-mmq0PT-u8k", "_8Vy3dlHg2w", "a_b-cdefghi") for i in range(4)
    ]
    (tmp_path / "Diving48_V2_train.json").write_text(json.dumps(train))
    (tmp_path / "Diving48_V2_test.json").write_text(json.dumps([entry("8qRmKunCjtY_00016", 1)]))
    (tmp_path / "Diving48_vocab.json").write_text(json.dumps(VOCABULARY))
    return tmp_path


def test_accuracy_by_attribute(small: Path) -> None:
    attributes = Diving48(root=str(small)).attributes()
    assert attributes == {
        "takeoff": ["Back", "Forward"],
        "somersault": ["15som", "Dive"],
        "twist": ["05Twis", "NoTwis"],
        "position": ["FREE", "STR"],
    }
    attributes["position"] = ["FREE", "FREE"]  # the second of the dives below then is half right
    scores = [[0.9, 0.1], [0.8, 0.2], None]
    found = measure_parts({"label": scores}, {"label": [0, 1, 1]}, "probabilities", attributes, {})
    assert found == {
        "attribute/takeoff": pytest.approx(100 / 3),
        "attribute/somersault": pytest.approx(100 / 3),
        "attribute/twist": pytest.approx(100 / 3),
        "attribute/position": pytest.approx(200 / 3),
        "attribute/all": pytest.approx(100 / 3),
    }
    names = ["Back 15som 05Twis FREE", "Forward Dive NoTwis STR"]
    made = result([0, 1, 1], [0, 0, None], classes=names, attributes=attributes)
    made.metrics |= found
    assert "position: 66.67 % right" in str(made)
    assert "all of takeoff, somersault, twist, position: 33.33 % right" in str(made)


def test_records(small: Path) -> None:
    data = Diving48(root=str(small))
    assert data.classes() == ["Back 15som 05Twis FREE", "Forward Dive NoTwis STR"]
    train, test = data.records("train"), data.records("test")
    assert [(r.name, r.label) for r in train[:2]] == [("-mmq0PT-u8k_00000", 0), ("-mmq0PT-u8k_00001", 1)]
    assert len(train) == 12 and data.records("val") == []
    assert (test[0].label, test[0].start, test[0].end) == (1, None, None)  # the whole file
    assert test[0].path == str(small / "8qRmKunCjtY_00016.mp4")  # not on the disk: listed all the same


def test_validation_holds_out_whole_sources(small: Path) -> None:
    data = Diving48(root=str(small), val=0.3)
    parts = [{r.name[:11] for r in data.records(split)} for split in ("train", "val")]  # type: ignore[arg-type]
    assert all(parts) and not parts[0] & parts[1] and len(data.records("train")) + len(data.records("val")) == 12
    for label in (0, 1):
        assert [sum(r.label == label for r in data.records(s)) for s in ("train", "val")] == [4, 2]  # type: ignore[arg-type]


@pytest.mark.parametrize("place", ["{}.mp4", "rgb/{}.mp4", "videos/{}.webm", "rawframes/{}/img_00001.jpg"])
def test_places(small: Path, place: str) -> None:
    file = small / place.format("8qRmKunCjtY_00016")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    expected = file.parent if file.suffix == ".jpg" else file
    assert Diving48(root=str(small)).records("test")[0].path == str(expected)


def test_first_version_and_refusals(small: Path) -> None:
    with pytest.raises(GestaError, match=r"holds no Diving48_train\.json"):
        Diving48(root=str(small), version=1).records("train")
    (small / "Diving48_train.json").write_text(json.dumps([entry("8qRmKunCjtY_00016", 0)]))
    assert [r.label for r in Diving48(root=str(small), version=1).records("train")] == [0]
    with pytest.raises(GestaError, match="versions 1 and 2"):
        Diving48(root=str(small), version=3).records("train")
    path = small / "Diving48_V2_train.json"
    for text, message in (
        ("[", "not valid JSON"),
        ("{}", "not the official list"),
        ('[{"vid_name": "a"}]', "no entry of the official list"),
        ('[{"vid_name": "a", "label": 2}]', "there are 2 classes"),
    ):
        path.write_text(text)
        with pytest.raises(GestaError, match=message):
            Diving48(root=str(small)).records("train")


def test_official_lists(shared: Path, tmp_path: Path) -> None:
    data = Diving48(root=str(tmp_path), annotations=str(shared / "annotations" / "diving48"))
    train, test, classes = data.records("train"), data.records("test"), data.classes()
    assert (len(train), len(test), len(classes)) == (15_027, 1970, 48)
    assert {r.label for r in [*train, *test]} == set(range(48)) - {30} and classes[30] == "Forward Dive NoTwis STR"
    assert not {r.name[:11] for r in train} & {r.name[:11] for r in test}
    public = (shared / "annotations" / "diving48" / "variants" / "mmaction2_label_map.txt").read_text().split()
    assert [name.replace(" ", "+") for name in classes] == public
    data.val = 0.1
    left, val = data.records("train"), data.records("val")
    assert len(left) + len(val) == 15_027 and 1400 < len(val) < 2300
    assert not {r.name[:11] for r in left} & {r.name[:11] for r in val}
    assert {r.label for r in left} == {r.label for r in train} and len({r.label for r in val}) >= 40
