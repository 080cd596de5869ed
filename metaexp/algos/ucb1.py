"""Upper confidence bounds."""

from typing import Any, Literal

import torch
from torch import Tensor

from metaexp.algos.bandit_planner import BanditPlanner, Counts
from metaexp.constraints import NonNegative, checked


class UCB1(BanditPlanner):
    """The arm with the largest mean reward + sqrt(c ln t / pulls), t pulls having been made. Ties: the first arm.

    "Finite-time Analysis of the Multiarmed Bandit Problem", Auer, Cesa-Bianchi, Fischer, 2002, figure 1: c = 2, and
    every arm is pulled once first. With `start: prior` an arm begins instead with the pulls that its prior is worth
    (a + b of them, of which a paid; for Gaussian arms noise^2 / s^2, with mean m), which also count in t: then no pull
    has to be spent on an arm, which matters where there are more arms than pulls.

    Args:
        c: how much uncertainty counts.
        start: once (published) | prior.
    """

    @checked
    def __init__(
        self,
        family: Any,
        model: Any = None,
        c: NonNegative = 2.0,
        start: Literal["once", "prior"] = "once",
        loss: Any = None,
        mapping: str | int = "auto",
    ):
        super().__init__(family, model, loss, mapping)
        self.c, self.start = c, start
        world = self.family
        if world.kind == "bernoulli":
            self._worth, self._mean = float(sum(world.prior)), world.prior[0] / sum(world.prior)
        else:
            self._worth, self._mean = world.noise**2 / max(world.means[1], 1e-6) ** 2, world.means[0]

    def choose(self, counts: Counts, key: Tensor) -> Tensor:
        """The arm, int64 []."""
        if self.start == "prior":
            pulls = counts.pulls + self._worth
            mean = (counts.total + self._worth * self._mean) / pulls
            return (mean + torch.sqrt(self.c * torch.log(pulls.sum()).clamp(min=0) / pulls)).argmax()
        pulls = counts.pulls.clamp(min=1)
        bound = counts.total / pulls + torch.sqrt(self.c * torch.log(counts.t.clamp(min=1).to(pulls.dtype)) / pulls)
        return torch.where(counts.pulls == 0, torch.full_like(bound, torch.inf), bound).argmax()
