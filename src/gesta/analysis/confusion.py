"""Which classes are taken for which: confusion matrices from results, of classes or of their attributes, and of two.

Fig. 2.6 of Y. Ma's thesis (NTU RGB+D, two models beside each other) and its Fig. 3.8 (Diving48 by takeoff, somersaults,
twists and flight position).
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gesta.analysis.charts import CLASSES, confused_pairs
from gesta.analysis.sources import write_figure
from gesta.config import suggest
from gesta.errors import GestaError
from gesta.evaluation.result import Result

NUMBERS = 16
"""Classes up to which cells tell their percentage."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Confusion:
    """One matrix, or two of the same classes.

    Attributes:
        what: the label space or the attribute.
        names: of the classes or of the attribute's values, in the order of rows and columns.
        counts: numbers of scored videos ``(K, K)``, rows true, columns predicted; of the first result, of the second.
    """

    what: str
    names: list[str]
    counts: list[np.ndarray]

    def shares(self, which: int = 0) -> np.ndarray:
        """The matrix in percent of its rows; rows without videos are 0."""
        counts = self.counts[which]
        return 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)

    @property
    def difference(self) -> np.ndarray | None:
        """Second minus first, in percentage points, 0 in rows of which one has no videos; None for one result."""
        if len(self.counts) < 2:
            return None
        both = np.all([counts.sum(1) > 0 for counts in self.counts], axis=0)
        return np.where(both[:, None], self.shares(1) - self.shares(0), 0.0)

    def right(self, which: int) -> float:
        """Percent of the scored videos on the diagonal."""
        counts = self.counts[which]
        return float(100 * counts.trace() / max(counts.sum(), 1))


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Confusions:
    """What :func:`confusion` found; ``print`` it.

    Attributes:
        names: the results.
        remarks: what to know before comparing.
        matrices: one for the classes, or one per attribute.
        most: pairs that are listed at most.
    """

    names: list[str]
    remarks: list[str]
    matrices: list[Confusion]
    most: int

    def to_json(self) -> dict[str, Any]:
        """Matrices, accuracies and pairs; changes as ``[true, predicted, percentage points]``."""
        found = []
        for matrix in self.matrices:
            difference = matrix.difference
            found.append(
                {
                    "what": matrix.what,
                    "names": matrix.names,
                    "counts": [counts.tolist() for counts in matrix.counts],
                    "percent": [matrix.shares(i).round(3).tolist() for i in range(len(matrix.counts))],
                    "right": [matrix.right(i) for i in range(len(matrix.counts))],
                    "pairs": [
                        [
                            {"true": true, "predicted": taken, "videos": videos, "of": of}
                            for true, taken, videos, of in confused_pairs(counts.tolist(), matrix.names, self.most)
                        ]
                        for counts in matrix.counts
                    ],
                    "difference": None if difference is None else difference.round(3).tolist(),
                    "changes": [list(change) for change in _changes(matrix, self.most)],
                }
            )
        return {"results": self.names, "remarks": self.remarks, "matrices": found}

    def __str__(self) -> str:
        lines = list(self.remarks)
        for matrix in self.matrices:
            for i, (name, counts) in enumerate(zip(self.names, matrix.counts)):
                lines.append(f"{matrix.what}, {name}: {matrix.right(i):.1f} % of {counts.sum()} scored videos right")
                lines += [
                    f"  {true} → {taken}: {videos} of {of} ({100 * videos / of:.0f} %)"
                    for true, taken, videos, of in confused_pairs(counts.tolist(), matrix.names, self.most)
                ]
            changes = _changes(matrix, self.most)
            if changes:
                lines.append(f"{matrix.what}: greatest changes of the shares, {self.names[1]} minus {self.names[0]}")
                lines += [f"  {true} → {taken}: {points:+.1f} points" for true, taken, points in changes]
        return "\n".join(lines)


