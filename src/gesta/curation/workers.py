"""The same work on many files in several processes, none of which can take the others along when a file kills it."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection
from typing import Any, Generic, TypeVar

from gesta.processes import ignore_interrupts

T = TypeVar("T")
R = TypeVar("R")


def each(
    work: Callable[[T], R], items: Sequence[T], workers: int, seconds: Callable[[T], float] = lambda _: math.inf
) -> Iterator[tuple[int, R | None, str]]:
    """Do ``work`` on every item, in any order.

    Args:
        work: a function of a module; with workers it and the items travel to other processes.
        items: what it is done on.
        workers: processes; 0 does it here, where nothing can be ended.
        seconds: how long the work on an item may take before its process is ended.

    Yields:
        position of an item, what ``work`` returned, and an empty string; or None and why there is nothing: the item
        "kills its process" (decoders of broken files do), and a second one, or "takes more than 60 seconds".

    Raises:
        Exception: what ``work`` raised.
        RuntimeError: no process can be started.
    """
    if not workers:
        yield from ((position, work(item), "") for position, item in enumerate(items))
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["gesta.data.samples"])
    todo = list(range(len(items)))[::-1]
    again: set[int] = set()  # whose process died: somebody else may have ended it, as when memory is short
    hands = [_Hand(context, work) for _ in range(min(workers, len(items)))]
    try:
        while True:
            for hand in hands:
                if todo and hand.position is None:
                    position = todo.pop()
                    hand.begin(position, items[position], seconds(items[position]))
            busy = {hand.pipe: hand for hand in hands if hand.position is not None}
            if not busy:
                return
            until = min(hand.until for hand in busy.values())
            wait = None if until == math.inf else max(0.0, until - time.monotonic())
            for pipe in connection.wait(list(busy), wait):
                hand = busy.pop(pipe)  # type: ignore[arg-type]
                if (found := hand.answer()) is None:
                    continue
                if found[2] and found[0] not in again:
                    again.add(found[0])
                    todo.append(found[0])
                else:
                    yield found
            for hand in busy.values():
                if time.monotonic() >= hand.until and not hand.pipe.poll():
                    yield hand.give_up()
    finally:
        for hand in hands:
            hand.stop()


class _Hand(Generic[T, R]):
    """A process that works on one item after the other.

    Attributes:
        pipe: what it answers through.
        position: of the item it is at; None if it is idle.
        until: when it has to be done with it; before it has started up, that is never.
    """

    def __init__(self, context: Any, work: Callable[[T], R]) -> None:
        self._context, self._work = context, work
        self._start()

    def _start(self) -> None:
        self.position: int | None = None
        self.until = math.inf
        self._seconds, self._awake = math.inf, False
        self.pipe, theirs = self._context.Pipe()
        self._process = self._context.Process(target=_serve, args=(theirs, self._work), daemon=True)
        self._process.start()
        theirs.close()

    def begin(self, position: int, item: T, seconds: float) -> None:
        if self._awake and not self._process.is_alive():  # it died while it was idle
            self._restart()
        self.position, self._seconds = position, seconds
        self.until = time.monotonic() + seconds if self._awake else math.inf
        with contextlib.suppress(BrokenPipeError):  # it dies just now: its answer will tell
            self.pipe.send(item)

    def answer(self) -> tuple[int, R | None, str] | None:
        """What it says; None if it has only just started up."""
        try:
            result, error = self.pipe.recv()
        except (EOFError, OSError):
            return self._lost("kills its process")
        if not self._awake:
            self._awake, self.until = True, time.monotonic() + self._seconds
            return None
        if error is not None:
            raise error
        position, self.position = self.position, None
        return position, result, ""  # type: ignore[return-value]

    def give_up(self) -> tuple[int, R | None, str]:
        return self._lost(f"takes more than {self._seconds:.0f} seconds")

    def _lost(self, why: str) -> tuple[int, R | None, str]:
        if not self._awake:
            raise RuntimeError("processes cannot be started here; what they printed above says why")
        position = self.position
        self._restart()
        return position, None, why  # type: ignore[return-value]

    def _restart(self) -> None:
        self.stop()
        self._start()

    def stop(self) -> None:
        self._process.kill()
        self._process.join(5)  # what waits for a dead disk cannot be ended
        self.pipe.close()


def _serve(pipe: connection.Connection, work: Callable[[T], R]) -> None:
    ignore_interrupts()
    with contextlib.suppress(EOFError, BrokenPipeError):
        pipe.send((None, None))  # awake
        while True:
            item = pipe.recv()
            try:
                answer: tuple[R | None, Exception | None] = work(item), None
            except Exception as error:
                error.add_note(traceback.format_exc())
                answer = None, error
            pipe.send(answer)
