"""Marionette, the embedded data set: an articulated puppet performs actions, seen by moving cameras.

::

    <root>/marionette.json                              how it was made
    <root>/labels.txt                                   class names in label order
    <root>/videos/<action>/A03_S05_C02_R01.mp4          action, subject, camera, take; all count from 1
    <root>/depth/<action>/A03_S05_C02_R01/Depth-00000001.png, …      on request: 16 bits, millimetres

A set shows one family of actions: *coarse* ones of the whole body; *objects* that are handled, where classes differ in
direction and order; *fine* ones, dives that differ in counts; or the *kitchen*, verbs done to nouns, many to a video::

    <root>/verb.txt, <root>/noun.txt, <root>/segments.csv            instead of labels.txt
    <root>/videos/kitchen/A00_S05_C02_R01.mp4

Which clips there are follows from their number and the seed alone, and the first n clips of a larger set are the set of
n clips: making more continues what is there. Frames are described in :mod:`gesta.marionette.filming`.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from gesta.config import config, suggest
from gesta.errors import GestaError
from gesta.marionette.files import MANIFEST, VERSION, in_processes, read_manifest, write_json, write_text
from gesta.marionette.filming import Clip, segments, shoot
from gesta.marionette.lighting import Lighting
from gesta.marionette.motions import FAMILIES, TWINS
from gesta.marionette.motions.fine import ATTRIBUTES
from gesta.marionette.motions.kitchen import NOUNS, SEGMENTS, VERBS
from gesta.progress import track
from gesta.records import ClassNames, DataConfig, Record, SplitName, by_space, files_of_modality, labels_file
from gesta.video.depth import Encoding, Modalities, depth_settings

Family = Literal["coarse", "fine", "objects", "kitchen"]
HeldOut = Literal["both", "subjects", "cameras"]

ORDERS = ("forwards", "backwards")
"""Of two classes that are each other played backwards, the first and the second."""

# Clips are made in three groups that share no subject and no camera. The cameras of test and validation stand between
# those of training.
_CAST: dict[SplitName, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "train": ((1, 2, 3, 4, 5, 6, 7, 8), (1, 3, 6, 8)),
    "val": ((9, 10), (4,)),
    "test": ((11, 12, 13, 14), (2, 5, 7)),
}
# To hold out one of the two, groups are mixed: every camera (subject) of the test is then known from training.
_SUBJECTS: dict[SplitName, tuple[int, ...]] = {"val": (6, 10), "test": (7, 8, 13, 14)}
_CAMERAS: dict[SplitName, tuple[int, ...]] = {"val": (5,), "test": (3, 7)}

# Of 20 clips of a class 13 are for training, 2 for validation and 5 for testing, evenly strewn.
_TURNS: dict[int, SplitName] = {1: "test", 5: "test", 9: "test", 13: "test", 17: "test", 2: "val", 12: "val"}


def plan(clips: int, seed: int = 0, actions: int = len(FAMILIES["coarse"])) -> list[Clip]:
    """The clips of a set, balanced over classes; within a class subjects and cameras take turns."""
    return [_clip(number, seed, actions) for number in range(clips)]


def clips_of(family: str, clips: int, seed: int) -> list[Clip]:
    """The clips of a family's set; of the kitchen its long videos, as many as show so many actions, as action 0."""
    if family != "kitchen":
        return plan(clips, seed, len(FAMILIES[family]))
    return [clip._replace(action=0) for clip in plan(-(-clips // SEGMENTS), seed, 1)]


def _clip(number: int, seed: int, actions: int) -> Clip:
    turn, action = divmod(number, actions)
    group = _TURNS.get(turn % 20, "train")
    earlier = sum(_TURNS.get(i % 20, "train") == group for i in range(turn))
    subjects, cameras = _CAST[group]
    order = np.random.default_rng([seed, 0, action, len(subjects)]).permutation(subjects)
    round_, place = divmod(earlier, len(subjects))
    take, shift = divmod(round_, len(cameras))
    camera = cameras[(place + action + shift) % len(cameras)]
    return Clip(action + 1, int(order[place]), camera, take + 1)


@config
class Marionette(DataConfig):
    """Clips made by ``gesta data make marionette ROOT``.

    Attributes:
        root: the folder they lie in.
        held_out: what is new in testing and validation: ``both`` (new subjects before new cameras), ``subjects``
            (cameras are known from training) or ``cameras`` (subjects are known). All clips are used in each.
        modality: ``rgb``, ``depth`` or pairs of both, ``rgbd`` (of sets made with ``--depth``). Names are the same, so
            that results can be fused.
        depth_encoding: how depth becomes three channels: ``jet`` or ``repeat3``, see :class:`gesta.video.depth.Depth`.
        depth_range: millimetres that are shown as the darkest and the brightest level.
    """

    root: str = "data/marionette"
    held_out: HeldOut = "both"
    modality: Modalities = "rgb"
    depth_encoding: Encoding = "jet"
    depth_range: tuple[float, float] = (2500.0, 7500.0)

    def records(self, split: SplitName) -> list[Record]:
        """The split's clips.

        Raises:
            GestaError: the folder holds no finished Marionette set (or none with depth), or a field is misspelt.
        """
        depth = depth_settings(self.modality, self.depth_encoding, self.depth_range)
        if self.held_out not in get_args(HeldOut):
            raise GestaError(
                f"held_out cannot be {self.held_out!r}{suggest(self.held_out, get_args(HeldOut))} "
                f"(possible: {', '.join(get_args(HeldOut))})"
            )
        manifest = read_manifest(Path(self.root))
        if not manifest or not manifest["clips"]:
            state = "an unfinished" if manifest else "no"
            raise GestaError(f"{self.root} holds {state} Marionette set; run: gesta data make marionette {self.root}")
        if manifest.get("layout"):
            raise GestaError(f"{self.root} is laid out as {manifest['layout']}; read it as that data set")
        if depth and not manifest.get("depth"):
            raise GestaError(
                f"{self.root} was made without depth; add it: gesta data make marionette {self.root} --depth"
            )
        files, seed = _Files(Path(self.root), family_of(manifest)), manifest["seed"]
        records = []
        for clip in clips_of(files.family, manifest["clips"], seed):
            if split_of(clip, self.held_out) != split:
                continue
            files_of_clip = files_of_modality(self.modality, str(files.video(clip)), str(files.depth(clip)), depth)
            if clip.action:
                records.append(Record(**files_of_clip, name=files.name(clip), label=clip.action - 1))
                continue
            for number, task in enumerate(segments(clip, seed)):
                label = {"verb": VERBS.index(task.verb), "noun": NOUNS.index(task.noun)}
                name = f"{clip}_{number}"
                records.append(Record(**files_of_clip, name=name, label=label, start=task.start, end=task.end))
        return records

    def classes(self) -> ClassNames:
        """The actions of the family that was made in the folder (of the coarse one if none was); verbs and nouns."""
        return _classes(family_of(read_manifest(Path(self.root)) or {}))

    def attributes(self) -> dict[str, list[str]]:
        """Of dives: takeoff, somersault, twist and position, as :meth:`gesta.datasets.diving48.Diving48.attributes`.

        Of handled things: which two classes are each other played backwards, and which of the two it is; what does not
        see the order of frames has 50 % of the latter right.
        """
        family = family_of(read_manifest(Path(self.root)) or {})
        if family == "fine":
            values = zip(*(name.split("_") for name in FAMILIES[family]))
            return dict(zip(ATTRIBUTES, map(list, values)))
        if family == "objects":
            pairs = {name: (pair[0], ORDERS[pair.index(name)]) for pair in TWINS[family] for name in pair}
            twins, order = zip(*(pairs[name] for name in FAMILIES[family]))
            return {"twins": list(twins), "order": list(order)}
        return {}


def family_of(manifest: dict[str, Any]) -> str:
    """The family that a manifest names."""
    family = manifest.get("family", "coarse")
    if family not in FAMILIES:
        raise GestaError(f"this Marionette set shows the family {family!r}, which this version of gesta does not know")
    return str(family)


def _classes(family: str) -> ClassNames:
    return {"verb": list(VERBS), "noun": list(NOUNS)} if family == "kitchen" else list(FAMILIES[family])


@dataclass(frozen=True, slots=True)
class _Files:
    """Where the clips of a family lie below the root."""

    root: Path
    family: str

    def name(self, clip: Clip) -> str:
        return f"{list(FAMILIES[self.family])[clip.action - 1] if clip.action else self.family}/{clip}.mp4"

    def video(self, clip: Clip) -> Path:
        return self.root / "videos" / self.name(clip)

    def depth(self, clip: Clip) -> Path:
        return self.root / "depth" / self.name(clip).removesuffix(".mp4")


def split_of(clip: Clip, held_out: HeldOut = "both") -> SplitName:
    """The split of a clip that :func:`plan` gives."""
    if held_out == "both":
        groups = {subject: split for split, (subjects, _) in _CAST.items() for subject in subjects}
        return groups[clip.subject]
    table, number = (_SUBJECTS, clip.subject) if held_out == "subjects" else (_CAMERAS, clip.camera)
    return next((split for split, numbers in table.items() if number in numbers), "train")


# --- making it -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MakeSummary:
    """What :func:`make` did: clips (of long videos: actions) in the set, how many videos were made now, seconds, and
    split sizes per ``held_out``."""

    root: str
    clips: int
    made: int
    seconds: float
    size: int
    classes: ClassNames
    splits: dict[str, dict[str, int]]

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return asdict(self)

    def __str__(self) -> str:
        if isinstance(self.classes, dict):
            counts = " and ".join(f"{len(names)} {space}s" for space, names in self.classes.items())
            what, made = f"{self.clips} actions of {counts}", f"{self.made} long video{'s' * (self.made != 1)} made"
        else:
            what, made = f"{self.clips} clips of {len(self.classes)} actions", f"{self.made} made"
        lines = [f"{self.root}: {what}, {made} in {self.seconds:.0f} s"]
        for held_out, sizes in self.splits.items():
            counts = ", ".join(f"{split} {count}" for split, count in sizes.items())
            lines.append(f"  held out {held_out + ':':10} {counts}")
        return "\n".join(lines)


def make(
    out: str | os.PathLike[str],
    clips: int = 400,
    seed: int = 0,
    workers: int | None = None,
    size: int = 128,
    depth: bool = False,
    family: Family = "coarse",
    lighting: Lighting = "even",
) -> MakeSummary:
    """Make one family of actions, performed by 14 subjects and seen from 8 camera positions.

    Clips that are there already are kept, so a stopped run continues and a set grows. Files appear complete or not at
    all.

    Args:
        out: folder; new, empty, or a Marionette set of the same family, lighting, seed and size.
        clips: number of clips; a set that has more keeps them. Of the kitchen it is the number of actions, rounded up
            to whole videos of :data:`~gesta.marionette.motions.kitchen.SEGMENTS`.
        seed: of everything random; frames depend on it and on the clip's name alone.
        workers: processes; by default one per processor.
        size: height and width of the pictures in pixels, even.
        depth: also write each clip's depth maps; a set that has them keeps getting them when it grows.
        family: ``coarse``: 12 actions of the whole body; ``fine``: 16 dives; ``objects``: 14 ways to handle things;
            ``kitchen``: 7 verbs and 5 nouns; see :mod:`gesta.marionette.motions`.
        lighting: ``varied`` gives every clip a light of its own, dim, coloured, flickering or switched, and depth the
            noise and holes of a sensor; see :mod:`gesta.marionette.lighting`.

    Raises:
        GestaError: a folder with other things in it, other settings than those the folder was made with, impossible
            arguments, or a file that cannot be written.
    """
    begin = time.monotonic()
    root = Path(out)
    if clips < 1 or seed < 0 or size < 32 or size % 2 or (workers is not None and workers < 1):
        raise GestaError(
            f"cannot make {clips} clips of {size} pixels with seed {seed} and {workers} workers; give at least one "
            "clip and worker, an even size of 32 or more and a seed of 0 or more"
        )
    if family not in FAMILIES:
        raise GestaError(f"there is no family {family!r}{suggest(family, FAMILIES)} (known: {', '.join(FAMILIES)})")
    if lighting not in get_args(Lighting):
        raise GestaError(
            f"lighting cannot be {lighting!r}{suggest(lighting, get_args(Lighting))} "
            f"(possible: {', '.join(get_args(Lighting))})"
        )
    settings = _settings(family, lighting, seed, size)
    before = _prepare(root, settings)
    clips, depth = max(clips, before["clips"]), depth or bool(before.get("depth"))
    clips = -(-clips // SEGMENTS) * SEGMENTS if family == "kitchen" else clips
    for part in root.glob("videos/*/.*.part"):
        part.unlink(missing_ok=True)
    for part in root.glob("depth/*/.*.part"):
        shutil.rmtree(part, ignore_errors=True)
    places = _Files(root, family)
    files = {
        clip: (places.video(clip), places.depth(clip) if depth else None) for clip in clips_of(family, clips, seed)
    }
    missing = {clip: paths for clip, paths in files.items() if not all(p.exists() for p in paths if p)}
    jobs = [(clip, seed, size, *paths, family, lighting) for clip, paths in missing.items()]
    for _ in track(in_processes(shoot, jobs, workers), f"making {root}", total=len(missing)):
        pass
    if family == "kitchen":
        write_text(root / "segments.csv", _segment_list(list(files), seed))
    write_json(root / MANIFEST, settings | {"clips": clips} | ({"depth": True} if depth else {}))
    splits = {
        held_out: {split: 0 for split in get_args(SplitName)}
        | Counter(split_of(clip, held_out) for clip in files for _ in range(1 if clip.action else SEGMENTS))
        for held_out in get_args(HeldOut)
    }
    seconds = round(time.monotonic() - begin, 1)
    return MakeSummary(str(root), clips, len(missing), seconds, size, _classes(family), splits)


def _settings(family: str, lighting: str, seed: int, size: int) -> dict[str, Any]:
    settings: dict[str, Any] = {"family": family, "version": VERSION, "seed": seed, "size": size}
    return settings | ({"lighting": lighting} if lighting != "even" else {})


def _segment_list(clips: list[Clip], seed: int) -> str:
    """Which frames (from 0, the last excluded) of which video show which verb and noun."""
    lines = ["segment,video,start_frame,end_frame,verb,noun"]
    for clip in clips:
        lines += [f"{clip}_{n},{clip},{','.join(map(str, task))}" for n, task in enumerate(segments(clip, seed))]
    return "".join(f"{line}\n" for line in lines)


def _prepare(root: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """Make the folder ours; what an earlier run finished in it: ``clips``, and ``depth`` if it wrote that."""
    manifest = read_manifest(root)
    if manifest is None:
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise GestaError(f"{root} is not empty and holds no Marionette set; choose a new folder")
        manifest = wanted | {"clips": 0}
        write_json(root / MANIFEST, manifest)
        classes = _classes(wanted["family"])
        for space, names in by_space(classes).items():
            write_text(root / labels_file(space), "".join(f"{name}\n" for name in names))
    usual = {"lighting": "even", "layout": None}
    for key, value in (wanted | {key: wanted.get(key, value) for key, value in usual.items()}).items():
        if (was := manifest.get(key, usual.get(key))) != value:
            raise GestaError(f"{root} was made with {key} {was}, not {value}; choose another folder or delete this one")
    return manifest
