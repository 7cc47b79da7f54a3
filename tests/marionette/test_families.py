"""Families of the synthetic data set: twins in time, twins in the mirror, one law for all, all in the picture."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gesta.cli import main
from gesta.curation.check import check
from gesta.curation.contact_sheet import contact_sheet
from gesta.data.samples import read_record
from gesta.data.transforms import flip_targets, names_a_side
from gesta.errors import GestaError
from gesta.marionette import filming
from gesta.marionette.dataset import Marionette, make_set, plan_clips
from gesta.marionette.filming import ClipName, count_frames, render_clip
from gesta.marionette.lighting import varied_gain
from gesta.marionette.motions import FAMILIES, MIRRORED, REVERSED_PAIRS, perform
from gesta.marionette.motions.kitchen import (
    ACTION_FRAMES,
    ACTIONS_PER_VIDEO,
    NOUNS,
    PAUSE_FRAMES,
    VERBS,
    perform_actions,
    plan_video,
)
from gesta.marionette.puppet import body_solids, make_body, shoulders, two_bones
from gesta.video.probe import probe

SIZE, SEED = 32, 3
NEW = [(family, action) for family in FAMILIES if family != "coarse" for action in FAMILIES[family]]
PAIRS = [(family, *pair) for family in REVERSED_PAIRS if family != "coarse" for pair in REVERSED_PAIRS[family]]


def test_coarse_clips_are_what_they_were() -> None:
    """Means of 8 x 8 pixels of first frames, made by the version that knew one family; sets made then stay valid."""
    stored = {
        ClipName(1, 3, 2, 1): ([84.8, 92.5, 90.2, 83.9, 88.9, 113.1, 102.2, 90.0], 33, 5.9266),
        ClipName(12, 14, 7, 3): ([180.2, 192.8, 192.8, 180.3, 193.2, 151.7, 160.8, 192.8], 39, 5.1149),
    }
    for clip, (red, frames, metres) in stored.items():
        rgb, depth = render_clip(clip, SEED, SIZE)
        assert np.allclose(rgb[0, :16, :, 0].reshape(2, 8, 4, 8).mean((1, 3)).ravel(), red, atol=0.06)
        assert (len(rgb), float(depth[0].mean())) == (frames, pytest.approx(metres, abs=1e-3))


@pytest.mark.parametrize(("family", "forward", "backward"), PAIRS)
def test_twins_are_one_law_played_both_ways(family: str, forward: str, backward: str) -> None:
    body = make_body(5)
    one = perform(forward, body, 36, np.random.default_rng(8), family)
    other = perform(backward, body, 36, np.random.default_rng(8), family)
    for a, b in zip(body_solids(body, one.pose) + one.cones, body_solids(body, other.pose) + other.cones, strict=True):
        assert np.array_equal(a.a, b.a[::-1]) and np.array_equal(a.b, b.b[::-1])
    for first, second in zip(one.boxes, other.boxes, strict=True):
        assert np.array_equal(first.centre, second.centre[::-1])
    assert not np.array_equal(one.pose.wrists, other.pose.wrists)


@pytest.mark.parametrize(("left", "right"), MIRRORED["objects"].items())
def test_left_and_right_are_mirrored_and_never_at_random(left: str, right: str) -> None:
    body = make_body(3)
    for seed in range(12):
        acts = [perform(name, body, 36, np.random.default_rng(seed), "objects") for name in (left, right)]
        seen = acts[1].mirrored()
        assert np.array_equal(acts[0].pose.wrists, seen.pose.wrists)
        for one, other in zip(acts[0].boxes, seen.boxes, strict=True):
            assert np.array_equal(one.centre, other.centre)
        for act, way in zip(acts, (1, -1)):
            middles = [box.centre for box in act.boxes] + [cone.a for cone in act.cones]
            moved = max((m[-1, 0] - m[0, 0] for m in middles), key=abs)
            assert way * moved > 0.3  # metres, to the viewer's right


def test_the_flip_of_training_knows_the_sides() -> None:
    names = list(FAMILIES["objects"])
    sided = {name for pair in MIRRORED["objects"].items() for name in pair}
    assert {name for name in names if names_a_side(name)} == sided
    targets = flip_targets(names, MIRRORED["objects"])
    assert targets[names.index("push_left_to_right")] == names.index("push_right_to_left")
    assert targets[names.index("cover")] == names.index("cover")
    for family in set(FAMILIES) - {"objects"}:
        assert not any(map(names_a_side, FAMILIES[family]))


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_nothing_but_the_action_follows_the_action(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lengths have one law; camera, room and light, drawn from another stream, come out alike for every class."""
    actions = range(1, len(FAMILIES[family]) + 1)
    lengths = {
        a: [count_frames(ClipName(a, s, c, 1), SEED, family) for s in range(1, 15) for c in range(1, 9)]
        for a in actions
    }
    assert {min(found) for found in lengths.values()} == {32} and {max(found) for found in lengths.values()} == {40}
    assert all(abs(np.mean(found) - 36) < 1 for found in lengths.values())
    monkeypatch.setattr(filming, "_start", lambda *_: (np.random.default_rng(1), 36))
    scenes = [filming._scene(ClipName(action, 4, 3, 1), SEED, family) for action in actions]
    for room, camera in (scene[-2:] for scene in scenes):
        assert np.array_equal(room.gain, scenes[0][-2].gain) and np.array_equal(room.light, scenes[0][-2].light)
        assert np.array_equal(camera.eye, scenes[0][-1].eye) and np.array_equal(camera.focal, scenes[0][-1].focal)


