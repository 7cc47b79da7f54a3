"""The same work on many files in several worker processes; a file that kills its process stops no other."""

from __future__ import annotations

import contextlib
import math
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection
from typing import Any, Generic, TypeVar

from gesta.processes import ignore_interrupts, starting_workers, worker_context

T = TypeVar("T")
R = TypeVar("R")

KILLS = "kills its process"
"""Why an item failed whose process died; any other reason is that its time was up."""


def run_each(
    work: Callable[[T], R], items: Sequence[T], workers: int, seconds: Callable[[T], float] = lambda _: math.inf
) -> Iterator[tuple[int, R | None, str]]:
    """Do ``work`` on every item, in any order.

    Args:
        work: a function of a module, since with workers it and the items are pickled.
        items: its arguments.
        workers: processes; 0 works in this process, without any timeout.
        seconds: how long the work on an item may take before its process is ended.

    Yields:
        Position of an item, what ``work`` returned, and an empty string; or None and the reason: the item "kills its
        process" (decoders of broken files do; it is tried twice), or "takes more than 60 seconds".

    Raises:
        Exception: what ``work`` raised.
        RuntimeError: no process can be started.
    """
    if not workers:
        yield from ((position, work(item), "") for position, item in enumerate(items))
        return
    todo = list(range(len(items)))[::-1]
    # items whose process died once: the cause may lie elsewhere, as when memory is short, so they are tried again
    retried: set[int] = set()
    team = start_workers(work, min(workers, len(items)))
    try:
        while True:
            for worker in team:
                if todo and worker.position is None:
                    position = todo.pop()
                    worker.begin(position, items[position], seconds(items[position]))
            busy = {worker.pipe: worker for worker in team if worker.position is not None}
            if not busy:
                return
            deadline = min(worker.deadline for worker in busy.values())
            timeout = None if deadline == math.inf else max(0.0, deadline - time.monotonic())
            for pipe in connection.wait(list(busy), timeout):
                worker = busy.pop(pipe)  # type: ignore[arg-type]
                if (outcome := worker.receive()) is None:
                    continue
                position, _, reason = outcome
                if reason and position not in retried:
                    retried.add(position)
                    todo.append(position)
                else:
                    yield outcome
            for worker in busy.values():
                if time.monotonic() >= worker.deadline and not worker.pipe.poll():
                    yield worker.time_out()
    finally:
        for worker in team:
            worker.stop()


def start_workers(work: Callable[[T], R], count: int, preload: str = "gesta.data.samples") -> list[Worker[T, R]]:
    """Processes that each do ``work`` on one item after another.

    Args:
        work: a function of a module.
        count: how many.
        preload: the module that they import at their start, all together.
    """
    context = worker_context(preload)
    return [Worker(context, work) for _ in range(count)]


class Worker(Generic[T, R]):
    """A process that works on one item after another.

    Args:
        context: of :func:`gesta.processes.worker_context`.
        work: a function of a module, which the process imports.

    Attributes:
        pipe: connection on which it sends its results.
        position: of its current item; None if it is idle.
        deadline: when the current item must be finished; infinite until the process has started up.
    """

    def __init__(self, context: Any, work: Callable[[T], R]) -> None:
        self._context, self._work = context, work
        self._start()

    def _start(self) -> None:
        self.position: int | None = None
        self.deadline = math.inf
        self._seconds, self._started = math.inf, False
        self.pipe, child_pipe = self._context.Pipe()
        self._process = self._context.Process(target=_serve, args=(child_pipe, self._work), daemon=True)
        with starting_workers():
            self._process.start()
        child_pipe.close()

    def begin(self, position: int, item: T, seconds: float) -> None:
        """Send the process an item."""
        if self._started and not self._process.is_alive():  # it died while it was idle
            self.restart()
        self.position, self._seconds = position, seconds
        self.deadline = time.monotonic() + seconds if self._started else math.inf
        with contextlib.suppress(BrokenPipeError):  # it is just dying: receive() will notice
            self.pipe.send(item)

    def receive(self) -> tuple[int, R | None, str] | None:
        """The outcome for the current item; None if the message only says that the process has started up."""
        try:
            result, error = self.pipe.recv()
        except (EOFError, OSError):
            return self._fail(KILLS)
        if not self._started:
            self._started, self.deadline = True, time.monotonic() + self._seconds
            return None
        if error is not None:
            self.position = None
            raise error
        position, self.position = self.position, None
        return position, result, ""  # type: ignore[return-value]

    def run(self, item: T, seconds: float) -> tuple[R | None, str]:
        """Work on one item and wait for it: what ``work`` returned and an empty string, or None and the reason.

        Raises:
            Exception: what ``work`` raised.
            RuntimeError: the process cannot be started.
        """
        self.begin(0, item, seconds)
        return self.wait()

    def wait(self) -> tuple[R | None, str]:
        """As :meth:`run`, for the item that was begun."""
        while True:
            timeout = None if self.deadline == math.inf else max(0.0, self.deadline - time.monotonic())
            outcome = self.receive() if self.pipe.poll(timeout) else self.time_out()
            if outcome is not None:
                return outcome[1], outcome[2]

    def time_out(self) -> tuple[int, R | None, str]:
        """End the process, whose item takes too long."""
        return self._fail(f"takes more than {self._seconds:.0f} seconds")

    def _fail(self, reason: str) -> tuple[int, R | None, str]:
        if not self._started:
            raise RuntimeError("processes cannot be started here; what they printed above says why")
        position = self.position
        self.restart()
        return position, None, reason  # type: ignore[return-value]

    def restart(self) -> None:
        """End the process and start another."""
        self.stop()
        self._start()

    def kill(self) -> None:
        """End the process; a thread that waits for it learns that it died."""
        self._process.kill()

    def stop(self) -> None:
        """End the process, and wait for its end."""
        self.kill()
        self._process.join(5)  # not longer: a process that waits for a dead disk cannot be ended
        self.pipe.close()


def _serve(pipe: connection.Connection, work: Callable[[T], R]) -> None:
    """The loop of a worker process: items come through the pipe, results and exceptions go back."""
    ignore_interrupts()
    with contextlib.suppress(EOFError, ConnectionError):  # the parent has gone
        pipe.send((None, None))  # started up
        while True:
            item = pipe.recv()
            try:
                message: tuple[R | None, Exception | None] = work(item), None
            except Exception as error:
                error.add_note(traceback.format_exc())
                message = None, error
            pipe.send(message)
