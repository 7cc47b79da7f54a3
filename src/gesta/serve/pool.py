"""Processes that decode uploads, each of which may hang, crash or run out of memory without harm to the others."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

from gesta.data.workers import KILLS, Worker, start_workers
from gesta.serve.decoding import Clips, Job, Refused, decode
from gesta.serve.limits import Refusal

Decoder: TypeAlias = Worker[Job | None, Clips | Refused]


class DecoderPool:
    """Decoding processes, and as many threads that wait for them.

    Args:
        count: of processes.
        on_restart: called whenever a process is replaced.

    Attributes:
        threads: an executor; what is called in it may use :meth:`decode`.
    """

    def __init__(self, count: int, on_restart: Callable[[], None] = lambda: None) -> None:
        self._workers: list[Decoder] = start_workers(decode, count, "gesta.serve.decoding")
        self._idle: queue.SimpleQueue[Decoder] = queue.SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._on_restart = on_restart
        self._is_closed = False
        self.threads = ThreadPoolExecutor(count, "decoding")

    def decode(self, job: Job) -> Iterator[Clips]:
        """The clips of a video, of a timeline in parts; the next part is decoded while the last one is used.

        A file whose process dies is tried a second time, since memory may have been short. The process of a file that
        cannot be read, or is not read to its end, is replaced: nothing that a broken file did to it can last.

        Raises:
            Refusal: the video is beyond a limit, cannot be read, takes too long or kills its process.
        """
        worker = self._idle.get()
        finished = False
        try:
            clips = self._first(worker, job)
            left = job.limits.decode_seconds
            while not clips.is_last:
                worker.begin(0, None, left)
                yield clips
                begin = time.monotonic()
                clips = self._outcome(job, *worker.wait())
                left -= time.monotonic() - begin
            finished = not clips.error
            yield clips
        finally:
            try:
                if not finished and not self._is_closed:
                    self._on_restart()
                    worker.restart()
            finally:
                self._idle.put(worker)

    def _first(self, worker: Decoder, job: Job) -> Clips:
        seconds = job.limits.decode_seconds
        result, reason = worker.run(job, seconds)
        if reason == KILLS and not self._is_closed:
            result, reason = worker.run(job, seconds)
        return self._outcome(job, result, reason)

    def _outcome(self, job: Job, result: Clips | Refused | None, reason: str) -> Clips:
        """Clips, or the refusal that they were not made."""
        if reason == KILLS:
            raise Refusal(422, f"{job.name}: ends the process that decodes it; send another copy, or convert it first")
        if reason:
            most = f"{job.limits.decode_seconds:g} seconds"
            raise Refusal(504, f"{job.name}: was not decoded within {most}; send a shorter or smaller video")
        if isinstance(result, Refused):
            raise Refusal(*result)
        assert result is not None
        return result

    def close(self) -> None:
        """End all processes; what they were decoding is given up."""
        self._is_closed = True
        for worker in self._workers:
            worker.kill()
        self.threads.shutdown(cancel_futures=True)
        for worker in self._workers:
            worker.stop()
