"""A data set of which only a part is used: without its labels, or with the labels of few videos."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated

import numpy as np

from gesta.config import Between, CountOrZero, config
from gesta.records import ClassNames, DataConfig, Record, SplitName


@config
class Part(DataConfig):
    """What :class:`Unlabelled` and :class:`FewLabels` have in common.

    Attributes:
        of: the data set.
    """

    of: DataConfig

    def contradictions(self) -> Iterator[tuple[str, str]]:
        if self.of.cache != "auto":
            yield "of.cache", "and the cache of the whole counts, not that of the data set in it; set cache instead"

    def make_absolute(self) -> None:
        """As :meth:`DataConfig.make_absolute`, of the data set."""
        self.of.make_absolute()


@config
class Unlabelled(Part):
    """The training videos of a data set, without their labels, for pretraining.

    Attributes:
        of: the data set.
    """

    def records(self, split: SplitName) -> list[Record]:
        """The training videos; those of other splits are left alone."""
        return [replace(record, label=None) for record in self.of.records(split)] if split == "train" else []

    def classes(self) -> list[str]:
        """None."""
        return []


@config
class FewLabels(Part):
    """A data set of which only some training videos are used, as if no others had labels.

    Attributes:
        of: the data set.
        fraction: of the training videos of every class, rounded up, so that each has one at least.
        seed: they are drawn by it; those of a smaller fraction are among those of a larger one.
    """

    fraction: Annotated[float, Between(0, 1, open="low")] = 0.1
    seed: CountOrZero = 0

    def records(self, split: SplitName) -> list[Record]:
        """All videos of the split, of training some, in the order of the data set."""
        records = self.of.records(split)
        if split != "train":
            return records
        by_label: dict[str, list[int]] = {}
        for position, record in enumerate(records):
            by_label.setdefault(str(record.label), []).append(position)
        kept: list[int] = []
        for number, label in enumerate(sorted(by_label)):
            positions = np.random.default_rng([self.seed, number]).permutation(by_label[label])
            kept += positions[: math.ceil(self.fraction * len(positions) - 1e-9)].tolist()  # 0.07 * 100 is above 7
        return [records[position] for position in sorted(kept)]

    def classes(self) -> ClassNames:
        """Those of the data set."""
        return self.of.classes()

    def is_multi_label(self) -> bool:
        return self.of.is_multi_label()

    def attributes(self) -> dict[str, list[str]]:
        return self.of.attributes()

    def groups(self, records: Sequence[Record]) -> dict[str, dict[str, list[int]]]:
        return self.of.groups(records)

    def labels_are_positions(self) -> bool:
        return self.of.labels_are_positions()
