"""What the commands share: how the command line is read, how its words become objects, how results are printed."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import inspect
import itertools
import json
import math
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar, cast, get_args, get_type_hints

from gesta.cli.field_flags import field_name, flags_with_values, read_flags
from gesta.config import GIVEN_BY_FLAGS, check, copy, reset_unused, suggest
from gesta.errors import GestaError, without_passwords
from gesta.processes import Precision
from gesta.progress import one_line, show

if TYPE_CHECKING:  # for start-up time: importing them takes numpy
    from gesta.data.shares import Share
    from gesta.evaluation.result import Result
    from gesta.recipe import Recipe
    from gesta.records import DataConfig

T = TypeVar("T")

FIELDS_HELP = "Fields are flags, too, such as {example}. gesta show prints all fields of a recipe or model."
MODEL_HELP = "run folder, .safetensors file, hf:OWNER/NAME, or name of a model (random weights)"
VIDEO_HELP = "video file or folder of frames"


class CommandParser(argparse.ArgumentParser):
    """The arguments of one command, in any order.

    Flags that the command does not define are fields of a recipe, model or data set (``--train.lr 1e-4``). argparse
    would take their values for positional arguments, so they are set apart first and given as ``options.fields``.

    Attributes:
        takes_fields: whether flags of fields are allowed.
        takes_fields_of_data: those of a data set alone; the help lists them.
        wants_optional: of a command whose only positional argument may be absent: whether the last word after a field's
            flag is that argument, and not a value of the field.
    """

    takes_fields = False
    takes_fields_of_data = False
    wants_optional: Callable[[argparse.Namespace, str], bool] | None = None

    def __init__(self, **settings: Any) -> None:
        self.flags: dict[str, argparse.Action] = {}
        self.positionals: list[argparse.Action] = []
        self.is_group = False
        self._plain: frozenset[str] = frozenset()  # words behind --, which are no flags
        super().__init__(**{"allow_abbrev": False} | settings)

    def add_argument(self, *names: Any, **settings: Any) -> argparse.Action:
        action = super().add_argument(*names, **settings)
        self.flags |= dict.fromkeys(action.option_strings, action)
        if not action.option_strings:
            self.positionals.append(action)
        return action

    def add_subparsers(self, **settings: Any) -> Any:
        self.is_group = True
        return super().add_subparsers(parser_class=CommandParser, **settings)

    def format_help(self) -> str:
        """The help as argparse writes it, and the fields of data sets, which take a second to import."""
        return super().format_help() + (_fields_of_data() if self.takes_fields_of_data else "")

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the words and exit."""
        super().error(one_line(message))

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self.is_group:  # the command's own parser reads what follows it
            return super().parse_known_args(args, namespace)
        args = list(args)
        end = args.index("--") if "--" in args else len(args)
        words, options, fields = self._sort(args[:end])
        self._plain = frozenset(args[end + 1 :])
        words += args[end + 1 :]
        if fields and not self.takes_fields:
            unknown = list(itertools.chain.from_iterable(fields))
            self.error(f"unrecognized arguments: {' '.join(unknown)}{suggest(unknown[0], self.flags)}")
        if self._lacks_words(words, options, fields):
            words = _take_words(fields, several=self.positionals[0].nargs == "+") + words
        # Positional words come first: argparse fills all positionals from the first unbroken group of words.
        namespace, unknown = super().parse_known_args([*words, *options], namespace)
        namespace.fields = list(itertools.chain.from_iterable(fields))
        return namespace, unknown

    def _sort(self, args: Sequence[str]) -> tuple[list[str], list[str], list[list[str]]]:
        """Positional words, the command's own flags with their values, and each flag of a field with its values."""
        words: list[str] = []
        options: list[str] = []
        fields: list[list[str]] = []
        target, room = options, 0.0  # the list of the current flag, and how many more values that flag takes
        for argument in args:
            if argument.startswith("--") or argument in self.flags:
                name, equals, _ = argument.partition("=")
                action = self.flags.get(name)
                if action is None:
                    self._refuse_file(argument)
                    fields.append([])
                target = fields[-1] if action is None else options
                target.append(argument)
                most = math.inf if action is None or action.nargs == "+" else 1 if action.nargs is None else 0
                room = 0 if equals else most
            elif room:
                if room == 1 and argument.startswith("-") and target is options:
                    target[-1] += f"={argument}"  # as the value of a flag
                else:
                    target.append(argument)
                room -= 1
            else:
                self._refuse_file(argument)
                words.append(argument)
        return words, options, fields

    def _refuse_file(self, word: str) -> None:
        if word.startswith("-") and os.path.lexists(word):
            self.error(f"{word}: is taken for a flag; write ./{word}, or -- before it")

    def _parse_optional(self, arg_string: str) -> Any:
        return None if arg_string in self._plain else super()._parse_optional(arg_string)

    def _lacks_words(self, words: list[str], options: list[str], fields: list[list[str]]) -> bool:
        if not fields or len(words) >= len(self.positionals):
            return False
        if self.wants_optional is None:
            return self.positionals[0].nargs != "?"
        return self.wants_optional(super().parse_known_args(options)[0], fields[-1][-1])


