"""Rows of a table -> the numbers that a learner sees, from fitted numbers and categories alone: no foreign code, no
pickle, and neither pandas nor scikit-learn at this point.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metaexp.checks import nearest
from metaexp.tasks.data.table_columns import MISSING, day_of, is_missing, number_of, read_column, word_of
from metaexp.tasks.data.tables import column_names

YEAR = 365.2425  # days
Spec = dict[str, Any]  # what was fitted to one column: JSON data, see `table_fit`


class TableInputs:
    """Rows of a table, matched by the names of the columns, as numbers: [n, d].

    A number is standardised, after its logarithm where `log` says so; a missing one is the median of training, with 1
    in a further place if any was missing in training. A date is a number of days and its place in the year (sine and
    cosine). A category is one of several places; an unknown one is the place of the rare ones, or nowhere. A column
    that was the same in all rows of training is 0: nothing could be learned of it.

    Args:
        columns: what was fitted to each column, in the order of the inputs.
        target: the column to predict with `kind`, and `classes` or `mean` and `std`.
        missing: words that mean a missing value.
        others: further columns that a table may have, which are not read.
    """

    def __init__(
        self,
        columns: Sequence[Mapping[str, Any]],
        target: Mapping[str, Any],
        missing: Sequence[str] = tuple(MISSING),
        others: Sequence[str] = (),
    ):
        self.columns, self.target = [dict(column) for column in columns], dict(target)
        self.missing, self.others = frozenset(missing), list(others)
        self.names: list[str] | None = [str(column["name"]) for column in self.columns]
        self.classes: list[Any] | None = list(target["classes"]) if target.get("classes") is not None else None
        self.features = [feature for column in self.columns for feature in features_of(column)]
        self.x_shape = (len(self.features),)
        self.constant = [str(column["name"]) for column in self.columns if column.get("constant")]

    def __call__(self, raw: Any) -> Tensor:
        """A frame (pandas, polars, Arrow), a list of dicts or a dict of columns -> float64 [n, d].

        Raises ValueError for a column that is missing or unknown, or a cell of the wrong kind; one line.
        """
        table = columns_of(raw)
        known = {*(self.names or ()), *self.others, str(self.target["name"])}
        for name in self.names or ():
            if name not in table:
                raise ValueError(f"x: has no column {name}{nearest(name, table)}; this run reads {self._listed()}")
        for name in table:
            if name not in known:
                raise ValueError(f"x: column {name} is unknown{nearest(name, known)}; this run reads {self._listed()}")
        parts = [encoded(column, table[str(column["name"])], self.missing) for column in self.columns]
        rows = len(next(iter(table.values()), ()))
        return torch.from_numpy(np.concatenate([np.zeros((rows, 0)), *parts], axis=1))

    def targets(self, raw: Any) -> Tensor:
        """The column of targets: one-hot [n, classes], or standardised [n, 1].

        Raises ValueError if it is missing, or holds a missing value or an unknown class.
        """
        name, table = str(self.target["name"]), columns_of(raw)
        if name not in table:
            raise ValueError(f"x: has no column {name}, the target{nearest(name, table)}; add it to the known rows")
        return torch.from_numpy(self.read_targets(table[name], "x"))

    def read_targets(self, values: Sequence[Any], what: str) -> np.ndarray:
        """Values of the target, float64 [n, y_dim]; `what` begins the message of a ValueError."""
        name = self.target["name"]
        for row, value in enumerate(values):
            if is_missing(value, self.missing):
                raise ValueError(f"{what}: row {row} has no {name}; rows to learn from need one")
        if self.classes is None:
            made, odd = read_column(values, number_of, self.missing)
            if odd is not None:
                raise ValueError(f"{what}: row {odd.row} has {odd.value!r} as {name}; it must be a finite number")
            return (made[:, None] - float(self.target["mean"])) / float(self.target["std"])
        places = {word_of(label): place for place, label in enumerate(self.classes)}
        words = [word_of(value) for value in values]
        unknown = next((row for row, word in enumerate(words) if word not in places), None)
        if unknown is not None:
            raise ValueError(f"{what}: row {unknown} has {words[unknown]!r} as {name}, known: {', '.join(places)}")
        return np.eye(len(places))[[places[word] for word in words]].reshape(-1, len(places))

    def time(self, name: str | None) -> tuple[int | None, tuple[str, float, float]]:
        """Which of the numbers is the column `name` itself, up to origin and scale (None: none is); name, mean, std."""
        column = next((one for one in self.columns if one["name"] == name and one["kind"] != "category"), None)
        if column is None or column["log"]:
            return None, ("", 0.0, 1.0)
        return self.features.index(str(name)), (str(name), float(column["mean"]), float(column["std"]))

    def settings(self) -> dict[str, Any]:
        """What makes it again, as JSON data."""
        kind = type(self)
        return {
            "_target_": f"{kind.__module__}.{kind.__qualname__}",
            "columns": self.columns,
            "target": self.target,
            "missing": sorted(self.missing),
            "others": self.others,
        }

    def _listed(self) -> str:
        names = self.names or []
        return ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")


def features_of(column: Mapping[str, Any]) -> list[str]:
    """Names of the numbers that a column becomes."""
    name, kind = column["name"], column["kind"]
    extra = [f"{name} missing"] if column["missing"] else []
    if kind == "category":
        places = [f"{name}={category}" for category in column["categories"]]
        return places + ([f"{name}=other"] if column["rest"] else []) + extra
    return [name, *([f"{name} sine of the year", f"{name} cosine of the year"] if kind == "date" else []), *extra]


def encoded(column: Mapping[str, Any], values: Sequence[Any], words: frozenset[str]) -> np.ndarray:
    """The cells of one column as numbers [rows, features]; 0 in one that was constant in training.

    Raises ValueError for a cell of the wrong kind.
    """
    if column["kind"] == "category":
        return _places(column, values, words) * (not column.get("constant"))
    to, noun = (day_of, "a date") if column["kind"] == "date" else (number_of, "a finite number")
    numbers, odd = read_column(values, to, words)
    if odd is not None:
        raise ValueError(f"x: row {odd.row} has {odd.value!r} as {column['name']}; it must be {noun}")
    if column["log"] and (low := np.flatnonzero(numbers <= 0)).size:
        raise ValueError(
            f"x: row {low[0]} has {numbers[low[0]]:g} as {column['name']}; its logarithm needs more than 0"
        )
    return scaled(column, numbers) * (not column.get("constant"))


def scaled(column: Mapping[str, Any], numbers: np.ndarray) -> np.ndarray:
    """Numbers or days [rows], NaN where missing -> [rows, features]."""
    gone = np.isnan(numbers)
    values = np.where(gone, column["median"], np.log(numbers) if column["log"] else numbers)
    made = [(values - column["mean"]) / column["std"]]
    if column["kind"] == "date":
        made += [np.sin(2 * np.pi * values / YEAR), np.cos(2 * np.pi * values / YEAR)]
    return np.stack(made + ([gone.astype(np.float64)] if column["missing"] else []), axis=1)


def _places(column: Mapping[str, Any], values: Sequence[Any], words: frozenset[str]) -> np.ndarray:
    known = {category: place for place, category in enumerate(column["categories"])}
    rest, width = len(known), len(known) + column["rest"]
    made = np.zeros((len(values), width + column["missing"]))
    for row, value in enumerate(values):
        if is_missing(value, words):
            if column["missing"]:
                made[row, width] = 1.0
        elif (place := known.get(word_of(value), rest)) < width:
            made[row, place] = 1.0
    return made


def columns_of(raw: Any) -> dict[str, list[Any]]:
    """A frame, a list of dicts or a dict of columns as lists by name. Raises ValueError for anything else."""
    if isinstance(raw, Mapping):
        table = {str(name): list(values) for name, values in raw.items()}
        if len({len(values) for values in table.values()}) > 1:
            raise ValueError("x: its columns differ in length")
        return table
    if (names := column_names(raw)) is not None:
        if double := next((name for name in names if list(names).count(name) > 1), None):
            raise ValueError(f"x: two columns are named {double}; rename one")
        return {str(name): _listed(raw[name]) for name in names}
    if isinstance(raw, Sequence) and not isinstance(raw, str) and all(isinstance(row, Mapping) for row in raw):
        found = list(dict.fromkeys(str(name) for row in raw for name in row))
        return {name: [row.get(name) for row in raw] for name in found}
    raise ValueError("x: columns are matched by name; give a frame (pandas, polars, Arrow) or a list of dicts")


def _listed(column: Any) -> list[Any]:
    for method in ("tolist", "to_list", "to_pylist"):
        if hasattr(column, method):
            found: list[Any] = getattr(column, method)()
            return found
    return list(column)
