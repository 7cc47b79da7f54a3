"""ST-MANet (Wang 2024, "Spatio-temporal-based multi-level aggregation network"): runs, Tables 3 and 4, Figs. 4 to 6.

Source of every value: §4.1 of the paper. What it leaves out: weight decay 1e-3
from scratch and 1e-5 from weights (K. Hara's code), for all parameters; gradients as they are; Kinetics' mean and
deviation; softmax averaged over the clips of a video. Videos shorter than 64 frames are played again.

The paper says "Kaiming initialization" only. 83 % of UCF-101 for a 3-D ResNet-50 from scratch is far beyond what its
authors report, so weights learnt elsewhere are likely; Hara's load as they are::

    gesta train st_manet.ucf101 --init.weights r3d50_K_200ep.pth --train.weight-decay 1e-5

Fig. 4 shows what single stages give (``stage``), Fig. 5 the weights of the losses and the learning rate; their numbers
are not printed.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from gesta.config import check_choice, replace
from gesta.cost import count
from gesta.datasets.diving48 import Diving48
from gesta.datasets.hmdb51 import HMDB51
from gesta.datasets.ucf101 import UCF101
from gesta.models.r3d import r3d_tiny
from gesta.models.st_manet import st_manet_50, st_manet_tiny
from gesta.recipe import Augment, EvaluateConfig, Recipe, TrainConfig
from gesta.recipes.miniatures import Miniature
from gesta.recipes.published import Figure, Row, Run, Table, row

Variant = Literal["full", "resnet", "tda", "sda", "tda_sda", "mf"]

CHANGES: dict[Variant, dict[str, Any]] = {
    "full": {},
    "resnet": {"tda": False, "sda": False, "mf": False},
    "tda": {"sda": False, "mf": False},
    "sda": {"tda": False, "mf": False},
    "tda_sda": {"mf": False},
    "mf": {"tda": False, "sda": False},
}
"""What the rows of Table 4 change."""

LAMBDAS = (0.0, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
RATES = (0.1, 0.05, 0.01, 0.005, 0.001, 0.0005)
"""Values of Fig. 5; those of the learning rate are not printed, these are ours."""


def ucf101(
    variant: Variant = "full",
    split: int = 1,
    stage: Literal[2, 3, 4, 5] | None = None,
    lambda1: float = 0.01,
    lambda2: float = 0.001,
    lr: float = 0.01,
) -> Recipe:
    """ST-MANet on UCF-101 (Wang 2024, Tables 3 and 4).   gesta train st_manet.ucf101

    Args:
        variant: a row of Table 4, see :data:`CHANGES`.
        split: official split; the paper does not say which it used.
        stage: the classifier sees this stage only (Fig. 4).
        lambda1: weight of the spatial loss (Fig. 5).
        lambda2: weight of the temporal loss (Fig. 5).
        lr: learning rate at first (Fig. 5).
    """
    check_choice("st_manet: variant", variant, Variant)
    model = replace(st_manet_50(), classes=101, lambda1=lambda1, lambda2=lambda2, **CHANGES[variant])
    name_parts = ["st_manet-ucf101", variant, f"split{split}"]
    if stage is not None:
        model.head_stages = (stage,)
        name_parts.append(f"stage{stage}")
    name_parts += [f"lambda1_{lambda1:g}"] * (lambda1 != 0.01) + [f"lambda2_{lambda2:g}"] * (lambda2 != 0.001)
    name_parts += [f"lr_{lr:g}"] * (lr != 0.01)
    return Recipe(
        name="-".join(name_parts),
        model=model,
        data=UCF101(split=split),
        train=training(lr),
        evaluate=testing(),
        paper="Wang 2024, Tables 3 and 4, Figs. 4 to 6",
    )


def hmdb51(
    variant: Variant = "full",
    split: int = 1,
    stage: Literal[2, 3, 4, 5] | None = None,
    lambda1: float = 0.01,
    lambda2: float = 0.001,
    lr: float = 0.01,
) -> Recipe:
    """ST-MANet on HMDB-51 (Wang 2024, Table 3); arguments as of :func:`ucf101`.   gesta train st_manet.hmdb51"""
    recipe = ucf101(variant, split, stage, lambda1, lambda2, lr)
    recipe.name = recipe.name.replace("ucf101", "hmdb51")
    recipe.model.classes, recipe.data = 51, HMDB51(split=split)
    return recipe


def diving48(
    variant: Variant = "full",
    version: int = 1,
    stage: Literal[2, 3, 4, 5] | None = None,
    lambda1: float = 0.01,
    lambda2: float = 0.001,
    lr: float = 0.01,
) -> Recipe:
    """ST-MANet on Diving48 (Wang 2024, Table 3); other arguments as of :func:`ucf101`.   gesta train st_manet.diving48

    Args:
        version: of the lists; the paper's 18,404 videos are those of version 1, version 2 has 16,997.
    """
    recipe = ucf101(variant, 1, stage, lambda1, lambda2, lr)
    recipe.name = recipe.name.replace("ucf101", "diving48").replace("split1", f"v{version}")
    recipe.model.classes, recipe.data = 48, Diving48(version=version)
    return recipe


def training(lr: float = 0.01) -> TrainConfig:
    """§4.1: 90 epochs of SGD, a tenth of the learning rate every 15; 64 frames, every second of them."""
    return TrainConfig(
        epochs=90, batch_size=32, optimizer="sgd", lr=lr, momentum=0.9, weight_decay=1e-3, decay_biases=True,
        schedule="steps", milestones=(15, 30, 45, 60, 75), gamma=0.1, clip_grad=None, validate_every=15,
        augment=Augment(crop="short_side", scale=(0.5, 1.0), flip=0.5),
    )  # fmt: skip


def testing() -> EvaluateConfig:
    """§4.1: the whole video in pieces of 64 frames, the last one ending with it; the largest central square."""
    return EvaluateConfig(coverage="contiguous", crops=1, short_side=224)


MINIATURES = (
    Miniature(model=st_manet_tiny, keep=(
        "tda", "sda", "mf", "tda_stages", "sda_stages", "head_stages",
        "second_softmax", "attention_scale", "attn_out_norm",
        "tda_embed", "tda_value", "tda_out", "tda_branch_norm", "tda_first", "tda_final",
        "sda_qk_reduction", "sda_v_reduction", "stage_sum", "fusion_pool",
        "diversity", "lambda1", "lambda2", "pairs",
    ), lr=0.01),
    Miniature(model=r3d_tiny),
)  # fmt: skip


# --- tables ----------------------------------------------------------------------------------------------------------

DATASETS = ("UCF101", "HMDB51", "Diving48")
OURS = {"UCF101": 96.05, "HMDB51": 68.72, "Diving48": 72.15}


def _runs(**changes: Any) -> dict[str, Run]:
    """The same run on the three data sets."""
    return {column: partial(make, **changes) for column, make in zip(DATASETS, (ucf101, hmdb51, diving48))}


_row = partial(row, DATASETS)

TABLE3 = Table(source="Wang 2024, Table 3 (accuracy)", columns=DATASETS, rows=(
    _row("TCNet", (82.00, 59.40, 52.22)),
    _row("LFSNet", (85.80, 54.92, 56.45)),
    _row("TSNet", (86.40, 58.81, 59.87)),
    _row("LTNet", (92.70, 67.20, 67.19)),
    _row("MRNet", (84.40, 59.00, 59.04)),
    _row("RMRNet", (94.18, 62.75, 66.68)),
    _row("MVTNet", (90.40, 54.60, 60.48)),
    _row("A3DNet", (92.60, 61.26, 65.21)),
    Row(label="ST-MANet", published=OURS, recipes=_runs(), note="splits and start of the paper are unknown"),
))  # fmt: skip


def _step(label: str, published: float, variant: Variant) -> Row:
    return Row(label=label, published={"UCF101": published}, recipes={"UCF101": partial(ucf101, variant)})


TABLE4 = Table(source="Wang 2024, Table 4 (UCF-101)", columns=("UCF101", "params", "GMACs"), rows=(
    _step("3-D ResNet-50", 83.17, "resnet"),
    _step("+ TDA", 89.45, "tda"),
    _step("+ SDA", 90.12, "sda"),
    _step("+ TDA + SDA", 92.78, "tda_sda"),
    _step("+ MF", 84.16, "mf"),
    _step("+ TDA + SDA + MF", 96.05, "full"),
))  # fmt: skip

FIGURE4 = Table(
    source="Wang 2024, Fig. 4 (the classifier sees one stage, or all; the bars have no numbers)",
    columns=DATASETS,
    rows=(
        *(Row(label=f"stage {stage}", published={}, recipes=_runs(stage=stage)) for stage in (2, 3, 4, 5)),
        Row(label="all, fused", published=OURS, recipes=_runs()),
    ),
)

FIGURE5 = Table(
    source="Wang 2024, Fig. 5 (weights of the losses and learning rate; the curves have no numbers)",
    columns=DATASETS,
    rows=tuple(
        Row(label=f"{label} = {value:g}", published=OURS if value == usual else {}, recipes=_runs(**{field: value}))
        for label, field, values, usual in (
            ("λ1", "lambda1", LAMBDAS, 0.01),
            ("λ2", "lambda2", LAMBDAS, 0.001),
            ("learning rate", "lr", RATES, 0.01),
        )
        for value in values
    ),
)

FIGURE6 = Table(
    source="Wang 2024, Fig. 6 (cost and accuracy; the text says 24 % more FLOPs)",
    columns=(*DATASETS, "params", "GMACs"),
    rows=(
        Row(label="3-D ResNet-50", published={"UCF101": 83.17}, recipes=_runs(variant="resnet")),
        Row(label="ST-MANet", published=OURS, recipes=_runs()),
    ),
)

TABLES = {"table3": TABLE3, "table4": TABLE4, "figure4": FIGURE4, "figure5": FIGURE5, "figure6": FIGURE6}


# --- published cost figures, for the fidelity ledger -----------------------------------------------------------------

SOURCE = (
    "Y. Wang: Spatio-temporal-based multi-level aggregation network for physical action recognition, Computer Science "
    "and Information Systems 21(4), 2024. One number of cost is printed, 24 % more FLOPs than 3-D ResNet-50; ours are "
    "for 32 frames of 112 × 112 and 101 classes."
)
SUMMARY = (
    "the one printed number, 24 % more FLOPs than the trunk, is met by Eq. 2 as printed; SDA's channels are chosen "
    "for that, and the printed second softmax is left out"
)


def more_work(**changes: Any) -> float:
    """By how many percent ST-MANet's multiply-adds exceed those of its trunk."""
    ours, trunk = (
        count(replace(st_manet_50(), classes=101, **c), style="fvcore").macs for c in (changes, CHANGES["resnet"])
    )
    return 100 * (ours / trunk - 1)


