"""Dynamics: the contract of families, upper bounds, rollouts."""

import numpy as np
import pytest
import torch
from task_samples import double, oracle
from torch.func import vmap

from metaexp.algos.cnp import CNP
from metaexp.algos.oracle import Oracle
from metaexp.contract import check_family
from metaexp.evaluation.scores import evaluate
from metaexp.models.mlp import MLP
from metaexp.tasks.dynamics import Dynamics
from metaexp.training.figures import draw_episodes

SYSTEMS = ("pendulum", "bicycle", "arm")


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_contract(system):
    check_family(Dynamics(7, 5, system=system, length=3))
    check_family(Dynamics(3, 3, system=system, noise=0.1))


@pytest.mark.parametrize("system", SYSTEMS)
def test_examples_are_the_steps_of_trajectories(system):
    family = double(Dynamics(20, 10, system=system))
    episode = family.sample("train", torch.arange(500))
    assert 0.2 < float(episode.query.y.square().mean()) < 4  # of order one
    assert float(episode.query.x.abs().mean()) > 0.2
    system = family.system
    x, y = episode.support
    state, action = system.state_of(x)
    each = {name: value[:, None] for name, value in episode.info.items()}
    assert (system.change(state, system.step(each, state, action)) - y).abs().max() < 1e-10
    after = system.inputs(system.moved(state, action, y), action)  # all but the action are the next step's inputs
    within = [t for t in range(19) if t != 9]
    wide = slice(0, 5) if system.past else slice(0, -len(system.action_names))
    assert (after[:, within, wide] - x[:, [t + 1 for t in within], wide]).abs().max() < 1e-10
    assert (after[:, 9, wide] - x[:, 10, wide]).abs().max() > 0.1
    pooled = family.pool("train", torch.arange(300), 8)
    assert abs(float(pooled.y.square().mean() / episode.query.y.square().mean()) - 1) < 0.25


def test_upper_bounds():
    """Exact for 20 shots; for noisy pendulums better than the prior and worse than the truth."""
    for system in SYSTEMS:
        family = double(Dynamics(20, 30, system=system))
        episode = family.sample("test", torch.arange(200))
        assert (oracle(family, episode) - episode.query.y).abs().max() < 1e-8
        noisy = double(Dynamics(20, 30, system=system, noise=0.1))
        episode = noisy.sample("test", torch.arange(400))
        error = float((oracle(noisy, episode) - episode.query.y).square().mean())
        if system == "pendulum":  # 3 coefficients from 20 changes of the speed, half of the targets
            assert 0.01 < error < 0.01 * (1 + 3 / 20)
        else:
            assert abs(error - 0.01) < 4 * 0.01 * np.sqrt(2 / episode.query.y.numel())


def test_rollouts_of_the_truth_and_of_standing_still():
    for system in SYSTEMS:
        family = double(Dynamics(system=system))
        episode = family.sample("test", torch.arange(20))
        error = family.metrics["rollout50"]
        assert (error.larger_is_better, error.unit) == (False, family.system.place_unit)
        true = vmap(lambda e, error=error, family=family: error(lambda x: family.truth(e.info, x), e))(episode)
        assert true.max() < 1e-6
        still = vmap(lambda e, error=error, family=family: error(lambda x: x[:, :1] * torch.zeros(family.y_dim), e))
        states = vmap(lambda key, family=family: family.course(key, 50)[0])(episode.key)
        task = {name: value[:, None] for name, value in episode.info.items()}
        places = family.system.place(task, states)
        expected = (places[:, -1] - places[:, 0]).norm(dim=-1)
        assert (still(episode) - expected).abs().max() < 1e-9


def test_rollouts_are_scored_after_each_step_and_of_means():
    """A Gaussian predictor's rollout is that of its means; the oracle has both metrics; chunks do not matter."""
    family = double(Dynamics(8, 6))
    scores = evaluate(Oracle(family), "test", 6, ["queries"])
    assert set(scores.arrays) == {"mse", "rollout10", "rollout50"}
    assert scores.arrays["rollout50"].max() < 1e-7
    torch.manual_seed(0)
    learner = CNP(family, lambda x_shape, out: MLP(x_shape, out, hidden=[8]), width=8).double()
    scores = evaluate(learner, "test", 6, ["queries"], chunk=4)
    episode = family.sample("test", torch.arange(6))
    for i in range(6):
        one = torch.utils._pytree.tree_map(lambda t, i=i: t[i], episode)
        with torch.no_grad():
            adapted = learner.adapt(one.support, one.key)
            states, actions = family.course(one.key, 10)
            state = states[0]
            for action in actions:
                mean = learner.predict(adapted, family.system.inputs(state, action)[None])[0, :2]
                state = family.system.moved(state, action, mean)
            off = family.system.place(one.info, state) - family.system.place(one.info, states[-1])
        assert abs(scores.arrays["rollout10"][i, 0] - float(off.norm())) < 1e-10


def test_the_picture_shows_true_and_predicted_courses():
    for system in ("pendulum", "bicycle"):
        family = Dynamics(8, 6, system=system)
        figure = draw_episodes(Oracle(family), "test", 2)
        true, predicted = figure.axes[0].lines[:2]
        assert len(true.get_ydata()) == 51
        assert np.abs(true.get_ydata() - predicted.get_ydata()).max() < 1e-3
        assert true.get_label() == "true course"


def test_settings():
    for settings, message in (
        ({"length": 0}, "length=0"),
        ({"noise": -1.0}, "noise=-1.0"),
        ({"system": "car"}, "system=car"),
    ):
        with pytest.raises(ValueError) as caught:
            Dynamics(**settings)
        assert str(caught.value).startswith(message)
