"""The renderer of the synthetic data set: solids, a room, a light and a camera become colour and depth, in numpy.

Bodies are rounded cones (two balls of different radius and all balls between them) and boxes. Both are intersected
exactly with the ray of each pixel of their bounding box, at twice the resolution of the picture; a depth buffer decides
which is in front. Wall and floor are planes with smooth textures, computed at the picture's resolution.

World coordinates are metres: x to the left of the puppet, y up from the floor, z to where it faces at rest. Camera
coordinates: x right, y down, z along the optical axis. T is the number of frames.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

OVERSAMPLING = 2
NEAR = 0.3  # metres; what comes nearer to the camera is not drawn


@dataclass(slots=True)
class Cone:
    """A rounded cone from ball ``a`` to ball ``b``; a ball alone where they coincide."""

    a: Array  # centres, each (T, 3)
    b: Array
    ra: float  # radii, metres; their difference is smaller than the distance of the centres
    rb: float
    colour: Array  # RGB, 0 to 255
    second: Array | None = None  # colour of stripes across the axis
    stripes: float = 0.0  # pairs of stripes per metre
    shadow: bool = True  # whether it darkens the floor


@dataclass(slots=True)
class Box:
    """A box that turns about the vertical only: centres ``(T, 3)``, half sides ``(3,)``, yaw in radians, RGB."""

    centre: Array
    half: Array
    yaw: float
    colour: Array


@dataclass(slots=True)
class Camera:
    """A perspective camera: ``eye`` and ``target`` ``(T, 3)``, ``focal`` ``(T,)`` in picture heights.

    The picture is then turned clockwise about its middle by ``roll`` radians, and moved to the right and down by
    ``shift`` ``(T, 2)``, fractions of its side.
    """

    eye: Array
    target: Array
    focal: Array
    roll: float = 0.0
    shift: Array | None = None

    def rotation(self, frame: int) -> Array:
        """World to camera: rows are the camera's right, down and forward."""
        cos, sin = np.cos(self.roll), np.sin(self.roll)
        rolled = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
        unrolled = _camera_rotation(self.eye[frame], self.target[frame])
        return rolled @ unrolled if self.roll else unrolled

    def middle(self, frame: int) -> Array:
        """Where the optical axis meets the picture: from its left and top edge, as fractions of its side."""
        return 0.5 + (np.zeros(2) if self.shift is None else self.shift[frame])

    def project(self, points: Array, frame: int) -> tuple[Array, Array]:
        """World points ``(n, 3)`` to positions in the picture ``(n, 2)``, fractions, and to their depth ``(n,)``."""
        x, y, z = self.rotation(frame) @ (points - self.eye[frame]).T
        return self.middle(frame) + self.focal[frame] * np.stack([x, y], -1) / z[:, None], z


@dataclass(slots=True)
class Room:
    """A floor and one wall, how they are painted and lit."""

    wall: tuple[Array, float]  # its normal, pointing into the room, and its distance from the origin
    wall_colours: Array  # two RGB colours, (2, 3)
    floor_colours: Array
    wall_pattern: str  # plain, stripes, bricks or waves
    floor_pattern: str  # plain, checks or planks
    grain: float  # size of the patterns, metres
    light: Array  # unit vector towards the light
    gain: Array  # (T, 3), brightness of the light by colour channel
    # rectangles on the wall: centre and half size along it (n, 4), RGB (n, 3)
    posters: tuple[Array, Array] = field(default_factory=lambda: (np.zeros((0, 4)), np.zeros((0, 3))))


def render(cones: list[Cone], boxes: list[Box], room: Room, camera: Camera, size: int) -> tuple[Array, Array]:
    """Draw all frames.

    Returns:
        rgb: ``(T, size, size, 3)`` uint8.
        depth: ``(T, size, size)`` float32, metres along the optical axis; finite, as wall and floor have one too.
    """
    frames = [_render_frame(cones, boxes, room, camera, frame, size) for frame in range(len(camera.eye))]
    rgb, depth = (np.stack(pictures) for pictures in zip(*frames))
    return rgb, depth


