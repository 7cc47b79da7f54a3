"""Typed configuration: plain dataclasses, and their way to JSON and back; and how untrusted text and JSON are read.

Everything that describes an experiment (a model, a plug-in, a data set, a training run) is a class marked
``@config``. JSON carries each object's tag under ``"class"``: the name of a class of gesta, wherever it lives, or
``module:Class`` of another package. Reading refuses the latter unless the caller trusts the file, so a recipe found on
the internet cannot run code.

Every numeric field has its range in its type (``lr: Annotated[float, Between(0, 1)]``, ``dropout: Fraction``). A class
may also say which values contradict each other, and which fields change nothing beside the values of others, see
:func:`check`, which is called whenever something is built from a configuration, trained, evaluated or predicted.

Given files are not believed: :func:`read_text` takes regular files of a limited size only, :func:`parse_json` limits
depth and numbers, and :func:`from_json` checks every value against the types of the class that it becomes.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib
import json
import math
import os
import re
import stat
import types
import typing
from collections.abc import Collection, Iterator, Sequence
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar, dataclass_transform

from gesta.errors import GestaError

T = TypeVar("T")

CLASS_KEY = "class"

GIVEN_BY_FLAGS = "given_by_flags"
"""Key in the metadata of a field that is None by default: the class that flags of its fields put there."""

GIVEN_BYTES = 2**28
"""Size that a given text file (list, class names, JSON) may have, unless its reader says otherwise: 256 MiB."""

JSON_DEPTH = 64
"""How deeply lists and objects of a given JSON may be nested."""

_tagged: dict[str, type] = {}
"""Configuration classes of gesta by tag, as far as their modules are imported."""


@dataclass_transform(kw_only_default=True)
def config(cls: type[T]) -> type[T]:
    """Mark a class as configuration: a dataclass with keyword-only fields and no undeclared attributes.

    Its method ``build``, if it has one, first calls :func:`check`, and then builds from a copy: what is built never
    changes when the object is changed afterwards, to build the next one.

    Raises:
        TypeError: two classes of gesta have one name, which is the tag that saved files know them by.
    """
    if build := vars(cls).get("build"):

        @functools.wraps(build)
        def build_checked(self: Any, *arguments: Any) -> Any:
            check(self)
            return build(copy(self), *arguments)

        cls.build = build_checked  # type: ignore[attr-defined]
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
    if isinstance(obj, float) and not math.isfinite(obj):
        raise GestaError(f"a field of the configuration is {obj}, which JSON cannot hold; give a finite number")
    if obj is None or isinstance(obj, bool | int | float | str):
        return obj
    raise TypeError(f"a config may hold numbers, strings, lists, dicts and configs, not {type(obj).__name__}")


def class_tag(cls: type) -> str:
    """What saved files call a class: its name if it is a config class of gesta, else ``module:Class``."""
    return cls.__name__ if _tagged.get(cls.__name__) is cls else f"{cls.__module__}:{cls.__qualname__}"


def from_json(
    value: Any,
    kind: Any = object,
    *,
    trust_code: bool = False,
    source: str = "the configuration",
    remedy: str = "correct it, or get the file again",
) -> Any:
    """Rebuild what :func:`to_json` wrote, or check any parsed JSON against a type.

    Args:
        value: the parsed JSON, see :func:`parse_json`.
        kind: type of the whole: a config class (the JSON may name a subclass of it), another dataclass or a TypedDict,
            ``list[…]``, ``dict[str, …]``, ``tuple[…]``, ``Literal``, unions of these, numbers, text. Values of the type
            ``Any`` stay plain JSON; in those of the type ``object`` config objects are rebuilt. A range or a length is
            given by ``Annotated[int, Between(0, 9)]``.
        trust_code: also load classes from outside gesta (this imports, hence runs, their module).
        source: where the JSON came from, for error messages.
        remedy: end of the sentence about a value of a wrong type.

    Raises:
        GestaError: a class outside gesta without ``trust_code``; a class or field that does not exist; a value of
            another type than its field, or beyond its limits.
    """
    return _Reader(source, trust_code, remedy).read(value, kind, "")


def check(obj: Any, source: str = "", flags: bool = False) -> None:
    """Refuse a config object with a value of another type than its field's, out of range, in contradiction to another
    value, or without effect beside it, and likewise all config objects in it.

    A class says what contradicts in a method ``contradictions``, which gives pairs of a field and what is wrong with
    its value, and what changes nothing in a method ``unused``, which gives pairs of a field and what it would need
    (:func:`unless`). Such a field may only have its default value.

    Args:
        obj: of a class marked with :func:`config`.
        source: how errors call it; empty for the name of its class.
        flags: errors call a field by its flag, ``--train.clip-grad`` for ``train.clip_grad``.

    Raises:
        GestaError: the first such field, by name, its value and what is allowed.
    """
    reader = _Reader(source or type(obj).__name__, trust_code=True, remedy="give another value", flags=flags)
    reader.read(obj, object, "")
    for owner, path, needs in unused_fields(obj):
        name = path.rpartition(".")[2]
        value, default = getattr(owner, name), default_of(type(owner), name)
        if value != default:
            said = _short(value) if dataclasses.is_dataclass(value) else format_value(value)
            reader.remedy = f"leave it at {format_value(default)}"
            reader.fail(path, f"is {said}, which changes nothing without {needs}")


def unless(used: bool, needs: str, *fields: str) -> Iterator[tuple[str, str]]:
    """Pairs for a method ``unused``: the fields change nothing unless they are used, for which they need something.

    A field of a config object in a field is named with a dot between them.
    """
    if not used:
        yield from ((name, needs) for name in fields)


def unused_fields(obj: Any, path: str = "") -> Iterator[tuple[Any, str, str]]:
    """Fields of a config object, and of those in it, that change nothing beside its other values.

    Yields:
        The object that has the field, the field's dotted name, and what it would need to change anything.
    """
    if isinstance(obj, list | tuple | dict):
        items = obj.items() if isinstance(obj, dict) else enumerate(obj)
        for key, item in items:
            yield from unused_fields(item, _join(path, str(key)))
    elif dataclasses.is_dataclass(obj):
        for name, needs in getattr(obj, "unused", tuple)():
            parts = name.split(".")
            yield functools.reduce(getattr, parts[:-1], obj), functools.reduce(_join, parts, path), needs
        for name in _field_names(type(obj)):
            yield from unused_fields(getattr(obj, name), _join(path, name))


def reset_unused(obj: Any, given: Collection[str] = ()) -> None:
    """Give the fields of :func:`unused_fields` their default values, but not those whose dotted names are given.

    It is for objects of which some values were changed: the others are somebody else's, and may have become useless.
    """
    for owner, path, _ in unused_fields(obj):
        if path not in given:
            name = path.rpartition(".")[2]
            setattr(owner, name, default_of(type(owner), name))


def leaves(obj: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted name → value of every field that holds no configuration itself."""
    if dataclasses.is_dataclass(obj):
        parts = {f.name: getattr(obj, f.name) for f in dataclasses.fields(obj)}
    elif isinstance(obj, list) and any(dataclasses.is_dataclass(item) for item in obj):
        parts = {str(i): item for i, item in enumerate(obj)}
    else:
        return {prefix: obj}
    result: dict[str, Any] = {}
    for name, value in parts.items():
        result |= leaves(value, f"{prefix}.{name}" if prefix else name)
    return result


