"""IsoGD (ChaLearn LAP): 249 classes of gestures as pairs of an RGB and a depth video.

Source: Wan et al., "ChaLearn Looking at People RGB-D Isolated and Continuous Datasets for Gesture Recognition", CVPR
Workshops 2016.

Protocol: official lists of 35 878 training, 5784 validation and 6271 test pairs, subjects kept apart. Videos have 8 to
10 frames per second and 2 to 405 frames: sample clips uniformly. Depth is 8-bit grey, near dark and far bright, scaled
per recording and not in millimetres; its stored luma is read as it is.

Classes: gestures have no names, only numbers from 1 on, and distinguish hands: do not mirror.

Layout on disk: ``train/001/M_00001.avi`` (RGB) and ``K_00001.avi`` (depth), with other suffixes or as folders of
frames, in the root or in its subfolders IsoGD_phase_1 and IsoGD_phase_2, or as ``train_image/RGB/M_00001/`` and
``train_image/Depth/K_00001/`` in the root or its subfolder IsoGD_Image.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from gesta.config import config, unless
from gesta.data.listfile import read_lines
from gesta.data.locate import VideoFinder, check_root, find_list
from gesta.errors import GestaError
from gesta.records import DataConfig, Record, SplitName, files_of_modality
from gesta.video.depth import Encoding
from gesta.video.modality import RGBD, depth_settings, modalities_of

CLASSES = 249
LISTS: dict[SplitName, str] = {"train": "train_list.txt", "val": "valid_list.txt", "test": "test_list.txt"}
FOLDERS = ("IsoGD_phase_1", "IsoGD_phase_2")

_LINE = re.compile(r"(?P<rgb>\S*M_\d{5}\.avi) (?P<depth>\S*K_\d{5}\.avi)(?: (?P<label>\d+))?")


@config
class IsoGD(DataConfig):
    """IsoGD by its official lists.

    A record is one of a pair's two videos, or both; its name is the pair's (``train/001/00001``) in either case, so
    that results can be fused.

    Attributes:
        root: folder of the videos.
        annotations: folder of ``train_list.txt``, ``valid_list.txt`` and ``test_list.txt``; by default the root, the
            phases' folders, ``annotations`` or ``labels``.
        modality: ``rgb``, ``depth`` or pairs of both, ``rgbd``.
        depth_encoding: how depth becomes three channels, see :class:`gesta.video.depth.Depth`.
        test_labels: list ``…/M_00001 frames label`` with labels from 0 on; the official test list has none.
    """

    root: str = "data/isogd"
    annotations: str = ""
    modality: RGBD = "rgb"
    depth_encoding: Encoding = "jet"
    test_labels: str = ""

    def unused(self) -> Iterator[tuple[str, str]]:
        yield from unless(self.modality != "rgb", "a modality with depth", "depth_encoding")

    def records(self, split: SplitName) -> list[Record]:
        """The pairs of a list in its order, as RGB or depth videos; unlabelled ones have the label None."""
        depth = depth_settings(self.modality, self.depth_encoding, (0, 1))
        check_root(self.root)
        # the splits count from 1 each, so a bare file name says nothing
        finder = VideoFinder([self.root, *(os.path.join(self.root, name) for name in (*FOLDERS, "IsoGD_Image"))])
        names = [LISTS[split], *(os.path.join(folder, LISTS[split]) for folder in FOLDERS)]
        labels = _read_test_labels(self.test_labels) if split == "test" and self.test_labels else None
        path = find_list(self.annotations, self.root, names, required=split == "train" or labels is not None)
        records = []
        for line in read_lines(path) if path else ():
            match = _LINE.fullmatch(line)
            label = int(match["label"] or 0) if match else 0  # 0 and none: not released
            if match is None or label > CLASSES or (split == "train" and not label):
                raise GestaError(f"{path}: {line!r} is not a line of the official list; get the lists again")
            number = match["rgb"][-9:-4]
            if labels is not None:
                if number not in labels:
                    raise GestaError(f"{self.test_labels}: has no line for {match['rgb']}; get the list again")
                label = labels[number] + 1
            folder = os.path.dirname(match["rgb"])
            part = folder.split("/")[0]
            paths = {kind: _path(finder, match[kind], part) for kind in modalities_of(self.modality)}
            files = files_of_modality(self.modality, paths.get("rgb", ""), paths.get("depth", ""), depth)
            records.append(Record(**files, name=f"{folder}/{number}", label=label - 1 if label else None))
        listed = {record.name.rpartition("/")[2] for record in records}
        if labels and (others := sorted(labels.keys() - listed)):  # every split counts from 1
            raise GestaError(
                f"{self.test_labels}: has a line for M_{others[0]}, which the test list does not have; give a list of "
                "the test split"
            )
        return records

    def classes(self) -> list[str]:
        """The gestures' numbers, from 1 on."""
        return [str(number) for number in range(1, CLASSES + 1)]


def _path(finder: VideoFinder, entry: str, split: str) -> str:
    """A video, or its folder of frames as the usual scripts extract them."""
    stem = os.path.splitext(os.path.basename(entry))[0]
    frames = f"{split}_image/{'RGB' if stem.startswith('M') else 'Depth'}/{stem}"
    return finder.find(entry) or finder.find(frames) or os.path.join(finder.bases[0], entry)


def _read_test_labels(path: str) -> dict[str, int]:
    """Number of the pair → label from 0 on."""
    labels = {}
    for line in read_lines(path):
        match = re.fullmatch(r".*[MK]_(\d{5})/? \d+ (\d+)", line)
        if match is None or int(match[2]) >= CLASSES:
            raise GestaError(f"{path}: {line!r} is not '…/M_00001 frames label' with a label from 0 on; correct it")
        labels[match[1]] = int(match[2])
    return labels
