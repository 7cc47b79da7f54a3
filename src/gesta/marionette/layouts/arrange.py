"""The paths of videos and the annotation files of each public data set, for clips of the synthetic one.

One function per data set gives the videos and the texts of the annotation files, both by their path below the root.
Names, separators, ends of lines and the number of the first class are those of the genuine files. Who performs decides
the split, as in :mod:`gesta.marionette.dataset`.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from gesta.marionette.filming import AZIMUTHS, ClipName, count_frames
from gesta.marionette.layouts import names
from gesta.marionette.layouts.video import LayoutVideo
from gesta.marionette.motions.blocks import FPS
from gesta.records import SplitName


class LabelledClip(NamedTuple):
    """A clip, its split, and its action's name in the family."""

    clip: ClipName
    split: SplitName
    action: str


class LayoutFiles(NamedTuple):
    """The videos of a layout, and the texts of its annotation files by path."""

    videos: list[LayoutVideo]
    texts: dict[str, str]


# Subjects 11 to 14 are those of the test, 9 and 10 those of validation. Official splits 1 to 3 of UCF-101 test groups
# 1 to 7, 8 to 14 and 15 to 21.
UCF101_GROUPS = {11: 1, 12: 2, 13: 3, 14: 4, 1: 8, 4: 9, 7: 10, 2: 15, 5: 16, 8: 17, 3: 22, 6: 23, 9: 24, 10: 25}


def _in_test_split(subject: int, split: int) -> bool:
    return 7 * split - 6 <= UCF101_GROUPS[subject] <= 7 * split


def ucf101(clips: Sequence[LabelledClip], seed: int) -> LayoutFiles:
    """``UCF-101/Class/v_Class_g01_c01.avi``; classes count from 1, lines end with CRLF."""
    # sorted without regard to upper and lower case
    classes = sorted({names.UCF101[item.action] for item in clips}, key=str.casefold)
    videos, entries, counts = [], [], Counter[str]()
    for item in clips:
        name, group = names.UCF101[item.action], UCF101_GROUPS[item.clip.subject]
        stem = f"v_{'HandStandPushups' if name == 'HandstandPushups' else name}_g{group:02}"
        counts[stem] += 1
        entry = f"{name}/{stem}_c{counts[stem]:02}.avi"
        videos.append(LayoutVideo(f"UCF-101/{entry}", (item.clip,), "xvid"))
        entries.append((classes.index(name) + 1, entry, item.clip.subject))
    entries.sort()
    texts = {"classInd.txt": [f"{number} {name}" for number, name in enumerate(classes, 1)]}
    for split in (1, 2, 3):
        train = [f"{entry} {label}" for label, entry, subject in entries if not _in_test_split(subject, split)]
        texts[f"trainlist{split:02}.txt"] = train
        texts[f"testlist{split:02}.txt"] = [entry for _, entry, subject in entries if _in_test_split(subject, split)]
    return LayoutFiles(videos, {f"ucfTrainTestlist/{name}": _text(lines, "\r\n") for name, lines in texts.items()})


def hmdb51(clips: Sequence[LabelledClip], seed: int) -> LayoutFiles:
    """``hmdb51_org/class/title_class_….avi``; a list per class and split, whose lines end with a blank.

    Subjects of validation are in neither part of a split (code 0).
    """
    videos, counts = [], Counter[str]()
    texts: dict[str, list[str]] = {}
    for item in clips:
        name, subject, turn = names.HMDB51[item.action], item.clip.subject, AZIMUTHS[item.clip.camera - 1]
        title = f"Puppet_{subject}__[_take_]_UPDATED!!_&_more" if subject % 4 == 1 else f"Puppet_Theatre_{subject}"
        view = "fr" if abs(turn) < 30 else "le" if turn < 0 else "ri"
        stem = f"{title}_{name}_f_{'cm' if subject % 2 else 'nm'}_np1_{view}_med"
        counts[stem] += 1
        clip = f"{stem}_{counts[stem] - 1}.avi"
        videos.append(LayoutVideo(f"hmdb51_org/{name}/{clip}", (item.clip,), "xvid"))
        for split in (1, 2, 3):
            code = 0 if item.split == "val" else 2 if _in_test_split(subject, split) else 1
            path = f"testTrainMulti_7030_splits/{name}_test_split{split}.txt"
            texts.setdefault(path, []).append(f"{clip} {code} ")
    return LayoutFiles(videos, {path: _text(sorted(lines)) for path, lines in texts.items()})


