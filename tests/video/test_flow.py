"""Optical flow: pictures of it are made, read as a modality, and augmented as what they are."""

import builtins
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from gesta.config import check
from gesta.curation.check import check as check_data
from gesta.curation.prepare import prepare
from gesta.data.frame_cache import FrameCache
from gesta.data.lists import Folder, Lists
from gesta.data.samples import TestViews, TrainingClips
from gesta.data.transforms import augment, change_flow, crop_views, flow_change
from gesta.errors import GestaError, VideoError
from gesta.marionette.encode import write_video
from gesta.model import ClipSpec
from gesta.recipe import Augment, EvaluateConfig, TrainConfig
from gesta.video.flow import RANGE, STILL, Flow, flow_of
from gesta.video.read import read, stream

STEP = (3, -2)
"""Pixels to the right and down by which the square of the clips moves per frame."""

SIDE = 64


def moving_square(frames: int = 5, side: int = SIDE, step: tuple[float, float] = STEP) -> np.ndarray:
    """A textured square of 28 pixels in front of grey, ``(T, side, side, 3)``."""
    texture = np.asarray(Image.fromarray(np.random.default_rng(0).integers(0, 255, (7, 7), np.uint8)).resize((28, 28)))
    clip = np.full((frames, side, side, 3), 90, np.uint8)
    for t in range(frames):
        left, top = round(10 + step[0] * t), round(26 + step[1] * t)
        clip[t, top : top + 28, left : left + 28] = texture[..., None]
    return clip


