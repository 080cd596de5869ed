"""A run's checkpoint files: the newest two steps and the best on validation, in one folder."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from metaexp.errors import CheckpointError
from metaexp.storage import checkpoint_file
from metaexp.storage.checkpoint_file import DamagedCheckpoint, describe, load, read_sidecar, warn
from metaexp.system.files import remove_temporaries

_STEP = re.compile(r"step=(\d+)\.ckpt")


class Continuation(NamedTuple):
    """The run that is continued."""

    folder: Path
    checkpoint: Path | None  # None: the newest


class Checkpoints:
    """A run's checkpoints: `step=000001000.ckpt` (the newest two) and `best.ckpt`, in one folder.

    Args:
        folder: where they are; it need not exist yet.
        writes: with False (ranks above 0, readers of a run that may be alive) nothing on disk is changed. With True the
            caller holds the run's lock, and what killed writers left is removed.
        keep: how many of the newest steps stay.
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
        """The file of the checkpoint after `step` outer steps."""
        return self.folder / f"step={step:09d}.ckpt"

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, newest first."""
        found = self.folder.iterdir() if self.folder.is_dir() else ()
        return sorted((int(match[1]) for file in found if (match := _STEP.fullmatch(file.name))), reverse=True)

    def save(self, write: Callable[[Path], object], step: int) -> Path:
        """Lets `write(path)` write the file of that step, then removes all but the newest; returns the path.

        `write` must write by `checkpoint_file.save`, as Lightning does with AtomicCheckpointIO. All ranks call this,
        since `write` may wait for all of them. Raises SpaceError.
        """
        write(self.path(step))
        if self.writes:
            _check_written(self.path(step), step)
            for old in self.steps()[self.keep :]:
                checkpoint_file.remove(self.path(old))
        return self.path(step)

    def save_best(self, write: Callable[[Path], object], step: int) -> Path:
        """The same for best.ckpt. Call it BEFORE `save` of the same step.

        So no checkpoint ever knows of a best that is not on disk. After a kill between the two, the run continues from
        an older step and, tasks being a function of the step, writes the same best again.
        """
        write(self._best)
        if self.writes:
            _check_written(self._best, step)
        return self._best

    def latest(self, map_location: Any = "cpu", quiet: bool = False) -> tuple[dict[str, Any], Path] | None:
        """(checkpoint, its path) of the newest whole one, best.ckpt being the last resort; None if there is none.

        Damaged ones are reported on stderr (unless `quiet`) and set aside as *.corrupt. Raises CheckpointError if all
        are damaged (nothing is touched then), if one is refused as unsafe, or if a newer format wrote it.
        """
        candidates = [self.path(step) for step in self.steps()] + [self._best] * self._best.exists()
        reasons: list[tuple[Path, DamagedCheckpoint]] = []
        for path in candidates:
            try:
                data = load(path, map_location, quiet)
            except DamagedCheckpoint as error:
                reasons.append((path, error))
                continue
            for damaged, reason in reasons:
                self._set_aside(damaged, ".corrupt")
                if not quiet:
                    warn(f"{reason}; set aside as {damaged.name}.corrupt, {path.name} is used")
            return data, path
        if not reasons:
            return None
        raise CheckpointError(
            f"{self.folder}: none of {len(reasons)} checkpoints usable; start over with resume=false ({reasons[0][1]})"
        )

    def best(self, map_location: Any = "cpu") -> tuple[dict[str, Any], Path] | None:
        """(checkpoint, path) of best.ckpt, None if there is none. Raises CheckpointError if it is damaged."""
        return (load(self._best, map_location), self._best) if self._best.exists() else None

    def cut(self, step: int) -> None:
        """Sets the checkpoints after `step` aside as *.superseded: on request the run continues from an older one."""
        later = [self.path(other) for other in self.steps() if other > step]
        best = describe(self._best)
        if best and (best.get("step") or 0) > step:
            later.append(self._best)
        for path in later:
            self._set_aside(path, ".superseded")

    def _set_aside(self, path: Path, suffix: str) -> None:
        if self.writes:
            checkpoint_file.set_aside(path, suffix)


def _check_written(path: Path, step: int) -> None:
    written = read_sidecar(path).get("step", step)
    if not path.is_file() or written != step:
        raise RuntimeError(f"{path} should hold step {step}, holds {written if path.is_file() else 'nothing'}")
