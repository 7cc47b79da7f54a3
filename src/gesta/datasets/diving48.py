"""Diving48: 48 classes of competitive dives, which differ by takeoff, somersaults, twists and position.

Source: Li, Li, Vasconcelos, "RESOUND: Towards Action Recognition without Representation Bias", ECCV 2018.

Protocol: official lists, of version 2 with 15 027 training and 1970 test clips. Version 2 (October 2020) corrected
many labels of version 1 and dropped bad clips; numbers of the two cannot be compared. There is no validation split;
``val`` holds some of the training clips out. Frame rates differ (25 to 60), so clips are best sampled uniformly.

Classes: numbered by the vocabulary file; class 30 occurs in neither list of version 2.

Layout on disk: clips as ``<vid_name>.mp4``, under another video suffix, or as folders of frames of that name, in the
root or in its subfolder rgb, videos or rawframes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from gesta.config import Between, CountOrZero, Fraction, config, unless
from gesta.data.listfile import read_json
from gesta.data.locate import find_list, hold_out, open_root
from gesta.errors import GestaError
from gesta.records import DataConfig, Record, SplitName

NAMES = {1: "Diving48", 2: "Diving48_V2"}
"""How the lists of each version begin their names."""

ATTRIBUTES = ("takeoff", "somersault", "twist", "position")
"""Columns of the vocabulary."""


@config
class Diving48(DataConfig):
    """Diving48 by its official lists.

    Attributes:
        root: folder of the clips.
        annotations: folder of ``Diving48_V2_train.json``, ``Diving48_V2_test.json`` and ``Diving48_vocab.json``; by
            default the root, its folder ``annotations`` or ``labels``, or the same beside it.
        version: 2, or 1 for the lists that older papers used (``Diving48_train.json`` …).
        val: fraction of the training clips that is held out for validation, whole source videos together; 0 means no
            validation split.
        seed: of that split.
    """

    root: str = "data/diving48"
    annotations: str = ""
    version: Annotated[int, Between(1, 2)] = 2
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
        if self.version not in NAMES:
            raise GestaError(f"data.version {self.version}: Diving48 has the versions 1 and 2")
        finder = open_root(self.root, ("rgb", "videos", "rawframes"))
        path = self._list(f"{NAMES[self.version]}_{'test' if split == 'test' else 'train'}.json")
        classes = len(self.classes())
        records = []
        for item in read_json(path, list):
            try:
                name, label = str(item["vid_name"]), int(item["label"])
            except (KeyError, TypeError, ValueError):
                raise GestaError(f"{path}: {item!r} is no entry of the official list; get the lists again") from None
            if not 0 <= label < classes:
                raise GestaError(
                    f"{path}: {name} has the label {label}, but there are {classes} classes; get the lists again"
                )
            # start and end are not read: they are always the whole file
            records.append(Record(path=finder.path(f"{name}.mp4"), name=name, label=label))
        # names are a YouTube identifier of 11 characters, which may hold "_" and "-", and a number
        source_videos = [record.name[:11] for record in records]
        return hold_out(records, source_videos, self.val, self.seed, split)

    def classes(self) -> list[str]:
        """The 48 names in the order of the vocabulary: ``Back 15som 05Twis FREE`` is 1.5 somersaults, half a twist."""
        path = self._list("Diving48_vocab.json")
        names = [" ".join(parts) for parts in read_json(path, list) if isinstance(parts, list)]
        if not names:
            raise GestaError(f"{path}: is not the official vocabulary; get the lists again")
        return names

    def attributes(self) -> dict[str, list[str]]:
        """The four parts of each class's name by attribute; a dive is right where all of them are."""
        return dict(zip(ATTRIBUTES, (list(values) for values in zip(*(name.split() for name in self.classes())))))

    def _list(self, name: str) -> str:
        return find_list(self.annotations, self.root, (name,))
