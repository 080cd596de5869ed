"""Your own gymnasium environments as a world: a function task -> environment is enough."""

import importlib.metadata
import itertools
import math
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from metaexp.constraints import Count, checked
from metaexp.errors import ConfigError
from metaexp.tasks.world import State, Task, World
from metaexp.types import Episode

KEPT = 256  # environments between two episodes that are kept to be used again
LARGEST = (1 << 63) - 1  # of a seed


class Gymnasium(World):
    """Environments of gymnasium, one kind for each task, made by a function of yours.

    `make(seed)` is called with the task's number, a whole number of up to 63 bits that is a pure function of the split,
    the index and `seed` or `eval_seed`, and returns the environment of that task: everything that differs between
    tasks is drawn from it, `numpy.random.default_rng(seed)` for instance. Every episode begins with
    `reset(seed=...)` with a number of its own, so that the same episode of a test task is the same for all learners, as
    long as the environment draws from its own `np_random`. Environments are Python: they are stepped one after the
    other, while the learner acts for all of them at once.

    Actions: `Discrete`, or a bounded `Box`, of which [-1, 1] are the bounds. Observations: a `Box` as it is, anything
    else as `gymnasium.spaces.flatten` gives it (one-hot for `Discrete`).

    Args:
        make: the function, in a group file of your own: {_target_: my_envs.make, _partial_: true}.
        horizon: most steps of an episode; None: as many as the environment's own limit (`max_episode_steps`).
        episodes, seed, eval_seed: see `World`.

    Raises:
        ConfigError: gymnasium is missing.
        ValueError: no function, an environment without limit, or a space that no learner here can handle.
    """

    compiles = False  # environments are Python

    @checked
    def __init__(
        self,
        make: Callable[[int], Any] | None = None,
        horizon: Count | None = None,
        episodes: Count = 1,
        seed: int = 0,
        eval_seed: int = 0,
    ):
        self.spaces = _spaces()
        if make is None:
            raise ValueError(
                "make: needs a function of the task's number that returns an environment, in a group file of your own: "
                "make: {_target_: my_envs.make, _partial_: true}"
            )
        self.make = make
        env = self._made(0)
        self.action_space, self.observation_space = env.action_space, env.observation_space
        self.x_shape = _shape_of(self.spaces, env.observation_space)
        self.actions, self.action_dim = _actions_of(self.spaces, env.action_space)
        super().__init__(_limit(env) if horizon is None else horizon, episodes, seed, eval_seed)
        env.close()
        self._free: deque[tuple[int, Any]] = deque()
        self._seats: dict[int, _Seat] = {}
        self._numbers = itertools.count()
        self.number = next(number for number in itertools.count() if number not in WORLDS)
        WORLDS[self.number] = self

    def draw(self, key: Tensor) -> Task:
        """`number` int64 [*tasks]: what `make` is called with."""
        return {"number": key & LARGEST}

    def reset(self, task: Task, key: Tensor) -> tuple[State, Tensor]:
        """The state is the number, int64 [], under which the environment is kept until the episode's last step."""
        seat, observation = begin(task["number"], key, self.number, list(self.x_shape), self.dtype)
        return seat, observation  # int64 [], [*x_shape]

    def step(self, task: Task, state: State, action: Tensor, key: Tensor) -> tuple[State, Tensor, Tensor, Tensor]:
        """One step of the environment; after its end it rests."""
        seat, observation, reward, done = advance(state, action, self.number, list(self.x_shape), self.dtype)
        return seat, observation, reward, done

    def sample(
        self,
        split: str,
        indices: Tensor,
        shots: int | None = None,
        queries: int | None = None,
        ways: int | None = None,
    ) -> Episode:
        """As `World.sample`, which looks at every environment's first observation; they are put back afterwards."""
        before = set(self._seats)
        episode = super().sample(split, indices, shots, queries, ways)
        for number in set(self._seats) - before:
            self._leave(number)
        return episode

    # -- one environment, in Python ----------------------------------------------------------------------------------

    def _made(self, number: int) -> Any:
        """The environment of a task."""
        env = self.make(number)
        for name in ("reset", "step", "action_space", "observation_space"):
            if not hasattr(env, name):
                raise ValueError(f"make: returned {type(env).__name__}, which has no {name}: no gymnasium environment")
        return env

    def begin(self, number: int, key: int) -> tuple[int, np.ndarray]:
        """Begin an episode: (the seat of its environment, the observation)."""
        env = next((env for of, env in self._free if of == number), None)
        if env is None:
            env = self._made(number)
            for name in ("action_space", "observation_space"):
                if getattr(env, name) != getattr(self, name):
                    raise ConfigError(
                        f"task.make: {name} of task {number} is {getattr(env, name)}, and of task 0 it is "
                        f"{getattr(self, name)}; it must be the same in all tasks"
                    )
        else:
            self._free.remove((number, env))
        observation, _ = env.reset(seed=key & LARGEST)
        seat = next(self._numbers)
        self._seats[seat] = _Seat(number, env, self._seen(observation), 0, False)
        return seat, self._seats[seat].observation

    def advance(self, seat: int, action: Any) -> tuple[np.ndarray, float, bool]:
        """(observation, reward, whether the episode has ended)."""
        number, env, observation, steps, over = self._seats[seat]
        reward = 0.0
        if not over:
            found, gained, terminated, truncated, _ = env.step(self._action(action))
            observation, reward, over = self._seen(found), float(gained), bool(terminated or truncated)
            if not math.isfinite(reward) or not np.isfinite(observation).all():
                raise ConfigError(
                    f"task.make: step {steps + 1} of an episode of task {number} gives reward {reward} and "
                    f"observation {np.array2string(observation, threshold=6)}; both must be finite"
                )
        self._seats[seat] = _Seat(number, env, observation, steps + 1, over)
        if steps + 1 == self.horizon:
            self._leave(seat)
        return observation, reward, over

    def _leave(self, seat: int) -> None:
        number, env, *_ = self._seats.pop(seat)
        self._free.append((number, env))
        if len(self._free) > KEPT:
            self._free.popleft()[1].close()

    def _seen(self, observation: Any) -> np.ndarray:
        """An observation as float64 [*x_shape]."""
        if not isinstance(self.observation_space, self.spaces.Box):
            observation = self.spaces.flatten(self.observation_space, observation)
        return np.asarray(observation, dtype=np.float64).reshape(self.x_shape)

    def _action(self, action: Any) -> Any:
        """A learner's action in the environment's form."""
        space = self.action_space
        if self.actions is not None:
            return space.start + int(action)
        share = (np.clip(action, -1.0, 1.0).reshape(space.shape) + 1) / 2
        return (space.low + share * (space.high - space.low)).astype(space.dtype)


