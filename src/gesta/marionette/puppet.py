"""The puppet: subjects, poses, and how a pose becomes solids.

A pose says where pelvis, wrists and ankles are and how the trunk leans; elbows and knees follow by two-bone inverse
kinematics, so feet stay on the floor and hands on the objects that they hold. World coordinates as in
:mod:`gesta.marionette.renderer`: x to the puppet's left, y up, z forward, metres. Index 0 of a pair is the right side,
index 1 the left. T: frames.
"""

from __future__ import annotations

import colorsys
import itertools
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from gesta.marionette.renderer import Array, Box, Cone

SUBJECTS = 14
SIDES = np.array([-1.0, 1.0])
"""The sign of x on the right and on the left."""
FLIP = np.array([-1.0, 1.0, 1.0])
"""Multiplies a vector, or an array of them, to exchange left and right."""


@dataclass(frozen=True, slots=True)
class Body:
    """One subject: proportions in metres, and looks (RGB, 0 to 255)."""

    height: float
    build: float  # 1 for ordinary limbs, more for thicker ones
    thigh: float
    shin: float
    trunk: float  # from hip to shoulder
    arm: float  # upper arm; the forearm is as long
    shoulder: float  # half width
    hip: float  # half width
    skin: Array
    hair: Array
    style: str  # short, long, bun, cap or bald
    shirt: Array
    trim: Array
    stripes: float
    trousers: Array
    shoes: Array
    long_sleeves: bool
    long_trousers: bool

    @property
    def ankle(self) -> float:
        """Height of the ankle of a foot on the floor."""
        return 0.042 * self.height

    @property
    def leg(self) -> float:
        """Length from hip to ankle when the knee is straight."""
        return self.thigh + self.shin

    @property
    def hip_height(self) -> float:
        """Height of the hip when standing, knees almost straight."""
        return self.ankle + 0.985 * self.leg

    def cone(
        self, a: Array, b: Array, ra: float, rb: float, colour: Array, cloth: bool = False, shadow: bool = True
    ) -> Cone:
        """A rounded cone whose radii are given in body heights; ``cloth`` has the subject's stripes."""
        h, stripes = self.height, self.stripes if cloth else 0.0
        return Cone(a, b, ra * h, rb * h, colour, self.trim if stripes else None, stripes, shadow)


_SKIN = np.array([[236, 188, 160], [198, 134, 98], [120, 76, 54], [224, 172, 132], [160, 104, 72]], dtype=float)
_HAIR = np.array([[38, 28, 26], [104, 64, 34], [206, 164, 84], [70, 40, 28], [150, 146, 146], [150, 62, 30]], float)
_STYLES = ("short", "long", "cap", "short", "bun", "short", "long", "bald")


def make_body(number: int) -> Body:
    """Subject 1 to :data:`SUBJECTS`: always the same person."""
    rng = np.random.default_rng([7, number])
    height = 1.58 + 0.3 * ((number * 5) % SUBJECTS) / SUBJECTS
    legs = rng.uniform(0.95, 1.05)
    hue = (number * 0.381966) % 1
    trim_hue = (hue + rng.choice([0.12, 0.5, 0.85])) % 1
    dark = number % 3 != 0
    return Body(
        height=height,
        build=rng.uniform(0.9, 1.2),
        thigh=0.24 * height * legs,
        shin=0.235 * height * legs,
        trunk=0.285 * height * (2 - legs),
        arm=0.165 * height * rng.uniform(0.96, 1.05),
        shoulder=0.112 * height * rng.uniform(0.93, 1.08),
        hip=0.052 * height * rng.uniform(0.95, 1.1),
        skin=_SKIN[number % len(_SKIN)],
        hair=_HAIR[(number * 5 + 1) % len(_HAIR)],
        style=_STYLES[number % len(_STYLES)],
        shirt=_paint(hue, rng.uniform(0.6, 0.85), rng.uniform(0.72, 0.95)),
        trim=_paint(trim_hue, rng.uniform(0.2, 0.7), 0.95),
        stripes=(0.0, 7.0, 0.0, 11.0)[number % 4],
        trousers=_paint((hue + 0.45 + 0.2 * rng.random()) % 1, rng.uniform(0.25, 0.6), 0.35 if dark else 0.75),
        shoes=_paint(rng.random(), 0.5, rng.choice([0.2, 0.9])),
        long_sleeves=number % 2 == 0,
        long_trousers=number % 5 != 2,
    )


