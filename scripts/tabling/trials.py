"""How tables are tested: which rows of a task are its support set and which are its queries."""

import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tabling.table import Numbers


class Trial(NamedTuple):
    """One test of one task: rows of the table."""

    task: str
    support: np.ndarray
    query: np.ndarray


Cells = dict[str, list[Trial]]  # "5 shots" -> its trials; every cell has the same tasks and queries where it can


def generator(*words: object) -> np.random.Generator:
    """The random numbers that belong to some words."""
    return np.random.default_rng(zlib.crc32("/".join(map(str, words)).encode()))


def random_shots(numbers: Numbers, split: str, shots: Sequence[int], repeats: int, queries: int | None = None) -> Cells:
    """`repeats` random orders of each task's rows: the first K are the support, those after the largest K the queries.

    Supports are nested, and a repeat has the same queries at every K. Tasks with no row left for a query are left out.
    """
    most, cells = max(shots), {}
    for k in shots:
        cells[f"{k} shots"] = trials = []
        for task in numbers.split[split]:
            for repeat in range(repeats if len(numbers.rows[task]) > most else 0):
                order = generator(task, repeat).permutation(numbers.rows[task])
                last = None if queries is None else most + queries
                trials.append(Trial(task, order[:k], order[most:last]))
    return cells


def stratified(numbers: Numbers, split: str, shots: Sequence[int], repeats: int) -> Cells:
    """As `random_shots` for two classes, where support and queries hold both: the first two rows of each order are one
    of each class, and tasks whose remaining rows may lack a class are left out (so AUC is defined in each)."""
    most, cells = max(shots), {}
    for k in shots:
        cells[f"{k} shots"] = trials = []
        for task in numbers.split[split]:
            rows = numbers.rows[task]
            for repeat in range(repeats):
                order = generator(task, repeat).permutation(rows)
                first = [order[numbers.y[order] == label][:1] for label in (0.0, 1.0)]
                pair = np.concatenate(first)
                order = np.concatenate([pair, order[~np.isin(order, pair)]])
                query = order[most:]
                if len(pair) == 2 and len(set(numbers.y[query])) == 2:
                    trials.append(Trial(task, order[:k], query))
    return cells


def whole_tasks(numbers: Numbers, split: str, least: int, each: int) -> list[str]:
    """Tasks that every cell can test: at least `least` rows of each class besides `each` rows."""
    kept = []
    for task in numbers.split[split]:
        y = numbers.y[numbers.rows[task]]
        if min((y == 0).sum(), (y == 1).sum()) >= least and len(y) >= each:
            kept.append(task)
    return kept


def rolling(numbers: Numbers, split: str, origins: Sequence[int], horizon: int) -> Cells:
    """The first k rows are known and the next `horizon` are predicted, for each k of `origins`."""
    trials = []
    for task in numbers.split[split]:
        rows = numbers.rows[task]
        trials += [Trial(task, rows[:k], rows[k : k + horizon]) for k in origins if k + horizon <= len(rows)]
    return {f"{horizon} steps ahead": trials}


def cold_start(numbers: Numbers, split: str, shots: Sequence[int], queries: int = 10, least: int = 30) -> Cells:
    """The last `queries` rows are predicted from the first K, of tasks with at least `least` rows at every K."""
    tasks = [task for task in numbers.split[split] if len(numbers.rows[task]) >= least]
    if max(shots) + queries > least:
        raise ValueError(f"shots up to {max(shots)} and {queries} queries need least={max(shots) + queries}")
    rows = numbers.rows
    return {f"{k} shots": [Trial(task, rows[task][:k], rows[task][-queries:]) for task in tasks] for k in shots}
