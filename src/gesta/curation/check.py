"""Problems of a data set, found before a training starts: every file is decoded, every label counted."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, NamedTuple

from gesta.curation.describe import describe as describe
from gesta.data.clips import span
from gesta.data.listfile import alike_classes, joined_classes
from gesta.data.lists import Folder, Lists
from gesta.data.shards import Shards
from gesta.data.transforms import names_a_side
from gesta.data.workers import run_each
from gesta.errors import GestaError, in_callers_terms
from gesta.model import ClipSpec
from gesta.processes import loader_workers
from gesta.progress import join_lines, track
from gesta.records import LABEL, SPLITS, ClassNames, DataConfig, Record, by_space, classes_in, label_in, single_class
from gesta.video.archive import locate, read_bytes, read_index
from gesta.video.boundary import decoding
from gesta.video.deadline import KILL_AFTER_S, TIMEOUT_S, Deadline
from gesta.video.find import is_video_name, walk
from gesta.video.images import image_files
from gesta.video.modality import Shows, modality_of
from gesta.video.picture import squared_size
from gesta.video.probe import VideoInfo, probe

Severity = Literal["error", "warning", "info"]
MAX_PRINTED = 10
"""Findings of one kind that are printed; the others are counted (``--json`` has them all)."""
IMBALANCE = 10
"""A class this many times rarer than the most frequent one gets a warning."""

LATE_S = 0.5
"""Seconds after its container's beginning from which on a picture begins late, or by which a segment ends too late."""


@dataclass(frozen=True, slots=True)
class DataFinding:
    """One thing that is wrong or worth knowing: ``text`` is one sentence with the file and the remedy."""

    severity: Severity
    kind: str
    text: str


