"""The synthetic data set: reproducible frames, honest splits, true geometry, twins that differ in order alone."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from gesta.config import from_json, to_json
from gesta.curation.contact_sheet import contact_sheet
from gesta.errors import GestaError
from gesta.marionette.dataset import HeldOut, Marionette, make_set, plan_clips
from gesta.marionette.filming import AZIMUTHS, ClipName, count_frames, render_clip
from gesta.marionette.motions import REVERSED_PAIRS, perform
from gesta.marionette.motions.coarse import COARSE
from gesta.marionette.puppet import SUBJECTS, body_solids, make_body, shoulders, two_bones
from gesta.marionette.renderer import Box, Camera, Cone, Room, render
from gesta.records import list_hash
from gesta.video.modality import modality_of
from gesta.video.probe import probe
from gesta.video.read import read

CLIPS = 36  # three of each action: the least with all splits
SIZE = 32
SHORT = (12, 15)
"""Frames of the clips of a set, which so is quickly made; of others there are 32 to 40."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of its own, copied from the one that the first process of this test run has made."""
    of_all = tmp_path_factory.getbasetemp()
    of_all = of_all.parent if "PYTEST_XDIST_WORKER" in os.environ else of_all
    with FileLock(of_all / "marionette.lock"):
        if not (of_all / "marionette").exists():
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("gesta.marionette.filming.FRAMES", SHORT)
                summary = make_set(of_all / "marionette", clips=CLIPS, seed=3, workers=1, size=SIZE)
            assert (summary.clips, summary.made) == (CLIPS, CLIPS)
    return Path(shutil.copytree(of_all / "marionette", tmp_path_factory.mktemp("marionette") / "set"))


def _clips(data: Marionette, split: str) -> list[ClipName]:
    stems = [Path(record.path).stem for record in data.records(split)]  # type: ignore[arg-type]
    return [ClipName(*(int(part[1:]) for part in stem.split("_"))) for stem in stems]


# --- the set ---------------------------------------------------------------------------------------------------------


def test_every_clip_is_a_video_in_one_split(root: Path) -> None:
    files = {str(path) for path in root.glob("videos/*/*")}
    assert len(files) == CLIPS
    for held_out in ("both", "subjects", "cameras"):
        data = Marionette(root=str(root), held_out=held_out)
        records = [record for split in ("train", "val", "test") for record in data.records(split)]
        assert sorted(record.path for record in records) == sorted(files)
        for record in records:
            assert data.classes()[record.label] == Path(record.path).parent.name
    info = probe(sorted(files)[0], exact=True)
    assert (info.width, info.height, info.codec, info.fps) == (SIZE, SIZE, "h264", 12)
    assert SHORT[0] <= info.frames <= SHORT[1]
    assert all(32 <= count_frames(clip, 3) <= 40 for clip in plan_clips(CLIPS, 3))
    assert (root / "labels.txt").read_text().split() == list(COARSE)


@pytest.mark.parametrize("held_out", ["both", "subjects", "cameras"])
def test_what_is_held_out_is_new_and_the_rest_is_known(tmp_path: Path, held_out: HeldOut) -> None:
    manifest = {"family": "coarse", "version": 1, "seed": 0, "size": SIZE, "clips": 480}
    (tmp_path / "marionette.json").write_text(json.dumps(manifest))
    data = Marionette(root=str(tmp_path), held_out=held_out)
    splits = {split: _clips(data, split) for split in ("train", "val", "test")}
    subjects = {split: {clip.subject for clip in clips} for split, clips in splits.items()}
    cameras = {split: {clip.camera for clip in clips} for split, clips in splits.items()}
    for kind, seen in (("subjects", subjects), ("cameras", cameras)):
        if held_out in ("both", kind):
            assert not seen["test"] & (seen["train"] | seen["val"])
            assert not seen["val"] & seen["train"]
        else:
            assert seen["test"] | seen["val"] <= seen["train"]
    total = sum(len(clips) for clips in splits.values())
    assert total == 480
    assert len(splits["train"]) >= 0.55 * total
    assert len(splits["test"]) >= 0.2 * total
    for clips in splits.values():
        per_class = Counter(clip.action for clip in clips)
        assert set(per_class) == set(range(1, 13))
        if held_out == "both":
            assert len(set(per_class.values())) == 1
    if held_out == "both":  # every action is performed by everybody and seen from everywhere
        for action in range(1, 13):
            mine = [clip for clips in splits.values() for clip in clips if clip.action == action]
            assert {clip.subject for clip in mine} == set(range(1, SUBJECTS + 1))
            assert {clip.camera for clip in mine} == set(range(1, len(AZIMUTHS) + 1))


