"""Commands about what the papers published."""

from __future__ import annotations

import argparse

from gesta.cli.options import RUNS, Commands, print_results, runs_folder
from gesta.files import write_text


def add_commands(commands: Commands) -> None:
    sub = commands.add("table", _table, "a paper's table with our numbers beside the paper's")
    sub.add_argument("table", metavar="PAPER.TABLE", help="such as stan.table2 (all: gesta models)")
    sub.add_argument("--runs", default=RUNS, help="folder in which runs are searched (default %(default)s)")
    sub.add_argument("--data", choices=["marionette"], help="the runs of miniatures on the synthetic data set instead")

    sub = commands.add("ledger", _ledger, "every published cost figure beside ours")
    sub.add_argument("--write", metavar="FILE", help="also write them as Markdown (docs/fidelity.md)")


def _table(options: argparse.Namespace) -> None:
    from gesta.comparison.tables import fill
    from gesta.recipes.address import find_table

    table = find_table(options.table)
    print_results(options, fill(table, runs_folder(options.runs), miniatures=options.data == "marionette"))


def _ledger(options: argparse.Namespace) -> None:
    from gesta.comparison.ledger import ledger

    published = ledger()
    print_results(options, published)
    if options.write:
        write_text(options.write, published.to_markdown())