@dataclass
class CheckReport:
    """The result of :func:`check`.

    Attributes:
        findings: errors first, then warnings and infos.
        splits: records per split.
        videos: different files or frame folders among them.
        frames: frames decoded, all together.
    """

    findings: list[DataFinding] = field(default_factory=list)
    splits: dict[str, int] = field(default_factory=dict)
    videos: int = 0
    frames: int = 0

    @property
    def ok(self) -> bool:
        """Whether there is no error (warnings do not count)."""
        return not any(finding.severity == "error" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {"ok": self.ok, **asdict(self)}

    def __str__(self) -> str:
        counts = Counter(finding.severity for finding in self.findings)
        splits = ", ".join(f"{name} {count}" for name, count in self.splits.items() if count)
        lines = [f"{self.videos} videos with {self.frames} frames decoded ({splits or 'no records'})"]
        kinds: dict[tuple[str, str], list[str]] = {}
        for finding in self.findings:
            kinds.setdefault((finding.severity, finding.kind), []).append(finding.text)
        for (severity, kind), texts in kinds.items():
            lines += ["", f"{severity}: {kind} ({len(texts)})", *(f"  {text}" for text in texts[:MAX_PRINTED])]
            if len(texts) > MAX_PRINTED:
                lines.append(f"  … and {len(texts) - MAX_PRINTED} more (--json lists all)")
        total = ", ".join(f"{counts[s]} {s}{'s' * (counts[s] != 1)}" for s in ("error", "warning", "info") if counts[s])
        return join_lines([*lines, "", total or "no problem found"])


class _Decoded(NamedTuple):
    """What decoding one video gave."""

    info: VideoInfo | None
    problem: str  # why there is no info
    digest: str  # of the bytes of the file or of all images


def check(
    data: DataConfig | Mapping[str, Sequence[Record]] | Sequence[Record],
    clip: ClipSpec | None = None,
    flip: bool = True,
    workers: int = -1,
    progress: bool = True,
    seconds: float = TIMEOUT_S,
) -> CheckReport:
    """Decode every video completely and look at every label.

    Errors make a training or its numbers wrong: videos that cannot be decoded, labels out of range, one video in two
    splits or under two labels. Warnings make it worse: damaged, short or repeated videos, no validation videos, classes
    without, with one or with few training videos, class names that are written alike or become wrong when clips are
    mirrored. Infos explain.

    Args:
        data: a data set, records by split, or records (taken as the training split).
        clip: warn of videos that are shorter than such a clip.
        flip: whether training will mirror clips.
        workers: processes that decode; -1 chooses by the number of CPU cores.
        progress: show a progress bar.
        seconds: timeout of a file, to which one second for each 128 kB, or for each image of a folder, is added.

    Raises:
        GestaError: a list or folder that cannot be read at all.
    """
    if isinstance(data, DataConfig):
        splits: dict[str, list[Record]] = {split: data.records(split) for split in SPLITS}
        classes: ClassNames | None = data.classes()
    elif isinstance(data, Mapping):
        splits, classes = {name: list(records) for name, records in data.items()}, None
    else:
        splits, classes = {"train": list(data)}, None
    paths = {s.path: s.shows for records in splits.values() for record in records for s in record.streams}
    decoding = _decode_all(paths, loader_workers(workers), seconds)
    decoded = dict(track(decoding, "decoding", len(paths)) if progress else decoding)
    findings = [
        *_check_files(decoded, clip),
        *_check_segments(splits, decoded),
        *_check_pairs(splits, decoded),
        *_check_repeats(splits, decoded),
    ]
    if isinstance(data, Folder | Lists) and splits["train"] and not splits["val"]:  # official splits have none
        text = (
            "the data set has no validation videos, by which a training tells its best epoch; hold some out (of "
            "folders --data.val 0.2, of lists --data.val-fraction 0.2)"
        )
        findings.append(DataFinding("warning", "no validation videos", in_callers_terms(text)))
    for space, names in by_space(classes).items():
        in_space = {s: [replace(r, label=label_in(r, space)) for r in records] for s, records in splits.items()}
        findings += _check_labels(in_space, names)
        if flip and names:
            findings += _check_mirroring(names)
    if isinstance(data, Folder):
        rgb = replace(data, modality="rgb", flow="")  # the videos that lie in the folder itself
        own = set(paths) if data.modality == "rgb" else {r.path for split in SPLITS for r in rgb.records(split)}
        findings += _check_ignored(data, own)
        findings += _check_names(splits if len(data.split_folders()) > 1 else {})
    if isinstance(data, Shards):
        shards = [path for shards in data.shards().values() for path in shards]
        findings += _check_hidden([f"{path}#{name}" for path in shards for name in read_index(path).hidden])
    rank = {"error": 0, "warning": 1, "info": 2}
    findings.sort(key=lambda finding: rank[finding.severity])
    return CheckReport(
        findings=findings,
        splits={name: len(records) for name, records in splits.items()},
        videos=len(paths),
        frames=sum(video.info.frames for video in decoded.values() if video.info),
    )


# --- decoding --------------------------------------------------------------------------------------------------------


class _File(NamedTuple):
    """A video to decode, and its timeout in seconds, to which time for its size is added."""

    path: str
    shows: Shows | None
    timeout_s: float


def _decode_all(paths: Mapping[str, Shows | None], workers: int, timeout_s: float) -> Iterator[tuple[str, _Decoded]]:
    """Decode in several processes; a file that kills its process or takes too long is reported like any other."""
    files = [_File(path, shows, timeout_s) for path, shows in sorted(paths.items())]
    for position, decoded, reason in run_each(_decode, files, workers, _kill_after):
        path = files[position].path
        yield path, decoded or _Decoded(None, f"{path}: {reason}; take it off the list", "")


def _kill_after(file: _File) -> float:
    """Seconds after which a process is ended that hangs in a file and does not see its own deadline."""
    try:
        return Deadline(file.path, file.timeout_s).seconds + KILL_AFTER_S
    except GestaError:  # decoding the file will raise it again and report it
        return file.timeout_s + KILL_AFTER_S


def _decode(file: _File) -> _Decoded:
    path, shows, timeout_s = file
    digest = hashlib.blake2b(digest_size=16)
    try:
        with decoding(path, "cannot be read"):
            location = None if os.path.isdir(path) else locate(path)
            if location is None and not os.path.isdir(path):
                wrong = "is neither a file nor a folder; give" if os.path.exists(path) else "does not exist; copy"
                return _Decoded(None, f"{path}: {wrong} the video, or take it off the list", "")
            deadline = Deadline(path, timeout_s)
            images = [] if location else image_files(path, modality_of(shows))
            for part in filter(None, [location, *map(locate, images)]):
                for block in deadline.guard(read_bytes(part)):
                    digest.update(block)
            if location and not location.size:
                return _Decoded(
                    None, f"{path}: is an empty file; copy or download it again, or take it off the list", ""
                )
            return _Decoded(probe(path, exact=True, shows=shows, deadline=deadline), "", digest.hexdigest())
    except GestaError as error:
        return _Decoded(None, str(error), digest.hexdigest())


# --- findings --------------------------------------------------------------------------------------------------------


def _check_files(decoded: Mapping[str, _Decoded], clip: ClipSpec | None) -> Iterator[DataFinding]:
    """What cannot be decoded, is damaged or is too short."""
    shortest = 0 if clip is None else clip.frames if clip.sampling == "uniform" or clip.shrink else span(clip)
    for path, (info, problem, _) in sorted(decoded.items()):
        if info is None:
            yield DataFinding("error", "cannot be decoded" if _exists(path) else "missing", problem)
            continue
        if info.damaged:
            text = f"{path}: {info.damaged} damaged packets or images, {info.frames} frames are left; get a better copy"
            yield DataFinding("warning", "damaged", text)
        if info.frames == 1:
            yield DataFinding(
                "warning", "one frame", f"{path}: is a single frame, without any motion; take it off the list"
            )
        elif info.frames < shortest:
            text = (
                f"{path}: has {info.frames} frames, a clip spans {shortest}; it will be repeated or held (short_videos)"
            )
            yield DataFinding("warning", "shorter than a clip", text)
        yield from _check_pictures(path, info)
        if info.declared_frames and info.declared_frames != info.frames:
            text = f"{path}: its header says {info.declared_frames} frames, gesta counts {info.frames} decoded ones"
            yield DataFinding("info", "wrong header", text)


def _exists(path: str) -> bool:
    try:
        return os.path.exists(path) or locate(path) is not None
    except GestaError:  # the system does not say
        return True


def _check_pictures(path: str, info: VideoInfo) -> Iterator[DataFinding]:
    """Times and pictures that are read otherwise than players show them, or slowly."""
    if info.contradictory_times:
        text = (
            f"{path}: its timestamps are repeated or run backwards, as in joined recordings, so each clip is decoded "
            "from its beginning; make a copy with gesta data prepare"
        )
        yield DataFinding("info", "contradictory times", text)
    if info.start > LATE_S:
        text = (
            f"{path}: its picture begins {info.start:.1f} s after its sound; segments in seconds count from the sound, "
            "but in a copy by gesta data prepare from the picture, so list those of copies in frames"
        )
        yield DataFinding("info", "begins late", text)
    if info.pixel_aspect != 1:
        width, height = squared_size(info.width, info.height, info.pixel_aspect)
        text = (
            f"{path}: its {info.width} x {info.height} pixels are shown as {width} x {height} by players and read as "
            "square by gesta, as by published systems; for what players show, make a copy with gesta data prepare"
        )
        yield DataFinding("info", "pixels not square", text)
    if info.interlaced:
        text = (
            f"{path}: its frames are two fields each, so moving edges look like combs; make a copy with gesta data "
            "prepare, which deinterlaces"
        )
        yield DataFinding("warning", "interlaced", text)
    if info.hdr:
        text = (
            f"{path}: its brightness is HDR (PQ or HLG), which is read without tone mapping, flat and dark; convert it "
            "to BT.709 first, for example with ffmpeg's filters zscale and tonemap"
        )
        yield DataFinding("warning", "HDR", text)


def _check_segments(splits: Mapping[str, Sequence[Record]], decoded: Mapping[str, _Decoded]) -> Iterator[DataFinding]:
    """Segments that end after their video, or before its picture begins."""
    for records in splits.values():
        for record in records:
            info = decoded[record.path].info
            last = max(record.start or 0, (record.end or 1) - 1)
            if info is not None and last >= info.frames:
                text = (
                    f"{record.path}: an entry names frame {last}, but it has {info.frames}; correct its start and end"
                )
                yield DataFinding("error" if (record.start or 0) >= info.frames else "warning", "beyond the end", text)
            if info is not None and info.duration and record.seconds is not None:
                begin, end = record.seconds
                last_s = info.start + info.duration
                if end < info.start or end > last_s + LATE_S:
                    text = (
                        f"{record.path}: an entry names {begin:g} to {end:g} s, but its picture is there from "
                        f"{info.start:.2f} to {last_s:.2f} s; correct its times"
                    )
                    severity: Severity = "error" if end < info.start or begin > last_s else "warning"
                    yield DataFinding(severity, "beyond the end", text)


def _check_pairs(splits: Mapping[str, Sequence[Record]], decoded: Mapping[str, _Decoded]) -> Iterator[DataFinding]:
    """Streams of one scene with different numbers of frames."""
    for record in {record.path: record for records in splits.values() for record in records}.values():
        counts = {stream.path: info.frames for stream in record.streams if (info := decoded[stream.path].info)}
        if len(set(counts.values())) > 1:
            listed = " and ".join(f"{path} {count}" for path, count in counts.items())
            text = f"frames of one scene: {listed}; gesta spreads both over the same time"
            yield DataFinding("info", "unequal pair", text)


def _check_repeats(splits: Mapping[str, Sequence[Record]], decoded: Mapping[str, _Decoded]) -> Iterator[DataFinding]:
    """The same content twice: the same segment of the same bytes, whatever the file is called."""
    by_content: dict[tuple[Any, ...], list[tuple[str, Record]]] = {}
    for split, records in splits.items():
        for record in records:
            content = decoded[record.path].digest or record.path
            by_content.setdefault((content, record.start, record.end, record.seconds), []).append((split, record))
    for group in by_content.values():
        split, first = group[0]
        for other_split, other in group[1:]:
            pair = f"{first.path} ({split}) and {other.path} ({other_split})"
            if first.label != other.label and None not in (first.label, other.label):
                text = f"{pair} are the same video under the labels {first.label} and {other.label}; keep one"
                yield DataFinding("error", "two labels", text)
            elif split != other_split:
                text = f"{pair} are the same video in two splits, which makes results too good; keep one"
                yield DataFinding("error", "in two splits", text)
            else:
                yield DataFinding("warning", "repeated", f"{pair} are the same video; keep one")


def _check_names(splits: Mapping[str, Sequence[Record]]) -> Iterator[DataFinding]:
    """Videos of one class and name, suffix aside, in the folders of two splits: perhaps a recording and its copy."""
    first: dict[str, tuple[str, Record]] = {}
    pairs = []
    for split, records in splits.items():
        for record in records:
            stem = os.path.splitext(record.name.partition("/")[2])[0]
            other_split, other = first.setdefault(stem, (split, record))
            if other_split != split:
                pairs.append(f"{other.path} and {record.path}")
    if pairs:
        text = f"{pairs[0]}: {len(pairs)} such pairs have one name in two splits; if they show the same, keep one"
        yield DataFinding("warning", "one name in two splits", text)


def _check_labels(splits: Mapping[str, Sequence[Record]], classes: Sequence[str] | None) -> Iterator[DataFinding]:
    """Missing labels, labels out of range, and classes with no or few training videos, or with all of them."""
    unlabelled = Counter(split for split, records in splits.items() for record in records if record.label is None)
    for split, count in unlabelled.items():
        text = f"{split}: {count} videos have no label; training and metrics cannot use them, so label or remove them"
        yield DataFinding("error" if split == "train" else "warning", "no label", text)
    train_labels = [record.label for record in splits.get("train", ()) if record.label is not None]
    multi_label = any(isinstance(label, tuple) for label in train_labels)
    train = Counter(k for record in splits.get("train", ()) for k in classes_in(record, LABEL))
    if not train:
        if "train" in splits and not splits["train"]:
            yield DataFinding(
                "warning", "no training videos", "the data set has no training videos; check its lists or folders"
            )
        return
    size = len(classes) if classes else max(train) + 1
    if not multi_label and (text := single_class(list(classes or []), train)):
        yield DataFinding("warning", "a single class", text)
    names = list(classes) if classes else [str(label) for label in range(size)]
    if not multi_label and (text := joined_classes(names)):
        yield DataFinding("warning", "several labels?", in_callers_terms(text))
    for text in alike_classes(classes or []):
        yield DataFinding("warning", "one class twice?", text)
    for split, records in splits.items():
        for record in records:
            if not all(0 <= k < size for k in classes_in(record, LABEL)):
                text = (
                    f"{record.path} ({split}): label {record.label}, but classes are 0 to {size - 1}; correct the list"
                )
                yield DataFinding("error", "label out of range", text)
    absent = [label for label in range(size) if not train[label]]
    if absent == [0] and size > 2:
        text = (
            f"no training video has label 0 ({names[0]}), all others occur: the list may count from 1; set label_base=1"
        )
        yield DataFinding("warning", "counts from 1?", text)
    elif absent:
        for label in absent:
            text = f"class {label} ({names[label]}) has no training video; add some or remove the class"
            yield DataFinding("warning", "class without videos", text)
    most = max(train.values())
    remedy = "add some" if multi_label else "try --train.balanced True"
    for label, count in sorted(train.items()):
        if count * IMBALANCE <= most and 0 <= label < size:
            text = f"class {label} ({names[label]}) has {count} training videos, another {most}; {remedy}"
            yield DataFinding("warning", "rare class", text)
        elif count == 1 and len(train) > 1 and 0 <= label < size:
            text = f"class {label} ({names[label]}) has one training video, which shows one way to do it; add some"
            yield DataFinding("warning", "one training video", text)
        if multi_label and count == len(train_labels) and 0 <= label < size:
            text = f"class {label} ({names[label]}) is in all training videos; add some without it or remove the class"
            yield DataFinding("warning", "class in all videos", text)


def _check_mirroring(classes: Sequence[str]) -> Iterator[DataFinding]:
    """Class names that a mirrored clip would contradict."""
    for name in filter(names_a_side, classes):
        text = (
            f"class {name!r} names a side, so its clips are not mirrored in training; name its mirror image with "
            "--train.augment.flip-labels to have both mirrored"
        )
        yield DataFinding("warning", "left and right", text)


def _check_ignored(data: Folder, known: set[str]) -> Iterator[DataFinding]:
    """Files below the data set's folder that belong to no class or are not known as videos."""
    ignored: list[str] = []
    hidden: list[str] = []
    for folder, folders, entries in walk(data.root):
        hidden += [os.path.join(folder, name) for name in os.listdir(folder) if name.startswith("._")]
        for child in folders:
            holds_known = any(video == child.path or video.startswith(child.path + os.sep) for video in known)
            if is_video_name(child.name) and not holds_known:
                text = f"{child.path}: is a folder that holds no video; put the file there"
                yield DataFinding("warning", "not a video", text)
        if folder in known:
            continue
        unknown = [entry.path for entry in entries if entry.path not in known]
        videos = [path for path in unknown if is_video_name(path)]
        if videos:
            text = f"{videos[0]}: {len(videos)} videos in this folder belong to no class; move them"
            yield DataFinding("warning", "outside the classes", text)
        ignored += [path for path in unknown if path not in videos]
    if ignored:
        text = f"{ignored[0]}: {len(ignored)} such files are not known as videos and were ignored"
        yield DataFinding("info", "not a video", text)
    yield from _check_hidden(hidden)


def _check_hidden(hidden: Sequence[str]) -> Iterator[DataFinding]:
    """What macOS writes beside files: hidden files that end like videos and are none."""
    if hidden:
        text = f"{hidden[0]}: {len(hidden)} such hidden files were ignored; macOS writes them, and they hold no video"
        yield DataFinding("info", "hidden", text)
