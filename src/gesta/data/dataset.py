"""What a data set is: a list of labelled stretches of video; and what their reading gives, samples and batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypedDict

from torch import Tensor

from gesta.config import config
from gesta.data.depth import Depth

SplitName = Literal["train", "val", "test"]
ClassNames = list[str] | dict[str, list[str]]
"""In label order, by label space if there are several."""

Label = int | dict[str, int] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One labelled stretch of video: all that a data set has to produce.

    Attributes:
        path: absolute or working-directory path of a video file or a folder of frames.
        name: the entry as the list or folder names it; what receipts and reports print.
        label: class index, a dict of them for several label spaces (verb, noun), or None if unknown.
        start: first frame of the stretch in decode order, None for the beginning.
        end: one past the last frame, None for the end.
        seconds: the stretch in seconds instead, for videos whose frame rates the lists do not follow.
        depth: how the video is shown to the model if it shows depth.
        masks: folder of masked depth maps by which every frame is cropped to the people in it, see
            :mod:`gesta.data.person`; empty for whole frames.
    """

    path: str
    name: str
    label: Label = None
    start: int | None = None
    end: int | None = None
    seconds: tuple[float, float] | None = None
    depth: Depth | None = None
    masks: str = ""


def label_in(record: Record, space: str) -> int | None:
    """A record's label in one of the label spaces; a single space may have any name."""
    return record.label.get(space) if isinstance(record.label, dict) else record.label


class Failure(NamedTuple):
    """A record that could not be read."""

    index: int  # type: ignore[assignment]  # position of the record in its list; hides tuple.index
    name: str
    reason: str


class Sample(TypedDict):
    """One record as a model's training or evaluation sees it."""

    video: Tensor  # (V, T, C, H, W) uint8
    label: Label
    index: int  # position of the record in its list
    failures: list[Failure]  # training: records skipped on the way to this one


class Batch(TypedDict):
    """Samples stacked: what a loader yields."""

    video: Tensor  # (B, V, T, C, H, W) uint8
    label: dict[str, Tensor]  # per label space (B,) int64, -1 where unknown; a single space is called "label"
    index: Tensor  # (B,) int64
    failures: list[Failure]


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
