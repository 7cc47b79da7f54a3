"""STAN's two ways to resample in attention mode, in one run: ``grid_sample`` against three matrix products.

    python benchmarks/stan.py [--device cuda] [--batch 8] [--dtype bfloat16] [--repeats 7]

Prints milliseconds of the warp and of warp and gradients on MViTv2-S's maps, in the memory layout of tokens (channels
last) and of convolutions (channels first), and the ratio; asserts nothing about time.

One or two shared CPU cores, float32, batch 2, two runs: the products are 0.8 to 1.4 times as fast at [1], 1.6 to
2.0 times at [3] and 2.1 to 3.7 times at [14], so ``STAN.separable`` uses them wherever it can. Not measured on a
GPU; there they also make the gradients deterministic.
"""

from __future__ import annotations

import torch
from side_by_side import dtype_option, environment, median_milliseconds, options_of

from gesta.plugins.stan import theta_from, warp

MAPS = {"[1]": (96, 8, 56, 56), "[3]": (192, 8, 28, 28), "[14]": (384, 8, 14, 14)}


def main() -> None:
    parser = options_of(__doc__, batch=2, repeats=7)
    dtype_option(parser)
    options = parser.parse_args()
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)

    print(environment(options))
    print(f"{'block':6} {'layout':14} {'work':17} {'grid_sample':>12} {'separable':>10}   grid_sample / separable")
    for block, size in MAPS.items():
        for layout in (torch.contiguous_format, torch.channels_last_3d):
            x = torch.randn(options.batch, *size, device=device, dtype=dtype).to(memory_format=layout).requires_grad_()
            p = (0.1 * torch.randn(options.batch, 6, device=device)).requires_grad_()
            y = torch.randn_like(x)

            def forward(separable: bool, x: torch.Tensor = x, p: torch.Tensor = p) -> torch.Tensor:
                return warp(x, theta_from(p, "attention"), projective=False, separable=separable)

            def backward(separable: bool, x: torch.Tensor = x, p: torch.Tensor = p, y: torch.Tensor = y) -> object:
                return torch.autograd.grad(forward(separable, x, p), (x, p), y)

            for name, work in (("warp", forward), ("warp + gradients", backward)):
                with torch.set_grad_enabled(work is backward):
                    slow, fast = (
                        median_milliseconds(lambda s=s, w=work: w(s), device, options.repeats, warm_up=2)
                        for s in (False, True)
                    )
                kind = "channels last" if layout is torch.channels_last_3d else "channels first"
                print(f"{block:6} {kind:14} {name:17} {slow:9.1f} ms {fast:7.1f} ms   {slow / fast:.2f}")


if __name__ == "__main__":
    main()
