"""The objects family: one of two objects on a table is pushed, pulled, raised, covered, taken or put somewhere.

Every clip shows a table, a small item and a larger case, whatever is done with them. Each class is another one played
backwards (:data:`REVERSED_PAIRS`). Left and right are those of a viewer in front of the puppet, whose left is x below
0. Classes that name a side become one another in a mirror (:data:`MIRRORED`), so theirs are not mirrored.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gesta.marionette.motions.blocks import (
    Motion,
    Performance,
    Random,
    ease,
    random_colours,
    reversed_motion,
    standing_pose,
)
from gesta.marionette.motions.table_objects import TableObject, table
from gesta.marionette.puppet import SIDES, Body, Pose
from gesta.marionette.renderer import Array, Box


@dataclass(slots=True)
class _Scene:
    """Standing behind a table, hands at its edge.

    Attributes:
        pose: of the puppet.
        boxes: the table.
        item, case: the objects on it.
        middle: the point in the middle of the table on which an object stands, ``(3,)``.
        scale: the puppet's height as a multiple of 1.7 m; lengths are scaled by it.
        side: -1 or 1, the side on which the case stands.
        times: when the hand starts, grasps, releases, and is back; seconds.
    """

    pose: Pose
    boxes: list[Box]
    item: TableObject
    case: TableObject
    middle: Array
    scale: float
    side: float
    times: tuple[float, float, float, float]

    def beside(self, t: Array) -> Array:
        """Where the case stands if it is not moved, ``(T, 3)``: far enough back to hide nothing from a side camera."""
        return np.tile(self.middle + self.scale * np.array([0.52 * self.side, 0, -0.09]), (len(t), 1))

    def performance(self, item: Array, case: Array) -> Performance:
        """The whole performance, with item and case at ``(T, 3)``."""
        first, second = self.item.solids(item), self.case.solids(case)
        return Performance(self.pose, first[0] + second[0], self.boxes + first[1] + second[1])


def _scene(body: Body, t: Array, rng: Random) -> _Scene:
    pose, scale = standing_pose(body, t, rng), body.height / 1.7
    table_colour, item_colour, case_colour = random_colours(rng, 3)
    high, ahead, boxes = table(body, len(t), 0.6 * table_colour + 30)
    edge = ahead - 0.1 * body.height
    pose.wrists = np.tile(
        np.stack([SIDES * 0.21 * scale, np.full(2, high + 0.03), np.full(2, edge)], -1), (len(t), 1, 1)
    )
    pose.wrists[..., 0] += pose.pelvis[:, :1]
    pose.elbows = np.array([[-1.0, -0.5, -0.7], [1.0, -0.5, -0.7]])
    kind = str(rng.choice(["box", "ball", "cup", "bottle"]))
    wide = rng.uniform(0.078, 0.092) * scale
    tall = {"box": 1.6, "ball": 2.0, "cup": 2.2, "bottle": 2.7}[kind] * wide
    case = TableObject(str(rng.choice(["box", "case"])), rng.uniform(0.135, 0.145) * scale, 0.28 * scale, case_colour)
    centre_s, half_s = rng.uniform(0.48, 0.52) * t[-1], rng.uniform(0.37, 0.44) * t[-1]
    reach_s = half_s * rng.uniform(0.5, 0.6)
    times = (centre_s - half_s, centre_s - half_s + reach_s, centre_s + half_s - reach_s, centre_s + half_s)
    side = float(rng.choice(SIDES))
    item, middle = TableObject(kind, wide, tall, item_colour), np.array([0.0, high, ahead + 0.06 * scale])
    return _Scene(pose, boxes, item, case, middle, scale, side, times)


def _move_hand(scene: _Scene, side: int, grip: Array, fraction: Array) -> None:
    """Move one wrist from the table's edge to ``grip`` ``(T, 3)`` by ``fraction`` ``(T,)``; the trunk goes with it."""
    ready = scene.pose.wrists[:, side]
    bow = 0.1 * scene.scale * np.sin(np.pi * fraction)
    scene.pose.wrists[:, side] = ready + fraction[:, None] * (grip - ready) + bow[:, None] * np.array([0, 1.0, 0])
    scene.pose.lean = scene.pose.lean + 0.14 * fraction
    across = (grip[:, 0] - ready[:, 0]) / scene.scale
    scene.pose.twist = scene.pose.twist + 0.5 * fraction * np.clip(across, -0.5, 0.5)
    scene.pose.nod = scene.pose.nod + 0.1 * fraction


def _hold_fraction(t: Array, times: tuple[float, float, float, float]) -> Array:
    """How far a hand is on its way from rest to grip, 0 to 1 and back to 0, ``(T,)``."""
    return ease(t, times[0], times[1]) - ease(t, times[2], times[3])


def _carry_path(t: Array, times: tuple[float, float, float, float], start: Array, end: Array, lift: float) -> Array:
    """A path ``(T, 3)`` from start to end, up, across and down, while the hand holds the object."""
    held = np.clip((t - times[1]) / (times[2] - times[1]), 0, 1)
    path = start + ease(held, 0.15, 0.8)[:, None] * (end - start)
    path[:, 1] += lift * (ease(held, 0.0, 0.35) - ease(held, 0.6, 1.0))
    return path


def _push_right(body: Body, t: Array, rng: Random) -> Performance:
    """From the viewer's left to the right, the hand behind the item."""
    scene = _scene(body, t, rng)
    half_way = rng.uniform(0.2, 0.24) * scene.scale
    at = np.tile(scene.middle, (len(t), 1))
    at[:, 0] = -half_way + 2 * half_way * ease(t, scene.times[1], scene.times[2])
    grip = at + np.array([-scene.item.wide - 0.06 * scene.scale, 0.5 * scene.item.high, -0.01])
    _move_hand(scene, 0, grip, _hold_fraction(t, scene.times))
    return scene.performance(at, scene.beside(t))


