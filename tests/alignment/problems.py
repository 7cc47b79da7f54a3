"""Assignment problems of every kind, small."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gesta.alignment.chain import similarity


def tokens(kind: str, edge: int, frames: int, seed: int, width: int = 12) -> Tensor:
    """Features ``(1, T, edge², C)``: ``random``, ``smooth`` in space and moving, ``tied`` (few values, many equal
    similarities), ``clustered``, or with ``duplicate`` tokens."""
    draw = torch.Generator().manual_seed(seed)
    places = edge * edge
    if kind == "smooth":
        field = torch.randn(1, width, edge // 2 + 2, edge // 2 + 2, generator=draw)
        field = F.interpolate(field, size=(edge + frames, edge + frames), mode="bicubic", align_corners=False)
        views = torch.stack([field[0, :, t : t + edge, t : t + edge].flatten(1).T for t in range(frames)])
        return (views + 0.1 * torch.randn(views.shape, generator=draw))[None]
    if kind == "tied":
        return torch.randint(0, 2, (1, frames, places, 3), generator=draw).float()
    if kind == "clustered":
        centres = torch.randn(3, width, generator=draw)
        pick = torch.randint(0, 3, (1, frames, places), generator=draw)
        return centres[pick] + 0.01 * torch.randn(1, frames, places, width, generator=draw)
    found = torch.randn(1, frames, places, width, generator=draw)
    if kind == "duplicate":
        found[:, :, places // 2 :] = found[:, :, : places - places // 2].clone()
    return found


KINDS = ("random", "smooth", "tied", "clustered", "duplicate")


def problems(kind: str, edge: int, amount: int, seed: int) -> Tensor:
    """``(P, N, N)`` similarities of neighbouring frames, N = edge²."""
    return torch.cat([similarity(tokens(kind, edge, 2, seed + i))[0] for i in range(amount)])


def value(similarity: Tensor, matches: Tensor) -> Tensor:
    """Total similarity of matches, ``(P, N, N)`` and ``(P, N)`` to ``(P,)`` in double precision."""
    return similarity.double().gather(2, matches[..., None]).sum((1, 2))
