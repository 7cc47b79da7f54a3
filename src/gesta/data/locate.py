"""Looking up on the disk what lists name, and splitting one list into training, validation and test videos."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence

from gesta.errors import GestaError
from gesta.records import Record, SplitName
from gesta.video.archive import ABSENT
from gesta.video.find import cannot_list, walk, without_suffix

SPLIT_WORDS: dict[str, SplitName] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""Words that name a split, in folders, tar files and columns."""

MAX_PATH = 4096
"""Characters of a path: no more than Linux takes."""


def split_of(name: str) -> SplitName | None:
    """The split that a name means: a word for it in any capitals, maybe with a number (``train_256``)."""
    match = re.fullmatch(r"([a-z]+)[-_. ]?\d*", name.casefold())
    return SPLIT_WORDS.get(match[1]) if match else None


def splits_in(name: str) -> set[SplitName]:
    """The splits whose words stand anywhere in a name or path, such as ``ucf_train-000000.tar``."""
    return {SPLIT_WORDS[word] for word in re.findall(r"[a-z]+", name.casefold()) if word in SPLIT_WORDS}


class VideoFinder:
    """Finds the videos that lists name, in one of several folders.

    An entry may be written without its suffix, and a video may lie there under another video suffix (a re-encoded
    copy), as a folder of frames of that name, with its accents in another Unicode form, or with other capitals. What is
    most like the entry is taken, in this order. Folders are listed once and names compared as they are, so no character
    of a name has a special meaning.

    Args:
        bases: folders that relative entries are looked up in, in this order.
        flat: also look for the bare file name, without the entry's folders, in the bases.
    """

    def __init__(self, bases: Sequence[str], flat: bool = False) -> None:
        self.bases = list(bases)
        self.flat = flat
        self._listings: dict[str, dict[str, list[str]]] = {}
        self._folders: dict[str, str | None] = {}
        self._entries: dict[str, str] = {}  # the name by which each path was found

    def find(self, entry: str) -> str | None:
        """The path of a video, or None if it is not there.

        Raises:
            GestaError: several names differ from the entry only in capitals, or two entries that differ only in
                capitals lead to one file; or a folder cannot be listed.
        """
        spellings = [entry] if "\\" not in entry else [entry, entry.replace("\\", "/")]  # lists written on Windows
        if spellings[-1].startswith("/"):  # "/train/wave/a.mp4" of an archive that was unpacked elsewhere
            spellings.append(spellings[-1].lstrip("/"))
        if self.flat:
            spellings.append(os.path.basename(os.path.normpath(spellings[-1])))
        for spelling in spellings:
            for base in self.bases:
                path = self._find(os.path.normpath(os.path.join(base, spelling)))
                if path is not None:
                    return path
        return None

    def path(self, entry: str) -> str:
        """The path of a video, or where it should have been: reading it then fails by that name."""
        path = self.find(entry)
        return os.path.join(self.bases[0], entry) if path is None else path

    def _find(self, path: str) -> str | None:
        if len(path) > MAX_PATH:
            return None
        folder, name = os.path.split(path)
        existing = self._folder(folder)
        match = None if existing is None else _best(name, self._listing(existing).get(_key(name), []), existing)
        if existing is None or match is None:
            return None
        found, stem = os.path.join(existing, match), unicodedata.normalize("NFC", without_suffix(name))
        if (other := self._entries.setdefault(found, stem)) != stem:  # YouTube's ids differ in nothing else
            raise GestaError(
                f"{found}: is all there is for both {other!r} and {stem!r}, which differ in capitals; take the one "
                "that is missing off the list, or write both as they are on the disk"
            )
        return found

    def _folder(self, folder: str) -> str | None:
        """The folder, or the one whose name differs in Unicode form or capitals; None if there is none."""
        missing, above = [], folder
        while above not in self._folders:  # a loop, since a list may name a thousand folders inside each other
            if not above or os.path.isdir(above):
                self._folders[above] = above
            elif os.path.dirname(above) == above:
                self._folders[above] = None
            else:
                missing.append(above)
                above = os.path.dirname(above)
        for path in reversed(missing):
            above, name = os.path.split(path)
            self._folders[path] = self._subfolder(self._folders[above], name)
        return self._folders[folder]

    def _subfolder(self, parent: str | None, name: str) -> str | None:
        """The folder in the parent that is most like the name; None if there is none."""
        if parent is None:
            return None
        alike = self._listing(parent).get(_key(name), [])
        folders = [other for other in alike if os.path.isdir(os.path.join(parent, other))]
        match = _best(name, folders, parent or ".")
        return None if match is None else os.path.join(parent, match)

    def _listing(self, folder: str) -> dict[str, list[str]]:
        """The names in a folder, by what is the same under any suffix, Unicode form and capitals."""
        if folder not in self._listings:
            listing: dict[str, list[str]] = {}
            try:
                names = os.listdir(folder or ".")
            except OSError as error:
                if error.errno not in ABSENT:
                    raise cannot_list(folder, error) from None
                names = []
            for name in names:
                listing.setdefault(_key(name), []).append(name)
            self._listings[folder] = listing
        return self._listings[folder]


