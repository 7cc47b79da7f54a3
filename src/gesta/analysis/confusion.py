"""Which classes are predicted as which: confusion matrices of one result, or of two and their difference.

Fig. 2.6 of Y. Ma's thesis (NTU RGB+D, two models beside each other) and its Fig. 3.8 (Diving48, whose classes are added
up by takeoff, somersaults, twists and flight position).
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure

from gesta.analysis.figures import MAX_CHARACTERS, new_figure
from gesta.analysis.measured import plain
from gesta.config import parse_json, read_text, suggest
from gesta.data.listfile import csv_errors
from gesta.datasets.diving48 import ATTRIBUTES
from gesta.errors import GestaError
from gesta.evaluation.result import Result
from gesta.progress import join_lines, one_line
from gesta.records import class_name

CLASSES_WITH_NUMBERS = 16
"""Classes up to which cells show their percentage."""

CLASSES_DRAWN = 110
"""Classes beyond which a matrix does not grow further."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ConfusionMatrix:
    """One matrix, or two of the same classes."""

    of: str  # the label space or the attribute
    names: list[str]  # of the classes or of the attribute's values, in the order of rows and columns
    counts: list[np.ndarray]  # of each result: numbers of scored videos (K, K), rows true, columns predicted

    def percent(self, which: int = 0) -> np.ndarray:
        """The matrix in percent of its rows; rows without videos are 0."""
        counts = self.counts[which]
        return 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)

    @property
    def difference(self) -> np.ndarray | None:
        """Second minus first, in percentage points, 0 in rows of which one has no videos; None for one result."""
        if len(self.counts) < 2:
            return None
        both = np.all([counts.sum(1) > 0 for counts in self.counts], axis=0)
        return np.where(both[:, None], self.percent(1) - self.percent(0), 0.0)

    def accuracy(self, which: int) -> float:
        """Percent of the scored videos on the diagonal."""
        counts = self.counts[which]
        return float(100 * counts.trace() / max(counts.sum(), 1))

    def changes(self, most: int) -> list[tuple[str, str, float]]:
        """Cells in which the two differ most: (true, predicted, percentage points)."""
        difference = self.difference
        if difference is None:
            return []
        order = np.argsort(-np.abs(difference), axis=None, kind="stable")[:most]
        cells = [divmod(int(index), len(self.names)) for index in order]
        return [(self.names[i], self.names[j], float(difference[i, j])) for i, j in cells if difference[i, j]]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Confusion:
    """Confusion matrices of one or two results."""

    names: list[str]  # the results
    remarks: list[str]  # what to know before comparing
    matrices: list[ConfusionMatrix]  # one for the classes, or one per attribute
    most: int  # pairs that are listed at most

    def to_json(self) -> dict[str, Any]:
        """Matrices, accuracies and pairs; changes as ``[true, predicted, percentage points]``."""
        keys = ("true", "predicted", "videos", "of")
        matrices = []
        for matrix in self.matrices:
            difference, both = matrix.difference, range(len(matrix.counts))
            more = {
                "percent": [matrix.percent(i).round(3) for i in both],
                "accuracy": [matrix.accuracy(i) for i in both],
                "pairs": [[dict(zip(keys, pair)) for pair in self._pairs(matrix, i)] for i in both],
                "difference": None if difference is None else difference.round(3),
                "changes": matrix.changes(self.most),
            }
            matrices.append(plain(matrix) | {key: plain(value) for key, value in more.items()})
        return {"results": self.names, "remarks": self.remarks, "matrices": matrices}

    def __str__(self) -> str:
        lines = list(self.remarks)
        for matrix in self.matrices:
            for i, (name, counts) in enumerate(zip(self.names, matrix.counts)):
                lines.append(f"{matrix.of}, {name}: {matrix.accuracy(i):.1f} % of {counts.sum()} scored videos right")
                lines += [
                    f"  {true} → {predicted}: {videos} of {total} ({100 * videos / total:.0f} %)"
                    for true, predicted, videos, total in self._pairs(matrix, i)
                ]
            if changes := matrix.changes(self.most):
                versus = f"{self.names[1]} minus {self.names[0]}"
                lines.append(f"{matrix.of}: greatest changes in percentage points, {versus}")
                lines += [f"  {true} → {predicted}: {points:+.1f} points" for true, predicted, points in changes]
        return join_lines(lines)

    def _pairs(self, matrix: ConfusionMatrix, which: int) -> list[tuple[str, str, int, int]]:
        return confused_pairs(matrix.counts[which].tolist(), matrix.names, self.most)


