"""What pretraining without labels is worth on real videos: EgoGestAR with the labels of some training clips alone.

    python benchmarks/experiments/few_labels.py ../shared/videos/egogestar --out runs/few-labels --seeds 0 1 2 3 4

A tiny model is pretrained by SimMIM on the training clips of a fold without their labels, once for each fold, and then
fine-tuned with each seed; beside it the same model is trained from scratch, with equal steps and on the same clips.
Runs that are finished are kept, a stopped one is resumed; two processes may take different seeds once all folds are
pretrained. The table has top-1 on the test clips: the mean of the three folds for each seed, mean ± standard deviation
of the seeds, and the mean over seeds of the difference to scratch with its 95 % interval (Student's t), which does not
cover what another pretraining would give. ``train`` is top-1 of the labelled clips, as they are augmented, in the last
epoch.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from train_once import train_once

from gesta.analysis.figures import new_figure, write_figure
from gesta.claims.report import draw_series
from gesta.claims.statistics import interval
from gesta.config import replace
from gesta.data.parts import FewLabels, Unlabelled
from gesta.evaluation.mean import mean
from gesta.evaluation.result import Result
from gesta.pretraining.simmim import simmim_of
from gesta.recipe import EvaluateConfig, Init, Recipe
from gesta.recipes.experiments import gestures
from gesta.training.folder import BEST

FOLDS = (1, 2, 3)

STEPS = {10: 100, 25: 200, 100: 600}
"""Percent of the training clips that are labelled → steps of training, the same for both starts."""

STARTS = ("scratch", "pretrained")


def pretraining(model: str, fold: int, root: str, epochs: int) -> Recipe:
    """SimMIM on a fold's training clips without their labels."""
    recipe = gestures(model, fold, root)
    recipe.model = simmim_of(recipe.model, square=16)
    recipe.data = Unlabelled(of=recipe.data)
    recipe.train = replace(
        recipe.train,
        epochs=epochs,
        batch_size=16,
        lr=1e-3,
        warmup_epochs=epochs / 20,
        clip_grad=5.0,
        label_smoothing=0.0,
    )
    recipe.evaluate = EvaluateConfig()  # there are no classes to be evaluated
    return recipe


def training(model: str, fold: int, root: str, percent: int, weights: str) -> Recipe:
    """``experiments.gestures`` on a part of the labels; from weights unless they are empty."""
    recipe = gestures(model, fold, root)
    recipe.data = FewLabels(of=recipe.data, fraction=percent / 100)
    steps = len(recipe.data.records("train")) // recipe.train.batch_size
    recipe.train.epochs = math.ceil(STEPS[percent] / max(1, steps))
    recipe.train.warmup_epochs = recipe.train.epochs / 20
    recipe.evaluate.workers = 0
    recipe.init = Init(weights=weights, expected="those of pretraining" if weights else "")
    return recipe


def run(recipe: Recipe, folder: Path, seed: int) -> None:
    """Train unless it is done."""
    recipe.train.seed, recipe.train.workers = seed, 0
    if train_once(recipe, folder, device="cpu"):
        print(folder.name, flush=True)


def run_all(root: str, out: Path, model: str, seeds: Sequence[int], epochs: int) -> None:
    starts = {fold: out / f"{model}-pretraining-{fold}" for fold in FOLDS}
    for fold, start in starts.items():
        run(pretraining(model, fold, root, epochs), start, seed=0)
    for seed, fold in itertools.product(seeds, FOLDS):
        for percent, name in itertools.product(STEPS, STARTS):
            weights = str(starts[fold] / BEST) if name == "pretrained" else ""
            run(training(model, fold, root, percent, weights), out / f"{model}-{percent}-{name}-{fold}-{seed}", seed)


def training_accuracy(folder: Path) -> float:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line["train_top1"] for line in lines if line.get("train_top1") is not None][-1]


def folders(out: Path, model: str, percent: int, name: str, seed: int) -> list[Path]:
    """The runs of one seed, of all folds."""
    return [out / f"{model}-{percent}-{name}-{fold}-{seed}" for fold in FOLDS]


def accuracies(out: Path, model: str, seeds: Sequence[int]) -> dict[tuple[int, str], dict[int, float]]:
    """Percent of labels and start → seed → top-1, the mean of the folds; of the seeds that are done."""
    arms = list(itertools.product(STEPS, STARTS))
    done = [s for s in seeds if all((r / "result.json").is_file() for a in arms for r in folders(out, model, *a, s))]

    def top1(percent: int, name: str, seed: int) -> float:
        runs = folders(out, model, percent, name, seed)
        return mean([(run.name, Result.read(run / "result.json")) for run in runs]).mean["top1"]

    return {arm: {seed: top1(*arm, seed) for seed in done} for arm in arms}


def table(out: Path, model: str, found: dict[tuple[int, str], dict[int, float]]) -> Iterator[str]:
    """Lines of a table in Markdown."""
    seeds = list(next(iter(found.values())))
    yield f"| labels | start | {' | '.join(f'seed {seed}' for seed in seeds)} | mean | above scratch | train |"
    yield f"|---|---|{'---:|' * (len(seeds) + 3)}"
    for (percent, name), of_seeds in found.items():
        values = list(of_seeds.values())
        deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        scratch = found[percent, "scratch"]
        above = interval([value - scratch[seed] for seed, value in of_seeds.items()]) if name != "scratch" else None
        trained = statistics.fmean(training_accuracy(r) for s in seeds for r in folders(out, model, percent, name, s))
        cells = " | ".join(f"{value:.1f}" for value in values)
        mean_cell = f"{statistics.fmean(values):.1f}{deviation}"
        yield f"| {percent} % | {name} | {cells} | {mean_cell} | {above.text() if above else ''} | {trained:.1f} |"


def draw(found: dict[tuple[int, str], dict[int, float]], model: str) -> Figure:
    """Accuracy against the share of labels, a curve for each start."""
    figure = new_figure(6.4, 4.0)
    series = {name: [(p, list(found[p, name].values())) for p in STEPS] for name in STARTS}
    axis = "labels, % of the training clips"
    draw_series(figure.subplots(), series, axis, f"top-1 of {model} on EgoGestAR's test clips, %")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", help="folder of EgoGestAR, with videos and lists")
    parser.add_argument("--model", default="mfst_tiny", help="(default %(default)s)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/few-labels"), help="folder of the runs (default %(default)s)"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="(default 0 to 4)")
    parser.add_argument("--epochs", type=int, default=100, help="of pretraining (default %(default)s)")
    parser.add_argument("--table", action="store_true", help="print the table of what is there, and train nothing")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="draw the accuracies")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.table:
        run_all(options.root, options.out, options.model, options.seeds, options.epochs)
    found = accuracies(options.out, options.model, options.seeds)
    if not any(found.values()):
        raise SystemExit(f"{options.out}: holds no seed of which all runs are done; run it without --table")
    print("\n".join(table(options.out, options.model, found)))
    if options.chart:
        write_figure(draw(found, options.model), options.chart)


if __name__ == "__main__":
    main()
