"""Any model on any labelled videos: the recipe behind "use it on my videos"."""

from __future__ import annotations

from gesta.data.lists import Folder
from gesta.models import model_config
from gesta.recipe import Augment, EvaluateConfig, Recipe, TrainConfig
from gesta.records import DataConfig


def finetune(model: str = "mvitv2_tiny", data: DataConfig | None = None, weights: str | None = None) -> Recipe:
    """A recipe that works without tuning on hundreds to thousands of videos.

    gesta train finetune --model mvitv2_tiny --data.root DIR [--init.weights FILE]

    Args:
        model: a name of ``gesta models``.
        data: where the labelled videos are; a folder per class if not given.
        weights: a checkpoint to start from; a tenth of the learning rate is then used.
    """
    recipe = Recipe(
        name=f"finetune-{model}",
        model=model_config(model, dropout=0.2, drop_path=0.1),
        data=data or Folder(),
        train=TrainConfig(
            epochs=30,
            batch_size=16,
            lr=1e-4 if weights else 1e-3,
            weight_decay=0.05,
            warmup_epochs=2,
            label_smoothing=0.1,
            augment=Augment(scale=(0.5, 1.0), color_jitter=0.2, erasing=0.1),
        ),
        evaluate=EvaluateConfig(clips=4, crops=1),
        paper="",
    )
    recipe.init.weights = weights
    return recipe
