"""Whether a world can be played: shapes, types and values of what it gives, found by a few steps in two tasks."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves

from metaexp.random import fold, integers, uniform
from metaexp.tasks.world import NOISE, RESET, World

STEPS = 3


def check_playable(world: World, tasks: int = 2, steps: int = STEPS) -> None:
    """Play a few random steps in a few training tasks.

    Raises:
        ValueError: what the world gives is not what `metaexp.tasks.world` asks for; one line that starts with the name
            of the class and of its method.
    """
    kind = type(world).__name__
    if (world.actions is None) == (world.action_dim is None):
        raise ValueError(f"{kind}: needs either `actions`, their number, or `action_dim`, the length of a vector")
    if (world.actions or 2) < 2 or (world.action_dim or 1) < 1:
        raise ValueError(f"{kind}: actions={world.actions}, action_dim={world.action_dim}: too few to choose from")
    with torch.no_grad():
        key = world.keys("train", torch.arange(tasks, device=world.device))
        task = _run(f"{kind}.draw", lambda: world.draw(key))
        if not isinstance(task, dict) or not all(isinstance(value, Tensor) for value in task.values()):
            raise ValueError(f"{kind}.draw: must return tensors by name")
        for name, value in task.items():
            if value.shape[:1] != (tasks,):
                raise ValueError(f"{kind}.draw: {name} must have {tasks} tasks in front, and has {list(value.shape)}")
            _finite(f"{kind}.draw", name, value)
        state, seen = _run(f"{kind}.reset", lambda: torch.vmap(world.reset)(task, fold(key, RESET)))
        form = _form(state)
        _observation(world, f"{kind}.reset", seen, tasks)
        for t in range(steps):
            action = _action(world, fold(key, t))

            def step(s: Any = state, a: Tensor = action, t: int = t) -> Any:
                return torch.vmap(world.step)(task, s, a, fold(fold(key, NOISE), t))

            found = _run(f"{kind}.step", step)
            if not isinstance(found, tuple) or len(found) != 4:
                raise ValueError(f"{kind}.step: must return (state, observation, reward, done)")
            state, seen, reward, done = found
            if _form(state) != form:
                raise ValueError(f"{kind}.step: the state has other shapes or types than that of reset")
            _observation(world, f"{kind}.step", seen, tasks)
            _tensor(f"{kind}.step", "reward", reward, (tasks,), world.dtype)
            _tensor(f"{kind}.step", "done", done, (tasks,), torch.bool)
            _finite(f"{kind}.step", "reward", reward)


def _run(name: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:
        text = (str(error).strip().splitlines() or [""])[0][:150]
        raise ValueError(f"{name}: fails under vmap ({type(error).__name__}: {text})") from error


def _action(world: World, key: Tensor) -> Tensor:
    if world.actions is not None:
        return integers(key, 0, (), world.actions)
    return uniform(key, 0, (world.y_dim,), -1.0, 1.0, dtype=world.dtype)


def _form(state: Any) -> Any:
    leaves, tree = tree_flatten(state)
    return tree, [(leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else type(leaf) for leaf in leaves]


def _observation(world: World, name: str, seen: Any, tasks: int) -> None:
    _tensor(name, "observation", seen, (tasks, *world.x_shape), world.dtype)
    _finite(name, "observation", seen)


def _tensor(name: str, what: str, value: Any, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """One task's value must have this shape without the tasks in front."""
    if not isinstance(value, Tensor):
        raise ValueError(f"{name}: {what} must be a tensor, and is {type(value).__name__}")
    if value.shape != shape:
        raise ValueError(f"{name}: {what} must have the shape {list(shape[1:])}, and has {list(value.shape[1:])}")
    if value.dtype != dtype:
        raise ValueError(f"{name}: {what} must be {dtype}, and is {value.dtype}")


def _finite(name: str, what: str, value: Any) -> None:
    if not all(bool(leaf.isfinite().all()) for leaf in tree_leaves(value) if leaf.is_floating_point()):
        raise ValueError(f"{name}: {what} is inf or NaN in a training task")
