"""What is published of the named models: weights, their licence, and accuracies with their protocol.

This module does not import torch. Addresses, numbers and licences are those that the owners' repositories print; what
they do not print is None, or said to be unknown. Nothing is downloaded to check it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

K400, K600, SSV2 = "Kinetics-400", "Kinetics-600", "Something-Something V2"
DENSE_5x3, UNIFORM_2x3 = "5 clips × 3 crops", "2 clips × 3 crops, frames uniform"
SELF_SUPERVISED = "self-supervised, no classifier"
MAE_K400, MAE_SSV2 = f"masked pretraining on {K400}, no classifier", f"masked pretraining on {SSV2}, no classifier"
_ENCODER = "self-supervised or distilled, no classifier"
_FROZEN = "frozen, attentive probe"


@dataclass(frozen=True, slots=True)
class Accuracy:
    """A published accuracy: the data set, top-1 in percent, and how it was measured."""

    data: str
    top1: float
    protocol: str

    def __str__(self) -> str:
        return f"{self.data} {self.top1:.1f} % top-1, {self.protocol}"


@dataclass(frozen=True, slots=True)
class Published:
    """Weights that load into a named model.

    Attributes:
        source: who publishes them.
        licence: of the weights; None if it is not known.
        weights: name for ``--init.weights`` (``hf:owner/name``) or address of a file → what they were trained on.
        accuracy: published accuracies.
        remark: what to know when they are loaded.
        test: fields of :class:`gesta.recipe.EvaluateConfig` by which the owners take views, where they are known and
            are not the defaults.
    """

    source: str
    licence: str | None
    weights: dict[str, str]
    accuracy: tuple[Accuracy, ...] = ()
    remark: str = ""
    test: dict[str, int | str] = field(default_factory=dict)

    @property
    def test_flags(self) -> str:
        """:attr:`test` as flags of ``gesta evaluate``."""
        return " ".join(f"--evaluate.{name.replace('_', '-')} {value}" for name, value in self.test.items())


@dataclass(frozen=True, slots=True)
class Card:
    """What a named model is, and what is published of it.

    Attributes:
        name: as :func:`gesta.create_model` takes it.
        summary: one line.
        paper: where it was published.
        params: number of parameters.
        macs: multiply-adds for one clip, as torch counts them.
        clip: frames and their distance, and the edge of a frame in pixels.
        normalisation: mean and standard deviation of RGB in [0, 1].
        published: weights that load into it; None where none are known.
        backbone: a named model whose weights load into it, with its own parts missing; empty if there is none.
    """

    name: str
    summary: str
    paper: str
    params: int
    macs: int
    clip: str
    normalisation: str
    published: Published | None = None
    backbone: str = ""

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON-able values."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [
            self.name,
            f"  {self.summary}",
            f"  {self.paper}",
            f"  {self.params / 1e6:.2f} M parameters, {self.macs / 1e9:.2f} GMACs",
            f"  clips: {self.clip}, {self.normalisation}",
        ]
        if self.published is None:
            load = f"; those of {self.backbone} load (gesta show {self.backbone})" if self.backbone else ""
            return "\n".join([*lines, f"  no published weights of it are known{load}"])
        lines += [f"  weights: {self.published.source}, {self.published.licence or 'licence not known'}"]
        lines += [f"    {where}  {what}" for where, what in self.published.weights.items()]
        lines += [f"  published: {accuracy}" for accuracy in self.published.accuracy]
        lines += [f"  as the owners test it: gesta evaluate … {self.published.test_flags}"] * bool(self.published.test)
        return "\n".join(lines + [f"  {self.published.remark}"] * bool(self.published.remark))


# --- what is published -----------------------------------------------------------------------------------------------


def _hiera(size: str, top1: float) -> Published:
    name, files = f"hiera_{size}_16x224", "https://dl.fbaipublicfiles.com/hiera"
    tuned = f"{K400}, fine-tuned after masked pretraining"
    return Published(
        source="facebookresearch/hiera",
        licence="CC-BY-NC-4.0",
        weights={
            f"hf:facebook/{name}.mae_k400_ft_k400": tuned,
            f"hf:facebook/{name}.mae_k400": MAE_K400,
            f"{files}/{name}.pth": tuned,
            f"{files}/mae_{name}.pth": MAE_K400,
        },
        accuracy=(Accuracy(K400, top1, f"{DENSE_5x3} of 16 frames, every 4th, at 30 frames a second"),),
        remark="weights of pretraining lack the last norm, and were trained with q_pool=2",
    )


def _timesformer(files: dict[str, str], accuracy: dict[str, float], hub: dict[str, str]) -> Published:
    return Published(
        source="facebookresearch/TimeSformer",
        licence="CC-BY-NC-4.0",
        weights=hub | {f"https://www.dropbox.com/s/{file}?dl=1": what for file, what in files.items()},
        accuracy=tuple(
            Accuracy(data, top1, "1 clip × 3 crops" if data == K400 else "views not stated in the owners' table")
            for data, top1 in accuracy.items()
        ),
    )


def _videomae(weights: dict[str, str], accuracy: tuple[Accuracy, ...], remark: str = "") -> Published:
    first = any(name.startswith("MCG-NJU/") for name in weights)
    second = "the licence of OpenGVLab's weights is not known" * any(name.startswith("OpenGVLab/") for name in weights)
    return Published(
        source="MCG-NJU/VideoMAE and OpenGVLab/VideoMAEv2" if first else "OpenGVLab/VideoMAEv2",
        licence="CC-BY-NC-4.0" if first else None,
        weights={f"hf:{name}": what for name, what in weights.items()},
        accuracy=accuracy,
        remark="; ".join(sentence for sentence in (remark, second * first) if sentence),
        test={"clips": 5, "crops": 3, "short_side": 224},
    )


def _umt(k400: float, ssv2: float) -> Published:
    views = "{} clips × 3 crops of 8 frames, uniform"
    return Published(
        source="OpenGVLab/unmasked_teacher",
        licence="MIT",
        weights={"*_f8_res224.pth of its model zoo": "several data sets; the links may be dead"},
        accuracy=(Accuracy(K400, k400, views.format(4)), Accuracy(SSV2, ssv2, views.format(2))),
        remark="for Something-Something the owners' scripts have these views, their table says 3 × 4",
    )


def _vjepa2(hub: dict[str, str], files: dict[str, str], accuracy: tuple[Accuracy, ...] = ()) -> Published:
    where = "https://dl.fbaipublicfiles.com/vjepa2"
    return Published(
        source="facebookresearch/vjepa2",
        licence="MIT, parts Apache-2.0",
        weights={f"hf:facebook/vjepa2-{name}": what for name, what in hub.items()}
        | {f"{where}/{name}.pt": what for name, what in files.items()},
        accuracy=accuracy,
        remark="a .pt file of pretraining has two encoders: the moving average, with which the probes were "
        "trained, is taken; the hub's files were made from the other one",
        test={"clips": 2, "crops": 3, "short_side": 224, "average": "tokens"} if accuracy else {},
    )


def _vjepa21(name: str) -> Published:
    return Published(
        source="facebookresearch/vjepa2",
        licence=None,
        weights={f"https://dl.fbaipublicfiles.com/vjepa2/vjepa2_1_{name}_384.pt": SELF_SUPERVISED},
        remark="no probes of actions are published",
    )


PUBLISHED: dict[str, Published] = {
    "hiera_b": _hiera("base", 84.0),
    "hiera_b_plus": _hiera("base_plus", 85.0),
    "hiera_l": _hiera("large", 87.3),
    "hiera_h": _hiera("huge", 87.8),
    "videomae_s": _videomae(
        {
            "MCG-NJU/videomae-small-finetuned-kinetics": K400,
            "MCG-NJU/videomae-small-finetuned-ssv2": SSV2,
            "OpenGVLab/VideoMAE2/distill/vit_s_k710_dl_from_giant.pth": "Kinetics-710, distilled from VideoMAE2 g",
        },
        (
            Accuracy(K400, 79.0, DENSE_5x3),
            Accuracy(SSV2, 66.8, UNIFORM_2x3),
            Accuracy(K400, 83.7, f"distilled, {DENSE_5x3}"),
            Accuracy(K400, 84.0, "distilled and fine-tuned, 7 clips × 3 crops"),
        ),
        "the config.json of the hub's files may say 16 heads, the original has 6",
    ),
    "videomae_b": _videomae(
        {
            "MCG-NJU/videomae-base-finetuned-kinetics": K400,
            "MCG-NJU/videomae-base-short-finetuned-kinetics": f"{K400}, shorter pretraining",
            "MCG-NJU/videomae-base-finetuned-ssv2": SSV2,
            "MCG-NJU/videomae-base-short-finetuned-ssv2": f"{SSV2}, shorter pretraining",
            "MCG-NJU/videomae-base": MAE_K400,
            "MCG-NJU/videomae-base-short": f"{MAE_K400}, shorter",
            "MCG-NJU/videomae-base-ssv2": MAE_SSV2,
            "MCG-NJU/videomae-base-short-ssv2": f"{MAE_SSV2}, shorter",
            "OpenGVLab/VideoMAE2/distill/vit_b_k710_dl_from_giant.pth": "Kinetics-710, distilled from VideoMAE2 g",
            "OpenGVLab/VideoMAEv2-Base": _ENCODER,
        },
        (
            Accuracy(K400, 81.5, f"1600 epochs of pretraining, {DENSE_5x3}"),
            Accuracy(K400, 80.0, f"800 epochs of pretraining, {DENSE_5x3}"),
            Accuracy(SSV2, 70.8, f"2400 epochs of pretraining, {UNIFORM_2x3}"),
            Accuracy(SSV2, 69.6, f"800 epochs of pretraining, {UNIFORM_2x3}"),
            Accuracy(K400, 86.6, f"distilled, {DENSE_5x3}"),
            Accuracy(K400, 87.1, "distilled and fine-tuned, 7 clips × 3 crops"),
        ),
    ),
    "videomae_l": _videomae(
        {
            "MCG-NJU/videomae-large-finetuned-kinetics": K400,
            "MCG-NJU/videomae-large": MAE_K400,
            "OpenGVLab/VideoMAEv2-Large": _ENCODER,
        },
        (
            Accuracy(K400, 85.2, DENSE_5x3),
            Accuracy(K400, 86.1, "32 frames of 320 px, 4 clips × 3 crops"),
            Accuracy(SSV2, 74.3, UNIFORM_2x3),
            Accuracy(SSV2, 75.4, "32 frames, 1 clip × 3 crops"),
        ),
    ),
    "videomae_h": _videomae(
        {"MCG-NJU/videomae-huge-finetuned-kinetics": K400, "OpenGVLab/VideoMAEv2-Huge": _ENCODER},
        (Accuracy(K400, 86.6, DENSE_5x3), Accuracy(K400, 87.4, "32 frames of 320 px, 4 clips × 3 crops")),
    ),
    "videomae2_g": _videomae(
        {"OpenGVLab/VideoMAEv2-giant": _ENCODER},
        (
            Accuracy(K400, 87.2, DENSE_5x3),
            Accuracy(K400, 88.4, f"first fine-tuned on Kinetics-710, {DENSE_5x3}"),
            Accuracy(SSV2, 77.0, UNIFORM_2x3),
        ),
    ),
    "umt_b": _umt(87.4, 70.8),
    "umt_l": _umt(90.3, 74.7),
    "vjepa2_l": _vjepa2(
        {
            "vitl-fpc64-256": SELF_SUPERVISED,
            "vitl-fpc16-256-ssv2": f"{SSV2}, 16 frames, with its probe",
            "vitl-fpc32-256-diving48": "Diving48, 32 frames, with its probe",
        },
        {
            "vitl": SELF_SUPERVISED,
            "evals/ssv2-vitl-16x2x3": f"probe of {SSV2}, for --init.head",
            "evals/diving48-vitl-256": "probe of Diving48, which reads four layers, for --init.head",
        },
        (
            Accuracy(SSV2, 73.7, f"{_FROZEN}, 2 clips × 3 crops of 16 frames"),
            Accuracy("Diving48", 89.0, f"{_FROZEN}, 4 clips × 3 crops of 32 frames"),
        ),
    ),
    "vjepa2_h": _vjepa2({"vith-fpc64-256": SELF_SUPERVISED}, {"vith": SELF_SUPERVISED}),
    "vjepa2_g": _vjepa2({"vitg-fpc64-256": SELF_SUPERVISED}, {"vitg": SELF_SUPERVISED}),
    "vjepa2_g_384": _vjepa2(
        {
            "vitg-fpc64-384": SELF_SUPERVISED,
            "vitg-fpc64-384-ssv2": f"{SSV2}, 64 frames, with its probe",
            "vitg-fpc32-384-diving48": "Diving48, 32 frames, with its probe",
        },
        {
            "vitg-384": SELF_SUPERVISED,
            "evals/ssv2-vitg-384-64x2x3": f"probe of {SSV2}, for --init.head",
            "evals/diving48-vitg-384-32x4x3": "probe of Diving48, which reads four layers, for --init.head",
        },
        (
            Accuracy(SSV2, 77.3, f"{_FROZEN}, 2 clips × 3 crops of 64 frames, 384 px"),
            Accuracy("Diving48", 90.2, f"{_FROZEN}, 4 clips × 3 crops of 32 frames, 384 px"),
        ),
    ),
    "vjepa2_1_b": _vjepa21("vitb_dist_vitG"),
    "vjepa2_1_l": _vjepa21("vitl_dist_vitG"),
    "vjepa2_1_g": _vjepa21("vitg"),
    "vjepa2_1_gigantic": _vjepa21("vitG"),
    "mvitv2_s": Published(
        source="facebookresearch/SlowFast and torchvision",
        licence=None,
        weights={
            "https://dl.fbaipublicfiles.com/pyslowfast/model_zoo/mvitv2/pysf_video_models/"
            "MViTv2_S_16x4_k400_f302660347.pyth": K400,
            "https://download.pytorch.org/models/mvit_v2_s-ae3be167.pth": f"{K400}, the same in torchvision's names",
        },
        accuracy=(
            Accuracy(K400, 81.0, "5 clips × 1 crop of 16 frames, every 4th"),
            Accuracy(K400, 80.757, "5 clips × 1 crop of 16 frames at 7.5 a second, as torchvision measures it"),
        ),
        remark="these weights have a class token, which this model has with --model.cls-token True",
    ),
    "timesformer_b": _timesformer(
        {
            "g5t24we9gl5yk88/TimeSformer_divST_8x32_224_K400.pyth": K400,
            "4h2qt41m2z3aqrb/TimeSformer_divST_8x32_224_K600.pyth": K600,
            "tybhuml57y24wpm/TimeSformer_divST_8_224_SSv2.pyth": f"{SSV2}, frames uniform",
        },
        {K400: 77.9, K600: 79.1, SSV2: 59.1},
        {
            f"hf:facebook/timesformer-base-finetuned-{key}": data
            for key, data in (("k400", K400), ("k600", K600), ("ssv2", SSV2))
        },
    ),
    "timesformer_l": _timesformer(
        {
            "r1iuxahif3sgimo/TimeSformer_divST_96x4_224_K400.pyth": K400,
            "857rx6xeclxfhdg/TimeSformer_divST_96x4_224_K600.pyth": K600,
            "3f1rm2al8mhprwa/TimeSformer_divST_64_224_SSv2.pyth": f"{SSV2}, 64 frames uniform",
        },
        {K400: 80.6, K600: 82.2, SSV2: 62.0},
        {},
    ),
    "vivit_b": Published(
        source="google",
        licence=None,
        weights={
            "hf:google/vivit-b-16x2-kinetics400": K400,
            "hf:google/vivit-b-16x2": "on which data is not known here",
        },
    ),
    "convnext_b": Published(
        source="timm",
        licence=None,
        weights={"timm's convnext_base.fb_in22k": "images of ImageNet-21K, from which ATA's paper starts"},
    ),
    "cyclemlp_b5": Published(
        source="ShoufaChen/CycleMLP",
        licence=None,
        weights={"CycleMLP_B5.pth": "images of ImageNet-1K, from which ATA's paper starts"},
    ),
}
"""By the name of the model; models that are left out have no published weights that gesta knows of."""

BACKBONES: dict[str, str] = {
    "stan_mvitv2_s": "mvitv2_s",
    "stan_mvitv2_s_literal": "mvitv2_s",
    "ata_vitb": "timesformer_b",
    "ata_convnext_b": "convnext_b",
    "ata_cyclemlp_b5": "cyclemlp_b5",
}
"""Models with a plug-in → the named model without it, whose weights load into them."""
