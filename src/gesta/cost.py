"""Parameters and multiply-adds of a model, part by part, without weights or data.

Two ways to count multiply-adds (MACs), one clip each:

- ``torch``: convolutions and matrix products, as :mod:`torch.utils.flop_counter` counts them (halved: it counts a
  multiply-add as two operations), deformable convolutions like ordinary ones.
- ``fvcore``: what most video papers print as "FLOPs". The same, and 5 per element that a layer norm normalises (4
  without affine parameters), 2 per element of a batch norm (1 without), 4 per element that a grid sampler gives.
  Softmax, activations, pooling and sums are not counted, nor are deformable convolutions (fvcore does not know them:
  the published costs of CycleMLP are without most of its Cycle FCs' work).

Both count an operation as its paper writes it. A model that computes the same numbers in a cheaper or fused form asks
:func:`is_counting` and uses the paper's form where it is true (see ``gesta.models.mvit``).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import TYPE_CHECKING, Any, Literal

from gesta.config import replace, to_json
from gesta.progress import plain_text

if (
    TYPE_CHECKING
):  # for start-up time: a known cost is read and printed without torch, see :func:`gesta.models.stored_cost`
    from torch import nn

    from gesta.model import ClipSpec, ModelConfig, VideoModel

Style = Literal["torch", "fvcore"]

_now_counting = False  # of the module, not of a thread or context: a compiled forward pass reads it, too


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a model: its name, its parameters, its multiply-adds for one clip."""

    name: str
    params: int
    macs: int


@dataclass(frozen=True, slots=True)
class Cost:
    """What a model costs for one clip.

    Attributes:
        model: the model's class and what is inserted into it.
        style: how multiply-adds are counted.
        clip: the clip's frames, height and width.
        parts: in the order of the forward pass; they add up to the totals.
        uncounted: work for one clip that papers leave out of their FLOPs, by kind; of modules that have a method
            ``uncounted``, such as ATA's.
        views: how many clips and crops of a video are scored, as a number and in words; None says nothing about them.
    """

    model: str
    style: Style
    clip: tuple[int, int, int]
    parts: tuple[Part, ...]
    uncounted: dict[str, int]
    views: tuple[int, str] | None = None

    @property
    def params(self) -> int:
        """Parameters, trainable or not."""
        return sum(part.params for part in self.parts)

    @property
    def macs(self) -> int:
        """Multiply-adds for one clip, which the papers call FLOPs."""
        return sum(part.macs for part in self.parts)

    def to_json(self) -> dict[str, Any]:
        """All fields and their sums as JSON-able values."""
        values: dict[str, Any] = {
            "model": self.model,
            "style": self.style,
            "clip": list(self.clip),
            "params": self.params,
            "macs": self.macs,
            "uncounted": self.uncounted,
            "parts": [{"name": p.name, "params": p.params, "macs": p.macs} for p in self.parts],
        }
        if self.views:
            number, text = self.views
            values |= {"views": {"total": number, "text": text}, "macs_of_views": number * self.macs}
        return values

    def __str__(self) -> str:
        from rich.table import Table  # start-up time

        frames, height, width = self.clip
        unit = "GMACs (papers' GFLOPs)" if self.style == "fvcore" else "GMACs (torch)"
        table = Table(title=f"{self.model}, one clip of {frames} × {height} × {width}", show_footer=True)
        table.add_column("part", "total")
        table.add_column("parameters", f"{self.params:,}", justify="right")
        table.add_column("M", f"{self.params / 1e6:.4f}", justify="right")
        table.add_column(unit, f"{self.macs / 1e9:.4f}", justify="right")
        table.add_column("%", justify="right")
        for part in self.parts:
            percent = f"{100 * part.macs / max(self.macs, 1):.1f}"
            table.add_row(part.name, f"{part.params:,}", f"{part.params / 1e6:.4f}", f"{part.macs / 1e9:.4f}", percent)
        notes = []
        if self.uncounted:
            notes.append("not counted: " + ", ".join(f"{n:,} {kind}" for kind, n in self.uncounted.items()))
        if self.views:
            number, text = self.views
            each, together = (f"{macs / 1e9:.4f}" for macs in (self.macs, number * self.macs))
            notes.append(f"{each} {unit} per view, {together} for {text}")
        return plain_text(table, *notes, width=110)


def is_counting() -> bool:
    """Whether the running forward pass is counted, so that operations have to take the form of their papers."""
    return _now_counting


@contextmanager
def counting() -> Iterator[None]:
    """While it is open, :func:`is_counting` is true."""
    global _now_counting
    before, _now_counting = _now_counting, True
    try:
        yield
    finally:
        _now_counting = before


def count(model: VideoModel | ModelConfig, style: Style = "torch", clip: ClipSpec | None = None) -> Cost:
    """Count a model's parameters and multiply-adds for one clip, on the meta device.

    Args:
        model: a configuration, or a built model (which stays as it is).
        style: ``torch`` or ``fvcore`` (the papers' counting), see above.
        clip: another clip than the configured one.
    """
    import torch  # here and below for start-up time, see the top

    from gesta.model import ModelConfig

    if not isinstance(model, ModelConfig):
        return _count(_on_meta(model), style, clip or model.config.clip)
    config = replace(model, clip=clip) if clip else model
    key = type(config), json.dumps(to_json(config)), style
    if key not in _counted:
        with torch.device("meta"):
            built = config.build()
        _counted[key] = _count(built, style, config.clip)
    return _counted[key]


