"""Finished runs: which results on the disk are those of a recipe, and in what a run differs from it.

A run is known by what was done, never by its folder's name: its ``recipe.json`` says how the weights were trained, each
result beside it what was scored, and how. All must be as the recipe says, except for :data:`MAY_DIFFER`.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import nn

from gesta.config import copy, from_json, read_json, reset_unused, to_json
from gesta.data.transforms import test_short_side
from gesta.errors import GestaError
from gesta.evaluation.evaluate import is_of
from gesta.evaluation.result import Summary, read_summary
from gesta.model import ModelConfig
from gesta.recipe import Recipe
from gesta.records import DataConfig
from gesta.training.folder import BEST, derive_rates, differences

MAY_DIFFER = (
    *("name", "paper"),  # words
    *("data.root", "data.annotations", "data.class_names", "data.test_labels"),  # where files lie
    "data.cache",
    "train.seed",  # results of several seeds are averaged
    *("train.workers", "train.decoder", "train.save_every_s", "train.accumulate", "train.compile"),  # how, not what
    "train.strategy",
    *("train.keep_best", "train.logger"),
    "probe.cache",
    *("model.activation_checkpointing", "evaluate.workers", "evaluate.decoder", "evaluate.batch_size"),
)
"""Fields in which a run may differ from a recipe and still be one of its runs; in ``train.accumulate`` only if its
model has no batch norms, which see the clips of one forward pass."""

OUTDATED = "weights"
"""The difference of a result that is a recipe's in all else, but of weights that the run has no longer."""

DEPTH = ("*", "*/*")
"""Where runs are: in the folder of runs, and in the folders of sweeps in it."""


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A run folder with a result in it.

    Attributes:
        folder: where it is.
        recipe: what was trained.
        summaries: its results by the names of their files, as far as they were read.
        outdated: of those files, as far as it was asked, whether they are of other weights than the run has now.
    """

    folder: Path
    recipe: Recipe
    summaries: dict[str, Summary] = field(default_factory=dict)
    outdated: dict[str, bool] = field(default_factory=dict)

    def training_differs(self, recipe: Recipe, any_start: bool = False) -> dict[str, str]:
        """Field → ``"field: the recipe's → the run's"``, of all that the weights depend on.

        Args:
            recipe: to compare with.
            any_start: where the paper starts from weights, a run that does not is taken for the same.
        """
        changes = differences(_comparable(recipe), _comparable(self.recipe))
        started = self.recipe.init.weights is not None
        start = {f"init.{name}" for name in ("weights", "average", "head", "min_matched", "expected")}
        changes = {n: text for n, text in changes.items() if n not in start and not n.startswith("evaluate.")}
        if recipe.init.expected and not started and not any_start:
            changes["init.weights"] = f"init.weights: {recipe.init.expected} → random weights"
        elif started and not recipe.init.expected:
            changes["init.weights"] = f"init.weights: random weights → {self.recipe.init.weights}"
        return {
            name: text
            for name, text in changes.items()
            if name not in MAY_DIFFER or (name == "train.accumulate" and _has_batch_norms(recipe.model))
        }

    def result_of(self, recipe: Recipe) -> tuple[str, dict[str, str]]:
        """The name of the result whose protocol is the recipe's; else an empty one, and in what the nearest differs.

        A result of other weights than those of the run is none of it: the run was resumed since then.

        Raises:
            GestaError: a result cannot be read.
        """
        nearest: dict[str, str] | None = None
        for path in [self.folder / "result.json", *sorted(self.folder.glob("result-*.json"))]:
            if not path.is_file():
                continue
            if path.name not in self.summaries:
                self.summaries[path.name] = read_summary(path)
            changes = _scoring_differs(self.summaries[path.name], recipe)
            if not changes and self._is_outdated(path.name):
                changes = {OUTDATED: f"{path.name} is of other weights than {BEST}; evaluate again"}
            if not changes:
                return path.name, {}
            nearest = changes if nearest is None or distance(changes) < distance(nearest) else nearest
        return "", nearest or {}

    def _is_outdated(self, name: str) -> bool:
        """Whether a result is of other weights than the run has now; not where these are no longer there."""
        weights = self.folder / BEST
        if name not in self.outdated:
            self.outdated[name] = weights.is_file() and not is_of(self.summaries[name].model, weights)
        return self.outdated[name]


def distance(differences: Mapping[str, str]) -> int:
    """In how many fields a run or a result differs from a recipe."""
    return len(differences.keys() - {OUTDATED})


def _comparable(given: Any) -> Any:
    """JSON of a recipe or a part of it, with what is derived when a training begins, and without what has no effect."""
    given = copy(given)
    if isinstance(given, Recipe):
        derive_rates(given)
    reset_unused(given)
    return to_json(given)


def _has_batch_norms(config: ModelConfig) -> bool:
    """Whether a model's training depends on how many clips a forward pass has."""
    with torch.device("meta"):
        return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in config.build().modules())


