"""Folders of small runs for a report, and the table that it makes of them."""

import csv
import io
import shutil
from pathlib import Path

import numpy as np

from metaexp.report.command import report


def only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(f"*{pattern}*")
    return found


def copied(runs: Path, to: Path, *patterns: str) -> Path:
    for pattern in patterns:
        for folder in runs.glob(f"*{pattern}*"):
            shutil.copytree(folder, to / folder.name, ignore=shutil.ignore_patterns("checkpoints", "events*"))
    return to


def finals(runs: Path, algo: str) -> np.ndarray:
    """[seeds, tasks]: the scores after the last step, from the files."""
    return np.stack([np.load(only(runs, f"_{algo}{seed}_") / "test_scores.npz")["mse"][:, -1] for seed in range(3)])


def table(folder: Path, *typed: str) -> list[dict[str, str]]:
    file = folder.parent / f"{folder.name}.csv"
    assert report([str(folder), "--csv", str(file), *typed]) == 0
    return list(csv.DictReader(io.StringIO(file.read_text())))
