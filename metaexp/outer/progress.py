"""Lightning's counters in outer steps: one batch of Lightning is a span of many outer steps.

Under manual optimisation Lightning counts the calls of its own optimiser wrapper, of which a compiled step makes none,
and one batch per `training_step`. `OuterProgress` presents every span as its LAST outer step, as if the steps before
had been batches too. So `trainer.global_step`, `batch_idx`, progress bars, `val_check_interval`, `limit_train_batches`,
`max_steps` and the steps that loggers and callbacks see all mean outer steps. It sets private counters of Lightning:
pyproject.toml pins Lightning's minor version, and the tests of this file fail if another version counts differently.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import lightning as L
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint


class Span(NamedTuple):
    """Outer steps start + 1 ... stop."""

    start: int
    stop: int


class OuterProgress:
    """A trainer's counters, set in outer steps.

    Args:
        trainer: the trainer that fits a `MetaTraining`.
    """

    def __init__(self, trainer: L.Trainer):
        self.trainer: Any = trainer
        self._loop: Any = trainer.fit_loop.epoch_loop

    def begin(self, stop: int) -> None:
        """Called before a span is handed out: counts all its steps but the last as done."""
        self._set(ready=stop - 1, started=stop - 1, processed=stop - 1, completed=stop - 1)
        self._loop._batches_that_stepped = stop - 1

    def reached(self, step: int) -> None:
        """Called inside `training_step`: Lightning's current batch becomes outer step number `step` (from 1)."""
        self._set(ready=step, started=step, processed=step - 1, completed=step - 1)
        self._loop._batches_that_stepped = step - 1
        self._loop.batch_progress.is_last_batch = step >= self.trainer.num_training_batches
        self.count(step)

    def count(self, step: int) -> None:
        """Sets `trainer.global_step` to `step`."""
        done = self._loop.manual_optimization.optim_step_progress.total
        done.ready = done.completed = step

    def _set(self, **counts: int) -> None:
        for tracker in (self._loop.batch_progress.current, self._loop.batch_progress.total):
            for name, value in counts.items():
                setattr(tracker, name, value)

    def validate(self) -> None:
        """Run Lightning's validation loop now, with its hooks, as between two batches."""
        trainer, first = self.trainer, self.trainer._logger_connector._first_loop_iter
        trainer.validating = True
        self._loop.val_loop.run()
        trainer.training = True
        trainer._logger_connector._first_loop_iter = first


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
        return int(self.training.steps)

    def __iter__(self) -> Iterator[Span]:
        training = self.training
        while not training.stopped and (start := training.clock) < training.stops.end:
            span = Span(start, training.stops.after(start))
            training.progress.begin(span.stop)
            yield span
