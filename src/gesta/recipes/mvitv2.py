"""MViTv2-S from scratch as STAN's paper trains it: the values of PySlowFast's Kinetics recipe (MVITv2_S_16x4).

Source of every value: Ye & Liang 2023, §3.1 ("the training recipe and inference strategies from MViTv2 for Kinetics").
"""

from __future__ import annotations

from gesta.datasets.hmdb51 import HMDB51
from gesta.datasets.ucf101 import UCF101
from gesta.models import model_config
from gesta.models.mvit import mvitv2_tiny
from gesta.recipe import Augment, EvaluateConfig, Recipe, TrainConfig
from gesta.recipes.miniatures import Miniature


def training() -> TrainConfig:
    """Optimisation and augmentation. The learning rate is the public 1e-4 per 16 videos, scaled to the paper's 64.

    RandAugment is ``rand-m7-n4-mstd0.5-inc1`` in the public recipe; torchvision's has no magnitude noise, so the four
    operations of magnitude 7 (of 10, hence 21 of 30) are applied without it.
    """
    return TrainConfig(
        epochs=200, batch_size=64, repeats=2, optimizer="adamw", lr=4e-4, weight_decay=0.05, clip_grad=1.0,
        schedule="cosine", warmup_epochs=30, warmup_lr=4e-6, min_lr=4e-6, validate_every=0,
        label_smoothing=0.1, mixup=0.8, cutmix=1.0, precision="bf16-mixed",
        augment=Augment(interpolation="bicubic", randaugment=4, magnitude=21, erasing=0.25),
    )  # fmt: skip


def testing() -> EvaluateConfig:
    """Five clips spread over the video, one centre crop, softmax averaged."""
    return EvaluateConfig(clips=5, crops=1, short_side=256, average="probabilities")


def ucf101(split: int = 1) -> Recipe:
    """MViTv2-S without class token on UCF-101 (Ye & Liang 2023, Table 1).   gesta train mvitv2.ucf101"""
    return Recipe(
        name=f"mvitv2_s-ucf101-split{split}",
        model=model_config("mvitv2_s", classes=101, dropout=0.5, drop_path=0.2),
        data=UCF101(split=split),
        train=training(),
        evaluate=testing(),
        paper="Ye & Liang 2023, Table 1, MViTv2",
    )


def hmdb51(split: int = 1) -> Recipe:
    """MViTv2-S without class token on HMDB-51 (Ye & Liang 2023, Table 1).   gesta train mvitv2.hmdb51"""
    recipe = ucf101()
    recipe.name = f"mvitv2_s-hmdb51-split{split}"
    recipe.model.classes, recipe.data = 51, HMDB51(split=split)
    return recipe


MINIATURES = (
    # the stages of MViTv2-S have 1, 2, 11 and 2 blocks, those of the tiny one 1, 2 and 2
    Miniature(model=mvitv2_tiny, keep=("cls_token",), moves=(0, 1, 2, *[3] * 11, 4, 4)),
)
