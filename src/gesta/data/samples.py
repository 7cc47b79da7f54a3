"""Records read into samples of views: augmented training clips, and the views of a test."""

from __future__ import annotations

import contextlib
import hashlib
import signal
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate, get_worker_info

from gesta.data.batch import Batch, Failure, Sample
from gesta.data.clips import test_indices, train_indices
from gesta.data.person import crop_to_people, find_people, whole_side
from gesta.data.transforms import (
    augment,
    augment_box,
    crop_box,
    crop_views,
    flip_targets,
    test_short_side,
    training_short_side,
)
from gesta.errors import GestaError, VideoError
from gesta.model import ClipSpec
from gesta.recipe import EvaluateConfig, TrainConfig
from gesta.records import LABEL, Label, Record, by_space
from gesta.video.deadline import KILL_AFTER_S, TIMEOUT_S, Deadline
from gesta.video.depth import Modality
from gesta.video.picture import CropTo
from gesta.video.read import Decoder, read

ATTEMPTS = 10
"""Videos tried for one training sample before something is taken to be wrong with all of them."""

UNREADABLE = (VideoError, OSError, RuntimeError, MemoryError)
"""What reading a damaged video may raise; any other GestaError (torchcodec is missing) is not the video's fault."""

Choose = Callable[[int], Tensor]


class _Records:
    """Records that are read one at a time, in loader processes that may die of them or hang.

    Attributes:
        clip: what a model eats.
        short_side, decoder: as :func:`read_record` takes them.
        patience: seconds that a record may take, besides those for its size.
        grace: seconds after which a loader process that still reads it is ended.
        reading: index of the record that each loader process reads, -1 for none; shared with them.
        deaths: how many loader processes have died of a record, by index.
        deadly: why a record is not tried again, by index.

    Raises:
        GestaError: the data are pairs and the model eats one stream.
    """

    enlarge = True  # whether smaller pictures are brought to the short side

    def __init__(self, records: Sequence[Record], clip: ClipSpec, short_side: int, decoder: Decoder) -> None:
        self.records = list(records)
        self.clip = clip
        self.short_side = short_side
        self.decoder: Decoder = decoder
        self.patience, self.grace = TIMEOUT_S, KILL_AFTER_S
        self.reading = torch.empty(0, dtype=torch.int64)
        self.deaths: dict[int, int] = {}
        self.deadly: dict[int, str] = {}
        if not clip.streams and any(record.paired for record in self.records):
            raise GestaError(
                "the data gives pairs of RGB and depth, of which the model takes only one: choose --data.modality rgb "
                "or depth, or a model of both (gesta models '*rgbd*')"
            )

    def __len__(self) -> int:
        return len(self.records)

    def read(self, index: int, choose: Choose, crop: CropTo | None = None) -> Tensor:
        """Chosen frames of a record, or a box of them; a loader process that does not come to an end with it ends.

        Raises:
            VideoError: it cannot be read, or it has killed or stopped loader processes before.
        """
        return self._read(index, self.records[index], choose, crop)

    def _read(self, index: int, record: Record, choose: Choose, crop: CropTo | None = None) -> Tensor:
        if index in self.deadly:
            raise VideoError(self.deadly[index])
        deadline = Deadline(record.path, self.patience)
        with self._watched(index, deadline):
            return read_record(record, choose, self.short_side, self.decoder, crop, deadline, self.enlarge)

    def read_streams(self, index: int, choose: Choose) -> tuple[list[Tensor | None], list[str]]:
        """The same moments of every stream that the model eats, and why some are None.

        ``choose`` is asked for one stream; frames of others, if these have more or fewer, lie at the same shares of
        the stretch. A stream that the data does not have is None without a reason.
        """
        chosen: list[tuple[Tensor, int]] = []
        found: list[Tensor | None] = []
        reasons = []
        for stream in self.streams(index):

            def same_moments(n: int, first: bool = not any(part is not None for part in found)) -> Tensor:
                if first:
                    chosen[:] = [(choose(n), n)]
                ((indices, count),) = chosen
                return indices if n == count else (2 * indices + 1) * n // (2 * count)

            frames = None
            try:
                frames = self._read(index, stream, same_moments) if stream else None
            except UNREADABLE as error:
                reasons.append(str(error))
            found.append(frames)
        return found, reasons

    def streams(self, index: int) -> list[Record | None]:
        """A record once for each stream that the model eats, None for those that it does not have."""
        record = self.records[index]
        if not self.clip.streams:
            return [record]
        there = {"rgb" if stream.depth is None else "depth": stream for stream in record.streams}
        return [there.get(kind) for kind in self.clip.streams]

    @contextlib.contextmanager
    def _watched(self, index: int, deadline: Deadline) -> Iterator[None]:
        worker = get_worker_info()
        if worker is None or worker.id >= len(self.reading):  # or a worker of somebody else's loader
            yield
            return
        self.reading[worker.id] = index
        alarm = hasattr(signal, "setitimer")
        if alarm:  # the system's: what hangs inside a decoder lets none of our threads run
            signal.setitimer(signal.ITIMER_REAL, deadline.seconds + self.grace)
        try:
            yield
        finally:
            if alarm:
                signal.setitimer(signal.ITIMER_REAL, 0)
            self.reading[worker.id] = -1

    def bury(self, workers: dict[int, int | None]) -> bool:
        """Note what dead loader processes were reading; returns whether they were reading anything.

        A record has failed if it ran out of time, or once two processes have died of it: the first may have been ended
        by somebody else, as when memory is short.

        Args:
            workers: number of each dead process → its exit status.
        """
        found = False
        for number, status in workers.items():
            index = int(self.reading[number])
            if index < 0:
                continue
            found = True
            self.deaths[index] = self.deaths.get(index, 0) + 1
            late = status == -getattr(signal, "SIGALRM", 0)
            if late or self.deaths[index] > 1:
                why = "is not read in time" if late else f"kills the process that reads it (status {status})"
                self.deadly[index] = f"{self.records[index].path}: {why}; take it off the list"
        return found


