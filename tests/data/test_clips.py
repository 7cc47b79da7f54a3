"""Clip indices for every video length from 1 to 300, and crop boxes."""

from __future__ import annotations

import pytest
import torch

from gesta.data import clips
from gesta.data.clips import crop_boxes, span, train_indices
from gesta.model import ClipSpec

DENSE = [ClipSpec(frames=16, stride=4), ClipSpec(frames=8, stride=1), ClipSpec(frames=1, stride=3)]
UNIFORM = [ClipSpec(frames=16, sampling="uniform"), ClipSpec(frames=1, sampling="uniform")]
LENGTHS = range(1, 301)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def steps(indices: torch.Tensor) -> torch.Tensor:
    return indices[..., 1:] - indices[..., :-1]


@pytest.mark.parametrize("spec", DENSE, ids=str)
def test_dense_training_clips_are_evenly_spaced_inside_the_video(spec: ClipSpec) -> None:
    draw = generator()
    for n in LENGTHS:
        for short in ("loop", "clamp"):
            indices = train_indices(n, spec, short, draw)
            assert indices.shape == (spec.frames,) and indices.dtype == torch.int64
            assert indices.min() >= 0 and indices.max() < n
            if n >= span(spec):
                assert (steps(indices) == spec.stride).all()
            elif short == "clamp":
                assert indices.tolist() == [min(i * spec.stride, n - 1) for i in range(spec.frames)]
            else:
                assert indices.tolist() == [i * spec.stride % n for i in range(spec.frames)]


def test_dense_training_starts_reach_both_ends_equally_often() -> None:
    spec, draw = ClipSpec(frames=4, stride=2), generator(1)
    starts = torch.stack([train_indices(10, spec, "loop", draw)[0] for _ in range(3000)])
    counts = starts.bincount(minlength=4)  # span 8 in 10 frames: starts 0, 1, 2
    assert counts[3:].sum() == 0
    assert (counts[:3] > 900).all()


@pytest.mark.parametrize("spec", UNIFORM, ids=str)
def test_uniform_training_takes_one_frame_of_each_segment(spec: ClipSpec) -> None:
    draw = generator()
    for n in LENGTHS:
        indices = train_indices(n, spec, "loop", draw)
        for i, index in enumerate(indices.tolist()):
            assert int(i * n / spec.frames) <= index <= int((i + 1) * n / spec.frames) and index < n


def test_uniform_segments_are_drawn_independently() -> None:
    spec, draw = ClipSpec(frames=2, sampling="uniform"), generator()
    pairs = {tuple(train_indices(6, spec, "loop", draw).tolist()) for _ in range(200)}
    assert pairs == {(a, b) for a in (0, 1, 2) for b in (3, 4, 5)}


def test_the_generator_alone_decides() -> None:
    for spec in DENSE + UNIFORM:
        first = [train_indices(n, spec, "loop", generator(7)).tolist() for n in LENGTHS]
        torch.manual_seed(99)
        assert first == [train_indices(n, spec, "loop", generator(7)).tolist() for n in LENGTHS]


@pytest.mark.parametrize("spec", DENSE, ids=str)
@pytest.mark.parametrize("count", [1, 2, 5, 10])
def test_even_clips_run_from_the_first_frame_to_the_last_possible_start(spec: ClipSpec, count: int) -> None:
    for n in LENGTHS:
        indices = clips.test_indices(n, spec, count, "even", "clamp")
        assert indices.shape == (count, spec.frames)
        assert indices.min() >= 0 and indices.max() < n
        assert (steps(indices) >= 0).all()
        starts, last = indices[:, 0], max(n - span(spec), 0)
        if count == 1:
            assert starts.item() == last // 2
        else:
            exact = torch.arange(count) * last / (count - 1)
            assert ((starts - exact).abs() <= 0.5).all() and starts[0] == 0 and starts[-1] == last


