"""One run, from a resolved configuration to result.json."""

import importlib
import os
import shutil
import signal
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
    HangError,
    Interrupted,
    MetaexpError,
    NonFiniteError,
    PeerError,
    SpaceError,
    TimeLimitError,
)
from metaexp.run.earlier import link_into_sweep
from metaexp.run.parent import parts
from metaexp.run.resume import (
    check_continuation,
    continued_config,
    find_continuation,
    finished_result,
    joined_continuation,
)
from metaexp.storage.checkpoints import Continuation
from metaexp.storage.lock import read_status, state_of
from metaexp.storage.run_folder import RunFolder
from metaexp.storage.saved_config import read_config
from metaexp.system import files
from metaexp.system.allocator import keep_freed_memory
from metaexp.system.group import Group, exit_code_of, lost
from metaexp.system.lean import import_lightning, resume_collector
from metaexp.system.machine import forget_peak
from metaexp.system.output import tolerant_output
from metaexp.system.ranks import Ranks, launched, ranks_of
from metaexp.system.signals import StopFlag
from metaexp.system.watcher import Watcher
from metaexp.training.build import Experiment
from metaexp.training.distributed import (
    end_hung_parent,
    end_with_parent,
    join,
    lost_peer,
    say_the_end,
    wait_for_the_end,
)

PRELOADED = (
    "metaexp.training.train_and_test",
    "metaexp.outer.meta_training",
    "metaexp.training.trainer",
    "metaexp.plots.episodes",
    "metaexp.algos.maml",
    "metaexp.models.mlp",
    "metaexp.tasks.sine",
    "matplotlib.backends.backend_agg",
    "torch.utils.tensorboard",
)


class Finished(NamedTuple):
    """A run that has finished successfully."""

    folder: Path
    result: dict[str, Any]  # the content of result.json; empty in other processes of a distributed run


def preload() -> None:
    """Imports what a run imports on its way, for processes forked from this one; runs no operation of torch."""
    import_lightning()
    for name in PRELOADED:
        importlib.import_module(name)


def run(config: dict[str, Any], folder: Path | None = None, own_process: bool = True) -> Finished:
    """Train, test and write one run.

    Args:
        config: the resolved configuration (`metaexp.config.settings.load`), with `choices` and, in a sweep, `sweep`.
        folder: the claimed folder, for processes of a distributed run other than the first.
        own_process: whether a second signal may end this process while a step hangs; not in a notebook.

    Raises:
        MetaexpError: by exit code, see `metaexp.errors`; Interrupted after Ctrl-C, Terminated after SIGTERM.
    """
    with tolerant_output():
        return _run(config, folder, own_process)