class TrainingClips(_Records, Dataset[Sample]):
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

    enlarge = False  # all crops are shares of the picture, and are scaled once, to the model's size

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
                    f"{records[index].name}: has only one of {' and '.join(clip.streams)}, which the model eats; "
                    "give it pairs (--data.modality rgbd)"
                )
        spaces = by_space(classes)
        pairs = config.augment.flip_labels
        flip_targets([name for names in spaces.values() for name in names], pairs)  # refuses what no space knows
        self.mirror = {
            space: flip_targets(names, {name: partner for name, partner in pairs.items() if name in names})
            for space, names in spaces.items()
        }

    def __getitem__(self, item: tuple[int, int]) -> Sample:
        epoch, wanted = item
        failures: list[Failure] = []
        for attempt in range(min(ATTEMPTS, len(self.records))):
            index = wanted
            if attempt:
                substitute = seeded(self.config.seed, epoch, wanted, "substitute", attempt)
                index = int(torch.randint(len(self.records), (), generator=substitute))
                while any(failure.index == index for failure in failures):
                    index = (index + 1) % len(self.records)
            record = self.records[index]
            draws = [seeded(self.config.seed, epoch, index, copy) for copy in range(self.config.repeats)]
            begin = [draw.get_state() for draw in draws]

            def choose(n: int, draws: list[torch.Generator] = draws, begin: list[Tensor] = begin) -> Tensor:
                for draw, state in zip(draws, begin):  # a video that is shorter than it promised asks twice
                    draw.set_state(state)
                return torch.stack([train_indices(n, self.clip, self.config.short_videos, draw) for draw in draws])

            try:
                label, video = self.views(index, choose, draws)
            except UNREADABLE as error:
                failures.append(Failure(index, record.name, str(error)))
                continue
            return Sample(video=video, label=label, index=index, failures=failures, partial=[])
        raise GestaError(
            f"training videos cannot be read, {len(failures)} in a row, the last one: {failures[-1].reason}; "
            "gesta data check lists all such videos"
        )

    def views(self, index: int, choose: Choose, draws: list[torch.Generator]) -> tuple[Label, Tensor]:
        """A record's label and its augmented copies ``(V, T, C, H, W)``.

        Of a single copy that is not turned only the box is read; draws (frames, flip, box, the rest) and pixels are
        the same either way.
        """
        record, config = self.records[index], self.config.augment
        if len(draws) > 1 or config.rotate or record.masks or self.clip.streams:
            streams, reasons = self.read_streams(index, choose)
            if reasons:
                raise VideoError("; ".join(reasons))
            label, flips = self._flips(record.label, draws)
            copies = zip(*(stream for stream in streams if stream is not None))
            views = [augment(c, config, self.clip, flip, draw) for c, flip, draw in zip(copies, flips, draws)]
            return label, torch.stack(views)
        flipped: list[tuple[Label, list[bool]]] = []

        def choose_and_flip(n: int) -> Tensor:
            indices = choose(n)
            flipped[:] = [self._flips(record.label, draws)]
            return indices

        def box(height: int, width: int) -> tuple[int, int, int, int]:
            return crop_box(config, height, width, self.clip.size, draws[0])

        (clip,) = self.read(index, choose_and_flip, box)
        ((label, (flip,)),) = flipped
        return label, augment_box(clip, config, self.clip, flip, draws[0])[None]

    def _flips(self, label: Label, draws: list[torch.Generator]) -> tuple[Label, list[bool]]:
        """Which copies to mirror, and the label they then have.

        A sample has one label, so the copies of a class that has a partner are mirrored all or none.
        """
        labels = by_space(label)
        mirrored = {space: None if value is None else self.mirror[space][value] for space, value in labels.items()}
        flips = [float(torch.rand((), generator=draw)) < self.config.augment.flip for draw in draws]
        if any(mirrored[space] is None and value is not None for space, value in labels.items()):
            return label, [False] * len(draws)
        if mirrored == labels:
            return label, flips
        flips = [flips[0]] * len(draws)
        if not flips[0]:
            return label, flips
        return (mirrored if isinstance(label, dict) else mirrored[LABEL]), flips  # type: ignore[return-value]


