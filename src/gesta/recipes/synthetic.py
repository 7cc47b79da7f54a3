"""What ``gesta demo`` trains: STAN on a tiny MViTv2, on the synthetic data set, in minutes on two CPU cores."""

from __future__ import annotations

from gesta.marionette.dataset import Marionette
from gesta.models import model_config
from gesta.recipe import Augment, EvaluateConfig, Recipe, TrainConfig


def demo(root: str = "data/marionette") -> Recipe:
    """stan_mvitv2_tiny on Marionette, tested on held-out subjects seen by held-out cameras.   gesta train demo"""
    return Recipe(
        name="demo",
        model=model_config("stan_mvitv2_tiny"),
        data=Marionette(root=root, held_out="both"),
        train=TrainConfig(
            epochs=60, batch_size=16, lr=1e-3, warmup_epochs=1, label_smoothing=0.1, validate_every=10,
            augment=Augment(scale=(0.7, 1.0), color_jitter=0.1),
        ),
        evaluate=EvaluateConfig(clips=2, crops=1),
    )  # fmt: skip
