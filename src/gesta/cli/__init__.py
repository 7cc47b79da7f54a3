"""The command ``gesta``: a module per group of commands, which adds their options and runs them.

Everything heavy is imported inside the command that needs it, so that ``gesta --help`` answers at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from gesta import __version__
from gesta.cli import analyse, bench, claims, data, demo, features, hub, merge, models, runs, serve, tables
from gesta.cli.options import CommandParser, Commands, given_words
from gesta.errors import GestaError, naming_flags
from gesta.files import check_not_read, machine_fault
from gesta.progress import one_line, show


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the ``gesta`` command; exits with 0, 1 (something is wrong, one sentence) or 2 (usage)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = make_parser().parse_args(words)
    options.words = words  # for --ray, which gives them to other processes
    with _terminable(), _plain_warnings(), naming_flags(of_data=options.of_data):
        try:
            check_not_read(getattr(options, "out", None), given_words(options))
            status: Any = options.command(options)
            sys.stdout.flush()
        except SystemExit as end:  # a wrong flag, or an interrupted training, which has said so
            status = end.code
        except GestaError as error:
            if options.debug:
                raise
            status = _say(str(error))
        except KeyboardInterrupt:
            status = _say("interrupted", 130)
        except BrokenPipeError:
            status = _say("")
        except (OSError, MemoryError, RuntimeError) as error:
            if options.debug or not (sentence := machine_fault(error)):
                raise
            status = _say(sentence)
        if status in (130, 143):  # a second Ctrl-C must not break off the end of the interpreter
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.exit(status or 0)


def _say(sentence: str, status: int = 1) -> int:
    """Print why a command has ended, if there is something to say; gives the exit status."""
    if sentence:
        show(f"gesta: {one_line(sentence)}", sys.stderr)
    try:
        sys.stdout.flush()
    except OSError:  # its reader has gone or its disk is full: the interpreter must not try again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the command as Ctrl-C does, so that nothing half-written stays, with status 143."""

    def end(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.write(2, b"gesta: ended by SIGTERM\n")
        raise SystemExit(143)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Our warnings are sentences for users, who do not need the line of code that gives them."""

    def plain(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> str:
        if category is UserWarning:
            return f"gesta: {one_line(str(message))}\n"
        return before(message, category, *place, **more)

    before = warnings.formatwarning
    warnings.formatwarning = plain
    try:
        yield
    finally:
        warnings.formatwarning = before


def make_parser() -> CommandParser:
    """The parser of the whole command line."""
    parser = CommandParser(
        prog="gesta",
        description="Recognise human actions in video: train, evaluate, predict, explain.",
        epilog="Flags such as --train.lr 1e-4 change any field of a recipe; gesta show RECIPE prints them all.",
    )
    parser.add_argument("--version", action="version", version=f"gesta {__version__}")
    commands = Commands(parser, "COMMAND")
    for group in (
        demo,
        models,
        runs,
        serve,
        features,
        merge,
        tables,
        claims,
        analyse,
        data,
        hub,
        bench,
    ):  # as the help lists them
        group.add_commands(commands)
    return parser
