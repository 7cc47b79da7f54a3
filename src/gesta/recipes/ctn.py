"""CTN (Ma et al. 2024, "Convolutional transformer network for fine-grained action recognition"): runs, tables, costs.

Source of every value: §4.4 and Table 4.2 of Y. Ma's thesis. What the paper leaves out: weight
decay 0 and gradients of norm 1 at most, as in ViViT's public code; random squares at short sides of 256 to 320, the
central square of 256 in testing; jitter of brightness, contrast and saturation of 0.4 and of the hue of 0.1, in 80 % of
the clips; one frame per segment; one view.

The paper starts from ViViT's ImageNet weights, so from an image ViT. Nothing is downloaded here; without a file
training starts from scratch::

    gesta train ctn.diving48 --init.weights vit_base_patch16_224.augreg_in21k.safetensors

timm's ViTs are known by the names in their checkpoints, and so are the ``transformers`` ViTs and ViViTs.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from gesta.config import check_choice, replace
from gesta.datasets.diving48 import Diving48
from gesta.datasets.epic import EPICKitchens
from gesta.model import ClipSpec
from gesta.models.ctn import CTNConfig, ctn_b, ctn_tiny
from gesta.recipe import Augment, EvaluateConfig, Init, Recipe, TrainConfig
from gesta.recipes.miniatures import Miniature
from gesta.recipes.published import Run, Table, gmacs, params, row

Variant = Literal[
    "ctn", "ctn_a", "ctn_tube", "vivit", "stem_7_stride_4", "stem_5_stride_4", "stem_without_norm",
    "mapping_without_norm", "mapping_5", "mapping_5_without_norm",
]  # fmt: skip
Positions = Literal["none", "learned", "temporal"]
Schedule = Literal["paper", "vivit"]

_STRIDE_4: dict[str, Any] = {"stem_stride": 4, "stem_channels": 64, "stem_pool": False, "stem_norm": False}
CHANGES: dict[Variant, dict[str, Any]] = {
    "ctn": {},
    "ctn_a": {"mapping": "linear"},
    "ctn_tube": {"embed": "tube"},
    "vivit": {"embed": "tube", "mapping": "linear"},
    "stem_7_stride_4": _STRIDE_4,
    "stem_5_stride_4": _STRIDE_4 | {"stem_kernel": 5},
    "stem_without_norm": {"stem_norm": False},
    "mapping_without_norm": {"mapping_norm": False},
    "mapping_5": {"mapping_kernel": 5},
    "mapping_5_without_norm": {"mapping_kernel": 5, "mapping_norm": False},
}
"""What the rows of Tables 4.3 to 4.6 change; ``vivit`` is another named model, with CTN's clips and CTN's GELU, so that
its rows differ from CTN's in what they say."""

EPIC = {"verb": 97, "noun": 300}


def diving48(
    variant: Variant = "ctn", positions: Positions = "none", clips: int = 1, crops: Literal[1, 3] = 1
) -> Recipe:
    """CTN on Diving48, version 2 (Ma et al. 2024, Tables 4.3 to 4.7).   gesta train ctn.diving48

    Args:
        variant: a row of the ablations, see :data:`CHANGES`.
        positions: positional embedding.
        clips: per video in testing.
        crops: per clip in testing.
    """
    return Recipe(
        name="-".join(["diving48", *_name_parts(variant, positions, clips, crops)]),
        model=_model(variant, positions, 48),
        data=Diving48(),
        train=training(),
        evaluate=EvaluateConfig(split="test", clips=clips, crops=crops, short_videos="clamp"),
        init=Init(expected="ImageNet's, of a ViT-B/16"),
        paper="Ma et al. 2024, Tables 4.3 to 4.7",
    )


