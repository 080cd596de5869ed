"""A process's rank from the environment: read as the launchers write it, ignored or refused where it cannot count."""

import os

import pytest

from metaexp.errors import ConfigError
from metaexp.system.ranks import Ranks, launched, one_process, ranks_of

CPU = {"strategy": "auto", "devices": 1}
DDP = {"strategy": "ddp", "devices": 2}
ADDRESS = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
TORCHRUN |= ADDRESS | {"GROUP_RANK": "1", "GROUP_WORLD_SIZE": "2"}
SRUN = {"SLURM_NTASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NODEID": "1", "SLURM_NNODES": "2"}
MPI = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in list(os.environ):
        if name.startswith(("SLURM_", "OMPI_", "PMI_", "JSM_", "TORCHELASTIC_")) or name.endswith("RANK"):
            monkeypatch.delenv(name)
    return monkeypatch


def given(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("variables", [{}, {"LOCAL_RANK": "1"}, {"RANK": "1"}, {"RANK": "1", "WORLD_SIZE": "2"}])
def test_one_process_ignores_what_was_left_behind(environment, variables):
    given(environment, variables | {"SLURM_NTASKS": "4"})  # as in the shell of an allocation
    assert ranks_of(CPU) == Ranks() == Ranks(0, 1, 0, 1, None)


def test_a_batch_script_is_one_process_until_srun_starts_tasks(environment):
    given(environment, SRUN | {"SLURM_PROCID": "0", "SLURM_LOCALID": "0"})
    assert ranks_of(CPU) == Ranks()
    environment.setenv("SLURM_STEP_ID", "0")
    with pytest.raises(ConfigError, match=r"^device\.strategy=auto is one process, but srun has started 4 of them"):
        ranks_of(CPU)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        (TORCHRUN, r"torchrun has started 4 of them \(this is rank 3.*device=ddp.*unset TORCHELASTIC_RUN_ID"),
        (SRUN, r"srun has started 4 of them \(this is rank 3.*unset SLURM_NTASKS"),
        (MPI, r"mpirun has started 2 of them \(this is rank 1.*unset OMPI_COMM_WORLD_SIZE"),
        ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", **ADDRESS}, r"started 2 of them.*unset WORLD_SIZE"),
    ],
)
def test_several_processes_without_ranks_are_refused(environment, variables, words):
    given(environment, variables)
    with pytest.raises(ConfigError, match=words) as caught:
        ranks_of(CPU)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"^metaexp\.evaluate is one process"):
        one_process("metaexp.evaluate")


def test_ranks_of_launchers(environment):
    with environment.context() as m:
        given(m, TORCHRUN)
        assert ranks_of(DDP) == Ranks(3, 4, 1, 2, "torchrun")  # their number wins over device.devices=2 of the file
        assert ranks_of(DDP | {"devices": 7}) == Ranks(3, 4, 1, 2, "torchrun")
        with pytest.raises(ConfigError, match=r"^device\.devices=7: torchrun has started 2 processes on each machine"):
            ranks_of(DDP | {"devices": 7}, typed=["device.devices"])
        given(m, SRUN)  # torchrun started by srun: one task per machine
        assert ranks_of(DDP).launcher == "torchrun"
    with environment.context() as m:
        given(m, SRUN | {"SLURM_JOB_NAME": "train"})
        assert ranks_of(DDP) == Ranks(3, 4, 1, 2, "srun")
        m.setenv("SLURM_NTASKS_PER_NODE", "2")
        assert ranks_of(DDP) == Ranks(3, 4, 1, 2, "srun")
        m.setenv("SLURM_JOB_NAME", "interactive")
        assert ranks_of(DDP) == Ranks(0, 2)
    with environment.context() as m:
        given(m, SRUN | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_NNODES": "1"})
        assert ranks_of(DDP) == Ranks(0, 2)  # one task, which starts its own processes
    assert ranks_of(DDP) == Ranks(0, 2, 0, 1, None)
    environment.setenv("LOCAL_RANK", "1")
    assert ranks_of(DDP, child=True) == Ranks(1, 2, 1)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"LOCAL_RANK": "1"}, "^LOCAL_RANK=1 is in the environment, but neither torchrun nor srun"),
        ({"RANK": "1", "WORLD_SIZE": "2"}, "^RANK=1 is in the environment"),
        ({"NODE_RANK": "1"}, "^NODE_RANK=1 is in the environment"),
        (MPI, "^device=ddp: processes started by mpirun are not supported; use torchrun or srun"),
        (TORCHRUN | {"RANK": "x"}, "^RANK in the environment: 'x', not a number"),
        (TORCHRUN | {"RANK": "4"}, "^torchrun: rank 4 of 4 processes"),
        (TORCHRUN | {"LOCAL_WORLD_SIZE": "3"}, "^torchrun: 4 processes, 3 of them on this machine"),
        (TORCHRUN | {"LOCAL_WORLD_SIZE": "1"}, "^torchrun: 4 processes on 2 machines, 1 of them on this one"),
        (SRUN | {"SLURM_NTASKS_PER_NODE": "3"}, "^srun: SLURM_NTASKS=4 is not 2 machines with 3 tasks each"),
        ({"RANK": "1", "WORLD_SIZE": "2", **ADDRESS}, "^LOCAL_RANK in the environment: missing"),
    ],
)
def test_wrong_mixtures_are_answered_in_one_line(environment, variables, words):
    given(environment, variables)
    with pytest.raises(ConfigError, match=words) as caught:
        ranks_of(DDP)
    assert "\n" not in str(caught.value)


def test_a_zero_left_behind_does_not_stop_a_run_from_starting_its_processes(environment):
    environment.setenv("LOCAL_RANK", "0")
    assert ranks_of(DDP) == Ranks(0, 2)
    assert "LOCAL_RANK" not in os.environ  # else Lightning would wait for processes that nobody starts
    assert launched() is None
