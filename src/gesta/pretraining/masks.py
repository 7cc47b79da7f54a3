"""Masks of tokens for masked pretraining: tubes (VideoMAE) and running cells (VideoMAE V2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

CELL = ((True, True, False, False), (2, 2))
"""Positions of a cell that are left out, in rows, and its size."""


def tube_mask(batch: int, size: tuple[int, int, int], ratio: float, device: torch.device) -> Tensor:
    """Tokens that are kept: the same positions in all tubelets of a clip, drawn for each clip (Tong et al. 2022, §3.3).

    Args:
        batch: number of clips.
        size: tokens along time, height and width.
        ratio: of the positions of a frame, those that are hidden; their number is rounded down.
        device: of the mask.

    Returns:
        ``(batch, t·h·w)`` bool, drawn from torch's generator for that device.
    """
    frames, positions = size[0], math.prod(size[1:])
    order = torch.rand(batch, positions, device=device).argsort(1)
    return (order >= hidden_of(positions, ratio)).repeat(1, frames)


def hidden_of(positions: int, ratio: float) -> int:
    """How many positions of a frame :func:`tube_mask` hides."""
    return math.floor(ratio * positions)


def mask_fault(positions: int, ratio: float, what: str) -> str:
    """Why there is nothing to learn from such masks, the end of a sentence about the ratio; empty if there is.

    Args:
        positions: of a frame.
        ratio: of them, those that are hidden.
        what: how they are called.
    """
    hidden = hidden_of(positions, ratio)
    if 1 <= hidden < positions:
        return ""
    return f"which hides {hidden} of the {positions} {what} of a frame (rounded down), so that nothing is learned"


def running_cells(batch: int, size: tuple[int, int, int], device: torch.device) -> Tensor:
    """Tokens that the decoder rebuilds: half of them, the same number in every tubelet (Wang et al. 2023, §3.2).

    Of every cell of 2 × 2 positions two neighbours are left out, and which two moves on by one position with each
    tubelet. In which position it begins is drawn for each clip.

    Args:
        batch: number of clips.
        size: tokens along time, height and width; height and width are even.
        device: of the mask.

    Returns:
        ``(batch, t·h·w)`` bool.
    """
    left_out, (rows, columns) = torch.tensor(CELL[0], device=device), CELL[1]
    begin = torch.randint(len(left_out), (batch, 1, 1), device=device)
    shifts = begin + torch.arange(size[0], device=device)[:, None] + torch.arange(len(left_out), device=device)
    cells = ~left_out[shifts % len(left_out)].unflatten(2, (rows, columns))
    return cells.repeat(1, 1, size[1] // rows, size[2] // columns).flatten(1)