def epic_kitchens(
    variant: Variant = "ctn",
    positions: Positions = "none",
    clips: int = 1,
    crops: Literal[1, 3] = 1,
    schedule: Schedule = "paper",
) -> Recipe:
    """CTN on EPIC-KITCHENS-100, a verb and a noun per segment (Ma et al. 2024, Tables 4.3 to 4.7).

    gesta train ctn.epic_kitchens

    The published accuracy is ``action/top1`` of the result.

    Args:
        variant: a row of the ablations, see :data:`CHANGES`.
        positions: positional embedding.
        clips: per segment in testing.
        crops: per clip in testing.
        schedule: the paper's, or ViViT's own for this data set (Arnab et al. 2021, Table 7): batches of 64, 50 epochs,
            stochastic depth, label smoothing, MixUp and RandAugment. Its magnitude of 15 is on a scale of 10, so more
            than the 30 of 30 that torchvision's operations reach, which are taken.
    """
    check_choice("ctn.epic_kitchens: schedule", schedule, Schedule)
    recipe = Recipe(
        name="-".join(["epic_kitchens", *_name_parts(variant, positions, clips, crops)]),
        model=_model(variant, positions, EPIC),
        data=EPICKitchens(),
        train=training(),
        evaluate=EvaluateConfig(split="val", clips=clips, crops=crops, short_videos="clamp"),
        init=Init(expected="ImageNet's, of a ViT-B/16"),
        paper="Ma et al. 2024, Tables 4.3 to 4.7",
    )
    if schedule == "vivit":
        recipe.name += "-vivit_schedule"
        recipe.model.drop_path = 0.2
        recipe.train = replace(recipe.train, batch_size=64, lr=0.5, epochs=50, label_smoothing=0.2, mixup=0.1)
        recipe.train.augment.randaugment, recipe.train.augment.magnitude = 2, 30
    return recipe


def training() -> TrainConfig:
    """Table 4.2; 16 videos per step over all processes."""
    return TrainConfig(
        epochs=100, batch_size=16, optimizer="sgd", lr=0.005, momentum=0.9, weight_decay=0.0, clip_grad=1.0,
        schedule="cosine", warmup_epochs=2.5, warmup_lr=0.0, min_lr=0.0, validate_every=10, short_videos="clamp",
        augment=Augment(
            crop="jitter", short_side=(256, 320), flip=0.5, color_jitter=0.4, hue=0.1, jitter_probability=0.8
        ),
    )  # fmt: skip


def _model(variant: Variant, positions: Positions, classes: int | dict[str, int]) -> CTNConfig:
    check_choice("ctn: variant", variant, Variant)
    return replace(ctn_b(), classes=classes, positions=positions, **CHANGES[variant])


def _name_parts(variant: Variant, positions: Positions, clips: int, crops: int) -> list[str]:
    parts: list[str] = [variant]
    parts += [f"{positions}_positions"] * (positions != "none")
    return parts + [f"{clips}x{crops}"] * ((clips, crops) != (1, 1))


def _stem(large: CTNConfig, small: CTNConfig) -> None:
    """Kernels of 5 for 7 and 3 for 5, half as many channels."""
    small.stem_kernel, small.stem_channels = large.stem_kernel - 2, large.stem_channels // 2


MINIATURES = (
    Miniature(model=ctn_tiny, adapt=_stem, keep=(
        "embed", "stem_stride", "stem_pool", "stem_norm", "stem_relu",
        "mapping", "mapping_kernel", "mapping_norm", "mapping_dims", "mapping_start",
        "positions", "norm", "gelu",
    )),
)  # fmt: skip


# --- tables ----------------------------------------------------------------------------------------------------------


def _runs(variant: Variant, positions: Positions = "none") -> dict[str, Run]:
    """A row's accuracies are those of two runs."""
    return {"EK": partial(epic_kitchens, variant, positions), "D-48": partial(diving48, variant, positions)}


_ACCURACY = ("EK", "D-48")
_COST = ("EK", "D-48", "GMACs")
_VIEWS = "the paper's FLOPs are nearest to four views; ours are those of one view of 8 frames"

TABLE3 = Table(source="Ma et al. 2024, Table 4.3 (EPIC-KITCHENS-100 action top-1, Diving48 top-1)",
        columns=_COST, rows=(
    row(_COST, "ViViT-B, tubes, positions", (43.1, 77.1, 325), _runs("vivit", "learned"), _VIEWS),
    row(_COST, "ViViT-B, tubes", (42.0, 76.2, 318), _runs("vivit")),
    row(_COST, "CTN, tubes, positions", (43.9, 77.1, 353), _runs("ctn_tube", "learned")),
    row(_COST, "CTN, video-to-tokens, positions", (44.5, 77.7, 370), _runs("ctn", "learned")),
    row(_COST, "CTN, video-to-tokens", (45.9, 78.2, 358), _runs("ctn")),
))  # fmt: skip

TABLE4 = Table(source="Ma et al. 2024, Table 4.4 (video-to-tokens)", columns=_ACCURACY, rows=(
    row(_ACCURACY, "7 × 7 × 7, stride 4, 64 channels", (41.9, 75.6), _runs("stem_7_stride_4")),
    row(_ACCURACY, "5 × 5 × 5, stride 4, 64 channels", (41.6, 75.2), _runs("stem_5_stride_4")),
    row(_ACCURACY, "7 × 7 × 7, stride 2, max-pool, 32 channels", (43.6, 76.2), _runs("stem_without_norm")),
    row(_ACCURACY, "the same with batch norm", (45.9, 78.2), _runs("ctn")),
))  # fmt: skip

