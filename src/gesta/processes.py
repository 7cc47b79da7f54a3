"""Devices, processes and signals: what a training shares with the machine.

Worker processes that need no torch import this module (the renderer's, those that check and re-encode videos), so torch
and Lightning are imported inside the functions that use them: start-up time.
"""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from multiprocessing import resource_tracker
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, cast

from gesta.config import check_choice
from gesta.errors import GestaError

if TYPE_CHECKING:  # start-up time
    import torch
    from lightning.fabric import Fabric

T = TypeVar("T")

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
"""How a model computes, in Lightning Fabric's words: in float32, or with products in bfloat16 or float16."""

Autocast: TypeAlias = Callable[[], AbstractContextManager[object]]
"""Gives the context in which a model runs in its precision."""

# --- devices and precision -------------------------------------------------------------------------------------------


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """The named device, or with ``auto`` the first accelerator there is, else the CPU.

    Raises:
        GestaError: there is no such device here.
    """
    import torch  # start-up time

    if device != "auto":
        try:
            chosen = torch.device(device)
            torch.ones(1, device=chosen).item()  # not possible on ``meta``, which holds no numbers
        except (RuntimeError, AssertionError, ImportError) as error:
            reason = re.split(r"\. |\.?\n|\.$", str(error).strip())[0]
            raise GestaError(
                f"the device {str(device)!r} cannot be used here ({reason}); choose cpu, or auto for what there is"
            ) from None
        return chosen
    if not torch.accelerator.is_available():
        return torch.device("cpu")
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def choose_autocast(device: torch.device, precision: Precision = "32-true") -> Autocast:
    """The context in which a model runs on a device in a precision.

    Raises:
        GestaError: no such precision, or one that the device cannot compute in.
    """
    import torch  # start-up time

    check_choice("precision", precision, Precision)
    if precision == "32-true":
        return nullcontext
    autocast = partial(torch.autocast, device.type, torch.bfloat16 if precision == "bf16-mixed" else torch.float16)
    fault = "float16 is for accelerators" if (device.type, precision) == ("cpu", "16-mixed") else ""
    try:
        with warnings.catch_warnings(action="error"), autocast():  # torch would go on in float32 with a warning
            pass
    except (RuntimeError, Warning) as error:
        fault = str(error).strip().partition("\n")[0]
    if fault:
        raise GestaError(
            f"the precision {precision} cannot be computed on {device.type} ({fault}); choose 32-true or bf16-mixed"
        )
    return autocast


def describe_device(device: torch.device) -> str:
    """The device as results name it: ``cpu``, ``cuda (NVIDIA H100)``."""
    import torch  # start-up time

    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type


# --- processes of one training ---------------------------------------------------------------------------------------


def make_fabric(
    precision: Precision = "32-true",
    device: str | torch.device = "auto",
    shard: Callable[[Any, Any], Any] | None = None,
    unread: bool = False,
) -> Fabric:
    """Device, precision and processes: one device, or as many of a kind as torchrun or srun started processes.

    Args:
        precision: of the computation.
        device: ``auto`` takes the first accelerator there is; several processes share the devices of a kind.
        shard: shards a model over the processes of a device mesh, in place, when Fabric sets it up; None keeps the
            whole model in each process.
        unread: some parameters get no gradient, and processes with whole models are not to wait for it. In each step
            they then look for these, so it is not said of all models.

    Raises:
        GestaError: a device that is not there, a precision that it cannot compute in, fewer devices than processes, or
            one process and ``shard``.
    """
    check_choice("precision", precision, Precision)
    with warnings.catch_warnings():
        # Lightning would go on in another precision; that is refused below
        warnings.filterwarnings("ignore", "You passed `Fabric.* but AMP with fp16 is not supported")
        from lightning.fabric import Fabric  # start-up time
        from lightning.fabric.utilities.exceptions import MisconfigurationException

        for name in ("lightning.fabric", "lightning.pytorch"):  # importing them sets another level
            logging.getLogger(name).setLevel(logging.WARNING)  # without remarks on what was asked for
        world_size = processes()
        if shard and world_size == 1:
            raise GestaError(
                "--train.strategy fsdp shards the weights over processes, and there is one; start several with "
                "torchrun, or leave it out"
            )
        per_node = os.environ.get("LOCAL_WORLD_SIZE")
        nodes = world_size // int(per_node) if per_node else int(os.environ.get("SLURM_STEP_NUM_NODES") or 1)
        kind, which = _kind_of_device(device, world_size)
        devices = world_size // nodes if which is None else [which]
        try:
            how: dict[str, Any] = {"accelerator": kind, "devices": devices, "num_nodes": nodes, "precision": precision}
            if shard:
                from lightning.fabric.strategies import ModelParallelStrategy  # start-up time

                how["strategy"] = ModelParallelStrategy(shard, data_parallel_size=world_size, tensor_parallel_size=1)
            elif unread and world_size > 1:
                from lightning.fabric.strategies import DDPStrategy  # start-up time

                how["strategy"] = DDPStrategy(find_unused_parameters=True)
            fabric = Fabric(**how)
        except (MisconfigurationException, ValueError) as error:  # the latter of devices that Lightning does not know
            reason = " ".join(str(error).split())
            count = world_size // nodes
            raise GestaError(
                f"{count} process{'es were' if count > 1 else ' was'} started on this machine, which cannot give each "
                f"its device ({reason}); start fewer processes, or choose another --device"
            ) from None
        choose_autocast(fabric.device, precision)
        fabric.launch()
    if fabric.world_size > 1:
        atexit.unregister(_leave_group)  # so that it is registered once, however often this function is called
        atexit.register(_leave_group)
    return fabric


