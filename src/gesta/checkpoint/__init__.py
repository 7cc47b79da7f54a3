"""Files that hold weights: the self-sufficient model file and the training state.

A model file is ``.safetensors`` whose metadata carries the model's configuration, class names and licence, so that
reading it needs nothing else. Every write is atomic. :mod:`~gesta.checkpoint.formats` reads the bytes, without ever
running anything of a file; :mod:`~gesta.checkpoint.weights` takes weights of others into a model.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict, cast

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from gesta.checkpoint.formats import (
    STATE_MAGIC,
    check_finite,
    check_zip,
    existing,
    kind_of,
    read_safetensors,
    read_torch,
    safetensors_errors,
)
from gesta.checkpoint.hub import LocalWeights, resolve, weights_in
from gesta.config import from_json, parse_json, suggest, to_json
from gesta.errors import CheckpointError, GestaError
from gesta.files import write_atomically
from gesta.model import ModelConfig, VideoModel, check_size
from gesta.processes import choose_device
from gesta.recipe import EvaluateConfig
from gesta.records import LABEL, ClassNames, by_space, class_counts
from gesta.video.depth import Depth
from gesta.video.flow import Flow
from gesta.video.modality import Shows, modality_of

FORMAT = 1
"""Version of both file formats; files with a greater one are refused."""

METADATA_KEY = "gesta"


class _Required(TypedDict):
    format: int
    gesta: str
    model: dict[str, Any]
    classes: ClassNames


class Metadata(_Required, total=False):
    """What the metadata of a model file hold, see :func:`save_model`; ``model`` is its configuration as JSON.

    ``protocol`` is that of the run's evaluation. Exported files have no checksum, but that of the model file that they
    were made from (``source``), and what they take, see :class:`gesta.checkpoint.exported.Exported`.
    """

    depth: dict[str, Any] | None
    flow: bool
    person_crop: bool
    licence: str
    notes: dict[str, Any]
    checksum: str
    source: str
    protocol: dict[str, Any]
    export: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class TrainedModel:
    """A model with its weights and all that is needed to use it; what :func:`load` returns.

    Attributes:
        model: the network with its weights, in evaluation mode.
        classes: class names in label order, by label space if there are several.
        metadata: of the file, see :class:`Metadata`; empty for public weights.
        shows: what the model was trained on, and how it was shown; None for RGB, as all files without it hold.
        person_crop: whether it was trained on pictures cropped to the person, see :mod:`gesta.data.person`.
        path: the file it was read from, if it was one; ``head`` is a second one, with the head of public weights.
        name: what messages and results call where it came from: the path, or the repository of a hub with its commit.
    """

    model: VideoModel
    classes: ClassNames
    metadata: Mapping[str, Any]
    shows: Shows | None = None
    person_crop: bool = False
    path: str | None = None
    name: str | None = None
    head: str | None = None

    def __str__(self) -> str:
        counts = " and ".join(
            f"{len(names)} {'classes' if space == LABEL else f'classes of {space}'}"
            for space, names in by_space(self.classes).items()
        )
        clip, modality = self.model.config.clip, f" of {modality_of(self.shows)}" if self.shows else ""
        counts += ", any number of them in a video" * self.model.config.multi_label
        return f"{self.model.config.summary}, {counts}, clips{modality} of {clip.frames} frames at {clip.size} px" + (
            f" ({self.name})" if self.name else ""
        )

    def __repr__(self) -> str:
        return f"<TrainedModel: {self}>"


# --- the model file --------------------------------------------------------------------------------------------------


def save_model(
    path: str | Path,
    model: VideoModel,
    classes: ClassNames,
    *,
    shows: Shows | None = None,
    person_crop: bool = False,
    protocol: EvaluateConfig | None = None,
    licence: str = "",
    notes: dict[str, Any] | None = None,
    weights: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write a self-sufficient ``.safetensors`` file.

    Args:
        path: the file, ``.safetensors``; its folder must exist.
        model: any device; its configuration is saved with it.
        classes: class names in label order, by label space if there are several.
        shows: what is shown to the model, and how; None for a model of RGB.
        person_crop: the model's pictures are cropped to the person.
        protocol: of the evaluation, whose scale of pictures predictions then have, too; None says nothing.
        licence: of the weights, for whoever receives the file.
        notes: further JSON-able facts (recipe, epoch, metrics).
        weights: a state dict for the model that ``model.config`` builds; None takes the model's own.

    Raises:
        GestaError: a file of another suffix; class names that are not those of the model, by their number; or the file
            cannot be written.
    """
    if Path(path).suffix != ".safetensors":
        raise GestaError(f"{path}: is not called .safetensors, by which gesta knows its model files: give such a name")
    if class_counts(classes) != model.config.classes:
        raise GestaError(
            f"{path}: {class_counts(classes)} class names cannot be saved with a model of {model.config.classes} "
            "classes; give one for each"
        )
    facts: dict[str, Any] = {"licence": licence, "notes": notes or {}}
    if protocol is not None:
        facts["protocol"] = to_json(protocol)
    metadata = describe(model.config, classes, shows=shows, person_crop=person_crop, **facts)
    # Copies, because safetensors refuses tensors that share memory (tied weights).
    given = model.state_dict() if weights is None else weights
    tensors = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in given.items()}
    metadata["checksum"] = _checksum(tensors, metadata)
    # One entry only: safetensors writes several in random order, and equal weights should give equal files.
    data = safetensors.torch.save(tensors, {METADATA_KEY: json.dumps(metadata)})
    with write_atomically(path) as file:
        file.write(data)
    return Path(path)


