"""Where the curves of a training go besides ``log.jsonl``: Lightning Fabric's loggers, one for each name in
``train.logger``.

TensorBoard's is our own: Lightning's writes in a thread, so that a full disk would print a traceback that nobody can
catch, and a killed process would lose the curves of the last minutes.
"""

from __future__ import annotations

import importlib.metadata
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from lightning.fabric.loggers import Logger

from gesta.config import to_json
from gesta.errors import GestaError
from gesta.files import make_folder
from gesta.recipe import Recipe

Openers = dict[str, Callable[[], Logger]]
"""By the title that messages use, what opens a logger."""


def check_loggers(names: tuple[str, ...]) -> None:
    """Refuse loggers whose package is not installed; a folder ``wandb`` of earlier runs is none.

    Raises:
        GestaError: names the package.
    """
    try:
        if "wandb" in names:
            importlib.metadata.version("wandb")
    except importlib.metadata.PackageNotFoundError:
        raise GestaError(
            "--train.logger wandb needs the package wandb, which is not installed; pip install wandb, or leave it out"
        ) from None


def new_wandb_id(names: tuple[str, ...]) -> str:
    """An identifier of a new W&B run; empty if none is wanted."""
    return secrets.token_hex(4) if "wandb" in names else ""


def loggers(recipe: Recipe, run: Path, step: int = 0, wandb_id: str = "") -> Openers:
    """The loggers that a recipe asks for.

    Args:
        recipe: of the run.
        run: its folder.
        step: optimiser steps completed: what was logged of later ones is replaced.
        wandb_id: of the W&B run, which is continued if it exists.
    """
    known: Openers = {
        "tensorboard": partial(TensorBoard, run / "events", step + 1),
        "wandb": partial(_open_wandb, recipe, run, wandb_id),
    }
    titles = {"tensorboard": "TensorBoard", "wandb": "W&B"}
    return {titles[name]: known[name] for name in recipe.train.logger}


def _open_wandb(recipe: Recipe, run: Path, wandb_id: str) -> Logger:
    """Lightning's logger, with the recipe as the run's configuration; W&B's environment variables mean what they do."""
    from lightning.pytorch.loggers import WandbLogger  # an extra

    project, folder = os.environ.get("WANDB_PROJECT", "gesta"), os.environ.get("WANDB_DIR", run)
    logger = WandbLogger(name=run.name, save_dir=folder, version=wandb_id, project=project)
    logger.log_hyperparams(to_json(recipe))  # this begins or continues the run
    return logger


def close(logger: Logger) -> None:
    """Finish a logger, so that the next training of this process gets its own; after an error as a failed one."""
    failed = sys.exc_info()[0] is not None
    logger.finalize("failed" if failed else "success")
    if finish := getattr(getattr(logger, "experiment", None), "finish", None):  # W&B's, which Lightning leaves open
        finish(exit_code=int(failed))


class TensorBoard(Logger):
    """TensorBoard's file of scalars; each is on the disk when :meth:`log_metrics` returns.

    Args:
        folder: of all such files of a run.
        step: from which on the scalars of earlier files are not shown.
    """

    def __init__(self, folder: Path, step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # start-up time
        from tensorboard.summary.writer.record_writer import RecordWriter
        from torch.utils.tensorboard.summary import scalar

        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
        self.file = open(make_folder(folder) / name, "ab")  # noqa: SIM115 (closed by finalize)
        self._records, self._event, self._scalar = RecordWriter(self.file), Event, scalar
        self._write(step=step, file_version="brain.Event:2")
        self._write(step=step, session_log=SessionLog(status=SessionLog.START))

    @property
    def name(self) -> str:
        return "tensorboard"

    @property
    def version(self) -> str:
        return ""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        for name, value in metrics.items():
            self._write(step=step, summary=self._scalar(name, value))

    def log_hyperparams(self, params: Any, *arguments: Any, **settings: Any) -> None:
        """They are in the run's ``recipe.json``."""

    def finalize(self, status: str) -> None:
        self.file.close()

    def _write(self, **content: Any) -> None:
        self._records.write(self._event(wall_time=time.time(), **content).SerializeToString())
        self.file.flush()
