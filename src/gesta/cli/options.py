"""What verbs have in common: how they are added, how words of users become objects, how results are printed."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from gesta.errors import GestaError

if TYPE_CHECKING:
    from gesta.records import DataConfig

T = TypeVar("T")


class Verbs:
    """Verbs of one level: of ``gesta``, or of a group such as ``gesta analyse``.

    Args:
        parser: of that level.
        metavar: what stands for a verb in the usage line.
    """

    def __init__(self, parser: argparse.ArgumentParser, metavar: str) -> None:
        self.parsers = parser.add_subparsers(metavar=metavar, required=True)

    def add(self, name: str, verb: Any, text: str, fields: bool = False, result: bool = True) -> Any:
        """Add a verb; its options are added to what is returned.

        Args:
            name: the word that users write.
            verb: called with the options and the flags of fields; returns the exit status or nothing.
            text: one line of help.
            fields: dotted flags (``--train.lr 1e-4``) are allowed.
            result: it prints a result, with ``--json`` as JSON.
        """
        sub = self.parsers.add_parser(name, help=text, description=text, allow_abbrev=False)
        sub.set_defaults(verb=verb, takes_fields=fields, parser=sub, json=False)
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        if result:
            sub.add_argument("--json", action="store_true", help="print the result as JSON")
        return sub

    def group(self, name: str, text: str) -> Verbs:
        """Add a word that verbs follow."""
        return Verbs(self.parsers.add_parser(name, help=text, description=text), "WHAT")


def trust_option(sub: Any) -> None:
    sub.add_argument("--trust-code", action="store_true", help="let a file name classes outside gesta (it runs code)")


def without_fields(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Take dotted flags and their values (``--train.lr 1e-4``) apart from the rest; argparse would guess about them."""
    parts: tuple[list[str], list[str]] = ([], [])
    dotted = False
    for argument in arguments:
        if argument.startswith("--"):
            dotted = "." in argument.split("=")[0]
        parts[dotted].append(argument)
    return parts


def with_fields(obj: T, flags: list[str], program: str) -> T:
    """Change fields of a config object by flags (``--train.lr 1e-4``); misspelt ones are refused with suggestions."""
    if not flags:
        return obj
    import tyro

    return tyro.cli(
        type(obj),
        default=obj,
        args=flags,
        prog=program,
        config=(tyro.conf.FlagConversionOff, tyro.conf.AvoidSubcommands),
    )


def data_source(source: str, flags: list[str], program: str) -> DataConfig:
    """A data set from a short name, a folder with a folder per class, or a list file, with its fields changed."""
    from gesta.data.lists import Folder, Lists
    from gesta.datasets import DATASETS, data_config

    path = Path(source)
    if path.is_dir():
        return with_fields(Folder(root=source), flags, program)
    if path.is_file():
        return with_fields(Lists(train=source), flags, program)
    if source in DATASETS:
        return with_fields(data_config(source), flags, program)
    raise GestaError(f"{source} is neither a folder, a list file nor a data set ({', '.join(DATASETS)})")


def result_file(path: str) -> Path:
    found = Path(path)
    return found / "result.json" if found.is_dir() else found


def numbers(text: str) -> tuple[float, ...]:
    """Numbers with commas between them."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not numbers with commas between them") from None


def whole_numbers(text: str) -> tuple[int, ...]:
    """Whole numbers with commas between them."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not whole numbers with commas between them") from None


def place(text: str) -> tuple[int, int]:
    """Row and column."""
    try:
        row, column = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a row and a column, 7,7") from None
    return row, column


def count(text: str) -> int:
    """A number from 1 on."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


def frame_rate(text: str) -> float | None:
    """Frames per second; None for ``keep``."""
    return None if text == "keep" else float(text)


def views(text: str) -> tuple[int, str]:
    """How many views, as a number and in words. Papers disagree about the order in "3x4", so that is refused."""
    if text.isdecimal() and int(text):
        return int(text), f"{text} view" + "s" * (int(text) > 1)
    found = {unit: int(n) for n, unit in re.findall(r"([1-9]\d*) *(clip|crop)s?\b", text)}
    if len(found) < 2 or not re.fullmatch(r"\d+ *(clip|crop)s? *[x×*,]? *\d+ *(clip|crop)s?", text):
        raise argparse.ArgumentTypeError(f'{text!r} is neither a number nor words such as "4 clips x 3 crops"')
    words = (f"{found[unit]} {unit}" + "s" * (found[unit] > 1) for unit in ("clip", "crop"))
    return found["clip"] * found["crop"], " × ".join(words)


def recipe_options(sub: Any) -> None:
    sub.add_argument("--model", metavar="NAME", help="another model (all: gesta models)")
    sub.add_argument("--data", metavar="NAME", help="another data set; marionette rehearses the recipe at tiny size")


def print_results(options: argparse.Namespace, *results: Any) -> None:
    if options.json:
        values = [result.to_json() for result in results]
        print(json.dumps(values[0] if len(values) == 1 else values, indent=2))
    else:
        print("\n\n".join(str(result) for result in results))
