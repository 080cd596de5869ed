"""What happens between outer steps: rows of metrics, validation, checkpoints, early stop, signals, time limit."""

import math
import statistics
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed
from torch.utils._pytree import tree_map

from metaexp.errors import Interrupted, NonFiniteError, Terminated
from metaexp.evaluation.baselines import baselines
from metaexp.evaluation.intervals import summary
from metaexp.evaluation.scores import Scores, evaluate
from metaexp.loggers.progress import Progress
from metaexp.loggers.tensorboard import Board, validation_scalars
from metaexp.metric_names import forms, near, split_name
from metaexp.metrics import declared, direction, sign
from metaexp.outer.loop import OuterLoop, Span, Spans
from metaexp.storage.checkpoint_file import Checkpoints
from metaexp.storage.run_folder import RunFolder
from metaexp.system.machine import peak_mb
from metaexp.system.signals import StopFlag
from metaexp.tasks.placeholder import keep
from metaexp.training.figures import draw_episodes, show_views

FORMAT = 1  # of what `state` returns
PICTURES = 30.0  # seconds between pictures of validation tasks
STATUS = 1.0  # least seconds between two writings of status.json where nothing else calls for one


class Control(L.Callback):
    """Drives one run's meta-training; its `state` is part of every checkpoint, so that resuming is exact.

    Args:
        config: the resolved configuration.
        learner, loop: what is trained and how.
        folder, board, checkpoints, progress, flag: where things go and where a stop comes from.
    """

    def __init__(
        self,
        config: dict[str, Any],
        learner: Any,
        loop: OuterLoop,
        folder: RunFolder,
        board: Board,
        checkpoints: Checkpoints,
        progress: Progress,
        flag: StopFlag,
    ):
        self.config, self.learner, self.loop = config, learner, loop
        self.folder, self.board, self.checkpoints, self.progress, self.flag = folder, board, checkpoints, progress, flag
        self.metric = next(iter(learner.metrics))
        self.judged = config["stop"]["metric"] or self.metric  # what selects the best weights
        self.sign = sign(direction(declared(learner), self.judged))
        self.step = 0
        self.best: dict[str, Any] = {"value": None, "step": 0, "waited": 0}
        self.reason: str | None = None  # why the run ended early
        self.pending = True  # whether the validation of the present step is due
        self.over_time = False
        self.rates: list[float] = []  # meta-steps per second, one per row
        self.spent, self.peak = 0.0, 0  # seconds and peak memory in MB of the processes that a resumed run had before
        self._stepping, self._since = 0.0, 0  # seconds in steps and steps since the last row, in this process
        self._started = self._entered = self._saved = time.monotonic()
        self._told = -math.inf  # when status.json was last written
        self._drawn = time.monotonic()  # when the last pictures were made: none before the first step, which they delay
        self._due = 0  # step of the last checkpoint
        self._seen = 0  # step of the last end of a span: spans after an early end change nothing
        loop.after_step = self.after_step

    # -- the loader --------------------------------------------------------------------------------------------------

    def spans(self) -> Spans:
        """The remaining spans of outer steps; an empty one where only a validation is left."""
        c = self.config
        spans = Spans(self.step, c["steps"], [c["val"]["every"], c["log"]["every"], c["checkpoint"]["every"]])
        spans.spans = spans.spans or [Span(self.step, self.step)]
        return spans

    # -- state -------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Plain containers and tensors for the checkpoint."""
        return {
            "format": FORMAT,
            "step": self.step,
            "best": dict(self.best),
            "reason": self.reason,
            "pending": self.pending,
            "sums": self.loop.sums(),
            "count": self.loop.count,
            "skipped": self.loop.skipped,
            "schedule": self.loop.schedule.state_dict() if self.loop.schedule is not None else None,
            "mapping": self.learner.mapping,
            "compiled": self.loop.compiled,
            "rates": list(self.rates),
            "seconds": self.seconds(),
            "peak_mb": self.peak_mb(),
            "family": keep(self.learner.family),
            "trained_on": self.learner.family.trained_on,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a checkpoint's state."""
        self.step, self.best, self.reason = state["step"], dict(state["best"]), state["reason"]
        self.pending = state.get("pending", False)
        self.rates = list(state["rates"])
        self.spent, self.peak = state.get("seconds", 0.0), state.get("peak_mb", 0)
        self.loop.set_sums(state["sums"], state["count"])
        self.loop.skipped = state.get("skipped", 0)
        if self.loop.schedule is not None and state["schedule"] is not None:
            self.loop.schedule.load_state_dict(state["schedule"])
        self._due = self._seen = self.step

    def seconds(self, since: float | None = None) -> float:
        """Of this run up to now, over all its processes; of this one from `since` (None: where the training began)."""
        return self.spent + time.monotonic() - (self._started if since is None else since)

    def peak_mb(self) -> int:
        """The most memory that a process of this run has had."""
        return max(self.peak, peak_mb())

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Lightning's hook: adds our state to its checkpoint."""
        checkpoint["metaexp"] = self.state()

    # -- between steps -----------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """The first validation stands before the first step; a stop may have left another one to do."""
        self.flag.hold()
        self._entered = self._saved = time.monotonic()
        self.trainer = trainer
        if self.pending:
            self._validate()
            self._save()
        trainer.should_stop = self.loop.stopped

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Starts the clock of the span."""
        self._entered = time.monotonic()

    def after_step(self, step: int) -> bool:
        """Called after every outer step; True ends the span at once."""
        self.step = step
        self._since += 1
        self.progress.update(step, self.loop.loss)
        limit = self.config["time_limit"]
        self.over_time = limit is not None and time.monotonic() - self._started > limit
        if self._late() and not self._ends_span(step):  # there the checkpoint follows the row and the validation
            self.loop.check_late()
            self._save()
        return self._agree() if self.loop.world > 1 else self.flag.requested is not None or self.over_time

    def _late(self) -> bool:
        seconds = self.config["checkpoint"]["seconds"]
        return self.loop.world == 1 and seconds is not None and time.monotonic() - self._saved > seconds

    def _ends_span(self, step: int) -> bool:
        c = self.config
        every = (c["val"]["every"], c["log"]["every"], c["checkpoint"]["every"])
        return step == c["steps"] or any(step % interval == 0 for interval in every)

    def _agree(self) -> bool:
        """Ranks must leave at the same step and for the same reason: a signal may reach one of them, or each late."""
        requests: list[type[Interrupted]] = [Interrupted, Terminated]
        votes = torch.tensor([*(float(self.flag.requested is kind) for kind in requests), float(self.over_time)])
        votes = votes.to(self.learner.device)
        torch.distributed.all_reduce(votes)
        *asked, over_time = (votes > 0).tolist()
        self.over_time = over_time
        if any(asked):  # else what came since the vote stands for the next one
            self.flag.requested = requests[asked.index(True)]
        return any(asked) or over_time

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """After a span: the row, the validation and the checkpoint that are due, in this order."""
        if self.step == self._seen:
            return
        self._seen = self.step
        self._stepping += time.monotonic() - self._entered
        if self.loop.count and self.step % self.config["log"]["every"] == 0:
            self._row()
        if self.step % self.config["val"]["every"] == 0 or self.step == self.config["steps"]:
            self.pending = True
            self._validate()
        last = self.step == self.config["steps"] or self.loop.stopped
        if self._due != self.step and (last or self._late() or self.step % self.config["checkpoint"]["every"] == 0):
            self._save()
        trainer.should_stop = self.loop.stopped  # thousands of empty spans may be left

    # -- what is due -------------------------------------------------------------------------------------------------

    def _row(self) -> None:
        mean: Any = tree_map(lambda t: float(t) / self.loop.count, self.loop.sums())
        rate = self._since / self._stepping if self._stepping > 0 else 0.0
        self.rates.append(rate)
        values = {"outer_loss": mean["loss"], "meta_gradient_norm": mean["norm"], **mean["logs"]}
        groups = self.loop.optimizer.param_groups
        for place, group in enumerate(groups):
            values["learning_rate" + (f"_{place}" if len(groups) > 1 else "")] = float(group["lr"])
        if self.loop.skips:
            values["skipped_steps"] = self.loop.skipped
        row = {"kind": "train", "step": self.step, **values}
        self.folder.log(row | {"seconds": self.seconds(), "meta_steps_per_s": rate})
        self.board.scalars({f"train/{name}": value for name, value in values.items()}, self.step)
        self.board.scalars({"speed/meta_steps_per_s": rate}, self.step)
        if time.monotonic() - self._told > STATUS:
            self._tell()
        self.loop.set_sums()
        self._stepping, self._since = 0.0, 0

    def _tell(self) -> None:
        self.folder.status("running", step=self.step)
        self._told = time.monotonic()

    def _validate(self) -> None:
        """Metrics at every inner step on validation tasks; keeps the best weights and decides on an early stop."""
        try:
            with self.trainer.precision_plugin.forward_context():
                tasks, stop = self.config["val"]["tasks"], self.flag.check if self.loop.world == 1 else lambda: None
                scores = evaluate(self.learner, "val", tasks, ["queries"], diagnose=True, tick=lambda done: stop())
                (mean,) = baselines(self.learner.family, "val", tasks, ["mean"]).values()
        except Interrupted:  # the checkpoint that follows says that this validation is still to be done
            self.loop.stopped = True
            return
        self.pending = False
        row: dict[str, Any] = {"kind": "val", "step": self.step}
        shown: dict[str, float] = {}
        for name, values in scores.arrays.items():
            found = summary(values)
            is_metric = split_name(name).metric in self.learner.metrics
            row[name] = {key: found[key] for key in ("mean", "ci95", "median", "diverged", "per_step")}
            if found["mean"] is None:
                continue
            if is_metric:
                shown[name] = found["mean"]
                self.board.scalars(validation_scalars(name, found["per_step"]), self.step)
            else:
                self.board.scalars({f"val/{name}": found["mean"]}, self.step)
        row["floors"] = {"mean": {name: summary(values)["mean"] for name, values in mean.items()}}
        self._floors(scores.arrays, row["floors"])
        self.folder.log(row | {"seconds": self.seconds()})
        if shown:
            loss = self.loop.loss()  # not a number before this process's first step
            self.progress.validation(self.step, shown, loss if math.isfinite(loss) else None)
        self._judge(row)
        self._draw(scores)

    def _draw(self, scores: Scores) -> None:
        """Pictures of the validation tasks, at the last validation and at the latest every so many seconds."""
        last = self.step == self.config["steps"] or self.loop.stopped
        if not self.folder.writes or not (last or time.monotonic() - self._drawn > PICTURES):
            return
        from metaexp.plots.curves import adaptation_curve  # matplotlib takes half a second to import

        self.board.figure("val/episodes", draw_episodes(self.learner, "val", 4), self.step)
        for name in forms(self.metric, scores.arrays):
            floor = self.best.get("scratch", {}).get(name)
            lines = {"scratch": floor} if floor is not None else None
            self.board.figure(f"val/adaptation_{name}", adaptation_curve(name, scores.arrays[name], lines), self.step)
        if last:
            show_views(self.learner, "val", self.board, self.step, self.progress.note)
        self._drawn = time.monotonic()

    def _floors(self, arrays: dict[str, Any], floors: dict[str, Any]) -> None:
        """Mean predictor, and the same network and inner loop before any meta-training (step 0)."""
        if self.step == 0:
            finals = {name: summary(arrays[name])["mean"] for name in forms(self.metric, arrays)}
            self.best["scratch"] = finals
        floors["scratch"] = self.best.get("scratch", {})
        for metric in forms(self.metric, arrays):
            for floor, values in floors.items():
                value = near(values, metric)
                if value is not None:
                    self.board.scalars({f"floor/{floor}/{metric}": value}, self.step)

    def _judge(self, row: dict[str, Any]) -> None:
        stop = self.config["stop"]
        name = stop["metric"] or forms(self.metric, row)[0]
        found = near(row, name)
        value = found["mean"] if isinstance(found, dict) and not found["diverged"] else None
        better = value is not None and (
            self.best["value"] is None or self.sign * value > self.sign * self.best["value"]
        )
        if better:
            self.best |= {"value": value, "step": self.step, "waited": 0}
            self.checkpoints.save_best(self._write, self.step)
            self._due = -1  # a checkpoint that knows this best must follow
        elif self.step:
            self.best["waited"] += 1
        if value is not None and stop["target"] is not None and self.sign * value >= self.sign * stop["target"]:
            self.reason = f"target: {name} {value:.6g} at step {self.step} (stop.target={stop['target']})"
        elif stop["patience"] is not None and self.best["waited"] >= stop["patience"]:
            best = self.best["value"]
            since = "; all had diverged tasks" if best is None else f" since step {self.best['step']} ({best:.6g})"
            self.reason = f"patience: no better {name} in {stop['patience']} validations{since}"
        if self.reason:
            self.loop.stopped = True
            self._due = -1  # the reason must be in the checkpoint

    def _write(self, path: Path) -> None:
        for name, value in self.learner.named_parameters():
            if not value.isfinite().all():  # a finite gradient may still overflow in the optimiser
                raise NonFiniteError(
                    f"non-finite weights {name} at outer step {self.step}: lower the outer rate, or set clip.norm"
                )
        self.trainer.save_checkpoint(path, weights_only=False)

    def _save(self) -> None:
        self.folder.sync()
        self.board.flush()
        self.checkpoints.save(self._write, self.step)
        self._tell()
        self._due, self._saved = self.step, time.monotonic()

    # -- end ---------------------------------------------------------------------------------------------------------

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Says where the last finite weights are."""
        if isinstance(exception, NonFiniteError) and self.checkpoints.steps():
            self._tell()
            last: Path = self.checkpoints.path(self.checkpoints.steps()[0])
            exception.args = (f"{exception.args[0]}; last finite checkpoint: {last}",)

    def speed(self) -> float | None:
        """Median meta-steps per second of the rows after the first, in which compiling and warming up fall."""
        rates = self.rates[1:] or self.rates
        return statistics.median(rates) if rates else None

    def finished(self) -> bool:
        """Whether meta-training is over (all steps, or stopped early by its own rule)."""
        return self.reason is not None or (self.step >= self.config["steps"] and not self.pending)

    def best_value(self) -> float | None:
        """Best validation value so far."""
        value = self.best["value"]
        return value if value is not None and math.isfinite(value) else None
