"""The mean over splits is that of one model and one protocol, or it is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gesta.cli import main
from gesta.errors import GestaError
from gesta.evaluation.mean import mean
from gesta.evaluation.result import Result
from results import changed, result

DATA = {"class": "gesta.datasets.ucf101:UCF101", "root": "ucf", "annotations": "", "split": 1}


def split(number: int, right: int, **fields: object) -> Result:
    """A result of ten videos, so many right."""
    labels = [0] * 5 + [1] * 5
    answers = [label if i < right else 1 - label for i, label in enumerate(labels)]
    names = [f"{number}: {i}" for i in range(10)]
    return result(labels, answers, names=names, data=DATA | {"split": number}, **fields)


def test_mean_and_deviation() -> None:
    found = mean([(f"s{n}", split(n, right)) for n, right in ((1, 7), (2, 8), (3, 9))])
    assert found.values["top1"] == [70, 80, 90] and found.splits == [1, 2, 3] and found.listed == 30
    assert found.mean["top1"] == pytest.approx(80) and found.std["top1"] == pytest.approx(10)  # of a sample: n - 1
    assert "top1" in str(found) and "80.00 ± 10.00" in str(found) and "split 3" in str(found)
    assert "top1_scored" not in str(found)  # nothing failed
    assert json.loads(json.dumps(found.to_json()))["mean"]["top1"] == pytest.approx(80)


def test_a_mean_warns_of_what_its_results_warn_of() -> None:
    found = mean([("a", split(1, 7, optimistic="seen in training")), ("b", split(2, 8))])
    other = mean([("a", split(1, 7, input_differs="trained on depth")), ("b", split(2, 8))])
    assert other.to_json()["warnings"] == ["trained on depth"]
    assert found.to_json()["warnings"] == ["seen in training"] and "warning: seen in training" in str(found)


def test_what_is_no_mean_over_splits() -> None:
    first = split(1, 7)
    other = changed(split(2, 8), data=DATA | {"split": 2, "root": "elsewhere"}, torch="9", device="cuda (x)")
    mean([("a", first), ("b", other)])  # where and by what it was computed is free
    lists = [{"class": "gesta.data.lists:Lists", "train": f"{n}.txt", "test": f"{n}t.txt", "val": ""} for n in (1, 2)]
    mean([(str(n), changed(split(n, 7), data=data)) for n, data in enumerate(lists, 1)])  # a split of one's own
    labels = {"class": "gesta.data.parts:FewLabels", "fraction": 0.1, "seed": 0}  # as of some of the labels
    for whole in (lists, [DATA, DATA | {"split": 2}]):
        parts = [changed(split(n, 7), data=labels | {"of": data}) for n, data in enumerate(whole, 1)]
        assert mean(list(zip("ab", parts))).splits == [data.get("split") for data in whole]
        less = changed(parts[1], data=labels | {"of": whole[1], "fraction": 0.2})
        with pytest.raises(GestaError, match=r"data\.fraction is 0\.1 and 0\.2"):
            mean([("a", parts[0]), ("b", less)])
    for results, message in (
        ([first], "two results or more"),
        ([first, first], "a and b are of the same list of videos"),
        ([first, changed(other, crops=3)], "crops is 1 and 3"),
        ([changed(r, data=labels | {"of": DATA}) for r in (first, other)], "a and b are both of split 1"),
        ([first, changed(other, data=DATA)], "a and b are both of split 1, though their lists differ"),
        ([first, changed(other, data=DATA | {"split": 2, "val": 0.1})], "data.val is 0.0 and 0.1"),
        ([first, changed(other, config=other.model.config | {"depth": 3})], "model.depth"),
        ([changed(first, metrics={}), other], "no metric in common"),
    ):
        with pytest.raises(GestaError, match=message):
            mean(list(zip("ab", results)))


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (1, 2):
        (tmp_path / f"run{number}").mkdir()
        split(number, 5 + number).write(tmp_path / f"run{number}" / "result.json")
    with pytest.raises(SystemExit) as stop:
        main(["mean", str(tmp_path / "run1"), str(tmp_path / "run2"), "--json"])
    assert stop.value.code == 0
    assert json.loads(capsys.readouterr().out)["mean"]["top1"] == pytest.approx(65)
