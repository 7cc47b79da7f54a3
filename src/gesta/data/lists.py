"""Videos of one's own: a folder per class, list files, or any folder of videos without labels."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from gesta.config import CountOrZero, Fraction, config, parse_json, read_text, unless
from gesta.data.listfile import (
    ListEntry,
    csv_errors,
    finder_for_list,
    label_of,
    parse_entries,
    read_entries,
    split_lines,
    to_records,
)
from gesta.data.locate import (
    VideoFinder,
    by_video,
    fractions_to_split_off,
    hold_out,
    same_stem,
    split_by_class,
    split_of,
    splits_in,
)
from gesta.errors import GestaError
from gesta.files import write_text
from gesta.records import (
    SPLITS,
    DataConfig,
    Record,
    SplitName,
    class_lines,
    class_name,
    files_of_modality,
    flow_folder,
)
from gesta.video.find import find_videos, is_video_name, list_folder, videos_below
from gesta.video.images import holds_frames, image_files
from gesta.video.modality import RGBFlow

Folders = Literal["auto", "classes", "splits"]
Kind = Literal["auto", "files", "frames", "both"]

CLASSES = "classes.txt"
"""File of class names that ``gesta data prepare`` leaves beside shards and lists."""

FOLDERS_FLAG = "--data.folders {}"
KIND_FLAG = "--data.kind {}"


@config
class Folder(DataConfig):
    """A folder per class: ``root/class/video``, or ``root/train/class/video`` with ``val`` and ``test`` beside it.

    A video is a file or a folder of frames, at any depth below its class. Classes are the sorted folder names. What
    the folders do not split is split class by class, by a hash of the videos' names without their suffixes
    (:func:`gesta.data.locate.split_by_class`).

    Where folders may be meant in two ways, none is guessed: a single class, classes beside folders of splits, folders
    of splits inside classes, and video files beside folders of frames are refused until ``folders`` or ``kind`` says
    it.

    Attributes:
        root: the folder.
        val: fraction of validation videos, where there is no folder of them.
        test: fraction of test videos, where there is no folder of them.
        seed: of the split.
        folders: whether the folders in the root are ``classes``, whatever their names, or ``splits`` that hold classes,
            when others are left out; ``auto`` goes by their names, see :func:`gesta.data.locate.split_of`.
        kind: which are videos: ``files``, folders of ``frames`` or ``both``; ``auto`` takes what there is.
        modality: ``rgb``, ``flow`` or both; names and splits are those of the RGB videos.
        flow: folder of their optical flow (``gesta data prepare ROOT FLOW --flow``).
    """

    root: str = ""
    val: Fraction = 0.2
    test: Fraction = 0.0
    seed: CountOrZero = 0
    folders: Folders = "auto"
    kind: Kind = "auto"
    modality: RGBFlow = "rgb"
    flow: str = ""

    def contradictions(self) -> Iterator[tuple[str, str]]:
        yield from without_flow(self.modality, self.flow)
        if self.val + self.test >= 1:
            yield "val", f"which with test {self.test:g} leaves nothing to train on"

    def unused(self) -> Iterator[tuple[str, str]]:
        yield from unless(self.val > 0 or self.test > 0, "val or test", "seed")
        yield from unless(self.modality != "rgb", "a modality with flow", "flow")

    def records(self, split: SplitName) -> list[Record]:
        """All videos of a split, class by class, sorted by path.

        Raises:
            GestaError: no such folder, a class without videos, videos that are not in the folder of a class, or folders
                that may be meant in two ways.
        """
        folders = self.split_folders()
        classes = self.classes()
        if split in folders and (split != "train" or len(folders) > 1):
            of_split = _class_folders(folders[split])
            extra = sorted(of_split.keys() - set(classes))
            if extra:
                raise GestaError(
                    f"{os.path.join(folders[split], of_split[extra[0]])}: no training folder has the name {extra[0]!r}"
                    "; rename it, or add that class to the training videos"
                )
        first = "train" if "train" in folders else next(iter(folders))
        source = folders.get(split) or (folders[first] if first == "train" else "")
        listed = []
        names = _class_folders(source) if source else {}
        for label, name in enumerate(classes if source else []):
            records = self._videos(source, names[name], label) if name in names else []
            if not records and source == folders[first]:
                raise GestaError(
                    f"{os.path.join(source, names[name])}: holds no video that is known by its suffix; "
                    "put the videos of this class there, or remove the folder"
                )
            listed += records
        self._check_kinds(listed)
        listed = with_flow(listed, self.modality, self.root, self.flow)
        if source != folders.get("train"):
            return listed
        val, test = fractions_to_split_off(folders, self.val, self.test)
        splits = split_by_class(listed, val, test, self.seed)
        return [record for record, part in zip(listed, splits) if part == split]

    def classes(self) -> list[str]:
        """Sorted names of the class folders, see :func:`gesta.records.class_name`."""
        folders = self.split_folders()
        folder = folders.get("train") or next(iter(folders.values()))
        names = sorted(_class_folders(folder))
        if not names:
            raise GestaError(f"{folder}: holds no folders; put the videos of each class into a folder of its name")
        if len(names) == 1 and self.folders == "auto":
            only = os.path.join(folder, _subfolders(folder)[0])
            remedy = f"give {only} in place of {self.root}" if folder == self.root else "move these up into its place"
            raise GestaError(
                f"{only}: is the only class; if the folders in it are the classes, {remedy}; if there is only one, say "
                f"{FOLDERS_FLAG.format('classes' if folder == self.root else 'splits')}"
            )
        return names

    def split_folders(self) -> dict[SplitName, str]:
        """Where the class folders of each split are; a split that is not named here is cut from the training folder."""
        if not self.root:
            raise GestaError("which videos? give the folder that holds a folder per class: --data.root DIR")
        if not os.path.isdir(self.root):
            raise GestaError(f"{self.root}: is not a folder; give one that holds a folder per class (--data.root DIR)")
        if not 0 <= self.val + self.test < 1 or min(self.val, self.test) < 0:
            raise GestaError(
                f"data.val and data.test are fractions of the videos, from 0 and together below 1, not {self.val} and "
                f"{self.test}; give other ones"
            )
        names = [] if self.folders == "classes" else _subfolders(self.root)
        if self.folders == "auto" and self._are_classes(names):
            return {"train": self.root}
        folders: dict[SplitName, str] = {}
        for name in names:
            folder, split = os.path.join(self.root, name), split_of(name)
            if split in folders:
                raise GestaError(f"{folders[split]} and {folder} are of the same split; keep one of them here")
            if split:
                folders[split] = folder
        if self.folders == "splits" and not folders:
            raise GestaError(
                f"{self.root}: holds no folder train, val or test; rename its folders, or leave data.folders out"
            )
        return {split: folders[split] for split in SPLITS if split in folders} or {"train": self.root}

    def _are_classes(self, names: Sequence[str]) -> bool:
        """Whether the folders in the root are classes rather than splits.

        Raises:
            GestaError: they may be either, or some of them are neither.
        """
        holds_classes = {name: _holds_classes(os.path.join(self.root, name)) for name in names if split_of(name)}
        others = [name for name in names if name not in holds_classes]
        if not any(holds_classes.values()):
            odd = [name for name in others if splits_in(name)]
            if len(odd) == len(names) > 1:
                raise GestaError(
                    f"{self.root}: its folders {odd[0]} and {odd[1]} seem to be splits; rename them to train, val and "
                    f"test, or say {FOLDERS_FLAG.format('classes')}"
                )
            return bool(others) or not names
        for name in (*(name for name in holds_classes if not holds_classes[name]), *others):
            folder = os.path.join(self.root, name)
            if next(videos_below(folder), None):
                split = next(name for name, holds in holds_classes.items() if holds)
                raise GestaError(
                    f"{folder}: holds videos, but its folder is not one of classes, as {split} beside it is; move it "
                    f"away, or say {FOLDERS_FLAG.format('splits')} to leave it out, or {FOLDERS_FLAG.format('classes')}"
                )
        return False

    def _videos(self, folder: str, name: str, label: int) -> list[Record]:
        class_folder = os.path.join(folder, name)
        videos = find_videos(class_folder)
        if class_folder in videos:
            raise GestaError(
                f"{class_folder}: is one video as frames, not a class; use {self.root}/CLASS/{name}/ for its frames"
            )
        if self.kind in ("files", "frames"):
            videos = [video for video in videos if is_video_name(video) is (self.kind == "files")]
        for video in videos if self.folders == "auto" else []:
            inner = os.path.relpath(video, class_folder).split(os.sep)[0]
            if split_of(inner) and inner != os.path.basename(video):
                raise GestaError(
                    f"{os.path.join(class_folder, inner)}: is a split inside a class; put the classes into folders of "
                    f"splits, or say {FOLDERS_FLAG.format('classes')} to read all as one class"
                )
        return [Record(path=v, name=Path(v).relative_to(self.root).as_posix(), label=label) for v in videos]

    def _check_kinds(self, records: Sequence[Record]) -> None:
        """Refuse a mixture of files and folders of frames, as one may be made of the other, or of thumbnails."""
        files = [record.path for record in records if is_video_name(record.path)]
        if self.kind == "auto" and 0 < len(files) < len(records):
            frames = next(record.path for record in records if not is_video_name(record.path))
            raise GestaError(
                f"{frames}: is a folder of images beside video files such as {files[0]}; say which are videos with "
                f"{KIND_FLAG.format('files')}, frames or both"
            )


def without_flow(modality: RGBFlow, flow: str) -> Iterator[tuple[str, str]]:
    """A contradiction between these fields of a data set, if there is one."""
    if modality != "rgb" and not flow:
        yield "modality", "but data.flow does not name a folder made by gesta data prepare ROOT FLOW --flow"


def with_flow(records: list[Record], modality: RGBFlow, root: str, flow: str) -> list[Record]:
    """Records of RGB videos with their streams of the modality.

    Raises:
        GestaError: two videos of one name up to the suffix, of which only one can have its flow under that.
    """
    if modality == "rgb":
        return records
    videos: dict[str, str] = {}  # by the folder of their flow
    found = []
    for record in records:
        folder = flow_folder(record, root, flow)
        other = videos.setdefault(folder, record.path)
        if other != record.path and os.path.realpath(other) != os.path.realpath(record.path):
            raise GestaError(
                f"{other} and {record.path}: the optical flow of both would be {folder}; rename one of them, and make "
                "its flow again"
            )
        found.append(replace(record, **files_of_modality(modality, record.path, "", None, flow=folder)))
    return found


def _subfolders(folder: str) -> list[str]:
    return sorted(entry.name for entry in list_folder(folder).folders)


def _class_folders(folder: str) -> dict[str, str]:
    """The folders of a folder by the names of the classes that they hold.

    Raises:
        GestaError: two of them have one name.
    """
    folders: dict[str, str] = {}
    for name in _subfolders(folder):
        if (other := folders.setdefault(class_name(name), name)) != name:
            raise GestaError(
                f"{os.path.join(folder, name)}: differs from {os.path.join(folder, other)} in the form of accents "
                "only; put the videos of both into one folder"
            )
    return folders


def _holds_classes(folder: str) -> bool:
    """Whether a folder holds folders, and neither video files nor folders of frames."""
    _, folders, files = list_folder(folder)
    if not folders or any(is_video_name(file.name) for file in files):
        return False
    return not any(holds_frames([file.name for file in list_folder(child.path).files]) for child in folders)


@config
class Lists(DataConfig):
    """List files, one per split, or one with a column of splits; all formats of :func:`gesta.data.listfile.read_list`.

    Of a list with such a column each split has its own rows only; a split that has no list takes those of ``train``.

    Attributes:
        train: list of training videos.
        val: list of validation videos.
        test: list of test videos.
        root: folder that relative paths start from; else, and next, each list's own folder.
        class_names: file of class names in label order; without it they are the names in the lists, or the numbers.
        columns: what the columns are, where that is ambiguous (:data:`gesta.data.list_entry.COLUMNS`), in their order;
            or ``NAME=COLUMN`` of those whose names are not known.
        delimiter: between columns; worked out if not given.
        label_base: number of the first class.
        frame_base: number of the first frame in the columns start, end and last.
        label_from_folder: entries without a label have the name of their folder as label.
        multi_label: a video may have any number of classes; see :func:`gesta.data.listfile.read_list` for how lists say
            so.
        label_delimiter: between several labels in one column; worked out if not given.
        val_fraction: fraction of the training list that is held out for validation if there is no list for it, all
            segments of one video together.
        seed: of this split.
        modality, flow: as of :class:`Folder`; paths are relative to ``root``, or else to the list's folder.
    """

    train: str = ""
    val: str = ""
    test: str = ""
    root: str = ""
    class_names: str = ""
    columns: tuple[str, ...] = ()
    delimiter: str = ""
    label_base: CountOrZero = 0
    frame_base: CountOrZero = 0
    label_from_folder: bool = False
    multi_label: bool = False
    label_delimiter: str = ""
    val_fraction: Fraction = 0.0
    seed: CountOrZero = 0
    modality: RGBFlow = "rgb"
    flow: str = ""

    def contradictions(self) -> Iterator[tuple[str, str]]:
        yield from without_flow(self.modality, self.flow)
        if self.val_fraction >= 1:
            yield "val_fraction", "which leaves nothing to train on"

    def unused(self) -> Iterator[tuple[str, str]]:
        yield from unless(self.multi_label, "multi_label", "label_delimiter")
        yield from unless(not self.val, "a list without val", "val_fraction")
        yield from unless(not self.val and self.val_fraction > 0, "val_fraction", "seed")
        yield from unless(self.modality != "rgb", "a modality with flow", "flow")

    def records(self, split: SplitName) -> list[Record]:
        """The records of a list in its order; an empty list if there is none for the split."""
        if not 0 <= self.val_fraction < 1:
            raise GestaError(
                f"data.val_fraction is a fraction of the training videos, from 0 and below 1, not {self.val_fraction}; "
                "give another one"
            )
        if self.val and self.val_fraction:
            raise GestaError("data.val and data.val_fraction both say what the validation videos are; leave one out")
        source = getattr(self, split) or self.train
        if not source:
            return []
        entries, finder = self._entries(source)
        held_out = self.val_fraction > 0 and split != "test"  # or what is left of it
        wanted = "train" if held_out else split
        if any(entry.split for entry in entries):
            if held_out and any(entry.split == "val" for entry in entries):
                raise GestaError(f"{source}: has validation rows of its own; leave data.val_fraction out")
            entries = [entry for entry in entries if entry.split == wanted]
            if not entries and split != "train" and getattr(self, split):
                raise GestaError(f"{source}: none of its rows is of the split {split}; give another list for it")
        elif not getattr(self, wanted):
            return []
        records = to_records(
            source,
            entries,
            finder,
            self.classes() or None,
            self.label_base,
            self.label_from_folder,
            multi_label=self.multi_label,
        )
        root = self.root or os.path.dirname(source)
        records = with_flow(records, self.modality, root, self.flow)
        if held_out:
            return hold_out(records, by_video(records), self.val_fraction, self.seed, split)
        return records

    def classes(self) -> list[str]:
        """The file's names, else all names or numbers that the lists have; empty if nothing is labelled."""
        if self.class_names:
            return read_class_names(self.class_names)
        sources = [source for source in (self.train, self.val, self.test) if source]
        if not sources:
            raise GestaError("which videos? give a list of them: --data.train FILE, and --data.val, --data.test")
        entries = (entry for source in sources for entry in self._entries(source)[0])
        given = (label_of(entry, self.label_from_folder, self.multi_label) for entry in entries)
        labels = {part for label in given for part in (label if isinstance(label, tuple) else (label,))} - {None}
        numbers = [label for label in labels if isinstance(label, int)]
        if numbers:  # a mixture of numbers and names is refused where the list is read
            return [str(number) for number in range(self.label_base, max(numbers) + 1)]
        return sorted(str(label) for label in labels)

    def _entries(self, source: str) -> tuple[list[ListEntry], VideoFinder]:
        finder = finder_for_list(source, self.root)
        label_delimiter = self.label_delimiter if self.multi_label else None
        entries = read_entries(source, finder, self.columns, self.delimiter, self.frame_base, label_delimiter)
        return entries, finder

    def is_multi_label(self) -> bool:
        return self.multi_label


