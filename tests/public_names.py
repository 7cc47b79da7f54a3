"""Weights under the names that public code gives them."""

from __future__ import annotations

from torch import Tensor, nn


def timesformer(model: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    """Those of the public TimeSformer, behind a prefix."""
    names = {
        "patch_embed.": "patch_embed.proj.",
        ".mlp.0.": ".mlp.fc1.",
        ".mlp.2.": ".mlp.fc2.",
        ".temporal.norm.": ".temporal_norm1.",
        ".temporal.fc.": ".temporal_fc.",
        ".temporal.": ".temporal_attn.",
        "classifier.linear.": "head.",
    }
    weights = {}
    for name, value in model.state_dict().items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        weights[prefix + name] = value.contiguous()
    return weights
