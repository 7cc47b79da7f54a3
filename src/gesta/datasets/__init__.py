"""The data set catalogue: every data set by name, one file each for the public ones.

Every entry of an official list (of NTU RGB+D: every sample) is a record; one that is not on the disk fails when it is
read. ``records`` and ``classes`` of the public data sets raise a :class:`GestaError` where a folder or list is missing,
or a list is not the official one.
"""

from __future__ import annotations

import fnmatch
import importlib
from os import PathLike, fspath
from typing import TYPE_CHECKING

from gesta.config import suggest
from gesta.errors import GestaError
from gesta.records import DataConfig

if TYPE_CHECKING:  # for start-up time
    from gesta.data.lists import Folder, Folders, Kind

DATASETS = {
    "folder": "gesta.data.lists:Folder",
    "lists": "gesta.data.lists:Lists",
    "shards": "gesta.data.shards:Shards",
    "ucf101": "gesta.datasets.ucf101:UCF101",
    "hmdb51": "gesta.datasets.hmdb51:HMDB51",
    "kinetics400": "gesta.datasets.kinetics400:Kinetics400",
    "something_v1": "gesta.datasets.something:SomethingV1",
    "something_v2": "gesta.datasets.something:SomethingV2",
    "diving48": "gesta.datasets.diving48:Diving48",
    "epic_kitchens": "gesta.datasets.epic:EPICKitchens",
    "ntu": "gesta.datasets.ntu:NTU",
    "isogd": "gesta.datasets.isogd:IsoGD",
    "marionette": "gesta.marionette.dataset:Marionette",
    "marionette_joints": "gesta.marionette.joint_frames:MarionetteJoints",
}
"""The name that ``--data`` takes → where its class is; imported when asked for, because torch takes seconds."""


def list_datasets(pattern: str = "*") -> list[str]:
    """Names of all data sets, or of those that match a shell pattern such as ``"something_*"``."""
    return sorted(fnmatch.filter(DATASETS, pattern))


def folder(
    root: str | PathLike[str],
    *,
    val: float = 0.2,
    test: float = 0.0,
    seed: int = 0,
    folders: Folders = "auto",
    kind: Kind = "auto",
) -> Folder:
    """A folder of videos with a folder per class, see :class:`gesta.data.lists.Folder`.

    Args:
        root: the folder: ``root/class/video``, or ``root/train/class/video`` with ``val`` and ``test`` beside it.
        val, test: fractions of validation and of test videos, where no folders say it.
        seed: of the split.
        folders, kind: what the folders in the root are and which are videos, where both could be meant in two ways.
    """
    from gesta.data.lists import Folder

    return Folder(root=fspath(root), val=val, test=test, seed=seed, folders=folders, kind=kind)


def data_config(name: str) -> DataConfig:
    """A data set by its short name, with its default fields."""
    if name not in DATASETS:
        raise GestaError(f"there is no data set {name!r}{suggest(name, DATASETS)} (known: {', '.join(DATASETS)})")
    module, _, cls = DATASETS[name].partition(":")
    return getattr(importlib.import_module(module), cls)()
