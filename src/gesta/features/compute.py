"""Compute the features that a folder does not have yet; names of their files."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from gesta.checkpoint import TrainedModel
from gesta.data.shares import (
    PART,
    Merged,
    Part,
    Share,
    check_new_folder,
    check_part,
    copy_files,
    describe_part,
    finish_part,
    merged,
    write_part,
)
from gesta.errors import GestaError
from gesta.evaluation.scoring import prediction_protocol, protocol
from gesta.features.extract import FeatureKind, VideoFeatures, extract
from gesta.features.folder import VERSIONS, Entry, FeatureFolder, Format, describe, source_hash
from gesta.features.windows import Windows, check_windows, extract_windows
from gesta.files import lock_folder, new_folder, remove_parts
from gesta.model import VideoModel
from gesta.prediction.predict import check_input, find_sources, record_of
from gesta.prediction.timeline import is_live
from gesta.prediction.writers import require_pyarrow
from gesta.processes import Precision, choose_autocast, choose_device
from gesta.progress import join_lines, track
from gesta.recipe import EvaluateConfig
from gesta.records import Record, name_with_segment
from gesta.video.archive import size_and_time
from gesta.video.find import is_video_name


@dataclass
class FeatureReport:
    """What :func:`compute_missing` did.

    Attributes:
        folder: of the features.
        videos: how many were wanted.
        computed: how many of them had to be computed.
        present: of how many the features were there already; of the others there are none, see ``failures``.
        failures: video (and segment, of a part of a video) → why it has no features.
        partial: video (and segment) → a sentence that the end of its features is missing.
        remark: what the user should know of the folder; may be empty.
    """

    folder: str
    videos: int
    computed: int = 0
    present: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    partial: dict[str, str] = field(default_factory=dict)
    remark: str = ""

    to_json = asdict

    def __str__(self) -> str:
        failed = self.videos - self.computed - self.present
        counts = [f"features of {self.computed} videos computed"]
        counts += [f"{self.present} were there already"] * bool(self.present) + [f"{failed} failed"] * bool(failed)
        reasons = {**self.failures, **self.partial}
        lines = [reason if name in reason else f"{name}: {reason}" for name, reason in reasons.items()]
        lines += [self.remark] * bool(self.remark)
        return join_lines([f"{self.folder}: {', '.join(counts)}", *(f"  {line}" for line in lines)])


def compute_missing(
    folder: FeatureFolder,
    records: Sequence[Record],
    files: Sequence[str],
    compute: Callable[[list[int]], Iterator[VideoFeatures]],
) -> FeatureReport:
    """Compute what a folder lacks: features that are not there, and those of videos that have changed since.

    Args:
        folder: of the features; nobody else writes to it.
        records: the videos.
        files: name of the file of each video's features, see :func:`feature_files`.
        compute: gives the features of the records with the given indices, in their order.
    """
    sources = [source_hash(record) for record in records]
    # what cannot be seen just now, as on a disk that is not mounted, is not known to have changed
    there = [source if _is_seen(record) else None for record, source in zip(records, sources)]
    wanted = [i for i, (file, source) in enumerate(zip(files, there)) if not folder.has(file, source)]
    report = FeatureReport(str(folder.folder), len(records), present=len(records) - len(wanted))
    for features in track(compute(wanted) if wanted else (), "computing features", total=len(wanted)):
        record = records[features.index]
        if features.values is None:
            report.failures[name_with_segment(record)] = features.error
            folder.remove(files[features.index])
            continue
        entry = Entry(video=record.name, file=files[features.index], source=sources[features.index])
        if (path := _identity(record.path)) != record.name:
            entry["path"] = path
        if features.times is not None:
            entry["times"] = features.times
        if features.error:
            entry["error"] = features.error
        folder.add(entry, features.values)
        report.computed += 1
        report.remark = folder.remark
    for record, file in zip(records, files):
        stored = folder.entries.get(file)
        if stored is not None and "error" in stored:
            report.partial[name_with_segment(record)] = stored["error"]
    if wanted:
        folder.tidy()
    return report


def _is_seen(record: Record) -> bool:
    """Whether the system shows a record's files; of addresses nothing is known."""
    paths = [path for stream in record.streams for path in (stream.path, stream.masks) if path]
    return all("://" in path or size_and_time(path) is not None for path in paths)


