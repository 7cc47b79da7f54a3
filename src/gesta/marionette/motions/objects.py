"""The objects family: one of two objects on a table is pushed, pulled, raised, covered, taken or put somewhere.

Every clip shows a table, a small item and a larger container, whatever is done with them. Each class is the time
reversal of another (:data:`REVERSED_PAIRS`). Left and right are those of a viewer in front of the puppet: the viewer's
left is x < 0. A class that names a side becomes its counterpart when mirrored (:data:`MIRRORED`), so its clips are
never mirrored.
"""

from __future__ import annotations

import numpy as np

from gesta.marionette.motions.blocks import PAINTS, Motion, Performance, Random, ease, reversed_motion, standing_pose
from gesta.marionette.motions.table_objects import TableObject, move_hand, rest_hands, table
from gesta.marionette.puppet import SIDES, Body
from gesta.marionette.renderer import Array


class _Scene:
    """Standing behind a table, hands at its edge.

    Attributes:
        t: seconds of the frames ``(T,)``.
        pose, boxes: the puppet, the table.
        item, container: the objects on it.
        middle: the point in the middle of the table on which an object stands, ``(3,)``.
        scale: the puppet's height as a multiple of 1.7 m; lengths are scaled by it.
        container_side: -1 or 1, the side on which the container stands.
        times: when the hand starts, grasps, releases, and is back; seconds.
    """

    def __init__(self, body: Body, t: Array, rng: Random) -> None:
        self.t, self.pose, self.scale = t, standing_pose(body, t, rng), body.height / 1.7
        table_colour, item_colour, container_colour = PAINTS[rng.permutation(len(PAINTS))[:3]]
        height, distance, self.boxes = table(body, len(t), 0.6 * table_colour + 30)
        rest_hands(self.pose, body, height, distance)
        self.pose.wrists[..., 0] += self.pose.pelvis[:, :1]
        kind, half_width = str(rng.choice(["box", "ball", "cup", "bottle"])), rng.uniform(0.078, 0.092) * self.scale
        item_height = {"box": 1.6, "ball": 2.0, "cup": 2.2, "bottle": 2.7}[kind] * half_width
        container_kind, container_half_width = str(rng.choice(["box", "case"])), rng.uniform(0.135, 0.145) * self.scale
        self.item = TableObject(kind, half_width, item_height, item_colour)
        self.container = TableObject(container_kind, container_half_width, 0.28 * self.scale, container_colour)
        centre, half = rng.uniform(0.48, 0.52) * t[-1], rng.uniform(0.37, 0.44) * t[-1]
        reach = half * rng.uniform(0.5, 0.6)
        self.times = (centre - half, centre - half + reach, centre + half - reach, centre + half)
        self.container_side = float(rng.choice(SIDES))
        self.middle = np.array([0.0, height, distance + 0.06 * self.scale])

    def beside(self) -> Array:
        """Where the container stands if it is not moved, ``(T, 3)``; far enough back to hide nothing from the side."""
        return np.tile(self.middle + self.scale * np.array([0.52 * self.container_side, 0, -0.09]), (len(self.t), 1))

    def moved_fraction(self) -> Array:
        """How far an object is on its way while a hand holds it, ``(T,)``."""
        return ease(self.t, self.times[1], self.times[2])

    def carry_path(self, start: Array, end: Array, lift: float) -> Array:
        """A path ``(T, 3)`` from start to end, up, across and down, while the hand holds the object."""
        hold_time = np.clip((self.t - self.times[1]) / (self.times[2] - self.times[1]), 0, 1)
        path = start + ease(hold_time, 0.15, 0.8)[:, None] * (end - start)
        path[:, 1] += lift * (ease(hold_time, 0.0, 0.35) - ease(hold_time, 0.6, 1.0))
        return path

    def move_hand(self, hand: int, target: Array, fraction: Array | None = None) -> None:
        """Move a wrist towards ``target`` ``(T, 3)``: by default there in time to grasp, and back."""
        if fraction is None:
            fraction = ease(self.t, *self.times[:2]) - ease(self.t, *self.times[2:])
        move_hand(self.pose, hand, target, fraction, self.scale, arc=0.1, lean=0.14, nod=0.1)

    def performance(self, item_path: Array, container_path: Array) -> Performance:
        """The whole performance, with item and container along paths ``(T, 3)``."""
        item_solids, container_solids = self.item.solids(item_path), self.container.solids(container_path)
        cones, boxes = item_solids[0] + container_solids[0], item_solids[1] + container_solids[1]
        return Performance(self.pose, cones, self.boxes + boxes)


