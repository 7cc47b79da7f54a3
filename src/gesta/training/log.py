"""What a training writes down and shows: ``log.jsonl``, its loggers, and a progress bar or plain lines.

``log.jsonl`` has one JSON object per line, of these kinds, numbers that are not finite being null:

- ``"kind": "start"``, where a process began or resumed the training: ``step`` (steps done before), ``device``,
  ``processes``, ``precision``, ``changes`` (of the recipe since the run was started, in words) and ``remarks``;
- ``"kind": "step"``, one optimiser step: ``epoch`` and ``step`` (counted from 1), ``loss``, ``losses`` by name, ``lr``,
  ``grad_norm``, ``data_s``, ``compute_s``, ``failures`` (names, with the frames or seconds of segments);
- ``"kind": "epoch"``: ``epoch``, ``step``, ``loss`` (mean over the steps of which it is finite), ``train_top1`` (of the
  training clips as they were trained, see
  :attr:`gesta.training.folder.TrainingProgress.train_top1`; null with MixUp, CutMix or several labels per video),
  ``val`` (metrics or null), ``best`` (validation top-1 or mAP so far or null), ``seconds``, ``health`` (what plug-ins
  and attentions measure, e.g. ``insert.3.0/det``), ``faults`` (sentences that name those which do nothing, see
  :mod:`gesta.evaluation.health`), ``data_fraction`` (of the time, spent waiting for data), ``clips_per_s``,
  ``failures`` (names as of steps → reason);
- ``"kind": "logger"``: ``failed``, a sentence about a logger that got nothing from there on;
- ``"kind": "ended_early"``: ``epoch``, ``step`` and ``reason``, a sentence, where ``train.patience`` ended a training;
- of probes ``"kind": "features"``: ``folder``, ``videos``, ``computed`` (of them), ``seconds``, ``failures``; and
  ``"kind": "probe"``: ``lr``, ``weight_decay``, ``loss``, ``val``, ``val_loss``, ``kept``; ``epoch`` lines are of the
  probe that is kept.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from lightning.fabric.loggers import Logger
from rich.progress import Progress

from gesta.errors import in_callers_terms, without_passwords
from gesta.evaluation.health import Health
from gesta.evaluation.metrics import headline_name
from gesta.files import refusal
from gesta.progress import progress_bar, show, visible
from gesta.training.folder import TrainingProgress
from gesta.training.loggers import Openers, close

LINE_EVERY_S = 10.0
"""Seconds between lines where standard error is not a terminal."""

SHOWN = 5
"""Files left out, and parts of the model at fault, that are shown after an epoch."""

MAX_DATA_FRACTION = 0.3
"""The loader is called too slow if more than this fraction of an epoch's time went into waiting for data."""


