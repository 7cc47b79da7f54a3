"""One clip of the synthetic data set, from its name to its file: action, subject, camera, room, distractors, H.264.

Everything random in a clip follows from ``(seed, clip)`` alone, so frames are the same, bit for bit, whoever makes them
and in whatever order. Only the motion and what it handles depend on the action: length, rhythm, camera, room, light and
distractors have the same distribution for all classes. This module does not import torch, so that the worker processes
that make clips start quickly.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gesta.marionette.displacement import CameraAim, Displacement, draw_displacement
from gesta.marionette.encode import write_depth, write_flow_pictures, write_video
from gesta.marionette.lighting import Lighting, add_camera_noise, add_depth_noise, varied_gain
from gesta.marionette.motions import FAMILIES, FRAMINGS, perform
from gesta.marionette.motions.blocks import FPS, Performance, Random
from gesta.marionette.motions.coarse import CRATE
from gesta.marionette.motions.kitchen import TimedAction, perform_actions, plan_video
from gesta.marionette.puppet import Body, body_solids, chair, joints, make_body
from gesta.marionette.renderer import Array, Box, Camera, Cone, Room, picture_box, render

AZIMUTHS = (-60.0, -43.0, -26.0, -9.0, 9.0, 26.0, 43.0, 60.0)
"""Where cameras C01 to C08 stand, degrees from the puppet's front; the camera of a clip differs by at most 8."""

FRAMES = (32, 40)
"""Least and greatest length of a clip."""


class ClipName(NamedTuple):
    """The name of a clip; all numbers count from 1."""

    action: int
    subject: int
    camera: int
    take: int

    def __str__(self) -> str:
        return f"A{self.action:02d}_S{self.subject:02d}_C{self.camera:02d}_R{self.take:02d}"


def count_frames(clip: ClipName, seed: int, family: str = "coarse") -> int:
    """Number of frames of a clip."""
    return _start(clip, seed, family)[1]


def segments(clip: ClipName, seed: int) -> list[TimedAction]:
    """The labelled segments of a long video of the kitchen (whose action is 0)."""
    return plan_video(_random(clip, seed, "kitchen"))[1]


def render_clip(
    clip: ClipName,
    seed: int,
    size: int = 128,
    family: str = "coarse",
    lighting: Lighting = "even",
    aim: CameraAim = "centred",
) -> tuple[Array, Array]:
    """The frames of a clip before encoding.

    Under varied lighting the depth has the noise of a sensor, and is 0 where there is no reading.

    Returns:
        rgb: ``(T, size, size, 3)`` uint8, :data:`~gesta.marionette.motions.FPS` frames per second.
        depth: ``(T, size, size)`` float32, metres along the optical axis, finite everywhere.
    """
    _, puppet, cones, boxes, room, camera = _scene(clip, seed, family, aim)
    if lighting == "even":
        return render(puppet + cones, boxes, room, camera, size)
    light, sensors = _random(clip, seed, family, 1).spawn(2)
    room.gain = room.gain * varied_gain(np.arange(len(room.gain)) / FPS, light)
    rgb, metres = render(puppet + cones, boxes, room, camera, size)
    return add_camera_noise(rgb, sensors), add_depth_noise(metres, sensors)


def render_clip_masked(clip: ClipName, seed: int, size: int = 128, family: str = "coarse") -> tuple[Array, Array]:
    """As :func:`render_clip`; the depth is that of the puppet alone, 0 around it."""
    _, puppet, cones, boxes, room, camera = _scene(clip, seed, family)
    rgb, depth = render(puppet + cones, boxes, room, camera, size)
    alone, empty = render(puppet, [], room, camera, size)[1], render([], [], room, camera, size)[1]
    return rgb, np.where((alone < empty) & (alone == depth), depth, 0)


def displacement(clip: ClipName, seed: int, family: str = "coarse", aim: CameraAim = "centred") -> Displacement:
    """How the picture of a clip is displaced, see :mod:`gesta.marionette.displacement`."""
    return draw_displacement(aim, count_frames(clip, seed, family), _random(clip, seed, family, 2))


