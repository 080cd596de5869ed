"""Where data lie, and fetching a file from its authors: whole and checked, or not at all."""

import errno
import hashlib
import logging
import os
import urllib.request
from pathlib import Path

from metaexp.errors import DataError, SpaceError

UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)
log = logging.getLogger(__name__)


def fetch(url: str, path: Path, timeout: float = 60.0, most: int = 1 << 26) -> None:
    """Download one file in blocks of 1 MB; OSError if the transfer ends early or exceeds `most` bytes."""
    with urllib.request.urlopen(url, timeout=timeout) as response, path.open("wb") as file:
        total = int(response.headers.get("Content-Length") or 0)
        while block := response.read(1 << 20):
            file.write(block)
            log.info("%s: %.0f of %.0f MB", url, file.tell() / 1e6, total / 1e6)
            if file.tell() > most:
                raise OSError(f"{url} is larger than {most} bytes")
        if total and file.tell() != total:
            raise OSError(f"{url} gave {file.tell()} of {total} bytes")


def sum_of(path: Path, kind: str) -> str:
    """The checksum (hex) of a file; `kind` is sha256 or md5."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def fetch_checked(url: str, target: Path, kind: str, wanted: str, most: int = 1 << 26, timeout: float = 60.0) -> None:
    """Download a file to `target`, which appears only whole and with the checksum `wanted` (sha256 or md5).

    Raises:
        DataError: no network, a broken transfer, another checksum; the message says what to fetch by hand and whereto.
        SpaceError: the folder cannot be written.
    """
    partial = target.with_name(f"{target.name}.part-{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        fetch(url, partial, timeout, most)
        if (found := sum_of(partial, kind)) != wanted:
            raise OSError(f"its {kind} is {found}, expected {wanted}")
        partial.replace(target)
    except OSError as error:
        if error.errno in UNWRITABLE:
            raise SpaceError(f"{target}: cannot be written ({error.strerror})") from error
        raise DataError(f"{url}: download failed ({error}); put that file at {target} by hand") from error
    finally:
        partial.unlink(missing_ok=True)


def find_root(root: str | None, name: str) -> Path:
    """The given folder, else $METAEXP_DATA/NAME if that exists, else data/NAME."""
    if root is not None:
        return Path(root).expanduser().absolute()
    given = os.environ.get("METAEXP_DATA")
    return Path(given, name) if given and Path(given, name).is_dir() else Path("data", name).absolute()
