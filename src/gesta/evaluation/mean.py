"""The mean over official splits: UCF-101 and HMDB-51 are reported as that of three."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import fmean, stdev

from gesta.errors import GestaError
from gesta.evaluation.compare import compare
from gesta.evaluation.result import Result
from gesta.progress import join_lines

MAY_DIFFER = frozenset({"list", "device", "torch", "gesta", "data.split", "data.root", "data.annotations"})
"""Fields in which the results of several splits may differ; with any other difference their mean means nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean:
    """Metrics over several splits of a data set.

    Attributes:
        model: the model in words.
        names: the results; ``splits`` are their official splits, None where a data set does not number them.
        listed, failed: numbers of videos in all lists together.
        values: metric → percent in each result.
        mean, std: metric → over the results; the standard deviation is that of a sample (n - 1).
        warnings: why metrics are probably too good, or what else the results say against themselves; each once.
    """

    model: str
    names: list[str]
    splits: list[int | None]
    listed: int
    failed: int
    values: dict[str, list[float]]
    mean: dict[str, float]
    std: dict[str, float]
    warnings: list[str] = field(default_factory=list)

    to_json = asdict

    def __str__(self) -> str:
        columns = [f"split {s}" if s is not None else f"list {i + 1}" for i, s in enumerate(self.splits)]
        width = max(len(name) for name in ["percent", *self.values])
        lines = [f"{self.model}, mean of {len(self.names)} splits: {self.listed} videos, {self.failed} failed", ""]
        lines.append(f"{'percent':{width}}" + "".join(f"{column:>10}" for column in columns) + "    mean ± std")
        for name, values in self.values.items():
            if name.endswith("_scored") and not self.failed:
                continue  # the same numbers as without the ending
            of_splits = "".join(f"{value:10.2f}" for value in values)
            lines.append(f"{name:{width}}{of_splits}    {self.mean[name]:.2f} ± {self.std[name]:.2f}")
        lines += [f"warning: {warning}" for warning in self.warnings]
        return join_lines(lines)


def _split(result: Result) -> int | None:
    """The official split that a result is of, also of a part of its data set, such as some of the labels."""
    data = result.data or {}
    while isinstance(data.get("of"), dict):
        data = data["of"]
    return data.get("split")


def mean(results: Sequence[tuple[str, Result]]) -> Mean:
    """Metrics of one model and protocol over several splits.

    Args:
        results: two or more, with names for them.

    Raises:
        GestaError: fewer, one list of videos or one split twice, or results that differ in more than their split.
    """
    if len(results) < 2:
        raise GestaError("the mean over splits needs two results or more, one of each split")
    first_name, first = results[0]
    seen: dict[str, str] = {}
    by_split: dict[int, str] = {}
    for name, result in results:
        if result.list_hash in seen:
            raise GestaError(f"{seen[result.list_hash]} and {name} are of the same list of videos; give one per split")
        number = _split(result)
        if number is not None and (other := by_split.setdefault(number, name)) != name:
            raise GestaError(
                f"{other} and {name} are both of split {number}, though their lists differ; give one result per split, "
                "each of its whole list"
            )
        seen[result.list_hash] = name
        comparison = compare(first, result)
        for d in [*comparison.protocol, *(replace(d, field=f"model.{d.field}") for d in comparison.model)]:
            name_in_whole = re.sub(r"^data\.(of\.)+", "data.", d.field)  # what a part of a data set is taken of
            is_list = (
                name_in_whole in ("data.train", "data.val", "data.test")
                and isinstance(d.a, str)
                and isinstance(d.b, str)
            )
            if name_in_whole not in MAY_DIFFER and not is_list:
                raise GestaError(
                    f"{first_name} and {name} differ in more than their split: {d.field} is {d.a} and {d.b}; evaluate "
                    "both alike (gesta compare shows all differences)"
                )
    values = {m: [r.metrics[m] for _, r in results] for m in first.metrics if all(m in r.metrics for _, r in results)}
    if not values:
        raise GestaError("the results have no metric in common: their videos are not labelled")
    return Mean(
        model=first.model.summary,
        names=[name for name, _ in results],
        splits=[_split(result) for _, result in results],
        listed=sum(result.counts.listed for _, result in results),
        failed=sum(result.counts.failed for _, result in results),
        values=values,
        mean={metric: fmean(of_splits) for metric, of_splits in values.items()},
        std={metric: stdev(of_splits) for metric, of_splits in values.items()},
        warnings=list(dict.fromkeys(w for _, r in results for w in [*r.faults, *r.doubts])),
    )