_counted: dict[tuple[type, str, Style], Cost] = {}
"""Costs of configurations that were counted before: building a network takes longer than anything else here."""


def _count(model: VideoModel, style: Style, spec: ClipSpec) -> Cost:
    """Run a model on the meta device, which is left in evaluation mode, and count."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from gesta.model import hooked

    model.eval()
    dtype = next(model.parameters()).dtype
    video = torch.empty(1, spec.channels, spec.frames, spec.size, spec.size, device="meta", dtype=dtype)
    counter = FlopCounterMode(display=False, custom_mapping=_counting(style))
    uncounted: dict[str, int] = {}

    def note(module: Any, inputs: tuple[Any, ...]) -> None:
        for kind, amount in module.uncounted(*inputs).items():
            uncounted[kind] = uncounted.get(kind, 0) + amount

    noted = {module: note for module in model.modules() if hasattr(module, "uncounted")}
    with hooked(pre=noted), torch.no_grad(), counting(), counter:
        model(video)
    counts = {module: sum(ops.values()) // 2 for module, ops in counter.get_flop_counts().items()}
    root = type(model).__name__
    parts = [
        Part(label, sum(p.numel() for p in module.parameters()), counts.get(f"{root}.{name}", 0))
        for label, name, module in _parts(model)
    ]
    # what belongs to no module of its own: free parameters, and operations in the model's own methods
    loose = Part(
        "other",
        sum(p.numel() for p in model.parameters()) - sum(p.params for p in parts),
        counts.get("Global", 0) - sum(p.macs for p in parts),
    )
    parts = [part for part in parts if part.params or part.macs] + [loose] * bool(loose.params or loose.macs)
    return Cost(describe_model(model), style, (spec.frames, spec.size, spec.size), tuple(parts), uncounted)


def describe_model(model: VideoModel) -> str:
    """The model's class, and the plug-ins inserted into it with their positions."""
    plugins = [f"{type(insert.layer).__name__}[{insert.at}]" for insert in model.config.inserts]
    return " + ".join([type(model).__name__, *plugins])


def _on_meta(model: VideoModel) -> VideoModel:
    """A copy without weights: only shapes are copied."""
    from torch import nn

    shapes: dict[int, Any] = {id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in model.parameters()}
    shapes |= {id(b): b.to("meta") for b in model.buffers()}
    return copy.deepcopy(model, shapes)


def _parts(model: VideoModel) -> list[tuple[str, str, nn.Module]]:
    """Label, name and module of each part: stem, inserts and blocks in order, then what follows them."""
    from gesta.model import VideoModel

    names = {module: name for name, module in model.named_modules()}
    blocks = {names[block]: i for i, block in enumerate(model.blocks)}
    ordered: list[tuple[tuple[float, int], str, str, nn.Module]] = []  # (block, 0 before it, 1 it), label, name

    def add(name: str, module: nn.Module) -> None:
        if name in blocks:
            ordered.append(((blocks[name], 1), f"block.{blocks[name]}", name, module))
        elif name.startswith("inserts."):
            at = int(name.removeprefix("inserts."))
            ordered.append(((at, 0), f"insert.{at}", name, module))
        elif name == "inserts" or isinstance(module, VideoModel) or any(b.startswith(f"{name}.") for b in blocks):
            for child, inner in module.named_children():
                add(f"{name}.{child}", inner)
        else:
            position = -1 if model.depth_of(f"{name}.") == 0 else len(blocks)
            ordered.append(((position, 0), name, name, module))

    for name, module in model.named_children():
        add(name, module)
    ordered.sort(key=lambda part: part[0])
    return [(label, name, module) for _, label, name, module in ordered]


@cache
def _counting(style: Style) -> dict[Any, Callable[..., int]]:
    """What is counted beside convolutions and matrix products: operator → operations, of its arguments' shapes.

    A multiply-add is two operations here, as in FlopCounterMode, whose counts are halved above.
    """
    import torch

    if style == "torch":
        import torchvision  # noqa: F401  it is what registers the operation

        deformable = torch.ops.torchvision.deform_conv2d
        return {deformable: lambda x, weight, *_, out_shape, **__: 2 * prod(out_shape) * prod(weight[1:])}

    def batch_norm(x: Any, weight: Any, *_: Any, **__: Any) -> int:
        return 2 * prod(x) * (1 if weight is None else 2)

    def grid_sampler(*_: Any, out_shape: Any, **__: Any) -> int:
        return 2 * 4 * prod(out_shape)

    aten = torch.ops.aten
    return {
        aten.native_layer_norm: lambda x, size, weight, *_, **__: 2 * prod(x) * (4 if weight is None else 5),
        aten.native_group_norm: lambda x, weight, *_, **__: 2 * prod(x) * (4 if weight is None else 5),
        aten.native_batch_norm: batch_norm,
        aten._native_batch_norm_legit_no_training: batch_norm,
        aten.grid_sampler_2d: grid_sampler,
        aten.grid_sampler_3d: grid_sampler,
    }
