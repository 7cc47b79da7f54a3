"""UCF-101: 101 classes of actions, 13 320 clips from YouTube.

Source: Soomro, Zamir, Shah, "UCF101: A Dataset of 101 Human Actions Classes From Videos in The Wild", 2012.

Protocol: three official splits into training and test; accuracies are often the mean of the three. There is no
validation split; ``val`` holds some of the training clips out.

Classes: in the order of ``classInd.txt``, which is not that of sorted names (Hammering before HammerThrow, JumpingJack
before JumpRope). A clip's class is its folder, because the files of HandstandPushups are called HandStandPushups.

Layout on disk: clips as ``CLASS/clip.avi`` or all in one folder, under another video suffix, or as folders of frames,
in the root or in its subfolder UCF-101, videos, rawframes or jpegs_256.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Annotated

from gesta.config import Between, CountOrZero, Fraction, config, unless
from gesta.data.listfile import read_lines
from gesta.data.lists import read_class_names
from gesta.data.locate import find_annotations, hold_out, open_root
from gesta.errors import GestaError
from gesta.records import DataConfig, Record, SplitName


@config
class UCF101(DataConfig):
    """UCF-101 by its official lists.

    Attributes:
        root: folder of the clips.
        annotations: folder of ``classInd.txt`` and the lists; by default ``ucfTrainTestlist`` in or beside the root.
        split: official split, 1 to 3.
        val: fraction of the training clips that is held out for validation, whole groups (source videos) together;
            0 means no validation split.
        seed: of that split.
    """

    root: str = "data/ucf101"
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
        """The clips of a list in its order."""
        if split == "val" and not self.val:
            return []
        finder = open_root(self.root, ("UCF-101", "videos", "rawframes", "jpegs_256"))
        if self.split not in (1, 2, 3):
            raise GestaError(f"data.split {self.split}: UCF-101 has the splits 1, 2 and 3")
        path = os.path.join(self._annotations(), f"{'test' if split == 'test' else 'train'}list{self.split:02d}.txt")
        labels = {name.casefold(): label for label, name in enumerate(self.classes())}
        records = []
        for line in read_lines(path):
            match = re.fullmatch(r"(([^/]+)/[^/]+?\.avi)(?: (\d+))?", line)  # CLASS/clip.avi, and its number from 1 on
            label = labels.get(match[2].casefold()) if match else None
            if match is None or label is None or (match[3] and int(match[3]) != label + 1):
                raise GestaError(f"{path}: {line!r} is not a line of the official list; get the lists again")
            records.append(Record(path=finder.path(match[1]), name=match[1], label=label))
        source_videos = [re.sub(r"_c\d+\.avi$", "", record.name) for record in records]
        return hold_out(records, source_videos, self.val, self.seed, split)

    def classes(self) -> list[str]:
        """The 101 names in the order of ``classInd.txt``."""
        return read_class_names(os.path.join(self._annotations(), "classInd.txt"))

    def _annotations(self) -> str:
        return find_annotations(self.annotations, self.root, "ucfTrainTestlist", "UCF-101's ucfTrainTestlist")
