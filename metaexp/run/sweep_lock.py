"""The lock on a sweep's folder: whether the sweep's process lives, and what it wants of its jobs.

The sweep holds run.lock in its folder, so any process of the sweep, whatever launcher started it, can see whether the
sweep is still there. A signal that the sweep gets is written into the same file as a further line: that needs no
space on the disk, and reaches jobs on other machines that share the folder.
"""

import os
import signal
import socket
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from metaexp.config.command_line import complain
from metaexp.errors import Interrupted, Terminated
from metaexp.storage.lock import RunLock, owner_of, state_of

_NAME = "run.lock"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def requests(folder: Path) -> list[int]:
    """The signals for the jobs of this sweep, in the order in which they came: SIGINT or SIGTERM."""
    try:
        lines = (folder / _NAME).read_text().splitlines()[1:]
    except (OSError, ValueError):
        return []
    return [int(line) for line in lines if line.strip().isdigit()]


def sweep_is_alive(folder: Path) -> bool:
    """Whether its process lives; True where that cannot be seen, on another machine."""
    return owner_of(folder).get("host") not in (None, socket.gethostname()) or state_of(folder) == "running"


class SweepLock:
    """Inside the `with` block the sweep's folder is locked, and signals are written there for the jobs.

    The first Ctrl-C or SIGTERM (also SIGHUP and SIGUSR1) lets the jobs write their checkpoints, the second ends them at
    once, the third ends the sweep itself. Signals that were ignored at the start stay ignored. `stopped` is the class
    of the first, None if there was none.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.stopped: type[Interrupted] | None = None
        self._count = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "SweepLock":
        self._lock = RunLock(self.folder, new=True)
        for number in SIGNALS:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                with suppress(ValueError):  # outside the main thread there are no handlers
                    self._before[number] = signal.signal(number, self._signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self.stopped is None:  # jobs that still wait in a queue must see that it was stopped
            with suppress(OSError):
                (self.folder / _NAME).unlink()
        self._lock.release()

    def _signal(self, number: int, _frame: FrameType | None) -> None:
        self._count += 1
        sent = signal.SIGINT if number == signal.SIGINT else signal.SIGTERM
        self.stopped = self.stopped or (Interrupted if number == signal.SIGINT else Terminated)
        with suppress(OSError):
            file = os.open(self.folder / _NAME, os.O_WRONLY | os.O_APPEND)
            os.write(file, f"{int(sent)}\n".encode())
            os.close(file)
        if self._count == 1:
            complain("stopping: the running jobs write their checkpoints; once more to end them at once")
        if self._count > 2:
            raise self.stopped("stopped at once")
