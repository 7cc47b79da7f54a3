"""Records read into samples of views: augmented training clips, and the views of a test."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate, get_worker_info

from gesta.data.batch import Batch, Failure, Sample
from gesta.data.clips import test_indices, train_indices
from gesta.data.frame_cache import FrameCache, Reading
from gesta.data.person import crop_to_people, find_people, whole_side
from gesta.data.transforms import (
    augment,
    augment_box,
    crop_views,
    draw_crop_box,
    flip_targets,
    test_short_side,
    training_short_side,
)
from gesta.errors import GestaError, VideoError
from gesta.model import ClipSpec
from gesta.recipe import EvaluateConfig, TrainConfig
from gesta.records import LABEL, Label, Record, by_space, class_name
from gesta.video.boundary import decoding
from gesta.video.deadline import KILL_AFTER_S, TIMEOUT_S, Deadline
from gesta.video.flow import Flow
from gesta.video.modality import Modality, modality_of
from gesta.video.picture import Box
from gesta.video.read import Decoder, Frames, Selection, read_frames

ATTEMPTS = 10
"""Videos tried for one training sample before something is taken to be wrong with all of them."""

UNREADABLE = (VideoError, RuntimeError, MemoryError)
"""What reading a video and cropping its frames may raise, the latter for lack of memory; any other GestaError
(torchcodec is missing) is not the video's fault."""

S = TypeVar("S", bound=Selection)


@dataclass(frozen=True)
class TrainingDraws(Selection):
    """What is drawn for one training sample of a video with a known number of frames: which frames, and what follows.

    Attributes:
        label: of the sample, after mirroring.
        flips: which copies are mirrored.
        generators: one for each copy, in the state in which its crop is drawn next.
    """

    label: Label = None
    flips: tuple[bool, ...] = ()
    generators: tuple[torch.Generator, ...] = ()


