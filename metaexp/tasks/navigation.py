"""A point in the plane that has to find a goal it does not see: MAML's 2-D navigation."""

from typing import Any, Literal

import torch
from torch import Tensor

from metaexp.constraints import Count, Positive, checked
from metaexp.random import uniform
from metaexp.tasks.world import State, Task, TimeStep, Trajectory, World

LIMIT = 0.1  # largest velocity along each axis
NEAR = 0.01  # an episode with dense reward ends where both coordinates are closer to the goal than this


class Navigation(World):
    """A point starts at the origin and is rewarded for being near a goal, which differs between tasks.

    "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", Finn, Abbeel, Levine, 2017, section 5.3: the
    observation is the position, the action a velocity, clipped to [-0.1, 0.1] along each axis, the goal is uniform in
    the square [-0.5, 0.5]^2, and an episode has at most 100 steps.

    Rewards are those of the position after the step:

    - `dense`: minus the distance to the goal, as in the authors' code (point_env_randgoal.py); the episode ends where
      both coordinates are within 0.01 of the goal's, also as in the code.
    - `squared`: minus the squared distance, as the paper says; the end is the same.
    - `sparse`: 1 for each step within `radius` of the goal, otherwise 0; the episode goes on to its horizon.

    Actions are in units of the largest velocity: [-1, 1] is [-0.1, 0.1]. `best` is exact: the axes are limited apart
    from each other, so who moves along each as far as allowed is at every step as near to the goal as anybody can be.

    Args:
        reward: which reward.
        goals: half the side of the square of goals.
        radius: of the rewarded circle around the goal, for `sparse`.
        horizon, episodes, seed, eval_seed: see `World`.
    """

    x_shape = (2,)
    action_dim = 2

    @checked
    def __init__(
        self,
        reward: Literal["dense", "squared", "sparse"] = "dense",
        goals: Positive = 0.5,
        radius: Positive = 0.1,
        horizon: Count = 100,
        episodes: Count = 1,
        seed: int = 0,
        eval_seed: int = 0,
    ):
        super().__init__(horizon, episodes, seed, eval_seed)
        self.reward, self.goals, self.radius = reward, goals, radius
        sparse = {"radius": radius} if reward == "sparse" else {}
        self.protocol = {**self.protocol, "reward": reward, "goals": goals, **sparse}

    def draw(self, key: Tensor) -> Task:
        """goal [*tasks, 2]."""
        return {"goal": uniform(key, 1, (2,), -self.goals, self.goals, dtype=self.dtype)}

    def reset(self, task: Task, key: Tensor) -> tuple[State, Tensor]:
        """At the origin; the state is the position [2]."""
        start = torch.zeros_like(task["goal"])
        return start, start

    def step(self, task: Task, state: State, action: Tensor, key: Tensor) -> tuple[State, Tensor, Tensor, Tensor]:
        """Move by the action [2] times 0.1."""
        place = state + LIMIT * action.clamp(-1.0, 1.0)  # [2]
        reward, done = self._judged(place - task["goal"])
        return place, place, reward, done

    def _judged(self, away: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors from the goal [..., 2] -> (rewards [...], whether the episode ends bool [...])."""
        squares = (away**2).sum(-1)
        if self.reward == "sparse":
            return (squares <= self.radius**2).to(away.dtype), torch.zeros_like(squares, dtype=torch.bool)
        return -(squares if self.reward == "squared" else squares.sqrt()), (away.abs() < NEAR).all(-1)

    def best(self, task: Task) -> Tensor:
        """The return [] of a trial of one who moves along each axis as far as allowed."""
        steps = torch.arange(1, self.horizon + 1).to(task["goal"])
        left = (task["goal"].abs() - LIMIT * steps[:, None]).clamp(min=0)  # [horizon, 2]
        reward, done = self._judged(left)
        alive = done.to(torch.int64).cumsum(0) - done.to(torch.int64) == 0  # before the end, or at it
        return self.episodes * torch.where(alive, reward, torch.zeros_like(reward)).sum()

    def plan(self, task: Task) -> tuple[Any, Any]:
        """Nothing to work out beforehand."""
        return (), ()

    def informed(self, task: Task, plan: Any, memory: Any, seen: TimeStep, t: Tensor) -> tuple[Tensor, Any]:
        """Along each axis as far as allowed, and no farther than the goal."""
        return ((task["goal"] - seen.observation) / LIMIT).clamp(-1.0, 1.0), memory

    def sketch(self, axes: Any, task: Task, trajectory: Trajectory) -> None:
        """The way of each episode from the origin, later ones darker, and the goal in the square of goals."""
        x, y = task["goal"].tolist()
        if self.reward == "sparse":
            turn = torch.linspace(0, 2 * torch.pi, 60)
            axes.fill(x + self.radius * turn.cos(), y + self.radius * turn.sin(), color="#009E73", alpha=0.25)
        corner = self.goals * torch.tensor([[-1, -1], [1, -1], [1, 1], [-1, 1], [-1, -1]])
        axes.plot(*corner.T, color="#8C8C8C", linestyle=":", linewidth=1)
        for episode in range(self.episodes):
            rows = slice(episode * self.horizon, (episode + 1) * self.horizon)
            seen, action = trajectory.seen.observation[rows], trajectory.action[rows]
            steps = int(trajectory.alive[rows].sum())
            end = seen[steps - 1] + LIMIT * action[steps - 1].clamp(-1.0, 1.0)  # nobody has seen the last position
            way = torch.cat([seen[:steps], end[None]])
            shade = 0.3 + 0.7 * (episode + 1) / self.episodes
            axes.plot(*way.T, color="#0072B2", alpha=shade, linewidth=1.3, zorder=3)
            axes.plot(*end, marker="o", color="#0072B2", alpha=shade, markersize=4, zorder=3)
        axes.plot(0, 0, marker="s", color="#000000", markersize=4, zorder=4)
        axes.plot(x, y, marker="*", color="#E69F00", markersize=15, markeredgecolor="#FFFFFF", zorder=5)
        axes.set_aspect("equal", adjustable="datalim")
