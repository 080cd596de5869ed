"""`python -m metaexp.evaluate run=FOLDER [KEY=VALUE ...]`: test a run again. See --help."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from metaexp.checks import nearest, shell, show

# torch and lightning are imported only after the command line has been checked.
from metaexp.config.command_line import exit_code
from metaexp.config.overrides import parse, typed_path, unquoted
from metaexp.config.schema import checked_value, kind_at
from metaexp.constraints import Misfit
from metaexp.errors import ConfigError
from metaexp.nested import at
from metaexp.run.other_task import is_of_tasks, other_task
from metaexp.system.ranks import one_process

SIZES = ("shots", "queries", "ways", "rotation")
HELP = """usage: python -m metaexp.evaluate run=FOLDER [KEY=VALUE ...]

Tests the run in FOLDER again. With nothing changed, the tasks and the numbers are those of its result.json.
An unfinished run is tested with the best or the newest weights that it has. The results are written to
FOLDER/evaluations/1, 2, ...; nothing else in FOLDER is changed.

What may be changed:
  test.tasks=200                  number of test tasks
  test.weights=best|last          weights=last does the same
  test.normalise=[single]         where batch statistics come from: queries, single, support
  task.test.shots=5               likewise queries, ways, rotation; task.shots=5 does the same
  task.eval_seed=1                other test tasks
  algo.test_steps=20              and other settings of the method whose names begin with test_
  device=cpu                      likewise device.precision, device.threads
  task.root=FOLDER                where the data are on this machine, task.download=true; other data are recognised
  task.amplitude=[5,10]           any other setting of the tasks: a test on shifted tasks
  task=images task.root=FOLDER    another family, other data: a cross-domain test. Pictures take the size and colours of
                                  the run, sentences and pictures pass its encoder, and what is not typed (shots, ways)
                                  is as in the run's test
  --config-dir FOLDER             your own group files, for task=
  out=FOLDER                      where the results go, instead of FOLDER/evaluations
  trust=[package]                 your own package, whose classes the run names
"""


class Typed(NamedTuple):
    """A parsed command line."""

    run: Path
    changes: dict[str, Any]  # by dotted key of the run's configuration
    trust: list[str]
    out: Path | None
    words: list[str]  # the changes as typed
    extra: str | None  # the folder of --config-dir


def main() -> None:
    """The command; exits with the codes of metaexp.errors."""
    sys.exit(exit_code(lambda: evaluate(sys.argv[1:])))


def evaluate(argv: Sequence[str]) -> int:
    """Run a command line; returns the exit code.

    Raises:
        ConfigError: a key that may not be changed, a wrong value, a class that is not trusted.
        CheckpointError: not a run folder, or no usable weights in it.
        DataError, SpaceError, Interrupted: as in training.
    """
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())  # the user's own classes, if they are trusted
    if "--help" in argv or "-h" in argv:
        print(HELP, end="")
        return 0
    typed = read(argv)
    one_process("metaexp.evaluate")
    from metaexp.run.restore import open_config

    saved = open_config(typed.run, typed.trust)
    of_tasks = _of_tasks(saved, typed.changes)
    words = [word for word in typed.words if word.partition("=")[0].lstrip("+") in of_tasks]
    usual = {key: value for key, value in typed.changes.items() if key not in of_tasks}
    changed = {key: value for key, value in allowed(saved, usual).items() if value != at(saved, key, None)}
    config = with_changes(saved, changed)
    asked = other_task(config, of_tasks, words, typed.extra) if of_tasks else None
    new_family = asked is not None and asked.fresh
    changed |= {key: value for key, value in of_tasks.items() if new_family or value != at(saved, key, None)}
    from metaexp.run.retest import retest  # Lightning is imported here

    command = " ".join(["python -m metaexp.evaluate", *map(shell, argv)])
    retest(typed.run, saved, config | {"command": command}, changed, typed.out, asked)
    return 0


def _of_tasks(saved: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Those of the typed keys that ask for other tasks than the run's. Sizes, the seed of the test tasks and where the
    data lie belong to them only if another family is chosen, or other data."""
    found = {key: value for key, value in changes.items() if is_of_tasks(key)}
    if "task" in found:
        return found
    keys, short = changeable(saved)
    usual = {*keys, *short}
    return {key: value for key, value in found.items() if key not in usual or key == "task.root"}