class RunLog:
    """The log of one run; other processes than the first get a silent one.

    Args:
        run: the run's folder.
        keep: bytes of ``log.jsonl`` to keep (0 for a new run); what was written after the last save is dropped.
        loggers: get the scalars, too. One that fails is left out from then on, and the training goes on.
        quiet: show nothing.
        silent: neither show nor write anything.
    """

    def __init__(
        self, run: Path, *, keep: int = 0, loggers: Openers | None = None, quiet: bool = False, silent: bool = False
    ) -> None:
        self.quiet = quiet or silent
        self.file: BinaryIO | None = None
        self.loggers: dict[str, Logger] = {}
        self._bar: Progress | None = None
        self._last_line = 0.0
        if silent:
            return
        self.path = run / "log.jsonl"
        with self._written():
            self.file = open(self.path, "ab")  # noqa: SIM115 (closed by close)
            self.file.truncate(min(keep, self.file.tell()))
        for title, opener in (loggers or {}).items():
            with self._logging(title):
                self.loggers[title] = opener()

    def say(self, text: str) -> None:
        """One or more lines on standard error."""
        if self.quiet:
            return
        text = in_callers_terms(text)
        if self._bar:
            self._bar.console.print(visible(text), soft_wrap=True)
        else:
            show(text, sys.stderr)

    def start(self, entry: dict[str, Any]) -> None:
        """Write down where and with what the training begins or resumes."""
        self._write({"kind": "start", **entry})

    def features(self, folder: str, videos: int, computed: int, seconds: float, failures: dict[str, str]) -> None:
        """Write down and show of how many videos a training of probes has features, and which have none."""
        entry = {"folder": folder, "videos": videos, "computed": computed, "seconds": seconds, "failures": failures}
        self._write({"kind": "features", **entry})
        self.say(f"features of {videos} videos, {computed} of them computed in {seconds:.0f} s ({folder})")
        self._say_some("  left out: ", list(failures.values()), "videos")

    def probe(self, entry: dict[str, Any]) -> None:
        """Write one probe down: its settings, loss and validation."""
        self._write({"kind": "probe", **entry})

    def probe_epochs(self, losses: list[float], val: dict[str, float], top1: float | None, seconds: float) -> None:
        """Write the epochs of the probe that is kept down, as :meth:`epoch` does; it is validated after the last."""
        same = {"seconds": seconds / len(losses), "health": {}, "faults": [], "data_fraction": 0.0, "failures": {}}
        for epoch, loss in enumerate(losses, 1):
            last = epoch == len(losses)
            measured = {"val": val if last else None, "best": top1 if last else None}
            self._write({"kind": "epoch", "epoch": epoch, "step": epoch, "loss": loss, **measured, **same})
            self._scalars({"epoch/loss": loss}, epoch)
        self._scalars({f"acc/{name}": value for name, value in val.items()}, len(losses))

    def begin_epoch(self, epoch: int, epochs: int, done: int, steps: int) -> None:
        """Start the bar of an epoch (counted from 1) of which ``done`` of ``steps`` steps are completed."""
        self._title, self._steps = f"epoch {epoch}/{epochs}", steps
        self._last_line = time.monotonic()
        if self.quiet or not sys.stderr.isatty():
            return
        self._bar = progress_bar()
        self._bar.add_task(self._title, total=steps, completed=done, text="")
        self._bar.start()

    def step(self, entry: dict[str, Any], progress: TrainingProgress) -> None:
        """Write one optimiser step down and show it."""
        self._write({"kind": "step", **entry})
        scalars = {"train/loss": entry["loss"], "train/lr": entry["lr"], "train/grad_norm": entry["grad_norm"]}
        self._scalars(scalars | {f"train/{name}": value for name, value in entry["losses"].items()}, entry["step"])
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
        health: Health,
        progress: TrainingProgress,
        *,
        show_faults: bool,
    ) -> None:
        """Write the summary of an epoch down and show it.

        Args:
            epochs: of the whole training.
            metrics: of the validation; None if there was none.
            top1: the one of ``metrics`` that is shown, in percent.
            health: what the model's parts report.
            progress: at the end of the epoch, which it does not count yet.
            show_faults: show which parts do nothing (they are always written down).
        """
        epoch, seconds = progress.epoch + 1, max(progress.seconds, 1e-9)
        loss, rate = progress.loss, progress.clips / seconds
        data_fraction = progress.data_s / seconds
        entry = {
            "kind": "epoch",
            "epoch": epoch,
            "step": progress.step,
            "loss": loss,
            "train_top1": progress.train_top1,
            "val": metrics,
            "best": progress.best_top1,
            "seconds": progress.seconds,
            "health": health.figures,
            "faults": health.faults,
            "data_fraction": data_fraction,
            "clips_per_s": rate,
            "failures": progress.failures,
        }
        self._write(entry)
        scalars = {"epoch/loss": loss, "epoch/data_fraction": data_fraction} | health.figures
        scalars |= {} if progress.train_top1 is None else {"epoch/train_top1": progress.train_top1}
        self._scalars(scalars | {f"acc/{name}": value for name, value in (metrics or {}).items()}, progress.step)
        trained = "" if progress.train_top1 is None else f", train top-1 {progress.train_top1:.1f} %"
        val = (
            ""
            if top1 is None
            else f", val {headline_name(metrics)} {top1:.1f} % (1 clip × 1 crop; best {progress.best_top1:.1f})"
        )
        self.say(f"epoch {epoch}/{epochs}: loss {loss:.3f}{trained}{val}, {seconds:.0f} s, {rate:.1f} clips/s")
        if data_fraction > MAX_DATA_FRACTION:
            self.say(
                f"  the loader is too slow for the model: {100 * data_fraction:.0f} % of the time was spent waiting "
                "for data; remedy: more --train.workers, smaller videos on disk (short side 256), simpler "
                "--train.augment"
            )
        self._say_some("  left out: ", list(progress.failures.values()), "videos")  # each reason names the file
        if show_faults:
            self._say_some("  warning: ", health.faults, "parts of the model")

    def end_early(self, epoch: int, step: int, reason: str) -> None:
        """Write down and show why a training ends before its last epoch."""
        self._write({"kind": "ended_early", "epoch": epoch, "step": step, "reason": reason})
        self.say(reason)

    def _say_some(self, prefix: str, sentences: list[str], of: str) -> None:
        for sentence in sentences[:SHOWN]:
            self.say(prefix + sentence)
        if len(sentences) > SHOWN:
            self.say(f"{prefix}{len(sentences) - SHOWN} more {of}, all named in log.jsonl")

    def size(self) -> int:
        """Length of ``log.jsonl`` in bytes, after making sure that all of it is on the disk."""
        if self.file is None:
            return 0
        with self._written():
            os.fsync(self.file.fileno())
        return self.file.tell()

    def close(self) -> None:
        """Finish the files and the bar; safe to call twice."""
        self.end_epoch()
        while self.loggers:
            title, logger = self.loggers.popitem()
            with self._logging(title):
                close(logger)
        if self.file:
            with contextlib.suppress(OSError):  # what could not be written has been refused already
                self.file.close()
            self.file = None

    def _write(self, entry: dict[str, Any]) -> None:
        if self.file:
            entry = json.loads(json.dumps(entry), parse_constant=lambda _: None)  # JSON knows neither NaN nor infinity
            with self._written():
                self.file.write((without_passwords(json.dumps(entry)) + "\n").encode())

    def _scalars(self, scalars: dict[str, Any], step: int) -> None:
        numbers = {name: value for name, value in scalars.items() if isinstance(value, int | float)}
        for title, logger in list(self.loggers.items()):
            with self._logging(title):
                logger.log_metrics(numbers, step)

    @contextlib.contextmanager
    def _logging(self, title: str) -> Iterator[None]:
        """Work of a logger; where it fails, it is left out and a sentence says so: whatever a package does, the
        training is worth more."""
        try:
            yield
        except Exception as error:
            if logger := self.loggers.pop(title, None):
                with contextlib.suppress(Exception):
                    close(logger)
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            failed = f"{title} failed ({reason}) and gets nothing more of this training; log.jsonl has it all"
            self.say(f"warning: {failed}")
            self._write({"kind": "logger", "failed": failed})

    @contextlib.contextmanager
    def _written(self) -> Iterator[None]:
        """Flush what is written inside; where that fails, take half a line away and raise a sentence."""
        before = self.file.tell() if self.file else 0
        try:
            yield
            if self.file:
                self.file.flush()
        except OSError as error:
            if self.file:
                with contextlib.suppress(OSError):  # closing it writes what is left in its buffer
                    self.file.close()
                with contextlib.suppress(OSError):
                    os.truncate(self.path, before)
                self.file = None
            raise refusal(self.path, error) from None