def _paint(hue: float, saturation: float, value: float) -> Array:
    return 255 * np.array(colorsys.hsv_to_rgb(hue, saturation, value))


@dataclass(slots=True)
class Pose:
    """A motion: where the puppet is in each frame; world coordinates and radians."""

    pelvis: Array  # midpoint of the hips, (T, 3)
    lean: Array  # of the trunk, forwards (T,)
    twist: Array  # of the shoulders, to the left (T,)
    nod: Array  # of the head, forwards, in addition to half the lean (T,)
    wrists: Array  # (T, 2, 3); beyond reach, the limb points there
    ankles: Array
    elbows: Array  # direction in which the joints point, (2, 3)
    knees: Array
    toes: Array  # pitch of the feet, toes downwards (T, 2)
    turn: Array | None = None  # rotation (T, 3, 3) about the pelvis of the body that the other fields describe

    def mirrored(self) -> Pose:
        """The same motion with left and right exchanged."""
        return replace(
            self,
            pelvis=self.pelvis * FLIP,
            twist=-self.twist,
            wrists=self.wrists[:, ::-1] * FLIP,
            ankles=self.ankles[:, ::-1] * FLIP,
            elbows=self.elbows[::-1] * FLIP,
            knees=self.knees[::-1] * FLIP,
            toes=self.toes[:, ::-1],
            turn=None if self.turn is None else self.turn * np.outer(FLIP, FLIP),
        )

    def backwards(self) -> Pose:
        """The same motion with the order of frames reversed."""
        moving = ["pelvis", "lean", "twist", "nod", "wrists", "ankles", "toes", *["turn"] * (self.turn is not None)]
        return replace(self, **{name: getattr(self, name)[::-1] for name in moving})


def rotation(yaw: Array, pitch: Array) -> Array:
    """Matrices ``(T, 3, 3)`` that pitch forwards, then turn left."""
    cy, sy, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    zero = np.zeros_like(cy)
    rows = [[cy, sy * sp, sy * cp], [zero, cp, -sp], [-sy, cy * sp, cy * cp]]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def both_sides(out: ArrayLike, up: ArrayLike, ahead: ArrayLike) -> Array:
    """A vector on the right and its mirror image on the left, ``(2, 3)``; each number may be one or differ by side."""
    return np.stack(np.broadcast_arrays(SIDES * out, up, ahead), -1)


def shoulders(body: Body, pelvis: Array, lean: Array, twist: Array) -> Array:
    """Shoulder joints ``(T, 2, 3)``."""
    local = both_sides(body.shoulder, body.trunk, 0.0)
    return pelvis[:, None] + np.einsum("tij,sj->tsi", rotation(twist, lean), local)


def two_bones(start: Array, end: Array, first: float, second: float, hint: Array) -> tuple[Array, Array]:
    """Inverse kinematics of an arm or a leg: the joint between two bones, and the end moved within reach.

    Args:
        start, end: shoulder or hip ``(..., 3)``, and where wrist or ankle should be.
        first, second: lengths of the bones.
        hint: direction in which the joint points, broadcastable.
    """
    direction = end - start
    distance = np.maximum(np.linalg.norm(direction, axis=-1, keepdims=True), 1e-6)
    direction = direction / distance
    distance = np.clip(distance, abs(first - second) + 0.05 * first, 0.9995 * (first + second))
    along = (first**2 - second**2 + distance**2) / (2 * distance)
    # the joint lies aside of the straight line, in the plane of the line and the hint
    aside = hint - direction * (direction * hint).sum(-1, keepdims=True)
    aside = aside / np.maximum(np.linalg.norm(aside, axis=-1, keepdims=True), 1e-6)
    joint = start + direction * along + aside * np.sqrt(np.maximum(first**2 - along**2, 0))
    return joint, start + direction * distance


class Skeleton(NamedTuple):
    """Joints before :attr:`Pose.turn`: the centre of the head ``(T, 3)``, and pairs ``(T, 2, 3)``."""

    head: Array
    shoulder: Array
    elbow: Array
    wrist: Array
    hip: Array
    knee: Array
    ankle: Array


