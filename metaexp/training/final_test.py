"""The test of a trained learner: scores, floors, pictures, and what result.json says."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch.utils._pytree import tree_leaves

from metaexp.evaluation.baselines import baseline_metrics, baselines
from metaexp.evaluation.calibration import calibration
from metaexp.evaluation.intervals import summary
from metaexp.evaluation.scores import Scores, evaluate
from metaexp.evaluation.shots_curve import ShotsCurve, shots_curve
from metaexp.loggers.tensorboard import Board
from metaexp.metric_names import metric_name, near
from metaexp.metrics import declared, direction, score_names
from metaexp.storage.checkpoint_file import Checkpoints, versions
from metaexp.storage.run_folder import RunFolder
from metaexp.storage.saved_config import config_sha256
from metaexp.system.machine import machine
from metaexp.training.build import Parts
from metaexp.training.control import Control
from metaexp.training.figures import draw_episodes, show_views
from metaexp.types import Examples

FORMAT = 1  # of result.json


def test(
    parts: Parts,
    folder: RunFolder,
    checkpoints: Checkpoints,
    control: Control,
    board: Board,
    trainer: L.Trainer,
    initial: dict[str, torch.Tensor],
) -> dict[str, Any]:
    config, learner, family = parts.config, parts.learner, parts.family
    learner.to(parts.device)
    step, kind = control.step, "last" if learner.trains else "initial"
    if learner.trains and config["test"]["weights"] == "best" and (best := checkpoints.best(parts.device)):
        learner.load_state_dict(best[0]["state_dict"])
        step, kind = best[0]["metaexp"]["step"], "best"
    with trainer.precision_plugin.forward_context():
        chosen = learner.finish()
        tasks, modes = config["test"]["tasks"], config["test"]["normalise"]
        print(f"testing on {tasks} tasks ...", file=sys.stderr, flush=True)
        tick = _ticker(control, f"tested {{}}/{tasks}")
        scores = evaluate(learner, "test", tasks, modes, tick=tick, calibrate=True)
        beside = baselines(family, "test", tasks, tick=tick)
        adapted = adapted_parameters(learner)
        few, tell = min(config["test"].get("curve_tasks", 200), tasks), _ticker(control, "other shots: tested {} tasks")
        by_shots = shots_curve(learner, _wanted(config), few, modes[0], tell, scores.arrays)
        for shots, reason in by_shots.skipped.items():
            _say(f"curve against shots: {shots} left out ({reason})")
        board.figure("test/episodes", draw_episodes(learner, "test", 4), control.step)
        show_views(learner, "test", board, control.step, _say)
        if learner.trains:
            learner.load_state_dict(initial)
            learner.finish()  # the untrained network, too, has the rate that suits it
            beside["scratch"] = evaluate(learner, "test", tasks, modes[:1], tick=tick).arrays
    larger = partial(direction, baseline_metrics(family) | declared(learner))
    folder.write_arrays("test_scores.npz", **_arrays(scores, beside, by_shots))
    _pictures(folder, board, scores, beside, by_shots, control.step, config)
    test = {name: summary(values, larger(name)) for name, values in scores.arrays.items()}
    for suffix, sums in scores.calibration.items():
        test[metric_name(next(iter(learner.metrics)), suffix)]["ece"] = calibration(sums)
    sizes, varying = family.sizes["test"], family.varying("test")
    return {
        "format": FORMAT,
        "algo": config["choices"]["algo"],
        "task": config["choices"]["task"],
        "model": config["choices"]["model"],
        "experiment": config["choices"].get("experiment"),
        "seed": config["seed"],
        "steps": control.step,
        "stopped": control.reason,
        "weights": {"kind": kind, "step": step},
        "test": test,
        "floors": {floor: {n: summary(v, larger(n)) for n, v in found.items()} for floor, found in beside.items()},
        "shots": by_shots.result(),
        "val": {"metric": control.judged, "best": control.best_value(), "step": control.best["step"]},
        "protocol": {
            **sizes,
            **({"shots": [varying.fewest, varying.most], "bucket": varying.bucket} if varying else {}),
            "split": config["task"].get("split"),
            "rotation": (config["task"].get("test") or {}).get("rotation") or config["task"].get("rotation"),
            "resize": config["task"].get("resize"),
            "eval_seed": config["task"].get("eval_seed"),
            "normalise": score_names(learner.metrics, learner.modes(modes)),
            "test_steps": learner.test_steps,
            "query_sha256": scores.query_sha256,
        },
        "finish": chosen,
        "mapping": learner.mapping,
        "compiled": parts.loop.compiled,
        "skipped_steps": parts.loop.skipped,
        "parameters": sum(p.numel() for p in learner.parameters()),
        "adapted_parameters": adapted,
        "versions": versions(),
        "device": str(parts.device),
        "machine": machine(parts.device),
        "threads": torch.get_num_threads(),
        "commit": _commit(),
        "config_sha256": config_sha256(config),
    }


def adapted_parameters(learner: Any) -> int:
    """Numbers in what `adapt` returns for one test task; 0 where it is the task itself that is known."""
    if learner.reads_info:
        return 0
    support, _, key, _ = learner.family.sample("test", torch.zeros(1, dtype=torch.int64, device=learner.family.device))
    with torch.no_grad():
        adapted = learner.adapt(Examples(support.x[0], support.y[0]), key[0])
    return sum(leaf.numel() for leaf in tree_leaves(adapted) if isinstance(leaf, torch.Tensor))


def _wanted(config: dict[str, Any]) -> list[int] | None:
    shots = config["test"].get("curve_shots")
    return shots if shots is None or isinstance(shots, list) else [shots]


def _arrays(scores: Scores, beside: dict[str, Any], by_shots: ShotsCurve) -> dict[str, np.ndarray]:
    """What test_scores.npz holds."""
    arrays = {"indices": scores.indices, "query_sha256": np.array(scores.query_sha256), **scores.arrays}
    arrays |= {f"floor_{floor}_{name}": v for floor, found in beside.items() for name, v in found.items()}
    arrays |= {metric_name("calibration", suffix): sums for suffix, sums in scores.calibration.items()}
    curves = by_shots.arrays | {f"floor_{f}_{n}": v for f, found in by_shots.floors.items() for n, v in found.items()}
    return arrays | {"shots": np.array(by_shots.shots, int)} | {f"shots_curve_{n}": v for n, v in curves.items()}


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _ticker(control: Control, what: str) -> Callable[[int], None]:
    """Says how far the test is, every so often; ends it at a signal."""
    due = [time.monotonic() + control.config["log"]["seconds"]]

    def tick(done: int) -> None:
        control.flag.check()
        if time.monotonic() > due[0]:
            print(what.format(done), file=sys.stderr, flush=True)
            due[0] = time.monotonic() + control.config["log"]["seconds"]

    return tick


def metric_names(learner: Any, modes: list[str]) -> list[str]:
    return list(score_names(learner.metrics, learner.modes(modes)))


def _pictures(
    folder: RunFolder,
    board: Board,
    scores: Scores,
    beside: dict[str, Any],
    by_shots: ShotsCurve,
    step: int,
    config: dict[str, Any],
) -> None:
    from metaexp.plots.curves import adaptation_curve, shots_picture, training_curve  # matplotlib takes half a second
    from metaexp.plots.reliability import reliability

    title = f"{config['choices']['algo']} on {config['choices']['task']}"
    for name, values in scores.arrays.items():
        lines = {}
        for floor, found in beside.items():
            if (other := near(found, name)) is not None:
                curve = other[np.isfinite(other).all(1)].mean(0)
                lines[floor] = float(curve[0]) if len(curve) == 1 else curve
        board.figure(f"test/adaptation_{name}", adaptation_curve(name, values, lines, title), step)
    for name, values in by_shots.arrays.items():
        others = {floor: near(found, name) for floor, found in by_shots.floors.items()}
        others = {floor: other for floor, other in others.items() if other is not None}
        board.figure(f"test/shots_{name}", shots_picture(name, by_shots.shots, values, others, title), step)
    if scores.calibration:
        board.figure("test/calibration", reliability(scores.calibration, title), step)
    path = folder.path / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    if rows:
        board.figure("train/curve", training_curve(rows, next(iter(scores.arrays)), title), step)


def _commit() -> str | None:
    """The commit of the checkout that the code runs from, with + for uncommitted changes; None outside one."""
    here = Path(__file__).resolve().parent.parent.parent
    if not (here / ".git").exists():
        return None
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=5)
        dirty = subprocess.run(["git", "status", "--porcelain"], cwd=here, capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "") if head.returncode == 0 else None