def _best(name: str, candidates: Sequence[str], folder: str) -> str | None:
    """The name on the disk that is most like the one of a list.

    Raises:
        GestaError: several are equally like it.
    """

    def form(text: str) -> str:
        return unicodedata.normalize("NFC", text)

    alike: list[Callable[[str], bool]] = [
        lambda other: other == name,
        lambda other: without_suffix(other) == without_suffix(name),
        lambda other: form(other) == form(name),
        lambda other: form(without_suffix(other)) == form(without_suffix(name)),
        lambda other: True,  # but for capitals
    ]
    for is_alike in alike:
        names = sorted(filter(is_alike, candidates))
        if len({without_suffix(other) for other in names}) > 1:
            raise GestaError(
                f"{os.path.join(folder, name)}: could be {names[0]} or {names[-1]}, which differ in capitals or in the "
                "form of accents only; write the name as it is on the disk"
            )
        if names:
            return names[0]
    return None


def check_root(root: str) -> None:
    """Refuse a data set's folder that does not exist.

    Raises:
        GestaError: it is not a folder.
    """
    if not os.path.isdir(root):
        raise GestaError(f"{root}: is not a folder; give the one that holds the videos (--data.root DIR)")


def open_root(root: str, subfolders: tuple[str, ...]) -> VideoFinder:
    """Looks a data set's clips up in the root and those subfolders that exist; also where all lie in one folder."""
    check_root(root)
    bases = [os.path.join(root, name) for name in subfolders]
    return VideoFinder([root, *filter(os.path.isdir, bases)], flat=True)


def entries_below(
    root: str, depth: int, descend: Callable[[str], bool]
) -> Iterator[tuple[str, os.DirEntry[str], bool]]:
    """All files and folders below a folder.

    Args:
        root: the folder.
        depth: how many folders below it are looked into.
        descend: whether to look into a folder of this name.

    Yields:
        the folder it lies in, the entry, and whether it is a folder itself.
    """
    root = root.rstrip(os.sep) or root
    for folder, folders, files in walk(root):
        for entry in folders:
            yield folder, entry, True
        for entry in files:
            yield folder, entry, False
        level = folder.removeprefix(root).count(os.sep)
        folders[:] = [entry for entry in folders if level < depth and descend(entry.name)]


def find_annotations(given: str, root: str, name: str, description: str) -> str:
    """The folder of official lists: as given (itself or its subfolder ``name``), else in or beside the root.

    Raises:
        GestaError: it does not exist, nor perhaps the root; the sentence calls it by ``description``.
    """
    beside = os.path.join(root, "..", name)
    candidates = [os.path.join(given, name), given] if given else [os.path.join(root, name), beside]
    for folder in candidates:
        if os.path.isdir(folder):
            return folder
    if not given:
        check_root(root)
    raise GestaError(
        f"{candidates[-1]}: does not exist; unpack {description} there or give its folder with --data.annotations DIR"
    )


def find_list(given: str, root: str, names: Sequence[str], required: bool = True) -> str:
    """A file of official annotations: in the given folder, else in or beside the root; also in ``annotations`` there.

    Args:
        given: the folder, or an empty string.
        root: the folder of the clips.
        names: that the file may have, in order of preference.
        required: refuse instead of returning an empty string where it is missing.

    Raises:
        GestaError: there is no such file, or no such root to look for it.
    """
    if not given:
        check_root(root)
    folders = [given] if given else [root, os.path.join(root, "..")]
    for folder in folders:
        for subfolder in ("", "annotations", "labels"):
            for name in names:
                if os.path.isfile(path := os.path.join(folder, subfolder, name)):
                    return path
    if required:
        raise GestaError(
            f"{folders[0]}: holds no {names[0]}; give the folder of the official lists with --data.annotations DIR"
        )
    return ""


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", without_suffix(name)).casefold()


