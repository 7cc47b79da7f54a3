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

from typing import Literal

from gesta.datasets.kinetics400 import Kinetics400
from gesta.datasets.something import SomethingV2
from gesta.model import ClipSpec
from gesta.models.timesformer import timesformer_b, timesformer_tiny
from gesta.recipe import Augment, EvaluateConfig, Recipe, TrainConfig
from gesta.recipes.miniatures import Miniature

Temporal = Literal["attention", "joint", "averaging"]

SPAN = 256
"""Frames of the video that a clip of Kinetics-400 spans: 8 every 32nd, 32 every 8th."""


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


def kinetics400(temporal: Temporal = "attention", frames: int = 8, clips: int = 1) -> Recipe:
    """TimeSformer on Kinetics-400 (Zhao et al. 2022, Tables 3 and 6).   gesta train timesformer.kinetics400

    Args:
        temporal: divided space-time attention, joint attention, or none ("averaging").
        frames: per clip, spread over 256 frames of the video.
        clips: per video in testing.
    """
    model = timesformer_b()
    model.temporal = temporal
    model.readout = "mean" if temporal == "averaging" else "class_token"  # "the mean of all spatial-temporal features"
    model.clip = ClipSpec(frames=frames, stride=SPAN // frames, size=224)
    return Recipe(
        name=f"timesformer_b-{temporal}-kinetics400-{frames}x{SPAN // frames}{views(clips)}",
        model=model,
        data=Kinetics400(),
        train=training(),
        evaluate=testing(clips),
        paper="Zhao et al. 2022, Tables 3 and 6",
    )


def something_v2(temporal: Temporal = "attention", frames: int = 8, clips: int = 1) -> Recipe:
    """TimeSformer on Something-Something V2, one frame per segment, never mirrored (Zhao et al. 2022, Table 4).

    gesta train timesformer.something_v2
    """
    recipe = kinetics400(temporal, frames, clips)
    recipe.name = f"timesformer_b-{temporal}-something_v2-{frames}{views(clips)}"
    recipe.model.classes = 174
    recipe.model.clip = ClipSpec(frames=frames, sampling="uniform", size=224)
    recipe.data = SomethingV2()
    recipe.train.augment.inverse_uniform = True
    recipe.train.augment.flip = 0.0
    recipe.paper = "Zhao et al. 2022, Table 4"
    return recipe


def views(clips: int) -> str:
    """The part of a run's name about its testing, empty for one clip."""
    return f"-{clips}clips" if clips != 1 else ""


_KEPT = ("temporal", "readout", "around", "temporal_cls", "temporal_post_norm")
MINIATURES = (Miniature(model=timesformer_tiny, keep=_KEPT, blocks=("ata_blocks",)),)
