"""The run folder: claimed exclusively, locked, and written only by whole-file replacement or whole-line appends.

What stands in it: run.lock (held while the run lives), status.json, config.yaml, metrics.jsonl, checkpoints/, and at
the end test_scores.npz and result.json. Nothing here imports torch.
"""

import errno
import fcntl
import json
import os
import re
import secrets
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from metaexp.errors import BusyError, CheckpointError, ConfigError
from metaexp.storage.saved_config import dump_yaml, read_config, same_run
from metaexp.system.files import plain, remove_temporaries, replace_file, space_error

FORMAT = 1
STATES = ("running", "finished", "failed", "interrupted")
_HELD: set[int] = set()  # lock descriptors of this process


def _drop_in_child() -> None:
    # A forked worker that outlives its parent must not keep the parent's run locked.
    for fd in _HELD:
        os.close(fd)
    _HELD.clear()


os.register_at_fork(after_in_child=_drop_in_child)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class RunFolder:
    """One run's folder. Make it by `claim`, `claim_named`, `reopen` or `join`, not by calling the class."""

    def __init__(self, path: Path, lock: int | None) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.writes = lock is not None  # rank 0 writes, others do nothing
        self._lock = lock
        self._metrics: int | None = None
        self._status: dict[str, Any] = {}

    @classmethod
    def claim(cls, out: Path, label: str) -> "RunFolder":
        """Makes and locks `<out>/<date>_<time>_<label>_<4 hex>`; two runs in one second get two folders.

        Raises ConfigError if `out` cannot hold it, SpaceError if the disk is full.
        """
        label = re.sub(r"[^\w.+=,-]+", "_", label)[:50]
        try:
            Path(out).mkdir(parents=True, exist_ok=True)
            while True:
                path = Path(out) / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{label}_{secrets.token_hex(2)}"
                try:
                    path.mkdir()
                    break
                except FileExistsError:
                    continue
        except OSError as error:
            raise _unusable(Path(out), error) from error
        return cls._started(path, exclusive=True)

    @classmethod
    def claim_named(cls, path: Path) -> "RunFolder":
        """Makes and locks exactly `path` (a sweep's job); an empty folder that stands there already is taken.

        Raises BusyError if it is another run's, ConfigError if it cannot be made.
        """
        path = Path(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            taken = any(path.iterdir())
        except OSError as error:
            raise _unusable(path, error) from error
        if taken:
            state = state_of(path)
            if state == "running":
                raise BusyError(_busy(path))
            what = "already finished" if state == "finished" else "already exists"
            raise BusyError(f"{path}: {what}; use a new folder or resume={path}")
        return cls._started(path, exclusive=True)

    @classmethod
    def reopen(cls, path: Path) -> "RunFolder":
        """Locks an existing run's folder to continue in it, and removes what killed writers left there.

        `status.json` stays as it is until `status` is called, so that checks can come first. A dead process holds no
        lock. Raises CheckpointError if it is no run folder, BusyError if another process has it.
        """
        path = Path(path)
        if not (path / "config.yaml").is_file():
            what = "has no config.yaml, so it is no run folder" if path.is_dir() else "no such run folder"
            raise CheckpointError(f"{path}: {what}")
        folder = cls._started(path, exclusive=False)
        remove_temporaries(path)
        remove_temporaries(folder.checkpoints)
        return folder

    @classmethod
    def join(cls, path: Path) -> "RunFolder":
        """The folder as ranks above 0 see it: no lock, and every write does nothing."""
        return cls(Path(path), None)

    @classmethod
    def _started(cls, path: Path, exclusive: bool) -> "RunFolder":
        folder = cls(path, _lock(path, exclusive))
        if exclusive:
            folder.status("running")
        return folder

    def close(self) -> None:
        """Gives the lock back; the process's end does the same."""
        if self._metrics is not None:
            os.close(self._metrics)
        if self._lock in _HELD:
            os.close(self._lock)
            _HELD.discard(self._lock)
        self._metrics = self._lock = None
        self.writes = False

    @property
    def begun(self) -> bool:
        """Whether its status was written by this process."""
        return bool(self._status)

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def status(self, state: str, **extra: Any) -> None:
        """Replaces status.json. `extra` (step, exit_code, error ...) is kept until overwritten; `started` for ever."""
        if state not in STATES:
            raise ValueError(f"state={state}: one of {', '.join(STATES)}")
        if not self.writes:
            return
        if not self._status:
            self._status = {"started": read_status(self.path).get("started", _now())}
        self._status |= extra
        head = {"format": FORMAT, "state": state, "pid": os.getpid(), "host": socket.gethostname()}
        self.write_json("status.json", head | {"updated": _now()} | self._status)

    def log(self, row: dict[str, Any]) -> None:
        """Appends one line of strict JSON (see `plain`) to metrics.jsonl, at once and whole. Raises SpaceError."""
        if not self.writes:
            return
        line = (json.dumps(plain(row), allow_nan=False) + "\n").encode()
        path = self.path / "metrics.jsonl"
        try:
            if self._metrics is None:
                self._metrics = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            size = os.fstat(self._metrics).st_size
            try:
                done = 0
                while done < len(line):
                    done += os.write(self._metrics, line[done:])
            except BaseException:
                with suppress(OSError):
                    os.ftruncate(self._metrics, size)  # no torn line stays
                raise
        except OSError as error:
            raise space_error(path, error) from error

    def sync(self) -> None:
        """Makes the rows so far survive a power loss: call it before a checkpoint that counts on them."""
        if self._metrics is not None:
            os.fsync(self._metrics)

    def cut(self, step: int, pending: bool = False) -> int:
        """Removes the rows with `step` above the given one, and torn lines; returns how many. The others stay.

        `pending`: the validation of the step is still to be made, so its row goes too.
        """
        path = self.path / "metrics.jsonl"
        if not self.writes or not path.exists():
            return 0
        lines = path.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if _row_is_kept(line, step, pending)]
        if len(kept) < len(lines):
            replace_file(path, lambda file: file.writelines(kept))
            if self._metrics is not None:
                os.close(self._metrics)
                self._metrics = None
        return len(lines) - len(kept)

    def write_json(self, name: str, data: Any) -> None:
        """Replaces the file by strict JSON (see `plain`). Raises SpaceError."""
        text = (json.dumps(plain(data), indent=2, allow_nan=False) + "\n").encode()
        self._write(name, lambda file: file.write(text))

    def write_yaml(self, name: str, data: Any) -> None:
        """Replaces the file by YAML of plain containers; raises yaml.YAMLError for other objects, SpaceError."""
        text = dump_yaml(data).encode()
        self._write(name, lambda file: file.write(text))

    def write_arrays(self, name: str, **arrays: Any) -> None:
        """Replaces an npz (with `format` = 1 in it); raises TypeError for arrays of objects, SpaceError."""
        import numpy as np

        made = {key: np.asarray(value) for key, value in ({"format": FORMAT} | arrays).items()}
        if objects := [key for key, value in made.items() if value.dtype.hasobject]:
            raise TypeError(f"{name}: {', '.join(objects)} would be pickled; give numbers or strings")
        needs = sum(value.nbytes for value in made.values())
        self._write(name, lambda file: np.savez(file, **made), needs)  # type: ignore[arg-type]

    def write_config(self, config: dict[str, Any]) -> None:
        """Replaces config.yaml by the resolved configuration (plain containers)."""
        self.write_yaml("config.yaml", config)

    def _write(self, name: str, fill: Callable[[BinaryIO], object], needs: int | None = None) -> None:
        if self.writes:
            replace_file(self.path / name, fill, needs=needs)