class _RecordDataset:
    """Records that are read one at a time, in loader processes that may die of them or hang.

    Attributes:
        clip: the clip that a model expects.
        short_side, decoder: as :func:`read_record_frames` takes them.
        timeout_s: seconds that a record may take, besides those for its size.
        kill_after_s: seconds after that at which a loader process that still reads it is killed.
        cache: of decoded frames; None decodes them every time. A record that has killed a loader process is read
            without it from then on.
        reading: index of the record that each loader process reads, -1 for none; shared with them.
        crash_counts: how many loader processes have died of a record, by index.
        blocked: why a record is not tried again, by index.

    Raises:
        GestaError: the data are pairs and the model expects one stream.
    """

    enlarge = True  # whether smaller pictures are scaled up to the short side

    def __init__(self, records: Sequence[Record], clip: ClipSpec, short_side: int, decoder: Decoder) -> None:
        self.records = list(records)
        self.clip = clip
        self.short_side = short_side
        self.decoder: Decoder = decoder
        self.cache: FrameCache | None = None
        self.timeout_s, self.kill_after_s = TIMEOUT_S, KILL_AFTER_S
        self.reading = torch.empty(0, dtype=torch.int64)
        self.crash_counts: dict[int, int] = {}
        self.blocked: dict[int, str] = {}
        if not clip.streams and any(record.paired for record in self.records):
            raise GestaError(
                "the data gives several streams, of which the model takes only one: choose --data.modality rgb, depth "
                "or flow, or a model of several (gesta models '*rgbd*', '*fusion*')"
            )

    def __len__(self) -> int:
        return len(self.records)

    def read(self, index: int, select: Callable[[int], S], record: Record | None = None) -> Frames[S]:
        """Selected frames of a record (or of one of its streams); a loader process that hangs in it is killed.

        Raises:
            VideoError: it cannot be read, or it has killed or stopped loader processes before.
        """
        record = record or self.records[index]
        if index in self.blocked:
            raise VideoError(self.blocked[index])
        deadline = Deadline(record.path, self.timeout_s)
        with self._watched(index, deadline):
            return read_record_frames(
                record,
                select,
                self.short_side,
                self.decoder,
                deadline=deadline,
                enlarge=self.enlarge,
                cache=None if index in self.crash_counts else self.cache,
            )

    def readings(self) -> list[Reading]:
        """How each video of the records is read, of those streams that the model expects."""
        streams = [stream for index in range(len(self)) for stream in self.streams(index) if stream is not None]
        return [reading_of(stream, self.short_side, self.decoder, self.enlarge) for stream in streams]

    def read_streams(
        self, index: int, select: Callable[[int], S]
    ) -> tuple[list[Tensor | None], S | None, list[str], list[str]]:
        """The same moments of every stream that the model expects.

        ``select`` is asked for the first stream that can be read; of the others the frames at the same fractions of
        the segment are taken, which are the same numbers unless these streams have more or fewer frames.

        Returns:
            frames of each stream, or None where it does not exist or cannot be read; the selection, None without any
            stream; why streams cannot be read; which streams end too early.
        """
        first: Frames[S] | None = None
        images: list[Tensor | None] = []
        reasons, broken = [], []
        for stream in self.streams(index):
            images.append(None)
            if stream is None:
                continue
            try:
                if first is None:
                    first = self.read(index, select, stream)
                    images[-1], remark = first.images, first.broken
                else:
                    images[-1], _, _, remark = self.read(index, functools.partial(_same_moments, first), stream)
            except UNREADABLE as error:
                reasons.append(str(error))
            else:
                broken += [remark] * bool(remark)
        return images, None if first is None else first.selection, reasons, broken

    def streams(self, index: int) -> list[Record | None]:
        """A record once for each stream that the model expects, None for those that it does not have."""
        record = self.records[index]
        if not self.clip.streams:
            return [record]
        by_modality = {modality_of(stream.shows): stream for stream in record.streams}
        return [by_modality.get(modality) for modality in self.clip.streams]

    def modalities(self, index: int) -> tuple[Modality, ...]:
        """What the streams of a record show that the model expects, there or not."""
        return self.clip.streams or (modality_of(self.records[index].shows),)

    @contextlib.contextmanager
    def _watched(self, index: int, deadline: Deadline) -> Iterator[None]:
        """Let the main process know what this worker reads, and have the worker killed if it hangs in it."""
        worker = get_worker_info()
        if worker is None or worker.id >= len(self.reading):  # or a worker of somebody else's loader
            yield
            return
        self.reading[worker.id] = index
        has_alarm = hasattr(signal, "setitimer")
        if has_alarm:  # the system's: what hangs inside a decoder lets none of our threads run
            signal.setitimer(signal.ITIMER_REAL, deadline.seconds + self.kill_after_s)
        try:
            yield
        finally:
            if has_alarm:
                signal.setitimer(signal.ITIMER_REAL, 0)
            self.reading[worker.id] = -1

    def note_worker_deaths(self, workers: dict[int, int | None]) -> bool:
        """Note what dead loader processes were reading; returns whether they were reading anything.

        A record has failed if it ran out of time, or once two processes have died of it: the first may have been ended
        by somebody else, as when memory is short, or have read all of a video for the cache.

        Args:
            workers: number of each dead process → its exit status.
        """
        was_reading = False
        for number, status in workers.items():
            index = int(self.reading[number])
            if index < 0:
                continue
            was_reading = True
            self.crash_counts[index] = self.crash_counts.get(index, 0) + 1
            timed_out = status == -getattr(signal, "SIGALRM", 0)
            if (timed_out and self.cache is None) or self.crash_counts[index] > 1:
                reason = "is not read in time" if timed_out else f"kills the process that reads it (status {status})"
                self.blocked[index] = f"{self.records[index].path}: {reason}; take it off the list"
        return was_reading


def _same_moments(first: Frames[S], count: int) -> Selection:
    """What shows the same moments as the first stream in another one of ``count`` frames: the same fractions of it."""
    indices = first.selection.indices
    if count != first.count:
        indices = (2 * indices + 1) * count // (2 * first.count)  # the other's frame at the middle of a frame's time
    return Selection(indices)


