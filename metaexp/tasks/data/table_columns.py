"""Values of a column as numbers, categories or days: what a cell of a table, or of a frame, means."""

import math
import re
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, date, datetime
from typing import Any, Literal, NamedTuple

import numpy as np

from metaexp.errors import DataError

Kind = Literal["number", "category", "date"]
MISSING = frozenset(("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None"))  # further words: `task.missing`
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_COMMA = re.compile(r"[+-]?\d+,\d+")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Odd(NamedTuple):
    """The first cell that is not like the others of its column."""

    row: int
    value: Any
    reason: str


def is_missing(value: Any, words: Collection[str] = MISSING) -> bool:
    """None, NaN, NaT, or one of the words for a missing value."""
    if isinstance(value, str):
        return value.strip() in words
    return value is None or (isinstance(value, float | np.floating) and math.isnan(value)) or str(value) in _NOTHING


_NOTHING = ("NaT", "<NA>")


def number_of(value: Any) -> float | None:
    """A cell as a number (NaN is none); None: it is no number."""
    if isinstance(value, bool | np.bool_):
        return None
    try:
        return float(value.replace("_", "x") if isinstance(value, str) else value)  # Python reads 1_000
    except (TypeError, ValueError):
        return None


def day_of(value: Any) -> float | None:
    """A cell as days since 1970, times without a zone taken as UTC; None: it is no date in the ISO form."""
    if isinstance(value, str):
        if not _DAY.match(value.strip()):
            return None
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            return None
    if isinstance(value, np.datetime64):
        return float(value.astype("datetime64[ms]").astype(np.int64)) / 86_400_000
    if isinstance(value, datetime):
        value = value if value.tzinfo else value.replace(tzinfo=UTC)
        return float((value - _EPOCH).total_seconds()) / 86_400
    return float((value - _EPOCH.date()).days) if isinstance(value, date) else None


def word_of(value: Any) -> str:
    """A cell as the name of a category: the text without surrounding blanks; of a whole number its digits."""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value).strip()


def _all_numbers(values: Sequence[Any]) -> np.ndarray | None:
    """The fast way: all cells as float64, if all of them are finite numbers; otherwise None."""
    try:
        cells = np.asarray(values, dtype=str if len(values) and isinstance(values[0], str) else None)
        made = cells.astype(np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    return made if cells.dtype.kind in "Uiuf" and bool(np.isfinite(made).all()) else None


def read_column(
    values: Sequence[Any], to: Callable[[Any], float | None], words: Collection[str]
) -> tuple[np.ndarray, Odd | None]:
    """Cells as float64 [rows], NaN where missing; and the first one that `to` cannot read, or that is infinite."""
    if to is number_of and (known := _all_numbers(values)) is not None:
        return known, None
    made, odd = np.full(len(values), np.nan), None
    for row, value in enumerate(values):
        if is_missing(value, words):
            continue
        found = to(value)
        if found is None or not math.isfinite(found):
            odd = odd or Odd(row, value, "no number" if found is None else "not finite")
            continue
        made[row] = found
    return made, odd


def kind_of(name: str, values: Sequence[Any], words: frozenset[str], where: Callable[[int], str]) -> Kind | None:
    """What a column holds; None: nothing but missing values.

    Numbers, if all cells are; dates, if all are; categories otherwise. A column of numbers with a few other words is a
    mistake: raises DataError with the first of them, as for an infinite number. `where` names a row.
    """
    if not words - MISSING and _all_numbers(values) is not None:
        return "number"
    there = [(row, value) for row, value in enumerate(values) if not is_missing(value, words)]
    if not there:
        return None
    numbers = [number_of(value) for _, value in there]
    others = [(row, value) for (row, value), number in zip(there, numbers, strict=True) if number is None]
    if not others:
        for (row, value), number in zip(there, numbers, strict=True):
            if number is None or not math.isfinite(number):
                raise DataError(f"{where(row)}: column {name} holds {value!r}; give a finite number or leave it empty")
        return "number"
    if all(day_of(value) is not None for _, value in there):
        return "date"
    if 2 * len(others) <= len(there):
        row, value = others[0]
        fix = "write it with a decimal point" if _COMMA.fullmatch(str(value).strip()) else "correct it"
        raise DataError(
            f"{where(row)}: column {name} holds {str(value)[:40]!r}, and {len(there) - len(others)} of "
            f"{len(there)} cells are numbers; {fix}, or declare task.categorical=[{name}] or task.missing=[...]"
        )
    return "category"
