"""Flags of configuration fields: tyro reads them, and what it refuses becomes one sentence, as of other flags."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import sys
import types
import typing
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, NoReturn, TypeVar

from gesta.config import Between, leaves, suggest

T = TypeVar("T")

MOST_LISTED = 30
"""Flags that a sentence names; of more it says which command lists them."""

_KINDS = {float: "a number", int: "a whole number", bool: "True or False", types.NoneType: "None"}


def flags_with_values(words: Sequence[str]) -> list[list[str]]:
    """Each flag with the values behind it."""
    groups: list[list[str]] = []
    for word in words:
        if word.startswith("--"):
            groups.append([])
        groups[-1].append(word)
    return groups


def field_name(flag: str) -> str:
    """The dotted name of the field that a flag sets."""
    return flag[2:].partition("=")[0].replace("-", "_")


def read_flags(parse: Callable[[list[str]], T], words: list[str], fields: Any, fail: Callable[[str], NoReturn]) -> T:
    """What a parser of tyro makes of flags.

    Args:
        parse: calls ``tyro.cli`` with some of the flags.
        words: the flags with their values.
        fields: the config object that they change, or name → type of what they give.
        fail: called with a sentence about the first flag that is wrong.
    """
    try:
        return _quietly(parse, words)
    except SystemExit:
        for group in flags_with_values(words):
            try:
                _quietly(parse, group)
            except SystemExit:
                fail(_fault(group, fields))
        fail(f"{' '.join(words)} do not go together; leave some of them out")


def _quietly(parse: Callable[[list[str]], T], words: list[str]) -> T:
    with contextlib.redirect_stderr(io.StringIO()) as said:
        result = parse(words)
    sys.stderr.write(said.getvalue())  # a warning; of what is refused a sentence is made
    return result


def _fault(group: list[str], fields: Any) -> str:
    """What is wrong with a flag that tyro refuses, and what is allowed."""
    flag, equals, value = group[0].partition("=")
    hint = fields.get(field_name(flag)) if isinstance(fields, dict) else _type_of(fields, field_name(flag))
    if hint is None:
        known = [f"--{name.replace('_', '-')}" for name in (fields if isinstance(fields, dict) else leaves(fields))]
        return f"unrecognized arguments: {flag}{_remedy(flag.replace('_', '-'), known)}"
    if dataclasses.is_dataclass(hint):
        return f"{flag} is set by its fields, such as {flag}.{dataclasses.fields(hint)[0].name.replace('_', '-')}"
    values = [value] * bool(equals) + group[1:]
    given = f"cannot be {' '.join(values)!r}" if values else "has no value"
    return f"{flag} {given}; it takes {_allowed(hint)}"


def _remedy(flag: str, known: list[str]) -> str:
    """Which flag was perhaps meant: one beside it, one of its name elsewhere, or any; else which there are."""
    owner, _, last = flag.removeprefix("--").rpartition(".")
    beside = {name.rpartition(".")[2].removeprefix("--"): name for name in known if name.startswith(f"--{owner}.")}
    close = difflib.get_close_matches(last, beside, n=1)
    if meant := [beside[name] for name in close] or [name for name in known if name.endswith(f".{last}")]:
        return f"; did you mean {meant[0]!r}?"
    listed = "gesta show RECIPE lists the fields" if len(known) > MOST_LISTED else f"known: {' '.join(known)}"
    return ("" if beside else suggest(flag, known)) or f"; {listed}"


def _type_of(obj: Any, name: str) -> Any:
    """The type of a field by its dotted name, None if there is no such field."""
    hint = None
    for part in name.split("."):
        if isinstance(obj, list) and part.isdecimal() and int(part) < len(obj):
            obj = hint = obj[int(part)]
        elif dataclasses.is_dataclass(obj) and part in (known := _types(type(obj))):
            obj, hint = getattr(obj, part), known[part]
        else:
            return None
    return type(obj) if dataclasses.is_dataclass(obj) else hint


def _types(cls: Any) -> dict[str, Any]:
    known = typing.get_type_hints(cls, include_extras=True)
    return {field.name: known[field.name] for field in dataclasses.fields(cls)}


def _allowed(hint: Any) -> str:
    """A type in the words of the command line."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint in _KINDS:
        return _KINDS[hint]
    if origin is Annotated:
        limits = next((limit for limit in inner[1:] if isinstance(limit, Between)), None)
        return _allowed(inner[0]) + (f" ({limits})" if limits and inner[0] in _KINDS else "")
    if origin is Literal:
        return " or ".join(filter(None, (", ".join(map(str, inner[:-1])), str(inner[-1]))))
    if origin in (typing.Union, types.UnionType):
        return ", or ".join(map(_allowed, inner))
    if origin is tuple and inner[1:] != (...,):
        each = list(dict.fromkeys(map(_allowed, inner)))
        return f"{len(inner)} values" + (f", each {each[0]}" if len(each) == 1 else f": {', '.join(each)}")
    if origin in (list, tuple):
        return f"values with spaces between them, each {_allowed(inner[0])}" if inner else "values"
    return "text"
