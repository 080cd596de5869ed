"""A second test of a run: the same function as after training, in a folder of its own."""

import io
import json
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
from metaexp.errors import BusyError, ConfigError
from metaexp.loggers.progress import Progress, quiet
from metaexp.loggers.result_table import print_result
from metaexp.loggers.tensorboard import Board
from metaexp.report.reading import rows
from metaexp.run.restore import Restored, restore, take
from metaexp.storage.run_folder import RunFolder
from metaexp.system.allocator import keep_freed_memory
from metaexp.system.machine import peak_mb
from metaexp.system.signals import StopFlag
from metaexp.tasks.placeholder import check_data
from metaexp.training.control import Control
from metaexp.training.final_test import test
from metaexp.training.train_and_test import make_trainer


def retest(
    run: Path, saved: dict[str, Any], config: dict[str, Any], changed: dict[str, Any], out: Path | None = None
) -> dict[str, Any]:
    """Test a run with a changed configuration, write and print the result; returns the content of result.json.

    Args:
        run: its folder, in which nothing is changed but the new folder evaluations/N.
        saved: its configuration; `config`: with what is changed; `changed`: the changes by key.
        out: where the folder N goes in place of evaluations/.

    Raises:
        CheckpointError, ConfigError, DataError: the run cannot be tested so. Nothing is left behind then.
        SpaceError, Interrupted: likewise.
    """
    started = time.monotonic()
    keep_freed_memory()
    quiet()
    restored = restore(run, config)
    _check_split(saved, config, restored)
    if restored.newest is not None:
        check_data(restored.parts.family, restored.newest["metaexp"])
    folder = _claim(out or run / "evaluations")
    try:
        with StopFlag() as flag:
            result = _result(restored, folder, flag)
        _own(result, restored, changed, time.monotonic() - started)
        folder.write_config({key: value for key, value in config.items() if key != "typed"})
        folder.write_json("result.json", result)
        folder.status("finished", step=result["steps"], exit_code=0)
    except BaseException:
        folder.close()
        shutil.rmtree(folder.path, ignore_errors=True)
        raise
    folder.close()
    _tell(result, restored, folder.path, changed, time.monotonic() - started)
    return result


def _check_split(saved: dict[str, Any], config: dict[str, Any], restored: Restored) -> None:
    """Another eval_seed must not move classes or tasks from training to the test."""
    if saved["task"].get("eval_seed") == config["task"].get("eval_seed"):
        return
    now = getattr(restored.parts.family, "splits", None)
    if isinstance(now, dict):
        family = instantiate(saved["task"], group="task", trusted=set(config["trusted"]))
        if any(not torch.equal(part.cpu(), family.splits[split].cpu()) for split, part in now.items()):
            raise ConfigError(
                f"task.eval_seed={config['task']['eval_seed']}: it also divides what is for training and for testing "
                f"here, so the test would meet what was trained on; it must stay {saved['task'].get('eval_seed')}"
            )


def _claim(out: Path) -> RunFolder:
    while True:
        numbers = [int(path.name) for path in out.iterdir() if path.name.isdecimal()] if out.is_dir() else []
        try:
            return RunFolder.claim_named(out / str(max(numbers, default=0) + 1))
        except BusyError:  # another evaluation took it in this moment
            continue


def _result(restored: Restored, folder: RunFolder, flag: StopFlag) -> dict[str, Any]:
    parts, config = restored.parts, restored.parts.config
    board = Board(folder.path, rank=0)
    progress = Progress(config["steps"], 0, io.StringIO())
    control = Control(config, parts.learner, parts.loop, folder, board, restored.checkpoints, progress, flag)
    if restored.newest is not None:
        control.restore(restored.newest["metaexp"])
        kind = config["test"]["weights"]
        step = take(restored, kind)  # `test` loads the best again; here a misfit is one line
        if restored.state != "finished":
            far = f"{restored.state} at step {control.step} of {config['steps']}"
            print(f"{far}: testing weights={kind}, of step {step}", file=sys.stderr)
    try:
        trainer = make_trainer(parts, control)
        result = test(parts, folder, restored.checkpoints, control, board, trainer, restored.initial)
    finally:
        board.close()
    result["speed"] = {"meta_steps_per_s": control.speed(), "seconds": _seconds(restored.folder)}
    return result


def _seconds(run: Path) -> float | None:
    found = rows(run)
    return found[-1]["seconds"] if found else None


def _own(result: dict[str, Any], restored: Restored, changed: dict[str, Any], seconds: float) -> None:
    """`speed` and `memory` are those of the training, as far as they are known; the evaluation's own stand apart."""
    own = {"state": restored.state, "changed": changed, "seconds": seconds, "peak_mb": peak_mb()}
    told = _told(restored.folder)
    result["memory"] = told.get("memory") or {"peak_mb": None}
    result["speed"] = told.get("speed") or result["speed"]
    result["evaluation"] = own


def _told(run: Path) -> dict[str, Any]:
    try:
        result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return result if isinstance(result, dict) else {}


def _tell(result: dict[str, Any], restored: Restored, path: Path, changed: dict[str, Any], seconds: float) -> None:
    print_result(result | {"speed": {"seconds": seconds}}, str(path), str(path.parent))
    if changed:
        return
    with np.load(path / "test_scores.npz") as new:
        try:
            with np.load(restored.folder / "test_scores.npz", allow_pickle=False) as old:
                pairs = [(old[name], new[name]) for name in old.files if name in new.files and old[name].dtype == float]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
            return
    shapes = [before.shape == now.shape for before, now in pairs]
    if not pairs or not all(shapes):
        return
    if all(np.array_equal(before, now, equal_nan=True) for before, now in pairs):
        words = "the same numbers, to the bit"
    else:
        most = max(float(np.nanmax(np.abs(before - now))) for before, now in pairs)
        words = f"the score of a task differs by up to {most:.2g} (another machine or other versions)"
    print(f"as the run    {words}")
