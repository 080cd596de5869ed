"""Whether class probabilities can be trusted: the expected calibration error and its reliability diagram.

"On Calibration of Modern Neural Networks", Guo, Pleiss, Sun, Weinberger, 2017, section 2 (after Naeini, Cooper,
Hauskrecht 2015). Queries are pooled over tasks: a single task has too few of them for 15 bins.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

BINS = 15
DRAWS = 1000  # simulated tests
GRID = 41  # sizes of error that are tried for the interval


def bin_sums(logits: Tensor, target: Tensor) -> Tensor:
    """One task's queries by confidence, the largest softmax probability: [n, ways], [n, ways] -> [3, BINS].

    Rows: number of queries, sum of their confidences, number predicted correctly. Bin b of 0 ... BINS - 1 holds
    confidences in (b / BINS, (b + 1) / BINS]. Queries without a finite confidence are in no bin.
    """
    confidence, guess = torch.softmax(logits.to(target.dtype), -1).max(-1)  # [n] each
    place = ((confidence * BINS).ceil() - 1).clamp(max=BINS - 1)
    inside = place.unsqueeze(-1) == torch.arange(BINS, device=logits.device)  # [n, BINS]
    right = (guess == target.argmax(-1)).to(confidence.dtype)
    values = torch.stack((torch.ones_like(confidence), confidence, right))  # [3, n]
    return torch.where(inside, values.unsqueeze(-1), 0.0).sum(1)


def curve(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Share of the queries, mean confidence and accuracy of every bin, [bins] each (NaN in an empty one): [3, bins]."""
    count, confidence, right = sums
    some = np.where(count > 0, count, np.nan)
    return count / max(count.sum(), 1.0), confidence / some, right / some


def error(sums: np.ndarray) -> np.ndarray:
    """Expected calibration error, sum over bins of share |accuracy - confidence|: [..., 3, bins] -> [...]."""
    gap = np.abs(sums[..., 1, :] - sums[..., 2, :]).sum(-1)
    found: np.ndarray = gap / np.maximum(sums[..., 0, :].sum(-1), 1.0)
    return found


def whole(sums: np.ndarray) -> np.ndarray:
    """Which tasks [tasks] have all their queries in the bins; the others had a non-finite prediction."""
    count = sums[:, 0].sum(-1)
    found: np.ndarray = np.isfinite(count) & (count >= count.max(initial=1.0))
    return found


def calibration(sums: np.ndarray, draws: int = DRAWS) -> dict[str, Any]:
    """The error over all tasks and what is known about it: bin sums [tasks, 3, bins] -> an entry of result.json.

    `value` is the published definition, which calls noise an error: it is above 0 even for a model that is never
    wrong about its own chances. Beside it stand `corrected`, the estimate without that part (`corrected_error`);
    `ci95`, the interval of the true error over tasks (`interval`); and `null95`, where `value` lies in 95 % of all
    tests if every answer is right with the probability that the model gave it, drawn from those very probabilities.

    With fewer than two tasks `corrected` and `ci95` are None: nothing is known about their spread.
    """
    kept = sums[whole(sums)]
    counts = {"queries": round(float(kept[:, 0].sum())), "tasks": len(sums), "diverged": len(sums) - len(kept)}
    told = {"value": None, "corrected": None, "ci95": None, "null95": None, **counts, "bins": sums.shape[-1]}
    if not len(kept):
        return told
    told |= {"value": float(error(kept.sum(0))), "null95": null(kept.sum(0), draws)}
    if len(kept) == 1:
        return told
    gap, covariance = _gaps(kept)
    estimate = float(corrected_error(gap, np.sqrt(np.diag(covariance))))
    return told | {"corrected": max(estimate, 0.0), "ci95": interval(gap, covariance, draws)}


