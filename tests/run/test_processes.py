"""Calls in processes of their own: what comes back, how they are ended, and what their server must not have done."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from metaexp.errors import ConfigError, MetaexpError
from metaexp.run.processes import Processes
from metaexp.run.sweep_lock import SweepLock, requests, sweep_is_alive
from metaexp.storage.lock import RunLock


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    made = Processes()
    yield made
    made.close()


def threads_of_the_server() -> tuple[int, bool]:
    parent = os.getppid()
    return len(os.listdir(f"/proc/{parent}/task")), "metaexp.training.train_and_test" in __import__("sys").modules


def product(size: int) -> float:
    """Uses the pool of threads; it would hang if the server had started one."""
    torch.set_num_threads(2)
    x = torch.ones(size, size, requires_grad=True)
    (x @ x).sum().backward()
    return float(x.grad[0, 0])


def refuse(text: str) -> None:
    raise ConfigError(text)


def die(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(20)


class Odd(Exception):
    """An exception that pickles but cannot be read back."""

    def __init__(self, one: int, two: int):
        super().__init__(f"{one} and {two}")


def odd() -> None:
    raise Odd(1, 2)


def told(file: Path) -> int:
    """Waits until a signal comes, and returns its number."""
    got: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: got.append(number))
    file.write_text(str(os.getpid()))
    end = time.monotonic() + 20
    while not got and time.monotonic() < end:
        time.sleep(0.01)
    return got[0]


def wait_for(file: Path) -> int:
    end = time.monotonic() + 30
    while not (file.exists() and file.read_text()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return int(file.read_text())


def gone(pid: int, seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.02)
    return False


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_the_server_is_clean_and_warm(processes: Processes) -> None:
    started = time.perf_counter()
    for _ in range(3):
        assert processes.call(threads_of_the_server) == (1, True)
        if _ == 0:
            started = time.perf_counter()  # the first call waits for the imports
    assert time.perf_counter() - started < 4  # two calls; about 0.05 s each on an idle machine, never two imports
    assert processes.call(product, 300) == 600.0  # d/dx_00 of sum(x @ x): a row and a column of ones


def test_what_comes_back(processes: Processes) -> None:
    assert processes.call(int, "7") == 7
    with pytest.raises(ConfigError, match="no good"):
        processes.call(refuse, "no good")
    with pytest.raises(RuntimeError, match="Odd: 1 and 2"):
        processes.call(odd)
    with pytest.raises(MetaexpError, match="die: its process was killed by SIGKILL"):
        processes.call(die, 9)
    calls = [processes.start(int, "1"), processes.start(die, signal.SIGTERM), processes.start(int, "3")]
    processes.wait()
    answers = [call.answer for call in calls]
    assert [answer and (answer.value, answer.killed) for answer in answers] == [(1, 0), (None, 15), (3, 0)]


def test_each_has_its_share_of_the_threads(processes: Processes) -> None:
    call = processes.start(torch.get_num_threads, threads=3)
    assert call.wait().value == 3
    assert processes.call(os.getenv, "OMP_NUM_THREADS") == "1"  # the others keep what this process has


def test_signals_of_the_sweep_reach_its_jobs(
    processes: Processes, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whoever started the tests may ignore it, as nohup does
    request.addfinalizer(lambda: signal.signal(signal.SIGHUP, before))
    with SweepLock(tmp_path) as lock:
        call = processes.start(told, tmp_path / "a", folder=tmp_path)
        wait_for(tmp_path / "a")
        assert sweep_is_alive(tmp_path)
        os.kill(os.getpid(), signal.SIGHUP)
        assert call.wait().value == signal.SIGTERM  # as SIGTERM: a job's own checkpoint
        assert requests(tmp_path) == [signal.SIGTERM]
    assert lock.stopped is not None
    assert lock.stopped.exit_code == 143


def test_jobs_end_with_the_sweep_that_died(processes: Processes, tmp_path: Path) -> None:
    """A job sees by the lock that its sweep's process is gone, whatever process asked for it."""
    lock = RunLock(tmp_path, new=True)
    call = processes.start(told, tmp_path / "a", folder=tmp_path)
    wait_for(tmp_path / "a")
    lock.release()  # as the end of the process does
    assert call.wait().value == signal.SIGTERM


def test_a_signal_right_after_the_start_is_not_missed(processes: Processes, tmp_path: Path) -> None:
    for _ in range(5):
        call = processes.start(time.sleep, 20, folder=tmp_path)  # nobody holds the lock
        assert call.wait().killed == signal.SIGTERM


def test_a_killed_server_takes_no_later_job(processes: Processes, tmp_path: Path) -> None:
    with SweepLock(tmp_path):
        call = processes.start(told, tmp_path / "a", folder=tmp_path)
        job = wait_for(tmp_path / "a")
        os.kill(processes._pid, signal.SIGKILL)
        assert call.wait().killed == 9
        assert gone(job)
    assert processes.call(int, "7") == 7  # by another server
