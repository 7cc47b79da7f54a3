"""``gesta demo``: everything gesta does, once, on the synthetic data set, in minutes on two CPU cores."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from gesta.analysis.figures import write_figure
from gesta.analysis.report.page import write_report
from gesta.analysis.sources import read_clip
from gesta.analysis.warp import draw_warps, measure_warp
from gesta.checkpoint import load
from gesta.checkpoint.hub import resolve
from gesta.claims.ctn import STEM_LINEAR, TOKENS, TUBE_LINEAR
from gesta.claims.metrics import right_order, shuffled, theta_follows
from gesta.config import replace, to_json
from gesta.curation.check import check
from gesta.curation.contact_sheet import contact_sheet
from gesta.errors import GestaError
from gesta.evaluation.result import Result
from gesta.files import make_folder, write_text
from gesta.marionette.dataset import family_clips, make_set, split_of
from gesta.marionette.files import read_manifest
from gesta.marionette.layouts.layout import LAYOUT_DATA, data_fields, make_layout
from gesta.prediction.predict import predict
from gesta.processes import cpu_cores
from gesta.recipe import Recipe
from gesta.recipes.address import find_recipe, miniature
from gesta.recipes.experiments import LITE0, lite0_probe
from gesta.recipes.synthetic import demo
from gesta.training.loop import train

RECIPES = {
    "ucf101": "stan.ucf101",
    "hmdb51": "rpe_stdt.hmdb51",
    "kinetics400": "ata.kinetics400",
    "something_v1": "std_former.something_v1",
    "something_v2": "ata.something_v2",
    "diving48": "ctn.diving48",
    "epic_kitchens": "ctn.epic_kitchens",
    "ntu": "mfst.ntu",
    "isogd": "mfst.isogd",
}
"""A recipe of a paper that uses the data set, by layout."""

CLASSES = 4


def run_layouts(out: Path, clips: int, epochs: int, layouts: Sequence[str] = tuple(RECIPES), size: int = 64) -> bool:
    """For each data set: make videos laid out as it is, check them, train a recipe's miniature, test with its views.

    Prints a table. Videos and runs that exist already are used. One layout that fails does not stop the others.

    Args:
        out: each layout's videos lie in ``NAME/videos`` below it, its run in ``NAME/run``.
        clips: number of clips of each layout, of four classes together.
        epochs: of training.
        layouts: those to run.
        size: height and width of the videos in pixels.

    Returns:
        whether all of them went well.
    """
    began = time.monotonic()
    rows, failed = [], False
    for number, layout in enumerate(layouts, 1):
        _say(began, f"{number}/{len(layouts)} {layout}: {RECIPES[layout]}")
        start = time.monotonic()
        try:
            result = _run_layout(layout, out / layout, clips, epochs, size)
        except (GestaError, ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
            failed, result = True, f"failed: {error}"
        rows.append(f"{layout:15}{RECIPES[layout]:25}{result}  {time.monotonic() - start:6.0f} s")
        print(rows[-1], flush=True)
    _say(began, "all layouts")
    print(f"{'layout':15}{'recipe':25}{'videos':>6}{'steps':>6}  {'views':24}{'top-1':>6}   seconds")
    print("\n".join(rows))
    return not failed


def _run_layout(layout: str, out: Path, clips: int, epochs: int, size: int) -> str:
    """Make, check, train, evaluate; the middle of a row of the table."""
    # so few videos are made sooner than other processes start
    print(make_layout(out / "videos", layout, clips, workers=1, size=size, classes=CLASSES))
    recipe, location = find_recipe(RECIPES[layout]), data_fields(layout, str(out / "videos"))
    # the recipe's data set keeps its other fields; a layout without a recipe for it is read by its default
    same = type(recipe.data) is LAYOUT_DATA[layout]
    data = replace(recipe.data, **location) if same else LAYOUT_DATA[layout](**location)
    report = check(data, workers=0, progress=False)
    if not report.ok:
        raise GestaError(f"{out / 'videos'} is not clean: {report.findings[0].text}")
    small = miniature(recipe, data)
    small.train = replace(small.train, epochs=epochs, batch_size=4, warmup_epochs=0, validate_every=0, workers=0)
    small.evaluate = replace(small.evaluate, workers=0)
    run = out / "run"
    if not (run / "result.json").is_file():
        train(small, run, resume=(run / "last.ckpt").is_file(), quiet=True)
    result = Result.read(run / "result.json")
    if result.failures:
        raise GestaError(f"{run}: {len(result.failures)} videos failed, the first is {result.failures[0]}")
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    steps = sum(entry["kind"] == "step" for entry in log)
    return f"{report.videos:6}{steps:6}  {result.protocol.views:24}{result.headline or 0:6.1f}"


SIZE = 80
"""Height and width of the demo's videos in pixels, of which the network sees 64 × 64."""