@config
class Videos(DataConfig):
    """All videos below a folder, without labels, for pretraining.

    Attributes:
        root: the folder; it may hold folders of any names, at any depth.
    """

    root: str = ""

    def records(self, split: SplitName) -> list[Record]:
        """All videos, sorted by path, as training videos; there are no others.

        Raises:
            GestaError: no such folder, or no videos in it.
        """
        if split != "train":
            return []
        if not self.root:
            raise GestaError("which videos? give the folder that holds them: --data.root DIR")
        paths = find_videos(self.root)
        if not paths:
            raise GestaError(f"{self.root}: holds no video that is known by its suffix; give another folder")
        return [Record(path=path, name=os.path.relpath(path, self.root)) for path in paths]

    def classes(self) -> list[str]:
        """None."""
        return []


def read_class_names(path: str) -> list[str]:
    """Class names in label order: one per line, ``1 Name``, ``0,Name`` or ``Name,0``; or as JSON a list of them,
    ``{"Name": 0}``, or ``{"0": "Name"}`` as in ``id2label``.

    Raises:
        GestaError: another JSON, numbers with holes, a name twice.
    """
    return _parse_class_names(path, read_text(path, remedy="give a text file of class names, one a line"))


def _parse_class_names(path: str, text: str) -> list[str]:
    numbered: list[tuple[int, str]] = []
    if path.lower().endswith(".json"):
        value = parse_json(text, path)
        pairs = [(number, name) for name, number in value.items()] if isinstance(value, dict) else []
        if pairs and not all(_is_label(number) for number, _ in pairs):
            pairs = [(number, name) for name, number in pairs]
        if not isinstance(value, dict | list) or not all(_is_label(number) for number, _ in pairs):
            raise GestaError(
                f'{path}: cannot be read as class names; write ["wave", "jump"], {{"wave": 0, "jump": 1}} or '
                '{"0": "wave", "1": "jump"}'
            )
        numbered = [(int(number), name) for number, name in pairs] if pairs else list(enumerate(value))
    else:
        lines = [line for line in split_lines(text) if line]
        if len(lines) > 1 and re.fullmatch(
            r"(id|index|label|name|class)([ \t,;]+(id|index|label|name|class))?", lines[0], re.I
        ):
            lines = lines[1:]
        front = [re.fullmatch(r"(\d{1,9})[ \t,;]+(\S.*)", line) for line in lines]
        back = [re.fullmatch(r"(.*\S)[\t,;][ \t]*(\d{1,9})", line) for line in lines]
        if all(front):
            numbered = [(int(match[1]), match[2].strip('"')) for match in front if match]
        elif all(back):
            numbered = [(int(match[2]), match[1].strip('"')) for match in back if match]
        else:
            numbered = list(enumerate(lines))
    numbered.sort(key=lambda pair: pair[0])
    names = [class_name(name) if isinstance(name, str) else name for _, name in numbered]
    if not names or [i for i, _ in numbered] != list(range(numbered[0][0], numbered[0][0] + len(names))):
        raise GestaError(f"{path}: is empty or has holes in its numbers; give one class name per line")
    for name in names:
        if not isinstance(name, str) or "\0" in name:
            raise GestaError(f"{path}: {name!r} is no class name; give one text per class")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise GestaError(f"{path}: the class {twice!r} occurs twice; name each class once")
    return names


