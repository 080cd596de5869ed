"""Which process works in a run folder: the lock, status.json, and the state that follows from both.

The lock is an `flock` on run.lock, so it ends with its process, however that dies; status.json is only what a process
last wrote. "running" in status.json with a free lock therefore means that the run was killed.
"""

import fcntl
import json
import os
import socket
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from metaexp.errors import BusyError, CheckpointError
from metaexp.system.files import space_error

STATES = ("running", "finished", "failed", "interrupted")
_NAME = "run.lock"
_HELD: set[int] = set()  # lock descriptors of this process


def _drop_in_child() -> None:
    # A forked worker that outlives its parent must not keep the parent's run locked.
    for fd in _HELD:
        os.close(fd)
    _HELD.clear()


os.register_at_fork(after_in_child=_drop_in_child)


class RunLock:
    """The exclusive lock on a run folder, held from construction until `release` or the end of the process.

    A forked child does not inherit it: its copy of the descriptor is closed at the fork.

    Args:
        folder: the run folder.
        new: whether run.lock must not exist yet: of several processes that claim one folder, one succeeds.

    Raises:
        BusyError: another process holds the lock, or has claimed the folder first.
        OSError: run.lock cannot be opened.
        SpaceError: the owner cannot be written into it.
    """

    def __init__(self, folder: Path, new: bool) -> None:
        file = folder / _NAME
        try:
            fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | (os.O_EXCL if new else 0), 0o644)
        except FileExistsError:
            raise BusyError(busy(folder)) from None
        _acquire(fd, folder)
        self._fd = fd
        _HELD.add(fd)
        owner = {"pid": os.getpid(), "host": socket.gethostname(), "started": timestamp()}
        try:
            os.ftruncate(fd, 0)
            os.pwrite(fd, (json.dumps(owner) + "\n").encode(), 0)
        except OSError as error:
            self.release()
            raise space_error(file, error) from error

    def release(self) -> None:
        """Gives the lock back; does nothing in a forked child, and nothing a second time."""
        if self._fd in _HELD:
            os.close(self._fd)
            _HELD.discard(self._fd)
        self._fd = -1


def _acquire(fd: int, folder: Path) -> None:
    for attempt in range(6):  # `state_of` in another process holds a lock for an instant
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if attempt == 5:
                os.close(fd)
                raise BusyError(busy(folder)) from None
            time.sleep(0.05)


def busy(folder: Path) -> str:
    """The line that says which process holds the lock."""
    owner = owner_of(folder)
    try:
        return f"busy: pid {owner['pid']} on host {owner['host']} since {owner['started']} is using {folder}"
    except KeyError:
        return f"busy: another process is using {folder}"


def is_child_of_holder(folder: Path) -> bool:
    """Whether the process that started this one holds the lock of this run folder."""
    owner = owner_of(folder)
    own = (owner.get("pid"), owner.get("host")) == (os.getppid(), socket.gethostname())
    return own and _is_locked(folder)


def owner_of(folder: Path) -> dict[str, Any]:
    """pid, host and start of the process that last locked the folder; {} if none did."""
    try:
        owner = json.loads((Path(folder) / _NAME).read_text().partition("\n")[0])
    except (OSError, ValueError, RecursionError):
        return {}
    return owner if isinstance(owner, dict) else {}


def timestamp() -> str:
    """The time now, in UTC, as ISO 8601 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def read_status(folder: Path) -> dict[str, Any]:
    """The content of status.json; {} if it is missing or damaged."""
    try:
        status = json.loads((Path(folder) / "status.json").read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return status if isinstance(status, dict) else {}


_KINDS = {"state": str, "step": int | None, "exit_code": int | None, "error": str | None, "started": str | None}


def check_status(folder: Path) -> None:
    """Raises CheckpointError if status.json is there but not what a run writes: somebody has edited or cut it."""
    file = Path(folder) / "status.json"
    if not file.exists():
        return
    status = read_status(folder)
    if not status:
        raise CheckpointError(f"{file}: damaged, not the JSON of a run's status; remove it to go on without it")
    for name, kind in _KINDS.items():
        if not isinstance(status.get(name), kind) or (name == "state" and status[name] not in STATES):
            value = json.dumps(status.get(name))[:100]
            raise CheckpointError(f"{file}: damaged, its {name} is {value}; remove it to go on without it")


def state_of(folder: Path) -> str:
    """finished | failed | interrupted | running | killed; "running" in status.json with a free lock means killed."""
    state = read_status(folder).get("state")
    if state == "finished":
        return "finished"
    if _is_locked(folder):
        return "running"
    return state if state in ("failed", "interrupted") else "killed"


def _is_locked(folder: Path) -> bool:
    try:
        fd = os.open(Path(folder) / _NAME, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
