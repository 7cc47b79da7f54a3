"""Reading ahead of the model in a thread, and when it is worth starting processes for it."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Generator, Iterable
from typing import TypeVar

T = TypeVar("T")

MANY_VIDEOS = 64
"""From this many videos on, loader processes are started unless a number of them is asked for."""


def reading_workers(workers: int, videos: int) -> int:
    """Loader processes for so many videos; they take seconds to start, so a few videos have none unless asked for."""
    return 0 if workers < 0 and videos < MANY_VIDEOS else workers


def in_background(items: Iterable[T], size: int, drop: bool = False) -> Generator[T, None, None]:
    """Run an iteration in a thread, at most ``size`` items ahead; with ``drop`` the oldest waiting item makes room."""
    ready: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(size)
    stop = threading.Event()

    def put(item: T | None, error: BaseException | None = None, keep: bool = False) -> None:
        while not stop.is_set():
            try:
                return ready.put((item, error), timeout=0.1 if keep or not drop else 0)
            except queue.Full:
                if drop and not keep:
                    with contextlib.suppress(queue.Empty):
                        ready.get_nowait()

    def work() -> None:
        try:
            for item in items:
                put(item)
                if stop.is_set():
                    break
            put(None, keep=True)
        except Exception as error:
            put(None, error, keep=True)

    threading.Thread(target=work, daemon=True).start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is None:
                return
            yield item
    finally:
        stop.set()
