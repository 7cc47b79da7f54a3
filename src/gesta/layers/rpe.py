"""Relative positions in buckets, and attention that learns a vector for every bucket.

Source: K. Wu et al., "Rethinking and Improving Relative Position Encoding for Vision Transformer" (iRPE), ICCV 2021,
§3, as Y. Ma and R. Wang use it for video (Pattern Recognition 145, 109905, 2024; chapter 3 of Y. Ma's thesis, whose
equations are cited here).
"""

from __future__ import annotations

from functools import lru_cache
from math import log
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gesta.errors import GestaError
from gesta.layers.adapters import some_outputs

Bucket = Literal["sectioned", "clip"]
"""Distances far off share buckets, the farther the more (Eq. 3.9), or all beyond the last one do (Shaw et al. 2018)."""
Method = Literal["product", "euclidean", "euclidean_exact"]
"""A bucket for each pair of distances along y and x (Eq. 3.11), or for the distance as the crow flies, rounded to a
whole number first (iRPE's public code) or as it is (Eq. 3.10 taken literally)."""
On = Literal["q", "k", "qk", "qkv"]
"""What is multiplied by the vectors: queries (Eq. 3.7), keys, both, or both and the weights. The last is iRPE's form
of Eqs. 3.5 and 3.6: it has no product of two vectors, R^Q · R^K, and R^Q is that of (j, i), not of (i, j)."""


def reach(ratio: float) -> int:
    """The farthest bucket Y on either side: b : y : a = ratio · (1 : 2 : 8), and buckets are whole numbers."""
    return int(2 * ratio)


def buckets(distance: Tensor, ratio: float, bucket: Bucket = "sectioned") -> Tensor:
    """Bucket of every distance along one axis, -Y to Y, int64 (Eq. 3.9; Eq. 3.8 for ``clip``).

    Up to b = ratio each whole distance has its own; then they grow with the logarithm. Halves are rounded to even
    numbers, and what exceeds y is cut down to a whole number, as in iRPE's public code.
    """
    x = distance.double()
    if bucket == "clip":
        return x.round().clamp(-reach(ratio), reach(ratio)).long()
    b, y, a = ratio, 2 * ratio, 8 * ratio
    size = x.abs()
    # float32 decides the halves, as there: ratio 1.5 puts distance 6 on 2.5
    far = b + torch.log((size.clamp(min=b) / b).float()) / log(a / b) * (y - b)
    return torch.where(size <= b, x.round(), x.sign() * far.round().clamp(max=y)).long()


def rows(ratio: float, method: Method = "product") -> int:
    """Number of clusters with that of the class token: 50 for 1.5 ≤ ratio < 2 (Eq. 3.11)."""
    side = 2 * reach(ratio) + 1
    return 1 + (side * side if method == "product" else side)


MAX_TOKENS = 4096
"""Tokens of a frame between which relative positions are known: the map of all pairs then takes 128 MiB."""