def confusion(
    results: Sequence[tuple[str, Result]],
    *,
    space: str | None = None,
    by: str | os.PathLike[str] | None = None,
    most: int = 15,
) -> Confusions:
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
    space = next(iter(first.classes)) if space is None else space
    for name, result in results:
        if space not in result.classes:
            raise GestaError(f"{name} has no label space {space!r}{suggest(space, result.classes)}")
        if result.classes[space] != first.classes[space]:
            raise GestaError(f"{results[0][0]} and {name} know different classes, so their matrices cannot be compared")
        if not np.any(result.confusion[space]):
            raise GestaError(f"{name} has no labelled video that was scored, and so no confusion matrix")
    remarks = [
        f"{name}: {result.failed} videos could not be scored and are in no matrix"
        for name, result in results
        if result.failed
    ]
    if len({result.list_hash for _, result in results}) > 1:
        remarks.append("the results are of different lists of videos, so differences are not the models' alone")
    classes = first.classes[space]
    counts = [np.asarray(result.confusion[space], dtype=np.int64) for _, result in results]
    matrices = [Confusion(what=space, names=classes, counts=counts)]
    if by is not None:
        matrices = [_grouped(counts, what, values) for what, values in read_attributes(by, classes).items()]
    return Confusions(names=[name for name, _ in results], remarks=remarks, matrices=matrices, most=most)


def read_attributes(path: str | os.PathLike[str], classes: Sequence[str]) -> dict[str, list[str]]:
    """Attributes of classes from a file: attribute → its value for every class.

    Args:
        path: a CSV file with a header whose first column is the class's name or number; JSON ``{class: {attribute:
            value}}`` or ``{class: [values]}``; or a JSON list of the classes' values in label order, as
            ``Diving48_vocab.json`` is.
        classes: names in label order.

    Raises:
        GestaError: no such file, another format, or a class without its values.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise GestaError(f"{path}: no attributes can be read there ({error})") from None
    if Path(path).suffix.lower() == ".json":
        try:
            table = _from_json(json.loads(text))
        except ValueError as error:
            raise GestaError(f"{path}: is not valid JSON ({error})") from None
    else:
        header, *rows = [row for row in csv.reader(text.splitlines()) if row] or [[]]
        table = {row[0].strip(): dict(zip(header[1:], (value.strip() for value in row[1:]))) for row in rows}
    if not table:
        raise GestaError(
            f"{path}: holds no attributes; a CSV with a header, JSON of class → attributes, or a JSON list of the "
            "classes' values does"
        )
    found = [table.get(name, table.get(str(label))) for label, name in enumerate(classes)]
    for name, values in zip(classes, found):
        if values is None:
            raise GestaError(f"{path}: says nothing about the class {name!r}{suggest(name, table)}")
    first = next(iter(table.values()))
    for name, values in zip(classes, found):
        for attribute in first:
            if not (values or {}).get(attribute):
                raise GestaError(f"{path}: the class {name!r} has no value of {attribute!r}")
    return {attribute: [(values or {})[attribute] for values in found] for attribute in first}


def _from_json(content: Any) -> dict[str, dict[str, str]]:
    """Class → attribute → value, empty if it is of no known form."""
    if isinstance(content, list):
        content = {str(label): values for label, values in enumerate(content)}
    if not isinstance(content, dict):
        return {}
    from gesta.datasets.diving48 import ATTRIBUTES

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


def _grouped(counts: list[np.ndarray], what: str, values: list[str]) -> Confusion:
    """Rows and columns of the classes that share a value added up."""
    names = sorted(set(values), key=_order)
    member = np.array([[value == name for value in values] for name in names], dtype=np.int64)
    return Confusion(what=what, names=names, counts=[member @ each @ member.T for each in counts])


def _order(value: str) -> tuple[bool, float, str]:
    """Numbers by size, and other words by the alphabet; Diving48's ``NoTwis`` and ``Dive`` are 0, its ``15som`` 1.5."""
    dive = re.fullmatch(r"(No|\d)(5?)(som|Twis)|Dive", value)
    if dive:
        return False, (0.0 if dive[1] in ("No", None) else float(dive[1])) + 0.5 * bool(dive[2]), value
    number = re.match(r"\d+(\.\d+)?", value)
    return (False, float(number[0]), value) if number else (True, 0.0, value)


