"""The coarse family: 12 actions of the whole body.

Three pairs are the same motion played forwards and backwards (:data:`REVERSED_PAIRS`), so that no single frame, and no
set of frames without their order, distinguishes them.
"""

from __future__ import annotations

import numpy as np

from gesta.marionette.motions.blocks import (
    REST,
    Motion,
    Performance,
    Random,
    arms_to,
    blend_arms,
    cycle,
    ease,
    pelvis_height,
    random_colour,
    reversed_motion,
    standing_pose,
    transition,
)
from gesta.marionette.puppet import SIDES, Body, both_sides, chair
from gesta.marionette.renderer import Array, Box, Cone

CRATE = np.array([0.19, 0.15, 0.15])
"""Half sides of a crate, metres; a clip's crate differs by up to a tenth."""


# --- cyclic actions --------------------------------------------------------------------------------------------------


def _wave(body: Body, t: Array, rng: Random) -> Performance:
    pose = standing_pose(body, t, rng)
    phase = cycle(t, rng, 1.2, 1.9)
    size, begin = rng.uniform(0.3, 0.42), rng.uniform(-0.4, 0.35)
    lifted = ease(t, begin, begin + 0.5)
    raised = (0.42 + size * np.sin(phase), 0.66 - 0.12 * np.abs(np.sin(phase)), np.full_like(t, 0.16))
    pose.wrists = arms_to(body, pose, blend_arms(REST, raised, lifted), REST)
    pose.elbows = np.array([[-1.0, -0.7, -0.1], [0.4, -0.2, -1.0]])
    return Performance(pose)


def _jumping_jacks(body: Body, t: Array, rng: Random) -> Performance:
    pose = standing_pose(body, t, rng)
    phase = cycle(t, rng, 0.75, 1.1)
    open_ = 0.5 - 0.5 * np.cos(phase)
    angle = np.radians(12) + open_ * np.radians(rng.uniform(138, 158))
    arm = (0.97 * np.sin(angle), -0.97 * np.cos(angle), np.full_like(t, 0.08))
    aside = body.hip + 0.03 + open_ * rng.uniform(0.24, 0.32)
    hop = rng.uniform(0.05, 0.1) * (0.5 - 0.5 * np.cos(2 * phase))
    pose.pelvis[:, 1] = pelvis_height(body, aside) + hop
    pose.ankles[..., 0] = SIDES * aside[:, None]
    pose.ankles[..., 1] = body.ankle + hop[:, None]
    pose.toes += (4 * hop)[:, None]
    pose.wrists = arms_to(body, pose, arm, arm)
    pose.elbows = both_sides(0.6, -0.6, -1.0)
    return Performance(pose)


def _squat(body: Body, t: Array, rng: Random) -> Performance:
    pose = standing_pose(body, t, rng)
    low = (0.5 - 0.5 * np.cos(cycle(t, rng, 0.5, 0.8))) * rng.uniform(0.85, 1.05)
    pose.ankles[..., 0] = SIDES * (body.hip + rng.uniform(0.08, 0.14))
    pose.pelvis[:, 1] -= 0.46 * body.leg * low
    pose.pelvis[:, 2] -= 0.22 * body.leg * low
    pose.lean = pose.lean + 0.6 * low
    pose.nod = pose.nod - 0.25 * low
    arm = blend_arms(REST, (0.0, 0.05, 0.98), low)
    pose.wrists = arms_to(body, pose, arm, arm)
    pose.knees = both_sides(0.45, 0.0, 1.0)
    return Performance(pose)


def _march(body: Body, t: Array, rng: Random) -> Performance:
    pose = standing_pose(body, t, rng)
    phase = cycle(t, rng, 0.75, 1.15)
    swing, size = np.sin(phase), rng.uniform(0.85, 1.1)
    lift = np.maximum(-SIDES * swing[:, None], 0) * size
    pose.ankles[..., 1] += 0.36 * body.leg * lift
    pose.ankles[..., 2] += 0.2 * body.leg * lift
    pose.toes += 0.5 * lift
    pose.pelvis[:, 1] += 0.012 * np.cos(2 * phase) - 0.012
    pose.pelvis[:, 0] += 0.02 * swing
    pose.twist = 0.12 * swing
    ahead = 0.5 * size * swing
    arms = [(0.14, -0.78 + 0.3 * np.maximum(v, 0), 0.12 + v) for v in (-ahead, ahead)]
    pose.wrists = arms_to(body, pose, *arms)
    return Performance(pose)


def _punch(body: Body, t: Array, rng: Random) -> Performance:
    pose = standing_pose(body, t, rng)
    phase = cycle(t, rng, 0.8, 1.2)
    hits = [np.maximum(np.sin(phase), 0) ** 1.3, np.maximum(-np.sin(phase), 0) ** 1.3]
    pose.ankles[..., 2] = 0.16 * SIDES
    pose.ankles[..., 0] = SIDES * (body.hip + 0.07)
    pose.pelvis[:, 1] -= 0.035 * body.leg
    pose.pelvis[:, 2] += 0.04 * (hits[0] + hits[1])
    pose.twist = 0.42 * (hits[0] - hits[1])
    pose.lean = pose.lean + 0.08
    guard = (-0.12, -0.06, 0.4)
    arms = [blend_arms(guard, (-0.2, rng.uniform(0.0, 0.12), 0.97), hit) for hit in hits]
    pose.wrists = arms_to(body, pose, *arms)
    pose.elbows = both_sides(0.5, -1.0, -0.2)
    return Performance(pose)


