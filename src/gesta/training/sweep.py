"""Accuracy over the values of one field of a recipe: a training for each value and seed, and a table of the results.

:mod:`gesta.analysis.sweep_chart` draws it. Fig. 5 of Y. Wang's ST-MANet (ComSIS 21(4), 2024) is three of them: both
weights of its losses and the learning rate.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from gesta.checkpoint import load_state, read_metadata
from gesta.config import check, copy, format_value, leaves, suggest, to_json
from gesta.errors import GestaError
from gesta.evaluation.metrics import METRICS, headline
from gesta.evaluation.result import Result
from gesta.files import lock_folder, write_text
from gesta.processes import is_first_process, make_fabric
from gesta.progress import plain_text, show
from gesta.recipe import Recipe
from gesta.records import SPLITS, by_space, list_hash
from gesta.training.finished import MAY_DIFFER
from gesta.training.folder import BEST, LAST, derive_rates, fit_classes, may_change, recipe_changes, videos_hash
from gesta.training.loop import train


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One training of a sweep.

    Attributes:
        value: of the field.
        seed: of the training.
        run: its folder.
        top1: percent, of the result; None if it failed.
        failure: why, in a sentence; empty if it did not fail.
    """

    value: Any
    seed: int
    run: str
    top1: float | None = None
    failure: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """The results of :func:`sweep`; ``print`` shows them as a table.

    Attributes:
        recipe: its name.
        field: dotted name of what varies.
        default: the recipe's own value.
        values: in the order given.
        seeds: of the trainings of each value.
        protocol: what was scored and how, in words; of the first run that finished.
        metric: what ``top1`` of the trials is called; ``mAP`` of multi-label data.
        trials: those that are done so far, value by value.
    """

    recipe: str
    field: str
    default: Any
    values: list[Any]
    seeds: list[int]
    protocol: str = ""
    metric: str = METRICS["top1"]
    trials: list[Trial] = dataclasses.field(default_factory=list)

    def accuracies(self, value: Any) -> list[float]:
        """Top-1 of the trainings with this value that finished."""
        return [t.top1 for t in self.trials if t.value == value and t.top1 is not None]

    def to_json(self) -> dict[str, Any]:
        """All fields; ``std`` is the sample's, None for a single training."""
        points = []
        for value in self.values:
            top1 = self.accuracies(value)
            points.append(
                {
                    "value": to_json(value),
                    "top1": top1,
                    "mean": statistics.fmean(top1) if top1 else None,
                    "std": statistics.stdev(top1) if len(top1) > 1 else None,
                    "runs": [
                        {"seed": t.seed, "run": t.run, "top1": t.top1, "failure": t.failure or None}
                        for t in self.trials
                        if t.value == value
                    ],
                }
            )
        return {
            "recipe": self.recipe,
            "field": self.field,
            "default": to_json(self.default),
            "seeds": self.seeds,
            "protocol": self.protocol,
            "metric": self.metric,
            "points": points,
        }

    def __str__(self) -> str:
        from rich.table import Table  # start-up time

        table = Table()
        table.add_column(self.field, justify="right")
        for seed in self.seeds:
            table.add_column(f"seed {seed}", justify="right")
        if len(self.seeds) > 1:
            table.add_column("mean ± std", justify="right")
        trials = {(str(t.value), t.seed): t for t in self.trials}
        for value in self.values:
            row = [trials.get((str(value), seed)) for seed in self.seeds]
            cells = ["" if t is None else "failed" if t.top1 is None else f"{t.top1:.2f}" for t in row]
            top1 = self.accuracies(value)
            spread = f" ± {statistics.stdev(top1):.2f}" if len(top1) > 1 else ""
            mean = [f"{statistics.fmean(top1):.2f}{spread}" if top1 else ""] * (len(self.seeds) > 1)
            table.add_row(format_value(value) + " (recipe)" * (value == self.default), *cells, *mean)
        failures = [f"{format_value(t.value)}, seed {t.seed}: {t.failure}" for t in self.trials if t.failure]
        title = f"{self.recipe}: {self.metric} % over {self.field}"
        return plain_text(title, table, *[self.protocol] * bool(self.protocol), *failures)


