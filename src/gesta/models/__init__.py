"""The model catalogue: every named model, and how to list, configure and build it."""

from __future__ import annotations

import fnmatch
import importlib
from typing import Any

from gesta.config import replace, suggest
from gesta.errors import GestaError
from gesta.model import ModelConfig, VideoModel

MODELS: dict[str, str] = {
    "mvitv2_s": "gesta.models.mvit",
    "mvitv2_tiny": "gesta.models.mvit",
    "stan_mvitv2_s": "gesta.models.stan",
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
    "st_manet_tiny": "gesta.models.st_manet",
    "ctn_b": "gesta.models.ctn",
    "ctn_b_eq": "gesta.models.ctn",
    "ctn_a": "gesta.models.ctn",
    "ctn_tiny": "gesta.models.ctn",
    "vivit_b": "gesta.models.ctn",
    "mfst_base": "gesta.models.mfst",
    "mfst_large": "gesta.models.mfst",
    "mfst_bm": "gesta.models.mfst",
    "mfst_tiny": "gesta.models.mfst",
    "mfst_rgbd": "gesta.models.two_stream",
    "mfst_rgbd_tiny": "gesta.models.two_stream",
    "rpe_stdt_b12": "gesta.models.rpe_stdt",
    "rpe_stdt_b8": "gesta.models.rpe_stdt",
    "vit_spatial": "gesta.models.rpe_stdt",
    "stdt": "gesta.models.rpe_stdt",
    "stdt_topk": "gesta.models.rpe_stdt",
    "rpe_stdt_tiny": "gesta.models.rpe_stdt",
    "std_former_b": "gesta.models.std_former",
    "std_former_tiny": "gesta.models.std_former",
}
"""Each named size and the module that has a function of that name, ``() -> ModelConfig``."""


def list_models(pattern: str = "*") -> list[str]:
    """Names of all models, or of those that match a shell pattern such as ``"stan_*"``."""
    return sorted(fnmatch.filter(MODELS, pattern))


def model_config(name: str, **changes: Any) -> ModelConfig:
    """The configuration of a named model with some fields changed.

    Raises:
        GestaError: unknown name or field.
    """
    if name not in MODELS:
        raise GestaError(f"there is no model {name!r}{suggest(name, MODELS)} (all names: gesta models)")
    return replace(getattr(importlib.import_module(MODELS[name]), name)(), **changes)


def create_model(name: str, **changes: Any) -> VideoModel:
    """Build a named model, e.g. ``create_model("mvitv2_s", classes=101, dropout=0.5)``.

    Weights are fresh; :func:`gesta.checkpoint.import_weights` loads others.
    """
    return model_config(name, **changes).build()
