"""A folder of links to runs as TensorBoard is to show them: one row for each run, named by what it is.

TensorBoard names a row by the path of its event files, and a run's path begins with the time at which it started. The
view is a folder elsewhere: in it every run has a folder whose name begins with the method, with links to the run's
event files and copies of its points. Its results are written there once more, for the table HParams (`board_table`),
and the baselines of each task as rows of their own, so that they are lines in the charts of validation and test.
Nothing is written into the runs.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metaexp.commands.board_table import Baselines, Table
from metaexp.errors import CheckpointError
from metaexp.loggers.run_names import name_of
from metaexp.storage.saved_config import read_config

EVENTS = "events.out.tfevents"
POINTS = "projector_config.pbtxt"


@dataclass
class _Row:
    here: Path  # its folder in the view
    config: dict[str, Any] | None  # settings of the run; None: it is no run
    written: bool = False  # whether its result is in the table


class BoardView:
    """The view of a folder of runs.

    Args:
        folder: a run's folder, or a folder of runs and sweeps.

    Attributes:
        path: the view's folder, in the system's folder for temporary files.
    """

    def __init__(self, folder: Path):
        self.folder = folder.resolve()
        self.path = Path(tempfile.mkdtemp(prefix="metaexp_board_"))
        self._rows: dict[Path, _Row] = {}  # by the folder with the event files
        self._table, self._baselines = Table(), Baselines(self.path)

    @property
    def metrics(self) -> list[str]:
        """The test metrics that all runs of a task have, the first ones first."""
        return self._table.metrics

    def update(self) -> None:
        """Adds what is new: runs, event files, results; removes what is gone."""
        for place in [place for place in self._rows if not place.is_dir()]:
            shutil.rmtree(self._rows.pop(place).here, ignore_errors=True)
        for place in _with_events(self.folder):
            if place not in self._rows:
                config = _settings(place)
                self._rows[place] = _Row(self._named(name_of(place, config, self.folder)), config)
            _link(place, self._rows[place].here)
        runs = {place: row for place, row in self._rows.items() if row.config is not None}
        finished = {place: found for place, row in runs.items() if not row.written and (found := _result(place))}
        self._table.choose([row.config or {} for row in runs.values()], list(finished.values()))
        for place, result in finished.items():
            row = runs[place]
            row.written = True
            self._table.write(row.here, row.config or {}, result)
            self._baselines.write(row.config or {}, result)

    def remove(self) -> None:
        """Removes the view; the runs stay."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _named(self, name: str) -> Path:
        path, number = self.path / name, 1
        while True:
            try:
                path.mkdir()
                return path
            except FileExistsError:
                number += 1
                path = self.path / f"{name} ({number})"


def _with_events(top: Path) -> Iterator[Path]:
    """The folders at or below this one that have event files, resolved and each once; not a run's own table `test`."""
    seen: set[str] = set()
    for here, folders, files in os.walk(top, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:
            folders[:] = []
            continue
        seen.add(real)
        is_run = "config.yaml" in files
        hidden = {"checkpoints", "figures", "projector", *(["test"] if is_run else [])}
        folders[:] = sorted(name for name in folders if name not in hidden and not name.startswith("."))
        if any(name.startswith(EVENTS) for name in files):
            yield Path(real)


def _settings(place: Path) -> dict[str, Any] | None:
    try:
        config = read_config(place) if (place / "config.yaml").is_file() else None
    except CheckpointError:
        return None
    return config if config and isinstance(config.get("choices"), dict) else None


def _result(place: Path) -> dict[str, Any] | None:
    """The result of a run that has finished; of an evaluation none, since it is no run of its own."""
    if place.parent.name == "evaluations":
        return None
    try:
        result = json.loads((place / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return result if isinstance(result, dict) and isinstance(result.get("test"), dict) else None


def _link(place: Path, here: Path) -> None:
    """Links to the event files of a folder that are not there yet, and copies of its points where these are newer:
    TensorBoard reads no points through links."""
    for name in [path.name for path in place.iterdir() if path.name.startswith(EVENTS)]:
        if not os.path.lexists(here / name):
            (here / name).symlink_to(place / name)
    points = place / POINTS
    if points.is_file():
        for source in [*(place / "projector").glob("*"), points]:
            copy = here / source.relative_to(place)
            if not copy.exists() or copy.stat().st_mtime < source.stat().st_mtime:
                copy.parent.mkdir(exist_ok=True)
                shutil.copy2(source, copy)
