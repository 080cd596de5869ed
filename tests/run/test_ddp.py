"""Two gloo processes: the same meta-gradient as one, no orphans however they end, and exact resuming."""

import json
import os
import signal
import time
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest
import torch
from conftest import Command
from run_folders import only_run

from metaexp.storage.run_folder import state_of

ARGV = "task=sine algo=maml algo.test_steps=2 model.hidden=[8,8] meta_batch=4 accumulate=2 val.tasks=5".split()
ARGV += "test.tasks=5 device.precision=64-true log.every=7 val.every=11 checkpoint.every=13 optimizer.lr=0.01".split()


def rows(run: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: row[key] for key in row if key not in ("seconds", "meta_steps_per_s")} for row in found]


def state(run: Path) -> tuple[int, torch.Tensor]:
    """The newest checkpoint's step; weights and the optimiser's moments as one vector."""
    data = torch.load(max((run / "checkpoints").glob("step=*.ckpt")), weights_only=True)
    moments = [value for entry in data["optimizer_states"][0]["state"].values() for value in entry.values()]
    values = [value for value in data["state_dict"].values() if value.is_floating_point()]
    assert all(value.dtype == torch.float64 for value in values)
    assert data["metaexp"]["step"] == data["state_dict"]["meta_step"]
    return data["metaexp"]["step"], torch.cat([value.double().flatten() for value in (*values, *moments)])


def wait_for_step(cwd: Path, process: Popen[str], timeout: float = 120) -> Path:
    """Waits until this process has written a row or a checkpoint; returns the run folder."""
    end = time.monotonic() + timeout
    seen = None
    while True:
        for file in (cwd / "outputs").glob("*/status.json"):
            status = json.loads(file.read_text())
            if status["pid"] == process.pid and status["state"] == "running" and "step" in status:
                seen = status["step"] if seen is None else seen
                if status["step"] > seen:
                    return file.parent
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "no step was made"
        time.sleep(0.02)


def alone(process: Popen[str], timeout: float = 60) -> bool:
    """Whether the process's group is empty within `timeout` seconds."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    return False


@pytest.mark.tier("machines")
@pytest.mark.timeout(600)
def test_stopped_resumed_and_equal_to_one_process(train: Command, tmp_path: Path) -> None:
    """Two processes, stopped in two ways without orphans, end with the result of one process, to 1e-12 in float64."""
    two, one = tmp_path / "two", tmp_path / "one"
    two.mkdir()
    one.mkdir()
    argv: list[str] = [*ARGV, "device=ddp", "steps=20000"]
    for number, send, code, written in (
        (signal.SIGTERM, os.killpg, 143, "interrupted"),  # both receive it, each at a different step
        (signal.SIGKILL, os.kill, -9, "killed"),  # only the first is hit
    ):
        process = train.start(*argv, cwd=two)
        run = wait_for_step(two, process)
        send(process.pid, number)
        out, err = process.communicate(timeout=120)
        assert process.returncode == code, (out, err)
        assert alone(process)
        assert state_of(run) == written
        assert (number == signal.SIGTERM) == (f"continue with resume=outputs/{run.name}" in err)
        argv = [f"resume={run}"]
    steps = state(run)[0] + 20
    ended = train(f"resume={run}", f"steps={steps}", cwd=two, timeout=180)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count(f"step {steps}/{steps}") == 1  # only the first process prints
    assert only_run(two) == run

    alone_ended = train(*ARGV, "device=cpu", f"steps={steps}", cwd=one, timeout=180)
    assert alone_ended.returncode == 0, alone_ended.stderr
    reference = only_run(one)
    assert state(run)[0] == state(reference)[0] == steps
    torch.testing.assert_close(state(run)[1], state(reference)[1], rtol=0, atol=1e-12)
    both = [[row for row in rows(folder) if row["kind"] == "train"] for folder in (run, reference)]
    assert [row["step"] for row in both[0]] == [row["step"] for row in both[1]]
    for name in ("outer_loss", "meta_gradient_norm"):
        assert [row[name] for row in both[0]] == pytest.approx([row[name] for row in both[1]], rel=1e-11)
    results = [json.loads((folder / "result.json").read_text())["test"]["mse"]["mean"] for folder in (run, reference)]
    assert results[0] == pytest.approx(results[1], rel=1e-11)


@pytest.mark.timeout(300)
def test_not_finite(train: Command, tmp_path: Path) -> None:
    ended = train(*ARGV, "device=ddp", "algo.inner_lr=1e6", "algo.inner_steps=60", "compile=false", timeout=180)
    assert ended.returncode == 5, ended.stderr
    assert "Traceback" not in ended.stderr
    assert "at outer step 1 " in ended.stderr.splitlines()[-1]
    run = only_run(tmp_path)
    assert state_of(run) == "failed"
    assert torch.isfinite(state(run)[1]).all()
