"""The embedded data set, a training and what follows, in one verb."""

from __future__ import annotations

import argparse
from pathlib import Path

from gesta.cli.options import Verbs


def add_verbs(verbs: Verbs) -> None:
    sub = verbs.add(
        "demo", _demo, "make the embedded data set, train, evaluate, report and predict, in minutes", result=False
    )
    sub.add_argument("--out", default="runs/demo", help="run folder (default %(default)s)")
    sub.add_argument("--clips", type=int, default=600, help="videos to make (default %(default)s)")
    sub.add_argument("--epochs", type=int, help="epochs of training (default: the recipe's)")


def _demo(options: argparse.Namespace, _: list[str]) -> None:
    from gesta.demo import run_demo

    run_demo(Path(options.out), clips=options.clips, epochs=options.epochs)