def default_of(cls: Any, name: str) -> Any:
    """The default value of a field."""
    field: Any = {f.name: f for f in dataclasses.fields(cls)}[name]
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


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


def as_now(value: Any) -> Any:
    """JSON of a config as this version writes it.

    The tags are those of now, where 0.1.0 wrote ``gesta.module:Class``, and a field that an older version had not has
    its default value, as when a file is read.
    """
    if isinstance(value, list):
        return [as_now(item) for item in value]
    if not isinstance(value, dict):
        return value
    module, _, name = str(value.get(CLASS_KEY, "")).rpartition(":")
    made = {key: as_now(item) for key, item in value.items()}
    if not name or (module and not _is_ours(module)):
        return made
    try:
        cls = _find_class(name, False, "")
    except GestaError:  # a class that is gone: what is compared with it says so
        return made | {CLASS_KEY: name}
    added = [f.name for f in dataclasses.fields(cls) if f.name not in made and not _has_no_default(f)]  # type: ignore[arg-type]
    return {**made, CLASS_KEY: name, **{field: to_json(default_of(cls, field)) for field in added}}


def _is_ours(module: str) -> bool:
    return module == "gesta" or module.startswith("gesta.")


def _find_class(tag: Any, trust_code: bool, source: str) -> type:
    """The class that a file names, see :func:`class_tag`.

    A file of gesta 0.1.0 names our classes ``gesta.module:Class``, by where they lived then: the name is enough.
    """
    if not isinstance(tag, str) or len(tag) > 200:
        raise GestaError(f"{source} names the class {_short(tag)}, which is no name of a class; get the file again")
    module, _, name = tag.rpartition(":")
    if not module or _is_ours(module):
        _import_definition(name)
        if name not in _tagged:
            raise GestaError(
                f"{source} names the class {tag!r}, which this version of gesta does not have; upgrade gesta"
            )
        return _tagged[name]
    if not trust_code:
        raise GestaError(
            f"{source} names the class {tag!r}, which is not part of gesta; pass --trust-code if you trust its author"
        )
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        raise GestaError(
            f"{source} names the class {tag!r}, which cannot be imported; install its package, or add its "
            "folder to PYTHONPATH"
        ) from None
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise GestaError(f"{source} names {tag!r}, which is not a configuration class; get the file again")
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


