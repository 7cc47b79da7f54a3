"""How the benchmarks measure time: waiting for a device, the fastest of several runs, seconds per step."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from gesta.processes import describe_device


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished its work; a CPU runs nothing in the background."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def describe(device: torch.device) -> str:
    """The device as results print it, on a CPU with the threads that torch uses."""
    threads = torch.get_num_threads()
    cpu = f", {threads} thread{'s' * (threads != 1)}" if device.type == "cpu" else ""
    return describe_device(device) + cpu


def fastest_run(work: Callable[[], object], seconds: float) -> float:
    """Seconds of the fastest run within a time; the first counts only if there is no time for another."""
    begin = time.perf_counter()
    work()
    fastest, later = time.perf_counter() - begin, float("inf")
    while time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        work()
        fastest = later = min(later, time.perf_counter() - start)
    return fastest


def seconds_per_step(step: Callable[[], object], device: torch.device, seconds: float) -> tuple[float, float]:
    """Seconds of the first step, and of a later one on average: at least two, for so many seconds."""
    begin = time.perf_counter()
    step()
    synchronize(device)
    first = time.perf_counter() - begin
    begin, steps = time.perf_counter(), 0
    while steps < 2 or time.perf_counter() - begin < seconds:
        step()
        synchronize(device)
        steps += 1
    return first, (time.perf_counter() - begin) / steps
