"""The trainings of tiny models on the synthetic data set that docs/experiments.md reports.

The rows of its tables are these recipes with the fields that its commands change, such as
``gesta train experiments.st_manet --model.tda False``.
"""

from __future__ import annotations

from gesta.models import model_config
from gesta.recipe import Recipe
from gesta.recipes.synthetic import demo


def equal_budget(model: str = "timesformer_tiny", root: str = "data/marionette") -> Recipe:
    """Any tiny model, 24 epochs of the demo's training.   gesta train experiments.equal_budget --model mfst_tiny"""
    recipe = demo(root)
    recipe.name = f"experiments-{model}"
    recipe.model = model_config(model, classes=recipe.model.classes)
    recipe.train.epochs = 24
    return recipe


def st_manet(root: str = "data/marionette", epochs: int = 10) -> Recipe:
    """ST-MANet on clips of 8 frames, every fourth of the video, 10 epochs.   gesta train experiments.st_manet"""
    recipe = equal_budget("st_manet_tiny", root)
    recipe.model.clip.frames, recipe.model.clip.stride = 8, 4
    recipe.train.epochs = epochs
    return recipe


def resnet(root: str = "data/marionette", epochs: int = 30) -> Recipe:
    """The plain 3-D ResNet in ST-MANet, 30 epochs.   gesta train experiments.resnet

    It is st_manet_tiny with its three modules off (not r3d_tiny). :func:`st_manet` has 10 epochs: give
    ``--train.epochs 10`` to compare the two.
    """
    recipe = st_manet(root, epochs)
    recipe.name = "experiments-resnet"
    for switch in ("tda", "sda", "mf"):  # temporal, spatial aggregation, multi-level fusion
        setattr(recipe.model, switch, False)
    return recipe
