"""Checks that ANY world and any learner that acts must pass, including your own."""

import copy

import numpy as np
import torch
from torch.utils._pytree import tree_leaves, tree_map

from metaexp.algos.acting import TEST, ActingLearner
from metaexp.algos.informed import Informed
from metaexp.algos.random import Random
from metaexp.evaluation.scores import evaluate
from metaexp.evaluation.trials import trials
from metaexp.mapping import map_tasks
from metaexp.random import fold
from metaexp.tasks.playable import check_playable
from metaexp.tasks.world import World


def check_world(world: World, tasks: int = 20) -> None:
    """Check what `metaexp.tasks.world` requires of every world: shapes, pure functions of keys, plans, `best`.

    Raises AssertionError, or ValueError as `metaexp.tasks.playable.check_playable`.
    """
    world.to("cpu", torch.float64)
    check_playable(world, tasks, min(world.horizon, 50))
    index = torch.arange(tasks)
    keys: set[int] = set()
    for split in ("train", "val", "test"):
        episode = world.sample(split, index)
        part = torch.arange(1, tasks, 3).flip(0)
        for a, b in zip(tree_leaves(episode), tree_leaves(world.sample(split, part)), strict=True):
            assert torch.equal(a[part], b), f"{split}: the same task has different values in another batch"
        own = set(episode.key.tolist())
        assert len(own) == tasks, f"{split}: two tasks share a key"
        assert not own & keys, f"{split}: shares a task with another split"
        keys |= own
        other = copy.copy(world)
        other.seed = world.seed + 1
        same = torch.equal(episode.query.y, other.sample(split, index).query.y)
        assert same == (split != "train"), f"{split}: {'does not depend' if same else 'depends'} on the seed"
    for learner in (Random, Informed):
        if learner.is_floor_of(world):
            check_actor(learner(world))
    if world.best is not None and Informed.is_floor_of(world):
        scores = evaluate(Informed(world), "test", 400, ["queries"]).arrays["regret"][:, 0]
        error = scores.std() / np.sqrt(len(scores)) + 1e-9
        assert scores.mean() > -5 * error, "one who knows the task gets more than `best` says is possible"


def check_actor(learner: ActingLearner) -> None:
    """Check what `metaexp.algos.acting` requires: the same trial under vmap, alone and in another batch; actions that
    the world has; no draws from global generators; the test leaves the weights alone.

    Raises AssertionError.
    """
    world = learner.family
    world.to("cpu", torch.float64)
    learner.to(torch.float64)
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    state = torch.get_rng_state()
    ((_, _, policies),) = list(trials(learner, "test", 5))
    assert len(policies) == learner.test_steps + 1, "as many policies as inner steps, and the one before"
    for trial in policies:
        assert trial.reward.shape == trial.alive.shape == (5, world.steps)
        assert trial.reward.isfinite().all(), "a reward is not finite"
        if world.actions is not None:
            assert trial.action.dtype == torch.int64
            assert 0 <= int(trial.action.min()) <= int(trial.action.max()) < world.actions, "an action that is none"
        else:
            assert trial.action.shape == (5, world.steps, world.y_dim)
            assert trial.action.isfinite().all()
        assert bool((trial.reward[~trial.alive] == 0).all()), "rewards after the end of an episode"
    episode = world.sample("test", torch.tensor([3]))
    one = tree_map(lambda t: t[0], episode)
    with torch.no_grad():
        alone = learner.trial(learner.policies(one)[-1], one.info, fold(one.key, TEST))
        mapped = map_tasks(lambda e: learner.trial(learner.policies(e)[-1], e.info, fold(e.key, TEST)), episode, 1)
    for a, b, c in zip(*map(tree_leaves, (alone, mapped, tree_map(lambda t: t[3], policies[-1]))), strict=True):
        torch.testing.assert_close(a, b[0], rtol=1e-9, atol=1e-9, msg=lambda m: f"a trial alone and mapped differ: {m}")
        torch.testing.assert_close(a, c, rtol=1e-9, atol=1e-9, msg=lambda m: f"a trial depends on its batch: {m}")
    scores = [evaluate(learner, "test", 5, ["queries"], chunk=chunk) for chunk in (5, 2)]
    for name, values in scores[0].arrays.items():
        assert values.shape == (5, learner.test_steps + 1)
        assert abs(values - scores[1].arrays[name]).max() < 1e-9, "scores depend on the chunk"
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items()), "testing changed it"
    assert torch.equal(state, torch.get_rng_state()), "draws from torch's global generator: draw from the key"