def _fields_of_data() -> str:
    """Lines of help that name all fields of all data sets."""
    from gesta.datasets import DATASETS, data_config

    lines = ["", "fields of the data set, as flags (--val 0.3); of a folder and of a list those of folder and lists:"]
    for name in DATASETS:
        flags = [f"--{f.name.replace('_', '-')}" for f in dataclasses.fields(data_config(name)) if f.name != "cache"]
        lines += textwrap.wrap(
            " ".join(flags), 88, initial_indent=f"  {name:17} ", subsequent_indent=" " * 20, break_on_hyphens=False
        )
    return "\n".join(lines) + "\n"


def _take_words(fields: list[list[str]], several: bool) -> list[str]:
    """Take positional words from behind a field's value (``--train.lr 1e-4 demo``); the flag keeps one value.

    Args:
        fields: flags of fields, each with its values; the words are removed from it.
        several: take all words but the first, not the last alone.
    """
    for flag_and_values in reversed(fields):
        if len(flag_and_values) > 2 and not _is_number(flag_and_values[-1]):
            begin = 2 if several else -1
            taken = flag_and_values[begin:]
            del flag_and_values[begin:]
            return taken
    return []


def _is_number(text: str) -> bool:
    with contextlib.suppress(ValueError):
        float(text)
        return True
    return False


class Commands:
    """Commands of one level: of ``gesta``, or of a group such as ``gesta analyse``.

    Args:
        parser: of that level.
        metavar: what stands for a command in the usage line.
    """

    def __init__(self, parser: argparse.ArgumentParser, metavar: str) -> None:
        self.parsers = parser.add_subparsers(metavar=metavar, required=True)

    def add(
        self,
        name: str,
        command: Callable[[argparse.Namespace], Any],
        text: str,
        fields: bool = False,
        result: bool = True,
        of_data: bool = False,
        example: str = "--train.lr 1e-4",
    ) -> CommandParser:
        """Add a command; its options are added to the parser that is returned.

        Args:
            name: the word that users write.
            command: called with the options; returns the exit status or nothing.
            text: one line of help.
            fields: flags of fields (``--train.lr 1e-4``) are allowed.
            result: it prints a result, with ``--json`` as JSON.
            of_data: its fields are those of a data set alone, ``--root`` for the ``--data.root`` of others.
            example: a flag of a field that the command takes, for its help.
        """
        epilog = FIELDS_HELP.format(example=example) if fields and not of_data else None
        sub = cast(CommandParser, self.parsers.add_parser(name, help=text, description=text, epilog=epilog))
        sub.takes_fields = fields
        sub.takes_fields_of_data = fields and of_data
        sub.set_defaults(command=command, parser=sub, json=False, of_data=of_data)
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        if result:
            sub.add_argument("--json", action="store_true", help="print the result as JSON")
        return sub

    def group(self, name: str, text: str) -> Commands:
        """Add a word that commands follow."""
        return Commands(self.parsers.add_parser(name, help=text, description=text), "WHAT")


RUNS = "runs"
"""Default folder of run folders."""

# --- options that several commands have ----------------------------------------------------------------------------


def trust_option(sub: CommandParser) -> None:
    text = "allow files to name Python classes outside gesta, which are imported: this runs their code"
    sub.add_argument("--trust-code", action="store_true", help=text)


