"""Batch norms in forward passes of few clips: normalised by a mixture of the pass's and the running statistics.

The statistics of a single clip remove what distinguishes it from others, those of two make pooled features +1 for one
clip and -1 for the other whatever they show, and evaluation, by running statistics, gives different values. So a pass
of n < 4 clips is normalised by a mixture of its own statistics, with the weight n / 4, and the running ones of the
clips before it, with the rest. ``benchmarks/experiments/micro_batch.py`` compares accuracies.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

ENOUGH_CLIPS = 4
"""Clips per forward pass from which on batch norms are torch's, with the statistics of the pass alone."""


class StatisticsMixer(_BatchNorm):
    """A batch norm that can mix its running statistics into those of a forward pass."""

    previous: tuple[Tensor, Tensor, Tensor] | None = None  # running mean, variance and passes before the last pass

    def _check_input_dim(self, input: Tensor) -> None:
        """Accept inputs of any number of axes."""

    def mixed_statistics(self, mean: Tensor, var: Tensor, fraction: float) -> tuple[Tensor, Tensor]:
        """Mean and variance ``(C,)`` by which a pass in training is normalised; the running ones are updated.

        ``1 / fraction`` passes change the running statistics as much as one pass of enough clips; at first they are the
        mean over all passes. A momentum of 0 means that activation checkpointing computes the pass a second time: it
        gets the same statistics, and nothing is updated.

        Args:
            mean, var: of the pass, ``(C,)``.
            fraction: its weight, above 0 and below 1.
        """
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        is_recomputed = self.momentum == 0.0
        if not is_recomputed or self.previous is None:
            self.previous = self.running_mean.clone(), self.running_var.clone(), self.num_batches_tracked.clone()
        old_mean, old_var, passes = self.previous
        equal_weight = 1 / (passes + 1)
        if not is_recomputed:
            kept = (1 - (self.momentum or 0.1)) ** fraction
            with torch.no_grad():
                new_mean, new_var = _mixed(old_mean, old_var, mean, var, equal_weight.clamp(min=1 - kept))
                self.running_mean.copy_(new_mean)
                self.running_var.copy_(new_var)
                self.num_batches_tracked += 1
        return _mixed(old_mean, old_var, mean, var, equal_weight.clamp(min=fraction))


def _mixed(old_mean: Tensor, old_var: Tensor, mean: Tensor, var: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of the earlier clips and those of this pass together; ``weight`` is that of this pass."""
    weight = weight.to(mean)
    between_means = weight * (1 - weight) * (mean - old_mean).square()
    return torch.lerp(old_mean, mean, weight), torch.lerp(old_var, var, weight) + between_means


class SinglePositionNorm(nn.BatchNorm3d):
    """A batch norm that normalises a single position of a single clip, which has no variance, by running statistics."""

    def forward(self, input: Tensor) -> Tensor:
        """``(B, C, T, H, W)`` to the same shape."""
        if self.training and input.numel() == input.shape[1]:
            return nn.functional.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(input)


class MixedBatchNorm(StatisticsMixer):
    """A batch norm for forward passes of few clips, see this module; its weights have the names of those of ``norm``.

    Args:
        norm: the batch norm that it replaces, whose parameters and statistics it shares.
        clips: per forward pass, below :data:`ENOUGH_CLIPS`.
    """

    def __init__(self, norm: _BatchNorm, clips: int) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine)
        self.weight, self.bias = norm.weight, norm.bias
        self.running_mean, self.running_var = norm.running_mean, norm.running_var
        self.num_batches_tracked = norm.num_batches_tracked
        self.fraction = clips / ENOUGH_CLIPS
        self.train(norm.training)

    def forward(self, input: Tensor) -> Tensor:
        """``(B, C, …)`` to the same shape."""
        if not self.training:
            return super().forward(input)
        assert self.running_mean is not None
        x = input.to(torch.promote_types(input.dtype, self.running_mean.dtype))
        var, mean = torch.var_mean(x, [axis for axis in range(x.dim()) if axis != 1], correction=0)
        mean, var = self.mixed_statistics(mean, var, self.fraction)
        scale = torch.rsqrt(var + self.eps)
        shift = -mean * scale
        if self.affine:
            scale, shift = scale * self.weight, shift * self.weight + self.bias
        shape = (-1, *[1] * (x.dim() - 2))
        return torch.addcmul(shift.view(shape), x, scale.view(shape)).to(input.dtype)


def mix_statistics(model: nn.Module, clips: int) -> int:
    """Put a :class:`MixedBatchNorm` in place of each batch norm of a model.

    Args:
        model: changed in place. Batch norms of other classes than torch's stay, such as timm's with an activation.
        clips: per forward pass, below :data:`ENOUGH_CLIPS`.

    Returns:
        How many were replaced.
    """
    types = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, SinglePositionNorm)
    count = 0
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, _BatchNorm) and type(child) in types:
                setattr(module, name, MixedBatchNorm(child, clips))
                count += 1
    return count
