"""The jobs of a sweep: their names and configurations, checked before the first one starts."""

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.types import IntervalSweep, Override
from omegaconf import DictConfig

from metaexp.checks import shell
from metaexp.config.overrides import Overrides, parse
from metaexp.config.settings import GROUPS, Settings
from metaexp.errors import ConfigError

COMMAND = "command.txt"  # in a sweep's folder: its command line as typed


class Job(NamedTuple):
    """One run of a sweep: its folder's name, its checked configuration, its settings as typed for it alone."""

    name: str
    config: dict[str, Any]
    words: str = ""


def job_name(number: int, values: str) -> str:
    """A folder's name from a job's number and the values that distinguish it, e.g. 0_algo=maml,seed=1."""
    # Keep the sign of an exponent: 1e+30 is not 1e-30.
    safe = re.sub(r"(?:[^\w.,=+-]|(?<!\de)\+)+", "-", values.replace("++", ""))[:80].rstrip("-,.")
    return f"{number}_{safe}" if safe else str(number)


def names_by_difference(overrides: Overrides) -> str:
    """The setting that makes Hydra name a job only by the values that differ between jobs."""
    fixed = [o.key_or_group for o in overrides.fixed]
    if {"from", "start"} & set(fixed):  # the choices of the run that it names are no difference between jobs
        typed = {o.key_or_group for o in overrides.own}
        fixed += [group for group in GROUPS if group not in typed]
    return f"hydra.job.config.override_dirname.exclude_keys=[{','.join(fixed)}]"


def find_jobs(settings: Settings, overrides: Overrides) -> tuple[DictConfig, list[Job], list[str]]:
    """The jobs that a command line asks for.

    Returns:
        Hydra's own settings; the jobs, or one example of them if its sweeper chooses them later (see `is_grid`); a line
        for each job that is refused.
    """
    own, fixed = overrides.own, [str(o.input_line) for o in overrides.hydra]
    composed = settings.composer.compose([*fixed, *(str(o.input_line) for o in overrides.fixed)])
    sweeper = composed.hydra.sweeper
    if is_grid(composed.hydra):
        params = settings.prepare(parse([f"{key}={value}" for key, value in (sweeper.params or {}).items()])).parsed
        for one in (*params, *own):
            if one.is_sweep_override() and not one.is_discrete_sweep():
                line = str(one.input_line).lstrip("+")
                raise ConfigError(
                    f"{line}: an interval needs a sweeper that chooses values, hydra/sweeper=optuna; a grid takes "
                    "values, a,b,c or range(1,5)"
                )
        combinations = BasicSweeper.split_arguments([*params, *own], None)[0]
    else:
        combinations = [[_example(o) for o in own]]
    jobs, faults = [], []
    for number, combination in enumerate(combinations):
        try:
            config, own_hydra = settings.load_all([*fixed, *combination])
            words = " ".join(shell(word.lstrip("+")) for word in combination)
            jobs.append(Job(job_name(number, own_hydra.job.override_dirname), config, words))
        except ConfigError as error:
            faults.append(str(error))
    return composed.hydra, jobs, faults


def launcher_of(hydra: Any) -> str:
    """basic | joblib | submitit | slurm | ray, whatever the file that chooses it is called; else its class."""
    target = str(hydra.launcher.get("_target_", ""))
    kinds = {"basic_launcher": "basic", "joblib_launcher": "joblib", "LocalLauncher": "submitit"}
    kinds |= {"SlurmLauncher": "slurm", "RayLauncher": "ray"}
    return next((kind for part, kind in kinds.items() if part in target), target)


def is_grid(hydra: Any) -> bool:
    """Whether the jobs are known beforehand, as with Hydra's own sweeper."""
    return hydra.runtime.choices["hydra/sweeper"] == "basic"


def _example(override: Override) -> str:
    """A setting whose value a sweeper chooses, with the first value that it may choose."""
    if not override.is_sweep_override():
        return str(override.input_line)
    value = override.value()
    first = value.start if isinstance(value, IntervalSweep) else next(iter(override.sweep_string_iterator()))
    return f"{override.get_key_element()}={first}"


def check(jobs: Sequence[Job]) -> list[str]:
    """A line for each job whose parts cannot be made, e.g. a number out of range. Raises DataError for missing data."""
    from metaexp.run.parent import parts  # torch is imported here

    faults, seen = [], set()
    for job in jobs:
        settings = json.dumps({key: value for key, value in job.config.items() if key != "seed"}, sort_keys=True)
        settings = re.sub(r'"seed": \d+', "", settings)  # the seed affects no range check
        if settings in seen:
            continue
        seen.add(settings)
        try:
            parts(job.config)
        except ConfigError as error:
            faults.append(f"{job.name}: {error}")
    return faults
