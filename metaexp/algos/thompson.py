"""Sampling from the posterior."""

import torch
from torch import Tensor

from metaexp.algos.bandit_planner import BanditPlanner, Counts
from metaexp.random import normal, uniform


class Thompson(BanditPlanner):
    """The arm that is best for means drawn from the posterior: each arm with the probability that it is the best one.

    "On the Likelihood that One Unknown Probability Exceeds Another in View of the Evidence of Two Samples", Thompson,
    1933. The prior is that from which the tasks are drawn.
    """

    def choose(self, counts: Counts, key: Tensor) -> Tensor:
        """The arm, int64 []."""
        if self.family.kind == "bernoulli":
            return self._coins(counts, key).argmax()
        mean, deviation = self.posterior(counts)
        return (mean + deviation * normal(key, 0, mean.shape, dtype=mean.dtype)).argmax()

    def _coins(self, counts: Counts, key: Tensor) -> Tensor:
        """[arms] from Beta(a, b): a Gamma number with a whole parameter is a sum of so many exponential ones.

        All sums of an arm are cut from one sequence of exponential numbers, as long as the largest counts there can be.
        """
        world = self.family
        a, b = world.prior[0] + counts.total, world.prior[1] + counts.pulls - counts.total
        ends = torch.stack([a, b], -1).flatten().cumsum(0).round().long()  # [2 arms]
        n = world.steps + world.arms * sum(world.prior)
        sums = -torch.log1p(-uniform(key, 0, (n,), dtype=torch.float32)).to(torch.float64).cumsum(0)
        upto = sums.gather(0, ends - 1)
        gamma = torch.cat([upto[:1], upto[1:] - upto[:-1]]).view(-1, 2)
        return gamma[:, 0] / gamma.sum(-1)
