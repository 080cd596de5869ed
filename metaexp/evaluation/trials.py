"""Trials of learners in worlds: whole ones of a few tasks, and rewards by step, over many tasks."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from metaexp.algos.acting import TEST
from metaexp.algos.gittins import Gittins
from metaexp.algos.informed import Informed
from metaexp.algos.psrl import PSRL
from metaexp.algos.random import Random
from metaexp.algos.thompson import Thompson
from metaexp.algos.trial import at_test
from metaexp.evaluation.intervals import over_tasks
from metaexp.evaluation.scores import chunk_size, chunks
from metaexp.mapping import map_tasks
from metaexp.random import fold
from metaexp.tasks.world import Task, Trajectory
from metaexp.types import Episode

MOST_INDICES = 100  # pulls up to which Gittins indices take a second


def trials(learner: Any, split: str, tasks: int) -> Iterator[tuple[Tensor, Task, list[Trajectory]]]:
    """The trials that are scored, chunk by chunk: indices, hidden parameters, and the trial of each of the policies.

    The policies are those after 0, 1, ... inner steps. Everything has [tasks] in front and is on the CPU.
    """

    def one(episode: Episode) -> list[Trajectory]:
        key = fold(episode.key, TEST)
        return [learner.trial(adapted, episode.info, key) for adapted in learner.policies(episode)]

    learner.settle()
    for indices in chunks(learner.family, split, tasks, chunk_size(learner)):
        with torch.no_grad(), at_test(learner):
            episode = learner.family.sample(split, indices)
            found = map_tasks(one, episode, learner.mapping)
        yield tree_map(lambda t: t.cpu(), (indices, episode.info, found))


def heuristics(world: Any) -> dict[str, Any]:
    """What needs no training in a world: random actions, planners that know the prior, and one who knows the task."""
    found: dict[str, Any] = {"random": Random(world)}
    if Thompson.is_floor_of(world):
        found["thompson"] = Thompson(world)
    if Gittins.is_floor_of(world) and world.steps <= MOST_INDICES:
        found["gittins"] = Gittins(world)
    if PSRL.is_floor_of(world):
        found["psrl"] = PSRL(world)
    if Informed.is_floor_of(world):
        found["informed"] = Informed(world)
    return found


def few(learner: Any, split: str, tasks: int) -> tuple[list[Task], list[list[Trajectory]]]:
    """The first tasks of a split one by one, and the trials of each policy in each of them."""
    parts = list(trials(learner, split, tasks))
    alone: list[Task] = []
    played: list[list[Trajectory]] = [[] for _ in parts[0][2]]
    for indices, info, policies in parts:
        for place in range(len(indices)):
            alone.append({name: value[place] for name, value in info.items()})
            for kept, policy in zip(played, policies, strict=True):
                kept.append(tree_map(lambda t, place=place: t[place], policy))
    return alone, played


def rewards(learner: Any, split: str, tasks: int, tick: Callable[[int], None] = lambda done: None) -> list[np.ndarray]:
    """How the reward grows within a task: of each policy, mean over tasks and half-width of its interval, [2, units].

    A unit is a step of the trial; if it has several episodes, one of them, with the sum of its rewards.
    """
    world, found = learner.family, []
    shape = (-1, world.episodes, world.horizon) if world.episodes > 1 else (-1, world.steps, 1)
    for indices, _, policies in trials(learner, split, tasks):
        found.append([policy.reward.double().reshape(shape).sum(-1).numpy() for policy in policies])
        tick(len(indices) * len(found))
    made = []
    for policy in zip(*found, strict=True):
        values = np.concatenate(policy)  # [tasks, units]
        intervals = [over_tasks(column[np.isfinite(column)]) for column in values.T]
        made.append(np.array([[i.mean for i in intervals], [i.half for i in intervals]], dtype=np.float64))
    return made