# --- values and their types ------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Between:
    """Limits of a value, as ``Annotated[float, Between(0, 100)]``.

    Attributes:
        low, high: of a number, which is finite and no negative zero, or of the length of a text, list or object.
        open: which of them is not allowed itself.
    """

    low: float
    high: float = math.inf
    open: Literal["", "low", "high", "both"] = ""

    def __contains__(self, size: float) -> bool:
        if isinstance(size, float) and (not math.isfinite(size) or str(size) == "-0.0"):
            return False
        above = size > self.low if self.open in ("low", "both") else size >= self.low
        return above and (size < self.high if self.open in ("high", "both") else size <= self.high)

    def __str__(self) -> str:
        low = f"above {self.low:g}" if self.open in ("low", "both") else f"{self.low:g} or more"
        if self.high >= 2**31 - 1:  # as good as no limit
            return low
        if not self.open:
            return f"from {self.low:g} to {self.high:g}"
        return f"{low} and " + (f"below {self.high:g}" if self.open in ("high", "both") else f"at most {self.high:g}")


Fraction = Annotated[float, Between(0, 1)]
Positive = Annotated[float, Between(0, open="low")]
NotNegative = Annotated[float, Between(0)]
Count = Annotated[int, Between(1, 2**31 - 1)]
CountOrZero = Annotated[int, Between(0, 2**31 - 1)]


_LEAVES: dict[Any, tuple[frozenset[type], str]] = {
    float: (frozenset((float, int)), "a number"),
    int: (frozenset((int,)), "a whole number"),
    str: (frozenset((str,)), "text"),
    bool: (frozenset((bool,)), "true or false"),
    types.NoneType: (frozenset((types.NoneType,)), "null"),
}
"""JSON's types of the values without parts, and what they are called. A boolean is no number."""


