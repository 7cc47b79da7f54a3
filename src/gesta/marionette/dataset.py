"""Marionette, the synthetic data set: an articulated puppet performs actions, seen by moving cameras.

::

    <root>/marionette.json                              how it was made
    <root>/labels.txt                                   class names in label order
    <root>/videos/<action>/A03_S05_C02_R01.mp4          action, subject, camera, take; all count from 1
    <root>/depth/<action>/A03_S05_C02_R01/Depth-00000001.png, …      on request: 16 bits, millimetres
    <root>/flow/<action>/A03_S05_C02_R01/flow_x_00001.png, …         on request: see gesta/video/flow.py

A set shows one family of actions: *coarse* ones of the whole body; *objects* that are handled, where classes differ in
direction and order; *fine* ones, dives that differ in counts; or the *kitchen*, verbs done to nouns, many to a video::

    <root>/verb.txt, <root>/noun.txt, <root>/segments.csv            instead of labels.txt
    <root>/videos/kitchen/A00_S05_C02_R01.mp4

Which clips there are follows from their number and the seed alone, and the first n clips of a larger set are the set of
n clips, so a set can be made larger later. Frames are described in :mod:`gesta.marionette.filming`.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from gesta.config import NotNegative, Positive, check_choice, config, suggest, unless
from gesta.errors import GestaError
from gesta.files import lock_folder, remove_parts, write_text
from gesta.marionette.displacement import JOLT, CameraAim
from gesta.marionette.files import (
    MANIFEST,
    VERSION,
    open_folder,
    read_manifest,
    run_in_processes,
    write_json,
)
from gesta.marionette.filming import ClipName, make_clip, segments
from gesta.marionette.lighting import Lighting
from gesta.marionette.motions import FAMILIES, REVERSED_PAIRS
from gesta.marionette.motions.fine import ATTRIBUTES
from gesta.marionette.motions.kitchen import ACTIONS_PER_VIDEO, NOUNS, VERBS
from gesta.progress import track
from gesta.records import (
    ClassNames,
    DataConfig,
    Record,
    SplitName,
    by_space,
    class_lines,
    files_of_modality,
    labels_file,
)
from gesta.video.depth import Encoding
from gesta.video.modality import Modalities, depth_settings, modalities_of

Family = Literal["coarse", "fine", "objects", "kitchen"]
HeldOut = Literal["both", "subjects", "cameras"]

ORDERS = ("forwards", "backwards")
"""Of two classes that are each other played backwards, the first and the second."""

# Subjects and cameras of each split: no two splits share any. The cameras of test and validation stand between those of
# training.
_SPLIT_GROUPS: dict[SplitName, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "train": ((1, 2, 3, 4, 5, 6, 7, 8), (1, 3, 6, 8)),
    "val": ((9, 10), (4,)),
    "test": ((11, 12, 13, 14), (2, 5, 7)),
}
# To hold out only subjects (cameras), clips of all three groups are divided by these subjects (cameras): every camera
# (subject) of the test is then known from training.
_HELD_OUT_SUBJECTS: dict[SplitName, tuple[int, ...]] = {"val": (6, 10), "test": (7, 8, 13, 14)}
_HELD_OUT_CAMERAS: dict[SplitName, tuple[int, ...]] = {"val": (5,), "test": (3, 7)}

# Of 20 clips of a class 13 are for training, 2 for validation and 5 for testing; by position in the class.
_SPLIT_BY_TURN: dict[int, SplitName] = {1: "test", 5: "test", 9: "test", 13: "test", 17: "test", 2: "val", 12: "val"}


def plan_clips(clips: int, seed: int = 0, actions: int = len(FAMILIES["coarse"])) -> list[ClipName]:
    """The clips of a set, balanced over classes; within a class subjects and cameras alternate."""
    return [_clip(number, seed, actions) for number in range(clips)]


def family_clips(family: str, clips: int, seed: int) -> list[ClipName]:
    """The clips of a family's set; of the kitchen its long videos, as many as show so many actions, as action 0."""
    if family != "kitchen":
        return plan_clips(clips, seed, len(FAMILIES[family]))
    return [clip._replace(action=0) for clip in plan_clips(-(-clips // ACTIONS_PER_VIDEO), seed, 1)]


def _clip(number: int, seed: int, actions: int) -> ClipName:
    index_in_class, action = divmod(number, actions)
    group = _SPLIT_BY_TURN.get(index_in_class % 20, "train")
    earlier = sum(_SPLIT_BY_TURN.get(i % 20, "train") == group for i in range(index_in_class))
    subjects, cameras = _SPLIT_GROUPS[group]
    order = np.random.default_rng([seed, 0, action, len(subjects)]).permutation(subjects)
    # all subjects once, then again with the cameras shifted, until every subject was seen by every camera
    pass_number, position = divmod(earlier, len(subjects))
    take, camera_shift = divmod(pass_number, len(cameras))
    camera = cameras[(position + action + camera_shift) % len(cameras)]
    return ClipName(action + 1, int(order[position]), camera, take + 1)


@config
class Marionette(DataConfig):
    """Clips made by ``gesta data make marionette ROOT``.

    Attributes:
        root: their folder.
        held_out: what is new in testing and validation: ``both`` (new subjects before new cameras), ``subjects``
            (cameras are known from training) or ``cameras`` (subjects are known). All clips are used in each.
        family: the family that the folder has to hold; ``any`` takes what it holds.
        modality: ``rgb``, ``depth``, ``flow``, or several of them, such as ``rgbd`` and ``rgbd+flow`` (of sets made
            with ``--depth`` and ``--flow``). Names are the same, so that results can be fused.
        depth_encoding: how depth becomes three channels, see :class:`gesta.video.depth.Depth`.
        depth_range: millimetres that are shown as the darkest and the brightest level.
    """

    root: str = "data/marionette"
    held_out: HeldOut = "both"
    family: Family | Literal["any"] = "any"
    modality: Modalities = "rgb"
    depth_encoding: Encoding = "jet"
    depth_range: tuple[NotNegative, Positive] = (2500.0, 7500.0)

    def contradictions(self) -> Iterator[tuple[str, str]]:
        if self.depth_range[0] >= self.depth_range[1]:
            yield "depth_range", "which does not rise"

    def unused(self) -> Iterator[tuple[str, str]]:
        depth = "depth" in modalities_of(self.modality)
        yield from unless(depth, "a modality with depth", "depth_encoding")
        has_range = depth and self.depth_encoding != "jet_wrapped"
        yield from unless(has_range, "a modality with depth and an encoding other than jet_wrapped", "depth_range")

    def records(self, split: SplitName) -> list[Record]:
        """The split's clips.

        Raises:
            GestaError: the folder holds no finished Marionette set (or none with depth), or a field is misspelt.
        """
        depth = depth_settings(self.modality, self.depth_encoding, self.depth_range)
        check_choice("held_out", self.held_out, HeldOut)
        manifest, family = self.finished_set()
        for kind in modalities_of(self.modality):
            if kind != "rgb" and not manifest.get(kind):
                raise GestaError(
                    f"{self.root} was made without {kind}; add it: gesta data make marionette {self.root} --{kind}"
                )
        records, seed = [], manifest["seed"]
        for clip in family_clips(family, manifest["clips"], seed):
            if split_of(clip, self.held_out) != split:
                continue
            name, video, depth_maps, flow = clip_files(Path(self.root), family, clip)
            files = files_of_modality(self.modality, str(video), str(depth_maps), depth, flow=str(flow))
            if clip.action:
                records.append(Record(**files, name=name, label=clip.action - 1))
                continue
            for n, (start, end, verb, noun) in enumerate(segments(clip, seed)):
                label = {"verb": VERBS.index(verb), "noun": NOUNS.index(noun)}
                records.append(Record(**files, name=f"{clip}_{n}", label=label, start=start, end=end))
        return records

    def finished_set(self) -> tuple[dict[str, Any], str]:
        """The manifest of the folder and the family that it shows.

        Raises:
            GestaError: the folder holds no finished set, another family, or another layout.
        """
        manifest = read_manifest(Path(self.root))
        if not manifest or not manifest["clips"]:
            state = "an unfinished" if manifest else "no"
            family = f" --family {self.family}" if self.family != "any" else ""
            made = f"gesta data make marionette {self.root}{family}"
            raise GestaError(f"{self.root} holds {state} Marionette set; run: {made}")
        if manifest.get("layout"):
            raise GestaError(f"{self.root} is laid out as {manifest['layout']}; read it as that data set")
        family = family_of(manifest)
        if self.family not in (family, "any"):
            raise GestaError(f"{self.root} shows the family {family}, not {self.family}; choose another --data.root")
        return manifest, family

    def classes(self) -> ClassNames:
        """The actions of the folder's family (if there is none, of ``family`` or the coarse one); verbs and nouns."""
        none = {} if self.family == "any" else {"family": self.family}
        return _classes(family_of(read_manifest(Path(self.root)) or none))

    def attributes(self) -> dict[str, list[str]]:
        """Of dives: takeoff, somersault, twist and position, as :meth:`gesta.datasets.diving48.Diving48.attributes`.

        Of objects: which pair a class belongs to, whose two classes are each other played backwards, and which of the
        two it is; a model that ignores the order of frames has 50 % of the latter right.
        """
        family = family_of(read_manifest(Path(self.root)) or {})
        if family == "fine":
            values = zip(*(name.split("_") for name in FAMILIES[family]))
            return dict(zip(ATTRIBUTES, map(list, values)))
        if family == "objects":
            pairs = {name: pair for pair in REVERSED_PAIRS[family] for name in pair}
            orders = [ORDERS[pairs[name].index(name)] for name in FAMILIES[family]]
            return {"pair": [pairs[name][0] for name in FAMILIES[family]], "order": orders}
        return {}


def family_of(manifest: dict[str, Any]) -> str:
    """The family that a manifest names."""
    family = manifest.get("family", "coarse")
    if family not in FAMILIES:
        raise GestaError(f"this Marionette set shows the family {family!r}, which this version of gesta does not know")
    return str(family)


def _classes(family: str) -> ClassNames:
    return {"verb": list(VERBS), "noun": list(NOUNS)} if family == "kitchen" else list(FAMILIES[family])


def clip_files(root: Path, family: str, clip: ClipName) -> tuple[str, Path, Path, Path]:
    """The name of a clip's record, its video, and the folders of its depth maps and of its optical flow."""
    name = f"{list(FAMILIES[family])[clip.action - 1] if clip.action else family}/{clip}"
    return f"{name}.mp4", root / "videos" / f"{name}.mp4", root / "depth" / name, root / "flow" / name


def split_of(clip: ClipName, held_out: HeldOut = "both") -> SplitName:
    """The split of a clip that :func:`plan_clips` gives."""
    if held_out == "both":
        return next(split for split, (subjects, _) in _SPLIT_GROUPS.items() if clip.subject in subjects)
    table, number = (_HELD_OUT_SUBJECTS, clip.subject) if held_out == "subjects" else (_HELD_OUT_CAMERAS, clip.camera)
    return next((split for split, numbers in table.items() if number in numbers), "train")


# --- making it -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MakeSummary:
    """The result of :func:`make_set`."""

    root: str
    clips: int  # in the set; of the kitchen its actions
    made: int  # videos made now
    seconds: float
    size: int  # height and width of the pictures in pixels
    classes: ClassNames
    splits: dict[str, dict[str, int]]  # number of records by split, for each value of held_out

    to_json = asdict

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


def make_set(
    out: str | os.PathLike[str],
    clips: int = 400,
    seed: int = 0,
    workers: int | None = None,
    size: int = 128,
    depth: bool = False,
    family: Family = "coarse",
    lighting: Lighting = "even",
    aim: CameraAim = "centred",
    flow: bool = False,
) -> MakeSummary:
    """Make one family of actions, performed by 14 subjects and seen from 8 camera positions.

    Clips that were made before are kept: a second call continues a stopped one, or makes the set larger. Files appear
    under their names complete or not at all.

    Args:
        out: folder; new, empty, or a Marionette set of the same family, lighting, aim, seed and size.
        clips: number of clips; a set of more stays as it is. Of the kitchen it is the number of actions, rounded up
            to whole videos of :data:`~gesta.marionette.motions.kitchen.ACTIONS_PER_VIDEO`.
        seed: of everything random; frames depend on it and on the clip's name alone.
        workers: worker processes; by default one per CPU core.
        size: height and width of the pictures in pixels, even.
        depth: also write each clip's depth maps; a set that has them gets them for later clips, too.
        family: ``coarse``: 12 actions of the whole body; ``fine``: 16 dives; ``objects``: 14 ways to handle objects;
            ``kitchen``: 7 verbs and 5 nouns; see :mod:`gesta.marionette.motions`.
        lighting: ``varied`` draws a light for every clip, dim, coloured, flickering or switched, and gives depth the
            noise and holes of a sensor; see :mod:`gesta.marionette.lighting`.
        aim: of the cameras: at the puppet (``centred``), or ``displaced``, which shifts, zooms and rolls the picture of
            every clip, or ``jolted``, which shifts that of every frame by none or an eighth of its side;
            see :mod:`gesta.marionette.displacement`, and :func:`gesta.marionette.filming.displacement` for what was
            drawn.
        flow: also write each clip's optical flow, as :mod:`gesta.video.flow` computes it from the rendered frames; a
            set that has it gets it for later clips, too.

    Raises:
        GestaError: a folder with other files in it, other settings than those the folder was made with, impossible
            arguments, or a file that cannot be written.
    """
    begin = time.monotonic()
    root = Path(out)
    _check_arguments(clips, seed, workers, size, family, lighting, aim)
    settings: dict[str, Any] = {"family": family, "version": VERSION, "seed": seed, "size": size}
    settings |= {"lighting": lighting} if lighting != "even" else {}
    settings |= {"aim": aim} if aim != "centred" else {}
    with lock_folder(root):
        manifest, new = open_folder(root, settings)
        for space, names in by_space(_classes(family)).items() if new else ():
            write_text(root / labels_file(space), class_lines(names))
        clips, depth = max(clips, manifest["clips"]), depth or bool(manifest.get("depth"))
        flow = flow or bool(manifest.get("flow"))
        clips = -(-clips // ACTIONS_PER_VIDEO) * ACTIONS_PER_VIDEO if family == "kitchen" else clips
        remove_parts(root)
        planned, jobs = family_clips(family, clips, seed), []
        for clip in planned:
            _, video, depth_maps, flows = clip_files(root, family, clip)
            if not video.exists() or (depth and not depth_maps.exists()) or (flow and not flows.exists()):
                extra = depth_maps if depth else None, flows if flow else None
                jobs.append((clip, seed, size, video, *extra, family, lighting, aim))
        for _ in track(run_in_processes(make_clip, jobs, workers), f"making {root}", total=len(jobs)):
            pass
        if family == "kitchen":
            write_text(root / "segments.csv", _segment_list(planned, seed))
        kinds = {name: True for name, is_made in (("depth", depth), ("flow", flow)) if is_made}
        write_json(root / MANIFEST, settings | {"clips": clips} | kinds)
    splits = {
        held_out: {split: 0 for split in get_args(SplitName)}
        | Counter(split_of(clip, held_out) for clip in planned for _ in range(1 if clip.action else ACTIONS_PER_VIDEO))
        for held_out in get_args(HeldOut)
    }
    seconds = round(time.monotonic() - begin, 1)
    return MakeSummary(str(root), clips, len(jobs), seconds, size, _classes(family), splits)


def _check_arguments(
    clips: int, seed: int, workers: int | None, size: int, family: str, lighting: str, aim: str
) -> None:
    """Refuse numbers that are out of range and names that do not exist."""
    if clips < 1:
        raise GestaError(f"--clips {clips} is below 1; give how many videos to make")
    check_making(seed, workers, size)
    if family not in FAMILIES:
        raise GestaError(f"there is no family {family!r}{suggest(family, FAMILIES)} (known: {', '.join(FAMILIES)})")
    check_choice("lighting", lighting, Lighting)
    check_choice("aim", aim, CameraAim)
    if aim == "jolted" and size * JOLT % 1:
        raise GestaError(f"size {size}: jolted pictures would not move by whole pixels; give a multiple of 8")


def check_making(seed: int, workers: int | None, size: int) -> None:
    """Refuse numbers out of range that any set of puppets is made with.

    Raises:
        GestaError: names the one.
    """
    if seed < 0:
        raise GestaError(f"--seed {seed} is below 0; give a whole number from 0 on")
    if workers is not None and workers < 1:
        raise GestaError(f"--workers {workers} is below 1; give a number of processes, or leave it out")
    if size < 32 or size % 2:
        raise GestaError(f"size {size} is not an even number of pixels from 32 on; give one")


def _segment_list(clips: list[ClipName], seed: int) -> str:
    """Which frames (from 0, the last excluded) of which video show which verb and noun."""
    lines = ["segment,video,start_frame,end_frame,verb,noun"]
    for clip in clips:
        lines += [f"{clip}_{n},{clip},{','.join(map(str, segment))}" for n, segment in enumerate(segments(clip, seed))]
    return "".join(f"{line}\n" for line in lines)
