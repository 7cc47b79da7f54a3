"""What a data set is: a list of labelled stretches of video, read into samples of views."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import multiprocessing
import multiprocessing.connection
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from gesta.config import config
from gesta.data.clips import test_indices, train_indices
from gesta.data.deadline import GRACE, PATIENCE, Deadline
from gesta.data.decode import CropTo
from gesta.data.depth import Depth, Modality
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
from gesta.data.video import Decoder, VideoError, read
from gesta.errors import GestaError
from gesta.model import ClipSpec

if TYPE_CHECKING:  # these rooms import Augment, Record
    from gesta.evaluate import EvaluateConfig
    from gesta.train import TrainConfig

ATTEMPTS = 10
"""Videos tried for one training sample before something is taken to be wrong with all of them."""

UNREADABLE = (VideoError, OSError, RuntimeError, MemoryError)
"""What reading a damaged video may raise; any other GestaError (torchcodec is missing) is not the video's fault."""

SplitName = Literal["train", "val", "test"]
ClassNames = list[str] | dict[str, list[str]]
"""In label order, by label space if there are several."""

Choose = Callable[[int], Tensor]
Label = int | dict[str, int] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One labelled stretch of video: all that a data set has to produce.

    Attributes:
        path: absolute or working-directory path of a video file or a folder of frames.
        name: the entry as the list or folder names it; what receipts and reports print.
        label: class index, a dict of them for several label spaces (verb, noun), or None if unknown.
        start: first frame of the stretch in decode order, None for the beginning.
        end: one past the last frame, None for the end.
        seconds: the stretch in seconds instead, for videos whose frame rates the lists do not follow.
        depth: how the video is shown to the model if it shows depth.
        masks: folder of masked depth maps by which every frame is cropped to the people in it, see
            :mod:`gesta.data.person`; empty for whole frames.
    """

    path: str
    name: str
    label: Label = None
    start: int | None = None
    end: int | None = None
    seconds: tuple[float, float] | None = None
    depth: Depth | None = None
    masks: str = ""


def label_in(record: Record, space: str) -> int | None:
    """A record's label in one of the label spaces; a single space may have any name."""
    return record.label.get(space) if isinstance(record.label, dict) else record.label


class Failure(NamedTuple):
    """A record that could not be read."""

    index: int  # type: ignore[assignment]  # position of the record in its list; hides tuple.index
    name: str
    reason: str


class Sample(TypedDict):
    """One record as a model's training or evaluation sees it."""

    video: Tensor  # (V, T, C, H, W) uint8
    label: Label
    index: int  # position of the record in its list
    failures: list[Failure]  # training: records skipped on the way to this one


class Batch(TypedDict):
    """Samples stacked: what a loader yields."""

    video: Tensor  # (B, V, T, C, H, W) uint8
    label: dict[str, Tensor]  # per label space (B,) int64, -1 where unknown; a single space is called "label"
    index: Tensor  # (B,) int64
    failures: list[Failure]


@config
class DataConfig:
    """Where labelled videos come from. Subclasses implement :meth:`records` and :meth:`classes`."""

    def records(self, split: SplitName) -> list[Record]:
        """All records of a split, in a fixed order; an empty list if the data set has no such split."""
        raise NotImplementedError

    def classes(self) -> ClassNames:
        """Class names in label order, by label space if there are several."""
        raise NotImplementedError

    def attributes(self) -> dict[str, list[str]]:
        """Attributes of the classes, if there are any: attribute → its value for every class, in label order."""
        return {}

    def groups(self, records: Sequence[Record]) -> dict[str, dict[str, list[int]]]:
        """Parts of a list that have an accuracy of their own: part → label space or ``action`` → places in the list."""
        return {}


# --- samples ---------------------------------------------------------------------------------------------------------


