"""A copy of a folder of videos that is quick to train from: small pictures, frequent key frames, frames or shards.

Folder structure and names stay, so lists and readers still fit; so does the number of every frame, unless ``fps`` asks
for another rate. What is there is kept: a second run does only what is missing.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from gesta.curation.reencode import Done, Job, Settings, prepare_one
from gesta.curation.workers import each
from gesta.data.lists import SPLIT_FOLDERS, Folder, write_lists
from gesta.data.shards import CLASSES, members, write_shard
from gesta.errors import GestaError
from gesta.processes import cpu_cores
from gesta.progress import track
from gesta.video.find import find_videos

MANIFEST = "prepare.json"
"""File in the new folder that says how it was made, so that a second run goes on in the same way."""

PARTS = ".parts"
"""Folder of finished videos that wait for the rest of their shard."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What :func:`prepare` did.

    Attributes:
        root: the new folder.
        videos: found in the old one.
        made: now.
        kept: were there already.
        frames: written now.
        left_out: a sentence about each video that could not be read or written.
        damaged: a sentence about each video of which some frames could not be read; it is there without them.
        shards: tar files in the new folder.
        lists: videos by list file, if there are lists.
        seconds: it took.
    """

    root: str
    videos: int
    made: int
    kept: int
    frames: int
    left_out: list[str]
    damaged: list[str]
    shards: int
    lists: dict[str, int]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """All attributes as plain values."""
        return asdict(self)

    def __str__(self) -> str:
        where = f" in {self.shards} shards" if self.shards else ""
        lines = [
            f"{self.root}: {self.made + self.kept} of {self.videos} videos{where}, {self.made} of them made now "
            f"({self.frames} frames, {self.seconds:.0f} s)",
            *(f"{os.path.join(self.root, name)}: {count} videos" for name, count in self.lists.items()),
            *(f"damaged: {sentence}" for sentence in self.damaged),
            *(f"left out: {sentence}" for sentence in self.left_out),
        ]
        return "\n".join(lines)


def prepare(
    root: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    short_side: int = 256,
    codec: Literal["h264", "hevc"] = "h264",
    fps: float | None = None,
    frames: bool = False,
    lists: bool = False,
    shards: int = 0,
    val: float = 0.2,
    test: float = 0.0,
    seed: int = 0,
    by_folder: bool = False,
    workers: int | None = None,
) -> Prepared:
    """Make a small copy of all videos below a folder.

    A video becomes an MP4 file of the same name (``a/b.avi``: ``a/b.mp4``), with square pixels, upright, without sound.
    Files appear complete or not at all, and a video that cannot be read stops nothing.

    Args:
        root: folder of videos, files or folders of frames, at any depth.
        out: folder of the copies; new, empty, or one that an earlier call with the same settings made.
        short_side: length of the short side in pixels, even; smaller videos keep their size.
        codec: of the copies.
        fps: frames per second of the copies; None keeps every frame and its time.
        frames: folders of JPEG images (``img_00001.jpg``, counted from 1) instead of video files.
        lists: also write ``train.txt``, ``val.txt`` and ``test.txt`` with labels by the folders of classes, see
            :func:`gesta.data.lists.write_lists`.
        shards: put so many videos into each tar file, see :mod:`gesta.data.shards`, in an order drawn by ``seed``.
        val: share of validation videos in the lists, where there is no folder of them.
        test: share of test videos in the lists, where there is no folder of them.
        seed: of the split and of the order in shards.
        by_folder: the lists keep the videos of one sub-folder of a class together.
        workers: processes; by default one per processor, 0 for none but this.

    Raises:
        GestaError: impossible arguments, no videos, a folder with other things in it or made with other settings.
    """
    begin = time.monotonic()
    source, target = os.path.normpath(root), os.path.normpath(out)
    _check(source, target, short_side, fps, frames, lists, shards, workers)
    videos = find_videos(source)
    if not videos:
        raise GestaError(f"{source}: holds no video that is known by its suffix; give the folder that holds them")
    settings = Settings(short_side, codec, fps, frames)
    _claim(target, {**settings._asdict(), "shards": shards, **({"seed": seed} if shards else {})})
    jobs, left_out = _plan(source, target, videos, settings)
    plan = _shard_plan(target, jobs, shards, seed) if shards else {}
    packed = {shard: there for shard in plan if (there := _packed(shard, plan[shard], source)) is not None}
    for shard, missing in packed.items():
        left_out += [
            f"{name}: is not in {shard}, as it could not be read; delete that to try again" for name in missing
        ]
    if shards:
        jobs = [job for shard, parts in plan.items() if shard not in packed for job in parts]
    todo = [job for job in jobs if not os.path.exists(job.target)]
    waiting = {shard: sum(job in parts for job in todo) for shard, parts in plan.items() if shard not in packed}
    shard_of = {job: shard for shard, parts in plan.items() for job in parts}
    labels = _labels(source) if shards else {}
    done: list[Done] = []

    def pack(shard: str) -> None:
        _pack(shard, plan[shard], source, labels)

    for shard, count in waiting.items():
        if not count:
            pack(shard)
    for job, result in track(_all(todo, workers), f"preparing {target}", total=len(todo)):
        done.append(result)
        if shards:
            waiting[shard_of[job]] -= 1
            if not waiting[shard_of[job]]:
                pack(shard_of[job])
    if shards:
        shutil.rmtree(os.path.join(target, PARTS), ignore_errors=True)
        if labels:
            _write_text(os.path.join(target, CLASSES), "".join(f"{name}\n" for name in labels))
    left_out += [result.sentence for result in done if not result.frames]
    made = sum(result.frames > 0 for result in done)
    return Prepared(
        root=target,
        videos=len(videos),
        made=made,
        kept=len(videos) - len(left_out) - made,
        frames=sum(result.frames for result in done),
        left_out=sorted(left_out),
        damaged=sorted(result.sentence for result in done if result.frames and result.sentence),
        shards=len(plan),
        lists=write_lists(target, val=val, test=test, seed=seed, by_folder=by_folder) if lists else {},
        seconds=round(time.monotonic() - begin, 1),
    )


def _check(
    root: str,
    out: str,
    short_side: int,
    fps: float | None,
    frames: bool,
    lists: bool,
    shards: int,
    workers: int | None,
) -> None:
    if short_side < 16 or short_side % 2 or (fps is not None and not 0 < fps <= 1000):
        raise GestaError(f"short side {short_side} must be even and at least 16, and fps above 0 (or keep), not {fps}")
    if shards < 0 or (workers is not None and workers < 0):
        raise GestaError(f"{shards} videos a shard and {workers} workers: give numbers from 0 on")
    if shards and (frames or lists):
        raise GestaError("shards hold videos with their labels; leave --frames and --lists out, or --shards")
    if not os.path.isdir(root):
        raise GestaError(f"{root}: is not a folder; give the one that holds the videos")
    inner, outer = os.path.realpath(out), os.path.realpath(root)
    if os.path.commonpath([inner, outer]) == outer:
        raise GestaError(f"{out}: lies in {root}, whose videos are to be copied; choose a folder beside it")


def _claim(out: str, settings: dict[str, Any]) -> None:
    """Make the folder ours, and clear away what a stopped run left half done."""
    path = os.path.join(out, MANIFEST)
    try:
        before = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        before = None
    except (OSError, ValueError):
        raise GestaError(f"{path} cannot be read; delete {out} and prepare it again") from None
    if before is None:
        if os.path.exists(out) and (not os.path.isdir(out) or os.listdir(out)):
            raise GestaError(f"{out} is not empty and was not made by gesta data prepare; choose a new folder")
        os.makedirs(out, exist_ok=True)
        _write_text(path, json.dumps(settings, indent=2) + "\n")
    elif before != settings:
        key = next(key for key in [*settings, *before] if settings.get(key) != before.get(key))
        raise GestaError(
            f"{out} was made with {key} {before.get(key)}, not {settings.get(key)}; choose another folder or delete it"
        )
    for folder, folders, names in os.walk(out):
        for name in [*folders, *names]:
            if name.startswith(".") and name.endswith(".part"):
                left = os.path.join(folder, name)
                shutil.rmtree(left) if os.path.isdir(left) else os.remove(left)


def _plan(root: str, out: str, videos: Sequence[str], settings: Settings) -> tuple[list[Job], list[str]]:
    """Where each video goes, and sentences about those whose place is taken by another one of the same name."""
    taken: dict[str, str] = {}
    jobs, left_out = [], []
    for video in videos:
        name = os.path.relpath(video, root)
        stem = name if os.path.isdir(video) else os.path.splitext(name)[0]
        target = os.path.join(out, stem if settings.frames else f"{stem}.mp4")
        if target in taken:
            left_out.append(f"{video}: would become the same file as {taken[target]}; rename one of them")
            continue
        taken[target] = video
        jobs.append(Job(video, target, settings))
    return jobs, left_out


def _all(todo: Sequence[Job], workers: int | None) -> Iterator[tuple[Job, Done]]:
    workers = min(cpu_cores() if workers is None else workers, len(todo))
    for position, result, why in each(prepare_one, todo, workers):
        job = todo[position]
        yield job, result or Done(0, f"{job.source}: {why}; take it off the list")


# --- shards ----------------------------------------------------------------------------------------------------------


def _shard_plan(out: str, jobs: Sequence[Job], size: int, seed: int) -> dict[str, list[Job]]:
    """Which videos go into which shard, split by split, mixed; they are made in :data:`PARTS` first."""
    by_split: dict[str, list[Job]] = {}
    for job in jobs:
        first = os.path.relpath(job.target, out).split(os.sep)[0]
        split = next((split for split, names in SPLIT_FOLDERS.items() if first.lower() in names), "")
        by_split.setdefault(split, []).append(job)
    plan = {}
    for split, its in by_split.items():

        def draw(job: Job) -> bytes:
            name = os.path.relpath(job.target, out)
            return hashlib.blake2b(f"{seed}:{name}".encode(errors="surrogateescape")).digest()

        order = sorted(its, key=draw)
        for number, at in enumerate(range(0, len(order), size)):
            shard = os.path.join(out, split, f"shard-{number:06d}.tar")
            plan[shard] = [
                job._replace(target=os.path.join(out, PARTS, os.path.relpath(job.target, out)))
                for job in order[at : at + size]
            ]
    return plan


def _packed(shard: str, parts: Sequence[Job], root: str) -> list[str] | None:
    """The videos that are missing in a finished shard; None if it is not there.

    Raises:
        GestaError: it holds others.
    """
    if not os.path.exists(shard):
        return None
    wanted = {os.path.relpath(job.source, root): job.source for job in parts}
    there = {member.name for member in members(shard)}
    if not there <= set(wanted):
        raise GestaError(
            f"{shard} holds {min(there - set(wanted))}, which {root} now puts elsewhere, as its videos have changed; "
            "choose a new folder"
        )
    return [path for name, path in wanted.items() if name not in there]


def _pack(shard: str, parts: Sequence[Job], root: str, labels: dict[str, int]) -> None:
    """Put those videos of a shard that could be made into it, and remove them from where they waited."""
    there = [job for job in parts if os.path.exists(job.target)]
    if not there:
        return
    samples = []
    for number, job in enumerate(there):
        name = os.path.relpath(job.source, root)
        folders = name.split(os.sep)[:-1]
        if folders and folders[0].lower() in {word for words in SPLIT_FOLDERS.values() for word in words}:
            folders = folders[1:]
        label = {"label": labels[folders[0]]} if folders and folders[0] in labels else {}
        samples.append((f"{number:06d}", job.target, {"name": name, **label}))
    os.makedirs(os.path.dirname(shard), exist_ok=True)
    write_shard(shard, samples)
    for job in there:
        os.remove(job.target)


def _labels(root: str) -> dict[str, int]:
    """Number of each class, if the folder has a folder per class."""
    try:
        return {name: number for number, name in enumerate(Folder(root=root).classes())}
    except GestaError:
        return {}


def _write_text(path: str, text: str) -> None:
    part = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.part")
    Path(part).write_text(text, encoding="utf-8")
    os.replace(part, path)
