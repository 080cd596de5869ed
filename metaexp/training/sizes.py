"""Sizes that cannot be: refused in one line before they are allocated, and before a folder is made.

What is counted is about the least that is needed: a run that is not refused may still need more.
"""

import logging
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from metaexp.errors import ConfigError
from metaexp.system.machine import cores
from metaexp.system.memory import memory_limit, resident
from metaexp.tasks.base import TaskFamily

DRAWING = 3  # 64 random bits are held for every number that is drawn, until it is one of 32 bits
FEWEST = 10  # test tasks that are always drawn at once
_PAUSE = 1 << 28  # bytes of weights above which they are counted before they are made
MOST_STEPS = 10**7  # inner steps: one outer step would take minutes at the very least
_SMALL = 1 << 20  # numbers: no tensor below this is looked at
_LARGE = 1 << 26  # bytes: what is there already is looked up for tensors above this
_COPIES = ("clone", "contiguous", "_to_copy", "repeat_interleave")


class TooLarge(ValueError):
    """A tensor that does not fit into memory."""


class _Pause(BaseException):
    """So much has been allocated that the rest should be estimated first; for `learner_within_memory` alone."""


class _Budget(TorchDispatchMode):
    """Inside, a tensor that does not fit into memory is refused with TooLarge instead of being allocated.

    Args:
        limit: bytes of memory.
        pause: bytes asked for after which _Pause is raised.
    """

    def __init__(self, limit: int, pause: int | None = None):
        super().__init__()
        self.limit, self.pause, self.asked = limit, pause, 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # torch would import Dynamo at the first operation, to hide this class from it

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        shape = _shape(getattr(getattr(func, "overloadpacket", None), "__name__", ""), args)
        count = math.prod(shape)
        if count > _SMALL:
            dtype = (kwargs or {}).get("dtype") or torch.get_default_dtype()
            needed = count * dtype.itemsize
            self.asked += needed
            if needed > self.limit or (needed > _LARGE and needed + resident() > self.limit):
                numbers = " x ".join(map(str, shape))
                raise TooLarge(f"a tensor of {numbers} numbers takes {_amount(needed, self.limit)}")
            if self.pause is not None and self.asked > self.pause:
                raise _Pause
        return func(*args, **(kwargs or {}))


def _shape(name: str, args: Any) -> list[int]:
    """The shape of the tensor that an operation is asked to make; empty where it makes none of a given size."""
    if name in _COPIES and args and isinstance(args[0], Tensor):
        return list(args[0].shape)
    if args and isinstance(args[0], Tensor) and not name.startswith("new_"):
        return []
    if name == "eye":
        return [int(n) for n in args[:2]] * (1 if len(args) > 1 else 2)
    if name == "arange":
        numbers = [n for n in args if isinstance(n, int | float)]
        return [int(numbers[0] if len(numbers) == 1 else numbers[1] - numbers[0])] if numbers else []
    sizes = next((one for one in args if isinstance(one, list | tuple | torch.Size)), ())
    return [int(n) for n in sizes] if all(isinstance(n, int) for n in sizes) else []


def _amount(needed: float, limit: float) -> str:
    return f"{needed / 1e9:,.0f} GB, and {limit / 1e9:,.0f} GB of memory are there"


@contextmanager
def within_memory() -> Iterator[None]:
    """Inside, a tensor that cannot fit into this machine's memory is a TooLarge, a ValueError."""
    with _Budget(memory_limit()):
        yield


def learner_within_memory(make: Callable[[], Any], optimizer: Any) -> Any:
    """What `make` returns, a learner; ConfigError before its weights are allocated if they cannot fit into memory.

    A small one is just made. A large one is first made without memory, on torch's meta device; where that fails, as in
    a constructor that computes, its tensors are only checked one by one.
    """
    limit = memory_limit()
    try:
        with _Budget(limit, _PAUSE):
            return make()
    except _Pause:
        pass
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"), torch.device("meta"):
            example = make()
    except Exception:
        example = None
    finally:
        logging.disable(before)
    if example is not None:
        _check_weights(example, optimizer, limit)
        del example
    with _Budget(limit):
        return make()


def check_machine(device: dict[str, Any]) -> None:
    """Refuse numbers of threads and processes that a machine cannot start, with a ConfigError."""
    for name, most in (("threads", max(256, 8 * cores())), ("devices", max(64, 8 * cores()))):
        value = device.get(name)
        if value is not None and value > most:
            raise ConfigError(
                f"device.{name}={value}: this machine has {cores()} cores; at most {most}, and more than {cores()} "
                "make nothing faster"
            )