def kinetics400(clips: Sequence[LabelledClip], seed: int) -> LayoutFiles:
    """As the official crawler stores it: ``class with spaces/<id>_000012_000022.mp4``; ``test/`` without labels."""
    videos, rows = [], _by_split()
    for item in clips:
        name, rng = names.KINETICS400[item.action], _generator(seed, item.clip)
        clip, start = _youtube_id(rng), int(rng.integers(0, 400))
        folder = "test" if item.split == "test" else name
        videos.append(LayoutVideo(f"{folder}/{clip}_{start:06}_{start + 10:06}.mp4", (item.clip,)))
        row = f"{clip},{start},{start + 10},{item.split}"
        rows[item.split].append(row if item.split == "test" else f"{name},{row},{rng.integers(0, 2)}")
    header = "youtube_id,time_start,time_end,split"
    headers = {"train": f"label,{header},is_cc", "val": f"label,{header},is_cc", "test": header}
    texts = {f"kinetics-400_{split}.csv": _text([headers[split], *sorted(lines)]) for split, lines in rows.items()}
    return LayoutFiles(videos, texts)


def something_v1(clips: Sequence[LabelledClip], seed: int) -> LayoutFiles:
    """``20bn-something-something-v1/<id>/00001.jpg``; lists of ``id;text`` without header."""
    videos, lines = [], _by_split()
    for item in clips:
        number = _something_id(seed, item.clip)
        videos.append(LayoutVideo(f"20bn-something-something-v1/{number}", (item.clip,)))
        text = "" if item.split == "test" else f";{_without_brackets(names.SOMETHING[item.action])}"
        lines[item.split].append(f"{number}{text}")
    used = {item.action for item in clips}
    classes = [_without_brackets(text) for action, text in names.SOMETHING.items() if action in used]
    lists = {"labels": classes, "train": lines["train"], "validation": lines["val"], "test": lines["test"]}
    return LayoutFiles(videos, {f"something-something-v1-{name}.csv": _text(rows) for name, rows in lists.items()})


def something_v2(clips: Sequence[LabelledClip], seed: int) -> LayoutFiles:
    """``20bn-something-something-v2/<id>.webm`` (VP9); lists and labels as JSON, numbers as strings."""
    videos, entries = [], _by_split()
    for item in clips:
        number, template = str(_something_id(seed, item.clip)), names.SOMETHING[item.action]
        videos.append(LayoutVideo(f"20bn-something-something-v2/{number}.webm", (item.clip,), "vp9"))
        entry: dict[str, object] = {"id": number}
        if item.split != "test":
            words = ["a cup", "a box"][: template.count("[")]
            label = template.replace("[something]", "{}").format(*words)
            entry |= {"label": label.lower(), "template": template, "placeholders": words}
        entries[item.split].append(json.dumps(entry, separators=(",", ":")))
    classes = sorted({_without_brackets(names.SOMETHING[item.action]) for item in clips})
    numbers = [f' {json.dumps(name)}:"{number}"' for number, name in enumerate(classes)]
    lists = {"train": entries["train"], "validation": entries["val"], "test": entries["test"]}
    texts = {name: "[\n" + ",\n".join(rows) + "\n]" for name, rows in lists.items()}
    texts["labels"] = "{\n" + ",\n".join(numbers) + "\n}"
    return LayoutFiles(videos, {f"something-something-v2-{name}.json": text for name, text in texts.items()})


