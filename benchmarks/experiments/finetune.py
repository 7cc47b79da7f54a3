"""Accuracy of a tiny model that is trained on few clips, from random weights or from weights of other actions.

    python benchmarks/experiments/finetune.py MARIONETTE WEIGHTS [--model NAME] [--per-class 8] [--epochs 25]
                                   [--seeds 0 1 2] [--rates 1e-3 3e-4 …] [--starts random pretrained decay lora]

Half of the twelve actions, all clips, stand for the videos that others have trained on: the model is trained on them
once, and WEIGHTS keeps it. Of the other half some clips of each action of the training split are trained on, and those
of the other splits, with other subjects and cameras, are scored: one clip of each, its central crop. ``decay`` is
``pretrained`` with a layer decay of 0.75, ``lora`` with adapters of rank 8.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from gesta.checkpoint import save_model
from gesta.checkpoint.weights import import_weights
from gesta.data.samples import TestViews
from gesta.marionette.dataset import Marionette
from gesta.model import VideoModel, to_clips
from gesta.models import model_config
from gesta.recipe import EvaluateConfig, LoRA, TrainConfig
from gesta.records import Record
from gesta.training.lora import add_adapters
from gesta.training.optim import build_optimizer, freeze, frozen_prefixes, learning_rate, set_learning_rate

BATCH = 16
PRETRAINING = TrainConfig(epochs=30, lr=1e-3, warmup_epochs=2, warmup_lr=1e-6, min_lr=1e-6, label_smoothing=0.1)


def load_clips(records: list[Record], model: VideoModel, views: int) -> tuple[Tensor, Tensor]:
    """Clips ``(videos, views, C, T, H, W)``, and the labels."""
    clip = model.config.clip
    of_videos = TestViews(records, clip, EvaluateConfig(clips=views))
    clips = [to_clips(of_videos[i]["video"][None], clip) for i in range(len(records))]  # type: ignore[index]
    return torch.stack(clips), torch.tensor([record.label for record in records])


def train(model: VideoModel, clips: Tensor, labels: Tensor, config: TrainConfig, seed: int) -> None:
    """Passes over random views of the clips, shifted by up to 4 pixels."""
    prefixes = frozen_prefixes(model, config)
    freeze(model, prefixes)
    optimizer, generator = build_optimizer(model, config), torch.Generator().manual_seed(seed)
    count = len(clips)
    for epoch in range(config.epochs):
        order = torch.randperm(count, generator=generator)
        for step in range(max(1, count // BATCH)):
            set_learning_rate(optimizer, learning_rate(config, epoch + step / max(1, count // BATCH)))
            chosen = order[step * BATCH : (step + 1) * BATCH]
            view = torch.randint(clips.shape[1], (len(chosen),), generator=generator)
            y, x = torch.randint(-4, 5, (2,), generator=generator).tolist()
            scores = model.train()(clips[chosen, view].roll((y, x), (-2, -1)))
            assert isinstance(scores, Tensor)
            loss = functional.cross_entropy(scores, labels[chosen], label_smoothing=config.label_smoothing)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_grad or float("inf"))
            optimizer.step()
            optimizer.zero_grad()


@torch.inference_mode()
def accuracy(model: VideoModel, clips: Tensor, labels: Tensor) -> float:
    """Percent."""
    scores = [model.eval()(part[:, part.shape[1] // 2]).argmax(1) for part in clips.split(64)]  # type: ignore[union-attr]
    return 100 * (torch.cat(scores) == labels).float().mean().item()


def few(records: list[Record], per_class: int, seed: int) -> list[Record]:
    """So many of each class."""
    order = torch.randperm(len(records), generator=torch.Generator().manual_seed(seed)).tolist()
    chosen: dict[object, list[Record]] = {}
    for i in order:
        chosen.setdefault(records[i].label, []).append(records[i])
    return [record for group in chosen.values() for record in group[:per_class]]


def run(name: str, weights: Path, start: str, rate: float, data: tuple[Tensor, ...], epochs: int, seed: int) -> float:
    """Accuracy of one training."""
    clips, labels, test_clips, test_labels = data
    torch.manual_seed(seed)
    model = model_config(name, classes=int(labels.max()) + 1, dropout=0.2, drop_path=0.1).build()
    config = TrainConfig(epochs=epochs, lr=rate, warmup_epochs=None, warmup_lr=None, min_lr=None, label_smoothing=0.1)
    config.layer_decay = 0.75 if start == "decay" else 1.0
    if start != "random":
        import_weights(model, weights)
    if start == "lora":
        config.lora = LoRA()
        add_adapters(model, config.lora)
    train(model, clips, labels, config, seed)
    return accuracy(model, test_clips, test_labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root")
    parser.add_argument("weights", type=Path)
    parser.add_argument("--model", default="vit_tiny")
    parser.add_argument("--per-class", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 3e-4, 1e-4, 3e-5, 1e-5])
    parser.add_argument("--starts", nargs="+", default=["random", "pretrained", "decay"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    source = Marionette(root=options.root)
    names = source.classes()
    assert isinstance(names, list)
    half = len(names) // 2
    records = {split: source.records(split) for split in ("train", "val", "test")}
    if not options.weights.exists():
        everything = list({r.name: r for split in records.values() for r in split if r.label < half}.values())  # type: ignore[operator]
        torch.manual_seed(0)
        model = model_config(options.model, classes=half).build()
        clips, labels = load_clips(everything, model, 3)
        train(model, clips, labels, PRETRAINING, 0)
        print(
            f"{len(everything)} clips of {half} actions: {accuracy(model, clips, labels):.1f} % of them after training"
        )
        save_model(options.weights, model, names[:half])
    own = {split: [r for r in of_split if r.label >= half] for split, of_split in records.items()}  # type: ignore[operator]
    model = model_config(options.model, classes=half).build()
    test_clips, test_labels = load_clips([*own["val"], *own["test"]], model, 1)
    loaded = {seed: load_clips(few(own["train"], options.per_class, seed), model, 3) for seed in options.seeds}
    print(
        f"{options.model}, {options.per_class} clips of each of {half} actions, {options.epochs} epochs of batches of "
        f"{BATCH}; {len(test_labels)} clips scored; mean and deviation of {len(options.seeds)} seeds"
    )
    print(f"| learning rate | {' | '.join(options.starts)} |\n|---|{'---:|' * len(options.starts)}")
    for rate in options.rates:
        cells = []
        for start in options.starts:
            of_seeds = [
                run(options.model, options.weights, start, rate, (clips, labels - half, test_clips, test_labels - half),
                    options.epochs, seed)
                for seed, (clips, labels) in loaded.items()
            ]  # fmt: skip
            spread = statistics.stdev(of_seeds) if len(of_seeds) > 1 else 0.0
            cells.append(f"{statistics.mean(of_seeds):.1f} ± {spread:.1f}")
        print(f"| {rate:g} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
