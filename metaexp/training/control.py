"""The run's own callback: rows of metrics, validation, checkpoints, early stop, signals, time limit."""

import logging
import math
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed

from metaexp.errors import Interrupted, NonFiniteError, Terminated
from metaexp.loggers.progress import Progress
from metaexp.loggers.run_loggers import RunLoggers
from metaexp.outer.meta_training import MetaTraining
from metaexp.storage.checkpoint_file import readable
from metaexp.storage.checkpoints import Checkpoints
from metaexp.storage.run_folder import RunFolder
from metaexp.storage.saved_config import learned_sha256
from metaexp.system.signals import StopFlag
from metaexp.training.record import TrainingRecord
from metaexp.training.stopping import StopRule
from metaexp.training.validation import Validation

log = logging.getLogger(__name__)
STATUS = 1.0  # least seconds between two writes of status.json when nothing else requires one


class Control(L.Callback):
    """Drives one run's meta-training between outer steps.

    Args:
        config: the resolved configuration.
        training: the meta-training that it drives.
        record: progress of the training; part of every checkpoint.
        rule: decides when training ends early.
        folder, loggers, checkpoints, progress: where files, metrics and messages go.
        flag: set when a signal asks for a stop.
    """

    def __init__(
        self,
        config: dict[str, Any],
        training: MetaTraining,
        record: TrainingRecord,
        rule: StopRule,
        folder: RunFolder,
        loggers: RunLoggers,
        checkpoints: Checkpoints,
        progress: Progress,
        flag: StopFlag,
    ):
        self.config, self.training, self.record, self.rule = config, training, record, rule
        self.folder, self.loggers, self.checkpoints = folder, loggers, checkpoints
        self.progress, self.flag = progress, flag
        before = "parent" if config.get("parent") else "scratch"
        self.validation = Validation(training.learner, config["val"]["tasks"], loggers, before)
        self.over_time = False
        self._settings = learned_sha256(config)
        self._left_out: set[str] = set()  # callbacks whose state cannot be kept
        self._opening = False  # during the validation before the first step
        self._stepping, self._since = 0.0, 0  # seconds in steps and steps since the last row, in this process
        self._first = True  # whether this process has made no step yet: the first one may compile
        self._started = self._entered = self._saved = self._validating = time.monotonic()
        self._reported = -math.inf  # when status.json was last written
        self._due = record.step  # step of the last checkpoint
        self._seen = record.step  # step of the last end of a span: spans after an early end change nothing

    def seconds(self, since: float | None = None) -> float:
        """Seconds of this run up to now, earlier processes included; this one counts from `since` (None: from the start
        of its training)."""
        return self.record.spent + time.monotonic() - (self._started if since is None else since)

    # -- Lightning's hooks -------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Adds the run's record to the checkpoint, and leaves out what could not be read back."""
        for name in [name for name, state in checkpoint.get("callbacks", {}).items() if not readable(state)]:
            del checkpoint["callbacks"][name]
            if name not in self._left_out:
                self._left_out.add(name)
                log.warning(f"the state of {name} holds more than plain values and tensors: not kept in checkpoints")
        checkpoint["metaexp"] = self.record.state(self.training, self.seconds(), self._settings)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """From here on, signals end the run between two steps."""
        self.flag.hold()
        self.flag.beat()
        self._entered = self._saved = time.monotonic()
        self.trainer = trainer

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Validates before the first step, or makes up for a validation that a stop left undone."""
        if self.record.pending:
            self._opening = True
            self.training.progress.validate()
            self._opening = False
            self._save()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Starts the clock of the span."""
        self._entered = time.monotonic()

    def on_outer_step_end(self, trainer: Any, training: MetaTraining, step: int) -> None:
        """After every outer step: shows progress, writes an overdue checkpoint, decides whether to stop here."""
        self.record.step = step
        if self._first:
            self._warmed_up(step)
        else:
            self._since += 1
        self.flag.beat()
        self.progress.update(step, training.loss)
        limit = self.config["time_limit"]
        self.over_time = limit is not None and time.monotonic() - self._started > limit
        if self._late() and not self._ends_span(step):  # there the checkpoint follows the row and the validation
            training.check()
            training.progress.reached(step)
            self._save()
        stop = self._agree() if training.world > 1 else self.flag.requested is not None or self.over_time
        training.stopped = training.stopped or stop

    def _warmed_up(self, step: int) -> None:
        """The first step of this process is in no rate."""
        self._first, now = False, time.monotonic()
        self.record.took("compile" if self.training.compiled else "train", now - self._entered)
        self._entered = now
        self.progress.begin(step)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """After a span: writes the row, and the checkpoint if it is due and no validation comes first."""
        step = self.record.step
        if step == self._seen:
            return
        self._seen = step
        spent = time.monotonic() - self._entered
        self._stepping += spent
        self.record.took("train", spent)
        if self.training.last_row[0] == step:
            self._row()
        if step % self.config["val"]["every"] == 0 or step == self.config["steps"]:
            self.record.pending = True  # Lightning validates next
        else:
            self._save_if_due()

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Starts the clock of a validation."""
        self._validating = time.monotonic()

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """A signal ends a validation; the continued run makes it anew. Ranks vote when each has scored a chunk."""
        self.flag.beat()
        world = self.training.world
        if self.flag.requested is not None if world == 1 else (batch_idx + 1) % world == 0 and self._agree():
            self.training.validation_given_up = self.training.stopped = True

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Writes the row, judges it, and writes the pictures and the checkpoint."""
        if self.training.scores is not None:
            with trainer.precision_plugin.forward_context():
                self._validated()
        self.record.took("validate", time.monotonic() - self._validating)
        if not self._opening:
            self._save_if_due()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Records it if another callback has ended the run."""
        early = self.record.step < self.config["steps"] and trainer.should_stop
        if early and self.record.reason is None and self.flag.requested is None and not self.over_time:
            self.record.reason = f"a callback stopped the run at step {self.record.step}"
            self._save()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Adds to the error where the last finite weights are."""
        if isinstance(exception, NonFiniteError) and self.checkpoints.steps():
            self._report()
            last: Path = self.checkpoints.path(self.checkpoints.steps()[0])
            exception.args = (f"{exception.args[0]}; last finite checkpoint: {last}",)

    # -- what is due -------------------------------------------------------------------------------------------------

    def _late(self) -> bool:
        seconds = self.config["checkpoint"]["seconds"]
        return self.training.world == 1 and seconds is not None and time.monotonic() - self._saved > seconds

    def _ends_span(self, step: int) -> bool:
        c = self.config
        every = (c["val"]["every"], c["log"]["every"], c["checkpoint"]["every"])
        return step == c["steps"] or any(step % interval == 0 for interval in every)

    def _agree(self) -> bool:
        """Whether to stop. Ranks must stop at the same step for the same reason, but a signal may reach one rank only,
        or each at a different time."""
        requests: list[type[Interrupted]] = [Interrupted, Terminated]
        votes = torch.tensor([*(float(self.flag.requested is kind) for kind in requests), float(self.over_time)])
        votes = votes.to(self.training.device)
        torch.distributed.all_reduce(votes)
        *asked, over_time = (votes > 0).tolist()
        self.over_time = over_time
        if any(asked):  # otherwise what arrived since the vote waits for the next one
            self.flag.requested = requests[asked.index(True)]
        return any(asked) or over_time

    def _row(self) -> None:
        """Writes a row of training, which MetaTraining has made and passed to Lightning's loggers."""
        step, values = self.training.last_row
        rate = self._since / self._stepping if self._since and self._stepping > 0 else None
        if rate is not None:
            self.record.rates.append(rate)
        row = {"kind": "train", "step": step, **values}
        self.folder.metrics.append(row | {"seconds": self.seconds(), "meta_steps_per_s": rate})
        self.loggers.board.scalars({f"train/{name}": value for name, value in values.items()}, step)
        if (speed := self.record.speed()) is not None:  # the same number on the board, on screen and in the result
            self.loggers.scalars({"speed/meta_steps_per_s": speed}, step)
            self.progress.rate = speed
        if time.monotonic() - self._reported > STATUS:
            self._report()
        self._stepping, self._since = 0.0, 0

    def _validated(self) -> None:
        record, scores, training = self.record, self.training.scores, self.training
        assert scores is not None
        record.pending = False
        row = self.validation.row(scores, record.step, record.best)
        shown = self.validation.scalars(scores, row)
        self.folder.metrics.append(row | {"seconds": self.seconds()})
        if shown:
            loss = training.loss()  # NaN before this process's first step
            self.progress.validation(record.step, shown, loss if math.isfinite(loss) else None)
        verdict = self.rule.judge(row, record.best, record.step)
        if verdict.better:
            self.checkpoints.save_best(self._write, record.step)
            self._due = -1  # a checkpoint that records this best value must follow
        if verdict.reason:
            record.reason, training.stopped = verdict.reason, True
            self._due = -1  # the reason must be in the checkpoint
        last = record.step == self.config["steps"] or training.stopped
        self.validation.draw(scores, record.step, record.scratch, last)

    def _save_if_due(self) -> None:
        step = self.record.step
        last = step == self.config["steps"] or self.training.stopped
        if self._due != step and (last or self._late() or step % self.config["checkpoint"]["every"] == 0):
            self._save()

    def _save(self) -> None:
        self.folder.metrics.sync()
        self.loggers.flush()
        self.checkpoints.save(self._write, self.record.step)
        self._report()
        self._due, self._saved = self.record.step, time.monotonic()

    def _write(self, path: Path) -> None:
        for name, value in self.training.learner.named_parameters():
            if not value.isfinite().all():  # a finite gradient may still overflow in the optimiser
                raise NonFiniteError(
                    f"non-finite weights {name} at outer step {self.record.step}: lower the outer rate, or set "
                    "clip.norm"
                )
        self.trainer.save_checkpoint(path, weights_only=False)

    def _report(self) -> None:
        self.folder.status("running", step=self.record.step)
        self._reported = time.monotonic()