def _changes(matrix: Confusion, most: int) -> list[tuple[str, str, float]]:
    """Cells in which two matrices differ most: (true, predicted, percentage points)."""
    difference = matrix.difference
    if difference is None:
        return []
    order = np.argsort(-np.abs(difference), axis=None, kind="stable")[:most]
    places = [divmod(int(at), len(matrix.names)) for at in order]
    return [(matrix.names[i], matrix.names[j], float(difference[i, j])) for i, j in places if difference[i, j]]


def draw(found: Confusions) -> Figure:
    """One row per matrix: each result's, and the difference of two. Blue is more."""
    from matplotlib.figure import Figure

    columns = 1 if len(found.names) == 1 else 3
    biggest = min(max(len(matrix.names) for matrix in found.matrices), CLASSES)
    wide = min(max(4.6, 0.19 * biggest + 2.0), 16)
    rows = found.matrices
    if columns == 1 and len(rows) > 1:  # attributes of one model, two beside each other
        columns = 2
    panels = [(m, which) for m in rows for which in range(3 if len(found.names) == 2 else 1)]
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(wide * columns, 0.92 * wide * lines), layout="constrained", facecolor="white")
    for number, (matrix, which) in enumerate(panels):
        axes = figure.add_subplot(lines, columns, number + 1)
        difference = matrix.difference if which == 2 else None
        title = f"{matrix.what}\n" if len(rows) > 1 else ""
        if difference is None:
            title += f"{_short(found.names[which])}: {matrix.right(which):.1f} %"
            image = _show(axes, matrix.shares(which), matrix, title, "Blues", 0, 100, wide)
        else:
            end = max(np.abs(difference).max(), 1.0)
            names = [_short(found.names[1]), _short(found.names[0])]
            title += ("\n− " if sum(map(len, names)) > 36 else " − ").join(names)
            image = _show(axes, difference, matrix, title, "RdBu", -end, end, wide)
        bar = figure.colorbar(image, ax=axes, fraction=0.045, pad=0.02)
        bar.set_label("points" if which == 2 else "% of the true class", fontsize=8)
        bar.ax.tick_params(labelsize=7)
    return figure


def _short(name: str) -> str:
    return name.removesuffix("/result.json")


def _show(
    axes: Axes, values: np.ndarray, matrix: Confusion, title: str, colours: str, low: float, high: float, wide: float
) -> Any:
    from matplotlib.colors import Normalize, PowerNorm

    count = len(matrix.names)
    scale = Normalize(low, high) if low else PowerNorm(0.5, low, high)  # so that rare answers can be seen
    image = axes.imshow(values, cmap=colours, norm=scale, interpolation="nearest")
    axes.set_title(title, fontsize=10)
    font = min(9.0, 52 * wide / count * 0.85)
    if font >= 3:
        axes.set_xticks(range(count), labels=matrix.names, fontsize=font, rotation=90)
        axes.set_yticks(range(count), labels=matrix.names, fontsize=font)
    axes.set_xlabel("predicted", fontsize=9)
    axes.set_ylabel("true", fontsize=9)
    axes.tick_params(length=2)
    if count <= NUMBERS:
        for (i, j), value in np.ndenumerate(values):
            if abs(value) >= 0.5:
                dark = abs(scale(value) - (0.5 if low else 0)) > (0.35 if low else 0.6)
                axes.text(j, i, f"{value:.0f}", ha="center", va="center", fontsize=8, color="white" if dark else "0.2")
    return image


def confusion_figure(found: Confusions, out: str | os.PathLike[str]) -> Path:
    """Draw what :func:`confusion` found into a picture; its ending says the kind (.png, .svg, .pdf).

    Raises:
        GestaError: a picture that cannot be written.
    """
    return write_figure(draw(found), out)
