"""The content of result.json and test_scores.npz for a tested run."""

import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_leaves

from metaexp.evaluation.baselines import baseline_metrics
from metaexp.evaluation.calibration import calibration
from metaexp.evaluation.intervals import summary
from metaexp.evaluation.kinds import Kinds, add_by_kind
from metaexp.evaluation.scores import Scores
from metaexp.evaluation.shots_curve import ShotsCurve
from metaexp.metric_names import metric_name
from metaexp.metrics import declared, direction, score_names
from metaexp.nested import leaves
from metaexp.storage.checkpoint_file import versions
from metaexp.storage.saved_config import config_sha256
from metaexp.system.machine import machine
from metaexp.training.build import Experiment
from metaexp.training.choices import choices_of
from metaexp.training.record import TrainingRecord
from metaexp.training.stopping import StopRule
from metaexp.types import Examples

FORMAT = 1  # version of result.json
Arrays = dict[str, np.ndarray]


def make_result(
    experiment: Experiment,
    record: TrainingRecord,
    rule: StopRule,
    weights: dict[str, Any],
    scores: Scores,
    beside: dict[str, Arrays],
    by_shots: ShotsCurve,
    kinds: Kinds | None = None,
    **more: Any,
) -> dict[str, Any]:
    """The content of result.json without speed and memory.

    Args:
        experiment: the experiment as tested.
        record, rule: those of its training.
        weights: kind and step of the tested weights.
        scores: of the test tasks; `beside`: of the baselines, by name; `by_shots`: the curve against shots.
        kinds: of the test tasks, where the family mixes several.
        more: further entries.
    """
    config, learner, family = experiment.config, experiment.learner, experiment.family
    larger, modes = partial(direction, baseline_metrics(family) | declared(learner)), config["test"]["normalise"]
    test = {name: summary(values, larger(name)) for name, values in scores.arrays.items()}
    for suffix, sums in scores.calibration.items():
        test[metric_name(next(iter(learner.metrics)), suffix)]["ece"] = calibration(sums)
    choices = config["choices"]
    floors = {name: {n: summary(v, larger(n)) for n, v in found.items()} for name, found in beside.items()}
    add_by_kind(test, scores.arrays, kinds)
    for name, found in beside.items():
        add_by_kind(floors[name], found, kinds)
    return {
        "format": FORMAT,
        "algo": choices["algo"],
        "task": choices["task"],
        "model": choices["model"],
        "experiment": choices.get("experiment"),
        "seed": config["seed"],
        "steps": record.step,
        "stopped": record.reason,
        "weights": weights,
        "test": test,
        "floors": floors,
        "shots": by_shots.result(),
        "val": {"metric": rule.judged, "best": record.best_value(), "step": record.best["step"]},
        "protocol": _protocol(experiment, modes) | {"query_sha256": scores.query_sha256},
        **more,
        "command": config.get("command"),
        "debug": config.get("debug"),
        "choices": choices_of(experiment),
        **({"data": known} if (known := family.record()) else {}),
        "mapping": learner.mapping,
        "compiled": experiment.training.compiled,
        "skipped_steps": experiment.training.skipped,
        "train_tasks": family.train_count,
        "parameters": sum(p.numel() for p in learner.parameters()),
        "versions": versions(),
        "device": str(experiment.device),
        "machine": machine(experiment.device),
        "threads": torch.get_num_threads(),
        "commit": _commit(),
        "config_sha256": config_sha256(config),
        "data_sha256": family.content_sha256(),
    }


def _protocol(experiment: Experiment, modes: list[str]) -> dict[str, Any]:
    """How the test was done: what must be equal for numbers to be comparable."""
    task, learner, family = experiment.config["task"], experiment.learner, experiment.family
    varying = family.varying("test")
    return {
        **family.sizes["test"],
        **({"shots": [varying.fewest, varying.most], "bucket": varying.bucket} if varying else {}),
        "split": task.get("split"),
        "rotation": (task.get("test") or {}).get("rotation") or task.get("rotation"),
        "resize": task.get("resize"),
        "eval_seed": task.get("eval_seed"),
        "normalise": score_names(learner.metrics, learner.modes(modes)),
        "test_steps": learner.test_steps,
        **family.protocol,
    }


def adapted_parameters(learner: Any) -> int:
    """How many numbers `adapt` returns for one test task; 0 for a learner that reads the task itself."""
    if learner.reads_info:
        return 0
    support, _, key, _ = learner.family.sample("test", torch.zeros(1, dtype=torch.int64, device=learner.family.device))
    with torch.no_grad():
        adapted = learner.adapt(Examples(support.x[0], support.y[0]), key[0])
    return sum(leaf.numel() for leaf in tree_leaves(adapted) if isinstance(leaf, torch.Tensor))


def score_arrays(scores: Scores, beside: dict[str, Arrays], by_shots: ShotsCurve) -> Arrays:
    """The arrays of test_scores.npz."""
    arrays = {"indices": scores.indices, "query_sha256": np.array(scores.query_sha256), **scores.arrays}
    arrays |= {f"floor_{floor}_{name}": v for floor, found in beside.items() for name, v in found.items()}
    arrays |= {metric_name("calibration", suffix): sums for suffix, sums in scores.calibration.items()}
    curves = by_shots.arrays | {f"floor_{f}_{n}": v for f, found in by_shots.floors.items() for n, v in found.items()}
    return arrays | {"shots": np.array(by_shots.shots, int)} | {f"shots_curve_{n}": v for n, v in curves.items()}


def metric_names(learner: Any, modes: list[str]) -> list[str]:
    """The learner's metrics in these normalisation modes, as they are named in result.json."""
    return list(score_names(learner.metrics, learner.modes(modes)))


def flat_settings(config: dict[str, Any]) -> dict[str, Any]:
    """Settings by dotted key, without those that do not describe a run."""
    hidden = ("_partial_", "trusted")
    return {key: value for key, value in leaves(config) if key.rpartition(".")[2] not in hidden}


def told_settings(config: dict[str, Any]) -> dict[str, Any]:
    """The settings that tell a run from others: what was chosen, and what was typed.

    The jobs of a sweep have typed the same keys, so that they have the same columns.
    """
    flat, typed = flat_settings(config), config.get("typed") or {}
    always = ("choices.algo", "choices.task", "choices.model", "seed", "steps")
    return {key: flat[key] for key in dict.fromkeys([*always, *typed]) if key in flat}


def _commit() -> str | None:
    """The commit of the checkout that the code runs from, with + for uncommitted changes; None outside a checkout."""
    here = Path(__file__).resolve().parent.parent.parent
    if not (here / ".git").exists():
        return None
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=5)
        dirty = subprocess.run(["git", "status", "--porcelain"], cwd=here, capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "") if head.returncode == 0 else None
