"""One run, from a resolved configuration to result.json."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

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
from metaexp.run.resume import (
    check_continuation,
    continued_config,
    find_continuation,
    finished_result,
    joined_continuation,
    link_into_sweep,
)
from metaexp.run.saved_run import make_parts
from metaexp.storage.checkpoints import Continuation
from metaexp.storage.lock import state_of
from metaexp.storage.run_folder import RunFolder
from metaexp.system import files
from metaexp.system.allocator import keep_freed_memory
from metaexp.system.machine import forget_peak
from metaexp.system.signals import StopFlag
from metaexp.training.build import Experiment


class Finished(NamedTuple):
    """A run that has finished successfully."""

    folder: Path
    result: dict[str, Any]  # the content of result.json; empty in other processes of a distributed run


def run(config: dict[str, Any], folder: Path | None = None) -> Finished:
    """Train, test and write one run.

    Args:
        config: the resolved configuration (`metaexp.config.settings.load`), with `choices` and, in a sweep, `sweep`.
        folder: the claimed folder, for processes of a distributed run other than the first.

    Raises:
        MetaexpError: by exit code, see `metaexp.errors`; Interrupted after Ctrl-C, Terminated after SIGTERM.
    """
    started = time.monotonic()
    keep_freed_memory()
    forget_peak()
    first = folder is None
    sweep = config.get("sweep")
    resumed = find_continuation(config) if folder is None else joined_continuation(folder)
    if resumed and first:
        config = continued_config(resumed.folder, config)
        if state_of(resumed.folder) == "finished":
            return Finished(resumed.folder, finished_result(resumed.folder, config["steps"]))
    experiment = make_parts(resumed.folder, config) if resumed and first else Experiment(config)
    if resumed and first:
        check_continuation(resumed, experiment)
    from metaexp.training.train_and_test import train_and_test

    run_folder = _open(config, folder, resumed)
    os.environ["METAEXP_RUN_DIR"] = str(run_folder.path)  # children of a distributed run join this folder
    try:
        with _end_in_status(run_folder), StopFlag() as flag:
            result = train_and_test(experiment, run_folder, resumed, flag, started)
            return Finished(run_folder.path, result)
    except ConfigError:
        if first and resumed is None and not any(run_folder.checkpoints.glob("*")):
            run_folder.close()
            shutil.rmtree(run_folder.path, ignore_errors=True)  # refused before it began: a logger's store, say
        raise
    except (NonFiniteError, Interrupted):
        if first:
            raise
        # The first process reports it; on any other exit code Lightning would kill that process.
        return Finished(run_folder.path, {})
    finally:
        if first:
            _leave_group()
            if sweep and resumed:
                link_into_sweep(Path(sweep["folder"]) / sweep["job"], run_folder.path)
        run_folder.close()


def _open(config: dict[str, Any], folder: Path | None, resumed: Continuation | None) -> RunFolder:
    if folder is not None:
        return RunFolder.join(folder)
    if resumed is not None:
        reopened = RunFolder.reopen(resumed.folder)
        for name in ("figures", "projector"):
            files.remove_temporaries(reopened.path / name)
        return reopened
    if sweep := config.get("sweep"):
        return RunFolder.claim_named(Path(sweep["folder"]) / sweep["job"])
    label = config["name"] or f"{config['choices']['algo']}_{config['choices']['task']}"
    return RunFolder.claim(Path(config["out"]), label)


@contextmanager
def _end_in_status(folder: RunFolder) -> Iterator[None]:
    """Records in status.json how the run ended, if an exception ends it."""
    try:
        yield
    except BaseException as error:
        space = files.cause(error, OSError, None)
        if isinstance(space, OSError) and files.is_full(space) and not isinstance(error, MetaexpError):
            error = files.space_error(folder.path, space)
        code = getattr(error, "exit_code", 130 if isinstance(error, KeyboardInterrupt) else 1)
        stopped = isinstance(error, (KeyboardInterrupt, TimeLimitError))
        message = str(error).splitlines()[0] if str(error) else type(error).__name__
        if not folder.begun and isinstance(error, ConfigError | DataError | CheckpointError):
            raise error  # a refused continuation leaves the run unchanged
        with suppress(SpaceError):  # on a full disk, show the first error
            folder.status("interrupted" if stopped else "failed", exit_code=code, error=message)
        raise error


def _leave_group() -> None:
    """Destroys this run's process group and clears its environment: the next job of a sweep makes its own."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    own = ("METAEXP_RUN_DIR", "METAEXP_CHECKPOINT")
    for name in (*own, "MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "NODE_RANK", "LOCAL_RANK"):
        os.environ.pop(name, None)
