"""The command ``gesta``: a module per group of verbs, which adds their options and runs them.

Everything heavy is imported inside the verb that needs it, so that ``gesta --help`` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from gesta import __version__
from gesta.cli import analyse, bench, data, demo, models, runs, tables
from gesta.cli.options import VerbParser, Verbs
from gesta.errors import GestaError
from gesta.progress import one_line, show


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the ``gesta`` command; exits with 0, 1 (something is wrong, one sentence) or 2 (usage)."""
    options = make_parser().parse_args(arguments)
    try:
        status = options.verb(options)
    except GestaError as error:
        if options.debug:
            raise
        show(f"gesta: {one_line(str(error))}", sys.stderr)
        status = 1
    except KeyboardInterrupt:
        print("gesta: interrupted", file=sys.stderr)
        status = 130
    except BrokenPipeError:
        status = 1
    sys.exit(status or 0)


def make_parser() -> VerbParser:
    """The parser of the whole command line."""
    parser = VerbParser(
        prog="gesta",
        description="Recognise human actions in video: train, evaluate, predict, explain.",
        epilog="Flags such as --train.lr 1e-4 change any field of a recipe; gesta show RECIPE prints them all.",
    )
    parser.add_argument("--version", action="version", version=f"gesta {__version__}")
    verbs = Verbs(parser, "VERB")
    for group in (demo, models, runs, tables, analyse, data, bench):  # as the help lists them
        group.add_verbs(verbs)
    return parser
