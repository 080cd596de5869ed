"""Short names of runs for boards: what a run is comes first, then what tells it from others."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_RUN = re.compile(r"\d{4}-(\d\d-\d\d)_(\d\d)-(\d\d)-\d\d_(.+)_([0-9a-f]{4})")  # as RunFolder.claim names it
_JOB = re.compile(r"(\d+)(?:_(.*))?")


def name_of(place: Path, config: Mapping[str, Any] | None, top: Path) -> str:
    """The name of a row: of a run "METHOD TASK SETTINGS ..." and what tells it from others.

    Args:
        place: the folder of the event files, resolved.
        config: the settings of the run, None if it is no run.
        top: the folder that is shown.
    """
    if config is None:
        run = _RUN.fullmatch(place.name)
        if run and run[4] == "sweep":
            return f"sweep {run[5]}"
        return _safe(str(place.relative_to(top)) if place != top and place.is_relative_to(top) else place.name)
    choices = config.get("choices") or {}
    parts = [str(choices.get("algo")), str(choices.get("task"))]
    if place.parent.name == "evaluations":
        parts += [f"evaluation {place.name} of {_ending(place.parent.parent)}"]
        return _safe(" ".join(parts))
    sweep, job, run = _RUN.fullmatch(place.parent.name), _JOB.fullmatch(place.name), _RUN.fullmatch(place.name)
    if sweep and sweep[4] == "sweep" and job:
        words = [word for word in (job[2] or "").split(",") if not re.match(r"(algo|task)=", word)]
        parts += [*words, f"{sweep[5]}.{job[1]}"]
    elif run:
        label = run[4] if config.get("name") else ""
        parts += [*([label] if label else []), run[1], f"{run[2]}:{run[3]}", run[5]]
    else:
        parts.append(place.name)
    return _safe(" ".join(parts))


def table_name(folder: Path, settings: Mapping[str, Any]) -> str:
    """The name of a run's row in a table that cuts names after some 15 letters: the method and the ending of the
    folder, then what tells it from runs with the same ending.

    Args:
        folder: of the run.
        settings: flat; `choices.algo` and `choices.task` are read.

    Returns:
        "" for a folder that the program did not name: rows of one name become one.
    """
    sweep, run = _RUN.fullmatch(folder.parent.name), _RUN.fullmatch(folder.name)
    job = _JOB.fullmatch(folder.name) if sweep and sweep[4] == "sweep" else None
    algo, task = settings.get("choices.algo"), settings.get("choices.task")
    if not (run or job) or algo is None:
        return ""
    if sweep and job:
        words = [word for word in (job[2] or "").split(",") if not word.startswith("algo=")]
        parts = [algo, f"{sweep[5]}.{job[1]}", *words, sweep[1], f"{sweep[2]}:{sweep[3]}", task]
    else:
        assert run is not None
        parts = [algo, run[5], run[1], f"{run[2]}:{run[3]}", run[4]]
    return _safe(" ".join(map(str, parts)))


def _ending(run: Path) -> str:
    found = _RUN.fullmatch(run.name)
    return found[5] if found else run.name


def _safe(name: str) -> str:
    return re.sub(r"[\\/\x00-\x1f]+", " ", name)[:120] or "run"
