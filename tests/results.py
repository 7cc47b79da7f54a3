"""A result made from a list of answers, for tests that do not need an evaluation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from gesta.evaluation.metrics import measure
from gesta.evaluation.result import Result


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
    scores = [
        None if answer is None else [0.9 if k == answer else 0.1 / (len(classes) - 1) for k in range(len(classes))]
        for answer in answers
    ]
    metrics, per_class, confusion = measure(scores, labels, len(classes))
    failures = [
        {"index": i, "name": name, "reason": "cannot be decoded"} for i, name in enumerate(names) if answers[i] is None
    ]
    values: dict[str, Any] = dict(
        metrics=metrics,
        gesta="0.1.0",
        model="MViT + STAN[3]",
        model_hash="0" * 64,
        model_config={
            "class": "gesta.models.mvit:MViTConfig",
            "classes": len(classes),
            "inserts": [{"class": "gesta.model:Insert", "at": 3, "layer": {"class": "gesta.plugins.stan:STAN"}}],
        },
        checkpoint=None,
        checkpoint_sha256=None,
        data={"class": "gesta.data.lists:Folder", "root": "videos", "seed": 0},
        split="test",
        list_hash=hashlib.sha256(json.dumps([names, list(labels)]).encode()).hexdigest(),
        listed=len(labels),
        labelled=sum(label is not None for label in labels),
        decoded=len(labels) - len(failures),
        scored=len(labels) - len(failures),
        failed=len(failures),
        failures=failures,
        views={"clips": 4, "crops": 1, "text": "4 clips × 1 crop", "total": 4 * (len(labels) - len(failures))},
        sampling="dense 16×4",
        coverage="even",
        short_side=256,
        size=224,
        short_videos="loop",
        average="probabilities",
        decoder="pyav 18.1.0",
        precision="32-true",
        device="cpu",
        torch="2.15.0",
        classes={"label": list(classes)},
        names=names,
        labels={"label": list(labels)},
        scores={"label": scores},
        per_class={"label": per_class},
        confusion={"label": confusion},
        seconds=1.0,
    )
    return Result(**values | fields)