@pytest.mark.parametrize(("family", "action"), NEW)
def test_bodies_stay_whole_and_hands_reach(family: str, action: str) -> None:
    for number in (1, 8, 14):
        body = make_body(number)
        act = perform(action, body, 36, np.random.default_rng(number), family)
        joints = shoulders(body, act.pose.pelvis, act.pose.lean, act.pose.twist)
        elbow, wrist = two_bones(joints, act.pose.wrists, body.arm, body.arm, act.pose.elbows)
        assert np.abs(wrist - act.pose.wrists).max() < 0.06  # metres
        for joint in (elbow, wrist):
            assert np.linalg.norm(np.diff(joint, axis=0), axis=-1).max() < (0.8 if family == "fine" else 0.45)
        for cone in act.cones:
            assert cone.ra == cone.rb or abs(cone.ra - cone.rb) < np.linalg.norm(cone.a - cone.b, axis=-1).min()


@pytest.mark.parametrize("camera", range(1, 9))
def test_things_are_in_the_picture(camera: int) -> None:
    for action in range(1, 15):
        clip = ClipName(action, 1 + (3 * action + camera) % 14, camera, 1)
        body, rng = make_body(clip.subject), np.random.default_rng([SEED, 2, *clip])
        frames = int(rng.integers(32, 41))
        motion, _ = rng.spawn(2)
        act = perform(list(FAMILIES["objects"])[action - 1], body, frames, motion, "objects")
        view = filming._scene(clip, SEED, "objects")[-1]
        things = [cone.a for cone in act.cones] + [box.centre for box in act.boxes[5:]]
        for at in things:
            for frame in range(0, frames, 5):
                x, y, z = view.rotation(frame) @ (at[frame] - view.eye[frame])
                assert max(abs(x), abs(y)) / z * view.focal[frame] < 0.5


@pytest.mark.parametrize("name", [name for name in FAMILIES["fine"] if "notwis" in name])
def test_dives_have_the_somersaults_that_they_are_named_after(name: str) -> None:
    takeoff, somersaults, _, _ = name.split("_")
    for seed in range(4):
        act = perform(name, make_body(1 + seed), 36, np.random.default_rng(seed), "fine")
        assert act.pose.turn is not None
        trunk, ahead = act.pose.turn[:, :, 1], act.pose.turn[0, :, 2]
        angle = np.unwrap(np.arctan2(trunk @ ahead, trunk[:, 1]))
        turns = (angle[-1] - angle[0]) / (2 * np.pi)
        assert turns == pytest.approx(int(somersaults[:2]) / 10 * (1 if takeoff in ("forward", "inward") else -1))
        out = act.pose.pelvis[-1, 0] - act.pose.pelvis[0, 0]
        assert (out * ahead[0] > 0) == (takeoff in ("forward", "reverse"))  # facing where he flies
        assert np.diff(act.pose.pelvis[:, 1]).min() > -0.5 and act.pose.pelvis[0, 1] > 2 > 1.2 > act.pose.pelvis[-1, 1]