def read(argv: Sequence[str]) -> Typed:
    """Parse the arguments; raises ConfigError for one that cannot be parsed."""
    words, paths, extra = [], {}, None
    given = iter(argv)
    for word in given:
        key, equals, value = word.partition("=")
        if key in ("--config-dir", "-cd"):
            extra = value if equals else next(given, "")
            continue
        if word.startswith("-"):
            raise ConfigError(f"{word}: no such flag; see --help")
        if key in ("run", "out") and equals:  # paths may contain any character, so Hydra does not parse them
            paths[key] = typed_path(key, unquoted(value))
        elif not equals and Path(word).is_dir():
            paths["run"] = Path(word)
        else:
            words.append(word)
    if "run" not in paths:
        raise ConfigError("run=FOLDER: must be given: the folder of the run to test (see --help)")
    changes: dict[str, Any] = {}
    for override in parse(words).parsed:
        if override.is_sweep_override() or override.is_delete():
            raise ConfigError(f"{override.input_line}: one value at a time; a list is written [a,b]")
        changes[override.key_or_group.lstrip("+")] = _plain(override.value())
    trust = changes.pop("trust", None) or []
    trusted = [trust] if isinstance(trust, str) else list(trust)
    return Typed(paths["run"], changes, trusted, paths.get("out"), words, extra)


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    return value if value is None or isinstance(value, bool | int | float) else str(getattr(value, "text", value))


def changeable(saved: dict[str, Any]) -> tuple[list[str], dict[str, str]]:
    """The keys of a run's configuration that an evaluation may change, and short names of some of them."""
    task, device = saved["task"], saved["device"]
    keys = [f"test.{key}" for key in dict.fromkeys([*saved["test"], "predictions"])]  # a run may be older than it
    keys += [f"task.test.{key}" for key in task["test"]] if isinstance(task.get("test"), dict) else []
    keys += [f"task.{key}" for key in ("eval_seed", "root", "download", "verify") if key in task]
    keys += [f"algo.{key}" for key in saved["algo"] if key.startswith("test_")]
    keys += [f"device.{key}" for key in ("accelerator", "precision", "threads") if key in device]
    short = {"weights": "test.weights", "device": "device.accelerator", "eval_seed": "task.eval_seed"}
    for size in SIZES:  # an evaluation has no training that these could refer to
        if f"task.test.{size}" in keys:
            short[f"task.{size}"] = f"task.test.{size}"
        elif size in task:
            keys.append(f"task.{size}")
    return keys, short


def allowed(saved: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The changes by their full keys.

    Args:
        saved: a run's configuration.
        changes: new values by key as typed: `task.shots` is short for `task.test.shots`, `weights` for `test.weights`.

    Raises:
        ConfigError: a key that the run does not have, that may not be changed, or a value that is not allowed.
    """
    keys, short = changeable(saved)
    found: dict[str, Any] = {}
    for typed, value in changes.items():
        key = short.get(typed, typed)
        if key not in keys:
            hint = nearest(typed, [*keys, *short]) or f"; what may: {', '.join(keys)}"
            raise ConfigError(f"{typed}={show(value)}: cannot be changed in a trained run{hint}")
        if found.get(key, value) != value:
            raise ConfigError(f"{typed}={show(value)}: {key}={show(found[key])} says otherwise")
        if key == "test.normalise" and isinstance(value, str):
            value = [value]
        try:
            found[key] = checked_value(value, at(saved, key, None), kind_at(saved, key))
        except Misfit as fault:
            raise ConfigError(f"{typed}={show(value)}: {fault}") from None
    return found


def with_changes(saved: dict[str, Any], changed: dict[str, Any]) -> dict[str, Any]:
    """A copy of the configuration with the changed values in it."""
    config = dict(saved)
    for key, value in changed.items():
        *groups, last = key.split(".")
        node = config
        for name in groups:
            node[name] = dict(node[name])
            node = node[name]
        node[last] = value
    return config


if __name__ == "__main__":
    main()