TABLE5 = Table(source="Ma et al. 2024, Table 4.5 (mapping)", columns=_ACCURACY, rows=(
    row(_ACCURACY, "CTN-a, linear", (44.1, 77.3), _runs("ctn_a"),
        note="the text has 43.1 and 75.8, which Table 4.6 has without norm"),
    row(_ACCURACY, "CTN-b, convolutional", (45.9, 78.2), _runs("ctn")),
))  # fmt: skip

TABLE6 = Table(source="Ma et al. 2024, Table 4.6 (kernel and batch norm of the mapping)", columns=_ACCURACY, rows=(
    row(_ACCURACY, "3 × 3", (43.1, 75.8), _runs("mapping_without_norm")),
    row(_ACCURACY, "3 × 3, batch norm", (45.9, 78.2), _runs("ctn")),
    row(_ACCURACY, "5 × 5", (43.6, 76.1), _runs("mapping_5_without_norm")),
    row(_ACCURACY, "5 × 5, batch norm", (45.6, 77.7), _runs("mapping_5")),
))  # fmt: skip

_PARAMS = ("EK", "D-48", "params")

TABLE7 = Table(source="Ma et al. 2024, Table 4.7 (state of the art)", columns=_PARAMS, rows=(
    row(_PARAMS, "I3D, K-400, 8 frames", (None, 48.3, 28)),
    row(_PARAMS, "TSN, RGB and flow, ImageNet, 3 frames", (33.2, 52.5)),
    row(_PARAMS, "TRN multi-scale, RGB and flow, ImageNet, 3 frames", (35.3, 54.4)),
    row(_PARAMS, "TSM, ImageNet, 3 frames", (38.3, 51.1, 24.3)),
    row(_PARAMS, "GSM, ImageNet, 8 frames", (33.45, 40.27)),
    row(_PARAMS, "SlowFast, K-400, 8 frames", (38.5, 77.6, 34.6)),
    row(_PARAMS, "GSF, ImageNet, 16 frames", (44.48, 75.31)),
    row(_PARAMS, "X-ViT, ImageNet, 8 frames", (41.5, None)),
    row(_PARAMS, "TimeSformer, ImageNet, 8 frames", (42.5, 74.9, 121.4)),
    row(_PARAMS, "ViViT-B, ImageNet, 16 frames", (43.1, 77.1, 88.9)),
    row(_PARAMS, "Mformer, K-400, 16 frames", (44.5, None, 109.1)),
    row(_PARAMS, "CTN, ImageNet, 8 frames", (45.9, 78.2, 88.6), _runs("ctn"),
        note="88.6 M are with ViViT's table of 3,137 positions, which CTN leaves out; ours is the model for EK"),
))  # fmt: skip

TABLES = {"table3": TABLE3, "table4": TABLE4, "table5": TABLE5, "table6": TABLE6, "table7": TABLE7}


# --- published cost figures, for the fidelity ledger -----------------------------------------------------------------

SOURCE = (
    "Y. Ma, R. Wang, M. Zong, W. Ji, Y. Wang, B. Ye: Convolutional transformer network for fine-grained action "
    "recognition, Neurocomputing 569 (127027), 2024; numbered as in chapter 4 of Y. Ma's thesis. Clips of 8 frames of "
    "224 × 224 and 48 classes where nothing else is said. No reading gives the column of FLOPs; the nearest is four "
    "views of 8 frames."
)
SUMMARY = (
    "CTN's parameters are met with ViViT's table of positions only; no reading gives the FLOPs, four views come nearest"
)


def _dives(variant: Variant = "ctn", positions: Positions = "none") -> CTNConfig:
    return _model(variant, positions, 48)


_LONG = ClipSpec(frames=32, size=224)
_ADDED = "adding a vector to every token is no multiplication: the paper's 7 to 12 G for it are not its cost"
_TOO_MUCH = "depth-wise convolutions of 785 tokens cost 0.2 G per view, where the paper's rows differ by 28"

