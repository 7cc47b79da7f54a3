"""Programs of ``torch.export`` (.pt2): read and run without ``torch.export.load``.

That function unpickles parts of a file, evaluates the expressions of its sizes, executes the guards that it holds as
Python text, and takes any function of torch by its name for an operator. Here a file is a list of calls of ATen
operators in JSON, and numbers in other members of the archive: calls of the operators that are listed below are made
one after the other, and nothing else of the file is used.
"""

from __future__ import annotations

import json
import operator
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gesta.checkpoint.formats import existing
from gesta.errors import CheckpointError

_ARITHMETIC = {name: getattr(operator, name) for name in ("add", "sub", "mul", "floordiv", "mod", "neg", "getitem")}
"""Functions of Python's module ``operator`` by which programs compute with sizes."""

_OURS = ("assign",)
"""Operators of gesta that files may call."""

_NAMES = """
__and__ __or__ _upsample_bicubic2d_aa _upsample_bilinear2d_aa adaptive_avg_pool1d adaptive_avg_pool2d
adaptive_avg_pool3d add_ addcmul_ alias arange avg_pool1d avg_pool3d baddbmm batch_norm broadcast_to chunk clamp_
clamp_max clamp_min concat contiguous conv1d conv2d conv3d copy_ detach detach_ div_ dropout einsum empty_like
expand_as eye fill_ flatten floor_divide frobenius_norm gather_ gelu getitem glu grid_sampler group_norm hardswish
hardswish_ hardtanh_ index_put_ index_select instance_norm interpolate layer_norm lerp lift_fresh_copy linalg_norm
linalg_vector_norm linear linspace log_softmax logsumexp mT masked_fill masked_fill_ matmul max_pool1d max_pool2d
max_pool3d moveaxis movedim mul_ nan_to_num narrow new_empty new_full new_ones new_zeros one_hot ones ones_like outer
pad pixel_shuffle relu_ repeat_interleave reshape roll rsub scaled_dot_product_attention scatter_ select sigmoid_ silu
silu_ slice softmax softplus sort special_entr split split_with_sizes square stack std std_mean sub_ sum swapaxes
sym_size t take_along_dim tile to transpose type_as unbind unflatten upsample_bicubic2d upsample_bilinear2d
upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_trilinear3d var_mean view_as where
zero_ zeros zeros_like
"""
_COMPOSITE = frozenset(_NAMES.split())
"""Operators of programs that are not decomposed into the core ones; none reads or writes anything but its arguments."""

_UNCHECKED = re.compile("_backward$|^_embedding_bag$")
"""Core operators that no model needs for its scores, and that trust the indices which they are given."""

_TYPES = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    12: torch.bool,
    13: torch.bfloat16,
}
"""``ScalarType`` of torch's ``_export/serde/schema.py``."""

_MEMORY_FORMATS = {
    1: torch.contiguous_format,
    2: torch.channels_last,
    3: torch.channels_last_3d,
    4: torch.preserve_format,
}

_Value = Callable[[dict[str, Any]], Any]
"""Gives an argument from the values so far."""


def read_metadata(path: Path, key: str) -> str | None:
    """An extra file of a program, as text; None if there is none.

    Raises:
        CheckpointError: no archive, or one that is damaged or not as torch writes it.
    """
    with _open(path) as archive:
        name = next((name for name in archive.namelist() if name.partition("/")[2] == f"extra/{key}"), None)
        return None if name is None else _read(path, archive, name).decode("utf-8", "replace")


