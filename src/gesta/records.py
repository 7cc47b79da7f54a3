"""What a data set is: a list of labelled segments of video, and the class that lists them."""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypedDict, TypeVar, get_args

from gesta.config import config
from gesta.errors import GestaError
from gesta.video.depth import Depth
from gesta.video.flow import Flow
from gesta.video.modality import Modalities, Shows, modalities_of

SplitName = Literal["train", "val", "test"]

SPLITS: tuple[SplitName, ...] = get_args(SplitName)

CacheMode = Literal["auto", "off"]
"""Whether decoded frames are kept."""

ClassNames = list[str] | dict[str, list[str]]
"""In label order, by label space if there are several."""

Label = int | tuple[int, ...] | dict[str, int] | None
"""Class index, by label space if there are several; of multi-label data all classes of the video, in order, perhaps
none; None where unknown."""

LABEL = "label"
"""Name of the label space of data sets and models that have only one."""

PATHS = ("root", "annotations", "train", "val", "test", "class_names", "test_labels", "leave_out", "flow")
"""Names of the fields of data sets that hold paths, where they hold text."""

T = TypeVar("T")


def class_name(text: str) -> str:
    """A class name with its accents in one Unicode form (NFC): folders of macOS and lists of others differ in it."""
    return unicodedata.normalize("NFC", text)


def by_space(values: T | Mapping[str, T]) -> dict[str, T]:
    """Class names, numbers of classes, labels or scores by label space; those of a single space under ``"label"``."""
    return dict(values) if isinstance(values, Mapping) else {LABEL: values}


def labels_file(space: str) -> str:
    """Name of the text file of class names in a run folder: ``labels.txt``, or one named after the label space."""
    return "labels.txt" if space == LABEL else f"{space}.txt"


def class_lines(names: Iterable[str]) -> str:
    """The text of such a file: one name a line, in label order.

    Raises:
        GestaError: a name with a line break, which would shift all later ones.
    """
    for name in names:
        if "\n" in name or "\r" in name:
            raise GestaError(f"the name of the class {name!r} has a line break; rename its folder or its entry")
    return "".join(f"{name}\n" for name in names)


def class_counts(classes: ClassNames) -> int | dict[str, int]:
    """The numbers of classes, as :class:`gesta.model.ModelConfig` takes them."""
    return {space: len(names) for space, names in classes.items()} if isinstance(classes, dict) else len(classes)


def label_in(record: Record, space: str) -> int | tuple[int, ...] | None:
    """A record's label in one of the label spaces; a single space may have any name."""
    return record.label.get(space) if isinstance(record.label, dict) else record.label


def labels_in(records: Iterable[Record], spaces: Iterable[str]) -> dict[str, list[int | tuple[int, ...] | None]]:
    """The labels of records in each of the label spaces."""
    records = list(records)
    return {space: [label_in(record, space) for record in records] for space in spaces}