def sweep(
    recipe: Recipe,
    field: str,
    values: Sequence[Any],
    *,
    seeds: Sequence[int] | None = None,
    out: Path | None = None,
    trust_code: bool = False,
    quiet: bool = False,
    device: str | torch.device = "auto",
    after_trial: Callable[[Sweep], object] | None = None,
) -> Sweep:
    """Train a recipe with each value of a field and each seed, and evaluate it.

    The folder holds a run folder for each training, and ``sweep.json``, written again after each training. Called a
    second time, it leaves finished runs alone and resumes those that were stopped. A training that fails, as at too
    great a learning rate, is noted, and the other trainings follow.

    Args:
        recipe: is not changed.
        field: dotted name of any field, ``train.lr``, ``model.inserts.0.layer.scale``.
        values: of the type of the field.
        seeds: of the trainings of each value; None for the recipe's own.
        out: the folder; None for :func:`default_folder`.
        trust_code: allow recipes that name classes outside gesta.
        quiet: show nothing but the progress of evaluations.
        device: as of :func:`gesta.training.loop.train`.
        after_trial: called in the first process after each training with the results so far, e.g. to draw them.

    Raises:
        GestaError: no such field, a value twice, a value of which no model can be built, no held-out videos, a folder
            that holds such a run of another recipe or data set.
        SystemExit: with status 130 after an interruption; what was done before it is kept.
    """
    name = field_name(recipe, field)
    seeds = [recipe.train.seed] if seeds is None else list(seeds)
    if name == "train.seed" and seeds != [recipe.train.seed]:
        raise GestaError("the seeds are what varies; give them as values, without --seeds")
    out = default_folder(recipe, name) if out is None else out
    make_fabric(recipe.train.precision, device)  # refuses what no training could run on
    plan = _plan(recipe, name, values, seeds, out)
    result = Sweep(
        recipe=recipe.name,
        field=name,
        default=value_at(recipe, name),
        values=list(values),
        seeds=[plan[0].recipe.train.seed] if name == "train.seed" else seeds,
        metric=METRICS["mAP" if plan[0].recipe.model.multi_label else "top1"],
    )
    with lock_folder(out) if is_first_process() else contextlib.nullcontext():
        for number, planned in enumerate(plan, 1):
            title = f"[{number}/{len(plan)}] {name} {format_value(planned.value)}"
            trial, protocol = _run_trial(planned, title, trust_code, quiet, device)
            result = dataclasses.replace(result, trials=[*result.trials, trial], protocol=result.protocol or protocol)
            if is_first_process():
                write_text(out / "sweep.json", json.dumps(result.to_json(), indent=2) + "\n")
                if after_trial is not None:
                    after_trial(result)
    return result


def _run_trial(
    planned: _Planned, title: str, trust_code: bool, quiet: bool, device: str | torch.device
) -> tuple[Trial, str]:
    """Train and evaluate once, unless that is done already.

    Returns:
        The trial, and what was scored and how (empty if the training failed).
    """

    def say(text: str) -> None:
        if not quiet and is_first_process():
            show(text, sys.stderr)

    seed, run = planned.recipe.train.seed, planned.run
    say(f"{title}, seed {seed}: {run}")
    trial = Trial(value=planned.value, seed=seed, run=str(run))
    if not (run / "result.json").is_file():
        try:
            how: dict[str, Any] = {"trust_code": trust_code, "quiet": quiet, "device": device}
            train(planned.recipe, run, resume=run.is_dir(), **how)
        except GestaError as error:
            trial = dataclasses.replace(trial, failure=str(error))
            say(f"failed: {error}")
        except SystemExit:
            say("the same command resumes this sweep")
            raise
    if not (run / "result.json").is_file():
        return trial, ""
    result = Result.read(run / "result.json")
    return dataclasses.replace(trial, top1=headline(result.metrics)), _protocol(result)


def default_folder(recipe: Recipe, name: str) -> Path:
    """Where a sweep over the field ``name`` goes if no folder is given: ``runs/RECIPE-sweep-FIELD``."""
    return Path("runs") / f"{recipe.name}-sweep-{name}"


def field_name(recipe: Recipe, field: str) -> str:
    """The dotted name of a field, from what the user wrote: flags may have hyphens.

    Raises:
        GestaError: no such field.
    """
    name, known = field.removeprefix("--").replace("-", "_"), list(leaves(recipe))
    if name not in known:
        raise GestaError(
            f"{recipe.name} has no field {field!r}{suggest(name, known)} (all: gesta show RECIPE prints them)"
        )
    return name


def value_at(recipe: Recipe, name: str) -> Any:
    """The value of a field by its dotted name."""
    return leaves(recipe)[name]


