"""Gittins indices of coins with a finite number of pulls."""

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metaexp.algos.bandit_planner import BanditPlanner, Counts
from metaexp.constraints import checked

RATES, CELLS = 256, 2**26  # guaranteed rewards of the calibration; numbers that fit into the memory of the table


class Gittins(BanditPlanner):
    """The arm with the largest index for the pulls that are left. Ties: the first arm.

    The index of an arm with m pulls left is the guaranteed reward per pull for which one would as soon give the arm up:
    the largest rate r with max over stopping times tau <= m of E[sum of (reward - r)] >= 0 ("Bandit Processes and
    Dynamic Allocation Indices", Gittins, 1979, whose index is that of discounted rewards without an end; with an end
    as in "Computing a Classic Index for Finite-Horizon Bandits", Nino-Mora, 2011). Discounted, the rule is optimal;
    with an end it is only near. Found by dynamic programming over the counts for 256 rates at once (calibration), and
    linear interpolation between them. For coins (`task.kind=bernoulli`).

    Raises:
        ValueError: arms that are no coins, or more than 580 pulls, whose table does not fit.
    """

    kinds = ("bernoulli",)

    @checked
    def __init__(self, family: Any, model: Any = None, loss: Any = None, mapping: str | int = "auto"):
        super().__init__(family, model, loss, mapping)
        n = self.family.steps
        if n * (n + 1) * (2 * n + 1) // 6 > CELLS:
            raise ValueError(f"family: a table of indices for task.pulls={n} takes too much; use algo=thompson or ucb1")
        self._table = torch.from_numpy(indices(n, *self.family.prior))

    def choose(self, counts: Counts, key: Tensor) -> Tensor:
        """The arm, int64 []."""
        self._table = self._table.to(counts.t.device)
        t, pulls, paid = counts.t, counts.pulls.long(), counts.total.round().long()
        start = t * (t + 1) * (2 * t + 1) // 6  # the sizes 1, 4, 9, ..., of t = 0, 1, 2, ... added up
        return self._table[start + paid * (t + 1) + (pulls - paid)].argmax()


@lru_cache(maxsize=2)
def indices(pulls: int, a: int = 1, b: int = 1, rates: int = RATES) -> np.ndarray:
    """The indices of coins with a prior Beta(a, b) in trials of so many pulls.

    Returns:
        float32 [1 + 4 + 9 + ... + pulls^2]: for t = 0, 1, ..., pulls - 1 pulls done, a square of t + 1 rows, the number
        of times that the arm paid, and columns, that it did not.
    """
    table = np.zeros(pulls * (pulls + 1) * (2 * pulls + 1) // 6, np.float32)
    rate = np.linspace(0, 1, rates, dtype=np.float32)
    value = np.zeros((pulls + 1, pulls + 1, rates), np.float32)  # of going on or stopping, with m pulls left
    for left in range(1, pulls + 1):
        t = pulls - left
        place = t * (t + 1) * (2 * t + 1) // 6
        square = table[place : place + (t + 1) ** 2].reshape(t + 1, t + 1)
        for paid in range(t + 1):
            n = t + 1 - paid  # losses 0, ..., t - paid
            p = ((a + paid) / (a + b + paid + np.arange(n, dtype=np.float32)))[:, None]
            on = (
                p - rate + p * value[paid + 1, :n] + (1 - p) * value[paid, 1 : n + 1]
            )  # [n, rates], falls with the rate
            last = np.minimum((on >= 0).sum(1) - 1, rates - 2)  # the last rate at which one goes on
            high, low = on[np.arange(n), last], on[np.arange(n), last + 1]
            square[paid, :n] = rate[last] + high / (high - low) * (rate[1] - rate[0])
            value[paid, :n] = np.maximum(on, 0)
    return table
