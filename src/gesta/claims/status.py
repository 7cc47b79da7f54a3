"""The status of a claim: its outcomes, the verdict that follows from them, and which trainings are missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from gesta.claims.claim import MOST_SEEDS, Arm, Claim, Comparison, FusedArm, required
from gesta.claims.outcomes import Key, Outcome, describe, digest
from gesta.claims.statistics import LEARNED, Interval, Learning, Verdict, interval, learning, verdict
from gesta.progress import plain_text


@dataclass(frozen=True, slots=True)
class Status:
    """What is known of a claim so far.

    Attributes:
        claim: which.
        outcomes: by arm and seed.
        intervals: of each comparison over the seeds that both of its arms have, without its margin; None for fewer
            than two seeds.
        verdict: by the rule of :data:`gesta.claims.statistics.RULE`.
        done, needed: numbers of trainings; those that are shared with other claims count in each.
        minutes: of one CPU core that the missing trainings will take, estimated from those that are done.
    """

    claim: Claim
    outcomes: Mapping[str, Mapping[int, Outcome]]
    intervals: tuple[Interval | None, ...]
    verdict: Verdict
    done: int
    needed: int
    minutes: float

    def values(self, arm: str, metric: str) -> dict[int, float]:
        """A metric of an arm by seed."""
        values = {seed: outcome.value(metric) for seed, outcome in self.outcomes[arm].items()}
        return {seed: value for seed, value in sorted(values.items()) if value is not None}

    def learning(self, arm: str) -> list[Learning]:
        """How the trainings of an arm learned their training clips."""
        of_seeds = [learning(outcome.training_accuracy) for _, outcome in sorted(self.outcomes[arm].items())]
        return [of_one for of_one in of_seeds if of_one is not None]

    def with_margins(self) -> list[Interval | None]:
        """The intervals as they are judged: above zero says what the claim says."""
        pairs = zip(self.claim.comparisons, self.intervals)
        return [i and replace(i, mean=i.mean + comparison.margin) for comparison, i in pairs]

    def untrained(self) -> dict[str, tuple[float, bool]]:
        """The arms whose training accuracy is below :data:`LEARNED` on average over their seeds: that mean in percent,
        and whether it was still rising."""
        found = {}
        for arm in self.outcomes:
            of_seeds = self.learning(arm)
            if of_seeds and (mean := fmean(of_one.final for of_one in of_seeds)) < LEARNED:
                found[arm] = mean, sum(of_one.rising for of_one in of_seeds) > len(of_seeds) / 2
        return found

    def sentence(self, brief: bool = False) -> str:
        """The verdict with what limits it: the arms that learned little by name, or (``brief``) how many there are."""
        seeds = [of_one.seeds for of_one in self.intervals if of_one is not None]
        if self.verdict == "not run":
            return f"not run yet ({self.done} of {self.needed} trainings done)"
        finished = min(seeds) >= self.claim.seeds
        text = f"{'' if finished else 'so far '}{self.verdict}, {min(seeds)} seeds"
        text += "" if finished else f" of {self.claim.seeds}"
        if self.verdict != "shown" and (count := len(self.intervals)) > 1:
            above = sum(of_one is not None and of_one.low > 0 for of_one in self.with_margins())
            text += f"; {above} of {count} comparisons hold{'s' * (above == 1)}"
        if not (untrained := self.untrained()):
            return text
        if brief:
            lowest = min(mean for mean, _ in untrained.values())
            few = f"{len(untrained)} of {len(self.outcomes)} arms"
            return f"{text}; training accuracy of {few} below {LEARNED:.0f} %, the lowest {lowest:.0f} %"
        names = [
            f"{arm} ({mean:.1f} %, {'still' if up else 'no longer'} rising)" for arm, (mean, up) in untrained.items()
        ]
        return f"{text}; at this length of training, with training accuracies below {LEARNED:.0f} %: {', '.join(names)}"

    def to_json(self) -> dict[str, Any]:
        return {
            "claim": self.claim.name,
            "statement": self.claim.statement,
            "verdict": self.verdict,
            "remark": self.sentence(),
            "comparisons": [
                {"comparison": str(comparison), "mean": i and i.mean, "low": i and i.low, "high": i and i.high}
                for comparison, i in zip(self.claim.comparisons, self.intervals)
            ],
            "trainings": {"done": self.done, "needed": self.needed, "minutes_left": round(self.minutes, 1)},
        }


def status_of(claim: Claim, outcomes: Mapping[Key, Outcome]) -> Status:
    """The status of a claim by these outcomes; those of other experiments are not used."""
    of_arms: dict[str, dict[int, Outcome]] = {}
    for arm in claim.arms:
        experiment = digest(describe(arm))
        of_arms[arm.name] = {key[1]: o for key, o in outcomes.items() if key[0] == experiment and key[1] < MOST_SEEDS}
    intervals = tuple(_interval(comparison, of_arms) for comparison in claim.comparisons)
    needed = _trainings(claim)
    missing = [key for key in needed if key not in outcomes]
    minutes = sum(_minutes(claim, experiment, outcomes) for experiment, _ in missing)
    status = Status(claim, of_arms, intervals, "not run", len(needed) - len(missing), len(needed), minutes)
    kinds = [comparison.kind for comparison in claim.comparisons]
    return replace(status, verdict=verdict(list(zip(kinds, status.with_margins()))))


def used_by(claims: Sequence[Claim], outcomes: Mapping[Key, Outcome]) -> list[Outcome]:
    """The outcomes of what claims train and fuse; others are of experiments that were changed since."""
    fused = {digest(describe(arm)) for claim in claims for arm in claim.arms if isinstance(arm, FusedArm)}
    trained = {experiment for claim in claims for experiment, _ in _trainings(claim)}
    return [outcome for key, outcome in outcomes.items() if key[0] in fused | trained]


def _trainings(claim: Claim) -> set[Key]:
    """All that has to be trained for a claim, fusions not counted."""
    return {key for seed in range(claim.seeds) for arm in claim.arms for key in _needs(arm, seed)}


def _needs(arm: Arm | FusedArm, seed: int) -> set[Key]:
    own = {(digest(describe(arm)), seed)} if isinstance(arm, Arm) else set()
    return own.union(*(_needs(*before) for before in required(arm, seed)))


def _interval(comparison: Comparison, of_arms: Mapping[str, Mapping[int, Outcome]]) -> Interval | None:
    better = of_arms[comparison.better]
    worse = of_arms[comparison.worse] if comparison.worse is not None else None
    differences = []
    for seed, outcome in sorted(better.items()):
        value = _value(outcome, comparison)
        other = 0.0 if worse is None else _value(worse[seed], comparison) if seed in worse else None
        if value is not None and other is not None:
            differences.append(value - other)
    return interval(differences)


def _value(outcome: Outcome, comparison: Comparison) -> float | None:
    """What is compared of a training."""
    value = outcome.value(comparison.metric)
    less = outcome.value(comparison.relative_to) if comparison.relative_to else 0.0
    return None if value is None or less is None else value - less


def _minutes(claim: Claim, experiment: str, outcomes: Mapping[Key, Outcome]) -> float:
    """Of one training: the mean of those of the experiment that are done on a CPU, else the claim's estimate."""
    seconds = [o.seconds for key, o in outcomes.items() if key[0] == experiment and o.device.lower().startswith("cpu")]
    return fmean(seconds) / 60 if seconds else claim.minutes


@dataclass(frozen=True, slots=True)
class Overview:
    """The status of several claims; ``print`` shows a table."""

    statuses: Sequence[Status]

    def to_json(self) -> list[dict[str, Any]]:
        return [of_one.to_json() for of_one in self.statuses]

    def __str__(self) -> str:
        from rich.table import Table  # start-up time

        table = Table()
        for column in ("claim", "statement", "verdict", "trainings", "minutes left"):
            table.add_column(column, justify="right" if column in ("trainings", "minutes left") else "left")
        for s in self.statuses:
            done, minutes = f"{s.done} of {s.needed}", f"{s.minutes:.0f}"
            table.add_row(s.claim.name, s.claim.statement, s.sentence(brief=True), done, minutes)
        return plain_text(table, width=150)
