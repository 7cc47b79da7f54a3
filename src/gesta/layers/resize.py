"""Position embeddings for clips of another length or size than they were learnt on, by nearest neighbour."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def resize_map(table: Tensor, size: tuple[int, ...]) -> Tensor:
    """``(1, C, *)`` embeddings of a map for another of as many dimensions."""
    if table.shape[2:] == size:
        return table
    return F.interpolate(table.float(), size=size, mode="nearest").to(table.dtype)


def resize_line(table: Tensor, count: int) -> Tensor:
    """``(1, N, C)`` embeddings in a row, as of frames, for ``count`` of them."""
    return resize_map(table.mT, (count,)).mT
