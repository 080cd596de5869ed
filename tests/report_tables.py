"""Folders of small runs for a report, and the table that it makes of them."""

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np

from metaexp.evaluation.intervals import summary
from metaexp.report.command import report

SETTINGS = "choices: {{algo: {algo}, task: sine, model: mlp}}\nseed: {seed}\nsteps: 9\n"


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


def write(folder: Path, algo: str, scores: np.ndarray, seed: int = 0, larger: bool = False, old: bool = False) -> None:
    """A finished run with these scores, [tasks, steps + 1]; an old one has no key for medians."""
    place = folder / f"{algo}{seed}"
    place.mkdir(parents=True)
    told = summary(scores, larger)
    if old:
        told = {key: told[key] for key in ("mean", "ci95", "tasks", "diverged", "larger_is_better")}
    result = {"algo": algo, "task": "sine", "model": "mlp", "seed": seed, "steps": 9, "test": {"mse": told}}
    result |= {"protocol": {"query_sha256": "00"}, "floors": {"mean": {"mse": summary(scores * 9, larger)}}}
    (place / "result.json").write_text(json.dumps(result))
    (place / "config.yaml").write_text(SETTINGS.format(algo=algo, seed=seed))
    np.savez(place / "test_scores.npz", mse=scores)
