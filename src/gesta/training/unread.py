"""Parameters that no training step of a model uses, found without a clip and without memory for weights.

V-JEPA 2.1 has an embedding of single images; where another part reads a model's map (SimMIM, attentive heads), its last
norm is there for nothing; a readout of earlier blocks leaves the others out. One process trains such a model like any
other; several would wait for gradients that never come.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from gesta.model import ModelConfig

CLIPS = 2
"""Of the pass that is followed back; batch norms need more than one."""


def unread_parameters(config: ModelConfig) -> set[str]:
    """Names of the parameters on which neither scores nor losses of a training depend.

    Of a model that cannot be computed without numbers (of gesta's only VideoMAE, which uses all) none are found.
    """
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        model, clip = config.build().train(), config.clip
        video = torch.empty(CLIPS, clip.channels, clip.frames, clip.size, clip.size)
        with contextlib.suppress(Exception):  # a model of others may say in any way that it needs numbers
            read = set(_parameters_behind(tree_leaves(model(video, with_losses=True))))
            return {name for name, p in model.named_parameters() if p.requires_grad and p not in read}
    return set()


def _parameters_behind(results: Iterable[object]) -> Iterator[Tensor]:
    """The parameters that results were computed from."""
    nodes = [result.grad_fn for result in results if isinstance(result, Tensor) and result.grad_fn is not None]
    seen = set(nodes)
    while nodes:
        node = nodes.pop()
        if isinstance(leaf := getattr(node, "variable", None), Tensor):
            yield leaf
        before = {earlier for earlier, _ in node.next_functions if earlier is not None} - seen
        seen |= before
        nodes += before
