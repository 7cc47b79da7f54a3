"""Parts of motions: act, stance and arms, easing, rhythms; units and axes as in :mod:`gesta.marionette.puppet`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from gesta.marionette.puppet import FLIP, SIDES, Body, Pose, both_sides, shoulders
from gesta.marionette.renderer import Array, Box, Cone

FPS = 12


@dataclass(slots=True)
class Performance:
    """What a clip's action shows: the puppet, and the objects in the action."""

    pose: Pose
    cones: list[Cone] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    kinds: tuple[str, ...] = ()  # of these objects; no distractor is of such a kind
    follow: Array | None = None  # how much higher than usual the camera looks, metres (T,), if it follows the puppet

    def backwards(self) -> Performance:
        """The same, with the order of frames reversed."""
        cones = [replace(cone, a=cone.a[::-1], b=cone.b[::-1]) for cone in self.cones]
        boxes = [replace(box, centre=box.centre[::-1]) for box in self.boxes]
        follow = None if self.follow is None else self.follow[::-1]
        return replace(self, pose=self.pose.backwards(), cones=cones, boxes=boxes, follow=follow)

    def mirrored(self) -> Performance:
        """The same, with left and right exchanged."""
        cones = [replace(cone, a=cone.a * FLIP, b=cone.b * FLIP) for cone in self.cones]
        boxes = [replace(box, centre=box.centre * FLIP, yaw=-box.yaw) for box in self.boxes]
        return replace(self, pose=self.pose.mirrored(), cones=cones, boxes=boxes)


Random = np.random.Generator
Motion = Callable[[Body, Array, Random], Performance]


# --- stance and arms ------------------------------------------------------------------------------------------------

ArmVector = tuple[Array | float, Array | float, Array | float]
"""From shoulder to wrist: outwards, up, forwards, in arm lengths; each may vary in time."""

REST: ArmVector = (0.17, -0.93, 0.1)  # hanging


def standing_pose(body: Body, t: Array, rng: Random) -> Pose:
    """Standing with hanging arms, never quite still."""
    sway = 0.012 * np.sin(2 * np.pi * (rng.uniform(0.2, 0.4) * t + rng.random()))
    width = body.hip + rng.uniform(0.02, 0.07)
    ankles = both_sides(width, body.ankle, rng.uniform(-0.05, 0.05, 2))
    pelvis = np.stack([sway, np.full_like(t, pelvis_height(body, width)), np.zeros_like(t)], -1)
    pose = Pose(
        pelvis=pelvis,
        lean=0.03 + 0.5 * sway,
        twist=np.zeros_like(t),
        nod=np.full_like(t, rng.uniform(-0.05, 0.1)),
        wrists=np.zeros((len(t), 2, 3)),  # below
        ankles=np.repeat(ankles[None], len(t), 0),
        elbows=both_sides(0.4, -0.2, -1.0),
        knees=both_sides(0.25, 0.0, 1.0),
        toes=np.zeros((len(t), 2)),
    )
    pose.wrists = arms_to(body, pose, REST, REST)
    return pose


def pelvis_height(body: Body, aside: Array | float) -> Array | float:
    """Height of the pelvis when the ankles stand ``aside`` metres off the middle."""
    spread = np.minimum(np.maximum(np.asarray(aside) - body.hip, 0), 0.8 * body.leg)
    return body.ankle + np.sqrt((0.985 * body.leg) ** 2 - spread**2)


def arms_to(body: Body, pose: Pose, right: ArmVector, left: ArmVector) -> Array:
    """Wrists ``(T, 2, 3)`` at the ends of these vectors from the shoulders."""
    joints = shoulders(body, pose.pelvis, pose.lean, pose.twist)
    cos, sin = np.cos(pose.twist), np.sin(pose.twist)
    wrists = np.empty_like(joints)
    for side, (out, up, ahead) in enumerate((right, left)):
        x, y, z = (2 * body.arm * np.broadcast_to(v, cos.shape) for v in (out, up, ahead))
        x = SIDES[side] * x
        wrists[:, side] = joints[:, side] + np.stack([cos * x + sin * z, y, cos * z - sin * x], -1)
    return wrists


def blend_arms(first: ArmVector, second: ArmVector, fraction: Array) -> tuple[Array, Array, Array]:
    """From one arm vector to another."""
    out, up, ahead = (a + fraction * (np.asarray(b) - a) for a, b in zip(first, second))
    return out, up, ahead


def ease(t: Array, begin: float, end: float) -> Array:
    """0 before ``begin``, 1 after ``end``, smooth and point-symmetric between."""
    x = np.clip((t - begin) / (end - begin), 0, 1)
    return x * x * (3 - 2 * x)


def cycle(t: Array, rng: Random, slow: float, fast: float) -> Array:
    """Phase of something cyclic in radians: its own rate (Hz), start and slight unevenness."""
    rate, wobble = rng.uniform(slow, fast), rng.uniform(0, 0.35)
    return 2 * np.pi * (rate * t + rng.random()) + wobble * np.sin(2 * np.pi * (0.5 * rate * t + rng.random()))


def transition(t: Array, rng: Random) -> tuple[float, float]:
    """Begin and end (seconds) of the middle part of a motion; their law does not change under time reversal."""
    middle = t[-1] * (0.5 + rng.uniform(-0.08, 0.08))
    half = t[-1] * rng.uniform(0.26, 0.36)
    return middle - half, middle + half


PAINTS = np.array(
    [[196, 140, 84], [214, 92, 70], [92, 136, 190], [228, 190, 90], [120, 168, 110], [150, 110, 170]], float
)
"""Colours of objects, RGB ``(6, 3)``."""


def random_colour(rng: Random) -> Array:
    """One of :data:`PAINTS`."""
    return PAINTS[rng.integers(len(PAINTS))]


def reversed_motion(motion: Motion) -> Motion:
    """The same motion, its frames in opposite order."""
    return lambda body, t, rng: motion(body, t, rng).backwards()
