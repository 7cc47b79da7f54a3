"""Features before the classifier, projected into the plane by t-SNE, several models side by side.

Figs 3.6 and 3.7 of Y. Ma's thesis: 1000 random videos of HMDB-51, ten classes of them, ViT beside RPE-STDT. t-SNE:
L. van der Maaten and G. Hinton, JMLR 9, 2008.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.spatial.distance import cdist
from torch import Tensor

from gesta.analysis.figures import distinct_colours, new_figure
from gesta.analysis.measured import plain
from gesta.analysis.sources import extract_features, labelled_videos, list_failures
from gesta.config import suggest
from gesta.data.batch import Failure
from gesta.errors import GestaError
from gesta.model import VideoModel
from gesta.progress import join_lines
from gesta.records import DataConfig, Record, SplitName, class_name

PERPLEXITY = 30.0
"""Effective number of neighbours of a video; of few videos a third, because t-SNE needs more videos than that."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ModelProjection:
    """One model's features."""

    name: str
    points: np.ndarray  # coordinates of the videos (n, 2)
    neighbours: float  # percent of the videos whose nearest neighbour in feature space is of the same class


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Projection:
    """The same videos, projected by t-SNE from the features of several models."""

    videos: list[str]  # names
    labels: list[int]  # of each video, an index into classes
    classes: list[str]  # those shown
    failures: list[Failure]  # videos that could not be read and are not shown
    models: list[ModelProjection]  # one projection each

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return plain(self)

    def __str__(self) -> str:
        lines = [f"{len(self.videos)} videos of {len(self.classes)} classes"]
        lines += [f"  {line}" for line in list_failures(self.failures)]
        for model in self.models:
            lines.append(f"{model.name}: {model.neighbours:.1f} % have their nearest neighbour in their own class")
        return join_lines(lines)


def choose_videos(
    data: DataConfig,
    split: SplitName,
    classes: Sequence[str] | None = None,
    *,
    max_videos: int = 1000,
    space: str | None = None,
    seed: int = 0,
) -> tuple[list[Record], list[int], list[str]]:
    """Random labelled videos of some classes.

    Args:
        data: the data set.
        split: of it.
        classes: names; None for all.
        max_videos: at most, drawn from all of the split's videos before those of the classes are taken, as the
            thesis does.
        space: label space, by default the first.
        seed: of the draw.

    Returns:
        Records, their labels as indices into the class names, and these names.

    Raises:
        GestaError: an unknown class or label space, or fewer than four such videos.
    """
    records, labels, names = labelled_videos(data, split, max_videos=max_videos, space=space, seed=seed)
    shown = [name if name in names else class_name(name) for name in classes or names]
    for name in shown:
        if name not in names:
            raise GestaError(f"the data set has no class {name!r}{suggest(name, names)}")
    chosen = [i for i, label in enumerate(labels) if names[label] in shown]
    if len(chosen) < 4:
        left = f"{len(chosen)} of {len(records)} labelled videos of the split {split!r} are left"
        raise GestaError(f"{left}, and t-SNE needs four; choose more with --max-videos, --classes or --split")
    return [records[i] for i in chosen], [shown.index(names[labels[i]]) for i in chosen], shown


def measure_tsne(
    models: Sequence[tuple[str, VideoModel]],
    records: Sequence[Record],
    labels: Sequence[int],
    classes: Sequence[str],
    *,
    device: str = "auto",
    seed: int = 0,
) -> Projection:
    """Features of the same videos by several models, each projected by t-SNE.

    Args:
        models: names and models.
        records: videos, as :func:`choose_videos` gives them with their labels and classes.
        labels: indices into ``classes``.
        classes: names.
        device: ``auto`` takes the first accelerator there is.
        seed: of t-SNE.

    Raises:
        GestaError: scikit-learn is not installed, or fewer than four videos can be read.
    """
    try:
        from sklearn.manifold import TSNE  # an optional dependency
    except ImportError:
        raise GestaError("t-SNE needs scikit-learn, which is not installed: pip install 'gesta[analysis]'") from None

    def before_classifier(model: VideoModel, clips: Tensor) -> dict[str, Tensor]:
        return {"embed": model.embed(clips)}

    extracted = [extract_features(m, records, partial(before_classifier, m), device=device) for _, m in models]
    failures = {failure.index: failure for _, failed in extracted for failure in failed}
    readable = [i for i in range(len(records)) if i not in failures]
    if len(readable) < 4:
        raise GestaError(
            f"only {len(readable)} of {len(records)} videos can be read, and t-SNE needs four; name others with --data"
        )
    true_labels = np.array([labels[i] for i in readable])
    projections = []
    for (name, _), (features, _) in zip(models, extracted):
        matrix = np.stack([features[i]["embed"] for i in readable])
        perplexity = min(PERPLEXITY, (len(matrix) - 1) / 3)
        init = "pca" if min(matrix.shape) >= 2 else "random"
        points = TSNE(2, perplexity=perplexity, init=init, random_state=seed).fit_transform(matrix)
        neighbours = same_class_neighbours(matrix, true_labels)
        projections.append(ModelProjection(name=name, points=points, neighbours=neighbours))
    names, indices = [records[i].name for i in readable], true_labels.tolist()
    unread = [failures[i] for i in sorted(failures)]
    return Projection(videos=names, labels=indices, classes=list(classes), failures=unread, models=projections)


def same_class_neighbours(matrix: np.ndarray, labels: np.ndarray) -> float:
    """Percent of the rows whose nearest other row (Euclidean, as in t-SNE) has the same label."""
    distances = cdist(matrix, matrix)
    np.fill_diagonal(distances, np.inf)
    return float(100 * (labels[distances.argmin(1)] == labels).mean())


def draw_tsne(measured: Projection) -> Figure:
    """A panel per model and a star per video, coloured by class."""
    count = len(measured.classes)
    colours = distinct_colours(count)
    figure = new_figure(5.6 * len(measured.models) + 1.6, 5.6)
    labels = np.array(measured.labels)
    panels = figure.subplots(1, len(measured.models), squeeze=False)[0]
    for axes, model in zip(panels, measured.models):
        for k, name in enumerate(measured.classes):
            x, y = model.points[labels == k].T
            axes.plot(x, y, "*", color=colours[k], markersize=8, markeredgewidth=0, alpha=0.85, label=name)
        axes.set_title(f"{model.name}\nnearest neighbour in the same class: {model.neighbours:.1f} %", fontsize=10)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_alpha(0.3)
    if count <= 60:
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside right center", fontsize=8, frameon=False, ncols=-(-count // 24))
    return figure
