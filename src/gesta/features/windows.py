"""The features of windows over whole videos of any length, with their times.

A video is cut into parts of :data:`WINDOWS_PER_READ` windows, which the loader reads as if they were videos: in
parallel, with a deadline, and in bounded memory.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gesta.data.batch import Failure, Sample
from gesta.data.loader import test_loader
from gesta.data.samples import UNREADABLE, TestViews
from gesta.errors import GestaError, VideoError
from gesta.features.extract import FeatureKind, VideoFeatures, extract_loaded
from gesta.model import ClipSpec, VideoModel
from gesta.prediction.background import reading_workers
from gesta.processes import Autocast
from gesta.recipe import EvaluateConfig
from gesta.records import Record
from gesta.video.boundary import decoding
from gesta.video.clock import FALLBACK_FPS
from gesta.video.deadline import Deadline
from gesta.video.decode import VideoFile
from gesta.video.images import image_files
from gesta.video.modality import modality_of
from gesta.video.read import Selection

WINDOWS_PER_READ = 32
"""Windows that are read at once: of 16 frames of 224 pixels they take 77 MB."""


class Windows(NamedTuple):
    """Windows of ``length`` frames, each beginning ``stride`` frames after the one before.

    They cover the whole video (but for what a stride above the length leaves out): the last one begins at a multiple of
    the stride, too, and where it goes beyond the end, the last frame is repeated. Of each window the model sees as many
    frames as its clips have, evenly spaced from the first on.
    """

    length: int
    stride: int

    def starts(self, frames: int) -> range:
        """First frame of each window over a video of so many frames."""
        last = max(0, math.ceil((frames - self.length) / self.stride)) * self.stride
        return range(0, min(last, frames - 1) + 1, self.stride)  # none begins after the end, as long strides would

    def frames(self, clip: ClipSpec) -> Tensor:
        """The frames ``(T,)`` of a window that the model sees, counted from its first."""
        return torch.arange(clip.frames) * self.length // clip.frames

    def times(self, shown: np.ndarray) -> list[list[float]]:
        """Beginning and end of each window in seconds, from the times at which all frames of the video are shown."""
        step = float(np.median(np.diff(shown))) if len(shown) > 1 else 1 / FALLBACK_FPS
        times = [*shown.tolist(), float(shown[-1]) + step]
        ends = [min(start + self.length, len(shown)) for start in self.starts(len(shown))]
        return [[round(times[start], 6), round(times[end], 6)] for start, end in zip(self.starts(len(shown)), ends)]


class _FrameTimes(TestViews):
    """The times at which the frames of each record are shown: a sample's ``video`` is ``(n,)`` float64, in seconds."""

    def __getitem__(self, index: int) -> Sample | Failure:
        record = self.records[index]
        try:
            if index in self.blocked:
                raise VideoError(self.blocked[index])
            deadline = Deadline(record.path, self.timeout_s)
            with self._watched(index, deadline):
                times = torch.from_numpy(_frame_times(record, deadline))
        except UNREADABLE as error:
            return Failure(index, record.name, str(error))
        return Sample(video=times, label=None, index=index, failures=[], partial=[])


def _frame_times(record: Record, deadline: Deadline) -> np.ndarray:
    """The time of each frame in seconds; 25 frames a second are assumed where the video has no times."""
    with decoding(record.path):
        if os.path.isdir(record.path):
            return np.arange(len(image_files(record.path, modality_of(record.shows)))) / FALLBACK_FPS
        with VideoFile(record.path, deadline) as file:
            times = file.times() if file.has_times else np.arange(file.frames) / FALLBACK_FPS
    if not len(times):
        raise VideoError(f"{record.path}: holds no frame; make or copy it again")
    return times


class _VideoParts(TestViews):
    """Parts of videos: item ``index`` gives V windows of the frames from ``start`` to ``end`` of a record."""

    def __init__(self, records: Sequence[Record], clip: ClipSpec, config: EvaluateConfig, windows: Windows) -> None:
        super().__init__(records, clip, config)
        self.windows = windows

    def select(self, index: int, n: int) -> Selection:
        record = self.records[index]
        begin, end = record.start or 0, record.end or 0
        starts = torch.arange(0, max(end - begin - self.windows.length, 0) + 1, self.windows.stride)
        return Selection((starts[:, None] + self.windows.frames(self.clip)).clamp(max=n - 1))


def check_windows(windows: Windows, clip: ClipSpec) -> None:
    """Refuse windows that are shorter than the model's clip, and a stride that does not move them."""
    if windows.length < clip.frames:
        raise GestaError(
            f"--window {windows.length} is shorter than the model's clip; give {clip.frames} frames or more"
        )
    if windows.stride < 1:
        raise GestaError(f"--stride {windows.stride} does not move the window; give 1 or more")


def extract_windows(
    model: VideoModel,
    records: Sequence[Record],
    views: EvaluateConfig,
    windows: Windows,
    *,
    kind: FeatureKind = "pooled",
    device: torch.device,
    indices: Sequence[int],
    autocast: Autocast = nullcontext,
) -> Iterator[VideoFeatures]:
    """The features of windows over each record, in the order of ``indices``; arguments as of ``extract``.

    Of ``views`` short side, batch size, workers and decoder are used.
    """
    clip = model.config.clip
    check_windows(windows, clip)
    times: dict[int, np.ndarray] = {}
    failures: dict[int, str] = {}
    workers = reading_workers(views.workers, len(indices))
    for batch in test_loader(_FrameTimes(records, clip, views), indices, 1, workers):
        times |= {index: video.numpy() for index, video in zip(batch["index"].tolist(), batch["video"])}
        failures |= {failure.index: failure.reason for failure in batch["failures"]}
    cuts = {index: _cut(windows, len(times[index])) for index in indices if index in times}
    parts = [replace(records[index], start=start, end=end) for index, cut in cuts.items() for start, end in cut]
    loader = test_loader(
        _VideoParts(parts, clip, views, windows), range(len(parts)), 1, reading_workers(workers, len(parts))
    )
    how: dict[str, Any] = {"kind": kind, "batch_size": views.batch_size, "device": device, "autocast": autocast}
    computed = extract_loaded(model, loader, **how)
    for index in indices:
        if index in failures:
            yield VideoFeatures(index, None, failures[index])
        else:
            yield _joined(index, [next(computed) for _ in cuts[index]], windows.times(times[index]))


def _joined(index: int, parts: Sequence[VideoFeatures], times: list[list[float]]) -> VideoFeatures:
    """The windows of all parts of a video, up to the first that cannot be read."""
    readable = list(itertools.takewhile(lambda part: part.values is not None, parts))
    error = next((part.error for part in parts if part.error), "")
    if not readable:
        return VideoFeatures(index, None, error)
    values = torch.cat([part.values for part in readable if part.values is not None])
    return VideoFeatures(index, values, error, times[: len(values)])


def _cut(windows: Windows, frames: int) -> list[tuple[int, int]]:
    """First frame, and one past the last, of parts of :data:`WINDOWS_PER_READ` windows."""
    starts = windows.starts(frames) if frames else range(0)
    return [
        (part[0], part[-1] + windows.length)
        for part in (starts[i : i + WINDOWS_PER_READ] for i in range(0, len(starts), WINDOWS_PER_READ))
    ]
