"""8-bit ONNX files: weights and activations of products and convolutions as whole numbers (static, QDQ)."""

from __future__ import annotations

import logging
import tempfile
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from gesta.checkpoint import METADATA_KEY, TrainedModel
from gesta.checkpoint.exported import ExportedNetwork, load_exported
from gesta.config import replace
from gesta.errors import GestaError
from gesta.evaluation.evaluate import evaluate
from gesta.export.write import CHECKED_CLIPS, check_exportable, description, differences, export, views_of_data
from gesta.files import write_atomically
from gesta.recipe import EvaluateConfig
from gesta.records import DataConfig

CALIBRATION_CLIPS = 32
"""Training clips from which the ranges of the activations are taken."""

_QUANTISED = ["Conv", "Gemm", "MatMul"]


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantisedReport:
    """What became of a model in 8 bits.

    Attributes:
        path: the file.
        sizes: bytes of the file in 32 and in 8 bits.
        difference: largest absolute difference of its scores to the model's.
        clips: from which the ranges of the activations were taken.
        split: of the data, on which accuracy is measured.
        before, after: the metrics of the model and of the file, in percent.
    """

    path: str
    sizes: tuple[int, int]
    difference: float
    clips: int
    split: str
    before: dict[str, float]
    after: dict[str, float]

    to_json = asdict

    def __str__(self) -> str:
        big, small = (size / 2**20 for size in self.sizes)
        lines = [
            f"{self.path}: {small:.1f} MiB (32 bits: {big:.1f} MiB), calibrated on {self.clips} training clips",
            f"scores differ by {self.difference:.2g} at most from the model's",
        ]
        for name, value in self.before.items():
            lines.append(f"{name} on split {self.split}: {value:.2f} % before, {self.after[name]:.2f} % after")
        return "\n".join(lines)


class _Clips:
    """Gives onnxruntime one clip after the other; the interface is its ``CalibrationDataReader``."""

    def __init__(self, network: ExportedNetwork, views: Tensor) -> None:
        self._inputs = iter([network.inputs_of(network.clips_of(view[None])) for view in views])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Inputs by name, or None at the end."""
        inputs = next(self._inputs, None)
        return None if inputs is None else {name: value.numpy() for name, value in inputs.items()}


def export_int8(
    model: TrainedModel, path: Path, *, data: DataConfig, protocol: EvaluateConfig, uint8: bool, dynamic: bool
) -> QuantisedReport:
    """Write a model as an 8-bit ONNX file, and score a split of its data before and after.

    Args:
        model, path, uint8, dynamic: as for :func:`gesta.export.write.export`.
        data: of the run; ranges are taken from its training clips, accuracy from the protocol's split.
        protocol: of the evaluations.

    Raises:
        GestaError: training videos that cannot be read, or as :func:`gesta.export.write.export`.
    """
    check_exportable(model, path)
    calibration = views_of_data(data, model.model.config.clip, protocol, CALIBRATION_CLIPS, "train")
    if not len(calibration):
        raise GestaError("--int8: none of the run's training videos can be read, from which it takes ranges of values")
    with tempfile.TemporaryDirectory() as folder:
        whole, small = Path(folder, "whole.onnx"), Path(folder, "int8.onnx")
        views = calibration if len(calibration) >= CHECKED_CLIPS else None
        try:
            export(model, whole, uint8=uint8, dynamic=dynamic, protocol=protocol, views=views)
        except GestaError as error:  # which names a file that is not left
            raise GestaError(str(error).replace(str(whole), str(path))) from error
        network = load_exported(whole, trust_code=True).model  # the classes of this very model
        assert isinstance(network, ExportedNetwork)
        _quantise(whole, small, _Clips(network, calibration))
        text = description(model, replace(network.exported, int8=True), protocol)
        _describe(small, text)
        trained = load_exported(small, trust_code=True)
        difference, _ = differences(model.model.eval(), trained.model, calibration[:CHECKED_CLIPS])
        _describe(small, description(model, replace(network.exported, int8=True, difference=difference), protocol))
        before, after = (evaluate(one, data, views=protocol).metrics for one in (model, trained))
        sizes = whole.stat().st_size, small.stat().st_size
        with write_atomically(path) as file:
            file.write(small.read_bytes())
    return QuantisedReport(
        path=str(path),
        sizes=sizes,
        difference=difference,
        clips=len(calibration),
        split=protocol.split,
        before={name: value for name, value in before.items() if not name.endswith("_scored")},
        after=after,
    )


def _quantise(source: Path, target: Path, clips: Any) -> None:
    from onnxruntime import quantization  # optional dependency

    level = logging.root.level
    logging.root.setLevel(logging.ERROR)  # it recommends a step that brings operators of onnxruntime alone
    try:
        with warnings.catch_warnings(action="ignore"):
            quantization.quantize_static(
                str(source),
                str(target),
                clips,
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=_QUANTISED,
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
            )
    finally:
        logging.root.setLevel(level)


def _describe(path: Path, text: str) -> None:
    """Replace the description in an ONNX file."""
    import onnx  # optional dependency

    model = onnx.load_model(path)
    del model.metadata_props[:]
    model.metadata_props.add(key=METADATA_KEY, value=text)
    path.write_bytes(model.SerializeToString())