class TrainingClips(_RecordDataset, Dataset[Sample]):
    """Augmented training clips; item ``(epoch, index)`` gives V = ``config.repeats`` clips of record ``index``.

    What a sample looks like depends on ``(config.seed, epoch, index, copy)`` alone, never on the order of calls or the
    worker, so a resumed run sees the same clips. A record that cannot be read is replaced by another one, drawn from
    ``(seed, epoch, index, attempt)``; ``sample["failures"]`` names what was skipped and ``sample["index"]`` is the
    record that is shown.

    Args:
        records: the training split; all labelled.
        clip: the model's input.
        config: seed, repeats, augmentation, short videos, decoder.
        classes: names in label order, by label space if there are several; they decide what may be flipped.
    """

    enlarge = False  # all crops are fractions of the picture, and are scaled once, to the model's size

    def __init__(
        self,
        records: Sequence[Record],
        clip: ClipSpec,
        config: TrainConfig,
        classes: Sequence[str] | dict[str, list[str]],
    ) -> None:
        super().__init__(records, clip, training_short_side(config.augment, clip.size), config.decoder)
        self.config = config
        for index in range(len(records) if clip.streams else 0):
            if None in self.streams(index):
                raise GestaError(
                    f"{records[index].name}: does not have all of {', '.join(clip.streams)}, which the model expects; "
                    "give them to it (--data.modality rgbd, rgb+flow …)"
                )
        self._check_flow()
        spaces = by_space(classes)
        pairs = config.augment.flip_labels
        flip_targets([name for names in spaces.values() for name in names], pairs)  # refuses what no space knows
        self.mirror = {
            space: flip_targets(names, {name: partner for name, partner in pairs.items() if class_name(name) in known})
            for space, names in spaces.items()
            for known in [set(map(class_name, names))]
        }

    def _check_flow(self) -> None:
        """Refuse augmentations that optical flow cannot have."""
        augmentation, kinds = self.config.augment, set(self.clip.streams)
        kinds = kinds or {modality_of(record.shows) for record in self.records}
        if "flow" in kinds and augmentation.randaugment:
            raise GestaError("augment.randaugment would change optical flow wrongly; set it to 0")
        if kinds == {"flow"} and (augmentation.color_jitter or augmentation.hue):
            raise GestaError("augment.color_jitter and augment.hue: optical flow has no colours; set them to 0")

    def __getitem__(self, item: tuple[int, int]) -> Sample:
        epoch, first_index = item
        failures: list[Failure] = []
        for attempt in range(min(ATTEMPTS, len(self.records))):
            index = self._substitute(epoch, first_index, attempt, failures) if attempt else first_index
            try:
                label, video = self.views(index, functools.partial(self.draw, epoch, index))
            except UNREADABLE as error:
                failures.append(Failure(index, self.records[index].name, str(error)))
                continue
            return Sample(video=video, label=label, index=index, failures=failures, partial=[])
        raise GestaError(
            f"training videos cannot be read, {len(failures)} in a row, the last one: {failures[-1].reason}; "
            "gesta data check lists all such videos"
        )

    def _substitute(self, epoch: int, index: int, attempt: int, failures: Sequence[Failure]) -> int:
        """The record that is shown instead of ``index`` at the given attempt: one that has not failed yet."""
        generator = seeded_generator(self.config.seed, epoch, index, "substitute", attempt)
        substitute = int(torch.randint(len(self.records), (), generator=generator))
        while any(failure.index == substitute for failure in failures):
            substitute = (substitute + 1) % len(self.records)
        return substitute

    def draw(self, epoch: int, index: int, n: int) -> TrainingDraws:
        """Frames and mirroring of a record's copies, if it has ``n`` frames: always the same for the same arguments.

        Of a single copy that is not turned only the crop's box is read, and ``crop`` draws it; the order of the draws
        (frames, flip, box, the others) and the pixels are the same either way.
        """
        config, spec = self.config, self.clip
        generators = tuple(seeded_generator(config.seed, epoch, index, copy) for copy in range(config.repeats))
        indices = torch.stack([train_indices(n, spec, config.short_videos, g) for g in generators])
        label, flips = self._flips(self.records[index].label, generators)

        def crop(height: int, width: int) -> Box:
            return draw_crop_box(config.augment, height, width, spec.size, generators[0], spec.squash)

        return TrainingDraws(indices, crop if self._reads_box_only(index) else None, label, flips, generators)

    def _reads_box_only(self, index: int) -> bool:
        record = self.records[index]
        whole = self.config.augment.rotate or record.masks or isinstance(record.shows, Flow) or self.clip.streams
        return self.config.repeats == 1 and not whole

    def views(self, index: int, select: Callable[[int], TrainingDraws]) -> tuple[Label, Tensor]:
        """A record's label and its augmented copies ``(V, T, C, H, W)``."""
        config = self.config.augment
        if self._reads_box_only(index):
            (clip,), draws, *_ = self.read(index, select)
            return draws.label, augment_box(clip, config, self.clip, draws.flips[0], draws.generators[0])[None]
        streams, selection, reasons, _ = self.read_streams(index, select)
        if reasons or selection is None:
            raise VideoError("; ".join(reasons))
        copies = zip(*(stream for stream in streams if stream is not None))
        modalities = self.modalities(index)
        views = [
            augment(copy, config, self.clip, flip, generator, modalities)
            for copy, flip, generator in zip(copies, selection.flips, selection.generators)
        ]
        return selection.label, torch.stack(views)

    def _flips(self, label: Label, generators: Sequence[torch.Generator]) -> tuple[Label, tuple[bool, ...]]:
        """Which copies to mirror, and the label they then have.

        A sample has one label, so the copies of a class that has a partner are mirrored all or none.
        """
        mirrored, may_be = self._mirrored(label)
        flips = tuple(float(torch.rand((), generator=g)) < self.config.augment.flip for g in generators)
        if may_be and mirrored == label:
            return label, flips
        if may_be and flips[0]:
            return mirrored, (True,) * len(flips)
        return label, (False,) * len(flips)

    def _mirrored(self, label: Label) -> tuple[Label, bool]:
        """The label of a video in a mirror, and whether all of its classes may be mirrored."""
        if isinstance(label, tuple):
            partners = [self.mirror[LABEL][k] for k in label]
            return tuple(sorted(k for k in partners if k is not None)), None not in partners
        if not isinstance(label, dict):
            partner = None if label is None else self.mirror[LABEL][label]
            return partner, partner is not None or label is None
        mirrored = {space: self.mirror[space][k] for space, k in label.items()}
        may_be = None not in mirrored.values()
        return {space: k for space, k in mirrored.items() if k is not None}, may_be


