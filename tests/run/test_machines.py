"""More than one machine: torchrun on one and on two nodes, srun's variables, and every way in which a process is lost.

Run by `pytest --tier machines` (about five minutes, at most four processes at a time). The two nodes are network
namespaces where the machine allows them, else both are on the loopback device.
"""

import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen, run
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from run_folders import only_run

from metaexp.storage.run_folder import state_of

pytestmark = [pytest.mark.tier("machines"), pytest.mark.timeout(900)]

ARGV = "task=sine algo=maml algo.test_steps=2 model.hidden=[8,8] meta_batch=12 accumulate=2 val.tasks=230".split()
ARGV += "test.tasks=250 device.precision=64-true log.every=7 val.every=500 checkpoint.every=13".split()
ARGV += ["optimizer.lr=0.01", "compile=false", "test.curve_tasks=210"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
TRAIN = ["-m", "metaexp.train"]


class Started:
    """A process with all of its descendants."""

    def __init__(self, command: list[str], cwd: Path, **env: str):
        clean = {
            k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "TORCHELASTIC_")) and "RANK" not in k
        }
        self.process = Popen(
            command,
            cwd=cwd,
            env=clean | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | env,
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            text=True,
            start_new_session=True,
        )
        self.seen: set[int] = {self.process.pid}

    def family(self) -> list[int]:
        """The process and its descendants that are alive now."""
        found, todo = [], [self.process.pid]
        while todo:
            pid = todo.pop()
            if alive(pid):
                found.append(pid)
                todo += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        self.seen |= set(found)
        return found

    def rank(self, number: int) -> int:
        """The process id of a rank."""
        for pid in self.family():
            words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            if f"LOCAL_RANK={number}".encode() in words:
                return pid
        raise AssertionError(f"no rank {number}")

    def end(self, timeout: float = 180) -> tuple[int, str]:
        """Exit code and standard error; no descendant is left 15 s later."""
        _, err = self.process.communicate(timeout=timeout)
        until = time.monotonic() + 15
        while any(map(alive, self.seen)) and time.monotonic() < until:
            time.sleep(0.1)
        assert not [pid for pid in self.seen if alive(pid)], err
        return self.process.returncode, err

    def kill(self) -> None:
        for pid in self.seen:
            if alive(pid):
                os.kill(pid, signal.SIGKILL)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def start() -> Iterator[Callable[..., Started]]:
    started: list[Started] = []

    def start(command: list[str], cwd: Path, **env: str) -> Started:
        started.append(Started(command, cwd, **env))
        return started[-1]

    yield start
    for one in started:
        one.kill()


def wait_for_step(cwd: Path, *started: Started, timeout: float = 200) -> Path:
    """Waits until the run has made a step more than it had; returns its folder."""
    end, seen = time.monotonic() + timeout, None
    while True:
        for one in started:
            one.family()
            assert one.process.poll() is None, one.process.communicate()
        for file in (cwd / "outputs").glob("*/status.json"):
            status = json.loads(file.read_text())
            if status["state"] == "running" and any(status["pid"] in one.seen for one in started) and "step" in status:
                seen = status["step"] if seen is None else seen
                if status["step"] > max(seen, 13):
                    return file.parent
        assert time.monotonic() < end, "no step was made"
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def srun(number: int, world: int, port: int) -> dict[str, str]:
    """The variables of one of srun's tasks."""
    own = {"SLURM_PROCID": number, "SLURM_LOCALID": number, "SLURM_NODEID": 0, "SLURM_STEP_ID": 0}
    job = {"SLURM_NTASKS": world, "SLURM_NTASKS_PER_NODE": world, "SLURM_NNODES": 1, "SLURM_JOB_ID": 1234}
    names = {"SLURM_NODELIST": "127.0.0.1", "SLURM_JOB_NAME": "train", "MASTER_PORT": port}
    return {name: str(value) for name, value in (own | job | names).items()}