def _run(config: dict[str, Any], folder: Path | None, own_process: bool) -> Finished:
    started = time.monotonic()
    keep_freed_memory()
    forget_peak()
    sweep = config.get("sweep")  # a continued run's saved configuration names none, or the sweep that it began in
    group = _meet(config, folder)
    with _lost_as_one_line(Ranks(group.rank, group.world, launcher="any"), config["device"], "start it again"):
        plan = group.first(lambda: _plan(config, folder))
        if plan.result is not None:
            assert plan.resumed is not None
            return Finished(plan.resumed.folder, plan.result)
        typed, config, resumed = config.get("typed", ()), plan.config, plan.resumed
        ranks = ranks_of(config["device"], typed, child=folder is not None)
        config = config | {"device": config["device"] | {"devices": ranks.world // ranks.nodes}}
        experiment = group.each(lambda: _parts(config, folder, None if folder else resumed, ranks))
        from metaexp.training.train_and_test import train_and_test

        resume_collector()
        run_folder = _open(config, folder, resumed, group)
    first, how = run_folder.writes, run_folder.how_to_continue
    if first and ranks.launcher is None:
        os.environ["METAEXP_RUN_DIR"] = str(run_folder.path)  # children of a distributed run join this folder
    try:
        watcher = _watcher(run_folder, config, own_process)
        peers = _lost_as_one_line(ranks, config["device"], how)
        with StopFlag(watcher) as flag, _end_in_status(run_folder), peers:
            result = train_and_test(experiment, run_folder, resumed, flag, started)
            return Finished(run_folder.path, result)
    except ConfigError:
        if first and resumed is None and not any(run_folder.checkpoints.glob("*")):
            run_folder.close()
            shutil.rmtree(run_folder.path, ignore_errors=True)  # refused before it began: a logger's store, say
        raise
    except (MetaexpError, Interrupted) as error:
        if ranks.launcher is not None:  # which now sends SIGTERM to those that have not ended yet
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if first:
            raise
        return _end_of_another(error, run_folder, ranks)
    finally:
        if first:
            say_the_end(ranks)
            _leave_group(ranks)
            if sweep and resumed:
                link_into_sweep(Path(sweep["folder"]) / sweep["job"], run_folder.path)
        run_folder.close()


def _parts(config: dict[str, Any], folder: Path | None, resumed: Continuation | None, ranks: Ranks) -> Experiment:
    """The parts of the run, whose folder another process may have claimed; a run that goes on is checked before it is
    touched."""
    if resumed is None:
        return parts(config, folder, ranks=ranks, trial=True)
    experiment = parts(config, resumed.folder, ranks=ranks, trial=True)
    check_continuation(resumed, experiment)
    return experiment


class _Plan(NamedTuple):
    """What the first process decides before anything is built."""

    config: dict[str, Any]
    resumed: Continuation | None
    result: dict[str, Any] | None  # of a run that has finished already


def _meet(config: dict[str, Any], folder: Path | None) -> Group:
    """Under a launcher, joins the other processes of a run that has or may have ranks; else this process alone."""
    if folder is not None:
        end_with_parent(signal.SIGKILL)
        return Group()
    typed, resumes = config.get("typed", ()), config["resume"] not in (False, None, "false")
    saved = resumes and not {"choices.device", "device.strategy"} & set(typed)  # then the saved strategy counts
    found = launched() if saved or config["device"]["strategy"] != "auto" else None
    if found is None or found.world == 1 or found.launcher not in ("torchrun", "srun"):
        return Group()
    resumed = find_continuation(config) if saved and found.is_batch_script else None
    if resumed and read_config(resumed.folder)["device"]["strategy"] == "auto":
        return Group()
    join(found, config["device"])
    return Group.current()


def _plan(config: dict[str, Any], folder: Path | None) -> _Plan:
    typed = config.get("typed", ())
    resumed = find_continuation(config) if folder is None else joined_continuation(folder)
    if resumed and folder is None:
        config = continued_config(resumed.folder, config)
        if state_of(resumed.folder) == "finished":
            return _Plan(config, resumed, finished_result(resumed.folder, config["steps"]))
    ranks_of(config["device"], typed, child=folder is not None)  # refuses what does not fit
    return _Plan(config, resumed, None)


@contextmanager
def _lost_as_one_line(ranks: Ranks, device: dict[str, Any], how: str) -> Iterator[None]:
    """Turns torch's errors about a process that ended or does not answer into a PeerError; `how` to go on."""
    try:
        yield
    except RuntimeError as error:
        if ranks.world == 1 or not lost(error):
            raise
        if ranks.rank > 0 and ranks.launcher is None:
            end_hung_parent(error)
        raise lost_peer(error, ranks, device, how) from error


def _end_of_another(error: BaseException, folder: RunFolder, ranks: Ranks) -> Finished:
    """How a process other than the first ends: with the code of its error, silently where the first one reports it.

    One that Lightning has started ends with 0: on any other code Lightning kills the first process.
    """
    agreed = isinstance(error, NonFiniteError | Interrupted | TimeLimitError)
    if ranks.launcher is None:
        if agreed or isinstance(error, PeerError):
            return Finished(folder.path, {})
        raise error
    wait_for_the_end()  # a launcher ends all processes when the first of them fails
    if agreed:
        raise SystemExit(exit_code_of(error))
    raise error


def _open(config: dict[str, Any], folder: Path | None, resumed: Continuation | None, group: Group) -> RunFolder:
    """The folder, claimed by the first process; the others join it."""
    claimed: list[RunFolder] = []

    def claim() -> Path:
        claimed.append(_claim(config, resumed))
        return claimed[0].path

    path = folder or group.first(claim)
    return claimed[0] if claimed else RunFolder.join(path)


def _claim(config: dict[str, Any], resumed: Continuation | None) -> RunFolder:
    if resumed is not None:
        reopened = RunFolder.reopen(resumed.folder)
        for name in ("figures", "projector"):
            files.remove_temporaries(reopened.path / name)
        return reopened
    if sweep := config.get("sweep"):
        return RunFolder.claim_named(Path(sweep["folder"]) / sweep["job"])
    label = config["name"] or f"{config['choices']['algo']}_{config['choices']['task']}"
    return RunFolder.claim(Path(config["out"]), label)


def _watcher(folder: RunFolder, config: dict[str, Any], own_process: bool) -> Watcher:
    def end(code: int, why: str) -> None:
        if not _finished(folder):
            folder.status("failed" if code == HangError.exit_code else "interrupted", exit_code=code, error=why)

    return Watcher(
        end,
        seconds=config.get("watchdog"),
        signals=own_process,
        status=folder.path / "status.json" if folder.writes else None,
        hint=f"; {folder.how_to_continue}",
    )


def _finished(folder: RunFolder) -> bool:
    """Whether this process has recorded that the run is finished: what comes later does not change that."""
    return folder.begun and read_status(folder.path).get("state") == "finished"


@contextmanager
def _end_in_status(folder: RunFolder) -> Iterator[None]:
    """Records in status.json how the run ended, if an exception ends it."""
    try:
        yield
    except BaseException as error:
        space = files.cause(error, OSError, None)
        if isinstance(space, OSError) and files.is_full(space) and not isinstance(error, MetaexpError):
            error = files.space_error(folder.path, space)
        if isinstance(error, KeyboardInterrupt) and "continue with" not in str(error):
            kind = type(error) if isinstance(error, Interrupted) else Interrupted
            next_ = folder.how_to_continue if any(folder.checkpoints.glob("*.ckpt")) else "there is no checkpoint yet"
            error = kind(f"{str(error) or 'interrupted'}; {next_}")
        code = exit_code_of(error)
        stopped = isinstance(error, (KeyboardInterrupt, TimeLimitError))
        message = str(error).splitlines()[0] if str(error) else type(error).__name__
        if not folder.begun and isinstance(error, ConfigError | DataError | CheckpointError):
            raise error  # a refused continuation leaves the run unchanged
        with suppress(SpaceError):  # on a full disk, show the first error
            if not _finished(folder):
                folder.status("interrupted" if stopped else "failed", exit_code=code, error=message)
        raise error


def _leave_group(ranks: Ranks) -> None:
    """Destroys this run's process group and clears its environment: the next job of a sweep makes its own."""
    if ranks.launcher is not None:
        return  # a launcher's processes make one run
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    own = ("METAEXP_RUN_DIR", "METAEXP_CHECKPOINT")
    for name in (*own, "MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "NODE_RANK", "LOCAL_RANK"):
        os.environ.pop(name, None)