def feature_files(sources: Sequence[str], suffix: str, listed: bool = False) -> dict[str, str]:
    """Path of each video → name of its features' file: the video's path below the folder or pattern that is given.

    The video's suffix is left out, unless two names would then be the same, ignoring case.

    Args:
        sources: as :func:`gesta.prediction.predict.find_sources` takes them.
        suffix: of the files, without the dot.
        listed: the sources are paths of a list, which are not looked for on the disk; they are named below the folder
            that all of them have in common.

    Raises:
        GestaError: two videos whose files would still have one name.
    """
    names: dict[str, str] = {}
    common = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in sources]) if listed else ""
    for source in sources:
        root = common or _fixed_part(source)
        for path in [source] if listed else find_sources([source]):
            inside = root and path != root and not os.path.relpath(path, root).startswith(os.pardir)
            name = os.path.relpath(path, root) if inside else os.path.basename(os.path.abspath(path))
            names.setdefault(path, re.sub(r"[?*:<>|\"]", "_", name))
    stems = {path: os.path.splitext(name)[0] if is_video_name(name) else name for path, name in names.items()}
    taken = Counter(stem.casefold() for stem in stems.values())
    files = {path: names[path] if taken[stem.casefold()] > 1 else stem for path, stem in stems.items()}
    first: dict[str, str] = {}
    for path, file in files.items():
        if (other := first.setdefault(file.casefold(), path)) != path:
            raise _both_would_be(f"{file}.{suffix}", other, path)
    return {path: f"{file}.{suffix}" for path, file in files.items()}


def _both_would_be(file: str | os.PathLike[str], one: str, other: str) -> GestaError:
    """The error of two videos whose features have one file."""
    return GestaError(
        f"{one} and {other}: the features of both would be {os.fspath(file)}; give the folder above both, or each its "
        "own --out"
    )


def _refuse_others(folder: FeatureFolder, records: Sequence[Record], files: Sequence[str]) -> None:
    """Refuse to replace the features of other videos, which an earlier call has put into files of the same names.

    Raises:
        GestaError: the features of a video would be in the file of another path; that may be of a data set that was
            moved, too, which is not known.
    """
    for record, file in zip(records, files):
        entry = folder.entries.get(file)
        if entry is None or entry["source"] == source_hash(record):
            continue
        before, now = _identity(entry.get("path", entry["video"])), _identity(record.path)
        if before != now and os.path.realpath(before) != os.path.realpath(now):
            raise _both_would_be(folder.folder / file, before, now)


def _identity(path: str) -> str:
    """What names a video from any folder: its absolute path, or its address."""
    return path if "://" in path else os.path.abspath(path)


def _fixed_part(source: str) -> str:
    """The folder that a source names, or that of a shell pattern up to its first special character; else empty."""
    if os.path.isdir(source):
        return source
    if os.path.exists(source) or not glob.has_magic(source):
        return ""
    fixed: Any = re.split(r"[*?\[]", source, maxsplit=1)[0]
    return os.path.dirname(fixed) or os.curdir


