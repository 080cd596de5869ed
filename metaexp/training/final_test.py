"""The test of a trained learner: scores, baselines, the curve against shots, pictures, the result."""

import time
from collections.abc import Callable
from itertools import count
from typing import Any

import lightning as L
import numpy as np
import torch

from metaexp.errors import Interrupted, Terminated
from metaexp.evaluation.baselines import baselines
from metaexp.evaluation.kinds import kind_scalars, kinds_of
from metaexp.evaluation.scores import evaluate, number_of_tasks, validator
from metaexp.evaluation.shots_curve import shots_curve
from metaexp.loggers.run_loggers import RunLoggers
from metaexp.storage.checkpoints import Checkpoints
from metaexp.storage.run_folder import RunFolder
from metaexp.system.group import ALONE, Group
from metaexp.system.output import say
from metaexp.system.signals import StopFlag
from metaexp.training.build import Experiment
from metaexp.training.figures import draw_episodes, draw_kinds, draw_test, show_views
from metaexp.training.forgetting import against_parent
from metaexp.training.predictions import write_predictions
from metaexp.training.record import TrainingRecord
from metaexp.training.result import adapted_parameters, make_result, score_arrays
from metaexp.training.stopping import StopRule
from metaexp.training.within import Within


def final_test(
    experiment: Experiment,
    record: TrainingRecord,
    rule: StopRule,
    folder: RunFolder,
    checkpoints: Checkpoints,
    loggers: RunLoggers,
    trainer: L.Trainer,
    flag: StopFlag,
    initial: dict[str, torch.Tensor],
    group: Group = ALONE,
) -> dict[str, Any]:
    """Test the best or the last weights on the test tasks; writes test_scores.npz and the pictures.

    Args:
        experiment: the parts; if the learner trains, it ends up with the weights `initial`.
        record, rule: those of the training.
        folder: where the scores are written; `checkpoints`: where the best weights are.
        loggers: receive the pictures.
        trainer: gives the precision.
        flag: a signal ends the test.
        initial: the learner's state before training, for the baseline `scratch`.
        group: the processes of the run, which share the tasks.

    Returns:
        The content of result.json without speed and memory; {} in processes other than the first.

    Raises:
        CheckpointError: the best weights are damaged.
        Interrupted, Terminated: at a signal.
    """
    config, learner = experiment.config, experiment.learner
    learner.to(experiment.device)
    weights = {"kind": "last" if learner.trains else "initial", "step": record.step}
    if learner.trains and config["test"]["weights"] == "best":
        best = group.first(lambda: _best(checkpoints, experiment.device), experiment.device)
        if best is not None:
            learner.load_state_dict(best["state_dict"])
            weights = {"kind": "best", "step": best["step"]}
    modes = config["test"]["normalise"]
    tasks = number_of_tasks(experiment.family, "test", config["test"]["tasks"])

    def untrained(state: dict[str, torch.Tensor], wanted: list[str]) -> dict[str, np.ndarray]:
        """Scores of weights before this training, which get a rate that suits them, too."""
        learner.load_state_dict(state)
        learner.finish(validator(learner, choosing, group))
        return evaluate(learner, "test", tasks, wanted, tick=tick, group=group).arrays

    with trainer.precision_plugin.forward_context():
        choosing = _ticker(config, flag, "choosing for the test: {} validation tasks", group)
        chosen = learner.finish(validator(learner, choosing, group))
        tell = say if group.rank == 0 else _quiet
        tell(f"testing on {tasks} tasks ...")
        tick = _ticker(config, flag, f"tested {{}}/{tasks}", group)
        keep = bool(config["test"].get("predictions"))
        scores = evaluate(learner, "test", tasks, modes, tick=tick, calibrate=True, group=group, keep=keep)
        beside = baselines(experiment.family, "test", tasks, tick=tick, group=group)
        adapted = adapted_parameters(learner)
        few = min(config["test"].get("curve_tasks", 200), tasks)
        report = _ticker(config, flag, "other shots: tested {} tasks", group)
        by_shots = shots_curve(learner, _wanted(config), few, modes[0], report, scores.arrays, group)
        for shots, less in by_shots.short.items():
            tell(f"curve against shots: at {shots}, {less} of {few} tasks have fewer rows and give all they have")
        for shots, reason in by_shots.skipped.items():
            tell(f"curve against shots: {shots} left out ({reason})")
        if group.rank == 0 and loggers.draws:
            loggers.figure("test/episodes", draw_episodes(learner, "test", 4), record.step)
            show_views(learner, "test", loggers, record.step)
        within = None
        if group.rank == 0 and learner.acts:
            within = Within(learner, tasks, _ticker(config, flag, "within the task: {} tasks", ALONE))
        if group.rank == 0 and keep:
            report = _ticker(config, flag, f"predictions: {{}}/{tasks} tasks", ALONE)
            write_predictions(learner, scores.predictions, modes, folder, report, tell)
        known: dict[str, Any] = {}
        if experiment.parent is not None:
            tested = {name: value.clone() for name, value in learner.state_dict().items()}
            beside["parent"] = untrained(experiment.parent.weights, modes)
            tell("testing on the tasks of the run that it started from ...")
            known["parent"] = against_parent(experiment, tested, (beside["parent"], scores.arrays), tick, group)
        if learner.trains:
            beside["scratch"] = untrained(initial, modes[:1])
            if within is not None:
                within.before()
    if group.rank > 0:
        return {}
    curves = within.arrays() if within is not None else {}
    folder.write_arrays("test_scores.npz", **score_arrays(scores, beside, by_shots), **curves)
    kinds = kinds_of(experiment.family, "test", tasks)
    result = make_result(
        experiment, record, rule, weights, scores, beside, by_shots, kinds, finish=chosen,
        adapted_parameters=adapted, **known,
    )  # fmt: skip
    if kinds is not None:
        loggers.scalars(kind_scalars(result["test"]), record.step)
    if loggers.draws:
        draw_test(learner, folder, loggers, scores, beside, by_shots, record.step, config)
        draw_kinds(learner, loggers, result, record.step)
        if within is not None:
            title = f"{config['choices']['algo']} on {config['choices']['task']}, within a task"
            loggers.figure("test/within", within.picture(title), record.step)
    return result


def _best(checkpoints: Checkpoints, device: torch.device) -> dict[str, Any] | None:
    found = checkpoints.best(device)
    return found and {"state_dict": found[0]["state_dict"], "step": found[0]["metaexp"]["step"]}


def _wanted(config: dict[str, Any]) -> list[int] | None:
    shots = config["test"].get("curve_shots")
    return shots if shots is None or isinstance(shots, list) else [shots]


def _quiet(message: str) -> None:
    """The first process says it."""


def _ticker(config: dict[str, Any], flag: StopFlag, what: str, group: Group) -> Callable[[int], None]:
    """A function that prints the progress of the test from time to time and ends it at a signal.

    Several processes vote once each of them has scored a chunk: a signal may reach only one, and all must stop.
    """
    due, chunks = [time.monotonic() + config["log"]["seconds"]], count(1)

    def tick(done: int) -> None:
        flag.beat()
        if group.world == 1:
            flag.check()
        elif next(chunks) % group.world == 0:
            kinds = (Interrupted, Terminated)
            asked = group.any(*(flag.requested is kind for kind in kinds))
            if any(asked):  # otherwise what arrived since the vote waits for the next one
                flag.requested = kinds[asked.index(True)]
                flag.check()
        if group.rank == 0 and time.monotonic() > due[0]:
            say(what.format(done))
            due[0] = time.monotonic() + config["log"]["seconds"]

    return tick
