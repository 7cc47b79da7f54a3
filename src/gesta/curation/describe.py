"""What a data set consists of, as ``gesta data list`` prints it."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass

from gesta.progress import join_lines
from gesta.records import LABEL, SPLITS, ClassNames, DataConfig, Record, by_space, classes_in


@dataclass
class DataDescription:
    """The result of :func:`describe`.

    Attributes:
        classes: names in label order, by label space if there are several.
        counts: records per class by split; several label spaces one after another.
        sizes: number of records by split.
        records: the first records of each split.
    """

    classes: ClassNames
    counts: dict[str, list[int]]
    sizes: dict[str, int]
    records: dict[str, list[Record]]

    to_json = asdict

    def __str__(self) -> str:
        splits = [split for split in self.counts if self.records[split]]
        names = [
            (i, name if space == LABEL else f"{space} {name}")
            for space, in_space in by_space(self.classes).items()
            for i, name in enumerate(in_space)
        ]
        width = max([5, *(len(name) for _, name in names)])
        head = f"{'class':>5}  {'name':<{width}}" + "".join(f"{split:>8}" for split in splits)
        lines = [head] + [
            f"{label:>5}  {name:<{width}}" + "".join(f"{self.counts[split][row]:>8}" for split in splits)
            for row, (label, name) in enumerate(names)
        ]
        lines.append(f"{'':>5}  {'all':<{width}}" + "".join(f"{self.sizes[split]:>8}" for split in splits))
        for split in splits:
            lines += ["", f"{split}, the first of them:"]
            for record in self.records[split]:
                part = f"  frames {record.start or 0} to {record.end or 'the end'}" * bool(record.start or record.end)
                if record.seconds:
                    part = f"  {record.seconds[0]:g} to {record.seconds[1]:g} s"
                label = " ".join(map(str, record.label)) or "-" if isinstance(record.label, tuple) else record.label
                lines.append(f"  {label}  {record.path}{part}")
        return join_lines(lines)


def describe(data: DataConfig, examples: int = 3) -> DataDescription:
    """Splits, classes and the first ``examples`` records of each split; no video is opened."""
    classes = data.classes()
    records = {split: data.records(split) for split in SPLITS}
    counts: dict[str, list[int]] = {}
    spaces = by_space(classes)
    for split, items in records.items():
        label_counts = Counter((space, k) for record in items for space in spaces for k in classes_in(record, space))
        counts[split] = [label_counts[space, label] for space, names in spaces.items() for label in range(len(names))]
    sizes: dict[str, int] = {split: len(items) for split, items in records.items()}
    return DataDescription(classes, counts, sizes, {split: items[:examples] for split, items in records.items()})