class _Records:
    """Records that are read one at a time, in loader processes that may die of them or hang.

    Attributes:
        short_side, decoder: as :func:`read_record` takes them.
        patience: seconds that a record may take, besides those for its size.
        grace: seconds after which a loader process that still reads it is ended.
        reading: index of the record that each loader process reads, -1 for none; shared with them.
        deaths: how many loader processes have died of a record, by index.
        deadly: why a record is not tried again, by index.
    """

    def __init__(self, records: Sequence[Record], short_side: int, decoder: Decoder) -> None:
        self.records = list(records)
        self.short_side = short_side
        self.decoder: Decoder = decoder
        self.patience, self.grace = PATIENCE, GRACE
        self.reading = torch.empty(0, dtype=torch.int64)
        self.deaths: dict[int, int] = {}
        self.deadly: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.records)

    def read(self, index: int, choose: Choose, crop: CropTo | None = None) -> Tensor:
        """Chosen frames of a record, or a box of them; a loader process that does not come to an end with it ends.

        Raises:
            VideoError: it cannot be read, or it has killed or stopped loader processes before.
        """
        if index in self.deadly:
            raise VideoError(self.deadly[index])
        record = self.records[index]
        deadline = Deadline(record.path, self.patience)
        with self._watched(index, deadline):
            return read_record(record, choose, self.short_side, self.decoder, crop, deadline)

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

    def __init__(
        self,
        records: Sequence[Record],
        clip: ClipSpec,
        config: TrainConfig,
        classes: Sequence[str] | dict[str, list[str]],
    ) -> None:
        super().__init__(records, training_short_side(config.augment, clip.size), config.decoder)
        self.clip = clip
        self.config = config
        spaces = classes if isinstance(classes, dict) else {"label": list(classes)}
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
            return Sample(video=video, label=label, index=index, failures=failures)
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
        if len(draws) > 1 or config.rotate or record.masks:
            copies = self.read(index, choose)
            label, flips = self._flips(record.label, draws)
            views = [augment(copies[i], config, self.clip, flips[i], draws[i]) for i in range(len(draws))]
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
        labels = label if isinstance(label, dict) else {"label": label}
        mirrored = {space: None if value is None else self.mirror[space][value] for space, value in labels.items()}
        flips = [float(torch.rand((), generator=draw)) < self.config.augment.flip for draw in draws]
        if any(mirrored[space] is None and value is not None for space, value in labels.items()):
            return label, [False] * len(draws)
        if mirrored == labels:
            return label, flips
        flips = [flips[0]] * len(draws)
        if not flips[0]:
            return label, flips
        return (mirrored if isinstance(label, dict) else mirrored["label"]), flips  # type: ignore[return-value]


class TestViews(_Records, Dataset[Sample | Failure]):
    """All test views of a record: item ``index`` gives V = clips x crops views, clip by clip, or a :class:`Failure`.

    Raises:
        GestaError: the protocol's short side is shorter than the crop.
    """

    __test__ = False  # pytest would take the name for a test

    def __init__(self, records: Sequence[Record], clip: ClipSpec, config: EvaluateConfig) -> None:
        super().__init__(records, test_short_side(config.short_side, clip.size), config.decoder)
        self.clip = clip
        self.config = config
        if self.short_side < clip.size:
            raise GestaError(
                f"evaluate.short_side {config.short_side} is smaller than the crop; it must be at least 224"
            )

    def __getitem__(self, index: int) -> Sample | Failure:
        record, config = self.records[index], self.config

        def choose(n: int) -> Tensor:
            return test_indices(n, self.clip, config.clips, config.coverage, config.short_videos)

        try:
            clips = self.read(index, choose)
        except UNREADABLE as error:
            return Failure(index, record.name, str(error))
        return Sample(
            video=crop_views(clips, self.clip.size, config.crops), label=record.label, index=index, failures=[]
        )


