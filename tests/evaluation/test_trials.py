"""Trials of learners in worlds, and the reward within a task."""

import numpy as np
import pytest
import torch

from metaexp.algos.informed import Informed
from metaexp.algos.random import Random
from metaexp.algos.thompson import Thompson
from metaexp.evaluation.baselines import baselines
from metaexp.evaluation.scores import evaluate
from metaexp.evaluation.trials import few, heuristics, rewards, trials
from metaexp.tasks.bandit import Bandit
from metaexp.tasks.mdp import MDP


def test_the_rewards_are_those_that_are_scored():
    learner = Thompson(Bandit(3, 6).to("cpu", torch.float64))
    scores = evaluate(learner, "test", 50, ["queries"], chunk=7).arrays
    found = [policies[0].reward for _, _, policies in trials(learner, "test", 50)]
    assert np.array_equal(torch.cat(found).sum(1).numpy(), scores["return"][:, 0])
    tasks, ((*played,),) = few(learner, "test", 4)
    assert [float(trial.reward.sum()) for trial in played] == scores["return"][:4, 0].tolist()
    best = [6 * float(task["mean"].max()) for task in tasks]
    assert np.allclose(np.array(best) - scores["return"][:4, 0], scores["regret"][:4, 0])


def test_the_curve_within_a_task():
    """Its sum is the mean return, per step and per episode; half-widths are those of a normal approximation."""
    for world, units in ((Bandit(3, 6), 6), (MDP(4, 2, horizon=3, episodes=5), 5)):
        learner = Random(world.to("cpu", torch.float64))
        (curve,) = rewards(learner, "test", 80)
        assert curve.shape == (2, units)
        returns = evaluate(learner, "test", 80, ["queries"]).arrays["return"][:, 0]
        assert curve[0].sum() == pytest.approx(returns.mean())
        ((_, _, (trial,)),) = trials(learner, "test", 80)
        first = trial.reward.reshape(80, units, -1).sum(-1)[:, 0]
        assert curve[1, 0] == pytest.approx(1.96 * float(first.std()) / np.sqrt(80), rel=0.03)


def test_beside_a_world_stand_its_own_baselines():
    world = Bandit(3, 5)
    found = baselines(world, "test", 30)
    assert list(found) == ["random", "informed"]
    assert np.array_equal(found["random"]["return"], evaluate(Random(world), "test", 30, ["queries"]).arrays["return"])
    alone = evaluate(Informed(world), "test", 30, ["queries"], chunk=4).arrays
    assert np.array_equal(found["informed"]["regret"], alone["regret"])
    assert list(heuristics(world)) == ["random", "thompson", "gittins", "informed"]
    assert list(heuristics(Bandit(3, 5, kind="gaussian"))) == ["random", "thompson", "informed"]
    assert list(heuristics(MDP())) == ["random", "psrl", "informed"]
