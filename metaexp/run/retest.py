"""A second test of a run: the same function as after training, in a folder of its own."""

import shutil
import sys
import time
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metaexp.config.instantiate import instantiate
from metaexp.errors import BusyError, CheckpointError, ConfigError
from metaexp.loggers.make import board_of
from metaexp.loggers.result_table import print_result, tested_elsewhere
from metaexp.loggers.run_loggers import RunLoggers
from metaexp.metrics import declared
from metaexp.run.other_data import Other, other_data
from metaexp.run.other_task import OtherTask
from metaexp.run.restore import Restored, load_weights, recorded, restore
from metaexp.storage.metrics_log import read_rows
from metaexp.storage.run_folder import RunFolder
from metaexp.storage.saved_result import read_result
from metaexp.system.allocator import keep_freed_memory
from metaexp.system.machine import peak_mb
from metaexp.system.signals import StopFlag
from metaexp.system.watcher import Watcher
from metaexp.tasks.placeholder import check_data
from metaexp.training.doubt import doubt
from metaexp.training.few_tasks import use_few
from metaexp.training.figures import board_form, shape_of
from metaexp.training.final_test import final_test
from metaexp.training.record import TrainingRecord
from metaexp.training.stopping import StopRule
from metaexp.training.trainer import make_trainer, quiet


def retest(
    run: Path,
    saved: dict[str, Any],
    config: dict[str, Any],
    changed: dict[str, Any],
    out: Path | None = None,
    asked: OtherTask | None = None,
) -> dict[str, Any]:
    """Test a run with a changed configuration, write and print the result; returns the content of result.json.

    Args:
        run: the run's folder; nothing in it is changed except that evaluations/N is added.
        saved: its configuration.
        config: its configuration with the changes.
        changed: the changes by key.
        out: where the folder N goes instead of evaluations/.
        asked: other tasks than those of the run.

    Raises:
        CheckpointError, ConfigError, DataError: the run cannot be tested this way.
        SpaceError, Interrupted: as in training. No folder N is left after any error.
    """
    started = time.monotonic()
    keep_freed_memory()
    quiet()
    other = None if asked is None else other_data(run, saved, config, asked, recorded(run))
    if other is None or other.mark is None:
        config = config | ({} if other is None else {"task": other.task})
        restored = restore(run, config)
        _check_split(saved, config, restored)
        if restored.newest is not None:
            check_data(restored.parts.family, restored.newest["metaexp"])
    else:
        config = config | _of_other(saved, other)
        restored = restore(run, config, family=other.family)
    folder = _claim_next(out or run / "evaluations")
    try:
        with StopFlag(_watcher(folder)) as flag:
            result = _result(restored, folder, flag)
        _add_own(result, restored, changed, time.monotonic() - started)
        if other is not None and other.mark is not None:
            result["evaluation"] |= {"mark": other.mark, "trained_on": config["trained"]["on"], "seen": other.seen}
            with RunLoggers(board_of(config, folder.path)) as loggers:
                loggers.text("test/tested", "  \n".join(tested_elsewhere(result)), result["steps"])
        folder.write_config({key: value for key, value in config.items() if key != "typed"})
        folder.write_json("result.json", result)
        folder.status("finished", step=result["steps"], exit_code=0)
    except BaseException:
        folder.close()
        shutil.rmtree(folder.path, ignore_errors=True)
        raise
    folder.close()
    _print(result, restored, folder.path, changed, time.monotonic() - started)
    return result


def _of_other(saved: dict[str, Any], other: Other) -> dict[str, Any]:
    """What the configuration of a test on other tasks says: those tasks, and what the run was trained on."""
    trained = {"on": saved["choices"]["task"], "data": other.trained_data, "task": saved["task"]}
    return {"task": other.task, "choices": saved["choices"] | {"task": other.choice}, "trained": trained}


def _watcher(folder: RunFolder) -> Watcher:
    """Ends this process at a second signal, also while a call hangs; no folder N is left then either."""
    return Watcher(lambda code, why: shutil.rmtree(folder.path, ignore_errors=True))


def _check_split(saved: dict[str, Any], config: dict[str, Any], restored: Restored) -> None:
    """Raises ConfigError if a new eval_seed moves classes or tasks from training to the test."""
    if saved["task"].get("eval_seed") == config["task"].get("eval_seed"):
        return
    now = getattr(restored.parts.family, "splits", None)
    if isinstance(now, dict):
        family: Any = use_few(instantiate(saved["task"], group="task", trusted=set(config["trusted"])), saved)
        if any(not torch.equal(part.cpu(), family.splits[split].cpu()) for split, part in now.items()):
            raise ConfigError(
                f"task.eval_seed={config['task']['eval_seed']}: here it also decides what is for training and what for "
                f"testing, so the test would contain what was trained on; it must stay {saved['task'].get('eval_seed')}"
            )


