"""The base class of worlds: task families whose data depend on what the learner does."""

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from metaexp.checks import whole
from metaexp.metrics import Metric
from metaexp.random import fold
from metaexp.tasks.base import TaskFamily
from metaexp.types import Episode, Examples

Task = dict[str, Tensor]  # the hidden parameters of ONE task, by name
State = Any  # a tree of tensors of ONE task
NOISE, RESET, ACTION = 1, 2, 3  # folded into a task's key: what its world, its beginnings and its learner draw from


class TimeStep(NamedTuple):
    """What a learner sees before it acts, of ONE task."""

    observation: Tensor  # [*x_shape]
    action: Tensor  # the action before: int64 [], or float [action_dim]; zeros before the first
    reward: Tensor  # [] its reward
    first: Tensor  # bool [] an episode begins


class Trajectory(NamedTuple):
    """Everything that happened in one trial, a row for each step: [steps, ...]."""

    seen: TimeStep
    action: Tensor  # int64 [steps], or float [steps, action_dim]
    reward: Tensor  # [steps]; 0 where idle
    alive: Tensor  # bool [steps]: False after the end of an episode that ended before its horizon
    more: Any  # what `act` returned beside action and memory (log-probabilities, values), a tree


# (memory, what is seen, key) -> (action, memory, more), of ONE task
Act = Callable[[Any, TimeStep, Tensor], tuple[Tensor, Any, Any]]


class World(TaskFamily):
    """A task family whose tasks answer to actions.

    A trial in a task is `episodes` episodes of `horizon` steps each; a learner keeps its memory over the whole trial.
    An episode may end earlier: the rest of its steps is idle, without reward, so that all trials have one shape. The
    metric is the sum of rewards over the trial, `return`; beside it `regret`, what one who knows the task gets more,
    where the world tells that (`best`).

    A world writes `draw`, and for ONE task `reset` and `step`, and `best`, `plan`, `informed` if somebody knows them.
    All are pure functions of tensors without branches on values: they are mapped over tasks by vmap and may be
    compiled. All randomness comes from the key handed over, so that two learners that do the same in a test task see
    the same.

    Attributes of a subclass:
        x_shape: shape of one observation.
        actions: number of actions of a discrete world; None: actions are vectors.
        action_dim: length of an action vector, each number in [-1, 1] (a world clips and scales them); None: discrete.

    Args:
        horizon: steps of one episode.
        episodes: episodes of one trial.
        seed, eval_seed: as for every family.
    """

    acts: ClassVar[bool] = True
    compiles: ClassVar[bool] = True  # whether `step` is made of tensor operations alone
    actions: int | None = None
    action_dim: int | None = None
    # The expected return of a whole trial of one who knows the task, [] of ONE task; None: not known.
    best: Callable[[Task], Tensor] | None = None
    # How one who knows the task acts; None: nobody knows. `plan` is made once per trial of ONE task and returns (plan,
    # memory), two trees of tensors: a table of values, gains. `informed` is given the task, the plan, its memory, what
    # is seen and t, int64 [], the step within the episode, and returns (action, memory).
    plan: Callable[[Task], tuple[Any, Any]] | None = None
    informed: Callable[[Task, Any, Any, TimeStep, Tensor], tuple[Tensor, Any]] | None = None
    # ONE task with its hidden parameters replaced by the middle of their ranges; None: there is no middle.
    nominal: Callable[[Task], Task] | None = None

    def __init__(self, horizon: int, episodes: int = 1, seed: int = 0, eval_seed: int = 0):
        whole("horizon", horizon, 1)
        whole("episodes", episodes, 1)
        super().__init__(shots=1, queries=1, seed=seed, eval_seed=eval_seed)
        for sizes in self.sizes.values():
            sizes |= {"shots": 0, "queries": 1}
        self.horizon, self.episodes = horizon, episodes
        self.protocol = {"horizon": horizon, "episodes": episodes}  # a world adds what else returns depend on
        self.y_dim = self.actions if self.actions is not None else int(self.action_dim or 0)

    @property
    def steps(self) -> int:
        """Steps of a trial."""
        return self.horizon * self.episodes

    # -- what a world writes -----------------------------------------------------------------------------------------

    @abstractmethod
    def draw(self, key: Tensor) -> Task:
        """The hidden parameters of the tasks with these keys, int64 [*tasks]: tensors [*tasks, ...] by name."""

    @abstractmethod
    def reset(self, task: Task, key: Tensor) -> tuple[State, Tensor]:
        """Begin an episode of ONE task: (state, observation [*x_shape])."""

    @abstractmethod
    def step(self, task: Task, state: State, action: Tensor, key: Tensor) -> tuple[State, Tensor, Tensor, Tensor]:
        """One step of ONE task: (state, observation [*x_shape], reward [], done bool [])."""

    # -- what follows ------------------------------------------------------------------------------------------------

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """`return`, and `regret` where the return of one who knows the task is known."""
        found = {"return": Metric("return", _total, larger_is_better=True)}
        return found | ({} if self.best is None else {"regret": Metric("regret", _regret, larger_is_better=False)})

    def sample(
        self,
        split: str,
        indices: Tensor,
        shots: int | None = None,
        queries: int | None = None,
        ways: int | None = None,
    ) -> Episode:
        """The tasks of a split, whose hidden parameters are `info`.

        No examples: the support set is empty. The one query has the first observation as x, and as y what `best` says
        (0 if nothing) followed by all hidden parameters: it tells worlds apart, and `regret` reads it.
        """
        key = self.keys(split, indices)
        task = self.draw(key)

        def first(one: Task, k: Tensor) -> tuple[Tensor, Tensor]:
            observation = self.reset(one, fold(fold(k, RESET), 0))[1]
            return observation, self.best(one) if self.best is not None else torch.zeros_like(observation.sum())

        observation, best = torch.vmap(first)(task, key)
        flat = [leaf.reshape(len(key), math.prod(leaf.shape[1:])).to(self.dtype) for leaf in tree_leaves(task)]
        y = torch.cat([best.to(self.dtype)[:, None], *flat], -1)[:, None]  # [tasks, 1, 1 + parameters]
        x = observation.to(self.dtype)[:, None]  # [tasks, 1, *x_shape]
        return Episode(Examples(x[:, :0], y[:, :0]), Examples(x, y), key, task)

    def pool(self, split: str, indices: Tensor, n: int) -> Examples:
        """Refused: a world has no examples."""
        raise ValueError(f"task: {type(self).__name__} answers to actions and has no examples to pool")

    def sketch(self, axes: Any, task: Task, trajectory: Trajectory) -> None:
        """Draw the trial of ONE task into Matplotlib's axes; a world with something to see draws that instead.

        Args:
            task, trajectory: on the CPU.
        """
        axes.step(range(1, len(trajectory.reward) + 1), trajectory.reward.cumsum(0).tolist(), where="post")
        axes.set_xlabel("step")
        axes.set_ylabel("reward so far")

    def no_action(self) -> Tensor:
        """The action before the first: int64 [], or float [action_dim]."""
        if self.actions is not None:
            return torch.zeros((), dtype=torch.int64, device=self.device)
        return torch.zeros(self.y_dim, dtype=self.dtype, device=self.device)


