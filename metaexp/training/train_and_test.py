"""One run inside one process, from top to bottom: restore a checkpoint, train, test, write the result."""

import gc
import io
import os
import time
from pathlib import Path
from typing import Any

import lightning as L

from metaexp.errors import CheckpointError, ConfigError, Interrupted, TimeLimitError
from metaexp.evaluation.scores import number_of_tasks
from metaexp.loggers.html_page import page_of
from metaexp.loggers.make import make_loggers
from metaexp.loggers.progress import Progress
from metaexp.loggers.result_table import markdown, print_result
from metaexp.metrics import declared, direction
from metaexp.storage.checkpoint_file import load
from metaexp.storage.checkpoints import Checkpoints, Continuation
from metaexp.storage.metrics_log import read_rows
from metaexp.storage.run_folder import RunFolder
from metaexp.storage.saved_config import dump_yaml
from metaexp.system.group import Group
from metaexp.system.signals import StopFlag
from metaexp.tasks.data import raw
from metaexp.tasks.placeholder import check_data
from metaexp.training.build import Experiment
from metaexp.training.checkpoint_form import restore_callbacks
from metaexp.training.choices import choices_line, choices_of
from metaexp.training.control import Control
from metaexp.training.distributed import end_children, no_orphans, tell_lightning
from metaexp.training.doubt import doubt
from metaexp.training.expectation import expectation
from metaexp.training.figures import board_form, shape_of
from metaexp.training.final_test import final_test
from metaexp.training.parent import Parent
from metaexp.training.record import TrainingRecord, restore_training
from metaexp.training.result import flat_settings, metric_names, told_settings
from metaexp.training.stopping import StopRule
from metaexp.training.trainer import make_trainer
from metaexp.training.validation import validation_floors


def train_and_test(
    experiment: Experiment, folder: RunFolder, resumed: Continuation | None, flag: StopFlag, started: float
) -> dict[str, Any]:
    """Train, test and write one run; returns the content of result.json, empty on ranks above 0.

    Processes that have joined already (under a launcher) get the checkpoint from the first one; those that Lightning
    starts for the training read it themselves.

    Args:
        experiment: the parts.
        folder: the claimed run folder; ranks above 0 have one that does not write.
        resumed: run folder and checkpoint (None: the newest) to continue from; None: a fresh run.
        flag: where signals are noted.
        started: `time.monotonic()` at the beginning of the command.

    Raises:
        CheckpointError, ConfigError: there is nothing to continue from, or these settings do not allow it.
        NonFiniteError, TimeLimitError, SpaceError, Interrupted, Terminated: after the checkpoint is written.
    """
    config, training, learner = experiment.config, experiment.training, experiment.learner
    checkpoints = Checkpoints(folder.checkpoints, writes=folder.writes)
    group, device = Group.current(), experiment.device
    found = group.first(lambda: _checkpoint(checkpoints, resumed, experiment), device) if resumed else None
    record = TrainingRecord.of(found["metaexp"]) if found else TrainingRecord()
    resumed_at = record.step if resumed else None
    rank = experiment.ranks.rank
    tell_lightning(experiment.ranks)
    with group.each(
        lambda: make_loggers(config, folder.path, resumed_at, rank, shape_of(config), board_form)
    ) as loggers:
        folder.write_config(config | {"typed": list(config.get("typed") or ())})  # their keys: their values are above
        if folder.writes:
            folder.write_json("inputs.json", {"format": raw.FORMAT, **experiment.family.raw_inputs().settings()})
            if experiment.parent is not None and not found:
                experiment.parent.save(folder.path)
        with _progress(experiment, record.step) as progress:
            progress.note(f"run folder: {folder.path}")
            progress.note(choices_line(choices_of(experiment)))
            initial = {name: value.clone() for name, value in learner.state_dict().items()}
            if found:
                restore_training(training, found, experiment.device)
                folder.metrics.cut(record.step, record.pending)
                folder.status("running", step=record.step, exit_code=None, error=None)
                progress.note(f"resumed at step {record.step} of {config['steps']}")
            elif experiment.parent is not None:
                learner.load_state_dict(experiment.parent.weights)
                learner.meta_step.zero_()  # a run counts its own steps
                progress.note(_started(experiment.parent))
            rule = StopRule.of(config, learner)
            control = Control(config, training, record, rule, folder, loggers, checkpoints, progress, flag)
            trainer = make_trainer(experiment, [control, *experiment.callbacks], loggers.others, folder.path)
            restore_callbacks(experiment.callbacks, found or {}, folder.checkpoints)
            loggers.begin(flat_settings(config), metric_names(learner, ["queries"]) if record.step == 0 else [])
            if record.step == 0:
                loggers.text("run/settings", _fenced(dump_yaml({k: v for k, v in config.items() if k != "typed"})))
                loggers.text("run/command", _fenced(str(config.get("command") or "(started from Python)")))
            with no_orphans(trainer):
                if learner.trains and not record.finished(config["steps"]):
                    if rank == 0 and (said := expectation(training, config["steps"] - record.step)):
                        progress.note(said)
                    _fit(trainer, training, flag)
                _stopped_early(config, folder, record, control.over_time, flag)
        group = Group.current()  # by now with those that Lightning has started
        testing = time.monotonic()
        try:
            with no_orphans(trainer):
                result = final_test(
                    experiment, record, rule, folder, checkpoints, loggers, trainer, flag, initial, group
                )
                if learner.trains and rank == 0:
                    tasks = number_of_tasks(experiment.family, "val", config["val"]["tasks"])
                    floors = validation_floors(learner, tasks, loggers, record.step, lambda done: flag.check())
                    result["val_floors"] = floors
        except Interrupted as stop:
            raise type(stop)(f"{stop}, in the test; {folder.how_to_continue}") from None
        end_children(trainer, wait=True)
        if rank > 0:
            return {}
        if learner.trains:
            known = {name: metric.larger_is_better for name, metric in declared(learner).items()}
            tested, judged = result["weights"]["step"], result["val"]["metric"]
            result["doubt"] = doubt(read_rows(folder.path), known, record.step, tested, judged)
        times = {name: record.times.get(name, 0.0) for name in ("compile", "train", "validate")}
        times["test"] = time.monotonic() - testing
        result["speed"] = {"meta_steps_per_s": record.speed(), "seconds": control.seconds(started), "times": times}
        result["processes"] = experiment.ranks.world
        result["memory"] = {"peak_mb": record.peak_mb()}
        loggers.result(told_settings(config), result["test"], record.step, list(declared(experiment.family)))
        loggers.text("run/result", markdown(result), record.step)
    folder.write_json("result.json", result)
    folder.write_text("report.html", page_of(result, folder.path))
    folder.status("finished", step=record.step, exit_code=0)
    print_result(result, str(folder.path), str(Path(config["out"])))
    return result