def _is_label(value: object) -> bool:
    """Whether a value of JSON is the number of a class, maybe written as text."""
    return type(value) is int or (isinstance(value, str) and re.fullmatch(r"\d{1,9}", value) is not None)


def write_lists(
    root: str,
    *,
    val: float = 0.2,
    test: float = 0.0,
    seed: int = 0,
    by_folder: bool = False,
    folders: Folders = "auto",
    kind: Kind = "auto",
) -> dict[str, int]:
    """Write ``train.txt``, ``val.txt`` and ``test.txt`` of a folder with a folder per class, and ``classes.txt``.

    A line is ``path label``, or ``path frames label`` for a folder of frames, as MMAction2 has them. Splits that have a
    folder stay what they are; the rest is split as :class:`Folder` does it.

    Args:
        root: the folder; the lists are written into it, with paths relative to it.
        val: fraction of validation videos, where there is no folder of them.
        test: fraction of test videos, where there is no folder of them.
        seed: of the split.
        by_folder: keep videos of one sub-folder of a class (a recording, a person), and of those of the same name in
            other classes, on one side, so that no video is tested whose sister was trained on.
        folders, kind: see :class:`Folder`.

    Returns:
        number of videos by name of the list; empty splits get none.

    Raises:
        GestaError: no folder per class, a name that a list cannot hold, or a list of an earlier call that this one
            would leave as it is.
    """
    data = Folder(root=root, val=val, test=test, seed=seed, folders=folders, kind=kind)
    texts = list_texts(data, by_folder)
    check_left_over(root, texts)
    for name, text in texts.items():
        write_text(os.path.join(root, name), text)
    return {name: text.count("\n") for name, text in texts.items() if name != CLASSES}


