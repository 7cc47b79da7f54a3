"""The parts of a long list of videos on a Ray cluster: each is a task of Ray Data, and what they leave is merged.

What goes through Ray is the number of a part and the words of the command. Results are the folders of the parts, as
``--part`` leaves them, on a disk that all machines see: a task whose worker was killed is done again by Ray and goes on
where it stopped; so does the same command after all of it was killed, also while the parts were merged.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import platform
import sys
from collections.abc import Iterator
from typing import Any

from gesta.cli.merge import merge_parts
from gesta.cli.options import format_of, print_results
from gesta.errors import GestaError, naming_flags
from gesta.files import DISK_FAULTS, machine_fault, make_folder, refusal
from gesta.progress import one_line, show

MOST_STARTS = 10
"""Of a part in one run. Ray Data does a lost task again without end, also if a video kills its process each time."""


def check_ray_options(options: argparse.Namespace) -> None:
    """Refuse options that do not go with ``--ray``, and those that need it.

    Raises:
        GestaError: see above.
    """
    if not options.ray:
        if options.parts:
            raise GestaError("--parts is how many parts a Ray cluster computes; add --ray ADDRESS, or give --part K/N")
        return
    if options.part:
        raise GestaError("--ray computes all parts, and --part one of them: give one of the two")
    if not options.parts:
        raise GestaError("--ray computes the videos in parts; say in how many, such as --parts 64")
    if not options.out:
        raise GestaError("--ray needs a file or folder for the results; add --out")
    if getattr(options, "live", False):
        raise GestaError("--live is about a camera or a stream, which has no end and no parts; leave --ray out")
    whole = ("draw", "review", "url_prefix", "lists", "shards")
    if flag := next((name for name in whole if getattr(options, name, None)), None):
        raise GestaError(
            f"--{flag.replace('_', '-')} is about all videos, and Ray computes parts of them; leave it out"
        )
    format = getattr(options, "format", None) or format_of(options.out)
    if format in ("table", "srt", "label-studio"):
        raise GestaError(f"--format {format} is not made of parts; take csv, json, text or parquet")


def require_ray() -> None:
    """Refuse a cluster without Ray Data, before anything is written.

    Raises:
        GestaError: it is not installed.
    """
    try:
        import ray.data  # noqa: F401 (an extra)
    except ImportError:
        raise GestaError("--ray needs Ray Data, which is not installed; pip install 'gesta[ray]'") from None


def run_on_ray(options: argparse.Namespace, is_predict: bool = False) -> int:
    """Compute all parts of a command on a Ray cluster and merge them into ``options.out``.

    The parts lie in ``<out>.parts``, which stays: the same command continues it.

    Args:
        options: of the command, see :func:`check_ray_options`, with the words of the command line as ``options.words``.
        is_predict: ``--out`` is a file, of ``options.format`` (default: Parquet).

    Returns:
        The exit status: 1 if a video has no result or an incomplete one, else 0.

    Raises:
        GestaError: the cluster cannot be reached, parts could not be computed, or there are fewer videos than parts.
    """
    from gesta.data.shares import check_new_folder, read_paths

    require_ray()
    out, format = options.out, None
    if options.listed is not None and options.parts > (videos := len(read_paths(options.listed))):
        raise GestaError(f"--parts {options.parts}: {options.listed} lists {videos} videos; make fewer parts")
    if is_predict:
        format = "json" if options.json else options.format or format_of(out) or "parquet"
        if format == "parquet":
            from gesta.prediction.writers import require_pyarrow

            require_pyarrow()
    else:
        check_new_folder(out)
    parts = make_folder(f"{os.path.abspath(out)}.parts")  # beside it, also if it ends with a slash
    for starts in parts.glob(".starts-*"):
        starts.unlink()
    job = {"words": options.words, "parts": options.parts, "folder": str(parts), "place": os.getcwd()}
    needs_gpu = hasattr(options, "device") and options.device != "cpu"
    failed: dict[int, str] = {}
    with _cluster(options.ray) as ray:
        for number, done in enumerate(_computed(ray, job, needs_gpu), 1):
            failed |= {done["part"]: done["failed"]} if done["failed"] else {}
            show(one_line(f"{parts}: {number} of {options.parts} parts, {len(failed)} failed"), sys.stderr)
    if failed:
        first = min(failed)
        raise GestaError(f"{len(failed)} of {options.parts} parts failed; the first is part {first}: {failed[first]}")
    folders = [str(parts / str(number)) for number in range(1, options.parts + 1)]
    report = merge_parts(folders, out, format)
    print_results(options, report)
    return int(bool(report.failed or report.incomplete))


@contextlib.contextmanager
def _cluster(address: str) -> Iterator[Any]:
    """Ray, connected to a cluster until the block ends; ``local`` is one of this machine, which ends with it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray tells its makers how it is used
    import ray
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it reports its own progress, of rows
    more = {"include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **more)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise GestaError(
            f"--ray {address}: no Ray cluster answers ({type(error).__name__}); give HOST:PORT of its head, auto on "
            "one of its machines, or local"
        ) from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _computed(ray: Any, job: dict[str, Any], needs_gpu: bool) -> Iterator[dict[str, Any]]:
    """What :func:`compute_part` says of each part, as they end."""
    from ray.data import DataContext

    DataContext.get_current().enable_progress_bars = False
    there = ray.cluster_resources()
    gpus = int(there.get("GPU", 0)) if needs_gpu else 0
    cpus = max(1, int(there.get("CPU", 1)) // gpus) if gpus else 1
    takes = {"num_gpus": 1} if gpus else {"num_cpus": 1}  # Ray Data does not support both well
    numbers = ray.data.range(job["parts"], override_num_blocks=job["parts"])
    done = numbers.map(compute_part, fn_kwargs={**job, "cpus": cpus}, **takes)
    try:
        yield from done.iter_rows()
    except ray.exceptions.RayError as error:  # the cluster is gone, or a machine of it has no gesta
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise GestaError(
            f"--ray: the cluster gave up a part ({reason[-1]}); look into the folders of the parts, run the command of "
            "an unfinished one with --part by hand, or give the same command again, which continues"
        ) from None


def compute_part(
    row: dict[str, Any], *, words: list[str], parts: int, folder: str, place: str, cpus: int
) -> dict[str, Any]:
    """Compute one part in a process of the cluster.

    Args:
        row: of Ray Data, whose ``id`` counts the parts from 0.
        words: of the command line.
        parts: how many there are.
        folder: that holds the folders of all parts.
        place: folder in which the command was given, which its paths are relative to.
        cpus: cores of this task.

    Returns:
        The number of the part, and why it could not be computed (empty if it was).
    """
    from gesta.cli import make_parser
    from gesta.data.shares import Share

    number = int(row["id"]) + 1
    # As many tasks as fit share this machine, and each takes its part of the cores (gesta.processes.cpu_cores).
    os.environ["LOCAL_WORLD_SIZE"] = str(max(1, (os.cpu_count() or 1) // cpus))
    options = make_parser().parse_args(words)
    options.ray = options.parts = None
    options.part, options.out, options.json = Share(number, parts), f"{folder}/{number}", False
    if options.command.__name__ == "_predict":
        options.format = None
    needed = place
    try:
        os.chdir(place)
        needed = folder
        with open(f"{folder}/.starts-{number}", "ab") as file:
            file.write(b".")
            starts = file.tell()
    except OSError as error:
        sentence = f"{needed}: {error.strerror} on {platform.node()}; all machines must see the same folders"
        if error.errno in DISK_FAULTS:
            sentence = str(refusal(folder, error))
        return {"part": number, "failed": sentence}
    if starts > MOST_STARTS:
        sentence = f"its process ended {MOST_STARTS} times; run it alone to see why, with --part {number}/{parts}"
        return {"part": number, "failed": sentence}
    sentence = ""
    try:
        with naming_flags():
            options.command(options)  # its status says that videos failed, which the merged parts count
    except GestaError as error:
        sentence = str(error)
    except (Exception, SystemExit) as error:  # one part must not end the others, nor a wrong flag the process
        sentence = machine_fault(error) or f"{type(error).__name__}: {error}"
    return {"part": number, "failed": sentence}
