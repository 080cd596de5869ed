"""Calls in processes of their own, by one `fork_server`: an answer comes back, or how the process died."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any, Literal

from metaexp.errors import MetaexpError
from metaexp.run.fork_server import Answer, Request, serve


class Call:
    """A call that runs in a process of its own; `answer` is None until it has ended."""

    def __init__(self, processes: "Processes"):
        self._processes = processes
        self.answer: Answer | None = None

    def wait(self) -> Answer:
        """Waits for its end."""
        while self.answer is None:
            self._processes.hear()
        return self.answer


class Processes:
    """Starts calls. Its server is made on first use, and again should it die.

    The server is a fork of this process if this one is clean, that is, has a single thread; else a new process.
    """

    def __init__(self) -> None:
        self._calls: dict[int, Call] = {}
        self._count = 0
        self._channel: Connection | None = None
        self._pid, self._owner = 0, os.getpid()

    def start(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        folder: Path | None = None,
        life: Literal["sweep", "parent"] = "sweep",
        threads: int | None = None,
        title: str | None = None,
    ) -> Call:
        """Starts a call of a module's function; the rest as in `fork_server.Request`."""
        self._count += 1
        request = Request(self._count, function, arguments, folder, life, threads, title)
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):
                stream.flush()
        try:
            self._connected().send(request)
        except ConnectionError:  # it has died in the meantime
            self._lost()
            self._connected().send(request)
        call = self._calls[self._count] = Call(self)
        return call

    def wait(self, most: int = 0) -> None:
        """Waits until at most `most` calls are running."""
        while len(self._calls) > most:
            self.hear()

    def hear(self) -> None:
        """Waits for one answer."""
        try:
            answer: Answer = self._connected().recv()
        except (EOFError, ConnectionError):
            self._lost()
            return
        self._calls.pop(answer.number).answer = answer

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls a function in a process of its own; returns or raises what it does.

        Raises MetaexpError if the process is killed.
        """
        answer = self.start(function, *arguments).wait()
        if answer.killed:
            raise MetaexpError(f"{function.__name__}: its process was killed by {signal.Signals(answer.killed).name}")
        if answer.error is not None:
            raise answer.error
        return answer.value

    def close(self) -> None:
        """Waits for what is running, and ends the server, which then has no jobs."""
        self.wait()
        self._end()

    def _end(self) -> None:
        if self._channel is not None:
            self._channel.close()
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(self._pid, signal.SIGKILL)  # it may still import
                os.waitpid(self._pid, 0)
        self._channel = None

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _connected(self) -> Connection:
        if self._channel is None or self._owner != os.getpid():
            self._channel, theirs = Pipe()
            self._owner = os.getpid()
            self._pid = _fork(self._channel, theirs) if _is_clean() else _spawn(theirs)
            theirs.close()
        return self._channel

    def _lost(self) -> None:
        """The server was killed, and its jobs with it."""
        for number, call in self._calls.items():
            call.answer = Answer(number, killed=9)
        self._calls.clear()
        self._end()


def _is_clean() -> bool:
    """Whether a fork of this process loses no thread; after an operation of torch there are several."""
    try:
        return sys.platform == "linux" and len(os.listdir("/proc/self/task")) == 1
    except OSError:
        return False


def _fork(ours: Connection, theirs: Connection) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            serve(theirs)
        finally:
            os._exit(70)
    return pid


def _spawn(theirs: Connection) -> int:
    end = theirs.fileno()
    code = f"import sys; sys.path[:] = {sys.path!r}; from metaexp.run.fork_server import main; main({end})"
    return subprocess.Popen([sys.executable, "-c", code], pass_fds=[end], start_new_session=True).pid