def joint_positions(clip: ClipName, seed: int, family: str = "coarse", aim: CameraAim = "centred") -> Array:
    """Where the puppet's joints are in every frame: ``(T, 13, 2)``, from the left and the top, fractions of the
    picture, in the order of :data:`~gesta.marionette.puppet.JOINTS`; below 0 or above 1 outside of it.

    Nothing is rendered; a joint that something hides has a position, too.
    """
    scene = _scene(clip, seed, family, aim)
    return np.stack([scene.camera.project(points, frame)[0] for frame, points in enumerate(scene.joints)])


def puppet_boxes(clip: ClipName, seed: int, family: str = "coarse", aim: CameraAim = "centred") -> Array:
    """Where the puppet is in every frame: ``(T, 4)``, its left, top, right and bottom edge as fractions of the picture.

    Nothing is rendered; a limb that leaves the picture counts beyond its edges.
    """
    scene = _scene(clip, seed, family, aim)
    return np.stack([picture_box(scene.puppet, scene.camera, frame) for frame in range(len(scene.camera.eye))])


def _random(clip: ClipName, seed: int, family: str, *stream: int) -> Random:
    return np.random.default_rng([seed, 1 + list(FAMILIES).index(family), *clip, *stream])


def _start(clip: ClipName, seed: int, family: str) -> tuple[Random, int]:
    rng = _random(clip, seed, family)
    return rng, int(rng.integers(FRAMES[0], FRAMES[1] + 1)) if clip.action else plan_video(rng)[2]


class _Scene(NamedTuple):
    joints: Array  # of the puppet, (T, 13, 3)
    puppet: list[Cone]
    cones: list[Cone]  # what else is round
    boxes: list[Box]
    room: Room
    camera: Camera


def _scene(clip: ClipName, seed: int, family: str, aim: CameraAim = "centred") -> _Scene:
    rng, frames = _start(clip, seed, family)
    body = make_body(clip.subject)
    # separate streams, so that what an action draws does not shift what the scene draws
    motion, scene = rng.spawn(2)
    if clip.action:
        performance = perform(list(FAMILIES[family])[clip.action - 1], body, frames, motion, family)
    else:
        before, actions, _ = plan_video(_random(clip, seed, family))
        performance = perform_actions(body, np.arange(frames) / FPS, motion, before, actions)
    camera, facing = _camera(clip.camera, body, frames, scene)
    framing = FRAMINGS[family]
    camera.focal *= framing.zoom
    camera.target[:, 1] += framing.raised * body.height
    camera.eye[:, 1] += framing.above * body.height
    if performance.follow is not None:
        camera.target[:, 1] += performance.follow
    room = _room(body, facing, frames, scene)
    if framing.pool:
        room.floor_colours, room.floor_pattern = _WATER, "plain"
    cones, boxes = _distractors(performance, facing, frames, scene)
    moved = displacement(clip, seed, family, aim)
    camera.focal *= moved.zoom
    camera.roll, camera.shift = moved.roll, moved.shift
    puppet, positions = body_solids(body, performance.pose), joints(body, performance.pose)
    return _Scene(positions, puppet, performance.cones + cones, performance.boxes + boxes, room, camera)


def make_clip(
    clip: ClipName,
    seed: int,
    size: int,
    path: Path,
    depth: Path | None = None,
    flow: Path | None = None,
    family: str = "coarse",
    lighting: Lighting = "even",
    aim: CameraAim = "centred",
) -> None:
    """Render a clip and write those of its files that are missing; they appear under their names only when complete.

    Args:
        clip, seed, size, family, lighting, aim: as of :func:`render_clip`.
        path: of the video, H.264 in MP4.
        depth: folder of its depth maps, ``Depth-00000001.png`` and so on: 16 bits, millimetres, as NTU RGB+D has them.
        flow: folder of its optical flow, see :mod:`gesta.video.flow`.
    """
    rgb, metres = render_clip(clip, seed, size, family, lighting, aim)
    if not path.exists():
        write_video(rgb, path, "h264", Fraction(FPS))
    if depth is not None and not depth.exists():
        write_depth(metres, depth)
    if flow is not None and not flow.exists():
        write_flow_pictures(rgb, flow)


