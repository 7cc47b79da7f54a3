"""Claims on MFST (Ma et al., ACM MM 2023; chapter 2 of Y. Ma's thesis): differences in the stem, scales, fusion."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from gesta.claims.claim import TOP1, Arm, Claim, Comparison, FusedArm, MarionetteSet, Metric
from gesta.claims.metrics import shuffled
from gesta.claims.pretraining import COARSE
from gesta.config import replace, reset_unused
from gesta.layers.cdc import Difference
from gesta.marionette.dataset import Marionette
from gesta.models.mfst import mfst_tiny
from gesta.recipe import Augment, EvaluateConfig, Init, Recipe, TrainConfig

VARIED = MarionetteSet(
    name="varied", settings={"clips": 480, "size": 96, "lighting": "varied", "depth": True, "flow": True}
)
"""Every clip in a light of its own, so that RGB does not reach the ceiling; depth with a sensor's noise and holes.
Claims on fusion read the same clips' optical flow."""


def stream(
    modality: Literal["rgb", "depth"] = "rgb",
    cdc: Difference = "none",
    scales: tuple[int, ...] = (1, 2, 4),
    encoding: Literal["jet", "repeat3"] = "jet",
    epochs: int = 30,
    start: bool = False,
    theta: float = 0.6,
) -> Recipe:
    """One stream of mfst_tiny with two stages of one layer, on 8 frames of 48 px.

    Args:
        modality: what it sees.
        cdc: central difference of its stem.
        scales: of its temporal Transformers.
        encoding: how depth becomes three channels.
        epochs: of 312 clips in varied light, or 384 in even light.
        start: from another training's weights.
        theta: fraction of the difference; the paper's is 0.6. Without a difference it is zero.
    """
    tiny = mfst_tiny()
    model = replace(
        tiny,
        classes=12,
        cdc=cdc,
        theta=theta if cdc != "none" else 0.0,
        scales=scales,
        stages=tiny.stages[::2],
        layers=1,
    )
    model.clip.size = 48
    reset_unused(model)
    data = Marionette(held_out="both", modality=modality)
    if modality == "depth":
        data.depth_encoding = encoding
    return Recipe(
        name="mfst",
        model=model,
        data=data,
        train=TrainConfig(
            epochs=epochs, batch_size=8, lr=1e-3, warmup_epochs=1, validate_every=0, workers=0,
            augment=Augment(scale=(0.7, 1.0)),
        ),
        evaluate=EvaluateConfig(clips=1, crops=1, workers=0),
        init=Init(expected="those of a training in even light" if start else ""),
    )  # fmt: skip


def depth(name: str, why: str, is_control: bool = False, **settings: Any) -> Arm:
    make = partial(stream, modality="depth", **settings)
    return Arm(name=name, why=why, is_control=is_control, data=VARIED, make=make)


def rgb(name: str, why: str, **settings: Any) -> Arm:
    """RGB in varied light, from the same network's training in even light: from scratch it stays at chance."""
    even = Arm(name=f"{name}, even light", why="", data=COARSE, make=partial(stream, epochs=16, **settings))
    return Arm(name=name, why=why, data=VARIED, start=even, make=partial(stream, start=True, **settings))


RGB_PLAIN = rgb("RGB, plain", "the baseline: a stem of ordinary 3-D convolutions.")
RGB_ST = rgb("RGB, difference in space and time", "what the paper has for RGB.", cdc="st")
ONE_SCALE = rgb("RGB, one scale", "the paper's V-Trans: the same layers at one scale.", cdc="st", scales=(1,))
DEPTH_PLAIN = depth("depth, plain", "the baseline on depth.")
DEPTH_T = depth("depth, difference in time", "what the paper has for depth.", cdc="t")
DEPTH_ST = depth(
    "depth, difference in space and time", "what the paper has for RGB, and finds worse on depth.", cdc="st"
)
GREY_PLAIN = depth("grey depth, plain", "the same with depth as grey levels.", True, encoding="repeat3")
GREY_T = depth(
    "grey depth, difference in time",
    "whether the gain comes with the colour map, whose hues jump where depth does not.",
    True,
    cdc="t",
    encoding="repeat3",
)

RGB_T = rgb("RGB, difference in time", "what the paper has for depth.", cdc="t")
RGB_MORE = rgb("RGB, in space and time, fraction 0.8", "more of the difference.", cdc="st", theta=0.8)
DEPTH_MORE = depth("depth, in time, fraction 0.8", "more of the difference.", cdc="t", theta=0.8)

