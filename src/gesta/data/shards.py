"""Labelled videos in tar files ("shards", WebDataset's convention), for storage on which many small files are slow.

A sample is the members that share a name up to its first dot: ``000001.mp4`` the video, ``000001.cls`` its label as a
number, ``000001.json`` with ``name`` and ``label``. They are read in any order, each by its offset in the tar file
(:mod:`gesta.video.archive`), so training shuffles over all shards as it does over files.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from gesta.config import CountOrZero, Fraction, config, parse_json, unless
from gesta.data.list_entry import MAX_CLASSES
from gesta.data.lists import CLASSES, read_class_names
from gesta.data.locate import fractions_to_split_off, split_by_class, splits_in
from gesta.errors import GestaError
from gesta.files import write_atomically
from gesta.records import DataConfig, Record, SplitName, class_name
from gesta.video.archive import read_index
from gesta.video.find import is_video_name, walk


class Member(NamedTuple):
    """A sample of a shard: where its video is, its name, and its label as a number, as a class name, or None."""

    path: str
    name: str
    label: int | str | None


@config
class Shards(DataConfig):
    """Tar files of videos below a folder: ``root/*.tar``, or ``root/train/*.tar`` with ``val`` and ``test`` beside it.

    The split's name may also stand in the shards' names (``train-000000.tar``). What neither splits is split class by
    class, by a hash of the videos' names, as a folder of videos is.

    Attributes:
        root: the folder.
        class_names: file of class names in label order; else ``classes.txt`` in the root, else the names that the
            samples have, or their numbers.
        val: fraction of validation videos, where there are no shards of them.
        test: fraction of test videos, where there are no shards of them.
        seed: of the split.
    """

    root: str = ""
    class_names: str = ""
    val: Fraction = 0.2
    test: Fraction = 0.0
    seed: CountOrZero = 0

    def contradictions(self) -> Iterator[tuple[str, str]]:
        if self.val + self.test >= 1:
            yield "val", f"which with test {self.test:g} leaves nothing to train on"

    def unused(self) -> Iterator[tuple[str, str]]:
        yield from unless(self.val > 0 or self.test > 0, "val or test", "seed")

    def records(self, split: SplitName) -> list[Record]:
        """All videos of a split, in the order of the shards.

        Raises:
            GestaError: no shards, one that cannot be read, a label that is none of the classes.
        """
        shards = self.shards()
        classes = self.classes()
        if split in shards and split != "train":
            return self._records(shards[split], classes)
        records = self._records(shards.get("train", ()), classes)
        val, test = fractions_to_split_off(shards, self.val, self.test)
        splits = split_by_class(records, val, test, self.seed)
        return [record for record, part in zip(records, splits) if part == split]

    def classes(self) -> list[str]:
        """The file's names, else all names or numbers that the samples have; empty if nothing is labelled."""
        file = self.class_names or os.path.join(self.root, CLASSES)
        if self.class_names or os.path.isfile(file):
            return read_class_names(file)
        labels = {member.label for paths in self.shards().values() for path in paths for member in members(path)}
        numbers = [label for label in labels if isinstance(label, int)]
        if numbers:
            return [str(number) for number in range(max(numbers) + 1)]
        return sorted(str(label) for label in labels - {None})

    def _records(self, paths: Iterable[str], classes: list[str]) -> list[Record]:
        numbers = {name: number for number, name in enumerate(classes)}
        records = []
        for shard in paths:
            for path, name, label in members(shard):
                index = numbers.get(label) if isinstance(label, str) else label
                if (label is not None and index is None) or (index is not None and not 0 <= index < len(classes)):
                    raise GestaError(
                        f"{path}: its label {label!r} is none of the {len(classes)} classes; give their names in "
                        f"label order, one a line, with --data.class-names FILE or as {CLASSES} beside them"
                    )
                records.append(Record(path=path, name=name, label=index))
        return records

    def shards(self) -> dict[SplitName, list[str]]:
        """The tar files of each split; all are training shards if no name says a split."""
        if not self.root:
            raise GestaError("which shards? give the folder that holds the tar files: --data.root DIR")
        if not os.path.isdir(self.root):
            raise GestaError(f"{self.root}: is not a folder; give the one that holds the tar files (--data.root DIR)")
        paths = sorted(file.path for _, _, files in walk(self.root) for file in files if file.name.endswith(".tar"))
        if not paths:
            raise GestaError(
                f"{self.root}: holds no tar files; make some with gesta data prepare VIDEOS DIR --shards 500"
            )
        shards: dict[SplitName, list[str]] = {}
        unnamed = []
        for path in paths:
            named = splits_in(os.path.relpath(path, self.root))
            if len(named) > 1:
                raise GestaError(f"{path}: its name says both {' and '.join(sorted(named))}; rename it")
            for split in named:
                shards.setdefault(split, []).append(path)
            unnamed += [] if named else [path]
        if shards and unnamed:
            raise GestaError(
                f"{unnamed[0]}: its name says no split, as those of others do (train, val or test); rename or move it"
            )
        return shards or {"train": paths}


def members(shard: str) -> list[Member]:
    """The samples of a shard that have a video, in its order."""
    index = read_index(shard)
    samples = []
    for name in index.members:
        if not is_video_name(name):
            continue
        key = _key(name)
        try:
            note = parse_json(index.texts.get(f"{key}.json", "{}"), f"{shard}#{key}.json")
            number = index.texts.get(f"{key}.cls", "").strip()
            label = int(number) if number else note.get("label")
            record_name = str(note.get("name", name))
        except (ValueError, AttributeError):
            raise GestaError(
                f"{shard}#{key}: its .json or .cls cannot be read as a label; make this shard again"
            ) from None
        if label is not None and (isinstance(label, bool) or not isinstance(label, int | str)):
            raise GestaError(f"{shard}#{key}: its label {label!r} is neither a number nor a class name; correct it")
        if isinstance(label, int) and label >= MAX_CLASSES:
            raise GestaError(f"{shard}#{key}: its label {label} is more than {MAX_CLASSES}; correct it")
        label = class_name(label) if isinstance(label, str) else label
        samples.append(Member(f"{shard}#{name}", record_name, label))
    return samples


def write_shard(path: str, samples: Iterable[tuple[str, str, Mapping[str, Any]]]) -> None:
    """Write a shard that appears complete or not at all; the same samples make the same bytes.

    Args:
        path: of the tar file.
        samples: key, video file and note (``name``, and ``label`` as a number where there is one) of each.
    """
    with write_atomically(path) as out, tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for key, video, note in samples:
            small = {".json": json.dumps(note)} | ({".cls": str(note["label"])} if "label" in note else {})
            with open(video, "rb") as file:
                member = tarfile.TarInfo(key + os.path.splitext(video)[1])
                member.size = os.path.getsize(video)
                tar.addfile(member, file)
            for suffix, text in small.items():
                member = tarfile.TarInfo(key + suffix)
                member.size = len(text.encode())
                tar.addfile(member, io.BytesIO(text.encode()))


def _key(name: str) -> str:
    """A member's name up to the first dot of its file name, as WebDataset groups members."""
    folder, base = os.path.split(name)
    return os.path.join(folder, base.split(".")[0])
