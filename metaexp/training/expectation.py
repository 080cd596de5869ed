"""What a training will need, said before it starts where it is much: measured on a task and on a few."""

import time
from typing import Any

import torch

from metaexp.loggers.progress import duration
from metaexp.mapping import piece_size
from metaexp.system.allocator import give_back_freed_memory
from metaexp.system.machine import forget_peak, peak_mb

FEW = 4  # tasks of the second measurement
LEAST_STEPS = 1000  # of a run worth measuring
MUCH_MB, MUCH_SECONDS = 1000, 3600  # from which it is said


def expectation(training: Any, remaining: int) -> str | None:
    """The expected time and memory of the remaining outer steps in one line; None where both are small.

    One task's meta-gradient and that of a few give what a task adds. Changes nothing of the training. On a CPU and
    without the compiler, with which a step takes less.
    """
    learner, tasks = training.learner, training.meta_batch // training.world
    if remaining < LEAST_STEPS or learner.family.device.type != "cpu":
        return None
    few = min(FEW, tasks)
    measured = [_measured(learner, number) for number in (1, 1, few)]  # the first warms up
    least = min(before for _, before, _ in measured)  # a measurement may reuse memory that one before has freed
    (one, _, lower), (some, _, upper) = measured[1:]
    megabytes = _line(lower - least, upper - least, few, piece_size(learner.mapping, tasks))
    seconds = _line(one, some, few, tasks) * training.accumulate
    if megabytes < MUCH_MB and seconds * remaining < MUCH_SECONDS:
        return None
    size = f"{megabytes / 1000:.1f} GB" if megabytes >= MUCH_MB else f"{megabytes:.0f} MB"
    slower = " without the compiler" if training.compiled else ""
    return (
        f"expected: {seconds:.2g} s per outer step{slower}, {duration(seconds * remaining)} for {remaining} steps, and "
        f"{size} of memory; lower meta_batch, algo.inner_steps or steps if that is too much"
    )


def _line(one: float, some: float, few: int, tasks: int) -> float:
    """The value at `tasks` on the line through the measurements at 1 and at `few` tasks."""
    return one + (tasks - 1) * max(some - one, 0.0) / max(few - 1, 1)


def _measured(learner: Any, tasks: int) -> tuple[float, int, int]:
    """Seconds of the meta-gradient of so many tasks, and the memory in MB before it and at its peak."""
    params = {name: p.detach() for name, p in learner.meta_parameters().items()}
    episode = learner.train_batch(torch.arange(tasks, device=learner.family.device))
    give_back_freed_memory()
    forget_peak()
    before, start = peak_mb(), time.perf_counter()
    learner.meta_gradient(params, episode)
    return time.perf_counter() - start, before, peak_mb()
