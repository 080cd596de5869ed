"""Checkpoints that are whole at every instant, verified before they are read, and never able to run code.

A checkpoint X.ckpt has a sidecar X.ckpt.json with its SHA-256. The two cannot be renamed in one instant, so the sidecar
goes first and names BOTH files that may stand at X.ckpt: the new one and, under `previous`, the one it replaces.
Killed before the rename, the old file matches `previous`; after it, the new file matches: a whole pair at every point.
A checkpoint that came without its sidecar is judged by the check sums inside its zip archive.
"""

import errno
import hashlib
import json
import os
import pickle
import platform
import re
import sys
import warnings
import zipfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeGuard

import lightning
import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from torch import Tensor

from metaexp.errors import CheckpointError
from metaexp.system.files import remove_temporaries, replace_file, space_error

FORMAT = 1
_STEP = re.compile(r"step=(\d+)\.ckpt")


class DamagedCheckpoint(CheckpointError):
    """The bytes are not those that were written (truncated, changed, something else): an older file may serve."""


def versions() -> dict[str, str]:
    """What a bit-identical continuation depends on."""
    try:
        own = version("metaexp")
    except PackageNotFoundError:
        own = "unknown"
    return {
        "metaexp": own,
        "torch": str(torch.__version__),
        "lightning": str(lightning.__version__),
        "python": platform.python_version(),
    }


def sidecar_of(path: Path) -> Path:
    """The file with the check sum of `path`."""
    return path.with_name(path.name + ".json")


# ------------------------------------------------------------------------------------------------------- verification
def _sidecar(path: Path) -> dict[str, Any]:
    """The sidecar's content; {} where there is none or it is damaged. Raises CheckpointError for a newer format."""
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
    """Says what `path` looks like if that is not a zip archive, which torch's checkpoints are."""
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
    """The archive's directory, and with `contents` every member's CRC-32."""
    try:
        with zipfile.ZipFile(path) as archive:
            packed = [info.filename for info in archive.infolist() if info.compress_type != zipfile.ZIP_STORED]
            damaged = archive.testzip() if contents and not packed else None
    except Exception as error:  # zipfile raises a dozen kinds on hostile bytes
        size = path.stat().st_size
        raise DamagedCheckpoint(f"{path}: truncated or damaged ({size} bytes; {error})") from error
    if packed:  # torch never packs: this is another program's archive, and could unpack to any size
        raise CheckpointError(f"{path}: refused, its member {packed[0]} is compressed; torch.save writes none such")
    if damaged:
        raise DamagedCheckpoint(f"{path}: damaged, its member {damaged} has another check sum")


def verify(path: Path) -> dict[str, Any]:
    """Proves that `path` holds the bytes that were written; returns their {sha256, bytes, step, versions}.

    {} for a checkpoint without a sidecar, which is judged by its own check sums. Raises DamagedCheckpoint with the
    reason, CheckpointError where there is no such file or it cannot be for this version.
    """
    try:
        _check_kind(path)
        sidecar = _sidecar(path)
        entries = [entry for entry in (sidecar, sidecar.get("previous")) if _is_entry(entry)]
        if not entries:
            _check_zip(path, contents=True)
            return {}
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
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


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)


def load(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """A verified checkpoint; warns on stderr where other versions wrote it. Raises CheckpointError."""
    data, entry = _read(Path(path), map_location)
    saved, now = entry.get("versions") or {}, versions()
    changed = [f"{name} {saved[name]} (now {now[name]})" for name in now if saved.get(name, now[name]) != now[name]]
    if changed:
        _warn(f"{path} was written by {', '.join(changed)}: a bit-identical continuation is not promised")
    return data


# ------------------------------------------------------------------------------------------------------------ writing
def _bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        value = list(value.values())
    return sum(map(_bytes, value)) if isinstance(value, list | tuple) else 0


def _entry_of_present(path: Path) -> dict[str, Any] | None:
    """What the sidecar must go on saying about the file that is about to be replaced; None if it is no good."""
    if not path.is_file():
        return None
    try:
        if entry := verify(path):
            return entry
        with open(path, "rb") as file:
            return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "bytes": path.stat().st_size}
    except CheckpointError:
        return None