def _scoring_differs(summary: Summary, recipe: Recipe) -> dict[str, str]:
    """What was not scored, or not scored as the recipe says: model, data and protocol."""
    how, size = recipe.evaluate, recipe.model.clip.size
    wanted = {
        "model": _comparable(recipe.model),
        "data": _comparable(recipe.data),
        "evaluate": {
            **{name: getattr(how, name) for name in ("split", "crops", "coverage", "short_videos", "average")},
            "clips": None if how.coverage == "contiguous" else how.clips,
            "short_side": test_short_side(how.short_side, size),
        },
    }
    done = {
        "model": _comparable(from_json(summary.model.config, ModelConfig)) if "class" in summary.model.config else None,
        "data": summary.data and _comparable(from_json(summary.data, DataConfig)),
        "evaluate": {name: getattr(summary.protocol, name) for name in wanted["evaluate"]},
    }
    return {name: text for name, text in differences(wanted, done).items() if name not in MAY_DIFFER}


@dataclass(frozen=True, slots=True)
class Credit:
    """A result that counts for a recipe.

    Attributes:
        run: whose it is.
        file: its name in the run's folder.
    """

    run: FinishedRun
    file: str

    @property
    def path(self) -> Path:
        """Where the result is."""
        return self.run.folder / self.file

    @property
    def seed(self) -> int:
        """The seed of its training."""
        return self.run.recipe.train.seed

    @property
    def metrics(self) -> dict[str, float]:
        """Metric → value, as the result has them."""
        return self.run.summaries[self.file].metrics


def find_runs(folder: Path) -> tuple[list[FinishedRun], list[str]]:
    """All finished runs in a folder of runs, those of sweeps included, and sentences about what cannot be read."""
    runs, faults = [], []
    for path in sorted(path for pattern in DEPTH for path in folder.glob(f"{pattern}/recipe.json")):
        if not any(path.parent.glob("result*.json")) and not (path.parent / INFORMATION).is_file():
            continue
        try:
            recipe: Recipe = read_json(path, Recipe, remedy="it counts for no row of a table")
            runs.append(FinishedRun(path.parent, recipe))
        except GestaError as error:
            faults.append(str(error))
    return runs, faults


INFORMATION = "mutual_information.json"
"""What ``gesta analyse mi`` leaves in the folder of a run, see :class:`Information`."""


class Information(TypedDict):
    """Mutual information of neighbouring frames, in nats.

    Attributes:
        data, split, clips: of the videos that were measured.
        unaligned: between tokens at the same position, of the maps ``last`` and, of some, ``stem``.
        estimator, tau: how it was estimated.
    """

    data: dict[str, Any]
    split: str
    clips: int
    unaligned: dict[str, float]
    estimator: str
    tau: float | None


def credits_of(recipe: Recipe, runs: Sequence[FinishedRun], faults: list[str], any_start: bool = False) -> list[Credit]:
    """The results that count for a recipe, at most one of each run.

    Args:
        recipe: as a row of a table has it.
        runs: see :func:`find_runs`.
        faults: sentences about results that cannot be read are added to it.
        any_start: see :meth:`FinishedRun.training_differs`.
    """
    found = []
    for run in runs:
        if type(run.recipe.model) is not type(recipe.model) or run.training_differs(recipe, any_start):
            continue
        try:
            file, _ = run.result_of(recipe)
        except GestaError as error:
            faults += [str(error)] * (str(error) not in faults)
            continue
        if file:
            found.append(Credit(run, file))
    return found


@dataclass(frozen=True, slots=True)
class OverSeeds:
    """A number over the runs of several seeds: its mean, the deviation of a sample (None for one seed), the seeds."""

    mean: float
    std: float | None
    seeds: tuple[int, ...]


def over_seeds(values: Sequence[tuple[int, float]]) -> OverSeeds | None:
    """Mean and deviation of numbers with their seeds; those of one seed count as one, their mean."""
    by_seed: dict[int, list[float]] = defaultdict(list)
    for seed, value in values:
        by_seed[seed].append(value)
    means = [statistics.fmean(of_seed) for of_seed in by_seed.values()]
    if not means:
        return None
    return OverSeeds(
        statistics.fmean(means), statistics.stdev(means) if len(means) > 1 else None, tuple(sorted(by_seed))
    )


def by_seed(credits: Sequence[Credit]) -> Mapping[int, Credit]:
    """One result of each seed, the first."""
    return {credit.seed: credit for credit in reversed(credits)}
