"""Labelled videos of one's own: a folder per class, or list files."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from gesta.config import config
from gesta.data.listfile import ListEntry, finder_for_list, label_of, read_entries, read_text, to_records
from gesta.data.locate import VideoFinder, fractions_to_split_off, hold_out, split_by_class
from gesta.errors import GestaError
from gesta.records import DataConfig, Record, SplitName
from gesta.video.find import find_videos, is_folder
from gesta.video.images import image_files

SPLIT_FOLDERS: dict[SplitName, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
"""Names that folders of splits have; a root with one for training is read as ``root/split/class/video``."""


@config
class Folder(DataConfig):
    """A folder per class: ``root/class/video``, or ``root/train/class/video`` with ``val`` and ``test`` beside it.

    A video is a file or a folder of frames, at any depth below its class. Classes are the sorted folder names. What
    the folders do not split is split class by class, by a hash of the videos' names
    (:func:`gesta.data.locate.split_by_hash`).

    Attributes:
        root: the folder.
        val: fraction of validation videos, where there is no folder of them.
        test: fraction of test videos, where there is no folder of them.
        seed: of the split.
    """

    root: str = ""
    val: float = 0.2
    test: float = 0.0
    seed: int = 0

    def records(self, split: SplitName) -> list[Record]:
        """All videos of a split, class by class, sorted by path.

        Raises:
            GestaError: no such folder, a class without videos, or videos that are not in the folder of a class.
        """
        folders = self.split_folders()
        classes = self.classes()
        if split != "train" and split in folders:
            extra = sorted(set(_subfolders(folders[split])) - set(classes))
            if extra:
                raise GestaError(
                    f"{os.path.join(folders[split], extra[0])}: no training folder has the name {extra[0]!r}"
                )
            return [
                record
                for label, name in enumerate(classes)
                if os.path.isdir(os.path.join(folders[split], name))
                for record in self._videos(folders[split], name, label)
            ]
        training = []
        for label, name in enumerate(classes):
            records = self._videos(folders["train"], name, label)
            if not records:
                raise GestaError(
                    f"{os.path.join(folders['train'], name)}: holds no video that is known by its suffix; "
                    "put the videos of this class there, or remove the folder"
                )
            training += records
        val, test = fractions_to_split_off(folders, self.val, self.test)
        splits = split_by_class(training, val, test, self.seed)
        return [record for record, part in zip(training, splits) if part == split]

    def classes(self) -> list[str]:
        """Sorted names of the class folders."""
        train = self.split_folders()["train"]
        names = _subfolders(train)
        if not names:
            raise GestaError(f"{train}: holds no folders; put the videos of each class into a folder of its name")
        return names

    def split_folders(self) -> dict[SplitName, str]:
        """Where the class folders of each split are; a split that is not named here is cut from the training folder."""
        if not self.root:
            raise GestaError("which videos? give the folder that holds a folder per class: --data.root DIR")
        if not os.path.isdir(self.root):
            raise GestaError(f"{self.root}: is not a folder; give one that holds a folder per class (--data.root DIR)")
        if not 0 <= self.val + self.test < 1 or min(self.val, self.test) < 0:
            raise GestaError(
                f"data.val {self.val} and data.test {self.test} are fractions of the videos, together below 1"
            )
        folders: dict[SplitName, str] = {}
        for name in _subfolders(self.root):
            for split, names in SPLIT_FOLDERS.items():
                if name.lower() in names:
                    folders.setdefault(split, os.path.join(self.root, name))
        return folders if "train" in folders else {"train": self.root}

    def _videos(self, folder: str, name: str, label: int) -> list[Record]:
        class_folder = os.path.join(folder, name)
        videos = find_videos(class_folder)
        if class_folder in videos:
            raise GestaError(
                f"{class_folder}: is one video as frames, not a class; use {self.root}/CLASS/{name}/ for its frames"
            )
        return [Record(path=v, name=Path(v).relative_to(self.root).as_posix(), label=label) for v in videos]


def _subfolders(folder: str) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if is_folder(entry) and not entry.name.startswith("."))


@config
class Lists(DataConfig):
    """List files, one per split; all formats of :func:`gesta.data.listfile.read_list`.

    Attributes:
        train: list of training videos.
        val: list of validation videos.
        test: list of test videos.
        root: folder that relative paths start from; else, and next, each list's own folder.
        class_names: file of class names in label order; without it they are the names in the lists, or the numbers.
        columns: what the columns are (path, label, frames, start, end, last, offset, skip), where that is ambiguous.
        delimiter: between columns; worked out if not given.
        label_base: number of the first class.
        frame_base: number of the first frame in the columns start, end and last.
        label_from_folder: entries without a label have the name of their folder as label.
        val_fraction: fraction of the training list that is held out for validation if there is no list for it.
        seed: of this split.
    """

    train: str = ""
    val: str = ""
    test: str = ""
    root: str = ""
    class_names: str = ""
    columns: tuple[str, ...] = ()
    delimiter: str = ""
    label_base: int = 0
    frame_base: int = 0
    label_from_folder: bool = False
    val_fraction: float = 0.0
    seed: int = 0

    def records(self, split: SplitName) -> list[Record]:
        """The records of a list in its order; an empty list if there is none for the split."""
        fraction = 0.0 if self.val else self.val_fraction
        if not 0 <= fraction < 1:
            raise GestaError(f"data.val_fraction {fraction} is a fraction of the training videos, below 1")
        source = self.train if split == "val" and fraction else getattr(self, split)
        if not source:
            return []
        entries, finder = self._entries(source)
        records = to_records(source, entries, finder, self.classes() or None, self.label_base, self.label_from_folder)
        if fraction and split != "test":
            return hold_out(records, [record.path for record in records], fraction, self.seed, split)
        return records

    def classes(self) -> list[str]:
        """The file's names, else all names or numbers that the lists have; empty if nothing is labelled."""
        if self.class_names:
            return read_class_names(self.class_names)
        sources = [source for source in (self.train, self.val, self.test) if source]
        if not sources:
            raise GestaError("which videos? give a list of them: --data.train FILE, and --data.val, --data.test")
        labels = {label_of(e, self.label_from_folder) for source in sources for e in self._entries(source)[0]} - {None}
        numbers = [label for label in labels if isinstance(label, int)]
        if numbers:  # a mixture of numbers and names is refused where the list is read
            return [str(number) for number in range(self.label_base, max(numbers) + 1)]
        return sorted(str(label) for label in labels)

    def _entries(self, source: str) -> tuple[list[ListEntry], VideoFinder]:
        finder = finder_for_list(source, self.root)
        return read_entries(source, finder, self.columns, self.delimiter, self.frame_base), finder


