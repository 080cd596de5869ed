"""A table whose tasks are the values of one column, and the readers of the tables that are compared."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from metaexp.errors import DataError

SPLITS = ("train", "val", "test")


class Table(NamedTuple):
    """Rows of tasks.

    Attributes:
        frame: the rows, with the columns `by`, `target`, `order` (if any) and `features`.
        by: the column whose values are the tasks; `target` is what is predicted.
        folds: for each fold, split -> its tasks; one fold where the split is fixed.
        own: columns of one task that no other task knows (a time, a name), kept for the page.
        classes: the two labels, the positive one last; empty for regression.
    """

    frame: pd.DataFrame
    by: str
    target: str
    features: list[str]
    folds: list[dict[str, list[str]]]
    source: str
    order: str | None = None
    classes: tuple[str, ...] = ()


class Pool(NamedTuple):
    """Numbers of some tasks: x float64 [n, d] standardised, y float64 [n], task int [n]."""

    x: np.ndarray
    y: np.ndarray
    task: np.ndarray


class Numbers(NamedTuple):
    """A table as numbers for one fold: rows as in the frame; scaled by the training tasks' mean and deviation.

    Attributes:
        x: float64 [rows, d]; words become one column per value that occurs in training.
        y: float64 [rows]; of two classes 0 or 1.
        rows: task -> its rows, in order of `Table.order` if there is one.
        split: split -> tasks.
    """

    x: np.ndarray
    y: np.ndarray
    rows: dict[str, np.ndarray]
    split: dict[str, list[str]]

    def pool(self, split: str = "train") -> Pool:
        """All rows of a split's tasks."""
        parts = [self.rows[task] for task in self.split[split]]
        rows = np.concatenate(parts)
        return Pool(self.x[rows], self.y[rows], np.repeat(np.arange(len(parts)), [len(part) for part in parts]))


def numbers(table: Table, fold: int = 0) -> Numbers:
    """The table as numbers, with the statistics of the fold's training tasks."""
    frame, split = table.frame, table.folds[fold]
    names = frame[table.by].astype(str).to_numpy()
    training = np.isin(names, split["train"])
    columns = []
    for name in table.features:
        column = frame[name]
        if column.dtype == object or str(column.dtype) in ("str", "string", "category"):
            words = sorted(set(column[training].astype(str)))
            columns += [(column.astype(str) == word).to_numpy(dtype=float) for word in words[1:]]
        else:
            columns.append(column.to_numpy(dtype=float))
    x = np.stack(columns, 1)
    x = np.where(np.isnan(x), np.nanmean(x[training], 0), x)
    mean, std = x[training].mean(0), x[training].std(0)
    x = (x - mean) / np.where(std > 0, std, 1.0)
    target = frame[table.target]
    y = (target.astype(str) == table.classes[1]).to_numpy(float) if table.classes else target.to_numpy(float)
    rows = {}
    for task, part in frame.groupby(names, sort=False):
        kept = part if table.order is None else part.sort_values(table.order, kind="stable")
        rows[str(task)] = frame.index.get_indexer(kept.index)
    return Numbers(x, y, rows, split)


def npz(file: Path, source: str) -> Table:
    """A file with x, y, task, split, task_names and feature_names, as `openml_hpo` and `radon` have them."""
    if not file.exists():
        raise DataError(f"{file}: not there; --data names the folder that holds it")
    with np.load(file) as data:
        features = [str(name) for name in data["feature_names"]]
        names = np.asarray(data["task_names"]).astype(str)
        frame = pd.DataFrame(data["x"].astype(float), columns=features)
        frame["task"] = names[data["task"]]
        target = str(data["target_name"])
        frame[target] = data["y"].astype(float)
        split = {word: list(names[data["split"] == place]) for place, word in enumerate(SPLITS)}
    return Table(frame, "task", target, features, [split], source)


def openml(folder: Path, kind: str) -> Table:
    """Accuracy of random forests or AdaBoost by hyperparameters: a task is a data set."""
    source = "OpenML-100 surfaces of van Rijn and Hutter (2018), repository janvanrijn/openml-pimp (BSD-3-Clause)"
    return npz(folder / "openml_hpo" / f"{kind}.npz", source)


def radon(folder: Path) -> Table:
    """Log radon of houses: a task is a county."""
    source = "Gelman and Hill (2007), repository stan-dev/example-models, ARM/Ch.12 (new BSD for the examples)"
    return npz(folder / "radon" / "radon.npz", source)


def gapminder(folder: Path, years_alone: bool = False) -> Table:
    """Life expectancy: a task is a country, in order of the year; with `years_alone` nothing else is known."""
    source = "Gapminder (gapminder.org, CC BY 3.0), by the repository jennybc/gapminder (CC0)"
    table = npz(folder / "gapminder" / "gapminder.npz", source)
    features = ["year"] if years_alone else table.features
    kept = table.frame[["task", *features, table.target]]
    return table._replace(frame=kept, features=features, order="year" if years_alone else None)


def folded(tasks: list[str], folds: int, seed: int) -> list[dict[str, list[str]]]:
    """Folds of whole tasks: each is for testing once, the next part is for validation."""
    parts = np.array_split(np.random.default_rng(seed).permutation(sorted(tasks)), folds)
    made = []
    for i in range(folds):
        val = (i + 1) % folds
        train = [str(task) for j, part in enumerate(parts) if j not in (i, val) for task in part]
        made.append({"train": train, "val": [str(t) for t in parts[val]], "test": [str(t) for t in parts[i]]})
    return made


def hospitals(file: Path, folds: int = 5) -> Table:
    """Deaths in hospital (died 0/1): a task is a hospital; by what is known at admission.

    The length of the stay is left out: it is known only once the patient has left or died.
    """
    if not file.exists():
        raise DataError(f"{file}: not there; a CSV file with the columns provnum, died, hmo, white, age80, type")
    frame = pd.read_csv(file)
    needed = ["provnum", "died", "hmo", "white", "age80", "type"]
    if missing := [name for name in needed if name not in frame]:
        raise DataError(f"{file}: no column {missing[0]}; it must have {', '.join(needed)}")
    frame = frame[needed].copy()
    frame["type"] = frame["type"].map({1: "elective", 2: "urgent", 3: "emergency"}).fillna(frame["type"].astype(str))
    tasks = [str(task) for task in frame.provnum.unique()]
    source = "medpar of the R package COUNT 1.3.4 by Hilbe (GPL-2): Medicare patients of Arizona, 1991, DRG 112"
    return Table(
        frame, "provnum", "died", ["hmo", "white", "age80", "type"], folded(tasks, folds, 0), source, None, ("0", "1")
    )
