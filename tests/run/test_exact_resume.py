"""A run that is stopped at any step, by any means, and continued ends with the same bits as one that never stopped.

Real processes and real signals (see forks.py). A fault makes a process signal itself at a chosen call, so that the
step is known; other tests send the signal from outside at an arbitrary time.
"""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
from forks import Fault, Forks
from run_folders import only_run
from stopped_runs import (
    CODES,
    INT,
    KILL,
    KINDS,
    LIGHTNING,
    REPLACE,
    ROW,
    STEP,
    TERM,
    TEST,
    UPDATE,
    VALIDATION,
    References,
    assert_same_run,
    state,
    status,
)

from metaexp.storage.lock import state_of


def stop_and_go(forks: Forks, cwd: Path, argv: list[str], faults: list[Fault]) -> Path:
    """Starts a run and stops it at each fault in turn, resuming it alternately by its folder and by resume=auto."""
    for number, fault in enumerate(faults):
        how = [*argv, "resume=auto"] if number % 2 == 0 else [f"resume={only_run(cwd)}"]
        ended = forks(*how, cwd=cwd, fault=fault)
        assert ended.code == CODES[signal.Signals(fault.signal)], (fault, ended)
        assert "Traceback" not in ended.err
        run = only_run(cwd)
        assert not (run / "result.json").exists()
        if fault.signal == KILL:
            assert status(run)[0] == "running"
        else:
            assert status(run) == ("interrupted", ended.code)
            assert f"resume={run.relative_to(cwd) if number % 2 == 0 else run}" in ended.err.splitlines()[-1]
            saved = state(run)["own"]
            assert saved["step"] == json.loads((run / "status.json").read_text())["step"]
    ended = forks(f"resume={only_run(cwd)}", cwd=cwd)
    assert ended.code == 0, ended.err
    return only_run(cwd)


STOPS = {
    "in a world": ("maml_pg", [Fault(STEP, 3, KILL, after=True), Fault(STEP, 4, KILL)]),
    "by Ctrl-C": ("7/11/13", [Fault(STEP, 1, INT), Fault(STEP, 20, INT)]),
    "by SIGTERM": ("7/11/13", [Fault(STEP, 26, TERM), Fault(STEP, 7, TERM, after=True)]),
    "by kill -9": ("7/11/13", [Fault(STEP, 12, KILL), Fault(STEP, 2, KILL, after=True), Fault(STEP, 41, KILL)]),
    # the validations are at 0, 11, 22 ...; one that Ctrl-C interrupts is repeated by the continued run
    "in validations": (
        "7/11/13",
        [Fault(VALIDATION, 1, INT), Fault(VALIDATION, 2, KILL), Fault(VALIDATION, 3, TERM), Fault(VALIDATION, 4, INT)],
    ),
    "in a validation, then after its row": (
        "7/11/13",
        [
            Fault(VALIDATION, 2, INT),
            Fault(ROW, 1, KILL, after=True),
            Fault(VALIDATION, 6, INT),
            Fault(ROW, 1, KILL, after=True),
        ],
    ),
    "in the last validation": ("7/11/13", [Fault(VALIDATION, 7, INT)]),
    "between row and checkpoint": ("7/11/13", [Fault(ROW, 2, KILL, after=True), Fault(ROW, 5, KILL, after=True)]),
    # whole-file writes are those of status.json, config.yaml, inputs.json, the checkpoints and their checksums
    "in the first writes": ("7/11/13", [Fault(REPLACE, 6, KILL), Fault(REPLACE, 5, KILL), Fault(REPLACE, 13, KILL)]),
    "in later writes": ("7/11/13", [Fault(REPLACE, 21, KILL), Fault(REPLACE, 10, KILL, after=True)]),
    "while Lightning's handler is installed": ("7/11/13", [Fault(LIGHTNING, 1, TERM, after=True)]),
    "in the test": ("7/11/13", [Fault(TEST, 1, INT), Fault(TEST, 2, KILL)]),
    "with accumulation": ("accumulate", [Fault(STEP, 49, INT), Fault(STEP, 30, KILL), Fault(STEP, 53, TERM)]),
    "with a schedule": ("schedule", [Fault(STEP, 15, KILL), Fault(STEP, 23, INT), Fault(STEP, 18, KILL)]),
    "compiled": ("compiled", [Fault(STEP, 17, INT), Fault(STEP, 20, KILL)]),
    "with several updates a step": ("rollouts", [Fault(STEP, 17, KILL), Fault(UPDATE, 9, KILL), Fault(STEP, 11, TERM)]),
    "with carried state": ("carried", [Fault(STEP, 17, INT), Fault(STEP, 20, KILL), Fault(STEP, 11, TERM)]),
}


