"""Arrays that take long to make, kept on disk under what they are made from.

An entry is a folder named by the SHA-256 of its key. Rows are made in blocks; each block is on disk before the next
begins, so a killed process loses one block. Of several processes that need one entry, one makes it and the others wait.
Every block is checked by its SHA-256 when the entry is opened; a damaged one is made again.
"""

import fcntl
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from metaexp.errors import ConfigError
from metaexp.system.files import is_full, replace_file, space_error

FORMAT = 1
log = logging.getLogger(__name__)


_chosen: str | None = None


def choose(setting: str | None) -> None:
    """Sets what the setting `cache` of this process is: a folder, `off`, or None for the default."""
    global _chosen
    _chosen = setting


def default_cache() -> "Cache":
    """The cache of the folder that was chosen; by default $METAEXP_CACHE, else ~/.cache/metaexp."""
    setting = _chosen or os.environ.get("METAEXP_CACHE")
    if setting == "off":
        return Cache(None)
    return Cache(Path(setting or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "metaexp")).expanduser())


class Cache:
    """A folder of entries; without a folder every array is made in memory, each time anew.

    Raises:
        ConfigError: the folder cannot be made or written.
    """

    def __init__(self, folder: Path | None):
        self.folder = folder
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(
                    f"cache={folder}: {os.strerror(error.errno or 0)}; name another folder, or cache=off"
                ) from error
            if not os.access(folder, os.W_OK):
                raise ConfigError(f"cache={folder}: cannot be written; name another folder, or cache=off")

    def array(
        self,
        key: Mapping[str, Any],
        rows: int,
        make: Callable[[int, int], np.ndarray],
        what: str,
        block: int = 1024,
    ) -> np.ndarray:
        """The array [rows, ...] of this key: from disk, memory-mapped (changes stay in memory), or made and kept.

        Args:
            key: everything the array depends on, as JSON data.
            make: (first, last) -> the rows first ... last - 1, in one type and shape of row for all blocks.
            what: what is made, for messages: "encoding 35,000 sentences".
            block: rows made at once.

        Raises:
            SpaceError: the disk is full; the blocks that are there are kept.
        """
        if self.folder is None:
            progress = Progress(what, rows)
            parts = []
            for first, last in _blocks(rows, block):
                parts.append(make(first, last))
                progress.at(last)
            return np.concatenate(parts)
        text = json.dumps({"format": FORMAT, **key}, sort_keys=True, ensure_ascii=False)
        entry = _Entry(self.folder / hashlib.sha256(text.encode()).hexdigest()[:40], text, rows, block)
        with entry.locked(what):
            known = entry.known()
            if len(known) < entry.count:
                entry.fill(known, make, what)
            return entry.open()


def _blocks(rows: int, block: int) -> Iterator[tuple[int, int]]:
    return ((first, min(first + block, rows)) for first in range(0, rows, block))


class _Entry:
    """One array on disk: `array.npy`, `blocks.json` (its key, and the SHA-256 of each block that is there)."""

    def __init__(self, folder: Path, key: str, rows: int, block: int):
        self.folder, self.key, self.rows, self.block = folder, key, rows, block
        self.count = -(-rows // block)
        self.data, self.record = folder / "array.npy", folder / "blocks.json"

    @contextmanager
    def locked(self, what: str) -> Iterator[None]:
        """Alone in the entry; waits for a process that is making it."""
        try:
            self.folder.mkdir(exist_ok=True)
            fd = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise space_error(self.folder, error) from error
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log.info("%s: another process is doing this; waiting for it", what)
                fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def known(self) -> list[str]:
        """The SHA-256 of the leading blocks that are there and whole; nothing if the record does not fit."""
        try:
            record = json.loads(self.record.read_text(encoding="utf-8"))
            if record["key"] != self.key or (record["rows"], record["block"]) != (self.rows, self.block):
                return []
            array, sums = np.load(self.data, mmap_mode="r", allow_pickle=False), record["sha256"]
            if len(array) != self.rows:
                raise ValueError(f"{len(array)} rows")
        except FileNotFoundError:
            return []
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            log.info("%s: damaged (%s); making it again", self.folder, error)
            return []
        whole = []
        for (first, last), wanted in zip(_blocks(self.rows, self.block), sums, strict=False):
            if _sum(array[first:last]) != wanted:
                log.info("%s: rows %d to %d are damaged; making them again", self.folder, first, last - 1)
                break
            whole.append(wanted)
        return whole

    def fill(self, known: list[str], make: Callable[[int, int], np.ndarray], what: str) -> None:
        """Makes the blocks after the known ones, each on disk and recorded before the next."""
        progress = Progress(what, self.rows, len(known) * self.block)
        blocks: Sequence[tuple[int, int]] = list(_blocks(self.rows, self.block))[len(known) :]
        for first, last in blocks:
            rows = np.ascontiguousarray(make(first, last))
            try:
                if not known:
                    self._begin(rows)
                with open(self.data, "r+b") as file:
                    file.seek(self._offset() + first * (rows.nbytes // len(rows)))
                    file.write(rows.data.cast("B"))
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:
                if is_full(error):
                    raise space_error(self.data, error, self.rows * (rows.nbytes // len(rows))) from error
                raise
            known.append(_sum(rows))
            record = {"key": self.key, "rows": self.rows, "block": self.block, "sha256": known}
            replace_file(self.record, partial(_write, text=json.dumps(record)))
            progress.at(last)

    def _begin(self, rows: np.ndarray) -> None:
        """An empty file of the whole size, so that a lack of space shows before hours of work."""
        with suppress(FileNotFoundError):
            self.record.unlink()
        with open(self.data, "wb") as file:
            header = {"descr": rows.dtype.str, "fortran_order": False, "shape": (self.rows, *rows.shape[1:])}
            np.lib.format.write_array_header_1_0(file, header)
            size = file.tell() + self.rows * (rows.nbytes // len(rows))
            if hasattr(os, "posix_fallocate"):
                file.flush()
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)

    def _offset(self) -> int:
        with open(self.data, "rb") as file:
            np.lib.format.read_magic(file)
            np.lib.format.read_array_header_1_0(file)
            return file.tell()

    def open(self) -> np.ndarray:
        """The whole array, memory-mapped."""
        # Copy on write: PyTorch warns of arrays that cannot be written.
        array: np.ndarray = np.load(self.data, mmap_mode="c", allow_pickle=False)
        return array


def _write(file: BinaryIO, text: str) -> None:
    file.write(text.encode())


def _sum(rows: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(rows).data.cast("B")).hexdigest()


class Progress:
    """Lines such as "encoding 35,000 sentences: 12,000 (34 %), 0:20 left", at most one per `every` seconds."""

    def __init__(
        self,
        what: str,
        total: int,
        start: int = 0,
        every: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.what, self.total, self.start, self.every, self._clock = what, total, start, every, clock
        self._begun = self._shown = clock()

    def at(self, done: int) -> None:
        """Call after each block with the number of rows done."""
        now = self._clock()
        if now - self._shown < self.every and not (done == self.total and self._shown > self._begun):
            return
        self._shown = now
        left = (now - self._begun) / max(done - self.start, 1) * (self.total - done)
        minutes, seconds = divmod(round(left), 60)
        share = 100 * done / self.total
        log.info("%s: %s (%.0f %%), %d:%02d left", self.what, f"{done:,}", share, minutes, seconds)