def classes_in(record: Record, space: str) -> tuple[int, ...]:
    """All classes of a record in one of the label spaces; none if it is unlabelled."""
    label = label_in(record, space)
    return label if isinstance(label, tuple) else () if label is None else (label,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """Another recording of the same scene, such as depth beside RGB.

    Attributes:
        path, shows, masks: as of :class:`Record`.
    """

    path: str
    shows: Shows | None = None
    masks: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One labelled segment of video: all that a data set has to produce.

    Attributes:
        path: absolute or working-directory path of a video file or a folder of frames.
        name: the entry as the list or folder names it; what results and reports print.
        label: class index, a dict of them for several label spaces (verb, noun), a tuple of all classes in multi-label
            data, or None if unknown.
        start: first frame of the segment in decode order, None for the beginning.
        end: one past the last frame, None for the end.
        seconds: the segment in seconds instead, for videos whose frame rates the lists do not follow.
        shows: what its pictures show, and how that becomes three channels; None for RGB.
        masks: folder of masked depth maps by which every frame is cropped to the people in it, see
            :mod:`gesta.data.person`; empty for whole frames.
        paired: other streams of the same segment, for models of several. They may have other numbers of frames, which
            then cover the same time.
    """

    path: str
    name: str
    label: Label = None
    start: int | None = None
    end: int | None = None
    seconds: tuple[float, float] | None = None
    shows: Shows | None = None
    masks: str = ""
    paired: tuple[Stream, ...] = ()

    @property
    def streams(self) -> list[Record]:
        """The record once for each of its streams."""
        others = (replace(self, path=s.path, shows=s.shows, masks=s.masks, paired=()) for s in self.paired)
        return [replace(self, paired=()), *others] if self.paired else [self]


class RecordFiles(TypedDict):
    """Those fields of a :class:`Record` that name its files and say how they are read."""

    path: str
    shows: Shows | None
    masks: str
    paired: tuple[Stream, ...]


def files_of_modality(
    modality: Modalities, rgb: str, depth: str, encoding: Depth | None, masks: str = "", flow: str = ""
) -> RecordFiles:
    """The files of a record of a data set that has several streams.

    Args:
        modality: which of them the record has; the first is the record's own, the others are paired with it.
        rgb: path of the RGB video.
        depth: path of the depth video.
        encoding: how depth becomes pixels.
        masks: see :class:`Record`; of RGB and depth.
        flow: folder of the optical flow.
    """
    streams = {
        "rgb": Stream(path=rgb, masks=masks),
        "depth": Stream(path=depth, shows=encoding, masks=masks),
        "flow": Stream(path=flow, shows=Flow()),
    }
    first, *others = (streams[name] for name in modalities_of(modality))
    return RecordFiles(path=first.path, shows=first.shows, masks=first.masks, paired=tuple(others))


def flow_folder(record: Record, root: str, flow: str) -> str:
    """Where ``gesta data prepare`` puts the optical flow of a video of ``root``, if it makes that of ``root``.

    Raises:
        GestaError: the video is not below ``root``.
    """
    name = os.path.relpath(record.path, root or ".")
    if name.split(os.sep)[0] == os.pardir:
        raise GestaError(
            f"{record.path}: is not below {root or '.'}, so its optical flow cannot be found in {flow}; set "
            "data.root to the folder of the videos"
        )
    return os.path.join(flow, name if os.path.isdir(record.path) else os.path.splitext(name)[0])


@config
class DataConfig:
    """Where labelled videos come from. Subclasses implement :meth:`records` and :meth:`classes`.

    Attributes:
        cache: ``auto`` keeps the decoded frames of the videos of a training in the user's cache folder if they fit
            (:mod:`gesta.data.frame_cache`), and evaluations read what is kept there; ``off`` decodes them every time.
            Results are the same.
    """

    cache: CacheMode = "auto"

    def records(self, split: SplitName) -> list[Record]:
        """All records of a split, in a fixed order; an empty list if the data set has no such split."""
        raise NotImplementedError

    def classes(self) -> ClassNames:
        """Class names in label order, by label space if there are several."""
        raise NotImplementedError

    def is_multi_label(self) -> bool:
        """Whether a video may have any number of classes; the labels of all records are then tuples."""
        return False

    def labels_are_positions(self) -> bool:
        """Whether the labels say where something is in the picture, so that they are wrong once it is moved."""
        return False

    def attributes(self) -> dict[str, list[str]]:
        """Attributes of the classes, if there are any: attribute → its value for every class, in label order."""
        return {}

    def groups(self, records: Sequence[Record]) -> dict[str, dict[str, list[int]]]:
        """Parts of a list that have an accuracy of their own: part → label space or ``action`` → positions."""
        return {}

    def make_absolute(self) -> None:
        """Let relative paths begin at the current folder for good, so that they name the same files from any other."""
        for name in PATHS:
            path = getattr(self, name, "")
            if isinstance(path, str) and path:
                setattr(self, name, os.path.abspath(path))


def single_class(classes: ClassNames, labels: Iterable[Label] = ()) -> str:
    """A sentence for the user if there is one class only, or one that all these labels of videos name; else empty."""
    used: dict[str, set[int]] = {}
    for label in labels:
        for space, value in by_space(label).items():
            if isinstance(value, int):
                used.setdefault(space, set()).add(value)
    for space, names in by_space(classes).items():
        of_space = "" if space == LABEL else f" of {space}"
        if len(names) == 1 or len(used.get(space, ())) == 1:
            only = f"there is only one class{of_space}" if len(names) == 1 else f"all videos have one class{of_space}"
            return f"{only}, so a model gives it to every video, whatever that shows; add videos of another class"
    return ""


def segment_of(record: Record) -> str:
    """The part of its video that a record is: frames ``12-40`` or seconds ``1.5-3.2 s``; empty for a whole video."""
    if record.seconds:
        return "{}-{} s".format(*record.seconds)
    if record.start is None and record.end is None:
        return ""
    return f"{record.start or 0}-{'' if record.end is None else record.end}"


def name_with_segment(record: Record) -> str:
    """What tells a record from the other segments of its video, which have the same name."""
    segment = segment_of(record)
    return f"{record.name} {segment}" if segment else record.name


def list_hash(records: Sequence[Record]) -> str:
    """A hash of names, labels and segments in order; it does not depend on the folder in which the files lie."""
    names = [
        [record.name, record.label, record.start, record.end, *([record.seconds] if record.seconds else [])]
        for record in records
    ]
    return hashlib.sha256(json.dumps(names, sort_keys=True).encode()).hexdigest()
