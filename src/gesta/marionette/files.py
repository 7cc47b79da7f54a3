"""Folders of made clips: their manifest, files that appear complete or not at all, work in several processes."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Annotated, Any, TypedDict

from gesta.config import Between, from_json, read_json
from gesta.errors import GestaError
from gesta.files import LOCK, write_text
from gesta.marionette.displacement import CameraAim
from gesta.processes import ignore_interrupts, starting_workers

VERSION = 1
"""Version of the rendering; clips of different versions are not mixed in one folder."""

MANIFEST = "marionette.json"


class _Required(TypedDict):
    clips: Annotated[int, Between(0, 10**6)]
    seed: int


class _Manifest(_Required, total=False):
    """Those fields of a manifest that are used before they are compared with what is asked for."""

    family: str
    aim: CameraAim


def read_manifest(root: Path) -> dict[str, Any] | None:
    """How a folder was made; None if nothing was made in it."""
    path, remedy = root / MANIFEST, f"delete {root} and make it again"
    if not path.exists():
        return None
    manifest: dict[str, Any] = read_json(path, dict[str, Any], remedy=remedy)
    checked = {name: value for name, value in manifest.items() if name in ("clips", "seed", "family", "aim")}
    from_json(checked, _Manifest, source=str(path), remedy=remedy)
    return manifest


def open_folder(root: Path, settings: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """Write the manifest of a new folder, or check that an old one was made with the same settings.

    Returns:
        The manifest, and whether the folder is new. ``clips`` counts those that an earlier call finished, unless it is
        one of the settings.
    """
    manifest = read_manifest(root)
    if manifest is None:
        if root.exists() and (not root.is_dir() or any(path.name != LOCK for path in root.iterdir())):
            raise GestaError(f"{root} is not empty and holds no Marionette set; choose a new folder")
        manifest = settings | {"clips": settings.get("clips", 0)}
        write_json(root / MANIFEST, manifest)
        return manifest, True
    defaults = {"lighting": "even", "aim": "centred", "layout": None}  # of what a manifest may leave out
    for key in [*settings, *defaults]:
        saved, value = manifest.get(key, defaults.get(key)), settings.get(key, defaults.get(key))
        if saved != value:
            raise GestaError(
                f"{root} was made with {key} {saved}, not {value}; choose another folder or delete this one"
            )
    return manifest, False


def write_json(path: Path, value: Any) -> None:
    """Write plain values, complete or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def run_in_processes(work: Callable[..., None], jobs: Sequence[tuple[Any, ...]], workers: int | None) -> Iterator[None]:
    """Do ``work(*job)`` for every job, in several processes; yields once per job."""
    workers = min(workers or os.cpu_count() or 1, len(jobs))
    if workers <= 1:
        for job in jobs:
            work(*job)
            yield
        return
    # fresh processes, not forked ones, since the caller may have threads (torch)
    with starting_workers():  # creates a semaphore, whose tracker is a process
        pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=ignore_interrupts)
    try:
        with starting_workers():
            running: list[Future[None]] = [pool.submit(work, *job) for job in jobs]
        for done in as_completed(running):
            done.result()
            yield
    except BrokenProcessPool:
        raise GestaError(
            "a process that makes clips ended early, perhaps for lack of memory; run it again with workers=1"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)
