"""RPE-STDT (Ma & Wang 2024; chapter 3 of Y. Ma's thesis): runs, Tables 3.1 to 3.6, published costs.

The spatial encoder starts from ViT-B/16's ImageNet weights, the temporal one from scratch. Nothing is downloaded here;
without a file training starts from scratch::

    gesta train rpe_stdt.ucf101 --init.weights vit_base_patch16_224.augreg_in21k_ft_in1k.safetensors

The paper does not say whether they are of ImageNet-1K or 21K; timm's file above is our choice, and pixels are
normalised as it expects. iRPE's public ``deit_base_patch16_224_ctx_product_50_shared_k`` fits, too, and brings
tables of relative positions (``--model.absolute frame`` to use its position embeddings as well, with its mean
and deviation of pixels).

What the paper leaves out: learning rate 0.005 for 16 clips (that of the thesis's CTN; scale it with the batch), warm-up
over 2.5 epochs and gradients of norm 1 at most (ViViT, which it cites for its schedule), no weight decay, test frames
of short side 256. "Frame intervals of 32" for 16 frames would be 512 frames, the clips have 160: a frame of each of 16
equal segments is taken; ``sampling="stride32"`` has frames 32 apart, or as far as the video allows. Numbers with ± are
of three of our runs, ``--train.seed 0`` to ``2``.

Fig. 3.4 is the same run under ``--model.ratio`` 0.5, 1, 1.9, 2, 2.5 and 3.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from gesta.config import check_choice, replace
from gesta.cost import count
from gesta.datasets.diving48 import Diving48
from gesta.datasets.hmdb51 import HMDB51
from gesta.datasets.ucf101 import UCF101
from gesta.layers.rpe import Bucket
from gesta.models.rpe_stdt import RPESTDTConfig, rpe_stdt_b8, rpe_stdt_b12, rpe_stdt_tiny, stdt, stdt_topk, vit_spatial
from gesta.recipe import Augment, EvaluateConfig, Init, Recipe, TrainConfig
from gesta.recipes.miniatures import Miniature
from gesta.recipes.published import Run, Table, params, row

Variant = Literal["rpe_stdt", "rpe_stdt_b8", "stdt_topk", "stdt", "vit_spatial"]
Subsample = Literal["topk", "max", "avg", "conv1d", "none"]
Sampling = Literal["uniform", "stride32"]

VARIANTS: dict[Variant, Callable[[], RPESTDTConfig]] = {
    "rpe_stdt": rpe_stdt_b12,
    "rpe_stdt_b8": rpe_stdt_b8,
    "stdt_topk": stdt_topk,
    "stdt": stdt,
    "vit_spatial": vit_spatial,
}


def training() -> TrainConfig:
    """Optimisation and augmentation (§3.4.2)."""
    return TrainConfig(
        epochs=100, batch_size=16, optimizer="sgd", lr=0.005, momentum=0.9, weight_decay=0.0, clip_grad=1.0,
        schedule="cosine", warmup_epochs=2.5, warmup_lr=0.0, min_lr=0.0, validate_every=0,
        augment=Augment(crop="jitter", short_side=(256, 320), flip=0.5),
    )  # fmt: skip


def testing() -> EvaluateConfig:
    """One clip, the centre (§3.4.2)."""
    return EvaluateConfig(split="test", clips=1, crops=1, short_side=256)


def ucf101(
    variant: Variant = "rpe_stdt",
    shared: bool = True,
    bucket: Bucket = "sectioned",
    subsample: Subsample | None = None,
    layers: tuple[int, ...] = (1, 3),
    split: int = 1,
    sampling: Sampling = "uniform",
) -> Recipe:
    """RPE-STDT on UCF-101 (Ma & Wang 2024, Tables 3.1 to 3.6).   gesta train rpe_stdt.ucf101

    Args:
        variant: the model or one of the paper's baselines; ``stdt_topk`` is the one with absolute positions.
        shared: one table of relative positions for all heads.
        bucket: sectioned or clipped distances.
        subsample: how frames are halved; None for the variant's default.
        layers: temporal layers that halve them.
        split: official split.
        sampling: ``uniform``, one frame of each of 16 equal segments, or ``stride32``, as the paper writes: frames 32
            apart, in a video of n < 512 frames ⌊n / 16⌋, and one of n < 16 is played again.
    """
    check_choice("rpe_stdt: variant", variant, Variant)
    check_choice("rpe_stdt: sampling", sampling, Sampling)
    model = replace(VARIANTS[variant](), classes=101, shared=shared, bucket=bucket, subsample_layers=layers)
    if subsample is not None:
        model.subsample = subsample
    if sampling == "stride32":
        model.clip = replace(model.clip, sampling="dense", stride=32, shrink=True)
    name_parts = [variant, "ucf101"] + ["unshared"] * (not shared) + [bucket] * (bucket != "sectioned")
    name_parts += [subsample] if subsample not in (None, VARIANTS[variant]().subsample) else []
    name_parts += ["at" + "_".join(map(str, layers))] if layers != (1, 3) else []
    name_parts += [sampling] * (sampling != "uniform")
    return Recipe(
        name="-".join([*name_parts, f"split{split}"]),
        model=model,
        data=UCF101(split=split),
        train=training(),
        evaluate=testing(),
        init=Init(expected="ImageNet's, of a ViT-B/16"),
        paper="Ma & Wang 2024, Tables 3.1 to 3.6",
    )


def hmdb51(
    variant: Variant = "rpe_stdt",
    shared: bool = True,
    bucket: Bucket = "sectioned",
    subsample: Subsample | None = None,
    layers: tuple[int, ...] = (1, 3),
    split: int = 1,
    sampling: Sampling = "uniform",
) -> Recipe:
    """RPE-STDT on HMDB-51 (Ma & Wang 2024, Tables 3.1 to 3.4, 3.6).   gesta train rpe_stdt.hmdb51

    See :func:`ucf101` for the arguments.
    """
    recipe = ucf101(variant, shared, bucket, subsample, layers, split, sampling)
    recipe.name = recipe.name.replace("ucf101", "hmdb51")
    recipe.model.classes, recipe.data = 51, HMDB51(split=split)
    return recipe


def diving48(
    variant: Variant = "rpe_stdt",
    shared: bool = True,
    bucket: Bucket = "sectioned",
    subsample: Subsample | None = None,
    layers: tuple[int, ...] = (1, 3),
    sampling: Sampling = "uniform",
) -> Recipe:
    """RPE-STDT on Diving48, version 2 (Ma & Wang 2024, Tables 3.1, 3.3, 3.4, 3.6).   gesta train rpe_stdt.diving48

    See :func:`ucf101` for the arguments.
    """
    recipe = ucf101(variant, shared, bucket, subsample, layers, sampling=sampling)
    recipe.name = recipe.name.replace("ucf101", "diving48").removesuffix("-split1")
    recipe.model.classes, recipe.data = 48, Diving48()
    return recipe


MINIATURES = (
    Miniature(model=rpe_stdt_tiny, keep=(
        "relative", "absolute", "bucket", "method", "ratio", "shared", "rpe_on",
        "temporal_depth", "temporal_qkv_bias", "temporal_pos",
        "subsample", "subsample_layers", "subsample_mode",
        "topk_score", "topk_terms", "topk_again", "topk_per_head",
    ), start="a spatial encoder trained alone by rpe_stdt.ucf101 --variant vit_spatial --data marionette; also say "
        "--init.min-matched 0.4; from nothing it stays near chance"),
)  # fmt: skip


# --- tables ----------------------------------------------------------------------------------------------------------

SETS: dict[str, Run] = {"UCF101": ucf101, "HMDB51": hmdb51, "Diving48": diving48}


def _runs(**arguments: Any) -> dict[str, Run]:
    """The same run on the three data sets."""
    return {column: partial(run, **arguments) for column, run in SETS.items()}


_UNSHARED = (
    "the paper declares the shared tables its final model, but its headline numbers are the unshared ones', rounded"
)
_FULL = "the paper counts no products of queries, keys and values; ours here does (see gesta ledger)"

_COST = ("params", *SETS)
_all_sets = partial(row, _COST)

TABLE1 = Table(source="Ma & Wang 2024, Table 3.1", columns=_COST, rows=(
    _all_sets("Absolute positions", (100.7, 96.26, 78.08, 79.82), _runs(variant="stdt_topk"),
        "± 0.08, 0.04, 0.04; Table 3.5 has 97.0 for the same run on UCF-101"),
    _all_sets("Shared RPE", (97.06, 97.53, 79.12, 81.60), _runs(), "± 0.05, 0.04, 0.04"),
    _all_sets("Unshared RPE", (97.26, 97.61, 79.25, 81.82), _runs(shared=False), f"± 0.12, 0.16, 0.08; {_UNSHARED}"),
))  # fmt: skip

_UCF_AND_HMDB = ("HMDB51", "UCF101")

TABLE2 = Table(source="Ma & Wang 2024, Table 3.2", columns=_UCF_AND_HMDB, rows=(
    row(_UCF_AND_HMDB, "Clip, shared", (78.6, 97.2), _runs(bucket="clip")),
    row(_UCF_AND_HMDB, "Sectioned, shared", (79.3, 97.7), _runs(), "Table 3.1 has 79.12 and 97.53 for the same"),
))  # fmt: skip

_GMACS = ("GMACs", "HMDB51", "UCF101", "Diving48")

TABLE3 = Table(source="Ma & Wang 2024, Table 3.3 (16 frames)", columns=_GMACS, rows=(
    row(_GMACS, "ViT (spatial attention)", (269, 75.6, 95.5, 78.5), _runs(variant="vit_spatial"), _FULL),
    row(_GMACS, "RPE-STDT", (273, 79.3, 97.6, 81.8), _runs(), f"more, not fewer FLOPs; {_FULL}"),
))  # fmt: skip

_ACCURACY = ("HMDB51", "UCF101", "Diving48")

TABLE4 = Table(source="Ma & Wang 2024, Table 3.4", columns=_ACCURACY, rows=(
    row(_ACCURACY, "Temporal max-pooling", (76.2, 96.1, 78.3), _runs(subsample="max")),
    row(_ACCURACY, "Temporal average-pooling", (76.3, 96.3, 78.8), _runs(subsample="avg")),
    row(_ACCURACY, "1D temporal convolution", (78.6, 96.6, 79.0), _runs(subsample="conv1d")),
    row(_ACCURACY, "Top-K [layer 0, 2]", (78.6, 96.5, 79.7), _runs(layers=(0, 2))),
    row(_ACCURACY, "Top-K [layer 1, 3]", (79.3, 97.6, 81.8), _runs(),
        "layer 3 is the last one, of which only the class token is read: the same as [layer 1]"),
))  # fmt: skip

_PARAMS = ("params", "UCF101")

TABLE5 = Table(source="Ma & Wang 2024, Table 3.5", columns=_PARAMS, rows=(
    row(_PARAMS, "Baseline STDT", (88.9, 96.5), _runs(variant="stdt")),
    row(_PARAMS, "Baseline STDT + Top-K", (82.7, 97.0), _runs(variant="stdt_topk"),
        "dropping frames has no parameters and frees none; Table 3.1 has 96.26 for the same run"),
))  # fmt: skip

TABLE6 = Table(source="Ma & Wang 2024, Table 3.6", columns=_COST, rows=(
    _all_sets("I3D, Kinetics-400, RGB, 64 frames", (25, 93.4, 66.4)),
    _all_sets("Two-stream fusion, ImageNet, RGB + flow, 8 frames", (None, 93.5, 69.2)),
    _all_sets("TSN, ImageNet, RGB + flow, 3 frames", (None, 94.2, 69.4, 52.5)),
    _all_sets("TRNms, ImageNet, RGB + flow, 3 frames", (None, None, None, 54.4)),
    _all_sets("Asymmetric 3D-CNN, FCVID, RGB + flow, 16 frames", (57.82, 92.6, 65.4)),
    _all_sets("TSM, ImageNet, RGB + flow, 3 frames", (24.3, 94.3, None, 51.1)),
    _all_sets("TesNet, ImageNet, RGB + flow, 10 frames", (None, 95.2, 71.5)),
    _all_sets("STDA-ResNeXt, ImageNet, RGB + flow", (16, 95.1, 74.1)),
    _all_sets("SGM, Sport1M, RGB, 16 frames", (30, 90.5, 60.2)),
    _all_sets("TimeSformer, ImageNet, RGB, 8 frames", (121.4, None, None, 74.9)),
    _all_sets("VidTr-M, ImageNet, RGB, 16 frames", (None, 96.6, 74.4)),
    _all_sets("MM-ViT, ImageNet, RGB, 16 frames", (158.9, 95.9)),
    _all_sets("ViViT-B, ImageNet, RGB, 16 frames", (88.9, None, None, 77.1)),
    _all_sets("RPE-STDT, ImageNet, RGB, 16 frames", (97, 97.6, 79.3, 81.8), _runs()),
))  # fmt: skip

TABLES = {"table1": TABLE1, "table2": TABLE2, "table3": TABLE3, "table4": TABLE4, "table5": TABLE5, "table6": TABLE6}


# --- published cost figures, for the fidelity ledger -----------------------------------------------------------------

SOURCE = (
    "Y. Ma, R. Wang: Relative-position embedding based spatially and temporally decoupled Transformer for action "
    "recognition, Pattern Recognition 145, 109905, 2024; numbers of tables as in chapter 3 of Y. Ma's thesis. Clips of "
    "16 frames of 224 × 224 and 101 classes where nothing else is said. G here are multiply-adds without the products "
    "of queries, keys and values, which is how the paper counts (with them 281.0 G for the ViT, 282.6 G for RPE-STDT)."
)
SUMMARY = (
    "FLOPs are met only without the products of queries, keys and values, and with positions on queries and keys; "
    "the printed parameters belong to several different networks"
)

_params = partial(params, classes=101)


def linear_macs(model: RPESTDTConfig) -> int:
    """Multiply-adds for one clip without the products of spatial attention's queries, keys and values."""
    tokens = 1 + (model.clip.size // model.patch) ** 2
    return count(model).macs - 2 * model.depth * model.clip.frames * tokens**2 * model.width


def _linear(make: Callable[[], RPESTDTConfig] = rpe_stdt_b12, **changes: Any) -> Callable[[], float]:
    return lambda: linear_macs(replace(make(), **{"classes": 101, **changes})) / 1e9


_LIKE_VIT: dict[str, Any] = {"depth": 8, "temporal_pos": "none", "temporal_hidden": 3072}
"""Table 3.5: 8 spatial blocks and temporal ones with ViT's MLP."""

FIGURES = (
    TABLE1.figure("Shared RPE", "params", "Shared RPE, parameters", _params(rpe_stdt_b12),
        "0.3 % short; the five counts of the tables are of different states of the paper's code"),
    TABLE1.figure("Shared RPE", "params", "the same with 400 classes and absolute positions of frames",
        _params(rpe_stdt_b12, classes=400, temporal_pos="abs"), "the nearest that we found, but no reason for it"),
    TABLE1.figure("Unshared RPE", "params", "Unshared RPE, parameters", _params(rpe_stdt_b12, shared=False),
        "unsharing adds 0.42 M to 12 blocks of 12 heads; the paper's 0.20 M is that of a DeiT-S in iRPE's paper"),
    TABLE1.figure("Absolute positions", "params", "Absolute positions, parameters", _params(stdt_topk, absolute="clip"),
        "with a table for each of 16 frames; 24 would give 100.4"),
    TABLE6.figure("RPE-STDT, ImageNet, RGB, 16 frames", "params", "RPE-STDT, parameters", _params(rpe_stdt_b12),
        "12 spatial blocks"),
    TABLE6.figure("RPE-STDT, ImageNet, RGB, 16 frames", "params", "the same with 8 spatial blocks, as the text says",
        _params(rpe_stdt_b8), "so the table's model has 12"),
    TABLE5.figure("Baseline STDT", "params", "Baseline STDT, parameters",
        _params(stdt, **_LIKE_VIT, absolute="clip", temporal_head_width=96, temporal_qkv_bias=True),
        "8 spatial and 4 temporal blocks of ViT-B; 88.9 is also what ViViT-B has in Table 3.6"),
    TABLE5.figure("Baseline STDT + Top-K", "params", "Baseline STDT + Top-K, parameters",
        _params(stdt_topk, **_LIKE_VIT),
        "8 spatial blocks, heads of 64 and ViT's MLP in the temporal ones; Top-K itself has no parameters"),
    TABLE5.figure("Baseline STDT + Top-K", "params", "our stdt_topk in its place", _params(stdt_topk),
        "12 light blocks like RPE-STDT, so that the tables compare what they say"),
    TABLE3.figure("ViT (spatial attention)", "GMACs", "ViT (spatial attention), FLOPs", _linear(vit_spatial),
        "269.56, which the paper cuts off"),
    TABLE3.figure("RPE-STDT", "GMACs", "RPE-STDT, FLOPs", _linear(),
        "relative positions on queries alone, as in Eq. 3.7; the next row has the other half"),
    TABLE3.figure("RPE-STDT", "GMACs", "the same with relative positions on queries and keys", _linear(rpe_on="qk"),
        "what Fig. 3.3's text says"),
    TABLE3.figure("RPE-STDT", "GMACs", "the same with 8 spatial blocks", _linear(rpe_stdt_b8),
        "so the table's model has 12"),
)  # fmt: skip

DECISIONS = (
    ("R1", "8 spatial blocks in the text; 269 G and 97 M are those of 12, 82.7 M (Table 3.5) of 8",
     "12; `rpe_stdt_b8`"),
    ("R2", "Top-K leaves fewer parameters (Table 3.5)", "it has none; the two rows are of different networks"),
    ("R3", "RPE-STDT gains with fewer FLOPs, says the text; Table 3.3 has 273 after 269",
     "more: 1.45 G for the tables"),
    ("R4", _UNSHARED, "both are runs; the rows say which"),
    ("R5", "Table 3.2's shared 97.7 is in no other table; its 79.3 stands in Tables 3.3, 3.4 and 3.6, too",
     "printed as they are; it is the run of Table 3.1, which has 97.53 and 79.12"),
    ("R6", "Eq. 3.10 has the Euclidean distance, Eq. 3.11 and (2y + 1)² clusters a bucket for each axis",
     '`method="product"`, which has 49 + 1 clusters; `"euclidean"` has 7 + 1, half of them idle, and rounds the '
     'distance first, as iRPE; `"euclidean_exact"` does not, as Eq. 3.10 (1,056 of 38,416 pairs differ)'),
    ("R7", "b : y : a = 1 : 2 : 8 with 50 clusters leaves y between 3 and 4",
     "iRPE's ratio 1.9, cut to ±3; `ratio=1.5` is literally y = 3 and another map of the same size"),
    ("R8", "relative positions on queries (Eq. 3.7), or on queries and keys (text of Fig. 3.3)",
     '`rpe_on="q"`, `"qk"`'),
    ("R9", '"Equations 3.1 and 3.3" are changed', "3.2 and 3.4"),
    ("R10", "σ has 1/T outside the root, and Attn^(1,:) would be one row (both from VidTr)",
     "the unbiased deviation of all rows but the class token's; a factor changes no ranking"),
    ("R11", '"after the first and third layers" in the text, [1, 3] in Table 3.4',
     'counted from 0, halved inside, as in VidTr; `subsample_mode="after"` is the other reading, in which [0, 2] is '
     'before the first layer ("at the beginning") and after the second'),
    ("R12", "in the fourth layer Top-K drops frames that nobody reads any more",
     "[1, 3] equals [1], proved and tested"),
    ("R13", "relative positions of patches leave the temporal encoder blind to order",
     '"all self-attention layers" have them: along the frames there, with the places that survivors had in the clip'),
    ("R14", "the class token is equally far from everything",
     "tables of the last spatial and the last temporal block change no score and get no gradient; kept and counted"),
    ("R15", "above ratio 2 many clusters of 14 × 14 patches are never used (122 declared, 82 used at 2.5)",
     "part of why Fig. 3.4 is flat after 50; kept and counted"),
    ("R16", "16 frames every 32nd, of clips of 160 frames", "a frame of each of 16 segments"),
    ("R17", "Diving48: 16 067 and 2337 clips, said to be version 2; its lists have 15 027 and 1970",
     "the official lists of version 2"),
    ("R18", "the lead over TSN, TesNet and MM-ViT is 0.1 less or more than the numbers printed", "3.4, 2.4 and 1.7"),
    ("R19", "which ImageNet", "what the file of weights says; see the recipe"),
    ("R20", "Attn is the product of queries and keys (text under Eq. 3.12), but also what is pooled and multiplied "
     'with the values, and "equally distributed" where a frame says nothing',
     'weights after the softmax, as in the code of VidTr, whose equation it is; `topk_score="logits"` is the text '
     "taken literally, and keeps other frames of most clips"),
    ("R21", "σ is a sum of T terms (Eq. 3.13), a row has T + 1; the printed sum runs over rows",
     'all T + 1 weights of a row, as in VidTr\'s code; `topk_terms="frames"` leaves the class token\'s out'),
    ("R22", "STDT with Top-K and without relative positions has 96.26 on UCF-101 in Table 3.1 and 97.0 in Table 3.5",
     "one run, shown beside both"),
    ("R23", 'absolute positions are sinusoids (§3.3.1), or "the original" ones of ViViT (§3.4.3), which are learnt',
     'learnt, as ViT\'s weights have them; `absolute="sinusoid"`'),
    ("R24", "Eqs. 3.5 and 3.6 add R^Q, R^K, R^V to queries, keys, values; Eq. 3.7, the model, has one term of them",
     'Eq. 3.7; `rpe_on="qkv"` is iRPE\'s form of the others, without R^Q · R^K and with R^Q of (j, i)'),
)  # fmt: skip
"""Errors and gaps of the paper, and what gesta does."""