def picture_box(cones: list[Cone], camera: Camera, frame: int) -> Array:
    """The box around the balls at the ends of cones: left, top, right, bottom as fractions of the picture."""
    balls = [(end[frame], radius) for cone in cones for end, radius in ((cone.a, cone.ra), (cone.b, cone.rb))]
    centres, depth = camera.project(np.stack([centre for centre, _ in balls]), frame)
    radii = camera.focal[frame] * np.array([radius for _, radius in balls]) / depth
    return np.concatenate([(centres - radii[:, None]).min(0), (centres + radii[:, None]).max(0)])


def _render_frame(
    cones: list[Cone], boxes: list[Box], room: Room, camera: Camera, frame: int, size: int
) -> tuple[Array, Array]:
    eye = camera.eye[frame]
    turn, middle = camera.rotation(frame), camera.middle(frame)
    focal, k = float(camera.focal[frame]), OVERSAMPLING
    colour, depth = _background(cones, boxes, room, eye, turn, focal, middle, frame, size)
    colour = colour.repeat(k, 0).repeat(k, 1)
    depth = depth.repeat(k, 0).repeat(k, 1)
    canvas = _Canvas(colour, depth, focal * size * k, middle, turn @ room.light, turn @ _UP, room.gain[frame])
    for cone in cones:
        a, b = turn @ (cone.a[frame] - eye), turn @ (cone.b[frame] - eye)
        canvas.cone(a.astype(np.float32), b.astype(np.float32), cone)
    for box in boxes:
        canvas.box(turn, eye - box.centre[frame], box)
    corners = [(slice(i, None, k), slice(j, None, k)) for i in range(k) for j in range(k)]
    mean = sum(canvas.colour[corner] for corner in corners) / np.float32(k * k)
    return np.clip(mean + 0.5, 0, 255).astype(np.uint8), np.minimum.reduce([canvas.depth[c] for c in corners])


_UP = np.array([0.0, 1.0, 0.0])


def _camera_rotation(eye: Array, target: Array) -> Array:
    """World to camera without roll."""
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, _UP)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(forward, right), forward])


