"""What a training on many GPUs needs, on paper (``gesta bench scale``): memory, bytes sent, clips per second, loading.

Nothing is measured: memory is computed as by :mod:`gesta.bench.memory`, and what is assumed is said with the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from gesta.bench.memory import RESERVED, StepMemory, step_memory
from gesta.config import replace
from gesta.cost import count
from gesta.errors import GestaError
from gesta.model import ModelConfig
from gesta.processes import Precision

_BYTES = 4  # of a weight, a gradient and each of AdamW's two moments, which stay in float32 in mixed precision

_SENT = {"ddp": 2, "fsdp": 3}
"""How often all weights cross the wire in a step: gradients are reduced and gathered; or weights are gathered for the
forward and again for the backward pass, and gradients reduced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleRow:
    """One way to train on a number of GPUs.

    Attributes:
        gpus: how many.
        strategy: ``ddp`` or ``fsdp``.
        checkpointing: activations of blocks are computed again in the backward pass.
        memory: peak bytes of a GPU, of ``fsdp`` at most.
        wire: bytes that a GPU sends in a step (and receives).
        slowest: clips per second of all GPUs if nothing is computed while weights are sent.
        fastest: clips per second if all sending is hidden behind computing, as far as it can be.
        loaded: clips per second that the loader of a node must give at ``fastest``.
    """

    gpus: int
    strategy: str
    checkpointing: bool
    memory: int
    wire: float
    slowest: float
    fastest: float
    loaded: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleTable:
    """What trainings on several numbers of GPUs need.

    Attributes:
        model: its name.
        parameters: how many.
        clip: bytes of a clip's pixels as they leave the loader.
        frames: of a clip.
        batch: clips of a GPU in a step.
        assumptions: sentences.
        rows: one for each number of GPUs and each way.
    """

    model: str
    parameters: int
    clip: int
    frames: int
    batch: int
    assumptions: list[str]
    rows: list[ScaleRow]

    to_json = asdict

    def __str__(self) -> str:
        head = "| GPUs | training | memory per GPU | sent per step | clips/s | a node loads clips, frames, MB per s |"
        lines = [
            f"{self.model}, {self.parameters / 1e6:.0f} M parameters, {self.batch} clips per GPU and step, on paper"
        ]
        lines += [head, "|---:|---|---:|---:|---:|---:|"]
        for row in self.rows:
            way = row.strategy + ", checkpointing" * row.checkpointing
            loaded = f"{row.loaded:.0f}, {row.loaded * self.frames:.0f}, {row.loaded * self.clip / 1e6:.0f}"
            lines.append(
                f"| {row.gpus} | {way} | {row.memory / 2**30:.1f} GiB | {row.wire / 1e9:.2f} GB | "
                f"{row.slowest:.0f} to {row.fastest:.0f} | {loaded} |"
            )
        return "\n".join([*lines, *self.assumptions])


