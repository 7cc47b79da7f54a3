"""Claims on CTN (Ma et al., Neurocomputing 569, 2024; chapter 4 of Y. Ma's thesis): its tokens and its mapping."""

from __future__ import annotations

from functools import partial
from typing import Literal

from gesta.claims.claim import TOP1, Arm, Claim, Comparison, Metric
from gesta.claims.metrics import shuffled
from gesta.claims.pretraining import COARSE
from gesta.config import replace, reset_unused
from gesta.marionette.dataset import Marionette
from gesta.models.ctn import ctn_tiny
from gesta.recipe import Augment, EvaluateConfig, Recipe, TrainConfig

Embed = Literal["tube", "video_to_tokens"]
Mapping = Literal["linear", "conv"]


def tokens(embed: Embed, mapping: Mapping, positions: Literal["none", "learned"] = "none") -> Recipe:
    """ctn_tiny on 8 frames of 48 px, with the parts that the paper exchanges. Tubelets learn half as fast."""
    model = replace(ctn_tiny(), classes=12, embed=embed, mapping=mapping, positions=positions)
    model.clip.size = 48
    reset_unused(model)
    return Recipe(
        name="ctn",
        model=model,
        data=Marionette(held_out="both"),
        train=TrainConfig(
            epochs=60 if embed == "tube" else 30, batch_size=8, lr=1e-3, warmup_epochs=1, validate_every=0, workers=0,
            augment=Augment(scale=(0.85, 1.0)),
        ),
        evaluate=EvaluateConfig(clips=1, crops=1, workers=0),
    )  # fmt: skip


def arm(name: str, why: str, *parts: str, is_control: bool = False) -> Arm:
    make = partial(tokens, *parts)  # type: ignore[arg-type]
    return Arm(name=name, why=why, is_control=is_control, data=COARSE, make=make)


VIVIT = arm("tube, linear, positions", "ViViT, the baseline.", "tube", "linear", "learned")
TUBE_LINEAR = arm("tube, linear", "ViViT without positions.", "tube", "linear")
TUBE_CONV = arm("tube, convolution", "the mapping alone.", "tube", "conv")
STEM_LINEAR = arm("stem, linear", "the tokens alone.", "video_to_tokens", "linear")
STEM_CONV = arm("stem, convolution", "CTN.", "video_to_tokens", "conv")
STEM_POSITIONS = arm(
    "stem, linear, positions", "whether positions do what the convolutions of the mapping do.",
    "video_to_tokens", "linear", "learned", is_control=True,
)  # fmt: skip
TUBE_CONV_POSITIONS = arm("tube, convolution, positions", "CTN with tubelets.", "tube", "conv", "learned")
STEM_CONV_POSITIONS = arm(
    "stem, convolution, positions", "CTN with positions, as in Table 4.3.", "video_to_tokens", "conv", "learned"
)

_METRICS = (TOP1, Metric(name="shuffled", title="top-1 with frames in random order", measure=shuffled))
_WHERE = (
    "ctn_tiny (0.2 M parameters, 8 frames of 48 px) from scratch on 384 clips of Marionette's 12 coarse actions; "
    "tested on 156 clips of subjects and cameras that training never saw. Those with tubelets are trained for "
    "twice as many epochs, since they learn slowly. The paper's has 86 M parameters, starts from "
    "image weights, and is tested on fine-grained actions."
)

TOKENS = Claim(
    name="ctn.tokens",
    statement="Tokens of a small convolutional stem are better than tubelets of pixels.",
    source="Ma et al. 2024, §4.3.3 and Table 4.3, both with positions: EPIC-KITCHENS 43.9 → 44.5, Diving48 77.1 → 77.7",
    experiment=_WHERE + " Without positions, tubelets know neither place nor order, of which the stem's tokens learn "
    "something from its padding and its overlaps; the paper's baseline has them. The first comparison is that of Table "
    "4.3, both with convolutions in the mapping and with positions.",
    arms=(
        VIVIT, TUBE_LINEAR, TUBE_CONV, TUBE_CONV_POSITIONS,
        STEM_LINEAR, STEM_CONV, STEM_POSITIONS, STEM_CONV_POSITIONS,
    ),
    comparisons=(
        Comparison(better=STEM_CONV_POSITIONS.name, worse=TUBE_CONV_POSITIONS.name),
        Comparison(better=STEM_POSITIONS.name, worse=VIVIT.name),
        Comparison(better=STEM_CONV.name, worse=VIVIT.name),
        Comparison(better=STEM_CONV.name, worse=TUBE_CONV.name),
        Comparison(better=STEM_LINEAR.name, worse=TUBE_LINEAR.name),
    ),
    metrics=_METRICS,
    learn_more="the same from image weights, from which tubelets usually start, and on classes that differ in detail.",
    minutes=1.8,
)  # fmt: skip

MAPPING = Claim(
    name="ctn.mapping",
    statement="Queries, keys and values from depth-wise convolutions are better than from a linear layer.",
    source="Ma et al. 2024, §4.3.4 and Table 4.5: EPIC-KITCHENS 44.1 → 45.9, Diving48 77.3 → 78.2",
    experiment=_WHERE,
    arms=(TUBE_LINEAR, TUBE_CONV, STEM_LINEAR, STEM_CONV, STEM_POSITIONS),
    comparisons=(
        Comparison(better=STEM_CONV.name, worse=STEM_LINEAR.name),
        Comparison(better=TUBE_CONV.name, worse=TUBE_LINEAR.name),
        Comparison(better=STEM_CONV.name, worse=STEM_POSITIONS.name, kind="control"),
    ),
    metrics=_METRICS,
    learn_more="larger maps: of 6 × 6 tokens a 3 × 3 kernel sees a quarter.",
    minutes=1.8,
)

CLAIMS = (TOKENS, MAPPING)