class _Canvas:
    """Colour and depth buffers ``(S, S, 3)`` and ``(S, S)`` of one frame."""

    def __init__(
        self, colour: Array, depth: Array, focal: float, middle: Array, light: Array, up: Array, gain: Array
    ) -> None:
        self.colour, self.depth, self.focal = colour, depth, focal
        self.light, self.up, self.gain = light.astype(np.float32), up.astype(np.float32), gain.astype(np.float32)
        self.side = len(depth)
        self.middle = middle * self.side
        self.rays = _rays(self.side, focal, middle)  # of the columns, and of the rows

    def _window(self, points: list[tuple[float, float, float]]) -> tuple[slice, slice] | None:
        """Rows and columns around points (x, y, reach) of the image plane; None if outside the picture."""
        scale, (across, down), side = self.focal, self.middle, self.side
        top = max(int(min(y - r for _, y, r in points) * scale + down), 0)
        left = max(int(min(x - r for x, _, r in points) * scale + across), 0)
        bottom = min(int(max(y + r for _, y, r in points) * scale + down) + 1, side)
        right = min(int(max(x + r for x, _, r in points) * scale + across) + 1, side)
        return (slice(top, bottom), slice(left, right)) if bottom > top and right > left else None

    def cone(self, a: Array, b: Array, cone: Cone) -> None:
        """Draw a rounded cone given in camera coordinates.

        The ball of parameter t has centre a + t(b-a) and radius ra + t(rb-ra). Its envelope satisfies
        |p-a|² - ra² - m t*² = 0 with t* = ((p-a)·(b-a) + ra(rb-ra))/m and m = |b-a|² - (rb-ra)²; t* is linear along a
        ray, so the hit is the root of a quadratic. Outside 0 ≤ t* ≤ 1 the end ball takes over.
        """
        if min(a[2] - cone.ra, b[2] - cone.rb) < NEAR:
            return
        ends = ((*a.tolist(), cone.ra), (*b.tolist(), cone.rb))
        # the outline of a ball off the optical axis is a little wider than its radius
        window = self._window([(x / z, y / z, 1.05 * r / (z - r) + 0.002) for x, y, z, r in ends])
        if window is None:
            return
        u, v = self.rays[0][None, window[1]], self.rays[1][window[0], None]
        ray2 = u * u + v * v + 1
        ray_a = u * a[0] + v * a[1] + a[2]
        axis, grow = b - a, np.float32(cone.rb - cone.ra)
        ray_axis = u * axis[0] + v * axis[1] + axis[2]
        m = axis @ axis - grow * grow
        c0 = a @ a - np.float32(cone.ra) ** 2
        flank = m > 1e-6
        if flank:
            t0 = (cone.ra * grow - a @ axis) / m
            t1 = ray_axis / m
            q, h, c = ray2 - m * t1 * t1, ray_a + m * t0 * t1, c0 - m * t0 * t0
            root = h * h - q * c
            steep = q <= 0  # the ray runs more along the axis than the flank does: towards the wide end it enters the
            seen = (root > 0) | steep  # flank once, towards the narrow end it can only enter through the wide ball
        else:
            seen = np.ones_like(ray2, dtype=bool)
        # what comes is computed of the pixels that the cone may cover, which are a third of the window
        rows, columns = seen.nonzero()
        ray2, ray_a, ray_axis = ray2[seen], ray_a[seen], ray_axis[seen]
        if flank:
            t1, q, h, root, steep = t1[seen], q[seen], h[seen], root[seen], steep[seen]
            square = np.sqrt(np.maximum(root, 0))
            s = np.where(h > 0, c / np.maximum(h + square, 1e-9), (h - square) / np.where(np.abs(q) < 1e-9, 1e-9, q))
            along = t0 + s * t1
            along = np.where(steep & (t1 * grow < 0), np.float32(2 if grow > 0 else -1), along)
            t = _between_0_and_1(along)
            ball = t != along
        else:
            s = t = np.zeros_like(ray2)
            ball = np.ones_like(ray2, dtype=bool)
        h = ray_a + t * ray_axis  # t is 0 or 1 where it matters
        c = np.where(t > 0, b @ b - np.float32(cone.rb) ** 2, c0)
        root = h * h - ray2 * c
        s = np.where(ball, (h - np.sqrt(np.maximum(root, 0))) / ray2, s)
        rows, columns = rows + window[0].start, columns + window[1].start
        hit = (~ball | (root > 0)) & (s < self.depth[rows, columns])
        if not hit.any():
            return
        rows, columns, s, t = rows[hit], columns[hit], s[hit], t[hit]
        point = np.empty((len(s), 3), dtype=np.float32)
        point[:, 0], point[:, 1], point[:, 2] = self.rays[0][columns] * s, self.rays[1][rows] * s, s
        normal = (point - (a + t[:, None] * axis)) / (cone.ra + t * grow)[:, None]
        base = np.asarray(cone.colour, dtype=np.float32)
        if cone.stripes and cone.second is not None:
            wave = np.sin(t * np.float32(2 * np.pi * cone.stripes * np.sqrt(axis @ axis)))
            fraction = _between_0_and_1(0.5 + 3 * wave)[:, None]
            base = base + fraction * (np.asarray(cone.second, dtype=np.float32) - base)
        self.depth[rows, columns] = s
        self.colour[rows, columns] = base * self._shade(normal)

    def box(self, turn: Array, offset: Array, box: Box) -> None:
        """Draw a box by intersecting each ray with its three slabs; ``offset`` is from its centre to the eye."""
        cos, sin = np.cos(box.yaw), np.sin(box.yaw)
        to_box = np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]])  # from world coordinates
        corners = (_CORNERS * box.half) @ to_box @ turn.T - turn @ offset
        if corners[:, 2].min() < NEAR:
            return
        window = self._window([(x / z, y / z, 0.0) for x, y, z in corners.tolist()])
        if window is None:
            return
        u, v = self.rays[0][None, window[1]], self.rays[1][window[0], None]
        eye = (to_box @ offset).astype(np.float32)
        axes = (to_box @ turn.T).astype(np.float32)
        rays = np.stack([u * axis[0] + v * axis[1] + axis[2] for axis in axes])
        slopes = np.where(np.abs(rays) < 1e-6, np.float32(1e-6), rays)
        planes = [(half - eye)[:, None, None] / slopes for half in (-box.half, box.half)]
        enter = np.minimum(*planes)
        face, near, far = enter.argmax(0), enter.max(0), np.maximum(*planes).min(0)
        depth = self.depth[window]
        seen = (near < far) & (near < depth)
        if not seen.any():
            return
        s, face = near[seen], face[seen]
        local = np.stack([eye[i] + s * rays[i][seen] for i in range(3)], -1)
        sign = np.sign(local[np.arange(len(s)), face])
        normal = (axes[face] * sign[:, None]).astype(np.float32)
        margin = np.sort(box.half - np.abs(local), -1)[:, 1]  # distance to the nearest edge of the face
        border = np.where(margin < 0.12 * box.half.min(), np.float32(0.8), np.float32(1.0))[:, None]
        depth[seen] = s
        self.colour[window][seen] = np.asarray(box.colour, dtype=np.float32) * border * self._shade(normal)

    def _shade(self, normal: Array) -> Array:
        """Light that leaves a matt surface of unit colour with ``(P, 3)`` normals: sky, lamp, and darker outlines."""
        # no matrix products: BLAS may round differently with another number of threads
        up, lit = (normal[:, 0] * v[0] + normal[:, 1] * v[1] + normal[:, 2] * v[2] for v in (self.up, self.light))
        sky = 0.46 + 0.14 * up
        lamp = 0.58 * np.maximum(lit, 0)
        outline = 0.8 + 0.2 * _between_0_and_1(-normal[:, 2] * 1.6)
        return ((sky + lamp) * outline)[:, None] * self.gain


