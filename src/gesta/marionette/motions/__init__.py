"""The actions of the embedded data set, by family: functions that draw a rhythm and give a pose for every frame."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gesta.marionette.motions import coarse, fine, kitchen, objects
from gesta.marionette.motions.blocks import FPS, Act, Motion, Random
from gesta.marionette.puppet import Body

FAMILIES: dict[str, dict[str, Motion]] = {
    "coarse": coarse.COARSE,
    "objects": objects.OBJECTS,
    "fine": fine.FINE,
    "kitchen": kitchen.KITCHEN,
}
"""Actions of each family by class name, in label order."""

TWINS = {"coarse": coarse.TWINS, "objects": objects.TWINS, "kitchen": kitchen.TWINS}
"""Classes that are the same motion in opposite order, by family."""

MIRRORED = {"objects": objects.MIRRORED}
"""Classes that become one another in a mirror, by family; of a family that is not here every class is its own."""


class View(NamedTuple):
    """How cameras show a family: how much nearer than the whole puppet; how much higher they look, and how much higher
    they stand, in body heights; whether the floor is water."""

    zoom: float = 1.0
    raised: float = 0.0
    above: float = 0.0
    pool: bool = False


VIEWS = {"coarse": View(), "objects": View(1.65, 0.09, 0.35), "fine": View(0.88, 0.0, 0.3, pool=True)}
VIEWS["kitchen"] = VIEWS["objects"]


def perform(action: str, body: Body, frames: int, rng: Random, family: str = "coarse") -> Act:
    """One performance of a family's action by a subject, with its own rhythm, size and, of most, leading side."""
    act = FAMILIES[family][action](body, np.arange(frames) / FPS, rng)
    sided = any(action in pair for pair in MIRRORED.get(family, {}).items())
    return act.mirrored() if rng.random() < 0.5 and not sided else act
