"""`-m`: many runs in one folder, each in a process of its own, run by Hydra's launchers."""

import secrets
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra

from metaexp.config.command_line import complain
from metaexp.config.compose import VERSION_BASE, config_dir
from metaexp.config.overrides import Overrides, parse
from metaexp.config.settings import Settings
from metaexp.errors import ConfigError
from metaexp.run import sweep_page
from metaexp.run.earlier import FinishedRuns, link_into_sweep
from metaexp.run.job import PROCESSES, run_job, start
from metaexp.run.launching import careful_launchers
from metaexp.run.sweep_jobs import COMMAND, Job, check, find_jobs, is_grid, launcher_of, names_by_difference
from metaexp.run.sweep_lock import SweepLock, requests
from metaexp.run.sweep_summary import summarise
from metaexp.storage.lock import state_of


def sweep(
    settings: Settings, overrides: Overrides, extra: str | None = None, command: str = "", dry: bool = False
) -> int:
    """Check all jobs, run them, print a table.

    Args:
        settings: made for these overrides.
        overrides: as typed, including comma-separated values.
        extra: the folder given by --config-dir.
        command: the command line as typed, kept in the sweep's folder.
        dry: say which jobs there are, and start none.

    Returns:
        0 if all jobs finished, 2 if one is invalid (nothing is started or written), 130 or 143 if interrupted, else 1.

    Raises:
        ConfigError: the overrides cannot be parsed, or no folder can be made.
        DataError: the data of a job is missing.
    """
    prepared = Overrides((*settings.prepare(overrides).parsed, *parse([names_by_difference(overrides)]).parsed))
    node, jobs, faults = find_jobs(settings, prepared)
    grid, launcher = is_grid(node), launcher_of(node)
    _check_jobs_setting(overrides, jobs, launcher)
    with PROCESSES:
        faults = faults or PROCESSES.call(check, jobs)
        if faults:
            for fault in dict.fromkeys(faults):
                complain(fault)
            return ConfigError.exit_code
        if dry:
            _say_jobs(jobs, overrides, grid)
            return 0
        folder = _claim(jobs[0].config["out"])
        names = [job.name for job in jobs] if grid else []
        print(f"sweep of {len(jobs)} runs in {folder}" if grid else f"sweep in {folder}", flush=True)
        (folder / COMMAND).write_text(f"{command}\n", encoding="utf-8")
        with SweepLock(folder) as lock:
            linked = _link_finished(folder, jobs) if grid else []
            argv = ["--multirun", *(["--config-dir", extra] if extra else []), *prepared.words]
            try:
                if len(linked) < len(jobs):
                    with careful_launchers(launcher):
                        call_hydra([*argv, *_hydra_lines(folder, overrides, node)])
                    PROCESSES.wait()
                    _settle(folder)
                    if grid and lock.stopped is None and launcher not in ("submitit", "slurm"):
                        _run_the_rest(folder, jobs)
            except KeyboardInterrupt as error:
                complain(str(error) or "interrupted")
            code = summarise(folder, names, lock.stopped.exit_code if lock.stopped else 0, linked)
        if lock.stopped is None and (shown := sweep_page.write(folder)):
            print(f"page  {shown}", flush=True)
        if code:
            complain("the same command with resume=auto runs only what is missing, failed or killed")
        return code


def _say_jobs(jobs: Sequence[Job], overrides: Overrides, grid: bool) -> None:
    """The jobs of a sweep, one line each with the settings in which they differ."""
    if not grid:
        print(f"a sweeper chooses the jobs one after the other; one that it may choose: {jobs[0].words}")
    else:
        for job in jobs:
            print(f"{job.name}: {job.words}")
    print(f"--dry-run: {f'{len(jobs)} jobs' if grid else 'valid'}, none started; out={jobs[0].config['out']}")


def _check_jobs_setting(overrides: Overrides, jobs: Sequence[Job], launcher: str) -> None:
    """`jobs` is a setting of the whole sweep, and of Hydra's basic launcher alone."""
    typed = [o for o in overrides.own if o.key_or_group == "jobs"]
    if any(o.is_sweep_override() for o in typed):
        raise ConfigError(f"{typed[-1].input_line}: one number for the whole sweep")
    if jobs and jobs[0].config["jobs"] > 1 and launcher != "basic":
        others = {"joblib": "hydra.launcher.n_jobs", "ray": "hydra.launcher.ray.init.num_cpus"}
        others |= {"slurm": "hydra.launcher.array_parallelism"}
        raise ConfigError(
            f"jobs={jobs[0].config['jobs']}: hydra/launcher={launcher} has a number of its own; "
            f"use {others.get(launcher, 'its own settings')}"
        )


def _link_finished(folder: Path, jobs: Sequence[Job]) -> list[str]:
    """Links jobs whose equal has finished before, where `resume=auto` asks for it; returns their names."""
    if not any(job.config["resume"] == "auto" for job in jobs):
        return []
    finished, linked = FinishedRuns(Path(jobs[0].config["out"])), []
    for job in jobs:
        if job.config["resume"] == "auto" and (found := finished.like(job.config)):
            link_into_sweep(folder / job.name, found)
            linked.append(job.name)
    print(f"{len(linked)} finished before and are linked, {len(jobs) - len(linked)} to run", flush=True)
    return linked


def _settle(folder: Path) -> None:
    """Waits for jobs that outlive their worker; they end when the sweep is stopped."""
    while any(state_of(path.parent) == "running" for path in folder.glob("*/status.json")):
        time.sleep(0.2)


def _run_the_rest(folder: Path, jobs: Sequence[Job]) -> None:
    """Runs jobs that the launcher has not started, because its pool of workers broke."""
    left = [job for job in jobs if not (folder / job.name / "status.json").exists()]
    if left:
        complain(f"the launcher lost its workers before it started {len(left)} jobs; they run here, one at a time")
    for job in left:
        if not requests(folder):  # a signal may come between two
            start(job.config, folder, job.name, True)()


def _claim(out: str) -> Path:
    while True:
        folder = Path(out).absolute() / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_sweep_{secrets.token_hex(2)}"
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            if folder.is_dir():
                continue
            raise ConfigError(f"out={out}: is a file; name a folder") from None
        except OSError as error:
            raise ConfigError(f"out={out}: no folder can be made there ({error.strerror}); name another") from error


def _hydra_lines(folder: Path, overrides: Overrides, node: Any) -> list[str]:
    """Settings of Hydra that a sweep needs, as far as they are not typed."""
    quoted = str(folder).replace("'", "\\'")
    lines = [f"hydra.sweep.dir='{quoted}'", "hydra.sweep.subdir=.", "hydra.run.dir=.", "hydra.output_subdir=null"]
    typed = {o.key_or_group for o in overrides.parsed}
    lines += [f"{name}=none" for name in ("hydra/job_logging", "hydra/hydra_logging") if name not in typed]
    if "max_failure_rate" in node.sweeper and "hydra.sweeper.max_failure_rate" not in typed:
        lines.append("hydra.sweeper.max_failure_rate=1.0")  # Optuna would end the sweep at the first job that fails
    return lines


def call_hydra(argv: Sequence[str]) -> int:
    """Run Hydra on a command line; returns its exit code."""
    before = sys.argv
    sys.argv = [before[0], *argv]
    try:
        hydra.main(version_base=VERSION_BASE, config_path=str(config_dir()), config_name="train")(run_job)()
        return 0
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    finally:
        sys.argv = before