def list_texts(data: Folder, by_folder: bool = False) -> dict[str, str]:
    """What :func:`write_lists` writes, by the name of the file.

    Raises:
        GestaError: as :func:`write_lists`.
    """
    splits = _split_by_folder(data) if by_folder else {split: data.records(split) for split in SPLITS}
    texts = {f"{split}.txt": _list_text(split, data.root, records) for split, records in splits.items() if records}
    return {**texts, CLASSES: classes_text(data)}


def check_left_over(root: str, names: Collection[str]) -> None:
    """Refuse a folder with a list of a split that is not among the lists to be written: its videos are in those now.

    Raises:
        GestaError: see above.
    """
    for split in SPLITS:
        path = os.path.join(root, f"{split}.txt")
        if os.path.basename(path) not in names and os.path.lexists(path):
            again = f", or give its fraction again with --{split}" if split != "train" else ""
            raise GestaError(
                f"{path}: would be left of an earlier split, with videos of the new lists; delete it{again}"
            )


def classes_text(data: Folder) -> str:
    """The content of ``classes.txt``.

    Raises:
        GestaError: names of folders that such a file cannot hold.
    """
    classes = data.classes()
    text = class_lines(classes)
    if _parse_class_names(CLASSES, text) != classes:
        raise GestaError(
            f"{data.root}: {CLASSES} cannot hold the names of these folders (a line break, numbers in front of all, or "
            f"{classes[0]!r} as the first line); rename them"
        )
    return text


