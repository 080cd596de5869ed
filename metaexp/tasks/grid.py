"""A game: a small grid world whose walls, keys and goal differ between tasks."""

from typing import Any, Literal

import torch
from torch import Tensor

from metaexp.constraints import Count, Natural, NonNegative, Positive, checked
from metaexp.random import integers, uniform
from metaexp.tasks.world import State, Task, TimeStep, Trajectory, World

MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1))  # up, down, left, right, as (row, column)
MOVE_NAMES = ("up", "down", "left", "right")
PLACES, TURNS, WALLS = 1, 2, 3  # streams of a task's key


class Grid(World):
    """Walk on a square grid to a goal that opens once all keys are held; a game of one player, without chance.

    A task is a grid with a start, keys, a goal and walls, all of which stay where they are from episode to episode.
    What a move leads to is known only by trying: a wall or the border leaves the player where he is. Every task can be
    solved: a way from the start over the keys to the goal, which goes along at most one corner between two of them,
    stays free of walls.

    Rewards: `goal_reward` for reaching the goal with all keys, which ends the episode, `key_reward` for each key when
    it is picked up, and minus `step_cost` for every step. Keys lie there again in the next episode.

    Actions: 0 up, 1 down, 2 left, 3 right. Observations:

    - `position`: one-hot cell, [size^2], and which keys are held, [keys].
    - `local`: what lies on the 3 x 3 cells around the player, as walls (with the border), keys and the goal, one-hot
      [27], and which keys are held, [keys].

    `best` is exact: values by backward induction over all steps, cells and sets of keys.

    Args:
        size: cells along one side.
        walls: cells that are drawn as walls; those on the free way stay free.
        keys: keys to be picked up before the goal opens.
        view: what is observed.
        goal_reward, key_reward, step_cost: see above.
        horizon, episodes, seed, eval_seed: see `World`.

    Raises:
        ValueError: the start, the keys and the goal do not fit into the grid, or more than 4 keys.
    """

    actions = len(MOVES)

    @checked
    def __init__(
        self,
        size: Count = 5,
        walls: Natural = 8,
        keys: Natural = 1,
        view: Literal["position", "local"] = "position",
        goal_reward: Positive = 1.0,
        key_reward: NonNegative = 0.2,
        step_cost: NonNegative = 0.02,
        horizon: Count = 20,
        episodes: Count = 3,
        seed: int = 0,
        eval_seed: int = 0,
    ):
        super().__init__(horizon, episodes, seed, eval_seed)
        if keys > 4:
            raise ValueError(f"keys={keys}: must be at most 4, as the exact planner goes through all sets of keys")
        if size**2 < keys + 2:
            raise ValueError(f"size={size}: start, goal and {keys} keys need at least {keys + 2} cells")
        if walls > size**2:
            raise ValueError(f"walls={walls}: a grid of size={size} has {size**2} cells")
        self.side, self.walls, self.n_keys, self.view = size, walls, keys, view
        self.goal_reward, self.key_reward, self.step_cost = goal_reward, key_reward, step_cost
        self.x_shape = ((size**2 if view == "position" else 27) + keys,)
        sizes = {"size": size, "walls": walls, "keys": keys, "view": view}
        rewards = {"goal_reward": goal_reward, "key_reward": key_reward, "step_cost": step_cost}
        self.protocol = {**self.protocol, **sizes, **rewards}

    # -- tasks -------------------------------------------------------------------------------------------------------

    def draw(self, key: Tensor) -> Task:
        """start, goal int64 [*tasks], keys int64 [*tasks, keys] (cells), wall bool [*tasks, size^2]."""
        cells = self.side**2
        order = torch.argsort(uniform(key, PLACES, (cells,), dtype=torch.float64), -1)  # [*tasks, cells]
        stops = order[..., : self.n_keys + 2]  # start, keys, goal
        first = integers(key, TURNS, (self.n_keys + 1,), 2) == 0  # of each way: whether it goes along its row first
        free = self._way(stops[..., :-1], stops[..., 1:], first).any(-2)  # [*tasks, cells]
        height = uniform(key, WALLS, (cells,), dtype=torch.float64)
        rank = torch.argsort(torch.argsort(height, -1), -1)
        wall = (rank < self.walls) & ~free
        return {"start": stops[..., 0], "goal": stops[..., -1], "keys": stops[..., 1:-1], "wall": wall}

    def _way(self, a: Tensor, b: Tensor, row_first: Tensor) -> Tensor:
        """Whether each cell is on the way with one corner from a to b (cells [*]): bool [*, size^2]."""
        cell = torch.arange(self.side**2, device=a.device)
        row, column = cell // self.side, cell % self.side
        (ra, ca), (rb, cb) = ((t[..., None] // self.side, t[..., None] % self.side) for t in (a, b))
        turn_row, turn_column = (torch.where(row_first[..., None], *pair) for pair in ((ra, rb), (cb, ca)))
        along_row = (row == turn_row) & (torch.minimum(ca, cb) <= column) & (column <= torch.maximum(ca, cb))
        along_column = (column == turn_column) & (torch.minimum(ra, rb) <= row) & (row <= torch.maximum(ra, rb))
        return along_row | along_column

    # -- one task ----------------------------------------------------------------------------------------------------

    def reset(self, task: Task, key: Tensor) -> tuple[State, Tensor]:
        """At the start without keys; the state is (cell int64 [], keys held bool [keys])."""
        held = torch.zeros_like(task["keys"], dtype=torch.bool)
        return (task["start"], held), self._observed(task, task["start"], held)

    def step(self, task: Task, state: State, action: Tensor, key: Tensor) -> tuple[State, Tensor, Tensor, Tensor]:
        """One move."""
        cell, held = state
        cell = self._moved(task, cell, action)
        now = held | (task["keys"] == cell)
        reward, done = self._rewarded(task, cell, held, now)
        return (cell, now), self._observed(task, cell, now), reward, done

    def _moved(self, task: Task, cell: Tensor, action: Tensor) -> Tensor:
        """Cells [*] after the moves [*]: the same cell where a wall or the border is in the way."""
        move = torch.tensor(MOVES, device=cell.device)[action]  # [*, 2]
        row, column = cell // self.side + move[..., 0], cell % self.side + move[..., 1]
        inside = (row >= 0) & (row < self.side) & (column >= 0) & (column < self.side)
        there = (row * self.side + column).clamp(0, self.side**2 - 1)
        blocked = task["wall"][there]
        return torch.where(inside & ~blocked, there, cell)

    def _rewarded(self, task: Task, cell: Tensor, held: Tensor, now: Tensor) -> tuple[Tensor, Tensor]:
        """Cells [*], keys before and after [*, keys] -> (rewards [*], whether the episode ends bool [*])."""
        done = (cell == task["goal"]) & now.all(-1)
        picked = (now & ~held).sum(-1).to(self.dtype)
        return self.goal_reward * done.to(self.dtype) + self.key_reward * picked - self.step_cost, done

    def _observed(self, task: Task, cell: Tensor, held: Tensor) -> Tensor:
        """[*x_shape] of ONE cell []."""
        if self.view == "position":
            here = (torch.arange(self.side**2, device=cell.device) == cell).to(self.dtype)
            return torch.cat([here, held.to(self.dtype)])
        offset = torch.arange(-1, 2, device=cell.device)
        row, column = (cell // self.side + offset)[:, None], (cell % self.side + offset)[None]  # [3, 1], [1, 3]
        inside = (row >= 0) & (row < self.side) & (column >= 0) & (column < self.side)  # [3, 3]
        there = (row * self.side + column).clamp(0, self.side**2 - 1)
        wall = ~inside | task["wall"][there]
        left = ((there[..., None] == task["keys"]) & ~held).any(-1) & inside
        goal = (there == task["goal"]) & inside
        return torch.cat([torch.stack([wall, left, goal]).flatten().to(self.dtype), held.to(self.dtype)])

    # -- who knows the task ------------------------------------------------------------------------------------------

    def _values(self, task: Task) -> tuple[Tensor, Tensor, Tensor]:
        """Backward induction over cells x sets of keys: (best actions int64 [horizon, states], next state int64
        [states, actions], value [] of the start), where state = cell * sets + set."""
        cells, sets = self.side**2, 2**self.n_keys
        device = task["start"].device
        bit = 2 ** torch.arange(self.n_keys, device=device)
        cell = torch.arange(cells, device=device)[:, None, None]  # [cells, 1, 1]
        held = (torch.arange(sets, device=device)[:, None] // bit % 2).bool()[None, :, None]  # [1, sets, 1, keys]
        action = torch.arange(self.actions or 0, device=device)[None, None]
        there = self._moved(task, cell, action).expand(cells, sets, -1)  # [cells, sets, actions]
        now = held | (task["keys"] == there[..., None])  # [cells, sets, actions, keys]
        reward, done = self._rewarded(task, there, held.expand_as(now), now)
        after = (there * sets + (now * bit).sum(-1)).flatten(0, 1)  # [states, actions]
        reward, ends = reward.flatten(0, 1), done.flatten(0, 1)
        value, chosen = torch.zeros_like(reward[:, 0]), []
        for _ in range(self.horizon):
            total = reward + torch.where(ends, torch.zeros_like(reward), value[after])
            value, best = total.max(-1)
            chosen.append(best)
        return torch.stack(chosen[::-1]), after, value[task["start"] * sets]

    def best(self, task: Task) -> Tensor:
        """The return [] of a trial of one who knows the grid."""
        return self.episodes * self._values(task)[2]

    def plan(self, task: Task) -> tuple[Any, Any]:
        """The best moves of an episode, int64 [horizon]; nothing is left to chance, so none depends on what is seen."""
        chosen, after, _ = self._values(task)
        state, moves = task["start"] * 2**self.n_keys, []
        for t in range(self.horizon):
            moves.append(chosen[t][state])
            state = after[state, moves[-1]]
        return torch.stack(moves), ()

    def informed(self, task: Task, plan: Any, memory: Any, seen: TimeStep, t: Tensor) -> tuple[Tensor, Any]:
        """The planned move of this step of the episode."""
        return plan[t], memory

    def sketch(self, axes: Any, task: Task, trajectory: Trajectory) -> None:
        """Walls, start, keys and goal, and the way of each episode beside the others, later ones darker."""
        side, wall = self.side, task["wall"].view(self.side, self.side)
        for row, column in torch.nonzero(wall).tolist():
            corners = [(column - 0.5, row - 0.5), (column + 0.5, row - 0.5), (column + 0.5, row + 0.5)]
            axes.fill(*zip(*corners, (column - 0.5, row + 0.5), strict=True), color="#8C8C8C")
        for line in range(side + 1):
            axes.plot([line - 0.5] * 2, [-0.5, side - 0.5], color="#DDDDDD", linewidth=0.6, zorder=1)
            axes.plot([-0.5, side - 0.5], [line - 0.5] * 2, color="#DDDDDD", linewidth=0.6, zorder=1)
        places = [("start", "s", "#000000"), ("goal", "*", "#E69F00"), ("keys", "P", "#009E73")]
        for name, marker, colour in places:
            for cell in task[name].reshape(-1).tolist():
                row, column = divmod(cell, side)
                axes.plot(column, row, marker=marker, color=colour, markersize=16, markeredgecolor="#FFFFFF", zorder=4)
        for episode in range(self.episodes):
            rows = slice(episode * self.horizon, (episode + 1) * self.horizon)
            cells = [task["start"]]
            for action in trajectory.action[rows][trajectory.alive[rows]]:
                cells.append(self._moved(task, cells[-1], action))
            way, apart = torch.stack(cells), 0.4 * ((episode + 1) / (self.episodes + 1) - 0.5)
            shade = 0.3 + 0.7 * (episode + 1) / self.episodes
            x, y = way % side + apart, way // side + apart
            axes.plot(x, y, color="#0072B2", alpha=shade, linewidth=1.8, zorder=3)
            axes.plot(x[-1], y[-1], marker="o", color="#0072B2", alpha=shade, markersize=5, zorder=3)
        axes.set_xlim(-0.6, side - 0.4)
        axes.set_ylim(side - 0.4, -0.6)
        axes.set_aspect("equal")
        axes.set_xticks([])
        axes.set_yticks([])
