"""EPIC-KITCHENS-100: segments of long kitchen videos, each labelled with one of 97 verbs and one of 300 nouns.

Source: Damen et al., "Rescaling Egocentric Vision", IJCV 2022.

Protocol: official lists of 67 217 training, 9668 validation and 13 092 unlabelled test segments; accuracies of verbs,
nouns and actions (both right) are of the validation list, and also of its unseen participants and its tail classes.
The lists' frame numbers count the *extracted* frames (60 or 50 per second, from 1 on, last included), not those of the
videos, whose true rate is another. So folders of frames are read by number and videos by time stamp, of whatever rate
and size they were re-encoded to.

Classes: two label spaces, verb and noun, in the order of their official numbers.

Layout on disk: a segment is looked up in the root: first trimmed, as ``<narration_id>.mp4``; then as the video's
folder of frames (``P01/rgb_frames/P01_01/frame_0000000001.jpg``, ``rgb_frames/P01_01``,
``frames_rgb_flow/rgb/train/P01/P01_01``); then as the video (``P01/videos/P01_01.MP4``, ``P01/P01_01.MP4``,
``videos/P01_01.MP4``, ``P01_01.MP4``). The official tar files of frames have to be unpacked, each into a folder of its
name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Annotated, Any

from gesta.config import Between, config
from gesta.data.listfile import read_rows
from gesta.data.locate import VideoFinder, check_root, find_list
from gesta.errors import GestaError
from gesta.records import DataConfig, Record, SplitName
from gesta.video.images import holds_frames

LISTS: dict[SplitName, str] = {
    "train": "EPIC_100_train.csv",
    "val": "EPIC_100_validation.csv",
    "test": "EPIC_100_test_timestamps.csv",
}
SPACES = ("verb", "noun")

_TIME = re.compile(r"(\d+):(\d{2}):(\d{2}(?:\.\d+)?)")


@config
class EPICKitchens(DataConfig):
    """EPIC-KITCHENS-100 by its official lists.

    A record is one segment, named by its ``narration_id``; its label is ``{"verb": 0 to 96, "noun": 0 to 299}``.

    Attributes:
        root: folder of the videos or frames.
        annotations: folder of ``EPIC_100_train.csv``, ``EPIC_100_verb_classes.csv`` and so on; by default the root, its
            folder ``annotations`` or ``labels``, or the same beside it.
        frame_rate: frames per second at which folders of frames were extracted, if they are not the official ones.
    """

    root: str = "data/epic_kitchens"
    annotations: str = ""
    frame_rate: Annotated[float, Between(0, 1000)] = 0.0

    def records(self, split: SplitName) -> list[Record]:
        """The segments of a list in its order. Frames that are still packed are refused."""
        check_root(self.root)
        path = self._list(LISTS[split], required=split != "test")
        if not path:
            return []
        sizes = {space: len(names) for space, names in self.classes().items()}
        trimmed = VideoFinder([self.root, os.path.join(self.root, "clips")])
        finder = VideoFinder([self.root])
        sources: dict[str, str] = {}  # video → its folder of frames, or its file
        records = []
        for row in read_rows(path):
            try:
                name, video = row["narration_id"], row["video_id"]
                times = _seconds(row["start_timestamp"]), _seconds(row["stop_timestamp"])
                start, end = int(row["start_frame"]) - 1, int(row["stop_frame"])
                label = None if split == "test" else {space: int(row[f"{space}_class"]) for space in SPACES}
                if label and not all(0 <= label[space] < sizes[space] for space in SPACES):
                    raise ValueError
            except (KeyError, TypeError, ValueError):
                raise GestaError(
                    f"{path}: {','.join(map(str, row.values()))!r} is not a line of the official list; get it again"
                ) from None
            record: dict[str, Any] = {"name": name, "label": label}
            if trimmed_path := trimmed.find(f"{name}.mp4"):
                records.append(Record(path=trimmed_path, **record))
                continue
            if video not in sources:
                sources[video] = _frames_or_video(finder, self.root, video)
            source = sources[video]
            if not os.path.isdir(source):
                records.append(Record(path=source, seconds=times, **record))
                continue
            if self.frame_rate:
                start, end = int(times[0] * self.frame_rate), int(times[1] * self.frame_rate) + 1
            records.append(Record(path=source, start=max(start, 0), end=max(end, start + 1), **record))
        return records

    def groups(self, records: Sequence[Record]) -> dict[str, dict[str, list[int]]]:
        """The parts that the challenge reports: ``unseen`` participants, and ``tail`` classes.

        A verb or noun is of the tail if the official lists of tail classes have it, an action if its verb or its noun
        is. A part is left out if its list is missing, or none of the labelled records belongs to it.
        """
        labels = [record.label if isinstance(record.label, dict) else {} for record in records]
        labelled = [i for i, label in enumerate(labels) if label]
        unseen = self._column("EPIC_100_unseen_participant_ids_validation.csv", "participant_id")
        tail_classes = {space: self._column(f"EPIC_100_tail_{space}s.csv", space) for space in SPACES}
        of_unseen = [i for i in labelled if records[i].name.split("_")[0] in unseen]
        tail = {space: [i for i in labelled if str(labels[i][space]) in tail_classes[space]] for space in SPACES}
        tail["action"] = sorted({i for positions in tail.values() for i in positions})
        groups = {"unseen": dict.fromkeys((*SPACES, "action"), of_unseen), "tail": tail}
        nonempty = {group: {s: positions for s, positions in by.items() if positions} for group, by in groups.items()}
        return {group: by for group, by in nonempty.items() if by}

    def _column(self, name: str, column: str) -> set[str]:
        path = self._list(name, required=False)
        return {row.get(column, "") for row in read_rows(path)} if path else set()

    def classes(self) -> dict[str, list[str]]:
        """The 97 verbs and 300 nouns in the order of their numbers."""
        return {space: self._names(space) for space in SPACES}

    def _names(self, space: str) -> list[str]:
        path = self._list(f"EPIC_100_{space}_classes.csv")
        rows = read_rows(path)
        try:
            names = [row["key"] for row in rows]
            if [int(row["id"]) for row in rows] != list(range(len(rows))) or not names:
                raise ValueError
        except (KeyError, TypeError, ValueError):
            raise GestaError(f"{path}: is not the official list of {space} classes; get it again") from None
        return names

    def _list(self, name: str, required: bool = True) -> str:
        return find_list(self.annotations, self.root, (name,), required)


def _frames_or_video(finder: VideoFinder, root: str, video: str) -> str:
    """The folder of frames of a video, or the video."""
    person = video.split("_")[0]
    frames = [f"{person}/rgb_frames/{video}", f"rgb_frames/{video}", f"{person}/{video}", video]
    frames += [f"frames_rgb_flow/rgb/{part}/{person}/{video}" for part in ("train", "test")]
    for name in frames:
        if os.path.isdir(path := os.path.join(root, name)) and holds_frames(_first_names(path)):
            return path
    files = [f"{person}/videos/{video}.MP4", f"{person}/{video}.MP4", f"videos/{video}.MP4", f"{video}.MP4"]
    for name in files:
        if (file := finder.find(name)) and os.path.isfile(file):
            return file
    for name in frames:
        if os.path.isfile(tar := os.path.join(root, f"{name}.tar")):
            raise GestaError(
                f"{tar}: is still packed; unpack it into a folder of its name: "
                f"mkdir {tar[:-4]} && tar -xf {tar} -C {tar[:-4]}"
            )
    return os.path.join(root, files[0])


def _first_names(folder: str) -> list[str]:
    """A few names of a folder, which may hold a hundred thousand."""
    with os.scandir(folder) as entries:
        return [entry.name for entry, _ in zip(entries, range(8))]


def _seconds(text: str) -> float:
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError
    return 3600 * int(match[1]) + 60 * int(match[2]) + float(match[3])
