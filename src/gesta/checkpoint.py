"""Files that hold weights: the self-sufficient model file, the training state, and other people's checkpoints.

A model file is ``.safetensors`` whose metadata carries the model's configuration, class names and licence, so that
reading it needs nothing else. Nothing is ever unpickled: torch files are read with ``weights_only=True``, which admits
tensors, numbers, strings and containers of them. Every write is atomic.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.metadata
import json
import os
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict, cast

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from gesta.config import from_json, parse_json, read_text, to_json
from gesta.errors import CheckpointError, GestaError
from gesta.files import write_atomically
from gesta.model import ModelConfig, VideoModel, check_size
from gesta.progress import join_lines
from gesta.records import LABEL, ClassNames, by_space, class_counts
from gesta.video.depth import Depth

FORMAT = 1
"""Version of both file formats; files with a greater one are refused."""

METADATA_KEY = "gesta"
STATE_MAGIC = "gesta training state"
WRAPPERS = ("state_dict", "model_state", "model_state_dict", "model", "module", "ema", "model_ema", "state_dict_ema")
"""Keys under which public checkpoints keep their weights, in order of preference."""


class _Required(TypedDict):
    format: int
    gesta: str
    model: dict[str, Any]
    classes: ClassNames


class Metadata(_Required, total=False):
    """What the metadata of a model file hold, see :func:`save_model`; ``model`` is its configuration as JSON."""

    depth: dict[str, Any] | None
    person_crop: bool
    licence: str
    notes: dict[str, Any]
    checksum: str


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class TrainedModel:
    """A model with its weights and all that is needed to use it; what :func:`load` returns.

    Attributes:
        model: the network with its weights, in evaluation mode.
        classes: class names in label order, by label space if there are several.
        metadata: of the file, see :class:`Metadata`; empty for public weights.
        depth: how depth was shown to the model in training; None for a model of RGB, as all files without it hold.
        person_crop: whether it was trained on pictures cropped to the person, see :mod:`gesta.data.person`.
        path: the file it was read from.
    """

    model: VideoModel
    classes: ClassNames
    metadata: Mapping[str, Any]
    depth: Depth | None = None
    person_crop: bool = False
    path: str | None = None

    def __str__(self) -> str:
        counts = " and ".join(
            f"{len(names)} {'classes' if space == LABEL else f'classes of {space}'}"
            for space, names in by_space(self.classes).items()
        )
        clip, modality = self.model.config.clip, " of depth" if self.depth else ""
        return f"{self.model.config.summary}, {counts}, clips{modality} of {clip.frames} frames at {clip.size} px" + (
            f" ({self.path})" if self.path else ""
        )

    def __repr__(self) -> str:
        return f"<TrainedModel: {self}>"


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What became of foreign weights; ``print`` it.

    Attributes:
        source: where they came from.
        matched: names loaded.
        missing: names of the model that the source lacks; they keep their fresh values.
        unexpected: names of the source that the model lacks.
        mismatched: name → (shape in the source, shape in the model); not loaded.
        matched_fraction: of the model's parameters, those loaded, the classifier not counted, 0 to 1.
    """

    source: str
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    matched_fraction: float

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON-able values."""
        return {
            "source": self.source,
            "matched": list(self.matched),
            "missing": list(self.missing),
            "unexpected": list(self.unexpected),
            "mismatched": {name: [list(source), list(model)] for name, (source, model) in self.mismatched.items()},
            "matched_fraction": self.matched_fraction,
        }

    def __str__(self) -> str:
        shapes = [
            f"{name} {list(source)} in the source, {list(model)} in the model"
            for name, (source, model) in self.mismatched.items()
        ]
        parts = [
            ("keep fresh values, absent in the source", list(self.missing)),
            ("keep fresh values, shapes differ", shapes),
            ("not used", list(self.unexpected)),
        ]
        lines = [
            f"{self.source}: {100 * self.matched_fraction:.1f} % of the parameters match ({len(self.matched)} tensors)"
        ]
        for what, names in parts:
            if names:
                more = f", … ({len(names) - 4} more)" if len(names) > 4 else ""
                lines.append(f"  {len(names)} {what}: {', '.join(names[:4])}{more}")
        return join_lines(lines)


# --- the model file --------------------------------------------------------------------------------------------------


def save_model(
    path: str | Path,
    model: VideoModel,
    classes: ClassNames,
    *,
    depth: Depth | None = None,
    person_crop: bool = False,
    licence: str = "",
    notes: dict[str, Any] | None = None,
) -> Path:
    """Write a self-sufficient ``.safetensors`` file.

    Args:
        path: the file; its folder must exist.
        model: any device; its configuration is saved with it.
        classes: class names in label order, by label space if there are several.
        depth: how depth is shown to the model; None for a model of RGB.
        person_crop: the model's pictures are cropped to the person.
        licence: of the weights, for whoever receives the file.
        notes: further JSON-able facts (recipe, epoch, metrics).

    Raises:
        GestaError: class names that are not those of the model, by their number; or the file cannot be written.
    """
    if class_counts(classes) != model.config.classes:
        raise GestaError(
            f"{path}: {class_counts(classes)} class names cannot be saved with a model of {model.config.classes} "
            "classes; give one for each"
        )
    metadata = {
        "format": FORMAT,
        "gesta": importlib.metadata.version("gesta"),
        "model": to_json(model.config),
        "classes": classes,
        "depth": asdict(depth) if depth else None,
        "person_crop": person_crop,
        "licence": licence,
        "notes": notes or {},
    }
    # Copies, because safetensors refuses tensors that share memory (tied weights).
    weights = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in model.state_dict().items()}
    # JSON knows neither NaN nor infinity, which a metric among the notes may be.
    metadata = json.loads(json.dumps(metadata), parse_constant=lambda _: None)
    metadata["checksum"] = _checksum(weights, metadata)
    # One entry only: safetensors writes several in random order, and equal weights should give equal files.
    data = safetensors.torch.save(weights, {METADATA_KEY: json.dumps(metadata)})
    with write_atomically(path) as file:
        file.write(data)
    return Path(path)


def read_metadata(path: str | Path) -> Metadata:
    """The metadata of a model file without reading its weights.

    Raises:
        CheckpointError: absent, not a safetensors file, cut short, not written by gesta or by a later gesta, or with
            metadata that are no model description.
    """
    path = _existing(path)
    with _safetensors_errors(path), safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get(METADATA_KEY)
    if text is None:
        raise CheckpointError(
            f"{path}: holds weights but no gesta model description; start a training from it with --init.weights"
        )
    source, remedy = f"{path}: its model description", "copy the file again"
    try:
        metadata = parse_json(text, source, remedy)
        if isinstance(metadata, dict) and type(metadata.get("format")) is int and metadata["format"] > FORMAT:
            version = str(metadata.get("gesta"))[:40]
            raise CheckpointError(f"{path}: written by gesta {version}, a later version; upgrade gesta")
        return cast(Metadata, from_json(metadata, Metadata, source=source, remedy=remedy))
    except GestaError as error:
        raise CheckpointError(str(error)) from None


def weights_file(source: str | os.PathLike[str]) -> Path:
    """The model file that a path stands for: ``best.safetensors`` of a run folder, or the file itself.

    Raises:
        CheckpointError: a folder without it, or a file of another kind.
    """
    path = Path(source)
    if path.is_dir():
        if not (path / "best.safetensors").is_file():
            raise CheckpointError(
                f"{path}: no best.safetensors in this folder; give the folder of a run that finished an epoch"
            )
        return path / "best.safetensors"
    if path.suffix != ".safetensors":
        raise CheckpointError(
            f"{path}: neither a run folder nor a .safetensors file of gesta; start a training from other weights with "
            "--init.weights"
        )
    return path


def load(
    source: str | os.PathLike[str], *, trust_code: bool = False, device: str | torch.device = "cpu"
) -> TrainedModel:
    """Load a trained model, its class names and how its videos are read.

    Args:
        source: a run folder (its ``best.safetensors``) or a file of :func:`save_model`.
        trust_code: also build models whose classes are not part of gesta (this runs their code).
        device: where the model is put.

    Raises:
        CheckpointError: neither of these, as :func:`read_metadata`, or weights that do not fit the described model or
            are not those that were written (by their checksum).
        GestaError: a described model that cannot be built, see :func:`gesta.model.check_size`.
    """
    path = weights_file(source)
    metadata = read_metadata(path)
    config: ModelConfig = from_json(metadata["model"], ModelConfig, trust_code=trust_code, source=str(path))
    if class_counts(metadata["classes"]) != config.classes:
        raise CheckpointError(
            f"{path}: names {class_counts(metadata['classes'])} classes, but its model has {config.classes}; "
            "copy the file again"
        )
    with torch.random.fork_rng(devices=[]):  # the initial values are overwritten: leave the caller's randomness alone
        weights = _read_safetensors(path)
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
    model.load_state_dict(weights)
    return TrainedModel(
        model=model.to(device).eval(),
        classes=metadata["classes"],
        metadata=metadata,
        depth=from_json(metadata.get("depth"), Depth | None, source=str(path)),
        person_crop=metadata.get("person_crop", False),
        path=str(path),
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
        _check_zip(_existing(path))
        content = _read_torch(path)
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


# --- other people's weights ------------------------------------------------------------------------------------------


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The named tensors of any checkpoint: ``.safetensors``, or what ``torch.save`` wrote (.pth, .pt, .pyth, .tar).

    Wrappings such as ``state_dict`` and ``model_state`` are taken off, and the ``module.`` and ``_orig_mod.`` of data
    parallel and compiled models.

    Raises:
        CheckpointError: absent, broken, holding Python objects (which are never unpickled), or without weights.
    """
    path = _existing(path)
    content: Any = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    if isinstance(content, dict) and content.get("magic") == STATE_MAGIC:
        content = content.get("state")
    for _ in range(len(WRAPPERS)):  # not for ever: a wrapping may hold itself
        if isinstance(content, dict) and (inner := _inner(content)) is not None:
            content = inner
    weights = {}
    if isinstance(content, dict):
        weights = {
            name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)
        }
    if not weights:
        raise CheckpointError(f"{path}: no named weights in it; save model.state_dict() and give that file")
    for name, value in weights.items():
        if not is_plain(value):
            raise CheckpointError(
                f"{path}: {name[:100]} is sparse, quantised or claims more numbers than the file holds; save "
                "model.state_dict() of a plain model and give that file"
            )
    for prefix in ("_orig_mod.", "module.", "_orig_mod."):
        if all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    return weights


