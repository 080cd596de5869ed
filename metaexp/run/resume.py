"""Which run is continued, and what may differ from its saved configuration."""

import json
import os
import sys
from pathlib import Path
from typing import Any

from metaexp.config.trust import trusted_modules
from metaexp.errors import CheckpointError, ConfigError
from metaexp.run.earlier import find_resumable
from metaexp.storage.checkpoints import Continuation
from metaexp.storage.saved_config import differences, key_of, read_config


def find_continuation(config: dict[str, Any]) -> Continuation | None:
    """The continuation that `resume` asks for (False, "auto", a run folder or one of its checkpoints); None: a new run.

    Raises CheckpointError if there is no such folder or checkpoint.
    """
    wanted = config["resume"]
    if wanted in (False, None, "false"):
        return None
    if wanted == "auto":
        found = find_resumable(Path(config["out"]), config)
        if found is None:
            print("resume=auto: nothing to continue here, starting fresh", file=sys.stderr)
        return None if found is None else Continuation(found, None)
    path = Path(str(wanted))
    if path.suffix == ".ckpt" or path.is_file():
        if not path.is_file():
            raise CheckpointError(f"resume={path}: no such checkpoint")
        return Continuation(path.resolve().parent.parent, path.resolve())
    if not path.is_dir():
        raise CheckpointError(f"resume={path}: no such run folder")
    return Continuation(path.resolve(), None)


def joined_continuation(folder: Path) -> Continuation | None:
    """The same for the other processes of a distributed run, from what the first process wrote into the environment."""
    path = os.environ.get("METAEXP_CHECKPOINT")
    return Continuation(folder, Path(path)) if path else None


def finished_result(path: Path, steps: int) -> dict[str, Any]:
    """The content of a finished run's result.json, also printed. Raises ConfigError if more steps are requested.

    A run that stopped early is finished, whatever `steps` is.
    """
    from metaexp.loggers.result_table import print_result

    result = json.loads((path / "result.json").read_text())
    if steps > result["steps"] and not result.get("stopped"):
        raise ConfigError(f"steps={steps}: {path} has ended after {result['steps']} steps; start a new run of {steps}")
    print_result(result, str(path), str(path.parent))
    return result


def continued_config(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The saved configuration, updated from the command line where that is allowed; ConfigError for other changes.

    Modules that the saved configuration trusts are not trusted again: a run folder may come from a stranger.
    """
    saved = read_config(path)
    typed = {key: value for key, value in config["typed"].items() if key_of(key).fixed}
    changed = differences(saved, typed, partial=True) if typed else []
    if changed:
        lines = "; ".join(f"{key}: {old} -> {new}" for key, old, new in changed)
        raise ConfigError(
            f"resume={path}: a run's settings must stay the same ({lines}); steps, test, device and out may change"
        )
    names = {key.removeprefix("choices.").split(".")[0] for key in config["typed"]}
    free = ("steps", "time_limit", "watchdog", "logger", "callbacks", "trainer")
    kept = {key: config[key] for key in free if key in names}
    kept["test"] = saved["test"] | {k: v for k, v in config["test"].items() if f"test.{k}" in config["typed"]}
    kept["device"], kept["choices"] = _device(saved, config)
    # Only modules that this command line's own group files name are trusted, not those of the saved configuration.
    trusted = trusted_modules(saved, config["trust"], config["trusted"])
    return saved | kept | {"resume": config["resume"], "trusted": sorted(trusted)}


def _device(saved: dict[str, Any], config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Device and choices of a continued run.

    Another device group replaces everything but the precision, which is part of what is learned; otherwise only the
    typed device settings are replaced. Raises ConfigError for another precision.
    """
    typed, choices = config["typed"], dict(saved["choices"])
    device = dict(saved["device"])
    if "choices.device" in typed:
        device = config["device"] | {"precision": device["precision"]}
        choices["device"] = config["choices"]["device"]
    device |= {key: value for key, value in config["device"].items() if f"device.{key}" in typed}
    if str(device["precision"]) != str(saved["device"]["precision"]):
        raise ConfigError(
            f"device.precision={device['precision']}: a run keeps the precision that it began with, "
            f"{saved['device']['precision']}"
        )
    return device, choices
