"""STAN on MViTv2: the named sizes, and what "fixed D" of the transfer experiment keeps fixed.

The layer itself is :mod:`gesta.plugins.stan`; it goes before any block of any model.
"""

from __future__ import annotations

import torch

from gesta.model import Insert, ModelConfig
from gesta.models.mvit import MViTConfig, mvitv2_s, mvitv2_tiny
from gesta.plugins.stan import STAN


def stan_mvitv2_s() -> MViTConfig:
    """MViTv2-S without class token, STAN after three blocks: the published row (34.56 M, 65.40 G; Table 1)."""
    config = mvitv2_s()
    config.inserts = [Insert(layer=STAN(), at=3)]
    return config


def stan_mvitv2_s_literal() -> MViTConfig:
    """The same with the deformation network as §2.2 and Table 3 print it: convolution, ReLU, pooling, unbounded θ.

    Without normalisation it dies in training at the backbone's learning rate: θ becomes the same for all clips.
    """
    config = mvitv2_s()
    config.inserts = [Insert(layer=STAN(norm="none", p_scale=1.0, tanh_bound=None), at=3)]
    return config


def stan_mvitv2_tiny() -> MViTConfig:
    """The MViTv2 for CPUs with STAN at the same position, between its second and third stage."""
    config = mvitv2_tiny()
    config.inserts = [Insert(layer=STAN(), at=3)]
    return config


def prefixes_up_to(at: int, *, only_stan: bool = False, config: ModelConfig | None = None) -> tuple[str, ...]:
    """What ``TrainConfig.freeze`` needs so that only the layers after STAN are tuned (§4.1.4, "fixed D").

    Args:
        at: the block that STAN precedes.
        only_stan: freeze STAN alone, not what comes before it (the paper's text implies both, its caption only D).
        config: the model; by default ``stan_mvitv2_s``.

    Returns:
        Prefixes of the inserts at ``at``, and unless ``only_stan`` of the stem, the blocks and the inserts before.
    """
    stan = f"inserts.{at}."
    if only_stan:
        return (stan,)
    with torch.device("meta"):
        model = (config or stan_mvitv2_s()).build()
    parts: dict[str, set[int]] = {}
    for name, _ in model.named_parameters():
        top, dot, _ = name.partition(".")
        parts.setdefault(top + dot, set()).add(model.depth_of(name))
    stem = [part for part, depths in parts.items() if depths == {0}]
    earlier = [f"inserts.{block}." for block in model.inserts if int(block) < at]
    return (*stem, *model._blocks_by_name()[:at], *earlier, stan)