FEWEST = 48
"""Clips that are enough for all splits of held-out subjects and cameras."""

CLAIM_SIZE, CLAIM_EPOCHS = 64, 24
"""The same of :func:`run_claim`, whose networks see 48 × 48, and its epochs."""


def run_demo(out: Path, clips: int, epochs: int | None = None) -> None:
    """Make videos, train with and without STAN, evaluate on held-out subjects and cameras, report, explain, predict.

    What exists already (videos, a finished or interrupted run) is used.

    Args:
        out: run folder; the run without STAN lies beside it, and the videos under ``marionette``.
        clips: number of videos to make.
        epochs: of training, if not the recipe's.

    Raises:
        GestaError: so few clips that none is left to train or test with, or the training without STAN failed.
    """
    began = time.monotonic()
    videos, plain = out.parent / "marionette", out.parent / f"{out.name}-without-stan"
    recipe = demo(str(videos))
    if epochs is not None:
        # so few have no room for the recipe's warm-up
        recipe.train.epochs, recipe.train.warmup_epochs = epochs, min(1, epochs / 2)

    _check_clips(videos, clips)
    _say(began, f"1/4 videos of an articulated puppet, in {videos}")
    print(make_set(videos, clips=clips, size=SIZE))
    sheet = contact_sheet(videos, out.parent / "marionette.png")
    print(f"what they look like: {sheet}")

    _say(began, f"2/4 training {recipe.name} in {out}, and at the same time without STAN in {plain}")
    without = demo(str(videos), stan=False)
    without.train = recipe.train
    _train_both((recipe, without), (out, plain))
    results = Result.read(out / "result.json"), Result.read(plain / "result.json")
    tops = " and ".join(f"{result.headline or 0:.1f} %" for result in results)
    print(f"\nwith and without STAN: {tops} of {results[0].counts.scored} clips of held-out subjects and cameras")

    _say(began, "3/4 the report, and what STAN does to a clip")
    model = load(out)
    test = recipe.data.records("test")
    print(f"report: {write_report(out)}")
    warps = [
        measure_warp(name, model.model, clip) for name, clip in _moved(read_clip(test[0].path, model.model.config.clip))
    ]
    print(f"warp:   {write_figure(draw_warps(warps), out / 'warp.png')}")
    follows = theta_follows(model, recipe, torch.device("cpu"))
    print(f"correlation of θ's shift with the actor's position in {len(test)} clips: {follows:.2f}")

    _say(began, f"4/4 gesta predict {out} {test[0].path}")
    for prediction in predict(model, test[0].path, top=3):
        print(prediction)
    _say(began, "done. Your own videos: gesta train finetune --data.root FOLDER (one folder per action)")


def run_claim(out: Path, clips: int) -> None:
    """Test one claim live: train two arms of ``ctn.tokens`` at the same time, once, on fewer clips, and compare them.

    Args:
        out: folder of both runs and of the videos.
        clips: number of videos to make.

    Raises:
        GestaError: so few clips that none is left to train or test with, or a training failed.
    """
    began, cpu = time.monotonic(), torch.device("cpu")
    arms, runs = (STEM_LINEAR, TUBE_LINEAR), (out / "stem", out / "tubelets")
    _check_clips(out / "marionette", clips)
    print(f"{TOKENS.name}: {TOKENS.statement}\n({TOKENS.source})")
    _say(began, f"1/3 videos of an articulated puppet, in {out / 'marionette'}")
    print(make_set(out / "marionette", clips=clips, size=CLAIM_SIZE))

    _say(began, f"2/3 training {runs[0]}, and at the same time {runs[1]}")
    recipes = [arm.make() for arm in arms]
    for recipe, run in zip(recipes, runs):
        recipe.name, recipe.train.epochs = run.name, CLAIM_EPOCHS
        recipe.data.root = str(out / "marionette")  # type: ignore[attr-defined]
    _train_both(recipes, runs)

    _say(began, "3/3 both on held-out subjects and cameras")
    top1 = [Result.read(run / "result.json").headline or 0.0 for run in runs]
    print(f"{'':18}{'top-1 %':>9}{'right order %':>15}{'frames in random order %':>26}")
    for arm, recipe, run, value in zip(arms, recipes, runs, top1):
        trained = load(run)
        order, mixed = (measure(trained, recipe, cpu) for measure in (right_order, shuffled))
        print(f"{arm.name:18}{value:9.1f}{order:15.1f}{mixed:26.1f}")
    print(f"difference: {top1[0] - top1[1]:+.1f} points, of one seed. Right order: of two actions that are each other")
    print("played backwards, of which 50 % are right by chance.")
    _say(began, f"done. With all arms and five seeds: gesta claims {TOKENS.name} --out runs/claims (docs/claims.md)")