class _Seat(NamedTuple):
    number: int  # of the task
    env: Any
    observation: np.ndarray
    steps: int  # of this episode so far
    over: bool


def _spaces() -> Any:
    """gymnasium.spaces.

    Raises:
        ConfigError: it is not installed, or older than 1.0.
    """
    try:
        import gymnasium.spaces
    except ImportError as error:
        raise ConfigError("task=gymnasium needs the package gymnasium: python -m pip install 'metaexp[rl]'") from error
    version = importlib.metadata.version("gymnasium")
    if int(version.split(".")[0]) < 1:
        raise ConfigError(f"task=gymnasium: version {version} is installed, needs 1.0: pip install 'metaexp[rl]'")
    return gymnasium.spaces


def _shape_of(spaces: Any, space: Any) -> tuple[int, ...]:
    """Shape of one observation.

    Raises:
        ValueError: observations of no fixed size.
    """
    if isinstance(space, spaces.Box):
        return tuple(space.shape) or (1,)
    if not getattr(space, "is_np_flattenable", False):
        raise ValueError(
            f"make: observations in {space} have no fixed size; wrap the environment so that it gives a Box"
        )
    return (int(spaces.flatdim(space)),)


def _actions_of(spaces: Any, space: Any) -> tuple[int | None, int | None]:
    """(number of actions, None), or (None, length of an action).

    Raises:
        ValueError: neither Discrete nor a bounded Box.
    """
    if isinstance(space, spaces.Discrete):
        return int(space.n), None
    if not isinstance(space, spaces.Box):
        raise ValueError(f"make: actions in {space}: must be Discrete or a bounded Box; wrap the environment")
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        raise ValueError(f"make: actions in {space}, which has no bounds; wrap it in one whose Box has bounds")
    return None, int(np.prod(space.shape))