def _kick(body: Body, t: Array, rng: Random) -> Performance:
    pose = standing_pose(body, t, rng)
    swing = np.sin(cycle(t, rng, 0.55, 0.85))
    forth, back = np.maximum(swing, 0), np.maximum(-swing, 0)
    angle = forth * rng.uniform(1.25, 1.55) - 0.45 * back
    reach = body.leg * (0.98 - 0.12 * back - 0.1 * forth * (1 - forth))
    pose.pelvis += np.array([0.03, -0.02, 0])
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
    pose.wrists = arms_to(body, pose, out, other)
    return Performance(pose)


# --- actions with a direction in time --------------------------------------------------------------------------------


def _sit_down(body: Body, t: Array, rng: Random) -> Performance:
    pose = standing_pose(body, t, rng)
    down = ease(t, *transition(t, rng))
    seat, back = body.ankle + body.shin - 0.02, -0.88 * body.thigh
    height = seat + 0.062 * body.height * body.build
    pose.ankles[..., 2] = 0.03
    pose.pelvis[:, 1] += down * (height - pose.pelvis[:, 1])
    pose.pelvis[:, 2] += back * np.sin(np.pi / 2 * down)
    pose.lean = pose.lean + rng.uniform(0.5, 0.7) * np.sin(np.pi * down)
    pose.nod = pose.nod - 0.15 * np.sin(np.pi * down)
    hanging = arms_to(body, pose, REST, REST)
    hand = both_sides(body.hip + 0.03, seat + 0.07, 0.02) + np.array([0, 0.03, -0.06])  # on the thigh
    pose.wrists = hanging + ease(down, 0.35, 1.0)[:, None, None] * (hand - hanging)
    furniture = chair(np.array([0, 0, back - 0.02]), seat, 0.0, random_colour(rng), len(t))
    return Performance(pose, *furniture, kinds=("chair",))


def _pick_up(body: Body, t: Array, rng: Random) -> Performance:
    pose = standing_pose(body, t, rng)
    begin, end = transition(t, rng)
    grasp = (begin + end) / 2 + rng.uniform(-0.05, 0.05) * (end - begin)
    half = CRATE * rng.uniform(0.9, 1.1)
    bend, rise = ease(t, begin, grasp), ease(t, grasp, end)
    low = bend - rise
    pose.ankles[..., 0] = SIDES * (body.hip + 0.07)
    pose.pelvis[:, 1] -= rng.uniform(0.36, 0.44) * body.leg * low
    pose.pelvis[:, 2] -= 0.2 * body.leg * low
    pose.lean = pose.lean + rng.uniform(0.85, 1.0) * low - 0.06 * rise
    floor = np.array([0, half[1], 0.25 * body.height])
    carry = np.array([0, body.hip_height + 0.5 * body.trunk, 0.21 * body.height])
    box = floor + rise[:, None] * (carry - floor)
    sides = box[:, None] + both_sides(half[0] + 0.02, 0.0, -0.03)
    hanging = arms_to(body, pose, REST, REST)
    pose.wrists = hanging + bend[:, None, None] * (sides - hanging)
    pose.elbows = both_sides(1.0, -0.4, -0.8)
    return Performance(pose, boxes=[Box(box, half, 0.0, random_colour(rng))], kinds=("crate",))


def _throw(body: Body, t: Array, rng: Random) -> Performance:
    """A ball held at the chest is pushed away with both hands, flies off and may bounce."""
    pose = standing_pose(body, t, rng)
    begin, end = transition(t, rng)
    middle = (begin + end) / 2
    release = middle + 0.1 * (end - begin)
    # draw back, push, follow through and lower
    dip = np.sin(np.pi * ease(t, begin, release))
    push = ease(t, middle - 0.18 * (end - begin), release)
    lower = ease(t, release + 0.1, end + 0.25)
    pose.pelvis[:, 1] -= 0.12 * body.leg * dip
    pose.lean = pose.lean - 0.12 * dip + 0.3 * push * (1 - lower)
    pose.pelvis[:, 2] += 0.08 * push * (1 - lower)
    pose.ankles[..., 2] = 0.14 * SIDES
    radius = rng.uniform(0.11, 0.14)
    held = (-0.1, -0.42, 0.5)
    arm = blend_arms(blend_arms(held, (-0.1, 0.12, 0.95), push), REST, lower)
    pose.wrists = arms_to(body, pose, arm, arm)
    pose.elbows = both_sides(1.0, -0.6, -0.3)
    ball = pose.wrists.mean(1) + np.array([0, 0.03, 0.07])
    at = int(np.searchsorted(t, release))
    flight = (t[at:] - t[at])[:, None]
    ahead, up = rng.uniform(2.4, 3.2), rng.uniform(1.6, 2.4)
    ball[at:] = ball[at] + flight * np.array([0, up, ahead]) - flight**2 * np.array([0, 4.0, 0])
    ball[at:, 1] = radius + np.abs(ball[at:, 1] - radius)  # bounces
    return Performance(pose, cones=[Cone(ball, ball, radius, radius, random_colour(rng))], kinds=("ball",))


COARSE: dict[str, Motion] = {
    "wave": _wave,
    "jumping_jacks": _jumping_jacks,
    "squat": _squat,
    "march": _march,
    "punch": _punch,
    "kick": _kick,
    "sit_down": _sit_down,
    "stand_up": reversed_motion(_sit_down),
    "pick_up": _pick_up,
    "put_down": reversed_motion(_pick_up),
    "throw": _throw,
    "catch": reversed_motion(_throw),
}
"""Actions of the coarse family by class name, in label order."""

REVERSED_PAIRS = (("sit_down", "stand_up"), ("pick_up", "put_down"), ("throw", "catch"))
"""Classes that are the same motion in opposite order."""