def state(run: Path) -> tuple[int, torch.Tensor]:
    """The newest checkpoint's step; weights and the optimiser's moments as one vector."""
    data = torch.load(max((run / "checkpoints").glob("step=*.ckpt")), weights_only=True)
    moments = [value for entry in data["optimizer_states"][0]["state"].values() for value in entry.values()]
    values = [value for value in data["state_dict"].values() if value.is_floating_point()]
    assert all(value.dtype == torch.float64 for value in values)
    return data["metaexp"]["step"], torch.cat([value.double().flatten() for value in (*values, *moments)])


def rows(run: Path, kind: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in found if row["kind"] == kind]


def status(run: Path) -> tuple[str, int]:
    found = json.loads((run / "status.json").read_text())
    return found["state"], found["exit_code"]


def equal_to_one_process(run: Path, reference: Path, start: Callable[..., Started]) -> None:
    """Weights, moments, rows and scores are those of `reference`, which one process made, to 1e-12 in float64."""
    assert state(run)[0] == state(reference)[0]
    torch.testing.assert_close(state(run)[1], state(reference)[1], rtol=0, atol=1e-12)
    both = [rows(folder, "train") for folder in (run, reference)]
    assert [row["step"] for row in both[0]] == [row["step"] for row in both[1]] != []
    for name in ("outer_loss", "meta_gradient_norm"):
        assert [row[name] for row in both[0]] == pytest.approx([row[name] for row in both[1]], rel=1e-11)
    with np.load(run / "test_scores.npz") as found, np.load(reference / "test_scores.npz") as wanted:
        assert set(found.files) == set(wanted.files)
        assert found["query_sha256"] == wanted["query_sha256"]
        for name in found.files:
            if found[name].dtype == float:
                assert found[name].shape == wanted[name].shape
                np.testing.assert_allclose(found[name], wanted[name], rtol=1e-9, atol=1e-12, err_msg=name)
    # With its own weights, one process has the very bits of the processes that shared the tasks.
    code, err = start([sys.executable, "-m", "metaexp.evaluate", f"run={run}", "device=cpu"], run.parent).end()
    assert code == 0, err
    with np.load(run / "test_scores.npz") as found, np.load(run / "evaluations" / "1" / "test_scores.npz") as again:
        assert set(found.files) == set(again.files)
        assert all(found[name].tobytes() == again[name].tobytes() for name in found.files)


def one_process(folder: Path, steps: int, start: Callable[..., Started]) -> Path:
    folder.mkdir()
    code, err = start([sys.executable, *TRAIN, *ARGV, "device=cpu", f"steps={steps}"], folder).end()
    assert code == 0, err
    return only_run(folder)


@pytest.fixture
def nodes() -> Iterator[tuple[str, list[list[str]], list[dict[str, str]]]]:
    """(address of the first, command that enters each node, variables of each): two namespaces, or the loopback."""
    names, address = ["metaexp-a", "metaexp-b"], ["10.211.7.1", "10.211.7.2"]
    commands = [f"ip netns add {name}" for name in names]
    commands += [f"ip link add veth0 netns {names[0]} type veth peer name veth0 netns {names[1]}"]
    for name, own in zip(names, address, strict=True):
        enter = f"ip netns exec {name} ip"
        commands += [f"{enter} addr add {own}/24 dev veth0", f"{enter} link set veth0 up", f"{enter} link set lo up"]
    if all(run(command.split(), capture_output=True).returncode == 0 for command in commands):
        yield address[0], [["ip", "netns", "exec", name] for name in names], [{"GLOO_SOCKET_IFNAME": "veth0"}] * 2
    else:
        yield "127.0.0.1", [[], []], [{}, {}]
    for name in names:
        run(["ip", "netns", "del", name], capture_output=True)


