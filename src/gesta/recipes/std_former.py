"""STD-Former ("Spatio-temporal diffusion transformer for action recognition"): runs, tables, open questions.

Source of every value: §4.2 of the paper. It prints AdamW, a rate of 1e-4, batches of 16,
cosine annealing, soft cross-entropy, 16 frames of 224 × 224 taken sparsely and "random inversion". What it leaves out
is UniFormerV2's for Something-Something: 22 epochs, 5 of them warm-up, weight decay 0.05, gradients of norm 20 at most,
stochastic depth of 0.2 (0.4 in the temporal branch), dropout of 0.5 before the classifier and in the temporal branch's
FFNs, two clips of every video of a batch, RandAugment of four operations of magnitude 7 of 10 (21 of torchvision's 30,
which has no noise of the magnitude), bicubic interpolation, no label smoothing, three crops of one clip in testing.
Clips are mirrored, as "inversion" says, and then have the mirrored label; UniFormerV2 mirrors none (``flip=False``).

The paper starts from CLIP. Nothing is downloaded here; without a file training starts from scratch::

    gesta train std_former.something_v2 --init.weights vit_base_patch16_clip_quickgelu_224.openai.safetensors \\
        --init.min-matched 0.4

Names of OpenAI's checkpoints and of timm's are known; CLIP has 46 % of the parameters, the classifier not counted.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from gesta.config import replace, suggest
from gesta.cost import count
from gesta.datasets.something import MIRRORED, SomethingV1, SomethingV2
from gesta.errors import GestaError
from gesta.models.std_former import STDFormerConfig, std_former_b, std_former_tiny
from gesta.recipe import Augment, EvaluateConfig, Init, Recipe, TrainConfig
from gesta.recipes.miniatures import Miniature
from gesta.recipes.published import Figure, Run, Table, row
from gesta.records import DataConfig

_NONE: dict[str, Any] = {"ptm_layers": (), "stdm_layers": (), "smem": ()}
_PTM_ONLY: dict[str, Any] = {"stdm_layers": (), "smem": ()}
_SMEM_ONLY: dict[str, Any] = {"ptm_layers": (), "stdm_layers": ()}

OPEN_CHANGES: dict[str, dict[str, Any]] = {
    "smem_both": {"smem": (("ST", 4), ("T", 4))},
    "learnable_weights": {"learnable_alpha_beta": True},
    "scaled_identity": {"ptm_identity": "scaled", "learnable_alpha_beta": True},  # β = 1 alone changes nothing
    "no_identity": {"ptm_identity": "none"},
    "conv_in_space": {"conv_plane": "space"},
    "joint_attention": {"ptm_attention": "joint"},
    "dpe_without_norm": {"dpe_norm": "none"},
    "dense_cpe": {"cpe": "dense"},
    "memory_residual": {"ctm_residual": "memory"},
    "both_residuals": {"ctm_residual": "both"},
    "class_tokens_in_ctm": {"ctm_include_cls": True},
    "memory_from_stem": {"memory_start": "stem"},
    "frame_positions": {"temporal_pos_embed": True},
    "dense_stdm": {"stdm_kind": "dense"},
    "stdm_relu_last": {"stdm_final_relu": True},
    "smem_after": {"smem_position": "after"},
    "smem_chain": {"smem_pairing": "chain"},
    "smem_zero_edge": {"smem_edge": "zero"},
    "fused_head": {"head_input": "fused"},
    "layer_norms": {"norm": "layer"},
    "every_frame": {"tubelet_kernel": 1, "tubelet_stride": 1},
}
"""What the paper leaves open, and its text alone."""

CHANGES: dict[str, dict[str, Any]] = {
    "full": {},
    # Table 2
    "ctm": _NONE,
    "ptm": _PTM_ONLY,
    "stdm": {"ptm_layers": (), "smem": ()},
    "smem": _SMEM_ONLY,
    # Table 3, without STDM and SMEM
    "attention_2d": _PTM_ONLY | {"conv_placement": "attention"},
    "attention_3d": _PTM_ONLY | {"conv_placement": "attention", "conv_kind": "3d"},
    "residual_3d": _PTM_ONLY | {"conv_kind": "3d"},
    # Table 4, without PTM and STDM
    "smem_add": _SMEM_ONLY | {"smem_fusion": "add"},
    "smem_mul_add": _SMEM_ONLY | {"smem_fusion": "mul+add"},
    # Table 5, without STDM and SMEM
    "ptm_0_11": _PTM_ONLY | {"ptm_layers": tuple(range(12))},
    "ptm_0_3": _PTM_ONLY | {"ptm_layers": (0, 1, 2, 3)},
    "ptm_4_11": _PTM_ONLY | {"ptm_layers": tuple(range(4, 12))},
    "ptm_4_7": _PTM_ONLY | {"ptm_layers": (4, 5, 6, 7)},
    "ptm_8_9": _PTM_ONLY | {"ptm_layers": (8, 9)},
    "ptm_10_11": _PTM_ONLY | {"ptm_layers": (10, 11)},
    # Table 6
    "ptm_4_7_smem_st3": {"ptm_layers": (4, 5, 6, 7), "smem": (("ST", 3),)},
    "ptm_4_7_smem_st4": {"ptm_layers": (4, 5, 6, 7), "smem": (("ST", 4),)},
    "ptm_4_7_smem_st7": {"ptm_layers": (4, 5, 6, 7), "smem": (("ST", 7),)},
    "smem_t3": {"smem": (("T", 3),)},
    "smem_t7": {"smem": (("T", 7),)},
    # Table 7
    **{f"weights_{str(w).replace('.', '')}": {"alpha": w, "beta": w} for w in (0.5, 0.8, 1.2, 1.5)},
    **OPEN_CHANGES,
}
"""What the rows of the tables change in the model."""


def something_v1(variant: str = "full", flip: bool = True) -> Recipe:
    """STD-Former on Something-Something V1, as the ablations (Tables 1 to 7).   gesta train std_former.something_v1

    Args:
        variant: a row, see :data:`CHANGES`.
        flip: mirror clips, and the labels that name a side with them.
    """
    return _recipe("something_v1", SomethingV1(), variant, flip)


def something_v2(variant: str = "full", flip: bool = True) -> Recipe:
    """STD-Former on Something-Something V2 (Table 1).   gesta train std_former.something_v2

    See :func:`something_v1` for the arguments.
    """
    return _recipe("something_v2", SomethingV2(), variant, flip)


def training(flip: bool = True) -> TrainConfig:
    """§4.2 and UniFormerV2's settings for Something-Something; 16 videos per step over all processes."""
    return TrainConfig(
        epochs=22, batch_size=16, lr=1e-4, weight_decay=0.05, schedule="cosine", warmup_epochs=5, min_lr=1e-6,
        clip_grad=20.0, repeats=2, short_videos="clamp",
        augment=Augment(
            crop="random_resized", interpolation="bicubic", randaugment=4, magnitude=21,
            flip=0.5 if flip else 0.0, flip_labels=dict(MIRRORED) if flip else {},
        ),
    )  # fmt: skip