def _move_up(body: Body, t: Array, rng: Random) -> Performance:
    """In hand from the first to the last frame."""
    scene = _scene(body, t, rng)
    at = scene.middle + np.array([-rng.uniform(0.12, 0.25) * scene.scale, 0, 0])
    at = at + ease(t, scene.times[1], scene.times[2])[:, None] * np.array([0, rng.uniform(0.42, 0.52) * scene.scale, 0])
    _move_hand(scene, 0, at + np.array([-scene.item.wide - 0.03, 0.4 * scene.item.high, -0.03]), np.ones_like(t))
    scene.side = 1.0
    return scene.performance(at, scene.beside(t))


def _pick_up(body: Body, t: Array, rng: Random) -> Performance:
    """A hand grasps the item and brings it to the chest."""
    scene = _scene(body, t, rng)
    start = scene.middle + np.array([rng.uniform(-0.15, 0.1) * scene.scale, 0, 0])
    chest = np.array([-0.1 * scene.scale, body.hip_height + 0.62 * body.trunk, 0.13 * body.height])
    at = start + ease(t, scene.times[1], scene.times[3])[:, None] * (chest - start)
    grip = at + np.array([-scene.item.wide - 0.03, 0.5 * scene.item.high, -0.02])
    _move_hand(scene, 0, grip, ease(t, scene.times[0], scene.times[1]))
    return scene.performance(at, scene.beside(t))


def _cover(body: Body, t: Array, rng: Random) -> Performance:
    """The case is taken from above and put over the item, which it hides."""
    scene = _scene(body, t, rng)
    start = scene.beside(t)[0]
    at = np.tile(scene.middle + np.array([rng.uniform(-0.12, 0.12) * scene.scale, 0, 0]), (len(t), 1))
    case = _carry_path(t, scene.times, start, at[0], rng.uniform(0.28, 0.34) * scene.scale)
    grip = case + np.array([0, scene.case.high + 0.04, -0.03])
    _move_hand(scene, int(scene.side > 0), grip, _hold_fraction(t, scene.times))
    return scene.performance(at, case)


def _put_into(body: Body, t: Array, rng: Random) -> Performance:
    """The item is carried over the case and lowered into it."""
    scene = _scene(body, t, rng)
    start = scene.middle + np.array([rng.uniform(-0.12, 0.12) * scene.scale, 0, 0])
    case = scene.beside(t)
    at = _carry_path(t, scene.times, start, case[0] + np.array([0, 0.01, 0]), rng.uniform(0.3, 0.36) * scene.scale)
    grip = at + np.array([0, scene.item.high + 0.03, -0.03])
    inside = np.abs(at[:, 0] - case[:, 0]) < scene.case.wide
    rim = scene.middle[1] + scene.case.high + 0.03
    grip[:, 1] = np.where(inside, np.maximum(grip[:, 1], rim), grip[:, 1])
    _move_hand(scene, int(scene.side > 0), grip, _hold_fraction(t, scene.times))
    return scene.performance(at, case)


def _bring_together(body: Body, t: Array, rng: Random) -> Performance:
    """Item and case are moved together, a hand behind each."""
    scene = _scene(body, t, rng)
    half = 0.5 * (scene.item.wide + scene.case.wide) + 0.01
    apart = rng.uniform(0.26, 0.31) * scene.scale
    away = half + (apart - half) * (1 - ease(t, scene.times[1], scene.times[2]))
    fraction = _hold_fraction(t, scene.times)
    paths = []
    for sign, one in ((-scene.side, scene.item), (scene.side, scene.case)):
        at = np.tile(scene.middle, (len(t), 1))
        at[:, 0] = sign * away
        grip = at + np.array([sign * (one.wide + 0.04), 0.5 * one.high, -0.02])
        _move_hand(scene, int(sign > 0), grip, fraction)
        paths.append(at)
    return scene.performance(*paths)


def _mirrored(motion: Motion) -> Motion:
    return lambda body, t, rng: motion(body, t, rng).mirrored()


OBJECTS: dict[str, Motion] = {
    "push_left_to_right": _push_right,
    "push_right_to_left": _mirrored(_push_right),
    "pull_left_to_right": _mirrored(reversed_motion(_push_right)),
    "pull_right_to_left": reversed_motion(_push_right),
    "cover": _cover,
    "uncover": reversed_motion(_cover),
    "pick_up": _pick_up,
    "put_down": reversed_motion(_pick_up),
    "put_into": _put_into,
    "take_out": reversed_motion(_put_into),
    "move_up": _move_up,
    "move_down": reversed_motion(_move_up),
    "bring_together": _bring_together,
    "move_apart": reversed_motion(_bring_together),
}
"""Actions of the objects family by class name, in label order."""

REVERSED_PAIRS = (
    ("push_left_to_right", "pull_right_to_left"),
    ("push_right_to_left", "pull_left_to_right"),
    ("cover", "uncover"),
    ("pick_up", "put_down"),
    ("put_into", "take_out"),
    ("move_up", "move_down"),
    ("bring_together", "move_apart"),
)
"""Classes that are the same motion in opposite order."""

MIRRORED = {"push_left_to_right": "push_right_to_left", "pull_left_to_right": "pull_right_to_left"}
"""Classes that become one another in a mirror, for ``Augment.flip_labels``."""
