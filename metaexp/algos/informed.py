"""The upper bound in worlds: one who knows the task."""

from typing import Any

import torch
from torch import Tensor, nn

from metaexp.algos.acting import ActingLearner
from metaexp.tasks.world import TimeStep
from metaexp.types import Episode


class Informed(ActingLearner):
    """Acts as the world says that one acts who knows the hidden parameters of the task (`World.plan`, `informed`).

    What it gets is what knowledge of the task is worth; no learner can get more on average where the world's planner is
    optimal, as in bandits and tabular MDPs. No network, nothing to meta-train.

    Raises:
        ValueError: a world that knows no planner.
    """

    trains = False

    def __init__(self, family: Any, model: Any = None, loss: Any = None, mapping: str | int = "auto"):
        if not self.is_floor_of(family):
            raise ValueError(f"family: nobody knows how to act best in {type(family).__name__}; use algo=random")
        super().__init__(family, nn.Identity(), loss, mapping)

    @staticmethod
    def is_floor_of(family: Any) -> bool:
        """Whether the world has a planner that knows the task."""
        return getattr(family, "informed", None) is not None

    def policies(self, episode: Episode) -> list[Any]:
        """The task with the plan for it."""
        plan = self.family.plan
        return [(episode.info, (), ())] if plan is None else [(episode.info, *plan(episode.info))]

    def begin(self, adapted: Any) -> Any:
        """The planner's memory, and the step within the episode."""
        return adapted[2], torch.zeros((), dtype=torch.int64, device=self.family.device)

    def act(self, adapted: Any, memory: Any, seen: TimeStep, key: Tensor) -> tuple[Tensor, Any, Any]:
        """What the world's planner does."""
        assert self.family.informed is not None
        kept, t = memory
        t = torch.where(seen.first, torch.zeros_like(t), t)
        action, kept = self.family.informed(adapted[0], adapted[1], kept, seen, t)
        return action, (kept, t + 1), ()
