"""How much memory a training step takes, and how many clips fit at once (``gesta bench memory``).

On a CPU it is computed: a whole step (forward, backward, AdamW) runs on tensors without values, and every storage that
torch makes is counted from its birth to its end, so that activation checkpointing, mixed precision and adapters count
as they are. Attention keeps what fused kernels keep. On CUDA it is measured by ``torch.cuda.max_memory_allocated``.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gesta.config import replace
from gesta.errors import GestaError
from gesta.model import ModelConfig, VideoModel
from gesta.processes import Autocast, Precision, choose_autocast, choose_device
from gesta.recipe import LoRA, TrainConfig
from gesta.records import by_space
from gesta.training.lora import add_adapters
from gesta.training.optim import build_optimizer, freeze, frozen_prefixes

SIZES = (8, 16, 24, 40)
"""Memory of graphics cards in GiB."""

RESERVED = 2**30
"""Bytes of a card that are left for its driver, libraries and gaps between tensors: an assumption."""

COMPUTED = (1, 64, 128)
"""Clips at once for which the peak is computed: it takes no memory."""

MEASURED = (1, 2, 4, 8, 16)
"""Clips at once for which it is measured, until there is no memory left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMemory:
    """Peak bytes of a training step.

    Attributes:
        backward: of forward and backward pass, weights, gradients and moments included.
        update: of the optimiser's step.
    """

    backward: int
    update: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One way to train a model.

    Attributes:
        frames: of a clip.
        checkpointing: activations of blocks are computed again in the backward pass.
        lora: adapters of rank 8 are trained instead of all weights.
    """

    frames: int
    checkpointing: bool
    lora: bool

    def __str__(self) -> str:
        parts = ["LoRA" if self.lora else "all weights", "checkpointing" if self.checkpointing else ""]
        return f"{self.frames} frames, " + ", ".join(filter(None, parts))


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRow:
    """What fits in one setting.

    Attributes:
        setting: how the model is trained.
        one: peak bytes with one clip at once.
        each: bytes of each further clip at most; where two clips did not fit, all bytes of the first.
        clips: size of the card in GiB → clips at once that fit at least; 0 for none.
    """

    setting: Setting
    one: int
    each: int
    clips: dict[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryTable:
    """How many clips of a model fit which graphics card in training.

    Attributes:
        model: its name.
        precision: as Lightning Fabric names it.
        known: how the figures are known, ``computed`` or ``measured on`` a device.
        batch: clips of an optimiser step, to which accumulation adds the parts up.
        rows: one for each setting.
        remarks: sentences on settings that are left out.
    """

    model: str
    precision: str
    known: str
    batch: int
    rows: list[MemoryRow]
    remarks: list[str]

    to_json = asdict

    def __str__(self) -> str:
        sizes = list(self.rows[0].clips) if self.rows else []
        head = ["training", "1 clip", "each further", *(f"{size} GiB" for size in sizes)]
        lines = [f"{self.model}, {self.precision}, {self.known}: clips at once (and --train.accumulate for steps of "
                 f"{self.batch})", "| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]  # fmt: skip
        for row in self.rows:
            cells = [str(row.setting), *(f"{size / 2**30:.2f} GiB" for size in (row.one, row.each))]
            cells += [_fitting(row.clips[size], self.batch) for size in sizes]
            lines.append("| " + " | ".join(cells) + " |")
        reserved = f"{RESERVED / 2**30:g} GiB of each card is left to its driver, libraries and gaps (an assumption)"
        return "\n".join([*lines, reserved, *self.remarks])


def _fitting(clips: int, batch: int) -> str:
    """Clips at once, and in how many parts a batch then goes through the network."""
    parts = next((n for n in range(1, batch + 1) if batch % n == 0 and batch // n <= clips), 0)
    return f"{clips} (×{parts})" if parts else "–"


def measure_memory(
    config: ModelConfig,
    name: str,
    *,
    precision: Precision = "bf16-mixed",
    device: str | torch.device = "auto",
    batch: int = 16,
    sizes: Sequence[int] = SIZES,
) -> MemoryTable:
    """Peak memory of training steps in several settings, and how many clips fit at once.

    Args:
        config: the model.
        name: what the table calls it.
        precision: of forward and backward passes.
        device: ``auto`` takes the first accelerator there is; other devices than CUDA are not measured, but computed.
        batch: clips of an optimiser step.
        sizes: of cards, in GiB.

    Raises:
        GestaError: sizes below 1, a model that matches tokens by their values, without CUDA, or one of which not one
            clip fits in any setting.
    """
    if min(sizes, default=1) < 1:
        raise GestaError("--sizes of cards are 1 GiB or more; give such numbers")
    chosen = choose_device(device)
    is_measured = chosen.type == "cuda"
    known = f"measured on {torch.cuda.get_device_name(chosen)}" if is_measured else "computed"
    rows: list[MemoryRow] = []
    remarks: list[str] = []
    frames = dict.fromkeys((config.clip.frames, min(8, config.clip.frames)))
    for lora in (False, True):
        try:
            for count in frames:
                for checkpointing in (False, True):
                    setting = Setting(frames=count, checkpointing=checkpointing, lora=lora)
                    row = _row(config, setting, precision, chosen if is_measured else None, sizes)
                    if row is None:
                        remarks.append(f"left out: {setting}: not one clip fits; compute it with --device cpu")
                    else:
                        rows.append(row)
        except GestaError as error:  # no layers for adapters, peft is not installed, or tubes that do not tile 8 frames
            remarks.append(f"left out: {error}")
    if not rows:
        raise GestaError(remarks[0].removeprefix("left out: "))
    return MemoryTable(model=name, precision=precision, known=known, batch=batch, rows=rows, remarks=remarks)


def _row(
    config: ModelConfig, setting: Setting, precision: Precision, device: torch.device | None, sizes: Sequence[int]
) -> MemoryRow | None:
    """The peaks of one clip and of many, and how many clips fit at least; None where not one can be measured.

    The peak is the largest of several moments' memory, each of which grows by the same amount with every clip. So it
    grows fastest where there are many clips, and that growth from the first clip on is a bound.
    """
    changed = replace(config, activation_checkpointing=setting.checkpointing)
    changed.clip.frames = setting.frames
    peaks: dict[int, StepMemory] = {}
    for count in COMPUTED if device is None else MEASURED:
        try:
            peaks[count] = step_memory(changed, count, precision=precision, lora=setting.lora, device=device)
        except torch.OutOfMemoryError:
            break
    if not peaks:
        return None
    one, counts = peaks[1], [*peaks]
    each = one.backward  # a bound where two clips do not fit here
    if len(counts) > 1:
        before, last = counts[-2:]
        each = max((peaks[last].backward - peaks[before].backward) // (last - before), 1)
    clips = {}
    for size in sizes:
        room = size * 2**30 - RESERVED
        fits = max(one.backward, one.update) <= room
        clips[size] = 1 + (room - one.backward) // each if fits else 0
    return MemoryRow(setting=setting, one=max(one.backward, one.update), each=each, clips=clips)


def step_memory(
    config: ModelConfig,
    clips: int,
    *,
    precision: Precision = "32-true",
    lora: bool = False,
    device: torch.device | None = None,
) -> StepMemory:
    """Peak bytes of the second training step, in which the optimiser has its moments.

    Args:
        config: the model.
        clips: at once.
        precision: of forward and backward passes.
        lora: train adapters instead of all weights.
        device: CUDA, where it is measured; None computes it on tensors without values.

    Raises:
        GestaError: ``lora`` for a model without such layers, or a clip that the model does not take.
    """
    where = device or torch.device("cpu")
    autocast = choose_autocast(where, precision)
    train = TrainConfig(lora=LoRA() if lora else None)
    with torch.device("meta"):
        model = config.build()
        if train.lora:
            add_adapters(model, train.lora)
    if device is None and any(hasattr(module, "uncounted") for module in model.modules()):
        raise GestaError(
            f"{type(model).__name__} matches tokens by their values, which a computation lacks: measure it with "
            "--device cuda, or leave the alignment out"
        )
    with contextlib.ExitStack() as stack:
        if device is None:
            stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        peak: Callable[[], int] = stack.enter_context(_peaks(device))
        model.to_empty(device=where).train()
        freeze(model, frozen_prefixes(model, train))
        step = _without_values(model) if device is None else build_optimizer(model, train).step
        for _ in range(2):
            model.zero_grad()
            peak()
            _backward(model, clips, autocast, where)
            backward = peak()
            step()
            update = peak()
    return StepMemory(backward=backward, update=update)


def _without_values(model: VideoModel) -> Callable[[], object]:
    """A step that keeps and makes what AdamW does on CUDA, where it takes all parameters at once.

    AdamW itself reads the number of its step, which a tensor without values does not have.
    """
    trained = [parameter.detach() for parameter in model.parameters() if parameter.requires_grad]
    moments: list[list[Tensor]] = []

    def step() -> None:
        if not moments:
            moments.extend([torch.zeros_like(parameter) for parameter in trained] for _ in range(2))
        torch._foreach_sqrt(moments[1])

    return step


def _backward(model: VideoModel, clips: int, autocast: Autocast, device: torch.device) -> None:
    clip = model.config.clip
    video = torch.zeros(clips, clip.channels, clip.frames, clip.size, clip.size, device=device)
    with autocast():
        scores, losses = model(video, with_losses=True)
        target = torch.zeros(clips, dtype=torch.int64, device=device)
        loss = torch.stack([*(cross_entropy(s.float(), target) for s in by_space(scores).values()), *losses.values()])
    loss.sum().backward()


@contextlib.contextmanager
def _peaks(device: torch.device | None) -> Iterator[Callable[[], int]]:
    """A function that gives the most bytes held at once since it was called last."""
    if device is None:
        with _LiveStorages() as live:
            yield live.peak_since
        return

    def peak() -> int:
        torch.cuda.synchronize(device)
        most = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return most

    yield peak


class _LiveStorages(TorchDispatchMode):
    """While it is entered, counts the bytes of all storages that torch makes, as long as they are held."""

    def __init__(self) -> None:
        super().__init__()
        self.held = self.most = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def peak_since(self) -> int:
        """The most bytes at once since the last call."""
        most, self.most = self.most, self.held
        return most

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._note(value.untyped_storage())
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return

        def forget(_: Any) -> None:
            self.held -= size
            del self._known[key]

        self._known[key] = weakref.ref(storage, forget)
        self.held += size
        self.most = max(self.most, self.held)
