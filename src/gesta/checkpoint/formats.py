"""Files of tensors read without running anything of theirs: safetensors, torch's own, TorchScript archives.

torch files are read with ``weights_only=True``, which admits tensors, numbers, strings and containers of them, and
refuses all other objects. Of a TorchScript archive, whose code torch would compile, only the tensors are read, by the
same reader.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import os
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from pickletools import genops
from typing import Any, BinaryIO

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from gesta.checkpoint.hub import shards
from gesta.errors import CheckpointError

STATE_MAGIC = "gesta training state"


def existing(path: str | Path) -> Path:
    """The path of a file that is there and not empty.

    Raises:
        CheckpointError: there is none.
    """
    path = Path(path)
    if not os.path.isfile(path):  # unlike Path.is_file, False for a name that is too long
        raise CheckpointError(f"{path}: there is no such file")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path}: the file is empty; copy it again")
    return path


def kind_of(path: Path) -> str:
    """What a file is, as far as it holds weights: a few words for a refusal, empty for anything else."""
    try:
        content = read_torch(path)
    except CheckpointError:
        return ""
    if isinstance(content, dict) and content.get("magic") == STATE_MAGIC:
        return "the training state of a run"
    return "a file of weights without a description of their model"


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(existing(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_plain(value: Tensor) -> bool:
    """Whether a tensor is dense and has memory for its numbers; a small one may repeat them (stride 0)."""
    if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
        return False
    return value.numel() * value.element_size() <= max(value.untyped_storage().nbytes(), 2**20)


def check_finite(weights: dict[str, Tensor], source: str | Path) -> None:
    """Refuse weights of which no score could be computed.

    Raises:
        CheckpointError: some are not finite; the first three are named.
    """
    bad = [name for name, value in weights.items() if value.is_floating_point() and not value.isfinite().all()]
    if bad:
        raise CheckpointError(
            f"{source}: {len(bad)} of its {len(weights)} weights are not finite numbers ({', '.join(bad[:3])}), as "
            "after a training that diverged; give other weights"
        )


# --- safetensors -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def safetensors_errors(path: Path) -> Iterator[None]:
    """Whatever the library raises about a file is one sentence."""
    try:
        yield
    except Exception as error:  # SafetensorError, but also KeyError for a type of numbers that it does not know
        raise CheckpointError(
            f"{path}: not a complete .safetensors file ({str(error)[:200]}); copy it again, or give the "
            "best.safetensors of a run"
        ) from None


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file by name."""
    with safetensors_errors(path):
        return safetensors.torch.load_file(path)


def read_shards(index: Path) -> dict[str, Tensor]:
    """All tensors by name of the files that an index names.

    Raises:
        CheckpointError: a file is absent or broken, or lacks a tensor that the index says is in it.
    """
    weights: dict[str, Tensor] = {}
    where = shards(index)
    for file in sorted(set(where.values())):
        path = index.parent / file
        content = read_safetensors(existing(path)) if path.suffix == ".safetensors" else read_torch(path)
        for name in (name for name, shard in where.items() if shard == file):
            if not (isinstance(content, dict) and isinstance(content.get(name), Tensor)):
                raise CheckpointError(f"{path}: lacks {name[:100]}, which {index.name} says is in it; get both again")
            weights[name] = content[name]
    return weights


# --- torch's files ---------------------------------------------------------------------------------------------------


def read_torch(path: str | Path) -> Any:
    """What ``torch.save`` wrote, its tensors on the CPU; of a TorchScript archive the tensors by name.

    Raises:
        CheckpointError: absent, broken, or holding Python objects (which are never made).
    """
    path = existing(path)
    try:
        if not zipfile.is_zipfile(path):
            return _load(path)
        with zipfile.ZipFile(path) as archive:
            if _is_script(archive):
                return _tensors_of(_load(_without_code(archive, path)))
            _refuse_compressed(archive, path)
        return _load(path)
    except CheckpointError:
        raise
    except Exception as error:  # torch raises whatever its C++ reader, zipfile, pickle and struct raise
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused:
            raise CheckpointError(
                f"{path}: holds a Python object ({refused[1]}) beside its tensors, and reading it could run its "
                "author's code; where you trust the author, save model.state_dict() alone and give that file"
            ) from None
        raise CheckpointError(
            f"{path}: cut short, damaged or not a file of weights; copy it again, or give another file"
        ) from None


def check_zip(path: str | Path) -> None:
    """Compare each part of a torch file with the CRC-32 that is stored with it, which torch writes and never reads."""
    try:
        if not zipfile.is_zipfile(path):  # cut short, or no file of torch; one changed byte at its end is an exception
            return
        with zipfile.ZipFile(path) as file:
            _refuse_compressed(file, path)
            damaged = file.testzip()
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, ValueError) as error:
        damaged = str(error)
    if damaged is not None:
        raise CheckpointError(
            f"{path}: has changed since it was written, or was copied wrongly ({damaged}); copy it again"
        )