def null(total: np.ndarray, draws: int = DRAWS) -> list[float]:
    """Where the plain error of a model that is right as often as it says lies in 95 % of all tests: [3, bins] -> ends.

    Each query of a bin is right with the mean confidence of the bin, independently of the others ("Increasing the
    Reliability of Reliability Diagrams", Bröcker, Smith, 2007, with the confidences that the model gave).
    """
    count, confidence, _ = total
    chance = np.clip(confidence / np.maximum(count, 1.0), 0.0, 1.0)
    right = np.random.default_rng(0).binomial(np.round(count).astype(np.int64), chance, (draws, len(count)))
    drawn = error(np.stack([np.broadcast_to(count, right.shape), np.broadcast_to(confidence, right.shape), right], 1))
    return [float(end) for end in np.quantile(drawn, [0.025, 0.975])]


def _gaps(kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Confidence minus accuracy of every bin as a share of all queries [bins], and its covariance over tasks."""
    queries, tasks = max(float(kept[:, 0].sum()), 1.0), len(kept)
    gaps = (kept[:, 1] - kept[:, 2]) / queries  # [tasks, bins]
    apart = gaps - gaps.mean(0)
    return gaps.sum(0), apart.T @ apart * (tasks / (tasks - 1))


def corrected_error(gap: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """The calibration error without what noise adds to it: gaps and their standard errors [..., bins] -> [...].

    |gap| is too large by up to 0.8 of its standard error s, since noise of either sign adds to it. Split the tasks into
    halves: the gap of one half, with the sign that the other half gives it, is right on average if the true gap is 0.
    The mean over all ways to split, with z = |gap| / s, is

        |gap| (2 Phi(z) - 1) - 2 s phi(z),

    negative where the sign is a guess. It is unbiased for a calibrated model and for gaps well above s, and too low, by
    at most half of s in a bin, between.
    """
    from scipy.special import ndtr

    size = np.abs(gap)
    z = size / np.where(deviation > 0, deviation, 1.0)
    noisy = size * (2 * ndtr(z) - 1) - 2 * deviation * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    found: np.ndarray = np.where(deviation > 0, noisy, size).sum(-1)
    return found


def interval(gap: np.ndarray, covariance: np.ndarray, draws: int = DRAWS) -> list[float]:
    """The 95 % interval of the true error: the sizes of error under which the corrected estimate is no surprise.

    For each size e on a grid the gaps are set to a true error of e with normal noise of this covariance; e belongs to
    the interval if the estimate found lies between the 2.5 % and the 97.5 % quantile of the estimates drawn. How the
    error is spread over the bins matters and is unknown: the interval is the union over three cases, spread like the
    gaps found, in proportion to the noise, and all in the bin with the largest gap. It covers a true error of 0 in
    97.5 % of all cases or more, since only its lower end can miss; docs/statistics.md has the coverage of other true
    errors in simulated tests (tests/evaluation/test_calibration.py), 93 % or more.
    """
    deviation = np.sqrt(np.diag(covariance))
    if not deviation.any():
        return [float(np.abs(gap).sum())] * 2
    values, vectors = np.linalg.eigh(covariance)
    noise = np.random.default_rng(0).standard_normal((draws // 2, len(gap)))
    noise = noise @ (vectors * np.sqrt(np.maximum(values, 0.0))).T
    noise = np.concatenate([noise, -noise])  # [draws, bins]
    sizes = np.linspace(0.0, float(np.abs(gap).sum() + 3 * deviation.sum()), GRID)
    sign, largest = np.where(gap < 0, -1.0, 1.0), np.zeros_like(gap)
    largest[np.abs(gap).argmax()] = 1.0
    found, ends = float(corrected_error(gap, deviation)), []
    for spread in (np.abs(gap), deviation, largest):
        if not spread.any():
            continue
        true = sizes[:, None, None] * (sign * spread / spread.sum())
        low, high = np.quantile(corrected_error(true + noise, deviation), [0.025, 0.975], axis=1)  # [sizes] each
        ends.append([float(np.interp(found, np.maximum.accumulate(end), sizes)) for end in (high, low)])
    return [min(low for low, _ in ends), min(max(high for _, high in ends), 1.0)]
