"""The rows of a table as tasks: which rows belong together, in which order, and in which split."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from metaexp.checks import nearest
from metaexp.errors import DataError
from metaexp.random import SPLITS
from metaexp.tasks.data.class_lists import OTHER_NAMES, read_lists
from metaexp.tasks.data.splits import by_fractions
from metaexp.tasks.data.table import Frame
from metaexp.tasks.data.table_columns import day_of, is_missing, kind_of, number_of, read_column, word_of

Splits = dict[str, list[int]]


class Division(NamedTuple):
    """What the settings say of the division of tasks."""

    fractions: Sequence[float]
    column: str | None = None  # with train, val, test in every row
    lists: Mapping[str, Sequence[Any] | None] | None = None
    file: str | None = None
    fold: str | None = None


def group(frame: Frame, by: str, order: str | None, words: frozenset[str]) -> tuple[list[str], list[np.ndarray]]:
    """Names of the tasks, sorted (numbers by value), and the rows of each.

    Raises DataError for a row without a task or a place in the order, or a table with one task.
    """
    values = frame.column(by, "by")
    found: dict[str, list[int]] = {}
    for row, value in enumerate(values):
        if is_missing(value, words):
            raise DataError(f"{frame.path}: {frame.where(row)} has no {by}; complete the row or remove it")
        found.setdefault(word_of(value), []).append(row)
    if len(found) < 2:
        raise DataError(
            f"{frame.path}: column {by} is {next(iter(found))!r} in every row: one task; task.by= names a column of "
            "users, machines, schools"
        )
    numeric = all(number_of(name) is not None for name in found)
    names = sorted(found, key=(lambda name: (float(name), name)) if numeric else None)
    rows = [np.array(found[name]) for name in names]
    return names, rows if order is None else _ordered(frame, order, rows, words)


def _ordered(frame: Frame, order: str, rows: list[np.ndarray], words: frozenset[str]) -> list[np.ndarray]:
    def where(row: int) -> str:
        return f"{frame.path}: {frame.where(row)}"

    values = frame.column(order, "order")
    kind = kind_of(order, values, words, where)
    if kind not in ("number", "date"):
        raise DataError(f"{frame.path}: column {order} holds no numbers or dates, task.order needs one of them")
    place, _ = read_column(values, number_of if kind == "number" else day_of, words)
    if (gone := np.flatnonzero(np.isnan(place))).size:
        raise DataError(f"{where(int(gone[0]))} has no {order}; complete the row or remove it")
    return [one[np.argsort(place[one], kind="stable")] for one in rows]


def divide(frame: Frame, names: Sequence[str], rows: Sequence[np.ndarray], how: Division, seed: int) -> Splits:
    """Task numbers of "train", "val", "test": by a column, a file, lists, or fractions drawn with `seed`.

    Raises:
        DataError: a task in two splits, or a word in the column that is no split.
        ValueError: wrong fractions, a task that is listed twice or is not there, or two divisions at once.
    """
    parts = by_fractions(len(names), how.fractions, seed)  # checks the setting in any case
    listed = {split: list(members) for split, members in (how.lists or {}).items() if members is not None}
    if listed and how.file:
        raise ValueError(f"class_file={how.file}: tasks are listed too; leave one of them out")
    if how.fold is not None and how.file is None:
        raise ValueError(f"fold={how.fold}: a fold is one of the splits in class_file; name that file too")
    if how.file is not None:
        listed = dict(read_lists(how.file, how.fold))
    if listed:
        parts = _by_name(names, listed)
    elif how.column is not None and how.column in frame.columns:
        parts = _by_column(frame, how.column, names, rows)
    if parts["test"] and not parts["train"] and not parts["val"] and list(how.fractions) == [0, 0, 1]:
        return parts | {"val": parts["test"]}  # all are for the test of a run that was trained elsewhere
    if not parts["train"]:
        raise ValueError(f"split: none of the {len(names)} tasks is for training")
    if not parts["val"] and not parts["test"]:
        raise ValueError(f"split: none of the {len(names)} tasks is left to test on")
    for split, other in (("val", "test"), ("test", "val")):
        parts[split] = parts[split] or parts[other]
    return parts


def _by_name(names: Sequence[str], listed: Mapping[str, Sequence[Any]]) -> Splits:
    place, seen = {name: i for i, name in enumerate(names)}, dict[str, str]()
    for split in SPLITS:
        for task in map(word_of, listed.get(split, ())):
            if task not in place:
                raise ValueError(f"tasks.{split}: {task!r} is no task of the table{nearest(task, names)}")
            if task in seen:
                raise ValueError(f"tasks.{split}: {task!r} is already in {seen[task]}; splits must be disjoint")
            seen[task] = split
    return {split: sorted(place[task] for task, where in seen.items() if where == split) for split in SPLITS}


def _by_column(frame: Frame, column: str, names: Sequence[str], rows: Sequence[np.ndarray]) -> Splits:
    parts: Splits = {split: [] for split in SPLITS}
    values = [OTHER_NAMES.get(word_of(value).lower(), word_of(value).lower()) for value in frame.columns[column]]
    for task, members in enumerate(rows):
        first = values[members[0]]
        if first not in parts:
            where = frame.where(int(members[0]))
            raise DataError(f"{frame.path}: {where}: column {column} holds {first!r}; it must be train, val or test")
        if (other := next((row for row in members if values[row] != first), None)) is not None:
            raise DataError(
                f"{frame.path}: {frame.where(int(other))}: {names[task]} is in {values[other]!r} and in {first!r}; all "
                "rows of a task belong to one split"
            )
        parts[first].append(task)
    return parts
