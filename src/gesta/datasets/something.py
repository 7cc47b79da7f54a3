"""Something-Something (Goyal et al. 2017): 174 actions with any objects; version 1 as frames, version 2 as videos."""

from __future__ import annotations

import json
from typing import Any

from gesta.config import config, suggest
from gesta.data.listfile import read_text
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
    """Something-Something V1 by its official lists (``id;label``, with or without a header): 86 017 + 11 522 clips.

    Classes are in alphabetical order, as in version 2, whose 174 classes are the same, and in most public lists and
    weights; the official file of labels has another order, which ``class_names`` restores. The clips are folders
    ``<id>/00001.jpg`` … at 12 frames per second, or videos, in ``root`` or in its subfolder
    20bn-something-something-v1, rawframes or videos. Every clip of the lists is a record; one that is not on the disk
    fails when it is read.

    Six classes name a direction (left, right), a seventh says "right out": training mirrors no clip of theirs unless
    ``Augment.flip_labels`` says what they become, as :data:`MIRRORED` does.

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
        """The clips of a list in its order. Without a list of the test split there are none.

        Raises:
            GestaError: a folder or list is missing, or a list is not the official one.
        """
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
            records.append(
                Record(path=finder.path(clip), name=clip, label=_label(labels, text, path) if text else None)
            )
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
    """Something-Something V2 by its official lists (JSON): 168 913 + 24 777 clips of 12 frames per second.

    A clip's class is its template without the brackets, numbered by the official file of labels (alphabetical). The
    clips are ``<id>.webm``, or videos of another suffix or folders of frames of that name, in ``root`` or in its
    subfolder 20bn-something-something-v2, videos or rawframes. Every clip of the lists is a record; one that is not on
    the disk fails when it is read.

    Six classes name a direction (left, right), a seventh says "right out": training mirrors no clip of theirs unless
    ``Augment.flip_labels`` says what they become, as :data:`MIRRORED` does.

    Attributes:
        root: folder of the clips.
        annotations: folder of ``something-something-v2-train.json`` (or ``train.json``) and so on; by default the root,
            its folder ``annotations`` or ``labels``, or the same beside it.
    """

    root: str = "data/something_v2"
    annotations: str = ""

    def records(self, split: SplitName) -> list[Record]:
        """The clips of a list in its order. Without a list of the test split there are none.

        Raises:
            GestaError: a folder or list is missing, or a list is not the official one.
        """
        finder = open_root(self.root, ("20bn-something-something-v2", "videos", "rawframes"))
        path = self._list(SPLITS[split], required=split != "test")
        if not path:
            return []
        labels = {name: label for label, name in enumerate(self.classes())}
        records = []
        for item in _json(path, list):
            try:
                clip, template = str(item["id"]), item["template"] if split != "test" else ""
            except (KeyError, TypeError):
                raise GestaError(f"{path}: {item!r} is no entry of the official list; get the lists again") from None
            text = template.replace("[", "").replace("]", "")
            name = f"{clip}.webm"
            records.append(
                Record(path=finder.path(name), name=name, label=_label(labels, text, path) if text else None)
            )
        return records

    def classes(self) -> list[str]:
        """The 174 names in the order of the official file of labels."""
        path = self._list("labels")
        names = {int(number): name for name, number in _json(path, dict).items()}
        if sorted(names) != list(range(len(names))):
            raise GestaError(f"{path}: its labels are not numbered from 0 on; get the lists again")
        return [names[number] for number in range(len(names))]

    def _list(self, name: str, required: bool = True) -> str:
        return find_list(self.annotations, self.root, (f"something-something-v2-{name}.json", f"{name}.json"), required)


def _label(labels: dict[str, int], text: str, path: str) -> int:
    if text not in labels:
        raise GestaError(f"{path}: {text!r} is none of the {len(labels)} classes{suggest(text, labels)}")
    return labels[text]


def _lines(path: str) -> list[str]:
    """Lines of a list without the header that some copies have."""
    lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    return lines[lines[:1] in (["label"], ["video"], ["video;label"]) :]


def _json(path: str, kind: type) -> Any:
    try:
        value = json.loads(read_text(path))
    except ValueError as error:
        raise GestaError(f"{path}: is not valid JSON ({error}); get the lists again") from None
    if not isinstance(value, kind):
        raise GestaError(f"{path}: is not the official list; get the lists again")
    return value
