"""A copy of a folder of videos that is quick to train from: small pictures, frequent key frames, frames or shards.

Folder structure and names stay the same, so lists and readers still fit; so do the numbers of frames, unless ``fps``
asks for another rate. Finished videos are kept: a second run makes only those that are missing, and those of which the
source has changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from gesta.config import read_json
from gesta.curation.reencode import EncodeJob, EncodeSettings, Outcome, prepare_one, read_remark, remark_file
from gesta.curation.sources import SOURCES, Sources, read_sources, write_sources
from gesta.data.lists import CLASSES, Folder, Folders, Kind, check_left_over, classes_text, list_texts, write_lists
from gesta.data.shards import members, write_shard
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
from gesta.data.workers import run_each
from gesta.errors import GestaError
from gesta.files import LOCK, is_part, lock_folder, make_folder, new_folder, remove, remove_parts, write_text
from gesta.processes import cpu_cores
from gesta.progress import join_lines, track
from gesta.records import SPLITS, SplitName, class_lines, class_name
from gesta.video.find import find_videos, is_video_name, list_folder
from gesta.video.flow import describe_flow, require_opencv

MANIFEST = "prepare.json"
"""File in the new folder that says how it was made, so that a second run continues with the same settings."""

PARTS = ".parts"
"""Folder of finished videos whose shard is not complete yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What :func:`prepare` did.

    Attributes:
        root: the new folder.
        videos: in the old one.
        made: videos made now.
        kept: videos that were made by an earlier call.
        changed: videos that have changed since an earlier call copied them, of which the copies were made again.
        frames: frames written now.
        left_out: a sentence about each video that could not be read or written; says whether an earlier copy of it
            stays, which shows what it was before.
        damaged: a sentence about each video of which some frames could not be read; its copy, made now or by an earlier
            call, lacks them.
        left_over: a sentence about each copy whose video is no longer there.
        shards: tar files in the new folder.
        lists: videos by list file, if there are lists.
        seconds: how long it took.
    """

    root: str
    videos: int
    made: int
    kept: int
    changed: list[str]
    frames: int
    left_out: list[str]
    damaged: list[str]
    left_over: list[str]
    shards: int
    lists: dict[str, int]
    seconds: float

    to_json = asdict

    def __str__(self) -> str:
        where = f" in {self.shards} shards" if self.shards else ""
        lines = [
            f"{self.root}: {self.made + self.kept} of {self.videos} videos{where}, {self.made} of them made now "
            f"({self.frames} frames, {self.seconds:.0f} s)",
            *(f"{os.path.join(self.root, name)}: {count} videos" for name, count in self.lists.items()),
            *(f"made again: {video}: has changed since it was copied" for video in self.changed),
            *(f"damaged: {sentence}" for sentence in self.damaged),
            *(f"left out: {sentence}" for sentence in self.left_out),
            *(f"left over: {sentence}" for sentence in self.left_over),
        ]
        return join_lines(lines)


def prepare(
    root: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    short_side: int = 256,
    codec: Literal["h264", "hevc"] | None = None,
    fps: float | None = None,
    frames: bool = False,
    flow: bool = False,
    lists: bool = False,
    shards: int = 0,
    val: float | None = None,
    test: float | None = None,
    seed: int | None = None,
    by_folder: bool = False,
    folders: Folders = "auto",
    kind: Kind = "auto",
    workers: int | None = None,
    listed: Sequence[str] | None = None,
    share: Share | None = None,
) -> Prepared:
    """Make a small copy of all videos below a folder.

    A video becomes an MP4 file of the same name (``a/b.avi``: ``a/b.mp4``) that shows what players show: upright,
    stretched to square pixels, deinterlaced. It has no sound and begins with its first frame, so the times of a video
    whose picture begins later than its sound change. Files appear complete or not at all, and a video that cannot be
    read stops nothing.

    Args:
        root: folder of videos, files or folders of frames, at any depth.
        out: folder of the copies; new, empty, or one that an earlier call with the same settings made.
        short_side: length of the short side in pixels, even; smaller videos keep their size.
        codec: of the copies; None for H.264.
        fps: frames per second of the copies; None keeps every frame and its time.
        frames: folders of JPEG images (``img_00001.jpg``, counted from 1) instead of video files.
        flow: the optical flow of the videos instead of the videos: folders of images under the names of the videos, as
            many as frames, see :mod:`gesta.video.flow`. ``data.flow`` names ``out`` then, and ``data.root`` the videos.
        lists: also write ``train.txt``, ``val.txt`` and ``test.txt`` with labels by the folders of classes, see
            :func:`gesta.data.lists.write_lists`.
        shards: number of videos per tar file, in an order drawn by ``seed``; 0 for no tar files. See
            :mod:`gesta.data.shards`.
        val: fraction of the videos that the lists put into validation, if there is no folder of validation videos;
            None for 0.2.
        test: the same of test videos; None for 0.
        seed: of the split in lists and of the order in shards; None for 0.
        by_folder: the lists keep the videos of one sub-folder of a class together.
        folders: how folders are meant in lists and shards, see :class:`gesta.data.lists.Folder`.
        kind: which are videos, see there; of any kind but ``files`` and ``frames`` all are copied.
        workers: worker processes; by default one per CPU core, 0 for none.
        listed: paths of videos below ``root``, all others are left out; None for all.
        share: only these of the videos; the folder is then a part, see :mod:`gesta.data.shares`.

    Raises:
        GestaError: impossible arguments or some that would not be used, no videos, a listed one that is not below the
            folder, a new folder with other files, other settings or (with lists) copies of no video, or no OpenCV.
    """
    begin = time.monotonic()
    source, target = os.path.normpath(root), os.path.normpath(out)
    settings = EncodeSettings(short_side, codec or "h264", fps, frames, flow)
    _check_numbers(settings, lists, shards, workers, codec)
    _check_share(share, lists, shards)
    meant = None if folders == "auto" else folders
    how = _list_options(lists, shards, val=val, test=test, seed=seed, by_folder=by_folder or None, folders=meant)
    _check_folders(source, target)
    videos = _videos(source, kind, listed)
    labels = _labels(source, target, kind, how, lists, shards > 0)
    splits = _split_folders(source, how) if shards else {}
    with lock_folder(target):
        names = [os.path.relpath(video, source) for video in videos]
        part = _begin(target, _described(settings, shards, kind, how), share, names)
        jobs, refused = _plan(source, target, videos, settings)  # of all shares: names are taken in one order
        videos, jobs, refused = _of(share, videos, jobs, refused)
        jobs, outside = _in_splits(source, jobs, splits)
        left_out = [*refused.values(), *outside]
        sources, left_over = _sources(source, target, jobs, lists, shards)
        packing = _Packing(source, target, jobs, shards, how["seed"], labels, splits, sources) if shards else None
        todo, absent = packing.unfinished() if packing else (_unfinished(jobs, sources), [])
        left_out += absent
        outcomes = _make(target, todo, workers, packing, refused, sources)
        damaged = packing.damaged() if packing else _damaged(jobs, refused)
        left_out += [outcome.remark for outcome in outcomes if not outcome.frames]
        made = sum(outcome.frames > 0 for outcome in outcomes)
        made_lists = write_lists(target, **how) if lists else {}
        if part:
            copies = [os.path.relpath(job.target, target) for job in jobs if job.source not in refused]
            finish_part(target, replace(part, copies=copies), refused, damaged)
        return Prepared(
            root=target,
            videos=len(videos),
            made=made,
            kept=len(videos) - len(left_out) - made,
            changed=sorted(set(sources.changed) & {job.source for job in todo} - refused.keys()),
            frames=sum(outcome.frames for outcome in outcomes),
            left_out=sorted(left_out),
            damaged=sorted(damaged.values()),
            left_over=left_over,
            shards=sum(map(os.path.exists, packing.plan)) if packing else 0,
            lists=made_lists,
            seconds=round(time.monotonic() - begin, 1),
        )


def _sources(
    source: str, target: str, jobs: Sequence[EncodeJob], lists: bool, shards: int
) -> tuple[Sources, list[str]]:
    """What the copies were made from, and sentences about those whose videos are no longer there.

    Raises:
        GestaError: there are some, and lists would name them. (Shards with such videos are refused elsewhere.)
    """
    sources = Sources(source, target, {job.source: job.target for job in jobs})
    left_over = [] if shards else sources.left_over()
    if lists and left_over:
        more = f" ({len(left_over) - 1} more of this kind)" if len(left_over) > 1 else ""
        raise GestaError(f"{left_over[0]}, as lists would hold it{more}")
    return sources, left_over


def _unfinished(jobs: Sequence[EncodeJob], sources: Sources) -> list[EncodeJob]:
    """What is to be made: copies that are missing, and those of videos that have changed, which stay until then."""
    return [job for job in jobs if not os.path.exists(job.target) or sources.has_changed(job.source, job.target)]


def _make(
    target: str,
    todo: list[EncodeJob],
    workers: int | None,
    packing: _Packing | None,
    refused: dict[str, str],
    sources: Sources,
) -> list[Outcome]:
    """Make the copies; ``refused`` gets the videos without one."""
    outcomes: list[Outcome] = []
    for job, outcome in track(_encode_all(todo, workers), f"preparing {target}", total=len(todo)):
        if outcome.frames:
            sources.note(job.source)
        else:
            if packing:  # what its video was before must not get into a shard as if it were that video
                remove(job.target)
                remove(remark_file(job.target))
                sources.forget(job.source)
            elif os.path.exists(job.target):
                outcome = outcome._replace(remark=f"{outcome.remark}; {job.target} still shows what it was before")
            refused[job.source] = outcome.remark
        outcomes.append(outcome)
        if packing:
            packing.finished(job)
    if packing:
        packing.close()
    sources.tidy()
    return outcomes


def _damaged(jobs: Sequence[EncodeJob], refused: dict[str, str]) -> dict[str, str]:
    """Video → a sentence about each whose copy, made now or earlier, lacks frames."""
    remarks = {job.source: read_remark(job.target) for job in jobs if job.source not in refused}
    return {source: f"{source}: {remark}" for source, remark in remarks.items() if remark}


def _described(settings: EncodeSettings, shards: int, kind: Kind, how: dict[str, Any]) -> dict[str, Any]:
    """What the manifest says: all that the copies and shards depend on; lists are written anew by each call."""
    described = settings._asdict() | {"shards": shards}
    if settings.flow:
        described["flow"] = describe_flow()
    if shards:
        described["seed"] = how["seed"]
    meant = {"folders": how["folders"] if shards else "auto", "kind": kind}
    return described | {name: word for name, word in meant.items() if word != "auto"}


def _list_options(lists: bool, shards: int, **given: Any) -> dict[str, Any]:
    """The arguments of :func:`gesta.data.lists.write_lists`, of which shards use two; None is what was not given.

    Raises:
        GestaError: one is given and would not be used, or the fractions are none.
    """
    given = {name: value for name, value in given.items() if value is not None}
    for name in given:
        of_shards = name in ("seed", "folders")
        if not (lists or (shards and of_shards)):
            needed = "--lists or --shards" if of_shards else "--lists"
            raise GestaError(f"--{name.replace('_', '-')} would do nothing; leave it out, or add {needed}")
    how: dict[str, Any] = {"val": 0.2, "test": 0.0, "seed": 0, "by_folder": False, "folders": "auto"} | given
    if not (min(how["val"], how["test"]) >= 0 and how["val"] + how["test"] < 1):
        raise GestaError(
            f"--val {how['val']:g} and --test {how['test']:g} are fractions of the videos; give numbers from 0 on that "
            "are together below 1"
        )
    return how


def _check_share(share: Share | None, lists: bool, shards: int) -> None:
    if share and (lists or shards):
        raise GestaError(
            "--part makes some of the videos, and --lists and --shards are of all; leave them out (after gesta merge, "
            "the same command with --lists, and the merged folder as OUT, makes no video again)"
        )


def _videos(source: str, kind: Kind, listed: Sequence[str] | None) -> list[str]:
    """The videos to be copied; arguments as of :func:`prepare`.

    Raises:
        GestaError: there is none, the folder is one itself, or a listed one is not below the folder.
    """
    videos = find_videos(source) if listed is None else _below(source, listed)
    if kind in ("files", "frames"):
        videos = [video for video in videos if is_video_name(video) is (kind == "files")]
    if not videos:
        raise GestaError(f"{source}: holds no video that is known by its suffix; give the folder that holds them")
    if source in videos:
        raise GestaError(f"{source}: is one video as frames, not a folder of videos; give the folder above it")
    return videos


def _below(source: str, listed: Sequence[str]) -> list[str]:
    """The listed videos as those of the folder are named.

    Raises:
        GestaError: one that is not below it.
    """
    root = os.path.realpath(source)
    videos = []
    for path in listed:
        inside = os.path.relpath(os.path.abspath(path), root)
        if inside.split(os.sep)[0] == os.pardir:
            inside = os.path.relpath(os.path.realpath(path), root)
        if inside.split(os.sep)[0] in (os.pardir, os.curdir):
            raise GestaError(
                f"{path}: is listed and not below {source}; take it off the list, or give the folder above"
            )
        videos.append(os.path.join(source, inside))
    return list(dict.fromkeys(videos))


def merge_prepared(folders: Sequence[str], parts: Sequence[Part], out: str | os.PathLike[str]) -> Merged:
    """Put the copies of all shares into one folder, as one call of :func:`prepare` would have written it.

    Args:
        folders: of all parts.
        parts: what they say, see :func:`gesta.data.shares.read_parts`.
        out: new or empty folder.

    Raises:
        GestaError: a folder that is not new, or parts whose copies are gone.
    """
    check_new_folder(out)
    files = {folder: _files_of(folder, part) for folder, part in zip(folders, parts)}
    with new_folder(out) as new:
        for folder, names in files.items():
            copy_files(folder, new, names)
        _write_manifest(os.path.join(new, MANIFEST), parts[0].settings)
        known = [(read_sources(folder), part.copies) for folder, part in zip(folders, parts)]
        lines = [known_of[copy] for known_of, copies in known for copy in copies if copy in known_of]
        write_sources(os.path.join(new, SOURCES), lines)
    return merged(out, parts)


def _files_of(folder: str, part: Part) -> list[str]:
    """All files of the copies in the folder of a part, and of the remarks about them.

    Raises:
        GestaError: copies are gone, or not in the folder.
    """
    files, absent = list[str](), list[str]()
    for copy in part.copies:
        if os.path.isabs(copy) or os.pardir in Path(copy).parts:
            raise GestaError(f"{folder}: {PART} names {copy[:100]!r}, which is not in it; run its command again")
        path = os.path.join(folder, copy)
        found = [copy] if os.path.lexists(path) else []
        if os.path.isdir(path) and not os.path.islink(path):
            found = [os.path.join(copy, file.name) for file in list_folder(path).files]
        if not found:
            absent.append(copy)
        files += found
        if os.path.exists(remark := remark_file(path)):
            files.append(os.path.relpath(remark, folder))
    if absent or len(part.copies) != part.answered:
        raise GestaError(
            f"{folder}: holds {len(part.copies) - len(absent)} copies, not {part.answered} as its {PART} says"
            f"{f' ({absent[0]} is missing)' if absent else ''}; run its command again"
        )
    return files


def _check_numbers(settings: EncodeSettings, lists: bool, shards: int, workers: int | None, codec: str | None) -> None:
    """Refuse settings that make no sense, alone or together."""
    side, fps = settings.short_side, settings.fps
    if side < 16 or side % 2:
        raise GestaError(f"--short-side {side} is not an even number of pixels from 16 on; give one")
    if fps is not None and not 0 < fps <= 1000:
        raise GestaError(f"--fps {fps:g} is not above 0 and at most 1000; give frames per second, or leave it out")
    if shards < 0:
        raise GestaError(f"--shards {shards} is below 0; give the number of videos in each, or leave it out")
    if workers is not None and workers < 0:
        raise GestaError(f"--workers {workers} is below 0; give a number of processes, or leave it out")
    if shards and (settings.frames or lists):
        raise GestaError("shards hold videos with their labels; leave --frames and --lists out, or --shards")
    if settings.flow:
        others = {"frames": settings.frames, "lists": lists, "shards": shards, "codec": codec}
        if useless := next((name for name, given in others.items() if given), ""):
            raise GestaError(
                f"--flow makes folders of images, which belong to the videos and their lists; leave --{useless} out"
            )
        require_opencv()
    if settings.frames and codec:
        raise GestaError("--codec is of video files, and --frames makes images; leave one of them out")


def _check_folders(source: str, target: str) -> None:
    """Refuse a source that is no folder, and a target inside it."""
    if not os.path.isdir(source):
        raise GestaError(f"{source}: is not a folder; give the one that holds the videos")
    inner, outer = os.path.realpath(target), os.path.realpath(source)
    if os.path.commonpath([inner, outer]) == outer:
        raise GestaError(f"{target}: is inside {source}, whose videos are copied; choose a folder beside it")


def _of(
    share: Share | None, videos: list[str], jobs: list[EncodeJob], refused: dict[str, str]
) -> tuple[list[str], list[EncodeJob], dict[str, str]]:
    """The videos of a share, and what of the plan is about them."""
    videos = share.take(videos) if share else videos
    mine = set(videos)
    return videos, [job for job in jobs if job.source in mine], {v: text for v, text in refused.items() if v in mine}


def _begin(target: str, settings: dict[str, Any], share: Share | None, names: Sequence[str]) -> Part | None:
    """Claim the folder; with a share as its part."""
    part = describe_part("prepare", share, names, settings) if share else None
    check_part(target, part)
    if part:
        write_part(target, part)
    _claim(target, settings)
    return part


def _claim(target: str, settings: dict[str, Any]) -> None:
    """Write the manifest of a new folder or compare that of an old one, and remove files that a stopped run left."""
    path = os.path.join(target, MANIFEST)
    saved = None
    if os.path.lexists(path):
        saved = read_json(path, dict[str, Any], remedy=f"choose another folder, or delete {target}")
    if saved is None:
        if any(name not in (LOCK, PART) and not is_part(name) for name in os.listdir(target)):
            raise GestaError(f"{target} is not empty and was not made by gesta data prepare; choose a new folder")
        _write_manifest(path, settings)
    elif saved != settings:
        key = next(key for key in [*settings, *saved] if settings.get(key) != saved.get(key))
        raise GestaError(
            f"{target} was made with {key} {saved.get(key)}, not {settings.get(key)}; choose another folder or delete "
            "it"
        )
    remove_parts(target)


def _write_manifest(path: str, settings: dict[str, Any]) -> None:
    write_text(path, json.dumps(settings, indent=2) + "\n")


def _plan(
    source: str, target: str, videos: Sequence[str], settings: EncodeSettings
) -> tuple[list[EncodeJob], dict[str, str]]:
    """Where each video goes, and video → a sentence about each that would get the name of another one."""
    sources: dict[str, str] = {}  # by the file that it becomes
    jobs: list[EncodeJob] = []
    left_out: dict[str, str] = {}
    for video in videos:
        name = os.path.relpath(video, source)
        stem = name if os.path.isdir(video) else os.path.splitext(name)[0]
        file = os.path.join(target, stem if settings.frames or settings.flow else f"{stem}.mp4")
        if file in sources:
            left_out[video] = f"{video}: would become the same file as {sources[file]}; rename one of them"
            continue
        sources[file] = video
        jobs.append(EncodeJob(video, file, settings))
    return jobs, left_out


def _encode_all(jobs: Sequence[EncodeJob], workers: int | None) -> Iterator[tuple[EncodeJob, Outcome]]:
    workers = min(cpu_cores() if workers is None else workers, len(jobs))
    for position, outcome, reason in run_each(prepare_one, jobs, workers):
        job = jobs[position]
        yield job, outcome or Outcome(0, f"{job.source}: {reason}; take it off the list")


# --- shards ----------------------------------------------------------------------------------------------------------


class _Packing:
    """Puts finished videos into shards, each as soon as its last video is finished.

    Attributes:
        plan: the videos of each shard, by its path; they are made in :data:`PARTS` first.
        labels: number of each class, if the folder has a folder per class.
        splits: split of each folder in the source that holds those of classes; none if it holds these itself.
        sources: what the videos were when they were made.
    """

    def __init__(
        self,
        source: str,
        target: str,
        jobs: Sequence[EncodeJob],
        size: int,
        seed: int,
        labels: dict[str, int],
        splits: dict[str, SplitName],
        sources: Sources,
    ) -> None:
        self.source, self.target = source, target
        self.plan = _shard_plan(target, jobs, size, seed, splits)
        self.labels = labels
        self.splits = splits
        self.sources = sources
        self._shard_of = {job: shard for shard, parts in self.plan.items() for job in parts}
        self._missing: dict[str, int] = {}
        self._outdated: set[str] = set()  # videos that have changed since their shard was made

    def unfinished(self) -> tuple[list[EncodeJob], list[str]]:
        """The videos that are still to be made, and sentences about those that a finished shard lacks or has as
        they were.

        A shard whose videos are all made already is packed at once.
        """
        todo, left_out = [], []
        for shard, parts in self.plan.items():
            absent = _absent(shard, parts, self.source)
            if absent is not None:
                left_out += [
                    f"{name}: is not in {shard}, as it could not be read then, or is new; delete that to try again"
                    for name in absent
                ]
                for job in parts:
                    if job.source not in absent and self.sources.has_changed(job.source, shard):
                        self._outdated.add(job.source)
                        left_out.append(
                            f"{job.source}: has changed since {shard} was made; delete that to make it again"
                        )
                continue
            missing = _unfinished(parts, self.sources)
            todo += missing
            self._missing[shard] = len(missing)
        for shard, count in self._missing.items():
            if not count:
                _pack(shard, self.plan[shard], self.source, self.labels, self.splits)
        return todo, left_out

    def finished(self, job: EncodeJob) -> None:
        """Note that a video is made, or could not be."""
        shard = self._shard_of[job]
        self._missing[shard] -= 1
        if not self._missing[shard]:
            _pack(shard, self.plan[shard], self.source, self.labels, self.splits)

    def damaged(self) -> dict[str, str]:
        """Video → a sentence about each whose copy in a shard, written now or earlier, lacks frames."""
        remarks: dict[str, str] = {}
        for shard, parts in self.plan.items():
            path = remark_file(shard)
            if not (os.path.exists(shard) and os.path.exists(path)):
                continue
            said = read_json(path, dict[str, str], remedy="remove the file")
            for job in parts:
                name = os.path.relpath(job.source, self.source)
                if job.source not in self._outdated and (remark := said.get(name)):
                    remarks[job.source] = f"{job.source}: {remark}"
        return remarks

    def close(self) -> None:
        """Remove the folder of parts and write the class names."""
        shutil.rmtree(os.path.join(self.target, PARTS), ignore_errors=True)
        if self.labels:
            write_text(os.path.join(self.target, CLASSES), class_lines(self.labels))


def _shard_plan(
    target: str, jobs: Sequence[EncodeJob], size: int, seed: int, splits: dict[str, SplitName]
) -> dict[str, list[EncodeJob]]:
    """Which videos go into which shard, split by split, in an order that ``seed`` draws."""
    by_split: dict[str, list[EncodeJob]] = {}
    for job in jobs:
        first_folder = os.path.relpath(job.target, target).split(os.sep)[0]
        by_split.setdefault(splits.get(first_folder, ""), []).append(job)

    def draw(job: EncodeJob) -> bytes:
        name = os.path.relpath(job.target, target)
        return hashlib.blake2b(f"{seed}:{name}".encode(errors="surrogateescape")).digest()

    plan = {}
    for split, split_jobs in by_split.items():
        order = sorted(split_jobs, key=draw)
        for number, start in enumerate(range(0, len(order), size)):
            shard = os.path.join(target, split, f"shard-{number:06d}.tar")
            plan[shard] = [
                job._replace(target=os.path.join(target, PARTS, os.path.relpath(job.target, target)))
                for job in order[start : start + size]
            ]
    return plan


def _absent(shard: str, parts: Sequence[EncodeJob], source: str) -> list[str] | None:
    """The videos that are missing in a finished shard; None if there is no such shard.

    Raises:
        GestaError: it holds others.
    """
    if not os.path.exists(shard):
        return None
    planned = {os.path.relpath(job.source, source): job.source for job in parts}
    packed = {member.name for member in members(shard)}
    if not packed <= set(planned):
        raise GestaError(
            f"{shard} holds {min(packed - set(planned))}, which {source} now puts elsewhere, as its videos have "
            "changed; choose a new folder"
        )
    return [path for name, path in planned.items() if name not in packed]


def _pack(
    shard: str, parts: Sequence[EncodeJob], source: str, labels: dict[str, int], splits: dict[str, SplitName]
) -> None:
    """Write a shard of those of its videos that could be made, and remove their single files."""
    made = [job for job in parts if os.path.exists(job.target)]
    if not made:
        return
    samples = []
    for number, job in enumerate(made):
        name = os.path.relpath(job.source, source)
        folders = name.split(os.sep)[:-1]
        if folders and folders[0] in splits:
            folders = folders[1:]
        known = labels.get(class_name(folders[0])) if folders else None
        label = {} if known is None else {"label": known}
        samples.append((f"{number:06d}", job.target, {"name": name, **label}))
    make_folder(os.path.dirname(shard))
    remarks = {note["name"]: remark for _, copy, note in samples if (remark := read_remark(copy))}
    if remarks:
        write_text(remark_file(shard), json.dumps(remarks, indent=2) + "\n")
    else:
        remove(remark_file(shard))  # of an earlier shard of this name
    write_shard(shard, samples)
    for job in made:
        os.remove(job.target)
        remove(remark_file(job.target))


def _split_folders(root: str, how: dict[str, Any]) -> dict[str, SplitName]:
    """The folders of splits in a folder of videos, by their names, as the reader of folders takes them."""
    if not list_folder(root).folders:
        return {}
    folders = Folder(root=root, folders=how["folders"]).split_folders()
    return {os.path.basename(folder): split for split, folder in folders.items() if folder != root}


def _in_splits(
    source: str, jobs: Sequence[EncodeJob], splits: dict[str, SplitName]
) -> tuple[list[EncodeJob], list[str]]:
    """Those videos that shards can hold, and sentences about others: beside shards of splits no reader takes any."""
    inside = [job for job in jobs if not splits or os.path.relpath(job.source, source).split(os.sep)[0] in splits]
    outside = sorted({job.source for job in jobs} - {job.source for job in inside})
    return inside, [f"{video}: is in no folder of a split, so no shard holds it; move it into one" for video in outside]


def _labels(root: str, target: str, kind: Kind, how: dict[str, Any], lists: bool, shards: bool) -> dict[str, int]:
    """Number of each class, if the folder has a folder per class and labels are asked for.

    Args:
        root: folder of the videos.
        target: folder of the copies.
        kind: see :func:`prepare`.
        how: the lists are made, see :func:`_list_options`.
        lists, shards: whether they are made.

    Raises:
        GestaError: its folders may be meant in two ways, lists cannot hold its names, or a list is there that would be
            left of an earlier split. That must be known before the first video is written.
    """
    if not (lists or shards) or (shards and not list_folder(root).folders):
        return {}
    data = Folder(root=root, kind=kind, **{name: how[name] for name in ("val", "test", "seed", "folders")})
    if lists:
        check_left_over(target, list_texts(data, how["by_folder"]))
    classes_text(data)
    for split in SPLITS:
        data.records(split)
    return {name: number for number, name in enumerate(data.classes())}
