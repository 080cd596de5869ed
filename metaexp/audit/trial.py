"""Three outer steps of a run, with its checkpoints, validation and choice of weights, in a folder of their own."""

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from metaexp.errors import Interrupted
from metaexp.evaluation.scores import validator
from metaexp.loggers.progress import Progress
from metaexp.loggers.run_loggers import RunLoggers
from metaexp.loggers.tensorboard import TensorBoard
from metaexp.outer.meta_training import MetaTraining
from metaexp.storage.checkpoints import Checkpoints
from metaexp.storage.run_folder import RunFolder
from metaexp.system.ranks import Ranks
from metaexp.system.signals import StopFlag
from metaexp.tasks.base import TaskFamily
from metaexp.training.control import Control
from metaexp.training.record import TrainingRecord, restore_training
from metaexp.training.stopping import StopRule
from metaexp.training.trainer import make_trainer

STEPS = 3
META_BATCHES = (4, 5, 3, 2, 1)


@dataclass
class Parts:
    """What `metaexp.training.build.Experiment` holds, for a learner that exists already."""

    config: dict[str, Any]
    family: TaskFamily
    learner: Any
    optimizer: torch.optim.Optimizer
    schedule: Any
    training: MetaTraining
    device: str = "cpu"
    dtype: torch.dtype = torch.float64
    accelerator: str = "cpu"
    ranks: Ranks = field(default_factory=Ranks)


def small(config: dict[str, Any], varying_bucket: int | None = None) -> dict[str, Any]:
    """A run's configuration, cut down to three outer steps with a validation and a checkpoint after each."""
    size = next(n for n in META_BATCHES if not varying_bucket or varying_bucket % n == 0)
    groups = {
        "device": {"accelerator": "cpu", "precision": "64-true", "strategy": "auto", "devices": 1},
        "val": {"every": 1, "tasks": size},
        "log": {"every": 1},
        "checkpoint": {"every": 1, "seconds": 10**9},
        "stop": {"target": None, "patience": None},
    }
    cut = {name: config[name] | values for name, values in groups.items()}
    plain = {"steps": STEPS, "meta_batch": size, "accumulate": min(config["accumulate"], 2), "compile": False}
    none: dict[str, Any] = {"time_limit": None, "callbacks": {}, "logger": {}, "trainer": {}, "resume": False}
    return config | cut | plain | none


def parts_of(learner: Any, config: dict[str, Any], make: Callable[..., torch.optim.Optimizer] | None = None) -> Parts:
    """The parts of a run with this learner, Adam and a rate that falls at every step, or an optimiser of one's own."""
    made = list(learner.meta_parameters().values())
    optimizer = (make or torch.optim.Adam)(made, lr=1e-3) if make is None else make(made)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    training = MetaTraining(
        learner, optimizer, schedule, steps=STEPS, meta_batch=config["meta_batch"],
        every=[1], val_every=1, val_tasks=config["val"]["tasks"],
    )  # fmt: skip
    return Parts(config, learner.family, learner, optimizer, schedule, training)


class _Stop(L.Callback):
    """Asks for a stop after an outer step, as a signal does."""

    def __init__(self, flag: StopFlag, step: int):
        self.flag, self.step, self.done = flag, step, False

    def on_outer_step_end(self, trainer: Any, training: Any, step: int) -> None:
        if step == self.step:
            self.flag.requested, self.done = Interrupted, True


def train(parts: Any, path: Path, stop_after: int | None = None, resume: bool = False) -> Checkpoints:
    """Train as a run does; returns its checkpoints. The parts end up as they are after the last step.

    Args:
        parts: an Experiment, or `Parts`.
        path: the run's folder: a new one, or with `resume` that of a stopped run.
        stop_after: the outer step after which the run is stopped; None: it trains to its end.
        resume: continue from the newest checkpoint.
    """
    config, training = parts.config, parts.training
    with RunFolder.reopen(path) if resume else RunFolder.claim_named(path) as folder, StopFlag() as flag:
        checkpoints, record = Checkpoints(folder.checkpoints), TrainingRecord()
        if resume:
            found = checkpoints.latest(parts.device)
            assert found is not None
            record = TrainingRecord.of(found[0]["metaexp"])
            restore_training(training, found[0], parts.device)
            folder.metrics.cut(record.step, record.pending)
        else:
            folder.write_config({key: value for key, value in config.items() if key != "typed"})
        quiet = Progress(config["steps"], record.step, io.StringIO(), every=1e9)
        loggers = RunLoggers(TensorBoard(path, rank=1))  # writes nothing
        rule = StopRule.of(config, parts.learner)
        control = Control(config, training, record, rule, folder, loggers, checkpoints, quiet, flag)
        stop = _Stop(flag, config["steps"] + 1 if stop_after is None else stop_after)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            make_trainer(parts, [stop, control]).fit(training)
        if not stop.done:
            flag.check()  # Ctrl-C
        return checkpoints


def outcome(parts: Any) -> dict[str, Any]:
    """Weights, buffers, the optimiser's tensors and rates, and the schedule's step, after training."""
    learner, optimizer = parts.learner, parts.optimizer
    slots = {
        f"{place}.{name}": value.detach().clone()
        for place, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
        if isinstance(value, Tensor)
    }
    rates = torch.tensor([float(group["lr"]) for group in optimizer.param_groups], dtype=torch.float64)
    last = torch.tensor(float(getattr(parts.schedule, "last_epoch", 0)))
    weights = {name: value.detach().clone() for name, value in learner.state_dict().items()}
    return {"weights": weights, "slots": slots, "rates": rates, "schedule": last}


def chosen(parts: Any, checkpoints: Checkpoints | None) -> dict[str, Tensor]:
    """The weights that would be tested: the best on validation, and what `finish` makes of them."""
    if checkpoints is not None and (best := checkpoints.best("cpu")):
        parts.learner.load_state_dict(best[0]["state_dict"])
    parts.learner.finish(validator(parts.learner))
    return {name: value.detach().clone() for name, value in parts.learner.state_dict().items()}
