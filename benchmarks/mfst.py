"""What MFST's parts cost beside the obvious ways to write them, in one run.

    python benchmarks/mfst.py [--device cuda] [--batch 1] [--dtype bfloat16] [--repeats 7]

Three ratios, at the sizes of MFST-Large on clips of 32 × 224 × 224: the stem's central difference convolutions beside
plain ones and beside two convolutions (the public code), k-NN attention beside a scattered mask (the public code) and
beside a k-th value, and the weight-shared Transformer on all temporal scales at once beside one after another. The ways
take turns; a time is the least of its repetitions, because other work on a machine only ever adds to it, and on a CPU
processor time, which it disturbs least (of all threads together: use one). Asserts nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from side_by_side import compare
from torch import Tensor

from gesta.layers.cdc import Conv
from gesta.layers.knn import knn_attention
from gesta.models.mfst import MFSTConfig, WMSTrans, mfst_tiny, sinusoids

Work = Callable[[], object]


def two_convolutions(conv: Conv, x: Tensor) -> Tensor:
    total = conv.weight.sum((2, 3, 4), keepdim=True)
    pads = [size // 2 for size in conv.kernel_size]
    return F.conv3d(x, conv.weight, None, conv.stride, pads) - conv.theta * F.conv3d(x, total, None, conv.stride)


def scattered(q: Tensor, k: Tensor, v: Tensor, share: float) -> Tensor:
    scores = (q @ k.mT) * q.shape[-1] ** -0.5
    mask = torch.zeros_like(scores)
    mask.scatter_(-1, scores.topk(int(share * scores.shape[-1])).indices, 1.0)
    return torch.where(mask > 0, scores, torch.full_like(scores, float("-inf"))).softmax(-1) @ v


def by_kth_value(q: Tensor, k: Tensor, v: Tensor, share: float) -> Tensor:
    scores = (q @ k.mT) * q.shape[-1] ** -0.5
    count = scores.shape[-1]
    least = scores.detach().kthvalue(count - int(share * count) + 1, keepdim=True).values
    return scores.masked_fill(scores < least, float("-inf")).softmax(-1) @ v


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
    whole = total / len(block.scales)
    return whole.reshape(batch, height, width, frames, channels).permute(0, 3, 1, 2, 4).contiguous()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    device, dtype, batch = torch.device(options.device), getattr(torch, options.dtype), options.batch
    print(
        f"batch {batch}, {options.dtype}, {device}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"least of {options.repeats}"
    )
    torch.manual_seed(0)

    def run(title: str, ways: dict[str, Work]) -> None:
        compare(title, ways, device, options.repeats)

    def with_gradients(work: Callable[[], Tensor], *inputs: Tensor) -> Work:
        def step() -> object:
            return torch.autograd.grad(work().sum(), inputs)

        return step

    layout = torch.channels_last_3d
    for name, inputs, outputs, kernel, size in (
        ("2c, 3 × 3 × 3", 64, 192, (3, 3, 3), (32, 56, 56)),
        ("1a, 7 × 7 × 7", 3, 64, (7, 7, 7), (32, 224, 224)),
    ):
        stride = (1, 1, 1) if inputs > 3 else (1, 2, 2)
        conv = Conv(inputs, outputs, kernel, stride, "st", 0.6).to(device, dtype).to(memory_format=layout)
        plain = Conv(inputs, outputs, kernel, stride).to(device, dtype).to(memory_format=layout)
        x = torch.randn(batch, inputs, *size, device=device, dtype=dtype).to(memory_format=layout)
        with torch.no_grad():
            conv.eval(), plain.eval()
            run(
                f"stem {name}, evaluation",
                {
                    "one folded kernel": lambda conv=conv, x=x: conv(x),
                    "a plain convolution": lambda plain=plain, x=x: plain(x),
                    "two convolutions": lambda conv=conv, x=x: two_convolutions(conv, x),
                },
            )
        conv.train(), plain.train(), x.requires_grad_(inputs > 3)
        run(
            f"stem {name}, with gradients",
            {
                "one folded kernel": with_gradients(lambda conv=conv, x=x: conv(x), conv.weight),
                "a plain convolution": with_gradients(lambda plain=plain, x=x: plain(x), plain.weight),
                "two convolutions": with_gradients(lambda conv=conv, x=x: two_convolutions(conv, x), conv.weight),
            },
        )

    for places in (196, 49):
        q, k, v = torch.randn(3, 32 * batch, 8, places, 64, device=device, dtype=dtype)
        run(
            f"attention of {32 * batch} frames of {places} places, 8 heads, evaluation",
            {
                "k-NN, ours": lambda q=q, k=k, v=v: knn_attention(q, k, v, 0.7),
                "k-NN, scattered mask": lambda q=q, k=k, v=v: scattered(q, k, v, 0.7),
                "k-NN, k-th value": lambda q=q, k=k, v=v: by_kth_value(q, k, v, 0.7),
                "softmax over all keys": lambda q=q, k=k, v=v: F.scaled_dot_product_attention(q, k, v),
            },
        )
        q, k, v = (x.requires_grad_() for x in (q, k, v))
        run(
            f"attention of {32 * batch} frames of {places} places, 8 heads, with gradients",
            {
                "k-NN, ours": with_gradients(lambda q=q, k=k, v=v: knn_attention(q, k, v, 0.7), q, k, v),
                "k-NN, scattered mask": with_gradients(lambda q=q, k=k, v=v: scattered(q, k, v, 0.7), q, k, v),
                "k-NN, k-th value": with_gradients(lambda q=q, k=k, v=v: by_kth_value(q, k, v, 0.7), q, k, v),
            },
        )

    for frames, edge, config in (
        (32, 14, MFSTConfig()),
        (32, 7, MFSTConfig(stages=MFSTConfig().stages[2:])),
        (8, 4, mfst_tiny()),
    ):
        width = config.stages[0].width
        block = WMSTrans(width, config, drop_path=0.0).to(device, dtype).eval()
        grid = torch.randn(batch, frames, edge, edge, width, device=device, dtype=dtype)
        title = f"weight-shared Transformer over {frames} frames, {edge} × {edge} places, {width} channels"
        with torch.no_grad():
            run(
                f"{title}, evaluation",
                {
                    "all scales at once": lambda block=block, grid=grid: block(grid),
                    "one after another": lambda block=block, grid=grid: one_by_one(block, grid),
                },
            )
        weights = list(block.parameters())
        run(
            f"{title}, with gradients",
            {
                "all scales at once": with_gradients(lambda block=block, grid=grid: block(grid), *weights),
                "one after another": with_gradients(lambda block=block, grid=grid: one_by_one(block, grid), *weights),
            },
        )


if __name__ == "__main__":
    main()
