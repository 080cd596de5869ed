"""Work in real processes that are forked from the test."""

import os
import pickle
import signal
import time
from collections.abc import Callable
from typing import Any

import torch

from metaexp.storage.run_folder import RunFolder


def start(work: Callable[[], Any]) -> Callable[[], tuple[int, Any]]:
    """Starts `work` in a separate real process.

    Calling the result waits for the process and returns (exit status, negative for a signal; what `work` returned or
    raised, None if it was killed).
    """
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        torch.set_num_threads(1)  # a fork does not inherit the threads of a pool
        try:
            answer = work()
        except BaseException as error:
            answer = error
        os.write(write, pickle.dumps(answer))
        os._exit(0)
    os.close(write)

    def wait() -> tuple[int, Any]:
        with os.fdopen(read, "rb") as file:
            data = file.read()
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return code, pickle.loads(data) if data else None

    return wait


def forked(work: Callable[[], Any]) -> Callable[[], Any]:
    """The same, but calling the result gives only what `work` returned or raised."""
    wait = start(work)
    return lambda: wait()[1]


def run_forked(work: Callable[[], Any]) -> tuple[int, Any]:
    """The same, run to its end: (exit status, what `work` returned or raised)."""
    return start(work)()


def holder(open_folder: Callable[[], RunFolder]) -> int:
    """Starts a process that opens a folder and holds it until killed; returns its pid once it holds the folder."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        folder = open_folder()
        os.write(write, b"ready")
        time.sleep(60)
        folder.close()
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        assert file.read(5) == b"ready"
    return pid


def kill(pid: int) -> None:
    """Kills a child with SIGKILL and waits for its end."""
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