def diving48(clips: Sequence[LabelledClip], seed: int) -> LayoutFiles:
    """``rgb/<vid_name>.mp4`` of several frame rates; the vocabulary lists each class's four parts."""
    used = {item.action for item in clips}
    classes = [action for action in names.DIVING48 if action in used]
    videos, counts = [], Counter[int]()
    entries: dict[str, list[dict[str, object]]] = {"train": [], "test": []}
    for item in clips:
        subject = item.clip.subject  # stands for a source video, which is in one list only
        name = f"{_youtube_id(np.random.default_rng([seed, 2, subject]))}_{counts[subject]:05}"
        counts[subject] += 1
        rate = (Fraction(25), Fraction(60), Fraction(30_000, 1001))[subject % 3]
        videos.append(LayoutVideo(f"rgb/{name}.mp4", (item.clip,), rate=rate))
        last = count_frames(item.clip, seed, LAYOUT_FAMILIES["diving48"]) - 1
        entry = {"vid_name": name, "label": classes.index(item.action), "start_frame": 0, "end_frame": last}
        entries["test" if item.split == "test" else "train"].append(entry)
    texts = {f"Diving48_V2_{split}.json": json.dumps(rows, indent=2) for split, rows in entries.items()}
    texts["Diving48_vocab.json"] = json.dumps([names.DIVING48[action].split() for action in classes], indent=2)
    return LayoutFiles(videos, texts)


_EPIC = "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,stop_frame"
_EPIC_LABELS = ",narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes"


def epic_kitchens(clips: Sequence[LabelledClip], seed: int) -> LayoutFiles:
    """``P01/videos/P01_01.MP4``, a long video per participant; segments by time and, at 60 or 50 per second, number."""
    pairs = {item.action: names.EPIC[item.action].split() for item in clips}
    verbs = [verb for verb in names.EPIC_VERBS if any(verb == pair[0] for pair in pairs.values())]
    nouns = [noun for noun in names.EPIC_NOUNS if any(noun == pair[1] for pair in pairs.values())]
    videos, rows = [], _by_split()
    for subject in sorted({item.clip.subject for item in clips}):
        of_subject = [item for item in clips if item.clip.subject == subject]
        person, nominal = f"P{subject:02}", 60 if subject % 2 else 50
        video = f"{person}_{'01' if nominal == 60 else '101'}"
        frame = 0  # at which the next clip begins
        for number, item in enumerate(of_subject):
            begin, frame = frame / FPS, frame + count_frames(item.clip, seed, LAYOUT_FAMILIES["epic_kitchens"])
            end = frame / FPS
            row = f"{video}_{number},{person},{video},{_timestamp(begin + 0.2, 3)},{_timestamp(begin)},"
            row += f"{_timestamp(end)},{int(begin * nominal) or 1},{int(end * nominal)}"
            if item.split != "test":
                verb, noun = pairs[item.action]
                row += f",{verb} {noun},{verb},{verbs.index(verb)},{noun},{nouns.index(noun)}"
                row += f",['{noun}'],[{nouns.index(noun)}]"
            rows[item.split].append(row)
        videos.append(LayoutVideo(f"{person}/videos/{video}.MP4", tuple(item.clip for item in of_subject)))
    texts = {
        "EPIC_100_train.csv": _text([_EPIC + _EPIC_LABELS, *rows["train"]]),
        "EPIC_100_validation.csv": _text([_EPIC + _EPIC_LABELS, *rows["val"]]),
        "EPIC_100_test_timestamps.csv": _text([_EPIC, *rows["test"]]),
    }
    for space, keys, groups in (("verb", verbs, names.EPIC_VERBS), ("noun", nouns, names.EPIC_NOUNS)):
        of_classes = [f"{number},{key},\"['{key}']\",{groups[key]}" for number, key in enumerate(keys)]
        texts[f"EPIC_100_{space}_classes.csv"] = _text(["id,key,instances,category", *of_classes])
    return LayoutFiles(videos, texts)


NTU_SETUP = 8
# setup 8 has eight performers for training and six for testing, as Marionette has subjects
NTU_PERFORMERS = {1: 1, 2: 8, 3: 15, 4: 19, 5: 25, 6: 31, 7: 34, 8: 35, 9: 7, 10: 29, 11: 30, 12: 32, 13: 33, 14: 36}


