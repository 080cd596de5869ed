"""A baseline in worlds: one who takes every task for the average one."""

from typing import Any

from torch import Tensor, nn

from metaexp.algos.acting import ActingLearner
from metaexp.algos.informed import Informed
from metaexp.tasks.world import TimeStep
from metaexp.types import Episode


class Nominal(ActingLearner):
    """Acts as `informed` would in a task with the parameters in the middle of their ranges (`World.nominal`).

    What `informed` gets more is what it is worth to know the task, and at most what can be gained by finding it out. No
    network, nothing to meta-train.

    Raises:
        ValueError: a world that has no nominal task.
    """

    trains = False

    def __init__(self, family: Any, model: Any = None, loss: Any = None, mapping: str | int = "auto"):
        if not self.is_floor_of(family):
            raise ValueError(f"family: {type(family).__name__} has no nominal task; use algo=random")
        super().__init__(family, nn.Identity(), loss, mapping)
        self.planner = Informed(family)

    @staticmethod
    def is_floor_of(family: Any) -> bool:
        """Whether the world has a planner and a nominal task."""
        return getattr(family, "nominal", None) is not None and Informed.is_floor_of(family)

    def policies(self, episode: Episode) -> list[Any]:
        """The nominal task with the plan for it."""
        nominal = self.family.nominal
        assert nominal is not None
        return self.planner.policies(episode._replace(info=nominal(episode.info)))

    def begin(self, adapted: Any) -> Any:
        """The planner's memory."""
        return self.planner.begin(adapted)

    def act(self, adapted: Any, memory: Any, seen: TimeStep, key: Tensor) -> tuple[Tensor, Any, Any]:
        """What the planner does in the nominal task."""
        return self.planner.act(adapted, memory, seen, key)
