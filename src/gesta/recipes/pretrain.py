"""Learning without labels: recipes for ``gesta pretrain``, whose runs are given to others by ``--init.weights``."""

from __future__ import annotations

from typing import Literal

from gesta.data.lists import Videos
from gesta.data.parts import Unlabelled
from gesta.errors import GestaError
from gesta.models import model_config
from gesta.models.vit import ViTConfig
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
        rebuilt: ``cells`` rebuilds half of the places only (VideoMAE V2).
        batch_size: clips of a step, after which the learning rate is chosen.

    Raises:
        GestaError: both ``root`` and ``data``, or another model.
    """
    if root and data is not None:
        raise GestaError("pretrain: root and data both say which videos; leave one of them out")
    encoder = model_config(model)
    if not isinstance(encoder, ViTConfig):
        raise GestaError(f"{model} is no plain video ViT, which alone can be pretrained by masks here; take vit_tiny")
    small = encoder.small_init
    width, depth, heads = DECODERS.get(encoder.width, (encoder.width, 2, encoder.heads))
    return Recipe(
        name=f"videomae-{model}",
        model=pretraining_of(
            encoder, decoder_width=width, decoder_depth=depth, decoder_heads=heads, rebuilt=rebuilt,
            ratio=SMALL_RATIO if small else 0.9,
        ),
        data=Unlabelled(of=data) if data is not None else Videos(root=root),
        train=TrainConfig(
            epochs=100 if small else 800, batch_size=batch_size, lr=1e-3 if small else LR_PER_256 * batch_size / 256,
            betas=(0.9, 0.95), weight_decay=0.05, warmup_epochs=None if small else 40, warmup_lr=None, min_lr=None,
            clip_grad=1.0, augment=Augment(crop="short_side", scale=(0.66, 1.0)),
        ),
    )  # fmt: skip


SMALL_RATIO = 0.75
"""Of tiny models, whose clips have 64 places a frame."""
