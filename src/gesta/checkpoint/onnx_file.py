"""ONNX files: read without trusting them, and run by onnxruntime.

An ONNX file cannot run code of its author by itself; what it could do is ask for operators of a library that was loaded
before, or for tensors in other files (or at an address in memory). Both are refused before onnxruntime sees the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gesta.checkpoint.formats import existing
from gesta.errors import CheckpointError, GestaError

STANDARD = ("", "ai.onnx")
"""Names of the standard's own set of operators."""


def missing_packages(path: object) -> GestaError:
    """What is said where onnx or onnxruntime is not installed."""
    return GestaError(f"{path}: ONNX files need onnx and onnxruntime; install them with: pip install 'gesta[export]'")


def read_metadata(path: Path, key: str) -> str | None:
    """An entry of the metadata of an ONNX file, whose operators and tensors are checked.

    Raises:
        CheckpointError: no ONNX file; operators that are not of the standard; tensors that are not in the file itself.
        GestaError: onnx is not installed.
    """
    try:
        import onnx  # optional dependency
        from google.protobuf.message import DecodeError  # a dependency of onnx
    except ImportError:
        raise missing_packages(path) from None
    try:
        model = onnx.load_model(existing(path), load_external_data=False)
    except DecodeError:
        raise CheckpointError(f"{path}: not a complete ONNX file; copy it again") from None
    functions = {(function.domain, function.name) for function in model.functions}
    for message in _messages(model):
        kind = message.DESCRIPTOR.name
        if (
            kind == "NodeProto"
            and message.domain not in STANDARD
            and (message.domain, message.op_type) not in functions
        ):
            raise CheckpointError(
                f"{path}: uses the operator {message.domain[:40]}.{message.op_type[:40]}, which is not of the ONNX "
                "standard and would run code of another library; export the model again"
            )
        if kind == "TensorProto" and (message.external_data or message.data_location == message.EXTERNAL):
            raise CheckpointError(
                f"{path}: the tensor {message.name[:80]!r} is in another file, which exported files do not have; "
                "export the model again"
            )
    return next((entry.value for entry in model.metadata_props if entry.key == key), None)


def _messages(message: Any) -> Iterator[Any]:
    """A protobuf message and all messages inside it."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if hasattr(value, "ListFields") else value:
                yield from _messages(part)


class OnnxProgram:
    """A file of :func:`read_metadata` in onnxruntime, on the CPU with as many threads as torch uses.

    Args:
        path: the file.
        inputs, outputs: names that it must have.

    Raises:
        CheckpointError: onnxruntime refuses the file, or it has other inputs or outputs.
        GestaError: onnxruntime is not installed.
    """

    def __init__(self, path: Path, inputs: list[str], outputs: list[str]) -> None:
        try:
            import onnxruntime  # optional dependency
        except ImportError:
            raise missing_packages(path) from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors, which are raised, too
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # classes of its own, made by its C++ code
            raise CheckpointError(f"{path}: onnxruntime refuses it ({_first_line(error)}); export it again") from None
        has = [[value.name for value in values()] for values in (self.session.get_inputs, self.session.get_outputs)]
        if has != [inputs, outputs]:
            raise CheckpointError(
                f"{path}: takes {', '.join(has[0])[:80]} and gives {', '.join(has[1])[:80]}, but its description says "
                f"{', '.join(inputs)} and {', '.join(outputs)}; export the model again"
            )
        self.path, self.outputs = path, outputs

    def __call__(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Inputs by name to the outputs in their order."""
        try:
            results = self.session.run(self.outputs, {name: value.numpy() for name, value in inputs.items()})
        except Exception as error:  # as above
            raise CheckpointError(f"{self.path}: cannot be computed ({_first_line(error)}); export it again") from None
        return [torch.from_numpy(result) for result in results]


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]
