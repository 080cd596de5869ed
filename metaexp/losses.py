"""Losses of one task. Targets are float vectors (real values or one-hot classes).

A Gaussian prediction is [n, 2 y_dim]: means, then standard deviations. A prediction of the wrong shape raises a
ConfigError.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from metaexp.errors import ConfigError


def mean(values: Tensor) -> Tensor:
    """Mean over all elements; 0 if there are none, so that a loss over 0 examples is 0, not NaN."""
    return values.sum() / max(values.numel(), 1)


def fitting(prediction: Tensor, target: Tensor, outputs: int = 1) -> Tensor:
    """The prediction in the target's precision: sums and logarithms in half precision lose digits that matter.

    Raises ConfigError unless it has `outputs` numbers for each number of the target: it would broadcast silently.
    """
    wanted = [*target.shape[:-1], outputs * target.shape[-1]]
    if list(prediction.shape) != wanted:
        raise ConfigError(
            f"model: the prediction has the shape {list(prediction.shape)}, the loss needs {wanted}; look at what the "
            "network returns, and at the method's predict"
        )
    return prediction.to(target.dtype)


def mse(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over all elements: [n, y_dim], [n, y_dim] -> []."""
    return mean((fitting(prediction, target) - target) ** 2)


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy in nats against one-hot (or soft) targets: [n, ways], [n, ways] -> []."""
    return mean(-(target * F.log_softmax(fitting(logits, target), dim=-1)).sum(-1))


def weighted_cross_entropy(weights: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Cross-entropy in which an example of class c counts weights[c], [ways], divided by the number of examples."""

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        each = target * F.log_softmax(fitting(logits, target), dim=-1) * weights.to(target)
        return mean(-each.sum(-1))

    return loss


def as_logits(probability: Tensor) -> Tensor:
    """Finite logits whose softmax is the given probabilities [..., ways]."""
    return torch.log(probability.clamp(min=torch.finfo(probability.dtype).tiny))


def gaussian_nll(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean over targets of -log N(target; mean, sd^2), summed over y_dim, in nats: [n, 2 y_dim], [n, y_dim] -> []."""
    center, sd = fitting(prediction, target, 2).chunk(2, -1)
    nll = 0.5 * ((target - center) / sd) ** 2 + torch.log(sd) + 0.5 * math.log(2 * math.pi)
    return mean(nll.sum(-1))