def confused_pairs(matrix: Sequence[Sequence[int]], names: Sequence[str], most: int) -> list[tuple[str, str, int, int]]:
    """The classes that are confused most often: (true, predicted, videos, scored videos of the true class)."""
    cells = ((i, j, count, sum(row)) for i, row in enumerate(matrix) for j, count in enumerate(row))
    pairs = sorted((-count, total, i, j) for i, j, count, total in cells if i != j and count)
    return [(names[i], names[j], -count, total) for count, total, i, j in pairs[:most]]


def measure_confusion(
    results: Sequence[tuple[str, Result]], *, space: str | None = None, by: str | Path | None = None, most: int = 15
) -> Confusion:
    """Confusion matrices of one result, or of two beside each other.

    Args:
        results: one or two, with names for them.
        space: the label space, by default the first (only one result of verbs and nouns has several).
        by: file of attributes, see :func:`read_attributes`; a matrix for each then adds up the classes that share a
            value.
        most: pairs listed at most.

    Raises:
        GestaError: unlabelled videos only, an unknown label space, results of different classes, or attributes that
            do not fit the classes.
    """
    _, first = results[0]
    space = next(iter(first.scores.classes)) if space is None else space
    for name, result in results:
        if result.scores.multi_label:
            raise GestaError(
                f"{name} is of videos with any number of classes, of which none is taken for another; gesta "
                "analyse report shows precision, recall and average precision of each class"
            )
        if space not in result.scores.classes:
            raise GestaError(
                f"{name} has no label space {space!r}{suggest(space, result.scores.classes)}; choose another one"
            )
        if result.scores.classes[space] != first.scores.classes[space]:
            raise GestaError(
                f"{results[0][0]} and {name} have different classes, so their matrices cannot be compared; give "
                "results of one data set"
            )
        if not np.any(result.scores.confusion[space]):
            raise GestaError(
                f"{name} has no labelled video that was scored, and so no confusion matrix; evaluate on labelled videos"
            )
    failed = [(name, result.counts.failed) for name, result in results if result.counts.failed]
    remarks = [f"{name}: {count} videos could not be scored and are in no matrix" for name, count in failed]
    if len({result.list_hash for _, result in results}) > 1:
        remarks.append("the results are of different lists of videos, so differences are not the models' alone")
    classes = first.scores.classes[space]
    counts = [np.asarray(result.scores.confusion[space], dtype=np.int64) for _, result in results]
    matrices = [ConfusionMatrix(of=space, names=classes, counts=counts)]
    if by is not None:
        matrices = [_grouped(counts, attribute, values) for attribute, values in read_attributes(by, classes).items()]
    return Confusion(names=[name for name, _ in results], remarks=remarks, matrices=matrices, most=most)


def read_attributes(path: str | Path, classes: Sequence[str]) -> dict[str, list[str]]:
    """Attributes of classes from a file: attribute → its value for every class.

    Args:
        path: a CSV file with a header whose first column is the class's name or number; JSON ``{class: {attribute:
            value}}`` or ``{class: [values]}``; or a JSON list of the classes' values in label order, as
            ``Diving48_vocab.json`` is.
        classes: names in label order.

    Raises:
        GestaError: no such file, another format, or a class without its values.
    """
    text = read_text(path)
    if Path(path).suffix.lower() == ".json":
        table = _from_json(parse_json(text, str(path)))
    else:
        with csv_errors(path):
            header, *rows = [row for row in csv.reader(text.split("\n")) if row] or [[]]
        rows = [[cell.strip(" \t\r") for cell in row] for row in rows]
        table = {row[0]: dict(zip(header[1:], row[1:])) for row in rows}
    if not table:
        forms = "a CSV with a header, JSON of class → attributes, or a JSON list of the classes' values"
        raise GestaError(f"{path}: holds no attributes; {forms} does")
    attributes = list(next(iter(table.values())))
    table = {class_name(name): values for name, values in table.items()}
    by_class = []
    for label, name in enumerate(classes):
        values = table.get(class_name(name), table.get(str(label)))
        if values is None:
            raise GestaError(f"{path}: says nothing about the class {name!r}{suggest(name, table)}")
        if lacking := [attribute for attribute in attributes if not values.get(attribute)]:
            raise GestaError(f"{path}: the class {name!r} has no value of {lacking[0]!r}")
        by_class.append(values)
    return {attribute: [values[attribute] for values in by_class] for attribute in attributes}