class _Reader:
    """Checks parsed JSON against types and rebuilds objects; see :func:`from_json` for its arguments."""

    def __init__(self, source: str, trust_code: bool, remedy: str, flags: bool = False) -> None:
        self.source, self.trust_code, self.remedy, self.flags = source, trust_code, remedy, flags

    def read(self, value: Any, hint: Any, where: str) -> Any:
        """The value as a type hint says; ``where`` names it in errors."""
        origin, inner = typing.get_origin(hint), typing.get_args(hint)
        if leaf := _LEAVES.get(hint):
            return value if type(value) in leaf[0] else self._refuse(value, hint, where)
        if hint is Any:
            return value
        if hint is object:
            return self._untyped(value, where)
        if origin is Annotated:
            return self._within(self.read(value, inner[0], where), inner[1:], where)
        if origin in (typing.Union, types.UnionType):
            fitting = next((option for option in inner if _may_be(value, option)), None)
            return self.read(value, fitting, where) if fitting else self._refuse(value, hint, where)
        if not _may_be(value, hint):
            self._refuse(value, hint, where)
        if origin is Literal or isinstance(value, Path):
            return value
        if dataclasses.is_dataclass(value):
            return self._configured(value, where)
        if origin in (list, tuple) or hint in (list, tuple):
            return self._sequence(value, origin or hint, inner, where)
        if origin is dict or hint is dict:
            kind = inner[1] if inner else object
            for key in value:
                if not isinstance(key, str):
                    self.fail(where, f"has the key {key!r}, which is no text")
            return {key: self.read(item, kind, _join(where, key)) for key, item in value.items()}
        if hint is Path:
            return Path(value)
        return self._object(value, hint, where)

    def _configured(self, value: Any, where: str) -> Any:
        """A config object itself, whose fields are checked as those of JSON are."""
        cls: Any = type(value)
        for name, hint in _hints(cls).items():
            self.read(getattr(value, name), hint, _join(where, name))
        for name, fault in getattr(value, "contradictions", tuple)():
            path = functools.reduce(_join, name.split("."), where)  # a field of a field has a dot
            self.fail(path, f"is {format_value(attrgetter(name)(value))}, {fault}")
        return value

    def _untyped(self, value: Any, where: str) -> Any:
        if dataclasses.is_dataclass(value):
            return self._configured(value, where)
        if isinstance(value, list):
            return [self._untyped(item, f"{where}[{i}]") for i, item in enumerate(value)]
        if not isinstance(value, dict):
            return value
        if CLASS_KEY in value:
            return self._object(value, object, where)
        return {key: self._untyped(item, _join(where, key)) for key, item in value.items()}

    def _sequence(self, value: list[Any], kind: type, inner: Sequence[Any], where: str) -> Any:
        """JSON has no tuples: a list becomes one where the type says so."""
        if kind is list or not inner or inner[1:] == (...,):
            each = inner[0] if inner else object
            if (leaves := _leaf_types(each)) and leaves.issuperset(map(type, value)):  # millions of scores
                return value if kind is list else tuple(value)
            return kind(self.read(item, each, f"{where}[{i}]") for i, item in enumerate(value))
        if len(value) != len(inner):
            self.fail(where, f"has {len(value)} entries, not {len(inner)}")
        return tuple(self.read(item, each, f"{where}[{i}]") for i, (item, each) in enumerate(zip(value, inner)))

    def _object(self, value: dict[str, Any], hint: Any, where: str) -> Any:
        if CLASS_KEY in value and not typing.is_typeddict(hint):
            cls = _find_class(value[CLASS_KEY], self.trust_code, self.source)
            if hint is not object and not issubclass(cls, hint):
                self.fail(where, f"is of the class {cls.__name__}, not {hint.__name__}")
        elif hint in _tagged.values():
            self.fail(where, f'names no "{CLASS_KEY}", and should be of the class {hint.__name__}')
        else:
            cls = hint
        hints = _hints(cls)
        if typing.is_typeddict(cls):
            required: Collection[str] = cls.__required_keys__  # type: ignore[attr-defined]
        else:
            required = [f.name for f in dataclasses.fields(cls) if _has_no_default(f)]
        arguments = {}
        for name, item in value.items():
            if name == CLASS_KEY and not typing.is_typeddict(cls):
                continue
            if name not in hints:
                remedy = suggest(name, hints) or f"; {self.remedy}"
                raise GestaError(f"{self.source}: {cls.__name__} has no field {_short(name)}{remedy}")
            arguments[name] = self.read(item, hints[name], _join(where, name))
        if missing := [name for name in required if name not in arguments]:
            raise GestaError(f"{self.source}: {_join(where, cls.__name__)} lacks {', '.join(missing)}; {self.remedy}")
        try:
            return cls(**arguments)
        except (TypeError, ValueError) as error:
            raise GestaError(f"{self.source}: {cls.__name__}: {error}") from None

    def _within(self, value: Any, limits: Sequence[Any], where: str) -> Any:
        for limit in limits:
            size = len(value) if isinstance(value, str | list | tuple | dict) else value
            if isinstance(limit, Between) and size not in limit:
                what = f"is {_short(value)}" if size is value else f"has the length {size}"
                if isinstance(size, float) and not math.isfinite(size):
                    self.fail(where, f"{what}, not a finite number")
                if str(size) == "-0.0" and 0.0 in limit:
                    self.fail(where, f"{what}, not 0 without a sign")
                is_huge = size > limit.high >= 2**31 - 1  # no range that anyone would know
                self.fail(where, f"{what}, not " + (f"{limit.high:.0f} or less" if is_huge else str(limit)))
        return value

    def _refuse(self, value: Any, hint: Any, where: str) -> NoReturn:
        self.fail(where, f"is {_short(value)}, not {_describe(hint)}")

    def fail(self, where: str, fault: str) -> NoReturn:
        if self.flags and where:
            name = "--" + re.sub(r"\[(\d+)\]", r".\1", where).replace("_", "-")
        else:
            name = f"{self.source}: {where or 'its content'}"
        raise GestaError(f"{name} {fault}; {self.remedy}")