def _recipe(name: str, data: DataConfig, variant: str, flip: bool) -> Recipe:
    if variant not in CHANGES:
        known = ", ".join(CHANGES)
        raise GestaError(
            f"std_former.{name}: there is no variant {variant!r}{suggest(variant, CHANGES)} (all: {known})"
        )
    regular = {"classes": 174, "dropout": 0.5, "drop_path": 0.2, "ctm_dropout": 0.5, "ctm_drop_path": 0.4}
    return Recipe(
        name="-".join([name, variant, *["unflipped"] * (not flip)]),
        model=replace(std_former_b(), **regular, **CHANGES[variant]),
        data=data,
        train=training(flip),
        evaluate=EvaluateConfig(split="val", clips=1, crops=3, short_side=224, short_videos="clamp"),
        init=Init(min_matched=0.4, expected="CLIP's"),
        paper="STD-Former (ICLR submission ICR3swcnaa), Tables 1 to 7",
    )


def _tiny() -> STDFormerConfig:
    """Six layers: of four, layers 8 and 9 of 12 would become the same as 8 to 11, and an SMEM at 3 the same as at 4."""
    return replace(std_former_tiny(), depth=6, ptm_layers=(4, 5), smem=(("T", 2),))


MINIATURES = (
    Miniature(model=_tiny, blocks=("ptm_layers", "stdm_layers", "smem"), keep=(
        "tubelet_kernel", "tubelet_stride", "gelu", "norm", "head_input",
        "ptm_attention", "ptm_identity", "dpe_norm", "alpha", "beta", "learnable_alpha_beta",
        "conv_placement", "conv_kind", "conv_plane",
        "cpe", "ctm_residual", "ctm_include_cls", "memory_start", "temporal_pos_embed", "stdm_kind", "stdm_final_relu",
        "smem_position", "smem_fusion", "smem_edge", "smem_pairing",
    )),
)  # fmt: skip