def recipe_options(sub: CommandParser) -> None:
    sub.add_argument("--model", metavar="NAME", help="another model (all: gesta models)")
    sub.add_argument("--data", metavar="NAME", help="another data set; marionette: of a paper's recipe a small version")


def device_options(sub: CommandParser, precision: str | None = "32-true") -> None:
    """Where and how a command computes; :mod:`gesta.processes` checks both.

    Args:
        sub: the command.
        precision: the default of ``--precision``; an empty one is the recipe's, see :func:`use_precision`; None leaves
            the option out.
    """
    text = "cpu, cuda, cuda:1, mps (default: an accelerator if there is one)"
    sub.add_argument("--device", default="auto", help=text)
    if precision is not None:
        default = precision or "that of the recipe; the same as --train.precision"
        text = f"numeric precision of the computation (default {default})"
        sub.add_argument("--precision", choices=get_args(Precision), default=precision, help=text)


def share_options(sub: CommandParser, out: str = "--out", instead: str = "instead of VIDEO") -> None:
    """Which videos of a long list one job of many takes; see :mod:`gesta.data.shares`.

    Args:
        sub: the command.
        out: what its output is called.
        instead: what the list is instead of.
    """
    text = f"text file with the path of a video on each line, {instead}"
    sub.add_argument("--from", metavar="FILE", dest="listed", help=text)
    text = f"only the K-th of N parts of the videos; {out} is then the folder of the part, for gesta merge"
    sub.add_argument("--part", metavar="K/N", type=share, help=text)
    text = f"all parts on a Ray cluster, merged into {out}: HOST:PORT, auto, or local for this machine (extra ray)"
    sub.add_argument("--ray", metavar="ADDRESS", help=text)
    sub.add_argument("--parts", metavar="N", type=count, help="with --ray: in how many parts")


_FORMATS: dict[str, Literal["csv", "json", "parquet", "srt"]] = {
    ".csv": "csv",
    ".json": "json",
    ".parquet": "parquet",
    ".srt": "srt",
}


def format_of(out: str | None) -> Literal["csv", "json", "parquet", "srt"] | None:
    """The format of predictions that the ending of their file's name asks for; None if it asks for none."""
    return _FORMATS.get(Path(out or "").suffix.lower())


def use_precision(options: argparse.Namespace) -> None:
    """``--precision`` of a command that trains is the field of its recipe, so that the run's recipe keeps it."""
    if not options.precision:
        return
    if "train.precision" in named_fields(options.fields):
        options.parser.error("--precision and --train.precision are the same: give one of them")
    options.fields += ["--train.precision", options.precision]


# --- from words to objects -------------------------------------------------------------------------------------------


def named_recipe(
    address: str,
    options: argparse.Namespace,
    make: Callable[..., Recipe] | None = None,
    extra: Sequence[str] = (),
) -> Recipe:
    """The recipe that the words of a command mean: arguments of its function and fields are flags.

    Args:
        address: see :func:`gesta.recipes.address.find_recipe`.
        options: of the command, which has :func:`recipe_options`.
        make: instead of what the address names, one of the runs that it fuses.
        extra: further flags of fields, of a recipe that was made without them before.
    """
    from gesta.recipes.address import changed_alone, find_recipe, recipe_function  # for start-up time

    function = None if make else recipe_function(address)
    known = list(inspect.signature(function).parameters) if function else []
    arguments, fields = _set_apart_arguments(function, options)
    how: dict[str, Any] = {"model": options.model, "data": options.data, "trust_code": options.trust_code}
    how |= {"arguments": arguments, "make": make}
    recipe = find_recipe(address, **how, say=str if extra else _say)  # with extra flags it is said already
    changed = with_fields(recipe, options, [*fields, *extra], [f"--{name.replace('_', '-')}" for name in known])
    for sentence in changed_alone(address, changed, named_fields([*fields, *extra]), **how):
        _say(sentence)
    return changed


def given_words(options: argparse.Namespace) -> Iterator[str]:
    """All words of a command that may name what it reads; never that of ``--out``."""
    for name, value in vars(options).items():
        for word in value if isinstance(value, list | tuple) else [value]:
            if isinstance(word, str) and name not in ("out", "words", "format"):
                yield word.partition("=")[2] if word.startswith("--") else word  # --data.test=list.csv


