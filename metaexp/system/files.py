"""Whole-file replacement: at every instant a file is the old one or the whole new one, whatever kills the process."""

import errno
import math
import os
import re
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from metaexp.errors import SpaceError

_TEMPORARY = re.compile(r"\..+\.tmp-\d+")


def is_full(error: OSError) -> bool:
    """Whether the disk, the quota or a file-size limit is exhausted, or the file system read-only."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def space_error(path: Path, error: OSError, needs: int | None = None) -> SpaceError:
    """The error, of one line, for a write that failed; `needs` is the size of the file in bytes, if known."""
    reasons = {
        errno.ENOSPC: "no space",
        errno.EDQUOT: "no space (quota)",
        errno.EFBIG: "no space (file-size limit)",
        errno.EROFS: "the file system is read-only",
    }
    reason = reasons.get(error.errno or 0, os.strerror(error.errno) if error.errno else str(error))
    numbers = [f"needs {needs / 1e6:.1f} MB"] if needs else []
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        with suppress(OSError):
            numbers.append(f"has {shutil.disk_usage(path.parent).free / 1e6:.1f} MB")
    return SpaceError(f"cannot write {path}: {reason}" + (f" ({', '.join(numbers)})" if numbers else ""))


def cause(error: BaseException, kind: type[BaseException], outside: BaseException | None) -> BaseException | None:
    """The nearest exception of `kind` in the chain: torch wraps an OSError (or a Ctrl-C) in its own errors.

    None if there is none. The search stops at `outside`, the exception that was being handled when the work began.
    """
    seen: BaseException | None = error
    while seen is not None and seen is not outside:
        if isinstance(seen, kind):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


def sync_folder(folder: Path) -> None:
    """Makes renames in `folder` survive a power loss."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def replace_file(
    path: Path,
    fill: Callable[[BinaryIO], object],
    ready: Callable[[Path], None] | None = None,
    needs: int | None = None,
) -> None:
    """Writes a file so that at every instant `path` is the old one or the whole new one.

    `fill(file)` writes into a temporary file in the SAME folder (a rename across file systems is a copy), which is
    synced, handed to `ready(temporary path)` for checks, and renamed. Raises SpaceError, with `path` untouched.
    """
    outside = sys.exc_info()[1]
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        if ready:
            ready(temporary)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if stopped := cause(error, KeyboardInterrupt, outside):
            raise stopped from None
        failed = cause(error, OSError, outside)
        if isinstance(failed, OSError):
            raise space_error(path, failed, needs) from error
        raise


def remove_temporaries(folder: Path) -> None:
    """Removes what killed writers left in `folder`. Only for the holder of the run's lock."""
    for entry in folder.iterdir() if folder.is_dir() else ():
        if _TEMPORARY.fullmatch(entry.name):
            entry.unlink(missing_ok=True)


def plain(value: Any) -> Any:
    """`value` in the types of strict JSON: tensors and arrays as lists, NaN and inf as "NaN", "Infinity", "-Infinity".

    Python's `float()` reads these three words. Raises TypeError for anything that is not data.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value)
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    raise TypeError(f"{type(value).__name__} is not JSON data: {value!r}")
