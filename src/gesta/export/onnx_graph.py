"""Programs of ``torch.export`` become ONNX."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

import gesta.alignment.assignment  # noqa: F401  # registers the operator of matches
from gesta.checkpoint import METADATA_KEY
from gesta.checkpoint.exported import input_names, output_names
from gesta.errors import GestaError
from gesta.export.assignment import add_functions, assign_in_onnx
from gesta.model import ModelConfig

OPSET = 20
"""Version of ONNX's operators: the first that samples grids of three axes, which STAN does."""

Writer = Callable[[Path, str], None]
"""Writes a program to a file with the description of its model."""


def onnx_writer(program: ExportedProgram, config: ModelConfig) -> Writer:
    """Writes a program as ONNX.

    Raises:
        GestaError: it has an operator that ONNX cannot express.
    """
    has_matches = any(node.target is torch.ops.gesta.assign.default for node in program.graph.nodes)
    try:
        with warnings.catch_warnings(action="ignore"), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            converted = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=input_names(config),
                output_names=output_names(config),
                custom_translation_table={torch.ops.gesta.assign.default: assign_in_onnx} if has_matches else None,
            )
    except Exception as error:  # whatever the converter raises
        first: BaseException = error
        while first.__cause__ is not None:
            first = first.__cause__
        reason = next(iter(str(first).strip().splitlines()), type(first).__name__)
        raise GestaError(
            f"{config.summary} cannot be written as ONNX ({reason[:200]}); export it with --to torch"
        ) from error
    assert converted is not None
    model = converted.model_proto
    if has_matches:
        add_functions(model)
    _strip(model)

    def write(path: Path, text: str) -> None:
        del model.metadata_props[:]
        model.metadata_props.add(key=METADATA_KEY, value=text)
        path.write_bytes(model.SerializeToString())

    return write


def _strip(model: Any) -> None:
    """Remove what the converter notes about torch's code: half of a small file, and of no use to a runtime."""
    model.doc_string = ""
    graphs = [model.graph, *model.functions]
    while graphs:
        graph = graphs.pop()
        parts = [graph, *graph.node, *getattr(graph, "value_info", ())]
        parts += [*getattr(graph, "initializer", ())]
        parts += [value for name in ("input", "output") for value in getattr(graph, name) if not isinstance(value, str)]
        for part in parts:
            del part.metadata_props[:]
            part.doc_string = ""
        for attribute in (attribute for node in graph.node for attribute in node.attribute):
            graphs += [attribute.g] if attribute.HasField("g") else attribute.graphs
