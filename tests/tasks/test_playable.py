"""Worlds that are wrong are refused in one line, which names the method."""

import pytest
import torch

from metaexp.errors import ConfigError
from metaexp.tasks.bandit import Bandit
from metaexp.tasks.playable import check_playable
from metaexp.tasks.world import World
from metaexp.training import build


class Right(World):
    """Two actions; one sees where one is, and is paid for being there."""

    x_shape, actions = (2,), 2

    def draw(self, key):
        return {"goal": torch.zeros(len(key), dtype=self.dtype)}

    def reset(self, task, key):
        return torch.zeros((), dtype=self.dtype), torch.zeros(2, dtype=self.dtype)

    def step(self, task, state, action, key):
        return state + action, torch.zeros(2, dtype=self.dtype), task["goal"] + state, state > 3


def changed(**methods):
    return type("Wrong", (Right,), methods)(horizon=4)


def with_step(**parts):
    """A world whose step returns other parts."""

    def step(self, task, state, action, key):
        names = ("state", "observation", "reward", "done")
        right = dict(zip(names, Right.step(self, task, state, action, key), strict=True))
        return tuple({**right, **{name: make(self, task, state) for name, make in parts.items()}}.values())

    return changed(step=step)


def branch(self, task, state, action, key):
    return Right.step(self, task, state, 0 if state > 0 else action, key)


WRONG = {
    "step: observation must have the shape [2], and has [3]": with_step(observation=lambda w, t, s: torch.zeros(3)),
    "step: observation must be torch.float32, and is torch.int64": with_step(
        observation=lambda w, t, s: torch.zeros(2, dtype=torch.int64)
    ),
    "step: reward must have the shape [], and has [1]": with_step(reward=lambda w, t, s: s[None]),
    "step: reward must be torch.float32, and is torch.float64": with_step(reward=lambda w, t, s: s.double()),
    "step: reward is inf or NaN in a training task": with_step(reward=lambda w, t, s: s / 0),
    "step: done must be torch.bool, and is torch.float32": with_step(done=lambda w, t, s: s),
    "step: the state has other shapes or types": with_step(state=lambda w, t, s: s[None]),
    "step: fails under vmap (": changed(step=branch),
    "step: must return (state, observation, reward, done)": changed(step=lambda self, t, s, a, key: (s, s)),
    "reset: fails under vmap (": changed(reset=lambda self, task, key: (key, None)),
    "draw: must return tensors by name": changed(draw=lambda self, key: key),
    "draw: goal must have 2 tasks in front, and has []": changed(draw=lambda self, key: {"goal": torch.zeros(())}),
    "draw: goal is inf or NaN": changed(draw=lambda self, key: {"goal": torch.full((len(key),), torch.nan)}),
    ": needs either `actions`": changed(actions=None),
    ": actions=1": changed(actions=1),
}


def test_the_right_one_is_taken():
    check_playable(Right(horizon=4))
    check_playable(Bandit())


@pytest.mark.parametrize("message", WRONG)
def test_a_wrong_one_is_refused(message):
    with pytest.raises(ValueError) as error:
        check_playable(WRONG[message])
    text = str(error.value)
    assert text.startswith(f"Wrong{'' if message[0] == ':' else '.'}{message}"), text
    assert "\n" not in text


def test_at_the_command_line_it_is_a_wrong_setting():
    with pytest.raises(ConfigError, match=r"^task: Wrong.step: reward is inf or NaN"):
        build._located("task", lambda: check_playable(WRONG["step: reward is inf or NaN in a training task"]), ": ")


@pytest.mark.parametrize(("name", "value"), [("horizon", 0), ("horizon", -3), ("episodes", 0), ("horizon", 2.5)])
def test_lengths(name, value):
    with pytest.raises(ValueError, match=f"^{name}={value}: must be "):
        Right(**{"horizon": 4, name: value})