def _may_be(value: Any, hint: Any) -> bool:
    """Whether JSON's type of the value is that of the hint; what is inside it is not looked at."""
    origin = typing.get_origin(hint) or hint
    if hint in _LEAVES:
        return type(value) in _LEAVES[hint][0]
    if origin is Literal:
        return any(type(value) is type(known) and value == known for known in typing.get_args(hint))
    if origin is Annotated:
        return _may_be(value, typing.get_args(hint)[0])
    if origin in (typing.Union, types.UnionType):
        return any(_may_be(value, option) for option in typing.get_args(hint))
    if origin in (list, tuple):
        return isinstance(value, list | tuple)
    if origin is Path:
        return isinstance(value, str | Path)
    if dataclasses.is_dataclass(value):
        return hint in (Any, object) or isinstance(value, origin)
    if origin is dict or dataclasses.is_dataclass(origin) or typing.is_typeddict(origin):
        return isinstance(value, dict)
    if hint in (Any, object):
        return True
    raise TypeError(f"{hint} is not a type that JSON can be checked against")


@cache
def _leaf_types(hint: Any) -> frozenset[type]:
    """JSON's types for a value without parts, or a union of such; empty if it may have parts or has limits."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        parts = [_leaf_types(option) for option in typing.get_args(hint)]
        return frozenset().union(*parts) if all(parts) else frozenset()
    return _LEAVES[hint][0] if hint in _LEAVES else frozenset()


@cache
def _hints(cls: type) -> dict[str, Any]:
    """The type of every field that a class can be made with."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return hints if typing.is_typeddict(cls) else {f.name: hints[f.name] for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]


def _has_no_default(field: dataclasses.Field[Any]) -> bool:
    return field.init and field.default is field.default_factory is dataclasses.MISSING


