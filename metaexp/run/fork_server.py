"""A clean process that has imported everything a run imports, and forks each job from there.

It never runs an operation of torch, so no thread of OpenMP or of autograd is missing in its children (threads do not
survive a fork). A job therefore starts in a tenth of a second instead of several. The server leads a session of its
own: Ctrl-C in a terminal reaches only the sweep, which passes it on (`sweep_lock`). It ends its jobs when the sweep's
process is gone, however that died. The sweep's side is `metaexp.run.processes`.
"""

import atexit
import ctypes
import os
import pickle
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, NoReturn

from metaexp.run.sweep_lock import SIGNALS, requests, sweep_is_alive
from metaexp.run.terminal import prefix_lines

POLL = 0.2  # seconds between two looks at the sweep's lock
GRACE = 20.0  # seconds that a job has after the second signal, or after the end of the sweep's process


class Request(NamedTuple):
    """One call in a process of its own.

    Attributes:
        number: identifies it in the answer.
        function, arguments: a function of a module, and what can be pickled.
        folder: the sweep's folder, whose lock says when to stop; None: nobody stops it.
        life: whose end also ends the job: the sweep's process, seen by its lock, or the process that asked for it.
        threads: the most threads of torch; None: its default.
        title: put before each line of output; None: output goes to the terminal as it is.
    """

    number: int
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    folder: Path | None = None
    life: Literal["sweep", "parent"] = "sweep"
    threads: int | None = None
    title: str | None = None


class Answer(NamedTuple):
    """What became of it: the value, or the exception, or the signal that killed the process (0: none)."""

    number: int
    value: Any = None
    error: BaseException | None = None
    killed: int = 0


class _Job:
    """A running child."""

    def __init__(self, request: Request, pid: int, file: BinaryIO):
        self.request, self.pid, self.file = request, pid, file
        self.told = 0  # signals of the sweep that it has got
        self.last: float | None = None  # when its time is up

    def look(self, connected: bool) -> None:
        """Passes on the sweep's signals, and ends the job if it does not end by itself."""
        folder, now = self.request.folder, time.monotonic()
        if folder is None:
            return
        asked = requests(folder)
        gone = not (connected if self.request.life == "parent" else sweep_is_alive(folder))
        if gone and not asked:
            asked = [int(signal.SIGTERM)]
        for number in asked[self.told :]:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)
        self.told = max(self.told, len(asked))
        if self.last is None and (gone or len(asked) > 1):
            self.last = now + GRACE
        if self.last is not None and now > self.last:
            end_group(self.pid)

    def answer(self, status: int) -> Answer:
        """Reads what the child has left."""
        killed, number = -min(os.waitstatus_to_exitcode(status), 0), self.request.number
        if killed:
            end_group(self.pid)  # its own children
        try:
            self.file.seek(0)
            value, error = pickle.load(self.file)
            return Answer(number, value, error)
        except Exception as error:  # nothing, or half an answer
            lost = RuntimeError(f"a job's process ended without an answer ({error})")
            return Answer(number, error=None if killed else lost, killed=killed)
        finally:
            self.file.close()


def end_group(pid: int) -> None:
    """SIGKILL for a job and its children."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def serve(channel: Connection) -> NoReturn:
    """Answers requests until the other side is gone and all jobs have ended."""
    with suppress(PermissionError):
        os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    woken, wake = os.pipe()
    for end in (woken, wake):
        os.set_blocking(end, False)
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # a job that has just been forked must not miss one
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    from metaexp.run import single

    single.preload()
    jobs: dict[int, _Job] = {}
    connected = True
    while connected or jobs:
        ready = wait([*([channel] if connected else []), woken], POLL)
        with suppress(BlockingIOError):
            os.read(woken, 4096)
        if channel in ready:
            try:
                request = channel.recv()
                job = _fork(request, channel)
                jobs[job.pid] = job
            except (EOFError, ConnectionError):
                connected = False
        connected = _reap(jobs, channel) and connected
        for job in jobs.values():
            job.look(connected)
    os._exit(0)


def _reap(jobs: dict[int, _Job], channel: Connection) -> bool:
    """Answers for the jobs that have ended; returns whether somebody still listens."""
    heard = True
    for pid in list(jobs):
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            try:
                channel.send(jobs.pop(pid).answer(status))
            except (OSError, ValueError):
                heard = False
    return heard


def _fork(request: Request, channel: Connection) -> _Job:
    file = tempfile.TemporaryFile()  # noqa: SIM115  closed with the answer
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            channel.close()
            _prepare(request, parent)
            _call(request, file)
        finally:
            os._exit(70)
    return _Job(request, pid, file)


def _prepare(request: Request, parent: int) -> None:
    os.setpgid(0, 0)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # Signals come from the sweep, which knows what was to be ignored; a launcher's worker may ignore or block others.
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    _die_with(parent)
    with suppress(OSError):  # out of memory, the kernel should take the job, not the sweep
        Path("/proc/self/oom_score_adj").write_text("500")
    if request.threads is not None:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[name] = str(request.threads)
        from metaexp.training.build import use_threads

        use_threads(request.threads)
    if request.title is not None:
        prefix_lines(request.title)


def _die_with(parent: int) -> None:
    """On Linux, SIGKILL for this process when its parent dies."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
            if os.getppid() != parent:
                os.kill(os.getpid(), signal.SIGKILL)


def _call(request: Request, file: BinaryIO) -> None:
    atexit._clear()  # those of the server and of the sweep
    value, error = None, None
    try:
        value = request.function(*request.arguments)
    except BaseException as raised:
        error = raised
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the work is done
    try:
        data = pickle.dumps((value, error))
        pickle.loads(data)
    except Exception:  # an exception that cannot be pickled
        data = pickle.dumps((None, RuntimeError(f"{type(error).__name__}: {error}")))
    file.write(data)
    file.flush()
    with suppress(Exception):
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(0)


def main(descriptor: int) -> None:
    """The server as a new process, for a sweep's process that is not clean itself."""
    serve(Connection(descriptor))
