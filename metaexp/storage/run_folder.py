"""The run folder: claimed exclusively, locked, and written only by whole-file replacement or whole-line appends.

It contains run.lock (held while the run is alive), status.json, config.yaml, metrics.jsonl, checkpoints/, and at the
end test_scores.npz and result.json. Nothing here imports torch.
"""

import errno
import json
import os
import re
import secrets
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from metaexp.checks import shell
from metaexp.errors import BusyError, CheckpointError, ConfigError
from metaexp.storage.lock import STATES, RunLock, busy, read_status, state_of, timestamp
from metaexp.storage.metrics_log import MetricsLog
from metaexp.storage.saved_config import dump_yaml
from metaexp.system.files import plain, remove_temporaries, replace_file, space_error

FORMAT = 1
_BY_MEMORY = {9: " (kill -9, or out of memory)"}


class RunFolder:
    """One run's folder. Made by `claim`, `claim_named`, `reopen` or `join`, not by calling the class.

    Attributes:
        path: where it is.
        checkpoints: the folder of its checkpoints, which may not exist yet.
        metrics: its rows.
        writes: whether this process holds the lock; if not (ranks above 0), every write does nothing.
    """

    def __init__(self, path: Path, lock: RunLock | None) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.writes = lock is not None
        self.metrics = MetricsLog(path, self.writes)
        self._lock = lock
        self._status: dict[str, Any] = {}

    # -- claiming ------------------------------------------------------------------------------------------------------

    @property
    def how_to_continue(self) -> str:
        """What a stopped run prints: the setting that continues it, to be pasted into a shell."""
        return f"continue with {shell(f'resume={self.path}')}"

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
        return cls._begin(path)

    @classmethod
    def claim_named(cls, path: Path) -> "RunFolder":
        """Makes and locks exactly `path` (a sweep's job); an empty folder of that name is taken.

        Raises BusyError if another run has it, ConfigError if it cannot be made.
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
                raise BusyError(busy(path))
            what = "already finished" if state == "finished" else "already exists"
            raise BusyError(f"{path}: {what}; use a new folder or {shell(f'resume={path}')}")
        return cls._begin(path)

    @classmethod
    def reopen(cls, path: Path) -> "RunFolder":
        """Locks the folder of an existing run to continue in it, and removes what killed writers left there.

        `status.json` stays as it is until `status` is called, so that checks can come first. A dead process holds no
        lock. Raises CheckpointError if it is no run folder, BusyError if another process has it.
        """
        path = Path(path)
        if not (path / "config.yaml").is_file():
            what = "has no config.yaml, so it is no run folder" if path.is_dir() else "no such run folder"
            raise CheckpointError(f"{path}: {what}")
        folder = cls(path, _lock(path, new=False))
        remove_temporaries(path)
        remove_temporaries(folder.checkpoints)
        return folder

    @classmethod
    def record_killed(cls, path: Path, number: int) -> None:
        """Writes into status.json by which signal a run was killed; its state stays "running", without a lock.

        A run that is finished, or in use again, stays as it is. Raises ConfigError, SpaceError.
        """
        path = Path(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            with cls(path, _lock(path, new=False)) as folder:
                before = read_status(path)
                if before.get("state") != "finished":
                    folder._status = {key: before[key] for key in ("started", "step") if key in before}
                    folder._status = {"started": timestamp()} | folder._status
                    reason = f"killed by {signal.Signals(number).name}" + _BY_MEMORY.get(number, "")
                    folder.status("running", exit_code=128 + number, error=reason)
        except BusyError:
            pass
        except OSError as error:
            raise _unusable(path, error) from error

    @classmethod
    def join(cls, path: Path) -> "RunFolder":
        """The folder as ranks above 0 see it: no lock, and every write does nothing."""
        return cls(Path(path), None)

    @classmethod
    def _begin(cls, path: Path) -> "RunFolder":
        folder = cls(path, _lock(path, new=True))
        folder.status("running")
        return folder

    def close(self) -> None:
        """Releases the lock, as the end of the process does; nothing is written afterwards."""
        self.metrics.close()
        if self._lock is not None:
            self._lock.release()
        self._lock = None
        self.writes = False

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- status.json ---------------------------------------------------------------------------------------------------

    @property
    def begun(self) -> bool:
        """Whether this process has written the status."""
        return bool(self._status)

    def status(self, state: str, **extra: Any) -> None:
        """Replaces status.json. `extra` (step, exit_code, error ...) is kept until overwritten; `started` for ever.

        Raises ValueError for a word that is not in STATES, SpaceError.
        """
        if state not in STATES:
            raise ValueError(f"state={state}: one of {', '.join(STATES)}")
        if not self.writes:
            return
        if not self._status:
            self._status = {"started": read_status(self.path).get("started", timestamp())}
        self._status |= extra
        head = {"format": FORMAT, "state": state, "pid": os.getpid(), "host": socket.gethostname()}
        self.write_json("status.json", head | {"updated": timestamp()} | self._status)

    # -- whole files ---------------------------------------------------------------------------------------------------

    def write_json(self, name: str, data: Any) -> None:
        """Replaces the file by strict JSON (see `plain`). Raises SpaceError."""
        text = (json.dumps(plain(data), indent=2, allow_nan=False) + "\n").encode()
        self._write(name, lambda file: file.write(text))

    def write_arrays(self, name: str, **arrays: Any) -> None:
        """Replaces an npz (with `format` = 1 in it); raises TypeError for arrays of objects, SpaceError."""
        import numpy as np

        made = {key: np.asarray(value) for key, value in ({"format": FORMAT} | arrays).items()}
        if objects := [key for key, value in made.items() if value.dtype.hasobject]:
            raise TypeError(f"{name}: {', '.join(objects)} would be pickled; give numbers or strings")
        needs = sum(value.nbytes for value in made.values())
        self._write(name, lambda file: np.savez(file, **made), needs)  # type: ignore[arg-type]

    def write(self, name: str, fill: Callable[[BinaryIO], object]) -> None:
        """Replaces the file by what `fill(file)` writes. Raises SpaceError."""
        self._write(name, fill)

    def write_text(self, name: str, text: str) -> None:
        """Replaces the file by text in UTF-8. Raises SpaceError."""
        self._write(name, lambda file: file.write(text.encode()))

    def write_config(self, config: dict[str, Any]) -> None:
        """Replaces config.yaml by the resolved configuration.

        Raises yaml.YAMLError for anything but plain containers, SpaceError.
        """
        text = dump_yaml(config).encode()
        self._write("config.yaml", lambda file: file.write(text))

    def _write(self, name: str, fill: Callable[[BinaryIO], object], needs: int | None = None) -> None:
        if self.writes:
            replace_file(self.path / name, fill, needs=needs)


def _lock(path: Path, new: bool) -> RunLock:
    try:
        return RunLock(path, new)
    except OSError as error:
        raise _unusable(path, error) from error


def _unusable(path: Path, error: OSError) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return space_error(path, error)
    if isinstance(error, FileExistsError | NotADirectoryError):
        return ConfigError(f"out={path}: is a file or below one; name a folder")
    return ConfigError(f"out={path}: not writable ({os.strerror(error.errno or 0)}); name a folder you may write to")
