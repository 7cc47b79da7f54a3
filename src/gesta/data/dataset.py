"""What a data set is: a list of labelled stretches of video, read into samples of views."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, TypedDict

from torch import Tensor

from gesta.config import config

SplitName = Literal["train", "val", "test"]
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
    """

    path: str
    name: str
    label: Label = None
    start: int | None = None
    end: int | None = None


class Failure(NamedTuple):
    """A record that could not be read."""

    index: int
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

    def classes(self) -> list[str]:
        """Class names in label order."""
        raise NotImplementedError
