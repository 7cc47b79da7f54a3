"""Which frames make a clip, and which boxes make a crop: pure functions of numbers, no file is touched here.

Dense sampling follows SlowFast: a clip of T frames, ``stride`` apart, occupies a *span* of ``T * stride`` frames of the
video (the last ``stride - 1`` of them are not shown), so neighbouring clips of a contiguous cover do not overlap and a
clip's length in seconds is ``T * stride / fps``. With ``ClipSpec.shrink`` a video of n frames that is shorter than the
span has the stride ``max(1, n // T)`` instead, so that its clips leave it only if it has fewer than T frames. Uniform
sampling follows TSN: one frame of each of T equal segments.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from gesta.config import replace
from gesta.model import ClipSpec
from gesta.recipe import ShortVideos
from gesta.video.picture import Box


def train_indices(n: int, spec: ClipSpec, short_videos: ShortVideos, generator: torch.Generator) -> Tensor:
    """Frames of one training clip: a random dense clip, or a random frame of each uniform segment.

    Args:
        n: number of frames of the video, at least 1.
        spec: frames, stride and kind of sampling.
        short_videos: what a video shorter than the span does: ``loop`` plays it again, ``clamp`` holds the last frame.
            Uniform sampling never leaves the video; with fewer frames than segments it repeats frames.
        generator: the only source of randomness.

    Returns:
        ``(T,)`` int64 frame indices, 0 to n - 1.
    """
    _check(n, spec)
    if spec.sampling == "uniform":
        return _segments(n, spec.frames, torch.rand(spec.frames, generator=generator, dtype=torch.float64))
    spec = _shrunk(n, spec)
    starts = max(n - span(spec), 0) + 1
    start = int(torch.randint(starts, (1,), generator=generator))
    return _dense(torch.tensor([start]), n, spec, short_videos)[0]


def test_indices(
    n: int,
    spec: ClipSpec,
    clips: int,
    coverage: Literal["even", "contiguous"],
    short_videos: ShortVideos,
) -> Tensor:
    """Frames of all test clips of a video; see :func:`train_indices` for ``n``, ``spec`` and ``short_videos``.

    Args:
        clips: number of clips for ``even``; not read for ``contiguous``.
        coverage: ``even`` spreads the clips' starts from the first frame to the last possible start, clip i of N at
            ``round(i * (n - span) / (N - 1))`` and a single clip in the middle. ``contiguous`` cuts the whole video
            into ``ceil(n / span)`` neighbouring clips, the last shifted back so that it ends with the video (ST-MANet's
            test protocol). Uniform sampling takes the middle frame of each segment; with several clips, clip i of N
            takes the frame at ``(i + 0.5) / N`` of each segment, so the clips' frames interleave and one clip is
            TSN's centre sampling; it always covers the whole video, and ``contiguous`` gives one clip.

    Returns:
        ``(clips, T)`` int64 frame indices, 0 to n - 1.
    """
    _check(n, spec)
    if clips < 1:
        raise ValueError(f"a test needs at least one clip, not {clips}")
    if spec.sampling == "uniform":
        count = 1 if coverage == "contiguous" else clips
        fractions = (torch.arange(count, dtype=torch.float64) + 0.5) / count
        return torch.stack([_segments(n, spec.frames, fraction.expand(spec.frames)) for fraction in fractions])
    spec = _shrunk(n, spec)
    last = max(n - span(spec), 0)
    if coverage == "contiguous":
        count = -(-n // span(spec))
        starts = (torch.arange(count) * span(spec)).clamp(max=last)
    elif clips == 1:
        starts = torch.tensor([last // 2])
    else:
        # integers only: round half up of i * last / (clips - 1)
        starts = (2 * torch.arange(clips) * last + clips - 1) // (2 * (clips - 1))
    return _dense(starts, n, spec, short_videos)


test_indices.__test__ = False  # type: ignore[attr-defined]  # pytest would take the imported name for a test


def span(spec: ClipSpec) -> int:
    """Frames of a long enough video that a dense clip occupies, ``frames * stride``."""
    return spec.frames * spec.stride


def crop_boxes(height: int, width: int, size: int, crops: Literal[1, 3]) -> list[Box]:
    """Square boxes of a test view as (top, left, height, width).

    One crop is the centre. Three lie along the longer side: left, centre, right, or top, centre, bottom of an upright
    picture; across it they are centred. On a square picture of the crop's own size the three are equal, and on a larger
    square they are left, centre, right.

    Raises:
        ValueError: a crop larger than the picture.
    """
    if min(height, width) < size:
        raise ValueError(f"a crop of {size} pixels does not fit a picture of {height} x {width}")
    down, across = height - size, width - size
    if crops == 1:
        return [(down // 2, across // 2, size, size)]
    if height > width:
        return [(top, across // 2, size, size) for top in (0, down // 2, down)]
    return [(down // 2, left, size, size) for left in (0, across // 2, across)]


def _shrunk(n: int, spec: ClipSpec) -> ClipSpec:
    """The same clip with the stride that it has in a video of ``n`` frames."""
    return replace(spec, stride=max(1, min(spec.stride, n // spec.frames))) if spec.shrink else spec


def _dense(starts: Tensor, n: int, spec: ClipSpec, short_videos: ShortVideos) -> Tensor:
    indices = starts[:, None] + torch.arange(spec.frames) * spec.stride
    # only a video shorter than the span is ever left
    return indices % n if short_videos == "loop" else indices.clamp(max=n - 1)


def _segments(n: int, frames: int, fractions: Tensor) -> Tensor:
    """One frame of each of ``frames`` equal segments of ``n`` frames, at ``fractions`` in [0, 1) of the segment."""
    segments = torch.arange(frames, dtype=torch.float64)
    return ((segments + fractions) * n / frames).long().clamp(max=n - 1)


def _check(n: int, spec: ClipSpec) -> None:
    if n < 1:
        raise ValueError(f"a video needs at least one frame, not {n}")
    if spec.frames < 1 or spec.stride < 1:
        raise ValueError(f"a clip needs at least one frame and stride 1, not {spec.frames} x {spec.stride}")
