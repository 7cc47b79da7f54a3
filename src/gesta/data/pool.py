"""The same work on many files in several processes, none of which can take the others along when a file kills it."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def each(work: Callable[[T], R], items: Sequence[T], workers: int) -> Iterator[tuple[int, R | None]]:
    """Do ``work`` on every item, in any order.

    Args:
        work: a function of a module; with workers it and the items travel to other processes.
        items: what it is done on.
        workers: processes; 0 does it here.

    Yields:
        position of an item and what ``work`` returned, None if its process died of it (decoders of broken files do).
    """
    if not workers:
        yield from ((position, work(item)) for position, item in enumerate(items))
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["gesta.data.dataset"])
    todo = list(range(len(items)))[::-1]
    while todo:
        suspects: list[int] = []
        pool = ProcessPoolExecutor(workers, context, initializer=_leave_interrupts_to_parent)
        try:
            running: dict[Future[R], int] = {}
            while running or (todo and not suspects):
                while todo and not suspects and len(running) < 2 * workers:
                    position = todo.pop()
                    try:
                        running[pool.submit(work, items[position])] = position
                    except BrokenProcessPool:
                        suspects.append(position)
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    position = running.pop(future)
                    if isinstance(future.exception(), BrokenProcessPool):
                        suspects.append(position)
                    else:
                        yield position, future.result()
        finally:
            pool.shutdown(cancel_futures=True)
        for position in suspects:  # one of them broke the pool
            with ProcessPoolExecutor(1, context, initializer=_leave_interrupts_to_parent) as alone:
                try:
                    yield position, alone.submit(work, items[position]).result()
                except BrokenProcessPool:
                    yield position, None


def _leave_interrupts_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
