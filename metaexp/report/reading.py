"""Reading run folders, finished or not, intact or damaged: damage is reported, never raised."""

import math
import os
import sys
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metaexp.errors import CheckpointError, ConfigError, MetaexpError
from metaexp.nested import leaves
from metaexp.storage.lock import read_status, state_of
from metaexp.storage.metrics_log import check_rows
from metaexp.storage.saved_config import key_of, read_config
from metaexp.storage.saved_result import read_result

MOST = 2 << 30  # most bytes of scores that are read: a small zip archive may unpack to any size
UNKNOWN = "settings unknown"  # instead of the settings of a run without a readable config.yaml
_INSIDE = ("checkpoints", "figures")  # folders inside a run that contain no runs
# Settings that do not affect how good a run is: where its data are, on what it was computed.
HERE = (
    *(f"task.{name}" for name in ("root", "download", "verify")),
    *(f"device.{name}" for name in ("accelerator", "devices", "strategy", "threads")),
)
_SEEDS = ("task.seed", "trained.task.seed")
_BESIDE = (
    "test.curve_shots",
    "test.curve_tasks",
    "test.predictions",
)  # settings of extra measurements; the scores do not depend on them


TESTED, OWN = "tested", "own tasks"  # the column that marks tests on other tasks or data, and what it says of others


def mark_of(result: dict[str, Any]) -> str | None:
    """What a test on other tasks or data than the run's own is called: shifted | cross-domain; None: it is its own."""
    again = result.get("evaluation")
    mark = again.get("mark") if isinstance(again, dict) else None
    return mark if isinstance(mark, str) else None


class Run(NamedTuple):
    """One finished run or evaluation."""

    folder: Path
    result: dict[str, Any]
    config: dict[str, Any]  # flat, dotted keys; without technical settings and seeds
    scores: dict[str, np.ndarray]  # float64 [tasks, steps + 1] by metric, baselines as floor_NAME_METRIC; {}: no scores
    order: tuple[str, float]  # when it began: the newest of equal runs counts

    @property
    def seed(self) -> Any:
        return self.result.get("seed")


class Unfinished(NamedTuple):
    """A run without a result."""

    folder: Path
    state: str  # running | interrupted | failed | killed
    text: str  # how far it is, and why it ended


class Found(NamedTuple):
    """Everything found under the paths."""

    runs: list[Run]
    unfinished: list[Unfinished]
    damaged: list[str]  # one line each


