"""What a training writes down and shows: ``log.jsonl``, TensorBoard events, and a progress bar or plain lines.

``log.jsonl`` has one JSON object per line, of two kinds, numbers that are not finite being null:

- ``"kind": "step"``, one optimiser step: ``epoch`` and ``step`` (counted from 1), ``loss``, ``losses`` by name, ``lr``,
  ``grad_norm``, ``data_s``, ``compute_s``, ``failures`` (names);
- ``"kind": "epoch"``: ``epoch``, ``step``, ``loss``, ``val`` (metrics or null), ``best`` (validation top-1 so far or
  null), ``seconds``, ``inserts`` (diagnostics of the plug-ins, e.g. ``insert.3.0/det``), ``data_fraction`` (of
  the time, spent waiting for data), ``clips_per_s``, ``failures`` (name → reason).
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gesta.training.folder import TrainingProgress

LINE_EVERY_S = 10.0
"""Seconds between lines where standard error is not a terminal."""

MAX_DATA_FRACTION = 0.3
"""The loader is called too slow if more than this fraction of an epoch's time went into waiting for data."""


class RunLog:
    """The log of one run; other processes than the first get a silent one.

    Args:
        run: the run's folder.
        keep: bytes of ``log.jsonl`` to keep (0 for a new run); what was written after the last save is dropped.
        step: optimiser steps completed; later events are dropped.
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
        from torch.utils.tensorboard import SummaryWriter  # start-up time

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
        """Start the bar of an epoch (counted from 1) of which ``done`` of ``steps`` steps are completed."""
        self._title, self._steps = f"epoch {epoch}/{epochs}", steps
        self._last_line = time.monotonic()
        if self.quiet or not sys.stderr.isatty():
            return
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

    def step(self, entry: dict[str, Any], progress: TrainingProgress) -> None:
        """Write one optimiser step down and show it."""
        self._write({"kind": "step", **entry})
        if self.events:
            scalars = {"train/loss": entry["loss"], "train/lr": entry["lr"], "train/grad_norm": entry["grad_norm"]}
            scalars |= {f"train/{name}": value for name, value in entry["losses"].items()}
            self._scalars(scalars, entry["step"])
        if self.quiet:
            return
        waiting = f"{100 * progress.data_s / progress.seconds:.0f} % waiting for data"
        text = f"loss {entry['loss']:.3f}  {progress.clips / progress.seconds:.1f} clips/s  {waiting}"
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=progress.epoch_steps, text=text)
        elif time.monotonic() - self._last_line >= LINE_EVERY_S:
            self._last_line = time.monotonic()
            self.say(f"{self._title}, step {progress.epoch_steps}/{self._steps}: {text}")

    def end_epoch(self) -> None:
        """Take the bar away."""
        if self._bar:
            self._bar.stop()
            self._bar = None

    def epoch(
        self,
        epochs: int,
        metrics: dict[str, float] | None,
        top1: float | None,
        inserts: dict[str, float],
        progress: TrainingProgress,
    ) -> None:
        """Write the summary of an epoch down and show it.

        Args:
            epochs: of the whole training.
            metrics: of the validation; None if there was none.
            top1: the one of ``metrics`` that is shown, in percent.
            inserts: diagnostics of the plug-ins.
            progress: at the end of the epoch, which it does not count yet.
        """
        epoch, seconds = progress.epoch + 1, max(progress.seconds, 1e-9)
        loss, rate = progress.loss_sum / max(progress.epoch_steps, 1), progress.clips / seconds
        data_fraction = progress.data_s / seconds
        entry = {
            "kind": "epoch",
            "epoch": epoch,
            "step": progress.step,
            "loss": loss,
            "val": metrics,
            "best": progress.best_top1,
            "seconds": progress.seconds,
            "inserts": inserts,
            "data_fraction": data_fraction,
            "clips_per_s": rate,
            "failures": progress.failures,
        }
        self._write(entry)
        if self.events:
            scalars = {"epoch/loss": loss, "epoch/data_fraction": data_fraction} | inserts
            self._scalars(scalars | {f"acc/{name}": value for name, value in (metrics or {}).items()}, progress.step)
        val = "" if top1 is None else f", val top-1 {top1:.1f} % (1 clip × 1 crop; best {progress.best_top1:.1f})"
        self.say(f"epoch {epoch}/{epochs}: loss {loss:.3f}{val}, {seconds:.0f} s, {rate:.1f} clips/s")
        if data_fraction > MAX_DATA_FRACTION:
            self.say(
                f"  the loader is too slow for the model: {100 * data_fraction:.0f} % of the time was spent waiting "
                "for data; remedy: more --train.workers, smaller videos on disk (short side 256), simpler "
                "--train.augment"
            )
        for reason in list(progress.failures.values())[:5]:  # which names the file
            self.say(f"  left out: {reason}")
        if len(progress.failures) > 5:
            self.say(f"  left out: {len(progress.failures) - 5} more videos, all named in log.jsonl")

    def size(self) -> int:
        """Length of ``log.jsonl`` in bytes, after making sure that all of it is on the disk."""
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
