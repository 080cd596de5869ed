"""A run's metrics.jsonl: one row of strict JSON per line, appended whole, cut back when the run is resumed."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

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
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return False
    if not line.endswith(b"\n") or not isinstance(row, dict):
        return False
    at: int = row.get("step", 0)
    return at < step or (at == step and not (pending and row.get("kind") == "val"))


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl that can be read, with `seconds` summed over its resumed parts."""
    try:
        lines = (Path(folder) / _NAME).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found, before, last = [], 0.0, 0.0
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if not isinstance(row, dict) or not isinstance(row.get("seconds"), int | float):
            continue
        if row["seconds"] < last:  # the clock of a resumed part that began anew
            before += last
        last = row["seconds"]
        found.append(row | {"seconds": before + last})
    return found