def test_twists_turn_the_shoulders() -> None:
    for name, halves in (("back_15som_05twis_free", 1), ("forward_15som_2twis_free", 4)):
        act = perform(name, make_body(2), 40, np.random.default_rng(5), "fine")
        assert act.pose.turn is not None
        untwisted = perform("forward_15som_notwis_pike", make_body(2), 40, np.random.default_rng(5), "fine").pose.turn
        assert untwisted is not None
        end = act.pose.turn[-1, :, 0] @ act.pose.turn[0, :, 0]  # the axis of the shoulders, at the end and at first
        assert end == pytest.approx(-1 if halves % 2 else 1, abs=1e-6)
        least = (act.pose.turn[:, :, 0] @ act.pose.turn[0, :, 0]).min()
        assert least < -0.7 and (untwisted[:, :, 0] @ untwisted[0, :, 0]).min() > 0.99


@pytest.mark.parametrize("camera", range(1, 9))
def test_divers_are_in_the_picture_until_they_are_under_water(camera: int) -> None:
    for action in range(1, 17):
        _, people, *_, view = filming._scene(ClipName(action, 1 + (3 * action + camera) % 14, camera, 1), SEED, "fine")
        hips = next(cone for cone in people if np.allclose(cone.ra, cone.rb) and cone.stripes == 0).a
        for frame in np.nonzero(hips[:, 1] > 0)[0]:
            x, y, z = view.rotation(frame) @ (hips[frame] - view.eye[frame])
            assert max(abs(x), abs(y)) / z * view.focal[frame] < 0.5


def test_a_long_video_shows_only_possible_actions() -> None:
    counts, nouns = Counter[str](), Counter[str]()
    lengths: dict[str, list[int]] = {}
    for seed in range(60):
        before, actions, frames = plan_video(np.random.default_rng(seed))
        assert len(actions) == ACTIONS_PER_VIDEO and len({state.noun for state in before}) == 3
        states, at = {state.noun: state for state in before}, 0
        for action in actions:
            assert action.start - at >= PAUSE_FRAMES[0]
            assert ACTION_FRAMES[0] <= action.end - action.start <= ACTION_FRAMES[1]
            assert action.verb in states[action.noun].possible_verbs()
            states[action.noun], at = states[action.noun].after(action.verb), action.end
            counts[action.verb] += 1
            nouns[action.noun] += 1
            lengths.setdefault(action.verb, []).append(action.end - action.start)
        assert frames > at
    assert set(counts) == set(VERBS) and min(counts.values()) > 0.5 * max(counts.values())
    assert set(nouns) == set(NOUNS) and min(nouns.values()) > 0.6 * max(nouns.values())
    assert all(abs(np.mean(frames) - np.mean(ACTION_FRAMES)) < 1.5 for frames in lengths.values())


def test_what_is_taken_is_gone_and_what_is_put_stays() -> None:
    """The object of an action appears or disappears during the action; nothing does between actions."""
    body = make_body(4)
    before, actions, frames = plan_video(np.random.default_rng(9))
    act = perform_actions(body, np.arange(frames) / 12, np.random.default_rng(1), before, actions)
    heights: dict[str, list[float]] = {}
    for action in actions:
        if action.verb in ("take", "put"):
            heights.setdefault(action.verb, []).append(action.end)
    assert heights
    counter = 0.5 * body.height
    seen = [sum(cone.a[frame, 1] > counter - 0.02 for cone in act.cones) for frame in range(frames)]
    boxes = [sum(box.centre[frame, 1] > counter for box in act.boxes[3:4]) for frame in range(frames)]
    for action in actions:
        first, last = seen[action.start] + boxes[action.start], seen[action.end - 1] + boxes[action.end - 1]
        assert (last > first) == (action.verb == "put") and (last < first) == (action.verb == "take")
    for end, start in zip((action.end for action in actions), (action.start for action in actions[1:])):
        assert len(set(seen[end - 1 : start])) == 1


