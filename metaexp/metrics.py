"""Metrics of one task: what is measured, which direction is better, and in which unit.

Targets are float vectors (real values or one-hot classes). A Gaussian prediction is [n, 2 y_dim]: means, then standard
deviations. A prediction of the wrong shape raises a ConfigError.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

from metaexp import losses
from metaexp.errors import ConfigError
from metaexp.losses import fitting, mean
from metaexp.metric_names import metric_name, metric_of, split_name

Function = Callable[..., Tensor]  # (prediction [n, out], target [n, y_dim]) -> []; some read the support targets, too


@dataclass(frozen=True)
class Metric:
    """A measure of how well one task's queries are predicted; call it like its function.

    Args:
        name: the name in results, without a mode (`metaexp.metric_names`).
        function: (prediction [n, out], target [n, y_dim]) -> [].
        larger_is_better: the direction; None if neither is better, as for a coverage, which has a right value.
        unit: unit of the number, or ""; a unit that depends on the data is written in terms of y ("y^2").
        reads_support: the function takes the support targets, too, [k, y_dim]: it is measured at validation and test.
        reads_predictor: the function is (predict, episode) -> [], where `predict` maps inputs [n, *x_shape] of ONE task
            to predictions [n, out]: it is measured at validation and test, on tasks of the family itself.

    Raises:
        ConfigError: the name ends in the suffix of a mode.
    """

    name: str
    function: Function
    larger_is_better: bool | None
    unit: str = ""
    reads_support: bool = False
    reads_predictor: bool = False

    def __post_init__(self) -> None:
        if (suffix := split_name(self.name).suffix) or not self.name:
            raise ConfigError(f'metric "{self.name}": must be a name that does not end in {suffix or "nothing"}')

    def __call__(self, prediction: Any, target: Any, *support: Tensor) -> Tensor:
        """[n, out], [n, y_dim], and of a metric that reads them the support targets [k, y_dim] -> []; of one that reads
        the predictor: predictor, episode -> []."""
        return self.function(prediction, target, *support)


# -- directions --------------------------------------------------------------------------------------------------------


def declared(owner: Any) -> dict[str, Metric]:
    """The metrics of a task family or a learner by name, each with its direction.

    The first metric may be a plain function if the owner itself declares `larger_is_better`.

    Raises:
        ConfigError: a metric is a plain function without a declared direction.
    """
    found: dict[str, Metric] = {}
    for place, (name, metric) in enumerate(owner.metrics.items()):
        if not isinstance(metric, Metric):
            direction = getattr(owner, "larger_is_better", None) if place == 0 else None
            if direction is None:
                raise ConfigError(
                    f'{type(owner).__name__}.metrics: "{name}" is a plain function, its direction is not known; use '
                    f'metaexp.metrics.Metric("{name}", function, larger_is_better=True) (or False)'
                )
            metric = Metric(name, metric, direction)
        found[name] = metric
    return found


def direction(metrics: Mapping[str, Metric], name: str) -> bool | None:
    """Whether larger values of a score are better, looked up by its metric, whatever its mode and prefix.

    None: neither direction is better, or the score measures none of the metrics (it is a diagnostic).
    """
    metric = metric_of(name, metrics)
    return None if metric is None else metrics[metric].larger_is_better


def sign(larger_is_better: bool | None) -> float:
    """1 or -1, the factor with which larger scores are better; 1 for a coverage, where too little is worse."""
    return -1.0 if larger_is_better is False else 1.0


def score_names(metrics: Mapping[str, Metric], modes: Mapping[str, str]) -> dict[str, str]:
    """Names of a learner's scores -> their modes, for its `modes` (suffix -> mode)."""
    return {metric_name(metric, suffix): mode for suffix, mode in modes.items() for metric in metrics}


def measure(metric: Any, prediction: Tensor, target: Tensor, support: Tensor) -> Tensor:
    """A metric, or a plain function, of a prediction [n, out]; `support` [k, y_dim] for those that read it."""
    value: Tensor = metric(prediction, target, *([support] if getattr(metric, "reads_support", False) else []))
    return value