_SHUFFLED = Metric(name="shuffled", title="top-1 with frames in random order", measure=shuffled)
_WHERE = (
    "mfst_tiny with two stages of one layer (0.26 M parameters, 8 frames of 48 px) on 312 clips of Marionette's 12 "
    "coarse actions in varied light; tested on 120 clips of subjects and cameras that training never saw. Depth is "
    "trained from scratch, RGB from the same network's training on 384 clips in even light. The paper's networks have "
    "50 M parameters and see 32 frames of 224 px of 40,000 videos."
)

DIFFERENCE = Claim(
    name="mfst.difference",
    statement="Central differences in the stem's convolutions help: in space and time on RGB, in time alone on depth.",
    source="Ma et al. 2023, §2.3.3 and Table 2.4: RGB 90.4 → 92.1, depth 91.2 → 93.8 (91.6 in space and time)",
    experiment=_WHERE + " Arms differ in nothing but the kernel of the stem, which has no parameters of its own.",
    arms=(RGB_PLAIN, RGB_ST, DEPTH_PLAIN, DEPTH_T, DEPTH_ST, GREY_PLAIN, GREY_T),
    comparisons=(
        Comparison(better=RGB_ST.name, worse=RGB_PLAIN.name),
        Comparison(better=DEPTH_T.name, worse=DEPTH_PLAIN.name),
        Comparison(better=DEPTH_T.name, worse=DEPTH_ST.name),
        Comparison(better=GREY_T.name, worse=GREY_PLAIN.name, kind="control"),
    ),
    metrics=(TOP1, _SHUFFLED),
    learn_more="real sensors, and networks in which the stem is not a quarter of all layers.",
    minutes=2.0,
)

FRACTION = Claim(
    name="mfst.fraction",
    statement="On RGB the difference in space and time is better than that in time, and a fraction of 0.6 better than "
    "of 0.8.",
    source="Ma et al. 2023, §2.4.3.2 and Table 2.4: RGB 92.1, in time 89.6, with 0.8 91.0; depth 93.8, with 0.8 92.4",
    experiment=_WHERE + " The stem's kernel is an ordinary one less the fraction of what makes it a difference; 0 is "
    "the baseline of mfst.difference.",
    arms=(RGB_ST, RGB_T, RGB_MORE, DEPTH_T, DEPTH_MORE),
    comparisons=(
        Comparison(better=RGB_ST.name, worse=RGB_T.name),
        Comparison(better=RGB_ST.name, worse=RGB_MORE.name),
        Comparison(better=DEPTH_T.name, worse=DEPTH_MORE.name),
    ),
    metrics=(TOP1, _SHUFFLED),
    learn_more="fractions below 0.6 and of 1, and real sensors.",
    minutes=2.0,
)

SCALES = Claim(
    name="mfst.scales",
    statement="Temporal Transformers at several scales with shared weights are better than at one.",
    source="Ma et al. 2023, §2.3.5 and Table 2.6: RGB 91.0 → 92.1",
    experiment=_WHERE + " Both arms have the difference and the same parameters; three scales, of the arm that is "
    "not named 'one scale', cost 1.75 times the temporal attention.",
    arms=(ONE_SCALE, RGB_ST),
    comparisons=(Comparison(better=RGB_ST.name, worse=ONE_SCALE.name),),
    metrics=(TOP1, _SHUFFLED),
    learn_more="longer clips: of 8 frames the coarsest scale has two.",
    minutes=2.0,
)

FUSION = Claim(
    name="mfst.fusion",
    statement="RGB and depth fused are better than each of them alone.",
    source="Ma et al. 2023, Table 2.1: 92.1 and 93.8 alone, 94.6 fused",
    experiment=_WHERE
    + " Scores are fused by the mean of their probabilities, as in the paper. Two networks are better than one of them "
    "whatever they see; the controls fuse two trainings on one modality that differ in their seeds.",
    arms=(
        FusedArm(name="RGB + depth", why="what the paper has.", parts=((RGB_ST, 0), (DEPTH_T, 0))),
        RGB_ST,
        DEPTH_T,
        FusedArm(
            name="RGB + RGB",
            why="as many networks, but no depth.",
            parts=((RGB_ST, 0), (RGB_ST, 100)),
            is_control=True,
        ),
        FusedArm(
            name="depth + depth",
            why="as many networks, but no RGB.",
            parts=((DEPTH_T, 0), (DEPTH_T, 100)),
            is_control=True,
        ),
    ),
    comparisons=(
        Comparison(better="RGB + depth", worse=RGB_ST.name),
        Comparison(better="RGB + depth", worse=DEPTH_T.name),
        Comparison(better="RGB + depth", worse="RGB + RGB", kind="control"),
        Comparison(better="RGB + depth", worse="depth + depth", kind="control"),
    ),
    learn_more="real sensors, and networks that are as good on RGB as on depth.",
    minutes=2.0,
)

CLAIMS = (DIFFERENCE, FRACTION, SCALES, FUSION)