def read_record(
    record: Record,
    choose: Choose,
    short_side: int,
    decoder: Decoder = "pyav",
    crop: CropTo | None = None,
    deadline: Deadline | None = None,
) -> Tensor:
    """Chosen frames of a record's stretch, as :func:`gesta.data.video.read` gives them; by ``masks`` cropped to people.

    Either the record has ``masks`` or there may be a ``crop``.
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
    labels = [
        {} if s["label"] is None else s["label"] if isinstance(s["label"], dict) else {"label": s["label"]}
        for s in good
    ]
    spaces = sorted({space for label in labels for space in label}) or ["label"]
    columns = {space: [label.get(space, -1) for label in labels] for space in spaces}
    return Batch(
        video=torch.stack([s["video"] for s in good]) if good else torch.empty((0, 0, 0, 3, 0, 0), dtype=torch.uint8),
        label={space: torch.tensor(column, dtype=torch.int64) for space, column in columns.items()},
        index=torch.tensor([s["index"] for s in good], dtype=torch.int64),
        failures=failures + [failure for s in good for failure in s["failures"]],
    )


# --- batches and loaders ---------------------------------------------------------------------------------------------


def training_batches(
    records: Sequence[Record], config: TrainConfig, epoch: int, rank: int = 0, world: int = 1
) -> list[list[tuple[int, int]]]:
    """This process's micro-batches of an epoch, as items of :class:`TrainingClips`.

    An optimiser step takes ``config.batch_size`` records of a shuffled list, whatever the number of processes; each
    process gets an equal part, cut into ``config.accumulate`` micro-batches. The last, incomplete step is left out (its
    records come at another place in the next epoch), unless it is the only one: then all records are taken, and as few
    of them twice as equal micro-batches need. With ``config.balanced`` every class is drawn equally often, rare ones by
    going through their records several times.

    Returns:
        ``steps * accumulate`` lists of ``(epoch, index)``, equally many and equally long in all processes.

    Raises:
        GestaError: the batch cannot be divided evenly.
    """
    parts = world * config.accumulate
    if config.batch_size < 1 or config.batch_size % parts:
        raise GestaError(
            f"train.batch_size {config.batch_size} cannot be divided among {world} processes x {config.accumulate} "
            f"accumulation steps; make it a multiple of {parts}"
        )
    if not records:
        return []
    generator = seeded(config.seed, epoch, "order")
    if config.balanced:
        order = _balanced(records, generator)
    else:
        order = torch.randperm(len(records), generator=generator).tolist()
    whole = len(order) // config.batch_size * config.batch_size
    if whole:
        order = order[:whole]
    else:
        order = [order[i % len(order)] for i in range(-(-len(order) // parts) * parts)]
    micro = min(config.batch_size, len(order)) // parts
    pieces = [[(epoch, index) for index in order[at : at + micro]] for at in range(0, len(order), micro)]
    return [
        piece
        for step in range(0, len(pieces), parts)
        for piece in pieces[step + rank * config.accumulate : step + (rank + 1) * config.accumulate]
    ]


def _balanced(records: Sequence[Record], generator: torch.Generator) -> list[int]:
    """As many record indices as there are records, all classes (up to one record) equally often, shuffled."""
    groups: dict[str, list[int]] = {}
    for index, record in enumerate(records):
        groups.setdefault(repr(record.label), []).append(index)
    names = sorted(groups)
    lucky = set(torch.randperm(len(names), generator=generator)[: len(records) % len(names)].tolist())
    order: list[int] = []
    for position, name in enumerate(names):
        wanted = len(records) // len(names) + (position in lucky)
        drawn: list[int] = []
        while len(drawn) < wanted:
            drawn += torch.randperm(len(groups[name]), generator=generator).tolist()
        order += [groups[name][i] for i in drawn[:wanted]]
    return [order[i] for i in torch.randperm(len(order), generator=generator).tolist()]


def training_loader(
    dataset: TrainingClips,
    batches: Iterable[list[tuple[int, int]]],
    workers: int,
    begin: Callable[[int], None] | None = None,
) -> Loader:
    """Loads the given micro-batches in order; any number of epochs may be chained, which keeps the workers.

    ``begin`` is what each worker does first; it gets the worker's number.
    """
    return Loader(dataset, batches, workers, begin)


def test_loader(dataset: TestViews, indices: Sequence[int], batch_videos: int, workers: int) -> Loader:
    """Loads the given records once each, ``batch_videos`` together.

    Videos of different numbers of views (contiguous coverage) cannot be stacked and need ``batch_videos=1``.
    """
    batches = [list(indices[at : at + batch_videos]) for at in range(0, len(indices), batch_videos)]
    return Loader(dataset, batches, workers)


test_loader.__test__ = False  # type: ignore[attr-defined]


class Loader:
    """Batches in order, from worker processes that come from a clean server process; errors are one sentence.

    When a worker dies of a record, or hangs in it, new ones load what was on its way; see :meth:`_Records.bury`.
    """

    def __init__(
        self,
        dataset: TrainingClips | TestViews,
        batches: Iterable[list],
        workers: int,
        begin: Callable[[int], None] | None = None,
    ) -> None:
        self.dataset = dataset
        self.batches = batches
        self.workers = loader_workers(workers, shared=not torch.accelerator.is_available())
        self._begin = begin
        self._context: Any = None
        if self.workers:
            # fork would copy this process with its threads and its GPU in whatever state they are; the server has
            # neither, and since it has imported this module, its workers start at once.
            self._context = multiprocessing.get_context("forkserver")
            self._context.set_forkserver_preload([__name__])

    def __len__(self) -> int:
        return len(self.batches)  # type: ignore[arg-type]  # a list, unless epochs are chained

    def __iter__(self) -> Iterator[Batch]:
        rest = iter(self.batches)
        waiting: deque[list] = deque()  # given to workers and not yet delivered

        def hand_out() -> Iterator[list]:
            for batch in rest:
                waiting.append(batch)
                yield batch

        while True:
            self.dataset.reading = torch.full((self.workers,), -1).share_memory_()
            loader = iter(self._load(itertools.chain(list(waiting), hand_out())))
            try:
                for batch in loader:
                    waiting.popleft()
                    yield batch
                return
            except GestaError as error:  # a worker's error comes with its traceback as text
                sentence = str(error).strip().splitlines()[-1]
                raise GestaError(sentence.removeprefix(f"{type(error).__module__}.{type(error).__name__}: ")) from None
            except (RuntimeError, OSError, EOFError):  # OSError: a batch could not be fetched from a dead worker
                if not self.dataset.bury(_ended(loader)):
                    raise
            del loader  # which ends the other workers

    def _load(self, batches: Iterable[list]) -> DataLoader[Batch]:
        return DataLoader(
            self.dataset,  # type: ignore[arg-type]  # collate makes batches of its samples
            batch_sampler=batches,  # type: ignore[arg-type]
            num_workers=self.workers,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
            multiprocessing_context=self._context,
            worker_init_fn=self._begin,
        )


def _ended(loader: Any) -> dict[int, int | None]:
    """Number and exit status of the workers that have died; waits a moment for one that is just dying."""
    processes = getattr(loader, "_workers", [])
    if processes:
        multiprocessing.connection.wait([process.sentinel for process in processes], timeout=1.0)
    return {number: process.exitcode for number, process in enumerate(processes) if process.exitcode is not None}


def loader_workers(workers: int, *, shared: bool = False) -> int:
    """Number of loader processes: as asked, or for -1 as many as this process has processors, 16 at most.

    ``shared`` leaves half of them to the model, which computes on them too.
    """
    if workers >= 0:
        return workers
    return max(1, min(16, processors() // 2 if shared else processors()))


def processors() -> int:
    """Processors this process may use, the other processes of the same training left theirs."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, usable // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def seeded(*key: int | str) -> torch.Generator:
    """A generator whose state depends on all parts of the key and on nothing else."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