# --- tables ----------------------------------------------------------------------------------------------------------

_SSV1 = ("SSV1 Top-1", "SSV1 Top-5")
_BOTH = (*_SSV1, "SSV2 Top-1", "SSV2 Top-5")


def _runs(variant: str) -> dict[str, Run]:
    """A run on each version of the data set."""
    version = {"SSV1": partial(something_v1, variant), "SSV2": partial(something_v2, variant)}
    return {column: version[column.partition(" ")[0]] for column in _BOTH}


_both, _row = partial(row, _BOTH), partial(row, _SSV1)

TABLE1 = Table(source="STD-Former, Table 1 (Something-Something V1 and V2)", columns=_BOTH, rows=(
    _both("MSNet, ImageNet, 16×1×1", (52.1, 82.3, 64.7, 89.4)),
    _both("TEA, ImageNet, 16×3×10", (52.3, 81.9, 65.1, 89.9)),
    _both("TDN, ImageNet, 24×1×1", (55.1, 82.9, 67.0, 90.3)),
    _both("CT-Net, ImageNet, 16×3×2", (53.4, 81.7, 65.9, 90.1)),
    _both("TimeSformer-L, ImageNet, 64×1×3", (None, None, 62.4, None)),
    _both("MSMA, ImageNet, 16×1×3", (55.8, 83.1, 66.2, 90.4)),
    _both("AE-Net, ImageNet, 16×1×1", (54.1, 81.7, None, None)),
    _both("MViT-B/16, K400, 16×1×3", (None, None, 66.2, 90.2)),
    _both("ViViT-L/16×2, IN-21K, 32×4×1", (None, None, 65.4, 89.8)),
    _both("MTV-B, IN-21K, 32×4×3", (None, None, 67.6, 90.4)),
    _both("AIM-B/16, CLIP, 16×1×3", (None, None, 68.1, 91.8)),
    _both("UniFormerV2-B, CLIP-400M, 16×3×1", (56.8, 84.2, 69.5, 92.3),
        note="its own top-1; the row is three crops of one clip, as ours, and others count clips before crops"),
    _both("STD-Former, CLIP-400M, 16×3×1", (57.3, 84.4, 69.2, 92.1), _runs("full")),
))  # fmt: skip

TABLE2 = Table(source="STD-Former, Table 2 (parts, SSV1)", columns=_SSV1, rows=(
    _row("CTM", (56.8, 84.0), _runs("ctm"), "as good as UniFormerV2-B in Table 1"),
    _row("CTM, PTM", (57.2, 84.3), _runs("ptm")),
    _row("CTM, STDM", (57.0, 84.2), _runs("stdm")),
    _row("CTM, SMEM", (57.1, 84.2), _runs("smem")),
    _row("all", (57.3, 84.4), _runs("full")),
))  # fmt: skip

TABLE3 = Table(source="STD-Former, Table 3 (the PTM's convolution, SSV1, without STDM and SMEM)", columns=_SSV1, rows=(
    _row("attention + 2-D", (56.8, 83.9), _runs("attention_2d")),
    _row("attention + 3-D", (55.6, 82.9), _runs("attention_3d")),
    _row("residual + 2-D", (57.2, 84.3), _runs("ptm"), "§4.5 quotes 57.0 and 84.1"),
    _row("residual + 3-D", (54.5, 81.8), _runs("residual_3d")),
))  # fmt: skip

TABLE4 = Table(source="STD-Former, Table 4 (fusion in SMEM, SSV1, without PTM and STDM)", columns=_SSV1, rows=(
    _row("multiplicative", (57.1, 84.2), _runs("smem")),
    _row("addition", (56.9, 84.0), _runs("smem_add")),
    _row("multiplicative + addition", (57.0, 84.2), _runs("smem_mul_add")),
))  # fmt: skip

