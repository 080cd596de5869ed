"""Runs that are there already: unfinished ones to go on with, finished ones that a sweep need not repeat."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from metaexp.checks import printable
from metaexp.errors import CheckpointError
from metaexp.storage.lock import read_status, state_of
from metaexp.storage.saved_config import config_sha256, read_config, same_run
from metaexp.system.output import say


def find_resumable(out: Path, config: dict[str, Any]) -> Path | None:
    """The newest run under `out` (or in a sweep's folder there) with these settings that can be continued.

    That is, one that is unfinished, unlocked and has at least one checkpoint.
    """
    found: list[tuple[str, Path]] = []
    for pattern in ("*/config.yaml", "*/*/config.yaml"):
        for file in Path(out).glob(pattern):
            folder = _without_links(file.parent, Path(out))
            if not any((folder / "checkpoints").glob("*.ckpt")) or state_of(folder) in ("finished", "running"):
                continue
            try:
                if same_run(read_config(file), config):
                    found.append((str(read_status(folder).get("started", "")), folder))
            except CheckpointError as error:
                say(printable(f"warning: resume=auto skips {error}"))
    return max(found)[1] if found else None


def _without_links(folder: Path, out: Path) -> Path:
    """The run's own folder where a sweep's folder holds a link to it, written like `out`: relative if that is."""
    real = folder.resolve()
    return out / real.relative_to(out.resolve()) if real.is_relative_to(out.resolve()) else real


class FinishedRuns:
    """The finished runs under `out`, and in sweeps' folders there; read once for all jobs of a sweep."""

    def __init__(self, out: Path):
        self._found: dict[str, list[tuple[str, Path, dict[str, Any]]]] = {}
        for folder in {
            file.parent.resolve() for pattern in ("*", "*/*") for file in out.glob(f"{pattern}/result.json")
        }:
            with suppress(CheckpointError, OSError, ValueError, KeyError, TypeError):
                if state_of(folder) == "finished" and json.loads((folder / "result.json").read_text())["test"]:
                    saved = read_config(folder)
                    entry = (str(read_status(folder).get("started", "")), folder, saved)
                    self._found.setdefault(config_sha256(saved), []).append(entry)

    def like(self, config: dict[str, Any]) -> Path | None:
        """The newest one with these settings; None if there is none."""
        alike = [
            (began, str(f)) for began, f, saved in self._found.get(config_sha256(config), []) if same_run(saved, config)
        ]
        return Path(max(alike)[1]) if alike else None


def link_into_sweep(job: Path, run_folder: Path) -> None:
    """Links the job's place in the sweep's folder to an older run: a finished one, or one that the job continued, whose
    state counts in the sweep.

    Call it only after that run has ended: earlier, its old state would be mistaken for the state of this sweep's job.
    """
    with suppress(OSError):
        job.symlink_to(os.path.relpath(run_folder.resolve(), job.parent.resolve()), target_is_directory=True)