class AtomicCheckpointIO(CheckpointIO):
    """Lightning's reading and writing of checkpoint files: `Trainer(plugins=[AtomicCheckpointIO()])`."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes the checkpoint and its sidecar: synced, read back and renamed, in the folder of `path` only.

        Raises SpaceError with the file that stood there, and its sidecar, still good.
        """
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise space_error(path, error) from error
        own = checkpoint.get("metaexp")
        step = own.get("step") if isinstance(own, dict) else checkpoint.get("global_step")
        previous = _entry_of_present(path)

        def before_rename(temporary: Path) -> None:
            try:
                _check_zip(temporary, contents=True)
            except CheckpointError as error:
                raise OSError(errno.EIO, "what was written does not read back") from error
            with open(temporary, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            entry = {"format": FORMAT, "sha256": digest, "bytes": temporary.stat().st_size, "step": step}
            text = json.dumps(entry | {"versions": versions(), "previous": previous}, indent=2) + "\n"
            replace_file(sidecar_of(path), lambda file: file.write(text.encode()))

        replace_file(path, lambda file: torch.save(checkpoint, file), before_rename, needs=_bytes(checkpoint))

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """The verified checkpoint. `weights_only` is True whatever is asked. Raises CheckpointError."""
        return _read(Path(path), map_location)[0]

    def remove_checkpoint(self, path: str | Path) -> None:
        """Removes the file, then its sidecar: killed between, what stays is swept up at the next start."""
        Path(path).unlink(missing_ok=True)
        sidecar_of(Path(path)).unlink(missing_ok=True)


class Checkpoints:
    """A run's checkpoints: `step=000001000.ckpt` (the newest two) and `best.ckpt`, in one folder.

    `writes=False` (ranks above 0, readers of a run that may be alive) changes nothing on disk by itself.
    With `writes=True` the caller holds the run's lock: what killed writers left is removed.
    """

    def __init__(self, folder: Path, writes: bool = True, keep: int = 2) -> None:
        self.folder, self.writes, self.keep = Path(folder), writes, keep
        self._best = self.folder / "best.ckpt"
        if writes:
            remove_temporaries(self.folder)
            for sidecar in self.folder.glob("*.ckpt.json"):
                if not sidecar.with_suffix("").exists():
                    sidecar.unlink()

    def path(self, step: int) -> Path:
        """Where the checkpoint after `step` outer steps stands."""
        return self.folder / f"step={step:09d}.ckpt"

    def steps(self) -> list[int]:
        """The steps of the checkpoints that are there, newest first."""
        found = self.folder.iterdir() if self.folder.is_dir() else ()
        return sorted((int(match[1]) for file in found if (match := _STEP.fullmatch(file.name))), reverse=True)

    def save(self, write: Callable[[Path], object], step: int) -> Path:
        """`write(path)` must write through AtomicCheckpointIO; then all but the newest two are removed.

        All ranks call it, since `write` may wait for all of them. Raises SpaceError.
        """
        write(self.path(step))
        if self.writes:
            _check_written(self.path(step), step)
            for old in self.steps()[self.keep :]:
                AtomicCheckpointIO().remove_checkpoint(self.path(old))
        return self.path(step)

    def save_best(self, write: Callable[[Path], object], step: int) -> Path:
        """Likewise into best.ckpt. Call it BEFORE `save` of the same step.

        So no checkpoint ever knows of a best that is not on disk. Killed between the two, the run goes on from an
        older step and, tasks being a function of the step, writes the same best again.
        """
        write(self._best)
        if self.writes:
            _check_written(self._best, step)
        return self._best

    def latest(self, map_location: Any = "cpu") -> tuple[dict[str, Any], Path] | None:
        """(checkpoint, its path) of the newest whole one, best.ckpt being the last resort; None where there is none.

        Damaged ones are named on stderr and set aside as *.corrupt. Raises CheckpointError if all are damaged
        (nothing is touched then), if one is refused as unsafe, or if a newer format wrote it.
        """
        candidates = [self.path(step) for step in self.steps()] + [self._best] * self._best.exists()
        reasons: list[tuple[Path, DamagedCheckpoint]] = []
        for path in candidates:
            try:
                data = load(path, map_location)
            except DamagedCheckpoint as error:
                reasons.append((path, error))
                continue
            for damaged, reason in reasons:
                self._set_aside(damaged, ".corrupt")
                _warn(f"{reason}; set aside as {damaged.name}.corrupt, {path.name} is used")
            return data, path
        if not reasons:
            return None
        raise CheckpointError(
            f"{self.folder}: none of {len(reasons)} checkpoints usable; start over with resume=false ({reasons[0][1]})"
        )

    def best(self, map_location: Any = "cpu") -> tuple[dict[str, Any], Path] | None:
        """(checkpoint, path) of best.ckpt, None where there is none. Raises CheckpointError if it is damaged."""
        return (load(self._best, map_location), self._best) if self._best.exists() else None

    def cut(self, step: int) -> None:
        """Sets the checkpoints after `step` aside as *.superseded: the run goes on from an older one, by request."""
        later = [self.path(other) for other in self.steps() if other > step]
        best = _entry_of_present(self._best)
        if best and (best.get("step") or 0) > step:
            later.append(self._best)
        for path in later:
            self._set_aside(path, ".superseded")

    def _set_aside(self, path: Path, suffix: str) -> None:
        if not self.writes:
            return
        aside = path.with_name(path.name + suffix)
        os.replace(path, aside)
        if sidecar_of(path).exists():
            os.replace(sidecar_of(path), sidecar_of(aside))


def _check_written(path: Path, step: int) -> None:
    written = _sidecar(path).get("step", step)
    if not path.is_file() or written != step:
        raise RuntimeError(f"{path} should hold step {step}, holds {written if path.is_file() else 'nothing'}")
