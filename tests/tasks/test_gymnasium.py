"""A user's gymnasium environments as a world."""

import sys
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from small_envs import Coins, Reach, coins, reach
from torch import Tensor

from metaexp.algos.maml_pg import MAMLPG
from metaexp.algos.random import Random
from metaexp.errors import ConfigError
from metaexp.evaluation.scores import evaluate
from metaexp.models.mlp import MLP
from metaexp.random import fold
from metaexp.tasks.gymnasium import KEPT, LARGEST, Gymnasium
from metaexp.tasks.world import RESET, TimeStep, play


def world(make: Any = reach, **settings: Any) -> Gymnasium:
    return Gymnasium(make, **({"horizon": 6, "episodes": 2} | settings)).to("cpu", torch.float64)


def right(memory: Any, seen: TimeStep, key: Tensor) -> tuple[Tensor, Any, Any]:
    return 0.5 + 0 * seen.observation[:1], (), ()


def test_the_same_as_stepping_by_hand() -> None:
    """Observations, rewards and ends of whole trials in several tasks are those of the environments alone."""
    family = world()
    keys = family.keys("test", torch.arange(12))
    task = family.draw(keys)
    trials = torch.vmap(lambda t, k: play(family, t, k, right, ()))(task, keys)
    ended = 0
    for i in range(12):
        env = Reach(int(task["number"][i]))
        for episode in range(2):
            rows = slice(6 * episode, 6 * episode + 6)
            seen, _ = env.reset(seed=int(fold(fold(keys[i], RESET), episode)) & LARGEST)
            alive = True
            for t in range(6):
                assert bool(trials.alive[i, rows][t]) == alive
                if alive:
                    np.testing.assert_array_equal(trials.seen.observation[i, rows][t].numpy(), seen)
                    # [-1, 1] is [-2, 4]: 0.5 is 2.5.
                    seen, reward, done, _, _ = env.step(np.array([2.5], np.float32))
                    assert float(trials.reward[i, rows][t]) == reward
                    alive = not done
                else:
                    assert float(trials.reward[i, rows][t]) == 0
                    ended += 1
    assert ended > 0
    assert not family._seats, "an environment was not given back"


def test_test_tasks_are_frozen() -> None:
    """The same scores in other chunks, from another object, and after other work."""
    scores = evaluate(Random(world()), "test", 20, ["queries"], chunk=7).arrays["return"]
    other = Random(world(seed=5))
    evaluate(other, "val", 9, ["queries"])
    np.testing.assert_array_equal(evaluate(other, "test", 20, ["queries"]).arrays["return"], scores)
    assert len(set(scores[:, 0])) == 20


def test_discrete() -> None:
    """Actions are counted from the space's start; a discrete observation is one-hot."""
    family = world(coins, horizon=4, episodes=1)
    assert (family.actions, family.action_dim, family.x_shape) == (2, None, (2,))
    keys = family.keys("train", torch.arange(8))
    task = family.draw(keys)

    def second(memory: Any, seen: TimeStep, key: Tensor) -> tuple[Tensor, Any, Any]:
        return torch.ones((), dtype=torch.int64), (), ()

    trials = torch.vmap(lambda t, k: play(family, t, k, second, ()))(task, keys)
    pays = (task["number"] % 2 == 1).double()
    assert torch.equal(trials.reward, pays[:, None].expand(8, 4))
    assert torch.equal(trials.seen.observation[:, 1, 1], pays)
    assert trials.seen.observation[:, 0].tolist() == [[1, 0]] * 8


def test_environments_are_used_again() -> None:
    """Not more than `KEPT` rest, and the number of environments made does not grow with that of episodes."""
    made: list[int] = []

    def counted(seed: int) -> Reach:
        made.append(seed)
        return Reach(seed)

    family = world(counted, episodes=5)
    evaluate(Random(family), "test", 10, ["queries"])
    assert len(made) == 1 + 10  # one to see its spaces
    evaluate(Random(family), "test", KEPT + 30, ["queries"])
    assert len(family._free) == KEPT


def test_learns() -> None:
    """A policy gradient through environments in Python: the coin that pays is found by the inner steps."""
    torch.manual_seed(0)
    family = world(coins, horizon=4, episodes=1)
    learner = MAMLPG(
        family, partial(MLP, hidden=(8,)), inner_lr=2.0, inner_steps=1, test_steps=3, trials=20, baseline="mean"
    ).double()
    scores = evaluate(learner, "test", 40, ["queries"]).arrays["return"].mean(0)
    assert scores[0] < 2.6
    assert scores[3] > 3.4


class Odd(Coins):
    """Other spaces."""

    def __init__(self, seed: int, observation: Any = None, action: Any = None):
        super().__init__(seed)
        self.observation_space = observation or self.observation_space
        self.action_space = action or self.action_space


@pytest.mark.parametrize(
    ("make", "settings", "said"),
    [
        (None, {}, "make: needs a function"),
        (lambda seed: object(), {}, "make: returned object, which has no reset"),
        (coins, {"horizon": None}, "horizon: the environment has no limit"),
        (partial(Odd, action=spaces.Box(-np.inf, np.inf, (1,))), {}, "make: actions in .*no bounds"),
        (partial(Odd, action=spaces.MultiBinary(3)), {}, "make: actions in .*must be Discrete"),
        (partial(Odd, observation=spaces.Sequence(spaces.Discrete(2))), {}, "make: observations in .*no fixed size"),
    ],
)
def test_refused(make: Any, settings: dict[str, Any], said: str) -> None:
    """What cannot be played is refused in one line."""
    with pytest.raises(ValueError, match=said) as error:
        world(make, **settings)
    assert "\n" not in str(error.value)


def test_its_own_limit() -> None:
    """A wrapper's limit of steps is the horizon."""
    assert world(lambda seed: gym.wrappers.TimeLimit(coins(seed), 17), horizon=None).horizon == 17


def test_faults_while_playing() -> None:
    """Tasks with other spaces, and rewards that are no numbers, are named."""

    def differs(seed: int) -> Any:
        return Odd(seed, action=spaces.Discrete(2 if seed == 0 else 3))

    with pytest.raises(ConfigError, match=r"task\.make: action_space of task \d+ is Discrete\(3\)"):
        evaluate(Random(world(differs)), "test", 3, ["queries"])

    class Lost(Reach):
        def step(self, action: np.ndarray) -> Any:
            seen, _, *more = super().step(action)
            return seen, float("nan"), *more

    with pytest.raises(ConfigError, match=r"task\.make: step 1 of an episode of task \d+ gives reward nan"):
        evaluate(Random(world(Lost)), "test", 3, ["queries"])


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line names the extra."""
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    monkeypatch.setitem(sys.modules, "gymnasium.spaces", None)
    with pytest.raises(ConfigError, match=r"pip install 'metaexp\[rl\]'"):
        Gymnasium(reach)
