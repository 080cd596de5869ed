"""Which run is continued, and what may differ from its saved configuration."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metaexp.checks import shell
from metaexp.config.trust import trusted_modules
from metaexp.errors import BusyError, CheckpointError, ConfigError
from metaexp.run.earlier import find_resumable
from metaexp.run.saved_run import read_saved
from metaexp.storage.checkpoint_file import DamagedCheckpoint, load
from metaexp.storage.checkpoints import Checkpoints, Continuation
from metaexp.storage.lock import busy, check_status, state_of
from metaexp.storage.metrics_log import check_rows
from metaexp.storage.saved_config import differences, key_of
from metaexp.storage.saved_result import read_result
from metaexp.tasks.placeholder import check_data
from metaexp.training.checkpoint_form import check_optimizer, check_weights, restore_callbacks

if TYPE_CHECKING:
    from metaexp.training.build import Experiment


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
    try:
        os.stat(path)
    except FileNotFoundError:
        pass  # said below
    except (OSError, ValueError) as error:
        raise CheckpointError(f"resume={path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
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
    """The content of a finished run's result.json, also printed.

    Raises ConfigError if more steps are requested, CheckpointError if it is damaged.

    A run that stopped early is finished, whatever `steps` is.
    """
    from metaexp.loggers.result_table import print_result

    try:
        result, faults = read_result(path)
    except CheckpointError as error:
        raise CheckpointError(
            f"{error}; python -m metaexp.evaluate {shell(f'run={path}')} tests the run again"
        ) from None
    if faults or not isinstance(result["steps"], int):
        raise CheckpointError(faults[0] if faults else f"{path / 'result.json'}: damaged, it has no steps")
    if steps > result["steps"] and not result.get("stopped"):
        raise ConfigError(f"steps={steps}: {path} has ended after {result['steps']} steps; start a new run of {steps}")
    print_result(result, str(path), str(path.parent))
    return result


def continued_config(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The saved configuration, updated from the command line where that is allowed.

    Raises ConfigError for other changes, CheckpointError for a damaged configuration or status.

    Modules that the saved configuration trusts are not trusted again: a run folder may come from a stranger.
    """
    check_status(path)
    saved = read_saved(path)
    typed = {key: value for key, value in config["typed"].items() if key_of(key).fixed}
    changed = differences(saved, typed, partial=True) if typed else []
    if changed:
        lines = "; ".join(f"{key}: {old} -> {new}" for key, old, new in changed)
        raise ConfigError(
            f"resume={path}: a run's settings must stay the same ({lines}); steps, test, device and out may change"
        )
    names = {key.removeprefix("choices.").split(".")[0] for key in config["typed"]}
    free = ("steps", "time_limit", "watchdog", "logger", "callbacks", "trainer", "figures")
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


def check_continuation(resumed: Continuation, experiment: "Experiment") -> None:
    """Refuse a run that cannot go on, before its lock is taken: a refused run is left as it is, to the byte.

    Raises:
        BusyError: another process is using it.
        CheckpointError, DataError, ConfigError: its checkpoint, metrics or settings do not belong together.
    """
    folder = resumed.folder
    if state_of(folder) == "running":
        raise BusyError(busy(folder))
    checkpoints, learner = Checkpoints(folder / "checkpoints", writes=False), experiment.learner
    if resumed.checkpoint is None:
        found = checkpoints.latest(quiet=True)
    else:
        found = load(resumed.checkpoint, quiet=True), resumed.checkpoint
    if found is None:
        raise CheckpointError(f"{folder}: no checkpoint yet; start over with resume=false")
    data, path = found
    check_weights(data, path, learner, experiment.config)
    check_optimizer(data, path, experiment.optimizer, experiment.schedule)
    restore_callbacks(experiment.callbacks, data, path)
    record = data["metaexp"]
    check_data(experiment.family, record)
    if experiment.config["steps"] < record["step"]:
        raise ConfigError(
            f"steps={experiment.config['steps']}: {folder} is already at step {record['step']}; resume an earlier "
            "checkpoint"
        )
    check_rows(folder, record["step"])
    try:
        best = checkpoints.best()
    except DamagedCheckpoint as error:
        raise CheckpointError(f"{error}; remove it to go on without the best weights so far") from error
    if best is not None:
        check_weights(*best, learner, experiment.config)