def _push_right(body: Body, t: Array, rng: Random) -> Performance:
    """The item is pushed to the viewer's right by a hand behind it."""
    scene = _Scene(body, t, rng)
    half_path = rng.uniform(0.2, 0.24) * scene.scale
    item_path = np.tile(scene.middle, (len(t), 1))
    item_path[:, 0] = -half_path + 2 * half_path * scene.moved_fraction()
    wrist = item_path + np.array([-scene.item.half_width - 0.06 * scene.scale, 0.5 * scene.item.height, -0.01])
    scene.move_hand(0, wrist)
    return scene.performance(item_path, scene.beside())


def _move_up(body: Body, t: Array, rng: Random) -> Performance:
    """The item is lifted; the hand holds it from the first frame to the last."""
    scene = _Scene(body, t, rng)
    item_path = scene.middle + np.array([-rng.uniform(0.12, 0.25) * scene.scale, 0, 0])
    lift = np.array([0, rng.uniform(0.42, 0.52) * scene.scale, 0])
    item_path = item_path + scene.moved_fraction()[:, None] * lift
    wrist = item_path + np.array([-scene.item.half_width - 0.03, 0.4 * scene.item.height, -0.03])
    scene.move_hand(0, wrist, np.ones_like(t))
    scene.container_side = 1.0  # the item and the hand are left of the middle: there they could touch the container
    return scene.performance(item_path, scene.beside())


def _pick_up(body: Body, t: Array, rng: Random) -> Performance:
    """A hand grasps the item and brings it to the chest."""
    scene = _Scene(body, t, rng)
    start = scene.middle + np.array([rng.uniform(-0.15, 0.1) * scene.scale, 0, 0])
    chest = np.array([-0.1 * scene.scale, body.hip_height + 0.62 * body.trunk, 0.13 * body.height])
    item_path = start + ease(t, scene.times[1], scene.times[3])[:, None] * (chest - start)
    wrist = item_path + np.array([-scene.item.half_width - 0.03, 0.5 * scene.item.height, -0.02])
    scene.move_hand(0, wrist, ease(t, scene.times[0], scene.times[1]))
    return scene.performance(item_path, scene.beside())


def _cover(body: Body, t: Array, rng: Random) -> Performance:
    """The container is taken from above and put over the item, which it hides."""
    scene = _Scene(body, t, rng)
    start = scene.beside()[0]
    item_path = np.tile(scene.middle + np.array([rng.uniform(-0.12, 0.12) * scene.scale, 0, 0]), (len(t), 1))
    container_path = scene.carry_path(start, item_path[0], rng.uniform(0.28, 0.34) * scene.scale)
    wrist = container_path + np.array([0, scene.container.height + 0.04, -0.03])
    scene.move_hand(int(scene.container_side > 0), wrist)
    return scene.performance(item_path, container_path)


def _put_into(body: Body, t: Array, rng: Random) -> Performance:
    """The item is carried over the container and lowered into it."""
    scene = _Scene(body, t, rng)
    start = scene.middle + np.array([rng.uniform(-0.12, 0.12) * scene.scale, 0, 0])
    container_path = scene.beside()
    end = container_path[0] + np.array([0, 0.01, 0])
    item_path = scene.carry_path(start, end, rng.uniform(0.3, 0.36) * scene.scale)
    wrist = item_path + np.array([0, scene.item.height + 0.03, -0.03])
    inside = np.abs(item_path[:, 0] - container_path[:, 0]) < scene.container.half_width
    rim = scene.middle[1] + scene.container.height + 0.03
    wrist[:, 1] = np.where(inside, np.maximum(wrist[:, 1], rim), wrist[:, 1])
    scene.move_hand(int(scene.container_side > 0), wrist)
    return scene.performance(item_path, container_path)


def _bring_together(body: Body, t: Array, rng: Random) -> Performance:
    """Item and container are moved together, a hand behind each."""
    scene = _Scene(body, t, rng)
    touching = 0.5 * (scene.item.half_width + scene.container.half_width) + 0.01
    apart = rng.uniform(0.26, 0.31) * scene.scale
    from_middle = touching + (apart - touching) * (1 - scene.moved_fraction())
    paths = []
    for sign, moved in ((-scene.container_side, scene.item), (scene.container_side, scene.container)):
        path = np.tile(scene.middle, (len(t), 1))
        path[:, 0] = sign * from_middle
        wrist = path + np.array([sign * (moved.half_width + 0.04), 0.5 * moved.height, -0.02])
        scene.move_hand(int(sign > 0), wrist)
        paths.append(path)
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
