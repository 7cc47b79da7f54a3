"""ViViT: a video ViT whose tokens are tubes of pixels, with attention over all tokens of a clip at once.

Source: A. Arnab et al., "ViViT: A Video Vision Transformer", ICCV 2021, model 1 (joint space-time attention). It is the
baseline of CTN's paper, and the network of :mod:`gesta.models.ctn` without CTN's convolutions.
"""

from __future__ import annotations

from gesta.model import ClipSpec
from gesta.models.ctn import HALF, CTNConfig


def vivit_b() -> CTNConfig:
    """ViViT-B/16×2 with joint space-time attention on 32 frames, every second frame (the public model)."""
    return CTNConfig(
        embed="tube",
        mapping="linear",
        positions="learned",
        gelu="tanh",
        clip=ClipSpec(frames=32, stride=2, size=224, mean=HALF, std=HALF),
    )
