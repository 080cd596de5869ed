"""The configuration saved in a run folder: read as data only, hashed, compared."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from metaexp.errors import CheckpointError
from metaexp.nested import leaves
from metaexp.system.files import plain


class Key(NamedTuple):
    """How a top-level key of a configuration is used.

    Attributes:
        fixed: it determines what is learned: hashed, and equal in a continuation of the run.
        compared: a report separates groups of runs by it.
        shown: it is a column of TensorBoard's HParams.
    """

    fixed: bool = True
    compared: bool = True
    shown: bool = True


# Every key except plain settings of what is learned and how, for which Key() applies.
KEYS = {
    "steps": Key(fixed=False),  # how long
    "device": Key(fixed=False),  # on what
    "encoder": Key(fixed=False),  # the task holds it too, if it reads it
    "test": Key(fixed=False),
    "time_limit": Key(fixed=False, compared=False),
    "watchdog": Key(fixed=False, compared=False, shown=False),
    "name": Key(fixed=False, compared=False),
    # How a run is observed, not what it computes. (A callback may stop it early; its result says so.)
    "logger": Key(fixed=False, compared=False, shown=False),
    "callbacks": Key(fixed=False, compared=False, shown=False),
    "trainer": Key(fixed=False, compared=False, shown=False),
    "figures": Key(fixed=False, compared=False, shown=False),
    "cache": Key(fixed=False, compared=False, shown=False),
    "out": Key(fixed=False, compared=False, shown=False),
    "jobs": Key(fixed=False, compared=False, shown=False),
    "seeds": Key(fixed=False, compared=False, shown=False),
    "resume": Key(fixed=False, compared=False, shown=False),
    "from": Key(fixed=False, compared=False, shown=False),
    "start": Key(fixed=False, compared=False, shown=False),  # where it lies; `parent` says which weights they were
    "trust": Key(fixed=False, compared=False, shown=False),
    "debug": Key(fixed=False),  # the sizes that it cuts are fixed
    "log": Key(compared=False),  # a run writes the same numbers, only more or less often
    "checkpoint": Key(compared=False),
    # Not typed by the user: written by the program.
    "parent": Key(shown=False),  # the weights that the run started from
    "sweep": Key(fixed=False, compared=False, shown=False),
    "trusted": Key(fixed=False, compared=False, shown=False),
    "command": Key(fixed=False, compared=False, shown=False),
    "typed": Key(fixed=False, compared=False, shown=False),
}


def key_of(dotted: str) -> Key:
    """The entry of KEYS for a setting, or the plain one; for `choices.device` that of the group."""
    return KEYS.get(dotted.removeprefix("choices.").split(".", 1)[0], Key())


NOT_SET = "(not set)"


class _NoAliases(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def dump_yaml(data: Any) -> str:
    """Plain containers as YAML; raises yaml.YAMLError for other objects."""
    return yaml.dump(data, Dumper=_NoAliases, sort_keys=False, allow_unicode=True)


def read_config(path: Path) -> dict[str, Any]:
    """The plain values of a run's config.yaml (`path` is the run folder or the file); runs and resolves nothing in it.

    Raises CheckpointError if it is missing, damaged, or holds interpolations or aliases (metaexp writes neither; they
    could read the environment or expand without limit).
    """
    file = Path(path) / "config.yaml" if Path(path).is_dir() else Path(path)
    try:
        text = file.read_text(encoding="utf-8")
        if any(isinstance(token, yaml.AliasToken | yaml.AnchorToken) for token in yaml.scan(text, yaml.SafeLoader)):
            raise CheckpointError(f"{file}: YAML aliases are refused in a run's configuration")
        config = yaml.safe_load(text)
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({os.strerror(error.errno or 0)})") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: damaged, not YAML ({str(error).splitlines()[0]})") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{file}: damaged, holds no configuration")
    for key, value in leaves(config):
        if key != "command" and "${" in json.dumps([key, value], default=str):  # a text, which nothing resolves
            raise CheckpointError(f"{file}: {key} holds an interpolation (${{...}}), refused: it must be a plain value")
        try:
            plain(value)
        except TypeError as error:  # a date, a set, bytes
            raise CheckpointError(f"{file}: damaged, {key} is no plain value ({type(value).__name__})") from error
    return config


def _canonical(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # lr=1 and lr=1.0 are the same setting
    if isinstance(value, list | tuple):
        return f"[{','.join(_canonical(item) for item in value)}]"
    return json.dumps(plain(value), sort_keys=True)


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in leaves(config) if KEYS.get(key.split(".", 1)[0], Key()).fixed}


def config_sha256(config: dict[str, Any]) -> str:
    """SHA-256 (hex) of what is learned and how: every fixed setting (KEYS), regardless of their order."""
    lines = sorted(f"{key}={_canonical(value)}" for key, value in _settings(config).items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def learned_sha256(config: dict[str, Any]) -> str:
    """As `config_sha256`, for a checkpoint: without the chosen device, which a continuation may change."""
    choices = config.get("choices")
    if isinstance(choices, dict):
        config = config | {"choices": {group: choice for group, choice in choices.items() if group != "device"}}
    return config_sha256(config)


def same_run(saved: dict[str, Any], config: dict[str, Any]) -> bool:
    """Whether the saved configuration asks for the same run as `config`, including the number of steps, the test and
    the precision (a run that `resume` names may change steps and test)."""
    if config_sha256(saved) != config_sha256(config) or saved.get("steps") != config["steps"]:
        return False
    tests, device = saved.get("test") or {}, saved.get("device")  # runs older than a setting lack it
    if not isinstance(tests, dict) or not isinstance(device, dict):
        return False
    alike = all(_canonical(config["test"].get(key)) == _canonical(value) for key, value in tests.items())
    return alike and str(device.get("precision")) == str(config["device"]["precision"])


def differences(saved: dict[str, Any], typed: dict[str, Any], partial: bool = False) -> list[tuple[str, Any, Any]]:
    """(key, saved value, new value) of each fixed setting that differs.

    `partial`: `typed` holds only what was typed, so a missing setting is no difference.
    """
    old, new = _settings(saved), _settings(typed)
    keys = new if partial else old | new
    rows = [(key, old.get(key, NOT_SET), new.get(key, NOT_SET)) for key in keys]
    return [(key, before, now) for key, before, now in rows if _canonical(before) != _canonical(now)]
