"""A watcher beside a run: what it does where Python's own signal handlers do not run, because a call hangs."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from metaexp.system import watcher_process as other
from metaexp.system.output import say


class Watcher:
    """Ends this process at a second SIGTERM or Ctrl-C during a step that hangs, or when no step ends in time.

    A second process (`watcher_process`) waits on a pipe. Signals reach it from the C-level handler
    (`signal.set_wakeup_fd`), so also while the interpreter is stuck; `beat` tells it of progress. Its order comes back
    to a thread here, which calls `end` and leaves the process with the exit code. Where that thread cannot run either,
    because the hanging call holds the interpreter's lock, it records the end itself and kills this process.

    Args:
        end: called with the exit code and the reason, just before this process ends.
        seconds: a run without `beat` for so long hangs; None: no such limit.
        signals: whether second signals end the process.
        status: the status.json of the run, None if another process writes it.
        hint: added to the reason, e.g. how to continue.
    """

    def __init__(
        self,
        end: Callable[[int, str], object],
        seconds: float | None = None,
        signals: bool = True,
        status: Path | None = None,
        hint: str = "",
    ) -> None:
        self.end, self.seconds, self.signals, self.status, self.hint = end, seconds, signals, status, hint
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe, self._wakeup = (-1, -1), False
        self._handler: Callable[[], object] | None = None  # undoes the handler of signal 8
        self._due = float("inf")  # when the next `beat` is passed on

    def start(self, handled: bool) -> None:
        """Starts the process; does nothing if there is nothing to watch.

        Args:
            handled: whether this thread, the main one, has Python handlers for signals.
        """
        signals = handled and self.signals
        if not (signals or self.seconds) or not sys.executable:
            return
        self._thread = threading.get_ident()
        pipes: list[tuple[int, int]] = []
        try:
            for _ in range(2):
                pipes.append(os.pipe())
            events, orders = pipes
            self._process = self._started(events[0], orders[1])
        except OSError as error:
            for fd in (fd for pipe in pipes for fd in pipe):
                os.close(fd)
            say(f"no watcher could be started ({error}): a step that hangs is not ended")
            return
        os.close(orders[1])
        self._pipe = events  # the reading end stays open here: writing never fails, even if the watcher is killed
        os.set_blocking(events[1], False)
        if signals:
            before = signal.set_wakeup_fd(events[1], warn_on_full_buffer=False)
            self._wakeup = before == -1
            if not self._wakeup:  # an event loop of the caller's needs it
                signal.set_wakeup_fd(before)
        if self.seconds:
            self._due = 0.0
            self._handler = _exit_at_signal_8()
        self._waiting = threading.Thread(target=self._obey, args=(orders[0],), daemon=True)
        self._waiting.start()

    def _started(self, events: int, orders: int) -> "subprocess.Popen[bytes]":
        status = "" if self.status is None else str(self.status.absolute())
        words = [events, orders, os.getpid(), self.seconds or 0, status, self.hint]
        return subprocess.Popen(
            [sys.executable, "-I", "-S", other.__file__, *map(str, words)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=(events, orders),
            start_new_session=True,  # Ctrl-C in the terminal is not for it
            cwd="/",
        )

    def beat(self) -> None:
        """Call it whenever a step, a part of a validation or of a test has ended."""
        if (now := time.monotonic()) > self._due:
            self._due = now + (self.seconds or 0) / 20
            self._tell(other.BEAT)

    def ending(self) -> None:
        """Call it when this process answers a second signal by itself."""
        self._tell(other.ENDING)

    def stop(self) -> None:
        """Ends the watching."""
        if self._process is None:
            return
        self._tell(other.DONE)
        self._forget()
        self._waiting.join(2)  # it sees the end of the process
        if self._waiting.is_alive():
            self._process.kill()
        self._process.wait()
        self._process = None

    def leave(self) -> None:
        """In a forked child: the watcher is that of its parent."""
        self._forget()
        self._process = None

    def _forget(self) -> None:
        pipe, self._pipe, self._due = self._pipe, (-1, -1), float("inf")
        if self._wakeup:
            with suppress(ValueError):  # not in the main thread
                signal.set_wakeup_fd(-1)
            self._wakeup = False
        if self._handler is not None:
            self._handler()
            self._handler = None
        for fd in pipe:
            if fd >= 0:
                os.close(fd)

    def _tell(self, byte: int) -> None:
        with suppress(OSError):
            os.write(self._pipe[1], bytes([byte]))

    def _obey(self, orders: int) -> None:
        order = os.read(orders, 1)
        os.close(orders)
        if order:
            code = order[0]
            why = other.reason(code, self.seconds or 0) + self._place() + self.hint
            with suppress(OSError):
                os.write(2, f"\nmetaexp: {why}\n".encode())
            try:
                self.end(code, why)
            finally:
                os._exit(code)

    def _place(self) -> str:
        """Where the run hangs: the innermost line of Python."""
        frame = sys._current_frames().get(self._thread)
        return f" ({frame.f_code.co_filename}, line {frame.f_lineno}, in {frame.f_code.co_name})" if frame else ""


def _exit_at_signal_8() -> Callable[[], object] | None:
    """Makes signal 8 (SIGFPE) end the process with exit code 8, without the interpreter; returns what undoes it."""
    import ctypes

    try:
        c: Any = ctypes.CDLL(None)
        c.signal.restype, c.signal.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
        before = c.signal(signal.SIGFPE, ctypes.cast(c._exit, ctypes.c_void_p))
        return lambda: c.signal(signal.SIGFPE, before)
    except (AttributeError, OSError, TypeError):  # another C library
        return None