def _say(sentence: str) -> None:
    show(one_line(sentence), sys.stderr)


def named_fields(flags: Sequence[str]) -> list[str]:
    """The dotted names of the fields that flags set."""
    return [field_name(flag) for flag in flags if flag.startswith("--")]


def _set_apart_arguments(
    function: Callable[..., Any] | None, options: argparse.Namespace
) -> tuple[dict[str, Any], list[str]]:
    """Arguments of a recipe's function that flags give (``--scale small``), and the flags of fields."""
    parameters = inspect.signature(function).parameters if function else {}
    groups = flags_with_values(options.fields)
    names = [field_name(group[0]) for group in groups]
    given = [name for name in dict.fromkeys(names) if name in parameters]
    fields = [word for name, group in zip(names, groups) if name not in given for word in group]
    weights = _weights_of_field(dict(zip(names, groups))) if "weights" in parameters else {}
    if weights and "weights" in given:
        raise GestaError("--weights and --init.weights both say which weights; leave one of them out")
    if not given:
        return weights, options.fields
    import tyro  # for start-up time

    hints = get_type_hints(function)
    kinds = {name: hints.get(name, str) for name in given}

    def parse(words: list[str]) -> Any:
        parts = [(name, kinds[name]) for name in dict.fromkeys(named_fields(words))]
        holder = dataclasses.make_dataclass("Arguments", parts, kw_only=True)
        return tyro.cli(holder, args=words, prog=options.parser.prog, config=(tyro.conf.FlagConversionOff,))

    words = [word for name, group in zip(names, groups) if name in given for word in group]
    return vars(read_flags(parse, words, kinds, options.parser.error)) | weights, fields


def _weights_of_field(flags: dict[str, list[str]]) -> dict[str, str]:
    """The argument ``weights`` that ``--init.weights`` gives a recipe's function, which may depend on it.

    Args:
        flags: name of a field → its flag with the values.
    """
    value = flags.get("init.weights", ["--init.weights="])
    text = value[1] if len(value) > 1 else value[0].partition("=")[2]
    return {"weights": text} if text not in ("", "None") else {}


def with_fields(
    obj: T, options: argparse.Namespace, flags: list[str] | None = None, arguments: Sequence[str] = ()
) -> T:
    """Change fields of a config object by flags (``--train.lr 1e-4``); misspelt ones are refused with suggestions.

    Fields that the flags make useless get their default values, unless a flag sets them, which is refused.

    Args:
        obj: stays as it is.
        options: of the command.
        flags: instead of ``options.fields``.
        arguments: further flags that the command knows, those of the recipe's function.
    """
    flags = options.fields if flags is None else flags
    if not flags:
        return obj
    names = {f.name for f in dataclasses.fields(obj)}  # type: ignore[arg-type]
    for flag in (word.partition("=")[0] for word in flags if word.startswith("--")):
        is_field = flag[2:].partition(".")[0].replace("-", "_") in names
        alone = flag.replace("--data.", "--", 1)  # as commands about a data set call it
        if alone != flag and "data" not in names and alone[2:].partition(".")[0].replace("-", "_") in names:
            options.parser.error(f"unrecognized arguments: {flag}; did you mean {alone!r}?")
        remedy = suggest(flag, [*options.parser.flags, *arguments])
        if not remedy and arguments:
            remedy = f"; beside its fields the recipe takes {' '.join(arguments)}"
        if not is_field and remedy:
            options.parser.error(f"unrecognized arguments: {flag}{remedy}")
    import tyro  # for start-up time

    settings = (tyro.conf.FlagConversionOff, tyro.conf.AvoidSubcommands)
    default = with_named_parts(obj, named_fields(flags))

    def parse(words: list[str]) -> T:
        return tyro.cli(type(obj), default=default, args=words, prog=options.parser.prog, config=settings)

    changed = read_flags(parse, flags, default, options.parser.error)
    reset_unused(changed, named_fields(flags))
    check(changed, flags=True)
    return changed


