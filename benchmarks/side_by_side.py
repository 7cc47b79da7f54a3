"""What the benchmarks of models share: several ways to do the same thing, timed in turns and printed as ratios."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

Work = Callable[[], object]


def compare(title: str, ways: dict[str, Work], device: torch.device, repeats: int) -> None:
    """Milliseconds of each way, and how long it takes in those of the first.

    A time is the least of its repetitions, because other work on a machine only ever adds to it; on a CPU it is the
    processor's, of all threads together, so that other work does not count.
    """
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats + 1):
        for name, work in ways.items():
            begin = clock()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times[name].append(1e3 * (clock() - begin))
    least = {name: min(found[1:]) for name, found in times.items()}
    ours = next(iter(least.values()))
    print(title)
    for name, found in least.items():
        print(f"  {name:42} {found:9.2f} ms   {found / ours:5.2f} × ours", flush=True)
