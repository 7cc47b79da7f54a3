"""Which parts of a model are at work: what plug-ins and attentions measure on some clips, and which of them are dead.

A module anywhere in a model reports if it has a method ``diagnose(*inputs) -> dict[str, float]``, which is called with
the inputs of its forward pass and gives figures to watch. What they mean is said by its method
``faults(figures) -> list[str]``, if it has one: a sentence for each thing that it should do and does not, by thresholds
that stand beside it. Every attention inside a block or an insert is measured without any such method, if it is computed
by ``scaled_dot_product_attention`` or ends in a softmax over the keys.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gesta.model import VideoModel, evaluating, hooked

PROBE_CLIPS = 8
"""Clips at most, of different videos, on which a training and an evaluation look at a model."""

ONE_HOT = 0.01
"""An attention is called one-hot below this entropy: mean over queries, in units of the largest possible."""

UNIFORM = 1 - 1e-6
"""An attention is called uniform above this entropy."""

QUERIES = 64
"""Queries per head and clip (or frame) whose entropy is computed, spread over all of them."""


@dataclass(frozen=True)
class Health:
    """What the parts of a model report.

    Attributes:
        figures: by name, ``insert.3.0/outside``, ``block.2/attention.1``.
        faults: sentences, each of which names the part.
    """

    figures: dict[str, float] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


@torch.no_grad()
def measure_health(model: VideoModel, video: Tensor) -> Health:
    """Run some clips through a model and collect what its parts report; the model's mode is left as it was.

    Args:
        model: on any device.
        video: normalised clips ``(B, C, T, H, W)`` on its device; different ones, as some parts compare clips.
    """
    names = _names(model)
    attentions = _AttentionRecorder()
    reports: dict[str, tuple[Any, dict[str, float]]] = {}

    def report(name: str, module: Any, inputs: tuple[Any, ...]) -> None:
        with attentions.paused():  # what is computed once more for a report is no second attention
            reports[name] = module, module.diagnose(*inputs)

    reporting = {module: partial(report, names[module]) for module in names if hasattr(module, "diagnose")}
    places = [*model.blocks, *(layer for layers in model.inserts.values() for layer in layers.children())]
    begins = {module: partial(attentions.begin, names[module]) for module in places}
    ends = dict.fromkeys(places, attentions.end)
    with hooked(ends, pre=begins), hooked(pre=reporting), evaluating(model), attentions:
        model.embed(video)  # computes what the scores depend on, and no more
    figures, faults = attentions.figures(), attentions.faults()
    for name, (module, measured) in reports.items():
        figures |= {f"{name}/{quantity}": value for quantity, value in measured.items()}
        if hasattr(module, "faults"):
            plugin = type(getattr(module, "config", module)).__name__
            faults += [f"{name} ({plugin}): {fault}" for fault in module.faults(measured)]
    return Health(figures, faults)


def _names(model: VideoModel) -> dict[nn.Module, str]:
    """Every module and what it is called in a report: ``insert.3.0``, ``block.2.temporal.around``, else as in torch."""
    prefixes = {name: f"block.{i}." for i, name in enumerate(model._blocks_by_name())} | {"inserts.": "insert."}
    names = {}
    for module, name in ((module, f"{name}.") for name, module in model.named_modules()):
        prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), None)
        names[module] = (name if prefix is None else prefixes[prefix] + name.removeprefix(prefix)).removesuffix(".")
    return names


class _AttentionRecorder(TorchFunctionMode):
    """While it is entered, notes the entropy of every attention of the block or insert that is running."""

    def __init__(self) -> None:
        super().__init__()
        self.place = ""
        self.entropies: dict[str, list[float]] = {}

    def begin(self, name: str, module: nn.Module, inputs: Any) -> None:
        """A block or an insert begins."""
        self.place = name

    def end(self, module: nn.Module, inputs: Any, result: Any) -> None:
        """It has ended."""
        self.place = ""

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing is noted for a while."""
        place, self.place = self.place, ""
        try:
            yield
        finally:
            self.place = place

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not self.place:
            return result
        weights = None
        if func is F.scaled_dot_product_attention:
            query = args[0] if args else kwargs["query"]
            spread = slice(None, None, max(1, query.shape[-2] // QUERIES))
            weights = attention_weights(spread, *args, **kwargs)
        elif func in (torch.softmax, Tensor.softmax, F.softmax) and result.dim() > 2:
            axis = args[1] if len(args) > 1 else kwargs.get("dim")
            weights = result if axis in (-1, result.dim() - 1) else None
        if weights is not None and weights.shape[-1] > 1:
            entropy = torch.special.entr(weights.float()).sum(-1).mean() / math.log(weights.shape[-1])
            self.entropies.setdefault(self.place, []).append(entropy.item())
        return result

    def figures(self) -> dict[str, float]:
        """Entropies by place and number within it: 1 is uniform, 0 is one-hot."""
        return {
            f"{place}/attention.{i}": value
            for place, values in self.entropies.items()
            for i, value in enumerate(values, 1)
        }

    def faults(self) -> list[str]:
        """A sentence for each attention that is one-hot or uniform."""
        sentences = []
        for name, entropy in self.figures().items():
            if entropy < ONE_HOT:
                sentences.append(
                    f"{name} is one-hot (entropy {entropy:.2g} of 1): every query copies a single key, and queries and "
                    "keys get no gradient"
                )
            elif entropy > UNIFORM:
                sentences.append(f"{name} is uniform (entropy 1): a mean over all keys, whatever queries and keys are")
        return sentences


def attention_weights(
    queries: slice,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **_: Any,
) -> Tensor | None:
    """Weights ``(…, queries, keys)`` of some queries in a call of ``scaled_dot_product_attention``, whose arguments
    follow; None of a causal one."""
    if is_causal:
        return None
    scores = query[..., queries, :].float() @ key.float().mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    if attn_mask is not None:
        mask = attn_mask[..., queries, :] if attn_mask.shape[-2] == query.shape[-2] else attn_mask
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1)