def test_two_nodes_equal_one_process(start: Callable[..., Started], nodes: Any, tmp_path: Path) -> None:
    """Two nodes with two processes each: one folder, the meta-gradients of one process, and its scores."""
    address, enter, variables = nodes
    cwd, port = tmp_path / "two", free_port()
    cwd.mkdir()
    shared = ["--nnodes=2", "--nproc_per_node=2", f"--master_addr={address}", f"--master_port={port}"]
    argv = [*TRAIN, *ARGV, "device=ddp", "steps=30", "val.every=15"]
    started = [
        start([*enter[node], *TORCHRUN, *shared, f"--node_rank={node}", *argv], cwd, **variables[node])
        for node in (0, 1)
    ]
    ended = [one.end(400) for one in started]
    assert [code for code, _ in ended] == [0, 0], ended
    assert "step 30/30" in ended[0][1]
    assert "step" not in ended[1][1]  # only rank 0 speaks
    made = only_run(cwd)
    result = json.loads((made / "result.json").read_text())
    assert result["processes"] == 4
    folder = tmp_path / "one"
    folder.mkdir()
    code, err = start([sys.executable, *TRAIN, *ARGV, "device=cpu", "steps=30", "val.every=15"], folder).end()
    assert code == 0, err
    equal_to_one_process(made, only_run(folder), start)
    for one, other in zip(rows(made, "val"), rows(only_run(folder), "val"), strict=True):
        assert one["mse"]["mean"] == pytest.approx(other["mse"]["mean"], rel=1e-10)


def test_every_way_to_lose_a_process(start: Callable[..., Started], tmp_path: Path) -> None:
    """Each time nothing is left running, the state on disk is right, and the run goes on with other processes."""
    cwd = tmp_path / "several"
    cwd.mkdir()
    torchrun = [*TORCHRUN, "--nproc_per_node=2"]

    agent = start([*torchrun, f"--master_port={free_port()}", *TRAIN, *ARGV, "device=ddp", "steps=20000"], cwd)
    run = wait_for_step(cwd, agent)
    agent.process.send_signal(signal.SIGTERM)  # torchrun passes it on
    code, err = agent.end()
    assert code == 1  # of torchrun, whatever its processes return
    assert err.count(f"continue with resume=outputs/{run.name}") == 1
    assert status(run) == ("interrupted", 143)

    agent = start([*torchrun, f"--master_port={free_port()}", *TRAIN, f"resume={run}"], cwd)
    wait_for_step(cwd, agent)
    os.kill(agent.rank(1), signal.SIGKILL)
    code, err = agent.end()
    assert code == 1
    assert "rank 0 of 2: another process of the run has ended; its own message, if any, says why; continue" in err
    assert status(run) == ("failed", 9)
    assert "Traceback" not in err.partition("another process")[0]

    agent = start([*torchrun, "--nproc_per_node=3", f"--master_port={free_port()}", *TRAIN, f"resume={run}"], cwd)
    wait_for_step(cwd, agent)
    agent.process.kill()  # the agent itself: its processes stop between two steps
    assert agent.end()[0] == -9
    assert status(run) == ("interrupted", 143)

    port = free_port()
    tasks = [start([sys.executable, *TRAIN, f"resume={run}"], cwd, **srun(n, 2, port)) for n in (0, 1)]
    wait_for_step(cwd, *tasks)
    tasks[0].process.send_signal(signal.SIGTERM)  # to rank 0 alone
    ended = [task.end() for task in tasks]
    assert [code for code, _ in ended] == [143, 143]
    assert "continue with" in ended[0][1]
    assert "continue with" not in ended[1][1]
    assert status(run) == ("interrupted", 143)

    alone = start(
        [sys.executable, *TRAIN, f"resume={run}", "device=ddp", "device.timeout=8"], cwd
    )  # Lightning starts the other one
    wait_for_step(cwd, alone)
    os.kill(alone.rank(1), signal.SIGSTOP)  # it hangs
    code, err = alone.end()
    assert code == 9, err
    assert "rank 0 of 2: another process of the run has not answered within device.timeout=8 s" in err
    assert status(run) == ("failed", 9)

    alone = start([sys.executable, *TRAIN, f"resume={run}", "device=ddp", "device.timeout=8"], cwd)
    wait_for_step(cwd, alone)
    os.kill(alone.process.pid, signal.SIGSTOP)  # the first process hangs: the other one ends it
    code, err = alone.end()
    assert code == -9, err
    assert state_of(run) == "killed"

    steps = state(run)[0] + 20
    code, err = start([sys.executable, *TRAIN, f"resume={run}", f"steps={steps}", "device=cpu"], cwd).end()
    assert code == 0, err
    assert only_run(cwd) == run
    equal_to_one_process(run, one_process(tmp_path / "one", steps, start), start)


