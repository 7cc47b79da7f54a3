"""A folder of static files that recognises actions in a browser: a page, the model as ONNX, onnxruntime-web.

The page's own files are in ``page/``. onnxruntime-web is an npm package of one version, known by its hash: it comes
from the user's cache, from a file that the user names, or from npm, and is copied into the folder, so that the page
asks no other server for anything.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gesta.checkpoint import TrainedModel
from gesta.data.transforms import test_short_side
from gesta.errors import GestaError
from gesta.evaluation.metrics import METRICS
from gesta.evaluation.scoring import joint_names, protocol_of
from gesta.export.write import ExportReport, check_model, export
from gesta.files import reporting, temporary_for, write_atomically
from gesta.model import ClipSpec
from gesta.prediction.timeline import TimelineConfig
from gesta.recipe import EvaluateConfig
from gesta.records import by_space
from gesta.video.archive import cache_folder

PACKAGE = "onnxruntime-web@1.30.0"
"""The npm package whose files the page imports."""

PACKAGE_SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="

_ARCHIVE = "onnxruntime-web-1.30.0.tgz"  # as npm names it

_MEMBERS = {
    "package.json": "package.json",  # which names the licence
    **{
        f"dist/{name}": name
        for name in (
            "ort.wasm.min.mjs",
            "ort-wasm-simd-threaded.mjs",
            "ort-wasm-simd-threaded.wasm",
            "ort.webgpu.min.mjs",
            "ort-wasm-simd-threaded.asyncify.mjs",
            "ort-wasm-simd-threaded.asyncify.wasm",
        )
    },
}
"""Files of the package that the page needs, and their names in its folder ``ort``: for WebAssembly, and for WebGPU."""

_DOWNLOAD_S = 600

_SHOWN_METRICS = ("top1", "mean_class", "mAP")

PAGE = Path(__file__).parent / "page"


@dataclass(frozen=True, slots=True, kw_only=True)
class WebReport:
    """What was written for the browser.

    Attributes:
        path: the folder.
        size: of all its files, in bytes.
        model: what was said about its ONNX file.
    """

    path: str
    size: int
    model: ExportReport

    to_json = asdict

    def __str__(self) -> str:
        model, clips = self.model, self.model.clips
        return (
            f"{self.path}: {model.model} for browsers, {self.size / 2**20:.0f} MiB\n"
            f"scores (before the softmax) differ by {model.difference:.1e} at most from the model's, on {clips}\n"
            f"to look at it: python -m http.server --bind 127.0.0.1 --directory {self.path} 8000\n"
            "and open localhost:8000; browsers give a camera only to pages from localhost or https"
        )


def export_web(
    model: TrainedModel,
    folder: str | Path,
    *,
    package: str | Path | None = None,
    protocol: EvaluateConfig | None = None,
    views: Tensor | None = None,
) -> WebReport:
    """Write a page that recognises actions from a camera or a file, without a server.

    Args:
        model: see :func:`gesta.export.write.export`; of RGB.
        folder: made by this; it appears when the model has been checked.
        package: the archive of :data:`PACKAGE`; None takes it from the user's cache, or else from npm.
        protocol, views: see :func:`gesta.export.write.export`. The page takes the protocol's scale, ``short_videos``
            and ``average``, and shows the model one crop of each window, as :func:`gesta.timeline` does.

    Raises:
        GestaError: a model of several streams, of depth or of optical flow; a folder that is there; no package; or as
            :func:`gesta.export.write.export`.
    """
    folder, config = Path(folder), model.model.config
    if config.clip.streams or model.shows is not None:
        raise GestaError(
            f"{model.name or config.summary}: a browser has pictures in RGB alone, and the model expects "
            f"{' and '.join(config.clip.streams) or 'others'}; export it with --to onnx"
        )
    if os.path.lexists(folder):
        raise GestaError(f"{folder}: is there already; choose another folder, or remove it")
    if not folder.parent.is_dir():
        raise GestaError(f"{folder}: there is no folder {folder.parent}; make it, or choose another place")
    check_model(model, folder, "onnx")  # before a package is downloaded for nothing
    archive = onnxruntime_web(package)
    with temporary_for(folder) as part:
        with reporting(folder, part):
            shutil.copytree(PAGE, part)
            _unpack(archive, part / "ort")
        try:
            report = export(model, part / "model.onnx", uint8=True, protocol=protocol, views=views)
        except GestaError as error:  # which names the file where it is not left
            raise GestaError(str(error).replace(str(part), str(folder))) from error
        report = replace(report, path=str(folder / "model.onnx"))
        description = {**page_description(model, protocol or protocol_of(model)), "card": card(model, report)}
        with reporting(folder, part):
            (part / "model.json").write_text(json.dumps(description), encoding="utf-8")
            size = sum(path.stat().st_size for path in part.rglob("*") if path.is_file())
    return WebReport(path=str(folder), size=size, model=report)


# --- what the page knows of the model --------------------------------------------------------------------------------


@torch.inference_mode()
def page_description(model: TrainedModel, protocol: EvaluateConfig) -> dict[str, Any]:
    """What the page computes with: classes, clip, what it takes of the protocol, windows, scores of
    :func:`checked_clip`."""
    network, timeline = model.model.eval(), TimelineConfig()
    clip = network.config.clip
    scores = by_space(network(network.clips_of(checked_clip(clip))))
    return {
        "title": str(model.metadata.get("notes", {}).get("recipe") or network.config.summary),
        "names": joint_names(by_space(model.classes)),
        "multi_label": network.config.multi_label,
        "clip": {name: getattr(clip, name) for name in ("frames", "sampling", "stride", "shrink", "size", "squash")},
        "short_side": test_short_side(protocol.short_side, clip.size),
        "short_videos": protocol.short_videos,
        "average": "logits" if protocol.average == "logits" else "probabilities",  # windows join no tokens
        "hop": timeline.hop,
        "smoothing": timeline.smoothing,
        "check": [value for space in by_space(model.classes) for value in scores[space][0].tolist()],
    }


def checked_clip(clip: ClipSpec) -> Tensor:
    """A clip of stripes that move, ``(1, T, 3, H, W)`` uint8, which the page makes, too, before it trusts a browser."""
    t, c, y, x = torch.meshgrid(*(torch.arange(size) for size in (clip.frames, 3, clip.size, clip.size)), indexing="ij")
    return ((3 * x + 5 * y + 7 * t + 80 * c) % 256).to(torch.uint8)[None]


def card(model: TrainedModel, report: ExportReport) -> list[tuple[str, str]]:
    """What the page says about the model: names and sentences."""
    config, metadata = model.model.config, model.metadata
    notes, clip = metadata.get("notes", {}), config.clip
    sampling = f"one in {clip.stride} frames" if clip.sampling == "dense" else "spread evenly"
    spaces = by_space(model.classes).items()
    values = {tuple(key.rpartition("/")[::2]): value for key, value in (notes.get("val") or {}).items()}
    rows = [
        ("Architecture", config.summary),
        ("Trained by", " after ".join(str(notes[key]) for key in ("recipe", "paper") if notes.get(key))),
        ("Classes", ", ".join(f"{len(names)}{f' of {space}' * (len(spaces) > 1)}" for space, names in spaces)),
        ("Sees", f"clips of {clip.frames} frames ({sampling}) at {clip.size} × {clip.size} pixels"),
        (
            "Validation",
            ", ".join(
                f"{space} {METRICS[name]} {value:.1f} %".strip()
                for (space, name), value in values.items()
                if name in _SHOWN_METRICS and isinstance(value, int | float)
            ),
        ),
        ("Licence", str(metadata.get("licence") or "not stated")),
        ("Pictures", "it was trained on pictures cropped to the person; here it sees them whole" * model.person_crop),
        ("Exactness", f"scores within {report.difference:.0e} of the original model's, on {report.clips}"),
    ]
    return [(name, text) for name, text in rows if text]


# --- onnxruntime-web -------------------------------------------------------------------------------------------------


def onnxruntime_web(given: str | Path | None = None) -> Path:
    """The archive of :data:`PACKAGE`, whose hash is right.

    Args:
        given: the archive, as ``npm pack`` writes it; None for that in the user's cache, or else npm's.

    Raises:
        GestaError: no such file, or another one; no npm, or no answer from it.
    """
    if given is not None:
        path = Path(given)
        if not path.is_file():
            raise GestaError(f"{path}: there is no such file; make it with: npm pack {PACKAGE}")
        if _hash(path) != PACKAGE_SHA512:
            raise GestaError(f"{path}: is not {PACKAGE}, whose hash is known here; make it with: npm pack {PACKAGE}")
        return path
    cached = Path(cache_folder(), _ARCHIVE)
    if not cached.is_file() or _hash(cached) != PACKAGE_SHA512:
        _download(cached)
    return cached


def _download(cached: Path) -> None:
    """Put npm's archive into the cache; npm knows which registry and which proxy to ask."""
    remedy = f"where there is a network, run npm pack {PACKAGE}, and give its file with --onnxruntime-web"
    npm = shutil.which("npm")
    if npm is None:
        raise GestaError(f"the page needs {PACKAGE}, and npm, which gets it, is not installed; {remedy}")
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", PACKAGE, "--ignore-scripts", "--silent", "--pack-destination", folder]
        try:
            subprocess.run(command, cwd=folder, capture_output=True, check=True, timeout=_DOWNLOAD_S)
        except (subprocess.SubprocessError, OSError):
            raise GestaError(f"npm could not get {PACKAGE} (is there a network?); {remedy}") from None
        archive = Path(folder, _ARCHIVE)
        if not archive.is_file() or _hash(archive) != PACKAGE_SHA512:
            raise GestaError(f"what npm got is not {PACKAGE}, whose hash is known here; {remedy}")
        with reporting(cached):
            cached.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(cached) as file:
            file.write(archive.read_bytes())


def _hash(path: Path) -> str:
    with open(path, "rb") as file:
        return base64.b64encode(hashlib.file_digest(file, "sha512").digest()).decode()


def _unpack(archive: Path, folder: Path) -> None:
    """Write the files that the page needs."""
    folder.mkdir()
    with tarfile.open(archive) as package:
        for member, name in _MEMBERS.items():
            content = package.extractfile(f"package/{member}")
            assert content is not None  # the hash is right
            (folder / name).write_bytes(content.read())
