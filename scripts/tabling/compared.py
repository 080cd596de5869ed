"""From predictions to numbers: scores of each task, intervals, and the difference to the best baseline."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from metaexp.evaluation.intervals import t_quantile
from tabling.measures import balanced_accuracy
from tabling.studies import Measure
from tabling.table import Numbers
from tabling.trials import Trial


def threshold(numbers: Numbers, trials: Sequence[Trial], made: Sequence[np.ndarray]) -> float:
    """The threshold with the best mean balanced accuracy over the validation trials, among 99 quantiles."""
    options = np.unique(np.quantile(np.concatenate(made), np.linspace(0.01, 0.99, 99)))
    y = [numbers.y[trial.query] for trial in trials]
    values = [np.nanmean([balanced_accuracy(a, b, cut) for a, b in zip(y, made, strict=True)]) for cut in options]
    return float(options[int(np.argmax(values))])


def by_task(
    numbers: Numbers, trials: Sequence[Trial], made: Sequence[np.ndarray], measure: Measure, cut: float | None
) -> dict[str, float]:
    """Task -> the mean of the measure over its trials."""
    found: dict[str, list[float]] = {}
    for trial, p in zip(trials, made, strict=True):
        y = numbers.y[trial.query]
        value = balanced_accuracy(y, p, cut) if cut is not None else measure.score(numbers.y[trial.support], y, p)
        found.setdefault(trial.task, []).append(value)
    return {task: float(np.mean(values)) for task, values in found.items()}


def interval(values: np.ndarray) -> tuple[float, float | None]:
    """Mean of [n] and the half-width t s / sqrt(n) of its 95 % interval, t with n - 1 degrees of freedom."""
    n = len(values)
    half = t_quantile(n - 1) * float(values.std(ddof=1)) / np.sqrt(n) if n > 1 else None
    return float(values.mean()), half


def rows(
    scores: dict[str, np.ndarray], baselines: Sequence[str], larger: bool, against: Sequence[str] = ()
) -> dict[str, Any]:
    """Name -> mean, half-width, and by how much it is better than the best baseline (and than each of `against`).

    Args:
        scores: name -> [seeds, tasks]; seeds are averaged task by task, and the intervals are over tasks.
        baselines: the names that are baselines; the best has the best mean over the same tasks.
    """
    sign = 1.0 if larger else -1.0
    mean = {name: values.mean(0) for name, values in scores.items()}
    best = max(baselines, key=lambda name: sign * mean[name].mean())
    found: dict[str, Any] = {}
    for name, values in mean.items():
        level, half = interval(values)
        row: dict[str, Any] = {"mean": level, "half": half, "tasks": len(values), "seeds": len(scores[name])}
        row["seed_means"] = [float(one.mean()) for one in scores[name]]
        row["baseline"] = name in baselines
        row["better"] = {
            other: list(interval(sign * (values - mean[other])))
            for other in dict.fromkeys([best, *against])
            if other in mean and other != name
        }
        found[name] = row
    return {"best_baseline": best, "rows": found}