def split_by_class(
    records: Sequence[Record], val: float, test: float, seed: int, groups: Sequence[str] | None = None
) -> list[SplitName]:
    """The split of each record by the hash of its name, where a group is never divided.

    Groups of one class are drawn for each class by itself: they are put in the order of ``hash(seed, group)``; the test
    split is taken from its front and the validation split from its end. So the split does not depend on the order of
    the list, and a video that is added moves at most the videos at the two borders, never one from validation to test.
    A fraction above 0 gives at least one video, as long as one is left for training.

    A group of several classes (a long recording with segments of all) is drawn once, if at least half of its videos are
    still missing from the split in their classes. Every class keeps a video for training; one of few groups may get
    none in a split.

    Multi-label records are drawn all together, because few of them have the same classes.

    Without groups, videos that differ in their suffix only (a recording and its copy) stay together.
    """
    groups = same_stem([record.name for record in records]) if groups is None else groups
    labels = ["" if isinstance(record.label, tuple) else repr(record.label) for record in records]
    classes: list[tuple[str, ...]] = [(label,) for label in labels]
    if len(set(zip(groups, labels))) > len(set(groups)):  # pairs of verb and noun are too rare to keep one of each
        for i, record in enumerate(records):
            if isinstance(record.label, dict):
                classes[i] = tuple(f"{space} {label}" for space, label in record.label.items())
    return _draw(groups, classes, val, test, seed)


def _draw(
    groups: Sequence[str], classes: Sequence[tuple[str, ...]], val: float, test: float, seed: int
) -> list[SplitName]:
    """The split of each video, by its group and its classes; see :func:`split_by_class`."""
    members: dict[str, Counter[str]] = {}
    for group, names in zip(groups, classes):
        members.setdefault(group, Counter()).update(names)
    order = sorted(
        members, key=lambda group: hashlib.blake2b(f"{seed}:{group}".encode(errors="surrogateescape")).digest()
    )
    sizes = Counter(name for names in classes for name in names)
    training = sizes.copy()  # what is left of each class
    parts: dict[str, SplitName] = {}
    fractions: list[tuple[SplitName, float, list[str]]] = [("test", test, order), ("val", val, order[::-1])]
    for split, fraction, candidates in fractions:
        missing = Counter({name: max(1, round(fraction * n)) for name, n in sizes.items() if fraction > 0})
        for any_size in (False, True):  # where all groups are too large, the first is taken
            for group in candidates:
                counts = members[group]
                wanted = sum(min(n, max(missing[name], 0)) for name, n in counts.items())
                fits = any_size or len(counts) == 1 or 2 * wanted >= counts.total()
                if group in parts or not (wanted and fits) or any(n >= training[name] for name, n in counts.items()):
                    continue
                parts[group] = split
                missing.subtract(counts)
                training.subtract(counts)
                if any_size:
                    break
            if split in parts.values():
                break
    return [parts.get(group, "train") for group in groups]


def same_stem(names: Sequence[str]) -> list[str]:
    """The names without a video's suffix, which a copy may have another of; one of a folder stays what it is."""
    return [without_suffix(name) for name in names]


def by_video(records: Sequence[Record]) -> list[str]:
    """What the video of each record is called, wherever it lies: the first name without suffix of its records."""
    stems = same_stem([record.name for record in records])
    paths = same_stem([record.path for record in records])
    first: dict[str, str] = {}
    for stem, path in zip(stems, paths):
        first[path] = min(first.get(path, stem), stem)
    return [first[path] for path in paths]


def fractions_to_split_off(given: Collection[SplitName], val: float, test: float) -> tuple[float, float]:
    """Fractions of the training videos that become validation and test videos: none where these are given already."""
    return 0.0 if "val" in given else val, 0.0 if "test" in given else test


def hold_out(
    records: Sequence[Record], groups: Sequence[str], fraction: float, seed: int, split: SplitName
) -> list[Record]:
    """The ``train`` or ``val`` part of training records: a fraction held out, whole groups together.

    See :func:`split_by_class` for how it is balanced among the classes.

    Records of the test split are given back as they are.
    """
    if split == "test":
        return list(records)
    splits = split_by_class(records, fraction, 0.0, seed, groups)
    return [record for record, part in zip(records, splits) if part == split]