def _between_0_and_1(x: Array) -> Array:
    """As ``np.clip(x, 0, 1)``, which takes four times as long for the few numbers of a limb."""
    return np.minimum(np.maximum(x, x.dtype.type(0)), x.dtype.type(1))


def _rays(side: int, focal: float, middle: Array) -> tuple[Array, Array]:
    """Slopes of the rays of all columns and of all rows; ``focal`` in pixels, ``middle`` in fractions of the side."""
    across, down = (((np.arange(side) + 0.5 - at * side) / focal).astype(np.float32) for at in middle)
    return across, down


_CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=float)


# --- the room --------------------------------------------------------------------------------------------------------


def _background(
    cones: list[Cone],
    boxes: list[Box],
    room: Room,
    eye: Array,
    turn: Array,
    focal: float,
    middle: Array,
    frame: int,
    size: int,
) -> tuple[Array, Array]:
    """Wall and floor: colour ``(size, size, 3)`` and depth ``(size, size)``, both float32."""
    across, down = _rays(size, focal * size, middle)
    u, v = across[None, :], down[:, None]
    turn, eye, normal = turn.astype(np.float32), eye.astype(np.float32), room.wall[0].astype(np.float32)
    dx, dy, dz = (u * turn[0, i] + v * turn[1, i] + turn[2, i] for i in range(3))
    towards = np.minimum(dx * normal[0] + dz * normal[2], -1e-3)
    wall_depth = (np.float32(room.wall[1]) - eye @ normal) / towards
    floor_depth = np.where(dy < -1e-4, -eye[1] / np.minimum(dy, -1e-4), np.float32(np.inf))
    on_floor = floor_depth < wall_depth
    depth = np.minimum(floor_depth, wall_depth)
    x, y, z = eye[0] + depth * dx, eye[1] + depth * dy, eye[2] + depth * dz
    colour = np.empty((size, size, 3), dtype=np.float32)
    along = x * normal[2] - z * normal[0]
    colour[~on_floor] = _wall(room, along[~on_floor], y[~on_floor])
    x, z = x[on_floor], z[on_floor]
    shadow = _shadow(cones, boxes, room.light, x, z, frame)
    colour[on_floor] = _floor(room, x, z) * (1 - 0.5 * shadow)[:, None]
    # light falls off towards the corners of the picture, as from a lamp above the scene
    fall = 1.04 - 0.5 * (u * u + v * v) * focal**2
    return colour * (fall[..., None] * room.gain[frame].astype(np.float32)), depth


def _square(x: Array) -> Array:
    """A square wave from 0 to 1 with the period 1 and soft edges."""
    return np.clip(0.5 + 2.5 * np.sin(2 * np.pi * x), 0, 1)


