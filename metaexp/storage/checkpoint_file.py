"""Checkpoint files that are whole at every instant, verified before they are read, and never able to run code.

A checkpoint X.ckpt has a sidecar X.ckpt.json with its SHA-256. The two cannot be renamed in one instant, so the sidecar
is renamed first and describes BOTH files that X.ckpt may be: the new one and, under `previous`, the one it replaces.
After a kill before the second rename the old file matches `previous`; after it, the new file matches: the pair is whole
at every point. A checkpoint without a sidecar is judged by the checksums inside its zip archive.
"""

import errno
import hashlib
import io
import json
import os
import pickle
import platform
import re
import warnings
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from metaexp.checks import printable
from metaexp.errors import CheckpointError
from metaexp.system.files import replace_file, space_error
from metaexp.system.output import say

FORMAT = 1


class DamagedCheckpoint(CheckpointError):
    """The bytes are not those that were written (truncated, changed, something else): an older file may serve."""


def warn(text: str) -> None:
    """One line on stderr."""
    say(f"warning: {printable(text)}")


def versions() -> dict[str, str]:
    """What a bit-identical continuation depends on. Without importing Lightning, which takes longer than torch."""
    return {
        "metaexp": _installed("metaexp"),
        "torch": str(torch.__version__),
        "lightning": _installed("lightning"),
        "python": platform.python_version(),
    }


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def sidecar_of(path: Path) -> Path:
    """The file with the checksum of `path`."""
    return path.with_name(path.name + ".json")


