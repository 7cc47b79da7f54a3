"""Claims on ST-MANet (Wang, ComSIS 21(4), 2024): what its modules add, and actions of other speeds."""

from __future__ import annotations

from functools import partial

from gesta.claims.claim import TOP1, Arm, Claim, Comparison, Metric
from gesta.claims.metrics import at_strides
from gesta.claims.pretraining import COARSE
from gesta.config import replace, reset_unused
from gesta.marionette.dataset import Marionette
from gesta.models.st_manet import st_manet_tiny
from gesta.recipe import Augment, EvaluateConfig, Recipe, TrainConfig


def modules(tda: bool = False, sda: bool = False, mf: bool = False, diversity: bool = True) -> Recipe:
    """A row of the paper's Table 4 at tiny size: 8 frames of 48 px, all of which every stage has."""
    model = replace(st_manet_tiny(), classes=12, tda=tda, sda=sda, mf=mf, time_strides=(1, 1, 1, 1, 1))
    if not diversity:
        model.lambda1 = model.lambda2 = 0.0
    model.clip = replace(model.clip, frames=8, stride=4, size=48)
    reset_unused(model)
    return Recipe(
        name="st_manet",
        model=model,
        data=Marionette(held_out="both"),
        train=TrainConfig(
            epochs=16, batch_size=8, lr=1e-3, warmup_epochs=1, validate_every=0, workers=0,
            augment=Augment(scale=(0.7, 1.0)),
        ),
        evaluate=EvaluateConfig(clips=1, crops=1, workers=0),
    )  # fmt: skip


def arm(name: str, why: str, is_control: bool = False, **switches: bool) -> Arm:
    return Arm(name=name, why=why, is_control=is_control, data=COARSE, make=partial(modules, **switches))


RESNET = arm("ResNet", "the baseline, the 3-D ResNet without modules.")
TDA = arm("+ TDA", "temporal aggregation alone.", tda=True)
SDA = arm("+ SDA", "spatial aggregation alone.", sda=True)
BOTH = arm("+ TDA + SDA", "both.", tda=True, sda=True)
FUSION = arm("+ fusion", "multi-level fusion alone: the classifier sees all stages.", mf=True)
ALL = arm("all", "ST-MANet.", tda=True, sda=True, mf=True)
NO_LOSSES = arm(
    "all, without diversity losses", "whether the losses add to the modules.", True,
    tda=True, sda=True, mf=True, diversity=False,
)  # fmt: skip

_WHERE = (
    "st_manet_tiny (8 frames of 48 px, whose number no stage reduces) from scratch on 390 clips of Marionette's 12 "
    "coarse actions; tested on 150 clips of subjects and cameras that training never saw. The paper's is a 3-D "
    "ResNet-50 on UCF-101. Modules add parameters, for which there is no control here."
)

MODULES = Claim(
    name="st_manet.modules",
    statement="Temporal and spatial aggregation, multi-level fusion and the diversity losses each add accuracy.",
    source="Wang 2024, Table 4: 83.2 → 89.5 (TDA), 90.1 (SDA), 92.8 (both), 84.2 (fusion), 96.1 (all)",
    experiment=_WHERE,
    arms=(RESNET, TDA, SDA, BOTH, FUSION, ALL, NO_LOSSES),
    comparisons=(
        Comparison(better=TDA.name, worse=RESNET.name),
        Comparison(better=SDA.name, worse=RESNET.name),
        Comparison(better=FUSION.name, worse=RESNET.name),
        Comparison(better=ALL.name, worse=RESNET.name),
        Comparison(better=ALL.name, worse=NO_LOSSES.name, kind="control"),
    ),
    metrics=(
        TOP1,
        Metric(name="strides", title="top-1", measure=at_strides(2, 3, 4, 5), axis="frames apart, trained at 4"),
    ),
    learn_more="plain layers with as many parameters as the modules, and modules that give the mean of their output.",
    minutes=2.5,
)

RHYTHM = Claim(
    name="st_manet.rhythm",
    statement="ST-MANet is robust to the speed of actions.",
    source="Wang 2024, §1 (visual rhythm)",
    experiment=_WHERE + " The trainings of st_manet.modules, tested on clips whose frames are 3 or 5 apart, not 4.",
    arms=(RESNET, ALL),
    comparisons=(
        Comparison(better=ALL.name, worse=RESNET.name, metric="strides/3"),
        Comparison(better=ALL.name, worse=RESNET.name, metric="strides/5"),
    ),
    metrics=MODULES.metrics,
    learn_more="videos in which the same action is done at several speeds, as in the paper's introduction.",
    minutes=2.5,
)

CLAIMS = (MODULES, RHYTHM)