def _camera(number: int, body: Body, frames: int, rng: Random) -> tuple[Camera, float]:
    """A camera in its zone, with its own height, distance, framing and motion; and its mean azimuth, radians."""
    t = np.linspace(-1, 1, frames)
    azimuth = np.radians(AZIMUTHS[number - 1] + rng.uniform(-4, 4))
    distance = rng.uniform(3.6, 5.5)
    height = body.height * (0.62 + 0.12 * ((number * 3) % 5)) + rng.uniform(-0.1, 0.1)
    fraction = rng.uniform(0.65, 0.72)  # of the picture's height that the standing puppet fills
    drift, shake = np.zeros((frames, 3)), np.zeros((frames, 3))
    orbit, dolly = np.zeros(frames), np.ones(frames)
    kind = rng.choice(["still", "orbit", "pan", "dolly", "hand"])
    direction = rng.choice([-1.0, 1.0])
    if kind == "orbit":
        orbit = np.radians(4) * direction * t
    elif kind == "pan":
        drift = np.stack([0.09 * direction * t, 0.05 * rng.uniform(-1, 1) * t, 0 * t], -1)
    elif kind == "dolly":
        dolly = 1 + 0.07 * direction * t
    elif kind == "hand":
        rates, phases = rng.uniform(1, 5, (3, 3)), rng.uniform(0, 6.3, (3, 3))
        shake = 0.012 * np.sin(3 * t[:, None, None] * rates + phases).sum(1)
    turn = azimuth + orbit
    eye = np.stack([np.sin(turn), np.zeros(frames), np.cos(turn)], -1) * (distance * dolly)[:, None]
    eye[:, 1] = height
    centre = np.array([0, body.height * rng.uniform(0.57, 0.63), 0.05])
    side = np.array([np.cos(azimuth), 0, -np.sin(azimuth)])
    drift = drift[:, :1] * side + np.array([0, 1.0, 0]) * drift[:, 1:2] + rng.uniform(-0.07, 0.07) * side
    focal = np.full(frames, fraction * distance / body.height)
    return Camera(eye + shake, centre + drift + 0.6 * shake, focal), float(azimuth)


# --- room and distractors ---------------------------------------------------------------------------------------------

_WALLS = np.array(
    [[222, 214, 200], [204, 216, 222], [212, 222, 204], [226, 206, 202], [210, 204, 222], [232, 226, 190]]
    + [[96, 104, 120], [112, 98, 92], [88, 110, 104], [106, 94, 118], [150, 168, 178], [178, 160, 140]],
    dtype=float,
)
_FLOORS = np.array(
    [[176, 140, 102], [150, 150, 154], [128, 104, 84], [196, 186, 168], [112, 124, 132], [158, 120, 96]], dtype=float
)

_WATER = np.array([[58, 128, 170], [96, 168, 200]], dtype=float)


