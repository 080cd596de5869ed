"""What learners share that make trials in a meta-batch of tasks and then several updates from them."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from metaexp.algos.acting import ADAPT, ActingLearner
from metaexp.mapping import map_tasks, mean_gradient
from metaexp.models.functional import functional_call
from metaexp.random import fold
from metaexp.tasks.world import Trajectory
from metaexp.types import Episode


class RolloutLearner(ActingLearner):
    """A learner trained by `metaexp.outer.rollout_step`: `collect`, then `epochs` of `minibatches` of tasks.

    A method writes `act`, `begin`, `collect` and `update_loss`; `update_gradient`, if it has a faster way to the same
    numbers.
    """

    compiles = True  # one step of the trials and one update
    exact_gradient = False  # the trials depend on the parameters, the update does not look at that
    epochs: int
    minibatches: int

    def played(self, episode: Episode) -> Trajectory:
        """One trial in every task of a meta-batch, [tasks, steps, ...]."""

        def one(task: Episode) -> Trajectory:
            return self.trial(None, self.family.draw(task.key), fold(task.key, ADAPT))

        made: Trajectory = map_tasks(one, episode, self.mapping)
        return made

    @abstractmethod
    def collect(
        self, episode: Episode, play: Callable[[Episode], Trajectory] | None = None
    ) -> tuple[Any, dict[str, Tensor]]:
        """Trials of a whole meta-batch, without gradient, and what is needed to learn from them.

        Args:
            play: another way to the numbers of `played`.

        Returns:
            (a tree with a field `key`, int64 [tasks], all of whose leaves are [tasks, ...]; logs, [] each)
        """

    @abstractmethod
    def update_loss(self, trial: Any) -> tuple[Tensor, dict[str, Any]]:
        """Loss [] and logs of one update from the trial of ONE task, one row of what `collect` returned."""

    def update_gradient(
        self, params: dict[str, Tensor], trials: Any, buffers: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], Tensor, Any]:
        """(gradient by name, loss [], logs): means of `update_loss` over the tasks of a minibatch."""
        shell = _UpdateLoss(self)

        def one(p: dict[str, Tensor], trial: Any) -> tuple[Tensor, Any]:
            return functional_call(shell, {f"learner.{n}": value for n, value in (buffers | p).items()}, (trial,))

        return mean_gradient(one, params, trials, self.mapping)

    def meta_loss(self, episode: Episode) -> tuple[Tensor, dict[str, Any]]:
        """The loss of the first update of ONE task alone."""
        with torch.no_grad():
            trials, _ = self.collect(tree_map(lambda t: t[None], episode))
        return self.update_loss(tree_map(lambda t: t[0], trials))


class _UpdateLoss(torch.nn.Module):
    # functional_call calls forward; this makes forward the loss of one update of ONE task.
    def __init__(self, learner: RolloutLearner):
        super().__init__()
        self.learner = learner

    def forward(self, trial: Any) -> tuple[Tensor, Any]:
        return self.learner.update_loss(trial)
