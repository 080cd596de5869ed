"""Lightning's counters in outer steps: one batch of Lightning is a span of many outer steps.

Under manual optimisation Lightning counts the calls of its own optimiser wrapper, of which a compiled step makes none,
and one batch per `training_step`. `OuterProgress` presents every span as its LAST outer step, as if the steps before
had been batches too. So `trainer.global_step`, `batch_idx`, progress bars, `val_check_interval`, `limit_train_batches`,
`max_steps` and the steps that loggers and callbacks see all mean outer steps. It sets private counters of Lightning:
pyproject.toml pins Lightning's minor version, and the tests of this file fail if another version counts differently.
"""

from typing import Any

import lightning as L


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
