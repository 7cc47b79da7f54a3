"""The actions of the embedded data set: functions that draw a rhythm and give a pose for every frame.

Three pairs are the same motion played forwards and backwards (:data:`TWINS`), so that no single frame, and no set of
frames without their order, tells one from the other. Units and axes as in :mod:`gesta.data.puppet`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from gesta.data.puppet import SIDES, Body, Pose, chair, shoulders
from gesta.data.stage import Array, Box, Cone

FPS = 12

CRATE = np.array([0.19, 0.15, 0.15])
"""Half sides of a crate, metres, give or take a tenth."""


@dataclass(slots=True)
class Act:
    """A pose and what is handled in it; ``kinds`` names the latter."""

    pose: Pose
    cones: list[Cone] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    kinds: tuple[str, ...] = ()

    def backwards(self) -> Act:
        """The same, with the order of frames reversed."""
        cones = [Cone(c.a[::-1], c.b[::-1], c.ra, c.rb, c.colour, c.second, c.stripes, c.shadow) for c in self.cones]
        boxes = [Box(b.centre[::-1], b.half, b.yaw, b.colour) for b in self.boxes]
        return Act(self.pose.backwards(), cones, boxes, self.kinds)

    def mirrored(self) -> Act:
        """The same, with left and right exchanged."""
        flip = np.array([-1.0, 1.0, 1.0])
        cones = [Cone(c.a * flip, c.b * flip, c.ra, c.rb, c.colour, c.second, c.stripes, c.shadow) for c in self.cones]
        boxes = [Box(b.centre * flip, b.half, -b.yaw, b.colour) for b in self.boxes]
        return Act(self.pose.mirrored(), cones, boxes, self.kinds)


Random = np.random.Generator
Motion = Callable[[Body, Array, Random], Act]


def perform(action: str, body: Body, frames: int, rng: Random) -> Act:
    """One performance of an action of :data:`COARSE` by a subject, with its own rhythm, size and leading side."""
    act = COARSE[action](body, np.arange(frames) / FPS, rng)
    return act.mirrored() if rng.random() < 0.5 else act


# --- building blocks -------------------------------------------------------------------------------------------------

ArmVector = tuple[Array | float, Array | float, Array | float]
"""From shoulder to wrist: outwards, up, forwards, in arm lengths; each may vary in time."""

REST: ArmVector = (0.17, -0.93, 0.1)  # hanging


def _idle(body: Body, t: Array, rng: Random) -> Pose:
    """Standing with hanging arms, never quite still."""
    sway = 0.012 * np.sin(2 * np.pi * (rng.uniform(0.2, 0.4) * t + rng.random()))
    zero = np.zeros_like(t)
    width = body.hip + rng.uniform(0.02, 0.07)
    ankles = np.stack([SIDES * width, np.full(2, body.ankle), rng.uniform(-0.05, 0.05, 2)], -1)
    pelvis = np.stack([sway, np.full_like(t, _reach_down(body, width)), zero], -1)
    lean = 0.03 + 0.5 * sway
    return Pose(
        pelvis=pelvis,
        lean=lean,
        twist=zero.copy(),
        nod=np.full_like(t, rng.uniform(-0.05, 0.1)),
        wrists=_arms(body, pelvis, lean, zero, REST, REST),
        ankles=np.repeat(ankles[None], len(t), 0),
        elbows=np.array([[-0.4, -0.2, -1.0], [0.4, -0.2, -1.0]]),
        knees=np.array([[-0.25, 0.0, 1.0], [0.25, 0.0, 1.0]]),
        toes=np.zeros((len(t), 2)),
    )


def _reach_down(body: Body, aside: Array | float) -> Array | float:
    """Height of the pelvis when the ankles stand ``aside`` metres off the middle."""
    spread = np.minimum(np.maximum(np.asarray(aside) - body.hip, 0), 0.8 * body.leg)
    return body.ankle + np.sqrt((0.985 * body.leg) ** 2 - spread**2)


def _arms(body: Body, pelvis: Array, lean: Array, twist: Array, right: ArmVector, left: ArmVector) -> Array:
    """Wrists ``(T, 2, 3)`` from vectors (outwards, up, forwards) off the shoulders, in arm lengths."""
    joints = shoulders(body, pelvis, lean, twist)
    cos, sin = np.cos(twist), np.sin(twist)
    wrists = np.empty_like(joints)
    for side, (out, up, ahead) in enumerate((right, left)):
        x, y, z = (2 * body.arm * np.broadcast_to(v, twist.shape) for v in (out, up, ahead))
        x = SIDES[side] * x
        wrists[:, side] = joints[:, side] + np.stack([cos * x + sin * z, y, cos * z - sin * x], -1)
    return wrists


def _mix(first: ArmVector, second: ArmVector, share: Array) -> tuple[Array, Array, Array]:
    """From one arm vector to another."""
    out, up, ahead = (a + share * (np.asarray(b) - a) for a, b in zip(first, second))
    return out, up, ahead


def _ease(t: Array, begin: float, end: float) -> Array:
    """0 before ``begin``, 1 after ``end``, smooth and point-symmetric between."""
    x = np.clip((t - begin) / (end - begin), 0, 1)
    return x * x * (3 - 2 * x)


def _cycle(t: Array, rng: Random, slow: float, fast: float) -> Array:
    """Phase of something cyclic in radians: its own rate (Hz), start and slight unevenness."""
    rate, wobble = rng.uniform(slow, fast), rng.uniform(0, 0.35)
    return 2 * np.pi * (rate * t + rng.random()) + wobble * np.sin(2 * np.pi * (0.5 * rate * t + rng.random()))


def _transition(t: Array, rng: Random) -> tuple[float, float]:
    """Begin and end (seconds) of the middle part of a motion; their law does not change under time reversal."""
    middle = t[-1] * (0.5 + rng.uniform(-0.08, 0.08))
    half = t[-1] * rng.uniform(0.26, 0.36)
    return middle - half, middle + half


def _paint(rng: Random) -> Array:
    paints = np.array([[196, 140, 84], [214, 92, 70], [92, 136, 190], [228, 190, 90], [120, 168, 110], [150, 110, 170]])
    return paints[rng.integers(len(paints))].astype(float)


# --- cyclic actions --------------------------------------------------------------------------------------------------


def _wave(body: Body, t: Array, rng: Random) -> Act:
    pose = _idle(body, t, rng)
    phase = _cycle(t, rng, 1.2, 1.9)
    size = rng.uniform(0.3, 0.42)
    begin = rng.uniform(-0.4, 0.35)
    lifted = _ease(t, begin, begin + 0.5)
    raised = (0.42 + size * np.sin(phase), 0.66 - 0.12 * np.abs(np.sin(phase)), np.full_like(t, 0.16))
    pose.wrists = _arms(body, pose.pelvis, pose.lean, pose.twist, _mix(REST, raised, lifted), REST)
    pose.elbows = np.array([[-1.0, -0.7, -0.1], [0.4, -0.2, -1.0]])
    return Act(pose)


def _jumping_jacks(body: Body, t: Array, rng: Random) -> Act:
    pose = _idle(body, t, rng)
    phase = _cycle(t, rng, 0.75, 1.1)
    open_ = 0.5 - 0.5 * np.cos(phase)
    angle = np.radians(12) + open_ * np.radians(rng.uniform(138, 158))
    arm = (0.97 * np.sin(angle), -0.97 * np.cos(angle), np.full_like(t, 0.08))
    aside = body.hip + 0.03 + open_ * rng.uniform(0.24, 0.32)
    hop = rng.uniform(0.05, 0.1) * (0.5 - 0.5 * np.cos(2 * phase))
    pose.pelvis[:, 1] = _reach_down(body, aside) + hop
    pose.ankles[..., 0] = SIDES * aside[:, None]
    pose.ankles[..., 1] = body.ankle + hop[:, None]
    pose.toes += (4 * hop)[:, None]
    pose.wrists = _arms(body, pose.pelvis, pose.lean, pose.twist, arm, arm)
    pose.elbows = np.array([[-0.6, -0.6, -1.0], [0.6, -0.6, -1.0]])
    return Act(pose)


def _squat(body: Body, t: Array, rng: Random) -> Act:
    pose = _idle(body, t, rng)
    low = (0.5 - 0.5 * np.cos(_cycle(t, rng, 0.5, 0.8))) * rng.uniform(0.85, 1.05)
    pose.ankles[..., 0] = SIDES * (body.hip + rng.uniform(0.08, 0.14))
    pose.pelvis[:, 1] -= 0.46 * body.leg * low
    pose.pelvis[:, 2] -= 0.22 * body.leg * low
    pose.lean = pose.lean + 0.6 * low
    pose.nod = pose.nod - 0.25 * low
    arm = _mix(REST, (0.0, 0.05, 0.98), low)
    pose.wrists = _arms(body, pose.pelvis, pose.lean, pose.twist, arm, arm)
    pose.knees = np.array([[-0.45, 0.0, 1.0], [0.45, 0.0, 1.0]])
    return Act(pose)


def _march(body: Body, t: Array, rng: Random) -> Act:
    pose = _idle(body, t, rng)
    phase = _cycle(t, rng, 0.75, 1.15)
    swing, size = np.sin(phase), rng.uniform(0.85, 1.1)
    lift = np.stack([np.maximum(swing, 0), np.maximum(-swing, 0)], -1) * size
    pose.ankles[..., 1] += 0.36 * body.leg * lift
    pose.ankles[..., 2] += 0.2 * body.leg * lift
    pose.toes += 0.5 * lift
    pose.pelvis[:, 1] += 0.012 * np.cos(2 * phase) - 0.012
    pose.pelvis[:, 0] += 0.02 * swing
    pose.twist = 0.12 * swing
    ahead = 0.5 * size * swing

    def arm(v: Array) -> ArmVector:
        return 0.14, -0.78 + 0.3 * np.maximum(v, 0), 0.12 + v

    pose.wrists = _arms(body, pose.pelvis, pose.lean, pose.twist, arm(-ahead), arm(ahead))
    return Act(pose)


def _punch(body: Body, t: Array, rng: Random) -> Act:
    pose = _idle(body, t, rng)
    phase = _cycle(t, rng, 0.8, 1.2)
    hits = [np.maximum(np.sin(phase), 0) ** 1.3, np.maximum(-np.sin(phase), 0) ** 1.3]
    pose.ankles[:, 0, 2], pose.ankles[:, 1, 2] = -0.16, 0.16
    pose.ankles[..., 0] = SIDES * (body.hip + 0.07)
    pose.pelvis[:, 1] -= 0.035 * body.leg
    pose.pelvis[:, 2] += 0.04 * (hits[0] + hits[1])
    pose.twist = 0.42 * (hits[0] - hits[1])
    pose.lean = pose.lean + 0.08
    guard = (-0.12, -0.06, 0.4)
    arms = [_mix(guard, (-0.2, rng.uniform(0.0, 0.12), 0.97), hit) for hit in hits]
    pose.wrists = _arms(body, pose.pelvis, pose.lean, pose.twist, *arms)
    pose.elbows = np.array([[-0.5, -1.0, -0.2], [0.5, -1.0, -0.2]])
    return Act(pose)


def _kick(body: Body, t: Array, rng: Random) -> Act:
    pose = _idle(body, t, rng)
    swing = np.sin(_cycle(t, rng, 0.55, 0.85))
    forth, back = np.maximum(swing, 0), np.maximum(-swing, 0)
    angle = forth * rng.uniform(1.25, 1.55) - 0.45 * back
    reach = body.leg * (0.98 - 0.12 * back - 0.1 * forth * (1 - forth))
    pose.pelvis[:, 0] += 0.03
    pose.pelvis[:, 1] -= 0.02
    hip = pose.pelvis + np.array([-body.hip, 0, 0])
    foot = hip + reach[:, None] * np.stack([-0.04 + 0 * t, -np.cos(angle), np.sin(angle)], -1)
    foot[:, 1] = np.maximum(foot[:, 1], body.ankle)
    pose.ankles[:, 0] = foot
    pose.ankles[:, 1, 0] = 0.6 * body.hip + 0.03
    pose.toes[:, 0] = np.where(swing > 0, 0.35 * forth - 0.7 * angle, 0.6 * back)
    pose.lean = pose.lean - 0.28 * forth + 0.1 * back
    pose.twist = 0.2 * swing
    out = (0.62 + 0.2 * forth, -0.6 + 0.35 * forth, 0.15 - 0.3 * swing)
    other = (0.55 + 0.2 * forth, -0.6 + 0.35 * forth, 0.15 + 0.3 * swing)
    pose.wrists = _arms(body, pose.pelvis, pose.lean, pose.twist, out, other)
    return Act(pose)


# --- actions with a direction in time --------------------------------------------------------------------------------


def _sit_down(body: Body, t: Array, rng: Random) -> Act:
    pose = _idle(body, t, rng)
    begin, end = _transition(t, rng)
    down = _ease(t, begin, end)
    seat = body.ankle + body.shin - 0.02
    back = -0.88 * body.thigh
    pose.ankles[..., 2] = 0.03
    height = seat + 0.062 * body.height * body.build
    pose.pelvis[:, 1] += down * (height - pose.pelvis[:, 1])
    pose.pelvis[:, 2] += back * np.sin(np.pi / 2 * down)
    pose.lean = pose.lean + rng.uniform(0.5, 0.7) * np.sin(np.pi * down)
    pose.nod = pose.nod - 0.15 * np.sin(np.pi * down)
    hanging = _arms(body, pose.pelvis, pose.lean, pose.twist, REST, REST)
    knee = np.stack([SIDES * (body.hip + 0.03), np.full(2, seat + 0.07), np.full(2, 0.02)], -1)
    on_thigh = _ease(down, 0.35, 1.0)[:, None, None]
    pose.wrists = hanging + on_thigh * (knee + np.array([0, 0.03, -0.06]) - hanging)
    furniture = chair(np.array([0, 0, back - 0.02]), seat, 0.0, _paint(rng), len(t))
    return Act(pose, *furniture, kinds=("chair",))


def _pick_up(body: Body, t: Array, rng: Random) -> Act:
    pose = _idle(body, t, rng)
    begin, end = _transition(t, rng)
    grasp = (begin + end) / 2 + rng.uniform(-0.05, 0.05) * (end - begin)
    half = CRATE * rng.uniform(0.9, 1.1)
    bend, rise = _ease(t, begin, grasp), _ease(t, grasp, end)
    low = bend - rise
    pose.ankles[..., 0] = SIDES * (body.hip + 0.07)
    pose.pelvis[:, 1] -= rng.uniform(0.36, 0.44) * body.leg * low
    pose.pelvis[:, 2] -= 0.2 * body.leg * low
    pose.lean = pose.lean + rng.uniform(0.85, 1.0) * low - 0.06 * rise
    floor = np.array([0, half[1], 0.25 * body.height])
    carry = np.array([0, body.stand + 0.5 * body.trunk, 0.21 * body.height])
    box = floor + rise[:, None] * (carry - floor)
    sides = box[:, None] + np.stack([SIDES * (half[0] + 0.02), np.zeros(2), np.full(2, -0.03)], -1)
    hanging = _arms(body, pose.pelvis, pose.lean, pose.twist, REST, REST)
    pose.wrists = hanging + bend[:, None, None] * (sides - hanging)
    pose.elbows = np.array([[-1.0, -0.4, -0.8], [1.0, -0.4, -0.8]])
    return Act(pose, boxes=[Box(box, half, 0.0, _paint(rng))], kinds=("crate",))


def _throw(body: Body, t: Array, rng: Random) -> Act:
    """A ball held at the chest is pushed away with both hands, flies off and may bounce."""
    pose = _idle(body, t, rng)
    begin, end = _transition(t, rng)
    middle = (begin + end) / 2
    release = middle + 0.1 * (end - begin)
    # draw back, push, follow through and lower
    dip = np.sin(np.pi * _ease(t, begin, release))
    push = _ease(t, middle - 0.18 * (end - begin), release)
    lower = _ease(t, release + 0.1, end + 0.25)
    pose.pelvis[:, 1] -= 0.12 * body.leg * dip
    pose.lean = pose.lean - 0.12 * dip + 0.3 * push * (1 - lower)
    pose.pelvis[:, 2] += 0.08 * push * (1 - lower)
    pose.ankles[:, 0, 2], pose.ankles[:, 1, 2] = -0.14, 0.14
    radius = rng.uniform(0.11, 0.14)
    held = (-0.1, -0.42, 0.5)
    arm = _mix(_mix(held, (-0.1, 0.12, 0.95), push), REST, lower)
    pose.wrists = _arms(body, pose.pelvis, pose.lean, pose.twist, arm, arm)
    pose.elbows = np.array([[-1.0, -0.6, -0.3], [1.0, -0.6, -0.3]])
    ball = pose.wrists.mean(1) + np.array([0, 0.03, 0.07])
    at = int(np.searchsorted(t, release))
    flight = (t[at:] - t[at])[:, None]
    ahead, up = rng.uniform(2.4, 3.2), rng.uniform(1.6, 2.4)
    path = ball[at] + flight * np.array([0, up, ahead]) - flight**2 * np.array([0, 4.0, 0])
    path[:, 1] = radius + np.abs(path[:, 1] - radius)  # bounces
    ball[at:] = path
    return Act(pose, cones=[Cone(ball, ball, radius, radius, _paint(rng))], kinds=("ball",))


def _reversed(motion: Motion) -> Motion:
    return lambda body, t, rng: motion(body, t, rng).backwards()


COARSE: dict[str, Motion] = {
    "wave": _wave,
    "jumping_jacks": _jumping_jacks,
    "squat": _squat,
    "march": _march,
    "punch": _punch,
    "kick": _kick,
    "sit_down": _sit_down,
    "stand_up": _reversed(_sit_down),
    "pick_up": _pick_up,
    "put_down": _reversed(_pick_up),
    "throw": _throw,
    "catch": _reversed(_throw),
}
"""Actions of the coarse family by class name, in label order."""

FAMILIES: dict[str, dict[str, Motion]] = {"coarse": COARSE}

TWINS = (("sit_down", "stand_up"), ("pick_up", "put_down"), ("throw", "catch"))
"""Classes that are the same motion in opposite order."""
