"""Percentages of rows, sums over classes that share an attribute, and the difference of two results."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from gesta.analysis.confusion import draw_confusion, measure_confusion, read_attributes
from gesta.cli import main
from gesta.errors import GestaError
from results import result

DIVES = [
    ["Back", "15som", "05Twis", "FREE"],
    ["Back", "2som", "NoTwis", "PIKE"],
    ["Forward", "15som", "1Twis", "FREE"],
    ["Forward", "1som", "NoTwis", "TUCK"],
]
NAMES = [" ".join(dive) for dive in DIVES]


def dives(*pairs: tuple[int, int | None], **fields: object):  # type: ignore[no-untyped-def]
    return result([true for true, _ in pairs], [answer for _, answer in pairs], classes=NAMES, **fields)


A = dives((0, 0), (0, 2), (0, 2), (0, 1), (1, 1), (2, 0), (3, None))
B = dives((0, 0), (0, 0), (0, 0), (0, 1), (1, 3), (2, 2), (3, 3))


def test_percentages_of_rows_and_pairs() -> None:
    found = measure_confusion([("a", A)])
    (matrix,) = found.matrices
    assert matrix.percent().tolist() == [[25, 25, 50, 0], [0, 100, 0, 0], [100, 0, 0, 0], [0, 0, 0, 0]]
    assert matrix.difference is None and matrix.accuracy(0) == pytest.approx(100 * 2 / 6)
    text = str(found)
    assert f"{NAMES[0]} → {NAMES[2]}: 2 of 4 (50 %)" in text and "1 videos could not be scored" in text
    pairs = found.to_json()["matrices"][0]["pairs"][0]
    assert [pair["videos"] for pair in pairs] == [2, 1, 1]


def test_the_difference_of_two() -> None:
    found = measure_confusion([("a", A), ("b", B)], most=3)
    (matrix,) = found.matrices
    assert matrix.difference is not None
    assert matrix.difference[0].tolist() == [50, 0, -50, 0] and matrix.difference[2].tolist() == [-100, 0, 100, 0]
    assert not matrix.difference[3].any()  # of that dive, a scored none
    changes = found.to_json()["matrices"][0]["changes"]
    assert [abs(points) for *_, points in changes] == [100, 100, 100]
    assert not any("different lists" in remark for remark in found.remarks)
    other = dives((0, 0), names=["elsewhere"])
    assert any("different lists" in remark for remark in measure_confusion([("a", A), ("c", other)]).remarks)
    assert len([axes for axes in draw_confusion(found).axes if axes.images]) == 3


def test_dives_by_their_four_attributes(tmp_path: Path) -> None:
    vocabulary = tmp_path / "Diving48_vocab.json"
    vocabulary.write_text(json.dumps(DIVES))
    found = measure_confusion([("a", A), ("b", B)], by=vocabulary)
    by = {matrix.of: matrix for matrix in found.matrices}
    assert list(by) == ["takeoff", "somersault", "twist", "position"]
    assert by["takeoff"].names == ["Back", "Forward"]
    assert by["takeoff"].counts[0].tolist() == [[3, 2], [1, 0]]
    assert by["somersault"].names == ["1som", "15som", "2som"]  # 1, 1.5, 2
    assert by["somersault"].counts[0].tolist() == [[0, 0, 0], [0, 4, 1], [0, 0, 1]]
    assert by["twist"].names == ["NoTwis", "05Twis", "1Twis"]
    assert all(matrix.counts[i].sum() == n for matrix in by.values() for i, n in enumerate((6, 7)))
    panels = [axes for axes in draw_confusion(found).axes if axes.images]
    assert len(panels) == 12
    np.testing.assert_allclose(panels[0].images[0].get_array(), [[60, 40], [100, 0]])


def test_attributes_from_csv_and_json(tmp_path: Path) -> None:
    csv = tmp_path / "attributes.csv"
    csv.write_text("class,hands,place\nwave,1,in\n1, 2 ,out\n")
    named = tmp_path / "attributes.json"
    named.write_text(json.dumps({"wave": {"hands": 1, "place": "in"}, "clap": {"hands": 2, "place": "out"}}))
    listed = tmp_path / "listed.json"
    listed.write_text(json.dumps({"wave": [1, "in"], "clap": [2, "out"]}))
    expected = {"hands": ["1", "2"], "place": ["in", "out"]}
    assert read_attributes(csv, ["wave", "clap"]) == read_attributes(named, ["wave", "clap"]) == expected
    assert list(read_attributes(listed, ["wave", "clap"]).values()) == list(expected.values())
    for content, message in (
        ("class,hands\nwave,1\n", "nothing about the class 'clap'"),
        ("class,hands\nwave,1\nclap,\n", "'clap' has no value of 'hands'"),
        ("", "holds no attributes"),
    ):
        csv.write_text(content)
        with pytest.raises(GestaError, match=message):
            read_attributes(csv, ["wave", "clap"])
    for content, message in (
        ("{", "not valid JSON"),
        ("3", "holds no attributes"),
        ('{"a": 1}', "holds no attributes"),
    ):
        named.write_text(content)
        with pytest.raises(GestaError, match=message):
            read_attributes(named, ["wave", "clap"])
    csv.write_text("class,limb\ncafe\u0301,hand\n")  # as macOS writes it
    assert read_attributes(csv, ["caf\u00e9"]) == {"limb": ["hand"]}
    csv.write_text("class,limb\nwave\u2028on,arm\nclap\x85,hand\n")  # no line ends, as splitlines would have them
    assert read_attributes(csv, ["wave\u2028on", "clap\x85"]) == {"limb": ["arm", "hand"]}
    with pytest.raises(GestaError, match=r"absent\.csv: cannot be read"):
        read_attributes(tmp_path / "absent.csv", ["wave"])


def test_the_official_vocabulary(shared: Path) -> None:
    path = shared / "annotations" / "diving48" / "Diving48_vocab.json"
    names = [" ".join(dive) for dive in json.loads(path.read_text())]
    found = read_attributes(path, names)
    assert {attribute: len(set(values)) for attribute, values in found.items()} == {
        "takeoff": 4,
        "somersault": 8,
        "twist": 8,
        "position": 4,
    }
    assert [" ".join(values) for values in zip(*found.values())] == names
    answers = result([0, 1], [0, 1], classes=names)
    ordered = {matrix.of: matrix.names for matrix in measure_confusion([("x", answers)], by=path).matrices}
    assert ordered["somersault"] == ["Dive", "1som", "15som", "2som", "25som", "3som", "35som", "45som"]
    assert ordered["twist"][:3] == ["NoTwis", "05Twis", "1Twis"]


def test_what_cannot_be_compared() -> None:
    verbs = result([0, 1], [0, 1], classes=["x", "y"])
    with pytest.raises(GestaError, match="different classes"):
        measure_confusion([("a", A), ("v", verbs)])
    with pytest.raises(GestaError, match="no label space 'noun'"):
        measure_confusion([("a", A)], space="noun")
    with pytest.raises(GestaError, match="no labelled video"):
        measure_confusion([("n", dives((0, None)))])


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = A.write(tmp_path / "run" / "result.json").parent, B.write(tmp_path / "b.json")
    out = tmp_path / "matrix.png"
    with pytest.raises(SystemExit) as end:
        main(["analyse", "confusion", str(a), str(b), "--json", "--out", str(out)])
    assert end.value.code == 0 and imread(out).std() > 0.02
    assert json.loads(capsys.readouterr().out)["results"] == [str(a), str(b)]
    with pytest.raises(SystemExit) as end:
        main(["analyse", "confusion", str(a), str(b), str(b)])
    assert end.value.code == 1 and "one result, or two" in capsys.readouterr().err
