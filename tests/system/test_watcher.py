"""The watcher beside a run: what it decides, that it dies with the run, that forked processes do not reach it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

from metaexp.errors import HangError
from metaexp.system.signals import StopFlag
from metaexp.system.watcher import Watcher
from metaexp.system.watcher_process import BEAT, ENDING, HUNG, Watch

TERM, INT = signal.SIGTERM, signal.SIGINT


def test_what_it_decides() -> None:
    assert HangError.exit_code == HUNG
    watch = Watch(0, 100.0)
    for byte, now in ((TERM, 100.0), (TERM, 100.01), (INT, 101.0), (signal.SIGHUP, 102.0), (signal.SIGHUP, 103.0)):
        watch.read(byte, now)  # one SIGTERM, sent twice as `timeout` does, one Ctrl-C, and the end of a terminal
        watch.read(ENDING, now)
    assert (watch.code, watch.due) == (0, float("inf"))
    watch.read(TERM, 110.0)
    assert (watch.code, watch.due) == (143, 111.0)
    watch.read(ENDING, 110.5)  # the run has noticed: it has time to write its status
    assert (watch.code, watch.due) == (143, 120.5)
    watch = Watch(0, 100.0)
    watch.read(INT, 100.0)
    watch.read(INT, 100.05)
    assert (watch.code, watch.due) == (130, 101.05)


def test_when_a_run_hangs() -> None:
    def looks(*times: float, beats: tuple[float, ...] = (), stopped: tuple[float, ...] = ()) -> int:
        watch = Watch(5.0, 0.0)
        watch.look(0.5, False)
        watch.read(BEAT, 0.0)
        for now in sorted({*times, *beats}):
            if now in beats:
                watch.read(BEAT, now)
            watch.look(now, now in stopped)
        return watch.code

    watch = Watch(5.0, 0.0)
    for now in range(100):  # before training begins
        watch.look(now, now == 50)
    assert watch.code == 0
    every = [step / 2 for step in range(1, 30)]
    assert looks(*every[:10]) == 0  # up to 5 s
    assert looks(*every[:11]) == 8
    assert looks(*every, beats=(4.0, 8.0, 12.0)) == 0
    assert looks(*every[:16], stopped=(3.0,)) == 0  # suspended by Ctrl-Z: the time begins anew
    assert looks(*every[:8], *(now + 3600 for now in every[:8])) == 0  # suspended together with the watcher
    assert looks(*every[:8], *(now + 3600 for now in every[:12])) == 8


CHILD = """
import os, signal, sys, time
from metaexp.system.signals import StopFlag
from metaexp.system.watcher import Watcher

def end(code, why):
    print("ended", code, flush=True)

with StopFlag(Watcher(end)) as flag:
    watcher = flag._watcher._process.pid
    if sys.argv[1] == "forks":
        for _ in range(2):
            child = os.fork()
            if child == 0:
                time.sleep(60)
                os._exit(1)
            time.sleep(0.1)
            os.kill(child, signal.SIGHUP)
            time.sleep(0.05)
            os.kill(child, signal.SIGTERM)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
        time.sleep(1.5)
        assert flag.requested is None
    elif sys.argv[1] == "orphan" and os.fork() == 0:
        time.sleep(5)
        os._exit(0)
    print(watcher, flush=True)
    time.sleep(0 if sys.argv[1] == "forks" else 60)
"""


def start(what: str) -> "subprocess.Popen[str]":
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", CHILD, what], stdout=subprocess.PIPE, text=True, env=environment)


def gone(pid: int, seconds: float = 5) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True  # ended, and not yet waited for by whoever inherited it
        except OSError:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("what", ["plain", "orphan"])
def test_it_dies_with_its_run(what: str) -> None:
    """Also when the run is killed, and while a forked child of the run lives on."""
    process = start(what)
    assert process.stdout is not None
    watcher = int(process.stdout.readline())
    command = Path(f"/proc/{watcher}/cmdline").read_text().split("\0")
    assert command[3].endswith("watcher_process.py")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert gone(watcher)
    process.stdout.close()


def test_forked_processes_end_and_do_not_count_as_signals_of_the_run() -> None:
    process = start("forks")
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, len(out.split())) == (0, 1)
    assert gone(int(out))


def test_it_leaves_nothing_behind() -> None:
    def descriptors() -> set[str]:
        return set(os.listdir("/proc/self/fd"))

    before, handler = descriptors(), signal.getsignal(signal.SIGTERM)
    for seconds in (None, 60.0):
        with StopFlag(Watcher(print, seconds)) as flag:
            assert flag._watcher is not None
            process = flag._watcher._process
            assert process is not None
            assert process.poll() is None
            flag.beat()
        assert process.returncode == 0
    assert descriptors() == before
    assert signal.set_wakeup_fd(-1) == -1
    assert signal.getsignal(signal.SIGTERM) is handler
    with StopFlag(Watcher(print, signals=False)) as flag:  # from Python, nothing to watch: no process
        assert flag._watcher is not None
        assert flag._watcher._process is None