# --- lighting --------------------------------------------------------------------------------------------------------


def test_varied_light_changes_colour_and_measures_depth() -> None:
    brightness, holes = [], []
    for action in range(1, 7):
        clip = ClipName(action, action, action, 1)
        rgb, depth = render_clip(clip, SEED, SIZE)
        lit, measured = render_clip(clip, SEED, SIZE, lighting="varied")
        assert np.array_equal(lit, render_clip(clip, SEED, SIZE, lighting="varied")[0]) if action == 1 else True
        brightness.append(lit.mean() / rgb.mean())
        there = measured > 0
        holes.append(1 - there.mean())
        error = np.abs(measured - depth)[there]
        assert 0.005 < np.median(error) < 0.3  # metres
    assert max(brightness) > 2 * min(brightness) and min(holes) > 0.02 and max(holes) < 0.5
    gains = [varied_gain(np.arange(36) / 12, np.random.default_rng(seed)) for seed in range(40)]
    assert min(gain.min() for gain in gains) < 0.1 < 0.9 < max(gain.max() for gain in gains)
    assert 5 < sum(np.ptp(gain[:, 0]) < 1e-9 for gain in gains) < 20  # steady ones


# --- the set ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("families") / "objects"
    make_set(root, clips=3, seed=SEED, workers=1, size=SIZE, depth=True, family="objects")
    return root


def test_a_set_of_another_family_is_read_as_such(objects: Path) -> None:
    data = Marionette(root=str(objects))
    assert data.classes() == list(FAMILIES["objects"])
    assert (objects / "labels.txt").read_text().split() == data.classes()
    assert json.loads((objects / "marionette.json").read_text())["family"] == "objects"
    records = data.records("train")
    assert [Path(r.path).stem for r in records] == [str(clip) for clip in plan_clips(3, SEED, 14)]
    assert [r.name.split("/")[0] for r in records] == data.classes()[:3]
    depth = Marionette(root=str(objects), modality="depth").records("train")
    assert [len(list(Path(r.path).iterdir())) for r in depth] == [probe(r.path).frames for r in records]
    report = check(data, workers=0, progress=False)
    assert report.ok and {finding.kind for finding in report.findings} == {
        "class without videos",
        "left and right",
        "one training video",
    }


def test_dives_have_attributes(tmp_path: Path) -> None:
    manifest = {"family": "fine", "version": 1, "seed": 0, "size": SIZE, "clips": 32}
    (tmp_path / "marionette.json").write_text(json.dumps(manifest))
    data = Marionette(root=str(tmp_path))
    assert len(data.records("train")) == 16 and {r.label for r in data.records("test")} == set(range(16))
    attributes = data.attributes()
    assert set(attributes) == {"takeoff", "somersault", "twist", "position"}
    assert set(attributes["takeoff"]) == {"forward", "back", "inward", "reverse"}
    assert ["_".join(parts) for parts in zip(*attributes.values())] == data.classes()


def test_objects_have_pairs_as_attributes(tmp_path: Path) -> None:
    manifest = {"family": "objects", "version": 1, "seed": 0, "size": SIZE, "clips": 28}
    (tmp_path / "marionette.json").write_text(json.dumps(manifest))
    data = Marionette(root=str(tmp_path))
    attributes, classes = data.attributes(), data.classes()
    by_class = dict(zip(classes, zip(attributes["pair"], attributes["order"])))
    assert by_class["cover"] == ("cover", "forwards") and by_class["uncover"] == ("cover", "backwards")
    assert by_class["pull_right_to_left"] == ("push_left_to_right", "backwards")
    assert len(set(by_class.values())) == 14


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("families") / "kitchen"
    with pytest.MonkeyPatch.context() as patch:  # short videos are quickly made
        patch.setattr("gesta.marionette.motions.kitchen.ACTION_FRAMES", (4, 6))
        patch.setattr("gesta.marionette.motions.kitchen.PAUSE_FRAMES", (1, 3))
        summary = make_set(
            root, clips=17, seed=SEED, workers=1, size=SIZE, depth=True, family="kitchen", lighting="varied"
        )
        assert str(summary).startswith(f"{root}: 24 actions of 7 verbs and 5 nouns, 3 long videos made")
        assert summary.splits["both"] == {"train": 8, "val": 8, "test": 8}
        yield root


