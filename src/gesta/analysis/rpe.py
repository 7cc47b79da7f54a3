"""Relative positions in clusters: which patches share one, and how many clusters a ratio makes.

Figs 3.4 and 3.5 of Y. Ma's thesis (Pattern Recognition 145, 109905), for RPE-STDT. See :mod:`gesta.layers.rpe`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from gesta.analysis.sources import is_model, write_figure
from gesta.checkpoint import read_metadata
from gesta.config import from_json, replace, suggest
from gesta.errors import GestaError
from gesta.evaluation.result import Result
from gesta.layers.rpe import bucket_map, reach, rows
from gesta.model import ModelConfig
from gesta.models import MODELS, model_config
from gesta.models.rpe_stdt import RPESTDTConfig
from gesta.recipes.address import read_recipe

RATIOS = (0.5, 1.0, 1.5, 1.9, 2.0, 2.5, 3.0, 3.5, 4.0)
FREE = ("ratio", "classes", "activation_checkpointing")
"""Fields in which runs may differ that are drawn on one line."""


def read_config(source: str, *, trust_code: bool = False) -> RPESTDTConfig:
    """The configuration of a model with relative positions, from its name, a run folder or a ``.safetensors`` file.

    Raises:
        GestaError: none of these, or a model without relative positions.
    """
    config: ModelConfig
    if source in MODELS:
        config = model_config(source)
    elif is_model(source):
        path = Path(source)
        path = path / "best.safetensors" if path.is_dir() else path
        config = from_json(read_metadata(path)["model"], trust_code=trust_code, source=source)
    else:
        raise GestaError(
            f"{source} is neither a run folder, a .safetensors file nor a model{suggest(source, MODELS)} "
            "(all names: gesta models)"
        )
    return _with_positions(source, config)


def _with_positions(source: str, config: ModelConfig) -> RPESTDTConfig:
    if not isinstance(config, RPESTDTConfig) or not config.relative:
        raise GestaError(f"{source} has no relative positions in clusters; rpe_stdt_b12 has")
    if reach(config.ratio) < 1:
        raise GestaError(f"ratio={config.ratio} leaves one cluster; say 0.5 or more")
    return config


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class BucketMap:
    """The clusters of all patches of a frame as one of them sees them.

    Attributes:
        name: of the model.
        reference: row and column of that patch, from 0.
        ids: cluster of every patch ``(H, W)``.
        ratio, bucket, method: how distances share clusters.
        declared: clusters that have a vector, with the class token's.
        used: those that occur for any two tokens of the frame.
    """

    name: str
    reference: tuple[int, int]
    ids: Tensor
    ratio: float
    bucket: str
    method: str
    declared: int
    used: int

    @property
    def seen(self) -> int:
        """Clusters on this map."""
        return len(self.ids.unique())

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return {
            "model": self.name,
            "reference": list(self.reference),
            "ratio": self.ratio,
            "bucket": self.bucket,
            "method": self.method,
            "declared": self.declared,
            "used": self.used,
            "seen": self.seen,
            "ids": self.ids.tolist(),
        }

    def __str__(self) -> str:
        return (
            f"{self.name}, {self.bucket} {self.method}, ratio {self.ratio:g}: {self.seen} clusters around patch "
            f"{self.reference[0]},{self.reference[1]} of {self.ids.shape[0]} × {self.ids.shape[1]}; {self.declared} "
            f"declared, {self.used} used, with the class token's"
        )


def bucket_map_of(name: str, config: ModelConfig, reference: tuple[int, int] | None = None) -> BucketMap:
    """The clusters around a patch.

    Args:
        name: of the model.
        config: of a model with relative positions.
        reference: row and column from 0; None for the centre, (7, 7) of 14 × 14.

    Raises:
        GestaError: a model without relative positions, a patch outside the frame.
    """
    config = _with_positions(name, config)
    edge = config.clip.size // config.patch
    at = (edge // 2, edge // 2) if reference is None else reference
    if not all(0 <= place < edge for place in at):
        raise GestaError(f"patch {at[0]},{at[1]}: {name} has {edge} × {edge} patches, rows and columns 0 to {edge - 1}")
    every = bucket_map(edge, edge, config.ratio, config.bucket, config.method)
    ids = every[1 + at[0] * edge + at[1], 1:].view(edge, edge)
    return BucketMap(
        name=name,
        reference=at,
        ids=ids.clone(),
        ratio=config.ratio,
        bucket=config.bucket,
        method=config.method,
        declared=rows(config.ratio, config.method),
        used=len(every.unique()),
    )


def draw_map(found: BucketMap) -> Figure:
    """A colour and the number of its cluster for every patch, borders between clusters, a flag on the reference."""
    from matplotlib.colors import hsv_to_rgb
    from matplotlib.figure import Figure

    ids = found.ids.numpy()
    _, number = np.unique(ids, return_inverse=True)
    number = number.reshape(ids.shape)
    turn = number * 0.61803 % 1  # golden section: neighbours in number are far apart in hue
    colours = hsv_to_rgb(np.stack([turn, 0.3 + 0.15 * (number % 3), 0.98 - 0.09 * (number % 2)], 2))
    figure = Figure(figsize=(7.6, 7.9), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    axes.imshow(colours, interpolation="nearest")
    for y, x in np.ndindex(ids.shape):
        if (y, x) != found.reference:
            axes.text(x, y, str(ids[y, x]), ha="center", va="center", fontsize=7.5, color="0.25")
        if x + 1 < ids.shape[1] and ids[y, x] != ids[y, x + 1]:
            axes.plot([x + 0.5] * 2, [y - 0.5, y + 0.5], color="white", linewidth=2)
        if y + 1 < ids.shape[0] and ids[y, x] != ids[y + 1, x]:
            axes.plot([x - 0.5, x + 0.5], [y + 0.5] * 2, color="white", linewidth=2)
    y, x = found.reference
    axes.plot([x - 0.22] * 2, [y - 0.36, y + 0.36], color="0.15", linewidth=1.8)
    axes.fill([x - 0.2, x + 0.34, x - 0.2], [y - 0.36, y - 0.17, y + 0.02], color="#d40000")
    axes.set_xticks(range(ids.shape[1]))
    axes.set_yticks(range(ids.shape[0]))
    axes.tick_params(length=0, labelsize=8)
    axes.set_title(
        f"{found.name}: the {found.seen} clusters around patch {y},{x}\n"
        f"{found.bucket} function, ratio {found.ratio:g}; {found.declared} clusters declared, {found.used} used, with "
        "the class token's",
        fontsize=10,
    )
    return figure


@dataclass(frozen=True, slots=True, kw_only=True)
class Clusters:
    """One ratio of a sweep.

    Attributes:
        ratio: where sharing begins, in patches.
        declared: clusters that have a vector, with the class token's.
        used: those that occur on the model's frame.
        top1: data set → accuracies of the runs that exist, percent.
    """

    ratio: float
    declared: int
    used: int
    top1: dict[str, list[float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """What :func:`sweep` found; ``print`` it.

    Attributes:
        name: of the model.
        edge: patches on a side of its frame.
        runs: folder in which runs were looked for.
        clusters: one entry per ratio, ascending.
    """

    name: str
    edge: int
    runs: str
    clusters: list[Clusters]

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return {
            "model": self.name,
            "edge": self.edge,
            "runs": self.runs,
            "clusters": [
                {"ratio": c.ratio, "declared": c.declared, "used": c.used, "top1": c.top1} for c in self.clusters
            ],
        }

    def __str__(self) -> str:
        from rich.console import Console
        from rich.table import Table

        data = _data_sets(self.clusters)
        table = Table()
        for column in ("ratio", "declared", "used", *(f"{name}, top-1 %" for name in data)):
            table.add_column(column, justify="right")
        for c in self.clusters:
            accuracies = [", ".join(f"{value:.2f}" for value in c.top1.get(name, [])) for name in data]
            table.add_row(f"{c.ratio:g}", str(c.declared), str(c.used), *accuracies)
        console = Console(width=120, color_system=None, markup=False, highlight=False)
        with console.capture() as capture:
            console.print(f"{self.name}, {self.edge} × {self.edge} patches; clusters with the class token's")
            console.print(table)
            if not data:
                console.print(f"no runs of this model with a result.json in {self.runs}, so no accuracies")
        return "\n".join(line.rstrip() for line in capture.get().splitlines())


def sweep(
    name: str, config: ModelConfig, ratios: Sequence[float] = RATIOS, runs: str | os.PathLike[str] = "runs"
) -> Sweep:
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
    config = _with_positions(name, config)
    for ratio in ratios:
        _with_positions(name, replace(config, ratio=ratio))
    found: dict[float, dict[str, list[float]]] = {ratio: {} for ratio in ratios}
    for path in sorted(Path(runs).glob("*/recipe.json")):
        if not (path.parent / "result.json").is_file():
            continue
        try:
            recipe = read_recipe(path)
            result = Result.read(path.parent / "result.json")
        except GestaError:  # other people's runs; this one is not about them
            continue
        theirs = recipe.model
        if not isinstance(theirs, RPESTDTConfig) or "top1" not in result.metrics:
            continue
        if replace(config, **{field: getattr(theirs, field) for field in FREE}) == theirs:
            column = found.setdefault(theirs.ratio, {})
            column.setdefault(type(recipe.data).__name__, []).append(result.metrics["top1"])
    edge = config.clip.size // config.patch
    clusters = [
        Clusters(
            ratio=ratio,
            declared=rows(ratio, config.method),
            used=len(bucket_map(edge, edge, ratio, config.bucket, config.method).unique()),
            top1=found[ratio],
        )
        for ratio in sorted(found)
    ]
    return Sweep(name=name, edge=edge, runs=str(runs), clusters=clusters)


def draw_sweep(found: Sweep) -> Figure:
    """Declared and used clusters over the ratio, and accuracies over the clusters used if there are runs."""
    from matplotlib.figure import Figure

    data = _data_sets(found.clusters)
    figure = Figure(figsize=(6.2 * (1 + bool(data)), 4.4), layout="constrained", facecolor="white")
    left = figure.add_subplot(1, 1 + bool(data), 1)
    ratios = [c.ratio for c in found.clusters]
    for counts, marker, label, colour in (
        ([c.declared for c in found.clusters], "o", "declared", "#3b82f6"),
        ([c.used for c in found.clusters], "s", f"used on {found.edge} × {found.edge} patches", "#d55e00"),
    ):
        left.plot(ratios, counts, marker=marker, label=label, color=colour, linewidth=1.6, markersize=5)
        for ratio, count in zip(ratios, counts):
            above = marker == "o"
            left.annotate(
                str(count), (ratio, count), (0, 6 if above else -12), textcoords="offset points", ha="center",
                fontsize=7, color=colour,
            )  # fmt: skip
    left.set_xlabel("ratio (b; y = 2 b, a = 8 b)")
    left.set_ylabel("clusters, with the class token's")
    left.margins(y=0.12)
    left.legend(frameon=False, fontsize=9)
    left.set_title(found.name, fontsize=10)
    panels = [left]
    if data:
        right = figure.add_subplot(1, 2, 2)
        panels.append(right)
        for name in data:
            points = [(c.used, value) for c in found.clusters for value in c.top1.get(name, [])]
            means = [(c.used, float(np.mean(c.top1[name]))) for c in found.clusters if c.top1.get(name)]
            (line,) = right.plot(*zip(*sorted(means)), linewidth=1.4, label=name)
            right.plot(*zip(*points), "o", color=line.get_color(), markersize=5)
        right.set_xlabel("clusters used")
        right.set_ylabel("top-1 %")
        right.set_title("runs: each a dot, lines their means", fontsize=10)
        right.legend(frameon=False, fontsize=9)
    for axes in panels:
        axes.grid(alpha=0.2)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _data_sets(clusters: Sequence[Clusters]) -> list[str]:
    return sorted({name for c in clusters for name in c.top1})


def map_figure(found: BucketMap, out: str | os.PathLike[str]) -> Path:
    """Draw a bucket map into a picture; its ending says the kind (.png, .svg, .pdf)."""
    return write_figure(draw_map(found), out)


def sweep_figure(found: Sweep, out: str | os.PathLike[str]) -> Path:
    """Draw a sweep into a picture; its ending says the kind (.png, .svg, .pdf)."""
    return write_figure(draw_sweep(found), out)
