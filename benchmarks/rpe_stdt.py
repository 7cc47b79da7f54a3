"""What relative positions cost: RPE-STDT's spatial encoder beside the same ViT without them.

    python benchmarks/rpe_stdt.py [--device cuda] [--frames 8] [--depth 12] [--dtype bfloat16]

Prints milliseconds of the encoder (forward; forward and backward) by way of adding relative positions to the scores,
and the ratio to the encoder without any; asserts nothing about time. ``gather`` is ours; ``flat`` reads the products
with a flat index as iRPE's public code does without its compiled operator; ``naive`` makes a vector per pair of tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from unittest import mock

import torch
from side_by_side import compare, dtype_option, environment, options_of, smoke_option
from torch import Tensor

from gesta.config import replace
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
    parser = options_of(__doc__, batch=1, repeats=3)
    smoke_option(parser)
    dtype_option(parser)
    parser.add_argument("--frames", type=int, default=8, help="frames of a clip")
    parser.add_argument("--depth", type=int, default=12)
    options = parser.parse_args()
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    frames, depth = (2, 1) if options.smoke else (options.frames, options.depth)

    def encoder(relative: bool) -> RPESTDT:
        torch.manual_seed(0)
        config = replace(rpe_stdt_b12(), depth=depth, relative=relative, temporal_depth=0, classes=0)
        model = config.build().to(device, dtype)
        for block in model.spatial:
            if block.attn.rpe_q is not None:
                torch.nn.init.normal_(block.attn.rpe_q, std=0.1)
        return model

    video = torch.randn(options.batch, 3, frames, 224, 224, device=device, dtype=dtype)
    encoders = {"without": encoder(False)} | dict.fromkeys(WAYS, encoder(True))

    def forward(way: str) -> None:
        with torch.no_grad(), mock.patch.object(Attention, "positions", WAYS.get(way, Attention.positions)):
            encoders[way](video)

    def forward_and_backward(way: str) -> None:
        encoders[way].zero_grad()
        with mock.patch.object(Attention, "positions", WAYS.get(way, Attention.positions)):
            encoders[way](video).float().square().sum().backward()

    print(f"{frames} frames, {depth} blocks, {environment(options)}")
    for name, work in (("forward", forward), ("forward and backward", forward_and_backward)):
        ways = {way: partial(work, way) for way in encoders}
        compare(name, ways, device, options.repeats, first="without")


if __name__ == "__main__":
    main()
