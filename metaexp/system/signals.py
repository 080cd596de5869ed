"""Ctrl-C and SIGTERM as a flag that is read between two outer steps."""

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

from metaexp.errors import Interrupted, Terminated

_Handler = Callable[[int, FrameType | None], Any] | int | None


class StopFlag:
    """Inside the `with` block the first Ctrl-C or SIGTERM sets `requested`; a second Ctrl-C raises Interrupted at once.

    `requested` is None, Interrupted or Terminated: the class to raise, after the checkpoint. The first request counts.
    A signal that was ignored when the process started (nohup, or `&` in a script) stays ignored: whoever started it
    meant that Ctrl-C in the terminal is not for this job. SIGTERM still stops such a job. Outside the main thread
    Python cannot install handlers, and the flag does nothing. The previous handlers are restored at the end.
    """

    def __init__(self) -> None:
        self.requested: type[Interrupted] | None = None
        self._before: dict[int, _Handler] = {}
        self._ctrl_c = 0

    def __enter__(self) -> "StopFlag":
        if threading.current_thread() is threading.main_thread():
            for number, handler in ((signal.SIGINT, self._interrupt), (signal.SIGTERM, self._terminate)):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, handler)
        return self

    def __exit__(self, *_: object) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)

    def hold(self) -> None:
        """Installs the handlers again: Lightning's trainer installs its own when it starts."""
        for number, handler in ((signal.SIGINT, self._interrupt), (signal.SIGTERM, self._terminate)):
            if number in self._before:
                signal.signal(number, handler)

    def check(self) -> None:
        """Raises what was requested, if anything was."""
        if self.requested is not None:
            raise self.requested("stopped by Ctrl-C" if self.requested is Interrupted else "stopped by SIGTERM")

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        self._ctrl_c += 1
        if self._ctrl_c > 1:
            raise Interrupted("stopped at once by a second Ctrl-C")
        self.requested = self.requested or Interrupted
        _say("finishing the step; Ctrl-C again to stop at once")

    def _terminate(self, _number: int, _frame: FrameType | None) -> None:
        self.requested = self.requested or Terminated
        _say("SIGTERM: finishing the step")


def _say(text: str) -> None:
    # Not print: the handler may have come in the middle of another print to the same buffer.
    with suppress(OSError):
        os.write(2, f"\n{text}\n".encode())
