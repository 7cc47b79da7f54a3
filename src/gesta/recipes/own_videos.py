"""Any model on any labelled videos: the recipes behind "use it on your own videos" in the README."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from gesta.config import replace, reset_unused, suggest
from gesta.data.lists import Folder
from gesta.errors import GestaError
from gesta.layers.attentive import Attentive
from gesta.model import ModelConfig
from gesta.models import model_config
from gesta.models.hiera import hiera_tiny
from gesta.models.public import config_of
from gesta.models.vit import vit_tiny
from gesta.pretraining.simmim import SimMIMConfig
from gesta.pretraining.videomae import VideoMAEConfig
from gesta.recipe import Augment, EvaluateConfig, Init, ProbeConfig, Recipe, TrainConfig
from gesta.recipes.miniatures import Miniature
from gesta.records import DataConfig

PROBE_EPOCHS = 100
"""V-JEPA 2 has 20 on 170,000 videos; on features that are kept, more cost seconds."""


def finetune(
    model: str | None = None,
    root: str = "",
    data: DataConfig | None = None,
    weights: str | None = None,
    *,
    trust_code: bool = False,
) -> Recipe:
    """A recipe that works without tuning on hundreds to thousands of videos.

    Without ``--init.weights`` it trains from scratch.

    gesta train finetune --model mvitv2_tiny --data.root DIR [--init.weights FILE]

    Args:
        model: a name of ``gesta models``; by default the model of the weights, or ``mvitv2_tiny`` without them.
        root: folder of the labelled videos, with a folder per class.
        data: another data set instead of that folder.
        weights: a checkpoint to start from, by default none. The learning rate depends on whether there is one, however
            it is named, and on the model's size (:meth:`TrainConfig.rates`). With one, Transformers get a layer decay.
        trust_code: allow weights of a model whose class is not part of gesta.

    Raises:
        GestaError: both ``root`` and ``data``, or weights that do not say of which model they are.
    """
    _check_given("finetune", root, data)
    name, config = _model(model, weights, trust_code, dropout=0.2, drop_path=0.1)
    is_transformer = type(config).__module__.removeprefix("gesta.models.") in _TRANSFORMERS
    return Recipe(
        name=f"finetune-{name}",
        model=config,
        data=data or Folder(root=root),
        train=TrainConfig(
            epochs=30, batch_size=16, lr=None, warmup_epochs=None, warmup_lr=None, min_lr=None, weight_decay=0.05,
            layer_decay=None if is_transformer else 1.0, label_smoothing=0.1,
            augment=Augment(scale=(0.5, 1.0), color_jitter=0.2, erasing=0.1),
        ),
        evaluate=EvaluateConfig(clips=4, crops=1),
        init=Init(weights=weights),
    )  # fmt: skip


_TRANSFORMERS = ("ctn", "fusion", "hiera", "mfst", "mvit", "rpe_stdt", "std_former", "timesformer", "two_stream", "vit")
"""Modules of the models whose blocks attend to all tokens."""


def _model(model: str | None, weights: str | None, trust_code: bool, **changes: Any) -> tuple[str, ModelConfig]:
    """The model that is named, else that of the weights, with some fields changed; and what its runs are called."""
    if model or not weights:
        model = model or "mvitv2_tiny"
        return model, model_config(model, **changes)
    config = config_of(weights, trust_code=trust_code)
    if isinstance(config, VideoMAEConfig | SimMIMConfig):
        config = config.encoder()
    config = replace(config, **changes)
    return type(config).__name__.removesuffix("Config").lower(), config


@dataclass(frozen=True)
class _Settings:
    """A fine-tuning as published; what is not known of it has the default.

    Attributes:
        lr: peak learning rate of 256 videos per step.
        epochs: passes over the data.
        layer_decay, drop_path, dropout, weight_decay, clip_grad, warmup_epochs: see :class:`TrainConfig` and
            :class:`ModelConfig`.
        warmup_lr, min_lr: of 256 videos per step.
        views: clips and crops of the test.
        uniform: one frame of each segment, and no mirrored clips (Something-Something).
    """

    lr: float
    epochs: int
    layer_decay: float = 0.75
    drop_path: float = 0.1
    dropout: float = 0.0
    weight_decay: float = 0.05
    clip_grad: float | None = None
    warmup_epochs: float = 5.0
    warmup_lr: float = 1e-6
    min_lr: float = 1e-6
    views: tuple[int, Literal[1, 3]] = (5, 3)
    uniform: bool = False


def _ssv2(lr: float, epochs: int, **others: Any) -> _Settings:
    return _Settings(lr, epochs, views=(2, 3), uniform=True, **others)


_OF_VIDEOMAE = {"videomae_k400": _Settings(5e-4, 75)}

FINE_TUNINGS: dict[str, dict[str, _Settings]] = {
    "videomae_s": {"k400": _Settings(5e-4, 150), "ssv2": _ssv2(1e-3, 40)},
    "videomae_b": {
        "k400": _Settings(5e-4, 75), "k400_800": _Settings(1e-3, 100),
        "ssv2": _ssv2(5e-4, 30), "ssv2_800": _ssv2(5e-4, 50), "v2_ssv2": _ssv2(2e-3, 25, layer_decay=0.65),
        "ucf101": _Settings(
            5e-4, 100, layer_decay=0.7, drop_path=0.2, dropout=0.5, warmup_lr=1e-8, min_lr=1e-5
        ),
    },
    "videomae_l": {"k400": _Settings(2e-3, 35), "v2_k400": _Settings(2e-3, 35, drop_path=0.2)},
    "videomae_h": {
        "k400": _Settings(1e-3, 50, drop_path=0.2, dropout=0.5, warmup_lr=1e-8, min_lr=1e-5),
        "v2": _Settings(1e-3, 40, layer_decay=0.8, drop_path=0.2, dropout=0.5),
    },
    "videomae2_g": {
        "k710": _Settings(1e-3, 35, layer_decay=0.9, drop_path=0.3, weight_decay=0.1, clip_grad=5.0),
        "k400": _Settings(1e-5, 3, layer_decay=0.9, drop_path=0.25, warmup_epochs=1.0),
        "ssv2": _ssv2(3e-4, 20, layer_decay=0.9, drop_path=0.25),
    },
    "umt_b": {"k400": _Settings(2e-5, 5, warmup_epochs=1.0, views=(4, 3)), "ssv2": _ssv2(2e-4, 30)},
    "umt_l": {"k400": _Settings(1e-5, 5, layer_decay=0.85, drop_path=0.2, warmup_epochs=1.0, views=(4, 3))},
    **dict.fromkeys(("hiera_b", "hiera_b_plus", "hiera_l", "hiera_h"), _OF_VIDEOMAE),
}  # fmt: skip
"""Model → what it is fine-tuned on → how; the first is the default.

