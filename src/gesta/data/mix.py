"""MixUp and CutMix of a batch, on the device of its clips."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from gesta.recipe import TrainConfig
from gesta.records import by_space


def mix(
    clips: Tensor,
    labels: dict[str, Tensor],
    config: TrainConfig,
    classes: int | dict[str, int],
    generator: torch.Generator | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """MixUp (Zhang et al. 2018) or CutMix (Yun et al. 2019) of a batch, one of them and one weight for all its clips.

    Every clip is mixed with another one of the batch. CutMix's box is the same in all frames, and the targets are
    weighted by the pixels that are really exchanged.

    Args:
        clips: ``(N, C, T, H, W)`` floating point, on any device.
        labels: ``(N,)`` int64 by label space, -1 where unknown; of multi-label data ``(N, M)``, -1 where there are
            fewer.
        config: ``mixup``, ``cutmix``, ``mix_probability`` and ``mix_switch``.
        classes: number of classes, by label space if there are several.
        generator: on the CPU; the only source of randomness. None is torch's global one.

    Returns:
        Clips, and ``(N, K)`` float32 targets by label space; of an unknown label they are zero and cause no loss. The
        clips are the given ones if this batch is not mixed.
    """
    sizes = by_space(classes)
    targets = {space: multi_hot(values, sizes[space]) for space, values in labels.items()}
    random = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
    whether, which = random.random(2)
    if not (config.mixup or config.cutmix) or whether >= config.mix_probability or len(clips) < 2:
        return clips, targets
    cycle = random.permutation(len(clips))  # each takes its neighbour in a random cycle, so none takes itself
    order = torch.empty(len(clips), dtype=torch.int64)
    order[torch.from_numpy(cycle)] = torch.from_numpy(np.roll(cycle, 1))
    order = order.to(clips.device)
    if config.cutmix and (not config.mixup or which < config.mix_switch):
        height, width = clips.shape[-2:]
        half = math.sqrt(1 - random.beta(config.cutmix, config.cutmix)) / 2  # half of the box's side, as a fraction
        row, column = int(random.integers(height)), int(random.integers(width))
        down, across = int(half * height), int(half * width)
        top, bottom = max(row - down, 0), min(row + down, height)
        left, right = max(column - across, 0), min(column + across, width)
        mixed = clips.clone()
        mixed[..., top:bottom, left:right] = clips[..., top:bottom, left:right][order]
        weight = 1 - (bottom - top) * (right - left) / (height * width)
    else:
        weight = random.beta(config.mixup, config.mixup)
        mixed = torch.lerp(clips[order], clips, weight)
    return mixed, {space: torch.lerp(target[order], target, weight) for space, target in targets.items()}


def multi_hot(labels: Tensor, classes: int) -> Tensor:
    """Labels ``(N,)``, or all labels ``(N, M)`` of each, -1 for none → targets ``(N, classes)`` float32 of 0 and 1."""
    labels = labels.reshape(len(labels), -1)
    targets = torch.zeros(len(labels), classes, device=labels.device)
    return targets.scatter_reduce_(1, labels.clamp(min=0), (labels >= 0).float(), "amax")
