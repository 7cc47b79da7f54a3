"""Late fusion: the scores of several models on the same videos (RGB and depth, say) become one result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax

from gesta.config import check_choice
from gesta.errors import GestaError
from gesta.evaluation.compare import positions, title
from gesta.evaluation.result import Environment, ModelSource, Protocol, Remark, Result, json_hash

By = Literal["prob_mean", "logit_mean", "prob_product", "learned"]
Array = NDArray[np.float64]

P = TypeVar("P", Protocol, Environment)

MIN_PROBABILITY = 1e-12
"""Smaller probabilities are raised to this one, so that one model alone cannot rule a class out."""


def fuse(results: Sequence[Result], by: By = "prob_mean", fit: Sequence[Result] = ()) -> Result:
    """Fuse results on one list of videos.

    ``prob_mean`` takes the mean of the probabilities (MFST's RGB + D), ``logit_mean`` that of the logits (or of
    log-probabilities, which give the same), and ``prob_product`` the product of the probabilities, which ranks classes
    as ``logit_mean`` does with more confident probabilities. ``learned`` multiplies each model's log-probabilities by a
    weight of its own; the weights are the most likely ones on ``fit``.

    Of multi-label data each class is fused by itself, the two answers being that it is there and that it is not.

    A video that some of the models could not score is scored by the others; ``partial`` names it. One that none could
    score has failed.

    Args:
        results: two or more of the same videos, labels and classes, in any order of the videos.
        by: see above.
        fit: for ``learned``: results of the same models in the same order, on other videos. Models are the same if
            their files are, or their configurations where the results name no file.

    Returns:
        A result of the fused scores, which are probabilities. ``model.config`` holds what was fused and how, with each
        one's own metrics; fields of the protocol that differ hold all values.

    Raises:
        GestaError: fewer than two results, other videos, labels or classes, no results to learn from, or some of other
            models or classes.
    """
    check_choice("--by", by, By)
    if bool(fit) != (by == "learned") or (fit and len(fit) != len(results)):
        raise GestaError(
            "learned weights (--by learned) need as many results to learn from, of the same models in the same order "
            "on other videos than those fused (--fit RESULT RESULT), and nothing else does"
        )
    first = results[0]
    orders = _orders(results)
    fit_orders = _orders(fit) if fit else []
    if fit:
        _check_fit(results, fit)
    if fit and set.intersection(*map(set, positions([fit[0], first]))):
        raise GestaError("the results to learn from hold videos that are fused: weights learned there prove nothing")
    values, weights = _fused(results, orders, by, fit, fit_orders)
    scores = replace(first.scores, values=values)
    failures, partial = _missing(results, orders)
    summary = " & ".join(result.model.summary for result in results)
    config = {"fused": by, "weights": weights or None, "of": [_source(result) for result in results]}
    return Result(
        metrics=scores.measure("probabilities"),
        model=ModelSource(summary=summary, config=config, config_sha256=json_hash(config)),
        data=first.data if all(result.data == first.data for result in results) else None,
        list_hash=first.list_hash,
        protocol=replace(_merged([result.protocol for result in results]), average="probabilities"),
        environment=replace(_merged([result.environment for result in results]), gesta=version("gesta")),
        counts=scores.counts(len(scores.names) - len(failures), sum(result.counts.views for result in results)),
        failures=failures,
        partial=partial,
        seconds=round(sum(result.seconds for result in results), 2),
        scores=scores,
        optimistic="; ".join(dict.fromkeys(result.optimistic for result in results if result.optimistic)),
        input_differs="; ".join(
            f"{_name(result)}: {result.input_differs}" for result in results if result.input_differs
        ),
    )


def _fused(
    results: Sequence[Result], orders: list[list[int]], by: By, fit: Sequence[Result], fit_orders: list[list[int]]
) -> tuple[dict[str, list[list[float] | None]], dict[str, list[float]]]:
    """Fused probabilities and learned weights, by label space."""
    values: dict[str, list[list[float] | None]] = {}
    weights: dict[str, list[float]] = {}
    multi_label = results[0].scores.multi_label
    for space, names in results[0].scores.classes.items():
        streams = [_log_probabilities(r, space, order, len(names)) for r, order in zip(results, orders)]
        if by == "learned":
            to_fit = [_log_probabilities(r, space, order, len(names)) for r, order in zip(fit, fit_orders)]
            labels = fit[0].scores.labels[space]
            weights[space] = _learn(to_fit, _per_class(labels, len(names)) if multi_label else labels)
        fused = _combine(streams, by, weights.get(space))
        fused = fused[:, 1].reshape(-1, len(names)) if multi_label else fused
        values[space] = [[float(f"{v:.7g}") for v in row] if np.isfinite(row).all() else None for row in fused]
    return values, weights


def _missing(results: Sequence[Result], orders: Sequence[Sequence[int]]) -> tuple[list[Remark], list[Remark]]:
    """Videos that no model scored, and those that only some scored, with the reasons of each model that did not."""
    failures: list[Remark] = []
    partial: list[Remark] = []
    reasons = [{failure["index"]: failure["reason"] for failure in result.failures} for result in results]
    columns = [next(iter(result.scores.values.values())) for result in results]
    for index, name in enumerate(results[0].scores.names):
        missing = [
            f"{_name(result)}: {of_result.get(order[index], 'no scores')}"
            for result, order, of_result, column in zip(results, orders, reasons, columns)
            if column[order[index]] is None
        ]
        if missing:
            entry = Remark(index=index, name=name, reason="; ".join(missing))
            (failures if len(missing) == len(results) else partial).append(entry)
    return failures, partial


def _merged(parts: Sequence[P]) -> P:
    """One protocol or environment of several; a field in which they differ holds all values as text."""
    merged: dict[str, Any] = {}
    for name, value in vars(parts[0]).items():
        values = [getattr(part, name) for part in parts]
        merged[name] = value if all(v == value for v in values) else " | ".join(map(str, values))
    return type(parts[0])(**merged)


def _check_fit(results: Sequence[Result], fit: Sequence[Result]) -> None:
    """Refuse results to learn from that are of other classes or models than those to be fused, or in another order."""
    for number, (result, known) in enumerate(zip(results, fit), 1):
        ours, theirs = result.scores, known.scores
        if ours.classes != theirs.classes or ours.multi_label != theirs.multi_label:
            raise GestaError(
                "the results to learn from (--fit) have other classes than those that are fused, or in another order; "
                "give results on videos of the same data set"
            )
        if _identity(result.model) != _identity(known.model) or _modality(result) != _modality(known):
            raise GestaError(
                f"the results to learn from (--fit) are of other models, or in another order: number {number} is of "
                f"{title(known)}{_modality(known)}, and number {number} of those that are fused of "
                f"{title(result)}{_modality(result)}; give --fit the same models in the same order"
            )


def _identity(model: ModelSource) -> Any:
    """What two results have in common only if they are of the same weights; of models without a file, of one kind."""
    config = model.config
    if "fused" in config:  # whose metrics, of other videos, are no matter
        return [config["fused"], config["weights"], [_identity(ModelSource(**each["model"])) for each in config["of"]]]
    return model.checkpoint_sha256 or model.config_sha256


def _modality(result: Result) -> str:
    """What the videos showed, the end of a sentence; empty if that is not known."""
    modality = (result.data or {}).get("modality")
    return f" ({modality})" if modality else ""


def _orders(results: Sequence[Result]) -> list[list[int]]:
    """For each result the positions in it of the first result's videos.

    Raises:
        GestaError: the results are not about the same videos, labels and classes.
    """
    if len(results) < 2:
        raise GestaError("one result cannot be fused; give two or more results of the same videos")
    first, orders = results[0].scores, []
    in_first, *_ = in_lists = positions(results)
    for result, in_other in zip(results, in_lists):
        other = result.scores
        if other.classes != first.classes or other.multi_label != first.multi_label:
            raise GestaError("the results have other classes, or in another order; fuse models of one data set")
        if in_one := sorted({name for name, *_ in in_other.keys() ^ in_first.keys()}):
            raise GestaError(
                f"the results are not about the same videos ({len(in_one)} are in one list only, {in_one[0]!r} for "
                "one); evaluate all models on the same list"
            )
        order = [in_other[key] for key in in_first]
        for space, labels in first.labels.items():
            for i, j in enumerate(order):
                if labels[i] != other.labels[space][j]:
                    raise GestaError(f"{first.names[i]}: its {space} differs between the results; correct the lists")
        orders.append(order)
    return orders


def _log_probabilities(result: Result, space: str, order: Sequence[int], classes: int) -> Array:
    """Log-probabilities ``(N, K)`` in that order; NaN where a video has no scores.

    Of multi-label data each class of each video is a row ``(N K, 2)``: that it is not there, that it is.
    """
    rows = [result.scores.values[space][i] for i in order]
    values = np.array([[np.nan] * classes if row is None else row for row in rows], dtype=np.float64)
    if result.scores.multi_label:
        values = values.reshape(-1, 1)
        with_rest = (np.zeros_like(values), values) if result.protocol.average == "logits" else (1 - values, values)
        values = np.where(np.isnan(values), np.nan, np.concatenate(with_rest, 1))
    if result.protocol.average == "logits":
        return log_softmax(values, -1)
    return np.log(np.maximum(values, MIN_PROBABILITY))


def _per_class(labels: Sequence[Any], classes: int) -> list[int | None]:
    """Of each class of each video whether it is there, 1 or 0."""
    return [None if label is None else int(k in label) for label in labels for k in range(classes)]


def _combine(streams: Sequence[Array], by: By, weights: Sequence[float] | None = None) -> Array:
    """Fused probabilities ``(N, K)`` of log-probabilities; NaN in a stream is left out, NaN in all of them stays."""
    stacked = np.stack(streams)
    present = np.isfinite(stacked)
    count = present.sum(0)
    if by == "prob_mean":
        total = np.where(present, np.exp(stacked), 0).sum(0)
        return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    if weights is not None:
        stacked = stacked * np.asarray(weights)[:, None, None]
    total = np.where(present, stacked, 0).sum(0)
    if by == "logit_mean":
        total = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    return np.exp(log_softmax(np.where(count > 0, total, np.nan), -1))


def _learn(streams: Sequence[Array], labels: Sequence[Any]) -> list[float]:
    """The weight of each stream, 0 or more, under which the labels of the videos that all scored are most likely."""
    stacked = np.stack(streams)
    usable = np.isfinite(stacked).all((0, 2)) & np.array([label is not None for label in labels])
    if not usable.any():
        raise GestaError("the results to learn from hold no labelled video that all models scored")
    truth = np.array([-1 if label is None else label for label in labels])[usable]
    usable_logs = stacked[:, usable]  # (streams, N, K)
    right = usable_logs[:, np.arange(len(truth)), truth]

    def loss(weights: Array) -> tuple[float, Array]:
        fused = log_softmax(np.tensordot(weights, usable_logs, 1), -1)
        gradient = np.einsum("nk,snk->s", np.exp(fused), usable_logs) - right.sum(1)
        return -float(fused[np.arange(len(truth)), truth].sum()) / len(truth), gradient / len(truth)

    start = np.full(len(streams), 1 / len(streams))
    # it is convex; a bound keeps weights finite where the streams make no mistake
    minimum = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0, 100)] * len(streams))
    return [float(f"{weight:.7g}") for weight in minimum.x]


def _source(result: Result) -> dict[str, Any]:
    return {
        "name": _name(result),
        "model": dict(vars(result.model)),
        "data": result.data,
        "average": result.protocol.average,
        "counts": dict(vars(result.counts)),
        "metrics": result.metrics,
    }


def _name(result: Result) -> str:
    """What distinguishes a result from the others: its modality if it has one, else its weights or model."""
    return (result.data or {}).get("modality") or result.model.checkpoint or result.model.summary