class TestViews(_RecordDataset, Dataset[Sample | Failure]):
    """All test views of a record: item ``index`` gives V = clips x crops views, clip by clip, or a :class:`Failure`.

    A stream that a record does not have or that cannot be read is black, which tells a model of several that it has to
    do without. One that cannot be read is named in ``sample["partial"]``, as is a video whose end is missing, which is
    read as far as it goes.

    Raises:
        GestaError: the protocol's short side is shorter than the crop, or the data are pairs and the model is not.
    """

    __test__ = False  # pytest would take the name for a test

    def __init__(self, records: Sequence[Record], clip: ClipSpec, config: EvaluateConfig) -> None:
        super().__init__(records, clip, test_short_side(config.short_side, clip.size), config.decoder)
        self.config = config
        if self.short_side < clip.size:
            raise GestaError(
                f"evaluate.short_side {config.short_side} is smaller than the crop; it must be at least 224"
            )

    def __getitem__(self, index: int) -> Sample | Failure:
        record, config, spec = self.records[index], self.config, self.clip
        streams, _, reasons, broken = self.read_streams(index, functools.partial(self.select, index))
        views = [
            None if clips is None else crop_views(clips, spec.size, config.crops, spec.squash, modality)
            for clips, modality in zip(streams, self.modalities(index))
        ]
        some = next((view for view in views if view is not None), None)
        if some is None:
            has = " and ".join(modality_of(stream.shows) for stream in record.streams)
            none = f"{record.name}: has {has}, and none of what the model takes: {' and '.join(self.clip.streams)}"
            return Failure(index, record.name, "; ".join(reasons) or none)
        video = torch.cat([torch.zeros_like(some) if view is None else view for view in views], 2)
        reasons += broken
        partial = [Failure(index, record.name, "; ".join(reasons))] if reasons else []
        return Sample(video=video, label=record.label, index=index, failures=[], partial=partial)

    def select(self, index: int, n: int) -> Selection:
        """The frames ``(clips, T)`` of a record of ``n`` frames."""
        config = self.config
        return Selection(test_indices(n, self.clip, config.clips, config.coverage, config.short_videos))


