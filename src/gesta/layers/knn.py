"""Attention to the nearest keys only.

Source: P. Wang et al., "KVT: k-NN Attention for Boosting Vision Transformers", ECCV 2022, §3.2.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def knn_attention(q: Tensor, k: Tensor, v: Tensor, share: float) -> Tensor:
    """Softmax attention in which every query keeps its nearest keys only.

    Kept are the ``int(share · N)`` largest scores of a row and what equals the smallest of them (in bf16 that may be a
    few more). The threshold comes from the shorter side, unsorted.

    Args:
        q, k, v: ``(B, heads, N, D)``.
        share: of the N keys, above 0; 1 keeps all.
    """
    count = k.shape[-2]
    kept = max(int(share * count), 1)
    if kept >= count:
        return F.scaled_dot_product_attention(q, k, v)
    scores = (q * q.shape[-1] ** -0.5) @ k.mT
    if count - kept < kept:
        least = scores.detach().topk(count - kept + 1, largest=False, sorted=False).values.amax(-1, keepdim=True)
    else:
        least = scores.detach().topk(kept, sorted=False).values.amin(-1, keepdim=True)
    return scores.masked_fill(scores < least, float("-inf")).softmax(-1) @ v