def _claim_next(out: Path) -> RunFolder:
    """Claims the first free folder out/N, counting from 1."""
    while True:
        numbers = [int(path.name) for path in out.iterdir() if path.name.isdecimal()] if out.is_dir() else []
        try:
            return RunFolder.claim_named(out / str(max(numbers, default=0) + 1))
        except BusyError:  # another evaluation has just taken it
            continue


def _result(restored: Restored, folder: RunFolder, flag: StopFlag) -> dict[str, Any]:
    experiment, config = restored.parts, restored.parts.config
    record = TrainingRecord() if restored.newest is None else TrainingRecord.of(restored.newest["metaexp"])
    if restored.newest is not None:
        kind = config["test"]["weights"]
        step = load_weights(restored, kind)  # the test loads the best again; here a misfit gives a one-line error
        if restored.state != "finished":
            far = f"{restored.state} at step {record.step} of {config['steps']}"
            print(f"{far}: testing weights={kind}, of step {step}", file=sys.stderr)
    rule, trainer = StopRule.of(config, experiment.learner), make_trainer(experiment)
    with RunLoggers(board_of(config, folder.path, shape=shape_of(config), board_form=board_form)) as loggers:
        result = final_test(
            experiment, record, rule, folder, restored.checkpoints, loggers, trainer, flag, restored.initial
        )
    result["speed"] = {"meta_steps_per_s": record.speed(), "seconds": _seconds(restored.folder)}
    return result


def _seconds(run: Path) -> float | None:
    found = read_rows(run)
    return found[-1]["seconds"] if found else None


def _add_own(result: dict[str, Any], restored: Restored, changed: dict[str, Any], seconds: float) -> None:
    """Adds what is known of the training (speed, memory, doubt, processes), and what this evaluation took."""
    own = {"state": restored.state, "changed": changed, "seconds": seconds, "peak_mb": peak_mb()}
    first = _first_result(restored.folder)
    result["memory"] = first.get("memory") or {"peak_mb": None}
    result["speed"] = first.get("speed") or result["speed"]
    kept = ("doubt", "processes", "parent", *(() if changed else ("val_floors",)))  # other tasks have other baselines
    result |= {name: first[name] for name in kept if name in first}
    learner, rows = restored.parts.learner, read_rows(restored.folder)
    if learner.trains and rows:  # other weights than those of the first test have doubts of their own
        known = {name: metric.larger_is_better for name, metric in declared(learner).items()}
        result["doubt"] = doubt(rows, known, result["steps"], result["weights"]["step"], result["val"]["metric"])
    result["evaluation"] = own


def _first_result(run: Path) -> dict[str, Any]:
    """The result of the test after training; {} if there is none, or a damaged one."""
    try:
        return read_result(run)[0]
    except CheckpointError:
        return {}


def _print(result: dict[str, Any], restored: Restored, path: Path, changed: dict[str, Any], seconds: float) -> None:
    print_result(result | {"speed": {"seconds": seconds}}, str(path), str(path.parent))
    largest = None if changed else _largest_difference(restored.folder, path)
    if largest == 0:
        print("unchanged     the same numbers, to the bit")
    elif largest is not None:
        print(f"differs       the score of a task by up to {largest:.2g} (another machine or other versions)")


def _largest_difference(old: Path, new: Path) -> float | None:
    """Largest difference between the test scores in two folders, task by task: 0 if all are equal, None if they cannot
    be compared."""
    with np.load(new / "test_scores.npz") as now:
        try:
            with np.load(old / "test_scores.npz", allow_pickle=False) as then:
                names = [name for name in then.files if name in now.files and then[name].dtype == float]
                pairs = [(then[name], now[name]) for name in names]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
            return None
    if not pairs or any(one.shape != other.shape for one, other in pairs):
        return None
    return max(_difference(one, other) for one, other in pairs)


def _difference(one: np.ndarray, other: np.ndarray) -> float:
    if np.array_equal(one, other, equal_nan=True):
        return 0.0
    return float(np.nanmax(np.abs(one - other))) if np.array_equal(np.isnan(one), np.isnan(other)) else np.inf