FIGURES = (
    TABLE7.figure("ViViT-B, ImageNet, 16 frames", "params", "ViViT-B, parameters",
        params(partial(_dives, "vivit", "learned"), clip=_LONG, classes=400),
        "88.954, cut off; the public model of 32 frames and 400 classes, though the row says 16 frames"),
    TABLE7.figure("CTN, ImageNet, 8 frames", "params", "CTN, parameters", params(_dives),
        "as described: without positions, which the paper says can go"),
    TABLE7.figure("CTN, ImageNet, 8 frames", "params", "CTN with ViViT's table of positions, parameters",
        params(partial(_dives, positions="learned"), clip=_LONG),
        "3,137 vectors, for 32 frames: the only reading that gives it"),
    TABLE7.figure("CTN, ImageNet, 8 frames", "params", "CTN with positions of its own 8 frames, parameters",
        params(partial(_dives, positions="learned")), "785 vectors: so not these"),
    TABLE3.figure("ViViT-B, tubes", "GMACs", "ViViT-B, no positions, FLOPs, four views",
        gmacs(partial(_dives, "vivit"), views=4), "0.6 % off"),
    TABLE3.figure("ViViT-B, tubes, positions", "GMACs", "ViViT-B, positions, FLOPs, four views",
        gmacs(partial(_dives, "vivit", "learned"), views=4), _ADDED),
    TABLE3.figure("CTN, tubes, positions", "GMACs", "CTN, tubes, positions, FLOPs, four views",
        gmacs(partial(_dives, "ctn_tube", "learned"), views=4), _TOO_MUCH),
    TABLE3.figure("CTN, video-to-tokens, positions", "GMACs", "CTN, positions, FLOPs, four views",
        gmacs(partial(_dives, "ctn", "learned"), views=4), _ADDED),
    TABLE3.figure("CTN, video-to-tokens", "GMACs", "CTN, FLOPs, four views", gmacs(_dives, views=4), _TOO_MUCH),
    TABLE3.figure("CTN, video-to-tokens", "GMACs", "the same, one view", gmacs(_dives),
        "what `gesta cost ctn_b` counts"),
    TABLE3.figure("CTN, video-to-tokens", "GMACs", "the same with the printed strides of 2 in time, one view",
        gmacs(_dives, time_strides=(2, 2)),
        "196 tokens, a quarter of ViViT's cost, where the paper's CTN costs more than ViViT: so the stem keeps time"),
)  # fmt: skip

DECISIONS = (
    ("C1", "strides of 2 in time for convolution and pooling (Table 4.1, Eq. 4.5, T/2 in Eq. 4.7), but FLOPs above "
     "ViViT's, and Eq. 4.8 leaves T whole", "strides of 1 in time; `time_strides=(2, 2)` is the text"),
    ("C2", "layer norms after the branches (Eqs. 4.1, 4.2), but ViViT's weights, which need them before",
     "before, so that the weights fit; `ctn_b_eq` is the equations"),
    ("C3", "88.6 M parameters with a table of positions that the paper takes out", "both counted"),
    ("C4", "the column of FLOPs cannot be reproduced", "multiply-adds of one view; four views come nearest"),
    ("C5", "Eq. 4.7 leaves out the 3 colours and counts 2 per multiply-add, Eq. 4.8 takes cubic patches, the total has "
     "a C too many; tokens at 1.1 times ViViT's cost",
     "counted: 3.92 G for 0.92 G, 4.2 times, which is 1.04 times the whole model"),
    ("C6", "§4.4.3 quotes 43.1 and 75.8 for Table 4.5, which has 44.1 and 77.3", "the table"),
    ("C7", "seven of the nine gains of §4.4.4 on EPIC-KITCHENS are those of 43.9 %, GSF's (1.5) and Mformer's (1.4) "
     "those of the table's 45.9 %",
     "45.9 is the target; 43.9 is also CTN with tubes in Table 4.3"),
    ("C8", 'text says "Table 2.1" and "Table 2.5"', "4.2 and 4.5"),
    ("C9", "attention divided by √C (Eq. 4.3)", "C of a head, as in ViT, whose weights are used"),
    ("C10", "costs of 1 × 1 convolutions and linear layers lack a factor C (§4.3.5)", "no consequence"),
    ("C11", '"16162"', "tubes of 16 × 16 × 2"),
    ("C12", "8 frames for CTN, 16 for ViViT-B, whose parameters are those of 32; the FLOPs' clip is not said",
     "8 frames in all of our rows but the one of parameters"),
    ("C13", "GELU (Eq. 4.4), exact or not; ViViT's public code approximates it with tanh",
     'the exact one in all rows, ViViT\'s too, which would differ in it else; `--model.gelu tanh` as in `vivit_b`'),
)  # fmt: skip
"""Errors and gaps of the paper, and what gesta does."""