def check_tasks(config: dict[str, Any], family: TaskFamily) -> None:
    """Refuse tasks and meta-batches that alone need more than the memory, with a ConfigError."""
    limit = _limit(family.device)
    _check_tasks(config, family, "train", config["meta_batch"], "meta_batch", limit)
    _check_tasks(config, family, "test", min(config["test"]["tasks"], FEWEST), "test.tasks", limit)


def check_learner(config: dict[str, Any], learner: Any, optimizer: Any) -> None:
    """Refuse weights and scores that alone need more than the memory, and counts that end nowhere: ConfigError."""
    _check_weights(learner, optimizer, _limit(learner.family.device))
    for name in ("inner_steps", "test_steps"):
        steps = getattr(learner, name, 0)
        if isinstance(steps, int) and steps > MOST_STEPS:
            raise ConfigError(f"algo.{name}={steps}: must be at most {MOST_STEPS}")
    if learner.trains and config["steps"] * config["meta_batch"] * config["accumulate"] >= 1 << 62:
        raise ConfigError(
            f"steps={config['steps']}: too many tasks, with this meta_batch and accumulate, to be numbered"
        )
    _check_scores(config, learner, memory_limit())


def _limit(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else memory_limit()


def _check_weights(learner: Any, optimizer: Any, limit: int) -> None:
    parameters = list(learner.parameters())
    numbers = sum(p.numel() for p in parameters)
    copies = 1
    if learner.trains:  # weights, gradient, and what the optimiser keeps of each weight
        kept = getattr(optimizer, "defaults", {})
        copies = 4 if "betas" in kept else 3 if kept.get("momentum") else 2
    needed = copies * sum(p.numel() * p.element_size() for p in parameters)
    if needed > limit:
        raise ConfigError(
            f"model: {numbers:,} parameters with what training keeps of them take {_amount(needed, limit)}"
        )


def _check_tasks(config: dict[str, Any], family: TaskFamily, split: str, tasks: int, key: str, limit: int) -> None:
    try:
        one = DRAWING * _task_bytes(family, split)
    except TooLarge as error:
        typed = {n: size for n, size in config["task"].items() if isinstance(size, int) and not n.endswith("seed")}
        largest = max(typed, key=lambda n: typed[n], default=None)
        raise ConfigError(f"task{f'.{largest}={typed[largest]}' if largest else ''}: {error}") from error
    if one * tasks <= limit:
        return
    if one > limit / 100:  # a single task is too large already
        sizes = {name: size for name, size in family.sizes[split].items() if size is not None}
        name = max(sizes, key=lambda size: sizes[size])
        own = split == "test" and sizes[name] != family.sizes["train"][name]
        raise ConfigError(
            f"task.{'test.' if own else ''}{name}={sizes[name]}: drawing {tasks} tasks at once takes "
            f"{_amount(one * tasks, limit)}"
        )
    raise ConfigError(f"{key}={tasks}: drawing so many tasks at once takes {_amount(one * tasks, limit)}")


def _task_bytes(family: TaskFamily, split: str) -> float:
    """The bytes of one task's examples, from one of the least size; 0 if that is not known.

    A user's own family is not asked: this is called where settings are only checked.
    """
    if not type(family).__module__.startswith("metaexp."):
        return 0.0
    sizes = family.sizes[split]
    shots, queries, ways = (sizes[name] or 0 for name in ("shots", "queries", "ways"))
    try:
        with torch.no_grad(), within_memory():
            index = torch.zeros(1, dtype=torch.int64, device=family.device)
            task = family.sample(split, index, shots=1, queries=1, ways=2 if ways else None)
    except TooLarge:
        raise
    except Exception:  # a family with sizes of its own
        return 0.0
    inputs = sum(leaf.nbytes for part in (task.support, task.query) for leaf in tree_leaves(part.x))
    targets = sum(part.y.nbytes for part in (task.support, task.query))
    rows = sum(part.y.shape[1] for part in (task.support, task.query))
    wide = ways / 2 if ways else 1.0  # one-hot targets are as wide as there are classes
    return (inputs + targets * wide) / max(rows, 1) * (shots + queries) * max(ways, 1)


def _check_scores(config: dict[str, Any], learner: Any, limit: int) -> None:
    steps = learner.test_steps if isinstance(getattr(learner, "test_steps", 0), int) else 0
    for key in sorted(("val", "test"), key=lambda key: -config[key]["tasks"]):
        tasks = config[key]["tasks"]
        needed = tasks * (steps + 1) * 8 * len(learner.metrics)
        if needed > limit:
            both = f" with algo.test_steps={steps}" if steps > 1000 else ""
            raise ConfigError(f"{key}.tasks={tasks}{both}: their scores take {_amount(needed, limit)}")