def play(world: World, task: Task, key: Tensor, act: Act, memory: Any, episodes: int | None = None) -> Trajectory:
    """One trial in ONE task, from a learner's first memory on.

    Args:
        key: int64 []; the world's noise, the beginnings of episodes and `act` draw from it, each from its own part.
        act: the learner.
        episodes: another number of episodes than the world's.
    """
    rows: list[Trajectory] = []
    episodes = world.episodes if episodes is None else episodes
    actings, noises = moments(world, key, episodes)
    action, reward = world.no_action(), torch.zeros((), dtype=world.dtype, device=world.device)
    for episode in range(episodes):
        now = opened(world, task, key, episode, action, reward, memory)
        for t in range(episode * world.horizon, (episode + 1) * world.horizon):
            row, now = answered(world, task, act, now, actings[t], noises[t])
            rows.append(row)
        action, reward, memory = now.seen.action, now.seen.reward, now.memory
    stacked: Trajectory = torch.utils._pytree.tree_map(lambda *leaves: torch.stack(leaves), *rows)
    return stacked


class Moment(NamedTuple):
    """Between two steps of ONE task."""

    seen: TimeStep  # what the learner is shown next
    state: State
    alive: Tensor  # bool []
    memory: Any


def moments(world: World, key: Tensor, episodes: int) -> tuple[Tensor, Tensor]:
    """The keys from which the learner and the world draw at every step of a trial: int64 [*key.shape, steps] each.

    All at once: a fold is 15 operations.
    """
    times = torch.arange(episodes * world.horizon, device=world.device)
    acting, noise = (fold(fold(key, part)[..., None], times) for part in (ACTION, NOISE))
    return acting, noise


def opened(
    world: World, task: Task, key: Tensor, episode: int | Tensor, action: Tensor, reward: Tensor, memory: Any
) -> Moment:
    """The beginning of an episode of ONE task, after this action and reward."""
    state, observation = world.reset(task, fold(fold(key, RESET), episode))
    yes = torch.ones((), dtype=torch.bool, device=world.device)
    return Moment(TimeStep(observation, action, reward, yes), state, yes, memory)


def answered(
    world: World, task: Task, act: Act, now: Moment, acting: Tensor, noise: Tensor
) -> tuple[Trajectory, Moment]:
    """ONE step of ONE task, drawn from two keys: its row of the trial, and what is after it."""
    action, memory, more = act(now.memory, now.seen, acting)
    state, observation, gained, done = world.step(task, now.state, action, noise)
    reward = torch.where(now.alive, gained, torch.zeros_like(gained))
    row = Trajectory(now.seen, action, reward, now.alive, more)
    no = torch.zeros((), dtype=torch.bool, device=world.device)
    return row, Moment(TimeStep(observation, action, reward, no), state, now.alive & ~done, memory)


def _total(rewards: Tensor, y: Tensor) -> Tensor:
    """[steps, 1] rewards -> []."""
    return rewards.sum()


def _regret(rewards: Tensor, y: Tensor) -> Tensor:
    """[steps, 1] rewards, [1, 1 + parameters] whose first number is the best return -> []."""
    return y[0, 0] - rewards.sum()
