"""The puppet: subjects, poses, and how a pose becomes solids.

A pose says where pelvis, wrists and ankles are and how the trunk leans; elbows and knees follow by two-bone inverse
kinematics, so feet stay on the floor and hands on the objects that they hold. World coordinates as in
:mod:`gesta.marionette.renderer`: x to the puppet's left, y up, z forward, metres. Index 0 of a pair is the right side,
index 1 the left. T: frames.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np

from gesta.marionette.renderer import Array, Box, Cone

SUBJECTS = 14
SIDES = np.array([-1.0, 1.0])
"""The sign of x on the right and on the left."""


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


_SKIN = np.array([[236, 188, 160], [198, 134, 98], [120, 76, 54], [224, 172, 132], [160, 104, 72]], dtype=float)
_HAIR = np.array(
    [[38, 28, 26], [104, 64, 34], [206, 164, 84], [70, 40, 28], [150, 146, 146], [150, 62, 30]], dtype=float
)
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
    """A motion: where the puppet is in each frame.

    Attributes:
        pelvis: midpoint of the hips, ``(T, 3)``.
        lean: of the trunk, forwards, radians ``(T,)``.
        twist: of the shoulders, to the left ``(T,)``.
        nod: of the head, forwards, in addition to half the lean ``(T,)``.
        wrists, ankles: ``(T, 2, 3)``, world coordinates; beyond reach, the limb points there.
        elbows, knees: direction in which the joints point, ``(2, 3)``.
        toes: pitch of the feet, toes downwards ``(T, 2)``.
        turn: rotation of the whole body about the pelvis, ``(T, 3, 3)``; the other fields describe the body before it.
    """

    pelvis: Array
    lean: Array
    twist: Array
    nod: Array
    wrists: Array
    ankles: Array
    elbows: Array
    knees: Array
    toes: Array
    turn: Array | None = None

    def mirrored(self) -> Pose:
        """The same motion with left and right exchanged."""
        flip = np.array([-1.0, 1.0, 1.0])
        return Pose(
            pelvis=self.pelvis * flip,
            lean=self.lean,
            twist=-self.twist,
            nod=self.nod,
            wrists=self.wrists[:, ::-1] * flip,
            ankles=self.ankles[:, ::-1] * flip,
            elbows=self.elbows[::-1] * flip,
            knees=self.knees[::-1] * flip,
            toes=self.toes[:, ::-1],
            turn=None if self.turn is None else self.turn * np.outer(flip, flip),
        )

    def backwards(self) -> Pose:
        """The same motion with the order of frames reversed."""
        return Pose(
            pelvis=self.pelvis[::-1],
            lean=self.lean[::-1],
            twist=self.twist[::-1],
            nod=self.nod[::-1],
            wrists=self.wrists[::-1],
            ankles=self.ankles[::-1],
            elbows=self.elbows,
            knees=self.knees,
            toes=self.toes[::-1],
            turn=None if self.turn is None else self.turn[::-1],
        )


def rotation(yaw: Array, pitch: Array) -> Array:
    """Matrices ``(T, 3, 3)`` that pitch forwards, then turn left."""
    cy, sy, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    zero = np.zeros_like(cy)
    rows = [[cy, sy * sp, sy * cp], [zero, cp, -sp], [-sy, cy * sp, cy * cp]]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def shoulders(body: Body, pelvis: Array, lean: Array, twist: Array) -> Array:
    """Shoulder joints ``(T, 2, 3)``."""
    local = np.stack([SIDES * body.shoulder, np.full(2, body.trunk), np.zeros(2)], -1)
    return pelvis[:, None] + np.einsum("tij,sj->tsi", rotation(twist, lean), local)


def two_bones(start: Array, end: Array, first: float, second: float, hint: Array) -> tuple[Array, Array]:
    """Inverse kinematics of an arm or a leg.

    Args:
        start: shoulder or hip ``(..., 3)``.
        end: where wrist or ankle should be.
        first, second: lengths of the bones.
        hint: direction in which the joint between them points, broadcastable.

    Returns:
        The joint between, and the end moved within reach.
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