FIGURES = (
    Figure("ST-MANet over 3-D ResNet-50, FLOPs", "§4.5", "24", "%", more_work,
        "Eq. 2 as printed, ε a convolution and then pooling (M4, M5); SDA's channels are reduced by 8 and 4 so that it "
        "is met (M8); 59.2 M parameters for 46.4 M"),
    Figure("the same, the branch aggregates Z̄", "§4.5", "24", "%", partial(more_work, tda_value="concat"),
        "so it aggregates Z_TDA (M4)"),
    Figure("TDA alone, the branch aggregates Z̄", "§4.5", "24", "%", partial(more_work, tda_value="concat",
        **CHANGES["tda"]), "so with Z̄ no SDA could meet it"),
    Figure("the same, SDA only reshapes as in §3.3", "§4.5", "24", "%",
        partial(more_work, sda_qk_reduction=None, sda_v_reduction=None), "so it has fewer channels (M8)"),
    Figure("the same, ε' a dense convolution", "§4.5", "24", "%", partial(more_work, tda_out="dense"),
        "so it is depth-wise (M6)"),
)  # fmt: skip

DECISIONS = (
    ("M1", "the 3-D ResNet-50 is not named", "Hara's: the only common one with the printed strides and expansion"),
    ("M2", "kernels of φ and ω are 3 × 1 × 1, dense ones would double the cost", "depth-wise; `tda_embed`"),
    ("M3", "no division by √D, though D is 301,056 in stage 2: logits of 10⁵ and no gradient",
     'divided; `attention_scale="none"` is the text'),
    ("M4", "τ takes Z_TDA in Eq. 2 and its sentence, but Z̄ by the printed shapes of τ and ε",
     'Z_TDA: with Z̄, TDA alone costs more than the printed 24 %; `tda_value="concat"` is the shapes'),
    ("M5", "ε, a convolution and pooling, has to give C channels", "it does, before the average pooling of 2 × 2 × 2, "
     "and is counted so, though pooling comes first where that gives the same numbers; `tda_branch_norm`"),
    ("M6", "the kernel of ε'", "depth-wise; `tda_out`"),
    ("M7", "a second softmax, of the product, without an axis (Eqs. 2, 3, 5); no norm behind ε' and π",
     "a departure: no second softmax, and a batch norm that starts at zero. Over positions each channel of the product "
     "sums to 1, so a classifier of means (M12) sees SDA of stage 5 as a constant: 2.1 M parameters are moved by the "
     "diversity loss only, which drives the attention to one place. `st_manet_50_eq` is that reading; "
     '`second_softmax="feature"` is that over the features, with values so small that little is added'),
    ("M8", "α, β, η, π are reshapings, which leaves SDA nothing to learn and exceeds the printed cost",
     "1 × 1 × 1 convolutions to C/8, C/8, C/4 and back; `sda_qk_reduction`, `sda_v_reduction` (None: the text)"),
    ("M9", "stage 2 has no branch before it", "a convolution of the stem's map; `tda_first`"),
    ("M10", "the branch of stage 5 has no place in Eq. 8", "added to the map of stage 5; `tda_final`"),
    ("M11", "the final output of a stage is a sum of maps, and Z_t contains Z already",
     'summed as printed, 2 Z + …; `stage_sum="single"`'),
    ("M12", "maps are fused at a common size that is not said", "their means; `fusion_pool`"),
    ("M13", "matrices are down-sampled to stage 5's size", "by means over the grid; flat 784 × 784 would mix its rows"),
    ("M14", "pairs i ≠ j of Eq. 7 count every pair twice", "12 cosines; `pairs`"),
    ("M15", '"Kaiming initialization" would saturate SDA and make TDA uniform',
     "φ, ω ~ N(0, 0.15²); α, β ~ N(0, 0.25 / C), which leaves both between; the others by fan-in"),
    ("M16", '"element-wise" products with A', "matrix products: nothing else fits the shapes"),
    ("M17", "of 16 frames one is left in stage 5: the temporal loss is a constant", "left out, with a warning"),
    ("M18", "83 % of UCF-101 for the trunk, from scratch",
     "from scratch as printed; Hara's Kinetics weights load with `--init.weights`"),
    ("M19", '"Table 5" of §4.4 and "Table 6" of §4.5', "Figs. 4 and 6"),
    ("M20", "two equations are numbered (4)", "the second is 5"),
    ("M21", "losses with or without fusion", 'with it only, as §3.4 presents them; `diversity="always"`'),
    ("M22", "Diving48 of 18,404 videos", "version 1; `version=2` has 16,997"),
    ("M23", "6,849 videos of HMDB-51", "the official splits use 5,100 of them"),
    ("M24", "channels double from stage to stage, but 64 become 256", "as in every ResNet of bottlenecks"),
    ("M25", "a random crop with sides of half to all of the shorter side: one draw or two",
     "one, so it is a square; `--train.augment.independent-sides True`"),
    ("M26", '"few-shot" data sets; systems of Table 3 whose names do not match their citations', "no consequence"),
)  # fmt: skip
"""Errors and gaps of the paper, and what gesta does."""
