"""The mean over official splits: UCF-101 and HMDB-51 are reported as that of three."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from gesta.compare import compare
from gesta.errors import GestaError
from gesta.receipt import Receipt

FREE = frozenset({"list", "device", "torch", "gesta", "data.split", "data.root", "data.annotations"})
"""Fields in which the receipts of several splits may differ; every other one makes their mean one of nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean:
    """Metrics over several splits of a data set.

    Attributes:
        model: the model in words.
        names: the receipts; ``splits`` are their official splits, None where a data set does not number them.
        listed, failed: videos of all lists together.
        values: metric → percent in each receipt.
        mean, std: metric → over the receipts; the standard deviation is that of a sample (n - 1).
    """

    model: str
    names: list[str]
    splits: list[int | None]
    listed: int
    failed: int
    values: dict[str, list[float]]
    mean: dict[str, float]
    std: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def __str__(self) -> str:
        columns = [f"split {s}" if s is not None else f"list {i + 1}" for i, s in enumerate(self.splits)]
        wide = max(len(name) for name in ["percent", *self.values])
        lines = [f"{self.model}, mean of {len(self.names)} splits: {self.listed} videos, {self.failed} failed", ""]
        lines.append(f"{'percent':{wide}}" + "".join(f"{column:>10}" for column in columns) + "    mean ± std")
        for name, values in self.values.items():
            if name.endswith("_scored") and not self.failed:
                continue  # the same numbers again
            each = "".join(f"{value:10.2f}" for value in values)
            lines.append(f"{name:{wide}}{each}    {self.mean[name]:.2f} ± {self.std[name]:.2f}")
        return "\n".join(lines)


def mean(receipts: Sequence[tuple[str, Receipt]]) -> Mean:
    """Metrics of one model and protocol over several splits.

    Args:
        receipts: two or more, with names for them.

    Raises:
        GestaError: fewer, one list of videos twice, or receipts that differ in more than their split.
    """
    if len(receipts) < 2:
        raise GestaError("the mean over splits needs two receipts or more, one of each split")
    first_name, first = receipts[0]
    seen: dict[str, str] = {}
    for name, receipt in receipts:
        if receipt.list_hash in seen:
            raise GestaError(f"{seen[receipt.list_hash]} and {name} are of the same list of videos; give one per split")
        seen[receipt.list_hash] = name
        found = compare(first, receipt)
        for field, a, b in [*found.protocol, *(d._replace(field=f"model.{d.field}") for d in found.model)]:
            if field not in FREE:
                raise GestaError(
                    f"{first_name} and {name} differ in more than their split: {field} is {a} and {b}; evaluate both "
                    "alike (gesta compare shows all differences)"
                )
    values = {m: [r.metrics[m] for _, r in receipts] for m in first.metrics if all(m in r.metrics for _, r in receipts)}
    if not values:
        raise GestaError("the receipts have no metric in common: their videos are not labelled")
    return Mean(
        model=first.model,
        names=[name for name, _ in receipts],
        splits=[(receipt.data or {}).get("split") for _, receipt in receipts],
        listed=sum(receipt.listed for _, receipt in receipts),
        failed=sum(receipt.failed for _, receipt in receipts),
        values=values,
        mean={metric: fmean(each) for metric, each in values.items()},
        std={metric: stdev(each) for metric, each in values.items()},
    )
