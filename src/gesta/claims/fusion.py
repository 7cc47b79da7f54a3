"""Learned fusion of RGB, depth and optical flow: no paper's claim, but the second next step of Y. Ma's thesis."""

from __future__ import annotations

from functools import partial

import torch

from gesta.checkpoint import TrainedModel
from gesta.claims.claim import TOP1, Arm, Claim, Comparison, FusedArm, Metric, Value
from gesta.claims.metrics import accuracies
from gesta.claims.mfst import DEPTH_T, RGB_ST, VARIED, stream
from gesta.config import replace
from gesta.marionette.dataset import Marionette
from gesta.models.fusion import ALL, FusionConfig
from gesta.recipe import Recipe
from gesta.video.modality import Modalities


def flow() -> Recipe:
    """One stream of mfst_tiny on optical flow, otherwise as those of RGB and depth."""
    recipe = stream()
    recipe.data = Marionette(held_out="both", modality="flow")
    return recipe


def fused(attends: bool, drop_stream: float) -> Recipe:
    """The three networks trained together, that of RGB from its training in even light, as it is alone.

    Args:
        attends: their tokens attend to each other in two blocks of cross-attention; else pooled features are joined.
        drop_stream: fraction of training clips whose streams may be left out.
    """
    trunks = [RGB_ST.make().model, DEPTH_T.make().model, flow().model]
    attention = {"depth": 2, "width": 64, "heads": 4, "grid": (4, 2, 2)} if attends else {"depth": 0}
    clip = replace(trunks[0].clip, streams=ALL)
    recipe = stream(start=True)
    recipe.init.only = ("trunks.rgb.",)
    recipe.model = FusionConfig(classes=12, trunks=trunks, clip=clip, drop_stream=drop_stream, **attention)
    recipe.data = Marionette(held_out="both", modality="rgbd+flow")
    return recipe


def arm(name: str, why: str, attends: bool, drop_stream: float) -> Arm:
    return Arm(name=name, why=why, data=VARIED, start=RGB_ST.start, make=partial(fused, attends, drop_stream))


PARTS: tuple[Modalities, ...] = ("rgb", "depth", "flow", "rgbd", "rgb+flow", "depth+flow", "rgbd+flow")


def by_streams(trained: TrainedModel, recipe: Recipe, device: torch.device) -> Value:
    """Top-1 with some of the streams only; the others are missing."""
    top1: dict[str, float] = {}
    for modality in PARTS:
        data = replace(recipe.data, modality=modality)
        top1 |= accuracies(trained, replace(recipe, data=data), device, {modality: lambda clips: clips})
    return top1


FLOW = Arm(name="flow", why="optical flow alone.", data=VARIED, make=flow)
FEATURES = arm("features", "pooled features joined, one classifier.", False, 0.5)
ATTENTION = arm("cross-attention", "features joined, and tokens that attend to those of other streams.", True, 0.5)
UNDROPPED = arm("features, all streams always", "training without leaving out streams.", False, 0.0)
SCORES = FusedArm(
    name="scores",
    why="three networks trained apart, the mean of their probabilities.",
    parts=((RGB_ST, 0), (DEPTH_T, 0), (FLOW, 0)),
)
NO_FLOW = FusedArm(name="scores of RGB + depth", why="scores without flow.", parts=((RGB_ST, 0), (DEPTH_T, 0)))
NO_DEPTH = FusedArm(name="scores of RGB + flow", why="scores without depth.", parts=((RGB_ST, 0), (FLOW, 0)))
NO_RGB = FusedArm(name="scores of depth + flow", why="scores without RGB.", parts=((DEPTH_T, 0), (FLOW, 0)))
THREE_RGB = FusedArm(
    name="scores of RGB + RGB + RGB",
    why="as many networks, but neither depth nor flow.",
    parts=((RGB_ST, 0), (RGB_ST, 100), (RGB_ST, 200)),
    is_control=True,
)
THREE_DEPTH = FusedArm(
    name="scores of depth + depth + depth",
    why="as many networks, but neither RGB nor flow; depth is the best stream.",
    parts=((DEPTH_T, 0), (DEPTH_T, 100), (DEPTH_T, 200)),
    is_control=True,
)
SECOND_DEPTH = FusedArm(
    name="scores of RGB + depth + depth",
    why="a second network on depth in place of that on flow.",
    parts=((RGB_ST, 0), (DEPTH_T, 0), (DEPTH_T, 100)),
    is_control=True,
)

_LEARNED = (FEATURES.name, ATTENTION.name, UNDROPPED.name)
_STREAMS = Metric(
    name="by_streams", title="top-1 with these streams alone", measure=by_streams, axis="streams", arms=_LEARNED
)
_WHERE = (
    "The network of mfst.fusion on each stream; flow is OpenCV's DIS in pictures of 8 bits. Those of depth and flow "
    "start from scratch, that of RGB from its training on 384 clips in even light; they are trained on 312 clips of "
    "Marionette's 12 coarse actions in varied light and tested on 120 of subjects and cameras that training never "
    "saw. Scores are the mean of the probabilities of networks trained apart."
)

SCORES_CLAIM = Claim(
    name="fusion.flow",
    statement="Scores of RGB, depth and optical flow fused are better than each of them alone, than RGB and depth, and "
    "than as many networks without flow.",
    source="Y. Ma's thesis, future work; RPE-STDT's and STAN's authors name flow as well",
    experiment=_WHERE + " Several networks are better than one whatever they see, so the controls have three as well; "
    "those on one stream differ in their seeds.",
    arms=(SCORES, NO_FLOW, NO_DEPTH, NO_RGB, RGB_ST, DEPTH_T, FLOW, THREE_RGB, THREE_DEPTH, SECOND_DEPTH),
    comparisons=(
        *(Comparison(better=SCORES.name, worse=one.name) for one in (RGB_ST, DEPTH_T, FLOW, NO_FLOW)),
        *(
            Comparison(better=SCORES.name, worse=one.name, kind="control")
            for one in (THREE_RGB, THREE_DEPTH, SECOND_DEPTH)
        ),
    ),
    learn_more="real videos, whose depth is worse and whose textures help the flow, and the flow of other methods.",
    minutes=2.0,
)

LEARNED_CLAIM = Claim(
    name="fusion.learned",
    statement="Learned fusion, of features or by cross-attention, is better than the mean of scores.",
    source="Y. Ma's thesis, future work",
    experiment=_WHERE + " Features and tokens are of three networks trained together. In half of their training clips "
    "each stream is left out with probability one half, so that their accuracy on training clips is below what they "
    "have learned. The table by streams shows their accuracy where the other streams are missing; for scores, the arms "
    "of fusion.flow with fewer streams show it.",
    arms=(SCORES, FEATURES, ATTENTION, UNDROPPED),
    comparisons=(
        Comparison(better=FEATURES.name, worse=SCORES.name),
        Comparison(better=ATTENTION.name, worse=SCORES.name),
        Comparison(better=ATTENTION.name, worse=FEATURES.name, kind="control"),
    ),
    metrics=(TOP1, _STREAMS),
    learn_more="more data, as networks trained together overfit together; trunks that start from trained ones.",
    minutes=6.0,
)

CLAIMS = (SCORES_CLAIM, LEARNED_CLAIM)
