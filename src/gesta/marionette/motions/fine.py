"""The fine family: dives from a platform, named as Diving48 names them, which differ in counts, order and position.

A name says how the dive begins (forward and reverse: facing the water, back and inward: with the back to it), how many
somersaults and twists it has in tenths, and the position in the air. Forward and inward dives turn forwards, back and
reverse ones backwards. All dives end head first. How long a dive is in the air varies more than the number of its
turns, so the speed of the turning does not count them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from gesta.marionette.motions.blocks import (
    REST,
    Motion,
    Performance,
    Random,
    arms_to,
    blend_arms,
    ease,
    random_colour,
    standing_pose,
)
from gesta.marionette.puppet import Body, Pose, both_sides, rotation, shoulders
from gesta.marionette.renderer import Array, Box, Cone

ATTRIBUTES = ("takeoff", "somersault", "twist", "position")
"""What the parts of a class name mean."""

_TAKEOFFS = {"forward": (1, 1), "back": (-1, -1), "reverse": (1, -1), "inward": (-1, 1)}
"""Facing the water (1) or the platform (-1), and turning forwards (1) or backwards (-1)."""

UP = (-0.3, 0.94, 0.05)
"""Arms overhead, hands together; see :data:`gesta.marionette.motions.blocks.ArmVector`."""


@dataclass(slots=True)
class _Flight:
    """When the diver leaves the platform and enters the water, and how far the dive is between, fractions ``(T,)``."""

    leave: float  # seconds
    enter: float
    air: Array  # of the time in the air
    closed: Array  # of the bending into the position
    turned: Array  # of all somersaults
    twisted: Array  # of all twists


def _flight(t: Array, rng: Random) -> _Flight:
    leave = t[-1] * rng.uniform(0.07, 0.15)
    enter = leave + t[-1] * rng.uniform(0.5, 0.8)
    air = np.clip((t - leave) / (enter - leave), 0, 1)
    first, last = rng.uniform(0.08, 0.14), rng.uniform(0.84, 0.9)
    fine = np.linspace(0, 1, 400)

    def closed(fraction: Array) -> Array:
        return ease(fraction, first, first + 0.16) - ease(fraction, last - 0.16, last)

    speed = ease(fine, -0.05, 0.1) * (1 + rng.uniform(0.6, 1.0) * closed(fine))  # a smaller body turns faster
    done = np.cumsum(speed) - speed[0]
    turned = np.interp(air, fine, done / done[-1])
    return _Flight(leave, enter, air, closed(air), turned, ease(air, first + 0.06, last - 0.06))


def _path(body: Body, t: Array, flight: _Flight, platform: float, rng: Random) -> Array:
    """The pelvis ``(T, 3)``: up from the platform, over its edge, down into the water, and on."""
    start, end = platform + body.hip_height, body.trunk + 1.9 * body.arm
    drop, rise = start - end, rng.uniform(0.3, 0.45)
    fall = drop + 2 * rise + np.sqrt((drop + 2 * rise) ** 2 - drop**2)
    height = start + (fall - drop) * flight.air - fall * flight.air**2
    speed = (fall + drop) / (flight.enter - flight.leave)
    height -= speed * np.maximum(t - flight.enter, 0)
    across = -0.45 + rng.uniform(0.95, 1.15) * flight.air
    return np.stack([across, height, np.zeros_like(t)], -1)


def _limbs(body: Body, pose: Pose, position: str, closed: Array) -> Array:
    """Bend hips and knees into the position, by ``closed``; returns where the hands then are, ``(T, 2, 3)``."""
    if position == "free":
        return pose.pelvis[:, None] + both_sides(0.05, 0.62 * body.trunk, 0.17)  # at the chest
    pike = position == "pike"
    pose.lean = pose.lean + closed * (0.78 if pike else 0.7)
    thigh, shin = closed * (1.35 if pike else 2.0), closed * (1.35 if pike else -0.5)
    hip = pose.pelvis[:, None] + both_sides(body.hip, 0.0, 0.0)

    def down(angle: Array) -> Array:
        return np.stack([0 * angle, -np.cos(angle), np.sin(angle)], -1)[:, None]

    knee = hip + 0.985 * body.thigh * down(thigh)
    ankle = knee + 0.985 * body.shin * down(shin)
    pose.ankles = pose.ankles + closed[:, None, None] * (ankle - pose.ankles)
    pose.toes = pose.toes - shin[:, None]
    return knee + (0.55 if pike else 0.6) * (ankle - knee) + np.array([0, 0, 0.03])


def _dive(name: str) -> Motion:
    takeoff, somersaults, twists, position = name.split("_")
    facing, forwards = _TAKEOFFS[takeoff]
    halves, twist_halves = _half_turns(somersaults.removesuffix("som")), _half_turns(twists.removesuffix("twis"))

    def motion(body: Body, t: Array, rng: Random) -> Performance:
        pose, flight = standing_pose(body, t, rng), _flight(t, rng)
        platform = rng.uniform(1.5, 1.9)
        path = _path(body, t, flight, platform, rng)
        crouch = ease(t, flight.leave - 0.45, flight.leave - 0.15) - ease(t, flight.leave - 0.15, flight.leave)
        crouch *= t <= flight.leave
        lower = np.array([0, 1.0, 0]) * (0.16 * body.leg * crouch)[:, None]
        feet = pose.ankles - pose.pelvis[:, None] + lower[:, None]
        pose.pelvis = path - lower
        pose.ankles = pose.pelvis[:, None] + feet
        pose.lean, pose.nod = pose.lean + 0.35 * crouch, 0 * pose.nod
        pose.toes = pose.toes + 1.2 * ease(flight.air, 0.0, 0.1)[:, None]
        hands = _limbs(body, pose, position, flight.closed)
        raised = blend_arms(REST, UP, ease(t, flight.leave - 0.5, flight.leave))
        arms = arms_to(body, replace(pose, lean=0 * t), raised, raised)
        arms += shoulders(body, pose.pelvis, pose.lean, pose.twist) - shoulders(body, pose.pelvis, 0 * t, pose.twist)
        pose.wrists = arms + flight.closed[:, None, None] * (hands - arms)
        pose.elbows = both_sides(1.0, -0.3, -0.3)
        pose.knees = both_sides(0.15, 0.6, 1.0)
        side = rng.choice([-1.0, 1.0])
        heading = rotation(np.full_like(t, facing * np.pi / 2 + rng.uniform(-0.15, 0.15)), 0 * t)
        pitch = rotation(0 * t, forwards * halves * np.pi * flight.turned)
        pose.turn = heading @ pitch @ rotation(side * twist_halves * np.pi * flight.twisted, 0 * t)
        boxes, cones = _tower(platform, len(t), rng), _splash(t, flight.enter, path, rng)
        near = np.arange(-4, 5)
        follow = path[np.clip(np.arange(len(t))[:, None] + near, 0, len(t) - 1), 1].mean(1)
        follow = np.maximum(follow, 1.15) - 0.6 * body.height
        return Performance(pose, cones, boxes, ("chair", "crate", "ball"), follow)

    return motion


def _half_turns(digits: str) -> int:
    """``05`` and ``15`` count tenths of turns, ``1`` and ``2`` whole ones, ``no`` is none."""
    return 0 if digits == "no" else int(digits) // 5 if len(digits) > 1 else 2 * int(digits)


def _tower(platform: float, frames: int, rng: Random) -> list[Box]:
    """A platform, or a thin board, whose edge is at x = -0.4, on a post."""
    colour, thick = random_colour(rng), float(rng.choice([0.02, 0.06]))
    height = platform / 2 - thick
    board = Box(np.tile([-0.82, platform - thick, 0.0], (frames, 1)), np.array([0.42, thick, 0.3]), 0.0, colour)
    post = Box(np.tile([-1.0, height, 0.0], (frames, 1)), np.array([0.1, height, 0.1]), 0.0, 0.7 * colour)
    return [board, post]


def _splash(t: Array, enter: float, path: Array, rng: Random) -> list[Cone]:
    """Drops that leave the water where the diver enters it."""
    cones, x = [], np.interp(enter, t, path[:, 0])
    for _ in range(9):
        since = np.maximum(t - enter + rng.uniform(0, 0.1), 0)
        along, up, ahead = rng.uniform(-0.6, 0.6), rng.uniform(1.2, 2.6), rng.uniform(-0.6, 0.6)
        radius = rng.uniform(0.03, 0.06)
        at = np.stack([x + along * since, up * since - 2.5 * since**2 - 0.1, ahead * since], -1)
        cones.append(Cone(at, at, radius, radius, np.array([236.0, 244.0, 250.0]), shadow=False))
    return cones


_NAMES = """
back_15som_05twis_free back_15som_15twis_free back_15som_notwis_pike back_15som_notwis_tuck back_25som_notwis_tuck
forward_15som_1twis_free forward_15som_2twis_free forward_15som_notwis_pike forward_25som_notwis_pike
forward_25som_notwis_tuck inward_15som_notwis_tuck inward_25som_notwis_tuck reverse_15som_05twis_free
reverse_15som_notwis_pike reverse_25som_notwis_pike reverse_25som_notwis_tuck"""

FINE: dict[str, Motion] = {name: _dive(name) for name in _NAMES.split()}
"""Actions of the fine family by class name, in label order."""
