"""Typed configuration: plain dataclasses, and their way to JSON and back.

Everything that describes an experiment (a model, a plug-in, a data set, a training run) is a class marked
``@config``. JSON carries each object's import path under ``"class"``; reading refuses classes outside gesta unless
the caller trusts the file, so a recipe found on the internet cannot run code.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import types
import typing
from collections.abc import Collection
from pathlib import Path
from typing import Any, TypeVar, dataclass_transform

from gesta.errors import GestaError

T = TypeVar("T")

CLASS_KEY = "class"


@dataclass_transform(kw_only_default=True)
def config(cls: type[T]) -> type[T]:
    """Mark a class as configuration: a dataclass with keyword-only fields and no undeclared attributes."""
    return dataclasses.dataclass(kw_only=True, slots=True)(cls)


def replace(obj: T, **changes: Any) -> T:
    """A deep copy of a config object with some fields changed."""
    duplicate = copy(obj)
    for name, value in changes.items():
        if name not in {f.name for f in dataclasses.fields(duplicate)}:  # type: ignore[arg-type]
            raise GestaError(f"{type(obj).__name__} has no field {name!r}{suggest(name, _field_names(type(obj)))}")
        setattr(duplicate, name, value)
    return duplicate


def copy(obj: T) -> T:
    """A deep copy of a config object (lists, dicts and nested configs included)."""
    if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        return type(obj)(**{f.name: copy(getattr(obj, f.name)) for f in dataclasses.fields(obj)})
    if isinstance(obj, list | tuple):
        return type(obj)(copy(v) for v in obj)  # type: ignore[call-arg]
    if isinstance(obj, dict):
        return {k: copy(v) for k, v in obj.items()}  # type: ignore[return-value]
    return obj


def to_json(obj: Any) -> Any:
    """Turn a config object into JSON-able values; nested configs carry their import path under ``"class"``."""
    if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        cls = type(obj)
        fields = {f.name: to_json(getattr(obj, f.name)) for f in dataclasses.fields(obj)}
        return {CLASS_KEY: f"{cls.__module__}:{cls.__qualname__}", **fields}
    if isinstance(obj, list | tuple):
        return [to_json(v) for v in obj]
    if isinstance(obj, dict):
        return {str(k): to_json(v) for k, v in obj.items()}
    if isinstance(obj, Path):
        return str(obj)
    if obj is None or isinstance(obj, bool | int | float | str):
        return obj
    raise TypeError(f"a config may hold numbers, strings, lists, dicts and configs, not {type(obj).__name__}")


def from_json(value: Any, *, trust_code: bool = False, source: str = "the configuration") -> Any:
    """Rebuild what :func:`to_json` wrote.

    Args:
        value: the parsed JSON.
        trust_code: also load classes from outside gesta (this imports, hence runs, their module).
        source: where the JSON came from, for error messages.

    Raises:
        GestaError: a class outside gesta without ``trust_code``, a class or field that does not exist.
    """
    if isinstance(value, list):
        return [from_json(v, trust_code=trust_code, source=source) for v in value]
    if not isinstance(value, dict):
        return value
    if CLASS_KEY not in value:
        return {k: from_json(v, trust_code=trust_code, source=source) for k, v in value.items()}
    cls = _find_class(value[CLASS_KEY], trust_code, source)
    hints = typing.get_type_hints(cls)
    known = _field_names(cls)
    arguments = {}
    for name, item in value.items():
        if name == CLASS_KEY:
            continue
        if name not in known:
            raise GestaError(f"{source}: {cls.__name__} has no field {name!r}{suggest(name, known)}")
        arguments[name] = _tuples(from_json(item, trust_code=trust_code, source=source), hints[name])
    try:
        return cls(**arguments)
    except TypeError as error:
        raise GestaError(f"{source}: {cls.__name__}: {error}") from None


def suggest(word: str, known: Collection[str]) -> str:
    """``"; did you mean 'x'?"`` for a misspelt word, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def words(value: Any) -> str:
    """A value as users write it: elements of a tuple with spaces between them."""
    if isinstance(value, list | tuple):
        return " ".join(words(item) for item in value) or "()"
    return str(value)


def _field_names(cls: type) -> list[str]:
    return [f.name for f in dataclasses.fields(cls)]


def _find_class(path: str, trust_code: bool, source: str) -> type:
    module_name, _, name = str(path).partition(":")
    if not trust_code and module_name != "gesta" and not module_name.startswith("gesta."):
        raise GestaError(
            f"{source} names the class {path!r}, which is not part of gesta; pass --trust-code if you trust its author"
        )
    try:
        cls = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError):
        raise GestaError(f"{source} names the class {path!r}, which this version of gesta does not have") from None
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise GestaError(f"{source} names {path!r}, which is not a configuration class")
    return cls


def _tuples(value: Any, hint: Any) -> Any:
    """JSON has no tuples: give lists back as tuples where the field's type says so."""
    if not isinstance(value, list):
        return value
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    for option in options:
        if typing.get_origin(option) is tuple:
            inner = typing.get_args(option)
            if len(inner) == 2 and inner[1] is ...:
                inner = (inner[0],) * len(value)
            inner += (Any,) * (len(value) - len(inner))
            return tuple(_tuples(v, kind) for v, kind in zip(value, inner))
        if typing.get_origin(option) is list:
            inner = typing.get_args(option)
            return [_tuples(v, inner[0] if inner else Any) for v in value]
    return value
