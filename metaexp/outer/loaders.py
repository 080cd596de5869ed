"""Lightning's loaders: spans of outer steps for training, indices of tasks for validation and test."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from torch import Tensor

from metaexp.evaluation.scores import chunk_size, chunks, number_of_tasks


class Span(NamedTuple):
    """Outer steps start + 1 ... stop."""

    start: int
    stop: int


def stops(trainer: Any, steps: int, every: list[int]) -> "Stops":
    """Where spans must end for this trainer and its callbacks, besides the given intervals."""
    intervals = [*every, trainer.log_every_n_steps]
    if trainer.enable_validation and isinstance(trainer.val_check_batch, int):
        intervals.append(trainer.val_check_batch)
    ends, before = [steps, trainer.max_steps, trainer.num_training_batches], []
    for callback in trainer.callbacks:
        if isinstance(callback, ModelCheckpoint):
            intervals.append(callback._every_n_train_steps)
        elif isinstance(callback, LearningRateMonitor) and callback.logging_interval != "epoch":
            before.append(trainer.log_every_n_steps)  # it logs before a step: the rate used for that step
        intervals += [n for n in (getattr(callback, "every_n_train_steps", None),) if isinstance(n, int)]
    finite = [int(end) for end in ends if 0 <= end < math.inf]
    return Stops(min(finite), [n for n in intervals if n >= 1], [n for n in before if n > 1])


class Stops(NamedTuple):
    """Ends of spans: `end`, every multiple of `intervals`, and the step before every multiple of `before`."""

    end: int
    intervals: list[int]
    before: list[int] = []

    def after(self, step: int) -> int:
        """The first end of a span after `step`."""
        nexts = [(step // n + 1) * n for n in self.intervals]
        nexts += [((step + 1) // n + 1) * n - 1 for n in self.before]
        return min([self.end, *nexts])


class Spans:
    """Lightning's loader of one epoch: the spans from the clock to the end. Its length is in outer steps.

    Args:
        training: a `MetaTraining`; its clock gives the beginning, and its `stopped` ends the epoch early.
    """

    def __init__(self, training: Any):
        self.training = training

    def __len__(self) -> int:
        return max(1, int(self.training.steps))  # Lightning skips a loader of length 0, with all hooks

    def __iter__(self) -> Iterator[Span]:
        training = self.training
        while not training.stopped and (start := training.clock) < training.stops.end:
            span = Span(start, training.stops.after(start))
            training.progress.begin(span.stop)
            yield span


class TaskIndices:
    """Lightning's loader of a split's tasks: their indices, int64 [tasks of a chunk] each."""

    def __init__(self, learner: Any, split: str, tasks: int):
        self.family, self.split, self.tasks, self.size = learner.family, split, tasks, chunk_size(learner)

    def __len__(self) -> int:
        runs = self.family.runs(self.split, number_of_tasks(self.family, self.split, self.tasks))
        return sum(-(-len(run) // self.size) for run in runs)

    def __iter__(self) -> Iterator[Tensor]:
        return chunks(self.family, self.split, self.tasks, self.size)
