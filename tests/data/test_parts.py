"""Data sets of which a part is used."""

from __future__ import annotations

from collections import Counter

import pytest

from gesta.config import check
from gesta.data.lists import Folder
from gesta.data.parts import FewLabels, Unlabelled
from gesta.errors import GestaError
from gesta.marionette.joint_frames import MarionetteJoints
from gesta.records import DataConfig, Record, SplitName


class Made(DataConfig):
    """Ten videos of one class, and thirty of another."""

    def records(self, split: SplitName) -> list[Record]:
        return [Record(path=f"{split}/{i}.mp4", name=f"{i}", label=int(i % 4 > 0)) for i in range(40)]

    def classes(self) -> list[str]:
        return ["few", "many"]


@pytest.mark.parametrize(("fraction", "few", "many"), [(1.0, 10, 30), (0.25, 3, 8), (0.1, 1, 3), (0.01, 1, 1)])
def test_a_fraction_of_every_class_keeps_its_labels(fraction: float, few: int, many: int) -> None:
    data = FewLabels(of=Made(), fraction=fraction)
    assert Counter(record.label for record in data.records("train")) == {0: few, 1: many}
    assert data.records("test") == Made().records("test") and data.classes() == ["few", "many"]


def test_smaller_fractions_are_parts_of_larger_ones_and_seeds_differ() -> None:
    names = [{record.name for record in FewLabels(of=Made(), fraction=f).records("train")} for f in (0.1, 0.3, 1.0)]
    assert names[0] < names[1] < names[2]
    assert names[1] != {record.name for record in FewLabels(of=Made(), fraction=0.3, seed=1).records("train")}


def test_videos_without_their_labels() -> None:
    records = Unlabelled(of=Made()).records("train")
    assert len(records) == 40 and all(record.label is None for record in records)
    assert Unlabelled(of=Made()).records("test") == [] and Unlabelled(of=Made()).classes() == []


def test_labels_that_are_positions_stay_so() -> None:
    assert FewLabels(of=MarionetteJoints()).labels_are_positions() and not FewLabels(of=Made()).labels_are_positions()


def test_the_cache_of_the_data_set_inside_is_refused() -> None:
    with pytest.raises(GestaError, match=r"of\.cache is off, and the cache of the whole counts"):
        check(Unlabelled(of=Folder(root="x", cache="off")))
