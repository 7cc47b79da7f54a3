"""What a data set is: a list of labelled segments of video, and the class that lists them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypedDict, TypeVar

from gesta.config import config
from gesta.video.depth import Depth, Modalities

SplitName = Literal["train", "val", "test"]


ClassNames = list[str] | dict[str, list[str]]
"""In label order, by label space if there are several."""

Label = int | dict[str, int] | None
"""Class index, by label space if there are several; None where unknown."""

LABEL = "label"
"""Name of the label space of data sets and models that have only one."""

T = TypeVar("T")


def by_space(values: T | dict[str, T]) -> dict[str, T]:
    """Class names, numbers of classes, labels or scores by label space; those of a single space under ``"label"``."""
    return dict(values) if isinstance(values, dict) else {LABEL: values}


def label_in(record: Record, space: str) -> int | None:
    """A record's label in one of the label spaces; a single space may have any name."""
    return record.label.get(space) if isinstance(record.label, dict) else record.label


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """What else was recorded of a scene, such as its depth beside the colours.

    Attributes:
        path, depth, masks: as of :class:`Record`.
    """

    path: str
    depth: Depth | None = None
    masks: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One labelled stretch of video: all that a data set has to produce.

    Attributes:
        path: absolute or working-directory path of a video file or a folder of frames.
        name: the entry as the list or folder names it; what results and reports print.
        label: class index, a dict of them for several label spaces (verb, noun), or None if unknown.
        start: first frame of the stretch in decode order, None for the beginning.
        end: one past the last frame, None for the end.
        seconds: the stretch in seconds instead, for videos whose frame rates the lists do not follow.
        depth: how the video is shown to the model if it shows depth.
        masks: folder of masked depth maps by which every frame is cropped to the people in it, see
            :mod:`gesta.data.person`; empty for whole frames.
        paired: other streams of the same stretch, for models of several. They may have other numbers of frames, which
            then lie over the same time.
    """

    path: str
    name: str
    label: Label = None
    start: int | None = None
    end: int | None = None
    seconds: tuple[float, float] | None = None
    depth: Depth | None = None
    masks: str = ""
    paired: tuple[Stream, ...] = ()

    @property
    def streams(self) -> list[Record]:
        """The record once for each of its streams."""
        others = (replace(self, path=s.path, depth=s.depth, masks=s.masks, paired=()) for s in self.paired)
        return [replace(self, paired=()), *others] if self.paired else [self]


class Shown(TypedDict):
    """Those fields of a :class:`Record` that say what it shows."""

    path: str
    depth: Depth | None
    masks: str
    paired: tuple[Stream, ...]


def of_modality(modality: Modalities, rgb: str, depth: str, shown: Depth | None, masks: str = "") -> Shown:
    """What a record of a data set of both shows: colours, depth, or a pair of them.

    Args:
        modality: which.
        rgb: path of the colours.
        depth: path of the depth.
        shown: how depth is shown.
        masks: see :class:`Record`; of both.
    """
    if modality == "depth":
        return Shown(path=depth, depth=shown, masks=masks, paired=())
    paired = (Stream(path=depth, depth=shown, masks=masks),) if modality == "rgbd" else ()
    return Shown(path=rgb, depth=None, masks=masks, paired=paired)


@config
class DataConfig:
    """Where labelled videos come from. Subclasses implement :meth:`records` and :meth:`classes`."""

    def records(self, split: SplitName) -> list[Record]:
        """All records of a split, in a fixed order; an empty list if the data set has no such split."""
        raise NotImplementedError

    def classes(self) -> ClassNames:
        """Class names in label order, by label space if there are several."""
        raise NotImplementedError

    def attributes(self) -> dict[str, list[str]]:
        """Attributes of the classes, if there are any: attribute → its value for every class, in label order."""
        return {}

    def groups(self, records: Sequence[Record]) -> dict[str, dict[str, list[int]]]:
        """Parts of a list that have an accuracy of their own: part → label space or ``action`` → places in the list."""
        return {}


def list_hash(records: Sequence[Record]) -> str:
    """A hash of what a list of videos names, in order; the place of the files does not enter."""
    names = [
        [record.name, record.label, record.start, record.end, *([record.seconds] if record.seconds else [])]
        for record in records
    ]
    return hashlib.sha256(json.dumps(names, sort_keys=True).encode()).hexdigest()
