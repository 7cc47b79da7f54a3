"""Late fusion: the scores of several models on the same videos (RGB and depth, say) become one result."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from gesta.config import suggest
from gesta.errors import GestaError
from gesta.evaluation.compare import positions
from gesta.evaluation.metrics import measure_parts, measure_spaces
from gesta.evaluation.result import Result

By = Literal["prob_mean", "logit_mean", "prob_product", "learned"]
Array = NDArray[np.float64]

LEAST = 1e-12
"""Probability below which a class is not told from impossible, so that one model alone cannot rule it out."""


def fuse(results: Sequence[Result], by: By = "prob_mean", fit: Sequence[Result] = ()) -> Result:
    """Fuse results on one list of videos.

    ``prob_mean`` takes the mean of the probabilities (MFST's RGB + D), ``logit_mean`` that of the logits, of which
    log-probabilities are as good, and ``prob_product`` the product of the probabilities, which ranks classes as
    ``logit_mean`` does and is surer of itself. ``learned`` multiplies each model's log-probabilities by a weight of its
    own, the most likely weights on ``fit``.

    A video that some of the models could not score is scored by the others; ``partial`` names it. One that none could
    score has failed.

    Args:
        results: two or more of the same videos, labels and classes, in any order of the videos.
        by: see above.
        fit: for ``learned``: results of the same models in the same order, on other videos.

    Returns:
        A result of the fused scores, which are probabilities. ``model_config`` holds what was fused and how, with each
        one's own metrics; fields of the protocol that differ hold all values.

    Raises:
        GestaError: fewer than two results, other videos, labels or classes, or no results to learn from.
    """
    if by not in get_args(By):
        raise GestaError(f"--by cannot be {by!r}{suggest(by, get_args(By))} (possible: {', '.join(get_args(By))})")
    if bool(fit) != (by == "learned") or (fit and len(fit) != len(results)):
        raise GestaError(
            "learned weights (--by learned) need as many results to learn from, of the same models in the same order "
            "on other videos than those fused (--fit RESULT RESULT), and nothing else does"
        )
    first = results[0]
    orders = _orders(results)
    fit_orders = _orders(fit) if fit else []
    if fit and set(positions(fit[0])) & set(positions(first)):
        raise GestaError("the results to learn from hold videos that are fused: weights learned there prove nothing")
    spaces = first.classes
    scores: dict[str, list[list[float] | None]] = {}
    weights: dict[str, list[float]] = {}
    for space, names in spaces.items():
        streams = [_log_probabilities(r, space, order, len(names)) for r, order in zip(results, orders)]
        if by == "learned":
            known = [_log_probabilities(r, space, order, len(names)) for r, order in zip(fit, fit_orders)]
            weights[space] = _learn(known, fit[0].labels[space])
        fused = _combine(streams, by, weights.get(space))
        scores[space] = [[float(f"{v:.7g}") for v in row] if np.isfinite(row).all() else None for row in fused]
    space = next(iter(spaces))
    there = np.array([[r.scores[space][i] is not None for i in order] for r, order in zip(results, orders)])
    reasons = [{failure["index"]: failure["reason"] for failure in result.failures} for result in results]
    missing: list[dict[str, Any]] = []
    for i, name in enumerate(first.names):
        why = [
            f"{_name(result)}: {each.get(order[i], 'no scores')}"
            for result, order, each, ok in zip(results, orders, reasons, there[:, i])
            if not ok
        ]
        if why:
            missing.append({"index": i, "name": name, "reason": "; ".join(why)})
    failures = [entry for entry in missing if not there[:, entry["index"]].any()]
    metrics, per_class, confusion = measure_spaces(scores, first.labels, spaces, "probabilities")
    metrics |= measure_parts(scores, first.labels, "probabilities", first.attributes, first.groups)
    config = {"fused": by, "weights": weights or None, "of": [_source(result) for result in results]}

    def same(field: str, places: Sequence[dict[str, Any]] | None = None) -> Any:
        values = [place[field] for place in places or [vars(result) for result in results]]
        return values[0] if all(v == values[0] for v in values) else " | ".join(map(str, values))

    views = {key: same(key, [result.views for result in results]) for key in ("clips", "crops", "text")}
    return Result(
        metrics=metrics,
        gesta=importlib.metadata.version("gesta"),
        model=" & ".join(result.model for result in results),
        model_hash=hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest(),
        model_config=config,
        checkpoint=None,
        checkpoint_sha256=None,
        data=first.data if all(result.data == first.data for result in results) else None,
        split=same("split"),
        list_hash=first.list_hash,
        listed=first.listed,
        labelled=first.labelled,
        decoded=int(there.any(0).sum()),
        scored=int(there.any(0).sum()),
        failed=len(failures),
        failures=failures,
        views=views | {"total": sum(result.views["total"] for result in results)},
        sampling=same("sampling"),
        coverage=same("coverage"),
        short_side=same("short_side"),
        size=same("size"),
        short_videos=same("short_videos"),
        average="probabilities",
        decoder=same("decoder"),
        precision=same("precision"),
        device=same("device"),
        torch=same("torch"),
        classes=spaces,
        names=first.names,
        labels=first.labels,
        scores=scores,
        per_class=per_class,
        confusion=confusion,
        seconds=round(sum(result.seconds for result in results), 2),
        partial=[entry for entry in missing if there[:, entry["index"]].any()],
        attributes=first.attributes,
        groups=first.groups,
    )


def _orders(results: Sequence[Result]) -> list[list[int]]:
    """Where the first result's videos stand in each result.

    Raises:
        GestaError: the results are not about the same videos, labels and classes.
    """
    if len(results) < 2:
        raise GestaError("one result cannot be fused; give two or more results of the same videos")
    first, orders = results[0], []
    wanted = positions(first)
    for other in results:
        if other.classes != first.classes:
            raise GestaError("the results answer with other classes, or in another order; fuse models of one data set")
        found = positions(other)
        if strange := sorted({name for name, _ in found.keys() ^ wanted.keys()}):
            raise GestaError(
                f"the results are not about the same videos ({len(strange)} are in one list only, {strange[0]!r} for "
                "one); evaluate all models on the same list"
            )
        order = [found[key] for key in wanted]
        for space, labels in first.labels.items():
            for i, j in enumerate(order):
                if labels[i] != other.labels[space][j]:
                    raise GestaError(f"{first.names[i]}: its {space} differs between the results; mend the lists")
        orders.append(order)
    return orders


def _log_probabilities(result: Result, space: str, order: Sequence[int], classes: int) -> Array:
    """Log-probabilities ``(N, K)`` in that order; NaN where a video has no scores."""
    rows = [result.scores[space][i] for i in order]
    values = np.array([[np.nan] * classes if row is None else row for row in rows], dtype=np.float64)
    if result.average == "logits":
        return _log_softmax(values)
    return np.log(np.maximum(values, LEAST))


def _combine(streams: Sequence[Array], by: By, weights: Sequence[float] | None = None) -> Array:
    """Fused probabilities ``(N, K)`` of log-probabilities; what is NaN in a stream is left out, NaN if in all."""
    stacked = np.stack(streams)
    there = np.isfinite(stacked)
    count = there.sum(0)
    if by == "prob_mean":
        total = np.where(there, np.exp(stacked), 0).sum(0)
        return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    if weights is not None:
        stacked = stacked * np.asarray(weights)[:, None, None]
    total = np.where(there, stacked, 0).sum(0)
    if by == "logit_mean":
        total = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    return np.exp(_log_softmax(np.where(count > 0, total, np.nan)))


def _learn(streams: Sequence[Array], labels: Sequence[int | None]) -> list[float]:
    """The weight of each stream, 0 or more, under which the labels of the videos that all scored are most likely."""
    from scipy.optimize import minimize

    stacked = np.stack(streams)
    usable = np.isfinite(stacked).all((0, 2)) & np.array([label is not None for label in labels])
    if not usable.any():
        raise GestaError("the results to learn from hold no labelled video that all models scored")
    truth = np.array([-1 if label is None else label for label in labels])[usable]
    known = stacked[:, usable]  # (streams, N, K)
    right = known[:, np.arange(len(truth)), truth]

    def loss(weights: Array) -> tuple[float, Array]:
        fused = _log_softmax(np.tensordot(weights, known, 1))
        slope = np.einsum("nk,snk->s", np.exp(fused), known) - right.sum(1)
        return -float(fused[np.arange(len(truth)), truth].sum()) / len(truth), slope / len(truth)

    start = np.full(len(streams), 1 / len(streams))
    # it is convex; a bound keeps weights finite where the streams make no mistake
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0, 100)] * len(streams))
    return [float(f"{weight:.7g}") for weight in found.x]


def _log_softmax(values: Array) -> Array:
    shifted = values - values.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _source(result: Result) -> dict[str, Any]:
    fields = ("model", "model_hash", "model_config", "checkpoint", "checkpoint_sha256", "data", "average", "metrics")
    counts = ("listed", "decoded", "scored", "failed")
    return {field: getattr(result, field) for field in (*fields, *counts)} | {"name": _name(result)}


def _name(result: Result) -> str:
    """What tells a result from the others: its modality if it has one, else its weights or model."""
    return (result.data or {}).get("modality") or result.checkpoint or result.model