def compute_features(
    model: TrainedModel | VideoModel,
    sources: Sequence[str],
    out: str | os.PathLike[str],
    *,
    kind: FeatureKind = "pooled",
    views: EvaluateConfig | None = None,
    windows: Windows | None = None,
    format: Format = "npy",
    device: str | torch.device = "auto",
    precision: Precision = "32-true",
    listed: bool = False,
    share: Share | None = None,
) -> FeatureReport:
    """The features of videos in a folder, a file for each, see :mod:`gesta.features.folder`.

    What is there, of the same model, views and file, is not computed again. Videos that cannot be read are named, and
    the others computed.

    Args:
        model: what :func:`gesta.load` gives, or a network.
        sources: files, frame folders, folders of videos (searched below) and shell patterns.
        out: the folder; new, empty, or with features of the same model and views.
        kind: what is kept of each view.
        views: clips, crops, short side, batch size, workers and decoder, as in evaluation; None is
            :func:`gesta.evaluation.scoring.prediction_protocol`.
        windows: windows over whole videos instead of views.
        format: ``npy``, ``safetensors``, or ``parquet`` (of pooled features).
        device: ``auto`` takes the first accelerator there is.
        precision: of the forward passes; features are float32 in any case.
        listed: the sources are the paths of a list, see :func:`feature_files`.
        share: only these of the videos; the folder is then a part, see :mod:`gesta.data.shares`.

    Raises:
        GestaError: no videos, a camera among them, a folder that holds something else, or settings that make no sense.
    """
    network = model.model if isinstance(model, TrainedModel) else model
    shows, person_crop = (model.shows, model.person_crop) if isinstance(model, TrainedModel) else (None, False)
    views = protocol(views or prediction_protocol(model))
    if live := [source for source in sources if is_live(source)]:
        raise GestaError(f"{live[0]}: is a camera or a stream, which has no end; record it to a file first")
    _check_format(format, kind)
    if windows and network.config.clip.streams:
        raise GestaError("windows show a model one stream, and this one takes several: leave --window out")
    check_input(network, shows, person_crop, timeline=windows is not None)
    if windows:
        check_windows(windows, network.config.clip)
    files = feature_files(sources, format, listed)
    paths = share.take(list(files)) if share else list(files)
    records = [record_of(path, shows, person_crop) for path in paths]
    chosen_device = choose_device(device)
    autocast = choose_autocast(chosen_device, precision)
    # until here nothing was written
    description = describe(network, views, kind, windows, precision)
    settings = {**description, "suffix": format}
    del settings[VERSIONS]  # as with a whole folder, other ones are no reason to begin a part again
    part = describe_part("features", share, list(files), settings) if share else None
    check_part(out, part)
    names = [files[path] for path in paths]
    _refuse_others(FeatureFolder(out, description), records, names)
    with lock_folder(out):
        remove_parts(out)
        check_part(out, part)
        folder = FeatureFolder(out, description)  # again: another process may have added features meanwhile
        _refuse_others(folder, records, names)
        if part:
            write_part(out, part)

        def compute(indices: list[int]) -> Iterator[VideoFeatures]:
            how: dict[str, Any] = {"kind": kind, "device": chosen_device, "autocast": autocast, "indices": indices}
            if windows:
                return extract_windows(network, records, views, windows, **how)
            return extract(network, records, views, **how)

        report = compute_missing(folder, records, names, compute)
        if part:
            finish_part(out, part, report.failures, report.partial)
        return report


def merge_features(folders: Sequence[str], parts: Sequence[Part], out: str | os.PathLike[str]) -> Merged:
    """Put the features of all shares into one folder, as one computation would have written it.

    Args:
        folders: of all parts.
        parts: what they say, see :func:`gesta.data.shares.read_parts`.
        out: new or empty folder.

    Raises:
        GestaError: a folder that is not new, or parts whose features are gone.
    """
    check_new_folder(out)
    description = {name: value for name, value in parts[0].settings.items() if name != "suffix"}
    sources = {folder: FeatureFolder(folder, description) for folder in folders}
    versions = [source.description.get(VERSIONS) for source in sources.values()]
    if versions[0] and versions.count(versions[0]) == len(versions):
        description[VERSIONS] = versions[0]
    for (folder, source), part in zip(sources.items(), parts):
        present = sum((source.folder / file).is_file() for file in source.entries)
        if not part.answered == len(source.entries) == present:
            raise GestaError(
                f"{folder}: holds the features of {present} videos, not of {part.answered} as its {PART} says; compute "
                "the part again"
            )
    with new_folder(out) as new:
        target = FeatureFolder(new, description)
        for folder, source in sources.items():
            copy_files(folder, new, source.entries)
        target.entries = {file: entry for source in sources.values() for file, entry in source.entries.items()}
        target.write_description()
        target.tidy()
    return merged(out, parts)


def _check_format(format: Format, kind: FeatureKind) -> None:
    """Refuse what cannot be written before anything is computed."""
    if format != "parquet":
        return
    if kind == "tokens":
        raise GestaError(
            "--format parquet has one row of numbers for each view, which a map of tokens is not; use --format npy"
        )
    require_pyarrow()
