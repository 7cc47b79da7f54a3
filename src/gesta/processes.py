"""Devices, processes and signals: what a training shares with the machine.

Worker processes that need no torch import this module (the renderer's, those that check and re-encode videos), so torch
and Lightning are imported inside the functions that use them: start-up time.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from gesta.errors import GestaError

if TYPE_CHECKING:  # start-up time
    import torch
    from lightning.fabric import Fabric


def make_fabric(precision: Any = "32-true") -> Fabric:
    """Devices, precision and processes: one device, or as many as torchrun or srun started processes.

    Lightning's remarks are silenced; what users must know we say ourselves.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from lightning.fabric import Fabric  # start-up time

        for name in ("lightning.fabric", "lightning.pytorch"):  # whose imports set another level
            logging.getLogger(name).setLevel(logging.ERROR)
        world = int(os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_STEP_NUM_TASKS") or 1)
        here = os.environ.get("LOCAL_WORLD_SIZE")
        nodes = world // int(here) if here else int(os.environ.get("SLURM_STEP_NUM_NODES") or 1)
        fabric = Fabric(accelerator="auto", devices=world // nodes, num_nodes=nodes, precision=precision)
        fabric.launch()
    if fabric.world_size > 1:
        atexit.unregister(_leave_group)
        atexit.register(_leave_group)
    return fabric


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """The named device, or with ``auto`` the first accelerator there is, else the CPU."""
    import torch  # start-up time

    if device != "auto":
        return torch.device(device)
    if not torch.accelerator.is_available():
        return torch.device("cpu")
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def is_first_process() -> bool:
    """Whether this is the first of the processes that torchrun or srun started, also before they know each other."""
    return int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or 0) == 0


def _leave_group() -> None:
    """Gloo's threads must end before the interpreter does, or it may abort; Lightning sees to NCCL's only."""
    import torch  # start-up time

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def share_processors(fabric: Fabric, workers: int) -> None:
    """On a CPU, leave the loader's processes the processors they need: threads that fight over them halve the speed.

    Whoever sets OMP_NUM_THREADS decides for himself.
    """
    import torch  # start-up time

    if fabric.device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, processors() - loader_workers(workers, shared=True)))


def batch_norms_to_join(fabric: Fabric) -> bool:
    """Whether there are several processes, between which torch's SyncBatchNorm can exchange statistics.

    Raises:
        GestaError: they are on another device than CUDA, which it does not know.
    """
    if fabric.world_size > 1 and fabric.device.type != "cuda":
        raise GestaError(
            f"batch norms of several processes can be joined on CUDA only, and these {fabric.world_size} train on "
            f"{fabric.device.type}; let each have its own by --train.sync-bn False"
        )
    return fabric.world_size > 1


def mean_over_processes(fabric: Fabric, values: dict[str, Any]) -> dict[str, float]:
    """The mean of each value over all processes; the one place per step where we wait for the device."""
    import torch  # start-up time

    stacked = torch.stack([torch.as_tensor(v, dtype=torch.float32, device=fabric.device) for v in values.values()])
    means: Any = fabric.all_reduce(stacked, reduce_op="mean")
    return dict(zip(values, means.tolist()))


def all_failures(fabric: Fabric, mine: dict[str, str]) -> dict[str, str]:
    """What any process could not read."""
    if fabric.world_size == 1:
        return mine
    import torch  # start-up time

    parts: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(parts, mine)
    return {name: reason for part in parts for name, reason in part.items()}


def in_first_process(fabric: Fabric, work: Callable[[], str]) -> str:
    """Do file work once; all processes get its answer, or its error."""
    answer, error = "", ""
    if fabric.global_rank == 0:
        try:
            answer = work()
        except GestaError as problem:
            error = str(problem)
    answer, error = fabric.broadcast((answer, error))
    if error:
        raise GestaError(error)
    return answer


class Interruption:
    """Ctrl-C and SIGTERM ask for a stop after the present step; a second one, or one in :meth:`at_once`, stops at once.

    Stopping at once means that ``KeyboardInterrupt`` is raised. Outside the main thread signals are left alone.

    Attributes:
        asked: whether a stop has been asked for.
    """

    def __init__(self) -> None:
        self.asked = False
        self._at_once = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Work that may be broken off anywhere, because the state is saved."""
        if self.asked:
            raise KeyboardInterrupt
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def _ask(self, *_: object) -> None:
        if self.asked or self._at_once:
            raise KeyboardInterrupt
        self.asked = True


def loader_workers(workers: int, *, shared: bool = False) -> int:
    """Number of loader processes: as asked, or for -1 as many as this process has processors, 16 at most.

    ``shared`` leaves half of them to the model, which computes on them too.
    """
    if workers >= 0:
        return workers
    return max(1, min(16, processors() // 2 if shared else processors()))


def processors() -> int:
    """Processors this process may use, the other processes of the same training left theirs."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, usable // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def leave_interrupts_to_parent(*_: object) -> None:
    """Ignore Ctrl-C: the process that started this one hears it, too, and ends it in order.

    Takes and ignores what pools and loaders give the first function of a worker.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
