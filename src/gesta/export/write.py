"""Exported files are written under a temporary name, and count once they give the model's scores."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.export import ExportedProgram

from gesta.checkpoint import METADATA_KEY, TrainedModel, describe
from gesta.checkpoint.exported import SUFFIXES, Exported, ExportedNetwork, Kind, input_names, load_exported
from gesta.checkpoint.onnx_file import missing_packages
from gesta.config import replace, to_json
from gesta.errors import GestaError
from gesta.evaluation.scoring import protocol_of, view_loader
from gesta.export.network import trace
from gesta.export.onnx_graph import Writer, onnx_writer
from gesta.files import reporting, temporary_for
from gesta.model import ClipSpec, ModelConfig, VideoModel, evaluating
from gesta.recipe import EvaluateConfig
from gesta.records import DataConfig, SplitName, by_space

LARGEST_DIFFERENCE = 1e-4
"""Of the scores of a file to those of its model; a file that differs more is not kept."""

CHECKED_CLIPS = 3
"""Clips that a file is checked with: the first alone, then all at once."""

LARGEST_ONNX = 2**31 - 2**26
"""Bytes of weights in one ONNX file: the format's limit is 2 GiB for all that it holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """What an export has written.

    Attributes:
        path: the file.
        model: in words.
        kind: the runtime.
        takes: what the file takes, in words.
        size: of the file, in bytes.
        difference: largest absolute difference of its scores to the model's.
        largest_score: absolute, of the model on the same clips.
        clips: what it was checked with, in words.
    """

    path: str
    model: str
    kind: Kind
    takes: str
    size: int
    difference: float
    largest_score: float
    clips: str

    to_json = asdict

    def __str__(self) -> str:
        return (
            f"{self.path}: {self.model}, {self.size / 2**20:.1f} MiB\n"
            f"takes {self.takes}\n"
            f"scores (before the softmax) differ by {self.difference:.1e} at most from the model's, whose largest is "
            f"{self.largest_score:.2f}, on {self.clips}"
        )


def export(
    model: TrainedModel,
    path: str | Path,
    *,
    uint8: bool = False,
    dynamic: bool = True,
    protocol: EvaluateConfig | None = None,
    views: Tensor | None = None,
) -> ExportReport:
    """Write a model as a file of another runtime, and check that it gives the model's scores.

    Args:
        model: what :func:`gesta.load` gives; its network is moved to the CPU.
        path: ``.onnx``, or ``.pt2`` for ``torch.export``. The file appears when it has been checked.
        uint8: the file takes frames as they are decoded, and normalises them itself.
        dynamic: it takes any number of clips at once, else one.
        protocol: how the model's videos are scored, written into the file; None for that of the
            model's run, see :func:`gesta.evaluation.scoring.protocol_of`.
        views: real clips ``(V, T, C, H, W)`` uint8 to check it with, three at least; None makes some.

    Raises:
        GestaError: a name with another ending; a model that is an exported file, gives features or cannot be exported;
            views of another size or fewer; scores that differ by more than :data:`LARGEST_DIFFERENCE`; no place to
            write to; a package that is missing.
    """
    path, config = Path(path), model.model.config
    check_exportable(model, path)
    if views is not None:
        _check_views(views, config.clip)
    exported = Exported(kind=SUFFIXES[path.suffix], uint8=uint8, dynamic=dynamic)
    used = made_views(config.clip) if views is None else views[:CHECKED_CLIPS]
    if config.clip.streams:
        used = torch.cat([used, _without_last_stream(used[:1])])
    network = model.model.cpu()
    with evaluating(network), temporary_for(path) as part:
        program = trace(network, uint8=uint8, dynamic=dynamic)
        write = onnx_writer(program, config) if exported.kind == "onnx" else _torch_writer(program)
        with reporting(path, part):
            write(part, description(model, exported, protocol))
        written = load_exported(part, kind=exported.kind, trust_code=True)  # names the classes of this very model
        difference, largest = differences(network, written.model, used)
        if not difference <= LARGEST_DIFFERENCE:  # also not-a-number
            raise GestaError(
                f"{path}: its scores differ by {difference:.2g} from the model's, whose largest is {largest:.2g}; "
                f"above {LARGEST_DIFFERENCE:g} a file is not kept{_remedy(config, exported.kind)}"
            )
        exported = replace(exported, difference=difference)
        with reporting(path, part):
            write(part, description(model, exported, protocol))
            size = part.stat().st_size
    return ExportReport(
        path=str(path),
        model=config.summary,
        kind=exported.kind,
        takes=describe_inputs(config, exported),
        size=size,
        difference=difference,
        largest_score=largest,
        clips=f"{len(used)} {'made clips' if views is None else 'clips of its data'}",
    )


def check_exportable(model: TrainedModel, path: Path) -> None:
    """What can be refused before anything is computed."""
    if path.suffix not in SUFFIXES:
        raise GestaError(f"{path}: exported files are called .onnx or .pt2; choose such a name")
    check_model(model, path, SUFFIXES[path.suffix])
    if not path.parent.is_dir():
        raise GestaError(f"{path}: there is no folder {path.parent}; make it, or choose another file")


def check_model(model: TrainedModel, path: Path, kind: Kind) -> None:
    """Refuse a model of which there can be no such file.

    Args:
        model: what :func:`gesta.load` gives.
        path: what is made of it, for messages.
        kind: the runtime.

    Raises:
        GestaError: it is an exported file, gives features or is too large, or a package is missing.
    """
    if isinstance(model.model, ExportedNetwork):
        raise GestaError(f"{model.name}: is an exported file already; give the run that it was made from")
    if not all(by_space(model.model.config.classes).values()):
        raise GestaError("this model gives features, not classes (classes=0): train a classifier first")
    if kind == "onnx":
        try:
            import onnx  # noqa: F401  # optional dependencies
            import onnxruntime  # noqa: F401
            import onnxscript  # noqa: F401
        except ImportError:
            raise missing_packages(path) from None
        bytes_needed = sum(value.numel() * value.element_size() for value in model.model.state_dict().values())
        if bytes_needed > LARGEST_ONNX:
            raise GestaError(
                f"{path}: its weights take {bytes_needed / 2**30:.1f} GiB, and an ONNX file holds 2; export it with "
                "--to torch"
            )


def _check_views(views: Tensor, clip: ClipSpec) -> None:
    """Refuse clips that a file cannot be checked with."""
    size = (clip.frames, clip.channels, clip.size, clip.size)
    if views.ndim != 5 or len(views) < CHECKED_CLIPS or tuple(views.shape[1:]) != size or views.dtype != torch.uint8:
        raise GestaError(
            f"the views that a file is checked with are {CHECKED_CLIPS} or more clips of {size} (T, C, H, W) in uint8, "
            f"not {tuple(views.shape)} in {views.dtype}; give such views, or leave them out"
        )


def _remedy(config: ModelConfig, kind: Kind) -> str:
    return "; export it with --to torch" if kind == "onnx" else "; report this with the model's configuration"


def description(model: TrainedModel, exported: Exported, protocol: EvaluateConfig | None) -> str:
    """What a file says about itself, as JSON: see :class:`gesta.checkpoint.Metadata`."""
    facts: dict[str, Any] = {
        "licence": model.metadata.get("licence", ""),
        "notes": model.metadata.get("notes", {}),
        "source": model.metadata.get("checksum", ""),
        "protocol": to_json(protocol or protocol_of(model)),
        "export": to_json(exported),
    }
    metadata = describe(model.model.config, model.classes, shows=model.shows, person_crop=model.person_crop, **facts)
    return json.dumps(metadata)


def describe_inputs(config: ModelConfig, exported: Exported) -> str:
    """What a file takes, in words."""
    clip, batch = config.clip, "clips" if exported.dynamic else "1"
    size = (
        f"({batch}, {clip.frames}, {clip.size}, {clip.size}, 3) uint8"
        if exported.uint8
        else f"({batch}, 3, {clip.frames}, {clip.size}, {clip.size}) float32, (pixels / 255 - mean) / std"
    )
    return f"{', '.join(input_names(config))}: {size}"


def _torch_writer(program: ExportedProgram) -> Writer:
    """Writes a program as torch.export does, without the clips that it was traced with."""
    program.example_inputs = None

    def write(path: Path, text: str) -> None:
        with warnings.catch_warnings(action="ignore"), open(path, "wb") as file:
            torch.export.save(program, file, extra_files={METADATA_KEY: text})

    return write


# --- the check -------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def differences(network: VideoModel, exported: VideoModel, views: Tensor) -> tuple[float, float]:
    """Largest absolute difference of scores, of the first clip alone and of all together, and the largest score.

    Args:
        network: the model, in evaluation mode.
        exported: the file's network.
        views: ``(V, T, C, H, W)`` uint8.
    """
    difference = largest = 0.0
    for some in (views[:1], views):
        pairs = zip(*(by_space(model(model.clips_of(some))).values() for model in (network, exported)))
        for ours, theirs in pairs:
            worst = (ours - theirs).abs().max().item()
            difference = worst if worst != worst else max(difference, worst)
            largest = max(largest, ours.abs().max().item())
    return difference, largest


def made_views(clip: ClipSpec) -> Tensor:
    """Clips of smooth colours on which a square moves, ``(3, T, C, H, W)`` uint8: each is another, and each moves."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(CHECKED_CLIPS, clip.channels, 4, 4, generator=generator)
    images = 200 * F.interpolate(coarse, (clip.size, clip.size), mode="bicubic").clamp(0, 1)
    views = images[:, None].repeat(1, clip.frames, 1, 1, 1)
    side = max(clip.size // 4, 1)
    for i, view in enumerate(views):
        for t, frame in enumerate(view):
            left, top = ((step * (t + 1) * clip.size // 16) % (clip.size - side + 1) for step in (i + 1, 3 - i))
            frame[:, top : top + side, left : left + side] += 55
    return views.to(torch.uint8)


def views_of_data(data: DataConfig, clip: ClipSpec, protocol: EvaluateConfig, count: int, split: SplitName) -> Tensor:
    """A clip of each of some videos that can be read, spread over the split, ``(V, T, C, H, W)`` uint8; V may be 0."""
    config = replace(protocol, clips=1, crops=1, coverage="even", batch_size=1, average="probabilities")
    views: list[Tensor] = []
    try:
        records = data.records(split)
        for batch in view_loader(records, clip, config, spread_indices(len(records), count), 0):
            views += [video[0] for video in batch["video"]]
            if len(views) >= count:
                break
    except GestaError:  # its folder is elsewhere
        pass
    return torch.stack(views[:count]) if views else torch.empty(0, clip.frames, clip.channels, clip.size, clip.size)


def spread_indices(total: int, count: int) -> list[int]:
    """Up to 2 × count of ``total`` indices: first ``count`` that are evenly spread, then those half-way between them.

    Data sets list one class after the other, so that the first ones would all be of one class.
    """
    order = [*range(0, 2 * count, 2), *range(1, 2 * count, 2)]
    return list(dict.fromkeys(i * total // (2 * count) for i in order)) if total else []


def _without_last_stream(views: Tensor) -> Tensor:
    """Views whose last stream is black, which says that it is missing."""
    views = views.clone()
    views[:, :, -3:] = 0
    return views