@pytest.mark.parametrize("spec", DENSE, ids=str)
def test_contiguous_clips_cover_the_video_and_end_with_it(spec: ClipSpec) -> None:
    for n in LENGTHS:
        indices = clips.test_indices(n, spec, 1, "contiguous", "loop")
        assert len(indices) == -(-n // span(spec)) >= 1
        assert indices.min() >= 0 and indices.max() < n
        starts = indices[:, 0].tolist()
        if n < span(spec):
            assert starts == [0]
            continue
        assert starts[0] == 0 and starts[-1] + span(spec) == n
        assert starts[:-1] == [i * span(spec) for i in range(len(starts) - 1)]
        covered = {start + i for start in starts for i in range(span(spec))}
        assert covered == set(range(n))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_uniform_test_clips_interleave_and_one_is_the_centre(count: int) -> None:
    spec = ClipSpec(frames=8, sampling="uniform")
    for n in LENGTHS:
        indices = clips.test_indices(n, spec, count, "even", "loop")
        assert indices.shape == (count, 8)
        assert indices.min() >= 0 and indices.max() < n
        assert (steps(indices) >= 0).all()
        assert (indices[1:] >= indices[:-1]).all()
    assert clips.test_indices(80, spec, 1, "even", "loop").tolist() == [[5, 15, 25, 35, 45, 55, 65, 75]]
    assert clips.test_indices(80, spec, 4, "contiguous", "loop").shape == (1, 8)


def test_short_videos_loop_or_hold_the_last_frame() -> None:
    spec = ClipSpec(frames=4, stride=2)
    assert clips.test_indices(3, spec, 1, "even", "loop").tolist() == [[0, 2, 1, 0]]
    assert clips.test_indices(3, spec, 1, "even", "clamp").tolist() == [[0, 2, 2, 2]]
    # shorter than the span, but long enough for the frames that are shown
    assert clips.test_indices(7, spec, 1, "even", "loop").tolist() == [[0, 2, 4, 6]]


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (9, [0, 2, 4, 6]),  # stride 9 // 4 = 2, a span of 8, its middle start (9 - 8) // 2 = 0
        (12, [0, 3, 6, 9]),  # stride 3
        (19, [1, 5, 9, 13]),  # stride 4, starts 0 to 3
        (20, [0, 5, 10, 15]),  # stride 5: the video is as long as a clip
        (24, [2, 7, 12, 17]),  # longer than a clip
        (7, [1, 2, 3, 4]),  # stride 1
        (3, [0, 1, 2, 0]),  # fewer frames than a clip has: from the beginning again
    ],
)
def test_the_stride_shrinks_in_short_videos(n: int, expected: list[int]) -> None:
    spec = ClipSpec(frames=4, stride=5, shrink=True)
    assert clips.test_indices(n, spec, 1, "even", "loop").tolist() == [expected]
    starts = {tuple(train_indices(n, spec, "loop", generator(seed)).tolist()) for seed in range(60)}
    stride = expected[1] - expected[0]
    assert starts == {tuple((s + stride * i) % n for i in range(4)) for s in range(max(n - 4 * stride, 0) + 1)}
    assert clips.test_indices(n, spec, 1, "contiguous", "loop").shape == (-(-n // (4 * stride)), 4)


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one frame"):
        train_indices(0, DENSE[0], "loop", generator())
    with pytest.raises(ValueError, match="at least one clip"):
        clips.test_indices(10, DENSE[0], 0, "even", "loop")
    with pytest.raises(ValueError, match="does not fit"):
        crop_boxes(100, 300, 112, 1)


def test_crops() -> None:
    assert crop_boxes(128, 171, 112, 1) == [(8, 29, 112, 112)]
    assert crop_boxes(128, 171, 112, 3) == [(8, 0, 112, 112), (8, 29, 112, 112), (8, 59, 112, 112)]
    assert crop_boxes(171, 128, 128, 3) == [(0, 0, 128, 128), (21, 0, 128, 128), (43, 0, 128, 128)]
    assert crop_boxes(112, 112, 112, 3) == [(0, 0, 112, 112)] * 3