JOINTS = ("head", *(f"{side}_{name}" for name in Skeleton._fields[1:] for side in ("right", "left")))
"""Names of the joints of :func:`joints`, in their order."""


def _skeleton(body: Body, pose: Pose) -> Skeleton:
    h, trunk = body.height, rotation(pose.twist, pose.lean)
    hips_turn = rotation(0.35 * pose.twist, 0 * pose.lean)
    shoulder = shoulders(body, pose.pelvis, pose.lean, pose.twist)
    hip = np.stack([_attached(hips_turn, pose.pelvis, side * body.hip, 0, 0) for side in SIDES], 1)
    elbow, wrist = two_bones(shoulder, pose.wrists, body.arm, body.arm, pose.elbows)
    knee, ankle = two_bones(hip, pose.ankles, body.thigh, body.shin, pose.knees)
    head = _attached(trunk, pose.pelvis, 0, body.trunk, 0.0) + _head_turn(pose) @ np.array([0, 0.098 * h, 0.012 * h])
    return Skeleton(head, shoulder, elbow, wrist, hip, knee, ankle)


def joints(body: Body, pose: Pose) -> Array:
    """Where the joints of a subject are, ``(T, 13, 3)``, in the order of :data:`JOINTS`."""
    head, *pairs = _skeleton(body, pose)
    return _turned(np.concatenate([head[:, None], *pairs], 1), pose)


def _turned(points: Array, pose: Pose) -> Array:
    """Points of the body ``(T, n, 3)`` turned about the pelvis as the pose says."""
    if pose.turn is None:
        return points
    return pose.pelvis[:, None] + np.einsum("tij,tsj->tsi", pose.turn, points - pose.pelvis[:, None])


def body_solids(body: Body, pose: Pose) -> list[Cone]:
    """The solids of a subject in a pose."""
    h, build, cone, shirt = body.height, body.build, body.cone, body.shirt
    trunk = rotation(pose.twist, pose.lean)
    hips_turn = rotation(0.35 * pose.twist, 0 * pose.lean)
    skeleton = _skeleton(body, pose)
    shoulder, hip = skeleton.shoulder, skeleton.hip
    up, solids = body.trunk, list[Cone]()
    for side in SIDES:  # chest to waist: two rounded cones that overlap
        top = _attached(trunk, pose.pelvis, side * 0.46 * body.shoulder, up - 0.05 * h, 0.004 * h)
        waist = _attached(hips_turn, pose.pelvis, side * 0.5 * body.hip, 0.045 * h, 0.004 * h)
        solids.append(cone(waist, top, 0.06 * build, 0.068 * build, shirt, cloth=True))
    chest = [_attached(trunk, pose.pelvis, side * 0.42 * body.shoulder, up - 0.062 * h, 0.012 * h) for side in SIDES]
    solids += [
        cone(shoulder[:, 0], shoulder[:, 1], 0.042 * build, 0.042 * build, shirt),
        cone(chest[0], chest[1], 0.066 * build, 0.066 * build, shirt),
        cone(hip[:, 0], hip[:, 1], 0.064 * build, 0.064 * build, body.trousers),
        *_head(body, pose, _attached(trunk, pose.pelvis, 0, up, 0.0), skeleton.head),
        *_limbs(body, pose, skeleton),
    ]
    for solid in solids:
        solid.a, solid.b = _turned(np.stack([solid.a, solid.b], 1), pose).transpose(1, 0, 2)
    return solids


def _attached(turn: Array, base: Array, x: float, y: float, z: float) -> Array:
    """A point that is fixed to a part of the body, in world coordinates ``(T, 3)``."""
    return base + turn @ np.array([x, y, z])


def _head_turn(pose: Pose) -> Array:
    return rotation(0.5 * pose.twist, 0.5 * pose.lean + pose.nod)


