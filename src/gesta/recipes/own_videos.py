"""Any model on any labelled videos: the recipes behind "use it on your own videos" in the README."""

from __future__ import annotations

import torch

from gesta.data.lists import Folder
from gesta.errors import GestaError
from gesta.layers.attentive import Attentive
from gesta.models import model_config
from gesta.models.hiera import hiera_tiny
from gesta.models.vit import vit_tiny
from gesta.recipe import Augment, EvaluateConfig, Init, ProbeConfig, Recipe, TrainConfig
from gesta.recipes.miniatures import Miniature
from gesta.records import DataConfig

PROBE_EPOCHS = 100
"""V-JEPA 2 has 20 on 170,000 videos; on features that are kept, more cost seconds."""


def finetune(
    model: str = "mvitv2_tiny", root: str = "", data: DataConfig | None = None, weights: str | None = None
) -> Recipe:
    """A recipe that works without tuning on hundreds to thousands of videos.

    Without ``--init.weights`` it trains from scratch.

    gesta train finetune --model mvitv2_tiny --data.root DIR [--init.weights FILE]

    Args:
        model: a name of ``gesta models``.
        root: folder of the labelled videos, with a folder per class.
        data: another data set instead of that folder.
        weights: a checkpoint to start from, by default none; with one, however it is named, a tenth of the learning
            rate is used.

    Raises:
        GestaError: both ``root`` and ``data``.
    """
    _check_given("finetune", root, data)
    return Recipe(
        name=f"finetune-{model}",
        model=model_config(model, dropout=0.2, drop_path=0.1),
        data=data or Folder(root=root),
        train=TrainConfig(
            epochs=30, batch_size=16, lr=None, weight_decay=0.05, warmup_epochs=None, warmup_lr=None, min_lr=None,
            label_smoothing=0.1, augment=Augment(scale=(0.5, 1.0), color_jitter=0.2, erasing=0.1),
        ),
        evaluate=EvaluateConfig(clips=4, crops=1),
        init=Init(weights=weights),
    )  # fmt: skip


MINIATURES = (
    Miniature(model=hiera_tiny, keep=("q_pool",)),
    Miniature(model=vit_tiny, keep=(
        "positions", "class_token", "eps", "head_eps", "gelu", "layer_scale", "qkv_bias", "tail", "modality_embed",
    )),
)  # fmt: skip
"""Of models that no paper's recipes here are about."""


def probe(
    model: str = "mvitv2_tiny",
    root: str = "",
    data: DataConfig | None = None,
    weights: str | None = None,
    attentive: int = 0,
) -> Recipe:
    """Classifiers on the features of a pretrained model, which is not trained: minutes, from few videos.

    gesta train probe --model NAME --init.weights FILE --data.root DIR

    Args:
        model: a name of ``gesta models``.
        root: folder of the labelled videos, with a folder per class.
        data: another data set instead of that folder.
        weights: a checkpoint in which the model is trained; without one features are noise.
        attentive: blocks of attentive probes, which read all tokens (V-JEPA 2's have 4); 0 for linear ones.

    Raises:
        GestaError: both ``root`` and ``data``.
    """
    _check_given("probe", root, data)
    config = model_config(model, dropout=0.0, drop_path=0.0)
    if attentive:
        with torch.device("meta"):
            network = config.build()
        width = network.grid_at(len(network.blocks))[0]
        heads = next(heads for heads in range(16, 0, -1) if width % heads == 0)
        config.attentive = Attentive(depth=attentive, heads=heads)
    return Recipe(
        name=f"probe-{model}",
        model=config,
        data=data or Folder(root=root),
        train=TrainConfig(epochs=20, batch_size=16) if attentive else TrainConfig(epochs=PROBE_EPOCHS, batch_size=64),
        evaluate=EvaluateConfig(clips=4, crops=1),
        init=Init(weights=weights),
        probe=ProbeConfig(),
    )


def _check_given(recipe: str, root: str, data: DataConfig | None) -> None:
    if root and data is not None:
        raise GestaError(f"{recipe}: root and data both say which videos; leave one of them out")
