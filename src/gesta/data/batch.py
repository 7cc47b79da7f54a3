"""What reading records gives: samples, batches of them, and failures."""

from __future__ import annotations

from typing import NamedTuple, TypedDict

from torch import Tensor

from gesta.records import Label


class Failure(NamedTuple):
    """A record that could not be read."""

    index: int  # type: ignore[assignment]  # position of the record in its list; hides tuple.index
    name: str
    reason: str


class Sample(TypedDict):
    """One record as a model's training or evaluation sees it."""

    video: Tensor  # (V, T, C, H, W) uint8; C = 3 for each stream that the model eats
    label: Label
    index: int  # position of the record in its list
    failures: list[Failure]  # training: records skipped on the way to this one
    partial: list[Failure]  # testing: this record, if a stream of it could not be read and is black


class Batch(TypedDict):
    """Samples stacked: what a loader yields."""

    video: Tensor  # (B, V, T, C, H, W) uint8
    label: dict[str, Tensor]  # per label space (B,) int64, -1 where unknown; a single space is called "label"
    index: Tensor  # (B,) int64
    failures: list[Failure]
    partial: list[Failure]  # of its samples