def _describe(hint: Any) -> str:
    """A type in words."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint in _LEAVES:
        return _LEAVES[hint][1]
    if origin is Annotated:
        return _describe(inner[0])
    if origin is Literal:
        return " or ".join(json.dumps(known) for known in inner)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_describe(option) for option in inner)
    if origin in (list, tuple) or hint in (list, tuple):
        return "a list"
    return "text" if hint is Path else "an object"


def _join(where: str, key: str) -> str:
    key = key if re.fullmatch(r"\w{1,60}", key) else f"[{_short(key)}]"
    return f"{where}.{key}".lstrip(".") if key[0] != "[" else where + key


def _short(value: Any) -> str:
    """The beginning of a value, for an error message."""
    if isinstance(value, list | tuple | dict):
        return ("an object" if isinstance(value, dict) else "a list") + f" of {len(value)} entries"
    if not isinstance(value, str | int | float | None):  # another configuration; a tensor of a training state
        return f"of the class {type(value).__name__}"
    text = json.dumps(value[:40] if isinstance(value, str) else value)
    return text[:40] + "…" * (len(text) > 40)


# --- given files -----------------------------------------------------------------------------------------------------


def read_text(path: str | Path, *, limit: int = GIVEN_BYTES, remedy: str = "check the path") -> str:
    """A given text file of any origin: UTF-8 or UTF-16, with or without byte-order mark.

    Bytes that are no UTF-8 (names in other encodings) become surrogates, which stand for the same bytes in file names.

    Args:
        path: the file.
        limit: its largest size in bytes.
        remedy: end of the sentence about a file that cannot be read.

    Raises:
        GestaError: not there, not a regular file (a pipe or a device would never end), too large, or not text.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or a device"
            raise GestaError(f"{path}: is {kind}, not a file; {remedy}")
        with open(path, "rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise GestaError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
    except ValueError:  # a NUL in the path
        raise GestaError(f"{str(path)!r}: is no path; {remedy}") from None
    if len(data) > limit:
        raise GestaError(f"{path}: has more than {limit / 2**20:g} MiB, the limit for this kind of file; {remedy}")
    utf16 = data[:2] in (b"\xff\xfe", b"\xfe\xff")
    text = data.decode("utf-16", "replace") if utf16 else data.decode("utf-8-sig", "surrogateescape")
    if "\0" in text:
        raise GestaError(f"{path}: is not text, since it holds a NUL character; {remedy}")
    return text


def read_json(
    path: str | Path,
    kind: Any = object,
    *,
    trust_code: bool = False,
    limit: int = GIVEN_BYTES,
    remedy: str = "correct it, or get the file again",
) -> Any:
    """A given JSON file, of the given type; see :func:`read_text`, :func:`parse_json` and :func:`from_json`.

    Raises:
        GestaError: as these three.
    """
    value = parse_json(read_text(path, limit=limit, remedy=remedy), str(path), remedy)
    return from_json(value, kind, trust_code=trust_code, source=str(path), remedy=remedy)


_CONTAINERS = (list, dict)


def parse_json(text: str, source: str, remedy: str = "correct it, or get the file again") -> Any:
    """JSON of others.

    Args:
        text: the JSON.
        source: where it came from, for error messages.
        remedy: end of the sentence about a text that is no JSON.

    Raises:
        GestaError: no JSON; nested more deeply than :data:`JSON_DEPTH`; NaN, infinity, a number beyond 64 bits, a key
            twice in one object, or a NUL character or half of a surrogate pair in a text.
    """
    try:
        value = json.loads(
            text, parse_constant=_refuse_constant, parse_int=_parse_integer, object_pairs_hook=_unique_keys
        )
        if "\\u0000" in text:
            raise ValueError("it holds a NUL character")
        level: list[Any] = [[value]]  # all lists and objects of one depth
        for _ in range(JSON_DEPTH + 1):
            parts = [part.values() if isinstance(part, dict) else part for part in level]
            if any(math.inf in part or -math.inf in part for part in parts):
                raise ValueError("a number in it is too large")
            level = [item for part in parts for item in part if isinstance(item, _CONTAINERS)]
        if level:
            raise RecursionError
        if "\\ud" in text.lower():
            _refuse_half_pairs(value)
    except RecursionError:
        raise GestaError(f"{source}: is nested more than {JSON_DEPTH} levels deep; {remedy}") from None
    except ValueError as error:
        raise GestaError(f"{source}: is not valid JSON ({error}); {remedy}") from None
    return value


def _refuse_half_pairs(value: Any) -> None:
    """No file can be written with half of a surrogate pair, except for those that stand for bytes of file names."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise ValueError("it holds half of a surrogate pair, which is no character") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


def _parse_integer(text: str) -> int:
    if len(text.lstrip("-")) > 18:
        raise ValueError(f"the number {text[:20]}… is too large")
    return int(text)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {_short(twice)} occurs twice")
    return fields