def read_record(record: Record, choose: Callable[[int], Tensor | np.ndarray], short_side: int) -> Tensor:
    """Chosen frames of a record, as :func:`gesta.video.read.read` gives them; by ``masks`` cropped to people."""
    return read_record_frames(record, lambda n: Selection(torch.as_tensor(choose(n))), short_side).images


def read_record_frames(
    record: Record,
    select: Callable[[int], S],
    short_side: int,
    decoder: Decoder = "pyav",
    deadline: Deadline | None = None,
    enlarge: bool = True,
    cache: FrameCache | None = None,
) -> Frames[S]:
    """Selected frames of a record, as :func:`gesta.video.read.read_frames` gives them; by ``masks`` cropped to people.

    Either the record has ``masks``, and frames of one size, or the selection may have a ``crop``.
    """
    path, options = reading_of(record, short_side, decoder, enlarge)
    read = cache.read_frames if cache else read_frames
    options["deadline"] = deadline
    frames = read(path, select, **options)
    if not record.masks:
        return frames
    indices = frames.selection.indices
    with decoding(record.masks):
        modality = modality_of(record.shows)
        people = find_people(record.masks, indices + (record.start or 0))
        images = crop_to_people(frames.images.flatten(0, -4), people, modality)
    return frames._replace(images=images.unflatten(0, indices.shape))


def reading_of(record: Record, short_side: int, decoder: Decoder, enlarge: bool) -> Reading:
    """The file of a record and how its frames are read, before people are cropped by its masks."""
    return record.path, {
        "short_side": whole_side(short_side, modality_of(record.shows)) if record.masks else short_side,
        "start": record.start,
        "end": record.end,
        "seconds": record.seconds,
        "shows": record.shows,
        "decoder": decoder,
        "enlarge": enlarge or bool(record.masks),
    }


def collate(samples: Sequence[Sample | Failure], stack: Callable[[list[Tensor]], Tensor] = default_collate) -> Batch:
    """Stack samples; failures among them are passed on, and a batch of failures only has B = 0.

    In a worker process ``default_collate`` stacks them where the main process finds them: no copy on the way there.
    """
    failures = [sample for sample in samples if isinstance(sample, Failure)]
    good = [sample for sample in samples if not isinstance(sample, Failure)]
    labels = [{} if s["label"] is None else by_space(s["label"]) for s in good]
    spaces = sorted({space for label in labels for space in label}) or [LABEL]
    columns: dict[str, list[Any]] = {s: [label.get(s, -1) for label in labels] for s in spaces}
    if any(isinstance(s["label"], tuple) for s in good):
        columns = {LABEL: _equally_long([s["label"] if isinstance(s["label"], tuple) else () for s in good])}
    return Batch(
        video=stack([s["video"] for s in good]) if good else torch.empty((0, 0, 0, 3, 0, 0), dtype=torch.uint8),
        label={space: torch.tensor(column, dtype=torch.int64) for space, column in columns.items()},
        index=torch.tensor([s["index"] for s in good], dtype=torch.int64),
        failures=failures + [failure for s in good for failure in s["failures"]],
        partial=[failure for s in good for failure in s["partial"]],
    )


def _equally_long(labels: Sequence[tuple[int, ...]]) -> list[list[int]]:
    """Rows of equal length, one at least, filled with -1."""
    longest = max(1, *map(len, labels))
    return [[*row, *[-1] * (longest - len(row))] for row in labels]


def seeded_generator(*key: int | str) -> torch.Generator:
    """A generator whose state depends on all parts of the key and on nothing else."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