class TestViews(_Records, Dataset[Sample | Failure]):
    """All test views of a record: item ``index`` gives V = clips x crops views, clip by clip, or a :class:`Failure`.

    A stream of a pair that is not there or cannot be read is black, which tells a model of several that it has to do
    without.

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
        record, config = self.records[index], self.config

        def choose(n: int) -> Tensor:
            return test_indices(n, self.clip, config.clips, config.coverage, config.short_videos)

        streams, reasons = self.read_streams(index, choose)
        views = [None if s is None else crop_views(s, self.clip.size, config.crops) for s in streams]
        some = next((view for view in views if view is not None), None)
        if some is None:
            return Failure(index, record.name, "; ".join(reasons))
        video = torch.cat([torch.zeros_like(some) if view is None else view for view in views], 2)
        partial = [Failure(index, record.name, "; ".join(reasons))] if reasons else []
        return Sample(video=video, label=record.label, index=index, failures=[], partial=partial)


def read_record(
    record: Record,
    choose: Choose,
    short_side: int,
    decoder: Decoder = "pyav",
    crop: CropTo | None = None,
    deadline: Deadline | None = None,
    enlarge: bool = True,
) -> Tensor:
    """Chosen frames of a record, as :func:`gesta.video.read.read` gives them; by ``masks`` cropped to people.

    Either the record has ``masks``, and frames of one size, or there may be a ``crop``.
    """
    modality: Modality = "rgb" if record.depth is None else "depth"
    chosen: list[Tensor] = []

    def remember(n: int) -> Tensor:
        chosen[:] = [choose(n)]
        return chosen[0]

    frames = read(
        record.path,
        remember,
        short_side=whole_side(short_side, modality) if record.masks else short_side,
        start=record.start,
        end=record.end,
        seconds=record.seconds,
        depth=record.depth,
        decoder=decoder,
        crop=crop,
        enlarge=enlarge or bool(record.masks),
        deadline=deadline,
    )
    if not record.masks:
        return frames
    places = find_people(record.masks, chosen[0] + (record.start or 0))
    return crop_to_people(frames.flatten(0, -4), places, modality).unflatten(0, chosen[0].shape)


def collate(samples: Sequence[Sample | Failure]) -> Batch:
    """Stack samples; failures among them are passed on, and a batch of failures only has B = 0."""
    failures = [sample for sample in samples if isinstance(sample, Failure)]
    good = [sample for sample in samples if not isinstance(sample, Failure)]
    labels = [{} if s["label"] is None else by_space(s["label"]) for s in good]
    spaces = sorted({space for label in labels for space in label}) or [LABEL]
    columns = {space: [label.get(space, -1) for label in labels] for space in spaces}
    return Batch(
        # default_collate stacks them where the main process finds them: no copy on the way there
        video=default_collate([s["video"] for s in good])
        if good
        else torch.empty((0, 0, 0, 3, 0, 0), dtype=torch.uint8),
        label={space: torch.tensor(column, dtype=torch.int64) for space, column in columns.items()},
        index=torch.tensor([s["index"] for s in good], dtype=torch.int64),
        failures=failures + [failure for s in good for failure in s["failures"]],
        partial=[failure for s in good for failure in s["partial"]],
    )


def seeded(*key: int | str) -> torch.Generator:
    """A generator whose state depends on all parts of the key and on nothing else."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