TABLE5 = Table(source="STD-Former, Table 5 (which layers are PTMs, SSV1, without STDM and SMEM)", columns=_SSV1, rows=(
    _row("0 to 11", (55.2, 82.6), _runs("ptm_0_11")),
    _row("0 to 3", (55.8, 82.9), _runs("ptm_0_3")),
    _row("4 to 11", (56.6, 83.5), _runs("ptm_4_11")),
    _row("4 to 7", (57.0, 84.1), _runs("ptm_4_7")),
    _row("8 to 11", (57.2, 84.3), _runs("ptm"), "the text quotes 84.1"),
    _row("8, 9", (56.8, 84.0), _runs("ptm_8_9")),
    _row("10, 11", (56.6, 83.4), _runs("ptm_10_11")),
))  # fmt: skip

TABLE6 = Table(source="STD-Former, Table 6 (where the SMEM is, SSV1)", columns=_SSV1, rows=(
    _row("PTM 4 to 7, SMEM ST 3", (56.9, 84.0), _runs("ptm_4_7_smem_st3")),
    _row("PTM 4 to 7, SMEM ST 4", (57.0, 84.0), _runs("ptm_4_7_smem_st4")),
    _row("PTM 4 to 7, SMEM ST 7", (56.6, 83.7), _runs("ptm_4_7_smem_st7")),
    _row("PTM 8 to 11, SMEM T 3", (57.2, 84.2), _runs("smem_t3")),
    _row("PTM 8 to 11, SMEM T 4", (57.3, 84.4), _runs("full")),
    _row("PTM 8 to 11, SMEM T 7", (57.0, 84.1), _runs("smem_t7")),
))  # fmt: skip

TABLE7 = Table(source="STD-Former, Table 7 (α = β, SSV1)", columns=_SSV1, rows=(
    _row("0.5", (55.6, 83.0), _runs("weights_05")),
    _row("0.8", (56.9, 83.9), _runs("weights_08")),
    _row("1.0", (57.3, 84.4), _runs("full")),
    _row("1.2", (57.0, 84.0), _runs("weights_12")),
    _row("1.5", (56.8, 83.7), _runs("weights_15")),
))  # fmt: skip

OPEN = Table(
    source="what the paper leaves open, one switch at a time (SSV1; it prints no numbers for these)",
    columns=(*_SSV1, "params", "GMACs"),
    rows=tuple(_row(name.replace("_", " "), (), _runs(name)) for name in OPEN_CHANGES),
)

TABLES = {
    "table1": TABLE1, "table2": TABLE2, "table3": TABLE3, "table4": TABLE4, "table5": TABLE5, "table6": TABLE6,
    "table7": TABLE7, "open": OPEN,
}  # fmt: skip


# --- for the fidelity ledger -----------------------------------------------------------------------------------------

SOURCE = (
    "Anonymous: Spatio-temporal diffusion transformer for action recognition, submission to ICLR (OpenReview "
    "ICR3swcnaa). It prints accuracies only: no parameters, FLOPs or times, no code, and its figures are missing from "
    "the text we have. The numbers are our own, for 16 frames of 224 × 224 and 174 classes."
)
SUMMARY = "the paper prints no costs: all numbers are ours"


def _cost(of: str, unit: str, **changes: Any) -> Figure:
    """Parameters or multiply-adds of a variant, for 174 classes; the paper prints none."""
    what = "parameters" if unit == "M" else "multiply-adds"

    def ours() -> float:
        cost = count(replace(std_former_b(), classes=174, **changes))
        return cost.params / 1e6 if unit == "M" else cost.macs / 1e9

    return Figure(f"{of}, {what}", "", "", unit, ours)


FIGURES = tuple(
    _cost(of, unit, **changes)
    for of, changes in (
        ("STD-Former", {}),
        ("CTM alone (Table 2)", _NONE),
        ("CTM and PTM", _PTM_ONLY),
        ("CTM and STDM", CHANGES["stdm"]),
        ("CTM and SMEM", _SMEM_ONLY),
        ("PTM in all 12 layers (Table 5)", {"ptm_layers": tuple(range(12))}),
        ("PTM with a 3 × 3 × 3 convolution (Table 3)", {"conv_kind": "3d"}),
        ("PTM with joint attention", {"ptm_attention": "joint"}),
        ("SMEM by addition (Table 4)", {"smem_fusion": "add"}),
    )
    for unit in ("M", "G")
)

