"""What is audited: copies of a learner and its family in float64 on the CPU. The caller's own stay as they are."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from metaexp.algos.base import MODES, MetaLearner
from metaexp.algos.trial import at_test
from metaexp.mapping import map_tasks
from metaexp.models.norms import depends_on_batch
from metaexp.tasks.base import TaskFamily
from metaexp.types import Episode

Predictions = dict[str, Tensor]  # by suffix of the mode and prefix of the variant: [tasks, steps + 1, n, out]


class Subject:
    """Hands out copies, so that no check sees what another has left behind.

    Args:
        learner: a learner, or a function that makes one for a family.
        family: the family; None: the learner's.

    Raises:
        ValueError: the learner's own refusal, or a learner that cannot be copied.
    """

    def __init__(self, learner: MetaLearner | Callable[[TaskFamily], MetaLearner], family: TaskFamily | None = None):
        if not isinstance(learner, MetaLearner):
            if family is None:
                raise ValueError("family: a function that makes the learner needs the family")
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                learner = learner(family)
        self._learner, self._family = learner, family or learner.family
        self.trained = int(self._learner.meta_step.item()) > 0  # type: ignore[operator]
        self.many = 200  # tasks for a mean over tasks; fewer where a task takes long
        self.mapping: str | int | None = None  # the one that is audited; None: not settled yet
        self.refused: str | None = None  # what the learner says against the mapping that was asked for
        self.learner = self.fresh()  # the copy that is looked at; later on it has been trained for a few steps
        self.family = self.learner.family

    @property
    def tasks(self) -> int:
        """Tasks of a small meta-batch: all of one size, if sizes vary."""
        varying = self.family.varying("train")
        return 3 if varying is None else next(n for n in (3, 4, 5, 2, 1) if varying.bucket % n == 0)

    def fresh_family(self) -> TaskFamily:
        """A copy of the family that shares its data."""
        return copy.copy(self._family).to("cpu", torch.float64)

    def fresh(self, family: TaskFamily | None = None) -> MetaLearner:
        """A copy of the learner as it was given, with this family or a copy of its own."""
        family = family or self.fresh_family()
        try:
            made = copy.deepcopy(self._learner, {id(self._learner.family): family, id(self._family): family})
        except Exception as error:
            raise ValueError(f"the learner cannot be copied ({type(error).__name__}: {error})") from error
        made = made.to("cpu", torch.float64)
        made.family = family
        self.place(made)
        return made

    def settle(self) -> None:
        """Decide how tasks are mapped. A mapping that the learner refuses is audited all the same.

        Raises:
            ValueError: the learner fails under any mapping.
        """
        try:
            self.learner.settle()
        except ValueError as error:
            if not str(error).startswith("mapping="):
                raise
            self.refused = str(error)
        self.mapping = self.learner.mapping
        self.place(self.learner)

    def place(self, learner: MetaLearner) -> None:
        """Give a learner the mapping that is audited, once it is settled."""
        if self.mapping is not None:
            learner.set_mapping(self.mapping, "cpu", tried=True)

    def batch(self, first: int = 0) -> Episode:
        """A small training meta-batch as the learner draws it, without info, as in training."""
        with torch.no_grad():
            return self.learner.train_batch(torch.arange(first, first + self.tasks))._replace(info={})

    def episodes(self, split: str = "test") -> Episode:
        """A few tasks of a split, with info."""
        with torch.no_grad():
            index = torch.arange(self.tasks)
            return self.family.sample(split, index, **self.family.common(split, index))

    def claims(self) -> dict[str, str]:
        """Suffix -> mode of those modes in which a prediction is said not to depend on the other queries."""
        modes = self.learner.modes(list(MODES))
        free = not depends_on_batch(self.learner.model)
        return {suffix: mode for suffix, mode in modes.items() if free or mode != "queries"}


def seen(learner: MetaLearner, episode: Episode) -> Episode:
    """The episode as the test shows it to the learner: with info only if the learner says that it reads it."""
    return episode if learner.reads_info else episode._replace(info={})


def predictions(learner: MetaLearner, episode: Episode, modes: dict[str, str] | None = None) -> Predictions:
    """What the learner predicts for the queries of a meta-batch of tasks at test, after 0, 1, ... inner steps.

    Args:
        learner: in evaluation mode meanwhile.
        episode: as the learner sees it.
        modes: suffix -> mode; None: all.
    """
    wanted = learner.modes(list(MODES)) if modes is None else modes

    def one(part: Episode) -> Predictions:
        path = learner.test_path(part)
        found: Predictions = {}
        for suffix, mode in wanted.items():
            read = learner.reader(mode, part.support, part.query.x)
            points = [{name: read(variant) for name, variant in learner.variants(point).items()} for point in path]
            found |= {name + suffix: torch.stack([point[name] for point in points]) for name in points[0]}
        return found

    with torch.no_grad(), at_test(learner):
        made: Any = map_tasks(one, episode, learner.mapping)
    return made
