"""A result made from a list of answers, for tests that do not need an evaluation."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from gesta.evaluation.result import PARTS, Environment, ModelSource, Protocol, Result, Scores


def multi_label_result(
    labels: Sequence[Sequence[int] | None],
    values: Sequence[Sequence[float] | None],
    *,
    classes: Sequence[str] = ("a", "b", "c"),
    **fields: Any,
) -> Result:
    """A result of multi-label data with these labels and probabilities; None is an unlabelled or a failed video."""
    made = result([None] * len(labels), [None if row is None else 0 for row in values], classes=classes)
    scores = replace(
        made.scores,
        labels={"label": [None if label is None else list(label) for label in labels]},
        values={"label": [None if row is None else list(row) for row in values]},
        multi_label=True,
    )
    metrics = scores.measure("probabilities")
    counts = scores.counts(made.counts.decoded, made.counts.views)
    return changed(replace(made, scores=scores, metrics=metrics, counts=counts), **fields)


def result(
    labels: Sequence[int | None],
    answers: Sequence[int | None],
    *,
    classes: Sequence[str] = ("a", "b"),
    names: Sequence[str] | None = None,
    **fields: Any,
) -> Result:
    """A result whose videos have these labels and first answers; None is an unlabelled or a failed video."""
    names = list(names or [f"video {i}" for i in range(len(labels))])
    values = [
        None if answer is None else [0.9 if k == answer else 0.1 / (len(classes) - 1) for k in range(len(classes))]
        for answer in answers
    ]
    failures = [
        {"index": i, "name": name, "reason": "cannot be decoded"} for i, name in enumerate(names) if answers[i] is None
    ]
    config = {
        "class": "gesta.models.mvit:MViTConfig",
        "classes": len(classes),
        "inserts": [{"class": "gesta.model:Insert", "at": 3, "layer": {"class": "gesta.plugins.stan:STAN"}}],
    }
    scores = Scores(
        classes={"label": list(classes)},
        names=names,
        labels={"label": list(labels)},
        values={"label": values},
        segments=[],
    )
    decoded = len(labels) - len(failures)
    made = Result(
        metrics=scores.measure("probabilities"),
        model=ModelSource(summary="MViT + STAN[3]", config=config, config_sha256="0" * 64),
        data={"class": "gesta.data.lists:Folder", "root": "videos", "seed": 0},
        list_hash=hashlib.sha256(json.dumps([names, list(labels)]).encode()).hexdigest(),
        protocol=Protocol(
            split="test",
            clips=4,
            crops=1,
            coverage="even",
            sampling="dense 16×4",
            short_videos="loop",
            short_side=256,
            size=224,
            average="probabilities",
        ),
        environment=Environment(
            decoder="pyav 18.1.0", precision="32-true", device="cpu", torch="2.15.0", gesta="0.1.0"
        ),
        counts=scores.counts(decoded, views=4 * decoded),
        failures=failures,
        partial=[],
        seconds=1.0,
        scores=scores,
    )
    return changed(made, **fields)


def changed(result: Result, **fields: Any) -> Result:
    """A result in which these fields, of it or of its parts, are others."""
    for name, value in fields.items():
        if name in vars(result):
            result = replace(result, **{name: value})
            continue
        part = next(part for part in PARTS if name in {f.name for f in dataclasses.fields(PARTS[part])})
        result = replace(result, **{part: replace(getattr(result, part), **{name: value})})
    return result