def test_wrong_mixtures_and_a_busy_port(start: Callable[..., Started], tmp_path: Path) -> None:
    short = [*TRAIN, *ARGV, "steps=2"]
    two = [*TORCHRUN, "--nproc_per_node=2"]
    for command, words in (
        ([*two, f"--master_port={free_port()}", *short, "device=cpu"], "device.strategy=auto is one process, but"),
        ([*two, f"--master_port={free_port()}", *short, "device=ddp", "meta_batch=3"], "meta_batch=3: must be a multi"),
        ([*two, f"--master_port={free_port()}", *TRAIN, "-m", "seed=1,2"], "a sweep (-m) is one process, but torchrun"),
    ):
        code, err = start(command, tmp_path).end()
        assert code == 1
        lines = [line for line in err.splitlines() if line.startswith("metaexp: ")]
        assert lines
        assert all(line.startswith(f"metaexp: {words}") for line in lines)
        assert not (tmp_path / "outputs").exists()
    with socket.socket() as busy:
        busy.bind(("0.0.0.0", 0))
        busy.listen()
        port = busy.getsockname()[1]
        task = start([sys.executable, *short, "device=ddp"], tmp_path, **srun(0, 2, port))
        code, err = task.end()
        assert code == 2, err
        assert f"metaexp: 127.0.0.1:{port}: the port is in use on this machine; set MASTER_PORT to a free one" in err
        assert not (tmp_path / "outputs").exists()
        alone = start([sys.executable, *short, "device=ddp"], tmp_path, MASTER_PORT=str(port))
        code, err = alone.end()
        assert code == 2, err
        assert f"127.0.0.1:{port}: the port is in use" in err
    late = start([sys.executable, *short, "device=ddp", "device.timeout=3"], tmp_path, **srun(0, 2, free_port()))
    code, err = late.end()
    assert code == 9, err
    assert "rank 0: not all 2 processes have met at 127.0.0.1:" in err


SRUN = """#!{python}
# As srun does: the tasks of a job on two machines, here all on this one; the highest exit code.
import os, subprocess, sys
job = {{"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "2", "SLURM_NODELIST": "127.0.0.1"}}
job |= {{"SLURM_JOB_ID": "12345", "SLURM_JOB_NAME": "maml", "SLURM_STEP_ID": "0", "MASTER_PORT": "{port}"}}
places = [{{"SLURM_PROCID": str(n), "SLURM_LOCALID": str(n % 2), "SLURM_NODEID": str(n // 2)}} for n in range(4)]
tasks = [subprocess.Popen(sys.argv[1:], env=os.environ | job | place) for place in places]
sys.exit(max(task.wait() for task in tasks))
"""


def test_the_batch_script_of_the_page(start: Callable[..., Started], tmp_path: Path) -> None:
    page = (ROOT / "docs" / "more_than_one_machine.md").read_text()
    (script,) = re.findall(r"^```sh file=train.sbatch\n(.*?)^```$", page, re.M | re.S)
    (tmp_path / "train.sbatch").write_text(script.replace("steps=2000", "steps=6 test.tasks=9 val.tasks=9"))
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / "srun").write_text(SRUN.format(python=sys.executable, port=free_port()))
    (tmp_path / "srun").chmod(0o755)
    job = start(["bash", "train.sbatch"], tmp_path, PATH=f"{tmp_path}:{os.environ['PATH']}")
    job.family()
    code, err = job.end(300)
    assert code == 0, err
    result = json.loads((only_run(tmp_path) / "result.json").read_text())
    assert (result["processes"], result["steps"]) == (4, 6)
