"""Trainings on the synthetic data set: what ``gesta demo`` trains, in minutes on two CPU cores, and the basis of
miniatures and experiments."""

from __future__ import annotations

from gesta.config import replace, reset_unused
from gesta.marionette.dataset import Marionette
from gesta.model import Insert
from gesta.models import model_config
from gesta.models.st_manet import STMANetConfig, st_manet_tiny
from gesta.plugins.stan import STAN
from gesta.recipe import Augment, EvaluateConfig, Recipe, TrainConfig


def narrow_resnet() -> STMANetConfig:
    """The 3-D ResNet of st_manet_tiny without its modules, on 8 frames, 4 apart (0.23 M parameters)."""
    model = replace(st_manet_tiny(), classes=12, tda=False, sda=False, mf=False)
    model.clip = replace(model.clip, frames=8, stride=4)
    reset_unused(model)
    return model


def demo(root: str = "data/marionette", stan: bool = True) -> Recipe:
    """A narrow 3-D ResNet with STAN, tested on held-out subjects seen by held-out cameras.   gesta train demo

    Args:
        root: the synthetic data set.
        stan: before the block in which maps have 8 × 8 positions; else the ResNet alone.
    """
    model = narrow_resnet()
    if stan:
        # with coordinates, so that θ can follow the actor; steps of θ as large as the paper's, since there are few
        model.inserts = [Insert(layer=STAN(coordinates=True, mode="attention", p_scale=1.0), at=3)]
    return Recipe(
        name="demo" if stan else "demo-without-stan",
        model=model,
        data=Marionette(root=root, held_out="both"),
        train=TrainConfig(
            epochs=30, batch_size=8, lr=2e-3, warmup_epochs=1, label_smoothing=0.1, validate_every=0, workers=0,
            augment=Augment(scale=(0.6, 1.0)),
        ),
        evaluate=EvaluateConfig(clips=2, crops=1, workers=0),
    )  # fmt: skip


def mvitv2(root: str = "data/marionette") -> Recipe:
    """stan_mvitv2_tiny, tested like :func:`demo`; miniatures and experiments train likewise.   gesta train mvitv2"""
    return Recipe(
        name="mvitv2",
        model=model_config("stan_mvitv2_tiny"),
        data=Marionette(root=root, held_out="both"),
        train=TrainConfig(
            epochs=60, batch_size=16, lr=1e-3, warmup_epochs=1, label_smoothing=0.1, validate_every=10,
            augment=Augment(scale=(0.7, 1.0), color_jitter=0.1),
        ),
        evaluate=EvaluateConfig(clips=2, crops=1),
    )  # fmt: skip
