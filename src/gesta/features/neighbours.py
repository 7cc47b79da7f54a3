"""The most similar videos of a folder of features, and near duplicates."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gesta.config import suggest
from gesta.data.locate import split_of
from gesta.errors import GestaError
from gesta.features.folder import Entry, FeatureFolder
from gesta.prediction.prediction import clock
from gesta.progress import join_lines

ROWS = 1024
"""Rows of features that are compared with all others at once."""

ROUNDING = 1e-5
"""By so much the cosine of a row and its own copy, in float32, may be below 1."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two videos, or windows of videos, and the cosine of their features.

    Attributes:
        splits: the splits of the two by the names of their folders (``train``, ``val``, ``test``), if they differ; else
            None.
    """

    first: str
    second: str
    similarity: float
    splits: tuple[str, str] | None = None

    def __str__(self) -> str:
        across = f"  ({self.splits[0]} and {self.splits[1]}!)" if self.splits else ""
        return f"{self.similarity:.3f}  {self.first}  {self.second}{across}"


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The result of :func:`neighbours`.

    Attributes:
        title: a line that says what the pairs are.
        pairs: the most similar first.
        median: median of the similarity over all pairs, or over those of :data:`ROWS` rows drawn at random.
    """

    title: str
    pairs: list[Pair]
    median: float

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        first = f"{self.title} (median of all pairs: {self.median:.3f})"
        return join_lines([first, *(f"  {pair}" for pair in self.pairs)])


def neighbours(folder: Path, query: str | None = None, top: int = 5, duplicates: float = 0.98) -> Neighbours:
    """The videos (or windows) that are most similar to one, or without ``query`` all near duplicates.

    Two are as similar as the cosine of the angle between their features, those of a video averaged over its views. A
    video that is in the folder twice, in two formats or named from two folders, counts once.

    Args:
        folder: of ``gesta features``.
        query: a video in it, by the path that was given; of a video with windows, each window is compared with those of
            other videos.
        top: how many neighbours.
        duplicates: similarity from which on two videos are near duplicates.

    Raises:
        GestaError: features of tokens, a video that is not in the folder, or fewer than two.
    """
    features = FeatureFolder(folder, None)
    if features.description.get("kind") == "tokens":
        raise GestaError(f"{folder}: holds maps of tokens; compute pooled features (gesta features without --tokens)")
    names, owners, rows, known = _rows(features)
    if len(set(owners)) < 2:
        raise GestaError(f"{folder}: holds features of fewer than two videos, so there is nothing to compare")
    sample = rows[np.random.default_rng(0).permutation(len(rows))[:ROWS]]
    median = float(np.median((sample @ sample.T)[np.triu_indices(len(sample), 1)]))
    if query is None:
        pairs = sorted(_duplicates(names, owners, rows, duplicates), key=lambda pair: -pair.similarity)
        return Neighbours(
            f"{len(pairs)} pair{'s' * (len(pairs) != 1)} with a similarity of {duplicates:g} or more", pairs, median
        )
    if query not in known:
        raise GestaError(
            f"{folder}: holds no features of {query}{suggest(query, sorted(known))}; add them by gesta features --out "
            f"{folder}"
        )
    query, owner = known[query], np.array(owners)
    mine, others = np.flatnonzero(owner == query), np.flatnonzero(owner != query)
    pairs = []
    for i in mine:
        similar = rows[others] @ rows[i]
        best = np.argsort(-similar, kind="stable")[:top]
        pairs += [_pair(names, owners, int(i), int(others[j]), similar[j]) for j in best]
    return Neighbours(f"most similar to {query}", pairs, median)


def _rows(features: FeatureFolder) -> tuple[list[str], list[str], np.ndarray, dict[str, str]]:
    """Names, videos and unit vectors of all rows that are compared, one for each video or each window; and each name
    under which a video is in the folder → the one that it has here."""
    names: list[str] = []
    owners: list[str] = []
    rows: list[np.ndarray] = []
    known: dict[str, str] = {}
    by_source: dict[str, str] = {}
    for file, entry in features.entries.items():
        is_new = entry["source"] not in by_source
        known[entry["video"]] = by_source.setdefault(entry["source"], entry["video"])
        if not is_new:
            continue
        values = np.asarray(features.read(file), dtype=np.float32)
        if values.ndim != 2 or (rows and values.shape[1] != rows[0].shape[1]):
            raise GestaError(f"{features.folder / file}: holds features of another size; compute them again")
        if "times" in entry and len(entry["times"]) != len(values):
            raise GestaError(
                f"{features.folder / file}: holds {len(values)} windows, its line of the index {len(entry['times'])}; "
                "remove it and compute them again"
            )
        values = values if "times" in entry else values.mean(0, keepdims=True)
        rows.append(values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12))
        names += _names(entry)
        owners += [entry["video"]] * len(values)
    return names, owners, np.concatenate(rows) if rows else np.empty((0, 1), np.float32), known


def _names(entry: Entry) -> Iterator[str]:
    if "times" not in entry:
        yield entry["video"]
    for start, end in entry.get("times", []):
        yield f"{entry['video']} {clock(start)}-{clock(end)}"


def _duplicates(names: list[str], owners: list[str], rows: np.ndarray, threshold: float) -> Iterator[Pair]:
    numbers = {owner: number for number, owner in enumerate(dict.fromkeys(owners))}
    owner = np.array([numbers[name] for name in owners])
    for begin in range(0, len(rows), ROWS):
        similar = rows[begin : begin + ROWS] @ rows[begin:].T
        for i, j in zip(*np.nonzero(similar >= threshold - ROUNDING)):
            if i < j and owner[begin + i] != owner[begin + j]:
                yield _pair(names, owners, begin + i, begin + j, similar[i, j])


def _pair(names: list[str], owners: list[str], i: int, j: int, similarity: float) -> Pair:
    splits = _split(owners[i]), _split(owners[j])
    across = (splits[0], splits[1]) if splits[0] and splits[1] and splits[0] != splits[1] else None
    return Pair(names[i], names[j], round(float(similarity), 4), across)


def _split(path: str) -> str:
    """The split that a folder in a path is named after; empty if there is none."""
    return next((split for part in reversed(path.split(os.sep)[:-1]) if (split := split_of(part))), "")
