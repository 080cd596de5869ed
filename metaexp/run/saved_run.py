"""The saved settings of a run, read with their form checked: a folder may have been edited by hand or cut short."""

from pathlib import Path
from typing import Any

from metaexp.checks import show
from metaexp.config.declared import settings
from metaexp.constraints import Misfit, fitted
from metaexp.errors import CheckpointError, ConfigError, MetaexpError
from metaexp.nested import at
from metaexp.storage.saved_config import read_config
from metaexp.system import cache
from metaexp.tasks.base import TaskFamily
from metaexp.training.build import Experiment
from metaexp.training.parent import Parent, prepared_family
from metaexp.training.sizes import within_memory

# What the groups of every run's configuration contain since 0.1.0; single settings are in metaexp.config.declared.
_GROUPS = dict.fromkeys(("algo", "task", "model", "optimizer"), ("_target_",)) | {"choices": ("algo", "task", "model")}
_FREE = ("logger", "callbacks", "trainer")  # groups of observers, which may be absent or empty


def read_saved(folder: Path) -> dict[str, Any]:
    """The settings saved in a run folder.

    Raises CheckpointError if they cannot be read, or if a group or setting that every run has is missing or has the
    wrong type.
    """
    config = read_config(folder)
    check_form(config, folder / "config.yaml")
    return config


def check_form(config: dict[str, Any], file: Path) -> None:
    """Raises CheckpointError if a group or setting that every run has is missing or has the wrong type."""
    for group, names in _GROUPS.items():
        for key in (group, *(f"{group}.{name}" for name in names)):
            value = at(config, key, None)
            if value is None:
                raise CheckpointError(f"{file}: damaged, it has no {key}")
            if key != group and not isinstance(value, str):
                raise CheckpointError(f"{file}: damaged, {key}={show(value)}: must be text")
    for group in _FREE:
        if not isinstance(config.get(group) or {}, dict):
            raise CheckpointError(f"{file}: damaged, {group}={show(config[group])}: must be a group of settings")
    for key, kind, everywhere in settings():
        group = key.rpartition(".")[0]
        if group and not isinstance(at(config, group, None), dict) and (everywhere or group in config):
            raise CheckpointError(f"{file}: damaged, it has no {group}")
        value = at(config, key, Ellipsis)
        if value is Ellipsis:
            if everywhere:
                raise CheckpointError(f"{file}: damaged, it has no {key}")
            continue
        try:
            fitted(value, kind)
        except Misfit as fault:
            if not fault.out_of_range:  # ranges are checked when the parts are made
                raise CheckpointError(f"{file}: damaged, {key}={show(value)}: {fault}") from None


def own_family(folder: Path, config: dict[str, Any]) -> TaskFamily:
    """The family that a run's settings describe; a run that another one started has raw data prepared as by that one.

    Raises CheckpointError if what it keeps of the other one is damaged; DataError, ConfigError: as Experiment.
    """
    earlier = Parent.read(folder).own if config.get("parent") else None
    with within_memory():
        return prepared_family(config, config.get("trusted", ()), earlier)


def make_parts(
    folder: Path, config: dict[str, Any], family: TaskFamily | None = None, *args: Any, **named: Any
) -> Experiment:
    """The parts that saved settings describe.

    Raises CheckpointError for settings that no command line could have given, e.g. text where a class takes a number;
    otherwise what Experiment raises, with the run's name in the message.
    """
    try:
        if family is None and config.get("parent"):
            cache.choose(config.get("cache"))
            family = own_family(folder, config)
        return Experiment(config, family, *args, **named)
    except ConfigError as error:
        raise ConfigError(f"{error} (settings of {folder})") from error
    except (MetaexpError, OSError, MemoryError):
        raise
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, AssertionError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise CheckpointError(f"{folder / 'config.yaml'}: no run can be made from these settings ({reason})") from error
