"""Kinetics-400: 400 classes of actions, about 240 000 training and 20 000 validation clips of 10 s from YouTube.

Source: Kay et al., "The Kinetics Human Action Video Dataset", 2017.

Protocol: official lists (``label,youtube_id,time_start,time_end,split``); accuracies are of the validation list. Clips
have vanished from YouTube since the lists were made, so a result says on how many of the 19 906 validation clips it
rests. A list of the test split may be there, without labels.

Classes: in alphabetical order, or in that of a file for weights that number them in another way.

Layout on disk: a clip is known by its name, ``<id>_<start>_<end>`` or the bare id of reduced copies, wherever it lies
up to three folders below the root: in folders of classes however spelt, or all in one folder; as a video of any
suffix, or as a folder of frames. One in a folder ``replacement…`` (of the mirrors, for their broken files) is
preferred. Folders named after another split are not looked into.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection

from gesta.config import config
from gesta.data.listfile import label_number, read_rows
from gesta.data.lists import read_class_names
from gesta.data.locate import check_root, entries_below, find_list
from gesta.errors import GestaError
from gesta.records import DataConfig, Record, SplitName
from gesta.video.find import VIDEOS

LISTS: dict[SplitName, tuple[str, ...]] = {
    "train": ("kinetics-400_train.csv", "train.csv"),
    "val": ("kinetics-400_val.csv", "val.csv", "validate.csv"),
    "test": ("kinetics-400_test.csv", "test.csv"),
}
"""Names of the official lists at the sources that hand them out."""

MAX_DEPTH = 3
"""Folders between the root and a clip: ``k400/val/class/clip.mp4``."""

_SPLIT = re.compile(r"(?:.*[_-])?(train|val|test)(?:idate|idation)?(?:[_-].*|\d*)", re.IGNORECASE)
_CLIP = re.compile(r".{11}_\d{6}_\d{6}")


@config
class Kinetics400(DataConfig):
    """Kinetics-400 by its official lists.

    Attributes:
        root: folder of the clips.
        annotations: folder of the lists; by default the root, its folder ``annotations``, or the same beside it.
        class_names: file of class names in label order, for weights that number them in another way.
    """

    root: str = "data/kinetics400"
    annotations: str = ""
    class_names: str = ""

    def records(self, split: SplitName) -> list[Record]:
        """The clips of a list in its order. Without a list of the test split, which has no labels, there are none."""
        check_root(self.root)
        rows = self._rows(split, required=split != "test")
        labels = {name: label for label, name in enumerate(self.classes())}
        paths = _find(self.root, split, {name for row in rows for name in (row[1], row[1][:11])})
        records = []
        for label, clip in rows:
            name = os.path.join(label, f"{clip}.mp4")
            path = paths.get(clip) or paths.get(clip[:11]) or os.path.join(self.root, name)
            records.append(Record(path=path, name=name, label=label_number(labels, label, clip) if label else None))
        return records

    def classes(self) -> list[str]:
        """The names in alphabetical order, or those of ``class_names`` in theirs."""
        if self.class_names:
            return read_class_names(self.class_names)
        rows = [*self._rows("train", required=False), *self._rows("val", required=False)]
        if not rows:
            find_list(self.annotations, self.root, LISTS["train"])
        return sorted({label for label, _ in rows})

    def _rows(self, split: SplitName, required: bool) -> list[tuple[str, str]]:
        """Class name (empty if unknown) and clip name of every line."""
        path = find_list(self.annotations, self.root, LISTS[split], required)
        if not path:
            return []
        rows = []
        for row in read_rows(path):
            try:
                start, end = (round(float(row[name])) for name in ("time_start", "time_end"))
                label = row.get("label") or ""
                if not re.fullmatch(r"[\w-]{11}", row["youtube_id"]) or not (label or split == "test"):
                    raise ValueError
            except (KeyError, TypeError, ValueError):
                raise GestaError(
                    f"{path}: {','.join(map(str, row.values()))!r} is not a line of an official list "
                    "(label,youtube_id,time_start,time_end,split); other lists are read with --data lists"
                ) from None
            rows.append((label, f"{row['youtube_id']}_{start:06d}_{end:06d}"))
        return rows


def _find(root: str, split: SplitName, names: Collection[str]) -> dict[str, str]:
    """Clip name → path of those of the named clips that are on the disk, a replacement rather than its original."""

    def descend(folder: str) -> bool:
        of_split = _SPLIT.fullmatch(folder)
        is_clip = folder in names or _CLIP.fullmatch(folder)
        return not is_clip and (of_split is None or of_split[1].lower() == split)

    best: dict[str, tuple[bool, bool, str]] = {}
    root = root.rstrip(os.sep) or root
    for folder, entry, is_folder in entries_below(root, MAX_DEPTH, descend):
        stem, suffix = (entry.name, "") if is_folder else os.path.splitext(entry.name)
        if stem in names and (is_folder or suffix.lower() in VIDEOS):
            rank = ("replacement" not in folder.removeprefix(root), is_folder, entry.path)
            best[stem] = min(best.get(stem, rank), rank)
    return {stem: path for stem, (_, _, path) in best.items()}
