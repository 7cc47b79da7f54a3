"""Recipes for ``gesta pretrain``, whose runs are given to others by ``--init.weights``: learning without labels, and
spatial encoders that learn from single frames."""

from __future__ import annotations

from typing import Any, Literal

from gesta.config import check_choice, replace, reset_unused
from gesta.data.lists import Videos
from gesta.data.parts import Unlabelled
from gesta.errors import GestaError
from gesta.marionette.dataset import Marionette
from gesta.marionette.joint_frames import MarionetteJoints
from gesta.model import ModelConfig
from gesta.models import model_config
from gesta.models.rpe_stdt import RPESTDTConfig
from gesta.models.std_former import STDFormerConfig
from gesta.models.timesformer import TimeSformerConfig
from gesta.models.vit import ViTConfig
from gesta.pretraining.simmim import simmim_of
from gesta.pretraining.videomae import videomae_of
from gesta.recipe import Augment, EvaluateConfig, Recipe, TrainConfig
from gesta.records import DataConfig, class_counts

Labels = Literal["joints", "classes"]

LR_PER_256 = 1.5e-4
"""Of VideoMAE's pretraining; the learning rate grows with the clips of a step."""

DECODERS = {384: (192, 4, 3), 768: (384, 4, 6), 1024: (512, 12, 8), 1280: (640, 12, 8), 1408: (512, 4, 8)}
"""Width of the published encoders → width, blocks and heads of their decoders (scripts of VideoMAE and VideoMAE V2)."""


def videomae(
    model: str = "vit_tiny",
    root: str = "",
    data: DataConfig | None = None,
    rebuilt: Literal["hidden", "cells"] = "hidden",
    batch_size: int = 32,
) -> Recipe:
    """A video ViT that learns to rebuild hidden tubes of any videos.   gesta pretrain videomae --data.root VIDEOS

    Args:
        model: a plain video ViT (``gesta models 'vi*'``).
        root: folder of the videos, of any structure.
        data: a data set instead of that folder, whose labels are not used.
        rebuilt: ``cells`` rebuilds half of the positions only (VideoMAE V2).
        batch_size: clips of a step, after which the learning rate is chosen.

    Raises:
        GestaError: both ``root`` and ``data``, or another model.
    """
    encoder = model_config(model)
    if not isinstance(encoder, ViTConfig):
        raise GestaError(
            f"{model} is no plain video ViT, whose tokens can be left out; gesta pretrain simmim takes any model"
        )
    small = encoder.small_init
    width, depth, heads = DECODERS.get(encoder.width, (encoder.width, 2, encoder.heads))
    return Recipe(
        name=f"videomae-{model}",
        model=videomae_of(
            encoder, decoder_width=width, decoder_depth=depth, decoder_heads=heads, rebuilt=rebuilt,
            ratio=SMALL_RATIO if small else 0.9,
        ),
        data=_videos(root, data),
        train=TrainConfig(
            epochs=100 if small else 800, batch_size=batch_size, lr=1e-3 if small else LR_PER_256 * batch_size / 256,
            betas=(0.9, 0.95), weight_decay=0.05, warmup_epochs=None if small else 40, warmup_lr=None, min_lr=None,
            clip_grad=1.0, augment=Augment(crop="short_side", scale=(0.66, 1.0)),
        ),
    )  # fmt: skip


SMALL_RATIO = 0.75
"""Of tiny models, whose clips have 64 positions a frame."""