@lru_cache(maxsize=64)
def bucket_map(
    height: int, width: int, ratio: float = 1.9, bucket: Bucket = "sectioned", method: Method = "product"
) -> Tensor:
    """Cluster of every pair of tokens of a frame, ``(1 + H·W, 1 + H·W)`` int64: query, key; class token first.

    All pairs with the class token have the last one. Of the euclidean clusters the first half is never used, as in
    iRPE's public code. The result is shared: do not write to it.

    Raises:
        GestaError: more than :data:`MAX_TOKENS` tokens.
    """
    if height * width > MAX_TOKENS:
        raise GestaError(
            f"relative positions of {height} × {width} tokens are more than {MAX_TOKENS} squared; choose larger "
            "patches, or a smaller clip"
        )
    with torch.device("cpu"):
        y, x = (axis.flatten() for axis in torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"))
        along_y, along_x = y[:, None] - y, x[:, None] - x
        if method == "product":
            side, far = 2 * reach(ratio) + 1, reach(ratio)
            ids = (buckets(along_y, ratio, bucket) + far) * side + buckets(along_x, ratio, bucket) + far
        else:
            distance = (along_y**2 + along_x**2).double().sqrt()
            ids = buckets(distance.round() if method == "euclidean" else distance, ratio, bucket) + reach(ratio)
        return F.pad(ids, (1, 0, 1, 0), value=rows(ratio, method) - 1)


def line_map(positions: Tensor, ratio: float = 1.9, bucket: Bucket = "sectioned") -> Tensor:
    """The same for tokens on a line: positions ``(B, T)`` to ``(B, 1 + T, 1 + T)``, class token first.

    2Y + 2 clusters, of which the last is the class token's.
    """
    ids = buckets(positions[:, :, None] - positions[:, None], ratio, bucket) + reach(ratio)
    return F.pad(ids, (1, 0, 1, 0), value=2 * reach(ratio) + 1)


class Attention(nn.Module):
    """Multi-head self-attention with relative positions (Eq. 3.7, without tables Eqs. 3.2 to 3.4)::

        e_ij = ( q_i k_jᵀ + q_i p_ijᵀ ) / √d           p_ij = table[:, cluster(i, j)]

    Tables start at zero. The products with a table's columns are one matrix product, from which every pair's is
    gathered, so no vector per pair is ever made. iRPE calls the table that queries are multiplied by ``rpe_k``; like
    there, a key is multiplied by the vector of (key, query), not of (query, key).

    Args:
        width: C.
        heads: attention heads.
        head_width: d, channels of a head.
        bias: of the layer that makes queries, keys and values.
        clusters: rows of the tables; 0 for no relative positions.
        on: what is multiplied by tables.
        shared: one table for all heads.
    """

    rpe_q: nn.Parameter | None
    rpe_k: nn.Parameter | None
    rpe_v: nn.Parameter | None

    def __init__(
        self,
        width: int,
        heads: int,
        head_width: int,
        bias: bool = True,
        clusters: int = 0,
        on: On = "q",
        shared: bool = True,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.scale = head_width**-0.5
        self.qkv = nn.Linear(width, 3 * heads * head_width, bias=bias)
        self.proj = nn.Linear(heads * head_width, width)
        for name in "qkv":
            shape = (clusters, head_width) if name == "v" else (head_width, clusters)  # as iRPE's
            table = nn.Parameter(torch.zeros(1 if shared else heads, *shape)) if clusters and name in on else None
            self.register_parameter(f"rpe_{name}", table)

    def project(self, tokens: Tensor, first: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (of the first token only, if asked), already divided by √d, keys, values: ``(B, heads, N, d)``."""
        if not first:
            q, k, v = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
            return q * self.scale, k, v
        inner = self.qkv.out_features // 3
        q = some_outputs(self.qkv, tokens[:, :1], slice(inner))
        rest = some_outputs(self.qkv, tokens, slice(inner, None))
        k, v = rest.unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return q.unflatten(2, (self.heads, -1)).transpose(1, 2) * self.scale, k, v

    def positions(self, q: Tensor, k: Tensor, ids: Tensor | None) -> Tensor | None:
        """What relative positions add to the scores, ``(B, heads, queries, keys)``; None for nothing.

        Args:
            q: queries as :meth:`project` gives them.
            k: keys.
            ids: cluster of every query and key, ``(N, N)`` or ``(B, N, N)``.
        """
        if ids is None:
            return None
        ids = ids.unsqueeze(-3)
        added = None
        if self.rpe_q is not None:
            along = ids[..., : q.shape[2], :].expand(*q.shape[:3], -1)
            added = (q @ self.rpe_q).gather(3, along)
        if self.rpe_k is not None:
            along = ids[..., : q.shape[2]].expand(*k.shape[:3], -1)
            by_key = ((k * self.scale) @ self.rpe_k).gather(3, along).mT
            added = by_key if added is None else added + by_key
        return added

    def scores(self, q: Tensor, k: Tensor, ids: Tensor | None) -> Tensor:
        """e of Eq. 3.7, ``(B, heads, queries, keys)``."""
        added = self.positions(q, k, ids)
        return q @ k.mT if added is None else q @ k.mT + added

    def mix(self, weights: Tensor, v: Tensor, ids: Tensor | None) -> Tensor:
        """Values by their weights ``(B, heads, queries, keys)`` to ``(B, queries, C)``; ids of these queries, or of
        each head's queries."""
        mixed = weights @ v
        if self.rpe_v is not None and ids is not None:
            along = (ids if ids.dim() == 4 else ids.unsqueeze(-3)).expand(weights.shape)
            by_cluster = weights.new_zeros(*weights.shape[:3], self.rpe_v.shape[1]).scatter_add(3, along, weights)
            mixed = mixed + by_cluster @ self.rpe_v
        return self.proj(mixed.transpose(1, 2).flatten(2))

    def forward(self, tokens: Tensor, ids: Tensor | None, first: bool = False) -> Tensor:
        """``(B, N, C)`` to the same, or to ``(B, 1, C)`` if only the first token's result is asked for."""
        q, k, v = self.project(tokens, first)
        # the converter to ONNX cannot follow how the fused attention with a mask lays out its result
        if torch.compiler.is_exporting() or (self.rpe_v is not None and ids is not None):
            of_queries = None if ids is None else ids[..., : q.shape[2], :]
            return self.mix(self.scores(q, k, ids).softmax(3), v, of_queries)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=self.positions(q, k, ids), scale=1.0)
        return self.proj(mixed.transpose(1, 2).flatten(2))