def find(paths: Sequence[Path]) -> Found:
    """All runs and evaluations under the paths (folders, or files in run folders), sorted by name.

    A sweep's folder may hold links to runs that were there before: each run counts once, wherever it is met.

    Raises ConfigError for a path that does not exist.
    """
    found = Found([], [], [])
    for folder in _once(folder for path in paths for folder in _folders(path)):
        try:
            one = _read(folder, found.damaged)
        except _Damaged as error:
            found.damaged.append(str(error))
            continue
        except (OSError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            found.damaged.append(f"{folder}: cannot be read ({type(error).__name__}: {error})")
            continue
        if isinstance(one, Run):
            found.runs.append(one)
        elif one is not None:
            found.unfinished.append(one)
    return found


def _once(folders: Iterable[Path]) -> list[Path]:
    """Sorted, without the links to folders that are there themselves, and without a second link to one folder."""
    found: dict[str, Path] = {}
    for folder in sorted(set(folders)):
        real = os.path.realpath(folder)
        if real not in found or os.path.abspath(folder) == real:
            found[real] = folder
    return sorted(found.values())


def _folders(path: Path, links: bool = True) -> Iterator[Path]:
    if not path.exists():
        raise ConfigError(f"{path}: no such folder")
    if path.is_file():
        path = path.parent
    for place, folders, files in os.walk(path):
        is_run = "result.json" in files or "status.json" in files
        folders[:] = sorted(f for f in folders if not f.startswith(".") and not (is_run and f in _INSIDE))
        if is_run:
            yield Path(os.path.normpath(place))
        for name in folders:
            if links and (link := Path(place, name)).is_symlink() and (link / "status.json").is_file():
                yield from _folders(link, links=False)  # a link inside it could lead back


class _Damaged(Exception):
    """A file that cannot be used; its text is the line that reports it."""


def _read(folder: Path, damaged: list[str]) -> Run | Unfinished | None:
    if not (folder / "result.json").exists():
        return _unfinished(folder)
    try:
        result, faults = read_result(folder)
    except CheckpointError as error:
        raise _Damaged(str(error)) from error
    damaged += faults
    _mend(result)
    try:
        config = flat(read_config(folder))
    except MetaexpError as error:
        damaged.append(f"{error}; its settings are unknown")
        config = {UNKNOWN: str(folder)}  # differs from any other run's
    for group in ("algo", "task", "model"):
        config.setdefault(group, result.get(group))
    config.setdefault("steps", result.get("steps"))  # the requested number: a run that ends early keeps its group
    if (again := result.get("evaluation")) and isinstance(again, dict) and again.get("state") != "finished":
        config["unfinished"] = result.get("steps")
    config[TESTED] = OWN
    if mark := mark_of(result):
        config[TESTED] = f"{mark}, from {result['evaluation'].get('trained_on')}" if mark != "shifted" else mark
    scores: dict[str, np.ndarray] = {}
    file = folder / "test_scores.npz"
    if file.exists():
        try:
            scores = _scores(file)
            _compare(file, result, scores)
        except _Damaged as error:
            damaged.append(f"{error}; its tasks are not compared")
            scores = {}
    try:
        check_rows(folder, sys.maxsize)
    except CheckpointError as error:
        damaged.append(f"{str(error).partition(';')[0]}; it is left out of the pictures")
    order = (str(read_status(folder).get("started", "")), (folder / "result.json").stat().st_mtime)
    return Run(folder, result, config, scores, order)


def _unfinished(folder: Path) -> Unfinished | None:
    state, status = state_of(folder), read_status(folder)
    if not status:
        raise _Damaged(f"{folder / 'status.json'}: damaged, not JSON")
    if state == "finished":
        raise _Damaged(f"{folder}: finished, but its result.json is missing")
    step, steps = status.get("step", 0), None
    try:
        steps = read_config(folder).get("steps")
    except MetaexpError:
        pass
    text = f"step {step}" + (f" of {steps}" if steps is not None else "")
    reason = status.get("error") if state in ("failed", "interrupted", "killed") else None
    return Unfinished(folder, state, text + (f": {reason}" if reason else ""))


def _mend(result: dict[str, Any]) -> None:
    """Empties groups that are none, beside the scores: what a report only shows need not be right."""
    protocol, again = result["protocol"], result.get("evaluation")
    if not isinstance(protocol.get("normalise"), dict):
        protocol["normalise"] = {}
    if isinstance(again, dict) and not isinstance(again.get("changed"), dict):
        again["changed"] = {}


def _scores(file: Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(file) as archive:
            if sum(info.file_size for info in archive.infolist()) > MOST:
                raise _Damaged(f"{file}: more than {MOST >> 30} GB of scores")
        with np.load(file, allow_pickle=False) as arrays:
            return {
                name: np.asarray(arrays[name], dtype=np.float64)
                for name in arrays.files
                if arrays[name].ndim == 2 and arrays[name].dtype.kind in "fiu" and arrays[name].size
            }
    except _Damaged:
        raise
    except Exception as error:  # zipfile and NumPy raise a dozen kinds of errors on damaged bytes
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise _Damaged(f"{file}: damaged ({reason})") from error


def _compare(file: Path, result: dict[str, Any], scores: dict[str, np.ndarray]) -> None:
    for name, summary in result["test"].items():
        if name not in scores or summary["mean"] is None:
            continue
        values = scores[name]
        kept = values[np.isfinite(values).all(1), -1]
        mean = float(kept.mean()) if len(kept) else math.nan
        if not math.isclose(mean, float(summary["mean"]), rel_tol=1e-9, abs_tol=1e-12):
            raise _Damaged(f"{file}: its {name} has the mean {mean:.6g}, result.json says {summary['mean']:.6g}")


def flat(config: dict[str, Any]) -> dict[str, Any]:
    """The settings that may distinguish groups of runs, by dotted key; choices by the name of their group."""
    choices = config.get("choices")
    found = {str(group): choice for group, choice in choices.items()} if isinstance(choices, dict) else {}
    for key, value in leaves({k: v for k, v in config.items() if k != "choices"}):
        top, *names = key.split(".")
        if names[-1:] == ["_target_"] and len(names) > 1:  # a class inside a group: algo.inner, optimizer.schedule
            key, value = key.removesuffix("._target_"), str(value).rpartition(".")[2]
            names.pop()
        if (
            not key_of(top).compared
            or key.removeprefix("trained.") in (*HERE, *_BESIDE)
            or any(name.startswith("_") for name in names)
        ):
            continue
        if key == "seed" or names[:1] in (["gives"], ["needs"]):
            continue
        # A task seed equal to the run's own seed does not distinguish groups; a different one does.
        found[key] = "as seed" if key in _SEEDS and value == config.get("seed") else value
    return found
