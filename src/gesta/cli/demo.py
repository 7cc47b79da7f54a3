"""The synthetic data set, a training and what follows, in one command."""

from __future__ import annotations

import argparse
from pathlib import Path

from gesta.cli.options import Commands
from gesta.errors import GestaError


def add_commands(commands: Commands) -> None:
    text = "make the synthetic data set, train, evaluate, report and predict, in minutes"
    sub = commands.add("demo", _demo, text, result=False)
    sub.add_argument("--out", help="run folder (default runs/demo, runs/layouts, runs/pretrained or runs/demo-claim)")
    sub.add_argument("--clips", type=int, help="videos to make (default 600; 400 with --claims; 16 of each layout)")
    sub.add_argument("--epochs", type=int, help="epochs of training (default: the recipe's; 2 of each layout)")
    text = "instead, for each public data set: make videos in its folders, check, train and evaluate a recipe of it"
    sub.add_argument("--all-layouts", action="store_true", help=text)

    text = "instead, in about five minutes: train probes on ImageNet features of the same videos"
    sub.add_argument("--pretrained", action="store_true", help=text)
    text = "instead, in about three minutes: test a claim of a paper live, by two trainings at the same time"
    sub.add_argument("--claims", action="store_true", help=text)


def _demo(options: argparse.Namespace) -> int:
    from gesta.cli.demo_steps import run_claim, run_demo, run_layouts, run_pretrained

    modes = [
        f"--{name}" for name in ("pretrained", "claims", "all-layouts") if getattr(options, name.replace("-", "_"))
    ]
    if len(modes) > 1:
        raise GestaError(f"{' and '.join(modes)} are different demos; give one of them")
    if options.claims and options.epochs is not None:
        raise GestaError("--claims has epochs of its own: leave --epochs out")
    if options.claims:
        run_claim(Path(options.out or "runs/demo-claim"), clips=400 if options.clips is None else options.clips)
        return 0
    if options.pretrained and options.epochs is not None:
        raise GestaError("--pretrained trains only probes: leave --epochs out")
    if options.pretrained:
        run_pretrained(Path(options.out or "runs/pretrained"), clips=600 if options.clips is None else options.clips)
        return 0
    epochs: int | None = options.epochs
    if options.all_layouts:
        clips = 16 if options.clips is None else options.clips
        return 0 if run_layouts(Path(options.out or "runs/layouts"), clips, 2 if epochs is None else epochs) else 1
    run_demo(Path(options.out or "runs/demo"), clips=600 if options.clips is None else options.clips, epochs=epochs)
    return 0