def _wall(room: Room, along: Array, height: Array) -> Array:
    g = room.grain
    if room.wall_pattern == "stripes":
        fraction = _square(along / (1.6 * g))
    elif room.wall_pattern == "bricks":
        row = height / g
        column = along / (2.2 * g) + 0.5 * (np.floor(row) % 2)
        mortar = np.maximum(np.abs(row % 1 - 0.5), 0.5 - np.abs(column % 1 - 0.5) * 2.2)
        fraction = np.clip((mortar - 0.4) * 12, 0, 1)
    elif room.wall_pattern == "waves":
        fraction = 0.5 + 0.5 * np.sin(2 * np.pi * (height / (2 * g) + 0.35 * np.sin(2 * np.pi * along / (3 * g))))
    else:
        fraction = np.clip(height / 3.0, 0, 1)
    colour = _blend(room.wall_colours, fraction)
    for (cx, cy, hx, hy), paint in zip(*room.posters):
        out = np.maximum(np.abs(along - cx) / hx, np.abs(height - cy) / hy)  # 1 at the edge
        colour[out < 1] = paint
        colour[(out < 1) & (out > 0.88)] = 0.55 * paint
    colour[height < 0.1] *= 0.72  # skirting board
    return colour


def _floor(room: Room, x: Array, z: Array) -> Array:
    g = 2.2 * room.grain
    if room.floor_pattern == "checks":
        one, two = _square(x / (2 * g)), _square(z / (2 * g))
        fraction = one + two - 2 * one * two
    elif room.floor_pattern == "planks":
        plank = np.floor(x / g)
        fraction = 0.8 * (0.5 + 0.5 * np.sin(plank * 12.9898 + np.floor(z / (6 * g) + plank * 0.37) * 78.233))
    else:
        fraction = 0.5 + 0.25 * np.sin(x * 2.1 / g + np.sin(z * 1.3 / g)) + 0.25 * np.sin(z * 1.7 / g)
    return _blend(room.floor_colours, fraction)


def _blend(colours: Array, fraction: Array) -> Array:
    """From the first to the second of two colours, ``(P, 3)`` float32."""
    first, second = colours.astype(np.float32)
    return first + fraction.astype(np.float32)[:, None] * (second - first)


def _shadow(cones: list[Cone], boxes: list[Box], light: Array, x: Array, z: Array, frame: int) -> Array:
    """How dark the shadow on each floor point is, 0 to 1: solids projected on the floor, softer from high up."""
    parts = [(c.a[frame], c.b[frame], c.ra, c.rb) for c in cones if c.shadow]
    for box in boxes:
        aside = np.array([np.cos(box.yaw), 0, -np.sin(box.yaw)]) * box.half[0] * 0.5
        radius = float(box.half[2]) * 0.9
        parts.append((box.centre[frame] - aside, box.centre[frame] + aside, radius, radius))
    dark = np.zeros(len(x), dtype=np.float32)
    ends = np.array([(a, b) for a, b, _, _ in parts]).reshape(-1, 2, 3)  # also of none
    height = np.maximum(ends[..., 1], 0)
    flat = (ends - light * (height / light[1])[..., None])[..., ::2].astype(np.float32)
    for (a, b), high, (_, _, ra, rb) in zip(flat, height.mean(1), parts):
        reach = max(ra, rb) + 0.03 + 0.12 * high
        (left, back), (right, front) = np.minimum(a, b) - reach, np.maximum(a, b) + reach
        near = np.nonzero((x > left) & (x < right) & (z > back) & (z < front))[0]
        if not len(near):
            continue
        px, pz = x[near] - a[0], z[near] - a[1]
        sx, sz = b - a
        t = _between_0_and_1((px * sx + pz * sz) / max(sx * sx + sz * sz, 1e-9))
        far = np.sqrt((px - t * sx) ** 2 + (pz - t * sz) ** 2)
        edge = 0.03 + 0.12 * high
        part = _between_0_and_1((ra + t * (rb - ra) + 0.4 * edge - far) / edge + 0.3) * (1 / (1 + 0.35 * high))
        dark[near] = np.maximum(dark[near], part)
    return dark
