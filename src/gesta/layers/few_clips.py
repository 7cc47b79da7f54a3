"""Batch norms in forward passes of few clips: their running statistics weigh in.

By the statistics of two clips alone, each becomes +1 and -1 whatever it shows, and those of one clip take away what it
has more of than others; in evaluation, running statistics give other values again. So a pass of fewer clips than enough
for statistics of its own is normalised by a mixture: its own weigh clips / enough, and the running ones, of the
clips before it, weigh the rest. ``benchmarks/micro_batch.py`` compares accuracies.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

ENOUGH = 4
"""Clips per forward pass from which on batch norms take the statistics of the pass alone, as published."""


class RunningMixture(_BatchNorm):
    """A batch norm that can mix its running statistics into those of a pass."""

    before: tuple[Tensor, Tensor, Tensor] | None = None  # what running statistics were before the last pass

    def _check_input_dim(self, input: Tensor) -> None:
        """Maps of any number of axes."""

    def mixed_statistics(self, mean: Tensor, var: Tensor, fraction: float) -> tuple[Tensor, Tensor]:
        """Mean and variance ``(C,)`` by which a pass in training is normalised; the running ones are updated.

        They follow ``1 / fraction`` passes as fast as one pass of enough clips, and are the mean of all passes at
        first. With a momentum of 0 the pass is computed a second time (activation checkpointing): it gets the same
        statistics, and nothing is updated.

        Args:
            mean, var: of the pass, ``(C,)``.
            fraction: its weight, above 0 and below 1.
        """
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        again = self.momentum == 0.0
        if not again or self.before is None:
            self.before = self.running_mean.clone(), self.running_var.clone(), self.num_batches_tracked.clone()
        old_mean, old_var, passes = self.before
        at_first = 1 / (passes + 1)
        if not again:
            kept = (1 - (self.momentum or 0.1)) ** fraction
            with torch.no_grad():
                new_mean, new_var = _mixed(old_mean, old_var, mean, var, at_first.clamp(min=1 - kept))
                self.running_mean.copy_(new_mean)
                self.running_var.copy_(new_var)
                self.num_batches_tracked += 1
        return _mixed(old_mean, old_var, mean, var, at_first.clamp(min=fraction))


def _mixed(old_mean: Tensor, old_var: Tensor, mean: Tensor, var: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of the clips before and those of now, which have this weight."""
    weight = weight.to(mean)
    apart = weight * (1 - weight) * (mean - old_mean).square()
    return torch.lerp(old_mean, mean, weight), torch.lerp(old_var, var, weight) + apart


class SinglePositionNorm(nn.BatchNorm3d):
    """A batch norm that takes a single position of a single clip by its running statistics, as it has no variance."""

    def forward(self, input: Tensor) -> Tensor:
        """``(B, C, T, H, W)`` to the same shape."""
        if self.training and input.numel() == input.shape[1]:
            return nn.functional.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(input)


class MixedBatchNorm(RunningMixture):
    """A batch norm for forward passes of few clips, see the module; the names of its weights are those of ``norm``.

    Args:
        norm: the batch norm that it stands for, whose parameters and statistics it takes.
        clips: per forward pass, below :data:`ENOUGH`.
    """

    def __init__(self, norm: _BatchNorm, clips: int) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine)
        self.weight, self.bias = norm.weight, norm.bias
        self.running_mean, self.running_var = norm.running_mean, norm.running_var
        self.num_batches_tracked = norm.num_batches_tracked
        self.fraction = clips / ENOUGH
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
        form = (-1, *[1] * (x.dim() - 2))
        return torch.addcmul(shift.view(form), x, scale.view(form)).to(input.dtype)


def mix_statistics(model: nn.Module, clips: int) -> int:
    """Put a :class:`MixedBatchNorm` in place of each batch norm of a model.

    Args:
        model: changed in place. Batch norms of other classes than torch's stay, such as timm's with an activation.
        clips: per forward pass, below :data:`ENOUGH`.

    Returns:
        How many were replaced.
    """
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, SinglePositionNorm)
    count = 0
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, _BatchNorm) and type(child) in kinds:
                setattr(module, name, MixedBatchNorm(child, clips))
                count += 1
    return count
