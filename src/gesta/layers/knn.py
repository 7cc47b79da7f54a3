"""Attention to the nearest keys only.

Source: P. Wang et al., "KVT: k-NN Attention for Boosting Vision Transformers", ECCV 2022, §3.2.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def knn_attention(q: Tensor, k: Tensor, v: Tensor, fraction: float, most: int = 0) -> Tensor:
    """Softmax attention in which every query keeps its nearest keys only.

    Kept are the ``int(fraction · N)`` largest scores of a row, or ``most`` if that is fewer, and what equals the
    smallest of them (in bf16 that may be a few more). Only that one is searched for: nothing is sorted, and no mask is
    scattered.

    Args:
        q, k, v: ``(B, heads, N, D)``.
        fraction: of the N keys, above 0; 1 keeps all. The public code truncates the product, so ``k / N`` may keep one
            key fewer than k: say how many with ``most``.
        most: so many keys at most, 0 for no such limit.
    """
    count = k.shape[-2]
    kept = max(int(fraction * count), 1)
    kept = min(kept, most) if most else kept
    if kept >= count:
        return F.scaled_dot_product_attention(q, k, v)
    scores = (q * q.shape[-1] ** -0.5) @ k.mT
    select = _kth_by_topk if torch.compiler.is_exporting() else kth_smallest  # files for others have torch's operators
    least = select(scores.detach(), count - kept)
    return torch.where(scores < least, float("-inf"), scores).softmax(-1) @ v


@torch.library.custom_op("gesta::kth_smallest", mutates_args=())
def kth_smallest(values: Tensor, k: int) -> Tensor:
    """``(*, N)`` to ``(*, 1)``: the value that k others of its row come before in rising order, without gradient.

    An operator of its own because on a CPU NumPy's partition is several times as fast as torch's selections.
    """
    if values.device.type == "cpu":
        kth = np.partition(_numpy(values), k, axis=-1)[..., k : k + 1]
        return torch.from_numpy(kth.copy()).to(values.dtype)
    return _kth_by_topk(values, k)


@kth_smallest.register_fake
def _(values: Tensor, k: int) -> Tensor:
    return values.new_empty(*values.shape[:-1], 1)


def _kth_by_topk(values: Tensor, k: int) -> Tensor:
    count = values.shape[-1]
    if 2 * k < count:
        return values.topk(k + 1, largest=False, sorted=False).values.amax(-1, keepdim=True)
    return values.topk(count - k, sorted=False).values.amin(-1, keepdim=True)


def _numpy(values: Tensor) -> np.ndarray:
    return (values.float() if values.dtype in (torch.bfloat16, torch.float16) else values).numpy()
