"""Whether class probabilities can be trusted: the expected calibration error and its reliability diagram.

"On Calibration of Modern Neural Networks", Guo, Pleiss, Sun, Weinberger, 2017, section 2 (after Naeini, Cooper,
Hauskrecht 2015). Queries are pooled over tasks: a single task has too few of them for 15 bins.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

BINS = 15
DRAWS = 1000  # bootstrap draws


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
    """The error over all tasks, with a 95 % interval over tasks: bin sums [tasks, 3, bins] -> an entry of result.json.

    The interval is a bootstrap over tasks drawn with replacement. The absolute value makes noise look like error, and
    does so twice in the bootstrap draws but once in the error e itself, so the draws' quantiles q are too high for
    small e. Each end is therefore the outer one of the percentile and the basic form, q and 2 e - q, clipped to 0 and
    1: in a simulation of 200 tasks it covered true errors of 0, 0.02 and 0.15 in 91, 96 and 94 % of all cases.
    """
    kept = sums[whole(sums)]
    counts = {"queries": round(float(kept[:, 0].sum())), "tasks": len(sums), "diverged": len(sums) - len(kept)}
    if not len(kept):
        return {"value": None, "ci95": None, **counts, "bins": sums.shape[-1]}
    value = float(error(kept.sum(0)))
    weight = np.random.default_rng(0).multinomial(len(kept), np.full(len(kept), 1 / len(kept)), size=draws)
    drawn = error(np.tensordot(weight.astype(np.float64), kept, 1))  # [draws]
    low, high = np.quantile(drawn, [0.025, 0.975])
    ends = np.clip([min(low, 2 * value - high), max(high, 2 * value - low)], 0.0, 1.0)
    return {"value": value, "ci95": ends.tolist(), **counts, "bins": sums.shape[-1]}
