"""What trainings gave: kept beside each run, and collected in a file of the repository.

An outcome belongs to an arm by *what* was trained, not by a name: the recipe with the settings of its set of videos and
the training that it started from, without the seed and without fields that change no result
(:data:`gesta.training.finished.MAY_DIFFER`). All of it is stored in full, so that a field that is added to gesta later
has its default value in old outcomes, as in every file of gesta, and one whose default changes makes them another
experiment's, which no arm takes.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict

from gesta.claims.claim import Arm, FusedArm, Value
from gesta.config import copy, from_json, read_json, reset_unused, to_json
from gesta.errors import GestaError
from gesta.files import write_text
from gesta.marionette.files import VERSION
from gesta.recipe import Recipe
from gesta.training.finished import MAY_DIFFER
from gesta.training.folder import derive_rates

OUTCOME = "claim.json"
"""File of an outcome in the folder of its run."""

FORMAT = 1
"""Version of both files."""

START = "the weights of another training"
"""Stands for ``init.weights`` in the description of an arm that starts from another."""

Key = tuple[str, int]
"""Digest of what was trained, and the seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one training (or the fusion of several) gave.

    Attributes:
        arm: its name when it was done.
        experiment: what was trained, see :func:`describe`.
        seed: of the training.
        training_accuracy: top-1 of the training clips in each epoch, percent; of fused ones the lowest of the parts.
        seconds: of the training, without its evaluation.
        device: where it was trained.
        metrics: name → value.
    """

    arm: str
    experiment: dict[str, Any]
    seed: int
    training_accuracy: list[float]
    seconds: float
    device: str
    metrics: dict[str, Value]

    @property
    def key(self) -> Key:
        return digest(self.experiment), self.seed

    def value(self, metric: str) -> float | None:
        """A number by the name of its metric, of a curve with the point on its axis (``sizes/96``); None if missing."""
        name, _, point = metric.partition("/")
        value = self.metrics.get(metric, self.metrics.get(name))
        if isinstance(value, dict):
            return value.get(point)
        return None if point and metric not in self.metrics else value


# --- what was trained ------------------------------------------------------------------------------------------------


@functools.cache
def describe(arm: Arm | FusedArm) -> dict[str, Any]:
    """All that the results of an arm depend on but the seed, as JSON."""
    if isinstance(arm, FusedArm):
        return {"parts": [[describe(part), offset] for part, offset in arm.parts], "by": arm.by}
    recipe = copy(arm.make())
    if arm.start is not None:
        recipe.init.weights = START
    derive_rates(recipe)
    reset_unused(recipe)
    made = None if arm.data is None else {"version": VERSION, **arm.data.settings}
    start = None if arm.start is None else describe(arm.start)
    return {"recipe": to_json(recipe), "data": made, "start": start, "start_seed": arm.start_seed}


def digest(experiment: Mapping[str, Any]) -> str:
    """A hash by which the outcomes of an experiment are found; empty for one that this version of gesta cannot read."""
    return _digest(json.dumps(experiment, sort_keys=True))


@functools.cache
def _digest(experiment: str) -> str:
    try:
        known = _comparable(json.loads(experiment))
    except GestaError:  # a field or class that is gone
        return ""
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]


def _comparable(experiment: Any) -> Any:
    """A description as this version of gesta reads it, without what changes no result."""
    if "parts" in experiment:
        return {**experiment, "parts": [[_comparable(part), offset] for part, offset in experiment["parts"]]}
    recipe: Recipe = from_json(experiment["recipe"], Recipe)
    reset_unused(recipe)
    start = experiment["start"] and _comparable(experiment["start"])
    return {**experiment, "recipe": _without(to_json(recipe), ""), "start": start}


def _without(value: Any, path: str) -> Any:
    if isinstance(value, dict):
        kept = {key: part for key, part in value.items() if f"{path}{key}" not in MAY_DIFFER}
        return {key: _without(part, f"{path}{key}.") for key, part in kept.items()}
    return value


# --- where they are kept ---------------------------------------------------------------------------------------------


class _Collected(TypedDict):
    format: int
    experiments: dict[str, dict[str, Any]]
    runs: list[dict[str, Any]]  # outcomes whose experiment is a key of the above


def write_outcome(folder: Path, outcome: Outcome) -> None:
    """Keep an outcome in the folder of its run, which is then finished."""
    write_text(folder / OUTCOME, json.dumps(asdict(outcome), indent=1) + "\n")


def read_outcome(folder: Path) -> Outcome:
    """The outcome in the folder of a finished run."""
    outcome: Outcome = read_json(folder / OUTCOME, Outcome, remedy="remove it, and the run is measured again")
    return outcome


def read_runs(folder: Path) -> dict[Key, tuple[Outcome, Path]]:
    """The finished runs in a folder, and where each is."""
    runs: dict[Key, tuple[Outcome, Path]] = {}
    for path in sorted(folder.glob(f"*/{OUTCOME}")):
        outcome = read_outcome(path.parent)
        runs[outcome.key] = outcome, path.parent
    return runs


def read_collected(path: Path) -> dict[Key, Outcome]:
    """The outcomes of a file that :func:`write_collected` wrote; none if there is no file."""
    if not path.exists():
        return {}
    remedy = "get it from the repository again"
    collected: _Collected = read_json(path, _Collected, remedy=remedy)
    if collected["format"] > FORMAT:
        raise GestaError(
            f"{path}: was written by a later version of gesta (format {collected['format']}); update gesta"
        )
    outcomes: dict[Key, Outcome] = {}
    for run in collected["runs"]:
        experiment = collected["experiments"].get(str(run.get("experiment")))
        if experiment is None:
            raise GestaError(f"{path}: names a run of an experiment that is not in it; {remedy}")
        outcome: Outcome = from_json({**run, "experiment": experiment}, Outcome, source=str(path), remedy=remedy)
        outcomes[outcome.key] = outcome
    return outcomes


def write_collected(path: Path, outcomes: Iterable[Outcome]) -> None:
    """Write outcomes into one file, a line for each, so that changes of it can be read."""
    ordered = sorted(outcomes, key=lambda outcome: (outcome.arm, outcome.key))
    experiments = {outcome.key[0]: outcome.experiment for outcome in ordered}
    runs = [{**asdict(outcome), "experiment": outcome.key[0]} for outcome in ordered]
    parts = [
        ",\n".join(f'  "{name}": {json.dumps(experiment)}' for name, experiment in sorted(experiments.items())),
        ",\n".join(f"  {json.dumps(run)}" for run in runs),
    ]
    text = f'{{\n "format": {FORMAT},\n "experiments": {{\n{parts[0]}\n }},\n "runs": [\n{parts[1]}\n ]\n}}\n'
    write_text(path, text)