def body_solids(body: Body, pose: Pose) -> list[Cone]:
    """The solids of a subject in a pose."""
    h, build = body.height, body.build
    trunk = rotation(pose.twist, pose.lean)
    hips_turn = rotation(0.35 * pose.twist, 0 * pose.lean)
    shoulder = shoulders(body, pose.pelvis, pose.lean, pose.twist)
    hip = np.stack([_attached(hips_turn, pose.pelvis, side * body.hip, 0, 0) for side in SIDES], 1)
    solids = _Solids(body)
    add = solids.add

    shirt, trousers = body.shirt, body.trousers
    up = body.trunk
    for side in SIDES:  # chest to waist: two rounded cones that overlap
        top = _attached(trunk, pose.pelvis, side * 0.46 * body.shoulder, up - 0.05 * h, 0.004 * h)
        waist = _attached(hips_turn, pose.pelvis, side * 0.5 * body.hip, 0.045 * h, 0.004 * h)
        add(waist, top, 0.06 * build, 0.068 * build, shirt, cloth=True)
    add(shoulder[:, 0], shoulder[:, 1], 0.042 * build, 0.042 * build, shirt)
    chest = [_attached(trunk, pose.pelvis, side * 0.42 * body.shoulder, up - 0.062 * h, 0.012 * h) for side in SIDES]
    add(chest[0], chest[1], 0.066 * build, 0.066 * build, shirt)
    add(hip[:, 0], hip[:, 1], 0.064 * build, 0.064 * build, trousers)
    _add_head(solids, pose, _attached(trunk, pose.pelvis, 0, up, 0.0))
    _add_limbs(solids, pose, shoulder, hip)
    if pose.turn is not None:
        for cone in solids.cones:
            ends = np.stack([cone.a, cone.b], 1) - pose.pelvis[:, None]
            ends = pose.pelvis[:, None] + np.einsum("tij,tsj->tsi", pose.turn, ends)
            cone.a, cone.b = ends[:, 0], ends[:, 1]
    return solids.cones


def _attached(turn: Array, base: Array, x: float, y: float, z: float) -> Array:
    """A point that is fixed to a part of the body, in world coordinates ``(T, 3)``."""
    return base + turn @ np.array([x, y, z])


class _Solids:
    """Collects the solids of one body, whose radii are given in body heights."""

    def __init__(self, body: Body) -> None:
        self.body = body
        self.cones: list[Cone] = []

    def add(
        self, a: Array, b: Array, ra: float, rb: float, colour: Array, cloth: bool = False, shadow: bool = True
    ) -> None:
        """Add a rounded cone; ``cloth`` has the subject's stripes."""
        h, stripes = self.body.height, self.body.stripes if cloth else 0.0
        self.cones.append(Cone(a, b, ra * h, rb * h, colour, self.body.trim if stripes else None, stripes, shadow))