def test_a_long_video_is_read_in_segments(kitchen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Marionette(root=str(kitchen))
    classes = data.classes()
    assert classes == {"verb": list(VERBS), "noun": list(NOUNS)}
    assert (kitchen / "verb.txt").read_text().split() == list(VERBS)
    records = {split: data.records(split) for split in ("train", "val", "test")}  # type: ignore[arg-type]
    rows = [line.split(",") for line in (kitchen / "segments.csv").read_text().splitlines()[1:]]
    everything = [record for split in ("train", "test", "val") for record in records[split]]
    assert [(r.name, str(r.start), str(r.end)) for r in everything] == [(row[0], row[2], row[3]) for row in rows]
    for record, row in zip(everything, rows, strict=True):
        assert isinstance(record.label, dict)
        assert [classes[space][label] for space, label in record.label.items()] == row[4:]
        assert record.end is not None and record.end <= probe(record.path, exact=True).frames  # type: ignore[operator]
    assert len({record.path for record in records["train"]}) == 1
    depth = Marionette(root=str(kitchen), modality="depth").records("train")
    assert [(r.name, r.label, r.start, r.end) for r in depth] == [
        (r.name, r.label, r.start, r.end) for r in records["train"]
    ]
    rgb, shown = (read_record(r, np.arange, SIZE) for r in (records["train"][2], depth[2]))
    assert rgb.shape == shown.shape
    assert len(list(Path(depth[0].path).iterdir())) == probe(records["train"][0].path, exact=True).frames
    assert check(data, workers=0, progress=False).ok
    contact_sheet(kitchen, kitchen.parent / "sheet.png", columns=3, side=20)
    with Image.open(kitchen.parent / "sheet.png") as sheet:
        assert sheet.size == (104 + 3 * 20, len(VERBS) * 20)


def test_lighting_is_not_mixed(kitchen: Path) -> None:
    assert json.loads((kitchen / "marionette.json").read_text())["lighting"] == "varied"
    with pytest.raises(GestaError, match="was made with lighting varied, not even"):
        make_set(kitchen, clips=1, seed=SEED, workers=1, size=SIZE, family="kitchen")
    with pytest.raises(GestaError, match="was made with family kitchen, not coarse"):
        make_set(kitchen, clips=1, seed=SEED, workers=1, size=SIZE)
    with pytest.raises(GestaError, match="lighting cannot be 'vary'"):
        make_set(kitchen, clips=1, lighting="vary")  # type: ignore[arg-type]


def test_families_are_not_mixed(objects: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(GestaError, match="was made with family objects, not coarse; choose another folder"):
        make_set(objects, clips=1, seed=SEED, workers=1, size=SIZE)
    with pytest.raises(GestaError, match=r"no family 'object'.*did you mean 'objects'"):
        make_set(tmp_path / "new", family="object")  # type: ignore[arg-type]
    with pytest.raises(SystemExit):
        main(["data", "make", "marionette", str(tmp_path / "a"), "--layout", "something_v1", "--family", "objects"])
    assert "--family cannot be combined with --layout" in capsys.readouterr().err
    manifest = json.loads((objects / "marionette.json").read_text()) | {"family": "later"}
    (tmp_path / "marionette.json").write_text(json.dumps(manifest))
    with pytest.raises(GestaError, match="the family 'later', which this version of gesta does not know"):
        Marionette(root=str(tmp_path)).classes()
