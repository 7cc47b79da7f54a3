"""STAN's two ways to resample in attention mode, in one run: ``grid_sample`` against three matrix products.

    python benchmarks/stan.py [--device cuda] [--batch 8] [--dtype bfloat16] [--repeats 7]

Prints milliseconds of the warp and of warp and gradients on MViTv2-S's maps, in the memory layout of tokens (channels
last) and of convolutions (channels first), and the ratio; asserts nothing about time.

One or two shared CPU cores, float32, batch 2, two runs: the products are 0.8 to 1.4 times as fast at [1], 1.6 to
2.0 times at [3] and 2.1 to 3.7 times at [14], so ``STAN.separable`` uses them wherever it can. Not measured on a
GPU; there they also make the gradients deterministic.
"""

from __future__ import annotations

from functools import partial

import torch
from side_by_side import compare, dtype_option, environment, options_of, smoke_option
from torch import Tensor

from gesta.plugins.stan import theta_from, warp

MAPS = {"[1]": (96, 8, 56, 56), "[3]": (192, 8, 28, 28), "[14]": (384, 8, 14, 14)}
LAYOUTS = {"channels first": torch.contiguous_format, "channels last": torch.channels_last_3d}


def main() -> None:
    parser = options_of(__doc__, batch=2, repeats=7)
    smoke_option(parser)
    dtype_option(parser)
    options = parser.parse_args()
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    print(environment(options))
    for block, (channels, *size) in MAPS.items():
        for kind, layout in LAYOUTS.items():
            x = torch.randn(options.batch, channels // 8 if options.smoke else channels, *size, device=device)
            x = x.to(dtype, memory_format=layout).requires_grad_()
            p = (0.1 * torch.randn(options.batch, 6, device=device)).requires_grad_()
            y = torch.randn_like(x)

            def forward(separable: bool, x: Tensor = x, p: Tensor = p) -> Tensor:
                return warp(x, theta_from(p, "attention"), projective=False, separable=separable)

            def backward(separable: bool, x: Tensor = x, p: Tensor = p, y: Tensor = y) -> object:
                return torch.autograd.grad(forward(separable, x, p), (x, p), y)

            for name, work in (("warp", forward), ("warp and gradients", backward)):
                ways = {"matrix products": partial(work, True), "grid_sample": partial(work, False)}
                with torch.set_grad_enabled(work is backward):
                    compare(f"{block}, {kind}, {name}", ways, device, options.repeats, first="matrix products")


if __name__ == "__main__":
    main()
