"""Experiments as typed functions: one file per paper, each with its runs, its tables and its published numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from gesta.config import config
from gesta.data.dataset import DataConfig
from gesta.evaluate import EvaluateConfig
from gesta.model import ModelConfig
from gesta.train import TrainConfig


@config
class Init:
    """Weights to start from.

    Attributes:
        weights: a checkpoint of ours or a public one whose names the model knows; None starts from scratch.
        least: share of the model's parameters that must be found in it (the classifier not counted); fewer is an error.
    """

    weights: str | None = None
    least: float = 0.5


@config
class Recipe:
    """A whole experiment: what ``gesta train`` runs and a run folder keeps as ``recipe.json``.

    Attributes:
        name: the run folder's name under ``runs/``.
        paper: the source: authors, year, table.
    """

    name: str
    model: ModelConfig
    data: DataConfig
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    init: Init = field(default_factory=Init)
    paper: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of a paper's table: a recipe beside the paper's numbers (column → value)."""

    label: str
    published: dict[str, float]
    recipes: dict[str, Callable[..., Recipe]] = field(default_factory=dict)  # column → the run that measures it
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A paper's table: where it stands, its columns and its rows."""

    source: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


@config
class EvaluateJob:
    """What ``gesta evaluate`` scores and how: the fields its flags can change."""

    data: DataConfig
    evaluate: EvaluateConfig