def read_class_names(path: str) -> list[str]:
    """Class names in label order: one per line, ``1 Name``, ``0,Name`` or ``Name,0``, or JSON.

    Raises:
        GestaError: numbers with holes, a name twice.
    """
    text = read_text(path)
    numbered: list[tuple[int, str]] = []
    if path.lower().endswith(".json"):
        try:
            value = json.loads(text)
            numbered = [(int(i), n) for n, i in value.items()] if isinstance(value, dict) else list(enumerate(value))
        except (ValueError, TypeError) as error:
            raise GestaError(f"{path}: cannot be read as class names ({error})") from None
    else:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if len(lines) > 1 and re.fullmatch(
            r"(id|index|label|name|class)([\s,;]+(id|index|label|name|class))?", lines[0], re.I
        ):
            lines = lines[1:]
        front = [re.fullmatch(r"(\d+)[\s,;]+(\S.*)", line) for line in lines]
        back = [re.fullmatch(r"(.*\S)[\t,;]\s*(\d+)", line) for line in lines]
        if all(front):
            numbered = [(int(match[1]), match[2].strip('"')) for match in front if match]
        elif all(back):
            numbered = [(int(match[2]), match[1].strip('"')) for match in back if match]
        else:
            numbered = list(enumerate(lines))
    numbered.sort(key=lambda pair: pair[0])
    names = [str(name) for _, name in numbered]
    if not names or [i for i, _ in numbered] != list(range(numbered[0][0], numbered[0][0] + len(names))):
        raise GestaError(f"{path}: is empty or has holes in its numbers; give one class name per line")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise GestaError(f"{path}: the class {twice!r} occurs twice")
    return names


def write_lists(
    root: str, *, val: float = 0.2, test: float = 0.0, seed: int = 0, by_folder: bool = False
) -> dict[str, int]:
    """Write ``train.txt``, ``val.txt`` and ``test.txt`` of a folder with a folder per class, and ``classes.txt``.

    A line is ``path label``, or ``path frames label`` for a folder of frames, as MMAction2 has them. Splits that have a
    folder stay what they are; the rest is split as :class:`Folder` does it.

    Args:
        root: the folder; the lists are written into it, with paths relative to it.
        val: fraction of validation videos, where there is no folder of them.
        test: fraction of test videos, where there is no folder of them.
        seed: of the split.
        by_folder: keep videos of one sub-folder of a class (a recording, a person) on one side, so that no video is
            tested whose sister was trained on.

    Returns:
        number of videos by name of the list; empty splits get none.

    Raises:
        GestaError: no folder per class, or a name that a list cannot hold.
    """
    data = Folder(root=root, val=val, test=test, seed=seed)
    splits = _split_by_folder(data) if by_folder else {split: data.records(split) for split in SPLIT_FOLDERS}
    counts = {}
    for split, records in splits.items():
        path = os.path.join(root, f"{split}.txt")
        if not records:
            continue
        lines = []
        for record in records:
            if "\n" in record.name:
                raise GestaError(f"{record.path}: its name holds a line break, so no list can name it; rename it")
            count = f" {len(image_files(record.path))}" if os.path.isdir(record.path) else ""
            lines.append(f"{record.name}{count} {record.label}\n")
        with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.writelines(lines)
        counts[os.path.basename(path)] = len(records)
    with open(os.path.join(root, "classes.txt"), "w", encoding="utf-8", errors="surrogateescape") as file:
        file.writelines(f"{name}\n" for name in data.classes())
    return counts


def _split_by_folder(data: Folder) -> dict[SplitName, list[Record]]:
    """The records of each split, where videos of one sub-folder of a class stay together."""
    folders = data.split_folders()
    splits: dict[SplitName, list[Record]] = {split: [] for split in SPLIT_FOLDERS}
    together = []  # what no folder of its own gives to a split
    for split in SPLIT_FOLDERS:
        if split in folders and split != "train":
            splits[split] = data.records(split)
        else:
            together += data.records(split)
    together.sort(key=lambda record: (record.label, record.path))
    names = [os.path.relpath(record.path, folders["train"]) for record in together]
    groups = [name if name.count(os.sep) < 2 else os.path.dirname(name) for name in names]
    val, test = fractions_to_split_off(folders, data.val, data.test)
    for record, split in zip(together, split_by_class(together, val, test, data.seed, groups)):
        splits[split].append(record)
    return splits
