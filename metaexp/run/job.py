"""One job of a sweep: started in a process of its own by whatever process the launcher chose, and waited for."""

import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, Literal

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from metaexp.config.command_line import complain
from metaexp.config.settings import Settings
from metaexp.errors import BusyError, Interrupted, MetaexpError
from metaexp.run.earlier import FinishedRuns, find_resumable, link_into_sweep
from metaexp.run.processes import Call, Processes
from metaexp.run.sweep_jobs import COMMAND, is_grid, job_name, launcher_of
from metaexp.run.sweep_lock import requests
from metaexp.storage.lock import owner_of, state_of
from metaexp.storage.run_folder import RunFolder

PROCESSES = Processes()  # of this process; a launcher's worker makes its own on first use


def run_job(_: DictConfig) -> Any:
    """What Hydra calls for a job, in the process that the launcher chose: runs it in a process of its own.

    Returns the best validation metric, for sweepers that optimise; None if there is none, or if the sweep was stopped.
    Under the basic launcher, a function that waits for it and returns that. Raises whatever the run raises, except
    under Hydra's grid sweeper, which would then drop the jobs of later batches: it gets None. The job's status.json
    records what happened in either case.
    """
    own = HydraConfig.get()
    folder, name = Path(own.sweep.dir), job_name(own.job.num, own.job.override_dirname)
    launcher, grid = launcher_of(own), is_grid(own)
    if requests(folder):
        return None
    try:
        config = _load(own)
    except MetaexpError as error:
        _record(folder / name, error)
        if grid:
            return None
        raise
    if grid and (folder / name).is_symlink():  # finished before
        return None
    if launcher == "basic":
        PROCESSES.wait(config["jobs"] - 1)
        return None if requests(folder) else start(config, folder, name, grid, _share(config["jobs"]))
    with _deaf(folder):
        os.chdir(own.runtime.cwd)
        # submitit starts all jobs at once; Joblib and Ray give their workers a share of the cores themselves. Jobs of
        # SLURM outlive the process that submitted them.
        threads = own.launcher.get("cpus_per_task") or 1 if launcher in ("submitit", "slurm") else None
        return start(config, folder, name, grid, threads, "parent" if launcher == "slurm" else "sweep")()


def start(
    config: dict[str, Any],
    folder: Path,
    name: str,
    grid: bool,
    threads: int | None = None,
    life: Literal["sweep", "parent"] = "sweep",
) -> Callable[[], float | None]:
    """Starts a job; calling the result waits for it, and returns or raises as `run_job`.

    Args:
        config: its checked configuration.
        folder, name: the sweep's folder, and the job's folder in it.
        grid: whether a failure is only recorded.
        threads: the most threads; None: torch's default.
        life: see `fork_server.Request`.
    """
    if not grid and config["resume"] == "auto" and (found := FinishedRuns(Path(config["out"])).like(config)):
        print(f"run {name}: finished before, linked", flush=True)
        link_into_sweep(folder / name, found)
        return lambda: _best(folder / name)
    title = name if config["jobs"] > 1 else None
    call = PROCESSES.start(work, config, folder, name, folder=folder, threads=threads, title=title, life=life)
    return lambda: _finish(call, config, folder, name, grid)


def _finish(call: Call, config: dict[str, Any], folder: Path, name: str, grid: bool) -> float | None:
    answer = call.wait()
    error = answer.error
    if answer.killed:
        error = MetaexpError(f"{name}: killed by {signal.Signals(answer.killed).name}")
        complain(str(error))
        _record_killed(config, folder / name, answer.killed)
    if grid or isinstance(error, KeyboardInterrupt):
        return None
    if error is not None:
        raise error
    return None if answer.value is None else float(answer.value)


def work(config: dict[str, Any], folder: Path, name: str) -> float | None:
    """The job itself, in its own process. Returns the best validation metric; raises what the run raises."""
    from metaexp.run.single import run

    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # the user's own classes, also in a launcher's worker
    print(f"run {name}", flush=True)
    place = folder / name
    try:
        kept = {"sweep": {"folder": str(folder), "job": name}, "command": _command(folder)}
        result = run(_again(config, place) | kept).result
        best = (result.get("val") or {}).get("best")
        return None if best is None else float(best)
    except Interrupted as error:
        complain(f"{name}: {error}")
        raise
    except (Exception, SystemExit) as error:
        _record(place, error)
        raise RuntimeError(f"sys.exit({error.code})") if isinstance(error, SystemExit) else error from error


def _command(folder: Path) -> str | None:
    with suppress(OSError, UnicodeDecodeError):
        return (folder / COMMAND).read_text(encoding="utf-8").strip()
    return None


def _again(config: dict[str, Any], place: Path) -> dict[str, Any]:
    """A queue that starts a job again finds what is there: it goes on from its checkpoint, or starts over."""
    if not (place / "status.json").exists() or state_of(place) in ("running", "finished"):
        return config
    if any((place / "checkpoints").glob("*.ckpt")):
        return config | {"resume": str(place)}
    shutil.rmtree(place)
    return config


def _best(place: Path) -> float | None:
    with suppress(OSError, ValueError, TypeError, AttributeError):
        best = (json.loads((place / "result.json").read_text()).get("val") or {}).get("best")
        return None if best is None else float(best)
    return None


def _share(jobs: int) -> int | None:
    """The threads of each of so many jobs; None: a single job has the machine for itself."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // jobs) if jobs > 1 else None


@contextmanager
def _deaf(folder: Path) -> Iterator[None]:
    """In a launcher's worker: Ctrl-C is for the sweep, which passes it on to the jobs."""
    try:
        if owner_of(folder).get("pid") == os.getpid():  # Joblib with n_jobs=1 works in the sweep's process
            raise ValueError
        before = signal.signal(signal.SIGINT, lambda *_: None)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@cache
def _settings(search: tuple[str, ...], extra: str | None) -> Settings:
    return Settings(search, extra)


def _load(own: Any) -> dict[str, Any]:
    search = tuple(line for line in own.overrides.hydra if line.startswith("hydra.searchpath="))
    extra = next((source.path for source in own.runtime.config_sources if source.provider == "command-line"), None)
    return _settings(search, extra).load(list(own.overrides.task))


def _record_killed(config: dict[str, Any], place: Path, number: int) -> None:
    if not place.exists() and config["resume"] == "auto" and (older := find_resumable(Path(config["out"]), config)):
        link_into_sweep(place, older)  # the job died while it continued that run
    with suppress(MetaexpError):
        RunFolder.record_killed(place, number)


def _record(folder: Path, error: BaseException) -> None:
    """Reports the error; a job that failed before it had a folder gets one that holds its status."""
    if isinstance(error, MetaexpError):
        code, message = error.exit_code, str(error)
        complain(f"{folder.name}: {message}")
    else:
        code, message = 1, f"{type(error).__name__}: {error}"
        traceback.print_exception(error)
    if not (folder / "status.json").exists():
        with suppress(BusyError), RunFolder.claim_named(folder) as claimed:
            claimed.status("failed", exit_code=code, error=message)
