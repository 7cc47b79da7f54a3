"""Weights, gradients and moments shared out among processes (FSDP2), and their files.

Each process holds some rows of every parameter: ``torch.distributed.fsdp.fully_shard`` gathers a block's before the
block is computed, and hands its gradients back in shares. Files of torch.distributed.checkpoint would be unpickled when
read, so a training state has a form of its own here::

    <run>/shards-STEP/0-of-4.safetensors    rows of process 0, by "weights/NAME", "exp_avg/NAME" …

Together the files hold whole tensors, and any number of processes reads from them the rows that it needs.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from lightning.fabric import Fabric
from safetensors import safe_open
from torch import Tensor, nn, optim
from torch.distributed.tensor import DTensor

from gesta.checkpoint.formats import safetensors_errors
from gesta.errors import CheckpointError, GestaError
from gesta.files import make_folder, remove, write_atomically
from gesta.model import VideoModel

MOMENTS = ("exp_avg", "exp_avg_sq", "momentum_buffer")
"""What optimisers hold of each parameter and of its shape."""


def shard(model: nn.Module, mesh: Any) -> nn.Module:
    """Share the parameters of a model out among the processes of a mesh, block by block, in place.

    Raises:
        GestaError: a parameter that is a single number, which cannot be.
    """
    from torch.distributed.fsdp import fully_shard  # for start-up time

    if scalar := next((name for name, p in model.named_parameters() if not p.ndim), ""):
        raise GestaError(
            f"--train.strategy fsdp shares out the rows of each parameter, and {scalar} is a single number; train with "
            "--train.strategy ddp"
        )
    assert isinstance(model, VideoModel)
    among = mesh["data_parallel"]
    for block in model.blocks:
        fully_shard(block, mesh=among)
    fully_shard(model, mesh=among)

    def share(module: nn.Module, _: Any) -> None:
        """As in DistributedDataParallel."""
        if module.training:
            share_buffers(module)

    model.register_forward_pre_hook(share)
    return model


def share_buffers(module: nn.Module) -> None:
    """Give the buffers of all processes, such as running statistics, the values of the first; all of them call it."""
    for buffer in module.buffers():
        torch.distributed.broadcast(buffer, 0)


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """All weights of a model on the CPU; of a sharded one all processes call it together."""
    return {
        name: (value.full_tensor() if isinstance(value, DTensor) else value).detach().cpu()
        for name, value in model.state_dict().items()
    }


def rows(tensor: Tensor) -> tuple[Tensor, int]:
    """What this process holds of a tensor, and the number of its first row in the whole one."""
    if not isinstance(tensor, DTensor):
        return tensor, 0
    local, mesh = tensor.to_local(), tensor.device_mesh
    each = -(-tensor.shape[0] // mesh.size())  # as torch.chunk cuts them
    return local, min(each * mesh.get_local_rank(), tensor.shape[0])


def _tensors(model: nn.Module, optimizer: optim.Optimizer) -> dict[str, Tensor]:
    """Parameters and their moments, by the names that they have in the files."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        tensors[f"weights/{name}"] = parameter.detach()
        for moment, value in optimizer.state.get(parameter, {}).items():
            if moment in MOMENTS and value is not None:
                tensors[f"{moment}/{name}"] = value
    return tensors


def write_shards(folder: Path, model: nn.Module, optimizer: optim.Optimizer, fabric: Fabric) -> None:
    """Write the rows of this process; all processes call it together."""
    values = {name: rows(tensor)[0].cpu().contiguous() for name, tensor in _tensors(model, optimizer).items()}
    make_folder(folder)
    with write_atomically(folder / f"{fabric.global_rank}-of-{fabric.world_size}.safetensors") as file:
        file.write(safetensors.torch.save(values))
    fabric.barrier()  # a state that names them is written when all are on the disk


def remove_other_shards(run: Path, keep: set[str]) -> None:
    """Remove the shards of states that are no longer there."""
    for folder in run.glob("shards-*"):
        if folder.name not in keep:
            remove(folder)


