"""Fresh processes, pinned to the first cores, and a description of the machine."""

import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from metaexp.system.machine import cores, processor

ROOT = Path(__file__).resolve().parents[2]
BUSY = 0.7  # load average above which other processes distort the times


class Done(NamedTuple):
    """How a process ended."""

    code: int | None  # None: killed after the time limit
    out: str
    err: str
    seconds: float  # wall clock
    load: float  # load average of the last minute when it began
    cpu: float | None = None  # CPU seconds of it and what it started (a compiler, say)

    def reason(self) -> str:
        """The last line of its output, for messages."""
        lines = [line for line in (self.err + "\n" + self.out).splitlines() if line.strip()]
        said = lines[-1].strip()[:200] if lines else "said nothing"
        return f"time limit ({self.seconds:.0f} s)" if self.code is None else f"exit {self.code}: {said}"

    def answer(self) -> dict[str, Any] | None:
        """The last line of JSON on its standard output."""
        lines = [line for line in self.out.splitlines() if line.startswith("{")]
        found: dict[str, Any] | None = json.loads(lines[-1]) if lines else None
        return found


def pin(threads: int) -> Callable[[], None] | None:
    """For `preexec_fn`: keeps a child on the first `threads` cores, if the system supports it."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    cores = set(sorted(os.sched_getaffinity(0))[:threads])
    return lambda: os.sched_setaffinity(0, cores)


def environment(threads: int | None, **extra: str) -> dict[str, str]:
    """Environment variables: our checkout importable, the number of threads as the peers' scripts set it themselves."""
    given = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    path = os.pathsep.join((str(ROOT), str(ROOT / "scripts")))
    kept = {key: value for key, value in os.environ.items() if key not in given}
    return kept | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"} | (given if threads else {}) | extra


def run(
    command: Sequence[str | Path], threads: int | None = None, timeout: float = 600, pinned: bool = True, **env: str
) -> Done:
    """Runs a command to its end or the time limit; `threads` None: neither pinned nor limited."""
    load, start, before = os.getloadavg()[0], time.monotonic(), _spent()
    try:
        done = subprocess.run(
            [str(word) for word in command],
            env=environment(threads, **env),
            preexec_fn=pin(threads) if threads and pinned else None,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        code, out, err = done.returncode, done.stdout, done.stderr
    except subprocess.TimeoutExpired:
        code, out, err = None, "", ""
    return Done(code, out, err, time.monotonic() - start, round(load, 2), round(_spent() - before, 2))


def _spent() -> float:
    """CPU seconds of the processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def metaexp(*arguments: str) -> list[str]:
    """Our command."""
    return [sys.executable, "-W", "ignore", "-m", "metaexp.train", *arguments]


def busy() -> str | None:
    """One line if the machine is too busy for measurements."""
    load = os.getloadavg()[0]
    return f"load average {load:.2f} > {BUSY}: wait for a quiet machine, or --force" if load > BUSY else None


def stamp(command: str) -> dict[str, Any]:
    """Date, commit (+ for uncommitted changes), machine and command of a measurement."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
        return done.stdout.strip()

    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": git("rev-parse", "--short=10", "HEAD") + ("+" if git("status", "--porcelain") else ""),
        "cpu": processor(),
        "cores": cores(),
        "python": platform.python_version(),
        "command": command,
    }
