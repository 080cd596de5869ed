"""The outer loop as Lightning's module: `L.Trainer(...).fit(MetaTraining(learner, optimizer))`."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from metaexp.algos.trial import first_tasks, nothing_learned
from metaexp.errors import NothingLearnedError
from metaexp.evaluation.intervals import summary
from metaexp.evaluation.scores import Scores, Scoring
from metaexp.outer.choose_step import choose_step
from metaexp.outer.clip import Clip
from metaexp.outer.loaders import Span, Spans, Stops, TaskIndices, stops
from metaexp.outer.outer_step import FiniteCheck, OuterStep, Step, Sums, as_step
from metaexp.outer.progress import OuterProgress
from metaexp.outer.rollout_step import check_alone
from metaexp.system.group import Group


class MetaTraining(L.LightningModule):
    """Meta-training: outer steps on the meta-batches of a family, validation on its validation tasks.

    Lightning's `training_step` runs a span of outer steps, so that Lightning's overhead is paid once per span; spans
    end where validation, logging, a checkpoint or the trainer require it. `trainer.global_step` is the number of outer
    steps done. The module brings its own loaders, begins at the learner's clock and ends at `steps`. A callback may
    define `on_outer_step_end(trainer, training, step)`, called after every outer step, and may set `stopped`.

    Logged: `train/outer_loss`, `train/meta_gradient_norm`, the learner's own logs and the outer rate every
    `trainer.log_every_n_steps` outer steps, and `val/METRIC` (mean over the validation tasks after adaptation).

    Args:
        learner: the MetaLearner; its state_dict is the module's.
        optimizer: optimises its meta-parameters.
        schedule: stepped after every outer step, or None.
        steps: total number of outer steps.
        meta_batch: tasks per meta-batch over all processes; `accumulate` meta-batches make one outer step.
        clip_norm, clip_value: largest norm of the meta-gradient, largest absolute value of an element (clipped first).
        skips: how many steps with a non-finite loss or gradient may be skipped; `skipped` counts them.
        compiled: run the step, or its meta-gradient, as a compiled graph.
        rank, world: of this process; ranks take disjoint tasks.
        every: spans also end at multiples of these numbers of outer steps.
        val_every: outer steps between validations; None: the trainer's `val_check_interval`.
        val_tasks: number of validation tasks.
        modes: normalisation modes of the validation, see `MetaLearner.modes`.

    Raises:
        ValueError: a number out of range.
    """

    def __init__(
        self,
        learner: Any,
        optimizer: torch.optim.Optimizer,
        schedule: LRScheduler | None = None,
        steps: int = 10_000,
        meta_batch: int = 25,
        accumulate: int = 1,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        skips: int = 0,
        compiled: bool = False,
        rank: int = 0,
        world: int = 1,
        every: Iterable[int] = (),
        val_every: int | None = None,
        val_tasks: int = 200,
        modes: Iterable[str] = ("queries",),
    ):
        super().__init__()
        for name, value in (("meta_batch", meta_batch), ("accumulate", accumulate), ("val_tasks", val_tasks)):
            if value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
        for name, value in (("steps", steps), ("skips", skips)):
            if value < 0:
                raise ValueError(f"{name}={value}: must be at least 0")
        if meta_batch % world:
            raise ValueError(f"meta_batch={meta_batch}: must be a multiple of the {world} processes")
        if hasattr(learner, "update_gradient"):
            check_alone(learner, meta_batch, accumulate, world)
        self.automatic_optimization = False
        self.learner, self.optimizer, self.schedule, self.steps = learner, optimizer, schedule, steps
        self.meta_batch, self.accumulate, self.clip = meta_batch, accumulate, Clip(clip_norm, clip_value)
        self.compiled, self.rank, self.world = compiled, rank, world
        self.finite = FiniteCheck(skips, getattr(learner, "inner_lr", None))
        self.every, self.val_every, self.val_tasks, self.modes = list(every), val_every, val_tasks, list(modes)
        self.compile_reason: str | None = None  # why a step that was to be compiled is not, or a part of it
        self.stopped = False  # once True, no further outer step is made
        self.stops = Stops(steps, self.every)
        self._step: OuterStep | None = None
        self._storage: list[int] = []  # where parameters and buffers were when the step was made
        self._sums: Sums | None = None  # from a checkpoint, until the step is built
        self._callbacks: list[Callable[..., Any]] = []
        self._sets_validation = False  # whether the trainer's validation interval comes from `val_every`
        self.scores: Scores | None = None  # of the last validation; None while it runs or if it was given up
        self.validation_given_up = False
        self.last_row: tuple[int, dict[str, float]] = (0, {})  # step and values
        self._scoring: Scoring | None = None

    # -- outer steps -------------------------------------------------------------------------------------------------

    @property
    def clock(self) -> int:
        """Outer steps done."""
        return int(self.learner.meta_step)

    @property
    def skipped(self) -> int:
        """Outer steps skipped because their loss or gradient was not finite."""
        return self.finite.skipped

    def run(self, span: Span) -> int:
        """Run the span's outer steps, ending early if `stopped` is set. Returns the number of the last one.

        Raises:
            NonFiniteError: the loss or the gradient of more than `skips` steps was inf or NaN. Neither the last of them
                nor any later step changed anything, except for eager steps on a GPU: there the weights since then are
                worthless.
        """
        if self.stopped or span.start == span.stop:
            return span.start
        reached = span.start
        for index in range(span.start, span.stop):
            self.advance(index)
            reached = index + 1
            for callback in self._callbacks:
                callback(self.trainer, self, reached)
            if self.stopped:
                break
        self.check()
        return reached

    def step(self, index: int) -> Step:
        """Outer step number `index` (from 0): changes the learner, the optimiser, the schedule and the clock.

        Raises:
            NonFiniteError: the loss or the gradient is inf or NaN and `skips` steps were skipped already; nothing was
                changed.
        """
        self.advance(index)
        self.check()
        assert self._step is not None
        return as_step(self._step.last, self._step.form)

    def check(self) -> None:
        """Run the finite check for all steps since the last call, if it is not made at every step."""
        if self._step is not None:
            self._step.check()

    def loss(self) -> float:
        """Outer loss of the last step; NaN before this process's first."""
        last = None if self._step is None else self._step.last
        return float("nan") if last is None else float(last[0])

    @property
    def count(self) -> int:
        """Number of outer steps in `sums`."""
        return self._step.count if self._step is not None else self._sums.steps if self._sums is not None else 0

    def sums(self) -> dict[str, Any] | None:
        """Sums over `count` steps of loss [], norm [] and the tree of logs; None before the first."""
        if not self.count:
            return None
        if self._step is not None:
            values, form = self._step.sums, self._step.form
        else:
            assert self._sums is not None
            values, form = self._sums.values, self._sums.form
        assert values is not None
        assert form is not None
        tree: dict[str, Any] = tree_unflatten(list(values.clone().unbind()), form)
        return tree

    def set_sums(self, sums: dict[str, Any] | None = None, count: int = 0) -> None:
        """Continue from the sums of a checkpoint, or start from zero."""
        self._sums = None
        if sums is not None and count:
            leaves, form = tree_flatten(sums)
            self._sums = Sums(torch.stack(leaves), form, count)
        if self._step is not None:
            self._step.set_sums(self._sums)

    def advance(self, index: int) -> None:
        """Outer step number `index` (from 0), without the check that is made at the end of a span."""
        if self._step is None:  # built only now: until the first step the learner may still move to its device
            self.learner.settle()
            share = self.meta_batch // self.world
            self.learner.check_connected(lambda: first_tasks(self.learner, share))
            self._step = choose_step(self, index)
            self._storage = self._addresses()
            if self._sums is not None:
                self._step.set_sums(self._sums)
        self._step(index)
        if index == 0 and self._step.last is not None and self._step.last[1] == 0:
            raise NothingLearnedError(nothing_learned(self.learner))
        if self.schedule is not None:
            self.schedule.step()

    # -- Lightning: training -----------------------------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        """The outer optimiser and its schedule, both stepped by the outer step."""
        if self.schedule is None:
            return self.optimizer
        return {"optimizer": self.optimizer, "lr_scheduler": {"scheduler": self.schedule, "interval": "step"}}

    def train_dataloader(self) -> Spans:
        """The remaining spans of outer steps."""
        return Spans(self)

    def configure_callbacks(self) -> list[L.Callback]:
        """No callbacks; but before the trainer's own look at it, it validates every `val_every` outer steps."""
        trainer = self.trainer
        self._sets_validation = False
        if self.val_every is not None and self.steps and isinstance(trainer.val_check_interval, float):
            limit = trainer.limit_train_batches
            most = limit if isinstance(limit, int) else max(1, int(self.steps * limit))
            if trainer.val_check_interval == 1.0 and most:
                trainer.val_check_interval = min(self.val_every, self.steps, most)
                self._sets_validation = True
        warnings.filterwarnings("ignore", message=".*ModelCheckpoint.*manual optimization")  # steps are counted right
        return []

    def on_fit_start(self) -> None:
        """The family draws on the trainer's device, in the learner's precision.

        Raises:
            ValueError: the trainer has another number of processes than `world`: each would do the same work.
        """
        if self.trainer.world_size != self.world:
            raise ValueError(
                f"world={self.world}: the trainer has {self.trainer.world_size} processes; make MetaTraining with "
                "world= their number and rank= that of this one"
            )
        self._place_family()

    def on_validation_start(self) -> None:
        """As `on_fit_start`, for `trainer.validate`."""
        self._place_family()

    def on_test_start(self) -> None:
        """As `on_fit_start`, for `trainer.test`."""
        self._place_family()

    def _place_family(self) -> None:
        family = self.learner.family
        dtype = next((p.dtype for p in self.learner.parameters() if p.is_floating_point()), family.dtype)
        if (family.device, family.dtype) != (self.device, dtype):
            family.to(self.device, dtype)

    def on_train_start(self) -> None:
        """Lightning's counters start at the clock, also after the checkpoint of another program or version."""
        self.progress.count(self.clock)
        self.stops = stops(self.trainer, self.steps, self.every)
        hooks = (getattr(callback, "on_outer_step_end", None) for callback in self.trainer.callbacks)  # type: ignore[attr-defined]
        self._callbacks = [hook for hook in hooks if hook is not None]
        if self._step is not None and self._storage != self._addresses():  # moved since: its tensors are others now
            step, self._step = self._step, None
            if step.count and step.sums is not None and step.form is not None:
                self._sums = Sums(step.sums.to(self.device), step.form, step.count)

    def _addresses(self) -> list[int]:
        """Where the learner's parameters and buffers are."""
        return [t.data_ptr() for t in (*self.learner.parameters(), *self.learner.buffers())]

    def on_fit_end(self) -> None:
        """The trainer's interval is its own again."""
        if self._sets_validation:
            self.trainer.val_check_interval, self._sets_validation = 1.0, False

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What exact resuming needs beside weights and optimiser; a run's own record has it too."""
        if "metaexp" not in checkpoint:
            checkpoint["meta_training"] = {"sums": self.sums(), "count": self.count, "skipped": self.skipped}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on from the sums and the skipped steps of a checkpoint."""
        state = checkpoint.get("metaexp") or checkpoint.get("meta_training") or {}
        self.finite.skipped = state.get("skipped", 0)
        self.set_sums(state.get("sums"), state.get("count", 0))

    @property
    def progress(self) -> OuterProgress:
        """The counters of the current trainer."""
        return OuterProgress(self.trainer)

    def training_step(self, span: Span, batch_idx: int) -> None:
        """Runs a span of outer steps."""
        reached = self.run(span)
        self.progress.reached(max(reached, 1))
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and self.count and reached % every == 0 and reached > span.start:
            self.log_row(reached)

    def row(self) -> dict[str, float]:
        """Means over the steps since the last row, and the outer rates, by name."""
        mean: Any = tree_map(lambda t: float(t) / self.count, self.sums())
        values = {"outer_loss": mean["loss"], "meta_gradient_norm": mean["norm"], **mean["logs"]}
        groups = self.optimizer.param_groups
        for place, group in enumerate(groups):
            values["learning_rate" + (f"_{place}" if len(groups) > 1 else "")] = float(group["lr"])
        if self.finite.limit:
            values["skipped_steps"] = self.skipped
        return values

    def log_row(self, step: int) -> None:
        """Passes the row to loggers and callbacks, and resets the sums."""
        self.last_row = (step, self.row())
        self.record({f"train/{name}": value for name, value in self.last_row[1].items()}, step)
        self.set_sums()

    def record(self, values: Mapping[str, float], step: int) -> None:
        """Passes values to the trainer's loggers at this outer step, and to its `callback_metrics`."""
        shown = {name: float(value) for name, value in values.items()}
        self.log_dict(shown, logger=False)
        for logger in self.trainer.loggers:
            logger.log_metrics(shown, step)

    def on_train_batch_end(self, outputs: Any, batch: Span, batch_idx: int) -> None:
        """At the last outer step, makes a validation due in any case and ends the trainer."""
        if self._sets_validation and self.clock == self.steps:
            self.trainer.val_check_batch = 1

    def on_train_epoch_end(self) -> None:
        """Ends the only epoch, which holds all outer steps."""
        if self.stopped or self.clock >= self.steps:
            self.trainer.should_stop = True

    # -- Lightning: validation and test --------------------------------------------------------------------------------

    def val_dataloader(self) -> TaskIndices:
        """Indices of the validation tasks, in chunks that are scored at once."""
        return TaskIndices(self.learner, "val", self.val_tasks)

    def test_dataloader(self) -> TaskIndices:
        """Indices of the same number of test tasks."""
        return TaskIndices(self.learner, "test", self.val_tasks)

    def on_validation_epoch_start(self) -> None:
        """Starts with no scores."""
        self.scores, self._scoring = (
            None,
            Scoring(self.learner, "val", self.modes, diagnose=True, group=Group(self.rank, self.world)),
        )
        self.validation_given_up = False

    def on_test_epoch_start(self) -> None:
        """Starts with no scores."""
        self.scores, self._scoring = None, Scoring(self.learner, "test", self.modes, group=Group(self.rank, self.world))
        self.validation_given_up = False

    def validation_step(self, indices: Tensor, batch_idx: int) -> None:
        """Scores a chunk of tasks (one of the processes does), unless a callback has set `validation_given_up`."""
        if not self.validation_given_up:
            assert self._scoring is not None
            with torch.inference_mode(False):  # the inner loop needs gradients
                self._scoring.add(indices)

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Logs means over the tasks as `val/METRIC`."""
        self._finish("val")

    def on_test_epoch_end(self) -> None:
        """Logs means over the tasks as `test/METRIC`."""
        self._finish("test")

    def _finish(self, split: str) -> None:
        scoring, self._scoring = self._scoring, None
        if scoring is None or self.validation_given_up or self.trainer.sanity_checking:
            return
        self.scores = scoring.result()
        means = {name: summary(values)["mean"] for name, values in self.scores.arrays.items()}
        values = {f"{split}/{name}": mean for name, mean in means.items() if mean is not None}
        if self.trainer.state.fn == TrainerFn.FITTING:
            self.record(values, self.clock)
        else:  # `trainer.validate` and `trainer.test` return what is logged
            self.log_dict(values)

    # -- the learner's own state -----------------------------------------------------------------------------------

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The learner's state under the learner's names: a checkpoint shows no trace of this module."""
        return self.learner.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Loads the state into the learner."""
        return self.learner.load_state_dict(state_dict, strict=strict, assign=assign)