def _load(file: Path | BinaryIO) -> Any:
    with _only_values(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected pickle protocol")  # of older Pythons; all of them are read
        warnings.filterwarnings("ignore", "Validating sparse tensor")  # they are refused later
        return torch.load(file, map_location="cpu", weights_only=True)


def _refuse_compressed(archive: zipfile.ZipFile, path: str | Path) -> None:
    """torch compresses nothing, and what is compressed could fill the memory."""
    if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
        raise CheckpointError(f"{path}: a compressed archive, not what torch.save writes; unpack it first")


# --- what stands for objects in them ---------------------------------------------------------------------------------


class _NumberType:
    """Stands for ``numpy.dtype``, whose state a file could abuse: a code such as ``f8`` and the order of its bytes."""

    def __init__(self, code: str, *_: object) -> None:
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]


def _number(kind: _NumberType, data: bytes) -> int | float | complex | bool:
    """Stands for the function that makes a scalar of numpy: the Python number of the same value."""
    if not (re.fullmatch(r"[biufc]\d{1,2}", kind.code) and kind.order in ("<", ">", "|", "=")):
        raise ValueError(f"a scalar of type {kind.code!r}")
    (value,) = np.frombuffer(data, np.dtype(kind.order + kind.code))
    return value.item()


class _ScriptObject:
    """Stands for each class of a TorchScript archive: what its attributes are, and nothing that it does."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _first(value: Any, *_: object) -> Any:
    """Stands for TorchScript's functions that give a list or dict its type."""
    return value


_SCRIPT_OBJECT = "gesta.ScriptObject"
_STAND_INS: list[Any] = [
    # Many public checkpoints keep their command line; a Namespace is a bag of attributes and runs nothing.
    argparse.Namespace,
    (_NumberType, "numpy.dtype"),
    (_number, "numpy.core.multiarray.scalar"),
    (_number, "numpy._core.multiarray.scalar"),
    (_ScriptObject, _SCRIPT_OBJECT),
    *((_first, f"torch.jit._pickle.build_{kind}list") for kind in ("int", "double", "bool", "tensor")),
    (_first, "torch.jit._pickle.restore_type_tag"),
]


@contextlib.contextmanager
def _only_values() -> Iterator[None]:
    """Let torch make no object but tensors, containers and those above, whatever other libraries allow.

    Importing torch.distributed allows among others DeviceMesh, whose constructor may start a process group.
    """
    others = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        with torch.serialization.safe_globals(_STAND_INS):
            yield
    finally:
        torch.serialization.add_safe_globals(others)


# --- TorchScript archives --------------------------------------------------------------------------------------------


def script_classes(path: Path) -> list[str]:
    """Names of the classes that a TorchScript archive uses; none for another file."""
    if not zipfile.is_zipfile(path):
        return []
    with zipfile.ZipFile(path) as archive:
        if not _is_script(archive):
            return []
        objects = [archive.read(member) for member in _data(archive, path) if member.filename.endswith("/data.pkl")]
        words = [(operator.name, word) for data in objects for operator, word, _ in genops(data)]
        return [str(word) for operator, word in words if _names_script_class(operator, word)]


def _names_script_class(operator: str, word: Any) -> bool:
    return operator == "GLOBAL" and re.match(r"__torch__[. ]", word) is not None


def _is_script(archive: zipfile.ZipFile) -> bool:
    """Whether torch would take it for a TorchScript archive."""
    return any(name.rpartition("/")[2] == "constants.pkl" for name in archive.namelist())


def _data(archive: zipfile.ZipFile, path: Path) -> list[zipfile.ZipInfo]:
    """The members that hold objects and numbers, not code.

    Raises:
        CheckpointError: they are compressed or overlap, which could fill the memory.
    """
    kept = [m for m in archive.infolist() if re.fullmatch(r"[^/]*/(data\.pkl|version|byteorder|data/\d+)", m.filename)]
    if any(m.compress_type for m in kept) or sum(m.file_size for m in kept) > path.stat().st_size:
        raise CheckpointError(f"{path}: a TorchScript archive whose data are compressed; save model.state_dict() alone")
    return kept


def _without_code(archive: zipfile.ZipFile, path: Path) -> BinaryIO:
    """The archive as ``torch.save`` would have written it: its data alone, with one name for all classes."""
    plain = io.BytesIO()
    with zipfile.ZipFile(plain, "w") as copy:
        for member in _data(archive, path):
            data = archive.read(member)
            if member.filename.endswith("/data.pkl"):
                data = _with_one_class(data)
            copy.writestr(member, data)
    plain.seek(0)
    return plain


def _with_one_class(data: bytes) -> bytes:
    parts, end = [], 0
    for operator, word, begin in genops(data):
        if begin is not None and _names_script_class(operator.name, word):
            module, _, name = _SCRIPT_OBJECT.partition(".")
            parts += [data[end:begin], f"c{module}\n{name}\n".encode()]
            end = begin + len(f"c{word}\n".encode())  # genops gives a blank for the line break between module and name
    return b"".join([*parts, data[end:]])


def _tensors_of(root: Any) -> dict[str, Tensor]:
    """The tensors of nested TorchScript objects by their dotted names, as ``state_dict()`` would name them."""
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()  # an archive may nest an object in itself
    waiting = [("", root)]
    while waiting:
        prefix, value = waiting.pop()
        if not isinstance(value, _ScriptObject) or not isinstance(value.state, dict) or id(value) in seen:
            continue
        seen.add(id(value))
        named = {f"{prefix}{name}": part for name, part in value.state.items()}
        tensors |= {name: part for name, part in named.items() if isinstance(part, Tensor)}
        waiting += [(f"{name}.", part) for name, part in named.items()]
    return tensors
