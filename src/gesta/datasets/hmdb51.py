"""HMDB-51: 51 classes of actions, 6766 clips, most of them from films.

Source: Kuehne et al., "HMDB: A Large Video Database for Human Motion Recognition", ICCV 2011.

Protocol: three official splits of 70 training and 30 test clips per class; accuracies are often the mean of the three.
There is no validation split; ``val`` holds some of the training clips out.

Classes: in alphabetical order. A clip's class is that of the list file ``<class>_test_split<n>.txt``.

Layout on disk: clips as ``class/clip.avi`` or all in one folder, under another video suffix, or as folders of frames,
in the root or in its subfolder hmdb51_org, videos or rawframes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Annotated

from gesta.config import Between, CountOrZero, Fraction, config, unless
from gesta.data.listfile import read_lines
from gesta.data.locate import find_annotations, hold_out, open_root
from gesta.errors import GestaError
from gesta.records import DataConfig, Record, SplitName

CODES: dict[SplitName, str] = {"train": "1", "val": "1", "test": "2"}
"""What a line's number means; 0 is neither: such a clip is not used in this split."""


@config
class HMDB51(DataConfig):
    """HMDB-51 by its official lists.

    Attributes:
        root: folder of the clips.
        annotations: folder of the lists; by default ``testTrainMulti_7030_splits`` in or beside the root.
        split: official split, 1 to 3.
        val: fraction of the training clips that is held out for validation, all clips of one film together; 0 means no
            validation split.
        seed: of that split.
    """

    root: str = "data/hmdb51"
    annotations: str = ""
    split: Annotated[int, Between(1, 3)] = 1
    val: Fraction = 0.0
    seed: CountOrZero = 0

    def contradictions(self) -> Iterator[tuple[str, str]]:
        if self.val >= 1:
            yield "val", "which leaves nothing to train on"

    def unused(self) -> Iterator[tuple[str, str]]:
        yield from unless(self.val > 0, "val", "seed")

    def records(self, split: SplitName) -> list[Record]:
        """The clips of a split, class by class in the order of the lists."""
        if split == "val" and not self.val:
            return []
        finder = open_root(self.root, ("hmdb51_org", "videos", "rawframes"))
        records, films = [], []
        for label, (name, path) in enumerate(self._files()):
            for line in read_lines(path):
                clip, _, code = line.rpartition(" ")
                if code not in ("0", "1", "2") or not clip:
                    raise GestaError(f"{path}: {line!r} is not a line of the official list; get the lists again")
                if code == CODES[split]:
                    entry = f"{name}/{clip.strip()}"
                    records.append(Record(path=finder.path(entry), name=entry, label=label))
                    films.append(clip.rpartition(f"_{name}_")[0] or clip)
        return hold_out(records, films, self.val, self.seed, split)

    def classes(self) -> list[str]:
        """The 51 names in alphabetical order."""
        return [name for name, _ in self._files()]

    def _files(self) -> Iterator[tuple[str, str]]:
        """Class name and list file of each class, sorted by name."""
        if self.split not in (1, 2, 3):
            raise GestaError(f"data.split {self.split}: HMDB-51 has the splits 1, 2 and 3")
        folder = find_annotations(
            self.annotations, self.root, "testTrainMulti_7030_splits", "HMDB-51's testTrainMulti_7030_splits"
        )
        ending = f"_test_split{self.split}.txt"
        names = sorted(
            file.removesuffix(ending) for file in os.listdir(folder) if file.endswith(ending) and file[0] != "."
        )
        if not names:
            raise GestaError(
                f"{folder}: holds no files *{ending}; give the folder of HMDB-51's lists (--data.annotations DIR)"
            )
        return ((name, os.path.join(folder, name + ending)) for name in names)
