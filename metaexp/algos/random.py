"""The baseline in worlds: actions drawn at random."""

from typing import Any

from torch import Tensor, nn

from metaexp.algos.acting import ActingLearner
from metaexp.random import integers, uniform
from metaexp.tasks.world import TimeStep


class Random(ActingLearner):
    """Every action with the same probability; action vectors uniformly from [-1, 1].

    What does not beat it has learned nothing. No network, nothing to meta-train.
    """

    trains = False

    def __init__(self, family: Any, model: Any = None, loss: Any = None, mapping: str | int = "auto"):
        super().__init__(family, nn.Identity(), loss, mapping)

    @staticmethod
    def is_floor_of(family: Any) -> bool:
        """For every world."""
        return bool(getattr(family, "acts", False))

    def act(self, adapted: Any, memory: Any, seen: TimeStep, key: Tensor) -> tuple[Tensor, Any, Any]:
        """A random action."""
        world = self.family
        if world.actions is not None:
            return integers(key, 0, (), world.actions), memory, ()
        return uniform(key, 0, (world.y_dim,), -1.0, 1.0, dtype=world.dtype), memory, ()
