"""What a training writes down and shows: ``log.jsonl``, TensorBoard events, and a progress bar or plain lines.

``log.jsonl`` has one JSON object per line, of two kinds, numbers that are not finite being null:

- ``"kind": "step"``, one optimiser step: ``epoch`` and ``step`` (counted from 1), ``loss``, ``losses`` by name, ``lr``,
  ``grad_norm``, ``data_s``, ``compute_s``, ``failures`` (names);
- ``"kind": "epoch"``: ``epoch``, ``step``, ``loss``, ``val`` (metrics or null), ``best`` (validation top-1 so far or
  null), ``seconds``, ``inserts`` (what plug-ins say of themselves, e.g. ``insert.3.0/det``), ``data_share``,
  ``clips_per_s``, ``failures`` (name → reason).
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from rich.progress import Progress

from gesta.training.folder import Position

LINE_EVERY_S = 10.0
"""Seconds between lines where standard error is not a terminal."""

STARVED = 0.3
"""Share of an epoch's time spent waiting for data from which on the loader is called too slow."""


class RunLog:
    """The log of one run; other processes than the first get a silent one.

    Args:
        run: the run's folder.
        keep: bytes of ``log.jsonl`` to go on from (0 for a new run); what was written after them is dropped.
        step: the optimiser step to go on from.
        quiet: show nothing.
        silent: neither show nor write anything.
    """

    def __init__(self, run: Path, *, keep: int = 0, step: int = 0, quiet: bool = False, silent: bool = False) -> None:
        self.quiet = quiet or silent
        self.file = self.events = None
        self._bar: Progress | None = None
        self._last_line = 0.0
        if silent:
            return
        from torch.utils.tensorboard import SummaryWriter

        path = run / "log.jsonl"
        path.touch()
        os.truncate(path, min(keep, path.stat().st_size))
        self.file = open(path, "ab")  # noqa: SIM115 (closed by close)
        self.events = SummaryWriter(str(run / "events"), purge_step=step + 1, flush_secs=10)

    def say(self, text: str) -> None:
        """One or more lines on standard error."""
        if self.quiet:
            return
        if self._bar:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def begin_epoch(self, epoch: int, epochs: int, done: int, steps: int) -> None:
        """Start the bar of an epoch (counted from 1) of which ``done`` of ``steps`` steps are behind us."""
        self._title, self._steps = f"epoch {epoch}/{epochs}", steps
        self._last_line = time.monotonic()
        if self.quiet or not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._bar.add_task(self._title, total=steps, completed=done, text="")
        self._bar.start()

    def step(self, entry: dict[str, Any], at: Position) -> None:
        """Write one optimiser step down and show it."""
        self._write({"kind": "step", **entry})
        if self.events:
            scalars = {"train/loss": entry["loss"], "train/lr": entry["lr"], "train/grad_norm": entry["grad_norm"]}
            scalars |= {f"train/{name}": value for name, value in entry["losses"].items()}
            self._scalars(scalars, entry["step"])
        if self.quiet:
            return
        rate = f"{at.clips / at.seconds:.1f} clips/s"
        text = f"loss {entry['loss']:.3f}  {rate}  {100 * at.data_s / at.seconds:.0f} % waiting for data"
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=at.done, text=text)
        elif time.monotonic() - self._last_line >= LINE_EVERY_S:
            self._last_line = time.monotonic()
            self.say(f"{self._title}, step {at.done}/{self._steps}: {text}")

    def end_epoch(self) -> None:
        """Take the bar away."""
        if self._bar:
            self._bar.stop()
            self._bar = None

    def epoch(
        self,
        epoch: int,
        epochs: int,
        metrics: dict[str, float] | None,
        top1: float | None,
        inserts: dict[str, float],
        at: Position,
    ) -> None:
        """Write the summary of an epoch (counted from 1) down and show it."""
        seconds = max(at.seconds, 1e-9)
        loss, share, rate = at.loss / max(at.done, 1), at.data_s / seconds, at.clips / seconds
        entry = {"epoch": epoch, "step": at.step, "loss": loss, "val": metrics, "best": at.best, "seconds": at.seconds}
        entry["inserts"] = inserts
        self._write({"kind": "epoch", **entry, "data_share": share, "clips_per_s": rate, "failures": at.failures})
        if self.events:
            scalars = {"epoch/loss": loss, "epoch/data_share": share} | inserts
            self._scalars(scalars | {f"acc/{name}": value for name, value in (metrics or {}).items()}, at.step)
        val = "" if top1 is None else f", val top-1 {top1:.1f} % (1 clip × 1 crop; best {at.best:.1f})"
        self.say(f"epoch {epoch}/{epochs}: loss {loss:.3f}{val}, {seconds:.0f} s, {rate:.1f} clips/s")
        if share > STARVED:
            self.say(
                f"  the loader starves the model: {100 * share:.0f} % of the time went into waiting for data; remedy: "
                "more --train.workers, smaller videos on disk (short side 256), simpler --train.augment"
            )
        for reason in list(at.failures.values())[:5]:  # which names the file
            self.say(f"  left out: {reason}")
        if len(at.failures) > 5:
            self.say(f"  left out: {len(at.failures) - 5} more videos, all named in log.jsonl")

    def position(self) -> int:
        """Length of ``log.jsonl`` in bytes, all of it being on the disk."""
        if self.file is None:
            return 0
        self.file.flush()
        os.fsync(self.file.fileno())
        return self.file.tell()

    def close(self) -> None:
        """Finish the files and the bar; safe to call twice."""
        self.end_epoch()
        if self.file:
            self.file.close()
        if self.events:
            self.events.close()

    def _write(self, entry: dict[str, Any]) -> None:
        if self.file:
            entry = json.loads(json.dumps(entry), parse_constant=lambda _: None)  # JSON knows neither NaN nor infinity
            self.file.write((json.dumps(entry) + "\n").encode())
            self.file.flush()

    def _scalars(self, scalars: dict[str, Any], step: int) -> None:
        for name, value in scalars.items():
            if isinstance(value, int | float):
                self.events.add_scalar(name, value, step)  # type: ignore[union-attr]
