"""Differences over seeds, their intervals, and the rule by which they become a verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

from scipy import stats

Verdict = Literal["shown", "contradicted", "not shown", "not run"]

CONFIDENCE = 0.95

LEARNED = 90.0
"""Top-1 of its training clips in percent from which on an arm counts as trained."""

RISING = 1.0
"""Points: the training accuracy was still rising if its mean over the last fifth of the epochs is so far above that of
the fifth before."""

HALF = 50.0
"""Top-1 of the training clips in percent whose first epoch is reported."""

RULE = (
    "Each comparison is the mean over seeds of the difference between two trainings of the same seed, with its "
    f"{100 * CONFIDENCE:.0f} % interval by Student's t (n − 1 degrees of freedom). It holds if the interval lies "
    "above zero, or above the margin that is named with it. A claim is **shown** if every comparison holds; it is "
    "**contradicted** if the interval of one with a baseline, which is what the paper compares with, lies below "
    "(with a wider interval if there are several baselines, by Bonferroni's correction); else it is **not shown**, "
    "which does not mean that it is wrong. Intervals cover what chance does in training, on the same test clips, not "
    "what other clips would change. Nothing is corrected for the number of claims."
)


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over seeds and its interval, in which the mean over all seeds lies with :data:`CONFIDENCE`.

    Attributes:
        mean: over the seeds.
        error: its standard error.
        seeds: how many.
    """

    mean: float
    error: float
    seeds: int

    @property
    def low(self) -> float:
        return self.mean - self.half()

    @property
    def high(self) -> float:
        return self.mean + self.half()

    def half(self, tests: int = 1) -> float:
        """Half of the interval's width; of so many intervals that all of them hold with :data:`CONFIDENCE`."""
        return float(stats.t.ppf(1 - (1 - CONFIDENCE) / (2 * tests), self.seeds - 1) * self.error)

    def text(self, digits: int = 1) -> str:
        """``+2.3 (-9.0 to +13.7)``."""
        return f"{self.mean:+.{digits}f} ({self.low:+.{digits}f} to {self.high:+.{digits}f})"


def interval(differences: Sequence[float]) -> Interval | None:
    """The mean of the differences of pairs and its t interval; None for fewer than two, of which no spread is known."""
    n = len(differences)
    if n < 2:
        return None
    return Interval(fmean(differences), stdev(differences) / math.sqrt(n), n)


def verdict(comparisons: Sequence[tuple[Literal["baseline", "control"], Interval | None]]) -> Verdict:
    """The rule of :data:`RULE`; ``not run`` if a comparison has no interval yet."""
    intervals = [(kind, of_one) for kind, of_one in comparisons if of_one is not None]
    if len(intervals) < len(comparisons) or not intervals:
        return "not run"
    baselines = [of_one for kind, of_one in intervals if kind == "baseline"]
    if any(of_one.mean + of_one.half(len(baselines)) < 0 for of_one in baselines):
        return "contradicted"
    return "shown" if all(of_one.low > 0 for _, of_one in intervals) else "not shown"


@dataclass(frozen=True, slots=True)
class Learning:
    """How well a training has learned its training clips.

    Attributes:
        final: top-1 of the training clips in the last epoch, in percent.
        rising: whether it was still rising, see :data:`RISING`.
        half: the first epoch, counted from 1, above :data:`HALF`; None if there is none.
    """

    final: float
    rising: bool
    half: int | None


def learning(curve: Sequence[float]) -> Learning | None:
    """From the top-1 of the training clips in each epoch; None without any."""
    if not curve:
        return None
    width = max(len(curve) // 5, 1)
    last, before = curve[-width:], curve[-2 * width : -width]
    half = next((epoch for epoch, top1 in enumerate(curve, 1) if top1 > HALF), None)
    return Learning(curve[-1], bool(before) and fmean(last) - fmean(before) > RISING, half)
