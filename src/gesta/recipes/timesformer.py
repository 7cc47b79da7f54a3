"""TimeSformer as the paper of ATA trains it (Zhao et al. 2022, §4.1): the baseline of all its tables.

Source of every value: §4.1 of the paper. What it leaves out is as in TimeSformer's public recipe (momentum, Nesterov,
8 frames, every 32nd of the video) and in SlowFast's ("standard augmentations as in [12]"). Weight decay spares
class token and positional embeddings only.

The paper starts from ImageNet-21K weights. Nothing is downloaded here; without a file training starts from scratch::

    gesta train timesformer.kinetics400 --init.weights vit_base_patch16_224.augreg_in21k.safetensors

timm's checkpoints of ``vit_base_patch16_224`` are known by the names in them, and so are TimeSformer's public ones;
``timm.create_model("vit_base_patch16_224.augreg_in21k", pretrained=True)`` is one way to get the file. From an image
model, temporal attention starts as a copy of the spatial one, followed by a layer of zeros.

A batch of 64 clips needs several GPUs, or ``--train.accumulate``.
"""

from __future__ import annotations

import math
from typing import Literal

from gesta.datasets.kinetics400 import Kinetics400
from gesta.datasets.something import SomethingV2
from gesta.errors import GestaError
from gesta.model import ClipSpec
from gesta.models.timesformer import TimeSformerConfig, timesformer_b, timesformer_tiny
from gesta.recipe import Augment, EvaluateConfig, Init, Recipe, TrainConfig
from gesta.recipes.miniatures import Miniature

Temporal = Literal["attention", "joint", "averaging"]

SPAN = 256
"""Frames of the video that a clip of Kinetics-400 spans: 8 every 32nd, 16 every 16th, 32 every 8th."""

LONG = 96
"""Frames of TimeSformer-L, every fourth of the video, as in its own paper."""


def training() -> TrainConfig:
    """Optimisation, and augmentation for Kinetics-400."""
    return TrainConfig(
        epochs=30, batch_size=64, optimizer="sgd", lr=0.005, momentum=0.9, nesterov=True, weight_decay=1e-4,
        decay_biases=True, schedule="steps", milestones=(21, 27), clip_grad=None, validate_every=0,
        short_videos="clamp", augment=Augment(crop="jitter", short_side=(256, 320), flip=0.5),
    )  # fmt: skip


def testing(clips: int = 1) -> EvaluateConfig:
    """The validation videos, three crops of the whole height, softmax averaged (3×1 views; 3×4 with four clips)."""
    return EvaluateConfig(split="val", clips=clips, crops=3, short_side=224, short_videos="clamp")


def kinetics400(temporal: Temporal = "attention", frames: int = 8, clips: int = 1, size: int = 224) -> Recipe:
    """TimeSformer on Kinetics-400 (Zhao et al. 2022, Tables 1, 3 and 6).   gesta train timesformer.kinetics400

    Args:
        temporal: divided space-time attention, joint attention, or none ("averaging").
        frames: per clip, spread over 256 frames of the video; 96 are every fourth (TimeSformer-L).
        clips: per video in testing.
        size: height and width of a clip; 448 with 16 frames is TimeSformer-HR.

    Raises:
        GestaError: more frames than the clip spans, or none.
    """
    if not 1 <= frames <= SPAN:
        raise GestaError(f"timesformer: frames {frames} cannot be spread over {SPAN}; give a number from 1 to {SPAN}")
    model = timesformer_b()
    model.temporal = temporal
    model.readout = "mean" if temporal == "averaging" else "class_token"  # "the mean of all spatial-temporal features"
    model.clip = ClipSpec(frames=frames, stride=4 if frames == LONG else SPAN // frames, size=size)
    large = f"-{size}px" if size != 224 else ""
    return Recipe(
        name=f"timesformer_b-{temporal}-kinetics400-{frames}x{model.clip.stride}{large}{views(clips)}",
        model=model,
        data=Kinetics400(),
        train=training(),
        evaluate=testing(clips),
        init=Init(expected="ImageNet-21K's"),
        paper="Zhao et al. 2022, Tables 1, 3 and 6",
    )


def something_v2(temporal: Temporal = "attention", frames: int = 8, clips: int = 1, size: int = 224) -> Recipe:
    """TimeSformer on Something-Something V2, one frame per segment, never mirrored (Zhao et al. 2022, Table 2).

    gesta train timesformer.something_v2

    See :func:`kinetics400` for the arguments.
    """
    recipe = kinetics400(temporal, frames, clips, size)
    large = f"-{size}px" if size != 224 else ""
    recipe.name = f"timesformer_b-{temporal}-something_v2-{frames}{large}{views(clips)}"
    recipe.model.classes = 174
    recipe.model.clip = ClipSpec(frames=frames, sampling="uniform", size=size)
    recipe.data = SomethingV2()
    recipe.train.augment.inverse_uniform = True
    recipe.train.augment.flip = 0.0
    recipe.paper = "Zhao et al. 2022, Tables 2 and 4"
    return recipe


def views(clips: int) -> str:
    """The part of a run's name about its testing, empty for one clip."""
    return f"-{clips}clips" if clips != 1 else ""


def _clips(large: TimeSformerConfig, small: TimeSformerConfig) -> None:
    """8, 10, 16 and 26 frames for 8, 16, 32 and 96, from 32 of the video; in proportion larger ones."""
    small.clip.frames = 2 * math.isqrt(2 * large.clip.frames)
    small.clip.stride = max(32 // small.clip.frames, 1)
    small.clip.size = small.clip.size * large.clip.size // 224


_KEPT = ("temporal", "readout", "around", "temporal_cls", "temporal_post_norm")
MINIATURES = (Miniature(model=timesformer_tiny, keep=_KEPT, blocks=("ata_blocks",), adapt=_clips),)
