"""From what a list says to what lies on the disk, and from one list to splits of it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

from gesta.errors import GestaError
from gesta.records import Record, SplitName
from gesta.video.find import VIDEOS


class Finder:
    """Finds the videos that lists name, in one of several folders.

    An entry may be written without its suffix, and a video may lie there under another video suffix (a re-encoded
    copy), as a folder of frames of that name, or with other capitals. The entry as written is preferred.
    Folders are listed once and names compared as they are, so no character of a name has a special meaning.

    Args:
        bases: folders that relative entries are looked up in, in this order.
        flat: also look for the bare file name, without the entry's folders, in the bases.
    """

    def __init__(self, bases: Sequence[str], flat: bool = False) -> None:
        self.bases = list(bases)
        self.flat = flat
        self._listings: dict[str, dict[str, list[str]]] = {}

    def find(self, entry: str) -> str | None:
        """The path of a video, or None if it is not there."""
        forms = [entry] if "\\" not in entry else [entry, entry.replace("\\", "/")]  # lists written on Windows
        forms += [os.path.basename(os.path.normpath(forms[-1]))] * self.flat
        for form in forms:
            for base in self.bases:
                found = self._find(os.path.normpath(os.path.join(base, form)))
                if found is not None:
                    return found
        return None

    def path(self, entry: str) -> str:
        """The path of a video, or where it should have been: reading it then fails by that name."""
        found = self.find(entry)
        return os.path.join(self.bases[0], entry) if found is None else found

    def _find(self, path: str) -> str | None:
        folder, name = os.path.split(path)
        candidates = self._listing(folder).get(_key(name), [])
        if not candidates:
            parent = os.path.dirname(folder)
            cased = [n for n in self._listing(parent).get(_key(os.path.basename(folder)), []) if parent != folder]
            folder = next((f for n in cased if os.path.isdir(f := os.path.join(parent, n))), folder)
            candidates = self._listing(folder).get(_key(name), [])
        if not candidates:
            return None
        stem = _stem(name)
        return os.path.join(folder, min(candidates, key=lambda found: (found != name, _stem(found) != stem, found)))

    def _listing(self, folder: str) -> dict[str, list[str]]:
        if folder not in self._listings:
            listing: dict[str, list[str]] = {}
            try:
                names = os.listdir(folder or ".")
            except OSError:
                names = []
            for name in names:
                listing.setdefault(_key(name), []).append(name)
            self._listings[folder] = listing
        return self._listings[folder]


def open_root(root: str, subfolders: tuple[str, ...]) -> Finder:
    """Where a data set's clips are looked up: the root and those subfolders that exist; also in one flat folder."""
    if not os.path.isdir(root):
        raise GestaError(f"{root}: is not a folder; give the one that holds the clips (--data.root DIR)")
    bases = [os.path.join(root, name) for name in subfolders]
    return Finder([root, *filter(os.path.isdir, bases)], flat=True)


def find_annotations(given: str, root: str, name: str, words: str) -> str:
    """The folder of official lists: as given (itself or its subfolder ``name``), else in or beside the root."""
    places = [os.path.join(given, name), given] if given else [os.path.join(root, name), os.path.join(root, "..", name)]
    for place in places:
        if os.path.isdir(place):
            return place
    raise GestaError(
        f"{places[-1]}: does not exist; unpack {words} there or give its folder with --data.annotations DIR"
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
    if not given and not os.path.isdir(root):
        raise GestaError(f"{root}: is not a folder; give the one that holds the clips (--data.root DIR)")
    homes = [given] if given else [root, os.path.join(root, "..")]
    for home in homes:
        for folder in ("", "annotations", "labels"):
            for name in names:
                if os.path.isfile(path := os.path.join(home, folder, name)):
                    return path
    if required:
        raise GestaError(
            f"{homes[0]}: holds no {names[0]}; give the folder of the official lists with --data.annotations DIR"
        )
    return ""


def _stem(name: str) -> str:
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in VIDEOS else name


def _key(name: str) -> str:
    return _stem(name).casefold()


def assign(
    names: Sequence[str], val: float, test: float, seed: int, groups: Sequence[str] | None = None
) -> list[SplitName]:
    """Split the videos of one class by the hash of their names.

    Videos are put in the order of ``hash(seed, group)``; the test split is taken from its front and the validation
    split from its end. So the split does not depend on the order of the list, and a video that is added moves at most
    the videos at the two borders, never one from validation to test. A share above 0 gives at least one video, as long
    as one is left for training.

    Args:
        names: of the videos, unique.
        val: share of validation videos.
        test: share of test videos.
        groups: of each video; a group is never divided. Every video by itself if not given.

    Returns:
        the split of each name.
    """
    members: dict[str, list[int]] = {}
    for position, group in enumerate(groups or names):
        members.setdefault(group, []).append(position)
    order = sorted(
        members, key=lambda group: hashlib.blake2b(f"{seed}:{group}".encode(errors="surrogateescape")).digest()
    )
    splits: list[SplitName] = ["train"] * len(names)
    shares: list[tuple[SplitName, float, int]] = [("test", test, 0), ("val", val, -1)]
    for split, share, end in shares:
        wanted = max(1, round(share * len(names))) if share > 0 else 0
        while wanted > 0 and len(order) > 1:
            group = order.pop(end)
            for position in members[group]:
                splits[position] = split
            wanted -= len(members[group])
    return splits


def hold_out(
    records: Sequence[Record], groups: Sequence[str], share: float, seed: int, split: SplitName
) -> list[Record]:
    """The ``train`` or ``val`` part of training records: ``share`` of each class is held out, whole groups together."""
    by_label: dict[str, list[int]] = {}
    for index, record in enumerate(records):
        by_label.setdefault(repr(record.label), []).append(index)
    kept = set()
    for indices in by_label.values():
        names, parts = [records[i].name for i in indices], [groups[i] for i in indices]
        kept |= {i for i, s in zip(indices, assign(names, share, 0.0, seed, parts)) if s == split}
    return [record for index, record in enumerate(records) if index in kept]