@pytest.mark.parametrize("stop", STOPS)
def test_stopped_and_resumed_is_bit_identical(stop: str, forks: Forks, references: References, tmp_path: Path) -> None:
    kind, faults = STOPS[stop]
    run = stop_and_go(forks, tmp_path, KINDS[kind], faults)
    assert_same_run(run, references[kind])
    assert json.loads((run / "result.json").read_text())["compiled"] == (kind == "compiled")


def pids(cwd: Path) -> list[int]:
    """Ids of the processes that work, or worked, in the run folders."""
    return [json.loads(file.read_text())["pid"] for file in (cwd / "outputs").glob("*/status.json")]


def test_killed_from_outside_again_and_again(forks: Forks, references: References, tmp_path: Path) -> None:
    draw = random.Random(0)
    argv: list[str] = [*KINDS["accumulate"], "resume=auto"]
    codes = []
    for number in (KILL, TERM, KILL, INT, KILL):
        run = forks.start(*argv, cwd=tmp_path)
        end = time.monotonic() + 60
        # Before its first checkpoint a run cannot be continued, and resume=auto would make a second folder.
        while time.monotonic() < end and not (
            run.pid in pids(tmp_path) and [*tmp_path.glob("outputs/*/checkpoints/step=*.ckpt")]
        ):
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.2))
        os.kill(run.pid, number)
        codes.append(run.wait().code)
        assert codes[-1] in (CODES[number], 0)
        if codes[-1] == 0:  # it finished before the signal: a finished run is not continued
            break
    assert any(codes)
    assert forks(f"resume={only_run(tmp_path)}", cwd=tmp_path).code == 0
    assert_same_run(only_run(tmp_path), references["accumulate"])


def test_a_sweep_continues_its_jobs_older_runs(forks: Forks, references: References, tmp_path: Path) -> None:
    argv = KINDS["accumulate"]
    assert forks(*argv, cwd=tmp_path, fault=Fault(STEP, 9, 15)).code == 143
    old = only_run(tmp_path)
    ended = forks("-m", *argv, "seed=0,1", "resume=auto", cwd=tmp_path)
    assert ended.code == 0, ended.err
    (sweep,) = tmp_path.glob("outputs/*_sweep_*")
    table = [line.split()[:3] for line in ended.out.splitlines() if line.startswith(("0_seed", "1_seed"))]
    assert table == [["0_seed=0", "finished", "0"], ["1_seed=1", "finished", "0"]]
    assert (sweep / "0_seed=0").resolve() == old.resolve()
    assert_same_run(old, references["accumulate"])


def test_a_sweep_goes_on_with_its_killed_job(forks: Forks, references: References, tmp_path: Path) -> None:
    argv = ["-m", *KINDS["accumulate"]]
    assert forks(*argv, cwd=tmp_path, fault=Fault(STEP, 70, KILL)).code == 1  # the job inherits the fault
    (old,) = tmp_path.glob("outputs/*_sweep_*/0")
    assert state_of(old) == "killed"
    ended = forks(*argv, "resume=auto", cwd=tmp_path)
    assert ended.code == 0, ended.err
    assert "resumed at step 50 of 110" in ended.err
    assert sorted(path.resolve() for path in tmp_path.glob("outputs/*/0")) == [old, old]
    assert_same_run(old, references["accumulate"])