def with_named_parts(obj: T, names: Sequence[str]) -> T:
    """A copy in which a part that is None, and of which a flag names a field, has its defaults: ``train.lora.rank``
    sets ``train.lora``."""
    result = copy(obj)
    for name in names:
        owner: Any = result
        for part in name.split(".")[:-1]:
            held = {f.name: f for f in dataclasses.fields(owner)} if dataclasses.is_dataclass(owner) else {}
            if part not in held:
                break
            if getattr(owner, part) is None and (cls := held[part].metadata.get(GIVEN_BY_FLAGS)):
                setattr(owner, part, cls())
            owner = getattr(owner, part)
    return result


def data_source(source: str, options: argparse.Namespace, flags: list[str] | None = None) -> DataConfig:
    """A data set from a short name, a folder with a folder per class, or a list file, with its fields changed."""
    from gesta.data.lists import Folder, Lists  # for start-up time
    from gesta.datasets import DATASETS, data_config

    if source in DATASETS:  # the same word means the same, whatever lies in the current folder
        data = data_config(source)
    elif Path(source).is_dir():
        data = Folder(root=source)
    elif Path(source).is_file():
        data = Lists(train=source)
    else:
        raise GestaError(f"{source} is neither a folder, a list file nor a data set ({', '.join(DATASETS)})")
    data = with_fields(data, options, flags)
    if data.cache != "auto":
        raise GestaError("--cache: only trainings keep decoded frames, and this is none; leave it out")
    return data


def result_file(path: str) -> Path:
    """A result file; a run folder stands for its own."""
    return Path(path) / "result.json" if Path(path).is_dir() else Path(path)


def runs_folder(path: str) -> Path:
    """The folder that ``--runs`` names; the default one may be missing, as before the first training.

    Raises:
        GestaError: another one that is not there, of which it would be said that it holds no runs.
    """
    if path != RUNS and not Path(path).is_dir():
        raise GestaError(f"{path}: is not a folder; give the one that holds run folders with --runs")
    return Path(path)


def read_results(paths: Sequence[str]) -> list[Result]:
    """Results from their files or run folders."""
    from gesta.evaluation.result import Result  # for start-up time

    return [Result.read(result_file(path)) for path in paths]


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


def position(text: str) -> tuple[int, int]:
    """Row and column."""
    try:
        row, column = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a row and a column, 7,7") from None
    return row, column


def count(text: str) -> int:
    """A number from 1 on."""
    if not (text.isascii() and text.isdecimal() and len(text) < 19 and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def seconds(text: str) -> float:
    """A time from 0 to a million seconds."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1e6:  # nor what is not a number, which no time ever reaches
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0 to a million")
    return value


def share(text: str) -> Share:
    """Which part of how many, ``3/64``."""
    number, slash, of = text.partition("/")
    if not (slash and number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise argparse.ArgumentTypeError(f"{text!r} is no part of a number of parts; write 3/64 for the third of 64")
    from gesta.data.shares import Share  # for start-up time

    return Share(int(number), int(of))


def frame_rate(text: str) -> float | None:
    """Frames per second; None for ``keep``."""
    try:
        return None if text == "keep" else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of frames per second nor keep") from None


def views(text: str) -> tuple[int, str]:
    """How many views, as a number and in words. Papers disagree about the order in "3x4", so that is refused."""
    if text.isdecimal() and int(text):
        return int(text), f"{text} view" + "s" * (int(text) > 1)
    numbers = {unit: int(n) for n, unit in re.findall(r"([1-9]\d*) *(clip|crop)s?\b", text)}
    if len(numbers) < 2 or not re.fullmatch(r"\d+ *(clip|crop)s? *[x×*,]? *\d+ *(clip|crop)s?", text):
        raise argparse.ArgumentTypeError(f'{text!r} is neither a number nor words such as "4 clips x 3 crops"')
    parts = (f"{numbers[unit]} {unit}" + "s" * (numbers[unit] > 1) for unit in ("clip", "crop"))
    return numbers["clip"] * numbers["crop"], " × ".join(parts)


# --- printing --------------------------------------------------------------------------------------------------------


def print_results(options: argparse.Namespace, *results: Any) -> None:
    """Print results as text, or with ``--json`` as JSON; before they are written, so that a full disk loses none."""
    if options.json:
        values = [result.to_json() for result in results]
        print(without_passwords(json.dumps(values[0] if len(values) == 1 else values, indent=2)))
    else:
        show("\n\n".join(str(result) for result in results))