def _check_clips(videos: Path, clips: int) -> None:
    """Refuse so few clips that held-out subjects and cameras leave none to train or to test with."""
    clips = max(clips, (read_manifest(videos) or {}).get("clips", 0))
    splits = {split_of(clip, "both") for clip in family_clips("coarse", max(clips, 0), seed=0)}
    if missing := {"train", "test"} - splits:
        raise GestaError(f"--clips {clips}: leaves no clip to {min(missing)} with; give {FEWEST} or more")


def _train_both(recipes: Sequence[Recipe], runs: Sequence[Path]) -> None:
    """Train two recipes at the same time, the second in a process of its own; each has half of the cores.

    A finished run is kept, and an interrupted one resumes.
    """
    threads = str(max(1, cpu_cores() // 2))
    log, file = runs[1].with_suffix(".log"), runs[1].with_suffix(".json")
    other = None
    if not (runs[1] / "result.json").is_file():
        command = [sys.executable, "-m", "gesta", "train", "--run", str(runs[1])]
        if (runs[1] / "last.ckpt").is_file():
            command.append("--resume")
        else:
            write_text(make_folder(file.parent) / file.name, json.dumps(to_json(recipes[1]), indent=2))
            command.append(str(file))
        # of the current folder, which may be that of others' videos, it imports nothing
        environment = os.environ | {"OMP_NUM_THREADS": threads, "PYTHONSAFEPATH": "1"}
        with log.open("w") as printed:
            other = subprocess.Popen(command, stdout=printed, stderr=printed, env=environment)
    try:
        if (runs[0] / "result.json").is_file():
            print(f"{runs[0]} holds a finished run; delete it to train again")
        else:
            with _threads(threads):
                train(recipes[0], runs[0], resume=(runs[0] / "last.ckpt").is_file())
        if other is not None and other.wait():
            raise GestaError(f"the training in {runs[1]} failed; {log} says why")
    finally:
        if other is not None and other.poll() is None:
            other.terminate()  # it can be resumed, as this one


@contextmanager
def _threads(threads: str) -> Iterator[None]:
    """So many threads of torch in this process, also where a training would choose their number."""
    before, variable = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = threads
    torch.set_num_threads(int(threads))
    try:
        yield
    finally:
        torch.set_num_threads(before)
        if variable is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = variable


def _moved(clip: Tensor) -> list[tuple[str, Tensor]]:
    """Three crops of a clip, ``(T, 3, S, S)``, that show the actor on the right, in the middle and on the left."""
    side = round(0.7 * clip.shape[-1])
    spare = clip.shape[-1] - side
    top = spare // 2
    at = {"actor on the right": 0, "actor in the middle": spare // 2, "actor on the left": spare}
    return [(name, clip[..., top : top + side, left : left + side]) for name, left in at.items()]


def run_pretrained(out: Path, clips: int) -> None:
    """Make videos, train probes on the features of EfficientNet-Lite0, and predict; what is finished is not made again.

    Args:
        out: run folder; the videos lie beside it under ``marionette``.
        clips: number of videos to make.

    Raises:
        GestaError: so few clips, or the package with the weights is not installed.
    """
    began = time.monotonic()
    videos = out.parent / "marionette"
    recipe = lite0_probe(str(videos))
    weights = resolve(LITE0).path  # before videos are made
    _check_clips(videos, clips)
    _say(began, f"1/3 videos of an articulated puppet, in {videos}")
    print(make_set(videos, clips=clips))
    _say(began, f"2/3 features of every video by a network trained on ImageNet ({weights.name}), and probes on them")
    if (out / "result.json").is_file():
        print(f"{out} holds a finished run; delete it to train again")
        print(Result.read(out / "result.json"))
    else:
        train(recipe, out)
    test = recipe.data.records("test")
    _say(began, f"3/3 gesta predict {out} {test[0].path}")
    for prediction in predict(load(out), test[0].path, top=3):
        print(prediction)
    command = (
        f"gesta train probe --model timm_frames --model.image tf_efficientnet_lite0 --init.weights {LITE0} "
        "--model.clip.mean 0.5 0.5 0.5 --model.clip.std 0.5 0.5 0.5 --data.root FOLDER"
    )
    _say(began, f"done. Your own videos: {command}")


def _say(began: float, text: str) -> None:
    print(f"\n[{time.monotonic() - began:4.0f} s] {text}", flush=True)