def without_support(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the metrics that read neither the support targets nor the predictor: what is measured in training."""
    return {
        name: metric
        for name, metric in metrics.items()
        if not getattr(metric, "reads_support", False) and not getattr(metric, "reads_predictor", False)
    }


# -- functions ---------------------------------------------------------------------------------------------------------


def _accuracy(logits: Tensor, target: Tensor) -> Tensor:
    """Fraction of rows whose largest logit is the target's class: [n, ways], [n, ways] -> []; NaN if any logit is."""
    logits = fitting(logits, target)
    right = (logits.argmax(-1) == target.argmax(-1)).to(target.dtype)
    return mean(torch.where(logits.isnan().any(-1), math.nan, right))  # argmax would take NaN as the largest


def _fair_accuracy(logits: Tensor, target: Tensor) -> Tensor:
    """Accuracy in which each of k tied largest logits counts 1 / k, not only the first: [n, ways], [n, ways] -> []."""
    logits = fitting(logits, target)
    best = (logits == logits.max(-1, keepdim=True).values).to(target.dtype)
    return mean((best / best.sum(-1, keepdim=True) * target).sum(-1))


def _balanced_accuracy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean over the classes that occur of the fraction of their rows that is right: [n, ways], [n, ways] -> [].

    NaN if any logit is, or without any row.
    """
    logits = fitting(logits, target)
    right = (logits.argmax(-1) == target.argmax(-1)).to(target.dtype)
    count = target.sum(0)  # [ways]
    recall = (target * right.unsqueeze(-1)).sum(0) / torch.where(count > 0, count, 1.0)
    balanced = recall.sum() / (count > 0).sum()
    return torch.where(logits.isnan().any(), math.nan, balanced)


def _auc(logits: Tensor, target: Tensor) -> Tensor:
    """Area under the ROC curve: the chance that a row of a class has a higher probability of it than another row, ties
    counting half: [n, ways], [n, ways] -> []. Of more than two classes the mean over those with rows of both kinds.

    NaN where all rows are of one class, which leaves nothing to tell apart, or if any logit is NaN.
    """
    logits = fitting(logits, target)
    chance = torch.softmax(logits, -1) if logits.shape[-1] > 2 else logits - logits.flip(-1)
    positive, negative = target.sum(0), (1 - target).sum(0)  # [ways]
    rows, last = chance.T.contiguous(), chance.T.sort(-1).values.contiguous()  # [ways, n]
    below, upto = (torch.searchsorted(last, rows, right=right) for right in (False, True))
    rank = (below + upto + 1).to(chance.dtype) / 2  # [ways, n], from 1, of ties the mean
    wins = (rank * target.T).sum(-1) - positive * (positive + 1) / 2  # Mann and Whitney 1947
    both = positive * negative > 0
    area = torch.where(both, wins / torch.where(both, positive * negative, 1.0), 0.0).sum() / both.sum()
    return torch.where(logits.isnan().any(), math.nan, area)


def _rmse(prediction: Tensor, target: Tensor) -> Tensor:
    """Root of the mean squared error over all elements of one task."""
    return torch.sqrt(losses.mse(prediction, target))


def _mae(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error over all elements of one task."""
    return mean((fitting(prediction, target) - target).abs())


def _mase(prediction: Tensor, target: Tensor, support: Tensor) -> Tensor:
    """Mean absolute error of a forecast, divided by that of "as before" within the support set, [k, y_dim] in order.

    "Another look at measures of forecast accuracy", Hyndman, Koehler, 2006. NaN where that is 0 or k is below 2.
    """
    steps = (support[1:] - support[:-1]).abs()
    naive = mean(steps)
    return torch.where(naive > 0, _mae(prediction, target) / naive, math.nan)


def _log_likelihood(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean log-likelihood of a target; targets are scored independently, without their correlations."""
    return -losses.gaussian_nll(prediction, target)


def _class_log_likelihood(logits: Tensor, target: Tensor) -> Tensor:
    """Mean log-likelihood of a target's class: [n, ways], [n, ways] -> []."""
    return -losses.cross_entropy(logits, target)


mse = Metric("mse", losses.mse, larger_is_better=False, unit="y^2")
rmse = Metric("rmse", _rmse, larger_is_better=False, unit="y")
mae = Metric("mae", _mae, larger_is_better=False, unit="y")
mase = Metric("mase", _mase, larger_is_better=False, reads_support=True)
balanced_accuracy = Metric("balanced_accuracy", _balanced_accuracy, larger_is_better=True)
auc = Metric("auc", _auc, larger_is_better=True)
accuracy = Metric("accuracy", _accuracy, larger_is_better=True)
fair_accuracy = Metric("accuracy", _fair_accuracy, larger_is_better=True)
log_likelihood = Metric("log_likelihood", _log_likelihood, larger_is_better=True, unit="nats")
class_log_likelihood = Metric("log_likelihood", _class_log_likelihood, larger_is_better=True, unit="nats")


def coverage(level: float) -> Metric:
    """The fraction of targets in the central interval of probability `level`: `level` if a prediction is calibrated.

    NaN if any mean or standard deviation is.

    Raises:
        ValueError: the level is outside (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"level={level}: must be above 0 and below 1")
    width = NormalDist().inv_cdf((1 + level) / 2)  # half of the interval in standard deviations

    def inside(prediction: Tensor, target: Tensor) -> Tensor:
        center, sd = fitting(prediction, target, 2).chunk(2, -1)
        within = ((target - center).abs() <= width * sd).to(center.dtype)
        return mean(torch.where(center.isnan() | sd.isnan(), math.nan, within))

    return Metric(f"coverage{100 * level:g}", inside, larger_is_better=None)


def in_units(metric: Metric, factor: float) -> Metric:
    """The metric of a target that was divided by its deviation, in the target's own unit: times `factor`."""
    return replace(metric, function=lambda prediction, target: metric(prediction, target) * factor)


def of_mean(metric: Metric) -> Metric:
    """The metric, applied to the mean of a Gaussian prediction."""
    if metric.reads_predictor:
        return replace(metric, function=lambda predict, episode: metric(lambda x: predict(x).chunk(2, -1)[0], episode))
    return replace(metric, function=lambda prediction, target, *more: metric(prediction.chunk(2, -1)[0], target, *more))


def gaussian_metrics(metrics: Mapping[str, Metric]) -> dict[str, Metric]:
    """Metrics of a Gaussian predictor: first the likelihood, then a family's metrics on its mean, and two coverages."""
    means = {name: of_mean(metric) for name, metric in metrics.items()}
    return {"log_likelihood": log_likelihood, **means, "coverage50": coverage(0.5), "coverage90": coverage(0.9)}
