"""Systems on the real videos of EgoGestAR's three folds: from scratch, and from EfficientNet-Lite0's ImageNet weights.

    python benchmarks/experiments/real.py ../shared/videos/egogestar --out runs/real --seeds 0 1 2

Each run is ``gesta train`` of a recipe of ``gesta/recipes/experiments.py``, in one process with one thread. Runs that
are finished are kept, a stopped one is resumed. The table has, of every row: top-1 of each seed, the mean of the three
folds (``gesta mean``); mean ± standard deviation of the seeds; and, over folds and seeds, top-1 on the training videos,
and on the test videos with their frames in reverse, in random order, and all replaced by the middle one.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from train_once import train_once

from gesta.checkpoint import load
from gesta.config import replace
from gesta.data.samples import TestViews, collate
from gesta.evaluation.mean import mean
from gesta.evaluation.result import Result
from gesta.files import write_text
from gesta.model import Insert, VideoModel, to_clips
from gesta.plugins.stan import STAN
from gesta.recipe import Recipe
from gesta.recipes.experiments import gestures, lite0
from gesta.recipes.own_videos import finetune
from gesta.records import Record

TINY = ("mfst_tiny", "st_manet_tiny", "r3d_tiny", "ctn_tiny", "timesformer_tiny")

WITH_STAN = "r3d_tiny with STAN"
"""A row: STAN before the third stage of the 3-D ResNet."""

LITE0 = (
    *(("pretrained", plug_in) for plug_in in ("averaging", "attention", "ata", "smem", "stan")),
    *((start, plug_in) for start in ("frozen", "scratch") for plug_in in ("averaging", "attention")),
)

FOLDS = (1, 2, 3)

Make = Callable[[int, str], Recipe]
"""From a fold and the data set's folder to a recipe."""


def finetuned(fold: int, root: str) -> Recipe:
    """The recipe of one's own videos as it is, but for mirroring, which would exchange classes."""
    recipe = finetune("mvitv2_tiny", data=gestures(fold=fold, root=root).data)
    recipe.train.augment.flip = 0.0
    recipe.train.validate_every = 0
    return recipe


def rows() -> dict[str, Make]:
    made: dict[str, Make] = {m: functools.partial(_gestures, m) for m in TINY}
    made |= {f"lite0 {start} {plug_in}": functools.partial(_lite0, start, plug_in) for start, plug_in in LITE0}
    return {**made, WITH_STAN: r3d_with_stan, "finetune": finetuned}


def r3d_with_stan(fold: int, root: str) -> Recipe:
    """``gesta train experiments.gestures --model r3d_tiny`` with the plug-in."""
    recipe = gestures("r3d_tiny", fold, root)
    recipe.model.inserts = [Insert(layer=STAN(), at=2)]
    return recipe


def _gestures(model: str, fold: int, root: str) -> Recipe:
    return gestures(model, fold, root)


def _lite0(start: str, plug_in: str, fold: int, root: str) -> Recipe:
    return lite0(plug_in, start, fold, root)  # type: ignore[arg-type]


def clips_of(records: list[Record], model: VideoModel) -> tuple[Tensor, Tensor]:
    """Clips ``(N, C, T, H, W)`` as they are tested, and labels."""
    views = TestViews(records, model.config.clip, replace(gestures().evaluate))
    batch = collate([views[index] for index in range(len(records))])
    return to_clips(batch["video"], model.config.clip), batch["label"]["label"]


@torch.inference_mode()
def accuracy(model: VideoModel, clips: Tensor, labels: Tensor) -> float:
    """Top-1 in percent."""
    scores = torch.cat([model(part) for part in clips.split(8)])  # type: ignore[misc]
    return 100 * (scores.argmax(-1) == labels).double().mean().item()


def measure(run: Path, recipe: Recipe) -> dict[str, float]:
    """Accuracies beside that of ``result.json``."""
    model = load(run).model
    clips, labels = clips_of(recipe.data.records("test"), model)
    frames = clips.shape[2]
    order = torch.randperm(frames, generator=torch.Generator().manual_seed(0))
    still = clips[:, :, frames // 2 : frames // 2 + 1].expand_as(clips)
    return {
        "train": accuracy(model, *clips_of(recipe.data.records("train"), model)),
        "reversed": accuracy(model, clips.flip(2), labels),
        "shuffled": accuracy(model, clips[:, :, order], labels),
        "still": accuracy(model, still, labels),
    }


def run_all(root: str, out: Path, seeds: list[int], wanted: dict[str, Make]) -> None:
    for seed in seeds:
        for name, make in wanted.items():
            for fold in FOLDS:
                run = out / f"{name.replace(' ', '-')}-{fold}-{seed}"
                recipe = make(fold, root)
                recipe.train.seed, recipe.train.workers, recipe.evaluate.workers = seed, 0, 0
                began = time.monotonic()
                train_once(recipe, run)
                if not (run / "controls.json").is_file():
                    write_text(run / "controls.json", json.dumps(measure(run, recipe)) + "\n")
                    top1 = Result.read(run / "result.json").headline
                    print(f"{run.name}: {top1:.1f} % in {time.monotonic() - began:.0f} s", flush=True)


def table(out: Path, seeds: list[int], wanted: dict[str, Make]) -> Iterator[str]:
    """Lines of a table in Markdown; a seed counts once all folds have a result."""
    controls = ("train", "reversed", "shuffled", "still")
    yield f"| | {' | '.join(f'seed {s}' for s in seeds)} | mean | {' | '.join(controls)} |"
    yield f"|---|{'---:|' * (len(seeds) + 1 + len(controls))}"
    for name in wanted:
        of_seeds: list[float] = []
        others: list[dict[str, float]] = []
        cells = []
        for seed in seeds:
            runs = [out / f"{name.replace(' ', '-')}-{fold}-{seed}" for fold in FOLDS]
            if not all((run / "controls.json").is_file() for run in runs):
                cells.append("")
                continue
            of_seeds.append(mean([(run.name, Result.read(run / "result.json")) for run in runs]).mean["top1"])
            cells.append(f"{of_seeds[-1]:.1f}")
            others += [json.loads((run / "controls.json").read_text()) for run in runs]
        if not of_seeds:
            continue
        deviation = f" ± {statistics.stdev(of_seeds):.1f}" if len(of_seeds) > 1 else ""
        means = (f"{statistics.fmean(other[control] for other in others):.1f}" for control in controls)
        yield f"| {name} | {' | '.join(cells)} | {statistics.fmean(of_seeds):.1f}{deviation} | {' | '.join(means)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", help="folder of EgoGestAR, with videos and lists")
    parser.add_argument("--out", type=Path, default=Path("runs/real"), help="folder of the runs (default %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(default 0 1 2)")
    parser.add_argument("--rows", nargs="+", choices=rows(), metavar="ROW", help="some of the table's rows alone")
    parser.add_argument("--table", action="store_true", help="print the table of what is there, and train nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    wanted = {name: make for name, make in rows().items() if not options.rows or name in options.rows}
    if not options.table:
        run_all(options.root, options.out, options.seeds, wanted)
    print("\n".join(table(options.out, options.seeds, wanted)))


if __name__ == "__main__":
    main()