def test_a_larger_plan_begins_with_the_smaller_one() -> None:
    large = plan_clips(1000, seed=5)
    assert large[:400] == plan_clips(400, seed=5)
    assert len(set(large)) == 1000
    assert large != plan_clips(1000, seed=6)
    spread = Counter((clip.subject, clip.camera) for clip in plan_clips(480) if clip.subject <= 8)
    assert len(spread) == 32 and max(spread.values()) - min(spread.values()) <= 8


def test_making_again_continues_and_keeps(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gesta.marionette.filming.FRAMES", SHORT)
    first = {path: path.stat().st_mtime_ns for path in root.glob("videos/*/*.mp4")}
    victim = sorted(first)[4]
    content = victim.read_bytes()
    victim.unlink()
    (victim.parent / f".{victim.name}.123.part").write_bytes(b"half a file")
    summary = make_set(root, clips=CLIPS - 5, seed=3, workers=1, size=SIZE)
    assert (summary.clips, summary.made) == (CLIPS, 1)  # a set never shrinks
    assert victim.read_bytes() == content
    assert {p: p.stat().st_mtime_ns for p in root.glob("videos/*/*") if p != victim} == {
        p: at for p, at in first.items() if p != victim
    }
    assert str(summary).startswith(f"{root}: {CLIPS} clips of 12 actions, 1 made")
    assert json.loads(json.dumps(summary.to_json()))["splits"]["both"] == {"train": 12, "val": 12, "test": 12}


def test_other_processes_make_the_same_frames(root: Path, tmp_path: Path) -> None:
    make_set(tmp_path / "set", clips=2, seed=3, workers=2, size=SIZE)
    clips = plan_clips(2, seed=3)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        jobs = [pool.submit(render_clip, clip, 3, SIZE) for clip in clips]
    for clip, job in zip(clips, jobs):
        (rgb, depth), (rgb_there, depth_there) = render_clip(clip, 3, SIZE), job.result()
        assert np.array_equal(rgb, rgb_there) and np.array_equal(depth, depth_there)
        # and these are what the file shows, up to the codec's loss
        (path,) = (tmp_path / "set" / "videos").glob(f"*/{clip}.mp4")
        decoded = read(path, lambda n: np.arange(n)).permute(0, 2, 3, 1).numpy()
        assert decoded.shape == rgb.shape
        assert np.abs(decoded.astype(int) - rgb).mean() < 6


def test_other_folders_and_settings_are_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(GestaError, match="is not empty and holds no Marionette set"):
        make_set(tmp_path, clips=1, workers=1)
    with pytest.raises(GestaError, match="was made with seed 3, not 4"):
        make_set(root, clips=1, seed=4, workers=1, size=SIZE)
    with pytest.raises(GestaError, match="size 65 is not an even number"):
        make_set(tmp_path / "new", clips=1, size=65)
    assert not (tmp_path / "new").exists()
    with pytest.raises(GestaError, match="no Marionette set; run: gesta data make marionette"):
        Marionette(root=str(tmp_path)).records("train")
    (tmp_path / "marionette.json").write_text("{")
    with pytest.raises(GestaError, match=r"marionette\.json: .*; delete .* and make it again"):
        Marionette(root=str(tmp_path)).records("train")
    for settings in ({"clips": 10**9, "seed": 0}, {"clips": 1}, {"clips": 1, "seed": 0, "family": []}):
        (tmp_path / "marionette.json").write_text(json.dumps(settings))
        with pytest.raises(GestaError, match=r"marionette\.json: .* make it again"):
            Marionette(root=str(tmp_path)).classes()
    with pytest.raises(GestaError, match="did you mean 'subjects'"):
        Marionette(root=str(root), held_out="subject").records("train")  # type: ignore[arg-type]
    assert from_json(to_json(Marionette(root="x", held_out="cameras"))) == Marionette(root="x", held_out="cameras")


def test_an_unfinished_set_is_no_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise GestaError("the disk is full")

    monkeypatch.setattr("gesta.marionette.dataset.make_clip", full)
    with pytest.raises(GestaError, match="disk is full"):
        make_set(tmp_path / "set", clips=2, workers=1, size=SIZE)
    with pytest.raises(GestaError, match="unfinished Marionette set"):
        Marionette(root=str(tmp_path / "set")).records("train")
    monkeypatch.undo()
    assert make_set(tmp_path / "set", clips=2, workers=1, size=SIZE).made == 2


def test_depth_and_flow_beside_the_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Depth is added to a set that is there, stays in step when the set grows, and is the renderer's in millimetres."""
    monkeypatch.setattr("gesta.marionette.filming.FRAMES", SHORT)
    root = tmp_path / "set"
    make_set(root, clips=6, seed=3, workers=1, size=SIZE)
    videos = {path: path.stat().st_mtime_ns for path in root.glob("videos/*/*")}
    for kind in ("depth", "flow"):
        with pytest.raises(GestaError, match=rf"made without {kind}; add it: .* --{kind}"):
            Marionette(root=str(root), modality=kind).records("test")  # type: ignore[arg-type]
    assert make_set(root, clips=6, seed=3, workers=1, size=SIZE, depth=True, flow=True).made == 6
    assert {path: path.stat().st_mtime_ns for path in videos} == videos  # filmed again, not written again
    assert make_set(root, clips=7, seed=3, workers=1, size=SIZE).made == 1  # asked once, the set keeps depth and flow
    for record in Marionette(root=str(root), modality="rgbd+flow").records("train"):
        assert [modality_of(stream.shows) for stream in record.streams] == ["rgb", "depth", "flow"]
        assert len({probe(stream.path, shows=stream.shows).frames for stream in record.streams}) == 1
    rgb, depth = (
        [r for split in ("train", "val", "test") for r in Marionette(root=str(root), modality=modality).records(split)]  # type: ignore[arg-type]
        for modality in ("rgb", "depth")
    )
    assert [r.streams for r in Marionette(root=str(root), modality="rgbd").records("train")] == [
        [a, b]
        for a, b in zip(
            *(Marionette(root=str(root), modality=m).records("train") for m in ("rgb", "depth")), strict=True
        )
    ]
    assert len(depth) == 7 and [(r.name, r.label) for r in depth] == [(r.name, r.label) for r in rgb]
    assert list_hash(depth) == list_hash(rgb)
    clip = ClipName(*(int(part[1:]) for part in Path(depth[0].path).name.split("_")))
    _, metres = render_clip(clip, 3, SIZE)
    assert depth[0].shows is not None
    grey = replace(depth[0].shows, encoding="repeat3")
    shown = read(depth[0].path, np.arange, shows=grey)
    assert shown.shape == (len(metres), 3, SIZE, SIZE) and probe(rgb[0].path).frames == len(metres)
    expected = 1 + 254 * np.clip((1000 * metres - 2500) / 5000, 0, 1)
    assert np.abs(shown[:, 0].numpy() - expected).max() < 1
    assert shown.float().std() > 20 and (shown == 255).float().mean() < 0.5  # the range fits the stage


def test_the_contact_sheet_is_a_picture(root: Path, tmp_path: Path) -> None:
    from PIL import Image

    with Image.open(contact_sheet(root, tmp_path / "sheet.png", columns=4, side=40)) as sheet:
        assert sheet.size == (104 + 4 * 40, 12 * 40)
        assert len(sheet.convert("RGB").getcolors(maxcolors=10**6)) > 100


# --- frames ----------------------------------------------------------------------------------------------------------


def test_frames_depend_on_seed_and_name_alone() -> None:
    rgb, depth = render_clip(ClipName(1, 3, 2, 1), seed=1, size=SIZE)
    again, _ = render_clip(ClipName(1, 3, 2, 1), seed=1, size=SIZE)
    assert rgb.dtype == np.uint8 and depth.dtype == np.float32
    assert rgb.shape == (*depth.shape, 3) and rgb.shape[1:] == (SIZE, SIZE, 3)
    assert np.array_equal(rgb, again)
    assert np.isfinite(depth).all() and depth.min() > 0.3
    for other in (ClipName(1, 4, 2, 1), ClipName(1, 3, 5, 1), ClipName(1, 3, 2, 2)):
        frames, _ = render_clip(other, seed=1, size=SIZE)
        assert not np.array_equal(rgb[:32], frames[:32])


def _pinhole(z: float = 4.0, focal: float = 2.0) -> tuple[Room, Camera]:
    """A camera on the z axis, 1 m high, that looks at a wall 3 m behind the origin."""
    grey = np.full((2, 3), 128.0)
    up = np.array([0.0, 1.0, 0.0])
    room = Room((np.array([0.0, 0.0, 1.0]), -3.0), grey, grey, "plain", "plain", 0.2, up, np.ones((1, 3)))
    return room, Camera(np.array([[0.0, 1.0, z]]), np.array([[0.0, 1.0, 0.0]]), np.array([focal]))


def test_depth_is_exact() -> None:
    room, camera = _pinhole()
    size, focal = 64, 2.0 * 64
    centre = np.array([[0.0, 1.0, 0.0]])
    ball = Cone(centre, centre, 0.5, 0.5, np.full(3, 200.0))
    _, depth = render([ball], [], room, camera, size)
    # sample points at double resolution, the nearest of each block of four
    grid = (np.arange(2 * size) + 0.5 - size) / (2 * focal)
    u, v = np.meshgrid(grid, grid)
    q = u * u + v * v + 1
    root = 16 - q * (16 - 0.25)
    hit = np.where(root > 0, (4 - np.sqrt(np.maximum(root, 0))) / q, np.inf)
    expected = hit.reshape(size, 2, size, 2).min((1, 3))
    on_ball = np.isfinite(expected)
    assert on_ball.sum() > 500
    assert np.allclose(depth[0][on_ball], expected[on_ball], atol=2e-4)
    assert depth[0][2, 32] == pytest.approx(7.0, abs=1e-4)  # the wall
    floor = depth[0][63, 0]  # 1 m below the eye at pixel row 63.5
    assert floor == pytest.approx(1 / ((63.5 - 32) / focal), rel=1e-3)


def test_a_box_has_flat_faces_at_their_depth() -> None:
    room, camera = _pinhole()
    box = Box(np.array([[0.0, 1.0, 0.0]]), np.array([0.3, 0.2, 0.5]), 0.0, np.full(3, 200.0))
    _, depth = render([], [box], room, camera, 64)
    face = depth[0] < 3.6
    rows, columns = np.nonzero(face)
    assert np.allclose(depth[0][face], 3.5, atol=1e-4)
    # 0.6 m by 0.4 m at 3.5 m distance and 128 pixels focal length
    assert np.ptp(columns) + 1 == pytest.approx(0.6 / 3.5 * 128, abs=1.5)
    assert np.ptp(rows) + 1 == pytest.approx(0.4 / 3.5 * 128, abs=1.5)


@pytest.mark.parametrize("ends", [((-0.4, 1.3, 0.2), (0.5, 0.8, -0.3)), ((0.02, 1.0, 0.9), (0.1, 1.05, -0.6))])
def test_a_rounded_cone_is_the_union_of_its_balls(ends: tuple[tuple[float, ...], ...]) -> None:
    room, camera = _pinhole()
    a, b = (np.array([end]) for end in ends)
    colour = np.full(3, 200.0)
    _, depth = render([Cone(a, b, 0.12, 0.3, colour)], [], room, camera, 48)
    shares = np.linspace(0, 1, 400)
    balls = [Cone(a + s * (b - a), a + s * (b - a), 0.12 + s * 0.18, 0, colour) for s in shares]
    _, union = render(balls, [], room, camera, 48)
    inside = depth[0] < 6
    assert inside.sum() > 100
    assert (inside == (union[0] < 6)).mean() > 0.995
    both = inside & (union[0] < 6)
    assert np.abs(depth[0] - union[0])[both].max() < 0.02


def test_near_things_hide_far_things_and_black_light_is_black() -> None:
    room, camera = _pinhole()
    near, far = np.array([[0.0, 1.0, 1.0]]), np.array([[0.0, 1.0, -1.0]])
    red, blue = np.array([255.0, 0, 0]), np.array([0, 0, 255.0])
    cones = [Cone(near, near, 0.2, 0.2, red), Cone(far, far, 0.6, 0.6, blue)]
    for order in (cones, cones[::-1]):
        rgb, _ = render(order, [], room, camera, 32)
        assert rgb[0, 16, 16, 0] > 50 and rgb[0, 16, 16, 2] == 0
        assert rgb[0, 16, 19, 0] > 0 or rgb[0, 16, 21, 2] > 0
    dark = replace(room, gain=np.zeros((1, 3)))
    assert render(cones, [], dark, camera, 32)[0].max() == 0


# --- motion ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("forward", "backward"), REVERSED_PAIRS["coarse"])
def test_twins_are_one_motion_in_opposite_order(forward: str, backward: str) -> None:
    body = make_body(5)
    one = perform(forward, body, 36, np.random.default_rng(8))
    other = perform(backward, body, 36, np.random.default_rng(8))
    for a, b in zip(body_solids(body, one.pose) + one.cones, body_solids(body, other.pose) + other.cones):
        assert np.array_equal(a.a, b.a[::-1]) and np.array_equal(a.b, b.b[::-1])
        assert np.array_equal(a.colour, b.colour)
    for a, b in zip(one.boxes, other.boxes):
        assert np.array_equal(a.centre, b.centre[::-1])
    assert not np.array_equal(one.pose.pelvis, other.pose.pelvis)


@pytest.mark.parametrize("action", COARSE)
def test_bodies_stay_whole_and_above_the_floor(action: str) -> None:
    for number in (1, 6, 10, 14):
        body = make_body(number)
        act = perform(action, body, 40, np.random.default_rng(number))
        for cone in body_solids(body, act.pose) + act.cones:
            lowest = np.minimum(cone.a[:, 1] - cone.ra, cone.b[:, 1] - cone.rb)
            assert lowest.min() > -0.03
            assert abs(cone.ra - cone.rb) < np.linalg.norm(cone.a - cone.b, axis=-1).min() + 1e-9 or cone.ra == cone.rb
        joints = shoulders(body, act.pose.pelvis, act.pose.lean, act.pose.twist)
        elbow, wrist = two_bones(joints, act.pose.wrists, body.arm, body.arm, act.pose.elbows)
        assert np.allclose(np.linalg.norm(elbow - joints, axis=-1), body.arm)
        assert np.allclose(np.linalg.norm(wrist - elbow, axis=-1), body.arm)
        # at least one foot carries the body, unless it hops
        lowest_foot = act.pose.ankles[..., 1].min(1)
        assert (lowest_foot - body.ankle).max() < (0.12 if action == "jumping_jacks" else 0.01)
        # nothing jumps: no joint faster than 12 m/s at 12 frames per second
        assert np.linalg.norm(np.diff(wrist, axis=0), axis=-1).max() < 1.0


def test_two_bones_reach_and_point_as_told() -> None:
    start, hint = np.zeros((1, 3)), np.array([0.0, 0.0, 1.0])
    middle, end = two_bones(start, np.array([[0.0, -0.8, 0.0]]), 0.5, 0.5, hint)
    assert np.allclose(end, [[0, -0.8, 0]])
    assert np.allclose(middle, [[0, -0.4, 0.3]])
    _, far = two_bones(start, np.array([[0.0, -3.0, 0.0]]), 0.5, 0.5, hint)
    assert np.linalg.norm(far) == pytest.approx(1.0, abs=1e-3)


def test_the_puppet_fills_the_picture_and_stays_in_it() -> None:
    for camera in (1, 4, 8):
        clip = ClipName(2, 4, camera, 1)  # jumping jacks: the tallest
        _, depth = render_clip(clip, seed=2, size=48)
        empty = depth.max(0)  # what lies behind when the puppet is elsewhere
        person = (depth < empty - 0.5).any(0)
        rows = np.nonzero(person[:, 12:36].any(1))[0]
        assert np.ptp(rows) > 0.5 * 48
        assert rows.min() >= 0