def _unusable(path: Path, error: OSError) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return space_error(path, error)
    if isinstance(error, FileExistsError | NotADirectoryError):
        return ConfigError(f"out={path}: is a file or below one; name a folder")
    return ConfigError(f"out={path}: not writable ({os.strerror(error.errno or 0)}); name a folder you may write to")


def _lock(path: Path, exclusive: bool) -> int:
    file = path / "run.lock"
    try:
        fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | (os.O_EXCL if exclusive else 0), 0o644)
    except FileExistsError:
        raise BusyError(_busy(path)) from None
    except OSError as error:
        raise _unusable(path, error) from error
    for attempt in range(6):  # `state_of` of another process holds a lock for an instant
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if attempt == 5:
                os.close(fd)
                raise BusyError(_busy(path)) from None
            time.sleep(0.05)
    owner = {"pid": os.getpid(), "host": socket.gethostname(), "started": _now()}
    _HELD.add(fd)
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, (json.dumps(owner) + "\n").encode(), 0)
    except OSError as error:
        raise space_error(file, error) from error
    return fd


def _busy(path: Path) -> str:
    try:
        owner = json.loads((path / "run.lock").read_text())
        return f"busy: pid {owner['pid']} on host {owner['host']} since {owner['started']} is using {path}"
    except (OSError, ValueError, KeyError, TypeError):
        return f"busy: another process is using {path}"


def _row_is_kept(line: bytes, step: int, pending: bool) -> bool:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return False
    if not line.endswith(b"\n") or not isinstance(row, dict):
        return False
    at: int = row.get("step", 0)
    return at < step or (at == step and not (pending and row.get("kind") == "val"))


def read_status(path: Path) -> dict[str, Any]:
    """The content of status.json; {} where there is none or it is damaged."""
    try:
        status = json.loads((Path(path) / "status.json").read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return status if isinstance(status, dict) else {}


def state_of(path: Path) -> str:
    """finished | failed | interrupted | running | killed: "running" on disk with a free lock means killed."""
    state = read_status(path).get("state")
    if state == "finished":
        return "finished"
    try:
        fd = os.open(Path(path) / "run.lock", os.O_RDONLY)
    except OSError:
        return state if state in ("failed", "interrupted") else "killed"
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return "running"
    finally:
        os.close(fd)
    return state if state in ("failed", "interrupted") else "killed"


def find_resumable(out: Path, config: dict[str, Any]) -> Path | None:
    """The newest run under `out` (or in a sweep's folder there) with these settings that can be continued.

    That is: unfinished, unlocked and with at least one checkpoint; a run killed before its first has nothing to offer.
    """
    found: list[tuple[str, Path]] = []
    for pattern in ("*/config.yaml", "*/*/config.yaml"):
        for file in Path(out).glob(pattern):
            folder = file.parent
            if not any((folder / "checkpoints").glob("*.ckpt")) or state_of(folder) in ("finished", "running"):
                continue
            try:
                if same_run(read_config(file), config):
                    found.append((str(read_status(folder).get("started", "")), folder))
            except CheckpointError as error:
                print(f"warning: resume=auto skips {error}", file=sys.stderr)
    return max(found)[1] if found else None
