"""Pulling the arm that looks best."""

from torch import Tensor

from metaexp.algos.bandit_planner import BanditPlanner, Counts


class Greedy(BanditPlanner):
    """The arm with the largest posterior mean; it never explores on purpose. Ties: the first arm.

    Before anything is known all arms have the prior's mean, so the first arm is pulled until its mean falls below that.
    """

    def choose(self, counts: Counts, key: Tensor) -> Tensor:
        """The arm, int64 []."""
        return self.mean(counts).argmax()
