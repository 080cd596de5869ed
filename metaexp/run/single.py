"""One run, from a resolved configuration to result.json: where it stands, what it continues, how it ends."""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from metaexp.config.trust import trusted_modules
from metaexp.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    Interrupted,
    MetaexpError,
    NonFiniteError,
    SpaceError,
    TimeLimitError,
)
from metaexp.storage.run_folder import RunFolder, find_resumable, state_of
from metaexp.storage.saved_config import differences, key_of, read_config
from metaexp.system import files
from metaexp.system.allocator import keep_freed_memory
from metaexp.system.machine import forget_peak
from metaexp.system.signals import StopFlag
from metaexp.training.build import Parts

__all__ = ["Parts", "run"]


def run(config: dict[str, Any], folder: Path | None = None) -> dict[str, Any]:
    """Train, test and write one run; returns the content of result.json.

    Args:
        config: the resolved configuration (`metaexp.config.settings.load`), with `choices` and, in a sweep, `sweep`.
        folder: for the processes of a distributed run after the first: the claimed folder.

    Raises:
        MetaexpError: by exit code, see `metaexp.errors`; Interrupted, Terminated after Ctrl-C, SIGTERM.
    """
    started = time.monotonic()
    keep_freed_memory()
    forget_peak()
    resumed, sweep = _resumed(config) if folder is None else _joined(folder), config.get("sweep")
    if resumed is not None and folder is None:
        config = _continued(resumed[0], config)
        if state_of(resumed[0]) == "finished":
            return _finished(resumed[0], config["steps"])
    parts = Parts(config)
    from metaexp.loggers.progress import quiet
    from metaexp.training.train_and_test import (
        execute,  # Lightning is imported here, after the configuration has passed
    )

    quiet()
    run_folder = _open(config, folder, resumed)
    os.environ["METAEXP_RUN_DIR"] = str(run_folder.path)  # children of a distributed run join this folder
    try:
        with _states(run_folder), StopFlag() as flag:
            return execute(parts, run_folder, resumed, flag, started)
    except (NonFiniteError, Interrupted):
        if folder is None:
            raise
        return {}  # the first process says it; Lightning would answer another exit code by killing that process
    finally:
        if folder is None:
            _leave_group()
            if sweep and resumed is not None:
                _stand_in(Path(sweep["folder"]) / sweep["job"], run_folder.path)
        run_folder.close()


def _leave_group() -> None:
    """Forget this run's process group and its environment: the next job of a sweep makes its own."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    own = ("METAEXP_RUN_DIR", "METAEXP_CHECKPOINT")
    for name in (*own, "MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "NODE_RANK", "LOCAL_RANK"):
        os.environ.pop(name, None)


# -- resume ------------------------------------------------------------------------------------------------------------


def _resumed(config: dict[str, Any]) -> tuple[Path, Path | None] | None:
    """(run folder, checkpoint or None for the newest) to continue, or None to start fresh."""
    wanted = config["resume"]
    if wanted in (False, None, "false"):
        return None
    if wanted == "auto":
        found = find_resumable(Path(config["out"]), config)
        if found is None:
            print("resume=auto: nothing to continue here, starting fresh", file=sys.stderr)
        return None if found is None else (found, None)
    path = Path(str(wanted))
    if path.suffix == ".ckpt" or path.is_file():
        if not path.is_file():
            raise CheckpointError(f"resume={path}: no such checkpoint")
        return path.resolve().parent.parent, path.resolve()
    if not path.is_dir():
        raise CheckpointError(f"resume={path}: no such run folder")
    return path.resolve(), None


def _joined(folder: Path) -> tuple[Path, Path | None] | None:
    path = os.environ.get("METAEXP_CHECKPOINT")
    return (folder, Path(path)) if path else None


def _finished(path: Path, steps: int) -> dict[str, Any]:
    from metaexp.loggers.progress import print_result

    result = json.loads((path / "result.json").read_text())
    if steps > result["steps"] and not result.get("stopped"):
        raise ConfigError(f"steps={steps}: {path} has ended with its {result['steps']} steps; begin a run of {steps}")
    print_result(result, str(path), str(path.parent))
    return result


def _continued(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The saved configuration, with what may change taken from the command line; refuses other differences.

    Modules that the saved configuration trusts are not trusted again: a run folder may come from a stranger.
    """
    saved = read_config(path)
    typed = {key: value for key, value in config["typed"].items() if key_of(key).fixed}
    changed = differences(saved, typed, partial=True) if typed else []
    if changed:
        lines = "; ".join(f"{key}: {old} -> {new}" for key, old, new in changed)
        raise ConfigError(
            f"resume={path}: a run's settings must stay ({lines}); steps, test, device and out may change"
        )
    names = {key.removeprefix("choices.").split(".")[0] for key in config["typed"]}
    kept = {key: config[key] for key in ("steps", "time_limit") if key in names}
    kept["test"] = saved["test"] | {k: v for k, v in config["test"].items() if f"test.{k}" in config["typed"]}
    kept["device"], kept["choices"] = _device(saved, config)
    # What the saved configuration trusts is not trusted again, but what this command line's own group files name is.
    trusted = trusted_modules(saved, config["trust"], config["trusted"])
    return saved | kept | {"resume": config["resume"], "trusted": sorted(trusted)}


def _device(saved: dict[str, Any], config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Device and choices of a run that goes on: of another device group all but the precision, which is in what is
    learned, and of single settings those that are typed."""
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


def _open(config: dict[str, Any], folder: Path | None, resumed: tuple[Path, Path | None] | None) -> RunFolder:
    if folder is not None:
        return RunFolder.join(folder)
    if resumed is not None:
        reopened = RunFolder.reopen(resumed[0])
        for name in ("figures", "projector"):
            files.remove_temporaries(reopened.path / name)
        return reopened
    sweep = config.get("sweep")
    if sweep:
        return RunFolder.claim_named(Path(sweep["folder"]) / sweep["job"])
    label = config["name"] or f"{config['choices']['algo']}_{config['choices']['task']}"
    return RunFolder.claim(Path(config["out"]), label)


def _stand_in(job: Path, run_folder: Path) -> None:
    """A link in the sweep's folder to the older run that a job went on with: its state counts in the sweep. Made when
    that run has ended, else its old state would be taken for one of this sweep."""
    with suppress(OSError):
        job.symlink_to(os.path.relpath(run_folder, job.parent), target_is_directory=True)


@contextmanager
def _states(folder: RunFolder) -> Iterator[None]:
    """Writes how the run ended into status.json, whatever ends it."""
    try:
        yield
    except BaseException as error:
        space = files.cause(error, OSError, None)
        if isinstance(space, OSError) and files.is_full(space) and not isinstance(error, MetaexpError):
            error = files.space_error(folder.path, space)
        code = getattr(error, "exit_code", 130 if isinstance(error, KeyboardInterrupt) else 1)
        stopped = isinstance(error, (KeyboardInterrupt, TimeLimitError))
        message = str(error).splitlines()[0] if str(error) else type(error).__name__
        if not folder.begun and isinstance(error, ConfigError | DataError):
            raise error  # a continuation that was refused leaves the run as it found it
        with suppress(SpaceError):  # on a full disk the first error is the one to show
            folder.status("interrupted" if stopped else "failed", exit_code=code, error=message)
        raise error
