"""How much each stage of a model knows about the classes: linear probes on its frozen, pooled features.

Fig. 4 of Y. Wang's ST-MANet (ComSIS 21(4), 2024) classifies from single stages, trained so; this is its cheap side, for
any model. A probe is a multinomial logistic regression on standardised features, fitted on training videos.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.optimize import minimize
from scipy.special import logsumexp
from torch import Tensor

from gesta.analysis.features import features
from gesta.analysis.sources import write_figure
from gesta.data.batch import Failure
from gesta.errors import GestaError
from gesta.model import VideoModel
from gesta.records import Record

BEFORE_CLASSIFIER = "before the classifier"
STEPS = 2000
"""Steps of L-BFGS at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A linear probe of one stage.

    Attributes:
        stage: ``stage 3`` or ``block 3``, or the whole model's features before its classifier.
        width: of the features.
        top1: percent of the held-out videos.
        training: percent of the videos that it was fitted on.
        settled: whether the fit reached its optimum.
    """

    stage: str
    width: int
    top1: float
    training: float
    settled: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StageProbes:
    """What :func:`probe_stages` found; ``print`` it.

    Attributes:
        name: of the model.
        videos: numbers of videos for fitting and for scoring.
        classes: how many have training videos.
        guessing: percent right if one always answers the most frequent class of the training videos.
        strength: C, the inverse of the regularisation.
        failures: videos that could not be read and are left out.
        probes: in the order of the forward pass.
    """

    name: str
    videos: tuple[int, int]
    classes: int
    guessing: float
    strength: float
    failures: list[Failure]
    probes: list[Probe]

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return {
            "model": self.name,
            "videos": {"fitted": self.videos[0], "scored": self.videos[1]},
            "classes": self.classes,
            "guessing": self.guessing,
            "c": self.strength,
            "failures": [{"name": failure.name, "reason": failure.reason} for failure in self.failures],
            "stages": [
                {"stage": p.stage, "width": p.width, "top1": p.top1, "training": p.training, "settled": p.settled}
                for p in self.probes
            ],
        }

    def __str__(self) -> str:
        from rich.console import Console
        from rich.table import Table

        table = Table()
        for column in ("", "width", "top-1 %", "training videos %"):
            table.add_column(column, justify="right" if column else "left")
        for p in self.probes:
            table.add_row(p.stage, str(p.width), f"{p.top1:.2f}", f"{p.training:.2f}")
        console = Console(width=120, color_system=None, markup=False, highlight=False)
        with console.capture() as capture:
            console.print(f"{self.name}: linear probes", soft_wrap=True)
            console.print(table)
            fitted, scored = self.videos
            console.print(
                f"fitted on {fitted} videos of {self.classes} classes, scored on {scored}, one clip each; C = "
                f"{self.strength:g}; always answering the most frequent class gives {self.guessing:.2f} %",
                soft_wrap=True,
            )
            rest = [p.stage for p in self.probes if not p.settled]
            if rest:
                console.print(f"not at its optimum after {STEPS} steps: {', '.join(rest)}; a smaller --c helps")
            for failure in self.failures[:10]:
                console.print(f"failed: {failure.name}: {failure.reason}", soft_wrap=True)
            if len(self.failures) > 10:
                console.print(f"… and {len(self.failures) - 10} more")
        return "\n".join(line.rstrip() for line in capture.get().splitlines())


def stages_of(model: VideoModel) -> Callable[[Tensor], dict[str, Tensor]]:
    """How to see the features ``(B, D)`` of every stage, and those before the classifier.

    A model that knows its stages has a method ``stage_features(video) -> dict[int, (B, C)]``; of others each block's
    feature map is averaged over time and space, without class tokens.
    """
    own: Callable[[Tensor], dict[int, Tensor]] | None = getattr(model, "stage_features", None)
    blocks = [f"block.{i}" for i in range(len(model.blocks))]

    def look(clips: Tensor) -> dict[str, Tensor]:
        if own is not None:
            found = {f"stage {i}": values for i, values in own(clips).items()}
        else:
            taps = model.taps(clips, blocks)
            found = {name.replace(".", " "): taps[name].float().mean((2, 3, 4)) for name in blocks}
        return found | {BEFORE_CLASSIFIER: model.embed(clips)}

    return look


def probe_stages(
    name: str,
    model: VideoModel,
    fitted: tuple[Sequence[Record], Sequence[int]],
    scored: tuple[Sequence[Record], Sequence[int]],
    *,
    strength: float = 1.0,
    device: str = "auto",
) -> StageProbes:
    """Fit a linear probe to every stage's features of some videos, and score it on others.

    Each video is seen by the centre crop of its middle clip, without augmentation.

    Args:
        name: what to call the model.
        model: any; it is not trained.
        fitted: training videos and their labels.
        scored: held-out videos and their labels.
        strength: C, the weight of the mean cross-entropy's sum against half the squared norm of the probe's weights.
        device: ``auto`` takes the first accelerator there is.

    Raises:
        GestaError: no readable videos, or one class only.
    """
    if not strength > 0:
        raise GestaError(f"C must be greater than 0, not {strength:g}")
    look = stages_of(model)
    failures: list[Failure] = []
    sides: list[tuple[dict[str, np.ndarray], np.ndarray]] = []
    for records, labels in (fitted, scored):
        found, unread = features(model, records, look, device=device)
        failures += unread
        if not found:
            raise GestaError(f"none of the {len(records)} videos can be read; name others with --data or --split")
        rows = sorted(found)
        matrices = {stage: np.stack([found[i][stage] for i in rows]) for stage in found[rows[0]]}
        sides.append((matrices, np.array([labels[i] for i in rows])))
    (train, truth), (test, test_truth) = sides
    known, counts = np.unique(truth, return_counts=True)
    if len(known) < 2:
        raise GestaError("a probe needs training videos of at least two classes; take more with --n")
    probes = []
    for stage, matrix in train.items():
        weights, bias, settled = fit(matrix, np.searchsorted(known, truth), strength)
        first, other = (known[(values @ weights + bias).argmax(1)] for values in (matrix, test[stage]))
        probes.append(
            Probe(
                stage=stage,
                width=matrix.shape[1],
                top1=100 * float((other == test_truth).mean()),
                training=100 * float((first == truth).mean()),
                settled=settled,
            )
        )
    return StageProbes(
        name=name,
        videos=(len(truth), len(test_truth)),
        classes=len(known),
        guessing=100 * float((test_truth == known[counts.argmax()]).mean()),
        strength=strength,
        failures=failures,
        probes=probes,
    )


def fit(values: np.ndarray, labels: np.ndarray, strength: float = 1.0) -> tuple[np.ndarray, np.ndarray, bool]:
    """Multinomial logistic regression: the minimum of ``|W|² / 2 + C Σ cross-entropy`` on standardised features.

    It is what scikit-learn's LogisticRegression minimises behind a StandardScaler; the bias is not regularised.

    Args:
        values: ``(n, D)``.
        labels: ``(n,)`` from 0, each class occurs.
        strength: C.

    Returns:
        Weights ``(D, K)`` and bias ``(K,)`` for the features as they are, and whether the optimum was reached.
    """
    x = values.astype(np.float64)
    mean, std = x.mean(0), x.std(0)
    std[std < 1e-12 * np.maximum(np.abs(mean), 1)] = 1.0  # a feature that is always the same says nothing
    x = (x - mean) / std
    (count, width), classes = x.shape, int(labels.max()) + 1
    target = np.eye(classes)[labels]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights, bias = flat[:-classes].reshape(width, classes), flat[-classes:]
        scores = x @ weights + bias
        total = logsumexp(scores, axis=1)
        error = (np.exp(scores - total[:, None]) - target) / count
        value = (total.sum() - (scores * target).sum()) / count + (weights**2).sum() / (2 * strength * count)
        return value, np.concatenate([(x.T @ error + weights / (strength * count)).ravel(), error.sum(0)])

    start = np.zeros((width + 1) * classes)
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": STEPS, "gtol": 1e-6, "ftol": 1e-12})
    weights, bias = found.x[:-classes].reshape(width, classes) / std[:, None], found.x[-classes:]
    return weights, bias - mean @ weights, bool(found.success)


def draw(found: StageProbes) -> Figure:
    """A bar per stage, the number above it, a line where guessing lies."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(5.0, 0.62 * len(found.probes) + 2.2), 4.2), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    colours = ["#94a3b8" if p.stage == BEFORE_CLASSIFIER else "#3b82f6" for p in found.probes]
    places = range(len(found.probes))
    axes.bar(places, [p.top1 for p in found.probes], color=colours, width=0.7)
    for place, probe in zip(places, found.probes):
        axes.annotate(
            f"{probe.top1:.1f}", (place, probe.top1), (0, 2), textcoords="offset points", ha="center", fontsize=8
        )
    axes.axhline(found.guessing, color="0.4", linewidth=1, linestyle=":", label="most frequent class")
    short = [p.stage.replace(BEFORE_CLASSIFIER, "before the\nclassifier") for p in found.probes]
    crowded = len(short) > 8
    axes.set_xticks(
        places, labels=short, fontsize=8, rotation=45 if crowded else 0, ha="right" if crowded else "center"
    )
    axes.set_ylabel("top-1 % of a linear probe")
    axes.margins(y=0.1)
    axes.legend(frameon=False, fontsize=8)
    axes.set_title(f"{found.name}\n{found.videos[0]} videos fitted, {found.videos[1]} scored", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.2)
    axes.set_axisbelow(True)
    return figure


def stages_figure(found: StageProbes, out: str | os.PathLike[str]) -> Path:
    """Draw probes into a picture; its ending says the kind (.png, .svg, .pdf)."""
    return write_figure(draw(found), out)
