"""A folder of features that records what each of them was computed from, so that none is computed twice.

::

    <folder>/features.json      what all of them were computed with: model, weights, views
    <folder>/index.jsonl        a line for each video: its features' file, a hash of its own state, times of windows
    <folder>/wave/clip_03.npy   the features of a video, (V, …), a row for each view or window

Every file is written whole or not at all, and a video's line after its file, so that a process that is killed loses no
more than the features that it was just computing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, TypedDict

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError
from torch import Tensor

from gesta.checkpoint.weights import weights_hash
from gesta.config import Between, from_json, parse_json, read_json, read_text, replace, to_json
from gesta.data.frame_cache import pixel_versions
from gesta.data.shares import PART
from gesta.data.transforms import test_short_side
from gesta.errors import GestaError
from gesta.features.extract import FeatureKind
from gesta.features.windows import Windows
from gesta.files import make_folder, remove, reporting, write_atomically, write_text
from gesta.model import ReadoutConfig, VideoModel
from gesta.processes import Precision
from gesta.recipe import EvaluateConfig
from gesta.records import Record
from gesta.video.archive import size_and_time

Format = Literal["npy", "safetensors", "parquet"]

DESCRIPTION, INDEX = "features.json", "index.jsonl"

VERSIONS = "versions"
"""Part of the description that may differ from the folder's: what is there stays, and :attr:`FeatureFolder.remark` says
so. Folders of earlier versions of gesta lack it."""

IRRELEVANT_FIELDS: dict[str, Any] = {
    "classes": 0,
    "dropout": 0.0,
    "drop_path": 0.0,
    "activation_checkpointing": False,
}
"""Fields of a model that its features do not depend on."""


class _Required(TypedDict):
    video: str
    file: str
    source: str


class Entry(_Required, total=False):
    """A line of the index.

    Attributes:
        video: its path or name, as it was given.
        file: of the features, relative to the folder.
        source: hash of paths, sizes and times of the video's files, see :func:`source_hash`.
        path: absolute path of the video, where that is not what it was given as.
        times: of windows, their beginning and end in seconds.
        error: a sentence that the end of the video is missing.
    """

    path: str
    times: list[Annotated[list[float], Between(2, 2)]]
    error: str


def describe(
    model: VideoModel,
    views: EvaluateConfig,
    kind: FeatureKind,
    windows: Windows | None = None,
    precision: Precision = "32-true",
) -> dict[str, Any]:
    """All that the values of features depend on, besides the video: model, weights, views, kind, precision, and the
    versions of gesta and of the libraries that decode and compute.

    Args:
        model: with its weights; its classifier does not matter.
        views: of whole videos; of windows only the short side matters.
        kind: what is kept of a view.
        windows: windows over whole videos instead of views; None for views.
        precision: in which the model runs.
    """
    clip = model.config.clip
    how: dict[str, Any] = {"short_side": test_short_side(views.short_side, clip.size), "decoder": views.decoder}
    if windows:
        how |= windows._asdict()
    else:
        names = ("crops", "coverage", "short_videos", *["clips"] * (views.coverage == "even"))
        how |= {name: getattr(views, name) for name in names}
    config = replace(model.config, **IRRELEVANT_FIELDS)
    if kind == "read" and config.attentive:  # the values depend on its layers alone
        config.attentive = ReadoutConfig(layers=config.attentive.layers)
    return {
        "format": 1,
        "model": to_json(config),
        "weights": weights_hash(model, ("classifier.", "attentive.") if kind == "read" else ("classifier.",)),
        "views": how,
        "kind": kind,
        "precision": precision,
        VERSIONS: {n: v if isinstance(v, str) else ".".join(map(str, v)) for n, v in pixel_versions().items()},
    }


def source_hash(record: Record) -> str:
    """A hash of where a record's files lie, which part of them it is, and their sizes and times of change."""
    parts = []
    for stream in record.streams:
        shows = dataclasses.asdict(stream.shows) if stream.shows else None
        segment = [stream.start, stream.end, stream.seconds]
        files = [[os.path.abspath(path), size_and_time(path)] for path in (stream.path, stream.masks) if path]
        parts.append([files, segment, shows])
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class FeatureFolder:
    """The features of videos, in a folder.

    Attributes:
        folder: where they are.
        description: see :func:`describe`.
        entries: file → the line of the index, of features that are there.
        remark: a sentence if the folder was begun with other versions; else empty.

    Args:
        folder: new, empty, or with features of the same description (but for the versions).
        description: None takes what the folder has.

    Raises:
        GestaError: a folder with other files in it, or with other features; an index that cannot be read.
    """

    def __init__(self, folder: str | os.PathLike[str], description: dict[str, Any] | None) -> None:
        self.folder = folder = Path(folder)
        known = folder / DESCRIPTION
        self.remark = ""
        given = description or {}
        if description is None and not known.is_file():
            raise GestaError(f"{folder}: holds no {DESCRIPTION}; give a folder that gesta features has written")
        if known.is_file():
            stored: dict[str, Any] = read_json(known, dict[str, Any], remedy="give another folder")
            other = [name for name, value in given.items() if stored.get(name) != value]
            if VERSIONS in other:
                other.remove(VERSIONS)
                self.remark = _other_versions(folder, stored.get(VERSIONS), given[VERSIONS])
            if other:
                raise GestaError(
                    f"{folder}: holds features of other {' and '.join(other)}, which must not be mixed with these; "
                    "choose another folder"
                )
        elif folder.is_dir() and any(not e.name.startswith(".") and e.name != PART for e in os.scandir(folder)):
            raise GestaError(f"{folder}: holds other files, and no {DESCRIPTION}; choose another folder")
        self.description = stored if known.is_file() else given
        self._has_half_line = False
        self.entries = {entry["file"]: entry for entry in self._read_index()}

    def has(self, file: str, source: str | None = None) -> bool:
        """Whether the features of a video are there, and are of its present state (None: of any)."""
        entry = self.entries.get(file)
        return entry is not None and source in (None, entry["source"]) and (self.folder / file).is_file()

    def add(self, entry: Entry, values: Tensor) -> None:
        """Write the features of a video ``(V, …)``, and then its line of the index."""
        path = self.folder / entry["file"]
        make_folder(path.parent)
        if not (self.folder / DESCRIPTION).exists():
            self.write_description()
        with write_atomically(path) as file:
            _WRITERS[path.suffix.removeprefix(".")](file, values.numpy(), entry)
        if self._has_half_line:
            self.tidy()
        with reporting(self.folder / INDEX), open(self.folder / INDEX, "a", encoding="utf-8") as index:
            index.write(json.dumps(entry) + "\n")
        self.entries[entry["file"]] = entry

    def write_description(self) -> None:
        """Write what all features were computed with."""
        write_text(self.folder / DESCRIPTION, json.dumps(self.description, indent=2) + "\n")

    def remove(self, file: str) -> None:
        """Delete the features of a video that has changed and can no longer be read."""
        if self.entries.pop(file, None):
            remove(self.folder / file)

    def tidy(self) -> None:
        """Leave one line for each video in the index, sorted by their files."""
        lines = [json.dumps(self.entries[file]) + "\n" for file in sorted(self.entries)]
        if lines or self._has_half_line:
            write_text(self.folder / INDEX, "".join(lines))
        self._has_half_line = False

    def read(self, file: str) -> np.ndarray:
        """The features of a video ``(V, …)``, of ``.npy`` mapped into memory and not read yet.

        Raises:
            GestaError: they cannot be read.
        """
        path = self.folder / file
        try:
            values: np.ndarray = _READERS[path.suffix.removeprefix(".")](path)
        except (OSError, ValueError, KeyError, EOFError, SafetensorError):
            raise GestaError(f"{path}: cannot be read as features; remove it and compute them again") from None
        if values.dtype != np.float32 or values.ndim < 2 or not len(values):
            raise GestaError(f"{path}: holds no features; remove it and compute them again")
        return values

    def _read_index(self) -> Iterator[Entry]:
        path = self.folder / INDEX
        if not path.is_file():
            return
        text = read_text(path, remedy="give another folder")
        *lines, rest = text.split("\n")
        self._has_half_line = bool(rest)  # a process was killed while it wrote it, or is just writing it
        for line in lines:
            source = str(path)
            entry: Entry = from_json(parse_json(line, source), Entry, source=source, remedy="remove the file")
            parts = Path(entry["file"]).parts
            if not parts or ".." in parts or Path(entry["file"]).is_absolute():
                raise GestaError(
                    f"{path}: names the file {entry['file'][:100]!r}, which is not in its folder; remove the index"
                )
            yield entry


