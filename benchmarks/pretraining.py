"""Masked pretraining (VideoMAE): the time of a training step by the fraction of tokens that is hidden, in one run.

    python benchmarks/pretraining.py [--model videomae_s] [--frames 16] [--size 224] [--batch 2] [--repeats 5]

The encoder computes the kept tokens alone, so its time falls with the ratio; the decoder sees all tokens at any ratio,
unless it rebuilds half of the positions (V2's ``cells``). Prints times and asserts nothing about them. ``training
on whole clips`` is the same encoder with a classifier.
"""

from __future__ import annotations

import argparse

import torch
from side_by_side import Work, compare, dtype_option, environment, options_of
from torch import Tensor

from gesta.config import replace
from gesta.model import VideoModel
from gesta.models import model_config
from gesta.models.vit import ViTConfig
from gesta.pretraining.videomae import VideoMAEConfig, videomae_of
from gesta.recipes.pretrain import videomae

RATIOS = (0.9, 0.75, 0.5)


def models(name: str, frames: int, size: int) -> dict[str, VideoModel]:
    """What is compared: pretraining of several ratios, and the training of the same encoder on whole clips."""
    encoder = model_config(name)
    assert isinstance(encoder, ViTConfig)
    encoder.clip = replace(encoder.clip, frames=frames, size=size)
    published = videomae(name).model
    assert isinstance(published, VideoMAEConfig)
    decoder = {f"decoder_{field}": getattr(published, f"decoder_{field}") for field in ("width", "depth", "heads")}
    made = {f"{ratio:.0%} hidden": videomae_of(encoder, ratio=ratio, **decoder) for ratio in RATIOS}
    made[f"{RATIOS[0]:.0%} hidden, half of it rebuilt"] = replace(made[f"{RATIOS[0]:.0%} hidden"], rebuilt="cells")
    return {**{name: config.build() for name, config in made.items()}, "training on whole clips": encoder.build()}


def step(model: VideoModel, video: Tensor, options: argparse.Namespace) -> None:
    """A training step, forward and backward."""
    model.train().zero_grad()
    dtype = getattr(torch, options.dtype)
    with torch.autocast(video.device.type, dtype, enabled=dtype != torch.float32):
        scores, losses = model(video, with_losses=True)
        loss = sum(losses.values()) if losses else scores.float().square().mean()
    loss.backward()


def main() -> None:
    parser = options_of(__doc__, batch=2, repeats=5)
    dtype_option(parser)
    parser.add_argument("--model", default="videomae_s", help="a plain video ViT (default %(default)s)")
    parser.add_argument("--frames", type=int, default=16, help="of a clip (default %(default)s)")
    parser.add_argument("--size", type=int, default=224, help="its side in pixels (default %(default)s)")
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.manual_seed(0)
    video = torch.randn(options.batch, 3, options.frames, options.size, options.size, device=device)
    compared = {n: m.to(device) for n, m in models(options.model, options.frames, options.size).items()}
    ways: dict[str, Work] = {name: lambda model=model: step(model, video, options) for name, model in compared.items()}
    compare(
        f"{options.model}, {environment(options)}, {tuple(video.shape)}",
        ways,
        device,
        options.repeats,
        first="the first",
    )


if __name__ == "__main__":
    main()
