"""Scores of timed actions: the public definitions on cases small enough to count by hand, and whole timelines."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from test_timeline import SHADES, shade_model, shaded_video

from gesta.checkpoint import TrainedModel
from gesta.errors import GestaError
from gesta.evaluation.localisation import (
    Run,
    Span,
    VideoSegments,
    detection_ap,
    edit_score,
    frame_labels,
    match_runs,
    measure_localisation,
    runs,
)
from gesta.evaluation.result import Result
from gesta.marionette.dataset import family_clips
from gesta.marionette.filming import count_frames, segments
from gesta.marionette.motions.blocks import FPS
from gesta.marionette.motions.kitchen import NOUNS, VERBS
from gesta.prediction.localise import evaluate_timeline
from gesta.prediction.timeline import TimelineConfig
from gesta.records import Record
from gesta.video.depth import Depth

SECONDS = np.arange(10.0)  # ten frames, one a second


def test_frames_are_those_that_begin_in_a_segment() -> None:
    labels = frame_labels([Span(0, 0, 3), Span(1, 4.0004, 6), Span(0, 5, 9)], SECONDS)
    assert labels.tolist() == [0, 0, 0, -1, -1, 0, 0, 0, 0, -1]
    assert frame_labels([Span(1, 4.00004, 6)], SECONDS).tolist()[4] == 1  # rounded
    assert runs(labels) == [Run(0, 0, 3), Run(0, 5, 9)]
    assert runs(frame_labels([], SECONDS)) == runs(np.empty(0, np.int64)) == []


def test_edit_score() -> None:
    assert edit_score([], []) == 100 and edit_score([1], []) == edit_score([], [1]) == 0
    assert edit_score([0, 1, 2, 3], [0, 1, 2, 3]) == 100
    assert edit_score([0, 1, 2, 3], [0, 2, 3]) == 100 * (1 - 1 / 4)  # 1 is missing
    assert edit_score([0, 1], [1, 0, 1, 4]) == 100 * (1 - 2 / 4)  # 1 before it and 4 behind it
    assert edit_score([0, 1, 2], [2, 1, 0]) == pytest.approx(100 / 3)  # two are exchanged: two substitutions


def test_f1_counts_each_true_segment_once() -> None:
    true = [Run(0, 0, 10), Run(1, 10, 20)]
    # IoU of 4 frames of 10: right at 25 %, wrong at 50 %; a second one of the same true segment is wrong
    predicted = [Run(0, 0, 4), Run(0, 6, 10), Run(1, 10, 20), Run(2, 20, 30)]
    assert match_runs(true, predicted, 0.25) == (2, 2, 0)
    assert match_runs(true, predicted, 0.5) == (1, 3, 1)
    assert match_runs(true, [], 0.5) == (0, 0, 2) and match_runs([], predicted, 0.5) == (0, 4, 0)
    assert match_runs([Run(0, 0, 10)], [Run(0, 5, 10)], 0.5) == (1, 0, 0)  # exactly half


def test_average_precision_of_segments() -> None:
    """Three true segments; by falling score: right, wrong, right, wrong. Recall 1/3 at precision 1, 2/3 at 2/3."""
    true = {0: [Span(0, 0, 10), Span(0, 20, 30)], 1: [Span(0, 0, 10)]}
    predicted = [
        (0, Span(0, 0, 9, 0.9)),  # IoU 0.9
        (0, Span(0, 0, 10, 0.8)),  # IoU 1 with one that is taken
        (1, Span(0, 4, 10, 0.7)),  # IoU 0.6
        (1, Span(0, 20, 30, 0.6)),  # nothing there
    ]
    assert detection_ap(true, predicted, 0.5) == pytest.approx(100 * (1 / 3 * 1 + 1 / 3 * 2 / 3))
    assert detection_ap(true, predicted[::-1], 0.7) == pytest.approx(
        100 / 3
    )  # 0.6 is too little; the order is the score's
    assert detection_ap(true, [], 0.5) == 0
    # interpolated: wrong, right, right gives precision 2/3 at recalls 1/3 and 2/3 (0.5 at 1/3 without it)
    late = [(1, Span(0, 20, 30, 0.9)), (0, Span(0, 0, 10, 0.8)), (0, Span(0, 20, 30, 0.7))]
    assert detection_ap(true, late, 0.5) == pytest.approx(100 * 2 / 3 * 2 / 3)


def test_metrics_of_two_videos_of_which_one_failed() -> None:
    """The first: frames 0 to 4 are class 0, 3 of them found; 5 to 9 background. The second counts as wrong."""
    found = VideoSegments(SECONDS, [Span(0, 0, 5)], [Span(0, 0, 3, 0.9), Span(1, 3, 4, 0.8)])
    failed = VideoSegments(SECONDS, [Span(0, 0, 5)], failed=True)
    metrics, per_class = measure_localisation([found, failed], 2)
    assert metrics["frame_accuracy"] == 100 * 8 / 20  # 3 of class 0 and 5 of background
    assert metrics["edit"] == (50 + 0) / 2  # [0] and [0, 1]: one too many of two
    assert metrics["f1@50"] == 100 * 2 / (2 + 1 + 1)  # IoU 3/5: one right, one wrong, one missed
    assert [metrics[f"mAP@{tiou}"] for tiou in (0.3, 0.6, 0.7)] == [50, 50, 0]  # of class 0 alone, one of two found
    assert metrics["mAP"] == pytest.approx((4 * 50 + 0) / 5) and per_class == [pytest.approx(40), None]
    assert "edit" not in measure_localisation([found], 2, one_class=False)[0]
    unreadable = VideoSegments(np.empty(0), [Span(0, 0.2, 0.4), Span(1, 1, 1.01)], failed=True)  # 5 frames, and 1
    assert measure_localisation([found, unreadable], 2)[0]["frame_accuracy"] == 100 * 8 / 16


def test_the_kitchens_own_segments_are_all_right() -> None:
    videos = []
    for clip in family_clips("kitchen", 40, 0):
        times = np.arange(count_frames(clip, 0, "kitchen")) / FPS
        spans = [
            Span(VERBS.index(s.verb) * len(NOUNS) + NOUNS.index(s.noun), s.start / FPS, s.end / FPS)
            for s in segments(clip, 0)
        ]
        videos.append(VideoSegments(times, spans, spans))
    metrics, per_class = measure_localisation(videos, len(VERBS) * len(NOUNS))
    assert set(metrics.values()) == {100.0} and {value for value in per_class if value is not None} == {100.0}
    shifted = [
        VideoSegments(v.times, v.true, [s._replace(start=s.start + 2, end=s.end + 2) for s in v.true]) for v in videos
    ]
    metrics, _ = measure_localisation(shifted, len(VERBS) * len(NOUNS))
    assert metrics["edit"] == 100 and metrics["frame_accuracy"] < 60 and metrics["mAP@0.7"] == 0  # a control


def test_a_list_is_scored(tmp_path: Path) -> None:
    """Dark for 2 s, grey for 2 s; windows of 4 of 8 frames see the change to within half a window."""
    video = str(shaded_video(tmp_path / "a.mp4", [("dark", 20), ("grey", 20)]))
    gone = str(tmp_path / "gone.mp4")
    records = [
        Record(path=video, name="a 0", label=0, start=0, end=20),
        Record(path=video, name="a 1", label=1, seconds=(2.0, 4.0)),
        Record(path=gone, name="gone", label=2, start=3, end=9),
    ]
    config = TimelineConfig(hop=0.25, smoothing=1, join=0.1)
    result = evaluate_timeline(shade_model(), records, config=config, classes=SHADES)
    assert [v.true for v in result.videos] == [[(0, 2, "dark"), (2, 4, "grey")], [(0.12, 0.36, "bright")]]
    assert [p[2] for p in result.videos[0].predicted] == ["dark", "grey"]
    assert result.metrics["f1@50"] == pytest.approx(100 * 4 / 5) and result.metrics["edit"] == 50
    alone = evaluate_timeline(shade_model(), records[:2], config=config, classes=SHADES).metrics["frame_accuracy"]
    assert alone > 85 and result.metrics["frame_accuracy"] == pytest.approx(alone * 40 / (40 + 6))
    assert result.per_class["bright"] == 0
    assert [item["name"] for item in result.failures] == [gone] and "1 of 2 videos scored, 1 failed" in str(result)
    assert (result.protocol.hop, result.protocol.release, result.protocol.sampling) == (0.25, 0.25, "dense 4×2")
    cropped = TrainedModel(model=shade_model(), classes=SHADES, metadata={}, person_crop=True)
    remark = evaluate_timeline(cropped, records[:2], config=config).remarks[0]
    assert "trained on RGB cropped to the person, and these videos show RGB in whole frames" in remark
    depth = TrainedModel(model=shade_model(), classes=SHADES, metadata={}, shows=Depth())  # the records are RGB
    assert evaluate_timeline(depth, records[:2], config=config).videos[0].predicted == result.videos[0].predicted
    assert result.protocol.join == 0.1 and "joined if less than 0.1 s apart" in str(result.protocol)
    out = result.write(tmp_path / "timeline.json")
    assert json.loads(out.read_text())["metrics"] == result.metrics
    with pytest.raises(GestaError, match="timeline"):
        Result.read(out)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (Record(path="a.mp4", name="a"), "has no label"),
        (Record(path="a.mp4", name="a", label=1), "no video of the list has segments"),
    ],
)
def test_what_cannot_be_compared_is_refused(record: Record, message: str) -> None:
    with pytest.raises(GestaError, match=message):
        evaluate_timeline(shade_model(), [record], classes=SHADES)
