"""What MFST's parts cost beside the straightforward ways to write them.

    python benchmarks/mfst.py [--device cuda] [--batch 1] [--dtype bfloat16] [--repeats 7]

Three ratios, at the sizes of MFST-Large on clips of 32 × 224 × 224: the stem's central difference convolutions beside
plain ones and beside two convolutions (the public code), k-NN attention beside a scattered mask (the public code) and
beside a k-th value, and the weight-shared Transformer on all temporal scales at once beside one after another. Asserts
nothing about time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from side_by_side import Work, compare, dtype_option, environment, options_of, smoke_option
from torch import Tensor

from gesta.layers.cdc import Conv
from gesta.layers.knn import knn_attention
from gesta.models.mfst import MFSTConfig, WMSTrans, mfst_tiny, sinusoids


def two_convolutions(conv: Conv, x: Tensor) -> Tensor:
    total = conv.weight.sum((2, 3, 4), keepdim=True)
    pads = [size // 2 for size in conv.kernel_size]
    return F.conv3d(x, conv.weight, None, conv.stride, pads) - conv.theta * F.conv3d(x, total, None, conv.stride)


def scattered(q: Tensor, k: Tensor, v: Tensor, fraction: float) -> Tensor:
    scores = (q @ k.mT) * q.shape[-1] ** -0.5
    mask = torch.zeros_like(scores)
    mask.scatter_(-1, scores.topk(int(fraction * scores.shape[-1])).indices, 1.0)
    return torch.where(mask > 0, scores, torch.full_like(scores, float("-inf"))).softmax(-1) @ v


def by_kth_value(q: Tensor, k: Tensor, v: Tensor, fraction: float) -> Tensor:
    scores = (q @ k.mT) * q.shape[-1] ** -0.5
    count = scores.shape[-1]
    threshold = scores.detach().kthvalue(count - int(fraction * count) + 1, keepdim=True).values
    return scores.masked_fill(scores < threshold, float("-inf")).softmax(-1) @ v


def one_by_one(block: WMSTrans, x: Tensor) -> Tensor:
    """Pool, add positions, Transformer, repeat, for each scale; ``(B, T, H, W, C)``."""
    batch, frames, height, width, channels = x.shape
    routes = x.permute(0, 2, 3, 1, 4).reshape(-1, frames, channels)
    total: Tensor | float = 0.0
    for scale in block.scales:
        (pooled,) = block.at_scale(routes, scale)
        encoded = block.transformer(pooled + sinusoids(pooled.shape[1], channels, x))
        total = total + encoded.repeat_interleave(scale, 1)
    assert isinstance(total, Tensor)
    mean = total / len(block.scales)
    return mean.reshape(batch, height, width, frames, channels).permute(0, 3, 1, 2, 4).contiguous()


@dataclass(frozen=True)
class Bench:
    """How all parts are measured."""

    batch: int
    device: torch.device
    dtype: torch.dtype
    repeats: int
    smoke: bool

    def randn(self, *size: int) -> Tensor:
        return torch.randn(*size, device=self.device, dtype=self.dtype)

    def run(self, title: str, ways: dict[str, Work]) -> None:
        compare(title, ways, self.device, self.repeats)


def with_gradients(work: Callable[[], Tensor], *inputs: Tensor) -> Work:
    return lambda: torch.autograd.grad(work().sum(), inputs)


def compare_stem(bench: Bench) -> None:
    """The stem's central difference convolutions."""
    layout = torch.channels_last_3d
    for name, inputs, outputs, kernel, size in (
        ("2c, 3 × 3 × 3", 64, 192, (3, 3, 3), (32, 56, 56)),
        ("1a, 7 × 7 × 7", 3, 64, (7, 7, 7), (32, 224, 224)),
    ):
        stride = (1, 1, 1) if inputs > 3 else (1, 2, 2)
        conv = Conv(inputs, outputs, kernel, stride, "st", 0.6).to(bench.device, bench.dtype).to(memory_format=layout)
        plain = Conv(inputs, outputs, kernel, stride).to(bench.device, bench.dtype).to(memory_format=layout)
        x = bench.randn(bench.batch, inputs, *((8, 14, 14) if bench.smoke else size)).to(memory_format=layout)
        with torch.no_grad():
            conv.eval(), plain.eval()
            bench.run(
                f"stem {name}, evaluation",
                {
                    "one folded kernel": lambda conv=conv, x=x: conv(x),
                    "a plain convolution": lambda plain=plain, x=x: plain(x),
                    "two convolutions": lambda conv=conv, x=x: two_convolutions(conv, x),
                },
            )
        conv.train(), plain.train(), x.requires_grad_(inputs > 3)
        bench.run(
            f"stem {name}, with gradients",
            {
                "one folded kernel": with_gradients(lambda conv=conv, x=x: conv(x), conv.weight),
                "a plain convolution": with_gradients(lambda plain=plain, x=x: plain(x), plain.weight),
                "two convolutions": with_gradients(lambda conv=conv, x=x: two_convolutions(conv, x), conv.weight),
            },
        )


