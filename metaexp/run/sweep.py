"""`-m`: many runs in one folder. Every job is checked before the first starts; Hydra's launchers run them."""

import json
import re
import secrets
import signal
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import IntervalSweep, Override
from omegaconf import DictConfig

from metaexp.config.command_line import complain
from metaexp.config.compose import VERSION_BASE, config_dir
from metaexp.config.overrides import Overrides, parse
from metaexp.config.settings import Settings
from metaexp.errors import BusyError, ConfigError, Interrupted, MetaexpError
from metaexp.storage.run_folder import RunFolder, read_status, state_of

SIGNALLED = (130, 143)  # exit codes after Ctrl-C and SIGTERM


class Job(NamedTuple):
    """One run of a sweep: its folder's name and its checked configuration."""

    name: str
    config: dict[str, Any]


def sweep(settings: Settings, overrides: Overrides, extra: str | None = None) -> int:
    """Check all jobs, run them, print a table.

    Args:
        settings: made for these overrides.
        overrides: as typed, comma-separated values and all.
        extra: the folder given by --config-dir.

    Returns:
        0 if all jobs finished, 2 if one is wrong (nothing is started or written), 130 or 143 if interrupted, else 1.

    Raises:
        ConfigError: the overrides cannot be read, or no folder can be made.
    """
    prepared = Overrides((*settings.prepare(overrides).parsed, *parse([_exclude(overrides)]).parsed))
    lines = prepared.words
    grid, jobs, faults = _jobs(settings, prepared)
    faults = faults or _check(jobs)
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
    return max(code, _summary(folder, [job.name for job in jobs] if grid else []))


@contextmanager
def _patient(lines: Sequence[str]) -> Iterator[None]:
    """With worker processes, let the first Ctrl-C be theirs: they write their checkpoints; the second ends it all."""
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


def _exclude(overrides: Overrides) -> str:
    # Hydra then names a job by the values that differ between jobs.
    fixed = [o.key_or_group for o in overrides.fixed]
    return f"hydra.job.config.override_dirname.exclude_keys=[{','.join(fixed)}]"


def _jobs(settings: Settings, overrides: Overrides) -> tuple[bool, list[Job], list[str]]:
    """Whether the jobs are known beforehand; the jobs, or one that stands for all; what is wrong with them."""
    own, fixed = overrides.own, [str(o.input_line) for o in overrides.hydra]
    composed = settings.composer.compose([*fixed, *(str(o.input_line) for o in overrides.fixed)])
    sweeper = composed.hydra.sweeper
    grid = composed.hydra.runtime.choices["hydra/sweeper"] == "basic"
    if grid:
        params = parse([f"{key}={value}" for key, value in (sweeper.params or {}).items()]).parsed
        combinations = BasicSweeper.split_arguments([*params, *own], None)[0]
    else:
        combinations = [[_example(o) for o in own]]
    jobs, faults = [], []
    for number, combination in enumerate(combinations):
        try:
            config, own_hydra = settings.load_all([*fixed, *combination])
            jobs.append(Job(job_name(number, own_hydra.job.override_dirname), config))
        except ConfigError as error:
            faults.append(str(error))
    return grid, jobs, faults


def _example(override: Override) -> str:
    """A setting that a sweeper will draw, with the first value that it may draw."""
    if not override.is_sweep_override():
        return str(override.input_line)
    value = override.value()
    first = value.start if isinstance(value, IntervalSweep) else next(iter(override.sweep_string_iterator()))
    return f"{override.get_key_element()}={first}"


def _check(jobs: Sequence[Job]) -> list[str]:
    """What the constructors of each job's parts refuse: numbers out of range, missing data."""
    from metaexp.run.single import Parts

    faults, seen = [], set()
    for job in jobs:
        settings = json.dumps({key: value for key, value in job.config.items() if key != "seed"}, sort_keys=True)
        settings = re.sub(r'"seed": \d+', "", settings)  # a seed changes no range
        if settings in seen:
            continue
        seen.add(settings)
        try:
            Parts(job.config)
        except ConfigError as error:
            faults.append(f"{job.name}: {error}")
    return faults


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
    """Let Hydra act on a command line; returns its exit code."""
    before = sys.argv
    sys.argv = [before[0], *argv]
    try:
        hydra.main(version_base=VERSION_BASE, config_path=str(config_dir()), config_name="train")(run_job)()
        return 0
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    finally:
        sys.argv = before


def job_name(number: int, values: str) -> str:
    """A folder's name from a job's number and the values in which it differs, e.g. 0_algo=maml,seed=1."""
    # The sign of an exponent stays: 1e+30 is not 1e-30.
    safe = re.sub(r"(?:[^\w.,=+-]|(?<!\de)\+)+", "-", values.replace("++", ""))[:80].rstrip("-,.")
    return f"{number}_{safe}" if safe else str(number)


def run_job(_: DictConfig) -> float | None:
    """One job, in whatever process the launcher chose. Returns the best validation metric, for sweepers that learn.

    Raises what the run raises, except that the plain grid sweeper, which would drop the jobs of later batches,
    gets None; the job's status.json says what happened in either case. An interruption ends the sweep: here by the
    exception; in a worker process, whose death would kill its neighbours before their checkpoints, by the status
    that later jobs find.
    """
    own = HydraConfig.get()
    folder, name = Path(own.sweep.dir), job_name(own.job.num, own.job.override_dirname)
    ended = [read_status(path.parent) for path in folder.glob("*/status.json")]
    if any(status.get("state") == "interrupted" and status.get("exit_code") in SIGNALLED for status in ended):
        return None  # not where a job's own time limit ended it
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

    return run(config | {"sweep": {"folder": str(folder), "job": name}})


def _record(folder: Path, error: BaseException) -> None:
    """Say what happened; a job that failed before it had a folder gets one with its status."""
    if isinstance(error, MetaexpError):
        code, message = error.exit_code, str(error)
        complain(f"{folder.name}: {message}")
    else:
        code, message = 1, f"{type(error).__name__}: {error}"
        traceback.print_exception(error)
    if not (folder / "status.json").exists():
        with suppress(BusyError), RunFolder.claim_named(folder) as claimed:
            claimed.status("failed", exit_code=code, error=message)


def _summary(folder: Path, names: Sequence[str]) -> int:
    """Print one row per job; returns the sweep's exit code."""
    found = sorted((path.parent.name for path in folder.glob("*/status.json")), key=_number)
    rows, codes = [("run", "state", "code", "test")], []
    for name in names or found:
        status = read_status(folder / name)
        state = state_of(folder / name) if status else "not started"
        code = 0 if state == "finished" else int(status.get("exit_code") or 1)
        codes.append(code)
        rows.append((name, state, str(code) if status else "-", _metric(folder / name) or str(status.get("error", ""))))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]).rstrip())
    return _worst(codes)


def _number(name: str) -> tuple[int, str]:
    number = re.match(r"\d+", name)
    return (int(number[0]) if number else 0, name)


def _worst(codes: Iterable[int]) -> int:
    codes = list(codes)
    stopped = [code for code in codes if code in SIGNALLED]
    return max(stopped) if stopped else int(any(codes) or not codes)


def _metric(folder: Path) -> str:
    try:
        test = json.loads((folder / "result.json").read_text())["test"]
        name, value = next(iter(test.items()))
        return f"{name} {value['mean']:.4g} +- {value['ci95']:.2g}"
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        return ""
