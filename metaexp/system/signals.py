"""Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 as a flag that is read between two outer steps."""

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

from metaexp.errors import Interrupted, Terminated
from metaexp.system.watcher import Watcher
from metaexp.system.watcher_process import SAME

_Handler = Callable[[int, FrameType | None], Any] | int | None

# What each signal asks for. SIGHUP: the terminal has gone. SIGUSR1: SLURM's warning before the end of a job.
STOPS: dict[int, tuple[type[Interrupted], str]] = {
    signal.SIGINT: (Interrupted, "Ctrl-C"),
    signal.SIGTERM: (Terminated, "SIGTERM"),
    signal.SIGHUP: (Terminated, "SIGHUP"),
    signal.SIGUSR1: (Terminated, "SIGUSR1"),
}
_TWICE = (signal.SIGINT, signal.SIGTERM)  # the second one stops at once
_ACTIVE: "list[StopFlag]" = []


class StopFlag:
    """Inside the `with` block the first signal of STOPS sets `requested`; a second Ctrl-C or SIGTERM raises at once.

    `requested` is None, Interrupted or Terminated: the class to raise, after the checkpoint. The first request counts,
    and `by` names its signal. A signal that was ignored when the process started (nohup, or `&` in a script) stays
    ignored: whoever started it meant that Ctrl-C or the end of the terminal is not for this job. SIGTERM still stops
    such a job. SIGHUP and SIGUSR1 are left alone, too, where the caller has handlers of its own. Outside the main
    thread Python cannot install handlers, and no signal sets the flag. The previous handlers are restored at the end.

    A process that is forked inside the block (a data worker) can be ended by SIGTERM again and leaves the other signals
    to this one, since a terminal sends them to both.

    Args:
        watcher: ends the process where a second signal, or the lack of progress, finds a step that hangs.
    """

    def __init__(self, watcher: Watcher | None = None) -> None:
        self.requested: type[Interrupted] | None = None
        self.by: str | None = None
        self._watcher = watcher
        self._before: dict[int, _Handler] = {}
        self._came: dict[int, float] = {}  # when each signal came first

    def __enter__(self) -> "StopFlag":
        main = threading.current_thread() is threading.main_thread()
        for number in STOPS if main else ():
            handler = signal.getsignal(number)
            if handler in (signal.SIG_IGN, None) or (number not in _TWICE and handler is not signal.SIG_DFL):
                continue
            self._before[number] = signal.signal(number, self._stop)
        if self._watcher is not None:
            self._watcher.start(handled=bool(self._before))
        _ACTIVE.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        if self in _ACTIVE:
            _ACTIVE.remove(self)
        if self._watcher is not None:
            self._watcher.stop()
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)

    def hold(self) -> None:
        """Installs the handlers again: Lightning's trainer installs its own when it starts."""
        for number in self._before:
            signal.signal(number, self._stop)

    def beat(self) -> None:
        """Call it after every step, and after every part of a validation or a test: the run does not hang."""
        if self._watcher is not None:
            self._watcher.beat()

    def check(self) -> None:
        """Raises what was requested, if anything was."""
        if self.requested is not None:
            by = self.by or ("Ctrl-C" if self.requested is Interrupted else "SIGTERM")
            raise self.requested(f"stopped by {by}")

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        kind, name = STOPS[number]
        now = time.monotonic()
        if number in _TWICE and now - self._came.setdefault(number, now) > SAME:
            if self._watcher is not None:
                self._watcher.ending()
            raise kind(f"stopped at once by a second {name}")
        if self.requested is None:
            self.requested, self.by = kind, name
        again = "; Ctrl-C again to stop at once" if number == signal.SIGINT else ""
        _say("finishing the step" + again if again else f"{name}: finishing the step")

    def _in_child(self) -> None:
        if self._watcher is not None:
            self._watcher.leave()
        for number, handler in self._before.items():
            with suppress(ValueError):
                signal.signal(number, handler if number == signal.SIGTERM else _leave_it)


def _leave_it(_number: int, _frame: FrameType | None) -> None:
    pass


def _after_fork() -> None:
    for flag in _ACTIVE:
        flag._in_child()


os.register_at_fork(after_in_child=_after_fork)


def _say(text: str) -> None:
    # Not print: the handler may have come in the middle of another print to the same buffer.
    with suppress(OSError):
        os.write(2, f"\n{text}\n".encode())