def _kind_of_device(device: str | torch.device, processes: int) -> tuple[str, int | None]:
    """The kind of a device as Lightning names it, and its number where it has one.

    Raises:
        GestaError: it is not there, or one device is named for several processes.
    """
    if processes == 1 and device != "auto":
        choose_device(device)  # of several processes each would try the first; Lightning refuses for them
    kind, numbered, index = str(device).partition(":")
    if processes > 1 and numbered:
        raise GestaError(
            f"the device {str(device)!r} is one, and {processes} processes were started, each of which needs its own: "
            f"choose {kind}, or start one process"
        )
    return kind, int(index) if numbered and kind != "cpu" else None


def processes() -> int:
    """How many processes torchrun or srun started; works before they are connected."""
    return int(os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_STEP_NUM_TASKS") or 1)


def is_first_process() -> bool:
    """Whether this is the first of the processes that torchrun or srun started; works before they are connected."""
    return int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or 0) == 0


def _leave_group() -> None:
    """End Gloo's threads before the interpreter ends, or it may abort; Lightning does so for NCCL only."""
    import torch  # start-up time

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def can_sync_batch_norms(fabric: Fabric) -> bool:
    """Whether there are several processes, between which torch's SyncBatchNorm can exchange statistics.

    Raises:
        GestaError: they are on another device than CUDA, which SyncBatchNorm does not support.
    """
    if fabric.world_size > 1 and fabric.device.type != "cuda":
        raise GestaError(
            f"batch norms of several processes can be joined on CUDA only, and these {fabric.world_size} train on "
            f"{fabric.device.type}; let each have its own by --train.sync-bn False"
        )
    return fabric.world_size > 1


def mean_over_processes(fabric: Fabric, values: dict[str, Any]) -> dict[str, float]:
    """The mean of each value over all processes, in one exchange; this waits for the device."""
    import torch  # start-up time

    stacked = torch.stack([torch.as_tensor(v, dtype=torch.float32, device=fabric.device) for v in values.values()])
    means: Any = fabric.all_reduce(stacked, reduce_op="mean")
    return dict(zip(values, means.tolist()))


def gather_failures(fabric: Fabric, failures: dict[str, str]) -> dict[str, str]:
    """The failures (name → reason) of all processes, in each of them."""
    if fabric.world_size == 1:
        return failures
    import torch  # start-up time

    parts: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(parts, failures)
    return {name: reason for part in parts for name, reason in part.items()}


def run_in_first_process(fabric: Fabric, work: Callable[[], T]) -> T:
    """Do work on files once; all processes get its return value, or raise its error."""
    value, error = None, ""
    if fabric.global_rank == 0:
        try:
            value = work()
        except GestaError as problem:
            error = str(problem)
    value, error = fabric.broadcast((value, error))
    if error:
        raise GestaError(error)
    return cast(T, value)


# --- worker processes and signals ------------------------------------------------------------------------------------


