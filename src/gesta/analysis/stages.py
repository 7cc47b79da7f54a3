"""How well each stage of a model separates the classes: linear probes on its frozen, pooled features.

Fig. 4 of Y. Wang's ST-MANet (ComSIS 21(4), 2024) classifies from single stages, trained so; this is its cheap side, for
any model. A probe is a multinomial logistic regression on standardised features, fitted on training videos.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.table import Column, Table
from scipy.optimize import minimize
from scipy.special import log_softmax
from torch import Tensor

from gesta.analysis.figures import BLUE, GREY, hide_top_right_spines, new_figure
from gesta.analysis.measured import plain
from gesta.analysis.sources import extract_features, list_failures
from gesta.data.batch import Failure
from gesta.errors import GestaError
from gesta.model import VideoModel
from gesta.progress import plain_text
from gesta.records import Record

BEFORE_CLASSIFIER = "before the classifier"
STEPS = 2000
"""Steps of L-BFGS at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageProbe:
    """A linear probe of one stage."""

    stage: str  # stage 3 or block 3, or the whole model's features before its classifier
    width: int  # of the features
    top1: float  # percent of the held-out videos
    training: float  # percent of the videos that it was fitted on
    converged: bool  # whether the fit reached its optimum


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """Probes of all stages of a model."""

    name: str
    fitted: int  # number of videos that the probes were fitted on
    scored: int  # number of held-out videos
    classes: int  # how many have training videos
    majority: float  # percent right if one always answers the most frequent class of the training videos
    l2: float  # weight of the penalty, see :func:`fit_probe`
    failures: list[Failure]  # videos that could not be read and are left out
    probes: list[StageProbe]  # in the order of the forward pass

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        videos = {"fitted": self.fitted, "scored": self.scored}
        fit = {"model": self.name, "videos": videos, "classes": self.classes, "majority": self.majority}
        return fit | {"l2": self.l2, "failures": plain(self.failures), "stages": plain(self.probes)}

    def __str__(self) -> str:
        table = Table("", *(Column(column, justify="right") for column in ("width", "top-1 %", "training videos %")))
        for p in self.probes:
            table.add_row(p.stage, str(p.width), f"{p.top1:.2f}", f"{p.training:.2f}")
        notes = [
            f"fitted on {self.fitted} videos of {self.classes} classes, scored on {self.scored}, one clip each; L2 = "
            f"{self.l2:g}; always answering the most frequent class gives {self.majority:.2f} %"
        ]
        unfinished = [p.stage for p in self.probes if not p.converged]
        if unfinished:
            notes.append(f"not at its optimum after {STEPS} steps: {', '.join(unfinished)}; a larger --l2 helps")
        return plain_text(f"{self.name}: linear probes", table, *notes, *list_failures(self.failures))


def stage_features_of(model: VideoModel) -> Callable[[Tensor], dict[str, Tensor]]:
    """A function from clips to the features ``(B, D)`` of every stage, and those before the classifier.

    A model with stages may have a method ``stage_features(video) -> dict[int, (B, C)]``; of others each block's
    feature map is averaged over time and space, without class tokens.
    """
    stage_features: Callable[[Tensor], dict[int, Tensor]] | None = getattr(model, "stage_features", None)
    blocks = [f"block.{i}" for i in range(len(model.blocks))]

    def features_of(clips: Tensor) -> dict[str, Tensor]:
        if stage_features is not None:
            features = {f"stage {i}": values for i, values in stage_features(clips).items()}
        else:
            taps = model.taps(clips, blocks)
            features = {name.replace(".", " "): taps[name].float().mean((2, 3, 4)) for name in blocks}
        return features | {BEFORE_CLASSIFIER: model.embed(clips)}

    return features_of


def measure_stages(
    name: str,
    model: VideoModel,
    fitted: tuple[Sequence[Record], Sequence[int]],
    scored: tuple[Sequence[Record], Sequence[int]],
    *,
    l2: float = 1.0,
    device: str = "auto",
) -> Stages:
    """Fit a linear probe to every stage's features of some videos, and score it on others.

    Each video is seen by the centre crop of its middle clip, without augmentation.

    Args:
        name, model: what to call the model, and any model; it is not trained.
        fitted: training videos and their labels.
        scored: held-out videos and their labels.
        l2: weight of the penalty, see :func:`fit_probe`.
        device: ``auto`` takes the first accelerator there is.

    Raises:
        GestaError: no readable videos, or one class only.
    """
    if not l2 > 0:
        raise GestaError(f"the weight of the penalty must be greater than 0, not {l2:g}; choose another --l2")
    failures: list[Failure] = []
    train, train_labels = _labelled_features(model, *fitted, device, failures)
    test, test_labels = _labelled_features(model, *scored, device, failures)
    known, counts = np.unique(train_labels, return_counts=True)
    if len(known) < 2:
        raise GestaError("a probe needs training videos of at least two classes; take more with --max-videos")
    probes = []
    for stage, features in train.items():
        weights, bias, converged = fit_probe(features, np.searchsorted(known, train_labels), l2)
        training, top1 = (
            100 * float((known[(values @ weights + bias).argmax(1)] == labels).mean())
            for values, labels in ((features, train_labels), (test[stage], test_labels))
        )
        width = features.shape[1]
        probes.append(StageProbe(stage=stage, width=width, top1=top1, training=training, converged=converged))
    return Stages(
        name=name,
        fitted=len(train_labels),
        scored=len(test_labels),
        classes=len(known),
        majority=100 * float((test_labels == known[counts.argmax()]).mean()),
        l2=l2,
        failures=failures,
        probes=probes,
    )


