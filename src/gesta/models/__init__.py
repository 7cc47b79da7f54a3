"""The model catalogue: every named model, and how to list, describe, configure and build it.

What the models cost is counted once and kept in ``costs.json`` (``scripts/precompute`` writes it again), so that
listing and describing them needs no torch.
"""

from __future__ import annotations

import fnmatch
import importlib
import json
import sys
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from gesta.config import replace, reset_unused, suggest
from gesta.cost import Cost, Part, Style, count
from gesta.errors import GestaError
from gesta.models.cards import BACKBONES, PUBLISHED, Card
from gesta.progress import show

if TYPE_CHECKING:  # for start-up time: it imports torch
    from gesta.model import ClipSpec, ModelConfig, VideoModel

MODELS: dict[str, str] = {
    "mvitv2_s": "gesta.models.mvit",
    "mvitv2_tiny": "gesta.models.mvit",
    "hiera_b": "gesta.models.hiera",
    "hiera_b_plus": "gesta.models.hiera",
    "hiera_l": "gesta.models.hiera",
    "hiera_h": "gesta.models.hiera",
    "hiera_tiny": "gesta.models.hiera",
    "stan_mvitv2_s": "gesta.models.stan",
    "stan_mvitv2_s_literal": "gesta.models.stan",
    "stan_mvitv2_tiny": "gesta.models.stan",
    "timesformer_b": "gesta.models.timesformer",
    "timesformer_l": "gesta.models.timesformer",
    "timesformer_tiny": "gesta.models.timesformer",
    "ata_vitb": "gesta.models.timesformer",
    "ata_vitb_costmatched": "gesta.models.timesformer",
    "ata_timesformer_tiny": "gesta.models.timesformer",
    "timm_frames": "gesta.models.frames",
    "convnext_b": "gesta.models.convnext",
    "convnext_tiny": "gesta.models.convnext",
    "ata_convnext_b": "gesta.models.convnext",
    "ata_convnext_tiny": "gesta.models.convnext",
    "cyclemlp_b5": "gesta.models.cyclemlp",
    "cyclemlp_tiny": "gesta.models.cyclemlp",
    "ata_cyclemlp_b5": "gesta.models.cyclemlp",
    "ata_cyclemlp_tiny": "gesta.models.cyclemlp",
    "r3d_50": "gesta.models.r3d",
    "r3d_tiny": "gesta.models.r3d",
    "st_manet_50": "gesta.models.st_manet",
    "st_manet_50_eq": "gesta.models.st_manet",
    "st_manet_tiny": "gesta.models.st_manet",
    "ctn_b": "gesta.models.ctn",
    "ctn_b_eq": "gesta.models.ctn",
    "ctn_a": "gesta.models.ctn",
    "ctn_tiny": "gesta.models.ctn",
    "mfst_base": "gesta.models.mfst",
    "mfst_large": "gesta.models.mfst",
    "mfst_bm": "gesta.models.mfst",
    "mfst_tiny": "gesta.models.mfst",
    "mfst_rgbd": "gesta.models.two_stream",
    "mfst_rgbd_tiny": "gesta.models.two_stream",
    "mfst_fusion": "gesta.models.fusion",
    "fusion_tiny": "gesta.models.fusion",
    "rpe_stdt_b12": "gesta.models.rpe_stdt",
    "rpe_stdt_b8": "gesta.models.rpe_stdt",
    "vit_spatial": "gesta.models.rpe_stdt",
    "stdt": "gesta.models.rpe_stdt",
    "stdt_topk": "gesta.models.rpe_stdt",
    "rpe_stdt_tiny": "gesta.models.rpe_stdt",
    "std_former_b": "gesta.models.std_former",
    "std_former_tiny": "gesta.models.std_former",
    "videomae_s": "gesta.models.vit",
    "videomae_b": "gesta.models.vit",
    "videomae_l": "gesta.models.vit",
    "videomae_h": "gesta.models.vit",
    "videomae2_g": "gesta.models.vit",
    "umt_b": "gesta.models.vit",
    "umt_l": "gesta.models.vit",
    "vjepa2_l": "gesta.models.vit",
    "vjepa2_h": "gesta.models.vit",
    "vjepa2_g": "gesta.models.vit",
    "vjepa2_g_384": "gesta.models.vit",
    "vjepa2_1_b": "gesta.models.vit",
    "vjepa2_1_l": "gesta.models.vit",
    "vjepa2_1_g": "gesta.models.vit",
    "vjepa2_1_gigantic": "gesta.models.vit",
    "vivit_b": "gesta.models.vit",
    "vit_tiny": "gesta.models.vit",
}
"""Each named size and the module that has a function of that name, ``() -> ModelConfig``."""

