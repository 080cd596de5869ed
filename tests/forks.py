"""Real processes without the cost of their imports: one process imports torch and Lightning, then forks each run.

Every run is its own process, which is started, signalled and waited for like any other, with the entry point's
arguments, exit code and output; only the five seconds of imports are shared. `Forks` is the tests' side; this file
run as a script is the server.
"""

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent


HANGS, STUCK = -1, -2  # for Fault.signal: a C call that never returns; one that also holds the interpreter's lock


class Fault(NamedTuple):
    """At the `call`-th call of `at` ("module:Class.name") the process sends itself `signal`, before or after it.

    With HANGS or STUCK it says "hangs" on standard output and does.
    """

    at: str
    call: int
    signal: int
    after: bool = False


class Ended(NamedTuple):
    """How a run ended; `code` is negative if a signal killed it, as in subprocess."""

    code: int
    out: str
    err: str


class Run:
    """A started run."""

    def __init__(self, forks: "Forks", pid: int, log: Path):
        self.forks, self.pid, self.log = forks, pid, log

    def wait(self, timeout: float = 120) -> Ended:
        """Waits for its end; kills it and fails after `timeout` seconds."""
        code = self.forks.ask({"wait": self.pid, "timeout": timeout})["code"]
        out, err = (self.log.with_suffix(end).read_text() for end in (".out", ".err"))
        assert code is not None, f"still ran after {timeout} s\n{out[-2000:]}\n{err[-4000:]}"
        return Ended(code, out, err)


class Forks:
    """Starts runs: `forks("algo=maml", "steps=2", cwd=folder)` executes a run to its end."""

    def __init__(self, folder: Path):
        self.folder, self.count = folder, 0
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        command = [sys.executable, __file__]
        self.server = Popen(command, stdin=PIPE, stdout=PIPE, text=True, env=environment, start_new_session=True)

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return json.loads(self.server.stdout.readline())

    def start(
        self,
        *argv: object,
        cwd: Path,
        fault: Fault | None = None,
        file_size: int | None = None,
        pictures: bool = False,
        output: str | None = None,
        ignored: int | None = None,
        environment: dict[str, str] | None = None,
        program: str = "metaexp.train:train",
    ) -> Run:
        """Starts `python -m metaexp.train *argv` in `cwd`.

        Args:
            program: another command instead, "module:function of the arguments".
            fault: when it sends a signal to itself.
            file_size: a limit in bytes on every file it writes.
            pictures: whether pictures are drawn, which takes most of a tiny run's time.
            output: "full": standard output is /dev/full; "gone": both outputs are a pipe without a reader; "closed":
                descriptors 0 to 2 are closed.
            ignored: a signal that it ignores from the start.
            environment: more environment variables.
        """
        self.count += 1
        log = self.folder / f"run{self.count}"
        request = {"argv": [str(word) for word in argv], "cwd": str(cwd), "log": str(log), "fault": fault}
        request |= {"file_size": file_size, "pictures": pictures, "output": output, "ignored": ignored}
        request["program"] = program
        return Run(self, self.ask(request | {"environment": environment or {}})["pid"], log)

    def __call__(self, *argv: object, cwd: Path, timeout: float = 120, **how: Any) -> Ended:
        """Runs it to its end; `how` as for `start`."""
        return self.start(*argv, cwd=cwd, **how).wait(timeout)

    def close(self) -> None:
        """Ends the server, which ends all runs that are still active."""
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.close()
        try:
            self.server.wait(30)
        finally:
            self.server.kill()
            self.server.stdout.close()


# -- the server --------------------------------------------------------------------------------------------------------


def _install(fault: Fault) -> None:
    import importlib

    module, _, path = fault.at.partition(":")
    owner: Any = importlib.import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    original: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        due = calls == fault.call
        if due and fault.signal < 0:
            _hang(fault.signal == STUCK)
        if due and not fault.after:
            os.kill(os.getpid(), fault.signal)
        result = original(*args, **kwargs)
        if due and fault.after:
            os.kill(os.getpid(), fault.signal)
        return result

    setattr(owner, name, wrapped)


def _hang(holding: bool) -> None:
    import ctypes

    os.write(1, b"hangs\n")
    mutex = ctypes.create_string_buffer(64)  # of zeros: unlocked
    lock = (ctypes.PyDLL if holding else ctypes.CDLL)(None).pthread_mutex_lock
    lock(mutex)
    lock(mutex)


def _redirect(output: str) -> None:
    if output == "full":
        os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
    elif output == "gone":
        read, write = os.pipe()
        os.close(read)
        os.dup2(write, 1)
        os.dup2(write, 2)
    else:  # as the interpreter itself does when it starts
        sys.stdout = sys.stderr = sys.stdin = None  # type: ignore[assignment]
        os.closerange(0, 3)


def _no_pictures() -> None:
    from undrawn import undraw

    from metaexp.run import sweep_page

    sweep_page.write = lambda folder: None
    undraw()


def _child(request: dict[str, Any]) -> int:
    import importlib

    from metaexp.config.command_line import exit_code

    module, _, name = request["program"].partition(":")
    command = getattr(importlib.import_module(module), name)
    os.setsid()
    for number, end in ((1, ".out"), (2, ".err")):
        os.dup2(os.open(request["log"] + end, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
    if request["output"]:
        _redirect(request["output"])
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whoever started the tests may ignore it
    if request["ignored"]:
        signal.signal(request["ignored"], signal.SIG_IGN)
    os.environ.update(request["environment"])
    os.chdir(request["cwd"])
    sys.argv = [module, *request["argv"]]
    if not request["pictures"]:
        _no_pictures()
    if request["fault"]:
        _install(Fault(*request["fault"]))
    if request["file_size"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_size"],) * 2)
    code = exit_code(lambda: command(request["argv"]))
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    return code


def _wait(pid: int, timeout: float) -> int | None:
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def _serve() -> None:
    import gc

    import matplotlib.pyplot  # noqa: F401
    import torch
    import undrawn  # noqa: F401

    from metaexp.run import single

    single.preload()
    torch.set_num_threads(1)  # a fork does not inherit the threads of a pool
    gc.collect()
    gc.freeze()  # no run needs to scan what was imported
    running: set[int] = set()
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            code = _wait(request["wait"], request["timeout"])
            running.discard(request["wait"])
            print(json.dumps({"code": code}), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            try:
                os._exit(_child(request))
            finally:
                os._exit(99)
        running.add(pid)
        print(json.dumps({"pid": pid}), flush=True)
    for pid in running:
        os.kill(pid, signal.SIGKILL)
    os._exit(0)


if __name__ == "__main__":
    _serve()
