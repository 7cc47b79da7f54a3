"""Which records make a batch, and the processes that read them."""

from __future__ import annotations

import errno
import functools
import itertools
import multiprocessing.connection
import signal
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from gesta.data.batch import Batch, Failure, Sample
from gesta.data.samples import TestViews, TrainingClips, collate, seeded_generator
from gesta.errors import GestaError
from gesta.files import machine_fault
from gesta.processes import is_first_process, loader_workers, starting_workers, worker_context
from gesta.progress import show
from gesta.recipe import TrainConfig
from gesta.records import Record

# torch ends in __del__ what a constructor that fails (no semaphores) has not begun, and would print a traceback
_MultiProcessingDataLoaderIter._shutdown = True  # type: ignore[attr-defined]

ATTEMPTS = 3
"""So often in a row worker processes may die before they read anything, or fail to start."""


def training_batches(
    records: Sequence[Record], config: TrainConfig, epoch: int, rank: int = 0, world: int = 1
) -> list[list[tuple[int, int]]]:
    """This process's micro-batches of an epoch, as items of :class:`TrainingClips`.

    An optimiser step takes ``config.batch_size`` records of a shuffled list, whatever the number of processes; each
    process gets an equal part, cut into ``config.accumulate`` micro-batches. The last, incomplete step is left out (the
    next epoch has another order), unless it is the only one: then all records are taken, and as few of them twice as
    equal micro-batches need. With ``config.balanced`` every class is drawn equally often, rare ones by going through
    their records several times.

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
    generator = seeded_generator(config.seed, epoch, "order")
    if config.balanced:
        order = _balanced(records, generator)
    else:
        order = torch.randperm(len(records), generator=generator).tolist()
    in_full_steps = len(order) // config.batch_size * config.batch_size
    if in_full_steps:
        order = order[:in_full_steps]
    else:
        order = [order[i % len(order)] for i in range(-(-len(order) // parts) * parts)]
    size = min(config.batch_size, len(order)) // parts
    batches = [[(epoch, index) for index in order[i : i + size]] for i in range(0, len(order), size)]
    # an optimiser step takes `parts` micro-batches: the first `accumulate` of them are the first process's, and so on
    return [
        batch
        for step in range(0, len(batches), parts)
        for batch in batches[step + rank * config.accumulate : step + (rank + 1) * config.accumulate]
    ]


def _balanced(records: Sequence[Record], generator: torch.Generator) -> list[int]:
    """As many record indices as there are records, all classes (up to one record) equally often, shuffled."""
    groups: dict[str, list[int]] = {}
    for index, record in enumerate(records):
        groups.setdefault(repr(record.label), []).append(index)
    names = sorted(groups)
    one_extra = set(torch.randperm(len(names), generator=generator)[: len(records) % len(names)].tolist())
    order: list[int] = []
    for position, name in enumerate(names):
        count = len(records) // len(names) + (position in one_extra)
        drawn: list[int] = []
        while len(drawn) < count:
            drawn += torch.randperm(len(groups[name]), generator=generator).tolist()
        order += [groups[name][i] for i in drawn[:count]]
    return [order[i] for i in torch.randperm(len(order), generator=generator).tolist()]


def test_loader(dataset: TestViews, indices: Sequence[int], batch_videos: int, workers: int) -> Loader:
    """Loads the given records once each, ``batch_videos`` together.

    Videos of different numbers of views (contiguous coverage) cannot be stacked and need ``batch_videos=1``.
    """
    batches = [list(indices[i : i + batch_videos]) for i in range(0, len(indices), batch_videos)]
    return Loader(dataset, batches, workers)


test_loader.__test__ = False  # type: ignore[attr-defined]


class Loader:
    """Batches in order, from worker processes that come from a clean server process; errors are one sentence.

    For training, any number of epochs of :func:`training_batches` may be chained, which keeps the worker processes;
    ``worker_init`` is what each of them does first, given its number.

    When a worker dies, or hangs in a record, new ones load what was on its way; a record that kills its workers is left
    out, see :meth:`_RecordDataset.note_worker_deaths`. Not when ``stopping`` says that the work is to end. Batches come
    through shared memory, or through pipes (one more copy) once that has turned out to be short, as in containers.

    Raises:
        GestaError: of a worker; or workers die or cannot be started :data:`ATTEMPTS` times in a row, as when memory is
            short.
    """

    _through_pipes = _alone = False  # what shared memory has turned out to be too short for, of all loaders

    def __init__(
        self,
        dataset: TrainingClips | TestViews,
        batches: Iterable[list],
        workers: int,
        worker_init: Callable[[int], None] | None = None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self.dataset = dataset
        self.batches = batches
        self.workers = loader_workers(workers, shared=not torch.accelerator.is_available())
        self._worker_init, self._stopping = worker_init, stopping
        if Loader._alone:
            self.workers = 0
        self._context = worker_context(__name__) if self.workers else None

    def __len__(self) -> int:
        return len(self.batches)  # type: ignore[arg-type]  # a list, unless epochs are chained

    def __iter__(self) -> Generator[Batch]:
        batches = iter(self.batches)
        waiting: deque[list] = deque()  # given to workers and not yet delivered

        def hand_out() -> Iterator[list]:
            for batch in batches:
                waiting.append(batch)
                yield batch

        failures = 0  # in a row
        while True:
            loader, through_pipes = None, Loader._through_pipes
            try:
                if self.workers:
                    self.dataset.reading = torch.full((self.workers,), -1).share_memory_()
                with starting_workers():
                    loader = iter(self._load(itertools.chain(list(waiting), hand_out()), through_pipes))
                for batch in loader:
                    waiting.popleft()
                    failures = 0
                    yield from_arrays(batch)
                return
            except GestaError as error:  # a worker's error comes with its traceback as text
                sentence = str(error).strip().splitlines()[-1]
                raise GestaError(sentence.removeprefix(f"{type(error).__module__}.{type(error).__name__}: ")) from None
            except (RuntimeError, OSError, EOFError) as error:  # OSError: a batch of a dead worker, or none can start
                ended = _ended(loader)
                if self._stopping():
                    raise
                if self.workers and _is_memory_short(error, loader, ended):
                    self._do_without(through_pipes)
                    continue
                if isinstance(error, RuntimeError) and not ended:
                    raise
                failures = 0 if self.dataset.note_worker_deaths(ended) else failures + 1
                if failures == ATTEMPTS:
                    raise _workers_fail(ended, error) from None
            del loader  # which ends the other workers

    def _do_without(self, through_pipes: bool) -> None:
        """Send batches through pipes, or where that has not helped, load without worker processes; said once."""
        if through_pipes:
            known, Loader._alone, self.workers, self._context = Loader._alone, True, 0, None
            instead = "videos are loaded without worker processes"
        else:
            known, Loader._through_pipes = Loader._through_pipes, True
            instead = "loaded videos come through pipes, which copies them once more"
        if is_first_process() and not known:
            show(
                f"shared memory (/dev/shm) is short, so {instead}; make it larger (in a container: --shm-size)",
                sys.stderr,
            )

    def _load(self, batches: Iterable[list], through_pipes: bool) -> DataLoader[Batch]:
        return DataLoader(
            self.dataset,  # type: ignore[arg-type]  # collate makes batches of its samples
            batch_sampler=batches,  # type: ignore[arg-type]
            num_workers=self.workers,
            collate_fn=functools.partial(collate_arrays, shared=not through_pipes),
            pin_memory=torch.cuda.is_available(),
            multiprocessing_context=self._context,
            worker_init_fn=self._worker_init,
        )


def collate_arrays(samples: Sequence[Sample | Failure], shared: bool) -> Batch:
    """As :func:`collate`, with NumPy arrays for tensors: these are pickled, where tensors go to shared memory.

    ``shared`` leaves the pixels there. Where it is full, they give an error here, but labels would give it in the
    thread that sends them, the batch would be lost, and the main process would wait for it for ever.
    """
    if shared:
        batch = collate(samples)
        return _convert(batch, Tensor.numpy) | {"video": batch["video"]}  # type: ignore[return-value]
    return _convert(collate(samples, torch.stack), Tensor.numpy)


def from_arrays(batch: Batch) -> Batch:
    """A batch of :func:`collate_arrays` with its tensors again."""
    return _convert(batch, torch.as_tensor)


def _convert(batch: Batch, convert: Callable[[Any], Any]) -> Batch:
    label = {space: convert(values) for space, values in batch["label"].items()}
    return Batch(**{**batch, "video": convert(batch["video"]), "label": label, "index": convert(batch["index"])})


def _is_memory_short(error: Exception, loader: Any, ended: dict[int, int | None]) -> bool:
    """Whether shared memory is short: for a batch, or for what workers (``loader``, if they have started) wait on."""
    if loader is None and isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.ENOSYS, errno.EACCES, errno.ENOENT)
    killed = hasattr(signal, "SIGBUS") and -signal.SIGBUS in ended.values()
    return killed or machine_fault(error).startswith("shared memory")


def _workers_fail(ended: dict[int, int | None], error: Exception) -> GestaError:
    """What is raised when no worker lives long enough to read anything."""
    killed = next((signal.Signals(-status) for status in ended.values() if status is not None and status < 0), None)
    if not killed and (fault := machine_fault(error)):
        return GestaError(f"the processes that load videos end or cannot be started: {fault}")
    reason = f"killed by {killed.name}" if killed else str(error).strip().rpartition("\n")[2] or type(error).__name__
    return GestaError(
        f"the processes that load videos end or cannot be started ({reason}); if memory is short, use fewer workers"
    )


def _ended(loader: Any) -> dict[int, int | None]:
    """Number and exit status of the workers that have died; waits a moment for one that is just dying."""
    processes = getattr(loader, "_workers", [])
    if processes:
        multiprocessing.connection.wait([process.sentinel for process in processes], timeout=1.0)
    return {number: process.exitcode for number, process in enumerate(processes) if process.exitcode is not None}
