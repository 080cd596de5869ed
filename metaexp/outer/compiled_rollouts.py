"""The two parts of a `RolloutStep` that take its time, as compiled graphs: one step of all trials, and one update."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from metaexp.algos.acting import ADAPT
from metaexp.mapping import piece_size
from metaexp.models.functional import functional_call
from metaexp.outer.compiler import compiled
from metaexp.random import fold
from metaexp.tasks.world import Moment, TimeStep, Trajectory, answered, moments, opened
from metaexp.types import Episode


class CompiledPlay:
    """`RolloutLearner.played` with one graph for ONE step of all tasks: world, network, draw and log-probability.

    The graph is called once per step, so that its size does not depend on the length of a trial; beginnings of episodes
    are eager. The draws are those of `played`, its numbers differ by rounding.

    Args:
        learner: acts in a world whose tasks are mapped by vmap.
        episode: a meta-batch; later ones have its number of tasks.

    Raises:
        ValueError: the world is Python, the mapping takes less than all tasks at once, or a step changes a shape or
            type of what is between two steps.

    Raises whatever the compiler raises, too.
    """

    def __init__(self, learner: Any, episode: Episode):
        self.learner, self.world = learner, learner.family
        if not self.world.compiles:
            raise ValueError("its steps are Python")
        if piece_size(learner.mapping, len(episode.key)) < len(episode.key):
            raise ValueError(f"mapping={learner.mapping}: tasks are not played all at once")
        self.module = _Answer(learner)
        self.tensors = {f"learner.{name}": t for name, t in (*learner.named_parameters(), *learner.named_buffers())}
        task, key = self._tasks(episode)
        acting, noise = (keys.T.contiguous() for keys in moments(self.world, key, 1))
        now = self._opened(task, key, 0, None)
        self._alive = 4 + len(tree_leaves(now.state))  # its place among the leaves of a moment
        self._graph = compiled(self._step, *_apart((self._own(), task, now, acting[0], noise[0])), one_thread=True)

    def __call__(self, episode: Episode) -> Trajectory:
        """One trial in every task, [tasks, steps, ...]."""
        task, key = self._tasks(episode)
        acting, noise = (keys.T.contiguous() for keys in moments(self.world, key, self.world.episodes))
        head, horizon = tree_leaves((laid_out(self._own()), task)), self.world.horizon
        rows: list[list[Tensor]] = []
        now: Moment | None = None
        for number in range(self.world.episodes):
            leaves, form = tree_flatten(self._opened(task, key, number, now))
            for t in range(number * horizon, (number + 1) * horizon):  # flat: trees would take a third of the time
                made = self._graph.flat(*head, *leaves, acting[t], noise[t])  # type: ignore[attr-defined]
                # The action and its reward are what is seen next.
                rows.append([*leaves[:4], made[1], made[2], leaves[self._alive], *made[len(leaves) :]])
                leaves = made[: len(leaves)]
            now = tree_unflatten(leaves, form)
        stacked = [torch.stack(column).transpose(0, 1) for column in zip(*rows, strict=True)]
        action, reward, alive = stacked[4:7]
        return Trajectory(TimeStep(*stacked[:4]), action, reward, alive, tree_unflatten(stacked[7:], self._more))

    def _tasks(self, episode: Episode) -> tuple[Any, Tensor]:
        """The tasks of a meta-batch, and the keys of their trials, int64 [tasks]."""
        return laid_out(self.world.draw(episode.key)), fold(episode.key, ADAPT)

    def _own(self) -> dict[str, Tensor]:
        return {name: t.detach() for name, t in self.tensors.items()}

    def _opened(self, task: Any, key: Tensor, number: int, now: Moment | None) -> Moment:
        """All tasks at the beginning of an episode."""
        world = self.world
        if now is None:
            action, reward = world.no_action(), torch.zeros((), dtype=world.dtype, device=world.device)
            memory = tree_map(lambda t: t.expand(len(key), *t.shape), self.learner.begin(None))
            given = (action.expand(len(key), *action.shape), reward.expand(len(key)), memory)
        else:
            given = (now.seen.action, now.seen.reward, now.memory)
        made: Moment = torch.vmap(lambda task, key, *told: opened(world, task, key, number, *told))(task, key, *given)
        return laid_out(made)

    def _step(self, own: dict[str, Tensor], task: Any, now: Moment, acting: Tensor, noise: Tensor) -> Any:
        """What is after a step, and what `act` told beside the action."""
        after, more = functional_call(self.module, own, (task, now, acting, noise))
        if _shapes(after) != _shapes(now):
            raise ValueError("after a step, shapes or types are not those at the beginning of an episode")
        self._more = tree_flatten(more)[1]
        return laid_out((after, more))


class _Answer(nn.Module):
    # functional_call calls forward; this makes forward one step of all tasks.
    def __init__(self, learner: Any):
        super().__init__()
        self.learner = learner

    def forward(self, task: Any, now: Moment, acting: Tensor, noise: Tensor) -> tuple[Moment, Any]:
        """(what is after it, what `act` told beside the action), [tasks, ...] each."""
        learner = self.learner

        def act(memory: Any, seen: TimeStep, key: Tensor) -> Any:
            return learner.act(None, memory, seen, key)

        def one(task: Any, now: Moment, acting: Tensor, noise: Tensor) -> Any:
            row, after = answered(learner.family, task, act, now, acting, noise)
            return after, row.more

        return torch.vmap(one)(task, now, acting, noise)


class CompiledUpdates:
    """`RolloutLearner.update_gradient` of a minibatch of rows, with one graph for each size of a minibatch.

    Args:
        learner: the learner.
        trials: what its `collect` returned; later ones have the same shapes.
        sizes: of minibatches.

    Raises whatever the compiler raises.
    """

    def __init__(self, learner: Any, trials: Any, sizes: set[int]):
        self.learner = learner
        params = {name: p.detach() for name, p in learner.meta_parameters().items()}
        buffers = dict(learner.named_buffers())
        self._graphs: dict[int, Callable[..., Any]] = {}
        for size in sorted(sizes):
            rows = torch.arange(size, device=trials.key.device)
            example = _apart((params, trials, rows, buffers))
            self._graphs[size] = compiled(self._gradient, *example, one_thread=True)

    def __call__(self, params: dict[str, Tensor], trials: Any, rows: Tensor, buffers: dict[str, Tensor]) -> Any:
        """(gradient by name, loss [], logs) of the tasks `rows`, int64 [tasks of the minibatch]."""
        return self._graphs[len(rows)](laid_out(params), trials, rows, buffers)

    def _gradient(self, params: dict[str, Tensor], trials: Any, rows: Tensor, buffers: dict[str, Tensor]) -> Any:
        return laid_out(self.learner.update_gradient(params, tree_map(lambda t: t[rows], trials), buffers))


def laid_out(tree: Any) -> Any:
    return tree_map(lambda t: t.contiguous(), tree)


def _shapes(tree: Any) -> tuple[Any, Any]:
    leaves, form = tree_flatten(tree)
    return form, [(t.shape, t.dtype) for t in leaves]


def _apart(tree: Any) -> Any:
    """Copies: a tensor that stands in two places (a state that begins as what is seen) would be one input of a graph,
    although the two differ later."""
    return tree_map(lambda t: t.detach().contiguous().clone(), tree)
