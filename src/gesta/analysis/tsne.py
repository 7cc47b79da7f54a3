"""Features before the classifier, projected into the plane by t-SNE, several models side by side.

Figs 3.6 and 3.7 of Y. Ma's thesis: 1000 random videos of HMDB-51, ten classes of them, ViT beside RPE-STDT. t-SNE:
L. van der Maaten and G. Hinton, JMLR 9, 2008.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from gesta.analysis.features import features, labelled
from gesta.analysis.sources import write_figure
from gesta.config import suggest
from gesta.data.batch import Failure
from gesta.errors import GestaError
from gesta.model import VideoModel
from gesta.records import DataConfig, Record, SplitName

PERPLEXITY = 30.0
"""Neighbours that a video has in effect; of few videos a third, as t-SNE wants more of them than that."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Projection:
    """One model's features.

    Attributes:
        name: of the model.
        points: t-SNE's places of the videos ``(n, 2)``.
        neighbours: percent of the videos whose nearest neighbour in feature space is of the same class.
    """

    name: str
    points: np.ndarray
    neighbours: float


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Projections:
    """What :func:`project` found; ``print`` it.

    Attributes:
        videos: names.
        labels: of each video, an index into ``classes``.
        classes: those shown.
        failures: videos that could not be read and are not shown.
        models: one projection each.
    """

    videos: list[str]
    labels: list[int]
    classes: list[str]
    failures: list[Failure]
    models: list[Projection]

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return {
            "videos": self.videos,
            "labels": self.labels,
            "classes": self.classes,
            "failures": [{"name": failure.name, "reason": failure.reason} for failure in self.failures],
            "models": [{"model": m.name, "neighbours": m.neighbours, "points": m.points.tolist()} for m in self.models],
        }

    def __str__(self) -> str:
        lines = [f"{len(self.videos)} videos of {len(self.classes)} classes"]
        lines += [f"  failed: {failure.name}: {failure.reason}" for failure in self.failures[:10]]
        if len(self.failures) > 10:
            lines.append(f"  … and {len(self.failures) - 10} more")
        for model in self.models:
            lines.append(f"{model.name}: {model.neighbours:.1f} % have their nearest neighbour in their own class")
        return "\n".join(lines)


def choose(
    data: DataConfig,
    split: SplitName,
    classes: Sequence[str] | None = None,
    *,
    n: int = 1000,
    space: str | None = None,
    seed: int = 0,
) -> tuple[list[Record], list[int], list[str]]:
    """Random labelled videos of some classes.

    Args:
        data: the data set.
        split: of it.
        classes: names; None for all.
        n: videos at most, drawn from all of the split's before those of the classes are taken, as the thesis does.
        space: label space, by default the first.
        seed: of the draw.

    Returns:
        Records, their labels as indices into the third, and the names of the classes.

    Raises:
        GestaError: an unknown class or label space, or fewer than four such videos.
    """
    records, labels, names = labelled(data, split, n=n, space=space, seed=seed)
    for name in classes or ():
        if name not in names:
            raise GestaError(f"the data set has no class {name!r}{suggest(name, names)}")
    shown = list(classes) if classes else names
    chosen = [i for i, label in enumerate(labels) if names[label] in shown]
    if len(chosen) < 4:
        raise GestaError(
            f"{len(chosen)} of {len(records)} labelled videos of the split {split!r} are left, and t-SNE needs four; "
            "choose more with --n, --classes or --split"
        )
    return [records[i] for i in chosen], [shown.index(names[labels[i]]) for i in chosen], shown


def project(
    models: Sequence[tuple[str, VideoModel]],
    records: Sequence[Record],
    labels: Sequence[int],
    classes: Sequence[str],
    *,
    device: str = "auto",
    seed: int = 0,
) -> Projections:
    """Features of the same videos by several models, each projected by t-SNE.

    Args:
        models: names and models.
        records: videos, as :func:`choose` gives them with the next two.
        labels: indices into ``classes``.
        classes: names.
        device: ``auto`` takes the first accelerator there is.
        seed: of t-SNE.

    Raises:
        GestaError: scikit-learn is not installed, or fewer than four videos can be read.
    """
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        raise GestaError("t-SNE needs scikit-learn, which is not installed: pip install 'gesta[analysis]'") from None
    extracted = [features(model, records, _before_classifier(model), device=device) for _, model in models]
    failures = {failure.index: failure for _, failed in extracted for failure in failed}
    readable = [i for i in range(len(records)) if i not in failures]
    if len(readable) < 4:
        raise GestaError(f"only {len(readable)} of {len(records)} videos can be read, and t-SNE needs four")
    truth = np.array([labels[i] for i in readable])
    found = []
    for (name, _), (values, _) in zip(models, extracted):
        matrix = np.stack([values[i]["embed"] for i in readable])
        perplexity = min(PERPLEXITY, (len(matrix) - 1) / 3)
        start = "pca" if min(matrix.shape) >= 2 else "random"
        places = TSNE(2, perplexity=perplexity, init=start, random_state=seed).fit_transform(matrix)
        found.append(Projection(name=name, points=places, neighbours=same_class(matrix, truth)))
    return Projections(
        videos=[records[i].name for i in readable],
        labels=truth.tolist(),
        classes=list(classes),
        failures=[failures[i] for i in sorted(failures)],
        models=found,
    )


def _before_classifier(model: VideoModel) -> Callable[[Tensor], dict[str, Tensor]]:
    return lambda clips: {"embed": model.embed(clips)}


def same_class(matrix: np.ndarray, labels: np.ndarray) -> float:
    """Percent of the rows whose nearest other row (Euclidean, as in t-SNE) has the same label."""
    values = matrix.astype(np.float64) - matrix.mean(0, dtype=np.float64)
    squares = (values**2).sum(1)
    distances = squares[:, None] + squares - 2 * values @ values.T
    np.fill_diagonal(distances, np.inf)
    return float(100 * (labels[distances.argmin(1)] == labels).mean())


def draw(found: Projections) -> Figure:
    """A panel per model and a star per video, coloured by class."""
    import matplotlib
    from matplotlib.figure import Figure

    count = len(found.classes)
    palette = matplotlib.colormaps["tab10" if count <= 10 else "tab20" if count <= 20 else "nipy_spectral"]
    colours = [palette(k if count <= 20 else k / (count - 1)) for k in range(count)]
    figure = Figure(figsize=(5.6 * len(found.models) + 1.6, 5.6), layout="constrained", facecolor="white")
    labels = np.array(found.labels)
    panels = figure.subplots(1, len(found.models), squeeze=False)[0]
    for axes, model in zip(panels, found.models):
        for k, name in enumerate(found.classes):
            x, y = model.points[labels == k].T
            axes.plot(x, y, "*", color=colours[k], markersize=8, markeredgewidth=0, alpha=0.85, label=name)
        axes.set_title(f"{model.name}\nnearest neighbour in the same class: {model.neighbours:.1f} %", fontsize=10)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_alpha(0.3)
    if count <= 60:
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside right center", fontsize=8, frameon=False, ncols=-(-count // 24))
    return figure


def tsne_figure(found: Projections, out: str | os.PathLike[str]) -> Path:
    """Draw projections into a picture; its ending says the kind (.png, .svg, .pdf).

    Raises:
        GestaError: a picture that cannot be written.
    """
    return write_figure(draw(found), out)
