"""What a data set consists of, as ``gesta data list`` prints it."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from gesta.data.dataset import DataConfig, Record, SplitName

SPLITS: tuple[SplitName, ...] = ("train", "val", "test")


@dataclass
class Description:
    """What :func:`describe` tells: classes, records per class and split, and the first records of each split."""

    classes: list[str]
    counts: dict[str, list[int]]
    records: dict[str, list[Record]]

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values."""
        return asdict(self)

    def __str__(self) -> str:
        splits = [split for split in self.counts if self.records[split]]
        width = max([5, *(len(name) for name in self.classes)])
        head = f"{'class':>5}  {'name':<{width}}" + "".join(f"{split:>8}" for split in splits)
        lines = [head] + [
            f"{label:>5}  {name:<{width}}" + "".join(f"{self.counts[split][label]:>8}" for split in splits)
            for label, name in enumerate(self.classes)
        ]
        lines.append(f"{'':>5}  {'all':<{width}}" + "".join(f"{sum(self.counts[split]):>8}" for split in splits))
        for split in splits:
            lines += ["", f"{split}, the first of them:"]
            for record in self.records[split]:
                part = (
                    f"  frames {record.start or 0} to {record.end or 'the end'}" if record.start or record.end else ""
                )
                lines.append(f"  {record.label}  {record.path}{part}")
        return "\n".join(lines)


def describe(data: DataConfig, shown: int = 3) -> Description:
    """Splits, classes and the first ``shown`` records of each split; no video is opened."""
    classes = data.classes()
    records = {split: data.records(split) for split in SPLITS}
    counts: dict[str, list[int]] = {}
    for split, items in records.items():
        found = Counter(record.label for record in items if isinstance(record.label, int))
        counts[split] = [found[label] for label in range(len(classes))]
    return Description(classes, counts, {split: items[:shown] for split, items in records.items()})