def with_value(recipe: Recipe, name: str, value: Any) -> Recipe:
    """A copy of the recipe with one field changed."""
    changed: Any = copy(recipe)
    *path, last = name.split(".")
    owner = changed
    for part in path:
        owner = owner[int(part)] if isinstance(owner, list) else getattr(owner, part)
    setattr(owner, last, copy(value))
    return changed


class _Planned(NamedTuple):
    """One training that a sweep will do: the value, the whole recipe, the run folder."""

    value: Any
    recipe: Recipe
    run: Path


def _plan(recipe: Recipe, name: str, values: Sequence[Any], seeds: Sequence[int], out: Path) -> list[_Planned]:
    """All trainings, checked before the first of them starts."""
    plan = []
    for value in values:
        for seed in seeds:
            variant = with_value(recipe, name, value)
            if name != "train.seed":
                variant.train.seed = seed
            check(variant, f"{name} {format_value(value)}")
            fit_classes(variant.model, variant.data, variant.data.classes())
            derive_rates(variant)
            folder = _folder(value) + (f"-seed{seed}" if name != "train.seed" else "")
            variant.name = f"{recipe.name}-{name}-{folder}" if name != "name" else variant.name
            plan.append(_Planned(value, variant, out / folder))
    folders = [planned.run for planned in plan]
    for run in folders:
        if folders.count(run) > 1:
            raise GestaError(f"two of the values or seeds have the folder {run.name}; give each of them once")
    hashes: dict[str, str] = {}
    for planned in plan:
        _check(planned, name, hashes)
    return plan


def _check(planned: _Planned, name: str, hashes: dict[str, str]) -> None:
    """Refuse a training that cannot be built or scored, or whose folder holds a run of another recipe or data set.

    ``hashes`` keeps those of the training videos by data set, since the files of a large one are slow to look at.
    """
    value, variant, run = planned
    try:
        with torch.device("meta"):
            variant.model.build()
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise GestaError(f"{name} {format_value(value)}: no model can be built with it ({error})") from None
    if not (variant.data.records("test") or variant.data.records("val")):
        raise GestaError("the data has no held-out videos, so there is no accuracy to compare (gesta data list)")
    if not (run / "recipe.json").is_file():
        return
    changes = recipe_changes(run, variant)
    refused = [text for field, text in changes.items() if not _is_irrelevant(field)]
    if refused:
        raise GestaError(
            f"{run}: was started with another recipe ({'; '.join(refused[:3])}); choose another folder with --out"
        )
    if other := _other_data(run, variant, hashes):
        raise GestaError(f"{run}: holds a run on a data set with other {other}; choose another folder with --out")


def _other_data(run: Path, recipe: Recipe, hashes: dict[str, str]) -> str:
    """In what the data of a run in the folder of a training differs from the recipe's; empty if it is the same.

    Fields that say where files lie are no difference of recipes (a data set may be moved), and may name another one;
    and a data set may have grown where it lies.
    """
    path, state, weights, data = run / "result.json", run / LAST, run / BEST, recipe.data
    if path.is_file():
        result = Result.read(path)
        if result.scores.classes != by_space(data.classes()):
            return "classes"
        for split in SPLITS:
            if split == result.protocol.split and result.list_hash != list_hash(data.records(split)):
                return f"{split} videos or labels"
    trained: str | None = None
    if state.is_file():
        trained = load_state(state).get("videos")
    elif weights.is_file():  # probes have no training state
        trained = read_metadata(weights).get("notes", {}).get("videos")
    if trained is not None:
        key = json.dumps(to_json(data), sort_keys=True)
        if key not in hashes:
            hashes[key] = videos_hash(data.records("train"))
        if trained != hashes[key]:
            return "training videos, or of other sizes"
    return ""


def _is_irrelevant(field: str) -> bool:
    """Whether a run in the folder of a training may differ from it in a field: it is resumed, with equal results."""
    return field in MAY_DIFFER and may_change(field)


def _folder(value: Any) -> str:
    """The name of the folder for a value."""
    return re.sub(r"[^\w.+-]+", "_", format_value(value)).strip("_") or "none"


def _protocol(result: Result) -> str:
    """What was scored and how, for the table and the chart."""
    data = f"{result.data['class'].rpartition(':')[2]}, " if result.data else ""
    how = result.protocol
    return f"{data}{how.split} split, {result.counts.labelled} videos, {how.views}; each run's best weights"
