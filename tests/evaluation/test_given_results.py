"""A result.json of somebody else is not believed: every value has its type, its range and its length, or is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gesta.analysis.report.page import write_report
from gesta.errors import GestaError
from gesta.evaluation.compare import compare
from gesta.evaluation.fuse import fuse
from gesta.evaluation.mean import mean
from gesta.evaluation.result import Result
from results import changed, result

FOREIGN = {"class": "theirs:Config"}  # whose cost is not counted

ONE = result([0, 1, None, 1], [0, 0, 1, None], config=FOREIGN)
OTHER = changed(result([0, 1, None, 1], [1, 1, 1, 0], config=FOREIGN), data=None)
FUSED = fuse([ONE, OTHER])
WITH_PARTS = changed(
    ONE,
    attributes={"twist": ["x", "y"]},
    groups={"unseen": {"label": [0]}},
    metrics=ONE.metrics | {"attribute/twist": 50.0, "attribute/all": 50.0, "unseen/label": 100.0},
)


def written(one: Result, *keys: Any, value: Any) -> str:
    """The JSON of a result in which the value under these keys is another one."""
    fields = json.loads(json.dumps(one.to_json()))
    part = fields
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = value
    return json.dumps(fields)


@pytest.mark.parametrize(
    "keys, value, fault",
    [
        (("counts", "scored"), "<img src=x onerror=alert(1)>", r'counts\.scored is "<img .*", not a whole number'),
        (("counts", "scored"), 4, "counts are not those of its scores"),
        (("counts", "views"), -1, "counts.views is -1, not 0 or more"),
        (("counts", "views"), True, "counts.views is true"),
        (("scores", "confusion", "label", 0, 1), "<b>", r"scores\.confusion\.label\[0\]\[1\] is \"<b>\""),
        (("scores", "confusion", "label", 0), [1, 2, 3], "confusion.label is not a table of 2 by 2"),
        (("scores", "confusion", "label", 0, 0), -1, "confusion.label is not a table of 2 by 2"),
        (("scores", "confusion"), {"verb": [[1]]}, "confusion are of"),
        (("scores", "labels", "label", 0), 2, "labels.label holds a label that is none of 2 classes"),
        (("scores", "labels", "label", 0), -1, "labels.label holds a label that is none of 2 classes"),
        (("scores", "labels", "label"), [0], "labels.label has 1 entries, not 4"),
        (("scores", "segments"), ["0-4"], "segments has 1 entries, not 4"),
        (("scores", "segments"), [4], r"segments\[0\] is 4, not text"),
        (("scores", "values", "label", 0), [0.5], "holds a row that has not 2 scores"),
        (("scores", "values", "label", 0, 0), float("nan"), "NaN is not a number of JSON"),
        (("scores", "values", "label", 0, 0), float("inf"), "not valid JSON"),
        (("scores", "per_class", "label"), [], "per_class.label has 0 entries, not 2"),
        (("scores", "per_class", "label", 0), 101.0, "is 101.0, not from 0 to 100"),
        (("scores", "classes"), {}, "classes are empty"),
        (("scores", "attributes", "twist"), ["x"], "attributes have not 2 values"),
        (("scores", "groups", "unseen", "label"), [9], "groups.unseen.label names a video beyond the list of 4"),
        (("scores", "groups", "seen"), {"label": []}, "groups.seen.label holds no videos"),
        (("scores", "groups", "seen"), {"label": [0]}, "metrics lack seen/label"),
        (("metrics",), {}, "metrics lack attribute/all"),
        (("metrics", "top1"), "50", 'metrics.top1 is "50", not a number'),
        (("failures", 0, "reason"), None, r"failures\[0\]\.reason is null, not text"),
        (("data",), {"root": "/"}, 'data names no "class"'),
        (("protocol", "average"), "neither", "protocol.average is"),
        (("seconds",), [], "seconds is a list"),
        (("new",), 1, "Result has no field"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(tmp_path: Path, keys: tuple[Any, ...], value: Any, fault: str) -> None:
    path = tmp_path / "result.json"
    path.write_text(written(WITH_PARTS, *keys, value=value))
    with pytest.raises(GestaError, match=fault) as error:
        Result.read(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def every_value(fields: Any, *keys: Any) -> Iterator[tuple[Any, ...]]:
    """The keys to every value, the parts included."""
    for key in fields if isinstance(fields, dict) else range(len(fields)):
        yield (*keys, key)
        if isinstance(fields[key], dict | list):
            yield from every_value(fields[key], *keys, key)


@pytest.mark.parametrize(
    "values", [("<script>",), pytest.param((None, -1, 0.5, [], {}, [[[]]], {"class": 1}), marks=pytest.mark.full)]
)
@pytest.mark.parametrize("one", [WITH_PARTS, FUSED], ids=["single", "fused"])
def test_a_result_of_wrong_types_is_refused_or_does_everything(
    tmp_path: Path, one: Result, values: tuple[Any, ...]
) -> None:
    path = tmp_path / "result.json"
    refused = 0
    for keys in every_value(one.to_json()):
        for value in values:
            path.write_text(written(one, *keys, value=value))
            try:
                given = Result.read(path)
                str(given)
                for verb in (lambda g: str(compare(g, one)), lambda g: fuse([g, OTHER]), lambda g: mean([("a", g)])):
                    verb(given)
            except GestaError as error:
                refused += 1
                assert "\n" not in str(error)
    assert refused > 50 * len(values)


def test_the_report_of_a_result_of_wrong_types(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    for keys in every_value({name: value for name, value in ONE.to_json().items() if name in ("model", "data")}):
        for value in ("<script>", [], {"of": 1}):
            path.write_text(written(ONE, *keys, value=value))
            try:
                write_report(tmp_path)
            except GestaError as error:
                assert "\n" not in str(error)
