"""The process group of a run: Lightning's cluster environments, joining, and what is left when a process is lost."""

import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed

from metaexp.errors import ConfigError, Interrupted, MetaexpError, PeerError, TimeLimitError
from metaexp.system.group import lost, timed_out
from metaexp.system.ranks import Ranks

TIMEOUT = 600.0  # seconds, where `device.timeout` is not set
MEETING = 60.0  # least seconds in which the processes of a run must meet: they import torch first
_BUSY = "{}: the port is in use on this machine; set MASTER_PORT to a free one"
_END = "metaexp/end"  # key in the process group's store
GRACE = 10.0  # seconds in which the other processes of a run may end by themselves


def cluster_environment(ranks: Ranks) -> Any:
    """Lightning's view of the launcher. It is chosen here, by what was started, not by variables left behind.

    Lightning's own handling of SLURM's signals stays off: a run has its own.
    """
    from lightning.fabric.plugins.environments import (
        LightningEnvironment,
        SLURMEnvironment,
        TorchElasticEnvironment,
    )

    if ranks.launcher == "torchrun":
        return TorchElasticEnvironment()
    if ranks.launcher == "srun":
        here = ranks.world // ranks.nodes
        known = {"NTASKS_PER_NODE": here, "LOCALID": ranks.local_rank, "NODEID": ranks.rank // here}
        for name, value in known.items():
            os.environ.setdefault(f"SLURM_{name}", str(value))  # Lightning reads them
        return SLURMEnvironment(auto_requeue=False)
    return LightningEnvironment()


def tell_lightning(ranks: Ranks) -> None:
    """Lightning takes its own rank from whatever variable it finds (LOCAL_RANK, SLURM_PROCID, ...): it is this one."""
    from lightning.pytorch.utilities import rank_zero_only

    rank_zero_only.rank = ranks.rank  # type: ignore[attr-defined]


def strategy(ranks: Ranks, device: Mapping[str, Any], accelerator: str) -> Any:
    """Lightning's strategy: "auto" for one process, else DDP with the run's time limit on every collective."""
    if ranks.world == 1:
        return "auto"
    from lightning.pytorch.strategies import DDPStrategy

    class Limited(DDPStrategy):
        """With one time limit for meeting and another for the collectives."""

        def setup_distributed(self) -> None:
            super().setup_distributed()
            _set_limit(device)

    backend = "gloo" if accelerator == "cpu" else "cpu:gloo,cuda:nccl"
    return Limited(process_group_backend=backend, timeout=_meeting(device))


def join(ranks: Ranks, device: Mapping[str, Any]) -> None:
    """Join the processes that a launcher has started; address and port are those that Lightning reads.

    Raises:
        ConfigError: the port is in use.
        PeerError: not all of them have joined in time.
    """
    if ranks.launcher == "torchrun":
        end_with_parent(signal.SIGTERM)
    environment, limit = cluster_environment(ranks), _meeting(device)
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = environment.main_address, str(environment.main_port)
    nccl = torch.cuda.is_available() and torch.distributed.is_nccl_available() and device["accelerator"] != "cpu"
    try:
        torch.distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if nccl else "gloo", rank=ranks.rank, world_size=ranks.world, timeout=limit
        )
    except (RuntimeError, ValueError) as error:
        raise not_joined(error, ranks, limit.total_seconds()) from error
    _set_limit(device)


def not_joined(error: Exception, ranks: Ranks, limit: float) -> Exception:
    """The one line for a process group that could not be made."""
    where = _address()
    if _in_use(error):
        return ConfigError(_BUSY.format(where))
    if not (lost(error) or timed_out(error)):
        return error
    return PeerError(
        f"rank {ranks.rank}: not all {ranks.world} processes have met at {where} within {limit:g} s; was "
        f"each of them started, with the same command ({ranks.launcher or 'metaexp.train'})?"
    )


def lost_peer(error: BaseException, ranks: Ranks, device: Mapping[str, Any], more: str) -> MetaexpError:
    """The one line for a process that ended or did not answer during the run; `more` says how to go on."""
    if _in_use(error):  # where Lightning makes the group, at the beginning of the training
        return ConfigError(_BUSY.format(_address()))
    what = (
        f"another process of the run has not answered within device.timeout={_limit(device).total_seconds():g} s"
        if timed_out(error)
        else "another process of the run has ended; its own message, if any, says why"
    )
    return PeerError(f"rank {ranks.rank} of {ranks.world}: {what}; {more}")


def say_the_end(ranks: Ranks) -> None:
    """In the first process: the state is on disk, the others may end."""
    if ranks.launcher is not None and ranks.world > 1:
        with suppress(Exception):
            torch.distributed.distributed_c10d._get_default_store().set(_END, "1")


def wait_for_the_end() -> None:
    """In another process: lets the first one write the state, for at most GRACE seconds."""
    with suppress(Exception):
        torch.distributed.distributed_c10d._get_default_store().wait([_END], timedelta(seconds=GRACE))
    time.sleep(1)  # it has a line to print


def end_with_parent(number: int) -> None:
    """From now on, this process receives the signal when the process that started it ends (on Linux)."""
    with suppress(Exception):
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(1, number)  # PR_SET_PDEATHSIG


def end_children(trainer: Any, wait: bool) -> None:
    """Ends the processes that Lightning has started for this trainer: none outlives the run.

    Args:
        wait: give them time to finish what they do.
    """
    started = getattr(getattr(trainer.strategy, "launcher", None), "procs", None) or []
    children = list(started)
    started.clear()  # Lightning's observer would kill this process when one of them ends before it
    until = time.monotonic() + (GRACE if wait else 0)
    for child in children:
        with suppress(Exception):
            child.wait(max(until - time.monotonic(), 0.01))
        if child.poll() is None:
            child.kill()
            child.wait()


@contextmanager
def no_orphans(trainer: Any) -> Iterator[None]:
    """Whatever ends the inside with an error also ends the processes that Lightning has started."""
    try:
        yield
    except BaseException as error:
        end_children(trainer, wait=isinstance(error, Interrupted | TimeLimitError))  # agreed on: all are stopping
        raise


def end_hung_parent(error: BaseException) -> None:
    """In a process that the run's first one has started: if that one has not answered in time, it is ended."""
    if timed_out(error):
        os.kill(os.getppid(), signal.SIGKILL)


def _in_use(error: BaseException) -> bool:
    return "EADDRINUSE" in str(error) or "address already in use" in str(error).lower()


def _address() -> str:
    return f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"


def _meeting(device: Mapping[str, Any]) -> timedelta:
    return max(_limit(device), timedelta(seconds=MEETING))


def _set_limit(device: Mapping[str, Any]) -> None:
    torch.distributed.distributed_c10d._set_pg_timeout(_limit(device), torch.distributed.group.WORLD)


def _limit(device: Mapping[str, Any]) -> timedelta:
    return timedelta(seconds=float(device.get("timeout") or TIMEOUT))