``_800``: from weights of pretraining for 800 epochs instead of 1600 (K400) or 2400 (SSv2). ``v2``: VideoMAE 2's
settings of the same network; of ViT-H's the data set is not known. The ``k400`` of VideoMAE2-g and of UMT start from
weights fine-tuned on K710.
"""


def finetune_vit(
    model: str = "videomae_b",
    published: str = "",
    root: str = "",
    data: DataConfig | None = None,
    weights: str | None = None,
    batch_size: int = 64,
) -> Recipe:
    """VideoMAE, VideoMAE 2 or UMT fine-tuned as their owners did, with layer decay; Hiera by VideoMAE's settings.

    gesta train finetune_vit --model videomae_b --init.weights hf:MCG-NJU/videomae-base --published ssv2 --data.root DIR

    It is for data sets of thousands of videos and more: of a few hundred, :func:`finetune` is the one. Sources: the
    scripts of VideoMAE (commit 1d5cc4f), VideoMAE 2 (29eab1e) and UMT (1cd57ce). Common to all: AdamW, no weight decay
    of biases and norms, cosine, every video twice per step, MixUp 0.8 and CutMix 1.0, label smoothing 0.1, RandAugment
    m7-n4 (without its noise of the magnitude), erasing 0.25; and, unless the list says otherwise, 5 epochs of warm-up
    and no clipping of the gradient. bf16 is our own choice. Values that are not known are VideoMAE's: the drop path of
    VideoMAE 2's ViT-B and ViT-H, its warm-up rates, and the weight decay and clipping of ViT-g on other data than K710;
    the layer decay of ViT-g on K400 is its own on other data. Hiera's training code is not published: it has
    VideoMAE-B's settings for Kinetics-400.

    Args:
        model: one of :data:`FINE_TUNINGS`.
        published: which of its fine-tunings, ``k400``, ``ssv2`` …; empty for the first.
        root: folder of the labelled videos, with a folder per class.
        data: another data set instead of that folder.
        weights: a checkpoint to start from: without one it trains from scratch, for which these settings are not made.
        batch_size: videos per step; the learning rates are published for 256 and scaled in proportion.

    Raises:
        GestaError: both ``root`` and ``data``; a model or a fine-tuning that is not in the list.
    """
    _check_given("finetune_vit", root, data)
    if model not in FINE_TUNINGS:
        raise GestaError(
            f"finetune_vit: no fine-tuning of {model} is published{suggest(model, FINE_TUNINGS)}; choose one of "
            f"{', '.join(FINE_TUNINGS)} with --model, or train finetune"
        )
    known = FINE_TUNINGS[model]
    published = published or next(iter(known))
    if published not in known:
        raise GestaError(f"finetune_vit: {model} has no fine-tuning {published!r}; published are {', '.join(known)}")
    how = known[published]
    config = model_config(model, dropout=how.dropout, drop_path=how.drop_path)
    if how.uniform:
        config.clip.sampling = "uniform"
        reset_unused(config.clip)
    scale = batch_size / 256
    return Recipe(
        name=f"finetune-{model}-{published}",
        model=config,
        data=data or Folder(root=root),
        train=TrainConfig(
            epochs=how.epochs, batch_size=batch_size, repeats=2, lr=how.lr * scale, warmup_epochs=how.warmup_epochs,
            warmup_lr=how.warmup_lr * scale, min_lr=how.min_lr * scale, weight_decay=how.weight_decay,
            layer_decay=how.layer_decay, clip_grad=how.clip_grad, label_smoothing=0.1, mixup=0.8, cutmix=1.0,
            precision="bf16-mixed",
            augment=Augment(
                interpolation="bicubic", randaugment=4, magnitude=21, erasing=0.25, flip=0.0 if how.uniform else 0.5
            ),
        ),
        evaluate=EvaluateConfig(clips=how.views[0], crops=how.views[1], short_side=224),
        init=Init(weights=weights, expected="" if weights else "weights pretrained on videos"),
    )  # fmt: skip


MINIATURES = (
    Miniature(model=hiera_tiny, keep=("q_pool",)),
    Miniature(model=vit_tiny, keep=(
        "positions", "class_token", "eps", "head_eps", "gelu", "layer_scale", "qkv_bias", "tail", "modality_embed",
    )),
)  # fmt: skip
"""Of models that no paper's recipes here are about."""


