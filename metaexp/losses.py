"""Losses and metrics of one task. Targets are float vectors (real values or one-hot classes)."""

import math
from collections.abc import Callable

import torch
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


def fair_accuracy(logits: Tensor, target: Tensor) -> Tensor:
    """Accuracy where k equal largest logits count as 1 / k each, not as the first: [n, ways], [n, ways] -> []."""
    best = (logits == logits.max(-1, keepdim=True).values).to(target.dtype)
    return _mean((best / best.sum(-1, keepdim=True) * target).sum(-1))


def as_logits(probability: Tensor) -> Tensor:
    """Finite logits whose softmax is the given probabilities [..., ways]."""
    return torch.log(probability.clamp(min=torch.finfo(probability.dtype).tiny))


def gaussian_nll(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean negative log-density in nats over all elements: [n, 2 y_dim] (means, deviations), [n, y_dim] -> []."""
    mean, deviation = prediction.chunk(2, -1)
    return _mean(0.5 * ((target - mean) / deviation) ** 2 + torch.log(deviation) + 0.5 * math.log(2 * math.pi))


def log_likelihood(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean log-density in nats over all elements: [n, 2 y_dim], [n, y_dim] -> []."""
    return -gaussian_nll(prediction, target)


def of_mean(metric: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """The metric of the means of Gaussian predictions [n, 2 y_dim]."""
    return lambda prediction, target: metric(prediction.chunk(2, -1)[0], target)
