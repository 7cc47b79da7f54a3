"""What relative positions cost: RPE-STDT's spatial encoder beside the same ViT without them.

    python benchmarks/rpe_stdt.py [--device cuda] [--frames 8] [--depth 12] [--dtype bfloat16]

Prints milliseconds of the encoder (forward; forward and backward) by way of adding relative positions to the scores,
and the ratio to the encoder without any; asserts nothing about time. ``gather`` is ours; ``flat`` reads the products
with a flat index as iRPE's public code does without its compiled operator; ``naive`` makes a vector per pair of tokens.
The ways take turns, and the fastest round of each counts. On a CPU it is the CPU time of the process, so that other
processes on the machine count less.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from unittest import mock

import torch
from torch import Tensor

from gesta.bench.timing import synchronize
from gesta.layers.rpe import Attention
from gesta.models.rpe_stdt import RPESTDT, rpe_stdt_b12


def flat(self: Attention, q: Tensor, k: Tensor, ids: Tensor | None) -> Tensor | None:
    """As iRPE: one flat index into the products of all queries of a frame and head."""
    if ids is None or self.rpe_q is None:
        return None
    products = (q @ self.rpe_q).flatten(2)
    queries = torch.arange(q.shape[2], device=q.device)[:, None]
    index = (ids[: q.shape[2]] + queries * self.rpe_q.shape[2]).flatten()
    return products[:, :, index].unflatten(2, (q.shape[2], -1))


def naive(self: Attention, q: Tensor, k: Tensor, ids: Tensor | None) -> Tensor | None:
    """Eq. 3.7 literally: a vector for every pair."""
    if ids is None or self.rpe_q is None:
        return None
    return torch.einsum("bhid,ijd->bhij", q, self.rpe_q[0].mT[ids[: q.shape[2]]])


WAYS: dict[str, Callable[..., Tensor | None]] = {"gather": Attention.positions, "flat": flat, "naive": naive}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--frames", type=int, default=8, help="frames in all, of one clip")
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)

    def encoder(relative: bool) -> RPESTDT:
        torch.manual_seed(0)
        config = rpe_stdt_b12()
        config.depth, config.relative, config.temporal_depth, config.classes = options.depth, relative, 0, 0
        model = config.build().to(device, dtype)
        for block in model.spatial:
            if block.attn.rpe_q is not None:
                torch.nn.init.normal_(block.attn.rpe_q, std=0.1)
        return model

    clock = time.process_time if device.type == "cpu" else time.perf_counter
    video = torch.randn(1, 3, options.frames, 224, 224, device=device, dtype=dtype)
    without, model = encoder(False), encoder(True)

    def forward(net: RPESTDT) -> None:
        with torch.no_grad():
            net(video)

    def forward_and_backward(net: RPESTDT) -> None:
        net.zero_grad()
        net(video).float().square().sum().backward()

    print(
        f"{options.frames} frames, {options.depth} blocks, {options.dtype}, {device}, {torch.get_num_threads()} "
        f"threads, torch {torch.__version__}"
    )
    for name, work in (("forward", forward), ("forward + backward", forward_and_backward)):
        best: dict[str, float] = {}
        for round_ in range(options.rounds + 1):
            for way in ("without", *WAYS):
                patch = mock.patch.object(Attention, "positions", WAYS.get(way, Attention.positions))
                with patch:
                    begin = clock()
                    work(without if way == "without" else model)
                    synchronize(device)
                    elapsed = 1e3 * (clock() - begin)
                if round_:  # the first warms up
                    best[way] = min(best.get(way, elapsed), elapsed)
        for way, milliseconds in best.items():
            print(f"{name:19} {way:8} {milliseconds:8.1f} ms   {milliseconds / best['without']:.3f} × without")


if __name__ == "__main__":
    main()
