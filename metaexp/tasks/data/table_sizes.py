"""How many rows of a task are known and how many are asked for, for tasks of any size: nothing is padded or dropped."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

Rest = Literal["rest"]
NEAR = 1.25  # training tasks of one bin differ by at most this factor in rows


class Wanted(NamedTuple):
    """The sizes that the settings ask for."""

    fewest: int  # shots
    most: int
    share: float | None  # shots as a fraction of a task's rows, instead
    queries: int | None  # None: the rest
    rolling: bool = False  # a forecast from every origin: shots rows before it, queries rows from it on

    @classmethod
    def of(cls, shots: Any, queries: int | Rest, horizon: int | None = None) -> "Wanted":
        """From a number, a fraction or a range of shots; and queries, or with forecasts the horizon.

        Raises ValueError for forecasts from anything but a number of shots.
        """
        if horizon is not None:
            if isinstance(shots, Sequence) or not float(shots).is_integer():
                raise ValueError(f"shots={shots}: with horizon, it must be a number of rows")
            return cls(int(shots), int(shots), None, horizon, rolling=True)
        rows = None if queries == "rest" else int(queries)
        if isinstance(shots, float) and not shots.is_integer():
            return cls(1, 1, shots, rows)
        low, high = shots if isinstance(shots, Sequence) else (shots, shots)
        return cls(int(low), int(high), None, rows)

    @property
    def varies(self) -> bool:
        """Whether tasks may differ in their shots."""
        return self.share is not None or self.fewest != self.most

    def enough(self, rows: int, whole: bool) -> bool:
        """Whether a task can be used; in training (not `whole`) one query is enough, but not of a forecast."""
        whole = whole or self.rolling
        return rows >= self.fewest + (max(self.queries or 1, 1) if whole else 1)

    def origins(self, rows: int) -> int:
        """From how many places in a task with so many rows there is a forecast."""
        return rows - self.most - (self.queries or 1) + 1 if self.rolling else 1

    def limit(self, rows: int, whole: bool = True) -> int:
        """The most shots of a task with so many rows; of a range not more than half of a task that is too small."""
        if self.share is not None:
            return min(max(round(self.share * rows), 1), rows - 1)
        if self.fewest == self.most:
            return min(self.most, rows - 1)
        free = rows - self.queries if self.queries is not None else rows // 2
        return min(self.most, max(self.fewest, free if whole else max(free, rows // 2)))


class Unit(NamedTuple):
    """One task at test."""

    task: int
    rows: int
    shots: int
    limit: int  # the most shots; if all the rest is asked for, the queries begin here
    queries: int


def test_units(
    members: Sequence[int], counts: Sequence[int], wanted: Wanted, turn: Callable[[int], float]
) -> list[Unit]:
    """The tasks of a split that are large enough, whole, in the order of `members`.

    Args:
        turn: task -> a number in [0, 1), from which the shots of a task are drawn if they vary.
    """
    units = []
    for task in members:
        rows = counts[task]
        if wanted.enough(rows, whole=True):
            limit = wanted.limit(rows)
            low = limit if wanted.share is not None else wanted.fewest
            shots = low + int(turn(task) * (limit - low + 1))
            units.append(Unit(task, rows, shots, limit, rows - limit if wanted.queries is None else wanted.queries))
    return units


def alike(units: Sequence[Unit], sizes: Sequence[tuple[int, int]], wanted: Wanted) -> list[list[int]]:
    """The first len(sizes) units in runs of one size, in the order of their first one; with every origin of forecasts.

    A unit is named by its place, its origin number k by place + k * len(units).
    """
    found: dict[tuple[int, int], list[int]] = {}
    for place, size in enumerate(sizes):
        found.setdefault(size, []).append(place)
    made = []
    for places in found.values():
        most = max(wanted.origins(units[place].rows) for place in places)
        for turn in range(most):
            able = (place for place in places if turn < wanted.origins(units[place].rows))
            made.append([place + turn * len(units) for place in able])
    return made


class Bin(NamedTuple):
    """Training tasks of like size."""

    members: Tensor  # int64 [tasks]
    fewest: int  # rows
    most: int


def train_bins(members: Sequence[int], counts: Sequence[int], wanted: Wanted) -> list[Bin]:
    """The training tasks that are large enough, by size: those with more rows than an episode takes are alike."""
    full = None if wanted.share is not None or wanted.queries is None else wanted.most + wanted.queries
    able = sorted((counts[task] if full is None else min(counts[task], full), task) for task in members)
    able = [(size, task) for size, task in able if wanted.enough(size, whole=False)]
    cut: list[list[tuple[int, int]]] = []
    for size, task in able:
        if cut and size <= NEAR * cut[-1][0][0]:
            cut[-1].append((size, task))
        else:
            cut.append([(size, task)])
    return [_bin([task for _, task in one], counts, one[0][0]) for one in cut]


def _bin(tasks: list[int], counts: Sequence[int], fewest: int) -> Bin:
    return Bin(torch.tensor(sorted(tasks)), fewest, max(counts[task] for task in tasks))


def train_sizes(chosen: Bin, wanted: Wanted, turn: float) -> tuple[int, int]:
    """(shots, queries) of a meta-batch from a bin; `turn` in [0, 1) draws the shots if they vary."""
    limit = wanted.limit(chosen.fewest, whole=False)
    low = limit if wanted.share is not None else min(wanted.fewest, limit)
    shots = low + int(turn * (limit - low + 1))
    rest = chosen.fewest - (limit if wanted.queries is None else shots)
    return shots, rest if wanted.queries is None else min(wanted.queries, rest)