def estimate_scale(
    config: ModelConfig,
    name: str,
    *,
    gpus: Sequence[int] = (8, 64, 512),
    per_node: int = 8,
    batch: int = 8,
    precision: Precision = "bf16-mixed",
    rate: float | None = None,
    tflops: float | None = None,
    share: float | None = None,
    link: float = 50.0,
) -> ScaleTable:
    """Memory, bytes on the wire, clips per second and the loader's demand of trainings with AdamW.

    Args:
        config: the model.
        name: what the table calls it.
        gpus: numbers of GPUs.
        per_node: GPUs of a machine.
        batch: clips of a GPU in a step.
        precision: of forward and backward passes.
        rate: clips per second that one GPU trains on without checkpointing, as ``gesta bench model`` measures it; None
            derives it from ``tflops`` and ``share``.
        tflops: peak of a GPU in 10¹² operations per second; None is 989, an H100's in 16 bits.
        share: of the peak that is reached; None is 0.4.
        link: GB per second that each GPU sends over the slowest part of the network.

    Raises:
        GestaError: ``rate`` beside what it replaces, float32 without its peak, numbers that are not above 0, or a model
            of which memory cannot be computed, see :func:`gesta.bench.memory.step_memory`.
    """
    if rate is not None and (tflops is not None or share is not None):
        raise GestaError("--rate is measured, and --tflops and --share would estimate it: leave them out, or --rate")
    if precision == "32-true" and rate is None and tflops is None:
        raise GestaError(
            f"--precision {precision}: the default peak is an H100's in 16 bits; give that of this precision by "
            "--tflops, or the measured --rate"
        )
    peak, reached = 989.0 if tflops is None else tflops, 0.4 if share is None else share
    if min(*gpus, per_node, batch) < 1:
        raise GestaError("--gpus, --per-node and --batch are whole numbers from 1 on; give such numbers")
    if not all(value > 0 for value in (peak, reached, link, 1.0 if rate is None else rate)) or reached > 1:
        raise GestaError("--rate, --tflops and --link are above 0, and --share is at most 1; give such numbers")
    cost = count(config)
    parameters, macs = sum(part.params for part in cost.parts), sum(part.macs for part in cost.parts)
    largest = max(part.params for part in cost.parts)
    each = reached * peak * 1e12 / (6 * macs) if rate is None else rate  # forward, twice backward
    peaks = {}
    for checkpointing in (False, True):
        changed = replace(config, activation_checkpointing=checkpointing)
        peaks[checkpointing] = step_memory(changed, batch, precision=precision)
    rows = []
    for number in gpus:
        for strategy, sent in _SENT.items():
            wire = sent * (number - 1) / number * parameters * _BYTES
            for checkpointing, alone in peaks.items():
                computed = batch / each * (4 / 3 if checkpointing else 1)  # seconds of a step
                sending = wire / (link * 1e9)
                memory = _memory_of(strategy, alone, parameters, largest, number)
                fastest = number * batch / max(computed, sending)
                rows.append(
                    ScaleRow(
                        gpus=number,
                        strategy=strategy,
                        checkpointing=checkpointing,
                        memory=memory,
                        wire=wire,
                        slowest=number * batch / (computed + sending),
                        fastest=fastest,
                        loaded=fastest / number * min(per_node, number),
                    )
                )
    known = f"{each:.2f} clips/s per GPU are given" if rate is not None else (
        f"assumed: {each:.2f} clips/s per GPU, from {6 * macs / 1e12:.2f} TFLOP per clip and {reached:.0%} of {peak:g} "
        "TFLOP/s"
    )  # fmt: skip
    clip = config.clip
    return ScaleTable(
        model=name,
        parameters=parameters,
        clip=clip.channels * clip.frames * clip.size**2,
        frames=clip.frames,
        batch=batch,
        assumptions=[
            f"{known}; with checkpointing a third more computing",
            f"assumed: {link:g} GB/s from each GPU; clips/s without and with sending behind computing",
            f"memory is computed for {precision} and AdamW, without the {RESERVED / 2**30:g} GiB that a driver and "
            "gaps may take",
        ],
        rows=rows,
    )


def _memory_of(strategy: str, alone: StepMemory, parameters: int, largest: int, gpus: int) -> int:
    """Peak bytes of a GPU, from those of a step on one GPU alone.

    DistributedDataParallel copies the gradients into buckets. FSDP2 keeps an N-th of weights, gradients and moments,
    and updates an N-th of them; in whole it has the weights of two parts, as the next is gathered while one is
    computed, and the gradients of one. How many gradients there are at the peak of the backward pass is not known, so
    that they count in whole: the result is at most 4 bytes per parameter too large.
    """
    if strategy == "ddp":
        return max(alone.backward, alone.update) + _BYTES * parameters
    backward = alone.backward - 3 * _BYTES * parameters * (1 - 1 / gpus) + 3 * _BYTES * largest
    return round(max(backward, alone.update / gpus))
