"""The learning curve inside a task, for the result of a learner in a world."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from metaexp.evaluation.trials import heuristics, rewards

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 1000  # tasks whose mean is drawn


class Within:
    """Reward by step (or episode) within test tasks: the learner before and after, and what needs no training beside.

    Args:
        learner: with the tested weights.
        tasks: number of test tasks.
        tick: called with the number of tasks done; may raise to stop.
    """

    def __init__(self, learner: Any, tasks: int, tick: Callable[[int], None]):
        self.learner, self.tasks, self.tick = learner, min(tasks, MOST), tick
        policies = self._rewards(learner)
        self.own = {"after meta-training" if learner.trains else type(learner).__name__: policies[-1]}
        if len(policies) > 1:
            self.own["before adaptation"] = policies[0]
        self.beside = {name: self._rewards(one)[-1] for name, one in heuristics(learner.family).items()}

    def before(self) -> None:
        """Add the learner as it is now: with its weights before training."""
        self.own["before meta-training"] = self._rewards(self.learner)[-1]

    def arrays(self) -> dict[str, np.ndarray]:
        """For test_scores.npz: mean and half-width of each curve, [2, units]."""
        return {f"within_{name.replace(' ', '_')}": values for name, values in {**self.own, **self.beside}.items()}

    def picture(self, title: str) -> "Figure":
        """All curves."""
        from metaexp.plots.trials import within_picture  # matplotlib takes half a second to import

        unit = "episode" if self.learner.family.episodes > 1 else "step"
        return within_picture(self.own, self.beside, unit, title)

    def _rewards(self, learner: Any) -> list[np.ndarray]:
        return rewards(learner, "test", self.tasks, self.tick)
