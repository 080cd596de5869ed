"""A run outlives its terminal: output that cannot be written, signals of the terminal and of SLURM, steps that hang."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from forks import HANGS, STUCK, Fault, Forks, Run
from run_folders import only_run
from stopped_runs import KINDS, MAML, STEP, References, assert_same_run, rows

from metaexp import start
from metaexp.errors import Interrupted
from metaexp.storage.checkpoint_file import load
from metaexp.training.control import Control

SHORT = [*MAML, "steps=40", "log.every=10", "val.every=20", "checkpoint.every=10"]


def status(run: Path) -> dict[str, object]:
    return json.loads((run / "status.json").read_text())


@pytest.mark.parametrize("output", ["full", "gone", "closed"])
def test_output_that_cannot_be_written_is_no_error(output: str, forks: Forks, tmp_path: Path) -> None:
    ended = forks(*SHORT, cwd=tmp_path, output=output)
    run = only_run(tmp_path)
    assert (ended.code, status(run)["state"], status(run)["exit_code"]) == (0, "finished", 0), ended.err
    assert "Traceback" not in ended.err
    assert ("metaexp: the output could not be written (No space left on device)\n" in ended.err) == (output == "full")
    # No line of the program went into a file of the run.
    assert [row["step"] for row in rows(run)] == [0, 10, 20, 20, 30, 40, 40]
    assert json.loads((run / "result.json").read_text())["test"]["mse"]["tasks"] == 5
    assert json.loads((run / "run.lock").read_text())["pid"] == status(run)["pid"]


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_the_end_of_the_terminal_and_slurms_warning(
    number: int, forks: Forks, references: References, tmp_path: Path
) -> None:
    """Under SLURM's variables: Lightning would put the job back into the queue itself."""
    called = tmp_path / "called"
    (tmp_path / "scontrol").write_text(f"#!/bin/sh\ntouch {called}\n")
    (tmp_path / "scontrol").chmod(0o755)
    slurm = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "1"}
    slurm |= {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_NODELIST": "node1"}
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    work = tmp_path / "work"
    work.mkdir()
    ended = forks(*KINDS["7/11/13"], cwd=work, fault=Fault(STEP, 12, number), environment=slurm | path)
    run = only_run(work)
    name = signal.Signals(number).name
    line = f"stopped at step 12 by {name}; continue with resume=outputs/{run.name}"
    assert (ended.code, ended.err.splitlines()[-1]) == (143, f"metaexp: {line}")
    assert f"{name}: finishing the step" in ended.err
    assert "requeue" not in ended.err
    assert [status(run)[key] for key in ("state", "exit_code", "step", "error")] == ["interrupted", 143, 12, line]
    assert load(run / "checkpoints" / "step=000000012.ckpt")["metaexp"]["step"] == 12
    assert not called.exists()
    assert not list(run.rglob("hpc_ckpt*"))
    assert forks(f"resume={run}", cwd=work).code == 0
    assert_same_run(run, references["7/11/13"])


def test_under_nohup_the_end_of_the_terminal_is_nothing(forks: Forks, tmp_path: Path) -> None:
    fault = Fault(STEP, 12, signal.SIGHUP)
    ended = forks(*SHORT, cwd=tmp_path, fault=fault, ignored=signal.SIGHUP)
    assert (ended.code, status(only_run(tmp_path))["state"], "finishing" in ended.err) == (0, "finished", False)


def hanging(run: Run) -> float:
    """Waits until it hangs, or has ended; returns the time."""
    end = time.monotonic() + 60
    out = run.log.with_suffix(".out")
    while not (out.exists() and "hangs" in out.read_text()) and time.monotonic() < end:
        time.sleep(0.02)
    return time.monotonic()


@pytest.mark.parametrize(
    ("number", "hang", "code", "shown"),
    [(signal.SIGTERM, HANGS, 143, 143), (signal.SIGINT, HANGS, 130, 130), (signal.SIGTERM, STUCK, -9, 143)],
)
def test_a_second_signal_ends_a_step_that_hangs(
    number: int, hang: int, code: int, shown: int, forks: Forks, tmp_path: Path
) -> None:
    """Python's own handlers do not run there; the last checkpoint is what is kept."""
    run = forks.start(*SHORT, cwd=tmp_path, fault=Fault(STEP, 17, hang))
    began = hanging(run)
    for _ in range(2):
        os.kill(run.pid, number)
        time.sleep(0.2)
    ended = run.wait(30)
    assert time.monotonic() - began < 12
    assert ended.code == code, ended
    folder = only_run(tmp_path)
    until = time.monotonic() + 5
    while status(folder)["state"] == "running" and time.monotonic() < until:
        time.sleep(0.02)
    found = status(folder)
    assert (found["state"], found["exit_code"]) == ("interrupted", shown)
    name = "SIGTERM" if number == signal.SIGTERM else "Ctrl-C"
    assert str(found["error"]).startswith(f"ended at once by a second {name}")
    assert str(found["error"]).endswith(f"; continue with resume=outputs/{folder.name}")
    assert f"metaexp: {found['error']}" in ended.err
    assert (f"{Path(__file__).parents[1]}/forks.py" in str(found["error"])) == (hang == HANGS)
    assert max(folder.glob("checkpoints/step=*.ckpt")).name == "step=000000010.ckpt"
    if hang == STUCK:  # once is enough: whatever ended it, the folder is the same
        ended = forks(f"resume={folder}", cwd=tmp_path)
        assert ended.code == 0, ended.err
        assert "resumed at step 10 of 40" in ended.err


@pytest.mark.parametrize("hang", [HANGS, STUCK])
def test_the_watchdog_ends_a_step_that_hangs(hang: int, forks: Forks, tmp_path: Path) -> None:
    run = forks.start(*SHORT, "watchdog=2.5", cwd=tmp_path, fault=Fault(STEP, 17, hang))
    began = hanging(run)
    ended = run.wait(30)
    assert 2 < time.monotonic() - began < 15
    assert ended.code == 8, ended
    folder = only_run(tmp_path)
    found = status(folder)
    assert (found["state"], found["exit_code"], found["step"]) == ("failed", 8, 10)
    assert str(found["error"]).startswith("watchdog=2.5: no step ended within 2.5 s")
    assert f"metaexp: {found['error']}" in ended.err


def test_a_run_that_goes_on_is_left_alone_by_the_watchdog(forks: Forks, tmp_path: Path) -> None:
    ended = forks(*SHORT, "steps=200000", "compile=false", "watchdog=3", "time_limit=4.5", cwd=tmp_path)
    assert ended.code == 124, ended.err
    ended = forks(f"resume={only_run(tmp_path)}", "watchdog=abc", cwd=tmp_path)
    says = "metaexp: watchdog=abc: must be a number of seconds (90, 90s, 15m, 2h), above 0 or null\n"
    assert (ended.code, ended.err) == (2, says)


@pytest.mark.parametrize("outside", [False, True], ids=["main thread", "another thread"])
def test_a_raw_keyboard_interrupt_is_reported_with_what_to_do(
    outside: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outside the main thread Python allows no signal handler; notebooks raise it in the thread itself."""
    monkeypatch.setattr("metaexp.loggers.tensorboard.TensorBoard.figure", lambda *_: None)
    original, caught = Control.on_outer_step_end, []

    def interrupted(control: Control, trainer: object, training: object, step: int) -> None:
        original(control, trainer, training, step)  # type: ignore[arg-type]
        if step == 15:
            raise KeyboardInterrupt

    def work() -> None:
        try:
            start(*SHORT, f"out={tmp_path}")
        except BaseException as error:
            caught.append(error)

    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with monkeypatch.context() as patch:
        patch.setattr(Control, "on_outer_step_end", interrupted)
        if outside:
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
        else:
            work()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == handlers
    (run,) = tmp_path.iterdir()
    line = f"interrupted; continue with resume={run}"
    assert [(type(error), str(error)) for error in caught] == [(Interrupted, line)]
    assert [status(run)[key] for key in ("state", "exit_code", "error")] == ["interrupted", 130, line]
    assert load(run / "checkpoints" / "step=000000010.ckpt")["metaexp"]["step"] == 10
    assert start(f"resume={run}").result["steps"] == 40