class Interruption:
    """Ctrl-C and SIGTERM ask for a stop after the current step; a second one, or one in :meth:`at_once`, stops at once.

    Stopping at once means that ``KeyboardInterrupt`` is raised. Outside the main thread signals are left alone.

    Attributes:
        requested: whether a stop has been asked for.
    """

    def __init__(self) -> None:
        self.requested = False
        self._at_once = False
        self._ignoring = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Work that may be broken off anywhere, because the state is saved."""
        if self.requested:
            raise KeyboardInterrupt
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def ignore(self) -> None:
        """Ignore further signals: files are being closed and worker processes ended."""
        self.requested = self._ignoring = True

    def _handle(self, *_: object) -> None:
        if self._ignoring:
            return
        if self.requested or self._at_once:
            raise KeyboardInterrupt
        self.requested = True


def worker_context(preload: str) -> Any:
    """How worker processes are started: by a clean server process, or one by one where there is none (Windows).

    Forking this process would copy its threads and its GPU in whatever state they are; the server has neither, and
    since it has imported the module ``preload``, its workers start at once.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([preload])
    return context


_starting = threading.RLock()
"""Two threads that start workers at once would restore each other's changes in the wrong order."""


@contextmanager
def starting_workers() -> Iterator[None]:
    """Start worker processes inside it: they run no script and no module of the current folder, and never hear Ctrl-C.

    What multiprocessing starts (``python -c …``) has the current folder first on its path until it is told this
    process's path. That folder may be a data set of others, whose ``av.py`` would be run. Then it would run the main
    script again, which without its guard (``if __name__ == "__main__"``) would start the same work once more; our
    workers need nothing of it, so here they find an empty one. Ctrl-C reaches all processes of a terminal, and one that
    is just starting would print a traceback; here the signal waits until they are started, and they inherit that it
    waits. Their parent ends them. On Windows :func:`ignore_interrupts` has to do.
    """
    with _starting:
        main, safe_path = sys.modules["__main__"], os.environ.get("PYTHONSAFEPATH")
        sys.modules["__main__"] = ModuleType("__main__")
        os.environ["PYTHONSAFEPATH"] = "1"
        waiting = None
        if hasattr(signal, "pthread_sigmask"):  # not on Windows
            resource_tracker.ensure_running()  # before the next line, which starting it would undo
            waiting = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            if waiting is not None:
                signal.pthread_sigmask(signal.SIG_SETMASK, waiting)
            sys.modules["__main__"] = main
            if safe_path is None:
                del os.environ["PYTHONSAFEPATH"]
            else:
                os.environ["PYTHONSAFEPATH"] = safe_path


def ignore_interrupts(*_: object) -> None:
    """Ignore Ctrl-C in a worker process: its parent hears it, too, and ends the worker in order.

    Takes and ignores what pools and loaders pass to the first function of a worker.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)


# --- CPU cores -------------------------------------------------------------------------------------------------------


def cpu_cores() -> int:
    """CPU cores that this process may use; other processes of the same training on this machine have their part."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, usable // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def memory() -> tuple[int, int] | None:
    """Total and available bytes, respecting a container's limit; None where the system does not say."""
    try:
        with open("/proc/meminfo") as file:
            kib = {line.split(":")[0]: int(line.split()[1]) for line in file}
        total, free = kib["MemTotal"] * 1024, kib["MemAvailable"] * 1024
    except (OSError, KeyError, ValueError):
        try:
            total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (AttributeError, ValueError, OSError):
            return None
        return total, total
    try:
        with open("/sys/fs/cgroup/memory.max") as limit, open("/sys/fs/cgroup/memory.current") as used:
            most = int(limit.read())
            return min(total, most), min(free, most - int(used.read()))
    except (OSError, ValueError):  # "max" means no limit
        return total, free


def loader_workers(workers: int, *, shared: bool = False) -> int:
    """Number of loader processes: as given, or for -1 one per CPU core, 16 at most.

    ``shared`` leaves half of the cores to the model, which computes on them, too.
    """
    if workers >= 0:
        return workers
    return max(1, min(16, cpu_cores() // 2 if shared else cpu_cores()))


def limit_threads(device: torch.device, workers: int) -> None:
    """On a CPU, leave the loader's processes the cores they need: threads that compete for them halve the speed.

    A value of the environment variable OMP_NUM_THREADS takes precedence.
    """
    import torch  # start-up time

    if device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, cpu_cores() - loader_workers(workers, shared=True)))
