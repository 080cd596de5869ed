"""`seeds=[0,1,2]`: the sweep that it stands for, with as many jobs at a time as there are cores."""

import os

from metaexp.checks import show
from metaexp.config.command_line import CommandLine
from metaexp.config.overrides import Overrides, parse
from metaexp.errors import ConfigError


def with_seeds(line: CommandLine) -> CommandLine:
    """The command line as the sweep that `seeds=` asks for; any other one as it is.

    Raises:
        ConfigError: no list of different whole numbers, or another setting contradicts it.
    """
    own = {override.key_or_group: override for override in line.overrides.own}
    typed = own.get("seeds")
    if typed is None or line.action not in ("run", "sweep"):
        return line
    text = str(typed.input_line)
    seeds = None if typed.is_sweep_override() or typed.is_delete() else typed.value()
    if seeds is None and not typed.is_sweep_override():
        return line
    if not isinstance(seeds, list):
        raise ConfigError(f"{text}: a list, seeds=[0,1,2]")
    if not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise ConfigError(f"{text}: must be whole numbers of at least 0, e.g. seeds=[0,1,2]")
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"{text}: a seed twice would be the same run twice")
    if "seed" in own:
        raise ConfigError(f"{own['seed'].input_line} beside {text}: type one of them")
    if "resume" in own and str(own["resume"].value()) not in ("auto", "False", "false"):
        raise ConfigError(
            f"{own['resume'].input_line} beside {text}: a folder is one run; resume=auto goes on with all of them"
        )
    words = [word for word in line.overrides.words if word != text]
    words.append(f"seed={','.join(map(show, seeds))}")
    if "jobs" not in own and not any(o.key_or_group == "hydra/launcher" for o in line.overrides.hydra):
        words.append(f"jobs={min(len(seeds), _cores())}")
    return line._replace(overrides=Overrides((*parse(words).parsed,)), action="sweep")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
