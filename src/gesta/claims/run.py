"""Doing the trainings of claims: which are missing, one after the other, in as many processes as are started.

The folder holds a run folder for each training, named by a digest of what is trained and the seed, and the sets of
videos::

    <out>/data/<set>/…
    <out>/<arm>-<digest>-<seed>/            a run folder; ``claim.json`` in it says that it is finished, and its values
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
import time
import traceback
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from gesta.checkpoint import load
from gesta.claims.claim import MOST_SEEDS, Arm, Claim, FusedArm, MarionetteSet, Metric, Value, required
from gesta.claims.outcomes import OUTCOME, Key, Outcome, describe, digest, read_outcome, read_runs, write_outcome
from gesta.data.parts import Part
from gesta.errors import FolderInUse, GestaError
from gesta.evaluation.fuse import fuse
from gesta.evaluation.result import Result
from gesta.files import lock_folder, make_folder, remove
from gesta.marionette.dataset import make_set
from gesta.processes import choose_device, describe_device
from gesta.progress import show
from gesta.recipe import Recipe
from gesta.recipes.address import read_recipe
from gesta.training.folder import BEST, LAST
from gesta.training.loop import train


@dataclass(slots=True)
class Trainings:
    """What :func:`run_claims` did.

    Attributes:
        done: names of the runs that were trained or measured now.
        kept: how many were finished before.
        in_use: names of those that another process is doing, or that need one which it is doing.
        failed: name → why.
    """

    done: list[str] = field(default_factory=list)
    kept: int = 0
    in_use: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = [f"{len(self.done)} done", f"{self.kept} finished before"]
        parts += [f"{len(self.in_use)} left to another process"] * bool(self.in_use)
        return "\n".join([", ".join(parts), *(f"failed: {name}: {why}" for name, why in self.failed.items())])


@dataclass(frozen=True, slots=True)
class Unit:
    """A training, or a fusion of several.

    Attributes:
        metrics: what the claims of now need of it.
        others: what others need of it: measured when it is trained, so that a training that replaces one of another
            folder has all that the claims had of that one.
    """

    arm: Arm | FusedArm
    seed: int
    metrics: tuple[Metric, ...] = ()
    others: tuple[Metric, ...] = ()

    @property
    def key(self) -> Key:
        return digest(describe(self.arm)), self.seed

    @property
    def name(self) -> str:
        """Of its folder."""
        experiment, seed = self.key
        return f"{re.sub(r'[^a-z0-9]+', '-', self.arm.name.lower()).strip('-')}-{experiment[:8]}-{seed}"

    def lacks(self, outcome: Outcome, others: bool = False) -> list[Metric]:
        """Metrics that were not measured when it was done."""
        metrics = (*self.metrics, *self.others) if others else self.metrics
        return [metric for metric in metrics if metric.measure and metric.name not in outcome.metrics]


def plan(claims: Sequence[Claim], seeds: int | None = None, others: Collection[Claim] = ()) -> list[Unit]:
    """The units of claims, all arms of the first seed first; what claims share occurs once.

    Args:
        claims: in the order of their importance.
        seeds: trainings of each arm; None for as many as each claim needs.
        others: claims of whose arms nothing is done, but which may share some.

    Raises:
        GestaError: more seeds than :data:`~gesta.claims.claim.MOST_SEEDS`, of which no outcome would be counted.
    """
    if seeds is not None and seeds > MOST_SEEDS:
        raise GestaError(f"--seeds {seeds}: claims count the outcomes of {MOST_SEEDS} seeds; give no more")
    metrics: dict[Key, dict[str, Metric]] = {}
    units: dict[Key, Unit] = {}
    for seed in range(MOST_SEEDS):
        for claim in claims:
            if seed >= (claim.seeds if seeds is None else seeds):
                continue
            for arm in claim.arms:
                unit = Unit(arm, seed)
                units.setdefault(unit.key, unit)
                metrics.setdefault(unit.key, {}).update(_metrics(claim, arm))
    shared: dict[str, dict[str, Metric]] = {}
    for claim in others:
        for arm in claim.arms:
            shared.setdefault(digest(describe(arm)), {}).update(_metrics(claim, arm))
    made = []
    for key, unit in units.items():
        further = {name: m for name, m in shared.get(key[0], {}).items() if name not in metrics[key]}
        made.append(replace(unit, metrics=tuple(metrics[key].values()), others=tuple(further.values())))
    return made


def _metrics(claim: Claim, arm: Arm | FusedArm) -> dict[str, Metric]:
    """What a claim measures of an arm, by name."""
    if isinstance(arm, FusedArm):
        return {}
    return {metric.name: metric for metric in claim.metrics if not metric.arms or arm.name in metric.arms}


def run_claims(
    claims: Sequence[Claim],
    out: Path,
    *,
    seeds: int | None = None,
    device: str | torch.device = "auto",
    part: tuple[int, int] = (1, 1),
    known: Mapping[Key, Outcome] | None = None,
    others: Collection[Claim] = (),
) -> Trainings:
    """Do the trainings that claims lack, and measure what is not measured yet.

    Finished runs are kept, stopped ones resume, a run that another process is doing is left to it, and one that fails
    does not end the others.

    Args:
        claims: whose arms are trained.
        out: folder of all runs and sets of videos.
        seeds: trainings of each arm; None for as many as each claim needs.
        device: as of :func:`gesta.training.loop.train`.
        part: ``(1, 2)`` does one half of the trainings, for one of two machines or processes.
        known: outcomes of other folders or machines, which are not done again.
        others: claims that may share arms with these; what is trained is measured for them, too.

    Raises:
        GestaError: a device that is not there, or a part that does not exist.
        SystemExit: with status 130 after an interruption; the same call continues.
    """
    number, parts = part
    if not 1 <= number <= parts:
        raise GestaError(f"--part {number}/{parts}: there is no such part; give 1/{parts} to {parts}/{parts}")
    worker = _Worker(out, choose_device(device))
    units, roots = plan(claims, seeds, others), dict[Key, int]()
    for unit in units:
        roots.setdefault(_root(unit.arm, unit.seed), len(roots))
    mine = [unit for unit in units if roots[_root(unit.arm, unit.seed)] % parts == number - 1]
    report, in_use = Trainings(), mine
    for _ in range(2):  # what another process was doing may be done by now
        worker.runs.update(read_runs(make_folder(out)))
        in_use, pending = [], in_use
        for unit in pending:
            outcome = worker.runs[unit.key][0] if unit.key in worker.runs else (known or {}).get(unit.key)
            if outcome is not None and not unit.lacks(outcome):
                report.kept += unit.name not in worker.done
                continue
            try:
                worker.finish(unit)
            except FolderInUse:
                in_use.append(unit)
            except Exception as error:  # one broken run must not end the others
                if not isinstance(error, GestaError):
                    traceback.print_exc()
                report.failed[unit.name] = str(error) or type(error).__name__
                show(f"{unit.name}: failed: {report.failed[unit.name]}", sys.stderr)
    report.done, report.in_use = worker.done, [unit.name for unit in in_use]
    return report


def _root(arm: Arm | FusedArm, seed: int) -> Key:
    """The training that has to be done first of all; what depends on one training stays in one part."""
    before = required(arm, seed)
    return _root(*before[0]) if before else (digest(describe(arm)), seed)


@dataclass(frozen=True, slots=True)
class _Worker:
    """Does units in a folder, on a device.

    Attributes:
        runs: finished ones, and where each is; others may have finished more.
        failed: trainings that failed, and why: what requires one fails without trying it again.
        done: names of the runs that were trained or measured now.
    """

    out: Path
    device: torch.device
    runs: dict[Key, tuple[Outcome, Path]] = field(default_factory=dict)
    failed: dict[Key, str] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)

    def finish(self, unit: Unit) -> Path:
        """Do what is missing of a unit, and of the units that it requires; returns its folder.

        Raises:
            FolderInUse: another process is doing it.
            GestaError: and other exceptions of a training; it or one that it requires failed.
        """
        if unit.key in self.failed:
            raise GestaError(self.failed[unit.key])
        before = [self.finish(Unit(arm, seed)) for arm, seed in required(unit.arm, unit.seed)]
        folder = self.out / unit.name
        make_folder(folder / ".claim")  # a lock of its own: the training locks the folder itself
        with lock_folder(folder / ".claim"):
            finished = self.runs.get(unit.key)
            if finished is None and (folder / OUTCOME).is_file():  # by another process
                finished = read_outcome(folder), folder
            if finished is not None and not unit.lacks(finished[0]):
                return finished[1]
            if finished is not None:
                outcome, folder = finished
            elif isinstance(unit.arm, FusedArm):
                outcome = _fuse(unit.arm, unit.seed, before)
            else:
                outcome = self._train(unit, folder, before)
            missing = unit.lacks(outcome, others=finished is None)
            outcome = replace(outcome, metrics={**outcome.metrics, **self._measure(folder, missing)})
            write_outcome(folder, outcome)
            self.runs[unit.key] = outcome, folder
            self.done.append(unit.name)
            for name in (LAST, "previous.ckpt"):  # it is never resumed again
                remove(folder / name)
        if finished is None:
            _say(unit, outcome)
        return folder

    def _train(self, unit: Unit, folder: Path, before: Sequence[Path]) -> Outcome:
        arm, seed = unit.arm, unit.seed
        assert isinstance(arm, Arm)
        recipe = arm.make()
        recipe.name, recipe.train.seed, recipe.train.logger = folder.name, seed, ()
        if arm.data is not None:
            data = recipe.data
            while isinstance(data, Part):  # the data set whose labels are left out
                data = data.of
            data.root = str(_made(arm.data, self.out))  # type: ignore[attr-defined]
        if before:
            recipe.init.weights = str(before[0] / BEST)
        try:
            if (folder / LAST).is_file() or not (folder / BEST).is_file():  # else trained, and only measured again
                train(recipe, folder, resume=True, quiet=True, device=self.device)
        except Exception as error:
            self.failed[unit.key] = str(error) or type(error).__name__
            raise
        lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        epochs = [line for line in lines if line["kind"] == "epoch"]
        curve = [round(top1, 2) for epoch in epochs if (top1 := epoch.get("train_top1")) is not None]
        metrics: dict[str, Value] = {}
        if (folder / "result.json").is_file():
            metrics |= _accuracies(Result.read(folder / "result.json"))
        return Outcome(
            arm=arm.name,
            experiment=describe(arm),
            seed=seed,
            training_accuracy=curve,
            seconds=round(sum(epoch["seconds"] for epoch in epochs), 1),
            device=describe_device(self.device),
            metrics=metrics,
        )

    def _measure(self, folder: Path, metrics: Sequence[Metric]) -> dict[str, Value]:
        """Metrics of the run in a folder."""
        if not metrics:
            return {}
        trained, recipe = load(folder, device=self.device), read_recipe(folder / "recipe.json")
        return {metric.name: _rounded(metric, trained, recipe, self.device) for metric in metrics}


def _rounded(metric: Metric, trained: object, recipe: Recipe, device: torch.device) -> Value:
    assert metric.measure is not None
    value = metric.measure(trained, recipe, device)  # type: ignore[arg-type]
    return {k: round(v, 4) for k, v in value.items()} if isinstance(value, dict) else round(value, 4)


def _accuracies(result: Result) -> dict[str, Value]:
    """Top-1 or mAP, by label space, and of attributes such as ``order``."""
    others = re.compile(r"(^|/)(top5|mean_class|macro_.*)$|_scored$")
    return {name: round(value, 4) for name, value in result.metrics.items() if not others.search(name)}


def _fuse(arm: FusedArm, seed: int, parts: Sequence[Path]) -> Outcome:
    """The fused scores of finished runs."""
    outcomes = [read_outcome(part) for part in parts]
    curves = [outcome.training_accuracy for outcome in outcomes]
    return Outcome(
        arm=arm.name,
        experiment=describe(arm),
        seed=seed,
        training_accuracy=[min(values) for values in zip(*curves)],
        seconds=0.0,
        device=outcomes[0].device,
        metrics=_accuracies(fuse([Result.read(part / "result.json") for part in parts], arm.by)),
    )


def _made(of: MarionetteSet, out: Path) -> Path:
    """The folder of a set, which is made unless it is there; another process may be making it."""
    root = out / "data" / of.name
    for _ in _patiently(root):
        with contextlib.suppress(FolderInUse):
            make_set(root, **of.settings)
            break
    return root.resolve()


def _patiently(folder: Path) -> Iterator[None]:
    """Again and again, with a pause between, while another process makes a folder."""
    yield
    show(f"{folder}: another process is making it; waiting", sys.stderr)
    while True:
        time.sleep(2)
        yield


def _say(unit: Unit, outcome: Outcome) -> None:
    top1, curve = outcome.value("top1"), outcome.training_accuracy
    tested = "" if top1 is None else f", top-1 {top1:.1f} %"
    trained = f", training clips {curve[-1]:.1f} %" if curve else ""
    show(f"{unit.name}: {outcome.seconds:.0f} s{trained}{tested}", sys.stderr)