def _labelled_features(
    model: VideoModel, records: Sequence[Record], labels: Sequence[int], device: str, failures: list[Failure]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Stage → features ``(n, D)``, and labels ``(n,)``, of readable videos; the others are added to ``failures``."""
    features, unread = extract_features(model, records, stage_features_of(model), device=device)
    failures += unread
    if not features:
        raise GestaError(f"none of the {len(records)} videos can be read; name others with --data or --split")
    rows = sorted(features)
    by_stage = {stage: np.stack([features[i][stage] for i in rows]) for stage in features[rows[0]]}
    return by_stage, np.array([labels[i] for i in rows])


def fit_probe(values: np.ndarray, labels: np.ndarray, l2: float = 1.0) -> tuple[np.ndarray, np.ndarray, bool]:
    """Multinomial logistic regression: the minimum of ``l2 |W|² / 2 + Σ cross-entropy`` on standardised features.

    It is what scikit-learn's LogisticRegression with C = 1 / l2 minimises behind a StandardScaler; the bias is not
    regularised.

    Args:
        values: ``(n, D)``.
        labels: ``(n,)`` from 0, each class occurs.
        l2: weight of the penalty, greater than 0.

    Returns:
        Weights ``(D, K)`` and bias ``(K,)`` for the features as they are, and whether the optimum was reached.
    """
    x = values.astype(np.float64)
    mean, std = x.mean(0), x.std(0)
    std[std < 1e-12 * np.maximum(np.abs(mean), 1)] = 1.0  # a constant feature stays 0
    x = (x - mean) / std
    (count, width), classes = x.shape, int(labels.max()) + 1
    target = np.eye(classes)[labels]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights, bias = flat[:-classes].reshape(width, classes), flat[-classes:]
        logs = log_softmax(x @ weights + bias, axis=1)
        error = (np.exp(logs) - target) / count
        value = (weights**2).sum() * l2 / (2 * count) - (logs * target).sum() / count
        return value, np.concatenate([(x.T @ error + weights * l2 / count).ravel(), error.sum(0)])

    options = {"maxiter": STEPS, "gtol": 1e-6, "ftol": 1e-12}
    optimum = minimize(loss, np.zeros((width + 1) * classes), jac=True, method="L-BFGS-B", options=options)
    weights, bias = optimum.x[:-classes].reshape(width, classes) / std[:, None], optimum.x[-classes:]
    return weights, bias - mean @ weights, bool(optimum.success)


def draw_stages(measured: Stages) -> Figure:
    """A bar per stage, the number above it, and a line at the accuracy of always answering the most frequent class."""
    probes = measured.probes
    figure = new_figure(max(5.0, 0.62 * len(probes) + 2.2), 4.2)
    axes = figure.add_subplot()
    colours = [GREY if p.stage == BEFORE_CLASSIFIER else BLUE for p in probes]
    axes.bar(range(len(probes)), [p.top1 for p in probes], color=colours, width=0.7)
    for x, p in enumerate(probes):
        axes.annotate(f"{p.top1:.1f}", (x, p.top1), (0, 2), textcoords="offset points", ha="center", fontsize=8)
    axes.axhline(measured.majority, color="0.4", linewidth=1, linestyle=":", label="most frequent class")
    labels = [p.stage.replace(BEFORE_CLASSIFIER, "before the\nclassifier") for p in probes]
    rotation, anchor = (45, "right") if len(labels) > 8 else (0, "center")
    axes.set_xticks(range(len(probes)), labels=labels, fontsize=8, rotation=rotation, ha=anchor)
    axes.set_ylabel("top-1 % of a linear probe")
    axes.margins(y=0.1)
    axes.legend(frameon=False, fontsize=8)
    axes.set_title(f"{measured.name}\n{measured.fitted} videos fitted, {measured.scored} scored", fontsize=10)
    hide_top_right_spines(axes)
    axes.grid(axis="y", alpha=0.2)
    axes.set_axisbelow(True)
    return figure
