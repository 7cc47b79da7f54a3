"""What training minimises between class scores and labels, and the weights of classes in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from gesta.recipe import TrainConfig
from gesta.records import ClassNames, by_space


def class_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    multi_label: bool,
    smoothing: float = 0.0,
    gamma: float = 0.0,
    weights: Tensor | None = None,
) -> Tensor:
    """Cross-entropy, or of multi-label data the mean over classes of the binary cross-entropy of each class.

    With ``gamma`` it is the focal loss (T.-Y. Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, Eq. 4):
    each term -t log p, p being the probability of an answer and t its target, is multiplied by (1 - p)^γ. Theirs is of
    a sigmoid, as here of multi-label data; otherwise p is of the softmax. Soft targets (of smoothing and mixed clips)
    have a term for each answer, with a factor of its own.

    Args:
        logits: ``(N, K)``.
        targets: ``(N,)`` int64, or their probabilities ``(N, K)``; multi-label ``(N, K)``, whether each class is there.
        multi_label: each class is a question of its own.
        smoothing: label smoothing ε: targets are mixed with the uniform distribution over the answers, which are the
            classes, or of multi-label data yes and no: t (1 - ε) + ε / 2.
        gamma: γ of the focal loss; 0 for none.
        weights: ``(K,)``, by which the term of each class is multiplied; not of multi-label data.

    Returns:
        The mean over the samples, a scalar. With weights, too, it is their number that the sum is divided by, not the
        sum of their weights as in torch: so it does not matter how a step is cut into passes.
    """
    if multi_label:
        targets = targets * (1 - smoothing) + smoothing / 2
        if not gamma:
            return functional.binary_cross_entropy_with_logits(logits, targets)
        yes, no = functional.logsigmoid(logits), functional.logsigmoid(-logits)
        return -(targets * _focused(yes, gamma) + (1 - targets) * _focused(no, gamma)).mean()
    if weights is None and not gamma:
        return functional.cross_entropy(logits, targets, label_smoothing=smoothing)
    if not targets.is_floating_point():
        targets = functional.one_hot(targets, logits.shape[1]).to(logits.dtype)
    targets = targets * (1 - smoothing) + smoothing / logits.shape[1]
    terms = -targets * _focused(logits.log_softmax(-1), gamma)
    return (terms if weights is None else terms * weights).sum(-1).mean()


def _focused(log_p: Tensor, gamma: float) -> Tensor:
    """log p, times (1 - p)^γ; 1 - p is kept from 0, where the gradient of its power would be infinite for γ < 1."""
    return (-torch.expm1(log_p)).clamp(min=torch.finfo(log_p.dtype).eps) ** gamma * log_p if gamma else log_p


def class_weights(counts: Sequence[int], config: TrainConfig) -> list[float]:
    """The weight of each class in the loss, from the numbers of its training videos.

    ``balanced``: w ∝ 1 / n, with which all classes together weigh alike (scikit-learn's word). ``effective``: w ∝
    (1 - β) / (1 - βⁿ), the inverse of the effective number of videos (Y. Cui et al., "Class-Balanced Loss Based on
    Effective Number of Samples", CVPR 2019, Eqs 2 and 3), which is between equal weights (β = 0) and those (β → 1).

    They are divided by their mean over the training videos, so that losses and learning rates keep their size; Cui et
    al. divide by their mean over the classes. A class without training videos has the weight 0.
    """
    beta = config.effective_beta
    effective = [n if config.class_weights == "balanced" else (1 - beta**n) / (1 - beta) for n in counts]
    inverse = [1 / number if number else 0.0 for number in effective]
    mean = sum(n * weight for n, weight in zip(counts, inverse)) / sum(counts)
    return [weight / mean for weight in inverse]


def loss_weights(
    labels: Mapping[str, Sequence[Any]], classes: ClassNames, config: TrainConfig, device: torch.device | None = None
) -> tuple[dict[str, Tensor], str]:
    """:func:`class_weights` by label space, and a sentence about them for the user; empty if the classes count alike.

    Args:
        labels: of the training videos, by label space.
        classes: their names.
        config: which weights.
        device: where the weights are put.
    """
    weights: dict[str, Tensor] = {}
    if config.class_weights is None:
        return weights, ""
    extremes = []
    for space, names in by_space(classes).items():
        counted = Counter(labels[space])
        counts = [counted[label] for label in range(len(names))]
        of_classes = class_weights(counts, config)
        weights[space] = torch.tensor(of_classes, device=device)
        ranked = sorted((weight, n, name) for weight, n, name in zip(of_classes, counts, names) if n)
        extremes += [f"{name} ({n} video{'s' * (n > 1)}) {weight:.3g}" for weight, n, name in (ranked[0], ranked[-1])]
    return weights, f"{config.class_weights} class weights: {', '.join(extremes)}"