PAPERS: dict[str, str] = {
    "mvitv2": "Li et al., MViTv2, CVPR 2022",
    "hiera": "Ryali et al., Hiera, ICML 2023",
    "stan": "Ye and Liang, Spatial-Temporal Alignment Network, arXiv 2023",
    "timesformer": "Bertasius et al., Is Space-Time Attention All You Need for Video Understanding?, ICML 2021",
    "ata": "Zhao et al., Alignment-guided Temporal Attention, NeurIPS 2022",
    "timm_frames": "Wang et al., Temporal Segment Networks, ECCV 2016",
    "convnext": "Liu et al., A ConvNet for the 2020s, CVPR 2022",
    "cyclemlp": "Chen et al., CycleMLP, ICLR 2022",
    "r3d": "Hara et al., Can Spatiotemporal 3D CNNs Retrace the History of 2D CNNs and ImageNet?, CVPR 2018",
    "st_manet": "Wang, Spatio-temporal-based multi-level aggregation network, ComSIS 2024",
    "ctn": "Ma et al., Convolutional transformer network, Neurocomputing 2024",
    "videomae": "Tong et al., VideoMAE, NeurIPS 2022",
    "videomae2": "Wang et al., VideoMAE V2, CVPR 2023",
    "umt": "Li et al., Unmasked Teacher, ICCV 2023",
    "vjepa2": "Assran et al., V-JEPA 2, arXiv 2025",
    "vjepa2_1": "V-JEPA 2.1, 2026",
    "vit_tiny": "Tong et al., VideoMAE, NeurIPS 2022",
    "vivit": "Arnab et al., ViViT, ICCV 2021",
    "mfst": "Ma et al., Multi-stage Factorized Spatio-Temporal Representation, ACM MM 2023",
    "rpe_stdt": "Ma and Wang, RPE-STDT, Pattern Recognition 2024",
    "vit_spatial": "Ma and Wang, RPE-STDT, Pattern Recognition 2024 (baseline)",
    "stdt": "Ma and Wang, RPE-STDT, Pattern Recognition 2024 (ablation)",
    "std_former": "Spatio-temporal diffusion transformer, anonymous submission to ICLR",
}
"""The paper of the models whose names begin so; the longest beginning counts."""

_OTHER_NAMES = {
    "pretrained": "weights=FILE",
    "checkpoint_path": "weights=FILE",
    "drop_rate": "dropout=…",
    "drop_path_rate": "drop_path=…",
    "img_size": "clip=replace(model_config(NAME).clip, size=…), with gesta.config.replace,",
    "num_frames": "clip=replace(model_config(NAME).clip, frames=…), with gesta.config.replace,",
}
"""Arguments of timm's ``create_model`` and what says the same here."""


def list_models(pattern: str = "*", pretrained: bool = False) -> list[str]:
    """Names of all models, or of those that match a shell pattern such as ``"stan_*"``.

    Args:
        pattern: of the names.
        pretrained: only those of which weights are published.
    """
    return sorted(name for name in fnmatch.filter(MODELS, pattern) if name in PUBLISHED or not pretrained)


def model_config(name: str, *, num_classes: int | dict[str, int] | None = None, **changes: Any) -> ModelConfig:
    """The configuration of a named model with some fields changed.

    Args:
        name: see :func:`list_models`.
        num_classes: timm's name of the field ``classes``.
        changes: fields of the model's configuration, see ``gesta show NAME``. Sizes of parts that they leave out become
            the defaults.

    Raises:
        GestaError: unknown name or field.
    """
    if num_classes is not None:
        if "classes" in changes:
            raise GestaError("num_classes and classes are two names of one thing: give one of them")
        changes["classes"] = num_classes
    for field in changes:
        if field in _OTHER_NAMES:
            raise GestaError(f"create_model has no argument {field!r}: give {_OTHER_NAMES[field]} instead")
    config: ModelConfig = replace(getattr(importlib.import_module(MODELS[_known(name)]), name)(), **changes)
    reset_unused(config, changes)
    return config


