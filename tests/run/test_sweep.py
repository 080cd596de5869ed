"""Sweeps of real runs: what a killed job costs, what is run again, and that nothing outlives the sweep."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from forks import Forks
from stopped_runs import KINDS, status

from metaexp.report.reading import find
from metaexp.run.earlier import FinishedRuns
from metaexp.storage.lock import state_of
from metaexp.storage.saved_config import read_config

BAD = '''
import os, signal
from pathlib import Path
from metaexp.tasks.sine import Sine

class Bad(Sine):
    """Sinusoids whose seed 1 kills its process at the first draw, once; a check that drew would die of it."""

    def __init__(self, *args, mark="", **kwargs):
        super().__init__(*args, **kwargs)
        self.mark = Path(mark) if kwargs.get("seed") == 1 else None

    def sample(self, *args, **kwargs):
        if self.mark and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().sample(*args, **kwargs)
'''
TINY = "algo=maml steps=4 val.every=2 val.tasks=5 test.tasks=10 test.curve_shots=[] compile=false device=cpu".split()


def own_task(folder: Path) -> None:
    (folder / "mine_bad/task").mkdir(parents=True)
    (folder / "mine_bad/__init__.py").touch()
    (folder / "mine_bad/bad.py").write_text(BAD)
    text = f'# killed once\ndefaults: [sine]\n_target_: mine_bad.bad.Bad\nmark: "{folder / "mark"}"\n'
    (folder / "mine_bad/task/bad.yaml").write_text(text)


def newest(folder: Path) -> Path:
    return max((folder / "outputs").glob("*_sweep_*"), key=lambda path: path.stat().st_mtime_ns)


def contents(folder: Path) -> dict[Path, tuple[bytes, int]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def test_a_killed_job_and_the_same_sweep_again(forks: Forks, tmp_path: Path) -> None:
    own_task(tmp_path)
    words = ["-m", "--config-dir", "mine_bad", "task=bad", *TINY, "seed=0,1,2"]
    first = forks(*words, cwd=tmp_path)
    assert first.code == 1, first.err
    one = newest(tmp_path)
    rows = [line.split()[:3] for line in first.out.splitlines()[-3:]]
    assert rows == [["0_seed=0", "finished", "0"], ["1_seed=1", "killed", "137"], ["2_seed=2", "finished", "0"]]
    assert state_of(one / "1_seed=1") == "killed"
    assert "the same command with resume=auto runs only what is missing, failed or killed" in first.err
    before = contents(one)

    again = forks(*words, "resume=auto", cwd=tmp_path)
    assert again.code == 0, again.err
    two = newest(tmp_path)
    assert "2 finished before and are linked, 1 to run" in again.out
    assert [(two / name).is_symlink() for name in ("0_seed=0", "1_seed=1", "2_seed=2")] == [True, False, True]
    assert (two / "2_seed=2").resolve() == one / "2_seed=2"
    assert contents(one) == before  # neither copied nor touched
    assert len([path for path in tmp_path.rglob("result.json") if "evaluations" not in path.parts]) == 3

    third = forks(*words, "resume=auto", cwd=tmp_path)
    assert third.code == 0, third.err
    assert "3 finished before and are linked, 0 to run" in third.out
    assert {(newest(tmp_path) / f"{i}_seed={i}").resolve().parent for i in range(3)} == {one, two}
    for folder, seeds in (
        (tmp_path / "outputs", [0, 1, 2]),
        (two, [0, 1, 2]),
        (newest(tmp_path), [0, 1, 2]),
        (one, [0, 2]),
    ):
        assert sorted(run.seed for run in find([folder]).runs) == seeds  # each once

    other = read_config(one / "0_seed=0")
    finished = FinishedRuns(tmp_path / "outputs")
    assert finished.like(other) == one / "0_seed=0"
    assert finished.like(other | {"steps": 5}) is finished.like(other | {"seed": 7}) is None
    (one / "0_seed=0/result.json").write_text("half")
    assert FinishedRuns(tmp_path / "outputs").like(other) is None


def running_job(folder: Path, seconds: float = 60) -> tuple[Path, int]:
    """The sweep's running job, once it has made steps, and its process."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for file in folder.glob("outputs/*/*/status.json"):
            found = json.loads(file.read_text())
            if found.get("step", 0) > 0:
                return file.parent, found["pid"]
        time.sleep(0.02)
    raise AssertionError("no job has made a step")


def gone(pid: int, seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


LONG = [*KINDS["accumulate"], "compile=false", "steps=1000000", "checkpoint.every=50", "log.every=10", "seed=0,1"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_no_job_outlives_its_sweep(forks: Forks, tmp_path: Path, number: int, code: int) -> None:
    """The job writes its checkpoint and ends, also when the sweep's process has no chance to tell it."""
    sweep = forks.start("-m", *LONG, cwd=tmp_path)
    job, pid = running_job(tmp_path)
    assert pid != sweep.pid
    assert os.getpgid(pid) != os.getpgid(sweep.pid)  # Ctrl-C in a terminal reaches the sweep alone
    os.kill(sweep.pid, number)
    ended = sweep.wait()
    assert ended.code == code, ended.err
    assert gone(pid)
    assert status(job) == ("interrupted", 130 if number == signal.SIGINT else 143)
    assert list((job / "checkpoints").glob("*.ckpt"))
    assert len(list(job.parent.glob("*/status.json"))) == 1  # the second job was not started