def import_weights(model: VideoModel, source: str | Path | dict[str, Tensor], min_matched: float = 0.5) -> ImportReport:
    """Load whatever fits of a foreign checkpoint into ``model``, renamed by ``model.convert_foreign``.

    A classifier with another number of classes stays fresh. The report says what matched; nothing is skipped silently.

    Args:
        model: changed in place.
        source: a file, or named tensors.
        min_matched: fraction of the parameters (the classifier not counted) that must match, 0 to 1.

    Raises:
        CheckpointError: unreadable file, less than ``min_matched`` matched, or weights that are not finite; the model
            is then unchanged.
        GestaError: weights whose file says that they are of another kind (:meth:`VideoModel.check_source`).
    """
    name = "weights" if isinstance(source, dict) else str(source)
    if not isinstance(source, dict):
        model.check_source(_description(source))
    theirs = model.convert_foreign(source if isinstance(source, dict) else read_weights(source))
    ours = model.state_dict()
    fitting = {k: v for k, v in theirs.items() if k in ours and v.shape == ours[k].shape}
    counted = {k: p.numel() for k, p in model.named_parameters() if not k.startswith("classifier.")}
    report = ImportReport(
        source=name,
        matched=tuple(fitting),
        missing=tuple(k for k in ours if k not in theirs),
        unexpected=tuple(k for k in theirs if k not in ours),
        mismatched={
            k: (tuple(v.shape), tuple(ours[k].shape)) for k, v in theirs.items() if k in ours and k not in fitting
        },
        matched_fraction=sum(n for k, n in counted.items() if k in fitting) / max(sum(counted.values()), 1),
    )
    if report.matched_fraction < min_matched:
        raise CheckpointError(
            f"{name}: only {100 * report.matched_fraction:.1f} % of the parameters of {type(model).__name__} are in it,"
            f" {100 * min_matched:.0f} % are required; give a checkpoint of this model, or lower --init.min-matched\n"
            f"{report}"
        )
    check_finite(fitting, name)
    model.load_state_dict(fitting, strict=False)
    return report


