"""Single frames of a Marionette set, labelled with the positions of the puppet's joints: a target for spatial encoders.

Every coordinate of every joint is a label space of its own, whose classes are strips of the picture. So a network
learns positions by the loss, the loop and the metrics of classes (coordinate classification: Y. Li et al.,
"SimCC: a Simple Coordinate Classification Perspective for Human Pose Estimation", ECCV 2022).
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from gesta.config import Between, config
from gesta.marionette.dataset import HeldOut, Marionette, clip_files, family_clips, split_of
from gesta.marionette.displacement import CameraAim
from gesta.marionette.filming import ClipName, joint_positions
from gesta.marionette.puppet import JOINTS
from gesta.marionette.renderer import Array
from gesta.records import DataConfig, Record, SplitName

COORDINATES = tuple(f"{joint}_{axis}" for joint in JOINTS for axis in ("x", "y"))
"""The label spaces: ``head_x``, ``head_y``, ``right_shoulder_x`` …; x from the left, y from the top."""

HIPS = [JOINTS.index("right_hip"), JOINTS.index("left_hip")]


@config
class MarionetteJoints(DataConfig):
    """Frames of the clips made by ``gesta data make marionette ROOT``, and where joints are in them.

    A joint outside the picture is in the strip at that edge. Nothing may move the picture: a training refuses crops of
    a part of it, mirroring and rotation.

    Attributes:
        root: folder of the set, of any family.
        held_out: as of :class:`~gesta.marionette.dataset.Marionette`.
        frames: frames of every video, in the middle of as many equal parts.
        strips: classes of each coordinate.
        origin: ``picture``: coordinates are places in the picture. ``hips``: they are counted from the middle between
            the puppet's hips, which is put into the middle of the strips, and so do not depend on where the puppet is.
    """

    root: str = "data/marionette"
    held_out: HeldOut = "both"
    frames: Annotated[int, Between(1, 32)] = 8
    strips: Annotated[int, Between(2, 64)] = 16
    origin: Literal["picture", "hips"] = "picture"

    def records(self, split: SplitName) -> list[Record]:
        """A record for every frame of the split's clips.

        Raises:
            GestaError: the folder holds no finished Marionette set.
        """
        manifest, family = Marionette(root=self.root).finished_set()
        seed, aim, records = manifest["seed"], manifest.get("aim", "centred"), []
        for clip in family_clips(family, manifest["clips"], seed):
            if split_of(clip, self.held_out) != split:
                continue
            name, video, *_ = clip_files(Path(self.root), family, clip)
            positions = _positions(clip, seed, family, aim)
            if self.origin == "hips":
                positions = positions - positions[:, HIPS].mean(1, keepdims=True) + 0.5
            for n in range(self.frames):
                at = (2 * n + 1) * len(positions) // (2 * self.frames)
                strips = np.clip((positions[at] * self.strips).astype(int), 0, self.strips - 1).ravel().tolist()
                label = dict(zip(COORDINATES, strips))
                records.append(Record(path=str(video), name=f"{name}#{at}", label=label, start=at, end=at + 1))
        return records

    def classes(self) -> dict[str, list[str]]:
        """Of each coordinate the strips, named after their lower edge, a fraction of the picture; with ``origin`` hips
        0.500 is where the hips are."""
        return {space: [f"{n / self.strips:.3f}" for n in range(self.strips)] for space in COORDINATES}

    def labels_are_positions(self) -> bool:
        return True


@lru_cache(maxsize=4096)
def _positions(clip: ClipName, seed: int, family: str, aim: CameraAim) -> Array:
    return joint_positions(clip, seed, family, aim)
