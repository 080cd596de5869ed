"""Ctrl-C and SIGTERM, sent to real processes that were started without a shell (a shell's `&` ignores Ctrl-C)."""

import signal
import subprocess
import sys
import threading
import time

import pytest

from metaexp.errors import Interrupted, Terminated
from metaexp.system.signals import StopFlag

# Steps of 50 ms; the exit code says what was requested, stdout how many steps were finished.
CHILD = """
import signal, sys, time
from metaexp.system.signals import StopFlag
seconds = float(sys.argv[1])
print("ready", flush=True)
try:
    with StopFlag() as flag:
        for step in range(1, 1000):
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                time.sleep(0.005)
            print(step, flush=True)
            flag.check()
except KeyboardInterrupt as stop:
    sys.exit(getattr(stop, "exit_code", 99))
"""


def start(seconds: float, ignore: int | None = None) -> subprocess.Popen[str]:
    def before() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        if ignore is not None:
            signal.signal(ignore, signal.SIG_IGN)

    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(seconds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=before,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


def end(child: subprocess.Popen[str]) -> tuple[int, list[int], str]:
    out, err = child.communicate(timeout=30)
    return child.returncode, [int(line) for line in out.split()], err


@pytest.mark.parametrize(
    ("number", "code", "line"),
    [
        (signal.SIGINT, 130, "finishing the step; Ctrl-C again to stop at once"),
        (signal.SIGTERM, 143, "SIGTERM: finishing the step"),
    ],
)
def test_first_signal_finishes_the_step(number: int, code: int, line: str) -> None:
    child = start(0.3)
    time.sleep(0.1)
    child.send_signal(number)
    returned, steps, err = end(child)
    assert returned == code
    assert steps == [1]
    assert err.strip() == line


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_second_one_stops_at_once(number: int, code: int) -> None:
    child = start(20)
    time.sleep(0.1)
    child.send_signal(number)
    time.sleep(0.1)
    begin = time.monotonic()
    child.send_signal(number)
    returned, steps, err = end(child)
    assert (returned, steps) == (code, [])
    assert time.monotonic() - begin < 5
    assert "Traceback" not in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_sent_twice_in_a_moment_is_one(number: int) -> None:
    """`timeout` signals the process and its group; wrappers of commands pass on what the terminal has sent already."""
    child = start(0.3)
    time.sleep(0.1)
    child.send_signal(number)
    child.send_signal(number)
    returned, steps, _ = end(child)
    assert (returned, steps) == (130 if number == signal.SIGINT else 143, [1])


def test_ignored_at_start_stays_ignored_but_sigterm_stops() -> None:
    child = start(0.05, ignore=signal.SIGINT)
    assert child.stdout is not None
    child.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert child.poll() is None
    child.send_signal(signal.SIGTERM)
    returned, steps, err = end(child)
    assert returned == 143
    assert len(steps) > 2
    assert "Ctrl-C" not in err


def test_first_request_counts_and_handlers_are_restored() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with StopFlag() as flag:
        assert flag.requested is None
        flag.check()
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)  # the first Ctrl-C, although something was requested before
        assert flag.requested is Terminated
        time.sleep(0.05)
        with pytest.raises(Interrupted, match="at once"):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(Terminated) as caught:
            flag.check()
        assert caught.value.exit_code == 143
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_outside_the_main_thread_it_does_nothing() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen: list[object] = []

    def work() -> None:
        with StopFlag() as flag:
            seen.extend([signal.getsignal(signal.SIGINT), flag.requested])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before, None]