def describe(
    config: ModelConfig, classes: ClassNames, *, shows: Shows | None = None, person_crop: bool = False, **facts: Any
) -> dict[str, Any]:
    """The metadata of a model's file, see :class:`Metadata`; ``facts`` are its entries that are not named here."""
    metadata = {
        "format": FORMAT,
        "gesta": importlib.metadata.version("gesta"),
        "model": to_json(config),
        "classes": classes,
        "depth": asdict(shows) if isinstance(shows, Depth) else None,
        "flow": isinstance(shows, Flow),
        "person_crop": person_crop,
        **facts,
    }
    # JSON knows neither NaN nor infinity, which a metric among the notes may be.
    return json.loads(json.dumps(metadata), parse_constant=lambda _: None)


def shows_of(metadata: Metadata, path: Path) -> Shows | None:
    """What a model was trained on, and how it was shown, by its metadata."""
    return Flow() if metadata.get("flow") else from_json(metadata.get("depth"), Depth | None, source=str(path))


def read_metadata(path: str | Path) -> Metadata:
    """The metadata of a model file without reading its weights.

    Raises:
        CheckpointError: absent, not a safetensors file, cut short, not written by gesta or by a later gesta, or with
            metadata that are no model description.
    """
    path = existing(path)
    with safetensors_errors(path), safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get(METADATA_KEY)
    if text is None:
        raise CheckpointError(
            f"{path}: holds weights but no gesta model description; name their model (--model NAME --weights FILE), or "
            "start a training from them with --init.weights"
        )
    return parse_metadata(text, path)


def parse_metadata(text: str, path: Path) -> Metadata:
    """The description of a model, from the text in its file.

    Raises:
        CheckpointError: none of gesta, or of a later one.
    """
    source, remedy = f"{path}: its model description", "copy the file again"
    try:
        metadata = parse_json(text, source, remedy)
        if isinstance(metadata, dict) and type(metadata.get("format")) is int and metadata["format"] > FORMAT:
            version = str(metadata.get("gesta"))[:40]
            raise CheckpointError(f"{path}: written by gesta {version}, a later version; upgrade gesta")
        return cast(Metadata, from_json(metadata, Metadata, source=source, remedy=remedy))
    except GestaError as error:
        raise CheckpointError(str(error)) from None


def weights_file(source: str | os.PathLike[str]) -> LocalWeights:
    """The model file that a run folder (its ``best.safetensors``), a file or a repository of a hub stands for.

    Raises:
        CheckpointError: a folder without it, or a file of another kind; see also :func:`gesta.checkpoint.hub.resolve`.
    """
    local = weights_in(resolve(source))
    path = local.path
    if not os.path.exists(path):
        beside = os.listdir(path.parent) if path.parent.is_dir() else []
        remedy = suggest(path.name, beside) or "; give a run folder or a .safetensors file"
        raise CheckpointError(f"{path}: there is no such file or folder{remedy}")
    if path.suffix != ".safetensors":
        what = kind_of(path)
        if what.startswith("the training state"):
            raise CheckpointError(f"{path}: {what}; give the folder of the run, or its best.safetensors")
        raise CheckpointError(
            f"{local.name}: {what + ', ' if what else ''}neither a run folder nor a .safetensors file of gesta; name "
            "the model of public weights (--model NAME --weights FILE), or start a training from them with "
            "--init.weights"
        )
    return local


