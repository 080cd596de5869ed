"""Losses and metrics of one task. Targets are float vectors (real values or one-hot classes).

A Gaussian prediction is [n, 2 y_dim]: means, then standard deviations. A prediction of another shape is refused by a
ConfigError.
"""

import math
from collections.abc import Callable
from statistics import NormalDist

import torch
import torch.nn.functional as F
from torch import Tensor

from metaexp.errors import ConfigError

Metric = Callable[[Tensor, Tensor], Tensor]
LARGER = ("accuracy", "log_likelihood", "coverage")  # words in the names of metrics that grow with quality


def larger(name: str) -> bool:
    """Whether a metric of this name, with whatever around it, grows with quality (of coverage, too little is worse)."""
    return any(word in name for word in LARGER)


def _mean(values: Tensor) -> Tensor:
    # A loss over 0 examples is 0, never NaN.
    return values.sum() / max(values.numel(), 1)


def _fitting(prediction: Tensor, target: Tensor, outputs: int = 1) -> Tensor:
    """The prediction in the target's precision: sums and logarithms in half precision lose digits that count.

    Raises ConfigError where it has not `outputs` numbers for each of the target's: differences would be broadcast.
    """
    wanted = [*target.shape[:-1], outputs * target.shape[-1]]
    if list(prediction.shape) != wanted:
        raise ConfigError(
            f"model: the prediction has the shape {list(prediction.shape)}, the loss needs {wanted}; look at what the "
            "network gives, and at the method's predict"
        )
    return prediction.to(target.dtype)


def mse(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over all elements: [n, y_dim], [n, y_dim] -> []."""
    return _mean((_fitting(prediction, target) - target) ** 2)


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy in nats against one-hot (or soft) targets: [n, ways], [n, ways] -> []."""
    return _mean(-(target * F.log_softmax(_fitting(logits, target), dim=-1)).sum(-1))


def accuracy(logits: Tensor, target: Tensor) -> Tensor:
    """Fraction of rows whose largest logit is the target's class: [n, ways], [n, ways] -> []; NaN if a logit is."""
    logits = _fitting(logits, target)
    right = (logits.argmax(-1) == target.argmax(-1)).to(target.dtype)
    return _mean(torch.where(logits.isnan().any(-1), math.nan, right))  # to argmax NaN is the largest


def fair_accuracy(logits: Tensor, target: Tensor) -> Tensor:
    """Accuracy where k equal largest logits count as 1 / k each, not as the first: [n, ways], [n, ways] -> []."""
    logits = _fitting(logits, target)
    best = (logits == logits.max(-1, keepdim=True).values).to(target.dtype)
    return _mean((best / best.sum(-1, keepdim=True) * target).sum(-1))


def as_logits(probability: Tensor) -> Tensor:
    """Finite logits whose softmax is the given probabilities [..., ways]."""
    return torch.log(probability.clamp(min=torch.finfo(probability.dtype).tiny))


def gaussian_nll(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean over targets of -log N(target; mean, sd^2), summed over y_dim, in nats: [n, 2 y_dim], [n, y_dim] -> []."""
    mean, sd = _fitting(prediction, target, 2).chunk(2, -1)
    nll = 0.5 * ((target - mean) / sd) ** 2 + torch.log(sd) + 0.5 * math.log(2 * math.pi)
    return _mean(nll.sum(-1))


def log_likelihood(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean log-likelihood of a target in nats: every target by itself, its correlation with others left out."""
    return -gaussian_nll(prediction, target)


def class_log_likelihood(logits: Tensor, target: Tensor) -> Tensor:
    """Mean log-likelihood of a target's class in nats: [n, ways], [n, ways] -> []."""
    return -cross_entropy(logits, target)


def coverage(level: float) -> Metric:
    """The metric: fraction of targets inside the central interval of this probability; a sure predictor has `level`.

    NaN where a mean or a standard deviation is.

    Raises:
        ValueError: a level outside (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"level={level}: must be above 0 and below 1")
    width = NormalDist().inv_cdf((1 + level) / 2)  # half of the interval in standard deviations

    def metric(prediction: Tensor, target: Tensor) -> Tensor:
        mean, sd = _fitting(prediction, target, 2).chunk(2, -1)
        inside = ((target - mean).abs() <= width * sd).to(mean.dtype)
        return _mean(torch.where(mean.isnan() | sd.isnan(), math.nan, inside))

    return metric


def of_mean(metric: Metric) -> Metric:
    """The metric of a Gaussian prediction's mean."""
    return lambda prediction, target: metric(prediction.chunk(2, -1)[0], target)


def gaussian_metrics(metrics: dict[str, Metric]) -> dict[str, Metric]:
    """What is said of a Gaussian predictor: likelihood first, a family's own metrics of its mean, two coverages."""
    means = {name: of_mean(metric) for name, metric in metrics.items()}
    return {"log_likelihood": log_likelihood, **means, "coverage50": coverage(0.5), "coverage90": coverage(0.9)}
