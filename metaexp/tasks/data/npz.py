"""Reading npz files into tasks."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from metaexp.errors import DataError
from metaexp.random import SPLITS
from metaexp.tasks.data.items import reason
from metaexp.tasks.data.splits import by_fractions


class Task(NamedTuple):
    """The rows of one task."""

    name: str  # for messages
    file: str
    value: object  # of the task column; None without one
    x: np.ndarray  # float [n, *x_shape]
    y: np.ndarray  # float [n, y_dim]
    split: str | None  # None: by fractions


class _Table(NamedTuple):
    x: np.ndarray
    y: np.ndarray
    task: np.ndarray | None
    split: np.ndarray | None  # of str: train, val, test


def read_tasks(files: Sequence[str], fractions: Sequence[float], seed: int) -> list[Task]:
    """All tasks of the files, each with its split.

    The tasks of a file with a task column but no split column are divided by `fractions`, shuffled with `seed`. With
    the fractions [0, 0, 1] a file without either is for the test, the first one too.

    Raises DataError for a missing, damaged or inconsistent file.
    """
    tasks: list[Task] = []
    paths = [Path(file).expanduser().resolve() for file in files]
    for file, path in zip(files, paths, strict=True):
        if paths.count(path) > 1:
            raise DataError(f"{file}: is in task.files twice, and would be both training and test data")
    for i, file in enumerate(files):
        whole = "train" if i == 0 and list(fractions) != [0, 0, 1] else "test"
        tasks.extend(_cut(file, _table(Path(file).expanduser()), whole))
    first: dict[str, Task] = {}  # task 7 in one file is the same task as "7" in another
    for task in tasks:
        for what in ("x", "y"):
            own, base = getattr(task, what).shape[1:], getattr(tasks[0], what).shape[1:]
            if own != base:
                raise DataError(
                    f"{task.file}: a row of {what} is {list(own)}, in {tasks[0].file} {list(base)}; make them equal"
                )
        other = task if task.value is None else first.setdefault(str(task.value), task)
        if other is not task:
            raise DataError(f"{task.file}: task {task.value} is also in {other.file}; give every task its own name")
    free = [i for i, task in enumerate(tasks) if task.split is None]
    for split, members in by_fractions(len(free), fractions, seed).items():
        for i in members:
            tasks[free[i]] = tasks[free[i]]._replace(split=split)
    return tasks


def _cut(file: str, table: _Table, whole: str) -> list[Task]:
    """The tasks of one file; `whole` is the split of a file without task and split columns."""
    x, y, task, split = table
    column = split if task is None else task
    if column is None:
        return [Task(file, file, None, x, y, whole)]
    values, number = np.unique(column, return_inverse=True)
    order = np.argsort(number, kind="stable")
    groups = np.split(order, np.cumsum(np.bincount(number))[:-1])
    result = []
    for value, rows in zip(values.tolist(), groups, strict=True):
        parts = sorted(set(split[rows].tolist())) if split is not None else [None]
        if len(parts) > 1:
            raise DataError(f"{file}: task {value} is in {len(parts)} splits ({', '.join(map(str, parts))}), not one")
        name = f"{file} ({value})" if task is None else f"task {value} of {file}"
        result.append(Task(name, file, None if task is None else value, x[rows], y[rows], parts[0]))
    return result


def _table(path: Path) -> _Table:
    """The checked columns of one npz."""
    if not path.exists():
        raise DataError(f"{path}: no such file; task.files names npz files with x, y and optionally task, split")
    columns: dict[str, np.ndarray] = {}
    member = ""
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            raise DataError(f"{path}: not an npz but a single array; save with numpy.savez(path, x=x, y=y)")
        with found as file:
            there = ", ".join(file.files)
            for name in ("x", "y", "task", "split"):
                if name in file.files:
                    member = f"its {name} is "
                    columns[name] = np.asarray(file[name])
    except DataError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy raise a dozen kinds on damaged bytes
        raise DataError(f"{path}: {member}damaged or not an npz of plain arrays ({reason(error)})") from error
    for name in ("x", "y"):
        if name not in columns:
            raise DataError(f"{path}: has no {name}, only {there or 'nothing'}; save with numpy.savez(path, x=x, y=y)")
    n = len(columns["x"]) if columns["x"].ndim else 0
    if n == 0:
        raise DataError(f"{path}: x has no rows")
    for name, column in columns.items():
        if column.ndim == 0 or len(column) != n or (column.ndim > 1 and name in ("task", "split")):
            raise DataError(f"{path}: {name} is {list(column.shape)}, x {list(columns['x'].shape)}; rows must agree")
    x, y = (_numbers(path, name, columns[name]) for name in ("x", "y"))
    if y.ndim != 2:
        raise DataError(f"{path}: y is {list(y.shape)}; it must be [n] or [n, y_dim]")
    return _Table(x, y, columns.get("task"), _splits(path, columns.get("split")))


def _numbers(path: Path, name: str, column: np.ndarray) -> np.ndarray:
    """The column as finite floats (double if it holds doubles or 64-bit integers), at least two-dimensional."""
    if column.dtype.kind not in "fiub":
        raise DataError(f"{path}: {name} holds {column.dtype}; it must hold numbers")
    column = column.astype(np.float64 if column.dtype.itemsize == 8 else np.float32)
    if bad := int(column.size - np.isfinite(column).sum()):
        raise DataError(f"{path}: {name} has {bad} values that are inf or NaN; remove those rows")
    return column[:, None] if column.ndim == 1 else column


def _splits(path: Path, column: np.ndarray | None) -> np.ndarray | None:
    """The split name of each row, from names or the numbers 0, 1, 2."""
    if column is None:
        return None
    names = {**{split: split for split in SPLITS}, **{str(number): split for split, number in SPLITS.items()}}
    texts = [str(value) for value in column.tolist()]
    if unknown := sorted(set(texts) - set(names)):
        raise DataError(f"{path}: split has the value {unknown[0]}; it must be train, val, test or 0, 1, 2")
    return np.array([names[text] for text in texts])
