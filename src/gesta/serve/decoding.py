"""What a decoding process does: a video that was uploaded becomes clips, within limits.

This module runs in processes of :class:`gesta.data.workers.Worker`, which may be killed at any moment. Clips are sent
back as NumPy arrays: torch would pass them through shared memory, of which containers have little.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from gesta.data.batch import Failure
from gesta.data.samples import UNREADABLE, TestViews
from gesta.model import ClipSpec
from gesta.prediction.predict import record_of
from gesta.prediction.timeline import TimelineConfig, cut_windows
from gesta.prediction.windows import WindowFrames
from gesta.recipe import EvaluateConfig
from gesta.serve.limits import Limits
from gesta.video.container import limit_pixels, open_video
from gesta.video.deadline import Deadline
from gesta.video.modality import Shows
from gesta.video.probe import probe

WINDOWS_AT_ONCE = 8
"""Windows of a timeline that are sent together."""

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


class Job(NamedTuple):
    """A video to decode.

    Attributes:
        path: where it lies.
        name: what sentences call it.
        spec: the clips that the model expects.
        views: how a video as a whole is shown to the model.
        shows: what the model was trained on.
        timeline: how the windows of a timeline are cut; None shows the video as a whole.
        limits: of the server.
    """

    path: str
    name: str
    spec: ClipSpec
    views: EvaluateConfig
    shows: Shows | None
    timeline: TimelineConfig | None
    limits: Limits


class Clips(NamedTuple):
    """What a video, or a part of it, shows to the model.

    Attributes:
        pixels: of views or windows, ``(N, T, C, H, W)``.
        times: (start, end) of each window in seconds; empty for the views of a whole video.
        is_last: whether nothing follows.
        error: why the end of the video is missing, or why it cannot be read at all.
    """

    pixels: Pixels
    times: list[tuple[float, float]]
    is_last: bool = True
    error: str = ""


class Refused(NamedTuple):
    """A video that is not decoded: a status of HTTP and a sentence."""

    status: int
    sentence: str


_rest: tuple[Job, Iterator[WindowFrames]] | None = None
"""The timeline of which windows have been sent, and those that follow."""


def decode(job: Job | None) -> Clips | Refused:
    """Decode a video: all of its views, or the first windows of a timeline; None asks for the windows that follow."""
    global _rest
    if job is None:
        assert _rest is not None
        return _next_windows(*_rest)
    _limit_process(job.limits)
    try:
        if refused := _examine(job):
            return refused
        if job.timeline is None:
            return _whole(job)
    except UNREADABLE as error:
        return Refused(422, _named(job, str(error) or type(error).__name__))
    _rest = job, cut_windows(job.path, job.spec, job.timeline, job.views, job.shows)
    return _next_windows(*_rest)


def _examine(job: Job) -> Refused | None:
    """Refuse a video that is beyond the limits, by what its packets and its first picture say."""
    limits, deadline = job.limits, Deadline(job.path, job.limits.decode_seconds)
    with open_video(job.path, deadline) as (_, stream):
        size = stream.width, stream.height
    if size[0] * size[1] <= limits.max_pixels:
        info = probe(job.path, shows=job.shows, deadline=deadline)
        size = info.width, info.height
    beyond = ""
    if size[0] * size[1] > limits.max_pixels:
        beyond = f"its frames have {size[0]} x {size[1]} pixels, and {limits.max_pixels} are allowed; make them smaller"
    elif info.frames > limits.max_frames:
        beyond = f"it has {info.frames} frames, and {limits.max_frames} are allowed; send a part of it"
    elif info.duration > limits.max_seconds:
        beyond = f"it lasts {info.duration:.1f} seconds, and {limits.max_seconds:g} are allowed; send a part of it"
    return Refused(422, f"{job.name}: {beyond}") if beyond else None


def _whole(job: Job) -> Clips | Refused:
    views = TestViews([record_of(job.path, job.shows, False)], job.spec, job.views)
    views.timeout_s = job.limits.decode_seconds
    sample = views[0]
    if isinstance(sample, Failure):
        return Refused(422, _named(job, sample.reason))
    reasons = "; ".join(failure.reason for failure in sample["partial"])
    return Clips(sample["video"].contiguous().numpy(), [], error=_named(job, reasons))


def _next_windows(job: Job, windows: Iterator[WindowFrames]) -> Clips:
    batch: list[WindowFrames] = []
    error, is_last = "", True
    try:
        for window in windows:
            batch.append(window)
            if len(batch) == WINDOWS_AT_ONCE:
                is_last = False
                break
    except UNREADABLE as problem:
        error = _named(job, str(problem) or type(problem).__name__)
    pixels = torch.stack([w.frames for w in batch]).numpy() if batch else np.empty((0,), np.uint8)
    return Clips(pixels, [(w.start, w.end) for w in batch], is_last, error)


def _named(job: Job, sentence: str) -> str:
    return sentence.replace(job.path, job.name)


# --- limits of the process -------------------------------------------------------------------------------------------

_is_limited = False


def _limit_process(limits: Limits) -> None:
    """Let this process have no more memory and decode no larger pictures than allowed, and compute in one thread."""
    global _is_limited
    if _is_limited:
        return
    _is_limited = True
    # it reaches all processes of a service: the server then finishes what was accepted, and ends its processes itself
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)
    limit_pixels(limits.max_pixels)
    try:
        import resource  # absent from Windows

        with open("/proc/self/statm") as file:  # absent from macOS
            taken = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (ImportError, OSError):
        return
    most, hard = taken + limits.decode_memory * 2**20, resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
