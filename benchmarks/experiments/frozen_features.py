"""Plug-ins on features that mean something: maps of a frozen EfficientNet-Lite0, trained on ImageNet or not at all.

    python benchmarks/experiments/frozen_features.py ../shared/videos/egogestar --seeds 0 1 2
    python benchmarks/experiments/frozen_features.py --marionette data/marionette --seeds 0 1 2

The maps before the network's twelfth block, 112 channels at 7 × 7 positions of 8 frames of 112 px, are computed
once, of some augmented copies of each training clip and of the clip as it is tested. On them are trained: a vector for
each frame, the plug-in, and a head that is the same for all (a linear layer to 32 channels, one from all positions of a
frame to 128 values, their mean over frames, a linear classifier). ``in order`` has no plug-in, and a classifier of the
values of all frames instead of their mean. The trunk is never trained.

The table has top-1 of each seed (of EgoGestAR the mean of three folds), mean ± deviation of seeds, and, over all runs,
top-1 on the training clips as they are tested and on the test clips with frames reversed and all replaced by the middle
one, as the head sees them.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gesta.checkpoint.weights import import_weights
from gesta.config import copy, replace
from gesta.data.frame_cache import choose_cache
from gesta.data.samples import TestViews, TrainingClips, collate
from gesta.marionette.dataset import Marionette
from gesta.model import Grid, VideoModel, to_clips
from gesta.recipe import TrainConfig
from gesta.recipes.experiments import LITE0, PLUG_INS, gestures, lite0
from gesta.records import Record

BLOCK, SIZE, COPIES, EPOCHS, BATCH = 11, 112, 4, 25, 16

STARTS = ("ImageNet", "random")
"""Weights of the trunk."""

ARMS = ("averaging", "in order", *(name for name in PLUG_INS if name != "averaging"))


class Head(nn.Module):
    """What is trained; takes maps ``(B, C, T, H, W)``."""

    def __init__(self, grid: Grid, classes: int, arm: str) -> None:
        super().__init__()
        channels, frames, height, width = grid
        self.time = nn.Parameter(0.5 * torch.randn(channels, frames, 1, 1))  # maps are standardised
        layer = PLUG_INS.get(arm)
        self.plug_in = nn.Identity() if layer is None else copy(layer).build(grid)
        self.project = nn.Linear(channels, 32)
        self.frame = nn.Linear(32 * height * width, 128)
        self.keeps_order = arm == "in order"
        self.classifier = nn.Linear(128 * (frames if self.keeps_order else 1), classes)
        self.dropout = nn.Dropout(0.5)

    def forward(self, maps: Tensor) -> Tensor:
        maps = self.project(self.plug_in(maps + self.time).permute(0, 2, 3, 4, 1))
        values = F.relu(self.frame(self.dropout(maps.flatten(2))))
        pooled = values.flatten(1) if self.keeps_order else values.mean(1)
        scores: Tensor = self.classifier(self.dropout(pooled))
        return scores


@torch.inference_mode()
def maps_of(model: VideoModel, video: Tensor) -> Tensor:
    """Maps before :data:`BLOCK` of clips ``(B, V, T, C, H, W)`` uint8."""
    state = model.stem(to_clips(video, model.config.clip))
    for block in model.blocks[:BLOCK]:
        state = block(state)
    return model.to_grid(state).clone()


def compute_maps(model: VideoModel, records: list[Record], classes: list[str]) -> Tensor:
    """``(COPIES + 1, N, C, T, H, W)``; the last is of the clips as they are tested."""
    recipe = gestures()
    training = TrainingClips(records, model.config.clip, recipe.train, classes)
    testing = TestViews(records, model.config.clip, recipe.evaluate)
    training.cache, _ = choose_cache("auto", training.readings())
    testing.cache = training.cache
    copies = [[training[epoch, index] for index in range(len(records))] for epoch in range(COPIES)]
    copies.append([testing[index] for index in range(len(records))])  # type: ignore[misc]
    batches = ([samples[i : i + 8] for i in range(0, len(records), 8)] for samples in copies)
    return torch.stack([torch.cat([maps_of(model, collate(part)["video"]) for part in each]) for each in batches])


def train_head(maps: Tensor, labels: Tensor, train: Tensor, arm: str, classes: int, config: TrainConfig) -> Head:
    """Train on the clips with the numbers ``train``."""
    torch.manual_seed(config.seed)
    head = Head(tuple(maps.shape[2:]), classes, arm).train()  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3, weight_decay=0.05)
    steps = -(-len(train) // BATCH) * EPOCHS
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps, pct_start=0.1)
    for epoch in range(EPOCHS):
        for part in train[torch.randperm(len(train))].split(BATCH):
            copies = torch.randint(COPIES, (len(part),)) if epoch else torch.zeros(len(part), dtype=torch.int64)
            loss = F.cross_entropy(head(maps[copies, part]), labels[part], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(head.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return head.eval()


@torch.inference_mode()
def accuracies(head: Head, maps: Tensor, labels: Tensor, train: Tensor, test: Tensor) -> list[float]:
    """Top-1 in percent: test, training, test reversed, test with its middle frame alone."""

    def top1(clips: Tensor, which: Tensor) -> float:
        answers = torch.cat([head(part).argmax(-1) for part in clips.split(32)])
        return 100 * (answers == labels[which]).double().mean().item()

    tested = maps[-1]
    middle = tested.shape[2] // 2
    still = tested[test, :, middle : middle + 1].expand_as(tested[test])
    return [top1(tested[test], test), top1(tested[train], train), top1(tested[test].flip(2), test), top1(still, test)]


def splits_of(options: argparse.Namespace) -> tuple[list[Record], list[str], list[tuple[Tensor, Tensor]]]:
    """All clips, the classes, and the numbers of training and test clips of each fold."""
    if options.marionette:
        datasets = [Marionette(root=options.marionette, held_out="both")]
    else:
        datasets = [gestures(fold=fold, root=options.root).data for fold in (1, 2, 3)]  # type: ignore[misc]
    parts = [(data.records("train"), data.records("test")) for data in datasets]
    known = {record.path: record for train, test in parts for record in [*train, *test]}
    numbers = {path: number for number, path in enumerate(known)}
    folds = [tuple(torch.tensor([numbers[r.path] for r in part]) for part in pair) for pair in parts]
    return list(known.values()), datasets[0].classes(), folds  # type: ignore[return-value]


def network(start: str, classes: int) -> VideoModel:
    recipe = lite0()
    torch.manual_seed(0)
    recipe.model.clip = replace(recipe.model.clip, size=SIZE)
    model = replace(recipe.model, classes=classes).build().eval()
    if start == "ImageNet":
        import_weights(model, LITE0, 0.5)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", nargs="?", default="../shared/videos/egogestar", help="folder of EgoGestAR")
    parser.add_argument("--marionette", help="folder of Marionette's videos instead")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(default 0 1 2)")
    parser.add_argument("--maps", type=Path, help="folder in which the maps are kept for the next time")
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=STARTS, help="(default: both)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    records, classes, folds = splits_of(options)
    labels = torch.tensor([record.label for record in records])
    sizes = ", ".join(f"{len(train)} + {len(test)}" for train, test in folds)
    print(f"{len(records)} clips, training + test: {sizes}; {len(classes)} classes; {EPOCHS} epochs\n")
    print(f"| | {' | '.join(f'seed {s}' for s in options.seeds)} | mean | train | reversed | still |")
    print(f"|---|{'---:|' * (len(options.seeds) + 4)}", flush=True)
    for start in options.starts:
        kept = options.maps and options.maps / f"{start}-{'marionette' if options.marionette else 'egogestar'}.pt"
        if kept and kept.is_file():
            maps = torch.load(kept, weights_only=True)
        else:
            maps = compute_maps(network(start, len(classes)), records, classes)
            if kept:
                kept.parent.mkdir(parents=True, exist_ok=True)
                torch.save(maps, kept)
        maps = (maps - maps.mean((0, 1, 3, 4, 5), keepdim=True)) / maps.std((0, 1, 3, 4, 5), keepdim=True)
        for arm in ARMS:
            rows = []
            for seed in options.seeds:
                config = replace(gestures().train, seed=seed)
                heads = [train_head(maps, labels, train, arm, len(classes), config) for train, _ in folds]
                measured = [accuracies(head, maps, labels, *fold) for head, fold in zip(heads, folds)]
                rows.append([statistics.fmean(column) for column in zip(*measured)])
            top1 = [row[0] for row in rows]
            deviation = f" ± {statistics.stdev(top1):.1f}" if len(top1) > 1 else ""
            others = " | ".join(f"{statistics.fmean(column):.1f}" for column in list(zip(*rows))[1:])
            cells = " | ".join(f"{value:.1f}" for value in top1)
            mean = f"{statistics.fmean(top1):.1f}{deviation}"
            print(f"| {start}, {arm} | {cells} | {mean} | {others} |", flush=True)


if __name__ == "__main__":
    main()