# ------------------------------------------------------------------------------------------------------- verification
def read_sidecar(path: Path) -> dict[str, Any]:
    """The content of the sidecar of `path`, unverified: {format, sha256, bytes, step, versions, previous}.

    {} if it is missing or damaged. Raises CheckpointError for a newer format.
    """
    try:
        data = json.loads(sidecar_of(path).read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(data, dict):
        return {}
    _check_format(path, data.get("format"))
    return data if _is_entry(data) else {}


def _is_entry(value: Any) -> TypeGuard[dict[str, Any]]:
    kinds = {"sha256": str, "bytes": int, "step": int | None, "versions": dict | None}
    return isinstance(value, dict) and all(isinstance(value.get(key), kind) for key, kind in kinds.items())


def _check_format(path: Path, written: Any) -> None:
    if isinstance(written, int) and written > FORMAT:
        raise CheckpointError(f"{path}: written by format {written}, this reads <={FORMAT}; use a newer metaexp")


def _check_kind(path: Path) -> None:
    """Raises CheckpointError, saying what `path` looks like, if it is no zip archive, as torch's checkpoints are."""
    if path.is_dir():
        raise DamagedCheckpoint(f"{path}: a folder, not a checkpoint file")
    if not path.exists():
        raise CheckpointError(f"{path}: no such checkpoint")
    with open(path, "rb") as file:
        head = file.read(512)
    if not head:
        raise DamagedCheckpoint(f"{path}: empty (0 bytes)")
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise DamagedCheckpoint(f"{path}: an HTML page, not a checkpoint (a failed download?)")
    if head.startswith(b"\x80"):
        raise DamagedCheckpoint(f"{path}: a bare pickle, which could run code: refused unread")
    if not head.startswith(b"PK\x03\x04"):
        raise DamagedCheckpoint(f"{path}: not a torch checkpoint (begins with {head[:8]!r})")


def _check_zip(path: Path, contents: bool) -> None:
    """Checks the archive's directory, and with `contents` every member's CRC-32. Raises CheckpointError."""
    try:
        with zipfile.ZipFile(path) as archive:
            packed = [info.filename for info in archive.infolist() if info.compress_type != zipfile.ZIP_STORED]
            damaged = archive.testzip() if contents and not packed else None
    except Exception as error:  # zipfile raises a dozen kinds on hostile bytes
        size = path.stat().st_size
        raise DamagedCheckpoint(f"{path}: truncated or damaged ({size} bytes; {error})") from error
    if packed:  # torch never compresses: this is another program's archive, and could unpack to any size
        raise CheckpointError(f"{path}: refused, its member {packed[0]} is compressed, which torch.save never does")
    if damaged:
        raise DamagedCheckpoint(f"{path}: damaged, the checksum of its member {damaged} is wrong")


def verify(path: Path) -> dict[str, Any]:
    """Checks that `path` holds the bytes that were written; returns their {sha256, bytes, step, versions}.

    {} for a checkpoint without a sidecar, which is judged by its own checksums. Raises DamagedCheckpoint with the
    reason, CheckpointError if there is no such file or this version cannot read it.
    """
    try:
        _check_kind(path)
        sidecar = read_sidecar(path)
        entries = [entry for entry in (sidecar, sidecar.get("previous")) if _is_entry(entry)]
        if not entries:
            _check_zip(path, contents=True)
            return {}
        digest = _digest(path)
        for entry in entries:
            if entry["sha256"] == digest:
                _check_zip(path, contents=False)
                return {key: value for key, value in entry.items() if key not in ("format", "previous")}
        size, expected = path.stat().st_size, entries[0]["bytes"]
    except OSError as error:
        kind = DamagedCheckpoint if error.errno == errno.EIO else CheckpointError
        raise kind(f"{path}: cannot be read ({os.strerror(error.errno or 0)})") from error
    if size < expected:
        raise DamagedCheckpoint(f"{path}: truncated, {size} of {expected} bytes")
    raise DamagedCheckpoint(f"{path}: damaged, its SHA-256 is not the one in {sidecar_of(path).name}")


def _read(path: Path, map_location: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    entry = verify(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = named[1] if named else "objects"
        raise CheckpointError(
            f"{path}: refused, it holds {what}; only tensors and plain containers are loaded, never code"
        ) from error
    except (RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DamagedCheckpoint(f"{path}: not a readable checkpoint ({str(error).splitlines()[0]})") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: holds a {type(data).__name__}, not a checkpoint's dict")
    if isinstance(data.get("metaexp"), dict):
        _check_format(path, data["metaexp"].get("format"))
    return data, entry


def load(path: Path, map_location: Any = "cpu", quiet: bool = False) -> dict[str, Any]:
    """A verified checkpoint: tensors and plain containers. Unless `quiet`, warns if other versions wrote it.

    Raises CheckpointError.
    """
    data, entry = _read(Path(path), map_location)
    if quiet:
        return data
    saved, now = entry.get("versions") or {}, versions()
    changed = [f"{name} {saved[name]} (now {now[name]})" for name in now if saved.get(name, now[name]) != now[name]]
    if changed:
        warn(f"{path} was written by {', '.join(changed)}: a bit-identical continuation is not promised")
    return data


# ------------------------------------------------------------------------------------------------------------ writing
def readable(state: Any) -> bool:
    """Whether a part of a checkpoint can be read back: plain values, containers and tensors, no other objects."""
    buffer = io.BytesIO()
    try:
        torch.save(state, buffer)
        torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)
    except Exception:  # whatever pickling and unpickling raise
        return False
    return True


def save(checkpoint: dict[str, Any], path: Path) -> None:
    """Writes a checkpoint and its sidecar: synced, read back and renamed, in the folder of `path` only.

    The sidecar's step is `checkpoint["metaexp"]["step"]`, or else Lightning's `global_step`. Raises SpaceError; the
    file that was there, and its sidecar, are then still good.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise space_error(path, error) from error
    own = checkpoint.get("metaexp")
    step = own.get("step") if isinstance(own, dict) else checkpoint.get("global_step")
    previous = describe(path)

    def before_rename(temporary: Path) -> None:
        try:
            _check_zip(temporary, contents=True)
        except CheckpointError as error:
            raise OSError(errno.EIO, "what was written does not read back") from error
        entry = {"format": FORMAT, "sha256": _digest(temporary), "bytes": temporary.stat().st_size, "step": step}
        text = json.dumps(entry | {"versions": versions(), "previous": previous}, indent=2) + "\n"
        replace_file(sidecar_of(path), lambda file: file.write(text.encode()))

    replace_file(path, lambda file: torch.save(checkpoint, file), before_rename, needs=_bytes(checkpoint))


def describe(path: Path) -> dict[str, Any] | None:
    """{sha256, bytes} of a good file, with {step, versions} if its sidecar has them; None if it is missing or damaged.

    It is what the sidecar must keep saying about a file that is about to be replaced.
    """
    if not path.is_file():
        return None
    try:
        return verify(path) or {"sha256": _digest(path), "bytes": path.stat().st_size}
    except CheckpointError:
        return None


def _bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        value = list(value.values())
    return sum(map(_bytes, value)) if isinstance(value, list | tuple) else 0


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove(path: Path) -> None:
    """Removes the file, then its sidecar: one that a kill between the two leaves is removed at the next start."""
    path.unlink(missing_ok=True)
    sidecar_of(path).unlink(missing_ok=True)


def set_aside(path: Path, suffix: str) -> None:
    """Renames the file, and its sidecar if there is one, so that it is no longer taken for a checkpoint."""
    aside = path.with_name(path.name + suffix)
    os.replace(path, aside)
    if sidecar_of(path).exists():
        os.replace(sidecar_of(path), sidecar_of(aside))
