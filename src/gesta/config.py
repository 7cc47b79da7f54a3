"""Typed configuration: plain dataclasses, and their way to JSON and back.

Everything that describes an experiment (a model, a plug-in, a data set, a training run) is a class marked
``@config``. JSON carries each object's tag under ``"class"``: the name of a class of gesta, wherever it lives, or
``module:Class`` of another package. Reading refuses the latter unless the caller trusts the file, so a recipe found on
the internet cannot run code.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import re
import types
import typing
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, dataclass_transform

from gesta.errors import GestaError

T = TypeVar("T")

CLASS_KEY = "class"

_tagged: dict[str, type] = {}
"""Configuration classes of gesta by tag, as far as their modules are imported."""


@dataclass_transform(kw_only_default=True)
def config(cls: type[T]) -> type[T]:
    """Mark a class as configuration: a dataclass with keyword-only fields and no undeclared attributes.

    Raises:
        TypeError: two classes of gesta have one name, which is the tag that saved files know them by.
    """
    made = dataclasses.dataclass(kw_only=True, slots=True)(cls)
    if _is_ours(cls.__module__):
        other = _tagged.setdefault(cls.__name__, made)
        if other.__module__ != cls.__module__:
            raise TypeError(
                f"{cls.__module__} and {other.__module__} both have a config class {cls.__name__}: rename one"
            )
        _tagged[cls.__name__] = made
    return made


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
    """Turn a config object into JSON-able values; every config carries its tag under ``"class"``."""
    if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        fields = {f.name: to_json(getattr(obj, f.name)) for f in dataclasses.fields(obj)}
        return {CLASS_KEY: class_tag(type(obj)), **fields}
    if isinstance(obj, list | tuple):
        return [to_json(v) for v in obj]
    if isinstance(obj, dict):
        return {str(k): to_json(v) for k, v in obj.items()}
    if isinstance(obj, Path):
        return str(obj)
    if obj is None or isinstance(obj, bool | int | float | str):
        return obj
    raise TypeError(f"a config may hold numbers, strings, lists, dicts and configs, not {type(obj).__name__}")


def class_tag(cls: type) -> str:
    """What saved files call a class: its name if it is a config class of gesta, else ``module:Class``."""
    return cls.__name__ if _tagged.get(cls.__name__) is cls else f"{cls.__module__}:{cls.__qualname__}"


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


def check_choice(name: str, value: str, choices: Any) -> None:
    """Refuse a value that is none of the strings of a ``Literal`` type; the error calls it by ``name``."""
    if value not in (known := typing.get_args(choices)):
        raise GestaError(f"{name} cannot be {value!r}{suggest(value, known)} (possible: {', '.join(known)})")


def format_value(value: Any) -> str:
    """A value as users write it: elements of a tuple with spaces between them."""
    if isinstance(value, list | tuple):
        return " ".join(format_value(item) for item in value) or "()"
    return str(value)


def _field_names(cls: type) -> list[str]:
    return [f.name for f in dataclasses.fields(cls)]


def with_tags(value: Any) -> Any:
    """JSON of a config with the tags of this version, where 0.1.0 wrote ``gesta.module:Class``."""
    if isinstance(value, list):
        return [with_tags(item) for item in value]
    if not isinstance(value, dict):
        return value
    module, _, name = str(value.get(CLASS_KEY, "")).rpartition(":")
    return {k: name if k == CLASS_KEY and _is_ours(module) else with_tags(v) for k, v in value.items()}


def _is_ours(module: str) -> bool:
    return module == "gesta" or module.startswith("gesta.")


def _find_class(tag: str, trust_code: bool, source: str) -> type:
    """The class that a file names, see :func:`class_tag`.

    A file of gesta 0.1.0 names our classes ``gesta.module:Class``, by where they lived then: the name is enough.
    """
    module, _, name = str(tag).rpartition(":")
    if not module or _is_ours(module):
        _import_definition(name)
        if name not in _tagged:
            raise GestaError(f"{source} names the class {tag!r}, which this version of gesta does not have")
        return _tagged[name]
    if not trust_code:
        raise GestaError(
            f"{source} names the class {tag!r}, which is not part of gesta; pass --trust-code if you trust its author"
        )
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        raise GestaError(f"{source} names the class {tag!r}, which cannot be imported here") from None
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise GestaError(f"{source} names {tag!r}, which is not a configuration class")
    return cls


def _import_definition(name: str) -> None:
    """Import the module of gesta that defines a config class, unless it is imported; of no others."""
    if name not in _tagged and name in definitions():
        importlib.import_module(definitions()[name])


@cache
def definitions() -> dict[str, str]:
    """Tag of every config class of gesta and the module that defines it. Source files are searched, and none is run."""
    return dict(_definitions(Path(__file__).parent, "gesta"))


def _definitions(folder: Path, package: str) -> Iterator[tuple[str, str]]:
    for file in sorted(folder.rglob("*.py")):
        module = ".".join([package, *file.relative_to(folder).with_suffix("").parts]).removesuffix(".__init__")
        for name in re.findall(r"^@config\nclass (\w+)", file.read_text(), re.MULTILINE):
            yield name, module


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