def _limit(env: Any) -> int:
    """The environment's own limit of steps.

    Raises:
        ValueError: it has none.
    """
    steps = getattr(getattr(env, "spec", None), "max_episode_steps", None)
    if steps is None:
        wrapped = env
        while wrapped is not None and steps is None:
            steps = getattr(wrapped, "_max_episode_steps", None) if hasattr(wrapped, "env") else None
            wrapped = getattr(wrapped, "env", None)
    if steps is None:
        raise ValueError("horizon: the environment has no limit of steps (max_episode_steps); set task.horizon")
    return int(steps)


# -- what vmap sees: two operations on whole batches, whatever their dimensions ----------------------------------------

WORLDS: "WeakValueDictionary[int, Gymnasium]" = WeakValueDictionary()  # by their number, which the operations are given


@torch.library.custom_op("metaexp::gymnasium_begin", mutates_args=())
def begin(number: Tensor, key: Tensor, world: int, shape: list[int], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Tasks and keys int64 [*] -> seats int64 [*], observations [*, *shape]."""
    pairs = zip(number.reshape(-1).tolist(), key.reshape(-1).tolist(), strict=True)
    found = [WORLDS[world].begin(*pair) for pair in pairs]
    seats = torch.tensor([seat for seat, _ in found], dtype=torch.int64).view(number.shape)
    return seats.to(number.device), _tensor([seen for _, seen in found], (*number.shape, *shape), number, dtype)


@torch.library.custom_op("metaexp::gymnasium_advance", mutates_args=())
def advance(
    seat: Tensor, action: Tensor, world: int, shape: list[int], dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Seats int64 [*], actions [*, ...] -> seats, observations [*, *shape], rewards [*], ends bool [*]."""
    actions = action.detach().reshape(seat.numel(), *action.shape[seat.dim() :]).cpu().numpy()
    pairs = zip(seat.reshape(-1).tolist(), actions, strict=True)
    found = [WORLDS[world].advance(*pair) for pair in pairs]
    seen = _tensor([one[0] for one in found], (*seat.shape, *shape), seat, dtype)
    reward = torch.tensor([one[1] for one in found], dtype=torch.float64).view(seat.shape).to(seat.device, dtype)
    done = torch.tensor([one[2] for one in found], dtype=torch.bool).view(seat.shape).to(seat.device)
    return seat.clone(), seen, reward, done


def _tensor(rows: list[np.ndarray], shape: tuple[int, ...], beside: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(np.stack(rows)).view(shape).to(beside.device, dtype)


def _over_batches(operation: Any) -> Callable[..., Any]:
    """The rule by which vmap takes an operation on batches: the mapped dimension comes first."""

    def rule(info: Any, in_dims: Any, *args: Any) -> Any:
        def first(value: Any, dim: int | None) -> Any:
            if not isinstance(value, Tensor):
                return value
            return value.expand(info.batch_size, *value.shape) if dim is None else value.movedim(dim, 0)

        dims = [dim if isinstance(dim, int) else None for dim in in_dims]
        made = operation(*map(first, args, dims))
        return made, tree_map(lambda _: 0, made)

    return rule


for _operation in (begin, advance):
    _operation.register_vmap(_over_batches(_operation))
