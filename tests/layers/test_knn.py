"""k-NN attention against the mask that its paper scatters, against a full sort, and at its ends."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gesta.layers.knn import knn_attention


def queries(places: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(places)
    q, k, v = torch.randn(3, 2, 4, places, 8, dtype=torch.float64, generator=generator)
    return q, k, v


def attention_of(q: Tensor, k: Tensor, fraction: float) -> Tensor:
    """The weights that the attention uses, read off one-hot values."""
    eye = torch.eye(k.shape[-2], dtype=k.dtype)
    return knn_attention(q, k, eye.expand(*k.shape[:2], -1, -1), fraction)


def scattered(scores: Tensor, kept: int) -> Tensor:
    mask = torch.zeros_like(scores).scatter(-1, scores.topk(kept).indices, 1.0)
    return scores.masked_fill(mask == 0, float("-inf"))


@pytest.mark.parametrize(("places", "fraction"), [(196, 0.7), (49, 0.7), (20, 0.3), (11, 0.5), (10, 0.7), (8, 0.01)])
def test_keeps_exactly_the_largest(places: int, fraction: float) -> None:
    q, k, v = queries(places)
    kept = max(int(fraction * places), 1)
    scores = q @ k.mT / 8**0.5
    weights = attention_of(q, k, fraction)
    assert ((weights > 0).sum(-1) == kept).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, places, dtype=torch.float64))
    threshold = scores.kthvalue(places - kept + 1, keepdim=True).values
    for masked in (scattered(scores, kept), scores.masked_fill(scores < threshold, float("-inf"))):
        torch.testing.assert_close(weights, masked.softmax(-1), atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(knn_attention(q, k, v, fraction), weights @ v, atol=1e-12, rtol=1e-12)


def test_gradients_are_those_of_the_scattered_mask() -> None:
    inputs = [x.requires_grad_() for x in queries(20)]
    q, k, v = inputs
    expected = scattered(q @ k.mT / 8**0.5, 14).softmax(-1) @ v
    seed = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad(knn_attention(q, k, v, 0.7), inputs, seed), torch.autograd.grad(expected, inputs, seed)
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12)


def test_an_absolute_number_of_keys_is_exact() -> None:
    """Given as a fraction, k / N is cut to k - 1 for one pair in 25; a number is what it says."""
    pairs = [(k, n) for n in range(2, 400) for k in range(1, n)]
    assert sum(int(k / n * n) != k for k, n in pairs) == 3258
    q, key, v = queries(49)
    eye = torch.eye(49, dtype=q.dtype).expand(2, 4, -1, -1)
    for kept, options in ((31, {"fraction": 32 / 49}), (32, {"fraction": 1.0, "most": 32})):
        assert ((knn_attention(q, key, eye, **options) > 0).sum(-1) == kept).all()  # type: ignore[arg-type]
    assert torch.equal(knn_attention(q, key, v, 0.3, most=32), knn_attention(q, key, v, 0.3))


def test_all_keys_are_softmax_attention() -> None:
    q, k, v = queries(20)
    expected = (q @ k.mT / 8**0.5).softmax(-1) @ v
    torch.testing.assert_close(knn_attention(q, k, v, 1.0), expected, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(F.scaled_dot_product_attention(q, k, v), expected, atol=1e-12, rtol=1e-12)


def test_one_key_is_the_nearest_value() -> None:
    q, k, v = queries(20)
    nearest = (q @ k.mT).argmax(-1)
    assert torch.equal(knn_attention(q, k, v, 0.05), v.gather(2, nearest[..., None].expand(v.shape)))


def test_equals_of_the_smallest_are_kept() -> None:
    _, _, v = queries(20)
    q, k = torch.zeros_like(v), torch.zeros_like(v)
    q[..., 0] = 1.0
    k[:, :, :3, 0], k[:, :, 3:9, 0] = 8.0, 1.0  # three large, six equal, eleven small
    weights = attention_of(q, k, 0.25)
    assert torch.equal((weights > 0).sum(-1), torch.full((2, 4, 20), 9)) and not weights[..., 9:].any()
