"""``gesta demo``: everything gesta does, once, on the embedded data set, in minutes on two processor cores."""

from __future__ import annotations

import time
from pathlib import Path

from gesta.analysis.report import write_report
from gesta.analysis.warp import warp_figure
from gesta.checkpoint import load_model
from gesta.data.marionette import contact_sheet, make
from gesta.evaluate import Receipt
from gesta.predict import predict
from gesta.recipes.demo import demo
from gesta.train import train


def run_demo(out: Path, clips: int, epochs: int | None = None) -> None:
    """Make videos, train, evaluate on held-out subjects and cameras, report, explain and predict.

    Whatever is already there (videos, a finished or interrupted run) is used.

    Args:
        out: run folder; the videos lie beside it under ``marionette``.
        clips: number of videos to make.
        epochs: of training, if not the recipe's.
    """
    begin = time.monotonic()
    videos = out.parent / "marionette"
    recipe = demo(str(videos))
    if epochs is not None:
        recipe.train.epochs = epochs

    _say(begin, f"1/4 videos of an articulated puppet, in {videos}")
    print(make(videos, clips=clips))
    sheet = contact_sheet(videos, out.parent / "marionette.png")
    print(f"what they look like: {sheet}")

    _say(begin, f"2/4 training {recipe.name} in {out}, then scoring held-out subjects seen by held-out cameras")
    if (out / "result.json").is_file():
        print(f"{out} holds a finished run; delete it to train again")
        print(Receipt.read(out / "result.json"))
    else:
        train(recipe, out, resume=(out / "last.ckpt").is_file())

    _say(begin, "3/4 the report, and what STAN does to a clip")
    loaded = load_model(out / "best.safetensors")
    test = recipe.data.records("test")
    print(f"report: {write_report(out)}")
    print(f"warp:   {warp_figure(loaded.model, test[0].path, out / 'warp.png')}")

    _say(begin, f"4/4 gesta predict {out} {test[0].path}")
    for prediction in predict(loaded.model, loaded.classes, [test[0].path], top=3):
        print(prediction)
    _say(begin, "done. Your own videos: gesta train finetune --data.root FOLDER (one folder per action)")


def _say(begin: float, text: str) -> None:
    print(f"\n[{time.monotonic() - begin:4.0f} s] {text}", flush=True)
