"""What planners of bandits share: counts of pulls and rewards, and the posterior of each arm."""

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from metaexp.algos.acting import ActingLearner
from metaexp.tasks.bandit import Bandit
from metaexp.tasks.world import TimeStep


class Counts(NamedTuple):
    """What was seen in the trial of ONE task."""

    pulls: Tensor  # [arms] how often each arm was pulled
    total: Tensor  # [arms] sum of its rewards
    t: Tensor  # int64 [] pulls so far


class BanditPlanner(ActingLearner):
    """A rule that chooses an arm from the counts so far; it knows the prior of the arms, and is not trained.

    A planner writes `choose`. Of arms that it holds to be equally good it takes the first; arms are alike before they
    are pulled, so that its expected return does not depend on that.

    Raises:
        ValueError: a world that is no bandit, or a bandit of another kind.
    """

    trains = False
    kinds: ClassVar[tuple[str, ...]] = ("bernoulli", "gaussian")
    family: Bandit

    def __init__(self, family: Any, model: Any = None, loss: Any = None, mapping: str | int = "auto"):
        if not isinstance(family, Bandit):
            raise ValueError(f"family: {type(self).__name__} chooses arms of bandits; use task=bandit, or algo=random")
        if family.kind not in self.kinds:
            raise ValueError(
                f"family: {type(self).__name__} is for task.kind={self.kinds[0]}; take algo=thompson or algo=ucb1"
            )
        super().__init__(family, nn.Identity(), loss, mapping)

    @classmethod
    def is_floor_of(cls, family: Any) -> bool:
        """Whether it can play here."""
        return isinstance(family, Bandit) and family.kind in cls.kinds

    def begin(self, adapted: Any) -> Counts:
        """Nothing seen."""
        world = self.family
        zeros = torch.zeros(world.arms, dtype=world.dtype, device=world.device)
        return Counts(zeros, zeros, torch.zeros((), dtype=torch.int64, device=world.device))

    def act(self, adapted: Any, memory: Counts, seen: TimeStep, key: Tensor) -> tuple[Tensor, Counts, Any]:
        """Count the last pull, then `choose`."""
        arms = torch.arange(self.family.arms, device=self.family.device)
        pulled = ((arms == seen.action) & (memory.t > 0)).to(memory.pulls.dtype)
        counts = Counts(memory.pulls + pulled, memory.total + pulled * seen.reward, memory.t)
        return self.choose(counts, key), counts._replace(t=counts.t + 1), ()

    def choose(self, counts: Counts, key: Tensor) -> Tensor:
        """The arm to pull next, int64 []."""
        raise NotImplementedError

    def mean(self, counts: Counts) -> Tensor:
        """[arms] posterior means."""
        return self.posterior(counts)[0]

    def posterior(self, counts: Counts) -> tuple[Tensor, Tensor]:
        """[arms] each: mean and standard deviation of the posterior of an arm's mean."""
        world = self.family
        if world.kind == "bernoulli":
            a, b = world.prior[0] + counts.total, world.prior[1] + counts.pulls - counts.total
            mean = a / (a + b)
            return mean, torch.sqrt(mean * (1 - mean) / (a + b + 1))
        centre, deviation = world.means
        if deviation == 0:
            return torch.full_like(counts.total, centre), torch.zeros_like(counts.total)
        precision = deviation**-2 + counts.pulls * world.noise**-2
        return (centre * deviation**-2 + counts.total * world.noise**-2) / precision, torch.rsqrt(precision)
