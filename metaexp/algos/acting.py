"""What learners that act in worlds share: a method writes `begin` and `act` for ONE task, the rest is here."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from metaexp.algos.base import MetaLearner
from metaexp.random import fold
from metaexp.tasks.world import TimeStep, Trajectory, World, play
from metaexp.types import Episode, Examples

MOST = 2**23  # numbers in the trials that are played at once
TEST, ADAPT = 11, 12  # folded into a task's key: the trial that is scored, and those that are learned from before it


class Placed(NamedTuple):
    """An adapted policy and the task that it is tested in."""

    adapted: Any
    episode: Episode  # of ONE task


class ActingLearner(MetaLearner):
    """A learner in worlds: it sees, acts, and remembers.

    A method

    - must write: `act`; and `begin`, if it remembers anything.
    - may write: `policies` (the adapted policies after 0, 1, ... inner steps), `meta_loss` (an outer loss), or
      `collect` and `update_loss` (several updates for each batch of trials, made by a third outer step).

    `predict` has no place here; a prediction is the rewards of one trial, [steps, 1].
    """

    acts = True
    reads_info = True
    compiles = False  # a trial is a long graph
    family: World

    @property
    def chunk(self) -> int:  # type: ignore[override]
        """Trials played at once: many, as each of their steps is small; fewer where all of their steps take memory."""
        numbers = self.family.steps * (math.prod(self.family.x_shape) + self.family.y_dim + 8)
        return max(10, min(1000, MOST // numbers))

    def begin(self, adapted: Any) -> Any:
        """The memory before the first step of a trial: a tree of tensors."""
        return ()

    def act(self, adapted: Any, memory: Any, seen: TimeStep, key: Tensor) -> tuple[Tensor, Any, Any]:
        """ONE step of ONE task: (action, memory, more); more: a tree for `update_loss`, () at least."""
        raise NotImplementedError

    def policies(self, episode: Episode) -> list[Any]:
        """The adapted policies of ONE task after 0, 1, ..., test_steps inner steps; one if there are none."""
        return [None]

    def trial(self, adapted: Any, task: dict[str, Tensor], key: Tensor, episodes: int | None = None) -> Trajectory:
        """One trial of ONE task with an adapted policy."""
        return play(
            self.family,
            task,
            key,
            lambda memory, seen, k: self.act(adapted, memory, seen, k),
            self.begin(adapted),
            episodes,
        )

    def test_path(self, episode: Episode) -> list[Placed]:
        """The policies with the task they are tested in."""
        return [Placed(adapted, episode) for adapted in self.policies(episode)]

    def reader(self, mode: str, support: Examples, x: Tensor) -> Callable[[Placed], Tensor]:
        """placed policy -> the rewards of its trial, [steps, 1]."""
        return lambda placed: self.trial(placed.adapted, placed.episode.info, fold(placed.episode.key, TEST)).reward[
            :, None
        ]

    def variants(self, adapted: Placed) -> dict[str, Any]:
        """The method itself."""
        return {"": adapted}

    def adapt(self, support: Examples, key: Tensor) -> Any:
        """Refused: what is learned in a world comes from acting in it."""
        raise ValueError(f"{type(self).__name__} learns by acting in a world, it cannot adapt to examples")