def compare_attention(bench: Bench) -> None:
    """k-NN attention of a clip's frames."""
    for positions in (49,) if bench.smoke else (196, 49):
        q, k, v = bench.randn(3, 32 * bench.batch, 8, positions, 64)
        bench.run(
            f"attention of {32 * bench.batch} frames of {positions} positions, 8 heads, evaluation",
            {
                "k-NN, ours": lambda q=q, k=k, v=v: knn_attention(q, k, v, 0.7),
                "k-NN, scattered mask": lambda q=q, k=k, v=v: scattered(q, k, v, 0.7),
                "k-NN, k-th value": lambda q=q, k=k, v=v: by_kth_value(q, k, v, 0.7),
                "softmax over all keys": lambda q=q, k=k, v=v: F.scaled_dot_product_attention(q, k, v),
            },
        )
        q, k, v = (x.requires_grad_() for x in (q, k, v))
        bench.run(
            f"attention of {32 * bench.batch} frames of {positions} positions, 8 heads, with gradients",
            {
                "k-NN, ours": with_gradients(lambda q=q, k=k, v=v: knn_attention(q, k, v, 0.7), q, k, v),
                "k-NN, scattered mask": with_gradients(lambda q=q, k=k, v=v: scattered(q, k, v, 0.7), q, k, v),
                "k-NN, k-th value": with_gradients(lambda q=q, k=k, v=v: by_kth_value(q, k, v, 0.7), q, k, v),
            },
        )


def compare_scales(bench: Bench) -> None:
    """The weight-shared Transformer."""
    large = ((32, 14, MFSTConfig()), (32, 7, MFSTConfig(stages=MFSTConfig().stages[2:])))
    for frames, edge, config in (*(() if bench.smoke else large), (8, 4, mfst_tiny())):
        width = config.stages[0].width
        block = WMSTrans(width, config, drop_path=0.0).to(bench.device, bench.dtype).eval()
        grid = bench.randn(bench.batch, frames, edge, edge, width)
        title = f"weight-shared Transformer over {frames} frames, {edge} × {edge} positions, {width} channels"
        with torch.no_grad():
            bench.run(
                f"{title}, evaluation",
                {
                    "all scales at once": lambda block=block, grid=grid: block(grid),
                    "one after another": lambda block=block, grid=grid: one_by_one(block, grid),
                },
            )
        weights = list(block.parameters())
        bench.run(
            f"{title}, with gradients",
            {
                "all scales at once": with_gradients(lambda block=block, grid=grid: block(grid), *weights),
                "one after another": with_gradients(lambda block=block, grid=grid: one_by_one(block, grid), *weights),
            },
        )


def main() -> None:
    parser = options_of(__doc__, batch=1, repeats=7)
    smoke_option(parser)
    dtype_option(parser)
    options = parser.parse_args()
    print(environment(options))
    torch.manual_seed(0)
    bench = Bench(
        options.batch, torch.device(options.device), getattr(torch, options.dtype), options.repeats, options.smoke
    )
    compare_stem(bench)
    compare_attention(bench)
    compare_scales(bench)


if __name__ == "__main__":
    main()