def _started(parent: Parent) -> str:
    told = parent.told
    return f"starts from {told['folder']} ({told['checkpoint']}, step {told['step']}), with a fresh optimiser"


def _fenced(text: str) -> str:
    return f"```\n{text.strip()}\n```"


def _progress(experiment: Experiment, step: int) -> Progress:
    config = experiment.config
    shown, every = None if experiment.ranks.rank == 0 else io.StringIO(), config["log"]["seconds"]
    learner = experiment.learner
    larger = direction(declared(learner), next(iter(learner.metrics))) is not False
    return Progress(config["steps"], step, shown, every=every, larger_is_better=larger)


def _fit(trainer: L.Trainer, training: L.LightningModule, flag: StopFlag) -> None:
    frozen = gc.get_freeze_count() > 0  # by a caller that makes many runs in one process
    if not frozen:
        gc.collect()
        gc.freeze()  # existing objects stay: the collector need not scan them again and again
    try:
        trainer.fit(training)
    # Lightning's way to end after Ctrl-C, or a SIGTERM while its own handler is set. ValueError: outside the main
    # thread it still tries to ignore further signals.
    except (SystemExit, ValueError) as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise error.__context__ from None
        if isinstance(error, ValueError) or flag.requested is None:
            raise
    finally:
        if not frozen:
            gc.unfreeze()  # otherwise a sweep in one process would keep every job's learner and data


def _stopped_early(
    config: dict[str, Any], folder: RunFolder, record: TrainingRecord, over_time: bool, flag: StopFlag
) -> None:
    """Raise what ended the training before its end: the time limit, Ctrl-C, SIGTERM."""
    if record.finished(config["steps"]):
        return
    if over_time:
        raise TimeLimitError(
            f"time_limit={config['time_limit']} s reached at step {record.step}; {folder.how_to_continue}"
        )
    if flag.requested is not None:
        by = f" by {flag.by}" if flag.by not in (None, "Ctrl-C") else ""
        raise flag.requested(f"stopped at step {record.step}{by}; {folder.how_to_continue}")


def _checkpoint(checkpoints: Checkpoints, resumed: Continuation, experiment: Experiment) -> dict[str, Any]:
    """The checkpoint to continue from; nothing in the run's folder is changed before it has been checked."""
    path, steps = resumed.checkpoint, experiment.config["steps"]
    if path is not None:
        data = load(path, experiment.device)
    elif found := checkpoints.latest(experiment.device):
        data, path = found
    else:
        raise CheckpointError(f"{resumed.folder}: no checkpoint yet; start over with resume=false")
    check_data(experiment.family, data["metaexp"])
    if steps < (step := data["metaexp"]["step"]):
        raise ConfigError(f"steps={steps}: {resumed.folder} is already at step {step}; resume an earlier checkpoint")
    if resumed.checkpoint is not None:
        checkpoints.cut(step)
    os.environ["METAEXP_CHECKPOINT"] = str(path)  # other processes of a distributed run continue from the same
    return data