def probe(
    model: str | None = None,
    root: str = "",
    data: DataConfig | None = None,
    weights: str | None = None,
    attentive: int = 0,
    *,
    trust_code: bool = False,
) -> Recipe:
    """Classifiers on the features of a pretrained model, which is not trained: minutes, from few videos.

    gesta train probe --model NAME --init.weights FILE --data.root DIR

    Args:
        model: a name of ``gesta models``; by default the model of the weights, or ``mvitv2_tiny`` without them.
        root: folder of the labelled videos, with a folder per class.
        data: another data set instead of that folder.
        weights: a checkpoint in which the model is trained; without one features are noise.
        attentive: blocks of attentive probes, which read all tokens (V-JEPA 2's have 4); 0 for linear ones.
        trust_code: allow weights of a model whose class is not part of gesta.

    Raises:
        GestaError: both ``root`` and ``data``, or weights that do not say of which model they are.
    """
    _check_given("probe", root, data)
    name, config = _model(model, weights, trust_code, dropout=0.0, drop_path=0.0)
    if attentive:
        with torch.device("meta"):
            network = config.build()
        width = network.grid_at(len(network.blocks))[0]
        heads = next(heads for heads in range(16, 0, -1) if width % heads == 0)
        config.attentive = Attentive(depth=attentive, heads=heads)
    return Recipe(
        name=f"probe-{name}",
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
