"""What a claim is: a statement of a paper, the trainings that test it, and what is compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from gesta.checkpoint import TrainedModel
from gesta.evaluation.fuse import By
from gesta.recipe import Recipe

Value = float | dict[str, float]
"""What is measured of a trained network: a number, or a curve, from the points on its axis to numbers."""

MOST_SEEDS = 100
"""Seeds of arms are below; arms that fuse further trainings take their seeds from here on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MarionetteSet:
    """A set of synthetic videos that arms are trained and tested on.

    :func:`gesta.claims.run.run_claims` makes it once, and claims share it.

    Attributes:
        name: of its folder.
        settings: arguments of :func:`gesta.marionette.dataset.make_set`, beside the folder.
    """

    name: str
    settings: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Arm:
    """A training of a claim, done with several seeds. Arms of several claims that train the same share their runs.

    Attributes:
        name: short, as tables and pictures show it.
        why: what it is compared for, in a sentence.
        make: the recipe; its seed, name and the root of its data are set for each run.
        is_control: it could refute the claim: what it has in common with the paper's network might explain a gain.
        data: what the recipe's ``data.root`` will be; None leaves the root that the recipe has.
        start: an arm from whose weights this one starts, trained before it; the recipe's ``init`` says how they are
            taken.
        start_seed: of that training; None takes the one of the same seed.
    """

    name: str
    why: str
    make: Callable[[], Recipe]
    is_control: bool = False
    data: MarionetteSet | None = None
    start: Arm | None = None
    start_seed: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class FusedArm:
    """Scores of several trainings on the same videos, put together; nothing is trained for it but its parts.

    Attributes:
        name, why, is_control: as of :class:`Arm`.
        parts: arms, and what is added to the seed: ``(rgb, 0), (rgb, 100)`` are two trainings that no other seed has.
        by: how they are fused, see :func:`gesta.evaluation.fuse.fuse`.
    """

    name: str
    why: str
    parts: tuple[tuple[Arm, int], ...]
    by: By = "prob_mean"
    is_control: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """Something that is measured of a trained network.

    Attributes:
        name: under which its values are kept; one whose definition changes needs a new name, or old values stay.
        title: for tables and pictures.
        measure: called with the network, its recipe and the device; None for what the result of every training holds
            (``top1``; ``attribute/order`` of objects).
        axis: what the points of a curve differ in; empty for a number.
        arms: of which it is measured; empty for all.
        unit: of the values; empty for correlations, cosines and shares.
    """

    name: str
    title: str
    measure: Callable[[TrainedModel, Recipe, torch.device], Value] | None = None
    axis: str = ""
    arms: tuple[str, ...] = ()
    unit: str = "%"

    @property
    def heading(self) -> str:
        """The title with the unit."""
        return f"{self.title}, {self.unit}" if self.unit else self.title

    @property
    def digits(self) -> int:
        """Decimals that tables show."""
        return 1 if self.unit else 2


TOP1 = Metric(name="top1", title="top-1 on the test clips")


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A difference that a claim predicts to be above zero.

    Attributes:
        better: an arm.
        worse: another; None compares ``better``'s own value with zero (a correlation).
        metric: its name; ``displaced/8`` is the point 8 of a curve.
        kind: ``baseline`` is what the paper compares with, a ``control`` is ours. A claim is contradicted by its
            baselines alone.
        margin: what ``better`` may lose, for claims that something costs little; below zero, what it has to gain.
        relative_to: another metric, which is subtracted from ``metric`` in both arms, so that what they lose by a
            change is compared, not how good they are (``strides/3`` relative to ``strides/4``).
    """

    better: str
    worse: str | None
    metric: str = "top1"
    kind: Literal["baseline", "control"] = "baseline"
    margin: float = 0.0
    relative_to: str = ""

    def __str__(self) -> str:
        than = "zero" if self.worse is None else self.worse
        margin = f" {'−' if self.margin > 0 else '+'} {abs(self.margin):g}" if self.margin else ""
        metric = f"{self.metric} − {self.relative_to}" if self.relative_to else self.metric
        return f"{self.better} > {than}{margin}" + (f" ({metric})" if metric != "top1" else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A statement of a paper and the experiment that tests it.

    Attributes:
        name: ``stan.viewpoint``, the system first.
        statement: what the paper says, in a sentence.
        source: paper and section.
        experiment: what is trained and tested here, and how it differs from the paper's, in some sentences.
        arms: the trainings.
        comparisons: all have to be above zero for the claim to be shown.
        metrics: the first is what the picture shows of each arm.
        series: name → arms that lie on an axis, as (position, arm): the picture draws each series as a curve of the
            first metric.
        series_axis: what the positions are.
        learn_more: what would be needed to know more.
        minutes: of one training and its metrics, on one CPU core, as estimated before any was done.
        seeds: trainings of each arm, of the seeds from 0.
    """

    name: str
    statement: str
    source: str
    experiment: str
    arms: tuple[Arm | FusedArm, ...]
    comparisons: tuple[Comparison, ...]
    metrics: tuple[Metric, ...] = (TOP1,)
    learn_more: str
    minutes: float
    seeds: int = 5
    series: Mapping[str, tuple[tuple[float, str], ...]] = field(default_factory=dict)
    series_axis: str = ""

    def __post_init__(self) -> None:
        names = [arm.name for arm in self.arms]
        metrics = {metric.name for metric in self.metrics}
        for comparison in self.comparisons:
            unknown = {comparison.better, comparison.worse or comparison.better} - set(names)
            assert not unknown, f"{self.name} compares {unknown}, which is none of its arms"
            for metric in filter(None, (comparison.metric, comparison.relative_to)):
                assert {metric, metric.partition("/")[0]} & metrics, f"{self.name} does not measure {metric}"
        for of_series in self.series.values():
            assert {arm for _, arm in of_series} <= set(names), f"{self.name} draws an arm that it does not have"
        assert len(set(names)) == len(names), f"{self.name} has two arms of one name"


def required(arm: Arm | FusedArm, seed: int) -> list[tuple[Arm, int]]:
    """The trainings that have to be done before an arm's of this seed: parts to be fused, or the one it starts from."""
    if isinstance(arm, FusedArm):
        return [(part, seed + offset) for part, offset in arm.parts]
    if arm.start is None:
        return []
    return [(arm.start, seed if arm.start_seed is None else arm.start_seed)]
