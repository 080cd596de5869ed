"""Environments of a user's own, for the tests of task=gymnasium."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Reach(gym.Env[Any, Any]):
    """A point on a line whose hidden goal is rewarded for being near, and is the end; noise on every step."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(-2.0, 4.0, (1,), np.float32)

    def __init__(self, seed: int):
        self.goal = np.random.default_rng(seed).uniform(-1, 1)
        self.made_with, self.resets, self.actions = seed, [], []  # type: ignore[var-annotated]

    def _seen(self) -> np.ndarray:
        return np.array([self.place, self.time], np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.resets.append(seed)
        self.place, self.time = 0.1 * self.np_random.normal(), 0
        return self._seen(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        self.actions.append(float(action[0]))
        self.place += 0.1 * float(action[0]) + 0.01 * self.np_random.normal()
        self.time += 1
        away = abs(self.place - self.goal)
        return self._seen(), -float(away), bool(away < 0.05), False, {}


class Coins(gym.Env[Any, Any]):
    """Two coins that are numbered 3 and 4, of which the task says which one pays; what is seen is the last reward."""

    observation_space = spaces.Discrete(2)
    action_space = spaces.Discrete(2, start=3)

    def __init__(self, seed: int):
        self.pays = 3 + seed % 2

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        return 0, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        reward = int(action == self.pays)
        return reward, float(reward), False, False, {}


def reach(seed: int) -> Reach:
    return Reach(seed)


def coins(seed: int) -> Coins:
    return Coins(seed)