class Shards:
    """The files of :func:`write_shards`, open in a ``with`` statement and read row by row; nothing in them is run.

    Args:
        folder: that holds them.

    Raises:
        CheckpointError: a file is missing, damaged, or not one of a whole.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        found = {path.name: path for path in folder.glob("*.safetensors")}
        match = re.fullmatch(r"\d+-of-(\d+)\.safetensors", next(iter(found), ""))
        count = int(match[1]) if match else 0
        names = [f"{rank}-of-{count}.safetensors" for rank in range(count)]
        if not count or count > 100_000 or set(names) != set(found):
            raise CheckpointError(f"{folder}: lacks files of the training state; copy the whole folder again")
        self.files: list[Any] = []
        self.shapes: dict[str, list[int]] = {}
        self._begins: dict[str, list[int]] = {}
        with contextlib.ExitStack() as stack:
            for name in names:
                self._open(found[name], stack)
            self.stack = stack.pop_all()

    def _open(self, path: Path, stack: contextlib.ExitStack) -> None:
        with safetensors_errors(path):
            self.files.append(stack.enter_context(safe_open(path, framework="pt")))
        keys = set(self.files[-1].keys())
        if len(self.files) > 1 and keys != self.shapes.keys():
            raise CheckpointError(f"{path}: holds other tensors than the files beside it; copy them again")
        for key in keys:
            part = self.files[-1].get_slice(key)
            shape = list(part.get_shape())
            whole = self.shapes.setdefault(key, [0, *shape[1:]])
            if not shape or whole[1:] != shape[1:] or part.get_dtype() != "F32":
                raise CheckpointError(f"{path}: its {key[:100]} does not fit the files beside it; copy them")
            self._begins.setdefault(key, []).append(whole[0])
            whole[0] += shape[0]

    def __enter__(self) -> Shards:
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def read(self, name: str, begin: int, end: int) -> Tensor:
        """The rows ``begin`` to ``end`` of a tensor."""
        parts = []
        for file, first in zip(self.files, self._begins[name]):
            part = file.get_slice(name)
            low, high = max(begin - first, 0), min(end - first, part.get_shape()[0])
            if low < high:
                parts.append(part[low:high])
        return torch.cat(parts) if parts else torch.empty([0, *self.shapes[name][1:]])


class WholeState:
    """Rows of a training state in one file, whose moments are numbered as the optimiser numbers parameters."""

    def __init__(
        self, weights: Mapping[str, Tensor], moments: Mapping[int, Mapping[str, Any]], names: list[str]
    ) -> None:
        self._values: dict[str, Tensor] = {f"weights/{name}": value for name, value in weights.items()}
        for number, held in moments.items():
            self._values |= {f"{moment}/{names[number]}": v for moment, v in held.items() if moment in MOMENTS}
        self.shapes = {name: list(value.shape) for name, value in self._values.items()}

    def read(self, name: str, begin: int, end: int) -> Tensor:
        """The rows ``begin`` to ``end`` of a tensor."""
        return self._values[name][begin:end]


def optimized_names(model: nn.Module, optimizer: optim.Optimizer) -> list[str]:
    """Names of the parameters in the order in which the optimiser numbers them."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]


def fill(
    model: nn.Module, optimizer: optim.Optimizer, source: Shards | WholeState, steps: Mapping[int, Any]
) -> Iterator[str]:
    """Give parameters and moments, sharded or not, their values.

    Args:
        model: whose parameters get values.
        optimizer: of these parameters.
        source: of the values.
        steps: number of a parameter → how many steps AdamW has counted for it.

    Yields:
        What does not fit; the state is then of another model or optimiser.
    """
    numbers = {name: number for number, name in enumerate(optimized_names(model, optimizer))}
    for name, parameter in model.named_parameters():
        kinds = {key.partition("/")[0] for key in source.shapes if key.partition("/")[2] == name}
        for kind in sorted(kinds | {"weights"}):
            key = f"{kind}/{name}"
            if source.shapes.get(key) != list(parameter.shape) or kind not in ("weights", *MOMENTS):
                yield key
                continue
            target = parameter.detach()
            if kind != "weights":
                target = optimizer.state[parameter].setdefault(kind, torch.zeros_like(target))
            local, first = rows(target)
            local.copy_(source.read(key, first, first + local.shape[0] if local.ndim else 1))
        if name in numbers and numbers[name] in steps:
            optimizer.state[parameter]["step"] = torch.as_tensor(steps[numbers[name]], dtype=torch.float32)
