"""The test of a trained learner: scores, floors, pictures, and what result.json says."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch

from metaexp.boards.episodes import draw_episodes
from metaexp.boards.tensorboard import Board
from metaexp.checkpoint import Checkpoints, versions
from metaexp.evaluation import Scores, evaluate, mean_predictor, summary
from metaexp.parts import Parts
from metaexp.runs import RunFolder
from metaexp.saved_config import config_sha256
from metaexp.training import Control

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
    step = control.step
    if learner.trains and config["test"]["weights"] == "best" and (best := checkpoints.best(parts.device)):
        learner.load_state_dict(best[0]["state_dict"])
        step = best[0]["metaexp"]["step"]
    with trainer.precision_plugin.forward_context():
        chosen = learner.finish()
        tasks, modes = config["test"]["tasks"], config["test"]["normalise"]
        tick = _ticker(control, tasks)
        scores = evaluate(learner, "test", tasks, modes, tick=tick)
        floors = {"mean": mean_predictor(learner, "test", tasks)}
        board.figure("test/episodes", draw_episodes(learner, "test", 4), control.step)
        if learner.trains:
            learner.load_state_dict(initial)
            floors["scratch"] = evaluate(learner, "test", tasks, modes[:1], tick=tick).arrays
    larger = family.larger
    arrays = {**scores.arrays, **{f"floor_{f}_{name}": v for f, found in floors.items() for name, v in found.items()}}
    folder.write_arrays("test_scores.npz", indices=scores.indices, query_sha256=np.array(scores.query_sha256), **arrays)
    _curves(folder, board, scores, floors, control.step, config)
    test = {name: summary(values, larger(name)) for name, values in scores.arrays.items()}
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
        "weights": {"kind": config["test"]["weights"] if learner.trains else "initial", "step": step},
        "test": test,
        "floors": {floor: {n: summary(v, larger(n)) for n, v in found.items()} for floor, found in floors.items()},
        "val": {"metric": control.judged, "best": control.best_value(), "step": control.best["step"]},
        "protocol": {
            **sizes,
            **({"shots": [varying.fewest, varying.most], "bucket": varying.bucket} if varying else {}),
            "split": config["task"].get("split"),
            "rotation": (config["task"].get("test") or {}).get("rotation") or config["task"].get("rotation"),
            "resize": config["task"].get("resize"),
            "eval_seed": config["task"].get("eval_seed"),
            "normalise": {
                name + suffix: mode for suffix, mode in learner.modes(modes).items() for name in learner.metrics
            },
            "test_steps": learner.test_steps,
            "query_sha256": scores.query_sha256,
        },
        "finish": chosen,
        "mapping": learner.mapping,
        "compiled": parts.loop.compiled,
        "parameters": sum(p.numel() for p in learner.parameters()),
        "versions": versions(),
        "device": str(parts.device),
        "threads": torch.get_num_threads(),
        "commit": _commit(),
        "config_sha256": config_sha256(config),
    }


def _ticker(control: Control, tasks: int) -> Callable[[int], None]:
    """Says how far the test is, every so often; ends it at a signal."""
    print(f"testing on {tasks} tasks ...", file=sys.stderr, flush=True)
    due = [time.monotonic() + control.config["log"]["seconds"]]

    def tick(done: int) -> None:
        control.flag.check()
        if time.monotonic() > due[0]:
            print(f"tested {done}/{tasks}", file=sys.stderr, flush=True)
            due[0] = time.monotonic() + control.config["log"]["seconds"]

    return tick


def metric_names(learner: Any, modes: list[str]) -> list[str]:
    return [name + suffix for suffix in learner.modes(modes) for name in learner.metrics]


def _curves(
    folder: RunFolder, board: Board, scores: Scores, floors: dict[str, Any], step: int, config: dict[str, Any]
) -> None:
    from metaexp.boards.pictures import adaptation_curve, training_curve  # matplotlib takes half a second to import

    title = f"{config['choices']['algo']} on {config['choices']['task']}"
    for name, values in scores.arrays.items():
        lines = {}
        for floor, found in floors.items():
            near = found.get(name, next((v for n, v in found.items() if name.startswith(n)), None))
            if near is None:  # a floor knows the family's metrics alone
                continue
            curve = near[np.isfinite(near).all(1)].mean(0)
            lines[floor] = float(curve[0]) if len(curve) == 1 else curve
        board.figure(f"test/adaptation_{name}", adaptation_curve(name, values, lines, title), step)
    path = folder.path / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    if rows:
        board.figure("train/curve", training_curve(rows, next(iter(scores.arrays)), title), step)


def _commit() -> str | None:
    """The commit of the checkout that the code runs from, with + for uncommitted changes; None outside one."""
    here = Path(__file__).resolve().parent.parent
    if not (here / ".git").exists():
        return None
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=5)
        dirty = subprocess.run(["git", "status", "--porcelain"], cwd=here, capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "") if head.returncode == 0 else None