def create_model(
    name: str,
    *,
    num_classes: int | dict[str, int] | None = None,
    weights: str | Path | None = None,
    head: str | Path | None = None,
    min_matched: float = 0.5,
    **changes: Any,
) -> VideoModel:
    """Build a named model, e.g. ``create_model("mvitv2_s", num_classes=101, dropout=0.5)``.

    Args:
        name: see :func:`list_models`.
        num_classes: number of classes, a dict of numbers for several label spaces, or 0 for a model of features. The
            configuration's field ``classes`` is the same; timm's name is accepted.
        weights: a public checkpoint of this model, a model file or run folder of ours, ``hf:OWNER/NAME``, or
            ``package:NAME``; None leaves the weights fresh. What of them matched is printed to stderr; a classifier of
            another number of classes stays fresh.
        head: a second file, with the head of these weights, where it has one of its own (V-JEPA 2's probes).
        min_matched: fraction of the parameters, the classifier's not counted, that must be in ``weights``.
        changes: other fields of the model's configuration, see ``gesta show NAME``. A ``clip`` replaces the model's as
            a whole, its mean and deviation too; ``replace(model_config(name).clip, size=160)`` keeps the rest.

    Returns:
        The network: with ``weights`` in evaluation mode, without them in training mode, as torch modules are.

    Raises:
        GestaError: unknown name or field.
        CheckpointError: ``weights`` cannot be read, or do not match.
    """
    if not 0 <= min_matched <= 1:
        raise GestaError(f"min_matched is {min_matched}, not from 0 to 1; give another value")
    if head is not None and weights is None:
        raise GestaError(f"head={str(head)!r} belongs to weights: give them, too")
    model = model_config(name, num_classes=num_classes, **changes).build()
    if weights is not None:
        from gesta.checkpoint.weights import import_weights  # for start-up time: it imports torch

        show(import_weights(model, weights, min_matched, head=head), sys.stderr)
    return model


# --- what is known without building a model --------------------------------------------------------------------------


def card(name: str) -> Card:
    """What a named model is, and what is published of it.

    Raises:
        GestaError: unknown name.
    """
    cost, entry = stored_cost(name), _entry(name)
    prefix = max((prefix for prefix in PAPERS if name.startswith(prefix)), key=len, default="")
    return Card(
        name=name,
        summary=entry["summary"],
        paper=PAPERS.get(prefix, ""),
        params=cost.params,
        macs=cost.macs,
        clip=entry["clip"],
        normalisation=entry["normalisation"],
        published=PUBLISHED.get(name),
        backbone=BACKBONES.get(name, ""),
    )


def stored_cost(name: str, style: Style = "torch") -> Cost:
    """What :func:`gesta.cost.count` says of a named model whose configuration is left as it is.

    Raises:
        GestaError: unknown name.
    """
    values = _entry(_known(name))[style]
    frames, height, width = values["clip"]
    parts = tuple(Part(*row) for row in values["parts"])
    return Cost(values["model"], style, (frames, height, width), parts, values["uncounted"])


def count_model(name: str) -> dict[str, Any]:
    """A named model's entry in ``costs.json``: summary and clip in words, and its cost in both styles."""
    config = model_config(name)
    summary = getattr(importlib.import_module(MODELS[name]), name).__doc__.strip().splitlines()[0]
    entry: dict[str, Any] = {
        "summary": summary,
        "clip": _words(config.clip),
        "normalisation": f"mean {_channels(config.clip.mean)}, std {_channels(config.clip.std)}",
    }
    for style in get_args(Style):
        cost = count(config, style)
        rows = [[part.name, part.params, part.macs] for part in cost.parts]
        entry[style] = {"model": cost.model, "clip": cost.clip, "uncounted": cost.uncounted, "parts": rows}
    return entry


@cache
def _entry(name: str) -> dict[str, Any]:
    """The stored entry of a model, or one counted now if ``scripts/precompute`` has not run since it was added."""
    return _stored().get(name) or count_model(name)


@cache
def _stored() -> dict[str, Any]:
    return json.loads(resources.files(__name__).joinpath("costs.json").read_text())


def _known(name: str) -> str:
    """The name of a model.

    Raises:
        GestaError: there is no such model.
    """
    if name not in MODELS:
        raise GestaError(f"there is no model {name!r}{suggest(name, MODELS)} (all names: gesta models)")
    return name


def _words(clip: ClipSpec) -> str:
    sampling = f"{clip.frames}×{clip.stride}" if clip.sampling == "dense" else f"{clip.frames} uniform"
    return f"{sampling} frames, {clip.size} px"


def _channels(values: tuple[float, ...]) -> str:
    """One number for each channel, or one for all that have the same."""
    return " ".join(f"{value:g}" for value in (values if len(set(values)) > 1 else values[:1]))
