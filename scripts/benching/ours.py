"""Our command in a fresh process: time and memory of its steady state, from its run folder."""

import json
import shutil
import statistics
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from benching.processes import Done, metaexp, run
from benching.works import WORKS, Settings, overrides

# Intervals longer than the run (there is still one validation before the first step and one after the last).
STEADY = {"val.every": "1000000000", "val.tasks": "1", "test.tasks": "1", "test.weights": "last"}
STEADY |= {"test.normalise": "[queries]", "checkpoint.every": "1000000000", "checkpoint.seconds": "100000"}
TIMEOUT = 1500


def settings(
    work: str, compile: str, threads: int, omniglot: Path | None, quick: bool, extra: Settings, device: str = "cpu"
) -> Settings:
    """The whole command of a work, except for the folder that it writes to."""
    w = WORKS[work]
    steps, every = (max(w.steps // 10, 16), max(w.every // 10, 2)) if quick else (w.steps, w.every)
    data = {"task.root": f'"{omniglot}"'} if w.omniglot else {}
    length = {"steps": str(steps), "log.every": str(every)}
    machine = {"device": device, "device.threads": str(threads), "compile": compile}
    return {**w.settings, **data, **STEADY, **length, **machine, **extra}


def measure(given: Settings, threads: int, timeout: float = TIMEOUT) -> dict[str, Any]:
    """One run of `python -m metaexp.train` with these settings: ms, mb, load, or `failed`."""
    return _run(given, threads, timeout, read)


def trained(given: Settings, threads: int, timeout: float = TIMEOUT) -> dict[str, Any]:
    """One run with its test: steps, and the mean and interval of every test metric, or `failed`."""
    return _run(given, threads, timeout, tested)


def _run(given: Settings, threads: int, timeout: float, read: Callable[[Path, Done], dict[str, Any]]) -> dict[str, Any]:
    folder = tempfile.mkdtemp(prefix="metaexp-bench-")
    try:
        done = run(metaexp(*overrides({**given, "out": f'"{folder}"'})), threads, timeout)
        found = list(Path(folder).glob("*/result.json"))
        if done.code != 0 or len(found) != 1:
            return {"failed": done.reason(), "load": done.load}
        return read(found[0].parent, done)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def tested(folder: Path, done: Done) -> dict[str, Any]:
    """The test results of a finished run."""
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    metrics = {name: f"{found['mean']:.4f} +- {found['ci95']:.4f}" for name, found in result["test"].items()}
    tasks = next(iter(result["test"].values()))["tasks"]
    return {"steps": result["steps"], "test_tasks": tasks, **metrics, "load": done.load}


def read(folder: Path, done: Done) -> dict[str, Any]:
    """The times and memory of a finished run.

    `ms` is the median, over the rows of metrics.jsonl after the first, of the wall-clock time since the previous row:
    it includes Lightning, logging and progress. `ms_steps` comes from result.json, the time inside the spans.
    """
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["kind"] == "train"]
    rate = result["speed"]["meta_steps_per_s"]
    fallback = [line.strip() for line in (done.out + done.err).splitlines() if "going on without" in line]
    return {
        "ms": wall(rows),
        "ms_steps": 1000 / rate if rate else None,
        "mb": result["memory"]["peak_mb"],
        "steps": result["steps"],
        "rows": len(rows),
        "seconds": round(done.seconds, 1),
        "load": done.load,
        "note": "not compiled" if fallback else "",
    }


def wall(rows: list[dict[str, Any]]) -> float:
    """Median ms of an outer step between rows of training metrics; needs two rows."""
    return statistics.median(1000 * (b["seconds"] - a["seconds"]) / (b["step"] - a["step"]) for a, b in pairwise(rows))