def _other_versions(folder: Path, then: Any, now: dict[str, str]) -> str:
    """A sentence about features of other versions; empty where it is not known of which they are."""
    if not isinstance(then, dict):
        return ""
    names = [name for name in {**then, **now} if then.get(name) != now.get(name)]
    changed = [f"{name} {then.get(name, 'none')} → {now.get(name, 'none')}" for name in names[:5]]
    return (
        f"{folder}: was begun with other versions ({', '.join(changed)}), so features computed now may differ a little "
        "from those that it has; choose another folder to have all of one version"
    )


# --- formats ---------------------------------------------------------------------------------------------------------


def _write_npy(file: BinaryIO, values: np.ndarray, _: Entry) -> None:
    np.save(file, values, allow_pickle=False)


def _write_safetensors(file: BinaryIO, values: np.ndarray, entry: Entry) -> None:
    times = {"times": np.array(entry["times"], dtype=np.float32)} if "times" in entry else {}
    file.write(safetensors.numpy.save({"features": np.ascontiguousarray(values), **times}))


def _write_parquet(file: BinaryIO, values: np.ndarray, entry: Entry) -> None:
    import pyarrow  # an extra
    import pyarrow.parquet

    times = list(zip(*entry["times"])) if "times" in entry else [[None] * len(values)] * 2
    rows = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(values.reshape(-1)), values.shape[1])
    seconds = [pyarrow.array(column, pyarrow.float64()) for column in times]
    columns = [pyarrow.array([entry["video"]] * len(values)), *seconds, rows]
    pyarrow.parquet.write_table(pyarrow.table(columns, names=["video", "start", "end", "features"]), file)


def _read_parquet(path: Path) -> np.ndarray:
    try:
        import pyarrow.parquet  # an extra
    except ImportError:
        raise GestaError(f"{path}: pyarrow, which reads Parquet, is not installed; pip install pyarrow") from None

    column = pyarrow.parquet.read_table(io.BytesIO(path.read_bytes()), columns=["features"])["features"]
    return np.array(column.to_pylist(), dtype=np.float32)


_WRITERS: dict[str, Any] = {"npy": _write_npy, "safetensors": _write_safetensors, "parquet": _write_parquet}
_READERS: dict[str, Any] = {
    "npy": lambda path: np.load(path, mmap_mode="c", allow_pickle=False),
    "safetensors": lambda path: safetensors.numpy.load_file(path)["features"],
    "parquet": _read_parquet,
}
