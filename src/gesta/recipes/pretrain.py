"""Learning without labels: recipes for ``gesta pretrain``, whose runs are given to others by ``--init.weights``."""

from __future__ import annotations

from typing import Literal

from gesta.data.lists import Videos
from gesta.data.parts import Unlabelled
from gesta.errors import GestaError
from gesta.models import model_config
from gesta.models.vit import ViTConfig
from gesta.pretraining.simmim import masked
from gesta.pretraining.videomae import pretraining_of
from gesta.recipe import Augment, Recipe, TrainConfig
from gesta.records import DataConfig

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
        model=pretraining_of(
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
    """Any model that learns to rebuild painted squares of any videos.   gesta pretrain simmim --data.root VIDEOS

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
        model=masked(encoder, square=square),
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
