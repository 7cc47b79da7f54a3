"""Accuracy of the tiny models when the clips of an optimiser step go through the network in smaller parts.

    python benchmarks/experiments/micro_batch.py MARIONETTE [--models NAME …] [--micro 1 2 4 8] [--seeds 0 1 2]
                                                       [--steps 80] [--few-clips alone]

Every step is of 8 clips of two actions; the accuracy is that on the clips trained on, in evaluation mode.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from gesta.data.samples import TestViews
from gesta.marionette.dataset import Marionette
from gesta.model import VideoModel, to_clips
from gesta.models import list_models, model_config
from gesta.recipe import EvaluateConfig, TrainConfig
from gesta.training.optim import build_optimizer, learning_rate, set_learning_rate
from gesta.training.setup import with_few_clips

FewClips = Literal["running", "alone"]

BATCH = 8
ACTIONS = (0, 1)


def load_clips(root: str, model: VideoModel) -> tuple[Tensor, Tensor]:
    """One clip of every training video of the two actions, and its label."""
    records = [r for r in Marionette(root=root).records("train") if r.label in ACTIONS]
    views = TestViews(records, model.config.clip, EvaluateConfig(clips=1))
    videos = torch.stack([views[i]["video"] for i in range(len(records))])  # type: ignore[index]
    return to_clips(videos, model.config.clip), torch.tensor([ACTIONS.index(r.label) for r in records])  # type: ignore[arg-type]


def accuracy(name: str, clips: Tensor, labels: Tensor, micro: int, seed: int, steps: int, few_clips: FewClips) -> float:
    """Percent of the clips that a model trained with passes of ``micro`` clips has right."""
    torch.manual_seed(seed)
    model = model_config(name, classes=len(ACTIONS)).build()
    config = TrainConfig(epochs=steps, lr=1e-3, warmup_epochs=steps / 15, few_clips=few_clips)
    with_few_clips(model, micro, config)
    optimizer = build_optimizer(model, config)
    order = torch.Generator().manual_seed(seed)
    for step in range(steps):
        set_learning_rate(optimizer, learning_rate(config, step))
        chosen = torch.randperm(len(clips), generator=order)[:BATCH]
        for part in chosen.split(micro):
            scores, losses = model.train()(clips[part], with_losses=True)
            loss = functional.cross_entropy(scores, labels[part]) + sum(losses.values())
            (loss * len(part) / BATCH).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_grad or float("inf"))
        optimizer.step()
        optimizer.zero_grad()
    with torch.inference_mode():
        scores = torch.cat([model.eval()(part) for part in clips.split(BATCH)])
    return 100 * float((scores.argmax(1) == labels).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", metavar="MARIONETTE")
    parser.add_argument("--models", nargs="+", default=[n for n in list_models("*_tiny") if "rgbd" not in n])
    parser.add_argument("--micro", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--few-clips", choices=["running", "alone"], default="running", help="batch norms of few clips")
    options = parser.parse_args()
    print("| model | " + " | ".join(f"{micro} per pass" for micro in options.micro) + " |")
    print("|---" * (1 + len(options.micro)) + "|", flush=True)
    for name in options.models:
        began = time.monotonic()
        clips, labels = load_clips(options.root, model_config(name, classes=2).build())
        cells = []
        for micro in options.micro:
            runs = [
                accuracy(name, clips, labels, micro, seed, options.steps, options.few_clips) for seed in options.seeds
            ]
            cells.append(" / ".join(f"{top1:.0f}" for top1 in runs))
        print(f"| `{name}` | " + " | ".join(cells) + " |", flush=True)
        print(f"{name}: {len(clips)} clips, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
