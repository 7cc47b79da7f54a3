"""How fast a model predicts and trains on this machine, and how much memory it takes (``gesta bench model``)."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from gesta.bench.timing import describe, seconds_per_step, synchronize
from gesta.checkpoint import TrainedModel
from gesta.cost import describe_model
from gesta.errors import GestaError
from gesta.model import ModelConfig
from gesta.processes import Precision, choose_autocast, choose_device
from gesta.records import by_space


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpeed:
    """What a model costs on this machine.

    Attributes:
        model: name of its configuration.
        parameters: number of them.
        clip: C x T x H x W of one clip.
        batch: clips per step.
        device: where it ran.
        precision: as Lightning Fabric names it.
        compiled: whether by ``torch.compile``.
        first_pass: seconds of the first forward pass (with ``compiled``: the compilation).
        forward: clips per second without gradients.
        training: clips per second of forward, loss, backward and AdamW step.
        memory: peak bytes while predicting and while training: of the device's allocator, or on a CPU of the whole
            process.
    """

    model: str
    parameters: int
    clip: str
    batch: int
    device: str
    precision: str
    compiled: bool
    first_pass: float
    forward: float
    training: float
    memory: dict[str, int]

    to_json = asdict

    def __str__(self) -> str:
        how = f"{self.precision}{', compiled' if self.compiled else ''}"
        return "\n".join(
            [
                f"{self.model}, {self.parameters / 1e6:.2f} M parameters, {self.batch} clips of {self.clip}, "
                f"{self.device}, {how}",
                f"first pass {self.first_pass:8.2f} s",
                f"forward    {self.forward:8.2f} clips/s, peak memory {self.memory['forward'] / 2**20:.0f} MiB",
                f"training   {self.training:8.2f} clips/s, peak memory {self.memory['training'] / 2**20:.0f} MiB",
            ]
        )


def measure_model(
    config: ModelConfig,
    *,
    batch: int = 4,
    compiled: bool = False,
    precision: Precision = "32-true",
    device: str | torch.device = "auto",
    seconds: float = 5.0,
) -> ModelSpeed:
    """Measure a freshly built model on clips of noise.

    Args:
        config: the model.
        batch: clips per step.
        compiled: run ``torch.compile`` on it.
        precision: of forward and backward passes.
        device: ``auto`` takes the first accelerator there is.
        seconds: of each measurement, first passes not counted; at least two steps are measured.
    """
    if batch < 1:
        raise GestaError(f"a step needs at least one clip, not {batch}; choose another --batch")
    chosen_device, clip = choose_device(device), config.clip
    autocast = choose_autocast(chosen_device, precision)
    model = config.build().to(chosen_device)
    run: Callable[..., Any] = torch.compile(model) if compiled else model
    video = torch.randn(batch, clip.channels, clip.frames, clip.size, clip.size, device=chosen_device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def forward() -> None:
        with torch.inference_mode(), autocast():
            run(video)

    def train() -> None:
        with autocast():
            scores, losses = run(video, with_losses=True)
            loss = torch.stack([_loss(scores), *losses.values()]).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    if chosen_device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(chosen_device)
    model.eval()
    first_pass, forward_s = seconds_per_step(forward, chosen_device, seconds)
    memory = {"forward": _peak(chosen_device)}
    model.train()
    _, training_s = seconds_per_step(train, chosen_device, seconds)
    memory["training"] = _peak(chosen_device)
    return ModelSpeed(
        model=describe_model(model),
        parameters=sum(p.numel() for p in model.parameters()),
        clip=f"{clip.channels} x {clip.frames} x {clip.size} x {clip.size}",
        batch=batch,
        device=describe(chosen_device),
        precision=precision,
        compiled=compiled,
        first_pass=first_pass,
        forward=batch / forward_s,
        training=batch / training_s,
        memory=memory,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedSpeed:
    """How fast an exported file predicts on this machine.

    Attributes:
        model: the file and its model.
        clip: C x T x H x W of one clip.
        batch: clips per step; a file that takes one at a time computes them one after the other.
        device: where it ran.
        first_pass: seconds of the first pass.
        forward: clips per second.
    """

    model: str
    clip: str
    batch: int
    device: str
    first_pass: float
    forward: float

    to_json = asdict

    def __str__(self) -> str:
        return "\n".join(
            [
                f"{self.model}, {self.batch} clips of {self.clip}, {self.device}",
                f"first pass {self.first_pass:8.2f} s",
                f"forward    {self.forward:8.2f} clips/s",
            ]
        )


@torch.inference_mode()
def measure_exported(trained: TrainedModel, *, batch: int = 4, seconds: float = 5.0) -> ExportedSpeed:
    """Measure an exported file on clips of noise.

    Args:
        trained: what :func:`gesta.load` gives of the file.
        batch: clips per step.
        seconds: of the measurement, the first pass not counted; at least two steps are measured.
    """
    if batch < 1:
        raise GestaError(f"a step needs at least one clip, not {batch}; choose another --batch")
    network, clip, cpu = trained.model, trained.model.config.clip, torch.device("cpu")
    views = torch.randint(0, 256, (batch, clip.frames, clip.channels, clip.size, clip.size), dtype=torch.uint8)
    video = network.clips_of(views)
    first_pass, forward_s = seconds_per_step(lambda: network(video), cpu, seconds)
    return ExportedSpeed(
        model=f"{trained.name}: {network.config.summary}",
        clip=f"{clip.channels} x {clip.frames} x {clip.size} x {clip.size}",
        batch=batch,
        device=describe(cpu),
        first_pass=first_pass,
        forward=batch / forward_s,
    )


def latency(config: ModelConfig, *, device: str | torch.device = "auto", seconds: float = 2.0) -> tuple[float, str]:
    """Milliseconds of the forward pass of one clip at full precision: the median, after a first pass.

    Args:
        config: the model; its weights are random.
        device: ``auto`` takes the first accelerator there is.
        seconds: of the measurement; at least three passes are measured.

    Returns:
        The median, and the device's description.
    """
    chosen_device, clip = choose_device(device), config.clip
    model = config.build().to(chosen_device).eval()
    video = torch.randn(1, clip.channels, clip.frames, clip.size, clip.size, device=chosen_device)
    times: list[float] = []
    with torch.inference_mode():
        while len(times) < 4 or sum(times[1:]) < seconds:
            begin = time.perf_counter()
            model(video)
            synchronize(chosen_device)
            times.append(time.perf_counter() - begin)
    return 1000 * statistics.median(times[1:]), describe(chosen_device)


def _loss(scores: Tensor | dict[str, Tensor]) -> Tensor:
    spaces = by_space(scores).values()
    target = [torch.zeros(len(s), dtype=torch.int64, device=s.device) for s in spaces]
    return torch.stack([torch.nn.functional.cross_entropy(s.float(), t) for s, t in zip(spaces, target)]).sum()


def _peak(device: torch.device) -> int:
    """Most bytes so far: of the device's allocator, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
