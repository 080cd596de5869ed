"""`-m`: many runs in one folder, run by Hydra's launchers."""

import secrets
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from metaexp.config.command_line import complain
from metaexp.config.compose import VERSION_BASE, config_dir
from metaexp.config.overrides import Overrides, parse
from metaexp.config.settings import Settings
from metaexp.errors import BusyError, ConfigError, Interrupted, MetaexpError
from metaexp.run.sweep_jobs import check, find_jobs, job_name, names_by_difference
from metaexp.run.sweep_summary import SIGNALLED, summarise
from metaexp.storage.lock import read_status
from metaexp.storage.run_folder import RunFolder


def sweep(settings: Settings, overrides: Overrides, extra: str | None = None) -> int:
    """Check all jobs, run them, print a table.

    Args:
        settings: made for these overrides.
        overrides: as typed, including comma-separated values.
        extra: the folder given by --config-dir.

    Returns:
        0 if all jobs finished, 2 if one is invalid (nothing is started or written), 130 or 143 if interrupted, else 1.

    Raises:
        ConfigError: the overrides cannot be parsed, or no folder can be made.
    """
    prepared = Overrides((*settings.prepare(overrides).parsed, *parse([names_by_difference(overrides)]).parsed))
    lines = prepared.words
    grid, jobs, faults = find_jobs(settings, prepared)
    faults = faults or check(jobs)
    if faults:
        for fault in dict.fromkeys(faults):
            complain(fault)
        return ConfigError.exit_code
    folder = _claim(jobs[0].config["out"])
    print(f"sweep of {len(jobs)} runs in {folder}" if grid else f"sweep in {folder}", flush=True)
    code = 0
    try:
        with _patient(lines):
            call_hydra(
                ["--multirun", *(["--config-dir", extra] if extra else []), *lines, *_folders(folder, overrides)]
            )
    except KeyboardInterrupt as error:
        code = getattr(error, "exit_code", 130)
    return max(code, summarise(folder, [job.name for job in jobs] if grid else []))


@contextmanager
def _patient(lines: Sequence[str]) -> Iterator[None]:
    """With worker processes, the first Ctrl-C lets them write their checkpoints; the second ends everything."""
    before = signal.getsignal(signal.SIGINT)

    def first(_number: int, _frame: FrameType | None) -> None:
        complain("waiting for the running jobs to write their checkpoints; Ctrl-C again to stop at once")
        signal.signal(signal.SIGINT, before)

    patient = any(line.startswith("hydra/launcher=") and line != "hydra/launcher=basic" for line in lines)
    if patient and before is signal.default_int_handler:
        signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


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


def _folders(folder: Path, overrides: Overrides) -> list[str]:
    quoted = str(folder).replace("'", "\\'")
    lines = [f"hydra.sweep.dir='{quoted}'", "hydra.sweep.subdir=.", "hydra.run.dir=.", "hydra.output_subdir=null"]
    typed = {o.key_or_group for o in overrides.parsed}
    return lines + [f"{name}=none" for name in ("hydra/job_logging", "hydra/hydra_logging") if name not in typed]


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


def run_job(_: DictConfig) -> float | None:
    """One job, in the process that the launcher chose. Returns the best validation metric, for sweepers that optimise.

    Raises whatever the run raises, except under Hydra's grid sweeper, which would then drop the jobs of later batches:
    it gets None. The job's status.json records what happened in either case. An interruption ends the sweep: in this
    process by the exception; in a worker process, whose death would kill the other workers before they write their
    checkpoints, by the status that later jobs find.
    """
    own = HydraConfig.get()
    folder, name = Path(own.sweep.dir), job_name(own.job.num, own.job.override_dirname)
    ended = [read_status(path.parent) for path in folder.glob("*/status.json")]
    if any(status.get("state") == "interrupted" and status.get("exit_code") in SIGNALLED for status in ended):
        return None  # a job that reaches its own time limit does not end the sweep
    print(f"run {name}", flush=True)
    try:
        result = _run(own, folder, name)
        best = (result.get("val") or {}).get("best")
        return None if best is None else float(best)
    except Interrupted:
        if own.runtime.choices["hydra/launcher"] == "basic":
            raise
        return None
    except (Exception, SystemExit) as error:
        _record(folder / name, error)
        if own.runtime.choices["hydra/sweeper"] == "basic":
            return None
        raise RuntimeError(f"sys.exit({error.code})") if isinstance(error, SystemExit) else error from error


@cache
def _settings(search: tuple[str, ...], extra: str | None) -> Settings:
    return Settings(search, extra)


def _run(own: Any, folder: Path, name: str) -> dict[str, Any]:
    search = tuple(line for line in own.overrides.hydra if line.startswith("hydra.searchpath="))
    extra = next((source.path for source in own.runtime.config_sources if source.provider == "command-line"), None)
    config = _settings(search, extra).load(list(own.overrides.task))
    from metaexp.run.single import run

    return run(config | {"sweep": {"folder": str(folder), "job": name}}).result


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
