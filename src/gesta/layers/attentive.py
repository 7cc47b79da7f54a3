"""Attention over all tokens of a clip, and V-JEPA 2's attentive probe, which pools them by attention.

Source of the probe: A. Bardes et al., "Revisiting Feature Prediction for Learning Visual Representations from Video"
(V-JEPA), 2024, §5, and M. Assran et al., "V-JEPA 2", 2025, with its public implementation::

    x = x + attention(norm1(x)) ;  x = x + mlp(norm2(x))                        depth - 1 times, without positions
    q = q + cross_attention(q, norm1(x)) ;  q = q + mlp(norm2(q))               one learned query, without a norm

The cross-attention has no output projection. At every size of the encoder the published probes have 16 heads.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gesta.config import Between, Count, Positive, config
from gesta.errors import GestaError
from gesta.layers.mlp import mlp
from gesta.model import ReadoutConfig


@config
class Attentive(ReadoutConfig):
    """V-JEPA 2's attentive probe, instead of a model's own pooling: ``model.attentive = Attentive()``.

    Attributes:
        heads: attention heads of every block.
        depth: blocks: self-attention in all but the last, which is the query's cross-attention.
        mlp_ratio: hidden width of the MLPs / width.
        eps: of its layer norms.
    """

    heads: Count = 16
    depth: Count = 4
    mlp_ratio: Positive = 4.0
    eps: Annotated[float, Between(0, 1, open="both")] = 1e-5

    def build(self, width: int) -> AttentivePool:
        return AttentivePool(width, self.heads, self.depth, self.mlp_ratio, self.eps)


Bias = Literal["full", "query_value", "none"]
"""Which of queries, keys and values have a bias."""


class Attention(nn.Module):
    """Multi-head self-attention over all tokens.

    Args:
        width: channels.
        heads: attention heads; they divide the width.
        bias: which of queries, keys and values have a bias.
    """

    def __init__(self, width: int, heads: int, bias: Bias = "full") -> None:
        super().__init__()
        self.heads = heads
        self.qkv = QueryValueLinear(width) if bias == "query_value" else nn.Linear(width, 3 * width, bias == "full")
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor, rotate: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """``(B, N, C)`` to the same shape; ``rotate`` puts positions into queries and keys ``(B, heads, N, D)``."""
        # with chunk the gradients of all three are copied once, into one tensor
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.qkv(tokens).chunk(3, 2))
        if rotate is not None:
            q, k = rotate(q), rotate(k)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class QueryValueLinear(nn.Linear):
    """Queries, keys and values in one product; keys have no bias, which softmax would cancel."""

    def __init__(self, width: int) -> None:
        super().__init__(width, 3 * width, bias=False)
        self.query_bias = nn.Parameter(torch.zeros(width))
        self.value_bias = nn.Parameter(torch.zeros(width))

    def forward(self, input: Tensor) -> Tensor:
        """``(*, C)`` to ``(*, 3 C)``."""
        bias = torch.cat([self.query_bias, torch.zeros_like(self.query_bias), self.value_bias])
        return F.linear(input, self.weight, bias)


class Block(nn.Module):
    """Attention and an MLP, each behind a layer norm and beside a residual connection."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = mlp(width, mlp_ratio)

    def forward(self, tokens: Tensor) -> Tensor:
        """``(B, N, C)`` to the same shape."""
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class QueryBlock(nn.Module):
    """Cross-attention from one learned query to all tokens, and an MLP."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(torch.empty(1, 1, width))
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = mlp(width, mlp_ratio)

    def forward(self, tokens: Tensor) -> Tensor:
        """``(B, N, C)`` to ``(B, C)``."""
        query = self.query.repeat(tokens.shape[0], 1, 1)  # not a view of a parameter, at which counting costs fails
        k, v = self.kv(self.norm1(tokens)).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q = self.q(query).unflatten(2, (self.heads, -1)).transpose(1, 2)
        query = query + F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return (query + self.mlp(self.norm2(query)))[:, 0]


class AttentivePool(nn.Module):
    """Tokens of a clip, or of all clips of a video one after the other, to one feature vector.

    Args:
        width: channels.
        heads: attention heads; they divide the width.
        depth: blocks: self-attention in all but the last, which is the query's cross-attention.
        mlp_ratio: hidden width of the MLPs / width.
        eps: of the layer norms.

    Raises:
        GestaError: heads that do not divide the width.
    """

    def __init__(self, width: int, heads: int = 16, depth: int = 4, mlp_ratio: float = 4.0, eps: float = 1e-5) -> None:
        super().__init__()
        if width % heads:
            raise GestaError(
                f"attentive.heads is {heads}, which does not divide the width {width}; give another number"
            )
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio, eps) for _ in range(depth - 1))
        self.cross = QueryBlock(width, heads, mlp_ratio, eps)
        nn.init.trunc_normal_(self.cross.query, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        for name, weight in self.blocks.named_parameters():  # branches add less, the deeper they are
            if name.endswith((".attn.proj.weight", ".mlp.2.weight")):
                weight.data.div_(math.sqrt(2 * (int(name.partition(".")[0]) + 2)))

    def forward(self, tokens: Tensor) -> Tensor:
        """``(B, N, C)`` to ``(B, C)``."""
        for block in self.blocks:
            tokens = block(tokens)
        return self.cross(tokens)
