"""How the jobs of a sweep ended: a table with one row per job, and the sweep's exit code."""

import json
import re
from collections.abc import Collection, Sequence
from pathlib import Path

from metaexp.storage.lock import read_status, state_of


def summarise(folder: Path, names: Sequence[str], stopped: int = 0, linked: Collection[str] = ()) -> int:
    """Prints one row per job; returns the sweep's exit code.

    Args:
        folder: the sweep's folder.
        names: names of its jobs; empty if they are known only from their folders.
        linked: those that have finished before.
        stopped: 130 or 143 if a signal has ended the sweep.

    Returns:
        0 if all jobs finished, `stopped` if a signal ended the sweep, else 1.
    """
    found = sorted((path.parent.name for path in folder.glob("*/status.json")), key=_number)
    rows, codes = [("run", "state", "code", "test")], []
    for name in names or found:
        status = read_status(folder / name)
        state = state_of(folder / name) if status else "not started"
        code = 0 if state == "finished" else int(status.get("exit_code") or 1)
        codes.append(code)
        told = _metric(folder / name) or str(status.get("error", ""))
        before = "  (finished before)" if name in linked else ""
        rows.append((name, state, str(code) if status else "-", told + before))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]).rstrip())
    return stopped or int(any(codes) or not codes)


def _number(name: str) -> tuple[int, str]:
    number = re.match(r"\d+", name)
    return (int(number[0]) if number else 0, name)


def _metric(folder: Path) -> str:
    try:
        test = json.loads((folder / "result.json").read_text())["test"]
        name, value = next(iter(test.items()))
        return f"{name} {value['mean']:.4g} +- {value['ci95']:.2g}"
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        return ""
