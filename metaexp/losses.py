"""Losses and metrics of one task. Targets are float vectors (real values or one-hot classes)."""

import torch.nn.functional as F
from torch import Tensor


def _mean(values: Tensor) -> Tensor:
    # A loss over 0 examples is 0, never NaN.
    return values.sum() / max(values.numel(), 1)


def mse(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over all elements: [n, y_dim], [n, y_dim] -> []."""
    return _mean((prediction - target) ** 2)


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy in nats against one-hot (or soft) targets: [n, ways], [n, ways] -> []."""
    return _mean(-(target * F.log_softmax(logits, dim=-1)).sum(-1))


def accuracy(logits: Tensor, target: Tensor) -> Tensor:
    """Fraction of rows whose largest logit is the target's class: [n, ways], [n, ways] -> []."""
    return _mean((logits.argmax(-1) == target.argmax(-1)).to(logits.dtype))
