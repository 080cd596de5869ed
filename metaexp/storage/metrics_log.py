"""A run's metrics.jsonl: one row of strict JSON per line, appended whole, cut back when the run is resumed."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from metaexp.errors import CheckpointError
from metaexp.storage.saved_result import is_number
from metaexp.system.files import plain, replace_file, space_error

_NAME = "metrics.jsonl"


class MetricsLog:
    """The rows of the run in `folder`; with `writes=False` (ranks above 0) every method does nothing."""

    def __init__(self, folder: Path, writes: bool = True) -> None:
        self.path, self.writes = Path(folder) / _NAME, writes
        self._fd: int | None = None

    def append(self, row: dict[str, Any]) -> None:
        """Appends one line of strict JSON (see `plain`), at once and whole. Raises SpaceError."""
        if not self.writes:
            return
        line = (json.dumps(plain(row), allow_nan=False) + "\n").encode()
        try:
            if self._fd is None:
                self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            _write_whole(self._fd, line)
        except OSError as error:
            raise space_error(self.path, error) from error

    def sync(self) -> None:
        """Makes the rows so far survive a power loss: call it before a checkpoint that counts on them."""
        if self._fd is not None:
            os.fsync(self._fd)

    def cut(self, step: int, pending: bool = False) -> int:
        """Removes the rows with a `step` above the given one, and torn lines; returns how many. The others stay.

        `pending`: the validation of that step has still to be made, so its row is removed too.
        """
        if not self.writes or not self.path.exists():
            return 0
        lines = self.path.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if _row_is_kept(line, step, pending)]
        if len(kept) < len(lines):
            replace_file(self.path, lambda file: file.writelines(kept))
            self._close_file()  # it is the replaced one
        return len(lines) - len(kept)

    def close(self) -> None:
        """Closes the file; nothing is written afterwards."""
        self._close_file()
        self.writes = False

    def _close_file(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _write_whole(fd: int, line: bytes) -> None:
    size = os.fstat(fd).st_size
    try:
        done = 0
        while done < len(line):
            done += os.write(fd, line[done:])
    except BaseException:
        with suppress(OSError):
            os.ftruncate(fd, size)  # no torn line stays
        raise


def _row_is_kept(line: bytes, step: int, pending: bool) -> bool:
    row = _row(line)
    if not line.endswith(b"\n") or row is None:
        return False
    at: int = row.get("step", 0)
    return at < step or (at == step and not (pending and row.get("kind") == "val"))


def check_rows(folder: Path, step: int) -> None:
    """Raises CheckpointError for a damaged row among those that a continuation from `step` keeps.

    A torn last line and bytes that were never written, as a killed process or machine leaves them, are cut off later
    without a word, and so is everything after the first row of a later step.
    """
    file = Path(folder) / _NAME
    try:
        lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({os.strerror(error.errno or 0)})") from error
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n") or not line.strip(b"\0\r\n"):
            continue
        row = _row(line)
        if row is None or not is_number(row.get("seconds", 0)):
            raise CheckpointError(f"{file}: line {number} is damaged; remove it to go on without it")
        if row.get("step", 0) > step:
            return


def _row(line: bytes) -> dict[str, Any] | None:
    """A row whose step is a number of steps, None for anything else."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or type(row.get("step", 0)) is not int or not isinstance(row.get("kind", ""), str):
        return None
    return row


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl that can be read, with `seconds` summed over its resumed parts."""
    try:
        lines = (Path(folder) / _NAME).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found, before, last = [], 0.0, 0.0
    for line in lines:
        row = _row(line.encode())
        if row is None or not is_number(row.get("seconds")):
            continue
        if row["seconds"] < last:  # the clock of a resumed part that began anew
            before += last
        last = row["seconds"]
        found.append(row | {"seconds": before + last})
    return found
