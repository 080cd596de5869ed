"""python scripts/acting/in_gymnasium.py WORLD TRIALS STEPS REPEATS: RL^2's loop on a gymnasium vector environment.

The worlds are plain gymnasium environments in numpy, one object per task, stepped by `gymnasium.vector.SyncVectorEnv`;
the network, the actions and the updates are those of metaexp's `RL2`, in torch. Prints a line of JSON. Needs gymnasium
and metaexp.
"""

import json
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import gymnasium
import numpy as np
import torch

from metaexp.algos.rl2 import RL2, Trials
from metaexp.models.identity import Identity
from metaexp.outer.clip import Clip
from metaexp.outer.outer_step import FiniteCheck
from metaexp.outer.rollout_step import RolloutStep
from metaexp.system.allocator import keep_freed_memory
from metaexp.tasks.bandit import Bandit
from metaexp.tasks.mdp import MDP
from metaexp.tasks.world import TimeStep


class BanditEnv(gymnasium.Env):  # type: ignore[type-arg]
    """Coins, whose probabilities are drawn anew at every reset."""

    def __init__(self, arms: int = 5):
        self.action_space = gymnasium.spaces.Discrete(arms)
        self.observation_space = gymnasium.spaces.Box(0, 1, (1,), np.float32)
        self.arms = arms

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.mean = self.np_random.random(self.arms)
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        return np.zeros(1, np.float32), float(self.np_random.random() < self.mean[action]), False, False, {}


class MDPEnv(gymnasium.Env):  # type: ignore[type-arg]
    """A random tabular MDP, drawn anew at every reset; it goes back to state 0 every `horizon` steps."""

    def __init__(self, states: int = 10, actions: int = 5, horizon: int = 10):
        self.action_space = gymnasium.spaces.Discrete(actions)
        self.observation_space = gymnasium.spaces.Box(0, 1, (states,), np.float32)
        self.eye, self.sizes, self.horizon = np.eye(states, dtype=np.float32), (states, actions), horizon

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.mean = self.np_random.normal(1.0, 1.0, self.sizes)
        self.after = self.np_random.dirichlet(np.ones(self.sizes[0]), self.sizes).cumsum(-1)
        self.state = self.t = 0
        return self.eye[0], {}

    def step(self, action: Any) -> Any:
        reward = self.mean[self.state, action] + self.np_random.normal()
        self.t += 1
        u = self.np_random.random()
        self.state = 0 if self.t % self.horizon == 0 else int((self.after[self.state, action][:-1] <= u).sum())
        return self.eye[self.state], float(reward), False, False, {}


def collect(learner: RL2, envs: Any, steps: int, horizon: int, key: torch.Tensor) -> tuple[Trials, dict[str, Any]]:
    """As `RL2.collect`, with the steps made by the vector environment."""
    seen, _ = envs.reset()
    tasks = envs.num_envs
    memory, action, reward = (
        torch.zeros(tasks, learner.hidden),
        torch.zeros(tasks, dtype=torch.int64),
        torch.zeros(tasks),
    )
    rows = []
    for t in range(steps):
        first = torch.full((tasks,), t % horizon == 0)
        step = TimeStep(torch.from_numpy(np.array(seen, np.float32)), action, reward, first)
        memory = learner.memory(learner.inputs(step), memory)
        logits, value = learner.policy(memory), learner.value(memory)[:, 0]
        action = torch.distributions.Categorical(logits=logits).sample()
        log_p = torch.log_softmax(logits, -1).gather(1, action[:, None])[:, 0]
        seen, gained, *_ = envs.step(action.numpy())
        reward = torch.from_numpy(gained.astype(np.float32))
        rows.append((step, action, log_p, value, reward))
    made = torch.utils._pytree.tree_map(lambda *leaves: torch.stack(leaves, 1), *rows)
    seen_, action_, log_p, value, reward = made
    alive = torch.ones_like(reward, dtype=torch.bool)
    advantage = learner.advantages(reward, value, alive)
    target = advantage + value
    unit = target.var(correction=0).expand(tasks)
    advantage = (advantage - advantage.mean()) / advantage.std(correction=0)
    weight = alive.to(reward.dtype) / steps
    return Trials(key, seen_, action_, log_p, advantage, target, weight, unit), {"return": reward.sum(1).mean()}


def main(world: str, trials: int, steps: int, repeats: int) -> None:
    """Measure."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    keep_freed_memory()
    family = Bandit(5, steps) if world == "bandit" else MDP(episodes=steps // 10)
    envs = gymnasium.vector.SyncVectorEnv([BanditEnv if world == "bandit" else MDPEnv] * trials)
    learner = RL2(family, Identity, discount=1.0, epochs=3, minibatches=4)
    acts = partial(collect, learner, envs, steps, family.horizon, torch.arange(trials))
    learner.collect = lambda episode: acts()  # type: ignore[method-assign]
    step = RolloutStep(learner, torch.optim.Adam(learner.parameters(), 0.01), Clip(norm=1.0), FiniteCheck(), trials)
    step(0)
    spent = {}
    for name in ("train", "act"):
        began = time.process_time()
        for i in range(repeats):
            if name == "train":
                step(1 + i)
            else:
                with torch.no_grad():
                    acts()
        spent[name] = (time.process_time() - began) / repeats
    rates = {name: trials * steps / seconds for name, seconds in spent.items()}
    print(json.dumps({"rates": rates, "version": f"gymnasium {gymnasium.__version__}, torch {torch.__version__}"}))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
