"""What the benchmarks share: several ways to do the same thing, timed in turns and printed as ratios.

The ways take turns, so that whatever else the machine does falls on all of them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from gesta.bench.timing import synchronize

Work = Callable[[], object]

COMPARED: list[dict[str, Any]] = []
"""What :func:`compare` measured in this process, for gpu.py: title, milliseconds and peak GiB of each way."""


def options_of(description: str | None, *, batch: int, repeats: int) -> argparse.ArgumentParser:
    """A command line with the options that the benchmarks of models have in common."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 (default %(default)s)")
    parser.add_argument("--batch", type=int, default=batch, help="clips at once (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=repeats, help="of each measurement (default %(default)s)")
    return parser


def dtype_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="(default %(default)s)")


def smoke_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--smoke", action="store_true", help="small sizes, which show only that it runs")


def environment(options: argparse.Namespace) -> str:
    """What a run's first line says about it."""
    dtype = getattr(options, "dtype", "float32")
    return (
        f"batch {options.batch}, {dtype}, {options.device}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, {options.repeats} repetitions"
    )


def compare(title: str, ways: dict[str, Work], device: torch.device, repeats: int, first: str = "ours") -> None:
    """Print the milliseconds of each way, and the ratio to the first, which ``first`` names.

    A time is the least of its repetitions, because other work on a machine only ever adds to it; on a CPU it is CPU
    time, of all threads together, so that other programs do not count. On CUDA the peak of allocated memory follows.
    """
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in ways}
    peak: dict[str, float] = {}
    for turn in range(repeats + 1):
        for name, work in list(ways.items())[:: -1 if turn % 2 else 1]:  # none is always the first
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            begin = clock()
            work()
            synchronize(device)
            times[name].append(1e3 * (clock() - begin))
            if device.type == "cuda":
                peak[name] = torch.cuda.max_memory_allocated(device) / 2**30
    least = {name: min(values[1:]) for name, values in times.items()}  # the first warms up
    ours = next(iter(least.values()))
    print(title)
    for name, milliseconds in least.items():
        memory = f"   {peak[name]:5.1f} GiB" if name in peak else ""
        print(f"  {name:42} {milliseconds:9.2f} ms   {milliseconds / ours:5.2f} × {first}{memory}", flush=True)
    COMPARED.append({"title": title, "milliseconds": least, "peak_gib": peak})


def median_milliseconds(work: Work, device: torch.device, repeats: int, warm_up: int = 1) -> float:
    """Median of some repetitions by the clock, after some that do not count."""
    times = []
    for _ in range(repeats + warm_up):
        begin = time.perf_counter()
        work()
        synchronize(device)
        times.append(1e3 * (time.perf_counter() - begin))
    return statistics.median(times[warm_up:])