def _list_text(split: str, root: str, records: Sequence[Record]) -> str:
    """The lines of a list file, proved to be read as these records or not without being asked what they are.

    Raises:
        GestaError: a name that a line cannot hold.
    """
    counts = [f"{len(image_files(record.path))} " if os.path.isdir(record.path) else "" for record in records]
    text = "".join(f"{record.name} {count}{record.label}\n" for record, count in zip(records, counts))
    columns = ("path", "frames", "label") if counts[0] else ("path", "label")
    path = os.path.join(root, f"{split}.txt")
    finder = finder_for_list(path, root)
    for options in (columns, ()):
        try:
            with csv_errors(path):
                entries = parse_entries(path, text, finder, options)
        except GestaError:
            if options:
                entries = []
            else:
                continue  # the reader asks for the columns
        pairs = [(entry.path, entry.label) for entry in entries] + [("", None)] * len(records)
        for record, pair in zip(records, pairs):
            if (record.name, record.label) != pair:
                raise GestaError(f"{record.path}: a line of {path} cannot hold this name; rename it")
    return text


def _split_by_folder(data: Folder) -> dict[SplitName, list[Record]]:
    """The records of each split, where videos of sub-folders of one name stay together, in whatever classes."""
    folders = data.split_folders()
    splits: dict[SplitName, list[Record]] = {split: [] for split in SPLITS}
    together = []  # what no folder of its own gives to a split
    for split in SPLITS:
        if split in folders and split != "train":
            splits[split] = data.records(split)
        else:
            together += data.records(split)
    together.sort(key=lambda record: (record.label, record.path))
    names = [os.path.relpath(record.path, folders.get("train", data.root)) for record in together]
    groups = []
    first: dict[str, str] = {}  # sub-folder → its place in the first class that has it
    for name in same_stem(names):
        folder = os.path.dirname(name)
        inner = folder.partition(os.sep)[2]  # such as a person, who may be in several classes
        groups.append(first.setdefault(inner, folder) if inner else name)
    val, test = fractions_to_split_off(folders, data.val, data.test)
    for record, split in zip(together, split_by_class(together, val, test, data.seed, groups)):
        splits[split].append(record)
    return splits
