"""The actions of the synthetic data set, by family: functions that draw a rhythm and give a pose for every frame."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gesta.marionette.motions import coarse, fine, kitchen, objects
from gesta.marionette.motions.blocks import FPS, Motion, Performance, Random
from gesta.marionette.puppet import Body

FAMILIES: dict[str, dict[str, Motion]] = {
    "coarse": coarse.COARSE,
    "objects": objects.OBJECTS,
    "fine": fine.FINE,
    "kitchen": kitchen.KITCHEN,
}
"""Actions of each family by class name, in label order."""

REVERSED_PAIRS = {"coarse": coarse.REVERSED_PAIRS, "objects": objects.REVERSED_PAIRS, "kitchen": kitchen.REVERSED_PAIRS}
"""Classes that are the same motion in opposite order, by family."""

MIRRORED = {"objects": objects.MIRRORED}
"""Classes that become one another in a mirror, by family; in other families a mirrored clip keeps its class."""


class Framing(NamedTuple):
    """How cameras show a family."""

    zoom: float = 1.0  # 1 for the whole puppet
    raised: float = 0.0  # how much higher the camera looks, body heights
    above: float = 0.0  # how much higher it stands, body heights
    pool: bool = False  # whether the floor is water


FRAMINGS = {"coarse": Framing(), "objects": Framing(1.65, 0.09, 0.35), "fine": Framing(0.88, 0.0, 0.3, pool=True)}
FRAMINGS["kitchen"] = FRAMINGS["objects"]


def perform(action: str, body: Body, frames: int, rng: Random, family: str = "coarse") -> Performance:
    """One performance of a family's action by a subject.

    Rhythm, size and, for most actions, the leading side (left or right) are drawn by ``rng``.
    """
    performance = FAMILIES[family][action](body, np.arange(frames) / FPS, rng)
    sided = any(action in pair for pair in MIRRORED.get(family, {}).items())
    return performance.mirrored() if rng.random() < 0.5 and not sided else performance