def load(
    source: str | os.PathLike[str], *, trust_code: bool = False, device: str | torch.device = "cpu"
) -> TrainedModel:
    """Load a trained model, its class names and how its videos are read.

    Args:
        source: a run folder (its ``best.safetensors``), a file of :func:`save_model`, or ``hf:owner/name``, a
            repository that ``gesta hub push`` has made.
        trust_code: also build models whose classes are not part of gesta (this runs their code).
        device: where the model is put.

    Raises:
        CheckpointError: neither of these, as :func:`read_metadata`, or weights that do not fit the described model or
            are not those that were written (by their checksum), or are not finite.
        GestaError: a described model that cannot be built, see :func:`gesta.model.check_size`.
    """
    local = weights_file(source)
    path, metadata = local.path, read_metadata(local.path)
    config: ModelConfig = from_json(metadata["model"], ModelConfig, trust_code=trust_code, source=str(path))
    if class_counts(metadata["classes"]) != config.classes:
        raise CheckpointError(
            f"{path}: names {class_counts(metadata['classes'])} classes, but its model has {config.classes}; "
            "copy the file again"
        )
    with torch.random.fork_rng(devices=[]):  # the initial values are overwritten: leave the caller's randomness alone
        weights = read_safetensors(path)
        expected = check_size(config, str(path), 1000 + 10 * len(weights))
        if complaint := _misfit(expected, weights):
            name = type(config).__name__.removesuffix("Config")
            raise CheckpointError(
                f"{path}: its weights do not fit the {name} it describes ({complaint}); "
                f"use gesta {metadata['gesta'][:40]}, which wrote it"
            )
        if "checksum" in metadata and metadata["checksum"] != _checksum(weights, metadata):  # older files have none
            raise CheckpointError(f"{path}: has changed since it was written, or was copied wrongly; copy it again")
        model = config.build()
    check_finite(weights, path)
    model.load_state_dict(weights)
    return TrainedModel(
        model=model.to(choose_device(device)).eval(),
        classes=metadata["classes"],
        metadata=metadata,
        shows=shows_of(metadata, path),
        person_crop=metadata.get("person_crop", False),
        path=str(path),
        name=local.name,
    )


# --- the training state ----------------------------------------------------------------------------------------------


def save_state(path: str | Path, state: dict[str, Any]) -> Path:
    """Write a training state: tensors, numbers, strings and containers of them.

    A crash at any moment leaves the old file or the new one; the one before is kept beside it under the name
    ``previous`` with the same ending.
    """
    path = Path(path)
    with write_atomically(path, keep=previous_state(path)) as file:
        try:
            torch.save({"magic": STATE_MAGIC, "format": FORMAT, "state": state}, file)
        except RuntimeError:  # what torch makes of an OSError
            raise CheckpointError(f"{path}: cannot be written; is the disk full?") from None
    return path


def previous_state(path: str | Path) -> Path:
    """Where :func:`save_state` keeps the state before the one in ``path``."""
    path = Path(path)
    return path.with_name(f"previous{path.suffix}")


def load_state(path: str | Path) -> dict[str, Any]:
    """Read a file of :func:`save_state`, its tensors on the CPU.

    Raises:
        CheckpointError: absent, empty, cut short, changed since it was written, not a training state, or holding Python
            objects.
    """
    try:
        check_zip(existing(path))
        content = read_torch(path)
    except CheckpointError as error:
        previous = previous_state(path)
        remedy = (
            f"; the state before it is kept in {previous}: copy it to {Path(path).name}" if previous.exists() else ""
        )
        raise CheckpointError(f"{error}{remedy}") from None
    if not (isinstance(content, dict) and content.get("magic") == STATE_MAGIC):
        raise CheckpointError(f"{path}: not a training state of gesta; give the last.ckpt of a run")
    if type(content.get("format")) is not int or not isinstance(content.get("state"), dict):
        raise CheckpointError(f"{path}: a damaged training state; give another")
    if content["format"] > FORMAT:
        raise CheckpointError(f"{path}: written by a later version of gesta; upgrade gesta")
    return content["state"]


# --- whether a model file is whole -----------------------------------------------------------------------------------


def _checksum(weights: dict[str, Tensor], metadata: Mapping[str, Any]) -> str:
    """CRC-32 of the metadata (without the checksum) and of every weight's name, type, shape and values, hexadecimal."""
    crc = zlib.crc32(json.dumps({key: value for key, value in metadata.items() if key != "checksum"}).encode())
    for name, value in sorted(weights.items()):
        crc = zlib.crc32(f"{name} {value.dtype} {tuple(value.shape)}".encode(), crc)
        crc = zlib.crc32(value.reshape(-1).view(torch.uint8).numpy().data, crc)
    return f"{crc:08x}"


def _misfit(expected: Mapping[str, torch.Size], weights: Mapping[str, Tensor]) -> str:
    """The first thing in which weights differ from what a model expects, or an empty string."""
    for name, shape in expected.items():
        if name not in weights:
            return f"they lack {name}"
        if weights[name].shape != shape:
            return f"{name} is {list(weights[name].shape)}, the model's {list(shape)}"
    surplus = next((name for name in weights if name not in expected), None)
    return "" if surplus is None else f"the model has no {surplus[:100]}"
