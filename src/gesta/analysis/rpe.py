"""Relative positions in clusters: which patches share one (Fig. 3.5), and how many clusters a ratio makes (Fig. 3.4).

Figures of Y. Ma's thesis (Pattern Recognition 145, 109905), for RPE-STDT. See :mod:`gesta.layers.rpe`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from rich.table import Column, Table
from torch import Tensor

from gesta.analysis.figures import BLUE, ORANGE, RED, hide_top_right_spines, new_figure
from gesta.analysis.measured import plain
from gesta.analysis.sources import check_model
from gesta.checkpoint import read_metadata, weights_file
from gesta.config import from_json, replace
from gesta.errors import GestaError
from gesta.evaluation.result import Result
from gesta.layers.rpe import bucket_map, reach, rows
from gesta.model import ModelConfig
from gesta.models import MODELS, model_config
from gesta.models.rpe_stdt import RPESTDTConfig
from gesta.progress import plain_text
from gesta.recipes.address import read_recipe

RATIOS = (0.5, 1.0, 1.5, 1.9, 2.0, 2.5, 3.0, 3.5, 4.0)
MAY_DIFFER = ("ratio", "classes", "activation_checkpointing")
"""Fields of the model in which the runs may differ that are drawn on one line."""


def read_config(source: str, *, trust_code: bool = False) -> RPESTDTConfig:
    """The configuration of a model with relative positions, from its name, a run folder or a ``.safetensors`` file.

    Raises:
        GestaError: none of these, or a model without relative positions.
    """
    if source in MODELS:
        return _checked(source, model_config(source))
    check_model(source)
    metadata = read_metadata(weights_file(source).path)
    return _checked(source, from_json(metadata["model"], trust_code=trust_code, source=source))


def _checked(source: str, config: ModelConfig) -> RPESTDTConfig:
    if not isinstance(config, RPESTDTConfig) or not config.relative:
        raise GestaError(f"{source} has no relative positions in clusters; rpe_stdt_b12 has")
    if reach(config.ratio) < 1:
        raise GestaError(f"ratio={config.ratio} leaves one cluster; choose 0.5 or more")
    return config


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class BucketMap:
    """The clusters of all patches of a frame relative to one of them."""

    name: str
    reference: tuple[int, int]  # row and column of that patch, from 0
    ids: Tensor  # cluster of every patch (H, W)
    ratio: float  # with bucket and method: how distances share clusters
    bucket: str
    method: str
    declared: int  # number of clusters that have a vector, including the class token's
    used: int  # number of clusters that occur for any two tokens of the frame

    @property
    def shown(self) -> int:
        """Number of clusters on this map."""
        return len(self.ids.unique())

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return plain(self) | {"shown": self.shown}

    def __str__(self) -> str:
        return (
            f"{self.name}, {self.bucket} {self.method}, ratio {self.ratio:g}: {self.shown} clusters around patch "
            f"{self.reference[0]},{self.reference[1]} of {self.ids.shape[0]} × {self.ids.shape[1]}; {self.declared} "
            f"declared, {self.used} used, including the class token's"
        )


def measure_bucket_map(name: str, config: ModelConfig, reference: tuple[int, int] | None = None) -> BucketMap:
    """The clusters around a patch.

    Args:
        name: of the model.
        config: of a model with relative positions.
        reference: row and column from 0; None for the centre, (7, 7) of 14 × 14.

    Raises:
        GestaError: a model without relative positions, a patch outside the frame.
    """
    config = _checked(name, config)
    edge = config.clip.size // config.patch
    row, column = (edge // 2, edge // 2) if reference is None else reference
    if not (0 <= row < edge and 0 <= column < edge):
        raise GestaError(f"patch {row},{column}: {name} has {edge} × {edge} patches, rows and columns 0 to {edge - 1}")
    all_ids = bucket_map(edge, edge, config.ratio, config.bucket, config.method)
    return BucketMap(
        name=name,
        reference=(row, column),
        ids=all_ids[1 + row * edge + column, 1:].view(edge, edge).clone(),  # token 0 is the class token
        ratio=config.ratio,
        bucket=config.bucket,
        method=config.method,
        declared=rows(config.ratio, config.method),
        used=len(all_ids.unique()),
    )


def draw_bucket_map(measured: BucketMap) -> Figure:
    """A colour and the number of its cluster for every patch, borders between clusters, a flag on the reference."""
    ids = measured.ids.numpy()
    _, number = np.unique(ids, return_inverse=True)
    number = number.reshape(ids.shape)
    hue = number * 0.61803 % 1  # golden section: neighbours in number are far apart in hue
    colours = hsv_to_rgb(np.stack([hue, 0.3 + 0.15 * (number % 3), 0.98 - 0.09 * (number % 2)], 2))
    figure = new_figure(7.6, 7.9)
    axes = figure.add_subplot()
    axes.imshow(colours, interpolation="nearest")
    for y, x in np.ndindex(ids.shape):
        if (y, x) != measured.reference:
            axes.text(x, y, str(ids[y, x]), ha="center", va="center", fontsize=7.5, color="0.25")
        if x + 1 < ids.shape[1] and ids[y, x] != ids[y, x + 1]:
            axes.plot([x + 0.5] * 2, [y - 0.5, y + 0.5], color="white", linewidth=2)
        if y + 1 < ids.shape[0] and ids[y, x] != ids[y + 1, x]:
            axes.plot([x - 0.5, x + 0.5], [y + 0.5] * 2, color="white", linewidth=2)
    y, x = measured.reference
    axes.plot([x - 0.22] * 2, [y - 0.36, y + 0.36], color="0.15", linewidth=1.8)
    axes.fill([x - 0.2, x + 0.34, x - 0.2], [y - 0.36, y - 0.17, y + 0.02], color=RED)
    axes.set(xticks=range(ids.shape[1]), yticks=range(ids.shape[0]))
    axes.tick_params(length=0, labelsize=8)
    title = f"{measured.name}: the {measured.shown} clusters around patch {y},{x}"
    counts = f"{measured.declared} clusters declared, {measured.used} used, including the class token's"
    axes.set_title(f"{title}\n{measured.bucket} function, ratio {measured.ratio:g}; {counts}", fontsize=10)
    return figure


@dataclass(frozen=True, slots=True, kw_only=True)
class RatioClusters:
    """The clusters of one ratio."""

    ratio: float  # the distance in patches from which on positions share clusters
    declared: int  # number of clusters that have a vector, including the class token's
    used: int  # those that occur on the model's frame
    top1: dict[str, list[float]]  # data set → accuracies of the runs that exist, percent


@dataclass(frozen=True, slots=True, kw_only=True)
class Clusters:
    """Numbers of clusters by ratio."""

    name: str
    edge: int  # patches on a side of its frame
    runs: str  # folder in which runs were looked for
    by_ratio: list[RatioClusters]  # one entry per ratio, ascending

    @property
    def data_sets(self) -> list[str]:
        """Names of the data sets of which there are accuracies."""
        return sorted({name for c in self.by_ratio for name in c.top1})

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return plain(self, "by_ratio") | {"clusters": plain(self.by_ratio)}

    def __str__(self) -> str:
        columns = ("ratio", "declared", "used", *(f"{name}, top-1 %" for name in self.data_sets))
        table = Table(*(Column(column, justify="right") for column in columns))
        for c in self.by_ratio:
            accuracies = [", ".join(f"{value:.2f}" for value in c.top1.get(name, [])) for name in self.data_sets]
            table.add_row(f"{c.ratio:g}", str(c.declared), str(c.used), *accuracies)
        title = f"{self.name}, {self.edge} × {self.edge} patches; numbers of clusters, including the class token's"
        without = [f"no runs of this model with a result.json in {self.runs}, so no accuracies"]
        return plain_text(title, table, *([] if self.data_sets else without))


def measure_clusters(
    name: str, config: ModelConfig, ratios: Sequence[float] = RATIOS, runs: str | os.PathLike[str] = "runs"
) -> Clusters:
    """Clusters that each ratio declares and uses, and the accuracies of runs of such models.

    Args:
        name: of the model.
        config: of a model with relative positions.
        ratios: those to count; a ratio that a run has is added.
        runs: folder of run folders; a run with a ``result.json`` counts if its model differs from this one in nothing
            but the ratio and the classes.

    Raises:
        GestaError: a model without relative positions, a ratio that leaves one cluster.
    """
    config = _checked(name, config)
    for ratio in ratios:
        _checked(name, replace(config, ratio=ratio))
    top1: dict[float, dict[str, list[float]]] = {ratio: {} for ratio in ratios}
    for ratio, data, accuracy in _run_accuracies(config, Path(runs)):
        top1.setdefault(ratio, {}).setdefault(data, []).append(accuracy)
    edge = config.clip.size // config.patch
    by_ratio = []
    for ratio in sorted(top1):
        declared, ids = rows(ratio, config.method), bucket_map(edge, edge, ratio, config.bucket, config.method)
        by_ratio.append(RatioClusters(ratio=ratio, declared=declared, used=len(ids.unique()), top1=top1[ratio]))
    return Clusters(name=name, edge=edge, runs=str(runs), by_ratio=by_ratio)


def _run_accuracies(config: RPESTDTConfig, runs: Path) -> Iterator[tuple[float, str, float]]:
    """Ratio, data set and top-1 of every finished run of such a model."""
    for path in sorted(runs.glob("*/recipe.json")):
        if not (path.parent / "result.json").is_file():
            continue
        try:
            recipe = read_recipe(path)
            result = Result.read(path.parent / "result.json")
        except GestaError:  # a run of something else, for which this analysis should not fail
            continue
        model = recipe.model
        if not isinstance(model, RPESTDTConfig) or "top1" not in result.metrics:
            continue
        if replace(config, **{field: getattr(model, field) for field in MAY_DIFFER}) == model:
            yield model.ratio, type(recipe.data).__name__, result.metrics["top1"]


def draw_clusters(measured: Clusters) -> Figure:
    """Declared and used clusters over the ratio, and accuracies over the clusters used if there are runs."""
    columns = 1 + bool(measured.data_sets)
    figure = new_figure(6.2 * columns, 4.4)
    _draw_counts(figure.add_subplot(1, columns, 1), measured)
    if measured.data_sets:
        _draw_accuracies(figure.add_subplot(1, 2, 2), measured)
    for axes in figure.axes:
        axes.grid(alpha=0.2)
        hide_top_right_spines(axes)
    return figure


def _draw_counts(axes: Axes, measured: Clusters) -> None:
    ratios = [c.ratio for c in measured.by_ratio]
    for counts, marker, label, colour, shift in (
        ([c.declared for c in measured.by_ratio], "o", "declared", BLUE, 6),
        ([c.used for c in measured.by_ratio], "s", f"used on {measured.edge} × {measured.edge} patches", ORANGE, -12),
    ):
        axes.plot(ratios, counts, marker=marker, label=label, color=colour, linewidth=1.6, markersize=5)
        for x, y in zip(ratios, counts):
            axes.annotate(str(y), (x, y), (0, shift), textcoords="offset points", ha="center", fontsize=7, color=colour)
    axes.set(xlabel="ratio (b; y = 2 b, a = 8 b)", ylabel="clusters, including the class token's", ymargin=0.12)
    axes.legend(frameon=False, fontsize=9)
    axes.set_title(measured.name, fontsize=10)


def _draw_accuracies(axes: Axes, measured: Clusters) -> None:
    for name in measured.data_sets:
        points = [(c.used, value) for c in measured.by_ratio for value in c.top1.get(name, [])]
        means = [(c.used, float(np.mean(c.top1[name]))) for c in measured.by_ratio if c.top1.get(name)]
        (line,) = axes.plot(*zip(*sorted(means)), linewidth=1.4, label=name)
        axes.plot(*zip(*points), "o", color=line.get_color(), markersize=5)
    axes.set(xlabel="clusters used", ylabel="top-1 %")
    axes.set_title("runs: each a dot, lines their means", fontsize=10)
    axes.legend(frameon=False, fontsize=9)