def simmim(model: str = "mfst_tiny", root: str = "", data: DataConfig | None = None, batch_size: int = 32) -> Recipe:
    """Any model that learns to rebuild hidden squares of any videos.   gesta pretrain simmim --data.root VIDEOS

    For models other than plain video ViTs, which :func:`videomae` trains in less time.

    Args:
        model: a name of ``gesta models``.
        root: folder of the videos, of any structure.
        data: a data set instead of that folder, whose labels are not used.
        batch_size: clips of a step, after which the learning rate is chosen.

    Raises:
        GestaError: both ``root`` and ``data``.
    """
    encoder = model_config(model)
    size = encoder.clip.size
    square = SQUARE if size % SQUARE == 0 and size >= 4 * SQUARE else max(size // 4, 1)
    return Recipe(
        name=f"simmim-{model}",
        model=simmim_of(encoder, square=square),
        data=_videos(root, data),
        train=TrainConfig(
            epochs=100, batch_size=batch_size, lr=1e-3 if size < 112 else 2e-4 * batch_size / 256, weight_decay=0.05,
            warmup_epochs=None, warmup_lr=None, min_lr=None, clip_grad=5.0,
            augment=Augment(crop="short_side", scale=(0.67, 1.0)),
        ),
    )  # fmt: skip


SQUARE = 32
"""Side of hidden squares in pixels (Xie et al. 2022, §4.1.2)."""


def _videos(root: str, data: DataConfig | None) -> DataConfig:
    """The videos of a folder, or those of a data set without their labels."""
    if root and data is not None:
        raise GestaError("pretrain: root and data both say which videos; leave one of them out")
    return Unlabelled(of=data) if data is not None else Videos(root=root)


def frames(model: str = "timesformer_tiny", root: str = "data/marionette", labels: Labels = "joints") -> Recipe:
    """The spatial encoder of a model, on labelled single frames.   gesta pretrain frames --data.root MARIONETTE

    It stands in for the ImageNet and CLIP weights that papers start from: give its run to the model by
    ``--init.weights``, with ``--init.min-matched`` below the share of the spatial encoder.

    Args:
        model: a TimeSformer (with ATA or without), an STD-Former or an RPE-STDT; its spatial part is trained.
        root: folder of the Marionette set.
        labels: what is learned of a frame: the positions of the puppet's ``joints``, or the ``classes`` of its video;
            ``--data NAME`` gives classes of another data set.

    Raises:
        GestaError: another model, or other labels.
    """
    check_choice("pretrain.frames: labels", labels, Labels)
    small = getattr(encoder := frame_encoder(model_config(model)), "small_init", False)
    data: DataConfig = MarionetteJoints(root=root) if labels == "joints" else Marionette(root=root)
    whole = Augment(crop="short_side", scale=(1.0, 1.0), flip=0.0, color_jitter=0.2)
    encoder.classes = class_counts(data.classes()) if labels == "joints" else encoder.classes
    return Recipe(
        name=f"frames-{labels}-{model}",
        model=encoder,
        data=data,
        train=TrainConfig(
            epochs=20, batch_size=32, lr=1e-3 if small else 1e-4, warmup_epochs=1, label_smoothing=0.1,
            validate_every=0, augment=whole if labels == "joints" else Augment(scale=(0.7, 1.0), color_jitter=0.1),
        ),
        evaluate=EvaluateConfig(clips=1 if labels == "joints" else 8, crops=1, short_side=224),
    )  # fmt: skip


def frame_encoder(model: ModelConfig) -> ModelConfig:
    """What of a model sees single frames, as a model of clips of one frame."""
    changes: dict[str, Any]
    if isinstance(model, TimeSformerConfig):
        changes = {"temporal": "averaging", "around": None}
    elif isinstance(model, STDFormerConfig):
        changes = {"head_input": "patches", "tubelet_kernel": 1, "tubelet_stride": 1}
        changes |= {"ptm_layers": (), "stdm_layers": (), "smem": ()}
    elif isinstance(model, RPESTDTConfig):
        changes = {"temporal_depth": 0, "subsample": "none"}
    else:
        raise GestaError(
            f"{model.summary} has no spatial encoder that can be trained alone; choose a TimeSformer, STD-Former or "
            "RPE-STDT"
        )
    encoder = replace(model, **changes, clip=replace(model.clip, frames=1), inserts=[])
    reset_unused(encoder)
    return encoder
