"""The claim on learning without labels, the next step of Y. Ma's thesis: after pretraining fewer labels are needed."""

from __future__ import annotations

from functools import partial

from gesta.claims.claim import Arm, Claim, Comparison, MarionetteSet
from gesta.config import replace
from gesta.data.parts import FewLabels, Unlabelled
from gesta.marionette.dataset import Marionette
from gesta.model import ModelConfig
from gesta.models.vit import vit_tiny
from gesta.pretraining.videomae import videomae_of
from gesta.recipe import Augment, EvaluateConfig, Init, Recipe, TrainConfig

COARSE = MarionetteSet(name="coarse", settings={"clips": 600, "size": 96})

PERCENT = (1, 5, 10, 25, 100)
"""Of the labels; of 384 clips of 12 classes these are 12, 24, 48, 96 and 384, since each class has one at least."""

EPOCHS = {1: 300, 5: 150, 10: 100, 25: 85, 100: 60}
"""Of fine-tuning, the same for both starts: 300, 150, 300, 510 and 1440 steps of whole batches."""

BATCH = 16


def vit() -> ModelConfig:
    """vit_tiny on 8 frames of 48 px: 4 × 6 × 6 tokens."""
    model = replace(vit_tiny(), classes=12)
    model.clip.size = 48
    return model


def pretrained() -> Recipe:
    """VideoMAE on the training clips without their labels, for 150 epochs."""
    model = videomae_of(vit(), decoder_width=64, decoder_depth=2, decoder_heads=2, ratio=0.75)  # type: ignore[arg-type]
    return Recipe(
        name="videomae",
        model=model,
        data=Unlabelled(of=Marionette(held_out="both")),
        train=TrainConfig(
            epochs=150, batch_size=32, lr=2e-3, betas=(0.9, 0.95), warmup_epochs=5, validate_every=0, workers=0,
            clip_grad=1.0, augment=Augment(scale=(0.7, 1.0)),
        ),
    )  # fmt: skip


def fine_tuned(percent: int, start: bool) -> Recipe:
    """Training on a part of the labels; from pretraining if ``start``."""
    epochs = EPOCHS[percent]
    return Recipe(
        name="labels",
        model=vit(),
        data=FewLabels(of=Marionette(held_out="both"), fraction=percent / 100),
        train=TrainConfig(
            epochs=epochs, batch_size=BATCH, lr=1e-3, warmup_epochs=epochs / 20,
            label_smoothing=0.1, validate_every=0, workers=0, augment=Augment(scale=(0.7, 1.0)),
        ),
        evaluate=EvaluateConfig(clips=1, crops=1, workers=0),
        init=Init(expected="those of pretraining" if start else ""),
    )  # fmt: skip


PRETRAINING = Arm(name="pretraining", why="what the others start from.", make=pretrained, data=COARSE)


def arm(percent: int, start: Arm | None) -> Arm:
    return Arm(
        name=f"{'pretrained' if start else 'scratch'}, {percent} %",
        why=f"{percent} % of the labels, {'after pretraining' if start else 'from random weights'}.",
        make=partial(fine_tuned, percent, start is not None),
        data=COARSE,
        start=start,
    )


SCRATCH = {percent: arm(percent, None) for percent in PERCENT}
STARTED = {percent: arm(percent, PRETRAINING) for percent in PERCENT}

LABELS = Claim(
    name="pretraining.labels",
    statement="With the same labels, accuracy is higher after masked pretraining on the same videos than from scratch.",
    source="Z. Tong et al., VideoMAE, NeurIPS 2022, §4.3 (data-efficient learner); Y. Ma's thesis, outlook",
    experiment="vit_tiny (0.25 M parameters, 8 frames of 48 px) on Marionette's 12 coarse actions, with the labels of "
    "1, 5, 10, 25 and 100 % of the 384 training clips, at least one of each class and the same with all seeds; tested "
    "on 156 clips of subjects and cameras that training never saw. Pretraining is VideoMAE for 150 epochs on these "
    "clips, anew for each seed. Both starts have equal steps of fine-tuning: 300, 150, 300, 510 and 1440. With 1 and "
    "5 % nothing is compared: the curve shows them.",
    arms=(*SCRATCH.values(), *STARTED.values()),
    comparisons=tuple(
        Comparison(better=STARTED[percent].name, worse=SCRATCH[percent].name) for percent in (10, 25, 100)
    ),
    learn_more="longer pretraining, and on more videos than are labelled; and a model that is above chance (8.3 %) "
    "with a quarter of the labels: where both starts are at chance, no difference could be seen.",
    minutes=1.5,
    series={
        "from scratch": tuple((percent, SCRATCH[percent].name) for percent in PERCENT),
        "pretrained": tuple((percent, STARTED[percent].name) for percent in PERCENT),
    },
    series_axis="labels, % of the training clips",
)

CLAIMS = (LABELS,)
