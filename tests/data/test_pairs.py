"""Records of several streams: the same moments, boxes and flips; what is missing of a pair is said and left out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace as but
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from gesta.config import replace
from gesta.curation.check import check
from gesta.data.batch import Failure
from gesta.data.loader import test_loader
from gesta.data.samples import TestViews, TrainingClips, collate
from gesta.data.transforms import augment, training_short_side
from gesta.errors import GestaError
from gesta.model import ClipSpec, to_clips
from gesta.recipe import Augment, EvaluateConfig, TrainConfig
from gesta.records import Record, Stream
from gesta.video.depth import Depth

GREY = Depth("repeat3")
CLIP = ClipSpec(frames=4, stride=2, size=28, streams=("rgb", "depth"))
ONE = replace(CLIP, streams=())
EVERYTHING = Augment(crop="jitter", flip=0.5, rotate=10, color_jitter=0.4, randaugment=2, erasing=0.5)


def scenes(frames: int, height: int = 32, width: int = 40) -> np.ndarray:
    """Grey pictures, all different, none symmetric."""
    rows, columns = np.mgrid[:height, :width]
    picture = 40 + 60 * rows / height + 90 * columns / width
    return np.stack([picture + 4 * i for i in range(frames)]).astype(np.uint8)


@pytest.fixture
def pair(tmp_path: Path) -> Callable[..., Record]:
    """A record whose RGB shows the same grey as its depth."""

    def make(name: str = "a", rgb: np.ndarray | None = None, depth: np.ndarray | None = None) -> Record:
        for kind, pictures in (("rgb", scenes(12) if rgb is None else rgb), ("depth", depth)):
            folder = tmp_path / f"{name}_{kind}"
            folder.mkdir(exist_ok=True)
            for i, picture in enumerate(scenes(12) if pictures is None else pictures):
                grey = Image.fromarray(picture)
                (grey.convert("RGB") if kind == "rgb" else grey).save(folder / f"{i:06d}.png")
        other = Stream(path=str(tmp_path / f"{name}_depth"), shows=GREY)
        return Record(path=str(tmp_path / f"{name}_rgb"), name=name, label=0, paired=(other,))

    return make


def halves(video: Tensor) -> tuple[Tensor, Tensor]:
    return video[..., :3, :, :], video[..., 3:, :, :]


def test_streams_of_a_record(pair: Callable[..., Record]) -> None:
    record = pair()
    rgb, depth = record.streams
    assert rgb == but(record, paired=()) and depth == but(rgb, path=record.paired[0].path, shows=GREY)
    assert rgb.streams == [rgb]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"repeats": 2},
        {"augment": Augment(crop="jitter", flip=0.5)},
        {"augment": EVERYTHING},
    ],
)
def test_one_draw_serves_all_streams(pair: Callable[..., Record], changes: dict[str, object]) -> None:
    config = replace(TrainConfig(), **changes)
    side = training_short_side(config.augment, CLIP.size)  # so that no picture is scaled: depth is scaled unlike RGB
    pictures = scenes(12, side, side + 8)
    clips = TrainingClips([pair("a", pictures, pictures)], CLIP, config, ["any"])
    seen = set()
    for epoch in range(8):
        video = clips[epoch, 0]["video"]
        assert video.shape == (config.repeats, 4, 6, 28, 28)
        rgb, depth = halves(video)
        assert torch.equal(rgb, depth)
        seen.add(video.numpy().tobytes())
    assert len(seen) == 8


def test_a_pair_begins_like_its_first_stream_alone(pair: Callable[..., Record]) -> None:
    """What a network of one modality is trained with and its part of a pair are the same pictures."""
    record = pair()
    both = TrainingClips([record], CLIP, TrainConfig(), ["any"])
    alone = [TrainingClips([stream], ONE, TrainConfig(), ["any"]) for stream in record.streams]
    for epoch in range(4):
        parts = torch.cat([dataset[epoch, 0]["video"] for dataset in alone], 2)
        assert torch.equal(both[epoch, 0]["video"], parts)


def test_unequal_numbers_of_frames_lie_over_the_same_time(pair: Callable[..., Record]) -> None:
    flat = np.tile(np.arange(12, dtype=np.uint8)[:, None, None], (1, 32, 40))
    record = pair("a", flat, flat[::2])
    sample = TestViews([record], CLIP, EvaluateConfig(clips=4, crops=3))[0]
    assert not isinstance(sample, Failure)
    rgb, depth = (half[:, :, 0, 5, 5] for half in halves(sample["video"]))
    assert rgb.shape == (12, 4) and len(rgb.unique()) > 6 and torch.equal(depth, rgb // 2 * 2)
    drawn = TrainingClips([record], CLIP, TrainConfig(), ["any"])
    for epoch in range(4):
        rgb, depth = (half[0, :, 0, 5, 5] for half in halves(drawn[epoch, 0]["video"]))
        assert torch.equal(depth, rgb // 2 * 2)
    report = check([record], flip=False, workers=0, progress=False)
    assert report.ok and report.videos == 2
    (finding,) = [finding for finding in report.findings if finding.kind == "unequal pair"]
    assert "_rgb 12 and " in finding.text and "_depth 6" in finding.text
    assert not [f for f in check([pair("b")], flip=False, workers=0, progress=False).findings if "pair" in f.kind]


def test_pictures_of_other_proportions_show_the_same_shares() -> None:
    wide, narrow = (
        torch.linspace(0, 255, width).round().byte().expand(2, 3, height, width)
        for height, width in ((120, 240), (360, 240))
    )
    for seed in range(20):
        draw = torch.Generator().manual_seed(seed)
        both = augment([wide, narrow], Augment(scale=(0.2, 1.0), flip=0.0), ONE, False, draw)
        assert both.shape == (2, 6, 28, 28)
        torch.testing.assert_close(both[:, :3].float(), both[:, 3:].float(), atol=2, rtol=0)  # a pixel is one level


def test_a_missing_stream_is_said_and_left_out(pair: Callable[..., Record], tmp_path: Path) -> None:
    whole, half, other, none = pair("whole"), pair("half"), pair("other"), pair("none")
    half = but(half, paired=(but(half.paired[0], path=str(tmp_path / "gone")),))
    other = but(other, path=str(tmp_path / "lost"))
    none = but(none, path=str(tmp_path / "lost"), paired=half.paired)
    views = TestViews([whole, half, other, none], CLIP, EvaluateConfig(clips=2, crops=1))
    (batch,) = test_loader(views, range(4), 4, 0)
    assert batch["index"].tolist() == [0, 1, 2]
    assert [(f.index, f.name) for f in batch["partial"]] == [(1, "half"), (2, "other")]
    assert "gone" in batch["partial"][0].reason and "lost" in batch["partial"][1].reason
    (failure,) = batch["failures"]
    assert failure.index == 3 and "lost" in failure.reason and "gone" in failure.reason
    rgb, depth = halves(batch["video"])
    assert torch.equal(rgb[1], rgb[0]) and torch.equal(depth[2], depth[0]) and not depth[1].any() and not rgb[2].any()
    clips = to_clips(batch["video"], CLIP)
    there = [[bool(part.isfinite().all()) for part in clip.split(3)] for clip in clips]
    assert there == [[True, True]] * 2 + [[True, False]] * 2 + [[False, True]] * 2
    assert clips[2, 3:].isnan().all() and clips[4, :3].isnan().all()
    black = torch.zeros(1, 1, 4, 3, 28, 28, dtype=torch.uint8)
    assert to_clips(black, ONE).isfinite().all()  # of one stream, black is a picture


def test_streams_that_a_list_does_not_have(pair: Callable[..., Record]) -> None:
    """A model of both on the data of one: what it lacks was not asked for, so nothing is wrong with the videos."""
    record = pair()
    for kind, stream in enumerate(record.streams):
        sample = TestViews([stream], CLIP, EvaluateConfig(clips=1, crops=1))[0]
        assert not isinstance(sample, Failure) and not sample["partial"]
        parts = halves(sample["video"])
        assert parts[kind].any() and not parts[1 - kind].any()


def test_training_takes_whole_pairs_only(pair: Callable[..., Record], tmp_path: Path) -> None:
    good, bad = pair("good"), pair("bad")
    bad = but(bad, paired=(but(bad.paired[0], path=str(tmp_path / "gone")),))
    sample = TrainingClips([good, bad], CLIP, TrainConfig(), ["any"])[0, 1]
    assert sample["index"] == 0 and [f.name for f in sample["failures"]] == ["bad"]
    assert "gone" in sample["failures"][0].reason and not collate([sample])["partial"]
    with pytest.raises(
        GestaError, match=r"good: does not have all of rgb, depth, which the model expects; give them to it"
    ):
        TrainingClips([good.streams[0]], CLIP, TrainConfig(), ["any"])
    for make in (
        lambda: TrainingClips([good], ONE, TrainConfig(), ["any"]),
        lambda: TestViews([good], ONE, EvaluateConfig()),
    ):
        with pytest.raises(GestaError, match=r"the model takes only one: choose data\.modality rgb"):
            make()


def test_normalisation_of_both(pair: Callable[..., Record]) -> None:
    spec = replace(CLIP, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    batch = collate([TestViews([pair()], spec, EvaluateConfig(clips=1, crops=1))[0]])
    rgb, depth = to_clips(batch["video"], spec).split(3, 1)
    assert torch.equal(rgb, depth) and not math.isnan(float(rgb.sum()))
    alone = batch["video"][:, :, :, :3]
    assert torch.equal(rgb, to_clips(alone, replace(spec, streams=())))
    with pytest.raises(
        GestaError, match=r"clips of rgb and depth, 6 channels, and was given 3; give clips of all its streams"
    ):
        to_clips(alone, spec)