def _from_json(content: Any) -> dict[str, dict[str, str]]:
    """Class → attribute → value, empty if it is of no known form."""
    if isinstance(content, list):
        content = {str(label): values for label, values in enumerate(content)}
    if not isinstance(content, dict):
        return {}
    rows = list(content.values())
    dives = all(isinstance(row, list) and len(row) == 4 and re.search("Twis$", str(row[2])) for row in rows)
    table: dict[str, dict[str, str]] = {}
    for name, values in content.items():
        if isinstance(values, list):
            values = dict(zip(ATTRIBUTES if dives else (f"attribute {i + 1}" for i in range(len(values))), values))
        if not isinstance(values, dict) or not values:
            return {}
        table[str(name)] = {str(attribute): str(value) for attribute, value in values.items()}
    return table


def _grouped(counts: list[np.ndarray], attribute: str, values: list[str]) -> ConfusionMatrix:
    """The matrices with the classes that have the same value added up."""
    names = sorted(set(values), key=_sort_key)
    member = np.array([[value == name for value in values] for name in names], dtype=np.int64)
    return ConfusionMatrix(of=attribute, names=names, counts=[member @ matrix @ member.T for matrix in counts])


def _sort_key(value: str) -> tuple[bool, float, str]:
    """Numbers by size, other values by the alphabet; Diving48's ``NoTwis`` and ``Dive`` are 0, its ``15som`` 1.5."""
    dive = re.fullmatch(r"(No|\d)(5?)(som|Twis)|Dive", value)
    if dive:
        return False, (0.0 if dive[1] in ("No", None) else float(dive[1])) + 0.5 * bool(dive[2]), value
    number = re.match(r"\d+(\.\d+)?", value)
    return (False, float(number[0]), value) if number else (True, 0.0, value)


def draw_confusion(measured: Confusion) -> Figure:
    """One row per matrix: each result's, and the difference of two. Blue is more."""
    matrices, two = measured.matrices, len(measured.names) == 2
    biggest = min(max(len(matrix.names) for matrix in matrices), CLASSES_DRAWN)
    inches = min(max(4.6, 0.19 * biggest + 2.0), 16)
    columns = 3 if two else min(len(matrices), 2)  # attributes of one result: two beside each other
    panels = [(matrix, which) for matrix in matrices for which in range(3 if two else 1)]
    rows = -(-len(panels) // columns)
    figure = new_figure(inches * columns, 0.92 * inches * rows)
    names = [name.removesuffix("/result.json") for name in measured.names]
    for number, (matrix, which) in enumerate(panels):
        axes = figure.add_subplot(rows, columns, number + 1)
        longest = min(max(map(len, matrix.names)), MAX_CHARACTERS)  # labels take at most 0.4 of the width
        font = min(9.0, 52 * inches / len(matrix.names) * 0.85, max(3.0, 0.4 * 72 * inches / (0.6 * longest)))
        difference = matrix.difference if which == 2 else None
        title = f"{matrix.of}\n" if len(matrices) > 1 else ""
        if difference is None:
            title += f"{names[which]}: {matrix.accuracy(which):.1f} %"
            scale = PowerNorm(0.5, 0, 100)  # so that rare confusions can be seen
            image = _draw_matrix(axes, matrix.percent(which), matrix.names, scale, "Blues", font)
        else:
            title += ("\n− " if sum(map(len, names)) > 36 else " − ").join(reversed(names))
            end = max(np.abs(difference).max(), 1.0)
            image = _draw_matrix(axes, difference, matrix.names, Normalize(-end, end), "RdBu", font)
        axes.set_title(title, fontsize=10)
        bar = figure.colorbar(image, ax=axes, fraction=0.045, pad=0.02)
        bar.set_label("points" if which == 2 else "% of the true class", fontsize=8)
        bar.ax.tick_params(labelsize=7)
    return figure


def _draw_matrix(axes: Axes, values: np.ndarray, names: list[str], scale: Normalize, palette: str, font: float) -> Any:
    image = axes.imshow(values, cmap=palette, norm=scale, interpolation="nearest")
    if font >= 3:
        labels = [one_line(name) for name in names]
        axes.set_xticks(range(len(names)), labels=labels, fontsize=font, rotation=90)
        axes.set_yticks(range(len(names)), labels=labels, fontsize=font)
    axes.set_xlabel("predicted", fontsize=9)
    axes.set_ylabel("true", fontsize=9)
    axes.tick_params(length=2)
    if len(names) <= CLASSES_WITH_NUMBERS:
        diverging = bool(scale.vmin)  # of a difference both ends are dark, of percentages one
        for (i, j), value in np.ndenumerate(values):
            if abs(value) >= 0.5:
                shade = float(scale(value))
                dark = abs(shade - 0.5) > 0.35 if diverging else shade > 0.6
                axes.text(j, i, f"{value:.0f}", ha="center", va="center", fontsize=8, color="white" if dark else "0.2")
    return image
