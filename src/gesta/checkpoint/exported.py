"""Exported models: files of other runtimes (``.onnx``, ``.pt2``) that are used as a run is.

``gesta export`` writes them with the metadata of a model file, and with what this module calls :class:`Exported`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Protocol

import torch
from torch import Tensor, nn

from gesta.checkpoint import METADATA_KEY, TrainedModel, onnx_file, parse_metadata, pt2_file, shows_of
from gesta.config import Between, config, from_json
from gesta.errors import CheckpointError, GestaError
from gesta.model import ModelConfig, Scores, VideoModel, to_clips
from gesta.processes import Precision
from gesta.records import by_space, class_counts

Kind = Literal["onnx", "torch"]

SUFFIXES: dict[str, Kind] = {".onnx": "onnx", ".pt2": "torch"}
"""Endings of the names of exported files."""


@config
class Exported:
    """What an exported file takes, and how near it is to the model.

    Attributes:
        kind: for which runtime.
        uint8: it takes frames as they are decoded, ``(B, T, H, W, 3)`` uint8, of each stream one input; else clips
            ``(B, 3, T, H, W)`` float32, as :func:`gesta.model.to_clips` gives them.
        dynamic: any number of clips at once; else one.
        int8: weights and activations are whole numbers of 8 bits.
        difference: largest absolute difference of its scores (before the softmax) to the model's, on the clips that it
            was checked with.
    """

    kind: Kind
    uint8: bool = False
    dynamic: bool = True
    int8: bool = False
    difference: Annotated[float, Between(0, 1e9)] = 0.0


class Program(Protocol):
    """A file that is open in its runtime."""

    def __call__(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Inputs by name to the outputs in their order."""


def input_names(config: ModelConfig) -> list[str]:
    """Names of the inputs of an exported model, one for each stream."""
    return list(config.clip.streams) or ["video"]


def output_names(config: ModelConfig) -> list[str]:
    """Names of the outputs of an exported model, one for each label space: its scores before softmax or sigmoid."""
    return list(config.classes) if isinstance(config.classes, dict) else ["scores"]


def is_exported(path: Path) -> bool:
    """Whether a file is an exported model, by its name."""
    return path.suffix in SUFFIXES


class ExportedNetwork(VideoModel):
    """The network of an exported file: it gives scores, and has no parts that could be looked into or trained.

    Args:
        config: of the model that was exported.
        exported: what the file takes.
        program: of the file.
        path: of the file, for messages.
    """

    def __init__(self, config: ModelConfig, exported: Exported, program: Program, path: Path) -> None:
        super().__init__(config)
        self.exported, self.program, self.path = exported, program, path
        self.inserts, self.attentive = nn.ModuleDict(), None

    @property
    def streams(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.config.clip.streams

    @property
    def blocks(self) -> NoReturn:  # type: ignore[override]
        raise GestaError(f"{self.path}: an exported file has no parts to look into; give the run that it was made from")

    def _run(self, video: Tensor, taps: dict[str, Any] | None) -> NoReturn:
        raise GestaError(f"{self.path}: an exported file gives scores alone; give the run that it was made from")

    def clips_of(self, views: Tensor) -> Tensor:
        return views if self.exported.uint8 else to_clips(views[None], self.config.clip)

    def inputs_of(self, video: Tensor) -> dict[str, Tensor]:
        """The file's inputs by name, from clips of :meth:`clips_of`."""
        parts = video.split(3, 2 if self.exported.uint8 else 1)
        if self.exported.uint8:
            parts = tuple(part.movedim(2, -1) for part in parts)
        return {name: part.contiguous() for name, part in zip(input_names(self.config), parts)}

    def forward(self, video: Tensor, with_losses: bool = False) -> Scores:  # type: ignore[override]
        """Clips of :meth:`clips_of` to scores.

        Raises:
            GestaError: losses, which are for trainings, or clips of another size.
            CheckpointError: the file cannot be computed, or gives something else than scores of its classes.
        """
        clip, channels = self.config.clip, 2 if self.exported.uint8 else 1
        size = {0: len(video), channels: clip.channels, 3 - channels: clip.frames, 3: clip.size, 4: clip.size}
        if with_losses or list(video.shape) != [size[axis] for axis in range(5)]:
            raise GestaError(
                f"{self.path}: an exported file scores clips of {clip.frames} frames at {clip.size} px, and is not "
                "trained; give the run that it was made from"
            )
        passes = [video] if self.exported.dynamic else video.split(1)
        scores = [torch.cat(pieces) for pieces in zip(*(self.program(self.inputs_of(clips)) for clips in passes))]
        counts = by_space(self.config.classes)
        for values, count in zip(scores, counts.values()):
            if values.shape != (len(video), count) or values.dtype != torch.float32:
                raise CheckpointError(
                    f"{self.path}: gives {values.dtype} of shape {tuple(values.shape)} for {len(video)} clips and "
                    f"{count} classes, not their scores; export the model again"
                )
        return dict(zip(counts, scores)) if isinstance(self.config.classes, dict) else scores[0]


def load_exported(path: Path, *, kind: Kind | None = None, trust_code: bool = False) -> TrainedModel:
    """An exported model, its class names and how its videos are read.

    Args:
        path: ``.onnx`` or ``.pt2``, written by ``gesta export``.
        kind: what it is, if its name does not say so.
        trust_code: also take models whose classes are not part of gesta (this runs their code).

    Raises:
        CheckpointError: not such a file, or one whose runtime refuses it; see :mod:`gesta.checkpoint.onnx_file` and
            :mod:`gesta.checkpoint.pt2_file` for what is never run.
        GestaError: its runtime is not installed.
    """
    kind = kind or SUFFIXES[path.suffix]
    read, open_program = _READERS[kind]
    text = read(path, METADATA_KEY)
    if text is None:
        raise CheckpointError(f"{path}: holds no description of gesta; give a file that gesta export has written")
    metadata = parse_metadata(text, path)
    exported: Exported = from_json(metadata.get("export"), Exported, source=f"{path}: its description")
    config: ModelConfig = from_json(metadata["model"], ModelConfig, trust_code=trust_code, source=str(path))
    if class_counts(metadata["classes"]) != config.classes or exported.kind != kind:
        raise CheckpointError(f"{path}: its description does not fit it; copy the file again")
    program = open_program(path, input_names(config), output_names(config))
    return TrainedModel(
        model=ExportedNetwork(config, exported, program, path).eval(),
        classes=metadata["classes"],
        metadata=metadata,
        shows=shows_of(metadata, path),
        person_crop=metadata.get("person_crop", False),
        path=str(path),
        name=str(path),
    )


_READERS: dict[Kind, tuple[Callable[[Path, str], str | None], Callable[[Path, list[str], list[str]], Program]]] = {
    "onnx": (onnx_file.read_metadata, onnx_file.OnnxProgram),
    "torch": (pt2_file.read_metadata, pt2_file.TorchProgram),
}


def device_for(model: VideoModel, device: str | torch.device, precision: Precision) -> str | torch.device:
    """Where a model runs, ``auto`` for where there is room; an exported file on the CPU, in its own precision.

    Raises:
        GestaError: a device or a precision for an exported file that it has not.
    """
    if not isinstance(model, ExportedNetwork):
        return device
    if torch.device("cpu" if device == "auto" else device).type != "cpu" or precision != "32-true":
        raise GestaError(
            f"{model.path}: an exported file runs on the CPU, and computes as it was written; leave --device and "
            "--precision out"
        )
    return "cpu"
