"""A comparison says first what makes two numbers incomparable, then how sure their difference is."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from scipy.stats import binom

from gesta.errors import GestaError
from gesta.evaluation.compare import compare
from gesta.evaluation.result import Result
from results import changed, result


def test_same_protocol_and_same_answers() -> None:
    a = result([0, 0, 1, 1], [0, 1, 1, 1])
    found = compare(a, changed(a, seconds=99.0))
    assert found.protocol == [] and found.model == [] and found.same_list
    assert found.paired["label"].p == 1 and found.classes["label"] == []
    assert "same protocol" in str(found) and "the same list of 4" in str(found)
    assert "right on the same 3 of 4 common videos" in str(found)


def test_every_protocol_field_that_differs_is_named_first() -> None:
    a = result([0, 1], [0, 1])
    b = changed(
        a,
        crops=3,
        average="logits",
        short_side=320,
        precision="bf16-mixed",
        data={"class": "gesta.data.lists:Folder", "root": "elsewhere", "seed": 0, "cache": "off"},
        config=json.loads(json.dumps(a.model.config).replace('"at": 3', '"at": 1')),
    )
    found = compare(a, b)
    assert [d.field for d in found.protocol] == ["crops", "short_side", "average", "precision", "data.root"]
    assert [(d.field, d.a, d.b) for d in found.model] == [("inserts.0.at", 3, 1)]
    text = str(found)
    assert text.index("  crops: 1 | 3") < text.index("top1")
    assert "cannot be compared" in text and "same protocol" not in text


def test_videos_that_only_one_has() -> None:
    a = result([0, 1, 0], [0, 1, 0], names=["x", "x", "y"])
    b = result([0, 0, 1], [0, 0, 1], names=["x", "z", "x"])
    found = compare(a, b)
    assert not found.same_list and "list" in [d.field for d in found.protocol]
    assert (found.only_in_a, found.only_in_b, found.common) == (["y"], ["z"], 2)
    assert found.paired["label"].both == 2  # the second x of one is the second x of the other
    assert "1 only in B: z" in str(found)


def segments(order: Sequence[int], known: bool = True, answers: Sequence[int] = (0, 1, 1)) -> Result:
    """Two segments of x, a right one and a wrong one, and y, in some order."""
    frames = ["0-8", "8-20", "4-9"]
    made = result([0] * 3, [answers[i] for i in order], names=["xxy"[i] for i in order])
    noted = [frames[i] for i in order] if known else None
    return changed(made, segments=noted, list_hash=str(order))


def test_segments_of_one_video_are_matched_by_their_frames() -> None:
    a, b = segments((0, 1, 2)), segments((2, 1, 0))
    found = compare(a, b)
    assert (found.only_in_a, found.only_in_b, found.common) == ([], [], 3)
    assert (found.paired["label"].both, found.paired["label"].neither) == (1, 2)
    # one of a list's two; a name that is alone in both lists may have other frames, as those of another modality
    other = changed(segments((1, 2)), segments=["8-20", "8-18"])
    assert compare(a, other).only_in_a == ["x"] and compare(a, other).paired["label"].neither == 2


def test_segments_that_an_older_result_does_not_name_are_matched_in_the_same_list_only() -> None:
    a, older = segments((0, 1, 2)), segments((0, 1, 2), known=False)
    assert compare(a, older).paired["label"].both == 1
    with pytest.raises(
        GestaError, match=r"'x' is in a list more than once, .* of MViT.* older version.*; evaluate again"
    ):
        compare(a, segments((1, 0, 2), known=False))
    alone = changed(result([0], [0], names=["y"]), segments=None)
    assert compare(a, alone).common == 1


def test_classes_are_matched_by_name_and_other_labels_left_out() -> None:
    a = result([0, 1, 1], [0, 1, 1], classes=["walk", "run"])
    b = result([1, 0, 1], [1, 0, 1], classes=["run", "walk"])
    found = compare(a, b)
    assert found.relabelled == ["video 2"]  # run in one, walk in the other
    assert found.paired["label"].videos == 2 and found.paired["label"].both == 2


def test_the_paired_test_is_exact_mcnemar() -> None:
    truth = [0] * 30 + [1] * 30
    a = result(truth, truth[:40] + [0] * 20)  # wrong on the last 20
    b = result(truth, [1] * 6 + truth[6:])  # wrong on the first 6
    paired = compare(a, b).paired["label"]
    assert (paired.only_a, paired.only_b, paired.both, paired.neither) == (6, 20, 34, 0)
    assert paired.p == pytest.approx(2 * binom.cdf(6, 26, 0.5))
    assert "p = 0.00936" in str(compare(a, b)) and "chance" not in str(compare(a, b))
    assert [(c.name, c.a, c.b, c.videos) for c in compare(a, b).classes["label"]] == [
        ("a", 100, 80, 30),
        ("b", pytest.approx(100 / 3), 100, 30),
    ]
    assert "gained most: b 33 → 100 % of 30" in str(compare(a, b))


def test_a_failed_video_is_wrong() -> None:
    a, b = result([0, 1], [0, 1]), result([0, 1], [0, None])
    found = compare(a, b)
    assert found.paired["label"].only_a == 1
    assert {d.field: d.b - d.a for d in found.metrics}["top1"] == -50
    assert "chance may explain it" in str(found)


def test_json_holds_everything() -> None:
    found = compare(result([0, 1], [0, 1]), result([0, 1], [1, 1])).to_json()
    assert json.loads(json.dumps(found)) == found
    assert found["metrics"][0] == {"field": "top1", "a": 100.0, "b": 50.0}
    assert found["classes"]["label"][0]["name"] == "a"