# --- files -----------------------------------------------------------------------------------------------------------


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(_existing(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checksum(weights: dict[str, Tensor], metadata: Mapping[str, Any]) -> str:
    """CRC-32 of the metadata (without the checksum) and of every weight's name, type, shape and values, hexadecimal."""
    crc = zlib.crc32(json.dumps({key: value for key, value in metadata.items() if key != "checksum"}).encode())
    for name, value in sorted(weights.items()):
        crc = zlib.crc32(f"{name} {value.dtype} {tuple(value.shape)}".encode(), crc)
        crc = zlib.crc32(value.reshape(-1).view(torch.uint8).numpy().data, crc)
    return f"{crc:08x}"


def _check_zip(path: str | Path) -> None:
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


def _refuse_compressed(archive: zipfile.ZipFile, path: str | Path) -> None:
    """torch compresses nothing, and what is compressed could fill the memory."""
    if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
        raise CheckpointError(f"{path}: a compressed archive, not what torch.save writes; unpack it first")


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


def _description(path: str | Path) -> str:
    """How a file of weights describes itself: its path, its metadata, the config.json that model hubs put beside it."""
    path = _existing(path)
    description = [str(path)]
    if path.suffix == ".safetensors":
        with _safetensors_errors(path), safe_open(path, framework="pt") as file:
            description.append(str(file.metadata() or ""))
    hub_config = path.with_name("config.json")
    if hub_config.is_file():
        description.append(read_text(hub_config))
    return "\n".join(description)


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not os.path.isfile(path):  # unlike Path.is_file, False for a name that is too long
        raise CheckpointError(f"{path}: there is no such file")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path}: the file is empty; copy it again")
    return path


@contextlib.contextmanager
def _safetensors_errors(path: Path) -> Iterator[None]:
    """Whatever the library raises about a file is one sentence."""
    try:
        yield
    except Exception as error:  # SafetensorError, but also KeyError for a type of numbers that it does not know
        raise CheckpointError(
            f"{path}: not a complete .safetensors file ({str(error)[:200]}); copy it again, or give the "
            "best.safetensors of a run"
        ) from None


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    with _safetensors_errors(path):
        return safetensors.torch.load_file(path)


@contextlib.contextmanager
def _only_namespaces() -> Iterator[None]:
    """Let torch make no object but tensors, containers and ``argparse.Namespace``, whatever other libraries allow.

    Many public checkpoints keep their command line; a Namespace is a bag of attributes and runs nothing. Importing
    torch.distributed allows among others DeviceMesh, whose constructor may start a process group.
    """
    others = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            yield
    finally:
        torch.serialization.add_safe_globals(others)


def _read_torch(path: str | Path) -> Any:
    path = _existing(path)
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                _refuse_compressed(archive, path)
        with _only_namespaces(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on pickle protocols; what matters comes as an exception
            return torch.load(path, map_location="cpu", weights_only=True)
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


def _inner(content: dict[Any, Any]) -> dict[Any, Any] | None:
    return next((content[key] for key in WRAPPERS if isinstance(content.get(key), dict)), None)


def is_plain(value: Tensor) -> bool:
    """Whether a tensor is dense and has memory for its numbers; a small one may repeat them (stride 0)."""
    if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
        return False
    return value.numel() * value.element_size() <= max(value.untyped_storage().nbytes(), 2**20)


def _misfit(expected: Mapping[str, torch.Size], weights: Mapping[str, Tensor]) -> str:
    """The first thing in which weights differ from what a model expects, or an empty string."""
    for name, shape in expected.items():
        if name not in weights:
            return f"they lack {name}"
        if weights[name].shape != shape:
            return f"{name} is {list(weights[name].shape)}, the model's {list(shape)}"
    surplus = next((name for name in weights if name not in expected), None)
    return "" if surplus is None else f"the model has no {surplus[:100]}"
