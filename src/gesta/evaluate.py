"""Evaluation: views → scores → metrics → a receipt in which the whole protocol is written down."""

from __future__ import annotations

from typing import Literal

from gesta.config import config


@config
class EvaluateConfig:
    """How held-out videos are scored.

    Attributes:
        split: which split is evaluated.
        clips: temporal clips per video.
        crops: spatial crops per clip: 1 (centre) or 3 (left, centre, right; top, centre, bottom for upright videos).
        coverage: ``even`` spreads ``clips`` over the video; ``contiguous`` cuts the whole video into neighbouring
            clips (``clips`` is then not read).
        short_side: length of the short side before cropping, in pixels, at ``ClipSpec.size`` 224; scaled with the size.
        average: what is averaged over views: softmax ``probabilities`` or ``logits``.
        batch_size: views per forward pass.
        workers: loader processes; -1 chooses by the number of processors.
        short_videos: a video shorter than a clip is played again (``loop``) or its last frame is held (``clamp``).
        decoder: ``pyav`` or ``torchcodec``.
    """

    split: Literal["val", "test"] = "test"
    clips: int = 5
    crops: Literal[1, 3] = 1
    coverage: Literal["even", "contiguous"] = "even"
    short_side: int = 256
    average: Literal["probabilities", "logits"] = "probabilities"
    batch_size: int = 16
    workers: int = -1
    short_videos: Literal["loop", "clamp"] = "loop"
    decoder: Literal["pyav", "torchcodec"] = "pyav"
