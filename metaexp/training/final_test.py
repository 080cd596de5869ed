"""The test of a trained learner: scores, baselines, the curve against shots, pictures, the result."""

import time
from collections.abc import Callable
from typing import Any

import lightning as L
import torch

from metaexp.evaluation.baselines import baselines
from metaexp.evaluation.scores import evaluate, validator
from metaexp.evaluation.shots_curve import shots_curve
from metaexp.loggers.run_loggers import RunLoggers
from metaexp.storage.checkpoints import Checkpoints
from metaexp.storage.run_folder import RunFolder
from metaexp.system.output import say
from metaexp.system.signals import StopFlag
from metaexp.training.build import Experiment
from metaexp.training.figures import draw_episodes, draw_test, show_views
from metaexp.training.record import TrainingRecord
from metaexp.training.result import adapted_parameters, make_result, score_arrays
from metaexp.training.stopping import StopRule


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

    Returns:
        The content of result.json without speed and memory.

    Raises:
        CheckpointError: the best weights are damaged.
        Interrupted, Terminated: at a signal.
    """
    config, learner = experiment.config, experiment.learner
    learner.to(experiment.device)
    weights = {"kind": "last" if learner.trains else "initial", "step": record.step}
    if learner.trains and config["test"]["weights"] == "best" and (best := checkpoints.best(experiment.device)):
        learner.load_state_dict(best[0]["state_dict"])
        weights = {"kind": "best", "step": best[0]["metaexp"]["step"]}
    tasks, modes = config["test"]["tasks"], config["test"]["normalise"]
    with trainer.precision_plugin.forward_context():
        choosing = _ticker(config, flag, "choosing for the test: {} validation tasks")
        chosen = learner.finish(validator(learner, choosing))
        say(f"testing on {tasks} tasks ...")
        tick = _ticker(config, flag, f"tested {{}}/{tasks}")
        scores = evaluate(learner, "test", tasks, modes, tick=tick, calibrate=True)
        beside = baselines(experiment.family, "test", tasks, tick=tick)
        adapted = adapted_parameters(learner)
        few = min(config["test"].get("curve_tasks", 200), tasks)
        report = _ticker(config, flag, "other shots: tested {} tasks")
        by_shots = shots_curve(learner, _wanted(config), few, modes[0], report, scores.arrays)
        for shots, reason in by_shots.skipped.items():
            say(f"curve against shots: {shots} left out ({reason})")
        loggers.figure("test/episodes", draw_episodes(learner, "test", 4), record.step)
        show_views(learner, "test", loggers, record.step)
        if learner.trains:
            learner.load_state_dict(initial)
            learner.finish(validator(learner, choosing))  # the untrained network gets a rate that suits it, too
            beside["scratch"] = evaluate(learner, "test", tasks, modes[:1], tick=tick).arrays
    folder.write_arrays("test_scores.npz", **score_arrays(scores, beside, by_shots))
    draw_test(folder, loggers, scores, beside, by_shots, record.step, config)
    return make_result(
        experiment, record, rule, weights, scores, beside, by_shots, finish=chosen, adapted_parameters=adapted
    )


def _wanted(config: dict[str, Any]) -> list[int] | None:
    shots = config["test"].get("curve_shots")
    return shots if shots is None or isinstance(shots, list) else [shots]


def _ticker(config: dict[str, Any], flag: StopFlag, what: str) -> Callable[[int], None]:
    """A function that prints the progress of the test from time to time and ends it at a signal."""
    due = [time.monotonic() + config["log"]["seconds"]]

    def tick(done: int) -> None:
        flag.beat()
        flag.check()
        if time.monotonic() > due[0]:
            say(what.format(done))
            due[0] = time.monotonic() + config["log"]["seconds"]

    return tick
