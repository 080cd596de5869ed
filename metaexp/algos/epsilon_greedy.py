"""Pulling the arm that looks best, and now and then any arm."""

from typing import Any

import torch
from torch import Tensor

from metaexp.algos.bandit_planner import BanditPlanner, Counts
from metaexp.constraints import Share, checked
from metaexp.random import integers, uniform


class EpsilonGreedy(BanditPlanner):
    """With probability epsilon any arm, otherwise the one with the largest posterior mean. Ties: the first arm.

    Args:
        epsilon: probability of a random pull.
    """

    @checked
    def __init__(
        self, family: Any, model: Any = None, epsilon: Share = 0.1, loss: Any = None, mapping: str | int = "auto"
    ):
        super().__init__(family, model, loss, mapping)
        self.epsilon = epsilon

    def choose(self, counts: Counts, key: Tensor) -> Tensor:
        """The arm, int64 []."""
        explores = uniform(key, 0, (), dtype=counts.pulls.dtype) < self.epsilon
        return torch.where(explores, integers(key, 1, (), self.family.arms), self.mean(counts).argmax())