def _room(body: Body, facing: float, frames: int, rng: Random) -> Room:
    t = np.arange(frames) / FPS
    # among a few walls the one that the clothes stand out from best
    choices = _WALLS[rng.permutation(len(_WALLS))[:4]]
    clothes = np.stack([body.shirt, body.trousers, body.skin])
    wall = choices[np.linalg.norm(choices[:, None] - clothes, axis=-1).min(1).argmax()]
    floor = _FLOORS[rng.integers(len(_FLOORS))]
    angle = facing + rng.uniform(-0.35, 0.35)
    posters = int(rng.integers(0, 3))
    centres = rng.uniform(-1.6, 1.6, posters), rng.uniform(0.9, 2.0, posters)
    rectangles = np.stack([*centres, *rng.uniform(0.15, 0.4, (2, posters))], -1)
    flicker = 1 + rng.uniform(0, 0.09) * np.sin(2 * np.pi * (rng.uniform(0.15, 0.7) * t + rng.random()))
    tint = 1 + rng.uniform(-0.05, 0.05, 3)
    side, high = rng.uniform(0.35, 0.9) * rng.choice([-1, 1]), rng.uniform(1.0, 1.6)
    light = np.array([np.sin(facing + side), high, np.cos(facing + side)])
    return Room(
        wall=(np.array([np.sin(angle), 0, np.cos(angle)]), -rng.uniform(1.5, 2.6)),
        wall_colours=np.stack([wall, wall * rng.uniform(0.84, 0.94)]),
        floor_colours=np.stack([floor, floor * rng.uniform(0.8, 0.92)]),
        wall_pattern=str(rng.choice(["plain", "stripes", "bricks", "waves"])),
        floor_pattern=str(rng.choice(["plain", "checks", "planks"])),
        grain=rng.uniform(0.16, 0.3),
        light=light / np.linalg.norm(light),
        gain=rng.uniform(0.88, 1.1) * flicker[:, None] * tint,
        posters=(rectangles, rng.uniform(90, 210, (posters, 3))),
    )


def _distractors(performance: Performance, facing: float, frames: int, rng: Random) -> tuple[list[Cone], list[Box]]:
    """Unused chairs, crates and balls, so that objects do not reveal the action, and shapes moving behind."""
    t = np.arange(frames) / FPS
    cones: list[Cone] = []
    boxes: list[Box] = []
    side, back = np.array([np.cos(facing), 0, -np.sin(facing)]), -np.array([np.sin(facing), 0, np.cos(facing)])
    for kind in ("chair", "crate", "ball"):
        position = rng.choice([-1, 1]) * rng.uniform(0.62, 0.85) * side + rng.uniform(0.1, 0.7) * back
        colour, yaw = rng.uniform(70, 215, 3), rng.uniform(0, 6.28)
        if rng.random() > 0.3 or kind in performance.kinds:
            continue
        if kind == "chair":
            solids = chair(position, rng.uniform(0.4, 0.5), yaw, colour, frames)
            cones, boxes = cones + solids[0], boxes + solids[1]
        elif kind == "crate":
            half = CRATE * rng.uniform(0.9, 1.1)
            boxes.append(Box(np.tile(position + np.array([0, half[1], 0]), (frames, 1)), half, yaw, colour))
        else:
            radius = rng.uniform(0.11, 0.14)
            at = np.tile(position + np.array([0, radius, 0]), (frames, 1))
            cones.append(Cone(at, at, radius, radius, colour))
    for _ in range(int(rng.choice([0, 1, 2], p=[0.4, 0.4, 0.2]))):
        path = _background_path(t, rng)
        centre = 1.1 * back + path[:, :1] * side + path[:, 1:] * np.array([0, 1.0, 0])
        radius, colour = rng.uniform(0.06, 0.12), rng.uniform(100, 200, 3)
        long = rng.uniform(0, 0.2) * side
        cones.append(Cone(centre - long, centre + long, radius, radius, colour))
    return cones, boxes


def _background_path(t: Array, rng: Random) -> Array:
    """A slow path (sideways, height) of a shape in the background; its reverse is as likely."""
    straight, centre = rng.random() < 0.5, rng.uniform(-1, 1)
    across = rng.uniform(-0.6, 0.6) * (t - t.mean()) if straight else 0.4 * _slow_wave(t, rng)
    height = rng.uniform(0.25, 1.9) + 0.1 * _slow_wave(t, rng)
    return np.stack([centre + across, height], -1)


def _slow_wave(t: Array, rng: Random) -> Array:
    return np.sin(rng.uniform(0.8, 2.5) * t + rng.uniform(0, 6.3))
