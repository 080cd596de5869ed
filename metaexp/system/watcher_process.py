"""The small process beside a run, which ends it where Python no longer can: started by `watcher.Watcher`.

It is a script of its own that imports no part of metaexp, so that it costs a few milliseconds. It waits on a pipe into
which the run's C-level signal handler writes the number of every signal, also while a call hangs. It ends with the run:
the pipe is closed with it, however it dies.
"""

import os
import select
import signal
import sys
import time
from contextlib import suppress

BEAT, ENDING, DONE = 128, 129, 130  # what the run itself writes; signals are below
HUNG = 8  # the exit code for `watchdog`
SAME = 0.03  # seconds within which two signals are one: `timeout` and wrappers of commands send theirs twice
GRACE, CLEANING, LEAVING = 1.0, 10.0, 3.0  # seconds until it is ended: hung; ending by itself; after the order
NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


class Run:
    """The watched process.

    Args:
        pid: its number; it is this process's parent.
    """

    def __init__(self, pid: int):
        self.pid, self.fd = pid, -1
        with suppress(AttributeError, OSError):
            self.fd = os.pidfd_open(pid)

    def alive(self) -> bool:
        """Whether it has not ended."""
        if self.fd >= 0:
            return not select.select([self.fd], [], [], 0)[0]
        return os.getppid() == self.pid

    def kill(self, number: int) -> None:
        """Sends a signal, to this very process even if its number has been given to another."""
        with suppress(OSError):
            if self.fd >= 0 and hasattr(signal, "pidfd_send_signal"):
                signal.pidfd_send_signal(self.fd, number)
            elif self.alive():
                os.kill(self.pid, number)

    def stopped(self) -> bool:
        """Whether it is suspended (Ctrl-Z, SIGSTOP): it does not hang then."""
        try:
            with open(f"/proc/{self.pid}/stat", encoding="ascii", errors="replace") as file:
                return file.read().rpartition(")")[2].split()[0] in ("T", "t")
        except (OSError, IndexError):
            return False

    def ended(self, seconds: float) -> bool:
        """Waits for its end, at most so long; returns whether it has ended."""
        until = time.monotonic() + seconds
        while self.alive() and time.monotonic() < until:
            time.sleep(0.01)
        return not self.alive()


class Watch:
    """Decides when the run must be ended.

    Args:
        seconds: without a sign of life for so long the run hangs; 0: no such limit.
        now: `time.monotonic()`.
    """

    def __init__(self, seconds: float, now: float):
        self.seconds, self.looked = seconds, now
        self.beat = float("inf")  # the time counts from the first sign of life, when training begins
        self.first: dict[int, float] = {}  # when each kind of signal came first
        self.due, self.code = float("inf"), 0  # when to end the run, and its exit code

    def read(self, byte: int, now: float) -> None:
        """Takes one byte of the pipe."""
        if byte == BEAT:
            self.beat = now
        elif byte == ENDING and self.code:
            self.due = now + CLEANING
        elif byte in NAMES and now - self.first.setdefault(byte, now) > SAME and not self.code:
            self.due, self.code = now + GRACE, 128 + byte

    def look(self, now: float, stopped: bool) -> None:
        """Call it at least every `pause` seconds."""
        if stopped or now - self.looked > self.pause() + 1:  # this process was suspended, too
            self.beat = max(now, self.beat)
        self.looked = now
        if self.seconds and now - self.beat > self.seconds and not self.code:
            self.due, self.code = now, HUNG

    def pause(self) -> float:
        """Seconds until the next look, if nothing comes through the pipe."""
        return min(1.0, self.seconds / 10) if self.seconds else 1.0


def reason(code: int, seconds: float) -> str:
    """Why the run was ended, for status.json and the terminal."""
    if code == HUNG:
        return f"watchdog={seconds:g}: no step ended within {seconds:g} s"
    return f"ended at once by a second {NAMES.get(code - 128, 'signal')}"  # type: ignore[call-overload]


def watch(events: int, orders: int, run: Run, seconds: float, status: str, hint: str) -> None:
    """Waits for the end of the run, or brings it about."""
    poll = select.poll()
    for fd in {events, run.fd} - {-1}:
        poll.register(fd, select.POLLIN | select.POLLHUP)
    state = Watch(seconds, time.monotonic())
    while run.alive():
        left = max(state.due - time.monotonic(), 0)
        wake = left if state.code else state.pause() if seconds or run.fd < 0 else None
        ready = dict(poll.poll(None if wake is None else wake * 1000 + 1))
        now = time.monotonic()
        if events in ready:
            data = os.read(events, 4096)
            if not data or DONE in data:
                return
            for byte in data:
                state.read(byte, now)
        if seconds:
            state.look(now, run.stopped())
        if now >= state.due:
            end(state.code, orders, run, seconds, status, hint)
            return


def end(code: int, orders: int, run: Run, seconds: float, status: str, hint: str) -> None:
    """Ends the run: by a thread of its own, which can give the exit code, or if that cannot run either, by force."""
    with suppress(OSError):
        os.write(orders, bytes([code]))
    if not run.ended(LEAVING):
        why = reason(code, seconds) + hint
        record(status, run, code, why)
        with suppress(OSError):
            os.write(2, f"\nmetaexp: {why}\n".encode())
        if code == HUNG:  # its C handler for signal 8 is `_exit`
            run.kill(signal.SIGFPE)
        if code != HUNG or not run.ended(1):
            run.kill(signal.SIGKILL)
        run.ended(LEAVING)
    record(status, run, code, reason(code, seconds) + hint)


def record(path: str, run: Run, code: int, why: str) -> None:
    """Writes the end into status.json, if that still says that this very run is going on."""
    import fcntl  # these only where they are needed: the process should start fast and stay small
    import json
    from datetime import UTC, datetime

    folder, name = os.path.split(path)
    with suppress(OSError, ValueError), open(os.path.join(folder, "run.lock"), "rb") as lock:
        if not run.alive():
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody has begun to continue it
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
        if data.get("state") != "running" or data.get("pid") != run.pid:
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        data |= {"state": "failed" if code == HUNG else "interrupted", "updated": now, "exit_code": code, "error": why}
        temporary = os.path.join(folder, f".{name}.tmp-{os.getpid()}")
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(json.dumps(data, indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)


def main(argv: list[str]) -> None:
    """`watcher_process.py EVENTS ORDERS PID SECONDS STATUS HINT`: two descriptors, and what `watch` needs."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # a job is often signalled as a whole
    events, orders, pid, seconds, status, hint = argv
    run = Run(int(pid))
    if os.getppid() == run.pid:
        watch(int(events), int(orders), run, float(seconds), status, hint)
    os._exit(0)  # without the interpreter's own clearing up, for which the run would wait


if __name__ == "__main__":
    main(sys.argv[1:])
