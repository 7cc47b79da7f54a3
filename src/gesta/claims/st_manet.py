"""Claims on ST-MANet (Wang, ComSIS 21(4), 2024): what its modules and losses add, and actions of other speeds."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from gesta.checkpoint import TrainedModel
from gesta.claims.claim import TOP1, Arm, Claim, Comparison, Metric, Value
from gesta.claims.metrics import accuracies, at_strides, clips_to_test
from gesta.claims.pretraining import COARSE
from gesta.config import replace, reset_unused
from gesta.marionette.dataset import Marionette
from gesta.models.st_manet import STMANet, likeness, pool_frames, pool_positions, st_manet_tiny
from gesta.plugins.st_manet import SDALayer, TDALayer
from gesta.recipe import Augment, EvaluateConfig, Recipe, TrainConfig


def modules(
    tda: bool = False, sda: bool = False, mf: bool = False, losses: float = 1.0, sgd: bool = False, **fields: Any
) -> Recipe:
    """A row of the paper's Table 4 at tiny size: 8 frames of 48 px, all of which every stage has.

    Args:
        tda, sda, mf: the modules.
        losses: what the weights of the diversity losses, λ1 and λ2, are multiplied by.
        sgd: in place of AdamW.
        fields: further ones of the model.
    """
    model = replace(st_manet_tiny(), classes=12, tda=tda, sda=sda, mf=mf, time_strides=(1, 1, 1, 1, 1), **fields)
    model.lambda1, model.lambda2 = model.lambda1 * losses, model.lambda2 * losses
    model.clip = replace(model.clip, frames=8, stride=4, size=48)
    reset_unused(model)
    recipe = Recipe(
        name="st_manet",
        model=model,
        data=Marionette(held_out="both"),
        train=TrainConfig(
            epochs=28, batch_size=8, lr=5e-3, warmup_epochs=1, validate_every=0, workers=0,
            augment=Augment(scale=(0.85, 1.0)),
        ),
        evaluate=EvaluateConfig(clips=1, crops=1, workers=0),
    )  # fmt: skip
    if sgd:
        recipe.train = replace(recipe.train, optimizer="sgd", lr=0.05, weight_decay=1e-4)
    return recipe


def arm(name: str, why: str, is_control: bool = False, **switches: Any) -> Arm:
    return Arm(name=name, why=why, is_control=is_control, data=COARSE, make=partial(modules, **switches))


WHOLE = {"tda": True, "sda": True, "mf": True}
RESNET = arm("ResNet", "the baseline, the 3-D ResNet without modules.")
TDA = arm("+ TDA", "temporal aggregation alone.", tda=True)
SDA = arm("+ SDA", "spatial aggregation alone.", sda=True)
BOTH = arm("+ TDA + SDA", "both.", tda=True, sda=True)
FUSION = arm("+ fusion", "multi-level fusion alone: the classifier sees all stages.", mf=True)
ALL = arm("all", "ST-MANet.", **WHOLE)
NO_LOSSES = arm("all, without diversity losses", "whether the losses add to the modules.", **WHOLE, losses=0.0)
LITERAL = arm(
    "all, as printed", "the second softmax of Eqs. 2, 3 and 5, and no batch norm after the attention.", True,
    **WHOLE, second_softmax="position", attn_out_norm="none",
)  # fmt: skip
CONCAT = arm("all, values of both", "values from the map and the branch together.", True, **WHOLE, tda_value="concat")
STRONG = arm("all, losses × 30", "how much stronger losses spread the attention, and cost.", **WHOLE, losses=30.0)
SGD = arm("SGD, all", "ST-MANet trained by SGD with momentum, as in the paper.", **WHOLE, sgd=True)
SGD_NO_LOSSES = arm("SGD, without diversity losses", "the same without the losses.", **WHOLE, losses=0.0, sgd=True)


def as_means(trained: TrainedModel, recipe: Recipe, device: torch.device) -> Value:
    """Top-1 if what all modules of a kind add to a map is replaced by its mean over the clip.

    What is not lost by that does not need them to differ between frames and positions; the mean itself still depends
    on their attention.
    """
    top1: dict[str, float] = {}
    for name, kind in (("TDA", TDALayer), ("SDA", SDALayer)):
        layers = [module for module in trained.model.modules() if isinstance(module, kind)]
        try:
            for layer in layers:
                layer.aggregate = partial(_mean_residual, layer.aggregate)  # type: ignore[method-assign, assignment]
            top1 |= accuracies(trained, recipe, device, {name: lambda clips: clips})
        finally:
            for layer in layers:
                del layer.aggregate
    return top1


def _mean_residual(aggregate: Any, *inputs: Any) -> Any:
    result = aggregate(*inputs)
    mean = result.residual.mean((2, 3, 4), keepdim=True)
    return result._replace(residual=mean.expand_as(result.residual))


def alike(trained: TrainedModel, recipe: Recipe, device: torch.device) -> Value:
    """Cosine between attention matrices of two stages, as the losses pool them: the mean over pairs and test clips."""
    network = trained.model.to(device)
    assert isinstance(network, STMANet)
    sums, count = {"temporal": 0.0, "spatial": 0.0}, 0
    for clips in clips_to_test(trained, recipe, device):
        stages = list(network.attention_maps(clips).values())
        frames, *size = stages[-1].size
        temporal = [pool_frames(s.temporal, frames) for s in stages if s.temporal is not None]
        spatial = [pool_positions(s.spatial, s.size[1:], (size[0], size[1])) for s in stages if s.spatial is not None]
        for name, matrices in (("temporal", temporal), ("spatial", spatial)):
            pairs = len(matrices) * (len(matrices) - 1) / 2
            sums[name] += len(clips) * likeness(matrices, "unordered").item() / pairs
        count += len(clips)
    return {name: total / count for name, total in sums.items()}


_WHERE = (
    "st_manet_tiny (8 frames of 48 px, whose number no stage reduces) from scratch on 384 clips of Marionette's 12 "
    "coarse actions; tested on 156 clips of subjects and cameras that training never saw. The paper's is a 3-D "
    "ResNet-50 on UCF-101. Modules add parameters, for which there is no control here."
)

_METRICS = (
    TOP1,
    Metric(name="strides", title="top-1", measure=at_strides(2, 3, 4, 5), axis="frames apart, trained at 4"),
    Metric(
        name="as_means", title="top-1 with modules that give their mean", measure=as_means, axis="modules",
        arms=(ALL.name, NO_LOSSES.name, LITERAL.name, CONCAT.name),
    ),
)  # fmt: skip

MODULES = Claim(
    name="st_manet.modules",
    statement="Temporal and spatial aggregation, multi-level fusion and the diversity losses each add accuracy.",
    source="Wang 2024, Table 4: 83.2 → 89.5 (TDA), 90.1 (SDA), 92.8 (both), 84.2 (fusion), 96.1 (all)",
    experiment=_WHERE + " Two further arms are of the equations as they are printed, and of another reading of the "
    "values in TDA. If a module that gives the mean of its output over each clip loses nothing, what differs between "
    "frames and positions of that output is not used.",
    arms=(RESNET, TDA, SDA, BOTH, FUSION, ALL, NO_LOSSES, LITERAL, CONCAT),
    comparisons=(
        Comparison(better=TDA.name, worse=RESNET.name),
        Comparison(better=SDA.name, worse=RESNET.name),
        Comparison(better=FUSION.name, worse=RESNET.name),
        Comparison(better=ALL.name, worse=RESNET.name),
        Comparison(better=ALL.name, worse=NO_LOSSES.name),
    ),
    metrics=_METRICS,
    learn_more="plain layers with as many parameters as the modules.",
    minutes=2.5,
)

DIVERSITY = Claim(
    name="st_manet.diversity",
    statement="The diversity losses make the attention of different stages differ, and accuracy higher.",
    source="Wang 2024, §3.4, Eqs. 6 and 7, and Table 4",
    experiment=_WHERE + " The weights of the losses are the paper's, none, and thirty times the paper's; by AdamW and "
    "by SGD, which the paper has. The cosine of attention matrices is 1 if all stages attend alike.",
    arms=(NO_LOSSES, ALL, STRONG, SGD_NO_LOSSES, SGD),
    comparisons=(
        Comparison(better=ALL.name, worse=NO_LOSSES.name),
        Comparison(better=NO_LOSSES.name, worse=ALL.name, metric="alike/spatial"),
        Comparison(better=NO_LOSSES.name, worse=ALL.name, metric="alike/temporal"),
        Comparison(better=SGD.name, worse=SGD_NO_LOSSES.name),
    ),
    metrics=(TOP1, Metric(name="alike", title="cosine between stages", measure=alike, axis="attention", unit="")),
    learn_more="weights of the losses between one and thirty times the paper's.",
    minutes=2.5,
)

RHYTHM = Claim(
    name="st_manet.rhythm",
    statement="ST-MANet is robust to the speed of actions.",
    source="Wang 2024, §1 (visual rhythm)",
    experiment=_WHERE + " The trainings of st_manet.modules, tested on clips whose frames are 3 or 5 apart, not 4: 8 "
    "frames then show less of the action, or more; videos of fewer than 36 frames begin again at the end. What is "
    "compared is how much each network loses.",
    arms=(RESNET, ALL),
    comparisons=(
        Comparison(better=ALL.name, worse=RESNET.name, metric="strides/3", relative_to="strides/4"),
        Comparison(better=ALL.name, worse=RESNET.name, metric="strides/5", relative_to="strides/4"),
    ),
    metrics=_METRICS[:2],
    learn_more="videos in which the same action is done at several speeds, as in the paper's introduction.",
    minutes=2.5,
)

CLAIMS = (MODULES, DIVERSITY, RHYTHM)
