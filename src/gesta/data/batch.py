"""Types only: what reading records gives (samples, batches of them, and failures); no code."""

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
    """One record as a model's training or evaluation sees it: V views of T frames, each of C x H x W pixels.

    In training the views are ``TrainConfig.repeats`` differently augmented clips; in testing they are clips x crops.
    """

    video: Tensor  # (V, T, C, H, W) uint8; C = 3 for each stream that the model expects
    label: Label
    index: int  # position of the record in its list
    failures: list[Failure]  # in training: records that could not be read and were replaced by this one
    partial: list[Failure]  # in testing: this record, if one of its streams is black, or ends too early


class Batch(TypedDict):
    """B samples stacked, on the CPU: what a loader yields."""

    video: Tensor  # (B, V, T, C, H, W) uint8
    # per label space (B,) int64, -1 where unknown; multi-label (B, M), rows filled with -1; a single space is "label"
    label: dict[str, Tensor]
    index: Tensor  # (B,) int64
    failures: list[Failure]  # of all its samples; in testing: records that could not be read and are not among the B
    partial: list[Failure]  # of all its samples