def displacement(levels: Tensor | np.ndarray, short: int = SIDE) -> np.ndarray:
    """Levels ``(…, C, H, W)`` as pixels of pictures of that short side."""
    return (np.asarray(levels)[..., :2, :, :].astype(float) - STILL) / 127 * RANGE * short


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Videos of two classes, one of them broken, and what was prepared of them, in two calls."""
    home = tmp_path_factory.mktemp("flow")
    videos, flow = home / "videos", home / "flow"
    for place, name in enumerate(("a/1", "a/2", "b/3")):
        write_video(np.roll(moving_square(), -5 * place, 1), videos / f"{name}.mp4", "h264", 25)  # type: ignore[arg-type]
    (videos / "b/4.mp4").write_bytes(b"no video")
    first = prepare(videos, flow, flow=True, workers=0)
    assert (first.made, len(first.left_out)) == (3, 1) and "b/4.mp4" in first.left_out[0]
    again = prepare(videos, flow, flow=True, workers=0)
    assert (again.made, again.kept) == (0, 3)
    (videos / "b/4.mp4").unlink()
    return str(videos), str(flow)


def test_a_moving_square_moves_by_as_much_as_it_does(folders: tuple[str, str]) -> None:
    pictures = sorted(os.listdir(f"{folders[1]}/a/1"))
    assert pictures == [f"flow_{axis}_{t:05d}.png" for axis in "xy" for t in range(1, 6)]
    described = json.loads(Path(folders[1], "prepare.json").read_text())["flow"]
    assert described["range"] == RANGE
    flow = read(f"{folders[1]}/a/1", torch.arange, shows=Flow())
    assert flow.shape == (5, 3, SIDE, SIDE) and (flow[:, 2] == STILL).all()
    assert torch.equal(flow[3], flow[4])  # nothing follows the last frame
    moved = displacement(flow)
    for t in range(4):
        left, top = 10 + 3 * t, 26 - 2 * t
        inside = moved[t, :, top + 6 : top + 22, left + 6 : left + 22]
        assert np.allclose(inside.mean((1, 2)), STEP, atol=0.3), t
    half = read(f"{folders[1]}/a/1", torch.arange, shows=Flow(), short_side=SIDE // 2)
    assert abs(displacement(half, SIDE)[0, 0, 15:22, 8:15].mean() - 3) < 0.4  # levels do not depend on the size
    assert torch.equal(torch.stack([frame.image for frame in stream(f"{folders[1]}/a/1", shows=Flow())]), flow)


def test_augmented_flow_is_the_flow_of_augmented_frames() -> None:
    """Turned, cropped to a rectangle, scaled to a square and mirrored: what DIS then sees is what the flow says."""
    video = moving_square(2, 96, (2, 1))
    rgb = torch.from_numpy(video).permute(0, 3, 1, 2)
    levels = torch.from_numpy(np.stack(list(flow_of(video)))).permute(0, 3, 1, 2)
    flow = torch.cat([levels, torch.full_like(levels[:, :1], STILL)], 1)
    spec = ClipSpec(frames=2, size=96, streams=("rgb", "flow"))
    config = Augment(crop="short_side", scale=(0.6, 0.9), independent_sides=True, rotate=40, rotate_probability=1)
    for seed, flip in ((0, False), (1, True), (2, True)):
        generator = torch.Generator().manual_seed(seed)
        both = augment([rgb, flow], config, spec, flip, generator, ("rgb", "flow"))
        frames, given = both[:, :3], both[:, 3:]
        seen = np.stack(list(flow_of(np.ascontiguousarray(frames.permute(0, 2, 3, 1).numpy()))))[0].transpose(2, 0, 1)
        square = (frames[0, 0] != 90) & (frames[0, 0] != 0)
        moves = square.numpy() & (abs(displacement(given[0], 96)).sum(0) > 1)
        assert moves.sum() > 300
        expected, found = (displacement(part, 96)[:, moves].mean(1) for part in (seen, given[0]))
        assert np.allclose(expected, found, atol=0.5), (seed, expected, found)


def test_changes_of_displacements() -> None:
    right = torch.full((1, 1, 3, 4, 4), STILL, dtype=torch.uint8)
    right[:, :, 0] += 20
    for change, expected in (
        (flow_change((1, 1), flip=True), (-20, 0)),
        (flow_change((1, 1), angle=90), (0, -20)),  # counter-clockwise: what went to the right goes up
        (flow_change((2, 1)), (40, 0)),
        (flow_change((9, 1)), (127, 0)),  # held at the border
    ):
        assert change_flow(right, change)[0, 0, :, 0, 0].tolist() == [STILL + d for d in (*expected, 0)]
    assert torch.equal(change_flow(right, flow_change((1, 1))), right)
    wide = right.repeat(1, 1, 1, 2, 4)  # 8 × 16
    assert crop_views(wide, 4, 1, modality="flow")[0, 0, 0, 0, 0] == STILL + 40
    assert crop_views(wide, 4, 1, True, "flow")[0, 0, 0, 0, 0] == STILL + 20  # half as wide, then twice as large
    assert crop_views(wide, 4, 1)[0, 0, 0, 0, 0] == STILL + 20  # colours stay


def test_folders_and_lists_read_it_beside_the_videos(folders: tuple[str, str], tmp_path: Path) -> None:
    videos, flow = folders
    alone = Folder(root=videos, val=0, modality="flow", flow=flow)
    assert [(r.name, r.path, r.shows) for r in alone.records("train")][:1] == [("a/1.mp4", f"{flow}/a/1", Flow())]
    both = Folder(root=videos, val=0, modality="rgb+flow", flow=flow)
    paths = [[stream.path for stream in record.streams] for record in both.records("train")]
    assert paths[2] == [f"{videos}/b/3.mp4", f"{flow}/b/3"]
    found = [finding.kind for finding in check_data(both, workers=0).findings if finding.severity != "info"]
    assert found == ["no validation videos", "one training video"]  # nothing of the flow
    assert "outside" not in str(check_data(alone, workers=0))
    listed = tmp_path / "train.txt"
    listed.write_text("a/1.mp4 0\nb/3.mp4 1\n")
    lists = Lists(train=str(listed), root=videos, modality="flow", flow=flow)
    assert [record.path for record in lists.records("train")] == [f"{flow}/a/1", f"{flow}/b/3"]
    with pytest.raises(GestaError, match="does not name a folder made by gesta data prepare"):
        check(Folder(root=videos, modality="flow"), "data")


@pytest.mark.parametrize("modality", ["flow", "rgb+flow"])
def test_two_videos_that_would_share_their_flow_are_refused(tmp_path: Path, modality: Any) -> None:
    for name in ("a/1.avi", "a/1.mp4", "a/2.mp4", "b/3.mp4"):
        (tmp_path / "v" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "v" / name).touch()
    (tmp_path / "both.txt").write_text("a/1.avi 0\na/1.mp4 0\nb/3.mp4 1\n")
    (tmp_path / "segments.csv").write_text(
        "path,label,start_frame,end_frame\na/1.mp4,x,0,5\n./a/1.mp4,y,5,9\nb/3.mp4,x,0,5\n"
    )
    how = {"root": str(tmp_path / "v"), "modality": modality, "flow": "flow"}
    for data in (Folder(val=0, **how), Lists(train=str(tmp_path / "both.txt"), **how)):
        with pytest.raises(GestaError, match=r"a/1.avi and .*a/1.mp4: the optical flow of both would be flow/a/1; ren"):
            data.records("train")
    assert len(Lists(train=str(tmp_path / "segments.csv"), **how).records("train")) == 3


def test_samples_are_those_of_whole_readings_and_of_the_cache(folders: tuple[str, str], tmp_path: Path) -> None:
    records = Folder(root=folders[0], val=0, modality="rgb+flow", flow=folders[1]).records("train")
    spec = ClipSpec(frames=2, stride=1, size=32, streams=("rgb", "flow"))
    config = TrainConfig(augment=Augment(color_jitter=0.9))
    plain, cached = (TrainingClips(records, spec, config, ["a", "b"]) for _ in range(2))
    cached.cache = FrameCache(tmp_path, fills=True)
    for epoch in range(3):
        sample = plain[epoch, 0]
        assert sample["video"].shape == (1, 2, 6, 32, 32)
        assert torch.equal(sample["video"], cached[epoch, 0]["video"])
        assert (sample["video"][:, :, 5] == STILL).all()
    only_rgb = [replace(record, paired=()) for record in records]
    views = TestViews(only_rgb, spec, EvaluateConfig(clips=1))[0]
    assert isinstance(views, dict) and not views["video"][:, :, 3:].any()  # flow is missing


def test_what_cannot_be_done_is_refused_by_name(folders: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    videos, flow = folders
    records = Folder(root=videos, val=0, modality="flow", flow=flow).records("train")
    spec = ClipSpec(frames=2, stride=1, size=32)
    for augmentation, sentence in ((Augment(hue=0.1), "has no colours"), (Augment(randaugment=2), "randaugment")):
        with pytest.raises(GestaError, match=sentence):
            TrainingClips(records, spec, TrainConfig(augment=augmentation), ["a", "b"])
    with pytest.raises(VideoError, match="optical flow images only"):
        read(f"{flow}/a/1", torch.arange)
    with pytest.raises(VideoError, match="is no folder of optical flow"):
        read(f"{videos}/a/1.mp4", torch.arange, shows=Flow())
    for useless in ({"shards": 2}, {"lists": True}, {"codec": "hevc"}, {"frames": True}):
        with pytest.raises(GestaError, match="which belong to the videos and their lists"):
            prepare(videos, f"{flow}-2", flow=True, **useless)  # type: ignore[arg-type]
    real = builtins.__import__

    def without_opencv(name: str, *args: Any, **options: Any) -> Any:
        if name == "cv2":
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without_opencv)
    with pytest.raises(GestaError, match=r"pip install 'gesta\[flow\]'"):
        prepare(videos, f"{flow}-2", flow=True)
    assert not os.path.exists(f"{flow}-2")
