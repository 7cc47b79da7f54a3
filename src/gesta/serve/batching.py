"""One thread with the model, which scores the clips of several requests together."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gesta.evaluation.metrics import Average
from gesta.evaluation.scoring import score_views
from gesta.model import VideoModel
from gesta.processes import Autocast

Scored = dict[str, Tensor]
"""By label space ``(N, K)`` float64 on the CPU, see :func:`gesta.evaluation.scoring.score_views`."""


@dataclass(slots=True)
class _Waiting:
    """Clips ``(N, T, C, H, W)`` of a request, the first ``begun`` of which are in a forward pass or through it."""

    clips: Tensor
    future: Future[Scored]
    begun: int = 0
    parts: list[Scored] = field(default_factory=list)


class ModelThread:
    """Scores clips in the order in which they come, up to ``batch_size`` of them in a forward pass.

    A pass that is not full waits for more clips, ``wait_s`` at most from when its first clip was taken. A model scores
    each clip by itself, so that scores are those of single requests, up to the rounding of sums.

    Args:
        model: in evaluation mode, on ``device``.
        average: what scores are.
        device, autocast: of the forward passes.
        batch_size: clips in a forward pass at most.
        wait_s: seconds.
        on_pass: called after every forward pass with its clips and seconds.
    """

    def __init__(
        self,
        model: VideoModel,
        average: Average,
        device: torch.device,
        autocast: Autocast,
        batch_size: int,
        wait_s: float,
        on_pass: Callable[[int, float], None] = lambda clips, seconds: None,
    ) -> None:
        self._model, self._average, self._device, self._autocast = model, average, device, autocast
        self._batch_size, self._wait_s, self._on_pass = batch_size, wait_s, on_pass
        self._arrived: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._waiting: deque[_Waiting] = deque()
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether it still scores clips."""
        return self._thread.is_alive()

    def submit(self, clips: Tensor) -> Future[Scored]:
        """Have clips ``(N, T, C, H, W)`` uint8 scored; N is 1 at least."""
        future: Future[Scored] = Future()
        self._arrived.put(_Waiting(clips, future))
        return future

    def close(self) -> None:
        """Score what was submitted, and end the thread."""
        self._arrived.put(None)
        self._thread.join()

    def _work(self) -> None:
        is_open = True
        while is_open or self._waiting:
            is_open = self._collect() and is_open
            together: list[tuple[_Waiting, Tensor]] = []
            room = self._batch_size
            while room and self._waiting:
                first = self._waiting[0]
                part = first.clips[first.begun : first.begun + room]
                first.begun += len(part)
                room -= len(part)
                together.append((first, part))
                if first.begun == len(first.clips):
                    self._waiting.popleft()
            if together:
                self._pass(together)

    def _collect(self) -> bool:
        """Wait for the clips of a forward pass; returns whether more may come after them."""
        until = None if not self._waiting else time.monotonic() + self._wait_s
        while sum(len(w.clips) - w.begun for w in self._waiting) < self._batch_size:
            try:
                timeout = None if until is None else max(0.0, until - time.monotonic())
                arrived = self._arrived.get(timeout=timeout)
            except queue.Empty:
                return True
            if arrived is None:
                return False
            if arrived.future.set_running_or_notify_cancel():  # else nobody waits for it any more
                self._waiting.append(arrived)
            until = until or time.monotonic() + self._wait_s
        return True

    def _pass(self, together: list[tuple[_Waiting, Tensor]]) -> None:
        begin = time.monotonic()
        try:
            clips = torch.cat([part for _, part in together])
            scores = score_views(self._model, clips, self._average, self._device, self._autocast)
        except Exception as error:  # of this pass; the next one may go well
            for waiting, _ in together:
                if not waiting.future.done():
                    waiting.future.set_exception(error)
            self._waiting = deque(w for w in self._waiting if not w.future.done())
            return
        first = 0
        for waiting, part in together:
            waiting.parts.append({space: rows[first : first + len(part)] for space, rows in scores.items()})
            first += len(part)
            if sum(len(next(iter(p.values()))) for p in waiting.parts) == len(waiting.clips):
                waiting.future.set_result({s: torch.cat([p[s] for p in waiting.parts]) for s in scores})
        self._on_pass(len(clips), time.monotonic() - begin)
