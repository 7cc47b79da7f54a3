"""Objects that stand on a table, which differ in outline and colour, the table itself, and the hands at it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from gesta.marionette.puppet import Body, Pose, both_sides
from gesta.marionette.renderer import Array, Box, Cone

Solids = tuple[list[Cone], list[Box]]


@dataclass(frozen=True, slots=True)
class TableObject:
    """An object that stays upright."""

    kind: str  # box, ball, cup, bottle, plate, pan, or case (a box that is open at the top)
    half_width: float  # metres
    height: float
    colour: Array  # RGB

    def solids(self, at: Array) -> Solids:
        """Its solids where the middle of its base is ``at`` ``(T, 3)``."""
        w, h, colour = self.half_width, self.height, self.colour

        def point(x: float, y: float) -> Array:
            return at + np.array([x, y, 0.0])

        if self.kind in ("box", "case"):
            boxes = [Box(point(0, h / 2), np.array([w, h / 2, w]), 0.0, colour)]
            if self.kind == "case":
                boxes.append(Box(point(0, h), np.array([0.8 * w, 0.004, 0.8 * w]), 0.0, 0.25 * colour))
            return [], boxes
        if self.kind == "ball":
            return [Cone(point(0, w), point(0, w), w, w, colour)], []
        if self.kind == "cup":
            wall = Cone(point(0, 0.75 * w), point(0, h - w), 0.75 * w, w, colour)
            handle = Cone(point(1.15 * w, 0.5 * h), point(1.15 * w, 0.72 * h), 0.22 * w, 0.22 * w, 0.8 * colour)
            return [wall, handle], []
        if self.kind == "bottle":
            belly = Cone(point(0, w), point(0, 0.58 * h), w, 0.9 * w, colour)
            neck = Cone(point(0, 0.58 * h), point(0, h - 0.4 * w), 0.42 * w, 0.4 * w, colour)
            return [belly, neck], []
        rim = _disc(point(0, h / 2), w, 4 if self.kind == "pan" else 6, h / 2, colour)
        if self.kind == "pan":
            rim.append(Cone(point(w, 0.7 * h), point(2.1 * w, 0.9 * h), 0.016, 0.02, 0.45 * colour))
        return rim, []

    @property
    def lid_half_width(self) -> float:
        """Half width of a lid."""
        return {"bottle": 1.0, "cup": 1.15}.get(self.kind, 0.95) * self.half_width

    def lid_solids(self, at: Array, angle: Array) -> list[Cone]:
        """A flat lid that is hinged at the side of the puppet and opened by an angle in radians ``(T,)``."""
        w = self.lid_half_width
        hinge = at + np.array([0, self.height + 0.01, -w])
        return _disc(hinge, w, 4, 0.28 * w, 0.55 * self.colour + 90, out=w, angle=angle)


def _disc(
    at: Array, radius: float, rods: int, thick: float, colour: Array, out: float = 0.0, angle: Array | float = 0.0
) -> list[Cone]:
    """A round plate of parallel rods whose middle is ``out`` metres in front of ``at``, raised about it by an angle."""
    cones = []
    along = np.stack(np.broadcast_arrays(0.0, np.sin(angle), np.cos(angle)), -1)
    for z in radius * (2 * np.arange(rods) + 1 - rods) / rods:
        half = np.sqrt(radius**2 - z**2) * np.array([1.0, 0, 0])
        middle = at + (out + z) * along
        cones.append(Cone(middle - half, middle + half, thick, thick, colour))
    return cones


def table(body: Body, frames: int, colour: Array) -> tuple[float, float, list[Box]]:
    """A table's height, the distance of its middle from the puppet, and its boxes."""
    half = np.array([0.7, 0.02, 0.18]) * body.height / 1.7
    height, distance = 0.5 * body.height, 0.18 * body.height
    leg = np.array([0.025, height / 2 - half[1], 0.025])
    boxes = [Box(np.tile([0.0, height - half[1], distance], (frames, 1)), half, 0.0, colour)]
    for x, z in itertools.product((-0.92, 0.92), (-0.8, 0.8)):
        at = np.tile([x * half[0], leg[1], distance + z * half[2]], (frames, 1))
        boxes.append(Box(at, leg, 0.0, 0.7 * colour))
    return height, distance, boxes


def counter(body: Body, frames: int, colour: Array) -> tuple[float, float, list[Box]]:
    """The same of a closed counter with a dark slot on the puppet's side, through which objects are stowed."""
    scale = body.height / 1.7
    height, distance = 0.5 * body.height, 0.18 * body.height

    def box(y: float, z: float, half: tuple[float, float, float], tint: Array) -> Box:
        return Box(np.tile([0.0, y, distance + z * scale], (frames, 1)), scale * np.array(half), 0.0, tint)

    boxes = [
        box(height - 0.02 * scale, 0, (0.72, 0.02, 0.2), colour),
        box(height / 2 - 0.03 * scale, 0.005, (0.7, height / 2 / scale - 0.03, 0.18), 0.75 * colour),
        box(height, -0.115, (0.62, 0.004, 0.06), 0.25 * colour),
    ]
    return height, distance, boxes


def rest_hands(pose: Pose, body: Body, height: float, distance: float) -> None:
    """Put both hands at the edge of a table or counter of this height and distance."""
    rest = both_sides(0.21 * (body.height / 1.7), height + 0.03, distance - 0.1 * body.height)
    pose.wrists = np.tile(rest, (len(pose.wrists), 1, 1))
    pose.elbows = both_sides(1.0, -0.5, -0.7)


def move_hand(
    pose: Pose, hand: int, target: Array, fraction: Array, scale: float, arc: float, lean: float, nod: float
) -> None:
    """Move a wrist towards ``target`` ``(T, 3)`` by ``fraction`` ``(T,)``, in an arc; trunk and head follow."""
    rest = pose.wrists[:, hand]
    rise = arc * scale * np.sin(np.pi * fraction)
    pose.wrists[:, hand] = rest + fraction[:, None] * (target - rest) + rise[:, None] * np.array([0, 1.0, 0])
    pose.lean = pose.lean + lean * fraction
    across = (target[:, 0] - pose.wrists[:, hand, 0]) / scale
    pose.twist = pose.twist + 0.5 * fraction * np.clip(across, -0.5, 0.5)
    pose.nod = pose.nod + nod * fraction