DECISIONS = (
    ("D1", 'the stem is "a 3D convolution module" (§3.1)',
     "3 × 16 × 16 with stride 2 in time, as UniFormerV2 for Something-Something; `tubelet_kernel`, `tubelet_stride`"),
    ("D2", "DPE of 1 × 1 × 1, 3 × 1 × 1, 1 × 1 × 1, no sizes",
     "UniFormerV2's: batch norm before it, width / 1.5 inside; `dpe_reduction`, `dpe_norm`"),
    ("D3", '"modified MHA" for "global spatiotemporal" features, not explained',
     'CLIP\'s attention within a frame; `ptm_attention="joint"`'),
    ("D4", 'Eq. 1 has no shortcut, Table 3 speaks of the "residual connection"',
     "y = u + y1 + α y2 + β y3: without it CLIP's features would not survive; `ptm_identity`, `none` is Eq. 1"),
    ("D5", "α and β are learnable (§3.2) and swept as fixed values (Table 7)", "fixed at 1; `learnable_alpha_beta`"),
    ("D6", "a 2-D convolution that sees adjacent frames, four times; on the frame it cannot",
     "the plane of frames and places in raster order, where rows touch at their ends; `conv_plane`, `conv_kind`"),
    ("D7", "CPE of 3 × 3 × 3, on what is not said", "depth-wise, of the queries, with shortcut; `cpe`"),
    ("D8", 'the CTM\'s shortcuts: the sentence is cut off ("In addition, each mod-")',
     "from the query, so the classifier starts from CLIP's features; `ctm_residual`"),
    ("D9", "N = H·W in §3.3", "class tokens stay out of the CTMs; `ctm_include_cls` lets them in and reads them"),
    ("D10", "what the first CTM attends to", "the stem's tokens behind CLIP's first layer norm; `memory_start`"),
    ("D11", "STDM of 1 × 3 × 3, 3 × 1 × 1, 1 × 1 × 1, BN and ReLU, no order or width",
     "two depth-wise ones and a dense one that starts at zero, ReLU before it; `stdm_kind`, `stdm_final_relu`"),
    ("D12", '"m + n = 11"', "an STDM behind every CTM but the last, which nothing follows; `stdm_layers`"),
    ("D13", "SMEM's channels and shortcut (Fig. 5)",
     "64 channels (`smem_channels`), from 14 × 14 to 7 × 7 and back; added to what enters, without a switch: its last "
     "layer starts at zero"),
    ("D14", "frames t, t + 1, t + 2: which pairs", "t with each of the others; `smem_pairing`, `smem_edge`"),
    ("D15", "the last CTM goes to the classifier (§3.1), or both branches (§5)", 'the last CTM; `head_input="fused"`'),
    ("E1", "twelve PTMs (§3.1), or four at 8 to 11 (App. A, Tables 2, 3, 6, 7)", "four"),
    ("E2", "§4.5 quotes 57.0 and 84.1 where Tables 2, 3 and 5 have 57.2 and 84.3; App. A quotes 84.1", "the tables"),
    ("E3", '"Table 4" in App. A is Table 5; "SEME" is SMEM', "no consequence"),
    ("E4", '"highest" on SSV1 holds for its own list: ATM with the same ViT reports 60.6; and UniFormerV2-B is 0.3 '
     "points better on SSV2. Gains over the baseline are 0.5 points, without seeds", "no claim is repeated here"),
    ("E5", "UniFormerV2 is cited as Sun et al., 2023b; it is Li et al., 2023", "no consequence"),
    ("E6", '"Input" mixes frames × crops × clips with frames × clips × crops', "three crops of one clip"),
    ("E7", "SSV2 of 220,487 clips", "220,847, transposed digits"),
    ("E8", "no epochs, weight decay, warm-up, clipping, dropout, clips per video, augmentation",
     "UniFormerV2's for Something-Something, without the noise of RandAugment's magnitude"),
    ("E9", '"random inversion" would make six classes wrong',
     'a mirrored clip gets the mirrored class, by name; clips of "… right out" are not mirrored'),
    ("E10", '"an interval of 16 frames per second"', "16 frames, one per segment"),
    ("E11", '"diffusion"', "feedback of temporal features to the spatial branch; nothing is denoised"),
)  # fmt: skip
"""What the paper leaves open (D) and its errors (E), and what gesta does."""
