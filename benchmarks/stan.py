"""STAN's two ways to resample in attention mode, in one run: ``grid_sample`` against three matrix products.

    python benchmarks/stan.py [--device cuda] [--batch 8] [--dtype bfloat16]

Prints milliseconds of the warp and of warp and gradients at MViTv2-S's places, as tokens leave them (channels last)
and as convolutions do, and the ratio; asserts nothing about time.

One or two shared processor cores, float32, batch 2, two runs: the products are 0.8 to 1.4 times as fast at [1], 1.6 to
2.0 times at [3] and 2.1 to 3.7 times at [14], so ``STAN.separable`` uses them wherever it can. Not measured on a
GPU; there they also make the gradients deterministic.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from gesta.plugins.stan import theta_from, warp

PLACES = {"[1]": (96, 8, 56, 56), "[3]": (192, 8, 28, 28), "[14]": (384, 8, 14, 14)}


def milliseconds(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median of some repetitions after two for warming up."""
    times = []
    for _ in range(repeats + 2):
        begin = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(1e3 * (time.perf_counter() - begin))
    return statistics.median(times[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)

    print(
        f"batch {options.batch}, {options.dtype}, {device}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}"
    )
    print(f"{'place':6} {'layout':14} {'work':17} {'grid_sample':>12} {'separable':>10}   grid_sample / separable")
    for place, grid in PLACES.items():
        for layout in (torch.contiguous_format, torch.channels_last_3d):
            x = torch.randn(options.batch, *grid, device=device, dtype=dtype).to(memory_format=layout).requires_grad_()
            p = (0.1 * torch.randn(options.batch, 6, device=device)).requires_grad_()
            y = torch.randn_like(x)

            def forward(separable: bool, x: torch.Tensor = x, p: torch.Tensor = p) -> torch.Tensor:
                return warp(x, theta_from(p, "attention"), projective=False, separable=separable)

            def backward(separable: bool, x: torch.Tensor = x, p: torch.Tensor = p, y: torch.Tensor = y) -> object:
                return torch.autograd.grad(forward(separable, x, p), (x, p), y)

            for name, work in (("warp", forward), ("warp + gradients", backward)):
                with torch.set_grad_enabled(work is backward):
                    slow, fast = (
                        milliseconds(lambda s=s, w=work: w(s), device, options.repeats) for s in (False, True)
                    )
                kind = "channels last" if layout is torch.channels_last_3d else "channels first"
                print(f"{place:6} {kind:14} {name:17} {slow:9.1f} ms {fast:7.1f} ms   {slow / fast:.2f}")


if __name__ == "__main__":
    main()
