"""Pictures that are displaced as a whole: shifted, zoomed and rolled, or jumping from frame to frame.

A centred camera aims at the puppet. Displaced, its picture is another one of the same plane: a point p of the centred
picture, in fractions of its side, is shown at ``middle + shift + zoom · R(roll) · (p - middle)``. What comes in at the
edges is rendered, and nothing is interpolated.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from gesta.marionette.renderer import Array

CameraAim = Literal["centred", "displaced", "jolted"]

SHIFT, ZOOM, ROLL = 0.2, (0.6, 1.0), np.radians(30)
"""Of displaced clips: the largest shift along each axis in fractions of the side, the zoom, the largest roll."""

JOLT = 1 / 8
"""Of jolted clips: shifts are this fraction of the side, or none; 8 px of 64, one patch of the tiny models."""


class Displacement(NamedTuple):
    """How the picture of a clip is displaced; of a centred one all is 0, and ``zoom`` 1.

    Attributes:
        shift: by frame to the right and down, ``(T, 2)``, fractions of the picture's side.
        zoom: factor of all sizes.
        roll: clockwise, radians.
    """

    shift: Array
    zoom: float = 1.0
    roll: float = 0.0


def draw_displacement(aim: CameraAim, frames: int, rng: np.random.Generator) -> Displacement:
    """A displacement of a clip of so many frames: one for all of them, or if jolted a shift for each."""
    if aim == "jolted":
        return Displacement(JOLT * rng.integers(-1, 2, (frames, 2)))
    if aim == "centred":
        return Displacement(np.zeros((frames, 2)))
    shift = np.tile(rng.uniform(-SHIFT, SHIFT, 2), (frames, 1))
    return Displacement(shift, float(np.exp(rng.uniform(*np.log(ZOOM)))), float(rng.uniform(-ROLL, ROLL)))
