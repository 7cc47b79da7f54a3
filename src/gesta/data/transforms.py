"""From decoded frames to training clips and test views; one random draw serves all frames of a clip."""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from gesta.config import config


@config
class Augment:
    """Training augmentation of one clip.

    Attributes:
        crop: ``random_resized`` takes a random area and aspect ratio (Inception), ``jitter`` scales the short side to a
            random length and takes a random square (SlowFast), ``short_side`` takes a random square whose side is a
            random share of the short side (ST-MANet).
        scale: area range of ``random_resized``; side range of ``short_side``.
        ratio: aspect-ratio range of ``random_resized``.
        short_side: range of the short side in pixels for ``jitter``, at ``ClipSpec.size`` 224; scaled with the size.
        interpolation: of the resize to the model's size.
        flip: probability of a horizontal flip.
        flip_labels: pairs of class names that a flip exchanges; a class whose name contains left or right and that is
            in no pair is never flipped.
        color_jitter: strength of brightness, contrast and saturation jitter, 0 for none.
        randaugment: number of RandAugment operations per clip, 0 for none.
        magnitude: RandAugment's magnitude, 0 to 30.
        erasing: probability of erasing a random box, the same in all frames.
    """

    crop: Literal["random_resized", "jitter", "short_side"] = "random_resized"
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (0.75, 1.3333)
    short_side: tuple[int, int] = (256, 320)
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    flip: float = 0.5
    flip_labels: dict[str, str] = field(default_factory=dict)
    color_jitter: float = 0.0
    randaugment: int = 0
    magnitude: int = 7
    erasing: float = 0.0
