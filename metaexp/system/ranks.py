"""Which of a run's processes this is, from the environment that torchrun, srun or the run's first process sets."""

import os
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from metaexp.errors import ConfigError

_RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK")  # of a process whose launcher is not known
# Launchers whose processes find each other by means of their own: (name, variable of the rank, of the number)
_MPI = (
    ("mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("jsrun", "JSM_NAMESPACE_RANK", "JSM_NAMESPACE_SIZE"),
    ("mpiexec", "PMI_RANK", "PMI_SIZE"),
)


class Ranks(NamedTuple):
    """One process among those of a run.

    Attributes:
        rank, world: its number among all processes, and how many there are.
        local_rank: its number on its machine.
        nodes: number of machines; each has world / nodes processes.
        launcher: what started all of them: "torchrun", "srun" or "mpirun"; None: the run starts its processes itself.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    nodes: int = 1
    launcher: str | None = None

    @property
    def is_batch_script(self) -> bool:
        """Whether this may be SLURM's batch script: it has the variables of the job's tasks, but is one process."""
        return self.launcher == "srun" and self.rank == 0 and "SLURM_STEP_ID" not in os.environ

    @classmethod
    def alone(cls, device: Mapping[str, Any]) -> "Ranks":
        """The first process of a run that starts the others itself; reads no environment."""
        return cls(world=int(device["devices"]) if device["strategy"] != "auto" else 1)


def launched(environ: Mapping[str, str] = os.environ) -> Ranks | None:
    """This process among those that a launcher has started; None without a launcher.

    A rank alone (LOCAL_RANK=1 that an earlier program has left behind) is no launcher: torchrun is known by its own
    variable, or by the complete set that torch's documentation asks for, srun by a step's.

    Raises:
        ConfigError: numbers that are none or contradict each other.
    """
    complete = all(name in environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))
    if "TORCHELASTIC_RUN_ID" in environ or complete:
        return _torchrun(environ)
    if "SLURM_NTASKS" in environ and "SLURM_PROCID" in environ and not _interactive(environ):
        return _srun(environ)
    for name, rank, world in _MPI:
        if world in environ:
            return _within(name, Ranks(_number(environ, rank, 0), _number(environ, world), launcher=name))
    return None


def _torchrun(environ: Mapping[str, str]) -> Ranks:
    world = _number(environ, "WORLD_SIZE")
    local = _number(environ, "LOCAL_WORLD_SIZE", world)
    if not local or world % local:
        raise ConfigError(
            f"torchrun: {world} processes, {local} of them on this machine; every machine needs equally many"
        )
    ranks = Ranks(_number(environ, "RANK"), world, _number(environ, "LOCAL_RANK"), world // local, "torchrun")
    if "GROUP_WORLD_SIZE" in environ and (machines := _number(environ, "GROUP_WORLD_SIZE")) != ranks.nodes:
        raise ConfigError(
            f"torchrun: {world} processes on {machines} machines, {local} of them on this one; every machine needs "
            "equally many (--nproc_per_node)"
        )
    return _within("torchrun", ranks)


def _srun(environ: Mapping[str, str]) -> Ranks:
    world = _number(environ, "SLURM_NTASKS")
    local = _number(environ, "SLURM_NTASKS_PER_NODE", 0) or world // max(_number(environ, "SLURM_NNODES", 1), 1)
    nodes = _number(environ, "SLURM_NNODES", world // max(local, 1))
    if local * nodes != world or not world:
        raise ConfigError(
            f"srun: SLURM_NTASKS={world} is not {nodes} machines with {local} tasks each; set --nodes and "
            "--ntasks-per-node"
        )
    rank = _number(environ, "SLURM_PROCID")
    return _within("srun", Ranks(rank, world, _number(environ, "SLURM_LOCALID", rank % local), nodes, "srun"))


def _interactive(environ: Mapping[str, str]) -> bool:
    """A shell inside an allocation has its variables, but is not one of several tasks (Lightning's rule)."""
    return environ.get("SLURM_JOB_NAME") in ("bash", "interactive")


def _number(environ: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environ.get(name)
    if text is None and default is not None:
        return default
    if text is None or not text.strip().isdecimal():
        found = "missing" if text is None else f"{text!r}, not a number"
        raise ConfigError(f"{name} in the environment: {found}; start the processes by torchrun or srun, or unset it")
    return int(text)


def _within(name: str, ranks: Ranks) -> Ranks:
    if not 0 <= ranks.rank < ranks.world:
        raise ConfigError(f"{name}: rank {ranks.rank} of {ranks.world} processes in the environment: impossible")
    return ranks


def one_process(what: str) -> None:
    """Refuses several processes where each would do all the work of `what` and write the same files.

    Raises:
        ConfigError: a launcher has started more than one process.
    """
    found = launched()
    if found is None or found.world == 1 or found.is_batch_script:
        return
    raise ConfigError(
        f"{what} is one process, but {found.launcher} has started {found.world} of them (this is rank {found.rank}, by "
        f"the environment): use device=ddp, start a single process, or unset {_variable(found.launcher)}"
    )


def _variable(launcher: str | None) -> str:
    known = {name: world for name, _, world in _MPI} | {"srun": "SLURM_NTASKS"}
    if launcher in known:
        return known[launcher]
    return "TORCHELASTIC_RUN_ID" if "TORCHELASTIC_RUN_ID" in os.environ else "WORLD_SIZE"


def ranks_of(device: Mapping[str, Any], typed: Collection[str] = (), child: bool = False) -> Ranks:
    """The ranks of a run with these device settings.

    Args:
        device: the group `device` of the configuration. Its `devices` is the number of processes on a machine if the
            run starts them itself; under a launcher the environment says it.
        typed: the settings that were typed.
        child: whether this process was started by the run's first one.

    Raises:
        ConfigError: processes and settings do not fit; the line says what to type.
    """
    if child:
        rank = _number(os.environ, "LOCAL_RANK")
        return Ranks(rank, int(device["devices"]), rank)
    if device["strategy"] == "auto":  # a rank counts only where the strategy has ranks
        one_process("device.strategy=auto")
        return Ranks()
    found = launched()
    if found is None:
        stray = [name for name in _RANKS if os.environ.get(name, "0") != "0"]
        if stray:
            raise ConfigError(
                f"{stray[0]}={os.environ[stray[0]]} is in the environment, but neither torchrun nor srun has started "
                "this process: unset it, or start the processes by torchrun"
            )
        for name in _RANKS:
            os.environ.pop(name, None)  # a zero that was left behind: Lightning would wait for others
        return Ranks.alone(device)
    if found.launcher != "torchrun" and found.world == 1:  # one task of a job, which may have several cores
        return Ranks.alone(device)
    if found.launcher not in ("torchrun", "srun"):
        raise ConfigError(f"device=ddp: processes started by {found.launcher} are not supported; use torchrun or srun")
    here = found.world // found.nodes
    if "device.devices" in typed and int(device["devices"]) != here:
        raise ConfigError(
            f"device.devices={device['devices']}: {found.launcher} has started {here} processes on each machine; leave "
            "the setting out"
        )
    return found
