"""Pictures of worlds: trials in a few tasks, and the learning curve within a task."""

import numpy as np
import torch

from metaexp.algos.random import Random
from metaexp.algos.thompson import Thompson
from metaexp.plots.trials import within_picture
from metaexp.tasks.bandit import Bandit
from metaexp.tasks.mdp import MDP
from metaexp.training.figures import draw_episodes
from metaexp.training.within import Within


def test_trials_are_drawn_by_the_world():
    """A bandit shows which arm was pulled when; a world without a picture of its own the reward so far."""
    learner = Thompson(Bandit(3, 6))
    figure = draw_episodes(learner, "test", 2)
    assert len(figure.axes) == 2
    played = learner.trial(None, *_first(learner))
    points = figure.axes[0].collections[0].get_offsets()
    assert points[:, 0].tolist() == [1, 2, 3, 4, 5, 6]
    assert points[:, 1].tolist() == played.action.tolist()
    assert figure.axes[0].get_title(loc="left") == f"return {float(played.reward.sum()):.3g}"
    learner = Random(MDP(3, 2, horizon=2, episodes=2))
    line = draw_episodes(learner, "test", 1).axes[0].lines[0]
    assert np.allclose(line.get_ydata(), learner.trial(None, *_first(learner)).reward.cumsum(0))


def _first(learner):
    from metaexp.algos.acting import TEST
    from metaexp.random import fold

    episode = learner.family.sample("test", torch.zeros(1, dtype=torch.int64))
    return {name: value[0] for name, value in episode.info.items()}, fold(episode.key[0], TEST)


def test_the_curve_within_a_task_with_its_baselines():
    learner = Random(Bandit(3, 6))
    within = Within(learner, 40, lambda done: None)
    within.before()
    assert list(within.own) == ["Random", "before meta-training"]
    assert list(within.beside) == ["random", "thompson", "gittins", "informed"]
    assert within.arrays()["within_before_meta-training"].shape == (2, 6)
    assert np.array_equal(within.own["Random"], within.beside["random"])
    left, right = within.picture("").axes
    shown = dict(zip(left.get_legend_handles_labels()[1], left.lines, strict=True))
    assert set(shown) == {*within.own, *within.beside}
    assert np.array_equal(shown["gittins"].get_ydata(), within.beside["gittins"][0])
    regret = {line.get_color(): line.get_ydata() for line in right.lines}
    apart = within.beside["informed"][0] - within.beside["thompson"][0]
    assert np.allclose(regret[shown["thompson"].get_color()], apart.cumsum())


def test_without_one_who_knows_it_is_the_reward_so_far():
    curve = np.array([[1.0, 2.0], [0.1, 0.1]])
    _, right = within_picture({"Own": curve}, {}, "episode").axes
    assert right.get_ylabel() == "reward so far"
    assert right.lines[0].get_ydata().tolist() == [1.0, 3.0]
