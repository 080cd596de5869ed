"""One step of a system that moves, from state and action: pendulum, bicycle or arm with hidden parameters."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from metaexp.constraints import Count, Natural, NonNegative, checked
from metaexp.metrics import Metric, mse
from metaexp.random import fold, integers, normal, uniform
from metaexp.tasks.base import TaskFamily
from metaexp.tasks.motion.arm import Arm
from metaexp.tasks.motion.bicycle import Bicycle
from metaexp.tasks.motion.pendulum import Pendulum
from metaexp.tasks.motion.system import Parameters, System
from metaexp.types import Episode, Examples

SYSTEMS: dict[str, Callable[[], System]] = {"pendulum": Pendulum, "bicycle": Bicycle, "arm": Arm}
HORIZONS = (10, 50)  # steps after which the error of a rollout is measured
WAVES = 3  # sines of which a random action is the sum
SUPPORT, QUERY, POOL, ROLLOUT = 2, 3, 4, 5  # streams of a task's key


class Dynamics(TaskFamily):
    """Each task is one system with its own hidden parameters; the change of its state over one step is predicted.

    The systems, their parameters, equations and time steps are `metaexp.tasks.motion`. Inputs are the state (angles as
    cosine and sine; without what the change does not depend on) and the action, targets the change of the state, both
    divided by fixed units so that they are of order one: mse is in these units, and about 1 for a prediction of 0.

    Examples are the steps of short trajectories of `length` steps each, from random states under smooth random
    actions: each is a sum of three sines (`System.rates`), clipped to [-1, 1]. A support set of k shots is the first k
    steps of one sequence of trajectories.

    Beside mse, `rollout10` and `rollout50` say how far a prediction of 10 and 50 steps is from the truth at its end,
    when the model is fed with its own predictions under given actions, on a trajectory of its own: for the pendulum the
    distance of the mass in lengths of the rod (at most 2), for the arm that of the end of the second link in m, for the
    bicycle that of the rear axle in m. Predicted states are clipped to a wide range (`System.moved`).

    The upper bound knows the equations, but not the parameters, where these are linear in coefficients: it finds the
    coefficients by least squares from the support set and their mean and covariance over tasks (of pendulum and arm).
    Of the bicycle, and of the arm with noise on the targets, it is the true dynamics.

    Args:
        shots, queries: steps given and predicted.
        system: pendulum | bicycle | arm.
        length: steps of one trajectory.
        noise: standard deviation of the Gaussian noise on the targets, in their units.

    Raises:
        ValueError: a setting is out of range.
    """

    @checked
    def __init__(
        self,
        shots: Count = 20,
        queries: Natural = 20,
        system: Literal["pendulum", "bicycle", "arm"] = "pendulum",
        length: Count = 10,
        noise: NonNegative = 0.0,
        test: dict[str, Natural | None] | None = None,
        seed: int = 0,
        eval_seed: int = 0,
    ):
        super().__init__(shots, queries, None, test, seed, eval_seed)
        self.system, self.length, self.noise = SYSTEMS[system](), length, noise
        self.x_shape, self.y_dim = (len(self.system.input_names),), len(self.system.target_names)

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """mse in the units of the targets, and the errors of rollouts."""
        return {"mse": mse} | {
            f"rollout{steps}": Metric(
                f"rollout{steps}", self._rollout_error(steps), False, self.system.place_unit, reads_predictor=True
            )
            for steps in HORIZONS
        }

    def sample(
        self,
        split: str,
        indices: Tensor,
        shots: int | None = None,
        queries: int | None = None,
        ways: int | None = None,
    ) -> Episode:
        """See TaskFamily.sample; info holds the hidden parameters by name, each [tasks]."""
        key = self.keys(split, indices)
        task = self.system.draw(key, self.dtype)
        shots, queries = self.size(split, "shots", shots), self.size(split, "queries", queries)
        pieces = [-(-n // self.length) for n in (shots, queries)]  # trajectories of each part
        # All trajectories of a task are computed at once: [tasks, pieces].
        piece = [
            fold(fold(key, stream)[:, None], torch.arange(n, device=key.device))
            for stream, n in zip((SUPPORT, QUERY), pieces, strict=True)
        ]
        x, y = self._trajectories(torch.cat(piece, 1), task)  # [tasks, pieces, length, ...]
        first, second = ([part.flatten(1, 2) for part in t.split(pieces, 1)] for t in (x, y))
        support = Examples(first[0][:, :shots], self._noisy(key, SUPPORT, second[0][:, :shots]))
        query = Examples(first[1][:, :queries], self._noisy(key, QUERY, second[1][:, :queries]))
        return Episode(support, query, key, task)

    def pool(self, split: str, indices: Tensor, n: int) -> Examples:
        """See TaskFamily.pool: n steps, each of a different system and at a random time of its trajectory."""
        key = fold(self.keys(split, indices)[:, None], torch.arange(n, device=indices.device))  # [batches, n]
        x, y = self._trajectories(fold(fold(key, POOL), 0)[..., None], self.system.draw(key, self.dtype))
        at = integers(key, POOL, (1, 1, 1), self.length)  # [batches, n, 1, 1, 1]
        x, y = (t.gather(-2, at.expand(*at.shape[:-1], t.shape[-1]))[..., 0, 0, :] for t in (x, y))
        return Examples(x, self._noisy(key, POOL, y))

    def oracle(self, episode: Episode, x: Tensor) -> Tensor:
        """Least squares on ONE task's support set, or the true dynamics; see the class."""
        found = self.system.solved(*episode.support, self.noise)
        if found is not None:
            return self.system.predicted(found, x)
        return self.truth(episode.info, x)

    def truth(self, task: Parameters, x: Tensor) -> Tensor:
        """The change itself of ONE task at inputs x [m, x], without noise: [m, y]."""
        state, action = self.system.state_of(x)
        return self.system.change(state, self.system.step(task, state, action))

    # -- rollouts ----------------------------------------------------------------------------------------------------

    def course(self, key: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """A trajectory apart from support and queries, of ONE task: states [steps + 1, n], actions [steps, a]."""
        task, own = self.system.draw(key, self.dtype), fold(key, ROLLOUT)
        state, actions = self._begin(own, steps)
        states = [state]
        for t in range(steps):
            states.append(self.system.step(task, states[-1], actions[..., t, :]))
        return torch.stack(states, -2), actions

    def follow(self, predict: Callable[[Tensor], Tensor], state: Tensor, actions: Tensor) -> Tensor:
        """What a model predicts from a state [n] on, fed with its own predictions: [steps + 1, n].

        `predict` maps inputs [1, x] to changes [1, y].
        """
        states = [state]
        for action in actions.unbind(0):
            change = predict(self.system.inputs(states[-1], action)[None])[0]
            states.append(self.system.moved(states[-1], action, change))
        return torch.stack(states)

    def _rollout_error(self, steps: int) -> Callable[[Callable[[Tensor], Tensor], Episode], Tensor]:
        """(predict, episode of ONE task) -> [], the distance from the truth after so many steps."""

        def error(predict: Callable[[Tensor], Tensor], episode: Episode) -> Tensor:
            task = self.system.draw(episode.key, self.dtype)
            states, actions = self.course(episode.key, steps)
            last = self.follow(predict, states[0], actions)[-1]
            return (self.system.place(task, last) - self.system.place(task, states[-1])).square().sum().sqrt()

        return error

    # -- trajectories ------------------------------------------------------------------------------------------------

    def _begin(self, key: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """A random state [*, n] and actions [*, steps, a] of the keys int64 [*]."""
        past, width = self.system.past, len(self.system.action_names)
        share = uniform(fold(key, 1), 0, (3, WAVES, width, 1), dtype=self.dtype)  # [*, 3, waves, a, 1]
        height, rate, phase = share.unbind(-4)
        time = self.system.dt * torch.arange(-past, steps, dtype=self.dtype, device=key.device)
        slow, fast = self.system.rates
        angle = 2 * torch.pi * ((slow + (fast - slow) * rate) * time + phase)  # [*, waves, a, past + steps]
        waves = (height * torch.sin(angle)).unbind(-3)
        actions = sum(waves[1:], waves[0]).clamp(-1.0, 1.0).transpose(-1, -2)  # [*, past + steps, a]
        return self.system.start(fold(key, 2), actions[..., :past, :]), actions[..., past:, :]

    def _trajectories(self, key: Tensor, task: Parameters) -> tuple[Tensor, Tensor]:
        """Trajectories of the keys [*tasks, pieces]: inputs and changes, [*tasks, pieces, length, ...]."""
        each = {name: value[..., None] for name, value in task.items()}
        state, actions = self._begin(key, self.length)
        rows: list[tuple[Tensor, Tensor]] = []
        for action in actions.unbind(-2):
            after = self.system.step(each, state, action)
            rows.append((self.system.inputs(state, action), self.system.change(state, after)))
            state = after
        x, y = (torch.stack(part, -2) for part in zip(*rows, strict=True))
        return x, y

    def _noisy(self, key: Tensor, stream: int, y: Tensor) -> Tensor:
        shape: Any = y.shape[key.dim() :]
        return y + self.noise * normal(key, 10 + stream, shape, dtype=self.dtype) if self.noise else y
