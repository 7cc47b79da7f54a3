"""Something-Something: 174 classes of actions with any objects; version 1 as frames, version 2 as videos.

Source: Goyal et al., "The 'Something Something' Video Database for Learning and Evaluating Visual Common Sense", ICCV
2017.

Protocol: official lists, of version 1 (``id;label``, with or without a header) with 86 017 training and 11 522
validation clips, of version 2 (JSON) with 168 913 and 24 777; accuracies are of the validation list, because the
labels of the test split were never released. Six classes name a direction (left, right), a seventh says "right out":
training mirrors no clip of theirs unless ``Augment.flip_labels`` says what they become, as :data:`MIRRORED` does.

Classes: in alphabetical order, the same in both versions and in most public lists and weights; version 1's official
file of labels has another order, which ``class_names`` restores. A clip's class is its template without the brackets.

Layout on disk: clips of 12 frames per second: of version 1 as folders ``<id>/00001.jpg`` …, of version 2 as
``<id>.webm``; of both also as videos of another suffix or folders of frames of that name, in the root or in its
subfolder 20bn-something-something-v1 (or -v2), rawframes or videos.
"""

from __future__ import annotations

import re

from gesta.config import config
from gesta.data.listfile import label_number, read_json, read_lines
from gesta.data.lists import read_class_names
from gesta.data.locate import find_list, open_root
from gesta.errors import GestaError
from gesta.records import DataConfig, Record, SplitName

SPLITS: dict[SplitName, str] = {"train": "train", "val": "validation", "test": "test"}
"""What the official lists call them; the labels of the test split were never released."""

MIRRORED = {
    "Pulling something from left to right": "Pulling something from right to left",
    "Pushing something from left to right": "Pushing something from right to left",
    "Turning the camera left while filming something": "Turning the camera right while filming something",
}
"""The classes of both versions that become one another when the words left and right are exchanged, for
``Augment.flip_labels``. By name, because lists of these classes come in two orders."""


@config
class SomethingV1(DataConfig):
    """Something-Something V1 by its official lists.

    Attributes:
        root: folder of the clips.
        annotations: folder of ``something-something-v1-train.csv`` and so on; by default the root, its folder
            ``annotations`` or ``labels``, or the same beside it.
        class_names: file of class names in label order.
    """

    root: str = "data/something_v1"
    annotations: str = ""
    class_names: str = ""

    def records(self, split: SplitName) -> list[Record]:
        """The clips of a list in its order. Without a list of the test split there are none."""
        finder = open_root(self.root, ("20bn-something-something-v1", "rawframes", "videos"))
        path = self._list(f"something-something-v1-{SPLITS[split]}.csv", required=split != "test")
        if not path:
            return []
        labels = {name: label for label, name in enumerate(self.classes())}
        records = []
        for line in _lines(path):
            clip, _, text = line.partition(";")
            if not clip.isdecimal() or bool(text) == (split == "test"):
                raise GestaError(f"{path}: {line!r} is not a line of the official list; get the lists again")
            label = label_number(labels, text, path) if text else None
            records.append(Record(path=finder.path(clip), name=clip, label=label))
        return records

    def classes(self) -> list[str]:
        """The 174 names in alphabetical order, or those of ``class_names`` in theirs."""
        if self.class_names:
            return read_class_names(self.class_names)
        return sorted(_lines(self._list("something-something-v1-labels.csv")))

    def _list(self, name: str, required: bool = True) -> str:
        return find_list(self.annotations, self.root, (name,), required)


@config
class SomethingV2(DataConfig):
    """Something-Something V2 by its official lists.

    Attributes:
        root: folder of the clips.
        annotations: folder of ``something-something-v2-train.json`` (or ``train.json``) and so on; by default the root,
            its folder ``annotations`` or ``labels``, or the same beside it.
    """

    root: str = "data/something_v2"
    annotations: str = ""

    def records(self, split: SplitName) -> list[Record]:
        """The clips of a list in its order. Without a list of the test split there are none."""
        finder = open_root(self.root, ("20bn-something-something-v2", "videos", "rawframes"))
        path = self._list(SPLITS[split], required=split != "test")
        if not path:
            return []
        labels = {name: label for label, name in enumerate(self.classes())}
        records = []
        for item in read_json(path, list):
            try:
                clip, template = str(item["id"]), item["template"] if split != "test" else ""
                text = template.replace("[", "").replace("]", "")
            except (KeyError, TypeError, AttributeError):
                raise GestaError(f"{path}: {item!r} is no entry of the official list; get the lists again") from None
            name, label = f"{clip}.webm", label_number(labels, text, path) if text else None
            records.append(Record(path=finder.path(name), name=name, label=label))
        return records

    def classes(self) -> list[str]:
        """The 174 names in the order of the official file of labels."""
        path = self._list("labels")
        labels, names = read_json(path, dict), dict[int, str]()
        for name, number in labels.items():
            if not re.fullmatch(r"\d{1,9}", str(number)):
                raise GestaError(f"{path}: gives {name!r} the number {number!r}; get the lists again")
            names[int(number)] = name
        if sorted(names) != list(range(len(labels))):
            raise GestaError(f"{path}: its labels are not numbered from 0 on; get the lists again")
        return [names[number] for number in range(len(names))]

    def _list(self, name: str, required: bool = True) -> str:
        return find_list(self.annotations, self.root, (f"something-something-v2-{name}.json", f"{name}.json"), required)


def _lines(path: str) -> list[str]:
    """Lines of a list without the header that some copies have."""
    lines = read_lines(path)
    return lines[lines[:1] in (["label"], ["video"], ["video;label"]) :]