class TorchProgram:
    """A program of ``torch.export.save``, on the CPU.

    Args:
        path: the file.
        inputs, outputs: names of what it takes and gives, in their order.

    Raises:
        CheckpointError: not such a file; calls of operators that are not listed; other inputs or outputs.
    """

    def __init__(self, path: Path, inputs: list[str], outputs: list[str]) -> None:
        self.path, self.inputs = path, inputs
        try:
            with _open(path) as archive:
                folder = archive.namelist()[0].partition("/")[0]
                program = json.loads(_read(path, archive, f"{folder}/models/model.json"))["graph_module"]
                tensors = _tensors(path, archive, f"{folder}/data/weights/", "model_weights_config.json")
                tensors |= _tensors(path, archive, f"{folder}/data/constants/", "model_constants_config.json")
            self._known, self._given = _bound(program["signature"]["input_specs"], tensors)
            self._steps = [_Step(path, node) for node in program["graph"]["nodes"]]
            self._results = [_argument(part) for part in program["graph"]["outputs"]]
        except CheckpointError:
            raise
        except Exception as error:  # whatever Python and torch make of JSON that is none of a program
            raise CheckpointError(
                f"{path}: not a program that torch.export has written ({type(error).__name__}: {str(error)[:100]}); "
                "export the model again"
            ) from None
        if (len(self._given), len(self._results)) != (len(inputs), len(outputs)):
            raise CheckpointError(f"{path}: its program and its description do not fit; export the model again")
        last = {name: i for i, step in enumerate(self._steps) for name in step.reads}
        kept = {name for part in program["graph"]["outputs"] for name in _names(part)}
        for name, i in last.items():
            if name not in self._known and name not in kept:
                self._steps[i].frees.append(name)

    @torch.inference_mode()
    def __call__(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Inputs by name to the outputs in their order."""
        values = self._known | dict(zip(self._given, (inputs[name] for name in self.inputs)))
        try:
            for step in self._steps:
                step(values)
            results = [result(values) for result in self._results]
            if not all(isinstance(result, Tensor) for result in results):
                raise TypeError("a result is not a tensor")
            return results
        except Exception as error:  # as above
            raise CheckpointError(
                f"{self.path}: its program cannot be computed ({str(error).strip().partition(chr(10))[0][:200]}); "
                "export the model again"
            ) from None


class _Step:
    """One call of an operator."""

    def __init__(self, path: Path, node: Mapping[str, Any]) -> None:
        self.run = _function(path, node["target"])
        given = [(part["name"], _argument(part["arg"]), part["kind"]) for part in node["inputs"]]
        is_plain = node["target"].startswith("_operator.")  # whose arguments have no names
        self.positional = [value for _, value, _ in given] if is_plain else []
        self.named = {} if is_plain else {name: value for name, value, _ in given}
        self.results = [name for part in node["outputs"] for name in _names(part)]
        self.several = len(node["outputs"]) != 1 or "as_tensors" in node["outputs"][0]
        self.reads = {name for part in node["inputs"] for name in _names(part["arg"])} | set(self.results)
        self.frees: list[str] = []

    def __call__(self, values: dict[str, Any]) -> None:
        named = {name: value(values) for name, value in self.named.items()}
        result = self.run(*(value(values) for value in self.positional), **named)
        if self.results:
            values.update(zip(self.results, result if self.several else [result]))
        for name in self.frees:
            del values[name]


def _function(path: Path, target: str) -> Callable[..., Any]:
    """The function of an operator's name.

    Raises:
        CheckpointError: it is not among those that files may call.
    """
    if match := re.fullmatch(r"_operator\.(\w+)", target):
        if match[1] in _ARITHMETIC:
            return _ARITHMETIC[match[1]]
    elif match := re.fullmatch(r"torch\.ops\.(aten|gesta)\.(\w+)\.(\w+)", target):
        library, name, overload = match.groups()
        function = getattr(getattr(getattr(torch.ops, library), name, None), overload, None)
        if isinstance(function, torch._ops.OpOverload):
            is_core = torch.Tag.core in function.tags and not _UNCHECKED.search(name)
            if name in _OURS if library == "gesta" else name in _COMPOSITE or is_core:
                return function
    raise CheckpointError(
        f"{path}: calls {target[:80]}, which is not among the operators that files may call here; where you trust its "
        "author, run it with torch.export.load"
    )


def _argument(part: Mapping[str, Any]) -> _Value:
    """What gives an argument, from its description."""
    ((kind, value),) = part.items()
    if kind in ("as_tensor", "as_optional_tensor", "as_sym_int", "as_sym_bool", "as_sym_float"):
        return _single(value)
    if kind in ("as_tensors", "as_optional_tensors", "as_sym_ints", "as_sym_bools", "as_sym_floats"):
        parts = [_single(one) for one in value]
        return lambda values: [one(values) for one in parts]
    constant = _constant(kind, value)
    return lambda values: constant


def _single(part: Mapping[str, Any]) -> _Value:
    """A tensor or a size, by its name or as it is."""
    if "as_tensor" in part:
        part = part["as_tensor"]
    if "as_none" in part:
        return lambda values: None
    name = part.get("name") or part.get("as_name")
    if name is not None:
        return lambda values: values[name]
    constant = part["as_int"] if "as_int" in part else part["as_bool"] if "as_bool" in part else float(part["as_float"])
    return lambda values: constant


def _constant(kind: str, value: Any) -> Any:
    if kind == "as_none":
        return None
    if kind in ("as_int", "as_bool", "as_string", "as_ints", "as_bools", "as_strings"):
        return value
    if kind in ("as_float", "as_floats"):  # infinities are written as words
        return float(value) if kind == "as_float" else [float(one) for one in value]
    if kind == "as_scalar_type":
        return _TYPES[value]
    if kind == "as_memory_format":
        return _MEMORY_FORMATS[value]
    if kind == "as_layout":
        return torch.strided
    if kind == "as_device":
        return torch.device("cpu")
    raise ValueError(f"an argument of the kind {kind}")


def _names(part: Any) -> list[str]:
    """Names of values in the description of arguments or results."""
    if isinstance(part, list):
        return [name for one in part for name in _names(one)]
    if not isinstance(part, dict):
        return []
    own = [part[key] for key in ("name", "as_name") if isinstance(part.get(key), str)]
    return own + [name for key, one in part.items() if key.startswith("as_") for name in _names(one)]


def _bound(specs: list[dict[str, Any]], tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Names in the program of the tensors that the file holds, and of what it is given."""
    known: dict[str, Tensor] = {}
    given: list[str] = []
    for spec in specs:
        ((kind, value),) = spec.items()
        if kind == "user_input":
            given += _names(value["arg"])
        else:
            source = next(
                value[key] for key in ("parameter_name", "buffer_name", "tensor_constant_name") if key in value
            )
            known[value["arg"]["name"]] = tensors[source]
    return known, given


def _tensors(path: Path, archive: zipfile.ZipFile, folder: str, index: str) -> dict[str, Tensor]:
    """The tensors of one folder of the archive by name."""
    tensors: dict[str, Tensor] = {}
    files: dict[str, Tensor] = {}
    for name, entry in json.loads(_read(path, archive, folder + index))["config"].items():
        if entry["use_pickle"] or not re.fullmatch(r"(weight|tensor)_\d+", entry["path_name"]):
            raise CheckpointError(
                f"{path}: holds a Python object ({name[:80]}), and reading it could run its author's code; export the "
                "model again"
            )
        meta = entry["tensor_meta"]
        size, stride = ([axis["as_int"] for axis in meta[key]] for key in ("sizes", "strides"))
        kind = _TYPES[meta["dtype"]]
        if entry["path_name"] not in files:
            data = _read(path, archive, folder + entry["path_name"])
            files[entry["path_name"]] = (
                torch.frombuffer(bytearray(data), dtype=kind) if data else torch.empty(0, dtype=kind)
            )
        tensors[name] = files[entry["path_name"]].view(kind).as_strided(size, stride, meta["storage_offset"]["as_int"])
    return tensors


def _open(path: Path) -> zipfile.ZipFile:
    try:
        archive = zipfile.ZipFile(existing(path))
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        raise CheckpointError(f"{path}: not a complete .pt2 file; copy it again") from None
    if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
        raise CheckpointError(
            f"{path}: a compressed archive, not what torch.export.save writes; export the model again"
        )
    return archive


def _read(path: Path, archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        return archive.read(name)
    except (KeyError, zipfile.BadZipFile, EOFError, RuntimeError, NotImplementedError):  # also: with a password
        raise CheckpointError(f"{path}: lacks {name}, or was damaged; copy it again") from None
