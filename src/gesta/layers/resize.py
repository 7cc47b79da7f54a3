"""Position embeddings for clips of another length or size than they were learnt on."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Interpolation = Literal["nearest", "linear", "bicubic"]
"""Nearest neighbour; or, as public checkpoints are resized, linear in time and bicubic in space."""


def resize_map(table: Tensor, size: tuple[int, ...], mode: Interpolation = "nearest") -> Tensor:
    """``(1, C, *)`` embeddings of a map for another of as many dimensions, computed in at least 32 bits."""
    if table.shape[2:] == size:
        return table
    exact = table.to(torch.promote_types(table.dtype, torch.float32))
    return F.interpolate(exact, size=size, mode=mode).to(table.dtype)


def resize_line(table: Tensor, count: int, mode: Interpolation = "nearest") -> Tensor:
    """``(1, N, C)`` embeddings in a row, as of frames, for ``count`` of them."""
    return resize_map(table.mT, (count,), mode).mT
