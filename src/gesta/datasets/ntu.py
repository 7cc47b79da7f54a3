"""NTU RGB+D 60: 60 actions of daily life, seen by three cameras in RGB and in depth.

Source: Shahroudy et al., "NTU RGB+D: A Large Scale Dataset for 3D Human Activity Analysis", CVPR 2016.

Protocol: all 56 880 samples, split by subjects (40 320 training + 16 560 test) or cameras (37 920 + 18 960); no
validation split. There is no official list: a sample's name ``SsssCcccPpppRrrrAaaa`` (setup, camera, performer,
replication, action) says everything, and which names exist is known. Names are the same for both modalities, so that
results of both can be fused; their pictures come from different cameras and may differ in number.

Classes: in the order of their official numbers.

Layout on disk: a sample is found by its name up to three folders below the root: ``NAME_rgb.avi`` (any video suffix),
``NAME_rgb`` or ``NAME`` as a folder of frames; depth as a folder ``NAME`` of 16-bit images (``MDepth-00000001.png``),
masked ones (folders whose name holds "masked") before full ones, or as a video ``NAME_depth`` or ``NAME``. Where RGB
and depth lie below one root, the folder of depth has "depth" in its name, as it has when unpacked. Samples of NTU
RGB+D 120 in the same folder are not looked at.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection, Iterator
from itertools import product
from typing import Literal

from gesta.config import Count, NotNegative, Positive, check_choice, config, read_text, unless
from gesta.data.locate import check_root, entries_below
from gesta.errors import GestaError
from gesta.records import DataConfig, Record, RecordFiles, SplitName, files_of_modality
from gesta.video.depth import Encoding
from gesta.video.find import VIDEOS
from gesta.video.modality import RGBD, Modality, depth_settings, modalities_of

Protocol = Literal["cross_subject", "cross_view"]

PERFORMERS = {
    1: (1, 2, 3, 4, 5, 6, 7, 8),
    2: (3, 7, 8, 9, 10, 11, 12, 13, 14),
    3: (1, 2, 7, 8, 15, 16, 17, 18, 19),
    4: (3, 7, 8, 20),
    5: (4, 10, 13, 15, 16, 17, 18, 21),
    6: (1, 7, 8, 15, 16, 17, 19, 22, 23, 24),
    7: (1, 7, 8, 15, 16, 17, 18, 19, 25, 26, 27, 28),
    8: (1, 7, 8, 15, 19, 25, 29, 30, 31, 32, 33, 34, 35, 36),
    9: (7, 8, 15, 16, 17, 19, 25),
    10: (7, 8, 13, 15, 16, 17, 18, 19, 21, 25),
    11: (1, 2, 7, 8, 15, 16, 17, 18, 19, 25, 27, 28, 38),
    12: (7, 8, 15, 16, 17, 18, 19, 25, 27, 28, 37),
    13: (7, 8, 15, 16, 17, 18, 19, 25, 27, 28, 37),
    14: (7, 8, 15, 17, 19, 25, 27, 37, 39),
    15: (7, 8, 15, 16, 17, 19, 25, 37),
    16: (7, 8, 19, 21, 25, 39, 40),
    17: (3, 7, 8, 9, 15, 16, 17, 20),
}
"""Who performed in which setup; each of them did all 60 actions twice before all three cameras."""

TRAIN_SUBJECTS = frozenset((1, 2, 4, 5, 8, 9, 13, 14, 15, 16, 17, 18, 19, 25, 27, 28, 31, 34, 35, 38))
TRAIN_CAMERAS = frozenset((2, 3))

# as the official description of the data set writes them
CLASSES = """drink water; eat meal/snack; brushing teeth; brushing hair; drop; pickup; throw; sitting down;
standing up (from sitting position); clapping; reading; writing; tear up paper; wear jacket; take off jacket;
wear a shoe; take off a shoe; wear on glasses; take off glasses; put on a hat/cap; take off a hat/cap; cheer up;
hand waving; kicking something; reach into pocket; hopping (one foot jumping); jump up; make a phone call/answer phone;
playing with phone/tablet; typing on a keyboard; pointing to something with finger; taking a selfie;
check time (from watch); rub two hands together; nod head/bow; shake head; wipe face; salute; put the palms together;
cross hands in front (say stop); sneeze/cough; staggering; falling; touch head (headache);
touch chest (stomachache/heart pain); touch back (backache); touch neck (neckache); nausea or vomiting condition;
use a fan (with hand or paper)/feeling warm; punching/slapping other person; kicking other person;
pushing other person; pat on back of other person; point finger at the other person; hugging other person;
giving something to other person; touch other person's pocket; handshaking; walking towards each other;
walking apart from each other"""

MAX_DEPTH = 3
"""Folders between the root and a sample: ``nturgbd_depth_masked_s001/nturgb+d_depth_masked/NAME``."""

_NAME = re.compile(r"S\d{3}C\d{3}P\d{3}R\d{3}A\d{3}")


@config
class NTU(DataConfig):
    """NTU RGB+D 60 by its samples' names.

    Attributes:
        root: folder of the samples.
        split: ``cross_subject`` or ``cross_view``.
        modality: ``rgb``, ``depth`` or pairs of both, ``rgbd``.
        depth_encoding: how depth becomes three channels, see :class:`gesta.video.depth.Depth`.
        depth_range: millimetres that are shown as the darkest and the brightest level; ``jet_wrapped`` has none.
        person_crop: show, instead of whole frames, their part around the person that masked depth shows, see
            :mod:`gesta.data.person`. The folders of masked depth lie below the root, too, and have "masked" in their
            path; samples without one are shown whole.
        setups: only these, if not all of the 17 were downloaded; numbers are then not those of the protocol.
        leave_out: list of names to leave out, as the official one of samples with missing skeletons (302).
    """

    root: str = "data/ntu"
    split: Protocol = "cross_subject"
    modality: RGBD = "rgb"
    depth_encoding: Encoding = "jet"
    depth_range: tuple[NotNegative, Positive] = (500.0, 4500.0)
    person_crop: bool = False
    setups: tuple[Count, ...] = ()
    leave_out: str = ""

    def contradictions(self) -> Iterator[tuple[str, str]]:
        if self.depth_range[0] >= self.depth_range[1]:
            yield "depth_range", "which does not rise"

    def unused(self) -> Iterator[tuple[str, str]]:
        depth = self.modality != "rgb"
        yield from unless(depth, "a modality with depth", "depth_encoding")
        has_range = depth and self.depth_encoding != "jet_wrapped"
        yield from unless(has_range, "a modality with depth and an encoding other than jet_wrapped", "depth_range")

    def records(self, split: SplitName) -> list[Record]:
        """The samples of a split, sorted by name; there is none for validation."""
        depth = depth_settings(self.modality, self.depth_encoding, self.depth_range)
        check_choice("data.split", self.split, Protocol)
        if not set(self.setups) <= set(PERFORMERS):
            raise GestaError(f"data.setups {self.setups}: NTU RGB+D has the setups 1 to {max(PERFORMERS)}")
        check_root(self.root)
        left_out = set(_NAME.findall(read_text(self.leave_out))) if self.leave_out else set()
        if self.leave_out and not left_out:
            raise GestaError(f"{self.leave_out}: holds no name of a sample; give the official list")
        labels = {
            name: action - 1
            for setup in sorted(self.setups) or PERFORMERS
            for camera, performer, replication, action in product((1, 2, 3), PERFORMERS[setup], (1, 2), range(1, 61))
            if (name := f"S{setup:03}C{camera:03}P{performer:03}R{replication:03}A{action:03}") not in left_out
            and self._split_of(camera, performer) == split
        }
        root = self.root.rstrip(os.sep) or self.root  # so that what follows it begins with a separator
        paths = {stream: _find(root, labels, stream) for stream in modalities_of(self.modality)}
        on_disk = {name for names in paths.values() for name in names}
        masks = _masks(root, labels, on_disk) if self.person_crop else {}

        def files(name: str) -> RecordFiles:
            rgb, depth_maps = (
                paths.get(stream, {}).get(name, os.path.join(self.root, name)) for stream in ("rgb", "depth")
            )
            return files_of_modality(self.modality, rgb, depth_maps, depth, masks.get(name, ""))

        return [Record(**files(name), name=name, label=label) for name, label in labels.items()]

    def classes(self) -> list[str]:
        """The 60 names in the order of their numbers."""
        return [name.replace("\n", " ").strip() for name in CLASSES.split(";")]

    def _split_of(self, camera: int, performer: int) -> SplitName:
        if self.split == "cross_view":
            return "train" if camera in TRAIN_CAMERAS else "test"
        return "train" if performer in TRAIN_SUBJECTS else "test"


def _masks(root: str, names: Collection[str], on_disk: Collection[str]) -> dict[str, str]:
    """Name → folder of masked depth; prints once for each root how many of the samples on the disk have none."""
    masks = {
        name: path
        for name, path in _find(root, names, "depth").items()
        if "masked" in path.removeprefix(root).lower() and os.path.isdir(path)
    }
    missing = sum(name not in masks for name in on_disk)
    if missing and root not in _warned_of:
        _warned_of.add(root)
        print(
            f"{root}: {missing} of {len(on_disk)} samples have no folder of masked depth below it and are shown whole, "
            "not cropped to the person; unpack masked depth there, or set --data.person-crop False",
            file=sys.stderr,
        )
    return masks


_warned_of: set[str] = set()
"""Roots whose missing masks have been printed."""


def _find(root: str, names: Collection[str], modality: Modality) -> dict[str, str]:
    """Name → path of those of the named samples that are on the disk."""
    best: dict[str, tuple[tuple[bool, ...], str]] = {}
    for folder, entry, is_folder in entries_below(root, MAX_DEPTH, lambda name: _NAME.match(name) is None):
        match = _NAME.match(entry.name)
        if match is None or match[0] not in names:
            continue
        stem, suffix = (entry.name, "") if is_folder else os.path.splitext(entry.name)
        ending = stem[match.end() :].lower()
        if ending not in ("", f"_{modality}") or not (is_folder or suffix.lower() in VIDEOS):
            continue
        folder_name = folder.removeprefix(root).lower()
        if modality == "rgb" and not ending and "depth" in folder_name:
            continue
        # first what names its modality, then masked depth, then videos
        explicit = ending != "" or (modality == "depth") == ("depth" in folder_name)
        rank = ((not explicit, modality == "depth" and "masked" not in folder_name, is_folder), entry.path)
        best[match[0]] = min(best.get(match[0], rank), rank)
    return {name: path for name, (_, path) in best.items()}