def ntu(clips: Sequence[LabelledClip], seed: int) -> LayoutFiles:
    """``nturgb+d_rgb/S008C001P001R001A008_rgb.avi`` and masked depth; a list of the samples that are absent."""
    videos, counts = [], Counter[str]()
    for item in clips:
        azimuth = AZIMUTHS[item.clip.camera - 1]
        camera = 1 if abs(azimuth) < 20 else 2 if azimuth < 0 else 3
        start = f"S{NTU_SETUP:03}C{camera:03}P{NTU_PERFORMERS[item.clip.subject]:03}"
        end = f"A{names.NTU[item.action]:03}"
        counts[start + end] += 1
        name = f"{start}R{counts[start + end]:03}{end}"
        videos.append(LayoutVideo(f"nturgb+d_rgb/{name}_rgb.avi", (item.clip,), masked=f"nturgb+d_depth_masked/{name}"))
    present = {video.masked.split("/")[1] for video in videos}
    samples = itertools.product((1, 2, 3), sorted(NTU_PERFORMERS.values()), (1, 2), range(1, 61))
    all_names = [f"S{NTU_SETUP:03}C{c:03}P{performer:03}R{r:03}A{action:03}" for c, performer, r, action in samples]
    absent = [name for name in all_names if name not in present]
    return LayoutFiles(videos, {"samples_not_here.txt": _text([f"{len(absent)} samples are not here.", "", *absent])})


def isogd(clips: Sequence[LabelledClip], seed: int) -> LayoutFiles:
    """``IsoGD_phase_1/train/001/M_00001.avi`` and ``K_00001.avi``, its depth; gestures count from 1, 0 is unknown."""
    phases = {"train": "IsoGD_phase_1/train", "val": "IsoGD_phase_1/valid", "test": "IsoGD_phase_2/test"}
    videos, lines = [], _by_split()
    for item in clips:
        phase, part = phases[item.split].split("/")
        number = len(lines[item.split]) + 1
        rgb, depth = (f"{part}/{(number + 199) // 200:03}/{kind}_{number:05}.avi" for kind in "MK")
        rate = (Fraction(421, 50), Fraction(257, 25), Fraction(987, 100))[number % 3]
        videos.append(LayoutVideo(f"{phase}/{rgb}", (item.clip,), "mpeg4", rate, grey=f"{phase}/{depth}"))
        lines[item.split].append(f"{rgb} {depth} {0 if item.split == 'test' else names.ISOGD[item.action]}")
    return LayoutFiles(videos, {f"{phases[split]}_list.txt": _text(rows) for split, rows in lines.items()})


_ALL = ucf101, hmdb51, kinetics400, something_v1, something_v2, diving48, epic_kitchens, ntu, isogd
LAYOUTS = {function.__name__: function for function in _ALL}

_OTHER = {"something_v1": "objects", "something_v2": "objects", "diving48": "fine", "epic_kitchens": "kitchen"}
LAYOUT_FAMILIES = {name: _OTHER.get(name, "coarse") for name in LAYOUTS}
"""Which family of actions each layout shows."""


def _by_split() -> dict[SplitName, list[str]]:
    return {"train": [], "val": [], "test": []}


def _text(lines: Sequence[str], end: str = "\n") -> str:
    return "".join(line + end for line in lines)


def _generator(seed: int, clip: ClipName) -> np.random.Generator:
    return np.random.default_rng([seed, 2, *clip])


def _youtube_id(rng: np.random.Generator) -> str:
    """A name of 11 characters; one in four begins with a dash."""
    letters = np.array(list("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"))
    name = "".join(rng.choice(letters, 11))
    return "-" + name[1:] if rng.random() < 0.25 else name


def _something_id(seed: int, clip: ClipName) -> int:
    """A number per clip from 1 to 220 847; all differ, since the factor and 220 847 have no common divisor."""
    number = ((clip.action * 14 + clip.subject) * 8 + clip.camera) * 20 + clip.take
    return 1 + (number * 100_003 + 7919 * seed) % 220_847


def _without_brackets(template: str) -> str:
    return template.replace("[", "").replace("]", "")


def _timestamp(seconds: float, digits: int = 2) -> str:
    minutes, remainder = divmod(round(seconds, digits), 60)
    return f"{int(minutes) // 60:02}:{int(minutes) % 60:02}:{remainder:0{digits + 3}.{digits}f}"
