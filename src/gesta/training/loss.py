"""What training minimises between class scores and labels."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def class_loss(logits: Tensor, targets: Tensor, *, multi_label: bool, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy, or of multi-label data the mean over classes of the binary cross-entropy of each class.

    Args:
        logits: ``(N, K)``.
        targets: ``(N,)`` int64, or their probabilities ``(N, K)``; multi-label ``(N, K)``, whether each class is there.
        multi_label: each class is a question of its own.
        smoothing: label smoothing ε: targets are mixed with the uniform distribution over the answers, which are the
            classes, or of multi-label data yes and no: t (1 - ε) + ε / 2.

    Returns:
        The mean over the samples, a scalar.
    """
    if not multi_label:
        return functional.cross_entropy(logits, targets, label_smoothing=smoothing)
    return functional.binary_cross_entropy_with_logits(logits, targets * (1 - smoothing) + smoothing / 2)