def _head(body: Body, pose: Pose, neck: Array, head: Array) -> list[Cone]:
    h, skin, cone, turn = body.height, body.skin, body.cone, _head_turn(pose)

    def middle(start: tuple[float, float], end: tuple[float, float], ra: float, rb: float, colour: Array) -> Cone:
        """A rounded cone in the plane between the eyes; (up, forwards) in body heights from the head's centre."""
        a, b = (_attached(turn, head, 0, up * h, ahead * h) for up, ahead in (start, end))
        return cone(a, b, ra, rb, colour)

    eyes = [_attached(turn, head, side * 0.026 * h, 0.014 * h, 0.056 * h) for side in SIDES]
    solids = [
        cone(neck, neck + 0.7 * (head - neck), 0.032, 0.03, skin, shadow=False),
        middle((-0.022, 0.008), (0.02, 0), 0.05, 0.062, skin),
        middle((-0.01, 0.058), (0.012, 0.058), 0.011, 0.007, 0.9 * skin),  # the nose
        *(cone(eye, eye, 0.0095, 0.0095, np.array([32.0, 28.0, 34.0]), shadow=False) for eye in eyes),
    ]
    if body.style == "bald":
        return solids
    cover = body.trim if body.style == "cap" else body.hair
    if body.style == "cap":  # its visor
        solids.append(middle((0.04, 0.045), (0.034, 0.085), 0.022, 0.014, cover))
    solids.append(middle((0.008, -0.02), (0.032, -0.006), 0.058, 0.061, cover))
    if body.style == "long":
        solids.append(middle((0.0, -0.026), (-0.085, -0.04), 0.052, 0.036, body.hair))
    if body.style == "bun":
        solids.append(middle((0.07, -0.055), (0.07, -0.055), 0.03, 0.03, body.hair))
    return solids


def _limbs(body: Body, pose: Pose, skeleton: Skeleton) -> list[Cone]:
    """Arms and legs, hands and feet."""
    h, build, skin, cone = body.height, body.build, body.skin, body.cone
    _, shoulder, elbow, wrist, hip, knee, ankle = skeleton
    sleeve = body.shirt if body.long_sleeves else skin
    leg = body.trousers if body.long_trousers else skin
    solids = []
    for i in range(2):
        forearm = (wrist[:, i] - elbow[:, i]) / body.arm
        foot = rotation(np.full(len(ankle), 0.18 * SIDES[i]) + 0.2 * pose.twist, pose.toes[:, i])
        heel = _attached(foot, ankle[:, i], 0, -body.ankle + 0.026 * h, -0.014 * h)
        toe = _attached(foot, ankle[:, i], 0, -body.ankle + 0.022 * h, 0.095 * h)
        solids += [
            cone(shoulder[:, i], elbow[:, i], 0.038 * build, 0.030 * build, body.shirt),
            cone(elbow[:, i], wrist[:, i], 0.029 * build, 0.022 * build, sleeve),
            cone(wrist[:, i], wrist[:, i] + forearm * 0.04 * h, 0.026, 0.027, skin),
            cone(hip[:, i], knee[:, i], 0.058 * build, 0.041 * build, body.trousers),
            cone(knee[:, i], ankle[:, i], 0.039 * build, 0.027 * build, leg),
            cone(heel, toe, 0.026, 0.022, body.shoes),
        ]
    return solids


# --- furniture -------------------------------------------------------------------------------------------------------


def chair(at: Array, seat: float, yaw: float, colour: Array, frames: int) -> tuple[list[Cone], list[Box]]:
    """A chair without arms whose seat is ``seat`` metres high, its back towards -z when ``yaw`` is 0."""
    cos, sin = np.cos(yaw), np.sin(yaw)

    def point(x: float, y: float, z: float) -> Array:
        return np.tile([at[0] + cos * x + sin * z, y, at[2] - sin * x + cos * z], (frames, 1))

    legs = [
        Cone(point(x, 0.02, z), point(0.95 * x, seat - 0.05, 0.95 * z), 0.022, 0.022, 0.55 * colour)
        for x, z in itertools.product((-0.18, 0.18), repeat=2)
    ]
    posts = [Cone(point(x, seat, -0.2), point(x, seat + 0.3, -0.2), 0.02, 0.02, 0.55 * colour) for x in (-0.17, 0.17)]
    cushion = Box(point(0, seat - 0.03, 0), np.array([0.22, 0.03, 0.22]), yaw, colour)
    back = Box(point(0, seat + 0.33, -0.2), np.array([0.22, 0.12, 0.025]), yaw, colour)
    return legs + posts, [cushion, back]
