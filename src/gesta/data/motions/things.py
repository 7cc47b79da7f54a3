"""Things that stand on a table: shapes that are told apart by outline and colour, and the table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gesta.data.puppet import Body
from gesta.data.stage import Array, Box, Cone

Solids = tuple[list[Cone], list[Box]]


@dataclass(frozen=True, slots=True)
class Thing:
    """A thing that does not turn over: ``wide`` is its half width, ``high`` its height (metres), ``colour`` RGB.

    Attributes:
        kind: ``box``, ``ball``, ``cup``, ``bottle``, ``plate``, ``pan``, or ``case`` (a box whose opening is above).
    """

    kind: str
    wide: float
    high: float
    colour: Array

    def solids(self, at: Array) -> Solids:
        """Its solids where the middle of its base is ``at`` ``(T, 3)``."""
        w, h, colour = self.wide, self.high, self.colour

        def point(x: float, y: float, z: float = 0.0) -> Array:
            return at + np.array([x, y, z])

        if self.kind in ("box", "case"):
            boxes = [Box(point(0, h / 2), np.array([w, h / 2, w]), 0.0, colour)]
            if self.kind == "case":
                boxes.append(Box(point(0, h), np.array([0.8 * w, 0.004, 0.8 * w]), 0.0, 0.25 * colour))
            return [], boxes
        if self.kind == "ball":
            return [Cone(point(0, w), point(0, w), w, w, colour)], []
        if self.kind == "cup":
            wall = Cone(point(0, 0.75 * w), point(0, h - w), 0.75 * w, w, colour)
            grip = Cone(point(1.15 * w, 0.5 * h), point(1.15 * w, 0.72 * h), 0.22 * w, 0.22 * w, 0.8 * colour)
            return [wall, grip], []
        if self.kind == "bottle":
            belly = Cone(point(0, w), point(0, 0.58 * h), w, 0.9 * w, colour)
            neck = Cone(point(0, 0.58 * h), point(0, h - 0.4 * w), 0.42 * w, 0.4 * w, colour)
            return [belly, neck], []
        rim = [Cone(point(-w, h / 2, z), point(w, h / 2, z), h / 2, h / 2, colour) for z in (-0.5 * w, 0.0, 0.5 * w)]
        if self.kind == "pan":
            rim.append(Cone(point(w, 0.7 * h), point(2.1 * w, 0.9 * h), 0.016, 0.02, 0.45 * colour))
        return rim, []


def table(body: Body, frames: int, colour: Array, closed: bool = False) -> tuple[float, float, list[Box]]:
    """A table's height, how far ahead its middle is, and its boxes; a ``closed`` one has a front to the floor."""
    scale = body.height / 1.7
    high, ahead = 0.5 * body.height, 0.18 * body.height
    half = np.array([0.7, 0.02, 0.18]) * scale
    boxes = [Box(np.tile([0.0, high - half[1], ahead], (frames, 1)), half, 0.0, colour)]
    if closed:
        front = np.array([half[0], high / 2 - half[1], 0.02])
        boxes.append(Box(np.tile([0.0, front[1], ahead + 0.8 * half[2]], (frames, 1)), front, 0.0, 0.85 * colour))
    else:
        leg = np.array([0.025, high / 2 - half[1], 0.025])
        boxes += [
            Box(np.tile([x * half[0], leg[1], ahead + z * half[2]], (frames, 1)), leg, 0.0, 0.7 * colour)
            for x in (-0.92, 0.92)
            for z in (-0.8, 0.8)
        ]
    return high, ahead, boxes