def _add_head(solids: _Solids, pose: Pose, neck: Array) -> None:
    body, add = solids.body, solids.add
    h, skin = body.height, body.skin
    turn = rotation(0.5 * pose.twist, 0.5 * pose.lean + pose.nod)
    head = neck + turn @ np.array([0, 0.098 * h, 0.012 * h])
    add(neck, neck + 0.7 * (head - neck), 0.032, 0.03, skin, shadow=False)
    add(_attached(turn, head, 0, -0.022 * h, 0.008 * h), _attached(turn, head, 0, 0.02 * h, 0), 0.05, 0.062, skin)
    nose = [_attached(turn, head, 0, y * h, 0.058 * h) for y in (-0.01, 0.012)]
    add(nose[0], nose[1], 0.011, 0.007, 0.9 * skin)
    for side in SIDES:
        eye = _attached(turn, head, side * 0.026 * h, 0.014 * h, 0.056 * h)
        add(eye, eye, 0.0095, 0.0095, np.array([32.0, 28.0, 34.0]), shadow=False)

    def hair(start: tuple[float, float], end: tuple[float, float], ra: float, rb: float, colour: Array) -> None:
        """A rounded cone in the plane between the eyes; (up, forwards) in body heights from the head's centre."""
        a, b = (_attached(turn, head, 0, up * h, ahead * h) for up, ahead in (start, end))
        add(a, b, ra, rb, colour)

    if body.style == "bald":
        return
    colour = body.trim if body.style == "cap" else body.hair
    if body.style == "cap":  # its visor
        hair((0.04, 0.045), (0.034, 0.085), 0.022, 0.014, colour)
    hair((0.008, -0.02), (0.032, -0.006), 0.058, 0.061, colour)
    if body.style == "long":
        hair((0.0, -0.026), (-0.085, -0.04), 0.052, 0.036, colour)
    if body.style == "bun":
        hair((0.07, -0.055), (0.07, -0.055), 0.03, 0.03, colour)


def _add_limbs(solids: _Solids, pose: Pose, shoulder: Array, hip: Array) -> None:
    """Arms and legs, hands and feet, from the joints ``(T, 2, 3)`` that they hang on."""
    body, add = solids.body, solids.add
    h, build, skin = body.height, body.build, body.skin
    elbow, wrist = two_bones(shoulder, pose.wrists, body.arm, body.arm, pose.elbows)
    knee, ankle = two_bones(hip, pose.ankles, body.thigh, body.shin, pose.knees)
    for i in range(2):
        sleeve = body.shirt if body.long_sleeves else skin
        add(shoulder[:, i], elbow[:, i], 0.038 * build, 0.030 * build, body.shirt)
        add(elbow[:, i], wrist[:, i], 0.029 * build, 0.022 * build, sleeve)
        forearm = (wrist[:, i] - elbow[:, i]) / body.arm
        add(wrist[:, i], wrist[:, i] + forearm * 0.04 * h, 0.026, 0.027, skin)
        leg = body.trousers if body.long_trousers else skin
        add(hip[:, i], knee[:, i], 0.058 * build, 0.041 * build, body.trousers)
        add(knee[:, i], ankle[:, i], 0.039 * build, 0.027 * build, leg)
        foot = rotation(np.full(len(ankle), 0.18 * SIDES[i]) + 0.2 * pose.twist, pose.toes[:, i])
        heel = _attached(foot, ankle[:, i], 0, -body.ankle + 0.026 * h, -0.014 * h)
        toe = _attached(foot, ankle[:, i], 0, -body.ankle + 0.022 * h, 0.095 * h)
        add(heel, toe, 0.026, 0.022, body.shoes)


# --- furniture -------------------------------------------------------------------------------------------------------


def chair(at: Array, seat: float, yaw: float, colour: Array, frames: int) -> tuple[list[Cone], list[Box]]:
    """A chair without arms whose seat is ``seat`` metres high, its back towards -z when ``yaw`` is 0."""
    cos, sin = np.cos(yaw), np.sin(yaw)

    def point(x: float, y: float, z: float) -> Array:
        return np.tile([at[0] + cos * x + sin * z, y, at[2] - sin * x + cos * z], (frames, 1))

    legs = [
        Cone(point(x, 0.02, z), point(0.95 * x, seat - 0.05, 0.95 * z), 0.022, 0.022, 0.55 * colour)
        for x in (-0.18, 0.18)
        for z in (-0.18, 0.18)
    ]
    boxes = [
        Box(point(0, seat - 0.03, 0), np.array([0.22, 0.03, 0.22]), yaw, colour),
        Box(point(0, seat + 0.33, -0.2), np.array([0.22, 0.12, 0.025]), yaw, colour),
    ]
    posts = [Cone(point(x, seat, -0.2), point(x, seat + 0.3, -0.2), 0.02, 0.02, 0.55 * colour) for x in (-0.17, 0.17)]
    return legs + posts, boxes
