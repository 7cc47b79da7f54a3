"""The trainings of tiny models on the synthetic data set that docs/experiments.md reports.

Rows of its tables are these recipes with other fields: ``gesta train experiments.st_manet --model.tda False``.
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
    """The plain 3-D ResNet in ST-MANet, 30 epochs.   gesta train experiments.resnet"""
    recipe = st_manet(root, epochs)
    recipe.name = "experiments-resnet"
    for switch in ("tda", "sda", "mf"):
        setattr(recipe.model, switch, False)
    return recipe
