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
from metaexp.tasks.grid import Grid
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


class GridEnv(gymnasium.Env):  # type: ignore[type-arg]
    """A small grid with one key, walls and a goal, drawn anew at every reset; an episode that has ended idles."""

    moves = ((-1, 0), (1, 0), (0, -1), (0, 1))

    def __init__(self, side: int = 5, walls: int = 8, horizon: int = 20):
        self.action_space = gymnasium.spaces.Discrete(4)
        self.observation_space = gymnasium.spaces.Box(0, 1, (side**2 + 1,), np.float32)
        self.side, self.walls, self.horizon = side, walls, horizon

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        cells = self.side**2
        self.start, self.lies, self.goal = self.np_random.permutation(cells)[:3].tolist()
        free = self._way(self.start, self.lies) | self._way(self.lies, self.goal)
        self.wall = np.zeros(cells, bool)
        self.wall[[c for c in self.np_random.permutation(cells)[: self.walls] if int(c) not in free]] = True
        self.t, self.alive = 0, True
        self._begin()
        return self._seen(), {}

    def _way(self, a: int, b: int) -> set[int]:
        (ra, ca), (rb, cb) = divmod(a, self.side), divmod(b, self.side)
        row, column = (ra, cb) if self.np_random.random() < 0.5 else (rb, ca)
        along = {row * self.side + c for c in range(min(ca, cb), max(ca, cb) + 1)}
        return along | {r * self.side + column for r in range(min(ra, rb), max(ra, rb) + 1)}

    def _begin(self) -> None:
        self.cell, self.held, self.ended = self.start, False, False

    def _seen(self) -> Any:
        seen = np.zeros(self.side**2 + 1, np.float32)
        seen[self.cell], seen[-1] = 1, self.held
        return seen

    def step(self, action: Any) -> Any:
        reward = 0.0
        self.alive = not self.ended
        if self.alive:
            row, column = (x + move for x, move in zip(divmod(self.cell, self.side), self.moves[action], strict=True))
            if 0 <= row < self.side and 0 <= column < self.side and not self.wall[row * self.side + column]:
                self.cell = row * self.side + column
            picked = self.cell == self.lies and not self.held
            self.held = self.held or picked
            self.ended = self.held and self.cell == self.goal
            reward = 1.0 * self.ended + 0.2 * picked - 0.02
        self.t += 1
        if self.t % self.horizon == 0:
            self._begin()
        return self._seen(), reward, False, False, {}


ENVS = {"bandit": BanditEnv, "mdp": MDPEnv, "grid": GridEnv}


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
        alive = torch.tensor([getattr(env, "alive", True) for env in envs.envs])
        rows.append((step, action, log_p, value, reward, alive))
    made = torch.utils._pytree.tree_map(lambda *leaves: torch.stack(leaves, 1), *rows)
    seen_, action_, log_p, value, reward, alive = made
    advantage = learner.advantages(reward, value, alive)
    target = advantage + value
    weight = alive / alive.to(reward.dtype).sum(1).mean()
    share = weight / tasks
    unit = (share * (target - (share * target).sum()) ** 2).sum().expand(tasks)
    advantage = advantage - (share * advantage).sum()
    advantage = advantage / (share * advantage**2).sum().sqrt()
    return Trials(key, seen_, action_, log_p, advantage, target, weight, unit), {"return": reward.sum(1).mean()}


def main(world: str, trials: int, steps: int, repeats: int) -> None:
    """Measure."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    keep_freed_memory()
    makes = {"bandit": lambda: Bandit(5, steps), "mdp": lambda: MDP(episodes=steps // 10),
             "grid": lambda: Grid(horizon=20, episodes=steps // 20)}  # fmt: skip
    family = makes[world]()
    envs = gymnasium.vector.SyncVectorEnv([ENVS[world]] * trials)
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
